//! Traffic selectors (RFC 7296 §3.13).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::cursor::{Cursor, fit, with_length};
use super::error::{IkeDecodeError, IkeEncodeError, IkeFault};
use super::registry::{PayloadType, TsType};

/// Ports, or type and code of ICMP (RFC 7296 §3.13.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl PortRange {
    /// Every port.
    pub const ANY: PortRange = PortRange { first: 0, last: u16::MAX };
    /// Only what has no ports to look at, as later fragments (RFC 4301 §4.4.1.1: OPAQUE).
    pub const OPAQUE: PortRange = PortRange { first: u16::MAX, last: 0 };
}

/// Addresses from the first to the last, both included. Nothing matches when the last is below the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressRange {
    V4 { first: Ipv4Addr, last: Ipv4Addr },
    V6 { first: Ipv6Addr, last: Ipv6Addr },
}

/// What traffic an SA is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TrafficSelector {
    Ip(IpSelector),
    /// A type that we do not know; it matches nothing of ours.
    Other {
        kind: TsType,
        /// The second byte: the protocol in the types that we know.
        protocol: u8,
        /// All that follows the length.
        body: Vec<u8>,
    },
}

/// Traffic by addresses, protocol and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IpSelector {
    /// IP protocol number; 0 is any.
    pub protocol: u8,
    pub ports: PortRange,
    pub addresses: AddressRange,
}

impl IpSelector {
    /// Every protocol and port between these addresses.
    pub const fn any_of(addresses: AddressRange) -> IpSelector {
        IpSelector { protocol: 0, ports: PortRange::ANY, addresses }
    }
}

impl From<IpSelector> for TrafficSelector {
    fn from(selector: IpSelector) -> TrafficSelector {
        TrafficSelector::Ip(selector)
    }
}

impl AddressRange {
    /// Every IPv4 address.
    pub const ANY_V4: AddressRange = AddressRange::V4 { first: Ipv4Addr::UNSPECIFIED, last: Ipv4Addr::BROADCAST };
    /// Every IPv6 address.
    pub const ANY_V6: AddressRange = AddressRange::V6 { first: Ipv6Addr::UNSPECIFIED, last: Ipv6Addr::from_bits(u128::MAX) };

    /// One address.
    pub const fn host(address: IpAddr) -> AddressRange {
        match address {
            IpAddr::V4(address) => AddressRange::V4 { first: address, last: address },
            IpAddr::V6(address) => AddressRange::V6 { first: address, last: address },
        }
    }

    pub const fn first(&self) -> IpAddr {
        match self {
            AddressRange::V4 { first, .. } => IpAddr::V4(*first),
            AddressRange::V6 { first, .. } => IpAddr::V6(*first),
        }
    }

    pub const fn last(&self) -> IpAddr {
        match self {
            AddressRange::V4 { last, .. } => IpAddr::V4(*last),
            AddressRange::V6 { last, .. } => IpAddr::V6(*last),
        }
    }

    /// Length of the prefix, when the range is exactly one.
    pub fn prefix_len(&self) -> Option<u32> {
        let (first, last, bits) = match *self {
            AddressRange::V4 { first, last } => (u128::from(first.to_bits()), u128::from(last.to_bits()), 32),
            AddressRange::V6 { first, last } => (first.to_bits(), last.to_bits(), 128),
        };
        let host_mask = first ^ last;
        let is_prefix = host_mask & host_mask.wrapping_add(1) == 0 && first & host_mask == 0;
        is_prefix.then(|| bits - host_mask.count_ones())
    }
}

impl TrafficSelector {
    pub const fn kind(&self) -> TsType {
        match self {
            TrafficSelector::Ip(IpSelector { addresses: AddressRange::V4 { .. }, .. }) => TsType::IPV4_ADDR_RANGE,
            TrafficSelector::Ip(IpSelector { addresses: AddressRange::V6 { .. }, .. }) => TsType::IPV6_ADDR_RANGE,
            TrafficSelector::Other { kind, .. } => *kind,
        }
    }

    fn decode(cursor: &mut Cursor) -> Result<TrafficSelector, IkeDecodeError> {
        let kind = TsType(cursor.u8("selector type")?);
        let protocol = cursor.u8("selector")?;
        let at = cursor.offset();
        let length = usize::from(cursor.u16("selector length")?);
        let bad_length = cursor.error_at(at, IkeFault::BadLength { field: "selector", len: length });
        let mut body = cursor.part(length.checked_sub(4).ok_or(bad_length)?, "selector")?;
        if ![TsType::IPV4_ADDR_RANGE, TsType::IPV6_ADDR_RANGE].contains(&kind) {
            return Ok(TrafficSelector::Other { kind, protocol, body: body.rest().to_vec() });
        }
        if length != if kind == TsType::IPV4_ADDR_RANGE { 16 } else { 40 } {
            return Err(bad_length);
        }
        let ports = PortRange { first: body.u16("start port")?, last: body.u16("end port")? };
        let addresses = if kind == TsType::IPV4_ADDR_RANGE {
            let (first, last) = (body.array::<4>("starting address")?, body.array::<4>("ending address")?);
            AddressRange::V4 { first: first.into(), last: last.into() }
        } else {
            let (first, last) = (body.array::<16>("starting address")?, body.array::<16>("ending address")?);
            AddressRange::V6 { first: first.into(), last: last.into() }
        };
        body.finish()?;
        Ok(IpSelector { protocol, ports, addresses }.into())
    }

    fn encode(&self, payload: PayloadType, out: &mut Vec<u8>) -> Result<(), IkeEncodeError> {
        with_length(out, payload, |out| {
            match self {
                TrafficSelector::Ip(IpSelector { protocol, ports, addresses }) => {
                    out.extend([self.kind().0, *protocol, 0, 0]);
                    out.extend(ports.first.to_be_bytes());
                    out.extend(ports.last.to_be_bytes());
                    match addresses {
                        AddressRange::V4 { first, last } => out.extend([first.octets(), last.octets()].concat()),
                        AddressRange::V6 { first, last } => out.extend([first.octets(), last.octets()].concat()),
                    }
                }
                TrafficSelector::Other { kind: TsType::IPV4_ADDR_RANGE | TsType::IPV6_ADDR_RANGE, .. } => {
                    return Err(IkeEncodeError { payload, what: "an IP selector is written as a selector of another type" });
                }
                TrafficSelector::Other { kind, protocol, body } => {
                    out.extend([kind.0, *protocol, 0, 0]);
                    out.extend_from_slice(body);
                }
            }
            Ok(())
        })
    }
}

/// Reads the body of a TSi or TSr payload.
pub(super) fn decode(mut cursor: Cursor) -> Result<Vec<TrafficSelector>, IkeDecodeError> {
    let count = cursor.u8("number of selectors")?;
    cursor.array::<3>("reserved bytes")?;
    let selectors = (0..count).map(|_| TrafficSelector::decode(&mut cursor)).collect::<Result<_, _>>()?;
    cursor.finish()?;
    Ok(selectors)
}

/// Writes the body of a TSi or TSr payload.
pub(super) fn encode(selectors: &[TrafficSelector], payload: PayloadType, out: &mut Vec<u8>) -> Result<(), IkeEncodeError> {
    let count: u8 = fit(payload, selectors.len(), "it has more than 255 selectors")?;
    out.extend([count, 0, 0, 0]);
    selectors.iter().try_for_each(|selector| selector.encode(payload, out))
}

/// `10.1.0.0/24`, or `10.1.0.5-10.1.0.9` when the range is no prefix.
impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix_len() {
            Some(len) => write!(f, "{}/{len}", self.first()),
            None => write!(f, "{}-{}", self.first(), self.last()),
        }
    }
}

/// `10.1.0.0/24`, `10.1.0.0/24[6/80]`, `::/0[17]`, `10.1.0.0/24[6/OPAQUE]`: range, protocol, ports.
impl fmt::Display for IpSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.addresses)?;
        match (self.protocol, self.ports) {
            (0, PortRange::ANY) => Ok(()),
            (protocol, PortRange::ANY) => write!(f, "[{protocol}]"),
            (protocol, PortRange::OPAQUE) => write!(f, "[{protocol}/OPAQUE]"),
            (protocol, PortRange { first, last }) if first == last => write!(f, "[{protocol}/{first}]"),
            (protocol, PortRange { first, last }) => write!(f, "[{protocol}/{first}-{last}]"),
        }
    }
}

impl fmt::Display for TrafficSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TrafficSelector::Ip(selector) => write!(f, "{selector}"),
            TrafficSelector::Other { kind, protocol, body } => write!(f, "{kind}[{protocol}, {} bytes]", body.len()),
        }
    }
}
