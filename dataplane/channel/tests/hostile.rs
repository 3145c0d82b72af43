//! One side of the channel fills the shared memory with anything; the other side must stay whole.
//!
//! The memory is changed through its descriptor, as another process would.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use adit_channel::{AttachError, Listener, LiveSa, Master, PlaneInfo, Port, Region, Sizes};
use adit_proto::control::{
    ChildId, Command, Direction, Event, InjectHeader, LocalEnd, PeerId, PuntHeader, Spi, StreamId, TrainHeader,
};
use adit_proto::stats::{Count, Latency};
use adit_proto::suite::Suite;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

struct Pair {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    region: Region,
    port: Port,
    listener: Listener,
    memory: File,
}

impl Pair {
    fn new() -> Pair {
        let sizes = Sizes {
            sa_slots: 8,
            command_bytes: 4096,
            event_bytes: 4096,
            punt_bytes: 256 << 10,
            inject_bytes: 256 << 10,
            train_bytes: 256 << 10,
            ..Sizes::default()
        };
        let info = PlaneInfo {
            pid: 1,
            version: "test".into(),
            tap: "adit0".into(),
            mode: adit_proto::control::Mode::Ethernet,
            tap_mac: [2; 6],
            listen: "192.0.2.1:4500".parse().unwrap(),
            workers: 1,
            max_peers: 4,
            sa_slots: 8,
            cpu_features: "aes".into(),
            crypto: "aws-lc".into(),
            io: "poll".into(),
            memory_bytes: 0,
            arguments: Vec::new(),
            protections: Default::default(),
        };
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("sock");
        let (region, mut ports) = Region::create(&sizes, &info).unwrap();
        let listener = Listener::bind(&socket, &region).unwrap();
        let memory = File::from(region.memory().try_clone_to_owned().unwrap());
        Pair { _dir: dir, socket, region, port: ports.remove(0), listener, memory }
    }

    fn attach(&mut self) -> Result<Master, AttachError> {
        let path = self.socket.clone();
        let attaching = std::thread::spawn(move || Master::attach(&path));
        while !attaching.is_finished() {
            self.listener.serve().unwrap();
            std::thread::yield_now();
        }
        let master = attaching.join().unwrap();
        self.listener.serve().unwrap();
        master
    }

    fn write(&self, at: u64, value: u64) {
        self.memory.write_all_at(&value.to_ne_bytes(), at).unwrap();
    }

    fn read(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.memory.read_exact_at(&mut bytes, at).unwrap();
        u64::from_ne_bytes(bytes)
    }

    fn len(&self) -> u64 {
        self.region.memory_bytes() as u64
    }
}

/// Everything that a worker does with the channel, a bounded number of times.
fn work(port: &mut Port) {
    let mut buf = [0; 1500];
    for turn in 0..600 {
        if let Some((ticket, _)) = port.next_command() {
            port.emit(&Event::Applied { ticket });
        }
        if let Some((_, len)) = port.next_inject(&mut buf) {
            assert!(len <= buf.len());
        }
        let to = LocalEnd { address: "192.0.2.1".parse().unwrap(), interface: 1 };
        let _ = port.punt(&PuntHeader { from: "192.0.2.7:7".parse().unwrap(), to, class: 0 }, &buf[..turn]);
        let header = TrainHeader { stream: StreamId(7), class: 0, segment: 700 };
        let _ = port.train_up(header, &buf[..turn]);
        if let Some((header, len)) = port.next_train(&mut buf) {
            assert!(len <= buf.len() && header.packets(len) <= 128);
        }
        port.count(Count::Turns, 1);
        port.latency(Latency::Inbound, turn as u64);
        port.sa_update(turn as u32 % 9, 1, 2, 3);
    }
}

/// Everything that a control plane does with the channel, a bounded number of times.
fn rule(master: &mut Master) {
    let mut buf = Vec::new();
    for ticket in 0..600 {
        let _ = master.send(0, ticket, &Command::PeerRemove { peer: PeerId(1) });
        let _ = master.inject(0, &InjectHeader::to("192.0.2.7:7".parse().unwrap()), &[7; 700]);
        let _ = master.send_train(0, TrainHeader { stream: StreamId(7), class: 0, segment: 300 }, &[7; 700]);
        if master.poll_train(0, &mut buf).is_some() {
            assert!(buf.len() <= 65535);
        }
        let _ = master.poll_event();
        if master.poll_punt(&mut buf).is_some() {
            assert!(buf.len() <= 65535);
        }
    }
    master.flush();
    let _ = (master.counters(0), master.latency(0, Latency::Outbound), master.look_at_sas(&[7]), master.is_corrupt());
    assert!(master.vault_read().len() <= 1 << 20);
    master.vault_write(b"new").unwrap();
}

const RING: u64 = 256 + 4096;
const BIG: u64 = 256 + (256 << 10);
/// Where each ring begins: both cursors, 128 bytes apart, and from 256 on the records.
const RINGS: [u64; 6] =
    [4096, 4096 + RING, 4096 + RING + BIG, 4096 + 2 * RING + BIG, 4096 + 2 * RING + 2 * BIG, 4096 + 2 * RING + 3 * BIG];
/// Where counters, live SAs and vault begin.
const TABLES: u64 = 4096 + 2 * RING + 4 * BIG;

/// Places to change: the header, the cursors of the rings and the records after them, anything.
fn places(len: u64) -> impl Strategy<Value = u64> {
    let cursor = prop::sample::select(RINGS.to_vec()).prop_flat_map(
        |ring| prop_oneof![2 => Just(ring), 2 => Just(ring + 128), 2 => (ring + 256..ring + 1024).prop_map(|at| at & !7)],
    );
    prop_oneof![
        1 => (0u64..600).prop_map(|at| at & !7),
        4 => cursor,
        2 => (TABLES..len - 8).prop_map(|at| at & !7),
        1 => (0..len - 8).prop_map(|at| at & !7)
    ]
}

fn values() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..600, any::<u64>(), any::<u32>().prop_map(u64::from), (0u64..600).prop_map(|n| u64::MAX - n)]
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

#[test]
fn a_port_survives_a_hostile_master() {
    let len = Pair::new().len();
    let changes = prop::collection::vec((places(len), values()), 1..12);
    runner(64)
        .run(&changes, |changes| {
            let mut pair = Pair::new();
            let mut master = pair.attach().unwrap();
            for (at, value) in changes {
                rule(&mut master);
                pair.write(at, value);
                work(&mut pair.port);
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_master_survives_a_hostile_data_plane() {
    let len = Pair::new().len();
    let changes = prop::collection::vec((places(len), values()), 1..12);
    runner(64)
        .run(&changes, |changes| {
            let mut pair = Pair::new();
            let mut master = pair.attach().unwrap();
            for (at, value) in changes {
                work(&mut pair.port);
                pair.write(at, value);
                rule(&mut master);
                pair.write(at, !value);
                drop(master);
                pair.listener.serve().unwrap();
                master = match pair.attach() {
                    Ok(master) => master,
                    Err(AttachError::Corrupt(_) | AttachError::Version { .. }) => return Ok(()),
                    Err(other) => panic!("{other}"),
                };
            }
            Ok(())
        })
        .unwrap();
}

/// Writes anything until told to stop, most of it where the rings are; returns how often. Odd seeds spare what makes a ring corrupt,
/// after which nobody would look at its records.
fn scribble(memory: &File, len: u64, seed: u64, stop: &AtomicBool) -> u64 {
    let (spares_cursors, mut seed) = (seed % 2 == 1, seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut roll = |sides: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % sides
    };
    let mut written = 0;
    while !stop.load(Ordering::Relaxed) {
        let ring = RINGS[roll(4) as usize];
        let at = match roll(8) {
            _ if spares_cursors => ring + 256 + roll(768),
            0 => roll(600),
            1 => TABLES + roll(len - TABLES - 8),
            2 => roll(len - 8),
            3 => ring + 256 + roll(768),
            cursor => ring + 128 * (cursor % 2),
        };
        let value = [roll(600), roll(u64::from(u32::MAX)), roll(u64::MAX), u64::MAX - roll(600)][roll(4) as usize];
        memory.write_all_at(&value.to_ne_bytes(), at & !7).unwrap();
        written += 1;
    }
    written
}

/// What was read once must not be read again: in between it may have become something else.
#[test]
fn both_sides_survive_memory_that_changes_while_they_use_it() {
    let mut written = 0;
    for seed in 1..=30 {
        let mut pair = Pair::new();
        let mut master = pair.attach().unwrap();
        let (memory, len, stop) = (pair.memory.try_clone().unwrap(), pair.len(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let scribbling = scope.spawn(|| scribble(&memory, len, seed, &stop));
            let port = &mut pair.port;
            let working = scope.spawn(move || (0..10).for_each(|_| work(port)));
            let ruling = scope.spawn(move || (0..10).for_each(|_| rule(&mut master)));
            // Before a failed one is passed on: the scope waits for all.
            let ended = [working.join(), ruling.join()];
            pair.listener.serve().unwrap();
            let path = pair.socket.clone();
            let attaching = scope.spawn(move || Master::attach(&path));
            while !attaching.is_finished() {
                pair.listener.serve().unwrap();
                std::thread::yield_now();
            }
            stop.store(true, Ordering::Relaxed);
            written += scribbling.join().unwrap();
            ended.into_iter().for_each(|ended| ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            match attaching.join().unwrap() {
                Ok(_) | Err(AttachError::Corrupt(_) | AttachError::Version { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        });
    }
    println!("{written} changes");
    assert!(written > 10_000, "the memory hardly changed: {written} times");
}

#[test]
fn every_header_field_is_checked_when_a_master_attaches() {
    let mut pair = Pair::new();
    // Magic, version, fingerprint, ten sizes, length of the info.
    for at in (0..14).map(|word| word * 8) {
        let good = pair.read(at);
        let near = [good + 1, good.wrapping_sub(1), good ^ 1 << 40];
        for value in near.into_iter().chain([0, u64::MAX, 1 << 20, u64::from(u32::MAX)]).filter(|&value| value != good) {
            pair.write(at, value);
            let refused = pair.attach();
            let named = matches!(refused, Err(AttachError::Corrupt(_) | AttachError::Version { .. }));
            // One byte more or less of vault fills the same words: harmless.
            assert!(named || (at == 96 && refused.is_ok()), "offset {at}, {good} → {value}: {refused:?}");
        }
        pair.write(at, good);
    }
    assert!(pair.attach().is_ok());
}

#[test]
fn a_corrupt_ring_is_reported_and_never_followed() {
    let mut pair = Pair::new();
    let mut master = pair.attach().unwrap();
    master.send(0, 1, &Command::PeerRemove { peer: PeerId(1) }).unwrap();
    pair.write(4096, 1 << 40);
    assert_eq!(pair.port.next_command(), None);
    assert!(master.is_corrupt() && master.counters(0).has_corrupt_ring());
    pair.write(4096, 2);
    assert_eq!(pair.port.next_command(), None, "corrupt stays corrupt");
}

#[test]
fn nonsense_in_the_table_of_sas_is_left_out() {
    let mut pair = Pair::new();
    let master = pair.attach().unwrap();
    let live = LiveSa {
        spi: Spi(0x4000_0001),
        direction: Direction::Inbound,
        peer: PeerId(1),
        child: ChildId::ONLY,
        suite: Suite::Aes128Gcm,
        window: 64,
        seq: 1,
        seq_limit: 0,
        packets: 1,
        bytes: 1,
    };
    pair.port.sa_install(0, &live);
    pair.port.sa_install(1, &live);
    assert_eq!(master.live_sas().len(), 2);
    let slot = (0..pair.len()).step_by(128).find(|&at| pair.read(at + 8) >> 32 == 0x4000_0001).unwrap();
    pair.write(slot, 1);
    assert_eq!(master.live_sas(), [(0, live)], "a slot that is forever being written");
    pair.write(slot, 2);
    pair.write(slot + 8, 0x4000_0001_0001_ff01);
    assert_eq!(master.live_sas(), [(0, live)], "a suite that does not exist");
}
