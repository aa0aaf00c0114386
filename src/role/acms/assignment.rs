//! Which server a user is to dial who is about to log in.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hashbrown::HashMap;

use super::{Acms, Server};
use crate::id::{ServerId, UserId};
use crate::limits;
use crate::role::Entropy;
use crate::time::Time;

/// How a server is chosen among those that take users.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Each in turn, by number.
    RoundRobin,
    /// The one with the fewest users.
    #[default]
    MinUserCount,
    /// The one whose reactor is busy for the smallest part of its time.
    LeastBusy,
}

/// Where a user is to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// The server's number.
    pub server: ServerId,
    /// Where clients reach it.
    pub address: String,
}

/// Why nobody can be sent anywhere now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoServer {
    /// None is registered.
    #[error("no server is in the cluster")]
    NoneRegistered,
    /// Each is draining, frozen, or has not told of its users yet.
    #[error("no server of the cluster takes new users now")]
    NoneOpen,
    /// Each that takes users has as many as it can.
    #[error("every server of the cluster is full")]
    Full,
    /// More users are on their way than are counted.
    #[error("too many users were assigned within a few seconds")]
    TooMany,
}

/// Users that were sent to a server and have not come there yet: they count as its users, or all who come at one moment
/// would be sent to the same.
pub(super) struct Reservations {
    counts: BTreeMap<ServerId, u32>,
    /// Those with a name, by it: the number of its reservation, which a binding of the user redeems.
    users: HashMap<UserId, u64, ahash::RandomState>,
    /// All, oldest first, from number `first` on: when each ends, where it is, whose; none where it was redeemed.
    list: VecDeque<Option<Reservation>>,
    first: u64,
}

struct Reservation {
    ends: Time,
    server: ServerId,
    user: Option<UserId>,
}

impl Reservations {
    pub(super) fn new(entropy: &mut Entropy) -> Reservations {
        let users = HashMap::with_hasher(entropy.hasher());
        Reservations { counts: BTreeMap::new(), users, list: VecDeque::new(), first: 0 }
    }

    fn at(&self, server: ServerId) -> u32 {
        self.counts.get(&server).copied().unwrap_or(0)
    }

    fn add(&mut self, now: Time, server: ServerId, user: Option<&UserId>) {
        if let Some(user) = user {
            self.redeem(user.as_bytes());
            self.users.insert(user.clone(), self.first + self.list.len() as u64);
        }
        *self.counts.entry(server).or_insert(0) += 1;
        self.list.push_back(Some(Reservation { ends: now + limits::ASSIGNMENT_TTL, server, user: user.cloned() }));
    }

    /// The user is in, or is assigned anew.
    pub(super) fn redeem(&mut self, user: &[u8]) {
        if self.users.is_empty() {
            return;
        }
        let Some(number) = self.users.remove(user) else { return };
        let place = usize::try_from(number - self.first).expect("it is in the list");
        if let Some(reservation) = self.list[place].take() {
            self.release(reservation.server);
        }
    }

    /// Ends those whose time is over.
    pub(super) fn expire(&mut self, now: Time) {
        let is_over = |front: &mut Option<Reservation>| front.as_ref().is_none_or(|front| front.ends <= now);
        while let Some(ended) = self.list.pop_front_if(is_over) {
            self.first += 1;
            let Some(Reservation { server, user, .. }) = ended else { continue };
            self.release(server);
            if let Some(user) = user {
                self.users.remove(&user);
            }
        }
    }

    fn release(&mut self, server: ServerId) {
        if let Some(count) = self.counts.get_mut(&server) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&server);
            }
        }
    }
}

impl Acms {
    /// The server that a user is to dial, by the policy of the config. It counts there until the user, where it is named,
    /// is in on any server, or for [`limits::ASSIGNMENT_TTL`].
    ///
    /// # Errors
    /// There is no server that takes users.
    pub fn assign(&mut self, now: Time, user: Option<&UserId>) -> Result<Assigned, NoServer> {
        self.reservations.expire(now);
        if self.servers.is_empty() {
            return Err(NoServer::NoneRegistered);
        }
        if self.reservations.list.len() >= limits::RESERVATIONS_MAX {
            return Err(NoServer::TooMany);
        }
        let servers = self.places.values().map(|place| &self.servers[*place as usize]);
        let open = servers.filter(|server| server.takes_users(&self.frozen));
        let mut open = open.map(|server| (server, self.expected(server))).peekable();
        if open.peek().is_none() {
            return Err(NoServer::NoneOpen);
        }
        let with_room = open.filter(|(server, users)| *users < u64::from(server.capacity));
        let chosen = with_room.min_by_key(|(server, users)| {
            // Among equals each in turn: those behind the last one chosen come first.
            let turn = (server.id <= self.last_assigned, server.id);
            match self.config.policy {
                Policy::RoundRobin => (0, turn),
                Policy::MinUserCount => (*users, turn),
                Policy::LeastBusy => (server.busy_with(*users), turn),
            }
        });
        let (server, _) = chosen.ok_or(NoServer::Full)?;
        let assigned = Assigned { server: server.id, address: server.address.clone() };
        self.last_assigned = assigned.server;
        self.reservations.add(now, assigned.server, user);
        Ok(assigned)
    }

    /// Sends nobody to that server any more, nor does a server that drains, until [`Acms::thaw`]; who is there is served as
    /// ever. Holds for its number, whether or not it is registered now.
    pub fn freeze(&mut self, now: Time, server: ServerId) {
        if self.frozen.insert(server) {
            self.tell_servers(now, None);
            self.close_overwhelmed(now);
        }
    }

    /// Ends [`Acms::freeze`].
    pub fn thaw(&mut self, now: Time, server: ServerId) {
        if self.frozen.remove(&server) {
            self.tell_servers(now, None);
            self.close_overwhelmed(now);
        }
    }

    /// The users that the server has and that are on their way there.
    fn expected(&self, server: &Server) -> u64 {
        u64::from(server.digest.count) + u64::from(self.reservations.at(server.id))
    }
}

impl Server {
    /// One that has not told of all its users looks emptier than it is.
    fn takes_users(&self, frozen: &BTreeSet<ServerId>) -> bool {
        self.synced && !self.draining && !frozen.contains(&self.id)
    }

    /// How busy it will be with `users`, if each costs what each of those costs that it had at its last report. Never
    /// nothing, so that also an idle server, or one that has not reported, fills up.
    fn busy_with(&self, users: u64) -> u64 {
        const SCALE: u64 = 1 << 20;
        u64::from(self.state.busy_permille.max(1)) * SCALE * (users + 1) / u64::from(self.state.users.max(1))
    }
}
