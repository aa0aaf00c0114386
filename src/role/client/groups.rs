//! Groups that the user is in, and is in again after a lost connection.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::messages::message_of;
use super::{Client, Event, JoinFailure, Phase, SendError, TRACKED};
use crate::buf::Frame;
use crate::id::{ConnId, GroupId, UserId};
use crate::limits;
use crate::role::Fault;
use crate::time::Time;
use crate::wire::{Bounce, CloseCode, Envelope, Flags, GROUP_EVENT_MISSED, GroupChange, Kind, Outgoing};

/// What the application wants to be in: at most [`limits::GROUPS_OF_USER_MAX`].
#[derive(Default)]
pub(super) struct Groups {
    wishes: BTreeMap<GroupId, Wish>,
    /// When the application's joins are given up, oldest first: all have the same patience.
    ends: VecDeque<(Time, u64, GroupId)>,
    /// Those left while there was no room to say so.
    leaving: BTreeSet<GroupId>,
    /// When these say so, and those that were turned away for a while ask again.
    again: Option<Time>,
}

#[derive(Default)]
struct Wish {
    /// The id of the last GROUP_JOIN; 0 for none.
    asked: u64,
    /// The application's joins that are not resolved.
    waiting: Vec<u64>,
    /// Whether this session is in.
    is_in: bool,
    /// Whether the application takes itself for a member, over lost connections.
    is_told: bool,
}

impl Groups {
    pub(super) fn deadline(&self) -> Option<Time> {
        self.ends.front().map(|(ends, ..)| *ends).into_iter().chain(self.again).min()
    }

    /// The session has ended.
    pub(super) fn interrupt(&mut self) {
        self.wishes.values_mut().for_each(|wish| wish.is_in = false);
        self.leaving.clear();
        self.again = None;
    }
}

/// What the application does.
impl Client {
    /// Into a group, and in again after each lost connection: resolved once, as an [`Event::Joined`] with the id. Waits for a
    /// connection where there is none.
    pub fn join(&mut self, now: Time, group: &GroupId) -> Result<u64, SendError> {
        if matches!(self.phase, Phase::Stopped) {
            return Err(SendError::Stopped);
        }
        let is_known = self.groups.wishes.contains_key(group);
        let is_full = !is_known && self.groups.wishes.len() >= limits::GROUPS_OF_USER_MAX;
        if is_full || self.groups.ends.len() >= limits::ACKED_PENDING_MAX {
            return Err(SendError::Full);
        }
        let id = self.take_id() | TRACKED;
        let wish = self.groups.wishes.entry(group.clone()).or_default();
        if wish.is_in {
            self.events.push_back(Event::Joined { id, outcome: Ok(()) });
            return Ok(id);
        }
        wish.waiting.push(id);
        self.groups.ends.push_back((now + limits::ACKED_DEADLINE, id, group.clone()));
        if !is_known {
            self.ask_to_join(now, group);
        }
        Ok(id)
    }

    /// Out of a group; nothing that is said in it is handed over any more.
    pub fn leave(&mut self, now: Time, group: &GroupId) -> Result<(), SendError> {
        if matches!(self.phase, Phase::Stopped) {
            return Err(SendError::Stopped);
        }
        self.say_left(now, group);
        if let Some(wish) = self.groups.wishes.remove(group) {
            self.resolve_joins(wish.waiting, &Err(JoinFailure::Refused(Bounce::NotInGroup)));
        }
        Ok(())
    }

    fn say_left(&mut self, now: Time, group: &GroupId) {
        if self.put(now, Kind::GroupLeave, Flags::NONE, 0, 0, group.as_bytes(), &[]) == Err(SendError::Full) {
            self.groups.leaving.insert(group.clone());
            self.groups.again = Some(now + limits::JOIN_PAUSE);
        }
    }

    /// Says something to the other members of a group, at most once. What comes back does so as [`Event::Bounced`] with
    /// the id: in a member's name where one did not get it, in the group's where no one elsewhere did, or nobody.
    pub fn broadcast(
        &mut self,
        now: Time,
        group: &GroupId,
        flags: Flags,
        info_type: u32,
        body: &[u8],
    ) -> Result<u64, SendError> {
        let id = self.take_id();
        self.broadcast_as(now, id, group, flags, info_type, body)?;
        Ok(id)
    }

    /// As [`Client::broadcast`], with an id out of a range that [`Client::reserve_ids`] gave, used once.
    pub fn broadcast_as(
        &mut self,
        now: Time,
        id: u64,
        group: &GroupId,
        flags: Flags,
        info_type: u32,
        body: &[u8],
    ) -> Result<(), SendError> {
        self.put(now, Kind::GroupData, flags, info_type, id, group.as_bytes(), body)
    }

    /// The groups that the application wants to be in, and whether this session is.
    pub fn groups(&self) -> impl Iterator<Item = (&GroupId, bool)> {
        self.groups.wishes.iter().map(|(group, wish)| (group, wish.is_in))
    }
}

/// What comes.
impl Client {
    /// Asks for all groups, once there is a session.
    pub(super) fn join_again(&mut self, now: Time) {
        let wanted = self.groups.wishes.iter().filter(|(_, wish)| !wish.is_in);
        for group in wanted.map(|(group, _)| group.clone()).collect::<Vec<_>>() {
            self.ask_to_join(now, &group);
        }
    }

    fn ask_to_join(&mut self, now: Time, group: &GroupId) {
        let id = self.take_id() | TRACKED;
        self.groups.leaving.remove(group);
        match self.put(now, Kind::GroupJoin, Flags::NONE, 0, id, group.as_bytes(), &[]) {
            Ok(()) => {
                if let Some(wish) = self.groups.wishes.get_mut(group) {
                    wish.asked = id;
                }
            }
            Err(SendError::Full) => self.groups.again = Some(now + limits::JOIN_PAUSE),
            // There will be a session, or there is none any more.
            Err(SendError::NotConnected | SendError::Stopped | SendError::TooBig) => {}
        }
    }

    pub(super) fn said_to_group(&mut self, now: Time, conn: ConnId, frame: &Frame<'_>) -> Result<(), Fault> {
        let group = GroupId::parse(frame.envelope.to)?;
        let message = message_of(frame)?;
        if self.groups.wishes.get(&group).is_none_or(|wish| !wish.is_in) {
            return Ok(());
        }
        if message.flags.has(Flags::WANT_ACK) {
            let (to, from) = (frame.envelope.from, self.config.user.as_bytes());
            let ack = Outgoing { id: message.id, to, from, ..Outgoing::of(Kind::Ack) };
            self.links.send_control(now, conn, &ack).map_err(|_| Fault::new(CloseCode::SLOW, "no room for an ACK"))?;
        }
        self.events.push_back(Event::GroupMessage { group, message });
        Ok(())
    }

    pub(super) fn group_changed(&mut self, envelope: &Envelope<'_>) -> Result<(), Fault> {
        let Envelope { header, to, from } = *envelope;
        let group = GroupId::parse(to)?;
        let Some(change) = GroupChange::from_wire(header.info_type) else {
            let is_in = self.groups.wishes.get(&group).is_some_and(|wish| wish.is_in);
            if header.info_type == GROUP_EVENT_MISSED && is_in {
                self.events.push_back(Event::MembersMissed(group));
            }
            return Ok(());
        };
        let user = UserId::parse(from)?;
        if user == self.config.user {
            self.changed_itself(group, change);
        } else if self.groups.wishes.get(&group).is_some_and(|wish| wish.is_in) {
            self.events.push_back(Event::Member { group, user, change });
        }
        Ok(())
    }

    /// The user is in, by its own wish or by server code's; or it was taken out. After a lost connection the application has
    /// not heard of others meanwhile.
    fn changed_itself(&mut self, group: GroupId, change: GroupChange) {
        let user = self.config.user.clone();
        let is_known = self.groups.wishes.contains_key(&group);
        match change {
            GroupChange::Joined => {
                if !is_known && self.groups.wishes.len() >= limits::GROUPS_OF_USER_MAX {
                    return;
                }
                let wish = self.groups.wishes.entry(group.clone()).or_default();
                if std::mem::replace(&mut wish.is_in, true) {
                    return;
                }
                let (waiting, was_told) =
                    (std::mem::take(&mut wish.waiting), std::mem::replace(&mut wish.is_told, true));
                if was_told {
                    self.events.push_back(Event::MembersMissed(group));
                } else if waiting.is_empty() {
                    self.events.push_back(Event::Member { group, user, change });
                }
                self.resolve_joins(waiting, &Ok(()));
            }
            // The answer to a leave comes when there is no wish, or a newer one that is not answered.
            GroupChange::Left => {
                if self.groups.wishes.get(&group).is_some_and(|wish| wish.is_in) {
                    self.groups.wishes.remove(&group);
                    self.events.push_back(Event::Member { group, user, change });
                }
            }
            GroupChange::Offline => {}
        }
    }

    /// Whether the BOUNCE was that of a join. One that was in before asks again where that may help.
    pub(super) fn join_bounced(&mut self, now: Time, id: u64, cause: Bounce) -> bool {
        let Some((group, _)) = self.groups.wishes.iter().find(|(_, wish)| wish.asked == id) else { return false };
        let group = group.clone();
        let Some(wish) = self.groups.wishes.get_mut(&group).filter(|wish| !wish.is_in) else { return true };
        let passes = matches!(cause, Bounce::Unreachable | Bounce::Retry | Bounce::Busy);
        let waiting = std::mem::take(&mut wish.waiting);
        if wish.is_told && passes {
            self.groups.again = Some(now + limits::JOIN_PAUSE);
        } else if let Some(Wish { is_told: true, .. }) = self.groups.wishes.remove(&group) {
            let user = self.config.user.clone();
            self.events.push_back(Event::Member { group, user, change: GroupChange::Left });
        }
        self.resolve_joins(waiting, &Err(JoinFailure::Refused(cause)));
        true
    }

    fn resolve_joins(&mut self, joins: Vec<u64>, outcome: &Result<(), JoinFailure>) {
        for id in joins {
            self.groups.ends.retain(|(_, at, _)| *at != id);
            self.events.push_back(Event::Joined { id, outcome: outcome.clone() });
        }
    }

    pub(super) fn expire_joins(&mut self, now: Time) {
        while let Some((_, id, group)) = self.groups.ends.pop_front_if(|(ends, ..)| *ends <= now) {
            let Some(wish) = self.groups.wishes.get_mut(&group) else { continue };
            wish.waiting.retain(|at| *at != id);
            if wish.waiting.is_empty() && !wish.is_told {
                self.groups.wishes.remove(&group);
                // It may come to be in after all, and nobody would know.
                self.say_left(now, &group);
            }
            self.events.push_back(Event::Joined { id, outcome: Err(JoinFailure::TimedOut) });
        }
        if self.groups.again.take_if(|at| *at <= now).is_some() {
            for group in std::mem::take(&mut self.groups.leaving) {
                self.say_left(now, &group);
            }
            self.join_again(now);
        }
    }

    pub(super) fn fail_joins(&mut self, code: CloseCode) {
        let Groups { ends, .. } = std::mem::take(&mut self.groups);
        for (_, id, _) in ends {
            self.events.push_back(Event::Joined { id, outcome: Err(JoinFailure::Stopped(code)) });
        }
    }
}
