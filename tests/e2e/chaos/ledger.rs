//! What was sent and what became of it, what was done to the cluster meanwhile, and which outcomes that allows: written
//! from docs/PROTOCOL.md, sections 8 to 10.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

use trunkline::{Bounce, QueryFailure, SendError, SendFailure, Undelivered};

/// Since the run began.
pub(super) type Moment = Duration;

pub(super) const SERVERS: usize = 3;
/// The cluster manager's place among the processes, behind the servers'.
pub(super) const ACMS: usize = SERVERS;

/// How much later than it happened a kill may still be felt, and an outcome be seen here.
const LATENESS: Duration = Duration::from_secs(1);
/// Violations that are told in full.
const TOLD_MAX: usize = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Plain,
    Acked,
    Query,
}

/// Why a message is said not to have arrived, or a query to have no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Failure {
    NotConnected,
    ConnectionLost,
    TimedOut,
    Offline,
    Unreachable,
    Retry,
    /// Nothing that a killed process can bring about.
    Absurd,
}

impl From<Bounce> for Failure {
    fn from(cause: Bounce) -> Failure {
        match cause {
            Bounce::Offline => Failure::Offline,
            Bounce::Unreachable => Failure::Unreachable,
            Bounce::Retry => Failure::Retry,
            _ => Failure::Absurd,
        }
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Failure {
        match error {
            SendError::NotConnected => Failure::NotConnected,
            SendError::Full | SendError::TooBig | SendError::Stopped => Failure::Absurd,
        }
    }
}

impl From<Undelivered> for Failure {
    fn from(cause: Undelivered) -> Failure {
        match cause {
            Undelivered::Bounced(cause) => cause.into(),
            Undelivered::NotSent(error) => error.into(),
        }
    }
}

impl From<SendFailure> for Failure {
    fn from(failure: SendFailure) -> Failure {
        match failure {
            SendFailure::Bounced(cause) => cause.into(),
            SendFailure::TimedOut => Failure::TimedOut,
            SendFailure::Stopped(_) => Failure::Absurd,
        }
    }
}

impl From<QueryFailure> for Failure {
    fn from(failure: QueryFailure) -> Failure {
        match failure {
            QueryFailure::Bounced(cause) => cause.into(),
            QueryFailure::TimedOut => Failure::TimedOut,
            QueryFailure::ConnectionLost => Failure::ConnectionLost,
            QueryFailure::NoHandler | QueryFailure::Failed(_) => Failure::Absurd,
        }
    }
}

/// Who a message is from and to, and which it is: its body begins with this and ends with a check of all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) number: usize,
    pub(super) from: usize,
    pub(super) to: usize,
}

const STAMP_BYTES: usize = 10;
const CHECK_BYTES: usize = 8;

impl Stamp {
    pub(super) fn body(self, filler: usize) -> Vec<u8> {
        let mut body = (self.number as u64).to_be_bytes().to_vec();
        body.extend([self.from as u8, self.to as u8]);
        body.extend((0..filler).map(|at| (at ^ self.number) as u8));
        body.extend(check(&body).to_be_bytes());
        body
    }

    /// None where one byte is not as it was sent.
    pub(super) fn read(body: &[u8]) -> Option<Stamp> {
        let (stamped, sum) = body.split_last_chunk::<CHECK_BYTES>()?;
        let (number, rest) = stamped.split_first_chunk()?;
        let intact = stamped.len() >= STAMP_BYTES && u64::from_be_bytes(*sum) == check(stamped);
        let stamp = Stamp { number: u64::from_be_bytes(*number) as usize, from: rest[0].into(), to: rest[1].into() };
        intact.then_some(stamp)
    }
}

fn check(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// Times in which something was not as it should be.
#[derive(Default)]
pub(super) struct Spans(Vec<(Moment, Moment)>);

impl Spans {
    pub(super) fn begin(&mut self, now: Moment) {
        if !self.is_open() {
            self.0.push((now, Moment::MAX));
        }
    }

    pub(super) fn end(&mut self, now: Moment) {
        if let Some((_, end)) = self.0.last_mut().filter(|(_, end)| *end == Moment::MAX) {
            *end = now;
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.0.last().is_some_and(|(_, end)| *end == Moment::MAX)
    }

    fn meet(&self, life: (Moment, Moment)) -> bool {
        self.0.iter().any(|(begin, end)| *begin <= life.1 && *end + LATENESS.min(Moment::MAX - *end) >= life.0)
    }
}

struct Sent {
    kind: Kind,
    stamp: Stamp,
    at: Moment,
    delivered: Option<Moment>,
    /// What its sender was told, and when.
    told: Option<(Moment, Result<(), Failure>)>,
}

pub(super) struct Ledger {
    sent: Vec<Sent>,
    /// The last plain message that arrived from one user at another.
    last: BTreeMap<(usize, usize), usize>,
    /// When each process was killed.
    pub(super) kills: [Vec<Moment>; SERVERS + 1],
    /// When each server was without the cluster.
    pub(super) apart: [Spans; SERVERS],
    /// When each user could not be expected to be reached: its own server was killed, and is not back with it.
    pub(super) away: Vec<Spans>,
    violations: Vec<String>,
}

impl Ledger {
    pub(super) fn of(users: usize) -> Ledger {
        Ledger {
            sent: Vec::new(),
            last: BTreeMap::new(),
            kills: Default::default(),
            apart: Default::default(),
            away: std::iter::repeat_with(Spans::default).take(users).collect(),
            violations: Vec::new(),
        }
    }

    pub(super) fn note(&mut self, kind: Kind, now: Moment, from: usize, to: usize) -> Stamp {
        let stamp = Stamp { number: self.sent.len(), from, to };
        self.sent.push(Sent { kind, stamp, at: now, delivered: None, told: None });
        stamp
    }

    pub(super) fn violated(&mut self, what: String) {
        self.violations.push(what);
    }

    /// An application has been handed this.
    pub(super) fn arrived(&mut self, now: Moment, at: usize, from: usize, is_query: bool, body: &[u8]) {
        let Some(stamp) = Stamp::read(body) else {
            return self.violated(format!("user {at} got a changed body from user {from}"));
        };
        let Some(sent) = self.sent.get_mut(stamp.number).filter(|sent| sent.stamp == stamp) else {
            return self.violated(format!("user {at} got {stamp:?}, which nobody sent"));
        };
        if (stamp.to, stamp.from) != (at, from) || is_query != (sent.kind == Kind::Query) {
            return self.violated(format!("user {at} got {stamp:?} of user {from}"));
        }
        if sent.delivered.replace(now).is_some() {
            let kind = sent.kind;
            return self.violated(format!("{kind:?} {stamp:?} was handed over twice"));
        }
        if sent.kind == Kind::Plain {
            let last = self.last.insert((from, at), stamp.number);
            if last.is_some_and(|last| last > stamp.number) {
                self.violated(format!("{stamp:?} came behind message {last:?}"));
            }
        }
    }

    /// The sender was told what became of it.
    pub(super) fn told(&mut self, now: Moment, number: usize, outcome: Result<(), Failure>) {
        let sent = &self.sent[number];
        if let Some(before) = sent.told {
            return self.violated(format!("{:?} {:?} resolved {outcome:?} after {before:?}", sent.kind, sent.stamp));
        }
        self.sent[number].told = Some((now, outcome));
    }

    /// Whether that is the cause, as far as it can be seen from outside.
    fn is_true(&self, sent: &Sent, failure: Failure, now: Moment) -> bool {
        let Stamp { from, to, .. } = sent.stamp;
        let life = (sent.at, now);
        match (failure, sent.kind) {
            (Failure::NotConnected, _) => self.away[from].meet(life),
            (Failure::ConnectionLost, _) => self.was_killed(&[from % SERVERS], life),
            (Failure::TimedOut, Kind::Query) => self.was_killed(&path(sent.stamp), life),
            (Failure::Offline, _) => self.away[to].meet(life),
            (Failure::Unreachable, Kind::Plain | Kind::Query) => self.apart[from % SERVERS].meet(life),
            (Failure::Retry, Kind::Plain | Kind::Query) => {
                self.apart.iter().any(|apart| apart.meet(life)) || self.away[to].meet(life)
            }
            // An acknowledged send is tried again for far longer than an outage lasts here.
            (Failure::TimedOut | Failure::Unreachable | Failure::Retry, _) | (Failure::Absurd, _) => false,
        }
    }

    fn was_killed(&self, processes: &[usize], life: (Moment, Moment)) -> bool {
        let felt = |kill: &Moment| (life.0.saturating_sub(LATENESS)..=life.1).contains(kill);
        processes.iter().any(|process| self.kills[*process].iter().any(felt))
    }

    /// Judges what only the end can tell: nothing is under way any more.
    pub(super) fn close(&mut self) -> Summary {
        let mut summary = Summary::default();
        let mut found = Vec::new();
        // Backwards, with the first arrival behind each message of one user to another: by then it was lost.
        let mut overtaken: BTreeMap<(usize, usize), Moment> = BTreeMap::new();
        for sent in self.sent.iter().rev() {
            let (kind, stamp) = (sent.kind, sent.stamp);
            let pair = (stamp.from, stamp.to);
            let row = summary.kinds.entry(kind).or_default();
            row.sent += 1;
            // Not when it is told: the log that explains it may be read here a moment later.
            if let Some((told, Err(failure))) = sent.told
                && !self.is_true(sent, failure, told)
            {
                let at = sent.at;
                found.push(format!(
                    "{kind:?} {stamp:?} of {at:?} failed at {told:?}: {failure:?}, and nothing explains it"
                ));
            }
            match (kind, sent.delivered, sent.told) {
                (Kind::Plain, Some(at), None) => {
                    row.delivered += 1;
                    overtaken.insert(pair, at);
                }
                (Kind::Acked | Kind::Query, Some(_), Some((_, Ok(())))) => row.delivered += 1,
                (Kind::Acked | Kind::Query, Some(_), Some((_, Err(failure)))) => {
                    *row.failed.entry(failure).or_default() += 1;
                    row.failed_though_delivered += 1;
                }
                (_, None, Some((_, Err(failure)))) => {
                    *row.failed.entry(failure).or_default() += 1;
                }
                (Kind::Plain, None, None) => {
                    row.lost += 1;
                    let until = overtaken.get(&pair).copied().unwrap_or(Moment::MAX);
                    if !self.was_killed(&path(stamp), (sent.at, until)) {
                        found.push(format!("{stamp:?} of {:?} was lost by {until:?} without a cause", sent.at));
                    }
                }
                (Kind::Plain, Some(_), Some(told)) => found.push(format!("{stamp:?} arrived, and {told:?}")),
                (_, None, Some((_, Ok(())))) => found.push(format!("{kind:?} {stamp:?} is told to have arrived")),
                (Kind::Acked | Kind::Query, _, None) => found.push(format!("{kind:?} {stamp:?} was never resolved")),
            }
        }
        self.violations.append(&mut found);
        summary.violations = self.violations.len();
        summary
    }

    #[track_caller]
    pub(super) fn expect_no_violation(&self) {
        let told = &self.violations[..self.violations.len().min(TOLD_MAX)];
        assert!(told.is_empty(), "{} violations, among them:\n{}", self.violations.len(), told.join("\n"));
    }
}

/// The processes between sender and receiver.
fn path(stamp: Stamp) -> Vec<usize> {
    let (from, to) = (stamp.from % SERVERS, stamp.to % SERVERS);
    if from == to { vec![from] } else { vec![from, to, ACMS] }
}

/// What a run came to.
#[derive(Default)]
pub(super) struct Summary {
    kinds: BTreeMap<Kind, Row>,
    violations: usize,
}

#[derive(Default)]
struct Row {
    sent: usize,
    /// And acknowledged, or answered, where that was asked for.
    delivered: usize,
    failed: BTreeMap<Failure, usize>,
    /// Of those that failed: the message was there, and its confirmation was lost.
    failed_though_delivered: usize,
    /// Without a word, because a process was killed that had it.
    lost: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "          sent  delivered     failed  though delivered  lost with a process")?;
        for (kind, row) in &self.kinds {
            let failed: usize = row.failed.values().sum();
            let (kind, again) = (format!("{kind:?}"), row.failed_though_delivered);
            writeln!(f, "{kind:<7} {:>6} {:>10} {failed:>10} {again:>17} {:>20}", row.sent, row.delivered, row.lost)?;
            for (failure, count) in &row.failed {
                writeln!(f, "        {failure:?} {count}")?;
            }
        }
        write!(f, "violations {}", self.violations)
    }
}
