//! Addresses of those we know: where peers are looked for, and from where they have proven themselves last. What comes from there has a
//! share of its own beside what strangers send, here (`admission`) and in front of the engine ([`Event::Address`](super::event::Event)).
//!
//! A peer has a few of them, so what one does costs no other anything.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

use adit_proto::control::PeerId;
use adit_proto::limits::{ADDRESSES_OF_PEER_MAX, PATHS_MAX};

use crate::limits::PROVEN_ADDRESSES_MAX;
use crate::path::{IKE_PORT, Remote, Site, StreamId};

/// Where IKE goes on behind a NAT.
const NAT_PORT: u16 = 4500;

/// What is known of one peer.
#[derive(Debug, Default)]
struct Addresses {
    /// With the ports that it may send from, of the first ones.
    looked_for: Vec<SocketAddr>,
    hosts: Vec<IpAddr>,
    /// In which stream it has proven itself last. Who merely says at the relay that it is this peer is not known there.
    stream: Option<StreamId>,
    /// The newest first.
    proven: VecDeque<SocketAddr>,
    /// All of these, also with port 0, which stands for all of the address.
    keys: BTreeSet<SocketAddr>,
}

/// The addresses of all peers.
#[derive(Debug, Default)]
pub(super) struct Known {
    peers: BTreeMap<PeerId, Addresses>,
    /// Of how many peers each is.
    count: BTreeMap<SocketAddr, usize>,
    streams: BTreeMap<StreamId, usize>,
    news: VecDeque<(SocketAddr, bool)>,
    /// Where peers have proven themselves is other than when it was asked last.
    has_new_proofs: bool,
}

impl Known {
    /// A peer is looked for at these addresses, the first one first, and no others any more.
    pub(super) fn look_for(&mut self, peer: PeerId, places: &[Remote]) {
        let addresses: Vec<SocketAddr> = places.iter().filter_map(Remote::address).collect();
        let of_peer = self.peers.entry(peer).or_default();
        of_peer.looked_for =
            addresses.iter().copied().flat_map(ports).take(ADDRESSES_OF_PEER_MAX - PROVEN_ADDRESSES_MAX).collect();
        of_peer.hosts = addresses.iter().take(PATHS_MAX).map(SocketAddr::ip).collect();
        self.refresh(peer);
    }

    /// A peer has proven from there who it is.
    pub(super) fn prove(&mut self, peer: PeerId, place: Remote) {
        let address = match place {
            Remote::Udp(address) => address,
            Remote::Stream(stream) => return self.prove_in(peer, Some(stream)),
        };
        let of_peer = self.peers.entry(peer).or_default();
        if of_peer.proven.front().is_some_and(|newest| (newest.ip(), newest.port()) == (address.ip(), address.port())) {
            return;
        }
        of_peer.proven.retain(|known| known.ip() != address.ip());
        // Without the scope of IPv6: another start of the machine numbers its interfaces anew.
        of_peer.proven.push_front(SocketAddr::new(address.ip(), address.port()));
        of_peer.proven.truncate(PROVEN_ADDRESSES_MAX);
        self.has_new_proofs = true;
        self.refresh(peer);
    }

    fn prove_in(&mut self, peer: PeerId, stream: Option<StreamId>) {
        let before = std::mem::replace(&mut self.peers.entry(peer).or_default().stream, stream);
        if before == stream {
            return;
        }
        stream.into_iter().for_each(|stream| *self.streams.entry(stream).or_default() += 1);
        if let Some(before) = before {
            let count = self.streams.entry(before).or_default();
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.streams.remove(&before);
            }
        }
    }

    /// The peer is configured no more.
    pub(super) fn forget(&mut self, peer: PeerId) {
        self.prove_in(peer, None);
        if let Some(of_peer) = self.peers.remove(&peer) {
            self.has_new_proofs |= !of_peer.proven.is_empty();
            of_peer.keys.into_iter().for_each(|key| self.release(key));
        }
    }

    pub(super) fn has(&self, site: Site) -> bool {
        match site {
            Site::Address(address) => self.count.contains_key(&SocketAddr::new(address, 0)),
            Site::Stream(stream) => self.streams.contains_key(&stream),
        }
    }

    /// An address that is known from now on, or no more; with port 0 all of it.
    pub(super) fn poll(&mut self) -> Option<(SocketAddr, bool)> {
        self.news.pop_front()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = SocketAddr> {
        self.count.keys().copied()
    }

    /// Where each peer has proven itself last, the newest first, if that has changed since it was asked last.
    pub(super) fn new_proofs(&mut self) -> Option<BTreeMap<PeerId, Vec<SocketAddr>>> {
        let of = |(id, of_peer): (&PeerId, &Addresses)| (*id, of_peer.proven.iter().copied().collect::<Vec<_>>());
        let has_some = |(_, proven): &(PeerId, Vec<SocketAddr>)| !proven.is_empty();
        std::mem::take(&mut self.has_new_proofs).then(|| self.peers.iter().map(of).filter(has_some).collect())
    }

    fn refresh(&mut self, peer: PeerId) {
        let Some(of_peer) = self.peers.get_mut(&peer) else { return };
        // Without the scope of IPv6, which nobody who compares has.
        let exact = of_peer.looked_for.iter().chain(&of_peer.proven).map(|address| (address.ip(), address.port()));
        let whole = of_peer.hosts.iter().copied().chain(of_peer.proven.iter().map(SocketAddr::ip)).map(|host| (host, 0));
        let keys: BTreeSet<SocketAddr> = exact.chain(whole).map(SocketAddr::from).collect();
        let old = std::mem::replace(&mut of_peer.keys, keys.clone());
        for key in keys.difference(&old) {
            let count = self.count.entry(*key).or_insert(0);
            *count += 1;
            if *count == 1 {
                self.news.push_back((*key, true));
            }
        }
        old.difference(&keys).for_each(|key| self.release(*key));
    }

    fn release(&mut self, key: SocketAddr) {
        let Some(count) = self.count.get_mut(&key) else { return };
        *count -= 1;
        if *count == 0 {
            self.count.remove(&key);
            self.news.push_back((key, false));
        }
    }
}

/// Where a peer that is looked for at an address may send from: from there, or from the ports on which IKE begins and goes on
/// (RFC 7296 §2.23).
fn ports(address: SocketAddr) -> impl Iterator<Item = SocketAddr> {
    let others = [IKE_PORT, NAT_PORT].into_iter().filter(move |port| *port != address.port());
    std::iter::once(address).chain(others.map(move |port| SocketAddr::new(address.ip(), port)))
}

#[cfg(test)]
mod tests {
    use adit_proto::limits::IKE_ADDRESSES_PER_PEER;

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn at(text: &str) -> Remote {
        Remote::Udp(address(text))
    }

    /// What was told, in the order of the addresses.
    fn reported(known: &mut Known) -> BTreeMap<String, bool> {
        std::iter::from_fn(|| known.poll()).map(|(address, is)| (address.to_string(), is)).collect()
    }

    #[test]
    fn an_address_is_known_as_long_as_one_peer_has_it() {
        let (mut known, one, other) = (Known::default(), PeerId(1), PeerId(2));
        known.look_for(one, &[at("192.0.2.1:4500")]);
        let expected =
            [("192.0.2.1:0", true), ("192.0.2.1:500", true), ("192.0.2.1:4500", true)].map(|(text, is)| (text.to_owned(), is));
        assert_eq!(reported(&mut known), expected.into());
        known.prove(other, at("192.0.2.1:4500"));
        known.look_for(one, &[]);
        assert_eq!(reported(&mut known), [("192.0.2.1:500".to_owned(), false)].into());
        assert!(known.has(at("192.0.2.1:0").site()));
        known.forget(other);
        assert_eq!(reported(&mut known).len(), 2, "that port 500 is not hers was told before");
        assert!(!known.has(at("192.0.2.1:0").site()) && known.iter().next().is_none());
    }

    #[test]
    fn where_a_peer_has_proven_itself_is_told_when_it_has_changed() {
        let (mut known, peer) = (Known::default(), PeerId(1));
        known.look_for(peer, &[at("198.51.100.1:500")]);
        assert_eq!(known.new_proofs(), None, "nobody has proven anything");
        let told = |known: &mut Known, address: &str| {
            known.prove(peer, at(address));
            known.new_proofs().map(|all| all[&peer].iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let both = ["[fe80::1]:4500", "192.0.2.1:4500"].map(str::to_owned).to_vec();
        assert_eq!(told(&mut known, "192.0.2.1:4500"), Some(both[1..].to_vec()));
        assert_eq!(told(&mut known, "[fe80::1%3]:4500"), Some(both));
        assert_eq!(told(&mut known, "[fe80::1%4]:4500"), None, "the same place");
        known.forget(peer);
        assert_eq!(known.new_proofs(), Some(BTreeMap::new()));
    }

    #[test]
    fn a_peer_that_moves_about_has_a_few_addresses() {
        let (mut known, peer) = (Known::default(), PeerId(1));
        known.look_for(peer, &[at("198.51.100.1:500")]);
        for host in 0..200 {
            known.prove(peer, at(&format!("192.0.2.{host}:4500")));
            known.prove(peer, at(&format!("192.0.2.{host}:4501")));
        }
        let left: Vec<String> = known.iter().map(|address| address.to_string()).collect();
        let proven = [198, 199].map(|host| [format!("192.0.2.{host}:0"), format!("192.0.2.{host}:4501")]).concat();
        let looked_for = [0, 500, 4500].map(|port| format!("198.51.100.1:{port}"));
        assert_eq!(left, [&proven[..], &looked_for].concat());
        assert!(left.len() <= IKE_ADDRESSES_PER_PEER && known.has(at("198.51.100.1:0").site()));
    }

    #[test]
    fn every_place_where_a_peer_is_looked_for_is_known() {
        let (mut known, peer) = (Known::default(), PeerId(1));
        let places: Vec<Remote> = (1..=PATHS_MAX).map(|host| at(&format!("192.0.2.{host}:4501"))).collect();
        known.look_for(peer, &places);
        known.prove(peer, at("198.51.100.1:4500"));
        known.prove(peer, at("[2001:db8::1]:4500"));
        assert!(places.iter().all(|place| known.has(place.site())) && known.has(at("[2001:db8::1]:0").site()));
        assert!(known.iter().count() <= IKE_ADDRESSES_PER_PEER);
        known.look_for(peer, &places[4..]);
        assert_eq!(places.iter().filter(|place| known.has(place.site())).count(), PATHS_MAX - 4);
    }

    #[test]
    fn in_a_stream_who_has_proven_itself_is_known_and_who_says_so_is_not() {
        let (mut known, [one, other], stream) = (Known::default(), [1, 2].map(PeerId), Remote::Stream(StreamId(7)));
        known.look_for(one, &[stream, at("192.0.2.1:4500")]);
        assert!(!known.has(stream.site()));
        [one, one, other].into_iter().for_each(|peer| known.prove(peer, stream));
        assert!(known.has(stream.site()) && !known.has(Site::Stream(StreamId(8))));
        assert_eq!((reported(&mut known).len(), known.new_proofs()), (3, None), "the address with its ports");
        known.prove(one, Remote::Stream(StreamId(8)));
        assert!(known.has(stream.site()) && known.has(Site::Stream(StreamId(8))), "the other one is there still");
        [one, other].into_iter().for_each(|peer| known.forget(peer));
        assert!(!known.has(stream.site()) && known.streams.is_empty());
    }

    #[test]
    fn who_is_looked_for_may_come_from_the_ports_of_ike() {
        assert_eq!(ports(address("192.0.2.1:500")).collect::<Vec<_>>(), [address("192.0.2.1:500"), address("192.0.2.1:4500")]);
        assert_eq!(ports(address("192.0.2.1:4501")).count(), 3);
    }
}
