//! Servers: what they are, and what an operator does to them.

use std::collections::BTreeMap;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use super::{ask_reactor, parse_server};
use crate::engine::{AcmsCommand as Command, AcmsHandle, ServerChange};
use crate::id::ServerId;
use crate::management::{Problem, json, path};
use crate::role::acms::{ServerView, Standing};

/// The name of a standing, in answers and in labels.
pub(in crate::management) fn standing_name(standing: Standing) -> &'static str {
    match standing {
        Standing::Syncing => "syncing",
        Standing::Open => "open",
        Standing::Frozen => "frozen",
        Standing::Draining => "draining",
    }
}

#[derive(Serialize)]
struct Servers<'a> {
    servers: Vec<Server<'a>>,
    frozen_away: Vec<ServerId>,
}

#[derive(Serialize)]
struct Server<'a> {
    server: ServerId,
    address: &'a str,
    state: &'static str,
    users: u32,
    assigned: u32,
    capacity: u32,
    connected_seconds: u64,
    incarnation: u64,
    queued_bytes: u64,
    link_queued_bytes: usize,
    busy_permille: u16,
    frames: u64,
    bytes: u64,
    frames_per_second: u64,
    bytes_per_second: u64,
    bounced: BTreeMap<&'a str, u64>,
    dropped: BTreeMap<&'a str, u64>,
}

impl<'a> From<&'a ServerView> for Server<'a> {
    fn from(view: &'a ServerView) -> Server<'a> {
        Server {
            server: view.server,
            address: &view.address,
            state: standing_name(view.standing),
            users: view.users,
            assigned: view.assigned,
            capacity: view.capacity,
            connected_seconds: view.connected.as_micros() / 1_000_000,
            incarnation: view.incarnation,
            queued_bytes: view.state.queued_bytes,
            link_queued_bytes: view.link_queued_bytes,
            busy_permille: view.state.busy_permille,
            frames: view.state.frames,
            bytes: view.state.bytes,
            frames_per_second: view.pace.frames_per_second,
            bytes_per_second: view.pace.bytes_per_second,
            bounced: view.state.bounced.iter().collect(),
            dropped: view.state.dropped.iter().collect(),
        }
    }
}

pub(super) async fn list(State(handle): State<AcmsHandle>) -> Result<Response, Problem> {
    let servers = ask_reactor(&handle, Command::Servers).await?;
    let mut frozen_away = ask_reactor(&handle, Command::Vitals).await?.frozen_away;
    // It may have gone or come between the two questions.
    frozen_away.retain(|away| servers.iter().all(|view| view.server != *away));
    Ok(json(&Servers { servers: servers.iter().map(Server::from).collect(), frozen_away }))
}

type Id = Result<Path<String>, PathRejection>;

pub(super) async fn one(State(handle): State<AcmsHandle>, id: Id) -> Result<Response, Problem> {
    let id = parse_server(&path(id)?)?;
    let servers = ask_reactor(&handle, Command::Servers).await?;
    let view = servers.iter().find(|view| view.server == id).ok_or_else(|| not_registered(id))?;
    Ok(json(&Server::from(view)))
}

pub(super) async fn freeze(State(handle): State<AcmsHandle>, id: Id) -> Result<StatusCode, Problem> {
    change(&handle, id, ServerChange::Freeze).await
}

pub(super) async fn unfreeze(State(handle): State<AcmsHandle>, id: Id) -> Result<StatusCode, Problem> {
    change(&handle, id, ServerChange::Unfreeze).await
}

pub(super) async fn drain(State(handle): State<AcmsHandle>, id: Id) -> Result<StatusCode, Problem> {
    change(&handle, id, ServerChange::Drain).await
}

pub(super) async fn remove(State(handle): State<AcmsHandle>, id: Id) -> Result<StatusCode, Problem> {
    change(&handle, id, ServerChange::Remove).await
}

async fn change(handle: &AcmsHandle, id: Id, change: ServerChange) -> Result<StatusCode, Problem> {
    let server = parse_server(&path(id)?)?;
    let found = ask_reactor(handle, |asker| Command::Change { server, change, asker }).await?;
    if found { Ok(StatusCode::NO_CONTENT) } else { Err(not_registered(server)) }
}

fn not_registered(server: ServerId) -> Problem {
    Problem::not_found(format!("server {server} is not registered"))
}
