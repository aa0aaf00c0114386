//! The application server that an application embeds.

mod builder;
mod groups;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};
use hashbrown::HashMap;
use mio::net::TcpListener;

use super::application::LoginRequest;
use super::blob::{BlobCommand, BlobDesk, IncomingBlob};
use super::handle::{Command, ServerHandle, ServerVitals};
use super::newcomers::Newcomers;
use super::outcomes::{Locating, Waiting};
use super::pool::{Done, Stage, Task};
use super::responder::{Answer, Answers};
use super::{Running, Stopping, ending, log_strain, resolve};
use crate::id::UserId;
use crate::limits;
#[cfg(feature = "management")]
use crate::management::Bound;
use crate::net::Reactor;
use crate::role::appserver::{self as core, ClusterState, Event, Inbox, Outcome, QuerySource, ServerInbox, Verdict};
use crate::role::blob::{BlobEvent, BlobFailure};
use crate::role::client::SendError;
use crate::role::{Core as _, Members};
use crate::time::{Span, Time};
use crate::wire::{BlobCause, Bounce, CloseCode, Flags};

pub use builder::{AppServerBuilder, Membership};

/// An application server, bound to its address and ready to run.
///
/// ```no_run
/// use trunkline::{AppServer, Denied, Handler, Incoming, Membership, ServerHandle, ServerId};
///
/// struct Echo;
///
/// impl Handler for Echo {
///     fn on_message(&self, server: &ServerHandle, message: &Incoming<'_>) -> Result<(), Denied> {
///         server.send(message.from, message.info_type, message.body.to_vec()).map(drop).map_err(|_| Denied)
///     }
/// }
///
/// # fn main() -> std::io::Result<()> {
/// let server = AppServer::builder()
///     .handler(Echo)
///     // Without this line the server stands alone; everything else stays as it is.
///     .cluster(Membership::new(ServerId(0), "127.0.0.1:12000"))
///     .bind("127.0.0.1:6000")?;
/// println!("clients connect to {}", server.local_addr());
/// server.run()
/// # }
/// ```
pub struct AppServer {
    core: core::AppServer,
    reactor: Reactor,
    listener: Option<TcpListener>,
    local_addr: SocketAddr,
    #[cfg(feature = "management")]
    management: Option<Bound>,
    handle: ServerHandle,
    queue: Receiver<Command>,
    blobs: BlobDesk,
    /// By the id that the core gave.
    waiting: HashMap<u64, Waiting, ahash::RandomState>,
    lookups: HashMap<u64, Locating, ahash::RandomState>,
    lookup_tokens: u64,
    rosters: HashMap<u64, Sender<Members>, ahash::RandomState>,
    answers: Answers,
    newcomers: Newcomers,
    stopping: Stopping,
    was_registered: bool,
    refused: Option<(CloseCode, String)>,
    /// Last, since its threads are waited for: a handler may itself wait for what the fields above would resolve, and
    /// hears that the engine has stopped when they are dropped.
    stage: Stage,
}

impl AppServer {
    /// A server that stands alone, lets everyone in and has no handler, until it is told otherwise.
    pub fn builder() -> AppServerBuilder {
        AppServerBuilder::new()
    }

    /// The address clients connect to, with the port that the system chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Where operators are answered, with the port that the system chose; none where they are not.
    #[cfg(feature = "management")]
    pub fn management_addr(&self) -> Option<SocketAddr> {
        self.management.as_ref().map(|bound| bound.local_addr)
    }

    /// What other threads use the server with.
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// Serves on a thread of its own, until [`ServerHandle::stop`].
    pub fn spawn(self) -> io::Result<Running> {
        Running::spawn("appserver", move || self.run())
    }

    /// Serves on this thread, until [`ServerHandle::stop`].
    ///
    /// # Errors
    /// The cluster refused the server for good when it first registered, or the system's readiness queue failed.
    pub fn run(mut self) -> io::Result<()> {
        if let Some(listener) = self.listener.take() {
            self.reactor.listen(listener)?;
        }
        #[cfg(feature = "management")]
        let _serving = self.management.take().map(|bound| bound.serve_appserver(self.handle())).transpose()?;
        loop {
            let woken = self.reactor.receive(&mut self.core, self.stopping.by)?;
            if woken.signalled {
                self.signalled();
            } else if self.handle.told_to_stop.load(Ordering::Acquire) {
                self.stop();
            }
            self.serve();
            self.reactor.send(&mut self.core);
            if self.core.is_stopped() || self.stopping.is_overdue(self.reactor.now()) {
                break;
            }
        }
        log::info!("stopped: {}; {}", self.core.counters(), self.reactor.calls());
        match self.refused {
            Some((code, text)) if !self.was_registered => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("the cluster refused this server: {code}: {text}"),
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// As [`AppServer::run`], and stops on SIGTERM or SIGINT, once it has sent its users to the other servers of its
    /// cluster, where there are any; on a second signal at once.
    pub fn run_until_signal(mut self) -> io::Result<()> {
        self.reactor.take_signals()?;
        self.run()
    }

    fn signalled(&mut self) {
        if self.stopping.has_begun() { self.stopping.hurry() } else { self.drain() }
    }

    fn drain(&mut self) {
        let now = self.reactor.now();
        self.reactor.stop_listening();
        let users = self.core.users_online();
        let span = self.core.drain(now);
        if span > Span::default() {
            log::info!("sending {users} users to other servers within {} ms", span.as_millis());
        }
        self.stopping.begin(now + span);
    }

    fn stop(&mut self) {
        let now = self.reactor.now();
        let begins = self.stopping.begin(now);
        if begins || self.core.is_draining() {
            self.reactor.stop_listening();
            self.core.stop(now);
        }
    }

    /// The application's part of a turn: what happened, what its threads have done, what others ask.
    fn serve(&mut self) {
        self.stage.give_deferred();
        // Who adds to the queue meanwhile wakes the next turn; this one has writes to do.
        let mut commands = self.queue.len();
        loop {
            while let Some(event) = self.core.poll_event() {
                self.hear(event);
            }
            let now = self.reactor.now();
            if let Some(done) = self.stage.poll_done() {
                self.done(now, done);
            } else if let Some((query, answer)) = self.answers.poll() {
                self.reply(now, &query, answer);
            } else if commands > 0
                && let Ok(command) = self.queue.try_recv()
            {
                commands -= 1;
                self.obey(now, command);
            } else if let Some(command) = self.blobs.poll() {
                self.obey_blob(now, command);
            } else {
                break;
            }
        }
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::LoginAsked { conn, user, addr, login } => {
                self.give(Task::Check { conn, request: Box::new(LoginRequest { user, login, addr }) });
            }
            Event::LoggedIn { conn, user, addr } => {
                log::info!("{conn} {addr} logged in as {user}");
                self.give(Task::LoggedIn(user.clone()));
                self.give(Task::Friends { conn, user });
            }
            Event::LoggedOut { user, gone } => {
                self.give(Task::LoggedOut(user, gone));
            }
            Event::Message(inbox) => self.hear_message(&inbox),
            Event::Query(inbox) => {
                let Inbox { info_type, flags, ref body, .. } = inbox;
                let (body, more) = (body.clone(), flags.has(Flags::MORE));
                self.ask(QuerySource::User(inbox.reference()), info_type, more, body);
            }
            Event::ServerMessage(inbox) => _ = self.give(Task::ServerMessage(inbox)),
            Event::ServerQuery(ServerInbox { info_type, id, body }) => {
                self.ask(QuerySource::Server { id }, info_type, false, body);
            }
            Event::QueryBeforeLogin { conn, addr, info_type, id, body } => {
                self.ask(QuerySource::Stranger { conn, addr, id }, info_type, false, body);
            }
            Event::Blob(event) => self.hear_blob(event),
            Event::Outcome { id, outcome } => {
                if let Some(waiting) = self.waiting.remove(&id) {
                    waiting.resolve(outcome);
                }
            }
            Event::Bounced { id, to, cause } => self.bounced(id, &to, cause),
            Event::Located { token, servers } => {
                if let Some(outcome) = self.lookups.remove(&token) {
                    outcome.resolve(servers);
                }
            }
            Event::JoinAsked(join) => _ = self.give(Task::Join(join)),
            Event::Members { token, members } => self.members_known(token, members),
            Event::WatchAsked { conn, user, id, users } => {
                self.give(Task::MayWatch { conn, id, watcher: user, users });
            }
            Event::Presence { user, online } => {
                self.give(Task::Presence(user, online));
            }
            Event::Cluster(state) => self.cluster_changed(state),
            Event::DrainAsked if self.stopping.has_begun() => {}
            Event::DrainAsked => {
                log::info!("an operator asks this server to drain");
                self.drain();
            }
            Event::Memory(strain) => log_strain(&strain),
            Event::Closed { conn, addr, user, was_in, gone, text } => {
                let user = user.as_ref().map_or("-", UserId::as_str);
                if was_in {
                    log::info!("{conn} {addr} user {user} {}", ending(gone, &text));
                } else if let Some(untold) = self.newcomers.ended(self.reactor.now(), addr.ip()) {
                    log::info!("{conn} {addr} user {user} {}{untold}", ending(gone, &text));
                }
            }
        }
    }

    /// One that wants an ACK gets it once its task is taken, and before what the handler made of it: so it is with a pool too.
    fn hear_message(&mut self, inbox: &Inbox) {
        let Inbox { info_type, flags, body, .. } = inbox;
        let reference = inbox.reference();
        let (body, more) = (body.clone(), flags.has(Flags::MORE));
        let given = self.hand_over(Task::Message { reference: reference.clone(), info_type: *info_type, more, body });
        if given.is_ok() && flags.has(Flags::WANT_ACK) {
            self.core.acknowledge(self.reactor.now(), &reference);
        }
        self.settle(given);
    }

    /// What came back of a message of the server's own; only of a plain one nobody knows otherwise.
    fn bounced(&mut self, id: u64, to: &[u8], cause: Bounce) {
        if self.handle.ids.is_to_user(id) {
            self.undelivered(UserId::parse(to).ok(), id, cause);
        } else if self.handle.ids.is_to_server(id) {
            self.undelivered(None, id, cause);
        }
    }

    fn undelivered(&mut self, to: Option<UserId>, id: u64, cause: Bounce) {
        self.give(Task::Undelivered { to, id, cause });
    }

    fn hear_blob(&mut self, event: BlobEvent) {
        let Some(incoming) = self.blobs.hear(event) else { return };
        let whole = matches!(incoming, IncomingBlob::Whole(_)).then(|| incoming.key().clone());
        let taken = self.give(Task::Blob(Box::new(incoming)));
        if let Some(key) = whole.filter(|_| taken) {
            self.core.take_blob(self.reactor.now(), &key);
        }
    }

    /// Hands the application a query.
    fn ask(&mut self, query: QuerySource, info_type: u32, more: bool, body: Bytes) {
        match self.answers.owe(query, more) {
            Ok(reply) => _ = self.give(Task::Query { reply, info_type, more, body }),
            Err(query) => self.core.refuse_query(self.reactor.now(), &query, Bounce::Busy),
        }
    }

    fn cluster_changed(&mut self, state: ClusterState) {
        match &state {
            ClusterState::Up { epoch } => {
                self.was_registered = true;
                log::info!("cluster up: ACMS epoch {epoch}");
            }
            ClusterState::Down { gone, pause } => {
                log::warn!("cluster down: {gone}; dialling again in {} ms", pause.as_millis());
            }
            ClusterState::Refused { code, text } => {
                log::error!("the cluster refused this server: {code}: {text}");
                self.refused = Some((*code, text.clone()));
                if !self.was_registered {
                    self.stop();
                }
            }
        }
        self.give(Task::Cluster(state));
    }

    /// Hands the application a task, and the core what comes of it. False where there was no room for it, which whoever
    /// caused it has then been told.
    fn give(&mut self, task: Task) -> bool {
        let given = self.hand_over(task);
        self.settle(given)
    }

    fn hand_over(&mut self, task: Task) -> Result<Done, Task> {
        let given = self.stage.give(&self.handle, task);
        // What ran inline took its time.
        self.reactor.catch_up();
        given
    }

    fn settle(&mut self, given: Result<Done, Task>) -> bool {
        let now = self.reactor.now();
        match given {
            Ok(done) => {
                self.done(now, done);
                true
            }
            Err(task) => {
                self.turn_away(now, task);
                false
            }
        }
    }

    /// The pool has too much to do: whoever asked is told.
    fn turn_away(&mut self, now: Time, task: Task) {
        match task {
            Task::Check { conn, .. } => {
                self.core.verdict(now, conn, Verdict::Unavailable("too many logins at once".to_owned()));
            }
            Task::Message { reference, .. } => self.core.refuse(now, &reference, Bounce::Busy),
            Task::Query { reply, .. } => {
                let query = self.answers.withdraw(reply);
                self.core.refuse_query(now, &query, Bounce::Busy);
            }
            Task::ServerMessage(inbox) => {
                self.core.refuse_query(now, &QuerySource::Server { id: inbox.id }, Bounce::Busy);
            }
            Task::Join(join) => self.core.join_verdict(now, &join, Err(Bounce::Busy)),
            Task::Blob(incoming) => {
                self.core.refuse_blob(now, incoming.key(), BlobCause::Busy, String::new());
                if let IncomingBlob::Whole(blob) = *incoming {
                    let failed = IncomingBlob::Failed { key: blob.key.clone(), cause: BlobFailure::Busy };
                    // Who accepted it hears how it ended: such a notice waits for room.
                    self.give(Task::Blob(Box::new(failed)));
                }
            }
            Task::MayWatch { conn, id, .. } => self.core.postpone(now, conn, id),
            Task::LoggedIn(_)
            | Task::LoggedOut(..)
            | Task::Cluster(_)
            | Task::Friends { .. }
            | Task::Presence(..)
            | Task::Undelivered { .. } => {
                unreachable!("a notice waits in the pool or is dropped, it is not turned away")
            }
        }
    }

    fn done(&mut self, now: Time, done: Done) {
        match done {
            Done::Nothing => {}
            Done::Checked(conn, verdict) => self.core.verdict(now, conn, verdict),
            Done::Befriended(conn, friends) => self.core.befriend(now, conn, friends),
            Done::MayWatch(conn, id, users) => self.core.permit(now, conn, id, users),
            Done::Denied(reference) => self.core.refuse(now, &reference, Bounce::Denied),
            Done::Joined(join, true) => self.core.join_verdict(now, &join, Ok(())),
            Done::Joined(join, false) => self.core.join_verdict(now, &join, Err(Bounce::Denied)),
        }
    }

    fn reply(&mut self, now: Time, query: &QuerySource, answer: Answer) {
        match answer {
            Answer::Body(body) => self.core.answer_query(now, query, Flags::NONE, &body),
            Answer::Failure(text) => self.core.answer_query(now, query, Flags::ERROR, text.as_bytes()),
            Answer::Unknown => self.core.refuse_query(now, query, Bounce::NoHandler),
            Answer::Nothing => {}
        }
    }

    fn obey_blob(&mut self, now: Time, command: BlobCommand) {
        let core = &mut self.core;
        match command {
            BlobCommand::Send(blob) => self.blobs.send(blob, |to, info_type, name, body| {
                let to = to.expect("a server sends to users");
                core.send_blob(now, to, info_type, name, body).map_err(SendError::from)
            }),
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

    fn obey(&mut self, now: Time, command: Command) {
        match command {
            Command::Send { to, info_type, flags, body, id } => {
                if let Err(cause) = self.core.send_as(now, id, &to, flags, info_type, &body) {
                    self.undelivered(Some(to), id, cause);
                }
            }
            Command::Query { to, info_type, body, patience, outcome } => {
                let sent = self.core.send(now, &to, Flags::NONE, info_type, &body, Some(now + patience));
                self.await_outcome(sent, Waiting::Query(outcome));
            }
            Command::SendToServer { to, info_type, body, id } => {
                if let Err(cause) = self.core.send_to_server_as(now, id, to, info_type, &body) {
                    self.undelivered(None, id, cause);
                }
            }
            Command::QueryServer { to, info_type, body, patience, outcome } => {
                let sent = self.core.send_to_server(now, to, info_type, &body, Some(now + patience));
                self.await_outcome(sent, Waiting::Query(outcome));
            }
            Command::SendAcked { to, info_type, body, patience, outcome } => {
                let sent = self.core.send_acked(now, &to, info_type, &body, now + patience);
                self.await_outcome(sent, Waiting::Delivery(outcome));
            }
            Command::SendEveryone { info_type, body } => {
                if let Err(cause) = self.core.send_everyone(now, info_type, &body) {
                    log::debug!("a message of the server's own to everyone was not sent to all: {cause}");
                }
            }
            Command::Inspect { user, outcome } => {
                let sent = self.core.inspect(now, &user);
                self.await_outcome(sent, Waiting::Inspect(outcome));
            }
            Command::List { request, waiting } => {
                let sent = self.core.list(now, &request);
                self.await_outcome(sent, waiting);
            }
            Command::SetTag { user, tag } => {
                if !self.core.set_tag(&user, &tag) {
                    log::debug!("{user} is not here to be tagged");
                }
            }
            Command::Kick { user, text } => {
                if !self.core.kick(now, &user, &text) {
                    log::debug!("{user} is not online to be kicked");
                }
            }
            Command::Locate { users, outcome } if users.len() > limits::ASK_USERS_MAX => {
                outcome.resolve(users.iter().map(|_| Err(Bounce::Busy)).collect());
            }
            Command::Locate { users, outcome } => {
                self.lookup_tokens += 1;
                self.lookups.insert(self.lookup_tokens, outcome);
                self.core.locate(now, self.lookup_tokens, &users);
            }
            Command::Group(command) => self.obey_for_group(now, command),
            Command::Watch(users) => self.core.watch(now, &users),
            Command::Unwatch(users) => self.core.unwatch(now, &users),
            Command::WatchEveryone => self.core.watch_everyone(now),
            Command::UnwatchEveryone => self.core.unwatch_everyone(now),
            Command::Online(outcome) => {
                let mut users: Vec<UserId> = self.core.online().cloned().collect();
                users.sort_unstable();
                resolve(&outcome, users);
            }
            Command::Counters(outcome) => resolve(&outcome, self.core.counters().clone()),
            Command::Vitals(asker) => asker.tell(self.vitals()),
        }
    }

    fn vitals(&mut self) -> ServerVitals {
        let links = self.core.links();
        let (connections, memory) = (links.len(), links.memory());
        ServerVitals {
            memory_held: memory.held(),
            memory_max: memory.max(),
            connections,
            counters: self.core.counters().clone(),
            calls: self.reactor.calls(),
            uptime: Span::from_micros(self.reactor.now().as_micros()),
            users: self.core.users_online(),
            is_clustered: self.core.cluster_is_up(),
        }
    }

    /// Keeps whom the outcome is to be told.
    fn await_outcome(&mut self, sent: Result<u64, Bounce>, waiting: Waiting) {
        match sent {
            Ok(id) => drop(self.waiting.insert(id, waiting)),
            Err(cause) => waiting.resolve(Outcome::Bounced(cause)),
        }
    }
}
