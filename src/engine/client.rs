//! The client that an application embeds.
//!
//! Long for its surface: each call has its documentation, its command and what it comes to in this one file.

use std::collections::VecDeque;
use std::io;
use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use hashbrown::HashMap;

use super::blob::{BlobCommand, BlobDesk, BlobHandle, BlobLine, IncomingBlob};
use super::guide::Guide;
use super::line::CommandLine;
use super::{Pending, Running, failure, resolve, resolve_address, seed};
use crate::caller::{Caller, CallerError};
use crate::id::{GroupId, IdError, UserId};
use crate::limits;
use crate::net::{Reactor, Tuning};
use crate::role::blob::{self, BlobKey};
use crate::role::client::{self as core, Entrance, JoinFailure, QueryFailure, SendError, SendFailure, State};
use crate::time::{Span, Time};
use crate::wire::{Answer, Bounce, CloseCode, Flags, GroupChange, Login, Welcome, parse_object};

/// How soon events are offered again to an application that had no room for them.
const EVENT_RETRY: Span = Span::from_millis(2);
/// Ids set aside for plain sends: more than a client can send in its life.
const PLAIN_IDS: u64 = 1 << 48;

/// What an acknowledged send came to: the receiver's engine has the message, or why not.
pub type Delivery = Result<(), SendFailure>;

/// What happened that the application is to hear of.
#[derive(Debug)]
pub enum Event {
    /// The connection changed.
    State(State),
    /// A message came.
    Message(Message),
    /// A query came.
    Query(Query),
    /// A friend, or a user that this client watches, came or went: a change of what was told before. Who was not told of is
    /// offline, or not known.
    Presence {
        /// Which.
        user: UserId,
        /// Whether it is in, on any server.
        online: bool,
    },
    /// A message to a group came.
    GroupMessage {
        /// The group.
        group: GroupId,
        /// The message.
        message: Message,
    },
    /// A member of a group came or went, or server code put this user in or took it out.
    Member {
        /// The group.
        group: GroupId,
        /// Who.
        user: UserId,
        /// What happened.
        change: GroupChange,
    },
    /// Comings and goings may have been missed: an application that keeps a list of the group's members asks anew
    /// ([`Client::members`]).
    MembersMissed(GroupId),
    /// A plain send or a broadcast did not reach its receiver.
    Undelivered {
        /// Whom it did not reach; none for a server. For a broadcast it is a member, or bears the group's name: then nobody
        /// on other servers, or nobody at all, was reached for certain.
        to: Option<UserId>,
        /// The id that [`Client::send`] or [`Client::broadcast`] gave.
        id: u64,
        /// Why.
        cause: Undelivered,
    },
    /// A blob is offered, comes, or does not; only where [`ClientBuilder::takes_blobs`] was called.
    Blob(IncomingBlob),
}

/// Why a plain send did not reach its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undelivered {
    /// It came back.
    #[error("not delivered: {0}")]
    Bounced(Bounce),
    /// It did not leave.
    #[error("not sent: {0}")]
    NotSent(SendError),
}

/// A message from a user or a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who sent it; none for a server.
    pub from: Option<UserId>,
    /// The application's information type.
    pub info_type: u32,
    /// The body.
    pub body: Vec<u8>,
    /// Whether more fragments with the same id follow.
    pub more: bool,
    /// The sender's id for it.
    pub id: u64,
}

/// A query from a user or a server. One that is dropped without an answer times out at the asker.
#[derive(Debug)]
pub struct Query {
    /// What was asked.
    pub message: Message,
    commands: CommandLine<Command>,
}

impl Query {
    /// Answers. Where the connection was lost meanwhile, the asker has been told so. An answer that is too big, or for which
    /// there is no room, is [`QueryFailure::Failed`] at the asker.
    pub fn reply(self, body: Vec<u8>) {
        self.answer(Flags::NONE, body);
    }

    /// Says that there is no answer, and why: [`QueryFailure::Failed`] at the asker.
    pub fn fail(self, text: &str) {
        self.answer(Flags::ERROR, failure(text).into());
    }

    /// Says that this program answers no such queries: [`QueryFailure::NoHandler`] at the asker.
    pub fn decline(self) {
        self.answer(Flags::ERROR, Vec::new());
    }

    fn answer(self, flags: Flags, body: Vec<u8>) {
        let Message { from, info_type, id, .. } = self.message;
        self.commands.tell(Command::Reply { to: from, id, flags, info_type, body });
    }
}

enum Command {
    Send { to: Option<UserId>, flags: Flags, info_type: u32, body: Vec<u8>, id: u64 },
    SendAcked { to: UserId, info_type: u32, body: Vec<u8>, outcome: Sender<Result<Delivery, SendError>> },
    Query { to: Option<UserId>, info_type: u32, body: Vec<u8>, patience: Span, outcome: Sender<QueryOutcome> },
    Reply { to: Option<UserId>, id: u64, flags: Flags, info_type: u32, body: Vec<u8> },
    Ask { question: Vec<u8>, outcome: Sender<AskOutcome> },
    Join { group: GroupId, outcome: Sender<JoinOutcome> },
    Leave(GroupId),
    Broadcast { group: GroupId, flags: Flags, info_type: u32, body: Vec<u8>, id: u64 },
    Watch { users: Vec<UserId>, outcome: Sender<AskOutcome> },
    Unwatch(Vec<UserId>),
}

type JoinOutcome = Result<Result<(), JoinFailure>, SendError>;
type AskOutcome = Result<Result<Answer, QueryFailure>, SendError>;
type QueryOutcome = Result<Result<Vec<u8>, QueryFailure>, SendError>;

/// Why a first connection was not made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The user id breaks its rule.
    #[error(transparent)]
    User(#[from] IdError),
    /// The URL or the token of the ACMS break their rules.
    #[error(transparent)]
    Acms(#[from] CallerError),
    /// A name without an address, or no descriptor left.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The server refuses this login for good, or the ACMS to name a server.
    #[error("{code}: {text}")]
    Refused {
        /// The server's code.
        code: CloseCode,
        /// In the server's words.
        text: String,
    },
    /// No server let this user in within the time; the last attempt ended like this.
    #[error("no login within the time: {0}")]
    TimedOut(String),
}

/// How a client connects; see [`Client::builder`].
pub struct ClientBuilder {
    user: Result<UserId, IdError>,
    login: Login,
    takes_queries: bool,
    blobs: blob::Config,
    patience: Duration,
}

impl ClientBuilder {
    /// The password that the server's application checks.
    pub fn password(mut self, password: impl Into<String>) -> ClientBuilder {
        self.login.password = Some(password.into());
        self
    }

    /// The token that the server's application checks.
    pub fn token(mut self, token: impl Into<String>) -> ClientBuilder {
        self.login.token = Some(token.into());
        self
    }

    /// Which of the user's devices this is.
    pub fn device(mut self, device: impl Into<String>) -> ClientBuilder {
        self.login.device = Some(device.into());
        self
    }

    /// Takes queries as [`Event::Query`]; otherwise they are answered with an error.
    pub fn takes_queries(mut self) -> ClientBuilder {
        self.takes_queries = true;
        self
    }

    /// Takes blobs: each is offered as an [`IncomingBlob::Offered`]. Otherwise they are refused.
    pub fn takes_blobs(mut self) -> ClientBuilder {
        self.blobs.taken = true;
        self
    }

    /// Bytes of a blob, at most, that is sent or taken; 64 MiB by default. What was received and not dropped yet may be
    /// twice as much in all; more is refused.
    pub fn max_blob(mut self, bytes: usize) -> ClientBuilder {
        self.blobs.bytes_max = bytes;
        self
    }

    /// How long [`ClientBuilder::connect`] tries; 10 s by default.
    pub fn patience(mut self, patience: Duration) -> ClientBuilder {
        self.patience = patience;
        self
    }

    /// Connects and logs in. From then on a lost connection is made again by itself.
    ///
    /// # Errors
    /// See [`ConnectError`]. A server that can't be reached is dialled again until the patience ends.
    pub fn connect(self, server: impl ToSocketAddrs) -> Result<Client, ConnectError> {
        let patience = self.patience;
        self.start(server)?.logged_in(patience)
    }

    /// As [`ClientBuilder::connect`], to the server that the ACMS at `http://HOST[:PORT]` assigns this user to. It is asked
    /// again after each lost connection, so that a server that is gone is left for another. `token` is the ACMS's, where it
    /// has one.
    ///
    /// # Errors
    /// See [`ConnectError`]. An ACMS that can't be reached, or has no server, is asked again until the patience ends.
    pub fn connect_via_acms(self, url: &str, token: Option<&str>) -> Result<Client, ConnectError> {
        let patience = self.patience;
        self.start_via_acms(url, token)?.logged_in(patience)
    }

    /// Starts to connect and returns at once: everything else is told as events.
    pub fn start(self, server: impl ToSocketAddrs) -> Result<Client, ConnectError> {
        let server = resolve_address(server)?;
        self.launch(Entrance::Fixed(server), None)
    }

    /// As [`ClientBuilder::start`], to a server that the ACMS names, as in [`ClientBuilder::connect_via_acms`].
    pub fn start_via_acms(self, url: &str, token: Option<&str>) -> Result<Client, ConnectError> {
        let acms = Caller::new(url, token)?;
        self.launch(Entrance::Asked, Some(acms))
    }

    fn launch(self, entrance: Entrance, acms: Option<Caller>) -> Result<Client, ConnectError> {
        let config = core::Config {
            entrance,
            user: self.user?,
            login: self.login,
            takes_queries: self.takes_queries,
            blobs: self.blobs,
            seed: seed()?,
        };
        let user = config.user.clone();
        let reactor = Reactor::new(Tuning::default())?;
        let wake = reactor.wake();
        let (commands, queue) = CommandLine::new(Arc::clone(&wake));
        let (sender, events) = bounded(limits::ENGINE_EVENTS_MAX);
        let closing = Arc::new(AtomicBool::new(false));
        let (blob_line, blobs) = BlobLine::new(Arc::clone(&wake));
        let mut core = core::Client::new(reactor.now(), config);
        let ids = AtomicU64::new(core.reserve_ids(PLAIN_IDS));
        let engine = Engine {
            core,
            guide: acms.map(|acms| Guide::new(acms, user.clone(), Arc::clone(&wake))),
            reactor,
            commands: commands.clone(),
            queue,
            events: sender,
            backlog: VecDeque::new(),
            closing: Arc::clone(&closing),
            deliveries: table(),
            queries: table(),
            answers: table(),
            blobs,
            joins: table(),
        };
        let running = Running::spawn("client", move || engine.run())?;
        Ok(Client { user, welcome: None, ids, closing, commands, blob_line, events, running: Some(running) })
    }
}

fn table<T>() -> HashMap<u64, T, ahash::RandomState> {
    // The keys are this engine's own.
    HashMap::with_hasher(ahash::RandomState::with_seeds(1, 2, 3, 4))
}

/// A user's connection to the platform: any server of a cluster, or one that stands alone.
///
/// It has a thread of its own. Dropping it logs out.
///
/// ```no_run
/// use trunkline::{Client, Event};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::connect("127.0.0.1:6000", "alice")?;
/// // Resolved once bob's program has the message, whichever server he is on.
/// client.send_acked(&"bob".parse()?, 0, b"hello".to_vec())?.wait()??;
/// while let Ok(event) = client.events().recv() {
///     if let Event::Message(message) = event {
///         println!("{:?}: {}", message.from, String::from_utf8_lossy(&message.body));
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct Client {
    user: UserId,
    welcome: Option<Welcome>,
    /// The next plain send's id.
    ids: AtomicU64,
    /// Set once: the engine is to log out, however many commands and events wait.
    closing: Arc<AtomicBool>,
    commands: CommandLine<Command>,
    blob_line: BlobLine,
    events: Receiver<Event>,
    running: Option<Running>,
}

impl Client {
    /// Connects to `server` and logs in as `user`, with nothing to show but the name.
    pub fn connect(server: impl ToSocketAddrs, user: &str) -> Result<Client, ConnectError> {
        Client::builder(user).connect(server)
    }

    /// More to say about the connection.
    pub fn builder(user: &str) -> ClientBuilder {
        let agent = concat!("trunkline/", env!("CARGO_PKG_VERSION")).to_owned();
        ClientBuilder {
            user: user.parse(),
            login: Login { agent: Some(agent), ..Login::default() },
            takes_queries: false,
            blobs: blob::Config::default(),
            patience: Duration::from_secs(10),
        }
    }

    /// Waits until the server has let this user in.
    fn logged_in(mut self, patience: Duration) -> Result<Client, ConnectError> {
        #[expect(clippy::disallowed_methods, reason = "the application's thread waits by the system's clock")]
        let ends = std::time::Instant::now().checked_add(patience);
        let mut last = "no answer".to_owned();
        loop {
            let event = match ends {
                Some(ends) => self.events.recv_deadline(ends).ok(),
                // Longer than there is time.
                None => self.events.recv().ok(),
            };
            match event {
                Some(Event::State(State::Online { welcome, .. })) => {
                    self.welcome = Some(welcome);
                    return Ok(self);
                }
                Some(Event::State(State::Stopped { code, text })) => return Err(ConnectError::Refused { code, text }),
                Some(Event::State(State::Reconnecting { gone, text, .. })) => {
                    last = if text.is_empty() { gone.to_string() } else { format!("{gone}: {text}") };
                }
                Some(Event::State(State::NoServer { text, .. })) => last = text,
                Some(Event::Message(_) | Event::Query(_) | Event::Undelivered { .. } | Event::Blob(_)) => {}
                Some(Event::GroupMessage { .. } | Event::Member { .. } | Event::MembersMissed(_)) => {}
                Some(Event::Presence { .. }) => {}
                None => return Err(ConnectError::TimedOut(last)),
            }
        }
    }

    /// Who this is.
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// What the server told at the first login; none where the client was only started.
    pub fn welcome(&self) -> Option<&Welcome> {
        self.welcome.as_ref()
    }

    /// What happens: messages, queries, the state of the connection. At most 1,024 wait here; past that the connection
    /// is not read, and those who send to this user feel it.
    pub fn events(&self) -> &Receiver<Event> {
        &self.events
    }

    /// Sends a message to a user on any server, at most once; to no user: to the server itself. One that does not reach
    /// its receiver comes back as [`Event::Undelivered`] with the id.
    ///
    /// # Errors
    /// The engine has stopped, or has 65,536 commands to do.
    pub fn send(&self, to: Option<&UserId>, info_type: u32, body: Vec<u8>) -> Result<u64, SendError> {
        self.send_with(to, Flags::NONE, info_type, body)
    }

    /// As [`Client::send`]; the message may be dropped behind a slow receiver.
    pub fn send_droppable(&self, to: Option<&UserId>, info_type: u32, body: Vec<u8>) -> Result<u64, SendError> {
        self.send_with(to, Flags::DROPPABLE, info_type, body)
    }

    fn send_with(&self, to: Option<&UserId>, flags: Flags, info_type: u32, body: Vec<u8>) -> Result<u64, SendError> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        self.command(Command::Send { to: to.cloned(), flags, info_type, body, id })?;
        Ok(id)
    }

    /// Sends a message until its receiver's engine has it. Resolved once: acknowledged, or failed with a cause; after
    /// 30 s at the latest. It is sent again over lost connections, and handed to the receiver once.
    pub fn send_acked(
        &self,
        to: &UserId,
        info_type: u32,
        body: Vec<u8>,
    ) -> Result<Pending<Result<Delivery, SendError>>, SendError> {
        Ok(self.commands.ask(|outcome| Command::SendAcked { to: to.clone(), info_type, body, outcome })?)
    }

    /// Asks a user on any server, or, with no user, the server itself. Resolved once, after `patience` at the latest.
    pub fn query(
        &self,
        to: Option<&UserId>,
        info_type: u32,
        body: Vec<u8>,
        patience: Duration,
    ) -> Result<Pending<QueryOutcome>, SendError> {
        Ok(self.commands.ask(|outcome| Command::Query {
            to: to.cloned(),
            info_type,
            body,
            patience: patience.into(),
            outcome,
        })?)
    }

    /// Sends a blob to a user on any server; to no user: to the server itself. It goes in parts of 16 KiB, each of which
    /// waits here behind at most one other frame of a blob, and beside whatever else is sent meanwhile. `name`, at most 255
    /// bytes, is for the receiver. Resolved once: the receiver's engine has all of it, checked, or not. It goes on over
    /// lost connections, and fails where it comes no further for 30 s. After a failure by time it may still have arrived.
    ///
    /// # Errors
    /// The engine has stopped, or has 65,536 commands to do. The outcome says `TooBig` above
    /// [`ClientBuilder::max_blob`], and `Full` where 64 are under way.
    pub fn send_blob(
        &self,
        to: Option<&UserId>,
        info_type: u32,
        name: &str,
        body: impl Into<Bytes>,
    ) -> Result<BlobHandle, SendError> {
        Ok(self.blob_line.send(to.cloned(), info_type, name, body.into())?)
    }

    /// Wants no more of a blob that was accepted: its sender is told, and nothing more is heard of it.
    pub fn stop_blob(&self, key: &BlobKey) {
        self.blob_line.stop(key);
    }

    /// On which server each of the users is; at most 100. Resolved once, after 10 s at the latest.
    pub fn locate(&self, users: &[UserId]) -> Result<Pending<AskOutcome>, SendError> {
        let users: Vec<&str> = users.iter().map(UserId::as_str).collect();
        let question = serde_json::json!({ "ask": "where", "users": users }).to_string().into_bytes();
        Ok(self.commands.ask(|outcome| Command::Ask { question, outcome })?)
    }

    /// Into a group, with members on any server; at most 256. Resolved once, after 30 s at the latest. From then on this user
    /// is in again after each lost connection, and hears who comes and goes ([`Event::Member`]) and what is said
    /// ([`Event::GroupMessage`]).
    pub fn join(&self, group: &GroupId) -> Result<Pending<JoinOutcome>, SendError> {
        Ok(self.commands.ask(|outcome| Command::Join { group: group.clone(), outcome })?)
    }

    /// Out of a group: nothing that is said in it is handed over any more.
    pub fn leave(&self, group: &GroupId) -> Result<(), SendError> {
        self.command(Command::Leave(group.clone()))
    }

    /// Says something to the other members of a group, at most once each. Each that it does not reach is an
    /// [`Event::Undelivered`] with the id.
    pub fn broadcast(&self, group: &GroupId, info_type: u32, body: Vec<u8>) -> Result<u64, SendError> {
        self.broadcast_with(group, Flags::NONE, info_type, body)
    }

    /// As [`Client::broadcast`]; the message may be dropped behind slow members.
    pub fn broadcast_droppable(&self, group: &GroupId, info_type: u32, body: Vec<u8>) -> Result<u64, SendError> {
        self.broadcast_with(group, Flags::DROPPABLE, info_type, body)
    }

    fn broadcast_with(&self, group: &GroupId, flags: Flags, info_type: u32, body: Vec<u8>) -> Result<u64, SendError> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        self.command(Command::Broadcast { group: group.clone(), flags, info_type, body, id })?;
        Ok(id)
    }

    /// Who is in a group that this user is in, and on which server; and whether these are all (`complete`). Resolved once,
    /// after 10 s at the latest.
    pub fn members(&self, group: &GroupId) -> Result<Pending<AskOutcome>, SendError> {
        let question = serde_json::json!({ "ask": "members", "group": group.as_str() }).to_string().into_bytes();
        Ok(self.commands.ask(|outcome| Command::Ask { question, outcome })?)
    }

    /// Whom this client hears of, and how they stand: the friends that its server's application gave it, and those that it
    /// watches. `online` is none where that is not known yet.
    pub fn friends(&self) -> Result<Pending<AskOutcome>, SendError> {
        Ok(self.commands.ask(|outcome| Command::Ask { question: br#"{"ask":"friends"}"#.to_vec(), outcome })?)
    }

    /// Watches users, on whatever server they are; at most 100 at once and 1,024 in all. The outcome has how each stands, or
    /// `denied`; from then on each that comes or goes is an [`Event::Presence`], beginning with those who are online. They are
    /// watched again after a reconnect, and a question that came to nothing is repeated; where there is no connection now,
    /// the outcome says so and they are watched once there is.
    pub fn watch(&self, users: &[UserId]) -> Result<Pending<AskOutcome>, SendError> {
        Ok(self.commands.ask(|outcome| Command::Watch { users: users.to_vec(), outcome })?)
    }

    /// Watches users no more, friends among them until the next login; at most 100 at once.
    pub fn unwatch(&self, users: &[UserId]) -> Result<(), SendError> {
        self.command(Command::Unwatch(users.to_vec()))
    }

    /// Logs out and waits until the connection has ended.
    pub fn close(mut self) -> io::Result<()> {
        self.log_out();
        // Nobody takes events any more: the engine must not wait until there is room for them.
        self.events = crossbeam_channel::never();
        self.running.take().map_or(Ok(()), Running::join)
    }

    fn log_out(&self) {
        self.closing.store(true, Ordering::Release);
        self.commands.wake();
    }

    fn command(&self, command: Command) -> Result<(), SendError> {
        Ok(self.commands.give(command)?)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.log_out();
    }
}

/// What runs on the client's thread.
struct Engine {
    core: core::Client,
    /// Asks for the server, where the core does.
    guide: Option<Guide>,
    reactor: Reactor,
    commands: CommandLine<Command>,
    queue: Receiver<Command>,
    events: Sender<Event>,
    /// What the application has had no room for; while there is any, nothing is read.
    backlog: VecDeque<Event>,
    closing: Arc<AtomicBool>,
    deliveries: HashMap<u64, Sender<Result<Delivery, SendError>>, ahash::RandomState>,
    queries: HashMap<u64, Sender<QueryOutcome>, ahash::RandomState>,
    answers: HashMap<u64, Sender<AskOutcome>, ahash::RandomState>,
    blobs: BlobDesk,
    joins: HashMap<u64, Sender<JoinOutcome>, ahash::RandomState>,
}

impl Engine {
    fn run(mut self) -> io::Result<()> {
        // The core dials, or asks, from its start: waiting first would be waiting for nothing.
        self.hand_over();
        self.reactor.send(&mut self.core);
        loop {
            let retry: Option<Time> = (!self.backlog.is_empty()).then(|| self.reactor.now() + EVENT_RETRY);
            self.reactor.receive(&mut self.core, retry)?;
            if self.closing.load(Ordering::Acquire) {
                self.core.log_out(self.reactor.now());
            }
            if let Some(found) = self.guide.as_ref().and_then(Guide::answer) {
                self.core.found(self.reactor.now(), found);
            }
            self.serve();
            self.reactor.send(&mut self.core);
            if self.core.is_stopped() {
                self.hand_over();
                return Ok(());
            }
        }
    }

    /// The application's part of a turn: what happened, and what it asks for.
    fn serve(&mut self) {
        // Who adds to the queue meanwhile wakes the next turn; this one has writes to do.
        for _ in 0..=self.queue.len() {
            self.hand_over();
            // What is obeyed may bring an event: without room for it, commands wait, and the backlog's timer comes back.
            if !self.backlog.is_empty() {
                return;
            }
            let Ok(command) = self.queue.try_recv() else { break };
            self.obey(command);
        }
        for _ in 0..self.blobs.waiting() {
            if let Some(command) = self.blobs.poll() {
                self.obey_blob(command);
            }
        }
        self.hand_over();
    }

    fn obey_blob(&mut self, command: BlobCommand) {
        let now = self.reactor.now();
        let core = &mut self.core;
        match command {
            BlobCommand::Send(blob) => {
                self.blobs.send(blob, |to, info_type, name, body| core.send_blob(now, to, info_type, name, body));
            }
            BlobCommand::Cancel(confirmed) => {
                if let Some(id) = self.blobs.id_of(&confirmed) {
                    core.cancel_blob(now, id);
                }
            }
            BlobCommand::Accept(key) => core.accept_blob(now, &key),
            BlobCommand::Refuse(key, cause, text) => core.refuse_blob(now, &key, cause, text),
            BlobCommand::Release(bytes) => core.release_blob(bytes),
        }
    }

    /// Brings events to the application, in order, as long as it has room.
    fn hand_over(&mut self) {
        let was_held = !self.backlog.is_empty();
        while let Some(event) = self.core.poll_event() {
            self.hear(event);
        }
        while let Some(event) = self.backlog.pop_front() {
            match self.events.try_send(event) {
                Ok(()) => {}
                // Nobody waits for events of a client that is closing, even where somebody still could.
                Err(TrySendError::Full(_)) if self.closing.load(Ordering::Acquire) => {}
                Err(TrySendError::Full(event)) => {
                    self.backlog.push_front(event);
                    break;
                }
                // The application has dropped its client, which is closing.
                Err(TrySendError::Disconnected(_)) => {}
            }
        }
        let is_held = !self.backlog.is_empty();
        if is_held || was_held {
            self.core.hold(self.reactor.now(), is_held);
        }
    }

    fn hear(&mut self, event: core::Event) {
        let event = match event {
            core::Event::Asking => return self.guide.as_ref().expect("a client that asks has one").ask(),
            core::Event::State(state) => Event::State(state),
            core::Event::Message(message) => Event::Message(owned(message)),
            core::Event::Query(message) => {
                Event::Query(Query { message: owned(message), commands: self.commands.clone() })
            }
            core::Event::Blob(event) => {
                let Some(incoming) = self.blobs.hear(event) else { return };
                if let IncomingBlob::Whole(blob) = &incoming {
                    self.core.take_blob(self.reactor.now(), &blob.key);
                }
                Event::Blob(incoming)
            }
            core::Event::Presence { user, online } => Event::Presence { user, online },
            core::Event::Bounced { id, to, cause } => {
                Event::Undelivered { to: UserId::parse(&to).ok(), id, cause: Undelivered::Bounced(cause) }
            }
            core::Event::GroupMessage { group, message } => Event::GroupMessage { group, message: owned(message) },
            core::Event::Member { group, user, change } => Event::Member { group, user, change },
            core::Event::MembersMissed(group) => Event::MembersMissed(group),
            core::Event::Joined { id, outcome } => {
                if let Some(sender) = self.joins.remove(&id) {
                    resolve(&sender, Ok(outcome));
                }
                return;
            }
            core::Event::Sent { id, outcome } => {
                if let Some(sender) = self.deliveries.remove(&id) {
                    resolve(&sender, Ok(outcome));
                }
                return;
            }
            core::Event::Replied { id, outcome } => {
                if let Some(sender) = self.queries.remove(&id) {
                    resolve(&sender, Ok(outcome.map(|reply| reply.body.to_vec())));
                } else if let (Some(sender), Err(failure)) = (self.answers.remove(&id), outcome) {
                    resolve(&sender, Ok(Err(failure)));
                }
                return;
            }
            core::Event::Answered { id, body } => {
                if let Some(sender) = self.answers.remove(&id) {
                    let unreadable = || Answer { error: Some("unreadable".to_owned()), ..Answer::default() };
                    resolve(&sender, Ok(Ok(parse_object(&body).unwrap_or_else(unreadable))));
                }
                return;
            }
        };
        self.backlog.push_back(event);
    }

    fn obey(&mut self, command: Command) {
        let now = self.reactor.now();
        match command {
            Command::Send { to, flags, info_type, body, id } => {
                if let Err(error) = self.core.send_as(now, id, to.as_ref(), flags, info_type, &body) {
                    self.backlog.push_back(Event::Undelivered { to, id, cause: Undelivered::NotSent(error) });
                }
            }
            Command::Broadcast { group, flags, info_type, body, id } => {
                if let Err(error) = self.core.broadcast_as(now, id, &group, flags, info_type, &body) {
                    let to = UserId::parse(group.as_bytes()).ok();
                    self.backlog.push_back(Event::Undelivered { to, id, cause: Undelivered::NotSent(error) });
                }
            }
            Command::Join { group, outcome } => match self.core.join(now, &group) {
                Ok(id) => drop(self.joins.insert(id, outcome)),
                Err(error) => resolve(&outcome, Err(error)),
            },
            Command::Leave(group) => {
                if let Err(error) = self.core.leave(now, &group) {
                    log::debug!("the group {group} was not left: {error}");
                }
            }
            Command::SendAcked { to, info_type, body, outcome } => {
                match self.core.send_acked(now, to, info_type, body) {
                    Ok(id) => drop(self.deliveries.insert(id, outcome)),
                    Err(error) => resolve(&outcome, Err(error)),
                }
            }
            Command::Query { to, info_type, body, patience, outcome } => {
                match self.core.query(now, to.as_ref(), info_type, &body, patience) {
                    Ok(id) => drop(self.queries.insert(id, outcome)),
                    Err(error) => resolve(&outcome, Err(error)),
                }
            }
            Command::Reply { to, id, flags, info_type, body } => {
                if let Err(error) = self.core.reply(now, to.as_ref(), id, flags, info_type, &body) {
                    log::debug!("a reply was not sent: {error}");
                }
            }
            Command::Ask { question, outcome } => match self.core.ask(now, &question) {
                Ok(id) => drop(self.answers.insert(id, outcome)),
                Err(error) => resolve(&outcome, Err(error)),
            },
            Command::Watch { users, outcome } => match self.core.watch(now, &users) {
                Ok(id) => drop(self.answers.insert(id, outcome)),
                Err(error) => resolve(&outcome, Err(error)),
            },
            Command::Unwatch(users) => {
                if let Err(error) = self.core.unwatch(now, &users) {
                    log::debug!("the server was not told that users are watched no more: {error}");
                }
            }
        }
    }
}

fn owned(message: core::Message) -> Message {
    let core::Message { from, info_type, id, flags, body } = message;
    Message { from, info_type, body: body.to_vec(), more: flags.has(Flags::MORE), id }
}
