//! Which server a user is to dial who is about to log in.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;

use super::{Acms, Server};
use crate::id::{ServerId, UserId};
use crate::limits;
use crate::role::{Entropy, Strained};
use crate::time::Time;
use crate::wire::link::ServerState;

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

/// A server that a user can be sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Its number.
    pub server: ServerId,
    /// Where clients reach it.
    pub address: &'a str,
    /// Users that are in and on their way; fewer than `capacity`.
    pub users: u64,
    /// Users that it takes.
    pub capacity: u32,
    /// What it last said of itself.
    pub state: &'a ServerState,
}

/// An application's own policy, in place of those of [`Policy`].
pub trait Assignment: Send + 'static {
    /// The number of the one that the user is sent to; there is at least one, and they are in the order of their numbers.
    /// None, or one that is not among them, sends the user nowhere: [`NoServer::Declined`]. It runs in the reactor, where
    /// the time it takes is everybody's.
    fn choose(&mut self, user: Option<&UserId>, candidates: &[Candidate<'_>]) -> Option<ServerId>;
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
    /// The application's own policy chose none.
    #[error("the cluster's own policy sends this user nowhere")]
    Declined,
    /// More users are on their way than are counted.
    #[error("too many users were assigned within a few seconds")]
    TooMany,
}

/// Users that were sent to a server and have not come there yet: they count as its users, or all who come at one moment
/// would be sent to the same.
pub(super) struct Reservations {
    counts: BTreeMap<ServerId, u32>,
    /// All, at most [`limits::RESERVATIONS_MAX`]: where each is, and whose.
    list: BTreeMap<Ticket, (ServerId, Option<UserId>)>,
    /// Those with a name, by it.
    users: HashMap<UserId, Ticket, ahash::RandomState>,
    /// Those without.
    unnamed: BTreeSet<(ServerId, Ticket)>,
    tickets: u64,
}

/// When a reservation ends, and its number.
type Ticket = (Time, u64);

impl Reservations {
    pub(super) fn new(entropy: &mut Entropy) -> Reservations {
        Reservations {
            counts: BTreeMap::new(),
            list: BTreeMap::new(),
            users: HashMap::with_hasher(entropy.hasher()),
            unnamed: BTreeSet::new(),
            tickets: 0,
        }
    }

    /// Those that still count.
    pub(super) fn count(&self) -> usize {
        self.counts.values().map(|count| *count as usize).sum()
    }

    pub(super) fn at(&self, server: ServerId) -> u32 {
        self.counts.get(&server).copied().unwrap_or(0)
    }

    /// Where the user was sent to, and has not come.
    fn of(&self, user: &UserId) -> Option<ServerId> {
        self.users.get(user).map(|ticket| self.list[ticket].0)
    }

    /// One more; in place of the user's former one, where it is named and has one.
    fn add(&mut self, now: Time, server: ServerId, user: Option<&UserId>) {
        self.tickets += 1;
        let ticket = (now + limits::ASSIGNMENT_TTL, self.tickets);
        match user {
            Some(user) => {
                if let Some(former) = self.users.insert(user.clone(), ticket) {
                    self.remove(former);
                }
            }
            None => _ = self.unnamed.insert((server, ticket)),
        }
        self.list.insert(ticket, (server, user.cloned()));
        *self.counts.entry(server).or_insert(0) += 1;
    }

    /// The user is in. One without a reservation, who is new on a server, may be any of those that were sent there without
    /// a name.
    pub(super) fn redeem(&mut self, user: &[u8], newcomer_of: Option<ServerId>) {
        if self.list.is_empty() {
            return;
        }
        let named = self.users.remove(user);
        if let Some(ticket) = named.or_else(|| self.oldest_unnamed(newcomer_of?)) {
            self.remove(ticket);
        }
    }

    fn oldest_unnamed(&self, server: ServerId) -> Option<Ticket> {
        let (at, ticket) = self.unnamed.range((server, (Time::ZERO, 0))..).next()?;
        (*at == server).then_some(*ticket)
    }

    /// Ends those whose time is over.
    pub(super) fn expire(&mut self, now: Time) {
        while let Some((ticket, (_, user))) = self.list.first_key_value()
            && ticket.0 <= now
        {
            if let Some(user) = user {
                self.users.remove(user);
            }
            self.remove(*ticket);
        }
    }

    fn remove(&mut self, ticket: Ticket) {
        let (server, _) = self.list.remove(&ticket).expect("a ticket is in the list");
        self.unnamed.remove(&(server, ticket));
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
    /// is in on any server, where it is not, a user of whom nothing was said is in on that one, or for
    /// [`limits::ASSIGNMENT_TTL`]. A named user that asks again meanwhile is sent to the same, and the time begins anew.
    ///
    /// # Errors
    /// There is no server that takes users.
    pub fn assign(&mut self, now: Time, user: Option<&UserId>) -> Result<Assigned, NoServer> {
        self.reservations.expire(now);
        if self.servers.is_empty() {
            return Err(NoServer::NoneRegistered);
        }
        // Who asks again is sent to the same place, which is kept; else its own reservation could make that one full.
        let reserved = user.and_then(|user| self.reservations.of(user)).and_then(|id| self.places.get(&id));
        let reserved = reserved.map(|place| &self.servers[*place as usize]);
        if let Some(server) = reserved.filter(|server| server.takes_users(&self.frozen)) {
            let assigned = Assigned { server: server.id, address: server.address.clone() };
            self.reservations.add(now, assigned.server, user);
            return Ok(assigned);
        }
        if self.reservations.list.len() >= limits::RESERVATIONS_MAX {
            return Err(NoServer::TooMany);
        }
        let mut own = self.own_assignment.take();
        let chosen = self.choose(user, own.as_deref_mut());
        self.own_assignment = own;
        let assigned = chosen?;
        self.last_assigned = assigned.server;
        self.reservations.add(now, assigned.server, user);
        Ok(assigned)
    }

    fn choose(
        &self,
        user: Option<&UserId>,
        own: Option<&mut (dyn Assignment + 'static)>,
    ) -> Result<Assigned, NoServer> {
        let mean_cost = mean_cost(self.servers.iter().map(|(_, server)| server));
        let servers = self.places.values().map(|place| &self.servers[*place as usize]);
        let open = servers.filter(|server| server.takes_users(&self.frozen));
        let mut open = open.map(|server| (server, self.expected(server))).peekable();
        if open.peek().is_none() {
            return Err(NoServer::NoneOpen);
        }
        let mut with_room = open.filter(|(server, users)| *users < u64::from(server.capacity)).peekable();
        if with_room.peek().is_none() {
            return Err(NoServer::Full);
        }
        if let Some(own) = own {
            let candidates: Vec<Candidate<'_>> = with_room.map(|(server, users)| server.candidate(users)).collect();
            let chosen = own.choose(user, &candidates);
            let chosen =
                candidates.iter().find(|candidate| Some(candidate.server) == chosen).ok_or(NoServer::Declined)?;
            return Ok(Assigned { server: chosen.server, address: chosen.address.to_owned() });
        }
        let chosen = with_room.min_by_key(|(server, users)| {
            // Among equals each in turn: those behind the last one chosen come first.
            let turn = (server.id <= self.last_assigned, server.id);
            match self.config.policy {
                Policy::RoundRobin => (0, turn),
                Policy::MinUserCount => (*users, turn),
                Policy::LeastBusy => (server.busy_with(*users, mean_cost), turn),
            }
        });
        let (server, _) = chosen.ok_or(NoServer::Full)?;
        Ok(Assigned { server: server.id, address: server.address.clone() })
    }

    /// From now on servers are chosen by the application's own policy.
    pub fn assign_by(&mut self, own: Box<dyn Assignment>) {
        self.own_assignment = Some(own);
    }

    /// Sends nobody to that server any more, nor does a server that drains, until [`Acms::unfreeze`]; who is there is served
    /// as ever. Holds for its number, whether or not it is registered now.
    pub fn freeze(&mut self, now: Time, server: ServerId) {
        if self.frozen.insert(server) {
            self.tell_servers(now, None);
            self.close_overwhelmed(now);
        }
    }

    /// Ends [`Acms::freeze`], whether or not the server is registered now. False where it was not frozen.
    pub fn unfreeze(&mut self, now: Time, server: ServerId) -> bool {
        let was_frozen = self.frozen.remove(&server);
        if was_frozen {
            self.tell_servers(now, None);
            self.close_overwhelmed(now);
        }
        was_frozen
    }

    /// Servers that are frozen and not registered, by number.
    pub fn frozen_away(&self) -> impl Iterator<Item = ServerId> {
        self.frozen.iter().copied().filter(|server| !self.is_registered(*server))
    }

    /// The users that the server has and that are on their way there.
    fn expected(&self, server: &Server) -> u64 {
        u64::from(server.digest.count) + u64::from(self.reservations.at(server.id))
    }
}

impl Server {
    fn candidate(&self, users: u64) -> Candidate<'_> {
        let Server { id, address, capacity, state, .. } = self;
        Candidate { server: *id, address, users, capacity: *capacity, state }
    }

    /// One that has not told of all its users looks emptier than it is.
    fn takes_users(&self, frozen: &BTreeSet<ServerId>) -> bool {
        self.synced && !self.draining && !frozen.contains(&self.id)
    }

    /// How busy it will be with `users`, in [`COST_SCALE`] of a thousandth: as busy as it is, and what those cost who have
    /// come since its last report.
    fn busy_with(&self, users: u64, mean_cost: u64) -> u64 {
        let ServerState { users: known, busy_permille: busy, .. } = self.state;
        let (known, busy, users) = (u64::from(known), u64::from(busy), users + 1);
        if busy < limits::BUSY_PERMILLE_MIN {
            return mean_cost.saturating_mul(users);
        }
        let cost = if known < limits::BUSY_USERS_MIN { mean_cost } else { busy * COST_SCALE / known };
        (busy * COST_SCALE).saturating_add(cost.saturating_mul(users)).saturating_sub(cost.saturating_mul(known))
    }
}

/// Parts of a thousandth of busy time that a user's cost is counted in.
const COST_SCALE: u64 = 1 << 20;

/// What a user costs on average. Never nothing, so that also a cluster that is idle, or has not reported, fills up.
fn mean_cost<'a>(servers: impl Iterator<Item = &'a Server>) -> u64 {
    let (busy, users) = servers.fold((0, 0), |(busy, users), Server { state, .. }| {
        (busy + u64::from(state.busy_permille), users + u64::from(state.users))
    });
    (busy.max(1) * COST_SCALE / users.max(1)).max(1)
}
