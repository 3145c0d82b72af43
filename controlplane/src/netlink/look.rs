//! How the kernel has the interface of the tunnel: a look at that interface alone. The kernel filters the routes, so that a look
//! costs the same on a router with a million of them elsewhere.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;

use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::Error;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteType};

use super::{Netlink, NetlinkError, failed};
use crate::config::Route;
use crate::reconcile::interface::{Actual, ActualRoute};
use crate::routing_rules;

/// A route of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteThere {
    pub interface: String,
    pub to: IpNet,
    /// It leads to a router; otherwise the network is at the interface itself.
    pub routed: bool,
}

impl Netlink {
    /// How the kernel has the interface with this name and index. `bridge` is the bridge that it should be in.
    ///
    /// # Errors
    /// There is none: what else has its name is none of ours.
    pub async fn look(&self, (name, index): (&str, u32), bridge: Option<&str>) -> Result<Actual, NetlinkError> {
        let what = || failed(format!("looking at the interface {name}"));
        let found = self.find(name).await.map_err(what())?.filter(|link| link.header.index == index);
        let found = found.ok_or_else(|| NetlinkError::not_found(name))?;
        let mut actual = Actual { up: found.header.flags.contains(LinkFlags::Up), ..Actual::default() };
        for attribute in &found.attributes {
            match attribute {
                LinkAttribute::Mtu(mtu) => actual.mtu = *mtu,
                LinkAttribute::Address(mac) => actual.mac = mac.as_slice().try_into().ok(),
                LinkAttribute::Controller(controller) => actual.controller = Some(*controller).filter(|index| *index > 0),
                _ => {}
            }
        }
        if let Some(bridge) = bridge {
            actual.bridge = self.find(bridge).await.map_err(what())?.map(|bridge| bridge.header.index);
        }
        let addresses: Vec<AddressMessage> = self.handle.address().get().execute().try_collect().await.map_err(what())?;
        let (here, elsewhere): (Vec<_>, Vec<_>) = addresses.iter().partition(|message| message.header.index == index);
        actual.addresses = here.iter().filter_map(|message| address(message)).collect();
        let reachable = here.iter().chain(&elsewhere).filter(|message| message.header.scope == AddressScope::Universe);
        actual.own = reachable.filter_map(|message| address(message)).map(|net| net.addr()).collect();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let routes = self.routes_through(index, family).await;
            actual.routes.extend(routes.map_err(what())?.iter().filter_map(route));
        }
        actual.rules = self.rules().await.map_err(what())?;
        Ok(actual)
    }

    /// The routes of the main table through all interfaces, but for default routes.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn routes(&self) -> Result<Vec<RouteThere>, NetlinkError> {
        let (mut list, mut names) = (Vec::new(), BTreeMap::new());
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            let mut all = self.handle.route().get(request).execute();
            loop {
                let message = match all.try_next().await {
                    Ok(Some(message)) => message,
                    Ok(None) => break,
                    // The protocol is switched off.
                    Err(error) if super::is(&error, rustix::io::Errno::OPNOTSUPP) => break,
                    Err(error) => return Err(failed("reading the routes")(error)),
                };
                let through = message.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Oif(index) => Some(*index),
                    _ => None,
                });
                let (Some(index), Some(ActualRoute { route, .. })) = (through, route(&message)) else { continue };
                if routing_rules::is_default(&route.to) || message.header.kind != RouteType::Unicast {
                    continue;
                }
                if let Entry::Vacant(place) = names.entry(index) {
                    place.insert(self.name_of(index).await);
                }
                let routed =
                    message.attributes.iter().any(|one| matches!(one, RouteAttribute::Gateway(_) | RouteAttribute::Via(_)));
                list.push(RouteThere { interface: names[&index].clone(), to: route.to, routed });
            }
        }
        Ok(list)
    }

    /// The interface with this name, if there is one.
    pub(super) async fn find(&self, name: &str) -> Result<Option<LinkMessage>, Error> {
        match self.handle.link().get().match_name(name).execute().try_next().await {
            Err(error) if super::is(&error, rustix::io::Errno::NODEV) => Ok(None),
            found => found,
        }
    }

    async fn routes_through(&self, index: u32, family: AddressFamily) -> Result<Vec<RouteMessage>, Error> {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        request.attributes.push(RouteAttribute::Oif(index));
        match self.handle.route().get(request).execute().try_collect().await {
            // The protocol is switched off.
            Err(error) if super::is(&error, rustix::io::Errno::OPNOTSUPP) => Ok(Vec::new()),
            routes => routes,
        }
    }
}

fn address(message: &AddressMessage) -> Option<IpNet> {
    // With a point-to-point interface, ADDRESS is the far end.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(local) => Some(*local),
        _ => None,
    });
    let address = local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    });
    IpNet::new(address?, message.header.prefix_len).ok()
}

/// A route of the main table, or of that of a full tunnel.
fn route(message: &RouteMessage) -> Option<ActualRoute> {
    let ip = |address: &RouteAddress| match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    };
    let any: IpAddr = if message.header.address_family == AddressFamily::Inet6 { [0u16; 8].into() } else { [0, 0, 0, 0].into() };
    let (mut to, mut via, mut source, mut mtu) = (any, None, None, None);
    let mut table = u32::from(message.header.table);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(destination) => to = ip(destination)?,
            RouteAttribute::Gateway(gateway) => via = ip(gateway),
            RouteAttribute::PrefSource(preferred) => source = ip(preferred),
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => u16::try_from(*mtu).ok(),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let to = IpNet::new(to, message.header.destination_prefix_length).ok()?;
    let is_seen =
        table == if routing_rules::is_default(&to) { routing_rules::TABLE } else { u32::from(RouteHeader::RT_TABLE_MAIN) };
    is_seen.then_some(ActualRoute { route: Route { to, via, mtu }, source })
}
