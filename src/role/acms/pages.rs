//! The directory by pages, and what concerns all users at once.

use super::Acms;
use crate::buf::{Frame, Shared};
use crate::id::{ConnId, ServerId, UserId};
use crate::limits;
use crate::role::{Drop, Fault};
use crate::time::Time;
use crate::wire::{Bounce, CloseCode, Kind, ListRequest, Listed, ListedUser, Outgoing, parse_object};

/// Some of all users, in no order that means anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryPage {
    /// Users and their servers.
    pub users: Vec<(UserId, ServerId)>,
    /// Where the next page begins; none behind the last. A page that is not the last may have few users, or none.
    pub next: Option<u64>,
}

impl Acms {
    /// The next users from place `after` on, those of one server or all: at most `limit`, and as many as some thousand
    /// places of the directory hold. Who is in throughout all pages is in exactly one, unless it logs in again meanwhile.
    pub fn users(&self, server: Option<ServerId>, after: u64, limit: usize) -> DirectoryPage {
        let places = self.directory.places();
        let start = usize::try_from(after).unwrap_or(usize::MAX).min(places);
        let end = start.saturating_add(limits::PAGE_PLACES_MAX).min(places);
        let mut users = Vec::new();
        for place in start..end {
            if users.len() >= limit {
                return DirectoryPage { users, next: Some(place as u64) };
            }
            let Some((user, binding)) = self.directory.at(place) else { continue };
            let bound = self.servers.get(binding.place as usize).filter(|bound| bound.tenure == binding.tenure);
            if let Some(bound) = bound.filter(|bound| server.is_none_or(|server| server == bound.id)) {
                users.push((user.clone(), bound.id));
            }
        }
        DirectoryPage { users, next: (end < places).then_some(end as u64) }
    }

    /// A server's LIST.
    pub(super) fn list(&mut self, now: Time, conn: ConnId, id: u64, body: &[u8]) -> Result<(), Fault> {
        let ListRequest { server, after, limit } =
            parse_object(body).ok_or_else(|| Fault::new(CloseCode::BAD_FIELD, "the body of LIST is its JSON"))?;
        let page = self.users(server, after, limit.min(limits::PAGE_USERS_MAX));
        let users = page.users.into_iter();
        let users = users.map(|(user, server)| ListedUser { user: user.as_str().to_owned(), server });
        let listed = Listed { users: users.collect(), next: page.next, total: self.user_count() as u64 };
        let body = serde_json::to_vec(&listed).expect("numbers and plain text");
        // No control frame: a page is large, and who does not get it asks again.
        if self.links.send(now, conn, &Outgoing { id, body: &body, ..Outgoing::of(Kind::Listed) }).is_err() {
            self.counters.count_drop(Drop::BounceFull);
        }
        Ok(())
    }

    /// A server's message to everyone goes to all others: that one has told its users already.
    pub(super) fn relay_to_everyone(&mut self, now: Time, place: u32, frame: &mut Frame<'_>) {
        self.tell_everyone(now, Some(place), &frame.share());
    }

    /// Passes a message to everyone on to every server but one. A server whose queue is full misses it, which is counted.
    pub(super) fn tell_everyone(&mut self, now: Time, but: Option<u32>, frame: &Shared) {
        let others = self.servers.iter().filter(|(place, _)| Some(*place as u32) != but);
        let conns: Vec<ConnId> = others.map(|(_, server)| server.conn).collect();
        for conn in conns {
            if !self.share_with(now, conn, frame) {
                self.counters.count_bounce(Bounce::Busy);
            }
        }
    }

    /// Puts a frame that goes to several servers into the queue of one. False where that has no room.
    pub(super) fn share_with(&mut self, now: Time, conn: ConnId, frame: &Shared) -> bool {
        let is_shared = !self.is_held_back(now, conn) && self.links.share(now, conn, frame).is_ok();
        if is_shared {
            self.counters.count_forwarded(frame.wire_bytes());
        }
        is_shared
    }
}
