//! What users and servers' code do with groups, and what they hear of it.

use std::collections::{BTreeMap, BTreeSet};

use trunkline::id::{GroupId, UserId};
use trunkline::role::Members;
use trunkline::role::appserver::{Edit, JoinRef, Outcome};
use trunkline::role::client::{JoinFailure, Message};
use trunkline::time::Span;
use trunkline::wire::{Bounce, Flags, GroupChange};

use crate::cluster::SERVERS;
use crate::losses::Vanished;
use crate::model::{Manner, Sent, Session};
use crate::network::NodeId;
use crate::node::Role;
use crate::scenario::{SETTLED_MICROS, Step};
use crate::world::World;

/// World time, in microseconds, after which a question for members is asked again that was not answered in full.
const ASK_AGAIN_MICROS: u64 = 500_000;

/// World time, in microseconds, for which members may take those for members whose server is lost.
const LINGER_MICROS: u64 = 5_000_000;

/// What they do.
impl World {
    pub(crate) fn any_group(&mut self) -> String {
        self.rng.choice(self.plan.groups.clone()).expect("somebody asks where there are groups")
    }

    pub(crate) fn act_in_group(&mut self) {
        let Some(node) = self.any_engine() else { return };
        let mut group = self.any_group();
        if let Some(own) = self.rng.choice(self.groups.groups_of(node)) {
            group = own;
        }
        match self.rng.u8(0..16) {
            0 => self.join(node, &group),
            1 => self.leave(node, &group),
            2 => self.ask_members(node, &group),
            3..=4 if self.plan.servers_talk => {
                let (server, user) = (self.any_server(), self.any_user());
                match self.rng.u8(0..5) {
                    0 => self.edit(server, &user, &group, Edit::Add),
                    1 => self.edit(server, &user, &group, Edit::Remove),
                    2 => self.list_members(server, &group),
                    _ => self.broadcast_as_server(server, &group),
                }
            }
            _ => self.broadcast(node, &group),
        }
    }

    pub(crate) fn join(&mut self, node: NodeId, group: &str) {
        let now = self.nodes[node].now(self.clock);
        let Role::Client(client) = &mut self.nodes[node].role else { return };
        let taken = client.join(now, &id_of(group));
        self.note(|| format!("n{node} joins {group}: {taken:x?}"));
        if let Ok(id) = taken {
            self.groups.joins(node, id, group);
        }
        self.touch(node);
    }

    fn leave(&mut self, node: NodeId, group: &str) {
        let now = self.nodes[node].now(self.clock);
        let Role::Client(client) = &mut self.nodes[node].role else { return };
        let taken = client.leave(now, &id_of(group));
        self.note(|| format!("n{node} leaves {group}: {taken:?}"));
        if taken.is_ok() {
            self.groups.withdraw_joins(node, group);
            self.groups.left(node, group);
        }
        self.touch(node);
    }

    pub(crate) fn ask_members(&mut self, node: NodeId, group: &str) {
        let is_in = self.groups.membership(node, group).is_some_and(|own| own.stay.is_some());
        let now = self.nodes[node].now(self.clock);
        let Role::Client(client) = &mut self.nodes[node].role else { return };
        if !is_in {
            return;
        }
        let question = format!(r#"{{"ask":"members","group":"{group}"}}"#);
        match client.ask(now, question.as_bytes()) {
            Ok(id) => self.groups.asks(self.clock, node, id, group),
            Err(_) => self.ask_members_again(node, group),
        }
        self.touch(node);
    }

    fn ask_members_again(&mut self, node: NodeId, group: &str) {
        let at = self.clock + self.rng.u64(ASK_AGAIN_MICROS / 2..ASK_AGAIN_MICROS);
        self.schedule(at, Step::AskMembers { node, group: group.to_owned() });
    }

    pub(crate) fn broadcast(&mut self, node: NodeId, group: &str) {
        let large = self.rng.u8(0..24) == 0;
        let filler = if large { self.rng.usize(0..self.plan.large) } else { self.rng.usize(0..200) };
        let burst = if !large && self.rng.u8(0..4) == 0 { self.rng.usize(1..6) } else { 1 };
        let droppable = self.rng.u8(0..8) == 0;
        for _ in 0..burst {
            self.broadcast_once(node, group, droppable, filler);
        }
    }

    pub(crate) fn broadcast_once(&mut self, node: NodeId, group: &str, droppable: bool, filler: usize) {
        let now = self.nodes[node].now(self.clock);
        let engine = &self.engines[&node];
        let (from, sender, via) = (engine.user.clone(), engine.session(node), engine.server);
        let (serial, body) = self.model.compose(&from, group, filler);
        let manner = if droppable { Manner::Droppable } else { Manner::Plain };
        let Role::Client(client) = &mut self.nodes[node].role else { return };
        let flags = match (droppable, serial % 4) {
            (true, _) => Flags::DROPPABLE,
            (false, 0) => Flags::WANT_ACK,
            (false, _) => Flags::NONE,
        };
        let taken = client.broadcast(now, &id_of(group), flags, 0, &body);
        self.note(|| format!("{from} says #{serial} in {group}, {manner:?}, {filler} bytes: {taken:x?}"));
        if let Ok(id) = taken {
            let sent = Sent::new(manner, from, group, sender, via, self.clock);
            self.groups.said(serial, Some(id), sent, |node| self.engines[&node].server, self.is_at_rest);
        }
        self.touch(node);
    }

    fn broadcast_as_server(&mut self, node: NodeId, group: &str) {
        let (now, boot) = (self.nodes[node].now(self.clock), self.nodes[node].boot);
        let from = format!("@{node}");
        let (serial, body) = self.model.compose(&from, group, 30);
        let Role::Server(server) = &mut self.nodes[node].role else { return };
        let taken = server.broadcast(now, &id_of(group), Flags::NONE, 0, &body);
        self.note(|| format!("server {node} says #{serial} in {group}: {taken:x?}"));
        let sender = Session { engine: node, number: boot as u32 };
        let sent = Sent::new(Manner::Plain, from, group, sender, node, self.clock);
        self.groups.said(serial, taken.ok(), sent, |node| self.engines[&node].server, self.is_at_rest);
        self.touch(node);
    }

    fn edit(&mut self, node: NodeId, user: &str, group: &str, edit: Edit) {
        let now = self.nodes[node].now(self.clock);
        let Role::Server(server) = &mut self.nodes[node].role else { return };
        let user_id: UserId = user.parse().expect("a user id");
        let ends = now + Span::from_secs(8);
        let taken = server.edit_group(now, &user_id, &id_of(group), edit, ends);
        self.note(|| format!("server {node}: {edit:?} {user} in {group}: {taken:x?}"));
        // Whoever is to be taken out may be so at any time from now on.
        if edit == Edit::Remove {
            self.groups.excuse(group, user);
        }
        if let Ok(Some(id)) = taken {
            self.groups.edits(node, id);
        }
        self.touch(node);
    }

    fn list_members(&mut self, node: NodeId, group: &str) {
        let now = self.nodes[node].now(self.clock);
        let Role::Server(server) = &mut self.nodes[node].role else { return };
        self.questions += 1;
        self.groups.lists(node, self.questions, group);
        server.list_members(now, self.questions, id_of(group));
        self.touch(node);
    }

    pub(crate) fn join_verdict(&mut self, node: NodeId, join: &JoinRef, accepts: bool) {
        let now = self.nodes[node].now(self.clock);
        if let Role::Server(server) = &mut self.nodes[node].role {
            server.join_verdict(now, join, if accepts { Ok(()) } else { Err(Bounce::Denied) });
        }
        self.touch(node);
    }
}

/// What servers hear.
impl World {
    pub(crate) fn join_asked(&mut self, node: NodeId, join: JoinRef) {
        let accepts = self.rng.u8(0..16) > 0;
        if self.rng.u8(0..self.plan.slow_answer) == 0 {
            let (later, boot) = (self.clock + self.rng.u64(1..1_000_000), self.nodes[node].boot);
            return self.schedule(later, Step::JoinVerdict { node, boot, join, accepts });
        }
        self.join_verdict(node, &join, accepts);
    }

    pub(crate) fn server_has_members(&mut self, node: NodeId, token: u64, members: &Members) {
        let group = self.groups.given_list(node, token);
        if !self.is_at_rest {
            return;
        }
        assert!(members.complete, "all is at rest, and {group} is not listed in full");
        let listed = members.users.iter().map(|(user, server)| (user.as_str(), NodeId::from(server.0)));
        let programs = self.groups.programs_in(&group);
        let truth = programs.map(|(program, member)| (member.user.as_str(), self.engines[&program].server));
        assert_eq!(listed.collect::<BTreeMap<_, _>>(), truth.collect(), "{group} is not who is listed");
    }

    /// Whether the outcome was that of something said in a group, or done with a member.
    pub(crate) fn is_of_groups(&mut self, node: NodeId, id: u64, outcome: &Outcome) -> bool {
        if self.groups.is_broadcast(node, id) {
            let is_bounce = matches!(outcome, Outcome::Bounced(_) | Outcome::Acked);
            assert!(is_bounce, "what was said in a group ends {outcome:?}");
            self.groups.bounced(node, id, None, |node| self.engines[&node].server);
            return true;
        }
        self.groups.edited(node, id)
    }
}

/// What members hear.
impl World {
    pub(crate) fn joined(&mut self, node: NodeId, id: u64, outcome: &Result<(), JoinFailure>) {
        let wanted = self.groups.join_resolved(node, id);
        if let Some(group) = wanted.filter(|_| outcome.is_ok()) {
            self.enter_group(node, &group);
        }
    }

    fn enter_group(&mut self, node: NodeId, group: &str) {
        let engine = &self.engines[&node];
        assert!(engine.online, "n{node} is not logged in and is in {group}");
        let (user, session) = (engine.user.clone(), engine.session(node));
        self.groups.entered(self.clock, node, &user, group, session);
        self.ask_members(node, group);
    }

    pub(crate) fn said_in_group(&mut self, node: NodeId, group: &str, message: &Message, from: &str) {
        let engine = &self.engines[&node];
        let (user, at, once) = (engine.user.clone(), engine.session(node), !self.plan.ends_sessions());
        let heard = self.groups.handed(group, from, &user, at, &message.body, once);
        if heard.sender.number > 0 {
            self.model.keep_order(heard.sender, heard.at, heard.serial);
        }
    }

    pub(crate) fn member_changed(&mut self, node: NodeId, group: &str, user: &str, change: GroupChange) {
        let is_itself = self.engines[&node].user == user;
        match change {
            GroupChange::Joined if is_itself => self.enter_group(node, group),
            GroupChange::Left | GroupChange::Offline if is_itself => {
                assert!(self.groups.left(node, group), "n{node} is taken out of {group}, where it is not");
            }
            GroupChange::Joined => self.groups.heard(self.clock, node, group, user, true),
            GroupChange::Left | GroupChange::Offline => self.groups.heard(self.clock, node, group, user, false),
        }
    }

    /// The member is in again, or others came and went unheard.
    pub(crate) fn members_missed(&mut self, node: NodeId, group: &str) {
        self.groups.missed(node, group);
        self.enter_group(node, group);
    }

    /// Whether the answer was one about a group's members.
    pub(crate) fn members_answered(&mut self, node: NodeId, id: u64, body: Option<&[u8]>) -> bool {
        let Some(group) = self.groups.question_resolved(node, id) else { return false };
        let users = body.and_then(whole_list);
        if !self.groups.listed(node, id, &group, users) && self.engines[&node].online {
            self.ask_members_again(node, &group);
        }
        true
    }

    /// What was said in a group came back. True for none else.
    pub(crate) fn broadcast_bounced(&mut self, node: NodeId, id: u64, to: &[u8], cause: Bounce) -> bool {
        if !self.groups.is_broadcast(node, id) {
            return false;
        }
        let name = String::from_utf8_lossy(to).into_owned();
        let (serial, broadcast) = self.groups.bounced(node, id, Some(&name), |node| self.engines[&node].server);
        let (group, sender, sent_at) = (broadcast.sent.to.clone(), broadcast.sent.sender, broadcast.sent.at);
        if cause == Bounce::NotInGroup {
            let stay = self.groups.membership(node, &group).and_then(|own| own.stay);
            let was_in = stay.is_some_and(|(session, since)| session == sender && since < sent_at);
            assert!(!was_in, "#{serial} bounced NOT_IN_GROUP, whose sender is in {group}");
            self.groups.forgive(serial, |_| true);
        }
        if self.plan.is_calm() && sent_at >= SETTLED_MICROS && cause != Bounce::NotInGroup {
            let was_unsure = self.members.were_unsure_since(sent_at);
            assert!(cause == Bounce::Retry && was_unsure, "#{serial} bounced {cause:?} for {name}, and nothing broke");
        }
        true
    }
}

/// At the end.
impl World {
    /// What a member had to hear and did not has a cause.
    pub(crate) fn check_groups_losses(&self) {
        for (serial, sent, user, node) in self.groups.owed() {
            let mut sent = Sent::new(sent.manner, sent.from.clone(), user, sent.sender, sent.via, sent.at);
            sent.at = sent.at.saturating_sub(LINGER_MICROS);
            let crosses = self.engines[&node].server != sent.via;
            let ways = self.let_in.get(user).cloned().unwrap_or_default();
            let vanished = Vanished { serial, sent: &sent, ways, crosses };
            assert!(self.losses.explain(&vanished), "{user} did not hear #{serial}, and nothing explains it: {sent:?}");
        }
    }

    /// Whoever can says something in each group, and everyone asks who is in it.
    pub(crate) fn call_groups(&mut self) {
        for group in self.plan.groups.clone() {
            let programs: Vec<NodeId> = self.groups.programs_in(&group).map(|(node, _)| node).collect();
            for node in programs.iter().take(2) {
                self.broadcast_once(*node, &group, false, 9);
            }
            programs.iter().for_each(|node| self.ask_members(*node, &group));
            let server = self.any_server();
            self.list_members(server, &group);
            self.broadcast_as_server(server, &group);
        }
    }

    /// Why groups are not at rest, or not what their members take them for.
    pub(crate) fn groups_unrest(&mut self) -> Option<String> {
        if let Some(open) = self.groups.unresolved() {
            return Some(open);
        }
        let mut in_use = 0;
        for group in self.plan.groups.clone() {
            let mut truth: Vec<(u16, String)> = Vec::new();
            for (node, member) in self.groups.programs_in(&group) {
                let engine = &self.engines[&node];
                if member.stay.is_none() || !engine.online {
                    return Some(format!("{} is not in {group} again", member.user));
                }
                truth.push((engine.server as u16, member.user.clone()));
            }
            truth.sort();
            if let Some(fault) = self.compare_group(&group, &truth) {
                return Some(fault);
            }
            in_use += usize::from(!truth.is_empty());
            let all: BTreeSet<&String> = truth.iter().map(|(_, user)| user).collect();
            for (_, member) in self.groups.programs_in(&group) {
                let Some(view) = &member.view.members else {
                    return Some(format!("{} does not know who is in {group}", member.user));
                };
                let seen: BTreeSet<&String> = view.iter().chain([&member.user]).collect();
                if seen != all && !self.losses.lost_an_event() {
                    return Some(format!(
                        "{} takes {seen:?} for the members of {group}, which are {all:?}",
                        member.user
                    ));
                }
            }
        }
        let counted = self.acms().group_count();
        (counted != in_use).then(|| format!("the ACMS keeps {counted} groups, {in_use} are in use"))
    }

    /// The group as the servers and the ACMS have it, against what its members say.
    fn compare_group(&self, group: &str, truth: &[(u16, String)]) -> Option<String> {
        let id = id_of(group);
        let mut here: Vec<(u16, String)> = Vec::new();
        for node in SERVERS {
            let users = self.server(node).members_here(&id).into_iter();
            here.extend(users.map(|user| (node as u16, user.as_str().to_owned())));
        }
        here.sort();
        if here != truth {
            return Some(format!("{group} has {here:?}, and those who take themselves for members are {truth:?}"));
        }
        let servers: BTreeSet<u16> = truth.iter().map(|(server, _)| *server).collect();
        let told: BTreeSet<u16> = self.acms().servers_of_group(&id).into_iter().map(|server| server.0).collect();
        (servers != told).then(|| format!("{group} is on {servers:?}, the ACMS has {told:?}"))
    }
}

fn id_of(group: &str) -> GroupId {
    group.parse().expect("a group id")
}

/// The users of an ANSWER about members, where it names them all.
fn whole_list(body: &[u8]) -> Option<BTreeSet<String>> {
    let answer: serde_json::Value = serde_json::from_slice(body).expect("an ANSWER is JSON");
    if answer["complete"] != true {
        return None;
    }
    let users = answer["users"].as_array().map_or(&[][..], Vec::as_slice);
    Some(users.iter().map(|user| user["user"].as_str().expect("a user id").to_owned()).collect())
}
