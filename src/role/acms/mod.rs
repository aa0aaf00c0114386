//! The cluster manager's core: it knows who is where, and passes frames from one server to another.
//!
//! `mod` holds the state, `admission` the way from a stranger to a member, `member` what members say, `claims` the logins
//! that are under way, `presence` who hears of whom, `groups` the servers with members of
//! each, `assignment` where new ones are sent, `operator` what an operator sees and does, `pages` the directory by pages,
//! `servers` what servers say to each other; the way of a frame is
//! `Acms::relay` in `member`: one look-up of `to`, one of `from`, one slice to the receiver's server.

mod admission;
mod assignment;
mod claims;
mod errands;
mod groups;
mod member;
mod operator;
mod pages;
mod presence;
mod servers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;

use bytes::Bytes;
use slab::Slab;

use crate::buf::Bounds;
use crate::id::{ConnId, ServerId, UserId};
use crate::limits;
use crate::link::{Due, End, KeepAlive, Link, Links, Patience};
use crate::memory::Strain;
use crate::role::{Core, Counters, Departures, Digest, Directory, Entropy, Fault, Gone, Strained, Strangers, Tenure};
use crate::time::{Span, Time};
use crate::wire::CloseCode;
use crate::wire::link::{Nonce, Proof, ServerState};

pub use assignment::{Assigned, Assignment, Candidate, NoServer, Policy};
pub use errands::Settled;
pub use operator::{Pace, ServerView, Standing};
pub use pages::DirectoryPage;

use assignment::Reservations;
use claims::Claims;
use errands::Errands;
use groups::Groups;
use presence::{Interest, Presence};

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
    /// Bytes that all connections may hold together.
    pub memory_max: usize,
    /// Which server a new user is sent to.
    pub policy: Policy,
    /// From its start, how long a user that it does not know is not called offline.
    pub directory_grace: Span,
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
    /// A user has come, or is in on another server now. Those that a server's burst tells of are not: [`Event::Synced`] says
    /// how many there are. Only where [`Acms::tell_of_users`] asked for it.
    Online {
        /// Who.
        user: UserId,
        /// Where.
        server: ServerId,
    },
    /// A user has left. Those of a lost server are not told of: [`Event::Lost`] says how many they were. Only where asked
    /// for.
    Offline {
        /// Who.
        user: UserId,
        /// The server that it was on.
        server: ServerId,
    },
    /// What came of what was asked for an operator.
    Settled {
        /// The number that it was given.
        id: u64,
        /// What came of it.
        settled: Settled,
    },
    /// Memory is short, more so or less so than before.
    Memory(Strain),
    /// A connection ended.
    Closed {
        /// Which.
        conn: ConnId,
        /// The other side's address.
        addr: SocketAddr,
        /// The server that it had proven to be.
        server: Option<ServerId>,
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
    /// Users that it takes.
    capacity: u32,
    registered: Time,
    /// What it last said of itself, and when; its registration where it has not yet.
    state: ServerState,
    reported: Time,
    pace: Pace,
    /// Bindings of another tenure do not stand.
    tenure: Tenure,
    synced: bool,
    /// When it was asked to tell of all its users, until it begins to.
    asked: Option<Time>,
    /// How late the ages in its burst may be: what passed from the question to the burst's beginning.
    lateness: Span,
    /// It sends its users to others.
    draining: bool,
    digest: Digest,
    mismatches: u32,
    interest: Interest,
}

/// The cluster manager's core.
pub struct Acms {
    config: Config,
    links: Links<Peer>,
    strangers: Strangers,
    servers: Slab<Server>,
    places: BTreeMap<ServerId, u32>,
    directory: Directory,
    claims: Claims,
    /// Users that a draining server has sent to another one and that have not come there: not offline yet. More than there is
    /// room for are.
    moves: Departures,
    groups: Groups,
    presence: Presence,
    reservations: Reservations,
    /// Servers that nobody is sent to, by an operator's will.
    frozen: BTreeSet<ServerId>,
    last_assigned: ServerId,
    /// Chooses in place of the config's policy, where there is one.
    own_assignment: Option<Box<dyn Assignment>>,
    tenures: u64,
    /// Servers that were in the cluster before this start and have not told of their users.
    awaited: BTreeSet<ServerId>,
    /// Until then servers that were in the cluster before this start may not have come back, whoever else has.
    grace_ends: Time,
    /// Members whose queue had no room for control, to be closed before the turn ends.
    overwhelmed: Vec<ConnId>,
    entropy: Entropy,
    errands: Errands,
    events: VecDeque<Event>,
    /// Whether they are to tell of users.
    tells_of_users: bool,
    counters: Counters,
    stopping: bool,
}

impl Acms {
    /// A cluster manager that has just started.
    pub fn new(now: Time, config: Config) -> Acms {
        let mut entropy = Entropy::new(config.seed);
        Acms {
            links: Links::new(config.memory_max),
            grace_ends: now + config.directory_grace,
            config,
            strangers: Strangers::new(limits::STRANGERS_MAX),
            servers: Slab::new(),
            places: BTreeMap::new(),
            directory: Directory::new(entropy.hasher()),
            claims: Claims::new(&mut entropy),
            moves: Departures::new(&mut entropy, limits::MOVE_GRACE, limits::MOVES_MAX),
            groups: Groups::new(&mut entropy),
            presence: Presence::new(&mut entropy),
            reservations: Reservations::new(&mut entropy),
            frozen: BTreeSet::new(),
            last_assigned: ServerId(u16::MAX),
            own_assignment: None,
            tenures: 0,
            awaited: BTreeSet::new(),
            overwhelmed: Vec::new(),
            entropy,
            errands: Errands::default(),
            events: VecDeque::new(),
            tells_of_users: false,
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

    /// Users that are in, on all servers.
    pub fn user_count(&self) -> usize {
        self.servers.iter().map(|(_, server)| server.digest.count as usize).sum()
    }

    /// Bindings in the directory, those that no longer stand and wait to be swept included.
    pub fn binding_count(&self) -> usize {
        self.directory.len()
    }

    /// Logins that servers have put to it and not said to have opened.
    pub fn open_claims(&self) -> usize {
        self.claims.count()
    }

    /// Users under way from a server that drained to another one.
    pub fn moving_count(&self) -> usize {
        self.moves.count()
    }

    /// Users that were sent to a server and have not come there.
    pub fn assigned_count(&self) -> usize {
        self.reservations.count()
    }

    /// The user's server; none where the user is not online anywhere.
    pub fn locate(&self, user: &[u8]) -> Option<ServerId> {
        self.whereabouts(user).map(|server| server.id)
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
}

impl Strained for Acms {
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
        let server = match std::mem::replace(&mut link.peer, Peer::Left) {
            Peer::Member(place) => {
                let server = self.servers.remove(place as usize);
                self.places.remove(&server.id);
                self.directory.tenure_ended();
                self.claims.tenure_ended(server.tenure);
                self.groups_lost(now, place);
                self.server_left_errands(server.id);
                self.events.push_back(Event::Lost { server: server.id, users: server.digest.count, gone });
                self.tell_servers(now, Some(conn));
                Some(server.id)
            }
            Peer::Proven { server, .. } => Some(server),
            Peer::Stranger(_) | Peer::Left => None,
        };
        self.events.push_back(Event::Closed { conn, addr, server, gone, text: text.to_owned() });
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
        let full = self.links.admitted() >= self.config.connections_max;
        let conn = self.links.accept(now, addr, patience, Bounds { soft: hard, hard }, Peer::Stranger(nonce));
        if self.stopping {
            self.close(now, conn, &Fault::new(CloseCode::SHUTDOWN, "the cluster manager is stopping"));
        } else if full {
            let fault = Fault::full("the cluster manager has no room for more connections", &mut self.entropy);
            self.send_away(now, conn, &fault);
        } else {
            let links = &self.links;
            let is_stranger =
                |conn| links.get(conn).is_some_and(|link: &Link<Peer>| matches!(link.peer, Peer::Stranger(_)));
            if let Some(leaves) = self.strangers.admit(conn, &mut self.entropy.jitter, is_stranger) {
                let fault = Fault::full("too many came that have not said who they are", &mut self.entropy);
                self.send_away(now, leaves, &fault);
            }
        }
        conn
    }

    fn connected(&mut self, _now: Time, conn: ConnId) {
        unreachable!("the cluster manager dials nobody, yet {conn} is connected");
    }

    fn received(&mut self, now: Time, conn: ConnId, chunk: &Bytes, range: Range<usize>) {
        let bytes = range.len();
        let Some(mut inbound) = self.links.begin(now, conn, chunk, range) else {
            self.counters.late_bytes += bytes as u64;
            return;
        };
        match self.take(now, conn, &mut inbound) {
            Ok(()) => self.links.finish(now, conn, inbound),
            Err(fault) => self.close(now, conn, &fault),
        }
        self.ease(now);
        self.close_overwhelmed(now);
    }

    fn ended(&mut self, now: Time, conn: ConnId, end: End) {
        self.depart(now, conn, Gone::Ended(end), "");
        self.links.hung_up(conn, end);
        self.close_overwhelmed(now);
    }

    fn relieved(&mut self, _now: Time, _conn: ConnId) {
        // Nothing waits for a server's queue: what does not fit was bounced.
    }

    fn refusal(&mut self) -> Vec<u8> {
        Fault::full("the cluster manager has no descriptor left", &mut self.entropy).encode()
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
        self.moves.expire(now);
        self.reservations.expire(now);
        self.expire_errands(now);
        self.sweep(now, SWEEP_PLACES);
        self.expire_presence(now);
        self.ease(now);
        self.close_overwhelmed(now);
    }

    fn deadline(&self) -> Option<Time> {
        if self.directory.is_sweeping() {
            return Some(Time::ZERO);
        }
        [self.links.deadline(), self.errands.deadline(), self.presence_deadline()].into_iter().flatten().min()
    }
}
