//! What a NAT means for who wants to reach us through it: the ways that it leaves, in the order in which to try them, and how hard it is.

use super::facts::{Allocation, Class, Filtering, Mapping, Report, Udp};

/// A way to a peer, from the cheapest to the dearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// One end sends to where the other is seen, and is answered.
    Direct,
    /// Both send at about the same time, each to where the other is seen.
    Simultaneous,
    /// The same, with a port that is the next one by the rule of the NAT.
    Prediction,
    /// One end opens many ports, the other sends to many: some pair meets.
    Birthday,
    /// TCP to a peer that can be reached, or from both ends at once.
    Tcp,
    /// Through a relay.
    Relay,
}

/// How hard it is to be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effort {
    /// From behind every NAT whose port can be told.
    Easy,
    /// A peer behind a symmetric NAT costs hundreds of packets.
    Moderate,
    /// Most peers behind a filter cost so much, too; behind another symmetric NAT there is little hope.
    Hard,
    /// No UDP.
    Blocked,
    Unknown,
}

/// What a peer may be behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Open, or a full cone.
    Open,
    Restricted,
    /// A port restricted cone, or a firewall.
    PortRestricted,
    Symmetric,
}

impl Peer {
    pub const ALL: [Peer; 4] = [Peer::Open, Peer::Restricted, Peer::PortRestricted, Peer::Symmetric];
}

/// What a report means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    pub effort: Effort,
    /// All methods that may be needed, in order, towards whomever.
    pub methods: Vec<Method>,
    /// The first that works towards each kind of peer.
    pub towards: Vec<(Peer, Method)>,
}

/// What the NAT of a report means. An unknown filter counts as the strictest.
pub fn advice(report: &Report) -> Advice {
    // How a NAT maps that nobody has seen from two places is not known, and nothing is promised.
    let is_known = report.mapping != Mapping::Unknown;
    let towards: Vec<_> = match report.udp {
        Udp::Passes if is_known => Peer::ALL.map(|peer| (peer, method(report, peer))).into_iter().collect(),
        Udp::Passes | Udp::Blocked | Udp::Silent => Vec::new(),
    };
    let mut methods: Vec<Method> = towards.iter().map(|(_, method)| *method).collect();
    if report.udp == Udp::Passes && !is_known {
        methods.extend([Method::Direct, Method::Simultaneous]);
    }
    methods.extend([Method::Tcp, Method::Relay]);
    methods.sort_unstable();
    methods.dedup();
    Advice { effort: effort(report), methods, towards }
}

fn effort(report: &Report) -> Effort {
    match (report.udp, report.class(), report.filtering) {
        (Udp::Blocked, ..) => Effort::Blocked,
        (Udp::Silent, ..) | (_, Class::Unknown | Class::UdpBlocked, _) => Effort::Unknown,
        (_, Class::Symmetric, _) => Effort::Hard,
        (_, _, Filtering::EndpointIndependent | Filtering::AddressDependent) => Effort::Easy,
        (_, _, Filtering::AddressAndPortDependent | Filtering::Unknown) => Effort::Moderate,
    }
}

fn method(report: &Report, peer: Peer) -> Method {
    let keeps_port = matches!(report.mapping, Mapping::NoNat | Mapping::EndpointIndependent);
    // Our next port is known if there is a rule by which it is given.
    let predictable = matches!(report.allocation, Some(Allocation::Step(_) | Allocation::Preserving));
    match (keeps_port, report.filtering, peer) {
        (_, _, Peer::Open) | (true, Filtering::EndpointIndependent, _) => Method::Direct,
        // Who filters by address does not mind from which port we come, and the other way round.
        (true, Filtering::AddressDependent, _) | (_, _, Peer::Restricted) | (true, _, Peer::PortRestricted) => {
            Method::Simultaneous
        }
        (true, _, Peer::Symmetric) => Method::Birthday,
        (false, _, Peer::PortRestricted | Peer::Symmetric) if predictable => Method::Prediction,
        (false, _, Peer::PortRestricted) => Method::Birthday,
        (false, _, Peer::Symmetric) => Method::Relay,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn report(mapping: Mapping, filtering: Filtering, allocation: Allocation) -> Report {
        Report {
            local: ([10, 0, 0, 2], 5000).into(),
            public: Vec::new(),
            servers: Vec::new(),
            udp: Udp::Passes,
            portal: None,
            mapping,
            filtering,
            allocation: Some(allocation),
            hairpin: None,
            gaps: Vec::new(),
            questions: 0,
            lost: 0,
            took: Duration::ZERO,
        }
    }

    fn towards(mapping: Mapping, filtering: Filtering, allocation: Allocation) -> (Effort, [Method; 4]) {
        let advice = advice(&report(mapping, filtering, allocation));
        (advice.effort, [0, 1, 2, 3].map(|place| advice.towards[place].1))
    }

    #[test]
    fn every_kind_of_nat_has_its_ways() {
        use Method::{Birthday, Direct, Prediction, Relay, Simultaneous};
        let (ei, ad, apd) = (Filtering::EndpointIndependent, Filtering::AddressDependent, Filtering::AddressAndPortDependent);
        let kept = Allocation::Preserving;
        for mapping in [Mapping::NoNat, Mapping::EndpointIndependent] {
            assert_eq!(towards(mapping, ei, kept), (Effort::Easy, [Direct; 4]));
            assert_eq!(towards(mapping, ad, kept), (Effort::Easy, [Direct, Simultaneous, Simultaneous, Simultaneous]));
            for filtering in [apd, Filtering::Unknown] {
                let ways = [Direct, Simultaneous, Simultaneous, Birthday];
                assert_eq!(towards(mapping, filtering, kept), (Effort::Moderate, ways));
            }
        }
        for mapping in [Mapping::AddressDependent, Mapping::AddressAndPortDependent, Mapping::Dependent] {
            for filtering in [ei, ad, apd] {
                let ways = [Direct, Simultaneous, Prediction, Prediction];
                assert_eq!(towards(mapping, filtering, Allocation::Step(-2)), (Effort::Hard, ways));
                let ways = [Direct, Simultaneous, Birthday, Relay];
                assert_eq!(towards(mapping, filtering, Allocation::Random), (Effort::Hard, ways));
            }
        }
        let unknown = advice(&report(Mapping::Unknown, apd, kept));
        assert_eq!((unknown.effort, unknown.towards), (Effort::Unknown, vec![]), "nothing is promised");
        assert_eq!(unknown.methods, [Direct, Simultaneous, Method::Tcp, Relay]);
    }

    #[test]
    fn without_udp_there_are_tcp_and_the_relay() {
        let blocked = Report { udp: Udp::Blocked, ..report(Mapping::Unknown, Filtering::Unknown, Allocation::Unknown) };
        let advice = advice(&blocked);
        assert_eq!((advice.effort, advice.towards.len()), (Effort::Blocked, 0));
        assert_eq!(advice.methods, [Method::Tcp, Method::Relay]);
    }

    #[test]
    fn methods_come_in_order_and_once() {
        let advice = advice(&report(Mapping::EndpointIndependent, Filtering::AddressAndPortDependent, Allocation::Preserving));
        let all = [Method::Direct, Method::Simultaneous, Method::Birthday, Method::Tcp, Method::Relay];
        assert_eq!(advice.methods, all);
    }
}
