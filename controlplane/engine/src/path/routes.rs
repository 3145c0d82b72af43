//! What the kernel knows of the ways in use is asked again: addresses, routes and interfaces change under a tunnel.
//!
//! A path keeps the address of ours that it began with, which is the one that the peer has chosen to reach us at, though the kernel
//! may prefer another one of ours for the same way. It moves when the kernel's preference becomes another one, since then something
//! has happened to the way, or when its own address is of no use any more.

use std::net::SocketAddr;
use std::time::Instant;

use adit_proto::control::PeerId;

use super::hop::Hop;
use super::peer::Choice;
use super::{PathId, Paths, Wish};

impl Paths {
    /// Addresses or routes of this machine have changed.
    pub fn underlay_changed(&mut self, now: Instant) {
        let ids: Vec<PeerId> = self.peers.keys().copied().collect();
        ids.into_iter().for_each(|id| self.look_again(now, id));
    }

    /// The kernel did not send something to the peer, an echo or a packet: too big for what it knows of the route by now.
    pub fn handle_unsent(&mut self, now: Instant, id: PeerId) {
        self.look_at_routes(now, id);
        self.tell(id);
        self.set_timer(now, id);
    }

    fn look_again(&mut self, now: Instant, id: PeerId) {
        self.look_at_routes(now, id);
        if let Some(hop) = self.better_source(id)
            && self.decide(now, id, hop).is_ok()
        {
            self.wishes.push_back(Wish::Moved { peer: id });
        }
        self.tell(id);
        self.set_timer(now, id);
    }

    /// Asks again what the kernel knows of the MTU of a peer's paths: a router may have said something.
    fn look_at_routes(&mut self, now: Instant, id: PeerId) {
        for path in PathId::all() {
            let Some(hop) = self.peers.get(&id).and_then(|peer| peer.get(path)).map(|entry| entry.hop) else { continue };
            let Ok(fit) = self.fit(hop) else { continue };
            if let Some(entry) = self.peers.get_mut(&id).and_then(|peer| peer.get_mut(path)) {
                entry.mtu.set_route(now, fit.mtu, fit.link_mtu);
            }
        }
    }

    /// The way in use from another address of ours, if that is the one to use now.
    fn better_source(&mut self, id: PeerId) -> Option<Hop> {
        let hop = self.hop_in_use(id)?;
        // Without a way there is nothing to be said, until there is one.
        let free = self.free_choice(hop)?;
        let choice = Choice { remote: hop.remote.ip(), source: free.local.ip() };
        let before = self.peers.get_mut(&id)?.choice.replace(choice).filter(|before| before.remote == choice.remote);
        let same = before.is_none_or(|before| before == choice);
        let stays = free == hop || (same && self.is_usable(hop));
        (!stays).then_some(free)
    }

    /// Remembers what the kernel would choose for the way that a peer uses from now on.
    pub(super) fn note_choice(&mut self, id: PeerId) {
        let Some(hop) = self.hop_in_use(id) else { return };
        let noted = self.peers.get(&id).and_then(|peer| peer.choice);
        if noted.is_none_or(|choice| choice.remote != hop.remote.ip()) {
            let source = self.free_choice(hop).map(|free| free.local.ip());
            let choice = source.map(|source| Choice { remote: hop.remote.ip(), source });
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.choice = choice;
            }
        }
    }

    /// The way that a peer uses, if its source is ours to choose.
    fn hop_in_use(&self, id: PeerId) -> Option<Hop> {
        let peer = self.peers.get(&id).filter(|peer| !peer.terms.local_fixed)?;
        peer.get(peer.ike.or(peer.esp)?).map(|entry| entry.hop)
    }

    /// The same way with the source that the kernel would choose.
    fn free_choice(&mut self, hop: Hop) -> Option<Hop> {
        let unspecified = if hop.remote.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let free = Hop { local: SocketAddr::new(unspecified, hop.local.port()), ..hop };
        self.fit(free).ok().map(|fit| fit.hop).filter(|hop| !hop.local.ip().is_unspecified())
    }

    /// Whether datagrams can still go this way: there is a route, and its source is still an address of this machine, which the
    /// kernel does not look at when it is asked for a route of IPv6.
    fn is_usable(&mut self, hop: Hop) -> bool {
        self.fit(hop).is_ok() && self.underlay.route(None, hop.local, hop.interface).own_address
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::{Arc, Mutex};

    use super::super::{Follow, Route, Terms, Underlay};
    use super::*;
    use crate::testing::instant;

    const PEER: PeerId = PeerId(3);

    /// A machine with these addresses, of which it prefers the first one for every way.
    #[derive(Clone, Default)]
    struct Machine(Arc<Mutex<Vec<IpAddr>>>);

    impl Machine {
        fn has(&self, addresses: &[&str]) {
            *self.0.lock().unwrap() = addresses.iter().map(|address| address.parse().unwrap()).collect();
        }
    }

    impl Underlay for Machine {
        fn route(&mut self, local: Option<IpAddr>, remote: SocketAddr, _: u32) -> Route {
            let addresses = self.addresses();
            let (own_address, source) = (addresses.contains(&remote.ip()), local.or(addresses.first().copied()));
            Route { reachable: source.is_some(), own_address, source, mtu: Some(1500), ..Route::default() }
        }

        fn addresses(&mut self) -> Vec<IpAddr> {
            self.0.lock().unwrap().clone()
        }
    }

    /// A peer that reached us at `at`, and the source used after each of these sets of addresses.
    fn sources(at: &str, steps: &[&[&str]]) -> Vec<(String, bool)> {
        let machine = Machine::default();
        machine.has(steps[0]);
        let mut paths = Paths::new(Box::new(machine.clone()));
        let terms = Terms { echo: false, ike: true, follow: Follow::Both, local_fixed: false };
        paths.set_terms(instant(), PEER, terms);
        let hop = Hop::new(format!("{at}:4500").parse().unwrap(), "198.51.100.1:4500".parse().unwrap());
        paths.establish(instant(), PEER, hop, true).unwrap();
        let step = |addresses: &&[&str]| {
            machine.has(addresses);
            paths.underlay_changed(instant());
            let moved = std::iter::from_fn(|| paths.poll_wish()).any(|wish| wish == Wish::Moved { peer: PEER });
            (paths.ike_hop(PEER).unwrap().local.ip().to_string(), moved)
        };
        steps.iter().map(step).collect()
    }

    fn at(address: &str) -> (String, bool) {
        (address.to_owned(), false)
    }

    fn moved_to(address: &str) -> (String, bool) {
        (address.to_owned(), true)
    }

    #[test]
    fn the_address_that_was_hit_stays_though_the_kernel_prefers_another() {
        let (first, second, other) = ("192.0.2.2", "192.0.2.22", "203.0.113.9");
        let steps: [&[&str]; 3] = [&[first, second], &[first, second, other], &[first, other, second]];
        assert_eq!(sources(second, &steps), [at(second), at(second), at(second)]);
    }

    #[test]
    fn it_moves_when_it_is_gone_or_the_kernel_changes_its_mind() {
        let (first, second, new) = ("192.0.2.2", "192.0.2.22", "203.0.113.9");
        assert_eq!(sources(second, &[&[first, second], &[first]]), [at(second), moved_to(first)]);
        let steps: [&[&str]; 3] = [&[first, second], &[new, first, second], &[new, first, second]];
        assert_eq!(sources(second, &steps), [at(second), moved_to(new), at(new)]);
        // Without any way it waits, and with it begins where it was.
        assert_eq!(sources(second, &[&[first, second], &[], &[first, second]]), [at(second), at(second), at(second)]);
    }
}
