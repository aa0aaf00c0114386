//! A line-based chat client.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use trunkline::Client;
use trunkline::chat::Chat;
use trunkline::config::{self, ChatArgs, ChatEntrance, ChatSettings};

fn main() -> ExitCode {
    let settings = config::load::<ChatArgs>();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    match run(settings) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("trunkline-chat: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: ChatSettings) -> Result<bool, String> {
    let ChatSettings { entrance, user, password, to, blob_dir } = settings;
    let mut builder = Client::builder(user.as_str()).takes_blobs().takes_queries();
    if let Some(password) = password {
        builder = builder.password(password);
    }
    let client = match entrance {
        ChatEntrance::Server(server) => {
            builder.connect(server.to_string()).map_err(|error| format!("{server}: {error}"))
        }
        ChatEntrance::Acms { url, token } => {
            builder.connect_via_acms(&url, token.as_deref()).map_err(|error| error.to_string())
        }
    }?;
    let mut chat = Chat::new(client, to).saving_in(blob_dir);
    if io::stdin().is_terminal() {
        chat = chat.interactive();
    }
    chat.run(io::stdin(), &mut io::stdout()).map_err(|error| error.to_string())
}
