//! The client's core: logs in, keeps its session over lost connections, and resolves each acknowledged send once.

mod blobs;
mod entrance;
mod event;
mod groups;
mod messages;
mod presence;

pub use entrance::{Entrance, NoServer};
pub use event::{Event, JoinFailure, Message, QueryFailure, Reply, SendError, SendFailure, State};

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;

use bytes::Bytes;

use crate::buf::{Bounds, Frame, Full, Inbound};
use crate::id::{ConnId, UserId};
use crate::limits;
use crate::link::{Due, End, KeepAlive, Links, Patience, Pause, Stage};
use crate::role::blob::{self, Blobs};
use crate::role::{Backoff, Core, Dedupe, Entropy, Fault, Gone};
use crate::time::{Span, Time};
use crate::wire::{CloseBody, CloseCode, Flags, Kind, Login, Outgoing, Preface, Role, Welcome, parse_object};

/// What a client is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the server is that it dials.
    pub entrance: Entrance,
    /// Who logs in.
    pub user: UserId,
    /// What it shows.
    pub login: Login,
    /// Whether the application answers queries; else they are answered with an error.
    pub takes_queries: bool,
    /// Which blobs it takes and sends.
    pub blobs: blob::Config,
    /// The source of all randomness.
    pub seed: [u8; 32],
}

/// Set in the ids of what is resolved once, so that a BOUNCE that comes too late is not taken for a plain send's.
const TRACKED: u64 = 1 << 63;

enum Phase {
    /// Until [`Client::found`].
    Asking,
    Dialling(ConnId),
    Online {
        conn: ConnId,
        max_frame: usize,
    },
    Waiting(Time),
    Stopped,
}

/// An acknowledged send that is not resolved.
struct Pending {
    to: UserId,
    info_type: u32,
    body: Vec<u8>,
    gives_up: Time,
    /// When it is sent (again); `NEVER` until there is a connection.
    acts: Time,
    tries: u32,
}

/// The client's core.
pub struct Client {
    config: Config,
    links: Links<()>,
    phase: Phase,
    /// Where to dial next; none where that is to be asked for.
    server: Option<SocketAddr>,
    backoff: Backoff,
    was_online: bool,
    /// When a server first sent it elsewhere; none once it is online.
    moving: Option<Time>,
    /// This start's ids lie above it.
    first_id: u64,
    next_id: u64,
    pending: BTreeMap<u64, Pending>,
    pending_bytes: usize,
    /// When each pending send acts or gives up, whichever is first.
    pending_times: BTreeSet<(Time, u64)>,
    /// Queries that wait for their reply: whom they went to (empty: a server), and when they are given up.
    queries: BTreeMap<u64, (Vec<u8>, Time)>,
    query_ends: BTreeSet<(Time, u64)>,
    groups: groups::Groups,
    dedupe: Dedupe,
    blobs: Blobs,
    entropy: Entropy,
    events: VecDeque<Event>,
    presence: presence::Presence,
    logged_out: bool,
}

impl Client {
    /// A client that dials at once, or asks where.
    pub fn new(now: Time, config: Config) -> Client {
        let mut entropy = Entropy::new(config.seed);
        // Another start of the same user must not repeat ids that receivers remember.
        let first_id = entropy.number() >> 2;
        let mut client = Client {
            links: Links::default(),
            phase: Phase::Waiting(now),
            server: config.entrance.address(),
            backoff: Backoff::default(),
            was_online: false,
            moving: None,
            first_id,
            next_id: first_id,
            pending: BTreeMap::new(),
            pending_bytes: 0,
            pending_times: BTreeSet::new(),
            queries: BTreeMap::new(),
            query_ends: BTreeSet::new(),
            groups: groups::Groups::default(),
            dedupe: Dedupe::new(entropy.hasher()),
            blobs: Blobs::new(config.blobs),
            entropy,
            events: VecDeque::new(),
            presence: presence::Presence::default(),
            logged_out: false,
            config,
        };
        client.enter(now);
        client
    }

    /// What happened next, until none is left.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front().or_else(|| self.blobs.poll_event().map(Event::Blob))
    }

    /// Who this client is.
    pub fn user(&self) -> &UserId {
        &self.config.user
    }

    /// Whether messages can be sent now.
    pub fn is_online(&self) -> bool {
        matches!(self.phase, Phase::Online { .. })
    }

    /// Whether the session is over and the connection gone.
    pub fn is_stopped(&self) -> bool {
        matches!(self.phase, Phase::Stopped) && self.links.is_empty()
    }

    /// Sends a message, at most once. A BOUNCE comes back as [`Event::Bounced`] with the id.
    pub fn send(
        &mut self,
        now: Time,
        to: Option<&UserId>,
        flags: Flags,
        info_type: u32,
        body: &[u8],
    ) -> Result<u64, SendError> {
        let id = self.take_id();
        self.send_as(now, id, to, flags, info_type, body)?;
        Ok(id)
    }

    /// As [`Client::send`], with an id out of a range that [`Client::reserve_ids`] gave, used once.
    pub fn send_as(
        &mut self,
        now: Time,
        id: u64,
        to: Option<&UserId>,
        flags: Flags,
        info_type: u32,
        body: &[u8],
    ) -> Result<(), SendError> {
        self.put(now, Kind::Data, flags, info_type, id, to.map_or(&[], UserId::as_bytes), body)
    }

    /// Sets `count` ids aside for the caller; returns the first.
    pub fn reserve_ids(&mut self, count: u64) -> u64 {
        let first = self.next_id + 1;
        self.next_id += count;
        first
    }

    /// Sends a message until its receiver's engine has it: resolved once, as an [`Event::Sent`] with the id.
    ///
    /// Waits for a connection where there is none.
    pub fn send_acked(&mut self, now: Time, to: UserId, info_type: u32, body: Vec<u8>) -> Result<u64, SendError> {
        if matches!(self.phase, Phase::Stopped) {
            return Err(SendError::Stopped);
        }
        if self.frame_bytes(to.as_bytes(), &body) > self.max_frame() {
            return Err(SendError::TooBig);
        }
        let bytes = self.pending_bytes + body.len();
        if self.pending.len() >= limits::ACKED_PENDING_MAX || bytes > limits::ACKED_PENDING_BYTES_MAX {
            return Err(SendError::Full);
        }
        // What can't leave now must not be overtaken by what is sent later.
        let frame_bytes = limits::LENGTH_BYTES + self.frame_bytes(to.as_bytes(), &body);
        if let Phase::Online { conn, .. } = self.phase
            && self.links.get(conn).is_none_or(|link| !link.queue().fits(frame_bytes))
        {
            return Err(SendError::Full);
        }
        self.pending_bytes = bytes;
        let id = self.take_id() | TRACKED;
        let gives_up = now + limits::ACKED_DEADLINE;
        self.pending.insert(id, Pending { to, info_type, body, gives_up, acts: Time::NEVER, tries: 0 });
        self.pending_times.insert((gives_up, id));
        self.try_pending(now, id);
        Ok(id)
    }

    /// Sends a query: resolved once, as an [`Event::Replied`] with the id. To no user: to the server.
    pub fn query(
        &mut self,
        now: Time,
        to: Option<&UserId>,
        info_type: u32,
        body: &[u8],
        patience: Span,
    ) -> Result<u64, SendError> {
        if self.queries.len() >= limits::QUERIES_PENDING_MAX {
            return Err(SendError::Full);
        }
        let id = self.take_id() | TRACKED;
        self.put(now, Kind::Query, Flags::NONE, info_type, id, to.map_or(&[], UserId::as_bytes), body)?;
        self.await_reply(id, to, now + patience);
        Ok(id)
    }

    fn await_reply(&mut self, id: u64, from: Option<&UserId>, ends: Time) {
        self.queries.insert(id, (from.map_or(&[][..], UserId::as_bytes).to_vec(), ends));
        self.query_ends.insert((ends, id));
    }

    /// Answers a query; with `Flags::ERROR` the body is the text of a failure. Where the answer is too big, or the queue has
    /// no room for it, the asker is told that instead: it would wait out its patience.
    pub fn reply(
        &mut self,
        now: Time,
        to: Option<&UserId>,
        id: u64,
        flags: Flags,
        info_type: u32,
        body: &[u8],
    ) -> Result<(), SendError> {
        let to = to.map_or(&[][..], UserId::as_bytes);
        let sent = self.put(now, Kind::Reply, flags, info_type, id, to, body);
        let text = match sent {
            Err(SendError::TooBig) => "the answer is too big",
            Err(SendError::Full) => "there was no room for the answer",
            Err(SendError::NotConnected | SendError::Stopped) | Ok(()) => return sent,
        };
        // Without room even for that nothing is left to be said.
        _ = self.say_unanswered(now, to, id, text).is_ok();
        sent
    }

    /// Tells who asks that there is no answer, beyond what the queue has room for otherwise.
    fn say_unanswered(&mut self, now: Time, to: &[u8], id: u64, text: &str) -> Result<(), Full> {
        let Phase::Online { conn, .. } = self.phase else { return Ok(()) };
        let (from, body) = (self.config.user.as_bytes(), text.as_bytes());
        let reply = Outgoing { flags: Flags::ERROR, id, to, from, body, ..Outgoing::of(Kind::Reply) };
        self.links.send_control(now, conn, &reply)
    }

    /// Asks the platform: answered as an [`Event::Answered`] with the id, or failed as an [`Event::Replied`].
    pub fn ask(&mut self, now: Time, question: &[u8]) -> Result<u64, SendError> {
        let id = self.take_id() | TRACKED;
        if self.queries.len() >= limits::QUERIES_PENDING_MAX {
            return Err(SendError::Full);
        }
        self.put(now, Kind::Ask, Flags::NONE, 0, id, &[], question)?;
        self.await_reply(id, None, now + limits::ASK_TIMEOUT);
        Ok(id)
    }

    /// Ends the session: the server answers LOGGED_OUT, and the client stops.
    pub fn log_out(&mut self, now: Time) {
        if matches!(self.phase, Phase::Stopped) || std::mem::replace(&mut self.logged_out, true) {
            return;
        }
        if self.put(now, Kind::Logout, Flags::NONE, 0, 0, &[], &[]).is_err() {
            let conns: Vec<ConnId> = self.links.iter().map(|(conn, _)| conn).collect();
            conns.into_iter().for_each(|conn| self.links.end(conn));
            self.stop(CloseCode::LOGGED_OUT, String::new());
        }
    }

    /// Stops or goes on reading: an application that takes nothing holds up its senders, not this program's memory.
    pub fn hold(&mut self, now: Time, held: bool) {
        if let Phase::Online { conn, .. } = self.phase {
            if held {
                self.links.pause(conn, Pause::Held);
            } else {
                self.links.resume(now, conn, Pause::Held);
            }
        }
    }

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn max_frame(&self) -> usize {
        match self.phase {
            Phase::Online { max_frame, .. } => max_frame,
            Phase::Asking | Phase::Dialling(_) | Phase::Waiting(_) | Phase::Stopped => limits::MAX_FRAME,
        }
    }

    /// The length field of a message to `to`.
    fn frame_bytes(&self, to: &[u8], body: &[u8]) -> usize {
        limits::HEADER_BYTES - limits::LENGTH_BYTES + to.len() + self.config.user.as_bytes().len() + body.len()
    }

    #[expect(clippy::too_many_arguments, reason = "a frame has that many fields")]
    fn put(
        &mut self,
        now: Time,
        kind: Kind,
        flags: Flags,
        info_type: u32,
        id: u64,
        to: &[u8],
        body: &[u8],
    ) -> Result<(), SendError> {
        let Phase::Online { conn, max_frame } = self.phase else {
            let stopped = matches!(self.phase, Phase::Stopped);
            return Err(if stopped { SendError::Stopped } else { SendError::NotConnected });
        };
        if self.frame_bytes(to, body) > max_frame {
            return Err(SendError::TooBig);
        }
        let frame = Outgoing { kind, flags, info_type, id, to, from: self.config.user.as_bytes(), body };
        self.links.send(now, conn, &frame).map_err(|_| SendError::Full)
    }
}

impl Core for Client {
    type Peer = ();

    fn links(&mut self) -> &mut Links<()> {
        &mut self.links
    }

    fn accepted(&mut self, _now: Time, addr: SocketAddr) -> ConnId {
        unreachable!("a client listens nowhere, yet {addr} dialled it");
    }

    fn connected(&mut self, now: Time, conn: ConnId) {
        self.links.send_bytes(now, conn, &Preface::of(Role::Client).encode());
        self.links.advance(now, conn, Stage::Greeting);
        let body = serde_json::to_vec(&self.config.login).expect("plain text");
        let login = Outgoing { from: self.config.user.as_bytes(), body: &body, ..Outgoing::of(Kind::Login) };
        let sent = self.links.send_control(now, conn, &login);
        debug_assert_eq!(sent, Ok(()), "a queue with a preface takes a LOGIN");
    }

    fn received(&mut self, now: Time, conn: ConnId, chunk: &Bytes, range: Range<usize>) {
        let Some(mut inbound) = self.links.begin(now, conn, chunk, range) else { return };
        match self.take(now, conn, &mut inbound) {
            Ok(()) => self.links.finish(now, conn, inbound),
            Err(fault) => self.give_up(now, conn, &fault),
        }
    }

    fn ended(&mut self, now: Time, conn: ConnId, end: End) {
        self.lost(now, conn, Gone::Ended(end), CloseBody::default());
        self.links.end(conn);
    }

    /// A full queue is told to whoever sends into it; only blobs wait for room.
    fn relieved(&mut self, now: Time, _conn: ConnId) {
        self.carry_blobs(now);
    }

    fn refusal(&mut self) -> Vec<u8> {
        unreachable!("a client listens nowhere")
    }

    fn expire(&mut self, now: Time) {
        let mut due = Vec::new();
        self.links.expire(now, &mut due);
        for (conn, asked) in due {
            match asked {
                Due::Close(code, text) => self.give_up(now, conn, &Fault::new(code, text)),
                Due::DialTimeout => self.ended(now, conn, End::Failed(std::io::ErrorKind::TimedOut)),
            }
        }
        if let Phase::Waiting(until) = self.phase
            && until <= now
        {
            self.enter(now);
        }
        self.expire_pending(now);
        self.expire_queries(now);
        self.blobs.expire(now);
        self.carry_blobs(now);
        self.expire_joins(now);
        self.expire_watches(now);
    }

    fn deadline(&self) -> Option<Time> {
        let waiting = match self.phase {
            Phase::Waiting(until) => Some(until),
            Phase::Asking | Phase::Dialling(_) | Phase::Online { .. } | Phase::Stopped => None,
        };
        let pending = self.pending_times.first().map(|(at, _)| *at);
        let queries = self.query_ends.first().map(|(at, _)| *at);
        let own = [self.blobs.deadline(), self.groups.deadline(), self.watch_again_at()].into_iter().flatten().min();
        [self.links.deadline(), waiting, pending, queries, own].into_iter().flatten().min()
    }
}

/// The connection.
impl Client {
    fn dial(&mut self, now: Time, server: SocketAddr) {
        self.server = Some(server);
        let patience = Patience {
            first_byte: limits::WELCOME_TIMEOUT,
            greeting: limits::WELCOME_TIMEOUT,
            keep_alive: KeepAlive::WhenUnheard(limits::HEARTBEAT),
            silence: limits::HEARTBEAT_TIMEOUT,
        };
        let bounds = Bounds { soft: limits::ENGINE_QUEUE_BYTES_MAX, hard: limits::ENGINE_QUEUE_BYTES_MAX };
        let conn = self.links.dial(now, server, patience, bounds, ());
        self.phase = Phase::Dialling(conn);
    }

    /// The server does what the protocol forbids, or nothing at all: it is told, and dialled again.
    fn give_up(&mut self, now: Time, conn: ConnId, fault: &Fault) {
        self.lost(now, conn, Gone::Closed(fault.code), CloseBody::default());
        self.links.close(now, conn, fault.code, &fault.body());
    }

    fn lost(&mut self, now: Time, conn: ConnId, gone: Gone, told: CloseBody) {
        let is_current = match self.phase {
            Phase::Dialling(at) | Phase::Online { conn: at, .. } => at == conn,
            Phase::Asking | Phase::Waiting(_) | Phase::Stopped => false,
        };
        if !is_current {
            return;
        }
        self.fail_queries();
        self.blobs.sending.interrupted();
        self.groups.interrupt();
        match gone {
            Gone::ClosedByPeer(code) if !code.reconnects() => return self.stop(code, told.text),
            _ if self.logged_out => return self.stop(CloseCode::LOGGED_OUT, told.text),
            Gone::ClosedByPeer(_) | Gone::Closed(_) | Gone::Ended(_) => {}
        }
        // What was sent and not acknowledged may be lost: it is sent again once there is a connection.
        for id in self.pending.keys().copied().collect::<Vec<_>>() {
            self.act_at(id, Time::NEVER);
        }
        let asked = told.retry_after_ms.map_or(Span::default(), Span::from_millis).min(limits::RETRY_AFTER_CEILING);
        let go_to: Option<SocketAddr> = told.go_to.and_then(|addr| addr.parse().ok());
        // Once: servers that send it round must not make it spin.
        let at_once = gone == Gone::ClosedByPeer(CloseCode::MOVE) && go_to.is_some() && self.moving.is_none();
        if go_to.is_some() {
            self.moving.get_or_insert(now);
        }
        let pause = if at_once { asked } else { self.backoff.next(&mut self.entropy.jitter).max(asked) };
        // One that says why is there, and lets it in later; who sent it there is the one that is gone.
        let is_told = matches!(gone, Gone::ClosedByPeer(_));
        let stays = is_told && self.moving.is_some_and(|since| now.since(since) < limits::MOVE_PATIENCE);
        self.server = match go_to {
            Some(server) => Some(server),
            None if stays => self.server,
            None => self.config.entrance.address(),
        };
        self.phase = Phase::Waiting(now + pause);
        self.events.push_back(Event::State(State::Reconnecting { gone, text: told.text, pause }));
    }

    fn stop(&mut self, code: CloseCode, text: String) {
        self.phase = Phase::Stopped;
        self.fail_queries();
        self.fail_joins(code);
        for (id, _) in std::mem::take(&mut self.pending) {
            self.events.push_back(Event::Sent { id, outcome: Err(SendFailure::Stopped(code)) });
        }
        self.pending_times.clear();
        self.pending_bytes = 0;
        self.stop_blobs();
        self.events.push_back(Event::State(State::Stopped { code, text }));
    }

    fn take(&mut self, now: Time, conn: ConnId, inbound: &mut Inbound<'_>) -> Result<(), Fault> {
        while self.links.get(conn).is_some_and(|link| link.is_live()) {
            let Some(frame) = inbound.next(limits::MAX_FRAME)? else { break };
            if self.is_online() {
                self.frame_online(now, conn, &frame)?;
            } else {
                self.frame_greeting(now, conn, &frame)?;
            }
        }
        Ok(())
    }

    fn frame_greeting(&mut self, now: Time, conn: ConnId, frame: &Frame<'_>) -> Result<(), Fault> {
        match frame.envelope.header.kind {
            Kind::Welcome => self.welcomed(now, conn, frame),
            Kind::Ping => self.pong(now, conn, frame.envelope.header.id),
            Kind::Pong => Ok(()),
            Kind::Close => self.closed_by_server(now, conn, frame),
            kind => Err(Fault::unexpected(kind)),
        }
    }

    fn welcomed(&mut self, now: Time, conn: ConnId, frame: &Frame<'_>) -> Result<(), Fault> {
        let welcome: Welcome = parse_object(&frame.body())
            .ok_or_else(|| Fault::new(CloseCode::BAD_FIELD, "the body of WELCOME is its JSON"))?;
        self.links.advance(now, conn, Stage::Open);
        self.phase = Phase::Online { conn, max_frame: welcome.max_frame };
        self.backoff.reset();
        self.moving = None;
        let resumed = std::mem::replace(&mut self.was_online, true);
        self.events.push_back(Event::State(State::Online { welcome, resumed }));
        for id in self.pending.keys().copied().collect::<Vec<_>>() {
            self.try_pending(now, id);
        }
        self.carry_blobs(now);
        self.join_again(now);
        self.presence_begins(now);
        Ok(())
    }

    fn frame_online(&mut self, now: Time, conn: ConnId, frame: &Frame<'_>) -> Result<(), Fault> {
        let header = frame.envelope.header;
        match header.kind {
            Kind::Data => self.message(now, conn, frame)?,
            Kind::Query => self.queried(now, frame)?,
            Kind::Reply => self.replied(now, frame),
            Kind::Ack => self.acked(&frame.envelope),
            Kind::Bounce => self.bounced(now, &frame.envelope),
            Kind::Answer => self.answered(now, frame),
            Kind::Presence => self.presence_told(&frame.envelope),
            Kind::Ping => self.pong(now, conn, header.id)?,
            Kind::GroupData => self.said_to_group(now, conn, frame)?,
            Kind::GroupEvent => self.group_changed(&frame.envelope)?,
            Kind::Pong => {}
            Kind::Close => self.closed_by_server(now, conn, frame)?,
            kind => return Err(Fault::unexpected(kind)),
        }
        Ok(())
    }

    fn closed_by_server(&mut self, now: Time, conn: ConnId, frame: &Frame<'_>) -> Result<(), Fault> {
        let (code, told) = Fault::read_close(frame);
        self.lost(now, conn, Gone::ClosedByPeer(code), told);
        self.links.end(conn);
        Ok(())
    }

    fn pong(&mut self, now: Time, conn: ConnId, id: u64) -> Result<(), Fault> {
        self.links.pong(now, conn, id).map_err(|_| Fault::new(CloseCode::SLOW, "the server takes nothing"))
    }
}
