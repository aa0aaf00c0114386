//! What happens, as server-sent events.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_core::Stream;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::ask_reactor;
use crate::engine::{AcmsCommand as Command, AcmsHandle, ClusterEvent, Subscriber};
use crate::id::ServerId;
use crate::limits;
use crate::management::{Lease, Problem, query};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    users: Option<bool>,
}

/// Events until the other side falls too far behind.
struct Events {
    receiver: mpsc::Receiver<ClusterEvent>,
    /// Whose end the reactor notices.
    _alive: Arc<()>,
    _lease: Lease,
}

impl Stream for Events {
    type Item = Result<Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_recv(cx).map(|event| event.map(|event| Ok(encode(&event))))
    }
}

pub(super) async fn stream(
    State(handle): State<AcmsHandle>,
    Extension(lease): Extension<Lease>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Response, Problem> {
    let users = query(wanted)?.users.unwrap_or(true);
    let (sender, receiver) = mpsc::channel(limits::SUBSCRIBER_EVENTS_MAX);
    let alive = Arc::new(());
    let tell = Box::new(move |event: &ClusterEvent| sender.try_send(event.clone()).is_ok());
    let subscriber = Subscriber { users, alive: Arc::downgrade(&alive), tell };
    let taken = ask_reactor(&handle, |asker| Command::Subscribe { subscriber, asker }).await?;
    taken.map_err(|_| Problem::unavailable("as many as may hear of events do"))?;
    let events = Sse::new(Events { receiver, _alive: alive, _lease: lease });
    let keep_alive = KeepAlive::new().interval(limits::EVENTS_KEEPALIVE.to_duration());
    Ok(events.keep_alive(keep_alive).into_response())
}

#[derive(Serialize)]
#[serde(untagged)]
enum Data<'a> {
    Registered { server: ServerId, address: &'a str, incarnation: u64 },
    Synced { server: ServerId, users: u32 },
    Lost { server: ServerId, users: u32, cause: &'a str },
    User { user: &'a str, server: ServerId },
}

fn encode(event: &ClusterEvent) -> Event {
    let (name, data) = match event {
        ClusterEvent::ServerRegistered { server, address, incarnation } => {
            ("server_registered", Data::Registered { server: *server, address, incarnation: *incarnation })
        }
        ClusterEvent::ServerSynced { server, users } => {
            ("server_synced", Data::Synced { server: *server, users: *users })
        }
        ClusterEvent::ServerLost { server, users, cause } => {
            ("server_lost", Data::Lost { server: *server, users: *users, cause })
        }
        ClusterEvent::UserOnline { user, server } => {
            ("user_online", Data::User { user: user.as_str(), server: *server })
        }
        ClusterEvent::UserOffline { user, server } => {
            ("user_offline", Data::User { user: user.as_str(), server: *server })
        }
    };
    // JSON has its line breaks escaped, so that it is one line of the stream.
    Event::default().event(name).data(serde_json::to_string(&data).expect("numbers and text"))
}
