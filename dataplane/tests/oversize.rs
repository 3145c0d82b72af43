//! What does not fit the path: re-cut segments against frames that an oracle builds, fragments against a receiver that puts them
//! together, ICMP messages field by field.

mod offload;

use adit_dataplane::oversize::fragment::Fragments;
use adit_dataplane::oversize::icmp::{self, ANSWER_MAX};
use adit_dataplane::oversize::{Remedy, remedy};
use adit_dataplane::tap::split::{Checksums, Plan};
use adit_dataplane::tap::vnet::VnetHeader;
use adit_proto::control::Mode;
use offload::{ACK, CWR, FIN, Flow, PSH, RST, SYN, Segment, any_flow, mode_of, pattern, plain_sum, simple_flow};
use proptest::prelude::*;

const START: usize = 64;
const URG: u8 = 0x20;

fn whole(payload: usize, flags: u8) -> Segment {
    Segment { identification: 0xfffe, sequence: 0xffff_ff00, flags, payload: pattern(payload, 3) }
}

/// What becomes of a frame: its segments, or the frame unharmed.
fn recut(header: &VnetHeader, frame: &[u8], fits: usize, checksums: Checksums) -> Option<Vec<Vec<u8>>> {
    let mut buf = vec![0xee; START];
    buf.extend(frame);
    let mode = mode_of(frame);
    let plan = Plan::new(mode, header, frame, START).unwrap();
    assert!(plan.longest() > fits, "the test makes frames that do not fit");
    match remedy(mode, header, &plan, &mut buf[START..], START, fits) {
        Remedy::Recut(plan) => Some(segments(&plan, &mut buf, checksums)),
        Remedy::Fragment | Remedy::Answer => {
            assert_eq!(buf[START..], *frame, "what is not cut is left as it was");
            None
        }
    }
}

/// As the data plane does it: each segment is gone before the next is made.
fn segments(plan: &Plan, buf: &mut [u8], checksums: Checksums) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for k in 0..plan.segments() {
        let (range, _) = plan.segment(k, buf, checksums);
        all.push(buf[range].to_vec());
    }
    all
}

/// The frame as fragments, each used up before the next is made.
fn fragments(mode: Mode, frame: &[u8], fits: usize) -> Option<Vec<Vec<u8>>> {
    let mut buf = [&[0xee; START][..], frame, &[0xdd; 8]].concat();
    let fragments = Fragments::new(mode, frame, START, fits)?;
    let mut all = Vec::new();
    for k in 0..fragments.count() {
        let range = fragments.fragment(k, &mut buf);
        all.push(buf[range.clone()].to_vec());
        if k > 0 {
            buf[range.start - 2..range.end].fill(0xee);
        }
    }
    fragments.restore(&mut buf);
    let headers = if mode == Mode::Ip { 0 } else { 14 } + 28;
    assert_eq!(buf[START..START + headers], frame[..headers], "the headers are as they were");
    assert_eq!(buf[START + frame.len()..], [0xdd; 8]);
    Some(all)
}

fn be16(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

/// What a receiver has of fragments: their data, by offset, and whether the last one has come. Checks what all must have.
fn put_together(fragments: &[Vec<u8>], l3: usize, fits: usize) -> (Vec<u8>, bool) {
    let (mut data, mut ended) = (vec![None; 65_536], false);
    for fragment in fragments {
        assert!(fragment.len() <= fits && fragment[..l3] == fragments[0][..l3]);
        let ip = &fragment[l3..];
        let header = usize::from(ip[0] & 15) * 4;
        assert_eq!(plain_sum(&[&ip[..header]]), 0xffff);
        assert_eq!((be16(ip, 2), be16(ip, 4)), (ip.len(), be16(&fragments[0], l3 + 4)));
        assert_eq!(ip[8..10], fragments[0][l3 + 8..l3 + 10]);
        assert_eq!(ip[12..20], fragments[0][l3 + 12..l3 + 20]);
        let (offset, more) = ((be16(ip, 6) & 0x1fff) * 8, be16(ip, 6) & 0x2000 != 0);
        assert!(!more || (ip.len() - header) % 8 == 0);
        assert_eq!(be16(ip, 6) & 0xc000, 0);
        ended |= !more;
        for (place, byte) in data[offset..].iter_mut().zip(&ip[header..]) {
            assert!(place.is_none(), "nothing comes twice");
            *place = Some(*byte);
        }
    }
    let first = data.iter().position(Option::is_some).unwrap_or(0);
    let data: Vec<u8> = data[first..].iter().map_while(|byte| *byte).collect();
    assert_eq!(data.len(), fragments.iter().map(|f| f.len() - l3 - usize::from(f[l3] & 15) * 4).sum::<usize>(), "no gap");
    (data, ended)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn tcp_is_cut_as_its_sender_would_have_cut_it(
        flow in simple_flow(), open: bool, padded: bool, payload in 600_usize..9000, fits in 300_usize..1500,
        flags in any::<u8>(), identification: u16, sequence: u32,
    ) {
        let flow = Flow { tcp: true, tcp_options: vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8], ..flow };
        let flags = flags & !(SYN | RST | URG);
        prop_assume!(flow.payload() + payload > fits);
        let segment = Segment { identification, sequence, flags, payload: pattern(payload, sequence) };
        let expected: Vec<_> = flow.segments(&segment, fits - flow.payload()).iter().map(|one| flow.wire(one)).collect();
        let (header, mut frame) = if open { (flow.vnet(0), flow.open(&segment)) } else { (VnetHeader::default(), flow.wire(&segment)) };
        if padded && !open {
            frame.extend([0; 6]);
        }
        prop_assert_eq!(&recut(&header, &frame, fits, Checksums::Fill).expect("it is cut"), &expected);
        let open: Vec<_> = flow.segments(&segment, fits - flow.payload()).iter().map(|one| flow.open(one)).collect();
        prop_assert_eq!(&recut(&header, &frame, fits, Checksums::Defer).expect("it is cut"), &open);
    }

    #[test]
    fn super_frames_are_cut_to_what_fits(
        flow in simple_flow(), payload in 9000_usize..60_000, size in 1000_u16..9000, fits in 300_usize..1000, sequence: u32,
    ) {
        let flow = Flow { tcp: true, tcp_options: vec![], ..flow };
        let segment = Segment { identification: 7, sequence, flags: ACK | PSH | FIN | CWR, payload: pattern(payload, sequence) };
        let expected: Vec<_> = flow.segments(&segment, fits - flow.payload()).iter().map(|one| flow.wire(one)).collect();
        prop_assert_eq!(recut(&flow.vnet(size), &flow.open(&segment), fits, Checksums::Fill).expect("it is cut"), expected);
    }

    #[test]
    fn a_receiver_gets_from_fragments_what_was_sent(
        flow in any_flow(), payload in 600_usize..9000, fits in 300_usize..1500, seed: u32,
    ) {
        let flow = Flow { v6: false, tcp: false, dont_fragment: false, extensions: vec![], final_destination: None, tcp_options: vec![], ..flow };
        let frame = flow.wire(&Segment { identification: seed as u16, sequence: 0, flags: 0, payload: pattern(payload, seed) });
        prop_assume!(frame.len() > fits);
        let l3 = flow.l3();
        let first = fragments(flow.mode, &frame, fits).expect("it may be fragmented");
        let (data, ended) = put_together(&first, l3, fits);
        prop_assert!(ended);
        prop_assert_eq!(&data, &frame[flow.l4()..]);
        // A shorter path behind it: fragments of fragments.
        let again: Vec<_> = first.iter().flat_map(|one| match one.len() > fits - 60 {
            true => fragments(flow.mode, one, fits - 60).expect("fragments are fragmented"),
            false => vec![one.clone()],
        }).collect();
        prop_assert_eq!(put_together(&again, l3, fits), (data, true));
    }

    #[test]
    fn datagrams_of_a_udp_super_frame_are_each_fragmented(
        mode in offload::modes(), payload in 3000_usize..20_000, size in 1200_u16..2000, fits in 300_usize..1100,
    ) {
        let flow = Flow { dont_fragment: false, ..Flow::simple(false, false).in_mode(mode) };
        let segment = Segment { identification: 9, sequence: 0, flags: 0, payload: pattern(payload, 1) };
        let (header, mut buf) = (flow.vnet(size), vec![0xee; START]);
        buf.extend(flow.open(&segment));
        let plan = Plan::new(mode, &header, &buf[START..], START).unwrap();
        prop_assert!(matches!(remedy(mode, &header, &plan, &mut buf[START..], START, fits), Remedy::Fragment));
        for (k, expected) in flow.segments(&segment, size.into()).iter().enumerate() {
            let (range, _) = plan.segment(k, &mut buf, Checksums::Fill);
            let expected = flow.wire(expected);
            prop_assert_eq!(&buf[range.clone()], &expected[..]);
            if range.len() <= fits {
                continue;
            }
            let made = Fragments::new(mode, &buf[range.clone()], range.start, fits).unwrap();
            let all: Vec<_> = (0..made.count()).map(|k| { let place = made.fragment(k, &mut buf); buf[place].to_vec() }).collect();
            made.restore(&mut buf);
            prop_assert_eq!(put_together(&all, flow.l3(), fits), (expected[flow.l4()..].to_vec(), true));
        }
    }

    #[test]
    fn any_bytes_are_cut_fragmented_and_answered_without_a_panic(
        flow in any_flow(), bends in prop::collection::vec((0_usize..100, any::<u8>()), 0..6), cut in 0_usize..1300, fits in 0_usize..1400,
    ) {
        let mut frame = flow.wire(&whole(1200, ACK));
        for (at, byte) in bends {
            let at = at % frame.len();
            frame[at] = byte;
        }
        frame.truncate(cut.max(34).min(frame.len()));
        for mode in Mode::ALL {
            let plan = Plan::whole(START..START + frame.len());
            let mut buf = [&[0; START][..], &frame, &[0; 8]].concat();
            let end = START + frame.len();
            if let Remedy::Recut(plan) = remedy(mode, &VnetHeader::default(), &plan, &mut buf[START..end], START, fits) {
                segments(&plan, &mut buf, Checksums::Fill);
            }
            fragments_of_anything(mode, &frame, fits);
            icmp::answer(mode, &frame, fits, &mut [0; ANSWER_MAX]);
            icmp::sender(mode, &frame);
        }
    }
}

fn fragments_of_anything(mode: Mode, frame: &[u8], fits: usize) {
    let mut buf = [&[0; START][..], frame, &[0; 8]].concat();
    if let Some(made) = Fragments::new(mode, frame, START, fits) {
        for k in 0..made.count() {
            assert!(made.fragment(k, &mut buf).len() <= fits);
        }
        made.restore(&mut buf);
    }
}

#[test]
fn signed_urgent_and_damaged_tcp_and_that_of_handshakes_is_not_cut() {
    for v6 in [false, true] {
        let flow = Flow::simple(v6, true);
        let kept =
            |flow: &Flow, flags| recut(&VnetHeader::default(), &flow.wire(&whole(1460, flags)), 1400, Checksums::Fill).is_none();
        assert!(!kept(&flow, ACK | PSH));
        for flags in [SYN, SYN | ACK, RST | ACK, URG | ACK] {
            assert!(kept(&flow, flags), "flags {flags:#x}");
        }
        let md5 = [&[1, 1, 19, 18][..], &[7; 16]].concat();
        let ao = [&[29, 16][..], &[7; 14]].concat();
        for options in [md5, ao, vec![1, 1, 1, 9], vec![8, 1, 0, 0], vec![8, 40, 0, 0]] {
            let signed = Flow { tcp_options: options.clone(), ..flow.clone() };
            assert!(kept(&signed, ACK), "options {options:?}");
            assert!(
                recut(&signed.vnet(1460), &signed.open(&whole(9000, ACK)), 1400, Checksums::Fill).is_none(),
                "a super-frame of it"
            );
        }
        let urgent = recut(&flow.vnet(1460), &flow.open(&whole(9000, URG | ACK)), 1400, Checksums::Fill);
        assert!(urgent.is_none(), "a super-frame that is urgent");
        assert!(recut(&flow.vnet(1460), &flow.open(&whole(9000, ACK)), 1400, Checksums::Fill).is_some(), "one that is not");
        let mut damaged = flow.wire(&whole(1460, ACK));
        *damaged.last_mut().unwrap() ^= 1;
        assert!(recut(&VnetHeader::default(), &damaged, 1400, Checksums::Fill).is_none());
    }
}

#[test]
fn behind_extension_headers_no_single_segment_is_looked_for() {
    let plain = Flow::simple(true, true);
    // Destination options: padding of the length that there is.
    let behind = Flow { extensions: vec![(60, vec![1, 4, 0, 0, 0, 0])], ..plain.clone() };
    let single = |flow: &Flow| recut(&VnetHeader::default(), &flow.wire(&whole(1460, ACK)), 1400, Checksums::Fill);
    assert!(single(&plain).is_some() && single(&behind).is_none());
    // Of a super-frame the kernel says where TCP is.
    let segment = whole(9000, ACK);
    let expected: Vec<_> = behind.segments(&segment, 1400 - behind.payload()).iter().map(|one| behind.wire(one)).collect();
    assert_eq!(recut(&behind.vnet(1400), &behind.open(&segment), 1400, Checksums::Fill), Some(expected));
}

#[test]
fn options_marked_so_are_in_every_fragment_the_others_in_the_first() {
    // Record Route is not copied, Router Alert and a loose source route are (RFC 791 §3.1, RFC 2113).
    let ip_options = vec![7, 7, 4, 0, 0, 0, 0, 1, 148, 4, 0, 0, 131, 7, 4, 9, 9, 9, 9, 0];
    let flow = Flow { ip_options, dont_fragment: false, ..Flow::simple(false, false) };
    let frame = flow.wire(&whole(3000, 0));
    let all = fragments(Mode::Ethernet, &frame, 1000).unwrap();
    assert_eq!(put_together(&all, 14, 1000).0, frame[14 + 40..]);
    assert_eq!(all[0][34..54], frame[34..54]);
    for later in &all[1..] {
        assert_eq!(later[14], 0x48);
        assert_eq!(later[34..46], [148, 4, 0, 0, 131, 7, 4, 9, 9, 9, 9, 0]);
    }
    let dont = Flow { dont_fragment: true, ..flow.clone() };
    assert!(Fragments::new(Mode::Ethernet, &dont.wire(&whole(3000, 0)), START, 1000).is_none());
    let endless = Flow { ip_options: vec![148, 0, 0, 0], ..flow };
    assert!(Fragments::new(Mode::Ethernet, &endless.wire(&whole(3000, 0)), START, 1000).is_none());
}

fn answered(frame: &[u8], fits: usize) -> Option<Vec<u8>> {
    let mut out = [0; ANSWER_MAX];
    icmp::answer(mode_of(frame), frame, fits, &mut out).map(|len| out[..len].to_vec())
}

#[test]
fn senders_are_told_in_the_name_of_the_destination_with_tags_kept() {
    for (v6, tags) in [false, true].into_iter().flat_map(|v6| [vec![], vec![7], vec![100, 200]].map(|tags| (v6, tags))) {
        let flow = Flow { tags: tags.clone(), ..Flow::simple(v6, false) };
        let frame = flow.wire(&whole(1472, 0));
        let (l3, fits) = (flow.l3(), 1400);
        let answer = answered(&frame, fits).expect("an answer");
        assert_eq!((&answer[..6], &answer[6..12], &answer[12..l3]), (&frame[6..12], &frame[..6], &frame[12..l3]));
        let (ip, was) = (&answer[l3..], &frame[l3..]);
        if v6 {
            assert_eq!((&ip[8..24], &ip[24..40], ip[6], be16(ip, 4)), (&was[24..40], &was[8..24], 58, ip.len() - 40));
            assert_eq!((ip[40], ip[41], be16(ip, 46)), (2, 0, fits - l3));
            assert_eq!((ip.len(), &ip[48..]), (1280, &was[..1232]));
            assert_eq!(plain_sum(&[&ip[8..40], &[0, 58], &((ip.len() - 40) as u16).to_be_bytes(), &ip[40..]]), 0xffff);
        } else {
            assert_eq!((&ip[12..16], &ip[16..20], ip[9], be16(ip, 2)), (&was[16..20], &was[12..16], 1, ip.len()));
            assert_eq!((ip[20], ip[21], be16(ip, 26)), (3, 4, fits - l3));
            assert_eq!((ip.len(), &ip[28..]), (576, &was[..548]));
            assert_eq!((plain_sum(&[&ip[..20]]), plain_sum(&[&ip[20..]])), (0xffff, 0xffff));
        }
    }
}

#[test]
fn groups_errors_later_fragments_and_nobody_are_not_answered() {
    let at = |v6: bool, changes: &[(usize, u8)]| {
        let mut frame = Flow { mode: Mode::Ip, ..Flow::simple(v6, false) }.wire(&whole(1472, 0));
        changes.iter().for_each(|(at, byte)| frame[*at] = *byte);
        answered(&frame, 1400).is_some()
    };
    assert!(at(false, &[]) && at(true, &[]));
    for (changes, why) in [
        (&[(16, 224)][..], "to a group"),
        (&[(16, 255)], "to all"),
        (&[(12, 0)], "from nobody"),
        (&[(12, 127)], "from itself"),
        (&[(12, 239)], "from a group"),
        (&[(7, 1)], "a later fragment"),
        (&[(9, 1), (20, 3)], "unreachable"),
        (&[(9, 1), (20, 11)], "time exceeded"),
        (&[(0, 0x44)], "no header"),
        (&[(2, 1)], "it fits"),
    ] {
        assert!(!at(false, changes), "IPv4: {why}");
    }
    assert!(at(false, &[(9, 1), (20, 8)]), "an echo request is answered");
    for (changes, why) in [
        (&[(24, 0xff)][..], "to a group"),
        (&[(8, 0xff)], "from a group"),
        (&[(8, 0), (23, 1)], "from itself"),
        (&[(6, 58), (40, 1)], "unreachable"),
        (&[(6, 58), (40, 137)], "redirect"),
        (&[(6, 44), (40, 17), (42, 1)], "a later fragment"),
        (&[(6, 60), (40, 58), (41, 0), (48, 2)], "an error behind options"),
        (&[(4, 0)], "it fits"),
    ] {
        assert!(!at(true, changes), "IPv6: {why}");
    }
    assert!(at(true, &[(6, 58), (40, 128)]), "an echo request is answered");
    let frame = Flow::simple(false, false).wire(&whole(1472, 0));
    let mut broadcast = frame.clone();
    broadcast[0] |= 1;
    assert!(answered(&frame, 1400).is_some() && answered(&broadcast, 1400).is_none());
    // No host makes IPv6 packets shorter than 1280 bytes: what is longer is told 1280, what is not is not told anything.
    let six = |payload: usize| answered(&Flow { mode: Mode::Ip, ..Flow::simple(true, false) }.wire(&whole(payload, 0)), 1100);
    assert_eq!(be16(&six(1400).unwrap(), 46), 1280);
    assert!(six(1280 - 48).is_none());
}
