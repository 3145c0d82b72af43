//! Several Child SAs in one IKE SA: a peer that grants one pair of networks at a time, or makes one Child SA for each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use adit_engine::ike::selectors::{SelectorPair, pair_of, sides_of};
use adit_engine::ike::{Cause, ChildConfig, Event, Lifetime, Missing, Narrowed, PeerConfig, Usage, Wish};
use adit_proto::control::{ChildId, Selector, Spi};
use adit_proto::ike::{AddressRange, ExchangeType, IpSelector, NotifyType, PortRange};
use adit_sim::*;

/// Network `n` of a site: `10.1.n.0/24` behind A, `10.2.n.0/24` behind B.
fn network(node: usize, n: usize) -> adit_proto::ike::IpSelector {
    net(&format!("10.{}.{n}.0/24", node + 1))
}

/// The pairs between networks with the same numbers, as `node` sees them.
fn pairs(node: usize, numbers: impl IntoIterator<Item = usize>) -> Vec<Selector> {
    numbers.into_iter().filter_map(|n| pair_of(&network(node, n), &network(1 - node, n))).collect()
}

/// One configured child with all of these pairs, as Adit has it.
fn all_in_one(node: usize, numbers: std::ops::RangeInclusive<usize>) -> Vec<ChildConfig> {
    let sides = |node: usize| numbers.clone().map(|n| network(node, n)).collect();
    let pairs = pairs(node, numbers.clone());
    vec![ChildConfig { local: sides(node), remote: sides(1 - node), pairs, ..tunnel(node) }]
}

/// A child for each pair: whoever is configured so grants no two in one Child SA.
fn one_for_each(node: usize, numbers: std::ops::RangeInclusive<usize>) -> Vec<ChildConfig> {
    let child = |n| ChildConfig {
        name: format!("net{n}"),
        local: vec![network(node, n)],
        remote: vec![network(1 - node, n)],
        ..tunnel(node)
    };
    numbers.map(child).collect()
}

/// A with three pairs in one child; B with one for each.
fn sites(seed: u64, begins: usize) -> World {
    pair(seed, |node, config| {
        config.children = if node == A { all_in_one(A, 1..=3) } else { one_for_each(B, 1..=3) };
        config.initiate = node == begins;
    })
}

/// The networks behind B that each Child SA of A has, with its id.
fn networks(world: &World) -> BTreeSet<(String, ChildId)> {
    let text = |child: &adit_engine::ike::ChildStatus| {
        child.selectors.remote.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    world.ike(A).children.iter().filter(|child| !child.is_going).map(|child| (text(child), child.id)).collect()
}

fn wait_for(world: &mut World, pairs: usize) {
    let there = |world: &World| world.nodes.iter().all(|node| node.data.has_pairs(pairs));
    assert!(world.run_until(Duration::from_secs(30), there), "{:?}", networks(world));
}

#[test]
fn three_subnets_work_whoever_begins_and_each_is_rekeyed() {
    for begins in [A, B] {
        let mut world = sites(1, begins);
        world.connect_pair();
        wait_for(&mut world, 3);
        world.check_traffic();
        let before = networks(&world);
        let names: BTreeSet<&str> = before.iter().map(|(text, _)| text.as_str()).collect();
        assert_eq!(names, BTreeSet::from(["10.2.1.0/24", "10.2.2.0/24", "10.2.3.0/24"]), "{begins} begins");
        assert_eq!(before.iter().map(|(_, id)| id).collect::<BTreeSet<_>>().len(), 3, "each has an id of its own");
        assert!(world.nodes.iter().all(|node| node.endpoint.status(PEER).expect("the peer").ike[0].missing.is_empty()));
        for node in [A, B] {
            world.act(node, |endpoint, now| endpoint.rekey(now, PEER)).expect("it is connected");
            world.run_for(Duration::from_secs(10));
            wait_for(&mut world, 3);
            world.check_traffic();
            assert_eq!(networks(&world), before, "a rekey keeps selectors and ids");
        }
        world.act(A, |endpoint, now| endpoint.rekey_ike(now, PEER)).expect("it is connected");
        world.run_for(Duration::from_secs(10));
        assert_eq!(networks(&world), before, "another IKE SA inherits them");
    }
}

#[test]
fn one_child_sa_is_rekeyed_alone_at_its_limit() {
    for node in [A, B] {
        let mut world = sites(8, A);
        world.connect_pair();
        wait_for(&mut world, 3);
        let spis = |world: &World| -> BTreeMap<ChildId, [Spi; 2]> {
            let live = world.ike(A).children.into_iter().filter(|child| !child.is_going);
            live.map(|child| (child.id, [child.inbound, child.outbound])).collect()
        };
        let (before, old, due) = (networks(&world), spis(&world), world.ike(node).children[1].inbound);
        let usage = Usage { inbound_packets: Lifetime::CHILD.rekey_packets, ..Usage::default() };
        world.act(node, |endpoint, now| endpoint.handle_usage(now, &BTreeMap::from([(due, usage)])));
        world.run_for(Duration::from_secs(30));
        wait_for(&mut world, 3);
        assert_eq!(networks(&world), before);
        let new = spis(&world);
        let rekeyed: Vec<&[Spi; 2]> = old.iter().filter(|(id, spis)| new.get(*id) != Some(*spis)).map(|(_, spis)| spis).collect();
        assert!(matches!(rekeyed[..], [spis] if spis.contains(&due)), "{due:?} of {node}: {old:?}, then {new:?}");
        world.check_traffic();
    }
}

#[test]
fn one_child_sa_ends_alone_and_comes_back() {
    let mut world = sites(2, A);
    world.connect_pair();
    wait_for(&mut world, 3);
    let gone = world.ike(A).children[1].inbound;
    world.act(A, |endpoint, now| endpoint.close_child(now, gone));
    world.run_for(Duration::from_secs(1));
    assert_eq!(networks(&world).len(), 2);
    world.check_traffic();
    wait_for(&mut world, 3);
    world.check_traffic();
}

#[test]
fn a_new_authentication_and_a_successor_give_each_its_id_again() {
    let mut world = sites(3, A);
    world.connect_pair();
    wait_for(&mut world, 3);
    let before = networks(&world);
    world.act(A, |endpoint, now| endpoint.reauthenticate(now, PEER)).expect("it is connected");
    world.run_for(Duration::from_secs(60));
    wait_for(&mut world, 3);
    assert_eq!(networks(&world), before);
    let mut config = peer(A);
    config.children = all_in_one(A, 1..=3);
    world.succeed(A, endpoint_config(1), &[(PEER, config)]);
    world.run_for(Duration::from_secs(5));
    wait_for(&mut world, 3);
    assert_eq!(networks(&world), before);
    world.check_traffic();
}

fn failures(world: &World) -> usize {
    world.nodes[A].events.iter().filter(|event| matches!(event, Event::ChildFailed { .. })).count()
}

#[test]
fn what_the_peer_refuses_is_said_and_asked_for_ever_more_rarely() {
    let of = |node: usize, last: usize| -> PeerConfig { PeerConfig { children: all_in_one(node, 1..=last), ..peer(node) } };
    let mut world = pair(4, |node, config| config.children = of(node, if node == A { 3 } else { 2 }).children);
    world.connect_pair();
    world.run_for(Duration::from_secs(1));
    let missing = world.ike(A).missing;
    assert_eq!(missing.len(), 1);
    assert_eq!(missing[0].wish, Wish::Selector(0, pairs(A, [3])[0]));
    let refused = Cause::Refused { exchange: ExchangeType::CREATE_CHILD_SA, notify: NotifyType::TS_UNACCEPTABLE };
    assert_eq!(missing[0].cause, Some(refused));
    assert!(missing[0].retry_at.is_some());
    world.run_for(Duration::from_secs(1200));
    let times = failures(&world);
    assert!((10..20).contains(&times), "{times} in 20 minutes");
    wait_for(&mut world, 1);
    world.check_traffic();
    // The peer's configuration is put right.
    let now = world.now();
    world.nodes[B].endpoint.set_peer(now, PEER, of(B, 3)).expect("a good configuration");
    assert!(world.run_until(Duration::from_secs(160), |world| world.ike(A).missing.is_empty()));
    wait_for(&mut world, 2);
    world.check_traffic();
}

#[test]
fn more_than_fit_into_one_child_sa_are_asked_for_in_another() {
    let mut world = pair(5, |node, config| config.children = all_in_one(node, 1..=150));
    world.connect_pair();
    wait_for(&mut world, 3);
    assert!(world.ike(A).missing.is_empty());
    assert_eq!(world.ike(A).children.iter().map(|child| child.selectors.remote.len()).sum::<usize>(), 150);
    world.check_traffic();
}

#[test]
fn a_pair_that_is_not_configured_any_more_ends_and_a_new_one_comes() {
    let mut world = sites(6, A);
    world.connect_pair();
    wait_for(&mut world, 3);
    let mut config = peer(A);
    config.children = all_in_one(A, 2..=3);
    let now = world.now();
    world.act(A, |endpoint, _| endpoint.set_peer(now, PEER, config.clone())).expect("a good configuration");
    wait_for(&mut world, 2);
    config.children = all_in_one(A, 1..=3);
    let now = world.now();
    world.act(A, |endpoint, _| endpoint.set_peer(now, PEER, config)).expect("a good configuration");
    wait_for(&mut world, 3);
    world.check_traffic();
}

#[test]
fn lanes_belong_to_their_child_sas() {
    let mut world = pair(7, |node, config| {
        config.children = if node == A { all_in_one(A, 1..=2) } else { one_for_each(B, 1..=2) };
        config.children.iter_mut().for_each(|child| child.lanes = 3);
    });
    world.connect_pair();
    wait_for(&mut world, 6);
    let mut lanes: Vec<_> = world.ike(A).children.iter().map(|child| (child.id.0, child.lane)).collect();
    lanes.sort();
    assert_eq!(lanes, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]);
    world.check_traffic();
}

/// `10.1.0.0/16[6/443]`, or of IPv6 addresses.
fn side(text: &str) -> IpSelector {
    let (network, rest) = text.split_once('[').map_or((text, None), |(network, rest)| (network, rest.strip_suffix("/443]")));
    let (address, bits) = network.split_once('/').expect("a prefix");
    let bits: u32 = bits.parse().expect("a length");
    let addresses = match address.parse().expect("an address") {
        IpAddr::V4(first) => AddressRange::V4 { first, last: (first.to_bits() | u32::MAX.checked_shr(bits).unwrap_or(0)).into() },
        IpAddr::V6(first) => {
            AddressRange::V6 { first, last: (first.to_bits() | u128::MAX.checked_shr(bits).unwrap_or(0)).into() }
        }
    };
    let ports = if rest.is_some() { PortRange { first: 443, last: 443 } } else { PortRange::ANY };
    IpSelector { protocol: rest.map_or(0, |protocol| protocol.parse().expect("a protocol")), ports, addresses }
}

/// A configured child with these pairs, `A's side > B's side`, as one end sees them.
fn child_of(node: usize, texts: &[&str]) -> ChildConfig {
    let sides = texts.iter().map(|text| text.split_once(" > ").expect("two sides")).map(|(a, b)| [side(a), side(b)]);
    let sides: Vec<(IpSelector, IpSelector)> = sides.map(|both| (both[node], both[1 - node])).collect();
    let pairs = sides.iter().filter_map(|(local, remote)| pair_of(local, remote)).collect();
    let (local, remote) = sides.into_iter().unzip();
    ChildConfig { local, remote, pairs, ..tunnel(node) }
}

/// A has all of its pairs in one child; B a child for each of its own, and has no more than that.
fn narrowing(seed: u64, begins: usize, (a, b): (&[&str], &[&str])) -> World {
    pair(seed, |node, config| {
        config.children = match node {
            A => vec![child_of(A, a)],
            _ => b.iter().map(|text| ChildConfig { name: (*text).into(), ..child_of(B, &[*text]) }).collect(),
        };
        config.initiate = node == begins;
    })
}

/// The pairs of A that are missing, and those of which there is a part, with that part.
fn lacks(world: &World) -> (Vec<String>, Vec<(String, String)>) {
    let ike = world.ike(A);
    let missing = |one: &Missing| if let Wish::Selector(_, pair) = one.wish { pair.to_string() } else { "any".into() };
    let parts = |one: &Narrowed| one.carried.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let narrowed = ike.narrowed.iter().map(|one| (one.selector.to_string(), parts(one))).collect();
    (ike.missing.iter().map(missing).collect(), narrowed)
}

/// What A has made so far, and with how many requests for Child SAs.
fn made(world: &World) -> (u64, usize) {
    let requests = world.messages().iter().filter(|text| text.starts_with("CREATE_CHILD_SA request")).count();
    (world.nodes[A].endpoint.counters().children_created, requests)
}

const NESTED: &[(&str, [&str; 2])] = &[
    ("a network in a larger one", ["10.1.0.0/24 > 10.2.0.0/24", "10.1.0.0/24 > 10.0.0.0/8"]),
    ("a network in everything", ["10.1.0.0/24 > 10.2.0.0/24", "0.0.0.0/0 > 0.0.0.0/0"]),
    ("the same of IPv6", ["fd01::/64 > fd02::/64", "fd01::/64 > ::/0"]),
    ("one with ports in one without", ["10.1.0.0/24[6/443] > 10.2.0.0/24[6/443]", "10.1.0.0/24 > 10.2.0.0/24"]),
    ("the larger one first", ["10.1.0.0/24 > 10.0.0.0/8", "10.1.0.0/24 > 10.2.0.0/24"]),
];

#[test]
fn of_nested_pairs_each_has_a_child_sa_whoever_begins() {
    for (index, (what, both)) in NESTED.iter().enumerate() {
        for begins in [A, B] {
            let mut world = narrowing(20 + index as u64, begins, (both, both));
            world.connect_pair();
            world.run_for(Duration::from_secs(30));
            assert_eq!(lacks(&world), (vec![], vec![]), "{what}, {begins} begins");
            let (live, before) = (world.nodes[A].data.outbound.len(), made(&world));
            assert!((1..=2).contains(&live) && world.nodes[B].data.has_pairs(live), "{what}, {begins} begins: {live}");
            world.run_for(Duration::from_secs(600));
            assert_eq!(made(&world), before, "{what}, {begins} begins: nothing is made again");
            world.check_traffic();
            let carries = |pair: &Selector| {
                let (local, remote) = sides_of(pair);
                let pair = SelectorPair { local: vec![local], remote: vec![remote] };
                world.ike(A).children.iter().any(|child| child.selectors.covers(&pair))
            };
            assert!(child_of(A, both).pairs.iter().all(carries), "{what}, {begins} begins");
        }
    }
}

#[test]
fn a_larger_pair_is_missing_though_a_smaller_one_in_it_is_there() {
    for (index, (what, both)) in NESTED[..4].iter().enumerate() {
        let mut world = narrowing(30 + index as u64, A, (both, &both[..1]));
        world.connect_pair();
        world.run_for(Duration::from_secs(20));
        let (missing, narrowed) = lacks(&world);
        let wide = &child_of(A, &both[1..]).pairs[0];
        assert_eq!((missing, narrowed), (vec![wide.to_string()], vec![]), "{what}");
        let refused = Cause::Refused { exchange: ExchangeType::CREATE_CHILD_SA, notify: NotifyType::TS_UNACCEPTABLE };
        // All packets but those with some ports are nothing that could be asked for: the peer grants what there is.
        let expected = if index < 3 { refused } else { Cause::Narrowed };
        assert_eq!(world.ike(A).missing[0].cause, Some(expected), "{what}");
        assert!(world.nodes[A].data.has_pairs(1) && world.nodes[B].data.has_pairs(1), "{what}");
        world.check_traffic();
        assert!(world.nodes.iter().all(|node| node.data.lost.is_empty()), "{what}");
    }
}

#[test]
fn the_rest_of_a_narrowed_pair_is_asked_for_and_no_child_sa_is_made_twice() {
    let table: &[(&str, &str, &str)] = &[
        ("10.1.0.0/16 > 10.2.0.0/16", "10.1.0.0/16 > 10.2.7.0/24", "10.1.0.0/16 <> 10.2.7.0/24"),
        ("0.0.0.0/0 > 0.0.0.0/0", "10.1.0.0/16 > 10.2.0.0/16", "10.1.0.0/16 <> 10.2.0.0/16"),
        ("fd01::/48 > ::/0", "fd01::/64 > fd02::/64", "fd01::/64 <> fd02::/64"),
    ];
    for (index, (wide, narrow, part)) in table.iter().enumerate() {
        let mut world = narrowing(40 + index as u64, A, (&[wide], &[narrow]));
        world.connect_pair();
        let first = networks(&world);
        world.run_for(Duration::from_secs(4 * 3600 / 5));
        let whole = child_of(A, &[wide]).pairs[0].to_string();
        assert_eq!(lacks(&world), (vec![], vec![(whole, (*part).to_owned())]));
        let narrowed = world.ike(A).narrowed.remove(0);
        let refused = Cause::Refused { exchange: ExchangeType::CREATE_CHILD_SA, notify: NotifyType::TS_UNACCEPTABLE };
        assert_eq!(narrowed.cause, Some(refused));
        assert!(narrowed.retry_at.is_some());
        let (children, requests) = made(&world);
        assert_eq!((children, networks(&world)), (1, first), "the Child SA that there is stays, and is the only one");
        assert!((5..=12).contains(&requests), "{requests} requests in 48 minutes");
        assert_eq!(failures(&world), 0, "a peer that narrows is within its rights");
        world.check_traffic();
        assert!(world.nodes.iter().all(|node| node.data.lost.is_empty()));
    }
}

#[test]
fn a_pair_is_covered_by_child_sas_that_are_parts_of_it() {
    let parts = ["10.1.0.0/16 > 10.2.0.0/17", "10.1.0.0/16 > 10.2.128.0/18", "10.1.0.0/16 > 10.2.192.0/18"];
    for begins in [A, B] {
        let mut world = narrowing(50, begins, (&["10.1.0.0/16 > 10.2.0.0/16"], &parts));
        world.connect_pair();
        world.run_for(Duration::from_secs(60));
        assert_eq!(lacks(&world), (vec![], vec![]), "{begins} begins");
        assert_eq!(networks(&world).len(), 3, "{begins} begins");
        let before = made(&world);
        world.run_for(Duration::from_secs(600));
        assert_eq!(made(&world), before, "{begins} begins: nothing is asked for any more");
        world.check_traffic();
    }
}

#[test]
fn what_adds_nothing_goes_again_and_costs_no_packet() {
    // All protocols but one cannot be asked for, so all of them are, once; the peer narrows to the one again.
    let pairs = ["10.1.0.0/16 > 10.2.0.0/16", "10.1.0.0/16 > 10.3.0.0/16"];
    let mut world = narrowing(60, A, (&pairs, &["10.1.0.0/16[6/443] > 10.2.0.0/16[6/443]", pairs[1]]));
    let there = |world: &World| world.nodes.iter().all(|node| node.data.has_pairs(2));
    assert!(world.run_until(Duration::from_secs(5), there));
    let first: BTreeSet<_> = networks(&world);
    for _ in 0..600 {
        [A, B].into_iter().for_each(|node| world.send_esp(node));
        world.run_for(Duration::from_millis(100));
    }
    assert_eq!(made(&world).0, 3);
    assert!(there(&world));
    assert_eq!(networks(&world), first, "those that there were are used on");
    let (missing, narrowed) = lacks(&world);
    assert_eq!((missing.len(), narrowed.len()), (0, 1));
    assert_eq!(world.ike(A).narrowed[0].cause, Some(Cause::Narrowed));
    assert!(world.nodes.iter().all(|node| node.data.lost.is_empty()), "no packet met an SA that was not there");
}

#[test]
fn a_narrowed_pair_is_whole_after_the_peer_is_put_right() {
    let wide = "10.1.0.0/16 > 10.2.0.0/16";
    let mut world = narrowing(70, A, (&[wide], &["10.1.0.0/16 > 10.2.7.0/24"]));
    world.connect_pair();
    world.run_for(Duration::from_secs(60));
    assert_eq!(lacks(&world).1.len(), 1);
    let now = world.now();
    let children = vec![ChildConfig { name: "10.1.0.0/16 > 10.2.7.0/24".into(), ..child_of(B, &[wide]) }];
    world.nodes[B]
        .endpoint
        .set_peer(now, PEER, PeerConfig { children, initiate: false, ..peer(B) })
        .expect("a good configuration");
    assert!(world.run_until(Duration::from_secs(200), |world| lacks(world) == (vec![], vec![])), "{:?}", lacks(&world));
    world.check_traffic();
    world.act(A, |endpoint, now| endpoint.rekey(now, PEER)).expect("it is connected");
    world.run_for(Duration::from_secs(20));
    assert_eq!(lacks(&world), (vec![], vec![]));
    world.check_traffic();
}

#[test]
fn a_process_that_takes_over_makes_no_narrowed_child_sa_again() {
    let mut world = narrowing(80, A, (&["0.0.0.0/0 > 0.0.0.0/0"], &["10.1.0.0/16 > 10.2.0.0/16"]));
    world.connect_pair();
    world.run_for(Duration::from_secs(30));
    let before = networks(&world);
    let config = PeerConfig { children: vec![child_of(A, &["0.0.0.0/0 > 0.0.0.0/0"])], ..peer(A) };
    world.succeed(A, endpoint_config(1), &[(PEER, config)]);
    world.run_for(Duration::from_secs(60));
    assert_eq!(networks(&world), before);
    assert_eq!(lacks(&world).1.len(), 1, "and it still says what is missing");
    assert!(world.nodes.iter().all(|node| node.data.has_pairs(1)));
    world.check_traffic();
}
