//! What can be asked and ordered about a peer: `POST /v1/peers/NAME/connect`, `…/disconnect`, `…/rekey`, `…/rekey-ike`,
//! `GET /v1/peers/NAME/explain`.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use tokio::sync::{mpsc, oneshot};

use super::types::Outcome;
use crate::ike::Order;
use crate::runtime::{Request, RequestError, What};

type Requests = mpsc::Sender<Request>;

/// The routes.
pub fn routes(requests: Requests) -> Router {
    let ordered =
        |order| post(move |State(requests): State<Requests>, Path(peer): Path<String>| carry_out(requests, peer, order));
    Router::new()
        .route("/v1/peers/{peer}/connect", ordered(Order::Connect))
        .route("/v1/peers/{peer}/disconnect", ordered(Order::Disconnect))
        .route("/v1/peers/{peer}/rekey", ordered(Order::Rekey))
        .route("/v1/peers/{peer}/rekey-ike", ordered(Order::RekeyIke))
        .route("/v1/peers/{peer}/explain", get(explain))
        .with_state(requests)
}

async fn carry_out(requests: Requests, peer: String, order: Order) -> Response {
    match ask(requests, peer, |reply| What::Order(order, reply)).await {
        Ok(()) => Json(Outcome { ok: true, error: String::new() }).into_response(),
        Err(error) => refusal(&error),
    }
}

async fn explain(State(requests): State<Requests>, Path(peer): Path<String>) -> Response {
    match ask(requests, peer, What::Explain).await {
        Ok(explanation) => Json(explanation).into_response(),
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
    requests.send(Request { peer, what: what(reply) }).await.map_err(|_| RequestError::NotReady)?;
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
