use hashbrown::HashTable;
use slab::Slab;

use crate::id::UserId;

/// Users, each with something of its own, in places that stay: all of them can be gone through in several turns.
pub struct Roster<T> {
    entries: Slab<(UserId, T)>,
    /// Places in `entries`, by the user's hash.
    index: HashTable<u32>,
    hasher: ahash::RandomState,
}

impl<T> Roster<T> {
    /// Nobody yet.
    pub fn new(hasher: ahash::RandomState) -> Roster<T> {
        Roster { entries: Slab::new(), index: HashTable::new(), hasher }
    }

    /// Users in it.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn place(&self, user: &[u8]) -> Option<usize> {
        let hash = self.hasher.hash_one(user);
        let place = self.index.find(hash, |place| self.entries[*place as usize].0.as_bytes() == user)?;
        Some(*place as usize)
    }

    /// What there is of the user.
    pub fn get(&self, user: &[u8]) -> Option<&T> {
        self.place(user).map(|place| &self.entries[place].1)
    }

    /// What there is of the user, to change.
    pub fn get_mut(&mut self, user: &[u8]) -> Option<&mut T> {
        self.place(user).map(|place| &mut self.entries[place].1)
    }

    /// Adds a user that is not in it.
    ///
    /// # Panics
    /// Where the user is.
    pub fn insert(&mut self, user: &UserId, value: T) {
        assert!(self.place(user.as_bytes()).is_none(), "a user is in a roster once");
        let hash = self.hasher.hash_one(user.as_bytes());
        let place = u32::try_from(self.entries.insert((user.clone(), value))).expect("fewer users than 2^32");
        let Roster { entries, index, hasher } = self;
        index.insert_unique(hash, place, |place| hasher.hash_one(entries[*place as usize].0.as_bytes()));
    }

    /// Takes a user out.
    pub fn remove(&mut self, user: &[u8]) -> Option<T> {
        let hash = self.hasher.hash_one(user);
        let entries = &mut self.entries;
        let found = self.index.find_entry(hash, |place| entries[*place as usize].0.as_bytes() == user).ok()?;
        let (place, _) = found.remove();
        Some(entries.remove(place as usize).1)
    }

    /// Who is at `place`.
    pub fn at(&self, place: usize) -> Option<(&UserId, &T)> {
        self.entries.get(place).map(|(user, value)| (user, value))
    }

    /// The places there are, in use or not.
    pub fn places(&self) -> usize {
        self.entries.capacity()
    }

    /// All of them, by place.
    pub fn iter(&self) -> impl Iterator<Item = (&UserId, &T)> {
        self.entries.iter().map(|(_, (user, value))| (user, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_stay_while_others_come_and_go() {
        let mut roster = Roster::new(ahash::RandomState::with_seeds(1, 2, 3, 4));
        let user = |number: usize| format!("user{number}").parse::<UserId>().expect("an id");
        (0..100).for_each(|number| roster.insert(&user(number), number));
        (0..100).step_by(2).for_each(|number| assert_eq!(roster.remove(user(number).as_bytes()), Some(number)));
        assert_eq!((roster.remove(b"user0"), roster.get(b"user1"), roster.len()), (None, Some(&1), 50));
        *roster.get_mut(b"user3").expect("in it") = 7;
        let seen: Vec<usize> = (0..roster.places()).filter_map(|place| roster.at(place)).map(|(_, n)| *n).collect();
        assert_eq!((seen.len(), seen[0], seen[1], seen[49]), (50, 1, 7, 99));
    }
}
