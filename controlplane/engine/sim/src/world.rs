//! Gateways with the real engine on links with weather, behind NATs, in virtual time.

mod echoes;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use adit_engine::ike::{
    After, BootClock, ConnectionState, Endpoint, EndpointConfig, Now, PeerConfig, PeerId, Restored, Transmit,
};
use adit_engine::path::{Arrival, Hop, Route, StreamId, UdpHop, Underlay};
use zeroize::Zeroizing;

use crate::dataplane::DataPlane;
use crate::ledger::Ledger;
use crate::link::{Relay, TooBig, headers};
use crate::load::{Load, describe};
use crate::nat::{Nat, NatConfig};
use crate::node::Node;
use crate::rng::Rng;

/// Bytes of a vault behind which no changes are put any more.
const VAULT_MAX: usize = 16 << 10;

/// What the network does to datagrams.
#[derive(Clone, Copy, Debug)]
pub struct Net {
    /// Of a thousand.
    pub loss: u32,
    pub duplication: u32,
    /// The shortest and the longest time on the way; every datagram has its own, so they overtake each other.
    pub delay: (Duration, Duration),
}

impl Net {
    pub const GOOD: Net = Net { loss: 0, duplication: 0, delay: (Duration::from_millis(5), Duration::from_millis(5)) };
    pub const BAD: Net = Net { loss: 200, duplication: 100, delay: (Duration::from_millis(1), Duration::from_millis(400)) };
}

#[derive(Clone, Debug)]
struct Datagram {
    way: Way,
    load: Load,
}

/// Where a datagram goes.
#[derive(Clone, Copy, Debug)]
enum Way {
    Udp {
        from: SocketAddr,
        to: SocketAddr,
    },
    /// To this gateway, in this stream of it.
    Stream(usize, StreamId),
}

/// Sees every IKE datagram before it flies, and may change it; `false` loses it.
pub type Filter = Box<dyn FnMut(SocketAddr, SocketAddr, &mut Vec<u8>) -> bool>;

/// Everything.
pub struct World {
    pub now: Instant,
    start: Instant,
    pub rng: Rng,
    pub net: Net,
    pub nodes: Vec<Node>,
    pub nats: Vec<Nat>,
    pub relay: Relay,
    /// In the order in which they came.
    pub too_big: Vec<TooBig>,
    flying: BinaryHeap<Reverse<(Instant, u64)>>,
    cargo: BTreeMap<u64, Datagram>,
    next: u64,
    /// What has been done at this instant, and in all: without end time would never pass, or nothing ever be quiet.
    steps: (Instant, u32),
    steps_total: u32,
    /// When everything between these two is lost.
    pub cut: bool,
    /// Addresses from which and to which nothing gets through.
    pub dead: Vec<IpAddr>,
    pub filter: Option<Filter>,
    /// Those that might leave as IP fragments.
    pub fragmented: Vec<Vec<u8>>,
    /// IKE datagrams in the order in which they were sent.
    pub log: Vec<(SocketAddr, SocketAddr, Vec<u8>)>,
    /// What somebody on the cable has seen pass by, where a test has one there: the last of it.
    pub overheard: Option<VecDeque<(SocketAddr, SocketAddr, Load)>>,
    /// Packets of ESP that are under way or lost otherwise than by the network.
    pub ledger: Ledger,
    pub trace: bool,
}

/// An underlay in which every address reaches every other one of its version of IP, the first by default.
struct Addresses(Vec<IpAddr>);

impl Underlay for Addresses {
    fn route(&mut self, local: Option<IpAddr>, remote: SocketAddr, _: u32) -> Route {
        let (own_address, first) = (self.0.contains(&remote.ip()), self.0.iter().find(|one| one.is_ipv4() == remote.is_ipv4()));
        Route { reachable: first.is_some(), own_address, source: local.or(first.copied()), mtu: Some(1500), ..Route::default() }
    }

    fn has_stream(&mut self, _: StreamId) -> bool {
        true
    }

    fn addresses(&mut self) -> Vec<IpAddr> {
        self.0.clone()
    }
}

/// What a datagram names is the path that the endpoint has for the way that it goes, unless it was given up at the same moment.
fn check_path(endpoint: &Endpoint, transmit: &Transmit) {
    let Transmit { peer: Some(peer), path: Some(path), hop, .. } = *transmit else { return };
    let known = endpoint.all_paths().find(peer, hop);
    assert!(known.is_none_or(|known| known == path), "{hop:?} is path {known:?} of {peer:?}, and not {path:?}");
}

/// The two ends of a way that is one of UDP.
pub fn udp(hop: Hop) -> UdpHop {
    hop.udp().expect("a way of UDP")
}

#[expect(clippy::disallowed_methods, reason = "virtual time has to begin at some instant, and there is no other way to get one")]
fn epoch() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

/// Datagrams that somebody on the cable keeps.
const OVERHEARD_MAX: usize = 64;
/// Steps at one instant that are still reasonable.
const STEPS_MAX: u32 = 1000;
/// Steps of one run that are still reasonable.
const STEPS_TOTAL_MAX: u32 = 300_000;
/// Certificates of the tests are valid around this time.
pub const UNIX_START: u64 = 1_800_000_000;

impl World {
    pub fn new(seed: u64) -> World {
        let now = epoch() + Duration::from_secs(1000);
        World {
            now,
            start: now,
            rng: Rng::new(seed),
            net: Net::GOOD,
            nodes: Vec::new(),
            nats: Vec::new(),
            relay: Relay::default(),
            too_big: Vec::new(),
            flying: BinaryHeap::new(),
            cargo: BTreeMap::new(),
            next: 0,
            steps: (now, 0),
            steps_total: 0,
            cut: false,
            dead: Vec::new(),
            filter: None,
            fragmented: Vec::new(),
            log: Vec::new(),
            overheard: None,
            ledger: Ledger::default(),
            trace: false,
        }
    }

    /// Adds a gateway; gives its index.
    pub fn add(&mut self, address: &str, config: EndpointConfig) -> usize {
        let endpoint = self.fresh_endpoint(config);
        let address = address.parse().expect("an address");
        let data = DataPlane::default();
        self.nodes.push(Node {
            endpoint,
            address,
            others: Vec::new(),
            nat: None,
            mtu: None,
            data,
            events: Vec::new(),
            vault: Zeroizing::default(),
            vault_stuck: false,
            sent: 0,
            on: true,
            gate: None,
        });
        self.nodes.len() - 1
    }

    /// Adds a NAT; gives its index, for [`Node::nat`]. Several gateways can be behind one.
    pub fn add_nat(&mut self, config: NatConfig) -> usize {
        self.nats.push(Nat::new(config));
        self.nats.len() - 1
    }

    /// Two gateways have a stream to each other: gives that of the first and that of the second.
    pub fn add_stream(&mut self, ends: [usize; 2]) -> [StreamId; 2] {
        let [one, other] = [0, 1].map(|end| StreamId(1000 + 2 * self.relay.streams.len() as u64 + end));
        self.relay.streams.insert((ends[0], one), (ends[1], other));
        self.relay.streams.insert((ends[1], other), (ends[0], one));
        [one, other]
    }

    /// A gateway with several addresses, of which the engine is told. To be called before its peers are set.
    pub fn add_addresses(&mut self, node: usize, config: EndpointConfig, others: &[&str]) {
        let others: Vec<IpAddr> = others.iter().map(|address| address.parse().expect("an address")).collect();
        let all = std::iter::once(self.nodes[node].address.ip()).chain(others.iter().copied()).collect();
        self.nodes[node].endpoint = self.fresh_endpoint(config).with_underlay(Box::new(Addresses(all)));
        self.nodes[node].others = others;
    }

    fn fresh_endpoint(&mut self, config: EndpointConfig) -> Endpoint {
        let mut rng = Rng::new(self.rng.next());
        Endpoint::new(config, Box::new(move |out: &mut [u8]| rng.fill(out)))
    }

    pub fn now(&self) -> Now {
        Now { instant: self.now, unix: UNIX_START + (self.now - self.start).as_secs() }
    }

    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    pub fn set_peer(&mut self, node: usize, peer: PeerId, config: PeerConfig) {
        let now = self.now();
        let endpoint = &mut self.nodes[node].endpoint;
        endpoint.set_peer(now, peer, config).expect("a good configuration");
        endpoint.start(now);
        self.settle();
    }

    /// Lets a node do something, and takes what comes out of it.
    pub fn act<R>(&mut self, node: usize, act: impl FnOnce(&mut Endpoint, Now) -> R) -> R {
        let now = self.now();
        let result = act(&mut self.nodes[node].endpoint, now);
        self.settle();
        result
    }

    /// The process dies, with all its IKE SAs; the data plane goes on with what it has, or not.
    pub fn crash(&mut self, node: usize, config: EndpointConfig, data_plane_too: bool) {
        self.nodes[node].endpoint = self.fresh_endpoint(config);
        self.nodes[node].vault = Zeroizing::default();
        if data_plane_too {
            self.nodes[node].data = DataPlane::default();
        }
    }

    /// Its clock, for snapshots.
    pub fn clock(&self) -> BootClock {
        let boot = (self.now - self.start).as_millis();
        BootClock::new(self.now, u64::try_from(boot).expect("a short run") + 1_000_000)
    }

    /// The process dies and a successor goes on with what is in the vault; the data plane has gone on all the time.
    pub fn succeed(&mut self, node: usize, config: EndpointConfig, peers: &[(PeerId, PeerConfig)]) -> Restored {
        self.nodes[node].endpoint = self.fresh_endpoint(config);
        let (now, clock) = (self.now(), self.clock());
        let successor = &mut self.nodes[node];
        for (id, peer) in peers {
            successor.endpoint.set_peer(now, *id, peer.clone()).expect("a good configuration");
        }
        let mut restored = Restored::default();
        if !successor.vault.is_empty() {
            restored = successor.endpoint.restore(now, clock, &successor.vault).expect("a good snapshot");
        }
        let (inbound, outbound) = successor.data.keep_only(&restored);
        inbound.into_iter().for_each(|spi| successor.endpoint.lost_inbound(now, spi));
        outbound.into_iter().for_each(|(peer, spi)| successor.endpoint.lost_outbound(now, peer, spi));
        successor.endpoint.start(now);
        successor.tell_gate();
        if std::mem::take(&mut successor.vault_stuck) {
            self.nodes.iter_mut().for_each(|node| node.data.out_of_step = true);
        }
        self.settle();
        restored
    }

    /// Takes events, then the snapshot, then datagrams, of all nodes.
    pub fn settle(&mut self) {
        for index in 0..self.nodes.len() {
            let node = &mut self.nodes[index];
            while let Some(event) = node.endpoint.poll_event() {
                if self.trace {
                    println!("{:>10.3?} {index}: {event:?}", self.now - self.start);
                }
                node.data.apply(&event);
                node.gate.iter_mut().for_each(|gate| gate.apply(&event));
                node.events.push(event);
            }
            if node.endpoint.take_changed() && !node.vault_stuck {
                let boot = u64::try_from((self.now - self.start).as_millis()).expect("a short run") + 1_000_000;
                // As a control plane does: a snapshot now and then, in between only what has changed.
                match node.endpoint.changes() {
                    Some(changes) if node.vault.len() < VAULT_MAX => node.vault.extend_from_slice(&changes),
                    _ => node.vault = node.endpoint.snapshot(BootClock::new(self.now, boot)),
                }
            }
            let mut out = Vec::new();
            while let Some(transmit) = node.endpoint.poll_transmit() {
                node.sent += 1;
                check_path(&node.endpoint, &transmit);
                out.push(transmit);
            }
            // The data plane takes a moment: what does not wait for it overtakes what does.
            out.sort_by_key(|transmit| transmit.after == After::Barrier);
            for Transmit { hop, payload, fragments, .. } in out {
                if self.trace {
                    println!("{:>10.3?} {index}: to {} {}", self.now - self.start, hop.remote(), describe(&payload));
                }
                match hop {
                    Hop::Udp(hop) => {
                        self.nodes[index].note_sent(hop.local, &payload, self.now - self.start);
                        self.send_ike(hop.local, hop.remote, payload, fragments);
                    }
                    Hop::Stream(_) => self.send_load(index, hop, Load::Ike(payload)),
                }
            }
            self.send_echoes(index);
        }
    }

    /// As IP fragments it passes every link: how many there are makes no difference here.
    fn send_ike(&mut self, local: SocketAddr, to: SocketAddr, mut payload: Vec<u8>, fragments: bool) {
        let len = if fragments { 0 } else { payload.len() + headers(to) };
        self.fragmented.extend(fragments.then(|| payload.clone()));
        let Some(from) = self.leave(local, to, len) else { return };
        if self.filter.as_mut().is_some_and(|filter| !filter(from, to, &mut payload)) {
            return;
        }
        self.log.push((from, to, payload.clone()));
        self.fly(from, to, Load::Ike(payload));
    }

    /// Sends something of a gateway that is no message of IKE of UDP.
    fn send_load(&mut self, node: usize, hop: Hop, load: Load) {
        match hop {
            Hop::Udp(hop) => match self.leave(hop.local, hop.remote, headers(hop.remote) + load.len()) {
                Some(from) => self.fly(from, hop.remote, load),
                None => self.ledger.lost_by_network(&load),
            },
            Hop::Stream(stream) => {
                match self.relay.streams.get(&(node, stream)).filter(|_| self.relay.is_up && !self.relay.broken.contains(&stream))
                {
                    Some((there, stream)) => {
                        let way = Way::Stream(*there, *stream);
                        self.relay.carried[usize::from(!matches!(load, Load::Ike(_)))] += 1;
                        self.launch(self.now + self.relay.delay, Datagram { way, load });
                    }
                    None => self.ledger.lost_by_network(&load),
                }
            }
        }
    }

    /// Injects a datagram from anywhere.
    pub fn inject(&mut self, from: SocketAddr, to: SocketAddr, payload: Vec<u8>) {
        self.inject_after(Duration::from_micros(10), from, to, Load::Ike(payload));
    }

    /// The same of any kind, which arrives after a time.
    pub fn inject_after(&mut self, time: Duration, from: SocketAddr, to: SocketAddr, load: Load) {
        self.launch(self.now + time, Datagram { way: Way::Udp { from, to }, load });
    }

    /// A packet of `len` bytes leaves a gateway, by its link and its NAT: the source that others see. `None`: it got no further.
    fn leave(&mut self, local: SocketAddr, to: SocketAddr, len: usize) -> Option<SocketAddr> {
        let now = self.now;
        let Some(node) = self.nodes.iter().position(|node| node.address.ip() == local.ip()) else { return Some(local) };
        if !self.link_takes(node, Some(node), to, len) {
            return None;
        }
        match self.nodes[node].nat {
            Some(nat) => self.nats[nat].outbound(now, local, to, &mut self.rng),
            None => Some(local),
        }
    }

    /// Whether the link of a gateway takes a packet of `sender`; who sent it may hear that it does not.
    fn link_takes(&mut self, node: usize, sender: Option<usize>, to: SocketAddr, len: usize) -> bool {
        let Some(mtu) = self.nodes[node].mtu.filter(|mtu| len > mtu.bytes) else { return true };
        if let (true, Some(node)) = (mtu.says_so, sender) {
            self.too_big.push(TooBig { node, to, len, mtu: mtu.bytes });
        }
        false
    }

    /// Which gateway it is that others see at an address: one that has it, or one whose NAT has.
    fn seen_at(&self, address: SocketAddr) -> Option<usize> {
        self.nodes.iter().position(|node| match node.nat.map(|nat| &self.nats[nat]) {
            None => node.address.ip() == address.ip() || node.others.contains(&address.ip()),
            Some(nat) if nat.config.outside != address.ip() => false,
            Some(nat) => nat.inside(address.port()).is_some_and(|inside| inside.ip() == node.address.ip()),
        })
    }

    pub fn fly(&mut self, from: SocketAddr, to: SocketAddr, load: Load) {
        let dead = [from.ip(), to.ip()].iter().any(|address| self.dead.contains(address));
        if self.cut || dead || self.rng.below(1000) < self.net.loss {
            return self.ledger.lost_by_network(&load);
        }
        if let Some(overheard) = &mut self.overheard {
            overheard.truncate(OVERHEARD_MAX - 1);
            overheard.push_front((from, to, load.clone()));
        }
        let copies = if self.rng.below(1000) < self.net.duplication { 2 } else { 1 };
        for _ in 0..copies {
            let (least, most) = self.net.delay;
            let spread = u32::try_from((most - least).as_micros()).expect("a short delay");
            let delay = least + Duration::from_micros(u64::from(self.rng.below(spread + 1)));
            self.launch(self.now + delay, Datagram { way: Way::Udp { from, to }, load: load.clone() });
        }
    }

    fn launch(&mut self, at: Instant, datagram: Datagram) {
        self.next += 1;
        self.flying.push(Reverse((at, self.next)));
        self.cargo.insert(self.next, datagram);
    }

    /// When something happens next.
    fn next_time(&self) -> Option<Instant> {
        let timeouts = self.nodes.iter().filter(|node| node.on).filter_map(|node| node.endpoint.poll_timeout());
        timeouts.chain(self.flying.peek().map(|Reverse((at, _))| *at)).min()
    }

    /// Lets time pass, and everything happen that happens in it.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(next) = self.next_time().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.step();
        }
        self.now = end;
    }

    /// Lets time pass until something is so, at most for `limit`. Says whether it is.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&World) -> bool) -> bool {
        let end = self.now + limit;
        loop {
            if done(self) {
                return true;
            }
            match self.next_time().filter(|next| *next <= end) {
                Some(next) => {
                    self.now = self.now.max(next);
                    self.step();
                }
                None => {
                    self.now = end;
                    return done(self);
                }
            }
        }
    }

    fn step(&mut self) {
        let now = self.now();
        self.steps = if self.steps.0 == now.instant { (now.instant, self.steps.1 + 1) } else { (now.instant, 0) };
        self.steps_total += 1;
        let endless = self.steps.1 >= STEPS_MAX || self.steps_total >= STEPS_TOTAL_MAX;
        assert!(!endless, "a livelock at {:?}, after {} steps", self.elapsed(), self.steps_total);
        for index in 0..self.nodes.len() {
            let node = &mut self.nodes[index];
            if node.on && node.endpoint.poll_timeout().is_some_and(|at| at <= now.instant) {
                node.endpoint.handle_timeout(now);
                let next = node.endpoint.poll_timeout();
                assert!(next.is_none_or(|next| next > now.instant), "a timer that is due again at once: {next:?}");
                self.settle();
            }
        }
        while let Some(Reverse((at, id))) = self.flying.peek().copied() {
            if at > now.instant {
                break;
            }
            self.flying.pop();
            let datagram = self.cargo.remove(&id).expect("its cargo");
            self.deliver(datagram);
        }
    }

    fn deliver(&mut self, datagram: Datagram) {
        let (index, came) = match datagram.way {
            Way::Stream(node, stream) if self.nodes[node].on && self.relay.is_up => (node, Hop::Stream(stream)),
            Way::Stream(..) => return self.ledger.lost_by_network(&datagram.load),
            Way::Udp { from, to } => {
                let Some((index, local)) = self.receiver(from, to) else { return };
                let len = headers(to) + datagram.load.len();
                let sender = self.seen_at(from);
                if !self.nodes[index].on || !self.link_takes(index, sender, to, len) {
                    return;
                }
                (index, Arrival::new(local, from).hop())
            }
        };
        self.take_in(index, came, datagram.load);
    }

    /// Something has come to a gateway, this way.
    fn take_in(&mut self, index: usize, came: Hop, load: Load) {
        let now = self.now();
        match load {
            Load::Ike(payload) if payload.len() == 1 => {}
            Load::Ike(payload) => {
                let udp = came.udp();
                let passes =
                    |udp: UdpHop| self.nodes[index].passes_gate(udp.remote, udp.local, &payload, now.instant - self.start);
                if !udp.is_none_or(passes) {
                    return;
                }
                self.nodes[index].endpoint.handle_message(now, came, &payload);
                self.settle();
            }
            Load::Echo(echo) => self.receive_echo(index, came, echo),
            Load::Esp(esp) => {
                let news = self.nodes[index].data.receive(&esp, came);
                self.ledger.came(&esp, self.nodes[index].data.inbound.contains_key(&esp.spi));
                if let Some(peer) = news {
                    if self.trace {
                        println!("{:>10.3?} {index}: packets of {peer:?} come from {}", self.now - self.start, came.remote());
                    }
                    self.nodes[index].endpoint.handle_path_seen(now, peer, came, esp.len as u32);
                    self.settle();
                }
            }
        }
    }

    /// Who has an address: a gateway, or one behind the NAT that has it.
    fn receiver(&mut self, from: SocketAddr, to: SocketAddr) -> Option<(usize, SocketAddr)> {
        let open = self
            .nodes
            .iter()
            .position(|node| node.nat.is_none() && (node.address.ip() == to.ip() || node.others.contains(&to.ip())));
        if let Some(index) = open {
            return Some((index, to));
        }
        let now = self.now;
        // One that nobody is behind any more has given its address away.
        let mut used = self.nodes.iter().filter_map(|node| node.nat);
        let nat = used.find(|nat| self.nats[*nat].config.outside == to.ip())?;
        let inside = self.nats[nat].inbound(now, from, to.port())?;
        let index = self.nodes.iter().position(|node| node.address.ip() == inside.ip())?;
        Some((index, inside))
    }

    /// Sends one packet of ESP on every lane that a node has, to all peers.
    pub fn send_esp(&mut self, node: usize) {
        let (now, peers) = (self.now(), self.nodes[node].data.peers());
        self.nodes[node].endpoint.handle_traffic(now, peers);
        for (esp, path) in self.nodes[node].data.seal_one_each(node) {
            self.ledger.sent(&esp, now.instant);
            self.send_load(node, path, Load::Esp(esp));
        }
    }

    pub fn state(&self, node: usize, peer: PeerId) -> ConnectionState {
        self.nodes[node].endpoint.status(peer).expect("a peer").state
    }

    pub fn is_up(&self, node: usize, peer: PeerId) -> bool {
        self.state(node, peer).is_up()
    }
}
