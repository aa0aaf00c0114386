//! The application server's core: users log in here, and their frames go to each other or up to the ACMS.
//!
//! `mod` holds the state, `route` the way of a frame, `session` the way of a user from LOGIN to the end, `uplink` the link
//! to the ACMS, `ask` the questions about who is where, `presence` who hears of whom, `wishes` who wants to, `queries` and `servers` what the
//! server's own application asks and says to others, `directory` what is known of users, `newcomer` what is asked before a
//! login, `meter` how fast a client may send, `drain` the way of all users to other servers, `groups` who is in which and
//! what is said to one, `members` the lists of these, `edits` what server code does with them, `blobs` what is larger than a
//! frame. Long for the state itself, which all of these share, and for the seam that calls them.

mod ask;
mod blobs;
mod config;
mod directory;
mod drain;
mod edits;
mod event;
mod groups;
mod load;
mod members;
mod meter;
mod newcomer;
mod presence;
mod queries;
mod route;
mod servers;
mod session;
mod uplink;
mod wishes;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;

use bytes::Bytes;
use hashbrown::HashMap;

use crate::buf::Bounds;
use crate::id::{ConnId, UserId};
use crate::limits;
use crate::link::{Due, End, KeepAlive, Link, Links, Patience, Pause, Stage};
use crate::memory::Strain;
use crate::role::blob::Blobs;
use crate::role::{Core, Counters, Dedupe, Drop, Entropy, Fault, Gone, Pace, Strained, Strangers};
use crate::time::{Span, Time};
use crate::wire::link::ServerMessageId;
use crate::wire::{Bounce, CloseCode, Flags, Kind, Outgoing};

use ask::Question;
pub use config::{Config, CutOff, Membership};
use directory::Announcements;
use drain::Phase;
pub use edits::Edit;
pub use event::{ClusterState, Event, Inbox, Outcome, QueryRef, QuerySource, ServerInbox};
use groups::Groups;
pub use groups::JoinRef;
use load::Load;
use members::Rosters;
pub use meter::Rates;
use meter::{Meter, Standing, Tariff};
pub use presence::Friendship;
use presence::Presence;
use queries::{Asked, Queries};
use session::Claims;
pub use session::Verdict;
use uplink::Uplink;

/// What a connection is to an application server.
pub enum Peer {
    /// A user's program.
    Client(Client),
    /// The ACMS: a place among the uplinks.
    Acms(usize),
}

/// A client's connection.
pub struct Client {
    session: Session,
    meter: Meter,
}

impl Peer {
    /// The user that is in on this connection.
    pub fn user(&self) -> Option<&UserId> {
        match self {
            Peer::Client(Client { session: Session::Online(entrant), .. }) => Some(&entrant.user),
            Peer::Client(_) | Peer::Acms(_) => None,
        }
    }
}

/// How far a client is.
enum Session {
    /// No LOGIN yet.
    Anonymous,
    /// No LOGIN yet, and the application has its query with this id to answer.
    Asking(u64),
    /// The application is looking at its LOGIN.
    Checking(Entrant),
    /// The ACMS is looking at its claim.
    Claiming(Entrant),
    /// In.
    Online(Entrant),
    /// Out; the connection is closing.
    Left,
}

/// Who a session is of. Its LOGIN numbers and dates it: a check that takes long, or a slow cluster, makes it no newer.
#[derive(Clone, Debug)]
struct Entrant {
    user: UserId,
    session: u64,
    since: Time,
}

/// Where a frame came from, for what may have to go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Client(ConnId),
    Acms(usize),
}

/// The application server's core.
pub struct AppServer {
    config: Config,
    tariff: Tariff,
    links: Links<Peer>,
    /// Users that are in, each with its connection.
    users: HashMap<UserId, ConnId, ahash::RandomState>,
    /// How fast connections are let in.
    pace: Pace,
    strangers: Strangers,
    /// The ways to the cluster; none where the server stands alone.
    uplinks: Vec<Uplink>,
    /// Connections whose queue had no room for control that must come, to be closed before the call ends that found it so.
    overwhelmed: Vec<ConnId>,
    sessions: u64,
    claims: Claims,
    /// Questions that wait for the ACMS, by number.
    questions: HashMap<u64, Question, ahash::RandomState>,
    /// When each question's patience ends, oldest first: all have the same.
    question_ends: VecDeque<(Time, u64)>,
    questions_asked: u64,
    lookups_open: usize,
    /// The number of its own last message: they are counted on from this start's part of their range.
    messages: u64,
    /// Queries of the server's own.
    queries: Queries,
    groups: Groups,
    rosters: Rosters,
    /// What the application has noted of users that are in.
    tags: HashMap<UserId, String, ahash::RandomState>,
    announcements: Announcements,
    dedupe: Dedupe,
    blobs: Blobs,
    presence: Presence,
    entropy: Entropy,
    events: VecDeque<Event>,
    counters: Counters,
    load: Load,
    phase: Phase,
    /// Clients sent to other servers so far.
    moved: usize,
}

impl AppServer {
    /// A server that has just started.
    pub fn new(now: Time, config: Config) -> AppServer {
        let mut entropy = Entropy::new(config.seed);
        let uplinks = config.cluster.iter().map(|membership| Uplink::new(now, membership.clone())).collect();
        AppServer {
            tariff: Tariff::new(config.rates, config.max_frame),
            links: Links::new(config.memory_max),
            users: HashMap::with_hasher(entropy.hasher()),
            pace: Pace::new(config.max_accepts_per_second),
            strangers: Strangers::new(limits::ANONYMOUS_MAX),
            uplinks,
            overwhelmed: Vec::new(),
            sessions: 0,
            claims: Claims::new(&mut entropy),
            questions: HashMap::with_hasher(entropy.hasher()),
            question_ends: VecDeque::new(),
            questions_asked: 0,
            lookups_open: 0,
            messages: ServerMessageId::first(config.incarnation),
            queries: Queries::new(&mut entropy),
            groups: Groups::new(&mut entropy),
            rosters: Rosters::default(),
            tags: HashMap::with_hasher(entropy.hasher()),
            announcements: Announcements::default(),
            dedupe: Dedupe::new(entropy.hasher()),
            blobs: Blobs::new(config.blobs),
            presence: Presence::new(&mut entropy),
            entropy,
            events: VecDeque::new(),
            counters: Counters::default(),
            config,
            load: Load::new(now),
            phase: Phase::Serving,
            moved: 0,
        }
    }

    /// What happened next, until none is left.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front().or_else(|| self.blobs.poll_event().map(Event::Blob))
    }

    /// Users that are in.
    pub fn users_online(&self) -> usize {
        self.users.len()
    }

    /// The connection of a user that is in.
    pub fn conn_of(&self, user: &UserId) -> Option<ConnId> {
        self.users.get(user.as_bytes()).copied()
    }

    /// Every user that is in, in no particular order.
    pub fn online(&self) -> impl Iterator<Item = &UserId> {
        self.users.keys()
    }

    /// Logins that the ACMS is looking at.
    pub fn open_claims(&self) -> usize {
        self.claims.count()
    }

    /// Questions about who is where that wait for the ACMS, and the users in them that it has not told of.
    pub fn open_questions(&self) -> (usize, usize) {
        (self.questions.len(), self.lookups_open)
    }

    /// Queries of the server's own that wait for their reply.
    pub fn open_queries(&self) -> usize {
        self.queries.count()
    }

    /// What became of frames.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether the link to the cluster stands.
    pub fn cluster_is_up(&self) -> bool {
        self.uplinks.iter().any(|uplink| uplink.open_conn().is_some())
    }

    /// Closes every connection with SHUTDOWN and takes no more users. Done when [`AppServer::is_stopped`].
    pub fn stop(&mut self, now: Time) {
        self.phase = Phase::Stopping;
        let conns: Vec<ConnId> = self.links.iter().map(|(conn, _)| conn).collect();
        for conn in conns {
            self.close(now, conn, &Fault::new(CloseCode::SHUTDOWN, "the server is stopping"));
        }
    }

    /// Whether the server was told to stop and every connection has ended.
    pub fn is_stopped(&self) -> bool {
        self.is_stopping() && self.links.is_empty()
    }

    /// Closes a user's session on this server, or asks the cluster to. False where the user is known to be nowhere.
    pub fn kick(&mut self, now: Time, user: &UserId, text: &str) -> bool {
        if let Some(conn) = self.conn_of(user) {
            self.close(now, conn, &Fault::new(CloseCode::KICKED, text.to_owned()));
            self.close_overwhelmed(now);
            return true;
        }
        let body = &text.as_bytes()[..text.floor_char_boundary(limits::CLOSE_TEXT_BYTES_MAX)];
        let kick =
            Outgoing { info_type: CloseCode::KICKED.to_wire(), to: user.as_bytes(), body, ..Outgoing::of(Kind::Kick) };
        let told = self.control_up(now, &kick);
        self.close_overwhelmed(now);
        told
    }

    /// Sends a message to a user on any server, once, and waits for the ACK of the receiver's engine until `ends`. The id
    /// tells its outcome from others'.
    pub fn send_acked(
        &mut self,
        now: Time,
        to: &UserId,
        info_type: u32,
        body: &[u8],
        ends: Time,
    ) -> Result<u64, Bounce> {
        if self.queries.is_full() {
            return Err(Bounce::Busy);
        }
        let id = self.next_message();
        let flags = Flags::WANT_ACK;
        let frame = Outgoing { flags, info_type, id, to: to.as_bytes(), body, ..Outgoing::of(Kind::Data) };
        self.send_own(now, to, &frame, Some((Asked::Engine(to.clone()), ends)))?;
        Ok(id)
    }

    /// Sends a message or, with a deadline, a query to a user on any server. The id tells its outcome from others'.
    ///
    /// A message has none, and is an [`Event::Bounced`] where it comes back.
    pub fn send(
        &mut self,
        now: Time,
        to: &UserId,
        flags: Flags,
        info_type: u32,
        body: &[u8],
        query_ends: Option<Time>,
    ) -> Result<u64, Bounce> {
        let kind = if query_ends.is_some() { Kind::Query } else { Kind::Data };
        if query_ends.is_some() && self.queries.is_full() {
            return Err(Bounce::Busy);
        }
        let id = self.next_message();
        let frame = Outgoing { flags, info_type, id, to: to.as_bytes(), body, ..Outgoing::of(kind) };
        self.send_own(now, to, &frame, query_ends.map(|ends| (Asked::User(to.clone()), ends)))?;
        Ok(id)
    }

    /// As [`AppServer::send`], a message with an id of a number that [`AppServer::reserve_numbers`] gave, used once.
    pub fn send_as(
        &mut self,
        now: Time,
        id: u64,
        to: &UserId,
        flags: Flags,
        info_type: u32,
        body: &[u8],
    ) -> Result<(), Bounce> {
        let frame = Outgoing { flags, info_type, id, to: to.as_bytes(), body, ..Outgoing::of(Kind::Data) };
        self.send_own(now, to, &frame, None)
    }

    /// Sets so many numbers of messages aside for the caller; returns the first.
    pub fn reserve_numbers(&mut self, count: u64) -> u64 {
        let first = self.messages + 1;
        self.messages += count;
        first
    }

    /// Sends a message of the server's own, and keeps what is `awaited` for it.
    fn send_own(
        &mut self,
        now: Time,
        to: &UserId,
        frame: &Outgoing<'_>,
        awaited: Option<(Asked, Time)>,
    ) -> Result<(), Bounce> {
        if frame.wire_bytes() - limits::LENGTH_BYTES > self.config.max_frame {
            return Err(Bounce::TooBig);
        }
        let conn = match self.conn_of(to) {
            Some(conn) => conn,
            None if self.claims.is_claimed(to.as_bytes()) => return Err(Bounce::Retry),
            None => self.uplink_conn()?,
        };
        let droppable = frame.flags.has(Flags::DROPPABLE);
        if droppable && self.is_congested(conn) {
            self.counters.count_drop(Drop::Droppable);
            return Ok(());
        }
        if self.links.send(now, conn, frame).is_err() {
            self.counters.count_bounce(Bounce::Busy);
            return Err(Bounce::Busy);
        }
        self.pause_if_congested(conn);
        if let Some((asked, ends)) = awaited {
            self.queries.insert(frame.id, asked, ends, Some(conn));
        }
        Ok(())
    }

    /// The id of the next message of the server's own.
    fn next_message(&mut self) -> u64 {
        self.messages += 1;
        ServerMessageId::compose(self.config.server, self.messages)
    }

    /// Answers a query of a user's. Nothing happens where that connection has ended.
    pub fn reply(&mut self, now: Time, query: &QueryRef, flags: Flags, info_type: u32, body: &[u8]) {
        let frame =
            Outgoing { kind: Kind::Reply, flags, info_type, id: query.id, to: query.user.as_bytes(), from: &[], body };
        let fits = frame.wire_bytes() - limits::LENGTH_BYTES <= self.config.max_frame;
        if self.conn_of(&query.user) != Some(query.conn) {
            self.counters.count_drop(Drop::Unroutable);
        } else if !fits || self.links.send(now, query.conn, &frame).is_err() {
            self.refuse(now, query, if fits { Bounce::Busy } else { Bounce::TooBig });
        }
        self.pause_if_congested(query.conn);
    }

    /// Tells a user that the application has taken its message, where it asked for that.
    pub fn acknowledge(&mut self, now: Time, message: &QueryRef) {
        let ack = Outgoing { id: message.id, to: message.user.as_bytes(), ..Outgoing::of(Kind::Ack) };
        if self.links.send_control(now, message.conn, &ack).is_err() {
            self.counters.count_drop(Drop::BounceFull);
        }
    }

    /// Bounces a message or query that a user sent to the server.
    pub fn refuse(&mut self, now: Time, message: &QueryRef, cause: Bounce) {
        let bounce = Outgoing::bounce(cause, message.id, message.user.as_bytes(), &[]);
        self.counters.count_bounce(cause);
        if cause == Bounce::Busy {
            self.dedupe.forget(&message.user, message.id);
        }
        if self.links.send_control(now, message.conn, &bounce).is_err() {
            self.counters.count_drop(Drop::BounceFull);
        }
    }

    fn is_congested(&self, conn: ConnId) -> bool {
        self.links.get(conn).is_some_and(|link| link.queue().is_congested())
    }

    /// Whether there is memory for one frame more of those that go to many at once: these may fill what there is before
    /// anyone has had the time to take any of it.
    fn has_memory_for(&self, frame_bytes: usize) -> bool {
        let memory = self.links.memory();
        !memory.health().pauses_senders() && !memory.is_shed_by(frame_bytes)
    }

    /// Stops reading from a client that does not read: what it asks for would only add to what waits for it.
    fn pause_if_congested(&mut self, conn: ConnId) {
        let congested = |link: &Link<Peer>| matches!(link.peer, Peer::Client(_)) && link.queue().is_congested();
        if self.links.get(conn).is_some_and(congested) {
            self.links.pause(conn, Pause::Congested);
        }
    }

    fn patience(&self) -> Patience {
        Patience {
            first_byte: limits::FIRST_BYTE_TIMEOUT.min(self.config.login_timeout),
            greeting: self.config.login_timeout,
            keep_alive: KeepAlive::WhenUnheard(self.config.heartbeat),
            silence: self.config.heartbeat_timeout,
        }
    }

    /// Of those who say nothing one leaves, where they are too many.
    fn admit_stranger(&mut self, now: Time, conn: ConnId) {
        let links = &self.links;
        let is_stranger = |conn| {
            let peer = links.get(conn).map(|link: &Link<Peer>| &link.peer);
            matches!(peer, Some(Peer::Client(Client { session: Session::Anonymous | Session::Asking(_), .. })))
        };
        if let Some(leaves) = self.strangers.admit(conn, &mut self.entropy.jitter, is_stranger) {
            let fault = Fault::full("too many came that have not logged in", &mut self.entropy);
            self.send_away(now, leaves, &fault);
        }
    }

    /// Charges a client for a read. One in debt is not read from until it is paid, so nothing of what it sends waits here.
    fn charge(&mut self, now: Time, conn: ConnId, messages: u64, bytes: usize) {
        let online = self.links.get_mut(conn).filter(|link| link.stage() == Stage::Open);
        let Some(link) = online else { return };
        let heard_since = link.resumed_at();
        let Peer::Client(client) = &mut link.peer else { return };
        match client.meter.charge(now, heard_since, &self.tariff, messages, bytes as u64) {
            Standing::Even => {}
            Standing::Owes(until) => {
                self.counters.slowed += 1;
                self.links.pause_until(conn, until);
            }
            Standing::Excessive => {
                self.counters.closed_rate += 1;
                let retry_after = self.entropy.retry_after();
                self.close(now, conn, &Fault::for_now(CloseCode::RATE, "too many messages for too long", retry_after));
            }
        }
    }
}

impl Strained for AppServer {
    fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }

    fn note_strain(&mut self, strain: Strain) {
        self.events.push_back(Event::Memory(strain));
    }

    fn overwhelmed_mut(&mut self) -> &mut Vec<ConnId> {
        &mut self.overwhelmed
    }

    fn depart(&mut self, now: Time, conn: ConnId, gone: Gone, text: &str) {
        let Some(link) = self.links.get_mut(conn).filter(|link| link.is_live()) else { return };
        let addr = link.addr;
        let (was_in, user) = match &mut link.peer {
            Peer::Client(client) => {
                let session = std::mem::replace(&mut client.session, Session::Left);
                self.lose_queries(conn);
                (matches!(session, Session::Online { .. }), self.leave(now, conn, session, gone))
            }
            Peer::Acms(place) => {
                let place = *place;
                self.lose_queries(conn);
                return self.uplink_lost(now, place, gone, text);
            }
        };
        self.events.push_back(Event::Closed { conn, addr, user, was_in, gone, text: text.to_owned() });
    }
}

impl Core for AppServer {
    type Peer = Peer;

    fn links(&mut self) -> &mut Links<Peer> {
        &mut self.links
    }

    fn accepted(&mut self, now: Time, addr: SocketAddr) -> ConnId {
        let bounds = Bounds { soft: limits::CLIENT_QUEUE_SOFT_BYTES, hard: limits::CLIENT_QUEUE_BYTES_MAX };
        let full = self.links.admitted() >= self.config.connections_max;
        let client = Client { session: Session::Anonymous, meter: Meter::default() };
        let conn = self.links.accept(now, addr, self.patience(), bounds, Peer::Client(client));
        if self.is_stopping() {
            self.close(now, conn, &Fault::new(CloseCode::SHUTDOWN, "the server is stopping"));
        } else if self.is_draining() {
            self.move_client(now, conn);
        } else if full {
            let fault = Fault::full("the server has no room for more connections", &mut self.entropy);
            self.send_away(now, conn, &fault);
        } else if let Err(wait) = self.pace.admit(now, &mut self.entropy.jitter) {
            self.send_away(
                now,
                conn,
                &Fault::for_now(CloseCode::FULL, "too many come at once; come again later", wait),
            );
        } else {
            self.admit_stranger(now, conn);
        }
        conn
    }

    fn connected(&mut self, now: Time, conn: ConnId) {
        self.uplink_connected(now, conn);
    }

    fn received(&mut self, now: Time, conn: ConnId, chunk: &Bytes, range: Range<usize>) {
        let bytes = range.len();
        let Some(mut inbound) = self.links.begin(now, conn, chunk, range) else {
            self.counters.late_bytes += bytes as u64;
            return;
        };
        let uplink = self.links.get(conn).and_then(|link| match link.peer {
            Peer::Acms(place) => Some(place),
            Peer::Client(_) => None,
        });
        let taken = match uplink {
            Some(place) => self.take_from_acms(now, place, &mut inbound).map(|()| 0),
            None => self.take_from_client(now, conn, &mut inbound),
        };
        match taken {
            Ok(messages) => {
                self.links.finish(now, conn, inbound);
                if uplink.is_none() {
                    self.charge(now, conn, messages, bytes);
                }
            }
            Err(fault) => self.close(now, conn, &fault),
        }
        if uplink.is_none() {
            self.pause_if_congested(conn);
        }
        self.ease(now);
        self.close_overwhelmed(now);
    }

    fn ended(&mut self, now: Time, conn: ConnId, end: End) {
        self.depart(now, conn, Gone::Ended(end), "");
        self.links.hung_up(conn, end);
        self.close_overwhelmed(now);
    }

    fn relieved(&mut self, now: Time, conn: ConnId) {
        let Some(link) = self.links.get(conn) else { return };
        match &link.peer {
            // It only came to a mark.
            _ if link.queue().is_congested() => {}
            Peer::Client(_) => self.links.resume(now, conn, Pause::Congested),
            Peer::Acms(place) => self.release_waiters(now, *place),
        }
        self.carry_blobs(now);
        self.close_overwhelmed(now);
    }

    fn waited(&mut self, waited: Span) {
        self.load.waited(waited);
    }

    fn refusal(&mut self) -> Vec<u8> {
        Fault::full("the server has no descriptor left", &mut self.entropy).encode()
    }

    fn expire(&mut self, now: Time) {
        let mut due = Vec::new();
        self.links.expire(now, &mut due);
        for (conn, asked) in due {
            match asked {
                Due::Close(CloseCode::LOGIN_TIMEOUT, _) if self.is_looked_at(conn) => {
                    self.close(now, conn, &Fault::new(CloseCode::UNAVAILABLE, "the login check took too long"));
                }
                Due::Close(code, text) => self.close(now, conn, &Fault::new(code, text)),
                Due::DialTimeout => {
                    self.depart(now, conn, Gone::Ended(End::Failed(std::io::ErrorKind::TimedOut)), "no answer");
                    self.links.end(conn);
                }
            }
        }
        self.continue_drain(now);
        self.expire_uplinks(now);
        self.expire_questions(now);
        self.expire_queries(now);
        self.expire_rosters(now);
        self.continue_announcements(now);
        self.blobs.expire(now);
        self.carry_blobs(now);
        self.expire_presence(now);
        self.ease(now);
        self.close_overwhelmed(now);
    }

    fn deadline(&self) -> Option<Time> {
        let questions = self.question_ends.front().map(|(ends, _)| *ends);
        let queries = self.queries.deadline();
        let uplinks = self.uplinks.iter().filter(|_| !self.is_stopping()).filter_map(Uplink::deadline).min();
        let own = [self.announcements.deadline(), self.blobs.deadline(), self.presence.deadline()];
        let rosters = self.rosters.deadline();
        let others = [questions, queries, rosters, uplinks, self.drain_deadline(), self.links.deadline()];
        own.into_iter().chain(others).flatten().min()
    }
}
