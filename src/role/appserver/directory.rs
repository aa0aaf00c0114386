//! The platform's directory as the server's own application reads it, and what this server knows of its users.

use std::collections::VecDeque;

use super::queries::Asked;
use super::{AppServer, Event, Origin, Outcome, Peer, Session};
use crate::buf::Frame;
use crate::id::UserId;
use crate::limits;
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
    body: Vec<u8>,
    /// The next place in the slab to look at.
    next_place: usize,
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
        self.announce(now, id, info_type, body)?;
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
        if let Err(cause) = self.announce(now, header.id, header.info_type, &frame.body()) {
            self.counters.count_bounce(cause);
        }
    }

    fn announce(&mut self, now: Time, id: u64, info_type: u32, body: &[u8]) -> Result<(), Bounce> {
        let announcements = &mut self.announcements;
        if announcements.list.len() >= limits::ANNOUNCEMENTS_MAX {
            return Err(Bounce::Busy);
        }
        if announcements.list.is_empty() {
            announcements.acts = now;
        }
        announcements.list.push_back(Announcement { info_type, id, body: body.to_vec(), next_place: 0 });
        Ok(())
    }

    /// Tells the next some users, so that no turn is held up by how many there are.
    pub(super) fn continue_announcements(&mut self, now: Time) {
        if self.announcements.acts > now {
            return;
        }
        let Some(Announcement { info_type, id, body, next_place }) = self.announcements.list.pop_front() else {
            return;
        };
        let places = self.links.places();
        let end = places.min(next_place + limits::ANNOUNCED_PLACES_MAX);
        for place in next_place..end {
            let Some((conn, link)) = self.links.at(place) else { continue };
            let Some(user) = link.peer.user().cloned() else { continue };
            let frame = Outgoing { info_type, id, to: user.as_bytes(), body: &body, ..Outgoing::of(Kind::Data) };
            let is_too_big = frame.wire_bytes() - limits::LENGTH_BYTES > self.config.max_frame;
            if is_too_big {
                self.counters.count_bounce(Bounce::TooBig);
            } else if self.links.send(now, conn, &frame).is_err() {
                self.counters.count_bounce(Bounce::Busy);
            }
            self.pause_if_congested(conn);
        }
        if end < places {
            self.announcements.list.push_front(Announcement { info_type, id, body, next_place: end });
        }
        self.announcements.acts = now + limits::ANNOUNCEMENT_PAUSE;
    }
}
