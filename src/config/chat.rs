//! The options of `trunkline-chat`.

use std::path::PathBuf;

use clap::Parser;

use super::{Arguments, CLIENT_PORT, ConfigError, HostPort, HostPortError, parse_url, read_token};
use crate::id::UserId;

/// What the chat client runs with. Not `Debug`: it holds the password.
pub struct ChatSettings {
    /// Where it connects to.
    pub entrance: ChatEntrance,
    /// Who logs in.
    pub user: UserId,
    /// The password in LOGIN; none where LOGIN has none.
    pub password: Option<String>,
    /// Who a line is sent to that names nobody; none where each line must name someone.
    pub to: Option<UserId>,
    /// Where files of others are saved; none where they are refused.
    pub blob_dir: Option<PathBuf>,
}

/// Where a chat client connects to.
pub enum ChatEntrance {
    /// This application server.
    Server(HostPort),
    /// The server that an ACMS names.
    Acms {
        /// `http://HOST[:PORT]`.
        url: String,
        /// What opens its management interface, where that is needed.
        token: Option<String>,
    },
}

/// A chat client: sends lines from stdin to other users, wherever they are logged in, and prints what they send
#[derive(Parser)]
#[command(name = "trunkline-chat", version)]
pub struct ChatArgs {
    /// Application server to connect to; port 6000 where none is named [default: 127.0.0.1:6000]
    #[arg(long, value_name = "HOST[:PORT]", value_parser = parse_server)]
    server: Option<HostPort>,
    /// Connect to the application server that this ACMS names, and after a lost connection to the one that it names then;
    /// port 11000 where none is named
    #[arg(long, value_name = "http://HOST[:PORT]", value_parser = parse_url)]
    acms: Option<String>,
    /// File with the token of the ACMS; a newline at its end does not count
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// User to log in as, 1 to 64 bytes
    #[arg(long, value_name = "USER")]
    user: UserId,
    /// Password of that user; others on this machine see an argument, but not an environment variable
    #[arg(long, value_name = "PASSWORD")]
    password: Option<String>,
    /// User to send lines to that name nobody
    #[arg(long, value_name = "USER")]
    to: Option<UserId>,
    /// Folder that files of others are saved in; without it they are refused
    #[arg(long, value_name = "FOLDER")]
    blob_dir: Option<PathBuf>,
}

impl Arguments for ChatArgs {
    type Settings = ChatSettings;
    const EXAMPLE: &'static str = "trunkline-chat --server 127.0.0.1:6000 --user alice --to bob";

    fn resolve(self) -> Result<ChatSettings, ConfigError> {
        let entrance = match (self.server, self.acms) {
            (Some(_), Some(_)) => return Err(ConfigError::TwoEntrances),
            (None, Some(url)) => ChatEntrance::Acms { url, token: read_token(self.token_file.as_deref())? },
            (Some(server), None) => ChatEntrance::Server(server),
            (None, None) => ChatEntrance::Server(HostPort { host: "127.0.0.1".to_owned(), port: CLIENT_PORT }),
        };
        if let Some(path) = &self.blob_dir {
            std::fs::read_dir(path).map_err(|source| ConfigError::Unreadable { path: path.clone(), source })?;
        }
        let ChatArgs { user, password, to, blob_dir, .. } = self;
        Ok(ChatSettings { entrance, user, password, to, blob_dir })
    }
}

fn parse_server(text: &str) -> Result<HostPort, HostPortError> {
    HostPort::parse_or_port(text, CLIENT_PORT)
}
