//! Blobs: bodies larger than a frame, sent in parts with the receiver's leave and confirmation, from anyone to anyone.
//!
//! The same for a client and for an application server: [`Sending`] decides what goes out next, [`Receiving`] what
//! becomes of what came in, and [`Blobs`] brings the words of both to the queues, where at most one part waits at a
//! time.

mod receiving;
mod sending;

use std::fmt;

use bytes::{Bytes, BytesMut};

pub use receiving::Receiving;
pub use sending::{Sending, Unsendable};

use crate::buf::Full;
use crate::id::{ConnId, UserId};
use crate::limits;
use crate::link::Links;
use crate::time::Time;
use crate::wire::{BLOB_PART_BYTES, BlobAnswer, BlobCause, BlobPart, Bounce, Kind, Manifest, Outgoing};

/// Which blobs an engine takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Whether any.
    pub taken: bool,
    /// Bytes of one, at most, also of one to be sent.
    pub bytes_max: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config { taken: false, bytes_max: limits::BLOB_BYTES_MAX }
    }
}

impl Config {
    /// Bytes of all that were received and that the application has not let go of: two of the largest.
    pub fn held_bytes_max(&self) -> usize {
        self.bytes_max.saturating_mul(2)
    }
}

/// Which blob: its sender (none for a server) and the id that it gave.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlobKey {
    /// Who sends it; none for a server.
    pub from: Option<UserId>,
    /// The sender's id for it.
    pub id: u64,
}

/// Why a blob did not come through, on either side.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlobFailure {
    /// The platform could not deliver it.
    #[error("not delivered: {0}")]
    Bounced(Bounce),
    /// The receiver's application said no.
    #[error("refused: {0}")]
    Denied(String),
    /// Larger than the receiver takes.
    #[error("larger than the receiver takes")]
    TooBig,
    /// The receiver has too much to receive already.
    #[error("the receiver has too much to receive already")]
    Busy,
    /// What came is not what was sent.
    #[error("it came damaged")]
    Damaged,
    /// The receiver knows nothing of it any more.
    #[error("the receiver has forgotten it")]
    Unknown,
    /// The other side wants no more of it, or this one.
    #[error("cancelled")]
    Cancelled,
    /// It came no further for 30 s.
    #[error("no progress for too long")]
    TimedOut,
    /// The receiver takes no blobs.
    #[error("the receiver takes no blobs")]
    NoHandler,
    /// The session ended for good.
    #[error("the session ended")]
    Stopped,
}

impl BlobFailure {
    fn of(cause: BlobCause, text: String) -> BlobFailure {
        match cause {
            BlobCause::Denied => BlobFailure::Denied(text),
            BlobCause::TooBig => BlobFailure::TooBig,
            BlobCause::Busy => BlobFailure::Busy,
            BlobCause::Damaged => BlobFailure::Damaged,
            BlobCause::Unknown => BlobFailure::Unknown,
            BlobCause::Cancelled => BlobFailure::Cancelled,
            BlobCause::TimedOut => BlobFailure::TimedOut,
            BlobCause::NoHandler => BlobFailure::NoHandler,
        }
    }
}

/// What happened to blobs that the application is to hear of.
#[derive(Clone, PartialEq, Eq)]
pub enum BlobEvent {
    /// One is offered: answer with [`Receiving::accept`] or [`Receiving::refuse`].
    Offered {
        /// Which.
        key: BlobKey,
        /// The application's information type.
        info_type: u32,
        /// Its size and name, as the sender says.
        manifest: Manifest,
    },
    /// More of one came.
    Came {
        /// Which.
        key: BlobKey,
        /// Bytes that are there.
        received: u64,
        /// Bytes that it has.
        size: u64,
    },
    /// All of one came, as it was sent: answer with [`Receiving::taken`] or [`Receiving::refuse`], and once it is let
    /// go of, with [`Receiving::release`].
    Received {
        /// Which.
        key: BlobKey,
        /// The application's information type.
        info_type: u32,
        /// What the sender calls it.
        name: String,
        /// All of it.
        body: Bytes,
    },
    /// One that was offered will not come.
    Failed {
        /// Which.
        key: BlobKey,
        /// Why.
        cause: BlobFailure,
    },
    /// More of one that is sent has arrived.
    Confirmed {
        /// The id that it was given.
        id: u64,
        /// Bytes that the receiver has.
        bytes: u64,
    },
    /// One that was sent is through, or will not be. Told once.
    Settled {
        /// The id that it was given.
        id: u64,
        /// Whether the receiver has it, whole.
        outcome: Result<(), BlobFailure>,
    },
}

/// Shows a body's length, not the body.
impl fmt::Debug for BlobEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BlobEvent::Offered { key, info_type, manifest } => {
                f.debug_tuple("Offered").field(key).field(info_type).field(manifest).finish()
            }
            BlobEvent::Came { key, received, size } => {
                f.debug_tuple("Came").field(key).field(received).field(size).finish()
            }
            BlobEvent::Received { key, info_type, name, body } => {
                f.debug_tuple("Received").field(key).field(info_type).field(name).field(&body.len()).finish()
            }
            BlobEvent::Failed { key, cause } => f.debug_tuple("Failed").field(key).field(cause).finish(),
            BlobEvent::Confirmed { id, bytes } => f.debug_tuple("Confirmed").field(id).field(bytes).finish(),
            BlobEvent::Settled { id, outcome } => f.debug_tuple("Settled").field(id).field(outcome).finish(),
        }
    }
}

/// The queue that a blob's frames go to, and the bound on a frame's length there.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Whose queue.
    pub conn: ConnId,
    /// Bound on the length field.
    pub max_frame: usize,
}

impl Way {
    /// Bytes of data in one part between these two, in one frame.
    fn data_max(&self, one: &[u8], other: &[u8]) -> usize {
        let envelope = limits::HEADER_BYTES - limits::LENGTH_BYTES + one.len() + other.len();
        self.max_frame.saturating_sub(envelope + BLOB_PART_BYTES)
    }
}

/// What came of bringing frames to their queues.
#[derive(Debug, Default)]
pub struct Carried {
    /// Answers and cancels that found no room. Nobody waits for them in vain: a sender repeats what is not confirmed, and
    /// a receiver gives up what does not go on.
    pub unsent: u64,
    /// Whose queues hold more now.
    pub filled: Vec<ConnId>,
}

/// All blobs of one engine.
pub struct Blobs {
    /// Those that it sends.
    pub sending: Sending,
    /// Those that it receives.
    pub receiving: Receiving,
    /// The body of the frame at hand.
    body: BytesMut,
}

impl Blobs {
    /// None under way.
    pub fn new(config: Config) -> Blobs {
        Blobs { sending: Sending::new(config), receiving: Receiving::new(config), body: BytesMut::new() }
    }

    /// What happened next, until none is left.
    pub fn poll_event(&mut self) -> Option<BlobEvent> {
        self.receiving.poll_event().or_else(|| self.sending.poll_event())
    }

    /// When [`Blobs::expire`] must be called next.
    pub fn deadline(&self) -> Option<Time> {
        self.sending.deadline().into_iter().chain(self.receiving.deadline()).min()
    }

    /// Meets the deadlines that have come; what there is to say then is for [`Blobs::carry`].
    pub fn expire(&mut self, now: Time) {
        self.sending.expire(now);
        self.receiving.expire(now);
    }

    /// Queues what there is to say, as `from` (empty: a server), each frame where `way` says for its kind and receiver.
    ///
    /// To be called after whatever may have given it something to say or made room: [`Core::relieved`] among them, since
    /// a queue that has a part in it is marked, and takes the next only once that is written.
    ///
    /// [`Core::relieved`]: crate::role::Core::relieved
    pub fn carry<P>(
        &mut self,
        now: Time,
        links: &mut Links<P>,
        from: &[u8],
        way: impl Fn(Kind, Option<&UserId>) -> Result<Way, Bounce>,
    ) -> Carried {
        let mut carried = Carried::default();
        while let Some((key, answer)) = self.receiving.poll_answer() {
            match self.answer(now, links, from, &way, &key, answer) {
                Ok(conn) => carried.filled.push(conn),
                Err(Full) => carried.unsent += 1,
            }
        }
        while let Some((to, id)) = self.sending.poll_cancel() {
            // A receiver that does not hear of it gives the blob up by itself.
            if let Ok(Way { conn, .. }) = way(Kind::Query, to.as_ref()) {
                self.body.clear();
                BlobPart::Cancel.encode(&mut self.body);
                let to = bytes_of(to.as_ref());
                let cancel = Outgoing { id, to, from, body: &self.body, ..Outgoing::of(Kind::Query) };
                carried.unsent += u64::from(links.send(now, conn, &cancel).is_err());
            }
        }
        for id in self.sending.in_turn() {
            carried.filled.extend(self.carry_part(now, links, from, &way, id));
        }
        carried
    }

    /// Queues the next part of one blob; returns whose queue it is in, where it is.
    fn carry_part<P>(
        &mut self,
        now: Time,
        links: &mut Links<P>,
        from: &[u8],
        way: &impl Fn(Kind, Option<&UserId>) -> Result<Way, Bounce>,
        id: u64,
    ) -> Option<ConnId> {
        if !self.sending.is_due(now, id) {
            return None;
        }
        let to = self.sending.receiver(id).cloned();
        let to = bytes_of(to.as_ref());
        let way = match way(Kind::Query, self.sending.receiver(id)) {
            Ok(way) if way.data_max(to, from) < limits::BLOB_DATA_BYTES_FLOOR => Err(Bounce::TooBig),
            found => found,
        };
        let way = match way {
            Ok(way) => way,
            Err(cause) => {
                self.sending.bounced(now, id, cause);
                return None;
            }
        };
        let queue = links.get(way.conn)?.queue();
        if queue.is_marked() {
            return None;
        }
        let room = limits::ENVELOPE_BYTES_MAX + BLOB_PART_BYTES + limits::BLOB_DATA_BYTES;
        if queue.is_congested() || !queue.fits(room) {
            links.mark(way.conn);
            return None;
        }
        let (info_type, part) = self.sending.next(id, way.data_max(to, from))?;
        self.body.clear();
        part.encode(&mut self.body);
        let flags = part.flags();
        let frame = Outgoing { flags, info_type, id, to, from, body: &self.body, ..Outgoing::of(Kind::Query) };
        links.send(now, way.conn, &frame).ok()?;
        links.mark(way.conn);
        self.sending.sent(now, id);
        Some(way.conn)
    }

    fn answer<P>(
        &mut self,
        now: Time,
        links: &mut Links<P>,
        from: &[u8],
        way: &impl Fn(Kind, Option<&UserId>) -> Result<Way, Bounce>,
        key: &BlobKey,
        answer: Answer,
    ) -> Result<ConnId, Full> {
        let Ok(way) = way(Kind::Reply, key.from.as_ref()) else { return Err(Full) };
        let to = bytes_of(key.from.as_ref());
        let answer = match answer {
            Answer::Credit { offset } => {
                let data_max = u32::try_from(way.data_max(to, from)).unwrap_or(u32::MAX);
                BlobAnswer::Credit { offset, data_max }
            }
            Answer::Done => BlobAnswer::Done,
            Answer::Refused { cause, text } => BlobAnswer::Refused { cause, text },
        };
        self.body.clear();
        answer.encode(&mut self.body);
        let flags = answer.flags();
        let frame = Outgoing { flags, id: key.id, to, from, body: &self.body, ..Outgoing::of(Kind::Reply) };
        links.send(now, way.conn, &frame).map(|()| way.conn)
    }
}

/// What a receiver is to say of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Credit { offset: u64 },
    Done,
    Refused { cause: BlobCause, text: String },
}

fn bytes_of(user: Option<&UserId>) -> &[u8] {
    user.map_or(&[], UserId::as_bytes)
}
