//! `adit nat`: asks STUN servers what NAT lies before this machine, over IPv4 and IPv6 at once, and says what it means for who wants to
//! reach it. It has sockets of its own, so a gateway that runs is not disturbed, and one that does not is not needed.

mod document;
mod sockets;
mod text;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use adit_engine::stun::discovery::{Portal, Report, Udp};
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
    let began = Instant::now();
    let (addresses, mut missing) = look_up(servers).await;
    let looked_up = began.elapsed();
    if addresses.is_empty() {
        let remedy = "give a server by its address (--server 192.0.2.9:3478), or repair the name service of this machine";
        bail!("no server can be asked: {}: {remedy}", missing.join("; "));
    }
    let of = |v4: bool| addresses.iter().copied().filter(|address| address.is_ipv4() == v4).collect::<Vec<_>>();
    let mut networks = Vec::new();
    for found in join_all([of(true), of(false)].into_iter().filter(|list| !list.is_empty()).map(over)).await {
        match found {
            Ok((mut network, note)) => {
                network.report.took += looked_up;
                network.report.portal = network.report.portal.filter(|portal| !is_own_site(portal, servers));
                networks.push(network);
                missing.extend(note);
            }
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

/// Whether who is sent elsewhere by a server is sent to the same server by its name, as web sites do that want HTTPS: no portal.
fn is_own_site(portal: &Portal, servers: &[Endpoint]) -> bool {
    let Portal::SendsElsewhere(host) = portal else { return false };
    let bare = |name: &str| name.trim_start_matches("www.").trim_end_matches('.').to_ascii_lowercase();
    servers.iter().any(|server| matches!(&server.host, Host::Name(name) if bare(name.as_str()) == bare(host)))
}

/// The address of this machine that packets to a server leave from. Nothing is sent.
fn own_address(server: SocketAddr) -> anyhow::Result<IpAddr> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).context("opening a UDP socket")?;
    // Where it is not allowed, the note says what that means.
    let _ = sockets::go_around_tunnel(&socket);
    socket.connect(server).with_context(|| format!("there is no way to {server}"))?;
    Ok(socket.local_addr().with_context(|| format!("there is no way to {server}"))?.ip())
}

/// Asks the servers of one IP version. With it comes what has to be known of what is found out.
async fn over(servers: Vec<SocketAddr>) -> anyhow::Result<(Network, Option<String>)> {
    // A host may have a way to some of them only.
    let own = servers.iter().map(|server| own_address(*server)).reduce(|first, next| first.or(next));
    let own = own.context("no server")??;
    let (report, unsent) = sockets::discover(own, &servers).await.with_context(|| format!("opening UDP sockets at {own}"))?;
    Ok((Network { report, lifetime: None, unsent }, tunnel_note(own)))
}

/// What is said where all that this machine sends goes into a tunnel, and this program may not send beside it: it is not the NAT here that
/// was looked at.
fn tunnel_note(own: IpAddr) -> Option<String> {
    let probe = UdpSocket::bind((own, 0)).ok()?;
    let interface = interface_of(own).filter(|_| sockets::go_around_tunnel(&probe).is_err())?;
    let is_tunnel = Path::new("/sys/class/net").join(&interface).join("tun_flags").exists();
    let version = if own.is_ipv4() { 4 } else { 6 };
    is_tunnel.then(|| {
        format!(
            "IPv{version} was asked through the tunnel {interface}: what is said of it is the NAT at the tunnel's far end; as root, this \
             program asks beside a tunnel of Adit"
        )
    })
}

/// The interface that has this address.
fn interface_of(own: IpAddr) -> Option<String> {
    let has = |one: &nix::ifaddrs::InterfaceAddress| {
        let address = one.address.as_ref()?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::from(address.ip())))
    };
    nix::ifaddrs::getifaddrs().ok()?.find(|one| has(one) == Some(own)).map(|one| one.interface_name)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_that_sends_to_its_own_name_is_no_portal() {
        let servers = ["stun.example.org", "192.0.2.1"].map(|server| crate::config::endpoint::stun_server(server).unwrap());
        let own = |host: &str| is_own_site(&Portal::SendsElsewhere(host.to_owned()), &servers);
        assert!(own("stun.example.org") && own("STUN.example.org.") && own("www.stun.example.org"));
        assert!(!own("login.example.org") && !own("example.org") && !is_own_site(&Portal::LoginWanted, &servers));
    }

    #[test]
    fn no_note_is_made_of_what_is_no_tunnel() {
        assert_eq!(interface_of([127, 0, 0, 1].into()).as_deref(), Some("lo"));
        assert_eq!(tunnel_note([127, 0, 0, 1].into()), None);
    }
}
