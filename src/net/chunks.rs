use bytes::{Bytes, BytesMut};

use crate::limits::CHUNK_BYTES;

/// Chunks that are remembered while parts of them are held elsewhere; more are left to their holders.
const LENT_MAX: usize = 16;

/// The memory that sockets are read into, used again as soon as nobody holds a part of it.
///
/// In steady state there is one chunk: what was read in a turn is written in the same turn.
#[derive(Default)]
pub(super) struct Chunks {
    lent: Vec<Bytes>,
}

impl Chunks {
    /// A chunk of [`CHUNK_BYTES`] that nobody else holds a part of.
    pub(super) fn take(&mut self) -> BytesMut {
        for place in (0..self.lent.len()).rev() {
            match self.lent.swap_remove(place).try_into_mut() {
                Ok(chunk) => return chunk,
                Err(held) => {
                    self.lent.push(held);
                    let last = self.lent.len() - 1;
                    self.lent.swap(place, last);
                }
            }
        }
        // A part that was split off makes the memory shared from the start, so that lending allocates nothing.
        let mut chunk = BytesMut::zeroed(CHUNK_BYTES + 1);
        drop(chunk.split_off(CHUNK_BYTES));
        chunk
    }

    /// Takes a chunk back that others may hold parts of.
    pub(super) fn give_back(&mut self, chunk: Bytes) {
        if self.lent.len() == LENT_MAX {
            self.lent.swap_remove(0);
        }
        self.lent.push(chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_used_again_once_nobody_holds_it() {
        let mut chunks = Chunks::default();
        let first = chunks.take();
        let address = first.as_ptr();
        let lent = first.freeze();
        let part = lent.slice(10..20);
        chunks.give_back(lent);
        let second = chunks.take();
        assert_ne!(second.as_ptr(), address);
        chunks.give_back(second.freeze());
        drop(part);
        let again = [chunks.take(), chunks.take()];
        assert!(again.iter().any(|chunk| chunk.as_ptr() == address));
        assert!(again.iter().all(|chunk| chunk.len() == CHUNK_BYTES));
    }
}
