//! Users come in and go.

use std::cmp::Reverse;
use std::io;
use std::net::SocketAddr;

use bytes::BytesMut;
use mio::net::TcpStream;
use mio::{Interest, Token};
use socket2::{Domain, Socket, Type};

use super::{Conn, Stage, Swarm};
use crate::scenario::Conduct;

impl Swarm<'_> {
    pub(super) fn dial(&mut self, now_ns: u64) {
        while let Some(Reverse((returns_ns, user))) = self.to_return.peek().copied()
            && returns_ns <= now_ns
        {
            self.to_return.pop();
            self.to_dial.push_back(user);
        }
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

    pub(super) fn logged_in(&mut self, now_ns: u64, user: u32) {
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
        // A flood goes on with what is written next.
        self.list_dirty(user);
        // What was under way to the earlier connection is settled: it arrived, bounced or is lost.
        for stream in self.users[user as usize].reads.clone() {
            let state = &mut self.streams[stream as usize];
            (state.under_way, state.tenure) = (0, state.sent);
            self.fill_window(now_ns, stream as usize);
        }
    }

    /// Restless users leave: every other time with a word, else by hanging up.
    pub(super) fn leave(&mut self, now_ns: u64) {
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

    pub(super) fn is_leaving(&self, user: u32) -> bool {
        matches!(self.users[user as usize].stage, Stage::Leaving { .. })
    }

    fn hang_up(&mut self, user: u32) {
        let state = &mut self.users[user as usize];
        state.stage = Stage::Out;
        state.conn = None;
    }

    /// Hangs up, and dials again when it is the user's turn.
    pub(super) fn return_later(&mut self, user: u32) {
        self.hang_up(user);
        self.to_dial.push_back(user);
    }

    /// Too many came at once: the server said when to come again.
    pub(super) fn sent_away(&mut self, now_ns: u64, user: u32, retry_after_ms: u64) {
        self.report.sent_away += 1;
        self.entering -= 1;
        self.hang_up(user);
        self.to_return.push(Reverse((now_ns + retry_after_ms * 1_000_000, user)));
    }

    /// A user that floods was closed, as it should be; it comes again.
    pub(super) fn closed_rate(&mut self, user: u32) {
        self.tick.online -= 1;
        self.report.closed_rate += 1;
        self.return_later(user);
    }

    /// The server ended the connection, or it broke.
    pub(super) fn ended(&mut self, user: u32, how: &str) {
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
    pub(super) fn closed_slow(&mut self, user: u32) {
        self.tick.online -= 1;
        self.report.closed_slow += 1;
        self.return_later(user);
    }
}
