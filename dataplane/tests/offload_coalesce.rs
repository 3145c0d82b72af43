//! Coalescing frames, and taking the super-frames apart again: the same frames, in order inside each flow, byte for byte.

mod offload;

use std::ops::Range;

use adit_dataplane::tap::coalesce::{Coalescer, FLOWS, FRAMES_MAX, Limits};
use adit_dataplane::tap::split::{Checksums, Plan};
use adit_dataplane::tap::vnet::{self, VnetHeader};
use adit_proto::control::Mode;
use offload::{ACK, CWR, ECE, FIN, Flow, PSH, RST, SYN, Segment, Writes, mode_of, pattern, plain_sum, simple_flow, station};
use proptest::prelude::*;

const ALL: Limits = Limits { tso: true, uso: true, uso_frames: FRAMES_MAX };

/// A frame as it comes out of ESP, and what must reach the TAP.
#[derive(Clone, Debug)]
struct Arrival {
    frame: Vec<u8>,
    open: bool,
    expected: Vec<u8>,
}

impl Arrival {
    fn good(flow: &Flow, segment: &Segment, open: bool) -> Arrival {
        let wire = flow.wire(segment);
        Arrival { frame: if open { flow.open(segment) } else { wire.clone() }, open, expected: wire }
    }

    /// A frame that must pass as it is.
    fn as_is(frame: Vec<u8>) -> Arrival {
        Arrival { expected: frame.clone(), frame, open: false }
    }
}

/// Pushes all frames from one arena, and flushes. The last one says what all are.
fn coalesce(limits: Limits, arrivals: &[Arrival]) -> Writes {
    coalesce_in(mode_of(&arrivals[arrivals.len() - 1].frame), limits, arrivals)
}

fn coalesce_in(mode: Mode, limits: Limits, arrivals: &[Arrival]) -> Writes {
    let mut arena = vec![];
    let places: Vec<Range<usize>> = arrivals
        .iter()
        .map(|arrival| {
            arena.extend([0xee; 26]);
            arena.extend(&arrival.frame);
            arena.len() - arrival.frame.len()..arena.len()
        })
        .collect();
    let mut coalescer = Coalescer::new(mode, limits);
    let mut out = Writes::default();
    for (arrival, place) in arrivals.iter().zip(places) {
        coalescer.push(&mut arena, place, arrival.open, &mut out);
    }
    coalescer.flush(&mut arena, &mut out);
    let writes = out.0.len();
    coalescer.flush(&mut arena, &mut out);
    assert_eq!(out.0.len(), writes, "a flush leaves nothing behind");
    out.0.iter_mut().for_each(|write| write.mode = mode);
    out
}

#[test]
fn a_frame_behind_others_that_are_to_come_leaves_them_as_they_are() {
    let flow = Flow::simple(false, true);
    let arrivals = train(&flow, 2, 1000, false);
    let gap: Vec<u8> = (0..3000).map(|n| n as u8).collect();
    let mut arena = [&[0xee; 26][..], &arrivals[0].frame, &gap, &arrivals[1].frame].concat();
    let first = 26..26 + arrivals[0].frame.len();
    let (between, second) = (first.end..first.end + gap.len(), first.end + gap.len()..arena.len());
    let mut coalescer = Coalescer::new(mode_of(&arrivals[0].frame), ALL);
    let mut out = Writes::default();
    coalescer.push(&mut arena, first, false, &mut out);
    coalescer.skip();
    coalescer.push(&mut arena, second, false, &mut out);
    assert_eq!(arena[between], gap);
    coalescer.flush(&mut arena, &mut out);
    assert_eq!(unpacked(&out), expected(&arrivals));
}

/// How many frames each write has.
fn counts(out: &Writes) -> Vec<usize> {
    out.0.iter().map(|write| write.frames).collect()
}

fn unpacked(out: &Writes) -> Vec<Vec<u8>> {
    out.0.iter().flat_map(|write| write.unpack()).collect()
}

/// `count` segments of `size` bytes that follow each other.
fn train(flow: &Flow, count: usize, size: usize, open: bool) -> Vec<Arrival> {
    segments(flow, count, size).iter().map(|segment| Arrival::good(flow, segment, open)).collect()
}

fn segments(flow: &Flow, count: usize, size: usize) -> Vec<Segment> {
    let whole = Segment { identification: 0xfff0, sequence: 0xffff_f000, flags: ACK, payload: pattern(count * size, 5) };
    flow.segments(&whole, size)
}

fn expected(arrivals: &[Arrival]) -> Vec<Vec<u8>> {
    arrivals.iter().map(|arrival| arrival.expected.clone()).collect()
}

/// The four kinds of flows that can be merged, with 0 to 2 tags, and without an Ethernet header.
fn kinds() -> Vec<Flow> {
    let mut out = vec![];
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        for tags in [vec![], vec![7], vec![100, 200]] {
            out.push(Flow { tags, ..Flow::simple(v6, tcp) });
        }
        out.push(Flow::simple(v6, tcp).in_mode(Mode::Ip));
    }
    out
}

#[test]
fn a_train_becomes_one_write_whether_open_or_verified() {
    for flow in kinds() {
        for open in [false, true] {
            let arrivals = train(&flow, 40, 1400, open);
            let out = coalesce(ALL, &arrivals);
            assert_eq!(counts(&out), [40], "{flow:?}");
            assert_eq!(out.0[0].header, flow.vnet(1400));
            assert_eq!(unpacked(&out), expected(&arrivals));
        }
    }
}

#[test]
fn open_and_verified_frames_share_a_batch() {
    for flow in kinds() {
        let mut arrivals = train(&flow, 10, 100, false);
        for (arrival, open) in arrivals.iter_mut().zip(train(&flow, 10, 100, true)).skip(1).step_by(2) {
            *arrival = open;
        }
        let out = coalesce(ALL, &arrivals);
        assert_eq!(counts(&out), [10]);
        assert_eq!(unpacked(&out), expected(&arrivals));
    }
}

#[test]
fn a_batch_ends_at_128_frames_and_at_65535_bytes() {
    let small = Flow::simple(false, false);
    assert_eq!(counts(&coalesce(ALL, &train(&small, 300, 18, false))), [128, 128, 44]);
    let old_kernel = Limits { uso_frames: 64, ..ALL };
    assert_eq!(counts(&coalesce(old_kernel, &train(&small, 150, 18, false))), [64, 64, 22]);
    assert_eq!(counts(&coalesce(Limits { uso_frames: 1000, ..ALL }, &train(&small, 130, 18, false))), [128, 2]);
    assert_eq!(counts(&coalesce(Limits { uso_frames: 1, ..ALL }, &train(&small, 3, 18, false))), [1; 3]);
    for flow in kinds() {
        let last = 65_535 - flow.payload() - 46 * 1400;
        for (last, frames) in [(last, vec![47]), (last + 1, vec![46, 1])] {
            let whole = Segment { payload: pattern(46 * 1400 + last, 1), ..segments(&flow, 1, 1)[0].clone() };
            let parts = flow.segments(&whole, 1400);
            let arrivals: Vec<Arrival> = parts.iter().map(|segment| Arrival::good(&flow, segment, true)).collect();
            assert_eq!(counts(&coalesce(ALL, &arrivals)), frames);
        }
        let arrivals = train(&flow, 100, 1400, true);
        let out = coalesce(ALL, &arrivals);
        assert_eq!(counts(&out), [46, 46, 8]);
        assert_eq!(unpacked(&out), expected(&arrivals));
        assert!(out.0.iter().all(|write| write.frame.len() <= 65_535));
    }
}

#[test]
fn nothing_is_merged_that_the_kernel_does_not_take() {
    let tcp = train(&Flow::simple(false, true), 5, 1400, false);
    let udp = train(&Flow::simple(false, false), 5, 1400, false);
    assert_eq!(counts(&coalesce(Limits { tso: false, ..ALL }, &tcp)), [1; 5]);
    assert_eq!(counts(&coalesce(Limits { uso: false, ..ALL }, &udp)), [1; 5]);
}

#[test]
fn a_single_frame_stays_as_it_is() {
    for flow in kinds() {
        let one = &segments(&flow, 1, 777)[0];
        let out = coalesce(ALL, &[Arrival::good(&flow, one, false)]);
        assert_eq!((out.0[0].header, &out.0[0].frame), (VnetHeader::default(), &flow.wire(one)));
        let out = coalesce(ALL, &[Arrival::good(&flow, one, true)]);
        assert_eq!((out.0[0].header, &out.0[0].frame), (flow.vnet(0), &flow.open(one)));
    }
}

#[test]
fn a_shorter_frame_is_the_last_and_a_longer_one_begins_anew() {
    for flow in kinds() {
        let whole = Segment { payload: pattern(5 * 1000 + 300, 1), ..segments(&flow, 1, 1)[0].clone() };
        let mut arrivals: Vec<Arrival> = flow.segments(&whole, 1000).iter().map(|s| Arrival::good(&flow, s, false)).collect();
        let next = Segment {
            identification: whole.identification.wrapping_add(6),
            sequence: whole.sequence.wrapping_add(5300),
            payload: pattern(2 * 1100, 2),
            ..whole
        };
        arrivals.extend(flow.segments(&next, 1100).iter().map(|s| Arrival::good(&flow, s, false)));
        let out = coalesce(ALL, &arrivals);
        assert_eq!(counts(&out), [6, 2]);
        assert_eq!(unpacked(&out), expected(&arrivals));
    }
}

#[test]
fn psh_ends_a_batch_and_stands_on_its_last_frame() {
    for v6 in [false, true] {
        let flow = Flow::simple(v6, true);
        let mut parts = segments(&flow, 9, 500);
        parts[3].flags |= PSH;
        parts[4].flags |= PSH;
        let arrivals: Vec<Arrival> = parts.iter().map(|segment| Arrival::good(&flow, segment, false)).collect();
        let out = coalesce(ALL, &arrivals);
        assert_eq!(counts(&out), [4, 1, 4]);
        assert_eq!(unpacked(&out), expected(&arrivals));
    }
}

#[test]
fn frames_that_differ_from_the_head_are_not_merged() {
    type Change = fn(&mut Flow, &mut Segment);
    let changes: [(&str, bool, bool, Change); 15] = [
        ("another sequence number", false, true, |_, s| s.sequence += 1),
        ("another acknowledgement", false, true, |f, _| f.ack += 1),
        ("another window", false, true, |f, _| f.window += 1),
        ("other options", false, true, |f, _| f.tcp_options[11] ^= 1),
        ("fewer options", false, true, |f, _| f.tcp_options.truncate(8)),
        ("SYN", false, true, |_, s| s.flags |= SYN),
        ("FIN", false, true, |_, s| s.flags |= FIN),
        ("RST", false, true, |_, s| s.flags |= RST),
        ("CWR", false, true, |_, s| s.flags |= CWR),
        ("ECE", false, true, |_, s| s.flags |= ECE),
        ("no ACK", false, true, |_, s| s.flags = 0),
        ("a congestion mark", true, true, |f, _| f.traffic_class |= 3),
        ("another hop limit", true, true, |f, _| f.hop_limit -= 1),
        ("another flow label or identification", true, true, |f, s| (f.flow_label, s.identification) = (1, 9)),
        ("no payload", true, true, |_, s| s.payload.clear()),
    ];
    for (what, on_udp, on_tcp, change) in changes {
        for flow in kinds().into_iter().filter(|flow| if flow.tcp { on_tcp } else { on_udp }) {
            let mut arrivals = train(&flow, 6, 500, false);
            let (mut other, mut segment) = (flow.clone(), segments(&flow, 6, 500)[3].clone());
            change(&mut other, &mut segment);
            arrivals[3] = Arrival::good(&other, &segment, false);
            let out = coalesce(ALL, &arrivals);
            assert_eq!(counts(&out), [3, 1, 2], "{what}: {flow:?}");
            assert_eq!(unpacked(&out), expected(&arrivals), "{what}");
        }
    }
}

#[test]
fn other_tags_or_addresses_are_other_flows() {
    for flow in kinds() {
        let other_tags =
            Flow { tags: flow.tags.iter().map(|tag| tag ^ 1).chain([5]).take(flow.tags.len().max(1)).collect(), ..flow.clone() };
        let others = [
            if flow.mode == Mode::Ip { Flow { source_port: 2, ..flow.clone() } } else { other_tags },
            Flow { source: 77, ..flow.clone() },
            Flow { source_port: 1, ..flow.clone() },
        ];
        for other in others {
            let mut arrivals = vec![];
            for (a, b) in train(&flow, 5, 100, true).into_iter().zip(train(&other, 5, 100, false)) {
                arrivals.extend([a, b]);
            }
            let out = coalesce(ALL, &arrivals);
            assert_eq!(counts(&out), [5, 5]);
            let in_turn: Vec<_> = arrivals.iter().step_by(2).chain(arrivals.iter().skip(1).step_by(2)).cloned().collect();
            assert_eq!(unpacked(&out), expected(&in_turn), "the batch that began first goes out first");
        }
    }
}

#[test]
fn a_broken_checksum_passes_alone_and_unrepaired() {
    for flow in kinds() {
        let places = [flow.payload() + 3, flow.field(), if flow.v6 { flow.l4() + 1 } else { flow.l3() + 11 }];
        for broken in 0..6 {
            for place in places {
                let mut arrivals = train(&flow, 6, 500, false);
                arrivals[broken].frame[place] ^= 0x10;
                arrivals[broken] = Arrival::as_is(arrivals[broken].frame.clone());
                let out = coalesce(ALL, &arrivals);
                let mut frames = unpacked(&out);
                let mut wanted = expected(&arrivals);
                assert!(out.0.iter().any(|write| write.frames == 1 && write.frame == arrivals[broken].frame));
                assert!(out.0.iter().any(|write| write.frames > 1), "the good ones are merged");
                frames.sort();
                wanted.sort();
                assert_eq!(frames, wanted);
            }
        }
    }
}

#[test]
fn an_open_frame_whose_field_is_not_the_pseudo_header_sum_is_not_merged() {
    for flow in kinds() {
        let mut arrivals = train(&flow, 6, 500, true);
        arrivals[2].frame[flow.field()] ^= 1;
        assert_eq!(counts(&coalesce(ALL, &arrivals)), [2, 1, 3]);
    }
}

#[test]
fn udp_without_a_checksum_keeps_it_so() {
    for v6 in [false, true] {
        let flow = Flow::simple(v6, false);
        let mut arrivals = train(&flow, 4, 500, false);
        let at = flow.field();
        arrivals[2].frame[at..at + 2].fill(0);
        arrivals[2] = Arrival::as_is(arrivals[2].frame.clone());
        let out = coalesce(ALL, &arrivals);
        assert_eq!(counts(&out), [2, 1, 1]);
        assert_eq!(unpacked(&out), expected(&arrivals));
    }
}

#[test]
fn padding_options_fragments_and_extensions_flush_the_flow_and_pass() {
    for (tcp, mode) in [true, false].into_iter().flat_map(|tcp| Mode::ALL.map(|mode| (tcp, mode))) {
        let flow = Flow::simple(false, tcp).in_mode(mode);
        let segment = segments(&flow, 1, 300)[0].clone();
        let mut padded = flow.wire(&segment);
        padded.extend([0; 6]);
        let mut first_fragment = flow.wire(&segment);
        first_fragment[flow.l3() + 6] |= 0x20;
        let mut last_fragment = first_fragment.clone();
        last_fragment[flow.l3() + 6..][..2].copy_from_slice(&[0, 40]);
        let options = Flow { ip_options: vec![1; 8], ..flow.clone() }.wire(&segment);
        for odd in [padded, first_fragment, last_fragment, options] {
            check_odd(&flow, odd);
        }
    }
    for (tcp, mode) in [true, false].into_iter().flat_map(|tcp| Mode::ALL.map(|mode| (tcp, mode))) {
        let flow = Flow::simple(true, tcp).in_mode(mode);
        let segment = segments(&flow, 1, 300)[0].clone();
        for number in [0, 43, 44, 60] {
            check_odd(&flow, Flow { extensions: vec![(number, vec![0; 6])], ..flow.clone() }.wire(&segment));
        }
    }
}

/// Three frames, the odd one, three more: nothing overtakes, the odd one is unharmed.
fn check_odd(flow: &Flow, odd: Vec<u8>) {
    let mut arrivals = train(flow, 6, 500, false);
    arrivals.insert(3, Arrival::as_is(odd));
    let out = coalesce(ALL, &arrivals);
    assert_eq!(counts(&out), [3, 1, 3]);
    assert_eq!(out.0[1].header, VnetHeader::default());
    assert_eq!(unpacked(&out), expected(&arrivals));
}

#[test]
fn an_atomic_packet_may_repeat_its_identification_and_others_may_not() {
    for (dont_fragment, frames) in [(true, vec![6]), (false, vec![1; 6])] {
        let flow = Flow { dont_fragment, ..Flow::simple(false, true) };
        let parts = segments(&flow, 6, 500).into_iter().map(|segment| Segment { identification: 0, ..segment });
        let arrivals: Vec<Arrival> = parts.map(|segment| Arrival::good(&flow, &segment, false)).collect();
        assert_eq!(counts(&coalesce(ALL, &arrivals)), frames);
    }
    let flow = Flow::simple(false, true);
    let mut parts = segments(&flow, 6, 500);
    for (part, identification) in parts.iter_mut().zip([7, 7, 8, 9, 9, 9]) {
        part.identification = identification;
    }
    let arrivals: Vec<Arrival> = parts.iter().map(|segment| Arrival::good(&flow, segment, false)).collect();
    assert_eq!(counts(&coalesce(ALL, &arrivals)), [2, 2, 2], "one rule per batch");
}

/// Three frames of each flow, one flow after the other in turn.
fn in_turn(mode: Mode, flows: usize) -> Vec<Arrival> {
    let flow = |i: usize| Flow { source: i as u8, source_port: 7000 + i as u16, ..Flow::simple(false, true).in_mode(mode) };
    let frame = |k: usize, i: usize| Arrival::good(&flow(i), &segments(&flow(i), 3, 400)[k], false);
    (0..3).flat_map(|k| (0..flows).map(move |i| frame(k, i))).collect()
}

#[test]
fn as_many_flows_as_batches_merge_but_for_those_that_share_a_bucket() {
    for mode in Mode::ALL {
        let out = coalesce(ALL, &in_turn(mode, FLOWS));
        let merged = counts(&out).iter().filter(|count| **count == 3).count();
        assert!(merged > FLOWS / 2, "{merged} of {FLOWS}, {mode:?}");
    }
}

#[test]
fn more_flows_than_batches_send_the_oldest_off_and_keep_order() {
    let flows = FLOWS + 50;
    let arrivals = in_turn(Mode::Ethernet, flows);
    let frames = unpacked(&coalesce(ALL, &arrivals));
    assert_eq!(frames.len(), arrivals.len());
    for i in 0..flows {
        let of = |frames: &[Vec<u8>]| frames.iter().filter(|frame| station(frame) == i).cloned().collect::<Vec<_>>();
        assert_eq!(of(&frames), of(&expected(&arrivals)), "flow {i}");
    }
}

/// One step of a flow in the mixed test.
#[derive(Clone, Debug)]
struct Step {
    count: usize,
    size: usize,
    last: usize,
    odd: u8,
    open: u8,
}

fn step() -> impl Strategy<Value = Step> {
    (1_usize..12, 1_usize..1500, 1_usize..1500, any::<u8>(), 0_u8..3).prop_map(|(count, size, last, odd, open)| Step {
        count,
        size,
        last: last.min(size),
        odd,
        open,
    })
}

/// The frames of one flow: trains cut by the real splitter, with odd frames in between.
fn arrivals_of(flow: &Flow, steps: &[Step]) -> Vec<Arrival> {
    let (mut identification, mut sequence) = (0xfff8_u16, 0xffff_fc00_u32);
    let mut out = vec![];
    for step in steps {
        let payload = pattern((step.count - 1) * step.size + step.last, sequence);
        let flags = ACK | if step.odd & 1 != 0 { PSH } else { 0 };
        let whole = Segment { identification, sequence, flags, payload };
        let mut buf = vec![0; 16];
        buf.extend(flow.open(&whole));
        let plan = Plan::new(flow.mode, &flow.vnet(step.size as u16), &buf[16..], 16).expect("a good super-frame");
        let parts = flow.segments(&whole, step.size);
        for (k, part) in parts.iter().enumerate() {
            let open = step.open == 2 || (step.open == 1 && k % 2 == 0);
            let (range, open) = plan.segment(k, &mut buf, if open { Checksums::Defer } else { Checksums::Fill });
            out.push(Arrival { frame: buf[range].to_vec(), open, expected: flow.wire(part) });
        }
        identification = identification.wrapping_add(parts.len() as u16);
        sequence = sequence.wrapping_add(whole.payload.len() as u32);
        let next = Segment { identification, sequence, flags: ACK, payload: pattern(step.last, 4) };
        let mut frame = flow.wire(&next);
        match step.odd >> 1 {
            0..16 => frame[flow.payload()] ^= 0x40,
            16..32 => frame = flow.wire(&Segment { payload: vec![], ..next }),
            32..48 => frame.extend([0; 4]),
            48..64 if flow.tcp => frame = flow.wire(&Segment { flags: ACK | FIN, ..next }),
            48..64 => frame[flow.field()..][..2].fill(0),
            _ => continue,
        }
        out.push(Arrival::as_is(frame));
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn splitting_and_coalescing_give_the_same_frames_in_order_per_flow(
        flows in prop::collection::vec((simple_flow(), prop::collection::vec(step(), 1..6)), 1..6),
        turns in prop::collection::vec((any::<u8>(), 1_usize..20), 100),
        mode in offload::modes(),
    ) {
        let mut queues: Vec<Vec<Arrival>> = vec![];
        for (i, (flow, steps)) in flows.iter().enumerate() {
            let flow = Flow { source: i as u8, ..flow.in_mode(mode) };
            let mut queue = arrivals_of(&flow, steps);
            queue.reverse();
            queues.push(queue);
        }
        let mut arrivals = vec![];
        let mut wanted: Vec<Vec<Vec<u8>>> = vec![vec![]; flows.len()];
        for (pick, run) in turns.iter().cycle() {
            let busy: Vec<usize> = (0..queues.len()).filter(|i| !queues[*i].is_empty()).collect();
            let Some(&i) = busy.get(usize::from(*pick) % busy.len().max(1)) else { break };
            for _ in 0..*run {
                if let Some(arrival) = queues[i].pop() {
                    wanted[i].push(arrival.expected.clone());
                    arrivals.push(arrival);
                }
            }
        }
        let out = coalesce_in(mode, ALL, &arrivals);
        let mut got: Vec<Vec<Vec<u8>>> = vec![vec![]; flows.len()];
        for frame in unpacked(&out) {
            got[station(&frame)].push(frame);
        }
        prop_assert_eq!(&got, &wanted);
        // With one flow and no odd frames, the trains come out as they went in.
        if let [(_, steps)] = &flows[..] {
            let odd = steps.iter().any(|step| step.odd >> 1 < 64);
            let apart = steps.iter().all(|step| step.odd & 1 != 0 || step.last < step.size);
            if !odd && apart && flows[0].0.tcp {
                let trains: Vec<usize> = steps.iter().map(|step| step.count).collect();
                prop_assert_eq!(counts(&out), trains);
            }
        }
    }

    #[test]
    fn garbage_never_panics_and_passes_unharmed(
        flow in offload::any_flow(),
        open in any::<bool>(),
        changes in prop::collection::vec(prop::collection::vec((0_usize..90, any::<u8>()), 0..4), 1..40),
        lengths in prop::collection::vec(0_usize..200, 40),
        noise in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let parts = segments(&flow, changes.len(), 100);
        let mut arrivals = vec![Arrival::as_is(noise)];
        for ((changes, part), len) in changes.iter().zip(&parts).zip(lengths) {
            let mut frame = if open { flow.open(part) } else { flow.wire(part) };
            for (at, byte) in changes {
                if let Some(place) = frame.get_mut(*at) {
                    *place = *byte;
                }
            }
            if len < 100 {
                frame.truncate(len);
            }
            arrivals.push(Arrival { open, ..Arrival::as_is(frame) });
        }
        let out = coalesce_in(flow.mode, ALL, &arrivals);
        prop_assert_eq!(out.0.iter().map(|write| write.frames).sum::<usize>(), arrivals.len());
        if !open {
            let (mut frames, mut wanted) = (unpacked(&out), expected(&arrivals));
            frames.sort();
            wanted.sort();
            prop_assert_eq!(frames, wanted);
        }
        for write in &out.0 {
            if write.frames == 1 {
                prop_assert!(arrivals.iter().any(|arrival| arrival.frame == write.frame));
            }
        }
    }
}

#[test]
fn a_sum_of_the_whole_frame_proves_the_oracle() {
    // RFC 1071: with the checksum in place, header and pseudo-header sum up to ffff.
    for flow in kinds() {
        let frame = flow.wire(&segments(&flow, 1, 333)[0]);
        let l4 = &frame[flow.l4()..];
        assert_eq!(plain_sum(&[&flow.open_field(333).to_be_bytes(), l4]), 0xffff);
        assert_eq!(flow.vnet(0).flags, vnet::NEEDS_CSUM);
    }
}
