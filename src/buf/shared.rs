use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::rope::Rope;
use crate::wire::Outgoing;

/// A whole frame that goes to several connections: each of their queues holds a part of the same bytes, however many
/// they are.
#[derive(Clone, Debug)]
pub struct Shared {
    chunk: Bytes,
    range: Range<usize>,
}

impl Shared {
    /// The frame that is this part of a chunk.
    pub(super) fn of(chunk: Bytes, range: Range<usize>) -> Shared {
        Shared { chunk, range }
    }

    /// A frame of this process's own.
    pub fn encode(frame: &Outgoing<'_>) -> Shared {
        let mut bytes = BytesMut::with_capacity(frame.wire_bytes());
        frame.encode(&mut bytes);
        let range = 0..bytes.len();
        Shared { chunk: bytes.freeze(), range }
    }

    /// Bytes of the frame on the wire.
    pub fn wire_bytes(&self) -> usize {
        self.range.len()
    }

    /// The frame.
    pub fn as_bytes(&self) -> &[u8] {
        &self.chunk[self.range.clone()]
    }

    /// Puts the frame at the end of `rope`, without copying it.
    pub(super) fn push_to(&self, rope: &mut Rope) {
        rope.push_slice(&self.chunk, self.range.clone());
    }
}
