//! The interface in the kernel: what the configuration says about it, and away with what an earlier configuration put there.

use anyhow::Context;

use super::{Gateway, Plane};
use crate::netlink::{Link, Netlink, NetlinkError};
use crate::reconcile::InstalledState;

impl Gateway {
    /// Sets the interface up. Where that fails at a restart, the gateway is better off without a part of it than down: then
    /// [`Gateway::mend_interface`] tries again.
    ///
    /// # Errors
    /// At the first start, the first request that failed.
    pub(super) async fn set_up_interface(&self, plane: &mut Plane, installed: &InstalledState) -> anyhow::Result<()> {
        match self.interface(installed).await {
            Err(error) if self.up_before => {
                tracing::error!("{error:#}. It is tried again every few seconds");
                plane.interface_incomplete = true;
                Ok(())
            }
            result => result,
        }
    }

    /// Tries again what failed when the data plane was started.
    pub(super) async fn mend_interface(&self, plane: &mut Plane) {
        if plane.interface_incomplete && self.interface(&InstalledState::default()).await.is_ok() {
            plane.interface_incomplete = false;
            tracing::info!("the interface {} is complete", self.view.config.interface.name);
        }
    }

    /// Does everything that can be done, and returns the first failure.
    async fn interface(&self, installed: &InstalledState) -> anyhow::Result<()> {
        let name = &self.view.config.interface.name;
        let context = || format!("configuring the interface {name}");
        let netlink = Netlink::open().context("opening a netlink socket")?;
        let link = netlink.link(name).await.with_context(context)?;
        let cleared = self.clear(&netlink, link, installed).await;
        let built = self.build(&netlink, link).await;
        cleared.and(built).with_context(context)
    }

    /// Takes away what an earlier configuration asked for and this one does not.
    async fn clear(&self, netlink: &Netlink, link: Link, installed: &InstalledState) -> Result<(), NetlinkError> {
        let config = &self.view.config;
        let mut result = Ok(());
        for route in installed.stale_routes(config) {
            result = result.and(netlink.remove_route(link.index, &route).await);
        }
        for address in installed.stale_addresses(config) {
            result = result.and(netlink.remove_address(link.index, address).await);
        }
        if installed.bridge.is_some() && config.interface.bridge.is_none() {
            result = result.and(netlink.leave_bridge(link.index).await);
        }
        result
    }

    /// Adds what this configuration asks for.
    async fn build(&self, netlink: &Netlink, link: Link) -> Result<(), NetlinkError> {
        let wanted = &self.view.config.interface;
        let mut result = netlink.set_up(link.index, wanted.mtu).await;
        if let Some(bridge) = &wanted.bridge {
            result = result.and(netlink.join_bridge(link.index, bridge).await);
        }
        for address in &wanted.addresses {
            result = result.and(netlink.add_address(link.index, *address).await);
        }
        for route in &self.view.config.routes() {
            result = result.and(netlink.add_route(link.index, route).await);
        }
        result
    }
}
