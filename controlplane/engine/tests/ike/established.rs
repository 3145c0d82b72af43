//! What happens with an IKE SA that is up: rekeys from either side and from both, deletes, liveness, lifetimes.

use std::time::Duration;

use adit_engine::ike::{Cause, ChildProposal, ConnectionState, Event, IkeProposal, Lifetime, Usage};
use adit_proto::control::Spi;

use adit_sim::*;

/// Packets in both directions all the time while `time` passes; every one must arrive.
fn run_with_traffic(world: &mut World, time: Duration) {
    let end = world.now + time;
    while world.now < end {
        for node in [A, B] {
            world.send_esp(node);
        }
        world.run_for(Duration::from_millis(20));
    }
    world.run_for(Duration::from_secs(1));
    for node in [A, B] {
        assert_eq!(world.nodes[node].data.lost, Vec::<Spi>::new(), "lost at {node}");
    }
}

/// One child and one IKE SA at each end, and nothing else in the data plane.
fn check_single(world: &World) {
    assert_eq!(world.ike(A).spis, world.ike(B).spis);
    for node in [A, B] {
        let data = &world.nodes[node].data;
        assert_eq!((data.inbound.len(), data.outbound.len()), (1, 1), "gateway {node}");
    }
    let (a, b) = (&world.ike(A).children[0], &world.ike(B).children[0]);
    assert_eq!((a.inbound, a.outbound), (b.outbound, b.inbound));
}

#[test]
fn a_child_is_rekeyed_from_either_side_without_losing_a_packet() {
    for proposal in [esp(), esp_pfs(), esp_hybrid()] {
        for node in [A, B] {
            let mut world = pair(1, |_, config| config.children[0].proposals = vec![proposal.clone()]);
            world.connect_pair();
            let before = world.ike(A).children[0].inbound;
            world.act(node, |endpoint, now| endpoint.rekey(now, PEER)).expect("it is connected");
            run_with_traffic(&mut world, Duration::from_secs(10));
            assert_ne!(world.ike(A).children[0].inbound, before);
            check_single(&world);
            assert_eq!(world.ike(B).children[0].suite.contains("ML_KEM"), !proposal.additional.is_empty());
            assert_eq!(world.nodes[node].endpoint.counters().child_rekeys, 1);
        }
    }
}

#[test]
fn an_ike_sa_is_rekeyed_from_either_side_and_keeps_its_children() {
    for proposal in [classic(), hybrid()] {
        for node in [A, B] {
            let mut world = pair(2, |_, config| config.proposals = vec![proposal.clone()]);
            world.connect_pair();
            let (spis, child) = (world.ike(A).spis, world.ike(A).children[0].inbound);
            world.act(node, |endpoint, now| endpoint.rekey_ike(now, PEER)).expect("it is connected");
            run_with_traffic(&mut world, Duration::from_secs(20));
            assert_ne!(world.ike(A).spis, spis);
            assert_eq!(world.ike(A).children[0].inbound, child);
            check_single(&world);
            // The new one works: a child is rekeyed on it from both sides.
            for node in [A, B] {
                world.act(node, |endpoint, now| endpoint.rekey(now, PEER)).expect("it is connected");
                run_with_traffic(&mut world, Duration::from_secs(10));
            }
            check_single(&world);
            assert!(
                world.nodes[A]
                    .events
                    .iter()
                    .any(|event| matches!(event, Event::IkeUp { replaces: Some(old), .. } if *old == spis))
            );
        }
    }
}

#[test]
fn both_ends_rekey_a_child_at_once_and_one_new_child_stays() {
    for seed in 0..60 {
        for proposal in [esp_pfs(), esp_hybrid()] {
            let mut world = pair(seed, |_, config| config.children[0].proposals = vec![proposal.clone()]);
            world.net.delay = (Duration::from_millis(1), Duration::from_millis(50));
            world.connect_pair();
            for node in [A, B] {
                world.act(node, |endpoint, now| endpoint.rekey(now, PEER)).expect("it is connected");
            }
            run_with_traffic(&mut world, Duration::from_secs(15));
            check_single(&world);
        }
    }
}

#[test]
fn both_ends_rekey_the_ike_sa_at_once_and_one_stays() {
    for seed in 0..60 {
        for proposal in [classic(), hybrid()] {
            let mut world = pair(seed, |_, config| config.proposals = vec![proposal.clone()]);
            world.net.delay = (Duration::from_millis(1), Duration::from_millis(50));
            world.connect_pair();
            let before = world.ike(A).spis;
            for node in [A, B] {
                world.act(node, |endpoint, now| endpoint.rekey_ike(now, PEER)).expect("it is connected");
            }
            run_with_traffic(&mut world, Duration::from_secs(60));
            assert_ne!(world.ike(A).spis, before);
            check_single(&world);
        }
    }
}

#[test]
fn a_child_rekey_against_an_ike_rekey_is_put_off_and_made_up_for() {
    for seed in 0..30 {
        let mut world = pair(seed, |_, _| {});
        world.connect_pair();
        let (spis, child) = (world.ike(A).spis, world.ike(A).children[0].inbound);
        world.act(A, |endpoint, now| endpoint.rekey_ike(now, PEER)).expect("it is connected");
        world.act(B, |endpoint, now| endpoint.rekey(now, PEER)).expect("it is connected");
        run_with_traffic(&mut world, Duration::from_secs(60));
        assert_ne!((world.ike(A).spis, world.ike(A).children[0].inbound), (spis, child));
        assert_ne!(world.ike(A).spis, spis, "seed {seed}");
        assert_ne!(world.ike(A).children[0].inbound, child, "seed {seed}");
        check_single(&world);
    }
}

#[test]
fn another_method_is_asked_for_in_a_rekey_and_taken_up() {
    use adit_engine::crypto::KeyExchangeMethod::{EcpP256, X25519};
    let child = |methods: &[_]| ChildProposal { key_exchanges: methods.to_vec(), ..esp() };
    let mut world = pair(3, |node, config| {
        config.children[0].proposals = vec![child(if node == A { &[X25519, EcpP256] } else { &[EcpP256] })];
    });
    world.connect_pair();
    world.act(A, |endpoint, now| endpoint.rekey(now, PEER)).expect("it is connected");
    run_with_traffic(&mut world, Duration::from_secs(5));
    assert!(world.ike(A).children[0].suite.contains("ECP_256"), "{}", world.ike(A).children[0].suite);
    check_single(&world);

    // The peer's policy for IKE changes while the SA is up.
    let mut config = peer(B);
    config.proposals = vec![IkeProposal { key_exchanges: vec![EcpP256], ..classic() }];
    world.set_peer(B, PEER, config);
    world.act(A, |endpoint, now| endpoint.rekey_ike(now, PEER)).expect("it is connected");
    run_with_traffic(&mut world, Duration::from_secs(20));
    check_single(&world);
}

#[test]
fn fifty_rekeys_in_a_row_lose_nothing() {
    let mut world = pair(4, |_, config| config.children[0].proposals = vec![esp_pfs()]);
    world.connect_pair();
    for round in 0..50 {
        let node = round % 2;
        if round % 5 == 0 {
            world.act(node, |endpoint, now| endpoint.rekey_ike(now, PEER)).expect("it is connected");
        } else {
            world.act(node, |endpoint, now| endpoint.rekey(now, PEER)).expect("it is connected");
        }
        run_with_traffic(&mut world, Duration::from_secs(1));
    }
    world.run_for(Duration::from_secs(60));
    check_single(&world);
}

#[test]
fn soft_lifetimes_rekey_by_themselves_with_jitter() {
    let short = |seconds| Lifetime { rekey_after: Duration::from_secs(seconds), ..Lifetime::CHILD };
    let mut world = pair(5, |_, config| {
        config.children[0].lifetime = short(60);
        config.ike_lifetime = short(200);
    });
    world.connect_pair();
    run_with_traffic(&mut world, Duration::from_secs(900));
    world.run_for(Duration::from_secs(10));
    check_single(&world);
    let counters = world.nodes[A].endpoint.counters();
    let other = world.nodes[B].endpoint.counters();
    assert!((14..=20).contains(&(counters.child_rekeys + other.child_rekeys)), "{counters:?} {other:?}");
    assert!(counters.ike_rekeys >= 4, "{counters:?}");
    assert_eq!((counters.handshakes, counters.dead_peers), (1, 0));
}

#[test]
fn a_child_is_rekeyed_at_its_soft_limit_and_ends_at_its_hard_one() {
    let lifetime = Lifetime { rekey_packets: 1000, jitter_percent: 0, ..Lifetime::CHILD };
    let mut world = pair(6, |_, config| config.children[0].lifetime = lifetime);
    world.connect_pair();
    let first = world.ike(A).children[0].inbound;
    let report = |world: &mut World, packets| {
        let inbound = world.ike(A).children[0].inbound;
        let usage = [(inbound, Usage { outbound_packets: packets, ..Usage::default() })].into();
        world.act(A, |endpoint, now| endpoint.handle_usage(now, &usage));
        world.run_for(Duration::from_secs(10));
    };
    report(&mut world, 999);
    assert_eq!(world.ike(A).children[0].inbound, first);
    report(&mut world, 1000);
    let second = world.ike(A).children[0].inbound;
    assert_ne!(second, first);
    check_single(&world);
    // The peer does not answer: the hard limit ends it all the same.
    world.cut = true;
    let usage = [(second, Usage { outbound_packets: 1200, ..Usage::default() })].into();
    world.act(A, |endpoint, now| endpoint.handle_usage(now, &usage));
    assert!(world.nodes[A].data.outbound.is_empty(), "no packet more under this key");
}

#[test]
fn the_hard_lifetime_ends_what_could_not_be_rekeyed() {
    let lifetime = Lifetime { rekey_after: Duration::from_secs(60), hard_percent: 150, ..Lifetime::CHILD };
    let mut world = pair(7, |node, config| {
        config.children[0].lifetime = lifetime;
        if node == A {
            config.dpd = Duration::ZERO;
        }
    });
    world.connect_pair();
    // From now on B refuses every Child SA, for its proposals have changed.
    let mut config = peer(B);
    config.children[0].proposals[0].suites = vec![adit_proto::suite::Suite::Aes256Gcm];
    world.set_peer(B, PEER, config);
    world.run_for(Duration::from_secs(120));
    assert!(world.nodes[A].data.inbound.is_empty() && world.nodes[A].data.outbound.is_empty());
    assert!(world.is_up(A, PEER), "the IKE SA stays");
    // It comes back when the configurations fit again.
    world.set_peer(B, PEER, peer(B));
    world.run_for(Duration::from_secs(130));
    world.check_traffic();
}

#[test]
fn either_side_disconnects_and_nothing_is_left() {
    for node in [A, B] {
        let mut world = pair(8, |_, config| config.initiate = false);
        world.act(A, |endpoint, now| endpoint.connect(now, PEER)).expect("it has an address");
        world.connect_pair();
        world.act(node, |endpoint, now| endpoint.disconnect(now, PEER)).expect("a peer");
        world.run_for(Duration::from_millis(100));
        let other = 1 - node;
        assert_eq!(world.state(node, PEER), ConnectionState::Idle);
        let expected = if other == A { ConnectionState::Reconnecting } else { ConnectionState::Failed };
        assert_eq!(world.state(other, PEER), expected);
        assert_eq!(world.nodes[other].endpoint.status(PEER).and_then(|status| status.cause), Some(Cause::PeerClosed));
        for node in [A, B] {
            assert!(world.nodes[node].data.inbound.is_empty() && world.nodes[node].data.outbound.is_empty());
        }
    }
}

#[test]
fn a_dead_peer_is_noticed_and_connected_again() {
    let mut world = pair(9, |_, _| {});
    world.connect_pair();
    world.nodes[B].on = false;
    let noticed = world.run_until(Duration::from_secs(120), |world| !world.is_up(A, PEER));
    assert!(noticed);
    assert!((70..=85).contains(&world.elapsed().as_secs()), "30 s of silence and 9 tries: {:?}", world.elapsed());
    assert_eq!(world.nodes[A].endpoint.counters().dead_peers, 1);
    assert!(world.nodes[A].data.outbound.is_empty());
    world.crash(B, endpoint_config(2), true);
    world.set_peer(B, PEER, peer(B));
    world.nodes[B].on = true;
    world.connect_pair();
    world.check_traffic();
}

#[test]
fn silence_is_no_reason_to_give_up_while_packets_come() {
    let mut world = pair(10, |_, _| {});
    world.connect_pair();
    for _ in 0..20 {
        world.send_esp(A);
        world.send_esp(B);
        world.run_for(Duration::from_secs(10));
        world.report_usage(A);
        world.report_usage(B);
    }
    assert_eq!(world.nodes[A].endpoint.counters().dpd_requests, 0);
    world.run_for(Duration::from_secs(100));
    assert!(world.nodes[A].endpoint.counters().dpd_requests > 0);
    assert!(world.is_up(A, PEER) && world.is_up(B, PEER));
}

#[test]
fn a_link_that_is_cut_for_ten_seconds_loses_nothing_of_the_connection() {
    let mut world = pair(11, |_, config| config.dpd = Duration::from_secs(2));
    world.connect_pair();
    let spis = world.ike(A).spis;
    world.cut = true;
    world.run_for(Duration::from_secs(10));
    world.cut = false;
    world.run_for(Duration::from_secs(20));
    assert_eq!(world.ike(A).spis, spis);
    world.check_traffic();
}

#[test]
fn a_peer_that_crashed_says_so_with_its_token() {
    let mut world = pair(12, |_, config| config.dpd = Duration::from_secs(5));
    world.connect_pair();
    world.crash(B, endpoint_config(2), true);
    world.set_peer(B, PEER, peer(B));
    let crashed = world.now;
    world.connect_pair_again(B);
    assert!(world.now - crashed < Duration::from_secs(8), "{:?}", world.now - crashed);
    assert_eq!(world.nodes[A].endpoint.counters().crashes_detected, 1);
    world.check_traffic();
    check_single(&world);
}

#[test]
fn a_peer_that_crashed_and_calls_first_replaces_what_it_forgot() {
    let mut world = pair(13, |_, config| config.dpd = Duration::ZERO);
    world.connect_pair();
    world.crash(A, endpoint_config(1), true);
    world.set_peer(A, PEER, peer(A));
    world.connect_pair_again(A);
    let cause = world.nodes[B].events.iter().find_map(|event| match event {
        Event::IkeDown { cause, .. } => Some(cause.clone()),
        _ => None,
    });
    assert_eq!(cause, Some(Cause::PeerRestarted));
    world.check_traffic();
    check_single(&world);
}

#[test]
fn a_token_of_somebody_else_changes_nothing() {
    let mut world = pair(14, |_, config| config.dpd = Duration::from_secs(5));
    world.connect_pair();
    let spis = world.ike(A).spis;
    // Another secret: what a gateway says that took the address of the peer.
    world.crash(B, endpoint_config(99), true);
    let mut config = peer(B);
    config.respond = false;
    world.set_peer(B, PEER, config);
    world.run_for(Duration::from_secs(7));
    assert_eq!(world.ike(A).spis, spis, "nobody has proved anything yet");
    assert_eq!(world.nodes[A].endpoint.counters().crashes_detected, 0);
    // But an honest answer is not waited for as long as otherwise.
    assert!(world.run_until(Duration::from_secs(8), |world| !world.is_up(A, PEER)));
}

#[test]
fn a_data_plane_that_restarted_gets_new_keys_under_the_same_ike_sa() {
    let mut world = pair(15, |_, config| config.children[0].lanes = 2);
    world.connect_pair();
    let spis = world.ike(A).spis;
    world.act(A, |endpoint, now| endpoint.data_plane_restarted(now));
    world.run_for(Duration::from_secs(10));
    assert_eq!(world.ike(A).spis, spis);
    world.check_traffic();
}

#[test]
fn a_child_that_the_data_plane_refused_is_asked_for_by_who_connected() {
    for node in [A, B] {
        let mut world = pair(16, |_, _| {});
        world.connect_pair();
        let (spis, refused) = (world.ike(A).spis, world.ike(node).children[0].inbound);
        world.act(node, |endpoint, now| endpoint.close_child(now, refused));
        world.run_for(Duration::from_secs(1));
        assert!(world.ike(A).children.is_empty() && world.ike(B).children.is_empty());
        world.run_for(Duration::from_secs(10));
        assert_eq!(world.ike(A).spis, spis);
        check_single(&world);
        world.check_traffic();
    }
}
