//! What the library has to know of an inner IP packet: between which addresses it goes, what it carries, and whether the traffic
//! selectors of an SA are for it (RFC 4301 §4.4.1.1, RFC 7296 §3.13.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use adit_proto::esp::{NEXT_HEADER_IPV4, NEXT_HEADER_IPV6};
use adit_proto::ike::IpSelector;
use adit_proto::packet::{Packet, Side, ip_len};

/// A packet whose headers were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// What selectors look at.
    pub packet: Packet,
    /// What an ICMP error is about, as if it went the way of the error (RFC 4301 §6).
    about: Option<Packet>,
    /// Length of the packet by its own header, in bytes: what follows is padding (RFC 4303 §2.7).
    pub len: usize,
}

impl Flow {
    /// Reads the headers of a packet.
    ///
    /// # Errors
    /// It is no IP packet, or shorter than it says.
    pub fn of(bytes: &[u8]) -> Result<Flow, &'static str> {
        let short = match bytes.first().map(|byte| byte >> 4) {
            Some(4) => "it is shorter than its IPv4 header says",
            Some(6) => "it is shorter than its IPv6 header says",
            Some(_) => return Err("its version is neither 4 nor 6"),
            None => return Err("it is empty"),
        };
        let (len, _) = ip_len(bytes).ok_or(short)?;
        let bytes = &bytes[..len];
        let packet = Packet::parse(bytes).ok_or(short)?;
        Ok(Flow { packet, about: packet.enclosed(bytes), len })
    }

    pub fn source(&self) -> IpAddr {
        self.address(&self.packet.source)
    }

    pub fn destination(&self) -> IpAddr {
        self.address(&self.packet.destination)
    }

    /// The next header of ESP for it.
    pub fn next_header(&self) -> u8 {
        if self.packet.v6 { NEXT_HEADER_IPV6 } else { NEXT_HEADER_IPV4 }
    }

    /// Whether the selectors are for it when it goes from this side to that one; or, of an ICMP error, for the answers to what it
    /// encloses.
    pub fn is_covered(&self, from: &[IpSelector], to: &[IpSelector]) -> bool {
        [Some(self.packet), self.about].into_iter().flatten().any(|packet| {
            from.iter().any(|one| matches(&packet, one, &packet.source))
                && to.iter().any(|one| matches(&packet, one, &packet.destination))
        })
    }

    fn address(&self, side: &Side) -> IpAddr {
        if self.packet.v6 { Ipv6Addr::from_bits(side.address).into() } else { Ipv4Addr::from_bits(side.address as u32).into() }
    }
}

fn matches(packet: &Packet, selector: &IpSelector, side: &Side) -> bool {
    side.is_among(packet.v6, &selector.addresses)
        && side.port.is_in(selector.ports)
        && (selector.protocol == 0 || Some(selector.protocol) == packet.protocol)
}

#[cfg(test)]
mod tests {
    use adit_proto::ike::{AddressRange, PortRange};
    use adit_proto::packet::Port;
    use proptest::prelude::*;

    use super::*;

    const TCP: u8 = 6;
    const UDP: u8 = 17;
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION_OPTIONS: u8 = 60;

    fn ports(flow: &Flow) -> Option<(u16, u16)> {
        match (flow.packet.source.port, flow.packet.destination.port) {
            (Port::Number(source), Port::Number(destination)) => Some((source, destination)),
            (Port::Hidden, Port::Hidden) => None,
            others => panic!("{others:?}"),
        }
    }

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
        assert_eq!((flow.source().to_string(), flow.destination().to_string()), ("10.0.0.1".into(), "10.0.1.2".into()));
        assert_eq!((flow.packet.protocol, ports(&flow), flow.len, flow.next_header()), (Some(UDP), Some((1000, 53)), 28, 4));
    }

    #[test]
    fn fragments_have_no_ports_the_first_one_neither() {
        for fragment in [[0, 1], [0x20, 0], [0x20, 1]] {
            let mut packet = udp4([10, 0, 0, 1], [10, 0, 1, 2], (1000, 53));
            packet[6..8].copy_from_slice(&fragment);
            assert_eq!(ports(&Flow::of(&packet).unwrap()), None);
        }
        let fragment = |next: u8, offset: u8| {
            let flow = Flow::of(&ipv6_of(FRAGMENT, &[next, 0, 0, offset, 0, 0, 0, 1, 0, 9, 0, 10])).unwrap();
            (flow.packet.protocol, ports(&flow))
        };
        assert_eq!(fragment(UDP, 0), (Some(UDP), Some((9, 10))), "an atomic one (RFC 6946)");
        assert_eq!((fragment(UDP, 1), fragment(UDP, 8)), ((Some(UDP), None), (Some(UDP), None)));
        assert_eq!(fragment(DESTINATION_OPTIONS, 1), (None, None), "a later one could not tell");
    }

    #[test]
    fn extension_headers_are_looked_through() {
        let options = [TCP, 0, 0, 0, 0, 0, 0, 0, 0, 80, 1, 187];
        let flow = Flow::of(&ipv6_of(HOP_BY_HOP, &options)).unwrap();
        assert_eq!((flow.packet.protocol, ports(&flow), flow.next_header()), (Some(TCP), Some((80, 443)), 41));
        let protected = Flow::of(&ipv6_of(51, &[TCP, 4, 0, 0])).unwrap();
        assert_eq!((protected.packet.protocol, ports(&protected)), (Some(51), None), "AH is a protocol");
        // One that says it is longer than the packet.
        assert_eq!(ports(&Flow::of(&ipv6_of(ROUTING, &[TCP, 200, 0, 0])).unwrap()), None);
        // A chain without end is given up.
        let chain: Vec<u8> = [DESTINATION_OPTIONS, 0, 0, 0, 0, 0, 0, 0].repeat(40);
        let flow = Flow::of(&ipv6_of(DESTINATION_OPTIONS, &chain)).unwrap();
        assert_eq!((flow.packet.protocol, ports(&flow)), (None, None));
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
        let mut fragment = udp4([10, 0, 0, 1], [10, 0, 1, 2], (1000, 53));
        fragment[6] = 0x20;
        let fragment = Flow::of(&fragment).unwrap();
        assert!(!fragment.is_covered(&any("0.0.0.0/0"), &dns(UDP, 53, 53)));
        let opaque = [IpSelector { protocol: UDP, ports: PortRange::OPAQUE, addresses: net("10.0.1.0/24") }];
        assert!(fragment.is_covered(&any("0.0.0.0/0"), &opaque) && !flow.is_covered(&any("0.0.0.0/0"), &opaque));
        // Type and code of ICMP stand at the source (RFC 4301 §4.4.1.3), whatever the other side says of ports.
        let mut echo = udp4([10, 0, 0, 1], [10, 0, 1, 2], (0x0800, 7));
        echo[9] = 1;
        let icmp = |first| [IpSelector { protocol: 1, ports: PortRange { first, last: first }, addresses: net("0.0.0.0/0") }];
        let echo = Flow::of(&echo).unwrap();
        assert!(echo.is_covered(&icmp(0x0800), &icmp(0)) && !echo.is_covered(&icmp(0), &icmp(0x0800)));
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
