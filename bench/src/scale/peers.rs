//! Many peers in one process: one engine, and a socket for each, so that each has an address of its own.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use adit_engine::auth::{LocalAuth, Psk, RemoteAuth};
use adit_engine::identity::Identity;
use adit_engine::ike::proposal_words;
use adit_engine::ike::{
    Backoff, Cause, ChildConfig, ConnectionState, Endpoint, EndpointConfig, Event, Lifetime, Mode, Now, PeerConfig, PeerId, Share,
};
use adit_engine::path::Arrival;
use anyhow::{Context, Result, ensure};
use rustix::event::{Timespec, epoll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::netns::Netns;

pub const PSK: &str = "what every peer knows, 0123456789";
/// Who the gateway is.
pub const HUB_ID: &str = "hub";
/// The port of the first peer; the others follow.
const FIRST_PORT: u16 = 20_000;
/// Descriptors beside the sockets.
const OTHER_FILES: u64 = 64;
/// Datagrams taken from one socket before the others have their turn.
const SHARE: usize = 8;

/// The peers.
pub struct Peers {
    endpoint: Endpoint,
    sockets: Vec<UdpSocket>,
    ready: std::os::fd::OwnedFd,
    hub: SocketAddr,
    /// Peers that were told to connect.
    asked: u32,
    /// Peers with an IKE SA.
    pub up: u32,
    /// IKE SAs that ended.
    pub lost: u32,
    /// IKE SAs that were authenticated.
    pub handshakes: u32,
    failure: Option<Cause>,
}

/// The name of a peer, in both ends' configuration.
pub fn name(n: u32) -> String {
    format!("p{n:05}")
}

impl Peers {
    /// So many peers in a namespace, none of them connected.
    pub fn new(netns: &Netns, hub: SocketAddr, count: u32) -> Result<Peers> {
        allow_files(u64::from(count) + OTHER_FILES)?;
        let bind = || -> Result<Vec<UdpSocket>> {
            (0..count).map(|n| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, FIRST_PORT + u16::try_from(n)?))?)).collect()
        };
        let sockets = netns.enter(bind).context("sockets for the peers")?;
        let ready = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (n, socket) in sockets.iter().enumerate() {
            socket.set_nonblocking(true)?;
            epoll::add(&ready, socket, epoll::EventData::new_u64(n as u64), epoll::EventFlags::IN)?;
        }
        let random = |out: &mut [u8]| aws_lc_rs::rand::fill(out).expect("the system's generator");
        let mut endpoint = Endpoint::new(EndpointConfig::default(), Box::new(random));
        for n in 0..count {
            endpoint.set_peer(now(), PeerId(n as u16), peer(n, hub)?)?;
        }
        Ok(Peers { endpoint, sockets, ready, hub, asked: 0, up: 0, lost: 0, handshakes: 0, failure: None })
    }

    /// Has the next peers connect, so that `at_once` are on their way.
    pub fn connect(&mut self, at_once: u32) -> Result<()> {
        while self.asked < self.sockets.len() as u32 && self.asked < self.up + at_once {
            self.endpoint.connect(now(), PeerId(self.asked as u16))?;
            self.asked += 1;
        }
        self.settle();
        Ok(())
    }

    /// Waits for datagrams, no longer than `most`, and answers them.
    pub fn turn(&mut self, most: Duration) -> Result<()> {
        let due = self.endpoint.poll_timeout().map_or(most, |at| at.saturating_duration_since(Instant::now()));
        let wait = Timespec::try_from(due.min(most))?;
        let mut events = Vec::with_capacity(256);
        match epoll::wait(&self.ready, rustix::buffer::spare_capacity(&mut events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            self.receive(event.data.u64() as usize)?;
        }
        if self.endpoint.poll_timeout().is_some_and(|at| at <= Instant::now()) {
            self.endpoint.handle_timeout(now());
        }
        self.settle();
        Ok(())
    }

    /// Turns until something is so.
    pub fn until(&mut self, what: &str, mut so: impl FnMut(&Peers) -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + super::PATIENCE;
        while !so(self)? {
            ensure!(Instant::now() < deadline, "{:?} went by before {what}", super::PATIENCE);
            self.turn(Duration::from_millis(10))?;
        }
        Ok(())
    }

    /// Turns while something else is done.
    pub fn beside<T: Send>(&mut self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let other = scope.spawn(work);
            while !other.is_finished() {
                self.turn(Duration::from_millis(10))?;
            }
            other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// What went wrong last, for an error.
    pub fn complaint(&self) -> String {
        self.failure.as_ref().map_or("nothing was said".to_owned(), ToString::to_string)
    }

    fn receive(&mut self, n: usize) -> Result<()> {
        let mut buffer = [0; 4096];
        let Some(socket) = self.sockets.get(n) else { return Ok(()) };
        for _ in 0..SHARE {
            match socket.recv_from(&mut buffer) {
                Ok((len, remote)) => self.endpoint.handle_message(now(), Arrival::new(local(n as u32), remote), &buffer[..len]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => break,
                // What ICMP said of an earlier datagram.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn settle(&mut self) {
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::IkeUp { replaces: None, .. } => {
                    self.up += 1;
                    self.handshakes += 1;
                }
                Event::IkeDown { cause, .. } if cause != Cause::Replaced => {
                    self.lost += 1;
                    self.failure = Some(cause);
                }
                Event::State { state: ConnectionState::Failed | ConnectionState::Reconnecting, cause, .. } => {
                    self.failure = cause.or(self.failure.take());
                }
                _ => {}
            }
        }
        while let Some(transmit) = self.endpoint.poll_transmit() {
            let Some(hop) = transmit.hop.udp() else { continue };
            let socket = self.sockets.get(usize::from(hop.local.port().wrapping_sub(FIRST_PORT)));
            // Lost is lost; the engine sends it again.
            let _ = socket.map(|socket| socket.send_to(&transmit.payload, self.hub));
        }
    }
}

fn local(n: u32) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(192, 0, 2, 2), FIRST_PORT + n as u16))
}

fn peer(n: u32, hub: SocketAddr) -> Result<PeerConfig> {
    let psk = Psk::from_text(PSK)?;
    let child = ChildConfig {
        name: "ethernet".to_owned(),
        mode: Mode::Ethernet,
        proposals: vec![proposal_words::esp(proposal_words::ESP_DEFAULT[0]).map_err(|fault| anyhow::anyhow!("{fault:?}"))?],
        local: Vec::new(),
        remote: Vec::new(),
        pairs: Vec::new(),
        lifetime: Lifetime::CHILD,
        lanes: 1,
    };
    let proposals =
        proposal_words::IKE_DEFAULT.iter().map(|text| proposal_words::ike(text).map_err(|fault| anyhow::anyhow!("{fault:?}")));
    Ok(PeerConfig {
        name: HUB_ID.to_owned(),
        initiate: true,
        respond: false,
        local: Some(local(n)),
        remotes: vec![hub],
        awaits_remotes: false,
        in_streams: false,
        from: adit_engine::path::Origin::Anywhere,
        local_id: Identity::Fqdn(name(n)),
        remote_id: Identity::Fqdn(HUB_ID.to_owned()).into(),
        local_auth: LocalAuth::Psk(psk.clone()),
        remote_auth: RemoteAuth::Psk(psk),
        proposals: proposals.collect::<Result<_>>()?,
        children: vec![child],
        ike_lifetime: Lifetime::IKE,
        reauth_after: Duration::ZERO,
        ppk: None,
        // The gateway asks.
        dpd: Duration::from_secs(60),
        keepalive: Duration::ZERO,
        force_encapsulation: true,
        mobike: false,
        backoff: Backoff::default(),
        share: Share::default(),
    })
}

fn now() -> Now {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    Now { instant: Instant::now(), unix }
}

/// Lets this process have so many descriptors.
fn allow_files(wanted: u64) -> Result<()> {
    let have = getrlimit(Resource::Nofile);
    if have.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    let maximum = have.maximum.map(|maximum| maximum.max(wanted));
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).with_context(|| {
        format!("{wanted} descriptors, for a socket each, are not allowed: run as root, or with `ulimit -n {wanted}`")
    })
}
