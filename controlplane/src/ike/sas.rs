//! What the data plane has been told of the SAs that IKE made: events of the engine in, commands out. Pure.
//!
//! A worker holds one outbound SA to a peer, that of the lane with its number, and a new one takes the place of the old one at
//! once. Inbound SAs stand beside each other for as long as late packets may come.

use std::collections::BTreeMap;

use adit_channel::LiveSa;
use adit_engine::ike::selectors::{SelectorPair, narrow};
use adit_engine::ike::{ChildKeys, Event, Path};
use adit_proto::control::{Command, Direction, Hop, InboundSa, Mac, OutboundSa, PathId, PeerId, PeerTag, Selector, Spi, UdpHop};
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
    /// Largest outer IP packet, in bytes.
    pub path_mtu: u16,
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
}

/// The SAs of one peer.
#[derive(Debug)]
struct Peer {
    terms: PeerTerms,
    /// Path and number of lanes that the data plane knows.
    reported: Option<(UdpHop, u16)>,
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

    /// Adds a peer of which the data plane knows nothing, or changes what the configuration says of one.
    pub fn set_peer(&mut self, id: PeerId, terms: PeerTerms) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.terms = terms;
            return;
        }
        let (inbound, outbound) = (BTreeMap::new(), BTreeMap::new());
        self.peers.insert(id, Peer { terms, reported: None, inbound, selectors: Vec::new(), outbound });
    }

    /// Forgets the peers that are not to stay.
    pub fn retain(&mut self, stays: impl Fn(PeerId) -> bool) {
        self.peers.retain(|id, _| stays(*id));
    }

    /// The largest outer packet is another one now: the commands that say so.
    pub fn set_path_mtu(&mut self, path_mtu: u16) -> Vec<(u16, Command)> {
        if std::mem::replace(&mut self.terms.path_mtu, path_mtu) == path_mtu {
            return Vec::new();
        }
        let told = self.peers.iter_mut().filter_map(|(id, peer)| Some((*id, peer.reported.take()?.0)));
        let peers: Vec<_> = told.collect();
        peers.into_iter().flat_map(|(id, endpoint)| self.set(id, endpoint)).collect()
    }

    /// Begins again with an empty data plane.
    pub fn clear(&mut self) {
        for peer in self.peers.values_mut() {
            peer.reported = None;
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

    /// Any inbound SA of a peer, if it has one.
    pub fn inbound_of(&self, id: PeerId) -> Option<Spi> {
        self.peers.get(&id)?.inbound.keys().next_back().copied()
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
    ///
    /// `hop_of` says how the data plane reaches the other end of a path.
    pub fn apply(&mut self, event: &Event, hop_of: impl Fn(&Path) -> UdpHop) -> Vec<(u16, Command)> {
        match event {
            Event::InstallInbound(keys) => self.install_inbound(keys, hop_of),
            Event::InstallOutbound(keys) => self.install_outbound(keys, hop_of),
            Event::RemoveInbound { peer, spi } => self.remove_inbound(*peer, *spi),
            Event::RemoveOutbound { peer, spi } => self.remove_outbound(*peer, *spi),
            Event::Path { peer, path, .. } => self.set(*peer, hop_of(path)),
            Event::State { .. }
            | Event::IkeUp { .. }
            | Event::IkeDown { .. }
            | Event::ChildFailed { .. }
            | Event::Refused { .. }
            | Event::KeyLog(_) => Vec::new(),
        }
    }

    /// Tells the data plane where a peer is and on how many lanes it can be reached, if that is news.
    fn set(&mut self, id: PeerId, hop: UdpHop) -> Vec<(u16, Command)> {
        let Terms { workers, path_mtu, .. } = self.terms;
        let Some(peer) = self.peers.get_mut(&id) else { return Vec::new() };
        // Frames of a worker without a lane go to one that has one: those below the number of lanes must all be there.
        let lanes = (0..).take_while(|lane| peer.outbound.contains_key(lane)).count().clamp(1, workers.into()) as u16;
        let before = peer.reported.replace((hop, lanes));
        let mut commands = Vec::new();
        if before.is_none_or(|(_, known)| known != lanes) {
            // Addresses are pinned again with every change; that changes nothing.
            commands.push(Command::PeerSet { peer: id, tag: peer.terms.tag, lanes, echo: false });
            commands.extend(peer.terms.pins.iter().map(|mac| Command::FdbPin { mac: *mac, peer: id }));
        }
        if before.is_none_or(|(known, _)| known != hop) {
            let path = PathId::FIRST;
            commands.push(Command::PathSet { peer: id, path, hop: Hop::Udp(hop), mtu: path_mtu });
            commands.push(Command::PathUse { peer: id, path });
        }
        (0..workers).flat_map(|worker| commands.iter().map(move |command| (worker, command.clone()))).collect()
    }

    /// Brings the selectors of a peer in the data plane to what its inbound SAs were agreed for. New ones come before old ones go,
    /// so that no packet that both have is without a peer in between.
    fn tell_selectors(&mut self, id: PeerId) -> Vec<(u16, Command)> {
        let workers = self.terms.workers;
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
        commands.iter().flat_map(|command| (0..workers).map(move |worker| (worker, command.clone()))).collect()
    }

    fn install_inbound(&mut self, keys: &ChildKeys, hop_of: impl Fn(&Path) -> UdpHop) -> Vec<(u16, Command)> {
        let known = self.peers.get(&keys.peer).and_then(|peer| peer.reported).map(|(hop, _)| hop);
        let mut commands = self.set(keys.peer, known.unwrap_or_else(|| hop_of(&keys.path)));
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

    fn install_outbound(&mut self, keys: &ChildKeys, hop_of: impl Fn(&Path) -> UdpHop) -> Vec<(u16, Command)> {
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
        let mut commands = self.set(keys.peer, hop_of(&keys.path));
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
        let hop = peer.reported.map(|(hop, _)| hop);
        // The others take the lane's frames before it is gone.
        let mut commands = hop.map(|hop| self.set(id, hop)).unwrap_or_default();
        commands.push((lane.into(), Command::SaRemove { peer: id, spi, direction: Direction::Outbound }));
        commands
    }
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
