//! Counters of the paths of each peer: one writer, one slot for each path that a worker has, read from outside at any time.
//!
//! ```text
//!  word 0       1             2            3                4              5             6            7
//!  ┌──────────┬─────────────┬────────────┬────────────────┬──────────────┬─────────────┬────────────┬──────────────┐
//!  │ identity │ sent packets│ sent bytes │ received pack. │ received by. │ received at │ echoes sent│ echo replies │
//!  └──────────┴─────────────┴────────────┴────────────────┴──────────────┴─────────────┴────────────┴──────────────┘
//! ```
//! The identity is 0 while the slot is empty. Each number is right by itself; a reader that finds another identity after the numbers
//! than before takes none of them.

use std::collections::BTreeMap;
use std::ops::Deref;

use adit_proto::control::{PathId, PeerId};

use crate::counters::add;
use crate::sync::{AtomicU64, Ordering, fence};

/// Words of a slot: one cache line.
pub const SLOT_WORDS: usize = 8;

/// In the identity: the slot is in use.
const USED: u64 = 1 << 63;

/// What a worker counts of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PathCount {
    /// ESP packets given to the kernel.
    SentPackets = 1,
    /// Their UDP payloads.
    SentBytes = 2,
    /// Authentic packets that were new.
    ReceivedPackets = 3,
    ReceivedBytes = 4,
    EchoesSent = 6,
    EchoReplies = 7,
}

/// Where the time of the last authentic packet stands.
const RECEIVED_AT: usize = 5;

/// What has gone over a path since it was set, over all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathCounters {
    pub sent_packets: u64,
    /// Bytes of UDP payload, as below.
    pub sent_bytes: u64,
    pub received_packets: u64,
    pub received_bytes: u64,
    /// When the last authentic packet came: nanoseconds of CLOCK_MONOTONIC, the clock of [`std::time::Instant`]; 0 when none has.
    pub received_at_ns: u64,
    pub echoes_sent: u64,
    pub echo_replies: u64,
}

/// The table of a worker, for its writer and for its readers.
#[derive(Debug)]
pub struct PathTable<M> {
    words: M,
}

impl<M: Deref<Target = [AtomicU64]>> PathTable<M> {
    /// `words` are whole slots.
    pub fn new(words: M) -> PathTable<M> {
        PathTable { words }
    }

    #[inline]
    fn slot(&self, index: u16) -> Option<&[AtomicU64; SLOT_WORDS]> {
        self.words.get(usize::from(index) * SLOT_WORDS..)?.first_chunk()
    }

    /// Begins to count for a path in this slot.
    pub fn install(&self, index: u16, peer: PeerId, path: PathId) {
        let Some(slot) = self.slot(index) else { return };
        self.remove(index);
        slot[0].store(USED | u64::from(peer.0) << 8 | path.index() as u64, Ordering::Release);
    }

    /// Empties a slot.
    pub fn remove(&self, index: u16) {
        let Some(slot) = self.slot(index) else { return };
        slot[0].store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        slot[1..].iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// Counts. A path that found no slot counts nothing.
    #[inline]
    pub fn add(&self, index: u16, count: PathCount, n: u64) {
        if let Some(slot) = self.slot(index) {
            add(&slot[count as usize], n);
        }
    }

    /// Authentic packets came at this time.
    #[inline]
    pub fn received(&self, index: u16, packets: u64, bytes: u64, now_ns: u64) {
        if let Some(slot) = self.slot(index) {
            add(&slot[PathCount::ReceivedPackets as usize], packets);
            add(&slot[PathCount::ReceivedBytes as usize], bytes);
            slot[RECEIVED_AT].store(now_ns, Ordering::Relaxed);
        }
    }

    /// Adds the counters of this worker to a sum over all.
    pub fn sum_into(&self, sum: &mut BTreeMap<(PeerId, PathId), PathCounters>) {
        for slot in self.words.as_chunks::<SLOT_WORDS>().0 {
            let identity = slot[0].load(Ordering::Acquire);
            if identity & USED == 0 {
                continue;
            }
            let word = |at: usize| slot[at].load(Ordering::Relaxed);
            let count = |count: PathCount| word(count as usize);
            let (sent, received) = (PathCount::SentPackets, PathCount::ReceivedPackets);
            let found = PathCounters {
                sent_packets: count(sent),
                sent_bytes: count(PathCount::SentBytes),
                received_packets: count(received),
                received_bytes: count(PathCount::ReceivedBytes),
                received_at_ns: word(RECEIVED_AT),
                echoes_sent: count(PathCount::EchoesSent),
                echo_replies: count(PathCount::EchoReplies),
            };
            fence(Ordering::Acquire);
            let Some(path) = PathId::new(identity as u8) else { continue };
            if slot[0].load(Ordering::Relaxed) == identity {
                sum.entry((PeerId((identity >> 8) as u16), path)).or_default().add(&found);
            }
        }
    }
}

impl PathCounters {
    /// Another worker wrote the other: a hostile one may have written anything.
    fn add(&mut self, other: &PathCounters) {
        self.sent_packets = self.sent_packets.wrapping_add(other.sent_packets);
        self.sent_bytes = self.sent_bytes.wrapping_add(other.sent_bytes);
        self.received_packets = self.received_packets.wrapping_add(other.received_packets);
        self.received_bytes = self.received_bytes.wrapping_add(other.received_bytes);
        self.received_at_ns = self.received_at_ns.max(other.received_at_ns);
        self.echoes_sent = self.echoes_sent.wrapping_add(other.echoes_sent);
        self.echo_replies = self.echo_replies.wrapping_add(other.echo_replies);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(slots: usize) -> PathTable<Vec<AtomicU64>> {
        PathTable::new((0..slots * SLOT_WORDS).map(|_| AtomicU64::new(0)).collect())
    }

    fn sum(tables: &[&PathTable<Vec<AtomicU64>>]) -> BTreeMap<(PeerId, PathId), PathCounters> {
        let mut sum = BTreeMap::new();
        tables.iter().for_each(|table| table.sum_into(&mut sum));
        sum
    }

    #[test]
    fn workers_add_up_and_a_slot_begins_at_zero_again() {
        let (first, second) = (table(2), table(2));
        let (peer, path) = (PeerId(u16::MAX), PathId::new(7).unwrap());
        first.install(1, peer, path);
        second.install(0, peer, path);
        first.add(1, PathCount::SentPackets, 3);
        first.add(1, PathCount::SentBytes, 300);
        first.received(1, 1, 100, 50);
        second.received(0, 2, 200, 40);
        second.add(0, PathCount::EchoesSent, 5);
        second.add(0, PathCount::EchoReplies, 4);
        let expected = PathCounters {
            sent_packets: 3,
            sent_bytes: 300,
            received_packets: 3,
            received_bytes: 300,
            received_at_ns: 50,
            echoes_sent: 5,
            echo_replies: 4,
        };
        assert_eq!(sum(&[&first, &second]), BTreeMap::from([((peer, path), expected)]));
        first.remove(1);
        second.install(0, PeerId(3), PathId::FIRST);
        assert_eq!(sum(&[&first, &second]), BTreeMap::from([((PeerId(3), PathId::FIRST), PathCounters::default())]));
        // No slot, no count.
        first.add(2, PathCount::SentPackets, 1);
        first.received(u16::MAX, 1, 1, 1);
        first.install(2, peer, path);
        first.remove(u16::MAX);
        assert!(sum(&[&first]).is_empty());
    }

    proptest! {
        #[test]
        fn any_words_give_counters(words: [u64; 2 * SLOT_WORDS]) {
            let table = PathTable::new(Vec::from(words.map(AtomicU64::new)));
            prop_assert!(sum(&[&table, &table]).len() <= 2);
        }
    }
}
