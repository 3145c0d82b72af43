//! Frames that are too long for the path and may not be cut: two packets out, one frame in, whatever a peer makes of it.

mod support;

use adit_dataplane::sa;
use adit_proto::control::{Command, Hop, PathId, PeerId, PeerTag, UdpHop};
use adit_proto::esp::{Header, NEXT_HEADER_NONE};
use adit_proto::half::{Half, Which, cut};
use adit_proto::stats::{Count, Drop, Gauge};
use support::{
    Bed, PEER, TAG, dummy, eventually, frame, in_namespace, ip_packet, peer_opens, peer_seals, received, sealed, set_int,
};

/// Longest outer packet of the path.
const LINE: u16 = 1400;
const OUTER_HEADERS: usize = 28;

fn announce(bed: &mut Bed, split: bool) {
    bed.command(0, &Command::PeerSet { peer: PEER, tag: TAG, echo: false, split });
    let hop = Hop::Udp(UdpHop::to("127.0.0.1:4501".parse().unwrap()));
    bed.command(0, &Command::PathSet { peer: PEER, path: PathId::FIRST, hop, mtu: LINE, mtu_reported: LINE });
}

/// Both halves of a frame as a peer seals them.
fn halves(sa: &mut sa::OutboundSa, frame: &[u8]) -> [Vec<u8>; 2] {
    let first = cut(frame.len(), 9000).unwrap();
    let whole = frame.len() as u16;
    [(Which::First, &frame[..first]), (Which::Second, &frame[first..])].map(|(which, bytes)| half(sa, which, whole, bytes))
}

fn half(sa: &mut sa::OutboundSa, which: Which, whole: u16, bytes: &[u8]) -> Vec<u8> {
    dummy(sa, &[&Half { which, whole }.encode()[..], bytes].concat())
}

/// The next two datagrams: the sequence number of the first, the bytes of both, and their lengths.
fn two(bed: &Bed, sa: &mut sa::InboundSa) -> (u64, Vec<u8>, [usize; 2]) {
    let (mut bytes, mut first, mut lens) = (Vec::new(), 0, [0; 2]);
    for (n, which) in [Which::First, Which::Second].into_iter().enumerate() {
        let mut datagram = received(&bed.peer);
        lens[n] = datagram.len();
        let opened = sa.esp.open(&Header::parse(&datagram).unwrap(), &mut datagram).unwrap();
        assert_eq!(opened.next_header, NEXT_HEADER_NONE);
        let (half, body) = Half::decode(&datagram[opened.payload]).unwrap().expect("a half");
        assert_eq!(half.which, which);
        first = half.first_seq(opened.seq).unwrap();
        assert!(n == 0 || usize::from(half.whole) == bytes.len() + body.len());
        bytes.extend_from_slice(body);
    }
    (first, bytes, lens)
}

/// Frames from the TAP that cannot be cut: no IP, IPv4 with DF, IPv6.
fn long_frames() -> Vec<Vec<u8>> {
    let mut all = vec![frame(9, 1, 1514), frame(9, 2, 1357)];
    all.iter_mut().for_each(|frame| frame[..12].rotate_left(6));
    for (v6, kind, payload) in [(false, [8, 0], 1472), (true, [0x86, 0xdd], 1452)] {
        let mut frame = vec![0xff; 6];
        frame.extend([2, 0, 0, 0, 0, 1]);
        frame.extend(kind);
        frame.extend(ip_packet(v6, (1, 9), (11, 9), &vec![5; payload]));
        all.push(frame);
    }
    all
}

#[test]
fn what_cannot_be_cut_leaves_as_neighbouring_halves() {
    in_namespace(|| {
        let mut bed = Bed::start(1, "poll", 1);
        announce(&mut bed, true);
        let mut opens = peer_opens(0);
        for (n, long) in long_frames().into_iter().enumerate() {
            bed.tap.send(&long);
            let (seq, bytes, lens) = two(&bed, &mut opens);
            assert_eq!((seq, &bytes), (1 + 2 * n as u64, &long));
            assert!(lens.iter().all(|len| len + OUTER_HEADERS <= LINE.into()), "{lens:?}");
        }
        assert_eq!((bed.count(Count::Halved), bed.count(Count::Sealed)), (4, 8));
        assert_eq!(bed.drops(), []);
        // As soon as the peer does not join any more, nothing is sent so.
        announce(&mut bed, false);
        long_frames().iter().for_each(|long| bed.tap.send(long));
        eventually("they are dropped", || bed.dropped(Drop::TooBig) + bed.dropped(Drop::PathMtu) == 4);
        // Nobody is told: two are no IP, and two go to all on the link.
        assert_eq!(bed.drops(), [("path_mtu", 4)]);
        assert_eq!((bed.count(Count::Halved), bed.count(Count::Sealed)), (4, 8));
    });
}

#[test]
fn halves_in_any_order_become_the_frame() {
    in_namespace(|| {
        let mut bed = Bed::start(1, "poll", 1);
        announce(&mut bed, true);
        let mut seals = peer_seals(0);
        for (number, len) in [(1, 1514), (2, 19), (3, 1000)] {
            let whole = frame(7, number, len);
            let mut both = halves(&mut seals, &whole);
            if number == 2 {
                both.reverse();
            }
            both.iter().for_each(|half| bed.send(half));
            assert_eq!(bed.tap.receive(), whole);
            // A replay of one joins nothing.
            both.iter().for_each(|half| bed.send(half));
        }
        // Interleaved, and with a whole frame in between.
        let frames = [frame(7, 4, 1400), frame(7, 5, 1500)];
        let [a, b] = frames.each_ref().map(|whole| halves(&mut seals, whole));
        bed.send(&a[0]);
        bed.send(&b[1]);
        bed.send(&sealed(&mut seals, &frame(7, 6, 100)));
        assert_eq!(bed.tap.receive(), frame(7, 6, 100));
        bed.send(&b[0]);
        bed.send(&a[1]);
        assert_eq!([bed.tap.receive(), bed.tap.receive()], [frames[1].clone(), frames[0].clone()]);
        assert_eq!((bed.count(Count::Joined), bed.drops()), (5, vec![("replay", 6)]));
        assert_eq!(bed.count(Count::DummyPackets), 0);
    });
}

#[test]
fn a_hostile_peer_gets_nothing_through_that_is_no_frame() {
    in_namespace(|| {
        let mut bed = Bed::start(1, "poll", 1);
        announce(&mut bed, true);
        let seals = &mut peer_seals(0);
        let bad = [
            dummy(seals, b"ADH\x01"),
            dummy(seals, b"ADH\x01\x03\0\0\x20bytes"),
            half(seals, Which::First, 3, &[1; 3]),
            half(seals, Which::First, u16::MAX, &[1; 60]),
            // Twice the first half: the second comes under the next number, and waits.
            half(seals, Which::First, 100, &[1; 50]),
            half(seals, Which::First, 100, &[1; 50]),
            // This ends the one before, and contradicts it.
            half(seals, Which::Second, 100, &[1; 49]),
            // Whole, and no Ethernet frame.
            half(seals, Which::First, 13, &[1; 6]),
            half(seals, Which::Second, 13, &[1; 7]),
        ];
        bad.iter().for_each(|packet| bed.send(packet));
        eventually("all are judged", || bed.dropped(Drop::BadFrame) == 1);
        assert_eq!(bed.dropped(Drop::HalfBad), 4 + 2);
        for _ in 0..10 {
            bed.send(&half(seals, Which::First, 1514, &[1; 1513]));
        }
        eventually("the oldest make room", || bed.dropped(Drop::HalfLost) == 7);
        // Nothing of it is in the way of a frame.
        let whole = frame(7, 1, 1514);
        halves(seals, &whole).iter().for_each(|half| bed.send(half));
        assert_eq!(bed.tap.receive(), whole);
        std::thread::sleep(std::time::Duration::from_millis(600));
        bed.send(&half(seals, Which::First, 100, &[1; 50]));
        eventually("those that waited too long go", || bed.dropped(Drop::HalfExpired) > 0);
        assert_eq!(bed.count(Count::Joined), 1);
        // To one that does not join them, halves are dummies.
        announce(&mut bed, false);
        let dummies = bed.count(Count::DummyPackets);
        halves(seals, &whole).iter().for_each(|half| bed.send(half));
        eventually("they are discarded", || bed.count(Count::DummyPackets) == dummies + 2);
        assert_eq!(bed.count(Count::Joined), 1);
    });
}

#[test]
fn the_memory_for_halves_is_told_and_goes_with_the_peers() {
    in_namespace(|| {
        let mut bed = Bed::start(1, "poll", 1);
        let reported = |bed: &Bed| bed.master.counters(0).gauge(Gauge::HalvesBytes);
        let set = |bed: &mut Bed, peer, tag, split| bed.command(0, &Command::PeerSet { peer, tag, echo: false, split });
        assert_eq!(reported(&bed), 0);
        set(&mut bed, PEER, TAG, true);
        eventually("it is told", || reported(&bed) > 0);
        let one = reported(&bed);
        assert!((4 * 1500..4 * 1500 + 1000).contains(&one), "four frames, and little else: {one}");
        set(&mut bed, PeerId(1), PeerTag(9), true);
        eventually("two peers", || reported(&bed) == 2 * one);
        // Again, and under another name: the place is the same.
        set(&mut bed, PeerId(1), PeerTag(9), true);
        set(&mut bed, PeerId(1), PeerTag(8), true);
        set(&mut bed, PEER, TAG, false);
        eventually("one peer", || reported(&bed) == one);
        bed.command(0, &Command::PeerRemove { peer: PeerId(1) });
        eventually("none", || reported(&bed) == 0);
    });
}

#[test]
fn what_is_joined_is_checked_like_every_packet() {
    in_namespace(|| {
        let mut bed = Bed::start_ip(1, "poll", 1);
        announce(&mut bed, true);
        let seals = &mut peer_seals(0);
        // A source that the peer does not have.
        halves(seals, &ip_packet(false, (30, 1), (1, 9), &[3; 1400])).iter().for_each(|half| bed.send(half));
        eventually("it is refused", || bed.dropped(Drop::PolicyMismatch) == 1);
        // More than the packet says that it is.
        let packet = ip_packet(true, (11, 1), (1, 9), &[3; 1400]);
        halves(seals, &[&packet[..], &[0]].concat()).iter().for_each(|half| bed.send(half));
        eventually("it is refused, too", || bed.dropped(Drop::BadPacket) == 1);
        halves(seals, &packet).iter().for_each(|half| bed.send(half));
        assert_eq!(bed.tap.receive(), packet);
        let packet = ip_packet(true, (1, 9), (11, 1), &[3; 1400]);
        bed.tap.send(&packet);
        assert_eq!(two(&bed, &mut peer_opens(0)).1, packet);
        assert_eq!(bed.drops(), [("bad_packet", 1), ("policy_mismatch", 1)]);
    });
}

/// ECN-capable, and congestion experienced (RFC 3168 §5).
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

/// A packet that takes two halves, in this traffic class.
fn classed(v6: bool, class: u8) -> Vec<u8> {
    let mut packet = ip_packet(v6, (11, 53), (1, 1000), &[7; 1400]);
    if v6 {
        packet[..2].copy_from_slice(&[0x60 | class >> 4, class << 4]);
    } else {
        packet[1] = class;
    }
    packet
}

/// Sends halves, each in a class of its own.
fn send_classed(bed: &Bed, halves: impl IntoIterator<Item = (Vec<u8>, u8)>) {
    for (half, class) in halves {
        set_int(&bed.peer, libc::IPPROTO_IP, libc::IP_TOS, class.into());
        bed.send(&half);
    }
}

#[test]
fn a_mark_on_either_half_is_one_on_the_whole() {
    in_namespace(|| {
        let mut bed = Bed::start_ip(1, "poll", 1);
        announce(&mut bed, true);
        let seals = &mut peer_seals(0);
        // Of the first half, of the second; and the same where the second comes first.
        for classes in [[ECT_0, ECT_0], [CE, ECT_0], [ECT_0, CE], [CE, CE]] {
            for (v6, reversed) in [(false, false), (false, true), (true, false), (true, true)] {
                let sent = classed(v6, 0xb8 | ECT_0);
                let mut both: Vec<_> = halves(seals, &sent).into_iter().zip(classes).collect();
                if reversed {
                    both.reverse();
                }
                send_classed(&bed, both);
                let whole = bed.tap.receive();
                let class = if v6 { whole[0] << 4 | whole[1] >> 4 } else { whole[1] };
                let expected = 0xb8 | if classes.contains(&CE) { CE } else { ECT_0 };
                assert_eq!(class, expected, "halves in {classes:?}, IPv6 {v6}, the second first {reversed}");
                assert_eq!((whole.len(), &whole[20..]), (sent.len(), &sent[20..]), "the rest is as it was sent");
            }
        }
        assert_eq!((bed.count(Count::Joined), bed.count(Count::CeMarks), bed.drops()), (16, 12, vec![]));
        // Who cannot read a mark has lost the packet (RFC 6040 §4.2), whichever half has it.
        for classes in [[CE, 0], [0, CE]] {
            send_classed(&bed, halves(seals, &classed(false, 0)).into_iter().zip(classes));
        }
        eventually("both are dropped", || bed.dropped(Drop::CeNotEct) == 2);
        send_classed(&bed, halves(seals, &classed(false, 0)).into_iter().zip([0, 0]));
        assert_eq!(bed.tap.receive(), classed(false, 0));
        assert_eq!((bed.count(Count::CeMarks), bed.drops()), (12, vec![("ce_not_ect", 2)]));
    });
}
