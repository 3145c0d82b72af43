//! What a program can know of its ways without asking netlink: the kernel says from which address it would reach another one when a
//! socket is connected there, which sends nothing.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

use adit_engine::path::{Route, StreamId, Underlay};

/// The ways of a socket.
#[derive(Clone, Copy, Debug)]
pub struct SocketUnderlay {
    /// Where it is bound.
    bound: SocketAddr,
    /// Whether the other end may be on this machine and nowhere else: we are on loopback, or are to connect to there.
    may_be_loopback: bool,
}

impl SocketUnderlay {
    /// For a socket that is bound there, and, of a client, to reach `remote`.
    pub fn new(bound: SocketAddr, remote: Option<SocketAddr>) -> SocketUnderlay {
        let is_loopback = |address: SocketAddr| address.ip().to_canonical().is_loopback();
        SocketUnderlay { bound, may_be_loopback: is_loopback(bound) || remote.is_some_and(is_loopback) }
    }

    /// The address of ours from which a datagram goes.
    ///
    /// # Errors
    /// There is no way.
    pub fn source(&self, local: Option<IpAddr>, remote: SocketAddr, interface: u32) -> io::Result<IpAddr> {
        let remote_ip = remote.ip().to_canonical();
        let bound = Some(self.bound.ip().to_canonical()).filter(|bound| !bound.is_unspecified());
        let scope = |ip: IpAddr| match (ip, self.bound) {
            (IpAddr::V6(v6), _) if !v6.is_unicast_link_local() => 0,
            (_, SocketAddr::V6(bound)) if interface == 0 => bound.scope_id(),
            _ => interface,
        };
        let any = if remote_ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let from = bound.or(local).unwrap_or(any);
        let other = local.is_some_and(|local| local != from) || (self.bound.is_ipv4() && remote_ip.is_ipv6());
        if other || from.is_ipv4() != remote_ip.is_ipv4() {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let probe = UdpSocket::bind(with_scope(from, 0, scope(from)))?;
        probe.connect(with_scope(remote_ip, remote.port(), scope(remote_ip)))?;
        Ok(probe.local_addr()?.ip())
    }

    /// Whether it is an address of this machine: the kernel would reach it from itself.
    fn is_own(&self, address: SocketAddr, interface: u32) -> bool {
        address.ip().is_loopback() || self.source(None, address, interface).is_ok_and(|source| source == address.ip())
    }

    /// Whether datagrams would come to this very socket, or, as a peer has named a loopback address, to whatever else listens here.
    fn is_ourselves(&self, local: Option<IpAddr>, remote: SocketAddr, interface: u32) -> bool {
        let bound = self.bound.ip().to_canonical();
        let hits = || if bound.is_unspecified() { self.is_own(remote, interface) } else { remote.ip() == bound };
        let strays = remote.ip().is_loopback() && local.is_none() && !self.may_be_loopback;
        strays || (remote.port() == self.bound.port() && hits())
    }
}

impl Underlay for SocketUnderlay {
    fn route(&mut self, local: Option<IpAddr>, remote: SocketAddr, interface: u32) -> Route {
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        let own_address = self.is_ourselves(local, remote, interface);
        match self.source(local, remote, interface) {
            Ok(source) => Route { reachable: true, own_address, source: Some(source), ..Route::default() },
            Err(error) => Route { reachable: !says_no_way(&error), own_address, source: local, ..Route::default() },
        }
    }

    fn has_stream(&mut self, _stream: StreamId) -> bool {
        false
    }

    /// None: which of them are meant for others the program does not say, so no peer is told of any.
    fn addresses(&mut self) -> Vec<IpAddr> {
        Vec::new()
    }
}

fn with_scope(ip: IpAddr, port: u16, scope: u32) -> SocketAddr {
    match ip {
        IpAddr::V4(_) => SocketAddr::new(ip, port),
        IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, scope).into(),
    }
}

/// Whether the kernel has said that there is no way, and not that it has no socket left for the question.
fn says_no_way(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrNotAvailable, HostUnreachable, InvalidInput, NetworkDown, NetworkUnreachable, PermissionDenied};
    let kinds = [AddrNotAvailable, HostUnreachable, InvalidInput, NetworkDown, NetworkUnreachable, PermissionDenied];
    kinds.contains(&error.kind())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(bound: &str, expected: Option<&str>, local: Option<&str>, remote: &str) -> Route {
        let expected = expected.map(|address| address.parse().unwrap());
        let mut underlay = SocketUnderlay::new(bound.parse().unwrap(), expected);
        underlay.route(local.map(|local| local.parse().unwrap()), remote.parse().unwrap(), 0)
    }

    #[test]
    fn the_kernel_says_from_where_another_host_is_reached() {
        let source =
            |bound, local, remote| route(bound, Some("127.0.0.1:9"), local, remote).source.map(|source| source.to_string());
        assert_eq!(source("0.0.0.0:4500", None, "127.0.0.3:9").as_deref(), Some("127.0.0.1"));
        assert_eq!(source("0.0.0.0:4500", Some("127.0.0.2"), "127.0.0.3:9").as_deref(), Some("127.0.0.2"));
        assert_eq!(source("127.0.0.5:4500", None, "127.0.0.3:9").as_deref(), Some("127.0.0.5"));
        assert_eq!(source("[::]:4500", None, "127.0.0.3:9").as_deref(), Some("127.0.0.1"));
        assert_eq!(source("[::]:4500", None, "[::1]:9").as_deref(), Some("::1"));
    }

    #[test]
    fn there_is_no_way_with_an_address_that_is_not_ours_or_of_another_version() {
        for (bound, local, remote) in [
            ("0.0.0.0:4500", Some("192.0.2.77"), "127.0.0.3:9"),
            ("127.0.0.5:4500", Some("127.0.0.6"), "127.0.0.3:9"),
            ("0.0.0.0:4500", None, "[::1]:9"),
            ("127.0.0.5:4500", None, "[::1]:9"),
            ("[::1]:4500", None, "127.0.0.1:9"),
            ("0.0.0.0:4500", None, "127.255.255.255:9"),
        ] {
            let route = route(bound, Some("127.0.0.1:9"), local, remote);
            assert!(!route.reachable, "{bound} {local:?} {remote}: {route:?}");
        }
    }

    #[test]
    fn nothing_goes_to_this_socket_or_astray_on_loopback() {
        let own = |bound, expected, local, remote| route(bound, expected, local, remote).own_address;
        // The port is taken by us, at every address of the machine.
        for remote in ["127.0.0.1:4500", "127.0.0.2:4500", "[::1]:4500"] {
            assert!(own("[::]:4500", Some("127.0.0.1:9"), None, remote), "{remote}");
        }
        assert!(own("127.0.0.2:4500", None, None, "127.0.0.2:4500") && !own("127.0.0.2:4500", None, None, "127.0.0.1:4500"));
        assert!(!own("0.0.0.0:4500", None, None, "192.0.2.1:4500"));
        // A peer out there has no loopback of ours; one that came from there, or that we were told to look for there, has.
        assert!(own("0.0.0.0:4500", None, None, "127.0.0.1:53") && own("[::]:4500", None, None, "[::1]:53"));
        assert!(own("0.0.0.0:4500", Some("192.0.2.1:4500"), None, "127.0.0.1:53"));
        assert!(!own("0.0.0.0:4500", Some("127.0.0.1:9"), None, "127.0.0.1:53"));
        assert!(!own("0.0.0.0:4500", None, Some("127.0.0.1"), "127.0.0.1:53"));
        assert!(!own("127.0.0.1:4500", None, None, "127.0.0.3:53"));
    }
}
