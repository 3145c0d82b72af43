//! What each worker lets the others know of its SAs: with which SPI it seals to a peer, and which SPIs it may be able to open.
//!
//! Every part has one writer, the worker that it belongs to, and changes only when the control plane orders it. Nobody waits.

use std::sync::atomic::{AtomicU32, Ordering};

use adit_proto::control::{PeerId, Spi};

use crate::sa::hash;

/// No SPI: ours begin far above.
const NONE: u32 = 0;

/// What all workers of a process have published.
pub struct Registry {
    workers: Vec<Part>,
}

/// What one worker has published.
struct Part {
    /// By peer: the SPI with which the worker seals.
    outbound: Box<[AtomicU32]>,
    /// By hash: how many of the SPIs that the worker opens have it. No look-up misses one, and few find what is not there.
    inbound: Box<[AtomicU32]>,
}

/// Places for hashes to each SA that there can be.
const PLACES_PER_SA: usize = 4;

/// What stood in a place before it was claimed.
#[must_use]
pub struct Claim(u32);

impl Registry {
    pub fn new(workers: usize, max_peers: u16, sa_slots: u32) -> Registry {
        let zeros = |count: usize| (0..count).map(|_| AtomicU32::new(0)).collect();
        let hashes = (PLACES_PER_SA * sa_slots as usize).next_power_of_two();
        let part = || Part { outbound: zeros(max_peers.into()), inbound: zeros(hashes) };
        Registry { workers: (0..workers).map(|_| part()).collect() }
    }

    /// Claims an SPI for a worker; `None` when another worker seals to the peer with it. Two that had the same key would use
    /// the same nonces. When two claim at the same time, at most one gets it.
    pub fn claim_outbound(&self, worker: usize, peer: PeerId, spi: Spi) -> Option<Claim> {
        let place = self.outbound(worker, peer)?;
        let before = place.swap(spi.0, Ordering::SeqCst);
        let mut others = (0..self.workers.len()).filter(|&other| other != worker);
        let taken = others.any(|other| self.outbound(other, peer).is_some_and(|place| place.load(Ordering::SeqCst) == spi.0));
        if taken {
            place.store(before, Ordering::SeqCst);
        }
        (!taken).then_some(Claim(before))
    }

    /// Takes a claim back: what stood there before holds again.
    pub fn unclaim_outbound(&self, worker: usize, peer: PeerId, claim: Claim) {
        if let Some(place) = self.outbound(worker, peer) {
            place.store(claim.0, Ordering::SeqCst);
        }
    }

    /// The worker no longer seals to the peer.
    pub fn release_outbound(&self, worker: usize, peer: PeerId) {
        self.unclaim_outbound(worker, peer, Claim(NONE));
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

    fn outbound(&self, worker: usize, peer: PeerId) -> Option<&AtomicU32> {
        self.workers.get(worker)?.outbound.get(usize::from(peer.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_spi_to_a_peer_has_one_worker_at_a_time() {
        let registry = Registry::new(3, 2, 8);
        let (first, second) = (Spi(0x5000_0001), Spi(0x5000_0002));
        assert!(registry.claim_outbound(0, PeerId(0), first).is_some());
        assert!(registry.claim_outbound(0, PeerId(0), first).is_some(), "its own again");
        assert!(registry.claim_outbound(1, PeerId(0), first).is_none());
        assert!(registry.claim_outbound(1, PeerId(1), first).is_some(), "another peer's is another SA");
        let claim = registry.claim_outbound(0, PeerId(0), second).unwrap();
        registry.unclaim_outbound(0, PeerId(0), claim);
        assert!(registry.claim_outbound(1, PeerId(0), first).is_none(), "the first holds again");
        registry.release_outbound(0, PeerId(0));
        assert!(registry.claim_outbound(1, PeerId(0), first).is_some());
        assert!(registry.claim_outbound(0, PeerId(2), first).is_none(), "no such peer");
    }

    #[test]
    fn every_spi_that_is_there_is_found_and_few_others() {
        let registry = Registry::new(2, 1, 256);
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
