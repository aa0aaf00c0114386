//! What server code waits for, and what it is told.

use std::time::Duration;

use crossbeam_channel::Sender;

use super::resolve;
use crate::id::{ServerId, UserId};
use crate::role::appserver::Outcome;
use crate::role::client::QueryFailure;
use crate::wire::{self, Bounce};

pub(crate) type QueryOutcome = Result<Vec<u8>, QueryFailure>;
pub(crate) type LocateOutcome = Vec<Result<Option<ServerId>, Bounce>>;

/// A user that is in, as its server knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The user's server.
    pub server: ServerId,
    /// The address that the user's program came from, `IP:port`.
    pub address: String,
    /// How long ago its login came.
    pub login_age: Duration,
    /// What [`ServerHandle::set_tag`](super::ServerHandle::set_tag) noted there.
    pub tag: Option<String>,
}

/// Where a page of users begins: a place that [`UserPage::next`] told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor(pub(super) u64);

/// Some of all users, in no order that means anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserPage {
    /// Users and their servers.
    pub users: Vec<(UserId, ServerId)>,
    /// Where the next page begins; none behind the last. A page that is not the last may have few users, or none.
    pub next: Option<Cursor>,
    /// How many users are in on all servers.
    pub total: u64,
}

/// Who waits for what becomes of a message, query or question of the server's own.
pub(crate) enum Waiting {
    Query(Sender<QueryOutcome>),
    Delivery(Sender<Result<(), QueryFailure>>),
    Inspect(Sender<Result<Option<Profile>, QueryFailure>>),
    Users(Sender<Result<UserPage, QueryFailure>>),
    Count(Sender<Result<u64, QueryFailure>>),
}

/// Who waits to be told where users are.
pub(crate) enum Locating {
    All(Sender<LocateOutcome>),
    IsOnline(Sender<Result<bool, Bounce>>),
}

/// What a failure is to who waits.
fn failure_of(outcome: Outcome) -> QueryFailure {
    match outcome {
        Outcome::Bounced(cause) => QueryFailure::of_bounce(cause),
        Outcome::Replied { body, .. } => QueryFailure::of_error(&body),
        Outcome::ConnectionLost => QueryFailure::ConnectionLost,
        Outcome::TimedOut => QueryFailure::TimedOut,
        Outcome::Acked | Outcome::Inspected(_) | Outcome::Listed(_) => {
            unreachable!("the core takes {outcome:?} for an answer only where it was asked for")
        }
    }
}

impl Waiting {
    pub(super) fn resolve(self, outcome: Outcome) {
        match (self, outcome) {
            (Waiting::Query(waits), Outcome::Replied { failed: false, body, .. }) => resolve(&waits, Ok(body.to_vec())),
            (Waiting::Query(waits), outcome) => resolve(&waits, Err(failure_of(outcome))),
            (Waiting::Delivery(waits), Outcome::Acked) => resolve(&waits, Ok(())),
            (Waiting::Delivery(waits), outcome) => resolve(&waits, Err(failure_of(outcome))),
            (Waiting::Inspect(waits), Outcome::Inspected(profile)) => resolve(&waits, Ok(Some(profile.into()))),
            (Waiting::Inspect(waits), Outcome::Bounced(Bounce::Offline)) => resolve(&waits, Ok(None)),
            (Waiting::Inspect(waits), outcome) => resolve(&waits, Err(failure_of(outcome))),
            (Waiting::Users(waits), Outcome::Listed(listed)) => resolve(&waits, Ok(listed.into())),
            (Waiting::Users(waits), outcome) => resolve(&waits, Err(failure_of(outcome))),
            (Waiting::Count(waits), Outcome::Listed(listed)) => resolve(&waits, Ok(listed.total)),
            (Waiting::Count(waits), outcome) => resolve(&waits, Err(failure_of(outcome))),
        }
    }
}

impl Locating {
    pub(super) fn resolve(self, servers: LocateOutcome) {
        match self {
            Locating::All(waits) => resolve(&waits, servers),
            Locating::IsOnline(waits) => {
                let server = servers.into_iter().next().unwrap_or(Err(Bounce::Busy));
                resolve(&waits, server.map(|server| server.is_some()));
            }
        }
    }
}

impl From<wire::Profile> for Profile {
    fn from(profile: wire::Profile) -> Profile {
        let wire::Profile { server, address, login_ms, tag } = profile;
        Profile { server, address, login_age: Duration::from_millis(login_ms), tag }
    }
}

impl From<wire::Listed> for UserPage {
    fn from(listed: wire::Listed) -> UserPage {
        let users = listed.users.into_iter().filter_map(|entry| Some((entry.user.parse().ok()?, entry.server)));
        UserPage { users: users.collect(), next: listed.next.map(Cursor), total: listed.total }
    }
}
