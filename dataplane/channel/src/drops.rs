//! What was dropped of each peer: one writer, one slot for each id of a peer, read from outside at any time.
//!
//! ```text
//!  word 0        1 …                                                     23
//!  ┌───────────┬───────────────────────────────────────────────────────────┐
//!  │ tag       │ packets, by PeerDrop::index                               │
//!  └───────────┴───────────────────────────────────────────────────────────┘
//! ```
//! The tag is that of the peer which has the id, 0 while nobody has it; so no peer inherits what was counted for another. Each number is
//! right by itself; a reader that finds another tag after the numbers than before takes none of them. A reader says which peer it looks
//! for, since the writer may be hostile and write any tags. No packet that arrives where it should touches any of this.

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

/// What one worker has counted for a peer under one of its ids since it began to. A peer may have several of these: one of each worker,
/// and while it changes its id, two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotDrops {
    pub worker: u16,
    pub peer: PeerId,
    pub tag: PeerTag,
    pub counts: PeerDropCounts,
}

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

    /// What was dropped of the peer with this tag while it has this id; `None` when somebody else has it, or nothing was dropped.
    pub fn read(&self, peer: PeerId, tag: PeerTag) -> Option<PeerDropCounts> {
        let slot = self.slot(peer)?;
        if tag.0 == NOBODY || slot[0].load(Ordering::Acquire) != tag.0 {
            return None;
        }
        let counts: PeerDropCounts = std::array::from_fn(|at| slot[1 + at].load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let is_theirs = slot[0].load(Ordering::Relaxed) == tag.0;
        (is_theirs && counts != PeerDropCounts::default()).then_some(counts)
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

    fn counts(all: &[(Direction, Drop, u64)]) -> Option<PeerDropCounts> {
        let mut counts = PeerDropCounts::default();
        all.iter().for_each(|(direction, why, packets)| counts[PeerDrop::of(*direction, *why).index()] = *packets);
        Some(counts)
    }

    #[test]
    fn who_takes_over_an_id_begins_at_zero_and_others_are_not_read() {
        let table = table(2);
        let (peer, tag, other) = (PeerId(1), PeerTag(u64::MAX), PeerTag(7));
        table.install(peer, tag);
        assert_eq!(table.read(peer, tag), None, "nothing was dropped");
        table.add(peer, IN, Drop::BadTag, 4);
        table.add(peer, OUT, Drop::NoPath, 5);
        table.add(peer, IN, Drop::BadFrame, 1);
        table.add(peer, IN, Drop::CeNotEct, 1);
        let expected = counts(&[(IN, Drop::BadTag, 4), (OUT, Drop::NoPath, 5), (IN, Drop::BadEtherIp, 2)]);
        assert_eq!(table.read(peer, tag), expected);
        // The same peer goes on, another one does not.
        table.install(peer, tag);
        assert_eq!((table.read(peer, tag), table.read(peer, other), table.read(PeerId(0), tag)), (expected, None, None));
        table.install(peer, other);
        table.add(peer, OUT, Drop::NoPath, 1);
        assert_eq!((table.read(peer, tag), table.read(peer, other)), (None, counts(&[(OUT, Drop::NoPath, 1)])));
        table.remove(peer);
        table.add(peer, OUT, Drop::NoPath, 1);
        assert_eq!((table.read(peer, other), table.read(peer, PeerTag(NOBODY))), (None, None), "it is nobody's");
    }

    #[test]
    fn an_id_without_a_slot_counts_nothing() {
        let table = table(1);
        for peer in [PeerId(1), PeerId(u16::MAX)] {
            table.install(peer, PeerTag(1));
            table.add(peer, IN, Drop::BadTag, 1);
            assert_eq!(table.read(peer, PeerTag(1)), None);
            table.remove(peer);
        }
    }

    proptest! {
        #[test]
        fn any_words_are_counters_of_whom_they_name_and_of_nobody_else(words: [u64; SLOT_WORDS], tag: u64) {
            let table = DropTable::new(Vec::from(words.map(AtomicU64::new)));
            prop_assert_eq!(table.read(PeerId(0), PeerTag(tag)).is_some(), tag == words[0] && tag != NOBODY);
            let named = table.read(PeerId(0), PeerTag(words[0]));
            prop_assert!(named.is_none_or(|counts| counts[..] == words[1..=PeerDrop::COUNT]));
        }
    }
}
