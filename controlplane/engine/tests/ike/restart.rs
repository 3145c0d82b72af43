//! What a successor may take over: not from another peer, not under other credentials, and no key that may have been used.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use adit_engine::ike::{Cause, ConnectionState, Event, PeerConfig};

use adit_sim::*;

fn restarted(world: &mut World, config: PeerConfig) -> adit_engine::ike::Restored {
    world.succeed(B, endpoint_config(2), &[(PEER, config)])
}

fn other_secret(config: &mut PeerConfig) {
    (config.local_auth, config.remote_auth) = psk("quite another secret of quite another peer");
}

#[test]
fn another_peer_with_the_same_number_inherits_nothing() {
    for rename_only in [true, false] {
        let mut world = pair(1, |_, _| {});
        world.connect_pair();
        let mut other = peer(B);
        other.name = "d".into();
        if !rename_only {
            (other.remotes, other.remote_id) = (Vec::new(), "d.example.org".parse().expect("an identity"));
            other_secret(&mut other);
        }
        let restored = restarted(&mut world, other);
        assert_eq!((restored.ike_sas, restored.forgotten, restored.revoked.len()), (0, 1, 0));
        assert!(restored.inbound.is_empty() && restored.outbound.is_empty());
        assert!(world.nodes[B].data.has_pairs(0));
        assert!(world.nodes[B].endpoint.status(PEER).expect("the peer").ike.is_empty());
        // The one that is configured may come, the other one not.
        let up = world.run_until(Duration::from_secs(120), |world| world.is_up(B, PEER));
        assert_eq!(up, rename_only);
    }
}

#[test]
fn changed_trust_ends_what_was_authenticated_before_and_the_peer_is_told() {
    let changes: [fn(&mut PeerConfig); 3] = [
        other_secret,
        |config| config.remote_id = "c.example.org".parse().expect("an identity"),
        |config| config.local_id = "bb.example.org".parse().expect("an identity"),
    ];
    for change in changes {
        for at_run_time in [false, true] {
            let mut world = pair(2, |node, config| config.dpd = Duration::from_secs(if node == A { 1000 } else { 0 }));
            world.connect_pair();
            let mut config = peer(B);
            config.dpd = Duration::ZERO;
            change(&mut config);
            if at_run_time {
                world.set_peer(B, PEER, config);
            } else {
                let restored = restarted(&mut world, config);
                assert_eq!((restored.ike_sas, restored.forgotten, &restored.revoked[..]), (0, 0, &[PEER][..]));
                assert!(restored.inbound.is_empty() && restored.outbound.is_empty());
            }
            assert!(world.nodes[B].data.has_pairs(0));
            assert_eq!(world.state(B, PEER), ConnectionState::Failed);
            let reported = |event: &Event| matches!(event, Event::IkeDown { cause: Cause::TrustChanged, .. });
            assert!(world.nodes[B].events.iter().any(reported));
            world.run_for(Duration::from_secs(2));
            assert!(!world.is_up(A, PEER), "told at once");
            world.run_for(Duration::from_secs(200));
            assert!(!world.is_up(A, PEER) && !world.is_up(B, PEER) && world.nodes[B].data.has_pairs(0));
        }
    }
}

#[test]
fn a_peer_whose_end_has_the_new_secret_is_back_at_once() {
    let mut world = pair(3, |_, config| config.dpd = Duration::ZERO);
    world.connect_pair();
    let mut config = peer(A);
    other_secret(&mut config);
    world.set_peer(A, PEER, config);
    let mut config = peer(B);
    other_secret(&mut config);
    assert_eq!(restarted(&mut world, config).revoked, [PEER]);
    assert!(world.run_until(Duration::from_secs(10), |world| world.is_up(A, PEER) && world.is_up(B, PEER)));
    world.check_traffic();
}

#[test]
fn who_was_disconnected_by_command_stays_so_in_the_next_process() {
    let mut world = pair(4, |_, config| config.respond = false);
    world.set_peer(B, PEER, peer(B));
    world.connect_pair();
    world.act(A, |endpoint, now| endpoint.disconnect(now, PEER)).expect("a peer");
    world.run_for(Duration::from_secs(20));
    let config = PeerConfig { respond: false, ..peer(A) };
    world.succeed(A, endpoint_config(1), &[(PEER, config.clone())]);
    world.run_for(Duration::from_secs(100));
    assert_eq!(world.state(A, PEER), ConnectionState::Idle);
    // A command is stronger, and lasts as long.
    world.act(A, |endpoint, now| endpoint.connect(now, PEER)).expect("it has an address");
    world.connect_pair();
    // The gateway goes, which is no command about this peer.
    world.act(A, |endpoint, now| endpoint.close_all(now));
    world.run_for(Duration::from_secs(20));
    world.succeed(A, endpoint_config(1), &[(PEER, config)]);
    world.connect_pair();
}

/// The exchange of an IKE message in a datagram, with or without the marker (RFC 7296 §3.1).
fn exchange(payload: &[u8]) -> Option<u8> {
    payload.strip_prefix(&[0; 4]).unwrap_or(payload).get(18).copied()
}

#[test]
fn a_gateway_that_goes_lets_nobody_in_who_was_told_so() {
    let mut world = pair(5, |node, config| config.initiate = node == A);
    world.connect_pair();
    world.act(B, |endpoint, now| endpoint.close_all(now));
    world.run_for(Duration::from_secs(20));
    assert_eq!([A, B].map(|node| world.state(node, PEER).is_up()), [false; 2]);
    // The next process does.
    world.succeed(B, endpoint_config(2), &[(PEER, PeerConfig { initiate: false, ..peer(B) })]);
    world.connect_pair();
}

#[test]
fn a_gateway_that_goes_ends_what_was_half_open() {
    const IKE_AUTH: u8 = 35;
    let mut world = pair(6, |node, config| config.initiate = node == A);
    let held = Rc::new(Cell::new(true));
    let switch = held.clone();
    world.filter = Some(Box::new(move |_, _, payload| !(switch.get() && exchange(payload) == Some(IKE_AUTH))));
    world.run_for(Duration::from_millis(400));
    world.act(B, |endpoint, now| endpoint.close_all(now));
    held.set(false);
    world.run_for(Duration::from_secs(20));
    assert_eq!([A, B].map(|node| world.state(node, PEER).is_up()), [false; 2]);
}

/// Gateway B with a rekey by A half done: B has granted it, and A's Delete of the old Child SA, which invites B to use the new
/// one, is held back until the switch is turned.
fn half_rekeyed(seed: u64) -> (World, Rc<Cell<bool>>) {
    let mut world = pair(seed, |_, config| config.children = vec![ethernet()]);
    world.connect_pair();
    let held = Rc::new(Cell::new(true));
    let switch = held.clone();
    world.filter = Some(Box::new(move |from, _, payload| {
        let message = payload.strip_prefix(&[0; 4]).unwrap_or(payload);
        let informational = message.get(18) == Some(&37);
        !(held.get() && from == peer(A).local.expect("an address") && informational)
    }));
    world.act(A, |endpoint, now| endpoint.rekey(now, PEER)).expect("it is connected");
    world.run_for(Duration::from_millis(200));
    (world, switch)
}

#[test]
fn an_outbound_key_is_not_used_again_after_a_vault_was_not_written() {
    let (mut world, held) = half_rekeyed(11);
    world.nodes[B].vault_stuck = true;
    held.set(false);
    world.run_for(Duration::from_secs(10));
    world.check_traffic();
    let mut config = peer(B);
    config.children = vec![ethernet()];
    restarted(&mut world, config);
    // The model of the data plane complains of a key that comes twice.
    for _ in 0..5 {
        world.run_for(Duration::from_secs(1));
        world.send_esp(A);
        world.run_for(Duration::from_secs(1));
        world.report_usage(B);
    }
    // Message ids are out of step: in the end that is noticed.
    world.run_for(Duration::from_secs(240));
    world.check_traffic();
}

#[test]
fn a_process_that_dies_between_grant_and_use_strands_no_packet() {
    let (mut world, held) = half_rekeyed(12);
    let mut config = peer(B);
    config.children = vec![ethernet()];
    let restored = restarted(&mut world, config);
    assert_eq!((restored.ike_sas, restored.inbound.len(), restored.outbound.len()), (1, 2, 1));
    held.set(false);
    for _ in 0..200 {
        assert_eq!(world.nodes[B].data.active().len(), 1, "after {:?}", world.elapsed());
        [A, B].into_iter().for_each(|node| world.send_esp(node));
        world.run_for(Duration::from_millis(50));
    }
    assert!([A, B].iter().all(|node| world.nodes[*node].data.lost.is_empty()));
    world.run_for(Duration::from_secs(60));
    assert!([A, B].iter().all(|node| world.nodes[*node].data.has_pairs(1)));
    world.check_traffic();
}

/// Its answer may have come while nobody took it; and only when that is here can the peer be told of the end (RFC 7296 §2.3).
#[test]
fn what_was_under_way_before_a_restart_is_asked_again_at_once() {
    let (mut world, held) = half_rekeyed(16);
    let mut config = peer(A);
    config.children = vec![ethernet()];
    let restored = world.succeed(A, endpoint_config(1), &[(PEER, config)]);
    assert_eq!(restored.ike_sas, 1);
    held.set(false);
    world.act(A, |endpoint, now| endpoint.close_all(now));
    assert!(world.nodes[A].endpoint.has_last_words(), "the window is one request");
    world.run_for(Duration::from_millis(400));
    assert!(!world.state(B, PEER).is_up());
}

#[test]
fn what_the_data_plane_lost_is_replaced_alone_and_ever_more_rarely() {
    let mut world = pair(13, |_, config| config.children[0].lanes = 2);
    world.connect_pair();
    let spi_of = |world: &World, lane: u8| {
        let ike = world.ike(A);
        let child = ike.children.iter().find(|child| child.lane == lane && !child.is_going).expect("a lane");
        (child.inbound, child.outbound)
    };
    let other = spi_of(&world, 1);
    // Each new one is lost as well: the waits grow up to a minute.
    let began = world.now;
    let mut at = Vec::new();
    let mut last = spi_of(&world, 0).1;
    while world.now - began < Duration::from_secs(400) {
        world.nodes[A].data.drop_outbound(last);
        world.act(A, |endpoint, now| endpoint.lost_outbound(now, PEER, last));
        let next = |world: &World| world.nodes[A].data.outbound.iter().map(|keys| keys.spi).find(|spi| *spi != other.1);
        assert!(world.run_until(Duration::from_secs(70), |world| next(world).is_some_and(|spi| spi != last)));
        last = next(&world).expect("a new one");
        at.push((world.now - began).as_secs());
    }
    assert!((7..=13).contains(&at.len()), "{at:?}");
    assert_eq!(at[..5], [1, 3, 7, 15, 31], "{at:?}");
    assert_eq!(spi_of(&world, 1), other, "the other lane has nothing to do with it");
    assert_eq!(world.nodes[A].endpoint.counters().children_lost, at.len() as u64);
    world.check_traffic();
}

#[test]
fn what_the_data_plane_refuses_is_asked_for_ever_more_rarely_at_both_ends() {
    for node in [A, B] {
        let mut world = pair(14, |_, _| {});
        world.connect_pair();
        let mut times = 0;
        let began = world.now;
        while world.now - began < Duration::from_secs(600) {
            let refused = world.ike(node).children.iter().find(|child| !child.is_going).map(|child| child.inbound);
            if let Some(refused) = refused {
                times += 1;
                world.act(node, |endpoint, now| endpoint.close_child(now, refused));
            }
            world.run_for(Duration::from_millis(100));
        }
        assert!((8..=30).contains(&times), "{times} at {node}");
        world.run_for(Duration::from_secs(100));
        world.check_traffic();
    }
}

#[test]
fn nothing_is_written_for_what_a_successor_does_not_need() {
    let mut world = pair(15, |_, config| config.dpd = Duration::ZERO);
    world.connect_pair();
    world.run_for(Duration::from_secs(30));
    world.nodes[B].endpoint.take_changed();
    let genuine = world.log.last().expect("a message").2.clone();
    // Of an IKE SA that there is: a wrong tag, an old message, nonsense; and a report of the data plane.
    let (a, b) = (peer(A).local.expect("an address"), peer(B).local.expect("an address"));
    let now = world.now();
    for at in 4..genuine.len() {
        let mut changed = genuine.clone();
        changed[at] ^= 1;
        let came = adit_engine::path::Arrival::new(b, a);
        world.nodes[B].endpoint.handle_message(now, came, &changed);
        while world.nodes[B].endpoint.poll_event().is_some() {}
        while world.nodes[B].endpoint.poll_transmit().is_some() {}
        assert!(!world.nodes[B].endpoint.take_changed(), "byte {at}");
    }
    world.send_esp(A);
    world.run_for(Duration::from_millis(100));
    let usage = world.nodes[B].data.usage.clone();
    world.nodes[B].endpoint.handle_usage(now, &usage);
    assert!(!world.nodes[B].endpoint.take_changed());
    // But what it needs is: an exchange that changes nothing but the message ids.
    world.act(A, |endpoint, now| endpoint.check_liveness(now, PEER)).expect("it is connected");
    let before = world.nodes[B].vault.clone();
    world.run_for(Duration::from_millis(100));
    assert_ne!(*world.nodes[B].vault, *before);
}
