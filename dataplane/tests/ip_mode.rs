//! The data plane in IP mode, from the TUN to the socket and back.

mod offload;
mod support;

use adit_proto::control::{ChildId, Command, Direction, InboundSa, Mode, OutboundSa, PeerId, PeerTag, Refusal, Selector};
use adit_proto::esp::Header;
use adit_proto::ike::PortRange;
use adit_proto::stats::{Count, Drop, Gauge};
use offload::{ACK, Flow, Segment, pattern};
use support::{
    Bed, PEER, eventually, frame, hosts, in_namespace, in_spi, inbound_sa, ip_packet, opened_ip, out_spi, outbound_sa,
    peer_opens, peer_seals, received, sealed, sealed_ip,
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
            bed.own(worker, other, narrow);
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
                bed.own(worker, PEER, everyone);
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
            bed.own(0, PEER, Selector::any_of(any, any));
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

/// A second Child SA of the peer, for hosts 15 to 19 there; the first keeps hosts 11 to 14. Its SPIs are those of lane 64.
fn second_child(bed: &mut Bed) -> ChildId {
    let (peer, second) = (PEER, ChildId(7));
    let part = |first, last| Selector::any_of(hosts(false, 1, 9), hosts(false, first, last));
    bed.command(0, &Command::ChildSelectorAdd { peer, child: ChildId::ONLY, selector: part(11, 14) });
    bed.command(0, &Command::ChildSelectorRemove { peer, child: ChildId::ONLY, selector: part(11, 19) });
    bed.command(0, &Command::ChildSet { peer, child: second, lanes: 1 });
    bed.command(0, &Command::ChildSelectorAdd { peer, child: second, selector: part(15, 19) });
    second
}

#[test]
fn a_packet_goes_by_the_child_sa_that_carries_it_and_comes_by_no_other() {
    in_namespace(|| {
        let mut bed = Bed::start_ip(1, "poll", 1);
        let second = second_child(&mut bed);
        let send = |bed: &mut Bed, host| bed.tap.send(&ip_packet(false, (1, 9), (host, 53), &[]));
        let spi = |bed: &Bed| Header::parse(&received(&bed.peer)).unwrap().spi;
        send(&mut bed, 14);
        assert_eq!(spi(&bed), out_spi(0));
        send(&mut bed, 15);
        eventually("there is no SA for it yet", || bed.dropped(Drop::NoChildSa) == 1);
        let outbound = OutboundSa { child: second, spi: out_spi(64), ..outbound_sa(0) };
        bed.command(0, &Command::OutboundSaInstall(outbound.clone()));
        send(&mut bed, 15);
        assert_eq!(spi(&bed), out_spi(64));
        send(&mut bed, 14);
        assert_eq!(spi(&bed), out_spi(0));

        let inbound = InboundSa { child: second, spi: in_spi(64), ..inbound_sa(0) };
        bed.command(0, &Command::InboundSaInstall(inbound));
        let mut seals = [peer_seals(0), peer_seals(64)];
        let from = |host| ip_packet(false, (host, 1), (1, 1), &[host]);
        for (child, host) in [(0, 14), (1, 15)] {
            bed.send(&sealed_ip(&mut seals[child], &from(host)));
            assert_eq!(bed.tap.receive(), from(host));
        }
        for (child, host) in [(0, 15), (1, 14)] {
            bed.send(&sealed_ip(&mut seals[child], &from(host)));
        }
        eventually("they came by the wrong one", || bed.dropped(Drop::PolicyMismatch) == 2);

        // One that takes over has all of it from the moment that it can send.
        let third = ChildId(8);
        bed.command(0, &Command::ChildSet { peer: PEER, child: third, lanes: 1 });
        let all = Selector::any_of(hosts(false, 1, 9), hosts(false, 11, 19));
        bed.command(0, &Command::ChildSelectorAdd { peer: PEER, child: third, selector: all });
        send(&mut bed, 15);
        assert_eq!(spi(&bed), out_spi(64));
        bed.command(0, &Command::OutboundSaInstall(OutboundSa { child: third, spi: out_spi(128), ..outbound_sa(0) }));
        for host in [14, 15] {
            send(&mut bed, host);
            assert_eq!(spi(&bed), out_spi(128));
        }
        // The SPI of an SA that is gone may come again, that of one that is there not.
        assert_eq!(bed.refused(0, &Command::OutboundSaInstall(OutboundSa { child: third, ..outbound })), Refusal::SpiInUse);
        bed.command(0, &Command::ChildRemove { peer: PEER, child: third });
        send(&mut bed, 15);
        assert_eq!(spi(&bed), out_spi(64));
        assert_eq!(bed.master.live_sas().iter().filter(|(_, sa)| sa.direction == Direction::Outbound).count(), 2);
        assert_eq!(bed.drops(), [("no_child_sa", 1), ("policy_mismatch", 2)]);
    });
}

#[test]
fn a_peer_sends_from_no_address_that_another_one_owns() {
    in_namespace(|| {
        let mut bed = Bed::start_ip(1, "poll", 1);
        let (other, tag) = (PeerId(1), PeerTag(9));
        bed.set_peer(0, other, tag, 0);
        // The other one owns host 12, connected or not; the first has negotiated it, whatever for.
        let theirs = Selector::any_of(hosts(false, 1, 9), hosts(false, 12, 12));
        bed.command(0, &Command::SelectorAdd { peer: other, selector: theirs });
        bed.command(0, &Command::ChildSelectorAdd { peer: PEER, child: ChildId::ONLY, selector: theirs });
        let mut seals = peer_seals(0);
        bed.send(&sealed_ip(&mut seals, &ip_packet(false, (12, 1), (1, 1), &[])));
        eventually("it is another's", || bed.dropped(Drop::PolicyMismatch) == 1);
        bed.tap.send(&ip_packet(false, (1, 9), (12, 53), &[]));
        eventually("the other is not connected", || bed.dropped(Drop::NoChildSa) == 1);
        let good = ip_packet(false, (13, 1), (1, 1), &[]);
        bed.send(&sealed_ip(&mut seals, &good));
        assert_eq!(bed.tap.receive(), good);
    });
}

/// ICMP "destination unreachable" from a host about a packet, to its sender.
fn unreachable(from: u8, about: &[u8]) -> Vec<u8> {
    let mut packet = ip_packet(false, (from, 0), (about[15], 0), &about[..28]);
    packet[9] = 1;
    packet[20..28].copy_from_slice(&[3, 1, 0, 0, 0, 0, 0, 0]);
    packet
}

#[test]
fn an_icmp_error_passes_where_the_answer_to_what_it_encloses_would() {
    in_namespace(|| {
        let mut bed = Bed::start_ip(1, "poll", 1);
        let (mut seals, mut opens) = (peer_seals(0), peer_opens(0));
        let (sent, came) = (ip_packet(false, (1, 9), (11, 53), &[7; 30]), ip_packet(false, (11, 53), (1, 9), &[7; 30]));
        // Router 40 is in no selector: here about what the peer sent, there about what went to it.
        let outbound = unreachable(40, &came);
        bed.tap.send(&outbound);
        assert_eq!(opened_ip(&mut opens, received(&bed.peer)), outbound);
        let inbound = unreachable(40, &sent);
        bed.send(&sealed_ip(&mut seals, &inbound));
        assert_eq!(bed.tap.receive(), inbound);
        // About a packet that never belonged to the peer.
        bed.send(&sealed_ip(&mut seals, &unreachable(40, &ip_packet(false, (1, 9), (30, 53), &[7; 30]))));
        eventually("it is about another's packet", || bed.dropped(Drop::PolicyMismatch) == 1);
        bed.tap.send(&unreachable(40, &ip_packet(false, (30, 53), (1, 9), &[7; 30])));
        eventually("it is about another's packet", || bed.dropped(Drop::NoPolicy) == 1);
        // From an address of another peer.
        bed.set_peer(0, PeerId(1), PeerTag(9), 0);
        let theirs = Selector::any_of(hosts(false, 1, 9), hosts(false, 41, 41));
        bed.command(0, &Command::SelectorAdd { peer: PeerId(1), selector: theirs });
        bed.send(&sealed_ip(&mut seals, &unreachable(41, &sent)));
        eventually("it is another's address", || bed.dropped(Drop::PolicyMismatch) == 2);
        assert_eq!(bed.drops(), [("no_policy", 1), ("policy_mismatch", 2)]);
    });
}
