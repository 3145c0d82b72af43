//! Paths of a peer: where its packets are sent, from which address, what is told of where they come from, and that the first has come.

mod support;

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use adit_proto::control::{
    Command, Event, InjectHeader, LocalEnd, OutboundSa, PathId, PeerId, PeerTag, PuntHeader, Refusal, UdpHop, Via,
};
use adit_proto::demux::STUN_COOKIE;
use adit_proto::stats::{Count, Drop};
use support::{
    Bed, PEER, TAG, eventually, in_namespace, in_spi, ip_packet, monotonic_ns, out_spi, outbound_sa, path_set, peer_seals,
    received, sealed_ip, set_int,
};

const SECOND: PathId = PathId::new(1).unwrap();

/// The path events that came until now, without how much came, which depends on how it was read.
fn seen(bed: &mut Bed) -> Vec<(u16, Event)> {
    let events = std::iter::from_fn(|| bed.master.poll_event());
    let sightings = events.filter_map(|(worker, mut event)| {
        let Event::PathSeen { bytes, .. } = &mut event else { return None };
        assert!(std::mem::take(bytes) > 0);
        Some((worker, event))
    });
    sightings.collect()
}

/// Waits for the next path event of worker 0.
fn next_seen(bed: &mut Bed) -> Event {
    let mut events = Vec::new();
    eventually("the control plane is told", || {
        events.extend(seen(bed));
        !events.is_empty()
    });
    assert_eq!((events.len(), events[0].0), (1, 0));
    events[0].1
}

fn sighting(path: Option<PathId>, from: &str, to: &str) -> Event {
    // The loopback interface is always the first.
    let to = LocalEnd { address: to.parse().unwrap(), interface: 1 };
    let via = Via::Udp { from: from.parse().unwrap(), to };
    Event::PathSeen { peer: PEER, tag: TAG, path, via, bytes: 0 }
}

fn socket(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket
}

#[test]
fn where_authentic_new_packets_come_from_is_told_and_moves_nothing() {
    in_namespace(|| {
        let mut bed = Bed::start_ip(1, "io_uring", 1);
        let mut seals = peer_seals(0);
        let elsewhere = socket("127.0.0.1:4599");
        let (there, back) = (ip_packet(false, (1, 1), (11, 1), &[]), ip_packet(false, (11, 1), (1, 1), &[]));
        bed.send(&sealed_ip(&mut seals, &back));
        assert_eq!(next_seen(&mut bed), sighting(Some(PathId::FIRST), "127.0.0.1:4501", "127.0.0.1"));
        // Neither a replay, nor a forgery, nor what is late.
        let late = sealed_ip(&mut seals, &back);
        let first = sealed_ip(&mut seals, &back);
        bed.send(&first);
        let mut forged = sealed_ip(&mut seals, &back);
        forged[20] ^= 1;
        for datagram in [&first, &forged, &late] {
            elsewhere.send_to(datagram, "127.0.0.1:4500").unwrap();
        }
        eventually("all are judged", || bed.dropped(Drop::Replay) + bed.dropped(Drop::BadTag) + bed.count(Count::Opened) == 5);
        assert_eq!(seen(&mut bed), []);
        elsewhere.send_to(&sealed_ip(&mut seals, &back), "127.0.0.1:4500").unwrap();
        assert_eq!(next_seen(&mut bed), sighting(None, "127.0.0.1:4599", "127.0.0.1"));
        assert_eq!(bed.count(Count::PathChanges), 1);
        // The control plane makes a path of it, and nothing more happens before it is used.
        bed.command(0, &path_set(PEER, SECOND, UdpHop::to("127.0.0.1:4599".parse().unwrap())));
        bed.tap.send(&there);
        received(&bed.peer);
        bed.command(0, &Command::PathUse { peer: PEER, path: SECOND });
        bed.tap.send(&there);
        received(&elsewhere);
        // A new control plane hears of it again.
        bed.command(0, &Command::PeerSet { peer: PEER, tag: TAG, echo: false, split: false });
        elsewhere.send_to(&sealed_ip(&mut seals, &back), "127.0.0.1:4500").unwrap();
        assert_eq!(next_seen(&mut bed), sighting(Some(SECOND), "127.0.0.1:4599", "127.0.0.1"));
    });
}

#[test]
fn the_first_packet_of_each_inbound_sa_is_told_once() {
    in_namespace(|| {
        let mut bed = Bed::start_ip(2, "io_uring", 2);
        let packet = ip_packet(false, (11, 1), (1, 1), &[]);
        let mut used = Vec::new();
        for (lane, forge) in [(1, true), (1, false), (1, false), (0, false), (0, true)] {
            let (mut seals, opened, forged) = (peer_seals(lane), bed.count(Count::Opened), bed.dropped(Drop::BadTag));
            seals.esp.seq_next = 1 + opened + forged;
            let mut datagram = sealed_ip(&mut seals, &packet);
            *datagram.last_mut().unwrap() ^= u8::from(forge);
            bed.send(&datagram);
            eventually("it is judged", || bed.count(Count::Opened) + bed.dropped(Drop::BadTag) > opened + forged);
            bed.send(&[0xff]);
            eventually("its turn is over", || bed.count(Count::Keepalives) > opened + forged);
            used.extend(std::iter::from_fn(|| bed.master.poll_event()).filter_map(|(worker, event)| match event {
                Event::InboundSaUsed { peer: PEER, spi } => Some((worker, spi, forge)),
                _ => None,
            }));
        }
        assert_eq!(used, [(1, in_spi(1), false), (0, in_spi(0), false)]);
    });
}

#[test]
fn a_path_leaves_from_its_address_and_without_one_nothing_goes() {
    in_namespace(|| {
        for listen in ["0.0.0.0:4500", "[::]:4500"] {
            let mut bed = Bed::start_at(listen, 1, "poll", 1, &["--mode", "ip"]);
            let any = adit_proto::ike::AddressRange::ANY_V4;
            let selector = adit_proto::control::Selector::any_of(any, any);
            bed.own(0, PEER, selector);
            let there = ip_packet(false, (1, 1), (11, 1), &[]);
            let from = |bed: &mut Bed| {
                bed.tap.send(&there);
                bed.peer.recv_from(&mut [0; 2000]).unwrap().1.ip()
            };
            let local = |last: u8| Some(IpAddr::from([127, 0, 0, last]));
            assert_eq!(Some(from(&mut bed)), local(1), "as the routes say");
            let hop = UdpHop { local: local(77), ..UdpHop::to("127.0.0.1:4501".parse().unwrap()) };
            bed.command(0, &path_set(PEER, SECOND, hop));
            bed.command(0, &Command::PathUse { peer: PEER, path: SECOND });
            assert_eq!(Some(from(&mut bed)), local(77), "{listen}");
            // What the peer sends to that address belongs to that path, what it sends to another to the other.
            let mut seals = peer_seals(0);
            let back = ip_packet(false, (11, 1), (1, 1), &[]);
            bed.peer.send_to(&sealed_ip(&mut seals, &back), "127.0.0.77:4500").unwrap();
            assert_eq!(next_seen(&mut bed), sighting(Some(SECOND), "127.0.0.1:4501", "127.0.0.77"));
            bed.peer.send_to(&sealed_ip(&mut seals, &back), "127.0.0.5:4500").unwrap();
            assert_eq!(next_seen(&mut bed), sighting(Some(PathId::FIRST), "127.0.0.1:4501", "127.0.0.5"));

            bed.command(0, &Command::PathRemove { peer: PEER, path: SECOND });
            assert_eq!(bed.refused(0, &Command::PathUse { peer: PEER, path: SECOND }), Refusal::NoSuchPath);
            bed.tap.send(&there);
            eventually("without a path in use it is dropped by name", || bed.dropped(Drop::NoPath) == 1);
            assert_eq!(bed.drops(), [("no_path", 1)]);
        }
    });
}

#[test]
fn paths_that_cannot_be_are_refused() {
    in_namespace(|| {
        let mut bed = Bed::start(1, "poll", 1);
        let good = UdpHop::to("127.0.0.1:4501".parse().unwrap());
        let to_v6 = UdpHop::to("[::1]:4501".parse().unwrap());
        for hop in [UdpHop { socket: 1, ..good }, UdpHop { local: Some(IpAddr::from([0u16; 8])), ..good }, to_v6] {
            assert_eq!(bed.refused(0, &path_set(PEER, SECOND, hop)), Refusal::BadValue, "{hop:?}");
        }
        assert_eq!(bed.refused(0, &path_set(PeerId(9), SECOND, good)), Refusal::NoSuchPeer);
        assert_eq!(bed.refused(0, &Command::PathRemove { peer: PEER, path: SECOND }), Refusal::NoSuchPath);
    });
}

#[test]
fn two_peers_behind_one_address_have_trains_of_their_own() {
    in_namespace(|| {
        let mut bed = Bed::start(1, "poll", 1);
        let other = PeerId(1);
        bed.set_peer(0, other, PeerTag(9), 1);
        bed.command(0, &Command::OutboundSaInstall(OutboundSa { peer: other, spi: out_spi(64), ..outbound_sa(0) }));
        // A broadcast goes to both.
        let sends = bed.count(Count::UdpSends);
        bed.tap.send(&support::broadcast(0));
        let spis: Vec<[u8; 4]> = (0..2).map(|_| *received(&bed.peer).first_chunk().unwrap()).collect();
        assert_eq!(spis, [out_spi(0), out_spi(64)].map(|spi| spi.0.to_be_bytes()));
        assert_eq!(bed.count(Count::UdpSends) - sends, 2);
    });
}

#[test]
fn datagrams_for_the_control_plane_carry_both_ends_and_the_class() {
    in_namespace(|| {
        for listen in ["0.0.0.0:4500", "[::]:4500"] {
            let mut bed = Bed::start_at(listen, 1, "io_uring", 1, &[]);
            let mut binding = vec![0; 20];
            binding[1] = 1;
            binding[4..8].copy_from_slice(&STUN_COOKIE);
            set_int(&bed.peer, libc::IPPROTO_IP, libc::IP_TOS, 0xb8);
            bed.peer.send_to(&binding, "127.0.0.9:4500").unwrap();
            let (mut datagram, mut came) = (Vec::new(), None);
            eventually("it is handed up", || {
                came = came.or(bed.master.poll_punt(&mut datagram));
                came.is_some()
            });
            let to = LocalEnd { address: "127.0.0.9".parse().unwrap(), interface: 1 };
            let header = PuntHeader { from: "127.0.0.1:4501".parse().unwrap(), to, class: 0xb8 };
            assert_eq!((came, &datagram), (Some((0, header)), &binding));
            // The answer leaves from the address that was hit.
            let answer = InjectHeader { local: Some(to.address), ..InjectHeader::to(header.from) };
            bed.master.inject(0, &answer, b"answer").unwrap();
            bed.master.flush();
            let mut buffer = [0; 100];
            let (len, from) = bed.peer.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..len], from), (&b"answer"[..], "127.0.0.9:4500".parse().unwrap()));
        }
    });
}

#[test]
fn a_datagram_that_went_to_another_worker_still_tells_where_it_came_from() {
    in_namespace(|| {
        let mut bed = Bed::start_ip(2, "poll", 2);
        let mut lanes = [peer_seals(0), peer_seals(1)];
        let back = ip_packet(false, (11, 1), (1, 1), &[]);
        let mut train = sealed_ip(&mut lanes[0], &back);
        train.extend(sealed_ip(&mut lanes[1], &back));
        bed.send_train(&train, train.len() / 2);
        bed.tap.receive();
        bed.tap.receive();
        eventually("one went over", || bed.count(Count::TakenOver) == 1);
        let mut events = Vec::new();
        eventually("both tell", || {
            events.extend(seen(&mut bed));
            events.len() == 2
        });
        let expected = sighting(Some(PathId::FIRST), "127.0.0.1:4501", "127.0.0.1");
        events.sort_by_key(|(worker, _)| *worker);
        assert_eq!(events, [(0, expected), (1, expected)]);
    });
}

#[test]
fn what_goes_over_a_path_is_counted_for_it_over_all_workers() {
    in_namespace(|| {
        let mut bed = Bed::start_ip(2, "io_uring", 2);
        let elsewhere = socket("127.0.0.1:4599");
        let hop = UdpHop::to("127.0.0.1:4599".parse().unwrap());
        (0..2).for_each(|worker| bed.command(worker, &path_set(PEER, SECOND, hop)));
        let mut lanes = [peer_seals(0), peer_seals(1)];
        let back = ip_packet(false, (11, 1), (1, 1), &[7; 100]);
        let before = monotonic_ns();
        let mut bytes = 0;
        for lane in &mut lanes {
            let datagram = sealed_ip(lane, &back);
            bytes += datagram.len() as u64;
            bed.send(&datagram);
            bed.send(&datagram);
            elsewhere.send_to(&sealed_ip(lane, &back), "127.0.0.1:4500").unwrap();
            // What anybody could have sent, newer than all before.
            let mut forged = sealed_ip(lane, &back);
            *forged.last_mut().unwrap() ^= 1;
            bed.send(&forged);
            elsewhere.send_to(&forged, "127.0.0.1:4500").unwrap();
        }
        let judged = |bed: &Bed| (bed.count(Count::Opened), bed.dropped(Drop::Replay), bed.dropped(Drop::BadTag));
        eventually("all came", || judged(&bed) == (4, 2, 4));
        bed.tap.send(&ip_packet(false, (1, 1), (11, 1), &[]));
        let sent = received(&bed.peer).len() as u64;
        eventually("it is counted", || bed.count(Count::UdpSentDatagrams) == 1);
        let all = bed.master.path_counters();
        let [first, second] = [PathId::FIRST, SECOND].map(|path| all[&(PEER, path)]);
        assert_eq!((first.sent_packets, first.sent_bytes, second.sent_packets), (1, sent, 0));
        for path in [first, second] {
            assert_eq!(
                (path.received_packets, path.received_bytes),
                (2, bytes),
                "neither replays, nor what is forged, nor the other path"
            );
            assert!((before - 2_000_000_000..=monotonic_ns()).contains(&path.received_at_ns), "the time of the turn");
        }
        // A path that is changed goes on counting; one that is set anew begins again.
        (0..2).for_each(|worker| bed.command(worker, &path_set(PEER, SECOND, hop)));
        assert_eq!(bed.master.path_counters()[&(PEER, SECOND)], second);
        (0..2).for_each(|worker| bed.command(worker, &Command::PathRemove { peer: PEER, path: SECOND }));
        assert_eq!(bed.master.path_counters().len(), 1);
        (0..2).for_each(|worker| bed.command(worker, &path_set(PEER, SECOND, hop)));
        assert_eq!(bed.master.path_counters()[&(PEER, SECOND)], Default::default());
        (0..2).for_each(|worker| bed.command(worker, &Command::PeerRemove { peer: PEER }));
        assert!(bed.master.path_counters().is_empty());
    });
}
