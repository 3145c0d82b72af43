//! The policy table of IP mode: whose a packet is, and which Child SA carries it (RFC 4301 §5.1, §5.2). One per worker, so that a
//! look-up takes no lock.
//!
//! 1. **Owner.** What is configured decides alone whose an address is, for what comes and for what goes. A configured selector is found
//!    by its remote addresses ([`ranges`]); of all that match, the one with the fewest remote addresses holds. Where peers have the same
//!    ones (clients under one pattern of identities), the peer whose Child SA for the packet was made first. No more than
//!    [`adit_proto::control::SELECTOR_OVERLAPS_MAX`] may have a remote address in common, so that a look-up ends soon whatever was
//!    installed. That table has its size from the start and never allocates after it.
//! 2. **Child SA.** What was negotiated picks one among those of the owner, and filters what comes by it ([`children`]).
//!
//! An ICMP error that this does not let pass is judged by the packet that it encloses (RFC 4301 §6).

mod children;
mod ranges;
mod recent;

use std::net::IpAddr;

use adit_proto::control::{ChildId, PeerId, Refusal, Selector};
use adit_proto::ike::{AddressRange, PortRange};
use adit_proto::packet::{Packet, Side};

use children::Children;
use ranges::Ranges;
use recent::Recent;

/// A packet to be matched, and which of its sides is ours.
struct Matched<'a> {
    packet: &'a Packet,
    local: &'a Side,
    remote: &'a Side,
}

impl Matched<'_> {
    #[inline]
    fn sent(packet: &Packet) -> Matched<'_> {
        Matched { packet, local: &packet.source, remote: &packet.destination }
    }

    #[inline]
    fn received(packet: &Packet) -> Matched<'_> {
        Matched { packet, local: &packet.destination, remote: &packet.source }
    }
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    To(PeerId, ChildId),
    /// It belongs to a peer, of whose Child SAs none carries it.
    NoChild(PeerId),
    /// It belongs to no peer.
    Nowhere,
}

/// A selector, its addresses as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    v6: bool,
    local: (u128, u128),
    remote: (u128, u128),
    protocol: u8,
    local_ports: PortRange,
    remote_ports: PortRange,
}

impl Rule {
    fn new(selector: &Selector) -> Rule {
        Rule {
            v6: selector.remote.first().is_ipv6(),
            local: numbers(&selector.local),
            remote: numbers(&selector.remote),
            protocol: selector.protocol,
            local_ports: selector.local_ports,
            remote_ports: selector.remote_ports,
        }
    }

    /// Whether a packet is meant whose remote address is.
    #[inline]
    fn matches(&self, matched: &Matched<'_>) -> bool {
        let Matched { packet, local, remote } = matched;
        (self.local.0..=self.local.1).contains(&local.address)
            && (self.protocol == 0 || packet.protocol == Some(self.protocol))
            && local.port.is_in(self.local_ports)
            && remote.port.is_in(self.remote_ports)
    }

    /// Whether the remote address of a packet is meant.
    #[inline]
    fn has_remote(&self, matched: &Matched<'_>) -> bool {
        self.v6 == matched.packet.v6 && (self.remote.0..=self.remote.1).contains(&matched.remote.address)
    }

    /// How many remote addresses there are beside the first.
    fn width(&self) -> u128 {
        self.remote.1 - self.remote.0
    }
}

/// The table of one worker.
pub struct PolicyTable {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
    rules: Vec<Slot>,
    free: Vec<u32>,
    /// Selectors that were ever added.
    added: u64,
    children: Children,
    /// For whom the packets of the flows of late were, and from whom.
    sent: Recent<(PeerId, ChildId)>,
    received: Recent<(PeerId, ChildId)>,
}

/// A configured selector.
#[derive(Clone, Copy)]
struct Slot {
    peer: PeerId,
    rule: Rule,
    /// Which of all selectors it was to be added.
    order: u64,
}

impl PolicyTable {
    /// A table for so many configured selectors of peers with ids below `max_peers`.
    pub fn new(capacity: u32, max_peers: u16) -> PolicyTable {
        let capacity = capacity as usize;
        PolicyTable {
            v4: Ranges::new(capacity),
            v6: Ranges::new(capacity),
            rules: Vec::with_capacity(capacity),
            free: Vec::with_capacity(capacity),
            added: 0,
            children: Children::new(max_peers),
            sent: Recent::new(),
            received: Recent::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.rules.len() - self.free.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where a packet from here goes. `usable` says whether anything can be sent by a Child SA now; who changes that says
    /// [`PolicyTable::forget_recent`].
    #[inline]
    pub fn route(&mut self, packet: &Packet, usable: impl Fn(PeerId, ChildId) -> bool) -> Route {
        match self.sent.get(packet) {
            Some((peer, child)) => Route::To(peer, child),
            None => self.find(packet, usable),
        }
    }

    fn find(&mut self, packet: &Packet, usable: impl Fn(PeerId, ChildId) -> bool) -> Route {
        let matched = Matched::sent(packet);
        let Some(peer) = self.owner(&matched) else { return Route::Nowhere };
        let Some(child) = self.children.carrier(peer, &matched, |child| usable(peer, child)) else { return Route::NoChild(peer) };
        self.sent.keep(packet, (peer, child));
        Route::To(peer, child)
    }

    /// Where an ICMP error goes that `bytes` are and `route` had no way for: the way of the answers to what it encloses, unless the
    /// addresses of the error are another peer's.
    #[cold]
    pub fn route_error(
        &mut self,
        packet: &Packet,
        bytes: &[u8],
        route: Route,
        usable: impl Fn(PeerId, ChildId) -> bool,
    ) -> Route {
        let Some(about) = packet.enclosed(bytes) else { return route };
        match (route, self.route(&about, usable)) {
            (Route::Nowhere, found) => found,
            (Route::NoChild(owner), found @ Route::To(peer, _)) if owner == peer => found,
            (route, _) => route,
        }
    }

    /// Whether a packet may come from a peer by this Child SA.
    #[inline]
    pub fn admits(&mut self, packet: &Packet, peer: PeerId, child: ChildId) -> bool {
        if self.received.get(packet) == Some((peer, child)) {
            return true;
        }
        let matched = Matched::received(packet);
        let admitted = self.children.has(peer, child, &matched) && self.owner(&matched) == Some(peer);
        if admitted {
            self.received.keep(packet, (peer, child));
        }
        admitted
    }

    /// Whether an ICMP error may come that `bytes` are and `admits` did not let pass: what it encloses was sent to the peer by this
    /// Child SA, and its source is not another peer's.
    #[cold]
    pub fn admits_error(&mut self, packet: &Packet, bytes: &[u8], peer: PeerId, child: ChildId) -> bool {
        let Some(about) = packet.enclosed(bytes) else { return false };
        self.owner(&Matched::received(packet)).is_none_or(|owner| owner == peer) && self.admits(&about, peer, child)
    }

    /// Whose a packet is, by what is configured.
    #[inline]
    fn owner(&self, matched: &Matched<'_>) -> Option<PeerId> {
        let mut best: Option<&Slot> = None;
        let mut tied = false;
        self.around(matched, |slot| {
            if !slot.rule.matches(matched) {
                return false;
            }
            match best {
                Some(held) if held.rule.width() < slot.rule.width() => {}
                Some(held) if held.rule.width() == slot.rule.width() => {
                    tied |= held.peer != slot.peer;
                    if slot.order < held.order {
                        best = Some(slot);
                    }
                }
                _ => (best, tied) = (Some(slot), false),
            }
            false
        });
        let best = best?;
        Some(if tied { self.first_to_claim(matched, best) } else { best.peer })
    }

    /// Of the peers that are configured with selectors as specific as `best`, the one whose Child SA for the packet was made first.
    #[cold]
    fn first_to_claim(&self, matched: &Matched<'_>, best: &Slot) -> PeerId {
        let mut first: Option<(u64, PeerId)> = None;
        self.around(matched, |slot| {
            if slot.rule.width() == best.rule.width() && slot.rule.matches(matched) {
                let claim = self.children.claimed(slot.peer, matched).map(|made| (made, slot.peer));
                first = first.into_iter().chain(claim).min();
            }
            false
        });
        first.map_or(best.peer, |(_, peer)| peer)
    }

    /// Looks at the configured selectors that have the remote address until one is the right one. True when one was.
    #[inline]
    fn around<'a>(&'a self, matched: &Matched<'_>, mut is_it: impl FnMut(&'a Slot) -> bool) -> bool {
        let mut look = |slot: u32| self.rules.get(slot as usize).is_some_and(&mut is_it);
        let remote = matched.remote.address;
        if matched.packet.v6 { self.v6.around(remote, &mut look) } else { self.v4.around(remote as u32, &mut look) }
    }

    /// Adds a negotiated selector to a Child SA; one that it has changes nothing.
    pub fn add_to_child(&mut self, peer: PeerId, child: ChildId, selector: &Selector) -> Result<(), Refusal> {
        if !selector.is_valid() {
            return Err(Refusal::BadValue);
        }
        self.forget_recent();
        self.children.add(peer, child, Rule::new(selector))
    }

    /// Removes the negotiated selector of this value.
    pub fn remove_from_child(&mut self, peer: PeerId, child: ChildId, selector: &Selector) -> Result<(), Refusal> {
        self.forget_recent();
        self.children.remove(peer, child, &Rule::new(selector))
    }

    /// Removes every selector of a Child SA.
    pub fn forget_child(&mut self, peer: PeerId, child: ChildId) {
        self.forget_recent();
        self.children.forget(peer, child);
    }

    /// Adds a selector; one that the peer has changes nothing.
    pub fn add(&mut self, peer: PeerId, selector: &Selector) -> Result<(), Refusal> {
        if !selector.is_valid() {
            return Err(Refusal::BadValue);
        }
        let rule = Rule::new(selector);
        let v6 = rule.v6;
        if self.position(peer, &rule).is_some() {
            return Ok(());
        }
        if self.free.is_empty() && self.rules.len() == self.rules.capacity() {
            return Err(Refusal::PolicyFull);
        }
        let slot = self.free.last().copied().unwrap_or(self.rules.len() as u32);
        let (first, last) = rule.remote;
        if v6 {
            self.v6.insert(first, last, slot)?
        } else {
            self.v4.insert(first as u32, last as u32, slot)?
        }
        self.added += 1;
        let filled = Slot { peer, rule, order: self.added };
        match self.free.pop() {
            Some(slot) => self.rules[slot as usize] = filled,
            None => self.rules.push(filled),
        }
        self.forget_recent();
        Ok(())
    }

    /// Removes the selector of this value.
    pub fn remove(&mut self, peer: PeerId, selector: &Selector) -> Result<(), Refusal> {
        let rule = Rule::new(selector);
        let slot = self.position(peer, &rule).ok_or(Refusal::NoSuchSelector)?;
        if rule.v6 {
            self.v6.remove_if(|other| other == slot)
        } else {
            self.v4.remove_if(|other| other == slot)
        }
        self.free.push(slot);
        self.forget_recent();
        Ok(())
    }

    /// Removes every selector of a peer and of its Child SAs.
    pub fn forget_peer(&mut self, peer: PeerId) {
        let (rules, free) = (&self.rules, &mut self.free);
        let mut is_theirs = |slot: u32| {
            let theirs = rules[slot as usize].peer == peer;
            if theirs {
                free.push(slot);
            }
            theirs
        };
        self.v4.remove_if(&mut is_theirs);
        self.v6.remove_if(&mut is_theirs);
        self.children.forget_peer(peer);
        self.forget_recent();
    }

    /// The slot of a configured selector of this value.
    fn position(&self, peer: PeerId, rule: &Rule) -> Option<u32> {
        let mut found = None;
        let mut look = |slot: u32| {
            let there = &self.rules[slot as usize];
            let is_it = there.peer == peer && there.rule == *rule;
            found = found.or(is_it.then_some(slot));
            is_it
        };
        let (first, _) = rule.remote;
        if rule.v6 {
            self.v6.around(first, &mut look)
        } else {
            self.v4.around(first as u32, &mut look)
        };
        found
    }

    /// What was found may be another by now.
    pub fn forget_recent(&mut self) {
        self.sent.forget();
        self.received.forget();
    }
}

fn numbers(range: &AddressRange) -> (u128, u128) {
    let number = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    (number(range.first()), number(range.last()))
}
