//! What `adit config check` looks at beside the file: whether the machine has what the configuration counts on.
//!
//! [`Surroundings::here`] asks the machine, [`judge`] is pure.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use adit_engine::auth::{self, Severity, judge_own};
use ipnet::IpNet;
use serde::Serialize;

use crate::config::{Config, Endpoint, Peer, Problems};
use crate::dataplane;
use crate::netlink::{Netlink, RouteThere};
use crate::routing_rules::is_default;

/// Facts about the machine that the configuration of a gateway meets.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// Whether there is an interface with the name of the bridge that the file names, and it is one.
    pub bridge: bool,
    /// The addresses of all interfaces.
    pub addresses: Vec<(String, IpNet)>,
    /// Routes of the main table through all interfaces.
    pub routes: Vec<RouteThere>,
    /// Why the program of the data plane cannot be started, if so.
    pub program: Option<String>,
    /// Seconds since 1970 UTC.
    pub now: u64,
}

/// Something that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The key in the file.
    pub key: String,
    pub what: String,
    /// What to write or to run.
    pub write: String,
    /// Nothing works as it is; otherwise something may be about to come, or to end.
    #[serde(skip)]
    pub fatal: bool,
}

impl Surroundings {
    /// Asks this machine. What it does not tell is left out.
    pub fn here(config: &Config) -> Surroundings {
        let networks = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            runtime.block_on(async {
                let netlink = Netlink::open().ok()?;
                let addresses = netlink.addresses().await.unwrap_or_default();
                Some((addresses, netlink.routes().await.unwrap_or_default()))
            })
        };
        let (addresses, routes) = networks().unwrap_or_default();
        let is_bridge = |name: &String| Path::new("/sys/class/net").join(name).join("bridge").is_dir();
        Surroundings {
            bridge: config.interface.bridge.as_ref().is_none_or(is_bridge),
            addresses,
            routes,
            program: dataplane::find_program(config).err().map(|error| error.to_string()),
            now: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        }
    }

    /// The same without an interface: that of the gateway that runs.
    pub fn without(mut self, interface: &str) -> Surroundings {
        self.addresses.retain(|(name, _)| name != interface);
        self.routes.retain(|route| route.interface != interface);
        self
    }
}

/// What does not fit between a configuration and the machine.
pub fn judge(config: &Config, around: &Surroundings) -> Vec<Finding> {
    let mut findings = overlaps(config, around);
    findings.extend(endpoints_inside(config, around));
    findings.extend(certificate(config, around.now));
    if let Some(bridge) = config.interface.bridge.as_ref().filter(|_| !around.bridge) {
        findings.push(Finding {
            key: "interface.bridge".to_owned(),
            what: format!("there is no bridge {bridge} on this machine yet"),
            write: format!("run: ip link add {bridge} type bridge; ip link set {bridge} up"),
            fatal: false,
        });
    }
    findings.extend(around.program.as_ref().map(|what| Finding {
        key: "dataplane.binary".to_owned(),
        what: what.clone(),
        write: "binary: /usr/local/sbin/adit-dataplane, or install it".to_owned(),
        fatal: false,
    }));
    findings
}

/// Inner networks that this machine has at another interface: its packets to them would not take the tunnel, or would no longer take
/// the cable.
pub fn overlaps(config: &Config, around: &Surroundings) -> Vec<Finding> {
    let own = config.interface.addresses.iter().enumerate().map(|(index, net)| (format!("interface.addresses[{index}]"), *net));
    let routes =
        config.interface.routes.iter().enumerate().map(|(index, route)| (format!("interface.routes[{index}]"), route.to));
    let remote = config.peers.iter().enumerate().flat_map(|(place, peer)| {
        let nets = peer.selectors.iter().enumerate();
        nets.filter_map(move |(index, selector)| {
            let prefix = selector.remote.prefix_len().and_then(|len| u8::try_from(len).ok())?;
            let net = IpNet::new(selector.remote.first(), prefix).ok()?;
            Some((format!("peers[{place}].selectors[{index}].remote"), net))
        })
    });
    let over = |(key, inner): (String, IpNet)| {
        let inner = inner.trunc();
        address_over(config, around, &key, inner).or_else(|| route_over(config, around, &key, inner))
    };
    own.chain(routes).chain(remote).filter_map(over).collect()
}

/// An address of another interface in whose network the inner one is. A wider inner network, up to 0.0.0.0/0, is no conflict: what the
/// other interface has is more specific and stays there.
fn address_over(config: &Config, around: &Surroundings, key: &str, inner: IpNet) -> Option<Finding> {
    let mut others = around.addresses.iter().filter(|(name, _)| *name != config.interface.name);
    let (name, address) = others.find(|(_, address)| address.trunc().contains(&inner))?;
    Some(Finding {
        key: key.to_owned(),
        what: format!("{inner} leads into the tunnel, and this machine has {address} in it on {name}"),
        write: format!("another network, or take {address} from {name}: ip address del {address} dev {name}"),
        fatal: true,
    })
}

/// A route of another interface to the inner network itself, or to one around it. That to a wider one by a router is what a more
/// specific route is made for; a default route is never meant.
fn route_over(config: &Config, around: &Surroundings, key: &str, inner: IpNet) -> Option<Finding> {
    let others = around.routes.iter().filter(|route| route.interface != config.interface.name && route.to.prefix_len() > 0);
    let over = others.filter(|route| route.to.contains(&inner) && (route.to == inner || !route.routed));
    let RouteThere { interface, to, .. } = over.max_by_key(|route| route.to.prefix_len())?;
    Some(Finding {
        key: key.to_owned(),
        what: format!("{inner} leads into the tunnel, and this machine has a route to {to} through {interface}"),
        write: format!("another network, or remove that route: ip route del {to} dev {interface}"),
        fatal: true,
    })
}

/// Networks that lead into the tunnel and hold the endpoint of a peer, or the relay: it can be reached as long as a more specific route
/// leads there outside, as that of a network in which this machine is. A default route is no such network: what bears our mark goes
/// around it.
fn endpoints_inside(config: &Config, around: &Surroundings) -> Vec<Finding> {
    let mut findings = Vec::new();
    let routes: Vec<IpNet> = config.routes().into_iter().map(|route| route.to).filter(|to| !is_default(to)).collect();
    let of_peer = |(place, peer): (usize, &Peer)| {
        let endpoint = peer.endpoints.iter().find_map(Endpoint::address)?;
        Some((format!("peers[{place}].endpoint"), endpoint.ip()))
    };
    let relay = config.relay.as_ref().and_then(|relay| relay.at.as_str().parse::<SocketAddr>().ok());
    let relay = relay.map(|at| ("relay.url".to_owned(), at.ip()));
    for (key, endpoint) in config.peers.iter().enumerate().filter_map(of_peer).chain(relay) {
        let inner = config.interface.addresses.iter().chain(&routes).filter(|net| net.contains(&endpoint));
        let Some(inner) = inner.max_by_key(|net| net.prefix_len()) else { continue };
        let outside = |(name, address): &(String, IpNet)| {
            *name != config.interface.name && address.contains(&endpoint) && address.prefix_len() > inner.prefix_len()
        };
        if !around.addresses.iter().any(outside) {
            findings.push(Finding {
                key,
                what: format!("{endpoint} is in {}, which leads into the tunnel: its own packets cannot go there", inner.trunc()),
                write: format!(
                    "run: ip route add {endpoint} via ROUTER dev INTERFACE, outside the tunnel; or other networks inside"
                ),
                fatal: false,
            });
        }
    }
    findings
}

/// What a peer that looks at our certificates would object to, now or soon.
fn certificate(config: &Config, now: u64) -> Vec<Finding> {
    let Some(own) = &config.ike.key else { return Vec::new() };
    let key = &own.key.value;
    let findings = judge_own(key.chain(), key.public(), &config.ike.id, now);
    let finding = |found: &auth::Finding| Finding {
        key: "ike.certificate_file".to_owned(),
        what: found.to_string(),
        write: found.remedy(),
        fatal: found.severity() == Severity::Error,
    };
    findings.iter().map(finding).collect()
}

/// What of a file cannot work on this machine, for people; `None` where all can.
pub fn refusal(file: &Path, config: &Config, around: &Surroundings) -> Option<String> {
    let verdict = Verdict::of(file.display().to_string(), judge(config, around));
    (!verdict.ok).then(|| verdict.problems_text())
}

/// The verdict on a file, for programs.
#[derive(Debug, Serialize)]
pub struct Verdict {
    pub file: String,
    /// Whether a gateway could run with it.
    pub ok: bool,
    pub problems: Vec<Fault>,
    pub warnings: Vec<Finding>,
}

/// A mistake. Line and column count from 1; those of what is not in the file are 0.
#[derive(Debug, Serialize)]
pub struct Fault {
    pub line: usize,
    pub column: usize,
    pub key: String,
    pub what: String,
    pub expected: String,
    pub write: String,
}

impl Verdict {
    /// Of a file that cannot be used.
    pub fn refused(problems: &Problems) -> Verdict {
        let fault = |problem: &crate::config::Problem| Fault {
            line: problem.at.line,
            column: problem.at.column,
            key: problem.key.clone(),
            what: problem.what.clone(),
            expected: problem.expected.clone(),
            write: problem.write.clone(),
        };
        let file = problems.file.display().to_string();
        Verdict { file, ok: false, problems: problems.list.iter().map(fault).collect(), warnings: Vec::new() }
    }

    /// Of a file that is good in itself.
    pub fn of(file: String, findings: Vec<Finding>) -> Verdict {
        let (fatal, warnings): (Vec<_>, Vec<_>) = findings.into_iter().partition(|finding| finding.fatal);
        let fault = |finding: Finding| {
            let Finding { key, what, write, .. } = finding;
            Fault { line: 0, column: 0, key, what, expected: "what fits this machine".to_owned(), write }
        };
        Verdict { file, ok: fatal.is_empty(), problems: fatal.into_iter().map(fault).collect(), warnings }
    }

    /// The warnings, for people.
    pub fn warnings_text(&self) -> String {
        let warning = |one: &Finding| format!("warning: {}: {}\n  write:    {}\n", one.key, one.what, one.write);
        self.warnings.iter().map(warning).collect()
    }

    /// The problems of a file that is good in itself, for people.
    pub fn problems_text(&self) -> String {
        let fault = |one: &Fault| format!("{}: {}: {}\n  write:    {}\n", self.file, one.key, one.what, one.write);
        self.problems.iter().map(fault).collect()
    }
}
