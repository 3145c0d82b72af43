//! What the kernel knows of the ways in use is asked again: addresses, routes and interfaces change under a tunnel.
//!
//! A path keeps the address of ours that it began with, which is the one that the peer has chosen to reach us at, though the kernel
//! may prefer another one of ours for the same way. It moves when the kernel's preference becomes another one, since then something
//! has happened to the way, or when its own address is of no use any more.
//!
//! Thousands of peers can ask for that at one moment, and the kernel is asked in the loop that does everything else. So peers wait
//! in a line, each once whatever it has asked for, and a turn looks at a few paths ([`Looks`]).

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use adit_proto::control::PeerId;

use super::hop::{Hop, UdpHop};
use super::judge::judge;
use super::peer::Choice;
use super::{PathId, Paths, Wish};
use crate::limits::{LOOKS_PER_TURN, OWN_ADDRESSES_MAX};

/// From one turn to the next one, so that what else there is to do has most of the time.
const TURN: Duration = Duration::from_millis(10);
/// What looking at everything costs beside the paths: the choice, whether it can be used, and our other addresses.
const ALL_COSTS: usize = 4;

/// What is to be looked up for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Look {
    /// How large a packet may be, on the paths in use.
    Sizes,
    /// That of all paths, and from which address of ours they begin.
    All,
}

/// The peers whose routes are to be looked up: one after the other, none twice.
#[derive(Debug, Default)]
pub(super) struct Looks {
    line: VecDeque<PeerId>,
    wanted: BTreeMap<PeerId, Look>,
    /// When the next turn is.
    next: Option<Instant>,
    last: Option<Instant>,
}

impl Looks {
    fn ask(&mut self, now: Instant, id: PeerId, look: Look) {
        if let Some(wanted) = self.wanted.get_mut(&id) {
            *wanted = look.max(*wanted);
            return;
        }
        self.wanted.insert(id, look);
        self.line.push_back(id);
        let soonest = self.last.map_or(now, |last| now.max(last + TURN));
        self.next.get_or_insert(soonest);
    }

    pub(super) fn forget(&mut self, id: PeerId) {
        if self.wanted.remove(&id).is_some() {
            self.line.retain(|one| *one != id);
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    pub(super) fn len(&self) -> usize {
        self.line.len()
    }
}

impl Paths {
    /// Addresses or routes of this machine have changed: all paths are looked at again, a few at once. With each, its peer is told
    /// our addresses.
    pub fn underlay_changed(&mut self, now: Instant) {
        self.peers.keys().for_each(|id| self.looks.ask(now, *id, Look::All));
        self.take_looks(now);
    }

    /// Our sockets are bound elsewhere: what left from where they were leaves from there, and the peers are told. Whoever has been proven to
    /// receive where it is does so still.
    pub fn rebind(&mut self, now: Instant, listen: SocketAddr) {
        let ids: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in ids {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            peer.each_mut(|entry| entry.hop = entry.hop.bound_to(listen));
            peer.wanted.iter_mut().for_each(|wanted| wanted.hop = wanted.hop.bound_to(listen));
            peer.spares.rebind(listen);
            peer.direct.rebind(listen);
            (peer.choice, peer.terms.local_fixed, peer.rebound) = (None, !listen.ip().is_unspecified(), true);
            self.tell(id);
        }
        self.underlay_changed(now);
    }

    /// The kernel did not send something to the peer, an echo or a packet: too big for what it knows of the route by now.
    pub fn handle_unsent(&mut self, now: Instant, id: PeerId) {
        if self.peers.contains_key(&id) {
            self.looks.ask(now, id, Look::Sizes);
            self.take_looks(now);
        }
    }

    /// One turn, if it is time for one.
    pub(super) fn take_looks(&mut self, now: Instant) {
        if self.looks.next.is_none_or(|next| next > now) {
            return;
        }
        let mut left = LOOKS_PER_TURN;
        while left > 0
            && let Some(id) = self.looks.line.pop_front()
        {
            let look = self.looks.wanted.remove(&id).unwrap_or(Look::Sizes);
            let looked = self.look_at_routes(now, id, look);
            if look == Look::All {
                self.look_again(now, id);
            }
            self.tell(id);
            self.set_timer(id);
            left = left.saturating_sub(if look == Look::All { looked + ALL_COSTS } else { looked.max(1) });
        }
        self.looks.last = Some(now);
        self.looks.next = (!self.looks.line.is_empty()).then_some(now + TURN);
    }

    fn look_again(&mut self, now: Instant, id: PeerId) {
        if self.peers.get_mut(&id).is_some_and(|peer| std::mem::take(&mut peer.rebound)) {
            self.wishes.push_back(Wish::Moved { peer: id });
        }
        self.look_for_way(now, id);
        self.look_direct_soon(now, id);
        if let Some(hop) = self.better_source(id)
            && self.decide(now, id, hop).is_ok()
        {
            self.readdressed += 1;
            self.wishes.push_back(Wish::Moved { peer: id });
        }
        self.wishes.push_back(Wish::Announce { peer: id });
    }

    /// Asks again what the kernel knows of the MTU of a peer's paths: a router may have said something. Gives how many were looked at.
    fn look_at_routes(&mut self, now: Instant, id: PeerId, look: Look) -> usize {
        let Some(peer) = self.peers.get(&id) else { return 0 };
        let used = |path: PathId| peer.esp == Some(path) || peer.ike == Some(path);
        let wanted = peer.iter().filter(|(path, _)| look == Look::All || used(*path));
        let hops: Vec<(PathId, Hop)> = wanted.map(|(path, entry)| (path, entry.hop)).collect();
        for (path, hop) in &hops {
            let Ok(fit) = self.fit(*hop) else { continue };
            if let Some(entry) = self.peers.get_mut(&id).and_then(|peer| peer.get_mut(*path)) {
                entry.mtu.set_route(now, fit.mtu, fit.link_mtu);
            }
        }
        hops.len()
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
        (!stays).then_some(Hop::Udp(free))
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

    /// The way that a peer uses, if it has a source and that is ours to choose.
    fn hop_in_use(&self, id: PeerId) -> Option<UdpHop> {
        let peer = self.peers.get(&id).filter(|peer| !peer.terms.local_fixed)?;
        peer.get(peer.ike.or(peer.esp)?)?.hop.udp()
    }

    /// The same way with the source that the kernel would choose.
    fn free_choice(&mut self, hop: UdpHop) -> Option<UdpHop> {
        let unspecified = if hop.remote.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let free = UdpHop { local: SocketAddr::new(unspecified, hop.local.port()), ..hop };
        self.fit(Hop::Udp(free)).ok()?.hop.udp().filter(|hop| !hop.local.ip().is_unspecified())
    }

    /// Our addresses at which a peer can reach us, beside the one in use: those from which it can be reached where it is now, and those of
    /// the other version of IP. Whether the peer has one of that is for it to know.
    pub(crate) fn own_addresses(&mut self, used: Hop) -> Vec<IpAddr> {
        // A stream uses none of them.
        let Hop::Udp(used) = used else { return self.addresses() };
        let is_other = |address: &IpAddr| address.is_ipv4() != used.remote.is_ipv4() && *address != used.local.ip();
        let mut other: Vec<IpAddr> = self.underlay.addresses().into_iter().filter(is_other).collect();
        other.truncate(OWN_ADDRESSES_MAX / 2);
        let mut own = self.other_addresses(Hop::Udp(used));
        own.truncate(OWN_ADDRESSES_MAX - other.len());
        own.extend(other);
        own
    }

    /// All addresses of ours, as many as are told.
    pub(crate) fn addresses(&mut self) -> Vec<IpAddr> {
        let mut all = self.underlay.addresses();
        all.truncate(OWN_ADDRESSES_MAX);
        all
    }

    /// Our addresses from which a peer can be reached, beside the one in use.
    pub(crate) fn other_addresses(&mut self, used: Hop) -> Vec<IpAddr> {
        let Hop::Udp(used) = used else { return Vec::new() };
        let addresses = self.underlay.addresses();
        let usable = |address: &IpAddr| {
            let local = SocketAddr::new(*address, used.local.port());
            let other = *address != used.local.ip() && address.is_ipv4() == used.remote.is_ipv4();
            other && judge(&mut *self.underlay, Hop::Udp(UdpHop { local, ..used })).is_ok()
        };
        addresses.into_iter().filter(usable).collect()
    }

    /// Whether datagrams can still go this way: there is a route, and its source is still an address of this machine, which the
    /// kernel does not look at when it is asked for a route of IPv6.
    fn is_usable(&mut self, hop: UdpHop) -> bool {
        self.fit(Hop::Udp(hop)).is_ok() && self.underlay.route(None, hop.local, hop.interface).own_address
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use adit_proto::control::StreamId;

    use super::super::{Follow, PathEvent, Route, Terms, Underlay};
    use super::*;
    use crate::testing::instant;

    const PEER: PeerId = PeerId(3);

    /// A machine with these addresses, of which it prefers the first one for every way.
    #[derive(Clone, Default)]
    struct Machine(Arc<Mutex<Vec<IpAddr>>>, Arc<AtomicUsize>);

    impl Machine {
        fn has(&self, addresses: &[&str]) {
            *self.0.lock().unwrap() = addresses.iter().map(|address| address.parse().unwrap()).collect();
        }

        /// How often it was asked for a route.
        fn asked(&self) -> usize {
            self.1.load(Ordering::Relaxed)
        }
    }

    impl Underlay for Machine {
        fn route(&mut self, local: Option<IpAddr>, remote: SocketAddr, _: u32) -> Route {
            self.1.fetch_add(1, Ordering::Relaxed);
            let addresses = self.addresses();
            let (own_address, source) = (addresses.contains(&remote.ip()), local.or(addresses.first().copied()));
            Route { reachable: source.is_some(), own_address, source, mtu: Some(1500), ..Route::default() }
        }

        fn has_stream(&mut self, _: StreamId) -> bool {
            true
        }

        fn addresses(&mut self) -> Vec<IpAddr> {
            self.0.lock().unwrap().clone()
        }
    }

    /// Of a peer without echoes and without MOBIKE.
    const TERMS: Terms =
        Terms { echo: false, split: false, ike: true, follow: Follow::Both, leads: false, local_fixed: false, candidates: false };

    /// A peer that reached us at `at`, and the source used after each of these sets of addresses.
    fn sources(at: &str, steps: &[&[&str]]) -> Vec<(String, bool)> {
        let machine = Machine::default();
        machine.has(steps[0]);
        let mut paths = Paths::new(Box::new(machine.clone()));
        paths.set_terms(PEER, TERMS);
        let hop = Hop::new(format!("{at}:4500").parse().unwrap(), "198.51.100.1:4500".parse().unwrap());
        paths.establish(instant(), PEER, hop, true).unwrap();
        let mut now = instant();
        let step = |addresses: &&[&str]| {
            machine.has(addresses);
            now += Duration::from_secs(1);
            paths.underlay_changed(now);
            let moved = std::iter::from_fn(|| paths.poll_wish()).any(|wish| wish == Wish::Moved { peer: PEER });
            (paths.ike_hop(PEER).unwrap().udp().unwrap().local.ip().to_string(), moved)
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
        // Without any way it waits, and with it goes on where it was.
        assert_eq!(sources(second, &[&[first, second], &[], &[first, second]]), [at(second), at(second), at(second)]);
    }

    #[test]
    fn with_other_sockets_all_paths_leave_from_there_and_peers_are_told() {
        let machine = Machine::default();
        machine.has(&["192.0.2.1", "192.0.2.9"]);
        let mut paths = Paths::new(Box::new(machine.clone()));
        with_paths(&mut paths, PEER, 3);
        while paths.poll_event().is_some() || paths.poll_wish().is_some() {}
        let used = paths.ike_hop(PEER).and_then(|hop| hop.udp()).unwrap();
        paths.rebind(instant(), "192.0.2.9:4501".parse().unwrap());
        let now = paths.ike_hop(PEER).and_then(|hop| hop.udp()).unwrap();
        let local = |hop: Hop| hop.udp().unwrap().local;
        assert_eq!((now.local.to_string().as_str(), now.remote), ("192.0.2.9:4501", used.remote));
        assert!(paths.status(PEER).iter().all(|path| local(path.hop) == now.local));
        assert_eq!(paths.poll_wish(), Some(Wish::Moved { peer: PEER }));
        assert!(!std::iter::from_fn(|| paths.poll_wish()).any(|wish| wish == Wish::Moved { peer: PEER }), "once");
        let is_set = |event| matches!(event, PathEvent::Set { hop, .. } if local(hop) == now.local);
        assert!(std::iter::from_fn(|| paths.poll_event()).any(is_set), "the data plane is told");
        // The kernel prefers another source: it is not asked where there is no choice.
        paths.underlay_changed(instant() + Duration::from_secs(1));
        assert_eq!(local(paths.ike_hop(PEER).unwrap()), now.local);
    }

    /// A peer with so many paths on it, each on an address of its own.
    fn with_paths(paths: &mut Paths, id: PeerId, number: u8) {
        paths.set_terms(id, TERMS);
        for host in 0..number {
            let remote = SocketAddr::from(([198, 51, (id.0 % 200) as u8, host + 1], 4500));
            paths.establish(instant(), id, Hop::new("192.0.2.1:4500".parse().unwrap(), remote), true).unwrap();
        }
    }

    #[test]
    fn a_thousand_peers_are_looked_at_in_turns_and_none_waits_for_another() {
        let machine = Machine::default();
        machine.has(&["192.0.2.1"]);
        let mut paths = Paths::new(Box::new(machine.clone()));
        (0..1000).for_each(|id| with_paths(&mut paths, PeerId(id), if id == 0 { 8 } else { 1 }));
        let mut now = instant() + Duration::from_secs(1);
        let (before, mut most) = (machine.asked(), 0);
        (0..1000).for_each(|id| paths.handle_unsent(now, PeerId(id)));
        assert!(machine.asked() - before <= LOOKS_PER_TURN + 8, "{} at once", machine.asked() - before);
        let mut turns = 0;
        // One peer asks ever again: it alone is left in the end.
        while paths.lookups_waiting() > 1 {
            let before = machine.asked();
            paths.handle_unsent(now, PeerId(0));
            let at = paths.poll_timeout().expect("they wait");
            now = now.max(at);
            paths.handle_timeout(now, &mut |out: &mut [u8]| out.fill(7));
            most = most.max(machine.asked() - before);
            turns += 1;
        }
        assert!(most <= LOOKS_PER_TURN + 8, "{most} at once");
        assert!((10..40).contains(&turns), "{turns} turns");
    }

    #[test]
    fn a_peer_that_is_gone_leaves_nothing_behind() {
        let machine = Machine::default();
        machine.has(&["192.0.2.1"]);
        let mut paths = Paths::new(Box::new(machine.clone()));
        (0..200).for_each(|id| with_paths(&mut paths, PeerId(id), 1));
        (0..200).for_each(|id| paths.remember_size(PeerId(id), IpAddr::from([203, 0, 113, 1]).into(), 1400));
        paths.underlay_changed(instant());
        assert!(paths.lookups_waiting() > 0);
        (0..200).for_each(|id| paths.remove(PeerId(id)));
        assert_eq!((paths.lookups_waiting(), paths.proven.len()), (0, 0));
        paths.handle_unsent(instant(), PeerId(7));
        assert_eq!(paths.lookups_waiting(), 0, "nobody is there");
    }

    #[test]
    fn addresses_that_a_peer_invents_are_looked_up_at_a_limited_rate() {
        let machine = Machine::default();
        machine.has(&["192.0.2.1"]);
        let mut paths = Paths::new(Box::new(machine.clone()));
        with_paths(&mut paths, PEER, 1);
        let before = machine.asked();
        for host in 0..1000u16 {
            let remote = SocketAddr::from(([203, 0, 113, (host % 250) as u8], 1024 + host));
            let hop = Hop::new("192.0.2.1:4500".parse().unwrap(), remote);
            // Most are refused, which is counted.
            let _ = paths.candidate(instant(), PEER, hop, super::super::Moves::Both, 100);
        }
        assert!(machine.asked() - before < 50, "{}", machine.asked() - before);
        assert!(paths.refused > 900, "{}", paths.refused);
    }
}
