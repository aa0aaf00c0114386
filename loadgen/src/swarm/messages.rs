//! Messages are sent, arrive and bounce.

use trunkline::wire::{Bounce, CloseBody, CloseCode};

use super::{Schedule, Stage, Stream, Swarm};
use crate::dialect::{Message, Said};
use crate::job::Pace;
use crate::scenario::RouteKind;
use crate::stamp::Stamp;

/// A flooding user's connection is offered more while less than this waits to be written.
const FLOOD_BYTES: usize = 64 << 10;
/// A message that is due waits while so much waits to be written before it on its connection.
const OUT_BYTES_MAX: usize = 1 << 20;

impl Swarm<'_> {
    pub(super) fn fill_window(&mut self, now_ns: u64, stream: usize) {
        let Pace::Window(window) = self.job.pace else { return };
        while self.is_writing() && self.may_send(stream, window) {
            self.send(now_ns, stream);
        }
    }

    pub(super) fn may_send(&self, stream: usize, window: u32) -> bool {
        let stream = &self.streams[stream];
        let Some(conn) = &self.users[stream.sender as usize].conn else { return false };
        match stream.kind {
            RouteKind::Sure | RouteKind::Unsure => stream.under_way < window,
            RouteKind::Flood => conn.out.len() < FLOOD_BYTES,
        }
    }

    /// Floods go on as fast as they can, at whatever rate the others write.
    pub(super) fn flood(&mut self) {
        let now_ns = self.now_ns();
        for stream in 0..self.streams.len() {
            while self.streams[stream].kind == RouteKind::Flood && self.may_send(stream, 0) {
                self.send(now_ns, stream);
            }
        }
    }

    pub(super) fn write_on_schedule(&mut self, now_ns: u64) {
        while self.is_writing() {
            let Some(Schedule { streams, next, begins_ns, step_ns }) = &self.schedule else { return };
            let due_ns = begins_ns + (*next as f64 * step_ns) as u64;
            if due_ns > now_ns {
                return;
            }
            let stream = streams[(next % streams.len() as u64) as usize] as usize;
            let sender = &self.users[self.sender(stream) as usize];
            if sender.conn.as_ref().is_some_and(|conn| conn.out.len() >= OUT_BYTES_MAX) {
                return;
            }
            if let Some(schedule) = &mut self.schedule {
                schedule.next += 1;
            }
            self.send(due_ns, stream);
            if self.is_counting() {
                self.report.lateness.0.saturating_record(self.now_ns() - due_ns);
            }
        }
    }

    /// Sends a stream's next message; `at_ns` is when that is, or was to be, done.
    pub(super) fn send(&mut self, at_ns: u64, stream: usize) {
        if let Some(place) = stream.checked_sub(self.streams.len()) {
            return self.broadcast(at_ns, place);
        }
        let state = &mut self.streams[stream];
        let (sender, receiver) = (state.sender as usize, state.receiver as usize);
        let Some(mut conn) = self.users[sender].conn.take() else { return };
        let number = state.sent;
        state.sent += 1;
        state.under_way += 1;
        self.write_body(Stamp { stream: stream as u32, number, sent_ns: at_ns });
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

    /// A body of a size drawn for it.
    pub(super) fn write_body(&mut self, stamp: Stamp) {
        let (least, most) = self.job.body_bytes;
        let body_bytes = if least == most { least } else { drawn(&mut self.rng, least, most) } as usize;
        self.pool.write(stamp, body_bytes, &mut self.body);
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
        if stream.kind == RouteKind::Flood {
            self.report.flooded += u64::from(self.is_counting());
            return self.fill_window(now_ns, stamp.stream as usize);
        }
        self.count_arrival(now_ns, stamp);
        self.fill_window(now_ns, stamp.stream as usize);
    }

    pub(super) fn count_arrival(&mut self, now_ns: u64, stamp: Stamp) {
        self.tick.arrived += 1;
        if self.is_counting() {
            self.report.messages += 1;
        }
        if self.counted_ns.contains(&stamp.sent_ns) {
            self.report.latency.0.saturating_record(now_ns.saturating_sub(stamp.sent_ns).max(1));
        }
    }

    fn bounced(&mut self, now_ns: u64, user: u32, id: u64, cause: Bounce) {
        self.tick.bounced += 1;
        self.report.bounced += 1;
        let sender = &self.users[user as usize].name;
        let place = (id >> 32) as usize;
        if self.is_broadcast_of(user, place) {
            return self.violation(format!("{sender}: message {} to its group bounced: {cause}", id as u32));
        }
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

    pub(super) fn heard(&mut self, now_ns: u64, user: u32, said: Said<'_>) {
        let name = |swarm: &Self| swarm.users[user as usize].name.clone();
        match said {
            Said::Message { to, from, body } => self.arrived(now_ns, user, to, from, body),
            Said::GroupMessage { group, from, body } => self.broadcast_arrived(now_ns, user, group, from, body),
            Said::LoggedIn if self.join(user) => {}
            Said::LoggedIn | Said::Joined => self.logged_in(now_ns, user),
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
            Said::Close { code, text } => {
                let state = &self.users[user as usize];
                let floods = state.writes.iter().any(|stream| self.streams[*stream as usize].kind == RouteKind::Flood);
                match (state.stage, CloseBody::parse(text.as_bytes()).retry_after_ms) {
                    (Stage::Entering { .. }, Some(millis)) if code == CloseCode::FULL.to_wire() => {
                        self.sent_away(now_ns, user, millis);
                    }
                    (Stage::In, _) if code == CloseCode::RATE.to_wire() && floods => self.closed_rate(user),
                    _ => self.ended(user, &format!("was closed: {code} {text}")),
                }
            }
            Said::Nothing => {}
            Said::Unexpected(what) => self.violation(format!("{} heard {what}", name(self))),
        }
    }
}

impl Stream {
    /// Messages that have neither arrived nor bounced: those behind the last that did.
    pub(super) fn owed(&self) -> u64 {
        self.sent - self.expected.max(self.bounced)
    }

    /// Message `number` is no longer under way.
    fn settle(&mut self, number: u64) {
        if number >= self.tenure {
            self.under_way = self.under_way.saturating_sub(1);
        }
    }
}

/// A size between two, each doubling as likely as the next.
fn drawn(rng: &mut fastrand::Rng, least: u32, most: u32) -> u32 {
    let (low, high) = (f64::from(least).ln(), f64::from(most).ln());
    ((low + rng.f64() * (high - low)).exp() as u32).clamp(least, most)
}
