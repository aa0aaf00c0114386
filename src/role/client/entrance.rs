//! Where a client finds the server that it dials.

use std::net::SocketAddr;

use super::{Client, Event, Phase, State};
use crate::time::Time;
use crate::wire::CloseCode;

/// Where a client finds the server that it dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrance {
    /// Always at this address.
    Fixed(SocketAddr),
    /// At one that is asked for before each dial, with [`Event::Asking`].
    Asked,
}

/// Why there is no server to dial.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoServer {
    /// None now; another is asked for after the usual pause.
    #[error("{0}")]
    Now(String),
    /// Whoever was asked names none to this program, however often it asks.
    #[error("{0}")]
    Ever(String),
}

impl Entrance {
    pub(super) fn address(self) -> Option<SocketAddr> {
        match self {
            Entrance::Fixed(server) => Some(server),
            Entrance::Asked => None,
        }
    }
}

impl Client {
    /// The answer to [`Event::Asking`], once for each.
    pub fn found(&mut self, now: Time, server: Result<SocketAddr, NoServer>) {
        // Who logs out meanwhile needs none any more.
        if !matches!(self.phase, Phase::Asking) {
            return;
        }
        match server {
            Ok(server) => self.dial(now, server),
            Err(NoServer::Ever(text)) => self.stop(CloseCode::REFUSED, text),
            Err(NoServer::Now(text)) => {
                let pause = self.backoff.next(&mut self.entropy.jitter);
                self.phase = Phase::Waiting(now + pause);
                self.events.push_back(Event::State(State::NoServer { text, pause }));
            }
        }
    }

    /// Dials, or asks where.
    pub(super) fn enter(&mut self, now: Time) {
        match self.server {
            Some(server) => self.dial(now, server),
            None => {
                self.phase = Phase::Asking;
                self.events.push_back(Event::Asking);
            }
        }
    }
}
