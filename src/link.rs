//! One connection's life, from preface to end, and all connections of one process.
//!
//! A [`Link`] goes `Dialling | Preface -> Greeting -> Open -> Closing -> Draining -> Ended` and skips no step back.
//! [`Links`] owns every link of a process in one slab, meets their deadlines, and keeps what the shell has to do next:
//! which to dial, to flush, to half-close, to drop. It knows nothing of users or servers: that is the role's, in
//! [`Link::peer`]. Long, since who may be read from, written to, probed or shed is one question: where its link is in
//! its life.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::ops::Range;

use bytes::Bytes;
use slab::Slab;

use crate::buf::{Bounds, Frame, Full, Inbound, Rope, SendQueue, SpareRopes};
use crate::id::ConnId;
use crate::limits;
use crate::memory::{Memory, Strain};
use crate::time::{Span, Time, Wheel};
use crate::wire::{CloseCode, Kind, Outgoing};

/// Where in its life a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// We dialled; the other side has not answered.
    Dialling,
    /// The other side dialled; its preface has not come.
    Preface,
    /// Versions are agreed; LOGIN or REGISTER is under way.
    Greeting,
    /// Frames flow.
    Open,
    /// Our CLOSE is on its way; what still comes in is discarded.
    Closing,
    /// Our CLOSE is written and our side of the stream shut; the other side's end is awaited, so that unread input
    /// does not make the kernel reset the connection before the CLOSE was read.
    Draining,
    /// The socket can go; the place in the slab is freed at the end of the turn.
    Ended,
}

/// When a quiet link is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    /// A PING when nothing came for this long: for a side that may be a stranger's program.
    WhenUnheard(Span),
    /// A PING when nothing was sent for this long: where both sides do it, bulk in one direction never looks like
    /// death, however long a PONG would have to wait behind it.
    WhenUnsent(Span),
}

/// How long a link is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// From dial or accept to the first byte.
    pub first_byte: Span,
    /// From dial or accept to the end of the greeting.
    pub greeting: Span,
    /// When a quiet link is probed.
    pub keep_alive: KeepAlive,
    /// Silence after which it is closed NO_HEARTBEAT.
    pub silence: Span,
}

/// What a deadline asks of the role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Close with this code and text.
    Close(CloseCode, &'static str),
    /// A dial came to nothing.
    DialTimeout,
}

/// What happened to a connection's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The other side ended its stream.
    Eof,
    /// The connection broke, or a dial failed.
    Failed(std::io::ErrorKind),
}

/// Why a connection is not read from; several reasons may hold at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// What waits for it passed its soft bound: what it asks for would only add to that.
    Congested,
    /// The queue that its frames go to has no room.
    Uplink,
    /// It sent more than its rate allows; ends by itself when that is paid for.
    Rate,
    /// Memory is short, and it is a client.
    Memory,
    /// The application takes no more of what it sends.
    Held,
}

/// The reasons that hold for one connection, a bit each.
#[derive(Clone, Copy, Default)]
struct Pauses(u8);

impl Pauses {
    const NONE: Pauses = Pauses(0);

    fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn has(self, reason: Pause) -> bool {
        self.0 & 1 << reason as u8 != 0
    }

    fn with(self, reason: Pause) -> Pauses {
        Pauses(self.0 | 1 << reason as u8)
    }

    fn without(self, reason: Pause) -> Pauses {
        Pauses(self.0 & !(1 << reason as u8))
    }
}

/// One connection.
pub struct Link<P> {
    /// What the role knows of it.
    pub peer: P,
    /// The other side's address.
    pub addr: SocketAddr,
    generation: u32,
    stage: Stage,
    /// The start of a frame whose end has not come.
    carry: Rope,
    queue: SendQueue,
    patience: Patience,
    opened: Time,
    /// Last byte in; `opened` before the first.
    heard: Time,
    /// Last byte out, or the moment the queue began to wait.
    sent: Time,
    /// Since when `carry` holds a frame's start.
    partial_since: Time,
    /// End of the greeting, or of the linger of a closing link.
    until: Time,
    /// When the last pause ended that held it up longer than a debt of its own.
    resumed_at: Time,
    /// When what it sent too fast is paid for; means something while it is paused for that.
    owes_until: Time,
    /// The wheel's entry that counts. Others for this link mean nothing, but that the one at `owes_until` ends that
    /// pause.
    armed: Time,
    pauses: Pauses,
    dirty: bool,
    pinged: bool,
    hung_up: bool,
}

impl<P> Link<P> {
    /// Where in its life the link is.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Whether frames are still exchanged: not closing, not ended.
    pub fn is_live(&self) -> bool {
        match self.stage {
            Stage::Dialling | Stage::Preface | Stage::Greeting | Stage::Open => true,
            Stage::Closing | Stage::Draining | Stage::Ended => false,
        }
    }

    /// What waits to be written.
    pub fn queue(&self) -> &SendQueue {
        &self.queue
    }

    /// Since when what waits to be written has waited without a byte of it being taken; none where nothing waits.
    pub fn waits_since(&self) -> Option<Time> {
        (!self.queue.is_empty()).then_some(self.sent)
    }

    /// The start of a frame whose end has not come.
    pub fn carry(&self) -> &Rope {
        &self.carry
    }

    /// When the last pause ended that held it up longer than its debts did; the connection's beginning before the first.
    pub fn resumed_at(&self) -> Time {
        self.resumed_at
    }

    /// Bytes that wait here: to be written, or for the end of their frame.
    pub fn held(&self) -> usize {
        self.queue.len() + self.carry.len()
    }

    /// Whether it is not read from while memory is short. A link between servers carries the frames of many, who are
    /// held back elsewhere; and who is not in holds little, and is to hear that there is no room.
    fn yields(&self) -> bool {
        self.stage == Stage::Open && matches!(self.patience.keep_alive, KeepAlive::WhenUnheard(_))
    }

    /// The next moment at which something may have to be done.
    fn deadline(&self) -> Time {
        let stalled = if self.queue.is_empty() { Time::NEVER } else { self.sent + limits::STALL_TIMEOUT };
        let partial = if self.carry.is_empty() { Time::NEVER } else { self.partial_since + limits::PARTIAL_TIMEOUT };
        match self.stage {
            Stage::Dialling => self.opened + limits::DIAL_TIMEOUT,
            Stage::Preface if self.is_unheard() => self.opened + self.patience.first_byte,
            Stage::Preface | Stage::Greeting => self.until.min(stalled).min(partial),
            Stage::Open => self.probe_at().min(self.heard + self.patience.silence).min(stalled).min(partial),
            Stage::Closing | Stage::Draining => self.until,
            Stage::Ended => Time::NEVER,
        }
    }

    /// Whether no byte has come since the dial or accept.
    fn is_unheard(&self) -> bool {
        self.heard == self.opened && self.carry.is_empty()
    }

    fn probe_at(&self) -> Time {
        match self.patience.keep_alive {
            KeepAlive::WhenUnheard(_) if self.pinged => Time::NEVER,
            KeepAlive::WhenUnheard(span) => self.heard + span,
            // What waits is life enough once it gets through; a PING behind it would only wait too.
            KeepAlive::WhenUnsent(_) if !self.queue.is_empty() => Time::NEVER,
            KeepAlive::WhenUnsent(span) => self.sent + span,
        }
    }

    /// What is overdue at `now`, other than a probe.
    fn overdue(&self, now: Time) -> Option<Due> {
        let stalled = !self.queue.is_empty() && now >= self.sent + limits::STALL_TIMEOUT;
        let partial = !self.carry.is_empty() && now >= self.partial_since + limits::PARTIAL_TIMEOUT;
        match self.stage {
            Stage::Dialling => (now >= self.opened + limits::DIAL_TIMEOUT).then_some(Due::DialTimeout),
            Stage::Preface if self.is_unheard() && now >= self.opened + self.patience.first_byte => {
                Some(Due::Close(CloseCode::LOGIN_TIMEOUT, "no first byte in time"))
            }
            Stage::Preface | Stage::Greeting if now >= self.until => {
                Some(Due::Close(CloseCode::LOGIN_TIMEOUT, "no login in time"))
            }
            Stage::Open if now >= self.heard + self.patience.silence => {
                Some(Due::Close(CloseCode::NO_HEARTBEAT, "silent too long"))
            }
            Stage::Preface | Stage::Greeting | Stage::Open if stalled => {
                Some(Due::Close(CloseCode::SLOW, "took nothing for too long"))
            }
            Stage::Preface | Stage::Greeting | Stage::Open if partial => {
                Some(Due::Close(CloseCode::PARTIAL, "a frame stayed incomplete too long"))
            }
            Stage::Preface | Stage::Greeting | Stage::Open | Stage::Closing | Stage::Draining | Stage::Ended => None,
        }
    }
}

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

    /// Sends a message of this process's own.
    pub fn send(&mut self, now: Time, conn: ConnId, frame: &Outgoing<'_>) -> Result<(), Full> {
        self.enqueue(now, conn, |queue| queue.send(frame)).map(drop)
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

    /// Drops what `conn` holds, and closes it with a code; one that was closing ends at once. A CLOSE behind a part of a
    /// frame would be taken for the rest of it: the connection then ends without.
    pub fn shed(&mut self, now: Time, conn: ConnId, code: CloseCode, text: &str) {
        let Some(link) = self.get_mut(conn) else { return };
        if !link.is_live() || link.queue.is_cut() {
            return self.end(conn);
        }
        let queued = link.queue.len();
        link.queue.clear();
        self.memory.note_queued(queued, 0);
        self.close(now, conn, code, text.as_bytes());
    }

    /// Who is to be shed, in that order; nobody where memory is not that short.
    ///
    /// As long as most is queued, those who have taken nothing for the longest, and of these the one with the most; as
    /// long as most is in frames that are still coming, the largest of those.
    pub fn victims(&self, now: Time) -> Vec<ConnId> {
        let mut to_go = self.memory.excess(now);
        if to_go == 0 {
            return Vec::new();
        }
        let (mut slowest, mut largest) = (self.slowest_receivers(), self.largest_carries());
        let (mut queued, mut carried) = (self.memory.queued(), self.memory.carried());
        let mut is_chosen = vec![false; self.places()];
        let mut victims = Vec::new();
        while to_go > 0 {
            let next = if carried > queued { largest.next() } else { slowest.next() };
            let Some((conn, link)) = next else { break };
            if std::mem::replace(&mut is_chosen[conn.index as usize], true) {
                continue;
            }
            queued -= link.queue.len();
            carried -= link.carry.len();
            to_go = to_go.saturating_sub(link.held());
            victims.push(conn);
        }
        victims
    }

    /// Those for whom something is queued, by how long they have taken none of it, the fullest queue of equals first.
    fn slowest_receivers(&self) -> impl Iterator<Item = (ConnId, &Link<P>)> {
        let mut links: Vec<_> = self.iter().filter(|(_, link)| !link.queue.is_empty()).collect();
        links.sort_by_key(|(_, link)| (link.sent, Reverse(link.queue.len())));
        links.into_iter()
    }

    /// Those of whom a frame has not come to its end, the most bytes of one first.
    fn largest_carries(&self) -> impl Iterator<Item = (ConnId, &Link<P>)> {
        let mut links: Vec<_> = self.iter().filter(|(_, link)| !link.carry.is_empty()).collect();
        links.sort_by_key(|(_, link)| Reverse(link.carry.len()));
        links.into_iter()
    }

    /// How short memory is, where that has changed. Whoever was not read from for it is again, once there is room.
    pub fn take_strain(&mut self, now: Time) -> Option<Strain> {
        let strain = self.memory.tell(now)?;
        if !strain.health.pauses_senders() {
            for conn in std::mem::take(&mut self.memory_waiters) {
                self.resume(now, conn, Pause::Memory);
            }
        }
        Some(strain)
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

/// What the shell does with them.
impl<P> Links<P> {
    /// Connections to dial, with their addresses.
    pub fn take_dials(&mut self) -> Vec<(ConnId, SocketAddr)> {
        let dials = std::mem::take(&mut self.dials);
        let wanted =
            |conn: ConnId| self.get(conn).filter(|link| link.stage == Stage::Dialling).map(|link| (conn, link.addr));
        dials.into_iter().filter_map(wanted).collect()
    }

    /// Swaps in the connections that have something new to write; `into` must be empty.
    pub fn take_dirty(&mut self, into: &mut Vec<ConnId>) {
        debug_assert!(into.is_empty());
        std::mem::swap(&mut self.dirty, into);
        for conn in into.iter() {
            if let Some(link) = self.get_mut(*conn) {
                link.dirty = false;
            }
        }
    }

    /// Fills `slices` with what is to be written to `conn` next; returns how many.
    pub fn fill<'a>(&'a self, conn: ConnId, slices: &mut [IoSlice<'a>]) -> usize {
        self.get(conn).map_or(0, |link| link.queue.fill(slices))
    }

    /// `bytes` were written to `conn`. True where that ended a congestion: the role must hear of it.
    pub fn wrote(&mut self, now: Time, conn: ConnId, bytes: usize) -> bool {
        let link = self.slab.get_mut(conn.index as usize).filter(|link| link.generation == conn.generation);
        let Some(link) = link else { return false };
        link.sent = now;
        let before = link.queue.len();
        let relieved = link.queue.consume(bytes, &mut self.spare_ropes);
        self.memory.note_queued(before, before - bytes);
        let is_empty = link.queue.is_empty();
        if link.stage == Stage::Closing && is_empty {
            if link.hung_up {
                self.end(conn);
            } else {
                link.stage = Stage::Draining;
                self.half_closes.push(conn);
            }
        } else if is_empty && matches!(link.patience.keep_alive, KeepAlive::WhenUnsent(_)) {
            // The time without a byte begins now.
            self.arm(conn);
        }
        relieved
    }

    /// The kernel takes no more for `conn`: what waits must stand on its own, and its patience starts.
    pub fn blocked(&mut self, conn: ConnId) {
        if let Some(link) = self.get_mut(conn) {
            link.queue.compact();
            self.arm(conn);
        }
    }

    /// Connections whose sending side is to be shut: their CLOSE is written.
    pub fn take_half_closes(&mut self) -> Vec<ConnId> {
        std::mem::take(&mut self.half_closes)
    }

    /// Connections to read from again, whatever was missed meanwhile.
    pub fn take_resumed(&mut self) -> Vec<ConnId> {
        std::mem::take(&mut self.resumed)
    }

    /// Whether `conn` is to be read from. One that memory is too short for is paused with this question: who has nothing
    /// to read is not asked about, and costs nothing.
    pub fn reads(&mut self, conn: ConnId) -> bool {
        if self.memory.pauses_senders() && self.get(conn).is_some_and(Link::yields) && self.pause(conn, Pause::Memory) {
            self.memory_waiters.push(conn);
        }
        self.get(conn).is_some_and(|link| link.pauses.is_empty() && !link.hung_up && link.stage != Stage::Ended)
    }

    /// Frees the places of connections that ended; their sockets are to be dropped.
    pub fn take_ended(&mut self) -> Vec<ConnId> {
        let ended = std::mem::take(&mut self.ended);
        for conn in &ended {
            self.slab.remove(conn.index as usize);
        }
        ended
    }

    /// When [`Links::expire`] must be called next, or [`Links::victims`] and [`Links::take_strain`].
    pub fn deadline(&self) -> Option<Time> {
        let memory = Some(self.memory.deadline()).filter(|at| *at != Time::NEVER);
        self.wheel.next().into_iter().chain(memory).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
