//! The totals that one control plane leaves to the next, as text: what data planes and SAs had counted that are gone.

use std::collections::BTreeMap;

use adit_proto::control::{ChildId, Direction, PeerTag};
use adit_proto::peer_drops::PeerDrop;
use adit_proto::stats::{Count, Drop, Latency};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::WORKERS_MAX;
use crate::meter::Gone;
use crate::meter::drops::GoneDrops;
use crate::numbers::{Numbers, WorkerNumbers};
use crate::schema::Volume;

/// Totals of what is gone, in the form in which one control plane leaves them to the next: of data planes, and of SAs, also of the
/// data plane that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Archive {
    pub restarts: u64,
    pub numbers: Numbers,
    pub gone: Vec<Gone>,
    pub drops: Vec<GoneDrops>,
}

/// Only what is not zero, by name: the next control plane may be of another release.
#[derive(Serialize, Deserialize)]
struct ArchiveText {
    restarts: u64,
    workers: Vec<WorkerText>,
    /// Tag of the peer, id of the Child SA, direction, packets, bytes.
    #[serde(default)]
    gone: Vec<(u64, u16, u8, u64, u64)>,
    /// Tag of the peer, direction, name, packets.
    #[serde(default)]
    drops: Vec<(u64, u8, String, u64)>,
}

#[derive(Default, Serialize, Deserialize)]
struct WorkerText {
    counts: BTreeMap<String, u64>,
    drops: BTreeMap<String, u64>,
    /// Per histogram: bucket and count.
    latencies: BTreeMap<String, Vec<(usize, u64)>>,
}

impl Serialize for Archive {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        fn named<T: Copy>(all: &[T], label: fn(T) -> &'static str, values: &[u64]) -> BTreeMap<String, u64> {
            let pairs = all.iter().zip(values).filter(|(_, value)| **value > 0);
            pairs.map(|(one, value)| (label(*one).to_owned(), *value)).collect()
        }
        let sparse = |buckets: &Vec<u64>| buckets.iter().copied().enumerate().filter(|(_, count)| *count > 0).collect();
        let worker = |worker: &WorkerNumbers| WorkerText {
            counts: named(Count::ALL, Count::label, &worker.counts),
            drops: named(Drop::ALL, Drop::label, &worker.drops),
            latencies: Latency::ALL
                .iter()
                .map(|one| (one.label().to_owned(), sparse(&worker.latencies[*one as usize])))
                .collect(),
        };
        let gone = self.gone.iter();
        let gone = gone.map(|one| (one.peer.0, one.child.0, one.direction as u8, one.volume.packets, one.volume.bytes));
        let drops = self.drops.iter();
        let drops = drops.map(|(peer, drop, packets)| (peer.0, drop.direction() as u8, drop.label().to_owned(), *packets));
        ArchiveText {
            restarts: self.restarts,
            workers: self.numbers.workers.iter().map(worker).collect(),
            gone: gone.collect(),
            drops: drops.collect(),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Archive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Archive, D::Error> {
        let text = ArchiveText::deserialize(deserializer)?;
        let worker = |text: &WorkerText| {
            let mut worker = WorkerNumbers::default();
            for (index, one) in Count::ALL.iter().enumerate() {
                worker.counts[index] = text.counts.get(one.label()).copied().unwrap_or(0);
            }
            for (index, one) in Drop::ALL.iter().enumerate() {
                worker.drops[index] = text.drops.get(one.label()).copied().unwrap_or(0);
            }
            for (index, one) in Latency::ALL.iter().enumerate() {
                for (bucket, count) in text.latencies.get(one.label()).into_iter().flatten() {
                    if let Some(into) = worker.latencies[index].get_mut(*bucket) {
                        *into = *count;
                    }
                }
            }
            worker
        };
        let gone = text.gone.iter().filter_map(|(peer, child, direction, packets, bytes)| {
            let direction = Direction::from_code(*direction).ok()?;
            let volume = Volume { packets: *packets, bytes: *bytes };
            Some(Gone { peer: PeerTag(*peer), child: ChildId(*child), direction, volume })
        });
        let drops = text.drops.iter().filter_map(|(peer, direction, label, packets)| {
            let mut all = PeerDrop::all();
            let drop = all.find(|drop| (drop.direction() as u8, drop.label()) == (*direction, label.as_str()))?;
            Some((PeerTag(*peer), drop, *packets))
        });
        // More workers than there can be is no archive of ours.
        let workers = text.workers.iter().take(usize::from(WORKERS_MAX)).map(worker).collect();
        Ok(Archive { restarts: text.restarts, numbers: Numbers { workers }, gone: gone.collect(), drops: drops.collect() })
    }
}

#[cfg(test)]
mod tests {
    use adit_proto::histogram;

    use super::*;

    fn numbers() -> Numbers {
        let mut worker = WorkerNumbers::default();
        worker.counts[Count::Sealed as usize] = 5;
        worker.latencies[Latency::Inbound as usize][histogram::bucket_of(1000)] = 5;
        Numbers { workers: vec![worker] }
    }

    #[test]
    fn an_archive_is_left_and_inherited_whole() {
        let volume = Volume { packets: 7, bytes: 700 };
        let one = Gone { peer: PeerTag(u64::MAX), child: ChildId(9), direction: Direction::Outbound, volume };
        let drops = PeerDrop::all().zip(1..).map(|(drop, packets)| (PeerTag(u64::MAX), drop, packets));
        let archive = Archive { restarts: 3, numbers: numbers(), gone: vec![one], drops: drops.take(3).collect() };
        let text = serde_json::to_string(&archive).unwrap();
        assert_eq!(serde_json::from_str::<Archive>(&text).unwrap(), archive);
        assert!(text.len() < 1000, "zeros are left out: {text}");
        let strange = r#"{"restarts":1,"workers":[{"counts":{"sealed_packets":9,"later":1},"drops":{},"latencies":{"inbound":[[99999,1]]}}],"sas":[[2,1,1,1,1]],"drops":[[1,9,"replay",1],[1,1,"later",1]]}"#;
        assert_eq!(serde_json::from_str::<Archive>(strange).unwrap().numbers.workers[0].count(Count::Sealed), 9);
    }
}
