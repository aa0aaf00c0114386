//! The options of `trunkline-appserver`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValue, RangedU64ValueParser};
use clap::{Parser, ValueEnum};

use super::{
    Arguments, CLIENT_PORT, ClusterArgs, ConfigError, HostPort, HostPortError, MemoryArgs, Place, TRANSFER_PORT,
    TokenArgs, TuningArgs, read_text,
};
use crate::id::{IdError, ServerId, UserId};
use crate::limits;
use crate::management::Token;
use crate::net::Tuning;
use crate::role::appserver::CutOff;
use crate::time::Span;
use crate::wire::link::Relogin;

/// What an application server runs with. Not `Debug`: it holds the cluster's secret and the users' passwords.
pub struct AppServerSettings {
    /// The server's number in its cluster.
    pub id: ServerId,
    /// Where clients connect; port 0 for one that the system picks.
    pub listen: SocketAddr,
    /// The ACMS of its cluster; none for a server that stands alone.
    pub acms: Option<HostPort>,
    /// Where the cluster tells clients to reach the server; none for the address that `listen` was bound to.
    pub public_address: Option<SocketAddr>,
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's secret, at least 16 bytes; empty where it has none.
    pub cluster_secret: Vec<u8>,
    /// What its reactor trades.
    pub tuning: Tuning,
    /// Where operators are answered, port 0 for one that the system picks; none where they are not.
    pub management: Option<SocketAddr>,
    /// What they must send; none where they need not.
    pub management_token: Option<Token>,
    /// What becomes of the older session when a user logs in again.
    pub relogin: Relogin,
    /// Whether users may log in while the ACMS can't be reached.
    pub when_cut_off: CutOff,
    /// A client that has been silent this long is sent a PING.
    pub heartbeat: Span,
    /// A client that has been silent this long is closed; at least twice `heartbeat`.
    pub heartbeat_timeout: Span,
    /// From accept to a complete LOGIN.
    pub login_timeout: Span,
    /// How long the sending of all users to other servers is spread over, at least, where it stops and others go on.
    pub drain: Span,
    /// Bytes of a frame after its length field, at most; in `MAX_FRAME_FLOOR..=MAX_FRAME` of [`limits`].
    pub max_frame: usize,
    /// Client connections, at most; 1 or more.
    pub max_connections: u32,
    /// Connections let in a second, and at once; 0 for no bound.
    pub max_accepts_per_second: u32,
    /// Bytes that all connections may hold together; none for an eighth of what the process may use.
    pub max_memory: Option<usize>,
    /// Messages that each client may send in a second; 0 for any number.
    pub max_messages_per_second: u64,
    /// Bytes that each client may send in a second; 0 for any number.
    pub max_bytes_per_second: u64,
    /// Users that the cluster is told the server takes; in `1..=max_connections`.
    pub capacity: u32,
    /// Who may join a group.
    pub groups: JoinPolicy,
    /// Who may log in.
    pub login_check: LoginCheck,
    /// Who hears of whose comings and goings.
    pub friends: FriendsPolicy,
}

/// Who hears of whose comings and goings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FriendsPolicy {
    /// Everyone of everyone's.
    Everyone,
    /// Nobody of anybody's.
    Nobody,
}

/// Who may join a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum JoinPolicy {
    /// Everyone, any group
    Everyone,
    /// Nobody: who is in was put in by server code
    Nobody,
}

/// Who may log in. Not `Debug`: it holds passwords.
pub enum LoginCheck {
    /// Anyone, under any valid id.
    AnyUser,
    /// Those in the table, each with the password there.
    Users(BTreeMap<UserId, String>),
}

/// What is wrong with a line of the users file. Names no password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserLineError {
    /// No colon.
    #[error("expected user:password")]
    NoColon,
    /// What precedes the colon is no user id.
    #[error("not a user id: {0}")]
    User(#[from] IdError),
    /// Nothing follows the colon.
    #[error("user \"{0}\" has no password")]
    NoPassword(UserId),
    /// An earlier line has the same user.
    #[error("user \"{0}\" is listed twice")]
    Twice(UserId),
}

/// Milliseconds that a span may have: down to what the timer wheel can tell apart, up to an hour.
const SPAN_MS: RangeInclusive<u64> = limits::CLIENT_WAIT_FLOOR.as_millis()..=limits::CLIENT_WAIT_CEILING.as_millis();
/// Seconds that a drain may take.
const DRAIN_SECONDS: RangeInclusive<u64> = 0..=limits::DRAIN_CEILING.as_millis() / 1_000;
/// Bytes that `max_frame` may be.
const MAX_FRAME: RangeInclusive<u64> = limits::MAX_FRAME_FLOOR as u64..=limits::MAX_FRAME as u64;
/// Connections that may be configured: Linux gives a process no more descriptors unless `fs.nr_open` is raised.
const CONNECTIONS: RangeInclusive<i64> = 1..=1 << 20;
/// Messages or bytes a second: none, or up to what no machine takes of one connection.
const PER_SECOND: RangeInclusive<u64> = 0..=1_000_000_000_000;
/// Connections where none are configured. The descriptor limit may allow fewer.
const CONNECTIONS_DEFAULT: u32 = 100_000;

/// An application server: users log in here, and reach each other and the users of all other servers of the cluster
#[derive(Parser)]
#[command(name = "trunkline-appserver", version)]
pub struct AppServerArgs {
    /// Number of this server, in 0..=65534; each server of a cluster has its own
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=65_534))]
    id: u16,
    /// IP address and TCP port that clients connect to; port 0 lets the system pick
    #[arg(long, value_name = "IP:PORT", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, CLIENT_PORT)))]
    listen: SocketAddr,
    /// ACMS of the cluster to join; port 12000 where none is named [default: none, the server stands alone]
    #[arg(long, value_name = "HOST[:PORT]", value_parser = parse_acms)]
    acms: Option<HostPort>,
    /// Where clients reach this server, as told to the cluster [default: the address that --listen was bound to]
    #[arg(long, value_name = "IP:PORT", value_parser = parse_public_address)]
    public_address: Option<SocketAddr>,
    /// IP address and TCP port of /metrics and /healthz, HTTP; port 0 lets the system pick [default: none]
    #[arg(long, value_name = "IP:PORT")]
    management: Option<SocketAddr>,
    #[command(flatten)]
    token: TokenArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// What becomes of a user's session when the same user logs in again, here or on another server
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = Relogin::ReplaceOld)]
    relogin: Relogin,
    /// Whether users may log in while the ACMS can't be reached
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = CutOff::ServeLocal)]
    when_cut_off: CutOff,
    /// Milliseconds of silence after which a client is sent a PING; in 20..=3600000
    #[arg(long, value_name = "MS", default_value_t = limits::HEARTBEAT.as_millis(), value_parser = span_ms())]
    heartbeat_ms: u64,
    /// Milliseconds of silence after which a client is closed; at least twice --heartbeat-ms, in 20..=3600000
    #[arg(long, value_name = "MS", default_value_t = limits::HEARTBEAT_TIMEOUT.as_millis(), value_parser = span_ms())]
    heartbeat_timeout_ms: u64,
    /// Milliseconds that a new connection has to log in; in 20..=3600000
    #[arg(long, value_name = "MS", default_value_t = limits::LOGIN_TIMEOUT.as_millis(), value_parser = span_ms())]
    login_timeout_ms: u64,
    /// Seconds that a server which stops spreads the sending of its users to other servers over, at least; in 0..=600
    #[arg(
        long, value_name = "S", default_value_t = limits::DRAIN.as_millis() / 1_000,
        value_parser = RangedU64ValueParser::<u64>::new().range(DRAIN_SECONDS)
    )]
    drain_seconds: u64,
    /// Bytes of a message with its header, at most; in 4096..=1048576
    #[arg(
        long, value_name = "BYTES", default_value_t = limits::MAX_FRAME,
        value_parser = RangedU64ValueParser::<usize>::new().range(MAX_FRAME)
    )]
    max_frame: usize,
    /// Client connections at a time, at most; in 1..=1048576. The process's descriptor limit may allow fewer
    #[arg(
        long, value_name = "N", default_value_t = CONNECTIONS_DEFAULT,
        value_parser = clap::value_parser!(u32).range(CONNECTIONS)
    )]
    max_connections: u32,
    /// Connections let in a second, and at once; more are told when to come again. 0: no bound; at most 1000000
    #[arg(
        long, value_name = "N", default_value_t = limits::ACCEPTS_PER_SECOND,
        value_parser = clap::value_parser!(u32).range(0..=1_000_000)
    )]
    max_accepts_per_second: u32,
    /// Messages that each client may send in a second, on average; 0 for any number, at most 1000000000000
    #[arg(
        long, value_name = "N", default_value_t = limits::CLIENT_MESSAGES_PER_SECOND, value_parser = per_second()
    )]
    max_messages_per_second: u64,
    /// Bytes that each client may send in a second, on average; 0 for any number, at most 1000000000000
    #[arg(
        long, value_name = "BYTES", default_value_t = limits::CLIENT_BYTES_PER_SECOND, value_parser = per_second()
    )]
    max_bytes_per_second: u64,
    /// Users that the cluster is told this server takes; at most --max-connections [default: --max-connections]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(CONNECTIONS))]
    capacity: Option<u32>,
    /// Who may join a group
    #[arg(long, value_name = "WHO", value_enum, default_value_t = JoinPolicy::Everyone)]
    groups: JoinPolicy,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    tuning: TuningArgs,
    /// Who hears of whose comings and goings; of each that comes or goes everyone on all servers is told, where it is everyone
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = FriendsPolicy::Nobody)]
    friends: FriendsPolicy,
    /// File of those who may log in: lines of user:password, # begins a comment line [default: anyone may]
    #[arg(long, value_name = "FILE")]
    users_file: Option<PathBuf>,
}

impl Arguments for AppServerArgs {
    type Settings = AppServerSettings;
    const EXAMPLE: &'static str = "trunkline-appserver --id 1 --listen 127.0.0.1:6001 --acms 127.0.0.1";

    fn resolve(self) -> Result<AppServerSettings, ConfigError> {
        if self.heartbeat_timeout_ms < 2 * self.heartbeat_ms {
            let (heartbeat_ms, timeout_ms) = (self.heartbeat_ms, self.heartbeat_timeout_ms);
            return Err(ConfigError::HeartbeatTimeout { heartbeat_ms, timeout_ms });
        }
        let max_connections = self.max_connections;
        let capacity = self.capacity.unwrap_or(max_connections);
        if capacity > max_connections {
            return Err(ConfigError::Capacity { capacity, max_connections });
        }
        Ok(AppServerSettings {
            id: ServerId(self.id),
            listen: self.listen,
            acms: self.acms,
            public_address: self.public_address,
            management: self.management,
            management_token: self.token.read(self.management)?,
            cluster_secret: self.cluster.read_secret()?,
            cluster: self.cluster.cluster,
            tuning: self.tuning.tuning(),
            relogin: self.relogin,
            when_cut_off: self.when_cut_off,
            heartbeat: Span::from_millis(self.heartbeat_ms),
            heartbeat_timeout: Span::from_millis(self.heartbeat_timeout_ms),
            login_timeout: Span::from_millis(self.login_timeout_ms),
            drain: Span::from_secs(self.drain_seconds),
            max_frame: self.max_frame,
            max_connections,
            max_accepts_per_second: self.max_accepts_per_second,
            max_memory: self.memory.max_memory,
            max_messages_per_second: self.max_messages_per_second,
            max_bytes_per_second: self.max_bytes_per_second,
            capacity,
            groups: self.groups,
            friends: self.friends,
            login_check: self.users_file.as_deref().map_or(Ok(LoginCheck::AnyUser), read_users)?,
        })
    }
}

fn parse_acms(text: &str) -> Result<HostPort, HostPortError> {
    HostPort::parse_or_port(text, TRANSFER_PORT)
}

/// A name would be told to the cluster's clients, whose engines look none up.
fn parse_public_address(text: &str) -> Result<SocketAddr, &'static str> {
    let parsed = text.parse().ok().filter(|addr: &SocketAddr| addr.port() != 0);
    parsed.ok_or("clients are sent there by number, without a look-up: IP:PORT")
}

fn per_second() -> RangedU64ValueParser<u64> {
    RangedU64ValueParser::new().range(PER_SECOND)
}

fn span_ms() -> RangedU64ValueParser<u64> {
    RangedU64ValueParser::new().range(SPAN_MS)
}

impl ValueEnum for CutOff {
    fn value_variants<'a>() -> &'a [CutOff] {
        &[CutOff::ServeLocal, CutOff::RefuseNew]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            CutOff::ServeLocal => {
                PossibleValue::new("serve-local").help("Yes, and they reach the users of this server")
            }
            CutOff::RefuseNew => PossibleValue::new("refuse-new").help("No; those who are here stay"),
        })
    }
}

impl ValueEnum for FriendsPolicy {
    fn value_variants<'a>() -> &'a [FriendsPolicy] {
        &[FriendsPolicy::Everyone, FriendsPolicy::Nobody]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            FriendsPolicy::Everyone => {
                PossibleValue::new("everyone").help("Everyone of everyone's: for small deployments")
            }
            FriendsPolicy::Nobody => PossibleValue::new("nobody").help("Nobody, and nobody may watch anybody"),
        })
    }
}

impl ValueEnum for Relogin {
    fn value_variants<'a>() -> &'a [Relogin] {
        &[Relogin::ReplaceOld, Relogin::KeepOld]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Relogin::ReplaceOld => PossibleValue::new("replace-old").help("The older session is closed"),
            Relogin::KeepOld => PossibleValue::new("keep-old").help("The newer login is refused"),
        })
    }
}

fn read_users(path: &Path) -> Result<LoginCheck, ConfigError> {
    let mut users = BTreeMap::new();
    for (index, line) in read_text(path)?.lines().enumerate() {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        add_user(&mut users, line).map_err(|fault| ConfigError::UserLine {
            place: Place { path: path.to_owned(), line: index + 1 },
            fault,
        })?;
    }
    Ok(LoginCheck::Users(users))
}

fn add_user(users: &mut BTreeMap<UserId, String>, line: &str) -> Result<(), UserLineError> {
    let (user, password) = line.split_once(':').ok_or(UserLineError::NoColon)?;
    let user: UserId = user.parse()?;
    if password.is_empty() {
        return Err(UserLineError::NoPassword(user));
    }
    match users.insert(user.clone(), password.to_owned()) {
        None => Ok(()),
        Some(_) => Err(UserLineError::Twice(user)),
    }
}
