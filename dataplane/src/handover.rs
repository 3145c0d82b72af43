//! What joins the workers: frames and datagrams that belong to another worker, and addresses that one of them learned.
//!
//! Frames and datagrams go in parcels: a worker packs one for each other worker and sends it off when it is full or the turn
//! ends. A worker has one inbox, a lock-free ring for parcels and one for lessons, so that neither crowds out the other. Buffers
//! go back to the worker that they belong to, which has some for frames from the TAP and some for datagrams from outside: what a
//! stranger sends cannot use up what another direction or another worker needs.
//!
//! A worker that is about to sleep says so; whoever then puts something into its inbox wakes it. No buffer means drop and count.

pub mod parcel;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use adit_channel::EventFd;
use adit_proto::control::{Mac, PeerId, PeerTag};
use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

use crate::config::{LESSONS_RING, PARCELS_INBOUND, PARCELS_OUTBOUND};
use parcel::{Label, PARCEL_BYTES, Parcel, Way};

/// An address that the frame of a peer taught a worker. The tag is that of the peer when it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lesson {
    pub mac: Mac,
    pub peer: PeerId,
    pub tag: PeerTag,
}

struct Inbox {
    parcels: ArrayQueue<Parcel>,
    lessons: ArrayQueue<Lesson>,
    asleep: AtomicBool,
    wake: Arc<EventFd>,
}

/// The rings between the workers of a process.
pub struct Handover {
    inboxes: Vec<CachePadded<Inbox>>,
    /// Empty parcels of each worker, by way.
    empty: Vec<[ArrayQueue<Parcel>; 2]>,
}

impl Handover {
    /// One inbox for each worker, which `wakes` wakes. A single worker needs no parcels.
    pub fn new(wakes: Vec<Arc<EventFd>>) -> Handover {
        let workers = wakes.len();
        let fill = |from: usize, way: Way| {
            let count = parcels(workers, way);
            let queue = ArrayQueue::new(count.max(1));
            (0..count).for_each(|_| drop(queue.push(Parcel::new(from, way))));
            queue
        };
        let inbox = |wake| {
            CachePadded::new(Inbox {
                // As many as there are: a ring for parcels is never full.
                parcels: ArrayQueue::new(parcels_of_all(workers).max(1)),
                lessons: ArrayQueue::new(LESSONS_RING),
                asleep: AtomicBool::new(false),
                wake,
            })
        };
        Handover {
            inboxes: wakes.into_iter().map(inbox).collect(),
            empty: (0..workers).map(|from| [Way::Outbound, Way::Inbound].map(|way| fill(from, way))).collect(),
        }
    }

    pub fn workers(&self) -> usize {
        self.inboxes.len()
    }

    /// An empty parcel of a worker, if it has one.
    fn empty(&self, from: usize, way: Way) -> Option<Parcel> {
        self.empty.get(from)?[way as usize].pop()
    }

    /// Gives an emptied parcel back to the worker that it belongs to.
    #[inline]
    pub fn give_back(&self, mut parcel: Parcel) {
        parcel.clear();
        if let Some(ways) = self.empty.get(parcel.from) {
            // Cannot be full: it has room for every parcel that exists.
            let _ = ways[parcel.way as usize].push(parcel);
        }
    }

    /// Puts a parcel into a worker's inbox and wakes the worker if it sleeps.
    fn give(&self, worker: usize, parcel: Parcel) {
        let Some(inbox) = self.inboxes.get(worker) else { return self.give_back(parcel) };
        // Cannot be full: it has room for every parcel that exists.
        let _ = inbox.parcels.push(parcel);
        inbox.wake_if_asleep();
    }

    /// Tells all other workers what one of them learned. False when one of them has no room for it.
    pub fn tell(&self, from: usize, lesson: Lesson) -> bool {
        let mut heard = true;
        for (_, inbox) in self.inboxes.iter().enumerate().filter(|(worker, _)| *worker != from) {
            heard &= inbox.lessons.push(lesson).is_ok();
            inbox.wake_if_asleep();
        }
        heard
    }

    /// The next parcel for a worker.
    #[inline]
    pub fn take(&self, worker: usize) -> Option<Parcel> {
        self.inboxes.get(worker)?.parcels.pop()
    }

    /// The next lesson for a worker.
    #[inline]
    pub fn take_lesson(&self, worker: usize) -> Option<Lesson> {
        self.inboxes.get(worker)?.lessons.pop()
    }

    /// Says that a worker is about to sleep. False when something has come in meanwhile: then it must not.
    #[inline]
    pub fn may_sleep(&self, worker: usize) -> bool {
        let inbox = &self.inboxes[worker];
        inbox.asleep.store(true, Ordering::SeqCst);
        if inbox.parcels.is_empty() && inbox.lessons.is_empty() {
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

/// Parcels of one worker for one way: each other worker can have one open.
fn parcels(workers: usize, way: Way) -> usize {
    let count = if way == Way::Outbound { PARCELS_OUTBOUND } else { PARCELS_INBOUND };
    if workers > 1 { count.max(workers) } else { 0 }
}

fn parcels_of_all(workers: usize) -> usize {
    workers * (parcels(workers, Way::Outbound) + parcels(workers, Way::Inbound))
}

/// Memory of the parcels between `workers` workers, in bytes.
pub fn handover_bytes(workers: usize) -> usize {
    parcels_of_all(workers) * PARCEL_BYTES
}

/// The parcels that a worker packs for the others, one way.
pub struct Packer {
    worker: usize,
    way: Way,
    open: Vec<Option<Parcel>>,
    any: bool,
}

impl Packer {
    pub fn new(worker: usize, way: Way, workers: usize) -> Packer {
        Packer { worker, way, open: (0..workers).map(|_| None).collect(), any: false }
    }

    /// Packs a record that stands for so many packets into the parcel for `owner`. False when there is no empty parcel: the
    /// others have not kept up.
    pub fn pack(&mut self, handover: &Handover, owner: usize, label: Label, bytes: &[u8], packets: u64) -> bool {
        let Some(place) = self.open.get_mut(owner) else { return false };
        if let Some(full) = place.take_if(|parcel| !parcel.has_room(bytes.len())) {
            handover.give(owner, full);
        }
        if place.is_none() {
            *place = handover.empty(self.worker, self.way);
        }
        let Some(parcel) = place else { return false };
        parcel.push(label, bytes, packets);
        self.any = true;
        true
    }

    /// Sends off all that is packed.
    #[inline]
    pub fn send_off(&mut self, handover: &Handover) {
        if std::mem::take(&mut self.any) {
            for (owner, parcel) in self.open.iter_mut().enumerate() {
                if let Some(parcel) = parcel.take() {
                    handover.give(owner, parcel);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handover(workers: usize) -> Handover {
        Handover::new((0..workers).map(|_| Arc::new(EventFd::new().unwrap())).collect())
    }

    #[test]
    fn parcels_arrive_in_order_and_come_back_to_whom_they_belong() {
        let handover = handover(3);
        let mut packer = Packer::new(0, Way::Inbound, 3);
        let label = Label::Datagrams { segment: 30_000, from: crate::udp::Endpoint::default() };
        let packed = (0u8..).take_while(|&n| packer.pack(&handover, 1 + usize::from(n % 2), label, &[n; 30_000], 1)).count();
        assert_eq!(packed, 2 * PARCELS_INBOUND, "two records of this length fit a parcel");
        // The buffers of other directions and workers are untouched.
        assert!(Packer::new(0, Way::Outbound, 3).pack(&handover, 1, label, &[1; 10], 1));
        assert!(Packer::new(2, Way::Inbound, 3).pack(&handover, 1, label, &[1; 10], 1));
        packer.send_off(&handover);
        for worker in [1, 2] {
            assert!(!handover.may_sleep(worker));
            let mut numbers = Vec::new();
            while let Some(parcel) = handover.take(worker) {
                let mut at = 0;
                while let Some((_, place)) = parcel::record(parcel.bytes(), at) {
                    at = place.end;
                    numbers.push(parcel.bytes()[place][0]);
                }
                handover.give_back(parcel);
            }
            assert!(numbers.len() == PARCELS_INBOUND && numbers.is_sorted());
            assert!(handover.may_sleep(worker));
        }
        assert_eq!((0..).take_while(|_| handover.empty(0, Way::Inbound).is_some()).count(), PARCELS_INBOUND);
    }

    #[test]
    fn lessons_that_do_not_fit_are_told_to_be_lost_and_keep_nothing_else_out() {
        let handover = handover(3);
        let lesson = Lesson { mac: [2; 6], peer: PeerId(0), tag: PeerTag(0) };
        for _ in 0..LESSONS_RING {
            assert!(handover.tell(1, lesson));
        }
        assert!(!handover.tell(0, lesson), "worker 2 has no room");
        assert_eq!(handover.take_lesson(1), Some(lesson), "worker 1 had");
        let mut packer = Packer::new(0, Way::Outbound, 3);
        assert!(packer.pack(&handover, 2, Label::Flood, &[1; 60], 1));
        packer.send_off(&handover);
        assert!(handover.take(2).is_some());
        assert!(!handover.may_sleep(2) && handover.may_sleep(1));
    }

    #[test]
    fn whoever_sleeps_is_woken_once() {
        let handover = handover(2);
        let lesson = Lesson { mac: [2; 6], peer: PeerId(0), tag: PeerTag(0) };
        assert!(handover.may_sleep(1));
        handover.tell(0, lesson);
        handover.tell(0, lesson);
        let wake = &handover.inboxes[1].wake;
        assert!(wake.acknowledge() && !wake.acknowledge());
    }
}
