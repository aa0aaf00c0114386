//! Which servers have members of which group, and the way of what is said to one: once to each of them.

use std::collections::BTreeSet;

use hashbrown::HashMap;

use super::Acms;
use crate::buf::Frame;
use crate::id::{ConnId, GroupId, ServerId};
use crate::limits;
use crate::role::{Drop, Entropy, Fault};
use crate::time::Time;
use crate::wire::link::{MembersAsked, ServerMessageId};
use crate::wire::{Bounce, CloseCode, Envelope, GROUP_EVENT_MISSED, GroupChange, Kind, Outgoing};

/// Groups by the places of the servers that have members of them. Who these are the servers know alone.
pub(super) struct Groups {
    servers: HashMap<GroupId, BTreeSet<u32>, ahash::RandomState>,
    /// The same the other way round: at most [`limits::GROUPS_OF_SERVER_MAX`] a server.
    groups: HashMap<u32, BTreeSet<GroupId>, ahash::RandomState>,
    /// Room for the places that a frame goes to.
    targets: Vec<u32>,
}

impl Groups {
    pub(super) fn new(entropy: &mut Entropy) -> Groups {
        Groups {
            servers: HashMap::with_hasher(entropy.hasher()),
            groups: HashMap::with_hasher(entropy.hasher()),
            targets: Vec::new(),
        }
    }

    /// Groups with a member anywhere.
    pub(super) fn count(&self) -> usize {
        self.servers.len()
    }

    /// Whether the server may tell of this group: of one that it has told of before at any time.
    fn has_room(&self, place: u32, group: &GroupId) -> bool {
        self.groups
            .get(&place)
            .is_none_or(|groups| groups.len() < limits::GROUPS_OF_SERVER_MAX || groups.contains(group))
    }

    fn add(&mut self, place: u32, group: GroupId) {
        self.servers.entry(group.clone()).or_default().insert(place);
        self.groups.entry(place).or_default().insert(group);
    }

    fn remove(&mut self, place: u32, group: &[u8]) {
        if let Some(groups) = self.groups.get_mut(&place) {
            groups.remove(group);
        }
        self.take_out(place, group);
    }

    fn take_out(&mut self, place: u32, group: &[u8]) {
        let Some(servers) = self.servers.get_mut(group) else { return };
        servers.remove(&place);
        if servers.is_empty() {
            self.servers.remove(group);
        }
    }

    /// Forgets all of a server's groups; returns them.
    pub(super) fn tenure_ended(&mut self, place: u32) -> BTreeSet<GroupId> {
        let groups = self.groups.remove(&place).unwrap_or_default();
        groups.iter().for_each(|group| self.take_out(place, group.as_bytes()));
        groups
    }

    /// The servers with members of the group, but for that one, in a fixed order.
    fn others(&self, group: &[u8], place: Option<u32>) -> impl Iterator<Item = u32> {
        let servers = self.servers.get(group).into_iter().flatten().copied();
        servers.filter(move |other| Some(*other) != place)
    }
}

impl Acms {
    /// The servers with members of the group.
    pub fn servers_of_group(&self, group: &GroupId) -> Vec<ServerId> {
        self.groups.others(group.as_bytes(), None).map(|place| self.servers[place as usize].id).collect()
    }

    /// Groups with a member on any server.
    pub fn group_count(&self) -> usize {
        self.groups.count()
    }

    pub(super) fn frame_of_groups(
        &mut self,
        now: Time,
        conn: ConnId,
        place: u32,
        frame: &mut Frame<'_>,
    ) -> Result<(), Fault> {
        let to = frame.envelope.to;
        match frame.envelope.header.kind {
            Kind::GroupOn => self.group_on(now, place, GroupId::parse(to)?)?,
            Kind::GroupOff => self.groups.remove(place, to),
            Kind::GroupData => self.relay_to_group(now, place, frame),
            Kind::GroupEvent => self.relay_event(now, place, frame),
            Kind::GroupEdit => self.relay_edit(now, conn, frame),
            Kind::GroupMembers => self.ask_members(now, conn, place, frame),
            Kind::GroupMembersAre => self.relay_members(now, place, frame)?,
            kind => return Err(Fault::unexpected(kind)),
        }
        Ok(())
    }

    fn group_on(&mut self, now: Time, place: u32, group: GroupId) -> Result<(), Fault> {
        if !self.groups.has_room(place, &group) {
            return Err(Fault::new(CloseCode::PROTOCOL, "more groups than a server has"));
        }
        // Its members there came, or went, unheard of by those elsewhere.
        if !self.servers[place as usize].synced {
            self.tell_missed(now, place, &group);
        }
        self.groups.add(place, group);
        Ok(())
    }

    /// Members elsewhere cannot know what became of those on this server.
    pub(super) fn tell_missed(&mut self, now: Time, place: u32, group: &GroupId) {
        let event = Outgoing { info_type: GROUP_EVENT_MISSED, to: group.as_bytes(), ..Outgoing::of(Kind::GroupEvent) };
        for other in self.groups.others(group.as_bytes(), Some(place)).collect::<Vec<_>>() {
            let conn = self.servers[other as usize].conn;
            if self.links.send(now, conn, &event).is_err() {
                self.counters.count_drop(Drop::BounceFull);
            }
        }
    }

    /// A server is out: so are its members, whom nobody here knows by name.
    pub(super) fn groups_lost(&mut self, now: Time, place: u32) {
        for group in self.groups.tenure_ended(place) {
            if !self.stopping {
                self.tell_missed(now, place, &group);
            }
        }
    }

    /// Each server with members gets it once; those that could not be reached are one BOUNCE, in the group's name.
    fn relay_to_group(&mut self, now: Time, place: u32, frame: &mut Frame<'_>) {
        if let Err(halt) = self.check_sender(place, &frame.envelope) {
            return self.halt(now, place, &frame.envelope, halt);
        }
        if !self.share(now, place, frame) {
            self.bounce(now, place, &frame.envelope, Bounce::Busy);
        } else if !self.is_complete(now) {
            // Those that have not told of their groups yet may have members.
            self.bounce(now, place, &frame.envelope, Bounce::Retry);
        }
    }

    fn relay_event(&mut self, now: Time, place: u32, frame: &mut Frame<'_>) {
        let Envelope { header, from, .. } = frame.envelope;
        let is_elsewhere = self.standing(from).is_some_and(|(binding, _)| binding.place != place);
        // Who went is no longer bound to the server that says so, where a newer session has taken over.
        let is_allowed = match GroupChange::from_wire(header.info_type) {
            Some(GroupChange::Joined) => !is_elsewhere,
            Some(GroupChange::Left | GroupChange::Offline) => true,
            None => false,
        };
        if !is_allowed {
            return self.counters.count_drop(Drop::Spoofed);
        }
        if !self.share(now, place, frame) {
            self.counters.count_drop(Drop::BounceFull);
        }
    }

    /// Puts a frame into the queue of each other server with members. False where it did not fit each.
    fn share(&mut self, now: Time, place: u32, frame: &mut Frame<'_>) -> bool {
        let mut targets = std::mem::take(&mut self.groups.targets);
        targets.extend(self.groups.others(frame.envelope.to, Some(place)));
        let shared = frame.share();
        let mut fits = true;
        for other in targets.drain(..) {
            let conn = self.servers[other as usize].conn;
            fits &= self.share_with(now, conn, &shared);
        }
        self.groups.targets = targets;
        fits
    }

    /// To the user's server; if there is none the asker hears why.
    fn relay_edit(&mut self, now: Time, conn: ConnId, frame: &mut Frame<'_>) {
        let Envelope { header, to, .. } = frame.envelope;
        let forwarded = match self.whereabouts(to).map(|server| server.conn) {
            Some(conn) => self.links.forward(now, conn, frame).map(drop).map_err(|_| Bounce::Busy),
            None => Err(self.absence(now, to)),
        };
        match forwarded {
            Ok(()) => self.counters.count_forwarded(frame.wire_bytes()),
            Err(cause) => {
                self.counters.count_bounce(cause);
                let bounce = Outgoing::bounce(cause, header.id, &[], to);
                if self.links.send_control(now, conn, &bounce).is_err() {
                    self.counters.count_drop(Drop::BounceFull);
                }
            }
        }
    }

    /// The question goes to each other server with members, and back to the asker how many these are.
    fn ask_members(&mut self, now: Time, conn: ConnId, place: u32, frame: &mut Frame<'_>) {
        let Envelope { header, to, .. } = frame.envelope;
        let others: Vec<u32> = self.groups.others(to, Some(place)).collect();
        let shared = frame.share();
        let mut asked = MembersAsked { servers: 0, complete: self.is_complete(now) };
        for other in others {
            let conn = self.servers[other as usize].conn;
            match self.links.share(now, conn, &shared) {
                Ok(_) => asked.servers += 1,
                Err(_) => asked.complete = false,
            }
        }
        let answer = Outgoing { info_type: asked.to_wire(), id: header.id, to, ..Outgoing::of(Kind::GroupMembers) };
        if self.links.send_control(now, conn, &answer).is_err() {
            self.counters.count_drop(Drop::BounceFull);
        }
    }

    /// To the server that asked, which the id names.
    fn relay_members(&mut self, now: Time, place: u32, frame: &mut Frame<'_>) -> Result<(), Fault> {
        let server = ServerMessageId::server(frame.envelope.header.id);
        if server == ServerId::ACMS {
            return self.members_told(place, frame);
        }
        let conn = self.places.get(&server).map(|place| self.servers[*place as usize].conn);
        match conn.map(|conn| self.links.forward(now, conn, frame).is_ok()) {
            Some(true) => self.counters.count_forwarded(frame.wire_bytes()),
            Some(false) | None => self.counters.count_drop(Drop::Unroutable),
        }
        Ok(())
    }
}
