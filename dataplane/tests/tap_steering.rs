//! The queue of a frame is a fixed function of its flow, the same for both directions.

mod support;

use adit_proto::control::Command;
use support::{Bed, PEER, in_namespace, out_spi};

/// Ethernet and IP headers, ports, and some payload, to a station behind the peer.
fn frame(v6: bool, tags: usize, from: (u8, u16), to: (u8, u16), more_fragments: bool) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1];
    for _ in 0..tags {
        frame.extend([0x81, 0, 0, 7]);
    }
    if v6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 17, 64]);
        for station in [from.0, to.0] {
            frame.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, station]);
        }
    } else {
        let flags = if more_fragments { 0x20 } else { 0x40 };
        frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, flags, 0, 64, 17, 0, 0, 10, 0, 0, from.0, 10, 0, 0, to.0]);
    }
    frame.extend(from.1.to_be_bytes());
    frame.extend(to.1.to_be_bytes());
    frame.extend([0, 20, 0, 0]);
    frame.extend([0; 12]);
    frame
}

/// The lane on which the data plane seals this frame.
fn lane(bed: &mut Bed, frame: &[u8]) -> u32 {
    bed.tap.send(frame);
    let mut packet = [0; 2048];
    bed.peer.recv_from(&mut packet).unwrap();
    u32::from_be_bytes([packet[0], packet[1], packet[2], packet[3]]) - out_spi(0).0
}

#[test]
fn a_flow_has_one_lane_both_ways_and_flows_spread_over_the_lanes() {
    in_namespace(|| {
        let mut bed = Bed::start(2, "io_uring", 2);
        for worker in 0..2 {
            bed.command(worker, &Command::FdbPin { mac: [2, 0, 0, 0, 0, 9], peer: PEER });
        }
        for v6 in [false, true] {
            let mut of_lane = [0; 2];
            for port in 0..64 {
                let (here, there) = ((1, 40_000 + port), (2, 5201));
                let one = lane(&mut bed, &frame(v6, 0, here, there, false));
                let other = lane(&mut bed, &frame(v6, 0, there, here, false));
                assert_eq!(one, other, "port {port}, IPv6: {v6}");
                of_lane[one as usize] += 1;
            }
            assert!(of_lane.iter().all(|flows| (16..=48).contains(flows)), "64 flows lie {of_lane:?}, IPv6: {v6}");
        }
    });
}

/// The same with so many words of IPv4 options in front of the ports.
fn with_options(mut frame: Vec<u8>, words: u8) -> Vec<u8> {
    frame[14] += words;
    frame[17] += 4 * words;
    frame.splice(34..34, std::iter::repeat_n(1, 4 * usize::from(words)));
    frame
}

#[test]
fn packets_with_ipv4_options_stay_on_the_lane_of_their_flow() {
    in_namespace(|| {
        let mut bed = Bed::start(2, "io_uring", 2);
        for worker in 0..2 {
            bed.command(worker, &Command::FdbPin { mac: [2, 0, 0, 0, 0, 9], peer: PEER });
        }
        let mut of_lane = [0; 2];
        for port in 0..32 {
            let plain = frame(false, 0, (1, 40_000 + port), (2, 5201), false);
            let expected = lane(&mut bed, &plain);
            of_lane[expected as usize] += 1;
            for words in [1, 5, 10] {
                assert_eq!(lane(&mut bed, &with_options(plain.clone(), words)), expected, "port {port}, {words} words");
            }
        }
        assert!(of_lane.iter().all(|flows| *flows > 4), "{of_lane:?}");
    });
}

#[test]
fn all_fragments_of_a_pair_of_hosts_have_one_lane() {
    in_namespace(|| {
        let mut bed = Bed::start(2, "io_uring", 2);
        let mut lanes: Vec<u32> = (0..32).map(|port| lane(&mut bed, &frame(false, 0, (1, port), (2, 9), true))).collect();
        lanes.dedup();
        assert_eq!(lanes.len(), 1, "what stands where ports would be is not looked at");
        // Frames that the program does not know, and short ones, have a lane all the same.
        lane(&mut bed, &frame(false, 1, (1, 1), (2, 2), false));
        lane(&mut bed, &[&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0][..], &[0x45; 4]].concat());
    });
}
