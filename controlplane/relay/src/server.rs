//! The server: listeners, and for each connection one task that goes through TLS and login to its session, or ends with a reason that is
//! counted.
//!
//! ```text
//!  accept ─▶ door ─▶ TLS 1.3 ─▶ HTTP ─▶ login ─▶ hall ─▶ session
//!             └ share of the network, of all; a stranger has five seconds
//! ```
//! What a stranger gets is a handshake and one word.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use adit_proto::relay::PeerKey;
use anyhow::{Context, anyhow};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::config::{Config, Drain};
use crate::drain::{self, Phase};
use crate::http;
use crate::lobby::{Lobby, dice};
use crate::login::{Access, EXPORTER_LABEL, Exporter, Refusal, Token};
use crate::metrics::{Tally, Why};
use crate::quotas::Door;
use crate::session;
use crate::tls;

/// How long we wait when the kernel gives no connection (no descriptors left).
const PAUSE: Duration = Duration::from_millis(200);
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// How much may wait in a socket to be sent, in bytes, before we write no more: what is urgent comes behind no more than that.
const NOT_SENT_BYTES: u32 = 32 << 10;
/// The first byte of every connection of TLS: a record of its handshake (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 22;

/// What all connections share.
pub(crate) struct Shared {
    pub lobby: Arc<Lobby>,
    pub access: Access,
    pub pages_token: Option<Token>,
    pub tally: Tally,
    pub idle: Duration,
    pub handshakes_per_s: u32,
    /// Between a connection and its login may lie so long.
    pub login_within: Duration,
    strangers: usize,
    pub drain: Drain,
    pub phase: watch::Sender<Phase>,
    pub started: Instant,
    tls: TlsAcceptor,
    door: Mutex<DoorKeeper>,
}

/// One connection, in the order in which they came.
type Visitor = u64;

/// The door, and those who have come through it and have not logged in. There are only so many of them: when one more comes, the one goes
/// who has been there longest. Whoever is honest needs a fraction of a second.
struct DoorKeeper {
    door: Door,
    next: Visitor,
    strangers: BTreeMap<Visitor, AbortHandle>,
}

impl Shared {
    /// What is inside is whole at every panic.
    fn door(&self) -> MutexGuard<'_, DoorKeeper> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many connections there are, and how many of them have not logged in.
    pub fn connections(&self) -> (usize, usize) {
        let keeper = self.door();
        (keeper.door.open(), keeper.strangers.len())
    }
}

/// A place inside, among the strangers and after the login among the clients; given back when it is dropped.
pub(crate) struct Place {
    shared: Arc<Shared>,
    visitor: Visitor,
    from: IpAddr,
}

impl Place {
    /// Who has it has proven this key.
    ///
    /// # Errors
    /// He has lost his place meanwhile, or comes too often.
    pub fn log_in(&self, key: &PeerKey) -> Result<(), Refusal> {
        let mut keeper = self.shared.door();
        keeper.strangers.remove(&self.visitor).ok_or(Refusal::Full)?;
        keeper.door.log_in(Instant::now(), key).map_err(|_| Refusal::ReplacedWait)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut keeper = self.shared.door();
        keeper.strangers.remove(&self.visitor);
        keeper.door.left(self.from);
    }
}

/// A relay that listens and does not answer yet.
pub struct Server {
    shared: Arc<Shared>,
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
        let door = Door::new(config.door, Instant::now(), &mut dice);
        let shared = Shared {
            lobby: Arc::new(Lobby::new(config.hall)),
            access: config.access,
            pages_token: config.pages.map(|pages| pages.token),
            tally: Tally::default(),
            idle: config.hall.idle,
            handshakes_per_s: config.door.handshakes_per_s,
            login_within: config.login_within,
            strangers: config.strangers,
            drain: config.drain,
            phase: watch::Sender::new(Phase::Open),
            started: Instant::now(),
            tls,
            door: Mutex::new(DoorKeeper { door, next: 0, strangers: BTreeMap::new() }),
        };
        Ok(Server { shared: Arc::new(shared), listeners, pages })
    }

    /// Where clients reach it.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Where the pages are without TLS.
    pub fn pages_address(&self) -> Option<SocketAddr> {
        self.pages.as_ref()?.local_addr().ok()
    }

    /// Answers until it is asked to end, and all clients have been told and have gone, or had the time to.
    pub async fn run(self, end: impl Future<Output = ()>) {
        // Each connection holds one end: when none is left, all are gone.
        let (alive, mut gone) = mpsc::channel::<()>(1);
        let mut tasks = tokio::task::JoinSet::new();
        for listener in self.listeners {
            tasks.spawn(accept(self.shared.clone(), listener, alive.clone()));
        }
        if let Some(listener) = self.pages {
            tasks.spawn(http::serve_plain(self.shared.clone(), listener));
        }
        tasks.spawn(drive(self.shared.lobby.clone()));
        drop(alive);
        end.await;
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

async fn accept(shared: Arc<Shared>, listener: TcpListener, alive: mpsc::Sender<()>) {
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
                admit(&shared, stream, from, alive.clone());
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
fn admit(shared: &Arc<Shared>, stream: TcpStream, from: SocketAddr, alive: mpsc::Sender<()>) {
    let from = SocketAddr::new(from.ip().to_canonical(), from.port());
    let mut keeper = shared.door();
    if let Err(turned) = keeper.door.enter(Instant::now(), from.ip()) {
        shared.tally.refuse(Why::Turned(turned));
        // At once, and without leaving a port in TIME_WAIT.
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        return;
    }
    if keeper.strangers.len() >= shared.strangers
        && let Some((_, oldest)) = keeper.strangers.pop_first()
    {
        shared.tally.refuse(Why::PushedOut);
        oldest.abort();
    }
    let visitor = keeper.next;
    keeper.next += 1;
    let place = Place { shared: shared.clone(), visitor, from: from.ip() };
    let task = tokio::spawn(async move {
        connection(&place.shared.clone(), place, stream, from).await;
        drop(alive);
    });
    // The task cannot end before this: its place needs the lock that we hold.
    keeper.strangers.insert(visitor, task.abort_handle());
}

async fn connection(shared: &Arc<Shared>, place: Place, stream: TcpStream, from: SocketAddr) {
    let mut phase = shared.phase.subscribe();
    let opened = async {
        let opened = timeout(shared.login_within, open(shared, place, stream, from)).await;
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
async fn open(shared: &Arc<Shared>, place: Place, stream: TcpStream, from: SocketAddr) -> Option<http::Opened> {
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
    let stream = match shared.tls.accept(stream).await {
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
