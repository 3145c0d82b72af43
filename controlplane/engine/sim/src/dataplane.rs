//! A model of the data plane: what is installed, and whether packets of one end open at the other.

use std::collections::{BTreeMap, BTreeSet};

use adit_engine::ike::{ChildKeys, Event, Path, Restored, Usage};
use adit_proto::control::{PeerId, SaKey, Spi};
use adit_proto::suite::Suite;

/// A packet, as far as the test needs it: it opens where the same SPI, suite, key and kind of sequence number are installed.
#[derive(Clone, Debug)]
pub struct Esp {
    pub spi: Spi,
    /// Bytes of the packet, without the headers of IP and UDP.
    pub len: usize,
    suite: Suite,
    key: SaKey,
    esn: bool,
}

/// Bytes of every packet.
const PACKET_LEN: usize = 100;

#[derive(Default)]
pub struct DataPlane {
    pub inbound: BTreeMap<Spi, ChildKeys>,
    /// In the order in which they were installed; of those for the same child and lane the last one is used.
    pub outbound: Vec<ChildKeys>,
    /// By inbound SPI.
    pub usage: BTreeMap<Spi, Usage>,
    paths: BTreeMap<PeerId, (Path, bool)>,
    /// Every outbound SA that ever was, by its key: one that comes again would repeat nonces.
    ever: Vec<[u8; 32]>,
    /// Inbound SAs that the engine was told it has no more.
    missing: BTreeSet<Spi>,
    /// A process went on with an old vault: an answer to its predecessor may be taken for the answer to its own request with the
    /// same message id, and then the ends have different keys until the next rekey.
    pub out_of_step: bool,
    pub opened: u64,
    pub lost: Vec<Spi>,
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
            Event::Path { peer, path, encapsulate } => {
                self.paths.insert(*peer, (*path, *encapsulate));
            }
            Event::State { .. }
            | Event::IkeUp { .. }
            | Event::IkeDown { .. }
            | Event::ChildFailed { .. }
            | Event::Refused { .. }
            | Event::KeyLog(_) => {}
        }
    }

    /// Whether there are so many SAs in each direction, no more and no less.
    pub fn has_pairs(&self, count: usize) -> bool {
        self.inbound.len() == count && self.outbound.len() == count
    }

    /// The outbound SAs that are used: one for each peer, child and lane.
    pub fn active(&self) -> Vec<&ChildKeys> {
        let mut last: BTreeMap<(PeerId, usize, u8), &ChildKeys> = BTreeMap::new();
        for keys in &self.outbound {
            last.insert((keys.peer, keys.child, keys.lane), keys);
        }
        last.into_values().collect()
    }

    pub fn seal_one_each(&self) -> Vec<(Esp, Path)> {
        let seal = |keys: &ChildKeys| {
            let path = self.paths.get(&keys.peer).expect("a path comes before the first SA").0;
            (Esp { spi: keys.spi, len: PACKET_LEN, suite: keys.suite, key: keys.key.clone(), esn: keys.esn }, path)
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

    pub fn receive(&mut self, esp: &Esp) {
        match self.inbound.get(&esp.spi) {
            Some(keys) => {
                let opens = keys.suite == esp.suite && keys.key == esp.key && keys.esn == esp.esn;
                if !opens && self.out_of_step {
                    return self.lost.push(esp.spi);
                }
                assert!(opens, "SA {:08x} has another key, suite or sequence number at the other end", esp.spi.0);
                self.opened += 1;
                let usage = self.usage.entry(esp.spi).or_default();
                usage.inbound_packets += 1;
                usage.inbound_bytes += PACKET_LEN as u64;
            }
            None => self.lost.push(esp.spi),
        }
    }
}
