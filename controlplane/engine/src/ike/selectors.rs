//! Traffic selectors as sets: what both ends want (RFC 7296 §2.9), and whether one covers another (§2.9.2).

use std::net::{Ipv4Addr, Ipv6Addr};

use adit_proto::control::Selector;
use adit_proto::ike::{AddressRange, IpSelector, PortRange, TrafficSelector};

use adit_proto::limits::SELECTORS_OF_CHILD_MAX;

/// EtherIP (RFC 3378), what a Child SA in Ethernet mode carries.
const ETHERIP: u8 = 97;

/// The selectors of both sides of a Child SA, ours first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SelectorPair {
    pub local: Vec<IpSelector>,
    pub remote: Vec<IpSelector>,
}

impl SelectorPair {
    /// What stands for Ethernet: EtherIP between any addresses.
    pub fn ethernet() -> SelectorPair {
        let side: Vec<IpSelector> = [AddressRange::ANY_V4, AddressRange::ANY_V6]
            .map(|addresses| IpSelector { protocol: ETHERIP, ports: PortRange::ANY, addresses })
            .into();
        SelectorPair { local: side.clone(), remote: side }
    }

    /// Whether both sides of `inner` are within this pair.
    pub fn covers(&self, inner: &SelectorPair) -> bool {
        covers(&self.local, &inner.local) && covers(&self.remote, &inner.remote)
    }

    /// Whether anything is in a pair of both.
    pub fn touches(&self, pair: &Selector) -> bool {
        let (local, remote) = sides_of(pair);
        let any = |side: &[IpSelector], one: &IpSelector| side.iter().any(|other| intersect(other, one).is_some());
        any(&self.local, &local) && any(&self.remote, &remote)
    }

    /// What both pairs allow; `None` if that is nothing on either side.
    pub fn narrow(&self, policy: &SelectorPair) -> Option<SelectorPair> {
        let pair = SelectorPair { local: narrow(&self.local, &policy.local), remote: narrow(&self.remote, &policy.remote) };
        (!pair.local.is_empty() && !pair.remote.is_empty()).then_some(pair)
    }
}

/// The two sides of a pair.
pub fn sides_of(pair: &Selector) -> (IpSelector, IpSelector) {
    let side = |addresses, ports| IpSelector { protocol: pair.protocol, ports, addresses };
    (side(pair.local, pair.local_ports), side(pair.remote, pair.remote_ports))
}

/// The pair that two sides are; `None` if nothing goes between them. A side that names a protocol speaks for both.
pub fn pair_of(local: &IpSelector, remote: &IpSelector) -> Option<Selector> {
    let protocol = match (local.protocol, remote.protocol) {
        (0, protocol) | (protocol, 0) => protocol,
        (one, other) if one == other => one,
        _ => return None,
    };
    let (local_ports, remote_ports) = (local.ports, remote.ports);
    let pair = Selector { local: local.addresses, remote: remote.addresses, protocol, local_ports, remote_ports };
    pair.is_valid().then_some(pair)
}

/// What both lists allow, in the order of the first, so that the initiator's first choice stays first (RFC 7296 §2.9).
pub fn narrow(offered: &[IpSelector], policy: &[IpSelector]) -> Vec<IpSelector> {
    let mut out: Vec<IpSelector> = Vec::new();
    for common in offered.iter().flat_map(|one| policy.iter().filter_map(|other| intersect(one, other))) {
        if out.len() == SELECTORS_OF_CHILD_MAX {
            break;
        }
        if !out.iter().any(|kept| intersect(kept, &common) == Some(common)) {
            out.push(common);
        }
    }
    out
}

/// The pairs of selectors that two agreed sides stand for, `most` of them: what is in both of them and in a configured pair. Both ends
/// agree on lists of local and of remote selectors, and the configuration on pairs of them.
pub fn between(configured: &[Selector], agreed: &SelectorPair, most: usize) -> Vec<Selector> {
    let mut pairs: Vec<Selector> = Vec::new();
    for ours in configured {
        let (local, remote) = sides_of(ours);
        let (local, remote) = (narrow(&agreed.local, &[local]), narrow(&agreed.remote, &[remote]));
        for pair in local.iter().flat_map(|local| remote.iter().filter_map(|remote| pair_of(local, remote))) {
            if pairs.len() >= most {
                return pairs;
            }
            if !pairs.contains(&pair) {
                pairs.push(pair);
            }
        }
    }
    pairs
}

/// Whether everything in `inner` is in some selector of `outer`.
pub fn covers(outer: &[IpSelector], inner: &[IpSelector]) -> bool {
    inner.iter().all(|one| outer.iter().any(|other| intersect(one, other) == Some(*one)))
}

/// The selectors of a payload that we know; RFC 7296 §2.9: the others are ignored.
pub fn known(selectors: &[TrafficSelector]) -> Vec<IpSelector> {
    selectors
        .iter()
        .filter_map(|selector| match selector {
            TrafficSelector::Ip(selector) => Some(*selector),
            TrafficSelector::Other { .. } => None,
        })
        .take(SELECTORS_OF_CHILD_MAX)
        .collect()
}

/// The selectors as a payload carries them.
pub fn to_wire(selectors: &[IpSelector]) -> Vec<TrafficSelector> {
    selectors.iter().copied().map(TrafficSelector::from).collect()
}

/// What both selectors match.
pub(super) fn intersect(one: &IpSelector, other: &IpSelector) -> Option<IpSelector> {
    let protocol = match (one.protocol, other.protocol) {
        (0, protocol) | (protocol, 0) => protocol,
        (one, other) if one == other => one,
        _ => return None,
    };
    Some(IpSelector {
        protocol,
        ports: intersect_ports(one.ports, other.ports)?,
        addresses: intersect_addresses(&one.addresses, &other.addresses)?,
    })
}

fn intersect_ports(one: PortRange, other: PortRange) -> Option<PortRange> {
    match (one, other) {
        (PortRange::OPAQUE, PortRange::ANY | PortRange::OPAQUE) | (PortRange::ANY, PortRange::OPAQUE) => Some(PortRange::OPAQUE),
        (PortRange::OPAQUE, _) | (_, PortRange::OPAQUE) => None,
        (one, other) => {
            let both = PortRange { first: one.first.max(other.first), last: one.last.min(other.last) };
            (both.first <= both.last).then_some(both)
        }
    }
}

fn intersect_addresses(one: &AddressRange, other: &AddressRange) -> Option<AddressRange> {
    match (one, other) {
        (AddressRange::V4 { first: a, last: b }, AddressRange::V4 { first: c, last: d }) => {
            let (first, last): (Ipv4Addr, Ipv4Addr) = (*a.max(c), *b.min(d));
            (first <= last).then_some(AddressRange::V4 { first, last })
        }
        (AddressRange::V6 { first: a, last: b }, AddressRange::V6 { first: c, last: d }) => {
            let (first, last): (Ipv6Addr, Ipv6Addr) = (*a.max(c), *b.min(d));
            (first <= last).then_some(AddressRange::V6 { first, last })
        }
        (AddressRange::V4 { .. }, AddressRange::V6 { .. }) | (AddressRange::V6 { .. }, AddressRange::V4 { .. }) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `10.0.0.0-10.0.0.255[6/80-90]`
    fn selector(text: &str) -> IpSelector {
        let (addresses, rest) = text.split_once('[').map_or((text, None), |(a, b)| (a, b.strip_suffix(']')));
        let (first, last) = addresses.split_once('-').unwrap_or((addresses, addresses));
        let (protocol, ports) = match rest.map(|rest| rest.split_once('/').unwrap_or((rest, "0-65535"))) {
            None => (0, PortRange::ANY),
            Some((protocol, "OPAQUE")) => (protocol.parse().unwrap(), PortRange::OPAQUE),
            Some((protocol, ports)) => {
                let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
                (protocol.parse().unwrap(), PortRange { first: first.parse().unwrap(), last: last.parse().unwrap() })
            }
        };
        let addresses = match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) => AddressRange::V4 { first, last },
            _ => AddressRange::V6 { first: first.parse().unwrap(), last: last.parse().unwrap() },
        };
        IpSelector { protocol, ports, addresses }
    }

    fn list(text: &str) -> Vec<IpSelector> {
        text.split_whitespace().map(selector).collect()
    }

    #[test]
    fn narrowing_keeps_what_both_ends_allow() {
        // offered, policy, result
        let table = [
            ("10.0.0.0-10.0.0.255", "10.0.0.0-10.0.0.255", "10.0.0.0-10.0.0.255"),
            ("0.0.0.0-255.255.255.255", "10.0.0.0-10.0.0.255 10.9.0.0-10.9.0.9", "10.0.0.0-10.0.0.255 10.9.0.0-10.9.0.9"),
            ("10.0.0.0-10.0.0.255", "10.0.0.128-10.0.1.255", "10.0.0.128-10.0.0.255"),
            ("10.0.0.0-10.0.0.255", "10.0.1.0-10.0.1.255", ""),
            ("10.0.0.0-10.0.0.255", "fe80::-fe80::ffff", ""),
            ("fe80::-fe80::ffff", "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fe80::-fe80::ffff"),
            ("10.0.0.7[6/80] 10.0.0.0-10.0.0.255", "10.0.0.0-10.0.0.255", "10.0.0.7[6/80] 10.0.0.0-10.0.0.255"),
            ("10.0.0.0-10.0.0.255 10.0.0.7[6/80]", "10.0.0.0-10.0.0.255", "10.0.0.0-10.0.0.255"),
            ("10.0.0.0-10.0.0.255[6]", "10.0.0.0-10.0.0.255[17]", ""),
            ("10.0.0.0-10.0.0.255[6/10-20]", "10.0.0.0-10.0.0.255[6/15-30]", "10.0.0.0-10.0.0.255[6/15-20]"),
            ("10.0.0.0-10.0.0.255[6/10-20]", "10.0.0.0-10.0.0.255[6/21-30]", ""),
            ("10.0.0.1[6/OPAQUE]", "10.0.0.1", "10.0.0.1[6/OPAQUE]"),
            ("10.0.0.1[6/OPAQUE]", "10.0.0.1[6/1-9]", ""),
        ];
        for (offered, policy, result) in table {
            assert_eq!(narrow(&list(offered), &list(policy)), list(result), "{offered} with {policy}");
        }
    }

    #[test]
    fn covering_is_within_one_selector() {
        assert!(covers(&list("10.0.0.0-10.0.0.255"), &list("10.0.0.3 10.0.0.4-10.0.0.9[6/80]")));
        assert!(!covers(&list("10.0.0.0-10.0.0.255[6]"), &list("10.0.0.3")));
        assert!(!covers(&list("10.0.0.0-10.0.0.255"), &list("10.0.0.3 10.0.1.4")));
        assert!(covers(&[], &[]));
        let ethernet = SelectorPair::ethernet();
        assert!(ethernet.covers(&ethernet));
        assert_eq!(ethernet.narrow(&ethernet), Some(ethernet.clone()));
        let tunnel = SelectorPair { local: list("10.0.0.0-10.0.0.255"), remote: list("10.0.1.0-10.0.1.255") };
        assert!(!tunnel.covers(&ethernet));
    }

    #[test]
    fn the_result_is_bounded() {
        let many: Vec<IpSelector> = (0..=255).map(|last| selector(&format!("10.0.{last}.1"))).collect();
        assert_eq!(narrow(&many, &[selector("0.0.0.0-255.255.255.255")]).len(), SELECTORS_OF_CHILD_MAX);
    }
}
