use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::config::parse_url;
use crate::id::UserId;
use crate::limits;

// The ACMS that is asked, and how its answers are to look.
#[derive(Args)]
#[expect(missing_docs, reason = "clap would take it for the text about the whole command")]
pub struct Acms {
    /// ACMS to ask; port 11000 where none is named
    #[arg(
        long, value_name = "http://HOST[:PORT]", env = "TRUNKLINE_ACMS", hide_env_values = true,
        default_value = "http://127.0.0.1:11000", value_parser = parse_url
    )]
    pub acms: String,
    /// File with the token of the ACMS; a newline at its end does not count
    #[arg(long, value_name = "FILE", env = "TRUNKLINE_TOKEN_FILE", hide_env_values = true)]
    pub token_file: Option<PathBuf>,
    /// Print the answer as the ACMS gives it
    #[arg(long)]
    pub json: bool,
}

// Whom a message goes to.
#[derive(Args)]
#[group(required = true, multiple = false)]
#[expect(missing_docs, reason = "clap would take it for the text about the whole command")]
pub struct Recipient {
    /// To this user
    #[arg(long, value_name = "USER")]
    pub user: Option<UserId>,
    /// To the members of this group
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,
    /// To the handler of this server
    #[arg(long, value_name = "SERVER")]
    pub server: Option<u16>,
    /// To every user
    #[arg(long)]
    pub everyone: bool,
}

impl Recipient {
    /// As the management interface names it.
    pub(super) fn in_json(&self) -> Value {
        match self {
            Recipient { user: Some(user), .. } => json!({ "user": user.as_str() }),
            Recipient { group: Some(group), .. } => json!({ "group": group }),
            Recipient { server: Some(server), .. } => json!({ "server": server }),
            Recipient { .. } => json!("everyone"),
        }
    }
}

/// What an operator asks for.
#[derive(Subcommand)]
pub enum Request {
    /// Lists the application servers
    Servers {
        /// Whom to ask.
        #[command(flatten)]
        acms: Acms,
        /// Only this one, with more about it
        server: Option<u16>,
    },
    /// Lists users and their servers, in no order
    Users {
        /// Whom to ask.
        #[command(flatten)]
        acms: Acms,
        /// Only those of this server
        #[arg(long, value_name = "SERVER")]
        server: Option<u16>,
        /// As many as this, at most
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = parse_limit)]
        limit: usize,
        /// Those behind this place, which the list before named at its end
        #[arg(long, value_name = "PLACE")]
        after: Option<String>,
    },
    /// Tells where a user is
    Where {
        /// Whom to ask.
        #[command(flatten)]
        acms: Acms,
        /// The user
        user: UserId,
    },
    /// Ends a user's session
    Kick {
        /// Whom to ask.
        #[command(flatten)]
        acms: Acms,
        /// The user
        user: UserId,
        /// What the user is told
        #[arg(long)]
        text: Option<String>,
    },
    /// Has no new users assigned to a server; those that are there stay
    Freeze {
        /// Whom to ask.
        #[command(flatten)]
        acms: Acms,
        /// The server
        server: u16,
    },
    /// Ends a freeze
    Unfreeze {
        /// Whom to ask.
        #[command(flatten)]
        acms: Acms,
        /// The server
        server: u16,
    },
    /// Has a server send its users to the others and stop
    Drain {
        /// Whom to ask.
        #[command(flatten)]
        acms: Acms,
        /// The server
        server: u16,
    },
    /// Ends a server's link to the cluster
    Remove {
        /// Whom to ask.
        #[command(flatten)]
        acms: Acms,
        /// The server
        server: u16,
    },
    /// Sends a message to a user, a group, a server's handler or everyone
    Send {
        /// Whom to ask.
        #[command(flatten)]
        acms: Acms,
        /// Whom it is for.
        #[command(flatten)]
        to: Recipient,
        /// Information type of the message, which the application knows
        #[arg(long, value_name = "N", default_value_t = 0)]
        info_type: u32,
        /// Ask the server's handler, and print its answer
        #[arg(long, conflicts_with_all = ["user", "group", "everyone"])]
        answer: bool,
        /// Milliseconds that the handler has for it
        #[arg(
            long, value_name = "MS", default_value_t = 5_000, requires = "answer",
            value_parser = clap::value_parser!(u64).range(1..=60_000)
        )]
        timeout_ms: u64,
        /// The message
        text: String,
    },
    /// Counts users and servers
    Count {
        /// Whom to ask.
        #[command(flatten)]
        acms: Acms,
    },
    /// Lists the members of a group and their servers
    Group {
        /// Whom to ask.
        #[command(flatten)]
        acms: Acms,
        /// The group
        group: String,
    },
    /// Tells, as it happens, which servers and users come and go; until it is interrupted
    Events {
        /// Whom to ask.
        #[command(flatten)]
        acms: Acms,
        /// Only servers
        #[arg(long)]
        no_users: bool,
    },
    /// Shows what the servers do, anew each second; q ends it. Where the output is no terminal: once
    Top {
        /// Whom to ask.
        #[command(flatten)]
        acms: Acms,
    },
}

fn parse_limit(text: &str) -> Result<usize, String> {
    let limit = text.parse().ok().filter(|limit| (1..=limits::MANAGEMENT_USERS_MAX).contains(limit));
    limit.ok_or_else(|| format!("a number in 1..={}", limits::MANAGEMENT_USERS_MAX))
}
