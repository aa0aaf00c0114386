//! The way of a frame: from a user to another, to the server itself, or up.

use super::{AppServer, Event, Inbox, Origin, Peer, QueryRef};
use crate::buf::{Frame, Inbound};
use crate::id::{ConnId, check_id};
use crate::limits;
use crate::link::{Pause, Stage};
use crate::role::{Drop, Fault, Gone, Strained};
use crate::time::{Span, Time};
use crate::wire::link::ServerMessageId;
use crate::wire::{BlobPart, Bounce, CloseCode, Envelope, Flags, Kind, Outgoing, Role};

impl AppServer {
    /// Returns how many of the frames were a client's own beginning: what it is charged for.
    pub(super) fn take_from_client(
        &mut self,
        now: Time,
        conn: ConnId,
        inbound: &mut Inbound<'_>,
    ) -> Result<u64, Fault> {
        if self.links.get(conn).is_some_and(|link| link.stage() == Stage::Preface) {
            match Fault::of_opening(inbound, Role::Client, &mut self.counters)? {
                Some(_version) => self.links.advance(now, conn, Stage::Greeting),
                None => return Ok(0),
            }
        }
        let mut messages = 0;
        loop {
            let Some(link) = self.links.get(conn).filter(|link| link.is_live()) else { return Ok(messages) };
            let opened = link.stage() == Stage::Open;
            let max_frame = if opened { self.config.max_frame } else { limits::LOGIN_FRAME_BYTES_MAX };
            let Some(mut frame) = inbound.next(max_frame)? else { return Ok(messages) };
            if opened {
                messages += u64::from(is_begun_by_sender(frame.envelope.header.kind));
                self.frame_from_user(now, conn, &mut frame)?;
                messages += self.groups.take_charge();
            } else {
                self.frame_before_login(now, conn, &frame)?;
            }
        }
    }

    fn frame_from_user(&mut self, now: Time, conn: ConnId, frame: &mut Frame<'_>) -> Result<(), Fault> {
        match frame.envelope.header.kind {
            Kind::Data | Kind::Query | Kind::Reply | Kind::Ack => {
                self.check_from(conn, &frame.envelope)?;
                self.route_from_user(now, conn, frame)
            }
            Kind::Ask => {
                self.check_from(conn, &frame.envelope)?;
                self.ask_from_user(now, conn, frame);
                Ok(())
            }
            Kind::GroupJoin | Kind::GroupLeave | Kind::GroupData => {
                self.check_from(conn, &frame.envelope)?;
                self.frame_to_group(now, conn, frame)
            }
            Kind::Logout => {
                self.check_from(conn, &frame.envelope)?;
                Err(Fault::new(CloseCode::LOGGED_OUT, "goodbye"))
            }
            Kind::Ping => self.pong(now, conn, &frame.envelope),
            Kind::Pong => Ok(()),
            Kind::Close => self.closed_by_peer(now, conn, frame),
            kind => Err(Fault::unexpected(kind)),
        }
    }

    /// The client writes its own id in `from`; the platform only compares.
    fn check_from(&self, conn: ConnId, envelope: &Envelope<'_>) -> Result<(), Fault> {
        match self.links.get(conn).and_then(|link| link.peer.user()) {
            Some(user) if user.as_bytes() == envelope.from => Ok(()),
            Some(_) | None => Err(Fault::new(CloseCode::SPOOF, "`from` is not the user that logged in")),
        }
    }

    fn route_from_user(&mut self, now: Time, conn: ConnId, frame: &mut Frame<'_>) -> Result<(), Fault> {
        let Envelope { header, to, .. } = frame.envelope;
        if to.is_empty() {
            match header.kind {
                Kind::Data | Kind::Query => return self.take_for_server(now, conn, frame),
                _ if ServerMessageId::server(header.id) == self.config.server => {
                    self.returned(now, frame);
                    return Ok(());
                }
                _ => {}
            }
        }
        let routed = match self.users.get(to) {
            Some(receiver) => self.deliver(now, *receiver, frame),
            None => {
                if !to.is_empty() {
                    check_id(to)?;
                }
                self.route_away(now, conn, frame)
            }
        };
        if let Err(cause) = routed {
            self.bounce(now, Origin::Client(conn), &frame.envelope, cause);
        }
        Ok(())
    }

    /// To a user of this server.
    pub(super) fn deliver(&mut self, now: Time, receiver: ConnId, frame: &mut Frame<'_>) -> Result<(), Bounce> {
        if frame.wire_bytes() > limits::LENGTH_BYTES + self.config.max_frame {
            return Err(Bounce::TooBig);
        }
        if frame.envelope.header.flags.has(Flags::DROPPABLE) && self.is_congested(receiver) {
            self.counters.count_drop(Drop::Droppable);
            return Ok(());
        }
        let link = self.links.forward(now, receiver, frame).map_err(|_| Bounce::Busy)?;
        self.counters.count_forwarded(frame.wire_bytes());
        if link.queue().is_congested() {
            self.links.pause(receiver, Pause::Congested);
        }
        Ok(())
    }

    /// To a user that is not here. One whose login is being claimed here may be bound to this server already: what went
    /// up for it would come back behind what is delivered here meanwhile, so the sender is asked to wait.
    fn route_away(&mut self, now: Time, sender: ConnId, frame: &mut Frame<'_>) -> Result<(), Bounce> {
        if self.claims.is_claimed(frame.envelope.to) {
            return Err(Bounce::Retry);
        }
        self.route_up(now, sender, frame)
    }

    /// To a user of another server; a sender that fills the uplink is not read from until there is room again.
    pub(super) fn route_up(&mut self, now: Time, sender: ConnId, frame: &mut Frame<'_>) -> Result<(), Bounce> {
        let conn = self.uplink_conn()?;
        if frame.envelope.header.flags.has(Flags::DROPPABLE) && self.is_congested(conn) {
            self.counters.count_drop(Drop::Droppable);
            return Ok(());
        }
        let link = self.links.forward(now, conn, frame).map_err(|_| Bounce::Busy)?;
        self.counters.count_forwarded(frame.wire_bytes());
        if link.queue().is_congested() {
            self.wait_for_uplink(sender, conn);
        }
        Ok(())
    }

    fn take_for_server(&mut self, now: Time, conn: ConnId, frame: &Frame<'_>) -> Result<(), Fault> {
        let Envelope { header, .. } = frame.envelope;
        let user = frame.envelope.from_user()?;
        let taken = if header.kind == Kind::Query { self.config.takes_queries } else { self.config.takes_messages };
        if !taken {
            self.bounce(now, Origin::Client(conn), &frame.envelope, Bounce::NoHandler);
            return Ok(());
        }
        if header.flags.has(Flags::WANT_ACK) {
            let is_new = self.dedupe.take(&user, header.id, header.flags.has(Flags::RETRY));
            if !is_new {
                self.acknowledge(now, &QueryRef { conn, user, id: header.id });
                return Ok(());
            }
        }
        let inbox =
            Inbox { conn, user, info_type: header.info_type, id: header.id, flags: header.flags, body: frame.body() };
        if header.kind == Kind::Query && BlobPart::is_one(&inbox.body) {
            self.blob_part(now, inbox);
            return Ok(());
        }
        self.events.push_back(if header.kind == Kind::Query { Event::Query(inbox) } else { Event::Message(inbox) });
        Ok(())
    }

    /// Tells the sender that its message was not delivered. Every message that is not delivered comes here.
    pub(super) fn bounce(&mut self, now: Time, origin: Origin, envelope: &Envelope<'_>, cause: Bounce) {
        match envelope.header.kind {
            Kind::Data | Kind::Query | Kind::GroupJoin | Kind::GroupLeave | Kind::GroupData => {}
            Kind::ServerData | Kind::ServerQuery | Kind::Inspect => {}
            _ => return self.counters.count_drop(Drop::Unroutable),
        }
        self.counters.count_bounce(cause);
        let bounce = Outgoing::bounce(cause, envelope.header.id, envelope.from, envelope.to);
        let sent = match origin {
            Origin::Client(conn) => self.links.send_control(now, conn, &bounce).is_ok(),
            Origin::Acms(_) => self.uplink_conn().is_ok_and(|up| self.links.send_control(now, up, &bounce).is_ok()),
        };
        if !sent {
            self.counters.count_drop(Drop::BounceFull);
        }
    }

    pub(super) fn pong(&mut self, now: Time, conn: ConnId, ping: &Envelope<'_>) -> Result<(), Fault> {
        // One that does not fit follows so much else that the peer cannot take it for silence.
        if self.links.pong(now, conn, ping.header.id).is_err() {
            self.counters.count_drop(Drop::BounceFull);
        }
        Ok(())
    }

    pub(super) fn closed_by_peer(&mut self, now: Time, conn: ConnId, frame: &Frame<'_>) -> Result<(), Fault> {
        let (code, told) = Fault::read_close(frame);
        if let Some(millis) = told.retry_after_ms
            && let Some(Peer::Acms(place)) = self.links.get(conn).map(|link| &link.peer)
        {
            self.uplinks[*place].retry_after = Span::from_millis(millis).min(limits::RETURN_MAX);
        }
        self.depart(now, conn, Gone::ClosedByPeer(code), &told.text);
        self.links.end(conn);
        Ok(())
    }
}

/// Whether a frame of this kind is its sender's idea. An ACK, REPLY or PONG is somebody else's: how many a client sends
/// is for those to say who ask it, and is not held against it.
fn is_begun_by_sender(kind: Kind) -> bool {
    !matches!(kind, Kind::Ack | Kind::Reply | Kind::Pong)
}
