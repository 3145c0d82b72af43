//! What was dropped of each peer: one writer, one slot for each id of a peer, read from outside at any time.
//!
//! ```text
//!  word 0        1 …                                                     23
//!  ┌───────────┬───────────────────────────────────────────────────────────┐
//!  │ tag       │ packets, by PeerDrop::index                               │
//!  └───────────┴───────────────────────────────────────────────────────────┘
//! ```
//! The tag is that of the peer which has the id, 0 while nobody has it; so no peer inherits what was counted for another. Each number is
//! right by itself; a reader that finds another tag after the numbers than before takes none of them. No packet that arrives where it
//! should touches any of this.

use std::collections::HashMap;
use std::ops::Deref;

use adit_proto::control::{Direction, PeerId, PeerTag};
use adit_proto::peer_drops::{PeerDrop, PeerDropCounts};
use adit_proto::stats::Drop;

use crate::counters::add;
use crate::sync::{AtomicU64, Ordering, fence};

/// Words of a slot: three cache lines.
pub const SLOT_WORDS: usize = 24;
const _: () = assert!(PeerDrop::COUNT < SLOT_WORDS);

/// Nobody has the id.
const NOBODY: u64 = 0;

/// The table of a worker, for its writer and for its readers.
#[derive(Debug)]
pub struct DropTable<M> {
    words: M,
}

impl<M: Deref<Target = [AtomicU64]>> DropTable<M> {
    /// `words` are whole slots.
    pub fn new(words: M) -> DropTable<M> {
        DropTable { words }
    }

    fn slot(&self, peer: PeerId) -> Option<&[AtomicU64; SLOT_WORDS]> {
        self.words.get(usize::from(peer.0) * SLOT_WORDS..)?.first_chunk()
    }

    /// Begins to count for a peer; goes on where this very peer had the id already.
    pub fn install(&self, peer: PeerId, tag: PeerTag) {
        let Some(slot) = self.slot(peer) else { return };
        if slot[0].load(Ordering::Relaxed) != tag.0 {
            self.remove(peer);
            slot[0].store(tag.0, Ordering::Release);
        }
    }

    /// Ends counting for the peer that has this id.
    pub fn remove(&self, peer: PeerId) {
        let Some(slot) = self.slot(peer) else { return };
        slot[0].store(NOBODY, Ordering::Relaxed);
        fence(Ordering::Release);
        slot[1..].iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// Counts packets that were dropped.
    pub fn add(&self, peer: PeerId, direction: Direction, why: Drop, packets: u64) {
        if let Some(slot) = self.slot(peer) {
            add(&slot[1 + PeerDrop::of(direction, why).index()], packets);
        }
    }

    /// Adds the counters of this worker to a sum over all; of peers of which something was dropped.
    pub fn sum_into(&self, sum: &mut HashMap<PeerTag, PeerDropCounts>) {
        for slot in self.words.as_chunks::<SLOT_WORDS>().0 {
            let tag = slot[0].load(Ordering::Acquire);
            if tag == NOBODY {
                continue;
            }
            let counts: PeerDropCounts = std::array::from_fn(|at| slot[1 + at].load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            if counts == PeerDropCounts::default() || slot[0].load(Ordering::Relaxed) != tag {
                continue;
            }
            let into = sum.entry(PeerTag(tag)).or_default();
            // A hostile worker may have written anything.
            into.iter_mut().zip(counts).for_each(|(into, count)| *into = into.wrapping_add(count));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const IN: Direction = Direction::Inbound;
    const OUT: Direction = Direction::Outbound;

    fn table(slots: usize) -> DropTable<Vec<AtomicU64>> {
        DropTable::new((0..slots * SLOT_WORDS).map(|_| AtomicU64::new(0)).collect())
    }

    fn sum(tables: &[&DropTable<Vec<AtomicU64>>]) -> HashMap<PeerTag, PeerDropCounts> {
        let mut sum = HashMap::new();
        tables.iter().for_each(|table| table.sum_into(&mut sum));
        sum
    }

    #[test]
    fn workers_add_up_and_who_takes_over_an_id_begins_at_zero() {
        let (first, second) = (table(2), table(2));
        let (peer, tag, other) = (PeerId(1), PeerTag(u64::MAX), PeerTag(7));
        first.install(peer, tag);
        second.install(peer, tag);
        assert!(sum(&[&first, &second]).is_empty(), "nothing was dropped");
        first.add(peer, IN, Drop::BadTag, 3);
        second.add(peer, IN, Drop::BadTag, 4);
        second.add(peer, OUT, Drop::NoPath, 5);
        second.add(peer, IN, Drop::BadFrame, 1);
        second.add(peer, IN, Drop::CeNotEct, 1);
        let mut expected = PeerDropCounts::default();
        for (direction, why, packets) in [(IN, Drop::BadTag, 7), (OUT, Drop::NoPath, 5), (IN, Drop::BadEtherIp, 2)] {
            expected[PeerDrop::of(direction, why).index()] = packets;
        }
        assert_eq!(sum(&[&first, &second]), HashMap::from([(tag, expected)]));
        // The same peer goes on, another one does not.
        first.install(peer, tag);
        assert_eq!(sum(&[&first, &second]), HashMap::from([(tag, expected)]));
        second.install(peer, other);
        second.add(peer, OUT, Drop::NoPath, 1);
        let sums = sum(&[&first, &second]);
        assert_eq!((sums[&tag].iter().sum::<u64>(), sums[&other].iter().sum::<u64>()), (3, 1));
        first.remove(peer);
        second.remove(peer);
        assert!(sum(&[&first, &second]).is_empty());
    }

    #[test]
    fn an_id_without_a_slot_counts_nothing() {
        let table = table(1);
        for peer in [PeerId(1), PeerId(u16::MAX)] {
            table.install(peer, PeerTag(1));
            table.add(peer, IN, Drop::BadTag, 1);
            table.remove(peer);
        }
        assert!(sum(&[&table]).is_empty());
    }

    proptest! {
        #[test]
        fn any_words_give_counters(words: [u64; 2 * SLOT_WORDS]) {
            let table = DropTable::new(Vec::from(words.map(AtomicU64::new)));
            prop_assert!(sum(&[&table, &table]).len() <= 2);
        }
    }
}
