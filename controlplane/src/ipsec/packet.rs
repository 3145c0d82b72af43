//! What the library has to know of an inner IP packet: between which addresses it goes, what it carries, and whether the traffic
//! selectors of an SA are for it (RFC 4301 §4.4.1.1, RFC 7296 §3.13.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use adit_proto::esp::{NEXT_HEADER_IPV4, NEXT_HEADER_IPV6};
use adit_proto::ike::{AddressRange, IpSelector, PortRange};

const IPV4_HEADER_LEN: usize = 20;
const IPV6_HEADER_LEN: usize = 40;
/// Extension headers that are looked through; what has more is taken as a packet without ports.
const EXTENSIONS_MAX: usize = 8;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const DCCP: u8 = 33;
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;

/// What selectors look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// `None` when it is out of reach: only selectors of any protocol are for it.
    pub protocol: Option<u8>,
    /// Source and destination, for ICMP type and code twice; `None` where there are none, or where another fragment of the same
    /// packet could not show them.
    pub ports: Option<(u16, u16)>,
    /// Length of the packet by its own header, in bytes: what follows is padding (RFC 4303 §2.7).
    pub len: usize,
}

impl Flow {
    /// Reads the headers of a packet.
    ///
    /// # Errors
    /// It is no IP packet, or shorter than it says.
    pub fn of(packet: &[u8]) -> Result<Flow, &'static str> {
        match packet.first().map(|byte| byte >> 4) {
            Some(4) => ipv4(packet),
            Some(6) => ipv6(packet),
            Some(_) => Err("its version is neither 4 nor 6"),
            None => Err("it is empty"),
        }
    }

    /// The next header of ESP for it.
    pub fn next_header(&self) -> u8 {
        if self.source.is_ipv4() { NEXT_HEADER_IPV4 } else { NEXT_HEADER_IPV6 }
    }

    /// Whether the selectors are for it when it goes from this side to that one.
    pub fn is_covered(&self, from: &[IpSelector], to: &[IpSelector]) -> bool {
        let (source, destination) = (self.ports.map(|ports| ports.0), self.ports.map(|ports| ports.1));
        from.iter().any(|one| matches(one, self.protocol, self.source, source))
            && to.iter().any(|one| matches(one, self.protocol, self.destination, destination))
    }
}

fn matches(selector: &IpSelector, protocol: Option<u8>, address: IpAddr, port: Option<u16>) -> bool {
    let here = match (selector.addresses, address) {
        (AddressRange::V4 { first, last }, IpAddr::V4(address)) => (first..=last).contains(&address),
        (AddressRange::V6 { first, last }, IpAddr::V6(address)) => (first..=last).contains(&address),
        (AddressRange::V4 { .. }, IpAddr::V6(_)) | (AddressRange::V6 { .. }, IpAddr::V4(_)) => false,
    };
    let ports = match (selector.ports, port) {
        (PortRange::ANY, _) | (PortRange::OPAQUE, None) => true,
        (_, None) => false,
        (PortRange { first, last }, Some(port)) => (first..=last).contains(&port),
    };
    here && ports && (selector.protocol == 0 || Some(selector.protocol) == protocol)
}

fn ipv4(packet: &[u8]) -> Result<Flow, &'static str> {
    const SHORT: &str = "it is shorter than its IPv4 header says";
    let header: &[u8; IPV4_HEADER_LEN] = packet.first_chunk().ok_or(SHORT)?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header_len < IPV4_HEADER_LEN || len < header_len || len > packet.len() {
        return Err(SHORT);
    }
    let is_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    let protocol = header[9];
    let address = |at: usize| IpAddr::V4(Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]));
    let ports = if is_fragment { None } else { ports(protocol, &packet[header_len..len]) };
    Ok(Flow { source: address(12), destination: address(16), protocol: Some(protocol), ports, len })
}

fn ipv6(packet: &[u8]) -> Result<Flow, &'static str> {
    const SHORT: &str = "it is shorter than its IPv6 header says";
    let header: &[u8; IPV6_HEADER_LEN] = packet.first_chunk().ok_or(SHORT)?;
    let len = IPV6_HEADER_LEN + usize::from(u16::from_be_bytes([header[4], header[5]]));
    if len > packet.len() {
        return Err(SHORT);
    }
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&header[at..at + 16]);
        IpAddr::V6(Ipv6Addr::from(octets))
    };
    let (protocol, ports) = upper_layer(header[6], &packet[IPV6_HEADER_LEN..len]);
    Ok(Flow { source: address(8), destination: address(24), protocol, ports, len })
}

/// Goes through the extension headers (RFC 8200 §4): what is behind them, and its ports where they can be seen. AH and ESP are
/// protocols here (RFC 4301 §4.4.1.1), and a fragment shows its protocol only where each of its siblings does.
fn upper_layer(mut next: u8, mut rest: &[u8]) -> (Option<u8>, Option<(u16, u16)>) {
    for _ in 0..EXTENSIONS_MAX {
        if !is_looked_through(next) {
            return (Some(next), ports(next, rest));
        }
        let Some(&[following, len, high, low, ..]) = rest.first_chunk::<8>() else { return (None, None) };
        let is_fragment = next == FRAGMENT && u16::from_be_bytes([high, low]) & 0xfff9 != 0;
        if is_fragment {
            return ((!is_looked_through(following)).then_some(following), None);
        }
        let len = if next == FRAGMENT { 8 } else { (usize::from(len) + 1) * 8 };
        (next, rest) = (following, rest.get(len..).unwrap_or_default());
    }
    (None, None)
}

const fn is_looked_through(next_header: u8) -> bool {
    matches!(next_header, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS)
}

fn ports(protocol: u8, payload: &[u8]) -> Option<(u16, u16)> {
    match (protocol, payload) {
        (TCP | UDP | SCTP | DCCP | UDP_LITE, &[a, b, c, d, ..]) => Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))),
        // Type and code stand for the port on both sides (RFC 7296 §3.13.1).
        (ICMP | ICMPV6, &[kind, code, ..]) => Some((u16::from_be_bytes([kind, code]), u16::from_be_bytes([kind, code]))),
        (MOBILITY, &[_, _, kind, ..]) => Some((u16::from_be_bytes([kind, 0]), u16::from_be_bytes([kind, 0]))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn udp4(source: [u8; 4], destination: [u8; 4], ports: (u16, u16)) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, UDP, 0, 0];
        packet.extend(source);
        packet.extend(destination);
        packet.extend(ports.0.to_be_bytes());
        packet.extend(ports.1.to_be_bytes());
        packet.extend([0, 8, 0, 0]);
        packet
    }

    fn ipv6_of(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend((payload.len() as u16).to_be_bytes());
        packet.extend([next, 64]);
        packet.extend(Ipv6Addr::LOCALHOST.octets());
        packet.extend("fd00::7".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend(payload);
        packet
    }

    #[test]
    fn an_ipv4_packet_is_read_up_to_its_own_length() {
        let mut packet = udp4([10, 0, 0, 1], [10, 0, 1, 2], (1000, 53));
        packet.extend([0; 9]);
        let flow = Flow::of(&packet).unwrap();
        assert_eq!((flow.source.to_string(), flow.destination.to_string()), ("10.0.0.1".into(), "10.0.1.2".into()));
        assert_eq!((flow.protocol, flow.ports, flow.len, flow.next_header()), (Some(UDP), Some((1000, 53)), 28, 4));
    }

    #[test]
    fn fragments_have_no_ports_the_first_one_neither() {
        for fragment in [[0, 1], [0x20, 0], [0x20, 1]] {
            let mut packet = udp4([10, 0, 0, 1], [10, 0, 1, 2], (1000, 53));
            packet[6..8].copy_from_slice(&fragment);
            assert_eq!(Flow::of(&packet).unwrap().ports, None);
        }
        let fragment = |next: u8, offset: u8| {
            let flow = Flow::of(&ipv6_of(FRAGMENT, &[next, 0, 0, offset, 0, 0, 0, 1, 0, 9, 0, 10])).unwrap();
            (flow.protocol, flow.ports)
        };
        assert_eq!(fragment(UDP, 0), (Some(UDP), Some((9, 10))), "an atomic one (RFC 6946)");
        assert_eq!((fragment(UDP, 1), fragment(UDP, 8)), ((Some(UDP), None), (Some(UDP), None)));
        assert_eq!(fragment(DESTINATION_OPTIONS, 1), (None, None), "a later one could not tell");
    }

    #[test]
    fn extension_headers_are_looked_through() {
        let options = [TCP, 0, 0, 0, 0, 0, 0, 0, 0, 80, 1, 187];
        let flow = Flow::of(&ipv6_of(HOP_BY_HOP, &options)).unwrap();
        assert_eq!((flow.protocol, flow.ports, flow.next_header()), (Some(TCP), Some((80, 443)), 41));
        let protected = Flow::of(&ipv6_of(51, &[TCP, 4, 0, 0])).unwrap();
        assert_eq!((protected.protocol, protected.ports), (Some(51), None), "AH is a protocol");
        // One that says it is longer than the packet.
        assert_eq!(Flow::of(&ipv6_of(ROUTING, &[TCP, 200, 0, 0])).unwrap().ports, None);
        // A chain without end is given up.
        let chain: Vec<u8> = [DESTINATION_OPTIONS, 0, 0, 0, 0, 0, 0, 0].repeat(40);
        let flow = Flow::of(&ipv6_of(DESTINATION_OPTIONS, &chain)).unwrap();
        assert_eq!((flow.protocol, flow.ports), (None, None));
    }

    #[test]
    fn what_is_no_packet_is_refused() {
        for bytes in [&[][..], &[0x45], &[0x60; 39], &[0x75; 40], &[0x44; 40]] {
            assert!(Flow::of(bytes).is_err(), "{bytes:x?}");
        }
        let packet = udp4([10, 0, 0, 1], [10, 0, 1, 2], (1, 2));
        assert!(Flow::of(&packet[..27]).is_err());
    }

    #[test]
    fn selectors_decide_by_address_protocol_and_port() {
        let net = |text: &str| {
            let net: ipnet::Ipv4Net = text.parse().unwrap();
            AddressRange::V4 { first: net.network(), last: net.broadcast() }
        };
        let any = |text| vec![IpSelector::any_of(net(text))];
        let flow = Flow::of(&udp4([10, 0, 0, 1], [10, 0, 1, 2], (1000, 53))).unwrap();
        assert!(flow.is_covered(&any("10.0.0.0/24"), &any("10.0.1.0/24")));
        assert!(!flow.is_covered(&any("10.0.1.0/24"), &any("10.0.0.0/24")));
        assert!(!flow.is_covered(&any("10.0.0.0/24"), &any("10.0.2.0/24")));
        assert!(!flow.is_covered(&[IpSelector::any_of(AddressRange::ANY_V6)], &any("10.0.1.0/24")));
        let dns = |protocol, first, last| {
            vec![IpSelector { protocol, ports: PortRange { first, last }, addresses: net("10.0.1.0/24") }]
        };
        assert!(flow.is_covered(&any("0.0.0.0/0"), &dns(UDP, 53, 53)));
        assert!(!flow.is_covered(&any("0.0.0.0/0"), &dns(UDP, 54, 99)));
        assert!(!flow.is_covered(&any("0.0.0.0/0"), &dns(TCP, 53, 53)));
        let fragment = Flow { ports: None, ..flow };
        assert!(!fragment.is_covered(&any("0.0.0.0/0"), &dns(UDP, 53, 53)));
        let opaque = [IpSelector { protocol: UDP, ports: PortRange::OPAQUE, addresses: net("10.0.1.0/24") }];
        assert!(fragment.is_covered(&any("0.0.0.0/0"), &opaque) && !flow.is_covered(&any("0.0.0.0/0"), &opaque));
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_flow_within_them_or_an_error(mut bytes: Vec<u8>, version in prop_oneof![Just(0x45), Just(0x4f), Just(0x60)]) {
            if let Some(first) = bytes.first_mut() {
                *first = version;
            }
            if let Ok(flow) = Flow::of(&bytes) {
                prop_assert!(flow.len <= bytes.len());
            }
        }
    }
}
