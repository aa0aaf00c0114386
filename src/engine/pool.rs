//! Where the application's code runs: in the reactor's thread, or on threads beside it. Panics end here.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::application::{Authenticator, Denied, Handler, Incoming, LoginRequest, Unnamed};
use super::friends::Friends;
use super::groups::Groups;
use super::watchdog::Watchdog;
use super::{IncomingBlob, Responder, ServerHandle, seed};
use crate::id::{ConnId, ServerId, UserId};
use crate::limits;
use crate::net::Wake;
use crate::role::appserver::{ClusterState, Friendship, JoinRef, QueryRef, QuerySource, ServerInbox, Verdict};
use crate::role::{Entropy, Gone};
use crate::wire::Bounce;
use crate::wire::link::ServerMessageId;

/// The application's code.
pub(super) struct Application {
    pub(super) authenticator: Box<dyn Authenticator>,
    pub(super) handler: Option<Box<dyn Handler>>,
    /// None where everyone may join any group.
    pub(super) groups: Option<Box<dyn Groups>>,
    pub(super) friends: Box<dyn Friends>,
    /// Calls that panicked.
    pub(super) panics: AtomicU64,
}

/// One call of the application's code.
pub(super) enum Task {
    Check {
        conn: ConnId,
        request: Box<LoginRequest>,
    },
    LoggedIn(UserId),
    LoggedOut(UserId, Gone),
    Message {
        reference: QueryRef,
        info_type: u32,
        more: bool,
        body: Bytes,
    },
    /// Whoever asks.
    Query {
        reply: Responder,
        info_type: u32,
        more: bool,
        body: Bytes,
    },
    ServerMessage(ServerInbox),
    Blob(Box<IncomingBlob>),
    Cluster(ClusterState),
    Join(JoinRef),
    Friends {
        conn: ConnId,
        user: UserId,
    },
    MayWatch {
        conn: ConnId,
        id: u64,
        watcher: UserId,
        users: Vec<UserId>,
    },
    Presence(UserId, bool),
    Undelivered {
        to: Option<UserId>,
        id: u64,
        cause: Bounce,
    },
}

/// What a call came to, for the core.
pub(super) enum Done {
    Nothing,
    Checked(ConnId, Verdict),
    Denied(QueryRef),
    Joined(JoinRef, bool),
    Befriended(ConnId, Friendship),
    /// Of each user that a client wants to watch, by the question's id: whether it may.
    MayWatch(ConnId, u64, Vec<(UserId, bool)>),
}

impl Task {
    /// Whose task it is: one user's tasks are done in order.
    fn user(&self) -> Option<&UserId> {
        match self {
            Task::Check { request, .. } => Some(&request.user),
            Task::LoggedIn(user) | Task::LoggedOut(user, _) => Some(user),
            Task::Message { reference, .. } => Some(&reference.user),
            Task::Query { reply, .. } => match reply.query() {
                QuerySource::User(query) => Some(&query.user),
                QuerySource::Server { .. } | QuerySource::Stranger { .. } => None,
            },
            Task::Join(join) => Some(&join.user),
            Task::Blob(incoming) => incoming.key().from.as_ref(),
            Task::Friends { user, .. } | Task::MayWatch { watcher: user, .. } | Task::Presence(user, _) => Some(user),
            Task::Undelivered { to, .. } => to.as_ref(),
            Task::ServerMessage(_) | Task::Cluster(_) => None,
        }
    }

    /// Of those that are no user's, whose task it is: one server's are done in order.
    fn server(&self) -> Option<ServerId> {
        match self {
            Task::Query { reply, .. } => reply.query().server(),
            Task::ServerMessage(inbox) => Some(inbox.from()),
            Task::Check { .. } | Task::LoggedIn(_) | Task::LoggedOut(..) | Task::Message { .. } => None,
            Task::Blob(_) | Task::Cluster(_) | Task::Join(_) => None,
            Task::Friends { .. } | Task::MayWatch { .. } | Task::Presence(..) | Task::Undelivered { .. } => None,
        }
    }

    const NAMES: &'static [&'static str] = &[
        "check",
        "on_login",
        "on_logout",
        "on_message",
        "on_query",
        "on_cluster",
        "on_server_message",
        "on_server_query",
        "may_join",
        "on_query_before_login",
        "on_blob",
        "friends_of",
        "may_watch",
        "on_presence",
        "on_undelivered",
    ];

    /// The place of its name among [`Task::NAMES`].
    fn place(&self) -> usize {
        match self {
            Task::Check { .. } => 0,
            Task::LoggedIn(_) => 1,
            Task::LoggedOut(..) => 2,
            Task::Message { .. } => 3,
            Task::Query { reply, .. } => match reply.query() {
                QuerySource::User(_) => 4,
                QuerySource::Server { .. } => 7,
                QuerySource::Stranger { .. } => 9,
            },
            Task::Cluster(_) => 5,
            Task::ServerMessage(_) => 6,
            Task::Join(_) => 8,
            Task::Blob(_) => 10,
            Task::Friends { .. } => 11,
            Task::MayWatch { .. } => 12,
            Task::Presence(..) => 13,
            Task::Undelivered { .. } => 14,
        }
    }

    fn name(&self) -> &'static str {
        Task::NAMES[self.place()]
    }

    /// Bytes that it holds while it waits, as far as others decide how many.
    fn body_bytes(&self) -> usize {
        match self {
            // These wait with the logins, and are as small.
            Task::Query { reply, .. } if reply.is_to_stranger() => 0,
            Task::Message { body, .. } | Task::Query { body, .. } => body.len(),
            Task::ServerMessage(inbox) => inbox.body.len(),
            Task::Check { .. } | Task::LoggedIn(_) | Task::LoggedOut(..) | Task::Cluster(_) | Task::Join(_) => 0,
            // Those of blobs have a bound of their own, which lasts until the application lets go of them.
            Task::Blob(_) => 0,
            Task::MayWatch { users, .. } => users.len() * std::mem::size_of::<UserId>(),
            Task::Friends { .. } | Task::Presence(..) | Task::Undelivered { .. } => 0,
        }
    }

    /// A body of its own, so that a task that waits holds no chunk.
    fn detached(self) -> Task {
        match self {
            Task::Message { reference, info_type, more, body } => {
                Task::Message { reference, info_type, more, body: Bytes::copy_from_slice(&body) }
            }
            Task::Query { reply, info_type, more, body } => {
                Task::Query { reply, info_type, more, body: Bytes::copy_from_slice(&body) }
            }
            Task::ServerMessage(inbox) => {
                Task::ServerMessage(ServerInbox { body: Bytes::copy_from_slice(&inbox.body), ..inbox })
            }
            other @ (Task::Check { .. }
            | Task::LoggedIn(_)
            | Task::LoggedOut(..)
            | Task::Cluster(_)
            | Task::Join(_)
            | Task::Blob(_)) => other,
            other @ (Task::Friends { .. } | Task::MayWatch { .. } | Task::Presence(..)) => other,
            other @ Task::Undelivered { .. } => other,
        }
    }
}

impl Application {
    /// Runs one task on this thread.
    pub(super) fn run(&self, server: &ServerHandle, task: Task) -> Done {
        let name = task.name();
        let refusal = match &task {
            Task::Check { conn, .. } => Done::Checked(*conn, Verdict::Fault),
            Task::Message { reference, .. } => Done::Denied(reference.clone()),
            Task::Join(join) => Done::Joined(join.clone(), false),
            Task::MayWatch { conn, id, users, .. } => {
                Done::MayWatch(*conn, *id, users.iter().map(|user| (user.clone(), false)).collect())
            }
            Task::Friends { conn, .. } => Done::Befriended(*conn, Friendship::Users(Vec::new())),
            // A responder answers by itself where it is dropped.
            Task::Query { .. } | Task::Blob(_) | Task::Presence(..) => Done::Nothing,
            Task::LoggedIn(_) | Task::LoggedOut(..) | Task::ServerMessage(_) | Task::Cluster(_) => Done::Nothing,
            Task::Undelivered { .. } => Done::Nothing,
        };
        catch_unwind(AssertUnwindSafe(|| self.call(server, task))).unwrap_or_else(|_| {
            let panics = self.panics.fetch_add(1, Ordering::Relaxed) + 1;
            log::error!("the application's {name} panicked; {panics} times its code did");
            refusal
        })
    }

    fn call(&self, server: &ServerHandle, task: Task) -> Done {
        match task {
            Task::Check { conn, request } => {
                let verdict = match self.authenticator.check(&request) {
                    Ok(()) => Verdict::Accept,
                    Err(refusal) => Verdict::Refuse(refusal.0),
                };
                Done::Checked(conn, verdict)
            }
            Task::Join(join) => {
                let may = self.groups.as_ref().is_none_or(|groups| groups.may_join(&join.user, &join.group));
                Done::Joined(join, may)
            }
            Task::Friends { conn, user } => Done::Befriended(conn, self.friends.friends_of(&user)),
            Task::MayWatch { conn, id, watcher, users } => {
                let asked = users.into_iter().map(|user| {
                    let may_watch = self.friends.may_watch(&watcher, &user);
                    (user, may_watch)
                });
                Done::MayWatch(conn, id, asked.collect())
            }
            other => {
                self.handler.as_ref().map_or(Done::Nothing, |handler| Application::handle(&**handler, server, other))
            }
        }
    }

    fn handle(handler: &dyn Handler, server: &ServerHandle, task: Task) -> Done {
        match task {
            Task::Check { .. } | Task::Join(_) | Task::Friends { .. } | Task::MayWatch { .. } => {
                unreachable!("no handler's task")
            }
            Task::Presence(user, online) => {
                handler.on_presence(server, &user, online);
                Done::Nothing
            }
            Task::Undelivered { to, id, cause } => {
                handler.on_undelivered(server, to.as_ref(), id, cause);
                Done::Nothing
            }
            Task::LoggedIn(user) => {
                handler.on_login(server, &user);
                Done::Nothing
            }
            Task::LoggedOut(user, gone) => {
                handler.on_logout(server, &user, gone);
                Done::Nothing
            }
            Task::Blob(incoming) => {
                handler.on_blob(server, *incoming);
                Done::Nothing
            }
            Task::Cluster(state) => {
                handler.on_cluster(server, &state);
                Done::Nothing
            }
            Task::Message { reference, info_type, more, body } => {
                let message = Incoming { from: &reference.user, info_type, body: &body, more, id: reference.id };
                match handler.on_message(server, &message) {
                    Ok(()) => Done::Nothing,
                    Err(Denied) => Done::Denied(reference),
                }
            }
            Task::Query { reply, info_type, more, body } => {
                match reply.query().clone() {
                    QuerySource::User(QueryRef { user, id, .. }) => {
                        handler.on_query(server, &Incoming { from: &user, info_type, body: &body, more, id }, reply);
                    }
                    QuerySource::Server { id } => {
                        handler.on_server_query(server, ServerMessageId::server(id), info_type, &body, reply);
                    }
                    QuerySource::Stranger { addr, .. } => {
                        handler.on_query_before_login(server, &Unnamed { addr, info_type, body: &body }, reply);
                    }
                }
                Done::Nothing
            }
            Task::ServerMessage(inbox) => {
                handler.on_server_message(server, inbox.from(), inbox.info_type, &inbox.body);
                Done::Nothing
            }
        }
    }
}

/// Where tasks are done.
pub(super) enum Stage {
    /// In the reactor's thread, at once.
    Inline(Application, Watchdog),
    /// On threads of their own. No watchdog names what holds one of these: they are there for code that blocks, for as
    /// long as it has to, and what it holds up is told with each bounce BUSY.
    Pool(Pool),
}

impl Stage {
    pub(super) fn new(
        application: Application,
        threads: usize,
        server: &ServerHandle,
        wake: Arc<Wake>,
    ) -> std::io::Result<Stage> {
        match threads {
            0 => {
                let watchdog = Watchdog::start(Task::NAMES, |name, held| {
                    log::error!("the application's {name} holds the loop for {} ms now", held.as_millis());
                });
                Ok(Stage::Inline(application, watchdog?))
            }
            threads => Pool::start(application, threads, server, wake).map(Stage::Pool),
        }
    }

    /// Does a task or hands it on. `Err` where every thread that could do it has too much to do.
    pub(super) fn give(&mut self, server: &ServerHandle, task: Task) -> Result<Done, Task> {
        match self {
            Stage::Inline(application, watchdog) => {
                let name = task.name();
                let (done, took) = watchdog.watch(task.place(), || application.run(server, task));
                if took > limits::HANDLER_WATCHDOG {
                    log::warn!("the application's {name} held the loop for {} ms", took.as_millis());
                }
                Ok(done)
            }
            Stage::Pool(pool) => pool.give(task).map(|()| Done::Nothing),
        }
    }

    /// Gives the pool's threads what they had no room for.
    pub(super) fn give_deferred(&mut self) {
        match self {
            Stage::Inline(..) => {}
            Stage::Pool(pool) => pool.lanes.iter_mut().for_each(Lane::give_deferred),
        }
    }

    /// What the pool's threads have done since it was last asked.
    pub(super) fn poll_done(&self) -> Option<Done> {
        match self {
            Stage::Inline(..) => None,
            Stage::Pool(pool) => pool.done.try_recv().ok(),
        }
    }
}

/// Threads beside the reactor's, each with a bounded queue of tasks.
pub(super) struct Pool {
    /// Logins to check, and what is asked before them, for any thread that is free: they may block for long, and no order is kept among them.
    checks: Sender<Task>,
    /// All else, a queue for each thread: one user's tasks are done in order.
    lanes: Vec<Lane>,
    done: Receiver<Done>,
    hasher: ahash::RandomState,
    threads: Vec<JoinHandle<()>>,
}

/// One handler thread's tasks.
struct Lane {
    tasks: Sender<Task>,
    /// What the bodies of its tasks hold, until each is done.
    body_bytes: Arc<AtomicUsize>,
    /// Comings and goings that the queue has had no room for, and blobs that will not come. While there are any, nobody
    /// whose tasks go here is let in and no blob is accepted, so these are no more than there are users and blobs.
    deferred: VecDeque<Task>,
    /// How watched users stand now, of whom the queue has had no room: no more than are watched.
    presence: BTreeMap<UserId, bool>,
}

impl Lane {
    fn give(&mut self, task: Task) -> Result<(), Task> {
        let bytes = task.body_bytes();
        let fits = self.body_bytes.load(Ordering::Relaxed) + bytes <= limits::POOL_BYTES_MAX;
        let waits =
            !self.deferred.is_empty() || matches!(&task, Task::Presence(user, _) if self.presence.contains_key(user));
        let refused = if !waits && fits {
            // Before the thread can have done it.
            self.body_bytes.fetch_add(bytes, Ordering::Relaxed);
            match self.tasks.try_send(task.detached()) {
                Ok(()) => return Ok(()),
                Err(refused) => {
                    self.body_bytes.fetch_sub(bytes, Ordering::Relaxed);
                    refused.into_inner()
                }
            }
        } else {
            task
        };
        match refused {
            Task::LoggedIn(_) | Task::LoggedOut(..) | Task::Cluster(_) | Task::Friends { .. } => {
                self.deferred.push_back(refused);
            }
            Task::Blob(ref incoming) => match **incoming {
                IncomingBlob::Failed { .. } => self.deferred.push_back(refused),
                // Word of how far it is: the blob goes on without.
                IncomingBlob::Progress { .. } => {}
                IncomingBlob::Offered(_) | IncomingBlob::Whole(_) => return Err(refused),
            },
            Task::Presence(user, online) => _ = self.presence.insert(user, online),
            // As many as messages that were sent; nothing counts on them.
            Task::Undelivered { .. } => {}
            Task::Check { .. }
            | Task::Message { .. }
            | Task::Query { .. }
            | Task::MayWatch { .. }
            | Task::ServerMessage(_)
            | Task::Join(_) => {
                return Err(refused);
            }
        }
        Ok(())
    }

    fn give_deferred(&mut self) {
        while let Some(task) = self.deferred.pop_front() {
            if let Err(refused) = self.tasks.try_send(task) {
                return self.deferred.push_front(refused.into_inner());
            }
        }
        while let Some((user, online)) = self.presence.pop_first() {
            if self.tasks.try_send(Task::Presence(user.clone(), online)).is_err() {
                self.presence.insert(user, online);
                return;
            }
        }
    }
}

impl Pool {
    fn start(
        application: Application,
        threads: usize,
        server: &ServerHandle,
        wake: Arc<Wake>,
    ) -> std::io::Result<Pool> {
        let application = Arc::new(application);
        let (done_sender, done) = bounded(2 * threads * (limits::POOL_TASKS_MAX + 1));
        let (checks, checks_queue) = bounded(threads * limits::POOL_TASKS_MAX);
        // Users choose their ids: not also the thread that serves them.
        let hasher = Entropy::new(seed()?).hasher();
        let mut pool = Pool { checks, lanes: Vec::new(), done, hasher, threads: Vec::new() };
        for number in 0..threads {
            let (tasks, queue) = bounded(limits::POOL_TASKS_MAX);
            let body_bytes = Arc::new(AtomicUsize::new(0));
            pool.lanes.push(Lane {
                tasks,
                body_bytes: Arc::clone(&body_bytes),
                deferred: VecDeque::new(),
                presence: BTreeMap::new(),
            });
            for (name, queue) in [("handler", queue), ("login check", checks_queue.clone())] {
                let (application, server) = (Arc::clone(&application), server.clone());
                let (done, wake, body_bytes) = (done_sender.clone(), Arc::clone(&wake), Arc::clone(&body_bytes));
                let work = move || {
                    for task in queue {
                        let bytes = task.body_bytes();
                        let outcome = application.run(&server, task);
                        body_bytes.fetch_sub(bytes, Ordering::Relaxed);
                        // Once the engine has stopped nobody wants to know, but what is queued is still done.
                        if done.send(outcome).is_ok() {
                            wake.wake();
                        }
                    }
                };
                pool.threads.push(std::thread::Builder::new().name(format!("{name} {number}")).spawn(work)?);
            }
        }
        Ok(pool)
    }

    /// `Err` hands back what must be turned away; comings and goings never are.
    fn give(&mut self, task: Task) -> Result<(), Task> {
        let hash = task.user().map_or_else(|| self.hasher.hash_one(task.server()), |user| self.hasher.hash_one(user));
        let place = (hash % self.lanes.len() as u64) as usize;
        let lane = &mut self.lanes[place];
        match task {
            Task::Check { .. } if !lane.deferred.is_empty() => Err(task),
            Task::Check { .. } => self.checks.try_send(task).map_err(TrySendError::into_inner),
            Task::Query { ref reply, .. } if reply.is_to_stranger() => {
                self.checks.try_send(task.detached()).map_err(TrySendError::into_inner)
            }
            Task::LoggedIn(_) | Task::LoggedOut(..) | Task::Message { .. } | Task::Query { .. } => lane.give(task),
            Task::ServerMessage(_) | Task::Cluster(_) | Task::Join(_) => lane.give(task),
            Task::Blob(_) | Task::Friends { .. } | Task::MayWatch { .. } | Task::Presence(..) => lane.give(task),
            Task::Undelivered { .. } => lane.give(task),
        }
    }
}

/// Waits until all that was given is done: application code is not cut off.
impl Drop for Pool {
    fn drop(&mut self) {
        let (_, nothing) = bounded(0);
        self.done = nothing;
        (self.checks, _) = bounded(0);
        for lane in self.lanes.drain(..) {
            for task in lane.deferred {
                if lane.tasks.send(task).is_err() {
                    log::error!("a handler thread is gone");
                }
            }
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("a handler thread panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::role::blob::{BlobFailure, BlobKey};

    fn message(bytes: usize) -> Task {
        let conn = ConnId { index: 0, generation: 1 };
        let user = UserId::parse(b"alice").expect("an id");
        let body = Bytes::from(vec![0; bytes]);
        Task::Message { reference: QueryRef { conn, user, id: 1 }, info_type: 0, more: false, body }
    }

    #[test]
    fn bodies_that_wait_for_a_thread_are_bounded_and_a_notice_is_not() {
        let (tasks, queue) = bounded(limits::POOL_TASKS_MAX);
        let mut lane = Lane { tasks, body_bytes: Arc::default(), deferred: VecDeque::new(), presence: BTreeMap::new() };
        for number in 0..16 {
            assert!(lane.give(message(1 << 20)).is_ok(), "message {number}");
        }
        assert!(matches!(lane.give(message(1)), Err(Task::Message { .. })), "16 MiB wait");
        let user = UserId::parse(b"alice").expect("an id");
        assert!(lane.give(Task::LoggedIn(user)).is_ok());
        assert_eq!(queue.len(), 17);
    }

    #[test]
    fn word_of_a_blob_s_progress_is_dropped_where_there_is_no_room_and_of_its_end_waits() {
        let (tasks, queue) = bounded(0);
        let mut lane = Lane { tasks, body_bytes: Arc::default(), deferred: VecDeque::new(), presence: BTreeMap::new() };
        let key = || BlobKey { from: Some(UserId::parse(b"alice").expect("an id")), id: 1 };
        let progress = IncomingBlob::Progress { key: key(), received: 1, size: 2 };
        assert!(lane.give(Task::Blob(Box::new(progress))).is_ok(), "the blob is not refused for it");
        assert!(lane.deferred.is_empty());
        let failed = IncomingBlob::Failed { key: key(), cause: BlobFailure::Busy };
        assert!(lane.give(Task::Blob(Box::new(failed))).is_ok());
        assert_eq!((lane.deferred.len(), queue.len()), (1, 0));
    }

    #[test]
    fn a_refused_task_holds_nothing() {
        let (tasks, _queue) = bounded(1);
        let mut lane = Lane { tasks, body_bytes: Arc::default(), deferred: VecDeque::new(), presence: BTreeMap::new() };
        assert!(lane.give(message(5)).is_ok());
        assert!(lane.give(message(7)).is_err(), "the queue is full");
        assert_eq!(lane.body_bytes.load(Ordering::Relaxed), 5);
    }
}
