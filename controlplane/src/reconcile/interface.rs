//! The interface of the tunnel in the kernel: from how it is to how it should be. Pure: what is wanted, what a dump of the kernel
//! shows and what earlier configurations installed go in; steps come out, in an order in which the kernel takes them.
//!
//! Whoever else works at the interface is left what is theirs: an address or a route that no configuration of ours asked for stays.

use std::fmt;
use std::net::IpAddr;

use adit_proto::control::{Mac, Mode};
use adit_proto::ike::AddressRange;
use ipnet::IpNet;

use crate::config::{Config, MacText, Route};
use crate::routing_rules::{self, Rule};

/// What helps where the bridge is missing.
pub const BRIDGE_REMEDY: &str = "To make one: ip link add NAME type bridge, ip link set NAME up";

/// How the interface should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    pub name: String,
    pub mtu: u16,
    /// Only a TAP has one.
    pub mac: Option<Mac>,
    /// The bridge that it is a port of.
    pub bridge: Option<String>,
    pub addresses: Vec<IpNet>,
    pub routes: Vec<WantedRoute>,
    /// What leads into the tunnel where everything is to go there.
    pub rules: Vec<Rule>,
}

/// A route through the interface.
#[derive(Clone, Debug, PartialEq)]
pub struct WantedRoute {
    pub route: Route,
    /// Addresses that the far end takes as ours. Packets of this machine itself must have one of them as their source.
    pub locals: Vec<AddressRange>,
}

impl Wanted {
    /// `fits` is the longest packet that fits the way to a peer, by its place, where that is known.
    pub fn of(config: &Config, fits: impl Fn(usize) -> Option<u16>) -> Wanted {
        let interface = &config.interface;
        let routes = config.routes_where(fits);
        let rules = routing_rules::rules(&routes, config.listen.port());
        let routes = routes.into_iter().map(|route| WantedRoute { locals: locals(config, route.to), route });
        Wanted {
            name: interface.name.clone(),
            mtu: interface.mtu,
            mac: (config.mode == Mode::Ethernet).then_some(interface.mac),
            bridge: interface.bridge.clone(),
            addresses: interface.addresses.clone(),
            routes: routes.collect(),
            rules,
        }
    }
}

/// The local addresses of the selectors that send packets to this network into the tunnel.
fn locals(config: &Config, to: IpNet) -> Vec<AddressRange> {
    let selectors = config.peers.iter().flat_map(|peer| &peer.selectors);
    let covering = selectors.filter(|selector| {
        let (first, last) = (selector.remote.first(), selector.remote.last());
        first.is_ipv4() == to.addr().is_ipv4() && first <= to.network() && to.broadcast() <= last
    });
    covering.map(|selector| selector.local).collect()
}

/// How the kernel has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Actual {
    pub mtu: u32,
    pub up: bool,
    pub mac: Option<Mac>,
    /// The index of the interface that it is a port of.
    pub controller: Option<u32>,
    /// The index of the bridge that is wanted, if there is one with this name.
    pub bridge: Option<u32>,
    pub addresses: Vec<IpNet>,
    pub routes: Vec<ActualRoute>,
    /// Rules with priorities of ours; those that are not as we make them are not in it.
    pub rules: Vec<Rule>,
    /// Addresses of all interfaces of this machine that others can reach, those of this interface first.
    pub own: Vec<IpAddr>,
}

/// A route through the interface that the kernel has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActualRoute {
    pub route: Route,
    pub source: Option<IpAddr>,
}

/// What configurations before this one have put there, as far as it may still be there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Installed {
    pub addresses: Vec<IpNet>,
    pub routes: Vec<Route>,
    pub in_bridge: bool,
}

/// One request to the kernel.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Mtu(u16),
    Mac(Mac),
    Up,
    /// Puts the interface into the bridge with this name and index.
    Join(String, u32),
    Leave,
    AddAddress(IpNet),
    RemoveAddress(IpNet),
    /// Adds the route to the network of an address of the interface, as the kernel does for a new address.
    Connect(IpNet),
    /// Adds a route with this source, or changes the one that the interface has to the same network.
    SetRoute(Route, Option<IpAddr>),
    RemoveRoute(Route),
    AddRule(Rule),
    RemoveRule(Rule),
}

/// What has to be done, and what has to be waited for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// The bridge that is not there.
    pub missing_bridge: Option<String>,
}

/// Compares how the interface should be with how it is.
pub fn plan(wanted: &Wanted, actual: &Actual, installed: &Installed) -> Plan {
    let mut plan = Plan::default();
    let steps = &mut plan.steps;
    if actual.mtu != u32::from(wanted.mtu) {
        steps.push(Step::Mtu(wanted.mtu));
    }
    steps.extend(wanted.mac.filter(|mac| actual.mac != Some(*mac)).map(Step::Mac));
    if !actual.up {
        steps.push(Step::Up);
    }
    match (&wanted.bridge, actual.bridge) {
        (Some(name), Some(index)) if actual.controller != Some(index) => steps.push(Step::Join(name.clone(), index)),
        (Some(name), None) => plan.missing_bridge = Some(name.clone()),
        (None, _) if installed.in_bridge && actual.controller.is_some() => steps.push(Step::Leave),
        _ => {}
    }
    let missing = wanted.addresses.iter().filter(|address| !actual.addresses.contains(address));
    steps.extend(missing.map(|address| Step::AddAddress(*address)));
    // The kernel makes these with the address, and whoever flushes routes takes them away.
    let networks = wanted.addresses.iter().filter(|address| address.prefix_len() < address.max_prefix_len());
    let unconnected = networks.filter(|address| {
        let connected = |is: &ActualRoute| is.route.to == address.trunc() && is.route.via.is_none();
        actual.up && actual.addresses.contains(address) && !actual.routes.iter().any(connected)
    });
    steps.extend(unconnected.map(|address| Step::Connect(*address)));
    for WantedRoute { route, locals } in &wanted.routes {
        let source = source(wanted, actual, locals);
        let is_there = actual.routes.iter().any(|is| is.route == *route && is.source == source);
        if !is_there {
            steps.push(Step::SetRoute(route.clone(), source));
        }
    }
    // The table is full before anything is looked up in it.
    steps.extend(wanted.rules.iter().filter(|rule| !actual.rules.contains(rule)).map(|rule| Step::AddRule(*rule)));
    steps.extend(actual.rules.iter().filter(|rule| !wanted.rules.contains(rule)).map(|rule| Step::RemoveRule(*rule)));
    // What is stale goes after what is new has come, so that no packet is without a way in between.
    let same = |one: &Route, other: &Route| (one.to, one.via) == (other.to, other.via);
    let stale = installed.routes.iter().filter(|old| {
        let is_there = actual.routes.iter().any(|is| same(&is.route, old));
        is_there && !wanted.routes.iter().any(|new| same(&new.route, old))
    });
    steps.extend(stale.map(|route| Step::RemoveRoute(route.clone())));
    let stale = installed.addresses.iter().filter(|old| actual.addresses.contains(old) && !wanted.addresses.contains(old));
    steps.extend(stale.map(|address| Step::RemoveAddress(*address)));
    plan
}

/// The source of packets of this machine on a route: an address of ours that the far end takes as ours. Without one the kernel
/// chooses, and the far end may refuse what it chose.
fn source(wanted: &Wanted, actual: &Actual, locals: &[AddressRange]) -> Option<IpAddr> {
    let mut own = wanted.addresses.iter().map(IpNet::addr).chain(actual.own.iter().copied());
    let fits = |address: &IpAddr| {
        let within = |range: &AddressRange| {
            range.first().is_ipv4() == address.is_ipv4() && (range.first()..=range.last()).contains(address)
        };
        locals.iter().any(within)
    };
    own.find(fits)
}

impl fmt::Display for Step {
    /// What was wrong, for the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Mtu(mtu) => write!(f, "its MTU was not {mtu}"),
            Step::Mac(mac) => write!(f, "its MAC address was not {}", MacText(*mac)),
            Step::Up => f.write_str("it was down"),
            Step::Join(bridge, _) => write!(f, "it was not in the bridge {bridge}"),
            Step::Leave => f.write_str("it was still in a bridge"),
            Step::AddAddress(address) => write!(f, "the address {address} was missing"),
            Step::RemoveAddress(address) => write!(f, "the address {address} was still there"),
            Step::Connect(address) => write!(f, "the route to {} was missing", address.trunc()),
            Step::SetRoute(route, _) => write!(f, "the route to {} was missing or another one", route.to),
            Step::RemoveRoute(route) => write!(f, "the route to {} was still there", route.to),
            Step::AddRule(rule) => write!(f, "the routing rule {} was missing", rule.priority()),
            Step::RemoveRule(rule) => write!(f, "the routing rule {} was still there", rule.priority()),
        }
    }
}

/// What was wrong, in one line: the first few things, and how many more.
pub fn summary(steps: &[Step]) -> String {
    const NAMED: usize = 4;
    let mut text: Vec<String> = steps.iter().take(NAMED).map(ToString::to_string).collect();
    if steps.len() > NAMED {
        text.push(format!("and {} more", steps.len() - NAMED));
    }
    text.join(", ")
}

#[cfg(test)]
mod tests {
    use adit_proto::suite::Suite;

    use super::*;
    use crate::config::Machine;
    use crate::static_key::{SECRET_LEN, Secret};

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn route(to: &str) -> Route {
        Route { to: net(to), via: None, mtu: Some(1400) }
    }

    fn wanted() -> Wanted {
        let locals = vec![AddressRange::V4 { first: [10, 1, 1, 0].into(), last: [10, 1, 1, 255].into() }];
        Wanted {
            name: "adit0".into(),
            mtu: 1418,
            mac: Some([2, 0, 0, 0, 0, 1]),
            bridge: None,
            addresses: vec![net("10.1.1.1/24"), net("fd00::1/64")],
            routes: vec![WantedRoute { route: route("10.2.0.0/16"), locals }],
            rules: vec![Rule { v6: false, kind: routing_rules::Kind::Rest }],
        }
    }

    fn connect(actual: &mut Actual, address: IpNet) {
        let route = Route { to: address.trunc(), via: None, mtu: None };
        actual.routes.push(ActualRoute { route, source: None });
    }

    /// What the kernel has after these steps.
    fn apply(actual: &mut Actual, steps: &[Step]) {
        for step in steps {
            match step.clone() {
                Step::Mtu(mtu) => actual.mtu = mtu.into(),
                Step::Mac(mac) => actual.mac = Some(mac),
                Step::Up => actual.up = true,
                Step::Join(_, index) => actual.controller = Some(index),
                Step::Leave => actual.controller = None,
                Step::AddAddress(address) => {
                    actual.addresses.push(address);
                    connect(actual, address);
                }
                Step::Connect(address) => connect(actual, address),
                Step::RemoveAddress(address) => actual.addresses.retain(|one| *one != address),
                Step::SetRoute(route, source) => {
                    actual.routes.retain(|one| one.route.to != route.to);
                    actual.routes.push(ActualRoute { route, source });
                }
                Step::RemoveRoute(route) => actual.routes.retain(|one| one.route.to != route.to),
                Step::AddRule(rule) => actual.rules.push(rule),
                Step::RemoveRule(rule) => actual.rules.retain(|one| *one != rule),
            }
        }
    }

    #[test]
    fn whatever_was_changed_is_put_right_and_then_nothing_is_left() {
        let wanted = Wanted { bridge: Some("br0".into()), ..wanted() };
        let bare = Actual { bridge: Some(7), ..Actual::default() };
        let mut whole = bare.clone();
        apply(&mut whole, &plan(&wanted, &bare, &Installed::default()).steps);
        assert_eq!(plan(&wanted, &whole, &Installed::default()), Plan::default());
        let damages: [fn(&mut Actual); 11] = [
            |is| is.up = false,
            |is| is.mtu = 1300,
            |is| is.mac = None,
            |is| is.controller = None,
            |is| is.controller = Some(3),
            |is| is.addresses.truncate(1),
            |is| is.routes.retain(|one| one.route.to != net("10.1.1.0/24")),
            |is| is.routes.retain(|one| one.route.to != net("10.2.0.0/16")),
            |is| is.routes.iter_mut().for_each(|one| one.source = None),
            |is| is.rules.clear(),
            |is| is.rules.push(Rule { v6: true, kind: routing_rules::Kind::Specific }),
        ];
        for damage in damages {
            let mut damaged = whole.clone();
            damage(&mut damaged);
            let steps = plan(&wanted, &damaged, &Installed::default()).steps;
            assert_eq!(steps.len(), 1, "{steps:?}");
            apply(&mut damaged, &steps);
            assert_eq!(plan(&wanted, &damaged, &Installed::default()), Plan::default());
        }
    }

    #[test]
    fn what_others_put_there_stays_and_what_we_put_there_goes() {
        let wanted = wanted();
        let mut actual = Actual::default();
        let steps = plan(&wanted, &actual, &Installed::default()).steps;
        apply(&mut actual, &steps);
        actual.addresses.extend([net("10.7.7.7/32"), net("10.8.8.8/32")]);
        actual.controller = Some(9);
        actual.routes.push(ActualRoute { route: route("10.3.0.0/16"), source: None });
        assert_eq!(plan(&wanted, &actual, &Installed::default()).steps, []);
        let installed = Installed {
            addresses: vec![net("10.7.7.7/32"), net("10.1.1.1/24")],
            routes: vec![route("10.3.0.0/16")],
            in_bridge: true,
        };
        let gone = [Step::Leave, Step::RemoveRoute(route("10.3.0.0/16")), Step::RemoveAddress(net("10.7.7.7/32"))];
        assert_eq!(plan(&wanted, &actual, &installed).steps, gone);
    }

    #[test]
    fn a_bridge_that_is_not_there_is_waited_for() {
        let wanted = Wanted { bridge: Some("br0".into()), ..wanted() };
        let without = plan(&wanted, &Actual::default(), &Installed::default());
        assert_eq!(without.missing_bridge.as_deref(), Some("br0"));
        assert!(without.steps.contains(&Step::Up), "the rest is done meanwhile");
    }

    #[test]
    fn the_source_of_a_route_is_an_address_that_the_far_end_takes() {
        let outside: IpAddr = "192.0.2.1".parse().unwrap();
        let inside: IpAddr = "10.1.1.77".parse().unwrap();
        let source_of = |own: Vec<IpAddr>, addresses: Vec<IpNet>| {
            let wanted = Wanted { addresses, ..wanted() };
            let steps = plan(&wanted, &Actual { own, ..Actual::default() }, &Installed::default()).steps;
            steps.iter().find_map(|step| if let Step::SetRoute(_, source) = step { *source } else { None })
        };
        assert_eq!(source_of(vec![outside], Vec::new()), None);
        assert_eq!(source_of(vec![outside, inside], Vec::new()), Some(inside));
        assert_eq!(source_of(vec![inside], vec![net("10.1.1.1/32")]), Some("10.1.1.1".parse().unwrap()));
    }

    #[test]
    fn the_source_of_a_route_is_of_its_version_of_ip() {
        let [first, last] = ["fd00:1::", "fd00:1::ffff"].map(|address| address.parse().unwrap());
        let six = WantedRoute { route: route("fd00:2::/64"), locals: vec![AddressRange::V6 { first, last }] };
        let sources = |own: &[&str], addresses: &[&str]| {
            let addresses = addresses.iter().map(|address| net(address)).collect();
            let routes = [wanted().routes, vec![six.clone()]].concat();
            let own = own.iter().map(|address| address.parse().unwrap()).collect();
            let actual = Actual { own, ..Actual::default() };
            let steps = plan(&Wanted { addresses, routes, ..wanted() }, &actual, &Installed::default()).steps;
            let source = |step: &Step| match step {
                Step::SetRoute(_, source) => Some(source.map_or("none".to_owned(), |source| source.to_string())),
                _ => None,
            };
            steps.iter().filter_map(source).collect::<Vec<String>>()
        };
        let outside = ["192.0.2.1", "2001:db8::1", "fd00:1:1::1"];
        assert_eq!(sources(&outside, &[]), ["none", "none"]);
        assert_eq!(sources(&[&outside[..], &["fd00:1::77"]].concat(), &[]), ["none", "fd00:1::77"]);
        for own in [["10.1.1.77", "fd00:1::77"], ["fd00:1::77", "10.1.1.77"]] {
            assert_eq!(sources(&[&outside[..], &own].concat(), &[]), ["10.1.1.77", "fd00:1::77"]);
        }
        let own = ["10.1.1.77", "fd00:1::77"];
        assert_eq!(sources(&own, &["10.1.1.1/24", "fd00:1::1/64"]), ["10.1.1.1", "fd00:1::1"], "that of the interface first");
        assert_eq!(sources(&own, &["10.8.0.1/24", "2001:db8::1/64"]), own, "unless the far end does not take it");
    }

    #[test]
    fn routes_have_what_fits_the_way_to_their_peer_and_ipv6_its_least() {
        let dir = tempfile::tempdir().unwrap();
        Secret::from_bytes(Suite::Aes128Gcm, [1; SECRET_LEN]).create_file(&dir.path().join("b.key")).unwrap();
        let yaml = "name: a\nlisten: 0.0.0.0:4500\nmode: ip\ninterface: { name: adit0, routes: [{ to: 10.9.0.0/16 }] }\npeers:\n  \
            - { name: b, endpoint: 192.0.2.2:4500, static_key_file: b.key, selectors: [\
            { local: 10.1.0.0/24, remote: 10.2.0.0/24 }, { local: \"fd00:1::/64\", remote: \"fd00:2::/64\" }] }\n  \
            - { name: c, endpoint: 192.0.2.3:4500, static_key_file: b.key, selectors: [\
            { local: 10.1.0.0/24, remote: 10.3.0.0/24 }] }\n";
        let config =
            Config::from_yaml(yaml, dir.path(), &Machine { cores: vec![0] }).unwrap_or_else(|problems| panic!("{problems:?}"));
        let mtus = |known: &dyn Fn(usize) -> Option<u16>| {
            let wanted = Wanted::of(&config, known);
            assert_eq!(wanted.mtu, 1438, "that of the interface stays");
            wanted.routes.iter().map(|wanted| (wanted.route.to.to_string(), wanted.route.mtu)).collect::<Vec<_>>()
        };
        let routes = |b_four: u16, b_six: u16, c: u16| {
            let of_peers = [("10.2.0.0/24", b_four), ("fd00:2::/64", b_six), ("10.3.0.0/24", c)];
            let of_peers = of_peers.map(|(to, mtu)| (to.to_owned(), Some(mtu)));
            // What the file says itself stays as it is.
            [vec![("10.9.0.0/16".to_owned(), None)], of_peers.to_vec()].concat()
        };
        assert_eq!(mtus(&|_| Some(1238)), routes(1238, 1280, 1238), "no route of IPv6 takes less than 1280");
        assert_eq!(mtus(&|place| (place == 0).then_some(1300)), routes(1300, 1300, 1438), "of one peer it is known");
        assert_eq!(mtus(&|place| (place == 1).then_some(1300)), routes(1438, 1438, 1300), "of the other");
        assert_eq!(mtus(&|_| Some(9000)), routes(1438, 1438, 1438), "more than the interface takes");
    }

    #[test]
    fn a_long_list_is_told_in_one_line() {
        let steps: Vec<Step> = (0..9).map(|n| Step::AddAddress(net(&format!("10.0.0.{n}/32")))).collect();
        let line = summary(&steps);
        assert!(line.starts_with("the address 10.0.0.0/32 was missing, ") && line.ends_with(", and 5 more"), "{line}");
        assert_eq!(summary(&[Step::Up]), "it was down");
    }
}
