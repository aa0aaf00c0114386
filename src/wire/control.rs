//! The JSON bodies of session control: unknown keys are ignored, so that they can grow.

use serde::{Deserialize, Serialize};

use crate::id::ServerId;

/// The body of LOGIN. Everything is optional; an empty body is an empty object.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Login {
    /// A token that the application checks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// A password that the application checks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Which of the user's devices this is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The client program and its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Reserved for taking up a session again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume: Option<String>,
}

/// Shows which fields are there, never a secret.
impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("token", &self.token.as_ref().map(|_| "..."))
            .field("password", &self.password.as_ref().map(|_| "..."))
            .field("device", &self.device)
            .field("agent", &self.agent)
            .field("resume", &self.resume.as_ref().map(|_| "..."))
            .finish()
    }
}

impl Login {
    /// Parses the body of a LOGIN; none where it is not a JSON object with these types.
    pub fn parse(body: &[u8]) -> Option<Login> {
        if body.is_empty() {
            return Some(Login::default());
        }
        parse_object(body)
    }
}

/// Parses a JSON object; none for anything else, an array in the order of its fields included.
pub fn parse_object<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Option<T> {
    let is_object = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    is_object.then(|| serde_json::from_slice(body).ok()).flatten()
}

/// Whether a server reaches its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cluster {
    /// The link to the ACMS stands.
    Up,
    /// It does not; only users of the same server can be reached.
    Down,
    /// The server stands alone.
    None,
    /// A state of a later version.
    #[serde(other)]
    Other,
}

/// The body of WELCOME.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The server's number in its cluster; 0 where it stands alone.
    pub server: ServerId,
    /// The session's name, unique in the cluster.
    pub session: String,
    /// Silence after which the server sends a PING; three times this is too long. Milliseconds.
    pub heartbeat_ms: u64,
    /// The largest length field that the server takes.
    pub max_frame: usize,
    /// Whether the server reaches its cluster.
    pub cluster: Cluster,
}

/// The body of CLOSE, where it is JSON; else the whole body is the text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloseBody {
    /// For a person.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// When to dial again, at the earliest. Milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Where to dial instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub go_to: Option<String>,
}

impl CloseBody {
    /// Parses either form; bytes that are not UTF-8 are replaced.
    pub fn parse(body: &[u8]) -> CloseBody {
        parse_object(body)
            .unwrap_or_else(|| CloseBody { text: String::from_utf8_lossy(body).into_owned(), ..CloseBody::default() })
    }
}

/// What an ASK asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AskKind {
    /// Which of the users are online.
    Online,
    /// On which server each of the users is.
    Where,
    /// Nothing: the answer's way back is the round trip to the server.
    Rtt,
    /// Who is in a group that the asker is in.
    Members,
    /// Whom the asker hears of, and how they stand.
    Friends,
    /// To hear of these users' comings and goings from now on.
    Watch,
    /// To hear of these users no more.
    Unwatch,
    /// A question of a later version.
    #[serde(other)]
    Other,
}

/// The body of ASK.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// The question.
    pub ask: AskKind,
    /// Whom it is about; at most 100.
    #[serde(default)]
    pub users: Vec<String>,
    /// Which group it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// One user in an ANSWER.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Located {
    /// The user.
    pub user: String,
    /// Whether the user is online; null where the cluster could not be asked.
    pub online: Option<bool>,
    /// The user's server, where it was asked for and the user is online.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerId>,
    /// Whether the asker may not watch the user, or watches too many.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub denied: bool,
}

/// The body of ANSWER.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The users asked about, in the order asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<Located>,
    /// Whether a group's members are all named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete: Option<bool>,
    /// Why there is no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
