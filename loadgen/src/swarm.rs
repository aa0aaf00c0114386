//! A worker's users: one mio loop, one connection a user, every message checked.
//!
//! Written against the protocol, not on Trunkline's own links and queues: what it measures and checks, it does not share.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use crossbeam_channel::Receiver;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use socket2::{Domain, Socket, Type};
use trunkline::wire::{Bounce, CloseCode};

use crate::dialect::{Message, Said};
use crate::job::{Command, Job, News, Pace, Report, Tick, Timings};
use crate::process::own_cpu_seconds;
use crate::scenario::{Conduct, RouteKind};
use crate::stamp::{Pool, Stamp};

const WAKER: Token = Token(usize::MAX);
const TIMER: Token = Token(usize::MAX - 1);
const EVENTS_PER_TURN: usize = 1024;
const READ_BYTES: usize = 256 << 10;
/// A flooding user's connection is offered more while less than this waits to be written.
const FLOOD_BYTES: usize = 64 << 10;
const TICK_NS: u64 = 100_000_000;
/// A message that is due waits while so much waits to be written before it on its connection.
const OUT_BYTES_MAX: usize = 1 << 20;
/// Violations that are reported in words.
const VIOLATIONS_TOLD: usize = 10;

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
    pool: Pool,
    body: Vec<u8>,
    rng: fastrand::Rng,
    phase: Phase,
    commands: Receiver<Command>,
    tell: Box<dyn FnMut(News) + 'a>,
    /// Users to dial, in order.
    to_dial: VecDeque<u32>,
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
            })
            .collect();
        let mut streams = Vec::with_capacity(plan.routes.len());
        for route in plan.routes {
            users[route.sender as usize].writes.push(streams.len() as u32);
            users[route.receiver as usize].reads.push(streams.len() as u32);
            let (sender, receiver, kind) = (route.sender, route.receiver, route.kind);
            streams.push(Stream { sender, receiver, kind, sent: 0, expected: 0, bounced: 0, under_way: 0, tenure: 0 });
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
            body: Vec::new(),
            rng,
            phase: Phase::LoggingIn,
            commands,
            tell: Box::new(tell),
            to_leave: BinaryHeap::new(),
            entering: 0,
            ready: VecDeque::new(),
            dirty: Vec::new(),
            read_buffer: vec![0; READ_BYTES],
            schedule: None,
            next_tick_ns: 0,
            tick: Tick::default(),
            cpu_at_measure: 0.0,
            report: Report {
                messages: 0,
                seconds: 0.0,
                logins: 0,
                login_seconds: 0.0,
                bounced: 0,
                closed_slow: 0,
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
            Pace::Window(_) => (0..self.streams.len()).for_each(|stream| self.fill_window(now_ns, stream)),
            Pace::Rate(rate) => {
                let kinds = self.streams.iter().map(|stream| stream.kind).zip(0..);
                let streams: Vec<u32> =
                    kinds.filter(|(kind, _)| *kind != RouteKind::Flood).map(|(_, stream)| stream).collect();
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
                if now_ns >= until_ns || !owed().any(may_arrive) {
                    let lost: u64 = owed().map(Stream::owed).sum();
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

/// In and out.
impl Swarm<'_> {
    fn dial(&mut self, now_ns: u64) {
        while self.entering < self.job.dials_max
            && let Some(user) = self.to_dial.pop_front()
        {
            let number = self.job.first_user + user;
            let server = self.server(user);
            match self.connect(user, server) {
                Ok(conn) => {
                    self.entering += 1;
                    let state = &mut self.users[user as usize];
                    state.stage = Stage::Entering { since_ns: now_ns };
                    let out = &mut state.conn.insert(conn).out;
                    self.job.dialect.log_in(number, &state.name, out);
                }
                Err(error) => {
                    self.violation(format!("{} cannot dial {server}: {error}", self.users[user as usize].name))
                }
            }
        }
    }

    fn server(&self, user: u32) -> SocketAddr {
        self.job.servers[(self.job.first_user + user) as usize % self.job.servers.len()]
    }

    fn connect(&mut self, user: u32, server: SocketAddr) -> io::Result<Conn> {
        let socket = Socket::new(Domain::for_address(server), Type::STREAM.nonblocking(), None)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(users) = self.job.users_per_source {
            let [_, high, middle, low] = ((self.job.first_user + user) / users + 2).to_be_bytes();
            socket.bind(&SocketAddr::from(([127, high, middle, low], 0)).into())?;
        }
        match socket.connect(&server.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        let mut stream = TcpStream::from_std(socket.into());
        let state = &mut self.users[user as usize];
        state.generation = state.generation.wrapping_add(1);
        let token = Token((state.generation as usize) << 32 | user as usize);
        self.poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let (carry, out) = (Vec::new(), BytesMut::new());
        Ok(Conn { stream, carry, out, writable: false, listed: false, dirty: false, hung_up: false })
    }

    fn logged_in(&mut self, now_ns: u64, user: u32) {
        let state = &mut self.users[user as usize];
        if !matches!(state.stage, Stage::Entering { .. }) {
            return;
        }
        state.stage = Stage::In;
        self.entering -= 1;
        self.tick.online += 1;
        self.tick.logins += 1;
        self.report.logins += u64::from(self.is_counting());
        if !self.is_writing() {
            return;
        }
        if let Conduct::Restless { stay_ms } = self.users[user as usize].conduct {
            let stay_ns = self.rng.u64(0..=stay_ms * 1_000_000);
            self.to_leave.push(Reverse((now_ns + stay_ns, user)));
        }
        // What was under way to the earlier connection is settled: it arrived, bounced or is lost.
        for stream in self.users[user as usize].reads.clone() {
            let state = &mut self.streams[stream as usize];
            (state.under_way, state.tenure) = (0, state.sent);
            self.fill_window(now_ns, stream as usize);
        }
    }

    /// Restless users leave: every other time with a word, else by hanging up.
    fn leave(&mut self, now_ns: u64) {
        while self.is_writing()
            && let Some(Reverse((leaves_ns, user))) = self.to_leave.peek().copied()
            && leaves_ns <= now_ns
        {
            self.to_leave.pop();
            let state = &mut self.users[user as usize];
            if state.stage != Stage::In {
                continue;
            }
            self.tick.online -= 1;
            let said = state.generation.is_multiple_of(2)
                && state.conn.as_mut().is_some_and(|conn| self.job.dialect.log_out(&state.name, &mut conn.out));
            if said {
                state.stage = Stage::Leaving { since_ns: now_ns };
                self.list_dirty(user);
            } else {
                self.return_later(user);
            }
        }
    }

    fn is_leaving(&self, user: u32) -> bool {
        matches!(self.users[user as usize].stage, Stage::Leaving { .. })
    }

    fn hang_up(&mut self, user: u32) {
        let state = &mut self.users[user as usize];
        state.stage = Stage::Out;
        state.conn = None;
    }

    /// Hangs up, and dials again when it is the user's turn.
    fn return_later(&mut self, user: u32) {
        self.hang_up(user);
        self.to_dial.push_back(user);
    }

    /// The server ended the connection, or it broke.
    fn ended(&mut self, user: u32, how: &str) {
        let state = &self.users[user as usize];
        let stage = state.stage;
        if stage == Stage::In && state.conduct == Conduct::Deaf {
            return self.closed_slow(user);
        }
        self.tick.online -= u32::from(stage == Stage::In);
        self.entering -= u32::from(matches!(stage, Stage::Entering { .. }));
        let what = match stage {
            Stage::Entering { .. } => format!("{} at {}: {how}", state.name, self.server(user)),
            Stage::Out | Stage::In | Stage::Leaving { .. } => format!("{} {how}", state.name),
        };
        self.violation(what);
        self.hang_up(user);
    }

    /// A user that reads nothing was closed, as it should be; it comes again.
    fn closed_slow(&mut self, user: u32) {
        self.tick.online -= 1;
        self.report.closed_slow += 1;
        self.return_later(user);
    }
}

/// Messages.
impl Swarm<'_> {
    fn fill_window(&mut self, now_ns: u64, stream: usize) {
        let Pace::Window(window) = self.job.pace else { return };
        while self.is_writing() && self.may_send(stream, window) {
            self.send(now_ns, stream);
        }
    }

    fn may_send(&self, stream: usize, window: u32) -> bool {
        let stream = &self.streams[stream];
        let Some(conn) = &self.users[stream.sender as usize].conn else { return false };
        match stream.kind {
            RouteKind::Sure | RouteKind::Unsure => stream.under_way < window,
            RouteKind::Flood => conn.out.len() < FLOOD_BYTES,
        }
    }

    /// Floods go on as fast as they can, at whatever rate the others write.
    fn flood(&mut self) {
        let now_ns = self.now_ns();
        for stream in 0..self.streams.len() {
            while self.streams[stream].kind == RouteKind::Flood && self.may_send(stream, 0) {
                self.send(now_ns, stream);
            }
        }
    }

    fn write_on_schedule(&mut self, now_ns: u64) {
        while self.is_writing() {
            let Some(schedule) = &mut self.schedule else { return };
            let due_ns = schedule.begins_ns + (schedule.next as f64 * schedule.step_ns) as u64;
            if due_ns > now_ns {
                return;
            }
            let stream = schedule.streams[(schedule.next % schedule.streams.len() as u64) as usize] as usize;
            let sender = &self.users[self.streams[stream].sender as usize];
            if sender.conn.as_ref().is_some_and(|conn| conn.out.len() >= OUT_BYTES_MAX) {
                return;
            }
            schedule.next += 1;
            self.send(due_ns, stream);
            if self.is_counting() {
                self.report.lateness.0.saturating_record(self.now_ns() - due_ns);
            }
        }
    }

    /// Sends a stream's next message; `at_ns` is when that is, or was to be, done.
    fn send(&mut self, at_ns: u64, stream: usize) {
        let state = &mut self.streams[stream];
        let (sender, receiver) = (state.sender as usize, state.receiver as usize);
        let Some(mut conn) = self.users[sender].conn.take() else { return };
        let number = state.sent;
        state.sent += 1;
        state.under_way += 1;
        let (least, most) = self.job.body_bytes;
        let body_bytes = if least == most { least } else { drawn(&mut self.rng, least, most) } as usize;
        self.pool.write(Stamp { stream: stream as u32, number, sent_ns: at_ns }, body_bytes, &mut self.body);
        let message = Message {
            id: (stream as u64) << 32 | (number & 0xffff_ffff),
            to: &self.users[receiver].name,
            from: &self.users[sender].name,
            receiver: self.job.first_user + receiver as u32,
            body: &self.body,
        };
        self.job.dialect.send(&message, &mut conn.out);
        self.users[sender].conn = Some(conn);
        self.list_dirty(sender as u32);
    }

    fn arrived(&mut self, now_ns: u64, user: u32, to: &[u8], from: Option<&[u8]>, body: &[u8]) {
        let receiver = &self.users[user as usize].name;
        let Some(stamp) = self.pool.read(body) else {
            return self.violation(format!("{receiver} got {} bytes that are not what was sent", body.len()));
        };
        let Some(stream) = self.streams.get_mut(stamp.stream as usize) else {
            return self.violation(format!("{receiver} got a message of no stream"));
        };
        let sender = &self.users[stream.sender as usize].name;
        if stream.receiver != user || to != receiver.as_bytes() || from.is_some_and(|from| from != sender.as_bytes()) {
            return self.violation(format!("{receiver} got a message that is another's"));
        }
        if stamp.number >= stream.sent {
            return self.violation(format!("{receiver} got message {} of {sender}, not sent so far", stamp.number));
        }
        let expected = stream.expected;
        let in_order = match stream.kind {
            RouteKind::Sure => stamp.number == expected,
            RouteKind::Unsure | RouteKind::Flood => stamp.number >= expected,
        };
        if !in_order {
            let what = format!("{receiver} got message {} of {sender} instead of {expected}", stamp.number);
            stream.expected = stream.expected.max(stamp.number + 1);
            return self.violation(what);
        }
        stream.expected = stamp.number + 1;
        stream.settle(stamp.number);
        self.tick.arrived += 1;
        if self.is_counting() {
            self.report.messages += 1;
            self.report.latency.0.saturating_record(now_ns.saturating_sub(stamp.sent_ns).max(1));
        }
        self.fill_window(now_ns, stamp.stream as usize);
    }

    fn bounced(&mut self, now_ns: u64, user: u32, id: u64, cause: Bounce) {
        self.tick.bounced += 1;
        self.report.bounced += 1;
        let sender = &self.users[user as usize].name;
        let place = (id >> 32) as usize;
        let Some(stream) = self.streams.get_mut(place).filter(|stream| stream.sender == user) else {
            return self.violation(format!("{sender}: message {id:#x}, which it did not send, bounced: {cause}"));
        };
        // The id has the number's lower half.
        let behind = u64::from((stream.sent as u32).wrapping_sub(id as u32));
        let Some(number) = stream.sent.checked_sub(behind).filter(|number| *number < stream.sent) else {
            return self.violation(format!("{sender}: message {id:#x}, not sent so far, bounced: {cause}"));
        };
        stream.bounced = stream.bounced.max(number + 1);
        stream.settle(number);
        let (kind, receiver) = (stream.kind, stream.receiver);
        let receiver_stage = self.users[receiver as usize].stage;
        match kind {
            RouteKind::Sure => self.violation(format!("{sender}: message {number} bounced: {cause}")),
            // Its connection does not tell: what was written before stands in the way of the end.
            RouteKind::Flood
                if cause == Bounce::Offline && receiver_stage == Stage::In && number >= self.streams[place].tenure =>
            {
                return self.closed_slow(receiver);
            }
            RouteKind::Unsure | RouteKind::Flood => {}
        }
        // A receiver that is away is not asked again until it is back: see `logged_in`.
        if receiver_stage == Stage::In {
            self.fill_window(now_ns, place);
        }
    }

    fn heard(&mut self, now_ns: u64, user: u32, said: Said<'_>) {
        let name = |swarm: &Self| swarm.users[user as usize].name.clone();
        match said {
            Said::Message { to, from, body } => self.arrived(now_ns, user, to, from, body),
            Said::LoggedIn => self.logged_in(now_ns, user),
            Said::Bounced { id, cause } => self.bounced(now_ns, user, id, cause),
            Said::Ping { id } => {
                if let Some(conn) = &mut self.users[user as usize].conn {
                    self.job.dialect.pong(id, &mut conn.out);
                    self.list_dirty(user);
                }
            }
            Said::Close { code, .. } if code == CloseCode::LOGGED_OUT.to_wire() && self.is_leaving(user) => {
                self.return_later(user);
            }
            Said::Close { code, text } => self.ended(user, &format!("was closed: {code} {text}")),
            Said::Nothing => {}
            Said::Unexpected(what) => self.violation(format!("{} heard {what}", name(self))),
        }
    }
}

/// Sockets.
impl Swarm<'_> {
    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let timeout = self.timeout()?;
        match self.poll.poll(events, timeout) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        }
        for event in &*events {
            match event.token() {
                WAKER => {}
                TIMER => drain_timer(&self.timer)?,
                Token(token) => {
                    let (user, generation) = (token as u32, (token >> 32) as u32);
                    let state = &mut self.users[user as usize];
                    let Some(conn) = state.conn.as_mut().filter(|_| state.generation == generation) else { continue };
                    conn.hung_up |= event.is_read_closed() || event.is_error();
                    if event.is_writable() && !conn.writable {
                        conn.writable = true;
                        self.list_dirty(user);
                    }
                    if event.is_readable() || event.is_read_closed() || event.is_error() {
                        self.list_ready(user);
                    }
                }
            }
        }
        Ok(())
    }

    /// How long the kernel may let it wait. A message that is due in less than its milliseconds has a timer.
    fn timeout(&mut self) -> io::Result<Option<Duration>> {
        if self.job.busy_poll || !self.ready.is_empty() || !self.dirty.is_empty() {
            return Ok(Some(Duration::ZERO));
        }
        if let (true, Some(schedule)) = (self.is_writing(), &self.schedule) {
            let due_ns = schedule.begins_ns + (schedule.next as f64 * schedule.step_ns) as u64;
            let wait_ns = due_ns.saturating_sub(self.now_ns()).max(1);
            let it_value =
                Timespec { tv_sec: (wait_ns / 1_000_000_000) as i64, tv_nsec: (wait_ns % 1_000_000_000) as i64 };
            let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
            rustix::time::timerfd_settime(
                &self.timer,
                TimerfdTimerFlags::empty(),
                &Itimerspec { it_interval, it_value },
            )?;
        }
        let busy = !self.to_leave.is_empty() && self.is_writing();
        Ok(Some(Duration::from_millis(if busy { 1 } else { 20 })))
    }

    fn list_ready(&mut self, user: u32) {
        let state = &mut self.users[user as usize];
        if let Some(conn) = &mut state.conn
            && !std::mem::replace(&mut conn.listed, true)
        {
            self.ready.push_back((user, state.generation));
        }
    }

    fn list_dirty(&mut self, user: u32) {
        if let Some(conn) = &mut self.users[user as usize].conn
            && !std::mem::replace(&mut conn.dirty, true)
        {
            self.dirty.push(user);
        }
    }

    /// Reads each connection that has something, once.
    fn read(&mut self) {
        for _ in 0..self.ready.len() {
            let Some((user, generation)) = self.ready.pop_front() else { return };
            let state = &mut self.users[user as usize];
            if state.generation != generation {
                continue;
            }
            let deaf = state.conduct == Conduct::Deaf && state.stage == Stage::In;
            let Some(conn) = &mut state.conn else { continue };
            conn.listed = false;
            if deaf {
                if conn.hung_up {
                    self.ended(user, "was closed");
                }
                continue;
            }
            match conn.stream.read(&mut self.read_buffer) {
                Ok(0) => self.ended(user, "was hung up on"),
                Ok(bytes) => {
                    if bytes == self.read_buffer.len() || conn.hung_up {
                        self.list_ready(user);
                    }
                    self.take(user, bytes);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => self.list_ready(user),
                Err(error) => self.ended(user, &error.to_string()),
            }
        }
    }

    /// Takes apart what was read, behind what was left before.
    fn take(&mut self, user: u32, bytes: usize) {
        let now_ns = self.now_ns();
        let buffer = std::mem::take(&mut self.read_buffer);
        let mut carry =
            self.users[user as usize].conn.as_mut().map(|conn| std::mem::take(&mut conn.carry)).unwrap_or_default();
        let fresh = carry.is_empty();
        if !fresh {
            carry.extend_from_slice(&buffer[..bytes]);
        }
        let mut rest = if fresh { &buffer[..bytes] } else { &carry[..] };
        // A server that has closed the connection says nothing more.
        while self.users[user as usize].conn.is_some() {
            let is_in = self.users[user as usize].stage == Stage::In;
            match self.job.dialect.hear(is_in, rest) {
                Ok(Some((taken, said))) => {
                    self.heard(now_ns, user, said);
                    rest.advance(taken);
                }
                Ok(None) => break,
                Err(error) => {
                    self.ended(user, &error);
                    break;
                }
            }
        }
        let left = rest.to_vec();
        self.read_buffer = buffer;
        if let Some(conn) = &mut self.users[user as usize].conn {
            conn.carry = left;
        }
    }

    fn flush(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for user in dirty.drain(..) {
            let floods = match &self.users[user as usize].writes[..] {
                [stream] => self.streams[*stream as usize].kind == RouteKind::Flood && self.is_writing(),
                _ => false,
            };
            let Some(conn) = &mut self.users[user as usize].conn else { continue };
            conn.dirty = false;
            if let Err(error) = conn.write() {
                self.ended(user, &error.to_string());
            } else if floods {
                let (now_ns, stream) = (self.now_ns(), self.users[user as usize].writes[0] as usize);
                while self.may_send(stream, 0) {
                    self.send(now_ns, stream);
                }
            }
        }
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
    }
}

impl Stream {
    /// Messages that have neither arrived nor bounced: those behind the last that did.
    fn owed(&self) -> u64 {
        self.sent - self.expected.max(self.bounced)
    }

    /// Message `number` is no longer under way.
    fn settle(&mut self, number: u64) {
        if number >= self.tenure {
            self.under_way = self.under_way.saturating_sub(1);
        }
    }
}

impl Conn {
    /// Writes as much as the kernel takes.
    fn write(&mut self) -> io::Result<()> {
        while self.writable && !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(bytes) => self.out.advance(bytes),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A size between two, each doubling as likely as the next.
fn drawn(rng: &mut fastrand::Rng, least: u32, most: u32) -> u32 {
    let (low, high) = (f64::from(least).ln(), f64::from(most).ln());
    ((low + rng.f64() * (high - low)).exp() as u32).clamp(least, most)
}

fn drain_timer(timer: &OwnedFd) -> io::Result<()> {
    match rustix::io::read(timer, &mut [0; 8]) {
        Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[expect(clippy::disallowed_methods, reason = "the load measures real time")]
fn now() -> Instant {
    Instant::now()
}
