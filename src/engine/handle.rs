//! What handlers and other threads use a running server with.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::Sender;

use super::groups::GroupCommand;
use super::{Asker, Pending, resolve};
use crate::id::{ServerId, UserId};
use crate::limits;
use crate::net::{Calls, Wake};
use crate::role::Counters;
use crate::role::client::QueryFailure;
use crate::time::Span;
use crate::wire::{Bounce, Flags};

pub(crate) type QueryOutcome = Result<Vec<u8>, QueryFailure>;
pub(crate) type LocateOutcome = Vec<Result<Option<ServerId>, Bounce>>;

/// What other threads, and handlers, ask of a running server.
pub(crate) enum Command {
    Send { to: UserId, info_type: u32, flags: Flags, body: Vec<u8> },
    Query { to: UserId, info_type: u32, body: Vec<u8>, patience: Span, outcome: Sender<QueryOutcome> },
    SendToServer { to: ServerId, info_type: u32, body: Vec<u8> },
    QueryServer { to: ServerId, info_type: u32, body: Vec<u8>, patience: Span, outcome: Sender<QueryOutcome> },
    Kick { user: UserId, text: String },
    Locate { users: Vec<UserId>, outcome: Sender<LocateOutcome> },
    Group(GroupCommand),
    Online(Sender<Vec<UserId>>),
    Watch(Vec<UserId>),
    Unwatch(Vec<UserId>),
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

/// The server takes no more commands: too many wait, or it has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server takes no more commands")]
pub struct Overloaded;

/// A running server, for handlers and other threads. Cheap to clone; no call blocks.
#[derive(Clone)]
pub struct ServerHandle {
    pub(super) commands: Sender<Command>,
    pub(super) told_to_stop: Arc<AtomicBool>,
    pub(super) wake: Arc<Wake>,
}

impl ServerHandle {
    /// Sends a message to a user on any server, at most once: what can't be delivered is counted and dropped.
    pub fn send(&self, to: &UserId, info_type: u32, body: Vec<u8>) -> Result<(), Overloaded> {
        self.command(Command::Send { to: to.clone(), info_type, flags: Flags::NONE, body })
    }

    /// Sends a message that may be dropped behind a slow receiver.
    pub fn send_droppable(&self, to: &UserId, info_type: u32, body: Vec<u8>) -> Result<(), Overloaded> {
        self.command(Command::Send { to: to.clone(), info_type, flags: Flags::DROPPABLE, body })
    }

    /// Asks a user on any server; the outcome is there after `patience` at the latest.
    pub fn query(
        &self,
        to: &UserId,
        info_type: u32,
        body: Vec<u8>,
        patience: std::time::Duration,
    ) -> Result<Pending<QueryOutcome>, Overloaded> {
        let (outcome, pending) = Pending::new();
        self.command(Command::Query { to: to.clone(), info_type, body, patience: patience.into(), outcome })?;
        Ok(pending)
    }

    /// Sends a message to the application of a server of the cluster, this one's own included, at most once: what can't be
    /// delivered is counted and dropped.
    pub fn send_to_server(&self, to: ServerId, info_type: u32, body: Vec<u8>) -> Result<(), Overloaded> {
        self.command(Command::SendToServer { to, info_type, body })
    }

    /// Asks the application of a server of the cluster, this one's own included; the outcome is there after `patience` at
    /// the latest. A server that is not in the cluster: OFFLINE.
    pub fn query_server(
        &self,
        to: ServerId,
        info_type: u32,
        body: Vec<u8>,
        patience: std::time::Duration,
    ) -> Result<Pending<QueryOutcome>, Overloaded> {
        let (outcome, pending) = Pending::new();
        self.command(Command::QueryServer { to, info_type, body, patience: patience.into(), outcome })?;
        Ok(pending)
    }

    /// Ends the user's session with KICKED, whichever server it is on.
    pub fn kick(&self, user: &UserId, text: &str) -> Result<(), Overloaded> {
        self.command(Command::Kick { user: user.clone(), text: text.to_owned() })
    }

    /// Where the users are, in the order asked: a server, nowhere, or why that can't be told. At most 100 at once; more
    /// are answered BUSY.
    pub fn locate(&self, users: Vec<UserId>) -> Result<Pending<LocateOutcome>, Overloaded> {
        let (outcome, pending) = Pending::new();
        self.command(Command::Locate { users, outcome })?;
        Ok(pending)
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

    /// The users that are on this server now, sorted.
    pub fn online(&self) -> Result<Pending<Vec<UserId>>, Overloaded> {
        let (outcome, pending) = Pending::new();
        self.command(Command::Online(outcome))?;
        Ok(pending)
    }

    /// What the server did with frames since it started.
    pub fn counters(&self) -> Result<Pending<Counters>, Overloaded> {
        let (outcome, pending) = Pending::new();
        self.command(Command::Counters(outcome))?;
        Ok(pending)
    }

    /// What the server knows of itself.
    pub fn vitals(&self) -> Result<Pending<ServerVitals>, Overloaded> {
        let (outcome, pending) = Pending::new();
        self.command(Command::Vitals(Asker::new(move |vitals| resolve(&outcome, vitals))))?;
        Ok(pending)
    }

    /// Closes every connection with SHUTDOWN and ends the server, however many commands wait; in the midst of a drain
    /// too.
    pub fn stop(&self) {
        self.told_to_stop.store(true, Ordering::Release);
        self.wake.wake();
    }

    pub(crate) fn command(&self, command: Command) -> Result<(), Overloaded> {
        if self.commands.len() >= limits::ENGINE_COMMANDS_MAX {
            return Err(Overloaded);
        }
        self.commands.send(command).map_err(|_| Overloaded)?;
        self.wake.wake();
        Ok(())
    }
}
