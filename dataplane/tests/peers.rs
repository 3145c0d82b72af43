//! Peers come, go and follow each other under one id: nothing of one ever serves another.

mod support;

use adit_proto::control::{Command, PeerId, PeerTag};
use adit_proto::stats::{Count, Drop, Gauge};
use support::{Bed, PEER, TAG, broadcast, eventually, frame, in_namespace, peer_seals, sealed};

const OTHER: PeerTag = PeerTag(2);

#[test]
fn a_peer_that_takes_over_an_id_inherits_neither_addresses_nor_sas() {
    in_namespace(|| {
        let mut bed = Bed::start(2, "io_uring", 2);
        let gauge = |bed: &Bed, worker: u16, gauge: Gauge| bed.master.counters(worker).gauge(gauge);
        let mut lanes = [peer_seals(0), peer_seals(1)];
        bed.send(&sealed(&mut lanes[0], &frame(5, 1, 60)));
        bed.tap.receive();
        eventually("both know the address", || (0..2).all(|worker| gauge(&bed, worker, Gauge::FdbEntries) == 1));
        // The same peer on another path keeps everything.
        bed.set_peer(0, PEER, TAG, 2);
        assert_eq!((gauge(&bed, 0, Gauge::FdbEntries), gauge(&bed, 0, Gauge::InboundSas)), (1, 2));

        bed.set_peer(0, PEER, OTHER, 2);
        let all = [Gauge::FdbEntries, Gauge::InboundSas, Gauge::OutboundSas, Gauge::Peers];
        assert_eq!(all.map(|which| gauge(&bed, 0, which)), [0, 0, 0, 1]);
        assert_eq!(bed.master.live_sas().iter().filter(|(worker, _)| *worker == 0).count(), 0);

        // Worker 1 has not heard of the change and tells what it learns of the old peer; worker 0 does not believe it.
        bed.send(&sealed(&mut lanes[1], &frame(6, 1, 60)));
        bed.tap.receive();
        eventually("worker 1 has learned it", || gauge(&bed, 1, Gauge::FdbEntries) == 2);
        turn(&mut bed);
        assert_eq!(gauge(&bed, 0, Gauge::FdbEntries), 0);
        // Both agree again: what one learns of the new peer, the other takes.
        bed.set_peer(1, PEER, OTHER, 2);
        assert_eq!(gauge(&bed, 1, Gauge::FdbEntries), 0);
        assert_eq!(bed.drops(), []);
    });
}

#[test]
fn frames_given_for_a_peer_that_is_gone_are_dropped_by_name() {
    in_namespace(|| {
        let mut bed = Bed::start(2, "poll", 1);
        let station = [2, 0, 0, 0, 0, 9];
        bed.command(1, &Command::FdbPin { mac: station, peer: PEER });
        bed.command(0, &Command::PeerRemove { peer: PEER });
        bed.set_peer(0, PEER, OTHER, 1);
        // Worker 1 still hands all of the old peer's frames over to worker 0.
        let mut sent = 0;
        while bed.count(Count::TakenOver) == 0 {
            sent += 1;
            assert!(sent < 1000, "no frame came through the second queue");
            let mut frame = broadcast(sent as u8);
            frame[..6].copy_from_slice(&station);
            bed.tap.send(&frame);
            turn(&mut bed);
        }
        eventually("what worker 0 took it dropped", || bed.dropped(Drop::NoPeer) == bed.count(Count::TakenOver));
        assert_eq!(bed.count(Count::Sealed), 0);
    });
}

#[test]
fn a_peer_with_neighbours_fills_half_of_the_table_and_alone_all_of_it() {
    in_namespace(|| {
        let mut bed = Bed::start_with(1, "poll", 1, &["--fdb-entries", "16"]);
        let mut lane = peer_seals(0);
        let mut teach = |bed: &Bed, stations: std::ops::Range<u8>| {
            let before = bed.count(Count::FdbLearned) + bed.count(Count::FdbFull);
            let count = stations.len() as u64;
            stations.for_each(|station| bed.send(&sealed(&mut lane, &frame(station, 1, 60))));
            eventually("all have been looked at", || bed.count(Count::FdbLearned) + bed.count(Count::FdbFull) == before + count);
            bed.count(Count::FdbLearned)
        };
        bed.set_peer(0, PeerId(1), OTHER, 1);
        assert_eq!(teach(&bed, 0..16), 8);
        bed.command(0, &Command::PeerRemove { peer: PeerId(1) });
        assert_eq!(teach(&bed, 16..32), 16);
    });
}

/// Two whole turns of worker 0: what was in its inbox before has been taken after.
fn turn(bed: &mut Bed) {
    for _ in 0..2 {
        bed.command(0, &Command::FdbUnpin { mac: [2, 9, 9, 9, 9, 9] });
    }
}
