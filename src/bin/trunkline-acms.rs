//! The cluster manager.

use std::process::ExitCode;

use trunkline::config::{self, AcmsArgs, AcmsSettings};

fn main() -> ExitCode {
    let settings = config::load::<AcmsArgs>();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    run(settings)
}

fn run(_settings: AcmsSettings) -> ExitCode {
    ExitCode::SUCCESS
}
