//! A flood of datagrams for the control plane is cut off in the data plane, under a name of its own.

mod support;

use std::time::Instant;

use adit_dataplane::config::PUNTS_PER_S;
use adit_proto::demux::STUN_COOKIE;
use adit_proto::stats::{Count, Drop};
use support::{Bed, eventually, in_namespace};

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
        let most = u64::from(PUNTS_PER_S) * (2 + began.elapsed().as_secs());
        let punted = bed.count(Count::Punted);
        assert!(punted > 0 && punted <= most, "{punted} of {sent} punted, {most} are allowed");
        assert!(bed.dropped(Drop::PuntLimit) >= sent - most - bed.dropped(Drop::UdpOverflow), "{:?}", bed.drops());
        assert!(taken <= punted);
    });
}
