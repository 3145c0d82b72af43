//! The data plane in IP mode, from the TUN to the socket and back.

mod offload;
mod support;

use adit_proto::control::{Command, Mode, OutboundSa, PeerId, PeerTag, Refusal, Selector};
use adit_proto::ike::PortRange;
use adit_proto::stats::{Count, Drop, Gauge};
use offload::{ACK, Flow, Segment, pattern};
use support::{
    Bed, PEER, eventually, frame, hosts, in_namespace, ip_packet, opened_ip, out_spi, outbound_sa, peer_opens, peer_seals,
    received, sealed, sealed_ip,
};

#[test]
fn packets_of_both_ip_versions_pass_both_ways_whole_and_bare() {
    in_namespace(|| {
        for io in ["io_uring", "poll"] {
            let mut bed = Bed::start_ip(1, io, 1);
            let (mut seals, mut opens) = (peer_seals(0), peer_opens(0));
            assert_eq!(bed.master.info().mode, Mode::Ip);
            for (v6, len) in [false, true].into_iter().flat_map(|v6| (0..40).chain([1000, 1300]).map(move |len| (v6, len))) {
                let payload = vec![len as u8; len];
                let there = ip_packet(v6, (1, 1000), (11, 53), &payload);
                bed.tap.send(&there);
                assert_eq!(opened_ip(&mut opens, received(&bed.peer)), there, "IPv6 {v6}, {len} bytes on {io}");
                let back = ip_packet(v6, (11, 53), (1, 1000), &payload);
                bed.send(&sealed_ip(&mut seals, &back));
                assert_eq!(bed.tap.receive(), back);
            }
            assert_eq!(bed.drops(), [], "{io}");
        }
    });
}

#[test]
fn what_no_selector_names_is_dropped_under_its_name_at_either_end() {
    in_namespace(|| {
        let mut bed = Bed::start_ip(1, "io_uring", 1);
        let mut seals = peer_seals(0);
        // To nobody's host, from no host of ours, and what is no IP packet.
        bed.tap.send(&ip_packet(false, (1, 1), (20, 1), &[]));
        bed.tap.send(&ip_packet(true, (10, 1), (11, 1), &[]));
        eventually("both are dropped", || bed.dropped(Drop::NoPolicy) == 2);
        // From no host of the peer, to no host of ours; an IPv4 packet that says it is IPv6; a frame.
        bed.send(&sealed_ip(&mut seals, &ip_packet(false, (20, 1), (1, 1), &[])));
        bed.send(&sealed_ip(&mut seals, &ip_packet(true, (11, 1), (10, 1), &[])));
        eventually("both are dropped", || bed.dropped(Drop::PolicyMismatch) == 2);
        bed.send(&sealed(&mut seals, &frame(1, 1, 60)));
        let mut short = ip_packet(false, (11, 1), (1, 1), &[7; 20]);
        short.truncate(30);
        bed.send(&sealed_ip(&mut seals, &short));
        eventually("both are dropped", || bed.drops().len() == 4);
        assert_eq!(bed.drops(), [("bad_next_header", 1), ("bad_packet", 1), ("no_policy", 2), ("policy_mismatch", 2)]);
        // Only what is in the selectors was seen by the host.
        let good = ip_packet(false, (19, 1), (9, 1), &[1]);
        bed.send(&sealed_ip(&mut seals, &good));
        assert_eq!(bed.tap.receive(), good);
    });
}

#[test]
fn the_most_specific_selector_names_the_peer_and_goes_with_it() {
    in_namespace(|| {
        let mut bed = Bed::start_ip(2, "poll", 1);
        let (other, tag) = (PeerId(1), PeerTag(9));
        let ports = PortRange { first: 53, last: 53 };
        let narrow = Selector { protocol: 17, remote_ports: ports, ..Selector::any_of(hosts(false, 1, 9), hosts(false, 12, 12)) };
        for worker in 0..2 {
            assert_eq!(bed.refused(worker, &Command::SelectorAdd { peer: other, selector: narrow }), Refusal::NoSuchPeer);
            bed.set_peer(worker, other, tag, 1);
            bed.command(worker, &Command::SelectorAdd { peer: other, selector: narrow });
        }
        bed.command(0, &Command::OutboundSaInstall(OutboundSa { peer: other, spi: out_spi(64), ..outbound_sa(0) }));
        let spi_of = |bed: &mut Bed, port| {
            bed.tap.send(&ip_packet(false, (1, 9), (12, port), &[]));
            let datagram = received(&bed.peer);
            u32::from_be_bytes([datagram[0], datagram[1], datagram[2], datagram[3]])
        };
        assert_eq!(spi_of(&mut bed, 53), out_spi(64).0);
        assert_eq!(spi_of(&mut bed, 54), out_spi(0).0);
        for worker in 0..2 {
            bed.command(worker, &Command::PeerRemove { peer: other });
            assert_eq!(bed.master.counters(worker as u16).gauge(Gauge::Selectors), 2);
        }
        assert_eq!(spi_of(&mut bed, 53), out_spi(0).0);
        let wide = Selector::any_of(hosts(false, 1, 9), hosts(false, 11, 19));
        for worker in 0..2 {
            bed.command(worker, &Command::SelectorRemove { peer: PEER, selector: wide });
            assert_eq!(bed.refused(worker, &Command::SelectorRemove { peer: PEER, selector: wide }), Refusal::NoSuchSelector);
        }
        bed.tap.send(&ip_packet(false, (1, 9), (12, 54), &[]));
        eventually("it has no peer any more", || bed.dropped(Drop::NoPolicy) == 1);
        // What belongs to the other mode.
        assert_eq!(bed.refused(0, &Command::FdbPin { mac: [2; 6], peer: PEER }), Refusal::WrongMode);
        let deferring = OutboundSa { defer_checksums: true, seq_next: 1000, ..outbound_sa(0) };
        assert_eq!(bed.refused(0, &Command::OutboundSaInstall(deferring)), Refusal::WrongMode);
        drop(bed);
        let mut ethernet = Bed::start(1, "poll", 1);
        assert_eq!(ethernet.refused(0, &Command::SelectorAdd { peer: PEER, selector: wide }), Refusal::WrongMode);
        assert_eq!(ethernet.refused(0, &Command::SelectorRemove { peer: PEER, selector: wide }), Refusal::WrongMode);
    });
}

#[test]
fn a_flow_has_one_lane_both_ways_and_flows_spread_over_the_lanes() {
    in_namespace(|| {
        let mut bed = Bed::start_ip(2, "io_uring", 2);
        for worker in 0..2 {
            for v6 in [false, true] {
                let everyone = Selector::any_of(hosts(v6, 1, 19), hosts(v6, 1, 19));
                bed.command(worker, &Command::SelectorAdd { peer: PEER, selector: everyone });
            }
        }
        for v6 in [false, true] {
            let mut of_lane = [0; 2];
            for port in 0..64 {
                let (here, there) = ((1, 40_000 + port), (11, 5201));
                let lanes = [ip_packet(v6, here, there, &[]), ip_packet(v6, there, here, &[])].map(|packet| {
                    bed.tap.send(&packet);
                    received(&bed.peer)[3]
                });
                assert_eq!(lanes[0], lanes[1], "port {port}, IPv6: {v6}");
                of_lane[usize::from(lanes[0])] += 1;
            }
            assert!(of_lane.iter().all(|flows| (16..=48).contains(flows)), "64 flows lie {of_lane:?}, IPv6: {v6}");
        }
    });
}

#[test]
fn a_train_of_one_flow_becomes_a_super_frame_and_is_what_it_was() {
    in_namespace(|| {
        let mut bed = Bed::start_ip(1, "io_uring", 1);
        for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
            let flow = Flow::simple(v6, tcp).in_mode(Mode::Ip);
            // The oracle's hosts are others than ours.
            let any = if v6 { adit_proto::ike::AddressRange::ANY_V6 } else { adit_proto::ike::AddressRange::ANY_V4 };
            bed.command(0, &Command::SelectorAdd { peer: PEER, selector: Selector::any_of(any, any) });
            let whole = Segment { identification: 9, sequence: 77, flags: ACK, payload: pattern(20 * 1000, 3) };
            let mut seals = peer_seals(0);
            seals.esp.seq_next = 1 + bed.count(Count::Opened);
            let segments = flow.segments(&whole, 1000);
            let train: Vec<u8> = segments.iter().flat_map(|segment| sealed_ip(&mut seals, &flow.wire(segment))).collect();
            bed.send_train(&train, train.len() / 20);
            let super_frame = bed.tap.receive();
            assert_eq!(super_frame.len(), flow.payload() + 20_000, "IPv6 {v6}, TCP {tcp}");
            assert_eq!(super_frame[flow.payload()..], whole.payload[..]);
        }
        assert_eq!(bed.drops(), []);
    });
}
