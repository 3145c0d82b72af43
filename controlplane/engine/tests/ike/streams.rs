//! Gateways that cannot reach each other by UDP and have a stream to each other, as over a relay.

use std::time::Duration;

use adit_engine::ike::EndpointConfig;
use adit_engine::path::{Hop, Remote, StreamId};
use adit_proto::ike::{ExchangeType, Message, NotifyType, Payload};
use adit_sim::*;

/// Two gateways without an address of each other. Nothing that goes by UDP arrives. Gives the stream of each.
fn apart(seed: u64, change: impl Fn(&mut adit_engine::ike::PeerConfig)) -> (World, [StreamId; 2]) {
    let mut world = World::new(seed);
    world.cut = true;
    for node in [A, B] {
        world.add(
            &peer(node).local.expect("an address").to_string(),
            EndpointConfig { echo: true, ..endpoint_config(node as u8 + 1) },
        );
    }
    for node in [A, B] {
        let mut config = peer(node);
        (config.remotes, config.awaits_remotes) = (Vec::new(), true);
        change(&mut config);
        world.set_peer(node, PEER, config);
    }
    let streams = world.add_stream([A, B]);
    (world, streams)
}

fn meet(world: &mut World, streams: [StreamId; 2]) {
    for node in [A, B] {
        world.act(node, |endpoint, now| endpoint.set_streams(now, PEER, &[streams[node]])).expect("a peer");
    }
}

fn both_up(world: &World) -> bool {
    [A, B].into_iter().all(|node| world.is_up(node, PEER))
}

/// Sends packets both ways; says how many were opened.
fn packets(world: &mut World) -> u64 {
    let opened = |world: &World| [A, B].map(|node| world.nodes[node].data.opened).iter().sum::<u64>();
    let before = opened(world);
    [A, B].into_iter().for_each(|node| world.send_esp(node));
    world.run_for(Duration::from_secs(1));
    opened(world) - before
}

#[test]
fn who_is_seen_in_a_stream_is_connected_in_it_and_packets_go_by_it() {
    for mobike in [false, true] {
        let (mut world, streams) = apart(1, |config| config.mobike = mobike);
        world.run_for(Duration::from_secs(5));
        assert!(!world.is_up(A, PEER), "nobody knows where the other is");
        meet(&mut world, streams);
        assert!(world.run_until(Duration::from_secs(5), both_up), "{:?}", world.nodes[A].endpoint.explain(PEER, world.now));
        for node in [A, B] {
            assert_eq!(world.nodes[node].data.way(PEER).0, Hop::Stream(streams[node]));
            assert_eq!(world.ike(node).hop.remote(), Remote::Stream(streams[node]));
        }
        assert!(packets(&mut world) >= 2);
        // What a packet may be is found out with echoes in the stream, and is no more than on other ways.
        world.run_for(Duration::from_secs(30));
        for node in [A, B] {
            let path = world.nodes[node].endpoint.paths(PEER)[0];
            assert_eq!((path.mtu, path.mtu_proven, path.proven, path.silent), (1500, Some(1500), true, false));
            assert_eq!(path.rtt, Some(2 * world.relay.delay));
        }
        assert_eq!(world.log.len(), 0, "nothing went by UDP");
    }
}

#[test]
fn no_message_in_a_stream_tells_of_addresses() {
    let (mut world, streams) = apart(2, |config| config.mobike = true);
    meet(&mut world, streams);
    assert!(world.run_until(Duration::from_secs(5), both_up));
    // The first message is in the clear, and has no marker.
    let (mut other, streams) = apart(3, |config| config.mobike = true);
    let now = other.now();
    other.nodes[A].endpoint.set_streams(now, PEER, &[streams[A]]).expect("a peer");
    let first = other.nodes[A].endpoint.poll_transmit().expect("a request");
    assert_eq!((first.hop, first.fragments), (Hop::Stream(streams[A]), false));
    let message = Message::decode(&first.payload).expect("a message");
    assert_eq!(message.header.exchange, ExchangeType::IKE_SA_INIT);
    let detects = |payload: &Payload| {
        let kinds = [NotifyType::NAT_DETECTION_SOURCE_IP, NotifyType::NAT_DETECTION_DESTINATION_IP];
        matches!(payload, Payload::Notify(notify) if kinds.contains(&notify.kind))
    };
    assert!(!message.payloads.iter().any(detects));
    // Neither end has agreed on MOBIKE, so none of its requests is sent when an address changes.
    let before = world.relay.carried[0];
    world.act(A, |endpoint, now| endpoint.underlay_changed(now));
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.relay.carried[0], before);
}

#[test]
fn a_relay_that_is_gone_for_a_while_ends_nothing() {
    let (mut world, streams) = apart(4, |_| ());
    meet(&mut world, streams);
    assert!(world.run_until(Duration::from_secs(5), both_up));
    let spis = world.ike(A).spis;
    world.relay.is_up = false;
    assert_eq!(packets(&mut world), 0);
    world.run_for(Duration::from_secs(10));
    world.relay.is_up = true;
    assert!(packets(&mut world) >= 2, "what was agreed on is there");
    world.run_for(Duration::from_secs(60));
    assert_eq!((world.ike(A).spis, both_up(&world)), (spis, true));
}

#[test]
fn rekeys_and_a_new_process_go_on_in_the_stream() {
    let (mut world, streams) = apart(5, |_| ());
    meet(&mut world, streams);
    assert!(world.run_until(Duration::from_secs(5), both_up));
    for command in 0..2 {
        world
            .act(A, |endpoint, now| if command == 0 { endpoint.rekey(now, PEER) } else { endpoint.rekey_ike(now, PEER) })
            .unwrap();
        world.run_for(Duration::from_secs(2));
        assert!(both_up(&world) && packets(&mut world) >= 2);
    }
    let spis = world.ike(B).spis;
    let mut own = peer(A);
    (own.remotes, own.awaits_remotes) = (Vec::new(), true);
    let restored = world.succeed(A, endpoint_config(1), &[(PEER, own)]);
    assert_eq!(restored.inbound.len(), world.nodes[A].data.inbound.len());
    // It has not heard of the relay yet, and what it has goes on.
    assert!(packets(&mut world) >= 2);
    world.act(A, |endpoint, now| endpoint.set_streams(now, PEER, &[streams[A]])).expect("a peer");
    world.run_for(Duration::from_secs(60));
    assert_eq!((world.ike(B).spis, both_up(&world)), (spis, true));
    assert_eq!(world.ike(A).hop, Hop::Stream(streams[A]));
}

#[test]
fn a_stranger_in_a_stream_takes_no_places_of_others_and_answers_to_nobody() {
    let (mut world, streams) = apart(6, |_| ());
    meet(&mut world, streams);
    assert!(world.run_until(Duration::from_secs(5), both_up));
    // Somebody says in another stream, in which nobody is looked for, what the peer has said.
    let stranger = StreamId(77);
    let (mut recorded, there) = apart(7, |_| ());
    let now = recorded.now();
    recorded.nodes[A].endpoint.set_streams(now, PEER, &[there[A]]).expect("a peer");
    let request = recorded.nodes[A].endpoint.poll_transmit().expect("a request").payload;
    let now = world.now();
    world.nodes[B].endpoint.handle_message(now, Hop::Stream(stranger), &request);
    let answer = world.nodes[B].endpoint.poll_transmit();
    assert!(answer.is_none_or(|answer| answer.payload.len() <= request.len()), "no more than it sent");
    assert!(both_up(&world));
}
