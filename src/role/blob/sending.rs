use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{BlobEvent, BlobFailure, Config, bytes_of};
use crate::id::UserId;
use crate::limits;
use crate::time::{Span, Time};
use crate::wire::{BlobAnswer, BlobPart, Bounce, Flags, Manifest};

/// The blobs that an engine sends: what of them goes out next, and what became of each.
///
/// A part that is lost is sent again from where the receiver last said it was: nothing tells which one it was, and
/// parts come in order or not at all.
pub struct Sending {
    config: Config,
    blobs: BTreeMap<u64, Outbound>,
    /// Whose part went out last: the others have their turn first.
    last: u64,
    /// Those given up whose receivers are not told yet.
    cancelled: VecDeque<(Option<UserId>, u64)>,
    events: VecDeque<BlobEvent>,
}

/// Why a blob can't be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsendable {
    /// Larger than configured, or with too long a name.
    #[error("too large")]
    TooBig,
    /// As many as may are under way.
    #[error("too many blobs are under way")]
    Full,
}

struct Outbound {
    to: Option<UserId>,
    info_type: u32,
    manifest: Manifest,
    body: Bytes,
    stage: Stage,
    /// Of the first `hashed` bytes.
    hasher: Sha256,
    hashed: usize,
    /// Bytes of data that the receiver takes in one part.
    data_max: usize,
    /// Nothing is sent before this.
    resumes: Time,
    /// When what is under way is taken for lost; `NEVER` where nothing is.
    stalls: Time,
    gives_up: Time,
    /// Bounces since it last came further.
    bounces: u32,
}

enum Stage {
    /// The receiver has not answered; whether it was asked.
    Offered { asked: bool },
    /// Parts flow.
    Flowing {
        /// Bytes that the receiver has.
        confirmed: usize,
        /// Where the next part begins.
        next: usize,
        /// The most that `next` has been.
        furthest: usize,
        /// Whether the end is sent.
        ended: bool,
    },
}

/// What goes out next.
enum Step {
    Ask,
    Data(usize),
    End,
}

impl Outbound {
    fn step(&self) -> Option<Step> {
        match self.stage {
            Stage::Offered { asked } => (!asked).then_some(Step::Ask),
            Stage::Flowing { next, ended, .. } if next == self.body.len() => (!ended).then_some(Step::End),
            Stage::Flowing { next, confirmed, .. } => {
                (next - confirmed < limits::BLOB_WINDOW_BYTES).then_some(Step::Data(next))
            }
        }
    }

    /// What is under way is lost, or may be: all that is not confirmed is to be sent again, from `resumes` on.
    fn go_back(&mut self, resumes: Time) {
        self.resumes = resumes;
        self.stalls = Time::NEVER;
        match &mut self.stage {
            Stage::Offered { asked } => *asked = false,
            Stage::Flowing { confirmed, next, ended, .. } => {
                *next = *confirmed;
                *ended = false;
            }
        }
    }

    /// It came further.
    fn note_progress(&mut self, now: Time) {
        self.gives_up = now + limits::BLOB_SILENCE;
        self.bounces = 0;
        let Stage::Flowing { confirmed, next, ended, .. } = self.stage else { return };
        self.stalls = if next > confirmed || ended { now + limits::BLOB_STALL } else { Time::NEVER };
    }

    /// The digest of the first `end` bytes is under way.
    fn hash_to(&mut self, end: usize) {
        if end > self.hashed {
            self.hasher.update(&self.body[self.hashed..end]);
            self.hashed = end;
        }
    }

    /// When something is to be done that nobody else asks for.
    fn deadline(&self) -> Time {
        let resumes = if self.resumes > Time::ZERO && self.step().is_some() { self.resumes } else { Time::NEVER };
        resumes.min(self.stalls).min(self.gives_up)
    }
}

impl Sending {
    pub(super) fn new(config: Config) -> Sending {
        Sending { config, blobs: BTreeMap::new(), last: 0, cancelled: VecDeque::new(), events: VecDeque::new() }
    }

    /// Begins to send a blob to a user, or to the server. Settled once, as a [`BlobEvent::Settled`] with the id.
    pub fn offer(
        &mut self,
        now: Time,
        id: u64,
        to: Option<UserId>,
        info_type: u32,
        name: &str,
        body: Bytes,
    ) -> Result<(), Unsendable> {
        if body.len() > self.config.bytes_max || name.len() > limits::BLOB_NAME_BYTES_MAX {
            return Err(Unsendable::TooBig);
        }
        if self.blobs.len() >= limits::BLOBS_SENDING_MAX {
            return Err(Unsendable::Full);
        }
        let manifest = Manifest { size: body.len() as u64, name: name.to_owned() };
        let blob = Outbound {
            to,
            info_type,
            manifest,
            body,
            stage: Stage::Offered { asked: false },
            hasher: Sha256::new(),
            hashed: 0,
            data_max: limits::BLOB_DATA_BYTES,
            resumes: Time::ZERO,
            stalls: Time::NEVER,
            gives_up: now + limits::BLOB_SILENCE,
            bounces: 0,
        };
        self.blobs.insert(id, blob);
        Ok(())
    }

    /// Blobs under way.
    pub fn count(&self) -> usize {
        self.blobs.len()
    }

    /// Whether this is one of them.
    pub fn has(&self, id: u64) -> bool {
        self.blobs.contains_key(&id)
    }

    /// Gives a blob up; its receiver is told.
    pub fn cancel(&mut self, id: u64) {
        self.give_up(id, BlobFailure::Cancelled);
    }

    /// A REPLY to one of them. Ids can be guessed: only whom it went to answers it.
    pub fn replied(&mut self, now: Time, id: u64, from: &[u8], flags: Flags, body: &[u8]) {
        let Some(blob) = self.blobs.get_mut(&id).filter(|blob| bytes_of(blob.to.as_ref()) == from) else { return };
        match (BlobAnswer::parse(flags, body), &mut blob.stage) {
            (BlobAnswer::Refused { cause, text }, _) => self.settle(id, Err(BlobFailure::of(cause, text))),
            (BlobAnswer::Credit { offset: 0, data_max }, Stage::Offered { asked: true }) => {
                blob.stage = Stage::Flowing { confirmed: 0, next: 0, furthest: 0, ended: false };
                blob.take_bound(data_max);
                blob.note_progress(now);
            }
            (BlobAnswer::Credit { offset, data_max }, Stage::Flowing { confirmed, next, furthest, .. }) => {
                let offset = usize::try_from(offset).unwrap_or(usize::MAX);
                // What it already said, or can't have.
                if offset <= *confirmed || offset > *furthest {
                    return;
                }
                *confirmed = offset;
                *next = (*next).max(offset);
                blob.take_bound(data_max);
                blob.note_progress(now);
                self.events.push_back(BlobEvent::Confirmed { id, bytes: offset as u64 });
            }
            (BlobAnswer::Done, Stage::Flowing { furthest, .. }) if *furthest == blob.body.len() => {
                self.settle(id, Ok(()));
            }
            (BlobAnswer::Done | BlobAnswer::Foreign, Stage::Offered { asked: true }) => {
                self.settle(id, Err(BlobFailure::NoHandler));
            }
            // Out of turn: what it means nobody can tell, and what comes of it time will.
            (BlobAnswer::Credit { .. } | BlobAnswer::Done | BlobAnswer::Foreign, _) => {}
        }
    }

    /// A part of one of them came back, or could not leave.
    pub fn bounced(&mut self, now: Time, id: u64, cause: Bounce) {
        let Some(blob) = self.blobs.get_mut(&id) else { return };
        match cause {
            // Others of the same window come back for the same reason.
            Bounce::Unreachable | Bounce::Retry | Bounce::Busy if blob.resumes > now => {}
            Bounce::Unreachable | Bounce::Retry | Bounce::Busy => {
                let pause = Span::from_micros(limits::REDIAL_MIN.as_micros() << blob.bounces.min(5));
                blob.bounces += 1;
                blob.go_back(now + pause.min(limits::BLOB_PAUSE_MAX));
            }
            Bounce::NoHandler => self.settle(id, Err(BlobFailure::NoHandler)),
            Bounce::TooBig => self.settle(id, Err(BlobFailure::TooBig)),
            Bounce::Offline | Bounce::Denied | Bounce::NotInGroup | Bounce::Other(_) => {
                self.settle(id, Err(BlobFailure::Bounced(cause)));
            }
        }
    }

    /// The connection is lost, and with it what was under way.
    pub fn interrupted(&mut self) {
        for blob in self.blobs.values_mut() {
            blob.go_back(Time::ZERO);
        }
    }

    /// The session is over: so are they.
    pub fn stop(&mut self) {
        for id in self.blobs.keys().copied().collect::<Vec<_>>() {
            self.settle(id, Err(BlobFailure::Stopped));
        }
        self.cancelled.clear();
    }

    pub(super) fn poll_event(&mut self) -> Option<BlobEvent> {
        self.events.pop_front()
    }

    pub(super) fn poll_cancel(&mut self) -> Option<(Option<UserId>, u64)> {
        self.cancelled.pop_front()
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.blobs.values().map(Outbound::deadline).min()
    }

    pub(super) fn expire(&mut self, now: Time) {
        for id in self.blobs.keys().copied().collect::<Vec<_>>() {
            let Some(blob) = self.blobs.get_mut(&id) else { continue };
            if blob.gives_up <= now {
                self.give_up(id, BlobFailure::TimedOut);
            } else if blob.stalls <= now {
                blob.go_back(Time::ZERO);
            } else if blob.resumes <= now {
                blob.resumes = Time::ZERO;
            }
        }
    }

    /// Each of them, beginning with who has waited for its turn longest.
    pub(super) fn in_turn(&self) -> Vec<u64> {
        let behind = self.blobs.range(self.last + 1..).map(|(id, _)| *id);
        behind.chain(self.blobs.range(..=self.last).map(|(id, _)| *id)).collect()
    }

    /// Whether this one has something to say now.
    pub(super) fn is_due(&self, now: Time, id: u64) -> bool {
        self.blobs.get(&id).is_some_and(|blob| blob.resumes <= now && blob.step().is_some())
    }

    /// Whom it goes to; none for a server.
    pub(super) fn receiver(&self, id: u64) -> Option<&UserId> {
        self.blobs.get(&id).and_then(|blob| blob.to.as_ref())
    }

    /// The part that is to go out next; `data_max` is how much data fits a frame there.
    pub(super) fn next(&mut self, id: u64, data_max: usize) -> Option<(u32, BlobPart<'_>)> {
        let blob = self.blobs.get_mut(&id)?;
        let part = match blob.step()? {
            Step::Ask => BlobPart::Manifest(blob.manifest.clone()),
            Step::Data(at) => {
                blob.data_max = blob.data_max.min(data_max);
                BlobPart::Data { offset: at as u64, data: &blob.body[at..blob.end_of_part(at)] }
            }
            Step::End => {
                blob.hash_to(blob.body.len());
                BlobPart::End { size: blob.body.len() as u64, digest: blob.hasher.clone().finalize().into() }
            }
        };
        Some((blob.info_type, part))
    }

    /// The part that [`Sending::next`] gave is on its way.
    pub(super) fn sent(&mut self, now: Time, id: u64) {
        self.last = id;
        let Some(blob) = self.blobs.get_mut(&id) else { return };
        blob.stalls = now + limits::BLOB_STALL;
        let Some(step) = blob.step() else { return };
        let end = match step {
            Step::Ask | Step::End => 0,
            Step::Data(at) => blob.end_of_part(at),
        };
        match (&mut blob.stage, step) {
            (Stage::Offered { asked }, _) => *asked = true,
            (Stage::Flowing { ended, .. }, Step::End) => *ended = true,
            (Stage::Flowing { next, furthest, .. }, Step::Ask | Step::Data(_)) => {
                *next = end;
                *furthest = (*furthest).max(end);
            }
        }
        blob.hash_to(end);
    }

    fn give_up(&mut self, id: u64, cause: BlobFailure) {
        let Some(blob) = self.blobs.get(&id) else { return };
        if !matches!(blob.stage, Stage::Offered { asked: false }) {
            self.cancelled.push_back((blob.to.clone(), id));
        }
        self.settle(id, Err(cause));
    }

    /// Ends a blob, once: who comes second finds none.
    fn settle(&mut self, id: u64, outcome: Result<(), BlobFailure>) {
        if self.blobs.remove(&id).is_some() {
            self.events.push_back(BlobEvent::Settled { id, outcome });
        }
    }
}

impl Outbound {
    fn end_of_part(&self, at: usize) -> usize {
        self.body.len().min(at + self.data_max)
    }

    /// The receiver says how much data it takes in one part.
    fn take_bound(&mut self, data_max: u32) {
        let asked = usize::try_from(data_max).unwrap_or(usize::MAX);
        self.data_max = asked.clamp(limits::BLOB_DATA_BYTES_FLOOR, limits::BLOB_DATA_BYTES);
    }
}
