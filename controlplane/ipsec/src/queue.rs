//! Received packets on their way to whoever asks for them: bounded in packets and in bytes, and what finds it full is dropped.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::task::coop::consume_budget;

use super::error::Error;

/// A queue with one writer and any number of readers.
pub struct Queue {
    inner: Mutex<Inner>,
    changed: Notify,
    capacity: usize,
    capacity_bytes: usize,
}

struct Inner {
    packets: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Why nothing more comes.
    closed: Option<Error>,
}

impl Queue {
    /// For at most `capacity` packets, and no more bytes than so many of `packet_len` have: the peer decides how long they are.
    pub fn new(capacity: usize, packet_len: usize) -> Queue {
        let inner = Inner { packets: VecDeque::new(), bytes: 0, closed: None };
        let capacity_bytes = capacity.saturating_mul(packet_len);
        Queue { inner: Mutex::new(inner), changed: Notify::new(), capacity, capacity_bytes }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a packet in, and counts it before anybody can have it; `false` when there is no room.
    pub fn push(&self, packet: &[u8], count: impl FnOnce()) -> bool {
        let mut inner = self.lock();
        // One that is longer than all of them finds room in an empty queue.
        let too_much = inner.bytes + packet.len() > self.capacity_bytes && !inner.packets.is_empty();
        if inner.packets.len() >= self.capacity || too_much || inner.closed.is_some() {
            return false;
        }
        count();
        inner.bytes += packet.len();
        inner.packets.push_back(packet.to_vec());
        drop(inner);
        self.changed.notify_one();
        true
    }

    /// The next packet; once the queue is closed and empty, why. Nothing is lost when the future is dropped.
    pub async fn pop(&self) -> Result<Vec<u8>, Error> {
        // A program that reads without pause must not keep the task behind it from running.
        consume_budget().await;
        loop {
            let changed = self.changed.notified();
            {
                let mut inner = self.lock();
                if let Some(packet) = inner.packets.pop_front() {
                    inner.bytes -= packet.len();
                    return Ok(packet);
                }
                if let Some(error) = &inner.closed {
                    return Err(error.clone());
                }
            }
            changed.await;
        }
    }

    /// Nothing more comes; what is there can still be taken.
    pub fn close(&self, why: Error) {
        self.lock().closed.get_or_insert(why);
        self.changed.notify_waiters();
    }

    /// Why it is closed, if it is.
    pub fn closed(&self) -> Option<Error> {
        self.lock().closed.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn packets_come_out_in_order_and_the_reason_at_the_end() {
        let queue = Queue::new(2, 10);
        assert!(queue.push(b"a", || {}) && queue.push(b"b", || {}));
        assert!(!queue.push(b"c", || {}), "a third one in a queue of two");
        queue.close(Error::NotConnected);
        queue.close(Error::Exhausted);
        assert!(!queue.push(b"d", || {}));
        assert_eq!((queue.pop().await.unwrap(), queue.pop().await.unwrap()), (b"a".to_vec(), b"b".to_vec()));
        assert_eq!(queue.pop().await.unwrap_err().code(), "not_connected");
    }

    #[tokio::test]
    async fn long_packets_take_the_room_of_several() {
        let queue = Queue::new(4, 10);
        assert!(queue.push(&[1; 35], || {}) && queue.push(&[2; 5], || {}));
        assert!(!queue.push(&[3], || {}), "41 bytes where there is room for 40");
        assert_eq!(queue.pop().await.unwrap().len(), 35);
        assert!(queue.push(&[3; 35], || {}));
        assert_eq!((queue.pop().await.unwrap().len(), queue.pop().await.unwrap().len()), (5, 35));
        assert!(queue.push(&[4; 1000], || {}), "nobody could ever send it");
    }

    #[tokio::test]
    async fn every_reader_that_waits_is_woken() {
        let queue = Arc::new(Queue::new(100, 1));
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move {
                    let mut count = 0;
                    while queue.pop().await.is_ok() {
                        count += 1;
                        tokio::task::yield_now().await;
                    }
                    count
                })
            })
            .collect();
        for _ in 0..60 {
            assert!(queue.push(b"x", || {}));
            tokio::task::yield_now().await;
        }
        queue.close(Error::NotConnected);
        let mut total = 0;
        for reader in readers {
            total += reader.await.unwrap();
        }
        assert_eq!(total, 60);
    }
}
