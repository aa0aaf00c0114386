//! A cluster whose processes are killed again and again under load, and started again on their own ports.
//!
//! `cargo test` kills a few; `scripts/chaos.sh 100 7` as many as wanted. A seed fixes who is
//! killed, when, and what is sent; what the system makes of it differs from run to run.

mod ledger;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crossbeam_channel::TryRecvError;
use trunkline::{Client, Event, Pending, QueryFailure, SendError, SendFailure, State, UserId};

use self::ledger::{ACMS, Failure, Kind, Ledger, Moment, SERVERS, Stamp};
use crate::cluster::{INFO, start_acms};
use crate::port::Port;
use crate::program::{APPSERVER, Program};
use crate::{PATIENCE, now};

const USERS: usize = 10 * SERVERS;
/// How often the load is driven and what happened is looked at.
const TICK: Duration = Duration::from_millis(10);
/// Messages sent with each tick: up to 2,000 a second, so that a kill finds some under way.
const SENT_PER_TICK: usize = 20;
/// Bytes of a body beside its stamp, at most.
const FILLER_BYTES_MAX: usize = 400;
/// How long a query waits for its reply.
const QUERY_PATIENCE: Duration = Duration::from_secs(5);
/// From one kill to the next, milliseconds: often before the process killed last is back with all its users.
const KILL_GAP_MS: std::ops::Range<u64> = 200..2_500;
/// From a kill to the start of the same process again, milliseconds.
const RESTART_PAUSE_MS: std::ops::Range<u64> = 20..500;
/// How soon every server knows of a logout: long before the digests, compared every 10 s, would find one that was lost.
const LOGOUT_TOLD_WITHIN: Duration = Duration::from_secs(5);

type Delivery = Pending<Result<Result<(), SendFailure>, SendError>>;
type Reply = Pending<Result<Result<Vec<u8>, QueryFailure>, SendError>>;

/// One process of the cluster, whichever start of it runs.
struct Member {
    port: Port,
    running: Option<Program>,
    starts: usize,
    restarts_at: Moment,
}

struct User {
    client: Client,
    id: UserId,
    logins: usize,
    logged_in_at: Moment,
    lost_at: Option<Moment>,
    plain: BTreeMap<u64, usize>,
    deliveries: Vec<(usize, Delivery)>,
    queries: Vec<(usize, Reply)>,
}

struct Chaos {
    began: Instant,
    rng: fastrand::Rng,
    /// The servers by their number, then the ACMS.
    members: Vec<Member>,
    users: Vec<User>,
    ledger: Ledger,
    /// Bytes of the present ACMS's log that were looked at.
    log_read: usize,
    /// The next kill's place among the members, and its time.
    turn: usize,
    kill_at: Moment,
    kills: usize,
    redials: usize,
    longest_outage: Duration,
}

impl Chaos {
    fn start(seed: u64) -> Chaos {
        let members = std::iter::repeat_with(|| Member {
            port: Port::reserve(),
            running: None,
            starts: 0,
            restarts_at: Moment::ZERO,
        });
        let mut chaos = Chaos {
            began: now(),
            rng: fastrand::Rng::with_seed(seed),
            members: members.take(SERVERS + 1).collect(),
            users: Vec::new(),
            ledger: Ledger::of(USERS),
            log_read: 0,
            turn: 0,
            kill_at: Moment::ZERO,
            kills: 0,
            redials: 0,
            longest_outage: Duration::ZERO,
        };
        (0..=ACMS).rev().for_each(|place| chaos.start_member(place));
        chaos.acms().stderr.lines_with("told of its", SERVERS);
        for number in 0..USERS {
            let addr = chaos.members[number % SERVERS].port.addr();
            let name = format!("user{number}");
            let client = Client::builder(&name).takes_queries().patience(PATIENCE).connect(addr).expect("it is let in");
            let user = User {
                id: client.user().clone(),
                client,
                logins: 1,
                logged_in_at: chaos.now(),
                lost_at: None,
                plain: BTreeMap::new(),
                deliveries: Vec::new(),
                queries: Vec::new(),
            };
            chaos.users.push(user);
        }
        chaos.kill_at = chaos.now() + Duration::from_millis(chaos.rng.u64(KILL_GAP_MS));
        chaos
    }

    fn now(&self) -> Moment {
        self.began.elapsed()
    }

    fn acms(&self) -> &Program {
        self.members[ACMS].running.as_ref().expect("it runs")
    }

    fn start_member(&mut self, place: usize) {
        let transfer = self.members[ACMS].port.addr();
        let member = &mut self.members[place];
        member.starts += 1;
        member.running = Some(if place == ACMS {
            self.log_read = 0;
            start_acms(transfer.port(), &INFO, &[])
        } else {
            let (id, listen, acms) = (place.to_string(), member.port.addr().to_string(), transfer.to_string());
            Program::start(APPSERVER, &["--id", &id, "--listen", &listen, "--acms", &acms])
        });
    }

    fn kill_member(&mut self, place: usize) {
        self.read_log();
        let now = self.now();
        let pause = Duration::from_millis(self.rng.u64(RESTART_PAUSE_MS));
        let member = &mut self.members[place];
        let program = member.running.take().expect("it was started again");
        // Where it ended by itself, that is the fault to look at.
        program.expect_running();
        program.kill();
        member.restarts_at = now + pause;
        self.ledger.kills[place].push(now);
        for server in 0..SERVERS {
            if place == server || place == ACMS {
                self.ledger.apart[server].begin(now);
            }
        }
        for user in (0..USERS).filter(|user| user % SERVERS == place) {
            self.ledger.away[user].begin(now);
        }
    }

    /// Kills whose turn it is, and starts again whose pause is over.
    fn disturb(&mut self, kills: usize) {
        let now = self.now();
        for place in 0..=ACMS {
            if self.members[place].running.is_none() && self.members[place].restarts_at <= now {
                self.start_member(place);
            }
        }
        let victim = self.turn % (SERVERS + 1);
        if self.kills < kills && self.kill_at <= now && self.members[victim].running.is_some() {
            self.kill_member(victim);
            self.kills += 1;
            self.turn += 1;
            self.kill_at = now + Duration::from_millis(self.rng.u64(KILL_GAP_MS));
        }
    }

    /// Which servers the present ACMS knows, and the users of.
    fn read_log(&mut self) {
        let Some(acms) = &self.members[ACMS].running else { return };
        let (text, now) = (acms.stderr.text_from(self.log_read), self.began.elapsed());
        self.log_read += text.len();
        for line in text.lines() {
            for (server, apart) in self.ledger.apart.iter_mut().enumerate() {
                if line.contains(&format!("server {server} told of its ")) {
                    apart.end(now);
                } else if line.contains(&format!("server {server} lost ")) {
                    apart.begin(now);
                }
            }
        }
    }

    /// Looks at everything that happened since the last time.
    fn look(&mut self) {
        self.read_log();
        // Outcomes before events: what one user is told has arrived is then already among another's events.
        (0..USERS).for_each(|number| self.settle(number));
        for number in 0..USERS {
            let events: Vec<Event> = self.users[number].client.events().try_iter().collect();
            for event in events {
                self.hear(number, event);
            }
            if self.users[number].lost_at.is_none() && !self.ledger.apart[number % SERVERS].is_open() {
                let now = self.now();
                self.ledger.away[number].end(now);
            }
        }
    }

    fn hear(&mut self, number: usize, event: Event) {
        let now = self.now();
        match event {
            Event::State(state) => self.changed(number, state),
            Event::Presence { .. } => {}
            Event::Message(message) => {
                let from = message.from.as_ref().map_or(USERS, number_of);
                self.ledger.arrived(now, number, from, false, &message.body);
            }
            Event::Query(query) => {
                let from = query.message.from.as_ref().map_or(USERS, number_of);
                self.ledger.arrived(now, number, from, true, &query.message.body);
                let reply = reply_to(&query.message.body);
                query.reply(reply);
            }
            Event::GroupMessage { .. } | Event::Member { .. } | Event::MembersMissed(_) => {}
            Event::Undelivered { id, cause, .. } => match self.users[number].plain.remove(&id) {
                Some(sent) => self.ledger.told(now, sent, Err(cause.into())),
                None => self.ledger.violated(format!("user {number} is told of {id}, which it did not send: {cause}")),
            },
            Event::Blob(event) => self.ledger.violated(format!("user {number}: nobody sends blobs: {event:?}")),
        }
    }

    fn changed(&mut self, number: usize, state: State) {
        let (now, home) = (self.now(), number % SERVERS);
        let user = &mut self.users[number];
        match state {
            State::Online { .. } => {
                user.logins += 1;
                user.logged_in_at = now;
                if let Some(lost_at) = user.lost_at.take() {
                    self.longest_outage = self.longest_outage.max(now - lost_at);
                }
                if user.logins > self.members[home].starts {
                    self.ledger.violated(format!("user {number} logged in twice at one start of server {home}"));
                }
            }
            State::Reconnecting { gone, text, .. } => {
                self.redials += 1;
                let since = user.logged_in_at;
                // A login may be seen here only after its server was killed again.
                let killed = self.ledger.kills[home].last().is_some_and(|kill| *kill + Duration::from_secs(1) >= since);
                if user.lost_at.is_none() {
                    user.lost_at = Some(now);
                    if !killed {
                        self.ledger.violated(format!("user {number} lost server {home}, which lives: {gone} {text}"));
                    }
                }
            }
            State::NoServer { text, .. } => {
                self.ledger.violated(format!("user {number} was given its server, and asks: {text}"));
            }
            State::Stopped { code, text } => {
                self.ledger.violated(format!("user {number} is out for good: {code} {text}"));
            }
        }
    }

    /// Takes the outcomes that are there.
    fn settle(&mut self, number: usize) {
        let now = self.began.elapsed();
        let (user, ledger) = (&mut self.users[number], &mut self.ledger);
        user.deliveries.retain(|(sent, delivery)| match delivery.receiver().try_recv() {
            Ok(outcome) => {
                let outcome = outcome.map_err(Failure::from).and_then(|outcome| outcome.map_err(Failure::from));
                ledger.told(now, *sent, outcome);
                false
            }
            Err(TryRecvError::Empty) => true,
            Err(TryRecvError::Disconnected) => panic!("message {sent} has no outcome, and never will"),
        });
        user.queries.retain(|(sent, reply)| match reply.receiver().try_recv() {
            Ok(Ok(Ok(body))) => {
                let answers = body.strip_prefix(&b"reply to "[..]).and_then(Stamp::read);
                if answers.is_none_or(|stamp| stamp.number != *sent) {
                    ledger.violated(format!("query {sent} was answered with the reply to {answers:?}"));
                }
                ledger.told(now, *sent, Ok(()));
                false
            }
            Ok(Ok(Err(failure))) => {
                ledger.told(now, *sent, Err(failure.into()));
                false
            }
            Ok(Err(error)) => {
                ledger.told(now, *sent, Err(error.into()));
                false
            }
            Err(TryRecvError::Empty) => true,
            Err(TryRecvError::Disconnected) => panic!("query {sent} has no outcome, and never will"),
        });
    }

    fn send(&mut self, kind: Kind, from: usize, to: usize) {
        let stamp = self.ledger.note(kind, self.began.elapsed(), from, to);
        let body = stamp.body(self.rng.usize(..FILLER_BYTES_MAX));
        let id = self.users[to].id.clone();
        let user = &mut self.users[from];
        match kind {
            Kind::Plain => {
                let sent = user.client.send(Some(&id), 0, body).expect("its queue has room");
                user.plain.insert(sent, stamp.number);
            }
            Kind::Acked => {
                let delivery = user.client.send_acked(&id, 0, body).expect("its queue has room");
                user.deliveries.push((stamp.number, delivery));
            }
            Kind::Query => {
                let reply = user.client.query(Some(&id), 0, body, QUERY_PATIENCE).expect("its queue has room");
                user.queries.push((stamp.number, reply));
            }
        }
    }

    fn load(&mut self) {
        for _ in 0..SENT_PER_TICK {
            let (from, to) = (self.rng.usize(..USERS), self.rng.usize(..USERS));
            let kind = [Kind::Plain, Kind::Acked, Kind::Query][self.rng.usize(..3)];
            self.send(kind, from, to);
        }
    }

    fn is_whole(&self) -> bool {
        let is_up = |member: &Member| member.running.is_some();
        self.members.iter().all(is_up)
            && !self.ledger.away.iter().chain(&self.ledger.apart).any(|spans| spans.is_open())
    }

    fn is_settled(&self) -> bool {
        self.users.iter().all(|user| user.deliveries.is_empty() && user.queries.is_empty())
    }

    /// Goes on tick by tick, with or without load, until it is as wanted.
    fn until(&mut self, what: &str, mut act: impl FnMut(&mut Chaos), done: impl Fn(&Chaos) -> bool, within: Duration) {
        let (ends, tick) = (now() + within, crossbeam_channel::tick(TICK));
        while !done(self) {
            assert!(now() < ends, "{what}: not within {within:?}; so far {}", self.ledger.close());
            tick.recv().expect("it ticks");
            act(self);
            self.look();
        }
    }

    /// Everyone writes to everyone, behind everything sent before: what is not here or told of then was lost.
    fn everyone_reaches_everyone(&mut self) -> Duration {
        let asked = self.now();
        for (from, to) in (0..USERS).flat_map(|from| (0..USERS).map(move |to| (from, to))) {
            self.send(Kind::Acked, from, to);
        }
        self.until("reaching everyone", |_| (), Chaos::is_settled, PATIENCE);
        self.now() - asked
    }

    /// Half of the users leave; all servers know who did, and the ACMS how many are left.
    fn leave(mut self) -> Vec<String> {
        let stays = USERS / 2 / SERVERS * SERVERS;
        let gone: Vec<User> = self.users.drain(stays..).collect();
        let left: Vec<UserId> = gone.iter().map(|user| user.id.clone()).collect();
        gone.into_iter().for_each(|user| user.client.close().expect("it logs out"));
        let all: Vec<UserId> = self.users.iter().map(|user| user.id.clone()).chain(left).collect();
        let wanted: Vec<_> = (0..USERS)
            .map(|user| if user < stays { (true, Some((user % SERVERS) as u16)) } else { (false, None) })
            .collect();
        let ends = now() + LOGOUT_TOLD_WITHIN;
        for user in &self.users[..SERVERS] {
            // A logout is told to the cluster a moment after its user. An ACMS that started not long ago does not say
            // of anyone that he is offline, only that he is nowhere.
            loop {
                let asked = user.client.locate(&all).expect("its queue has room").wait();
                let answer = asked.expect("it runs").expect("it is connected").expect("an answer");
                let users = answer.users.iter();
                let told: Vec<_> =
                    users.map(|user| (user.online == Some(true), user.server.map(|server| server.0))).collect();
                if told == wanted {
                    break;
                }
                assert!(now() < ends, "{} hears {told:?}, and it is {wanted:?}", user.id);
            }
        }
        let acms = self.acms().stderr.clone();
        let mut logs = Vec::new();
        for (server, member) in self.members.drain(..SERVERS).enumerate() {
            let mut program = member.running.expect("it runs");
            if server == 0 {
                program.kill();
                acms.line_with(&format!("server 0 lost with {} users", stays / SERVERS));
            } else {
                program.terminate();
                program.expect_exit(0);
                logs.push(program.stderr.line_with("stopped: "));
            }
        }
        let mut program = self.members.remove(0).running.expect("it runs");
        program.terminate();
        program.expect_exit(0);
        logs.push(program.stderr.line_with("stopped: "));
        logs
    }
}

fn number_of(user: &UserId) -> usize {
    user.as_str().strip_prefix("user").and_then(|number| number.parse().ok()).expect("a user of this run")
}

fn reply_to(body: &[u8]) -> Vec<u8> {
    [b"reply to ", body].concat()
}

fn number_from_environment(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name}={value}: no number")))
}

#[test]
fn chaos_costs_no_acknowledged_message_and_no_client_its_server() {
    let kills = number_from_environment("CHAOS_KILLS", 8);
    let seed = number_from_environment("CHAOS_SEED", 1) as u64;
    let mut chaos = Chaos::start(seed);
    let all_done = move |chaos: &Chaos| chaos.kills == kills && chaos.is_whole();
    let act = move |chaos: &mut Chaos| {
        chaos.disturb(kills);
        chaos.load();
    };
    let within = Duration::from_millis(KILL_GAP_MS.end) * kills as u32 + PATIENCE;
    chaos.until("kills, and everybody back", act, all_done, within);
    chaos.until("outcomes", |_| (), Chaos::is_settled, 2 * PATIENCE);
    let took = chaos.now();
    let reached = chaos.everyone_reaches_everyone();
    let summary = chaos.ledger.close();
    let Chaos { redials, longest_outage, .. } = chaos;
    let starts: Vec<usize> = chaos.members.iter().map(|member| member.starts).collect();
    println!("seed {seed}: {kills} kills in {took:.1?}; starts of the servers and the ACMS {starts:?}");
    println!("{redials} redials, longest outage of a user {longest_outage:.1?}");
    println!("afterwards each of {USERS} users reached each in {reached:.1?}\n{summary}");
    chaos.ledger.expect_no_violation();
    for line in chaos.leave() {
        println!("{}", line.trim_end());
    }
}
