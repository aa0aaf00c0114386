//! Who hears of whose comings and goings, from server to server.
//!
//! A user seems online from its first BIND until its session is over, or, where it may be back, until
//! [`limits::PRESENCE_GRACE`] has passed since it left: [`Acms::seems_online`]. Each change of that is news to the servers
//! that watch the user. A WATCH is answered with it once it is sure; the answers to a long one go out a few at a time.

use std::collections::BTreeSet;

use hashbrown::HashSet;

use super::Acms;
use crate::id::{ConnId, UserId};
use crate::limits;
use crate::role::{Binding, Departures, Entropy, Fault};
use crate::time::Time;
use crate::wire::link::{ALL_USERS, NAMED_USERS, OFFLINE, ONLINE, UserList};
use crate::wire::{CloseCode, Kind, Outgoing};

/// Directory places looked at in a turn for a server that is told of everyone.
const LISTED_PLACES: usize = limits::WATCH_ANSWERS_PER_TURN;

/// Whom a server watches. It ends with the server's tenure: the server tells it again behind its burst.
pub(super) struct Interest {
    /// At most [`limits::WATCHED_MAX`].
    users: HashSet<UserId, ahash::RandomState>,
    /// Those of `users` that it is to be answered of.
    due: BTreeSet<UserId>,
    /// Those of `users` that it is to be answered of once the directory is complete.
    unsure: BTreeSet<UserId>,
    everyone: Everyone,
}

/// How far a server is told of everyone.
#[derive(Clone, Copy)]
enum Everyone {
    /// It does not want to be.
    Unwatched,
    /// Up to this place of the directory.
    Listing(usize),
    /// All who were bound. Who was gone and waited for has been told of by this moment, back or not.
    Listed(Time),
    /// It knows that all were named.
    Told,
}

impl Interest {
    pub(super) fn new(entropy: &mut Entropy) -> Interest {
        Interest {
            users: HashSet::with_hasher(entropy.hasher()),
            due: BTreeSet::new(),
            unsure: BTreeSet::new(),
            everyone: Everyone::Unwatched,
        }
    }

    fn watches(&self, user: &[u8]) -> bool {
        !matches!(self.everyone, Everyone::Unwatched) || self.users.contains(user)
    }

    fn is_empty(&self) -> bool {
        matches!(self.everyone, Everyone::Unwatched) && self.users.is_empty()
    }

    /// Whether the server is to be answered, whatever is not known yet.
    fn is_due(&self) -> bool {
        !self.due.is_empty() || matches!(self.everyone, Everyone::Listing(_))
    }

    /// Whether it is to be answered once the directory is complete.
    fn is_unsure(&self) -> bool {
        !self.unsure.is_empty() || matches!(self.everyone, Everyone::Listed(_))
    }

    fn forget_all(&mut self) {
        self.users.clear();
        self.due.clear();
        self.unsure.clear();
        self.everyone = Everyone::Unwatched;
    }
}

/// What the cluster manager keeps for all of them.
pub(super) struct Presence {
    /// Users that left and may be back.
    departures: Departures,
    /// Until then nobody's WATCH is answered: a server's queue had no room.
    paused_until: Time,
}

impl Presence {
    pub(super) fn new(entropy: &mut Entropy) -> Presence {
        let departures = Departures::new(entropy, limits::PRESENCE_GRACE, limits::DEPARTURES_MAX);
        Presence { departures, paused_until: Time::ZERO }
    }
}

/// For tests that count.
impl Acms {
    /// Users that servers watch by name, each as often as it is watched; users who left and are waited for.
    pub fn presence_counts(&self) -> (usize, usize) {
        let watched = self.servers.iter().map(|(_, server)| server.interest.users.len()).sum();
        (watched, self.presence.departures.count())
    }
}

/// What servers say.
impl Acms {
    pub(super) fn watch(&mut self, now: Time, place: u32, info_type: u32, body: &[u8]) -> Result<(), Fault> {
        if info_type == ALL_USERS {
            self.servers[place as usize].interest.everyone = Everyone::Listing(0);
            return Ok(());
        }
        for user in parse_users(info_type, body)? {
            let interest = &mut self.servers[place as usize].interest;
            if interest.users.len() < limits::WATCHED_MAX || interest.users.contains(&user) {
                interest.users.insert(user.clone());
                interest.due.insert(user);
            } else {
                self.counters.watches_refused += 1;
            }
        }
        // At once, so that what the server asks next it reads behind the answer.
        self.answer_watch(now, place as usize);
        Ok(())
    }

    pub(super) fn unwatch(&mut self, place: u32, info_type: u32, body: &[u8]) -> Result<(), Fault> {
        let interest = &mut self.servers[place as usize].interest;
        if info_type == ALL_USERS {
            interest.everyone = Everyone::Unwatched;
            return Ok(());
        }
        for user in parse_users(info_type, body)? {
            interest.users.remove(user.as_bytes());
            interest.due.remove(&user);
            interest.unsure.remove(&user);
        }
        Ok(())
    }

    /// A server tells all over again.
    pub(super) fn forget_interest(&mut self, place: u32) {
        self.servers[place as usize].interest.forget_all();
    }
}

/// What becomes of users.
impl Acms {
    /// Whether watchers are to take the user for online. One whose server was lost is until its binding is swept, and is
    /// then waited for.
    fn seems_online(&self, user: &[u8]) -> bool {
        self.directory.binding(user).is_some() || self.presence.departures.contains(user)
    }

    /// A session is about to be bound; `bound` is what the user had before, of whatever tenure.
    pub(super) fn presence_came(&mut self, now: Time, user: &UserId, bound: Option<Binding>, session: u64, place: u32) {
        self.presence.departures.settled(user.as_bytes());
        // One that a burst tells of once more is no news; all others are, even to who does not know that the user was gone:
        // a server that the user left waits for it as well.
        if bound.is_none_or(|bound| (bound.place, bound.session) != (place, session)) {
            self.tell_watchers(now, user.as_bytes(), true);
        }
    }

    /// A session that was bound is over.
    pub(super) fn presence_gone(&mut self, now: Time, user: &[u8], code: u32) {
        let may_be_back = CloseCode::from_wire(code).is_some_and(CloseCode::reconnects);
        // A login that is under way will be told of as well.
        if may_be_back || !self.claims.of(user).is_empty() {
            self.wait_for(now, user);
        } else {
            self.tell_watchers(now, user, false);
        }
    }

    fn wait_for(&mut self, now: Time, user: &[u8]) {
        let is_watched = self.servers.iter().any(|(_, server)| !server.interest.is_empty());
        let Ok(user) = UserId::parse(user) else { return };
        if is_watched && !self.presence.departures.left(now, user.clone()) {
            self.tell_watchers(now, user.as_bytes(), false);
        }
    }

    fn tell_watchers(&mut self, now: Time, user: &[u8], online: bool) {
        let watching = self.servers.iter().filter(|(_, server)| server.interest.watches(user));
        for conn in watching.map(|(_, server)| server.conn).collect::<Vec<_>>() {
            self.tell_presence(now, conn, user, online);
        }
    }

    fn tell_presence(&mut self, now: Time, conn: ConnId, user: &[u8], online: bool) {
        let info_type = if online { ONLINE } else { OFFLINE };
        self.control(now, conn, &Outgoing { info_type, from: user, ..Outgoing::of(Kind::Presence) });
    }

    /// Frees what lost servers left in the directory, some of it: those users may be back.
    pub(super) fn sweep(&mut self, now: Time, places: usize) {
        let servers = &self.servers;
        let stands = |binding: &Binding| {
            servers.get(binding.place as usize).is_some_and(|server| server.tenure == binding.tenure)
        };
        for user in self.directory.sweep(places, stands) {
            self.wait_for(now, user.as_bytes());
        }
    }
}

/// What time brings.
impl Acms {
    /// When there is something to tell.
    pub(super) fn presence_deadline(&self) -> Option<Time> {
        if self.servers.iter().any(|(_, server)| server.interest.is_due()) {
            return Some(self.presence.paused_until);
        }
        // Until every server has told of its users nobody is called offline, whatever the time.
        if !self.servers.iter().all(|(_, server)| server.synced) {
            return None;
        }
        let listed = self.servers.iter().filter_map(|(_, server)| match server.interest.everyone {
            Everyone::Listed(from) => Some(from),
            Everyone::Unwatched | Everyone::Listing(_) | Everyone::Told => None,
        });
        let unsure = self.servers.iter().any(|(_, server)| !server.interest.unsure.is_empty()).then_some(Time::ZERO);
        let next = listed.chain(unsure).chain(self.presence.departures.next()).min()?;
        Some(next.max(self.grace_ends))
    }

    /// Gives up who does not come back, and answers what it can of what servers want to know.
    pub(super) fn expire_presence(&mut self, now: Time) {
        let is_complete = self.is_complete(now);
        if is_complete {
            self.give_up_departed(now);
        }
        if now < self.presence.paused_until {
            return;
        }
        let is_waiting = |interest: &Interest| interest.is_due() || is_complete && interest.is_unsure();
        let waiting = self.servers.iter().filter(|(_, server)| is_waiting(&server.interest));
        for place in waiting.map(|(place, _)| place).collect::<Vec<_>>() {
            if is_complete {
                let interest = &mut self.servers[place].interest;
                interest.due.append(&mut interest.unsure);
            }
            self.answer_watch(now, place);
            self.continue_listing(now, place, is_complete);
        }
    }

    fn give_up_departed(&mut self, now: Time) {
        for _ in 0..limits::WATCH_ANSWERS_PER_TURN {
            let Some(user) = self.presence.departures.give_up(now) else { return };
            if !self.seems_online(user.as_bytes()) {
                self.tell_watchers(now, user.as_bytes(), false);
            }
        }
    }

    fn answer_watch(&mut self, now: Time, place: usize) {
        let is_complete = self.is_complete(now);
        let conn = self.servers[place].conn;
        for _ in 0..limits::WATCH_ANSWERS_PER_TURN {
            if self.servers[place].interest.due.is_empty() || self.has_no_room(now, conn) {
                return;
            }
            let Some(user) = self.servers[place].interest.due.pop_first() else { return };
            let online = self.seems_online(user.as_bytes());
            if online || is_complete {
                self.tell_presence(now, conn, user.as_bytes(), online);
            } else {
                self.servers[place].interest.unsure.insert(user);
            }
        }
    }

    /// Names everyone who is bound; then, once it is sure that nobody else seems online, says so.
    fn continue_listing(&mut self, now: Time, place: usize, is_complete: bool) {
        let conn = self.servers[place].conn;
        let next = match self.servers[place].interest.everyone {
            Everyone::Listing(start) => {
                if self.has_no_room(now, conn) {
                    return;
                }
                let end = (start + LISTED_PLACES).min(self.directory.places());
                for listed in start..end {
                    if let Some((user, _)) = self.directory.at(listed) {
                        let user = user.clone();
                        self.tell_presence(now, conn, user.as_bytes(), true);
                    }
                }
                // Who is swept is waited for from then on.
                if end < self.directory.places() || self.directory.is_sweeping() {
                    Everyone::Listing(end)
                } else {
                    Everyone::Listed(self.presence.departures.last().unwrap_or(now))
                }
            }
            Everyone::Listed(from) if from <= now && is_complete => {
                self.control(now, conn, &Outgoing { info_type: ONLINE, ..Outgoing::of(Kind::Presence) });
                Everyone::Told
            }
            same @ (Everyone::Unwatched | Everyone::Listed(_) | Everyone::Told) => same,
        };
        self.servers[place].interest.everyone = next;
    }

    /// Whether the server has to take some of what waits for it first.
    fn has_no_room(&mut self, now: Time, conn: ConnId) -> bool {
        let queued = self.links.get(conn).map_or(0, |link| link.queue().len());
        let is_full = queued >= limits::WATCH_ANSWERS_QUEUE_BYTES;
        if is_full {
            self.presence.paused_until = now + limits::WATCH_ANSWERS_PAUSE;
        }
        is_full
    }
}

/// The users that the body of a WATCH or UNWATCH names.
fn parse_users(info_type: u32, mut body: &[u8]) -> Result<Vec<UserId>, Fault> {
    if info_type != NAMED_USERS {
        return Err(Fault::new(CloseCode::BAD_FIELD, "info_type of a WATCH is 0 or 1"));
    }
    let mut users = Vec::new();
    while !body.is_empty() {
        let (user, rest) =
            UserList::split_first(body).ok_or_else(|| Fault::new(CloseCode::BAD_FIELD, "a WATCH is cut short"))?;
        users.push(UserId::parse(user)?);
        body = rest;
    }
    Ok(users)
}
