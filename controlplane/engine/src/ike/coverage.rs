//! What the Child SAs of a peer carry of a configured pair of selectors, as sets of packets. A packet belongs to the most specific pair
//! that it is in: what carries nothing of a pair but what is in a smaller one carries nothing that is its own.
//!
//! What was negotiated is as the peer wants it. So the work has a bound, and where that is reached something counts as not carried.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use adit_proto::control::{ChildId, Selector};
use adit_proto::ike::{AddressRange, IpSelector, PortRange};
use adit_proto::limits::SELECTORS_OF_CHILD_MAX;

use super::child::ChildState;
use super::children::Children;
use super::selectors::{SelectorPair, intersect, pair_of, sides_of};
use crate::limits::{CUTS_MAX, PARTS_LISTED_MAX, PIECES_MAX, REGIONS_MAX};

/// How much of a configured pair Child SAs carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Carried {
    /// No packet of it.
    #[default]
    Nothing,
    /// None but those that belong to smaller pairs in it.
    OfOthers,
    Part,
    Whole,
}

impl Carried {
    /// Whether no packet that belongs to the pair is carried.
    pub(super) fn is_missing(self) -> bool {
        matches!(self, Carried::Nothing | Carried::OfOthers)
    }
}

/// Packets between two ranges of addresses and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Region {
    is_v6: bool,
    /// 0 is any.
    protocol: u8,
    /// Remote and local addresses, remote and local ports: the first and the last of each. In this order they are cut, since peers narrow
    /// their own side most.
    ranges: [(u128, u128); 4],
}

impl Region {
    /// `None` for what cannot be told by numbers: OPAQUE ports.
    fn of(pair: &Selector) -> Option<Region> {
        let number = |address: IpAddr| match address {
            IpAddr::V4(address) => address.to_bits().into(),
            IpAddr::V6(address) => address.to_bits(),
        };
        let addresses = |range: &AddressRange| (number(range.first()), number(range.last()));
        let ports = |range: PortRange| (range.first.into(), range.last.into());
        let ranges = [addresses(&pair.remote), addresses(&pair.local), ports(pair.remote_ports), ports(pair.local_ports)];
        let rises = ranges.iter().all(|(first, last)| first <= last);
        rises.then_some(Region { is_v6: pair.remote.first().is_ipv6(), protocol: pair.protocol, ranges })
    }

    fn selector(&self) -> Selector {
        let [remote, local, remote_ports, local_ports] = self.ranges;
        let v4 = |number: u128| Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX));
        let addresses = |(first, last)| match self.is_v6 {
            true => AddressRange::V6 { first: Ipv6Addr::from_bits(first), last: Ipv6Addr::from_bits(last) },
            false => AddressRange::V4 { first: v4(first), last: v4(last) },
        };
        let port = |number: u128| u16::try_from(number).unwrap_or(u16::MAX);
        let ports = |(first, last)| PortRange { first: port(first), last: port(last) };
        Selector {
            local: addresses(local),
            remote: addresses(remote),
            protocol: self.protocol,
            local_ports: ports(local_ports),
            remote_ports: ports(remote_ports),
        }
    }

    /// Whether all of it is in the other one, too.
    fn is_in(&self, other: &Region) -> bool {
        let within = |((first, last), (from, to)): (&(u128, u128), &(u128, u128))| from <= first && last <= to;
        self.is_v6 == other.is_v6
            && (other.protocol == 0 || other.protocol == self.protocol)
            && self.ranges.iter().zip(&other.ranges).all(within)
    }

    /// Whether any packet is in both.
    fn meets(&self, other: &Region) -> bool {
        let meet = |((first, last), (from, to)): (&(u128, u128), &(u128, u128))| first <= to && from <= last;
        self.is_v6 == other.is_v6
            && (self.protocol == 0 || other.protocol == 0 || self.protocol == other.protocol)
            && self.ranges.iter().zip(&other.ranges).all(meet)
    }

    /// Adds what is left of it without the other one. All protocols but one are no region: of any protocol only any protocol is cut.
    fn without(mut self, cut: &Region, left: &mut Vec<Region>) {
        if !self.meets(cut) || (self.protocol == 0 && cut.protocol != 0) {
            return left.push(self);
        }
        for (side, (from, to)) in cut.ranges.into_iter().enumerate() {
            let (first, last) = self.ranges[side];
            let mut add = |range| {
                let mut piece = self;
                piece.ranges[side] = range;
                left.push(piece);
            };
            if first < from {
                add((first, from - 1));
            }
            if to < last {
                add((to + 1, last));
            }
            self.ranges[side] = (first.max(from), last.min(to));
        }
    }
}

/// The Child SAs of one configured child, to be asked what they carry.
pub(super) struct Coverage<'a> {
    carried: Vec<&'a SelectorPair>,
    cuts_left: usize,
}

impl<'a> Coverage<'a> {
    /// Of all but those that are about to be deleted by us. Lanes have the selectors of their Child SA.
    pub(super) fn of(children: &'a Children, config: usize) -> Coverage<'a> {
        let there = || children.iter().filter(|child| child.config == config && child.state != ChildState::Closing);
        let firsts: BTreeSet<ChildId> = there().filter(|child| child.lane == 0).map(|child| child.id).collect();
        let counts = there().filter(|child| child.lane == 0 || !firsts.contains(&child.id));
        Coverage { carried: counts.map(|child| &child.selectors).collect(), cuts_left: CUTS_MAX }
    }

    /// How much there is of one of the configured pairs.
    pub(super) fn carried(&mut self, pairs: &[Selector], pair: &Selector) -> Carried {
        let regions = regions_in(&self.carried, pair);
        let Some(whole) = Region::of(pair).filter(|_| !regions.is_empty()) else { return Carried::Nothing };
        if regions.contains(&whole) {
            return Carried::Whole;
        }
        let others = smaller(pairs, &whole);
        let cuts: Vec<Region> = regions.iter().chain(&others).copied().collect();
        if self.without(whole, &cuts).is_empty() {
            return Carried::Whole;
        }
        let has_own = regions.into_iter().any(|region| !self.without(region, &others).is_empty());
        if has_own { Carried::Part } else { Carried::OfOthers }
    }

    /// Some of what belongs to a pair and is carried, for people.
    pub(super) fn parts(&mut self, pairs: &[Selector], pair: &Selector) -> Vec<Selector> {
        let Some(whole) = Region::of(pair) else { return Vec::new() };
        let others = smaller(pairs, &whole);
        let mut own = regions_in(&self.carried, pair);
        own.retain(|region| !others.iter().any(|other| region.is_in(other)));
        own.iter().take(PARTS_LISTED_MAX).map(Region::selector).collect()
    }

    /// What no Child SA carries of a pair, as the two sides of a request: those parts of it that have our side in common. Another `turn`,
    /// others of them. None where nothing can be asked for but what is carried in part.
    pub(super) fn rest(&mut self, pair: &Selector, turn: u32) -> SelectorPair {
        let regions = regions_in(&self.carried, pair);
        let mut rest = Region::of(pair).map_or_else(Vec::new, |whole| self.without(whole, &regions));
        rest.retain(|piece| !regions.iter().any(|region| region.meets(piece)));
        let mut sides: Vec<(IpSelector, Vec<IpSelector>)> = Vec::new();
        for (local, remote) in rest.iter().map(|region| sides_of(&region.selector())) {
            match sides.iter_mut().find(|(known, _)| *known == local) {
                Some((_, remotes)) => remotes.push(remote),
                None => sides.push((local, vec![remote])),
            }
        }
        let turn = usize::try_from(turn).unwrap_or(0) % sides.len().max(1);
        let (local, mut remote) =
            sides.into_iter().nth(turn).map_or_else(Default::default, |(local, remote)| (vec![local], remote));
        remote.truncate(SELECTORS_OF_CHILD_MAX);
        SelectorPair { local, remote }
    }

    /// Whether one with these selectors would carry anything of the configured pairs that the others do not.
    pub(super) fn grows_by(&mut self, pairs: &[Selector], selectors: &SelectorPair) -> bool {
        pairs.iter().any(|pair| {
            let there = regions_in(&self.carried, pair);
            regions_in(&[selectors], pair).into_iter().any(|region| !self.without(region, &there).is_empty())
        })
    }

    /// What is left of a region, or more where that is too much work.
    fn without(&mut self, region: Region, cuts: &[Region]) -> Vec<Region> {
        let mut left = vec![region];
        for cut in cuts {
            if left.is_empty() || left.len() > PIECES_MAX || self.cuts_left < left.len() {
                break;
            }
            self.cuts_left -= left.len();
            let mut pieces = Vec::with_capacity(left.len() + 1);
            left.into_iter().for_each(|piece| piece.without(cut, &mut pieces));
            left = pieces;
        }
        left
    }
}

/// What all of these carry of a pair.
fn regions_in(carried: &[&SelectorPair], pair: &Selector) -> Vec<Region> {
    let (local, remote) = sides_of(pair);
    let common = |side: &[IpSelector], one: &IpSelector| -> Vec<IpSelector> {
        side.iter().filter_map(|other| intersect(other, one)).collect()
    };
    let mut regions = BTreeSet::new();
    for selectors in carried {
        let remotes = common(&selectors.remote, &remote);
        if remotes.is_empty() {
            continue;
        }
        for local in common(&selectors.local, &local) {
            let both = remotes.iter().filter_map(|remote| pair_of(&local, remote));
            regions.extend(both.filter_map(|pair| Region::of(&pair)));
            if regions.len() >= REGIONS_MAX {
                return regions.into_iter().take(REGIONS_MAX).collect();
            }
        }
    }
    regions.into_iter().collect()
}

/// The configured pairs that lie in another one.
fn smaller(pairs: &[Selector], whole: &Region) -> Vec<Region> {
    let is_smaller = |other: &Region| other != whole && other.is_in(whole);
    pairs.iter().filter_map(Region::of).filter(is_smaller).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ADDRESSES: u32 = 6;
    const PORTS: u16 = 3;

    fn range(first: u32, last: u32) -> AddressRange {
        let address = |number: u32| Ipv4Addr::from_bits(0x0a00_0000 + number);
        AddressRange::V4 { first: address(first), last: address(last) }
    }

    fn ordered<T: PartialOrd>((one, other): (T, T)) -> (T, T) {
        if one <= other { (one, other) } else { (other, one) }
    }

    /// A pair in a small world, with ports if it is TCP.
    fn pair() -> impl Strategy<Value = Selector> {
        let addresses = || (0..ADDRESSES, 0..ADDRESSES).prop_map(ordered);
        let ports = || (0..PORTS, 0..PORTS).prop_map(ordered);
        (addresses(), addresses(), prop::option::of((ports(), ports()))).prop_map(|(local, remote, ports)| {
            let any = Selector::any_of(range(local.0, local.1), range(remote.0, remote.1));
            let Some((here, there)) = ports else { return any };
            let of = |(first, last)| PortRange { first, last };
            Selector { protocol: 6, local_ports: of(here), remote_ports: of(there), ..any }
        })
    }

    /// Every packet of the small world, TCP and UDP.
    fn packets() -> impl Iterator<Item = Selector> {
        let addresses = (0..ADDRESSES).flat_map(|local| (0..ADDRESSES).map(move |remote| (local, remote)));
        let ports = || (0..PORTS).flat_map(|here| (0..PORTS).map(move |there| (here, there)));
        let one = |port| PortRange { first: port, last: port };
        addresses.flat_map(move |(local, remote)| {
            ports().flat_map(move |(here, there)| {
                [6, 17].map(|protocol| {
                    let any = Selector::any_of(range(local, local), range(remote, remote));
                    Selector { protocol, local_ports: one(here), remote_ports: one(there), ..any }
                })
            })
        })
    }

    fn holds(pair: &Selector, packet: &Selector) -> bool {
        Region::of(packet).zip(Region::of(pair)).is_some_and(|(packet, pair)| packet.is_in(&pair))
    }

    fn both_sides(pair: &Selector) -> SelectorPair {
        let (local, remote) = sides_of(pair);
        SelectorPair { local: vec![local], remote: vec![remote] }
    }

    fn coverage_by(carried: &[SelectorPair]) -> Coverage<'_> {
        Coverage { carried: carried.iter().collect(), cuts_left: CUTS_MAX }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// The same as looking at each packet.
        #[test]
        fn what_is_carried_is_told_of_every_packet(
            pairs in prop::collection::vec(pair(), 1..5),
            agreed in prop::collection::vec(pair(), 0..5),
        ) {
            let carried: Vec<SelectorPair> = agreed.iter().map(both_sides).collect();
            let mut coverage = coverage_by(&carried);
            let is_carried = |packet: &Selector| agreed.iter().any(|one| holds(one, packet));
            for whole in &pairs {
                let is_smaller = |other: &&Selector| *other != whole && holds(whole, other);
                let smaller: Vec<&Selector> = pairs.iter().filter(is_smaller).collect();
                let mine: Vec<Selector> = packets().filter(|packet| holds(whole, packet)).collect();
                let (own, _): (Vec<_>, Vec<_>) = mine.iter().partition(|packet| !smaller.iter().any(|one| holds(one, packet)));
                let is_any = mine.iter().any(is_carried);
                let there: Vec<bool> = own.into_iter().map(&is_carried).collect();
                let expected = match (is_any, !there.contains(&false), there.contains(&true)) {
                    (false, ..) => Carried::Nothing,
                    (true, true, _) => Carried::Whole,
                    (true, false, true) => Carried::Part,
                    (true, false, false) => Carried::OfOthers,
                };
                prop_assert_eq!(coverage.carried(&pairs, whole), expected, "{} of {:?} by {:?}", whole, pairs, agreed);
                let of_rest = |turn| {
                    let SelectorPair { local, remote } = coverage_by(&carried).rest(whole, turn);
                    let local = local.first().copied();
                    remote.iter().filter_map(|remote| pair_of(&local?, remote)).collect()
                };
                let parts = (0..60).map(of_rest).take_while(|part: &Vec<Selector>| !part.is_empty());
                let rest: Vec<Selector> = parts.flatten().collect();
                // All protocols but one cannot be asked for.
                let is_mixed = agreed.iter().any(|one| one.protocol != whole.protocol);
                for packet in packets() {
                    let is_left = holds(whole, &packet) && !is_carried(&packet);
                    let is_asked_for = rest.iter().any(|one| holds(one, &packet));
                    prop_assert!(is_asked_for || !is_left || is_mixed, "{} is left of {}, carried {:?}", packet, whole, agreed);
                    prop_assert!(!is_asked_for || is_left, "{} of {} is asked for, carried {:?}", packet, whole, agreed);
                }
            }
        }
    }

    #[test]
    fn ipv6_opaque_ports_and_the_ends_of_the_numbers() {
        let all = Selector::any_of(AddressRange::ANY_V6, AddressRange::ANY_V6);
        let v6 = |text: &str| text.parse::<Ipv6Addr>().unwrap();
        let half = |first, last| Selector { remote: AddressRange::V6 { first: v6(first), last: v6(last) }, ..all };
        let (low, high) =
            (half("::", "7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), half("8000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"));
        let carried = [both_sides(&low), both_sides(&high)];
        assert_eq!(coverage_by(&carried).carried(&[all], &all), Carried::Whole);
        assert_eq!(coverage_by(&carried[..1]).carried(&[all], &all), Carried::Part);
        assert_eq!(coverage_by(&carried[..1]).rest(&all, 0), both_sides(&high));
        // Packets without ports alone are not those with ports.
        let opaque = Selector { protocol: 6, remote_ports: PortRange::OPAQUE, ..all };
        assert_eq!(coverage_by(&[both_sides(&opaque)]).carried(&[all], &all), Carried::Nothing);
        // A pair of one IP version has nothing of the other.
        let v4 = Selector::any_of(AddressRange::ANY_V4, AddressRange::ANY_V4);
        assert_eq!(coverage_by(&carried).carried(&[v4, all], &v4), Carried::Nothing);
    }

    #[test]
    fn what_a_peer_cuts_to_pieces_costs_no_more_than_there_is_a_limit() {
        // Every second address of both sides, 64 times 64 pieces, for each of as many pairs as a peer can have.
        let odd = |side: u32| (0..64).map(move |n| IpSelector::any_of(range(side + 2 * n, side + 2 * n))).collect::<Vec<_>>();
        let carried = vec![SelectorPair { local: odd(0), remote: odd(1) }; 8];
        let mut coverage = coverage_by(&carried);
        let pairs: Vec<Selector> = (128..383).map(|last| Selector::any_of(range(0, last), range(0, last))).collect();
        for pair in &pairs {
            assert_ne!(coverage.carried(&pairs[..1], pair), Carried::Whole);
            let rest = coverage.rest(pair, 0);
            assert!(rest.local.len() <= 1 && rest.remote.len() <= SELECTORS_OF_CHILD_MAX);
        }
        assert!(coverage.cuts_left < PIECES_MAX * 9, "the work has ended before the pairs");
        // Without more work, what is not in one Child SA is not carried as a whole.
        let halves = [range(0, 63), range(64, 127)].map(|half| both_sides(&Selector::any_of(range(0, 127), half)));
        let mut tired = Coverage { carried: halves.iter().collect(), cuts_left: 0 };
        let pair = Selector::any_of(range(0, 127), range(0, 127));
        assert_eq!(tired.carried(&[pair], &pair), Carried::Part);
        assert_eq!(Coverage { cuts_left: CUTS_MAX, ..tired }.carried(&[pair], &pair), Carried::Whole);
    }
}
