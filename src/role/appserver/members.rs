//! Who is in a group, anywhere: asked of each server that has members of it, and put together.

use std::collections::{BTreeMap, VecDeque};

use super::{AppServer, Event};
use crate::buf::Frame;
use crate::id::{ConnId, GroupId, ServerId, UserId};
use crate::limits;
use crate::role::{Drop, Fault, Members, Strained};
use crate::time::Time;
use crate::wire::link::{MembersAsked, MembersTold, ServerMessageId, UserList};
use crate::wire::{Answer, Kind, Located, Outgoing};

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    /// A user, with the id of its ASK.
    User { conn: ConnId, id: u64 },
    /// The application, with a number of its own.
    Application(u64),
}

/// A list that is being put together.
struct Roster {
    asker: Asker,
    group: GroupId,
    members: Members,
    /// Servers that are to answer; none until the ACMS has said how many.
    awaited: Option<u16>,
    told: u16,
}

/// Lists that wait for other servers, by the id of their question: at most [`limits::ROSTERS_MAX`].
#[derive(Default)]
pub(super) struct Rosters {
    open: BTreeMap<u64, Roster>,
    /// When the patience for each ends, oldest first: all have the same.
    ends: VecDeque<(Time, u64)>,
}

impl Rosters {
    pub(super) fn deadline(&self) -> Option<Time> {
        self.ends.front().map(|(ends, _)| *ends)
    }
}

impl Roster {
    fn is_settled(&self) -> bool {
        self.awaited.is_some_and(|awaited| self.told >= awaited)
    }
}

impl AppServer {
    /// Lists that wait for other servers.
    pub fn open_rosters(&self) -> usize {
        self.rosters.open.len()
    }

    /// A user's ASK for the members of a group; only members are told. One at a time.
    pub(super) fn ask_members_from_user(&mut self, now: Time, conn: ConnId, id: u64, group: Option<String>) {
        let asker = Asker::User { conn, id };
        let has_one = |roster: &Roster| matches!(roster.asker, Asker::User { conn: other, .. } if other == conn);
        let error = match group.and_then(|group| group.parse::<GroupId>().ok()) {
            None => "`group` is no id",
            Some(group) if !self.groups.is_member(conn, group.as_bytes()) => "not in this group",
            Some(_) if self.rosters.open.values().any(has_one) => "one question for members at a time",
            Some(group) => return self.ask_members(now, asker, group),
        };
        self.answer(now, conn, id, &Answer { error: Some(error.to_owned()), ..Answer::default() });
    }

    /// Asks who is in a group; the answer is an [`Event::Members`] with `token`.
    pub fn list_members(&mut self, now: Time, token: u64, group: GroupId) {
        self.ask_members(now, Asker::Application(token), group);
        self.close_overwhelmed(now);
    }

    fn ask_members(&mut self, now: Time, asker: Asker, group: GroupId) {
        let own = self.members_here(&group);
        let mut members = Members { complete: true, ..Members::default() };
        own.into_iter().for_each(|user| members.add(user, self.config.server));
        let mut roster = Roster { asker, group, members, awaited: None, told: 0 };
        if self.uplinks.is_empty() {
            return self.settle_roster(now, roster);
        }
        let id = self.next_message();
        let question = Outgoing { id, to: roster.group.as_bytes(), ..Outgoing::of(Kind::GroupMembers) };
        let is_asked = self.rosters.open.len() < limits::ROSTERS_MAX && self.control_up(now, &question);
        if !is_asked {
            roster.members.complete = false;
            return self.settle_roster(now, roster);
        }
        self.rosters.open.insert(id, roster);
        self.rosters.ends.push_back((now + limits::LOOKUP_TIMEOUT, id));
    }

    /// A question of another server's, or how many a question of this server's own went to.
    pub(super) fn members_from_acms(&mut self, now: Time, frame: &Frame<'_>) -> Result<(), Fault> {
        let header = frame.envelope.header;
        if header.kind == Kind::GroupMembersAre {
            return self.members_told(now, frame);
        }
        if ServerMessageId::server(header.id) != self.config.server {
            self.tell_own_members(now, header.id, GroupId::parse(frame.envelope.to)?);
            return Ok(());
        }
        let Some(roster) = self.rosters.open.get_mut(&header.id) else { return Ok(()) };
        let asked = MembersAsked::from_wire(header.info_type);
        roster.awaited = Some(asked.servers);
        roster.members.complete &= asked.complete;
        self.settle_if_told(now, header.id);
        Ok(())
    }

    /// Whoever asks too much of a full link gets no answer, and an incomplete list.
    fn tell_own_members(&mut self, now: Time, id: u64, group: GroupId) {
        let Ok(up) = self.uplink_conn() else { return };
        let mut users = self.members_here(&group);
        let complete = users.len() <= limits::GROUP_MEMBERS_TOLD_MAX;
        users.truncate(limits::GROUP_MEMBERS_TOLD_MAX);
        let body = UserList::encode(&users);
        let info_type = MembersTold { server: self.config.server, complete }.to_wire();
        let from = group.as_bytes();
        let answer = Outgoing { info_type, id, from, body: &body, ..Outgoing::of(Kind::GroupMembersAre) };
        if self.is_congested(up) || self.links.send(now, up, &answer).is_err() {
            self.counters.count_drop(Drop::BounceFull);
        }
    }

    fn members_told(&mut self, now: Time, frame: &Frame<'_>) -> Result<(), Fault> {
        let header = frame.envelope.header;
        let Some(roster) = self.rosters.open.get_mut(&header.id) else { return Ok(()) };
        let told = MembersTold::from_wire(header.info_type);
        roster.told = roster.told.saturating_add(1);
        roster.members.complete &= told.complete;
        roster.members.add_told(told.server, &frame.body())?;
        self.settle_if_told(now, header.id);
        Ok(())
    }

    fn settle_if_told(&mut self, now: Time, id: u64) {
        if self.rosters.open.get(&id).is_some_and(Roster::is_settled)
            && let Some(roster) = self.rosters.open.remove(&id)
        {
            self.settle_roster(now, roster);
        }
    }

    /// Those that waited long enough are answered as far as they are known.
    pub(super) fn expire_rosters(&mut self, now: Time) {
        while let Some((_, id)) = self.rosters.ends.pop_front_if(|(ends, _)| *ends <= now) {
            self.give_up_roster(now, id);
        }
    }

    /// The ACMS will say no more.
    pub(super) fn settle_rosters(&mut self, now: Time) {
        for (_, id) in std::mem::take(&mut self.rosters.ends) {
            self.give_up_roster(now, id);
        }
    }

    fn give_up_roster(&mut self, now: Time, id: u64) {
        if let Some(mut roster) = self.rosters.open.remove(&id) {
            roster.members.complete = false;
            self.settle_roster(now, roster);
        }
    }

    fn settle_roster(&mut self, now: Time, Roster { asker, members, .. }: Roster) {
        match asker {
            Asker::Application(token) => self.events.push_back(Event::Members { token, members }),
            Asker::User { conn, id } => {
                let located = |(user, server): (UserId, ServerId)| Located {
                    user: user.to_string(),
                    online: Some(true),
                    server: Some(server),
                    denied: false,
                };
                let users = members.users.into_iter().map(located).collect();
                self.answer(now, conn, id, &Answer { users, complete: Some(members.complete), ..Answer::default() });
            }
        }
    }
}
