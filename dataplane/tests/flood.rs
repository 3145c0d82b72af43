//! Frames for all peers: limited for each worker by its own rate, and only where they are multiplied.

mod support;

use adit_proto::control::{Command, OutboundSa, PeerId, PeerTag};
use adit_proto::stats::{Count, Drop};
use support::{Bed, broadcast, eventually, in_namespace, out_spi, outbound_sa};

const LIMIT: u64 = 50;
const SENT: u64 = 200;

fn flood(bed: &mut Bed) -> u64 {
    let before = bed.count(Count::FloodedFrames) + bed.dropped(Drop::FloodLimit);
    let flooded = bed.count(Count::FloodedFrames);
    for _ in 0..SENT {
        // One flow, so one queue: most floods are of one kind, and come through one worker.
        bed.tap.send(&broadcast(1));
    }
    eventually("all are flooded or dropped", || bed.count(Count::FloodedFrames) + bed.dropped(Drop::FloodLimit) == before + SENT);
    bed.count(Count::FloodedFrames) - flooded
}

#[test]
fn each_worker_floods_as_many_frames_as_the_limit_says() {
    in_namespace(|| {
        let limit = LIMIT.to_string();
        let mut bed = Bed::start_with(2, "poll", 2, &["--flood-pps", &limit]);
        assert_eq!(flood(&mut bed), SENT, "to the only peer everything goes: nothing is multiplied");
        for worker in 0..2u32 {
            bed.set_peer(worker as usize, PeerId(1), PeerTag(2), 2);
            let sa = OutboundSa { peer: PeerId(1), spi: out_spi(64 + worker), ..outbound_sa(0) };
            bed.command(worker as usize, &Command::OutboundSaInstall(sa));
        }
        let passed = flood(&mut bed);
        assert!((LIMIT..SENT).contains(&passed), "{passed} of {SENT} passed under a limit of {LIMIT} for each worker");
    });
}
