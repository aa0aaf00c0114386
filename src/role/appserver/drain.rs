//! A server that is to stop while others go on: its users are sent to those, a few at a time.

use std::collections::VecDeque;

use super::{AppServer, Peer};
use crate::id::ConnId;
use crate::limits;
use crate::role::{Fault, Strained};
use crate::time::{Span, Time};
use crate::wire::{CloseCode, Kind, Outgoing};

/// The id of the PING behind the last UNBIND: its PONG comes behind all that the ACMS had passed on before.
const LAST_PING: u64 = 1;

/// How far a server is on its way from start to end, never back.
pub(super) enum Phase {
    /// It takes users.
    Serving,
    /// Its clients are sent to other servers, in the order of this list.
    Moving { began: Time, span: Span, clients: VecDeque<ConnId>, of: usize },
    /// All have been; what the ACMS passed on to them before it knew is still bounced.
    Leaving,
    /// Every connection is closing.
    Stopping,
}

impl AppServer {
    /// Sends every client to another server of the cluster, spread over `drain` of the config or as long as those servers
    /// need to let so many in, and then stops. Alone, or where no other server is known to be there, it stops at once.
    /// Returns how long it takes to send them.
    pub fn drain(&mut self, now: Time) -> Span {
        if !matches!(self.phase, Phase::Serving) {
            return Span::default();
        }
        if self.targets().next().is_none() {
            self.stop(now);
            return Span::default();
        }
        self.tell_drain(now);
        let is_client = |peer: &Peer| matches!(peer, Peer::Client(_));
        let clients = self.links.iter().filter(|(_, link)| link.is_live() && is_client(&link.peer));
        let clients: VecDeque<ConnId> = clients.map(|(conn, _)| conn).collect();
        let span = self.moving_span(clients.len());
        self.phase = Phase::Moving { began: now, span, of: clients.len(), clients };
        self.continue_drain(now);
        self.close_overwhelmed(now);
        span
    }

    /// How long so many clients are sent over. Their targets, if they are configured as this server is, get half of what
    /// they let in: the other half is for those who come by themselves. Whoever is refused dials again seconds later.
    fn moving_span(&self, clients: usize) -> Span {
        let let_in = u64::from(self.config.max_accepts_per_second) * self.targets().count() as u64;
        let needed = (2 * 1_000_000 * clients as u64).checked_div(let_in).unwrap_or(0);
        self.config.drain.max(Span::from_micros(needed)).min(limits::DRAIN_CEILING)
    }

    /// Whether users are on their way to other servers: those who come are sent on as well.
    pub fn is_draining(&self) -> bool {
        match self.phase {
            Phase::Moving { .. } | Phase::Leaving => true,
            Phase::Serving | Phase::Stopping => false,
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        matches!(self.phase, Phase::Stopping)
    }

    /// Tells the ACMS that nobody is to be sent here.
    pub(super) fn tell_drain(&mut self, now: Time) {
        self.control_up(now, &Outgoing::of(Kind::Drain));
    }

    /// Sends away those whose time has come.
    pub(super) fn continue_drain(&mut self, now: Time) {
        while self.drain_deadline().is_some_and(|due| due <= now) {
            let Phase::Moving { clients, .. } = &mut self.phase else { return };
            let Some(conn) = clients.pop_front() else { return self.leave_cluster(now) };
            self.move_client(now, conn);
        }
    }

    /// When the next client is sent away: each has its moment, evenly from the drain's beginning to its end.
    pub(super) fn drain_deadline(&self) -> Option<Time> {
        match &self.phase {
            Phase::Moving { began, clients, .. } if clients.is_empty() => Some(*began),
            Phase::Moving { began, span, clients, of } => {
                let sent = (of - clients.len()) as u64;
                Some(*began + Span::from_micros(span.as_micros() * sent / *of as u64))
            }
            Phase::Serving | Phase::Leaving | Phase::Stopping => None,
        }
    }

    /// Closes a client with the address of another server, each in its turn.
    pub(super) fn move_client(&mut self, now: Time, conn: ConnId) {
        self.moved += 1;
        let go_to = self.targets().nth(self.moved % self.targets().count().max(1)).cloned();
        self.close(now, conn, &Fault { go_to, ..Fault::new(CloseCode::MOVE, "the server is draining") });
    }

    /// Nobody is here any more: once what was under way to them has come back, the server stops.
    fn leave_cluster(&mut self, now: Time) {
        self.phase = Phase::Leaving;
        if !self.control_up(now, &Outgoing { id: LAST_PING, ..Outgoing::of(Kind::Ping) }) {
            self.stop(now);
        }
    }

    /// The ACMS has answered a PING.
    pub(super) fn ponged(&mut self, now: Time, id: u64) {
        if id == LAST_PING && matches!(self.phase, Phase::Leaving) {
            self.stop(now);
        }
    }
}
