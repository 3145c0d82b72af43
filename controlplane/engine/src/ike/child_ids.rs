//! By which ids the data plane knows the Child SAs of each peer: one for all lanes and rekeys.
//!
//! What another IKE SA with the same peer makes with the same selectors, as after a new authentication, takes the place of what is
//! there, and its id. A second one in the same IKE SA stands beside the first.

use std::collections::{BTreeMap, BTreeSet};

use adit_proto::control::{ChildId, PeerId, Spi};
use adit_proto::esp;

use super::config::Mode;
use super::facts::SaId;
use super::selectors::SelectorPair;

/// What every inbound SPI is of.
#[derive(Debug, Default)]
pub(super) struct ChildIds {
    held: BTreeMap<(PeerId, Spi), Held>,
    /// Those from the process before that only take what is late: of which Child SA they are nobody knows any more.
    late: BTreeSet<(PeerId, Spi)>,
    peers: BTreeMap<Spi, PeerId>,
}

/// Places in the table of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Places {
    pub receiving: usize,
    pub sending: usize,
}

#[derive(Debug)]
struct Held {
    id: ChildId,
    /// The IKE SA that made it, or inherited it.
    owner: SaId,
    config: usize,
    selectors: SelectorPair,
    /// Places that they take in the policy table.
    pairs: usize,
}

impl ChildIds {
    /// Notes a Child SA with the id that it has, or gives it one.
    pub(super) fn hold(
        &mut self,
        peer: PeerId,
        (owner, inbound): (SaId, Spi),
        known: Option<ChildId>,
        (config, mode, selectors): (usize, Mode, &SelectorPair),
        pairs: usize,
    ) -> ChildId {
        let id = known.unwrap_or_else(|| self.id_for(peer, owner, (config, mode, selectors)));
        self.held.insert((peer, inbound), Held { id, owner, config, selectors: selectors.clone(), pairs });
        self.peers.insert(inbound, peer);
        id
    }

    /// Notes an SA of the process before that only takes what is late.
    pub(super) fn hold_late(&mut self, peer: PeerId, inbound: Spi) {
        self.late.insert((peer, inbound));
        self.peers.insert(inbound, peer);
    }

    /// The id that another Child SA gets.
    pub(super) fn id_for(&self, peer: PeerId, owner: SaId, (config, mode, selectors): (usize, Mode, &SelectorPair)) -> ChildId {
        if mode == Mode::Ethernet {
            return ChildId::ONLY;
        }
        let all = || self.of(peer).map(|(_, held)| held);
        let own: BTreeSet<ChildId> = all().filter(|held| held.owner == owner).map(|held| held.id).collect();
        let same = |held: &&Held| held.config == config && held.selectors == *selectors && !own.contains(&held.id);
        if let Some(held) = all().find(same) {
            return held.id;
        }
        let used: BTreeSet<ChildId> = all().map(|held| held.id).collect();
        (0..=u16::MAX).map(ChildId).find(|id| !used.contains(id)).unwrap_or_default()
    }

    /// Places that a peer has in the policy table once a Child SA with this id has these selectors, which take so many.
    pub(super) fn pairs_with(&self, peer: PeerId, id: ChildId, selectors: &SelectorPair, pairs: usize) -> usize {
        let mut all: Vec<(ChildId, &SelectorPair, usize)> = vec![(id, selectors, pairs)];
        for (_, held) in self.of(peer) {
            if !all.iter().any(|(id, selectors, _)| *id == held.id && **selectors == held.selectors) {
                all.push((held.id, &held.selectors, held.pairs));
            }
        }
        all.into_iter().map(|(_, _, pairs)| pairs).sum()
    }

    /// Child SAs of a peer, each with all its lanes.
    pub(super) fn ids(&self, peer: PeerId) -> BTreeSet<ChildId> {
        self.of(peer).map(|(_, held)| held.id).collect()
    }

    /// SAs of a peer in every state, to receive by.
    pub(super) fn count(&self, peer: PeerId) -> usize {
        self.of(peer).count() + self.late_of(peer).count()
    }

    /// SAs of a peer in the table of one of so many workers: to receive by, and for each lane of a Child SA one to send by.
    pub(super) fn on_worker(&self, peer: PeerId, worker: usize, workers: usize) -> Places {
        let here = self.of(peer).filter(|((_, spi), _)| esp::worker_of(*spi, workers) == worker);
        let here: Vec<(ChildId, u32)> = here.map(|((_, spi), held)| (held.id, spi.0 & esp::LANE_MASK)).collect();
        // On lanes that have no worker of their own nothing is sent.
        let sending: BTreeSet<_> = here.iter().filter(|(_, lane)| (*lane as usize) < workers).collect();
        let late = self.late_of(peer).filter(|spi| esp::worker_of(*spi, workers) == worker).count();
        Places { receiving: here.len() + late, sending: sending.len() }
    }

    fn late_of(&self, peer: PeerId) -> impl Iterator<Item = Spi> {
        self.late.range((peer, Spi(0))..=(peer, Spi(u32::MAX))).map(|(_, spi)| *spi)
    }

    fn of(&self, peer: PeerId) -> impl Iterator<Item = (&(PeerId, Spi), &Held)> {
        self.held.range((peer, Spi(0))..=(peer, Spi(u32::MAX)))
    }

    /// The Child SA belongs to another IKE SA now.
    pub(super) fn assign(&mut self, inbound: Spi, owner: SaId) {
        let held = self.peers.get(&inbound).and_then(|peer| self.held.get_mut(&(*peer, inbound)));
        if let Some(held) = held {
            held.owner = owner;
        }
    }

    pub(super) fn release(&mut self, inbound: Spi) {
        if let Some(peer) = self.peers.remove(&inbound) {
            self.held.remove(&(peer, inbound));
            self.late.remove(&(peer, inbound));
        }
    }
}

#[cfg(test)]
mod tests {
    use adit_proto::ike::{AddressRange, IkeSpi, IpSelector};

    use super::*;

    fn pair(last: u8) -> SelectorPair {
        let side = |last: u8| vec![IpSelector::any_of(AddressRange::host([10, 0, 0, last].into()))];
        SelectorPair { local: side(1), remote: side(last) }
    }

    #[test]
    fn what_is_made_anew_elsewhere_has_the_same_id_and_beside_it_another() {
        let mut ids = ChildIds::default();
        let (peer, one, two) = (PeerId(1), SaId(IkeSpi(1)), SaId(IkeSpi(2)));
        let make = |ids: &mut ChildIds, peer, sa, spi, known, last| {
            ids.hold(peer, (sa, Spi(spi)), known, (0, Mode::Tunnel, &pair(last)), 1).0
        };
        assert_eq!(make(&mut ids, peer, one, 1, None, 7), 0);
        assert_eq!(make(&mut ids, peer, one, 2, None, 8), 1, "other selectors");
        assert_eq!(make(&mut ids, peer, one, 3, None, 7), 2, "beside the first");
        assert_eq!(make(&mut ids, PeerId(2), two, 4, None, 7), 0, "another peer's");
        assert_eq!(make(&mut ids, peer, two, 5, None, 7), 0, "a new authentication");
        assert_eq!(make(&mut ids, peer, two, 6, None, 7), 2, "and the one beside it");
        assert_eq!(make(&mut ids, peer, one, 7, Some(ChildId(1)), 8), 1, "a rekey, or a lane");
        ids.release(Spi(2));
        assert_eq!(make(&mut ids, peer, one, 8, None, 9), 3, "its successor still has it");
        ids.release(Spi(7));
        assert_eq!(make(&mut ids, peer, one, 9, None, 10), 1);
        ids.assign(Spi(8), two);
        assert_eq!(make(&mut ids, peer, one, 10, None, 9), 3);
    }

    #[test]
    fn places_are_counted_by_worker_and_lane_and_late_ones_too() {
        let mut ids = ChildIds::default();
        let (peer, owner, workers) = (PeerId(1), SaId(IkeSpi(1)), 2);
        let spi = |number: u32, lane: u32| Spi(number << adit_proto::limits::LANE_BITS | lane);
        // Two lanes, the first twice since it is being rekeyed, and one that has no worker of its own.
        for (number, lane) in [(1, 0), (2, 0), (3, 1), (4, 2)] {
            ids.hold(peer, (owner, spi(number, lane)), Some(ChildId(0)), (0, Mode::Tunnel, &pair(7)), 1);
        }
        ids.hold(PeerId(2), (owner, spi(5, 0)), Some(ChildId(0)), (0, Mode::Tunnel, &pair(7)), 1);
        ids.hold_late(peer, spi(6, 1));
        ids.hold_late(PeerId(2), spi(7, 1));
        let places = |ids: &ChildIds| [0, 1].map(|worker| ids.on_worker(peer, worker, workers));
        let at = |receiving, sending| Places { receiving, sending };
        assert_eq!((places(&ids), ids.count(peer), ids.count(PeerId(2))), ([at(3, 1), at(2, 1)], 5, 2));
        [spi(1, 0), spi(6, 1), spi(4, 2)].into_iter().for_each(|spi| ids.release(spi));
        assert_eq!((places(&ids), ids.count(peer)), ([at(1, 1), at(1, 1)], 2));
    }

    #[test]
    fn selectors_take_their_places_once_for_all_that_have_them() {
        let mut ids = ChildIds::default();
        let (peer, owner) = (PeerId(1), SaId(IkeSpi(1)));
        for (spi, id, last, pairs) in [(1, 0, 7, 2), (2, 0, 7, 2), (3, 1, 8, 3)] {
            ids.hold(peer, (owner, Spi(spi)), Some(ChildId(id)), (0, Mode::Tunnel, &pair(last)), pairs);
        }
        let with = |id, last, pairs| ids.pairs_with(peer, ChildId(id), &pair(last), pairs);
        assert_eq!((with(0, 7, 2), with(1, 7, 2), with(0, 8, 3), with(2, 9, 4)), (5, 7, 8, 9));
        assert_eq!(ids.ids(peer).len(), 2);
    }
}
