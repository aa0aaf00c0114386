//! Who was told of whose comings and goings: each program by what it is told, judged by who is in.

use std::collections::{BTreeMap, BTreeSet};

use trunkline::id::{ConnId, UserId};
use trunkline::role::appserver::Friendship;

use crate::network::NodeId;
use crate::node::Role;
use crate::scenario::GHOST;
use crate::world::World;

/// How a user comes to hear of the others: by its place among them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Interest {
    Everyone,
    Friends,
    /// Its program names them.
    Watches,
    Nobody,
}

/// What each program was told, by its node: who is online.
#[derive(Default)]
pub(crate) struct Sightings {
    online: BTreeMap<NodeId, BTreeSet<String>>,
}

impl World {
    fn interest_of(&self, user: &str) -> Interest {
        let place = self.plan.users.iter().position(|name| name == user).unwrap_or(0);
        [Interest::Friends, Interest::Watches, Interest::Everyone, Interest::Friends, Interest::Nobody][place % 5]
    }

    /// All users, and one who never comes.
    fn everyone(&self) -> Vec<UserId> {
        let users = self.plan.users.iter().map(String::as_str).chain([GHOST]);
        users.map(|user| user.parse().expect("a user id")).collect()
    }

    /// A user is in: its server's application says whose friend it is.
    pub(crate) fn befriend(&mut self, node: NodeId, conn: ConnId, user: &str) {
        let friends = match self.interest_of(user) {
            Interest::Everyone => Friendship::Everyone,
            Interest::Friends => Friendship::Users(self.everyone()),
            Interest::Watches | Interest::Nobody => Friendship::Users(Vec::new()),
        };
        let now = self.nodes[node].now(self.clock);
        if let Role::Server(server) = &mut self.nodes[node].role {
            server.befriend(now, conn, friends);
        }
    }

    /// Everyone may watch everyone but the one who never comes.
    pub(crate) fn permit(&mut self, node: NodeId, conn: ConnId, id: u64, users: Vec<UserId>) {
        let now = self.nodes[node].now(self.clock);
        if let Role::Server(server) = &mut self.nodes[node].role {
            let users = users.into_iter().map(|user| {
                let may_watch = user.as_str() != GHOST;
                (user, may_watch)
            });
            server.permit(now, conn, id, users.collect());
        }
    }

    /// Whether the program names whom it wants to hear of.
    pub(crate) fn watches(&self, node: NodeId) -> bool {
        self.interest_of(&self.engines[&node].user) == Interest::Watches
    }

    /// A program is online for the first time.
    pub(crate) fn watch(&mut self, node: NodeId) {
        let users = self.everyone();
        if !self.watches(node) {
            return;
        }
        let now = self.nodes[node].now(self.clock);
        if let Role::Client(client) = &mut self.nodes[node].role {
            // With a full queue, or behind a lost connection, it is repeated by itself.
            let asked = client.watch(now, &users);
            self.note(|| format!("n{node} watches everyone: {asked:?}"));
        }
    }

    /// A program is told of a change, and not twice of the same. Nobody goes where no session ends.
    pub(crate) fn sighted(&mut self, node: NodeId, user: &str, online: bool) {
        let known = self.sightings.online.entry(node).or_default();
        let is_change = if online { known.insert(user.to_owned()) } else { known.remove(user) };
        assert!(is_change, "n{node} is told twice that {user} is {}", if online { "online" } else { "offline" });
        assert_ne!(user, GHOST, "n{node} is told that {user} is there, who never comes");
        assert!(online || self.plan.ends_sessions(), "n{node} is told that {user} is gone, and no session ends");
        let is_smooth = self.plan.only_drains() && self.drains_in_order && !self.network.stalls();
        assert!(online || !is_smooth, "n{node} is told that {user} is gone, whose server only drained");
    }

    /// What programs that are online were told is what is so.
    pub(crate) fn compare_presence(&self) -> Result<(), String> {
        let nobody = BTreeSet::new();
        let in_now = self.engines.values().filter(|engine| engine.online).map(|engine| engine.user.clone());
        let in_now: BTreeSet<String> = in_now.collect();
        for (node, engine) in self.engines.iter().filter(|(_, engine)| engine.online) {
            let mut wanted = match self.interest_of(&engine.user) {
                Interest::Nobody => BTreeSet::new(),
                Interest::Everyone | Interest::Friends | Interest::Watches => in_now.clone(),
            };
            let mut told = self.sightings.online.get(node).unwrap_or(&nobody).clone();
            wanted.remove(&engine.user);
            told.remove(&engine.user);
            if told != wanted {
                let (missing, wrong) = (wanted.difference(&told), told.difference(&wanted));
                let (missing, wrong): (Vec<_>, Vec<_>) = (missing.collect(), wrong.collect());
                return Err(format!("n{node} ({}) was not told of {missing:?}, and wrongly of {wrong:?}", engine.user));
            }
        }
        Ok(())
    }
}
