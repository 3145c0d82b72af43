//! What those are told who look: counters, and the keys for a protocol analyser.

use std::time::Duration;

use adit_engine::crypto::KeyExchangeMethod;
use adit_engine::ike::{EndpointConfig, Event, KeyLogFile};
use adit_proto::ike::{ExchangeType, Flags, Header, IkeSpi, Message, Payload};

use super::rogue::{after_init, framed, has_auth};
use adit_sim::*;

/// Connects both, rekeys the Child SA from one end and then the IKE SA from the other, and ends it.
fn a_life(key_log: bool) -> World {
    let mut world = pair_with(1, |node| EndpointConfig { key_log, ..endpoint_config(node as u8 + 1) }, |_, _| {});
    world.connect_pair();
    world.act(A, |endpoint, now| endpoint.rekey(now, PEER)).expect("it is connected");
    world.run_for(Duration::from_secs(1));
    world.act(B, |endpoint, now| endpoint.rekey_ike(now, PEER)).expect("it is connected");
    world.run_for(Duration::from_secs(1));
    world
}

#[test]
fn what_happens_is_counted_once_in_total_and_for_the_peer() {
    let world = a_life(false);
    for node in [A, B] {
        let endpoint = &world.nodes[node].endpoint;
        let (all, of_peer) = (endpoint.counters(), endpoint.status(PEER).expect("the peer").counters);
        let counted: Vec<(&str, u64)> = all.iter().filter(|(_, times)| *times > 0).collect();
        // A rekey of a Child SA is counted where it was begun.
        let mut expected = vec![("handshakes", 1), ("ike_rekeys", 1), ("child_rekeys", 1), ("children_created", 2)];
        expected.retain(|(name, _)| node == A || *name != "child_rekeys");
        assert_eq!((counted, of_peer), (expected, all), "gateway {node}");
        assert_eq!(endpoint.peers().collect::<Vec<_>>(), [PEER]);
    }
}

#[test]
fn both_ends_log_the_keys_of_every_sa_where_that_is_asked_for() {
    let world = a_life(true);
    let lines = |node: usize, file: KeyLogFile| {
        let logs = world.nodes[node].events.iter().filter_map(|event| match event {
            Event::KeyLog(log) if log.file() == file => Some(log.line().to_string()),
            _ => None,
        });
        let mut lines: Vec<String> = logs.collect();
        lines.sort();
        lines
    };
    for (file, number) in [(KeyLogFile::Ike, 2), (KeyLogFile::Esp, 4)] {
        let (a, b) = (lines(A, file), lines(B, file));
        assert_eq!((a.len(), &a), (number, &b));
        assert!(a.windows(2).all(|two| two[0] != two[1]));
    }
    let quiet = a_life(false);
    assert!(quiet.nodes.iter().all(|node| !node.events.iter().any(|event| matches!(event, Event::KeyLog(_)))));
}

#[test]
fn what_is_dropped_is_counted_once_and_by_its_reason() {
    let (mut world, mut rogue) = after_init(7, |_, _| {});
    let counted = |world: &World| {
        let counters = world.nodes[B].endpoint.counters();
        counters.iter().filter(|(name, times)| name.starts_with("dropped_") && *times > 0).collect::<Vec<_>>()
    };
    assert_eq!(counted(&world), []);
    assert_eq!(rogue.ask(&mut world, ExchangeType::CREATE_CHILD_SA, 1, &[]), None);
    assert_eq!(counted(&world), [("dropped_out_of_place", 1)]);
    assert!(rogue.exchange_more(&mut world, KeyExchangeMethod::MlKem768));
    assert!(rogue.authenticate(&mut world, None).is_some_and(|answer| has_auth(&answer)));
    let (from, to, id) = (peer(A).local.expect("an address"), peer(B).local.expect("an address"), rogue.next_id);
    let header = rogue.header(ExchangeType::INFORMATIONAL, false, id);
    let in_clear = |header: Header| Message { header, payloads: vec![Payload::Nonce(vec![7; 64])] }.encode().expect("a message");
    let mut forged = rogue.seal(ExchangeType::INFORMATIONAL, id, &[]);
    *forged.last_mut().expect("a tag") ^= 1;
    let cases = [
        ("dropped_malformed", framed(b"no header")),
        ("dropped_unknown_spi", framed(&in_clear(Header { responder_spi: IkeSpi(7), ..header }))),
        ("dropped_unprotected", framed(&in_clear(header))),
        ("dropped_unprotected", framed(&in_clear(Header { flags: Flags { response: true, ..header.flags }, ..header }))),
        ("dropped_outside_window", rogue.seal(ExchangeType::INFORMATIONAL, id + 7, &[])),
        ("dropped_bad_tag", forged),
    ];
    for (name, datagram) in cases {
        let before = world.nodes[B].endpoint.counters();
        world.inject(from, to, datagram);
        world.run_for(Duration::from_millis(20));
        let after = world.nodes[B].endpoint.counters();
        let changed: Vec<(&str, u64)> =
            before.iter().zip(after.iter()).filter(|(old, new)| old != new).map(|(old, new)| (new.0, new.1 - old.1)).collect();
        assert_eq!(changed, [(name, 1)]);
    }
}

#[test]
fn every_attempt_that_comes_to_nothing_is_counted_at_the_end_that_sees_it() {
    let mut world = pair(8, |_, _| {});
    world.cut = true;
    world.run_for(Duration::from_secs(600));
    let status = world.nodes[A].endpoint.status(PEER).expect("the peer");
    let failed = status.counters.failed_unanswered;
    assert!(failed > 3 && (failed..=failed + 1).contains(&u64::from(status.attempts)), "{failed} of {}", status.attempts);
    // Whoever lets an initiator in that does not believe it is told so.
    let mut world = pair(9, |node, config| {
        if node == A {
            config.remote_id = "other.example.org".parse().expect("an identity");
        }
    });
    world.run_for(Duration::from_secs(20));
    // What went wrong is said until it is put right, also while the next attempt is under way.
    for _ in 0..200 {
        world.run_for(Duration::from_millis(50));
        assert!(world.nodes[A].endpoint.explain(PEER, world.now).expect("the peer").record.problem.is_some());
    }
    for node in [A, B] {
        let counters = world.nodes[node].endpoint.counters();
        let handshakes = world.nodes[B].endpoint.counters().handshakes;
        assert!(handshakes > 1 && counters.failed_authentication == handshakes, "gateway {node}: {counters:?}");
    }
}
