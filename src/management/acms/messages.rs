//! What an operator says, and what comes of it.

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::{ask_reactor, parse, parse_user};
use crate::engine::{AcmsCommand as Command, AcmsHandle, MessageTo, OperatorMessage};
use crate::id::{GroupId, ServerId};
use crate::limits;
use crate::management::{Problem, json, path, read_body};
use crate::role::Members;
use crate::role::acms::Settled;
use crate::time::Span;
use crate::wire::Bounce;

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum To {
    User(String),
    Group(String),
    Server(u16),
    Everyone,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    to: To,
    #[serde(default)]
    info_type: u32,
    body: Option<String>,
    body_base64: Option<String>,
    #[serde(default)]
    answer: bool,
    #[serde(default = "patience")]
    timeout_ms: u64,
}

/// How long what comes of a message is waited for where nobody says.
fn patience() -> u64 {
    limits::OPERATOR_PATIENCE.as_millis()
}

#[derive(Serialize)]
struct Delivery {
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
}

#[derive(Serialize)]
struct Reply {
    info_type: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

pub(super) async fn send(State(handle): State<AcmsHandle>, body: Body) -> Result<Response, Problem> {
    let message: Message = parse(&read_body(body).await?)?;
    let (is_to_user, message) = (matches!(message.to, To::User(_)), read(message)?);
    // The reactor itself keeps the time that the message has.
    let patience = limits::OPERATOR_PATIENCE.to_duration() + message.patience.to_duration();
    let outcome = super::ask_within(&handle, |asker| Command::Message { message, asker }, patience).await?;
    match outcome {
        Ok(None) => Ok(StatusCode::ACCEPTED.into_response()),
        Ok(Some(Settled::Delivered)) => Ok(json(&Delivery { outcome: "delivered", cause: None })),
        Err(cause) | Ok(Some(Settled::Bounced(cause))) if is_to_user => {
            Ok(json(&Delivery { outcome: "bounced", cause: Some(cause.to_string().to_lowercase()) }))
        }
        Ok(Some(Settled::Bounced(Bounce::NoHandler))) => Err(Problem::not_found("the server has no handler for it")),
        Ok(Some(Settled::Failed(text))) => {
            Err(Problem::new(StatusCode::BAD_GATEWAY, format!("the handler failed: {text}")))
        }
        Ok(Some(Settled::Answered { info_type, body })) => Ok(json(&reply(info_type, &body))),
        Err(Bounce::Offline) => Err(Problem::not_found("there is no such server, or nobody in that group")),
        Err(cause) | Ok(Some(Settled::Bounced(cause))) => Err(Problem::unavailable(format!("not now: {cause}"))),
        Ok(Some(Settled::TimedOut | Settled::Members(_) | Settled::Known(_))) => {
            Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, "nothing came back in time"))
        }
    }
}

fn read(message: Message) -> Result<OperatorMessage, Problem> {
    let Message { to, info_type, body, body_base64, answer, timeout_ms } = message;
    let body = match (body, body_base64) {
        (Some(_), Some(_)) => return Err(Problem::bad_request("body and body_base64 are two bodies")),
        (Some(text), None) => text.into_bytes(),
        (None, Some(text)) => STANDARD.decode(text).map_err(|_| Problem::bad_request("body_base64 is no base64"))?,
        (None, None) => Vec::new(),
    };
    if body.len() > limits::MANAGEMENT_MESSAGE_BYTES_MAX {
        let most = limits::MANAGEMENT_MESSAGE_BYTES_MAX;
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a message has at most {most} bytes")));
    }
    let patience = Span::from_millis(timeout_ms);
    if timeout_ms == 0 || patience > limits::OPERATOR_PATIENCE_CEILING {
        return Err(Problem::bad_request("timeout_ms is in 1..=60000"));
    }
    let to = match to {
        To::Server(number) if number == ServerId::ACMS.0 => {
            return Err(Problem::bad_request("a server's number is in 0..=65534"));
        }
        To::Server(number) if answer => MessageTo::ServerQuery(ServerId(number)),
        To::Server(number) => MessageTo::Server(ServerId(number)),
        To::User(_) | To::Group(_) | To::Everyone if answer => {
            return Err(Problem::bad_request("only a server's handler answers"));
        }
        To::User(user) => MessageTo::User(parse_user(&user)?),
        To::Everyone => MessageTo::Everyone,
        To::Group(group) => MessageTo::Group(parse_group(&group)?),
    };
    Ok(OperatorMessage { to, info_type, body, patience })
}

fn reply(info_type: u32, body: &[u8]) -> Reply {
    match std::str::from_utf8(body) {
        Ok(text) => Reply { info_type, body: Some(text.to_owned()), body_base64: None },
        Err(_) => Reply { info_type, body: None, body_base64: Some(STANDARD.encode(body)) },
    }
}

fn parse_group(text: &str) -> Result<GroupId, Problem> {
    text.parse().map_err(|error| Problem::bad_request(format!("no group id: {error}")))
}

#[derive(Serialize)]
struct Group {
    group: String,
    members: Vec<Member>,
    complete: bool,
}

#[derive(Serialize)]
struct Member {
    user: String,
    server: ServerId,
}

pub(super) async fn members(
    State(handle): State<AcmsHandle>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let group = parse_group(&path(id)?)?;
    let name = group.to_string();
    match ask_reactor(&handle, |asker| Command::Members { group, asker }).await? {
        Ok(Some(Settled::Members(Members { users, complete }))) => {
            let members = users.into_iter().map(|(user, server)| Member { user: user.to_string(), server });
            Ok(json(&Group { group: name, members: members.collect(), complete }))
        }
        Err(Bounce::Offline) => Err(Problem::not_found(format!("nobody is in {name}"))),
        Err(Bounce::Retry) => Err(Problem::unavailable("not every server has told of its groups yet")),
        Ok(_) | Err(_) => Err(Problem::unavailable("too much is asked already")),
    }
}
