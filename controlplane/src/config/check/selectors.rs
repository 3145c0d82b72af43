//! IP mode: the selectors of the peers, and what belongs to Ethernet alone.

use std::collections::BTreeMap;
use std::net::IpAddr;

use adit_engine::identity::Pattern;
use adit_proto::control::{Mode, Selector};
use adit_proto::ike::{AddressRange, PortRange};
use adit_proto::limits::{SELECTOR_OVERLAPS_MAX, SELECTORS_OF_CONFIG_MAX};
use ipnet::IpNet;

use super::Check;
use crate::config::Peer;
use crate::config::problem::Place;
use crate::config::raw::{self, Spanned, Text};
use crate::limits::SELECTORS_ALL_MAX;

/// Protocols by name.
pub const PROTOCOLS: [(&str, u8); 7] =
    [("any", 0), ("icmp", 1), ("tcp", 6), ("udp", 17), ("gre", 47), ("icmpv6", 58), ("sctp", 132)];
/// Those with ports.
const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];
const EXAMPLE: &str = "selectors: [{ local: 10.1.0.0/24, remote: 10.2.0.0/24 }]";

/// The name of a peer, one of its selectors, and where that stands.
pub(super) type Placed = (String, Selector, Place);

impl Check<'_> {
    /// What makes no sense without Ethernet frames.
    pub(super) fn ethernet_only(&mut self, root: &raw::Root) {
        let interface = root.interface.as_ref().map(|interface| &interface.value);
        let keys = [
            ("bridge", interface.and_then(|interface| interface.bridge.as_ref())),
            ("mac", interface.and_then(|interface| interface.mac.as_ref())),
            ("ageing_s", root.forwarding.as_ref().and_then(|forwarding| forwarding.ageing_s.as_ref())),
            ("max_entries", root.forwarding.as_ref().and_then(|forwarding| forwarding.max_entries.as_ref())),
            ("flood_pps", root.forwarding.as_ref().and_then(|forwarding| forwarding.flood_pps.as_ref())),
        ];
        let pin = root.forwarding.as_ref().and_then(|forwarding| forwarding.pinned.as_ref()?.first());
        let forward = root.forwarding.as_ref().and_then(|forwarding| forwarding.forward.as_ref());
        let places = keys.into_iter().filter_map(|(key, text)| Some((key, text?.at)));
        let others = pin.map(|pin| ("static", pin.at)).into_iter().chain(forward.map(|forward| ("forward", forward.at)));
        let all: Vec<_> = places.chain(others).collect();
        for (key, at) in all {
            let what = format!("`{key}` is about Ethernet frames, and with `mode: ip` there are none");
            let expected = "only keys that concern IP packets".to_owned();
            self.fail(at, what, expected, format!("nothing: remove `{key}`, or mode: ethernet"));
        }
    }

    /// What only one of the two modes knows of a peer.
    pub(super) fn peer_mode(&mut self, mode: Mode, raw: &raw::Peer, at: Place) {
        match (mode, &raw.selectors) {
            (Mode::Ethernet, Some(selectors)) => {
                let what = "the peer has selectors, and this gateway carries Ethernet frames".to_owned();
                let write = "mode: ip, at the top of the file; or nothing: remove selectors".to_owned();
                self.fail(selectors.at, what, "selectors only with `mode: ip`".to_owned(), write);
            }
            (Mode::Ip, selectors) if selectors.as_ref().is_none_or(|list| list.value.is_empty()) => {
                self.missing(at, "selectors", "which packets belong to this peer", EXAMPLE);
            }
            _ => {}
        }
        let Mode::Ip = mode else { return };
        if let Some(defer) = raw.defer_checksums.as_ref().filter(|defer| defer.value) {
            let what = "checksums cannot stay open: an IP packet in ESP has no place to say so".to_owned();
            let write = "nothing: remove defer_checksums".to_owned();
            self.fail(defer.at, what, "nothing, or false, with `mode: ip`".to_owned(), write);
        }
    }

    /// The selectors of one peer.
    pub(super) fn selectors(&mut self, peer: &str, raw: Vec<Spanned<raw::Selector>>) -> Vec<Selector> {
        if let Some(extra) = raw.get(SELECTORS_OF_CONFIG_MAX) {
            let (what, expected) =
                (format!("{} selectors are listed", raw.len()), format!("at most {SELECTORS_OF_CONFIG_MAX} of a peer"));
            self.fail(extra.at, what, expected, "larger networks, or a second gateway".to_owned());
        }
        let mut list: Vec<Selector> = Vec::new();
        for one in raw.into_iter().take(SELECTORS_OF_CONFIG_MAX) {
            let at = one.at;
            let Some(selector) = self.selector(one.value, at) else { continue };
            if list.contains(&selector) {
                let what = format!("the selector {selector} is given twice");
                self.fail(at, what, "every selector once".to_owned(), "nothing: remove one of the two".to_owned());
                continue;
            }
            list.push(selector);
            self.selectors.push((peer.to_owned(), selector, at));
        }
        list
    }

    fn selector(&mut self, raw: raw::Selector, at: Place) -> Option<Selector> {
        let expected = "the network on this side, or 0.0.0.0/0 or ::/0 for every address";
        let local = self.required(raw.local, at, "local", expected, "local: 10.1.0.0/24");
        let expected = "the network on the peer's side";
        let remote = self.required(raw.remote, at, "remote", expected, "remote: 10.2.0.0/24");
        let remote_at = remote.as_ref().map(|text| text.at);
        let local = local.and_then(|text| self.network("local", &text, "10.1.0.0/24"));
        let remote = remote.and_then(|text| self.network("remote", &text, "10.2.0.0/24"));
        let (protocol_at, ports_at) = (raw.protocol.is_some(), raw.local_ports.as_ref().or(raw.remote_ports.as_ref()));
        let ports_at = ports_at.map(|text| text.at);
        let protocol = raw.protocol.map_or(0, |text| self.protocol(&text));
        let local_ports = self.ports("local_ports", raw.local_ports);
        let remote_ports = self.ports("remote_ports", raw.remote_ports);
        if let Some(at) = ports_at.filter(|_| !WITH_PORTS.contains(&protocol)) {
            let what = if protocol_at { "this protocol has no ports" } else { "there are ports but no protocol" };
            let expected = "ports with protocol tcp, udp or sctp".to_owned();
            self.fail(at, what.to_owned(), expected, "protocol: tcp, beside the ports".to_owned());
        }
        let (local, remote) = (local?, remote?);
        if local.addr().is_ipv4() != remote.addr().is_ipv4() {
            let what = format!("`local` {local} and `remote` {remote} are of different IP versions");
            let write = if local.addr().is_ipv4() { "remote: 10.2.0.0/24" } else { "remote: \"fd00:2::/64\"" };
            let at = remote_at.unwrap_or(at);
            self.fail(at, what, "both IPv4 or both IPv6; a selector for each".to_owned(), write.to_owned());
            return None;
        }
        Some(Selector { local: range(&local), remote: range(&remote), protocol, local_ports, remote_ports })
    }

    /// A network, or one address.
    pub(super) fn network(&mut self, key: &str, text: &Text, example: &str) -> Option<IpNet> {
        if let Ok(host) = text.value.parse::<IpAddr>() {
            return Some(IpNet::from(host));
        }
        let net: IpNet =
            self.parsed(text, "a network", "an IPv4 or IPv6 address and a prefix length", &format!("{key}: {example}"))?;
        if net.trunc() != net {
            let what = format!("`{net}` is an address inside of a network");
            let expected = "a network: the bits behind the prefix are zero".to_owned();
            self.fail(text.at, what, expected, format!("{key}: {}", net.trunc()));
        }
        Some(net.trunc())
    }

    fn protocol(&mut self, text: &Text) -> u8 {
        let named = PROTOCOLS.iter().find(|(name, _)| *name == text.value).map(|(_, number)| *number);
        if let Some(number) = named.or_else(|| text.value.parse().ok()) {
            return number;
        }
        let names = PROTOCOLS.map(|(name, _)| name);
        let guess = crate::config::problem::nearest(&text.value, &names).unwrap_or("tcp");
        let what = format!("`{}` is no protocol", text.value);
        let expected = format!("{}, or a protocol number up to 255", names.join(", "));
        self.fail(text.at, what, expected, format!("protocol: {guess}"));
        0
    }

    /// `443` or `1000-2000`.
    fn ports(&mut self, key: &str, text: Option<Text>) -> PortRange {
        let Some(text) = text else { return PortRange::ANY };
        let (first, last) = text.value.split_once('-').unwrap_or((&text.value, &text.value));
        if let (Ok(first), Ok(last)) = (first.trim().parse(), last.trim().parse())
            && first <= last
        {
            return PortRange { first, last };
        }
        let what = format!("`{}` is neither a port nor a range of ports", text.value);
        let expected = "a port from 0 to 65535, or two, the lower one first, with `-` between them".to_owned();
        self.fail(text.at, what, expected, format!("{key}: 1000-2000"));
        PortRange::ANY
    }

    /// What the selectors of all peers must not do together.
    pub(super) fn judge_selectors(&mut self, peers: &[(Peer, Place)]) {
        let selectors = std::mem::take(&mut self.selectors);
        if let Some((.., at)) = selectors.get(SELECTORS_ALL_MAX) {
            let what = format!("all peers together have {} selectors", selectors.len());
            let expected = format!("at most {SELECTORS_ALL_MAX}: the data plane's table has room for twice as many");
            self.fail(*at, what, expected, "larger networks, or some peers in a second gateway".to_owned());
        }
        // Clients of one pattern may share their networks: the first that is connected with a part of it has that part.
        let patterns: BTreeMap<&str, &Pattern> = peers
            .iter()
            .filter_map(|(peer, _)| Some((peer.name.as_str(), &peer.ike()?.id)))
            .filter(|(_, id)| id.exact().is_none())
            .collect();
        let share = |one: &str, other: &str| patterns.get(one).is_some_and(|pattern| patterns.get(other) == Some(pattern));
        let mut by_remote: BTreeMap<(IpAddr, IpAddr), Vec<&Placed>> = BTreeMap::new();
        for entry in &selectors {
            let (_, selector, at) = entry;
            let same = by_remote.entry((selector.remote.first(), selector.remote.last())).or_default();
            let conflict = |(peer, theirs, _): &&&Placed| *peer != entry.0 && meet(theirs, selector) && !share(peer, &entry.0);
            if let Some((other, theirs, first)) = same.iter().find(conflict) {
                self.fail(
                    *at,
                    format!("the peers `{other}` (line {}) and `{}` both have packets to {}", first.line, entry.0, theirs.remote),
                    "every remote network at one peer, or selectors that differ in `local`, protocol or ports, or peers with the same \
                     pattern as `ike.id`; of two networks that lie in each other the smaller one holds"
                        .to_owned(),
                    "remote: another network, or remove one of the two".to_owned(),
                );
            }
            same.push(entry);
        }
        self.too_many_overlap(selectors);
    }

    /// An address to which too many selectors lead. The networks lie in each other or apart, so those around one are a stack.
    fn too_many_overlap(&mut self, mut selectors: Vec<Placed>) {
        selectors.sort_by_key(|(_, selector, _)| (selector.remote.first(), std::cmp::Reverse(selector.remote.last())));
        let mut around: Vec<IpAddr> = Vec::new();
        for (_, selector, at) in selectors {
            while around.last().is_some_and(|last| *last < selector.remote.first()) {
                around.pop();
            }
            around.push(selector.remote.last());
            if around.len() > usize::from(SELECTOR_OVERLAPS_MAX) {
                let what = format!("more than {SELECTOR_OVERLAPS_MAX} selectors lead to {}", selector.remote);
                let expected = format!("at most {SELECTOR_OVERLAPS_MAX} that have a remote address in common");
                self.fail(at, what, expected, "fewer selectors, with ranges of ports instead of single ones".to_owned());
                return;
            }
        }
    }
}

fn range(net: &IpNet) -> AddressRange {
    match net {
        IpNet::V4(net) => AddressRange::V4 { first: net.network(), last: net.broadcast() },
        IpNet::V6(net) => AddressRange::V6 { first: net.network(), last: net.broadcast() },
    }
}

/// Whether a packet can be in both, which have the same remote addresses.
fn meet(a: &Selector, b: &Selector) -> bool {
    let ports = |a: PortRange, b: PortRange| a.first <= b.last && b.first <= a.last;
    let local = a.local.first() <= b.local.last() && b.local.first() <= a.local.last();
    let protocol = a.protocol == 0 || b.protocol == 0 || a.protocol == b.protocol;
    local && protocol && ports(a.local_ports, b.local_ports) && ports(a.remote_ports, b.remote_ports)
}
