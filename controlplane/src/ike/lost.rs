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
        lost.len() + self.replace_missing(live)
    }

    /// The same for what no data plane was told of, such as SAs that went with the one before: where they are missing at two looks.
    fn replace_missing(&mut self, live: &[(u16, LiveSa)]) -> usize {
        let there: BTreeSet<Spi> =
            live.iter().filter(|(_, sa)| sa.direction == Direction::Inbound).map(|(_, sa)| sa.spi).collect();
        let missing = self.endpoint.child_spis().map(|(_, inbound, _)| inbound).filter(|spi| !there.contains(spi));
        let missing: BTreeMap<Spi, u32> = missing.map(|spi| (spi, self.missing.get(&spi).map_or(0, |looks| looks + 1))).collect();
        let lost: Vec<Spi> = missing.iter().filter(|(_, looks)| **looks == 1).map(|(spi, _)| *spi).collect();
        self.missing = missing;
        lost.iter().for_each(|spi| self.endpoint.lost_inbound(now(), *spi));
        lost.len()
    }
}
