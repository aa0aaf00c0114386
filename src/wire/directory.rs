//! The JSON bodies by which a server asks who is in, and what is known of a user.

use serde::{Deserialize, Serialize};

use crate::id::ServerId;

/// The body of INSPECTED: what a server knows of a user that is in on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// The user's server.
    pub server: ServerId,
    /// The address that the user's program came from, `IP:port`.
    pub address: String,
    /// How long ago its LOGIN came. Milliseconds.
    pub login_ms: u64,
    /// What the server's application has noted of the user, at most 256 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

/// The body of LIST: which users are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListRequest {
    /// Those of this server; missing: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerId>,
    /// Where the page begins: 0, or what `next` of the page before said.
    #[serde(default)]
    pub after: u64,
    /// How many users at most, up to 1,000. 0: only `total` is wanted.
    #[serde(default)]
    pub limit: usize,
}

/// The body of LISTED: a page of users.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Users and their servers.
    #[serde(default)]
    pub users: Vec<ListedUser>,
    /// Where the next page begins; missing behind the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// How many users are in on all servers.
    #[serde(default)]
    pub total: u64,
}

/// One user of a page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedUser {
    /// Who.
    pub user: String,
    /// Where.
    pub server: ServerId,
}
