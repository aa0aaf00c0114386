//! The cluster manager's core: it knows who is where, and passes frames from one server to another.
//!
//! The way of a frame is [`Acms::relay`]: one look-up of `to`, one of `from`, one slice to the receiver's server.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;

use bytes::Bytes;
use slab::Slab;

use crate::buf::{Bounds, Frame, Inbound};
use crate::id::{ConnId, ServerId, UserId};
use crate::limits;
use crate::link::{Due, End, KeepAlive, Links, Patience, Stage};
use crate::role::{Binding, Core, Counters, Digest, Directory, Drop, Entropy, Fault, Gone, Tenure};
use crate::time::Time;
use crate::wire::link::{
    BindEntry, Membership, Nonce, Proof, ProveBody, Prover, Register, Relogin, ServerEntry, ServerMessageId, Servers,
};
use crate::wire::{Bounce, CloseCode, Envelope, Kind, Outgoing, Role, parse_object};

/// Directory places looked at between two turns while what a lost server left is swept.
const SWEEP_PLACES: usize = 4096;

/// What a cluster manager is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster's name.
    pub cluster: String,
    /// What members prove to know; empty for a cluster without a secret.
    pub secret: Vec<u8>,
    /// Its boot number: grows with every start.
    pub epoch: u64,
    /// Connections, at most; more are closed FULL.
    pub connections_max: usize,
    /// The source of all randomness.
    pub seed: [u8; 32],
}

/// What happened that the operator, or the log, is to hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A server is in.
    Registered {
        /// Its connection.
        conn: ConnId,
        /// Which server.
        server: ServerId,
        /// Where clients reach it.
        address: String,
        /// Its boot number.
        incarnation: u64,
    },
    /// A server is out, and its users with it.
    Lost {
        /// Which server.
        server: ServerId,
        /// How many users it had.
        users: u32,
        /// Why.
        gone: Gone,
    },
    /// A server has told of all its users.
    Synced {
        /// Which server.
        server: ServerId,
        /// How many users it has.
        users: u32,
    },
    /// A server's bindings were not what it says they are; it tells of them again.
    Mismatch {
        /// Which server.
        server: ServerId,
    },
    /// A connection ended.
    Closed {
        /// Which.
        conn: ConnId,
        /// The other side's address.
        addr: SocketAddr,
        /// Why.
        gone: Gone,
        /// In words.
        text: String,
    },
}

/// What a connection is to the cluster manager.
pub enum Peer {
    /// It dialled, and was challenged with this once its preface had come.
    Stranger(Nonce),
    /// It belongs to the cluster, and has not said what it is.
    Proven {
        /// Which server.
        server: ServerId,
        /// Its boot number.
        incarnation: u64,
        /// The ACMS's own proof, for REGISTERED; none where the cluster has no secret.
        own_proof: Option<Proof>,
    },
    /// A registered server: its place.
    Member(u32),
    /// Out; the connection is closing.
    Left,
}

/// A registered server.
struct Server {
    conn: ConnId,
    id: ServerId,
    incarnation: u64,
    address: String,
    /// Bindings of another tenure do not stand.
    tenure: Tenure,
    synced: bool,
    digest: Digest,
    mismatches: u32,
}

/// The cluster manager's core.
pub struct Acms {
    config: Config,
    links: Links<Peer>,
    servers: Slab<Server>,
    places: BTreeMap<ServerId, u32>,
    directory: Directory,
    tenures: u64,
    /// Whether the directory may hold bindings that do not stand.
    sweeping: bool,
    /// Servers that were in the cluster before this start and have not told of their users.
    awaited: BTreeSet<ServerId>,
    /// When those are given up.
    grace_ends: Time,
    /// Members whose queue had no room for control, to be closed before the turn ends.
    overwhelmed: Vec<ConnId>,
    entropy: Entropy,
    events: VecDeque<Event>,
    counters: Counters,
    stopping: bool,
}

impl Acms {
    /// A cluster manager that has just started.
    pub fn new(now: Time, config: Config) -> Acms {
        let mut entropy = Entropy::new(config.seed);
        Acms {
            config,
            links: Links::default(),
            servers: Slab::new(),
            places: BTreeMap::new(),
            directory: Directory::new(entropy.hasher()),
            tenures: 0,
            sweeping: false,
            awaited: BTreeSet::new(),
            grace_ends: now + limits::DIRECTORY_GRACE,
            overwhelmed: Vec::new(),
            entropy,
            events: VecDeque::new(),
            counters: Counters::default(),
            stopping: false,
        }
    }

    /// What happened next, until none is left.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What became of frames.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Registered servers.
    pub fn server_count(&self) -> usize {
        self.servers.len()
    }

    /// Users on all servers.
    pub fn user_count(&self) -> usize {
        self.servers.iter().map(|(_, server)| server.digest.count as usize).sum()
    }

    /// The user's server; none where the user is not online anywhere.
    pub fn locate(&self, user: &[u8]) -> Option<ServerId> {
        self.standing(user).map(|(_, server)| server.id)
    }

    /// Closes every connection with SHUTDOWN and takes no more. Done when [`Acms::is_stopped`].
    pub fn stop(&mut self, now: Time) {
        self.stopping = true;
        let conns: Vec<ConnId> = self.links.iter().map(|(conn, _)| conn).collect();
        for conn in conns {
            self.close(now, conn, &Fault::new(CloseCode::SHUTDOWN, "the cluster manager is stopping"));
        }
    }

    /// Whether it was told to stop and every connection has ended.
    pub fn is_stopped(&self) -> bool {
        self.stopping && self.links.is_empty()
    }

    /// The one way in which this side ends a connection.
    fn close(&mut self, now: Time, conn: ConnId, fault: &Fault) {
        self.depart(now, conn, Gone::Closed(fault.code), &fault.text);
        self.links.close(now, conn, fault.code, &fault.text);
    }

    fn close_overwhelmed(&mut self, now: Time) {
        while let Some(conn) = self.overwhelmed.pop() {
            self.close(now, conn, &Fault::new(CloseCode::SLOW, "no room for control frames"));
        }
    }

    /// Takes a connection out of everything that refers to it, whoever ended it.
    fn depart(&mut self, now: Time, conn: ConnId, gone: Gone, text: &str) {
        let Some(link) = self.links.get_mut(conn).filter(|link| link.is_live()) else { return };
        let addr = link.addr;
        if let Peer::Member(place) = std::mem::replace(&mut link.peer, Peer::Left) {
            let server = self.servers.remove(place as usize);
            self.places.remove(&server.id);
            self.sweeping = true;
            self.events.push_back(Event::Lost { server: server.id, users: server.digest.count, gone });
            self.tell_servers(now, Some(conn));
        }
        self.events.push_back(Event::Closed { conn, addr, gone, text: text.to_owned() });
    }
}

impl Core for Acms {
    type Peer = Peer;

    fn links(&mut self) -> &mut Links<Peer> {
        &mut self.links
    }

    fn accepted(&mut self, now: Time, addr: SocketAddr) -> ConnId {
        let patience = Patience {
            first_byte: limits::FIRST_BYTE_TIMEOUT,
            greeting: limits::LOGIN_TIMEOUT,
            keep_alive: KeepAlive::WhenUnsent(limits::LINK_KEEPALIVE),
            silence: limits::LINK_TIMEOUT,
        };
        let hard = limits::DOWNLINK_QUEUE_BYTES_MAX;
        let nonce = self.entropy.nonce();
        let full = self.links.len() >= self.config.connections_max;
        let conn = self.links.accept(now, addr, patience, Bounds { soft: hard, hard }, Peer::Stranger(nonce));
        if full {
            self.close(now, conn, &Fault::new(CloseCode::FULL, "the cluster manager has no room for more connections"));
        } else if self.stopping {
            self.close(now, conn, &Fault::new(CloseCode::SHUTDOWN, "the cluster manager is stopping"));
        }
        conn
    }

    fn connected(&mut self, _now: Time, conn: ConnId) {
        unreachable!("the cluster manager dials nobody, yet {conn} is connected");
    }

    fn received(&mut self, now: Time, conn: ConnId, chunk: &Bytes, range: Range<usize>) {
        let Some(mut inbound) = self.links.begin(now, conn, chunk, range) else { return };
        match self.take(now, conn, &mut inbound) {
            Ok(()) => self.links.finish(now, conn, inbound),
            Err(fault) => self.close(now, conn, &fault),
        }
        self.close_overwhelmed(now);
    }

    fn ended(&mut self, now: Time, conn: ConnId, end: End) {
        self.depart(now, conn, Gone::Ended(end), "");
        self.links.hung_up(conn);
    }

    fn relieved(&mut self, _now: Time, _conn: ConnId) {
        // Nothing waits for a server's queue: what does not fit was bounced.
    }

    fn expire(&mut self, now: Time) {
        let mut due = Vec::new();
        self.links.expire(now, &mut due);
        for (conn, asked) in due {
            match asked {
                Due::Close(code, text) => self.close(now, conn, &Fault::new(code, text)),
                Due::DialTimeout => unreachable!("the cluster manager dials nobody"),
            }
        }
        if self.sweeping {
            let servers = &self.servers;
            let stands = |binding: &Binding| {
                servers.get(binding.place as usize).is_some_and(|server| server.tenure == binding.tenure)
            };
            self.sweeping = !self.directory.sweep(SWEEP_PLACES, stands);
        }
        self.close_overwhelmed(now);
    }

    fn deadline(&self) -> Option<Time> {
        if self.sweeping { Some(Time::ZERO) } else { self.links.deadline() }
    }
}

/// From a stranger to a member.
impl Acms {
    fn take(&mut self, now: Time, conn: ConnId, inbound: &mut Inbound<'_>) -> Result<(), Fault> {
        if self.links.get(conn).is_some_and(|link| link.stage() == Stage::Preface) {
            match Fault::of_opening(inbound.opening(), Role::Server, &mut self.counters)? {
                Some(_version) => self.challenge(now, conn),
                None => return Ok(()),
            }
        }
        loop {
            let Some(link) = self.links.get(conn) else { return Ok(()) };
            match link.peer {
                Peer::Stranger(nonce) => {
                    let Some(frame) = inbound.next(limits::LOGIN_FRAME_BYTES_MAX)? else { return Ok(()) };
                    self.frame_from_stranger(now, conn, nonce, &frame)?;
                }
                Peer::Proven { .. } => {
                    let Some(frame) = inbound.next(limits::MAX_FRAME)? else { return Ok(()) };
                    self.frame_from_proven(now, conn, &frame)?;
                }
                Peer::Member(place) => {
                    let Some(mut frame) = inbound.next(limits::MAX_FRAME)? else { return Ok(()) };
                    self.frame_from_member(now, conn, place, &mut frame)?;
                }
                Peer::Left => return Ok(()),
            }
        }
    }

    fn challenge(&mut self, now: Time, conn: ConnId) {
        self.links.advance(now, conn, Stage::Greeting);
        if let Some(Peer::Stranger(nonce)) = self.links.get(conn).map(|link| &link.peer) {
            let nonce = *nonce;
            let challenge = Outgoing { id: self.config.epoch, body: &nonce, ..Outgoing::of(Kind::Challenge) };
            let sent = self.links.send_control(now, conn, &challenge);
            debug_assert_eq!(sent, Ok(()), "an empty queue takes a CHALLENGE");
        }
    }

    fn frame_from_stranger(
        &mut self,
        now: Time,
        conn: ConnId,
        acms_nonce: Nonce,
        frame: &Frame<'_>,
    ) -> Result<(), Fault> {
        let Envelope { header, to, .. } = frame.envelope;
        match header.kind {
            Kind::Prove => {}
            Kind::Ping => return self.pong(now, conn, header.id),
            Kind::Pong => return Ok(()),
            Kind::Close => return self.closed_by_peer(now, conn, frame),
            kind => return Err(Fault::unexpected(kind)),
        }
        // Every cause has the same text: a stranger learns nothing from it.
        let not_a_member = || Fault::new(CloseCode::NOT_A_MEMBER, "this server does not belong to the cluster");
        let body = ProveBody::parse(&frame.body()).ok_or_else(not_a_member)?;
        let server = ServerId(u16::try_from(header.info_type).map_err(|_| not_a_member())?);
        let membership = self.membership(server, header.id, acms_nonce, body.nonce);
        let proven =
            self.config.secret.is_empty() || membership.verify(&self.config.secret, Prover::Server, &body.proof);
        if !proven || to != self.config.cluster.as_bytes() {
            return Err(not_a_member());
        }
        let own_proof = (!self.config.secret.is_empty()).then(|| membership.prove(&self.config.secret, Prover::Acms));
        if let Some(link) = self.links.get_mut(conn) {
            link.peer = Peer::Proven { server, incarnation: header.id, own_proof };
        }
        Ok(())
    }

    fn membership(&self, server: ServerId, incarnation: u64, acms_nonce: Nonce, server_nonce: Nonce) -> Membership<'_> {
        let Config { cluster, epoch, .. } = &self.config;
        Membership { cluster, server, incarnation, epoch: *epoch, acms_nonce, server_nonce }
    }

    fn frame_from_proven(&mut self, now: Time, conn: ConnId, frame: &Frame<'_>) -> Result<(), Fault> {
        match frame.envelope.header.kind {
            Kind::Register => {
                let register: Register = parse_object(&frame.body())
                    .ok_or_else(|| Fault::new(CloseCode::BAD_FIELD, "the body of REGISTER is its JSON"))?;
                self.register(now, conn, register)
            }
            Kind::Ping => self.pong(now, conn, frame.envelope.header.id),
            Kind::Pong => Ok(()),
            Kind::Close => self.closed_by_peer(now, conn, frame),
            kind => Err(Fault::unexpected(kind)),
        }
    }

    fn register(&mut self, now: Time, conn: ConnId, register: Register) -> Result<(), Fault> {
        let Some(Peer::Proven { server: id, incarnation, own_proof }) = self.links.get(conn).map(|link| &link.peer)
        else {
            return Ok(());
        };
        let (id, incarnation, own_proof) = (*id, *incarnation, *own_proof);
        if let Some(place) = self.places.get(&id) {
            let older = &self.servers[*place as usize];
            // The same server on a new connection, or started again before its old connection was known to be lost.
            if older.address != register.address || older.incarnation > incarnation {
                let text = format!("server id {id} is in use by {}; {} asked for it", older.address, register.address);
                return Err(Fault::new(CloseCode::DUPLICATE_SERVER, text));
            }
            let old_conn = older.conn;
            self.depart(now, old_conn, Gone::Closed(CloseCode::DUPLICATE_SERVER), "the server came back");
            self.links.end(old_conn);
        }
        self.tenures += 1;
        let server = Server {
            conn,
            id,
            incarnation,
            address: register.address.clone(),
            tenure: Tenure(self.tenures),
            synced: false,
            digest: Digest::default(),
            mismatches: 0,
        };
        let place = u32::try_from(self.servers.insert(server)).expect("server ids have 16 bits");
        self.places.insert(id, place);
        if let Some(link) = self.links.get_mut(conn) {
            link.peer = Peer::Member(place);
        }
        self.links.advance(now, conn, Stage::Open);
        if register.previous_epoch != 0 && register.previous_epoch != self.config.epoch {
            self.await_peers(&register.peers);
        }
        let body = own_proof.as_ref().map_or(&[][..], |proof| &proof[..]);
        self.control(now, conn, &Outgoing { id: self.config.epoch, body, ..Outgoing::of(Kind::Registered) });
        self.events.push_back(Event::Registered { conn, server: id, address: register.address, incarnation });
        self.tell_servers(now, None);
        Ok(())
    }

    /// A server was in the cluster with an earlier ACMS: those it knew there have users that are not known here yet.
    fn await_peers(&mut self, peers: &[ServerId]) {
        for peer in peers {
            let synced = self.places.get(peer).is_some_and(|place| self.servers[*place as usize].synced);
            if !synced {
                self.awaited.insert(*peer);
            }
        }
    }

    fn tell_servers(&mut self, now: Time, except: Option<ConnId>) {
        let entries = self.servers.iter();
        let entries = entries.map(|(_, server)| ServerEntry { server: server.id, address: server.address.clone() });
        let servers = Servers { servers: entries.collect() };
        let body = serde_json::to_vec(&servers).expect("numbers and plain text");
        let conns: Vec<ConnId> = self.servers.iter().map(|(_, server)| server.conn).collect();
        for conn in conns.into_iter().filter(|conn| Some(*conn) != except) {
            self.control(now, conn, &Outgoing { body: &body, ..Outgoing::of(Kind::Servers) });
        }
    }

    /// Sends control to a server. One that has no room even for control is closed: its burst repairs what it missed.
    fn control(&mut self, now: Time, conn: ConnId, frame: &Outgoing<'_>) {
        if self.links.send_control(now, conn, frame).is_err() {
            self.overwhelmed.push(conn);
        }
    }

    fn pong(&mut self, now: Time, conn: ConnId, id: u64) -> Result<(), Fault> {
        self.control(now, conn, &Outgoing { id, ..Outgoing::of(Kind::Pong) });
        Ok(())
    }

    fn closed_by_peer(&mut self, now: Time, conn: ConnId, frame: &Frame<'_>) -> Result<(), Fault> {
        let (code, text) = Fault::read_close(frame);
        self.depart(now, conn, Gone::ClosedByPeer(code), &text);
        self.links.end(conn);
        Ok(())
    }
}

/// What a member says.
impl Acms {
    fn frame_from_member(&mut self, now: Time, conn: ConnId, place: u32, frame: &mut Frame<'_>) -> Result<(), Fault> {
        let Envelope { header, to, from } = frame.envelope;
        match header.kind {
            Kind::Data | Kind::Query | Kind::Reply | Kind::Ack | Kind::Bounce => self.relay(now, place, frame),
            Kind::Claim => self.claim(now, place, frame.envelope.from_user()?, header.id, header.info_type)?,
            Kind::Unbind => self.unbind(place, from, header.id),
            Kind::BurstBegin => self.begin_burst(place),
            Kind::Bind => self.bind_all(now, place, &frame.body())?,
            Kind::Synced => self.synced(place),
            Kind::Kick => self.kick(now, to, header.info_type),
            Kind::Digest => self.compare_digest(now, place, Digest { count: header.info_type, hash: header.id }),
            Kind::Lookup => self.look_up(now, conn, header.id, to),
            Kind::Ping => self.pong(now, conn, header.id)?,
            Kind::Pong => {}
            Kind::Close => self.closed_by_peer(now, conn, frame)?,
            kind => return Err(Fault::unexpected(kind)),
        }
        Ok(())
    }

    /// From one server to another: the hub's whole work on a message.
    fn relay(&mut self, now: Time, place: u32, frame: &mut Frame<'_>) {
        let Envelope { header, to, from } = frame.envelope;
        // Who bounces a message writes the id of a user who is not there in `from`; a server writes none.
        if header.kind != Kind::Bounce
            && !from.is_empty()
            && self.standing(from).is_none_or(|(at, _)| at.place != place)
        {
            return self.counters.count_drop(Drop::Spoofed);
        }
        let receiver = if to.is_empty() {
            let server = ServerMessageId::server(header.id);
            self.places.get(&server).map(|place| &self.servers[*place as usize])
        } else {
            self.standing(to).map(|(_, server)| server)
        };
        let forwarded = match receiver.map(|server| server.conn) {
            Some(conn) => self.links.forward(now, conn, frame).map_err(|_| Bounce::Busy),
            None => Err(self.absence(now)),
        };
        match forwarded {
            Ok(()) => self.counters.forwarded += 1,
            Err(cause) => self.bounce(now, place, &frame.envelope, cause),
        }
    }

    /// The user's binding and server, where that registration of the server still stands.
    fn standing(&self, user: &[u8]) -> Option<(Binding, &Server)> {
        let binding = self.directory.binding(user)?;
        let server = self.servers.get(binding.place as usize).filter(|server| server.tenure == binding.tenure)?;
        Some((binding, server))
    }

    /// Why a user is not found: the one place where OFFLINE is decided.
    fn absence(&self, now: Time) -> Bounce {
        let awaits = !self.awaited.is_empty() && now < self.grace_ends;
        let complete = !awaits && self.servers.iter().all(|(_, server)| server.synced);
        if complete { Bounce::Offline } else { Bounce::Retry }
    }

    fn bounce(&mut self, now: Time, place: u32, envelope: &Envelope<'_>, cause: Bounce) {
        match envelope.header.kind {
            Kind::Data | Kind::Query => {}
            _ => return self.counters.count_drop(Drop::Unroutable),
        }
        self.counters.count_bounce(cause);
        let bounce = Outgoing {
            info_type: cause.to_wire(),
            id: envelope.header.id,
            to: envelope.from,
            from: envelope.to,
            ..Outgoing::of(Kind::Bounce)
        };
        let conn = self.servers[place as usize].conn;
        if self.links.send_control(now, conn, &bounce).is_err() {
            self.counters.count_drop(Drop::BounceFull);
        }
    }

    /// A new session: it gets the user, unless the older one is kept.
    fn claim(&mut self, now: Time, place: u32, user: UserId, session: u64, policy: u32) -> Result<(), Fault> {
        let policy = Relogin::from_wire(policy)
            .ok_or_else(|| Fault::new(CloseCode::BAD_FIELD, "info_type of a CLAIM is a relogin policy"))?;
        let older = self.standing(user.as_bytes()).map(|(binding, _)| binding);
        let is_other = |older: &Binding| older.place != place || older.session != session;
        let answer = match older.filter(is_other) {
            Some(_) if policy == Relogin::KeepOld => CloseCode::ALREADY_ONLINE.to_wire(),
            older => {
                // On the same server, that server ends the older session when it reads the answer.
                if let Some(older) = older.filter(|older| older.place != place) {
                    self.send_kick(now, older, user.as_bytes(), CloseCode::REPLACED);
                }
                self.bind(place, user.clone(), session, signed(now));
                0
            }
        };
        let conn = self.servers[place as usize].conn;
        let claimed = Outgoing { info_type: answer, id: session, to: user.as_bytes(), ..Outgoing::of(Kind::Claimed) };
        self.control(now, conn, &claimed);
        Ok(())
    }

    fn bind(&mut self, place: u32, user: UserId, session: u64, since: i64) {
        self.forget(user.as_bytes());
        let server = &mut self.servers[place as usize];
        server.digest.add(server.incarnation, user.as_bytes(), session);
        self.directory.bind(user, Binding { tenure: server.tenure, place, session, since });
    }

    /// Takes the user's standing binding out of its server's digest: it is about to be removed or replaced.
    fn forget(&mut self, user: &[u8]) {
        if let Some((binding, _)) = self.standing(user) {
            let server = &mut self.servers[binding.place as usize];
            server.digest.remove(server.incarnation, user, binding.session);
        }
    }

    fn unbind(&mut self, place: u32, user: &[u8], session: u64) {
        let tenure = self.servers[place as usize].tenure;
        let exact = |binding: &Binding| binding.tenure == tenure && binding.session == session;
        if self.directory.binding(user).is_some_and(|binding| exact(&binding)) {
            self.forget(user);
            self.directory.unbind(user, tenure, session);
        }
    }

    fn begin_burst(&mut self, place: u32) {
        self.tenures += 1;
        let server = &mut self.servers[place as usize];
        server.tenure = Tenure(self.tenures);
        server.synced = false;
        server.digest = Digest::default();
        server.mismatches = 0;
        self.sweeping = true;
    }

    fn bind_all(&mut self, now: Time, place: u32, mut body: &[u8]) -> Result<(), Fault> {
        while !body.is_empty() {
            let (entry, rest) =
                BindEntry::split_first(body).ok_or_else(|| Fault::new(CloseCode::BAD_FIELD, "a BIND is cut short"))?;
            let age = i64::try_from(entry.age_ms).unwrap_or(i64::MAX).saturating_mul(1_000);
            self.bind_if_newest(now, place, UserId::parse(entry.user)?, entry.session, signed(now).saturating_sub(age));
            body = rest;
        }
        Ok(())
    }

    /// Both sides of a split may have let the user in: the newest login stays, wherever it is.
    fn bind_if_newest(&mut self, now: Time, place: u32, user: UserId, session: u64, since: i64) {
        let id = self.servers[place as usize].id;
        let rival = self.standing(user.as_bytes()).map(|(binding, server)| (binding, server.id));
        match rival.filter(|(binding, _)| binding.place != place) {
            Some((binding, rival)) if (binding.since, rival, binding.session) > (since, id, session) => {
                let tenure = self.servers[place as usize].tenure;
                let loser = Binding { tenure, place, session, since };
                self.send_kick(now, loser, user.as_bytes(), CloseCode::REPLACED);
            }
            Some((binding, _)) => {
                self.send_kick(now, binding, user.as_bytes(), CloseCode::REPLACED);
                self.bind(place, user, session, since);
            }
            None => self.bind(place, user, session, since),
        }
    }

    fn synced(&mut self, place: u32) {
        let server = &mut self.servers[place as usize];
        server.synced = true;
        self.awaited.remove(&server.id);
        self.events.push_back(Event::Synced { server: server.id, users: server.digest.count });
    }

    fn kick(&mut self, now: Time, user: &[u8], code: u32) {
        let code = CloseCode::from_wire(code).unwrap_or(CloseCode::KICKED);
        if let Some(binding) = self.standing(user).map(|(binding, _)| binding) {
            self.send_kick(now, binding, user, code);
        }
    }

    fn send_kick(&mut self, now: Time, binding: Binding, user: &[u8], code: CloseCode) {
        let conn = self.servers[binding.place as usize].conn;
        let kick = Outgoing { info_type: code.to_wire(), id: binding.session, to: user, ..Outgoing::of(Kind::Kick) };
        self.control(now, conn, &kick);
    }

    /// One mismatch may be a change under way; two in a row are a loss.
    fn compare_digest(&mut self, now: Time, place: u32, theirs: Digest) {
        let server = &mut self.servers[place as usize];
        server.mismatches = if !server.synced || server.digest == theirs { 0 } else { server.mismatches + 1 };
        if server.mismatches >= 2 {
            server.mismatches = 0;
            let (conn, id) = (server.conn, server.id);
            self.events.push_back(Event::Mismatch { server: id });
            self.control(now, conn, &Outgoing::of(Kind::Resync));
        }
    }

    fn look_up(&mut self, now: Time, conn: ConnId, id: u64, user: &[u8]) {
        let server = self.standing(user).map(|(_, server)| server.id.0.to_be_bytes());
        let (info_type, body) = match &server {
            Some(bytes) => (0, &bytes[..]),
            None => (self.absence(now).to_wire(), &[][..]),
        };
        self.control(now, conn, &Outgoing { info_type, id, from: user, body, ..Outgoing::of(Kind::Found) });
    }
}

/// A moment as a number that can lie before the start of this process's clock, as logins do that are older than it.
fn signed(now: Time) -> i64 {
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}
