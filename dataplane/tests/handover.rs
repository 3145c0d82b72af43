//! Frames and datagrams that belong to another worker reach it over the rings.

mod support;

use adit_proto::control::Command;
use adit_proto::stats::{Count, Drop};
use support::{Bed, PEER, eventually, frame, in_namespace, opened, peer_opens, peer_seals, sealed};

#[test]
fn datagrams_in_a_train_that_belong_to_the_other_worker_are_opened_there_in_order() {
    in_namespace(|| {
        for io in ["io_uring", "poll"] {
            let mut bed = Bed::start(2, io, 2);
            let mut lanes = [peer_seals(0), peer_seals(1)];
            // One train of datagrams for both workers: the kernel hands it whole to the worker of the first.
            let pattern = [0, 0, 1, 1, 1, 0, 1, 0];
            let mut train = Vec::new();
            for (number, lane) in pattern.into_iter().enumerate() {
                train.extend(sealed(&mut lanes[lane], &frame(lane as u8, number as u32, 100)));
            }
            bed.send_train(&train, train.len() / pattern.len());
            let mut of_lane = [Vec::new(), Vec::new()];
            for _ in pattern {
                let frame = bed.tap.receive();
                of_lane[usize::from(frame[11])].push(frame[17]);
            }
            assert_eq!(of_lane, [vec![0, 1, 5, 7], vec![2, 3, 4, 6]], "{io}");
            eventually("four went over", || (bed.count(Count::HandedOver), bed.count(Count::TakenOver)) == (4, 4));
            assert_eq!(bed.drops(), [], "{io}");
        }
    });
}

#[test]
fn frames_for_a_peer_whose_sa_another_worker_owns_are_sealed_there() {
    in_namespace(|| {
        // Two queues, one lane: what the kernel puts into the second queue has to go over.
        let mut bed = Bed::start(2, "io_uring", 1);
        for worker in 0..2 {
            bed.order(worker, &Command::FdbPin { mac: [2, 0, 0, 0, 0, 9], peer: PEER });
        }
        let mut sa = peer_opens(0);
        let mut numbers = Vec::new();
        for flow in 0..64u8 {
            let mut sent = udp_frame(flow);
            bed.tap.send(&sent);
            let mut packet = vec![0; 2048];
            let (len, _) = bed.peer.recv_from(&mut packet).unwrap();
            packet.truncate(len);
            let got = opened(&mut sa, packet);
            numbers.push(got[35]);
            sent.truncate(got.len());
            assert_eq!(got, sent);
        }
        assert_eq!(numbers, (0..64).collect::<Vec<u8>>());
        eventually("all were taken", || bed.count(Count::TakenOver) == bed.count(Count::HandedOver));
        let handed_over = bed.count(Count::HandedOver);
        assert!((1..64).contains(&handed_over), "{handed_over} of 64 flows came through the second queue");
        assert_eq!(bed.drops(), []);
    });
}

#[test]
fn what_one_worker_learns_the_other_knows() {
    in_namespace(|| {
        let mut bed = Bed::start(2, "poll", 2);
        let before = bed.count(Count::FloodedFrames);
        bed.send(&sealed(&mut peer_seals(1), &frame(5, 1, 60)));
        bed.tap.receive();
        eventually("both tables have the address", || {
            (0..2).all(|worker| bed.master.counters(worker).gauge(adit_proto::stats::Gauge::FdbEntries) == 1)
        });
        for flow in 0..32u8 {
            let mut to_it = udp_frame(flow);
            to_it[..6].copy_from_slice(&[2, 0, 0, 0, 1, 5]);
            bed.tap.send(&to_it);
            bed.peer.recv_from(&mut [0; 2048]).unwrap();
        }
        assert_eq!(bed.count(Count::FloodedFrames), before, "a known address is not flooded, whichever queue it comes through");
        assert_eq!(bed.dropped(Drop::NoPeer), 0);
    });
}

/// An IPv4 UDP frame of a flow of its own (the kernel chooses the queue by the flow) to 02:00:00:00:00:09.
fn udp_frame(flow: u8) -> Vec<u8> {
    let mut frame = vec![0; 60];
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..34].copy_from_slice(&[0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame[34..38].copy_from_slice(&[0x30, flow, 0x40, 0]);
    frame[38..40].copy_from_slice(&26u16.to_be_bytes());
    frame
}
