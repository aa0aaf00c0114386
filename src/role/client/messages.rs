//! Messages and their outcomes.

use super::{Client, Event, Message, Phase, QueryFailure, Reply, SendFailure};
use crate::buf::Frame;
use crate::id::{ConnId, UserId};
use crate::limits;
use crate::role::Fault;
use crate::time::{Span, Time};
use crate::wire::{BlobPart, Bounce, CloseCode, Envelope, Flags, Header, Kind, Outgoing};

impl Client {
    pub(super) fn message(&mut self, now: Time, conn: ConnId, frame: &Frame<'_>) -> Result<(), Fault> {
        let message = message_of(frame)?;
        if message.flags.has(Flags::WANT_ACK) {
            // Not the message's `to`: a server that writes another id there must not make this user look like a spoofer.
            let (to, from) = (frame.envelope.from, self.config.user.as_bytes());
            let ack = Outgoing { id: message.id, to, from, ..Outgoing::of(Kind::Ack) };
            self.links.send_control(now, conn, &ack).map_err(|_| Fault::new(CloseCode::SLOW, "no room for an ACK"))?;
            let again = message.flags.has(Flags::RETRY);
            if let Some(from) = &message.from
                && !self.dedupe.take(from, message.id, again)
            {
                return Ok(());
            }
        }
        self.events.push_back(Event::Message(message));
        Ok(())
    }

    pub(super) fn queried(&mut self, now: Time, frame: &Frame<'_>) -> Result<(), Fault> {
        let query = message_of(frame)?;
        if BlobPart::is_one(&query.body) {
            self.blob_part(now, query);
        } else if self.config.takes_queries {
            self.events.push_back(Event::Query(query));
        } else {
            // As an ACK, it has a reserve: a full queue is this program's own doing.
            self.say_unanswered(now, frame.envelope.from, query.id, "")
                .map_err(|_| Fault::new(CloseCode::SLOW, "no room for a REPLY"))?;
        }
        Ok(())
    }

    pub(super) fn replied(&mut self, now: Time, frame: &Frame<'_>) {
        let Header { id, flags, info_type, .. } = frame.envelope.header;
        if self.blobs.sending.has(id) {
            return self.blob_answered(now, frame);
        }
        // Ids can be guessed: only whom it went to answers a query.
        if self.queries.get(&id).is_none_or(|(to, _)| to != frame.envelope.from) || !self.end_query(id) {
            return;
        }
        let body = frame.body();
        let outcome =
            if flags.has(Flags::ERROR) { Err(QueryFailure::of_error(&body)) } else { Ok(Reply { info_type, body }) };
        self.events.push_back(Event::Replied { id, outcome });
    }

    pub(super) fn answered(&mut self, now: Time, frame: &Frame<'_>) {
        let id = frame.envelope.header.id;
        if self.end_query(id) && self.watch_answered(now, id, &frame.body()) {
            self.events.push_back(Event::Answered { id, body: frame.body() });
        }
    }

    pub(super) fn bounced(&mut self, now: Time, envelope: &Envelope<'_>) {
        let id = envelope.header.id;
        let cause = Bounce::from_wire(envelope.header.info_type);
        if let Some(pending) = self.pending.get(&id) {
            let passes = matches!(cause, Bounce::Unreachable | Bounce::Retry | Bounce::Busy);
            if !passes {
                return self.resolve(id, Err(SendFailure::Bounced(cause)));
            }
            let pause = limits::REDIAL_MIN.as_micros() << pending.tries.min(5);
            self.act_at(id, now + Span::from_micros(pause));
        } else if self.blobs.sending.has(id) {
            self.blobs.sending.bounced(now, id, cause);
        } else if self.end_query(id) {
            self.events.push_back(Event::Replied { id, outcome: Err(QueryFailure::of_bounce(cause)) });
        } else if self.join_bounced(now, id, cause) {
            // It was a join's.
        } else if id > self.first_id && id <= self.next_id {
            // Others are what an earlier start of this user sent, or second copies of what is resolved.
            self.events.push_back(Event::Bounced { id, to: envelope.from.to_vec(), cause });
        }
    }

    /// Ids can be guessed: only whom it went to acknowledges a message.
    pub(super) fn acked(&mut self, envelope: &Envelope<'_>) {
        let id = envelope.header.id;
        if self.pending.get(&id).is_some_and(|pending| pending.to.as_bytes() == envelope.from) {
            self.resolve(id, Ok(()));
        }
    }

    /// Ends a query, once: who comes second finds none.
    fn end_query(&mut self, id: u64) -> bool {
        let Some((_, ends)) = self.queries.remove(&id) else { return false };
        self.query_ends.remove(&(ends, id))
    }

    /// Sends a pending message (again), where there is a connection with room; else its time will come.
    pub(super) fn try_pending(&mut self, now: Time, id: u64) {
        let Some(pending) = self.pending.get_mut(&id) else { return };
        let Phase::Online { conn, max_frame } = self.phase else { return };
        let flags = if pending.tries == 0 { Flags::WANT_ACK } else { Flags::WANT_ACK.with(Flags::RETRY) };
        let frame = Outgoing {
            kind: Kind::Data,
            flags,
            info_type: pending.info_type,
            id,
            to: pending.to.as_bytes(),
            from: self.config.user.as_bytes(),
            body: &pending.body,
        };
        if frame.wire_bytes() - limits::LENGTH_BYTES > max_frame {
            return self.resolve(id, Err(SendFailure::Bounced(Bounce::TooBig)));
        }
        let sent = self.links.send(now, conn, &frame).is_ok();
        pending.tries += u32::from(sent);
        self.act_at(id, now + if sent { limits::ACK_TIMEOUT } else { limits::REDIAL_MIN });
    }

    /// Sets when a pending message is sent again.
    pub(super) fn act_at(&mut self, id: u64, acts: Time) {
        if let Some(pending) = self.pending.get_mut(&id) {
            self.pending_times.remove(&(pending.acts.min(pending.gives_up), id));
            pending.acts = acts;
            self.pending_times.insert((pending.acts.min(pending.gives_up), id));
        }
    }

    /// Ends an acknowledged send, once: who comes second finds none.
    pub(super) fn resolve(&mut self, id: u64, outcome: Result<(), SendFailure>) {
        if let Some(pending) = self.pending.remove(&id) {
            self.pending_times.remove(&(pending.acts.min(pending.gives_up), id));
            self.pending_bytes -= pending.body.len();
            self.events.push_back(Event::Sent { id, outcome });
        }
    }

    pub(super) fn expire_pending(&mut self, now: Time) {
        while let Some((_, id)) = self.pending_times.first().copied().filter(|(at, _)| *at <= now) {
            if self.pending.get(&id).is_some_and(|pending| pending.gives_up <= now) {
                self.resolve(id, Err(SendFailure::TimedOut));
            } else {
                self.act_at(id, Time::NEVER);
                self.try_pending(now, id);
            }
        }
    }

    pub(super) fn expire_queries(&mut self, now: Time) {
        while let Some((ends, id)) = self.query_ends.first().copied().filter(|(ends, _)| *ends <= now) {
            self.query_ends.remove(&(ends, id));
            self.queries.remove(&id);
            if self.watch_timed_out(now, id) {
                self.events.push_back(Event::Replied { id, outcome: Err(QueryFailure::TimedOut) });
            }
        }
    }

    pub(super) fn fail_queries(&mut self) {
        self.query_ends.clear();
        for (id, _) in std::mem::take(&mut self.queries) {
            if self.watches_again_by(id) {
                continue;
            }
            self.events.push_back(Event::Replied { id, outcome: Err(QueryFailure::ConnectionLost) });
        }
    }
}

pub(super) fn message_of(frame: &Frame<'_>) -> Result<Message, Fault> {
    let Envelope { header, from, .. } = frame.envelope;
    let from = if from.is_empty() { None } else { Some(UserId::parse(from)?) };
    Ok(Message { from, info_type: header.info_type, id: header.id, flags: header.flags, body: frame.body() })
}
