//! Several Child SAs in one IKE SA: a peer that grants one pair of networks at a time, or makes one Child SA for each.

use std::collections::BTreeSet;
use std::time::Duration;

use adit_engine::ike::selectors::pair_of;
use adit_engine::ike::{Cause, ChildConfig, Event, PeerConfig, Wish};
use adit_proto::control::{ChildId, Selector};
use adit_proto::ike::{ExchangeType, NotifyType};
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
