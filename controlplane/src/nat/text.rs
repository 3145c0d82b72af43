//! What `adit nat` tells people: what was found out, what it means, and what to do where something could not be.

use std::fmt::Write;
use std::time::Duration;

use adit_engine::stun::discovery::{
    Advice, Allocation, Class, Effort, Filtering, Gap, Mapping, Method, Peer, Portal, Report, Udp, advice,
};
use adit_engine::stun::lifetime::{Found, Why};

use super::Network;
use super::document::{effort, method};

/// All of it.
pub(super) fn report(networks: &[Network], missing: &[String]) -> String {
    let mut text = String::new();
    for network in networks {
        of_network(&mut text, network);
    }
    for why in missing {
        line(&mut text, "not asked", why);
    }
    text
}

/// What was measured over time.
pub(super) fn lifetimes(networks: &[Network]) -> String {
    let mut text = String::new();
    for network in networks.iter().filter(|network| network.report.udp == Udp::Passes) {
        let found = match network.lifetime {
            Some(Found::Between(least, most)) => {
                format!("a mapping lives {} to {} without a packet", seconds(least), seconds(most))
            }
            Some(Found::AtLeast(least)) => format!("a mapping lives {} and more without a packet", seconds(least)),
            Some(Found::Unknown(Why::NoAnswer)) => "not known: the server has stopped answering".to_owned(),
            Some(Found::Unknown(Why::NoResponsePort)) | None => {
                "not known: no server answers to another port (RESPONSE-PORT, RFC 5780): name one that does, such as coturn"
                    .to_owned()
            }
        };
        let _ = writeln!(text, "{}: {found}", version(&network.report));
    }
    text
}

fn seconds(time: Duration) -> String {
    let tenths = (time.as_secs_f64() * 10.0).round() / 10.0;
    format!("{tenths} s")
}

fn version(report: &Report) -> &'static str {
    if report.local.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn line(text: &mut String, name: &str, what: &str) {
    let _ = writeln!(text, "  {name:<10} {what}");
}

fn of_network(text: &mut String, network: &Network) {
    let report = &network.report;
    let _ = writeln!(text, "{}: {}", version(report), headline(report));
    if report.udp == Udp::Passes && !report.public.is_empty() {
        let public: Vec<String> = report.public.iter().map(ToString::to_string).collect();
        line(text, "seen as", &format!("{}, here {}", public.join(" and "), report.local));
        line(text, "mapping", mapping(report.mapping));
        line(text, "filtering", filtering(report.filtering));
        if let Some(allocation) = report.allocation {
            line(text, "ports", &ports(allocation));
        }
        if report.mapping != Mapping::NoNat {
            line(
                text,
                "hairpin",
                match report.hairpin {
                    Some(true) => "yes: who is behind it, too, reaches us at the outer address",
                    Some(false) => "no: who is behind it, too, must use the inner address",
                    None => "not known",
                },
            );
        }
    } else if report.udp != Udp::Passes {
        line(text, "here", &report.local.to_string());
    }
    for asked in &report.servers {
        let rtt =
            asked.rtt.map_or("no answer by UDP".to_owned(), |rtt| format!("answers in {:.1} ms", rtt.as_secs_f64() * 1000.0));
        let other = asked.other.map_or(String::new(), |other| format!(", second address {other}"));
        line(text, "server", &format!("{} {rtt}{other}", asked.server));
    }
    meaning(text, &advice(report));
    for gap in &report.gaps {
        line(text, "not known", because(*gap));
    }
    if let Some(unsent) = &network.unsent {
        line(text, "not sent", unsent);
    }
    if let Some(remedy) = remedy(report) {
        line(text, "to do", &remedy);
    }
    let lost = if report.lost > 0 { format!(", {} of {} questions lost", report.lost, report.questions) } else { String::new() };
    line(text, "took", &format!("{:.2} s{lost}", report.took.as_secs_f64()));
}

fn headline(report: &Report) -> &'static str {
    match (report.class(), report.udp, &report.portal) {
        (_, Udp::Silent, Some(_)) => "no UDP, and somebody else answers in the server's place: perhaps a captive portal",
        (_, Udp::Silent, None) => "no server answers, neither by UDP nor by TCP",
        (Class::UdpBlocked, ..) => "UDP is blocked: the server answers by TCP only",
        (Class::Open, ..) => "open: no NAT, and everybody is let in",
        (Class::Firewall, ..) => "no NAT, but a firewall that keeps state",
        (Class::NoNat, ..) => "no NAT; whether there is a firewall is not known",
        (Class::FullCone, ..) => "full cone NAT",
        (Class::RestrictedCone, ..) => "restricted cone NAT",
        (Class::PortRestrictedCone, ..) => "port restricted cone NAT",
        (Class::Cone, ..) => "cone NAT; whom it lets in is not known",
        (Class::Symmetric, ..) => "symmetric NAT",
        (Class::Unknown, ..) => "not known what kind of NAT",
    }
}

fn mapping(mapping: Mapping) -> &'static str {
    match mapping {
        Mapping::NoNat => "none: we are seen as we are",
        Mapping::EndpointIndependent => "endpoint-independent: one port outside, whomever we send to",
        Mapping::AddressDependent => "address-dependent: another port outside for each address that we send to",
        Mapping::AddressAndPortDependent => {
            "address-and-port-dependent: another port outside for each address and port that we send to"
        }
        Mapping::Dependent => "dependent on the address that we send to, perhaps on its port, too",
        Mapping::Unknown => "not known",
    }
}

fn filtering(filtering: Filtering) -> &'static str {
    match filtering {
        Filtering::EndpointIndependent => "endpoint-independent: everybody is let in",
        Filtering::AddressDependent => "address-dependent: addresses that we have sent to are let in, from any port",
        Filtering::AddressAndPortDependent => {
            "address-and-port-dependent: only what we have sent to is let in, from that very port"
        }
        Filtering::Unknown => "not known",
    }
}

fn ports(allocation: Allocation) -> String {
    match allocation {
        Allocation::Preserving => "preserving: the same outside as inside".to_owned(),
        Allocation::Step(step) => format!("in steps of {step:+}: the next one can be told"),
        Allocation::Random => "random".to_owned(),
        Allocation::Unknown => "not known".to_owned(),
    }
}

fn meaning(text: &mut String, advice: &Advice) {
    let hard = match advice.effort {
        Effort::Easy => "from behind every NAT whose port can be told",
        Effort::Moderate => "a peer behind a symmetric NAT costs hundreds of packets",
        Effort::Hard => "a peer with a filter costs hundreds of packets, and another symmetric NAT leaves little but a relay",
        Effort::Blocked => "not by UDP",
        Effort::Unknown => "cannot be told",
    };
    line(text, "punching", &format!("{}: {hard}", effort(advice.effort)));
    let methods: Vec<&str> = advice.methods.iter().copied().map(method).collect();
    line(text, "  methods", &methods.join(", "));
    let kind = |peer: Peer| match peer {
        Peer::Open => "open, full cone",
        Peer::Restricted => "restricted cone",
        Peer::PortRestricted => "port restricted cone, firewall",
        Peer::Symmetric => "symmetric",
    };
    let mut towards: Vec<(Vec<&str>, Method)> = Vec::new();
    for (peer, way) in &advice.towards {
        match towards.last_mut().filter(|(_, last)| last == way) {
            Some((kinds, _)) => kinds.push(kind(*peer)),
            None => towards.push((vec![kind(*peer)], *way)),
        }
    }
    for (kinds, way) in towards {
        let kinds = if kinds.len() == Peer::ALL.len() { "everybody".to_owned() } else { kinds.join(", ") };
        line(text, "  towards", &format!("{kinds}: {}", method(way)));
    }
}

fn because(gap: Gap) -> &'static str {
    match gap {
        Gap::Refused => "a server refuses to tell: it wants a login, which STUN needs nowhere; name another one",
        Gap::ServerInside => {
            "one of the servers is on this side of the NAT and sees this machine as it is: what it sees was left out; name one outside"
        }
        Gap::OneAddress => {
            "mapping: only one address has answered; name a second server, or one with two addresses (RFC 5780), such as coturn with two \
             listening-ip"
        }
        Gap::NoChange => {
            "filtering: no server answers from a second address when asked to; name one with two addresses (RFC 5780), such as coturn with \
             two listening-ip"
        }
        Gap::OtherAddressUseless => {
            "the second address that a server names leads nowhere from here: it is set up wrongly, name another one"
        }
        Gap::OtherAddressSilent => {
            "the second address of a server does not answer: it is set up wrongly, or filtered on the way; name another one"
        }
        Gap::Loss => "filtering: so many packets are lost that silence says nothing; try again",
    }
}

fn remedy(report: &Report) -> Option<String> {
    match (report.udp, &report.portal) {
        (Udp::Passes, _) => None,
        (_, Some(Portal::SendsElsewhere(host))) => {
            Some(format!("log in to this network with a browser (it leads to {host}), then try again"))
        }
        (_, Some(Portal::LoginWanted)) => Some("log in to this network with a browser, then try again".to_owned()),
        (_, Some(Portal::AtStunPort)) => {
            Some("log in to this network with a browser, or name the port of STUN: this one speaks HTTP or TLS".to_owned())
        }
        (Udp::Blocked, None) => Some("let UDP out of this network, or count on TCP and a relay".to_owned()),
        (Udp::Silent, None) => {
            Some("see whether the servers run and this network leads to them (ping, curl), or name another one".to_owned())
        }
    }
}
