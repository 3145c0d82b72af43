//! A worker that does not know yet what passes: TCP and IPv4 that may be fragmented go in pieces that are sure to arrive, the rest
//! goes whole, and no sender is told anything, for it would believe that for minutes.

mod offload;
mod support;

use std::net::UdpSocket;
use std::time::Duration;

use adit_dataplane::sa;
use adit_proto::control::{Command, Hop, Mode, PathId, Selector, UdpHop};
use adit_proto::esp;
use adit_proto::ike::AddressRange;
use adit_proto::stats::Count;
use offload::{ACK, Flow, PSH, Segment, pattern};
use support::{Bed, PEER, in_namespace, ip_packet, opened_ip, peer_opens, peer_seals, received, sealed_ip};

/// Bytes of an IP packet that fits the path, if the path takes what the route to it does.
const LONG: usize = 1400;
/// What that is: as an outer packet.
const ROUTE: u16 = 1500;
/// Segments of a super-frame.
const SEGMENTS: usize = 10;

/// A data plane in IP mode, and its only peer on a path of which no more is known than what all paths take.
struct Unproven {
    bed: Bed,
    there: UdpSocket,
    opens: sa::InboundSa,
    /// The longest outer packet that is sure to arrive.
    sure: u16,
    /// Bytes of the headers of IP and UDP around a datagram.
    headers: usize,
    /// The longest inner packet in such an outer packet.
    fits: usize,
}

impl Unproven {
    fn start(v6: bool) -> Unproven {
        let (listen, address, sure, headers) =
            if v6 { ("[::]:4500", "[::1]:4502", 1280, 48) } else { ("127.0.0.1:4500", "127.0.0.1:4502", 1100, 28) };
        let mut bed = Bed::start_at(listen, 1, "poll", 1, &["--mode", "ip", "--selectors", "64"]);
        for any in [AddressRange::ANY_V4, AddressRange::ANY_V6] {
            bed.own(0, PEER, Selector::any_of(any, any));
        }
        let there = UdpSocket::bind(address).unwrap();
        there.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let (path, hop) = (PathId::FIRST, Hop::Udp(UdpHop::to(address.parse().unwrap())));
        bed.command(0, &Command::PathSet { peer: PEER, path, hop, mtu: sure, mtu_reported: ROUTE });
        bed.command(0, &Command::PathUse { peer: PEER, path });
        let fits = esp::frame_len_max(Mode::Ip, sure, v6);
        Unproven { bed, there, opens: peer_opens(0), sure, headers, fits }
    }

    /// The packets in so many datagrams, and the length of the longest outer packet of them.
    fn packets(&mut self, count: usize) -> (Vec<Vec<u8>>, usize) {
        let datagrams: Vec<Vec<u8>> = (0..count).map(|_| received(&self.there)).collect();
        let longest = datagrams.iter().map(|datagram| datagram.len() + self.headers).max().unwrap();
        (datagrams.into_iter().map(|datagram| opened_ip(&mut self.opens, datagram)).collect(), longest)
    }

    /// What was sent as this segment arrives as its sender would have cut it, had it known what is sure to arrive.
    fn arrives_cut(&mut self, flow: &Flow, sent: &Segment) {
        let segments = flow.segments(sent, self.fits - flow.payload());
        let expected: Vec<Vec<u8>> = segments.iter().map(|segment| flow.wire(segment)).collect();
        assert_eq!(self.packets(expected.len()), (expected, usize::from(self.sure)), "IPv6 inside: {}", flow.v6);
    }

    fn tcp(&mut self, v6: bool) {
        let flow = Flow::simple(v6, true).in_mode(Mode::Ip);
        let size = LONG - flow.payload();
        let segment = |payload| Segment { identification: 9, sequence: 77, flags: ACK | PSH, payload };
        let single = segment(pattern(size, 3));
        self.bed.tap.send(&flow.wire(&single));
        self.arrives_cut(&flow, &single);
        let several = segment(pattern(SEGMENTS * size, 5));
        self.bed.tap.send_super_frame(&flow.vnet(size as u16), &flow.open(&several));
        self.arrives_cut(&flow, &several);
    }

    fn ipv4_without_df(&mut self) {
        let flow = Flow { dont_fragment: false, ..Flow::simple(false, false).in_mode(Mode::Ip) };
        let payload = pattern(LONG - flow.payload(), 7);
        let packet = flow.wire(&Segment { identification: 9, sequence: 0, flags: 0, payload });
        self.bed.tap.send(&packet);
        let (fragments, longest) = self.packets(2);
        assert!(longest <= usize::from(self.sure), "{longest}");
        let [first, last] = &fragments[..] else { panic!("two fragments") };
        assert_eq!([&first[20..], &last[20..]].concat(), packet[20..]);
        // More fragments; and an offset in units of eight bytes.
        let place = |fragment: &[u8]| usize::from(u16::from_be_bytes([fragment[6], fragment[7]]));
        assert_eq!((place(first), place(last)), (0x2000, (first.len() - 20) / 8));
    }

    fn udp_that_cannot_be_cut(&mut self, v6: bool) {
        let headers = if v6 { 48 } else { 28 };
        let packet = ip_packet(v6, (1, 1), (11, 1), &[5; LONG][headers..]);
        self.bed.tap.send(&packet);
        let (packets, longest) = self.packets(1);
        assert_eq!(packets, [packet], "IPv6 inside: {v6}");
        assert!(longest <= usize::from(ROUTE), "{longest}");
    }
}

#[test]
fn before_it_is_known_what_passes_tcp_is_cut_and_nobody_is_told() {
    for outer_v6 in [false, true] {
        in_namespace(move || {
            let mut path = Unproven::start(outer_v6);
            for inner_v6 in [false, true] {
                path.tcp(inner_v6);
                path.udp_that_cannot_be_cut(inner_v6);
            }
            path.ipv4_without_df();
            // The first that is written to the TAP is what the peer sends now.
            let next = ip_packet(false, (11, 1), (1, 1), &[3; 100]);
            path.bed.send(&sealed_ip(&mut peer_seals(0), &next));
            assert_eq!(path.bed.tap.receive(), next, "nobody was told anything");
            let bed = &path.bed;
            assert_eq!(bed.count(Count::TapReads), 7, "super-frames come whole");
            assert_eq!(bed.count(Count::RecutSegments), 2 * (1 + SEGMENTS as u64));
            assert_eq!((bed.count(Count::Fragmented), bed.count(Count::TooBigAnswers)), (1, 0));
            assert_eq!(bed.drops(), [], "IPv6 outside: {outer_v6}");
        });
    }
}
