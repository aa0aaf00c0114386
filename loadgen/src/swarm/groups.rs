//! Messages to groups: sent once, arriving at every other member.

use std::collections::VecDeque;
use std::ops::Range;

use super::Swarm;
use crate::job::Pace;
use crate::stamp::Stamp;

/// One user's messages to its group.
pub(super) struct Broadcast {
    sender: u32,
    members: Range<u32>,
    group: String,
    sent: u64,
    /// For each member the number of the next message to arrive.
    expected: Vec<u64>,
    /// How many members have not got each of the last messages; the first is the oldest that some have not got.
    missing: VecDeque<u32>,
}

impl Broadcast {
    pub(super) fn new(sender: u32, members: Range<u32>, group: String) -> Broadcast {
        let expected = vec![0; members.len()];
        Broadcast { sender, members, group, sent: 0, expected, missing: VecDeque::new() }
    }

    /// Copies that have not arrived.
    pub(super) fn owed(&self) -> u64 {
        self.missing.iter().map(|missing| u64::from(*missing)).sum()
    }

    /// Message `number` has reached one member more.
    fn settle(&mut self, number: u64) {
        let oldest = self.sent - self.missing.len() as u64;
        if let Some(missing) = number.checked_sub(oldest).and_then(|place| self.missing.get_mut(place as usize)) {
            *missing -= 1;
        }
        while self.missing.pop_front_if(|missing| *missing == 0).is_some() {}
    }
}

impl Swarm<'_> {
    /// A user that is in asks to be let into its group; false where it has none.
    pub(super) fn join(&mut self, user: u32) -> bool {
        let state = &mut self.users[user as usize];
        let (Some(group), Some(conn)) = (&state.group, &mut state.conn) else { return false };
        self.job.dialect.join(&state.name, group, &mut conn.out);
        self.list_dirty(user);
        true
    }

    pub(super) fn fill_broadcasts(&mut self, now_ns: u64, place: usize, window: u32) {
        while self.is_writing() && self.broadcasts[place].missing.len() < window as usize {
            self.broadcast(now_ns, place);
        }
    }

    /// Whose messages have this number among streams and broadcasts.
    pub(super) fn sender(&self, number: usize) -> u32 {
        match number.checked_sub(self.streams.len()) {
            None => self.streams[number].sender,
            Some(place) => self.broadcasts[place].sender,
        }
    }

    pub(super) fn is_broadcast_of(&self, user: u32, number: usize) -> bool {
        let place = number.checked_sub(self.streams.len());
        place.and_then(|place| self.broadcasts.get(place)).is_some_and(|broadcast| broadcast.sender == user)
    }

    /// Sends the next message to a group; `at_ns` is when that is, or was to be, done.
    pub(super) fn broadcast(&mut self, at_ns: u64, place: usize) {
        let stream = (self.streams.len() + place) as u32;
        let state = &mut self.broadcasts[place];
        let (sender, number) = (state.sender, state.sent);
        state.sent += 1;
        state.missing.push_back(state.members.len() as u32 - 1);
        self.write_body(Stamp { stream, number, sent_ns: at_ns });
        let (Broadcast { group, .. }, user) = (&self.broadcasts[place], &mut self.users[sender as usize]);
        if let Some(conn) = &mut user.conn {
            let id = u64::from(stream) << 32 | (number & 0xffff_ffff);
            self.job.dialect.broadcast(id, group, &user.name, &self.body, &mut conn.out);
            self.list_dirty(sender);
        }
    }

    pub(super) fn broadcast_arrived(&mut self, now_ns: u64, user: u32, group: &[u8], from: &[u8], body: &[u8]) {
        let receiver = &self.users[user as usize].name;
        let Some(stamp) = self.pool.read(body) else {
            return self.violation(format!("{receiver} got {} bytes that are not what was sent", body.len()));
        };
        let place = (stamp.stream as usize).checked_sub(self.streams.len());
        let Some(broadcast) = place.and_then(|place| self.broadcasts.get_mut(place)) else {
            return self.violation(format!("{receiver} got a message to a group of no writer"));
        };
        let sender = &self.users[broadcast.sender as usize].name;
        let is_meant = broadcast.members.contains(&user) && broadcast.sender != user;
        if !is_meant || group != broadcast.group.as_bytes() || from != sender.as_bytes() {
            return self.violation(format!("{receiver} got a message that is another's"));
        }
        let expected = &mut broadcast.expected[(user - broadcast.members.start) as usize];
        if stamp.number != *expected || stamp.number >= broadcast.sent {
            let what =
                format!("{receiver} got message {} of {sender} to its group instead of {expected}", stamp.number);
            *expected = (*expected).max(stamp.number + 1);
            return self.violation(what);
        }
        *expected += 1;
        broadcast.settle(stamp.number);
        self.count_arrival(now_ns, stamp);
        if let (Pace::Window(window), Some(place)) = (self.job.pace, place) {
            self.fill_broadcasts(now_ns, place, window);
        }
    }
}
