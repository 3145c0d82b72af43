//! Questions and commands about a peer, and about the gateway as a whole.

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use utoipa::IntoParams;

use super::errors;
use crate::request::{PeerCommand, ReloadOptions, Request, RequestError, What};
use crate::schema::{Explanation, Outcome, Reload, Stopping};

type Requests = mpsc::Sender<Request>;

/// The routes.
pub fn routes(requests: Requests) -> Router {
    Router::new()
        .route("/v1/reload", post(reload))
        .route("/v1/stop", post(stop))
        .route("/v1/peers/{peer}/connect", post(connect))
        .route("/v1/peers/{peer}/disconnect", post(disconnect))
        .route("/v1/peers/{peer}/rekey", post(rekey))
        .route("/v1/peers/{peer}/rekey-ike", post(rekey_ike))
        .route("/v1/peers/{peer}/explain", get(explain))
        .with_state(requests)
}

/// Connects to a peer by IKE, and again whenever the connection is lost.
#[utoipa::path(post, path = "/v1/peers/{peer}/connect", params(("peer" = String, Path, description = "The peer's name")),
    responses((status = 200, body = Outcome), (status = 404, body = Outcome), (status = 409, body = Outcome),
        (status = 503, body = Outcome)))]
pub async fn connect(State(requests): State<Requests>, Path(peer): Path<String>) -> Response {
    carry_out(requests, peer, PeerCommand::Connect).await
}

/// Closes the connection to a peer, and does not connect again.
#[utoipa::path(post, path = "/v1/peers/{peer}/disconnect", params(("peer" = String, Path, description = "The peer's name")),
    responses((status = 200, body = Outcome), (status = 404, body = Outcome), (status = 409, body = Outcome),
        (status = 503, body = Outcome)))]
pub async fn disconnect(State(requests): State<Requests>, Path(peer): Path<String>) -> Response {
    carry_out(requests, peer, PeerCommand::Disconnect).await
}

/// Replaces the keys of the Child SAs with a peer now.
#[utoipa::path(post, path = "/v1/peers/{peer}/rekey", params(("peer" = String, Path, description = "The peer's name")),
    responses((status = 200, body = Outcome), (status = 404, body = Outcome), (status = 409, body = Outcome),
        (status = 503, body = Outcome)))]
pub async fn rekey(State(requests): State<Requests>, Path(peer): Path<String>) -> Response {
    carry_out(requests, peer, PeerCommand::Rekey).await
}

/// Replaces the keys of the IKE SA with a peer now.
#[utoipa::path(post, path = "/v1/peers/{peer}/rekey-ike", params(("peer" = String, Path, description = "The peer's name")),
    responses((status = 200, body = Outcome), (status = 404, body = Outcome), (status = 409, body = Outcome),
        (status = 503, body = Outcome)))]
pub async fn rekey_ike(State(requests): State<Requests>, Path(peer): Path<String>) -> Response {
    carry_out(requests, peer, PeerCommand::RekeyIke).await
}

/// Says why the last negotiation with a peer came to nothing, and what to change.
#[utoipa::path(get, path = "/v1/peers/{peer}/explain", params(("peer" = String, Path, description = "The peer's name")),
    responses((status = 200, body = Explanation), (status = 404, body = Outcome), (status = 409, body = Outcome),
        (status = 503, body = Outcome)))]
pub async fn explain(State(requests): State<Requests>, Path(peer): Path<String>) -> Response {
    match ask(requests, peer, What::Explain).await {
        Ok(explanation) => Json(explanation).into_response(),
        Err(error) => refusal(&error),
    }
}

/// How the configuration is read again.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReloadQuery {
    /// Say what would change, and change nothing.
    #[serde(default)]
    dry_run: bool,
    /// Do also what needs another data plane: all tunnels stand still for a moment.
    #[serde(default)]
    restart_dataplane: bool,
}

/// Reads the configuration again and does what it says. With a file that does not check, nothing is changed.
#[utoipa::path(post, path = "/v1/reload", params(ReloadQuery),
    responses((status = 200, body = Reload), (status = 409, body = Outcome), (status = 422, body = Outcome),
        (status = 503, body = Outcome)))]
pub async fn reload(State(requests): State<Requests>, Query(query): Query<ReloadQuery>) -> Response {
    let options = ReloadOptions { dry_run: query.dry_run, restart_dataplane: query.restart_dataplane };
    let (reply, answer) = oneshot::channel();
    // It ends when the gateway does.
    let sent = requests.send(Request::Reload(options, reply)).await;
    let answer = if sent.is_ok() { answer.await.unwrap_or(Err(RequestError::NotReady)) } else { Err(RequestError::NotReady) };
    match answer {
        Ok(report) => Json(report).into_response(),
        Err(error) => refusal(&error),
    }
}

/// Ends the gateway and its data plane, also where that one would be left at the end.
#[utoipa::path(post, path = "/v1/stop", responses((status = 200, body = Stopping), (status = 503, body = Outcome)))]
pub async fn stop(State(requests): State<Requests>) -> Response {
    let (reply, answer) = oneshot::channel();
    // It ends when the gateway does.
    if requests.send(Request::Stop(reply)).await.is_ok()
        && let Ok(planes) = answer.await
    {
        return Json(planes).into_response();
    }
    refusal(&RequestError::NotReady)
}

async fn carry_out(requests: Requests, peer: String, command: PeerCommand) -> Response {
    match ask(requests, peer, |reply| What::Command(command, reply)).await {
        Ok(()) => Json(Outcome { ok: true, error: String::new() }).into_response(),
        Err(error) => refusal(&error),
    }
}

async fn ask<T>(
    requests: Requests,
    peer: String,
    what: impl FnOnce(oneshot::Sender<Result<T, RequestError>>) -> What,
) -> Result<T, RequestError> {
    let (reply, answer) = oneshot::channel();
    // It ends when the gateway does.
    requests.send(Request::Peer(peer, what(reply))).await.map_err(|_| RequestError::NotReady)?;
    answer.await.map_err(|_| RequestError::NotReady)?
}

pub fn refusal(error: &RequestError) -> Response {
    let status = match error {
        RequestError::NoSuchPeer(..) => StatusCode::NOT_FOUND,
        RequestError::StaticKey(_) | RequestError::Refused(_) => StatusCode::CONFLICT,
        RequestError::Unchecked(_) => StatusCode::UNPROCESSABLE_ENTITY,
        RequestError::NotReady => StatusCode::SERVICE_UNAVAILABLE,
    };
    errors::refusal(status, error.to_string())
}
