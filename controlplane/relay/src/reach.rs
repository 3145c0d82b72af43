//! STUN and TURN as one server with sockets: [`start`] it, read its counters, drop it.
//!
//! 1. [`start`] binds the sockets and gives a task to each of them: UDP in [`udp`](crate::udp), TURN over TCP and TLS in
//!    [`turn_stream`](crate::turn_stream). A task that ends by a fault of the program is counted and begun anew.
//! 2. [`Reach`] shows addresses and counters. When it is dropped, everything ends.
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use adit_engine::stun::server::{Place, Places};
use adit_engine::turn;
use adit_proto::relay::Transport;
use futures::FutureExt;
use nix::ifaddrs::getifaddrs;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};

use crate::turn_stream::{self, Listener};
use crate::udp::{self, Bound, Own, Shared, Socket};

pub use crate::udp::Clients;

/// Rest before a task is begun anew.
const REST: Duration = Duration::from_millis(100);

/// What is started.
pub struct Settings {
    /// The addresses of one IP version each.
    pub sites: Vec<Site>,
    /// Whether strangers get what clients get.
    pub open: bool,
    pub clients: Arc<dyn Clients>,
    pub turn: Option<TurnSettings>,
}

/// The sockets of one IP version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// Where they are bound, `[address][port]` as RFC 5780 has them; only the first must be there.
    pub bind: Places,
    /// The addresses as clients see them, where that differs: behind a NAT one to one.
    pub shown: [Option<IpAddr>; 2],
}

/// TURN, which is served at all UDP sockets, and at these listeners.
pub struct TurnSettings {
    pub config: turn::Config,
    pub tcp: Vec<SocketAddr>,
    pub tls: Vec<SocketAddr>,
    /// For the listeners of `tls`.
    pub certificate: Option<Arc<rustls::ServerConfig>>,
    /// A connection without an allocation ends after so long.
    pub idle: Duration,
}

/// Why it could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "cannot bind {at}: {cause}. Is another STUN or TURN server running there (ss -lnp), or is the address not one of this machine?"
    )]
    Bind { at: SocketAddr, cause: io::Error },
    #[error(
        "{0} is all addresses of this machine, and answers would leave from whichever the kernel chooses: name them one by one"
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
    /// By what TURN is spoken where, as clients see it, and where STUN is.
    turn: Vec<(Transport, SocketAddr)>,
    stun: Vec<SocketAddr>,
    tcp: Vec<SocketAddr>,
    tls: Vec<SocketAddr>,
    listeners: Vec<Arc<Listener>>,
    // Dropping it stops the tasks.
    _tasks: JoinSet<()>,
}

/// The addresses as clients see them.
fn outer(site: &Site, bound: &Places) -> Places {
    let mut places = *bound;
    for (places, shown) in places.iter_mut().zip(site.shown) {
        for place in places.iter_mut().flatten() {
            place.set_ip(shown.unwrap_or(place.ip()));
        }
    }
    places
}

/// Binds the sockets of one IP version.
fn bind(server: usize, site: &Site) -> Result<(Vec<Bound>, Places), StartError> {
    let (mut sockets, mut bound) = (Vec::new(), Places::default());
    for (address, port) in [(0_u8, 0_u8), (0, 1), (1, 0), (1, 1)] {
        let Some(mut at) = site.bind[usize::from(address)][usize::from(port)] else { continue };
        if at.ip().is_unspecified() {
            return Err(StartError::Unspecified(at));
        }
        // RFC 5780 §6: both addresses have the same two ports, which is seen to here where the system chooses them.
        if let (1, 0, Some(first)) = (address, at.port(), bound[0][usize::from(port)]) {
            at.set_port(first.port());
        }
        let open = || Socket::bind(at).and_then(|socket| Ok((socket.local_addr()?, socket)));
        let (local, socket) = open().map_err(|cause| StartError::Bind { at, cause })?;
        bound[usize::from(address)][usize::from(port)] = Some(local);
        sockets.push(Bound { server, place: Place { address, port }, socket });
    }
    if bound[0][0].is_none() { Err(StartError::NoFirst) } else { Ok((sockets, bound)) }
}

/// Binds everything and begins to serve. Within a tokio runtime.
///
/// # Errors
/// See [`StartError`].
pub fn start(settings: Settings) -> Result<Reach, StartError> {
    let (mut sockets, mut servers, mut places) = (Vec::new(), Vec::new(), Vec::new());
    for (server, site) in settings.sites.iter().enumerate() {
        let (bound, at) = bind(server, site)?;
        sockets.extend(bound);
        let outer = outer(site, &at);
        servers.push(adit_engine::stun::server::Config { places: outer, open: settings.open });
        places.extend([at, outer]);
    }
    if servers.is_empty() {
        return Err(StartError::NoFirst);
    }
    let stun: Vec<SocketAddr> = servers.iter().filter_map(|server| server.places[0][0]).collect();
    let (mut config, mut listeners, mut turn_at) = (None, Vec::new(), Vec::new());
    let idle = settings.turn.as_ref().map_or(Duration::ZERO, |turn| turn.idle);
    if let Some(turn) = settings.turn {
        turn_at.extend(stun.iter().map(|at| (Transport::UDP, *at)));
        let plain = turn.tcp.iter().map(|at| (*at, None));
        let tls = turn.tls.iter().map(|at| (*at, Some(turn.certificate.clone().ok_or(StartError::NoCertificate(*at)))));
        for (at, certificate) in plain.chain(tls) {
            if at.ip().is_unspecified() {
                return Err(StartError::Unspecified(at));
            }
            let listener = Listener::bind(at, certificate.transpose()?).map_err(|cause| StartError::Bind { at, cause })?;
            let port = listener.local_addr().map_or(at.port(), |local| local.port());
            let transport = if listener.has_tls() { Transport::TLS } else { Transport::TCP };
            turn_at.push((transport, SocketAddr::new(shown(&settings.sites, at.ip()), port)));
            listeners.push(Arc::new(listener));
        }
        let mut own = turn.config;
        own.allowed.own.extend(places.iter().flatten().flatten().flatten().map(SocketAddr::ip));
        own.allowed.own.extend(addresses_of_machine());
        config = Some(own);
    }
    let shared = Shared::new(servers, config, sockets, settings.clients, idle);
    Ok(serve(&shared, listeners, stun, turn_at))
}

/// An address of this machine as clients see it.
fn shown(sites: &[Site], ip: IpAddr) -> IpAddr {
    let all = sites.iter().flat_map(|site| site.bind.iter().zip(site.shown));
    let mut found = all.filter(|(places, _)| places.iter().flatten().any(|place| place.ip() == ip));
    found.find_map(|(_, shown)| shown).unwrap_or(ip)
}

/// All addresses of this machine but those of loopback, which are reached only where somebody has allowed it.
fn addresses_of_machine() -> Vec<IpAddr> {
    let found = getifaddrs().inspect_err(|error| {
        tracing::warn!(
            "the addresses of this machine cannot be read ({error}): what listens at public ones that `stun` does not name is reached by \
             clients of TURN; name them in `turn.deny`"
        );
    });
    let all = found.into_iter().flatten().filter_map(|one| one.address);
    let ips = all.filter_map(|address| {
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::from(address.ip())))
    });
    ips.filter(|ip| !ip.is_loopback()).collect()
}

/// Runs a task for ever.
async fn keep<T: Future<Output = ()>>(shared: Arc<Shared>, mut begin: impl FnMut() -> T) {
    while AssertUnwindSafe(begin()).catch_unwind().await.is_err() {
        // What it has left is whole: the states are behind locks, and each is checked with every packet.
        shared.count(Own::Panics);
        sleep(REST).await;
    }
}

fn serve(
    shared: &Arc<Shared>,
    listeners: Vec<Arc<Listener>>,
    stun: Vec<SocketAddr>,
    turn: Vec<(Transport, SocketAddr)>,
) -> Reach {
    let mut tasks = JoinSet::new();
    for index in 0..shared.addresses().len() {
        let owned = shared.clone();
        tasks.spawn(keep(shared.clone(), move || udp::serve(owned.clone(), index)));
    }
    let of =
        |with_tls: bool| listeners.iter().filter(|one| one.has_tls() == with_tls).filter_map(|one| one.local_addr()).collect();
    let (tcp, tls) = (of(false), of(true));
    for listener in listeners.clone() {
        let owned = shared.clone();
        tasks.spawn(keep(shared.clone(), move || turn_stream::serve(owned.clone(), listener.clone())));
    }
    let timed = shared.clone();
    tasks.spawn(keep(shared.clone(), move || tick(timed.clone())));
    Reach { shared: shared.clone(), turn, stun, tcp, tls, listeners, _tasks: tasks }
}

async fn tick(shared: Arc<Shared>) {
    // Allocations live for minutes: a second more is none.
    let mut tick = interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        udp::handle_timeout(&shared);
    }
}

impl Reach {
    /// Where the UDP sockets are.
    pub fn udp(&self) -> Vec<SocketAddr> {
        self.shared.addresses()
    }

    /// Where TURN is served over TCP.
    pub fn tcp(&self) -> &[SocketAddr] {
        &self.tcp
    }

    /// Where TURN is served over TLS.
    pub fn tls(&self) -> &[SocketAddr] {
        &self.tls
    }

    /// Where clients find STUN.
    pub fn stun(&self) -> &[SocketAddr] {
        &self.stun
    }

    /// Where clients find TURN, and what they speak there.
    pub fn turn(&self) -> &[(Transport, SocketAddr)] {
        &self.turn
    }

    /// Allocations that live.
    pub fn allocations(&self) -> usize {
        self.shared.allocations()
    }

    /// Connections of TURN that are open.
    pub fn streams(&self) -> usize {
        self.shared.streams.open()
    }

    /// Whoever comes to TURN over TLS from now on is shown this certificate. Connections go on.
    pub fn certify(&self, certificate: &Arc<rustls::ServerConfig>) {
        self.listeners.iter().for_each(|listener| listener.certify(certificate));
    }

    /// From now on nobody is lent an address; what is lent is lent until it ends.
    pub fn drain(&self) {
        self.shared.drain();
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
