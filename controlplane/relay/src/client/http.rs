//! One request of HTTP/1.1 after which the connection is something else, with bounds for what the other end may answer.

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::limits::{HEAD_BYTES_MAX, HEADERS_MAX, REFUSAL_LEN_MAX};

/// Asks, and gives the answer. The connection goes on in a task of its own until it is taken over or the answer is dropped.
pub(super) async fn ask<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await
}

/// The text of a short answer; nothing of a long one.
pub(super) async fn short_text(answer: Response<Incoming>) -> String {
    let body = Limited::new(answer.into_body(), REFUSAL_LEN_MAX).collect().await;
    body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned()).unwrap_or_default()
}
