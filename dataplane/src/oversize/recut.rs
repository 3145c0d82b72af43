//! TCP that does not fit is cut into shorter segments, as if the sender's kernel had known of the path: a single segment is made
//! a super-frame, which the splitter of the TAP then cuts ([`crate::tap::split`]).
//!
//! The segments of one segment count on from its IPv4 identification, as those of a super-frame do. Its next one may repeat a
//! number; that matters only to fragments (RFC 6864 §4), and what is cut here needs none.

use adit_proto::control::Mode;

use crate::checksum;
use crate::tap::coalesce::pseudo;
use crate::tap::headers::{self, Layers, TCP, TCP_CHECKSUM, be16, put16};
use crate::tap::split::Plan;
use crate::tap::vnet::{self, VnetHeader};

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const URG: u8 = 0x20;

/// Options that sign the segment as it is: TCP-MD5 (RFC 2385) and TCP-AO (RFC 5925).
pub const SIGNATURES: [u8; 2] = [19, 29];

/// Whether the segment with this TCP header, options included, may become several: they repeat the options, so none may speak of
/// this one segment alone.
pub fn may_be_cut(tcp: &[u8]) -> bool {
    let Some((fixed, mut options)) = tcp.split_first_chunk::<TCP>() else { return false };
    if fixed[13] & (SYN | RST | URG) != 0 {
        return false;
    }
    loop {
        options = match *options {
            [] | [0, ..] => return true,
            [1, ref rest @ ..] => rest,
            [kind, len, ..] if len >= 2 && !SIGNATURES.contains(&kind) => match options.get(len.into()..) {
                Some(rest) => rest,
                None => return false,
            },
            _ => return false,
        };
    }
}

/// The plan to cut a single TCP segment into frames of at most `fits` bytes. `None`, and the frame untouched, when it is none, may not
/// be cut, or is damaged: a checksum that is wrong must not become right. Behind extension headers TCP is not looked for.
pub fn single(mode: Mode, header: &VnetHeader, frame: &mut [u8], start: usize, fits: usize) -> Option<Plan> {
    let Layers::Transport(layers) = headers::parse(mode, frame) else { return None };
    if !layers.tcp || fits <= layers.payload || !may_be_cut(&frame[layers.l4..layers.payload]) {
        return None;
    }
    let segment = &frame[layers.l4..layers.end];
    let sum = checksum::add(pseudo(&frame[layers.l3..], &layers), segment.len() as u16);
    let intact = if header.needs_csum() {
        usize::from(header.csum_start) == layers.l4
            && usize::from(header.csum_offset) == TCP_CHECKSUM
            && be16(segment, TCP_CHECKSUM) == sum
    } else {
        checksum::add(sum, checksum::sum(segment)) == 0xffff
    };
    let ip = &frame[layers.l3..layers.l4];
    if !intact || !(layers.v6 || checksum::sum(ip) == 0xffff) {
        return None;
    }
    let size = (fits - layers.payload).min(u16::MAX.into()) as u16;
    let super_frame = VnetHeader {
        flags: vnet::NEEDS_CSUM,
        gso_type: if layers.v6 { vnet::GSO_TCPV6 } else { vnet::GSO_TCPV4 },
        hdr_len: layers.payload as u16,
        gso_size: size,
        csum_start: layers.l4 as u16,
        csum_offset: TCP_CHECKSUM as u16,
    };
    let before = be16(frame, layers.l4 + TCP_CHECKSUM);
    put16(frame, layers.l4 + TCP_CHECKSUM, sum);
    // What follows the IP packet is padding.
    let plan = Plan::new(mode, &super_frame, &frame[..layers.end], start).ok();
    if plan.is_none() {
        put16(frame, layers.l4 + TCP_CHECKSUM, before);
    }
    plan
}
