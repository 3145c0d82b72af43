//! What the data plane has been told of peers, their paths, and the SAs that IKE made: events of the engine in, commands out. Pure.
//! Peers with static keys are peers and have paths like the others; their SAs come from [`crate::desired::static_key`].
//!
//! A worker holds one outbound SA to a peer, that of the lane with its number, and a new one takes the place of the old one at
//! once. Inbound SAs stand beside each other for as long as late packets may come.

use std::collections::BTreeMap;

use adit_channel::LiveSa;
use adit_engine::ike::selectors::{SelectorPair, narrow};
use adit_engine::ike::{ChildKeys, Event, IkeSpis};
use adit_engine::path::PathEvent;
use adit_proto::control::{Command, Direction, Hop, InboundSa, Mac, OutboundSa, PathId, PeerId, PeerTag, Selector, Spi, UdpHop};
use adit_proto::echo::Answer;
use adit_proto::esp;
use adit_proto::ike::IpSelector;
use adit_proto::limits::SELECTORS_OF_PEER_MAX as SELECTORS_MAX;

/// Sequence numbers end here without ESN (RFC 4303 §2.2: they must not cycle), and with it.
const SEQ_LIMIT_32: u64 = u32::MAX as u64;
const SEQ_LIMIT_64: u64 = u64::MAX - 1;

/// What is the same for all SAs of a data plane.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub workers: u16,
    /// Replay window, in packets.
    pub window: u16,
}

/// What the configuration says of a peer.
#[derive(Clone, Debug)]
pub struct PeerTerms {
    pub tag: PeerTag,
    pub defer_checksums: bool,
    /// Which packets may be the peer's at most; in Ethernet mode none.
    pub selectors: Vec<Selector>,
    /// Addresses that always live behind it.
    pub pins: Vec<Mac>,
    /// Its outbound SAs, where they are not made by IKE.
    pub static_lanes: Option<u16>,
}

/// The SAs of one peer.
#[derive(Debug)]
struct Peer {
    terms: PeerTerms,
    /// Whether it answers sealed echoes, once that is agreed.
    echo: Option<bool>,
    /// The lanes and whether it answers echoes, as the data plane was told.
    told: Option<(u16, bool)>,
    /// With the selectors that were agreed for each.
    inbound: BTreeMap<Spi, Vec<Selector>>,
    /// Selectors that the data plane has.
    selectors: Vec<Selector>,
    /// By lane.
    outbound: BTreeMap<u8, Spi>,
}

/// The SAs of all peers that use IKE.
#[derive(Debug)]
pub struct Sas {
    terms: Terms,
    peers: BTreeMap<PeerId, Peer>,
}

impl Sas {
    pub fn new(terms: Terms) -> Sas {
        Sas { terms, peers: BTreeMap::new() }
    }

    /// Adds a peer of which the data plane knows nothing, or changes what the configuration says of one: the commands that this asks
    /// for.
    pub fn set_peer(&mut self, id: PeerId, terms: PeerTerms) -> Vec<(u16, Command)> {
        if let Some(peer) = self.peers.get_mut(&id) {
            if peer.terms.tag != terms.tag || peer.terms.pins != terms.pins {
                peer.told = None;
            }
            peer.terms = terms;
            return self.tell_peer(id);
        }
        let (inbound, outbound) = (BTreeMap::new(), BTreeMap::new());
        self.peers.insert(id, Peer { terms, echo: None, told: None, inbound, selectors: Vec::new(), outbound });
        Vec::new()
    }

    /// Forgets the peers that are not to stay.
    pub fn retain(&mut self, stays: impl Fn(PeerId) -> bool) {
        self.peers.retain(|id, _| stays(*id));
    }

    /// Begins again with an empty data plane.
    pub fn clear(&mut self) {
        for peer in self.peers.values_mut() {
            peer.told = None;
            peer.selectors.clear();
            peer.inbound.clear();
            peer.outbound.clear();
        }
    }

    /// Takes over what a data plane has, as far as `owned` says that it is still in use.
    pub fn adopt(&mut self, live: &[(u16, LiveSa)], owned: impl Fn(&LiveSa) -> bool) {
        for (worker, sa) in live.iter().filter(|(_, sa)| owned(sa)) {
            let Some(peer) = self.peers.get_mut(&sa.peer) else { continue };
            match sa.direction {
                Direction::Inbound => drop(peer.inbound.insert(sa.spi, Vec::new())),
                Direction::Outbound => drop(peer.outbound.insert(*worker as u8, sa.spi)),
            }
        }
    }

    /// What was agreed for an inbound SA that was taken over. The data plane is told again: it has these selectors, unless the
    /// process before us died on the way.
    pub fn adopt_selectors(&mut self, id: PeerId, inbound: Spi, agreed: &SelectorPair) -> Vec<(u16, Command)> {
        let Some(peer) = self.peers.get_mut(&id) else { return Vec::new() };
        let selectors = peer.terms.agreed(agreed);
        match peer.inbound.get_mut(&inbound) {
            Some(known) => *known = selectors,
            None => return Vec::new(),
        }
        self.tell_selectors(id)
    }

    pub fn workers(&self) -> u16 {
        self.terms.workers
    }

    /// Whether it is an SA of ours that the data plane has.
    pub fn has(&self, peer: PeerId, direction: Direction, spi: Spi) -> bool {
        self.peers.get(&peer).is_some_and(|peer| match direction {
            Direction::Inbound => peer.inbound.contains_key(&spi),
            Direction::Outbound => peer.outbound.values().any(|one| *one == spi),
        })
    }

    /// The data plane refused to install an SA.
    pub fn refused(&mut self, peer: PeerId, direction: Direction, spi: Spi) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            match direction {
                Direction::Inbound => drop(peer.inbound.remove(&spi)),
                Direction::Outbound => peer.outbound.retain(|_, one| *one != spi),
            }
        }
    }

    /// The commands that an event asks for, each with its worker.
    pub fn apply(&mut self, event: &Event) -> Vec<(u16, Command)> {
        match event {
            Event::InstallInbound(keys) => self.install_inbound(keys),
            Event::InstallOutbound(keys) => self.install_outbound(keys),
            Event::RemoveInbound { peer, spi } => self.remove_inbound(*peer, *spi),
            Event::RemoveOutbound { peer, spi } => self.remove_outbound(*peer, *spi),
            Event::IkeUp { spis, .. } => vec![know(spis)],
            Event::IkeDown { spis: IkeSpis { initiator, responder }, .. } => {
                vec![(0, Command::IkeSaRemove { initiator: *initiator, responder: *responder })]
            }
            Event::Path(event) => self.path(event),
            Event::State { .. } | Event::ChildFailed { .. } | Event::Refused { .. } | Event::KeyLog(_) => Vec::new(),
        }
    }

    /// What the engine says of the paths of a peer.
    fn path(&mut self, event: &PathEvent) -> Vec<(u16, Command)> {
        let command = match *event {
            PathEvent::Peer { peer, echo } => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.echo = Some(echo);
                }
                return self.tell_peer(peer);
            }
            PathEvent::Set { peer, path, hop, mtu, mtu_told, .. } => {
                let (local, interface) = (Some(hop.local.ip()).filter(|local| !local.is_unspecified()), hop.interface);
                let hop = UdpHop { local, interface, ..UdpHop::to(hop.remote) };
                Command::PathSet { peer, path, hop: Hop::Udp(hop), mtu, mtu_told }
            }
            PathEvent::Use { peer, path } => Command::PathUse { peer, path },
            PathEvent::Remove { peer, path } => Command::PathRemove { peer, path },
            PathEvent::Echo { peer, path, id, size } => return self.echo(peer, path, id, size),
            PathEvent::BlackHole { .. } => return Vec::new(),
        };
        self.every(&[command])
    }

    /// An echo is sealed by the SA of the first lane, on its worker. Without one, nothing can be asked yet.
    fn echo(&self, id: PeerId, path: PathId, echo: u64, size: u16) -> Vec<(u16, Command)> {
        let Some(peer) = self.peers.get(&id) else { return Vec::new() };
        let lane = peer.terms.static_lanes.map(|_| 0).or_else(|| peer.outbound.keys().next().copied());
        let command = Command::Echo { peer: id, path, id: echo, size, answer: Answer::AsItCame };
        lane.map(|lane| (lane.into(), command)).into_iter().collect()
    }

    /// Tells the data plane of a peer and on how many lanes it can be reached, if that is news.
    fn tell_peer(&mut self, id: PeerId) -> Vec<(u16, Command)> {
        let workers = self.terms.workers;
        let Some(peer) = self.peers.get_mut(&id) else { return Vec::new() };
        let Some(echo) = peer.echo else { return Vec::new() };
        // Frames of a worker without a lane go to one that has one: those below the number of lanes must all be there.
        let by_ike = (0..).take_while(|lane| peer.outbound.contains_key(lane)).count().clamp(1, workers.into()) as u16;
        let lanes = peer.terms.static_lanes.unwrap_or(by_ike);
        if peer.told.replace((lanes, echo)) == Some((lanes, echo)) {
            return Vec::new();
        }
        // Addresses are pinned again with every change; that changes nothing.
        let mut commands = vec![Command::PeerSet { peer: id, tag: peer.terms.tag, lanes, echo }];
        commands.extend(peer.terms.pins.iter().map(|mac| Command::FdbPin { mac: *mac, peer: id }));
        self.every(&commands)
    }

    /// For all workers.
    fn every(&self, commands: &[Command]) -> Vec<(u16, Command)> {
        (0..self.terms.workers).flat_map(|worker| commands.iter().map(move |command| (worker, command.clone()))).collect()
    }

    /// Brings the selectors of a peer in the data plane to what its inbound SAs were agreed for. New ones come before old ones go,
    /// so that no packet that both have is without a peer in between.
    fn tell_selectors(&mut self, id: PeerId) -> Vec<(u16, Command)> {
        let Some(peer) = self.peers.get_mut(&id) else { return Vec::new() };
        let mut wanted: Vec<Selector> = Vec::new();
        for selector in peer.inbound.values().flatten() {
            if wanted.len() < SELECTORS_MAX && !wanted.contains(selector) {
                wanted.push(*selector);
            }
        }
        let add = |selector: &Selector| Command::SelectorAdd { peer: id, selector: *selector };
        let remove = |selector: &Selector| Command::SelectorRemove { peer: id, selector: *selector };
        let new = wanted.iter().filter(|selector| !peer.selectors.contains(selector)).map(add);
        let old = peer.selectors.iter().filter(|selector| !wanted.contains(selector)).map(remove);
        let commands: Vec<Command> = new.chain(old).collect();
        peer.selectors = wanted;
        self.every(&commands)
    }

    fn install_inbound(&mut self, keys: &ChildKeys) -> Vec<(u16, Command)> {
        let mut commands = Vec::new();
        let Some(peer) = self.peers.get_mut(&keys.peer) else { return Vec::new() };
        peer.inbound.insert(keys.spi, peer.terms.agreed(&keys.selectors));
        commands.extend(self.tell_selectors(keys.peer));
        let worker = esp::worker_of(keys.spi, self.terms.workers.into()) as u16;
        let sa = InboundSa {
            spi: keys.spi,
            peer: keys.peer,
            suite: keys.suite,
            key: keys.key.clone(),
            window: self.terms.window,
            seq_top: 0,
            resync: false,
            esn: keys.esn,
        };
        commands.push((worker, Command::InboundSaInstall(sa)));
        commands
    }

    fn install_outbound(&mut self, keys: &ChildKeys) -> Vec<(u16, Command)> {
        // The peer has more lanes than we have workers: what it receives on the others, nobody sends.
        if u16::from(keys.lane) >= self.terms.workers {
            return Vec::new();
        }
        let Some(peer) = self.peers.get_mut(&keys.peer) else { return Vec::new() };
        peer.outbound.insert(keys.lane, keys.spi);
        let sa = OutboundSa {
            spi: keys.spi,
            peer: keys.peer,
            suite: keys.suite,
            key: keys.key.clone(),
            seq_next: 1,
            seq_limit: if keys.esn { SEQ_LIMIT_64 } else { SEQ_LIMIT_32 },
            defer_checksums: peer.terms.defer_checksums,
            esn: keys.esn,
        };
        let mut commands = self.tell_peer(keys.peer);
        commands.push((keys.lane.into(), Command::OutboundSaInstall(sa)));
        commands
    }

    fn remove_inbound(&mut self, id: PeerId, spi: Spi) -> Vec<(u16, Command)> {
        if self.peers.get_mut(&id).and_then(|peer| peer.inbound.remove(&spi)).is_none() {
            return Vec::new();
        }
        let worker = esp::worker_of(spi, self.terms.workers.into()) as u16;
        let mut commands = vec![(worker, Command::SaRemove { peer: id, spi, direction: Direction::Inbound })];
        commands.extend(self.tell_selectors(id));
        commands
    }

    fn remove_outbound(&mut self, id: PeerId, spi: Spi) -> Vec<(u16, Command)> {
        let Some(peer) = self.peers.get_mut(&id) else { return Vec::new() };
        let Some(lane) = peer.outbound.iter().find(|(_, one)| **one == spi).map(|(lane, _)| *lane) else { return Vec::new() };
        peer.outbound.remove(&lane);
        // The others take the lane's frames before it is gone.
        let mut commands = self.tell_peer(id);
        commands.push((lane.into(), Command::SaRemove { peer: id, spi, direction: Direction::Outbound }));
        commands
    }
}

/// Lets messages of this IKE SA come up before those of strangers.
pub fn know(spis: &IkeSpis) -> (u16, Command) {
    (0, Command::IkeSaAdd { initiator: spis.initiator, responder: spis.responder })
}

impl PeerTerms {
    /// What was agreed, as far as the configuration allows it: both ends agree on lists of local and of remote addresses, and the
    /// configuration on pairs of them.
    fn agreed(&self, pair: &SelectorPair) -> Vec<Selector> {
        let mut agreed: Vec<Selector> = Vec::new();
        for ours in &self.selectors {
            let side = |addresses, ports| [IpSelector { protocol: ours.protocol, ports, addresses }];
            let local = narrow(&pair.local, &side(ours.local, ours.local_ports));
            let remote = narrow(&pair.remote, &side(ours.remote, ours.remote_ports));
            for (local, remote) in local.iter().flat_map(|local| remote.iter().map(move |remote| (local, remote))) {
                if agreed.len() == SELECTORS_MAX {
                    return agreed;
                }
                // A side that names a protocol speaks for both.
                let protocol = if local.protocol == 0 { remote.protocol } else { local.protocol };
                let selector = Selector {
                    local: local.addresses,
                    remote: remote.addresses,
                    protocol,
                    local_ports: local.ports,
                    remote_ports: remote.ports,
                };
                let fits = remote.protocol == 0 || remote.protocol == protocol;
                if fits && selector.is_valid() && !agreed.contains(&selector) {
                    agreed.push(selector);
                }
            }
        }
        agreed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PeerId = PeerId(7);

    fn terms(static_lanes: Option<u16>) -> PeerTerms {
        PeerTerms { tag: PeerTag(9), defer_checksums: false, selectors: Vec::new(), pins: vec![[2; 6]], static_lanes }
    }

    fn of_worker(worker: u16, commands: Vec<(u16, Command)>) -> Vec<Command> {
        commands.into_iter().filter(|(one, _)| *one == worker).map(|(_, command)| command).collect()
    }

    #[test]
    fn a_peer_with_a_static_key_has_its_lanes_pins_and_paths_at_once() {
        let mut sas = Sas::new(Terms { workers: 2, window: 64 });
        assert_eq!(sas.set_peer(PEER, terms(Some(2))), []);
        let told = sas.apply(&Event::Path(PathEvent::Peer { peer: PEER, echo: true }));
        let set = Command::PeerSet { peer: PEER, tag: PeerTag(9), lanes: 2, echo: true };
        let pin = Command::FdbPin { mac: [2; 6], peer: PEER };
        assert_eq!(of_worker(0, told.clone()), [set.clone(), pin.clone()]);
        assert_eq!(of_worker(1, told), [set.clone(), pin]);
        let (local, remote) = ("192.0.2.1:4500".parse().unwrap(), "192.0.2.2:4500".parse().unwrap());
        let (path, hop) = (PathId::FIRST, adit_engine::path::Hop::new(local, remote));
        let told =
            sas.apply(&Event::Path(PathEvent::Set { peer: PEER, path, hop, mtu: 1400, mtu_told: 1500, encapsulate: true }));
        let hop = Hop::Udp(UdpHop { local: Some([192, 0, 2, 1].into()), ..UdpHop::to(remote) });
        assert_eq!(of_worker(1, told), [Command::PathSet { peer: PEER, path, hop, mtu: 1400, mtu_told: 1500 }]);
        // The same once more is no news; another pin is.
        assert_eq!(sas.set_peer(PEER, terms(Some(2))), []);
        let more = PeerTerms { pins: vec![[4; 6]], ..terms(Some(2)) };
        assert_eq!(of_worker(0, sas.set_peer(PEER, more)), [set, Command::FdbPin { mac: [4; 6], peer: PEER }]);
    }

    #[test]
    fn an_echo_goes_by_a_worker_that_can_seal_it() {
        let mut sas = Sas::new(Terms { workers: 2, window: 64 });
        let echo = Event::Path(PathEvent::Echo { peer: PEER, path: PathId::FIRST, id: 5, size: 1280 });
        sas.set_peer(PEER, terms(None));
        assert_eq!(sas.apply(&echo), [], "no SA yet");
        sas.set_peer(PEER, terms(Some(1)));
        assert_eq!(sas.apply(&echo).len(), 1);
    }
}
