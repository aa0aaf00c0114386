//! Blobs as an application sees them, the same for clients and servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};
use hashbrown::HashMap;

use super::line::CommandLine;
use super::{Overloaded, Pending, Stopped, resolve};
use crate::id::UserId;
use crate::limits;
use crate::net::Wake;
use crate::role::blob::{BlobEvent, BlobFailure, BlobKey};
use crate::role::client::SendError;
use crate::wire::{BlobCause, Manifest};

/// What a blob that is sent came to: the receiver's engine has all of it, or why not.
pub type BlobOutcome = Result<(), BlobFailure>;

/// What happens to a blob that somebody else sends.
#[derive(Debug)]
pub enum IncomingBlob {
    /// Somebody wants to send one.
    Offered(BlobOffer),
    /// More came of one that was accepted; told at most 64 times of each.
    Progress {
        /// Which.
        key: BlobKey,
        /// Bytes that are there.
        received: u64,
        /// Bytes that it has.
        size: u64,
    },
    /// One came.
    Whole(Blob),
    /// One that was offered will not come.
    Failed {
        /// Which.
        key: BlobKey,
        /// Why.
        cause: BlobFailure,
    },
}

impl IncomingBlob {
    /// Which blob it is about.
    pub fn key(&self) -> &BlobKey {
        match self {
            IncomingBlob::Offered(BlobOffer { key, .. })
            | IncomingBlob::Progress { key, .. }
            | IncomingBlob::Whole(Blob { key, .. })
            | IncomingBlob::Failed { key, .. } => key,
        }
    }
}

/// A blob that came, whole and as it was sent.
#[derive(Debug)]
pub struct Blob {
    /// Who sent it, and the sender's id for it.
    pub key: BlobKey,
    /// The application's information type.
    pub info_type: u32,
    /// What the sender calls it; not a path.
    pub name: String,
    /// All of it. It counts among what the engine holds until this [`Blob`] is dropped.
    pub body: Bytes,
    #[expect(dead_code, reason = "held for its end")]
    held: Held,
}

/// A received blob's part of what an engine may hold; its end gives it back.
#[derive(Debug)]
struct Held {
    bytes: usize,
    line: BlobLine,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.line.tell(BlobCommand::Release(self.bytes));
    }
}

/// A blob that somebody wants to send here. Dropped without an answer, it is refused.
#[derive(Debug)]
pub struct BlobOffer {
    /// Which.
    pub key: BlobKey,
    /// The application's information type.
    pub info_type: u32,
    /// Bytes that it has, as its sender says.
    pub size: u64,
    /// What the sender calls it; not a path.
    pub name: String,
    /// None once it is answered.
    line: Option<BlobLine>,
}

impl BlobOffer {
    /// Takes it: it comes as an event of its own, or fails as one.
    pub fn accept(mut self) {
        self.answer(BlobCommand::Accept(self.key.clone()));
    }

    /// Does not take it; the sender is told why.
    pub fn refuse(mut self, text: &str) {
        self.answer(refusal(&self.key, text));
    }

    fn answer(&mut self, command: BlobCommand) {
        if let Some(line) = self.line.take() {
            line.tell(command);
        }
    }
}

impl Drop for BlobOffer {
    fn drop(&mut self) {
        self.answer(refusal(&self.key, ""));
    }
}

fn refusal(key: &BlobKey, text: &str) -> BlobCommand {
    let end = text.floor_char_boundary(limits::CLOSE_TEXT_BYTES_MAX);
    BlobCommand::Refuse(key.clone(), BlobCause::Denied, text[..end].to_owned())
}

/// A blob on its way to somebody. Dropping this gives up hearing of it, not the blob.
#[derive(Debug)]
pub struct BlobHandle {
    size: u64,
    confirmed: Arc<AtomicU64>,
    line: BlobLine,
    outcome: Pending<Result<BlobOutcome, SendError>>,
}

impl BlobHandle {
    /// Bytes that it has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that the receiver has confirmed so far.
    pub fn progress(&self) -> u64 {
        self.confirmed.load(Ordering::Relaxed)
    }

    /// Gives it up, where it is not through yet; its outcome is then [`BlobFailure::Cancelled`].
    pub fn cancel(&self) {
        self.line.tell(BlobCommand::Cancel(Arc::clone(&self.confirmed)));
    }

    /// Waits for its outcome. Never on an engine's own thread: it would wait for itself.
    pub fn wait(self) -> Result<Result<BlobOutcome, SendError>, Stopped> {
        self.outcome.wait()
    }

    /// Waits for its outcome, for a time; hands itself back where that was not enough.
    pub fn wait_timeout(
        self,
        timeout: Duration,
    ) -> Result<Result<Result<BlobOutcome, SendError>, Stopped>, BlobHandle> {
        let BlobHandle { size, confirmed, line, outcome } = self;
        outcome.wait_timeout(timeout).map_err(|outcome| BlobHandle { size, confirmed, line, outcome })
    }

    /// The channel that its outcome comes by, once: to wait for it beside others.
    pub fn receiver(&self) -> &Receiver<Result<BlobOutcome, SendError>> {
        self.outcome.receiver()
    }
}

/// What other threads ask of an engine about blobs.
pub(super) enum BlobCommand {
    Send(NewBlob),
    Cancel(Arc<AtomicU64>),
    Accept(BlobKey),
    Refuse(BlobKey, BlobCause, String),
    Release(usize),
}

/// A blob to be sent, and who waits for what becomes of it.
pub(super) struct NewBlob {
    pub(super) to: Option<UserId>,
    pub(super) info_type: u32,
    pub(super) name: String,
    pub(super) body: Bytes,
    sent: SentBlob,
}

struct SentBlob {
    confirmed: Arc<AtomicU64>,
    outcome: Sender<Result<BlobOutcome, SendError>>,
}

/// How other threads reach an engine about blobs.
#[derive(Clone, Debug)]
pub(super) struct BlobLine {
    commands: CommandLine<BlobCommand>,
}

impl BlobLine {
    /// A line, and its end at the engine.
    pub(super) fn new(wake: Arc<Wake>) -> (BlobLine, BlobDesk) {
        let (commands, queue) = CommandLine::new(wake);
        let line = BlobLine { commands };
        // The keys are this engine's own.
        let sent = HashMap::with_hasher(ahash::RandomState::with_seeds(1, 2, 3, 4));
        (line.clone(), BlobDesk { line, queue, sent })
    }

    /// Asks for a blob to be sent.
    pub(super) fn send(
        &self,
        to: Option<UserId>,
        info_type: u32,
        name: &str,
        body: Bytes,
    ) -> Result<BlobHandle, Overloaded> {
        let confirmed = Arc::<AtomicU64>::default();
        let size = body.len() as u64;
        let outcome = self.commands.ask(|outcome| {
            let sent = SentBlob { confirmed: Arc::clone(&confirmed), outcome };
            BlobCommand::Send(NewBlob { to, info_type, name: name.to_owned(), body, sent })
        })?;
        Ok(BlobHandle { size, confirmed, line: self.clone(), outcome })
    }

    /// Wants no more of a blob.
    pub(super) fn stop(&self, key: &BlobKey) {
        self.tell(BlobCommand::Refuse(key.clone(), BlobCause::Cancelled, String::new()));
    }

    fn tell(&self, command: BlobCommand) {
        self.commands.tell(command);
    }
}

/// An engine's part: what it is asked, and who waits for the blobs that it sends.
pub(super) struct BlobDesk {
    /// The other end, for what is handed out.
    line: BlobLine,
    queue: Receiver<BlobCommand>,
    sent: HashMap<u64, SentBlob, ahash::RandomState>,
}

impl BlobDesk {
    /// How many commands wait.
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// The next of them.
    pub(super) fn poll(&self) -> Option<BlobCommand> {
        self.queue.try_recv().ok()
    }

    /// Hands a new blob to the core's `send`, which gives it an id.
    pub(super) fn send(
        &mut self,
        blob: NewBlob,
        send: impl FnOnce(Option<UserId>, u32, &str, Bytes) -> Result<u64, SendError>,
    ) {
        let NewBlob { to, info_type, name, body, sent } = blob;
        match send(to, info_type, &name, body) {
            Ok(id) => drop(self.sent.insert(id, sent)),
            Err(error) => resolve(&sent.outcome, Err(error)),
        }
    }

    /// The id of a blob by what its handle holds; none where it is through.
    pub(super) fn id_of(&self, confirmed: &Arc<AtomicU64>) -> Option<u64> {
        self.sent.iter().find(|(_, sent)| Arc::ptr_eq(&sent.confirmed, confirmed)).map(|(id, _)| *id)
    }

    /// Tells whoever waits for a blob that is sent; hands on what is about one that comes.
    pub(super) fn hear(&mut self, event: BlobEvent) -> Option<IncomingBlob> {
        Some(match event {
            BlobEvent::Offered { key, info_type, manifest: Manifest { size, name } } => {
                IncomingBlob::Offered(BlobOffer { key, info_type, size, name, line: Some(self.line.clone()) })
            }
            BlobEvent::Came { key, received, size } => IncomingBlob::Progress { key, received, size },
            BlobEvent::Received { key, info_type, name, body } => {
                let held = Held { bytes: body.len(), line: self.line.clone() };
                IncomingBlob::Whole(Blob { key, info_type, name, body, held })
            }
            BlobEvent::Failed { key, cause } => IncomingBlob::Failed { key, cause },
            BlobEvent::Confirmed { id, bytes } => {
                if let Some(sent) = self.sent.get(&id) {
                    sent.confirmed.store(bytes, Ordering::Relaxed);
                }
                return None;
            }
            BlobEvent::Settled { id, outcome } => {
                if let Some(sent) = self.sent.remove(&id) {
                    resolve(&sent.outcome, Ok(outcome));
                }
                return None;
            }
        })
    }
}
