//! Every interleaving of the two sides of a ring and of a seqlock, explored by loom:
//! `cargo test -p adit-channel --features loom --release --test loom`.

use std::sync::Arc;

use adit_channel::live::{self, LiveTable};
use adit_channel::ring::{Consumer, HEAD_WORDS, Next, Producer, PushError};
use adit_channel::{AtomicU64, LiveSa, SaLook, Seen, Standing};
use adit_proto::control::{ChildId, Direction, PeerId, Spi};
use adit_proto::suite::Suite;

type Memory = Arc<[AtomicU64]>;

fn memory(words: usize) -> Memory {
    (0..words).map(|_| AtomicU64::new(0)).collect()
}

fn ring(capacity: usize, wipe: bool) -> (Producer<Memory>, Consumer<Memory>) {
    let memory = memory(HEAD_WORDS + capacity);
    (Producer::attach(Arc::clone(&memory)).unwrap(), Consumer::attach(memory, wipe).unwrap())
}

fn explore(preemptions: usize, check: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.max_branches = 10_000;
    model.check(check);
}

fn push(ring: &mut Producer<Memory>, n: u64) -> bool {
    loop {
        match ring.push(n as u32, &[], &n.to_le_bytes()) {
            Ok(signal) => return signal,
            Err(PushError::Full) => loom::thread::yield_now(),
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Takes one record, when there is one, and checks that it is whole.
fn take(ring: &mut Consumer<Memory>, expected: u64) -> bool {
    let mut body = [0; 8];
    match ring.take(&mut [], &mut body) {
        Next::Empty => false,
        Next::Record { tag, len: 8 } => {
            assert_eq!((u64::from(tag), u64::from_le_bytes(body)), (expected, expected));
            true
        }
        other => panic!("{other:?}"),
    }
}

fn records_arrive_whole_and_in_order(wipe: bool) {
    explore(3, move || {
        // Two records fit: the third has to wait for room and wraps around.
        let (mut producer, mut consumer) = ring(4, wipe);
        let producing = loom::thread::spawn(move || {
            for n in 1..=3 {
                push(&mut producer, n);
            }
        });
        for n in 1..=3 {
            while !take(&mut consumer, n) {
                loom::thread::yield_now();
            }
        }
        producing.join().unwrap();
    });
}

#[test]
fn records_arrive_whole_and_in_order_through_a_full_ring() {
    records_arrive_whole_and_in_order(false);
}

#[test]
fn wiping_never_hits_a_new_record() {
    records_arrive_whole_and_in_order(true);
}

#[test]
fn a_consumer_that_sleeps_when_it_sees_nothing_is_always_woken() {
    explore(3, || {
        let (mut producer, mut consumer) = ring(8, false);
        let wake = Arc::new(loom::sync::Notify::new());
        let signal = Arc::clone(&wake);
        let producing = loom::thread::spawn(move || {
            for n in 1..=3 {
                if push(&mut producer, n) {
                    signal.notify();
                }
            }
        });
        for n in 1..=3 {
            while !take(&mut consumer, n) {
                // loom reports a deadlock when no signal comes.
                wake.wait();
            }
        }
        producing.join().unwrap();
    });
}

#[test]
fn a_new_producer_goes_on_where_the_old_one_died() {
    explore(3, || {
        let memory = memory(HEAD_WORDS + 4);
        let mut consumer = Consumer::attach(Arc::clone(&memory), true).unwrap();
        let producing = loom::thread::spawn(move || {
            for n in 1..=2 {
                push(&mut Producer::attach(Arc::clone(&memory)).unwrap(), n);
            }
        });
        for n in 1..=2 {
            while !take(&mut consumer, n) {
                loom::thread::yield_now();
            }
        }
        producing.join().unwrap();
    });
}

fn sa(n: u64) -> LiveSa {
    LiveSa {
        spi: Spi(n as u32),
        direction: Direction::Inbound,
        peer: PeerId(n as u16),
        child: ChildId::ONLY,
        suite: Suite::Aes128Gcm,
        window: n as u16,
        seq: n,
        seq_limit: n,
        packets: n,
        bytes: n,
    }
}

fn look(table: &LiveTable<Memory>, counted: u64) -> SaLook {
    let mut look = SaLook { is_whole: true, ..SaLook::default() };
    table.look(0, counted, &mut look);
    look
}

#[test]
fn a_snapshot_is_never_half_of_two_sas() {
    explore(2, || {
        let memory = memory(live::words(1));
        let (writer, reader) = (LiveTable::new(Arc::clone(&memory)), LiveTable::new(memory));
        writer.install(0, &sa(1));
        let writing = loom::thread::spawn(move || writer.install(0, &sa(2)));
        let seen = look(&reader, 0).live();
        assert!(seen == [(0, sa(1))] || seen == [(0, sa(2))], "{seen:?}");
        writing.join().unwrap();
    });
}

#[test]
fn what_an_sa_carried_last_is_there_when_it_is_seen_to_be_gone() {
    explore(2, || {
        let memory = memory(live::words(1));
        let (writer, reader) = (LiveTable::new(Arc::clone(&memory)), LiveTable::new(memory));
        writer.install(0, &sa(1));
        let writing = loom::thread::spawn(move || {
            writer.update(0, 2, 2, 2);
            writer.retire(0);
        });
        let last = LiveSa { seq: 2, packets: 2, bytes: 2, ..sa(1) };
        let first = look(&reader, 0);
        let [(_, seen)] = first.seen[..] else { panic!("it is found, and once: {first:?}") };
        match (seen.standing, first.gone[0]) {
            (Standing::Live, 0) => assert!([sa(1), last].contains(&seen.sa), "{seen:?}"),
            (Standing::Going, 0) | (Standing::Gone, 1) => assert_eq!(seen.sa, last),
            _ => panic!("{first:?}"),
        }
        writing.join().unwrap();
        // Whoever counts it takes it for the same one, and not once more.
        let again = look(&reader, first.gone[0]).seen;
        let gone = (0, Seen { sa: last, serial: seen.serial, standing: Standing::Gone });
        assert_eq!(again, if seen.standing == Standing::Gone { vec![] } else { vec![gone] });
    });
}
