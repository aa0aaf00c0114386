//! A worker's users: one mio loop, one connection a user, every message checked.
//!
//! Written against the protocol, not on Trunkline's own links and queues: what it measures and checks, it does not share.

mod groups;
mod messages;
mod sessions;
mod sockets;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use bytes::BytesMut;
use crossbeam_channel::Receiver;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Waker};
use rustix::time::{TimerfdClockId, TimerfdFlags};

use crate::job::{Command, Job, News, Pace, Report, Tick, Timings, VIOLATIONS_TOLD};
use crate::process::own_cpu_seconds;
use crate::scenario::{Conduct, GroupRoute, RouteKind};
use crate::stamp::Pool;
use groups::Broadcast;
use sockets::{TIMER, WAKER};

const EVENTS_PER_TURN: usize = 1024;
const READ_BYTES: usize = 256 << 10;
const TICK_NS: u64 = 100_000_000;

/// A user's connection.
struct Conn {
    stream: TcpStream,
    /// The start of what the server has not said to the end.
    carry: Vec<u8>,
    out: BytesMut,
    writable: bool,
    /// In the list of those to be read.
    listed: bool,
    /// In the list of those to be written.
    dirty: bool,
    hung_up: bool,
}

/// How far a user is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Out,
    Entering {
        since_ns: u64,
    },
    In,
    /// Said goodbye, and waits to hear it.
    Leaving {
        since_ns: u64,
    },
}

struct User {
    name: String,
    conduct: Conduct,
    stage: Stage,
    conn: Option<Conn>,
    /// Tells events of this connection from those of an earlier one.
    generation: u32,
    /// Routes that begin here, and that end here.
    writes: Vec<u32>,
    reads: Vec<u32>,
    /// The group that it joins once it is in.
    group: Option<String>,
}

struct Stream {
    sender: u32,
    receiver: u32,
    kind: RouteKind,
    sent: u64,
    /// The number of the next message to arrive: at most `sent`.
    expected: u64,
    /// One more than the greatest number that bounced.
    bounced: u64,
    /// Messages from number `tenure` on that have neither arrived nor bounced.
    under_way: u32,
    /// The number of the first message since the receiver's last login.
    tenure: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    LoggingIn,
    Ready,
    Writing,
    Counting { since_ns: u64 },
    Held,
    Draining { until_ns: u64 },
    Done,
}

/// Messages at a rate: on which streams by turns, the next, when the first is due, and how far apart they are.
struct Schedule {
    /// Not empty.
    streams: Vec<u32>,
    next: u64,
    begins_ns: u64,
    step_ns: f64,
}

pub(crate) struct Swarm<'a> {
    job: Job,
    poll: Poll,
    timer: OwnedFd,
    start: Instant,
    users: Vec<User>,
    streams: Vec<Stream>,
    /// Numbered behind the streams.
    broadcasts: Vec<Broadcast>,
    pool: Pool,
    body: Vec<u8>,
    rng: fastrand::Rng,
    phase: Phase,
    commands: Receiver<Command>,
    tell: Box<dyn FnMut(News) + 'a>,
    /// Users to dial, in order.
    to_dial: VecDeque<u32>,
    /// Users that were told when to dial again.
    to_return: BinaryHeap<Reverse<(u64, u32)>>,
    /// Restless users that are in, and when they leave.
    to_leave: BinaryHeap<Reverse<(u64, u32)>>,
    entering: u32,
    ready: VecDeque<(u32, u32)>,
    dirty: Vec<u32>,
    read_buffer: Vec<u8>,
    schedule: Option<Schedule>,
    next_tick_ns: u64,
    tick: Tick,
    cpu_at_measure: f64,
    /// When a message was sent, or to be sent, whose latency counts.
    counted_ns: Range<u64>,
    report: Report,
}

impl<'a> Swarm<'a> {
    pub(crate) fn new(job: Job, commands: Receiver<Command>, tell: impl FnMut(News) + 'a) -> io::Result<Swarm<'a>> {
        let mut rng = fastrand::Rng::with_seed(job.seed ^ u64::from(job.first_user));
        let plan = job.scenario.plan(job.users, &mut rng);
        let mut users: Vec<User> = (0..job.users)
            .zip(plan.conducts)
            .map(|(place, conduct)| User {
                name: format!("{}{:07}", job.prefix, job.first_user + place),
                conduct,
                stage: Stage::Out,
                conn: None,
                generation: 0,
                writes: Vec::new(),
                reads: Vec::new(),
                group: None,
            })
            .collect();
        let mut streams = Vec::with_capacity(plan.routes.len());
        for route in plan.routes {
            users[route.sender as usize].writes.push(streams.len() as u32);
            users[route.receiver as usize].reads.push(streams.len() as u32);
            let (sender, receiver, kind) = (route.sender, route.receiver, route.kind);
            streams.push(Stream { sender, receiver, kind, sent: 0, expected: 0, bounced: 0, under_way: 0, tenure: 0 });
        }
        let mut broadcasts = Vec::with_capacity(plan.group_routes.len());
        for GroupRoute { sender, members } in plan.group_routes {
            let group = format!("{}g{}", job.prefix, job.first_user + members.start);
            members.clone().for_each(|member| users[member as usize].group = Some(group.clone()));
            broadcasts.push(Broadcast::new(sender, members, group));
        }
        let poll = Poll::new()?;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
        Ok(Swarm {
            pool: Pool::new(job.body_bytes.1 as usize, &mut rng),
            to_dial: (0..job.users).collect(),
            poll,
            timer,
            start: now(),
            users,
            streams,
            broadcasts,
            body: Vec::new(),
            rng,
            phase: Phase::LoggingIn,
            commands,
            tell: Box::new(tell),
            to_return: BinaryHeap::new(),
            to_leave: BinaryHeap::new(),
            entering: 0,
            ready: VecDeque::new(),
            dirty: Vec::new(),
            read_buffer: vec![0; READ_BYTES],
            schedule: None,
            next_tick_ns: 0,
            tick: Tick::default(),
            cpu_at_measure: 0.0,
            counted_ns: 0..0,
            report: Report {
                messages: 0,
                seconds: 0.0,
                logins: 0,
                login_seconds: 0.0,
                bounced: 0,
                closed_slow: 0,
                closed_rate: 0,
                sent_away: 0,
                flooded: 0,
                violation_count: 0,
                violations: Vec::new(),
                latency: Timings::default(),
                lateness: Timings::default(),
                cpu_seconds: 0.0,
            },
            job,
        })
    }

    /// What makes the loop look at its commands.
    pub(crate) fn waker(&self) -> io::Result<Waker> {
        Waker::new(self.poll.registry(), WAKER)
    }

    fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Runs until it was told to stop and all has arrived, or the patience for that is over.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        while self.phase != Phase::Done {
            let now_ns = self.now_ns();
            self.obey(now_ns)?;
            self.leave(now_ns);
            self.dial(now_ns);
            self.write_on_schedule(now_ns);
            self.flush();
            self.settle(now_ns);
            self.wait(&mut events)?;
            self.read();
        }
        (self.tell)(News::Tick(self.tick));
        (self.tell)(News::Report(Box::new(self.report)));
        Ok(())
    }

    fn obey(&mut self, now_ns: u64) -> io::Result<()> {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Start => self.begin(now_ns),
                Command::Measure => {
                    self.phase = Phase::Counting { since_ns: now_ns };
                    self.cpu_at_measure = own_cpu_seconds()?;
                    self.counted_ns = now_ns..u64::MAX;
                }
                Command::Hold => self.count_no_more(now_ns)?,
                Command::Stop => {
                    self.count_no_more(now_ns)?;
                    self.phase = Phase::Draining { until_ns: now_ns + self.job.patience_ns };
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, now_ns: u64) {
        self.phase = Phase::Writing;
        let restless = |user: &u32| matches!(self.users[*user as usize].conduct, Conduct::Restless { .. });
        self.to_leave = (0..self.job.users).filter(restless).map(|user| Reverse((now_ns, user))).collect();
        match self.job.pace {
            Pace::Window(window) => {
                (0..self.streams.len()).for_each(|stream| self.fill_window(now_ns, stream));
                (0..self.broadcasts.len()).for_each(|place| self.fill_broadcasts(now_ns, place, window));
            }
            Pace::Rate(rate) => {
                let kinds = self.streams.iter().map(|stream| stream.kind).zip(0..);
                let streams = kinds.filter(|(kind, _)| *kind != RouteKind::Flood).map(|(_, stream)| stream);
                let broadcasts = (0..self.broadcasts.len()).map(|place| (self.streams.len() + place) as u32);
                let streams: Vec<u32> = streams.chain(broadcasts).collect();
                let begins_ns = now_ns + self.job.begins_after_ns;
                self.schedule =
                    (!streams.is_empty()).then(|| Schedule { streams, next: 0, begins_ns, step_ns: 1e9 / rate });
                self.flood();
            }
        }
    }

    fn count_no_more(&mut self, now_ns: u64) -> io::Result<()> {
        if let Phase::Counting { since_ns } = self.phase {
            self.report.seconds = (now_ns - since_ns) as f64 / 1e9;
            self.report.cpu_seconds = own_cpu_seconds()? - self.cpu_at_measure;
            self.counted_ns.end = now_ns;
            self.phase = Phase::Held;
        }
        Ok(())
    }

    /// Tells how far it is, and sees whether the phase is over.
    fn settle(&mut self, now_ns: u64) {
        if now_ns >= self.next_tick_ns {
            self.next_tick_ns = now_ns + TICK_NS;
            (self.tell)(News::Tick(self.tick));
            self.look_for_late(now_ns);
        }
        match self.phase {
            Phase::LoggingIn if self.tick.online == self.job.users => {
                self.report.login_seconds = now_ns as f64 / 1e9;
                self.phase = Phase::Ready;
                (self.tell)(News::Tick(self.tick));
            }
            Phase::Draining { until_ns } => {
                let owed = || self.streams.iter().filter(|stream| stream.kind == RouteKind::Sure && stream.owed() > 0);
                // What was under way to a connection that is no more does not arrive.
                let may_arrive = |stream: &Stream| self.users[stream.receiver as usize].conn.is_some();
                let broadcasts_owed: u64 = self.broadcasts.iter().map(Broadcast::owed).sum();
                if now_ns >= until_ns || !owed().any(may_arrive) && broadcasts_owed == 0 {
                    let lost = owed().map(Stream::owed).sum::<u64>() + broadcasts_owed;
                    if lost > 0 {
                        self.violation(format!("{lost} message{} lost", if lost == 1 { "" } else { "s" }));
                    }
                    self.phase = Phase::Done;
                }
            }
            Phase::LoggingIn | Phase::Ready | Phase::Writing | Phase::Counting { .. } | Phase::Held | Phase::Done => {}
        }
    }

    /// Looks for logins and logouts that take too long.
    fn look_for_late(&mut self, now_ns: u64) {
        for place in 0..self.users.len() {
            let (since_ns, what) = match self.users[place].stage {
                Stage::Entering { since_ns } => (since_ns, "in"),
                Stage::Leaving { since_ns } => (since_ns, "out"),
                Stage::Out | Stage::In => continue,
            };
            if now_ns >= since_ns + self.job.patience_ns {
                let seconds = self.job.patience_ns as f64 / 1e9;
                self.ended(place as u32, &format!("is not {what} after {seconds} s"));
            }
        }
    }

    fn is_writing(&self) -> bool {
        matches!(self.phase, Phase::Writing | Phase::Counting { .. } | Phase::Held)
    }

    fn is_counting(&self) -> bool {
        matches!(self.phase, Phase::Counting { .. })
    }

    fn violation(&mut self, what: String) {
        self.tick.violations += 1;
        self.report.violation_count += 1;
        if self.report.violations.len() < VIOLATIONS_TOLD {
            self.report.violations.push(what);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the load measures real time")]
fn now() -> Instant {
    Instant::now()
}
