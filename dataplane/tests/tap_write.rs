//! What is counted as written was written.

mod support;

use adit_proto::stats::{Count, Drop};
use support::{Bed, eventually, frame, in_namespace, peer_seals, run, sealed};

/// A NAT keepalive: a worker that sleeps since it submitted a write wakes, and sees what became of it.
const NUDGE: [u8; 1] = [0xff];

#[test]
fn frames_that_the_tap_does_not_take_are_drops_and_not_writes() {
    in_namespace(|| {
        for io in ["io_uring", "poll"] {
            let bed = Bed::start(1, io, 1);
            let mut lane = peer_seals(0);
            let mut send = |number: u32| bed.send(&sealed(&mut lane, &frame(5, number, 60)));
            let seen = || {
                bed.send(&NUDGE);
                let written = [Count::TapWrites, Count::TapWrittenFrames, Count::TapWrittenBytes];
                (written.map(|count| bed.count(count)), bed.dropped(Drop::TapDown))
            };
            send(1);
            eventually("the first is written", || seen() == ([1, 1, 60], 0));
            run("ip", &["link", "set", "bed0", "down"]);
            (2..5).for_each(&mut send);
            eventually("three are dropped", || seen().1 == 3);
            assert_eq!(seen().0, [1, 1, 60], "{io}");
            run("ip", &["link", "set", "bed0", "up"]);
            send(5);
            eventually("the last is written", || seen() == ([2, 2, 120], 3));
            assert_eq!(bed.drops(), [("tap_down", 3)], "{io}");
        }
    });
}
