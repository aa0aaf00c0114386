use std::collections::VecDeque;

use hashbrown::HashMap;

use crate::id::UserId;
use crate::limits;
use crate::role::Entropy;
use crate::time::Time;

/// Users that have left and may be back: nobody hears of it for [`limits::PRESENCE_GRACE`]. At most
/// [`limits::DEPARTURES_MAX`] of them.
pub struct Departures {
    /// When each is given up.
    users: HashMap<UserId, Time, ahash::RandomState>,
    /// The same, oldest first; an entry of a user that came back, or left once more, means nothing.
    ends: VecDeque<(Time, UserId)>,
}

impl Departures {
    /// Nobody has left yet.
    pub fn new(entropy: &mut Entropy) -> Departures {
        Departures { users: HashMap::with_hasher(entropy.hasher()), ends: VecDeque::new() }
    }

    /// The user has left. False where there is no room to wait for one more.
    pub fn left(&mut self, now: Time, user: UserId) -> bool {
        if self.ends.len() >= limits::DEPARTURES_MAX {
            return false;
        }
        let ends = now + limits::PRESENCE_GRACE;
        self.users.insert(user.clone(), ends);
        self.ends.push_back((ends, user));
        true
    }

    /// The user is back, or known to be gone for good. Whether it was waited for.
    pub fn settled(&mut self, user: &[u8]) -> bool {
        !self.users.is_empty() && self.users.remove(user).is_some()
    }

    /// Whether the user may be back.
    pub fn contains(&self, user: &[u8]) -> bool {
        !self.users.is_empty() && self.users.contains_key(user)
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Span;

    #[test]
    fn who_left_again_is_waited_for_again_and_who_came_back_is_not() {
        let mut departures = Departures::new(&mut Entropy::new([1; 32]));
        let user = |name: &str| name.parse::<UserId>().expect("an id");
        let at = |secs| Time::ZERO + Span::from_secs(secs);
        for (name, left) in [("alice", 0), ("bob", 0), ("alice", 3)] {
            assert!(departures.left(at(left), user(name)));
        }
        assert!(departures.settled(b"bob"));
        assert!(!departures.settled(b"bob"));
        assert_eq!(departures.give_up(at(0) + limits::PRESENCE_GRACE), None);
        assert!(departures.contains(b"alice"));
        assert_eq!(departures.give_up(at(3) + limits::PRESENCE_GRACE), Some(user("alice")));
        assert_eq!((departures.give_up(Time::NEVER), departures.count()), (None, 0));
    }
}
