//! What must be true of groups, told without any of the product's code: who is in which, what each member must have heard,
//! and whom it takes for the others.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Manner, Sent, Session, parse};
use crate::network::NodeId;

/// What a program knows of a group that it is in.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) user: String,
    /// The session that is in, and since when; none while its program is to be in again after it lost one.
    pub(crate) stay: Option<(Session, u64)>,
    pub(crate) view: View,
}

/// Whom a member takes for the others: the list that it asked for, and what it heard since.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// None until a whole list has come.
    pub(crate) members: Option<BTreeSet<String>>,
    /// World time at which each of them was last known to be in.
    known_at: BTreeMap<String, u64>,
    /// The question under way, and when it was asked.
    asked: Option<(u64, u64)>,
    /// Who came (true) or went since then.
    heard: Vec<(String, bool)>,
}

/// Something that was said in a group.
#[derive(Debug)]
pub(crate) struct Broadcast {
    pub(crate) sent: Sent,
    /// Members that must have it, each with its program, until they do or go.
    owed: BTreeMap<String, NodeId>,
    /// In whose names it came back.
    bounces: BTreeSet<String>,
}

/// All groups, as their members know them.
#[derive(Default)]
pub(crate) struct Groups {
    /// By program and group.
    members: BTreeMap<(NodeId, String), Membership>,
    /// Joins that are not resolved; without a group where the program has left it since.
    joins: BTreeMap<(NodeId, u64), Option<String>>,
    /// Questions for a group's members.
    questions: BTreeMap<(NodeId, u64), String>,
    broadcasts: BTreeMap<u64, Broadcast>,
    ids: BTreeMap<(NodeId, u64), u64>,
    /// What servers' code did with members elsewhere and has not heard of.
    edits: BTreeSet<(NodeId, u64)>,
    /// Lists that servers' code asked for, by the number that it gave.
    listings: BTreeMap<(NodeId, u64), String>,
    pub(crate) delivered: u64,
}

/// Coming and going.
impl Groups {
    pub(crate) fn joins(&mut self, node: NodeId, id: u64, group: &str) {
        let before = self.joins.insert((node, id), Some(group.to_owned()));
        assert_eq!(before, None, "an engine gave the id {id} twice");
    }

    /// The program leaves: what it asked for before no longer makes it a member, though it may have been granted and not
    /// been looked at.
    pub(crate) fn withdraw_joins(&mut self, node: NodeId, group: &str) {
        let own = self.joins.range_mut((node, 0)..=(node, u64::MAX));
        own.filter(|(_, asked)| asked.as_deref() == Some(group)).for_each(|(_, asked)| *asked = None);
    }

    /// A join is resolved: in which group, where the program still wants it.
    pub(crate) fn join_resolved(&mut self, node: NodeId, id: u64) -> Option<String> {
        self.joins
            .remove(&(node, id))
            .unwrap_or_else(|| panic!("n{node}: the join {id} is resolved twice, or was never made"))
    }

    /// A session of the program's is in, for the first time or again.
    pub(crate) fn entered(&mut self, now: u64, node: NodeId, user: &str, group: &str, session: Session) {
        let key = (node, group.to_owned());
        let membership =
            self.members.entry(key).or_insert(Membership { user: user.to_owned(), stay: None, view: View::default() });
        if membership.stay.is_none_or(|(at, _)| at != session) {
            membership.stay = Some((session, now));
        }
    }

    /// The program is no longer in, and is not to be.
    pub(crate) fn left(&mut self, node: NodeId, group: &str) -> bool {
        let Some(Membership { user, .. }) = self.members.remove(&(node, group.to_owned())) else { return false };
        self.excuse(group, &user);
        true
    }

    /// The program's session ended: it will be in again once it has another.
    pub(crate) fn session_ended(&mut self, node: NodeId) {
        let own = self.members.range_mut((node, String::new())..(node + 1, String::new()));
        let mut ended = Vec::new();
        for ((_, group), membership) in own {
            membership.stay = None;
            membership.view = View::default();
            ended.push((group.clone(), membership.user.clone()));
        }
        ended.iter().for_each(|(group, user)| self.excuse(group, user));
    }

    /// The process is gone, or its session for good.
    pub(crate) fn engine_gone(&mut self, node: NodeId) {
        self.session_ended(node);
        self.members.retain(|(at, _), _| *at != node);
        self.joins.retain(|(at, _), _| *at != node);
        self.questions.retain(|(at, _), _| *at != node);
        self.edits.retain(|(at, _)| *at != node);
        self.listings.retain(|(at, _), _| *at != node);
        self.ids.retain(|(at, _), _| *at != node);
    }

    /// Nothing is owed any more to a member that goes, or may.
    pub(crate) fn excuse(&mut self, group: &str, user: &str) {
        for broadcast in self.broadcasts.values_mut().filter(|broadcast| broadcast.sent.to == group) {
            broadcast.owed.remove(user);
        }
    }

    pub(crate) fn membership(&self, node: NodeId, group: &str) -> Option<&Membership> {
        self.members.get(&(node, group.to_owned()))
    }

    /// The groups of a program.
    pub(crate) fn groups_of(&self, node: NodeId) -> Vec<String> {
        let own = self.members.range((node, String::new())..(node + 1, String::new()));
        own.map(|((_, group), _)| group.clone()).collect()
    }

    /// Programs that are in the group, or are to be again.
    pub(crate) fn programs_in(&self, group: &str) -> impl Iterator<Item = (NodeId, &Membership)> {
        self.members.iter().filter(move |((_, at), _)| at == group).map(|((node, _), membership)| (*node, membership))
    }
}

/// Whom members take for members.
impl Groups {
    pub(crate) fn asks(&mut self, now: u64, node: NodeId, id: u64, group: &str) {
        self.questions.insert((node, id), group.to_owned());
        if let Some(membership) = self.members.get_mut(&(node, group.to_owned())) {
            membership.view.asked = Some((id, now));
            membership.view.heard.clear();
        }
    }

    /// The group that a question was about, where it was one for members.
    pub(crate) fn question_resolved(&mut self, node: NodeId, id: u64) -> Option<String> {
        self.questions.remove(&(node, id))
    }

    /// What changes a member may have missed.
    pub(crate) fn missed(&mut self, node: NodeId, group: &str) {
        if let Some(membership) = self.members.get_mut(&(node, group.to_owned())) {
            membership.view.members = None;
        }
    }

    /// A member heard that another came (true) or went.
    pub(crate) fn heard(&mut self, now: u64, node: NodeId, group: &str, user: &str, came: bool) {
        let membership = self.members.get_mut(&(node, group.to_owned()));
        let membership = membership.unwrap_or_else(|| panic!("n{node} is not in {group} and hears of {user}"));
        assert_ne!(membership.user, user, "n{node} hears of itself as of another");
        assert!(membership.stay.is_some(), "n{node} is not in {group} again and hears of {user}");
        membership.view.change(now, user, came);
        if membership.view.asked.is_some() {
            membership.view.heard.push((user.to_owned(), came));
        }
    }

    /// The answer to a question for members; false where it does not say all, so that it must be asked again.
    pub(crate) fn listed(&mut self, node: NodeId, id: u64, group: &str, users: Option<BTreeSet<String>>) -> bool {
        let Some(membership) = self.members.get_mut(&(node, group.to_owned())) else { return true };
        let Membership { user, stay, view } = membership;
        let Some((_, asked_at)) = view.asked.take_if(|(asked, _)| *asked == id) else { return true };
        let Some(mut users) = users else { return false };
        let was_in = stay.is_some_and(|(_, since)| since <= asked_at);
        assert!(!was_in || users.contains(user), "{user} is in {group} and not among {users:?}");
        users.remove(user);
        view.known_at.extend(users.iter().map(|user| (user.clone(), asked_at)));
        view.members = Some(users);
        for (user, came) in std::mem::take(&mut view.heard) {
            let known_at = view.known_at.get(&user).copied().unwrap_or(asked_at);
            view.change(known_at, &user, came);
        }
        true
    }
}

impl View {
    fn change(&mut self, now: u64, user: &str, came: bool) {
        if came {
            self.known_at.insert(user.to_owned(), now);
        } else {
            self.known_at.remove(user);
        }
        if let Some(members) = &mut self.members {
            if came {
                members.insert(user.to_owned())
            } else {
                members.remove(user)
            };
        }
    }

    /// Whether the user was known to be in at some time since then.
    fn knows(&self, user: &str, then: u64) -> bool {
        self.known_at.get(user).is_some_and(|at| *at > then)
    }
}

/// What is said.
impl Groups {
    /// Somebody said something in a group. Owed it are those whose session was in and, as `sent.sender` knew, their servers
    /// with them; `server_of` says where a program is. `all`: everyone knows of everyone.
    pub(crate) fn said(
        &mut self,
        serial: u64,
        id: Option<u64>,
        sent: Sent,
        server_of: impl Fn(NodeId) -> NodeId,
        all: bool,
    ) {
        let is_server = sent.from.starts_with('@');
        let own = self.members.get(&(sent.sender.engine, sent.to.clone()));
        let is_in = is_server || own.is_some_and(|own| own.stay.is_some_and(|(session, _)| session == sent.sender));
        let is_owed = |node: NodeId, member: &Membership| {
            let Some((_, since)) = member.stay else { return false };
            let is_known = all || own.is_some_and(|own| own.view.knows(&member.user, since));
            is_in && member.user != sent.from && since < sent.at && (is_known || server_of(node) == sent.via)
        };
        let members = self.programs_in(&sent.to).filter(|_| sent.manner != Manner::Droppable);
        let owed = members.filter(|(node, member)| is_owed(*node, member));
        let owed: BTreeMap<String, NodeId> = owed.map(|(node, member)| (member.user.clone(), node)).collect();
        if let Some(id) = id {
            let before = self.ids.insert((sent.sender.engine, id), serial);
            assert_eq!(before, None, "an engine gave the id {id} twice");
        }
        self.broadcasts.insert(serial, Broadcast { sent, owed, bounces: BTreeSet::new() });
    }

    /// A member's application was handed something that was said in a group. `once`: sessions do not end, so no user has it
    /// twice.
    pub(crate) fn handed(
        &mut self,
        group: &str,
        from: &str,
        user: &str,
        at: Session,
        body: &[u8],
        once: bool,
    ) -> Heard {
        let (serial, wrote, meant) =
            parse(body).unwrap_or_else(|| panic!("{user} was handed {} bytes that nobody said", body.len()));
        assert_eq!((wrote.as_str(), meant.as_str()), (from, group), "#{serial} went astray");
        let is_in =
            self.membership(at.engine, group).is_some_and(|own| own.stay.is_some_and(|(session, _)| session == at));
        let broadcast = self.broadcasts.get_mut(&serial).unwrap_or_else(|| panic!("#{serial} was never said"));
        let Broadcast { sent, owed, bounces } = broadcast;
        assert!(is_in, "{user} is not in {group} and has #{serial}: {sent:?}");
        assert_eq!((&*sent.from, &*sent.to), (from, group), "#{serial} was said otherwise");
        assert_ne!(user, from, "#{serial} came back to its sender");
        let repeated = sent.deliveries.iter().any(|before| *before == at || once && before.engine == at.engine);
        assert!(!repeated, "#{serial} was handed over twice: {sent:?}, now to {at:?}");
        assert!(!once || !bounces.contains(user), "#{serial} is handed over after it bounced: {sent:?}");
        sent.deliveries.push(at);
        owed.remove(user);
        self.delivered += 1;
        Heard { serial, sender: sent.sender, at }
    }

    /// Whether the id is that of something said in a group.
    pub(crate) fn is_broadcast(&self, node: NodeId, id: u64) -> bool {
        self.ids.contains_key(&(node, id))
    }

    /// It came back, in a member's name or the group's; none where that was not told. Returns what it was.
    pub(crate) fn bounced(
        &mut self,
        node: NodeId,
        id: u64,
        name: Option<&str>,
        server_of: impl Fn(NodeId) -> NodeId,
    ) -> (u64, &Broadcast) {
        let serial = self.ids[&(node, id)];
        let broadcast = self.broadcasts.get_mut(&serial).expect("an id has what was said");
        let Broadcast { sent, owed, bounces } = broadcast;
        match name {
            // Those who share the sender's server have it, or bounce by name.
            Some(name) if name == sent.to => owed.retain(|_, node| server_of(*node) == sent.via),
            Some(name) => {
                owed.remove(name);
                let is_new = bounces.insert(name.to_owned());
                assert!(is_new, "#{serial} bounced twice for {name}");
            }
            None => owed.clear(),
        }
        (serial, broadcast)
    }

    /// None of it is owed to anybody any more.
    pub(crate) fn forgive(&mut self, serial: u64, whom: impl Fn(NodeId) -> bool) {
        if let Some(broadcast) = self.broadcasts.get_mut(&serial) {
            broadcast.owed.retain(|_, node| !whom(*node));
        }
    }

    /// What somebody was owed and did not get, and who.
    pub(crate) fn owed(&self) -> impl Iterator<Item = (u64, &Sent, &str, NodeId)> {
        self.broadcasts.iter().flat_map(|(serial, broadcast)| {
            let Broadcast { sent, owed, .. } = broadcast;
            owed.iter().map(move |(user, node)| (*serial, sent, user.as_str(), *node))
        })
    }
}

/// Something that a member heard: for the order.
pub(crate) struct Heard {
    pub(crate) serial: u64,
    pub(crate) sender: Session,
    pub(crate) at: Session,
}

/// What servers' code does.
impl Groups {
    pub(crate) fn edits(&mut self, node: NodeId, id: u64) {
        self.edits.insert((node, id));
    }

    pub(crate) fn lists(&mut self, node: NodeId, token: u64, group: &str) {
        self.listings.insert((node, token), group.to_owned());
    }

    /// The group whose list servers' code was given.
    pub(crate) fn given_list(&mut self, node: NodeId, token: u64) -> String {
        let listing = self.listings.remove(&(node, token));
        listing.unwrap_or_else(|| panic!("n{node}: the question {token} is answered twice, or was never asked"))
    }

    /// Whether the id was that of an edit, which has its outcome now.
    pub(crate) fn edited(&mut self, node: NodeId, id: u64) -> bool {
        self.edits.remove(&(node, id))
    }

    /// What waits for its outcome.
    pub(crate) fn unresolved(&self) -> Option<String> {
        let Groups { joins, edits, questions, listings, .. } = self;
        let is_open = !joins.is_empty() || !edits.is_empty() || !questions.is_empty() || !listings.is_empty();
        is_open.then(|| format!("joins {joins:?}, edits {edits:?}, questions for members {questions:?} {listings:?}"))
    }
}
