//! What an application embeds: [`AppServer`], [`Acms`], [`Client`]. Each is one thread, one reactor, one core.

mod acms;
mod application;
mod appserver;
mod blob;
mod client;
mod entry;
mod friends;
mod groups;
mod guide;
mod handle;
mod line;
mod newcomers;
mod outcomes;
mod plain;
mod pool;
mod responder;
mod watchdog;

pub use acms::{
    Acms, AcmsBuilder, AcmsHandle, AcmsVitals, ClusterEvent, MessageOutcome, MessageTo, OperatorMessage, ServerChange,
    Subscription,
};
#[cfg(feature = "management")]
pub(crate) use acms::{Command as AcmsCommand, Subscriber};
pub use application::{AnyUser, Authenticator, Denied, Handler, Incoming, LoginRequest, Refusal, Unnamed};
pub use appserver::{AppServer, AppServerBuilder, Membership};
pub use blob::{Blob, BlobHandle, BlobOffer, BlobOutcome, IncomingBlob};
pub use client::{Client, ClientBuilder, ConnectError, Delivery, Event, Message, Query, Undelivered};
pub use entry::{EntryFailure, query_without_login};
pub use friends::{Everyone, Friends, Nobody};
pub use groups::Groups;
#[cfg(feature = "management")]
pub(crate) use handle::Command as ServerCommand;
pub use handle::{Overloaded, ServerHandle, ServerVitals, TagError};
pub use outcomes::{Cursor, Profile, UserPage};
pub use responder::Responder;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use mio::net::TcpListener;

use crate::id::check_id;
use crate::limits;
use crate::memory::{Health, Strain};
use crate::net::listen;
use crate::role::Gone;
use crate::time::Time;

/// An outcome that is not there yet.
///
/// Dropping it gives the outcome up, not what brings it about.
#[derive(Debug)]
pub struct Pending<T> {
    receiver: Receiver<T>,
}

/// The engine that was to bring an outcome about has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the engine has stopped")]
pub struct Stopped;

impl<T> Pending<T> {
    fn new() -> (Sender<T>, Pending<T>) {
        let (sender, receiver) = bounded(1);
        (sender, Pending { receiver })
    }

    /// Waits for the outcome. Never on an engine's own thread: it would wait for itself.
    pub fn wait(self) -> Result<T, Stopped> {
        self.receiver.recv().map_err(|_| Stopped)
    }

    /// The channel that the outcome comes by, once: to wait for it beside others.
    pub fn receiver(&self) -> &Receiver<T> {
        &self.receiver
    }

    /// Waits for the outcome, for a time; hands itself back where that was not enough.
    pub fn wait_timeout(self, timeout: Duration) -> Result<Result<T, Stopped>, Pending<T>> {
        match self.receiver.recv_timeout(timeout) {
            Ok(outcome) => Ok(Ok(outcome)),
            Err(RecvTimeoutError::Disconnected) => Ok(Err(Stopped)),
            Err(RecvTimeoutError::Timeout) => Err(self),
        }
    }
}

/// Hands an outcome to whoever still waits for it.
fn resolve<T>(sender: &Sender<T>, outcome: T) {
    // Who dropped its `Pending` does not want to know.
    drop(sender.try_send(outcome));
}

/// The text of a failure: one that is empty would say that there is no handler.
fn failure(text: &str) -> String {
    if text.is_empty() { "no cause given".to_owned() } else { text.to_owned() }
}

/// Who gave a command and is to be told what came of it, once.
pub(crate) struct Asker<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Asker<T> {
    pub(crate) fn new(give: impl FnOnce(T) + Send + 'static) -> Asker<T> {
        Asker(Box::new(give))
    }

    fn tell(self, outcome: T) {
        (self.0)(outcome);
    }
}

/// What is said in the log about a connection's end, behind what it was.
fn ending(gone: Gone, text: &str) -> String {
    if text.is_empty() { gone.to_string() } else { format!("{gone}: {text}") }
}

/// An engine that runs on a thread of its own.
#[derive(Debug)]
pub struct Running {
    thread: JoinHandle<io::Result<()>>,
}

impl Running {
    fn spawn(name: &str, run: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<Running> {
        Ok(Running { thread: std::thread::Builder::new().name(name.to_owned()).spawn(run)? })
    }

    /// Waits until the engine has stopped.
    ///
    /// # Errors
    /// What made the engine give up: its readiness queue failed, or its cluster refused it for good.
    ///
    /// # Panics
    /// Where the engine's thread did.
    pub fn join(self) -> io::Result<()> {
        match self.thread.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// An engine's way out: told once, it has a time to end its connections; told twice by a signal, none.
#[derive(Clone, Copy, Default)]
struct Stopping {
    by: Option<Time>,
}

impl Stopping {
    /// Begins, or lowers a time that was given for a drain. False where it has begun before.
    fn begin(&mut self, now: Time) -> bool {
        let begins = self.by.is_none();
        let by = now + limits::SHUTDOWN_GRACE;
        self.by = Some(self.by.map_or(by, |earlier| earlier.min(by)));
        begins
    }

    /// Waits for nobody any more.
    fn hurry(&mut self) {
        self.by = Some(Time::ZERO);
    }

    fn has_begun(self) -> bool {
        self.by.is_some()
    }

    fn is_overdue(self, now: Time) -> bool {
        self.by.is_some_and(|by| by <= now)
    }
}

/// The first IPv4 address of a name, or else its first: names of this machine often have both, and one listener.
fn resolve_address(addr: impl ToSocketAddrs) -> io::Result<SocketAddr> {
    let addrs: Vec<SocketAddr> = addr.to_socket_addrs()?.collect();
    let found = addrs.iter().find(|addr| addr.is_ipv4()).or(addrs.first()).copied();
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
}

/// Listens at `addr`; an error names it.
fn listen_at(addr: SocketAddr) -> io::Result<TcpListener> {
    listen(addr).map_err(|error| io::Error::new(error.kind(), format!("cannot listen at {addr}: {error}")))
}

/// A cluster's name follows the rule of ids.
fn check_name(name: &str) -> io::Result<()> {
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, format!("cluster name {name:?}: {error}"));
    check_id(name.as_bytes()).map_err(invalid)
}

/// Tells the operator how short memory is.
fn log_strain(strain: &Strain) {
    let level = if strain.health == Health::Normal { log::Level::Info } else { log::Level::Warn };
    log::log!(level, "{strain}");
}

/// A seed that nobody can guess.
fn seed() -> io::Result<[u8; 32]> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(io::Error::other)?;
    Ok(seed)
}

/// A number that grows with every start: milliseconds since 1970. A clock set back between two starts of one server
/// makes the cluster take it for a duplicate, and refuse it, until the older one's link is known to be lost (3 s at most).
#[expect(clippy::disallowed_methods, reason = "boot numbers come from the wall clock, once")]
fn boot_number() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_with_too_much_to_do_and_one_that_is_gone_are_told_apart() {
        let acms = Acms::builder().bind("127.0.0.1:0").expect("a port is free");
        let handle = acms.handle();
        let asked = (0..limits::OPERATOR_COMMANDS_MAX).map(|_| handle.vitals()).filter(Result::is_ok).count();
        assert_eq!(asked, limits::OPERATOR_COMMANDS_MAX);
        assert_eq!(handle.vitals().map(drop), Err(Overloaded::Full));
        drop(acms);
        assert_eq!(handle.vitals().map(drop), Err(Overloaded::Stopped));
        let server = AppServer::builder().bind("127.0.0.1:0").expect("a port is free");
        let handle = server.handle();
        while handle.online().is_ok() {}
        assert_eq!(handle.online().map(drop), Err(Overloaded::Full));
        drop(server);
        assert_eq!(handle.online().map(drop), Err(Overloaded::Stopped));
    }

    #[test]
    fn a_stop_in_the_midst_of_a_drain_ends_it_three_seconds_later_however_often_it_is_told() {
        let at = Time::from_micros;
        let mut stopping = Stopping::default();
        assert!(stopping.begin(at(600_000_000)), "a drain of ten minutes");
        assert!(!stopping.begin(at(10_000_000)));
        assert!(!stopping.begin(at(11_000_000)));
        assert!(!stopping.is_overdue(at(12_999_999)));
        assert!(stopping.is_overdue(at(13_000_000)));
    }
}
