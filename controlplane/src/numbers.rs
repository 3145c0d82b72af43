//! The numbers of the workers as totals that never go back: what the shared memory says now, plus what the data planes before had
//! counted when they died. What went through SAs is added up by [`crate::meter`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use adit_channel::Master;
use adit_proto::control::{Direction, PeerId, PeerTag, Spi};
use adit_proto::histogram;
use adit_proto::stats::{Count, Drop, Gauge, Latency};
use hdrhistogram::Histogram;

/// The numbers of a socket of this process.
#[derive(Debug)]
pub struct SocketNumbers {
    received: AtomicU64,
    drops: [AtomicU64; Drop::COUNT],
}

impl Default for SocketNumbers {
    fn default() -> SocketNumbers {
        SocketNumbers { received: AtomicU64::new(0), drops: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl SocketNumbers {
    /// So many datagrams were taken.
    pub fn received(&self, count: u64) {
        self.received.fetch_add(count, Ordering::Relaxed);
    }

    /// So many were dropped.
    pub fn count_drop(&self, why: Drop, count: u64) {
        self.drops[why as usize].fetch_add(count, Ordering::Relaxed);
    }

    pub fn received_so_far(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub fn dropped(&self, why: Drop) -> u64 {
        self.drops[why as usize].load(Ordering::Relaxed)
    }

    /// What was taken and what was dropped.
    pub fn all(&self) -> u64 {
        self.received_so_far() + Drop::ALL.iter().map(|why| self.dropped(*why)).sum::<u64>()
    }
}

/// The numbers of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerNumbers {
    pub counts: [u64; Count::COUNT],
    pub drops: [u64; Drop::COUNT],
    /// Only of a live data plane; an archive has none.
    pub gauges: Option<[i64; Gauge::COUNT]>,
    /// Counts per bucket of each histogram.
    pub latencies: [Vec<u64>; Latency::COUNT],
}

impl Default for WorkerNumbers {
    fn default() -> WorkerNumbers {
        let latencies = std::array::from_fn(|_| vec![0; histogram::BUCKETS]);
        WorkerNumbers { counts: [0; Count::COUNT], drops: [0; Drop::COUNT], gauges: None, latencies }
    }
}

impl WorkerNumbers {
    pub fn count(&self, count: Count) -> u64 {
        self.counts[count as usize]
    }

    pub fn drop(&self, drop: Drop) -> u64 {
        self.drops[drop as usize]
    }

    pub fn gauge(&self, gauge: Gauge) -> Option<i64> {
        Some(self.gauges?[gauge as usize])
    }
}

/// What an SA is called. The SPI of an inbound one is our choice and says all; that of an outbound one is its peer's choice, and
/// two peers may choose the same, so the peer belongs to the name: by its tag, for its id may change with the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SaName {
    /// It comes first so that lists are in order.
    direction: u8,
    peer: u64,
    spi: Spi,
}

impl SaName {
    pub fn new(direction: Direction, peer: PeerTag, spi: Spi) -> SaName {
        let peer = if direction == Direction::Outbound { peer.0 } else { 0 };
        SaName { direction: direction as u8, peer, spi }
    }
}

/// The tag of a peer that nobody knows.
pub const NOBODY: PeerTag = PeerTag(0);

/// Who has which id in a data plane.
pub type Peers = BTreeMap<PeerId, PeerTag>;

/// The numbers of all workers at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    pub workers: Vec<WorkerNumbers>,
}

impl Numbers {
    /// What the shared memory says now.
    pub fn read(master: &Master) -> Numbers {
        let worker = |worker: u16| {
            let counters = master.counters(worker);
            WorkerNumbers {
                counts: std::array::from_fn(|index| counters.count(Count::ALL[index])),
                drops: std::array::from_fn(|index| counters.drop(Drop::ALL[index])),
                gauges: Some(std::array::from_fn(|index| counters.gauge(Gauge::ALL[index]))),
                latencies: std::array::from_fn(|index| master.latency(worker, Latency::ALL[index])),
            }
        };
        Numbers { workers: (0..master.workers()).map(worker).collect() }
    }

    /// Adds the totals of another data plane; what is only true of a live one stays as it is here.
    pub fn add(&mut self, other: &Numbers) {
        if self.workers.len() < other.workers.len() {
            self.workers.resize_with(other.workers.len(), WorkerNumbers::default);
        }
        // A hostile data plane may have written any numbers.
        let sum =
            |into: &mut [u64], from: &[u64]| into.iter_mut().zip(from).for_each(|(into, from)| *into = into.wrapping_add(*from));
        for (worker, more) in self.workers.iter_mut().zip(&other.workers) {
            sum(&mut worker.counts, &more.counts);
            sum(&mut worker.drops, &more.drops);
            worker.latencies.iter_mut().zip(&more.latencies).for_each(|(into, from)| sum(into, from));
        }
    }

    /// The same without what is only true of a live data plane: what an archive keeps.
    pub fn totals(&self) -> Numbers {
        let mut totals = Numbers::default();
        totals.add(self);
        totals
    }

    /// A histogram over all workers.
    pub fn latency(&self, latency: Latency) -> Histogram<u64> {
        let mut all = Histogram::new_with_bounds(1, histogram::VALUE_MAX + 1, 3).expect("bounds and precision are in range");
        for worker in &self.workers {
            for (bucket, count) in worker.latencies[latency as usize].iter().enumerate().filter(|(_, count)| **count > 0) {
                let middle = histogram::lowest(bucket).midpoint(histogram::highest(bucket));
                all.saturating_record_n(middle, *count);
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(sealed: u64) -> Numbers {
        let mut worker = WorkerNumbers { gauges: Some([1; Gauge::COUNT]), ..WorkerNumbers::default() };
        worker.counts[Count::Sealed as usize] = sealed;
        worker.latencies[Latency::Inbound as usize][histogram::bucket_of(1000)] = sealed;
        Numbers { workers: vec![worker] }
    }

    #[test]
    fn totals_add_up_over_data_planes_and_live_numbers_stay_live() {
        let archive = numbers(5).totals();
        assert_eq!(archive.workers[0].gauges, None);
        let mut now = numbers(2);
        now.add(&archive);
        assert_eq!(now.workers[0].count(Count::Sealed), 7);
        assert_eq!(now.workers[0].gauge(Gauge::IoUring), Some(1));
        let mut fewer = Numbers::default();
        fewer.add(&archive);
        assert_eq!(fewer, archive, "a data plane that is down still counts");
    }

    #[test]
    fn quantiles_come_from_the_shared_buckets() {
        let mut numbers = numbers(0);
        let buckets = &mut numbers.workers[0].latencies[Latency::Outbound as usize];
        buckets[histogram::bucket_of(10_000)] = 990;
        buckets[histogram::bucket_of(1_000_000)] = 10;
        let all = numbers.latency(Latency::Outbound);
        assert_eq!(all.len(), 1000);
        let near = |value: u64, expected: u64| value.abs_diff(expected) * 100 <= expected * 4;
        assert!(near(all.value_at_quantile(0.5), 10_000) && near(all.value_at_quantile(0.999), 1_000_000));
    }
}
