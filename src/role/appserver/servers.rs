//! From one server's application to another's, this one's own included.

use bytes::Bytes;

use super::queries::Asked;
use super::{AppServer, Event, Origin, Outcome, QuerySource, ServerInbox};
use crate::buf::Frame;
use crate::id::{ConnId, ServerId};
use crate::limits;
use crate::role::{Drop, Strained};
use crate::time::Time;
use crate::wire::link::ServerMessageId;
use crate::wire::{Bounce, Flags, Kind, Outgoing};

impl AppServer {
    /// Sends a message or, with a deadline, a query to a server's application. The id tells its outcome from others'; a
    /// message has one only where it bounces.
    pub fn send_to_server(
        &mut self,
        now: Time,
        to: ServerId,
        info_type: u32,
        body: &[u8],
        query_ends: Option<Time>,
    ) -> Result<u64, Bounce> {
        if query_ends.is_some() && self.queries.is_full() {
            return Err(Bounce::Busy);
        }
        let id = self.next_message();
        let kind = if query_ends.is_some() { Kind::ServerQuery } else { Kind::ServerData };
        let way = self.put_to_server(now, kind, id, to, info_type, body)?;
        if let Some(ends) = query_ends {
            self.queries.insert(id, Asked::Server, ends, way);
        }
        Ok(id)
    }

    /// As [`AppServer::send_to_server`], a message with an id of a number that [`AppServer::reserve_numbers`] gave, used
    /// once.
    pub fn send_to_server_as(
        &mut self,
        now: Time,
        id: u64,
        to: ServerId,
        info_type: u32,
        body: &[u8],
    ) -> Result<(), Bounce> {
        self.put_to_server(now, Kind::ServerData, id, to, info_type, body).map(drop)
    }

    /// Returns the connection that it went by; none to this server itself.
    fn put_to_server(
        &mut self,
        now: Time,
        kind: Kind,
        id: u64,
        to: ServerId,
        info_type: u32,
        body: &[u8],
    ) -> Result<Option<ConnId>, Bounce> {
        let frame = Outgoing { info_type, id, to: &to.0.to_be_bytes(), body, ..Outgoing::of(kind) };
        if frame.wire_bytes() > limits::FRAME_WIRE_BYTES_MAX {
            return Err(Bounce::TooBig);
        }
        if to == self.config.server {
            self.take_for_application(kind, ServerInbox { info_type, id, body: Bytes::copy_from_slice(body) })?;
            return Ok(None);
        }
        let conn = self.uplink_conn()?;
        if self.links.send(now, conn, &frame).is_err() {
            self.counters.count_bounce(Bounce::Busy);
            return Err(Bounce::Busy);
        }
        Ok(Some(conn))
    }

    /// A SERVER_DATA or SERVER_QUERY from the ACMS.
    pub(super) fn take_from_server(&mut self, now: Time, place: usize, frame: &Frame<'_>) {
        let header = frame.envelope.header;
        if frame.envelope.to != self.config.server.0.to_be_bytes() {
            return self.counters.count_drop(Drop::Unroutable);
        }
        let inbox = ServerInbox { info_type: header.info_type, id: header.id, body: frame.body() };
        if let Err(cause) = self.take_for_application(header.kind, inbox) {
            self.bounce(now, Origin::Acms(place), &frame.envelope, cause);
        }
    }

    fn take_for_application(&mut self, kind: Kind, inbox: ServerInbox) -> Result<(), Bounce> {
        let is_query = kind == Kind::ServerQuery;
        let taken = if is_query { self.config.takes_queries } else { self.config.takes_messages };
        if !taken {
            return Err(Bounce::NoHandler);
        }
        self.events.push_back(if is_query { Event::ServerQuery(inbox) } else { Event::ServerMessage(inbox) });
        Ok(())
    }

    /// Answers a query, whoever asked. Nothing happens where the asker is gone.
    pub fn answer_query(&mut self, now: Time, query: &QuerySource, flags: Flags, body: &[u8]) {
        match query {
            QuerySource::User(user) => self.reply(now, user, flags, 0, body),
            QuerySource::Server { id } => self.reply_to_server(now, *id, flags, body),
            QuerySource::Stranger { conn, id, .. } => self.reply_before_login(now, *conn, *id, flags, body),
        }
        self.close_overwhelmed(now);
    }

    /// Bounces a query, whoever asked.
    pub fn refuse_query(&mut self, now: Time, query: &QuerySource, cause: Bounce) {
        match query {
            QuerySource::User(user) => self.refuse(now, user, cause),
            QuerySource::Server { id } => self.refuse_server(now, *id, cause),
            QuerySource::Stranger { conn, id, .. } => self.refuse_before_login(now, *conn, *id, cause),
        }
        self.close_overwhelmed(now);
    }

    fn reply_to_server(&mut self, now: Time, id: u64, flags: Flags, body: &[u8]) {
        let frame = Outgoing { flags, id, body, ..Outgoing::of(Kind::Reply) };
        if frame.wire_bytes() > limits::FRAME_WIRE_BYTES_MAX {
            return self.refuse_server(now, id, Bounce::TooBig);
        }
        if self.is_own(id) {
            let (failed, body) = (flags.has(Flags::ERROR), Bytes::copy_from_slice(body));
            return self.settle_query(id, Outcome::Replied { info_type: 0, failed, body });
        }
        match self.uplink_conn() {
            Ok(conn) if self.links.send(now, conn, &frame).is_err() => self.refuse_server(now, id, Bounce::Busy),
            Ok(_) => {}
            Err(_) => self.counters.count_drop(Drop::Unroutable),
        }
    }

    /// Bounces what a server's application sent.
    fn refuse_server(&mut self, now: Time, id: u64, cause: Bounce) {
        self.counters.count_bounce(cause);
        let from = self.config.server.0.to_be_bytes();
        if self.is_own(id) {
            return self.own_bounced(id, &from, cause);
        }
        if !self.control_up(now, &Outgoing::bounce(cause, id, &[], &from)) {
            self.counters.count_drop(Drop::BounceFull);
        }
    }

    fn is_own(&self, id: u64) -> bool {
        ServerMessageId::server(id) == self.config.server
    }
}
