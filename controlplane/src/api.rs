//! The API (`/v1/…`, [`document`]) and `GET /metrics` over a Unix socket that only our user reaches, and over TCP where
//! the configuration says so ([`listeners`]), for who asks for us by a name of ours ([`host`]): the API for who has the token. Commands
//! ([`peers`]) go to the loop of the gateway.

pub mod client;
pub mod document;
mod errors;
mod host;
mod listeners;
mod peers;
mod serve;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::extract::{self, Path, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus::Registry;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::metrics;
use crate::request::{Request, RequestError};
use crate::schema;
use crate::view::View;
pub use listeners::Listeners;

/// How long an answer waits for news of IKE: the loop is busy for so long where a data plane starts, and on a host without a core for it.
const LOOK_WITHIN: Duration = Duration::from_secs(2);
/// What is answered at which socket.
struct Routers {
    local: Router,
    metrics: Router,
    remote: Router,
}

impl Routers {
    fn new(view: &Arc<View>, requests: &mpsc::Sender<Request>) -> anyhow::Result<Routers> {
        let registry = metrics::registry(view.clone()).context("describing the metrics")?;
        let looks = from_fn_with_state(requests.clone(), look_first);
        let page = Router::new().route("/metrics", get(metrics_page)).with_state(registry).layer(looks.clone());
        let reading = Router::new()
            .route("/v1/status", get(status))
            .route("/v1/health", get(health))
            .route("/v1/peers", get(peer_list))
            .route("/v1/peers/{peer}", get(one_peer))
            .layer(looks);
        let described = Router::new().route("/v1/openapi.json", get(document));
        let all = page.clone().merge(reading.with_state(view.clone())).merge(peers::routes(requests.clone())).merge(described);
        // Whether this program answers, for who has no token.
        let live = Router::new().route("/v1/live", get(live));
        let (all, page) = (errors::complete(all), errors::complete(page));
        let remote = all.clone().layer(from_fn_with_state(view.clone(), token_required));
        let host = from_fn_with_state(view.clone(), host::host_required);
        let over_tcp = |router: Router| errors::as_json(router.merge(live.clone()).layer(host.clone()));
        Ok(Routers { local: errors::as_json(all.merge(live.clone())), metrics: over_tcp(page), remote: over_tcp(remote) })
    }
}

/// Lets a request pass that has the token, as `Authorization: Bearer TOKEN`.
async fn token_required(State(view): State<Arc<View>>, request: extract::Request, next: Next) -> Response {
    let sent = request.headers().get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    // The one that holds now: a reload may have brought another one.
    let desired = view.desired();
    let token = desired.config.api.as_ref().map(|api| &api.token.value);
    if sent.zip(token).is_some_and(|(sent, token)| token.is(sent)) {
        return next.run(request).await;
    }
    let error = "this API wants a token: send the header `Authorization: Bearer TOKEN` with the content of api.token_file";
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
    (challenge, errors::refusal(StatusCode::UNAUTHORIZED, error.to_owned())).into_response()
}

/// Has the loop of the gateway tell how IKE does now, before the question is answered. While that loop starts a data plane, the
/// answer is what it told last, and says how old that is.
async fn look_first(State(requests): State<mpsc::Sender<Request>>, request: extract::Request, next: Next) -> Response {
    let (reply, answer) = oneshot::channel();
    let looked = async {
        if requests.send(Request::Look(reply)).await.is_ok() {
            // An error is its end.
            let _ = answer.await;
        }
    };
    let _ = timeout(LOOK_WITHIN, looked).await;
    next.run(request).await
}

/// Whether this program answers. Nobody needs a token to ask.
#[utoipa::path(get, path = "/v1/live", security(()), responses((status = 200, body = schema::Live)))]
async fn live() -> Json<schema::Live> {
    Json(schema::Live { ok: true })
}

/// Whether all peers are up, and what is missing.
#[utoipa::path(get, path = "/v1/health", responses((status = 200, body = schema::Health), (status = 503, body = schema::Health)))]
async fn health(State(view): State<Arc<View>>) -> Response {
    let health = view.health();
    (if health.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(health)).into_response()
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200, description = "The OpenAPI document")))]
async fn document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document::json()).into_response()
}

/// One peer with its SAs.
#[utoipa::path(get, path = "/v1/peers/{peer}", params(("peer" = String, Path, description = "The peer's name")),
    responses((status = 200, body = schema::Peer), (status = 503, body = schema::Outcome)))]
async fn one_peer(State(view): State<Arc<View>>, Path(name): Path<String>) -> Response {
    let desired = view.desired();
    match desired.place_named(&name).and_then(|place| view.peer(&desired, place).ok_or(RequestError::NotReady)) {
        Ok(one) => Json(one.peer).into_response(),
        Err(error) => peers::refusal(&error),
    }
}

/// The peers with their SAs.
#[utoipa::path(get, path = "/v1/peers", responses((status = 200, body = Vec<schema::Peer>)))]
async fn peer_list(State(view): State<Arc<View>>) -> Json<Vec<schema::Peer>> {
    Json(view.peers(&view.desired()).into_iter().map(|one| one.peer).collect())
}

/// Everything about the gateway.
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = schema::Status)))]
async fn status(State(view): State<Arc<View>>) -> Json<schema::Status> {
    Json(view.status())
}

/// Everything in numbers, for Prometheus: docs/metrics.md. At `metrics.listen` without a token.
#[utoipa::path(get, path = "/metrics", security((), ("token" = [])),
    responses((status = 200, body = String, content_type = "text/plain"), (status = 500, body = schema::Outcome)))]
async fn metrics_page(State(registry): State<Registry>) -> Response {
    match metrics::page(&registry) {
        Ok(page) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], page).into_response(),
        Err(error) => errors::refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

#[cfg(test)]
mod tests;
