//! All nodes, one clock, and what happens next. The same seed gives the same world, to the last line of its trace.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use trunkline::id::ServerId;
use trunkline::limits;
use trunkline::role::acms::{self, Acms};
use trunkline::role::appserver::{self, AppServer, CutOff, Membership, Rates};
use trunkline::role::client::{self, Client};
use trunkline::time::Time;
use trunkline::wire::Login;
use trunkline::wire::link::Relogin;

use crate::model::{Model, Session, checksum};
use crate::network::{Death, Network, NodeId, Odds};
use crate::node::{Answer, Listeners, Node, Role};
use crate::scenario::{GHOST, Plan, SETTLED_MICROS, Step};

/// The ACMS's place among the nodes.
pub(crate) const ACMS: NodeId = 0;
/// The application servers' places.
pub(crate) const SERVERS: [NodeId; 2] = [1, 2];

/// World time, in microseconds, within which everything must have come to rest once all has healed.
const REST_MICROS: u64 = 75_000_000;
/// World time, in microseconds, within which everyone must be logged in once all has healed: two dials that come to
/// nothing, the pauses between, and a slow login check.
const LOGIN_MICROS: u64 = 18_000_000;
/// Turns that a virtual second may take: beyond, somebody spins.
const TURNS_PER_SECOND_MAX: u64 = 60_000;
const TRACE_LINES: usize = 50;

/// A user's program.
pub(crate) struct Engine {
    pub(crate) user: String,
    pub(crate) server: NodeId,
    pub(crate) sessions: u32,
    pub(crate) online: bool,
    /// World time of the last login.
    pub(crate) online_since: u64,
    pub(crate) stopped: bool,
    pub(crate) killed: bool,
    /// Killed while its server does not know or has not let it in: its login may still turn out a newer one.
    pub(crate) vanished: bool,
    /// It is logging out.
    pub(crate) leaving: bool,
}

impl Engine {
    pub(crate) fn is_over(&self) -> bool {
        self.stopped || self.killed || self.leaving
    }

    pub(crate) fn session(&self, node: NodeId) -> Session {
        Session { engine: node, number: if self.online { self.sessions } else { 0 } }
    }
}

/// What is said about a run.
pub(crate) struct Trace {
    pub(crate) hash: u64,
    last: VecDeque<String>,
    prints: bool,
}

pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) clock: u64,
    pub(crate) rng: fastrand::Rng,
    pub(crate) plan: Plan,
    pub(crate) nodes: Vec<Node>,
    pub(crate) engines: BTreeMap<NodeId, Engine>,
    pub(crate) network: Network,
    pub(crate) model: Model,
    pub(crate) trace: Trace,
    listeners: Listeners,
    steps: BTreeMap<(u64, u64), Step>,
    steps_scheduled: u64,
    pub(crate) turns: u64,
    /// The virtual second under way, and the turns it took.
    second: (u64, u64),
}

impl World {
    pub(crate) fn new(seed: u64, prints: bool) -> World {
        let mut rng = fastrand::Rng::with_seed(seed);
        let odds = Odds::draw(&mut rng);
        let large = odds.quarter_second_bytes().clamp(300, 200_000);
        let plan = Plan::draw(&mut rng, large);
        let mut world = World {
            seed,
            clock: 0,
            network: Network::new(rng.u64(..), odds.clone()),
            rng,
            plan,
            nodes: Vec::new(),
            engines: BTreeMap::new(),
            model: Model::default(),
            listeners: Listeners::new(),
            trace: Trace { hash: 0, last: VecDeque::new(), prints },
            steps: BTreeMap::new(),
            steps_scheduled: 0,
            turns: 0,
            second: (0, 0),
        };
        let plan = world.plan.clone();
        world.note(|| format!("{odds:?} {plan:?}"));
        for node in [ACMS].into_iter().chain(SERVERS) {
            let role = world.boot(node, 1);
            world.add(address(node), role);
        }
        world.schedule_all();
        world
    }

    fn add(&mut self, addr: SocketAddr, role: Role) -> NodeId {
        let id = self.nodes.len();
        let seed = self.rng.u64(..);
        self.nodes.push(Node::new(id, addr, self.clock, seed, role));
        self.note_listener(id);
        self.touch(id);
        id
    }

    /// A core of the ACMS or a server, at its start number `boot`.
    fn boot(&mut self, node: NodeId, boot: u64) -> Role {
        let seed = self.entropy();
        if node == ACMS {
            let (cluster, secret) = ("sim".to_owned(), b"secret".to_vec());
            let config = acms::Config {
                cluster,
                secret,
                epoch: 100 + boot,
                connections_max: 100,
                memory_max: usize::MAX,
                policy: acms::Policy::default(),
                seed,
            };
            return Role::Acms(Box::new(Acms::new(Time::ZERO, config)));
        }
        let cluster = Membership {
            acms: address(ACMS),
            name: "sim".to_owned(),
            secret: b"secret".to_vec(),
            public_address: address(node).to_string(),
            capacity: 100,
        };
        let config = appserver::Config {
            server: ServerId(node as u16),
            incarnation: 1_000 + boot,
            max_frame: limits::MAX_FRAME,
            heartbeat: limits::HEARTBEAT,
            heartbeat_timeout: limits::HEARTBEAT_TIMEOUT,
            login_timeout: limits::LOGIN_TIMEOUT,
            drain: limits::DRAIN,
            connections_max: 100,
            max_accepts_per_second: 0,
            memory_max: usize::MAX,
            rates: Rates::NONE,
            relogin: Relogin::ReplaceOld,
            cut_off: if self.plan.refuse_when_cut_off { CutOff::RefuseNew } else { CutOff::ServeLocal },
            takes_messages: true,
            takes_queries: true,
            cluster: Some(cluster),
            seed,
        };
        Role::Server(Box::new(AppServer::new(Time::ZERO, config)))
    }

    fn entropy(&mut self) -> [u8; 32] {
        std::array::from_fn(|_| self.rng.u8(..))
    }

    pub(crate) fn start_client(&mut self, user: usize, server: NodeId) {
        let user = self.plan.users[user].clone();
        let config = client::Config {
            server: address(server),
            user: user.parse().expect("a user id"),
            login: Login::default(),
            takes_queries: true,
            seed: self.entropy(),
        };
        let role = Role::Client(Box::new(Client::new(Time::ZERO, config)));
        let id = self.add(address(self.nodes.len()), role);
        self.note(|| format!("n{id}: {user} starts, for server {server}"));
        let online_since = 0;
        let engine = Engine {
            user,
            server,
            sessions: 0,
            online: false,
            online_since,
            stopped: false,
            killed: false,
            vanished: false,
            leaving: false,
        };
        self.engines.insert(id, engine);
    }

    /// Kills a process. False where it is dead already.
    pub(crate) fn crash(&mut self, node: NodeId, death: Death) -> bool {
        if self.nodes[node].is_down() {
            return false;
        }
        self.note(|| format!("n{node} dies, {death:?}"));
        self.network.crash(self.clock, node, death);
        self.nodes[node].role = Role::Down { silent: death == Death::Silent };
        self.nodes[node].shell.clear();
        self.note_listener(node);
        if let Some(engine) = self.engines.get_mut(&node) {
            engine.vanished = death == Death::Silent || !engine.online;
            (engine.killed, engine.online) = (true, false);
            self.model.engine_gone(node);
        }
        true
    }

    pub(crate) fn restart(&mut self, node: NodeId) {
        if !self.nodes[node].is_down() {
            return;
        }
        let boot = self.nodes[node].boot + 1;
        self.note(|| format!("n{node} starts again, number {boot}"));
        let role = self.boot(node, boot);
        let clock = self.clock;
        let place = &mut self.nodes[node];
        (place.role, place.boot, place.born) = (role, boot, clock);
        self.note_listener(node);
        self.network.revive(clock, node);
        self.touch(node);
    }

    /// Gives the node a turn now.
    pub(crate) fn touch(&mut self, node: NodeId) {
        self.network.wakes.insert((self.clock, node));
    }

    pub(crate) fn schedule(&mut self, at: u64, step: Step) {
        self.steps_scheduled += 1;
        self.steps.insert((at, self.steps_scheduled), step);
    }

    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        let line = format!("{:>11.6} {}", self.clock as f64 / 1e6, line());
        self.trace.hash = self.trace.hash.rotate_left(5) ^ checksum(line.as_bytes());
        if self.trace.prints {
            println!("{line}");
        }
        if self.trace.last.len() == TRACE_LINES {
            self.trace.last.pop_front();
        }
        self.trace.last.push_back(line);
    }
}

/// Time.
impl World {
    /// Lets everything happen that is due until `end`.
    fn run_until(&mut self, end: u64) {
        loop {
            let step = self.steps.first_key_value().map(|((at, _), _)| *at);
            let wake = self.network.wakes.first().map(|(at, _)| *at);
            let Some(next) = step.into_iter().chain(wake).min().filter(|at| *at <= end) else { break };
            self.clock = self.clock.max(next);
            if step == Some(next) {
                let (_, step) = self.steps.pop_first().expect("there is a next one");
                self.take_step(step);
            } else {
                let (_, node) = self.network.wakes.pop_first().expect("there is a next one");
                self.turn(node);
            }
        }
        self.clock = end;
    }

    /// One turn of one node's loop.
    fn turn(&mut self, node: NodeId) {
        self.count_turn(node);
        let clock = self.clock;
        self.nodes[node].receive(clock, &mut self.network);
        self.hear(node);
        self.check_queues(node);
        self.nodes[node].send(clock, &mut self.network, &self.listeners);
        self.hear(node);
        self.nodes[node].tidy(clock, &mut self.network);
    }

    fn count_turn(&mut self, node: NodeId) {
        self.turns += 1;
        let second = self.clock / 1_000_000;
        let turns = if self.second.0 == second { self.second.1 + 1 } else { 0 };
        self.second = (second, turns);
        assert!(turns < TURNS_PER_SECOND_MAX, "{turns} turns in virtual second {second}, the last by n{node}");
    }

    fn check_queues(&mut self, node: NodeId) {
        if let Some((bytes, bound)) = self.nodes[node].overfull_queue() {
            panic!("a queue of n{node} holds {bytes} bytes, at most {bound} are allowed");
        }
    }

    fn hear(&mut self, node: NodeId) {
        loop {
            match &mut self.nodes[node].role {
                Role::Acms(core) => match core.poll_event() {
                    Some(event) => self.hear_acms(&event),
                    None => return,
                },
                Role::Server(core) => match core.poll_event() {
                    Some(event) => self.hear_server(node, event),
                    None => return,
                },
                Role::Client(core) => match core.poll_event() {
                    Some(event) => self.hear_client(node, event),
                    None => return,
                },
                Role::Down { .. } => return,
            }
        }
    }

    fn hear_acms(&mut self, event: &acms::Event) {
        self.note(|| format!("acms: {event:?}"));
        let mismatch = matches!(event, acms::Event::Mismatch { .. });
        assert!(!mismatch, "no report was lost, yet a digest does not match: {event:?}");
    }

    fn note_listener(&mut self, id: NodeId) {
        let node = &self.nodes[id];
        let answer = match node.role {
            Role::Acms(_) | Role::Server(_) => Answer::Accepts,
            Role::Client(_) | Role::Down { silent: false } => Answer::Refuses,
            Role::Down { silent: true } => Answer::Silent,
        };
        self.listeners.insert(node.addr, (id, answer));
    }
}

/// From beginning to end.
impl World {
    pub(crate) fn run(&mut self) {
        self.run_until(self.plan.ends);
        self.heal_all();
        self.come_to_rest();
        self.check_end();
    }

    fn heal_all(&mut self) {
        self.note(|| "everything heals".to_owned());
        let rest = std::mem::take(&mut self.steps);
        for (_, step) in rest {
            match step {
                Step::Restart(_) | Step::Heal(_) | Step::Unhold(_) | Step::Verdict { .. } => self.take_step(step),
                Step::Act | Step::Insist(_) | Step::Arrive(_) | Step::Fault(_) => {}
            }
        }
    }

    fn come_to_rest(&mut self) {
        let (end, all_in) = (self.clock + REST_MICROS, self.clock + LOGIN_MICROS);
        while let Some(unrest) = self.unrest() {
            assert!(self.clock < end, "no rest after {} s: {unrest}", REST_MICROS / 1_000_000);
            assert!(self.clock < all_in || self.everyone_is_in(), "somebody's login is forgotten");
            self.run_until(self.clock + 237_000);
        }
        self.note(|| "at rest".to_owned());
        self.run_until(self.clock + 1_500_000);
    }

    /// Why the world is not at rest.
    fn unrest(&mut self) -> Option<String> {
        let unresolved = self.model.unresolved();
        if !unresolved.is_empty() {
            return Some(format!("unresolved: {unresolved:?}"));
        }
        if let Some(node) = SERVERS.into_iter().find(|node| !self.server(*node).cluster_is_up()) {
            return Some(format!("n{node} is cut off"));
        }
        if !self.everyone_is_in() {
            return Some("somebody is not in".to_owned());
        }
        if let Err(difference) = self.compare_directory() {
            return Some(difference);
        }
        let flushed = self.nodes.iter_mut().all(|node| node.is_down() || node.is_flushed());
        (!flushed || !self.network.is_still()).then(|| "bytes are under way".to_owned())
    }

    fn everyone_is_in(&self) -> bool {
        self.engines.values().all(|engine| engine.online || engine.is_over())
    }

    fn server(&self, node: NodeId) -> &AppServer {
        match &self.nodes[node].role {
            Role::Server(server) => server,
            Role::Acms(_) | Role::Client(_) | Role::Down { .. } => panic!("n{node} is not a running server"),
        }
    }

    fn acms(&self) -> &Acms {
        match &self.nodes[ACMS].role {
            Role::Acms(acms) => acms,
            Role::Server(_) | Role::Client(_) | Role::Down { .. } => panic!("the ACMS is not running"),
        }
    }

    /// Who is in, and where, as the servers have it against what the ACMS and the users' programs have.
    fn compare_directory(&self) -> Result<(), String> {
        let mut places: BTreeMap<&str, Vec<u16>> = BTreeMap::new();
        for node in SERVERS {
            for user in self.server(node).online() {
                places.entry(user.as_str()).or_default().push(node as u16);
            }
        }
        for user in &self.plan.users {
            let here = places.remove(user.as_str()).unwrap_or_default();
            let there: Vec<u16> = self.acms().locate(user.as_bytes()).into_iter().map(|server| server.0).collect();
            let programs = self.engines.values().filter(|engine| engine.user == *user && engine.online).count();
            if here != there || here.len() != programs {
                return Err(format!("{user}: servers say {here:?}, the ACMS {there:?}, {programs} programs are in"));
            }
        }
        if places.is_empty() { Ok(()) } else { Err(format!("nobody knows {places:?}")) }
    }

    fn check_end(&mut self) {
        assert_eq!(self.compare_directory(), Ok(()));
        let total = self.acms().user_count();
        let online = SERVERS.iter().map(|node| self.server(*node).users_online()).sum::<usize>();
        assert_eq!(total, online, "the ACMS's digests count otherwise than the servers");
        for user in &self.plan.users {
            let mut programs = self.engines.values().filter(|engine| engine.user == *user);
            let stays = programs.clone().any(|engine| !engine.killed && !engine.leaving);
            let is_in = programs.any(|engine| engine.online);
            assert!(!stays || is_in, "every program of {user} was turned out");
        }
        if self.plan.is_calm() {
            self.model.check_nothing_lost();
            if !self.plan.holds {
                self.model.check_all_arrived(SETTLED_MICROS, GHOST);
            }
        }
        let (sent, delivered) = (self.model.count(), self.model.delivered);
        self.note(|| format!("{sent} sent, {delivered} handed over"));
    }
}

/// A failure says how to see it again.
impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let World { seed, clock, turns, trace, .. } = self;
        let lines: Vec<&str> = trace.last.iter().map(String::as_str).collect();
        eprintln!(
            "seed {seed} failed at {clock} us of virtual time, turn {turns}. The last of its trace:\n{}\n\
             replay: SIM_SEED={seed} cargo test --no-default-features --test sim -- --nocapture",
            lines.join("\n")
        );
    }
}

fn address(node: NodeId) -> SocketAddr {
    SocketAddr::from(([10, 0, (node >> 8) as u8, node as u8], 7_000))
}
