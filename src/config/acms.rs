//! The options of `trunkline-acms`.

use std::net::{IpAddr, SocketAddr};

use clap::builder::{BoolishValueParser, PossibleValue, RangedU64ValueParser};
use clap::{Parser, ValueEnum};

use super::{Arguments, ClusterArgs, ConfigError, MANAGEMENT_PORT, MemoryArgs, TRANSFER_PORT, TokenArgs, TuningArgs};
use crate::limits;
use crate::management::Token;
use crate::net::Tuning;
use crate::role::acms::Policy;
use crate::time::Span;

/// What an ACMS runs with. Not `Debug`: it holds the cluster's secret.
pub struct AcmsSettings {
    /// Where application servers connect; port 0 for one that the system picks.
    pub transfer: SocketAddr,
    /// Where the management API listens; port 0 for one that the system picks.
    pub management: SocketAddr,
    /// What operators must send; none where they need not.
    pub management_token: Option<Token>,
    /// Which server a new user is sent to.
    pub server_assigned_policy: Policy,
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's secret, at least 16 bytes; empty where it has none.
    pub cluster_secret: Vec<u8>,
    /// Bytes that all connections may hold together; none for an eighth of what the process may use.
    pub max_memory: Option<usize>,
    /// From its start, how long a user that it does not know is not called offline.
    pub directory_grace: Span,
    /// What its reactor trades.
    pub tuning: Tuning,
}

/// The cluster manager: knows which user is on which application server, and relays between the servers
#[derive(Parser)]
#[command(name = "trunkline-acms", version)]
pub struct AcmsArgs {
    /// IP address that the transfer port is bound to; another than loopback needs a cluster secret
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    bind: IpAddr,
    /// TCP port that application servers connect to; 0 lets the system pick
    #[arg(long, value_name = "PORT", default_value_t = TRANSFER_PORT)]
    transfer_port: u16,
    /// TCP port of the management API, HTTP; 0 lets the system pick
    #[arg(long, value_name = "PORT", default_value_t = MANAGEMENT_PORT)]
    management_port: u16,
    /// IP address that the management port is bound to; another than loopback needs a management token
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    management_bind: IpAddr,
    /// Which server a new user is sent to who asks for one
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = Policy::MinUserCount)]
    server_assigned_policy: Policy,
    /// Milliseconds from its start in which a user that it does not know is answered RETRY, not OFFLINE; at most 3600000
    #[arg(
        long, value_name = "MS", default_value_t = limits::DIRECTORY_GRACE.as_millis(),
        value_parser = RangedU64ValueParser::<u64>::new().range(0..=limits::DIRECTORY_GRACE_CEILING.as_millis())
    )]
    directory_grace_ms: u64,
    #[command(flatten)]
    token: TokenArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    tuning: TuningArgs,
    /// Let any server join from any network, where --bind is not loopback and there is no cluster secret
    #[arg(long, value_parser = BoolishValueParser::new())]
    insecure: bool,
}

impl Arguments for AcmsArgs {
    type Settings = AcmsSettings;
    const EXAMPLE: &'static str =
        "trunkline-acms --bind 10.0.0.1 --cluster games --cluster-secret-file /etc/trunkline/secret";

    fn resolve(self) -> Result<AcmsSettings, ConfigError> {
        let cluster_secret = self.cluster.read_secret()?;
        if cluster_secret.is_empty() && !self.insecure && !self.bind.to_canonical().is_loopback() {
            return Err(ConfigError::SecretRequired { bind: self.bind });
        }
        if self.transfer_port == self.management_port && self.transfer_port != 0 {
            return Err(ConfigError::SamePort { port: self.transfer_port });
        }
        let management = SocketAddr::new(self.management_bind, self.management_port);
        Ok(AcmsSettings {
            transfer: SocketAddr::new(self.bind, self.transfer_port),
            management,
            management_token: self.token.read(Some(management))?,
            server_assigned_policy: self.server_assigned_policy,
            cluster: self.cluster.cluster,
            directory_grace: Span::from_millis(self.directory_grace_ms),
            max_memory: self.memory.max_memory,
            tuning: self.tuning.tuning(),
            cluster_secret,
        })
    }
}

impl ValueEnum for Policy {
    fn value_variants<'a>() -> &'a [Policy] {
        &[Policy::RoundRobin, Policy::MinUserCount, Policy::LeastBusy]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Policy::RoundRobin => PossibleValue::new("round-robin").help("Each in turn"),
            Policy::MinUserCount => PossibleValue::new("min-user-count").help("The one with the fewest users"),
            Policy::LeastBusy => PossibleValue::new("least-busy").help("The one whose loop is busy the least"),
        })
    }
}
