//! What users and fate do, drawn from the seed.

use trunkline::id::{ConnId, ServerId, UserId};
use trunkline::limits;
use trunkline::role::appserver::JoinRef;
use trunkline::role::blob::BlobKey;
use trunkline::role::client::{NoServer, SendError};
use trunkline::time::{Span, Time};
use trunkline::wire::{Bounce, Flags};

use crate::answers::Question;
use crate::cluster::{self, ACMS, SERVERS};
use crate::model::{Manner, Sent, Session};
use crate::network::{Answer, Death, NodeId};
use crate::node::Role;
use crate::stranger::{Intent, Stranger};
use crate::swarm::Fault;
use crate::world::World;

/// The user that never logs in.
pub(crate) const GHOST: &str = "ghost";
/// Who a message to the server itself is for.
pub(crate) const SERVER_ITSELF: &str = "@server";

/// What the model calls a server's application, as a sender and where another server sends to it.
pub(crate) fn server_name(node: NodeId) -> String {
    format!("@{node}")
}

/// The server that is called so.
pub(crate) fn server_called(name: &str) -> Option<NodeId> {
    name.strip_prefix('@').and_then(|number| number.parse().ok())
}
/// World time by which everyone has logged in for the first time.
pub(crate) const SETTLED_MICROS: u64 = 3_000_000;

/// What is going to happen, at a time of its own.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A user does something.
    Act,
    /// This program says something.
    Insist(NodeId),
    /// A user logs in for the first time.
    Arrive(usize),
    /// The application answers a login.
    Verdict { node: NodeId, boot: u64, conn: ConnId, user: String, accepts: bool },
    /// An application answers a query that it has had for a while.
    Answer(Question),
    /// A user's program joins a group.
    Join { user: usize, group: String },
    /// The application answers a join.
    JoinVerdict { node: NodeId, boot: u64, join: JoinRef, accepts: bool },
    /// A program asks again who is in a group.
    AskMembers { node: NodeId, group: String },
    /// A sender gives a blob up.
    CancelBlob { node: NodeId, boot: u64, id: u64 },
    /// An application says whether it wants a blob.
    BlobVerdict { node: NodeId, boot: u64, key: BlobKey, accepts: bool },
    /// The application says who a user's friends are.
    Befriend { node: NodeId, boot: u64, conn: ConnId, user: String },
    /// The application says whom a user may watch.
    Permit { node: NodeId, boot: u64, conn: ConnId, watcher: String, id: u64, users: Vec<UserId> },
    /// Something goes wrong.
    Fault(Fault),
    /// A crashed process is started again.
    Restart(NodeId),
    /// What was cut from one node to another goes on.
    Heal(NodeId, NodeId),
    /// An application reads again.
    Unhold(NodeId),
    /// A listener accepts again.
    Listen(NodeId),
    /// A server that was told to drain waits for nobody any more.
    Hurry { node: NodeId, boot: u64 },
    /// A client that asked is told its server.
    Guide(NodeId),
}

/// Steps.
impl World {
    pub(crate) fn schedule_all(&mut self) {
        let plan = self.plan.clone();
        for user in 0..plan.users.len() {
            let at = self.rng.u64(0..500_000);
            self.schedule(at, Step::Arrive(user));
        }
        for group in &plan.groups {
            for user in 0..plan.users.len() {
                if self.rng.u8(0..3) > 0 {
                    let at = self.rng.u64(300_000..SETTLED_MICROS);
                    self.schedule(at, Step::Join { user, group: group.clone() });
                }
            }
        }
        for _ in 0..plan.acts {
            let at = self.rng.u64(0..plan.ends);
            self.schedule(at, Step::Act);
        }
        for (at, fault) in plan.faults {
            self.schedule(at, Step::Fault(fault));
        }
    }

    pub(crate) fn take_step(&mut self, step: Step) {
        match step {
            Step::Act => self.act(),
            Step::Insist(node) => {
                let to = self.any_user();
                self.say_once(node, Manner::Plain, &to, 9);
            }
            Step::Arrive(user) => {
                let server = self.server_for(user);
                self.start_client(user, server);
            }
            Step::Verdict { node, boot, conn, user, accepts } => {
                if self.nodes[node].boot == boot {
                    self.verdict(node, conn, user, accepts);
                    self.touch(node);
                }
            }
            Step::Answer(question) => self.answer(question),
            Step::Join { user, group } => {
                let programs = self.engines.iter().filter(|(_, engine)| engine.user == self.plan.users[user]);
                let program = programs.filter(|(_, engine)| !engine.is_over()).map(|(node, _)| *node).next();
                if let Some(node) = program {
                    self.join(node, &group);
                }
            }
            Step::JoinVerdict { node, boot, join, accepts } => {
                if self.nodes[node].boot == boot {
                    self.join_verdict(node, &join, accepts);
                }
            }
            Step::AskMembers { node, group } => self.ask_members(node, &group),
            Step::CancelBlob { node, boot, id } => {
                if self.nodes[node].boot == boot {
                    self.cancel_blob(node, id);
                }
            }
            Step::BlobVerdict { node, boot, key, accepts } => {
                if self.nodes[node].boot == boot {
                    self.blob_verdict(node, &key, accepts);
                }
            }
            Step::Befriend { node, boot, conn, user } => {
                if self.nodes[node].boot == boot {
                    self.befriend(node, conn, &user);
                }
            }
            Step::Permit { node, boot, conn, watcher, id, users } => {
                if self.nodes[node].boot == boot {
                    self.permit(node, conn, &watcher, id, users);
                }
            }
            Step::Fault(fault) => self.strike(fault),
            Step::Restart(node) => self.restart(node),
            Step::Heal(a, b) => {
                self.note(|| format!("the way from n{a} to n{b} heals"));
                self.network.heal(self.clock, a, b);
            }
            Step::Unhold(node) => self.hold(node, false),
            Step::Listen(node) => {
                self.listen(node);
                self.network.thaw(self.clock, node);
            }
            Step::Hurry { node, boot } => self.hurry(node, boot),
            Step::Guide(node) => self.guide(node),
        }
    }

    pub(crate) fn any_server(&mut self) -> NodeId {
        self.rng.choice(SERVERS).expect("there are servers")
    }

    /// Where a user is to log in.
    fn server_for(&mut self, user: usize) -> NodeId {
        let user = self.plan.users[user].clone();
        let assigned = if self.plan.assigns { self.assigned(&user) } else { None };
        assigned.unwrap_or_else(|| self.any_server())
    }

    /// The server that the ACMS names, where it can; never the liar.
    fn assigned(&mut self, user: &str) -> Option<NodeId> {
        let user: UserId = user.parse().expect("a user id");
        let now = self.nodes[ACMS].now(self.clock);
        let Role::Acms(acms) = &mut self.nodes[ACMS].role else { return None };
        let server = acms.assign(now, Some(&user)).ok()?.server.0.into();
        Some(server).filter(|server| SERVERS.contains(server))
    }

    /// A client is told which server to dial, or that there is none.
    fn guide(&mut self, node: NodeId) {
        let Some(engine) = self.engines.get(&node) else { return };
        let user = engine.user.clone();
        let server = self.assigned(&user);
        self.note(|| format!("n{node} ({user}) is sent to {server:?}"));
        let found = server.map(cluster::address).ok_or_else(|| NoServer::Now("none".to_owned()));
        let now = self.nodes[node].now(self.clock);
        if let Role::Client(client) = &mut self.nodes[node].role {
            client.found(now, found);
        }
        if let (Some(server), Some(engine)) = (server, self.engines.get_mut(&node)) {
            engine.server = server;
        }
        self.touch(node);
    }

    pub(crate) fn any_user(&mut self) -> String {
        let user = if self.rng.u8(0..self.plan.crowding) == 0 { 0 } else { self.rng.usize(0..self.plan.users.len()) };
        self.plan.users[user].clone()
    }

    /// Some user's program that runs.
    pub(crate) fn any_engine(&mut self) -> Option<NodeId> {
        let running = self.engines.iter().filter(|(_, engine)| !engine.is_over()).map(|(node, _)| *node);
        let running: Vec<NodeId> = running.collect();
        self.rng.choice(running)
    }

    fn act(&mut self) {
        if !self.plan.groups.is_empty() && self.rng.u8(0..3) == 0 {
            return self.act_in_group();
        }
        if self.plan.has_blobs && self.rng.u8(0..8) == 0 {
            return self.act_with_blob();
        }
        if self.plan.has_friends() && self.rng.u8(0..6) == 0 {
            return self.act_on_friends();
        }
        let Some(node) = self.any_engine() else { return };
        let to = if self.rng.u8(0..20) == 0 { GHOST.to_owned() } else { self.any_user() };
        match self.rng.u8(0..16) {
            0..=5 => self.say(node, Manner::Plain, &to),
            6..=9 => self.say(node, Manner::Acked, &to),
            10..=11 => self.say(node, Manner::Query, &to),
            12 => self.say(node, Manner::Droppable, &to),
            13 => self.say(node, Manner::Plain, SERVER_ITSELF),
            14 => self.say(node, Manner::Query, SERVER_ITSELF),
            _ if self.plan.servers_talk => {
                let server = self.any_server();
                let manner = [Manner::Plain, Manner::Acked, Manner::Query, Manner::Droppable][self.rng.usize(0..4)];
                self.speak_as_server(server, manner, &to);
                self.ask_as_server(server);
                let manner = if self.rng.bool() { Manner::Plain } else { Manner::Query };
                let other = server_name(self.any_server());
                self.speak_as_server(server, manner, &other);
            }
            _ => self.say(node, Manner::Plain, &to),
        }
    }

    fn say(&mut self, node: NodeId, manner: Manner, to: &str) {
        let large = self.rng.u8(0..16) == 0;
        let filler = if large { self.rng.usize(0..self.plan.large) } else { self.rng.usize(0..200) };
        let burst = if !large && self.rng.u8(0..4) == 0 { self.rng.usize(1..12) } else { 1 };
        for _ in 0..burst {
            self.say_once(node, manner, to, filler);
        }
    }

    pub(crate) fn say_once(&mut self, node: NodeId, manner: Manner, to: &str, filler: usize) {
        let now = self.nodes[node].now(self.clock);
        let engine = &self.engines[&node];
        let (from, sender, via) = (engine.user.clone(), engine.session(node), engine.server);
        let (serial, body) = self.model.compose(&from, to, filler);
        let Role::Client(client) = &mut self.nodes[node].role else { return };
        let user: Option<UserId> = (to != SERVER_ITSELF).then(|| to.parse().expect("a user id"));
        let patience = Span::from_micros(self.rng.u64(6_000_000..10_000_000));
        let taken: Result<u64, SendError> = match (manner, user) {
            (Manner::Acked, Some(user)) => client.send_acked(now, user, 0, body),
            (Manner::Query, user) => client.query(now, user.as_ref(), 0, &body, patience),
            (Manner::Droppable, user) => client.send(now, user.as_ref(), Flags::DROPPABLE, 0, &body),
            (Manner::Plain | Manner::Acked, user) => client.send(now, user.as_ref(), Flags::NONE, 0, &body),
        };
        self.note(|| format!("{from} says #{serial} {manner:?} to {to}, {filler} bytes: {taken:x?}"));
        if let Ok(id) = taken {
            self.sent(serial, id, Sent::new(manner, from, to, sender, via, self.clock));
        }
        self.touch(node);
    }

    /// A server's own code sends, to a user or to a server.
    pub(crate) fn speak_as_server(&mut self, node: NodeId, manner: Manner, to: &str) {
        let (now, boot) = (self.nodes[node].now(self.clock), self.nodes[node].boot);
        let from = server_name(node);
        let (serial, body) = self.model.compose(&from, to, 30);
        let Role::Server(server) = &mut self.nodes[node].role else { return };
        let (flags, ends): (Flags, Option<Time>) = match manner {
            Manner::Plain => (Flags::NONE, None),
            Manner::Droppable => (Flags::DROPPABLE, None),
            Manner::Acked => (Flags::WANT_ACK, None),
            Manner::Query => (Flags::NONE, Some(now + Span::from_secs(8))),
        };
        let taken: Result<u64, Bounce> = match server_called(to) {
            Some(other) => server.send_to_server(now, ServerId(other as u16), 0, &body, ends),
            None => server.send(now, &to.parse().expect("a user id"), flags, 0, &body, ends),
        };
        self.note(|| format!("server {node} says #{serial} {manner:?} to {to}: {taken:x?}"));
        if let Ok(id) = taken {
            let sender = Session { engine: node, number: boot as u32 };
            self.sent(serial, id, Sent::new(manner, from, to, sender, node, self.clock));
        }
        self.touch(node);
    }

    /// A server's own code asks where everyone is, one who never comes included.
    pub(crate) fn ask_as_server(&mut self, node: NodeId) {
        let now = self.nodes[node].now(self.clock);
        let users = self.plan.users.iter().map(String::as_str).chain([GHOST]);
        let users: Vec<UserId> = users.map(|user| user.parse().expect("a user id")).collect();
        let Role::Server(server) = &mut self.nodes[node].role else { return };
        self.questions += 1;
        self.locating.insert((node, self.questions));
        server.locate(now, self.questions, &users);
        self.touch(node);
    }

    fn sent(&mut self, serial: u64, id: u64, sent: Sent) {
        self.model.sent(serial, id, sent);
    }

    fn hold(&mut self, node: NodeId, held: bool) {
        let now = self.nodes[node].now(self.clock);
        if let Role::Client(client) = &mut self.nodes[node].role {
            client.hold(now, held);
            self.touch(node);
        }
    }
}

/// Faults.
impl World {
    fn strike(&mut self, fault: Fault) {
        self.note(|| format!("fault: {fault:?}"));
        match fault {
            Fault::Reset => {
                if let Some(wire) = self.network.any_wire() {
                    self.network.reset(self.clock, wire);
                }
            }
            Fault::HalfClose => {
                if let Some(wire) = self.network.any_wire() {
                    self.network.end_one_way(self.clock, wire);
                }
            }
            Fault::CrashAcms => self.crash_for_a_while(ACMS),
            Fault::CrashServer => {
                let server = self.any_server();
                self.crash_for_a_while(server);
            }
            Fault::CutUplink => {
                let server = self.any_server();
                self.cut(ACMS, server, 8_000_000);
            }
            Fault::CutClient => {
                if let Some(client) = self.any_engine() {
                    self.cut(client, self.engines[&client].server, 6_000_000);
                }
            }
            Fault::Refuse => {
                let node = self.rng.usize(ACMS..=SERVERS.len());
                if !self.nodes[node].is_down() {
                    self.network.listen(node, Answer::Refuses);
                    let until = self.clock + self.rng.u64(50_000..3_000_000);
                    self.schedule(until, Step::Listen(node));
                }
            }
            Fault::Stop => {
                let node = if self.rng.bool() { self.rng.usize(0..self.nodes.len()) } else { self.rng.usize(0..4) };
                self.nodes[node].stopped_until = self.clock + self.rng.u64(50_000..5_000_000);
            }
            Fault::LoginTwice => self.log_in_twice(),
            Fault::Roam => self.roam(),
            Fault::Hold => {
                if let Some(node) = self.any_engine() {
                    let until = self.clock + self.rng.u64(100_000..12_000_000);
                    self.schedule(until, Step::Unhold(node));
                    self.hold(node, true);
                    let to = self.engines[&node].user.clone();
                    self.flood(&to);
                }
            }
            Fault::Flood => {
                let to = self.any_user();
                self.flood(&to);
            }
            Fault::Stranger => self.admit_stranger(),
            Fault::Drain => {
                for _ in 0..self.rng.usize(1..=2) {
                    let server = self.any_server();
                    self.drain(server);
                }
            }
        }
        // What matters happens around a fault.
        for _ in 0..12 {
            let at = self.clock + self.rng.u64(0..2_500_000);
            if at < self.plan.ends {
                self.schedule(at, Step::Act);
            }
        }
    }

    fn crash_for_a_while(&mut self, node: NodeId) {
        let death = if self.rng.u8(0..self.plan.silence) == 0 { Death::Silent } else { Death::Loud };
        if self.crash(node, death) {
            let pause = if self.rng.u8(0..self.plan.haste) == 0 { 1..60_000 } else { 50_000..6_000_000 };
            let back = self.clock + self.rng.u64(pause);
            self.schedule(back, Step::Restart(node));
        }
    }

    /// A server is to end, as the engine does it on a signal: it listens no longer, sends its users to others, and ends
    /// once nobody is left, or is waited for no more. One server at least goes on.
    fn drain(&mut self, node: NodeId) {
        let goes_on = |node: &NodeId| !self.nodes[*node].is_down() && !self.drains.contains(node);
        if !goes_on(&node) || SERVERS.iter().filter(|other| goes_on(other)).count() < 2 {
            return;
        }
        let (now, boot) = (self.nodes[node].now(self.clock), self.nodes[node].boot);
        let Role::Server(server) = &mut self.nodes[node].role else { return };
        let span = server.drain(now);
        self.note(|| format!("n{node} drains within {} us", span.as_micros()));
        self.drains_in_order &= span > Span::default();
        self.drains.insert(node);
        self.listen(node);
        let grace = span.as_micros() + limits::SHUTDOWN_GRACE.as_micros();
        self.schedule(self.clock + grace, Step::Hurry { node, boot });
        self.touch(node);
    }

    fn hurry(&mut self, node: NodeId, boot: u64) {
        if self.nodes[node].boot != boot || !self.drains.contains(&node) {
            return;
        }
        let is_smooth = self.plan.only_drains() && !self.network.stalls();
        assert!(!is_smooth, "n{node} was to end by itself");
        if self.crash(node, Death::Loud) {
            let back = self.clock + self.rng.u64(1_000..3_000_000);
            self.schedule(back, Step::Restart(node));
        }
    }

    /// One way or both.
    fn cut(&mut self, a: NodeId, b: NodeId, longest: u64) {
        let heals = self.clock + self.rng.u64(100_000..longest);
        let ways = [(a, b), (b, a)];
        let ways = match self.rng.u8(0..4) {
            0 => &ways[..1],
            1 => &ways[1..],
            _ => &ways[..],
        };
        for (from, to) in ways {
            self.note(|| format!("nothing passes from n{from} to n{to}"));
            self.network.cut(self.clock, *from, *to);
            self.schedule(heals, Step::Heal(*from, *to));
        }
    }

    fn log_in_twice(&mut self) {
        let user = self.rng.usize(0..self.plan.users.len());
        let older = self.engines.iter().filter(|(_, engine)| engine.user == self.plan.users[user]);
        for node in older.map(|(node, _)| *node).collect::<Vec<_>>() {
            for _ in 0..12 {
                let at = self.clock + self.rng.u64(0..250_000);
                self.schedule(at, Step::Insist(node));
            }
        }
        let server = self.server_for(user);
        self.start_client(user, server);
    }

    /// A user's program ends, in order or not, and another one logs in on some server.
    fn roam(&mut self) {
        let Some(node) = self.any_engine() else { return };
        let user = self.engines[&node].user.clone();
        let place = self.plan.users.iter().position(|name| *name == user).expect("engines are users'");
        if self.rng.bool() {
            let now = self.nodes[node].now(self.clock);
            if let Role::Client(client) = &mut self.nodes[node].role {
                client.log_out(now);
            }
            let engine = self.engines.get_mut(&node).expect("it was chosen");
            engine.leaving = true;
            self.touch(node);
        } else {
            let death = if self.rng.bool() { Death::Silent } else { Death::Loud };
            self.crash(node, death);
        }
        let server = self.server_for(place);
        self.start_client(place, server);
    }

    /// Far more than fits, of all kinds, to one user.
    fn flood(&mut self, to: &str) {
        let is_large = self.plan.large > 60_000 && self.rng.u8(0..3) == 0;
        let senders = if self.plan.is_short_of_memory() { 4..=8 } else { 1..=3 };
        for _ in 0..self.rng.usize(senders) {
            let Some(sender) = self.any_engine() else { return };
            let manner = [Manner::Plain, Manner::Acked, Manner::Droppable][self.rng.usize(0..3)];
            let (count, filler) = if is_large { (6, self.plan.large) } else { (self.rng.usize(40..160), 300) };
            (0..count).for_each(|_| self.say_once(sender, manner, to, filler));
        }
    }

    fn admit_stranger(&mut self) {
        let floods = self.plan.has_rates() && self.rng.u8(0..3) == 0;
        let intent = if floods { Intent::Flooder } else { self.rng.choice(Intent::ALL).expect("not empty") };
        let from = self.any_user();
        let forged = self.model.forge(&self.plan.users, &from);
        let name = format!("mallory{}", self.nodes.len());
        let stranger = Stranger::new(intent, &name, &self.plan.users, &forged, &mut self.rng);
        self.start_stranger(stranger);
    }
}
