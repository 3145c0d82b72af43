//! What lies between the two gateways of a bench, and what behind them.
//!
//! ```text
//!  Cable     a ══ eth0 ══ b
//!  Routed    a ══ eth0 ══ west ── 1400 ── east ══ eth0 ══ b         both gateways see links of the cable's MTU
//!  Bridged   host ── br0 of a, with the tunnel ══ eth0 ══ br0 of b ── host         the LANs have 1500
//! ```

use anyhow::Result;

use super::{INNER, OUTER};
use crate::netns::{Netns, Veth};

/// MTU of the link that the gateways of [`Ground::Routed`] cannot see.
const NARROW: u32 = 1400;
/// MTU of the LANs of [`Ground::Bridged`].
const LAN: u32 = 1500;
/// The bridge of a gateway of [`Ground::Bridged`]; the tunnel's link has to become its port.
pub const BRIDGE: &str = "br0";

/// The kind of network that a tunnel is laid over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ground {
    /// A cable.
    #[default]
    Cable,
    /// Two routers with a link of a smaller MTU between them.
    Routed,
    /// A cable, and behind each gateway a host on a bridged LAN: only for tunnels that carry Ethernet frames.
    Bridged,
}

/// What is laid besides the gateways. Dropped in this order: cables, then namespaces.
#[derive(Debug)]
pub struct Laid {
    _cables: Vec<Veth>,
    /// Hosts behind the gateways, or the routers.
    others: Vec<Netns>,
    ground: Ground,
}

impl Ground {
    /// Lays what is between two fresh namespaces, and behind them. Their own links have this MTU.
    pub fn lay(self, a: &Netns, b: &Netns, mtu: u32) -> Result<Laid> {
        match self {
            Ground::Cable => Ok(Laid { _cables: vec![cable(a, b, mtu)?], others: Vec::new(), ground: self }),
            Ground::Routed => routed(a, b, mtu),
            Ground::Bridged => bridged(a, b, mtu),
        }
    }
}

impl Laid {
    /// The two hosts behind the gateways, where the gateways themselves are not the ends of the traffic.
    pub fn hosts(&self) -> Option<(&Netns, &Netns)> {
        match (&self.others[..], self.ground) {
            ([near, far], Ground::Bridged) => Some((near, far)),
            _ => None,
        }
    }

    pub fn ground(&self) -> Ground {
        self.ground
    }
}

fn cable(a: &Netns, b: &Netns, mtu: u32) -> Result<Veth> {
    let veth = Veth::between(a, "eth0", b, "eth0", mtu)?;
    for (netns, address) in [a, b].into_iter().zip(OUTER) {
        netns.address("eth0", &format!("{address}/24"))?;
    }
    Ok(veth)
}

fn routed(a: &Netns, b: &Netns, mtu: u32) -> Result<Laid> {
    let routers = [Netns::new("bench-west")?, Netns::new("bench-east")?];
    let mut cables = vec![Veth::between(&routers[0], "middle", &routers[1], "middle", NARROW)?];
    for ((gateway, router), side) in [a, b].into_iter().zip(&routers).zip([0, 1]) {
        let (own, far) = (OUTER[side], OUTER[1 - side]);
        cables.push(Veth::between(gateway, "eth0", router, "eth0", mtu)?);
        gateway.address("eth0", &format!("{own}/32"))?;
        router.address("eth0", &format!("198.51.100.{}/32", 1 + side))?;
        router.address("middle", &format!("203.0.113.{}/24", 1 + side))?;
        gateway.run(&format!("ip route add 198.51.100.{} dev eth0", 1 + side))?;
        gateway.run(&format!("ip route add {far} via 198.51.100.{} dev eth0", 1 + side))?;
        router.run(&format!("ip route add {own} dev eth0"))?;
        router.run(&format!("ip route add {far} via 203.0.113.{}", 2 - side))?;
        router.run("sysctl -qw net.ipv4.ip_forward=1")?;
    }
    Ok(Laid { _cables: cables, others: routers.into(), ground: Ground::Routed })
}

fn bridged(a: &Netns, b: &Netns, mtu: u32) -> Result<Laid> {
    let hosts = [Netns::new("bench-host-a")?, Netns::new("bench-host-b")?];
    let mut cables = vec![cable(a, b, mtu)?];
    for ((gateway, host), address) in [a, b].into_iter().zip(&hosts).zip(INNER) {
        gateway.run(&format!("ip link add {BRIDGE} type bridge forward_delay 0 stp_state 0"))?;
        gateway.run(&format!("ip link set {BRIDGE} up"))?;
        cables.push(Veth::between(gateway, "lan0", host, "eth0", LAN)?);
        gateway.run(&format!("ip link set lan0 master {BRIDGE}"))?;
        host.address("eth0", &format!("{address}/24"))?;
    }
    Ok(Laid { _cables: cables, others: hosts.into(), ground: Ground::Bridged })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::{SOON, wait_until};

    #[test]
    fn the_narrow_link_is_seen_by_nobody_but_who_asks() {
        let (a, b) = (Netns::new("routed-a").unwrap(), Netns::new("routed-b").unwrap());
        let _laid = Ground::Routed.lay(&a, &b, 1500).unwrap();
        for (from, to) in [(&a, OUTER[1]), (&b, OUTER[0])] {
            from.run(&format!("ping -n -c1 -W5 -s 1372 -M do {to}")).unwrap();
            assert!(from.run("ip link show eth0").unwrap().contains("mtu 1500"));
            assert_eq!(from.path_mtu(to.into()).unwrap(), None);
            // Linux answers one packet a second that is too long, and what was learnt stays in the route's cache for minutes.
            wait_until("the router tells its MTU", SOON, || {
                let _lost = from.run(&format!("ping -n -c1 -W1 -s 1373 -M do {to}"));
                Ok(from.path_mtu(to.into())?.is_some())
            })
            .unwrap();
            assert_eq!(from.path_mtu(to.into()).unwrap(), Some(NARROW.into()));
        }
    }
}
