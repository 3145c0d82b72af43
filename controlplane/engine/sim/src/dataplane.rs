//! A model of the data plane: what is installed, and whether packets of one end open at the other.

use std::collections::{BTreeMap, BTreeSet};

use adit_engine::ike::{ChildKeys, Event, Restored, Usage};
use adit_engine::path::{Hop, PathEvent, PathId};
use adit_proto::control::{ChildId, PeerId, Spi};

use crate::link::headers_of;
use crate::load::Esp;

/// Bytes of every packet that is not as long as its path takes.
const PACKET_LEN: usize = 100;

/// A path as the data plane was told of it last.
#[derive(Clone, Copy)]
struct Path {
    hop: Hop,
    encapsulate: bool,
    /// The longest IP packet that may be sent.
    mtu: u16,
}

/// An echo that the engine wants to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub peer: PeerId,
    pub path: PathId,
    pub id: u64,
    pub size: u16,
}

#[derive(Default)]
pub struct DataPlane {
    pub inbound: BTreeMap<Spi, ChildKeys>,
    /// In the order in which they were installed; of those for the same child and lane the last one is used.
    pub outbound: Vec<ChildKeys>,
    /// By inbound SPI.
    pub usage: BTreeMap<Spi, Usage>,
    paths: BTreeMap<(PeerId, PathId), Path>,
    used: BTreeMap<PeerId, PathId>,
    sealed: u64,
    /// The newest packet of each SA, and where the newest of a peer came from.
    newest: BTreeMap<Spi, u64>,
    seen: BTreeMap<PeerId, Hop>,
    /// Every outbound SA that ever was, by its key: one that comes again would repeat nonces.
    ever: Vec<[u8; 32]>,
    /// Inbound SAs that the engine was told it has no more.
    missing: BTreeSet<Spi>,
    /// A process went on with an old vault: an answer to its predecessor may be taken for the answer to its own request with the
    /// same message id, and then the ends have different keys until the next rekey.
    pub out_of_step: bool,
    pub opened: u64,
    pub lost: Vec<Spi>,
    /// Every packet is as long as may be sent on its path.
    pub sends_longest: bool,
    /// Echoes to be sent.
    pub(crate) asked: Vec<Asked>,
}

impl DataPlane {
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::InstallInbound(keys) => {
                assert!(keys.spi.0 >= adit_proto::esp::SPI_MIN, "an SPI that could be STUN or ChannelData: {:08x}", keys.spi.0);
                assert_eq!(keys.spi.0 & 0x3f, u32::from(keys.lane), "the SPI names the lane");
                let before = self.inbound.insert(keys.spi, (**keys).clone());
                assert!(before.is_none(), "inbound SA {:08x} installed twice", keys.spi.0);
                self.usage.insert(keys.spi, Usage::default());
            }
            Event::InstallOutbound(keys) => {
                assert!(!self.ever.contains(&keys.key.key), "outbound SA {:08x} installed again: nonces repeat", keys.spi.0);
                self.ever.push(keys.key.key);
                self.outbound.push((**keys).clone());
            }
            Event::RemoveInbound { spi, .. } => {
                let there = self.inbound.remove(spi).is_some() || self.missing.remove(spi);
                assert!(there, "inbound SA {:08x} removed that is not there", spi.0);
            }
            Event::RemoveOutbound { spi, peer } => {
                let index = self.outbound.iter().position(|keys| keys.spi == *spi && keys.peer == *peer);
                self.outbound.remove(index.unwrap_or_else(|| panic!("outbound SA {:08x} removed that is not there", spi.0)));
            }
            Event::Path(PathEvent::Set { peer, path, hop, encapsulate, mtu, .. }) => {
                self.paths.insert((*peer, *path), Path { hop: *hop, encapsulate: *encapsulate, mtu: *mtu });
            }
            Event::Path(PathEvent::Use { peer, path }) => {
                assert!(self.paths.contains_key(&(*peer, *path)), "a path is set before it is used");
                self.used.insert(*peer, *path);
            }
            Event::Path(PathEvent::Remove { peer, path }) => {
                assert_ne!(self.used.get(peer), Some(path), "the path in use is gone");
                self.paths.remove(&(*peer, *path)).expect("a path that was set");
            }
            Event::Path(PathEvent::Echo { peer, path, id, size }) => {
                assert!(self.paths.contains_key(&(*peer, *path)), "a path is set before an echo goes by it");
                self.asked.push(Asked { peer: *peer, path: *path, id: *id, size: *size });
            }
            Event::Path(PathEvent::Peer { .. } | PathEvent::BlackHole { .. }) => {}
            Event::State { .. }
            | Event::IkeWaits { .. }
            | Event::IkeUp { .. }
            | Event::IkeDown { .. }
            | Event::ChildFailed { .. }
            | Event::Refused { .. }
            | Event::Address { .. }
            | Event::KeyLog(_) => {}
        }
    }

    /// Whether there are so many SAs in each direction, no more and no less.
    pub fn has_pairs(&self, count: usize) -> bool {
        self.inbound.len() == count && self.outbound.len() == count
    }

    /// The outbound SAs that are used: one for each peer, child and lane.
    pub fn active(&self) -> Vec<&ChildKeys> {
        let mut last: BTreeMap<(PeerId, ChildId, u8), &ChildKeys> = BTreeMap::new();
        for keys in &self.outbound {
            last.insert((keys.peer, keys.child, keys.lane), keys);
        }
        last.into_values().collect()
    }

    /// The peers that there is something to send to with.
    pub(crate) fn peers(&self) -> BTreeSet<PeerId> {
        self.outbound.iter().map(|keys| keys.peer).collect()
    }

    /// A path, if it is set.
    pub(crate) fn hop(&self, peer: PeerId, path: PathId) -> Option<Hop> {
        self.paths.get(&(peer, path)).map(|path| path.hop)
    }

    /// Whether one of a peer's paths is this one.
    pub(crate) fn knows(&self, peer: PeerId, hop: Hop) -> bool {
        self.paths.iter().any(|((of, _), known)| *of == peer && known.hop.remote() == hop.remote())
    }

    /// An SA to a peer, and whose an inbound one is.
    pub(crate) fn seals_to(&self, peer: PeerId) -> Option<Spi> {
        self.outbound.iter().rev().find(|keys| keys.peer == peer).map(|keys| keys.spi)
    }

    pub(crate) fn opens_from(&self, spi: Spi) -> Option<PeerId> {
        self.inbound.get(&spi).map(|keys| keys.peer)
    }

    /// Which way ESP goes to a peer, and whether in UDP.
    pub fn way(&self, peer: PeerId) -> (Hop, bool) {
        let path = self.path_in_use(peer);
        (path.hop, path.encapsulate)
    }

    fn path_in_use(&self, peer: PeerId) -> Path {
        let used = self.used.get(&peer).expect("a path is in use before the first SA");
        self.paths[&(peer, *used)]
    }

    /// `by`: the gateway that this is.
    pub fn seal_one_each(&mut self, by: usize) -> Vec<(Esp, Hop)> {
        let number = self.next_number();
        let seal = |keys: &ChildKeys| {
            let Path { hop, mtu, .. } = self.path_in_use(keys.peer);
            let len = if self.sends_longest { usize::from(mtu) - headers_of(&hop) } else { PACKET_LEN };
            let (suite, key) = (keys.suite, keys.key.clone());
            (Esp { spi: keys.spi, by, peer: keys.peer, len, suite, key, esn: keys.esn, number }, hop)
        };
        self.active().into_iter().map(seal).collect()
    }

    /// Takes out what the new control plane does not know. Gives what it believes in, and is not there.
    pub fn keep_only(&mut self, restored: &Restored) -> (Vec<Spi>, Vec<(PeerId, Spi)>) {
        self.inbound.retain(|spi, _| restored.inbound.contains(spi));
        self.outbound.retain(|keys| restored.outbound.contains(&(keys.peer, keys.spi)));
        self.missing = restored.inbound.iter().filter(|spi| !self.inbound.contains_key(spi)).copied().collect();
        let has = |(peer, spi): &(PeerId, Spi)| self.outbound.iter().any(|keys| (keys.peer, keys.spi) == (*peer, *spi));
        let outbound = restored.outbound.iter().filter(|one| !has(one)).copied().collect();
        (self.missing.iter().copied().collect(), outbound)
    }

    /// Loses an outbound SA.
    pub fn drop_outbound(&mut self, spi: Spi) {
        self.outbound.retain(|keys| keys.spi != spi);
    }

    /// The number of the next packet that is sealed.
    pub(crate) fn next_number(&mut self) -> u64 {
        self.sealed += 1;
        self.sealed
    }

    /// An authentic packet came this way. Gives whose it is, if it is the newest and came another way than the one before.
    pub(crate) fn sight(&mut self, (spi, number): (Spi, u64), came: Hop) -> Option<PeerId> {
        let peer = self.opens_from(spi)?;
        let newest = self.newest.entry(spi).or_default();
        let is_newest = number > std::mem::replace(newest, number.max(*newest));
        // What comes another way than by the path in use is told again and again.
        let used = self.used.get(&peer).and_then(|path| self.paths.get(&(peer, *path)));
        let is_used = used.is_some_and(|path| path.hop.remote() == came.remote());
        (is_newest && (self.seen.insert(peer, came) != Some(came) || !is_used)).then_some(peer)
    }

    /// Gives the peer whose newest packet came another way than the one before.
    pub fn receive(&mut self, esp: &Esp, came: Hop) -> Option<PeerId> {
        match self.inbound.get(&esp.spi) {
            Some(keys) => {
                let opens = keys.suite == esp.suite && keys.key == esp.key && keys.esn == esp.esn;
                if !opens && self.out_of_step {
                    self.lost.push(esp.spi);
                    return None;
                }
                assert!(opens, "SA {:08x} has another key, suite or sequence number at the other end", esp.spi.0);
                self.opened += 1;
                let usage = self.usage.entry(esp.spi).or_default();
                usage.inbound_packets += 1;
                usage.inbound_bytes += esp.len as u64;
                self.sight((esp.spi, esp.number), came)
            }
            None => {
                self.lost.push(esp.spi);
                None
            }
        }
    }
}
