//! What comes out of a queue, when, and what does not.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::quotas::Network;
use crate::testing::start;

fn at(ms: u64) -> Instant {
    start() + Duration::from_millis(ms)
}

fn source(n: u8) -> Source {
    Source { network: Network::of(Ipv4Addr::new(192, 0, n, 1).into()), conn: n.into() }
}

fn push(queue: &mut Queue, ms: u64, kind: Kind, record: Vec<u8>) -> Dropped {
    queue.push_train(at(ms), kind, source(1), record)
}

fn pop(queue: &mut Queue, ms: u64) -> Option<Vec<u8>> {
    match queue.pop(at(ms)).0? {
        Popped::Answer(record) | Popped::Train(record) => Some(record),
        Popped::News(Item::Introduction(record)) => {
            queue.told(record.len());
            Some(record)
        }
        Popped::News(item) => panic!("{item:?}"),
    }
}

#[test]
fn answers_are_before_news_and_those_before_ike_and_data() {
    let mut queue = Queue::new(Bounds::default());
    push(&mut queue, 0, Kind::Esp, vec![4]);
    push(&mut queue, 0, Kind::Ike, vec![3]);
    queue.introduction(at(0), PeerKey([1; 32]), vec![2]);
    queue.push_answer(at(0), vec![1]).unwrap();
    push(&mut queue, 1, Kind::Esp, vec![5]);
    let order: Vec<_> = (0..6).map(|_| pop(&mut queue, 2)).collect();
    assert_eq!(order, [Some(vec![1]), Some(vec![2]), Some(vec![3]), Some(vec![4]), Some(vec![5]), None]);
    assert_eq!((queue.control_bytes(), queue.train_bytes()), (0, 0));
}

/// However much of IKE and of news comes, and however it is read: half of what is read is data.
#[test]
fn no_flood_of_ike_or_news_keeps_data_from_going_out() {
    let mut queue = Queue::new(Bounds::default());
    let (mut data, mut all) = (0, 0);
    for round in 0..2000u64 {
        push(&mut queue, round, Kind::Ike, vec![1; 1000]);
        queue.introduction(at(round), PeerKey([7; 32]), vec![2; 1000]);
        queue.push_train(at(round), Kind::Esp, source(2), vec![3; 1000]);
        if let Some(record) = pop(&mut queue, round) {
            all += 1;
            data += usize::from(record[0] == 3);
        }
    }
    assert!(data * 2 + 4 >= all, "{data} of {all}");
}

#[test]
fn data_of_a_hundred_milliseconds_is_kept_and_older_is_dropped() {
    let mut queue = Queue::new(Bounds::default());
    for ms in 0..3 {
        push(&mut queue, ms, Kind::Esp, vec![ms as u8]);
    }
    push(&mut queue, 0, Kind::Ike, vec![9]);
    assert_eq!(queue.expire(at(100)), Dropped::default());
    let (first, dropped) = queue.pop(at(102));
    let first_two = Dropped { data_late: 2, ..Dropped::default() };
    assert_eq!((first, dropped), (Some(Popped::Train(vec![9])), first_two), "IKE has longer");
    assert_eq!(pop(&mut queue, 102), Some(vec![2]));
}

#[test]
fn a_message_of_ike_is_worth_two_seconds() {
    let mut queue = Queue::new(Bounds::default());
    push(&mut queue, 0, Kind::Ike, vec![1]);
    push(&mut queue, 1, Kind::Ike, vec![2]);
    let first = Dropped { ike_late: 1, ..Dropped::default() };
    assert_eq!(queue.pop(at(2001)), (Some(Popped::Train(vec![2])), first));
}

#[test]
fn the_oldest_makes_room_for_the_newest() {
    let mut queue = Queue::new(Bounds { data_bytes: 1, ..Bounds::default() });
    let train = |n: u8| vec![n; 30_000];
    assert_eq!(push(&mut queue, 0, Kind::Esp, train(1)), Dropped::default());
    assert_eq!(push(&mut queue, 0, Kind::Esp, train(2)), Dropped::default());
    assert_eq!(push(&mut queue, 0, Kind::Esp, train(3)), Dropped { data_full: 1, ..Dropped::default() });
    assert_eq!(push(&mut queue, 0, Kind::Esp, vec![4; RELAY_RECORD_LEN_MAX]).data_full, 2, "the longest fits alone");
    assert_eq!(pop(&mut queue, 0), Some(vec![4; RELAY_RECORD_LEN_MAX]));
    assert_eq!(push(&mut queue, 0, Kind::Ike, vec![5; 65_000]).ike_full, 0, "IKE has room of its own");
}

#[test]
fn a_peer_that_fills_the_queue_displaces_only_its_own() {
    let mut queue = Queue::new(Bounds::default());
    queue.push_train(at(0), Kind::Ike, source(2), vec![2; 500]);
    let full: u64 = (0..1000).map(|_| push(&mut queue, 0, Kind::Ike, vec![1; 1000]).ike_full).sum();
    assert!(full > 700, "{full}");
    assert!((0..2).any(|_| pop(&mut queue, 0) == Some(vec![2; 500])), "it has its turn");
}

#[test]
fn answers_are_never_dropped_but_end_somewhere() {
    let mut queue = Queue::new(Bounds { control_bytes: 10 * (RECORD_COST + 1), ..Bounds::default() });
    assert!((0..10).all(|n| queue.push_answer(at(n), vec![1]).is_ok()));
    assert_eq!(queue.push_answer(at(10), vec![1]), Err(Overflow));
    assert_eq!(queue.stuck_since(), Some(at(0)));
    assert_eq!(pop(&mut queue, 3_600_000), Some(vec![1]));
    assert_eq!(queue.push_answer(at(11), vec![1]), Ok(()));
    assert_eq!(queue.stuck_since(), Some(at(3_600_000)), "who reads is not stuck, however much waits");
}

#[test]
fn a_queue_that_was_long_gives_its_room_back() {
    let mut queue = Queue::new(Bounds { control_bytes: 1 << 20, ..Bounds::default() });
    (0..1000).for_each(|_| queue.push_answer(at(0), vec![1]).unwrap());
    while pop(&mut queue, 0).is_some() {}
    assert_eq!(queue.answers.records.capacity(), 0);
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
                let dropped = push(&mut queue, ms, Kind::Esp, record);
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
        }
        prop_assert_eq!(u64::from(next), lost + came + queue.data.len() as u64);
    }
}
