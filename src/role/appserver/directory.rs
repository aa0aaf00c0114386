//! The platform's directory as the server's own application reads it, and what this server knows of its users.

use std::collections::VecDeque;

use bytes::Bytes;

use super::queries::Asked;
use super::{AppServer, Event, Origin, Outcome, Peer, Session};
use crate::buf::Frame;
use crate::id::UserId;
use crate::limits;
use crate::role::Strained;
use crate::time::Time;
use crate::wire::{Bounce, Envelope, Kind, ListRequest, Listed, ListedUser, Outgoing, Profile};

impl AppServer {
    /// Asks what is known of a user, on whatever server; the outcome with the id is [`Outcome::Inspected`], or a bounce.
    pub fn inspect(&mut self, now: Time, user: &UserId) -> Result<u64, Bounce> {
        if let Some(profile) = self.profile(now, user.as_bytes()) {
            return Ok(self.conclude(Outcome::Inspected(profile)));
        }
        let ask = Outgoing { to: user.as_bytes(), ..Outgoing::of(Kind::Inspect) };
        self.ask_cluster(now, ask, Asked::Profile(user.clone()))
    }

    /// Asks for a page of all users; the outcome with the id is [`Outcome::Listed`].
    pub fn list(&mut self, now: Time, request: &ListRequest) -> Result<u64, Bounce> {
        if self.uplinks.is_empty() {
            let page = self.own_page(request);
            return Ok(self.conclude(Outcome::Listed(page)));
        }
        let body = serde_json::to_vec(request).expect("numbers");
        self.ask_cluster(now, Outgoing { body: &body, ..Outgoing::of(Kind::List) }, Asked::Directory)
    }

    /// Notes something of a user that is in on this server, for who inspects it; nothing where the text is empty. It is
    /// forgotten with the session. False where the user is not here or the text is longer than 256 bytes.
    pub fn set_tag(&mut self, user: &UserId, tag: &str) -> bool {
        if self.conn_of(user).is_none() || tag.len() > limits::TAG_BYTES_MAX {
            return false;
        }
        if tag.is_empty() {
            self.tags.remove(user.as_bytes());
        } else {
            self.tags.insert(user.clone(), tag.to_owned());
        }
        true
    }

    /// The outcome is known without asking anybody.
    fn conclude(&mut self, outcome: Outcome) -> u64 {
        let id = self.next_message();
        self.events.push_back(Event::Outcome { id, outcome });
        id
    }

    fn ask_cluster(&mut self, now: Time, question: Outgoing<'_>, asked: Asked) -> Result<u64, Bounce> {
        if self.queries.is_full() {
            return Err(Bounce::Busy);
        }
        let conn = self.uplink_conn()?;
        let id = self.next_message();
        self.queries.insert(id, asked, now + limits::LOOKUP_TIMEOUT, Some(conn));
        self.control_up(now, &Outgoing { id, ..question });
        self.close_overwhelmed(now);
        Ok(id)
    }

    /// An INSPECT from the ACMS.
    pub(super) fn inspected(&mut self, now: Time, place: usize, frame: &Frame<'_>) {
        let Envelope { header, to, .. } = frame.envelope;
        let Some(profile) = self.profile(now, to) else {
            let cause = if self.is_draining() { Bounce::Retry } else { Bounce::Offline };
            return self.bounce(now, Origin::Acms(place), &frame.envelope, cause);
        };
        let body = serde_json::to_vec(&profile).expect("numbers and plain text");
        self.control_up(now, &Outgoing { id: header.id, from: to, body: &body, ..Outgoing::of(Kind::Inspected) });
    }

    fn profile(&self, now: Time, user: &[u8]) -> Option<Profile> {
        let link = self.links.get(*self.users.get(user)?)?;
        let Peer::Client(client) = &link.peer else { return None };
        let Session::Online(entrant) = &client.session else { return None };
        Some(Profile {
            server: self.config.server,
            address: link.addr.to_string(),
            login_ms: now.since(entrant.since).as_millis(),
            tag: self.tags.get(user).cloned(),
        })
    }

    /// A page of this server's users, of a server that stands alone: as the ACMS does, by their places.
    fn own_page(&self, request: &ListRequest) -> Listed {
        let server = self.config.server;
        let mut page = Listed { total: self.users.len() as u64, ..Listed::default() };
        if request.server.is_some_and(|wanted| wanted != server) {
            return page;
        }
        let places = self.links.places();
        let start = usize::try_from(request.after).unwrap_or(usize::MAX).min(places);
        let end = start.saturating_add(limits::PAGE_PLACES_MAX).min(places);
        let limit = request.limit.min(limits::PAGE_USERS_MAX);
        for place in start..end {
            if page.users.len() >= limit {
                page.next = Some(place as u64);
                return page;
            }
            let user = self.links.at(place).and_then(|(_, link)| link.peer.user());
            page.users.extend(user.map(|user| ListedUser { user: user.as_str().to_owned(), server }));
        }
        page.next = (end < places).then_some(end as u64);
        page
    }
}

/// A message to all users of this server, on its way.
struct Announcement {
    info_type: u32,
    id: u64,
    /// One for all queues.
    body: Bytes,
    /// The next place in the slab to look at.
    next_place: usize,
    /// Until when it waits for memory, where there is too little for whoever is at that place.
    patience_ends: Option<Time>,
}

/// Messages to everyone that have not reached all, oldest first.
#[derive(Default)]
pub(super) struct Announcements {
    list: VecDeque<Announcement>,
    /// When the next some are told.
    acts: Time,
}

impl Announcements {
    pub(super) fn deadline(&self) -> Option<Time> {
        (!self.list.is_empty()).then_some(self.acts)
    }
}

impl AppServer {
    /// Sends a message to every user of every server, at most once each: who comes or goes meanwhile may miss it, what does
    /// not fit a user's queue is counted. Users of other servers are told where the cluster can be reached.
    pub fn send_everyone(&mut self, now: Time, info_type: u32, body: &[u8]) -> Result<(), Bounce> {
        let id = self.next_message();
        let frame = Outgoing { info_type, id, body, ..Outgoing::of(Kind::Everyone) };
        if frame.wire_bytes() + limits::ID_BYTES_MAX - limits::LENGTH_BYTES > self.config.max_frame {
            return Err(Bounce::TooBig);
        }
        self.announce(now, id, info_type, Bytes::copy_from_slice(body))?;
        if let Ok(conn) = self.uplink_conn()
            && self.links.send(now, conn, &frame).is_err()
        {
            self.counters.count_bounce(Bounce::Busy);
            return Err(Bounce::Busy);
        }
        Ok(())
    }

    /// An EVERYONE from the ACMS.
    pub(super) fn announced(&mut self, now: Time, frame: &Frame<'_>) {
        let header = frame.envelope.header;
        let body = frame.body();
        // A small one would hold all that was read with it until everyone is told.
        let body = if body.len() < limits::PIN_BYTES_MIN { Bytes::copy_from_slice(&body) } else { body };
        if let Err(cause) = self.announce(now, header.id, header.info_type, body) {
            self.counters.count_bounce(cause);
        }
    }

    fn announce(&mut self, now: Time, id: u64, info_type: u32, body: Bytes) -> Result<(), Bounce> {
        let announcements = &mut self.announcements;
        if announcements.list.len() >= limits::ANNOUNCEMENTS_MAX {
            return Err(Bounce::Busy);
        }
        if announcements.list.is_empty() {
            announcements.acts = now;
        }
        announcements.list.push_back(Announcement { info_type, id, body, next_place: 0, patience_ends: None });
        Ok(())
    }

    /// Tells the next some users, so that no turn is held up by how many there are.
    pub(super) fn continue_announcements(&mut self, now: Time) {
        if self.announcements.acts > now {
            return;
        }
        let Some(mut announcement) = self.announcements.list.pop_front() else { return };
        if !self.tell_next(now, &mut announcement) {
            self.announcements.list.push_front(announcement);
        }
        self.announcements.acts = now + limits::ANNOUNCEMENT_PAUSE;
    }

    /// Whether all are told. Where memory is short it goes no further for now: they would be closed for what they are told.
    fn tell_next(&mut self, now: Time, announcement: &mut Announcement) -> bool {
        let Announcement { info_type, id, body, next_place, patience_ends } = announcement;
        let places = self.links.places();
        let end = places.min(*next_place + limits::ANNOUNCED_PLACES_MAX);
        let mut bytes = 0;
        while *next_place < end && bytes < limits::ANNOUNCED_BYTES_MAX {
            let user = self.links.at(*next_place).and_then(|(conn, link)| Some((conn, link.peer.user()?.clone())));
            let Some((conn, user)) = user else {
                *next_place += 1;
                continue;
            };
            let head = Outgoing { info_type: *info_type, id: *id, to: user.as_bytes(), ..Outgoing::of(Kind::Data) };
            let frame_bytes = head.wire_bytes() + body.len();
            let has_memory = self.has_memory_for(frame_bytes);
            if !has_memory && now < *patience_ends.get_or_insert(now + limits::ANNOUNCEMENT_PATIENCE) {
                return false;
            }
            let is_too_big = frame_bytes - limits::LENGTH_BYTES > self.config.max_frame;
            let sent = match (is_too_big, has_memory) {
                (true, _) => Err(Bounce::TooBig),
                (false, false) => Err(Bounce::Busy),
                (false, true) => self.links.send_with_body(now, conn, &head, body).map_err(|_| Bounce::Busy),
            };
            match sent {
                Ok(()) => {
                    bytes += frame_bytes;
                    *patience_ends = None;
                    self.pause_if_congested(conn);
                }
                Err(cause) => self.counters.count_bounce(cause),
            }
            *next_place += 1;
        }
        *next_place >= places
    }
}
