//! What each worker lets the others know of its SAs: with which SPI it seals to a peer, and which SPIs it may be able to open.
//!
//! The first is an exact table in buckets, since two must not seal with one SPI; the second is a counting filter, since it only spares
//! a look at SAs that are not there. Every part has one writer, the worker that it belongs to, and changes only when the control plane
//! commands it. Nobody waits.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use adit_proto::control::{PeerId, Refusal, Spi};

use crate::sa::hash;

/// What all workers of a process have published.
pub struct Registry {
    workers: Vec<Part>,
    seed: RandomState,
}

/// What one worker has published.
struct Part {
    /// In buckets by hash: the peer and the SPI of each SA with which the worker seals. Nothing in them moves.
    outbound: Box<[AtomicU64]>,
    /// A counting filter, by hash: how many of the SPIs that the worker opens have it. No look-up misses one, and few find what is not
    /// there.
    inbound: Box<[AtomicU32]>,
}

/// Places for hashes to each SA that there can be.
const PLACES_PER_SA: usize = 4;
/// Places of a bucket. A quarter of them are in use at most on average; who finds none free has to do without the SA.
const WAYS: usize = 16;
/// A place that is free.
const FREE: u64 = 0;

/// How the place of an outbound SA was come by.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    New,
    /// It is the worker's already.
    Held,
}

impl Registry {
    pub fn new(workers: usize, sa_slots: u32) -> Registry {
        let places = (PLACES_PER_SA * sa_slots as usize).next_power_of_two().max(WAYS);
        let part = || Part {
            outbound: (0..places).map(|_| AtomicU64::new(FREE)).collect(),
            inbound: (0..places).map(|_| AtomicU32::new(0)).collect(),
        };
        Registry { workers: (0..workers).map(|_| part()).collect(), seed: RandomState::new() }
    }

    /// Claims an outbound SPI of a peer for a worker. Two that had the same key would use the same nonces. When two claim at the same
    /// time, at most one gets it.
    ///
    /// # Errors
    /// Another worker seals to the peer with it, or there is no room.
    pub fn claim_outbound(&self, worker: usize, peer: PeerId, spi: Spi) -> Result<Claim, Refusal> {
        let name = name(peer, spi);
        let own = self.bucket(worker, name);
        if own.iter().any(|place| place.load(Ordering::SeqCst) == name) {
            return Ok(Claim::Held);
        }
        let place = own.iter().find(|place| place.load(Ordering::SeqCst) == FREE).ok_or(Refusal::SaTableFull)?;
        place.store(name, Ordering::SeqCst);
        let mut others = (0..self.workers.len()).filter(|&other| other != worker);
        let taken = others.any(|other| self.bucket(other, name).iter().any(|place| place.load(Ordering::SeqCst) == name));
        if taken {
            place.store(FREE, Ordering::SeqCst);
            return Err(Refusal::SpiInUse);
        }
        Ok(Claim::New)
    }

    /// The worker no longer seals to the peer with this SPI.
    pub fn release_outbound(&self, worker: usize, peer: PeerId, spi: Spi) {
        let name = name(peer, spi);
        let held = self.bucket(worker, name).iter().filter(|place| place.load(Ordering::SeqCst) == name);
        held.for_each(|place| place.store(FREE, Ordering::SeqCst));
    }

    /// Where a worker has an outbound SA of this name, if it has. A peer chooses its SPIs, and cannot know which share a bucket.
    fn bucket(&self, worker: usize, name: u64) -> &[AtomicU64] {
        let Some(part) = self.workers.get(worker) else { return &[] };
        let buckets = part.outbound.len() / WAYS;
        let at = self.seed.hash_one(name) as usize % buckets * WAYS;
        &part.outbound[at..at + WAYS]
    }

    /// A worker opens packets with this SPI from here on.
    pub fn add_inbound(&self, worker: usize, spi: Spi) {
        self.count_inbound(worker, spi, 1);
    }

    /// A worker no longer opens packets with this SPI.
    pub fn remove_inbound(&self, worker: usize, spi: Spi) {
        self.count_inbound(worker, spi, u32::MAX);
    }

    fn count_inbound(&self, worker: usize, spi: Spi, change: u32) {
        if let Some(place) = self.inbound(worker, spi) {
            place.store(place.load(Ordering::Relaxed).wrapping_add(change), Ordering::Relaxed);
        }
    }

    /// Whether a worker may be able to open packets with this SPI. Never false for one that it has.
    #[inline]
    pub fn may_open(&self, worker: usize, spi: Spi) -> bool {
        self.inbound(worker, spi).is_some_and(|place| place.load(Ordering::Relaxed) != 0)
    }

    #[inline]
    fn inbound(&self, worker: usize, spi: Spi) -> Option<&AtomicU32> {
        let places = &self.workers.get(worker)?.inbound;
        places.get(hash(spi) & (places.len() - 1))
    }
}

fn name(peer: PeerId, spi: Spi) -> u64 {
    1 << 63 | u64::from(peer.0) << 32 | u64::from(spi.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_spi_to_a_peer_has_one_worker_at_a_time() {
        let registry = Registry::new(3, 8);
        let (peer, first) = (PeerId(0), Spi(0x5000_0001));
        assert_eq!(registry.claim_outbound(0, peer, first), Ok(Claim::New));
        assert_eq!(registry.claim_outbound(0, peer, first), Ok(Claim::Held));
        assert_eq!(registry.claim_outbound(1, peer, first), Err(Refusal::SpiInUse));
        assert_eq!(registry.claim_outbound(1, PeerId(1), first), Ok(Claim::New), "another peer's is another SA");
        assert_eq!(registry.claim_outbound(2, peer, Spi(0x5000_0002)), Ok(Claim::New), "the peer has several");
        registry.release_outbound(1, peer, first);
        assert_eq!(registry.claim_outbound(1, peer, first), Err(Refusal::SpiInUse), "that was not worker 1's to release");
        registry.release_outbound(0, peer, first);
        assert_eq!(registry.claim_outbound(1, peer, first), Ok(Claim::New));
    }

    #[test]
    fn all_sas_that_there_can_be_find_room() {
        let registry = Registry::new(1, 4096);
        let refused = (0..4096).filter(|n| registry.claim_outbound(0, PeerId(*n as u16 % 7), Spi(0x5000_0000 + n)).is_err());
        assert_eq!(refused.count(), 0);
    }

    #[test]
    fn every_spi_that_is_there_is_found_and_few_others() {
        let registry = Registry::new(2, 256);
        let spis = |from: u32| (from..from + 256).map(|n| Spi(0x5000_0000 + 64 * n));
        spis(0).for_each(|spi| registry.add_inbound(1, spi));
        assert!(spis(0).all(|spi| registry.may_open(1, spi) && !registry.may_open(0, spi)));
        let false_finds = spis(100_000).filter(|spi| registry.may_open(1, *spi)).count();
        assert!(false_finds < 128, "{false_finds} of 256");
        spis(0).take(255).for_each(|spi| registry.remove_inbound(1, spi));
        assert!(registry.may_open(1, spis(255).next().unwrap()));
        spis(255).take(1).for_each(|spi| registry.remove_inbound(1, spi));
        assert!(spis(0).chain(spis(100_000)).all(|spi| !registry.may_open(1, spi)));
        assert!(!registry.may_open(2, Spi(0x5000_0000)), "no such worker");
    }
}
