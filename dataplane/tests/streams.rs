//! Paths that are streams: what goes by one comes to the control plane as whole trains, and what comes down is treated as if it had come
//! by UDP.

mod support;

use adit_proto::control::{Command, Event, Hop, PathId, Refusal, StreamId, TrainHeader, Via};
use adit_proto::echo::{Answer, Echo, Kind, LEN};
use adit_proto::stats::{Count, Drop};
use support::{
    Bed, PEER, TAG, broadcast, dummy, eventually, frame, in_namespace, ip_packet, opened, opened_ip, peer_opens, peer_seals,
    sealed, sealed_ip,
};

const STREAM: StreamId = StreamId(0xfeed_0000_0000_01f4);
const SECOND: PathId = PathId::new(1).unwrap();

fn stream_path(stream: StreamId) -> Command {
    Command::PathSet { peer: PEER, path: SECOND, hop: Hop::Stream(stream), mtu: 1500, mtu_reported: 1500 }
}

/// The peer is sent to by a stream; it answers echoes.
fn use_stream(bed: &mut Bed) {
    for worker in 0..usize::from(bed.master.workers()) {
        bed.command(worker, &Command::PeerSet { peer: PEER, tag: TAG, echo: true, split: false });
        bed.command(worker, &stream_path(STREAM));
        bed.command(worker, &Command::PathUse { peer: PEER, path: SECOND });
    }
}

/// The next train for a stream.
fn train(bed: &mut Bed) -> (u16, TrainHeader, Vec<u8>) {
    let (mut bytes, mut found) = (Vec::new(), None);
    eventually("a train comes up", || {
        found = bed.master.poll_train(0, &mut bytes);
        found.is_some()
    });
    let (worker, header) = found.unwrap();
    (worker, header, bytes)
}

fn down(bed: &mut Bed, worker: u16, class: u8, packets: &[Vec<u8>]) {
    let header = TrainHeader { stream: STREAM, class, segment: packets[0].len() as u16 };
    bed.master.send_train(worker, header, &packets.concat()).unwrap();
    bed.master.flush();
}

/// Waits for an event that is asked for.
fn told(bed: &mut Bed, is_it: impl Fn(&Event) -> bool) -> Event {
    let mut found = None;
    eventually("the control plane is told", || {
        found = bed.master.poll_event().map(|(_, event)| event).filter(&is_it);
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn frames_go_up_as_trains_and_trains_that_come_down_are_opened() {
    in_namespace(|| {
        let mut bed = Bed::start(2, "io_uring", 1);
        use_stream(&mut bed);
        let (mut opens, frames) = (peer_opens(0), 40);
        (0..frames).for_each(|_| bed.tap.send(&broadcast(1)));
        let (mut came, mut bytes) = (0, 0);
        while came < frames {
            let (worker, header, train) = train(&mut bed);
            assert_eq!((worker, header.stream, header.class), (0, STREAM, 0), "the only lane is worker 0's");
            for packet in train.chunks(header.segment.into()) {
                assert_eq!(opened(&mut opens, packet.to_vec()), broadcast(1));
                came += 1;
            }
            bytes += train.len() as u64;
        }
        // What comes down goes the way of datagrams: it is opened by the worker whose lane it is, and a repeat is none.
        let mut lanes = [peer_seals(0), peer_seals(1)];
        for (number, lane) in [(1, 0), (2, 1)] {
            let packets = [3 * number, 3 * number + 1].map(|number| sealed(&mut lanes[lane], &frame(7, number, 500)));
            down(&mut bed, 0, 0, &packets);
            [3 * number, 3 * number + 1].into_iter().for_each(|number| assert_eq!(bed.tap.receive(), frame(7, number, 500)));
            let seen = told(&mut bed, |event| matches!(event, Event::PathSeen { .. }));
            assert!(matches!(seen, Event::PathSeen { path: Some(SECOND), via: Via::Stream(STREAM), .. }), "{seen:?}");
            down(&mut bed, 0, 0, &packets);
            eventually("repeats are dropped", || bed.dropped(Drop::Replay) == 2 * u64::from(number));
        }
        let path = bed.master.path_counters()[&(PEER, SECOND)];
        assert_eq!((path.sent_packets, path.sent_bytes, path.received_packets), (40, bytes, 4));
        assert_eq!((bed.count(Count::TrainsUpPackets), bed.count(Count::TrainsUpBytes)), (40, bytes));
        assert_eq!((bed.count(Count::TrainsDown), bed.count(Count::TrainsDownPackets)), (4, 8));
        assert_eq!((bed.count(Count::UdpSends), bed.drops()), (0, vec![("replay", 4)]));
    });
}

#[test]
fn echoes_go_by_the_stream_and_are_answered_as_they_came() {
    in_namespace(|| {
        let mut bed = Bed::start(1, "io_uring", 1);
        use_stream(&mut bed);
        let (mut opens, mut seals) = (peer_opens(0), peer_seals(0));
        let mut echo_in = |mut packet: Vec<u8>| {
            let header = adit_proto::esp::Header::parse(&packet).unwrap();
            let opened = opens.esp.open(&header, &mut packet).unwrap();
            Echo::decode(&packet[opened.payload]).expect("an echo")
        };
        bed.command(0, &Command::Echo { peer: PEER, path: SECOND, id: 9, size: 1500, answer: Answer::AsItCame });
        let (_, header, packet) = train(&mut bed);
        assert!((1500 - 28 - 3..=1500 - 28).contains(&packet.len()), "as a packet of IPv4 it has {} bytes", 28 + packet.len());
        assert_eq!((header.stream, usize::from(header.segment)), (STREAM, packet.len()));
        let asked = echo_in(packet);
        assert_eq!((asked.kind, asked.id, asked.size), (Kind::Request, 9, 1500));
        let payload = |echo: &Echo, len: usize| {
            let mut payload = vec![0; len];
            assert!(echo.encode(&mut payload));
            payload
        };
        let reply = dummy(&mut seals, &payload(&asked.reply(), LEN));
        down(&mut bed, 0, 0, &[reply]);
        let reply = told(&mut bed, |event| matches!(event, Event::EchoReply { .. }));
        let Event::EchoReply { id: 9, path: Some(SECOND), via: Via::Stream(STREAM), .. } = reply else { panic!("{reply:?}") };
        // The peer asks: by the stream, though another path is in use.
        bed.command(0, &Command::PathUse { peer: PEER, path: PathId::FIRST });
        let request = Echo { kind: Kind::Request, answer: Answer::AsItCame, size: 1000, id: 5, stamp: 77 };
        let request = dummy(&mut seals, &payload(&request, 900));
        let len = request.len();
        down(&mut bed, 0, 0, &[request]);
        let (_, header, packet) = train(&mut bed);
        assert_eq!((header.stream, packet.len()), (STREAM, len), "a path is known there, so it is as long as the request");
        assert_eq!((echo_in(packet).kind, bed.count(Count::EchoesAnswered)), (Kind::Reply, 1));
        assert_eq!(bed.drops(), []);
    });
}

#[test]
fn marks_come_along_and_the_class_of_what_goes() {
    in_namespace(|| {
        let mut bed = Bed::start_ip(1, "io_uring", 1);
        use_stream(&mut bed);
        let mut there = ip_packet(false, (1, 1), (11, 1), b"out");
        there[1] = 0b1011_1010;
        bed.tap.send(&there);
        let (_, header, packet) = train(&mut bed);
        assert_eq!(header.class & 3, 2, "ECT(0) is copied out (RFC 6040 §4.1)");
        assert_eq!(opened_ip(&mut peer_opens(0), packet), there);
        let mut back = ip_packet(false, (11, 1), (1, 1), b"in");
        back[1] = 0b10;
        let packet = sealed_ip(&mut peer_seals(0), &back);
        down(&mut bed, 0, 0b11, &[packet]);
        assert_eq!(bed.tap.receive()[1], 0b11, "a queue on the way was congested");
        assert_eq!((bed.count(Count::CeMarks), bed.drops()), (1, vec![]));
    });
}

#[test]
fn what_the_ring_or_the_worker_cannot_take_is_dropped_by_name() {
    in_namespace(|| {
        let mut bed = Bed::start(1, "poll", 1);
        use_stream(&mut bed);
        let short = Command::PathSet { peer: PEER, path: SECOND, hop: Hop::Stream(STREAM), mtu: 575, mtu_reported: 1500 };
        assert_eq!(bed.refused(0, &short), Refusal::BadValue);
        // IKE does not come this way, whoever says so, and STUN neither.
        let stun = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[0; 12]].concat();
        down(&mut bed, 0, 0, &[[&[0; 4][..], &[5; 40]].concat()]);
        down(&mut bed, 0, 0, &[stun]);
        eventually("both are dropped", || bed.dropped(Drop::Unclassified) == 2);
        // Nobody takes what comes up.
        let long = [&broadcast(1)[..], &[0; 1300]].concat();
        eventually("the ring is full", || {
            bed.tap.send(&long);
            bed.dropped(Drop::StreamFull) > 0
        });
        assert!(bed.count(Count::TrainsUpBytes) > 512 << 10);
        let mut bytes = Vec::new();
        while bed.master.poll_train(0, &mut bytes).is_some() {}
        let sent = bed.count(Count::TrainsUp);
        eventually("it goes on", || {
            bed.tap.send(&long);
            bed.count(Count::TrainsUp) > sent
        });
    });
}
