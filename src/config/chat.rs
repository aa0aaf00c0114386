//! The options of `trunkline-chat`.

use clap::Parser;

use super::{Arguments, CLIENT_PORT, ConfigError, HostPort, HostPortError};
use crate::id::UserId;

/// What the chat client runs with. Not `Debug`: it holds the password.
pub struct ChatSettings {
    /// The application server to connect to.
    pub server: HostPort,
    /// Who logs in.
    pub user: UserId,
    /// The password in LOGIN; none where LOGIN has none.
    pub password: Option<String>,
    /// Who a line is sent to that names nobody; none where each line must name someone.
    pub to: Option<UserId>,
}

/// A chat client: sends lines from stdin to other users, wherever they are logged in, and prints what they send
#[derive(Parser)]
#[command(name = "trunkline-chat", version)]
pub struct ChatArgs {
    /// Application server to connect to; port 6000 where none is named
    #[arg(
        long, value_name = "HOST[:PORT]", default_value_t = HostPort { host: "127.0.0.1".to_owned(), port: CLIENT_PORT },
        value_parser = parse_server
    )]
    server: HostPort,
    /// User to log in as, 1 to 64 bytes
    #[arg(long, value_name = "USER")]
    user: UserId,
    /// Password of that user; others on this machine see an argument, but not an environment variable
    #[arg(long, value_name = "PASSWORD")]
    password: Option<String>,
    /// User to send lines to that name nobody
    #[arg(long, value_name = "USER")]
    to: Option<UserId>,
}

impl Arguments for ChatArgs {
    type Settings = ChatSettings;
    const EXAMPLE: &'static str = "trunkline-chat --server 127.0.0.1:6000 --user alice --to bob";

    fn resolve(self) -> Result<ChatSettings, ConfigError> {
        Ok(ChatSettings { server: self.server, user: self.user, password: self.password, to: self.to })
    }
}

fn parse_server(text: &str) -> Result<HostPort, HostPortError> {
    HostPort::parse_or_port(text, CLIENT_PORT)
}
