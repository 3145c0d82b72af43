//! What was dropped of every peer: totals that go on while data planes and control planes come and go, and what of it is of the last minute.
//!
//! A data plane counts for each worker and each id of a peer. A peer may change its id, and then its workers begin to count anew one after
//! the other; so what was seen is kept of each such slot, never of their sum. Lost is what was dropped between the last look at a slot
//! and its end (looks are a second apart, and there is one before peers are changed), and, where a slot was made anew for the same peer,
//! as much as it had again by the next look if that was no less than before.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use adit_channel::SlotDrops;
use adit_proto::control::{PeerId, PeerTag};
use adit_proto::peer_drops::{PeerDrop, PeerDropCounts};

/// The last minute goes on in steps, so it is 50 to 60 seconds long.
const STEP: Duration = Duration::from_secs(10);
const STEPS: usize = 6;

/// What is left to the next control plane of one counter of a peer: packets that no data plane has in its counters any more.
pub type GoneDrops = (PeerTag, PeerDrop, u64);

/// One counter of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    pub drop: PeerDrop,
    pub packets: u64,
    /// How many of them came within the last minute.
    pub recent: u64,
    /// When the last of them came; of those that this process has seen.
    pub last: Option<Instant>,
}

/// What came within the last minute of something that is counted.
#[derive(Clone, Copy, Debug, Default)]
struct Minute {
    /// By number of the step, modulo how many there are; of steps up to `step`.
    packets: [u64; STEPS],
    step: u64,
}

impl Minute {
    fn add(&mut self, step: u64, packets: u64) {
        self.packets = self.at(step);
        self.step = step.max(self.step);
        let newest = &mut self.packets[self.step as usize % STEPS];
        *newest = newest.saturating_add(packets);
    }

    /// The same at a later step: what is longer ago is gone.
    fn at(&self, step: u64) -> [u64; STEPS] {
        let mut packets = self.packets;
        (self.step + 1..=step).take(STEPS).for_each(|gone| packets[gone as usize % STEPS] = 0);
        packets
    }

    fn sum(&self, step: u64) -> u64 {
        self.at(step).iter().fold(0, |sum, packets| sum.saturating_add(*packets))
    }
}

/// A slot of a data plane that counts for a peer: worker and id.
type Slot = (u16, PeerId);

/// Of a peer of which something was dropped.
#[derive(Clone, Debug, Default)]
struct OfPeer {
    totals: PeerDropCounts,
    /// What each slot of the attached data plane had when it was looked at last.
    seen: HashMap<Slot, PeerDropCounts>,
    late: [(Minute, Option<Instant>); PeerDrop::COUNT],
}

impl OfPeer {
    /// `news`: the time and its step, if what is more than before came just now.
    fn look(&mut self, live: HashMap<Slot, PeerDropCounts>, news: Option<(Instant, u64)>) {
        for (slot, counts) in &live {
            let before = self.seen.get(slot).copied().unwrap_or_default();
            for (at, count) in counts.iter().enumerate() {
                // A counter that has less than before was made anew.
                let more = count.checked_sub(before[at]).unwrap_or(*count);
                // A hostile data plane may have written any numbers.
                self.totals[at] = self.totals[at].wrapping_add(more);
                if let Some((now, step)) = news.filter(|_| more > 0) {
                    let (minute, last) = &mut self.late[at];
                    minute.add(step, more);
                    *last = Some(now);
                }
            }
        }
        // A slot that is not this peer's any more has begun anew when it is again.
        self.seen = live;
    }

    /// What all slots of the attached data plane have.
    fn live(&self) -> PeerDropCounts {
        let mut sum = PeerDropCounts::default();
        self.seen.values().flat_map(|counts| counts.iter().enumerate()).for_each(|(at, count)| {
            sum[at] = sum[at].wrapping_add(*count);
        });
        sum
    }
}

/// What was opened of a peer.
#[derive(Clone, Copy, Debug)]
struct OpenedOf {
    total: u64,
    minute: Minute,
}

/// Adds up what the data plane says of its peers.
#[derive(Debug, Default)]
pub struct DropMeter {
    peers: HashMap<u64, OfPeer>,
    opened: HashMap<u64, OpenedOf>,
    /// The attached data plane was looked at before.
    looked: bool,
    /// From when on steps are counted.
    began: Option<Instant>,
}

impl DropMeter {
    fn step(&self, now: Instant) -> u64 {
        self.began.map_or(0, |began| now.saturating_duration_since(began).as_secs() / STEP.as_secs())
    }

    /// Looks at the counters of the attached data plane, of peers that are known. `started_here`: what there is by the first look is news.
    pub fn count(&mut self, now: Instant, live: &[SlotDrops], started_here: bool) {
        let is_news = self.looked || started_here;
        self.looked = true;
        self.began.get_or_insert(now);
        let news = is_news.then(|| (now, self.step(now)));
        let mut by_peer: HashMap<u64, HashMap<Slot, PeerDropCounts>> = HashMap::new();
        for slot in live {
            by_peer.entry(slot.tag.0).or_default().insert((slot.worker, slot.peer), slot.counts);
            self.peers.entry(slot.tag.0).or_default();
        }
        for (tag, of_peer) in &mut self.peers {
            of_peer.look(by_peer.remove(tag).unwrap_or_default(), news);
        }
    }

    /// So many packets of a peer were opened in all: what was dropped of it is measured by that. To be called about once a second.
    pub fn opened(&mut self, now: Instant, peer: PeerTag, total: u64) {
        let step = self.step(now);
        let opened = self.opened.entry(peer.0).or_insert(OpenedOf { total, minute: Minute::default() });
        opened.minute.add(step, total.saturating_sub(opened.total));
        opened.total = total;
    }

    /// How many packets of a peer were opened within the last minute.
    pub fn opened_of(&self, now: Instant, peer: PeerTag) -> u64 {
        self.opened.get(&peer.0).map_or(0, |opened| opened.minute.sum(self.step(now)))
    }

    /// The data plane that was looked at is gone, and its counters with it.
    pub fn forget_plane(&mut self) {
        self.looked = false;
        self.peers.values_mut().for_each(|of_peer| of_peer.seen.clear());
    }

    /// Forgets the peers that are not to stay.
    pub fn retain(&mut self, stay: &[PeerTag]) {
        let stay: HashSet<u64> = stay.iter().map(|tag| tag.0).collect();
        self.peers.retain(|tag, _| stay.contains(tag));
        self.opened.retain(|tag, _| stay.contains(tag));
    }

    /// What the attached data plane does not have in its counters: with these it makes the totals.
    pub fn gone(&self) -> Vec<GoneDrops> {
        let of_peer = |(tag, of_peer): (&u64, &OfPeer)| {
            let (tag, totals, live) = (PeerTag(*tag), of_peer.totals, of_peer.live());
            PeerDrop::all().map(move |drop| (tag, drop, totals[drop.index()].wrapping_sub(live[drop.index()])))
        };
        self.peers.iter().flat_map(of_peer).filter(|(.., packets)| *packets > 0).collect()
    }

    /// Goes on with what a control plane before us left. What was seen of the attached data plane is beside it.
    pub fn inherit(&mut self, gone: &[GoneDrops]) {
        self.peers.values_mut().for_each(|of_peer| of_peer.totals = of_peer.live());
        // What was opened before is not of this minute.
        self.opened.clear();
        for (tag, drop, packets) in gone {
            let total = &mut self.peers.entry(tag.0).or_default().totals[drop.index()];
            *total = total.wrapping_add(*packets);
        }
    }

    /// All counters of a peer, also those at 0.
    pub fn of(&self, now: Instant, peer: PeerTag) -> Vec<Dropped> {
        let (of_peer, step) = (self.peers.get(&peer.0), self.step(now));
        let one = |drop: PeerDrop| Dropped {
            drop,
            packets: of_peer.map_or(0, |of_peer| of_peer.totals[drop.index()]),
            recent: of_peer.map_or(0, |of_peer| of_peer.late[drop.index()].0.sum(step)),
            last: of_peer.and_then(|of_peer| of_peer.late[drop.index()].1),
        };
        PeerDrop::all().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use adit_proto::control::Direction;
    use adit_proto::stats::Drop;

    use super::*;

    const TAG: PeerTag = PeerTag(7);

    fn replay() -> PeerDrop {
        PeerDrop::of(Direction::Inbound, Drop::Replay)
    }

    /// A worker has dropped so many for the peer under an id.
    fn slot(worker: u16, peer: u16, packets: u64) -> SlotDrops {
        let mut counts = PeerDropCounts::default();
        counts[replay().index()] = packets;
        SlotDrops { worker, peer: PeerId(peer), tag: TAG, counts }
    }

    fn at(seconds: u64) -> Instant {
        static BEGAN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *BEGAN.get_or_init(Instant::now) + Duration::from_secs(seconds)
    }

    fn looked(meter: &mut DropMeter, at_s: u64, live: &[SlotDrops]) -> Dropped {
        meter.count(at(at_s), live, true);
        meter.of(at(at_s), TAG)[replay().index()]
    }

    fn look(meter: &mut DropMeter, at_s: u64, packets: u64) -> Dropped {
        looked(meter, at_s, &[slot(0, 3, packets)])
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
        meter.retain(&[PeerTag(8)]);
        assert_eq!(meter.of(at(3), TAG)[replay().index()].packets, 0);
    }

    #[test]
    fn workers_that_end_a_slot_one_after_the_other_are_counted_once() {
        let mut meter = DropMeter::default();
        assert_eq!(looked(&mut meter, 0, &[slot(0, 3, 10), slot(1, 3, 10)]).packets, 20);
        assert_eq!(looked(&mut meter, 1, &[slot(1, 3, 10)]).packets, 20, "worker 0 was first");
        assert_eq!(meter.gone(), [(TAG, replay(), 10)]);
        assert_eq!(looked(&mut meter, 2, &[slot(0, 4, 2), slot(1, 3, 11)]).packets, 23, "it counts under the new id");
        assert_eq!(looked(&mut meter, 3, &[slot(0, 4, 2), slot(1, 4, 500)]).packets, 523, "more than under the old one");
        assert_eq!(meter.gone(), [(TAG, replay(), 21)]);
        // The slot was another's meanwhile, and has more than this peer had there.
        assert_eq!(looked(&mut meter, 4, &[slot(0, 4, 2)]).packets, 523);
        assert_eq!(looked(&mut meter, 5, &[slot(0, 4, 2), slot(1, 4, 501)]).packets, 1024);
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
    fn recent_is_what_came_within_the_last_minute() {
        let mut meter = DropMeter::default();
        assert_eq!(look(&mut meter, 0, 5).recent, 5);
        assert_eq!(look(&mut meter, 25, 7).recent, 7);
        assert_eq!(look(&mut meter, 49, 7).recent, 7);
        assert_eq!(look(&mut meter, 60, 8).recent, 3);
        assert_eq!((look(&mut meter, 79, 8).recent, look(&mut meter, 80, 8).recent, look(&mut meter, 120, 8).recent), (3, 1, 0));
        // One in each minute is never more than one, however long it goes on.
        let row: Vec<u64> = (1..100).map(|minute| look(&mut meter, 120 + minute * 59, 8 + minute).recent).collect();
        assert!(row.iter().all(|recent| *recent <= 2), "{row:?}");
        assert_eq!((look(&mut meter, 1_000_000, 200).recent, look(&mut meter, 2_000_000, 200).recent), (93, 0));
        assert_eq!(look(&mut meter, 2_000_001, 200).last, Some(at(1_000_000)));
    }

    #[test]
    fn what_came_before_anybody_looked_is_of_no_known_time() {
        let mut adopted = DropMeter::default();
        adopted.count(at(0), &[slot(0, 3, 5)], false);
        let dropped = adopted.of(at(0), TAG)[replay().index()];
        assert_eq!((dropped.packets, dropped.recent, dropped.last), (5, 0, None));
    }

    #[test]
    fn what_was_opened_of_a_peer_is_that_of_the_last_minute() {
        let mut meter = DropMeter::default();
        meter.count(at(0), &[], true);
        meter.opened(at(0), TAG, 1000);
        assert_eq!(meter.opened_of(at(0), TAG), 0, "nobody knows when");
        meter.opened(at(1), TAG, 1200);
        meter.opened(at(59), TAG, 1201);
        let opened = |s| meter.opened_of(at(s), TAG);
        assert_eq!((opened(59), opened(60), opened(120), meter.opened_of(at(59), PeerTag(8))), (201, 1, 0, 0));
    }
}
