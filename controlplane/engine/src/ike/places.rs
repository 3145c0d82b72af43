//! Who has a place where there are as many sessions as there may be. Under a pattern one client can have as many names as it likes,
//! and so could have all places. There those who come share them by where they come from: whoever comes from a network that has fewer
//! than another one gets a place of that one, and within one network it is the same by addresses. For those who were connected before
//! there are some more.

use std::collections::BTreeMap;

use adit_proto::control::PeerId;

use super::admission::{network, scope};
use super::context::Shared;
use crate::limits::RETURNING_SHARE;
use crate::path::Site;
use crate::shown::Shown;

/// A place for one who comes under a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Free,
    /// One of those who come from these addresses has to give it up.
    From(Vec<Site>),
    None,
}

/// The place for one of that name who comes from there.
pub(super) fn for_client(shared: &Shared, source: Site, name: &Shown) -> Place {
    let most = shared.config.limits.sessions;
    let more = if shared.left.has(name) { most / RETURNING_SHARE } else { 0 };
    if shared.connected < most + more {
        return Place::Free;
    }
    let all = clients(shared).map(|(_, address)| address);
    let give_way = Sources::of(all).give_way(source);
    if give_way.is_empty() { Place::None } else { Place::From(give_way) }
}

/// Those who are connected under patterns, and where they are.
pub(super) fn clients(shared: &Shared) -> impl Iterator<Item = (PeerId, Site)> {
    let is_client = |(_, peer): &(_, &super::context::Peer)| peer.current.is_some() && peer.config.remote_id.exact().is_none();
    let at = |id: &PeerId| shared.paths.ike_hop(*id).map(|hop| scope(hop.site()));
    shared.peers.iter().filter(is_client).filter_map(move |(id, _)| Some((*id, at(id)?)))
}

/// How many come from each address, by networks.
struct Sources(BTreeMap<Site, BTreeMap<Site, usize>>);

impl Sources {
    fn of(addresses: impl Iterator<Item = Site>) -> Sources {
        let mut networks: BTreeMap<Site, BTreeMap<Site, usize>> = BTreeMap::new();
        for address in addresses {
            *networks.entry(network(address)).or_default().entry(address).or_default() += 1;
        }
        Sources(networks)
    }

    /// The addresses of which one has to give way to one from `source`, who has no more with it than they without; perhaps none.
    fn give_way(&self, source: Site) -> Vec<Site> {
        let size = |addresses: &BTreeMap<Site, usize>| addresses.values().sum::<usize>();
        let ours = self.0.get(&network(source));
        let largest = self.0.values().max_by_key(|addresses| size(addresses));
        let largest = largest.filter(|largest| size(largest) > ours.map_or(0, size) + 1);
        // Or within its own network.
        let own = ours.and_then(|ours| ours.get(&scope(source))).copied().unwrap_or(0);
        let Some((addresses, least)) = largest.map(|largest| (largest, 0)).or(ours.map(|ours| (ours, own + 1))) else {
            return Vec::new();
        };
        let most = addresses.values().copied().max().filter(|most| *most > least);
        addresses.iter().filter(|(_, count)| Some(**count) == most).map(|(address, _)| *address).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Site {
        Site::Address(text.parse().unwrap())
    }

    fn give_way(there: &[(&str, usize)], source: &str) -> Vec<String> {
        let all = there.iter().flat_map(|(address, count)| std::iter::repeat_n(scope(ip(address)), *count));
        Sources::of(all).give_way(ip(source)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn who_has_fewer_places_gets_one_of_whoever_has_the_most() {
        let greedy = ("192.0.2.1", 8);
        assert_eq!(give_way(&[greedy], "198.51.100.1"), ["192.0.2.1"]);
        assert_eq!(give_way(&[greedy, ("198.51.100.1", 6)], "198.51.100.2"), ["192.0.2.1"]);
        assert!(give_way(&[greedy, ("198.51.100.1", 7)], "198.51.100.1").is_empty(), "it would be the other way round");
        assert!(give_way(&[greedy], "192.0.2.1").is_empty() && give_way(&[], "192.0.2.1").is_empty());
        // Within a network, by addresses.
        assert_eq!(give_way(&[greedy, ("192.0.2.9", 1)], "192.0.2.9"), ["192.0.2.1"]);
        assert!(give_way(&[greedy, ("192.0.2.9", 7)], "192.0.2.9").is_empty());
        assert_eq!(give_way(&[("192.0.2.1", 2), ("192.0.2.9", 6), ("203.0.113.1", 3)], "10.0.0.1"), ["192.0.2.9"]);
        assert_eq!(give_way(&[("192.0.2.1", 3), ("192.0.2.7", 2), ("192.0.2.9", 3)], "10.0.0.1"), ["192.0.2.1", "192.0.2.9"]);
        // Whoever has a network of IPv6 has many addresses.
        let of_one: Vec<String> = (0..9).map(|host| format!("2001:db8:7:{host}::{host}")).collect();
        let of_one: Vec<(&str, usize)> = of_one.iter().map(|address| (&**address, 1)).collect();
        assert_eq!(give_way(&of_one, "2001:db8:8::1").len(), 9);
        assert!(give_way(&of_one, "2001:db8:7:99::1").is_empty());
    }
}
