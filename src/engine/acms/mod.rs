//! The cluster manager that an application embeds.

mod handle;
mod operator;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, bounded};
use mio::net::TcpListener;

pub use handle::{
    AcmsHandle, AcmsVitals, ClusterEvent, MessageOutcome, MessageTo, OperatorMessage, ServerChange, Subscription,
};
pub(crate) use handle::{Command, Subscriber};

use super::newcomers::Newcomers;
use super::{Asker, Running, Stopping, boot_number, check_name, ending, listen_at, log_strain, resolve_address, seed};
use crate::id::{ServerId, UserId};
use crate::limits;
#[cfg(feature = "management")]
use crate::management::{Bound, Token};
use crate::net::{Reactor, Tuning, default_memory_max, raise_descriptor_limit};
use crate::role::Gone;
use crate::role::acms::{self as core, Assignment, Candidate, Event, Policy};
use crate::time::Span;
use crate::wire::CloseCode;

/// What a cluster manager is made of; see [`Acms::builder`].
pub struct AcmsBuilder {
    config: core::Config,
    memory_max: Option<usize>,
    tuning: Tuning,
    own_assignment: Option<Box<dyn Assignment>>,
    #[cfg(feature = "management")]
    management: Option<(SocketAddr, Option<Token>)>,
}

impl AcmsBuilder {
    /// The cluster's name, 1 to 64 bytes; "trunkline" where it is not told.
    pub fn name(mut self, name: impl Into<String>) -> AcmsBuilder {
        self.config.cluster = name.into();
        self
    }

    /// What servers must prove to know; none by default.
    pub fn secret(mut self, secret: impl Into<Vec<u8>>) -> AcmsBuilder {
        self.config.secret = secret.into();
        self
    }

    /// Bytes that all connections may hold together, at least 8 MiB: what waits to be sent, and messages whose ends have
    /// not come; they cost about twice as much memory. An eighth of what the process may use by default. From 70 % on
    /// servers that register are closed FULL, from 85 % on messages to a server for which some wait already bounce BUSY,
    /// from 95 % on the slowest are closed SLOW.
    pub fn max_memory(mut self, bytes: usize) -> AcmsBuilder {
        self.memory_max = Some(bytes.max(limits::MEMORY_MAX_FLOOR));
        self
    }

    /// Which server a new user is sent to, by the application's own policy. A panic of it is caught, and sends the user
    /// nowhere.
    pub fn own_assignment(mut self, own: impl Assignment) -> AcmsBuilder {
        self.own_assignment = Some(Box::new(own));
        self
    }

    /// Which server a new user is sent to; the one with the fewest users by default.
    pub fn assignment(mut self, policy: Policy) -> AcmsBuilder {
        self.config.policy = policy;
        self
    }

    /// From its start, how long a user that it does not know is answered RETRY, not OFFLINE: servers that were in the
    /// cluster before may not have come back yet. 10 s by default, an hour at most; 0 where none was.
    pub fn directory_grace(mut self, span: std::time::Duration) -> AcmsBuilder {
        self.config.directory_grace = Span::from(span).min(limits::DIRECTORY_GRACE_CEILING);
        self
    }

    /// Trades latency for CPU: `Tuning { rest: Duration::from_micros(200).into() }`.
    pub fn tuning(mut self, tuning: Tuning) -> AcmsBuilder {
        self.tuning = tuning;
        self
    }

    /// Listens for operators at `addr`, the management port, once it is bound; port 0 lets the system choose. Without a
    /// token it answers whoever reaches it, and has to be loopback.
    #[cfg(feature = "management")]
    pub fn management(mut self, addr: SocketAddr, token: Option<Token>) -> AcmsBuilder {
        self.management = Some((addr, token));
        self
    }

    /// Listens for servers at `addr`, the transfer port; port 0 lets the system choose.
    ///
    /// # Errors
    /// The address is in use or not allowed, a name has no address, the cluster's name breaks the rule of ids, operators
    /// would be answered without a token at an address that is not loopback, or the system has no descriptor left.
    pub fn bind(self, addr: impl ToSocketAddrs) -> io::Result<Acms> {
        let mut config = self.config;
        config.connections_max = raise_descriptor_limit();
        config.memory_max = self.memory_max.unwrap_or_else(default_memory_max);
        config.epoch = boot_number();
        config.seed = seed()?;
        check_name(&config.cluster)?;
        let listener = listen_at(resolve_address(addr)?)?;
        let local_addr = listener.local_addr()?;
        let reactor = Reactor::new(self.tuning)?;
        let mut core = core::Acms::new(reactor.now(), config);
        if let Some(own) = self.own_assignment {
            core.assign_by(Box::new(Guarded(own)));
        }
        let (sender, commands) = bounded(limits::OPERATOR_COMMANDS_MAX);
        let handle = AcmsHandle { commands: sender, told_to_stop: Arc::default(), wake: reactor.wake() };
        Ok(Acms {
            core,
            reactor,
            listener: Some(listener),
            local_addr,
            #[cfg(feature = "management")]
            management: self.management.map(|(addr, token)| Bound::new(addr, token)).transpose()?,
            handle,
            commands,
            subscribers: Vec::new(),
            errands: BTreeMap::new(),
            newcomers: Newcomers::default(),
            stopping: Stopping::default(),
        })
    }
}

/// A cluster manager, bound to its transfer port and ready to run.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let acms = trunkline::Acms::builder().bind("127.0.0.1:0")?;
/// let stop = acms.stopper();
/// let running = acms.spawn()?;
/// stop();
/// running.join()
/// # }
/// ```
pub struct Acms {
    core: core::Acms,
    reactor: Reactor,
    listener: Option<TcpListener>,
    local_addr: SocketAddr,
    #[cfg(feature = "management")]
    management: Option<Bound>,
    handle: AcmsHandle,
    commands: Receiver<Command>,
    subscribers: Vec<Subscriber>,
    /// Who is to hear what came of what was sent.
    errands: BTreeMap<u64, Asker<MessageOutcome>>,
    newcomers: Newcomers,
    stopping: Stopping,
}

impl Acms {
    /// A cluster manager without a secret, until it is told otherwise.
    pub fn builder() -> AcmsBuilder {
        let config = core::Config {
            cluster: "trunkline".to_owned(),
            secret: Vec::new(),
            epoch: 0,
            connections_max: usize::MAX,
            memory_max: usize::MAX,
            policy: Policy::default(),
            directory_grace: limits::DIRECTORY_GRACE,
            seed: [0; 32],
        };
        AcmsBuilder {
            config,
            memory_max: None,
            tuning: Tuning::default(),
            own_assignment: None,
            #[cfg(feature = "management")]
            management: None,
        }
    }

    /// The transfer port's address, with the port that the system chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The management port's address, with the port that the system chose; none where it has none.
    #[cfg(feature = "management")]
    pub fn management_addr(&self) -> Option<SocketAddr> {
        self.management.as_ref().map(|bound| bound.local_addr)
    }

    /// What stops the cluster manager, from any thread.
    pub fn stopper(&self) -> impl Fn() + Send + 'static {
        let handle = self.handle();
        move || handle.stop()
    }

    /// What other threads use the cluster manager with.
    pub fn handle(&self) -> AcmsHandle {
        self.handle.clone()
    }

    /// Serves on a thread of its own, until its stopper is called.
    pub fn spawn(self) -> io::Result<Running> {
        Running::spawn("acms", move || self.run())
    }

    /// Serves on this thread, until its stopper is called.
    ///
    /// # Errors
    /// The system's readiness queue failed.
    pub fn run(mut self) -> io::Result<()> {
        if let Some(listener) = self.listener.take() {
            self.reactor.listen(listener)?;
        }
        #[cfg(feature = "management")]
        let _serving = self.management.take().map(|bound| bound.serve_acms(self.handle())).transpose()?;
        loop {
            let woken = self.reactor.receive(&mut self.core, self.stopping.by)?;
            if woken.signalled {
                self.signalled();
            } else if self.handle.told_to_stop.load(Ordering::Acquire) {
                self.stop();
            }
            self.obey();
            while let Some(event) = self.core.poll_event() {
                self.publish(&event);
                self.log(event);
            }
            self.reactor.send(&mut self.core);
            if self.core.is_stopped() || self.stopping.is_overdue(self.reactor.now()) {
                log::info!("stopped: {}; {}", self.core.counters(), self.reactor.calls());
                return Ok(());
            }
        }
    }

    /// As [`Acms::run`], and stops on SIGTERM or SIGINT; on a second one at once.
    pub fn run_until_signal(mut self) -> io::Result<()> {
        self.reactor.take_signals()?;
        self.run()
    }

    fn signalled(&mut self) {
        if self.stopping.has_begun() { self.stopping.hurry() } else { self.stop() }
    }

    fn stop(&mut self) {
        let now = self.reactor.now();
        if self.stopping.begin(now) {
            self.reactor.stop_listening();
            self.core.stop(now);
        }
    }

    fn log(&mut self, event: Event) {
        match event {
            Event::Registered { conn, server, address, incarnation } => {
                log::info!("{conn} server {server} registered: clients at {address}, incarnation {incarnation}");
            }
            Event::Lost {
                server,
                users,
                gone: Gone::Closed(CloseCode::SHUTDOWN) | Gone::ClosedByPeer(CloseCode::SHUTDOWN),
            } => {
                log::info!("server {server} left with {users} users: one of us is stopping");
            }
            Event::Lost { server, users, gone } => log::warn!("server {server} lost with {users} users: {gone}"),
            Event::Synced { server, users } => log::info!("server {server} told of its {users} users"),
            Event::Mismatch { server } => log::warn!("server {server} has other users than known here; asked again"),
            Event::Memory(strain) => log_strain(&strain),
            Event::Online { .. } | Event::Offline { .. } => {}
            Event::Settled { id, settled } => self.settle(id, settled),
            Event::Closed { conn, addr, server: Some(server), gone, text } => {
                log::info!("{conn} {addr} server {server} {}", ending(gone, &text));
            }
            Event::Closed { conn, addr, server: None, gone, text } => {
                if let Some(untold) = self.newcomers.ended(self.reactor.now(), addr.ip()) {
                    log::info!("{conn} {addr} {}{untold}", ending(gone, &text));
                }
            }
        }
    }
}

/// An application's policy, whose panics send a user nowhere.
struct Guarded(Box<dyn Assignment>);

impl Assignment for Guarded {
    fn choose(&mut self, user: Option<&UserId>, candidates: &[Candidate<'_>]) -> Option<ServerId> {
        let chosen = std::panic::catch_unwind(AssertUnwindSafe(|| self.0.choose(user, candidates)));
        chosen.unwrap_or_else(|_| {
            log::error!("the application's assignment panicked");
            None
        })
    }
}
