//! Two hosts with a NAT between them, in front of either.
//!
//! ```text
//!   the one behind   wan0 198.18.0.2 ── 198.18.0.1 lan0   NAT   wan0 192.0.2.100 ── 192.0.2.N wan0   the other
//! ```
//! Or several clients behind it, and a gateway with two addresses in front:
//!
//! ```text
//!   client 1   wan0 198.18.0.2 ─┐
//!   client 2   wan0 198.18.0.3 ─┴─ 198.18.0.1 lan0   NAT   wan0 192.0.2.100 ── 192.0.2.1, 192.0.2.22 wan0   gateway
//! ```
//! Networks behind the hosts are those of [`Site`]. The NAT has one public address and gives every flow a port of a range.

use std::fs;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use anyhow::{Context, Result};

use super::sites::{LINK, Site};
use crate::netns::{Netns, Veth};

/// What the other host sees.
pub const PUBLIC: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
/// The address of the host behind.
pub const PRIVATE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// The hosts and the NAT.
#[derive(Debug)]
pub struct NatSites {
    pub a: Netns,
    pub b: Netns,
    nat: Netns,
    _cables: [Veth; 2],
}

impl NatSites {
    /// The ports at first.
    pub const PORTS: RangeInclusive<u16> = 20000..=20999;

    pub fn new(behind: Site) -> Result<NatSites> {
        let (a, b, nat) = (Netns::new("nat-a")?, Netns::new("nat-b")?, Netns::new("nat")?);
        let (inside, outside) = if behind == Site::A { (&a, &b) } else { (&b, &a) };
        let cables = [Veth::between(inside, LINK, &nat, "lan0", 1500)?, Veth::between(&nat, LINK, outside, LINK, 1500)?];
        behind.other().settle(outside)?;
        inside.address(LINK, &format!("{PRIVATE}/24"))?;
        inside.address("lo", &format!("{}/32", behind.inner()))?;
        nat.address("lan0", &format!("{GATEWAY}/24"))?;
        nat.address(LINK, &format!("{PUBLIC}/24"))?;
        inside.run(&format!("ip route add default via {GATEWAY}"))?;
        forward(&nat)?;
        let sites = NatSites { a, b, nat, _cables: cables };
        sites.map(&NatSites::PORTS)?;
        Ok(sites)
    }

    /// As a NAT that was switched off and on again: all it knew is gone, and flows get other ports, out of these.
    pub fn forget(&self, ports: &RangeInclusive<u16>) -> Result<()> {
        self.nat.run("nft flush chain ip nat out")?;
        self.map(ports)?;
        // With its address the kernel forgets what was masqueraded behind it.
        self.nat.run(&format!("ip address delete {PUBLIC}/24 dev {LINK}"))?;
        self.nat.address(LINK, &format!("{PUBLIC}/24"))
    }

    fn map(&self, ports: &RangeInclusive<u16>) -> Result<()> {
        let (first, last) = (ports.start(), ports.end());
        self.nat.run(&format!("nft add rule ip nat out oifname {LINK} meta l4proto udp masquerade to :{first}-{last}")).map(drop)
    }
}

/// Two clients behind one NAT that keeps their ports where it can, and lets in only what answers them.
#[derive(Debug)]
pub struct NatClients {
    pub gateway: Netns,
    pub clients: [Netns; 2],
    _nat: Netns,
    _cables: Vec<Veth>,
}

impl NatClients {
    /// The other address of the gateway, besides that of [`Site::A`].
    pub const SECOND: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 22);

    pub fn new() -> Result<NatClients> {
        let (gateway, nat) = (Netns::new("gateway")?, Netns::new("nat")?);
        let clients = [Netns::new("client-1")?, Netns::new("client-2")?];
        let mut cables = vec![Veth::between(&nat, LINK, &gateway, LINK, 1500)?];
        Site::A.settle(&gateway)?;
        gateway.address(LINK, &format!("{}/24", NatClients::SECOND))?;
        nat.address(LINK, &format!("{PUBLIC}/24"))?;
        nat.run("ip link add lan0 type bridge forward_delay 0 stp_state 0")?;
        nat.run("ip link set lan0 up")?;
        nat.address("lan0", &format!("{GATEWAY}/24"))?;
        for (number, client) in (1..).zip(&clients) {
            let port = format!("port{number}");
            cables.push(Veth::between(client, LINK, &nat, &port, 1500)?);
            nat.run(&format!("ip link set {port} master lan0"))?;
            client.address("lo", &format!("10.{}.0.1/32", number + 1))?;
            NatClients::place(client, number + 1)?;
        }
        forward(&nat)?;
        nat.run(&format!("nft add rule ip nat out oifname {LINK} masquerade"))?;
        nat.run("nft add chain ip nat through { type filter hook forward priority 0 ; }")?;
        nat.run(&format!("nft add rule ip nat through iifname {LINK} ct state new drop"))?;
        Ok(NatClients { gateway, clients, _nat: nat, _cables: cables })
    }

    /// Gives a client this address behind the NAT, in place of the one that it has.
    pub fn place(client: &Netns, number: u8) -> Result<()> {
        client.run(&format!("ip -4 address flush dev {LINK}"))?;
        client.address(LINK, &format!("198.18.0.{number}/24"))?;
        client.run(&format!("ip route add default via {GATEWAY}")).map(drop)
    }
}

/// Makes a router of a namespace, with an empty chain for what leaves it.
fn forward(nat: &Netns) -> Result<()> {
    nat.enter(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1")).context("cannot make a router of a namespace")?;
    nat.run("nft add table ip nat")?;
    nat.run("nft add chain ip nat out { type nat hook postrouting priority 100 ; }").map(drop)
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_one_behind_is_seen_at_a_public_port_and_at_another_afterwards() {
        let sites = NatSites::new(Site::A).unwrap();
        let inside = sites.a.enter(|| UdpSocket::bind((PRIVATE, 4500))).unwrap();
        let outside = sites.b.enter(|| UdpSocket::bind((Site::B.outer(), 4500))).unwrap();
        outside.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let seen = || -> SocketAddr {
            inside.send_to(b"hello", (Site::B.outer(), 4500)).unwrap();
            outside.recv_from(&mut [0; 16]).unwrap().1
        };
        let first = seen();
        assert!(first.ip() == PUBLIC && NatSites::PORTS.contains(&first.port()), "{first}");
        assert_eq!(seen(), first, "the same flow");
        sites.forget(&(30000..=30999)).unwrap();
        let then = crate::lab::wait_until("the NAT has forgotten", Duration::from_secs(10), || {
            let port = seen().port();
            Ok((30000..=30999).contains(&port))
        });
        then.unwrap();
    }
}
