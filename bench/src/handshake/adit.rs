//! Adit's engine at both ends: a thread and a UDP socket each, in namespaces of their own, as the daemon's shell around the engine.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use adit_engine::crypto::Secret;
use adit_engine::ike::{ConnectionState, Endpoint, EndpointConfig, Event, Limits, Now, PeerConfig, PeerId};
use adit_engine::path::Arrival;
use anyhow::{Context, Result, ensure};

use super::cpu;
use super::{Case, Timing, WARM_UP};
use crate::lab::interop::engine;
use crate::lab::interop::sites::{Site, Sites, pair};
use crate::netns::Netns;

/// How often the end that answers looks whether all is over.
const TICK: Duration = Duration::from_millis(50);
/// How long one handshake may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// One end.
struct End {
    endpoint: Endpoint,
    socket: UdpSocket,
    came: Arrival,
    buffer: Vec<u8>,
}

/// Measures `count` handshakes, each with a peer of its own, one after the other.
pub fn measure(case: Case, count: u16, done: &mut dyn FnMut()) -> Result<Timing> {
    let sites = Sites::new()?;
    let (a, b) = pair(case.proof())?;
    let config = |site: Site, config: &crate::lab::interop::Config| -> Result<PeerConfig> {
        let proposals = vec![if case.hybrid { engine::hybrid() } else { engine::classic() }];
        Ok(PeerConfig { proposals, ..engine::config(site, &config.connections[0])? })
    };
    let peers = WARM_UP + count;
    let mut initiator = End::new(&sites.a, config(Site::A, &a)?, Site::A, peers)?;
    let mut responder = End::new(&sites.b, config(Site::B, &b)?, Site::B, peers)?;
    connect(&mut initiator, &mut responder, 0..WARM_UP, &mut || {})?;
    connect(&mut initiator, &mut responder, WARM_UP..peers, done)
}

/// Connects these peers, with a thread for either end.
fn connect(initiator: &mut End, responder: &mut End, peers: Range<u16>, done: &mut dyn FnMut()) -> Result<Timing> {
    let (stop, [here, there]) = (AtomicBool::new(false), cpu::cores()?);
    thread::scope(|scope| {
        let answers = scope.spawn(|| responder.answer(there, &stop));
        let asks = scope.spawn(|| initiator.ask(here, peers)).join();
        stop.store(true, Ordering::Relaxed);
        let answers = answers.join();
        let (latencies, initiator) = asks.expect("the thread of the initiator")?;
        latencies.iter().for_each(|_| done());
        Ok(Timing { latencies, initiator, responder: answers.expect("the thread of the responder")? })
    })
}

impl End {
    fn new(netns: &Netns, config: PeerConfig, site: Site, peers: u16) -> Result<End> {
        let (local, remote) = (config.local.context("our address")?, *config.remotes.first().context("the other's address")?);
        let socket = netns.enter(|| UdpSocket::bind(local)).with_context(|| format!("cannot bind {local}"))?;
        socket.set_read_timeout(Some(TICK))?;
        let random = |out: &mut [u8]| aws_lc_rs::rand::fill(out).expect("random numbers of the system");
        // All come from one address here.
        let limits = Limits { half_open_per_address: usize::from(peers) + 1, ..Limits::default() };
        let crash_secrets = vec![Secret::copy_of(&[site as u8; 32])];
        let mut endpoint = Endpoint::new(EndpointConfig { limits, crash_secrets, ..EndpointConfig::default() }, Box::new(random));
        for number in 0..peers {
            // Of two ends with the same keys each pair has names of its own, so that the responder has to find the right one.
            let name = |site: Site| format!("n{number}.{}", site.id());
            let config = PeerConfig {
                name: format!("n{number}"),
                local_id: name(site).parse()?,
                remote_id: name(site.other()).parse()?,
                ..config.clone()
            };
            endpoint.set_peer(now(), PeerId(number), config)?;
        }
        Ok(End { endpoint, socket, came: Arrival::new(local, remote), buffer: vec![0; 65_536] })
    }

    /// The responder: answers until it is stopped; gives its processor time.
    fn answer(&mut self, core: usize, stop: &AtomicBool) -> Result<Duration> {
        cpu::pin_thread(core)?;
        let begin = cpu::thread_time();
        while !stop.load(Ordering::Relaxed) {
            self.turn(|_| {})?;
        }
        Ok(cpu::thread_time().saturating_sub(begin))
    }

    /// The initiator: one peer after the other; gives the time of each from the command until there are an IKE SA and a Child SA,
    /// and its processor time.
    fn ask(&mut self, core: usize, peers: Range<u16>) -> Result<(Vec<Duration>, Duration)> {
        cpu::pin_thread(core)?;
        let begin_cpu = cpu::thread_time();
        let mut latencies = Vec::with_capacity(peers.len());
        for peer in peers.map(PeerId) {
            let begin = Instant::now();
            self.endpoint.connect(now(), peer)?;
            self.settle(|_| {});
            let (mut up, mut sending) = (false, false);
            while !(up && sending) {
                ensure!(begin.elapsed() < PATIENCE, "no handshake within {PATIENCE:?}");
                self.turn(|event| match event {
                    Event::State { peer: one, state, .. } if one == peer => up = state == ConnectionState::Established,
                    Event::InstallOutbound(keys) if keys.peer == peer => sending = true,
                    _ => {}
                })?;
            }
            latencies.push(begin.elapsed());
        }
        Ok((latencies, cpu::thread_time().saturating_sub(begin_cpu)))
    }

    /// Waits for a datagram, or a while, and does what follows.
    fn turn(&mut self, look: impl FnMut(Event)) -> Result<()> {
        match self.socket.recv(&mut self.buffer) {
            Ok(length) => self.endpoint.handle_message(now(), self.came, &self.buffer[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error).context("cannot receive"),
        }
        if self.endpoint.poll_timeout().is_some_and(|at| at <= Instant::now()) {
            self.endpoint.handle_timeout(now());
        }
        self.settle(look);
        Ok(())
    }

    fn settle(&mut self, mut look: impl FnMut(Event)) {
        while let Some(event) = self.endpoint.poll_event() {
            look(event);
        }
        while let Some(transmit) = self.endpoint.poll_transmit() {
            // Lost is lost; the engine sends it again.
            if let Some(hop) = transmit.hop.udp() {
                let _ = self.socket.send_to(&transmit.payload, hop.remote);
            }
        }
    }
}

fn now() -> Now {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    Now { instant: Instant::now(), unix }
}
