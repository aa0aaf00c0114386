//! What a cluster manager's operator can ask: `mod` is where each path leads, `servers` and `users` what is behind
//! those names, `messages` what an operator says, `events` the stream of what happens.

mod events;
mod messages;
mod servers;
mod users;

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::access::guard;
use super::{Access, Problem, ask, exposition, json, method_not_allowed, read_body};
use crate::engine::{AcmsCommand as Command, AcmsHandle, AcmsVitals, Asker};
use crate::id::{ServerId, UserId};
use crate::limits;
use crate::wire::Bounce;

pub(super) use servers::standing_name;

/// What the port offers, as an OpenAPI document.
pub const OPENAPI: &str = include_str!("../openapi.json");

/// Where anyone may ask whether all is well.
const HEALTH: &str = "/healthz";

/// Every other path, and what is there.
fn table() -> [(&'static str, MethodRouter<AcmsHandle>); 15] {
    [
        ("/v1/servers", get(servers::list)),
        ("/v1/servers/{id}", get(servers::one)),
        ("/v1/servers/{id}/freeze", post(servers::freeze)),
        ("/v1/servers/{id}/unfreeze", post(servers::unfreeze)),
        ("/v1/servers/{id}/drain", post(servers::drain)),
        ("/v1/servers/{id}/remove", post(servers::remove)),
        ("/v1/users", get(users::list)),
        ("/v1/users/{id}", get(users::one).delete(users::kick)),
        ("/v1/groups/{id}", get(messages::members)),
        ("/v1/messages", post(messages::send)),
        ("/v1/count", get(count)),
        ("/v1/assign", post(assign)),
        ("/v1/events", get(events::stream)),
        ("/v1/openapi.json", get(openapi)),
        ("/metrics", get(metrics)),
    ]
}

/// The paths of a cluster manager's management port.
pub fn paths() -> impl Iterator<Item = &'static str> {
    table().into_iter().map(|(path, _)| path).chain([HEALTH])
}

pub(super) fn routes(handle: AcmsHandle, access: Access) -> Router {
    let guarded = table().into_iter().fold(Router::new(), |router, (path, methods)| router.route(path, methods));
    let guarded = super::with_fallbacks(guarded).layer(middleware::from_fn_with_state(access, guard));
    guarded.route(HEALTH, get(healthz).fallback(method_not_allowed)).with_state(handle)
}

/// What comes of a command, where the reactor takes it and answers in time.
async fn ask_reactor<T: Send + 'static>(
    handle: &AcmsHandle,
    command: impl FnOnce(Asker<T>) -> Command,
) -> Result<T, Problem> {
    ask_within(handle, command, limits::OPERATOR_PATIENCE.to_duration()).await
}

/// The same with another patience.
async fn ask_within<T: Send + 'static>(
    handle: &AcmsHandle,
    command: impl FnOnce(Asker<T>) -> Command,
    patience: Duration,
) -> Result<T, Problem> {
    ask(|command| handle.command(command), command, patience).await
}

#[derive(Serialize)]
struct Count {
    users: usize,
    servers: usize,
}

async fn count(State(handle): State<AcmsHandle>) -> Result<Response, Problem> {
    let AcmsVitals { users, servers, .. } = ask_reactor(&handle, Command::Vitals).await?;
    Ok(json(&Count { users, servers }))
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Newcomer {
    user: Option<String>,
}

#[derive(Serialize)]
struct Assignment {
    server: ServerId,
    address: String,
}

async fn assign(State(handle): State<AcmsHandle>, body: Body) -> Result<Response, Problem> {
    let body = read_body(body).await?;
    let newcomer = if body.is_empty() { Newcomer::default() } else { parse::<Newcomer>(&body)? };
    let user = newcomer.user.as_deref().map(parse_user).transpose()?;
    match ask_reactor(&handle, |asker| Command::Assign { user, asker }).await? {
        Ok(assigned) => Ok(json(&Assignment { server: assigned.server, address: assigned.address })),
        Err(cause) => Err(Problem::unavailable(cause.to_string())),
    }
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

async fn metrics(State(handle): State<AcmsHandle>) -> Result<Response, Problem> {
    let servers = ask_reactor(&handle, Command::Servers).await?;
    let vitals = ask_reactor(&handle, Command::Vitals).await?;
    Ok(exposition::of_acms(&vitals, &servers))
}

async fn healthz(State(handle): State<AcmsHandle>) -> Result<Response, Problem> {
    let patience: Duration = limits::HEALTH_TIMEOUT.to_duration();
    ask(|command| handle.command(command), Command::Vitals, patience).await?;
    Ok("ok".into_response())
}

/// A body that is a JSON object of that form, and nothing else.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(Problem::bad_request("a body is a JSON object"));
    }
    serde_json::from_slice(body).map_err(|error| Problem::bad_request(format!("the body: {error}")))
}

fn parse_user(text: &str) -> Result<UserId, Problem> {
    text.parse().map_err(|error| Problem::bad_request(format!("no user id: {error}")))
}

fn parse_server(text: &str) -> Result<ServerId, Problem> {
    // Other forms of a number ("+1", "01") would be second names of the same thing.
    let number = text.parse::<u16>().ok().filter(|number| number.to_string() == text).map(ServerId);
    let number = number.filter(|number| *number != ServerId::ACMS);
    number.ok_or_else(|| Problem::bad_request("a server's number is in 0..=65534"))
}

/// Why a user was not found.
fn absent(user: &UserId, cause: Bounce) -> Problem {
    match cause {
        Bounce::Offline => Problem::not_found(format!("{user} is not online")),
        Bounce::Retry => Problem::unavailable(format!("whether {user} is online is not certain yet")),
        cause => Problem::unavailable(format!("{user} cannot be reached: {cause}")),
    }
}
