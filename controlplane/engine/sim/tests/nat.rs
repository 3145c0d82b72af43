//! The NAT behaves as RFC 4787 says of its kind, whatever is sent in whatever order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use adit_sim::{Allocation, Behaviour, Nat, NatConfig, Pooling, Rng};
use proptest::prelude::*;

#[expect(clippy::disallowed_methods, reason = "virtual time has to begin at some instant")]
fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

fn at(seconds: u64) -> Instant {
    start() + Duration::from_secs(seconds)
}

fn outside() -> std::net::IpAddr {
    [198, 51, 100, 1].into()
}

fn inside(host: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], port))
}

fn remote(host: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host], port))
}

fn behaviour() -> impl Strategy<Value = Behaviour> {
    prop_oneof![Just(Behaviour::EndpointIndependent), Just(Behaviour::AddressDependent), Just(Behaviour::AddressAndPortDependent)]
}

fn allocation() -> impl Strategy<Value = Allocation> {
    prop_oneof![Just(Allocation::Preserving), (-9i16..10).prop_map(Allocation::Step), Just(Allocation::Random)]
}

/// Whether two other ends are one for this behaviour.
fn same(behaviour: Behaviour, one: SocketAddr, other: SocketAddr) -> bool {
    match behaviour {
        Behaviour::EndpointIndependent => true,
        Behaviour::AddressDependent => one.ip() == other.ip(),
        Behaviour::AddressAndPortDependent => one == other,
    }
}

proptest! {
    /// RFC 4787 §4.1 and §5 over any traffic: one mapping for what is the same, another one for what is not, never two inside ends
    /// on one port, and in comes who was sent to, as far as the filter looks.
    #[test]
    fn mapping_and_filtering_are_of_their_kind(
        mapping in behaviour(), filtering in behaviour(), allocation in allocation(), seed: u64,
        sends in prop::collection::vec((0u8..4, 0u16..3, 0u8..4, 0u16..3), 1..60),
    ) {
        let config = NatConfig { mapping, filtering, allocation, idle: None, ..NatConfig::usual(outside()) };
        let (mut nat, mut rng) = (Nat::new(config), Rng::new(seed));
        let mut seen: Vec<(SocketAddr, SocketAddr, SocketAddr)> = Vec::new();
        for (host, port, to, to_port) in sends {
            let (from, to) = (inside(host, 5000 + port), remote(to, 500 + to_port));
            let mapped = nat.outbound(at(0), from, to, &mut rng).unwrap();
            prop_assert_eq!(mapped.ip(), outside());
            for (other_from, other_to, other_mapped) in &seen {
                let one = from == *other_from && same(mapping, to, *other_to);
                prop_assert_eq!(mapped == *other_mapped, one, "{} > {} and {} > {}", from, to, other_from, other_to);
            }
            seen.push((from, to, mapped));
        }
        for (from, _, mapped) in &seen {
            for (host, port) in (0..5).flat_map(|host| (0..4).map(move |port| (host, port))) {
                let sender = remote(host, 500 + port);
                let sent_to = seen.iter().any(|(_, to, other)| other == mapped && same(filtering, *to, sender));
                prop_assert_eq!(nat.inbound(at(0), sender, mapped.port()), sent_to.then_some(*from));
            }
        }
        prop_assert_eq!(nat.inbound(at(0), remote(1, 500), 1), None, "a port that stands for nobody");
    }

    /// REQ-5, REQ-6: a mapping lives as long as it is used, by the directions that count, and never longer than it may.
    #[test]
    fn a_mapping_lives_as_long_as_it_is_used_and_may(
        idle in 2u64..100, lifetime in prop::option::of(2u64..300), inbound_refreshes: bool,
        uses in prop::collection::vec((0u64..120, any::<bool>()), 1..30),
    ) {
        let config = NatConfig {
            idle: Some(Duration::from_secs(idle)),
            lifetime: lifetime.map(Duration::from_secs),
            inbound_refreshes,
            allocation: Allocation::Step(1),
            filtering: Behaviour::EndpointIndependent,
            ..NatConfig::usual(outside())
        };
        let (mut nat, mut rng) = (Nat::new(config), Rng::new(1));
        let mut port = nat.outbound(at(0), inside(1, 1), remote(1, 1), &mut rng).unwrap().port();
        let (mut now, mut made, mut used) = (0, 0, 0);
        for (pause, from_inside) in uses {
            now += pause;
            let alive = now - used < idle && lifetime.is_none_or(|lifetime| now - made < lifetime);
            if from_inside {
                let mapped = nat.outbound(at(now), inside(1, 1), remote(1, 1), &mut rng).unwrap().port();
                prop_assert_eq!(mapped == port, alive);
                (port, used, made) = (mapped, now, if alive { made } else { now });
            } else {
                prop_assert_eq!(nat.inbound(at(now), remote(9, 9), port).is_some(), alive);
                used = if alive && inbound_refreshes { now } else { used };
            }
        }
    }

    /// §4.2.1: each kind of allocation, and all ports are used before one is refused.
    #[test]
    fn every_port_is_given_once(allocation in allocation(), count in 1u16..40, seed: u64) {
        let ports = 2000..=1999 + count;
        let config = NatConfig { allocation, ports: ports.clone(), ..NatConfig::usual(outside()) };
        let (mut nat, mut rng) = (Nat::new(config), Rng::new(seed));
        let mut open = |n: u16| nat.outbound(at(0), inside(1, 3000 + n), remote(1, 1), &mut rng).map(|mapped| mapped.port());
        let given: Vec<u16> = (0..count).map_while(&mut open).collect();
        if allocation == Allocation::Preserving {
            prop_assert!(given.iter().zip(3000..).all(|(given, wanted)| *given == wanted), "all of them are free");
        } else {
            prop_assert_eq!(given.iter().copied().collect::<BTreeSet<_>>(), ports.collect::<BTreeSet<_>>());
            prop_assert_eq!(open(count), None);
        }
    }
}

#[test]
fn a_preserved_port_that_is_taken_is_the_next_one() {
    let (mut nat, mut rng) = (Nat::new(NatConfig::usual(outside())), Rng::new(1));
    let mut port = |host| nat.outbound(at(0), inside(host, 4500), remote(1, 1), &mut rng).unwrap().port();
    assert_eq!([port(1), port(2), port(3)], [4500, 4501, 4502]);
}

#[test]
fn steps_can_be_foretold_and_chance_cannot() {
    let ports = |allocation: Allocation, seed| {
        let config = NatConfig { mapping: Behaviour::AddressAndPortDependent, allocation, ..NatConfig::usual(outside()) };
        let (mut nat, mut rng) = (Nat::new(config), Rng::new(seed));
        let port = |n| i32::from(nat.outbound(at(0), inside(1, 1), remote(1, n), &mut rng).unwrap().port());
        (0..50).map(port).collect::<Vec<_>>()
    };
    assert!(ports(Allocation::Step(2), 1).windows(2).all(|pair| pair[1] == pair[0] + 2));
    let differences = |seed| {
        let ports = ports(Allocation::Random, seed);
        ports.windows(2).fold(BTreeMap::new(), |mut all: BTreeMap<i32, u32>, pair| {
            *all.entry(pair[1] - pair[0]).or_default() += 1;
            all
        })
    };
    assert!(differences(1).values().all(|times| *times < 4));
    assert_ne!(ports(Allocation::Random, 1), ports(Allocation::Random, 2));
}

#[test]
fn inside_ends_reach_each_other_outside_with_hairpin_only() {
    for hairpin in [true, false] {
        let filtering = Behaviour::AddressAndPortDependent;
        let (mut nat, mut rng) = (Nat::new(NatConfig { hairpin, filtering, ..NatConfig::usual(outside()) }), Rng::new(1));
        let [one, other] = [inside(1, 4500), inside(2, 4500)];
        let [seen_one, seen_other] = [one, other].map(|end| nat.outbound(at(0), end, remote(1, 1), &mut rng).unwrap());
        // Both send, as those do who punch holes: the first of the two is filtered.
        assert_eq!(nat.outbound(at(1), one, seen_other, &mut rng), Some(seen_one));
        assert_eq!(nat.inbound(at(1), seen_one, seen_other.port()), None);
        assert_eq!(nat.outbound(at(1), other, seen_one, &mut rng), Some(seen_other));
        assert_eq!(nat.inbound(at(1), seen_other, seen_one.port()), hairpin.then_some(one));
        assert_eq!(nat.inbound(at(1), seen_one, seen_other.port()), hairpin.then_some(other));
    }
}

#[test]
fn what_is_switched_off_and_on_has_forgotten() {
    let (mut nat, mut rng) = (Nat::new(NatConfig::counting(outside(), 40_000)), Rng::new(1));
    assert_eq!(nat.outbound(at(0), inside(1, 500), remote(1, 500), &mut rng).unwrap().port(), 40_000);
    nat.forget();
    assert!(nat.is_empty() && nat.inbound(at(0), remote(1, 500), 40_000).is_none());
    assert_eq!(nat.outbound(at(0), inside(1, 500), remote(1, 500), &mut rng).unwrap().port(), 40_001);
}

/// RFC 4787 REQ-2: of several outside addresses a host has one, or now this and now that one.
#[test]
fn paired_hosts_have_one_address_and_others_several() {
    for pooling in [Pooling::Paired, Pooling::Arbitrary] {
        let more: Vec<std::net::IpAddr> = (2..5).map(|last| [198, 51, 100, last].into()).collect();
        let config = NatConfig { pooling, more, hairpin: false, ..NatConfig::usual(outside()) };
        let (mut nat, mut rng) = (Nat::new(config), Rng::new(1));
        let mut addresses = BTreeSet::new();
        for host in 1..40 {
            let seen: Vec<SocketAddr> =
                (0..20).map(|n| nat.outbound(at(0), inside(host, 5000 + n), remote(1, 1), &mut rng).unwrap()).collect();
            let of_host: BTreeSet<_> = seen.iter().map(|seen| seen.ip()).collect();
            assert_eq!(of_host.len() == 1, pooling == Pooling::Paired, "{host}: {of_host:?}");
            for (n, seen) in (0..20).zip(seen) {
                assert_eq!(nat.inbound_at(at(0), remote(1, 1), seen), Some(inside(host, 5000 + n)));
                assert_eq!(nat.inbound_at(at(0), seen, seen), None, "all of its addresses are its own");
            }
            addresses.extend(of_host);
        }
        assert_eq!(addresses.len(), 4, "all addresses are used");
    }
}

/// RFC 5508 REQ-4: what is told about a mapping passes every filter, and keeps none alive.
#[test]
fn what_is_told_about_a_mapping_is_no_use_of_it() {
    let idle = Some(Duration::from_secs(10));
    let mut nat = Nat::new(NatConfig { idle, ..NatConfig::symmetric(outside()) });
    let seen = nat.outbound(at(0), inside(1, 500), remote(1, 500), &mut Rng::new(1)).unwrap();
    assert_eq!(nat.who_has(at(9), seen), Some(inside(1, 500)));
    assert_eq!(nat.seen_as(at(9), inside(1, 500), remote(1, 500)), Some(seen));
    assert_eq!(nat.seen_as(at(9), inside(1, 500), remote(1, 501)), None, "another mapping, which nobody has made");
    assert_eq!(nat.who_has(at(10), seen), None);
    assert_eq!(nat.seen_as(at(10), inside(1, 500), remote(1, 500)), None);
}
