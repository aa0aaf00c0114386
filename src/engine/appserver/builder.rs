//! What an application server is made of, and the binding of its port.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use hashbrown::HashMap;

use super::AppServer;
use crate::engine::application::{AnyUser, Authenticator, Handler};
use crate::engine::blob::BlobLine;
use crate::engine::friends::{Everyone, Friends};
use crate::engine::groups::Groups;
use crate::engine::handle::ServerHandle;
use crate::engine::line::CommandLine;
use crate::engine::newcomers::Newcomers;
use crate::engine::plain::PlainIds;
use crate::engine::pool::{Application, Stage};
use crate::engine::responder::Answers;
use crate::engine::{Stopping, boot_number, check_name, listen_at, resolve_address, seed};
use crate::id::ServerId;
use crate::limits;
#[cfg(feature = "management")]
use crate::management::{Bound, Token};
use crate::net::{Reactor, Tuning, default_memory_max, raise_descriptor_limit};
use crate::role::appserver::{self as core, CutOff, Rates};
use crate::role::blob;
use crate::time::Span;
use crate::wire::link::Relogin;

/// Which cluster a server joins: the only difference between one that stands alone and a member.
#[derive(Clone, Debug)]
pub struct Membership {
    server: ServerId,
    acms: String,
    name: String,
    secret: Vec<u8>,
    public_address: Option<SocketAddr>,
}

impl Membership {
    /// Server number `server` of the cluster whose manager listens at `acms` (host and transfer port).
    pub fn new(server: ServerId, acms: impl Into<String>) -> Membership {
        Membership { server, acms: acms.into(), name: "trunkline".to_owned(), secret: Vec::new(), public_address: None }
    }

    /// The cluster's name, 1 to 64 bytes; "trunkline" where it is not told.
    pub fn name(mut self, name: impl Into<String>) -> Membership {
        self.name = name.into();
        self
    }

    /// What members prove to know; none by default.
    pub fn secret(mut self, secret: impl Into<Vec<u8>>) -> Membership {
        self.secret = secret.into();
        self
    }

    /// Where clients reach this server, and are sent to by others that stop; the address it listens at where it is not told.
    /// A number, since client engines look no names up.
    pub fn public_address(mut self, address: SocketAddr) -> Membership {
        self.public_address = Some(address);
        self
    }
}

/// What an application server is made of; see [`AppServer::builder`].
pub struct AppServerBuilder {
    authenticator: Box<dyn Authenticator>,
    handler: Option<Box<dyn Handler>>,
    groups: Option<Box<dyn Groups>>,
    friends: Box<dyn Friends>,
    threads: usize,
    membership: Option<Membership>,
    config: core::Config,
    capacity: usize,
    memory_max: Option<usize>,
    tuning: Tuning,
    #[cfg(feature = "management")]
    management: Option<(SocketAddr, Option<Token>)>,
}

impl AppServerBuilder {
    /// As [`AppServer::builder`] says.
    pub(super) fn new() -> AppServerBuilder {
        AppServerBuilder {
            authenticator: Box::new(AnyUser),
            handler: None,
            groups: None,
            friends: Box::new(Everyone),
            threads: 0,
            membership: None,
            capacity: usize::MAX,
            memory_max: None,
            tuning: Tuning::default(),
            #[cfg(feature = "management")]
            management: None,
            config: core::Config {
                server: ServerId(0),
                incarnation: 0,
                max_frame: limits::MAX_FRAME,
                heartbeat: limits::HEARTBEAT,
                heartbeat_timeout: limits::HEARTBEAT_TIMEOUT,
                login_timeout: limits::LOGIN_TIMEOUT,
                drain: limits::DRAIN,
                connections_max: usize::MAX,
                max_accepts_per_second: limits::ACCEPTS_PER_SECOND,
                memory_max: usize::MAX,
                rates: Rates {
                    messages_per_second: limits::CLIENT_MESSAGES_PER_SECOND,
                    bytes_per_second: limits::CLIENT_BYTES_PER_SECOND,
                },
                relogin: Relogin::default(),
                cut_off: CutOff::default(),
                takes_messages: false,
                takes_queries: false,
                asks_joins: false,
                takes_queries_before_login: false,
                blobs: blob::Config::default(),
                cluster: None,
                seed: [0; 32],
            },
        }
    }

    /// Who may log in; everyone where it is not told.
    pub fn authenticator(mut self, authenticator: impl Authenticator) -> AppServerBuilder {
        self.authenticator = Box::new(authenticator);
        self
    }

    /// What is done with users and their messages to the server; without one those messages bounce NO_HANDLER.
    pub fn handler(mut self, handler: impl Handler) -> AppServerBuilder {
        self.handler = Some(Box::new(handler));
        self
    }

    /// Who may join which group; everyone may join any where it is not told.
    pub fn groups(mut self, groups: impl Groups) -> AppServerBuilder {
        self.groups = Some(Box::new(groups));
        self
    }

    /// Lets programs that have not logged in ask the handler something, to register, say; else they are closed PROTOCOL.
    pub fn queries_before_login(mut self) -> AppServerBuilder {
        self.config.takes_queries_before_login = true;
        self
    }

    /// Who hears of whose comings and goings; everyone of everyone's where it is not told, which is for small deployments: see
    /// [`Everyone`].
    pub fn friends(mut self, friends: impl Friends) -> AppServerBuilder {
        self.friends = Box::new(friends);
        self
    }

    /// Runs the handler on `threads` threads beside the reactor and the authenticator on as many others, so that they
    /// may block; 0, the default, runs them in the reactor. Each thread has a queue of 1,024 tasks and 16 MiB of
    /// messages; a message that finds it full bounces BUSY, a login is closed UNAVAILABLE.
    pub fn pool(mut self, threads: usize) -> AppServerBuilder {
        self.threads = threads;
        self
    }

    /// Joins a cluster. Nothing else changes, neither for the handlers nor for the clients.
    pub fn cluster(mut self, membership: Membership) -> AppServerBuilder {
        self.membership = Some(membership);
        self
    }

    /// What becomes of an older session of a user that logs in again; the newer one stays by default.
    pub fn relogin(mut self, relogin: Relogin) -> AppServerBuilder {
        self.config.relogin = relogin;
        self
    }

    /// What becomes of logins while the cluster can't be reached; they are let in by default.
    pub fn when_cut_off(mut self, cut_off: CutOff) -> AppServerBuilder {
        self.config.cut_off = cut_off;
        self
    }

    /// Silence after which a client is sent a PING, and after which it is closed; 10 s and 30 s by default. Each is 20 ms to
    /// 1 h, and the second at least twice the first.
    pub fn heartbeat(mut self, probe: std::time::Duration, timeout: std::time::Duration) -> AppServerBuilder {
        self.config.heartbeat = probe.into();
        self.config.heartbeat_timeout = timeout.into();
        self
    }

    /// How long a connection may take to log in, 20 ms to 1 h; 10 s by default.
    pub fn login_timeout(mut self, timeout: std::time::Duration) -> AppServerBuilder {
        self.config.login_timeout = timeout.into();
        self
    }

    /// How long a server that stops spreads the sending of its users to the other servers of its cluster over, at least: 2 s
    /// by default, 10 minutes at most. It takes longer where those would let more than half of what they may in a second.
    pub fn drain(mut self, span: std::time::Duration) -> AppServerBuilder {
        self.config.drain = Span::from(span).min(limits::DRAIN_CEILING);
        self
    }

    /// The largest length field taken from a client, in bytes: 4 KiB to 1 MiB, which is the default.
    pub fn max_frame(mut self, bytes: usize) -> AppServerBuilder {
        self.config.max_frame = bytes.clamp(limits::MAX_FRAME_FLOOR, limits::MAX_FRAME);
        self
    }

    /// Connections, at most; as many as the process has descriptors for by default. More are closed FULL.
    pub fn max_connections(mut self, connections: usize) -> AppServerBuilder {
        self.config.connections_max = connections;
        self
    }

    /// Connections let in a second, and at once; 10,000 by default, 0 for no bound. More are closed FULL and told when
    /// to come again.
    pub fn max_accepts_per_second(mut self, per_second: u32) -> AppServerBuilder {
        self.config.max_accepts_per_second = per_second;
        self
    }

    /// Bytes that all connections may hold together, at least 8 MiB: what waits to be sent, and messages whose ends have
    /// not come; they cost about twice as much memory, at the worst four times. An eighth of what the process may use by
    /// default, for each server in it. From 70 % on logins are closed FULL, from 85 % on clients are not read from, from
    /// 95 % on the slowest are closed SLOW.
    pub fn max_memory(mut self, bytes: usize) -> AppServerBuilder {
        self.memory_max = Some(bytes.max(limits::MEMORY_MAX_FLOOR));
        self
    }

    /// Messages, all but answers, that each client may send in a second on average; 5,000 by default, 0 for any number.
    /// One second's worth may come at once. A client that sends more is read from more slowly; one that has done so for
    /// 30 s without a break is closed RATE.
    pub fn max_messages_per_second(mut self, messages: u64) -> AppServerBuilder {
        self.config.rates.messages_per_second = messages;
        self
    }

    /// Bytes that each client may send in a second on average; 16 MiB by default, 0 for any number. One second's worth,
    /// or a message of `max_frame` where that is more, may come at once. A client that sends more is read from more
    /// slowly, and is never closed for it.
    pub fn max_bytes_per_second(mut self, bytes: u64) -> AppServerBuilder {
        self.config.rates.bytes_per_second = bytes;
        self
    }

    /// Bytes of a blob, at most, that is sent or taken; 64 MiB by default. What was received and not dropped yet by the
    /// handler may be twice as much in all; more is refused.
    pub fn max_blob(mut self, bytes: usize) -> AppServerBuilder {
        self.config.blobs.bytes_max = bytes;
        self
    }

    /// Users that the cluster is told this server takes; its connections by default.
    pub fn capacity(mut self, users: usize) -> AppServerBuilder {
        self.capacity = users;
        self
    }

    /// Trades latency for CPU: `Tuning { rest: Duration::from_micros(200).into() }`.
    pub fn tuning(mut self, tuning: Tuning) -> AppServerBuilder {
        self.tuning = tuning;
        self
    }

    /// Listens for operators at `addr` too, who are told what is measured and whether all is well; port 0 lets the system
    /// choose. Without a token it answers whoever reaches it, and has to be loopback.
    #[cfg(feature = "management")]
    pub fn management(mut self, addr: SocketAddr, token: Option<Token>) -> AppServerBuilder {
        self.management = Some((addr, token));
        self
    }

    /// Listens at `addr`; port 0 lets the system choose. Clients are served once the server runs.
    ///
    /// # Errors
    /// The address is in use or not allowed, a name has no address, the cluster's name breaks the rule of ids, clients of
    /// other servers of the cluster could not be sent to the public address, a heartbeat, its timeout or the time to log in
    /// breaks its bounds, operators would be answered without a token at an address that is not loopback, or the system has
    /// no descriptor left.
    pub fn bind(self, addr: impl ToSocketAddrs) -> io::Result<AppServer> {
        let descriptors = raise_descriptor_limit();
        let addr = resolve_address(addr)?;
        check_waits(&self.config)?;
        if let Some(membership) = &self.membership {
            check_public_address(membership.public_address.unwrap_or(addr))?;
            check_number(membership.server)?;
        }
        let listener = listen_at(addr)?;
        let local_addr = listener.local_addr()?;
        let mut config = self.config;
        config.connections_max = config.connections_max.min(descriptors);
        config.memory_max = self.memory_max.unwrap_or_else(default_memory_max);
        config.incarnation = boot_number();
        config.seed = seed()?;
        config.takes_messages = self.handler.is_some();
        config.takes_queries = self.handler.is_some();
        config.asks_joins = self.groups.is_some();
        config.blobs.taken = self.handler.is_some();
        if let Some(membership) = self.membership {
            check_name(&membership.name)?;
            let acms = resolve_address(&membership.acms).map_err(|error| {
                io::Error::new(error.kind(), format!("cannot find the ACMS {}: {error}", membership.acms))
            })?;
            config.server = membership.server;
            config.cluster = Some(core::Membership {
                acms,
                name: membership.name,
                secret: membership.secret,
                public_address: membership.public_address.unwrap_or(local_addr).to_string(),
                capacity: u32::try_from(self.capacity.min(config.connections_max)).unwrap_or(u32::MAX),
            });
        }
        let reactor = Reactor::new(self.tuning)?;
        let server = config.server;
        let mut core = core::AppServer::new(reactor.now(), config);
        let ids = Arc::new(PlainIds::new(server, &mut core));
        let wake = reactor.wake();
        let (commands, queue) = CommandLine::new(Arc::clone(&wake));
        let (blob_line, blobs) = BlobLine::new(Arc::clone(&wake));
        let handle = ServerHandle { commands, blob_line, ids, told_to_stop: Arc::default() };
        let application = Application {
            authenticator: self.authenticator,
            handler: self.handler,
            groups: self.groups,
            friends: self.friends,
            panics: AtomicU64::new(0),
        };
        let stage = Stage::new(application, self.threads, &handle, Arc::clone(&wake))?;
        Ok(AppServer {
            core,
            reactor,
            listener: Some(listener),
            local_addr,
            #[cfg(feature = "management")]
            management: self.management.map(|(addr, token)| Bound::new(addr, token)).transpose()?,
            handle,
            queue,
            blobs,
            waiting: HashMap::with_hasher(ahash::RandomState::with_seeds(1, 2, 3, 4)),
            lookups: HashMap::with_hasher(ahash::RandomState::with_seeds(1, 2, 3, 4)),
            lookup_tokens: 0,
            rosters: HashMap::with_hasher(ahash::RandomState::with_seeds(1, 2, 3, 4)),
            answers: Answers::new(wake),
            newcomers: Newcomers::default(),
            stopping: Stopping::default(),
            was_registered: false,
            refused: None,
            stage,
        })
    }
}

/// A silence of no time would end every connection, and a PING needs the time to be answered.
fn check_waits(config: &core::Config) -> io::Result<()> {
    let waits = [
        ("heartbeat", config.heartbeat),
        ("heartbeat timeout", config.heartbeat_timeout),
        ("login timeout", config.login_timeout),
    ];
    for (name, wait) in waits {
        if !(limits::CLIENT_WAIT_FLOOR..=limits::CLIENT_WAIT_CEILING).contains(&wait) {
            let text = format!("the {name} is 20 ms to 1 h, not {} ms", wait.as_millis());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
    }
    let (heartbeat_ms, timeout_ms) = (config.heartbeat.as_millis(), config.heartbeat_timeout.as_millis());
    if timeout_ms < 2 * heartbeat_ms {
        let text =
            format!("the heartbeat timeout, {timeout_ms} ms, is at least twice the heartbeat, {heartbeat_ms} ms");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(())
}

/// One number is the cluster manager's.
fn check_number(server: ServerId) -> io::Result<()> {
    if server == ServerId::ACMS {
        let text = format!("server id {server} is the cluster manager's own: 0 to 65534");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(())
}

/// Clients that are sent to "any address" dial their own machine.
fn check_public_address(addr: SocketAddr) -> io::Result<()> {
    if addr.ip().is_unspecified() {
        let text =
            format!("clients cannot be sent to {addr}: in a cluster a public address is needed (--public-address)");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_have_bounds_as_the_programs_options_have() {
        let ms = std::time::Duration::from_millis;
        let bind = |builder: AppServerBuilder| builder.bind("127.0.0.1:0").map(drop).map_err(|error| error.to_string());
        let heartbeat = |probe, timeout| bind(AppServer::builder().heartbeat(probe, timeout));
        let login = |timeout| bind(AppServer::builder().login_timeout(timeout));
        let refused = |text: &str| Err(text.to_owned());
        assert_eq!((heartbeat(ms(20), ms(40)), heartbeat(ms(1_800_000), ms(3_600_000))), (Ok(()), Ok(())));
        assert_eq!((login(ms(20)), login(ms(3_600_000))), (Ok(()), Ok(())));
        assert_eq!(heartbeat(ms(0), ms(40)), refused("the heartbeat is 20 ms to 1 h, not 0 ms"));
        assert_eq!(
            heartbeat(ms(3_600_000), ms(7_200_000)),
            refused("the heartbeat timeout is 20 ms to 1 h, not 7200000 ms")
        );
        let text = "the heartbeat timeout, 39 ms, is at least twice the heartbeat, 20 ms";
        assert_eq!(heartbeat(ms(20), ms(39)), refused(text));
        assert_eq!(login(ms(19)), refused("the login timeout is 20 ms to 1 h, not 19 ms"));
        assert_eq!(login(ms(3_600_001)), refused("the login timeout is 20 ms to 1 h, not 3600001 ms"));
    }

    #[test]
    fn in_a_cluster_nobody_is_sent_to_an_unspecified_address() {
        let member = || Membership::new(ServerId(1), "127.0.0.1:9");
        let bind =
            |membership, addr| AppServer::builder().cluster(membership).bind(addr).map(|server| server.local_addr());
        let text = "clients cannot be sent to 0.0.0.0:0: in a cluster a public address is needed (--public-address)";
        assert_eq!(bind(member(), "0.0.0.0:0").map_err(|error| error.to_string()), Err(text.to_owned()));
        let unspecified = member().public_address(SocketAddr::from(([0; 8], 6000)));
        let text = "clients cannot be sent to [::]:6000: in a cluster a public address is needed (--public-address)";
        assert_eq!(bind(unspecified, "127.0.0.1:0").map_err(|error| error.to_string()), Err(text.to_owned()));
        assert!(bind(member(), "127.0.0.1:0").expect("clients reach it").ip().is_loopback());
    }
}
