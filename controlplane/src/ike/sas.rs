//! What the data plane has been told of peers, their paths, and the SAs that IKE made: events of the engine in, commands out. Pure.
//! Peers with static keys are peers and have paths like the others; their SAs come from [`crate::desired::static_key`].
//!
//! A worker holds one outbound SA for each Child SA of a peer, that of the lane with its number, and a new one takes the place of the
//! old one at once. Inbound SAs stand beside each other for as long as late packets may come. Whose an address is follows from the
//! configuration alone, also while nobody is connected; what was negotiated says by which Child SA a packet goes.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use adit_channel::LiveSa;
use adit_engine::ike::selectors::{SelectorPair, between};
use adit_engine::ike::{ChildKeys, Event, IkeSpis};
use adit_engine::path::{self, PathEvent};
use adit_proto::control::{
    ChildId, Command, Direction, Hop, InboundSa, Mac, OutboundSa, PathId, PeerId, PeerTag, Selector, Spi, UdpHop,
};
use adit_proto::echo::Answer;
use adit_proto::esp;
use adit_proto::limits::{SELECTORS_OF_PEER_MAX, SEQ_MAX_32, SEQ_MAX_64};

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
    /// Which packets are the peer's; in Ethernet mode none.
    pub selectors: Vec<Selector>,
    /// Addresses that always live behind it.
    pub pins: Vec<Mac>,
    /// SAs of each Child SA in each direction, if there are as many workers.
    pub lanes: u16,
    /// Its outbound SAs, where they are not made by IKE.
    pub static_lanes: Option<u16>,
}

/// A peer, and its SAs.
#[derive(Debug)]
struct Peer {
    terms: PeerTerms,
    /// Once that is agreed.
    agreed: Option<Agreed>,
    /// As agreed by IKE.
    children: BTreeMap<ChildId, Child>,
    reported: Reported,
    /// How its paths were set last, and the one that is in use.
    paths: BTreeMap<PathId, Command>,
    used: Option<PathId>,
}

/// What was agreed with a peer that its data plane has to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Agreed {
    /// It answers sealed echoes.
    echo: bool,
    /// What is too long goes in two packets.
    split: bool,
}

/// The SAs of a Child SA.
#[derive(Debug, Default)]
struct Child {
    /// With the selectors that were agreed for each.
    inbound: BTreeMap<Spi, Vec<Selector>>,
    /// By lane.
    outbound: BTreeMap<u8, Spi>,
}

/// What a data plane was told of a peer.
#[derive(Debug, Default)]
struct Reported {
    agreed: Option<Agreed>,
    owned: Selectors,
    children: BTreeMap<ChildId, ReportedChild>,
}

#[derive(Debug, Default)]
struct ReportedChild {
    lanes: Option<u16>,
    selectors: Selectors,
}

/// Selectors that a data plane has, and those that a process before us may have given it.
#[derive(Debug, Default)]
struct Selectors {
    there: Vec<Selector>,
    perhaps: Vec<Selector>,
}

/// How much a worker was told to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    pub peers: usize,
    /// Of all peers, as they are configured.
    pub selectors: usize,
}

/// The SAs of all peers that use IKE.
#[derive(Debug)]
pub struct Sas {
    terms: Terms,
    peers: BTreeMap<PeerId, Peer>,
}

type Commands = Vec<(u16, Command)>;

impl Sas {
    pub fn new(terms: Terms) -> Sas {
        Sas { terms, peers: BTreeMap::new() }
    }

    /// Adds a peer, or changes what the configuration says of one: the commands that this asks for.
    pub fn set_peer(&mut self, id: PeerId, terms: PeerTerms) -> Commands {
        match self.peers.get_mut(&id) {
            Some(peer) => {
                if peer.terms.tag != terms.tag {
                    peer.reported = Reported::default();
                } else if peer.terms.pins != terms.pins {
                    peer.reported.agreed = None;
                }
                peer.terms = terms;
            }
            None => {
                let (children, reported) = (BTreeMap::new(), Reported::default());
                self.peers.insert(id, Peer { terms, agreed: None, children, reported, paths: BTreeMap::new(), used: None });
            }
        }
        self.tell(id)
    }

    /// Selectors that a process before us may have given the data plane: those that are not wanted go, the others are told again.
    pub fn remember(&mut self, id: PeerId, selectors: &[Selector]) -> Commands {
        let Some(peer) = self.peers.get_mut(&id) else { return Vec::new() };
        peer.reported.owned.perhaps = selectors.to_vec();
        if peer.terms.static_lanes.is_some() {
            peer.reported.children.entry(ChildId::ONLY).or_default().selectors.perhaps = selectors.to_vec();
        }
        self.tell(id)
    }

    /// Forgets the peers that are not to stay.
    pub fn retain(&mut self, stays: impl Fn(PeerId) -> bool) {
        self.peers.retain(|id, _| stays(*id));
    }

    /// Begins again with an empty data plane: what it has to be told at once.
    pub fn clear(&mut self) -> Commands {
        for peer in self.peers.values_mut() {
            peer.reported = Reported::default();
            peer.children.clear();
            peer.paths.clear();
            peer.used = None;
        }
        let ids: Vec<PeerId> = self.peers.keys().copied().collect();
        ids.into_iter().flat_map(|id| self.tell(id)).collect()
    }

    /// All that the data plane should have of a peer, but for SAs: it has refused or lost some of it. What it has, that does not change.
    pub fn again(&mut self, id: PeerId) -> Commands {
        let Some(peer) = self.peers.get_mut(&id) else { return Vec::new() };
        peer.reported.agreed = None;
        peer.reported.owned.there.clear();
        for child in peer.reported.children.values_mut() {
            child.lanes = None;
            child.selectors.there.clear();
        }
        let mut commands = self.tell(id);
        let Some(peer) = self.peers.get(&id).filter(|peer| peer.reported.agreed.is_some()) else { return commands };
        let used = peer.used.map(|path| Command::PathUse { peer: id, path });
        let paths: Vec<Command> = peer.paths.values().cloned().chain(used).collect();
        commands.extend(self.every(&paths));
        commands
    }

    /// What every worker was told to have.
    pub fn reported(&self) -> Sizes {
        let reported = self.peers.values().filter(|peer| peer.reported.agreed.is_some());
        reported.fold(Sizes::default(), |Sizes { peers, selectors }, peer| {
            let owned: HashSet<&Selector> = peer.reported.owned.there.iter().collect();
            Sizes { peers: peers + 1, selectors: selectors + owned.len() }
        })
    }

    /// The SAs that the data plane was given and does not have.
    pub fn lost(&self, live: &[(u16, LiveSa)]) -> Vec<(PeerId, Direction, Spi)> {
        let live: HashSet<_> = live.iter().map(|(_, sa)| (sa.peer, sa.direction, sa.spi)).collect();
        let of = |(id, peer): (&PeerId, &Peer)| {
            let (id, mut all) = (*id, Vec::new());
            for child in peer.children.values() {
                all.extend(child.inbound.keys().map(|spi| (id, Direction::Inbound, *spi)));
                all.extend(child.outbound.values().map(|spi| (id, Direction::Outbound, *spi)));
            }
            all
        };
        self.peers.iter().flat_map(of).filter(|sa| !live.contains(sa)).collect()
    }

    /// Takes over what a data plane has, as far as `owned` says that it is still in use. Child SAs of which nothing is go.
    pub fn adopt(&mut self, live: &[(u16, LiveSa)], owned: impl Fn(&LiveSa) -> bool) -> Commands {
        for (worker, sa) in live.iter().filter(|(_, sa)| owned(sa)) {
            let Some(peer) = self.peers.get_mut(&sa.peer) else { continue };
            let child = peer.children.entry(sa.child).or_default();
            match sa.direction {
                Direction::Inbound => drop(child.inbound.insert(sa.spi, Vec::new())),
                Direction::Outbound => drop(child.outbound.insert(*worker as u8, sa.spi)),
            }
        }
        let gone = |(_, sa): &&(u16, LiveSa)| {
            let peer = self.peers.get(&sa.peer).filter(|peer| peer.terms.static_lanes.is_none());
            peer.is_some_and(|peer| !peer.children.contains_key(&sa.child))
        };
        let gone: BTreeSet<(PeerId, ChildId)> = live.iter().filter(gone).map(|(_, sa)| (sa.peer, sa.child)).collect();
        let remove = |(peer, child)| Command::ChildRemove { peer, child };
        self.every(&gone.into_iter().map(remove).collect::<Vec<_>>())
    }

    /// What was agreed for an inbound SA that was taken over. The data plane is told again: it has these selectors, unless the
    /// process before us died on the way.
    pub fn adopt_selectors(&mut self, id: PeerId, child: ChildId, inbound: Spi, agreed: &SelectorPair) -> Commands {
        let Some(peer) = self.peers.get_mut(&id) else { return Vec::new() };
        let selectors = between(&peer.terms.selectors, agreed, SELECTORS_OF_PEER_MAX);
        match peer.children.get_mut(&child).and_then(|child| child.inbound.get_mut(&inbound)) {
            Some(known) => *known = selectors,
            None => return Vec::new(),
        }
        self.tell(id)
    }

    /// How many SAs in each direction the configuration wants of a peer, at most: each of its pairs of selectors may take a Child SA.
    pub fn wanted(&self, id: PeerId) -> u32 {
        let of = |peer: &Peer| peer.terms.selectors.len().max(1) as u32 * u32::from(peer.terms.lanes.min(self.terms.workers));
        self.peers.get(&id).map_or(1, of)
    }

    pub fn workers(&self) -> u16 {
        self.terms.workers
    }

    /// Whether it is an SA of ours that the data plane has.
    pub fn has(&self, peer: PeerId, direction: Direction, spi: Spi) -> bool {
        let mut children = self.peers.get(&peer).into_iter().flat_map(|peer| peer.children.values());
        children.any(|child| match direction {
            Direction::Inbound => child.inbound.contains_key(&spi),
            Direction::Outbound => child.outbound.values().any(|one| *one == spi),
        })
    }

    /// The inbound SAs of a Child SA.
    pub fn inbound_of(&self, peer: PeerId, child: ChildId) -> Vec<Spi> {
        let child = self.peers.get(&peer).and_then(|peer| peer.children.get(&child));
        child.into_iter().flat_map(|child| child.inbound.keys().copied()).collect()
    }

    /// The data plane refused to install an SA.
    pub fn refused(&mut self, peer: PeerId, direction: Direction, spi: Spi) {
        for child in self.peers.get_mut(&peer).into_iter().flat_map(|peer| peer.children.values_mut()) {
            match direction {
                Direction::Inbound => drop(child.inbound.remove(&spi)),
                Direction::Outbound => child.outbound.retain(|_, one| *one != spi),
            }
        }
    }

    /// The commands that an event asks for, each with its worker.
    pub fn apply(&mut self, event: &Event) -> Commands {
        match event {
            Event::InstallInbound(keys) => self.install_inbound(keys),
            Event::InstallOutbound(keys) => self.install_outbound(keys),
            Event::RemoveInbound { peer, spi } => self.remove_inbound(*peer, *spi),
            Event::RemoveOutbound { peer, spi } => self.remove_outbound(*peer, *spi),
            Event::IkeWaits { spis, .. } | Event::IkeUp { spis, .. } => vec![know(spis)],
            Event::IkeDown { spis: IkeSpis { initiator, responder }, .. } => {
                vec![(0, Command::IkeSaRemove { initiator: *initiator, responder: *responder })]
            }
            Event::Path(event) => self.path(event),
            Event::Address { address, known: true } => vec![(0, Command::IkeAddressAdd { address: *address })],
            Event::Address { address, known: false } => vec![(0, Command::IkeAddressRemove { address: *address })],
            Event::State { .. } | Event::ChildFailed { .. } | Event::Refused { .. } | Event::KeyLog(_) => Vec::new(),
        }
    }

    /// What the engine says of the paths of a peer.
    fn path(&mut self, event: &PathEvent) -> Commands {
        let command = match *event {
            PathEvent::Peer { peer, echo, split } => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.agreed = Some(Agreed { echo, split });
                }
                return self.tell(peer);
            }
            PathEvent::Set { peer, path, hop, mtu, mtu_reported, .. } => {
                let hop = match hop {
                    path::Hop::Udp(hop) => {
                        let local = Some(hop.local.ip()).filter(|local| !local.is_unspecified());
                        Hop::Udp(UdpHop { local, interface: hop.interface, ..UdpHop::to(hop.remote) })
                    }
                    path::Hop::Stream(stream) => Hop::Stream(stream),
                };
                Command::PathSet { peer, path, hop, mtu, mtu_reported }
            }
            PathEvent::Use { peer, path } => Command::PathUse { peer, path },
            PathEvent::Remove { peer, path } => Command::PathRemove { peer, path },
            PathEvent::Echo { peer, path, id, size } => return self.echo(peer, path, id, size),
            PathEvent::BlackHole { .. } => return Vec::new(),
        };
        self.note_path(&command);
        self.every(&[command])
    }

    /// Keeps what a data plane has to have of paths.
    fn note_path(&mut self, command: &Command) {
        let (Command::PathSet { peer: id, path, .. }
        | Command::PathUse { peer: id, path }
        | Command::PathRemove { peer: id, path }) = command
        else {
            return;
        };
        let Some(peer) = self.peers.get_mut(id) else { return };
        match command {
            Command::PathSet { .. } => drop(peer.paths.insert(*path, command.clone())),
            Command::PathUse { .. } => peer.used = Some(*path),
            _ => {
                peer.paths.remove(path);
                peer.used = peer.used.filter(|used| used != path);
            }
        }
    }

    /// An echo is sealed by an SA of the first lane that there is, on its worker. Without one, nothing can be asked yet.
    fn echo(&self, id: PeerId, path: PathId, echo: u64, size: u16) -> Commands {
        let Some(peer) = self.peers.get(&id) else { return Vec::new() };
        let by_ike = || peer.children.values().filter_map(|child| child.outbound.keys().next().copied()).min();
        let lane = peer.terms.static_lanes.map(|_| 0).or_else(by_ike);
        let command = Command::Echo { peer: id, path, id: echo, size, answer: Answer::AsItCame };
        lane.map(|lane| (lane.into(), command)).into_iter().collect()
    }

    /// For all workers.
    fn every(&self, commands: &[Command]) -> Commands {
        (0..self.terms.workers).flat_map(|worker| commands.iter().map(move |command| (worker, command.clone()))).collect()
    }

    /// Brings what the data plane knows of a peer and its Child SAs to what should be, but for SAs. What is new comes before what is
    /// old goes, so that no packet that is in both is without a way in between.
    fn tell(&mut self, id: PeerId) -> Commands {
        let mut commands = self.tell_new(id);
        commands.extend(self.tell_old(id));
        commands
    }

    fn tell_new(&mut self, id: PeerId) -> Commands {
        let workers = self.terms.workers;
        let Some(peer) = self.peers.get_mut(&id) else { return Vec::new() };
        // Who is configured with selectors owns them from the start; one without is nothing before it can be reached.
        let known = peer.agreed.or((!peer.terms.selectors.is_empty()).then(Agreed::default));
        let Some(agreed @ Agreed { echo, split }) = known else { return Vec::new() };
        let mut commands = Vec::new();
        if peer.reported.agreed.replace(agreed) != Some(agreed) {
            // Addresses are pinned again with every change; that changes nothing.
            commands.push(Command::PeerSet { peer: id, tag: peer.terms.tag, echo, split });
            commands.extend(peer.terms.pins.iter().map(|mac| Command::FdbPin { mac: *mac, peer: id }));
        }
        let new = peer.reported.owned.add(&peer.terms.selectors);
        commands.extend(new.into_iter().map(|selector| Command::SelectorAdd { peer: id, selector }));
        for (child, wanted) in peer.wanted(workers) {
            let reported = peer.reported.children.entry(child).or_default();
            if reported.lanes.replace(wanted.lanes) != Some(wanted.lanes) {
                commands.push(Command::ChildSet { peer: id, child, lanes: wanted.lanes });
            }
            let new = reported.selectors.add(&wanted.selectors);
            commands.extend(new.into_iter().map(|selector| Command::ChildSelectorAdd { peer: id, child, selector }));
        }
        self.every(&commands)
    }

    fn tell_old(&mut self, id: PeerId) -> Commands {
        let workers = self.terms.workers;
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.reported.agreed.is_some()) else { return Vec::new() };
        let mut commands = Vec::new();
        let wanted = peer.wanted(workers);
        for (child, reported) in &mut peer.reported.children {
            match wanted.get(child) {
                Some(wanted) => {
                    let old = reported.selectors.remove(&wanted.selectors).into_iter();
                    commands.extend(old.map(|selector| Command::ChildSelectorRemove { peer: id, child: *child, selector }));
                }
                None => commands.push(Command::ChildRemove { peer: id, child: *child }),
            }
        }
        peer.reported.children.retain(|child, _| wanted.contains_key(child));
        let old = peer.reported.owned.remove(&peer.terms.selectors).into_iter();
        commands.extend(old.map(|selector| Command::SelectorRemove { peer: id, selector }));
        self.every(&commands)
    }

    fn install_inbound(&mut self, keys: &ChildKeys) -> Commands {
        let Some(peer) = self.peers.get_mut(&keys.peer) else { return Vec::new() };
        let selectors = between(&peer.terms.selectors, &keys.selectors, SELECTORS_OF_PEER_MAX);
        peer.children.entry(keys.child).or_default().inbound.insert(keys.spi, selectors);
        let mut commands = self.tell(keys.peer);
        let worker = esp::worker_of(keys.spi, self.terms.workers.into()) as u16;
        let sa = InboundSa {
            spi: keys.spi,
            peer: keys.peer,
            child: keys.child,
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

    fn install_outbound(&mut self, keys: &ChildKeys) -> Commands {
        // The peer has more lanes than we have workers: what it receives on the others, nobody sends.
        if u16::from(keys.lane) >= self.terms.workers {
            return Vec::new();
        }
        let Some(peer) = self.peers.get_mut(&keys.peer) else { return Vec::new() };
        peer.children.entry(keys.child).or_default().outbound.insert(keys.lane, keys.spi);
        let sa = OutboundSa {
            spi: keys.spi,
            peer: keys.peer,
            child: keys.child,
            suite: keys.suite,
            key: keys.key.clone(),
            seq_next: 1,
            seq_limit: if keys.esn { SEQ_MAX_64 } else { SEQ_MAX_32 },
            defer_checksums: peer.terms.defer_checksums,
            esn: keys.esn,
        };
        let mut commands = self.tell(keys.peer);
        commands.push((keys.lane.into(), Command::OutboundSaInstall(sa)));
        commands
    }

    fn remove_inbound(&mut self, id: PeerId, spi: Spi) -> Commands {
        let Some(peer) = self.peers.get_mut(&id) else { return Vec::new() };
        if !peer.children.values_mut().any(|child| child.inbound.remove(&spi).is_some()) {
            return Vec::new();
        }
        peer.forget_empty();
        let worker = esp::worker_of(spi, self.terms.workers.into()) as u16;
        let mut commands = vec![(worker, Command::SaRemove { peer: id, spi, direction: Direction::Inbound })];
        commands.extend(self.tell(id));
        commands
    }

    fn remove_outbound(&mut self, id: PeerId, spi: Spi) -> Commands {
        let Some(peer) = self.peers.get_mut(&id) else { return Vec::new() };
        let mut lanes = peer.children.values_mut().filter_map(|child| {
            let lane = child.outbound.iter().find(|(_, one)| **one == spi).map(|(lane, _)| *lane)?;
            child.outbound.remove(&lane);
            Some(lane)
        });
        let Some(lane) = lanes.next() else { return Vec::new() };
        drop(lanes);
        // The others take the lane's frames before it is gone.
        let mut commands = self.tell_new(id);
        commands.push((lane.into(), Command::SaRemove { peer: id, spi, direction: Direction::Outbound }));
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.forget_empty();
        }
        commands.extend(self.tell_old(id));
        commands
    }
}

/// What a data plane should know of a Child SA.
struct WantedChild {
    lanes: u16,
    selectors: Vec<Selector>,
}

impl Peer {
    fn forget_empty(&mut self) {
        self.children.retain(|_, child| !(child.inbound.is_empty() && child.outbound.is_empty()));
    }

    /// The Child SAs as the data plane should know them.
    fn wanted(&self, workers: u16) -> BTreeMap<ChildId, WantedChild> {
        if let Some(lanes) = self.terms.static_lanes {
            return BTreeMap::from([(ChildId::ONLY, WantedChild { lanes, selectors: self.terms.selectors.clone() })]);
        }
        let mut room = SELECTORS_OF_PEER_MAX;
        let wanted = |(id, child): (&ChildId, &Child)| {
            // Frames of a worker without a lane go to one that has one: those below the number of lanes must all be there.
            let lanes = (0..).take_while(|lane| child.outbound.contains_key(lane)).count().min(workers.into()) as u16;
            let mut selectors: Vec<Selector> = Vec::new();
            for selector in child.inbound.values().flatten() {
                if selectors.len() < room && !selectors.contains(selector) {
                    selectors.push(*selector);
                }
            }
            room -= selectors.len();
            (*id, WantedChild { lanes, selectors })
        };
        self.children.iter().map(wanted).collect()
    }
}

impl Selectors {
    /// Takes in what is wanted; gives what the data plane is to be told.
    fn add(&mut self, wanted: &[Selector]) -> Vec<Selector> {
        let new: Vec<Selector> = wanted.iter().filter(|one| !self.there.contains(one)).copied().collect();
        self.there.extend(&new);
        new
    }

    /// Takes out what is not wanted; gives what the data plane is to be told.
    fn remove(&mut self, wanted: &[Selector]) -> Vec<Selector> {
        let mut old: Vec<Selector> = self.there.extract_if(.., |one| !wanted.contains(one)).collect();
        for one in std::mem::take(&mut self.perhaps) {
            if !wanted.contains(&one) && !old.contains(&one) {
                old.push(one);
            }
        }
        old
    }
}

/// Lets messages of this IKE SA come up before those of strangers.
pub fn know(spis: &IkeSpis) -> (u16, Command) {
    (0, Command::IkeSaAdd { initiator: spis.initiator, responder: spis.responder })
}

#[cfg(test)]
mod tests;
