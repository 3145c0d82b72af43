//! How a datagram goes: between which two addresses, and over which interface where that is not clear from them; or in a stream, which
//! the shell has and which has no addresses.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use adit_proto::control::StreamId;
use adit_proto::ike::PayloadType;

use super::mtu;

/// The port on which IKE has no marker and ESP is not encapsulated.
pub const IKE_PORT: u16 = 500;
/// Where the header of IKE says what comes first in the message (RFC 7296 §3.1).
const NEXT_PAYLOAD_AT: usize = 16;
/// In front of IKE on every other port (RFC 3948 §2.2).
const MARKER: [u8; 4] = [0; 4];

/// The way of datagrams to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hop {
    Udp(UdpHop),
    Stream(StreamId),
}

/// Where datagrams of UDP leave from and where they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UdpHop {
    /// Our end. An unspecified address leaves the choice to the kernel; the port says from which socket.
    pub local: SocketAddr,
    /// Index of the interface; 0 is any. Only link-local addresses need one.
    pub interface: u32,
    pub remote: SocketAddr,
}

/// The other end of a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Remote {
    Udp(SocketAddr),
    Stream(StreamId),
}

/// Where somebody is, as limits and tables go by it: whatever the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    Address(IpAddr),
    Stream(StreamId),
}

/// Where a datagram of UDP came to and from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Arrival {
    pub local: SocketAddr,
    /// Index of the interface; 0 is unknown.
    pub interface: u32,
    pub remote: SocketAddr,
    /// Its traffic class: DSCP and ECN (RFC 2474, RFC 3168).
    pub class: u8,
}

impl Arrival {
    /// With nothing known beyond the addresses.
    pub fn new(local: SocketAddr, remote: SocketAddr) -> Arrival {
        Arrival { local, interface: 0, remote, class: 0 }
    }

    /// The way back.
    pub fn hop(&self) -> Hop {
        Hop::Udp(UdpHop { local: self.local, interface: self.interface, remote: self.remote }.normal())
    }
}

impl From<Arrival> for Hop {
    fn from(came: Arrival) -> Hop {
        came.hop()
    }
}

impl Remote {
    pub fn site(&self) -> Site {
        match self {
            Remote::Udp(address) => Site::Address(address.ip()),
            Remote::Stream(stream) => Site::Stream(*stream),
        }
    }

    /// Where it is one.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Remote::Udp(address) => Some(*address),
            Remote::Stream(_) => None,
        }
    }
}

impl From<SocketAddr> for Remote {
    fn from(address: SocketAddr) -> Remote {
        Remote::Udp(address)
    }
}

impl PartialEq<SocketAddr> for Remote {
    fn eq(&self, other: &SocketAddr) -> bool {
        self.address() == Some(*other)
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remote::Udp(address) => address.fmt(f),
            Remote::Stream(stream) => stream.fmt(f),
        }
    }
}

impl Site {
    /// Where it is one.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Site::Address(address) => Some(*address),
            Site::Stream(_) => None,
        }
    }
}

impl From<IpAddr> for Site {
    fn from(address: IpAddr) -> Site {
        Site::Address(address)
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Site::Address(address) => address.fmt(f),
            Site::Stream(stream) => stream.fmt(f),
        }
    }
}

impl UdpHop {
    /// Equal hops look equal: by which interface something came matters for link-local addresses alone, since routes need not be
    /// symmetric.
    fn normal(mut self) -> UdpHop {
        if let SocketAddr::V6(remote) = &mut self.remote {
            if self.interface == 0 {
                self.interface = remote.scope_id();
            }
            remote.set_scope_id(0);
            remote.set_flowinfo(0);
        }
        if let SocketAddr::V6(local) = &mut self.local {
            local.set_scope_id(0);
            local.set_flowinfo(0);
        }
        if !is_link_local(self.remote.ip()) {
            self.interface = 0;
        }
        self
    }

    fn is_same(&self, other: &UdpHop) -> bool {
        let open = self.local.ip().is_unspecified() || other.local.ip().is_unspecified();
        let far = (self.remote, self.interface) == (other.remote, other.interface);
        far && self.local.port() == other.local.port() && (open || self.local.ip() == other.local.ip())
    }
}

impl Hop {
    pub fn new(local: SocketAddr, remote: SocketAddr) -> Hop {
        Hop::Udp(UdpHop { local, interface: 0, remote }.normal())
    }

    /// The two ends of a way of UDP.
    pub fn udp(&self) -> Option<UdpHop> {
        match self {
            Hop::Udp(hop) => Some(*hop),
            Hop::Stream(_) => None,
        }
    }

    /// The other end.
    pub fn remote(&self) -> Remote {
        match self {
            Hop::Udp(hop) => Remote::Udp(hop.remote),
            Hop::Stream(stream) => Remote::Stream(*stream),
        }
    }

    /// Where the other end is.
    pub fn site(&self) -> Site {
        self.remote().site()
    }

    /// Whether packets are those of IPv6. In a stream they count as IPv4.
    pub fn is_ipv6(&self) -> bool {
        self.udp().is_some_and(|hop| hop.remote.is_ipv6())
    }

    pub(crate) fn is_stream(&self) -> bool {
        matches!(self, Hop::Stream(_))
    }

    /// Whether it begins at the port of IKE alone.
    pub fn is_from_ike_port(&self) -> bool {
        self.udp().is_some_and(|hop| hop.local.port() == IKE_PORT)
    }

    /// As it is compared.
    pub(crate) fn normal(self) -> Hop {
        match self {
            Hop::Udp(hop) => Hop::Udp(hop.normal()),
            Hop::Stream(_) => self,
        }
    }

    /// The same way from sockets that are bound there: an address of theirs takes the place of ours, and their port, but for the one of IKE
    /// alone, which has sockets of its own. A stream has no socket.
    pub(crate) fn bound_to(self, listen: SocketAddr) -> Hop {
        let Hop::Udp(hop) = self else { return self };
        let port = if hop.local.port() == IKE_PORT { IKE_PORT } else { listen.port() };
        let any = listen.ip().is_unspecified() || listen.is_ipv4() != hop.local.is_ipv4();
        let ip = if any { hop.local.ip() } else { listen.ip() };
        let interface = match listen {
            SocketAddr::V6(listen) if listen.scope_id() != 0 => listen.scope_id(),
            _ => hop.interface,
        };
        Hop::Udp(UdpHop { local: SocketAddr::new(ip, port), interface, ..hop }.normal())
    }

    /// Whether it is the same way, as far as both say: a source that was left to the kernel is any.
    pub(crate) fn is_same(&self, other: &Hop) -> bool {
        match (self, other) {
            (Hop::Udp(one), Hop::Udp(other)) => one.is_same(other),
            (Hop::Stream(one), Hop::Stream(other)) => one == other,
            (Hop::Udp(_), Hop::Stream(_)) | (Hop::Stream(_), Hop::Udp(_)) => false,
        }
    }

    /// Whether both lead to the same end, by the same interface.
    pub(crate) fn leads_to(&self, other: &Hop) -> bool {
        let interface = |hop: &Hop| hop.udp().map(|hop| hop.interface);
        self.remote() == other.remote() && interface(self) == interface(other)
    }

    /// Whether messages carry the marker that tells them from ESP. In a stream IKE is told from ESP by what carries it.
    fn is_marked(&self) -> bool {
        self.udp().is_some_and(|hop| hop.local.port() != IKE_PORT)
    }

    /// The UDP payload for an IKE message.
    pub(crate) fn frame(&self, message: &[u8]) -> Vec<u8> {
        if self.is_marked() { [&MARKER, message].concat() } else { message.to_vec() }
    }

    /// The IKE message in a UDP payload.
    pub(crate) fn unframe<'a>(&self, datagram: &'a [u8]) -> Option<&'a [u8]> {
        if self.is_marked() { datagram.strip_prefix(&MARKER) } else { Some(datagram) }
    }

    /// Bytes of an IP packet around an IKE message.
    pub(crate) fn overhead(&self) -> usize {
        self.headers() + if self.is_marked() { MARKER.len() } else { 0 }
    }

    /// Bytes of the IP and UDP headers; in a stream as many are counted.
    pub(crate) fn headers(&self) -> usize {
        if self.is_ipv6() { 40 + 8 } else { 20 + 8 }
    }

    /// What every path carries, as an IP packet, in bytes (RFC 791: every host takes as much; RFC 8200 §5).
    pub(crate) fn floor(&self) -> u16 {
        if self.is_ipv6() { mtu::FLOOR_V6 } else { mtu::FLOOR_V4 }
    }

    /// Whether a UDP payload is a message of IKE that may be too long for the way, and is not one of the fragments that we cut others
    /// into (RFC 7383), which know the way: unless we can still do that, IP has to cut it.
    pub(crate) fn asks_for_ip_fragments(&self, payload: &[u8]) -> bool {
        if self.is_stream() {
            return false;
        }
        let is_long = payload.len() + self.headers() > self.floor().into();
        is_long && self.unframe(payload).is_some_and(|message| message.get(NEXT_PAYLOAD_AT) != Some(&PayloadType::SKF.0))
    }

    /// The same on the port of NAT traversal: what was on port 500 moves there.
    pub(crate) fn floated(&self, nat_port: u16) -> Hop {
        let Hop::Udp(mut hop) = *self else { return *self };
        if hop.local.port() == IKE_PORT {
            hop.local.set_port(nat_port);
        }
        if hop.remote.port() == IKE_PORT {
            hop.remote.set_port(4500);
        }
        Hop::Udp(hop)
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// No address of ours in particular, on the way to this one.
pub(crate) fn unspecified(remote: SocketAddr, port: u16) -> SocketAddr {
    let any = if remote.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    SocketAddr::new(any, port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(local: &str, remote: &str) -> Hop {
        Hop::new(local.parse().unwrap(), remote.parse().unwrap())
    }

    #[test]
    fn the_marker_is_on_every_port_but_500() {
        let unmarked = hop("10.0.0.1:500", "10.0.0.2:500");
        assert_eq!(unmarked.frame(b"ike"), b"ike");
        assert_eq!(unmarked.unframe(b"ike"), Some(&b"ike"[..]));
        let marked = unmarked.floated(4500);
        assert_eq!(marked, hop("10.0.0.1:4500", "10.0.0.2:4500"));
        assert_eq!(marked.frame(b"ike"), b"\0\0\0\0ike");
        assert_eq!(marked.unframe(b"\0\0\0\0ike"), Some(&b"ike"[..]));
        assert_eq!(marked.unframe(b"\0\0\0"), None);
        assert_eq!(hop("10.0.0.1:4501", "10.0.0.2:7777").floated(4500), hop("10.0.0.1:4501", "10.0.0.2:7777"));
    }

    #[test]
    fn other_sockets_have_another_port_and_perhaps_an_address_of_their_own() {
        let from = |local: &str, listen: &str| {
            hop(local, "198.51.100.7:4500").bound_to(listen.parse().unwrap()).udp().unwrap().local.to_string()
        };
        for (local, listen, now) in [
            ("192.0.2.1:4500", "0.0.0.0:4501", "192.0.2.1:4501"),
            ("192.0.2.1:4500", "[::]:4501", "192.0.2.1:4501"),
            ("192.0.2.1:4500", "192.0.2.9:4501", "192.0.2.9:4501"),
            ("0.0.0.0:4500", "192.0.2.9:4500", "192.0.2.9:4500"),
            ("192.0.2.1:500", "192.0.2.9:4501", "192.0.2.9:500"),
        ] {
            assert_eq!(from(local, listen), now, "{local} {listen}");
        }
        let neighbour = Hop::Udp(UdpHop { interface: 3, ..hop("[fe80::1]:4500", "[fe80::2]:4500").udp().unwrap() });
        let there = |listen: &str| neighbour.bound_to(listen.parse().unwrap()).udp().unwrap().interface;
        assert_eq!((there("[fe80::1%7]:4500"), there("[::]:4501")), (7, 3));
    }

    #[test]
    fn only_what_was_not_cut_and_may_be_too_long_asks_for_ip_fragments() {
        let of = |hop: Hop, first: PayloadType, len: usize| {
            let mut message = vec![0; len - hop.overhead()];
            message[NEXT_PAYLOAD_AT] = first.0;
            hop.asks_for_ip_fragments(&hop.frame(&message))
        };
        for (ports, floor) in [("192.0.2.1:4500", 576), ("192.0.2.1:500", 576), ("[2001:db8::1]:4500", 1280)] {
            let local = if ports.ends_with(":500") { "0.0.0.0:500" } else { "0.0.0.0:4500" };
            let hop = hop(local, ports);
            for first in [PayloadType::SK, PayloadType::SA] {
                assert_eq!([floor, floor + 1, 9000].map(|len| of(hop, first, len)), [false, true, true], "{ports}");
            }
            assert!(!of(hop, PayloadType::SKF, 1281), "a fragment of ours: {ports}");
        }
        assert!(!hop("10.0.0.1:4500", "10.0.0.2:4500").asks_for_ip_fragments(&[0xff]), "a keepalive");
    }

    #[test]
    fn a_stream_has_no_addresses_no_marker_and_no_ip_fragments() {
        let (stream, udp) = (Hop::Stream(StreamId(7)), hop("10.0.0.1:4500", "10.0.0.2:4500"));
        assert_eq!((stream.frame(b"ike"), stream.unframe(b"ike")), (b"ike".to_vec(), Some(&b"ike"[..])));
        assert!(!stream.asks_for_ip_fragments(&[0; 9000]));
        assert_eq!((stream.overhead(), stream.floor()), (28, 576), "as IPv4 without the marker");
        assert_eq!((stream.floated(4501), stream.bound_to("[::]:7".parse().unwrap()), stream.udp()), (stream, stream, None));
        assert!(stream.is_same(&stream) && !stream.is_same(&Hop::Stream(StreamId(8))) && !stream.is_same(&udp));
        assert_eq!((stream.site().address(), stream.remote().to_string()), (None, "stream 0000000000000007".to_owned()));
    }

    #[test]
    fn the_interface_tells_link_local_neighbours_apart_and_nothing_else() {
        let came = |interface, remote: &str| {
            Arrival { interface, ..Arrival::new("[::]:4500".parse().unwrap(), remote.parse().unwrap()) }.hop()
        };
        assert_ne!(came(2, "[fe80::1]:4500"), came(3, "[fe80::1]:4500"));
        assert_eq!(came(2, "[2001:db8::1]:4500"), came(3, "[2001:db8::1]:4500"));
        assert_eq!(came(2, "[fe80::1]:4500"), came(0, "[fe80::1%2]:4500"));
    }
}
