//! Who hears of whose comings and goings: what users and servers' code ask for, what they were told, and what is so.

use std::collections::{BTreeMap, BTreeSet};

use trunkline::id::{ConnId, ServerId, UserId};
use trunkline::role::appserver::Friendship;

use crate::cluster::{self, SERVERS};
use crate::network::NodeId;
use crate::node::Role;
use crate::scenario::{GHOST, Step};
use crate::world::World;

/// World time, in microseconds, that news of a user takes at most on a day without partitions.
const NEWS_MICROS: u64 = 2_000_000;

/// Whose friend a user is, as its server's application has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Friends {
    Everyone,
    These(Vec<String>),
}

/// What everybody was told.
#[derive(Default)]
pub(crate) struct Sightings {
    /// By program or server, and user: what it was told last.
    told: BTreeMap<(NodeId, String), bool>,
    /// Whom programs and servers' code watch by name, beside friends.
    watched: BTreeMap<NodeId, BTreeSet<String>>,
    /// Whom they watched before, each with the question that ended it: until that is answered, or the session over, something
    /// of them may come to a program. 0 where it could not be asked, and for a server, whose application may be behind with
    /// what it is told.
    unwatched: BTreeMap<(NodeId, String), u64>,
    /// Questions that are not answered: whom the asker wants to watch.
    questions: BTreeMap<(NodeId, u64), Vec<String>>,
}

impl Sightings {
    /// It was told that the user is online, or is not; never twice in a row. Whether it knew nothing before.
    fn told(&mut self, node: NodeId, user: &str, online: bool, before: Option<bool>) -> bool {
        let last = self.told.insert((node, user.to_owned()), online).or(before);
        assert_ne!(last, Some(online), "n{node} is told again that {user} is {}", word(online));
        last.is_none()
    }

    fn watches(&mut self, node: NodeId, user: &str) {
        self.watched.entry(node).or_default().insert(user.to_owned());
    }

    /// What was told of the user holds no longer.
    fn unwatches(&mut self, node: NodeId, user: &str) {
        self.watched.entry(node).or_default().remove(user);
        self.told.remove(&(node, user.to_owned()));
    }

    /// A program is in: its server knows of nobody whom it watched.
    pub(crate) fn session_begins(&mut self, node: NodeId) {
        self.unwatched.retain(|(at, _), _| *at != node);
    }

    fn watched_by(&self, node: NodeId) -> impl Iterator<Item = &String> {
        self.watched.get(&node).into_iter().flatten()
    }

    /// The process is gone.
    pub(crate) fn process_gone(&mut self, node: NodeId) {
        self.told.retain(|(at, _), _| *at != node);
        self.unwatched.retain(|(at, _), _| *at != node);
        self.questions.retain(|(at, _), _| *at != node);
        self.watched.remove(&node);
    }
}

fn word(online: bool) -> &'static str {
    if online { "online" } else { "offline" }
}

/// Whether the application lets one user watch another.
fn may_watch(watcher: &str, user: &str) -> bool {
    !(watcher.len() + user.len() + user.bytes().map(usize::from).sum::<usize>()).is_multiple_of(5)
}

/// What they ask for.
impl World {
    /// Some user's program, or a server's code, watches somebody or no longer does.
    pub(crate) fn act_on_friends(&mut self) {
        let count = self.rng.usize(1..4);
        let mut users: BTreeSet<String> = (0..count).map(|_| self.any_user()).collect();
        if self.rng.u8(0..8) == 0 {
            users.insert(GHOST.to_owned());
        }
        if self.plan.servers_talk && self.rng.u8(0..4) == 0 {
            let server = self.any_server();
            return self.watch_as_server(server, users);
        }
        let Some(node) = self.any_engine() else { return };
        let user = &self.engines[&node].user;
        match &self.plan.friends[user] {
            Friends::Everyone => {}
            Friends::These(friends) => {
                users.retain(|other| other != user && !friends.contains(other));
                self.watch(node, &users);
            }
        }
    }

    fn watch(&mut self, node: NodeId, users: &BTreeSet<String>) {
        let unwatches = self.rng.u8(0..3) == 0;
        let ids: Vec<UserId> = users.iter().map(|user| user.parse().expect("a user id")).collect();
        let now = self.nodes[node].now(self.clock);
        let Role::Client(client) = &mut self.nodes[node].role else { return };
        let asked = if unwatches { client.unwatch(now, &ids) } else { client.watch(now, &ids) };
        self.note(|| format!("n{node} {} {users:?}: {asked:x?}", if unwatches { "unwatches" } else { "watches" }));
        for user in users {
            if unwatches {
                self.sightings.unwatches(node, user);
                self.sightings.unwatched.insert((node, user.clone()), asked.unwrap_or(0));
            } else {
                self.sightings.watches(node, user);
            }
        }
        if let Ok(id) = asked {
            self.sightings.questions.insert((node, id), users.iter().cloned().collect());
        }
        self.touch(node);
    }

    fn watch_as_server(&mut self, node: NodeId, users: BTreeSet<String>) {
        let unwatches = self.rng.u8(0..3) == 0;
        let ids: Vec<UserId> = users.iter().map(|user| user.parse().expect("a user id")).collect();
        let now = self.nodes[node].now(self.clock);
        let Role::Server(server) = &mut self.nodes[node].role else { return };
        if unwatches {
            server.unwatch(now, &ids)
        } else {
            server.watch(now, &ids)
        };
        self.note(|| format!("server {node} {} {users:?}", if unwatches { "unwatches" } else { "watches" }));
        for user in users {
            if unwatches {
                self.sightings.unwatches(node, &user);
                self.sightings.unwatched.insert((node, user), 0);
            } else {
                self.sightings.watches(node, &user)
            };
        }
        self.touch(node);
    }

    /// A user is in: its application says who its friends are, at once or later.
    pub(crate) fn has_logged_in(&mut self, node: NodeId, conn: ConnId, user: String) {
        if self.rng.u8(0..self.plan.slow_verdict) == 0 {
            let (later, boot) = (self.clock + self.rng.u64(1..1_000_000), self.nodes[node].boot);
            return self.schedule(later, Step::Befriend { node, boot, conn, user });
        }
        self.befriend(node, conn, &user);
    }

    pub(crate) fn befriend(&mut self, node: NodeId, conn: ConnId, user: &str) {
        let friendship = match self.plan.friends.get(user) {
            Some(Friends::Everyone) => Friendship::Everyone,
            Some(Friends::These(users)) => {
                Friendship::Users(users.iter().map(|user| user.parse().expect("a user id")).collect())
            }
            // A stranger.
            None => Friendship::Users(Vec::new()),
        };
        let now = self.nodes[node].now(self.clock);
        if let Role::Server(server) = &mut self.nodes[node].role {
            server.befriend(now, conn, friendship);
        }
        self.touch(node);
    }

    /// A user asks to watch others.
    pub(crate) fn watch_asked(&mut self, node: NodeId, conn: ConnId, user: &str, id: u64, users: Vec<UserId>) {
        let now = self.nodes[node].now(self.clock);
        let postpones = self.rng.u8(0..12) == 0 && !self.is_at_rest;
        if let Role::Server(server) = &mut self.nodes[node].role
            && postpones
        {
            return server.postpone(now, conn, id);
        }
        let boot = self.nodes[node].boot;
        let answer = Step::Permit { node, boot, conn, watcher: user.to_owned(), id, users };
        if self.rng.u8(0..self.plan.slow_verdict) == 0 {
            let later = self.clock + self.rng.u64(1..1_000_000);
            return self.schedule(later, answer);
        }
        self.take_step(answer);
    }

    /// The application says whom a user may watch.
    pub(crate) fn permit(&mut self, node: NodeId, conn: ConnId, user: &str, id: u64, users: Vec<UserId>) {
        let now = self.nodes[node].now(self.clock);
        if let Role::Server(server) = &mut self.nodes[node].role {
            let permitted = |other: UserId| {
                let may = may_watch(user, other.as_str());
                (other, may)
            };
            server.permit(now, conn, id, users.into_iter().map(permitted).collect());
        }
        self.touch(node);
    }
}

/// What they hear.
impl World {
    pub(crate) fn client_hears_of(&mut self, node: NodeId, user: &str, online: bool) {
        let own = &self.engines[&node].user;
        assert_ne!(own, user, "n{node} hears of itself");
        let is_friend = match &self.plan.friends[own] {
            Friends::Everyone => true,
            Friends::These(friends) => friends.iter().any(|friend| friend == user),
        };
        let watches = self.sightings.watched_by(node).any(|watched| watched == user);
        let is_late = self.sightings.unwatched.contains_key(&(node, user.to_owned()));
        assert!(is_friend || watches || is_late, "n{node} hears of {user}, who is no friend");
        // Who is not told of is offline.
        self.sightings.told(node, user, online, Some(false));
        self.check_news(node, user, online);
    }

    pub(crate) fn server_hears_of(&mut self, node: NodeId, user: &str, online: bool) {
        let watches = self.sightings.watched_by(node).any(|watched| watched == user);
        let is_late = self.sightings.unwatched.contains_key(&(node, user.to_owned()));
        assert!(watches || is_late, "server {node} hears of {user}, whom it does not watch");
        let is_first = self.sightings.told(node, user, online, None);
        if !is_first {
            self.check_news(node, user, online);
        }
    }

    /// Nobody goes where no session ends, nor whom a draining server sends to another. On a day on which nobody is cut off,
    /// nobody is called offline who is in, whatever restarted meanwhile.
    fn check_news(&self, node: NodeId, user: &str, online: bool) {
        assert!(!online || user != GHOST, "n{node} is told that {user} is online, who never comes");
        if !self.plan.users.iter().any(|name| name == user) {
            return;
        }
        assert!(online || self.plan.ends_sessions(), "n{node} is told that {user} is gone, and no session ends");
        let is_smooth = self.plan.only_drains() && self.drains_in_order && !self.network.stalls();
        assert!(online || !is_smooth, "n{node} is told that {user} is gone, whose server only drained");
        if online || !self.plan.only_crashes() {
            return;
        }
        let then = self.clock.saturating_sub(NEWS_MICROS);
        let is_in = self.engines.values().find(|engine| {
            let server = &self.nodes[engine.server];
            let outlived = matches!(server.role, Role::Server(_)) && server.clock.born < engine.online_since;
            let (id, incarnation) = (ServerId(engine.server as u16), cluster::incarnation(server.boot));
            let is_known = outlived && self.members.had_told(id, incarnation, then);
            engine.user == user && engine.online && is_known && engine.online_since < then
        });
        let since = is_in.map(|engine| engine.online_since);
        assert_eq!(since, None, "n{node} is told that {user} is offline, who is in");
    }

    /// Whether an answer was one to who wanted to watch others, or no longer.
    pub(crate) fn watch_answered(&mut self, node: NodeId, id: u64, body: Option<&[u8]>) -> bool {
        let Some(users) = self.sightings.questions.remove(&(node, id)) else { return false };
        if body.is_some() {
            self.sightings.unwatched.retain(|(at, _), question| (*at, *question) != (node, id));
        }
        let answer: serde_json::Value =
            body.map(|body| serde_json::from_slice(body).expect("an ANSWER is JSON")).unwrap_or_default();
        let told = answer["users"].as_array().map_or(&[][..], Vec::as_slice);
        let own = self.engines[&node].user.clone();
        for user in told.iter().filter(|user| user["denied"] == true) {
            let user = user["user"].as_str().expect("a user id");
            assert!(users.iter().any(|asked| asked == user), "{user} is denied, whom nobody asked for");
            assert!(!may_watch(&own, user), "{own} may watch {user}, and is denied");
        }
        true
    }
}

/// At the end.
impl World {
    fn is_online(&self, user: &str) -> bool {
        self.engines.values().any(|engine| engine.user == user && engine.online)
    }

    /// Of whom a program that is in must know how they stand.
    fn hears_of(&self, node: NodeId) -> BTreeSet<String> {
        let own = &self.engines[&node].user;
        let friends: &[String] = match &self.plan.friends[own] {
            Friends::Everyone => &self.plan.users,
            Friends::These(friends) => friends,
        };
        let watched = self.sightings.watched_by(node).filter(|user| may_watch(own, user));
        friends.iter().chain(watched).filter(|user| *user != own).cloned().collect()
    }

    /// Why what somebody was told is not so.
    pub(crate) fn friends_unrest(&self) -> Option<String> {
        let told = |node: NodeId, user: &str| self.sightings.told.get(&(node, user.to_owned())).copied();
        for (node, engine) in self.engines.iter().filter(|(_, engine)| engine.online) {
            for user in self.hears_of(*node) {
                let (last, is) = (told(*node, &user).unwrap_or(false), self.is_online(&user));
                if last != is {
                    return Some(format!("{} takes {user} for {}, who is not", engine.user, word(last)));
                }
            }
        }
        for node in SERVERS {
            for user in self.sightings.watched_by(node) {
                let (last, is) = (told(node, user), self.is_online(user));
                if last != Some(is) {
                    return Some(format!("server {node} was told {last:?} of {user}, who is {}", word(is)));
                }
            }
        }
        let questions = &self.sightings.questions;
        if questions.is_empty() { self.watches_leaked() } else { Some(format!("no answers: {questions:?}")) }
    }

    /// What servers remember of users whom nobody watches.
    fn watches_leaked(&self) -> Option<String> {
        let mut named = 0;
        for node in SERVERS {
            let here = || self.engines.iter().filter(|(_, engine)| engine.online && engine.server == node);
            let everyone = here().filter(|(_, engine)| self.plan.friends[&engine.user] == Friends::Everyone).count();
            let of_programs = here().filter(|(_, engine)| self.plan.friends[&engine.user] != Friends::Everyone);
            let of_programs: Vec<BTreeSet<String>> = of_programs.map(|(node, _)| self.hears_of(*node)).collect();
            let mut watched: BTreeSet<&String> = of_programs.iter().flatten().collect();
            watched.extend(self.sightings.watched_by(node));
            named += watched.len();
            if everyone > 0 {
                watched.extend(self.plan.users.iter().filter(|user| self.is_online(user)));
            }
            let online = here().count();
            let (kept, watchers, departed) = self.server(node).presence_counts();
            if (kept, departed) != (watched.len(), 0) || watchers > online {
                let kept = format!("{kept} users for {watchers} watchers, {departed} departed");
                return Some(format!("n{node} remembers {kept}; {watched:?} are watched, {online} are here"));
            }
        }
        let kept = self.acms().presence_counts();
        (kept != (named, 0))
            .then(|| format!("the ACMS remembers {kept:?} watched and departed users, {named} are watched"))
    }
}
