//! What routers say of packets of ours that were too big (RFC 792, RFC 1191 §4, RFC 4443 §3.2), and which of that can be believed. Pure.
//!
//! Anybody can send such a message, in any router's name. It quotes the packet that it is about, and the SPI in there is known only to
//! the two ends and to who is on the way: so what quotes an SPI that lives is believed, and nothing else (RFC 4301 §8.2.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use adit_engine::ike::IkeSpis;
use adit_proto::control::Spi;
use adit_proto::esp::NON_ESP_MARKER_LEN;
use adit_proto::ike::IkeSpi;
use socket2::SockFilter;

/// Lengths of headers, in bytes.
const IPV4: usize = 20;
const IPV6: usize = 40;
const UDP: usize = 8;
const ICMP: usize = 8;
/// Protocol number of UDP.
const PROTOCOL_UDP: u8 = 17;
/// Type and code of "fragmentation needed", and type of "packet too big".
const UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
const PACKET_TOO_BIG: u8 = 2;

/// A router could not pass on a packet of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooBig {
    /// Where the packet was to go.
    pub to: SocketAddr,
    /// The longest IP packet that the router can pass on, in bytes, as it says.
    pub mtu: u16,
    pub spi: QuotedSpi,
}

/// To what the packet belonged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotedSpi {
    /// An outbound SA.
    Esp(Spi),
    Ike(IkeSpis),
}

/// Reads an IPv4 packet with a message of ICMP. `None` unless it quotes enough of a datagram that left from this port, and was longer
/// than what is said to fit.
pub fn of_ipv4(packet: &[u8], port: u16) -> Option<TooBig> {
    let header = usize::from(packet.first()? & 15) * 4;
    let message = packet.get(header..)?;
    let quoted = message.get(ICMP..)?;
    if message[..2] != [UNREACHABLE, FRAGMENTATION_NEEDED] || *quoted.first()? != 0x45 || *quoted.get(9)? != PROTOCOL_UDP {
        return None;
    }
    let to: [u8; 4] = *quoted.get(16..)?.first_chunk()?;
    let length = u16_at(quoted, 2)?;
    datagram(quoted.get(IPV4..)?, port, Ipv4Addr::from(to).into(), (length, u16_at(message, 6)?))
}

/// Reads a message of ICMPv6; likewise.
pub fn of_ipv6(message: &[u8], port: u16) -> Option<TooBig> {
    let quoted = message.get(ICMP..)?;
    if message[0] != PACKET_TOO_BIG || quoted.first()? >> 4 != 6 || *quoted.get(6)? != PROTOCOL_UDP {
        return None;
    }
    let to: [u8; 16] = *quoted.get(24..)?.first_chunk()?;
    let length = u16_at(quoted, 4)?.saturating_add(IPV6 as u16);
    let mtu = u32::from_be_bytes(*message.get(4..)?.first_chunk()?);
    datagram(quoted.get(IPV6..)?, port, Ipv6Addr::from(to).into(), (length, mtu.try_into().ok()?))
}

/// Reads the quoted datagram, of a packet of this length that did not fit this MTU.
fn datagram(udp: &[u8], port: u16, to: IpAddr, (length, mtu): (u16, u16)) -> Option<TooBig> {
    let (from, to) = (u16_at(udp, 0)?, SocketAddr::new(to, u16_at(udp, 2)?));
    if from != port || length <= mtu {
        return None;
    }
    let payload = udp.get(UDP..)?;
    let word = u32::from_be_bytes(*payload.first_chunk()?);
    let spi = match word {
        0 => {
            let spi = |at: usize| Some(IkeSpi(u64::from_be_bytes(*payload.get(NON_ESP_MARKER_LEN + at..)?.first_chunk()?)));
            QuotedSpi::Ike(IkeSpis { initiator: spi(0)?, responder: spi(8)? })
        }
        spi => QuotedSpi::Esp(Spi(spi)),
    };
    Some(TooBig { to, mtu, spi })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|two| u16::from_be_bytes(*two))
}

/// Instructions of classic BPF (linux/filter.h): loads of a byte and of two, at a fixed place and behind X; X from the length of the IPv4
/// header; comparison; the end.
const LOAD_BYTE: u16 = 0x30;
const LOAD_BYTE_BEHIND: u16 = 0x50;
const LOAD_TWO: u16 = 0x28;
const LOAD_TWO_BEHIND: u16 = 0x48;
const HEADER_LENGTH: u16 = 0xb1;
const IS: u16 = 0x15;
const RETURN: u16 = 0x06;

/// Has the kernel pass only what [`of_ipv4`] may take: a flood of anything else costs nothing here.
pub fn filter_ipv4(port: u16) -> Vec<SockFilter> {
    let checks = [
        (LOAD_BYTE_BEHIND, 0, UNREACHABLE.into()),
        (LOAD_BYTE_BEHIND, 1, FRAGMENTATION_NEEDED.into()),
        (LOAD_BYTE_BEHIND, ICMP + 9, PROTOCOL_UDP.into()),
        (LOAD_TWO_BEHIND, ICMP + IPV4, port.into()),
    ];
    let mut program = vec![SockFilter::new(HEADER_LENGTH, 0, 0, 0)];
    program.extend(all(&checks));
    program
}

/// Likewise for [`of_ipv6`].
pub fn filter_ipv6(port: u16) -> Vec<SockFilter> {
    let checks =
        [(LOAD_BYTE, 0, PACKET_TOO_BIG.into()), (LOAD_BYTE, ICMP + 6, PROTOCOL_UDP.into()), (LOAD_TWO, ICMP + IPV6, port.into())];
    all(&checks)
}

/// Passes what has all these values; what is too short to have them is dropped by the kernel itself.
fn all(checks: &[(u16, usize, u32)]) -> Vec<SockFilter> {
    let mut program = Vec::new();
    for (number, (load, at, value)) in checks.iter().enumerate() {
        let to_the_end = 2 * (checks.len() - 1 - number) + 1;
        program.push(SockFilter::new(*load, 0, 0, *at as u32));
        program.push(SockFilter::new(IS, 0, to_the_end as u8, *value));
    }
    program.extend([SockFilter::new(RETURN, 0, 0, u32::MAX), SockFilter::new(RETURN, 0, 0, 0)]);
    program
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PORT: u16 = 4500;

    /// A router's message about a datagram with this payload, in a packet of `length` bytes.
    fn ipv4(payload: &[u8], length: u16, mtu: u16) -> Vec<u8> {
        let mut packet = vec![0; IPV4 + ICMP + IPV4 + UDP];
        packet[0] = 0x45;
        packet[20..22].copy_from_slice(&[3, 4]);
        packet[26..28].copy_from_slice(&mtu.to_be_bytes());
        (packet[28], packet[37]) = (0x45, 17);
        packet[30..32].copy_from_slice(&length.to_be_bytes());
        packet[44..48].copy_from_slice(&[198, 51, 100, 7]);
        packet[48..52].copy_from_slice(&[0x11, 0x94, 0x11, 0x95]);
        packet.extend(payload);
        packet
    }

    fn ipv6(payload: &[u8], length: u16, mtu: u32) -> Vec<u8> {
        let mut message = vec![0; ICMP + IPV6 + UDP];
        message[0] = 2;
        message[4..8].copy_from_slice(&mtu.to_be_bytes());
        (message[8], message[14]) = (0x60, 17);
        message[12..14].copy_from_slice(&(length - 40).to_be_bytes());
        message[32..48].copy_from_slice(&"2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
        message[48..52].copy_from_slice(&[0x11, 0x94, 0x11, 0x95]);
        message.extend(payload);
        message
    }

    #[test]
    fn what_quotes_a_spi_is_read_in_both_versions() {
        let esp = QuotedSpi::Esp(Spi(0x5000_0001));
        let spi = [0x50, 0, 0, 1, 0, 0, 0, 9];
        let to = "198.51.100.7:4501".parse().unwrap();
        assert_eq!(of_ipv4(&ipv4(&spi, 1500, 1300), PORT), Some(TooBig { to, mtu: 1300, spi: esp }));
        let to = "[2001:db8::7]:4501".parse().unwrap();
        assert_eq!(of_ipv6(&ipv6(&spi, 1500, 1300), PORT), Some(TooBig { to, mtu: 1300, spi: esp }));
        let mut ike = vec![0; 4];
        ike.extend([1; 8]);
        ike.extend([2; 8]);
        let spis = IkeSpis { initiator: IkeSpi(0x0101_0101_0101_0101), responder: IkeSpi(0x0202_0202_0202_0202) };
        assert_eq!(of_ipv4(&ipv4(&ike, 1500, 1300), PORT).unwrap().spi, QuotedSpi::Ike(spis));
        // Options of the message's own packet.
        let mut long = ipv4(&spi, 1500, 1300);
        long[0] = 0x46;
        long.splice(20..20, [0; 4]);
        assert_eq!(of_ipv4(&long, PORT).map(|said| said.mtu), Some(1300));
    }

    #[test]
    fn what_quotes_too_little_or_another_packet_is_nothing() {
        let spi = [0x50, 0, 0, 1];
        let good = ipv4(&spi, 1500, 1300);
        assert!((0..good.len()).all(|len| of_ipv4(&good[..len], PORT).is_none()), "the SPI is its end");
        let good6 = ipv6(&spi, 1500, 1300);
        assert!((0..good6.len()).all(|len| of_ipv6(&good6[..len], PORT).is_none()));
        assert_eq!(of_ipv4(&good, 4501), None, "from a port that is not ours");
        assert_eq!(of_ipv4(&ipv4(&spi, 1300, 1300), PORT), None, "it would have fitted");
        assert_eq!(of_ipv6(&ipv6(&spi, 1500, 70_000), PORT), None);
        for (at, value) in [(20, 11), (21, 1), (28, 0x46), (37, 6)] {
            let mut other = good.clone();
            other[at] = value;
            assert_eq!(of_ipv4(&other, PORT), None, "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>, port: u16) {
            let _ = (of_ipv4(&bytes, port), of_ipv6(&bytes, port));
        }
    }
}
