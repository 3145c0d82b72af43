//! What `adit nat --json` prints. Its keys and words are a promise; `docs/nat.md` describes them.

use std::time::Duration;

use adit_engine::stun::discovery::{
    Allocation, Class, Effort, Filtering, Gap, Mapping, Method, Peer, Portal, Report, Udp, advice,
};
use adit_engine::stun::lifetime::{Found, Why};
use serde::Serialize;

use super::Network;

/// All of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Document {
    networks: Vec<OfNetwork>,
    missing: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct OfNetwork {
    ip_version: u8,
    class: &'static str,
    udp: &'static str,
    portal: Option<OfPortal>,
    local: String,
    public: Vec<String>,
    mapping: &'static str,
    filtering: &'static str,
    ports: Option<Ports>,
    hairpin: Option<bool>,
    lifetime: Option<Lifetime>,
    punching: Punching,
    servers: Vec<Server>,
    unknown_because: Vec<&'static str>,
    questions: u32,
    lost: u32,
    took_ms: u64,
    unsent: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct OfPortal {
    kind: &'static str,
    host: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Ports {
    rule: &'static str,
    step: Option<i32>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Lifetime {
    at_least_s: Option<f64>,
    at_most_s: Option<f64>,
    unknown_because: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Punching {
    effort: &'static str,
    methods: Vec<&'static str>,
    towards: Option<Towards>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Towards {
    open: &'static str,
    restricted: &'static str,
    port_restricted: &'static str,
    symmetric: &'static str,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Server {
    address: String,
    rtt_ms: Option<f64>,
    second_address: Option<String>,
}

impl Document {
    pub(super) fn of(networks: &[Network], missing: &[String]) -> Document {
        Document { networks: networks.iter().map(OfNetwork::of).collect(), missing: missing.to_vec() }
    }
}

impl OfNetwork {
    fn of(network: &Network) -> OfNetwork {
        let report = &network.report;
        let ports = |allocation: Allocation| match allocation {
            Allocation::Preserving => Ports { rule: "preserving", step: None },
            Allocation::Step(step) => Ports { rule: "step", step: Some(step) },
            Allocation::Random => Ports { rule: "random", step: None },
            Allocation::Unknown => Ports { rule: "unknown", step: None },
        };
        let server = |asked: &adit_engine::stun::discovery::Asked| Server {
            address: asked.server.to_string(),
            rtt_ms: asked.rtt.map(milliseconds),
            second_address: asked.other.map(|other| other.to_string()),
        };
        OfNetwork {
            ip_version: if report.local.is_ipv4() { 4 } else { 6 },
            class: class(report.class()),
            udp: match report.udp {
                Udp::Passes => "passes",
                Udp::Blocked => "blocked",
                Udp::Silent => "silent",
            },
            portal: report.portal.as_ref().map(portal),
            local: report.local.to_string(),
            public: report.public.iter().map(ToString::to_string).collect(),
            mapping: mapping(report.mapping),
            filtering: filtering(report.filtering),
            ports: report.allocation.map(ports),
            hairpin: report.hairpin,
            lifetime: network.lifetime.map(lifetime),
            punching: punching(report),
            servers: report.servers.iter().map(server).collect(),
            unknown_because: report.gaps.iter().copied().map(gap).collect(),
            questions: report.questions,
            lost: report.lost,
            took_ms: u64::try_from(report.took.as_millis()).unwrap_or(u64::MAX),
            unsent: network.unsent.clone(),
        }
    }
}

/// With a place after the point.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

fn class(class: Class) -> &'static str {
    match class {
        Class::Open => "open",
        Class::Firewall => "firewall",
        Class::NoNat => "no_nat",
        Class::FullCone => "full_cone",
        Class::RestrictedCone => "restricted_cone",
        Class::PortRestrictedCone => "port_restricted_cone",
        Class::Cone => "cone",
        Class::Symmetric => "symmetric",
        Class::UdpBlocked => "udp_blocked",
        Class::Unknown => "unknown",
    }
}

fn mapping(mapping: Mapping) -> &'static str {
    match mapping {
        Mapping::NoNat => "no_nat",
        Mapping::EndpointIndependent => "endpoint_independent",
        Mapping::AddressDependent => "address_dependent",
        Mapping::AddressAndPortDependent => "address_and_port_dependent",
        Mapping::Dependent => "dependent",
        Mapping::Unknown => "unknown",
    }
}

fn filtering(filtering: Filtering) -> &'static str {
    match filtering {
        Filtering::EndpointIndependent => "endpoint_independent",
        Filtering::AddressDependent => "address_dependent",
        Filtering::AddressAndPortDependent => "address_and_port_dependent",
        Filtering::Unknown => "unknown",
    }
}

fn portal(portal: &Portal) -> OfPortal {
    let (kind, host) = match portal {
        Portal::AtStunPort => ("at_stun_port", None),
        Portal::SendsElsewhere(host) => ("sends_elsewhere", Some(host.clone())),
        Portal::LoginWanted => ("login_wanted", None),
    };
    OfPortal { kind, host }
}

fn gap(gap: Gap) -> &'static str {
    match gap {
        Gap::Refused => "refused",
        Gap::ServerInside => "server_inside",
        Gap::OneAddress => "one_address",
        Gap::NoChange => "no_change",
        Gap::OtherAddressUseless => "second_address_useless",
        Gap::OtherAddressSilent => "second_address_silent",
        Gap::Loss => "loss",
    }
}

fn lifetime(found: Found) -> Lifetime {
    let (least, most, why) = match found {
        Found::Between(least, most) => (Some(least), Some(most), None),
        Found::AtLeast(least) => (Some(least), None, None),
        Found::Unknown(Why::NoAnswer) => (None, None, Some("no_answer")),
        Found::Unknown(Why::NoResponsePort) => (None, None, Some("no_response_port")),
    };
    Lifetime {
        at_least_s: least.map(|time| time.as_secs_f64()),
        at_most_s: most.map(|time| time.as_secs_f64()),
        unknown_because: why,
    }
}

pub(super) fn method(method: Method) -> &'static str {
    match method {
        Method::Direct => "direct",
        Method::Simultaneous => "udp-punch",
        Method::Prediction => "predicted",
        Method::Birthday => "birthday",
        Method::Tcp => "tcp",
        Method::Relay => "relay",
    }
}

pub(super) fn effort(effort: Effort) -> &'static str {
    match effort {
        Effort::Easy => "easy",
        Effort::Moderate => "moderate",
        Effort::Hard => "hard",
        Effort::Blocked => "blocked",
        Effort::Unknown => "unknown",
    }
}

fn punching(report: &Report) -> Punching {
    let advice = advice(report);
    let mut towards = Towards::default();
    for (peer, way) in &advice.towards {
        let place = match peer {
            Peer::Open => &mut towards.open,
            Peer::Restricted => &mut towards.restricted,
            Peer::PortRestricted => &mut towards.port_restricted,
            Peer::Symmetric => &mut towards.symmetric,
        };
        *place = method(*way);
    }
    Punching {
        effort: effort(advice.effort),
        methods: advice.methods.iter().copied().map(method).collect(),
        towards: (!advice.towards.is_empty()).then_some(towards),
    }
}

#[cfg(test)]
mod tests {
    use adit_engine::stun::discovery::Asked;

    use super::*;

    fn network() -> Network {
        let server = Asked {
            server: "198.51.100.1:3478".parse().unwrap(),
            rtt: Some(Duration::from_micros(12_345)),
            other: Some("198.51.100.2:3479".parse().unwrap()),
        };
        let report = Report {
            local: "10.1.0.2:41641".parse().unwrap(),
            public: vec!["203.0.113.10:1030".parse().unwrap()],
            servers: vec![server],
            udp: Udp::Passes,
            portal: Some(Portal::SendsElsewhere("login.example".to_owned())),
            mapping: Mapping::AddressAndPortDependent,
            filtering: Filtering::AddressAndPortDependent,
            allocation: Some(Allocation::Step(-2)),
            hairpin: None,
            gaps: vec![Gap::Loss],
            questions: 12,
            lost: 3,
            took: Duration::from_millis(812),
        };
        let lifetime = Some(Found::Between(Duration::from_secs(26), Duration::from_millis(28_500)));
        Network { report, lifetime, unsent: Some("a packet was not sent".to_owned()) }
    }

    fn keys(value: &serde_json::Value, path: &str, list: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(map) => {
                for (key, value) in map {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    list.push(path.clone());
                    keys(value, &path, list);
                }
            }
            serde_json::Value::Array(items) => items.iter().for_each(|item| keys(item, path, list)),
            _ => {}
        }
    }

    #[test]
    fn the_manual_names_every_key_of_the_document() {
        let manual = include_str!("../../../docs/nat.md");
        let document = serde_json::to_value(Document::of(&[network()], &["why".to_owned()])).unwrap();
        let mut list = Vec::new();
        keys(&document, "", &mut list);
        assert!(list.len() > 30, "{list:?}");
        for key in list {
            let key = key.trim_start_matches("networks.");
            // An object whose keys are named needs no line of its own.
            assert!(
                manual.contains(&format!("`{key}`")) || manual.contains(&format!("`{key}.")),
                "`{key}` is not in docs/nat.md"
            );
        }
    }

    #[test]
    fn the_words_of_the_document_are_a_promise() {
        let document = serde_json::to_value(Document::of(&[network()], &[])).unwrap();
        let of = &document["networks"][0];
        assert_eq!(
            (&of["class"], &of["udp"], &of["mapping"]),
            (&"symmetric".into(), &"passes".into(), &"address_and_port_dependent".into())
        );
        assert_eq!(of["ports"], serde_json::json!({ "rule": "step", "step": -2 }));
        assert_eq!(of["lifetime"], serde_json::json!({ "at_least_s": 26.0, "at_most_s": 28.5, "unknown_because": null }));
        assert_eq!(of["servers"][0]["rtt_ms"], 12.3);
        let towards = serde_json::json!({
            "open": "direct", "restricted": "udp-punch", "port_restricted": "predicted", "symmetric": "predicted"
        });
        assert_eq!(of["punching"]["towards"], towards);
        assert_eq!(of["unknown_because"], serde_json::json!(["loss"]));
    }
}
