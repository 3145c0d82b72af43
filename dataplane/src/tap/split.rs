//! Outbound: cuts a super-frame read from the TAP into wire frames and completes checksums that the kernel left open.
//!
//! [`Plan::new`] checks the virtio-net header against the frame and sums up once what all segments have in common.
//! [`Plan::segment`] then copies the headers of segment k − 1 right in front of the payload of segment k, over the tail of
//! segment k − 1, which the caller has sealed into other memory by then, and patches them: no payload byte is moved.
//!
//! ```text
//! headers | payload 0      | payload 1      | payload 2
//! ^^^^^^^^^^^^^^^^^^^^^^^^^^ segment 0, in place
//!                 headers 1|^^^^^^^^^^^^^^^^ segment 1
//! ```
//!
//! Pseudo-header sums are not made from the addresses but from the field, as the kernel does, because the two differ where
//! a routing header names another destination.

use std::ops::Range;

use adit_proto::control::Mode;
use adit_proto::stats::Drop;

use super::headers::{self, IPV4, IPV6, Layers, PROTO_TCP, PROTO_UDP, TCP, TCP_CHECKSUM, UDP, UDP_CHECKSUM, be16, be32, put16};
use super::vnet::{self, VnetHeader};
use crate::checksum;
use adit_proto::limits::IP_PACKET_LEN_MAX;

/// Longest headers (from the first byte to TCP, with extension headers) of a super-frame.
pub const HEADERS_MAX: usize = 256;

/// Most wire frames of one super-frame: a whole IP packet in the smallest segments that Linux makes (`TCP_MIN_SND_MSS`). A guest can
/// ask for more and so keep a worker busy with one read.
const SEGMENTS_MAX: usize = IP_PACKET_LEN_MAX / 48;

/// Where SCTP has its CRC32c, the only open "checksum" of the kernel that is not an Internet checksum. Never announced.
const SCTP_CHECKSUM: usize = 8;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// What to do with a checksum that the kernel left open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksums {
    /// Complete it.
    Fill,
    /// Leave the pseudo-header sum in the field where the receiver can find it by itself; else complete it.
    Defer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Nothing to do.
    Whole,
    /// One frame whose checksum is open.
    Open,
    /// To be cut.
    Tcp,
    Udp,
}

/// How one frame from the TAP becomes wire frames. Small, because it is moved about.
#[derive(Clone, Debug)]
pub struct Plan {
    kind: Kind,
    v6: bool,
    /// The receiver can find the checksum field by parsing.
    deferrable: bool,
    /// Flags of the TCP header.
    flags: u8,
    /// Where the frame begins in the caller's buffer.
    start: u32,
    /// Length of the frame.
    len: u32,
    segments: u32,
    sequence: u32,
    /// Payload bytes of every segment but the last.
    size: u16,
    /// Offsets in the frame: IP header, transport header, payload.
    l3: u16,
    l4: u16,
    payload: u16,
    /// Offset of the checksum field from the transport header.
    offset: u16,
    /// Sum of the IPv4 header without length, identification and checksum.
    ip_sum: u16,
    identification: u16,
    /// Pseudo-header sum without the length.
    pseudo: u16,
    /// Sum of the transport header without checksum and without what differs from segment to segment.
    l4_sum: u16,
}

const _: () = assert!(size_of::<Plan>() <= 48);

impl Plan {
    /// The plan for what stands at `place` of the buffer and goes as it is.
    pub fn whole(place: Range<usize>) -> Plan {
        Plan {
            kind: Kind::Whole,
            v6: false,
            deferrable: false,
            flags: 0,
            start: place.start as u32,
            len: place.len() as u32,
            segments: 1,
            sequence: 0,
            size: 0,
            l3: 0,
            l4: 0,
            payload: 0,
            offset: 0,
            ip_sum: 0,
            identification: 0,
            pseudo: 0,
            l4_sum: 0,
        }
    }

    /// Plans for `frame`, an Ethernet frame or an IP packet, which begins at `frame_start` of the buffer that [`Plan::segment`] will be given.
    /// [`Drop::BadOffload`] when the header does not fit the frame.
    #[inline]
    pub fn new(mode: Mode, header: &VnetHeader, frame: &[u8], frame_start: usize) -> Result<Plan, Drop> {
        let place = frame_start..frame_start + frame.len();
        let whole = Plan { l4: header.csum_start, offset: header.csum_offset, ..Plan::whole(place) };
        let plan = match header.gso_type & !vnet::GSO_ECN {
            vnet::GSO_NONE if !header.needs_csum() => return Ok(whole),
            vnet::GSO_NONE => whole.open_checksum(mode, header, frame),
            vnet::GSO_TCPV4 => whole.super_frame(mode, header, frame, Kind::Tcp, Some(false)),
            vnet::GSO_TCPV6 => whole.super_frame(mode, header, frame, Kind::Tcp, Some(true)),
            vnet::GSO_UDP_L4 => whole.super_frame(mode, header, frame, Kind::Udp, None),
            _ => None,
        };
        plan.ok_or(Drop::BadOffload)
    }

    /// A plain frame whose checksum is to be completed: any protocol, by the offsets alone.
    #[inline]
    fn open_checksum(self, mode: Mode, header: &VnetHeader, frame: &[u8]) -> Option<Plan> {
        let (l4, offset) = (usize::from(header.csum_start), usize::from(header.csum_offset));
        if l4 < headers::link_header(mode) || l4 + offset + 2 > frame.len() || offset == SCTP_CHECKSUM {
            return None;
        }
        let deferrable = match headers::parse(mode, frame) {
            Layers::Transport(found) => found.l4 == l4 && found.checksum_offset() == offset,
            Layers::Hidden { .. } | Layers::Other => false,
        };
        Some(Plan { kind: Kind::Open, deferrable, ..self })
    }

    /// A super-frame: checks it and prepares what all segments share. `v6` is what the GSO type says, if it says it.
    fn super_frame(self, mode: Mode, header: &VnetHeader, frame: &[u8], kind: Kind, v6: Option<bool>) -> Option<Plan> {
        let (l3, found_v6) = headers::network(mode, frame)?;
        let tcp = kind == Kind::Tcp;
        let (protocol, offset) = if tcp { (PROTO_TCP, TCP_CHECKSUM) } else { (PROTO_UDP, UDP_CHECKSUM) };
        if v6.is_some_and(|v6| v6 != found_v6) || header.gso_size == 0 || frame.len() > l3 + usize::from(u16::MAX) {
            return None;
        }
        // GSO comes with an open checksum: only so is it known where the transport header is.
        if !header.needs_csum() || usize::from(header.csum_offset) != offset {
            return None;
        }
        let l4 = usize::from(header.csum_start);
        let leads =
            if found_v6 { headers::ipv6_chain_leads_to(frame, l3, l4, protocol) } else { ipv4_leads_to(frame, l3, l4, protocol) };
        let l4_len = if tcp { usize::from(*frame.get(l4 + 12)? >> 4) * 4 } else { UDP };
        let payload = l4 + l4_len;
        if !leads || (tcp && l4_len < TCP) || payload > HEADERS_MAX || payload > frame.len() {
            return None;
        }
        let segments = (frame.len() - payload).div_ceil(usize::from(header.gso_size)).max(1);
        if segments > SEGMENTS_MAX {
            return None;
        }
        let mut plan = Plan {
            kind,
            v6: found_v6,
            deferrable: !found_v6 || l4 == l3 + IPV6,
            segments: segments as u32,
            size: header.gso_size,
            l3: l3 as u16,
            payload: payload as u16,
            ..self
        };
        plan.sum_up(frame);
        Some(plan)
    }

    /// Sums over the headers, without the fields that differ from segment to segment.
    fn sum_up(&mut self, frame: &[u8]) {
        let (l4_at, offset) = (usize::from(self.l4), usize::from(self.offset));
        let (ip, l4) = (&frame[usize::from(self.l3)..l4_at], &frame[l4_at..usize::from(self.payload)]);
        let total = (frame.len() - l4_at) as u16;
        self.pseudo = checksum::sub(be16(l4, offset), total);
        let mut sum = checksum::sub(checksum::sum(l4), be16(l4, offset));
        if self.kind == Kind::Tcp {
            self.flags = l4[13];
            self.sequence = be32(l4, 4);
            for at in [4, 6] {
                sum = checksum::sub(sum, be16(l4, at));
            }
            sum = checksum::sub(sum, u16::from(self.flags));
        } else {
            sum = checksum::sub(sum, be16(l4, 4));
        }
        self.l4_sum = sum;
        if !self.v6 {
            self.identification = be16(ip, 4);
            sum = checksum::sum(ip);
            for at in [2, 4, 10] {
                sum = checksum::sub(sum, be16(ip, at));
            }
            self.ip_sum = sum;
        }
    }

    /// The same super-frame in segments of at most `longest` bytes. `None` when it is none, when its headers leave no room, or when
    /// it would become too many.
    pub fn shortened(&self, longest: usize) -> Option<Plan> {
        let (len, payload) = (self.len as usize, usize::from(self.payload));
        if matches!(self.kind, Kind::Whole | Kind::Open) {
            return None;
        }
        let size = longest.checked_sub(payload).filter(|size| *size > 0)?.min(self.size.into());
        let segments = (len - payload).div_ceil(size).max(1);
        (segments <= SEGMENTS_MAX).then(|| Plan { size: size as u16, segments: segments as u32, ..self.clone() })
    }

    /// The TCP header of a super-frame of TCP, options included.
    pub fn tcp_header<'a>(&self, frame: &'a [u8]) -> Option<&'a [u8]> {
        if self.kind == Kind::Tcp { frame.get(self.l4.into()..self.payload.into()) } else { None }
    }

    /// True when the kernel says that there is more than one frame.
    pub fn is_super_frame(&self) -> bool {
        matches!(self.kind, Kind::Tcp | Kind::Udp)
    }

    /// How many wire frames come of it; at least 1.
    #[inline(always)]
    pub const fn segments(&self) -> usize {
        self.segments as usize
    }

    /// Length of segment `k` in bytes, a whole frame.
    #[inline(always)]
    pub fn segment_len(&self, k: usize) -> usize {
        let (len, payload, size) = (self.len as usize, usize::from(self.payload), usize::from(self.size));
        match self.kind {
            Kind::Whole | Kind::Open => len,
            Kind::Tcp | Kind::Udp => payload + (len - payload).saturating_sub(k * size).min(size),
        }
    }

    /// Length of the longest segment in bytes.
    #[inline(always)]
    pub fn longest(&self) -> usize {
        self.segment_len(0)
    }

    /// True when the kernel left checksums open, so that every segment's is either filled or sent on open.
    #[inline(always)]
    pub fn needs_checksum(&self) -> bool {
        self.kind != Kind::Whole
    }

    /// Makes segment `k`, counted from 0, in `buf`, the buffer that holds the frame. Returns where it stands, and whether
    /// its checksum is open. To be called once for each k in rising order; the caller may have written in front of segment
    /// k − 1 and to its payload by then, but not to its headers nor behind it.
    #[inline]
    pub fn segment(&self, k: usize, buf: &mut [u8], checksums: Checksums) -> (Range<usize>, bool) {
        let open = checksums == Checksums::Defer && self.deferrable;
        let start = self.start as usize + k * usize::from(self.size);
        let range = start..start + self.segment_len(k);
        match self.kind {
            Kind::Whole => return (range, false),
            Kind::Open if open => {}
            Kind::Open => {
                let l4 = &mut buf[range.clone()][usize::from(self.l4)..];
                let (sum, offset) = (!checksum::sum(l4), usize::from(self.offset));
                // RFC 768: a sent checksum of 0 means none. Only UDP and its kin have it at this offset.
                put16(l4, offset, if offset == UDP_CHECKSUM && sum == 0 { 0xffff } else { sum });
            }
            Kind::Tcp | Kind::Udp => {
                if k != 0 {
                    let before = start - usize::from(self.size);
                    buf.copy_within(before..before + usize::from(self.payload), start);
                }
                self.patch(k, &mut buf[range.clone()], open);
            }
        }
        (range, open)
    }

    /// Makes the headers those of segment `k`.
    #[inline]
    fn patch(&self, k: usize, segment: &mut [u8], open: bool) {
        let (before, l4) = segment.split_at_mut(usize::from(self.l4));
        let l4_len = l4.len() as u16;
        self.patch_ip(k, &mut before[usize::from(self.l3)..], l4_len);

        let (l4, payload) = l4.split_at_mut(usize::from(self.payload - self.l4));
        let mut sum = checksum::add(self.pseudo, l4_len);
        if !open {
            sum = checksum::add(sum, self.l4_sum);
            sum = checksum::add(sum, checksum::sum(payload));
        }
        if self.kind == Kind::Tcp {
            let sequence = self.sequence.wrapping_add((k * usize::from(self.size)) as u32);
            let mut flags = self.flags;
            if k != 0 {
                flags &= !CWR;
            }
            if k + 1 != self.segments() {
                flags &= !(FIN | PSH);
            }
            l4[4..8].copy_from_slice(&sequence.to_be_bytes());
            l4[13] = flags;
            if !open {
                let varying = u64::from(sequence) + u64::from(flags);
                sum = !checksum::add(sum, checksum::fold(varying));
            }
            put16(l4, TCP_CHECKSUM, sum);
        } else {
            put16(l4, 4, l4_len);
            if !open {
                sum = !checksum::add(sum, l4_len);
                sum = if sum == 0 { 0xffff } else { sum };
            }
            put16(l4, UDP_CHECKSUM, sum);
        }
    }

    /// Writes the IP header's fields of segment `k`; `ip` reaches to the transport header.
    #[inline(always)]
    fn patch_ip(&self, k: usize, ip: &mut [u8], l4_len: u16) {
        let headers = ip.len() as u16;
        if self.v6 {
            put16(ip, 4, headers - IPV6 as u16 + l4_len);
        } else {
            let total = headers + l4_len;
            let identification = self.identification.wrapping_add(k as u16);
            let sum = checksum::add(self.ip_sum, checksum::add(total, identification));
            put16(ip, 2, total);
            put16(ip, 4, identification);
            put16(ip, 10, !sum);
        }
    }
}

/// Whether the IPv4 packet at `l3` is no fragment and carries `protocol` at exactly `l4`.
fn ipv4_leads_to(frame: &[u8], l3: usize, l4: usize, protocol: u8) -> bool {
    let Some(ip) = frame.get(l3..).and_then(|rest| rest.first_chunk::<IPV4>()) else { return false };
    let header = usize::from(ip[0] & 0x0f) * 4;
    let fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff != 0;
    ip[0] >> 4 == 4 && header >= IPV4 && l4 == l3 + header && !fragment && ip[9] == protocol
}
