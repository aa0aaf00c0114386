//! What handlers and other threads use a running server with.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::Sender;

use super::blob::{BlobHandle, BlobLine};
use super::groups::GroupCommand;
use super::line::CommandLine;
use super::outcomes::{Cursor, LocateOutcome, Locating, Profile, QueryOutcome, UserPage, Waiting};
use super::plain::PlainIds;
use super::{Asker, Pending, resolve};
use crate::id::{ServerId, UserId};
use crate::limits;
use crate::net::Calls;
use crate::role::Counters;
use crate::role::blob::BlobKey;
use crate::role::client::{QueryFailure, SendError};
use crate::time::Span;
use crate::wire::{Bounce, Flags, ListRequest};

/// What other threads, and handlers, ask of a running server.
pub(crate) enum Command {
    Send { to: UserId, info_type: u32, flags: Flags, body: Vec<u8>, id: u64 },
    Query { to: UserId, info_type: u32, body: Vec<u8>, patience: Span, outcome: Sender<QueryOutcome> },
    SendToServer { to: ServerId, info_type: u32, body: Vec<u8>, id: u64 },
    QueryServer { to: ServerId, info_type: u32, body: Vec<u8>, patience: Span, outcome: Sender<QueryOutcome> },
    Kick { user: UserId, text: String },
    Group(GroupCommand),
    SendAcked { to: UserId, info_type: u32, body: Vec<u8>, patience: Span, outcome: Sender<Result<(), QueryFailure>> },
    SendEveryone { info_type: u32, body: Vec<u8> },
    Locate { users: Vec<UserId>, outcome: Locating },
    Inspect { user: UserId, outcome: Sender<Result<Option<Profile>, QueryFailure>> },
    List { request: ListRequest, waiting: Waiting },
    SetTag { user: UserId, tag: String },
    Online(Sender<Vec<UserId>>),
    Watch(Vec<UserId>),
    Unwatch(Vec<UserId>),
    WatchEveryone,
    UnwatchEveryone,
    Counters(Sender<Counters>),
    Vitals(Asker<ServerVitals>),
}

/// What a server knows of itself.
#[derive(Clone, Debug)]
pub struct ServerVitals {
    /// What it did with frames since its start.
    pub counters: Counters,
    /// System calls since then.
    pub calls: Calls,
    /// Time since then.
    pub uptime: Span,
    /// Users that are in.
    pub users: usize,
    /// Connections, those that have not logged in and the one to the cluster included.
    pub connections: usize,
    /// Bytes that wait for all of them together.
    pub memory_held: usize,
    /// Of which there may be so many.
    pub memory_max: usize,
    /// Whether the link to the cluster stands; false too where there is none to be.
    pub is_clustered: bool,
}

/// Why a tag is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    /// Longer than 256 bytes.
    #[error("a tag has at most {} bytes", limits::TAG_BYTES_MAX)]
    TooLong,
    /// See [`Overloaded`].
    #[error(transparent)]
    Overloaded(#[from] Overloaded),
}

/// Why an engine takes no more commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Overloaded {
    /// Too many wait: it may take some later.
    #[error("too many commands wait")]
    Full,
    /// It takes none ever again.
    #[error("the engine has stopped")]
    Stopped,
}

impl From<Overloaded> for SendError {
    fn from(overloaded: Overloaded) -> SendError {
        match overloaded {
            Overloaded::Full => SendError::Full,
            Overloaded::Stopped => SendError::Stopped,
        }
    }
}

/// A running server, for handlers and other threads. Cheap to clone; no call blocks.
#[derive(Clone)]
pub struct ServerHandle {
    pub(super) commands: CommandLine<Command>,
    pub(super) blob_line: BlobLine,
    pub(super) ids: Arc<PlainIds>,
    pub(super) told_to_stop: Arc<AtomicBool>,
}

impl ServerHandle {
    /// Sends a message to a user on any server, at most once. One that does not reach its receiver is told to
    /// [`Handler::on_undelivered`](super::Handler::on_undelivered) with the id.
    pub fn send(&self, to: &UserId, info_type: u32, body: Vec<u8>) -> Result<u64, Overloaded> {
        self.send_with(to, Flags::NONE, info_type, body)
    }

    /// As [`ServerHandle::send`]; the message may be dropped behind a slow receiver.
    pub fn send_droppable(&self, to: &UserId, info_type: u32, body: Vec<u8>) -> Result<u64, Overloaded> {
        self.send_with(to, Flags::DROPPABLE, info_type, body)
    }

    fn send_with(&self, to: &UserId, flags: Flags, info_type: u32, body: Vec<u8>) -> Result<u64, Overloaded> {
        let id = self.ids.next_to_user();
        self.command(Command::Send { to: to.clone(), info_type, flags, body, id })?;
        Ok(id)
    }

    /// Sends a message to a user on any server, once; the outcome is there when the user's program has it, and after
    /// `patience` at the latest. After a lost connection or time the message may still have arrived.
    pub fn send_acked(
        &self,
        to: &UserId,
        info_type: u32,
        body: Vec<u8>,
        patience: Duration,
    ) -> Result<Pending<Result<(), QueryFailure>>, Overloaded> {
        self.commands.ask(|outcome| Command::SendAcked {
            to: to.clone(),
            info_type,
            body,
            patience: patience.into(),
            outcome,
        })
    }

    /// Sends a message to every user of every server, at most once each: who comes or goes meanwhile may miss it, and so
    /// does, counted, one whose queue is full, and a server that the cluster does not reach.
    pub fn send_everyone(&self, info_type: u32, body: Vec<u8>) -> Result<(), Overloaded> {
        self.command(Command::SendEveryone { info_type, body })
    }

    /// Asks a user on any server; the outcome is there after `patience` at the latest.
    pub fn query(
        &self,
        to: &UserId,
        info_type: u32,
        body: Vec<u8>,
        patience: Duration,
    ) -> Result<Pending<QueryOutcome>, Overloaded> {
        self.commands.ask(|outcome| Command::Query {
            to: to.clone(),
            info_type,
            body,
            patience: patience.into(),
            outcome,
        })
    }

    /// Sends a message to the application of a server of the cluster, this one's own included, at most once. One that does
    /// not reach it is told to [`Handler::on_undelivered`](super::Handler::on_undelivered) with the id.
    pub fn send_to_server(&self, to: ServerId, info_type: u32, body: Vec<u8>) -> Result<u64, Overloaded> {
        let id = self.ids.next_to_server();
        self.command(Command::SendToServer { to, info_type, body, id })?;
        Ok(id)
    }

    /// Asks the application of a server of the cluster, this one's own included; the outcome is there after `patience` at
    /// the latest. A server that is not in the cluster: OFFLINE.
    pub fn query_server(
        &self,
        to: ServerId,
        info_type: u32,
        body: Vec<u8>,
        patience: Duration,
    ) -> Result<Pending<QueryOutcome>, Overloaded> {
        self.commands.ask(|outcome| Command::QueryServer { to, info_type, body, patience: patience.into(), outcome })
    }

    /// Sends a blob to a user on any server, as [`Client::send_blob`](super::Client::send_blob).
    pub fn send_blob(
        &self,
        to: &UserId,
        info_type: u32,
        name: &str,
        body: impl Into<Bytes>,
    ) -> Result<BlobHandle, Overloaded> {
        self.blob_line.send(Some(to.clone()), info_type, name, body.into())
    }

    /// Wants no more of a blob that was accepted: its sender is told, and nothing more is heard of it.
    pub fn stop_blob(&self, key: &BlobKey) {
        self.blob_line.stop(key);
    }

    /// Ends the user's session with KICKED, whichever server it is on. Its client is told the text, of which 512 bytes
    /// count.
    pub fn kick(&self, user: &UserId, text: &str) -> Result<(), Overloaded> {
        self.command(Command::Kick { user: user.clone(), text: text.to_owned() })
    }

    /// Where the users are, in the order asked: a server, nowhere, or why that can't be told. At most 100 at once; more
    /// are answered BUSY.
    pub fn locate(&self, users: Vec<UserId>) -> Result<Pending<LocateOutcome>, Overloaded> {
        self.commands.ask(|outcome| Command::Locate { users, outcome: Locating::All(outcome) })
    }

    /// Whether the user is on any server, or why that can't be told.
    pub fn is_online(&self, user: &UserId) -> Result<Pending<Result<bool, Bounce>>, Overloaded> {
        self.commands.ask(|outcome| Command::Locate { users: vec![user.clone()], outcome: Locating::IsOnline(outcome) })
    }

    /// What is known of the user, on whichever server; none where the user is on none.
    pub fn inspect(&self, user: &UserId) -> Result<Pending<Result<Option<Profile>, QueryFailure>>, Overloaded> {
        self.commands.ask(|outcome| Command::Inspect { user: user.clone(), outcome })
    }

    /// How many users are in on all servers.
    pub fn count(&self) -> Result<Pending<Result<u64, QueryFailure>>, Overloaded> {
        self.commands.ask(|outcome| Command::List { request: ListRequest::default(), waiting: Waiting::Count(outcome) })
    }

    /// A page of all users, or of one server's: the first, or the one at the cursor of the page before; at most `limit` of
    /// them, and at most 1,000. Who is in throughout all pages is in exactly one, unless it logs in again meanwhile.
    pub fn users(
        &self,
        server: Option<ServerId>,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<Pending<Result<UserPage, QueryFailure>>, Overloaded> {
        let request = ListRequest { server, after: after.map_or(0, |cursor| cursor.0), limit };
        self.commands.ask(|outcome| Command::List { request, waiting: Waiting::Users(outcome) })
    }

    /// Notes something of a user that is on this server, for all who inspect it, until its session ends; nothing where the
    /// text is empty. Of a user that is not here nothing is noted.
    ///
    /// # Errors
    /// The text is longer than 256 bytes, or the server takes no more commands.
    pub fn set_tag(&self, user: &UserId, tag: &str) -> Result<(), TagError> {
        if tag.len() > limits::TAG_BYTES_MAX {
            return Err(TagError::TooLong);
        }
        Ok(self.command(Command::SetTag { user: user.clone(), tag: tag.to_owned() })?)
    }

    /// Watches users, on whatever server they are: [`Handler::on_presence`](super::Handler::on_presence) hears of each once it
    /// is known how it stands, and of each change. A server watches 1,048,576 users for its clients and its application; more
    /// are counted and not watched.
    pub fn watch(&self, users: Vec<UserId>) -> Result<(), Overloaded> {
        self.command(Command::Watch(users))
    }

    /// Watches users no more.
    pub fn unwatch(&self, users: Vec<UserId>) -> Result<(), Overloaded> {
        self.command(Command::Unwatch(users))
    }

    /// Watches everyone: [`Handler::on_presence`](super::Handler::on_presence) hears of each user that is online, on any
    /// server, and of each change. At most 8,192 users are told of, so it is for small deployments; more are counted, and
    /// told of by name only ([`ServerHandle::watch`]).
    pub fn watch_everyone(&self) -> Result<(), Overloaded> {
        self.command(Command::WatchEveryone)
    }

    /// Watches nobody any more but those that were named.
    pub fn unwatch_everyone(&self) -> Result<(), Overloaded> {
        self.command(Command::UnwatchEveryone)
    }

    /// The users that are on this server now, sorted.
    pub fn online(&self) -> Result<Pending<Vec<UserId>>, Overloaded> {
        self.commands.ask(Command::Online)
    }

    /// What the server did with frames since it started.
    pub fn counters(&self) -> Result<Pending<Counters>, Overloaded> {
        self.commands.ask(Command::Counters)
    }

    /// What the server knows of itself.
    pub fn vitals(&self) -> Result<Pending<ServerVitals>, Overloaded> {
        self.commands.ask(|outcome| Command::Vitals(Asker::new(move |vitals| resolve(&outcome, vitals))))
    }

    /// Closes every connection with SHUTDOWN and ends the server, however many commands wait; in the midst of a drain
    /// too.
    pub fn stop(&self) {
        self.told_to_stop.store(true, Ordering::Release);
        self.commands.wake();
    }

    pub(crate) fn command(&self, command: Command) -> Result<(), Overloaded> {
        self.commands.give(command)
    }
}
