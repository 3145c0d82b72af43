//! Splitting super-frames against frames that an independent oracle builds from the same payload.

mod offload;

use adit_dataplane::tap::split::{Checksums, HEADERS_MAX, Plan};
use adit_dataplane::tap::vnet::{self, VnetHeader};
use adit_proto::control::Mode;
use adit_proto::stats::Drop;
use offload::{ACK, CWR, FIN, Flow, PSH, Segment, any_flow, mode_of, pattern, plain_sum};
use proptest::prelude::*;

const START: usize = 16;

/// Splits as the data plane does: wipes each payload once it is used, and the two bytes in front (the EtherIP header).
fn split(header: &VnetHeader, frame: &[u8], checksums: Checksums) -> Result<Vec<(Vec<u8>, bool)>, Drop> {
    split_in(mode_of(frame), header, frame, checksums)
}

fn split_in(mode: Mode, header: &VnetHeader, frame: &[u8], checksums: Checksums) -> Result<Vec<(Vec<u8>, bool)>, Drop> {
    let mut buf = vec![0xee; START];
    buf.extend(frame);
    let plan = Plan::new(mode, header, frame, START)?;
    let mut longest = 0;
    let segments = (0..plan.segments())
        .map(|k| {
            let (range, open) = plan.segment(k, &mut buf, checksums);
            assert_eq!(range.len(), plan.segment_len(k));
            longest = longest.max(range.len());
            let segment = buf[range.clone()].to_vec();
            let headers = usize::from(header.hdr_len);
            if header.gso_size != 0 && range.len() > headers {
                buf[range.start - 2..range.start].fill(0xee);
                buf[range.start + headers..range.end].fill(0xee);
            }
            (segment, open)
        })
        .collect();
    assert_eq!(longest, plan.longest());
    assert_eq!(buf[..START], [0xee; START], "nothing is written in front of the frame");
    Ok(segments)
}

fn whole(payload: usize, flags: u8) -> Segment {
    Segment { identification: 0xfffe, sequence: 0xffff_f000, flags, payload: pattern(payload, 3) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn segments_equal_frames_built_one_by_one(
        flow in any_flow(),
        payload in prop_oneof![0_usize..200, 0_usize..65_000],
        size in prop_oneof![1_usize..100, 500_usize..9000, 1_usize..65_535],
        flags in any::<u8>(),
        identification in any::<u16>(),
        sequence in any::<u32>(),
        seed in any::<u32>(),
    ) {
        // A segment's payload and headers fit an IP packet; at most some hundred segments keep the test short.
        let size = size.max(payload / 300).max(1);
        prop_assume!(flow.payload() - flow.l3() + payload <= 65_535 && flow.payload() <= HEADERS_MAX);
        let whole = Segment { identification, sequence, flags, payload: pattern(payload, seed) };
        let header = flow.vnet(size as u16);
        let expected = flow.segments(&whole, size);
        let frame = flow.open(&whole);

        let filled = split(&header, &frame, Checksums::Fill).expect("a good super-frame");
        prop_assert_eq!(filled.len(), expected.len());
        for ((segment, open), expected) in filled.iter().zip(&expected) {
            prop_assert!(!open);
            prop_assert_eq!(segment, &flow.wire(expected));
        }

        let deferrable = flow.extensions.is_empty();
        for ((segment, open), expected) in split(&header, &frame, Checksums::Defer).expect("a good super-frame").iter().zip(&expected) {
            prop_assert_eq!(*open, deferrable);
            prop_assert_eq!(segment, &if deferrable { flow.open(expected) } else { flow.wire(expected) });
        }
    }

    #[test]
    fn plain_frames_get_their_checksum_or_pass_untouched(flow in any_flow(), payload in 0_usize..3000, seed in any::<u32>()) {
        let one = Segment { payload: pattern(payload, seed), ..whole(0, ACK | PSH) };
        let (open, wire) = (flow.open(&one), flow.wire(&one));
        let header = flow.vnet(0);
        prop_assert_eq!(split(&header, &open, Checksums::Fill).unwrap(), vec![(wire.clone(), false)]);
        let deferrable = flow.extensions.is_empty();
        let expected = if deferrable { (open, true) } else { (wire.clone(), false) };
        prop_assert_eq!(split(&header, &flow.open(&one), Checksums::Defer).unwrap(), vec![expected]);
        for checksums in [Checksums::Fill, Checksums::Defer] {
            prop_assert_eq!(split(&VnetHeader::default(), &wire, checksums).unwrap(), vec![(wire.clone(), false)]);
        }
    }

    #[test]
    fn any_header_on_any_frame_is_refused_or_split_within_the_frame(
        flow in any_flow(),
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        garbage in any::<bool>(),
        fields in any::<(u8, u8, u16, u16)>(),
        near in (0_u16..120, 0_u16..20),
        wild in any::<bool>(),
        flips in prop::collection::vec((0_usize..120, any::<u8>()), 0..4),
        cut in 0_usize..500,
    ) {
        let mut frame = if garbage { bytes } else { flow.open(&whole(cut, ACK)) };
        for (at, byte) in flips {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        frame.truncate(cut);
        let (flags, gso_type, start, offset) = fields;
        let known = [0, 1, 4, 5, 0x81, 0x84, 3, 2][usize::from(gso_type & 7)];
        let mut header = VnetHeader { flags, gso_type: known, hdr_len: start, gso_size: near.0, csum_start: start, csum_offset: offset };
        if !wild {
            header = VnetHeader { gso_type: known, gso_size: near.0 + 1, ..flow.vnet(1) };
        }
        for (checksums, mode) in [Checksums::Fill, Checksums::Defer].into_iter().flat_map(|sums| Mode::ALL.map(|mode| (sums, mode))) {
            if let Ok(segments) = split_in(mode, &header, &frame, checksums) {
                prop_assert!(!segments.is_empty());
                prop_assert!(segments.iter().all(|(segment, _)| segment.len() <= frame.len()));
            }
        }
    }
}

#[test]
fn a_full_tcp_super_frame_gives_46_segments() {
    let flow = Flow::simple(false, true);
    let whole = whole(65_535 - 52, ACK | PSH | FIN | CWR);
    let segments = split(&flow.vnet(1448), &flow.open(&whole), Checksums::Fill).expect("a good super-frame");
    assert_eq!(segments.len(), 46);
    let flags: Vec<u8> = segments.iter().map(|(segment, _)| segment[flow.l4() + 13]).collect();
    assert_eq!(flags[0], ACK | CWR);
    assert!(flags[1..45].iter().all(|flags| *flags == ACK));
    assert_eq!(flags[45], ACK | PSH | FIN);
}

#[test]
fn a_super_frame_of_more_segments_than_a_kernel_makes_is_refused() {
    for tcp in [true, false] {
        let flow = Flow::simple(false, tcp);
        let frame = |payload| flow.open(&whole(payload, ACK));
        assert_eq!(split(&flow.vnet(40), &frame(40 * 1365), Checksums::Fill).expect("1365 segments").len(), 1365);
        assert_eq!(split(&flow.vnet(40), &frame(40 * 1365 + 1), Checksums::Fill), Err(Drop::BadOffload));
        assert_eq!(split(&flow.vnet(1), &frame(60_000), Checksums::Fill), Err(Drop::BadOffload));
    }
}

#[test]
fn a_udp_checksum_of_zero_becomes_ffff() {
    for size in [0, 200] {
        let flow = Flow::simple(false, false);
        let mut one = whole(200, 0);
        one.payload[100..102].fill(0);
        let sum = plain_sum(&[&(!u16::from_be_bytes([flow.wire(&one)[40], flow.wire(&one)[41]])).to_be_bytes()]);
        one.payload[100..102].copy_from_slice(&(!sum).to_be_bytes());
        let segments = split(&flow.vnet(size), &flow.open(&one), Checksums::Fill).expect("a good frame");
        assert_eq!(segments[0].0[40..42], [0xff, 0xff]);
    }
}

#[test]
fn open_checksums_of_other_protocols_are_filled_by_the_offsets_alone() {
    // VXLAN over IPv4 with an inner ICMP-like header: the kernel names an offset deep inside.
    let flow = Flow::simple(false, false);
    let frame = flow.wire(&whole(300, 0));
    let header = VnetHeader { flags: vnet::NEEDS_CSUM, csum_start: 92, csum_offset: 2, ..VnetHeader::default() };
    for checksums in [Checksums::Fill, Checksums::Defer] {
        let segments = split(&header, &frame, checksums).expect("offsets inside the frame");
        assert!(!segments[0].1, "the receiver could not find this field");
        let mut expected = frame.clone();
        let sum = !plain_sum(&[&frame[92..]]);
        expected[94..96].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(segments[0].0, expected);
    }
}

#[test]
fn headers_that_do_not_fit_the_frame_are_refused() {
    let flow = Flow::simple(false, true);
    let frame = flow.open(&whole(5000, ACK));
    let good = flow.vnet(1000);
    let bad = |header: VnetHeader, frame: &[u8], why: &str| {
        assert_eq!(Plan::new(Mode::Ethernet, &header, frame, START).map(|plan| plan.segments()), Err(Drop::BadOffload), "{why}");
    };
    assert_eq!(Plan::new(Mode::Ethernet, &good, &frame, START).expect("the good one").segments(), 5);
    bad(VnetHeader { gso_size: 0, ..good }, &frame, "no segment size");
    bad(VnetHeader { flags: 0, ..good }, &frame, "a super-frame without an open checksum");
    bad(VnetHeader { gso_type: vnet::GSO_TCPV6, ..good }, &frame, "the other IP version");
    bad(VnetHeader { gso_type: vnet::GSO_UDP_L4, csum_offset: 6, ..good }, &frame, "the other protocol");
    bad(VnetHeader { gso_type: 3, ..good }, &frame, "UFO was not announced");
    bad(VnetHeader { csum_start: 38, ..good }, &frame, "a transport header elsewhere");
    bad(VnetHeader { csum_start: 60_000, ..good }, &frame, "a transport header outside");
    bad(VnetHeader { csum_offset: 6, ..good }, &frame, "a field elsewhere");
    bad(good, &frame[..50], "headers cut off");
    bad(good, &frame[..10], "not even Ethernet");
    let plain = VnetHeader { gso_type: 0, gso_size: 0, ..good };
    bad(VnetHeader { csum_start: 4, ..plain }, &frame, "a checksum over the Ethernet header");
    bad(VnetHeader { csum_start: 5060, ..plain }, &frame, "a field outside");
    bad(VnetHeader { csum_offset: 8, ..plain }, &frame, "the CRC of SCTP");

    let mut fragment = frame.clone();
    fragment[20] |= 0x20;
    bad(good, &fragment, "a fragment");
    let mut long = frame.clone();
    long.resize(14 + 65_536, 0);
    bad(good, &long, "longer than an IP packet");
    let many = Flow { extensions: vec![(60, vec![0; 126]), (60, vec![0; 126])], ..Flow::simple(true, true) };
    bad(many.vnet(1000), &many.open(&whole(5000, ACK)), "headers too long");
}
