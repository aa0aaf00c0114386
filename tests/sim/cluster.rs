//! What the processes of the simulated cluster are told at their start: every core is configured here.

use std::net::{IpAddr, SocketAddr};

use trunkline::id::ServerId;
use trunkline::limits;
use trunkline::role::acms::{self, Acms};
use trunkline::role::appserver::{self, AppServer, CutOff, Membership, Rates};
use trunkline::role::blob;
use trunkline::role::client::{self, Client, Entrance};
use trunkline::time::{Span, Time};
use trunkline::wire::Login;
use trunkline::wire::link::Relogin;

use crate::network::NodeId;

/// The ACMS's place among the nodes.
pub(crate) const ACMS: NodeId = 0;
/// The application servers' places, which are also their numbers in the cluster.
pub(crate) const SERVERS: [NodeId; 3] = [1, 2, 3];
/// The number of a server that belongs to the cluster and lies to it.
pub(crate) const LIAR: u16 = 9;
pub(crate) const NAME: &str = "sim";
pub(crate) const SECRET: &[u8] = b"secret";
/// What an honest user shows.
pub(crate) const PASSWORD: &str = "open sesame";

/// What a seed draws of that.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Bytes that the connections of one server, or of the ACMS, may hold together.
    pub(crate) memory_max: usize,
    /// What each client may send.
    pub(crate) rates: Rates,
    pub(crate) cut_off: CutOff,
}

pub(crate) fn acms(now: Time, boot: u64, settings: &Settings, directory_grace: Span, seed: [u8; 32]) -> Box<Acms> {
    let config = acms::Config {
        cluster: NAME.to_owned(),
        secret: SECRET.to_vec(),
        epoch: 100 + boot,
        connections_max: 100,
        memory_max: settings.memory_max,
        directory_grace,
        policy: acms::Policy::default(),
        seed,
    };
    Box::new(Acms::new(now, config))
}

pub(crate) fn server(now: Time, node: NodeId, boot: u64, settings: &Settings, seed: [u8; 32]) -> Box<AppServer> {
    let cluster = Membership {
        acms: address(ACMS),
        name: NAME.to_owned(),
        secret: SECRET.to_vec(),
        public_address: address(node).to_string(),
        capacity: 100,
    };
    let config = appserver::Config {
        server: ServerId(node as u16),
        incarnation: incarnation(boot),
        max_frame: limits::MAX_FRAME,
        heartbeat: limits::HEARTBEAT,
        heartbeat_timeout: limits::HEARTBEAT_TIMEOUT,
        login_timeout: limits::LOGIN_TIMEOUT,
        drain: limits::DRAIN,
        connections_max: 100,
        max_accepts_per_second: 0,
        memory_max: settings.memory_max,
        rates: settings.rates,
        relogin: Relogin::ReplaceOld,
        cut_off: settings.cut_off,
        takes_messages: true,
        takes_queries: true,
        takes_queries_before_login: false,
        blobs: blob::Config { taken: true, ..blob::Config::default() },
        asks_joins: true,
        cluster: Some(cluster),
        seed,
    };
    Box::new(AppServer::new(now, config))
}

/// The boot number of a server at its start number `boot`.
pub(crate) fn incarnation(boot: u64) -> u64 {
    1_000 + boot
}

pub(crate) fn client(now: Time, user: &str, entrance: Entrance, seed: [u8; 32]) -> Box<Client> {
    let config = client::Config {
        entrance,
        user: user.parse().expect("a user id"),
        login: Login { password: Some(PASSWORD.to_owned()), ..Login::default() },
        takes_queries: true,
        blobs: blob::Config { taken: true, ..blob::Config::default() },
        seed,
    };
    Box::new(Client::new(now, config))
}

pub(crate) fn address(node: NodeId) -> SocketAddr {
    SocketAddr::from(([10, 0, (node >> 8) as u8, node as u8], 7_000))
}

/// The node that has the address.
pub(crate) fn node_at(addr: SocketAddr) -> NodeId {
    let IpAddr::V4(ip) = addr.ip() else { panic!("{addr} is nobody's address") };
    let [_, _, high, low] = ip.octets();
    usize::from(high) << 8 | usize::from(low)
}
