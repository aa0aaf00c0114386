//! A chat client for the terminal.

use std::process::ExitCode;

use trunkline::config::{self, ChatArgs, ChatSettings};

fn main() -> ExitCode {
    let settings = config::load::<ChatArgs>();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    run(settings)
}

fn run(_settings: ChatSettings) -> ExitCode {
    ExitCode::SUCCESS
}
