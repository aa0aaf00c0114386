use std::io::IoSlice;

use bytes::Bytes;

use super::inbound::Frame;
use super::rope::{Rope, SpareRopes};
use super::shared::Shared;
use crate::limits::{BOUNCE_RESERVE_BYTES, CONTROL_RESERVE_BYTES, PIN_BYTES_MIN};
use crate::wire::{Kind, Outgoing};

/// How much a queue holds, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// From here on the queue is congested, until it has fallen to half of this.
    pub soft: usize,
    /// What would pass this does not fit; an empty queue takes any frame.
    pub hard: usize,
}

/// What waits to be written to one connection: whole frames, and what is left of the first.
pub struct SendQueue {
    /// None while nothing has been queued since it was last empty.
    rope: Option<Box<Rope>>,
    bounds: Bounds,
    congested: bool,
    /// Bytes up to a place that somebody waits for; 0 where nobody does.
    marked: usize,
    /// Whether some of it is written: the first frame in it may be cut.
    cut: bool,
}

/// The queue's bound would be passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue is full")]
pub struct Full;

impl SendQueue {
    /// An empty queue.
    pub fn new(bounds: Bounds) -> SendQueue {
        SendQueue { rope: None, bounds, congested: false, marked: 0, cut: false }
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.rope.as_ref().map_or(0, |rope| rope.len())
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the queue passed its soft bound and has not fallen to half of it since.
    pub fn is_congested(&self) -> bool {
        self.congested
    }

    /// Marks its end: [`SendQueue::consume`] tells when all that waits now is written.
    pub fn mark(&mut self) {
        self.marked = self.len();
    }

    /// Whether a marked place is not written yet.
    pub fn is_marked(&self) -> bool {
        self.marked > 0
    }

    /// Whether the other side may have a part of the first frame: what is queued next must follow the rest of it.
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// Whether a message of `bytes` fits.
    pub fn fits(&self, bytes: usize) -> bool {
        self.is_empty() || self.len() + bytes <= self.bounds.hard
    }

    /// Takes a rope to fill, where it has none.
    pub fn take_rope(&mut self, spare: &mut SpareRopes) {
        if self.rope.is_none() {
            self.rope = Some(spare.take());
        }
    }

    /// Queues a frame that came from elsewhere, without copying or re-encoding it.
    pub fn forward(&mut self, frame: &mut Frame<'_>) -> Result<(), Full> {
        if !self.fits(frame.wire_bytes()) {
            return Err(Full);
        }
        frame.move_to(self.rope.get_or_insert_default());
        self.note_growth();
        Ok(())
    }

    /// Queues a frame that other queues hold as well, without copying it.
    pub fn share(&mut self, frame: &Shared) -> Result<(), Full> {
        if !self.fits(frame.wire_bytes()) {
            return Err(Full);
        }
        frame.push_to(self.rope.get_or_insert_default());
        self.note_growth();
        Ok(())
    }

    /// Queues a message of this process's own.
    pub fn send(&mut self, frame: &Outgoing<'_>) -> Result<(), Full> {
        if !self.fits(frame.wire_bytes()) {
            return Err(Full);
        }
        self.encode(frame);
        Ok(())
    }

    /// Queues a message of this process's own, `head`, with a body that other queues hold as well: not copied, unless it is
    /// so small that it would be once the other side takes no more ([`SendQueue::compact`]).
    pub fn send_with_body(&mut self, head: &Outgoing<'_>, body: &Bytes) -> Result<(), Full> {
        let frame = Outgoing { body, ..*head };
        if !self.fits(frame.wire_bytes()) {
            return Err(Full);
        }
        if body.len() < PIN_BYTES_MIN {
            self.encode(&frame);
            return Ok(());
        }
        let rope = self.rope.get_or_insert_default();
        rope.push_with(frame.wire_bytes() - body.len(), |block| frame.encode_head(block));
        rope.push_slice(body, 0..body.len());
        self.note_growth();
        Ok(())
    }

    /// Queues a control frame, for which there is a reserve beyond the bound.
    pub fn send_control(&mut self, frame: &Outgoing<'_>) -> Result<(), Full> {
        let reserve = if frame.kind == Kind::Bounce { BOUNCE_RESERVE_BYTES } else { CONTROL_RESERVE_BYTES };
        if self.len() + frame.wire_bytes() > self.bounds.hard + reserve {
            return Err(Full);
        }
        self.encode(frame);
        Ok(())
    }

    /// Queues bytes that are not a frame: a preface.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.rope.get_or_insert_default().push_copy(bytes);
    }

    fn encode(&mut self, frame: &Outgoing<'_>) {
        self.rope.get_or_insert_default().push_with(frame.wire_bytes(), |block| frame.encode(block));
        self.note_growth();
    }

    fn note_growth(&mut self) {
        self.congested |= self.len() >= self.bounds.soft;
    }

    /// Fills `slices` with what is to be written next; returns how many.
    pub fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.rope.as_ref().map_or(0, |rope| rope.fill(slices))
    }

    /// Takes off what was written; an empty rope goes to `spare`. True where that ended the congestion, or reached the mark.
    pub fn consume(&mut self, bytes: usize, spare: &mut SpareRopes) -> bool {
        let Some(rope) = &mut self.rope else {
            assert_eq!(bytes, 0, "an empty queue has nothing to take off");
            return false;
        };
        rope.consume(bytes);
        self.cut |= bytes > 0;
        if let Some(empty) = self.rope.take_if(|rope| rope.is_empty()) {
            spare.give_back(empty);
            self.cut = false;
        }
        let relieved = self.congested && self.len() <= self.bounds.soft / 2;
        self.congested &= !relieved;
        let reached = self.marked > 0 && bytes >= self.marked;
        self.marked = self.marked.saturating_sub(bytes);
        relieved || reached
    }

    /// Makes what waits stand on its own, so that a receiver that takes nothing holds no chunk.
    pub fn compact(&mut self) {
        if let Some(rope) = &mut self.rope {
            rope.compact();
        }
    }

    /// Forgets what waits.
    pub fn clear(&mut self) {
        self.rope = None;
        self.congested = false;
        self.marked = 0;
        self.cut = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ping() -> Outgoing<'static> {
        Outgoing::of(Kind::Ping)
    }

    #[test]
    fn the_bounds_hold() {
        let spare = &mut SpareRopes::default();
        let mut queue = SendQueue::new(Bounds { soft: 40, hard: 60 });
        let wide = [0; 100];
        let oversized = Outgoing { body: &wide, ..ping() };
        queue.send(&oversized).expect("an empty queue takes any frame");
        assert_eq!(queue.send(&ping()), Err(Full));
        queue.consume(120, spare);
        for _ in 0..3 {
            queue.send(&ping()).expect("fits");
        }
        assert_eq!((queue.send(&ping()), queue.len(), queue.is_congested()), (Err(Full), 60, true));
        queue.send_control(&ping()).expect("control has a reserve");
        assert!(!queue.consume(59, spare));
        assert!(queue.consume(1, spare), "half of the soft bound ends the congestion");
        assert!(!queue.is_congested());
        let bounce = Outgoing::of(Kind::Bounce);
        while queue.send_control(&bounce).is_ok() {}
        assert!(queue.len() <= 60 + BOUNCE_RESERVE_BYTES);
        queue.send_control(&ping()).expect("bounces leave room");
        while queue.send_control(&ping()).is_ok() {}
        assert!(queue.len() <= 60 + CONTROL_RESERVE_BYTES);
    }

    #[test]
    fn a_large_body_is_in_many_queues_and_copied_for_none() {
        let spare = &mut SpareRopes::default();
        let bounds = Bounds { soft: 1 << 20, hard: 1 << 20 };
        for len in [PIN_BYTES_MIN - 1, PIN_BYTES_MIN] {
            let body = Bytes::from(vec![b'x'; len]);
            let mut queues = ["bob", "carol"].map(|to| (to, SendQueue::new(bounds)));
            for (to, queue) in &mut queues {
                let head = Outgoing { id: 7, to: to.as_bytes(), ..Outgoing::of(Kind::Data) };
                queue.send_with_body(&head, &body).expect("fits");
                let mut wanted = bytes::BytesMut::new();
                Outgoing { body: &body, ..head }.encode(&mut wanted);
                let mut slices = [IoSlice::new(&[]); 8];
                let filled = queue.fill(&mut slices);
                assert_eq!(slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect::<Vec<u8>>(), wanted);
                let is_shared = slices[..filled].iter().any(|slice| slice.as_ptr() == body.as_ptr());
                assert_eq!(is_shared, len >= PIN_BYTES_MIN, "{len} bytes");
            }
            let (_, first) = &mut queues[0];
            first.consume(first.len(), spare);
            first.send(&Outgoing { body: &vec![0; 1 << 20], ..ping() }).expect("an empty queue takes any frame");
            assert_eq!(first.send_with_body(&ping(), &body), Err(Full));
        }
    }

    #[test]
    fn a_mark_is_told_of_once_all_before_it_is_written() {
        let spare = &mut SpareRopes::default();
        let mut queue = SendQueue::new(Bounds { soft: 400, hard: 600 });
        queue.send(&ping()).expect("fits");
        queue.mark();
        queue.send(&ping()).expect("fits");
        assert!(queue.is_marked());
        assert!(!queue.consume(19, spare));
        assert!(queue.consume(2, spare), "the mark is behind the first");
        assert!(!queue.is_marked());
        assert!(!queue.consume(19, spare), "told once");
        queue.send(&ping()).expect("fits");
        queue.mark();
        queue.clear();
        assert!(!queue.is_marked());
    }

    #[test]
    fn a_queue_that_forgot_what_waited_is_not_congested() {
        let spare = &mut SpareRopes::default();
        let mut queue = SendQueue::new(Bounds { soft: 40, hard: 60 });
        queue.send(&ping()).expect("fits");
        queue.send(&ping()).expect("fits");
        queue.clear();
        queue.send(&ping()).expect("fits");
        assert!(!queue.is_congested());
        assert!(!queue.consume(20, spare), "there was no congestion to end");
    }
}
