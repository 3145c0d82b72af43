//! The shell around the engine: two sockets, a clock, and a data plane that does what the events say.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use adit_bench::lab::interop::sites::LINK;
use adit_bench::netns::Netns;
use adit_engine::ike::{BootClock, Endpoint, EndpointConfig, Event, Now, PeerConfig, PeerId, PeerStatus};
use adit_engine::path::{Arrival, IKE_PORT};
use adit_proto::demux::{Kind, classify};
use anyhow::{Context, Result, anyhow};

use super::esp::DataPlane;

/// The only peer.
pub const PEER: PeerId = PeerId(1);
pub const NAT_PORT: u16 = 4500;
/// Another address of the gateway, which it can move to.
pub const OTHER_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 101);
/// How often the clock is looked at, and the data plane's counters.
const TICK: Duration = Duration::from_millis(10);

/// A gateway with one peer, in a namespace; gone on drop, without a word to the peer.
pub struct Gateway {
    inside: Arc<Inside>,
    threads: Vec<JoinHandle<()>>,
}

struct Inside {
    sockets: Vec<UdpSocket>,
    view: Mutex<View>,
    changed: Condvar,
    stopped: AtomicBool,
}

/// Everything that can be looked at.
pub struct View {
    pub endpoint: Endpoint,
    gateway: EndpointConfig,
    pub config: PeerConfig,
    pub data: DataPlane,
    /// All of them, in their order.
    pub events: Vec<Event>,
    /// What a process after this one would find.
    vault: Vec<u8>,
    /// Nothing comes in or goes out.
    pub cut: bool,
    /// Of a hundred IKE datagrams in either direction so many are lost, by the numbers of a fixed seed.
    pub loss: u32,
    dice: u32,
    started: Instant,
}

impl Gateway {
    pub fn start(netns: &Netns, config: EndpointConfig, peer: PeerConfig) -> Result<Gateway> {
        let bind = |address: SocketAddr| -> Result<UdpSocket> {
            let socket = netns.enter(|| UdpSocket::bind(address)).with_context(|| format!("cannot bind {address}"))?;
            socket.set_read_timeout(Some(TICK))?;
            Ok(socket)
        };
        let other = SocketAddr::from((OTHER_ADDRESS, NAT_PORT));
        netns.address(LINK, &format!("{OTHER_ADDRESS}/24"))?;
        let local = peer.local.context("the address of the gateway")?.ip();
        let addresses = [SocketAddr::new(local, IKE_PORT), SocketAddr::new(local, NAT_PORT), other];
        let mut endpoint = fresh_endpoint(&config);
        let started = Instant::now();
        endpoint.set_peer(now(), PEER, peer.clone())?;
        let (data, events, vault) = (DataPlane::default(), Vec::new(), Vec::new());
        let view = View { endpoint, gateway: config, config: peer, data, events, vault, cut: false, loss: 0, dice: 1, started };
        let inside = Arc::new(Inside {
            sockets: addresses.map(bind).into_iter().collect::<Result<_>>()?,
            view: Mutex::new(view),
            changed: Condvar::new(),
            stopped: AtomicBool::new(false),
        });
        let serve = |index: usize| {
            let inside = inside.clone();
            thread::spawn(move || inside.serve(index))
        };
        let threads = (0..addresses.len()).map(serve).collect();
        Ok(Gateway { inside, threads })
    }

    /// Lets the engine do something, and sends what comes out of it.
    pub fn act<R>(&self, act: impl FnOnce(&mut Endpoint, Now) -> R) -> R {
        let mut view = self.inside.lock();
        let result = act(&mut view.endpoint, now());
        self.inside.settle(&mut view);
        result
    }

    /// Sends a dummy packet of ESP with this in it.
    pub fn send_dummy(&self, inside: &[u8]) -> Result<()> {
        let mut view = self.inside.lock();
        let (remote, packet) = view.data.dummy(inside)?;
        let (hop, _) = view.data.paths.get(&PEER).context("a path")?;
        self.inside.send(hop.udp().context("a way of UDP")?.local, remote, &packet);
        Ok(())
    }

    pub fn with<R>(&self, look: impl FnOnce(&mut View) -> R) -> R {
        look(&mut self.inside.lock())
    }

    /// Waits until `wanted` finds what it looks for.
    pub fn wait_for<T>(&self, what: &str, limit: Duration, mut wanted: impl FnMut(&View) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + limit;
        let mut view = self.inside.lock();
        loop {
            if let Some(found) = wanted(&view) {
                return Ok(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(view);
                return Err(anyhow!("{limit:?} went by without {what}; Adit: {}", self.explain()));
            }
            view = self.inside.changed.wait_timeout(view, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// All that there is to say when something went wrong.
    pub fn explain(&self) -> String {
        let view = self.inside.lock();
        let events: Vec<String> = view.events.iter().map(|event| format!("\n  {event:?}")).collect();
        format!(
            "{:#?}\n{:#?}\nevents:{}\nfaults: {:?}",
            view.status(),
            view.endpoint.explain(PEER, Instant::now()),
            events.concat(),
            view.data.faults
        )
    }

    /// Gives the engine another configuration.
    pub fn set_peer(&self, config: PeerConfig) -> Result<()> {
        self.with(|view| view.config = config.clone());
        Ok(self.act(|endpoint, now| endpoint.set_peer(now, PEER, config))?)
    }

    /// Both processes die, and begin anew without anything.
    pub fn forget(&self) -> Result<()> {
        let mut view = self.inside.lock();
        let config = view.config.clone();
        view.endpoint = fresh_endpoint(&view.gateway);
        (view.data, view.vault) = (DataPlane::default(), Vec::new());
        view.endpoint.set_peer(now(), PEER, config)?;
        Ok(())
    }

    /// The process dies and another one takes over with what it left; the data plane goes on.
    pub fn succeed(&self) -> Result<()> {
        let mut view = self.inside.lock();
        let config = view.config.clone();
        view.endpoint = fresh_endpoint(&view.gateway);
        view.endpoint.set_peer(now(), PEER, config)?;
        let (clock, vault) = (view.clock(), std::mem::take(&mut view.vault));
        let restored = view.endpoint.restore(now(), clock, &vault)?;
        view.data.inbound.retain(|spi, _| restored.inbound.contains(spi));
        view.data.outbound.retain(|sa| restored.outbound.contains(&(sa.keys.peer, sa.keys.spi)));
        view.endpoint.start(now());
        self.inside.settle(&mut view);
        Ok(())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.inside.stopped.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl View {
    pub fn status(&self) -> PeerStatus {
        self.endpoint.status(PEER).expect("the only peer")
    }

    fn is_lost(&mut self) -> bool {
        self.dice = self.dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.dice >> 16) % 100 < self.loss
    }

    fn clock(&self) -> BootClock {
        let boot = self.started.elapsed().as_millis() + 1000;
        BootClock::new(Instant::now(), u64::try_from(boot).expect("a short test"))
    }
}

impl Inside {
    fn lock(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What one thread does: its socket, and the clock.
    fn serve(&self, index: usize) {
        let socket = &self.sockets[index];
        let local = socket.local_addr().expect("a bound socket");
        let mut buffer = vec![0; 65_536];
        while !self.stopped.load(Ordering::Relaxed) {
            let datagram = match socket.recv_from(&mut buffer) {
                Ok((len, remote)) => Some((&buffer[..len], Arrival::new(local, remote))),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {
                    None
                }
                // What an ICMP message said of an earlier datagram.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => None,
                Err(error) => panic!("cannot receive at {local}: {error}"),
            };
            let mut view = self.lock();
            if let Some((payload, came)) = datagram.filter(|_| !view.cut) {
                self.receive(&mut view, payload, came);
            }
            if view.endpoint.poll_timeout().is_some_and(|at| at <= Instant::now()) {
                view.endpoint.handle_timeout(now());
            }
            let usage = view.data.usage.clone();
            view.endpoint.handle_usage(now(), &usage);
            self.settle(&mut view);
        }
    }

    fn receive(&self, view: &mut View, payload: &[u8], came: Arrival) {
        match classify(payload) {
            Kind::Esp if came.local.port() == NAT_PORT => {
                if let Some((remote, packet)) = view.data.receive(payload) {
                    self.send(came.local, remote, &packet);
                }
            }
            Kind::Keepalive => {}
            _ if view.is_lost() => {}
            _ => view.endpoint.handle_message(now(), came, payload),
        }
    }

    /// Takes events, then the snapshot, then datagrams: what a message invites the peer to send can then be opened.
    fn settle(&self, view: &mut View) {
        while let Some(event) = view.endpoint.poll_event() {
            view.data.apply(&event);
            view.events.push(event);
        }
        if view.endpoint.take_changed() {
            view.vault = view.endpoint.snapshot(view.clock()).to_vec();
        }
        while let Some(transmit) = view.endpoint.poll_transmit() {
            if !view.cut && !view.is_lost() {
                let hop = transmit.hop.udp().expect("a way of UDP");
                self.send(hop.local, hop.remote, &transmit.payload);
            }
        }
        self.changed.notify_all();
    }

    fn send(&self, local: SocketAddr, remote: SocketAddr, payload: &[u8]) {
        let has = |socket: &&UdpSocket| socket.local_addr().is_ok_and(|address| address == local);
        let socket = self.sockets.iter().find(has).unwrap_or_else(|| panic!("no socket has the address {local}"));
        // Lost is lost; the engine sends it again.
        let _ = socket.send_to(payload, remote);
    }
}

pub fn now() -> Now {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    Now { instant: Instant::now(), unix }
}

/// An engine that knows no peer.
pub fn fresh_endpoint(config: &EndpointConfig) -> Endpoint {
    let random = |out: &mut [u8]| aws_lc_rs::rand::fill(out).expect("random numbers of the system");
    Endpoint::new(config.clone(), Box::new(random))
}
