//! `trunkline-loadgen`: many users on a cluster, every message checked; and the same load on what it is compared with.
//!
//! The program is also its own parts: `worker` is a share of the users (see [`swarm`]), `acms` and `appserver` are servers
//! that it starts, `floor-hub` and `floor-edge` bare forwarders.

mod args;
mod cluster;
mod compare;
mod dialect;
mod fleet;
mod floor;
mod job;
mod live;
mod page;
mod process;
mod report;
mod scenario;
mod stamp;
mod swarm;
mod syscalls;
mod worker;
mod yardstick;

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use args::{Args, Part, RunArgs};
use dialect::Dialect;
use fleet::Target;
use live::Live;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let args = Args::parse();
    let outcome = match args.part {
        None => run(&args.run),
        Some(Part::Compare(args)) => compare::run(&args),
        Some(Part::Worker) => worker::run().map(|()| true),
        Some(Part::Acms(tuned)) => cluster::run_acms(tuned.tuning()).map(|()| true),
        Some(Part::Appserver { id, acms, tuned, limited }) => {
            cluster::run_appserver(id, acms, tuned.tuning(), limited).map(|()| true)
        }
        Some(Part::Nats { config }) => process::become_nats(&config).map(|()| true),
        Some(Part::FloorHub { frame_bytes }) => floor::run(floor::Part::Hub, frame_bytes).map(|()| true),
        Some(Part::FloorEdge { frame_bytes, hub, number }) => {
            floor::run(floor::Part::Edge { hub, number }, frame_bytes).map(|()| true)
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("trunkline-loadgen: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Loads a cluster once; false where anything was wrong with what arrived.
fn run(args: &RunArgs) -> io::Result<bool> {
    let (load, pins, live) = (args.load(), args.pins(), Live::new(""));
    // A path that can't be written is told before the run, not behind it.
    let (histogram, page) = (created(args.histogram.as_deref())?, created(args.report.as_deref())?);
    let outcome = if let Some(kind) = args.cluster()? {
        let cluster = kind.start(pins.servers)?;
        let target = Target { dialect: cluster.dialect, addrs: &cluster.addrs, servers: &cluster.servers };
        fleet::run(&target, &load, pins, live)?
    } else {
        let addrs = args.addrs()?;
        fleet::run(&Target { dialect: Dialect::Trunkline, addrs: &addrs, servers: &[] }, &load, pins, live)?
    };
    let text = if args.json { report::json(&outcome) } else { report::table(&outcome) };
    io::stdout().write_all(text.as_bytes())?;
    if let Some(mut file) = histogram {
        file.write_all(report::histogram(&outcome.report.latency.0).as_bytes())?;
    }
    if let Some(mut file) = page {
        file.write_all(page::page(args, &outcome)?.as_bytes())?;
    }
    Ok(outcome.report.violation_count == 0)
}

fn created(path: Option<&Path>) -> io::Result<Option<File>> {
    let told = |path: &Path, error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    path.map(|path| File::create(path).map_err(|error| told(path, error))).transpose()
}
