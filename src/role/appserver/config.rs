use std::net::SocketAddr;

use super::meter::Rates;
use crate::id::ServerId;
use crate::role::blob;
use crate::time::Span;
use crate::wire::link::Relogin;

/// What an application server is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its number in the cluster; 0 where it stands alone.
    pub server: ServerId,
    /// Its boot number: grows with every start.
    pub incarnation: u64,
    /// The largest length field it takes from a client, in bytes.
    pub max_frame: usize,
    /// Silence after which a client is sent a PING.
    pub heartbeat: Span,
    /// Silence after which a client is closed NO_HEARTBEAT.
    pub heartbeat_timeout: Span,
    /// From accept to a complete LOGIN.
    pub login_timeout: Span,
    /// How long the sending of all users to other servers is spread over, at least, where it stops and others go on.
    pub drain: Span,
    /// Connections, at most; more are closed FULL.
    pub connections_max: usize,
    /// Connections let in a second, and at once; more are closed FULL and told when to come again. 0 for no bound.
    pub max_accepts_per_second: u32,
    /// Bytes that all connections may hold together.
    pub memory_max: usize,
    /// What each client may send.
    pub rates: Rates,
    /// What becomes of an older session of the same user.
    pub relogin: Relogin,
    /// What becomes of logins while the cluster can't be reached.
    pub cut_off: CutOff,
    /// Whether the application takes messages sent to the server itself.
    pub takes_messages: bool,
    /// Whether it answers queries sent to the server itself.
    pub takes_queries: bool,
    /// Whether the application is asked who may join a group; else everyone may.
    pub asks_joins: bool,
    /// Whether it answers queries of programs that have not logged in.
    pub takes_queries_before_login: bool,
    /// Which blobs it takes and sends; none where it answers no queries.
    pub blobs: blob::Config,
    /// The cluster to join.
    pub cluster: Option<Membership>,
    /// The source of all randomness.
    pub seed: [u8; 32],
}

/// Which cluster a server joins, and how.
#[derive(Clone, Debug)]
pub struct Membership {
    /// The ACMS's transfer port.
    pub acms: SocketAddr,
    /// The cluster's name.
    pub name: String,
    /// What members prove to know; empty for a cluster without a secret.
    pub secret: Vec<u8>,
    /// Where clients reach this server, as told to the cluster.
    pub public_address: String,
    /// Users that this server takes.
    pub capacity: u32,
}

/// What becomes of logins while the cluster can't be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CutOff {
    /// They are let in; on return the newest session of each user stays.
    #[default]
    ServeLocal,
    /// They are refused UNAVAILABLE.
    RefuseNew,
}
