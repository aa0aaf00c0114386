use std::hash::Hasher;

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;
use slab::Slab;

use crate::id::UserId;

/// One registration of a server: every binding names the tenure it was made in, and ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenure(pub u64);

/// Where a user is: one session on one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Which server, in which registration.
    pub tenure: Tenure,
    /// Place of the server in the ACMS's own table: saves a look-up per frame.
    pub place: u32,
    /// The session's sequence number on that server.
    pub session: u64,
    /// When the user logged in: microseconds on this process's clock, negative where that was before its start.
    pub since: i64,
}

/// Who is where: the union of all servers' bindings.
///
/// A server that is lost takes all its bindings with it in one step: who asks says which tenures still stand, and an
/// entry of another is none. [`Directory::sweep`] frees such entries, a few at a time.
pub struct Directory {
    entries: Slab<Entry>,
    /// Places in `entries`, by the user's hash.
    index: HashTable<u32>,
    hasher: ahash::RandomState,
    /// The next place to sweep; none where no entry is of a lost tenure.
    sweep: Option<usize>,
}

struct Entry {
    user: UserId,
    binding: Binding,
}

/// Count and hash of one server's bindings, kept up with each change: both sides of a link compare theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// Bindings.
    pub count: u32,
    /// The exclusive-or of a hash of each.
    pub hash: u64,
}

impl Digest {
    /// One binding more.
    pub fn add(&mut self, incarnation: u64, user: &[u8], session: u64) {
        self.count = self.count.wrapping_add(1);
        self.hash ^= Digest::hash(incarnation, user, session);
    }

    /// One binding less.
    pub fn remove(&mut self, incarnation: u64, user: &[u8], session: u64) {
        self.count = self.count.wrapping_sub(1);
        self.hash ^= Digest::hash(incarnation, user, session);
    }

    /// SipHash-1-3 with the key (incarnation, 0), of the session's number and the user.
    fn hash(incarnation: u64, user: &[u8], session: u64) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(incarnation, 0);
        hasher.write(&session.to_be_bytes());
        hasher.write(user);
        hasher.finish()
    }
}

impl Directory {
    /// An empty directory.
    pub fn new(hasher: ahash::RandomState) -> Directory {
        Directory { entries: Slab::new(), index: HashTable::new(), hasher, sweep: None }
    }

    /// Entries, those that wait to be swept included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The user's binding, whether or not its tenure still stands.
    pub fn binding(&self, user: &[u8]) -> Option<&Binding> {
        let hash = self.hasher.hash_one(user);
        let entries = &self.entries;
        let place = self.index.find(hash, |place| entries[*place as usize].user.as_bytes() == user)?;
        Some(&entries[*place as usize].binding)
    }

    /// Binds the user, in place of any earlier binding.
    pub fn bind(&mut self, user: UserId, binding: Binding) {
        let hash = self.hasher.hash_one(user.as_bytes());
        let Directory { entries, index, hasher, .. } = self;
        if let Some(place) = index.find(hash, |place| entries[*place as usize].user == user) {
            entries[*place as usize].binding = binding;
            return;
        }
        let place = u32::try_from(entries.insert(Entry { user, binding })).expect("fewer users than 2^32");
        index.insert_unique(hash, place, |place| hasher.hash_one(entries[*place as usize].user.as_bytes()));
    }

    /// Removes exactly that binding; one that is newer stays. True where it was there.
    pub fn unbind(&mut self, user: &[u8], tenure: Tenure, session: u64) -> bool {
        self.remove_if(user, |binding| binding.tenure == tenure && binding.session == session)
    }

    fn remove_if(&mut self, user: &[u8], condemned: impl FnOnce(&Binding) -> bool) -> bool {
        let hash = self.hasher.hash_one(user);
        let entries = &mut self.entries;
        let Ok(found) = self.index.find_entry(hash, |place| entries[*place as usize].user.as_bytes() == user) else {
            return false;
        };
        let place = *found.get() as usize;
        if !condemned(&entries[place].binding) {
            return false;
        }
        found.remove();
        entries.remove(place);
        true
    }

    /// Bindings of a tenure have ceased to stand: they are to be swept.
    pub fn tenure_ended(&mut self) {
        self.sweep = Some(0);
    }

    /// Whether there is something to sweep.
    pub fn is_sweeping(&self) -> bool {
        self.sweep.is_some()
    }

    /// The entry at `place`, whether or not its tenure still stands: to go through all of them in several turns.
    pub fn at(&self, place: usize) -> Option<(&UserId, &Binding)> {
        self.entries.get(place).map(|entry| (&entry.user, &entry.binding))
    }

    /// The places there are, in use or not.
    pub fn places(&self) -> usize {
        self.entries.capacity()
    }

    /// Looks at the next `count` places and frees those that do not stand. Returns whose they were.
    pub fn sweep(&mut self, count: usize, stands: impl Fn(&Binding) -> bool) -> Vec<UserId> {
        let mut swept = Vec::new();
        let Some(start) = self.sweep else { return swept };
        let places = self.entries.capacity();
        let end = (start + count).min(places);
        for place in start..end {
            let Some(entry) = self.entries.get(place).filter(|entry| !stands(&entry.binding)) else { continue };
            let user = entry.user.clone();
            self.remove_if(user.as_bytes(), |_| true);
            swept.push(user);
        }
        self.sweep = (end < places).then_some(end);
        swept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(tenure: u64, session: u64) -> Binding {
        Binding { tenure: Tenure(tenure), place: 0, session, since: 0 }
    }

    fn user(name: &str) -> UserId {
        name.parse().expect("an id")
    }

    #[test]
    fn a_late_removal_removes_nothing_newer() {
        let mut directory = Directory::new(ahash::RandomState::with_seeds(1, 2, 3, 4));
        directory.bind(user("bob"), binding(1, 1));
        directory.bind(user("bob"), binding(1, 2));
        assert!(!directory.unbind(b"bob", Tenure(1), 1));
        assert!(!directory.unbind(b"bob", Tenure(2), 2));
        assert_eq!(directory.binding(b"bob"), Some(&binding(1, 2)));
        assert!(directory.unbind(b"bob", Tenure(1), 2));
        assert_eq!((directory.binding(b"bob"), directory.len()), (None, 0));
    }

    #[test]
    fn a_sweep_frees_what_a_lost_server_left() {
        let mut directory = Directory::new(ahash::RandomState::with_seeds(1, 2, 3, 4));
        for number in 0..1000 {
            directory.bind(user(&format!("user{number}")), binding(number % 2, number));
        }
        directory.tenure_ended();
        let (mut rounds, mut freed) = (0, Vec::new());
        while directory.is_sweeping() {
            freed.extend(directory.sweep(64, |binding| binding.tenure == Tenure(1)));
            rounds += 1;
        }
        assert_eq!((freed.len(), freed.contains(&user("user2")), freed.contains(&user("user1"))), (500, true, false));
        assert_eq!(directory.len(), 500);
        assert!(rounds >= 15, "a sweep looked at more than it was told to");
        assert_eq!(directory.binding(b"user1"), Some(&binding(1, 1)));
        assert_eq!(directory.binding(b"user2"), None);
    }
}
