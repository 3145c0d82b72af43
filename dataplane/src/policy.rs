//! The policy table of IP mode: which peer a packet is for, and whether a peer may send a packet (RFC 4301 §5.1, §5.2). One per
//! worker, so that a look-up takes no lock.
//!
//! A selector is found by its remote addresses ([`ranges`]); of all that match, the one with the fewest remote addresses holds,
//! and of those the one that was added first. No more than [`adit_proto::control::SELECTOR_OVERLAPS_MAX`] selectors may have a remote address in common, so that
//! a look-up ends soon whatever was installed. The table has its size from the start and never allocates after it.

mod ranges;

use std::net::IpAddr;

use adit_proto::control::{PeerId, Refusal, Selector};
use adit_proto::ike::{AddressRange, PortRange};
use adit_proto::packet::{Packet, Side};

use ranges::Ranges;

/// A selector, its addresses as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    peer: PeerId,
    local: (u128, u128),
    remote: (u128, u128),
    protocol: u8,
    local_ports: PortRange,
    remote_ports: PortRange,
}

impl Rule {
    fn new(peer: PeerId, selector: &Selector) -> Rule {
        Rule {
            peer,
            local: numbers(&selector.local),
            remote: numbers(&selector.remote),
            protocol: selector.protocol,
            local_ports: selector.local_ports,
            remote_ports: selector.remote_ports,
        }
    }

    /// Whether a packet between these two sides is meant, whose remote address is.
    #[inline]
    fn matches(&self, packet: &Packet, local: &Side, remote: &Side) -> bool {
        (self.local.0..=self.local.1).contains(&local.address)
            && (self.protocol == 0 || packet.protocol == Some(self.protocol))
            && local.port.is_in(self.local_ports)
            && remote.port.is_in(self.remote_ports)
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
    /// The packets looked up last, and for whom they are: packets of one flow come in runs.
    sent: Option<(Packet, PeerId)>,
    received: Option<(Packet, PeerId)>,
}

#[derive(Clone, Copy)]
struct Slot {
    rule: Rule,
    /// Which of all selectors it was to be added.
    order: u64,
}

impl PolicyTable {
    /// A table for so many selectors.
    pub fn new(capacity: u32) -> PolicyTable {
        let capacity = capacity as usize;
        PolicyTable {
            v4: Ranges::new(capacity),
            v6: Ranges::new(capacity),
            rules: Vec::with_capacity(capacity),
            free: Vec::with_capacity(capacity),
            added: 0,
            sent: None,
            received: None,
        }
    }

    pub fn len(&self) -> usize {
        self.rules.len() - self.free.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The peer that a packet is for.
    #[inline]
    pub fn route(&mut self, packet: &Packet) -> Option<PeerId> {
        match &self.sent {
            Some((last, peer)) if last == packet => Some(*peer),
            _ => {
                let peer = self.find(packet)?;
                self.sent = Some((*packet, peer));
                Some(peer)
            }
        }
    }

    /// Whether a packet may come from a peer.
    #[inline]
    pub fn admits(&mut self, packet: &Packet, peer: PeerId) -> bool {
        if self.received.as_ref().is_some_and(|(last, from)| last == packet && *from == peer) {
            return true;
        }
        let (local, remote) = (&packet.destination, &packet.source);
        let admitted =
            self.around(packet.v6, remote.address, |slot| slot.rule.peer == peer && slot.rule.matches(packet, local, remote));
        if admitted {
            self.received = Some((*packet, peer));
        }
        admitted
    }

    fn find(&self, packet: &Packet) -> Option<PeerId> {
        let (local, remote) = (&packet.source, &packet.destination);
        let mut best: Option<&Slot> = None;
        self.around(packet.v6, remote.address, |slot| {
            let better = |best: &Slot| (slot.rule.width(), slot.order) < (best.rule.width(), best.order);
            if slot.rule.matches(packet, local, remote) && best.is_none_or(better) {
                best = Some(slot);
            }
            false
        });
        best.map(|slot| slot.rule.peer)
    }

    /// Looks at the selectors that have the remote address until one is the right one. True when one was.
    #[inline]
    fn around<'a>(&'a self, v6: bool, remote: u128, mut is_it: impl FnMut(&'a Slot) -> bool) -> bool {
        let mut look = |slot: u32| self.rules.get(slot as usize).is_some_and(&mut is_it);
        if v6 { self.v6.around(remote, &mut look) } else { self.v4.around(remote as u32, &mut look) }
    }

    /// Adds a selector; one that the peer has changes nothing.
    pub fn add(&mut self, peer: PeerId, selector: &Selector) -> Result<(), Refusal> {
        if !selector.is_valid() {
            return Err(Refusal::BadValue);
        }
        let rule = Rule::new(peer, selector);
        let v6 = is_v6(selector);
        if self.position(v6, &rule).is_some() {
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
        let filled = Slot { rule, order: self.added };
        match self.free.pop() {
            Some(slot) => self.rules[slot as usize] = filled,
            None => self.rules.push(filled),
        }
        self.forget_last();
        Ok(())
    }

    /// Removes the selector of this value.
    pub fn remove(&mut self, peer: PeerId, selector: &Selector) -> Result<(), Refusal> {
        let v6 = is_v6(selector);
        let slot = self.position(v6, &Rule::new(peer, selector)).ok_or(Refusal::NoSuchSelector)?;
        if v6 {
            self.v6.remove_if(|other| other == slot)
        } else {
            self.v4.remove_if(|other| other == slot)
        }
        self.free.push(slot);
        self.forget_last();
        Ok(())
    }

    /// Removes every selector of a peer.
    pub fn forget_peer(&mut self, peer: PeerId) {
        let (rules, free) = (&self.rules, &mut self.free);
        let mut is_theirs = |slot: u32| {
            let theirs = rules[slot as usize].rule.peer == peer;
            if theirs {
                free.push(slot);
            }
            theirs
        };
        self.v4.remove_if(&mut is_theirs);
        self.v6.remove_if(&mut is_theirs);
        self.forget_last();
    }

    /// The slot of a rule of this value.
    fn position(&self, v6: bool, rule: &Rule) -> Option<u32> {
        let mut found = None;
        let mut look = |slot: u32| {
            let is_it = self.rules[slot as usize].rule == *rule;
            found = found.or(is_it.then_some(slot));
            is_it
        };
        let (first, _) = rule.remote;
        if v6 {
            self.v6.around(first, &mut look)
        } else {
            self.v4.around(first as u32, &mut look)
        };
        found
    }

    fn forget_last(&mut self) {
        (self.sent, self.received) = (None, None);
    }
}

fn is_v6(selector: &Selector) -> bool {
    selector.remote.first().is_ipv6()
}

fn numbers(range: &AddressRange) -> (u128, u128) {
    let number = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    (number(range.first()), number(range.last()))
}
