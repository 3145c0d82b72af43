//! Serves HTTP over TCP, where strangers may come: so many connections at once, so long for a request.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Connections at once. Who comes when all places are taken waits in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
/// How long the header of a request may take, and the silence between two requests.
const HEADER_WITHIN: Duration = Duration::from_secs(10);
/// After this a connection ends with the request that it is at, so that nobody keeps a place for ever.
const CONNECTION_MAX: Duration = Duration::from_secs(300);
/// How long we wait when the kernel gives no connection (no descriptors left).
const PAUSE: Duration = Duration::from_millis(200);

/// Answers everybody who connects, until it is dropped.
pub async fn serve(listener: TcpListener, router: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    while let Ok(place) = places.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "no HTTP connection could be accepted");
                sleep(PAUSE).await;
                continue;
            }
        };
        let router = router.clone();
        connections.spawn(async move {
            answer(stream, router).await;
            drop(place);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(stream: TcpStream, router: Router) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_WITHIN);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    // An error is the client's: it went away, or did not speak HTTP, which hyper has answered.
    if timeout(CONNECTION_MAX, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(HEADER_WITHIN, connection).await;
    }
}
