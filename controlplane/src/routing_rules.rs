//! The rules of a full tunnel: everything goes into it but what the gateway itself sends outside. Pure.
//!
//! ```text
//!  before  from all iif lo udp sport PORT  lookup main                        the way back of what comes to our port (IPv4)
//!          from all                        lookup main suppress_prefixlength 0   what is more specific than a default route
//!          from all not fwmark MARK        lookup TABLE                       the rest: into the tunnel
//!          to 255.255.255.255 udp sport PORT  lookup main                     nothing; with it the kernel looks at ports (IPv4)
//!  main    from all                        lookup main                        what is marked: by the default route of the machine
//! ```
//! The default route of the machine stays as it is, and so does whatever it has more specific routes to. A gateway that dies leaves
//! rules that lead into an empty table: then everything goes as it did before.

use ipnet::IpNet;

use crate::config::Route;

/// What marks packets of the gateway itself, outside the tunnel.
pub const MARK: u32 = 0xad17;
/// The table of what leads everything into the tunnel.
pub const TABLE: u32 = 0xad17;
/// Priorities, in front of those of the main table (32766) and of other tunnels (wg-quick: 32764 and up).
const PORT: u32 = 32_500;
const SPECIFIC: u32 = 32_501;
const REST: u32 = 32_502;
const PORTS: u32 = 32_503;

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    pub v6: bool,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// What leaves from the gateway's UDP port is looked up as if there were no tunnel. The mark alone would do for sending; the
    /// check of where packets come from (rp_filter) knows no mark.
    Port(u16),
    Specific,
    Rest,
    /// Matches no packet that is routed. Where a packet comes from is checked (rp_filter) by a look-up with its ports only where there is
    /// a rule with ports for what comes from other machines, and [`Kind::Port`] is for our own packets alone: another one's from that
    /// port belong into the tunnel.
    Ports(u16),
}

impl Rule {
    /// The priority, by which a rule of ours is known again.
    pub fn priority(&self) -> u32 {
        match self.kind {
            Kind::Ports(_) => PORTS,
            Kind::Port(_) => PORT,
            Kind::Specific => SPECIFIC,
            Kind::Rest => REST,
        }
    }

    /// Whether a rule with this priority is one of ours.
    pub fn is_ours(priority: u32) -> bool {
        (PORT..=PORTS).contains(&priority)
    }
}

/// Whether a route leads everything somewhere: then it stands in a table of its own.
pub fn is_default(to: &IpNet) -> bool {
    to.prefix_len() == 0
}

/// The rules that these routes need.
pub fn rules<'a>(routes: impl IntoIterator<Item = &'a Route>, port: u16) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for route in routes.into_iter().filter(|route| is_default(&route.to)) {
        let v6 = route.to.addr().is_ipv6();
        // IPv6 has no check of that kind.
        let back = [Kind::Port(port), Kind::Ports(port)].into_iter().filter(|_| !v6);
        rules.extend(back.chain([Kind::Specific, Kind::Rest]).map(|kind| Rule { v6, kind }));
    }
    rules.sort_unstable();
    rules.dedup();
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_default_route_needs_rules_and_each_family_its_own() {
        let route = |to: &str| Route { to: to.parse().unwrap(), via: None, mtu: None };
        assert_eq!(rules(&[route("10.0.0.0/8"), route("0.0.0.0/1")], 4500), []);
        let four = rules(&[route("0.0.0.0/0"), route("10.0.0.0/8")], 4500);
        assert_eq!(four.iter().map(Rule::priority).collect::<Vec<_>>(), [PORT, SPECIFIC, REST, PORTS]);
        let both = rules(&[route("0.0.0.0/0"), route("::/0")], 4500);
        assert_eq!(both.iter().filter(|rule| rule.v6).map(Rule::priority).collect::<Vec<_>>(), [SPECIFIC, REST]);
        assert!(both.iter().all(|rule| Rule::is_ours(rule.priority())) && !Rule::is_ours(32_766));
    }
}
