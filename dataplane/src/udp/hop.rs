//! A hop in the form that the kernel takes: the other end of datagrams, and the address and interface from which they leave.

use std::net::{IpAddr, SocketAddr};

use adit_proto::control::{LocalEnd, UdpHop};

use super::Endpoint;

/// Where datagrams go, and what the kernel is told of how they leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    pub to: Endpoint,
    pub source: Source,
}

impl Hop {
    /// To this address from wherever the kernel's routes say.
    pub fn to(to: Endpoint) -> Hop {
        Hop { to, source: Source::ANY }
    }

    /// `None` when the socket cannot do that: the versions of the addresses differ, or the socket has another one.
    pub fn new(remote: SocketAddr, local: Option<IpAddr>, interface: u32, mapped: bool) -> Option<Hop> {
        let v4 = remote.ip().to_canonical().is_ipv4();
        let local = local.map(|local| local.to_canonical());
        if !mapped && !v4 || local.is_some_and(|local| local.is_ipv4() != v4) {
            return None;
        }
        let kind = if local.is_none() && interface == 0 {
            SourceKind::Any
        } else if v4 {
            SourceKind::V4
        } else {
            SourceKind::V6
        };
        let address = match local {
            Some(IpAddr::V4(v4)) => v4.to_ipv6_mapped().octets(),
            Some(IpAddr::V6(v6)) => v6.octets(),
            None => [0; 16],
        };
        Some(Hop { to: Endpoint::new(remote, mapped), source: Source { address, interface, kind } })
    }

    pub fn of(hop: &UdpHop, mapped: bool) -> Option<Hop> {
        Hop::new(hop.remote, hop.local, hop.interface, mapped)
    }

    /// Back to where a datagram came from, from the address that it came to.
    pub fn back(from: Endpoint, to: LocalEnd) -> Hop {
        let (kind, address) = match to.address {
            unknown if unknown.is_unspecified() => return Hop::to(from),
            IpAddr::V4(v4) => (SourceKind::V4, v4.to_ipv6_mapped().octets()),
            IpAddr::V6(v6) => (SourceKind::V6, v6.octets()),
        };
        // A link-local address means something only on its link; of the others, the routes know better by which interface.
        let interface = match to.address {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => to.interface,
            _ => 0,
        };
        Hop { to: from, source: Source { address, interface, kind } }
    }
}

/// From where datagrams leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// As IPv6, an IPv4 address mapped; all zeros when the kernel chooses.
    pub(super) address: [u8; 16],
    pub(super) interface: u32,
    pub(super) kind: SourceKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SourceKind {
    /// The kernel is told nothing.
    Any,
    V4,
    V6,
}

impl Source {
    /// The kernel chooses.
    pub const ANY: Source = Source { address: [0; 16], interface: 0, kind: SourceKind::Any };

    /// Whether what came to `to` came to where this sends from.
    #[inline]
    pub fn is_at(&self, to: &LocalEnd) -> bool {
        let at_address = self.address == [0; 16] || self.address == octets(to.address);
        at_address && (self.interface == 0 || self.interface == to.interface)
    }
}

#[inline]
fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hop_matches_what_comes_back_on_it() {
        let (remote, local) = ("192.0.2.1:7".parse().unwrap(), "198.51.100.1".parse().unwrap());
        let end = |address: &str, interface| LocalEnd { address: address.parse().unwrap(), interface };
        let source = |local, interface| Hop::new(remote, local, interface, true).unwrap().source;
        assert!(source(None, 0).is_at(&end("198.51.100.2", 9)));
        assert!(source(Some(local), 0).is_at(&end("198.51.100.1", 9)) && !source(Some(local), 0).is_at(&end("198.51.100.2", 9)));
        assert!(source(None, 9).is_at(&end("198.51.100.2", 9)) && !source(None, 9).is_at(&end("198.51.100.2", 8)));
        // What a socket cannot do.
        let v6 = "[2001:db8::1]:7".parse().unwrap();
        assert_eq!(Hop::new(v6, None, 0, false), None);
        assert_eq!(Hop::new(v6, Some(local), 0, true), None);
    }
}
