//! The API: `GET /v1/status` and `GET /metrics` over a Unix socket that only our user reaches, `GET /metrics` over TCP where
//! the configuration says so. What is ordered over it ([`peers`]) goes to the loop of the gateway.

pub mod client;
mod peers;
pub mod types;

use std::io;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus::Registry;
use rustix::fs::{Mode, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::config::Config;
use crate::metrics;
use crate::runtime::Request;
use crate::view::View;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// The open sockets. Whoever connects waits until [`Doors::serve`].
pub struct Doors {
    local: UnixListener,
    metrics: Option<TcpListener>,
}

/// The tasks that answer requests.
pub struct Servers {
    _tasks: JoinSet<()>,
}

/// Opens the sockets of a gateway.
///
/// # Errors
/// An address or path cannot be bound.
pub async fn open(config: &Config) -> anyhow::Result<Doors> {
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
    Ok(Doors { local, metrics })
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

impl Doors {
    /// Begins to answer. Not before a data plane is attached: a reader would see its counters go back to zero.
    ///
    /// # Errors
    /// The metrics contradict each other.
    pub fn serve(self, view: &Arc<View>, requests: &mpsc::Sender<Request>) -> anyhow::Result<Servers> {
        let registry = metrics::registry(view.clone()).context("describing the metrics")?;
        let page = Router::new().route("/metrics", get(metrics_page)).with_state(registry);
        let all = page.clone().route("/v1/status", get(status).with_state(view.clone())).merge(peers::routes(requests.clone()));
        // The tasks end when the set is dropped.
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let _ = axum::serve(self.local, all).await;
        });
        if let Some(listener) = self.metrics {
            tracing::info!("metrics on http://{}/metrics", listener.local_addr().context("the metrics address")?);
            tasks.spawn(async move {
                let _ = axum::serve(listener, page).await;
            });
        }
        Ok(Servers { _tasks: tasks })
    }
}

async fn status(State(view): State<Arc<View>>) -> Json<types::Status> {
    Json(view.status())
}

async fn metrics_page(State(registry): State<Registry>) -> Response {
    match metrics::page(&registry) {
        Ok(page) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
