//! What the kernel tells, takes and gives.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::Buf;
use mio::{Events, Token};
use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec};

use super::{Conn, Stage, Swarm};
use crate::scenario::{Conduct, RouteKind};

pub(super) const WAKER: Token = Token(usize::MAX);
pub(super) const TIMER: Token = Token(usize::MAX - 1);

impl Swarm<'_> {
    pub(super) fn wait(&mut self, events: &mut Events) -> io::Result<()> {
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

    pub(super) fn list_dirty(&mut self, user: u32) {
        if let Some(conn) = &mut self.users[user as usize].conn
            && !std::mem::replace(&mut conn.dirty, true)
        {
            self.dirty.push(user);
        }
    }

    /// Reads each connection that has something, once.
    pub(super) fn read(&mut self) {
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

    pub(super) fn flush(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for user in dirty.drain(..) {
            let state = &self.users[user as usize];
            let floods = match &state.writes[..] {
                [stream] => self.streams[*stream as usize].kind == RouteKind::Flood && self.is_writing(),
                _ => false,
            };
            let floods = floods && state.stage == Stage::In;
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

fn drain_timer(timer: &OwnedFd) -> io::Result<()> {
    match rustix::io::read(timer, &mut [0; 8]) {
        Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
