//! Users: who there is, and where.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::{absent, ask_reactor, parse_server, parse_user};
use crate::engine::{AcmsCommand as Command, AcmsHandle};
use crate::id::ServerId;
use crate::limits;
use crate::management::{Problem, json, path, query};
use crate::role::acms::Settled;
use crate::wire::Profile;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageAsked {
    server: Option<String>,
    after: Option<u64>,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct Page {
    users: Vec<Whereabouts>,
    next: Option<String>,
    total: usize,
}

#[derive(Serialize)]
struct Whereabouts {
    user: String,
    server: ServerId,
}

/// A page is put together of as many looks at the directory as it takes to fill it: each is a short one, and frames go
/// between them.
pub(super) async fn list(
    State(handle): State<AcmsHandle>,
    asked: Result<Query<PageAsked>, QueryRejection>,
) -> Result<Response, Problem> {
    let PageAsked { server, after, limit } = query(asked)?;
    let server = server.as_deref().map(parse_server).transpose()?;
    let limit = limit.unwrap_or(limits::PAGE_USERS);
    if !(1..=limits::PAGE_USERS_MAX).contains(&limit) {
        return Err(Problem::bad_request(format!("limit is in 1..={}", limits::PAGE_USERS_MAX)));
    }
    let total = ask_reactor(&handle, Command::Vitals).await?.users;
    let mut page = Page { users: Vec::new(), next: Some(after.unwrap_or(0).to_string()), total };
    let mut next = Some(after.unwrap_or(0));
    while let Some(after) = next
        && page.users.len() < limit
    {
        let limit = limit - page.users.len();
        let part = ask_reactor(&handle, |asker| Command::Users { server, after, limit, asker }).await?;
        let found = part.users.into_iter();
        page.users.extend(found.map(|(user, server)| Whereabouts { user: user.to_string(), server }));
        next = part.next;
    }
    page.next = next.map(|place| place.to_string());
    Ok(json(&page))
}

#[derive(Serialize)]
struct Known {
    user: String,
    server: ServerId,
    address: String,
    login_seconds: u64,
    tag: Option<String>,
}

pub(super) async fn one(
    State(handle): State<AcmsHandle>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let user = parse_user(&path(id)?)?;
    let asked = user.clone();
    match ask_reactor(&handle, |asker| Command::Inspect { user, asker }).await? {
        Ok(Some(Settled::Known(Profile { server, address, login_ms, tag }))) => {
            let (user, login_seconds) = (asked.to_string(), login_ms / 1_000);
            Ok(json(&Known { user, server, address, login_seconds, tag }))
        }
        Err(cause) | Ok(Some(Settled::Bounced(cause))) => Err(absent(&asked, cause)),
        Ok(_) => Err(Problem::unavailable(format!("the server of {asked} has not answered in time"))),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KickAsked {
    #[serde(default)]
    text: String,
}

pub(super) async fn kick(
    State(handle): State<AcmsHandle>,
    id: Result<Path<String>, PathRejection>,
    asked: Result<Query<KickAsked>, QueryRejection>,
) -> Result<StatusCode, Problem> {
    let user = parse_user(&path(id)?)?;
    let KickAsked { text } = query(asked)?;
    if text.len() > limits::CLOSE_TEXT_BYTES_MAX {
        return Err(Problem::bad_request(format!("text has at most {} bytes", limits::CLOSE_TEXT_BYTES_MAX)));
    }
    let found = user.clone();
    match ask_reactor(&handle, |asker| Command::Kick { user, text, asker }).await? {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(cause) => Err(absent(&found, cause)),
    }
}
