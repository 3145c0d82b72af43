//! What waits for one client, in three queues: what the relay says, messages of IKE, and data, each behind the one before.
//!
//! What the relay says is never thrown away: who does not read it is given up. A message of IKE and a packet are worth something
//! for a while only: what has waited longer is dropped, and where there is no room the oldest is. So a slow reader costs a
//! bounded memory, sees packets that are young, and is a matter of nobody else's.

use std::collections::VecDeque;
use std::ops::AddAssign;
use std::time::{Duration, Instant};

use adit_proto::limits::RELAY_RECORD_LEN_MAX;
use adit_proto::relay::Kind;

use crate::limits::{CONTROL_BYTES_MAX, DATA_BYTES_MAX, IKE_BYTES_MAX};

/// What it takes to keep a record besides its own bytes: its place in the queue, and what the allocator adds.
pub(crate) const RECORD_COST: usize = 64;
/// Places that an empty queue keeps.
const PLACES_KEPT: usize = 64;

/// How much may wait, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub control_bytes: usize,
    pub ike_bytes: usize,
    /// A message of IKE is sent again after a time (RFC 7296 §2.4); by then the first one need not come any more.
    pub ike_sojourn: Duration,
    pub data_bytes: usize,
    pub data_sojourn: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            control_bytes: CONTROL_BYTES_MAX,
            ike_bytes: IKE_BYTES_MAX,
            ike_sojourn: Duration::from_secs(2),
            data_bytes: DATA_BYTES_MAX,
            data_sojourn: Duration::from_millis(100),
        }
    }
}

/// Trains that were dropped: too old, or the oldest where there was no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    pub ike_late: u64,
    pub ike_full: u64,
    pub data_late: u64,
    pub data_full: u64,
}

impl AddAssign for Dropped {
    fn add_assign(&mut self, more: Dropped) {
        self.ike_late += more.ike_late;
        self.ike_full += more.ike_full;
        self.data_late += more.data_late;
        self.data_full += more.data_full;
    }
}

/// The client has not read what the relay says for so long that there is no room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overflow;

/// What is to be sent next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Popped {
    Control(Vec<u8>),
    Train(Vec<u8>),
}

/// Records of one kind in the order in which they came.
#[derive(Debug, Default)]
struct Line {
    records: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
}

/// The bytes that a record takes.
pub(crate) fn cost(record: &[u8]) -> usize {
    record.len() + RECORD_COST
}

impl Line {
    fn push(&mut self, now: Instant, record: Vec<u8>) {
        self.bytes += cost(&record);
        self.records.push_back((now, record));
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        let (_, record) = self.records.pop_front()?;
        self.bytes -= cost(&record);
        if self.records.is_empty() && self.records.capacity() > PLACES_KEPT {
            self.records = VecDeque::new();
        }
        Some(record)
    }

    fn oldest(&self) -> Option<Instant> {
        self.records.front().map(|(since, _)| *since)
    }

    /// Drops what has waited longer than it may; how many those were.
    fn expire(&mut self, now: Instant, sojourn: Duration) -> u64 {
        let is_late = |since: Instant| now.saturating_duration_since(since) > sojourn;
        let mut dropped = 0;
        while self.oldest().is_some_and(is_late) {
            self.pop();
            dropped += 1;
        }
        dropped
    }

    /// Drops the oldest until there is room for so many bytes; how many those were.
    fn make_room(&mut self, bytes: usize, most: usize) -> u64 {
        let mut dropped = 0;
        while self.bytes + bytes > most && self.pop().is_some() {
            dropped += 1;
        }
        dropped
    }
}

/// What waits for one client.
#[derive(Debug)]
pub(crate) struct Queue {
    bounds: Bounds,
    control: Line,
    ike: Line,
    data: Line,
}

impl Queue {
    /// The longest train has room in any case.
    pub(crate) fn new(bounds: Bounds) -> Queue {
        let least = RELAY_RECORD_LEN_MAX + RECORD_COST;
        let (ike_bytes, data_bytes) = (bounds.ike_bytes.max(least), bounds.data_bytes.max(least));
        let bounds = Bounds { ike_bytes, data_bytes, ..bounds };
        Queue { bounds, control: Line::default(), ike: Line::default(), data: Line::default() }
    }

    /// What the relay says.
    pub(crate) fn push_control(&mut self, now: Instant, record: Vec<u8>) -> Result<(), Overflow> {
        if self.control.bytes + cost(&record) > self.bounds.control_bytes {
            return Err(Overflow);
        }
        self.control.push(now, record);
        Ok(())
    }

    /// What another client has sent. The newest is always taken.
    pub(crate) fn push_train(&mut self, now: Instant, kind: Kind, record: Vec<u8>) -> Dropped {
        let mut dropped = self.expire(now);
        let bytes = cost(&record);
        match kind {
            Kind::Ike => {
                dropped.ike_full += self.ike.make_room(bytes, self.bounds.ike_bytes);
                self.ike.push(now, record);
            }
            Kind::Esp => {
                dropped.data_full += self.data.make_room(bytes, self.bounds.data_bytes);
                self.data.push(now, record);
            }
        }
        dropped
    }

    /// What is to be sent next.
    pub(crate) fn pop(&mut self, now: Instant) -> (Option<Popped>, Dropped) {
        let dropped = self.expire(now);
        let train = |queue: &mut Queue| queue.ike.pop().or_else(|| queue.data.pop()).map(Popped::Train);
        (self.control.pop().map(Popped::Control).or_else(|| train(self)), dropped)
    }

    /// Drops the trains that have waited longer than they may.
    pub(crate) fn expire(&mut self, now: Instant) -> Dropped {
        Dropped {
            ike_late: self.ike.expire(now, self.bounds.ike_sojourn),
            data_late: self.data.expire(now, self.bounds.data_sojourn),
            ..Dropped::default()
        }
    }

    /// Forgets everything, since nobody will read it; how many trains those were.
    pub(crate) fn clear(&mut self) -> u64 {
        let trains = self.ike.records.len() + self.data.records.len();
        (self.control, self.ike, self.data) = (Line::default(), Line::default(), Line::default());
        trains as u64
    }

    /// Since when what the relay says waits.
    pub(crate) fn control_waits_since(&self) -> Option<Instant> {
        self.control.oldest()
    }

    pub(crate) fn control_bytes(&self) -> usize {
        self.control.bytes
    }

    pub(crate) fn train_bytes(&self) -> usize {
        self.ike.bytes + self.data.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::start;

    fn at(ms: u64) -> Instant {
        start() + Duration::from_millis(ms)
    }

    fn pop(queue: &mut Queue, ms: u64) -> Option<Vec<u8>> {
        queue.pop(at(ms)).0.map(|popped| match popped {
            Popped::Control(record) | Popped::Train(record) => record,
        })
    }

    #[test]
    fn what_the_relay_says_is_before_ike_and_that_before_data() {
        let mut queue = Queue::new(Bounds::default());
        queue.push_train(at(0), Kind::Esp, vec![3]);
        queue.push_train(at(0), Kind::Ike, vec![2]);
        queue.push_control(at(0), vec![1]).unwrap();
        queue.push_train(at(1), Kind::Esp, vec![4]);
        let order: Vec<_> = (0..5).map(|_| pop(&mut queue, 2)).collect();
        assert_eq!(order, [Some(vec![1]), Some(vec![2]), Some(vec![3]), Some(vec![4]), None]);
        assert_eq!((queue.control_bytes(), queue.train_bytes()), (0, 0));
    }

    #[test]
    fn data_of_a_hundred_milliseconds_is_kept_and_older_is_dropped() {
        let mut queue = Queue::new(Bounds::default());
        for ms in 0..3 {
            queue.push_train(at(ms), Kind::Esp, vec![ms as u8]);
        }
        queue.push_train(at(0), Kind::Ike, vec![9]);
        assert_eq!(queue.expire(at(100)), Dropped::default());
        let (first, dropped) = queue.pop(at(102));
        let first_two = Dropped { data_late: 2, ..Dropped::default() };
        assert_eq!((first, dropped), (Some(Popped::Train(vec![9])), first_two), "IKE has longer");
        assert_eq!(pop(&mut queue, 102), Some(vec![2]));
    }

    #[test]
    fn a_message_of_ike_is_worth_two_seconds() {
        let mut queue = Queue::new(Bounds::default());
        queue.push_train(at(0), Kind::Ike, vec![1]);
        queue.push_train(at(1), Kind::Ike, vec![2]);
        let first = Dropped { ike_late: 1, ..Dropped::default() };
        assert_eq!(queue.pop(at(2001)), (Some(Popped::Train(vec![2])), first));
    }

    #[test]
    fn the_oldest_makes_room_for_the_newest() {
        let mut queue = Queue::new(Bounds { data_bytes: 1, ..Bounds::default() });
        let train = |n: u8| vec![n; 30_000];
        assert_eq!(queue.push_train(at(0), Kind::Esp, train(1)), Dropped::default());
        assert_eq!(queue.push_train(at(0), Kind::Esp, train(2)), Dropped::default());
        assert_eq!(queue.push_train(at(0), Kind::Esp, train(3)), Dropped { data_full: 1, ..Dropped::default() });
        assert_eq!(queue.push_train(at(0), Kind::Esp, vec![4; RELAY_RECORD_LEN_MAX]).data_full, 2, "the longest fits alone");
        assert_eq!(pop(&mut queue, 0), Some(vec![4; RELAY_RECORD_LEN_MAX]));
        assert_eq!(queue.push_train(at(0), Kind::Ike, vec![5; 65_000]).ike_full, 0, "IKE has room of its own");
    }

    #[test]
    fn what_the_relay_says_is_never_dropped_but_ends_somewhere() {
        let mut queue = Queue::new(Bounds { control_bytes: 10 * (RECORD_COST + 1), ..Bounds::default() });
        assert!((0..10).all(|n| queue.push_control(at(n), vec![1]).is_ok()));
        assert_eq!(queue.push_control(at(10), vec![1]), Err(Overflow));
        assert_eq!(queue.control_waits_since(), Some(at(0)));
        assert_eq!(pop(&mut queue, 3_600_000), Some(vec![1]));
        assert_eq!(queue.push_control(at(11), vec![1]), Ok(()));
    }

    #[test]
    fn a_queue_that_was_long_gives_its_room_back() {
        let mut queue = Queue::new(Bounds::default());
        for _ in 0..10_000 {
            queue.push_train(at(0), Kind::Esp, vec![0; 40]);
        }
        assert_eq!(queue.expire(at(200)).data_late, 10_000);
        assert_eq!(queue.data.records.capacity(), 0);
    }

    proptest! {
        /// Beside a plain list: the same order, the same bounds, and each train is delivered or counted.
        #[test]
        fn every_train_is_delivered_in_order_or_counted(
            steps in prop::collection::vec((any::<bool>(), 0u64..60, 1usize..40_000), 1..200),
        ) {
            let bounds = Bounds { data_bytes: 150_000, ..Bounds::default() };
            let mut queue = Queue::new(bounds);
            let (mut ms, mut next, mut last, mut lost, mut came) = (0, 0u32, None, 0, 0);
            let mut pushed = Vec::new();
            for (is_push, pause, len) in steps {
                ms += pause;
                if is_push {
                    let record = [&next.to_be_bytes()[..], &vec![0; len]].concat();
                    let dropped = queue.push_train(at(ms), Kind::Esp, record);
                    lost += dropped.data_late + dropped.data_full;
                    pushed.push(ms);
                    next += 1;
                } else {
                    let (record, dropped) = queue.pop(at(ms));
                    lost += dropped.data_late;
                    prop_assert_eq!(dropped.data_full, 0);
                    if let Some(Popped::Train(record)) = record {
                        let number = u32::from_be_bytes(*record.first_chunk().unwrap());
                        prop_assert!(last.is_none_or(|last| last < number));
                        prop_assert!(ms - pushed[number as usize] <= 100);
                        (last, came) = (Some(number), came + 1);
                    }
                }
                prop_assert!(queue.train_bytes() <= bounds.data_bytes);
                prop_assert_eq!(queue.data.bytes, queue.data.records.iter().map(|(_, record)| cost(record)).sum::<usize>());
            }
            prop_assert_eq!(u64::from(next), lost + came + queue.data.records.len() as u64);
        }
    }
}
