//! May datagrams go there at all? One function for every address, whoever brought it: the configuration, an IKE message, MOBIKE,
//! or a packet of ESP.

use std::net::{IpAddr, SocketAddr};

use adit_proto::control::StreamId;

use super::hop::Hop;
use crate::limits::STREAM_PACKET;

/// What the kernel would do with a datagram, and what it knows of the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    pub reachable: bool,
    /// It would leave by our own tunnel interface, or by the bridge that this is a port of.
    pub through_tunnel: bool,
    /// The other end is an address of this machine.
    pub own_address: bool,
    /// The address that it would leave from.
    pub source: Option<IpAddr>,
    /// The largest IP packet, in bytes, as far as the kernel knows: the interface's, or what a router has said.
    pub mtu: Option<u16>,
    /// The same without what routers have said, which nobody vouches for: what the interface takes, and the route is set to.
    pub link_mtu: Option<u16>,
}

/// What lies under the tunnel. Asked synchronously, as [`Random`](crate::random::Random) is; the shell asks the kernel.
pub trait Underlay {
    /// The route of a datagram to `remote`, from `local` where that is given, by `interface` unless it is 0. To be looked up as the
    /// gateway's own sockets are: with their mark.
    fn route(&mut self, local: Option<IpAddr>, remote: SocketAddr, interface: u32) -> Route;

    /// Whether there can be this stream, whoever is at its other end now: something is configured that carries streams.
    fn has_stream(&mut self, stream: StreamId) -> bool;

    /// The addresses of this machine that others may reach: those of the tunnel interface, its bridge and loopback are not.
    fn addresses(&mut self) -> Vec<IpAddr>;
}

/// An underlay of which nothing is known: every address is tried, and the kernel finds the way. Until the shell has given another one.
#[derive(Clone, Copy, Debug, Default)]
pub struct AnyUnderlay;

impl Underlay for AnyUnderlay {
    fn route(&mut self, local: Option<IpAddr>, _remote: SocketAddr, _interface: u32) -> Route {
        Route { reachable: true, source: local, ..Route::default() }
    }

    fn has_stream(&mut self, _stream: StreamId) -> bool {
        true
    }

    fn addresses(&mut self) -> Vec<IpAddr> {
        Vec::new()
    }
}

/// Why nothing goes to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unfit {
    #[error("it is no address of one host")]
    NotUnicast,
    #[error("it is an address of this gateway")]
    OwnAddress,
    #[error("its route leaves by our own tunnel: it would carry itself")]
    ThroughTunnel,
    #[error("there is no route to it")]
    Unreachable,
    #[error("no relay is configured by which it could be reached")]
    NoStream,
    /// Of a peer that may not be everywhere.
    #[error("the configuration does not let the peer come from there")]
    NotAllowed,
    /// Each costs a look into the routes.
    #[error("the peer was at too many addresses within a second")]
    TooMany,
}

/// An address that datagrams may go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fit {
    /// With the source that the kernel has for it.
    pub hop: Hop,
    pub mtu: Option<u16>,
    pub link_mtu: Option<u16>,
}

/// Whether datagrams may go this way. Being inside a selector, or on our own network, is no reason against it.
///
/// # Errors
/// Why not.
pub(crate) fn judge(underlay: &mut dyn Underlay, hop: Hop) -> Result<Fit, Unfit> {
    let mut hop = match hop.normal() {
        Hop::Udp(hop) => hop,
        Hop::Stream(stream) if !underlay.has_stream(stream) => return Err(Unfit::NoStream),
        // How long packets may be is for whoever carries the stream; other ways to the peer take no more.
        Hop::Stream(_) => return Ok(Fit { hop, mtu: Some(STREAM_PACKET), link_mtu: Some(STREAM_PACKET) }),
    };
    let address = hop.remote.ip();
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    if address.is_unspecified() || address.is_multicast() || broadcast || hop.remote.port() == 0 {
        return Err(Unfit::NotUnicast);
    }
    let local = Some(hop.local.ip()).filter(|local| !local.is_unspecified());
    let route = underlay.route(local, hop.remote, hop.interface);
    if route.own_address {
        return Err(Unfit::OwnAddress);
    }
    if route.through_tunnel {
        return Err(Unfit::ThroughTunnel);
    }
    if !route.reachable {
        return Err(Unfit::Unreachable);
    }
    if let (None, Some(source)) = (local, route.source) {
        hop.local.set_ip(source);
    }
    Ok(Fit { hop: Hop::Udp(hop), mtu: route.mtu, link_mtu: route.link_mtu.or(route.mtu) })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct One(Route);

    impl Underlay for One {
        fn route(&mut self, _: Option<IpAddr>, _: SocketAddr, _: u32) -> Route {
            self.0
        }

        fn has_stream(&mut self, stream: StreamId) -> bool {
            stream == StreamId(1)
        }

        fn addresses(&mut self) -> Vec<IpAddr> {
            Vec::new()
        }
    }

    #[test]
    fn a_stream_is_fit_where_there_are_streams_and_takes_what_other_ways_take() {
        let verdict = |stream| judge(&mut One(Route::default()), Hop::Stream(StreamId(stream))).map(|fit| fit.mtu);
        assert_eq!((verdict(1), verdict(2)), (Ok(Some(STREAM_PACKET)), Err(Unfit::NoStream)));
    }

    #[test]
    fn nothing_goes_to_ourselves_into_the_tunnel_or_to_many() {
        let good = Route { reachable: true, source: Some([192, 0, 2, 1].into()), mtu: Some(1400), ..Route::default() };
        let hop = |remote: &str| Hop::new("0.0.0.0:4500".parse().unwrap(), remote.parse().unwrap());
        let verdict = |route, remote: &str| {
            judge(&mut One(route), hop(remote)).map(|fit| (fit.hop.udp().unwrap().local.to_string(), fit.mtu))
        };
        let there = "198.51.100.1:4500";
        assert_eq!(verdict(good, there), Ok(("192.0.2.1:4500".into(), Some(1400))));
        assert_eq!(verdict(Route { own_address: true, ..good }, there), Err(Unfit::OwnAddress));
        assert_eq!(verdict(Route { through_tunnel: true, ..good }, there), Err(Unfit::ThroughTunnel));
        assert_eq!(verdict(Route { reachable: false, ..good }, there), Err(Unfit::Unreachable));
        for remote in ["224.0.0.1:4500", "255.255.255.255:4500", "0.0.0.0:4500", "[ff02::1]:4500", "198.51.100.1:0"] {
            assert_eq!(verdict(good, remote), Err(Unfit::NotUnicast), "{remote}");
        }
    }
}
