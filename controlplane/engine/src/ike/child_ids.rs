//! By which ids the data plane knows the Child SAs of each peer: one for all lanes and rekeys.
//!
//! What another IKE SA with the same peer makes with the same selectors, as after a new authentication, takes the place of what is
//! there, and its id. A second one in the same IKE SA stands beside the first.

use std::collections::{BTreeMap, BTreeSet};

use adit_proto::control::{ChildId, PeerId, Spi};

use super::config::Mode;
use super::facts::SaId;
use super::selectors::SelectorPair;

/// What every inbound SPI is of.
#[derive(Debug, Default)]
pub(super) struct ChildIds {
    held: BTreeMap<(PeerId, Spi), Held>,
    peers: BTreeMap<Spi, PeerId>,
}

#[derive(Debug)]
struct Held {
    id: ChildId,
    /// The IKE SA that made it, or inherited it.
    owner: SaId,
    config: usize,
    selectors: SelectorPair,
}

impl ChildIds {
    /// Notes a Child SA with the id that it has, or gives it one.
    pub(super) fn hold(
        &mut self,
        peer: PeerId,
        (owner, inbound): (SaId, Spi),
        known: Option<ChildId>,
        (config, mode, selectors): (usize, Mode, &SelectorPair),
    ) -> ChildId {
        let id = match (known, mode) {
            (Some(id), _) => id,
            (None, Mode::Ethernet) => ChildId::ONLY,
            (None, Mode::Tunnel) => self.id_for(peer, owner, config, selectors),
        };
        self.held.insert((peer, inbound), Held { id, owner, config, selectors: selectors.clone() });
        self.peers.insert(inbound, peer);
        id
    }

    fn id_for(&self, peer: PeerId, owner: SaId, config: usize, selectors: &SelectorPair) -> ChildId {
        let all = || self.held.range((peer, Spi(0))..=(peer, Spi(u32::MAX))).map(|(_, held)| held);
        let own: BTreeSet<ChildId> = all().filter(|held| held.owner == owner).map(|held| held.id).collect();
        let same = |held: &&Held| held.config == config && held.selectors == *selectors && !own.contains(&held.id);
        if let Some(held) = all().find(same) {
            return held.id;
        }
        let used: BTreeSet<ChildId> = all().map(|held| held.id).collect();
        (0..=u16::MAX).map(ChildId).find(|id| !used.contains(id)).unwrap_or_default()
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
            ids.hold(peer, (sa, Spi(spi)), known, (0, Mode::Tunnel, &pair(last))).0
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
}
