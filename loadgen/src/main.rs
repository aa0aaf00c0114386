//! Many users on one reactor, in pairs across servers: what a cluster relays, and how fast.

mod swarm;

use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use trunkline::net::{Reactor, raise_descriptor_limit};
use trunkline::time::Span;

use swarm::{Config, Report, Swarm};

/// Loads a Trunkline cluster with pairs of users on different servers, and checks every message
///
/// User n is on server n modulo their number and writes to user n+1 (or n-1), which is on the next server. Each message
/// is checked on arrival: order, duplicates, corruption, misrouting. Any violation makes the exit code 1.
#[derive(Parser)]
#[command(name = "trunkline-loadgen", version)]
struct Args {
    /// Client addresses of the application servers
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:6000,127.0.0.1:6001")]
    servers: Vec<String>,
    /// Users, an even number
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..))]
    clients: u32,
    /// Messages that each user has under way
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    window: u32,
    /// Bytes of a message's body: 32 to 1 MiB less headers
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(32..=1_048_000))]
    size: u32,
    /// Seconds that are measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    duration: u64,
    /// Seconds before them that are not
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..=60))]
    warm_up: u64,
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    match run(&Args::parse()) {
        Ok(report) => {
            print!("{report}");
            if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("trunkline-loadgen: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<Report, Box<dyn std::error::Error>> {
    let descriptors = raise_descriptor_limit();
    if args.clients as usize > descriptors {
        return Err(format!("{} clients, but descriptors for {descriptors}", args.clients).into());
    }
    let servers = args.servers.iter().map(|name| resolve(name)).collect::<Result<Vec<_>, _>>()?;
    let mut reactor = Reactor::new()?;
    let config = Config {
        servers,
        users: args.clients as usize / 2 * 2,
        window: args.window,
        body_bytes: args.size as usize,
        warm_up: Span::from(Duration::from_secs(args.warm_up)),
        duration: Span::from(Duration::from_secs(args.duration)),
    };
    let mut swarm = Swarm::new(reactor.now(), config);
    loop {
        swarm.turn(reactor.now());
        reactor.send(&mut swarm);
        if swarm.is_done() {
            break;
        }
        let deadline = swarm.phase_ends();
        reactor.receive(&mut swarm, Some(deadline))?;
    }
    Ok(swarm.into_report())
}

fn resolve(name: &str) -> Result<SocketAddr, String> {
    let found = name.to_socket_addrs().map_err(|error| format!("{name}: {error}"))?.next();
    found.ok_or_else(|| format!("{name} has no address"))
}
