//! HTTP for operators, on a thread of its own.
//!
//! It asks the reactor by commands over a bounded channel and waits for the answers; the reactor never waits for it.
//! What strangers can do here is bounded in `limits`: connections, bytes, and time, of this thread and of no other.
//! `mod` is the thread and its connections, `access` who may ask, `acms` and `appserver` what can be asked of each.

mod access;
mod acms;
mod appserver;
mod exposition;
mod problem;
mod stream;

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query};
use axum::http::{Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::engine::{Asker, Overloaded};
use crate::limits;

pub use access::{Token, TokenError};
pub use acms::{OPENAPI, paths};

pub(crate) use access::Access;
pub(crate) use problem::Problem;

use stream::Stream;

/// How much less of a busy machine's time this thread gets than others: relaying goes before telling about it.
const NICENESS: i32 = 10;
/// Pause before accepting is tried again when there was no descriptor.
const ACCEPT_RETRY: std::time::Duration = std::time::Duration::from_millis(50);

/// A management port that is bound, and not served yet.
pub(crate) struct Bound {
    listener: TcpListener,
    access: Access,
    /// With the port that the system chose.
    pub(crate) local_addr: SocketAddr,
}

impl Bound {
    pub(crate) fn new(addr: SocketAddr, token: Option<Token>) -> io::Result<Bound> {
        if token.is_none() && !addr.ip().to_canonical().is_loopback() {
            let text = format!("a token is needed where operators are answered at {addr}, which is not loopback");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let listener = TcpListener::bind(addr)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot listen at {addr}: {error}")))?;
        listener.set_nonblocking(true)?;
        // Connections have it from here.
        SockRef::from(&listener).set_send_buffer_size(limits::MANAGEMENT_SEND_BUFFER_BYTES)?;
        let local_addr = listener.local_addr()?;
        Ok(Bound { listener, access: token.into(), local_addr })
    }

    /// Serves a cluster manager's operators.
    pub(crate) fn serve_acms(self, handle: crate::engine::AcmsHandle) -> io::Result<Serving> {
        Serving::start(self.listener, acms::routes(handle, self.access))
    }

    /// Serves an application server's.
    pub(crate) fn serve_appserver(self, handle: crate::engine::ServerHandle) -> io::Result<Serving> {
        Serving::start(self.listener, appserver::routes(handle, self.access))
    }
}

/// The thread that serves; dropping it ends it, whatever its connections do.
pub(crate) struct Serving {
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    fn start(listener: TcpListener, routes: Router) -> io::Result<Serving> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let run = move || {
            if let Err(error) = rustix::process::nice(NICENESS) {
                log::debug!("the management thread keeps its priority: {error}");
            }
            runtime.block_on(async {
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => drop(tokio::spawn(accept(listener, routes))),
                    Err(error) => log::error!("the management port cannot be served: {error}"),
                }
                // The other side is only ever dropped.
                drop(stopped.await);
            });
        };
        let thread = std::thread::Builder::new().name("management".to_owned()).spawn(run)?;
        Ok(Serving { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("the management thread panicked");
        }
    }
}

async fn accept(listener: tokio::net::TcpListener, routes: Router) {
    let mut guests = Guests::default();
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                failing = false;
                guests.admit(stream, &routes);
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    log::warn!("management: accept: {error}; trying again every {} ms", ACCEPT_RETRY.as_millis());
                }
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Held by each request that is being served, from when it was let in until its answer is there, and by a stream of events
/// to its end. An answer that the other side has not taken yet holds nobody: one that asks and does not read would keep
/// operators out otherwise.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lease(Arc<()>);

impl Lease {
    /// Whether only the connection's guest and its service hold it.
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.0) <= 2
    }
}

/// The connections there are.
#[derive(Default)]
struct Guests(Vec<Guest>);

struct Guest {
    task: AbortHandle,
    lease: Lease,
}

impl Guests {
    /// Lets a connection in. At the bound the oldest goes that no request is being served of, so that nobody who says
    /// nothing keeps an operator out; where each is being served, nobody more is let in.
    fn admit(&mut self, stream: tokio::net::TcpStream, routes: &Router) {
        self.0.retain(|guest| !guest.task.is_finished());
        if self.0.len() >= limits::MANAGEMENT_CONNECTIONS_MAX {
            let Some(place) = self.0.iter().position(|guest| guest.lease.is_idle()) else { return };
            self.0.remove(place).task.abort();
        }
        let lease = Lease::default();
        let task = tokio::spawn(serve(stream, routes.clone(), lease.clone())).abort_handle();
        self.0.push(Guest { task, lease });
    }
}

async fn serve(stream: tokio::net::TcpStream, routes: Router, lease: Lease) {
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(lease.clone());
        routes.call(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::MANAGEMENT_REQUEST_TIMEOUT.to_duration())
        .max_buf_size(limits::MANAGEMENT_HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(Stream::new(stream)), service)
        .await;
    if let Err(error) = served {
        log::debug!("management: {error}");
    }
}

/// Puts a command to a reactor and waits for what comes of it.
pub(crate) async fn ask<T: Send + 'static, C>(
    put: impl FnOnce(C) -> Result<(), Overloaded>,
    command: impl FnOnce(Asker<T>) -> C,
    patience: std::time::Duration,
) -> Result<T, Problem> {
    let (sender, receiver) = oneshot::channel();
    // Who has hung up meanwhile does not want to know.
    let asker = Asker::new(move |outcome| drop(sender.send(outcome)));
    put(command(asker)).map_err(|refused| match refused {
        Overloaded::Full => Problem::unavailable("too many commands wait for the reactor"),
        Overloaded::Stopped => Problem::unavailable("it is stopping"),
    })?;
    match tokio::time::timeout(patience, receiver).await {
        Ok(Ok(outcome)) => Ok(outcome),
        Ok(Err(_)) => Err(Problem::unavailable("it is stopping")),
        Err(_) => Err(Problem::unavailable("the reactor has not answered in time")),
    }
}

/// A request's whole body, where it is no longer than allowed and comes in time.
pub(crate) async fn read_body(body: Body) -> Result<Bytes, Problem> {
    let all = axum::body::to_bytes(body, limits::MANAGEMENT_BODY_BYTES_MAX);
    match tokio::time::timeout(limits::MANAGEMENT_REQUEST_TIMEOUT.to_duration(), all).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if is_too_long(&error) => Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("a body has at most {} bytes", limits::MANAGEMENT_BODY_BYTES_MAX),
        )),
        Ok(Err(_)) => Err(Problem::new(StatusCode::BAD_REQUEST, "the body was cut short")),
        Err(_) => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")),
    }
}

fn is_too_long(error: &axum::Error) -> bool {
    std::error::Error::source(error).is_some_and(|cause| cause.is::<http_body_util::LengthLimitError>())
}

/// What the path names.
pub(crate) fn path<T>(path: Result<Path<T>, PathRejection>) -> Result<T, Problem> {
    path.map(|Path(named)| named).map_err(|rejection| Problem::bad_request(rejection.body_text()))
}

/// What the query says.
pub(crate) fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Problem> {
    query.map(|Query(said)| said).map_err(|rejection| Problem::bad_request(rejection.body_text()))
}

/// Says so where nothing is, in the same form as all else.
fn with_fallbacks<S: Clone + Send + Sync + 'static>(routes: Router<S>) -> Router<S> {
    let routes = routes.fallback(async || Problem::not_found("there is no such path"));
    routes.method_not_allowed_fallback(method_not_allowed)
}

async fn method_not_allowed() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "the path does not take that method")
}

/// An answer in JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> Response {
    let body = serde_json::to_vec(value).expect("numbers and text");
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}
