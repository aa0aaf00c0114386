//! All nodes, one clock, and what happens next. The same seed gives the same world, to the last line of its trace.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use trunkline::id::ConnId;
use trunkline::limits;
use trunkline::role::client::Entrance;
use trunkline::role::{Gone, acms};
use trunkline::time::Span;
use trunkline::wire::CloseCode;

use crate::blobs::Blobs;
use crate::cluster::{self, ACMS, SERVERS};
use crate::friends::Sightings;
use crate::groups::Groups;
use crate::losses::Losses;
use crate::members::Members;
use crate::model::{Model, Session, checksum};
use crate::network::{Answer, Death, Network, NodeId, Odds};
use crate::node::{Clock, Node, Role};
use crate::scenario::Step;
use crate::swarm::Plan;

/// Turns that one node may take in a virtual second: beyond, it spins.
const NODE_TURNS_PER_SECOND_MAX: u32 = 12_000;
/// Turns of all nodes in a virtual second.
const TURNS_PER_SECOND_MAX: u32 = 60_000;
const TRACE_LINES: usize = 80;

/// A user's program.
pub(crate) struct Engine {
    pub(crate) user: String,
    /// The server that it is, was or wants to be on.
    pub(crate) server: NodeId,
    pub(crate) sessions: u32,
    pub(crate) online: bool,
    /// World time of the last login.
    pub(crate) online_since: u64,
    pub(crate) stopped: bool,
    pub(crate) killed: bool,
    /// It is logging out.
    pub(crate) leaving: bool,
}

impl Engine {
    fn new(user: String, server: NodeId) -> Engine {
        Engine {
            user,
            server,
            sessions: 0,
            online: false,
            online_since: 0,
            stopped: false,
            killed: false,
            leaving: false,
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.stopped || self.killed || self.leaving
    }

    pub(crate) fn session(&self, node: NodeId) -> Session {
        Session { engine: node, number: if self.online { self.sessions } else { 0 } }
    }
}

/// What is said about a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tracing {
    /// Nothing: a thousand seeds need no words.
    Off,
    /// Its last lines, told when the run fails.
    Kept,
    /// Every line, at once.
    Printed,
}

pub(crate) struct Trace {
    tracing: Tracing,
    pub(crate) hash: u64,
    last: VecDeque<String>,
}

pub(crate) struct World {
    pub(crate) seed: u64,
    /// Microseconds.
    pub(crate) clock: u64,
    pub(crate) rng: fastrand::Rng,
    pub(crate) plan: Plan,
    pub(crate) nodes: Vec<Node>,
    pub(crate) engines: BTreeMap<NodeId, Engine>,
    pub(crate) network: Network,
    pub(crate) model: Model,
    pub(crate) groups: Groups,
    pub(crate) losses: Losses,
    pub(crate) blobs: Blobs,
    pub(crate) sightings: Sightings,
    /// Servers that send their users to others, until their process ends.
    pub(crate) drains: BTreeSet<NodeId>,
    /// No server was told to drain that knew of nowhere to send its users: that one stops at once.
    pub(crate) drains_in_order: bool,
    /// When a draining server last sent each user away.
    pub(crate) moved: BTreeMap<String, u64>,
    pub(crate) members: Members,
    /// Everything has healed, and nothing is under way but what is said from now on.
    pub(crate) is_at_rest: bool,
    /// Questions of servers' own code that are not answered.
    pub(crate) locating: BTreeSet<(NodeId, u64)>,
    /// How many were asked.
    pub(crate) questions: u64,
    /// Logins that applications have decided, by server and connection, each with the world time of that.
    pub(crate) accepted: BTreeMap<(NodeId, ConnId), u64>,
    /// The servers whose application has let each user in. From then on the ACMS may send there what is for the user,
    /// whether or not the user's program ever hears of it.
    pub(crate) let_in: BTreeMap<String, BTreeSet<NodeId>>,
    pub(crate) trace: Trace,
    pub(crate) steps: BTreeMap<(u64, u64), Step>,
    steps_scheduled: u64,
    alarms: BTreeSet<(u64, NodeId)>,
    pub(crate) turns: u64,
    /// The virtual second under way, and the turns that each node took in it.
    second: u64,
    turns_in_second: Vec<u32>,
}

impl World {
    /// `steps`: how much happens, where that is given.
    pub(crate) fn new(seed: u64, steps: Option<usize>, tracing: Tracing) -> World {
        let mut rng = fastrand::Rng::with_seed(seed);
        let odds = Odds::draw(&mut rng);
        let large = odds.quarter_second_bytes().clamp(300, 150_000);
        let plan = Plan::draw(&mut rng, large, steps);
        let mut world = World {
            seed,
            clock: 0,
            network: Network::new(rng.u64(..), odds.clone()),
            rng,
            plan,
            nodes: Vec::new(),
            engines: BTreeMap::new(),
            model: Model::default(),
            groups: Groups::default(),
            losses: Losses::default(),
            blobs: Blobs::default(),
            sightings: Sightings::default(),
            drains: BTreeSet::new(),
            drains_in_order: true,
            moved: BTreeMap::new(),
            members: Members::default(),
            is_at_rest: false,
            locating: BTreeSet::new(),
            questions: 0,
            accepted: BTreeMap::new(),
            let_in: BTreeMap::new(),
            trace: Trace { tracing, hash: 0, last: VecDeque::new() },
            steps: BTreeMap::new(),
            steps_scheduled: 0,
            alarms: BTreeSet::new(),
            turns: 0,
            second: 0,
            turns_in_second: Vec::new(),
        };
        let plan = world.plan.clone();
        world.note(|| format!("{odds:?} {plan:?}"));
        for node in [ACMS].into_iter().chain(SERVERS) {
            let clock = world.draw_clock();
            let role = world.boot(node, clock, 1);
            world.add(clock, role);
        }
        world.schedule_all();
        world
    }

    fn draw_clock(&mut self) -> Clock {
        let drift = self.plan.drift;
        let rate = 1_000_000 - drift + self.rng.u64(0..=2 * drift);
        Clock { born: self.clock, offset: self.rng.u64(0..60_000_000), rate }
    }

    fn add(&mut self, clock: Clock, role: Role) -> NodeId {
        let id = self.nodes.len();
        let seed = self.rng.u64(..);
        self.nodes.push(Node::new(id, seed, clock, role));
        self.listen(id);
        self.touch(id);
        id
    }

    /// A core of the ACMS or a server, at its start number `boot`.
    fn boot(&mut self, node: NodeId, clock: Clock, boot: u64) -> Role {
        let (now, seed) = (clock.at(self.clock), self.entropy());
        if node == ACMS {
            // At its first start no server was there before: what a day shows is not hidden behind the grace.
            let directory_grace = if boot > 1 { limits::DIRECTORY_GRACE } else { Span::default() };
            return Role::Acms(cluster::acms(now, boot, &self.plan.settings, directory_grace, seed));
        }
        Role::Server(cluster::server(now, node, boot, &self.plan.settings, seed))
    }

    fn entropy(&mut self) -> [u8; 32] {
        std::array::from_fn(|_| self.rng.u8(..))
    }

    pub(crate) fn start_client(&mut self, user: usize, server: NodeId) {
        let user = self.plan.users[user].clone();
        let (clock, seed) = (self.draw_clock(), self.entropy());
        let asks = self.plan.assigns && self.rng.bool();
        let entrance = if asks { Entrance::Asked } else { Entrance::Fixed(cluster::address(server)) };
        let client = cluster::client(clock.at(self.clock), &user, entrance, seed);
        let id = self.add(clock, Role::Client(client));
        self.note(|| format!("n{id}: {user} starts, for server {server}"));
        self.engines.insert(id, Engine::new(user, server));
    }

    pub(crate) fn start_stranger(&mut self, stranger: crate::stranger::Stranger) {
        let clock = self.draw_clock();
        let intent = stranger.intent;
        let id = self.add(clock, Role::Stranger(Box::new(stranger)));
        self.note(|| format!("n{id}: a stranger, {intent:?}"));
    }

    /// Kills a process. False where it is dead already.
    pub(crate) fn crash(&mut self, node: NodeId, death: Death) -> bool {
        if self.nodes[node].is_down() {
            return false;
        }
        self.note(|| format!("n{node} dies, {death:?}"));
        self.losses.process_ended(self.clock, node);
        self.forget_process(node);
        if let Some(engine) = self.engines.get_mut(&node) {
            (engine.killed, engine.online) = (true, false);
            self.losses.session_ended(self.clock, &engine.user);
        }
        self.network.listen(node, if death == Death::Silent { Answer::Silence } else { Answer::Refuses });
        self.network.crash(self.clock, node, death);
        true
    }

    /// A process ends by itself, having closed everything.
    pub(crate) fn exit(&mut self, node: NodeId) {
        self.note(|| format!("n{node} exits"));
        self.losses.process_exited(self.clock, node);
        self.forget_process(node);
        self.network.listen(node, Answer::Refuses);
        self.network.crash(self.clock, node, Death::Loud);
    }

    fn forget_process(&mut self, node: NodeId) {
        self.model.engine_gone(node);
        self.blobs.process_gone(node);
        self.sightings.process_gone(node);
        self.groups.engine_gone(node);
        self.accepted.retain(|(server, _), _| *server != node);
        self.locating.retain(|(server, _)| *server != node);
        self.drains.remove(&node);
        if node == ACMS {
            self.members.acms_ended();
        }
        let place = &mut self.nodes[node];
        place.role = Role::Down;
        place.shell.clear();
        place.stopped_until = 0;
    }

    pub(crate) fn restart(&mut self, node: NodeId) {
        if !self.nodes[node].is_down() {
            return;
        }
        let boot = self.nodes[node].boot + 1;
        self.note(|| format!("n{node} starts again, number {boot}"));
        let clock = self.draw_clock();
        let role = self.boot(node, clock, boot);
        let place = &mut self.nodes[node];
        (place.role, place.boot, place.clock) = (role, boot, clock);
        self.listen(node);
        self.network.revive(self.clock, node);
        self.touch(node);
    }

    /// Has dials to the node answered as becomes its role.
    pub(crate) fn listen(&mut self, node: NodeId) {
        let answer = match self.nodes[node].role {
            Role::Server(_) if self.drains.contains(&node) => Answer::Refuses,
            Role::Acms(_) | Role::Server(_) => Answer::Accepts,
            Role::Client(_) | Role::Stranger(_) => Answer::Refuses,
            Role::Down => return,
        };
        self.network.listen(node, answer);
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
        if self.trace.tracing == Tracing::Off {
            return;
        }
        let line = format!("{:>11.6} {}", self.clock as f64 / 1e6, line());
        self.trace.hash = self.trace.hash.rotate_left(5) ^ checksum(line.as_bytes());
        if self.trace.tracing == Tracing::Printed {
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
    pub(crate) fn run_until(&mut self, end: u64) {
        loop {
            let step = self.steps.first_key_value().map(|((at, _), _)| *at);
            let wake = self.network.wakes.first().map(|(at, _)| *at);
            let alarm = self.alarms.first().map(|(at, _)| *at);
            let Some(next) = step.into_iter().chain(wake).chain(alarm).min().filter(|at| *at <= end) else { break };
            self.clock = self.clock.max(next);
            if step == Some(next) {
                let (_, step) = self.steps.pop_first().expect("there is a next one");
                self.take_step(step);
            } else if wake == Some(next) {
                let (_, node) = self.network.wakes.pop_first().expect("there is a next one");
                self.turn(node);
            } else {
                let (_, node) = self.alarms.pop_first().expect("there is a next one");
                self.nodes[node].alarm = u64::MAX;
                self.turn(node);
            }
        }
        self.clock = end;
    }

    /// One turn of one node's loop.
    fn turn(&mut self, node: NodeId) {
        let clock = self.clock;
        let place = &mut self.nodes[node];
        if place.is_down() {
            return;
        }
        if place.stopped_until > clock {
            self.network.wakes.insert((place.stopped_until, node));
            return;
        }
        self.count_turn(node);
        self.nodes[node].receive(clock, &mut self.network);
        self.hear(node);
        self.nodes[node].send(clock, &mut self.network);
        self.hear(node);
        let alarm = self.nodes[node].tidy(clock, &mut self.network);
        self.set_alarm(node, alarm);
        if let Some(fault) = self.nodes[node].queue_fault(self.plan.settings.memory_max) {
            panic!("{fault}");
        }
        let is_stopped = match &self.nodes[node].role {
            Role::Acms(core) => {
                self.losses.count(clock, node, core.counters());
                false
            }
            Role::Server(core) => {
                self.losses.count(clock, node, core.counters());
                core.is_stopped()
            }
            Role::Client(_) | Role::Stranger(_) | Role::Down => false,
        };
        if is_stopped {
            self.exit(node);
            let back = self.clock + self.rng.u64(1_000..3_000_000);
            self.schedule(back, Step::Restart(node));
        }
    }

    fn set_alarm(&mut self, node: NodeId, at: u64) {
        let before = std::mem::replace(&mut self.nodes[node].alarm, at);
        if before == at {
            return;
        }
        self.alarms.remove(&(before, node));
        if at != u64::MAX {
            self.alarms.insert((at, node));
        }
    }

    fn count_turn(&mut self, node: NodeId) {
        self.turns += 1;
        let second = self.clock / 1_000_000;
        if self.second != second {
            self.second = second;
            self.turns_in_second.clear();
        }
        self.turns_in_second.resize(self.nodes.len(), 0);
        self.turns_in_second[node] += 1;
        let turns = self.turns_in_second[node];
        assert!(turns < NODE_TURNS_PER_SECOND_MAX, "n{node} spins: {turns} turns in virtual second {second}");
        if turns.is_multiple_of(1_000) {
            let all: u32 = self.turns_in_second.iter().sum();
            assert!(all < TURNS_PER_SECOND_MAX, "{all} turns in virtual second {second}");
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
                Role::Stranger(_) | Role::Down => return,
            }
        }
    }

    fn hear_acms(&mut self, event: &acms::Event) {
        self.note(|| format!("acms: {event:?}"));
        match event {
            acms::Event::Mismatch { .. } => panic!("no report was lost, yet a digest does not match: {event:?}"),
            acms::Event::Registered { server, incarnation, .. } => self.members.registered(*server, *incarnation),
            acms::Event::Synced { server, .. } => self.members.synced(self.clock, *server),
            acms::Event::Lost { server, gone, .. } => {
                self.members.lost(self.clock, *server);
                // Whoever stops in order has answered for all that was passed on to it.
                let in_order = *gone == Gone::ClosedByPeer(CloseCode::SHUTDOWN) && self.drains_in_order;
                let node = usize::from(server.0);
                if SERVERS.contains(&node) && !in_order {
                    self.link_ended(node);
                }
            }
            acms::Event::Memory(_) | acms::Event::Closed { .. } => {}
            acms::Event::Online { .. } | acms::Event::Offline { .. } | acms::Event::Settled { .. } => {}
        }
    }

    pub(crate) fn link_ended(&mut self, server: NodeId) {
        assert!(self.plan.ends_links(), "the link of server {server} ended, and nothing broke it");
        self.losses.link_ended(self.clock, server);
    }
}

/// A failure says how to see it again.
impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() || self.trace.tracing == Tracing::Off {
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
