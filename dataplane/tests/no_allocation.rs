//! Forwarding takes no memory from the heap: the workers' calls of malloc, Rust's and C's alike, are counted under traffic.

#![cfg(all(target_os = "linux", target_env = "gnu"))]

mod support;

use std::cell::Cell;
use std::ffi::{c_char, c_void};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use adit_proto::control::{Command, OutboundSa, PeerId, PeerTag};
use adit_proto::echo::{Answer, Echo, Kind};
use adit_proto::half::{Half, Which};
use adit_proto::stats::Count;
use support::{
    Bed, PEER, TAG, dummy, eventually, frame, in_namespace, ip_packet, out_spi, outbound_sa, peer_seals, sealed, sealed_ip,
};

static COUNTING: AtomicBool = AtomicBool::new(false);
static CALLS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// 0: not looked at yet; 1: a worker; 2: not a worker.
    static ROLE: Cell<u8> = const { Cell::new(0) };
}

/// Counts the calls of the threads that are named as the workers are.
fn count() {
    if !COUNTING.load(Ordering::Relaxed) {
        return;
    }
    let role = ROLE.with(|role| {
        if role.get() == 0 {
            let mut name: [c_char; 16] = [0; 16];
            // SAFETY: PR_GET_NAME writes at most sixteen bytes.
            unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
            role.set(if name.map(|c| c as u8).starts_with(b"worker-") { 1 } else { 2 });
        }
        role.get()
    });
    if role == 1 {
        CALLS.fetch_add(1, Ordering::Relaxed);
    }
}

unsafe extern "C" {
    fn __libc_malloc(size: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
    fn __libc_realloc(old: *mut c_void, size: usize) -> *mut c_void;
    fn __libc_memalign(align: usize, size: usize) -> *mut c_void;
}

// SAFETY: has the signature and contract of C's `malloc`, being glibc's with a counter before it.
#[unsafe(no_mangle)]
extern "C" fn malloc(size: usize) -> *mut c_void {
    count();
    // SAFETY: glibc's own implementation, for any size.
    unsafe { __libc_malloc(size) }
}

// SAFETY: has the signature and contract of C's `calloc`.
#[unsafe(no_mangle)]
extern "C" fn calloc(items: usize, size: usize) -> *mut c_void {
    count();
    // SAFETY: glibc's own implementation, for any sizes.
    unsafe { __libc_calloc(items, size) }
}

/// # Safety
/// As C's `realloc`: `old` is null or a live block of this allocator.
// SAFETY: has the signature and contract of C's `realloc`.
#[unsafe(no_mangle)]
unsafe extern "C" fn realloc(old: *mut c_void, size: usize) -> *mut c_void {
    count();
    // SAFETY: the caller keeps the contract, and every block came from glibc.
    unsafe { __libc_realloc(old, size) }
}

// SAFETY: has the signature and contract of C's `aligned_alloc`.
#[unsafe(no_mangle)]
extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    count();
    // SAFETY: glibc's own implementation, for any alignment and size.
    unsafe { __libc_memalign(align, size) }
}

#[test]
fn a_worker_under_traffic_allocates_nothing() {
    in_namespace(|| {
        for io in ["io_uring", "poll"] {
            let bed = &mut Bed::start(2, io, 2);
            for worker in 0..2 {
                bed.command(worker, &Command::PeerSet { peer: PEER, tag: TAG, echo: true, split: true });
            }
            let lanes = &mut [peer_seals(0), peer_seals(1)];
            traffic(bed, lanes, 1);
            CALLS.store(0, Ordering::SeqCst);
            COUNTING.store(true, Ordering::SeqCst);
            for station in 2..42 {
                traffic(bed, lanes, station);
            }
            COUNTING.store(false, Ordering::SeqCst);
            assert_eq!(CALLS.load(Ordering::SeqCst), 0, "calls of malloc on {io}");
            let drops: Vec<&str> = bed.drops().into_iter().map(|(name, _)| name).collect();
            assert_eq!(
                drops,
                ["bad_tag", "replay", "unknown_spi", "too_short", "unclassified"],
                "the hostile part was seen on {io}"
            );
            assert!(bed.count(Count::HandedOver) > 0 && bed.count(Count::FdbLearned) >= 40, "the rings were used on {io}");
        }
        for io in ["io_uring", "poll"] {
            let bed = &mut Bed::start_ip(2, io, 1);
            let lanes = &mut [peer_seals(0), peer_seals(1)];
            ip_traffic(bed, lanes);
            CALLS.store(0, Ordering::SeqCst);
            COUNTING.store(true, Ordering::SeqCst);
            for _ in 0..40 {
                ip_traffic(bed, lanes);
            }
            COUNTING.store(false, Ordering::SeqCst);
            assert_eq!(CALLS.load(Ordering::SeqCst), 0, "calls of malloc in IP mode on {io}");
            let drops: Vec<&str> = bed.drops().into_iter().map(|(name, _)| name).collect();
            assert_eq!(drops, ["bad_next_header", "no_policy", "policy_mismatch"], "the odd part was seen on {io}");
            assert!(bed.count(Count::HandedOver) > 0, "the rings were used on {io}");
        }
        hub_traffic();
        // The counter works: a thread that is named like a worker and allocates is seen.
        COUNTING.store(true, Ordering::SeqCst);
        let like_a_worker = std::thread::Builder::new().name("worker-x".into());
        like_a_worker.spawn(|| std::hint::black_box(vec![0u8; 64])).unwrap().join().unwrap();
        COUNTING.store(false, Ordering::SeqCst);
        assert!(CALLS.load(Ordering::SeqCst) > 0, "an allocation would have been seen");
    });
}

/// Frames for one other peer and for all, for both workers.
fn hub_traffic() {
    let bed = &mut Bed::start_with(2, "poll", 2, &["--forward", "true", "--flood-pps", "1000000"]);
    let (other, station) = (PeerId(1), [2, 0, 0, 0, 9, 9]);
    for worker in 0..2 {
        bed.set_peer(worker, other, PeerTag(9), 1);
        bed.command(worker, &Command::FdbPin { mac: station, peer: other });
    }
    bed.command(0, &Command::OutboundSaInstall(OutboundSa { peer: other, spi: out_spi(64), ..outbound_sa(0) }));
    let lanes = &mut [peer_seals(0), peer_seals(1)];
    COUNTING.store(true, Ordering::SeqCst);
    for from in 0..40 {
        let relayed = bed.count(Count::Relayed) + 4;
        for (lane, to) in [(0, station), (1, station), (0, [0xff; 6]), (1, [0xff; 6])] {
            let mut frame = frame(from, from.into(), 300);
            frame[..6].copy_from_slice(&to);
            bed.send(&sealed(&mut lanes[lane], &frame));
        }
        eventually("they are handed on", || bed.count(Count::Relayed) >= relayed);
    }
    COUNTING.store(false, Ordering::SeqCst);
    assert_eq!(CALLS.load(Ordering::SeqCst), 0, "calls of malloc in a hub");
}

/// Both ways in IP mode, for both workers, with packets among them that nobody may send.
fn ip_traffic(bed: &mut Bed, lanes: &mut [adit_dataplane::sa::OutboundSa; 2]) {
    let opened = bed.count(Count::Opened) + 20;
    let mut train = Vec::new();
    for number in 0..20u16 {
        // All of one length, or they would not be a train.
        let v6 = number % 4 < 2;
        let packet = ip_packet(v6, (11, number), (1, 9), &vec![7; if v6 { 100 } else { 120 }]);
        train.extend(sealed_ip(&mut lanes[usize::from(number % 2)], &packet));
    }
    let segment = train.len() / 20;
    bed.send_train(&train, segment);
    let mismatches = bed.dropped(adit_proto::stats::Drop::PolicyMismatch) + 1;
    bed.send(&sealed(&mut lanes[1], &frame(1, 0, 60)));
    bed.send(&sealed_ip(&mut lanes[1], &ip_packet(true, (30, 1), (1, 9), &[])));
    eventually("what may come is opened", || {
        bed.count(Count::Opened) >= opened && bed.dropped(adit_proto::stats::Drop::PolicyMismatch) >= mismatches
    });
    let (sealed, lost) = (bed.count(Count::Sealed) + 20, bed.dropped(adit_proto::stats::Drop::NoPolicy) + 1);
    for port in 0..20 {
        bed.tap.send(&ip_packet(port % 2 == 0, (1, port), (11, 9), &[1; 200]));
    }
    bed.tap.send(&ip_packet(false, (1, 1), (40, 1), &[]));
    eventually("the packets are sealed", || {
        bed.count(Count::Sealed) >= sealed && bed.dropped(adit_proto::stats::Drop::NoPolicy) >= lost
    });
}

/// Both ways, single packets and trains, for both workers, with new addresses and hostile packets among them.
fn traffic(bed: &mut Bed, lanes: &mut [adit_dataplane::sa::OutboundSa; 2], station: u8) {
    let opened = bed.count(Count::Opened) + 20;
    let mut train = Vec::new();
    for number in 0..20 {
        train.extend(sealed(&mut lanes[number % 2], &frame(station, number as u32, 300)));
    }
    bed.send_train(&train, train.len() / 20);
    let (mut echo, answered) = ([0; 200], bed.count(Count::EchoesAnswered) + 2);
    Echo { kind: Kind::Request, answer: Answer::AsItCame, size: 262, id: 7, stamp: 7 }.encode(&mut echo);
    lanes.iter_mut().for_each(|lane| bed.send(&dummy(lane, &echo)));
    let joined = bed.count(Count::Joined) + 2;
    for lane in lanes.iter_mut() {
        for (which, len) in [(Which::First, 757), (Which::Second, 757)] {
            let payload = [&Half { which, whole: 1514 }.encode()[..], &frame(station, 0, len)].concat();
            bed.send(&dummy(lane, &payload));
        }
    }
    eventually("what came in halves is joined", || bed.count(Count::Joined) >= joined);
    let mut forged = train[..train.len() / 20].to_vec();
    bed.send(&forged);
    forged[12] ^= 1;
    forged[4..8].copy_from_slice(&[9, 9, 9, 9]);
    forged[12..16].copy_from_slice(&[9, 9, 9, 9]);
    bed.send(&forged);
    forged[1] ^= 0x55;
    bed.send(&forged);
    bed.send(&[0x50, 0]);
    bed.send(&[0x30; 50]);
    eventually("the train and what follows it are through", || {
        let unclassified = bed.dropped(adit_proto::stats::Drop::Unclassified) >= u64::from(station > 0);
        bed.count(Count::Opened) >= opened && unclassified && bed.count(Count::EchoesAnswered) >= answered
    });
    let halved = bed.count(Count::Halved) + 1;
    let mut long = frame(1, 0, 1514);
    long[..12].rotate_left(6);
    bed.tap.send(&long);
    eventually("what is too long is sent in halves", || bed.count(Count::Halved) >= halved);
    let sent = bed.count(Count::Sealed) + 10;
    for number in 0..10 {
        let mut out = frame(1, number, 200);
        out[..12].rotate_left(6);
        bed.tap.send(&out);
    }
    eventually("the frames are sealed", || bed.count(Count::Sealed) >= sent);
}
