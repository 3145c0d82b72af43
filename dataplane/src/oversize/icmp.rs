//! The answer to a packet that does not fit and may not be cut: "fragmentation needed" (RFC 792, RFC 1191) or "packet too big" (RFC 4443 §3.2).
//!
//! As Linux does it for its tunnels below a bridge: in the name of the packet's destination, for the tunnel has no address of its own
//! on that network, with the MAC addresses swapped and the VLAN tags kept.

use adit_proto::control::Mode;
use adit_proto::limits;

use crate::checksum;
use crate::tap::headers::{self, ETHERNET, IPV4, IPV6, TAG, TAGS_MAX, be16, put16};
use crate::tap::vnet;

/// Room for the longest answer, in bytes.
pub const ANSWER_MAX: usize = ETHERNET + TAGS_MAX * TAG + IPV6_MTU_MIN;

/// Every link carries this much of IPv6 (RFC 8200 §5); an answer is no longer (RFC 4443 §3.2) and names no less.
const IPV6_MTU_MIN: usize = limits::IPV6_MTU_MIN as usize;
/// An answer over IPv4 is no longer (RFC 1812 §4.3.2.3).
const IPV4_ANSWER_MAX: usize = limits::IPV4_MTU_MIN as usize;
const ICMP: usize = 8;
const HOPS: u8 = 64;

/// An answer as it is written to the TAP.
pub struct Answer {
    /// A virtio-net header that says nothing, then the frame or packet.
    out: [u8; vnet::LEN + ANSWER_MAX],
    len: usize,
}

impl Answer {
    /// The answer to `frame`, which may be a super-frame; see [`answer`].
    pub fn new(mode: Mode, frame: &[u8], fits: usize) -> Option<Answer> {
        let mut out = [0; vnet::LEN + ANSWER_MAX];
        let len = answer(mode, frame, fits, out[vnet::LEN..].first_chunk_mut()?)?;
        Some(Answer { out, len: vnet::LEN + len })
    }

    /// The virtio-net header and what follows it.
    pub fn bytes(&self) -> &[u8] {
        &self.out[..self.len]
    }
}

/// Writes the answer to `frame` into `out`, and returns its length; `fits` is the longest frame that the path takes. `None` when there is
/// nobody to tell, or nothing that would help (RFC 1122 §3.2.2, RFC 4443 §2.4).
pub fn answer(mode: Mode, frame: &[u8], fits: usize, out: &mut [u8; ANSWER_MAX]) -> Option<usize> {
    let (l3, v6) = headers::network(mode, frame)?;
    // To a group: nobody wants the answers of all its members.
    if l3 > 0 && frame[0] & 1 != 0 {
        return None;
    }
    let mtu = fits.checked_sub(l3)?;
    let (link, ip) = frame.split_at(l3);
    let (head, room) = out.split_at_mut(l3);
    let len = if v6 { packet_too_big(ip, mtu, room)? } else { fragmentation_needed(ip, mtu, room)? };
    if let ([d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, rest @ ..], true) = (link, l3 > 0) {
        head[..12].copy_from_slice(&[*s0, *s1, *s2, *s3, *s4, *s5, *d0, *d1, *d2, *d3, *d4, *d5]);
        head[12..].copy_from_slice(rest);
    }
    Some(l3 + len)
}

/// The source address of the frame's packet.
pub fn sender(mode: Mode, frame: &[u8]) -> Option<&[u8]> {
    let (l3, v6) = headers::network(mode, frame)?;
    frame.get(if v6 { l3 + 8..l3 + 24 } else { l3 + 12..l3 + 16 })
}

fn fragmentation_needed(ip: &[u8], mtu: usize, out: &mut [u8]) -> Option<usize> {
    let header = ip.first_chunk::<IPV4>()?;
    let (len, total) = (usize::from(header[0] & 0x0f) * 4, usize::from(be16(header, 2)));
    let (source, destination) = (&header[12..16], &header[16..20]);
    let is_first = be16(header, 6) & 0x1fff == 0;
    if len < IPV4 || total < len || total > ip.len() || total <= mtu || !is_first || !is_host(source) || destination[0] >= 224 {
        return None;
    }
    if header[9] == 1 && is_icmp_error(*ip.get(len)?) {
        return None;
    }
    let quoted = total.min(IPV4_ANSWER_MAX - IPV4 - ICMP);
    let total = IPV4 + ICMP + quoted;
    let (ip_out, icmp) = out.get_mut(..total)?.split_at_mut(IPV4);
    ip_out.copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, HOPS, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    put16(ip_out, 2, total as u16);
    ip_out[12..16].copy_from_slice(destination);
    ip_out[16..].copy_from_slice(source);
    let sum = !checksum::sum(ip_out);
    put16(ip_out, 10, sum);
    icmp[..ICMP].copy_from_slice(&[3, 4, 0, 0, 0, 0, 0, 0]);
    put16(icmp, 6, mtu.min(0xffff) as u16);
    icmp[ICMP..].copy_from_slice(&ip[..quoted]);
    let sum = !checksum::sum(icmp);
    put16(icmp, 2, sum);
    Some(total)
}

/// An address of one host that can be on a network: not 0.0.0.0/8, 127.0.0.0/8, or a group.
fn is_host(address: &[u8]) -> bool {
    !matches!(address[0], 0 | 127 | 224..)
}

/// Unreachable, quench, redirect, time exceeded, parameter problem.
const fn is_icmp_error(kind: u8) -> bool {
    matches!(kind, 3 | 4 | 5 | 11 | 12)
}

fn packet_too_big(ip: &[u8], mtu: usize, out: &mut [u8]) -> Option<usize> {
    let header = ip.first_chunk::<IPV6>()?;
    let total = IPV6 + usize::from(be16(header, 4));
    let (source, destination) = (&header[8..24], &header[24..40]);
    let is_host = source[0] != 0xff && source[..15].iter().any(|byte| *byte != 0);
    // RFC 8200 §5: below that a host makes nothing shorter.
    if total > ip.len() || total <= mtu.max(IPV6_MTU_MIN) || !is_host || destination[0] == 0xff {
        return None;
    }
    let (protocol, at) = upper_layer(header[6], ip)?;
    if protocol == 58 && matches!(*ip.get(at)?, 0..128 | 137) {
        return None;
    }
    let quoted = total.min(IPV6_MTU_MIN - IPV6 - ICMP);
    let (ip_out, icmp) = out.get_mut(..IPV6 + ICMP + quoted)?.split_at_mut(IPV6);
    ip_out[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, 58, HOPS]);
    put16(ip_out, 4, icmp.len() as u16);
    ip_out[8..24].copy_from_slice(destination);
    ip_out[24..].copy_from_slice(source);
    icmp[..ICMP].copy_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0]);
    let mtu = mtu.clamp(IPV6_MTU_MIN, 0xffff);
    put16(icmp, 6, mtu as u16);
    icmp[ICMP..].copy_from_slice(&ip[..quoted]);
    // RFC 8200 §8.1: addresses, length, next header.
    let pseudo = checksum::add(checksum::sum(&ip_out[8..]), checksum::add(icmp.len() as u16, 58));
    let sum = !checksum::add(pseudo, checksum::sum(icmp));
    put16(icmp, 2, sum);
    Some(IPV6 + ICMP + quoted)
}

/// What is behind the extension headers, and where. `None` in all fragments but the first, and where it is out of reach.
fn upper_layer(mut next: u8, ip: &[u8]) -> Option<(u8, usize)> {
    let mut at = IPV6;
    for _ in 0..limits::IPV6_EXTENSIONS_MAX {
        if !headers::is_extension(next) {
            return Some((next, at));
        }
        let extension = ip.get(at..)?.first_chunk::<8>()?;
        at += match next {
            44 if be16(extension, 2) & 0xfff8 != 0 => return None,
            44 => 8,
            // RFC 4302 §2.2: the authentication header counts in units of four bytes.
            51 => (usize::from(extension[1]) + 2) * 4,
            _ => (usize::from(extension[1]) + 1) * 8,
        };
        next = extension[0];
    }
    None
}
