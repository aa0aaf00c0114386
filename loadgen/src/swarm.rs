//! The users: a core like any other, with one link a user.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;

use bytes::Bytes;
use hdrhistogram::Histogram;
use trunkline::buf::{Bounds, Frame};
use trunkline::id::ConnId;
use trunkline::limits;
use trunkline::link::{Due, End, KeepAlive, Links, Patience, Stage};
use trunkline::role::{Core, Fault};
use trunkline::time::{Span, Time};
use trunkline::wire::{Cluster, Kind, Outgoing, Preface, Role, Welcome, parse_object};

/// Bytes of a body that are looked at: sequence number, time of sending, sender, receiver.
const STAMP_BYTES: usize = 24;
/// How long logins, and after the measurement the last messages, may take.
const PATIENCE: Span = Span::from_secs(30);
/// Dials under way at once, so that the servers' backlogs are not what is measured.
const DIALS_MAX: usize = 256;

/// What load to make.
pub(crate) struct Config {
    pub(crate) servers: Vec<SocketAddr>,
    /// An even number.
    pub(crate) users: usize,
    pub(crate) window: u32,
    pub(crate) body_bytes: usize,
    pub(crate) warm_up: Span,
    pub(crate) duration: Span,
}

/// One user, and what it expects from its partner.
struct User {
    conn: Option<ConnId>,
    /// Messages sent to the partner.
    sent: u64,
    /// Messages that came from the partner, in order from 0.
    received: u64,
}

enum Phase {
    LoggingIn,
    WarmingUp,
    Measuring { since: Time },
    Draining,
    Done,
}

pub(crate) struct Swarm {
    config: Config,
    links: Links<usize>,
    users: Vec<User>,
    online: usize,
    next_dial: usize,
    phase: Phase,
    phase_ends: Time,
    body: Vec<u8>,
    report: Report,
}

/// What was measured, and what was wrong.
pub(crate) struct Report {
    users: usize,
    messages: u64,
    measured: Span,
    /// From send to arrival, in microseconds.
    latency: Histogram<u64>,
    violations: Vec<String>,
    violation_count: u64,
}

impl Swarm {
    pub(crate) fn new(now: Time, config: Config) -> Swarm {
        let users = (0..config.users).map(|_| User { conn: None, sent: 0, received: 0 }).collect();
        let body = vec![0x5a; config.body_bytes];
        let report = Report {
            users: config.users,
            messages: 0,
            measured: Span::default(),
            latency: Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are in order"),
            violations: Vec::new(),
            violation_count: 0,
        };
        Swarm {
            config,
            links: Links::default(),
            users,
            online: 0,
            next_dial: 0,
            phase: Phase::LoggingIn,
            phase_ends: now + PATIENCE,
            body,
            report,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Done)
    }

    pub(crate) fn phase_ends(&self) -> Time {
        self.phase_ends
    }

    pub(crate) fn into_report(self) -> Report {
        self.report
    }

    /// The load's own part of a turn: dials, and moves from phase to phase.
    pub(crate) fn turn(&mut self, now: Time) {
        while self.next_dial < self.users.len() && self.next_dial - self.online < DIALS_MAX {
            self.dial(now, self.next_dial);
            self.next_dial += 1;
        }
        let overdue = now >= self.phase_ends;
        match self.phase {
            Phase::LoggingIn if self.online == self.users.len() => {
                self.enter(Phase::WarmingUp, now + self.config.warm_up);
                (0..self.users.len()).for_each(|user| self.fill_window(now, user));
            }
            Phase::LoggingIn if overdue => {
                self.violation(format!("{} of {} users logged in within the time", self.online, self.users.len()));
                self.enter(Phase::Done, Time::NEVER);
            }
            Phase::WarmingUp if overdue => self.enter(Phase::Measuring { since: now }, now + self.config.duration),
            Phase::Measuring { since } if overdue => {
                self.report.measured = now.since(since);
                self.enter(Phase::Draining, now + PATIENCE);
            }
            Phase::Draining if overdue || self.missing() == 0 => {
                if self.missing() > 0 {
                    self.violation(format!("{} messages lost", self.missing()));
                }
                self.enter(Phase::Done, Time::NEVER);
            }
            Phase::LoggingIn | Phase::WarmingUp | Phase::Measuring { .. } | Phase::Draining | Phase::Done => {}
        }
    }

    fn enter(&mut self, phase: Phase, ends: Time) {
        self.phase = phase;
        self.phase_ends = ends;
    }

    fn missing(&self) -> u64 {
        let sent: u64 = self.users.iter().map(|user| user.sent).sum();
        let received: u64 = self.users.iter().map(|user| user.received).sum();
        sent - received
    }

    fn dial(&mut self, now: Time, user: usize) {
        let patience = Patience {
            first_byte: PATIENCE,
            greeting: PATIENCE,
            keep_alive: KeepAlive::WhenUnheard(limits::HEARTBEAT),
            silence: limits::HEARTBEAT_TIMEOUT,
        };
        let bytes = limits::ENGINE_QUEUE_BYTES_MAX;
        let server = self.config.servers[user % self.config.servers.len()];
        self.users[user].conn = Some(self.links.dial(now, server, patience, Bounds { soft: bytes, hard: bytes }, user));
    }

    /// Sends as many messages as the window allows.
    fn fill_window(&mut self, now: Time, user: usize) {
        let Some(conn) = self.users[user].conn else { return };
        let partner = user ^ 1;
        while self.users[user].sent - self.users[partner].received < u64::from(self.config.window) {
            let sent = self.users[user].sent;
            self.body[0..8].copy_from_slice(&sent.to_be_bytes());
            self.body[8..16].copy_from_slice(&now.as_micros().to_be_bytes());
            self.body[16..20].copy_from_slice(&(user as u32).to_be_bytes());
            self.body[20..24].copy_from_slice(&(partner as u32).to_be_bytes());
            let (to, from) = (name(partner), name(user));
            let frame = Outgoing {
                id: sent,
                to: to.as_bytes(),
                from: from.as_bytes(),
                body: &self.body,
                ..Outgoing::of(Kind::Data)
            };
            if self.links.send(now, conn, &frame).is_err() {
                break;
            }
            self.users[user].sent += 1;
        }
    }

    fn frame(&mut self, now: Time, conn: ConnId, user: usize, frame: &Frame<'_>) {
        let header = frame.envelope.header;
        match header.kind {
            Kind::Welcome => {
                self.links.advance(now, conn, Stage::Open);
                self.online += 1;
                let welcome: Option<Welcome> = parse_object(&frame.body());
                if welcome.is_none_or(|welcome| welcome.cluster == Cluster::Down) {
                    self.violation(format!("user {user}: its server does not reach the cluster"));
                }
            }
            Kind::Data => self.arrived(now, user, &frame.body()),
            Kind::Ping => {
                let pong = Outgoing { id: header.id, ..Outgoing::of(Kind::Pong) };
                if self.links.send_control(now, conn, &pong).is_err() {
                    self.violation(format!("user {user}: no room for a PONG"));
                }
            }
            Kind::Pong => {}
            Kind::Close => {
                let (code, text) = Fault::read_close(frame);
                self.violation(format!("user {user} closed: {code}: {text}"));
                self.links.end(conn);
            }
            kind => self.violation(format!("user {user} got {kind:?} with info_type {}", header.info_type)),
        }
    }

    fn arrived(&mut self, now: Time, user: usize, body: &[u8]) {
        let partner = user ^ 1;
        let Some((stamp, rest)) = body.split_first_chunk::<STAMP_BYTES>() else {
            return self.violation(format!("user {user} got a body of {} bytes", body.len()));
        };
        let number = |range: Range<usize>| stamp[range].iter().fold(0u64, |all, byte| all << 8 | u64::from(*byte));
        let intact = body.len() == self.body.len() && rest == &self.body[STAMP_BYTES..];
        if !intact || number(16..20) != partner as u64 || number(20..24) != user as u64 {
            return self.violation(format!("user {user} got a message that is corrupt or another's"));
        }
        let expected = self.users[user].received;
        if number(0..8) != expected {
            return self.violation(format!("user {user} got message {} instead of {expected}", number(0..8)));
        }
        self.users[user].received += 1;
        if let Phase::Measuring { .. } = self.phase {
            let sent = Time::from_micros(number(8..16));
            self.report.messages += 1;
            self.report.latency.saturating_record(now.since(sent).as_micros());
        }
        if let Phase::WarmingUp | Phase::Measuring { .. } = self.phase {
            self.fill_window(now, partner);
        }
    }

    fn violation(&mut self, what: String) {
        self.report.violation_count += 1;
        if self.report.violations.len() < 10 {
            self.report.violations.push(what);
        }
    }
}

fn name(user: usize) -> String {
    format!("load{user}")
}

impl Core for Swarm {
    type Peer = usize;

    fn links(&mut self) -> &mut Links<usize> {
        &mut self.links
    }

    fn accepted(&mut self, _now: Time, addr: SocketAddr) -> ConnId {
        unreachable!("the load listens nowhere, yet {addr} dialled it");
    }

    fn connected(&mut self, now: Time, conn: ConnId) {
        let Some(user) = self.links.get(conn).map(|link| link.peer) else { return };
        self.links.send_bytes(now, conn, &Preface::of(Role::Client).encode());
        self.links.advance(now, conn, Stage::Greeting);
        let from = name(user);
        let login = Outgoing { from: from.as_bytes(), ..Outgoing::of(Kind::Login) };
        if self.links.send_control(now, conn, &login).is_err() {
            self.violation(format!("user {user}: no room for a LOGIN"));
        }
    }

    fn received(&mut self, now: Time, conn: ConnId, chunk: &Bytes, range: Range<usize>) {
        let Some(user) = self.links.get(conn).map(|link| link.peer) else { return };
        let Some(mut inbound) = self.links.begin(now, conn, chunk, range) else { return };
        loop {
            match inbound.next(limits::MAX_FRAME) {
                Ok(Some(frame)) => self.frame(now, conn, user, &frame),
                Ok(None) => break,
                Err(error) => {
                    self.violation(format!("user {user} got no frame: {error}"));
                    return self.links.end(conn);
                }
            }
        }
        self.links.finish(now, conn, inbound);
    }

    fn ended(&mut self, _now: Time, conn: ConnId, end: End) {
        let Some(user) = self.links.get(conn).map(|link| link.peer) else { return };
        self.violation(format!("user {user} lost its connection: {end:?}"));
        self.links.end(conn);
    }

    fn relieved(&mut self, _now: Time, _conn: ConnId) {}

    fn expire(&mut self, now: Time) {
        let mut due = Vec::new();
        self.links.expire(now, &mut due);
        for (conn, asked) in due {
            let what = match asked {
                Due::Close(code, text) => format!("{code}: {text}"),
                Due::DialTimeout => "no answer to a dial".to_owned(),
            };
            self.violation(what);
            self.links.end(conn);
        }
    }

    fn deadline(&self) -> Option<Time> {
        self.links.deadline()
    }
}

impl Report {
    pub(crate) fn is_clean(&self) -> bool {
        self.violation_count == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.measured.as_micros() as f64 / 1e6;
        let rate = if seconds > 0.0 { self.messages as f64 / seconds } else { 0.0 };
        writeln!(f, "users       {:>12}", self.users)?;
        writeln!(f, "messages    {:>12}", self.messages)?;
        writeln!(f, "per second  {rate:>12.0}")?;
        for (label, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)] {
            writeln!(f, "{label:<11} {:>12} us", self.latency.value_at_quantile(quantile))?;
        }
        writeln!(f, "max         {:>12} us", self.latency.max())?;
        writeln!(f, "violations  {:>12}", self.violation_count)?;
        self.violations.iter().try_for_each(|violation| writeln!(f, "  {violation}"))
    }
}
