//! Errors as the API tells them: every one is JSON, also those of the router and of what it reads out of a request.

use axum::body::to_bytes;
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};

use crate::limits::ERROR_LEN_MAX;
use crate::schema::Outcome;

/// A status with what is wrong.
pub fn refusal(status: StatusCode, error: String) -> Response {
    (status, Json(Outcome { ok: false, error })).into_response()
}

/// The router with answers to what it does not know.
pub fn complete(router: Router) -> Router {
    router.fallback(nothing_here).method_not_allowed_fallback(not_so)
}

/// The router with all its errors as JSON.
pub fn as_json(router: Router) -> Router {
    router.layer(map_response(to_json))
}

async fn nothing_here(uri: Uri) -> Response {
    refusal(StatusCode::NOT_FOUND, format!("there is nothing at {}: GET /v1/openapi.json lists what there is", uri.path()))
}

async fn not_so(method: Method, uri: Uri) -> Response {
    let error = format!("{} cannot be asked with {method}: GET /v1/openapi.json says how", uri.path());
    refusal(StatusCode::METHOD_NOT_ALLOWED, error)
}

/// An error that is plain text, as of an extractor, becomes the JSON of all others.
async fn to_json(response: Response) -> Response {
    let status = response.status();
    let is_json =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if is_json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let text = to_bytes(body, ERROR_LEN_MAX).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    let error = if text.is_empty() { status.canonical_reason().unwrap_or("it cannot be answered").to_owned() } else { text };
    let reported = refusal(status, error);
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.extend(reported.headers().clone());
    Response::from_parts(parts, reported.into_body())
}
