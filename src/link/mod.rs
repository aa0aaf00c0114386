//! One connection's life, from preface to end, and all connections of one process.
//!
//! A [`Link`] goes `Dialling | Preface -> Greeting -> Open -> Closing -> Draining -> Ended` and skips no step back.
//! [`Links`] owns every link of a process in one slab, meets their deadlines, and keeps what the shell has to do next:
//! which to dial, to flush, to half-close, to drop. It knows nothing of users or servers: that is the role's, in
//! [`Link::peer`].
//!
//! `mod` is what a role does with its links, `life` one link, `shell` the shell's part, `strain` what short memory asks for.

mod life;
mod shell;
mod strain;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;

use bytes::Bytes;
use slab::Slab;

use crate::buf::{Bounds, Frame, Full, Inbound, Rope, SendQueue, Shared, SpareRopes};
use crate::id::ConnId;
use crate::limits;
use crate::memory::Memory;
use crate::time::{Time, Wheel};
use crate::wire::{CloseCode, Kind, Outgoing};

use life::Pauses;
pub use life::{Due, End, KeepAlive, Link, Patience, Pause, Stage};

/// All connections of one process.
///
/// The shell's part of it, once a turn and in this order: [`Links::take_dials`], [`Links::take_dirty`] with
/// [`Links::fill`] and [`Links::wrote`] for each, [`Links::take_half_closes`], [`Links::take_resumed`],
/// [`Links::take_ended`].
pub struct Links<P> {
    slab: Slab<Link<P>>,
    generation: u32,
    spare_ropes: SpareRopes,
    /// What the links hold together: the sum of [`Link::held`].
    memory: Memory,
    /// Those paused for [`Pause::Memory`]: some only while [`Memory::pauses_senders`].
    memory_waiters: Vec<ConnId>,
    wheel: Wheel<ConnId>,
    dials: Vec<ConnId>,
    dirty: Vec<ConnId>,
    half_closes: Vec<ConnId>,
    /// Refused and perhaps still lingering, oldest first.
    refused: VecDeque<ConnId>,
    resumed: Vec<ConnId>,
    ended: Vec<ConnId>,
}

/// Links that hold whatever there is to hold.
impl<P> Default for Links<P> {
    fn default() -> Links<P> {
        Links::new(usize::MAX)
    }
}

/// What the role does with its links.
impl<P> Links<P> {
    /// No links yet; `memory_max` is how many bytes they may hold together.
    pub fn new(memory_max: usize) -> Links<P> {
        Links {
            slab: Slab::new(),
            generation: 0,
            spare_ropes: SpareRopes::default(),
            memory: Memory::new(memory_max),
            memory_waiters: Vec::new(),
            wheel: Wheel::default(),
            dials: Vec::new(),
            dirty: Vec::new(),
            half_closes: Vec::new(),
            refused: VecDeque::new(),
            resumed: Vec::new(),
            ended: Vec::new(),
        }
    }

    /// A connection that the other side dialled.
    pub fn accept(&mut self, now: Time, addr: SocketAddr, patience: Patience, bounds: Bounds, peer: P) -> ConnId {
        self.insert(now, addr, patience, bounds, peer, Stage::Preface)
    }

    /// A connection to dial.
    pub fn dial(&mut self, now: Time, addr: SocketAddr, patience: Patience, bounds: Bounds, peer: P) -> ConnId {
        let conn = self.insert(now, addr, patience, bounds, peer, Stage::Dialling);
        self.dials.push(conn);
        conn
    }

    fn insert(
        &mut self,
        now: Time,
        addr: SocketAddr,
        patience: Patience,
        bounds: Bounds,
        peer: P,
        stage: Stage,
    ) -> ConnId {
        self.generation = self.generation.wrapping_add(1);
        let index = self.slab.insert(Link {
            peer,
            addr,
            generation: self.generation,
            stage,
            carry: Rope::default(),
            queue: SendQueue::new(bounds),
            patience,
            opened: now,
            heard: now,
            sent: now,
            partial_since: now,
            until: now + patience.greeting,
            resumed_at: now,
            owes_until: now,
            armed: Time::NEVER,
            pauses: Pauses::NONE,
            dirty: false,
            pinged: false,
            hung_up: false,
        });
        let index = u32::try_from(index).expect("fewer connections than descriptors");
        let conn = ConnId { index, generation: self.generation };
        self.arm(conn);
        conn
    }

    /// Connections, those that are ending included.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// The link; none where it has gone, even if another has its place.
    pub fn get(&self, conn: ConnId) -> Option<&Link<P>> {
        self.slab.get(conn.index as usize).filter(|link| link.generation == conn.generation)
    }

    /// The link, to change.
    pub fn get_mut(&mut self, conn: ConnId) -> Option<&mut Link<P>> {
        self.slab.get_mut(conn.index as usize).filter(|link| link.generation == conn.generation)
    }

    /// Every link, by its place.
    pub fn iter(&self) -> impl Iterator<Item = (ConnId, &Link<P>)> {
        self.slab.iter().map(|(index, link)| (ConnId { index: index as u32, generation: link.generation }, link))
    }

    /// The link at `place`: to go through all of them in several turns.
    pub fn at(&self, place: usize) -> Option<(ConnId, &Link<P>)> {
        self.slab.get(place).map(|link| (ConnId { index: place as u32, generation: link.generation }, link))
    }

    /// The places there are, in use or not.
    pub fn places(&self) -> usize {
        self.slab.capacity()
    }

    /// What they hold together.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Begins to take a read apart; none where the link has stopped listening.
    #[inline]
    pub fn begin<'a>(&mut self, now: Time, conn: ConnId, chunk: &'a Bytes, range: Range<usize>) -> Option<Inbound<'a>> {
        let link = self.get_mut(conn).filter(|link| link.is_live())?;
        link.heard = now;
        link.pinged = false;
        let carry = std::mem::take(&mut link.carry);
        if !carry.is_empty() {
            self.memory.note_carried(carry.len(), 0);
        }
        Some(Inbound::new(carry, chunk, range))
    }

    /// Ends what [`Links::begin`] began: keeps the start of a frame whose end has not come.
    #[inline]
    pub fn finish(&mut self, now: Time, conn: ConnId, inbound: Inbound<'_>) {
        let began_now = !inbound.is_continued();
        let carry = inbound.into_carry();
        if carry.is_empty() {
            return;
        }
        let Some(link) = self.get_mut(conn).filter(|link| link.is_live()) else { return };
        if began_now {
            link.partial_since = now;
        }
        let bytes = carry.len();
        link.carry = carry;
        self.memory.note_carried(0, bytes);
        self.arm(conn);
    }

    /// Moves to the next stage of a greeting. `patience` replaces the one for the stage before.
    pub fn advance(&mut self, now: Time, conn: ConnId, stage: Stage) {
        let Some(link) = self.get_mut(conn).filter(|link| link.is_live()) else { return };
        debug_assert!(matches!(
            (link.stage, stage),
            (Stage::Dialling | Stage::Preface, Stage::Greeting) | (Stage::Greeting, Stage::Open)
        ));
        link.stage = stage;
        link.sent = now;
        link.heard = now;
        self.arm(conn);
    }

    /// Gives a greeting until `until`.
    pub fn extend_greeting(&mut self, conn: ConnId, until: Time) {
        if let Some(link) = self.get_mut(conn) {
            link.until = until;
            self.arm(conn);
        }
    }

    /// Passes a frame on to `conn`; returns the link, since its queue may have become congested.
    pub fn forward(&mut self, now: Time, conn: ConnId, frame: &mut Frame<'_>) -> Result<&Link<P>, Full> {
        self.enqueue(now, conn, |queue| queue.forward(frame))
    }

    /// Passes a frame on that goes to other connections too; returns the link, since its queue may have become congested.
    pub fn share(&mut self, now: Time, conn: ConnId, frame: &Shared) -> Result<&Link<P>, Full> {
        self.enqueue(now, conn, |queue| queue.share(frame))
    }

    /// Sends a message of this process's own.
    pub fn send(&mut self, now: Time, conn: ConnId, frame: &Outgoing<'_>) -> Result<(), Full> {
        self.enqueue(now, conn, |queue| queue.send(frame)).map(drop)
    }

    /// Sends a message of this process's own with a body that goes to other connections too.
    pub fn send_with_body(&mut self, now: Time, conn: ConnId, head: &Outgoing<'_>, body: &Bytes) -> Result<(), Full> {
        self.enqueue(now, conn, |queue| queue.send_with_body(head, body)).map(drop)
    }

    /// Sends a control frame, for which there is a reserve beyond the queue's bound.
    pub fn send_control(&mut self, now: Time, conn: ConnId, frame: &Outgoing<'_>) -> Result<(), Full> {
        self.enqueue(now, conn, |queue| queue.send_control(frame)).map(drop)
    }

    /// Answers a PING. Before its login a stranger can make few answers wait: it need not read what it asks for.
    pub fn pong(&mut self, now: Time, conn: ConnId, id: u64) -> Result<(), Full> {
        let link = self.get(conn).ok_or(Full)?;
        if link.stage != Stage::Open && link.queue.len() >= limits::GREETING_QUEUE_BYTES_MAX {
            return Err(Full);
        }
        self.send_control(now, conn, &Outgoing { id, ..Outgoing::of(Kind::Pong) })
    }

    /// Sends bytes that are not a frame: a preface.
    pub fn send_bytes(&mut self, now: Time, conn: ConnId, bytes: &[u8]) {
        let sent = self.enqueue(now, conn, |queue| {
            queue.send_bytes(bytes);
            Ok(())
        });
        debug_assert!(sent.is_ok());
    }

    /// Asks to be told, by [`Core::relieved`](crate::role::Core::relieved), once all that waits for `conn` now is written.
    pub fn mark(&mut self, conn: ConnId) {
        if let Some(link) = self.get_mut(conn).filter(|link| link.is_live()) {
            link.queue.mark();
        }
    }

    #[inline(always)]
    fn enqueue(
        &mut self,
        now: Time,
        conn: ConnId,
        put: impl FnOnce(&mut SendQueue) -> Result<(), Full>,
    ) -> Result<&Link<P>, Full> {
        let link = self.slab.get_mut(conn.index as usize).filter(|link| link.generation == conn.generation);
        let link = link.filter(|link| link.is_live()).ok_or(Full)?;
        let before = link.queue.len();
        link.queue.take_rope(&mut self.spare_ropes);
        put(&mut link.queue)?;
        self.memory.note_queued(before, link.queue.len());
        if before == 0 {
            link.sent = now;
        }
        if !link.dirty {
            link.dirty = true;
            self.dirty.push(conn);
        }
        Ok(link)
    }

    /// Closes with a code: queues CLOSE, listens no more, and ends when the other side has, or after a linger.
    pub fn close(&mut self, now: Time, conn: ConnId, code: CloseCode, body: &[u8]) {
        let close = Outgoing { info_type: code.to_wire(), body, ..Outgoing::of(Kind::Close) };
        let taken = self.send_control(now, conn, &close);
        let Some(link) = self.get_mut(conn).filter(|link| link.is_live()) else { return };
        if link.stage == Stage::Dialling || taken.is_err() {
            return self.end(conn);
        }
        link.stage = Stage::Closing;
        link.pauses = Pauses::NONE;
        link.until = now + limits::CLOSE_LINGER;
        let carry = std::mem::take(&mut link.carry);
        self.memory.note_carried(carry.len(), 0);
        self.arm(conn);
        self.resumed.push(conn);
    }

    /// The other side will say no more. Where it only ended its stream, a CLOSE of ours under way is still written.
    pub fn hung_up(&mut self, conn: ConnId, end: End) {
        match (self.get_mut(conn), end) {
            (Some(link), End::Eof) if link.stage == Stage::Closing => link.hung_up = true,
            (Some(_), End::Eof | End::Failed(_)) => self.end(conn),
            (None, _) => {}
        }
    }

    /// Closes a connection that was hardly begun. Of such ones only the last [`limits::REFUSED_MAX`] may linger, so that
    /// whoever comes again and again takes no descriptors.
    pub fn refuse(&mut self, now: Time, conn: ConnId, code: CloseCode, body: &[u8]) {
        self.close(now, conn, code, body);
        self.refused.push_back(conn);
        while self.refused.front().is_some_and(|conn| self.get(*conn).is_none()) {
            self.refused.pop_front();
        }
        if self.refused.len() > limits::REFUSED_MAX
            && let Some(oldest) = self.refused.pop_front()
        {
            self.end(oldest);
        }
    }

    /// Connections, those aside that were refused and linger.
    pub fn admitted(&self) -> usize {
        self.len().saturating_sub(self.refused.len())
    }

    /// Drops the connection without a word.
    pub fn end(&mut self, conn: ConnId) {
        let Some(link) = self.get_mut(conn).filter(|link| link.stage != Stage::Ended) else { return };
        link.stage = Stage::Ended;
        let (carried, queued) = (std::mem::take(&mut link.carry).len(), link.queue.len());
        link.queue.clear();
        self.memory.note_carried(carried, 0);
        self.memory.note_queued(queued, 0);
        self.ended.push(conn);
    }

    /// Stops reading from `conn` for `reason`, so that its sender feels that what it feeds is slow. False where that
    /// reason held already.
    pub fn pause(&mut self, conn: ConnId, reason: Pause) -> bool {
        let Some(link) = self.get_mut(conn).filter(|link| link.is_live()) else { return false };
        let is_new = !link.pauses.has(reason);
        link.pauses = link.pauses.with(reason);
        is_new
    }

    /// Stops reading from `conn` until `until`, for [`Pause::Rate`]. That has an entry of its own in the wheel, beside
    /// the one that counts: debts come and go many times a second, and each would leave the entry that it was set ahead
    /// of behind.
    pub fn pause_until(&mut self, conn: ConnId, until: Time) {
        self.pause(conn, Pause::Rate);
        if let Some(link) = self.get_mut(conn).filter(|link| link.is_live()) {
            link.owes_until = until;
            self.wheel.set(until, conn);
        }
    }

    /// `reason` holds no longer: reads from `conn` again where no other does. The time it was not listened to does not
    /// count as its silence.
    pub fn resume(&mut self, now: Time, conn: ConnId, reason: Pause) {
        let Some(link) = self.get_mut(conn).filter(|link| link.pauses.has(reason)) else { return };
        link.pauses = link.pauses.without(reason);
        // While it owes, what piles up does so by its own fault.
        if reason != Pause::Rate && !link.pauses.has(Pause::Rate) {
            link.resumed_at = now;
        }
        if link.pauses.is_empty() {
            link.heard = now;
            link.partial_since = now;
            self.resumed.push(conn);
        }
    }

    /// Takes the links whose deadline came at `now`, and what it asks; sends the PINGs that are due.
    pub fn expire(&mut self, now: Time, due: &mut Vec<(ConnId, Due)>) {
        let mut expired = Vec::new();
        self.wheel.expired(now, &mut expired);
        for conn in expired {
            if self.get(conn).is_some_and(|link| link.pauses.has(Pause::Rate) && now >= link.owes_until) {
                self.resume(now, conn, Pause::Rate);
            }
            let Some(link) = self.get_mut(conn) else { continue };
            if link.armed > now {
                continue;
            }
            link.armed = Time::NEVER;
            if !link.pauses.is_empty() {
                link.heard = now;
                link.partial_since = now;
            }
            match link.overdue(now) {
                Some(asked) => due.push((conn, asked)),
                None if !link.is_live() && now >= link.until => self.end(conn),
                None if link.stage == Stage::Open && now >= link.probe_at() => self.probe(now, conn),
                None => {}
            }
            self.arm(conn);
        }
    }

    fn probe(&mut self, now: Time, conn: ConnId) {
        let Some(link) = self.get_mut(conn) else { return };
        link.pinged = true;
        if self.send_control(now, conn, &Outgoing::of(Kind::Ping)).is_err() {
            // So much waits for the other side that its silence, or its stall, will decide.
            debug_assert!(self.get(conn).is_some_and(|link| !link.queue.is_empty()));
        }
    }

    /// Sees to it that the link's deadline is met.
    fn arm(&mut self, conn: ConnId) {
        if let Some(link) = self.get(conn) {
            let at = link.deadline();
            self.arm_at(conn, at);
        }
    }

    fn arm_at(&mut self, conn: ConnId, at: Time) {
        let Some(link) = self.get_mut(conn) else { return };
        if at < link.armed {
            link.armed = at;
            self.wheel.set(at, conn);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Span;

    #[test]
    fn debts_that_come_and_go_leave_nothing_in_the_wheel() {
        let patience = Patience {
            first_byte: limits::FIRST_BYTE_TIMEOUT,
            greeting: limits::LOGIN_TIMEOUT,
            keep_alive: KeepAlive::WhenUnheard(limits::HEARTBEAT),
            silence: limits::HEARTBEAT_TIMEOUT,
        };
        let mut now = Time::ZERO;
        let mut links = Links::default();
        let conn =
            links.accept(now, SocketAddr::from(([10, 9, 0, 1], 40_000)), patience, Bounds { soft: 1, hard: 1 }, ());
        links.advance(now, conn, Stage::Greeting);
        links.advance(now, conn, Stage::Open);
        for cycle in 0..1_000 {
            assert!(links.reads(conn), "cycle {cycle}");
            links.begin(now, conn, &Bytes::from_static(b"x"), 0..1);
            links.pause_until(conn, now + Span::from_millis(10));
            while !links.reads(conn) {
                now = links.deadline().expect("the pause has an end");
                links.expire(now, &mut Vec::new());
            }
            // Its heartbeat, and what the greeting and the heartbeat before left until their time comes.
            let entries = links.wheel.entries();
            assert!(entries <= 3, "cycle {cycle}: {entries} entries");
        }
    }
}
