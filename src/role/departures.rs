use std::collections::VecDeque;

use hashbrown::HashMap;

use crate::id::UserId;
use crate::role::Entropy;
use crate::time::{Span, Time};

/// Users that have left and are waited for, each for as long: they may be back, or come to another server. So many at most.
pub struct Departures {
    /// For how long each is waited for.
    grace: Span,
    /// How many of `ends` there are at most.
    max: usize,
    /// When each is given up.
    users: HashMap<UserId, Time, ahash::RandomState>,
    /// The same, oldest first; an entry of a user that came back, or left once more, means nothing.
    ends: VecDeque<(Time, UserId)>,
}

impl Departures {
    /// Nobody has left yet.
    pub fn new(entropy: &mut Entropy, grace: Span, max: usize) -> Departures {
        Departures { grace, max, users: HashMap::with_hasher(entropy.hasher()), ends: VecDeque::new() }
    }

    /// The user has left. False where there is no room to wait for one more.
    pub fn left(&mut self, now: Time, user: UserId) -> bool {
        if self.ends.len() >= self.max {
            return false;
        }
        let ends = now + self.grace;
        self.users.insert(user.clone(), ends);
        self.ends.push_back((ends, user));
        true
    }

    /// The user is back, somewhere, or known to be gone for good. Whether it was waited for.
    pub fn settled(&mut self, user: &[u8]) -> bool {
        !self.users.is_empty() && self.users.remove(user).is_some()
    }

    /// Whether the user is waited for and was not given up, be its time over or not.
    pub fn contains(&self, user: &[u8]) -> bool {
        !self.users.is_empty() && self.users.contains_key(user)
    }

    /// Whether the user is waited for and its time is not over.
    pub fn is_due(&self, now: Time, user: &[u8]) -> bool {
        !self.users.is_empty() && self.users.get(user).is_some_and(|ends| now < *ends)
    }

    /// How many are waited for.
    pub fn count(&self) -> usize {
        self.users.len()
    }

    /// When the next of them is given up, at the latest: an entry without meaning counts.
    pub fn next(&self) -> Option<Time> {
        self.ends.front().map(|(ends, _)| *ends)
    }

    /// When the last of them is.
    pub fn last(&self) -> Option<Time> {
        self.ends.back().map(|(ends, _)| *ends)
    }

    /// Gives up one whose time is over.
    pub fn give_up(&mut self, now: Time) -> Option<UserId> {
        while let Some((ends, user)) = self.ends.pop_front_if(|(ends, _)| *ends <= now) {
            if self.users.get(&user) == Some(&ends) {
                self.users.remove(&user);
                return Some(user);
            }
        }
        None
    }

    /// Gives up all whose time is over.
    pub fn expire(&mut self, now: Time) {
        while self.give_up(now).is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Span = Span::from_secs(10);

    #[test]
    fn who_left_again_is_waited_for_again_and_who_came_back_is_not() {
        let mut departures = Departures::new(&mut Entropy::new([1; 32]), GRACE, 4);
        let user = |name: &str| name.parse::<UserId>().expect("an id");
        let at = |secs| Time::ZERO + Span::from_secs(secs);
        for (name, left) in [("alice", 0), ("bob", 0), ("alice", 3)] {
            assert!(departures.left(at(left), user(name)));
        }
        assert!(departures.settled(b"bob"));
        assert!(!departures.settled(b"bob"));
        assert_eq!(departures.give_up(at(0) + GRACE), None);
        assert!(departures.contains(b"alice") && departures.is_due(at(12), b"alice"));
        assert!(departures.contains(b"alice") && !departures.is_due(at(13), b"alice"));
        assert_eq!(departures.give_up(at(3) + GRACE), Some(user("alice")));
        assert_eq!((departures.give_up(Time::NEVER), departures.count()), (None, 0));
        let left: Vec<bool> = (0..5).map(|number| departures.left(at(20), user(&format!("user{number}")))).collect();
        assert_eq!(left, [true, true, true, true, false], "there is no room for one more");
        departures.expire(at(30));
        assert!(departures.left(at(30), user("alice")));
    }
}
