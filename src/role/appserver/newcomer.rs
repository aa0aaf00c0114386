//! What a program may ask before it logs in, where the application allows it: to register, say.

use super::{AppServer, Event, Session};
use crate::buf::Frame;
use crate::id::ConnId;
use crate::limits;
use crate::memory::Health;
use crate::role::{Drop, Fault, Strained};
use crate::time::Time;
use crate::wire::{Bounce, CloseCode, Envelope, Flags, Kind, Outgoing};

impl AppServer {
    /// A QUERY before LOGIN. One at a time: until it is answered, nothing else may come.
    pub(super) fn query_before_login(&mut self, conn: ConnId, frame: &Frame<'_>) -> Result<(), Fault> {
        let Envelope { header, to, from } = frame.envelope;
        let is_plain = to.is_empty() && from.is_empty() && header.flags == Flags::NONE;
        if !self.config.takes_queries_before_login || !is_plain {
            return Err(Fault::unexpected(Kind::Query));
        }
        if self.links.memory().health() >= Health::NoNewLogins {
            return Err(Fault::for_now(CloseCode::FULL, "the server is short of memory", self.entropy.retry_after()));
        }
        let Some((addr, session)) = self.session_mut(conn) else { return Ok(()) };
        match session {
            Session::Anonymous => *session = Session::Asking(header.id),
            Session::Asking(_) | Session::Checking(_) | Session::Claiming(_) | Session::Online(_) | Session::Left => {
                return Err(Fault::unexpected(Kind::Query));
            }
        }
        let (info_type, id, body) = (header.info_type, header.id, frame.body());
        self.events.push_back(Event::QueryBeforeLogin { conn, addr, info_type, id, body });
        Ok(())
    }

    /// Answers it. Nothing happens where that connection has ended.
    pub(super) fn reply_before_login(&mut self, now: Time, conn: ConnId, id: u64, flags: Flags, body: &[u8]) {
        let reply = Outgoing { flags, id, body, ..Outgoing::of(Kind::Reply) };
        if reply.wire_bytes() - limits::LENGTH_BYTES > limits::LOGIN_FRAME_BYTES_MAX {
            return self.refuse_before_login(now, conn, id, Bounce::TooBig);
        }
        self.end_asking(now, conn, id, &reply);
    }

    pub(super) fn refuse_before_login(&mut self, now: Time, conn: ConnId, id: u64, cause: Bounce) {
        self.counters.count_bounce(cause);
        self.end_asking(now, conn, id, &Outgoing::bounce(cause, id, &[], &[]));
    }

    fn end_asking(&mut self, now: Time, conn: ConnId, id: u64, answer: &Outgoing<'_>) {
        let session = self.session_mut(conn).map(|(_, session)| session);
        let Some(session) = session.filter(|session| matches!(session, Session::Asking(asked) if *asked == id)) else {
            return self.counters.count_drop(Drop::Unroutable);
        };
        *session = Session::Anonymous;
        if self.links.send_control(now, conn, answer).is_err() {
            self.close(now, conn, &Fault::new(CloseCode::SLOW, "took nothing before its login"));
        }
    }
}
