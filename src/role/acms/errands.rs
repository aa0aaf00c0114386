//! What the cluster manager itself says and asks, for an operator, and what comes of it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Acms, Event};
use crate::buf::{Frame, Shared};
use crate::id::{ConnId, GroupId, ServerId, UserId};
use crate::limits;
use crate::role::{Drop, Fault, Members, Strained};
use crate::time::Time;
use crate::wire::link::{MembersTold, ServerMessageId};
use crate::wire::{Bounce, Envelope, Flags, Kind, Outgoing, Profile, parse_object};

/// What came of what an operator asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The receiver's engine has the message.
    Delivered,
    /// It came back.
    Bounced(Bounce),
    /// A server's handler answered.
    Answered {
        /// The application's information type.
        info_type: u32,
        /// The answer.
        body: Bytes,
    },
    /// A server's handler said that there is no answer, and why.
    Failed(String),
    /// Those who are in a group.
    Members(Members),
    /// What a user's server knows of the user.
    Known(Profile),
    /// Nothing came in time, or nothing more can come: the receiver may have it.
    TimedOut,
}

/// What is still open.
#[derive(Default)]
pub(super) struct Errands {
    open: BTreeMap<u64, Errand>,
    /// When each is given up.
    ends: BTreeSet<(Time, u64)>,
    /// Those begun so far.
    count: u64,
}

struct Errand {
    ends: Time,
    awaited: Awaited,
}

/// What settles an errand: ids can be guessed, so nothing of anyone else's does.
enum Awaited {
    /// The user's ACK, by way of this server.
    Receipt(UserId, ServerId),
    /// The server's REPLY.
    Reply(ServerId),
    /// What the user's server, this one, knows of the user.
    Profile(UserId, ServerId),
    /// What each of the servers has to say of a group.
    Members { servers: BTreeSet<ServerId>, members: Members },
}

impl Errands {
    pub(super) fn deadline(&self) -> Option<Time> {
        self.ends.first().map(|(ends, _)| *ends)
    }

    fn close(&mut self, id: u64) -> Option<Awaited> {
        let errand = self.open.remove(&id)?;
        self.ends.remove(&(errand.ends, id));
        Some(errand.awaited)
    }
}

impl Acms {
    /// Sends a message to a user, whose receipt, or what else became of it, is an [`Event::Settled`] with the number
    /// returned, at `ends` or after 60 s at the latest. Where the user's server is lost that is [`Settled::TimedOut`]: the
    /// user may have the message.
    ///
    /// # Errors
    /// The user is not found, does not get it for want of room, or too much is open.
    pub fn send_to_user(
        &mut self,
        now: Time,
        user: &UserId,
        info_type: u32,
        body: &[u8],
        ends: Time,
    ) -> Result<u64, Bounce> {
        let (server, conn) = self.server_of(now, user)?;
        let id = self.begin_errand(now, ends, Awaited::Receipt(user.clone(), server))?;
        let (flags, to) = (Flags::WANT_ACK, user.as_bytes());
        self.say(now, conn, id, &Outgoing { flags, info_type, id, to, body, ..Outgoing::of(Kind::Data) })
    }

    /// Sends a message to a server's application.
    ///
    /// # Errors
    /// The server is not registered, or has no room.
    pub fn send_to_server(&mut self, now: Time, server: ServerId, info_type: u32, body: &[u8]) -> Result<(), Bounce> {
        let conn = self.conn_of(server)?;
        let (id, to) = (self.next_errand(), server.0.to_be_bytes());
        self.say(now, conn, id, &Outgoing { info_type, id, to: &to, body, ..Outgoing::of(Kind::ServerData) }).map(drop)
    }

    /// Asks a server's application; settled as [`Acms::send_to_user`] is.
    ///
    /// # Errors
    /// The server is not registered, has no room, or too much is open.
    pub fn query_server(
        &mut self,
        now: Time,
        server: ServerId,
        info_type: u32,
        body: &[u8],
        ends: Time,
    ) -> Result<u64, Bounce> {
        let conn = self.conn_of(server)?;
        let id = self.begin_errand(now, ends, Awaited::Reply(server))?;
        let to = server.0.to_be_bytes();
        self.say(now, conn, id, &Outgoing { info_type, id, to: &to, body, ..Outgoing::of(Kind::ServerQuery) })
    }

    /// Sends a message to all members of a group, on whatever servers.
    ///
    /// # Errors
    /// It has no member, as far as is known, or one of its servers has no room: others have it then.
    pub fn send_to_group(&mut self, now: Time, group: &GroupId, info_type: u32, body: &[u8]) -> Result<(), Bounce> {
        let servers = self.group_conns(now, group)?;
        let (id, to) = (self.next_errand(), group.as_bytes());
        let frame = Shared::encode(&Outgoing { info_type, id, to, body, ..Outgoing::of(Kind::GroupData) });
        let mut outcome = Ok(());
        for (_, conn) in servers {
            if !self.share_with(now, conn, &frame) {
                outcome = Err(Bounce::Busy);
            }
        }
        outcome
    }

    /// Sends a message to every user of every server, at most once each. A server whose queue is full misses it, which is
    /// counted.
    pub fn send_to_everyone(&mut self, now: Time, info_type: u32, body: &[u8]) {
        let id = self.next_errand();
        let frame = Outgoing { info_type, id, body, ..Outgoing::of(Kind::Everyone) };
        self.tell_everyone(now, None, &Shared::encode(&frame));
    }

    /// Asks the user's server what it knows of the user; settled with [`Settled::Known`] at best, and with a RETRY where that
    /// server is lost.
    ///
    /// # Errors
    /// The user is not found, or too much is open.
    pub fn ask_about(&mut self, now: Time, user: &UserId, ends: Time) -> Result<u64, Bounce> {
        let (server, conn) = self.server_of(now, user)?;
        let id = self.begin_errand(now, ends, Awaited::Profile(user.clone(), server))?;
        self.control(now, conn, &Outgoing { id, to: user.as_bytes(), ..Outgoing::of(Kind::Inspect) });
        self.close_overwhelmed(now);
        Ok(id)
    }

    /// Asks who is in a group; settled with [`Settled::Members`] at `ends` at the latest.
    ///
    /// # Errors
    /// It has no member, as far as is known, or too much is open.
    pub fn ask_members_of(&mut self, now: Time, group: &GroupId, ends: Time) -> Result<u64, Bounce> {
        let conns = self.group_conns(now, group)?;
        let servers = conns.iter().map(|(server, _)| *server).collect();
        let members = Members { complete: self.is_complete(now), ..Members::default() };
        let id = self.begin_errand(now, ends, Awaited::Members { servers, members })?;
        let question = Outgoing { id, to: group.as_bytes(), ..Outgoing::of(Kind::GroupMembers) };
        for (_, conn) in conns {
            self.control(now, conn, &question);
        }
        self.close_overwhelmed(now);
        Ok(id)
    }

    fn server_of(&self, now: Time, user: &UserId) -> Result<(ServerId, ConnId), Bounce> {
        let server = self.whereabouts(user.as_bytes()).map(|server| (server.id, server.conn));
        server.ok_or_else(|| self.absence(now, user.as_bytes()))
    }

    fn conn_of(&self, server: ServerId) -> Result<ConnId, Bounce> {
        self.places.get(&server).map(|place| self.servers[*place as usize].conn).ok_or(Bounce::Offline)
    }

    fn group_conns(&self, now: Time, group: &GroupId) -> Result<Vec<(ServerId, ConnId)>, Bounce> {
        let places = self.servers_of_group(group).into_iter();
        let conns: Vec<_> = places.filter_map(|server| Some((server, self.conn_of(server).ok()?))).collect();
        match (conns.is_empty(), self.is_complete(now)) {
            (false, _) => Ok(conns),
            (true, true) => Err(Bounce::Offline),
            (true, false) => Err(Bounce::Retry),
        }
    }

    fn next_errand(&mut self) -> u64 {
        self.errands.count += 1;
        ServerMessageId::compose(ServerId::ACMS, ServerMessageId::first(self.config.epoch) + self.errands.count)
    }

    fn begin_errand(&mut self, now: Time, ends: Time, awaited: Awaited) -> Result<u64, Bounce> {
        if self.errands.open.len() >= limits::ERRANDS_MAX {
            return Err(Bounce::Busy);
        }
        let id = self.next_errand();
        let ends = ends.min(now + limits::OPERATOR_PATIENCE_CEILING);
        self.errands.open.insert(id, Errand { ends, awaited });
        self.errands.ends.insert((ends, id));
        Ok(id)
    }

    /// Into the server's queue, or nothing is open.
    fn say(&mut self, now: Time, conn: ConnId, id: u64, frame: &Outgoing<'_>) -> Result<u64, Bounce> {
        if self.is_held_back(now, conn) || self.links.send(now, conn, frame).is_err() {
            self.errands.close(id);
            return Err(Bounce::Busy);
        }
        Ok(id)
    }

    /// An ACK, REPLY or BOUNCE of what the cluster manager said or asked.
    pub(super) fn returned(&mut self, place: u32, frame: &Frame<'_>) {
        let Envelope { header, from, .. } = frame.envelope;
        let server = self.servers[place as usize].id;
        let is_awaited = match self.errands.open.get(&header.id).map(|errand| &errand.awaited) {
            Some(Awaited::Receipt(user, _)) => {
                matches!(header.kind, Kind::Ack | Kind::Bounce) && user.as_bytes() == from
            }
            Some(Awaited::Profile(user, _)) => {
                matches!(header.kind, Kind::Inspected | Kind::Bounce) && user.as_bytes() == from
            }
            Some(Awaited::Reply(asked)) => matches!(header.kind, Kind::Reply | Kind::Bounce) && *asked == server,
            Some(Awaited::Members { .. }) | None => false,
        };
        if !is_awaited {
            return self.counters.count_drop(Drop::Unroutable);
        }
        let settled = match header.kind {
            Kind::Ack => Settled::Delivered,
            Kind::Inspected => match parse_object(&frame.body()) {
                Some(profile) => Settled::Known(profile),
                None => return self.counters.count_drop(Drop::Unroutable),
            },
            Kind::Reply if !header.flags.has(Flags::ERROR) => {
                Settled::Answered { info_type: header.info_type, body: frame.body() }
            }
            Kind::Reply if frame.body().is_empty() => Settled::Bounced(Bounce::NoHandler),
            Kind::Reply => Settled::Failed(String::from_utf8_lossy(&frame.body()).into_owned()),
            _ => Settled::Bounced(Bounce::from_wire(header.info_type)),
        };
        self.settle(header.id, settled);
    }

    /// One server's members of a group that was asked about.
    pub(super) fn members_told(&mut self, place: u32, frame: &Frame<'_>) -> Result<(), Fault> {
        let server = self.servers[place as usize].id;
        let header = frame.envelope.header;
        let Some(Errand { awaited: Awaited::Members { servers, members }, .. }) = self.errands.open.get_mut(&header.id)
        else {
            self.counters.count_drop(Drop::Unroutable);
            return Ok(());
        };
        if !servers.remove(&server) {
            self.counters.count_drop(Drop::Unroutable);
            return Ok(());
        }
        members.complete &= MembersTold::from_wire(header.info_type).complete;
        members.add_told(server, &frame.body())?;
        if servers.is_empty() {
            self.give_up_errand(header.id);
        }
        Ok(())
    }

    fn settle(&mut self, id: u64, settled: Settled) {
        if self.errands.close(id).is_some() {
            self.events.push_back(Event::Settled { id, settled });
        }
    }

    /// What there is by now is what there will be.
    fn give_up_errand(&mut self, id: u64) {
        let settled = match self.errands.close(id) {
            Some(Awaited::Members { servers, mut members }) => {
                members.complete &= servers.is_empty();
                Settled::Members(members)
            }
            Some(Awaited::Receipt(..) | Awaited::Reply(_) | Awaited::Profile(..)) => Settled::TimedOut,
            None => return,
        };
        self.events.push_back(Event::Settled { id, settled });
    }

    pub(super) fn expire_errands(&mut self, now: Time) {
        while let Some((ends, id)) = self.errands.ends.first().copied()
            && ends <= now
        {
            self.give_up_errand(id);
        }
    }

    /// The server will say no more.
    pub(super) fn server_left_errands(&mut self, server: ServerId) {
        let is_over = |awaited: &mut Awaited| match awaited {
            Awaited::Receipt(_, asked) | Awaited::Reply(asked) | Awaited::Profile(_, asked) => *asked == server,
            Awaited::Members { servers, members } => {
                members.complete &= !servers.remove(&server);
                servers.is_empty()
            }
        };
        let open = self.errands.open.iter_mut();
        let over: Vec<u64> = open.filter_map(|(id, errand)| is_over(&mut errand.awaited).then_some(*id)).collect();
        for id in over {
            match self.errands.open.get(&id).map(|errand| &errand.awaited) {
                Some(Awaited::Reply(_)) => self.settle(id, Settled::Bounced(Bounce::Unreachable)),
                // Who asks again hears of it from where the user is then.
                Some(Awaited::Profile(..)) => self.settle(id, Settled::Bounced(Bounce::Retry)),
                // The user may have the message.
                Some(Awaited::Members { .. } | Awaited::Receipt(..)) | None => self.give_up_errand(id),
            }
        }
    }
}
