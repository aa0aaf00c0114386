use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::limits::{
    BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, ENVELOPE_BYTES_MAX, PIN_BYTES_MIN, SPARE_ROPES_MAX, SPARE_SEGMENTS_MAX,
};

/// A row of bytes in several pieces: an incomplete frame, or what waits for a slow receiver.
#[derive(Default)]
pub struct Rope {
    segments: VecDeque<Segment>,
    /// The sum of the segments' lengths.
    bytes: usize,
}

/// Empty ropes with room for segments: a queue takes one when it begins to fill and gives it back when it is empty. So
/// an idle connection has none, and a busy one allocates none.
#[derive(Default)]
pub struct SpareRopes {
    #[expect(clippy::vec_box, reason = "a queue holds one in a word, and a word is what is handed to and fro")]
    ropes: Vec<Box<Rope>>,
    /// What the ropes have room for together.
    segments: usize,
}

impl SpareRopes {
    /// One of them, or a new one.
    pub fn take(&mut self) -> Box<Rope> {
        let rope = self.ropes.pop().unwrap_or_default();
        self.segments -= rope.segments.capacity();
        rope
    }

    /// Keeps an empty rope, unless there are many or they are large.
    pub fn give_back(&mut self, rope: Box<Rope>) {
        debug_assert!(rope.is_empty());
        let segments = self.segments + rope.segments.capacity();
        if self.ropes.len() < SPARE_ROPES_MAX && segments <= SPARE_SEGMENTS_MAX {
            self.segments = segments;
            self.ropes.push(rope);
        }
    }
}

/// One piece; never empty.
enum Segment {
    /// A part of a chunk that others hold parts of as well.
    Slice { chunk: Bytes, range: Range<usize> },
    /// Memory of this rope's own; what lies before `start` is consumed.
    Block { block: BytesMut, start: usize },
}

impl Segment {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Segment::Slice { chunk, range } => &chunk[range.clone()],
            Segment::Block { block, start } => &block[*start..],
        }
    }

    fn consume(&mut self, bytes: usize) {
        match self {
            Segment::Slice { range, .. } => range.start += bytes,
            Segment::Block { start, .. } => *start += bytes,
        }
    }
}

impl Rope {
    /// Bytes in the rope.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Appends a part of a chunk without copying it. Neighbouring parts become one segment.
    pub fn push_slice(&mut self, chunk: &Bytes, range: Range<usize>) {
        debug_assert!(range.start < range.end && range.end <= chunk.len());
        self.bytes += range.len();
        if let Some(Segment::Slice { chunk: last, range: before }) = self.segments.back_mut()
            && before.end == range.start
            && last.as_ptr() == chunk.as_ptr()
        {
            before.end = range.end;
            return;
        }
        self.segments.push_back(Segment::Slice { chunk: chunk.clone(), range });
    }

    /// Appends a copy of `bytes`.
    pub fn push_copy(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let block = self.tail_block(bytes.len());
            let room = block.capacity() - block.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            block.extend_from_slice(now);
            self.bytes += now.len();
            bytes = later;
        }
    }

    /// Appends what `write` appends to the buffer it is given, `len` bytes exactly.
    pub fn push_with(&mut self, len: usize, write: impl FnOnce(&mut BytesMut)) {
        if self.tail_room() < len {
            self.add_block(len);
        }
        let block = self.tail_block(len);
        let before = block.len();
        write(block);
        debug_assert_eq!(block.len() - before, len);
        self.bytes += len;
    }

    /// Moves all of `other` to the end of this rope.
    pub fn append(&mut self, other: &mut Rope) {
        self.segments.append(&mut other.segments);
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Appends a part of a chunk that will be kept beyond this turn: copied, unless it is so large that the chunk it
    /// pins costs little. The first [`ENVELOPE_BYTES_MAX`] bytes of a rope filled this way are in one piece.
    pub fn keep(&mut self, chunk: &Bytes, mut range: Range<usize>) {
        if !self.is_empty() && self.bytes < ENVELOPE_BYTES_MAX {
            let split = range.end.min(range.start + ENVELOPE_BYTES_MAX - self.bytes);
            self.push_copy(&chunk[range.start..split]);
            range.start = split;
        }
        match range.len() {
            0 => {}
            len if len < PIN_BYTES_MIN => self.push_copy(&chunk[range]),
            _ => self.push_slice(chunk, range),
        }
    }

    /// The rope's first segment.
    pub fn first(&self) -> &[u8] {
        self.segments.front().map_or(&[], Segment::as_bytes)
    }

    /// Takes `bytes` off the front.
    ///
    /// # Panics
    /// When the rope has fewer.
    pub fn consume(&mut self, mut bytes: usize) {
        assert!(bytes <= self.bytes, "{bytes} of {} bytes consumed", self.bytes);
        self.bytes -= bytes;
        while let Some(first) = self.segments.front_mut() {
            let len = first.as_bytes().len();
            if bytes < len {
                first.consume(bytes);
                break;
            }
            bytes -= len;
            self.segments.pop_front();
        }
    }

    /// Copies small slices of chunks into memory of the rope's own, so that what stays in it pins no chunk for long, and
    /// gathers blocks that are mostly empty. A block that has room takes up what follows it, and stays where it is.
    pub fn compact(&mut self) {
        let is_small = |segment: &Segment| match segment {
            Segment::Slice { range, .. } => range.len() < PIN_BYTES_MIN,
            Segment::Block { block, start } => (block.len() - start) * 2 < block.capacity(),
        };
        // The last block has room for what comes next.
        let has_tail = matches!(self.segments.back(), Some(Segment::Block { .. }));
        let settled = self.segments.len() - usize::from(has_tail);
        let Some(first) = self.segments.iter().take(settled).position(is_small) else { return };
        let rest = self.segments.split_off(first);
        self.bytes -= rest.iter().map(|segment| segment.as_bytes().len()).sum::<usize>();
        for segment in rest {
            let bytes = segment.as_bytes();
            let copied = match &segment {
                Segment::Slice { .. } => is_small(&segment),
                Segment::Block { block, start } => self.tail_room() >= bytes.len() || start * 2 > block.capacity(),
            };
            if copied {
                self.push_copy(bytes);
            } else {
                self.bytes += bytes.len();
                self.segments.push_back(segment);
            }
        }
    }

    /// Bytes that the last segment has room for.
    fn tail_room(&self) -> usize {
        match self.segments.back() {
            Some(Segment::Block { block, .. }) => block.capacity() - block.len(),
            Some(Segment::Slice { .. }) | None => 0,
        }
    }

    /// Fills `slices` from the front; returns how many.
    pub fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slot, segment) in slices.iter_mut().zip(&self.segments) {
            *slot = IoSlice::new(segment.as_bytes());
            filled += 1;
        }
        filled
    }

    /// All bytes from `from` on in one piece; copies unless they lie in one segment of a chunk.
    pub fn gather(&self, from: usize) -> Bytes {
        if let (1, Some(Segment::Slice { chunk, range })) = (self.segments.len(), self.segments.front()) {
            return chunk.slice(range.start + from..range.end);
        }
        let mut all = BytesMut::with_capacity(self.bytes);
        for segment in &self.segments {
            all.extend_from_slice(segment.as_bytes());
        }
        all.freeze().slice(from..)
    }

    /// The last segment, as a block with room for a byte at least; a new one is sized for `wanted` bytes.
    fn tail_block(&mut self, wanted: usize) -> &mut BytesMut {
        if self.tail_room() == 0 {
            let capacity = wanted.max(self.bytes).next_power_of_two().clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX);
            self.add_block(capacity);
        }
        match self.segments.back_mut() {
            Some(Segment::Block { block, .. }) => block,
            Some(Segment::Slice { .. }) | None => unreachable!("a block was just put there"),
        }
    }

    fn add_block(&mut self, capacity: usize) {
        let block = BytesMut::with_capacity(capacity.max(BLOCK_BYTES_MIN));
        self.segments.push_back(Segment::Block { block, start: 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(rope: &Rope) -> Vec<u8> {
        rope.gather(0).to_vec()
    }

    #[test]
    fn neighbours_are_one_segment() {
        let chunk = Bytes::from_static(b"abcdef");
        let other = Bytes::copy_from_slice(b"abcdef");
        let mut rope = Rope::default();
        rope.push_slice(&chunk, 0..2);
        rope.push_slice(&chunk, 2..4);
        assert_eq!(rope.segments.len(), 1);
        rope.push_slice(&other, 4..6);
        rope.push_slice(&chunk, 4..5);
        assert_eq!(rope.segments.len(), 3);
        assert_eq!(bytes_of(&rope), b"abcdefe");
    }

    #[test]
    fn any_mix_keeps_its_bytes() {
        for seed in 0..40 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut rope = Rope::default();
            let mut model = Vec::<u8>::new();
            for _ in 0..40 {
                let mut chunk = vec![0; PIN_BYTES_MIN * 2];
                rng.fill(&mut chunk);
                let chunk = Bytes::from(chunk);
                let start = rng.usize(0..chunk.len() - 1);
                let len_max = if rng.bool() { 300 } else { chunk.len() };
                let range = start..rng.usize(start + 1..=chunk.len().min(start + len_max));
                match rng.u8(0..7) {
                    0 => rope.push_copy(&chunk[range.clone()]),
                    1 => rope.push_slice(&chunk, range.clone()),
                    2 => rope.keep(&chunk, range.clone()),
                    3 => {
                        let mut tail = Rope::default();
                        tail.keep(&chunk, range.clone());
                        rope.append(&mut tail);
                    }
                    4 => rope.push_with(range.len(), |block| block.extend_from_slice(&chunk[range.clone()])),
                    5 => {
                        rope.compact();
                        continue;
                    }
                    _ => {
                        let taken = rng.usize(0..=model.len());
                        rope.consume(taken);
                        model.drain(..taken);
                        continue;
                    }
                }
                model.extend_from_slice(&chunk[range]);
            }
            assert_eq!(rope.len(), model.len());
            assert_eq!(bytes_of(&rope), model, "seed {seed}");
            let mut slices = [IoSlice::new(&[]); 1024];
            let filled = rope.fill(&mut slices);
            assert_eq!(slices[..filled].iter().map(|slice| slice.len()).sum::<usize>(), rope.len());
            assert!(slices[..filled].iter().all(|slice| !slice.is_empty()), "seed {seed}: an empty segment");
        }
    }

    #[test]
    fn a_kept_envelope_is_in_one_piece() {
        let chunk = Bytes::from(vec![7; PIN_BYTES_MIN * 2]);
        for first in 1..ENVELOPE_BYTES_MAX {
            let mut rope = Rope::default();
            rope.keep(&chunk, 0..first);
            rope.keep(&chunk, first..chunk.len());
            assert!(rope.first().len() >= ENVELOPE_BYTES_MAX, "split at {first}");
        }
    }

    #[test]
    fn compaction_lets_the_chunk_go_and_stays_small() {
        let mut rope = Rope::default();
        for _ in 0..1000 {
            let chunk = Bytes::from(vec![1; 4096]);
            rope.push_slice(&chunk, 17..167);
            rope.compact();
            assert!(chunk.try_into_mut().is_ok(), "the chunk is still held");
        }
        let held: usize = rope
            .segments
            .iter()
            .map(|segment| match segment {
                Segment::Block { block, .. } => block.capacity(),
                Segment::Slice { .. } => panic!("a small slice was left"),
            })
            .sum();
        assert!(held <= 2 * rope.len(), "{held} bytes held for {}", rope.len());
    }
}
