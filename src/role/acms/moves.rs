//! Users that a draining server has sent to another one, and that have not come there yet.

use std::collections::VecDeque;

use hashbrown::HashMap;

use crate::limits;
use crate::role::Entropy;
use crate::time::Time;

/// Who is under way: not offline yet. At most [`limits::MOVES_MAX`]; more are not remembered, and so are offline.
pub(super) struct Moves {
    /// When each is given up.
    users: HashMap<Box<[u8]>, Time, ahash::RandomState>,
    /// The same, oldest first; an entry of a user that arrived, or left once more, means nothing.
    ends: VecDeque<(Time, Box<[u8]>)>,
}

impl Moves {
    pub(super) fn new(entropy: &mut Entropy) -> Moves {
        Moves { users: HashMap::with_hasher(entropy.hasher()), ends: VecDeque::new() }
    }

    /// The user was sent away.
    pub(super) fn left(&mut self, now: Time, user: &[u8]) {
        self.expire(now);
        if self.ends.len() < limits::MOVES_MAX {
            let ends = now + limits::MOVE_GRACE;
            self.users.insert(user.into(), ends);
            self.ends.push_back((ends, user.into()));
        }
    }

    /// The user is somewhere. Whether it was under way.
    pub(super) fn arrived(&mut self, user: &[u8]) -> bool {
        !self.users.is_empty() && self.users.remove(user).is_some()
    }

    /// Whether the user may be expected somewhere.
    pub(super) fn is_moving(&self, now: Time, user: &[u8]) -> bool {
        self.users.get(user).is_some_and(|ends| now < *ends)
    }

    pub(super) fn count(&self) -> usize {
        self.users.len()
    }

    /// Gives up those whose time is over.
    pub(super) fn expire(&mut self, now: Time) {
        while let Some((ends, user)) = self.ends.pop_front_if(|(ends, _)| *ends <= now) {
            if self.users.get(&user) == Some(&ends) {
                self.users.remove(&user);
            }
        }
    }
}
