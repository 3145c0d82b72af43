//! What has gone through the SAs of every peer, whoever made their keys: totals of each Child SA that go on while its SAs, data planes
//! and control planes come and go, and the rates of peers and workers; and what was dropped of each peer ([`drops`]). Nothing else adds up
//! or measures.
//!
//! A total is kept for each Child SA of a peer in each direction, not for each SPI: of these there are ever new ones.

pub mod drops;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use adit_channel::{LiveSa, SaLook, Standing};
use adit_proto::control::{ChildId, Direction, PeerTag};
use adit_proto::stats::Count;

use crate::limits::{CHILD_IDS_MAX, MISSED_MIN};
use crate::numbers::{NOBODY, Numbers, Peers};
use crate::schema::{Traffic, Volume};

/// How long an SA may be missing, whose worker has lost its core while it wrote it.
const MISSED_FOR: Duration = Duration::from_secs(5);

/// An SA of the data plane that is attached: worker and serial.
type SaKey = (u16, u64);
/// One direction of a Child SA: peer, Child SA, direction.
type FlowKey = (u64, ChildId, u8);

/// Totals of one direction of a Child SA.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    total: Volume,
    /// Bytes when the rate was measured last, and the rate.
    rated_bytes: u64,
    bits_per_s: u64,
    moved: Option<Instant>,
}

/// What a control plane leaves to the next of one direction of a Child SA: what SAs carried that are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    pub peer: PeerTag,
    pub child: ChildId,
    pub direction: Direction,
    pub volume: Volume,
}

/// Packets a second of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerRates {
    pub sealed_per_s: u64,
    pub opened_per_s: u64,
}

/// Adds up what the data plane says of its SAs.
#[derive(Debug, Default)]
pub struct Meter {
    /// What every SA of the attached data plane that had not gone had carried when it was looked at last, and whose it is.
    seen: HashMap<SaKey, (FlowKey, Volume)>,
    /// The same of those that were not found the last time, and when they were missed first: who is just being written is found again,
    /// and must not be counted anew from its first packet.
    missed: HashMap<SaKey, (FlowKey, Volume, Instant)>,
    /// How many SAs of each worker had gone when they were looked at last, all of them counted.
    counted: Vec<u64>,
    flows: BTreeMap<FlowKey, Flow>,
    /// The attached data plane was looked at before.
    looked: bool,
    /// When rates were measured last, and what the workers had sealed and opened by then.
    rated: Option<(Instant, Vec<[u64; 2]>)>,
    workers: Vec<WorkerRates>,
}

impl Meter {
    /// Counts what a look at the attached data plane has found behind [`Meter::counted`]: as often as anybody asks, and before SAs are
    /// removed. `started_here`: what has moved by the first look has moved just now.
    pub fn count(&mut self, now: Instant, look: &SaLook, peers: &Peers, started_here: bool) {
        let moved = (self.looked || started_here).then_some(now);
        self.looked = true;
        let mut seen = HashMap::with_capacity(look.seen.len());
        for (worker, found) in &look.seen {
            let Some((name, volume)) = carried(&found.sa, peers) else { continue };
            let key = (*worker, found.serial);
            self.add_up(key, name, volume, moved);
            if found.standing == Standing::Gone {
                self.seen.remove(&key);
                self.missed.remove(&key);
            } else {
                seen.insert(key, (name, volume));
            }
        }
        self.counted.clone_from(&look.gone);
        let room = look.seen.len() + MISSED_MIN;
        self.missed.retain(|key, (.., since)| !seen.contains_key(key) && now.saturating_duration_since(*since) < MISSED_FOR);
        let missed = self.seen.drain().filter(|(key, _)| !seen.contains_key(key));
        let missed = missed.take(room.saturating_sub(self.missed.len()));
        self.missed.extend(missed.map(|(key, (name, volume))| (key, (name, volume, now))));
        self.seen = seen;
    }

    /// How many SAs of each worker have gone and are counted.
    pub fn counted(&self) -> &[u64] {
        &self.counted
    }

    /// Adds what an SA has carried since it was looked at last.
    fn add_up(&mut self, key: SaKey, name: FlowKey, volume: Volume, moved: Option<Instant>) {
        let before = self.seen.get(&key).map(|(_, before)| *before);
        let before = before.or_else(|| self.missed.get(&key).map(|(_, before, _)| *before));
        // Less than before is what only a hostile data plane says.
        let before = before.filter(|before| before.packets <= volume.packets && before.bytes <= volume.bytes);
        let before = before.unwrap_or_default();
        let flow = self.flows.entry(name).or_default();
        let more = Volume { packets: volume.packets - before.packets, bytes: volume.bytes - before.bytes };
        add(&mut flow.total, more);
        if more.packets > 0 {
            flow.moved = moved.or(flow.moved);
        }
    }

    /// Measures the rates since the last time; to be called about once a second, behind [`Meter::count`].
    pub fn rate(&mut self, now: Instant, numbers: &Numbers) {
        let counts = numbers.workers.iter().map(|worker| [worker.count(Count::Sealed), worker.count(Count::Opened)]).collect();
        let Some((at, before)) = self.rated.replace((now, counts)) else {
            self.flows.values_mut().for_each(|flow| flow.rated_bytes = flow.total.bytes);
            return;
        };
        let ms = u64::try_from(now.saturating_duration_since(at).as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = |new: u64, old: u64| new.saturating_sub(old).saturating_mul(1000) / ms;
        for flow in self.flows.values_mut() {
            flow.bits_per_s = rate(flow.total.bytes, flow.rated_bytes).saturating_mul(8);
            flow.rated_bytes = flow.total.bytes;
        }
        let counts = self.rated.iter().flat_map(|(_, counts)| counts);
        let rates = counts
            .zip(&before)
            .map(|(new, old)| WorkerRates { sealed_per_s: rate(new[0], old[0]), opened_per_s: rate(new[1], old[1]) });
        self.workers = rates.collect();
    }

    /// The data plane that was looked at is gone, and its SAs with it.
    pub fn forget_sas(&mut self) {
        self.seen.clear();
        self.missed.clear();
        self.counted.clear();
        self.looked = false;
        self.rated = None;
        self.workers.clear();
        self.flows.values_mut().for_each(|flow| flow.bits_per_s = 0);
    }

    /// Forgets the peers that are not to stay.
    pub fn retain(&mut self, stay: &[PeerTag]) {
        let stay: HashSet<u64> = stay.iter().map(|tag| tag.0).collect();
        self.flows.retain(|(tag, ..), _| stay.contains(tag));
    }

    /// What SAs carried that are gone and counted: with what live ones have it makes the totals.
    pub fn gone(&self) -> Vec<Gone> {
        let mut live: HashMap<FlowKey, Volume> = HashMap::new();
        let missed = self.missed.values().map(|(name, volume, _)| (name, volume));
        for (name, volume) in self.seen.values().map(|(name, volume)| (name, volume)).chain(missed) {
            add(live.entry(*name).or_default(), *volume);
        }
        let gone = self.flows.iter().filter_map(|(name, flow)| {
            let live = live.get(name).copied().unwrap_or_default();
            let volume = Volume {
                packets: flow.total.packets.wrapping_sub(live.packets),
                bytes: flow.total.bytes.wrapping_sub(live.bytes),
            };
            let (tag, child, direction) = *name;
            let direction = Direction::from_code(direction).ok()?;
            (volume != Volume::default()).then_some(Gone { peer: PeerTag(tag), child, direction, volume })
        });
        gone.collect()
    }

    /// The first so many SAs of each worker that have gone were counted by a control plane before us.
    pub fn skip(&mut self, counted: &[u64]) {
        self.counted = counted.to_vec();
    }

    /// Goes on with what it had counted of these. What was seen of live ones is beside it.
    pub fn inherit(&mut self, gone: &[Gone]) {
        self.flows.clear();
        let gone = gone.iter().map(|one| ((one.peer.0, one.child, one.direction as u8), one.volume));
        for (name, volume) in gone.chain(self.seen.values().copied()) {
            let flow = self.flows.entry(name).or_default();
            add(&mut flow.total, volume);
            flow.rated_bytes = flow.total.bytes;
        }
    }

    /// What was sent to a peer and received from it, over all its Child SAs.
    pub fn traffic(&self, now: Instant, peer: PeerTag) -> (Traffic, Traffic) {
        let (mut sent, mut received) = (Traffic::default(), Traffic::default());
        let all = self.flows.range((peer.0, ChildId(0), 0)..=(peer.0, ChildId(u16::MAX), u8::MAX));
        for ((.., direction), flow) in all {
            let into = if *direction == Direction::Outbound as u8 { &mut sent } else { &mut received };
            into.packets = into.packets.wrapping_add(flow.total.packets);
            into.bytes = into.bytes.wrapping_add(flow.total.bytes);
            into.bits_per_s = into.bits_per_s.saturating_add(flow.bits_per_s);
            let idle_s = flow.moved.map(|at| now.saturating_duration_since(at).as_secs());
            into.idle_s = into.idle_s.into_iter().chain(idle_s).min();
        }
        (sent, received)
    }

    /// When packets of a peer were seen last.
    pub fn heard(&self, peer: PeerTag) -> Option<Instant> {
        let all = self.flows.range((peer.0, ChildId(0), 0)..=(peer.0, ChildId(u16::MAX), u8::MAX));
        let inbound = all.filter(|((.., direction), _)| *direction == Direction::Inbound as u8);
        inbound.filter_map(|(_, flow)| flow.moved).max()
    }

    /// The totals of all Child SAs of a peer that there are, or were: in each direction.
    pub fn totals(&self, peer: PeerTag) -> impl Iterator<Item = (ChildId, Direction, Volume)> + '_ {
        let all = self.flows.range((peer.0, ChildId(0), 0)..=(peer.0, ChildId(u16::MAX), u8::MAX));
        all.filter_map(|((_, child, direction), flow)| Some((*child, Direction::from_code(*direction).ok()?, flow.total)))
    }

    /// The rates of a worker.
    pub fn worker(&self, worker: usize) -> WorkerRates {
        self.workers.get(worker).copied().unwrap_or_default()
    }
}

/// The Child SA of an SA, and what that has carried; `None` for one that is nobody's.
fn carried(sa: &LiveSa, peers: &Peers) -> Option<(FlowKey, Volume)> {
    let tag = peers.get(&sa.peer).copied().filter(|tag| *tag != NOBODY)?;
    let volume = Volume { packets: sa.packets, bytes: sa.bytes };
    (usize::from(sa.child.0) < CHILD_IDS_MAX).then_some(((tag.0, sa.child, sa.direction as u8), volume))
}

/// A hostile data plane may have written any numbers.
fn add(into: &mut Volume, more: Volume) {
    into.packets = into.packets.wrapping_add(more.packets);
    into.bytes = into.bytes.wrapping_add(more.bytes);
}

#[cfg(test)]
mod tests;
