//! Floods of datagrams for the control plane are cut off in the data plane, each kind under a name of its own, and crowd out no other.

mod support;

use std::time::Instant;

use adit_dataplane::limits::STUN_PER_S;
use adit_proto::control::{Command, InjectHeader};
use adit_proto::demux::STUN_COOKIE;
use adit_proto::ike::IkeSpi;
use adit_proto::stats::{Count, Drop};
use support::{Bed, eventually, in_namespace, received};

const TRAINS: u64 = 400;
const PER_TRAIN: usize = 50;
const LEN: usize = 100;

#[test]
fn a_worker_hands_up_a_seconds_worth_and_then_its_rate() {
    in_namespace(|| {
        let mut bed = Bed::start(1, "poll", 1);
        let mut binding = vec![0; LEN];
        binding[1] = 1;
        binding[4..8].copy_from_slice(&STUN_COOKIE);
        let train = binding.repeat(PER_TRAIN);
        let sent = TRAINS * PER_TRAIN as u64;
        let began = Instant::now();
        for _ in 0..TRAINS {
            bed.send_train(&train, LEN);
        }
        let mut taken = 0;
        let mut buffer = Vec::new();
        eventually("everything is counted", || {
            while bed.master.poll_punt(&mut buffer).is_some() {
                assert_eq!(buffer, binding);
                taken += 1;
            }
            let dropped: u64 = bed.drops().into_iter().map(|(_, count)| count).sum();
            bed.count(Count::Punted) + dropped == sent
        });
        let most = u64::from(STUN_PER_S) * (2 + began.elapsed().as_secs());
        let punted = bed.count(Count::Punted);
        assert!(punted > 0 && punted <= most, "{punted} of {sent} punted, {most} are allowed");
        assert!(bed.dropped(Drop::PuntStunLimit) >= sent - most - bed.dropped(Drop::UdpOverflow), "{:?}", bed.drops());
        assert!(taken <= punted);
    });
}

/// The shortest protected request of these SPIs, behind the marker.
fn ike(initiator: u64, responder: u64) -> Vec<u8> {
    let spis = [initiator.to_be_bytes(), responder.to_be_bytes()].concat();
    let header = [&[0; 4][..], &spis, &[46, 0x20, 37, 8, 0, 0, 0, 0], &57u32.to_be_bytes()].concat();
    [&header[..], &[0, 0, 0, 29], &[0xA5; 25]].concat()
}

#[test]
fn messages_of_known_ike_sas_pass_while_strangers_and_junk_flood() {
    in_namespace(|| {
        let mut bed = Bed::start(1, "io_uring", 1);
        let (initiator, responder) = (IkeSpi(0x1234), IkeSpi(0x5678));
        bed.command(0, &Command::IkeSaAdd { initiator, responder });
        let (strange, junk, known) = (ike(7, 8), [0; 32], ike(initiator.0, responder.0));
        let mut taken = Vec::new();
        let (mut sent, mut buffer) = (0u64, Vec::new());
        for _ in 0..200 {
            for flood in [&strange[..], &junk] {
                bed.send_train(&flood.repeat(PER_TRAIN), flood.len());
            }
            bed.send(&known);
            sent += 2 * PER_TRAIN as u64 + 1;
            eventually("all are judged", || {
                while bed.master.poll_punt(&mut buffer).is_some() {
                    taken.push(buffer.clone());
                }
                bed.count(Count::Punted) + bed.drops().into_iter().map(|(_, count)| count).sum::<u64>() >= sent
            });
        }
        eventually("all are here", || {
            while bed.master.poll_punt(&mut buffer).is_some() {
                taken.push(buffer.clone());
            }
            taken.len() as u64 == bed.count(Count::Punted)
        });
        assert_eq!(taken.iter().filter(|message| **message == known).count(), 200, "{:?}", bed.drops());
        assert_eq!(bed.dropped(Drop::BadIke), 200 * PER_TRAIN as u64, "junk is charged to nobody");
        assert!(bed.dropped(Drop::PuntNetworkLimit) > 0 && !taken.contains(&junk.to_vec()));
        // One that is gone is strange.
        bed.command(0, &Command::IkeKnownClear);
        let limited = bed.dropped(Drop::PuntNetworkLimit);
        bed.send_train(&known.repeat(PER_TRAIN), known.len());
        eventually("it is limited", || bed.dropped(Drop::PuntNetworkLimit) > limited);
    });
}

/// A message in the clear of the exchange with which all begins, behind the marker.
fn beginning(initiator: u64, responder: u64, flags: u8) -> Vec<u8> {
    let spis = [initiator.to_be_bytes(), responder.to_be_bytes()].concat();
    [&[0; 4][..], &spis, &[33, 0x20, 34, flags, 0, 0, 0, 0], &28u32.to_be_bytes()].concat()
}

#[test]
fn answers_go_up_beside_a_flood_under_the_same_address() {
    in_namespace(|| {
        let mut bed = Bed::start(1, "poll", 1);
        let to = InjectHeader::to(bed.peer.local_addr().unwrap());
        for number in 100..120 {
            bed.master.inject(0, &to, &beginning(number, 0, 8)).unwrap();
            bed.master.flush();
            assert_eq!(received(&bed.peer), beginning(number, 0, 8));
        }
        // By turns what was asked for and what was not, each behind more than one network may send.
        let (mut sent, mut buffer, mut taken) = (0, Vec::new(), Vec::new());
        let flood = beginning(7, 0, 8).repeat(PER_TRAIN);
        for number in 100..140 {
            let limited = bed.dropped(Drop::PuntNetworkLimit);
            while bed.dropped(Drop::PuntNetworkLimit) == limited {
                bed.send_train(&flood, 32);
                sent += PER_TRAIN as u64;
            }
            bed.send_train(&flood, 32);
            bed.send(&beginning(number, 10, 0x20));
            sent += PER_TRAIN as u64 + 1;
            eventually("all are judged", || {
                while bed.master.poll_punt(&mut buffer).is_some() {
                    taken.push(buffer.clone());
                }
                let dropped: u64 = bed.drops().into_iter().map(|(_, count)| count).sum();
                bed.count(Count::Punted) + dropped == sent && taken.len() as u64 == bed.count(Count::Punted)
            });
        }
        let came = |numbers: std::ops::Range<u64>| numbers.filter(|number| taken.contains(&beginning(*number, 10, 0x20))).count();
        assert_eq!(came(100..120), 20, "{:?}", bed.drops());
        assert!(came(120..140) < 10, "what nobody has asked for came as well: {:?}", bed.drops());
    });
}
