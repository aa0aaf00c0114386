//! The cluster manager.

use std::io;
use std::process::ExitCode;

use trunkline::Acms;
use trunkline::config::{self, AcmsArgs, AcmsSettings};

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let settings = config::load::<AcmsArgs>();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    match run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("trunkline-acms: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: AcmsSettings) -> io::Result<()> {
    let AcmsSettings { transfer, cluster, cluster_secret, max_memory, tuning, .. } = settings;
    let builder = Acms::builder().name(cluster).secret(cluster_secret).tuning(tuning);
    let builder = builder.assignment(settings.server_assigned_policy);
    let builder = builder.management(settings.management, settings.management_token);
    let mut builder = builder.directory_grace(settings.directory_grace.to_duration());
    if let Some(bytes) = max_memory {
        builder = builder.max_memory(bytes);
    }
    let acms = builder.bind(transfer)?;
    let management = acms.management_addr().map(|addr| format!(" management={addr}")).unwrap_or_default();
    println!("ready acms transfer={}{management}", acms.local_addr());
    acms.run_until_signal()
}
