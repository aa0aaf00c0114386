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

use std::fs;
use std::io;
use std::process::ExitCode;

use clap::Parser;

use args::{Args, Part, RunArgs};
use fleet::{Outcome, Target};
use live::Live;

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let args = Args::parse();
    let outcome = match args.part {
        None => run(&args.run),
        Some(Part::Compare(args)) => compare::run(&args),
        Some(Part::Worker) => worker::run().map(|()| true),
        Some(Part::Acms(tuned)) => cluster::run_acms(tuned.tuning()).map(|()| true),
        Some(Part::Appserver { id, acms, tuned }) => cluster::run_appserver(id, acms, tuned.tuning()).map(|()| true),
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
    let (load, pins) = (args.load()?, args.pins()?);
    let live = Live::new("");
    let outcome = if args.local > 0 {
        let cluster = args.cluster().start(pins.servers)?;
        fleet::run(
            &Target { dialect: cluster.dialect, addrs: &cluster.addrs, servers: &cluster.servers },
            &load,
            pins,
            live,
        )?
    } else {
        let addrs = args.addrs()?;
        fleet::run(&Target { dialect: dialect::Dialect::Trunkline, addrs: &addrs, servers: &[] }, &load, pins, live)?
    };
    tell(args, &outcome)?;
    Ok(outcome.report.violation_count == 0)
}

fn tell(args: &RunArgs, outcome: &Outcome) -> io::Result<()> {
    if args.json {
        println!("{}", report::json(outcome));
    } else {
        print!("{}", report::table(outcome));
    }
    if let Some(path) = &args.histogram {
        report::write_histogram(path, &outcome.report.latency.0)?;
    }
    if let Some(path) = &args.report {
        fs::write(path, page::page(args, outcome)?)?;
    }
    Ok(())
}
