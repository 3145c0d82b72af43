//! Addresses: a NAT in front of a gateway, one that changes its mind, a claimed one, a gateway that moves.

use std::net::SocketAddr;
use std::time::Duration;

use adit_engine::ike::{Event, NatStatus, Path, PeerConfig};

use adit_sim::*;

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Maps port 500 to this one, and what comes next to the next one.
fn counting(outside: &str) -> NatConfig {
    NatConfig::counting(address(outside).ip(), address(outside).port())
}

/// Gateway A begins from port 500, perhaps behind a NAT. B does not know where A is.
fn begin(seed: u64, nat: Option<NatConfig>, change: impl Fn(usize, &mut PeerConfig)) -> World {
    let mut world = World::new(seed);
    for node in [A, B] {
        world.add(&peer(node).local.expect("an address").to_string(), endpoint_config(node as u8 + 1));
    }
    world.nodes[A].nat = nat.map(|nat| world.add_nat(nat));
    for node in [B, A] {
        let mut config = peer(node);
        for address in [&mut config.local, &mut config.remote].into_iter().flatten() {
            address.set_port(500);
        }
        if node == B {
            config.remote = None;
        }
        change(node, &mut config);
        world.set_peer(node, PEER, config);
    }
    world.connect_pair();
    world
}

/// The path that the data plane of a gateway was told last, and whether ESP has to go in UDP.
fn reported(world: &World, node: usize) -> (Path, bool) {
    let path = |event: &Event| if let Event::Path { path, encapsulate, .. } = event { Some((*path, *encapsulate)) } else { None };
    world.nodes[node].events.iter().rev().find_map(path).expect("a path")
}

fn path(local: &str, remote: &str) -> Path {
    Path { local: address(local), remote: address(remote) }
}

#[test]
fn without_a_nat_everything_stays_on_port_500() {
    let mut world = begin(1, None, |_, _| {});
    assert_eq!(reported(&world, A), (path("192.0.2.1:500", "192.0.2.2:500"), false));
    assert_eq!(reported(&world, B), (path("192.0.2.2:500", "192.0.2.1:500"), false));
    world.check_traffic();
}

#[test]
fn a_claimed_nat_puts_esp_into_udp_at_both_ends_whoever_claims_it() {
    for claims in [A, B] {
        let mut world = begin(2, None, |node, config| config.force_encapsulation = node == claims);
        assert_eq!(reported(&world, A), (path("192.0.2.1:4500", "192.0.2.2:4500"), true), "claimed by {claims}");
        assert_eq!(reported(&world, B), (path("192.0.2.2:4500", "192.0.2.1:4500"), true), "claimed by {claims}");
        let status = |node: usize| world.nodes[node].endpoint.nat_status(PEER).expect("a connection");
        let claimed = NatStatus { supported: true, claimed: true, ..NatStatus::default() };
        let seen = NatStatus { supported: true, there: true, ..NatStatus::default() };
        assert_eq!((status(claims), status(1 - claims)), (claimed, seen));
        world.check_traffic();
        world.act(A, |endpoint, now| endpoint.rekey_ike(now, PEER)).expect("it is connected");
        world.run_for(Duration::from_secs(2));
        assert!(world.nodes[A].endpoint.nat_status(PEER).is_some_and(|nat| nat.is_between()));
        world.check_traffic();
    }
}

#[test]
fn behind_a_nat_both_ends_go_to_port_4500_and_the_mapping_is_kept_open() {
    let mut world = begin(3, Some(counting("198.51.100.1:40000")), |_, config| config.dpd = Duration::ZERO);
    assert_eq!(reported(&world, A), (path("192.0.2.1:4500", "192.0.2.2:4500"), true));
    assert_eq!(reported(&world, B), (path("192.0.2.2:4500", "198.51.100.1:40001"), true));
    world.check_traffic();
    let before = world.log.len();
    world.run_for(Duration::from_secs(70));
    let from_nat =
        world.log[before..].iter().filter(|(from, _, payload)| *from == address("198.51.100.1:40001") && payload == &[0xff]);
    assert!(from_nat.count() >= 3, "keepalives every 20 s");
}

#[test]
fn a_nat_that_maps_anew_is_followed() {
    for mobike in [false, true] {
        let mut world = begin(4, Some(counting("198.51.100.1:40000")), |_, config| {
            config.mobike = mobike;
            config.dpd = Duration::from_secs(5);
        });
        let spis = world.ike(A).spis;
        for outside in ["198.51.100.1:50000", "198.51.100.77:1000"] {
            world.nodes[A].nat = Some(world.add_nat(counting(outside)));
            // Only A can find B again: by a DPD probe, or its own packets.
            let mapped = address(outside);
            assert!(
                world.run_until(Duration::from_secs(30), |world| reported(world, B).0.remote == mapped),
                "MOBIKE {mobike}: {outside}"
            );
            world.check_traffic();
            assert_eq!(world.ike(B).spis, spis);
        }
    }
}

#[test]
fn a_symmetric_nat_that_forgets_every_minute_is_followed() {
    for mobike in [false, true] {
        let lifetime = Some(Duration::from_secs(60));
        let nat = NatConfig { lifetime, ..NatConfig::symmetric([198, 51, 100, 9].into()) };
        let mut world = begin(6, Some(nat), |_, config| {
            config.mobike = mobike;
            config.dpd = Duration::from_secs(5);
        });
        for round in 0..4 {
            let before = reported(&world, B).0.remote;
            let moved = world.run_until(Duration::from_secs(120), |world| reported(world, B).0.remote != before);
            assert!(moved && world.is_up(A, PEER) && world.is_up(B, PEER), "MOBIKE {mobike}, round {round}");
            world.check_traffic();
        }
    }
}

#[test]
fn a_gateway_that_moves_says_so_and_its_peer_looks_whether_that_is_true() {
    // Whoever has rekeyed the IKE SA, it is for the one that began the connection to say it (RFC 4555 §1.2).
    for rekeyed_by in [None, Some(A), Some(B)] {
        let mut world = begin(5, None, |_, config| config.mobike = true);
        if let Some(node) = rekeyed_by {
            world.act(node, |endpoint, now| endpoint.rekey_ike(now, PEER)).expect("it is connected");
            world.run_for(Duration::from_secs(20));
        }
        let spis = world.ike(A).spis;
        let new = address("192.0.2.33:4500");
        world.nodes[A].address = new;
        world.act(A, |endpoint, now| endpoint.set_addresses(now, PEER, Some(new), None)).expect("a peer");
        world.run_for(Duration::from_secs(3));
        assert_eq!(reported(&world, B).0, path("192.0.2.2:4500", "192.0.2.33:4500"), "{rekeyed_by:?}");
        assert_eq!((world.ike(A).spis, world.ike(B).spis), (spis, spis));
        world.check_traffic();
    }
}
