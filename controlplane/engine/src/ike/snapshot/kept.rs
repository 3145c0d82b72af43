//! The records of a snapshot as they were written last, so that a change of one IKE SA does not cost all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use zeroize::Zeroizing;

use super::bytes::Out;
use super::clock::{BootClock, EPOCH_MS};
use super::contents::{Change, MAGIC, PeerMark};
use super::record;
use crate::ike::config::{Now, PeerId};
use crate::ike::context::Shared;
use crate::ike::facts::SaId;
use crate::ike::sa::IkeSa;
use crate::path::Paths;

/// The records of the IKE SAs as they were written last, so that a change of one does not cost all of them. Nothing is kept before
/// the first snapshot: there are shells that never ask for one.
#[derive(Default)]
pub(in crate::ike) struct Kept {
    records: BTreeMap<SaId, Zeroizing<Vec<u8>>>,
    /// Those whose record may be another one by now.
    touched: BTreeSet<SaId>,
    /// IKE SAs and peers that are not any more what was last written of them, by a snapshot or as changes.
    unwritten: (BTreeSet<SaId>, BTreeSet<PeerId>),
    /// What is proven on the ways to peers with static keys, and which of it is likewise.
    sizes: BTreeMap<PeerId, (IpAddr, u16)>,
    unwritten_sizes: BTreeSet<PeerId>,
    /// Nothing of these was in the last snapshot, nor is in what stands behind it: they took too much of the room.
    left_out: BTreeSet<PeerId>,
    /// There is a snapshot that changes can be put behind.
    begun: bool,
    /// Something is another than when `refresh` was asked last.
    news: bool,
    /// Times in records are relative to this instant, so that a record does not change while nothing happens.
    epoch: Option<Instant>,
}

impl Kept {
    /// An IKE SA did something, or is gone.
    pub(in crate::ike) fn touch(&mut self, now: Now, id: SaId) {
        self.epoch.get_or_insert(now.instant);
        if self.begun {
            self.touched.insert(id);
        } else {
            self.news = true;
        }
    }

    fn write(&self, sa: &IkeSa, paths: &Paths) -> Option<Zeroizing<Vec<u8>>> {
        let clock = BootClock::new(self.epoch?, EPOCH_MS);
        (sa.session().is_some() && sa.facts.peer.is_some()).then(|| {
            let mut out = Out::new();
            record::write(&mut out, clock, sa, paths);
            out.finish()
        })
    }

    /// Whether a peer is wanted or held is another than before.
    pub(in crate::ike) fn touch_peer(&mut self, id: PeerId) {
        if self.begun {
            self.unwritten.1.insert(id);
        }
        self.news = true;
    }

    /// Writes anew what was touched; says whether anything is another than when this was asked last.
    pub(in crate::ike) fn refresh(&mut self, sas: &BTreeMap<SaId, Box<IkeSa>>, shared: &mut Shared) -> bool {
        for id in shared.paths.take_sized() {
            // Of a peer with IKE it stands in the record of its IKE SA.
            self.touched.extend(shared.peers.get(&id).and_then(|peer| peer.current).filter(|_| self.begun));
            let size = shared.paths.static_size(id);
            let before = if let Some(size) = size { self.sizes.insert(id, size) } else { self.sizes.remove(&id) };
            if before != size {
                self.unwritten_sizes.insert(id);
                self.news = true;
            }
        }
        for id in std::mem::take(&mut self.touched) {
            match sas.get(&id).and_then(|sa| self.write(sa, &shared.paths)) {
                Some(record) if self.records.get(&id) == Some(&record) => continue,
                Some(record) => drop(self.records.insert(id, record)),
                None if self.records.remove(&id).is_some() => {}
                None => continue,
            }
            self.unwritten.0.insert(id);
            self.news = true;
        }
        std::mem::take(&mut self.news)
    }

    /// Everything, but for the peers that take most of it where it would be more than so many bytes; from here on changes can be put
    /// behind it.
    pub(in crate::ike) fn snapshot(
        &mut self,
        (clock, most): (BootClock, usize),
        sas: &BTreeMap<SaId, Box<IkeSa>>,
        shared: &mut Shared,
    ) -> Zeroizing<Vec<u8>> {
        if !std::mem::replace(&mut self.begun, true) {
            self.touched = sas.keys().copied().collect();
        }
        let epoch = *self.epoch.get_or_insert(clock.now());
        self.refresh(sas, shared);
        self.unwritten = Default::default();
        self.unwritten_sizes.clear();
        let head = 64 + shared.peers.len() * 40 + self.sizes.len() * 32;
        let size = self.leave_out(sas, most.saturating_sub(head));
        let mut out = Out::with_capacity(head + size);
        out.raw(MAGIC);
        out.time(clock, epoch);
        for mark in shared.peers.values().map(PeerMark::of).filter(|mark| mark.wanted || mark.held) {
            Change::Peer(mark).write(&mut out);
        }
        for (id, (remote, size)) in &self.sizes {
            Change::Size(*id, *remote, *size).write(&mut out);
        }
        let all = self.records.iter().filter(|(id, _)| !self.is_left_out(sas, **id));
        all.for_each(|(id, record)| Change::Written(*id, record).write(&mut out));
        out.finish()
    }

    /// Finds out whose records have to stay out of a snapshot, so that the others take no more than so many bytes. Gives how many they take.
    fn leave_out(&mut self, sas: &BTreeMap<SaId, Box<IkeSa>>, most: usize) -> usize {
        self.left_out.clear();
        let cost = |record: &[u8]| record.len() + 16;
        let mut size: usize = self.records.values().map(|record| cost(record)).sum();
        if size > most {
            let mut of: BTreeMap<PeerId, usize> = BTreeMap::new();
            for (id, record) in &self.records {
                let peer = sas.get(id).and_then(|sa| sa.facts.peer);
                peer.into_iter().for_each(|peer| *of.entry(peer).or_default() += cost(record));
            }
            let mut least_first: Vec<(usize, PeerId)> = of.into_iter().map(|(peer, bytes)| (bytes, peer)).collect();
            least_first.sort_unstable();
            // What is put behind it wants room, too.
            while size > most / 8 * 7
                && let Some((bytes, peer)) = least_first.pop()
            {
                size -= bytes;
                self.left_out.insert(peer);
            }
        }
        size
    }

    fn is_left_out(&self, sas: &BTreeMap<SaId, Box<IkeSa>>, id: SaId) -> bool {
        sas.get(&id).and_then(|sa| sa.facts.peer).is_some_and(|peer| self.left_out.contains(&peer))
    }

    /// Whose IKE SAs are not in the last snapshot.
    pub(in crate::ike) fn left_out(&self) -> &BTreeSet<PeerId> {
        &self.left_out
    }

    /// What is another than when a snapshot or changes were asked for last.
    pub(in crate::ike) fn changes(
        &mut self,
        sas: &BTreeMap<SaId, Box<IkeSa>>,
        shared: &mut Shared,
    ) -> Option<Zeroizing<Vec<u8>>> {
        self.refresh(sas, shared);
        let (ids, peers) = std::mem::take(&mut self.unwritten);
        let sizes = std::mem::take(&mut self.unwritten_sizes);
        if !self.begun {
            return None;
        }
        let mut out = Out::new();
        for mark in peers.iter().filter_map(|id| shared.peers.get(id)).map(PeerMark::of) {
            Change::Peer(mark).write(&mut out);
        }
        for id in sizes {
            match self.sizes.get(&id) {
                Some((remote, size)) => Change::Size(id, *remote, *size).write(&mut out),
                None => Change::SizeGone(id).write(&mut out),
            }
        }
        for id in ids {
            match self.records.get(&id) {
                Some(_) if self.is_left_out(sas, id) => {}
                Some(record) => Change::Written(id, record).write(&mut out),
                None => Change::Gone(id).write(&mut out),
            }
        }
        Some(out.finish())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use adit_proto::ike::IkeSpi;

    use super::*;
    use crate::ike::config::EndpointConfig;
    use crate::ike::endpoint::Endpoint;
    use crate::ike::testing::instant;

    /// Ten thousand IKE SAs of which one has changed: they are only put one behind the other.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "how long the machine takes")]
    fn a_snapshot_of_ten_thousand_costs_one_copy() {
        let mut endpoint = Endpoint::new(EndpointConfig::default(), Box::new(|out: &mut [u8]| out.fill(7)));
        let record = Zeroizing::new(vec![1; 2048]);
        endpoint.kept.records = (1..=10_000).map(|id| (SaId(IkeSpi(id)), record.clone())).collect();
        let clock = BootClock::new(instant(), 1_000_000);
        let began = Instant::now();
        let snapshot = endpoint.snapshot(clock);
        let took = began.elapsed();
        assert_eq!(snapshot.len(), MAGIC.len() + 8 + 10_000 * (1 + 8 + 4 + 2048));
        assert!(took < Duration::from_secs(2), "{took:?}");
        // One that went: what is put behind the snapshot says only this.
        endpoint.kept.touch(Now { instant: instant(), unix: 0 }, SaId(IkeSpi(7)));
        assert!(endpoint.take_changed());
        assert_eq!(endpoint.changes().expect("a snapshot was made").len(), 1 + 8);
        assert!(endpoint.changes().expect("as before").is_empty() && !endpoint.take_changed());
    }
}
