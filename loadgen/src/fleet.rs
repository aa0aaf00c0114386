//! The front: workers, the phases of a run, and what servers use meanwhile.

use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use serde::Serialize;

use crate::dialect::Dialect;
use crate::job::{Command, Job, News, Pace, Report, Tick};
use crate::live::Live;
use crate::process::{Server, Usage, is_installed, part, pinned};
use crate::scenario::Scenario;
use crate::syscalls;
use crate::yardstick;

/// How long the last messages may take to arrive, and how long a login or a logout may take, unless told otherwise.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Time for subscriptions and presence to settle between the last login and the first message.
const SETTLE: Duration = Duration::from_millis(300);
/// The same for NATS, whose leaf nodes learn of subscriptions when they learn of them.
const SETTLE_NATS: Duration = Duration::from_secs(2);
/// The same where memory is what is looked at: allocators give back what the logins took after a second or so.
const SETTLE_IDLE: Duration = Duration::from_secs(4);
/// Users of one server that the system finds ports for without trouble: less than half of its usual 28,000.
const PORTS_EASY: u32 = 12_000;
/// Past that, users that dial from one loopback address.
const USERS_PER_SOURCE: u32 = 4_000;
/// How long system calls are counted, where that is wanted.
const TRACE: Duration = Duration::from_secs(2);
/// The least time between two moments of the timeline: ticks are not that even.
const MOMENT_SECONDS: f64 = 0.08;
/// A worker that tells nothing for so long has failed: it ticks ten times a second.
const WORKER_SILENCE: Duration = Duration::from_secs(60);

/// A run's load.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) users: u32,
    pub(crate) scenario: Scenario,
    pub(crate) pace: Pace,
    pub(crate) body_bytes: (u32, u32),
    pub(crate) dials_max: u32,
    pub(crate) prefix: String,
    pub(crate) seed: u64,
    pub(crate) warm_up: Duration,
    pub(crate) duration: Duration,
    /// Connections that one worker may have.
    pub(crate) users_per_worker: u32,
    /// How long the last messages may take to arrive, and how long a login or a logout may take.
    pub(crate) patience: Duration,
    /// Count the servers' system calls behind the measurement, with strace.
    pub(crate) trace: bool,
}

/// Where parts run; none to leave that to the system.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pins {
    pub(crate) servers: Option<usize>,
    pub(crate) load: Option<usize>,
}

/// What is under load.
pub(crate) struct Target<'a> {
    pub(crate) dialect: Dialect,
    pub(crate) addrs: &'a [SocketAddr],
    /// Its processes, the hub first; none where they run elsewhere.
    pub(crate) servers: &'a [Server],
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Outcome {
    pub(crate) users: u32,
    pub(crate) workers: usize,
    #[serde(flatten)]
    pub(crate) report: Report,
    pub(crate) servers: Vec<ServerOutcome>,
    /// Processor time of one send and receive of 128 bytes over loopback, in microseconds: before the first message and
    /// after the last, on the servers' processor where they are pinned.
    pub(crate) yardstick_us: f64,
    /// The servers' system calls by name, for each message.
    pub(crate) syscalls_per_message: Vec<(String, f64)>,
    /// Ten times a second while messages were counted.
    pub(crate) timeline: Vec<Moment>,
}

/// A server's part of an [`Outcome`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ServerOutcome {
    pub(crate) name: String,
    /// While messages were counted.
    pub(crate) cpu_seconds: f64,
    /// What it allocated for each user of its own while nobody wrote; none for the hub.
    pub(crate) bytes_per_user: Option<f64>,
    pub(crate) peak_bytes: u64,
    /// Anonymous memory after the last message.
    pub(crate) anonymous_bytes: u64,
}

/// Messages that arrived, users that logged in, and users that were in, at a time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Moment {
    pub(crate) seconds: f64,
    pub(crate) per_second: f64,
    pub(crate) logins_per_second: f64,
    pub(crate) online: u32,
}

impl Outcome {
    /// Processor microseconds of all servers for each message.
    pub(crate) fn cpu_us_per_message(&self) -> Option<f64> {
        let cpu: f64 = self.servers.iter().map(|server| server.cpu_seconds).sum();
        (cpu > 0.0 && self.report.messages > 0).then(|| cpu * 1e6 / self.report.messages as f64)
    }

    pub(crate) fn per_second(&self) -> f64 {
        if self.report.seconds > 0.0 { self.report.messages as f64 / self.report.seconds } else { 0.0 }
    }

    /// Bytes that servers allocate for a user, on average.
    pub(crate) fn bytes_per_user(&self) -> Option<f64> {
        let known: Vec<f64> = self.servers.iter().filter_map(|server| server.bytes_per_user).collect();
        (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
    }
}

struct Worker {
    child: Child,
    stdin: ChildStdin,
    tick: Tick,
    report: Option<Report>,
}

struct Fleet {
    workers: Vec<Worker>,
    news: Receiver<(usize, io::Result<News>)>,
    users: u32,
    live: Live,
}

/// Loads `target` and tells what that came to.
pub(crate) fn run(target: &Target<'_>, load: &Load, pins: Pins, live: Live) -> io::Result<Outcome> {
    if load.trace && !is_installed("strace") {
        return Err(io::Error::new(io::ErrorKind::NotFound, "strace is not installed"));
    }
    let before = usages(target)?;
    let mut fleet = Fleet::start(target, load, pins, live)?;
    fleet.await_logins()?;
    let settle = match (load.scenario, target.dialect) {
        (Scenario::Idle, _) => SETTLE_IDLE,
        (_, Dialect::Nats) => SETTLE_NATS,
        (_, Dialect::Trunkline | Dialect::Floor) => SETTLE,
    };
    fleet.watch(settle, "settling", |_| {})?;
    let loaded = usages(target)?;
    let yardstick_before = pinned(pins.servers, yardstick::micros)??;
    fleet.command(Command::Start)?;
    fleet.watch(load.warm_up, "warming up", |_| {})?;
    let at_measure = usages(target)?;
    fleet.command(Command::Measure)?;
    let timeline = fleet.measure(load.duration)?;
    fleet.command(Command::Hold)?;
    let at_hold = usages(target)?;
    let syscalls_per_message = if load.trace { fleet.trace(target)? } else { Vec::new() };
    fleet.command(Command::Stop)?;
    let report = fleet.reports()?;
    let yardstick_after = pinned(pins.servers, yardstick::micros)??;
    let after = usages(target)?;
    let users_each = f64::from(load.users) / target.addrs.len() as f64;
    let servers = target.servers.iter().enumerate().map(|(place, server)| {
        let grown = loaded[place].anonymous_bytes as f64 - before[place].anonymous_bytes as f64;
        ServerOutcome {
            name: server.name.clone(),
            cpu_seconds: at_hold[place].cpu_seconds - at_measure[place].cpu_seconds,
            bytes_per_user: (place > 0).then_some(grown / users_each),
            peak_bytes: after[place].peak_bytes,
            anonymous_bytes: after[place].anonymous_bytes,
        }
    });
    Ok(Outcome {
        users: load.users,
        workers: fleet.workers.len(),
        servers: servers.collect(),
        report,
        yardstick_us: (yardstick_before + yardstick_after) / 2.0,
        syscalls_per_message,
        timeline,
    })
}

fn usages(target: &Target<'_>) -> io::Result<Vec<Usage>> {
    target.servers.iter().map(Server::usage).collect()
}

/// The jobs of a run: users split evenly where one worker can't have them all.
fn jobs(target: &Target<'_>, load: &Load, busy_poll: bool) -> Vec<Job> {
    let loopback = target.addrs.iter().all(|addr| addr.is_ipv4() && addr.ip().is_loopback());
    let spread = loopback && load.users / target.addrs.len() as u32 > PORTS_EASY;
    let pairs_each = (load.users_per_worker / 2).max(1);
    let pairs = load.users / 2;
    let workers = pairs.div_ceil(pairs_each);
    let share = |worker: u32| (u64::from(pairs) * u64::from(worker) / u64::from(workers)) as u32 * 2;
    let job = |worker: u32| {
        let (first_user, users) = (share(worker), share(worker + 1) - share(worker));
        let (pace, begins_after_ns) = match load.pace {
            Pace::Window(window) => (Pace::Window(window), 0),
            Pace::Rate(rate) => {
                (Pace::Rate(rate * f64::from(users) / f64::from(load.users)), (f64::from(worker) * 1e9 / rate) as u64)
            }
        };
        Job {
            dialect: target.dialect,
            servers: target.addrs.to_vec(),
            prefix: load.prefix.clone(),
            first_user,
            users,
            scenario: load.scenario,
            pace,
            begins_after_ns,
            patience_ns: load.patience.as_nanos() as u64,
            body_bytes: load.body_bytes,
            dials_max: load.dials_max.div_ceil(workers),
            users_per_source: spread.then_some(USERS_PER_SOURCE),
            busy_poll,
            seed: load.seed,
        }
    };
    (0..workers).map(job).collect()
}

impl Fleet {
    fn start(target: &Target<'_>, load: &Load, pins: Pins, live: Live) -> io::Result<Fleet> {
        let (sender, news) = unbounded();
        let mut workers = Vec::new();
        for job in jobs(target, load, pins.load.is_some()) {
            let mut command = part("worker")?;
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = pinned(pins.load, || command.spawn())??;
            let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
                return Err(io::Error::other("a worker has no pipes"));
            };
            let (number, sender) = (workers.len(), sender.clone());
            std::thread::spawn(move || listen(number, BufReader::new(stdout), &sender));
            workers.push(Worker { child, stdin, tick: Tick::default(), report: None });
            workers[number].say(&job)?;
        }
        Ok(Fleet { workers, news, users: load.users, live })
    }

    fn command(&mut self, command: Command) -> io::Result<()> {
        self.workers.iter_mut().try_for_each(|worker| worker.say(&command))
    }

    /// Takes news until `deadline`; false where there was none in time.
    fn hear(&mut self, deadline: Instant) -> io::Result<bool> {
        match self.news.recv_deadline(deadline) {
            Ok((worker, Ok(News::Tick(tick)))) => self.workers[worker].tick = tick,
            Ok((worker, Ok(News::Report(report)))) => self.workers[worker].report = Some(*report),
            Ok((worker, Err(error))) => return Err(io::Error::other(format!("worker {worker}: {error}"))),
            Err(RecvTimeoutError::Timeout) => return Ok(false),
            Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("the workers are gone")),
        }
        Ok(true)
    }

    fn tick(&self) -> Tick {
        self.workers.iter().fold(Tick::default(), |all, worker| Tick {
            online: all.online + worker.tick.online,
            logins: all.logins + worker.tick.logins,
            arrived: all.arrived + worker.tick.arrived,
            bounced: all.bounced + worker.tick.bounced,
            violations: all.violations + worker.tick.violations,
        })
    }

    fn await_logins(&mut self) -> io::Result<()> {
        loop {
            if !self.hear(now() + WORKER_SILENCE)? {
                return Err(io::Error::other("a worker is silent"));
            }
            let tick = self.tick();
            self.live.show("logging in", &tick, None);
            if tick.online == self.users {
                return Ok(());
            }
            if tick.violations > 0 {
                // What went wrong stands in the reports.
                self.command(Command::Stop)?;
                let report = self.reports()?;
                let first = report.violations.first().map_or("", String::as_str);
                let others = match report.violation_count.saturating_sub(1) {
                    0 => String::new(),
                    count => format!(", and {count} more like that"),
                };
                return Err(io::Error::other(format!("logging in: {first}{others}")));
            }
        }
    }

    /// Lets `span` pass, with `each` told of how far the workers are.
    fn watch(&mut self, span: Duration, phase: &str, mut each: impl FnMut(Tick)) -> io::Result<()> {
        let deadline = now() + span;
        while self.hear(deadline)? {
            let tick = self.tick();
            self.live.show(phase, &tick, Some(deadline.saturating_duration_since(now())));
            each(tick);
        }
        Ok(())
    }

    /// Watches throughput over time.
    fn measure(&mut self, span: Duration) -> io::Result<Vec<Moment>> {
        // Ticks that were told meanwhile are of the time before.
        self.watch(Duration::ZERO, "measuring", |_| {})?;
        let began = now();
        // What arrived before the first tick did so in a time that is not known.
        let mut last: Option<(f64, Tick)> = None;
        let mut timeline = Vec::new();
        self.watch(span, "measuring", |tick| {
            let seconds = began.elapsed().as_secs_f64();
            let (since, before) = *last.get_or_insert((seconds, tick));
            if seconds >= since + MOMENT_SECONDS {
                let each_second = |count: u64| count as f64 / (seconds - since);
                timeline.push(Moment {
                    seconds,
                    per_second: each_second(tick.arrived - before.arrived),
                    logins_per_second: each_second(tick.logins - before.logins),
                    online: tick.online,
                });
                last = Some((seconds, tick));
            }
        })?;
        Ok(timeline)
    }

    /// Counts the servers' system calls for a while.
    fn trace(&mut self, target: &Target<'_>) -> io::Result<Vec<(String, f64)>> {
        let before = self.tick().arrived;
        let trace = syscalls::Trace::start(target.servers)?;
        self.watch(TRACE, "counting system calls", |_| {})?;
        let calls = trace.finish()?;
        let messages = (self.tick().arrived - before).max(1) as f64;
        Ok(calls.into_iter().map(|(name, calls)| (name, calls as f64 / messages)).collect())
    }

    fn reports(&mut self) -> io::Result<Report> {
        while self.workers.iter().any(|worker| worker.report.is_none()) {
            if !self.hear(now() + WORKER_SILENCE)? {
                return Err(io::Error::other("a worker does not report"));
            }
            self.live.show("waiting for the last messages", &self.tick(), None);
        }
        self.live.end();
        let mut reports = self.workers.iter_mut().filter_map(|worker| worker.report.take());
        let mut all = reports.next().ok_or_else(|| io::Error::other("no worker, no report"))?;
        reports.for_each(|report| all.merge(report));
        Ok(all)
    }
}

impl Worker {
    fn say(&mut self, what: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(what)?;
        line.push(b'\n');
        self.stdin.write_all(&line)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended; else its users go with it.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn listen(worker: usize, lines: impl BufRead, tell: &Sender<(usize, io::Result<News>)>) {
    let mut reported = false;
    for line in lines.lines() {
        let news = line.and_then(|line| Ok(serde_json::from_str::<News>(&line)?));
        reported |= matches!(news, Ok(News::Report(_)));
        if tell.send((worker, news)).is_err() {
            return;
        }
    }
    if !reported {
        // Nobody listens where the run is over.
        drop(tell.send((worker, Err(io::ErrorKind::UnexpectedEof.into()))));
    }
}

#[expect(clippy::disallowed_methods, reason = "a run takes real time")]
fn now() -> Instant {
    Instant::now()
}
