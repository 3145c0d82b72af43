//! An oracle for the offloads: builds wire frames field by field, with sums made by a plain loop over 16-bit words. It shares
//! no code with what it judges.

#![allow(dead_code, reason = "each test file uses its part")]

use adit_dataplane::tap::coalesce::{Emit, Sink};
use adit_dataplane::tap::vnet::{self, VnetHeader};
use adit_proto::control::Mode;
use proptest::prelude::*;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const ECE: u8 = 0x40;
pub const CWR: u8 = 0x80;

/// What all frames of a flow have in common.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Ethernet frames, or bare IP packets, which have no tags.
    pub mode: Mode,
    pub v6: bool,
    pub tcp: bool,
    /// VLAN tags, outermost first.
    pub tags: Vec<u16>,
    pub source: u8,
    pub source_port: u16,
    pub traffic_class: u8,
    pub hop_limit: u8,
    pub flow_label: u32,
    pub dont_fragment: bool,
    /// IPv4 options, a multiple of 4 bytes.
    pub ip_options: Vec<u8>,
    /// IPv6 extension headers: protocol number and body after the first two bytes (6 + 8n bytes).
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// Last byte of the destination in the pseudo-header, where a routing header makes it another.
    pub final_destination: Option<u8>,
    /// TCP options, a multiple of 4 bytes.
    pub tcp_options: Vec<u8>,
    pub ack: u32,
    pub window: u16,
}

/// What differs from frame to frame.
#[derive(Clone, Debug)]
pub struct Segment {
    pub identification: u16,
    pub sequence: u32,
    pub flags: u8,
    pub payload: Vec<u8>,
}

/// The plain loop: RFC 1071, word by word.
pub fn plain_sum(parts: &[&[u8]]) -> u16 {
    let bytes: Vec<u8> = parts.concat();
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        if sum > 0xffff {
            sum = sum - 0x1_0000 + 1;
        }
    }
    sum as u16
}

impl Flow {
    pub fn simple(v6: bool, tcp: bool) -> Flow {
        Flow {
            mode: Mode::Ethernet,
            v6,
            tcp,
            tags: vec![],
            source: 1,
            source_port: 40_000,
            traffic_class: 0,
            hop_limit: 64,
            flow_label: 0x12345,
            dont_fragment: true,
            ip_options: vec![],
            extensions: vec![],
            final_destination: None,
            tcp_options: if tcp { vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8] } else { vec![] },
            ack: 0x8765_4321,
            window: 501,
        }
    }

    /// The same flow in a mode.
    pub fn in_mode(&self, mode: Mode) -> Flow {
        let tags = if mode == Mode::Ip { vec![] } else { self.tags.clone() };
        Flow { mode, tags, ..self.clone() }
    }

    fn source_address(&self) -> Vec<u8> {
        if self.v6 { [&[0xfd][..], &[0; 14], &[self.source]].concat() } else { vec![10, 0, 0, self.source] }
    }

    fn destination_address(&self, last: u8) -> Vec<u8> {
        if self.v6 { [&[0xfd][..], &[7; 14], &[last]].concat() } else { vec![10, 9, 9, last] }
    }

    pub fn ethernet(&self) -> Vec<u8> {
        if self.mode == Mode::Ip {
            return vec![];
        }
        let mut out = vec![2, 0, 0, 0, 0, 0xbb, 2, 0, 0, 0, 0, self.source];
        for (i, tag) in self.tags.iter().enumerate() {
            let outer = i == 0 && self.tags.len() == 2;
            out.extend(if outer { [0x88, 0xa8] } else { [0x81, 0x00] });
            out.extend(tag.to_be_bytes());
        }
        out.extend(if self.v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
        out
    }

    /// Offset of the IP header.
    pub fn l3(&self) -> usize {
        if self.mode == Mode::Ip { 0 } else { 14 + 4 * self.tags.len() }
    }

    /// Offset of the transport header.
    pub fn l4(&self) -> usize {
        let extensions: usize = self.extensions.iter().map(|(_, body)| body.len() + 2).sum();
        self.l3() + if self.v6 { 40 + extensions } else { 20 + self.ip_options.len() }
    }

    /// Offset of the payload.
    pub fn payload(&self) -> usize {
        self.l4() + if self.tcp { 20 + self.tcp_options.len() } else { 8 }
    }

    /// Offset of the checksum field.
    pub fn field(&self) -> usize {
        self.l4() + self.checksum_offset()
    }

    pub fn checksum_offset(&self) -> usize {
        if self.tcp { 16 } else { 6 }
    }

    fn protocol(&self) -> u8 {
        if self.tcp { 6 } else { 17 }
    }

    /// RFC 9293 section 3.1, RFC 8200 section 8.1.
    fn pseudo_header(&self, len: usize) -> Vec<u8> {
        let destination = self.destination_address(self.final_destination.unwrap_or(2));
        let mut out = [self.source_address(), destination].concat();
        if self.v6 {
            out.extend((len as u32).to_be_bytes());
            out.extend([0, 0, 0, self.protocol()]);
        } else {
            out.extend([0, self.protocol()]);
            out.extend((len as u16).to_be_bytes());
        }
        out
    }

    fn transport(&self, segment: &Segment) -> Vec<u8> {
        let mut out = vec![];
        out.extend(self.source_port.to_be_bytes());
        out.extend(5201_u16.to_be_bytes());
        if self.tcp {
            out.extend(segment.sequence.to_be_bytes());
            out.extend(self.ack.to_be_bytes());
            out.extend([(((20 + self.tcp_options.len()) / 4) << 4) as u8, segment.flags]);
            out.extend(self.window.to_be_bytes());
            out.extend([0, 0, 0, 0]);
            out.extend(&self.tcp_options);
        } else {
            out.extend(((8 + segment.payload.len()) as u16).to_be_bytes());
            out.extend([0, 0]);
        }
        out.extend(&segment.payload);
        out
    }

    fn network(&self, segment: &Segment, transport_len: usize) -> Vec<u8> {
        let mut out = vec![];
        if self.v6 {
            let extensions: usize = self.extensions.iter().map(|(_, body)| body.len() + 2).sum();
            out.extend((6 << 28 | u32::from(self.traffic_class) << 20 | self.flow_label).to_be_bytes());
            out.extend(((extensions + transport_len) as u16).to_be_bytes());
            out.extend([self.extensions.first().map_or(self.protocol(), |(next, _)| *next), self.hop_limit]);
            out.extend(self.source_address());
            out.extend(self.destination_address(2));
            for (i, (_, body)) in self.extensions.iter().enumerate() {
                let next = self.extensions.get(i + 1).map_or(self.protocol(), |(next, _)| *next);
                out.extend([next, ((body.len() + 2) / 8 - 1) as u8]);
                out.extend(body);
            }
        } else {
            let header = 20 + self.ip_options.len();
            out.extend([0x40 | (header / 4) as u8, self.traffic_class]);
            out.extend(((header + transport_len) as u16).to_be_bytes());
            out.extend(segment.identification.to_be_bytes());
            out.extend([if self.dont_fragment { 0x40 } else { 0 }, 0, self.hop_limit, self.protocol(), 0, 0]);
            out.extend(self.source_address());
            out.extend(self.destination_address(2));
            out.extend(&self.ip_options);
            let sum = !plain_sum(&[&out]);
            out[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        out
    }

    /// The pseudo-header sum of a frame with this much payload.
    pub fn open_field(&self, payload: usize) -> u16 {
        plain_sum(&[&self.pseudo_header(self.payload() - self.l4() + payload)])
    }

    /// A frame as it stands on the wire, checksums complete.
    pub fn wire(&self, segment: &Segment) -> Vec<u8> {
        let transport = self.transport(segment);
        let mut sum = !plain_sum(&[&self.pseudo_header(transport.len()), &transport]);
        if !self.tcp && sum == 0 {
            sum = 0xffff;
        }
        let mut out = [self.ethernet(), self.network(segment, transport.len()), transport].concat();
        out[self.field()..][..2].copy_from_slice(&sum.to_be_bytes());
        out
    }

    /// The same frame with an open checksum.
    pub fn open(&self, segment: &Segment) -> Vec<u8> {
        let mut out = self.wire(segment);
        out[self.field()..][..2].copy_from_slice(&self.open_field(segment.payload.len()).to_be_bytes());
        out
    }

    /// The virtio-net header of a frame of this flow; `gso_size` 0 for a plain one with an open checksum.
    pub fn vnet(&self, gso_size: u16) -> VnetHeader {
        VnetHeader {
            flags: vnet::NEEDS_CSUM,
            gso_type: match (gso_size, self.tcp, self.v6) {
                (0, ..) => vnet::GSO_NONE,
                (_, true, false) => vnet::GSO_TCPV4,
                (_, true, true) => vnet::GSO_TCPV6,
                (_, false, _) => vnet::GSO_UDP_L4,
            },
            hdr_len: if gso_size == 0 { 0 } else { self.payload() as u16 },
            gso_size,
            csum_start: self.l4() as u16,
            csum_offset: self.checksum_offset() as u16,
        }
    }

    /// What the wire frames of a super-frame are.
    pub fn segments(&self, whole: &Segment, gso_size: usize) -> Vec<Segment> {
        let chunks: Vec<&[u8]> = if whole.payload.is_empty() { vec![&[]] } else { whole.payload.chunks(gso_size).collect() };
        let last = chunks.len() - 1;
        let cut = |(k, chunk): (usize, &&[u8])| Segment {
            identification: whole.identification.wrapping_add(k as u16),
            sequence: whole.sequence.wrapping_add((k * gso_size) as u32),
            flags: whole.flags & !if k == 0 { 0 } else { CWR } & !if k == last { 0 } else { FIN | PSH },
            payload: chunk.to_vec(),
        };
        chunks.iter().enumerate().map(cut).collect()
    }
}

/// Bytes that tell where they are, and that sum up to something.
pub fn pattern(len: usize, seed: u32) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(40_503)) >> 13) as u8).collect()
}

/// The mode of a good frame of a flow: the stations of all flows begin with 2.
pub fn mode_of(frame: &[u8]) -> Mode {
    if frame.first() == Some(&2) { Mode::Ethernet } else { Mode::Ip }
}

/// The number of the station that sent a good frame.
pub fn station(frame: &[u8]) -> usize {
    let at = match mode_of(frame) {
        Mode::Ethernet => 11,
        Mode::Ip if frame[0] >> 4 == 6 => 23,
        Mode::Ip => 15,
    };
    frame[at].into()
}

pub fn modes() -> impl Strategy<Value = Mode> {
    prop::sample::select(Mode::ALL.to_vec())
}

/// Flows without anything that keeps them from being merged.
pub fn simple_flow() -> impl Strategy<Value = Flow> {
    let tags = prop::collection::vec(any::<u16>(), 0..=2);
    let options = prop::sample::select(vec![0_usize, 4, 12, 40]);
    let flow = (any::<(bool, bool, u8, u8, u32)>(), tags, options, any::<(u16, u32, u16, bool)>()).prop_map(
        |((v6, tcp, traffic_class, hop_limit, flow_label), tags, options, (source_port, ack, window, dont_fragment))| Flow {
            tags,
            source_port,
            traffic_class,
            hop_limit,
            flow_label: flow_label & 0xf_ffff,
            dont_fragment,
            tcp_options: if tcp { pattern(options, ack) } else { vec![] },
            ack,
            window,
            ..Flow::simple(v6, tcp)
        },
    );
    (flow, modes()).prop_map(|(flow, mode)| flow.in_mode(mode))
}

/// Flows with IP options or extension headers too.
pub fn any_flow() -> impl Strategy<Value = Flow> {
    let extension = (prop::sample::select(vec![0_u8, 43, 60, 135]), prop::sample::select(vec![6_usize, 14, 22]));
    let extensions = prop::collection::vec(extension, 0..3);
    (simple_flow(), 0_usize..=10, extensions, any::<Option<u8>>()).prop_map(|(flow, options, extensions, final_destination)| {
        if flow.v6 {
            let extensions: Vec<_> = extensions.into_iter().map(|(number, len)| (number, pattern(len, 9))).collect();
            let final_destination = if extensions.is_empty() { None } else { final_destination };
            Flow { extensions, final_destination, ..flow }
        } else {
            Flow { ip_options: vec![1; options * 4], ..flow }
        }
    })
}

/// One write to the TAP, copied out of the arena.
#[derive(Clone, Debug)]
pub struct Write {
    pub mode: Mode,
    pub header: VnetHeader,
    pub frame: Vec<u8>,
    pub frames: usize,
}

/// A sink that keeps copies.
#[derive(Default)]
pub struct Writes(pub Vec<Write>);

impl Sink for Writes {
    fn emit(&mut self, arena: &[u8], emit: Emit<'_>) {
        let mut bytes = arena[emit.head.clone()].to_vec();
        for piece in emit.tails {
            bytes.extend(&arena[piece.at as usize..][..piece.len as usize]);
        }
        let frame = bytes.split_off(vnet::LEN);
        let header = VnetHeader::parse(bytes.first_chunk().expect("a virtio-net header"));
        self.0.push(Write { mode: mode_of(&frame), header, frame, frames: emit.frames });
    }
}

impl Write {
    /// The frames that the kernel would make of this write, checksums completed, by its rules and in plain steps.
    pub fn unpack(&self) -> Vec<Vec<u8>> {
        let VnetHeader { flags, gso_type, csum_start, csum_offset, gso_size, .. } = self.header;
        let (l4, offset) = (usize::from(csum_start), usize::from(csum_offset));
        if flags & vnet::NEEDS_CSUM == 0 {
            assert_eq!(self.header, VnetHeader::default());
            return vec![self.frame.clone()];
        }
        let mut frame = self.frame.clone();
        let tags = [12, 16].iter().take_while(|at| [[0x81, 0], [0x88, 0xa8]].contains(&[frame[**at], frame[**at + 1]])).count();
        let l3 = if self.mode == Mode::Ip { 0 } else { 14 + 4 * tags };
        let v6 = frame[l3] >> 4 == 6;
        let protocol = if v6 { frame[l3 + 6] } else { frame[l3 + 9] };
        let tcp = protocol == 6;
        assert_eq!(offset, if tcp { 16 } else { 6 });
        let addresses = if v6 { frame[l3 + 8..l3 + 40].to_vec() } else { frame[l3 + 12..l3 + 20].to_vec() };
        if gso_type == vnet::GSO_NONE {
            let mut sum = !plain_sum(&[&frame[l4..]]);
            if sum == 0 && !tcp {
                sum = 0xffff;
            }
            frame[l4 + offset..][..2].copy_from_slice(&sum.to_be_bytes());
            return vec![frame];
        }
        let payload = l4 + if tcp { usize::from(frame[l4 + 12] >> 4) * 4 } else { 8 };
        self.assert_super_frame(
            l3,
            l4,
            payload,
            plain_sum(&[&addresses, &[0, protocol], &((frame.len() - l4) as u16).to_be_bytes()]),
        );
        let chunks: Vec<&[u8]> = frame[payload..].chunks(usize::from(gso_size)).collect();
        assert!(chunks.len() > 1 && chunks.len() == self.frames, "{} chunks, {} frames", chunks.len(), self.frames);
        let cut = |(k, chunk): (usize, &&[u8])| {
            let mut out = [&frame[..payload], chunk].concat();
            let l4_len = out.len() - l4;
            if v6 {
                out[l3 + 4..l3 + 6].copy_from_slice(&(l4_len as u16).to_be_bytes());
            } else {
                let id = u16::from_be_bytes([out[l3 + 4], out[l3 + 5]]).wrapping_add(k as u16);
                out[l3 + 2..l3 + 4].copy_from_slice(&((l4 - l3 + l4_len) as u16).to_be_bytes());
                out[l3 + 4..l3 + 6].copy_from_slice(&id.to_be_bytes());
                out[l3 + 10..l3 + 12].fill(0);
                let sum = !plain_sum(&[&out[l3..l4]]);
                out[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
            }
            if tcp {
                let sequence = u32::from_be_bytes(*out[l4 + 4..].first_chunk().expect("four bytes"));
                let sequence = sequence.wrapping_add(k as u32 * u32::from(gso_size));
                out[l4 + 4..l4 + 8].copy_from_slice(&sequence.to_be_bytes());
                out[l4 + 13] &= !if k + 1 == chunks.len() { 0 } else { FIN | PSH } & !if k == 0 { 0 } else { CWR };
            } else {
                out[l4 + 4..l4 + 6].copy_from_slice(&(l4_len as u16).to_be_bytes());
            }
            out[l4 + offset..][..2].fill(0);
            let mut sum = !plain_sum(&[&addresses, &[0, protocol], &(l4_len as u16).to_be_bytes(), &out[l4..]]);
            if sum == 0 && !tcp {
                sum = 0xffff;
            }
            out[l4 + offset..][..2].copy_from_slice(&sum.to_be_bytes());
            out
        };
        chunks.iter().enumerate().map(cut).collect()
    }

    /// The kernel's demands on the header and the lengths of a super-frame whose pseudo-header sums up to `pseudo`.
    fn assert_super_frame(&self, l3: usize, l4: usize, payload: usize, pseudo: u16) {
        let frame = &self.frame;
        let VnetHeader { gso_type, csum_offset, hdr_len, .. } = self.header;
        let (v6, offset) = (frame[l3] >> 4 == 6, usize::from(csum_offset));
        let tcp = offset == 16;
        let field = u16::from_be_bytes([frame[l4 + offset], frame[l4 + offset + 1]]);
        assert_eq!(
            gso_type,
            if !tcp {
                vnet::GSO_UDP_L4
            } else if v6 {
                vnet::GSO_TCPV6
            } else {
                vnet::GSO_TCPV4
            }
        );
        assert_eq!(usize::from(hdr_len), payload);
        assert_eq!(field, pseudo, "the open checksum of a super-frame is its pseudo-header sum");
        let ip_len = u16::from_be_bytes(if v6 { [frame[l3 + 4], frame[l3 + 5]] } else { [frame[l3 + 2], frame[l3 + 3]] });
        assert_eq!(usize::from(ip_len), frame.len() - if v6 { l3 + 40 } else { l3 }, "the IP length");
        if !v6 {
            assert_eq!(plain_sum(&[&frame[l3..l4]]), 0xffff, "the IPv4 header checksum");
        }
        if !tcp {
            assert_eq!(usize::from(u16::from_be_bytes([frame[l4 + 4], frame[l4 + 5]])), frame.len() - l4, "the UDP length");
        }
    }
}
