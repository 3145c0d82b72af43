//! What each worker lets the others know of its SAs: with which SPI it seals to a peer.
//!
//! Every part has one writer, the worker that it belongs to, and changes only when the control plane orders it. Nobody waits.

use std::sync::atomic::{AtomicU32, Ordering};

use adit_proto::control::{PeerId, Spi};

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
}

/// What stood in a place before it was claimed.
#[must_use]
pub struct Claim(u32);

impl Registry {
    pub fn new(workers: usize, max_peers: u16) -> Registry {
        let part = || Part { outbound: (0..max_peers).map(|_| AtomicU32::new(NONE)).collect() };
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

    fn outbound(&self, worker: usize, peer: PeerId) -> Option<&AtomicU32> {
        self.workers.get(worker)?.outbound.get(usize::from(peer.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_spi_to_a_peer_has_one_worker_at_a_time() {
        let registry = Registry::new(3, 2);
        let (first, second) = (Spi(0x4000_0001), Spi(0x4000_0002));
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
}
