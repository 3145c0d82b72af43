//! How a datagram goes: between which two addresses, and over which interface where that is not clear from them.

use std::net::{IpAddr, SocketAddr};

use adit_proto::ike::PayloadType;

use super::mtu;

/// The port on which IKE has no marker and ESP is not encapsulated.
pub const IKE_PORT: u16 = 500;
/// Where the header of IKE says what comes first in the message (RFC 7296 §3.1).
const NEXT_PAYLOAD_AT: usize = 16;
/// In front of IKE on every other port (RFC 3948 §2.2).
const MARKER: [u8; 4] = [0; 4];

/// Where datagrams leave from and where they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hop {
    /// Our end. An unspecified address leaves the choice to the kernel; the port says from which socket.
    pub local: SocketAddr,
    /// Index of the interface; 0 is any. Only link-local addresses need one.
    pub interface: u32,
    pub remote: SocketAddr,
}

/// Where a datagram came to and from.
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
        Hop { local: self.local, interface: self.interface, remote: self.remote }.normal()
    }
}

impl Hop {
    pub fn new(local: SocketAddr, remote: SocketAddr) -> Hop {
        Hop { local, interface: 0, remote }.normal()
    }

    /// Equal hops look equal: by which interface something came matters for link-local addresses alone, since routes need not be
    /// symmetric.
    pub(crate) fn normal(mut self) -> Hop {
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

    /// The same way from sockets that are bound there: an address of theirs takes the place of ours, and their port, but for the one of IKE
    /// alone, which has sockets of its own.
    pub(crate) fn bound_to(self, listen: SocketAddr) -> Hop {
        let port = if self.local.port() == IKE_PORT { IKE_PORT } else { listen.port() };
        let any = listen.ip().is_unspecified() || listen.is_ipv4() != self.local.is_ipv4();
        let ip = if any { self.local.ip() } else { listen.ip() };
        let interface = match listen {
            SocketAddr::V6(listen) if listen.scope_id() != 0 => listen.scope_id(),
            _ => self.interface,
        };
        Hop { local: SocketAddr::new(ip, port), interface, ..self }.normal()
    }

    /// Whether it is the same way, as far as both say: a source that was left to the kernel is any.
    pub(crate) fn is_same(&self, other: &Hop) -> bool {
        let open = self.local.ip().is_unspecified() || other.local.ip().is_unspecified();
        let far = (self.remote, self.interface) == (other.remote, other.interface);
        far && self.local.port() == other.local.port() && (open || self.local.ip() == other.local.ip())
    }

    /// Whether messages carry the marker that tells them from ESP.
    fn is_marked(&self) -> bool {
        self.local.port() != IKE_PORT
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

    /// Bytes of the IP and UDP headers.
    pub(crate) fn headers(&self) -> usize {
        if self.remote.is_ipv4() { 20 + 8 } else { 40 + 8 }
    }

    /// What every path carries, as an IP packet, in bytes (RFC 791: every host takes as much; RFC 8200 §5).
    pub(crate) fn floor(&self) -> u16 {
        if self.remote.is_ipv4() { mtu::FLOOR_V4 } else { mtu::FLOOR_V6 }
    }

    /// Whether a UDP payload is a message of IKE that may be too long for the way, and is not one of the fragments that we cut others
    /// into (RFC 7383), which know the way: unless we can still do that, IP has to cut it.
    pub(crate) fn asks_for_ip_fragments(&self, payload: &[u8]) -> bool {
        let is_long = payload.len() + self.headers() > self.floor().into();
        is_long && self.unframe(payload).is_some_and(|message| message.get(NEXT_PAYLOAD_AT) != Some(&PayloadType::SKF.0))
    }

    /// The same on the port of NAT traversal: what was on port 500 moves there.
    pub(crate) fn floated(&self, nat_port: u16) -> Hop {
        let mut hop = *self;
        if hop.local.port() == IKE_PORT {
            hop.local.set_port(nat_port);
        }
        if hop.remote.port() == IKE_PORT {
            hop.remote.set_port(4500);
        }
        hop
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
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
        let from =
            |local: &str, listen: &str| hop(local, "198.51.100.7:4500").bound_to(listen.parse().unwrap()).local.to_string();
        for (local, listen, now) in [
            ("192.0.2.1:4500", "0.0.0.0:4501", "192.0.2.1:4501"),
            ("192.0.2.1:4500", "[::]:4501", "192.0.2.1:4501"),
            ("192.0.2.1:4500", "192.0.2.9:4501", "192.0.2.9:4501"),
            ("0.0.0.0:4500", "192.0.2.9:4500", "192.0.2.9:4500"),
            ("192.0.2.1:500", "192.0.2.9:4501", "192.0.2.9:500"),
        ] {
            assert_eq!(from(local, listen), now, "{local} {listen}");
        }
        let neighbour = Hop { interface: 3, ..hop("[fe80::1]:4500", "[fe80::2]:4500") };
        let there = |listen: &str| neighbour.bound_to(listen.parse().unwrap()).interface;
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
    fn the_interface_tells_link_local_neighbours_apart_and_nothing_else() {
        let came = |interface, remote: &str| {
            Arrival { interface, ..Arrival::new("[::]:4500".parse().unwrap(), remote.parse().unwrap()) }.hop()
        };
        assert_ne!(came(2, "[fe80::1]:4500"), came(3, "[fe80::1]:4500"));
        assert_eq!(came(2, "[2001:db8::1]:4500"), came(3, "[2001:db8::1]:4500"));
        assert_eq!(came(2, "[fe80::1]:4500"), came(0, "[fe80::1%2]:4500"));
    }
}
