//! What a frame carries, as far as the offloads must know: where the IP and the TCP or UDP header begin. A frame is an Ethernet
//! frame, or the bare IP packet that a TUN gives and takes: the mode says which.
//!
//! Up to two VLAN tags, IPv4 with or without options, IPv6 without extension headers. Everything else is told apart only
//! so far as order inside a flow needs it. Nothing here trusts the frame: all reads are checked, none panics.

use adit_proto::control::Mode;

/// Length of an Ethernet header without tags.
pub const ETHERNET: usize = 14;
/// Length of an IPv4 header without options.
pub const IPV4: usize = 20;
/// Length of an IPv6 header.
pub const IPV6: usize = 40;
/// Length of a TCP header without options.
pub const TCP: usize = 20;
/// Length of a UDP header.
pub const UDP: usize = 8;

/// Protocol number of TCP.
pub const PROTO_TCP: u8 = 6;
/// Protocol number of UDP.
pub const PROTO_UDP: u8 = 17;

/// Where the checksum is in a TCP header.
pub const TCP_CHECKSUM: usize = 16;
/// Where the checksum is in a UDP header.
pub const UDP_CHECKSUM: usize = 6;

const TYPE_IPV4: u16 = 0x0800;
const TYPE_IPV6: u16 = 0x86dd;
/// Tag of IEEE 802.1Q.
const TYPE_VLAN: u16 = 0x8100;
/// Outer tag of IEEE 802.1ad.
const TYPE_PROVIDER_VLAN: u16 = 0x88a8;
/// Tags that are looked through.
pub const TAGS_MAX: usize = 2;
/// Length of a tag.
pub const TAG: usize = 4;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layers {
    /// Not IP, neither TCP nor UDP, or malformed: belongs to no flow that could be merged.
    Other,
    /// IP that may belong to a TCP or UDP flow whose ports are out of reach: a fragment, or extension headers.
    Hidden {
        /// Offset of the IP header.
        l3: usize,
        /// IPv6 rather than IPv4.
        v6: bool,
    },
    /// TCP or UDP, not fragmented.
    Transport(Transport),
}

/// A frame whose TCP or UDP header is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Offset of the IP header.
    pub l3: usize,
    /// Offset of the TCP or UDP header.
    pub l4: usize,
    /// Offset of the payload.
    pub payload: usize,
    /// Where the IP packet ends; what follows is padding.
    pub end: usize,
    /// IPv6 rather than IPv4.
    pub v6: bool,
    /// TCP rather than UDP.
    pub tcp: bool,
}

impl Transport {
    /// Offset of the checksum field from the transport header.
    #[inline(always)]
    pub const fn checksum_offset(&self) -> usize {
        if self.tcp { TCP_CHECKSUM } else { UDP_CHECKSUM }
    }

    /// The protocol number.
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        if self.tcp { PROTO_TCP } else { PROTO_UDP }
    }

    /// True when the IPv4 header has options.
    #[inline(always)]
    pub const fn has_options(&self) -> bool {
        !self.v6 && self.l4 - self.l3 != IPV4
    }
}

/// The big-endian 16-bit word at `at`; 0 when it is not there.
#[inline(always)]
pub fn be16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u16::from_be_bytes(*word))
}

/// The big-endian 32-bit word at `at`; 0 when it is not there.
#[inline(always)]
pub fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_be_bytes(*word))
}

/// The big-endian 64-bit word at `at`; 0 when it is not there.
#[inline(always)]
pub fn be64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u64::from_be_bytes(*word))
}

/// Writes a big-endian 16-bit word at `at`, which must be there.
#[inline(always)]
pub fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// The network layer of a frame: offset of the IP header, and whether it is IPv6. None when the frame carries no IP.
#[inline(always)]
pub fn network(mode: Mode, frame: &[u8]) -> Option<(usize, bool)> {
    match mode {
        Mode::Ethernet => network_in_ethernet(frame),
        Mode::Ip => match *frame.first()? >> 4 {
            4 => Some((0, false)),
            6 => Some((0, true)),
            _ => None,
        },
    }
}

/// Where layer 3 begins at the earliest, in bytes.
#[inline(always)]
pub const fn link_header(mode: Mode) -> usize {
    match mode {
        Mode::Ethernet => ETHERNET,
        Mode::Ip => 0,
    }
}

#[inline(always)]
fn network_in_ethernet(frame: &[u8]) -> Option<(usize, bool)> {
    // Nothing shorter carries IP; with this one check the reads below need none.
    let start = frame.first_chunk::<{ ETHERNET + IPV4 }>()?;
    let mut l3 = ETHERNET;
    let mut ethertype = be16(start, ETHERNET - 2);
    for _ in 0..TAGS_MAX {
        if ethertype != TYPE_VLAN && ethertype != TYPE_PROVIDER_VLAN {
            break;
        }
        l3 += TAG;
        ethertype = be16(start, l3 - 2);
    }
    match ethertype {
        TYPE_IPV4 => Some((l3, false)),
        TYPE_IPV6 => Some((l3, true)),
        _ => None,
    }
}

/// Looks through a frame.
#[inline(always)]
pub fn parse(mode: Mode, frame: &[u8]) -> Layers {
    match network(mode, frame) {
        Some((l3, false)) => ipv4(frame, l3),
        Some((l3, true)) => ipv6(frame, l3),
        None => Layers::Other,
    }
}

#[inline(always)]
fn ipv4(frame: &[u8], l3: usize) -> Layers {
    let Some(ip) = frame.get(l3..).and_then(|rest| rest.first_chunk::<IPV4>()) else { return Layers::Other };
    let header = usize::from(ip[0] & 0x0f) * 4;
    let end = l3 + usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    let l4 = l3 + header;
    if ip[0] >> 4 != 4 || header < IPV4 || end < l4 || end > frame.len() {
        return Layers::Other;
    }
    // More Fragments, or an offset.
    if u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff != 0 {
        return if matches!(ip[9], PROTO_TCP | PROTO_UDP) { Layers::Hidden { l3, v6: false } } else { Layers::Other };
    }
    transport(frame, l3, l4, end, false, ip[9])
}

#[inline(always)]
fn ipv6(frame: &[u8], l3: usize) -> Layers {
    let Some(ip) = frame.get(l3..).and_then(|rest| rest.first_chunk::<IPV6>()) else { return Layers::Other };
    let l4 = l3 + IPV6;
    let end = l4 + usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    if ip[0] >> 4 != 6 || end > frame.len() {
        return Layers::Other;
    }
    match ip[6] {
        next if is_extension(next) => Layers::Hidden { l3, v6: true },
        next => transport(frame, l3, l4, end, true, next),
    }
}

#[inline(always)]
fn transport(frame: &[u8], l3: usize, l4: usize, end: usize, v6: bool, protocol: u8) -> Layers {
    let Some(segment) = frame.get(l4..end) else { return Layers::Other };
    let (tcp, header) = match protocol {
        PROTO_TCP if segment.len() >= TCP => (true, usize::from(segment[12] >> 4) * 4),
        PROTO_UDP if segment.len() >= UDP => (false, UDP),
        _ => return Layers::Other,
    };
    if header > segment.len() || (tcp && header < TCP) {
        return Layers::Other;
    }
    Layers::Transport(Transport { l3, l4, payload: l4 + header, end, v6, tcp })
}

/// Extension headers of IPv6 that may stand between the IPv6 header and TCP or UDP (RFC 8200 section 4).
pub const fn is_extension(next_header: u8) -> bool {
    matches!(next_header, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140)
}

/// Whether the chain of headers of the IPv6 packet at `l3` leads to `protocol` at exactly `l4`, without a fragment header.
pub fn ipv6_chain_leads_to(frame: &[u8], l3: usize, l4: usize, protocol: u8) -> bool {
    let Some(ip) = frame.get(l3..).and_then(|rest| rest.first_chunk::<IPV6>()) else { return false };
    let mut next = ip[6];
    let mut at = l3 + IPV6;
    while at < l4 {
        let Some(&[following, len]) = frame.get(at..).and_then(|rest| rest.first_chunk::<2>()) else { return false };
        at += match next {
            // RFC 4302 section 2.2: the authentication header counts in units of four bytes.
            51 => (usize::from(len) + 2) * 4,
            44 => return false,
            _ if is_extension(next) => (usize::from(len) + 1) * 8,
            _ => return false,
        };
        next = following;
    }
    ip[0] >> 4 == 6 && at == l4 && next == protocol
}
