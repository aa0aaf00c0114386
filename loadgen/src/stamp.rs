//! What a body carries, so that whoever gets it can tell that it is the right one, whole, and when it was sent.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | the stream's number, big endian as all |
//! | 4 | a check of the three others and of the body's length: what the filling alone would not tell |
//! | 8 | the message's number in its stream, from 0 |
//! | 8 | when it was sent, or was to be sent, in nanoseconds since the worker's start |
//! | the rest | a part of the pool, at a place that stream and number give |

/// Bytes of a stamp: the least that a body has.
pub(crate) const STAMP_BYTES: usize = 24;
/// Places in the pool where a filling can start.
const PLACES: usize = 4096;

/// A message's stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) stream: u32,
    pub(crate) number: u64,
    pub(crate) sent_ns: u64,
}

impl Stamp {
    /// Of all changes one in some thousand millions leaves it as it is.
    fn check(self, body_bytes: usize) -> u32 {
        let place = u64::from(self.stream) << 32 | body_bytes as u64;
        let number = self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (place ^ number.rotate_left(29) ^ self.sent_ns.rotate_left(7)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        (mixed ^ mixed >> 32) as u32
    }
}

/// Random bytes that bodies are filled from.
pub(crate) struct Pool {
    bytes: Vec<u8>,
}

impl Pool {
    /// A pool for bodies of up to `body_bytes_max`.
    pub(crate) fn new(body_bytes_max: usize, rng: &mut fastrand::Rng) -> Pool {
        let mut bytes = vec![0; PLACES + body_bytes_max];
        rng.fill(&mut bytes);
        Pool { bytes }
    }

    fn filling(&self, stamp: Stamp, bytes: usize) -> &[u8] {
        let place = (stamp.number as usize).wrapping_mul(31).wrapping_add(stamp.stream as usize) % PLACES;
        &self.bytes[place..place + bytes]
    }

    /// Makes `body` the body of `body_bytes` that `stamp` describes.
    pub(crate) fn write(&self, stamp: Stamp, body_bytes: usize, body: &mut Vec<u8>) {
        body.clear();
        body.extend_from_slice(&stamp.stream.to_be_bytes());
        body.extend_from_slice(&stamp.check(body_bytes).to_be_bytes());
        body.extend_from_slice(&stamp.number.to_be_bytes());
        body.extend_from_slice(&stamp.sent_ns.to_be_bytes());
        body.extend_from_slice(self.filling(stamp, body_bytes - STAMP_BYTES));
    }

    /// The stamp of a body; none where it is not, byte for byte, what was written.
    pub(crate) fn read(&self, body: &[u8]) -> Option<Stamp> {
        let (stream, rest) = body.split_first_chunk()?;
        let (check, rest) = rest.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (sent_ns, filling) = rest.split_first_chunk()?;
        let stamp = Stamp {
            stream: u32::from_be_bytes(*stream),
            number: u64::from_be_bytes(*number),
            sent_ns: u64::from_be_bytes(*sent_ns),
        };
        let fits = filling.len() <= self.bytes.len() - PLACES;
        let is_whole = u32::from_be_bytes(*check) == stamp.check(body.len());
        (fits && is_whole && filling == self.filling(stamp, filling.len())).then_some(stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_is_seen() {
        let pool = Pool::new(300, &mut fastrand::Rng::with_seed(1));
        let stamp = Stamp { stream: 7, number: 40_000, sent_ns: 123_456_789 };
        let mut body = Vec::new();
        pool.write(stamp, 200, &mut body);
        assert_eq!((body.len(), pool.read(&body)), (200, Some(stamp)));
        for bit in 0..8 * 200 {
            body[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(pool.read(&body), None, "bit {bit}");
            body[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(pool.read(&body[..199]), None);
        assert_eq!(pool.read(&[0; 23]), None);
        assert_eq!(pool.read(&[0; 20_000]), None);
    }
}
