//! What joins the workers: frames and datagrams that belong to another worker, and addresses that one of them learned.
//!
//! Frames and datagrams go in hand-off batches: a worker fills one for each other worker and sends it off when it is full or the turn
//! ends. A worker has one inbox, a lock-free ring for batches and one for MAC-learning updates, so that neither crowds out the other. Buffers
//! go back to the worker that they belong to, which has some for frames from the TAP and some for datagrams from outside: what a
//! stranger sends cannot use up what another direction or another worker needs. A worker of a hub has some for frames from peer to
//! peer, too, and gives them over to itself as well: so opening and sealing know nothing of each other.
//!
//! A worker that is about to sleep says so; whoever then puts something into its inbox wakes it. No buffer means drop and count.

pub mod batch;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use adit_channel::EventFd;
use adit_proto::control::{Mac, PeerId, PeerTag};
use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

use crate::limits::{BATCHES_BETWEEN, BATCHES_INBOUND, BATCHES_OUTBOUND, MAC_UPDATES_RING};
use batch::{BATCH_BYTES, Batch, Direction, RecordHeader};

/// An address that the frame of a peer taught a worker. The tag is that of the peer when it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacUpdate {
    pub mac: Mac,
    pub peer: PeerId,
    pub tag: PeerTag,
}

struct Inbox {
    batches: ArrayQueue<Batch>,
    mac_updates: ArrayQueue<MacUpdate>,
    asleep: AtomicBool,
    wake: Arc<EventFd>,
}

/// The rings between the workers of a process.
pub struct Handover {
    inboxes: Vec<CachePadded<Inbox>>,
    /// Empty batches of each worker, by direction.
    empty: Vec<[ArrayQueue<Batch>; 3]>,
}

impl Handover {
    /// One inbox for each worker, which `wakes` wakes. A single worker needs no batches but those of a hub.
    pub fn new(wakes: Vec<Arc<EventFd>>, hub: bool) -> Handover {
        let workers = wakes.len();
        let fill = |from: usize, direction: Direction| {
            let count = batches(workers, direction, hub);
            let queue = ArrayQueue::new(count.max(1));
            (0..count).for_each(|_| drop(queue.push(Batch::new(from, direction))));
            queue
        };
        let inbox = |wake| {
            CachePadded::new(Inbox {
                // As many as there are: a ring for batches is never full.
                batches: ArrayQueue::new(batches_of_all(workers, hub).max(1)),
                mac_updates: ArrayQueue::new(MAC_UPDATES_RING),
                asleep: AtomicBool::new(false),
                wake,
            })
        };
        Handover {
            inboxes: wakes.into_iter().map(inbox).collect(),
            empty: (0..workers).map(|from| DIRECTIONS.map(|direction| fill(from, direction))).collect(),
        }
    }

    pub fn workers(&self) -> usize {
        self.inboxes.len()
    }

    /// An empty batch of a worker, if it has one.
    fn empty(&self, from: usize, direction: Direction) -> Option<Batch> {
        self.empty.get(from)?[direction as usize].pop()
    }

    /// Gives an emptied batch back to the worker that it belongs to.
    #[inline]
    pub fn give_back(&self, mut batch: Batch) {
        batch.clear();
        if let Some(directions) = self.empty.get(batch.from) {
            // Cannot be full: it has room for every batch that exists.
            let _ = directions[batch.direction as usize].push(batch);
        }
    }

    /// Puts a hand-off batch into a worker's inbox and wakes the worker if it sleeps.
    fn give(&self, worker: usize, batch: Batch) {
        let Some(inbox) = self.inboxes.get(worker) else { return self.give_back(batch) };
        // Cannot be full: it has room for every batch that exists.
        let _ = inbox.batches.push(batch);
        inbox.wake_if_asleep();
    }

    /// Tells all other workers what one of them learned. False when one of them has no room for it.
    pub fn announce(&self, from: usize, update: MacUpdate) -> bool {
        let mut heard = true;
        for (_, inbox) in self.inboxes.iter().enumerate().filter(|(worker, _)| *worker != from) {
            heard &= inbox.mac_updates.push(update).is_ok();
            inbox.wake_if_asleep();
        }
        heard
    }

    /// The next batch for a worker.
    #[inline]
    pub fn take(&self, worker: usize) -> Option<Batch> {
        self.inboxes.get(worker)?.batches.pop()
    }

    /// The next MAC-learning update for a worker.
    #[inline]
    pub fn take_mac_update(&self, worker: usize) -> Option<MacUpdate> {
        self.inboxes.get(worker)?.mac_updates.pop()
    }

    /// Says that a worker is about to sleep. False when something has come in meanwhile: then it must not.
    #[inline]
    pub fn may_sleep(&self, worker: usize) -> bool {
        let inbox = &self.inboxes[worker];
        inbox.asleep.store(true, Ordering::SeqCst);
        if inbox.batches.is_empty() && inbox.mac_updates.is_empty() {
            return true;
        }
        inbox.asleep.store(false, Ordering::SeqCst);
        false
    }

    /// Says that a worker is awake.
    #[inline]
    pub fn awake(&self, worker: usize) {
        self.inboxes[worker].asleep.store(false, Ordering::Relaxed);
    }
}

impl Inbox {
    fn wake_if_asleep(&self) {
        if self.asleep.swap(false, Ordering::SeqCst) {
            self.wake.signal();
        }
    }
}

/// In the order of their numbers.
const DIRECTIONS: [Direction; 3] = [Direction::Outbound, Direction::Inbound, Direction::Between];

/// Hand-off batches of one worker for one direction: each other worker can have one open.
fn batches(workers: usize, direction: Direction, hub: bool) -> usize {
    match direction {
        Direction::Outbound if workers > 1 => BATCHES_OUTBOUND.max(workers),
        Direction::Inbound if workers > 1 => BATCHES_INBOUND.max(workers),
        Direction::Between if hub => BATCHES_BETWEEN.max(workers),
        _ => 0,
    }
}

fn batches_of_all(workers: usize, hub: bool) -> usize {
    workers * DIRECTIONS.map(|direction| batches(workers, direction, hub)).iter().sum::<usize>()
}

/// Memory of the batches between `workers` workers, in bytes.
pub fn handover_bytes(workers: usize, hub: bool) -> usize {
    batches_of_all(workers, hub) * BATCH_BYTES
}

/// The batches that a worker fills for the others, in one direction.
pub struct BatchBuilder {
    worker: usize,
    direction: Direction,
    open: Vec<Option<Batch>>,
    any: bool,
}

impl BatchBuilder {
    pub fn new(worker: usize, direction: Direction, workers: usize) -> BatchBuilder {
        BatchBuilder { worker, direction, open: (0..workers).map(|_| None).collect(), any: false }
    }

    /// Adds a record that stands for so many packets into the batch for `owner`. False when there is no empty batch: the
    /// others have not kept up.
    pub fn add(&mut self, handover: &Handover, owner: usize, header: RecordHeader, bytes: &[u8], packets: u64) -> bool {
        let Some(place) = self.open.get_mut(owner) else { return false };
        if let Some(full) = place.take_if(|batch| !batch.has_room(bytes.len())) {
            handover.give(owner, full);
        }
        if place.is_none() {
            *place = handover.empty(self.worker, self.direction);
        }
        let Some(batch) = place else { return false };
        batch.push(header, bytes, packets);
        self.any = true;
        true
    }

    /// Sends off all that is in them.
    #[inline]
    pub fn send_off(&mut self, handover: &Handover) {
        if std::mem::take(&mut self.any) {
            for (owner, batch) in self.open.iter_mut().enumerate() {
                if let Some(batch) = batch.take() {
                    handover.give(owner, batch);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use adit_proto::control::LocalEnd;

    use super::*;
    use crate::udp::{Arrival, Endpoint};

    fn handover(workers: usize) -> Handover {
        Handover::new((0..workers).map(|_| Arc::new(EventFd::new().unwrap())).collect(), false)
    }

    #[test]
    fn batches_arrive_in_order_and_return_to_their_owner() {
        let handover = handover(3);
        let mut builder = BatchBuilder::new(0, Direction::Inbound, 3);
        let to = LocalEnd { address: [192, 0, 2, 1].into(), interface: 1 };
        let arrival = Arrival { from: Endpoint::default(), to, class: 0 };
        let header = RecordHeader::Datagrams { segment: 30_000, arrival };
        let packed = (0u8..).take_while(|&n| builder.add(&handover, 1 + usize::from(n % 2), header, &[n; 30_000], 1)).count();
        assert_eq!(packed, 2 * BATCHES_INBOUND, "two records of this length fit a batch");
        // The buffers of other directions and workers are untouched.
        assert!(BatchBuilder::new(0, Direction::Outbound, 3).add(&handover, 1, header, &[1; 10], 1));
        assert!(BatchBuilder::new(2, Direction::Inbound, 3).add(&handover, 1, header, &[1; 10], 1));
        builder.send_off(&handover);
        for worker in [1, 2] {
            assert!(!handover.may_sleep(worker));
            let mut numbers = Vec::new();
            while let Some(batch) = handover.take(worker) {
                let mut at = 0;
                while let Some((_, place)) = batch::record(batch.bytes(), at) {
                    at = place.end;
                    numbers.push(batch.bytes()[place][0]);
                }
                handover.give_back(batch);
            }
            assert!(numbers.len() == BATCHES_INBOUND && numbers.is_sorted());
            assert!(handover.may_sleep(worker));
        }
        assert_eq!((0..).take_while(|_| handover.empty(0, Direction::Inbound).is_some()).count(), BATCHES_INBOUND);
    }

    #[test]
    fn updates_that_do_not_fit_are_lost_and_keep_nothing_else_out() {
        let handover = handover(3);
        let update = MacUpdate { mac: [2; 6], peer: PeerId(0), tag: PeerTag(0) };
        for _ in 0..MAC_UPDATES_RING {
            assert!(handover.announce(1, update));
        }
        assert!(!handover.announce(0, update), "worker 2 has no room");
        assert_eq!(handover.take_mac_update(1), Some(update), "worker 1 had");
        let mut builder = BatchBuilder::new(0, Direction::Outbound, 3);
        assert!(builder.add(&handover, 2, RecordHeader::Flood { except: None }, &[1; 60], 1));
        builder.send_off(&handover);
        assert!(handover.take(2).is_some());
        assert!(!handover.may_sleep(2) && handover.may_sleep(1));
    }

    #[test]
    fn whoever_sleeps_is_woken_once() {
        let handover = handover(2);
        let update = MacUpdate { mac: [2; 6], peer: PeerId(0), tag: PeerTag(0) };
        assert!(handover.may_sleep(1));
        handover.announce(0, update);
        handover.announce(0, update);
        let wake = &handover.inboxes[1].wake;
        assert!(wake.acknowledge() && !wake.acknowledge());
    }
}
