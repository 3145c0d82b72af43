//! What was dropped of every peer: totals that go on while data planes and control planes come and go, and what of it is recent.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use adit_proto::control::PeerTag;
use adit_proto::peer_drops::{PeerDrop, PeerDropCounts};

use crate::numbers::Peers;

/// After such a pause what was dropped before is history.
const PAUSE: Duration = Duration::from_secs(60);

/// What is left to the next control plane of one counter of a peer: packets that no data plane has in its counters any more.
pub type GoneDrops = (PeerTag, PeerDrop, u64);

/// One counter of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    pub drop: PeerDrop,
    pub packets: u64,
    /// How many of them came one after the other without a pause of a minute, the last one at this time; of those that this process has
    /// seen.
    pub late: Option<(u64, Instant)>,
}

/// Of a peer of which something was dropped.
#[derive(Clone, Debug, Default)]
struct OfPeer {
    totals: PeerDropCounts,
    /// What the attached data plane had when it was looked at last.
    seen: PeerDropCounts,
    late: [Option<(u64, Instant)>; PeerDrop::COUNT],
}

impl OfPeer {
    fn look(&mut self, now: Instant, counts: &PeerDropCounts, is_news: bool) {
        for (at, count) in counts.iter().enumerate() {
            // A counter that has less than before was made anew.
            let more = count.checked_sub(self.seen[at]).unwrap_or(*count);
            // A hostile data plane may have written any numbers.
            self.totals[at] = self.totals[at].wrapping_add(more);
            if more > 0 && is_news {
                let goes_on = self.late[at].filter(|(_, last)| now.saturating_duration_since(*last) < PAUSE);
                self.late[at] = Some((goes_on.map_or(0, |(packets, _)| packets).saturating_add(more), now));
            }
        }
        self.seen = *counts;
    }
}

/// Adds up what the data plane says of its peers.
#[derive(Debug, Default)]
pub struct DropMeter {
    peers: HashMap<u64, OfPeer>,
    /// The attached data plane was looked at before.
    looked: bool,
}

impl DropMeter {
    /// Looks at the counters of the attached data plane. `started_here`: what there is by the first look is news.
    pub fn count(&mut self, now: Instant, live: &HashMap<PeerTag, PeerDropCounts>, peers: &Peers, started_here: bool) {
        let is_news = self.looked || started_here;
        self.looked = true;
        for tag in peers.values().filter(|tag| live.contains_key(tag)) {
            self.peers.entry(tag.0).or_default();
        }
        for (tag, of_peer) in &mut self.peers {
            of_peer.look(now, live.get(&PeerTag(*tag)).unwrap_or(&PeerDropCounts::default()), is_news);
        }
    }

    /// The data plane that was looked at is gone, and its counters with it.
    pub fn forget_plane(&mut self) {
        self.looked = false;
        self.peers.values_mut().for_each(|of_peer| of_peer.seen = PeerDropCounts::default());
    }

    /// Forgets the peers that are not to stay.
    pub fn retain(&mut self, stay: &[PeerTag]) {
        let stay: HashSet<u64> = stay.iter().map(|tag| tag.0).collect();
        self.peers.retain(|tag, _| stay.contains(tag));
    }

    /// What the attached data plane does not have in its counters: with these it makes the totals.
    pub fn gone(&self) -> Vec<GoneDrops> {
        let of_peer = |(tag, of_peer): (&u64, &OfPeer)| {
            let (tag, totals, seen) = (PeerTag(*tag), of_peer.totals, of_peer.seen);
            PeerDrop::all().map(move |drop| (tag, drop, totals[drop.index()].wrapping_sub(seen[drop.index()])))
        };
        self.peers.iter().flat_map(of_peer).filter(|(.., packets)| *packets > 0).collect()
    }

    /// Goes on with what a control plane before us left. What was seen of the attached data plane is beside it.
    pub fn inherit(&mut self, gone: &[GoneDrops]) {
        self.peers.values_mut().for_each(|of_peer| of_peer.totals = of_peer.seen);
        for (tag, drop, packets) in gone {
            let total = &mut self.peers.entry(tag.0).or_default().totals[drop.index()];
            *total = total.wrapping_add(*packets);
        }
    }

    /// All counters of a peer, also those at 0.
    pub fn of(&self, peer: PeerTag) -> Vec<Dropped> {
        let of_peer = self.peers.get(&peer.0);
        let one = |drop: PeerDrop| Dropped {
            drop,
            packets: of_peer.map_or(0, |of_peer| of_peer.totals[drop.index()]),
            late: of_peer.and_then(|of_peer| of_peer.late[drop.index()]),
        };
        PeerDrop::all().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use adit_proto::control::{Direction, PeerId};
    use adit_proto::stats::Drop;

    use super::*;

    const TAG: PeerTag = PeerTag(7);

    fn replay() -> PeerDrop {
        PeerDrop::of(Direction::Inbound, Drop::Replay)
    }

    fn live(packets: u64) -> HashMap<PeerTag, PeerDropCounts> {
        let mut counts = PeerDropCounts::default();
        counts[replay().index()] = packets;
        // Nobody knows the other one.
        HashMap::from([(TAG, counts), (PeerTag(8), counts)])
    }

    fn peers() -> Peers {
        Peers::from([(PeerId(3), TAG)])
    }

    fn look(meter: &mut DropMeter, at_s: u64, packets: u64) -> Dropped {
        static BEGAN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        let began = *BEGAN.get_or_init(Instant::now);
        meter.count(began + Duration::from_secs(at_s), &live(packets), &peers(), true);
        meter.of(TAG)[replay().index()]
    }

    fn late(dropped: Dropped) -> Option<u64> {
        dropped.late.map(|(packets, _)| packets)
    }

    #[test]
    fn totals_go_on_over_data_planes_and_slots_that_begin_anew() {
        let mut meter = DropMeter::default();
        assert_eq!(look(&mut meter, 0, 5).packets, 5);
        assert_eq!(look(&mut meter, 1, 7).packets, 7);
        assert_eq!(look(&mut meter, 2, 3).packets, 10, "its slot was made anew");
        meter.forget_plane();
        assert_eq!(meter.gone(), [(TAG, replay(), 10)]);
        assert_eq!(look(&mut meter, 3, 4).packets, 14);
        assert_eq!(meter.gone(), [(TAG, replay(), 10)], "what the data plane has is not gone");
        assert!(meter.of(PeerTag(8)).iter().all(|dropped| dropped.packets == 0), "nobody's");
        meter.retain(&[PeerTag(8)]);
        assert_eq!(meter.of(TAG)[replay().index()].packets, 0);
    }

    #[test]
    fn a_control_plane_goes_on_where_the_one_before_ended() {
        let mut before = DropMeter::default();
        look(&mut before, 0, 5);
        before.forget_plane();
        look(&mut before, 1, 2);
        let mut after = DropMeter::default();
        look(&mut after, 0, 2);
        after.inherit(&before.gone());
        assert_eq!(look(&mut after, 1, 3).packets, 8);
    }

    #[test]
    fn what_came_before_a_pause_is_history() {
        let mut meter = DropMeter::default();
        assert_eq!(late(look(&mut meter, 0, 5)), Some(5));
        assert_eq!(late(look(&mut meter, 59, 6)), Some(6));
        assert_eq!(late(look(&mut meter, 119, 8)), Some(2));
        // What a data plane had before anybody looked is of no known time.
        let mut adopted = DropMeter::default();
        adopted.count(Instant::now(), &live(5), &peers(), false);
        assert_eq!((late(adopted.of(TAG)[replay().index()]), adopted.of(TAG)[replay().index()].packets), (None, 5));
    }
}
