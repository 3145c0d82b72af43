//! What can be asked and ordered about a peer.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use tokio::sync::{mpsc, oneshot};

use super::types::{Explanation, Outcome};
use crate::ike::PeerCommand;
use crate::runtime::{Request, RequestError, What};

type Requests = mpsc::Sender<Request>;

/// The routes.
pub fn routes(requests: Requests) -> Router {
    Router::new()
        .route("/v1/peers/{peer}/connect", post(connect))
        .route("/v1/peers/{peer}/disconnect", post(disconnect))
        .route("/v1/peers/{peer}/rekey", post(rekey))
        .route("/v1/peers/{peer}/rekey-ike", post(rekey_ike))
        .route("/v1/peers/{peer}/explain", get(explain))
        .with_state(requests)
}

/// Connects to a peer by IKE, and again whenever the connection is lost.
#[utoipa::path(post, path = "/v1/peers/{peer}/connect", params(("peer" = String, Path, description = "The peer's name")),
    responses((status = 200, body = Outcome), (status = 404, body = Outcome), (status = 409, body = Outcome)))]
pub async fn connect(State(requests): State<Requests>, Path(peer): Path<String>) -> Response {
    carry_out(requests, peer, PeerCommand::Connect).await
}

/// Closes the connection to a peer, and does not connect again.
#[utoipa::path(post, path = "/v1/peers/{peer}/disconnect", params(("peer" = String, Path, description = "The peer's name")),
    responses((status = 200, body = Outcome), (status = 404, body = Outcome), (status = 409, body = Outcome)))]
pub async fn disconnect(State(requests): State<Requests>, Path(peer): Path<String>) -> Response {
    carry_out(requests, peer, PeerCommand::Disconnect).await
}

/// Replaces the keys of the traffic with a peer now.
#[utoipa::path(post, path = "/v1/peers/{peer}/rekey", params(("peer" = String, Path, description = "The peer's name")),
    responses((status = 200, body = Outcome), (status = 404, body = Outcome), (status = 409, body = Outcome)))]
pub async fn rekey(State(requests): State<Requests>, Path(peer): Path<String>) -> Response {
    carry_out(requests, peer, PeerCommand::Rekey).await
}

/// Replaces the keys of the IKE SA with a peer now.
#[utoipa::path(post, path = "/v1/peers/{peer}/rekey-ike", params(("peer" = String, Path, description = "The peer's name")),
    responses((status = 200, body = Outcome), (status = 404, body = Outcome), (status = 409, body = Outcome)))]
pub async fn rekey_ike(State(requests): State<Requests>, Path(peer): Path<String>) -> Response {
    carry_out(requests, peer, PeerCommand::RekeyIke).await
}

/// Says why the last negotiation with a peer came to nothing, and what to change.
#[utoipa::path(get, path = "/v1/peers/{peer}/explain", params(("peer" = String, Path, description = "The peer's name")),
    responses((status = 200, body = Explanation), (status = 404, body = Outcome), (status = 409, body = Outcome)))]
pub async fn explain(State(requests): State<Requests>, Path(peer): Path<String>) -> Response {
    match ask(requests, peer, What::Explain).await {
        Ok(explanation) => Json(explanation).into_response(),
        Err(error) => refusal(&error),
    }
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

fn refusal(error: &RequestError) -> Response {
    let status = match error {
        RequestError::NoSuchPeer(..) => StatusCode::NOT_FOUND,
        RequestError::StaticKey(_) | RequestError::Refused(_) => StatusCode::CONFLICT,
        RequestError::NotReady => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(Outcome { ok: false, error: error.to_string() })).into_response()
}
