//! Frames and packets of hosts, of guests of the TAP, and of peers.

use adit_dataplane::tap::coalesce::{Coalescer, Emit, FRAMES_MAX, Limits, Sink};
use adit_dataplane::tap::headers::{self, Layers};
use adit_dataplane::tap::split::{Checksums, Plan};
use adit_dataplane::tap::vnet::{self, VnetHeader};
use adit_ipsec::fuzzing::Flow;
use adit_proto::control::Mode;
use adit_proto::packet::{Packet, Port, ip_len};

use super::Input;

/// Bytes in front of a frame, as in the data plane's buffers.
const FRONT: usize = 26;

/// What selectors see of a packet is what the offloads see, where these see ports; and the library takes what the data plane takes.
pub fn ip_packet(data: &[u8]) {
    let _ = headers::parse(Mode::Ethernet, data);
    let whole = ip_len(data);
    let flow = Flow::of(data);
    assert_eq!(whole, flow.as_ref().ok().map(|flow| (flow.len, flow.source().is_ipv6())));
    let Ok(flow) = flow else { return };
    assert!(flow.len <= data.len());
    let packet = Packet::parse(&data[..flow.len]).expect("an IP packet");
    assert_eq!(packet, flow.packet);
    let addresses = if packet.v6 { (&data[8..24], &data[24..40]) } else { (&data[12..16], &data[16..20]) };
    let number = |bytes: &[u8]| bytes.iter().fold(0u128, |sum, byte| sum << 8 | u128::from(*byte));
    assert_eq!((packet.source.address, packet.destination.address), (number(addresses.0), number(addresses.1)));
    if let Layers::Transport(transport) = headers::parse(Mode::Ip, &data[..flow.len]) {
        let port = |at: usize| Port::Number(u16::from_be_bytes([data[transport.l4 + at], data[transport.l4 + at + 1]]));
        assert_eq!((packet.source.port, packet.destination.port), (port(0), port(2)), "{packet:?}");
        assert_eq!(packet.protocol, Some(transport.protocol()));
    }
}

/// A virtio-net header and a frame: refused, or cut within the frame.
pub fn split(data: &[u8]) {
    let Some((header, frame)) = data.split_first_chunk::<{ vnet::LEN }>() else { return };
    let header = VnetHeader::parse(header);
    for (mode, checksums) in Mode::ALL.into_iter().flat_map(|mode| [(mode, Checksums::Fill), (mode, Checksums::Defer)]) {
        let Ok(plan) = Plan::new(mode, &header, frame, FRONT) else { continue };
        let mut buffer = [&[0xee; FRONT], frame].concat();
        let (segments, mut longest) = (plan.segments(), 0);
        assert!((1..=frame.len().max(1)).contains(&segments));
        for k in 0..segments {
            let (range, _) = plan.segment(k, &mut buffer, checksums);
            assert!(range.start >= FRONT && range.end <= buffer.len() && range.len() == plan.segment_len(k));
            longest = longest.max(range.len());
        }
        assert_eq!(longest, plan.longest());
        assert_eq!(buffer[..FRONT], [0xee; FRONT], "nothing is written in front of the frame");
    }
}

#[derive(Default)]
struct Count {
    frames: usize,
    bytes: usize,
}

impl Sink for Count {
    fn emit(&mut self, arena: &[u8], emit: Emit<'_>) {
        let pieces: usize = emit.tails.iter().map(|piece| arena[piece.at as usize..][..piece.len as usize].len()).sum();
        let head = &arena[emit.head.clone()];
        let header = VnetHeader::parse(head.first_chunk().expect("a virtio-net header"));
        assert!(emit.frames >= 1 && emit.frames <= FRAMES_MAX);
        assert!(emit.frames == 1 || header.gso_type != vnet::GSO_NONE);
        let frame = head.len() - vnet::LEN + pieces;
        assert!(frame <= 65_535 || emit.frames == 1);
        self.frames += emit.frames;
        self.bytes += frame;
    }
}

/// Frames one after the other, each with its length: all come out, in super-frames that the kernel could cut up again.
pub fn coalesce(data: &[u8]) {
    let mut input = Input::new(data);
    let first = input.u8();
    let mode = if first & 1 == 0 { Mode::Ethernet } else { Mode::Ip };
    let limits = Limits { tso: first & 2 == 0, uso: first & 4 == 0, uso_frames: if first & 8 == 0 { FRAMES_MAX } else { 64 } };
    let (mut arena, mut places) = (Vec::new(), Vec::new());
    while !input.is_empty() && places.len() < 300 {
        let open = input.u8() & 1 == 1;
        let frame = input.part();
        arena.extend([0xee; FRONT]);
        arena.extend(frame);
        places.push((arena.len() - frame.len()..arena.len(), open));
    }
    let mut coalescer = Coalescer::new(mode, limits);
    let mut out = Count::default();
    let frames = places.len();
    for (place, open) in places {
        coalescer.push(&mut arena, place, open, &mut out);
    }
    coalescer.flush(&mut arena, &mut out);
    assert_eq!(out.frames, frames);
}
