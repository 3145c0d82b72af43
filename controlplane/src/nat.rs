//! `adit nat`: asks STUN servers what NAT lies before this machine, over IPv4 and IPv6 at once, and says what it means for who wants to
//! reach it. It has sockets of its own, so a gateway that runs is not disturbed, and one that does not is not needed.

mod document;
mod sockets;
mod text;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use adit_engine::stun::discovery::{Report, Udp};
use adit_engine::stun::lifetime;
use anyhow::{Context, bail};
use futures::future::join_all;

use crate::config::Endpoint;
use crate::config::endpoint::Host;

pub use document::Document;

/// How long the name of a server is looked up.
const LOOK_UP: Duration = Duration::from_secs(3);

/// What was found out.
#[derive(Debug)]
pub struct Search {
    networks: Vec<Network>,
    /// What could not be asked, and why.
    missing: Vec<String>,
}

/// What was found out over one IP version.
#[derive(Clone, Debug)]
struct Network {
    report: Report,
    lifetime: Option<lifetime::Found>,
    /// What the kernel said to a packet that it did not send.
    unsent: Option<String>,
}

/// Asks these servers.
///
/// # Errors
/// No name can be looked up, or there is no way to any of the servers.
pub async fn search(servers: &[Endpoint]) -> anyhow::Result<Search> {
    let (addresses, mut missing) = look_up(servers).await;
    if addresses.is_empty() {
        let remedy = "give a server by its address (--server 192.0.2.9:3478), or repair the name service of this machine";
        bail!("no server can be asked: {}: {remedy}", missing.join("; "));
    }
    let of = |v4: bool| addresses.iter().copied().filter(|address| address.is_ipv4() == v4).collect::<Vec<_>>();
    let mut networks = Vec::new();
    for found in join_all([of(true), of(false)].into_iter().filter(|list| !list.is_empty()).map(over)).await {
        match found {
            Ok(network) => networks.push(network),
            Err(error) => missing.push(format!("{error:#}")),
        }
    }
    if networks.is_empty() {
        bail!("no server can be asked: {}: give this machine an address and a route to one", missing.join("; "));
    }
    Ok(Search { networks, missing })
}

/// The addresses of the servers, and what went wrong. A name stands for the first address of each IP version.
async fn look_up(servers: &[Endpoint]) -> (Vec<SocketAddr>, Vec<String>) {
    let all = servers.iter().map(|server| async move {
        let name = match &server.host {
            Host::Address(ip) => return Ok(vec![SocketAddr::new(*ip, server.port)]),
            Host::LinkLocal(..) => return Err(format!("{server} is on this link, before every NAT")),
            Host::Name(name) => name.as_str(),
        };
        let found = match tokio::time::timeout(LOOK_UP, tokio::net::lookup_host((name, server.port))).await {
            Ok(found) => found.map_err(|error| format!("{name} cannot be looked up ({error})"))?,
            Err(_) => return Err(format!("{name} cannot be looked up (no answer in {} s)", LOOK_UP.as_secs())),
        };
        let found: Vec<SocketAddr> = found.collect();
        let first = |v4: bool| found.iter().copied().find(|address| address.is_ipv4() == v4);
        Ok([first(true), first(false)].into_iter().flatten().collect())
    });
    let (mut addresses, mut missing) = (Vec::new(), Vec::new());
    for found in join_all(all).await {
        match found {
            Ok(list) => addresses.extend(list),
            Err(why) => missing.push(why),
        }
    }
    (addresses, missing)
}

/// The address of this machine that packets to a server leave from. Nothing is sent.
fn own_address(server: SocketAddr) -> anyhow::Result<IpAddr> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).context("opening a UDP socket")?;
    socket.connect(server).with_context(|| format!("there is no way to {server}"))?;
    Ok(socket.local_addr().with_context(|| format!("there is no way to {server}"))?.ip())
}

/// Asks the servers of one IP version.
async fn over(servers: Vec<SocketAddr>) -> anyhow::Result<Network> {
    // A host may have a way to some of them only.
    let own = servers.iter().map(|server| own_address(*server)).reduce(|first, next| first.or(next));
    let own = own.context("no server")??;
    let (report, unsent) = sockets::discover(own, &servers).await.with_context(|| format!("opening UDP sockets at {own}"))?;
    Ok(Network { report, lifetime: None, unsent })
}

impl Search {
    /// Whether UDP passes at all.
    pub fn udp_passes(&self) -> bool {
        self.networks.iter().any(|network| network.report.udp == Udp::Passes)
    }

    /// Measures how long mappings live, which takes minutes. Where no server can do that, nothing is waited for.
    ///
    /// # Errors
    /// There are no sockets for it.
    pub async fn measure_lifetime(&mut self) -> anyhow::Result<()> {
        let measure = |network: &Network| {
            let (own, server) = (network.report.local.ip(), network.report.servers.iter().find(|server| server.other.is_some()));
            let server = server.map(|asked| asked.server);
            async move { Some(sockets::measure(own, server?).await) }
        };
        let measured = join_all(self.networks.iter().map(measure)).await;
        for (network, found) in self.networks.iter_mut().zip(measured) {
            network.lifetime = found.transpose().context("opening UDP sockets")?;
        }
        Ok(())
    }

    /// For people.
    pub fn text(&self) -> String {
        text::report(&self.networks, &self.missing)
    }

    /// What was measured, for people.
    pub fn lifetime_text(&self) -> String {
        text::lifetimes(&self.networks)
    }

    /// For programs.
    pub fn document(&self) -> Document {
        Document::of(&self.networks, &self.missing)
    }
}
