use std::collections::{BTreeMap, VecDeque};

use hashbrown::HashMap;

use crate::id::UserId;
use crate::limits::{DEDUPE_IDS, DEDUPE_SENDERS_MAX};

/// The ids of messages that were taken, so that one sent again is handed over once.
pub struct Dedupe {
    senders: HashMap<UserId, Window, ahash::RandomState>,
    /// The same by the turn of each, who was silent for longest first: each new sender is somebody's end, once there are
    /// enough of them.
    turns: BTreeMap<u64, UserId>,
    /// Grows with every message: who was silent longest has the smallest.
    turn: u64,
}

#[derive(Default)]
struct Window {
    /// The last ids, oldest first.
    ids: VecDeque<u64>,
    turn: u64,
}

impl Dedupe {
    /// Nothing taken yet.
    pub fn new(hasher: ahash::RandomState) -> Dedupe {
        Dedupe { senders: HashMap::with_hasher(hasher), turns: BTreeMap::new(), turn: 0 }
    }

    /// Notes a message that wants an ACK. False where it is `again` one that was already taken.
    pub fn take(&mut self, sender: &UserId, id: u64, again: bool) -> bool {
        self.turn += 1;
        if !self.senders.contains_key(sender) {
            self.make_room();
        }
        let window = self.senders.entry(sender.clone()).or_default();
        self.turns.remove(&std::mem::replace(&mut window.turn, self.turn));
        self.turns.insert(self.turn, sender.clone());
        if again && window.ids.contains(&id) {
            return false;
        }
        if window.ids.len() == DEDUPE_IDS {
            window.ids.pop_front();
        }
        window.ids.push_back(id);
        true
    }

    /// Takes back that a message was taken: it was not handed over after all.
    pub fn forget(&mut self, sender: &UserId, id: u64) {
        if let Some(window) = self.senders.get_mut(sender) {
            window.ids.retain(|taken| *taken != id);
        }
    }

    fn make_room(&mut self) {
        if self.senders.len() >= DEDUPE_SENDERS_MAX
            && let Some((_, oldest)) = self.turns.pop_first()
        {
            self.senders.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(number: usize) -> UserId {
        format!("user{number}").parse().expect("an id")
    }

    #[test]
    fn a_message_sent_again_is_taken_once() {
        let mut dedupe = Dedupe::new(ahash::RandomState::with_seeds(1, 2, 3, 4));
        assert!(dedupe.take(&user(0), 7, false));
        assert!(!dedupe.take(&user(0), 7, true));
        assert!(dedupe.take(&user(1), 7, true), "another sender's id is another message");
        assert!(dedupe.take(&user(0), 7, false), "without RETRY it is a new message");
        for id in 100..100 + DEDUPE_IDS as u64 {
            assert!(dedupe.take(&user(0), id, true));
        }
        assert!(dedupe.take(&user(0), 7, true), "out of the window");
    }

    #[test]
    fn the_number_of_senders_is_bounded() {
        let mut dedupe = Dedupe::new(ahash::RandomState::with_seeds(1, 2, 3, 4));
        for number in 0..=DEDUPE_SENDERS_MAX {
            dedupe.take(&user(number), 1, false);
        }
        assert_eq!(dedupe.senders.len(), DEDUPE_SENDERS_MAX);
        assert!(!dedupe.take(&user(DEDUPE_SENDERS_MAX), 1, true));
        assert!(dedupe.take(&user(0), 1, true), "the one silent for longest was forgotten");
        assert!(!dedupe.take(&user(2), 1, true));
        for number in 0..DEDUPE_SENDERS_MAX - 1 {
            dedupe.take(&user(DEDUPE_SENDERS_MAX + 1 + number), 1, false);
        }
        assert!(!dedupe.take(&user(2), 1, true), "heard again since");
        assert!(dedupe.take(&user(3), 1, true));
        assert_eq!((dedupe.senders.len(), dedupe.turns.len()), (DEDUPE_SENDERS_MAX, DEDUPE_SENDERS_MAX));
    }
}
