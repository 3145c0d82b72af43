//! STUN and TURN as one server with sockets: [`start`] it, read its counters, drop it.
//!
//! 1. [`start`] binds the sockets and gives a task to each of them: UDP in [`udp`](crate::udp), TURN over TCP and TLS in
//!    [`turn_stream`](crate::turn_stream).
//! 2. [`Reach`] shows addresses and counters. When it is dropped, everything ends.
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_engine::stun::server::{Place, Places};
use adit_engine::turn;
use tokio::task::JoinSet;

use crate::turn_stream::{self, Listener};
use crate::udp::{self, Shared, Socket};

pub use crate::udp::Knows;

/// What is started.
pub struct Settings {
    /// Where the sockets are bound, `[address][port]` as RFC 5780 has them; only the first must be there.
    pub bind: Places,
    /// As clients see them, where that differs: behind a NAT one to one.
    pub shown: Option<Places>,
    /// Whether strangers get what clients get.
    pub open: bool,
    pub knows: Knows,
    pub turn: Option<TurnSettings>,
}

/// TURN, which is served at all UDP sockets, and at these listeners.
pub struct TurnSettings {
    pub config: turn::Config,
    pub tcp: Vec<SocketAddr>,
    pub tls: Vec<SocketAddr>,
    /// For the listeners of `tls`.
    pub certificate: Option<Arc<rustls::ServerConfig>>,
}

/// Why it could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "cannot bind {at}: {cause}. Is another STUN or TURN server running there, or is the address not one of this machine?"
    )]
    Bind { at: SocketAddr, cause: io::Error },
    #[error(
        "{0} is no address that clients can be told: name the addresses of this machine one by one, or say how they are seen"
    )]
    Unspecified(SocketAddr),
    #[error("the first address with the first port is missing: without it there is no STUN server")]
    NoFirst,
    #[error("TURN over TLS is to listen at {0}, and there is no certificate for it")]
    NoCertificate(SocketAddr),
}

/// A running server. It ends when this is dropped.
pub struct Reach {
    shared: Arc<Shared>,
    tcp: Vec<SocketAddr>,
    tls: Vec<SocketAddr>,
    // Dropping it stops the tasks.
    _tasks: JoinSet<()>,
}

/// Binds everything and begins to serve. Within a tokio runtime.
pub async fn start(settings: Settings) -> Result<Reach, StartError> {
    let (mut sockets, mut bound): (Vec<(Place, Socket)>, Places) = (Vec::new(), Places::default());
    for (address, port) in [(0_u8, 0_u8), (0, 1), (1, 0), (1, 1)] {
        let Some(at) = settings.bind[usize::from(address)][usize::from(port)] else { continue };
        if at.ip().is_unspecified() && settings.shown.is_none() {
            return Err(StartError::Unspecified(at));
        }
        let open = || Socket::bind(at).and_then(|socket| Ok((socket.local_addr()?, socket)));
        let (local, socket) = open().map_err(|cause| StartError::Bind { at, cause })?;
        bound[usize::from(address)][usize::from(port)] = Some(local);
        sockets.push((Place { address, port }, socket));
    }
    let places = settings.shown.unwrap_or(bound);
    if bound[0][0].is_none() || places[0][0].is_none() {
        return Err(StartError::NoFirst);
    }
    let (mut config, mut listeners) = (None, Vec::new());
    if let Some(turn) = settings.turn {
        let plain = turn.tcp.iter().map(|at| (*at, None));
        let tls = turn.tls.iter().map(|at| (*at, Some(turn.certificate.clone().ok_or(StartError::NoCertificate(*at)))));
        for (at, certificate) in plain.chain(tls) {
            let certificate = certificate.transpose()?;
            listeners.push(Listener::bind(at, certificate).await.map_err(|cause| StartError::Bind { at, cause })?);
        }
        config = Some(turn.config);
    }
    let stun = adit_engine::stun::server::Config { places, open: settings.open };
    let shared = Shared::new(stun, config, sockets, settings.knows);
    Ok(serve(&shared, listeners))
}

fn serve(shared: &Arc<Shared>, listeners: Vec<Listener>) -> Reach {
    let mut tasks = JoinSet::new();
    for index in 0..shared.addresses().len() {
        tasks.spawn(udp::serve(shared.clone(), index));
    }
    let of = |with_tls: bool| listeners.iter().filter(|one| one.has_tls() == with_tls).filter_map(Listener::local_addr).collect();
    let (tcp, tls) = (of(false), of(true));
    for listener in listeners {
        tasks.spawn(turn_stream::serve(shared.clone(), listener));
    }
    let timed = shared.clone();
    tasks.spawn(async move {
        // Allocations live for minutes: a second more is none.
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tick.tick().await;
            udp::handle_timeout(&timed);
        }
    });
    Reach { shared: shared.clone(), tcp, tls, _tasks: tasks }
}

impl Reach {
    /// Where the UDP sockets are.
    pub fn udp(&self) -> Vec<SocketAddr> {
        self.shared.addresses()
    }

    /// Where TURN is served over TCP, and over TLS.
    pub fn tcp(&self) -> &[SocketAddr] {
        &self.tcp
    }

    /// Where TURN is served over TLS.
    pub fn tls(&self) -> &[SocketAddr] {
        &self.tls
    }

    /// Allocations that live.
    pub fn allocations(&self) -> usize {
        self.shared.allocations()
    }

    /// All counters: who counts, what, and how much.
    pub fn counters(&self) -> Vec<(&'static str, &'static str, u64)> {
        self.shared.counters()
    }
}

impl Drop for Reach {
    fn drop(&mut self) {
        self.shared.close_all();
    }
}
