//! The command line.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::num::{NonZeroU32, ParseIntError};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Parser, Subcommand, ValueEnum};
use trunkline::UserId;
use trunkline::limits::HEADER_BYTES;
use trunkline::net::{Tuning, raise_descriptor_limit};

use crate::cluster::Kind;
use crate::fleet::{Load, PATIENCE, Pins};
use crate::job::Pace;
use crate::scenario::Scenario;
use crate::stamp::STAMP_BYTES;

/// The most users: as many as names of seven digits have room for.
const CLIENTS_MAX: u32 = 9_999_998;
/// Descriptors of a worker that are no connections.
const WORKER_SPARE: u32 = 64;
/// The longest body: 1 MiB less the header and two names.
const BODY_BYTES_MAX: u32 = 1_048_000;

/// A user's name as the floor's frames have it: a letter and seven digits.
pub(crate) const NAME_BYTES: usize = 8;

/// Loads a Trunkline cluster with many users, and checks every message
///
/// User n is on server n modulo their number. Each message is checked on arrival: order, loss, duplicates, corruption,
/// misrouting. Any violation makes the exit code 1.
///
/// One process has as many users as descriptors; more are split over several. There, as everywhere, users write to users
/// of their own process.
#[derive(Parser)]
#[command(name = "trunkline-loadgen", version, args_conflicts_with_subcommands = true, args_override_self = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) part: Option<Part>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Subcommand)]
pub(crate) enum Part {
    /// Puts the same load on bare forwarders, on Trunkline and, where it is installed, on NATS, by turns
    Compare(CompareArgs),
    #[command(hide = true)]
    Worker,
    #[command(hide = true)]
    Acms(Tuned),
    #[command(hide = true)]
    Appserver {
        id: u16,
        acms: SocketAddr,
        #[command(flatten)]
        tuned: Tuned,
        #[arg(long)]
        limited: bool,
    },
    #[command(hide = true)]
    Nats { config: PathBuf },
    #[command(hide = true)]
    FloorHub { frame_bytes: usize },
    #[command(hide = true)]
    FloorEdge { frame_bytes: usize, hub: SocketAddr, number: u32 },
}

/// How a server is tuned, as the front tells it.
#[derive(clap::Args)]
pub(crate) struct Tuned {
    rest_us: u64,
}

impl Tuned {
    pub(crate) fn tuning(&self) -> Tuning {
        tuning(Duration::from_micros(self.rest_us))
    }
}

fn tuning(rest: Duration) -> Tuning {
    Tuning { rest: rest.into() }
}

/// What to start.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum System {
    /// An ACMS and application servers
    Trunkline,
    /// Bare forwarders: a hub and two edges
    Floor,
    /// NATS: a hub and two leaf nodes
    Nats,
}

/// One run.
#[derive(clap::Args)]
pub(crate) struct RunArgs {
    /// Client addresses of the application servers
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:6000,127.0.0.1:6001", conflicts_with = "local")]
    servers: Vec<String>,
    /// Start an ACMS and that many application servers, as processes on this machine, and measure them too
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) local: Option<u16>,
    /// What to start: for one size of bodies, and with two servers, also what Trunkline is compared with
    #[arg(long, value_enum, default_value = "trunkline", requires = "local")]
    system: System,
    /// Users, an even number
    #[arg(long, default_value_t = 100, value_parser = parse_clients)]
    clients: u32,
    /// Who writes to whom
    #[arg(long, value_enum, default_value = "pairs")]
    pub(crate) scenario: Scenario,
    /// Messages under way from each user to each that it writes to: the next is sent when one arrives
    #[arg(long, default_value = "1", conflicts_with = "rate", value_parser = RangedU64ValueParser::<u32>::new().range(1..=100_000))]
    pub(crate) window: u32,
    /// Messages a second in all, sent at even distances; latencies count from the planned time
    #[arg(long)]
    pub(crate) rate: Option<NonZeroU32>,
    /// Bytes of a body, from 24 to 1048000: one size, or LEAST..MOST
    #[arg(long, default_value = "128", value_parser = parse_size)]
    pub(crate) size: (u32, u32),
    /// How long is measured: 10s, 2m
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub(crate) duration: Duration,
    /// How long is written before that
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    warm_up: Duration,
    /// Connections that may be on their way in at once
    #[arg(long, default_value_t = 256, value_parser = RangedU64ValueParser::<u32>::new().range(1..=65_536))]
    dials: u32,
    /// What users' names begin with, for two runs on one cluster at once
    #[arg(long, default_value = "u", value_parser = parse_prefix)]
    prefix: String,
    /// What random choices come from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Servers on the first of two processors, load on the other, which never sleeps: SERVERS,LOAD
    #[arg(long, num_args = 0..=1, default_missing_value = "0,1", value_parser = parse_pins)]
    pin: Option<(usize, usize)>,
    /// Local servers rest so that turns begin at least this far apart under load: less CPU, more latency
    #[arg(long, default_value = "0us", value_parser = humantime::parse_duration)]
    rest: Duration,
    /// Local servers keep the limits on their clients that they have by default; without it they have none
    #[arg(long, requires = "local")]
    limits: bool,
    /// Count the local servers' system calls behind the measurement; needs strace
    #[arg(long, requires = "local")]
    syscalls: bool,
    /// JSON instead of the table
    #[arg(long)]
    pub(crate) json: bool,
    /// Write latencies to this file, as the percentile table of HdrHistogram's plotters
    #[arg(long)]
    pub(crate) histogram: Option<PathBuf>,
    /// Write a page with latency and throughput to look at
    #[arg(long)]
    pub(crate) report: Option<PathBuf>,
    /// How long a login, a logout and the last messages may take
    #[arg(long, hide = true, default_value_t = PATIENCE.into())]
    patience: humantime::Duration,
    /// Users of one process, if its descriptors allow so many
    #[arg(long, hide = true, default_value_t = u32::MAX)]
    users_per_process: u32,
}

/// A comparison.
#[derive(clap::Args)]
pub(crate) struct CompareArgs {
    /// Times that each is measured, by turns
    #[arg(long, default_value_t = 3, value_parser = RangedU64ValueParser::<usize>::new().range(1..=100))]
    pub(crate) rounds: usize,
    /// Users, half on each of two servers, half of them writing to the other half
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(2..=19_000))]
    pub(crate) clients: u32,
    /// Bytes of a body
    #[arg(long, default_value_t = 128, value_parser = RangedU64ValueParser::<u32>::new().range(24..=BODY_BYTES_MAX as u64))]
    pub(crate) size: u32,
    /// Messages a second where latency is measured
    #[arg(long, default_value = "20000")]
    pub(crate) rate: NonZeroU32,
    /// How long each measurement takes
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    pub(crate) duration: Duration,
    /// Users of the measurement of memory, who are in and write nothing
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..=19_000))]
    pub(crate) idle_clients: u32,
    /// Processors of the servers and of the load
    #[arg(long, default_value = "0,1", value_parser = parse_pins)]
    pub(crate) pin: (usize, usize),
    /// What is measured
    #[arg(long, value_enum, value_delimiter = ',', default_value = "one,sixteen,rate,idle")]
    pub(crate) work: Vec<Work>,
    /// Leave NATS out even where it is installed
    #[arg(long)]
    pub(crate) without_nats: bool,
    /// Another build of this program, of the same version, whose Trunkline is measured beside this one's
    #[arg(long)]
    pub(crate) baseline: Option<PathBuf>,
    /// Trunkline's servers rest; see `--rest` of a run
    #[arg(long, default_value = "0us", value_parser = humantime::parse_duration)]
    rest: Duration,
}

impl CompareArgs {
    pub(crate) fn tuning(&self) -> Tuning {
        tuning(self.rest)
    }
}

/// What is measured of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Work {
    /// One message under way from each sender
    One,
    /// Sixteen
    Sixteen,
    /// Messages at the rate
    Rate,
    /// The memory of those who write nothing
    Idle,
}

fn parse_clients(text: &str) -> Result<u32, String> {
    let users: u32 = text.parse().map_err(|error: ParseIntError| error.to_string())?;
    let fits = (2..=CLIENTS_MAX).contains(&users) && users.is_multiple_of(2);
    fits.then_some(users).ok_or_else(|| format!("not an even number within 2..{CLIENTS_MAX}"))
}

fn parse_prefix(text: &str) -> Result<String, String> {
    let fits = UserId::parse(format!("{text}{:07}", CLIENTS_MAX).as_bytes()).is_ok();
    fits.then(|| text.to_owned()).ok_or_else(|| "no user's name can begin with it".to_owned())
}

fn parse_size(text: &str) -> Result<(u32, u32), String> {
    let (least, most) = text.split_once("..").unwrap_or((text, text));
    let number = |text: &str| text.parse::<u32>().map_err(|error| format!("{text:?}: {error}"));
    let (least, most) = (number(least)?, number(most)?);
    let fits = STAMP_BYTES as u32 <= least && least <= most && most <= BODY_BYTES_MAX;
    fits.then_some((least, most)).ok_or_else(|| format!("not within {STAMP_BYTES}..{BODY_BYTES_MAX}"))
}

fn parse_pins(text: &str) -> Result<(usize, usize), String> {
    let (servers, load) = text.split_once(',').ok_or("expected two processors: SERVERS,LOAD")?;
    let number = |text: &str| text.parse::<usize>().map_err(|error| format!("{text:?}: {error}"));
    Ok((number(servers)?, number(load)?))
}

impl RunArgs {
    pub(crate) fn load(&self) -> Load {
        let descriptors = u32::try_from(raise_descriptor_limit()).unwrap_or(u32::MAX);
        Load {
            users: self.clients,
            scenario: self.scenario,
            pace: self.rate.map_or(Pace::Window(self.window), |rate| Pace::Rate(rate.get().into())),
            body_bytes: self.size,
            dials_max: self.dials,
            prefix: self.prefix.clone(),
            seed: self.seed,
            warm_up: self.warm_up,
            duration: self.duration,
            users_per_worker: descriptors.saturating_sub(WORKER_SPARE).min(self.users_per_process),
            patience: self.patience.into(),
            trace: self.syscalls,
        }
    }

    pub(crate) fn pins(&self) -> Pins {
        self.pin.map_or(Pins::default(), |(servers, load)| Pins { servers: Some(servers), load: Some(load) })
    }

    /// The servers to start; none where others are to be loaded.
    pub(crate) fn cluster(&self) -> io::Result<Option<Kind>> {
        let Some(servers) = self.local else { return Ok(None) };
        let refused = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        Ok(Some(match self.system {
            System::Trunkline => {
                let (tuning, program) = (tuning(self.rest), std::env::current_exe()?);
                Kind::Trunkline { servers, tuning, limited: self.limits, program }
            }
            System::Floor | System::Nats if servers != 2 => return refused("--system floor and nats have two servers"),
            System::Floor if self.size.0 != self.size.1 || self.prefix.len() != 1 => {
                return refused("the floor's frames have one size: one --size, and a --prefix of one byte");
            }
            System::Floor => Kind::Floor { frame_bytes: HEADER_BYTES + 2 * NAME_BYTES + self.size.0 as usize },
            System::Nats => Kind::Nats,
        }))
    }

    /// What is under load, as the command line has it.
    pub(crate) fn system_name(&self) -> String {
        self.system.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// The scenario, as the command line has it.
    pub(crate) fn scenario_name(&self) -> String {
        self.scenario.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// What sets this run apart from others, for people.
    pub(crate) fn essentials(&self) -> String {
        let pace = self
            .rate
            .map_or(format!("{} under way on each route", self.window), |rate| format!("{rate} messages a second"));
        let size = match self.size {
            (least, most) if least == most => format!("{least} bytes"),
            (least, most) => format!("{least} to {most} bytes"),
        };
        let servers = self.local.map_or(self.servers.join(", "), |count| format!("{count} local servers"));
        let duration = humantime::format_duration(self.duration);
        format!("{} users, {pace}, {size}, {servers}, {duration}", self.clients)
    }

    pub(crate) fn addrs(&self) -> io::Result<Vec<SocketAddr>> {
        self.servers.iter().map(|name| resolve(name)).collect()
    }
}

fn resolve(name: &str) -> io::Result<SocketAddr> {
    let told = |error: io::Error| io::Error::new(error.kind(), format!("{name}: {error}"));
    let mut found = name.to_socket_addrs().map_err(told)?;
    found.next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{name} has no address")))
}
