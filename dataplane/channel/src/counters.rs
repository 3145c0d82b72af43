//! The counter block of a worker: one writer with plain loads and stores, read from outside at any time.

use std::ops::Deref;

use adit_proto::stats::{Count, Drop, Gauge};

use crate::sync::{AtomicU64, Ordering};

const STATUS_AT: usize = 0;
const COUNTS_AT: usize = 16;
const DROPS_AT: usize = COUNTS_AT + Count::COUNT;
const GAUGES_AT: usize = DROPS_AT + Drop::COUNT;
/// Words of the block, rounded up to cache lines.
pub const WORDS: usize = (GAUGES_AT + Gauge::COUNT).next_multiple_of(16);

/// Adds to a word that nobody else writes. No locked instruction: the store may be seen late, never torn.
#[inline]
pub fn add(word: &AtomicU64, n: u64) {
    word.store(word.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

/// The block, for its writer and for its readers.
#[derive(Clone, Debug)]
pub struct CounterBlock<M> {
    words: M,
}

impl<M: Deref<Target = [AtomicU64]>> CounterBlock<M> {
    /// `words` is [`WORDS`] long.
    pub fn new(words: M) -> CounterBlock<M> {
        CounterBlock { words }
    }

    #[inline]
    pub fn count(&self, count: Count, n: u64) {
        add(&self.words[COUNTS_AT + count as usize], n);
    }

    #[inline]
    pub fn drop(&self, drop: Drop, n: u64) {
        add(&self.words[DROPS_AT + drop as usize], n);
    }

    #[inline]
    pub fn gauge(&self, gauge: Gauge, value: i64) {
        self.words[GAUGES_AT + gauge as usize].store(value as u64, Ordering::Relaxed);
    }

    /// Says that a ring is corrupt, as bit `ring`.
    pub fn mark_corrupt(&self, ring: u32) {
        let status = &self.words[STATUS_AT];
        status.store(status.load(Ordering::Relaxed) | 1 << ring, Ordering::Relaxed);
    }

    /// A copy of all numbers.
    pub fn read(&self) -> Counters {
        let word = |at: usize| self.words[at].load(Ordering::Relaxed);
        Counters {
            counts: std::array::from_fn(|i| word(COUNTS_AT + i)),
            drops: std::array::from_fn(|i| word(DROPS_AT + i)),
            gauges: std::array::from_fn(|i| word(GAUGES_AT + i) as i64),
            corrupt_rings: word(STATUS_AT),
        }
    }
}

/// The numbers of a worker at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    counts: [u64; Count::COUNT],
    drops: [u64; Drop::COUNT],
    gauges: [i64; Gauge::COUNT],
    corrupt_rings: u64,
}

impl Counters {
    pub fn count(&self, count: Count) -> u64 {
        self.counts[count as usize]
    }

    pub fn drop(&self, drop: Drop) -> u64 {
        self.drops[drop as usize]
    }

    pub fn gauge(&self, gauge: Gauge) -> i64 {
        self.gauges[gauge as usize]
    }

    /// Whether the worker found nonsense in one of its rings. Such a ring stays unused until the data plane is restarted.
    pub fn has_corrupt_ring(&self) -> bool {
        self.corrupt_rings != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_its_own_place() {
        let words: Vec<AtomicU64> = (0..WORDS).map(|_| AtomicU64::new(0)).collect();
        let block = CounterBlock::new(words);
        for (i, &count) in Count::ALL.iter().enumerate() {
            block.count(count, 1 + i as u64);
        }
        for (i, &drop) in Drop::ALL.iter().enumerate() {
            block.drop(drop, 100 + i as u64);
        }
        for (i, &gauge) in Gauge::ALL.iter().enumerate() {
            block.gauge(gauge, -1 - i as i64);
        }
        block.count(Count::Sealed, 5);
        let read = block.read();
        assert_eq!(read.count(Count::Sealed), 5 + 1 + Count::Sealed as u64);
        assert!(Count::ALL.iter().all(|&c| c == Count::Sealed || read.count(c) == 1 + c as u64));
        assert!(Drop::ALL.iter().all(|&d| read.drop(d) == 100 + d as u64));
        assert!(Gauge::ALL.iter().all(|&g| read.gauge(g) == -1 - g as i64));
        assert!(!read.has_corrupt_ring());
        block.mark_corrupt(2);
        assert!(block.read().has_corrupt_ring());
    }
}
