//! What the data plane has been told of the SAs that IKE made: events of the engine in, commands out. Pure.
//!
//! A worker holds one outbound SA to a peer, that of the lane with its number, and a new one takes the place of the old one at
//! once. Inbound SAs stand beside each other for as long as late packets may come.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use adit_channel::LiveSa;
use adit_engine::ike::{ChildKeys, Event};
use adit_proto::control::{Command, Direction, InboundSa, OutboundSa, PeerId, PeerTag, Spi};
use adit_proto::esp;

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

/// The SAs of one peer.
#[derive(Debug)]
struct Peer {
    tag: PeerTag,
    defer_checksums: bool,
    /// Address and number of lanes that the data plane knows.
    told: Option<(SocketAddr, u16)>,
    inbound: BTreeSet<Spi>,
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

    /// Adds a peer of which the data plane knows nothing.
    pub fn add_peer(&mut self, id: PeerId, tag: PeerTag, defer_checksums: bool) {
        let peer = Peer { tag, defer_checksums, told: None, inbound: BTreeSet::new(), outbound: BTreeMap::new() };
        self.peers.insert(id, peer);
    }

    /// Begins again with an empty data plane.
    pub fn clear(&mut self) {
        for peer in self.peers.values_mut() {
            peer.told = None;
            peer.inbound.clear();
            peer.outbound.clear();
        }
    }

    /// Takes over what a data plane has, as far as `owned` says that it is still in use.
    pub fn adopt(&mut self, live: &[(u16, LiveSa)], owned: impl Fn(&LiveSa) -> bool) {
        for (worker, sa) in live.iter().filter(|(_, sa)| owned(sa)) {
            let Some(peer) = self.peers.get_mut(&sa.peer) else { continue };
            match sa.direction {
                Direction::Inbound => drop(peer.inbound.insert(sa.spi)),
                Direction::Outbound => drop(peer.outbound.insert(*worker as u8, sa.spi)),
            }
        }
    }

    /// Whether it is an SA of ours that the data plane has.
    pub fn has(&self, peer: PeerId, direction: Direction, spi: Spi) -> bool {
        self.peers.get(&peer).is_some_and(|peer| match direction {
            Direction::Inbound => peer.inbound.contains(&spi),
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
            Event::Path { peer, path, .. } => self.set(*peer, path.remote),
            Event::State { .. } | Event::IkeUp { .. } | Event::IkeDown { .. } | Event::Refused { .. } | Event::KeyLog(_) => {
                Vec::new()
            }
        }
    }

    /// Tells the data plane where a peer is and on how many lanes it can be reached, if that is news.
    fn set(&mut self, id: PeerId, endpoint: SocketAddr) -> Vec<(u16, Command)> {
        let Terms { workers, path_mtu, .. } = self.terms;
        let Some(peer) = self.peers.get_mut(&id) else { return Vec::new() };
        // Frames of a worker without a lane go to one that has one: those below the number of lanes must all be there.
        let lanes = (0..).take_while(|lane| peer.outbound.contains_key(lane)).count().clamp(1, workers.into()) as u16;
        if peer.told.replace((endpoint, lanes)) == Some((endpoint, lanes)) {
            return Vec::new();
        }
        let command = Command::PeerSet { peer: id, tag: peer.tag, endpoint, path_mtu, lanes, follow: false };
        (0..workers).map(|worker| (worker, command.clone())).collect()
    }

    fn install_inbound(&mut self, keys: &ChildKeys) -> Vec<(u16, Command)> {
        let known = self.peers.get(&keys.peer).and_then(|peer| peer.told).map(|(endpoint, _)| endpoint);
        let mut commands = self.set(keys.peer, known.unwrap_or(keys.path.remote));
        let Some(peer) = self.peers.get_mut(&keys.peer) else { return Vec::new() };
        peer.inbound.insert(keys.spi);
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
            defer_checksums: peer.defer_checksums,
            esn: keys.esn,
        };
        let mut commands = self.set(keys.peer, keys.path.remote);
        commands.push((keys.lane.into(), Command::OutboundSaInstall(sa)));
        commands
    }

    fn remove_inbound(&mut self, id: PeerId, spi: Spi) -> Vec<(u16, Command)> {
        let known = self.peers.get_mut(&id).is_some_and(|peer| peer.inbound.remove(&spi));
        let worker = esp::worker_of(spi, self.terms.workers.into()) as u16;
        let command = Command::SaRemove { peer: id, spi, direction: Direction::Inbound };
        known.then_some((worker, command)).into_iter().collect()
    }

    fn remove_outbound(&mut self, id: PeerId, spi: Spi) -> Vec<(u16, Command)> {
        let Some(peer) = self.peers.get_mut(&id) else { return Vec::new() };
        let Some(lane) = peer.outbound.iter().find(|(_, one)| **one == spi).map(|(lane, _)| *lane) else { return Vec::new() };
        peer.outbound.remove(&lane);
        let endpoint = peer.told.map(|(endpoint, _)| endpoint);
        // The others take the lane's frames before it is gone.
        let mut commands = endpoint.map(|endpoint| self.set(id, endpoint)).unwrap_or_default();
        commands.push((lane.into(), Command::SaRemove { peer: id, spi, direction: Direction::Outbound }));
        commands
    }
}
