//! The API (`/v1/…`, [`document`]) and `GET /metrics` over a Unix socket that only our user reaches, and over TCP where
//! the configuration says so: the API for who has a [`token`]. What is ordered ([`peers`]) goes to the loop of the gateway.

pub mod client;
pub mod document;
mod peers;
mod serve;
mod token;
pub mod types;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::extract::{self, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus::Registry;
use rustix::fs::{Mode, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::config::Config;
use crate::metrics;
use crate::runtime::Request;
use crate::view::View;
pub use token::Token;

/// How long an answer waits for news of IKE.
const LOOK_WITHIN: Duration = Duration::from_millis(500);
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// The open sockets. Whoever connects waits until [`Listeners::serve`].
pub struct Listeners {
    local: UnixListener,
    metrics: Option<TcpListener>,
    remote: Option<(TcpListener, Token)>,
}

/// The tasks that answer requests.
pub struct Servers {
    _tasks: JoinSet<()>,
}

/// Opens the sockets of a gateway.
///
/// # Errors
/// An address or path cannot be bound.
pub async fn open(config: &Config) -> anyhow::Result<Listeners> {
    let path = config.api_socket();
    if UnixStream::connect(&path).await.is_ok() {
        bail!("somebody answers at {} already: is another adit running?", path.display());
    }
    // What is left of a run that was killed. The lock on the directory says that nobody else uses it.
    let _ = std::fs::remove_file(&path);
    let local = listen(&path).with_context(|| format!("the API socket {} cannot be opened", path.display()))?;
    let metrics = match config.metrics_listen {
        Some(address) => Some(TcpListener::bind(address).await.with_context(|| {
            format!("the metrics address {address} cannot be opened: change metrics.listen, or stop what uses it (ss -ltnp)")
        })?),
        None => None,
    };
    let remote = match &config.api {
        Some(api) => {
            if !api.listen.ip().is_loopback() {
                tracing::warn!(
                    "api.listen {}: what is sent there is not encrypted, the token included; put a proxy with TLS in front",
                    api.listen
                );
            }
            let listener = TcpListener::bind(api.listen).await.with_context(|| {
                format!("the API address {} cannot be opened: change api.listen, or stop what uses it (ss -ltnp)", api.listen)
            })?;
            Some((listener, api.token.value.clone()))
        }
        None => None,
    };
    Ok(Listeners { local, metrics, remote })
}

/// Listens at a path that only we can reach, from its first moment on.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Before bind: Linux gives the new file the mode of the socket.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    UnixListener::from_std(socket.into())
}

impl Listeners {
    /// Begins to answer. Not before a data plane is attached: a reader would see its counters go back to zero.
    ///
    /// # Errors
    /// The metrics contradict each other.
    pub fn serve(self, view: &Arc<View>, requests: &mpsc::Sender<Request>) -> anyhow::Result<Servers> {
        let registry = metrics::registry(view.clone()).context("describing the metrics")?;
        let looks = from_fn_with_state(requests.clone(), look_first);
        let page = Router::new().route("/metrics", get(metrics_page)).with_state(registry).layer(looks.clone());
        let reading = Router::new().route("/v1/status", get(status)).route("/v1/peers", get(peer_list)).layer(looks);
        let health = Router::new().route("/v1/health", get(health));
        let all = page.clone().merge(health.merge(reading).with_state(view.clone())).merge(peers::routes(requests.clone()));
        let local = all.clone();
        // The tasks end when the set is dropped.
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let _ = axum::serve(self.local, local).await;
        });
        if let Some(listener) = self.metrics {
            tracing::info!("metrics on http://{}/metrics", listener.local_addr().context("the metrics address")?);
            tasks.spawn(serve::serve(listener, page));
        }
        if let Some((listener, token)) = self.remote {
            tracing::info!("API on http://{}/v1, for who has the token", listener.local_addr().context("the API address")?);
            let guarded = all.layer(from_fn_with_state(token, token::required));
            tasks.spawn(serve::serve(listener, guarded));
        }
        Ok(Servers { _tasks: tasks })
    }
}

/// Has the loop of the gateway tell how IKE does now, before the question is answered. While that loop starts a data plane, the
/// answer is what it told last.
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

/// Whether the gateway carries packets.
#[utoipa::path(get, path = "/v1/health", responses((status = 200, body = types::Health), (status = 503, body = types::Health)))]
async fn health(State(view): State<Arc<View>>) -> Response {
    let ok = view.info().is_some();
    let health = types::Health { ok, name: view.config.name.clone(), version: env!("CARGO_PKG_VERSION").to_owned() };
    (if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(health)).into_response()
}

/// The peers with their SAs.
#[utoipa::path(get, path = "/v1/peers", responses((status = 200, body = Vec<types::Peer>)))]
async fn peer_list(State(view): State<Arc<View>>) -> Json<Vec<types::Peer>> {
    Json(view.status().peers)
}

/// Everything about the gateway.
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = types::Status)))]
async fn status(State(view): State<Arc<View>>) -> Json<types::Status> {
    Json(view.status())
}

async fn metrics_page(State(registry): State<Registry>) -> Response {
    match metrics::page(&registry) {
        Ok(page) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
