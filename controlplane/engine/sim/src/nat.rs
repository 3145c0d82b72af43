//! A NAT in the words of RFC 4787: how it maps, whom it lets in, which port it takes, how long it remembers, whether it turns
//! packets round that its own inside sends to its outside (hairpin).
//!
//! Pure: time and chance are arguments. A datagram from inside goes through [`Nat::outbound`], one that comes to an outside address
//! through [`Nat::inbound`] or [`Nat::inbound_at`]; nothing else changes a mapping. A port may as well be one of TCP, or the number
//! of an ICMP query: whoever carries these has a [`Nat`] for each, since their ports have nothing to do with each other.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use crate::rng::Rng;

/// On what of the other end something depends: the same three for mapping (RFC 4787 §4.1) and for filtering (§5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    EndpointIndependent,
    AddressDependent,
    AddressAndPortDependent,
}

/// Which port a new mapping gets (RFC 4787 §4.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// The one inside, if it is free; else the next free one above it.
    Preserving,
    /// So many above the one before, or below it, round and round.
    Step(i16),
    Random,
}

/// Which of its addresses a NAT that has several gives to a new mapping (RFC 4787 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// All mappings of one host have the same (REQ-2).
    Paired,
    /// Any, by chance.
    Arbitrary,
}

/// What a NAT is like.
#[derive(Clone, Debug)]
pub struct NatConfig {
    /// The address that the world sees, and further ones. Each has all the ports.
    pub outside: IpAddr,
    pub more: Vec<IpAddr>,
    pub pooling: Pooling,
    pub mapping: Behaviour,
    pub filtering: Behaviour,
    pub allocation: Allocation,
    /// The ports that it has; a step begins with the first.
    pub ports: RangeInclusive<u16>,
    /// A mapping that was not used for so long is forgotten (RFC 4787 §4.3).
    pub idle: Option<Duration>,
    /// Whether packets from outside keep a mapping, too. Those from inside always do (REQ-6).
    pub inbound_refreshes: bool,
    /// A mapping is forgotten so long after it was made, used or not: as carriers do.
    pub lifetime: Option<Duration>,
    pub hairpin: bool,
}

impl NatConfig {
    /// As RFC 4787 asks for: independent mapping, preserved ports, five minutes, hairpin; and the filter that most have.
    pub fn usual(outside: IpAddr) -> NatConfig {
        NatConfig {
            outside,
            more: Vec::new(),
            pooling: Pooling::Paired,
            mapping: Behaviour::EndpointIndependent,
            filtering: Behaviour::AddressAndPortDependent,
            allocation: Allocation::Preserving,
            ports: 1024..=u16::MAX,
            idle: Some(Duration::from_secs(300)),
            inbound_refreshes: true,
            lifetime: None,
            hairpin: true,
        }
    }

    /// What is called symmetric: another random port for each other end.
    pub fn symmetric(outside: IpAddr) -> NatConfig {
        NatConfig {
            mapping: Behaviour::AddressAndPortDependent,
            allocation: Allocation::Random,
            hairpin: false,
            ..NatConfig::usual(outside)
        }
    }

    /// Ports one after the other from `first`, which stay for ever, open to everybody: for tests that name the ports.
    pub fn counting(outside: IpAddr, first: u16) -> NatConfig {
        NatConfig {
            filtering: Behaviour::EndpointIndependent,
            allocation: Allocation::Step(1),
            ports: first..=u16::MAX,
            idle: None,
            ..NatConfig::usual(outside)
        }
    }
}

#[derive(Clone, Debug)]
struct Mapping {
    inside: SocketAddr,
    /// The other ends for which it stands: their address, and their port.
    remote: (Option<IpAddr>, Option<u16>),
    outside: SocketAddr,
    made: Instant,
    used: Instant,
    /// To whom it has sent.
    sent_to: BTreeSet<SocketAddr>,
}

/// A NAT with its table.
#[derive(Clone, Debug)]
pub struct Nat {
    pub config: NatConfig,
    mappings: Vec<Mapping>,
    last: Option<u16>,
}

impl Nat {
    pub fn new(config: NatConfig) -> Nat {
        Nat { config, mappings: Vec::new(), last: None }
    }

    /// It was switched off and on: nothing is remembered, and a step goes on where it was.
    pub fn forget(&mut self) {
        self.mappings.clear();
    }

    /// How many mappings it has.
    pub fn len(&self) -> usize {
        self.mappings.len()
    }

    pub fn is_empty(&self) -> bool {
        self.mappings.is_empty()
    }

    /// A datagram leaves from `inside` to `remote`: the source that the world sees. `None`: no port is left.
    pub fn outbound(&mut self, now: Instant, inside: SocketAddr, remote: SocketAddr, rng: &mut Rng) -> Option<SocketAddr> {
        self.expire(now);
        let index = match self.find(inside, remote) {
            Some(index) => index,
            None => {
                let address = self.address(inside.ip(), rng);
                let outside = SocketAddr::new(address, self.allocate(address, inside.port(), rng)?);
                self.last = Some(outside.port());
                let key = remote_part(self.config.mapping, remote);
                self.mappings.push(Mapping { inside, remote: key, outside, made: now, used: now, sent_to: BTreeSet::new() });
                self.mappings.len() - 1
            }
        };
        let mapping = &mut self.mappings[index];
        mapping.used = now;
        mapping.sent_to.insert(remote);
        Some(mapping.outside)
    }

    /// A datagram from `from` comes to a port of the (first) outside address: to whom inside it goes. `None`: nobody, or it is filtered,
    /// or it is from the inside itself, mapped like all others (RFC 4787 REQ-9), and the NAT has no hairpin.
    pub fn inbound(&mut self, now: Instant, from: SocketAddr, port: u16) -> Option<SocketAddr> {
        self.inbound_at(now, from, SocketAddr::new(self.config.outside, port))
    }

    /// [`Nat::inbound`] for any of its addresses.
    pub fn inbound_at(&mut self, now: Instant, from: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        self.expire(now);
        if self.has(from.ip()) && !self.config.hairpin {
            return None;
        }
        let (filtering, refreshes) = (self.config.filtering, self.config.inbound_refreshes);
        let mapping = self.mappings.iter_mut().find(|one| one.outside == to)?;
        let admitted = mapping.sent_to.iter().any(|one| remote_part(filtering, *one) == remote_part(filtering, from));
        if !admitted {
            return None;
        }
        if refreshes {
            mapping.used = now;
        }
        Some(mapping.inside)
    }

    /// Who has this port of the (first) outside address.
    pub fn inside(&self, port: u16) -> Option<SocketAddr> {
        let outside = SocketAddr::new(self.config.outside, port);
        self.mappings.iter().find(|one| one.outside == outside).map(|one| one.inside)
    }

    /// Whose mapping an outside end is, for what is told about it (ICMP): no filter looks, and it counts as no use (RFC 5508 REQ-4).
    pub fn who_has(&mut self, now: Instant, outside: SocketAddr) -> Option<SocketAddr> {
        self.expire(now);
        self.mappings.iter().find(|one| one.outside == outside).map(|one| one.inside)
    }

    /// How an inside end is seen by another one, if it is; the same for what is told the other way.
    pub fn seen_as(&mut self, now: Instant, inside: SocketAddr, remote: SocketAddr) -> Option<SocketAddr> {
        self.expire(now);
        self.find(inside, remote).map(|index| self.mappings[index].outside)
    }

    /// Whether an address is one of those that the world sees.
    pub fn has(&self, address: IpAddr) -> bool {
        self.config.outside == address || self.config.more.contains(&address)
    }

    fn find(&self, inside: SocketAddr, remote: SocketAddr) -> Option<usize> {
        let key = remote_part(self.config.mapping, remote);
        self.mappings.iter().position(|one| one.inside == inside && one.remote == key)
    }

    /// The outside address for a new mapping of a host.
    fn address(&self, host: IpAddr, rng: &mut Rng) -> IpAddr {
        let config = &self.config;
        if config.more.is_empty() {
            return config.outside;
        }
        let known = self.mappings.iter().find(|one| one.inside.ip() == host).filter(|_| config.pooling == Pooling::Paired);
        let any = rng.below(1 + config.more.len() as u32) as usize;
        match (known, any.checked_sub(1)) {
            (Some(known), _) => known.outside.ip(),
            (None, Some(index)) => config.more[index],
            (None, None) => config.outside,
        }
    }

    fn expire(&mut self, now: Instant) {
        let (idle, lifetime) = (self.config.idle, self.config.lifetime);
        let over = |since: Instant, limit: Option<Duration>| limit.is_some_and(|limit| now.duration_since(since) >= limit);
        self.mappings.retain(|one| !over(one.used, idle) && !over(one.made, lifetime));
    }

    /// No port stands for two mappings at once (RFC 4787 REQ-3: no overloading).
    fn allocate(&self, address: IpAddr, preferred: u16, rng: &mut Rng) -> Option<u16> {
        let (first, last) = (i32::from(*self.config.ports.start()), i32::from(*self.config.ports.end()));
        let count = last - first + 1;
        let is_free = |port: u16| self.mappings.iter().all(|one| one.outside != SocketAddr::new(address, port));
        let wrapped = |port: i32| (first + (port - first).rem_euclid(count)) as u16;
        let (begin, step) = match (self.config.allocation, self.last) {
            (Allocation::Preserving, _) => (preferred.into(), 1),
            (Allocation::Step(step), Some(before)) => (i32::from(before) + i32::from(step), step.into()),
            (Allocation::Step(step), None) => (first, step.into()),
            (Allocation::Random, _) => (first + rng.below(count as u32) as i32, 1),
        };
        if self.config.allocation == Allocation::Preserving && is_free(preferred) {
            return Some(preferred);
        }
        let by_step = (0..count).map(|n| wrapped(begin + n * step));
        // A step that does not reach all ports takes any in the end.
        let any = (0..count).map(|n| wrapped(first + n));
        by_step.chain(any).find(|port| is_free(*port))
    }
}

/// What of the other end counts.
fn remote_part(behaviour: Behaviour, remote: SocketAddr) -> (Option<IpAddr>, Option<u16>) {
    match behaviour {
        Behaviour::EndpointIndependent => (None, None),
        Behaviour::AddressDependent => (Some(remote.ip()), None),
        Behaviour::AddressAndPortDependent => (Some(remote.ip()), Some(remote.port())),
    }
}
