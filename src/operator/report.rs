//! What the ACMS answers, for people.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::table::{Align, Table, bytes, count as short, span};
use super::{Failure, Recipient};
use crate::chat::printable;

/// Answer of `/v1/servers`.
#[derive(Clone, Deserialize)]
pub(super) struct Servers {
    pub(super) servers: Vec<Server>,
    /// Those that are frozen and not registered.
    #[serde(default)]
    frozen_away: Vec<u16>,
}

/// An application server.
#[derive(Clone, Deserialize)]
pub(super) struct Server {
    pub(super) server: u16,
    pub(super) address: String,
    pub(super) state: String,
    pub(super) users: u64,
    assigned: u64,
    capacity: u64,
    connected_seconds: u64,
    incarnation: u64,
    queued_bytes: u64,
    /// Bytes that wait in the ACMS for it.
    #[serde(default)]
    link_queued_bytes: u64,
    pub(super) busy_permille: u64,
    frames: u64,
    bytes: u64,
    pub(super) frames_per_second: u64,
    pub(super) bytes_per_second: u64,
    #[serde(default)]
    pub(super) bounced: BTreeMap<String, u64>,
    #[serde(default)]
    pub(super) dropped: BTreeMap<String, u64>,
}

/// Answer of `/v1/users`.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Users {
    pub(super) users: Vec<Located>,
    pub(super) next: Option<String>,
    pub(super) total: u64,
}

/// A user or member.
#[derive(Serialize, Deserialize)]
pub(super) struct Located {
    user: String,
    server: u16,
}

/// Answer of `/v1/users/{id}`.
#[derive(Deserialize)]
pub(super) struct Place {
    user: String,
    server: u16,
    address: String,
    login_seconds: u64,
    tag: Option<String>,
}

/// Answer of `/v1/groups/{id}`.
#[derive(Deserialize)]
pub(super) struct Group {
    members: Vec<Located>,
    complete: bool,
}

/// Answer of `/v1/count`.
#[derive(Deserialize)]
pub(super) struct Count {
    users: u64,
    servers: u64,
}

/// Answer of `/v1/messages`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Reaction {
    outcome: Option<String>,
    cause: Option<String>,
    body: Option<String>,
    body_base64: Option<String>,
}

impl Server {
    /// Bytes that wait in it and for it.
    pub(super) fn queued(&self) -> u64 {
        self.queued_bytes.saturating_add(self.link_queued_bytes)
    }
}

pub(super) fn servers(Servers { servers, frozen_away }: &Servers) -> String {
    let mut table = Table::new([
        ("SERVER", Align::Right),
        ("STATE", Align::Left),
        ("USERS", Align::Right),
        ("ASSIGNED", Align::Right),
        ("CAPACITY", Align::Right),
        ("CONNECTED", Align::Right),
        ("ADDRESS", Align::Left),
    ]);
    for server in servers {
        table.row([
            server.server.to_string(),
            printable(server.state.as_bytes()),
            server.users.to_string(),
            server.assigned.to_string(),
            server.capacity.to_string(),
            span(server.connected_seconds),
            printable(server.address.as_bytes()),
        ]);
    }
    let mut text = table.text();
    if !frozen_away.is_empty() {
        let numbers: Vec<String> = frozen_away.iter().map(u16::to_string).collect();
        text += &format!("frozen and away: {}\n", numbers.join(", "));
    }
    text
}

pub(super) fn server(server: &Server) -> String {
    let busy = format!("{} of its time", share(server.busy_permille));
    let forwarded = format!(
        "{} frames, {} bytes; {} frames/s, {} bytes/s",
        server.frames,
        bytes(server.bytes),
        short(server.frames_per_second),
        bytes(server.bytes_per_second)
    );
    pairs(&[
        ("server", server.server.to_string()),
        ("state", server.state.clone()),
        ("address", server.address.clone()),
        ("users", format!("{} of {}, and {} on their way", server.users, server.capacity, server.assigned)),
        ("connected", format!("for {}", span(server.connected_seconds))),
        ("incarnation", server.incarnation.to_string()),
        ("forwarded", forwarded),
        (
            "queued",
            format!("{} bytes, and {} at the ACMS", bytes(server.queued_bytes), bytes(server.link_queued_bytes)),
        ),
        ("busy", busy),
        ("bounced", or_none(reasons([&server.bounced]))),
        ("dropped", or_none(reasons([&server.dropped]))),
    ])
}

/// The total is of all servers: of one it would say nothing.
pub(super) fn users(users: &Users, of_server: Option<u16>) -> String {
    let mut text = located(&users.users);
    if let Some(next) = &users.next {
        let total = if of_server.is_some() { String::new() } else { format!(" of {}", users.total) };
        text += &format!("{}{total}; the next with --after {}\n", users.users.len(), printable(next.as_bytes()));
    }
    text
}

pub(super) fn group(group: &Group) -> String {
    let mut text = located(&group.members);
    if !group.complete {
        text += "a server did not answer in time: there may be more\n";
    }
    text
}

fn located(users: &[Located]) -> String {
    let mut table = Table::new([("SERVER", Align::Right), ("USER", Align::Left)]);
    for Located { user, server } in users {
        table.row([server.to_string(), printable(user.as_bytes())]);
    }
    table.text()
}

pub(super) fn place(place: &Place) -> String {
    pairs(&[
        ("user", place.user.clone()),
        ("server", place.server.to_string()),
        ("address", place.address.clone()),
        ("logged in", format!("for {}", span(place.login_seconds))),
        ("tag", or_none(place.tag.clone().unwrap_or_default())),
    ])
}

pub(super) fn count(count: &Count) -> String {
    format!("{} on {}\n", some(count.users, "user"), some(count.servers, "server"))
}

/// A number of things.
pub(super) fn some(number: u64, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

/// What became of a message.
pub(super) fn reaction(reaction: &Reaction, to: &Recipient) -> Result<String, Failure> {
    let Reaction { outcome, cause, body, body_base64 } = reaction;
    if outcome.as_deref() == Some("bounced") {
        return Err(Failure::Bounced(printable(cause.as_deref().unwrap_or("no cause is given").as_bytes())));
    }
    Ok(match (body, body_base64, &to.user) {
        (Some(body), _, _) => body.split('\n').map(|line| printable(line.as_bytes())).collect::<Vec<_>>().join("\n"),
        (None, Some(body), _) => format!("base64: {}", printable(body.as_bytes())),
        (None, None, Some(user)) if outcome.is_some() => format!("delivered to {user}"),
        (None, None, _) => "sent".to_owned(),
    })
}

/// Thousandths as percent.
pub(super) fn share(permille: u64) -> String {
    format!("{}.{}%", permille / 10, permille % 10)
}

/// Counts by reason, the largest first.
pub(super) fn reasons<'a>(counts: impl IntoIterator<Item = &'a BTreeMap<String, u64>>) -> String {
    let mut all: Vec<(&String, u64)> = counts.into_iter().flatten().map(|(reason, count)| (reason, *count)).collect();
    all.retain(|(_, count)| *count > 0);
    all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let each = all.iter().map(|(reason, count)| format!("{} {}", printable(reason.as_bytes()), short(*count)));
    each.collect::<Vec<_>>().join(" ")
}

fn or_none(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

/// Names and values below each other.
fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    pairs.iter().map(|(name, value)| format!("{name:<width$}  {}\n", printable(value.as_bytes()))).collect()
}
