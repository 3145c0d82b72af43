//! Frames and datagrams that belong to another worker reach it over the rings.

mod support;

use std::collections::BTreeMap;

use adit_proto::control::{Command, OutboundSa, PeerId, PeerTag};
use adit_proto::esp::Header;
use adit_proto::stats::{Count, Drop};
use support::{
    Bed, PEER, broadcast, eventually, frame, in_namespace, opened, out_spi, outbound_sa, peer_opens, peer_seals, sealed,
};

#[test]
fn datagrams_of_the_other_worker_in_a_train_are_opened_there_in_order() {
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
fn a_train_of_lanes_in_turn_takes_one_buffer_and_strangers_take_none() {
    in_namespace(|| {
        let mut bed = Bed::start(2, "io_uring", 2);
        let mut lanes = [peer_seals(0), peer_seals(1)];
        // Sixty datagrams to a train, every other one for worker 1: four trains have more of them than there are buffers.
        let trains: Vec<Vec<u8>> = (0..4)
            .map(|train| {
                (0..60).flat_map(|n| sealed(&mut lanes[n % 2], &frame(n as u8 % 2, train * 60 + n as u32, 100))).collect()
            })
            .collect();
        for train in &trains {
            bed.send_train(train, train.len() / 60);
        }
        let mut of_lane = [Vec::new(), Vec::new()];
        for _ in 0..240 {
            let frame = bed.tap.receive();
            of_lane[usize::from(frame[11])].push(u32::from_be_bytes([frame[14], frame[15], frame[16], frame[17]]));
        }
        assert!(of_lane.iter().all(|numbers| numbers.is_sorted() && numbers.len() == 120));
        eventually("all that went over was taken", || (bed.count(Count::HandedOver), bed.count(Count::TakenOver)) == (120, 120));
        assert_eq!(bed.drops(), []);

        // SPIs that nobody has, in a train that begins with one of worker 0.
        let mut train = trains[0][..2 * trains[0].len() / 60].to_vec();
        let len = train.len() / 2;
        for n in 0..30u8 {
            let mut stranger = train[len..2 * len].to_vec();
            stranger[1..3].copy_from_slice(&[0x77, n]);
            train.extend(stranger);
        }
        bed.send_train(&train, len);
        eventually("strangers are dropped where they came in", || bed.dropped(Drop::UnknownSpi) == 30);
        assert_eq!(bed.master.counters(0).drop(Drop::UnknownSpi), 30);
        assert_eq!(bed.count(Count::HandedOver), 121, "the one whose SPI worker 1 has");
    });
}

#[test]
fn a_broadcast_reaches_every_peer_though_another_worker_seals_it() {
    in_namespace(|| {
        let mut bed = Bed::start(2, "poll", 1);
        for id in 1..200 {
            for worker in 0..2 {
                bed.set_peer(worker, PeerId(id), PeerTag(id.into()), 1);
            }
            let sa = OutboundSa { peer: PeerId(id), spi: out_spi(64 * u32::from(id)), ..outbound_sa(0) };
            bed.command(0, &Command::OutboundSaInstall(sa));
        }
        let mut received = BTreeMap::new();
        for flow in 0..16 {
            bed.tap.send(&broadcast(flow));
            for _ in 0..200 {
                let mut packet = [0; 200];
                bed.peer.recv_from(&mut packet).unwrap();
                *received.entry(Header::parse(&packet).unwrap().spi).or_insert(0) += 1;
            }
        }
        assert!(received.len() == 200 && received.values().all(|count| *count == 16), "{received:?}");
        let over = bed.count(Count::HandedOver);
        assert!((1..16).contains(&over), "{over} of 16 broadcasts went over, each once for all peers");
        assert_eq!(bed.drops(), []);
    });
}

#[test]
fn frames_for_a_peer_whose_sa_another_worker_owns_are_sealed_there() {
    in_namespace(|| {
        // Two queues, one lane: what the kernel puts into the second queue has to go over.
        let mut bed = Bed::start(2, "io_uring", 1);
        for worker in 0..2 {
            bed.command(worker, &Command::FdbPin { mac: [2, 0, 0, 0, 0, 9], peer: PEER });
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
