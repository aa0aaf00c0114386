//! What the shell does with the links: it dials, writes, half-closes and drops as they list it.

use std::io::IoSlice;
use std::net::SocketAddr;

use super::{KeepAlive, Link, Links, Pause, Stage};
use crate::id::ConnId;
use crate::time::Time;

impl<P> Links<P> {
    /// Connections to dial, with their addresses.
    pub fn take_dials(&mut self) -> Vec<(ConnId, SocketAddr)> {
        let dials = std::mem::take(&mut self.dials);
        let wanted =
            |conn: ConnId| self.get(conn).filter(|link| link.stage == Stage::Dialling).map(|link| (conn, link.addr));
        dials.into_iter().filter_map(wanted).collect()
    }

    /// Swaps in the connections that have something new to write; `into` must be empty.
    pub fn take_dirty(&mut self, into: &mut Vec<ConnId>) {
        debug_assert!(into.is_empty());
        std::mem::swap(&mut self.dirty, into);
        for conn in into.iter() {
            if let Some(link) = self.get_mut(*conn) {
                link.dirty = false;
            }
        }
    }

    /// Fills `slices` with what is to be written to `conn` next; returns how many.
    pub fn fill<'a>(&'a self, conn: ConnId, slices: &mut [IoSlice<'a>]) -> usize {
        self.get(conn).map_or(0, |link| link.queue.fill(slices))
    }

    /// `bytes` were written to `conn`. True where that ended a congestion or reached a mark: the role must
    /// hear of it.
    pub fn wrote(&mut self, now: Time, conn: ConnId, bytes: usize) -> bool {
        let link = self.slab.get_mut(conn.index as usize).filter(|link| link.generation == conn.generation);
        let Some(link) = link else { return false };
        link.sent = now;
        let before = link.queue.len();
        let relieved = link.queue.consume(bytes, &mut self.spare_ropes);
        self.memory.note_queued(before, before - bytes);
        let is_empty = link.queue.is_empty();
        if link.stage == Stage::Closing && is_empty {
            if link.hung_up {
                self.end(conn);
            } else {
                link.stage = Stage::Draining;
                self.half_closes.push(conn);
            }
        } else if is_empty && matches!(link.patience.keep_alive, KeepAlive::WhenUnsent(_)) {
            // The time without a byte begins now.
            self.arm(conn);
        }
        relieved
    }

    /// The kernel takes no more for `conn`: what waits must stand on its own, and its patience starts.
    pub fn blocked(&mut self, conn: ConnId) {
        if let Some(link) = self.get_mut(conn) {
            link.queue.compact();
            self.arm(conn);
        }
    }

    /// Connections whose sending side is to be shut: their CLOSE is written.
    pub fn take_half_closes(&mut self) -> Vec<ConnId> {
        std::mem::take(&mut self.half_closes)
    }

    /// Connections to read from again, whatever was missed meanwhile.
    pub fn take_resumed(&mut self) -> Vec<ConnId> {
        std::mem::take(&mut self.resumed)
    }

    /// Whether `conn` is to be read from. One that memory is too short for is paused with this question: who has nothing
    /// to read is not asked about, and costs nothing.
    pub fn reads(&mut self, conn: ConnId) -> bool {
        if self.memory.pauses_senders() && self.get(conn).is_some_and(Link::yields) && self.pause(conn, Pause::Memory) {
            self.memory_waiters.push(conn);
        }
        self.get(conn).is_some_and(|link| link.pauses.is_empty() && !link.hung_up && link.stage != Stage::Ended)
    }

    /// Frees the places of connections that ended; their sockets are to be dropped.
    pub fn take_ended(&mut self) -> Vec<ConnId> {
        let ended = std::mem::take(&mut self.ended);
        for conn in &ended {
            self.slab.remove(conn.index as usize);
        }
        ended
    }

    /// When [`Links::expire`] must be called next, or [`Links::victims`] and [`Links::take_strain`].
    pub fn deadline(&self) -> Option<Time> {
        let memory = Some(self.memory.deadline()).filter(|at| *at != Time::NEVER);
        self.wheel.next().into_iter().chain(memory).min()
    }
}
