//! What the kernel is told about the TAP interface: MTU, up, bridge, addresses, routes. Everything can be said twice without
//! harm, so it does not matter whether the interface is new or was left by an earlier run. What belongs to other interfaces is
//! left to them.
//!
//! The only file that speaks rtnetlink; that crate changes its interface every few weeks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt};
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric};
use rtnetlink::{Error, Handle, LinkUnspec, MulticastGroup, RouteMessageBuilder};
use rustix::io::Errno;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use crate::config::Route;

/// How long to wait before the kernel is asked for its news again.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

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

/// Hears of every change of an address or a route.
pub struct AddressWatch {
    changed: Arc<Notify>,
    listener: JoinHandle<()>,
}

/// A socket that hears of them, and what keeps it going.
struct Source {
    messages: Pin<Box<dyn Stream<Item = ()> + Send>>,
    /// Ends with it.
    _connection: JoinSet<()>,
    _handle: Handle,
}

impl Source {
    fn open() -> std::io::Result<Source> {
        use MulticastGroup::{Ipv4Ifaddr, Ipv4Route, Ipv6Ifaddr, Ipv6Route};
        let groups = [Ipv4Ifaddr, Ipv6Ifaddr, Ipv4Route, Ipv6Route];
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&groups)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        Ok(Source { messages: messages.map(|_| ()).boxed(), _connection: tasks, _handle: handle })
    }
}

impl AddressWatch {
    /// Begins to listen; needs a tokio runtime.
    ///
    /// # Errors
    /// The kernel has no sockets left.
    pub fn open() -> std::io::Result<AddressWatch> {
        let changed = Arc::new(Notify::new());
        let listener = tokio::spawn(listen(Source::open()?, changed.clone()));
        Ok(AddressWatch { changed, listener })
    }

    /// Waits until something has changed since this was last asked.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// What has changed does not matter, nor how often: nothing is kept but that something has.
async fn listen(mut source: Source, news: Arc<Notify>) {
    loop {
        while source.messages.next().await.is_some() {
            news.notify_one();
        }
        tracing::warn!("the kernel's news of addresses and routes have ended; they are asked for anew");
        source = loop {
            tokio::time::sleep(LISTEN_AGAIN).await;
            if let Ok(source) = Source::open() {
                break source;
            }
        };
        // Something may have changed meanwhile.
        news.notify_one();
    }
}

impl Drop for AddressWatch {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// How an interface is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub mtu: u32,
    pub up: bool,
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
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Netlink { handle, connection: tokio::spawn(connection) })
    }

    /// The interface with this name.
    ///
    /// # Errors
    /// There is none.
    pub async fn link(&self, name: &str) -> Result<Link, NetlinkError> {
        let mut links = self.handle.link().get().match_name(name).execute();
        let found: Option<LinkMessage> = links.try_next().await.map_err(failed(format!("looking for the interface {name}")))?;
        let found = found.ok_or_else(|| NetlinkError {
            what: format!("looking for the interface {name}"),
            cause: "not found".into(),
            remedy: "",
        })?;
        let mtu = found.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
        Ok(Link { index: found.header.index, mtu: mtu.unwrap_or(0), up: found.header.flags.contains(LinkFlags::Up) })
    }

    /// Sets the MTU and brings the interface up.
    ///
    /// # Errors
    /// The kernel refuses, for instance an MTU that the device does not take.
    pub async fn set_up(&self, index: u32, mtu: u16) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index).mtu(mtu.into()).up().build();
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(failed(format!("setting the MTU {mtu} and bringing the interface up")))
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
            list.push((self.name_of(Some(message.header.index)).await, net));
        }
        Ok(list)
    }

    /// Gives the interface an address, or does nothing when it has it.
    ///
    /// # Errors
    /// The kernel refuses, for instance IPv6 where it is switched off.
    pub async fn add_address(&self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        let mut request = self.handle.address().add(index, address.addr(), address.prefix_len()).replace();
        if address.addr().is_ipv6() {
            // Without it the address could not be used for a second or more after every restart of the data plane.
            request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        let added = request.execute().await.map_err(failed(format!("adding the address {address}")));
        added.map_err(|error| error.with_remedy(if address.addr().is_ipv6() { IPV6_REMEDY } else { "" }))
    }

    /// Takes an address from the interface; it may be gone already.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn remove_address(&self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
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

    /// Puts the interface into a bridge.
    ///
    /// # Errors
    /// There is no such bridge, or the kernel refuses.
    pub async fn join_bridge(&self, index: u32, bridge: &str) -> Result<(), NetlinkError> {
        let found = self.link(bridge).await.map_err(|error| error.with_remedy(BRIDGE_REMEDY))?;
        let message = LinkUnspec::new_with_index(index).controller(found.index).build();
        let joined = self.handle.link().set(message).execute().await;
        joined.map_err(failed(format!("joining the bridge {bridge}"))).map_err(|error| error.with_remedy(BRIDGE_REMEDY))
    }

    /// Takes the interface out of the bridge that it is in, if it is in one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn leave_bridge(&self, index: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index).nocontroller().build();
        self.handle.link().set(message).execute().await.map_err(failed("leaving the bridge"))
    }

    /// Adds a route through the interface, or changes the one that the interface has to the same network.
    ///
    /// # Errors
    /// Another interface has a route to the same network, which stays; or the kernel refuses, for instance a router that is
    /// not in a network of the interface.
    pub async fn add_route(&self, index: u32, route: &Route) -> Result<(), NetlinkError> {
        let what = || format!("adding the route to {}", route.to);
        let message = route_message(index, route);
        let mut added = self.handle.route().add(message.clone()).execute().await;
        if added.as_ref().is_err_and(|error| is(error, Errno::EXIST)) {
            let through = self.interfaces_to(&message).await.map_err(failed(what()))?;
            if let Some(other) = through.iter().find(|other| **other != Some(index)) {
                let cause = format!("{} has a route to it", self.name_of(*other).await);
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
    async fn name_of(&self, index: Option<u32>) -> String {
        let Some(index) = index else { return "another interface".to_owned() };
        let link = self.handle.link().get().match_index(index).execute().try_next().await.ok().flatten();
        let name = link.and_then(|link| {
            link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            })
        });
        format!("the interface {}", name.unwrap_or_else(|| index.to_string()))
    }

    /// Removes a route; it may be gone already.
    ///
    /// # Errors
    /// The kernel refuses for another reason.
    pub async fn remove_route(&self, index: u32, route: &Route) -> Result<(), NetlinkError> {
        match self.handle.route().del(route_message(index, route)).execute().await {
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

fn route_message(index: u32, route: &Route) -> RouteMessage {
    let mut message = plain_route_message(index, route);
    if let Some(mtu) = route.mtu {
        // The kernel then tells senders of longer packets itself (ICMP: fragmentation needed, packet too big).
        message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu.into())]));
    }
    message
}

fn plain_route_message(index: u32, route: &Route) -> RouteMessage {
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
