//! The application server's core: users log in here, and their frames go to each other or up to the ACMS.
//!
//! `mod` holds the state and the way of a frame, `session` the way of a user from LOGIN to the end, `uplink` the link to
//! the ACMS, `ask` the questions about who is where.

mod ask;
mod session;
mod uplink;

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;

use bytes::Bytes;
use hashbrown::HashMap;

use crate::buf::{Bounds, Frame, Inbound};
use crate::id::{ConnId, ServerId, UserId, check_id};
use crate::limits;
use crate::link::{Due, End, KeepAlive, Links, Patience, Stage};
use crate::role::{Core, Counters, Dedupe, Drop, Entropy, Fault, Gone};
use crate::time::{Span, Time};
use crate::wire::link::{Relogin, ServerMessageId};
use crate::wire::{Bounce, CloseCode, Envelope, Flags, Kind, Login, Outgoing, Role};

pub use ask::Asker;
use ask::Question;
pub use session::Verdict;
use uplink::Uplink;

/// What an application server is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its number in the cluster; 0 where it stands alone.
    pub server: ServerId,
    /// Its boot number: grows with every start.
    pub incarnation: u64,
    /// The largest length field it takes from a client, in bytes.
    pub max_frame: usize,
    /// Silence after which a client is sent a PING.
    pub heartbeat: Span,
    /// Silence after which a client is closed NO_HEARTBEAT.
    pub heartbeat_timeout: Span,
    /// From accept to a complete LOGIN.
    pub login_timeout: Span,
    /// Connections, at most; more are closed FULL.
    pub connections_max: usize,
    /// What becomes of an older session of the same user.
    pub relogin: Relogin,
    /// What becomes of logins while the cluster can't be reached.
    pub cut_off: CutOff,
    /// Whether the application takes messages sent to the server itself.
    pub takes_messages: bool,
    /// Whether it answers queries sent to the server itself.
    pub takes_queries: bool,
    /// The cluster to join.
    pub cluster: Option<Membership>,
    /// The source of all randomness.
    pub seed: [u8; 32],
}

/// Which cluster a server joins, and how.
#[derive(Clone, Debug)]
pub struct Membership {
    /// The ACMS's transfer port.
    pub acms: SocketAddr,
    /// The cluster's name.
    pub name: String,
    /// What members prove to know; empty for a cluster without a secret.
    pub secret: Vec<u8>,
    /// Where clients reach this server, as told to the cluster.
    pub public_address: String,
    /// Users that this server takes.
    pub capacity: u32,
}

/// What becomes of logins while the cluster can't be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CutOff {
    /// They are let in; on return the newest session of each user stays.
    #[default]
    ServeLocal,
    /// They are refused UNAVAILABLE.
    RefuseNew,
}

/// What happened that the application, or the log, is to hear of.
#[derive(Debug)]
pub enum Event {
    /// A user wants in; answer with [`AppServer::verdict`].
    LoginAsked {
        /// Its connection.
        conn: ConnId,
        /// Its id.
        user: UserId,
        /// Its address.
        addr: SocketAddr,
        /// What it showed.
        login: Login,
    },
    /// A user is in.
    LoggedIn {
        /// Its connection.
        conn: ConnId,
        /// Its id.
        user: UserId,
        /// Its address.
        addr: SocketAddr,
    },
    /// A user is out.
    LoggedOut {
        /// Its id.
        user: UserId,
        /// Why.
        gone: Gone,
    },
    /// A user sent the server a message.
    Message(Inbox),
    /// A user sent the server a query; answer with [`AppServer::reply`].
    Query(Inbox),
    /// What became of a message or query of the server's own.
    Outcome {
        /// The id that [`AppServer::send`] gave.
        id: u64,
        /// What became of it.
        outcome: Outcome,
    },
    /// Where the users are that [`AppServer::locate`] asked for, in the order asked.
    Located {
        /// The number that the caller gave.
        token: u64,
        /// One a user: where, nowhere (`Ok(None)`), or why that can't be told.
        servers: Vec<Result<Option<ServerId>, Bounce>>,
    },
    /// The link to the cluster changed.
    Cluster(ClusterState),
    /// A connection ended.
    Closed {
        /// Which.
        conn: ConnId,
        /// The other side's address.
        addr: SocketAddr,
        /// Whose it was.
        user: Option<UserId>,
        /// Why.
        gone: Gone,
        /// In words.
        text: String,
    },
}

/// How a server stands to its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// Registered with the ACMS of this boot number.
    Up {
        /// The ACMS's boot number.
        epoch: u64,
    },
    /// The link was lost, or could not be made; it is dialled again after the pause.
    Down {
        /// Why.
        gone: Gone,
        /// Until the next dial.
        pause: Span,
    },
    /// The ACMS refuses this server for good; it is not dialled again.
    Refused {
        /// Why.
        code: CloseCode,
        /// In the ACMS's words.
        text: String,
    },
}

/// A message or query to the server itself.
#[derive(Debug)]
pub struct Inbox {
    /// The sender's connection.
    pub conn: ConnId,
    /// The sender.
    pub user: UserId,
    /// The application's information type.
    pub info_type: u32,
    /// The message's id.
    pub id: u64,
    /// The message's flags.
    pub flags: Flags,
    /// The body, a part of the chunk it was read into: copy what outlives the turn.
    pub body: Bytes,
}

/// What became of a message or query of the server's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver's engine has the message.
    Acked,
    /// The reply to the query; `failed` where the receiver's handler did.
    Replied {
        /// The reply's information type.
        info_type: u32,
        /// Whether the body is the text of a failure.
        failed: bool,
        /// The reply's body.
        body: Bytes,
    },
    /// It came back.
    Bounced(Bounce),
    /// No reply came in time.
    TimedOut,
}

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
    /// Whether it is not read from because the uplink is congested.
    waits_for_uplink: bool,
}

impl Peer {
    /// The user that is in on this connection.
    pub fn user(&self) -> Option<&UserId> {
        match self {
            Peer::Client(Client { session: Session::Online { user, .. }, .. }) => Some(user),
            Peer::Client(_) | Peer::Acms(_) => None,
        }
    }
}

/// How far a client is.
enum Session {
    /// No LOGIN yet.
    Anonymous,
    /// The application is looking at its LOGIN.
    Checking(UserId),
    /// The ACMS is looking at its claim.
    Claiming(UserId, u64),
    /// In.
    Online { user: UserId, session: u64, since: Time },
    /// Out; the connection is closing.
    Left,
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
    links: Links<Peer>,
    /// Users that are in, each with its connection.
    users: HashMap<UserId, ConnId, ahash::RandomState>,
    /// Clients that are not in yet.
    anonymous: usize,
    /// The ways to the cluster; none where the server stands alone.
    uplinks: Vec<Uplink>,
    sessions: u64,
    claims: HashMap<u64, ConnId, ahash::RandomState>,
    /// Questions that wait for the ACMS, by number.
    questions: HashMap<u64, Question, ahash::RandomState>,
    /// When each question's patience ends, oldest first: all have the same.
    question_ends: VecDeque<(Time, u64)>,
    questions_asked: u64,
    lookups_open: usize,
    /// Messages of the server's own, so far: their ids.
    messages: u64,
    /// Queries of the server's own, with whom they went to and when they are given up.
    queries: HashMap<u64, (UserId, Time), ahash::RandomState>,
    query_ends: BTreeSet<(Time, u64)>,
    dedupe: Dedupe,
    entropy: Entropy,
    events: VecDeque<Event>,
    counters: Counters,
    stopping: bool,
}

impl AppServer {
    /// A server that has just started.
    pub fn new(now: Time, config: Config) -> AppServer {
        let mut entropy = Entropy::new(config.seed);
        let uplinks = config.cluster.iter().map(|membership| Uplink::new(now, membership.clone())).collect();
        AppServer {
            links: Links::default(),
            users: HashMap::with_hasher(entropy.hasher()),
            anonymous: 0,
            uplinks,
            sessions: 0,
            claims: HashMap::with_hasher(entropy.hasher()),
            questions: HashMap::with_hasher(entropy.hasher()),
            question_ends: VecDeque::new(),
            questions_asked: 0,
            lookups_open: 0,
            messages: 0,
            queries: HashMap::with_hasher(entropy.hasher()),
            query_ends: BTreeSet::new(),
            dedupe: Dedupe::new(entropy.hasher()),
            entropy,
            events: VecDeque::new(),
            counters: Counters::default(),
            config,
            stopping: false,
        }
    }

    /// What happened next, until none is left.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
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
        self.stopping = true;
        let conns: Vec<ConnId> = self.links.iter().map(|(conn, _)| conn).collect();
        for conn in conns {
            self.close(now, conn, &Fault::new(CloseCode::SHUTDOWN, "the server is stopping"));
        }
    }

    /// Whether the server was told to stop and every connection has ended.
    pub fn is_stopped(&self) -> bool {
        self.stopping && self.links.is_empty()
    }

    /// Closes a user's session on this server, or asks the cluster to. False where the user is known to be nowhere.
    pub fn kick(&mut self, now: Time, user: &UserId, text: &str) -> bool {
        if let Some(conn) = self.conn_of(user) {
            self.close(now, conn, &Fault::new(CloseCode::KICKED, text.to_owned()));
            return true;
        }
        let kick = Outgoing { info_type: CloseCode::KICKED.to_wire(), to: user.as_bytes(), ..Outgoing::of(Kind::Kick) };
        self.control_up(now, &kick)
    }

    /// Sends a message or, with a deadline, a query to a user on any server. The id tells its outcome from others'.
    ///
    /// A DATA frame has an outcome only where it asks for an ACK or bounces.
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
        if query_ends.is_some() && self.queries.len() >= limits::QUERIES_PENDING_MAX {
            return Err(Bounce::Busy);
        }
        self.messages += 1;
        let id = ServerMessageId::compose(self.config.server, self.messages);
        let frame = Outgoing { kind, flags, info_type, id, to: to.as_bytes(), from: &[], body };
        if frame.wire_bytes() - limits::LENGTH_BYTES > self.config.max_frame {
            return Err(Bounce::TooBig);
        }
        let conn = match self.conn_of(to) {
            Some(conn) => conn,
            None => self.uplink_conn()?,
        };
        let droppable = flags.has(Flags::DROPPABLE);
        if droppable && self.links.get(conn).is_some_and(|link| link.queue().is_congested()) {
            self.counters.count_drop(Drop::Droppable);
            return Ok(id);
        }
        self.links.send(now, conn, &frame).map_err(|_| Bounce::Busy)?;
        if let Some(ends) = query_ends {
            self.queries.insert(id, (to.clone(), ends));
            self.query_ends.insert((ends, id));
        }
        Ok(id)
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
    }

    /// Bounces a message or query that a user sent to the server.
    pub fn refuse(&mut self, now: Time, message: &QueryRef, cause: Bounce) {
        let bounce = bounce_frame(cause, message.id, message.user.as_bytes(), &[]);
        self.counters.count_bounce(cause);
        if self.links.send_control(now, message.conn, &bounce).is_err() {
            self.counters.count_drop(Drop::BounceFull);
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

    /// The one way in which this side ends a connection.
    fn close(&mut self, now: Time, conn: ConnId, fault: &Fault) {
        self.depart(now, conn, Gone::Closed(fault.code), &fault.text);
        self.links.close(now, conn, fault.code, &fault.text);
    }

    /// Takes a connection out of everything that refers to it, whoever ended it.
    fn depart(&mut self, now: Time, conn: ConnId, gone: Gone, text: &str) {
        let Some(link) = self.links.get_mut(conn).filter(|link| link.is_live()) else { return };
        let addr = link.addr;
        let user = match &mut link.peer {
            Peer::Client(client) => {
                let session = std::mem::replace(&mut client.session, Session::Left);
                self.leave(now, conn, session, gone)
            }
            Peer::Acms(place) => {
                let place = *place;
                self.uplink_lost(now, place, gone, text);
                None
            }
        };
        self.events.push_back(Event::Closed { conn, addr, user, gone, text: text.to_owned() });
    }
}

/// What is needed to answer a message that was sent to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryRef {
    /// The sender's connection.
    pub conn: ConnId,
    /// The sender.
    pub user: UserId,
    /// The message's id.
    pub id: u64,
}

impl Inbox {
    /// What is needed to answer it.
    pub fn reference(&self) -> QueryRef {
        QueryRef { conn: self.conn, user: self.user.clone(), id: self.id }
    }
}

impl Core for AppServer {
    type Peer = Peer;

    fn links(&mut self) -> &mut Links<Peer> {
        &mut self.links
    }

    fn accepted(&mut self, now: Time, addr: SocketAddr) -> ConnId {
        let bounds = Bounds { soft: limits::CLIENT_QUEUE_SOFT_BYTES, hard: limits::CLIENT_QUEUE_BYTES_MAX };
        let full = self.links.len() >= self.config.connections_max || self.anonymous >= limits::ANONYMOUS_MAX;
        let client = Client { session: Session::Anonymous, waits_for_uplink: false };
        let conn = self.links.accept(now, addr, self.patience(), bounds, Peer::Client(client));
        self.anonymous += 1;
        if full {
            self.close(now, conn, &Fault::new(CloseCode::FULL, "the server has no room for more connections"));
        } else if self.stopping {
            self.close(now, conn, &Fault::new(CloseCode::SHUTDOWN, "the server is stopping"));
        }
        conn
    }

    fn connected(&mut self, now: Time, conn: ConnId) {
        self.uplink_connected(now, conn);
    }

    fn received(&mut self, now: Time, conn: ConnId, chunk: &Bytes, range: Range<usize>) {
        let Some(mut inbound) = self.links.begin(now, conn, chunk, range) else { return };
        let uplink = self.links.get(conn).and_then(|link| match link.peer {
            Peer::Acms(place) => Some(place),
            Peer::Client(_) => None,
        });
        let taken = match uplink {
            Some(place) => self.take_from_acms(now, place, &mut inbound),
            None => self.take_from_client(now, conn, &mut inbound),
        };
        match taken {
            Ok(()) => self.links.finish(now, conn, inbound),
            Err(fault) => self.close(now, conn, &fault),
        }
    }

    fn ended(&mut self, now: Time, conn: ConnId, end: End) {
        self.depart(now, conn, Gone::Ended(end), "");
        self.links.hung_up(conn);
    }

    fn relieved(&mut self, now: Time, conn: ConnId) {
        let Some(link) = self.links.get(conn) else { return };
        match &link.peer {
            Peer::Client(client) if client.waits_for_uplink => {}
            Peer::Client(_) => self.links.resume(now, conn),
            Peer::Acms(place) => self.release_waiters(now, *place),
        }
    }

    fn expire(&mut self, now: Time) {
        let mut due = Vec::new();
        self.links.expire(now, &mut due);
        for (conn, asked) in due {
            match asked {
                Due::Close(code, text) => self.close(now, conn, &Fault::new(code, text)),
                Due::DialTimeout => {
                    self.depart(now, conn, Gone::Ended(End::Failed(std::io::ErrorKind::TimedOut)), "no answer");
                    self.links.end(conn);
                }
            }
        }
        self.expire_uplinks(now);
        self.expire_questions(now);
        self.expire_queries(now);
    }

    fn deadline(&self) -> Option<Time> {
        let questions = self.question_ends.front().map(|(ends, _)| *ends);
        let queries = self.query_ends.first().map(|(ends, _)| *ends);
        let uplinks = self.uplinks.iter().filter_map(Uplink::deadline).min();
        [self.links.deadline(), questions, queries, uplinks].into_iter().flatten().min()
    }
}

/// The way of a frame.
impl AppServer {
    fn take_from_client(&mut self, now: Time, conn: ConnId, inbound: &mut Inbound<'_>) -> Result<(), Fault> {
        if self.links.get(conn).is_some_and(|link| link.stage() == Stage::Preface) {
            match Fault::of_opening(inbound.opening(), Role::Client, &mut self.counters)? {
                Some(_version) => self.links.advance(now, conn, Stage::Greeting),
                None => return Ok(()),
            }
        }
        loop {
            let Some(link) = self.links.get(conn).filter(|link| link.is_live()) else { return Ok(()) };
            let opened = link.stage() == Stage::Open;
            let max_frame = if opened { self.config.max_frame } else { limits::LOGIN_FRAME_BYTES_MAX };
            let Some(mut frame) = inbound.next(max_frame)? else { return Ok(()) };
            if opened {
                self.frame_from_user(now, conn, &mut frame)?;
            } else {
                self.frame_before_login(now, conn, &frame)?;
            }
        }
    }

    fn frame_from_user(&mut self, now: Time, conn: ConnId, frame: &mut Frame<'_>) -> Result<(), Fault> {
        match frame.envelope.header.kind {
            Kind::Data | Kind::Query | Kind::Reply | Kind::Ack => {
                self.check_from(conn, &frame.envelope)?;
                self.route_from_user(now, conn, frame)
            }
            Kind::Ask => {
                self.check_from(conn, &frame.envelope)?;
                self.ask_from_user(now, conn, frame);
                Ok(())
            }
            Kind::GroupJoin | Kind::GroupLeave | Kind::GroupData => {
                self.check_from(conn, &frame.envelope)?;
                self.bounce(now, Origin::Client(conn), &frame.envelope, Bounce::NoHandler);
                Ok(())
            }
            Kind::Logout => {
                self.check_from(conn, &frame.envelope)?;
                Err(Fault::new(CloseCode::LOGGED_OUT, "goodbye"))
            }
            Kind::Ping => self.pong(now, conn, &frame.envelope),
            Kind::Pong => Ok(()),
            Kind::Close => self.closed_by_peer(now, conn, frame),
            kind => Err(Fault::unexpected(kind)),
        }
    }

    /// The client writes its own id in `from`; the platform only compares.
    fn check_from(&self, conn: ConnId, envelope: &Envelope<'_>) -> Result<(), Fault> {
        match self.links.get(conn).and_then(|link| link.peer.user()) {
            Some(user) if user.as_bytes() == envelope.from => Ok(()),
            Some(_) | None => Err(Fault::new(CloseCode::SPOOF, "`from` is not the user that logged in")),
        }
    }

    fn route_from_user(&mut self, now: Time, conn: ConnId, frame: &mut Frame<'_>) -> Result<(), Fault> {
        let Envelope { header, to, .. } = frame.envelope;
        if to.is_empty() {
            match header.kind {
                Kind::Data | Kind::Query => return self.take_for_server(now, conn, frame),
                _ if ServerMessageId::server(header.id) == self.config.server => {
                    self.returned(frame);
                    return Ok(());
                }
                _ => {}
            }
        }
        let routed = match self.users.get(to) {
            Some(receiver) => self.deliver(now, *receiver, frame),
            None => {
                if !to.is_empty() {
                    check_id(to)?;
                }
                self.route_up(now, conn, frame)
            }
        };
        if let Err(cause) = routed {
            self.bounce(now, Origin::Client(conn), &frame.envelope, cause);
        }
        Ok(())
    }

    /// To a user of this server.
    fn deliver(&mut self, now: Time, receiver: ConnId, frame: &mut Frame<'_>) -> Result<(), Bounce> {
        let link = self.links.get(receiver).ok_or(Bounce::Offline)?;
        if frame.wire_bytes() > limits::LENGTH_BYTES + self.config.max_frame {
            return Err(Bounce::TooBig);
        }
        if link.queue().is_congested() && frame.envelope.header.flags.has(Flags::DROPPABLE) {
            self.counters.count_drop(Drop::Droppable);
            return Ok(());
        }
        self.links.forward(now, receiver, frame).map_err(|_| Bounce::Busy)?;
        self.counters.forwarded += 1;
        if self.links.get(receiver).is_some_and(|link| link.queue().is_congested()) {
            self.links.pause(receiver);
        }
        Ok(())
    }

    /// To a user of another server; a sender that fills the uplink is not read from until there is room again.
    fn route_up(&mut self, now: Time, sender: ConnId, frame: &mut Frame<'_>) -> Result<(), Bounce> {
        let conn = self.uplink_conn()?;
        let congested = |server: &AppServer| server.links.get(conn).is_some_and(|link| link.queue().is_congested());
        if congested(self) && frame.envelope.header.flags.has(Flags::DROPPABLE) {
            self.counters.count_drop(Drop::Droppable);
            return Ok(());
        }
        self.links.forward(now, conn, frame).map_err(|_| Bounce::Busy)?;
        self.counters.forwarded += 1;
        if congested(self) {
            self.wait_for_uplink(sender, conn);
        }
        Ok(())
    }

    fn take_for_server(&mut self, now: Time, conn: ConnId, frame: &Frame<'_>) -> Result<(), Fault> {
        let Envelope { header, .. } = frame.envelope;
        let user = frame.envelope.from_user()?;
        let taken = if header.kind == Kind::Query { self.config.takes_queries } else { self.config.takes_messages };
        if !taken {
            self.bounce(now, Origin::Client(conn), &frame.envelope, Bounce::NoHandler);
            return Ok(());
        }
        if header.flags.has(Flags::WANT_ACK) {
            let is_new = self.dedupe.take(&user, header.id, header.flags.has(Flags::RETRY));
            let ack = Outgoing { id: header.id, to: user.as_bytes(), ..Outgoing::of(Kind::Ack) };
            if self.links.send_control(now, conn, &ack).is_err() {
                self.counters.count_drop(Drop::BounceFull);
            }
            if !is_new {
                return Ok(());
            }
        }
        let inbox =
            Inbox { conn, user, info_type: header.info_type, id: header.id, flags: header.flags, body: frame.body() };
        self.events.push_back(if header.kind == Kind::Query { Event::Query(inbox) } else { Event::Message(inbox) });
        Ok(())
    }

    /// An ACK, REPLY or BOUNCE of a message that this server itself sent.
    fn returned(&mut self, frame: &Frame<'_>) {
        let Envelope { header, from, .. } = frame.envelope;
        let asked = self.queries.get(&header.id).filter(|(user, _)| user.as_bytes() == from);
        let outcome = match header.kind {
            Kind::Reply if asked.is_some() => Outcome::Replied {
                info_type: header.info_type,
                failed: header.flags.has(Flags::ERROR),
                body: frame.body(),
            },
            Kind::Bounce => Outcome::Bounced(Bounce::from_wire(header.info_type)),
            Kind::Ack => Outcome::Acked,
            _ => return self.counters.count_drop(Drop::Unroutable),
        };
        if let Some((_, ends)) = self.queries.remove(&header.id) {
            self.query_ends.remove(&(ends, header.id));
        }
        self.events.push_back(Event::Outcome { id: header.id, outcome });
    }

    fn expire_queries(&mut self, now: Time) {
        while let Some((ends, id)) = self.query_ends.first().copied().filter(|(ends, _)| *ends <= now) {
            self.query_ends.remove(&(ends, id));
            self.queries.remove(&id);
            self.events.push_back(Event::Outcome { id, outcome: Outcome::TimedOut });
        }
    }

    /// Tells the sender that its message was not delivered. Every message that is not delivered comes here.
    fn bounce(&mut self, now: Time, origin: Origin, envelope: &Envelope<'_>, cause: Bounce) {
        match envelope.header.kind {
            Kind::Data | Kind::Query | Kind::GroupJoin | Kind::GroupLeave | Kind::GroupData => {}
            _ => return self.counters.count_drop(Drop::Unroutable),
        }
        self.counters.count_bounce(cause);
        let bounce = bounce_frame(cause, envelope.header.id, envelope.from, envelope.to);
        let sent = match origin {
            Origin::Client(conn) => self.links.send_control(now, conn, &bounce).is_ok(),
            Origin::Acms(_) => self.control_up(now, &bounce),
        };
        if !sent {
            self.counters.count_drop(Drop::BounceFull);
        }
    }

    fn pong(&mut self, now: Time, conn: ConnId, ping: &Envelope<'_>) -> Result<(), Fault> {
        let pong = Outgoing { id: ping.header.id, ..Outgoing::of(Kind::Pong) };
        // One that does not fit follows so much else that the peer cannot take it for silence.
        if self.links.send_control(now, conn, &pong).is_err() {
            self.counters.count_drop(Drop::BounceFull);
        }
        Ok(())
    }

    fn closed_by_peer(&mut self, now: Time, conn: ConnId, frame: &Frame<'_>) -> Result<(), Fault> {
        let (code, text) = Fault::read_close(frame);
        self.depart(now, conn, Gone::ClosedByPeer(code), &text);
        self.links.end(conn);
        Ok(())
    }
}

/// The BOUNCE for a message `id` of `sender` that did not reach `receiver`.
fn bounce_frame<'a>(cause: Bounce, id: u64, sender: &'a [u8], receiver: &'a [u8]) -> Outgoing<'a> {
    Outgoing { info_type: cause.to_wire(), id, to: sender, from: receiver, ..Outgoing::of(Kind::Bounce) }
}
