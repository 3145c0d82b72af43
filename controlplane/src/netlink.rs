//! What the kernel is asked and told about the interface of the tunnel: [`look`] asks, [`news`] hears of changes, [`Netlink::apply`]
//! does one step. Everything can be said twice without harm, so it does not matter whether the interface is new or was left by an
//! earlier run. What belongs to other interfaces is left to them.
//!
//! The only files that speak rtnetlink are this one and those below it; that crate changes its interface every few weeks.

mod look;
mod news;
mod rules;
mod underlay;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use adit_proto::control::Mac;
use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteProtocol};
use rtnetlink::{Error, Handle, LinkUnspec, RouteMessageBuilder};
use rustix::io::Errno;
use tokio::task::JoinHandle;

use crate::config::{MacText, Route};
use crate::reconcile::interface::Step;
use crate::routing_rules;
pub use look::RouteThere;
pub use news::News;
pub use underlay::KernelUnderlay;

/// A request that the kernel refused: what was asked, why not, and what usually helps.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {cause}{remedy}")]
pub struct NetlinkError {
    pub what: String,
    pub cause: String,
    /// Begins with a semicolon; empty when nothing is known to help.
    pub remedy: &'static str,
}

const IPV6_REMEDY: &str = "; IPv6 may be switched off: sysctl -w net.ipv6.conf.all.disable_ipv6=0, or leave IPv6 addresses out";
const ROUTE_REMEDY: &str = "; `via` must be in a network of interface.addresses";
const FOREIGN_ROUTE_REMEDY: &str = "; remove that route, or leave the network out of interface.routes";
const BRIDGE_REMEDY: &str =
    "; interface.bridge must name a bridge that exists: ip link add NAME type bridge, ip link set NAME up";
/// The metric that the kernel gives to IPv6 routes for which none is asked (IP6_RT_PRIO_USER). For IPv4 it is 0.
const IPV6_METRIC: u32 = 1024;
/// And to those that it makes with an address (IP6_RT_PRIO_ADDRCONF).
const IPV6_METRIC_CONNECTED: u32 = 256;

/// A connection to the kernel, in the network namespace that the calling thread was in when it was opened.
pub struct Netlink {
    handle: Handle,
    connection: JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn failed(what: impl Into<String>) -> impl FnOnce(Error) -> NetlinkError {
    move |error| {
        let cause = match &error {
            Error::NetlinkError(message) => message.to_io().to_string(),
            _ => error.to_string(),
        };
        NetlinkError { what: what.into(), cause, remedy: "" }
    }
}

/// Whether the kernel refused for this reason.
fn is(error: &Error, reason: Errno) -> bool {
    matches!(error, Error::NetlinkError(message) if message.to_io().raw_os_error() == Some(reason.raw_os_error()))
}

impl NetlinkError {
    fn not_found(name: &str) -> NetlinkError {
        NetlinkError { what: format!("looking for the interface {name}"), cause: "not found".into(), remedy: "" }
    }

    /// It was asked for a route to a network to which another interface has one.
    pub fn is_foreign_route(&self) -> bool {
        self.remedy == FOREIGN_ROUTE_REMEDY
    }

    fn with_remedy(self, remedy: &'static str) -> NetlinkError {
        NetlinkError { remedy, ..self }
    }
}

impl Netlink {
    /// Opens a connection; needs a tokio runtime.
    ///
    /// # Errors
    /// The kernel has no sockets left.
    pub fn open() -> std::io::Result<Netlink> {
        // With the strict check the kernel honours the filters of a dump.
        let (connection, handle, _) = rtnetlink::new_connection_with_strict_check()?;
        Ok(Netlink { handle, connection: tokio::spawn(connection) })
    }

    /// Whether there is an interface with this name.
    pub async fn has_link(&self, name: &str) -> bool {
        self.find(name).await.is_ok_and(|found| found.is_some())
    }

    /// The interface that has this name now, by its index.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn index_of(&self, name: &str) -> Result<Option<u32>, NetlinkError> {
        let found = self.find(name).await.map_err(failed(format!("looking for the interface {name}")))?;
        Ok(found.map(|link| link.header.index))
    }

    /// Does one step at the interface with this index.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn apply(&self, index: u32, step: &Step) -> Result<(), NetlinkError> {
        match step {
            Step::Mtu(mtu) => self.set_mtu(index, *mtu).await,
            Step::Mac(mac) => self.set_mac(index, *mac).await,
            Step::Up => self.set_up(index).await,
            Step::Join(name, bridge) => self.join_bridge(index, name, *bridge).await,
            Step::Leave => self.leave_bridge(index).await,
            Step::AddAddress(address) => self.add_address(index, *address).await,
            Step::RemoveAddress(address) => self.remove_address(index, *address).await,
            Step::Connect(address) => self.connect(index, *address).await,
            Step::SetRoute(route, source) => self.set_route(index, route, *source).await,
            Step::RemoveRoute(route) => self.remove_route(index, route).await,
            Step::AddRule(rule) => self.add_rule(rule).await,
            Step::RemoveRule(rule) => self.remove_rule(rule).await,
        }
    }

    /// The addresses of all interfaces, each with the name of its interface.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn addresses(&self) -> Result<Vec<(String, IpNet)>, NetlinkError> {
        let mut all = self.handle.address().get().execute();
        let mut list = Vec::new();
        while let Some(message) = all.try_next().await.map_err(failed("reading the addresses".to_owned()))? {
            let local = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            });
            // IPv6 has the one attribute only, IPv4 at a point-to-point link the peer in it.
            let any = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            });
            let Some(net) = local.or(any).and_then(|address| IpNet::new(address, message.header.prefix_len).ok()) else {
                continue;
            };
            list.push((self.name_of(message.header.index).await, net));
        }
        Ok(list)
    }

    async fn set_mtu(&self, index: u32, mtu: u16) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index).mtu(mtu.into()).build();
        self.handle.link().set(message).execute().await.map_err(failed(format!("setting the MTU {mtu}")))
    }

    async fn set_mac(&self, index: u32, mac: Mac) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index).address(mac.to_vec()).build();
        let what = || format!("setting the MAC address {}", MacText(mac));
        self.handle.link().set(message).execute().await.map_err(failed(what()))
    }

    async fn set_up(&self, index: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().set(message).execute().await.map_err(failed("bringing the interface up"))
    }

    async fn add_address(&self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        let mut request = self.handle.address().add(index, address.addr(), address.prefix_len()).replace();
        if address.addr().is_ipv6() {
            // Without it the address could not be used for a second or more after every restart of the data plane.
            request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        let added = request.execute().await.map_err(failed(format!("adding the address {address}")));
        added.map_err(|error| error.with_remedy(if address.addr().is_ipv6() { IPV6_REMEDY } else { "" }))
    }

    async fn remove_address(&self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        let found: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .set_link_index_filter(index)
            .set_prefix_length_filter(address.prefix_len())
            .set_address_filter(address.addr())
            .execute()
            .try_collect()
            .await
            .map_err(failed("listing addresses"))?;
        for message in found {
            self.handle.address().del(message).execute().await.map_err(failed(format!("removing the address {address}")))?;
        }
        Ok(())
    }

    async fn join_bridge(&self, index: u32, name: &str, bridge: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index).controller(bridge).build();
        let joined = self.handle.link().set(message).execute().await;
        joined.map_err(failed(format!("joining the bridge {name}"))).map_err(|error| error.with_remedy(BRIDGE_REMEDY))
    }

    async fn leave_bridge(&self, index: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index).nocontroller().build();
        self.handle.link().set(message).execute().await.map_err(failed("leaving the bridge"))
    }

    /// Adds the route that the kernel makes with an address.
    async fn connect(&self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        let route = Route { to: address.trunc(), via: None, mtu: None };
        // Where the kernel gives none, IPv6 chooses by itself.
        let source = Some(address.addr()).filter(IpAddr::is_ipv4);
        let mut message = route_message(index, &route, source);
        message.header.protocol = RouteProtocol::Kernel;
        if address.addr().is_ipv6() {
            message.attributes.push(RouteAttribute::Priority(IPV6_METRIC_CONNECTED));
        }
        let added = self.handle.route().add(message).replace().execute().await;
        added.map_err(failed(format!("adding the route to {}", route.to)))
    }

    /// Adds a route through the interface, or changes the one that the interface has to the same network. One of another
    /// interface stays.
    async fn set_route(&self, index: u32, route: &Route, source: Option<IpAddr>) -> Result<(), NetlinkError> {
        let what = || format!("adding the route to {}", route.to);
        let message = route_message(index, route, source);
        let mut added = self.handle.route().add(message.clone()).execute().await;
        if added.as_ref().is_err_and(|error| is(error, Errno::EXIST)) {
            let through = self.interfaces_to(&message).await.map_err(failed(what()))?;
            if let Some(other) = through.iter().find(|other| **other != Some(index)) {
                let cause = match other {
                    Some(other) => format!("the interface {} has a route to it", self.name_of(*other).await),
                    None => "another interface has a route to it".to_owned(),
                };
                return Err(NetlinkError { what: what(), cause, remedy: FOREIGN_ROUTE_REMEDY });
            }
            added = self.handle.route().add(message).replace().execute().await;
        }
        added.map_err(failed(what())).map_err(|error| error.with_remedy(ROUTE_REMEDY))
    }

    /// The interfaces through which routes lead that have the network, table and metric of this one; `None` for a route that
    /// leads through several or none.
    async fn interfaces_to(&self, wanted: &RouteMessage) -> Result<Vec<Option<u32>>, Error> {
        let mut request = RouteMessage::default();
        request.header.address_family = wanted.header.address_family;
        let all: Vec<RouteMessage> = self.handle.route().get(request).execute().try_collect().await?;
        let same = all.iter().filter(|route| identity(route) == identity(wanted));
        let through = |route: &RouteMessage| {
            route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            })
        };
        Ok(same.map(through).collect())
    }

    /// The name of an interface, for people.
    async fn name_of(&self, index: u32) -> String {
        let link = self.handle.link().get().match_index(index).execute().try_next().await.ok().flatten();
        let name = link.and_then(|link| {
            link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            })
        });
        name.unwrap_or_else(|| index.to_string())
    }

    async fn remove_route(&self, index: u32, route: &Route) -> Result<(), NetlinkError> {
        match self.handle.route().del(route_message(index, &Route { mtu: None, ..route.clone() }, None)).execute().await {
            Err(error) if is(&error, Errno::SRCH) => Ok(()),
            removed => removed.map_err(failed(format!("removing the route to {}", route.to))),
        }
    }
}

/// What two routes cannot both have: network, table and metric.
fn identity(route: &RouteMessage) -> (Option<&RouteAddress>, u8, u32, u32) {
    let ipv6 = route.header.address_family == AddressFamily::Inet6;
    let (mut network, mut table) = (None, u32::from(route.header.table));
    let mut metric = if ipv6 { IPV6_METRIC } else { 0 };
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(destination) => network = Some(destination),
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Priority(number) => metric = *number,
            _ => {}
        }
    }
    // A network of length 0 may be written out or left out.
    let length = route.header.destination_prefix_length;
    (network.filter(|_| length > 0), length, table, metric)
}

fn route_message(index: u32, route: &Route, source: Option<IpAddr>) -> RouteMessage {
    let mut message = plain_route_message(index, route);
    message.attributes.extend(source.map(|source| RouteAttribute::PrefSource(source.into())));
    if let Some(mtu) = route.mtu {
        // The kernel then tells senders of longer packets itself (ICMP: fragmentation needed, packet too big).
        message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu.into())]));
    }
    message
}

fn plain_route_message(index: u32, route: &Route) -> RouteMessage {
    let mut message = route_to(index, route);
    if routing_rules::is_default(&route.to) {
        // Beside the default route of the machine, not in its place.
        message.header.table = 0;
        message.attributes.push(RouteAttribute::Table(routing_rules::TABLE));
    }
    message
}

fn route_to(index: u32, route: &Route) -> RouteMessage {
    let (prefix, length) = (route.to.addr(), route.to.prefix_len());
    match prefix {
        IpAddr::V4(prefix) => {
            let builder = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(prefix, length).output_interface(index);
            match route.via {
                Some(IpAddr::V4(via)) => builder.gateway(via).build(),
                _ => builder.scope(rtnetlink::packet_route::route::RouteScope::Link).build(),
            }
        }
        IpAddr::V6(prefix) => {
            let builder = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(prefix, length).output_interface(index);
            let mut message = match route.via {
                Some(IpAddr::V6(via)) => builder.gateway(via).build(),
                _ => builder.build(),
            };
            message.header.address_family = AddressFamily::Inet6;
            message
        }
    }
}
