//! What the server itself has asked, whom, by which connection, and what becomes of it.

use std::collections::BTreeSet;

use hashbrown::HashMap;

use super::{AppServer, Event, Outcome};
use crate::buf::Frame;
use crate::id::{ConnId, UserId};
use crate::limits;
use crate::role::{Drop, Entropy};
use crate::time::Time;
use crate::wire::{Bounce, Envelope, Flags, Kind, parse_object};

/// Who is to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// A user's application, on whatever server: with a REPLY.
    User(UserId),
    /// A user's engine: with an ACK.
    Engine(UserId),
    /// A server's application: with a REPLY.
    Server,
    /// The server of this user: what it knows of it.
    Profile(UserId),
    /// The server of this user, which is to put it into a group or to take it out: with an ACK.
    Membership(UserId),
    /// The ACMS: a page of users.
    Directory,
}

impl Asked {
    /// Whether this is the answer, and from whom was asked: ids can be guessed.
    fn is_answered_by(&self, kind: Kind, from: &[u8]) -> bool {
        match self {
            Asked::User(user) => kind == Kind::Reply && user.as_bytes() == from,
            Asked::Engine(user) | Asked::Membership(user) => kind == Kind::Ack && user.as_bytes() == from,
            Asked::Server => kind == Kind::Reply && from.is_empty(),
            Asked::Profile(user) => kind == Kind::Inspected && user.as_bytes() == from,
            Asked::Directory => kind == Kind::Listed,
        }
    }
}

/// The outcome that an answer tells of.
fn outcome_of(frame: &Frame<'_>) -> Outcome {
    let header = frame.envelope.header;
    let body = frame.body();
    let outcome = match header.kind {
        Kind::Ack => Some(Outcome::Acked),
        Kind::Inspected => parse_object(&body).map(Outcome::Inspected),
        Kind::Listed => parse_object(&body).map(Outcome::Listed),
        _ => Some(Outcome::Replied { info_type: header.info_type, failed: header.flags.has(Flags::ERROR), body }),
    };
    outcome.unwrap_or(Outcome::Bounced(Bounce::Unreachable))
}

struct OpenQuery {
    asked: Asked,
    ends: Time,
    /// The connection that it went by; none to this server itself.
    way: Option<ConnId>,
}

/// Queries that wait for their reply, by id.
pub(super) struct Queries {
    open: HashMap<u64, OpenQuery, ahash::RandomState>,
    ends: BTreeSet<(Time, u64)>,
    ways: BTreeSet<(ConnId, u64)>,
}

impl Queries {
    pub(super) fn new(entropy: &mut Entropy) -> Queries {
        Queries { open: HashMap::with_hasher(entropy.hasher()), ends: BTreeSet::new(), ways: BTreeSet::new() }
    }

    pub(super) fn count(&self) -> usize {
        self.open.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.open.len() >= limits::QUERIES_PENDING_MAX
    }

    pub(super) fn insert(&mut self, id: u64, asked: Asked, ends: Time, way: Option<ConnId>) {
        self.ends.insert((ends, id));
        self.ways.extend(way.map(|conn| (conn, id)));
        self.open.insert(id, OpenQuery { asked, ends, way });
    }

    /// Ends the query, once: who comes second finds none.
    fn remove(&mut self, id: u64) -> Option<OpenQuery> {
        let query = self.open.remove(&id)?;
        self.ends.remove(&(query.ends, id));
        if let Some(conn) = query.way {
            self.ways.remove(&(conn, id));
        }
        Some(query)
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.ends.first().map(|(ends, _)| *ends)
    }
}

impl AppServer {
    /// What answers a message that this server itself sent.
    pub(super) fn returned(&mut self, now: Time, frame: &Frame<'_>) {
        let Envelope { header, from, .. } = frame.envelope;
        if self.blobs.sending.has(header.id) {
            return self.blob_returned(now, frame);
        }
        let asked = self.queries.open.get(&header.id).map(|query| &query.asked);
        let outcome = match (header.kind, asked) {
            // A message comes back in the name of whom it did not reach, or of the way there; this only in the member's.
            (Kind::Bounce, Some(Asked::Membership(user))) if user.as_bytes() != from => {
                return self.counters.count_drop(Drop::Unroutable);
            }
            (Kind::Bounce, _) => return self.own_bounced(header.id, from, Bounce::from_wire(header.info_type)),
            (Kind::Ack, None) => Outcome::Acked,
            (kind, Some(asked)) if asked.is_answered_by(kind, from) => outcome_of(frame),
            (_, _) => return self.counters.count_drop(Drop::Unroutable),
        };
        self.settle_query(header.id, outcome);
    }

    /// A message or query of the server's own came back, in the name of `from`.
    pub(super) fn own_bounced(&mut self, id: u64, from: &[u8], cause: Bounce) {
        self.events.push_back(match self.queries.remove(id) {
            Some(_) => Event::Outcome { id, outcome: Outcome::Bounced(cause) },
            None => Event::Bounced { id, to: from.to_vec(), cause },
        });
    }

    /// A query of the server's own, or a message that waits for its ACK, has come to this.
    pub(super) fn settle_query(&mut self, id: u64, outcome: Outcome) {
        self.queries.remove(id);
        self.events.push_back(Event::Outcome { id, outcome });
    }

    pub(super) fn expire_queries(&mut self, now: Time) {
        while let Some((_, id)) = self.queries.ends.first().copied().filter(|(ends, _)| *ends <= now) {
            self.settle_query(id, Outcome::TimedOut);
        }
    }

    /// The replies to what went by this connection will not come.
    pub(super) fn lose_queries(&mut self, conn: ConnId) {
        let first = |queries: &Queries| queries.ways.range((conn, 0)..=(conn, u64::MAX)).next().copied();
        while let Some((_, id)) = first(&self.queries) {
            self.settle_query(id, Outcome::ConnectionLost);
        }
    }
}
