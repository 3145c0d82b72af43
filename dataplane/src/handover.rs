//! What joins the workers: frames and datagrams that belong to another worker, and addresses that one of them learned.
//!
//! Each worker has one inbox, a lock-free ring; buffers circulate through one lock-free free list. A worker that is about
//! to sleep says so; whoever then puts something into its inbox wakes it through its eventfd. Full means drop and count.
//!
//! unsafe here: writing the eventfd.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use adit_proto::control::{Mac, PeerId, PeerTag};
use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

use crate::config::{HANDOVER_BUFFERS_PER_WORKER, HANDOVER_RING};
use crate::pool::FRAME_BUFFER;
use crate::udp::Endpoint;

/// A buffer on its way between workers.
pub struct Buffer {
    pub bytes: Box<[u8]>,
    pub len: usize,
}

/// What one worker gives another. The tag is that of the peer when it was given: the taker may have removed the peer since, or
/// given its id to another.
pub enum Item {
    /// A frame from the TAP, virtio-net header first, for a peer whose SA the other worker owns.
    Frame { buffer: Buffer, peer: PeerId, tag: PeerTag },
    /// Datagrams of `segment` bytes (the last may be shorter) whose SA the other worker owns.
    Datagrams { buffer: Buffer, segment: usize, from: Endpoint },
    /// An address that a peer's frame taught.
    Learned { mac: Mac, peer: PeerId, tag: PeerTag },
}

struct Inbox {
    items: ArrayQueue<Item>,
    asleep: AtomicBool,
    wake_fd: RawFd,
}

/// The rings between the workers of a process.
pub struct Handover {
    inboxes: Vec<CachePadded<Inbox>>,
    free: ArrayQueue<Buffer>,
}

impl Handover {
    /// One inbox per wake-up descriptor; they outlive the `Handover`. A single worker needs no buffers.
    pub fn new(wake_fds: &[RawFd]) -> Handover {
        let workers = wake_fds.len();
        let buffers = buffers(workers);
        let free = ArrayQueue::new(buffers.max(1));
        for _ in 0..buffers {
            let buffer = Buffer { bytes: vec![0; FRAME_BUFFER].into_boxed_slice(), len: 0 };
            assert!(free.push(buffer).is_ok(), "the free list has room for every buffer");
        }
        let inbox =
            |&wake_fd| CachePadded::new(Inbox { items: ArrayQueue::new(HANDOVER_RING), asleep: AtomicBool::new(false), wake_fd });
        Handover { inboxes: wake_fds.iter().map(inbox).collect(), free }
    }

    pub fn workers(&self) -> usize {
        self.inboxes.len()
    }

    /// A free buffer, if there is one.
    #[inline]
    pub fn buffer(&self) -> Option<Buffer> {
        self.free.pop()
    }

    /// Gives a buffer back.
    #[inline]
    pub fn give_back(&self, buffer: Buffer) {
        // Cannot be full: it has room for every buffer that exists.
        let _ = self.free.push(buffer);
    }

    /// Puts an item into a worker's inbox and wakes the worker if it sleeps. False when the inbox is full.
    pub fn give(&self, worker: usize, item: Item) -> bool {
        let Some(inbox) = self.inboxes.get(worker) else { return false };
        match inbox.items.push(item) {
            Ok(()) => {
                if inbox.asleep.swap(false, Ordering::SeqCst) {
                    wake(inbox.wake_fd);
                }
                true
            }
            Err(Item::Frame { buffer, .. } | Item::Datagrams { buffer, .. }) => {
                self.give_back(buffer);
                false
            }
            Err(Item::Learned { .. }) => false,
        }
    }

    /// The next item for a worker.
    #[inline]
    pub fn take(&self, worker: usize) -> Option<Item> {
        self.inboxes.get(worker)?.items.pop()
    }

    /// Says that a worker is about to sleep. False when something has come in meanwhile: then it must not.
    #[inline]
    pub fn may_sleep(&self, worker: usize) -> bool {
        let inbox = &self.inboxes[worker];
        inbox.asleep.store(true, Ordering::SeqCst);
        if inbox.items.is_empty() {
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

fn buffers(workers: usize) -> usize {
    if workers > 1 { workers * HANDOVER_BUFFERS_PER_WORKER } else { 0 }
}

/// Memory of the buffers between `workers` workers, in bytes.
pub fn handover_bytes(workers: usize) -> usize {
    buffers(workers) * FRAME_BUFFER
}

/// Makes an eventfd readable.
pub fn wake(fd: RawFd) {
    let one = 1u64;
    // SAFETY: eight bytes are read from `one`. A full counter fails with EAGAIN, which is as good: the descriptor is readable.
    unsafe { libc::write(fd, (&raw const one).cast(), 8) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_inbox_gives_the_buffer_back() {
        let handover = Handover::new(&[-1, -1]);
        let total = 2 * HANDOVER_BUFFERS_PER_WORKER;
        let mut given = 0;
        while let Some(buffer) = handover.buffer() {
            assert!(handover.give(1, Item::Frame { buffer, peer: PeerId(0), tag: PeerTag(0) }));
            given += 1;
        }
        assert_eq!(given, total);
        for _ in total..HANDOVER_RING {
            assert!(handover.give(1, Item::Learned { mac: [2; 6], peer: PeerId(0), tag: PeerTag(0) }));
        }
        assert!(!handover.give(1, Item::Learned { mac: [2; 6], peer: PeerId(0), tag: PeerTag(0) }), "the ring is full");
        assert!(!handover.may_sleep(1));
        while let Some(item) = handover.take(1) {
            if let Item::Frame { buffer, .. } = item {
                handover.give_back(buffer);
            }
        }
        assert_eq!(std::iter::from_fn(|| handover.buffer()).count(), total);
        assert!(handover.may_sleep(1));
    }
}
