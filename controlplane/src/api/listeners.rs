//! The sockets of the API: opened as the configuration says, and opened again when it says something else, when somebody has removed
//! the Unix socket, or when an address comes that was not there.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use axum::Router;
use rustix::fs::{Mode, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Routers, serve};
use crate::config::Config;
use crate::request::Request;
use crate::view::View;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// The sockets, and the tasks that answer at them. Until [`Listeners::serve`], whoever connects waits.
pub struct Listeners {
    routers: Routers,
    local: Unix,
    metrics: Tcp,
    remote: Tcp,
    serving: bool,
}

struct Unix {
    listener: Option<UnixListener>,
    /// Device and inode of its file.
    file: (u64, u64),
    tasks: JoinSet<()>,
}

/// A socket that may be there.
struct Tcp {
    /// The key of its address in the configuration.
    key: &'static str,
    address: Option<SocketAddr>,
    listener: Option<TcpListener>,
    tasks: JoinSet<()>,
    /// Why it could not be opened, once that was said.
    complaint: Option<String>,
}

impl Listeners {
    /// Opens the sockets of a gateway. An address that no interface has yet is waited for.
    ///
    /// # Errors
    /// Another address or path cannot be bound, or the metrics contradict each other.
    pub async fn open(view: &Arc<View>, requests: &mpsc::Sender<Request>) -> anyhow::Result<Listeners> {
        let config = &view.desired().config;
        let path = config.api_socket();
        if UnixStream::connect(&path).await.is_ok() {
            bail!("somebody answers at {} already: is another adit running?", path.display());
        }
        let local = Unix::open(&path)?;
        let (metrics, remote) = (Tcp::new("metrics.listen"), Tcp::new("api.listen"));
        let mut listeners = Listeners { routers: Routers::new(view, requests)?, local, metrics, remote, serving: false };
        for (tcp, address) in listeners.tcp(config) {
            if let Err(error) = tcp.open(address).await
                && error.kind() != io::ErrorKind::AddrNotAvailable
            {
                bail!("{}", tcp.cause(address, &error));
            }
        }
        Ok(listeners)
    }

    /// Begins to answer. Not before a data plane is attached or known to be absent: a reader would see its counters go back to zero.
    pub fn serve(&mut self) {
        self.serving = true;
        self.local.serve(&self.routers.local);
        self.metrics.serve(&self.routers.metrics);
        self.remote.serve(&self.routers.remote);
    }

    /// Brings the sockets to where the configuration wants them. What cannot be opened is said once, and given back.
    pub async fn keep(&mut self, config: &Config) -> Vec<String> {
        let path = config.api_socket();
        if self.local.is_gone(&path) {
            match Unix::open(&path) {
                Ok(local) => {
                    tracing::warn!("the API socket {} was removed, and is there again", path.display());
                    self.local = local;
                }
                // Where its directory cannot be used, whoever keeps that says so.
                Err(error) => tracing::debug!("{error:#}"),
            }
        }
        let mut problems = Vec::new();
        for (tcp, address) in self.tcp(config) {
            if tcp.address == address && (address.is_none() || tcp.is_open()) {
                continue;
            }
            if let Err(error) = tcp.open(address).await {
                let cause = tcp.cause(address, &error);
                if tcp.complaint.as_ref() != Some(&cause) {
                    tracing::warn!("{cause}. It is tried again");
                }
                tcp.complaint = Some(cause.clone());
                problems.push(cause);
            }
        }
        if self.serving {
            self.serve();
        }
        problems
    }

    fn tcp(&mut self, config: &Config) -> [(&mut Tcp, Option<SocketAddr>); 2] {
        let remote = config.api.as_ref().map(|api| api.listen);
        [(&mut self.metrics, config.metrics_listen), (&mut self.remote, remote)]
    }
}

impl Unix {
    fn open(path: &Path) -> anyhow::Result<Unix> {
        // What is left of a run that was killed. The lock on the directory says that nobody else uses it.
        let _ = std::fs::remove_file(path);
        let context = || format!("the API socket {} cannot be opened", path.display());
        let listener = listen(path).with_context(context)?;
        let file = file_id(path).with_context(context)?;
        Ok(Unix { listener: Some(listener), file, tasks: JoinSet::new() })
    }

    fn is_gone(&self, path: &Path) -> bool {
        file_id(path).map_or(true, |file| file != self.file)
    }

    fn serve(&mut self, router: &Router) {
        if let Some(listener) = self.listener.take() {
            let router = router.clone();
            self.tasks.spawn(async move {
                let _ = axum::serve(listener, router).await;
            });
        }
    }
}

impl Tcp {
    fn new(key: &'static str) -> Tcp {
        Tcp { key, address: None, listener: None, tasks: JoinSet::new(), complaint: None }
    }

    fn is_open(&self) -> bool {
        self.listener.is_some() || !self.tasks.is_empty()
    }

    /// Closes what is open and opens this address.
    async fn open(&mut self, address: Option<SocketAddr>) -> io::Result<()> {
        self.listener = None;
        self.tasks.shutdown().await;
        self.address = address;
        if let Some(address) = address {
            self.listener = Some(TcpListener::bind(address).await?);
            if self.complaint.take().is_some() {
                tracing::info!("{} {address} is open", self.key);
            }
        }
        Ok(())
    }

    fn cause(&self, address: Option<SocketAddr>, error: &io::Error) -> String {
        let (key, address) = (self.key, address.map_or_else(String::new, |address| address.to_string()));
        match error.kind() {
            io::ErrorKind::AddrNotAvailable => {
                format!("{key} {address} cannot be opened: no interface of this machine has the address. It is waited for")
            }
            _ => format!("{key} {address} cannot be opened ({error}): change {key}, or stop what uses it (ss -ltnp)"),
        }
    }

    fn serve(&mut self, router: &Router) {
        let Some(listener) = self.listener.take() else { return };
        if let Some(address) = self.address {
            if self.key == "metrics.listen" {
                tracing::info!("metrics on http://{address}/metrics");
            } else {
                tracing::info!("API on http://{address}/v1, for who has the token");
            }
            if self.key == "api.listen" && !address.ip().is_loopback() {
                tracing::warn!(
                    "api.listen {address}: what is sent there is not encrypted, the token included; put a proxy with TLS in front"
                );
            }
        }
        self.tasks.spawn(serve::serve(listener, router.clone()));
    }
}

fn file_id(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
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
