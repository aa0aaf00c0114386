//! What an application server tells its operator.

use axum::Router;
use axum::extract::State;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::access::guard;
use super::{Access, Problem, ask, exposition, method_not_allowed};
use crate::engine::{ServerCommand, ServerHandle, ServerVitals};
use crate::limits;

pub(super) fn routes(handle: ServerHandle, access: Access) -> Router {
    let guarded = super::with_fallbacks(Router::new().route("/metrics", get(metrics)));
    let guarded = guarded.layer(middleware::from_fn_with_state(access, guard));
    guarded.route("/healthz", get(healthz).fallback(method_not_allowed)).with_state(handle)
}

async fn vitals(handle: &ServerHandle, patience: std::time::Duration) -> Result<ServerVitals, Problem> {
    ask(|command| handle.command(command), ServerCommand::Vitals, patience).await
}

async fn metrics(State(handle): State<ServerHandle>) -> Result<Response, Problem> {
    Ok(exposition::of_appserver(&vitals(&handle, limits::OPERATOR_PATIENCE.to_duration()).await?))
}

async fn healthz(State(handle): State<ServerHandle>) -> Result<Response, Problem> {
    vitals(&handle, limits::HEALTH_TIMEOUT.to_duration()).await?;
    Ok("ok".into_response())
}
