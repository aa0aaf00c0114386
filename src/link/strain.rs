//! Short memory: who is closed for it, and who is read from again.

use std::cmp::Reverse;

use super::{Link, Links, Pause};
use crate::id::ConnId;
use crate::memory::Strain;
use crate::time::Time;
use crate::wire::CloseCode;

impl<P> Links<P> {
    /// Drops what `conn` holds, and closes it with a code; one that was closing ends at once. A CLOSE behind a part of a
    /// frame would be taken for the rest of it: the connection then ends without.
    pub fn shed(&mut self, now: Time, conn: ConnId, code: CloseCode, text: &str) {
        let Some(link) = self.get_mut(conn) else { return };
        if !link.is_live() || link.queue.is_cut() {
            return self.end(conn);
        }
        let queued = link.queue.len();
        link.queue.clear();
        self.memory.note_queued(queued, 0);
        self.close(now, conn, code, text.as_bytes());
    }

    /// Who is to be shed, in that order; nobody where memory is not that short.
    ///
    /// As long as most is queued, those who have taken nothing for the longest, and of these the one with the most; as
    /// long as most is in frames that are still coming, the largest of those.
    pub fn victims(&self, now: Time) -> Vec<ConnId> {
        let mut to_go = self.memory.excess(now);
        if to_go == 0 {
            return Vec::new();
        }
        let (mut slowest, mut largest) = (self.slowest_receivers(), self.largest_carries());
        let (mut queued, mut carried) = (self.memory.queued(), self.memory.carried());
        let mut is_chosen = vec![false; self.places()];
        let mut victims = Vec::new();
        while to_go > 0 {
            let next = if carried > queued { largest.next() } else { slowest.next() };
            let Some((conn, link)) = next else { break };
            if std::mem::replace(&mut is_chosen[conn.index as usize], true) {
                continue;
            }
            queued -= link.queue.len();
            carried -= link.carry.len();
            to_go = to_go.saturating_sub(link.held());
            victims.push(conn);
        }
        victims
    }

    /// Those for whom something is queued, by how long they have taken none of it, the fullest queue of equals first.
    fn slowest_receivers(&self) -> impl Iterator<Item = (ConnId, &Link<P>)> {
        let mut links: Vec<_> = self.iter().filter(|(_, link)| !link.queue.is_empty()).collect();
        links.sort_by_key(|(_, link)| (link.sent, Reverse(link.queue.len())));
        links.into_iter()
    }

    /// Those of whom a frame has not come to its end, the most bytes of one first.
    fn largest_carries(&self) -> impl Iterator<Item = (ConnId, &Link<P>)> {
        let mut links: Vec<_> = self.iter().filter(|(_, link)| !link.carry.is_empty()).collect();
        links.sort_by_key(|(_, link)| Reverse(link.carry.len()));
        links.into_iter()
    }

    /// How short memory is, where that has changed. Whoever was not read from for it is again, once there is room.
    pub fn take_strain(&mut self, now: Time) -> Option<Strain> {
        let strain = self.memory.tell(now)?;
        if !strain.health.pauses_senders() {
            for conn in std::mem::take(&mut self.memory_waiters) {
                self.resume(now, conn, Pause::Memory);
            }
        }
        Some(strain)
    }
}
