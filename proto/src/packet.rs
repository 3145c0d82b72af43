//! What selectors look at in an IP packet (RFC 4301 §4.4.1.1): for the policy table of the data plane and for the library alike.
//! Total: any bytes give it or nothing.

use crate::ike::{AddressRange, PortRange};
use crate::limits::IPV6_EXTENSIONS_MAX;

/// Length of an IPv4 header without options, in bytes.
pub const IPV4: usize = 20;
/// Length of an IPv6 header without extensions, in bytes.
pub const IPV6: usize = 40;

const HOP_BY_HOP: u8 = 0;
const ICMP: u8 = 1;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ICMPV6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;

/// Bytes of ICMP before the packet that an error encloses (RFC 792, RFC 4443 §3).
const ICMP_HEADER: usize = 8;
/// Destination unreachable, source quench, redirect, time exceeded, parameter problem.
const ICMP_ERRORS: [u8; 5] = [3, 4, 5, 11, 12];
/// Destination unreachable, packet too big, time exceeded, parameter problem.
const ICMPV6_ERRORS: [u8; 4] = [1, 2, 3, 4];

/// Source and destination, protocol and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub v6: bool,
    /// None when it is out of reach: matches only selectors of any protocol.
    pub protocol: Option<u8>,
    pub source: Side,
    pub destination: Side,
}

/// One end of a packet's way. An IPv4 address has the low 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side {
    pub address: u128,
    pub port: Port,
}

/// A port as selectors see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// A port; or at the source type and code of ICMP, or the type of a Mobility Header (RFC 4301 §4.4.1.3).
    Number(u16),
    /// Out of reach, as in fragments, or the protocol has none: matches ANY and OPAQUE.
    Hidden,
    /// The destination of ICMP: what counts stands at the source.
    Open,
}

impl Side {
    /// Whether the address is one of these; `v6` says what the packet is.
    #[inline]
    pub fn is_among(&self, v6: bool, range: &AddressRange) -> bool {
        let (first, last): (u128, u128) = match range {
            AddressRange::V4 { first, last } if !v6 => (first.to_bits().into(), last.to_bits().into()),
            AddressRange::V6 { first, last } if v6 => (first.to_bits(), last.to_bits()),
            _ => return false,
        };
        (first..=last).contains(&self.address)
    }
}

impl Port {
    /// Whether a selector's ports are meant.
    #[inline]
    pub fn is_in(self, range: PortRange) -> bool {
        match self {
            Port::Number(port) => (range.first..=range.last).contains(&port),
            Port::Hidden => range == PortRange::ANY || range == PortRange::OPAQUE,
            Port::Open => true,
        }
    }
}

impl Packet {
    /// Looks at an IP packet. Its lengths are not judged here.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Option<Packet> {
        match bytes.first()? >> 4 {
            4 => ipv4(bytes),
            6 => ipv6(bytes),
            _ => None,
        }
    }
}

impl Packet {
    /// What an ICMP error is about, as if it went the way of the error: the packet that it encloses, with its ends exchanged. So an
    /// error passes where the answer to that packet would (RFC 4301 §6). `bytes` are those that gave this packet. None where it is no
    /// error, encloses nothing, or goes elsewhere than to the sender of what it encloses.
    pub fn enclosed(&self, bytes: &[u8]) -> Option<Packet> {
        let kind = match self.source.port {
            Port::Number(kind_and_code) => (kind_and_code >> 8) as u8,
            Port::Hidden | Port::Open => return None,
        };
        let errors = if self.v6 { &ICMPV6_ERRORS[..] } else { &ICMP_ERRORS[..] };
        if self.protocol != Some(if self.v6 { ICMPV6 } else { ICMP }) || !errors.contains(&kind) {
            return None;
        }
        let upper = if self.v6 {
            follow(*bytes.get(6)?, bytes.get(IPV6..)?).1?
        } else {
            bytes.get(usize::from(bytes.first()? & 0x0f) * 4..)?
        };
        let about = Packet::parse(upper.get(ICMP_HEADER..)?)?;
        let returns = about.v6 == self.v6 && about.source.address == self.destination.address;
        returns.then_some(Packet { source: about.destination, destination: about.source, ..about })
    }
}

/// Length of the IP packet with which `bytes` begin, by its own header, and whether it is IPv6. None when there is no whole packet.
#[inline]
pub fn ip_len(bytes: &[u8]) -> Option<(usize, bool)> {
    let v6 = match bytes.first()? >> 4 {
        4 => false,
        6 => true,
        _ => return None,
    };
    let len = if v6 {
        IPV6 + usize::from(be16(bytes.first_chunk::<IPV6>()?, 4))
    } else {
        let header = bytes.first_chunk::<IPV4>()?;
        let (len, least) = (usize::from(be16(header, 2)), usize::from(header[0] & 0x0f) * 4);
        (least >= IPV4 && len >= least).then_some(len)?
    };
    (len <= bytes.len()).then_some((len, v6))
}

#[inline(always)]
fn be16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |two| u16::from_be_bytes(*two))
}

#[inline]
fn ipv4(bytes: &[u8]) -> Option<Packet> {
    let header = bytes.first_chunk::<IPV4>()?;
    let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
    let is_fragment = be16(header, 6) & 0x3fff != 0;
    let at = usize::from(header[0] & 0x0f) * 4;
    let (source_port, destination_port) =
        if is_fragment || at < IPV4 { (Port::Hidden, Port::Hidden) } else { ports(header[9], bytes.get(at..).unwrap_or(&[])) };
    Some(Packet {
        v6: false,
        protocol: Some(header[9]),
        source: Side { address: u32::from_be_bytes([s0, s1, s2, s3]).into(), port: source_port },
        destination: Side { address: u32::from_be_bytes([d0, d1, d2, d3]).into(), port: destination_port },
    })
}

#[inline]
fn ipv6(bytes: &[u8]) -> Option<Packet> {
    let header = bytes.first_chunk::<IPV6>()?;
    let (protocol, upper) = follow(header[6], &bytes[IPV6..]);
    let (source_port, destination_port) = match (protocol, upper) {
        (Some(protocol), Some(upper)) => ports(protocol, upper),
        _ => (Port::Hidden, Port::Hidden),
    };
    let address = |at: usize| header[at..].first_chunk().map_or(0, |bytes| u128::from_be_bytes(*bytes));
    Some(Packet {
        v6: true,
        protocol,
        source: Side { address: address(8), port: source_port },
        destination: Side { address: address(24), port: destination_port },
    })
}

/// Follows the chain of extension headers: the protocol behind them, and what that begins with, as far as both can be reached. A
/// fragment shows its protocol only where each of its siblings does. AH and ESP are protocols here (RFC 4301 §4.4.1.1).
#[inline]
fn follow(mut next: u8, mut rest: &[u8]) -> (Option<u8>, Option<&[u8]>) {
    for _ in 0..IPV6_EXTENSIONS_MAX {
        if !is_looked_through(next) {
            return (Some(next), Some(rest));
        }
        let Some(extension) = rest.first_chunk::<8>() else { return (None, None) };
        let is_fragment = next == FRAGMENT && be16(extension, 2) & 0xfff9 != 0;
        let len = if next == FRAGMENT { 8 } else { (usize::from(extension[1]) + 1) * 8 };
        next = extension[0];
        if is_fragment {
            return ((!is_looked_through(next)).then_some(next), None);
        }
        rest = rest.get(len..).unwrap_or(&[]);
    }
    (None, None)
}

const fn is_looked_through(next_header: u8) -> bool {
    matches!(next_header, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS)
}

/// The ports of a packet whose transport header begins with these bytes.
#[inline]
fn ports(protocol: u8, upper: &[u8]) -> (Port, Port) {
    match (protocol, upper) {
        // TCP, UDP, DCCP, SCTP, UDP-Lite.
        (6 | 17 | 33 | 132 | 136, &[s0, s1, d0, d1, ..]) => {
            (Port::Number(u16::from_be_bytes([s0, s1])), Port::Number(u16::from_be_bytes([d0, d1])))
        }
        (ICMP | ICMPV6, &[kind, code, ..]) => (Port::Number(u16::from_be_bytes([kind, code])), Port::Open),
        (MOBILITY, &[_, _, kind, ..]) => (Port::Number(u16::from_be_bytes([kind, 0])), Port::Open),
        _ => (Port::Hidden, Port::Hidden),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v4(protocol: u8, fragment: u16, upper: &[u8]) -> Vec<u8> {
        let [f0, f1] = fragment.to_be_bytes();
        [&[0x45, 0, 0, 0, 0, 0, f0, f1, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2], upper].concat()
    }

    fn v6(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; IPV6];
        (bytes[0], bytes[6], bytes[23], bytes[39]) = (0x60, next, 1, 2);
        bytes.extend(rest);
        bytes
    }

    fn seen(bytes: &[u8]) -> (Option<u8>, Port, Port) {
        let packet = Packet::parse(bytes).unwrap();
        (packet.protocol, packet.source.port, packet.destination.port)
    }

    const HIDDEN: Port = Port::Hidden;

    #[test]
    fn ports_and_types_are_seen_where_they_are() {
        assert_eq!(seen(&v4(6, 0x4000, &[0, 80, 1, 0])), (Some(6), Port::Number(80), Port::Number(256)));
        assert_eq!(seen(&v4(1, 0, &[8, 3, 0, 0])), (Some(1), Port::Number(0x803), Port::Open));
        assert_eq!(seen(&v6(58, &[128, 0, 0, 0])), (Some(58), Port::Number(0x8000), Port::Open));
        assert_eq!(seen(&v6(135, &[59, 0, 5, 0])), (Some(135), Port::Number(0x500), Port::Open));
        assert_eq!(seen(&v4(47, 0, &[1; 8])), (Some(47), HIDDEN, HIDDEN));
        assert_eq!(seen(&v4(17, 0, &[1; 3])), (Some(17), HIDDEN, HIDDEN), "cut off");
        let options = [0, 0, 6, 0, 1, 2, 3, 4];
        assert_eq!(
            seen(&v6(60, &[&[17][..], &options[1..], &[0, 7, 0, 9]].concat())),
            (Some(17), Port::Number(7), Port::Number(9))
        );
        let packet = Packet::parse(&v4(6, 0, &[0; 4])).unwrap();
        assert_eq!((packet.source.address, packet.destination.address), (0x0a00_0001, 0x0a00_0002));
    }

    #[test]
    fn fragments_have_no_ports_the_first_one_neither() {
        for fragment in [0x2000, 0x2001, 1] {
            assert_eq!(seen(&v4(17, fragment, &[0, 80, 0, 80])), (Some(17), HIDDEN, HIDDEN));
        }
        for (offset, more) in [(0, 1), (8, 1), (8, 0)] {
            let header = [17, 0, 0, offset | more, 0, 0, 0, 1, 0, 80, 0, 80];
            assert_eq!(seen(&v6(44, &header)), (Some(17), HIDDEN, HIDDEN));
            let before_options = [60, 0, 0, offset | more, 0, 0, 0, 1, 17, 0, 0, 0, 0, 0, 0, 0];
            assert_eq!(seen(&v6(44, &before_options)), (None, HIDDEN, HIDDEN), "a later fragment could not tell");
        }
        let atomic = [17, 0, 0, 0, 0, 0, 0, 1, 0, 80, 0, 81];
        assert_eq!(seen(&v6(44, &atomic)), (Some(17), Port::Number(80), Port::Number(81)), "RFC 6946");
    }

    #[test]
    fn an_icmp_error_is_about_the_answer_to_what_it_encloses() {
        // 10.0.0.2 had sent TCP from port 9 to port 80 of 10.0.0.3; somebody on the way says that it does not get there.
        let mut about = v4(6, 0x4000, &[0, 9, 0, 80, 0, 0, 0, 0]);
        (about[15], about[19]) = (2, 3);
        let error = |kind: u8, about: &[u8]| v4(1, 0, &[&[kind, 4, 0, 0, 0, 0, 5, 0], about].concat());
        for kind in [3, 4, 5, 11, 12] {
            let bytes = error(kind, &about);
            let enclosed = Packet::parse(&bytes).unwrap().enclosed(&bytes).unwrap();
            assert_eq!((enclosed.source.address, enclosed.source.port), (0x0a00_0003, Port::Number(80)));
            assert_eq!((enclosed.destination.address, enclosed.destination.port), (0x0a00_0002, Port::Number(9)));
            assert_eq!(enclosed.protocol, Some(6));
        }
        let none = |bytes: &[u8]| Packet::parse(bytes).unwrap().enclosed(bytes).is_none();
        assert!(none(&error(8, &about)) && none(&error(0, &about)), "echoes enclose nothing");
        assert!(none(&error(3, &about[..19])), "too little to know");
        about[15] = 7;
        assert!(none(&error(3, &about)), "it goes to another than the sender");
        let mut about = v6(58, &[128, 0, 0, 0, 0, 0, 0, 0]);
        (about[23], about[39]) = (2, 3);
        for (kind, is_error) in [(1, true), (2, true), (3, true), (4, true), (5, false), (128, false)] {
            let bytes = v6(60, &[&[58, 0, 1, 4, 0, 0, 0, 0, kind, 0, 0, 0, 0, 0, 5, 0], &about[..]].concat());
            let enclosed = Packet::parse(&bytes).unwrap().enclosed(&bytes);
            assert_eq!(enclosed.is_some(), is_error, "type {kind}");
            // The type of the echo stands at our side, whose it was.
            assert!(enclosed.is_none_or(|one| (one.source.port, one.destination.port) == (Port::Open, Port::Number(0x8000))));
        }
    }

    #[test]
    fn chains_without_end_hide_their_protocol() {
        let chain: Vec<u8> = (0..20).flat_map(|_| [60, 0, 0, 0, 0, 0, 0, 0]).collect();
        assert_eq!(seen(&v6(60, &chain)), (None, HIDDEN, HIDDEN));
        assert_eq!(seen(&v6(60, &[60, 200])), (None, HIDDEN, HIDDEN));
        // The next one would begin behind the end of the packet.
        assert_eq!(seen(&v6(60, &[17, 200, 0, 0, 0, 0, 0, 0])), (Some(17), HIDDEN, HIDDEN));
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_packet_or_nothing(mut bytes: Vec<u8>, version in prop::sample::select(vec![0x45_u8, 0x60, 0x4f, 0])) {
            if let Some(first) = bytes.first_mut() {
                *first = version;
            }
            let enough = bytes.len() >= if version >> 4 == 6 { IPV6 } else { IPV4 };
            let packet = Packet::parse(&bytes);
            prop_assert_eq!(packet.is_some(), enough && version != 0);
            let enclosed = packet.and_then(|packet| packet.enclosed(&bytes));
            prop_assert!(enclosed.is_none_or(|enclosed| Some(enclosed.v6) == packet.map(|packet| packet.v6)));
        }
    }
}
