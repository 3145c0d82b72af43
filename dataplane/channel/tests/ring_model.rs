//! The ring against a queue, and against memory that a stranger fills with anything.

use std::collections::VecDeque;
use std::sync::Arc;

use adit_channel::ring::{Consumer, HEAD_WORDS, Next, Producer, PushError};
use adit_channel::{AtomicU64, Ordering};
use proptest::prelude::*;

type Memory = Arc<[AtomicU64]>;

fn memory(capacity: usize) -> Memory {
    (0..HEAD_WORDS + capacity).map(|_| AtomicU64::new(0)).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Push { tag: u32, prefix: [u64; 2], body: Vec<u8> },
    Take { room: usize },
    NewProducer,
    NewConsumer,
    WipeFree,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let body = prop::collection::vec(any::<u8>(), 0..150);
    let step = prop_oneof![
        8 => (any::<u32>(), any::<[u64; 2]>(), body).prop_map(|(tag, prefix, body)| Step::Push { tag, prefix, body }),
        7 => prop_oneof![4 => Just(200usize), 1 => 0usize..150].prop_map(|room| Step::Take { room }),
        1 => Just(Step::NewProducer),
        1 => Just(Step::NewConsumer),
        1 => Just(Step::WipeFree),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #[test]
    fn a_ring_is_a_bounded_queue(steps in steps(), capacity_log in 2u32..7, wipe: bool) {
        let capacity = 1usize << capacity_log;
        let memory = memory(capacity);
        let mut producer = Producer::attach(Arc::clone(&memory)).unwrap();
        let mut consumer = Consumer::attach(Arc::clone(&memory), wipe).unwrap();
        let mut model: VecDeque<(u32, [u64; 2], Vec<u8>)> = VecDeque::new();
        let words = |body: &[u8]| 3 + body.len().div_ceil(8);
        for step in steps {
            match step {
                Step::Push { tag, prefix, body } => {
                    let used: usize = model.iter().map(|(_, _, body)| words(body)).sum();
                    let expected = match words(&body) {
                        need if need > capacity => Err(PushError::TooLong),
                        need if need > capacity - used => Err(PushError::Full),
                        _ => Ok(model.is_empty()),
                    };
                    prop_assert_eq!(producer.push(tag, &prefix, &body), expected);
                    if expected.is_ok() {
                        model.push_back((tag, prefix, body));
                    }
                }
                Step::Take { room } => {
                    let (mut prefix, mut body) = ([0; 2], vec![0; room]);
                    let next = consumer.take(&mut prefix, &mut body);
                    match model.pop_front() {
                        None => prop_assert_eq!(next, Next::Empty),
                        Some((tag, _, expected)) if expected.len() > room => prop_assert_eq!(next, Next::Skipped { tag }),
                        Some((tag, expected_prefix, expected)) => {
                            prop_assert_eq!(next, Next::Record { tag, len: expected.len() });
                            prop_assert_eq!(prefix, expected_prefix);
                            prop_assert_eq!(&body[..expected.len()], &expected[..]);
                        }
                    }
                    if wipe && model.is_empty() {
                        prop_assert!(memory[HEAD_WORDS..].iter().all(|word| word.load(Ordering::Relaxed) == 0));
                    }
                }
                Step::NewProducer => producer = Producer::attach(Arc::clone(&memory)).unwrap(),
                Step::NewConsumer => consumer = Consumer::attach(Arc::clone(&memory), wipe).unwrap(),
                Step::WipeFree => producer.wipe_free(),
            }
        }
        prop_assert!(!producer.is_corrupt() && !consumer.is_corrupt());
    }

    #[test]
    fn a_ring_works_where_its_cursors_wrap_around(start in prop_oneof![Just(0u64), (0u64..40).prop_map(|n| u64::MAX - n)]) {
        let memory = memory(16);
        memory[0].store(start, Ordering::Relaxed);
        memory[16].store(start, Ordering::Relaxed);
        let mut producer = Producer::attach(Arc::clone(&memory)).unwrap();
        let mut consumer = Consumer::attach(memory, false).unwrap();
        for n in 0..60u32 {
            prop_assert_eq!(producer.push(n, &[], &n.to_le_bytes()), Ok(true));
            let mut body = [0; 4];
            prop_assert_eq!(consumer.take(&mut [], &mut body), Next::Record { tag: n, len: 4 });
            prop_assert_eq!(u32::from_le_bytes(body), n);
        }
    }

    #[test]
    fn a_hostile_producer_is_survived(changes in changes(), room in 0usize..100) {
        let memory = memory(16);
        let mut producer = Producer::attach(Arc::clone(&memory)).unwrap();
        let mut consumer = Consumer::attach(Arc::clone(&memory), true).unwrap();
        let mut corrupt = false;
        for (at, value) in changes {
            let _ = producer.push(1, &[7, 8], b"an honest record");
            memory[at].store(value, Ordering::Relaxed);
            // At most as many records as the ring has words, then it is empty or found corrupt.
            for _ in 0..=16 {
                let mut body = vec![0; room];
                match consumer.take(&mut [0; 2], &mut body) {
                    Next::Record { len, .. } => prop_assert!(len <= room && !corrupt),
                    Next::Skipped { .. } => prop_assert!(!corrupt),
                    Next::Empty => prop_assert!(!corrupt),
                    Next::Corrupt => corrupt = true,
                }
            }
            prop_assert!(corrupt == consumer.is_corrupt());
            let _ = Consumer::attach(Arc::clone(&memory), true);
        }
    }

    #[test]
    fn a_hostile_consumer_is_survived(changes in changes()) {
        let memory = memory(16);
        let mut producer = Producer::attach(Arc::clone(&memory)).unwrap();
        let mut corrupt = false;
        for (at, value) in changes {
            memory[at].store(value, Ordering::Relaxed);
            producer.wipe_free();
            corrupt |= producer.is_corrupt();
            for _ in 0..20 {
                let pushed = producer.push(1, &[], b"a record");
                prop_assert!(!corrupt || pushed == Err(PushError::Corrupt));
                corrupt |= pushed == Err(PushError::Corrupt);
            }
            let _ = Producer::attach(Arc::clone(&memory));
        }
    }
}

/// Words to overwrite in a ring of 16 words: mostly cursors and headers, with values near the true ones and far away.
fn changes() -> impl Strategy<Value = Vec<(usize, u64)>> {
    let at = prop_oneof![2 => Just(0usize), 2 => Just(16usize), 3 => 0..HEAD_WORDS + 16];
    let value = prop_oneof![3 => 0u64..64, 1 => any::<u64>(), 1 => (0u64..64).prop_map(|n| u64::MAX - n), 2 => any::<u32>().prop_map(u64::from)];
    prop::collection::vec((at, value), 1..30)
}

#[test]
fn memory_that_is_no_ring_is_refused() {
    for words in [0, 1, HEAD_WORDS, HEAD_WORDS + 3, HEAD_WORDS + 12] {
        let memory: Memory = (0..words).map(|_| AtomicU64::new(0)).collect();
        assert!(Producer::attach(Arc::clone(&memory)).is_err(), "{words}");
        assert!(Consumer::attach(memory, false).is_err(), "{words}");
    }
}

#[test]
fn two_threads_move_a_million_records() {
    let memory = memory(256);
    let mut producer = Producer::attach(Arc::clone(&memory)).unwrap();
    let mut consumer = Consumer::attach(memory, true).unwrap();
    const RECORDS: u32 = 1_000_000;
    let producing = std::thread::spawn(move || {
        for n in 0..RECORDS {
            let body = [n as u8; 40];
            while producer.push(n, &[u64::from(n)], &body[..n as usize % 40]).is_err() {
                std::thread::yield_now();
            }
        }
    });
    let (mut prefix, mut body) = ([0], [0; 40]);
    for n in 0..RECORDS {
        loop {
            match consumer.take(&mut prefix, &mut body) {
                Next::Empty => std::thread::yield_now(),
                next => {
                    assert_eq!(next, Next::Record { tag: n, len: n as usize % 40 });
                    assert_eq!(prefix, [u64::from(n)]);
                    assert!(body[..n as usize % 40].iter().all(|&byte| byte == n as u8));
                    break;
                }
            }
        }
    }
    producing.join().unwrap();
}
