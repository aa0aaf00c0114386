//! An application server.

use std::process::ExitCode;

use trunkline::config::{self, AppServerArgs, AppServerSettings};

fn main() -> ExitCode {
    let settings = config::load::<AppServerArgs>();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    run(settings)
}

fn run(_settings: AppServerSettings) -> ExitCode {
    ExitCode::SUCCESS
}
