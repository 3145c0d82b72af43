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
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use adit_proto::relay::{PeerKey, RoomName};
use anyhow::{Context, anyhow};
use rustls::AlertDescription;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::config::Config;
use crate::dice::dice;
use crate::drain;
use crate::entrance::{Admitted, Entrance, Place, is_shortage};
use crate::grants::{self, Grants};
use crate::http;
use crate::lobby::Lobby;
use crate::login::{EXPORTER_LABEL, Exporter};
use crate::quotas::{Door, TurnedAway};
use crate::reach::{self, Reach};
use crate::session;
use crate::shared::{Fixed, Live, Phase, Shared};
use crate::tally::{Tally, Why};
use crate::tls;

/// How long we wait when the kernel gives no connection (no descriptors or memory left).
const PAUSE: Duration = Duration::from_millis(200);
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// How much may wait in a socket to be sent, in bytes, before we write no more: what is urgent comes behind no more than that.
const NOT_SENT_BYTES: u32 = 32 << 10;
/// After so long without an answer of the other end's kernel a connection has broken. What nothing is sent on is pinged.
const UNANSWERED: Duration = Duration::from_secs(60);
/// The first byte of every connection of TLS: a record of its handshake (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 22;

/// How many of those who were closed by a reload are named in the log.
const REVOKED_TOLD: usize = 10;

/// A relay that listens and does not answer yet.
pub struct Server {
    shared: Arc<Shared>,
    listeners: Vec<TcpListener>,
    pages: Option<TcpListener>,
}

/// Changes what may change while the relay runs.
#[derive(Clone)]
pub struct Reloader(Arc<Shared>);

/// What became of a changed configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// Clients that may not be in one of their rooms any more, and were closed.
    pub revoked: usize,
    /// Keys of the file that have changed and hold with the next start.
    pub later: Vec<&'static str>,
}

fn acceptor(config: &Config) -> anyhow::Result<TlsAcceptor> {
    Ok(TlsAcceptor::from(tls::server(&config.credentials).context("the certificate cannot be used")?))
}

/// The two parts of a configuration: what may change, and what may not.
fn parts(config: Config, tls: TlsAcceptor) -> (Live, Fixed) {
    let Config { listen, credentials: _, access, pages, door, strangers, login_within, hall, drain, reach, files: _ } = config;
    let pages_listen = pages.as_ref().and_then(|pages| pages.listen);
    let live = Live { tls, access, pages_token: pages.map(|pages| pages.token), drain };
    (live, Fixed { listen, pages_listen, door, strangers, login_within, hall, reach })
}

/// STUN and TURN, as far as they are to be served, and what clients are told of them.
fn reach(config: &Config, lobby: &Arc<Lobby>) -> anyhow::Result<(Option<Reach>, Grants)> {
    let secret = grants::secret()?;
    let settings = match &config.reach {
        Some(reach) => reach.settings(lobby.clone(), &config.credentials, &secret)?,
        None => None,
    };
    let reach = settings.map(reach::start).transpose()?;
    for (transport, at) in reach.iter().flat_map(Reach::turn) {
        tracing::info!("TURN at {at} by {transport}, and STUN");
    }
    let grants = Grants::new(reach.as_ref(), config.reach.as_ref(), secret);
    Ok((reach, grants))
}

impl Reloader {
    /// From now on it is so: rooms with their keys and tokens, certificate and key, those of TURN as well, the token of the pages,
    /// and where clients go when the relay ends. Who is connected stays, but for those who may not be in their rooms any more.
    ///
    /// # Errors
    /// The certificate cannot be used; nothing has changed.
    pub fn reload(&self, config: Config) -> anyhow::Result<Reloaded> {
        let (rooms, pin) = (config.access.0.len(), config.credentials.pin);
        let tls = acceptor(&config)?;
        let turn_tls = tls::turn_server(&config.credentials).context("the certificate cannot be used")?;
        let (live, new) = parts(config, tls);
        let access = live.access.clone();
        *self.0.live.write().unwrap_or_else(PoisonError::into_inner) = live;
        self.0.reach.iter().for_each(|reach| reach.certify(&turn_tls));
        // Whoever logs in from here on is judged by the new one.
        let revoked = self.0.lobby.review(&access);
        let old = &self.0.fixed;
        let ((old_stun, old_turn), (new_stun, new_turn)) = (old.stun_and_turn(), new.stun_and_turn());
        let changes = [
            ("listen", old.listen != new.listen),
            ("pages.listen", old.pages_listen != new.pages_listen),
            ("idle_s", old.hall.idle != new.hall.idle),
            ("limits", old.limits() != new.limits()),
            ("stun", old_stun != new_stun),
            ("turn", old_turn != new_turn),
        ];
        let later: Vec<_> = changes.into_iter().filter_map(|(key, has_changed)| has_changed.then_some(key)).collect();
        let count = revoked.len();
        tracing::info!("reloaded: {rooms} rooms, pin {pin}; {count} clients may not be where they were, and were closed");
        revoked_lines(&revoked).iter().for_each(|line| tracing::info!("{line}"));
        if !later.is_empty() {
            tracing::warn!("{} will hold after a restart only", later.join(", "));
        }
        Ok(Reloaded { revoked: count, later })
    }
}

/// What the log says of those who were closed: of some each, and how many others there were.
fn revoked_lines(revoked: &[(PeerKey, Vec<RoomName>)]) -> Vec<String> {
    let line = |(key, rooms): &(PeerKey, Vec<RoomName>)| {
        let rooms = rooms.iter().map(RoomName::as_str).collect::<Vec<_>>().join(", ");
        format!("closed, since it may not be there any more: {key} in {rooms}")
    };
    let mut lines: Vec<String> = revoked.iter().take(REVOKED_TOLD).map(line).collect();
    let others = revoked.len() - lines.len();
    if others > 0 {
        lines.push(format!("and {others} others"));
    }
    lines
}

impl Reloader {
    /// How long it takes at the longest from being asked to end to the end.
    pub fn longest_end(&self) -> Duration {
        drain::longest(self.0.live().drain.within)
    }
}

impl Server {
    /// Opens the listeners.
    ///
    /// # Errors
    /// One cannot be opened.
    pub async fn bind(config: Config) -> anyhow::Result<Server> {
        let tls = acceptor(&config)?;
        let listeners = config.listen.iter().map(|address| listen("listen", *address)).collect::<anyhow::Result<Vec<_>>>()?;
        let pages = config.pages.as_ref().and_then(|pages| pages.listen);
        if let Some(address) = pages.filter(|address| !address.ip().is_loopback()) {
            tracing::warn!("pages.listen {address} is reached from elsewhere, and the token of the pages is not encrypted there");
        }
        let pages = pages.map(|address| listen("pages.listen", address)).transpose()?;
        let (rooms, pin) = (config.access.0.len(), config.credentials.pin);
        let lobby = Arc::new(Lobby::new(config.hall));
        let (reach, grants) = reach(&config, &lobby)?;
        let (live, fixed) = parts(config, tls);
        let door = Door::new(fixed.door, Instant::now(), &mut dice);
        let shared = Shared {
            entrance: Arc::new(Entrance::new(door, fixed.strangers)),
            lobby,
            reach,
            grants,
            live: RwLock::new(live),
            fixed,
            tally: Tally::new(&mut dice),
            phase: watch::Sender::new(Phase::Open),
            started: Instant::now(),
        };
        let server = Server { shared: Arc::new(shared), listeners, pages };
        for address in server.addresses() {
            tracing::info!("relay at {address}: {rooms} rooms, pin {pin}");
        }
        if let Some(address) = server.pages_address() {
            tracing::info!("pages without TLS at {address}");
        }
        Ok(server)
    }

    /// By what it is changed while it runs.
    pub fn reloader(&self) -> Reloader {
        Reloader(self.shared.clone())
    }

    /// Whether it still does its work is seen by that this comes back.
    pub fn liveness_check(&self) -> impl Fn() + Send + 'static {
        let shared = self.shared.clone();
        move || {
            let _ = (shared.entrance.counts(), shared.lobby.pause(), shared.reach.as_ref().map(Reach::counters));
        }
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

    /// Answers until it is asked to end, and all clients have been told and have gone, or had the time to; or until it is to end at
    /// once.
    pub async fn run(self, end: impl Future<Output = ()>, at_once: impl Future<Output = ()>) {
        // Each connection holds one end: when none is left, all are gone.
        let (alive, mut gone) = mpsc::channel::<()>(1);
        let mut tasks = JoinSet::new();
        for listener in self.listeners {
            tasks.spawn(accept(self.shared.clone(), listener, alive.clone()));
        }
        if let Some(listener) = self.pages {
            tasks.spawn(http::serve_plain(self.shared.clone(), listener));
        }
        tasks.spawn(drive(self.shared.lobby.clone()));
        drop(alive);
        end.await;
        tokio::select! {
            () = drain::drain(&self.shared, &mut gone) => {}
            () = at_once => tracing::info!("ended at once, as it was asked to again"),
        }
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
        // A restart need not wait for old connections to time out: those that are open are in nobody's way either.
        socket.set_reuse_address(true)?;
        // These go on until the end, also beside the next relay. Clients come to one alone: two would halve each room.
        socket.set_reuse_port(key == "pages.listen")?;
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
                if is_shortage(&error) {
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Lets somebody in as a stranger, in a task of his own, or closes the door.
fn admit(shared: &Arc<Shared>, stream: TcpStream, from: SocketAddr, alive: mpsc::Sender<()>) {
    let from = SocketAddr::new(from.ip().to_canonical(), from.port());
    let begin = |stream, place| {
        let shared = shared.clone();
        let task = tokio::spawn(async move {
            connection(&shared, place, stream, from).await;
            drop(alive);
        });
        task.abort_handle()
    };
    match shared.entrance.admit(from.ip(), stream, begin) {
        Ok(Admitted::WithRoom) => {}
        Ok(Admitted::InsteadOfAnother) => shared.tally.refuse(Why::PushedOut),
        Err((turned, stream)) => {
            shared.tally.refuse(Why::Turned(turned));
            shared.tell(from, format_args!("turned away at the door: {} ({})", too_many(turned), turned.key()));
            // At once, and without leaving a port in TIME_WAIT.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
    }
}

const fn too_many(turned: TurnedAway) -> &'static str {
    match turned {
        TurnedAway::Connections => "there are as many connections as there may be",
        TurnedAway::ConnectionsOfAddress => "its address has as many connections as it may have",
        TurnedAway::ConnectionsOfNetwork => "its network has as many connections as it may have",
        TurnedAway::Handshakes => "there are more handshakes in a second than there may be",
        TurnedAway::HandshakesOfNetwork => "its network begins more handshakes in a second than it may",
    }
}

async fn connection(shared: &Arc<Shared>, place: Place, stream: TcpStream, from: SocketAddr) {
    let mut phase = shared.phase.subscribe();
    let within = shared.fixed.login_within;
    let opened = async {
        let opened = timeout(within, open(shared, place, stream, from)).await;
        opened.unwrap_or_else(|_| {
            shared.tally.refuse(Why::Late);
            shared.tell(from, format_args!("neither TLS nor a login came in {} s (limits.login_s)", within.as_secs()));
            None
        })
    };
    let opened = pin!(opened);
    let opened = tokio::select! {
        opened = opened => opened,
        // Nobody is let in any more, so it need not be waited for him.
        _ = phase.wait_for(|phase| *phase != Phase::Open) => None,
    };
    if let Some(opened) = opened {
        session::run(shared, opened).await;
    }
}

/// From the first byte to a login that holds.
async fn open(shared: &Arc<Shared>, place: Place, stream: TcpStream, from: SocketAddr) -> Option<http::Opened> {
    let socket = SockRef::from(&stream);
    // Without these it is slower, or a connection that has broken is seen later, and nothing else.
    let _ = (socket.set_tcp_nodelay(true), socket.set_tcp_notsent_lowat(NOT_SENT_BYTES));
    let _ = socket.set_tcp_user_timeout(Some(UNANSWERED));
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(1..) if first[0] != TLS_HANDSHAKE => {
            shared.tally.refuse(Why::NotTls);
            shared.tell(from, format_args!("what it says first is not TLS"));
            return None;
        }
        Ok(0) | Err(_) => {
            shared.tally.refuse(Why::TlsFailed);
            tracing::debug!("{from}: closed before a byte came");
            return None;
        }
        Ok(_) => {}
    }
    let tls = shared.live().tls.clone();
    let stream = match tls.accept(stream).await {
        Ok(stream) => stream,
        Err(error) => {
            shared.tally.refuse(why(&error));
            shared.tell(from, format_args!("no TLS: {}", in_words(&error)));
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

/// Why there is no TLS; what a client says by an alert, as what it means here.
fn in_words(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(AlertDescription::CertificateUnknown | AlertDescription::UnknownCA)) => {
            "the client does not take this relay's key: its pin or CA".to_owned()
        }
        Some(rustls::Error::AlertReceived(AlertDescription::BadCertificate | AlertDescription::CertificateExpired)) => {
            "the client does not take this relay's certificate: the name, the dates, or the clock of the client".to_owned()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_has_against_the_key_is_said_in_words() {
        let of = |alert| in_words(&io::Error::other(rustls::Error::AlertReceived(alert)));
        assert_eq!(of(AlertDescription::CertificateUnknown), "the client does not take this relay's key: its pin or CA");
        assert!(of(AlertDescription::UnknownCA).contains("its pin or CA"));
        assert!(of(AlertDescription::CertificateExpired).contains("dates"));
        assert!(of(AlertDescription::InternalError).contains("InternalError"));
    }

    #[test]
    fn of_those_who_were_closed_ten_are_named_and_the_others_counted() {
        let one = |number: u8| (PeerKey([number; 32]), vec!["lab".parse().unwrap(), "yard".parse().unwrap()]);
        let all: Vec<_> = (0..12).map(one).collect();
        let lines = revoked_lines(&all);
        assert_eq!(lines.len(), 11);
        assert!(lines[0].contains(&PeerKey([0; 32]).to_string()) && lines[0].ends_with(" in lab, yard"), "{lines:?}");
        assert_eq!(lines[10], "and 2 others");
        assert_eq!(revoked_lines(&all[..10]).len(), 10);
        assert!(revoked_lines(&[]).is_empty());
    }
}
