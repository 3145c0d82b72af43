//! Two engines that talk to each other, and nothing between them: what is in flight is delivered by hand.
//!
//! They are configured as the simulator's pair is (`adit_sim::peer`), with one algorithm of each kind, so that what the corpora change is
//! where it was. Its world is not used: there a datagram arrives at its time, here when the input says so, or never.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use adit_engine::crypto::{KeyExchangeMethod, Prf};
use adit_engine::ike::{
    BootClock, ChildConfig, ChildProposal, Endpoint, EndpointConfig, EsnPolicy, Event, IkeProposal, Now, PeerConfig,
};
use adit_engine::path::Arrival;
use adit_proto::ike::{ExchangeType, Header};
use adit_proto::suite::Suite;
pub use adit_sim::{A, B, PEER};

const UNIX: u64 = 1_800_000_000;
const BOOT_MS: u64 = 1_000_000;

/// Both ends, as one byte describes them.
#[derive(Clone, Copy, Debug)]
pub struct Kind(pub u8);

impl Kind {
    fn hybrid(self) -> bool {
        self.0 & 1 != 0
    }

    /// Messages that are cut into fragments.
    fn small(self) -> bool {
        self.0 & 2 != 0
    }

    fn ethernet(self) -> bool {
        self.0 & 4 != 0
    }

    fn mobike(self) -> bool {
        self.0 & 8 != 0
    }

    fn child_key_exchange(self) -> bool {
        self.0 & 16 != 0
    }

    fn lanes(self) -> u8 {
        1 + (self.0 >> 5 & 1)
    }

    pub fn endpoint(self, node: usize) -> EndpointConfig {
        let config = adit_sim::endpoint_config(node as u8 + 1);
        EndpointConfig { datagram_max: if self.small() { 400 } else { config.datagram_max }, key_log: true, ..config }
    }

    /// The other gateway, as `node` is configured to see it.
    pub fn peer(self, node: usize) -> PeerConfig {
        let ml_kem = vec![vec![Some(KeyExchangeMethod::MlKem768)]];
        let proposal = IkeProposal {
            suites: vec![Suite::Aes256Gcm],
            prfs: vec![Prf::HmacSha256],
            key_exchanges: vec![KeyExchangeMethod::X25519],
            additional: if self.hybrid() { ml_kem } else { Vec::new() },
        };
        let esp = ChildProposal {
            suites: vec![Suite::Aes128Gcm],
            key_exchanges: if self.child_key_exchange() { vec![KeyExchangeMethod::X25519] } else { Vec::new() },
            additional: Vec::new(),
            esn: EsnPolicy::Prefer,
        };
        let child = if self.ethernet() { adit_sim::ethernet() } else { adit_sim::tunnel(node) };
        PeerConfig {
            proposals: vec![proposal],
            children: vec![ChildConfig { name: "net".into(), proposals: vec![esp], lanes: self.lanes(), ..child }],
            mobike: self.mobike(),
            ..adit_sim::peer(node)
        }
    }
}

/// The address that `adit_sim::peer` gives to an end.
pub fn address(node: usize) -> SocketAddr {
    ([192, 0, 2, node as u8 + 1], 4500).into()
}

/// Numbers that are the same in every run (SplitMix64), so that SPIs and nonces are.
pub fn fresh(config: EndpointConfig, seed: u64) -> Endpoint {
    let mut state = seed;
    let mut next = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 31)) as u8
    };
    Endpoint::new(config, Box::new(move |out: &mut [u8]| out.iter_mut().for_each(|byte| *byte = next())))
}

/// A datagram with an IKE message behind its marker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub payload: Vec<u8>,
}

impl Datagram {
    pub fn header(&self) -> Option<Header> {
        Header::decode(self.payload.get(4..)?).ok()
    }

    pub fn is_init(&self) -> bool {
        self.header().is_some_and(|header| header.exchange == ExchangeType::IKE_SA_INIT)
    }
}

pub struct Pair {
    start: Instant,
    instant: Instant,
    pub ends: [Endpoint; 2],
    pub events: [Vec<Event>; 2],
    pub in_flight: VecDeque<Datagram>,
    /// All that was ever sent.
    pub sent: Vec<Datagram>,
    /// Those that arrived and were not dropped: a request that comes before its time may come again.
    pub taken: Vec<Datagram>,
}

impl Pair {
    /// Nobody has sent anything.
    pub fn new(kind: Kind) -> Pair {
        static START: OnceLock<Instant> = OnceLock::new();
        let start = *START.get_or_init(|| Instant::now() + Duration::from_secs(1000));
        let ends = [A, B].map(|node| fresh(kind.endpoint(node), 1 + node as u64));
        let mut pair = Pair {
            start,
            instant: start,
            ends,
            events: Default::default(),
            in_flight: VecDeque::new(),
            sent: Vec::new(),
            taken: Vec::new(),
        };
        for node in [B, A] {
            let (now, clock) = (pair.now(), pair.clock());
            // From the first snapshot on it is known what is new for a successor.
            drop(pair.ends[node].snapshot(clock));
            pair.ends[node].set_peer(now, PEER, kind.peer(node)).expect("a good configuration");
            pair.ends[node].start(now);
            pair.settle(node);
        }
        pair
    }

    /// Both ends are connected, and what follows from that is over.
    pub fn connected(kind: Kind) -> Pair {
        let mut pair = Pair::new(kind);
        pair.run(Duration::from_secs(5));
        assert!(pair.is_up(), "not connected");
        pair
    }

    pub fn now(&self) -> Now {
        Now { instant: self.instant, unix: UNIX + (self.instant - self.start).as_secs() }
    }

    pub fn clock(&self) -> BootClock {
        BootClock::new(self.instant, BOOT_MS + (self.instant - self.start).as_millis() as u64)
    }

    /// Takes what comes out of an end; gives the datagrams.
    pub fn take(&mut self, node: usize) -> Vec<Datagram> {
        while let Some(event) = self.ends[node].poll_event() {
            self.events[node].push(event);
        }
        let mut out = Vec::new();
        while let Some(transmit) = self.ends[node].poll_transmit() {
            // Keepalives say nothing.
            if transmit.payload.len() > 1 {
                let hop = transmit.hop.udp().expect("a way of UDP");
                out.push(Datagram { from: hop.local, to: hop.remote, payload: transmit.payload });
            }
        }
        out
    }

    /// What an end says flies.
    pub fn settle(&mut self, node: usize) {
        for datagram in self.take(node) {
            self.sent.push(datagram.clone());
            self.in_flight.push_back(datagram);
        }
        self.ends[node].take_changed();
    }

    /// Hands a datagram to the end that it is for.
    pub fn hand(&mut self, datagram: &Datagram) -> Option<usize> {
        let node = [A, B].into_iter().find(|node| address(*node).ip() == datagram.to.ip())?;
        let now = self.now();
        let path = Arrival::new(datagram.to, datagram.from);
        self.ends[node].handle_message(now, path, &datagram.payload);
        Some(node)
    }

    /// Delivers one of those in flight.
    pub fn deliver(&mut self, index: usize) {
        let Some(datagram) = self.in_flight.remove(index) else { return };
        let before = self.dropped();
        if let Some(node) = self.hand(&datagram) {
            self.settle(node);
        }
        if self.dropped() == before {
            self.taken.push(datagram);
        }
    }

    /// Messages that either end has dropped.
    fn dropped(&self) -> u64 {
        let one = |endpoint: &Endpoint| {
            let counters = endpoint.counters();
            [
                counters.dropped_malformed,
                counters.dropped_unknown_spi,
                counters.dropped_unprotected,
                counters.dropped_bad_tag,
                counters.dropped_outside_window,
                counters.dropped_out_of_place,
                counters.dropped_fragment_replay,
                counters.dropped_limit,
                counters.dropped_rate,
            ]
            .into_iter()
            .sum::<u64>()
        };
        self.ends.iter().map(one).sum()
    }

    pub fn act(&mut self, node: usize, act: impl FnOnce(&mut Endpoint, Now)) {
        let now = self.now();
        act(&mut self.ends[node], now);
        self.settle(node);
    }

    /// Lets time pass up to the next thing that is due, or `at_most`.
    pub fn wait(&mut self, at_most: Duration) {
        let due = self.ends.iter().filter_map(Endpoint::poll_timeout).min();
        self.instant = due.unwrap_or(self.instant).clamp(self.instant, self.instant + at_most);
        for node in [A, B] {
            if self.ends[node].poll_timeout().is_some_and(|at| at <= self.instant) {
                self.act(node, |endpoint, now| endpoint.handle_timeout(now));
                let next = self.ends[node].poll_timeout();
                assert!(next.is_none_or(|next| next > self.instant), "a timer that is due again at once");
            }
        }
    }

    /// Delivers everything in its order while time passes.
    pub fn run(&mut self, time: Duration) {
        let end = self.instant + time;
        for _ in 0..20_000 {
            match self.in_flight.is_empty() {
                false => self.deliver(0),
                true if self.instant >= end => return,
                true => self.wait(end - self.instant),
            }
        }
        panic!("a livelock");
    }

    /// Both believe in the same IKE SA, which has its Child SAs.
    pub fn is_up(&self) -> bool {
        let [a, b] = [A, B].map(|node| self.ends[node].status(PEER).expect("the peer"));
        let usable = |status: &adit_engine::ike::PeerStatus| {
            status.state.is_up() && status.ike.iter().any(|ike| ike.children.iter().any(|child| child.is_sending))
        };
        usable(&a) && usable(&b) && a.ike.iter().any(|ike| b.ike.iter().any(|other| other.spis == ike.spis))
    }
}
