//! Groups: who of this server's users is in which, and the way of what is said to one.
//!
//! A server knows its own members by name; of the others it knows nothing, and sends once up what is for all. What comes
//! to a member's queue is a part of the same bytes for each.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;

use super::{AppServer, Event, Origin};
use crate::buf::{Frame, Shared};
use crate::id::{ConnId, GroupId, UserId, check_id};
use crate::limits;
use crate::link::Pause;
use crate::role::{Drop, Entropy, Fault, Strained};
use crate::time::Time;
use crate::wire::{Bounce, CloseCode, Envelope, Flags, GROUP_EVENT_MISSED, GroupChange, Kind, Outgoing};

/// Groups with members on this server.
pub(super) struct Groups {
    /// Each with its members here, never none: at most [`limits::GROUPS_OF_SERVER_MAX`].
    members: HashMap<GroupId, BTreeSet<ConnId>, ahash::RandomState>,
    /// The same the other way round: at most [`limits::GROUPS_OF_USER_MAX`] each.
    groups: HashMap<ConnId, BTreeSet<GroupId>, ahash::RandomState>,
    /// Joins that the application looks at, with their ids; they count as memberships.
    asked: HashMap<ConnId, BTreeMap<GroupId, u64>, ahash::RandomState>,
    /// Members that what a client said went to and that it was not charged for.
    fan_out: u64,
    /// Copies for members in the turn that began then.
    turn: (Time, u64),
}

/// A user who wants into a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinRef {
    /// Its connection.
    pub conn: ConnId,
    /// Who it is.
    pub user: UserId,
    /// The group.
    pub group: GroupId,
}

impl Groups {
    pub(super) fn new(entropy: &mut Entropy) -> Groups {
        Groups {
            members: HashMap::with_hasher(entropy.hasher()),
            groups: HashMap::with_hasher(entropy.hasher()),
            asked: HashMap::with_hasher(entropy.hasher()),
            fan_out: 0,
            turn: (Time::ZERO, 0),
        }
    }

    pub(super) fn is_member(&self, conn: ConnId, group: &[u8]) -> bool {
        self.members.get(group).is_some_and(|members| members.contains(&conn))
    }

    /// The members that are here, in a fixed order.
    pub(super) fn members(&self, group: &[u8]) -> impl Iterator<Item = ConnId> {
        self.members.get(group).into_iter().flatten().copied()
    }

    /// Whether the user may be in one group more.
    pub(super) fn has_room(&self, conn: ConnId, group: &GroupId) -> bool {
        let is_new = !self.members.contains_key(group.as_bytes());
        let of_user = self.groups.get(&conn).map_or(0, BTreeSet::len) + self.asked.get(&conn).map_or(0, BTreeMap::len);
        of_user < limits::GROUPS_OF_USER_MAX && !(is_new && self.members.len() >= limits::GROUPS_OF_SERVER_MAX)
    }

    /// One member more. Whether it is the group's first here.
    fn insert(&mut self, conn: ConnId, group: &GroupId) -> bool {
        self.groups.entry(conn).or_default().insert(group.clone());
        let members = self.members.entry(group.clone()).or_default();
        members.insert(conn);
        members.len() == 1
    }

    /// One member less. Whether it was the group's last here.
    fn remove(&mut self, conn: ConnId, group: &GroupId) -> bool {
        if let Some(groups) = self.groups.get_mut(&conn) {
            groups.remove(group);
            if groups.is_empty() {
                self.groups.remove(&conn);
            }
        }
        let Some(members) = self.members.get_mut(group) else { return false };
        members.remove(&conn);
        let is_last = members.is_empty();
        if is_last {
            self.members.remove(group);
        }
        is_last
    }

    /// Takes back that the application was asked; the id of the join.
    fn take_asked(&mut self, conn: ConnId, group: &GroupId) -> Option<u64> {
        let asked = self.asked.get_mut(&conn)?;
        let id = asked.remove(group);
        if asked.is_empty() {
            self.asked.remove(&conn);
        }
        id
    }

    /// All groups, those with the smallest names last.
    pub(super) fn list(&self) -> Vec<GroupId> {
        let mut list: Vec<GroupId> = self.members.keys().cloned().collect();
        list.sort_unstable_by(|one, other| other.cmp(one));
        list
    }

    /// Whether this turn has had as many copies for members as one may have.
    fn is_spent(&self, now: Time) -> bool {
        self.turn.0 == now && self.turn.1 >= limits::FAN_OUT_PER_TURN
    }

    fn note_copies(&mut self, now: Time, copies: u64) {
        let earlier = if self.turn.0 == now { self.turn.1 } else { 0 };
        self.turn = (now, earlier + copies);
    }

    /// What the fan-out since it was last asked costs the client that caused it, in messages.
    pub(super) fn take_charge(&mut self) -> u64 {
        std::mem::take(&mut self.fan_out) / limits::FAN_OUT_PER_MESSAGE
    }
}

/// Coming and going.
impl AppServer {
    /// Groups with members on this server.
    pub fn group_count(&self) -> usize {
        self.groups.members.len()
    }

    /// The group's members on this server, sorted.
    pub fn members_here(&self, group: &GroupId) -> Vec<UserId> {
        let users = self.groups.members(group.as_bytes()).filter_map(|conn| self.links.get(conn)?.peer.user().cloned());
        let mut users: Vec<UserId> = users.collect();
        users.sort_unstable();
        users
    }

    /// Joins that the application looks at.
    pub fn open_joins(&self) -> usize {
        self.groups.asked.values().map(BTreeMap::len).sum()
    }

    pub(super) fn frame_to_group(&mut self, now: Time, conn: ConnId, frame: &mut Frame<'_>) -> Result<(), Fault> {
        let Envelope { header, to, .. } = frame.envelope;
        match header.kind {
            Kind::GroupJoin => self.join(now, conn, frame),
            Kind::GroupLeave => self.leave_at_will(now, conn, GroupId::parse(to)?, header.id),
            _ => self.say_to_group(now, conn, frame),
        }
    }

    fn join(&mut self, now: Time, conn: ConnId, frame: &Frame<'_>) -> Result<(), Fault> {
        let (group, id) = (GroupId::parse(frame.envelope.to)?, frame.envelope.header.id);
        let user = frame.envelope.from_user()?;
        if self.groups.is_member(conn, group.as_bytes()) {
            return self.confirm_change(now, conn, &user, &group, GroupChange::Joined, id);
        }
        let is_asked = self.groups.asked.get(&conn).is_some_and(|asked| asked.contains_key(&group));
        if is_asked || !self.groups.has_room(conn, &group) {
            self.bounce(now, Origin::Client(conn), &frame.envelope, Bounce::Busy);
            return Ok(());
        }
        if !self.config.asks_joins {
            return self.enter(now, conn, &user, &group, id);
        }
        self.groups.asked.entry(conn).or_default().insert(group.clone(), id);
        self.events.push_back(Event::JoinAsked(JoinRef { conn, user, group }));
        Ok(())
    }

    /// What the application says to an [`Event::JoinAsked`]: in, or not and why. Nothing happens where that connection has
    /// ended, or has thought better of it.
    pub fn join_verdict(&mut self, now: Time, join: &JoinRef, verdict: Result<(), Bounce>) {
        let JoinRef { conn, user, group } = join;
        let Some(id) = self.groups.take_asked(*conn, group) else { return };
        // Server code may have put it in meanwhile, or filled its place.
        let is_in = self.groups.is_member(*conn, group.as_bytes());
        let verdict = match verdict {
            Ok(()) if !is_in && !self.groups.has_room(*conn, group) => Err(Bounce::Busy),
            verdict => verdict,
        };
        let entered = match verdict {
            Ok(()) if is_in => self.confirm_change(now, *conn, user, group, GroupChange::Joined, id),
            Ok(()) => self.enter(now, *conn, user, group, id),
            Err(cause) => {
                self.refuse_join(now, join, id, cause);
                Ok(())
            }
        };
        if let Err(fault) = entered {
            self.close(now, *conn, &fault);
        }
        self.close_overwhelmed(now);
    }

    fn refuse_join(&mut self, now: Time, JoinRef { conn, user, group }: &JoinRef, id: u64, cause: Bounce) {
        self.counters.count_bounce(cause);
        let bounce = Outgoing::bounce(cause, id, user.as_bytes(), group.as_bytes());
        if self.links.send_control(now, *conn, &bounce).is_err() {
            self.counters.count_drop(Drop::BounceFull);
        }
    }

    fn leave_at_will(&mut self, now: Time, conn: ConnId, group: GroupId, id: u64) -> Result<(), Fault> {
        let Some(user) = self.links.get(conn).and_then(|link| link.peer.user()).cloned() else { return Ok(()) };
        if let Some(join) = self.groups.take_asked(conn, &group) {
            let asked = JoinRef { conn, user: user.clone(), group: group.clone() };
            self.refuse_join(now, &asked, join, Bounce::NotInGroup);
        }
        if self.groups.is_member(conn, group.as_bytes()) {
            return self.exit(now, conn, &user, &group, id);
        }
        self.confirm_change(now, conn, &user, &group, GroupChange::Left, id)
    }

    pub(super) fn enter(
        &mut self,
        now: Time,
        conn: ConnId,
        user: &UserId,
        group: &GroupId,
        id: u64,
    ) -> Result<(), Fault> {
        if self.groups.insert(conn, group) {
            self.tell_group(now, group);
        }
        self.confirm_change(now, conn, user, group, GroupChange::Joined, id)?;
        self.tell_change(now, conn, user, group, GroupChange::Joined);
        Ok(())
    }

    pub(super) fn exit(
        &mut self,
        now: Time,
        conn: ConnId,
        user: &UserId,
        group: &GroupId,
        id: u64,
    ) -> Result<(), Fault> {
        self.take_out(now, conn, user, group, GroupChange::Left);
        self.confirm_change(now, conn, user, group, GroupChange::Left, id)
    }

    fn take_out(&mut self, now: Time, conn: ConnId, user: &UserId, group: &GroupId, change: GroupChange) {
        let is_last = self.groups.remove(conn, group);
        self.tell_change(now, conn, user, group, change);
        if is_last {
            self.control_up(now, &Outgoing { to: group.as_bytes(), ..Outgoing::of(Kind::GroupOff) });
        }
    }

    /// The session of a member has ended.
    pub(super) fn leave_groups(&mut self, now: Time, conn: ConnId, user: &UserId) {
        self.groups.asked.remove(&conn);
        let Some(groups) = self.groups.groups.get(&conn).cloned() else { return };
        for group in groups {
            self.take_out(now, conn, user, &group, GroupChange::Offline);
        }
    }

    /// Tells a user of its own membership: what it is told must be true, so one that has no room for it is closed.
    fn confirm_change(
        &mut self,
        now: Time,
        conn: ConnId,
        user: &UserId,
        group: &GroupId,
        change: GroupChange,
        id: u64,
    ) -> Result<(), Fault> {
        let event = Outgoing { id, ..event_of(user.as_bytes(), group, change) };
        self.links.send_control(now, conn, &event).map_err(|_| Fault::new(CloseCode::SLOW, "no room for a GROUP_EVENT"))
    }

    /// Tells all other members, here and elsewhere. A server that stops tells nobody: each of its connections is closed, and
    /// the ACMS tells the others that it is gone.
    fn tell_change(&mut self, now: Time, conn: ConnId, user: &UserId, group: &GroupId, change: GroupChange) {
        if self.is_stopping() {
            return;
        }
        let event = event_of(user.as_bytes(), group, change);
        self.tell_members(now, group.as_bytes(), Some(conn), &Shared::encode(&event));
        self.event_up(now, Some(conn), &event);
    }

    /// An event for the members elsewhere. Whoever causes many is not read from while they wait.
    fn event_up(&mut self, now: Time, cause: Option<ConnId>, event: &Outgoing<'_>) {
        let Ok(up) = self.uplink_conn() else { return };
        if self.links.send(now, up, event).is_err() {
            self.counters.count_drop(Drop::BounceFull);
        }
        if let Some(conn) = cause
            && self.is_congested(up)
        {
            self.wait_for_uplink(conn, up);
        }
    }

    /// An event for the members that are here; those of a large group are told of none.
    fn tell_members(&mut self, now: Time, group: &[u8], except: Option<ConnId>, event: &Shared) {
        let Some(members) = self.groups.members.get(group) else { return };
        if members.len() > limits::GROUP_EVENT_MEMBERS_MAX {
            return;
        }
        for &member in members.iter().filter(|member| Some(**member) != except) {
            if self.links.share(now, member, event).is_err() {
                self.counters.count_drop(Drop::BounceFull);
            }
        }
    }
}

/// What is said to a group.
impl AppServer {
    fn say_to_group(&mut self, now: Time, conn: ConnId, frame: &mut Frame<'_>) -> Result<(), Fault> {
        let envelope = frame.envelope;
        check_id(envelope.to)?;
        if !self.groups.is_member(conn, envelope.to) {
            self.bounce(now, Origin::Client(conn), &envelope, Bounce::NotInGroup);
            return Ok(());
        }
        if self.groups.is_spent(now) {
            self.put_off(now, Origin::Client(conn), &envelope);
            return Ok(());
        }
        let shared = frame.share();
        self.groups.fan_out += self.fan_out(now, Some(Origin::Client(conn)), &envelope, Some(conn), &shared);
        if !self.uplinks.is_empty()
            && let Err(cause) = self.route_up(now, conn, frame)
        {
            self.bounce(now, Origin::Client(conn), &envelope, cause);
        }
        Ok(())
    }

    /// Says something to a group in the server's own name. The id is that of an [`Event::Bounced`] for each member that it
    /// did not reach, and of one in the group's name where members on some other server, or all of them, may lack it.
    ///
    /// # Errors
    /// It is too big; or [`Bounce::Busy`], where this turn has had [`limits::FAN_OUT_PER_TURN`].
    pub fn broadcast(
        &mut self,
        now: Time,
        group: &GroupId,
        flags: Flags,
        info_type: u32,
        body: &[u8],
    ) -> Result<u64, Bounce> {
        let id = self.next_message();
        self.broadcast_as(now, id, group, flags, info_type, body)?;
        Ok(id)
    }

    /// As [`AppServer::broadcast`], with an id of a number that [`AppServer::reserve_numbers`] gave, used once.
    pub fn broadcast_as(
        &mut self,
        now: Time,
        id: u64,
        group: &GroupId,
        flags: Flags,
        info_type: u32,
        body: &[u8],
    ) -> Result<(), Bounce> {
        let to = group.as_bytes();
        let frame = Outgoing { kind: Kind::GroupData, flags, info_type, id, to, from: &[], body };
        if frame.wire_bytes() - limits::LENGTH_BYTES > self.config.max_frame {
            return Err(Bounce::TooBig);
        }
        if self.groups.is_spent(now) {
            return Err(Bounce::Busy);
        }
        let shared = Shared::encode(&frame);
        let envelope = Envelope::parse(shared.as_bytes()).ok().flatten().expect("it was just encoded");
        self.fan_out(now, None, &envelope, None, &shared);
        if !self.uplinks.is_empty()
            && let Err(cause) = self.share_up(now, flags, &shared)
        {
            self.events.push_back(Event::Bounced { id, to: to.to_vec(), cause });
        }
        Ok(())
    }

    fn share_up(&mut self, now: Time, flags: Flags, shared: &Shared) -> Result<(), Bounce> {
        let up = self.uplink_conn()?;
        if flags.has(Flags::DROPPABLE) && self.is_congested(up) {
            self.counters.count_drop(Drop::Droppable);
            return Ok(());
        }
        self.links.share(now, up, shared).map(drop).map_err(|_| Bounce::Busy)
    }

    /// What is said to a group in a turn that is spent.
    fn put_off(&mut self, now: Time, origin: Origin, envelope: &Envelope<'_>) {
        if envelope.header.flags.has(Flags::DROPPABLE) {
            self.counters.count_drop(Drop::Droppable);
        } else {
            self.bounce(now, origin, envelope, Bounce::Busy);
        }
    }

    /// Puts a frame into the queue of each member that is here, but for `except`; a BOUNCE in its name goes back for each
    /// that has no room. Returns how many have it. No member waits for another, and nobody is paused for one.
    fn fan_out(
        &mut self,
        now: Time,
        origin: Option<Origin>,
        envelope: &Envelope<'_>,
        except: Option<ConnId>,
        shared: &Shared,
    ) -> u64 {
        let Some(members) = self.groups.members.get(envelope.to) else { return 0 };
        let is_droppable = envelope.header.flags.has(Flags::DROPPABLE);
        let is_too_big = shared.wire_bytes() > limits::LENGTH_BYTES + self.config.max_frame;
        let mut reached = 0;
        let mut missed = Vec::new();
        for &member in members.iter().filter(|member| Some(**member) != except) {
            let Some(link) = self.links.get(member) else { continue };
            if is_droppable && link.queue().is_congested() {
                self.counters.count_drop(Drop::Droppable);
                continue;
            }
            let shared = match (is_too_big, self.has_memory_for(shared.wire_bytes())) {
                (true, _) => Err(Bounce::TooBig),
                (false, false) => Err(Bounce::Busy),
                (false, true) => self.links.share(now, member, shared).map_err(|_| Bounce::Busy),
            };
            match shared.map(|link| link.queue().is_congested()) {
                Ok(is_congested) => {
                    reached += 1;
                    if is_congested {
                        self.links.pause(member, Pause::Congested);
                    }
                }
                Err(cause) => missed.push((member, cause)),
            }
        }
        self.groups.note_copies(now, reached);
        self.counters.forwarded += reached;
        self.counters.forwarded_bytes += reached * shared.wire_bytes() as u64;
        for (member, cause) in missed {
            self.bounce_for_member(now, origin, envelope, member, cause);
        }
        reached
    }

    /// Tells the sender that one member does not have its message. On the link such bounces have no reserve: they may be as
    /// many as there are members.
    fn bounce_for_member(
        &mut self,
        now: Time,
        origin: Option<Origin>,
        envelope: &Envelope<'_>,
        member: ConnId,
        cause: Bounce,
    ) {
        self.counters.count_bounce(cause);
        let Some(user) = self.links.get(member).and_then(|link| link.peer.user()).cloned() else { return };
        let bounce = Outgoing::bounce(cause, envelope.header.id, envelope.from, user.as_bytes());
        let is_sent = match origin {
            Some(Origin::Client(conn)) => self.links.send_control(now, conn, &bounce).is_ok(),
            Some(Origin::Acms(_)) => self.uplink_conn().is_ok_and(|up| self.links.send(now, up, &bounce).is_ok()),
            None => {
                let to = user.as_bytes().to_vec();
                self.events.push_back(Event::Bounced { id: envelope.header.id, to, cause });
                true
            }
        };
        if !is_sent {
            self.counters.count_drop(Drop::BounceFull);
        }
    }
}

/// What comes from other servers.
impl AppServer {
    pub(super) fn group_from_acms(&mut self, now: Time, place: usize, frame: &mut Frame<'_>) -> Result<(), Fault> {
        let envelope = frame.envelope;
        match envelope.header.kind {
            Kind::GroupData if self.groups.is_spent(now) => self.put_off(now, Origin::Acms(place), &envelope),
            Kind::GroupData => {
                let shared = frame.share();
                let sender = self.users.get(envelope.from).copied();
                self.fan_out(now, Some(Origin::Acms(place)), &envelope, sender, &shared);
            }
            Kind::GroupEvent => self.event_from_acms(now, frame),
            Kind::GroupEdit => self.edit_from_acms(now, frame)?,
            kind => return Err(Fault::unexpected(kind)),
        }
        Ok(())
    }

    /// A member elsewhere came or went. One that is in here is in, whatever became of its session elsewhere, and those who
    /// heard otherwise are told so.
    fn event_from_acms(&mut self, now: Time, frame: &mut Frame<'_>) {
        let Envelope { header, to, from } = frame.envelope;
        let own = self.users.get(from).copied().filter(|conn| self.groups.is_member(*conn, to));
        match (own, GroupChange::from_wire(header.info_type)) {
            (Some(_), Some(GroupChange::Left | GroupChange::Offline)) => {
                let info_type = GroupChange::Joined.to_wire();
                self.event_up(now, None, &Outgoing { info_type, to, from, ..Outgoing::of(Kind::GroupEvent) });
            }
            (own, Some(_)) => self.tell_members(now, to, own, &frame.share()),
            (_, None) if header.info_type == GROUP_EVENT_MISSED && from.is_empty() => {
                self.tell_members(now, to, None, &frame.share());
            }
            (_, None) => {}
        }
    }
}

/// What the link's burst tells of.
impl AppServer {
    /// Tells the members that are here that those elsewhere may have come and gone while the ACMS did not pass it on.
    pub(super) fn tell_missed(&mut self, now: Time, group: &GroupId) {
        let to = group.as_bytes();
        let event = Outgoing { info_type: GROUP_EVENT_MISSED, to, ..Outgoing::of(Kind::GroupEvent) };
        self.tell_members(now, to, None, &Shared::encode(&event));
    }

    /// Tells the ACMS that a group has members here, if it still has.
    pub(super) fn tell_group(&mut self, now: Time, group: &GroupId) {
        if self.groups.members.contains_key(group) {
            self.control_up(now, &Outgoing { to: group.as_bytes(), ..Outgoing::of(Kind::GroupOn) });
        }
    }
}

fn event_of<'a>(user: &'a [u8], group: &'a GroupId, change: GroupChange) -> Outgoing<'a> {
    Outgoing { info_type: change.to_wire(), to: group.as_bytes(), from: user, ..Outgoing::of(Kind::GroupEvent) }
}
