use std::ops::Range;

use bytes::Bytes;

use super::rope::Rope;
use super::shared::Shared;
use crate::limits::{ENVELOPE_BYTES_MAX, LENGTH_BYTES};
use crate::wire::{Envelope, Header, Malformed, Opening, PREFACE_BYTES};

/// One read of one connection, taken apart into frames.
///
/// What is left of an incomplete frame when the read is used up goes back to the connection ([`Inbound::into_carry`])
/// and comes first at its next read.
pub struct Inbound<'a> {
    chunk: &'a Bytes,
    /// The part of the chunk that is not taken apart yet.
    rest: Range<usize>,
    /// The start of a frame whose end has not come; where it is not empty, it continues at `rest`.
    carry: Rope,
    /// Whether `carry` began at an earlier read.
    continued: bool,
    /// The frame that [`Inbound::next`] completed from `carry`, until its successor is asked for.
    completed: Option<Rope>,
    /// Header and ids of `completed`.
    envelope: Option<[u8; ENVELOPE_BYTES_MAX]>,
}

/// A whole frame: its envelope to decide by, its bytes to pass on.
pub struct Frame<'a> {
    /// Header, `to` and `from`.
    pub envelope: Envelope<'a>,
    bytes: FrameBytes<'a>,
}

enum FrameBytes<'a> {
    /// It came in one read.
    Slice { chunk: &'a Bytes, range: Range<usize> },
    /// It came in several.
    Pieces(&'a mut Rope),
    /// It came in several, and was gathered for several receivers.
    Gathered(Bytes),
}

impl<'a> Inbound<'a> {
    /// Takes `range` of `chunk` apart, behind what `carry` kept of earlier reads.
    #[inline]
    pub fn new(carry: Rope, chunk: &'a Bytes, range: Range<usize>) -> Inbound<'a> {
        let continued = !carry.is_empty();
        Inbound { chunk, rest: range, carry, continued, completed: None, envelope: None }
    }

    /// Recognises the first bytes of a connection, and takes them off where they are a whole preface.
    pub fn opening(&mut self) -> Opening {
        let missing = PREFACE_BYTES - self.carry.len();
        self.carry_over(missing);
        let opening = Opening::recognise(self.carry.first());
        if let Opening::Preface(_) = opening {
            self.carry = Rope::default();
            self.continued = false;
        }
        opening
    }

    /// What [`Inbound::opening`] found to be no preface, as far as it looked: at most 8 bytes.
    pub fn unopened(&self) -> &[u8] {
        self.carry.first()
    }

    /// The next whole frame; none where the read is used up.
    ///
    /// `max_frame` bounds the length field. After an error the connection can't be read any further.
    pub fn next(&mut self, max_frame: usize) -> Result<Option<Frame<'_>>, Malformed> {
        if !self.carry.is_empty() {
            return self.next_carried(max_frame);
        }
        if self.rest.is_empty() {
            return Ok(None);
        }
        let rest = &self.chunk[self.rest.clone()];
        match Header::wire_bytes(rest, max_frame)? {
            Some(wire_bytes) if wire_bytes <= rest.len() => {
                let envelope = envelope_of(&rest[..wire_bytes])?;
                let range = self.rest.start..self.rest.start + wire_bytes;
                self.rest.start = range.end;
                Ok(Some(Frame { envelope, bytes: FrameBytes::Slice { chunk: self.chunk, range } }))
            }
            Some(_) | None => {
                self.carry_over(rest.len());
                Ok(None)
            }
        }
    }

    fn next_carried(&mut self, max_frame: usize) -> Result<Option<Frame<'_>>, Malformed> {
        loop {
            let wanted = Header::wire_bytes(self.carry.first(), max_frame)?.unwrap_or(LENGTH_BYTES);
            if self.carry.len() == wanted {
                break;
            }
            if self.rest.is_empty() {
                return Ok(None);
            }
            self.carry_over(wanted - self.carry.len());
        }
        let completed = self.completed.insert(std::mem::take(&mut self.carry));
        self.continued = false;
        let first = completed.first();
        let kept = first.len().min(ENVELOPE_BYTES_MAX);
        let envelope = &mut self.envelope.insert([0; ENVELOPE_BYTES_MAX])[..kept];
        envelope.copy_from_slice(&first[..kept]);
        let envelope = envelope_of(envelope)?;
        Ok(Some(Frame { envelope, bytes: FrameBytes::Pieces(completed) }))
    }

    /// Moves up to `bytes` of the read to the carry.
    fn carry_over(&mut self, bytes: usize) {
        let range = self.rest.start..self.rest.end.min(self.rest.start + bytes);
        self.rest.start = range.end;
        self.carry.keep(self.chunk, range);
    }

    /// Whether what is left began at an earlier read.
    pub fn is_continued(&self) -> bool {
        self.continued
    }

    /// What is left: the start of a frame.
    #[inline]
    pub fn into_carry(self) -> Rope {
        self.carry
    }
}

/// The envelope of a frame of which at least that much is in `bytes`.
#[inline(always)]
fn envelope_of(bytes: &[u8]) -> Result<Envelope<'_>, Malformed> {
    Ok(Envelope::parse(bytes)?.expect("the length covers the ids"))
}

impl Frame<'_> {
    /// Bytes of the frame on the wire.
    pub fn wire_bytes(&self) -> usize {
        self.envelope.header.wire_bytes
    }

    /// The body, in one piece. Copies only a frame that came in several reads.
    ///
    /// A body that is kept pins the chunk it was read into: copy what outlives the turn.
    pub fn body(&self) -> Bytes {
        let envelope_bytes = self.envelope.header.envelope_bytes();
        match &self.bytes {
            FrameBytes::Slice { chunk, range } => chunk.slice(range.start + envelope_bytes..range.end),
            FrameBytes::Pieces(rope) => rope.gather(envelope_bytes),
            FrameBytes::Gathered(whole) => whole.slice(envelope_bytes..),
        }
    }

    /// Puts the frame at the end of `rope`, byte for byte as it came. A frame goes to one place only, unless it was shared
    /// before.
    #[inline]
    pub fn move_to(&mut self, rope: &mut Rope) {
        match &mut self.bytes {
            FrameBytes::Slice { chunk, range } => rope.push_slice(chunk, range.clone()),
            FrameBytes::Pieces(pieces) => rope.append(pieces),
            FrameBytes::Gathered(whole) => rope.push_slice(whole, 0..whole.len()),
        }
    }

    /// The frame for several places. One that came in several reads is copied for it, once.
    pub fn share(&mut self) -> Shared {
        if let FrameBytes::Pieces(rope) = &self.bytes {
            self.bytes = FrameBytes::Gathered(rope.gather(0));
        }
        match &self.bytes {
            FrameBytes::Slice { chunk, range } => Shared::of(Bytes::clone(chunk), range.clone()),
            FrameBytes::Gathered(whole) => Shared::of(whole.clone(), 0..whole.len()),
            FrameBytes::Pieces(_) => unreachable!("it was gathered"),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::limits::MAX_FRAME;
    use crate::wire::{Kind, Outgoing};

    /// A stream of frames of many sizes, and the body of each.
    fn stream(rng: &mut fastrand::Rng, frames: usize) -> (Bytes, Vec<Vec<u8>>) {
        let mut bytes = BytesMut::new();
        let mut bodies = Vec::new();
        for number in 0..frames {
            let len = if rng.u8(0..10) == 0 { rng.usize(0..200_000) } else { rng.usize(0..300) };
            let body = vec![number as u8; len];
            let outgoing = Outgoing { to: b"bob", from: b"alice", body: &body, ..Outgoing::of(Kind::Data) };
            outgoing.encode(&mut bytes);
            bodies.push(body);
        }
        (bytes.freeze(), bodies)
    }

    #[test]
    fn frames_come_out_whole_however_the_stream_is_cut() {
        for seed in 0..60 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (bytes, bodies) = stream(&mut rng, 20);
            let cut_max = *rng.choice(&[1, 7, 30, 2_000, 100_000]).expect("there are choices");
            let mut carry = Rope::default();
            let mut passed_on = Rope::default();
            let mut got = Vec::new();
            let mut at = 0;
            while at < bytes.len() {
                let end = bytes.len().min(at + rng.usize(1..=cut_max));
                let mut inbound = Inbound::new(carry, &bytes, at..end);
                while let Some(mut frame) = inbound.next(MAX_FRAME).expect("well formed") {
                    assert_eq!((frame.envelope.to, frame.envelope.from), (&b"bob"[..], &b"alice"[..]));
                    got.push(frame.body().to_vec());
                    frame.move_to(&mut passed_on);
                }
                carry = inbound.into_carry();
                at = end;
            }
            assert!(got == bodies, "seed {seed}");
            assert!(passed_on.gather(0) == bytes, "seed {seed}: passed on is not what came");
        }
    }

    #[test]
    fn a_frame_that_came_whole_is_passed_on_in_place() {
        let (bytes, _) = stream(&mut fastrand::Rng::with_seed(3), 9);
        let mut inbound = Inbound::new(Rope::default(), &bytes, 0..bytes.len());
        let mut passed_on = Rope::default();
        while let Some(mut frame) = inbound.next(MAX_FRAME).expect("well formed") {
            frame.move_to(&mut passed_on);
        }
        assert_eq!(passed_on.first().as_ptr_range(), bytes.as_ptr_range());
    }

    #[test]
    fn a_shared_frame_is_copied_at_most_once_and_goes_on_as_it_came() {
        let (bytes, _) = stream(&mut fastrand::Rng::with_seed(4), 1);
        for cut in [0, 1, 25, bytes.len() - 1] {
            let mut inbound = Inbound::new(Rope::default(), &bytes, 0..cut);
            assert!(inbound.next(MAX_FRAME).expect("well formed").is_none());
            let mut inbound = Inbound::new(inbound.into_carry(), &bytes, cut..bytes.len());
            let mut frame = inbound.next(MAX_FRAME).expect("well formed").expect("whole");
            let (mut one, mut other, mut passed_on) = (Rope::default(), Rope::default(), Rope::default());
            frame.share().push_to(&mut one);
            frame.share().push_to(&mut other);
            frame.move_to(&mut passed_on);
            assert_eq!(passed_on.gather(0), bytes, "cut at {cut}");
            for rope in [&one, &other] {
                assert_eq!(rope.first().as_ptr_range(), passed_on.first().as_ptr_range(), "cut at {cut}: another copy");
            }
        }
    }

    #[test]
    fn a_length_over_the_bound_is_seen_at_once() {
        let bytes = Bytes::from_static(&[0xff, 0xff, 0xff, 0xff]);
        let mut carry = Rope::default();
        for at in 0..3 {
            let mut inbound = Inbound::new(carry, &bytes, at..at + 1);
            assert!(inbound.next(MAX_FRAME).expect("too early to tell").is_none());
            carry = inbound.into_carry();
        }
        let error = Inbound::new(carry, &bytes, 3..4).next(MAX_FRAME).err();
        assert_eq!(error, Some(Malformed::TooBig { length: u32::MAX, max: MAX_FRAME }));
    }
}
