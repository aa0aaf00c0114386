//! What the front tells a worker to do, and what it hears of it: lines of JSON over the worker's pipes.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2Serializer};
use serde::{Deserialize, Serialize};

use crate::dialect::Dialect;
use crate::scenario::Scenario;

/// Violations that are reported in words.
pub(crate) const VIOLATIONS_TOLD: usize = 10;
/// The longest latency that is told apart, in nanoseconds: a minute.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// The first line: what a worker's users are and do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) dialect: Dialect,
    pub(crate) servers: Vec<SocketAddr>,
    /// What users' names begin with.
    pub(crate) prefix: String,
    /// The number of the worker's first user.
    pub(crate) first_user: u32,
    /// An even number.
    pub(crate) users: u32,
    pub(crate) scenario: Scenario,
    pub(crate) pace: Pace,
    /// When the first message at a rate is due after the start, so that workers take turns; nanoseconds.
    pub(crate) begins_after_ns: u64,
    /// How long the last messages may take to arrive, and how long a login or a logout may take; nanoseconds.
    pub(crate) patience_ns: u64,
    /// Bytes of a body, least and most; drawn so that each doubling is as likely as the next.
    pub(crate) body_bytes: (u32, u32),
    /// Connections that may be on their way into a server at once.
    pub(crate) dials_max: u32,
    /// Users that dial from one loopback address before the next is used, so that ports do not run out; none to leave
    /// the address to the system.
    pub(crate) users_per_source: Option<u32>,
    /// Never sleep: for a processor of its own.
    pub(crate) busy_poll: bool,
    pub(crate) seed: u64,
}

/// How fast users write.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Pace {
    /// Each route has that many messages under way; the next is sent when one arrives.
    Window(u32),
    /// That many messages a second in all, at even distances, whatever becomes of those before.
    Rate(f64),
}

/// What a worker is told after its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Command {
    /// Begin to write.
    Start,
    /// Count from here on.
    Measure,
    /// Count no more, and go on writing.
    Hold,
    /// Write no more; report when all that is under way has arrived.
    Stop,
}

/// What a worker tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum News {
    /// Ten times a second.
    Tick(Tick),
    /// The last line.
    Report(Box<Report>),
}

/// How far a worker is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tick {
    /// Users that are in.
    pub(crate) online: u32,
    /// Logins so far.
    pub(crate) logins: u64,
    /// Messages that arrived so far.
    pub(crate) arrived: u64,
    pub(crate) bounced: u64,
    pub(crate) violations: u64,
}

/// What a worker has seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Messages that arrived while they were counted, floods aside, and for how long that was.
    pub(crate) messages: u64,
    pub(crate) seconds: f64,
    /// Logins while they were counted.
    pub(crate) logins: u64,
    /// From the first dial until all users were in.
    pub(crate) login_seconds: f64,
    pub(crate) bounced: u64,
    /// Connections of users that read nothing, closed by their servers.
    pub(crate) closed_slow: u64,
    /// Connections of users that flood, closed by their servers.
    pub(crate) closed_rate: u64,
    /// Users that came too many at once and were told to come again.
    pub(crate) sent_away: u64,
    /// Messages of floods that arrived while the others were counted.
    pub(crate) flooded: u64,
    pub(crate) violation_count: u64,
    /// The first of them.
    pub(crate) violations: Vec<String>,
    /// From sending, or the time planned for it, to arrival, of messages for which that lay in the measured time, whenever
    /// they arrived, floods aside; nanoseconds.
    pub(crate) latency: Timings,
    /// How late messages at a rate were sent; nanoseconds. What is late here is the load's own lateness.
    pub(crate) lateness: Timings,
    /// Processor seconds of the worker while messages were counted.
    pub(crate) cpu_seconds: f64,
}

/// A histogram of nanoseconds that can be written down: HdrHistogram's V2 format in base 64.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Timings(pub(crate) Histogram<u64>);

impl Default for Timings {
    fn default() -> Timings {
        Timings(Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are in order"))
    }
}

impl Timings {
    /// The time, in microseconds, that a part of all took at most; `quantile` in 0 to 1.
    pub(crate) fn micros(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e3
    }
}

impl From<Timings> for String {
    fn from(timings: Timings) -> String {
        let mut bytes = Vec::new();
        V2Serializer::new().serialize(&timings.0, &mut bytes).expect("memory takes what is written");
        BASE64.encode(bytes)
    }
}

impl TryFrom<String> for Timings {
    type Error = String;

    fn try_from(text: String) -> Result<Timings, String> {
        let bytes = BASE64.decode(text).map_err(|error| error.to_string())?;
        Deserializer::new().deserialize(&mut &bytes[..]).map(Timings).map_err(|error| error.to_string())
    }
}

impl Report {
    /// Adds what another worker has seen beside this one.
    pub(crate) fn merge(&mut self, other: Report) {
        self.messages += other.messages;
        self.seconds = self.seconds.max(other.seconds);
        self.logins += other.logins;
        self.login_seconds = self.login_seconds.max(other.login_seconds);
        self.bounced += other.bounced;
        self.closed_slow += other.closed_slow;
        self.closed_rate += other.closed_rate;
        self.sent_away += other.sent_away;
        self.flooded += other.flooded;
        self.violation_count += other.violation_count;
        self.violations.extend(other.violations);
        self.violations.truncate(VIOLATIONS_TOLD);
        self.latency.0.add(&other.latency.0).expect("both have the same bounds");
        self.lateness.0.add(&other.lateness.0).expect("both have the same bounds");
        self.cpu_seconds += other.cpu_seconds;
    }
}
