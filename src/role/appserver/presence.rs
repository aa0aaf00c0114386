//! Who hears of whose comings and goings.
//!
//! One table has every user that somebody here watches, with what all of its watchers were told. What becomes known of a
//! user, from its session here or from the ACMS, only marks the entry; [`AppServer::tell_changes`] compares what is known
//! with what was told, and tells what differs. So however often a user comes and goes in between, and however often the
//! link is lost and the ACMS tells everything again, a watcher hears of changes only, and last of what is true.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::BytesMut;

use super::wishes::Wishes;
use super::{AppServer, Event};
use crate::id::{ConnId, UserId};
use crate::limits;
use crate::role::{Departures, Entropy, Gone, Roster, Strained};
use crate::time::Time;
use crate::wire::link::{ALL_USERS, NAMED_USERS, OFFLINE, ONLINE, UserList};
use crate::wire::{Kind, Outgoing};

/// Whose comings and goings a user hears of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Friendship {
    /// Everyone's, on all servers. So many users online are as many frames for each that comes or goes: for small
    /// deployments. At most [`limits::EVERYONE_WATCHERS_MAX`] users of a server hear of [`limits::EVERYONE_USERS_MAX`];
    /// past either bound they hear of nobody, or of no more.
    Everyone,
    /// These users'; of [`limits::WATCHES_OF_CLIENT_MAX`] at most.
    Users(Vec<UserId>),
}

/// Who watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watcher {
    Client(ConnId),
    Application,
}

/// A user that is watched.
#[derive(Default)]
struct Watched {
    /// What those who watch it by name were told; none where that is nothing yet.
    told: Option<bool>,
    /// Whether those who hear of everyone were told that it is online.
    is_announced: bool,
    /// What holds while the user is not in on this server: what the ACMS last said, or what this server makes of its leaving.
    elsewhere: Option<bool>,
    clients: BTreeSet<ConnId>,
    /// Whether the application watches it.
    application: bool,
    /// Whether it waits in [`Presence::changed`].
    is_marked: bool,
    /// The listing of everyone that last named it.
    listing: u64,
}

impl Watched {
    fn is_watched_by_name(&self) -> bool {
        self.application || !self.clients.is_empty()
    }
}

/// What is known of whom, and who is told.
pub(super) struct Presence {
    watched: Roster<Watched>,
    /// Whom each client watches by name, its friends included. One that is in here was let in and is.
    clients: BTreeMap<ConnId, BTreeSet<UserId>>,
    /// What clients want to watch and the application has not said of.
    pub(super) wishes: Wishes,
    /// Clients that hear of everyone. While there are any, or the application does, whoever is online is in `watched`.
    everyone: BTreeSet<ConnId>,
    /// Whether the application hears of everyone.
    application_hears_of_everyone: bool,
    /// Which listing of everyone the ACMS is at: each time that it is asked for one begins another.
    listing: u64,
    /// Whether the ACMS has named everyone who is online.
    is_listed: bool,
    /// Clients that hear of everyone and wait for the word that all were named.
    unlisted: BTreeSet<ConnId>,
    /// How many of `watched` are watched by name.
    named: usize,
    /// How many of `watched` are announced; at most [`limits::EVERYONE_USERS_MAX`].
    announced: usize,
    /// Users whose entry may differ from what was told.
    changed: VecDeque<UserId>,
    /// Users who left this server and may be back, here or elsewhere.
    departures: Departures,
    /// The next place in `watched` that the ACMS is to be told of; none where it knows all.
    untold: Option<usize>,
}

impl Presence {
    pub(super) fn new(entropy: &mut Entropy) -> Presence {
        Presence {
            watched: Roster::new(entropy.hasher()),
            clients: BTreeMap::new(),
            wishes: Wishes::default(),
            everyone: BTreeSet::new(),
            application_hears_of_everyone: false,
            listing: 0,
            is_listed: false,
            unlisted: BTreeSet::new(),
            named: 0,
            announced: 0,
            changed: VecDeque::new(),
            departures: Departures::new(entropy, limits::PRESENCE_GRACE, limits::DEPARTURES_MAX),
            untold: None,
        }
    }

    fn watches_everyone(&self) -> bool {
        self.application_hears_of_everyone || !self.everyone.is_empty()
    }

    /// The user's entry is to be looked at.
    fn mark(&mut self, user: &[u8]) {
        if let Some(entry) = self.watched.get_mut(user)
            && !std::mem::replace(&mut entry.is_marked, true)
            && let Ok(user) = UserId::parse(user)
        {
            self.changed.push_back(user);
        }
    }

    /// Makes an entry for a user that is watched by nobody by name, where everyone is watched and there is room.
    fn remember(&mut self, user: &UserId) -> bool {
        if self.watched.get(user.as_bytes()).is_some() {
            return true;
        }
        let room = limits::EVERYONE_USERS_MAX + self.named;
        let remembers = self.watches_everyone() && self.watched.len() < room;
        if remembers {
            self.watched.insert(user, Watched::default());
        }
        remembers
    }

    /// Notes what those who hear of everyone are to be told of a user. Whether that is news to them; none where there is no
    /// room for one more.
    fn announce(&mut self, user: &[u8], online: bool) -> Option<bool> {
        let (is_full, watches_everyone) = (self.announced >= limits::EVERYONE_USERS_MAX, self.watches_everyone());
        let Some(entry) = self.watched.get_mut(user) else { return Some(false) };
        if entry.is_announced == online || online && !watches_everyone {
            return Some(false);
        }
        if online && is_full {
            return None;
        }
        entry.is_announced = online;
        if online {
            self.announced += 1;
        } else {
            self.announced -= 1;
        }
        Some(true)
    }

    /// When there is something to do for the passing of time, or for what has changed.
    pub(super) fn deadline(&self) -> Option<Time> {
        let has_news = !self.changed.is_empty() || self.is_listed && !self.unlisted.is_empty();
        if has_news { Some(Time::ZERO) } else { self.departures.next() }
    }
}

/// For the application, and for tests that count.
impl AppServer {
    /// Lets a user who is in hear of its friends. Nothing happens where that connection has ended.
    pub fn befriend(&mut self, now: Time, conn: ConnId, friends: Friendship) {
        let Some(user) = self.links.get(conn).and_then(|link| link.peer.user()).cloned() else { return };
        match friends {
            Friendship::Everyone => self.hear_of_everyone(now, conn),
            Friendship::Users(mut friends) => {
                friends.retain(|friend| *friend != user);
                let watched = self.watch_by_name(now, Watcher::Client(conn), &friends);
                for (friend, is_new) in friends.iter().zip(watched) {
                    if is_new == Some(true)
                        && let Some(online) = self.told_of(friend.as_bytes())
                    {
                        self.tell_presence(now, conn, friend, online);
                    }
                }
            }
        }
        self.close_overwhelmed(now);
    }

    /// Watches users for the application: each is an [`Event::Presence`] once its state is known, and with each change.
    /// Past [`limits::WATCHED_MAX`] nothing happens but that it is counted.
    pub fn watch(&mut self, now: Time, users: &[UserId]) {
        let watched = self.watch_by_name(now, Watcher::Application, users);
        for (user, is_new) in users.iter().zip(watched) {
            if let (Some(true), Some(online)) = (is_new, self.told_of(user.as_bytes())) {
                self.events.push_back(Event::Presence { user: user.clone(), online });
            }
        }
        self.close_overwhelmed(now);
    }

    /// Watches users for the application no more.
    pub fn unwatch(&mut self, now: Time, users: &[UserId]) {
        self.unwatch_by_name(now, Watcher::Application, users);
        self.close_overwhelmed(now);
    }

    /// Watches everyone for the application: each user that is online, on any server, is an [`Event::Presence`], and so is
    /// each change. Of more users than [`limits::EVERYONE_USERS_MAX`] nothing is told but that it is counted.
    pub fn watch_everyone(&mut self, now: Time) {
        if self.presence.application_hears_of_everyone {
            return;
        }
        let begins = !self.presence.watches_everyone();
        self.presence.application_hears_of_everyone = true;
        if begins {
            self.list_everyone(now);
        }
        let untold = self.presence.watched.iter().filter(|(_, entry)| entry.is_announced && !entry.application);
        let news = untold.map(|(user, _)| Event::Presence { user: user.clone(), online: true });
        self.events.extend(news);
        self.close_overwhelmed(now);
    }

    /// Watches for the application nobody any more but whom it named.
    pub fn unwatch_everyone(&mut self, now: Time) {
        if std::mem::replace(&mut self.presence.application_hears_of_everyone, false) {
            self.forget_everyone(now);
        }
        self.close_overwhelmed(now);
    }

    /// Questions of clients that want to watch users and that the application looks at.
    pub fn open_wishes(&self) -> usize {
        self.presence.wishes.count()
    }

    /// Users that are watched here, those that are because everyone is included; watching clients; users who left and are
    /// waited for.
    pub fn presence_counts(&self) -> (usize, usize, usize) {
        let Presence { watched, clients, everyone, departures, .. } = &self.presence;
        let watchers = clients.keys().chain(everyone).collect::<BTreeSet<_>>();
        (watched.len(), watchers.len(), departures.count())
    }
}

/// Watchers come and go.
impl AppServer {
    /// Lets a client watch users; of each, whether it does now. The state of those is answered from what was told, which
    /// is what later changes follow upon.
    pub(super) fn watch_for_client(&mut self, now: Time, conn: ConnId, users: &[UserId]) -> Vec<bool> {
        let watched = self.watch_by_name(now, Watcher::Client(conn), users);
        watched.into_iter().map(|is_new| is_new.is_some()).collect()
    }

    /// Lets a client watch users no more, nor where it has asked to and the application has not said yet.
    pub(super) fn unwatch_for_client(&mut self, now: Time, conn: ConnId, users: &[UserId]) {
        self.presence.wishes.take_out(conn, users);
        self.unwatch_by_name(now, Watcher::Client(conn), users);
    }

    /// Whether a client watches the user by name.
    pub(super) fn watches(&self, conn: ConnId, user: &[u8]) -> bool {
        self.presence.clients.get(&conn).is_some_and(|watches| watches.contains(user))
    }

    /// What the watchers of a user were told last; none where that is not known.
    pub(super) fn told_of(&self, user: &[u8]) -> Option<bool> {
        self.presence.watched.get(user).and_then(|entry| entry.told)
    }

    /// Whom a client hears of, in order.
    pub(super) fn friends_of(&self, conn: ConnId) -> Vec<UserId> {
        let named = self.presence.clients.get(&conn).into_iter().flatten().cloned();
        let mut friends: BTreeSet<UserId> = named.collect();
        if self.presence.everyone.contains(&conn) {
            friends.extend(self.announced_to(conn));
        }
        friends.into_iter().collect()
    }

    /// Of everyone, who a client was told is online.
    fn announced_to(&self, conn: ConnId) -> Vec<UserId> {
        let own = self.links.get(conn).and_then(|link| link.peer.user());
        let announced = self.presence.watched.iter().filter(|(user, entry)| entry.is_announced && Some(*user) != own);
        announced.map(|(user, _)| user.clone()).collect()
    }

    /// Of each user, whether this watcher is new to it; none where there is no room.
    fn watch_by_name(&mut self, now: Time, watcher: Watcher, users: &[UserId]) -> Vec<Option<bool>> {
        let mut asked = BytesMut::new();
        let watched = users.iter().map(|user| self.watch_one(watcher, user, &mut asked)).collect();
        self.tell_interest(now, Kind::Watch, &asked);
        watched
    }

    fn watch_one(&mut self, watcher: Watcher, user: &UserId, asked: &mut BytesMut) -> Option<bool> {
        let presence = &mut self.presence;
        let is_full = match watcher {
            Watcher::Client(conn) => presence
                .clients
                .get(&conn)
                .is_some_and(|watches| watches.len() >= limits::WATCHES_OF_CLIENT_MAX && !watches.contains(user)),
            Watcher::Application => false,
        };
        let is_known = presence.watched.get(user.as_bytes()).is_some();
        if is_full || !is_known && presence.watched.len() >= limits::WATCHED_MAX {
            self.counters.watches_refused += 1;
            return None;
        }
        if !is_known {
            let elsewhere = self.uplinks.is_empty().then(|| presence.departures.contains(user.as_bytes()));
            let told = if self.users.contains_key(user.as_bytes()) { Some(true) } else { elsewhere };
            presence.watched.insert(user, Watched { told, elsewhere, ..Watched::default() });
        }
        let entry = presence.watched.get_mut(user.as_bytes()).expect("it is there, or was made");
        if !entry.is_watched_by_name() {
            presence.named += 1;
            UserList::append(user, asked);
        }
        Some(match watcher {
            Watcher::Client(conn) => {
                presence.clients.entry(conn).or_default().insert(user.clone());
                entry.clients.insert(conn)
            }
            Watcher::Application => !std::mem::replace(&mut entry.application, true),
        })
    }

    fn unwatch_by_name(&mut self, now: Time, watcher: Watcher, users: &[UserId]) {
        let mut ended = BytesMut::new();
        for user in users {
            if let Watcher::Client(conn) = watcher
                && let Some(watches) = self.presence.clients.get_mut(&conn)
            {
                watches.remove(user.as_bytes());
            }
            let Some(entry) = self.presence.watched.get_mut(user.as_bytes()) else { continue };
            let was_watched = entry.is_watched_by_name();
            match watcher {
                Watcher::Client(conn) => _ = entry.clients.remove(&conn),
                Watcher::Application => entry.application = false,
            }
            if was_watched && !entry.is_watched_by_name() {
                self.presence.named -= 1;
                UserList::append(user, &mut ended);
                self.forget_unless_needed(user.as_bytes());
            }
        }
        self.tell_interest(now, Kind::Unwatch, &ended);
    }

    fn hear_of_everyone(&mut self, now: Time, conn: ConnId) {
        let presence = &mut self.presence;
        if presence.everyone.len() >= limits::EVERYONE_WATCHERS_MAX {
            self.counters.watches_refused += 1;
            // What it heard on an earlier server holds no longer.
            self.control_to_client(now, conn, &Outgoing { info_type: ONLINE, ..Outgoing::of(Kind::Presence) });
            return;
        }
        let begins = !presence.watches_everyone();
        presence.everyone.insert(conn);
        if begins {
            self.list_everyone(now);
        }
        for user in self.announced_to(conn) {
            self.tell_presence(now, conn, &user, true);
        }
        self.presence.unlisted.insert(conn);
    }

    /// Somebody hears of everyone from now on, and nobody did before.
    fn list_everyone(&mut self, now: Time) {
        let local: Vec<UserId> = self.users.keys().take(limits::EVERYONE_USERS_MAX).cloned().collect();
        for user in &local {
            self.note_presence(user);
        }
        self.ask_for_everyone(now);
    }

    /// One that heard of everyone does no more, perhaps the last.
    fn forget_everyone(&mut self, now: Time) {
        if self.presence.watches_everyone() {
            return;
        }
        self.control_up(now, &Outgoing { info_type: ALL_USERS, ..Outgoing::of(Kind::Unwatch) });
        let known: Vec<UserId> = self.presence.watched.iter().map(|(user, _)| user.clone()).collect();
        for user in known {
            self.presence.announce(user.as_bytes(), false);
            self.forget_unless_needed(user.as_bytes());
        }
    }

    fn ask_for_everyone(&mut self, now: Time) {
        self.presence.listing += 1;
        self.presence.is_listed = self.uplinks.is_empty();
        self.control_up(now, &Outgoing { info_type: ALL_USERS, ..Outgoing::of(Kind::Watch) });
    }

    /// A client that watched, or wanted to, has gone.
    fn watcher_left(&mut self, now: Time, conn: ConnId) {
        self.presence.wishes.left(conn);
        if let Some(watches) = self.presence.clients.remove(&conn) {
            let watches: Vec<UserId> = watches.into_iter().collect();
            self.unwatch_by_name(now, Watcher::Client(conn), &watches);
        }
        self.presence.unlisted.remove(&conn);
        if self.presence.everyone.remove(&conn) {
            self.forget_everyone(now);
        }
    }

    /// Of who is not watched by name only those are remembered who are online, and only while everyone is watched.
    fn forget_unless_needed(&mut self, user: &[u8]) {
        let presence = &mut self.presence;
        let Some(entry) = presence.watched.get(user) else { return };
        let is_of_everyone = presence.watches_everyone() && (entry.is_marked || entry.is_announced);
        if !entry.is_watched_by_name() && !is_of_everyone {
            presence.watched.remove(user);
        }
    }

    /// Says whom this server watches, or no longer. A link that is not up is told of all when it is.
    fn tell_interest(&mut self, now: Time, kind: Kind, body: &[u8]) {
        if !body.is_empty() {
            self.control_up(now, &Outgoing { info_type: NAMED_USERS, body, ..Outgoing::of(kind) });
        }
    }

    /// The ACMS knows all sessions of this server: it is told whom the server watches, all of it once more.
    pub(super) fn begin_interest(&mut self, now: Time) {
        self.presence.untold = Some(0);
        if self.presence.watches_everyone() {
            self.ask_for_everyone(now);
        }
        self.continue_interest(now);
    }

    /// Goes on where the link had no room.
    pub(super) fn continue_interest(&mut self, now: Time) {
        let mut body = BytesMut::new();
        while let (Some(start), Ok(conn)) = (self.presence.untold, self.uplink_conn()) {
            if self.is_congested(conn) {
                return;
            }
            let watched = &self.presence.watched;
            let mut place = start;
            while place < watched.places() && body.len() < limits::WATCH_BODY_BYTES {
                if let Some((user, _)) = watched.at(place).filter(|(_, entry)| entry.is_watched_by_name()) {
                    UserList::append(user, &mut body);
                }
                place += 1;
            }
            self.presence.untold = (place < watched.places()).then_some(place);
            self.tell_interest(now, Kind::Watch, &body);
            body.clear();
        }
    }
}

/// Users come and go.
impl AppServer {
    /// A user is in on this server.
    pub(super) fn presence_came(&mut self, user: &UserId) {
        self.presence.departures.settled(user.as_bytes());
        self.note_presence(user);
    }

    /// A user is out, and watches nobody any more. Where the ACMS hears of it, it says what follows: the user may be in
    /// elsewhere.
    pub(super) fn presence_gone(&mut self, now: Time, conn: ConnId, user: &UserId, gone: Gone) {
        self.watcher_left(now, conn);
        let is_decided_above = self.uplink_conn().is_ok();
        let presence = &mut self.presence;
        let Some(entry) = presence.watched.get_mut(user.as_bytes()) else { return };
        let is_waited_for = is_decided_above || gone.may_be_back();
        entry.elsewhere = Some(is_waited_for);
        if is_waited_for && !presence.departures.left(now, user.clone()) && !is_decided_above {
            entry.elsewhere = Some(false);
        }
        presence.mark(user.as_bytes());
    }

    fn note_presence(&mut self, user: &UserId) {
        if self.presence.remember(user) {
            self.presence.mark(user.as_bytes());
        } else if self.presence.watches_everyone() {
            self.counters.watches_refused += 1;
        }
    }

    /// The ACMS says how a user stands; without a user, that all who are online were named.
    pub(super) fn presence_from_acms(&mut self, user: &[u8], online: bool) {
        let Ok(user) = UserId::parse(user) else { return self.everyone_named() };
        if online {
            // It may be here again, or elsewhere.
            self.presence.departures.settled(user.as_bytes());
            self.note_presence(&user);
        }
        let listing = self.presence.listing;
        let Some(entry) = self.presence.watched.get_mut(user.as_bytes()) else { return };
        entry.elsewhere = Some(online);
        entry.listing = listing;
        self.presence.mark(user.as_bytes());
    }

    /// Whoever was online before and was not named is so no more.
    fn everyone_named(&mut self) {
        let presence = &mut self.presence;
        let listing = presence.listing;
        let is_unnamed = |entry: &Watched| entry.listing != listing && entry.elsewhere == Some(true);
        let unnamed = presence.watched.iter().filter(|(_, entry)| is_unnamed(entry));
        for user in unnamed.map(|(user, _)| user.clone()).collect::<Vec<_>>() {
            if let Some(entry) = presence.watched.get_mut(user.as_bytes()) {
                entry.elsewhere = Some(false);
            }
            presence.mark(user.as_bytes());
        }
        presence.is_listed = true;
    }

    /// Meets the deadlines that have come, and tells what has changed.
    pub(super) fn expire_presence(&mut self, now: Time) {
        while let Some(user) = self.presence.departures.give_up(now) {
            // Where the ACMS can be heard, it decides.
            if self.uplink_conn().is_err()
                && let Some(entry) = self.presence.watched.get_mut(user.as_bytes())
            {
                entry.elsewhere = Some(false);
                self.presence.mark(user.as_bytes());
            }
        }
        self.tell_changes(now);
    }

    /// Tells the watchers of each user that was marked what differs from what they were told; the rest in the next turn,
    /// where that is much.
    fn tell_changes(&mut self, now: Time) {
        let mut frames = 0;
        while frames < limits::PRESENCE_PER_TURN
            && let Some(user) = self.presence.changed.pop_front()
        {
            frames += 1 + self.tell_standing(now, &user);
        }
        if self.presence.is_listed && self.presence.changed.is_empty() {
            for conn in std::mem::take(&mut self.presence.unlisted) {
                self.control_to_client(now, conn, &Outgoing { info_type: ONLINE, ..Outgoing::of(Kind::Presence) });
            }
        }
    }

    /// Returns how many were told.
    pub(super) fn tell_standing(&mut self, now: Time, user: &UserId) -> usize {
        let own = self.conn_of(user);
        let presence = &mut self.presence;
        let Some(entry) = presence.watched.get_mut(user.as_bytes()) else { return 0 };
        entry.is_marked = false;
        let known = if own.is_some() { Some(true) } else { entry.elsewhere };
        let mut watchers = Vec::new();
        if let Some(online) = known {
            let is_news = entry.told.replace(online) != known;
            let is_named = entry.application;
            if is_news {
                watchers.extend(&entry.clients);
            }
            let announced = presence.announce(user.as_bytes(), online);
            let is_for_everyone = presence.application_hears_of_everyone && announced == Some(true);
            let is_told = if is_named { is_news } else { is_for_everyone };
            if is_told {
                self.events.push_back(Event::Presence { user: user.clone(), online });
            }
            match announced {
                Some(true) => watchers.extend(&presence.everyone),
                Some(false) => {}
                None => self.counters.watches_refused += 1,
            }
            watchers.sort_unstable();
            watchers.dedup();
            watchers.retain(|conn| Some(*conn) != own);
            watchers.iter().for_each(|conn| self.tell_presence(now, *conn, user, online));
        }
        self.forget_unless_needed(user.as_bytes());
        watchers.len()
    }

    fn tell_presence(&mut self, now: Time, conn: ConnId, user: &UserId, online: bool) {
        let info_type = if online { ONLINE } else { OFFLINE };
        self.control_to_client(
            now,
            conn,
            &Outgoing { info_type, from: user.as_bytes(), ..Outgoing::of(Kind::Presence) },
        );
    }

    /// A client that has no room for it is closed before the call ends: it would never hear what it missed.
    fn control_to_client(&mut self, now: Time, conn: ConnId, frame: &Outgoing<'_>) {
        if self.links.send_control(now, conn, frame).is_err() {
            self.overwhelmed.push(conn);
        }
        self.pause_if_congested(conn);
    }
}
