//! The server: listeners, and for each connection one task that goes through TLS and login to its session, or ends with a reason
//! that is counted.
//!
//! ```text
//!  accept ─▶ door ─▶ TLS 1.3 ─▶ HTTP ─▶ login ─▶ hall ─▶ session
//!             └ share of the network, of all; a stranger has five seconds
//! ```
//! What a stranger gets is a handshake and one word.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::config::Config;
use crate::drain;
use crate::entrance::{Admitted, Entrance, Place};
use crate::grants::{self, Grants};
use crate::http;
use crate::lobby::{Lobby, dice};
use crate::login::{EXPORTER_LABEL, Exporter};
use crate::quotas::Door;
use crate::reach::{self, Reach};
use crate::session;
use crate::shared::{Phase, Shared};
use crate::tally::{Tally, Why};
use crate::tls;

/// How long we wait when the kernel gives no connection (no descriptors left).
const PAUSE: Duration = Duration::from_millis(200);
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// How much may wait in a socket to be sent, in bytes, before we write no more: what is urgent comes behind no more than that.
const NOT_SENT_BYTES: u32 = 32 << 10;
/// The first byte of every connection of TLS: a record of its handshake (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 22;

/// A relay that listens and does not answer yet.
pub struct Server {
    shared: Arc<Shared>,
    tls: TlsAcceptor,
    listeners: Vec<TcpListener>,
    pages: Option<TcpListener>,
}

impl Server {
    /// Opens the listeners.
    ///
    /// # Errors
    /// One cannot be opened.
    pub async fn bind(config: Config) -> anyhow::Result<Server> {
        let tls = TlsAcceptor::from(tls::server(&config.credentials).context("the certificate cannot be used")?);
        let listeners = config.listen.iter().map(|address| listen("listen", *address)).collect::<anyhow::Result<Vec<_>>>()?;
        let pages = config.pages.as_ref().and_then(|pages| pages.listen);
        let pages = pages.map(|address| listen("pages.listen", address)).transpose()?;
        for listener in &listeners {
            let (address, rooms, pin) = (listener.local_addr()?, config.access.0.len(), config.credentials.pin);
            tracing::info!("relay at {address}: {rooms} rooms, pin {pin}");
        }
        let lobby = Arc::new(Lobby::new(config.hall));
        let secret = grants::secret();
        let settings = match &config.reach {
            Some(reach) => reach.settings(lobby.clone(), &config.credentials, &secret)?,
            None => None,
        };
        let reach = settings.map(reach::start).transpose()?;
        for (transport, at) in reach.iter().flat_map(|reach| reach.turn()) {
            tracing::info!("TURN at {at} by {transport}, and STUN");
        }
        let grants = Grants::new(reach.as_ref(), config.reach.as_ref(), secret);
        let door = Door::new(config.door, Instant::now(), &mut dice);
        let shared = Shared {
            entrance: Arc::new(Entrance::new(door, config.strangers)),
            lobby,
            reach,
            grants,
            access: config.access,
            pages_token: config.pages.map(|pages| pages.token),
            tally: Tally::default(),
            idle: config.hall.idle,
            handshakes_per_s: config.door.handshakes_per_s,
            login_within: config.login_within,
            drain: config.drain,
            phase: watch::Sender::new(Phase::Open),
            started: Instant::now(),
        };
        Ok(Server { shared: Arc::new(shared), tls, listeners, pages })
    }

    /// Where clients reach it.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Where the pages are without TLS.
    pub fn pages_address(&self) -> Option<SocketAddr> {
        self.pages.as_ref()?.local_addr().ok()
    }

    /// STUN and TURN, where they are served.
    pub fn reach(&self) -> Option<&Reach> {
        self.shared.reach.as_ref()
    }

    /// Answers until it is asked to end, and all clients have been told and have gone, or had the time to.
    pub async fn run(self, end: impl Future<Output = ()>) {
        // Each connection holds one end: when none is left, all are gone.
        let (alive, mut gone) = mpsc::channel::<()>(1);
        let mut tasks = JoinSet::new();
        for listener in self.listeners {
            tasks.spawn(accept(self.shared.clone(), self.tls.clone(), listener, alive.clone()));
        }
        if let Some(listener) = self.pages {
            tasks.spawn(http::serve_plain(self.shared.clone(), listener));
        }
        tasks.spawn(drive(self.shared.lobby.clone()));
        drop(alive);
        end.await;
        self.shared.reach.iter().for_each(Reach::drain);
        drain::drain(&self.shared, &mut gone).await;
        tasks.shutdown().await;
    }
}

/// The hall's own clock.
async fn drive(lobby: Arc<Lobby>) {
    loop {
        let pause = lobby.pause();
        tokio::select! {
            () = sleep(pause) => lobby.tick(),
            () = lobby.sooner() => {}
        }
    }
}

/// A socket on [::] takes IPv4, too, whatever the machine's default is.
fn listen(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let open = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        // A restart need not wait for old connections to time out.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    open().map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => "stop what uses it (ss -ltnp), or write another port".to_owned(),
            io::ErrorKind::PermissionDenied => {
                format!("ports below 1024 need CAP_NET_BIND_SERVICE, which the service has; or write `{key}` with a port above")
            }
            io::ErrorKind::AddrNotAvailable => {
                format!("no interface has this address: write `{key}: \"[::]:{}\"`", address.port())
            }
            _ => format!("write another `{key}`"),
        };
        anyhow!("{key} {address} cannot be opened: {error}. {remedy}")
    })
}

async fn accept(shared: Arc<Shared>, tls: TlsAcceptor, listener: TcpListener, alive: mpsc::Sender<()>) {
    let mut phase = shared.phase.subscribe();
    let mut is_told = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Whoever comes now is to find the next relay, not this one.
            _ = phase.wait_for(|phase| *phase != Phase::Open) => return,
        };
        match accepted {
            Ok((stream, from)) => {
                is_told = false;
                shared.tally.accepted();
                admit(&shared, &tls, stream, from, alive.clone());
            }
            Err(error) => {
                if !std::mem::replace(&mut is_told, true) {
                    tracing::warn!("no connection could be accepted, and it is tried again: {error}");
                }
                sleep(PAUSE).await;
            }
        }
    }
}

/// Lets somebody in as a stranger, in a task of its own, or closes the door.
fn admit(shared: &Arc<Shared>, tls: &TlsAcceptor, stream: TcpStream, from: SocketAddr, alive: mpsc::Sender<()>) {
    let from = SocketAddr::new(from.ip().to_canonical(), from.port());
    let begin = |stream, place| {
        let (shared, tls) = (shared.clone(), tls.clone());
        let task = tokio::spawn(async move {
            connection(&shared, &tls, place, stream, from).await;
            drop(alive);
        });
        task.abort_handle()
    };
    match shared.entrance.admit(from.ip(), stream, begin) {
        Ok(Admitted::WithRoom) => {}
        Ok(Admitted::InsteadOfAnother) => shared.tally.refuse(Why::PushedOut),
        Err((turned, stream)) => {
            shared.tally.refuse(Why::Turned(turned));
            // At once, and without leaving a port in TIME_WAIT.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
    }
}

async fn connection(shared: &Arc<Shared>, tls: &TlsAcceptor, place: Place, stream: TcpStream, from: SocketAddr) {
    let mut phase = shared.phase.subscribe();
    let opened = async {
        let opened = timeout(shared.login_within, open(shared, tls, place, stream, from)).await;
        opened.unwrap_or_else(|_| {
            shared.tally.refuse(Why::Late);
            None
        })
    };
    let opened = pin!(opened);
    let opened = tokio::select! {
        opened = opened => opened,
        _ = phase.wait_for(|phase| *phase == Phase::Closed) => None,
    };
    if let Some(opened) = opened {
        session::run(shared, opened).await;
    }
}

/// From the first byte to a login that holds.
async fn open(
    shared: &Arc<Shared>,
    tls: &TlsAcceptor,
    place: Place,
    stream: TcpStream,
    from: SocketAddr,
) -> Option<http::Opened> {
    let socket = SockRef::from(&stream);
    // Without these it is slower, and nothing else.
    let _ = (socket.set_tcp_nodelay(true), socket.set_tcp_notsent_lowat(NOT_SENT_BYTES));
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(1..) if first[0] != TLS_HANDSHAKE => {
            shared.tally.refuse(Why::NotTls);
            return None;
        }
        Ok(0) | Err(_) => {
            shared.tally.refuse(Why::TlsFailed);
            return None;
        }
        Ok(_) => {}
    }
    let stream = match tls.accept(stream).await {
        Ok(stream) => stream,
        Err(error) => {
            shared.tally.refuse(why(&error));
            tracing::debug!("{from}: no TLS: {error}");
            return None;
        }
    };
    let exporter: Option<Exporter> = stream.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, None).ok();
    let visit = http::Visit { shared: shared.clone(), from, exporter, place };
    visit.serve(stream).await
}

fn why(error: &io::Error) -> Why {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::PeerIncompatible(_)) => Why::TlsIncompatible,
        _ => Why::TlsFailed,
    }
}
