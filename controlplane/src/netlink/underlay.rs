//! What the kernel knows of the way to a peer, for the engine: asked and answered at once, on a netlink socket of its own. The
//! kernel answers such a request before the call that sends it returns, so nothing waits here.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::routing_rules::MARK;
use adit_engine::path::{Route, StreamId, Underlay};
use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{InfoBridge, InfoData, InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::{Socket, SocketAddr as NetlinkAddress, protocols::NETLINK_ROUTE};

/// The interface that holds loopback addresses, in every namespace.
const LOOPBACK: u32 = 1;
/// Parts of a listing that are read at most: a kernel that never ends one is none to wait for.
const PARTS_MAX: usize = 1024;
/// Interfaces that lie on each other, as far as they are looked through.
const STACKED_MAX: usize = 4;

/// The kernel's routes and addresses, in the network namespace that the calling thread was in when it was opened.
pub struct KernelUnderlay {
    socket: Socket,
    /// The tunnel's own interface.
    tunnel: String,
    /// The address that our sockets are bound to.
    listen: IpAddr,
    sequence: u32,
}

impl KernelUnderlay {
    /// # Errors
    /// There is no netlink socket to be had.
    pub fn open(tunnel: &str, listen: IpAddr) -> io::Result<KernelUnderlay> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&NetlinkAddress::new(0, 0))?;
        Ok(KernelUnderlay { socket, tunnel: tunnel.to_owned(), listen, sequence: 0 })
    }

    fn ask(&mut self, request: RouteNetlinkMessage, dump: bool) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | if dump { NLM_F_DUMP } else { 0 };
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answers = Vec::new();
        for _ in 0..PARTS_MAX {
            let (part, _) = self.socket.recv_from_full()?;
            let mut rest = part.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
                let length = message.header.length as usize;
                let ours = message.header.sequence_number == self.sequence;
                rest = rest.get(length.next_multiple_of(4).max(1)..).unwrap_or_default();
                match message.payload {
                    // What an earlier request left, that was given up.
                    _ if !ours => {}
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => return Ok(answers),
                }
            }
            if !dump && !answers.is_empty() {
                return Ok(answers);
            }
        }
        Ok(answers)
    }

    fn link(&mut self, index: u32, name: Option<&str>) -> Option<LinkMessage> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.extend(name.map(|name| LinkAttribute::IfName(name.to_owned())));
        let answers = self.ask(RouteNetlinkMessage::GetLink(message), false).ok()?;
        answers.into_iter().find_map(|answer| if let RouteNetlinkMessage::NewLink(link) = answer { Some(link) } else { None })
    }

    /// Whether what leaves by an interface comes to one of these: it is one of them, or lies on one of them, as a VLAN does. (A bridge that
    /// keeps VLANs apart gives one of them to its members alone: that the tunnel is none is for who set it up to see to.)
    fn leads_to(&mut self, own: &BTreeSet<u32>, mut index: u32) -> bool {
        for _ in 0..STACKED_MAX {
            if own.contains(&index) {
                return true;
            }
            let Some((below, is_vlan)) = self.link(index, None).as_ref().and_then(below) else { return false };
            if is_vlan && self.link(below, None).is_some_and(|bridge| keeps_vlans_apart(&bridge)) {
                return false;
            }
            index = below;
        }
        false
    }

    /// The tunnel's interface and the bridge that it is a port of.
    fn own_interfaces(&mut self) -> BTreeSet<u32> {
        let tunnel = self.tunnel.clone();
        let Some(link) = self.link(0, Some(&tunnel)) else { return BTreeSet::new() };
        let bridge =
            link.attributes.iter().find_map(|one| if let LinkAttribute::Controller(index) = one { Some(*index) } else { None });
        std::iter::once(link.header.index).chain(bridge).collect()
    }

    /// The kernel's way to an address, or, with `configured`, the route that it follows: as it was set, without what the kernel has heard
    /// of the way since.
    fn look_up(
        &mut self,
        (local, remote, interface): (Option<IpAddr>, IpAddr, u32),
        configured: bool,
    ) -> io::Result<Option<RouteMessage>> {
        let mut message = RouteMessage::default();
        if configured {
            message.header.flags = RouteFlags::FibMatch;
        }
        let bits = if remote.is_ipv4() { 32 } else { 128 };
        message.header.address_family = if remote.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.destination_prefix_length = bits;
        message.attributes.push(RouteAttribute::Destination(address(remote)));
        if let Some(local) = local.filter(|local| local.is_ipv4() == remote.is_ipv4()) {
            message.header.source_prefix_length = bits;
            message.attributes.push(RouteAttribute::Source(address(local)));
        }
        message.attributes.push(RouteAttribute::Mark(MARK));
        if interface != 0 {
            message.attributes.push(RouteAttribute::Oif(interface));
        }
        let answers = self.ask(RouteNetlinkMessage::GetRoute(message), false)?;
        Ok(answers
            .into_iter()
            .find_map(|answer| if let RouteNetlinkMessage::NewRoute(route) = answer { Some(route) } else { None }))
    }
}

impl Underlay for KernelUnderlay {
    fn route(&mut self, local: Option<IpAddr>, remote: SocketAddr, interface: u32) -> Route {
        let local = match local {
            Some(elsewhere) if !receives(self.listen, elsewhere) => return Route::default(),
            None if self.listen.is_ipv4() && remote.is_ipv6() => return Route::default(),
            None if self.listen.is_ipv6() && !self.listen.is_unspecified() && remote.is_ipv4() => return Route::default(),
            None => Some(self.listen).filter(|own| !own.is_unspecified() && own.is_ipv4() == remote.is_ipv4()),
            given => given,
        };
        // A route that the kernel has not is answered by an error.
        let way = (local, remote.ip(), interface);
        let Ok(Some(found)) = self.look_up(way, false) else { return Route::default() };
        let mut route = Route { reachable: true, source: local, ..Route::default() };
        let mut leaves_by = None;
        for attribute in &found.attributes {
            match attribute {
                RouteAttribute::Oif(index) => leaves_by = Some(*index),
                RouteAttribute::PrefSource(source) => route.source = route.source.or(ip(source)),
                _ => {}
            }
        }
        route.own_address = found.header.kind == RouteType::Local;
        route.reachable = matches!(found.header.kind, RouteType::Unicast | RouteType::Local);
        if let Some(index) = leaves_by {
            let own = self.own_interfaces();
            route.through_tunnel = self.leads_to(&own, index);
            let of_link = |link: LinkMessage| {
                link.attributes.iter().find_map(|one| if let LinkAttribute::Mtu(mtu) = one { Some(*mtu) } else { None })
            };
            let link = self.link(index, None).and_then(of_link).map(|mtu| mtu.try_into().unwrap_or(u16::MAX));
            let set = self.look_up(way, true).ok().flatten().as_ref().and_then(mtu_of);
            route.link_mtu = link.into_iter().chain(set).min();
            route.mtu = mtu_of(&found).or(route.link_mtu);
        }
        route
    }

    /// Those that there are come from the client of the relay.
    fn has_stream(&mut self, _stream: StreamId) -> bool {
        true
    }

    fn addresses(&mut self) -> Vec<IpAddr> {
        let tunnel = self.own_interfaces();
        let answers = self.ask(RouteNetlinkMessage::GetAddress(AddressMessage::default()), true).unwrap_or_default();
        let unsettled = AddressHeaderFlags::Tentative | AddressHeaderFlags::Deprecated | AddressHeaderFlags::Dadfailed;
        let usable = |message: &AddressMessage| {
            let header = &message.header;
            let is_global = header.scope == AddressScope::Universe && !header.flags.intersects(unsettled);
            is_global && header.index != LOOPBACK
        };
        let (mut found, mut inside) = (Vec::new(), BTreeMap::new());
        for answer in answers {
            let RouteNetlinkMessage::NewAddress(message) = answer else { continue };
            let index = message.header.index;
            if !usable(&message) || *inside.entry(index).or_insert_with(|| self.leads_to(&tunnel, index)) {
                continue;
            }
            // The address itself is in `Local` where that differs from `Address`, as on point-to-point links.
            let local =
                message.attributes.iter().find_map(|one| if let AddressAttribute::Local(ip) = one { Some(*ip) } else { None });
            let any =
                message.attributes.iter().find_map(|one| if let AddressAttribute::Address(ip) = one { Some(*ip) } else { None });
            found.extend(local.or(any).filter(|address| receives(self.listen, *address)));
        }
        found
    }
}

fn keeps_vlans_apart(bridge: &LinkMessage) -> bool {
    let filters = |info: &LinkInfo| match info {
        LinkInfo::Data(InfoData::Bridge(all)) => all.iter().any(|one| matches!(one, InfoBridge::VlanFiltering(true))),
        _ => false,
    };
    bridge.attributes.iter().any(|one| matches!(one, LinkAttribute::LinkInfo(info) if info.iter().any(filters)))
}

/// The interface that another one lies on, of kinds that send by it all that they send, and whether it is a VLAN. (The other end of a veth
/// is on none.)
fn below(link: &LinkMessage) -> Option<(u32, bool)> {
    let lies = |kind: &LinkInfo| {
        use InfoKind::{IpVlan, MacSec, MacVlan, MacVtap, Vlan};
        matches!(kind, LinkInfo::Kind(Vlan | MacVlan | MacVtap | IpVlan | MacSec))
    };
    let (mut is_on, mut is_vlan, mut elsewhere, mut index) = (false, false, false, None);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Link(below) => index = Some(*below),
            // By its number in another network namespace.
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::LinkInfo(info) => {
                is_on = info.iter().any(lies);
                is_vlan = info.contains(&LinkInfo::Kind(InfoKind::Vlan));
            }
            _ => {}
        }
    }
    index.filter(|_| is_on && !elsewhere).map(|index| (index, is_vlan))
}

/// Whether a socket that is bound to `listen` receives what comes to an address of this machine.
fn receives(listen: IpAddr, address: IpAddr) -> bool {
    match listen {
        IpAddr::V6(any) if any.is_unspecified() => true,
        IpAddr::V4(any) if any.is_unspecified() => address.is_ipv4(),
        one => one == address,
    }
}

/// The largest packet that a route is said to carry, where anything is said of it.
fn mtu_of(route: &RouteMessage) -> Option<u16> {
    let metrics = route.attributes.iter().filter_map(|one| if let RouteAttribute::Metrics(all) = one { Some(all) } else { None });
    let mtu = metrics.flatten().find_map(|one| if let RouteMetric::Mtu(mtu) = one { Some(*mtu) } else { None });
    mtu.filter(|mtu| *mtu > 0).map(|mtu| mtu.try_into().unwrap_or(u16::MAX))
}

fn address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_which_addresses_are_our_own() {
        let mut underlay = KernelUnderlay::open("no-such-tunnel", ANY).unwrap();
        let route = underlay.route(None, "127.0.0.1:4500".parse().unwrap(), 0);
        assert!(route.reachable && route.own_address && !route.through_tunnel, "{route:?}");
        assert!(route.mtu.is_some_and(|mtu| mtu >= 1280), "{route:?}");
        assert!(!underlay.addresses().iter().any(IpAddr::is_loopback));
        let tunnel = KernelUnderlay::open("lo", ANY).unwrap().route(None, "127.0.0.1:4500".parse().unwrap(), 0);
        assert!(tunnel.through_tunnel, "{tunnel:?}");
    }

    const ANY: IpAddr = IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED);

    #[test]
    fn peers_are_told_no_address_on_which_nothing_is_received() {
        let [four, six, other] = ["192.0.2.1", "2001:db8::1", "192.0.2.2"].map(|address| address.parse::<IpAddr>().unwrap());
        let any_four = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
        let received = |listen| [four, six, other].map(|address| receives(listen, address));
        assert_eq!((received(ANY), received(any_four)), ([true; 3], [true, false, true]));
        assert_eq!((received(four), received(six)), ([true, false, false], [false, true, false]));
    }

    #[test]
    fn sockets_at_one_address_have_that_source_and_no_other() {
        let (there, own): (SocketAddr, IpAddr) = ("127.0.0.1:4500".parse().unwrap(), [127, 0, 0, 9].into());
        let mut underlay = KernelUnderlay::open("no-such-tunnel", own).unwrap();
        assert_eq!(underlay.route(None, there, 0).source, Some(own));
        assert!(underlay.route(Some(own), there, 0).reachable && !underlay.route(Some(there.ip()), there, 0).reachable);
        assert_ne!(KernelUnderlay::open("no-such-tunnel", ANY).unwrap().route(None, there, 0).source, Some(own));
    }

    #[test]
    fn nowhere_is_not_reachable() {
        let mut underlay = KernelUnderlay::open("no-such-tunnel", ANY).unwrap();
        assert!(!underlay.route(Some([192, 0, 2, 200].into()), "198.51.100.1:4500".parse().unwrap(), 0).reachable);
    }
}
