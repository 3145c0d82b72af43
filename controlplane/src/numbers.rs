//! The numbers of the data plane as totals that never go back: what the shared memory says now, plus what the data planes
//! before it had counted when they died.

use std::collections::BTreeMap;

use adit_channel::Master;
use adit_proto::control::{Direction, Spi};
use adit_proto::histogram;
use adit_proto::stats::{Count, Drop, Gauge, Latency};
use hdrhistogram::Histogram;

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

/// The numbers of an SA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SaNumbers {
    /// Last sequence number used, or highest accepted; only of a live SA.
    pub seq: Option<u64>,
    pub packets: u64,
    pub bytes: u64,
}

/// An SA among the numbers. The direction comes first so that lists are in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SaName(u8, Spi);

impl SaName {
    pub fn new(direction: Direction, spi: Spi) -> SaName {
        SaName(direction as u8, spi)
    }
}

/// All numbers at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    pub workers: Vec<WorkerNumbers>,
    pub sas: BTreeMap<SaName, SaNumbers>,
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
        let sas = master.live_sas().into_iter().map(|(_, sa)| {
            (SaName::new(sa.direction, sa.spi), SaNumbers { seq: Some(sa.seq), packets: sa.packets, bytes: sa.bytes })
        });
        Numbers { workers: (0..master.workers()).map(worker).collect(), sas: sas.collect() }
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
        for (name, more) in &other.sas {
            let sa = self.sas.entry(*name).or_default();
            sa.packets = sa.packets.wrapping_add(more.packets);
            sa.bytes = sa.bytes.wrapping_add(more.bytes);
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

    fn numbers(sealed: u64, packets: u64) -> Numbers {
        let mut worker = WorkerNumbers { gauges: Some([1; Gauge::COUNT]), ..WorkerNumbers::default() };
        worker.counts[Count::Sealed as usize] = sealed;
        worker.latencies[Latency::Inbound as usize][histogram::bucket_of(1000)] = sealed;
        let name = SaName::new(Direction::Outbound, Spi(0x4000_0000));
        Numbers { workers: vec![worker], sas: [(name, SaNumbers { seq: Some(packets), packets, bytes: packets * 100 })].into() }
    }

    #[test]
    fn totals_add_up_over_data_planes_and_live_numbers_stay_live() {
        let archive = numbers(5, 7).totals();
        assert_eq!(archive.workers[0].gauges, None);
        let mut now = numbers(2, 3);
        now.add(&archive);
        assert_eq!(now.workers[0].count(Count::Sealed), 7);
        assert_eq!(now.workers[0].gauge(Gauge::IoUring), Some(1));
        let sa = now.sas.values().next().unwrap();
        assert_eq!((sa.seq, sa.packets, sa.bytes), (Some(3), 10, 1000));
        let mut fewer = Numbers::default();
        fewer.add(&archive);
        assert_eq!(fewer, archive, "a data plane that is down still counts");
    }

    #[test]
    fn quantiles_come_from_the_shared_buckets() {
        let mut numbers = numbers(0, 0);
        let buckets = &mut numbers.workers[0].latencies[Latency::Outbound as usize];
        buckets[histogram::bucket_of(10_000)] = 990;
        buckets[histogram::bucket_of(1_000_000)] = 10;
        let all = numbers.latency(Latency::Outbound);
        assert_eq!(all.len(), 1000);
        let near = |value: u64, expected: u64| value.abs_diff(expected) * 100 <= expected * 4;
        assert!(near(all.value_at_quantile(0.5), 10_000) && near(all.value_at_quantile(0.999), 1_000_000));
    }
}
