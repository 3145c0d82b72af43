//! The traffic class from the TAP to the outer header, and marks of the underlay from there to the TAP.

mod support;

use std::time::Instant;

use adit_dataplane::udp::UdpSocket;
use adit_devices::sockets::{self, Wanted};
use adit_proto::control::{Command, PathId, UdpHop};
use adit_proto::stats::{Count, Drop};
use support::{Bed, PEER, broadcast, eventually, in_namespace, ip_packet, path_set, peer_seals, sealed, sealed_ip, set_int};

const CE: u8 = 0b11;
const ECT_0: u8 = 0b10;

/// A socket of the peer that is told of the class of what it receives; the data plane sends there from now on.
fn listening(bed: &mut Bed) -> UdpSocket {
    let wanted = Wanted { listen: "127.0.0.1:4502".parse().unwrap(), workers: 1, buffer: 1 << 20, mark: 0 };
    let socket = UdpSocket::adopt(sockets::bind_group(&wanted, Instant::now()).unwrap().remove(0)).unwrap();
    bed.command(0, &path_set(PEER, PathId::FIRST, UdpHop::to("127.0.0.1:4502".parse().unwrap())));
    bed.command(0, &Command::PathUse { peer: PEER, path: PathId::FIRST });
    socket
}

/// The datagrams that are on the way to the socket, each with its class.
fn classes(socket: &mut UdpSocket, count: usize) -> Vec<u8> {
    let (mut window, mut all) = (vec![0; 65_536], Vec::new());
    eventually("all datagrams have arrived", || {
        while let Ok(received) = socket.receive(&mut window) {
            all.extend(std::iter::repeat_n(received.arrival.class, received.datagrams() as usize));
        }
        all.len() >= count
    });
    all
}

/// A frame with IPv4 of this class, its header checksum right.
fn classed(class: u8) -> Vec<u8> {
    let mut frame = broadcast(1);
    frame[15] = class;
    let words = frame[14..34].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn each_frame_leaves_in_the_class_that_it_has_and_trains_do_not_mix() {
    in_namespace(|| {
        // As the settings say, ECN always as inside.
        for (dscp, expected) in [("copy", [0xb8, 0xba, 0, CE]), ("clear", [0, 2, 0, CE]), ("10", [0x28, 0x2a, 0x28, 0x2b])] {
            let mut bed = Bed::start_with(1, "poll", 1, &["--dscp", dscp, "--flood-pps", "1000000"]);
            let mut socket = listening(&mut bed);
            let sent = [0xb8, 0xba, 0, CE];
            for class in sent.into_iter().cycle().take(40) {
                bed.tap.send(&classed(class));
            }
            let arrived = classes(&mut socket, 40);
            let expected: Vec<u8> = expected.into_iter().cycle().take(40).collect();
            assert_eq!(arrived, expected, "dscp {dscp}: in the order in which they were sent");
            assert_eq!(bed.drops(), []);
        }
    });
}

#[test]
fn a_frame_within_a_vlan_has_its_class_too_and_what_is_no_ip_has_none() {
    in_namespace(|| {
        let mut bed = Bed::start(1, "poll", 1);
        let mut socket = listening(&mut bed);
        let frame = classed(0xb8);
        bed.tap.send(&[&frame[..12], &[0x81, 0, 0, 7], &frame[12..]].concat());
        let mut arp = frame.clone();
        arp[12..14].copy_from_slice(&[8, 6]);
        bed.tap.send(&arp);
        assert_eq!(classes(&mut socket, 2), [0xb8, 0]);
    });
}

#[test]
fn marks_arrive_inside_and_who_cannot_read_them_loses_the_packet() {
    in_namespace(|| {
        let mut bed = Bed::start(1, "io_uring", 1);
        let (mut seals, tos) = (peer_seals(0), libc::IP_TOS);
        set_int(&bed.peer, libc::IPPROTO_IP, tos, CE.into());
        for (class, expected) in [(ECT_0, CE), (0xb8 | 1, 0xb8 | CE), (CE, CE)] {
            bed.send(&sealed(&mut seals, &classed(class)));
            assert_eq!(bed.tap.receive(), classed(expected), "{class:x}: the header checksum follows");
        }
        bed.send(&sealed(&mut seals, &classed(0xb8)));
        eventually("it is dropped", || bed.dropped(Drop::CeNotEct) == 1);
        // What was not marked passes, whatever else the outer header says.
        set_int(&bed.peer, libc::IPPROTO_IP, tos, 0x28 | i32::from(ECT_0));
        bed.send(&sealed(&mut seals, &classed(0xb8)));
        assert_eq!(bed.tap.receive(), classed(0xb8));
        assert_eq!((bed.count(Count::CeMarks), bed.drops()), (2, vec![("ce_not_ect", 1)]));
    });
}

#[test]
fn marks_are_on_every_packet_of_a_train_in_ip_mode_and_ipv6_too() {
    in_namespace(|| {
        let mut bed = Bed::start_ip(1, "poll", 1);
        let mut seals = peer_seals(0);
        let packet = |v6: bool, class: u8| {
            let mut packet = ip_packet(v6, (11, 53), (1, 1000), &[7; 100]);
            if v6 {
                packet[..2].copy_from_slice(&[0x60 | class >> 4, class << 4])
            } else {
                packet[1] = class
            }
            packet
        };
        set_int(&bed.peer, libc::IPPROTO_IP, libc::IP_TOS, CE.into());
        let marked = |packet: &[u8]| if packet[0] >> 4 == 6 { packet[1] >> 4 & 3 } else { packet[1] & 3 };
        for v6 in [false, true] {
            let one = sealed_ip(&mut seals, &packet(v6, ECT_0));
            let two = sealed_ip(&mut seals, &packet(v6, ECT_0));
            bed.send_train(&[one.clone(), two].concat(), one.len());
            assert_eq!([marked(&bed.tap.receive()), marked(&bed.tap.receive())], [CE; 2], "IPv6 {v6}");
        }
        assert_eq!((bed.count(Count::CeMarks), bed.drops()), (4, vec![]));
    });
}
