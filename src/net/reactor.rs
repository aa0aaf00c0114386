//! The loop: wait, read, decide, write, settle.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::BytesMut;
use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use rustix::io::Errno;
use signal_hook_mio::v1_0::Signals;

use super::chunks::Chunks;
use super::clock::Clock;
use super::socket::{Outcome, Socket};
use super::tuning::Tuning;
use crate::id::ConnId;
use crate::limits::{ACCEPTS_PER_TURN, CHUNK_BYTES, LOGIN_FRAME_BYTES_MAX, REST_MAX, WRITE_SLICES_MAX};
use crate::link::End;
use crate::role::Core;
use crate::time::{Span, Time};

const WAKER: Token = Token(usize::MAX);
const LISTENER: Token = Token(usize::MAX - 1);
const SIGNALS: Token = Token(usize::MAX - 2);

/// Readiness events taken from the kernel at once.
const EVENTS_PER_TURN: usize = 1024;
/// Bytes read from one connection before the next has its turn.
const READ_BYTES_MAX: usize = CHUNK_BYTES / 2;
/// A chunk with less room than this is full.
const READ_BYTES_MIN: usize = 16 << 10;
/// Pause before accepting is tried again when there was no descriptor: freed ones raise no event.
const ACCEPT_RETRY: Span = Span::from_millis(50);

/// Wakes a reactor from another thread; many calls before it looks cost one system call.
#[derive(Debug)]
pub struct Wake {
    waker: Waker,
    called: AtomicBool,
}

impl Wake {
    /// Makes the reactor's next wait, or the present one, return.
    pub fn wake(&self) {
        if !self.called.swap(true, Ordering::AcqRel)
            && let Err(error) = self.waker.wake()
        {
            log::error!("the reactor cannot be woken: {error}");
        }
    }
}

/// What a wait returned for, beside sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Woken {
    /// Another thread called [`Wake::wake`].
    pub called: bool,
    /// A signal to stop came.
    pub signalled: bool,
}

/// System calls that a reactor has made; what a message costs is mostly these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// For readiness, whether or not there was any.
    pub waits: u64,
    /// Of sockets, whether or not there was data.
    pub reads: u64,
    /// To sockets, whether or not there was room.
    pub writes: u64,
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} waits, {} reads, {} writes", self.waits, self.reads, self.writes)
    }
}

/// One thread's sockets, and the loop over them.
pub struct Reactor {
    poll: Poll,
    events: Events,
    clock: Clock,
    /// The time as of the last wait's end.
    now: Time,
    /// The same of the turn before: how fast turns follow each other.
    before: Time,
    wake: Arc<Wake>,
    signals: Option<Signals>,
    listener: Option<TcpListener>,
    /// There may be connections to accept: the kernel tells once.
    accept_pending: bool,
    /// No descriptor was free: not before then, or before a socket is closed.
    accept_after: Option<Time>,
    /// The last attempt failed, which is logged once.
    accept_failing: bool,
    /// Connections that no descriptor was free for, and that were told so.
    turned_away: u64,
    /// Given up for a moment where no other descriptor is free, so that a connection can be taken to be told so.
    spare: Option<File>,
    tuning: Tuning,
    calls: Calls,
    /// Time since the start in which there was nothing to do, or which was rested.
    waited: Span,
    /// By the index of their [`ConnId`].
    sockets: Vec<Option<Socket>>,
    /// Sockets with data, in the order they are read.
    ready: VecDeque<ConnId>,
    /// Those among them that this side dialled: one of them is read before all others, each turn.
    ready_first: VecDeque<ConnId>,
    /// Sockets that the kernel has room for again.
    unblocked: Vec<ConnId>,
    /// Sockets that ended outside a read: dials, writes and half-closes that failed.
    broken: Vec<(ConnId, End)>,
    chunks: Chunks,
    reads: Vec<(ConnId, Range<usize>)>,
    ends: Vec<(ConnId, End)>,
    dirty: Vec<ConnId>,
}

impl Reactor {
    /// A reactor without sockets.
    pub fn new(tuning: Tuning) -> io::Result<Reactor> {
        let tuning = Tuning { rest: tuning.rest.min(REST_MAX) };
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let clock = Clock::start();
        Ok(Reactor {
            poll,
            events: Events::with_capacity(EVENTS_PER_TURN),
            clock,
            now: clock.now(),
            before: Time::ZERO,
            wake: Arc::new(Wake { waker, called: AtomicBool::new(false) }),
            signals: None,
            listener: None,
            accept_pending: false,
            accept_after: None,
            accept_failing: false,
            turned_away: 0,
            spare: spare_descriptor(),
            tuning,
            calls: Calls::default(),
            waited: Span::default(),
            sockets: Vec::new(),
            ready: VecDeque::new(),
            ready_first: VecDeque::new(),
            unblocked: Vec::new(),
            broken: Vec::new(),
            chunks: Chunks::default(),
            reads: Vec::new(),
            ends: Vec::new(),
            dirty: Vec::new(),
        })
    }

    /// Takes connections from `listener`.
    pub fn listen(&mut self, mut listener: TcpListener) -> io::Result<()> {
        self.poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        self.listener = Some(listener);
        Ok(())
    }

    /// Takes no more connections; those that wait for it are refused by the kernel.
    pub fn stop_listening(&mut self) {
        self.listener = None;
        self.accept_pending = false;
        self.accept_after = None;
    }

    /// Turns SIGTERM and SIGINT into [`Woken::signalled`], for this whole process.
    pub fn take_signals(&mut self) -> io::Result<()> {
        let mut signals = Signals::new([signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT])?;
        self.poll.registry().register(&mut signals, SIGNALS, Interest::READABLE)?;
        self.signals = Some(signals);
        Ok(())
    }

    /// What other threads wake this reactor with.
    pub fn wake(&self) -> Arc<Wake> {
        Arc::clone(&self.wake)
    }

    /// Waits, reads and writes so far.
    pub fn calls(&self) -> Calls {
        self.calls
    }

    /// The time on this reactor's clock, as of this turn's beginning or the last [`Reactor::catch_up`].
    pub fn now(&self) -> Time {
        self.now
    }

    /// Reads the clock again, where an application has held the turn for long.
    pub fn catch_up(&mut self) {
        self.now = self.clock.now();
    }

    /// The first half of a turn: waits until something happens or `deadline`, and brings it to the core.
    ///
    /// The application's part follows, then [`Reactor::send`].
    pub fn receive<C: Core>(&mut self, core: &mut C, deadline: Option<Time>) -> io::Result<Woken> {
        let due = core.deadline();
        let woken = self.wait(core, due.into_iter().chain(deadline).min())?;
        core.waited(self.waited);
        self.accept(core);
        self.read(core);
        for (conn, end) in std::mem::take(&mut self.broken) {
            core.ended(self.now, conn, end);
        }
        if due.is_some_and(|due| due <= self.now) {
            core.expire(self.now);
        }
        Ok(woken)
    }

    /// The second half of a turn: writes what the core has queued, and does what it asked for.
    pub fn send<C: Core>(&mut self, core: &mut C) {
        self.flush(core);
        for (conn, addr) in core.links().take_dials() {
            self.dial(conn, addr);
        }
        for conn in core.links().take_half_closes() {
            self.half_close(conn);
        }
        for conn in core.links().take_resumed() {
            if socket(&mut self.sockets, conn).is_some_and(|socket| socket.readable) {
                self.list(conn);
            }
        }
        for conn in core.links().take_ended() {
            self.drop_socket(conn);
        }
    }

    fn wait<C: Core>(&mut self, core: &mut C, deadline: Option<Time>) -> io::Result<Woken> {
        if !self.has_work() && deadline.is_none_or(|deadline| deadline > self.now) {
            self.pause();
        }
        let (timeout, began) = self.timeout([deadline, self.accept_after].into_iter().flatten().min());
        self.calls.waits += 1;
        if let Err(error) = self.poll.poll(&mut self.events, timeout)
            && error.kind() != ErrorKind::Interrupted
        {
            return Err(error);
        }
        let mut woken = Woken::default();
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        self.before = std::mem::replace(&mut self.now, self.clock.now());
        self.waited += began.map_or(Span::default(), |began| self.now.since(began));
        for event in &events {
            match event.token() {
                WAKER => {
                    self.wake.called.swap(false, Ordering::AcqRel);
                    woken.called = true;
                }
                LISTENER => self.accept_pending = true,
                SIGNALS => {
                    woken.signalled |= self.signals.as_mut().is_some_and(|signals| signals.pending().count() > 0)
                }
                Token(token) => self.note(core, self.now, ConnId::from_token(token as u64), event),
            }
        }
        self.events = events;
        Ok(woken)
    }

    /// Whether there is something to do without the kernel telling of it.
    fn has_work(&self) -> bool {
        self.is_ready() || !self.broken.is_empty() || (self.accept_pending && self.accept_after.is_none())
    }

    /// Rests before the wait, where the load is such that there will be something to do behind it.
    #[expect(clippy::disallowed_methods, reason = "resting is what was asked for")]
    fn pause(&mut self) {
        let rest = self.tuning.rest;
        if rest == Span::default() {
            return;
        }
        let (now, next) = (self.clock.now(), self.now + rest);
        if now < next && self.now < self.before + rest + rest {
            let rest = next.since(now);
            std::thread::sleep(rest.to_duration());
            self.waited += rest;
        }
    }

    /// How long to wait, and since when, where there is nothing else to do.
    fn timeout(&self, deadline: Option<Time>) -> (Option<std::time::Duration>, Option<Time>) {
        if self.has_work() {
            return (Some(std::time::Duration::ZERO), None);
        }
        let began = self.clock.now();
        (deadline.map(|deadline| deadline.since(began).to_duration()), Some(began))
    }

    /// Remembers what a socket is ready for.
    fn note<C: Core>(&mut self, core: &mut C, now: Time, conn: ConnId, event: &Event) {
        let Some(socket) = socket(&mut self.sockets, conn) else { return };
        if std::mem::take(&mut socket.connecting) {
            if let Some(error) = failed_dial(socket) {
                return self.broken.push((conn, End::Failed(error)));
            }
            core.connected(now, conn);
        }
        if event.is_writable() && !std::mem::replace(&mut socket.writable, true) {
            self.unblocked.push(conn);
        }
        socket.hung_up |= event.is_read_closed() || event.is_error();
        if event.is_readable() || socket.hung_up {
            socket.readable = true;
            self.list(conn);
        }
    }

    fn is_ready(&self) -> bool {
        !self.ready.is_empty() || !self.ready_first.is_empty()
    }

    /// Puts a socket that may have data at the end of those to be read.
    ///
    /// One that this side dialled carries what many have sent, to be handed on here. Behind everyone who has something new
    /// to say it would starve, and be taken for dead, where clients write faster than they are read.
    fn list(&mut self, conn: ConnId) {
        let Some(socket) = socket(&mut self.sockets, conn) else { return };
        debug_assert!(socket.readable);
        if !std::mem::replace(&mut socket.listed, true) {
            let ready = if socket.dialled { &mut self.ready_first } else { &mut self.ready };
            ready.push_back(conn);
        }
    }

    fn accept<C: Core>(&mut self, core: &mut C) {
        if !self.accept_pending || self.accept_after.is_some_and(|after| self.now < after) {
            return;
        }
        self.accept_after = None;
        self.spare = self.spare.take().or_else(spare_descriptor);
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = &self.listener else { return };
            match listener.accept() {
                Ok((stream, addr)) => {
                    let conn = core.accepted(self.now, addr);
                    self.add(conn, stream, false);
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => {
                        self.accept_pending = false;
                        // Where nobody had to be turned away on the way here there is room again.
                        if self.accept_after.take().is_none() && std::mem::take(&mut self.accept_failing) {
                            log::info!("connections are accepted again; {} were turned away", self.turned_away);
                        }
                        return;
                    }
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                    _ => {
                        if !std::mem::replace(&mut self.accept_failing, true) {
                            log::warn!("accept: {error}; trying again every {} ms", ACCEPT_RETRY.as_millis());
                        }
                        self.accept_after = Some(self.now + ACCEPT_RETRY);
                        if !is_shortage(&error) {
                            return;
                        }
                        match self.turn_away(core) {
                            Ok(()) => {}
                            Err(nobody) if nobody.kind() == ErrorKind::WouldBlock => {
                                (self.accept_pending, self.accept_after) = (false, None);
                                return;
                            }
                            Err(_) => return,
                        }
                    }
                },
            }
        }
    }

    /// Takes a connection with the spare descriptor, tells it that there is no room, and lets it go. `WouldBlock` where
    /// nobody waits: without a free descriptor the kernel does not say so otherwise.
    fn turn_away<C: Core>(&mut self, core: &mut C) -> io::Result<()> {
        let listener = self.listener.as_ref().ok_or(ErrorKind::NotConnected)?;
        drop(self.spare.take().ok_or(ErrorKind::NotFound)?);
        let accepted = listener.accept();
        if let Ok((stream, addr)) = &accepted {
            self.turned_away += 1;
            if let Err(error) = refuse(stream, &core.refusal()) {
                log::debug!("{addr} was turned away, and could not be told: {error}");
            }
        }
        let outcome = accepted.map(drop);
        self.spare = spare_descriptor();
        outcome
    }

    fn dial(&mut self, conn: ConnId, addr: SocketAddr) {
        match TcpStream::connect(addr) {
            Ok(stream) => self.add(conn, stream, true),
            Err(error) => self.broken.push((conn, End::Failed(error.kind()))),
        }
    }

    fn add(&mut self, conn: ConnId, mut stream: TcpStream, dialled: bool) {
        let token = Token(conn.to_token() as usize);
        let registry: &Registry = self.poll.registry();
        if let Err(error) = registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE) {
            self.broken.push((conn, End::Failed(error.kind())));
        }
        let index = conn.index as usize;
        if self.sockets.len() <= index {
            self.sockets.resize_with(index + 1, || None);
        }
        self.sockets[index] = Some(Socket::new(stream, conn.generation, dialled));
    }

    /// Reads what is ready, as far as one chunk goes, and brings it to the core.
    fn read<C: Core>(&mut self, core: &mut C) {
        if !self.is_ready() {
            return;
        }
        let mut chunk = self.chunks.take();
        let mut filled = 0;
        if let Some(conn) = self.ready_first.pop_front() {
            filled += self.read_one(core, conn, &mut chunk, filled);
        }
        for _ in 0..self.ready.len() {
            if CHUNK_BYTES - filled < READ_BYTES_MIN {
                break;
            }
            let Some(conn) = self.ready.pop_front() else { break };
            filled += self.read_one(core, conn, &mut chunk, filled);
        }
        let chunk = chunk.freeze();
        for (conn, range) in self.reads.drain(..) {
            core.received(self.now, conn, &chunk, range);
        }
        for (conn, end) in self.ends.drain(..) {
            core.ended(self.now, conn, end);
        }
        self.chunks.give_back(chunk);
    }

    /// One read; a connection that may have more goes to the back of the list. Returns how many bytes came.
    fn read_one<C: Core>(&mut self, core: &mut C, conn: ConnId, chunk: &mut BytesMut, filled: usize) -> usize {
        let Some(socket) = socket(&mut self.sockets, conn) else { return 0 };
        socket.listed = false;
        // What is not read now is remembered as readable until the core resumes the connection.
        if !core.links().reads(conn) {
            return 0;
        }
        let end = CHUNK_BYTES.min(filled + READ_BYTES_MAX);
        self.calls.reads += 1;
        match socket.read(&mut chunk[filled..end]) {
            Outcome::Progress(bytes) => {
                socket.readable = filled + bytes == end || socket.hung_up;
                if socket.readable {
                    self.list(conn);
                }
                self.reads.push((conn, filled..filled + bytes));
                bytes
            }
            Outcome::Blocked => {
                socket.readable = false;
                0
            }
            Outcome::Ended(end) => {
                socket.readable = false;
                self.ends.push((conn, end));
                0
            }
        }
    }

    /// Writes to each connection that has something new or has room again, until the kernel takes no more.
    fn flush<C: Core>(&mut self, core: &mut C) {
        let now = self.now;
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.append(&mut self.unblocked);
        loop {
            for conn in dirty.drain(..) {
                self.write(core, now, conn);
            }
            core.links().take_dirty(&mut dirty);
            if dirty.is_empty() {
                break;
            }
        }
        self.dirty = dirty;
    }

    fn write<C: Core>(&mut self, core: &mut C, now: Time, conn: ConnId) {
        let Some(socket) = socket(&mut self.sockets, conn) else { return };
        while socket.writable {
            let links = core.links();
            let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
            let filled = links.fill(conn, &mut slices);
            let slices = &slices[..filled];
            if slices.is_empty() {
                return;
            }
            let offered: usize = slices.iter().map(|slice| slice.len()).sum();
            self.calls.writes += 1;
            match socket.write(slices) {
                Outcome::Progress(bytes) => {
                    let all = bytes == offered;
                    socket.writable = all;
                    if core.links().wrote(now, conn, bytes) {
                        core.relieved(now, conn);
                    }
                    // What the relief has queued has made it dirty again.
                    if all && filled < WRITE_SLICES_MAX {
                        return;
                    }
                }
                Outcome::Blocked => socket.writable = false,
                // Told at the next turn, where the application hears of it.
                Outcome::Ended(end) => {
                    socket.writable = false;
                    return self.broken.push((conn, end));
                }
            }
        }
        core.links().blocked(conn);
    }

    fn half_close(&mut self, conn: ConnId) {
        let Some(socket) = socket(&mut self.sockets, conn) else { return };
        if let Err(error) = socket.stream.shutdown(Shutdown::Write) {
            self.broken.push((conn, End::Failed(error.kind())));
        }
    }

    fn drop_socket(&mut self, conn: ConnId) {
        if socket(&mut self.sockets, conn).is_some() {
            self.sockets[conn.index as usize] = None;
            self.accept_after = None;
        }
    }
}

/// Writes `close` to a connection that is about to be dropped. What it has sent is read: dropped unread, it would make the
/// kernel reset the connection before the CLOSE was.
fn refuse(mut stream: &TcpStream, close: &[u8]) -> io::Result<()> {
    let mut unread = [0; LOGIN_FRAME_BYTES_MAX];
    match stream.read(&mut unread) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        Err(error) => return Err(error),
    }
    stream.write_all(close)?;
    stream.shutdown(Shutdown::Write)
}

/// Whether an error of `accept` means that no descriptor is free, here or in the whole system.
fn is_shortage(error: &io::Error) -> bool {
    let shortage = [Errno::MFILE, Errno::NFILE];
    shortage.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn spare_descriptor() -> Option<File> {
    File::open("/dev/null").ok()
}

fn socket(sockets: &mut [Option<Socket>], conn: ConnId) -> Option<&mut Socket> {
    sockets.get_mut(conn.index as usize)?.as_mut().filter(|socket| socket.generation == conn.generation)
}

/// Why a dial failed; none where the connection stands.
fn failed_dial(socket: &Socket) -> Option<ErrorKind> {
    match socket.stream.take_error() {
        Ok(None) => socket.stream.peer_addr().err().map(|error| error.kind()),
        Ok(Some(error)) | Err(error) => Some(error.kind()),
    }
}
