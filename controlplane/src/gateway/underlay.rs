//! The network around the gateway: what the kernel and routers say of it, what the names of endpoints stand for, and the port on which
//! IKE may begin.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::icmp::{Icmp, RawSockets};
use super::look::Look;
use super::port500::Port500;
use crate::config::Config;
use crate::netlink::News;
use crate::numbers::SocketNumbers;
use crate::resolve::{self, Resolver};

/// Several changes come at once when an address is replaced: so long after the first one they are looked at, and no more often
/// than the second.
const SETTLE: Duration = Duration::from_millis(100);
const ADDRESSES_EVERY: Duration = Duration::from_secs(1);

/// What is heard of the network, and what is open there besides the port of the data.
pub(super) struct Underlay {
    /// What the kernel says of links, addresses and routes.
    pub news: News,
    /// What the names of endpoints stand for.
    pub resolver: Resolver,
    /// The port on which IKE begins without NAT traversal.
    pub port500: Port500,
    /// What routers say of packets of ours.
    pub icmp: Icmp,
    /// At the addresses of this machine.
    look: Look,
    /// No interface has the address in `listen`, and that has been said.
    listen_is_away: bool,
}

impl Underlay {
    /// Begins to listen. Addresses may have changed while no control plane was there: they are looked at first.
    pub(super) async fn open(config: &Config, port500: Arc<SocketNumbers>, raw: RawSockets) -> Underlay {
        let (port500, icmp) = (Port500::new(config.max_peers().into(), port500), Icmp::new(raw));
        let (news, resolver) = (News::open(), Resolver::default());
        let mut underlay = Underlay { news, resolver, port500, icmp, look: Look::now(), listen_is_away: false };
        underlay.keep(config).await;
        underlay
    }

    /// As the configuration wants it.
    pub(super) async fn keep(&mut self, config: &Config) {
        self.port500.keep(config).await;
        self.icmp.keep(config);
        self.resolver.keep(config);
    }

    /// When the addresses of this machine are to be looked at, if they have changed.
    pub(super) fn due(&self) -> Option<Instant> {
        self.look.due()
    }

    /// The kernel has news of them.
    pub(super) fn changed(&mut self) {
        self.look.news(SETTLE, ADDRESSES_EVERY);
    }

    /// They are looked at now. Whether the one in `listen` is there is said when it changes; the socket stays, and works again when the
    /// address is back.
    pub(super) fn looked(&mut self, config: &Config) {
        self.look.done();
        let is_away = !is_here(config);
        match (std::mem::replace(&mut self.listen_is_away, is_away), is_away) {
            (false, true) => tracing::warn!(
                "no interface of this machine has the address {} (listen) any more: nothing can be sent or received until it is back",
                config.listen_text()
            ),
            (true, false) => tracing::info!("the address {} (listen) is back", config.listen_text()),
            (false, false) | (true, true) => {}
        }
    }
}

/// Whether an interface of this machine has the address in `listen`; asked with another port, for its own is open.
pub(super) fn is_here(config: &Config) -> bool {
    resolve::listen_now(config).is_some_and(|mut listen| {
        listen.set_port(0);
        !UdpSocket::bind(listen).is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
    })
}
