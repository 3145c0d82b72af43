//! A router between the gateways of a lab, each on a line of its own: it forwards, and says so where a packet is too long for a line.
//!
//! ```text
//!   gateway a ── wan0 ── to-1 ┐          192.0.2.1/32, default route by 192.0.2.101
//!   gateway b ── wan0 ── to-2 ┼ router   192.0.2.101/32 and 2001:db8::101/128 on every line
//!   gateway c ── wan0 ── to-3 ┘
//! ```

use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};

use super::{Gateway, WAN};
use crate::netns::{Netns, Veth};

/// Its address on every line.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 101);
const ROUTER6: &str = "2001:db8::101";

/// The router and its lines.
#[derive(Debug)]
pub struct Router {
    _lines: Vec<Veth>,
    pub netns: Netns,
}

impl Router {
    /// Takes the link of each gateway away and gives it one to the router, with the MTU in the same place of `mtus`. Before the gateways
    /// are started.
    pub fn between(gateways: &[Gateway], mtus: &[u16]) -> Result<Router> {
        let netns = Netns::new("router")?;
        for forwarding in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            netns.enter(|| fs::write(format!("/proc/sys/net/{forwarding}"), "1")).context("making a router of a namespace")?;
        }
        let mut lines = Vec::new();
        for (gateway, mtu) in gateways.iter().zip(mtus) {
            let _ = gateway.netns.run(&format!("ip link delete {WAN}"));
            lines.push(Veth::between(&gateway.netns, WAN, &netns, &line(gateway), (*mtu).into())?);
        }
        let router = Router { _lines: lines, netns };
        for gateway in gateways {
            router.netns.address(&line(gateway), &format!("{ROUTER}/32"))?;
            router.netns.address(&line(gateway), &format!("{ROUTER6}/128"))?;
            for address in [format!("192.0.2.{}/32", gateway.number), format!("2001:db8::{}/128", gateway.number)] {
                gateway.netns.address(WAN, &address)?;
                router.leads_to(gateway, &address)?;
            }
            for (version, by) in [(4, ROUTER.to_string()), (6, ROUTER6.to_owned())] {
                gateway.netns.run(&format!("ip -{version} route add default via {by} dev {WAN} onlink"))?;
            }
        }
        Ok(router)
    }

    /// One more address, in CIDR notation, that a gateway may have.
    pub fn leads_to(&self, gateway: &Gateway, address: &str) -> Result<()> {
        self.netns.run(&format!("ip route add {address} dev {}", line(gateway))).map(drop)
    }

    /// Changes what the line to a gateway takes at this end: what comes back and is longer, the router answers; what goes there and is
    /// longer vanishes in the line.
    pub fn set_mtu(&self, gateway: &Gateway, mtu: u16) -> Result<()> {
        self.netns.run(&format!("ip link set {} mtu {mtu}", line(gateway))).map(drop)
    }
}

/// The router's end of the line to a gateway.
pub fn line(gateway: &Gateway) -> String {
    format!("to-{}", gateway.number)
}
