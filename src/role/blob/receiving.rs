use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{Answer, BlobEvent, BlobFailure, BlobKey, Config};
use crate::limits;
use crate::time::Time;
use crate::wire::{BlobCause, BlobPart, Manifest};

/// The blobs that an engine is offered and receives.
///
/// What is kept grows with what came, not with what was said; parts are taken in order, and each is answered with how
/// much is there.
pub struct Receiving {
    config: Config,
    blobs: BTreeMap<BlobKey, Inbound>,
    /// Bytes that came and that the application has not let go of.
    held: usize,
    /// Ended ones, oldest first, with the answer that their senders may not have heard.
    settled: VecDeque<(BlobKey, Answer)>,
    answers: VecDeque<(BlobKey, Answer)>,
    events: VecDeque<BlobEvent>,
}

struct Inbound {
    info_type: u32,
    manifest: Manifest,
    stage: Stage,
    /// When it is given up where nothing comes.
    gives_up: Time,
}

enum Stage {
    /// The application has not said whether it wants it.
    Offered,
    /// Parts come.
    Flowing { body: Vec<u8>, hasher: Sha256, told: usize },
    /// All of it is with the application, which has not said yet that it has it.
    Handed,
}

impl Receiving {
    pub(super) fn new(config: Config) -> Receiving {
        Receiving {
            config,
            blobs: BTreeMap::new(),
            held: 0,
            settled: VecDeque::new(),
            answers: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Blobs offered or under way.
    pub fn count(&self) -> usize {
        self.blobs.len()
    }

    /// Bytes that came and that the application has not let go of.
    pub fn held(&self) -> usize {
        self.held
    }

    /// A QUERY came that [`BlobPart::is_one`] of.
    pub fn part(&mut self, now: Time, key: BlobKey, info_type: u32, more: bool, body: &[u8]) {
        let Ok(part) = BlobPart::parse(body, more) else { return self.end(&key, BlobCause::Damaged) };
        let Some(blob) = self.blobs.get_mut(&key) else { return self.begin(now, key, info_type, part) };
        match (part, &mut blob.stage) {
            (BlobPart::Cancel, Stage::Offered | Stage::Flowing { .. }) => {
                self.forget(&key);
                self.events.push_back(BlobEvent::Failed { key, cause: BlobFailure::Cancelled });
            }
            // It will be answered with what the application says.
            (BlobPart::Manifest(_) | BlobPart::Data { .. } | BlobPart::End { .. }, Stage::Offered) => {}
            (_, Stage::Handed) => {}
            (BlobPart::Manifest(_), Stage::Flowing { body, .. }) => {
                let offset = body.len() as u64;
                self.answers.push_back((key, Answer::Credit { offset }));
            }
            (BlobPart::Data { offset, data }, Stage::Flowing { .. }) => self.take(now, key, offset, data),
            (BlobPart::End { size, digest }, Stage::Flowing { .. }) => self.finish(key, size, digest),
        }
    }

    /// The first that is heard of a blob, or what comes behind its end.
    fn begin(&mut self, now: Time, key: BlobKey, info_type: u32, part: BlobPart<'_>) {
        if let Some((_, answer)) = self.settled.iter().find(|(settled, _)| *settled == key) {
            // A cancel wants no answer.
            if part != BlobPart::Cancel {
                self.answers.push_back((key, answer.clone()));
            }
            return;
        }
        match part {
            BlobPart::Manifest(manifest) => match self.admit(&key, &manifest) {
                Ok(()) => {
                    self.events.push_back(BlobEvent::Offered {
                        key: key.clone(),
                        info_type,
                        manifest: manifest.clone(),
                    });
                    let gives_up = now + limits::BLOB_SILENCE;
                    self.blobs.insert(key, Inbound { info_type, manifest, stage: Stage::Offered, gives_up });
                }
                Err(cause) => self.say_refused(key, cause, String::new()),
            },
            BlobPart::Data { .. } | BlobPart::End { .. } => self.say_refused(key, BlobCause::Unknown, String::new()),
            BlobPart::Cancel => {}
        }
    }

    fn admit(&self, key: &BlobKey, manifest: &Manifest) -> Result<(), BlobCause> {
        let of_sender = self.blobs.keys().filter(|other| other.from == key.from).count();
        if !self.config.taken {
            Err(BlobCause::NoHandler)
        } else if manifest.size > self.config.bytes_max as u64 {
            Err(BlobCause::TooBig)
        } else if self.blobs.len() >= limits::BLOBS_RECEIVING_MAX || of_sender >= limits::BLOBS_OF_SENDER_MAX {
            Err(BlobCause::Busy)
        } else {
            Ok(())
        }
    }

    /// The application wants an offered blob.
    pub fn accept(&mut self, now: Time, key: &BlobKey) {
        let Some(blob) = self.blobs.get_mut(key).filter(|blob| matches!(blob.stage, Stage::Offered)) else { return };
        blob.stage = Stage::Flowing { body: Vec::new(), hasher: Sha256::new(), told: 0 };
        blob.gives_up = now + limits::BLOB_SILENCE;
        self.answers.push_back((key.clone(), Answer::Credit { offset: 0 }));
    }

    /// The application does not want a blob, or no more of it, or can't take it, and is told no more of it.
    pub fn refuse(&mut self, key: &BlobKey, cause: BlobCause, text: String) {
        if self.forget(key) {
            self.settle(key.clone(), Answer::Refused { cause, text });
        }
    }

    /// The application has a blob that was [`BlobEvent::Received`]: the sender is told. Its bytes count until
    /// [`Receiving::release`].
    pub fn taken(&mut self, key: &BlobKey) {
        if self.blobs.get(key).is_some_and(|blob| matches!(blob.stage, Stage::Handed)) {
            self.blobs.remove(key);
            self.settle(key.clone(), Answer::Done);
        }
    }

    /// The application has let go of a blob of this size.
    pub fn release(&mut self, bytes: usize) {
        self.held -= bytes;
    }

    /// The session is over: what is under way will not come.
    pub fn stop(&mut self) {
        for key in self.blobs.keys().cloned().collect::<Vec<_>>() {
            let handed = self.blobs.get(&key).is_some_and(|blob| matches!(blob.stage, Stage::Handed));
            if !handed && self.forget(&key) {
                self.events.push_back(BlobEvent::Failed { key, cause: BlobFailure::Stopped });
            }
        }
        self.answers.clear();
    }

    fn take(&mut self, now: Time, key: BlobKey, offset: u64, data: &[u8]) {
        let Some(Inbound { manifest, stage: Stage::Flowing { body, hasher, told }, gives_up, .. }) =
            self.blobs.get_mut(&key)
        else {
            return;
        };
        let there = body.len() as u64;
        if offset.checked_add(data.len() as u64).is_none_or(|end| end > manifest.size) {
            return self.end(&key, BlobCause::Damaged);
        }
        // One part may begin before what is there ends: it was cut otherwise when it was first sent.
        let known = usize::try_from(there.saturating_sub(offset)).unwrap_or(usize::MAX).min(data.len());
        let fresh = &data[known..];
        if offset <= there && !fresh.is_empty() {
            if self.held + fresh.len() > self.config.held_bytes_max() {
                return self.end(&key, BlobCause::Busy);
            }
            self.held += fresh.len();
            *gives_up = now + limits::BLOB_SILENCE;
            append(body, fresh, manifest.size);
            hasher.update(fresh);
            if (body.len() - *told) as u64 >= manifest.size.div_ceil(limits::BLOB_PROGRESS_STEPS as u64) {
                *told = body.len();
                let (received, size) = (body.len() as u64, manifest.size);
                self.events.push_back(BlobEvent::Came { key: key.clone(), received, size });
            }
        }
        let offset = body.len() as u64;
        self.answers.push_back((key, Answer::Credit { offset }));
    }

    fn finish(&mut self, key: BlobKey, size: u64, digest: [u8; 32]) {
        let Some(blob) = self.blobs.get_mut(&key) else { return };
        let Stage::Flowing { body, hasher, .. } = &mut blob.stage else { return };
        let there = body.len() as u64;
        if size != blob.manifest.size {
            return self.end(&key, BlobCause::Damaged);
        }
        // Parts before it were lost.
        if there < size {
            return self.answers.push_back((key, Answer::Credit { offset: there }));
        }
        if hasher.finalize_reset()[..] != digest {
            return self.end(&key, BlobCause::Damaged);
        }
        let body = Bytes::from(std::mem::take(body));
        blob.stage = Stage::Handed;
        blob.gives_up = Time::NEVER;
        let (info_type, name) = (blob.info_type, blob.manifest.name.clone());
        self.events.push_back(BlobEvent::Received { key, info_type, name, body });
    }

    /// Ends a blob that the application knows of, or one that it does not.
    fn end(&mut self, key: &BlobKey, cause: BlobCause) {
        if self.forget(key) {
            let told = BlobFailure::of(cause, String::new());
            self.events.push_back(BlobEvent::Failed { key: key.clone(), cause: told });
            self.settle(key.clone(), Answer::Refused { cause, text: String::new() });
        } else {
            self.say_refused(key.clone(), cause, String::new());
        }
    }

    fn say_refused(&mut self, key: BlobKey, cause: BlobCause, text: String) {
        self.answers.push_back((key, Answer::Refused { cause, text }));
    }

    /// Lets go of what is kept of a blob. False where there is none.
    fn forget(&mut self, key: &BlobKey) -> bool {
        let Some(blob) = self.blobs.remove(key) else { return false };
        self.held -= match blob.stage {
            // What the application has counts until it lets go of it.
            Stage::Offered | Stage::Handed => 0,
            Stage::Flowing { body, .. } => body.len(),
        };
        true
    }

    /// Remembers how a blob ended, and says so.
    fn settle(&mut self, key: BlobKey, answer: Answer) {
        if self.settled.len() == limits::BLOBS_SETTLED_MAX {
            self.settled.pop_front();
        }
        self.settled.push_back((key.clone(), answer.clone()));
        self.answers.push_back((key, answer));
    }

    pub(super) fn poll_answer(&mut self) -> Option<(BlobKey, Answer)> {
        self.answers.pop_front()
    }

    pub(super) fn poll_event(&mut self) -> Option<BlobEvent> {
        self.events.pop_front()
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.blobs.values().map(|blob| blob.gives_up).filter(|at| *at != Time::NEVER).min()
    }

    pub(super) fn expire(&mut self, now: Time) {
        let late: Vec<BlobKey> =
            self.blobs.iter().filter(|(_, blob)| blob.gives_up <= now).map(|(key, _)| key.clone()).collect();
        for key in late {
            self.end(&key, BlobCause::TimedOut);
        }
    }
}

/// Appends to a body that may get no larger than `size`: memory is at most twice what came, whatever was said.
fn append(body: &mut Vec<u8>, fresh: &[u8], size: u64) {
    let wanted = body.len() + fresh.len();
    if wanted > body.capacity() {
        let room = usize::try_from(size).unwrap_or(usize::MAX).min(2 * wanted);
        body.reserve_exact(room - body.len());
    }
    body.extend_from_slice(fresh);
}
