//! What other threads use a running cluster manager with.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::engine::{Asker, Overloaded, Pending, resolve};
use crate::id::{GroupId, ServerId, UserId};
use crate::limits;
use crate::net::{Calls, Wake};
use crate::role::Counters;
use crate::role::acms::{Assigned, DirectoryPage, NoServer, ServerView, Settled};
use crate::time::Span;
use crate::wire::Bounce;

/// What an operator can have a server do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerChange {
    /// Take no new users; who is there stays.
    Freeze,
    /// End a freeze, also of a server that is away.
    Unfreeze,
    /// Send its users to others, and stop.
    Drain,
    /// Leave the cluster, its users with it, until it is started again.
    Remove,
}

/// What came of a message, or why it was not sent; none where nobody answers such a one.
pub type MessageOutcome = Result<Option<Settled>, Bounce>;

/// Whom an operator's message is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessageTo {
    /// A user, whose receipt is awaited.
    User(UserId),
    /// All members of a group.
    Group(GroupId),
    /// Every user of every server.
    Everyone,
    /// A server's application.
    Server(ServerId),
    /// A server's application, whose answer is awaited.
    ServerQuery(ServerId),
}

/// What an operator sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorMessage {
    /// For whom.
    pub to: MessageTo,
    /// The application's information type.
    pub info_type: u32,
    /// The body; what does not fit a user's frames is bounced by its server.
    pub body: Vec<u8>,
    /// How long what comes of it is waited for: 60 s at most, where more is given too.
    pub patience: Span,
}

/// What other threads ask of a running cluster manager.
pub(crate) enum Command {
    Servers(Asker<Vec<ServerView>>),
    Change { server: ServerId, change: ServerChange, asker: Asker<bool> },
    Assign { user: Option<UserId>, asker: Asker<Result<Assigned, NoServer>> },
    Kick { user: UserId, text: String, asker: Asker<Result<(), Bounce>> },
    Users { server: Option<ServerId>, after: u64, limit: usize, asker: Asker<DirectoryPage> },
    Message { message: OperatorMessage, asker: Asker<MessageOutcome> },
    Members { group: GroupId, asker: Asker<MessageOutcome> },
    Inspect { user: UserId, asker: Asker<MessageOutcome> },
    Vitals(Asker<AcmsVitals>),
    Subscribe { subscriber: Subscriber, asker: Asker<Result<(), Overloaded>> },
}

/// What a cluster manager knows of itself.
#[derive(Clone, Debug)]
pub struct AcmsVitals {
    /// What it did with frames since its start.
    pub counters: Counters,
    /// System calls since then.
    pub calls: Calls,
    /// Time since then.
    pub uptime: Span,
    /// Users that are in, on all servers.
    pub users: usize,
    /// Registered servers.
    pub servers: usize,
    /// Servers that are frozen and not registered, by number.
    pub frozen_away: Vec<ServerId>,
    /// Those who hear of what happens.
    pub subscribers: usize,
    /// Connections, those that have not proven to be a server's included.
    pub connections: usize,
    /// Bytes that wait for all of them together.
    pub memory_held: usize,
    /// Of which there may be so many.
    pub memory_max: usize,
}

/// What happens in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterEvent {
    /// A server is in.
    ServerRegistered {
        /// Which.
        server: ServerId,
        /// Where clients reach it.
        address: String,
        /// Its boot number.
        incarnation: u64,
    },
    /// A server has told of all its users, at once: none of them is a [`ClusterEvent::UserOnline`].
    ServerSynced {
        /// Which.
        server: ServerId,
        /// How many there are.
        users: u32,
    },
    /// A server is out, and its users with it: none of them is a [`ClusterEvent::UserOffline`].
    ServerLost {
        /// Which.
        server: ServerId,
        /// How many there were.
        users: u32,
        /// Why.
        cause: String,
    },
    /// A user has come, or is in on another server now.
    UserOnline {
        /// Who.
        user: UserId,
        /// Where.
        server: ServerId,
    },
    /// A user has left.
    UserOffline {
        /// Who.
        user: UserId,
        /// The server that it was on.
        server: ServerId,
    },
}

/// Somebody who hears of what happens.
pub(crate) struct Subscriber {
    /// Whether of users too.
    pub(crate) users: bool,
    /// Gone where whoever took it is.
    pub(crate) alive: Weak<()>,
    /// Never waits. False where it was not taken: no more is told.
    pub(crate) tell: Box<dyn Fn(&ClusterEvent) -> bool + Send>,
}

impl fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber").field("users", &self.users).finish_non_exhaustive()
    }
}

/// Events as they come. It ends where it fell 4,096 behind, or the cluster manager has stopped.
#[derive(Debug)]
pub struct Subscription {
    receiver: Receiver<ClusterEvent>,
    _alive: Arc<()>,
}

impl Subscription {
    /// The channel that the events come by.
    pub fn receiver(&self) -> &Receiver<ClusterEvent> {
        &self.receiver
    }
}

/// A running cluster manager, for other threads: what its management port offers, as calls. Cheap to clone; no call
/// blocks.
///
/// # Errors
/// Each call fails where 256 commands wait already, or the cluster manager has stopped.
#[derive(Clone)]
pub struct AcmsHandle {
    pub(super) commands: Sender<Command>,
    pub(super) told_to_stop: Arc<AtomicBool>,
    pub(super) wake: Arc<Wake>,
}

impl AcmsHandle {
    /// Every registered server, by number.
    pub fn servers(&self) -> Result<Pending<Vec<ServerView>>, Overloaded> {
        self.ask(Command::Servers)
    }

    /// Changes what a server does. False where it is not registered, but for the end of its freeze.
    pub fn change(&self, server: ServerId, change: ServerChange) -> Result<Pending<bool>, Overloaded> {
        self.ask(|asker| Command::Change { server, change, asker })
    }

    /// The server that a user is to dial who is about to log in; it counts there at once.
    pub fn assign(&self, user: Option<UserId>) -> Result<Pending<Result<Assigned, NoServer>>, Overloaded> {
        self.ask(|asker| Command::Assign { user, asker })
    }

    /// Ends the user's session with KICKED and the text, of at most 512 bytes, whichever server it is on. OFFLINE or RETRY where the user is not found.
    pub fn kick(&self, user: UserId, text: &str) -> Result<Pending<Result<(), Bounce>>, Overloaded> {
        let text = text.to_owned();
        self.ask(|asker| Command::Kick { user, text, asker })
    }

    /// Some of all users, or of one server's, from where the page before ended; `None` is the beginning. At most 1,000.
    pub fn users(
        &self,
        server: Option<ServerId>,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Pending<DirectoryPage>, Overloaded> {
        let (after, limit) = (after.unwrap_or(0), limit.min(limits::PAGE_USERS_MAX));
        self.ask(|asker| Command::Users { server, after, limit, asker })
    }

    /// Sends a message; its outcome is there after its patience at the latest.
    pub fn send(&self, message: OperatorMessage) -> Result<Pending<MessageOutcome>, Overloaded> {
        self.ask(|asker| Command::Message { message, asker })
    }

    /// What a user's server knows of the user: [`Settled::Known`], after 3 s at the latest.
    pub fn inspect(&self, user: UserId) -> Result<Pending<MessageOutcome>, Overloaded> {
        self.ask(|asker| Command::Inspect { user, asker })
    }

    /// Who is in a group: [`Settled::Members`], after 3 s at the latest.
    pub fn members(&self, group: GroupId) -> Result<Pending<MessageOutcome>, Overloaded> {
        self.ask(|asker| Command::Members { group, asker })
    }

    /// What it knows of itself.
    pub fn vitals(&self) -> Result<Pending<AcmsVitals>, Overloaded> {
        self.ask(Command::Vitals)
    }

    /// Events from now on, with users coming and going where `users` says so. At most 32 subscribers at a time.
    pub fn subscribe(&self, users: bool) -> Result<Pending<Result<Subscription, Overloaded>>, Overloaded> {
        let (sender, receiver) = bounded(limits::SUBSCRIBER_EVENTS_MAX);
        let alive = Arc::new(());
        let tell = Box::new(move |event: &ClusterEvent| sender.try_send(event.clone()).is_ok());
        let subscriber = Subscriber { users, alive: Arc::downgrade(&alive), tell };
        let (outcome, pending) = Pending::new();
        let asker = Asker::new(move |taken: Result<(), Overloaded>| {
            resolve(&outcome, taken.map(|()| Subscription { receiver, _alive: alive }));
        });
        self.command(Command::Subscribe { subscriber, asker })?;
        Ok(pending)
    }

    /// Closes every connection with SHUTDOWN and ends it, however many commands wait.
    pub fn stop(&self) {
        self.told_to_stop.store(true, Ordering::Release);
        self.wake.wake();
    }

    fn ask<T: Send + 'static>(&self, command: impl FnOnce(Asker<T>) -> Command) -> Result<Pending<T>, Overloaded> {
        let (outcome, pending) = Pending::new();
        self.command(command(Asker::new(move |told| resolve(&outcome, told))))?;
        Ok(pending)
    }

    /// Never waits.
    pub(crate) fn command(&self, command: Command) -> Result<(), Overloaded> {
        self.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => Overloaded::Full,
            TrySendError::Disconnected(_) => Overloaded::Stopped,
        })?;
        self.wake.wake();
        Ok(())
    }
}
