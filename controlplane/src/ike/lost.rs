//! SAs that the data plane does not have, and should: their Child SAs are made anew.

use std::collections::{BTreeMap, BTreeSet};

use adit_channel::LiveSa;
use adit_proto::control::{Direction, Spi};

use super::{Ike, now};

impl Ike {
    /// Has SAs made anew that the data plane does not have any more. Gives how many they are.
    pub fn replace_lost(&mut self, live: &[(u16, LiveSa)]) -> usize {
        let lost = self.sas.lost(live);
        for (peer, direction, spi) in &lost {
            self.sas.refused(*peer, *direction, *spi);
            match direction {
                Direction::Inbound => self.endpoint.lost_inbound(now(), *spi),
                Direction::Outbound => self.endpoint.lost_outbound(now(), *peer, *spi),
            }
        }
        let reported = lost.iter().map(|(_, _, spi)| *spi).collect();
        let there: BTreeSet<Spi> =
            live.iter().filter(|(_, sa)| sa.direction == Direction::Inbound).map(|(_, sa)| sa.spi).collect();
        let missing = self.endpoint.live_inbound().filter(|spi| !there.contains(spi)).collect();
        let more = self.missing.look(missing, &reported);
        more.iter().for_each(|spi| self.endpoint.lost_inbound(now(), *spi));
        lost.len() + more.len()
    }
}

/// Inbound SAs that the data plane did not have when it was looked last, and at how many looks before: also those of which it was never
/// told, such as went with the one before it.
#[derive(Default)]
pub(super) struct Missing(BTreeMap<Spi, u32>);

impl Missing {
    /// Looks again, a few seconds later. Gives, once each, those that were missing before as well and of which it was not `told`
    /// otherwise: what was on its way is there by now.
    fn look(&mut self, missing: BTreeSet<Spi>, reported: &BTreeSet<Spi>) -> Vec<Spi> {
        let looks = |spi: &Spi| if reported.contains(spi) { 1 } else { self.0.get(spi).map_or(0, |looks| looks + 1) };
        self.0 = missing.iter().map(|spi| (*spi, looks(spi))).collect();
        self.0.iter().filter(|(spi, looks)| **looks == 1 && !reported.contains(spi)).map(|(spi, _)| *spi).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_twice_is_lost_once() {
        let mut looks = Missing::default();
        let mut look = |missing: &[u32], reported: &[u32]| {
            let set = |spis: &[u32]| spis.iter().map(|spi| Spi(*spi)).collect::<BTreeSet<_>>();
            looks.look(set(missing), &set(reported)).into_iter().map(|spi| spi.0).collect::<Vec<_>>()
        };
        assert_eq!(look(&[1, 2], &[]), [] as [u32; 0], "they may be on their way");
        assert_eq!(look(&[2, 3], &[]), [2], "the first one came");
        assert_eq!(look(&[2, 3, 4], &[4]), [3], "one was told already, and another one otherwise");
        assert_eq!(look(&[2, 3, 4], &[]), [] as [u32; 0]);
        assert_eq!(look(&[], &[]), [] as [u32; 0]);
        assert_eq!((look(&[2], &[]), look(&[2], &[])), (vec![], vec![2]), "it was there in between");
    }
}
