//! What users, applications and fate do, drawn from the seed.

use trunkline::id::{ConnId, UserId};
use trunkline::limits;
use trunkline::role::Core;
use trunkline::role::appserver::{self, Verdict};
use trunkline::role::client;
use trunkline::time::Span;
use trunkline::wire::Flags;

use crate::model::{Ending, Manner, Model, Sent, Session};
use crate::network::{Death, NodeId};
use crate::node::Role;
use crate::world::{ACMS, Engine, SERVERS, World};

/// The user that never logs in.
pub(crate) const GHOST: &str = "ghost";
/// Who a message to the server itself is for.
const SERVER_ITSELF: &str = "@server";
/// World time by which everyone has logged in for the first time.
pub(crate) const SETTLED_MICROS: u64 = 3_000_000;

/// What is going to happen, at a time of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// A user does something.
    Act,
    /// A user's program that has company by now says something.
    Insist(NodeId),
    /// A user logs in for the first time.
    Arrive(usize),
    /// The application answers a login.
    Verdict { node: NodeId, boot: u64, conn: ConnId },
    /// Something goes wrong.
    Fault(Fault),
    /// A crashed process is started again.
    Restart(NodeId),
    /// A partition between this server and the ACMS ends.
    Heal(NodeId),
    /// An application reads again.
    Unhold(NodeId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Some connection is reset.
    Reset,
    /// The ACMS dies, and is started again.
    CrashAcms,
    /// A server dies, and is started again.
    CrashServer,
    /// Nothing passes between a server and the ACMS for a while.
    Cut,
    /// A user's second program logs in while the first is still there.
    LoginTwice,
    /// A user leaves, and logs in elsewhere.
    Roam,
}

impl Fault {
    const ALL: [Fault; 6] =
        [Fault::Reset, Fault::CrashAcms, Fault::CrashServer, Fault::Cut, Fault::LoginTwice, Fault::Roam];
}

/// What one seed is about.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) users: Vec<String>,
    /// World time at which users stop acting and everything heals.
    pub(crate) ends: u64,
    pub(crate) acts: usize,
    pub(crate) faults: Vec<(u64, Fault)>,
    /// Whether applications stop reading now and then.
    pub(crate) holds: bool,
    /// Bytes of a large message.
    pub(crate) large: usize,
    /// One login in so many is looked at for a while.
    pub(crate) slow_verdict: u8,
    pub(crate) refuse_when_cut_off: bool,
}

impl Plan {
    pub(crate) fn draw(rng: &mut fastrand::Rng, large: usize) -> Plan {
        let ends = rng.u64(4_000_000..16_000_000);
        let calm = rng.u8(0..5) == 0;
        let kinds: Vec<Fault> = Fault::ALL.into_iter().filter(|_| !calm && rng.u8(0..5) < 2).collect();
        let mut faults = Vec::new();
        for _ in 0..rng.usize(1..8) {
            faults.extend(rng.choice(&kinds).map(|fault| (rng.u64(300_000..ends), *fault)));
        }
        Plan {
            users: (0..rng.usize(4..=6)).map(|number| format!("user{number}")).collect(),
            ends,
            acts: rng.usize(40..250),
            faults,
            holds: rng.u8(0..3) == 0,
            large,
            slow_verdict: rng.u8(2..20),
            refuse_when_cut_off: rng.u8(0..5) == 0,
        }
    }

    /// Whether nothing breaks.
    pub(crate) fn is_calm(&self) -> bool {
        self.faults.is_empty()
    }

    /// Whether users come and go and nothing else happens: then the ACMS always knows whose session is the newest.
    pub(crate) fn only_logins(&self) -> bool {
        self.faults.iter().all(|(_, fault)| matches!(fault, Fault::LoginTwice | Fault::Roam))
    }

    /// Whether only the ACMS comes and goes: then nobody is ever to be called offline who is not.
    pub(crate) fn only_acms_crashes(&self) -> bool {
        self.faults.iter().all(|(_, fault)| *fault == Fault::CrashAcms)
    }
}

/// Steps.
impl World {
    pub(crate) fn schedule_all(&mut self) {
        let plan = self.plan.clone();
        for user in 0..plan.users.len() {
            let at = self.rng.u64(0..500_000);
            self.schedule(at, Step::Arrive(user));
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
                let to = self.plan.users[self.rng.usize(0..self.plan.users.len())].clone();
                self.say_once(node, Manner::Plain, &to, 9);
                self.touch(node);
            }
            Step::Arrive(user) => {
                let server = self.any_server();
                self.start_client(user, server);
            }
            Step::Verdict { node, boot, conn } => {
                if self.nodes[node].boot == boot {
                    self.verdict(node, conn);
                    self.touch(node);
                }
            }
            Step::Fault(fault) => self.strike(fault),
            Step::Restart(node) => self.restart(node),
            Step::Heal(server) => {
                self.note(|| format!("the link between {server} and the ACMS heals"));
                self.network.heal(self.clock, ACMS, server);
            }
            Step::Unhold(node) => self.hold(node, false),
        }
    }

    fn any_server(&mut self) -> NodeId {
        self.rng.choice(SERVERS).expect("there are servers")
    }

    /// Some user's program that runs.
    fn any_engine(&mut self) -> Option<NodeId> {
        let running = self.engines.iter().filter(|(_, engine)| !engine.is_over()).map(|(node, _)| *node);
        let running: Vec<NodeId> = running.collect();
        self.rng.choice(running)
    }

    fn act(&mut self) {
        let Some(node) = self.any_engine() else { return };
        let receiver = self.rng.usize(0..=self.plan.users.len());
        let to = self.plan.users.get(receiver).cloned().unwrap_or_else(|| GHOST.to_owned());
        match self.rng.u8(0..14) {
            0..=5 => self.say(node, Manner::Plain, &to),
            6..=9 => self.say(node, Manner::Acked, &to),
            10..=11 => self.say(node, Manner::Query, &to),
            12 if self.plan.holds => {
                let until = self.clock + self.rng.u64(100_000..5_000_000);
                self.schedule(until, Step::Unhold(node));
                self.hold(node, true);
                self.flood(node);
            }
            12 => self.say(node, Manner::Plain, SERVER_ITSELF),
            _ => self.say(node, Manner::Query, SERVER_ITSELF),
        }
        self.touch(node);
    }

    fn hold(&mut self, node: NodeId, held: bool) {
        let now = self.nodes[node].now(self.clock);
        if let Role::Client(client) = &mut self.nodes[node].role {
            client.hold(now, held);
            self.touch(node);
        }
    }

    /// Somebody sends a user who does not read more than its server keeps for it.
    fn flood(&mut self, receiver: NodeId) {
        let Some(sender) = self.any_engine() else { return };
        let to = self.engines[&receiver].user.clone();
        if self.plan.large > 120_000 && self.rng.u8(0..3) == 0 {
            (0..8).for_each(|_| self.say_once(sender, Manner::Plain, &to, self.plan.large));
            self.touch(sender);
        }
    }

    fn say(&mut self, node: NodeId, manner: Manner, to: &str) {
        let large = self.rng.u8(0..12) == 0;
        let filler = if large { self.rng.usize(0..self.plan.large) } else { self.rng.usize(0..200) };
        let bursts = (!large || self.plan.holds) && self.rng.u8(0..4) == 0;
        let burst = if bursts { self.rng.usize(1..12) } else { 1 };
        for _ in 0..burst {
            self.say_once(node, manner, to, filler);
        }
    }

    fn say_once(&mut self, node: NodeId, manner: Manner, to: &str, filler: usize) {
        let now = self.nodes[node].now(self.clock);
        let engine = &self.engines[&node];
        let (from, mut sender) = (engine.user.clone(), engine.session(node));
        let (serial, body) = self.model.compose(&from, to, filler);
        let Role::Client(client) = &mut self.nodes[node].role else { return };
        let queued: usize = client.links().iter().map(|(_, link)| link.queue().len()).sum();
        if manner == Manner::Acked && queued + body.len() + limits::ENVELOPE_BYTES_MAX > limits::ENGINE_QUEUE_BYTES_MAX
        {
            // The engine keeps what does not fit now and sends it later, behind what is said meanwhile.
            sender.number = 0;
        }
        let user: Option<UserId> = (to != SERVER_ITSELF).then(|| to.parse().expect("a user id"));
        let patience = Span::from_micros(self.rng.u64(6_000_000..10_000_000));
        let taken = match (manner, user) {
            (Manner::Acked, Some(user)) => client.send_acked(now, user, 0, body),
            (Manner::Query, user) => client.query(now, user.as_ref(), 0, &body, patience),
            (Manner::Plain | Manner::Acked, user) => client.send(now, user.as_ref(), Flags::NONE, 0, &body),
        };
        self.note(|| format!("{from} says #{serial} {manner:?} to {to}, {filler} bytes: {taken:x?}"));
        if let Ok(id) = taken {
            let (deliveries, endings) = (Vec::new(), Vec::new());
            let sent = Sent { manner, from, to: to.to_owned(), sender, at: self.clock, deliveries, endings };
            self.model.sent(serial, id, sent);
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
                    self.note(|| format!("w{wire} is reset"));
                    self.network.reset(self.clock, wire);
                }
            }
            Fault::CrashAcms => self.crash_for_a_while(ACMS),
            Fault::CrashServer => {
                let server = self.any_server();
                self.crash_for_a_while(server);
            }
            Fault::Cut => {
                let server = self.any_server();
                self.network.cut(ACMS, server);
                let heals = self.clock + self.rng.u64(200_000..8_000_000);
                self.schedule(heals, Step::Heal(server));
            }
            Fault::LoginTwice => {
                let user = self.rng.usize(0..self.plan.users.len());
                let older = self.engines.iter().filter(|(_, engine)| engine.user == self.plan.users[user]);
                for node in older.map(|(node, _)| *node).collect::<Vec<_>>() {
                    for _ in 0..12 {
                        let at = self.clock + self.rng.u64(0..250_000);
                        self.schedule(at, Step::Insist(node));
                    }
                }
                let server = self.any_server();
                self.start_client(user, server);
            }
            Fault::Roam => self.roam(),
        }
    }

    fn crash_for_a_while(&mut self, node: NodeId) {
        let death = if self.rng.u8(0..3) == 0 { Death::Silent } else { Death::Loud };
        if self.crash(node, death) {
            let back = self.clock + self.rng.u64(50_000..6_000_000);
            self.schedule(back, Step::Restart(node));
        }
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
            self.engines.get_mut(&node).expect("it was chosen").leaving = true;
            self.touch(node);
        } else {
            let death = if self.rng.bool() { Death::Silent } else { Death::Loud };
            self.crash(node, death);
        }
        let server = self.any_server();
        self.start_client(place, server);
    }
}

/// Applications.
impl World {
    fn verdict(&mut self, node: NodeId, conn: ConnId) {
        let now = self.nodes[node].now(self.clock);
        if let Role::Server(server) = &mut self.nodes[node].role {
            server.verdict(now, conn, Verdict::Accept);
        }
    }

    pub(crate) fn hear_server(&mut self, node: NodeId, event: appserver::Event) {
        let boot = self.nodes[node].boot;
        let at = Session { engine: node, number: boot as u32 };
        self.note(|| format!("n{node}: {}", of_server(&event)));
        match event {
            appserver::Event::LoginAsked { conn, .. } if self.rng.u8(0..self.plan.slow_verdict) == 0 => {
                let later = self.clock + self.rng.u64(1..2_000_000);
                self.schedule(later, Step::Verdict { node, boot, conn });
            }
            appserver::Event::LoginAsked { conn, .. } => self.verdict(node, conn),
            appserver::Event::Message(inbox) => {
                self.model.handed(Manner::Plain, false, inbox.user.as_str(), SERVER_ITSELF, at, &inbox.body);
            }
            appserver::Event::Query(inbox) => {
                let user = inbox.user.as_str();
                let serial = self.model.handed(Manner::Query, false, user, SERVER_ITSELF, at, &inbox.body);
                let body = Model::reply_body(serial, SERVER_ITSELF);
                let now = self.nodes[node].now(self.clock);
                if let Role::Server(server) = &mut self.nodes[node].role {
                    server.reply(now, &inbox.reference(), Flags::NONE, 0, &body);
                }
            }
            appserver::Event::LoggedIn { .. }
            | appserver::Event::LoggedOut { .. }
            | appserver::Event::Outcome { .. }
            | appserver::Event::Located { .. }
            | appserver::Event::Cluster(_)
            | appserver::Event::Memory(_)
            | appserver::Event::Closed { .. } => {}
        }
    }

    pub(crate) fn hear_client(&mut self, node: NodeId, event: client::Event) {
        let engine = &self.engines[&node];
        let (user, at) = (engine.user.clone(), engine.session(node));
        self.note(|| format!("n{node} ({user}): {}", of_client(&event)));
        match event {
            client::Event::State(state) => self.client_state(node, &state),
            client::Event::Message(message) => {
                let manner = if message.flags.has(Flags::WANT_ACK) { Manner::Acked } else { Manner::Plain };
                let resent = message.flags.has(Flags::RETRY);
                let from = message.from.expect("no server sends");
                let serial = self.model.handed(manner, resent, from.as_str(), &user, at, &message.body);
                self.check_not_outdated(serial, node);
            }
            client::Event::Query(query) => {
                let from = query.from.expect("no server asks");
                let serial = self.model.handed(Manner::Query, false, from.as_str(), &user, at, &query.body);
                let body = Model::reply_body(serial, &user);
                let now = self.nodes[node].now(self.clock);
                if let Role::Client(client) = &mut self.nodes[node].role {
                    let replied = client.reply(now, Some(&from), query.id, Flags::NONE, 0, &body);
                    self.note(|| format!("{user} replies to #{serial}: {replied:?}"));
                }
            }
            client::Event::Sent { id, outcome: Ok(()) } => {
                self.model.ended(node, id, Ending::Taken);
            }
            client::Event::Sent { id, outcome: Err(failure) } => {
                let ending = match failure {
                    client::SendFailure::Bounced(cause) => Ending::Bounced(format!("{cause:?}")),
                    other => Ending::Failed(format!("{other:?}")),
                };
                self.end(node, id, ending);
            }
            client::Event::Replied { id, outcome: Ok(reply) } => {
                self.model.replied(node, id, &reply.body);
            }
            client::Event::Replied { id, outcome: Err(failure) } => {
                let ending = match failure {
                    client::QueryFailure::Bounced(cause) => Ending::Bounced(format!("{cause:?}")),
                    other => Ending::Failed(format!("{other:?}")),
                };
                self.end(node, id, ending);
            }
            client::Event::Bounced { id, cause, .. } => self.end(node, id, Ending::Bounced(format!("{cause:?}"))),
            client::Event::Answered { .. } => {}
        }
    }

    /// What a session says once the cluster has let in a newer one of the same user must not cross the hub.
    fn check_not_outdated(&self, serial: u64, receiver: NodeId) {
        let (sender, sent_at) = self.model.origin(serial);
        let Some(older) = self.engines.get(&sender.engine) else { return };
        let crosses = older.server != self.engines[&receiver].server && older.sessions == sender.number;
        if !crosses || !self.plan.only_logins() || sent_at < SETTLED_MICROS {
            return;
        }
        let newer = |engine: &&Engine| {
            let since = engine.online_since;
            engine.user == older.user
                && engine.server != older.server
                && engine.online
                && older.online_since < since
                && since < sent_at
        };
        let newer = self.engines.values().find(newer).map(|engine| engine.online_since);
        assert!(newer.is_none(), "#{serial} of {sender:?} crossed the hub; a newer session is in since {newer:?}");
    }

    fn end(&mut self, node: NodeId, id: u64, ending: Ending) {
        let offline = ending == Ending::Bounced("Offline".to_owned());
        let (serial, to, sent_at) = self.model.ended(node, id, ending);
        if !offline || !self.plan.only_acms_crashes() || sent_at < SETTLED_MICROS {
            return;
        }
        let was_in = |engine: &&Engine| engine.user == to && engine.online && engine.online_since < sent_at;
        let wrong = self.engines.values().find(was_in).map(|engine| engine.online_since);
        assert!(wrong.is_none(), "#{serial} to {to} bounced OFFLINE, who was in since {wrong:?}");
    }

    fn client_state(&mut self, node: NodeId, state: &client::State) {
        let now = self.clock;
        let engine = self.engines.get_mut(&node).expect("a client has its engine");
        match state {
            client::State::Online { .. } => {
                engine.sessions += 1;
                (engine.online, engine.online_since) = (true, now);
            }
            client::State::Reconnecting { .. } => engine.online = false,
            client::State::Stopped { .. } => {
                engine.online = false;
                engine.stopped = true;
            }
        }
    }
}

/// The event in the trace: bodies only by their length.
fn of_server(event: &appserver::Event) -> String {
    match event {
        appserver::Event::Message(inbox) | appserver::Event::Query(inbox) => {
            format!("{} sends {:x}, {} bytes, to the server", inbox.user, inbox.id, inbox.body.len())
        }
        appserver::Event::LoginAsked { .. }
        | appserver::Event::LoggedIn { .. }
        | appserver::Event::LoggedOut { .. }
        | appserver::Event::Outcome { .. }
        | appserver::Event::Located { .. }
        | appserver::Event::Cluster(_)
        | appserver::Event::Memory(_)
        | appserver::Event::Closed { .. } => format!("{event:?}"),
    }
}

fn of_client(event: &client::Event) -> String {
    match event {
        client::Event::Message(message) | client::Event::Query(message) => {
            let client::Message { from, id, flags, body, .. } = message;
            format!("gets {id:x} {flags:?} from {from:?}, {} bytes", body.len())
        }
        client::Event::Replied { id, outcome } => {
            format!("reply to {id:x}: {:?}", outcome.as_ref().map(|reply| reply.body.len()))
        }
        client::Event::Sent { id, outcome } => format!("outcome of {id:x}: {outcome:?}"),
        client::Event::Bounced { id, cause, .. } => format!("bounce of {id:x}: {cause:?}"),
        client::Event::State(_) | client::Event::Answered { .. } => format!("{event:?}"),
    }
}
