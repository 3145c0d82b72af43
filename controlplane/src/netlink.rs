//! What the kernel is told about the TAP interface: MTU, addresses, up, routes. Everything can be said twice without harm,
//! so it does not matter whether the interface is new or was left by an earlier run.
//!
//! The only file that speaks rtnetlink; that crate changes its interface every few weeks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::{Error, Handle, LinkUnspec, RouteMessageBuilder};

use crate::config::Route;

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
const ROUTE_REMEDY: &str = "; `via` must be in a network of interface.addresses, and `to` in no other use";

/// A connection to the kernel, in the network namespace that the calling thread was in when it was opened.
pub struct Netlink {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
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

    /// Adds a route through the interface, or replaces the one to the same network.
    ///
    /// # Errors
    /// The kernel refuses, for instance a router that is not in a network of the interface.
    pub async fn add_route(&self, index: u32, route: &Route) -> Result<(), NetlinkError> {
        let added = self.handle.route().add(route_message(index, route)).replace().execute().await;
        added.map_err(failed(format!("adding the route to {}", route.to))).map_err(|error| error.with_remedy(ROUTE_REMEDY))
    }

    /// Removes a route; it may be gone already.
    ///
    /// # Errors
    /// The kernel refuses for another reason.
    pub async fn remove_route(&self, index: u32, route: &Route) -> Result<(), NetlinkError> {
        match self.handle.route().del(route_message(index, route)).execute().await {
            Err(Error::NetlinkError(message))
                if message.to_io().raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) =>
            {
                Ok(())
            }
            removed => removed.map_err(failed(format!("removing the route to {}", route.to))),
        }
    }
}

fn route_message(index: u32, route: &Route) -> RouteMessage {
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
