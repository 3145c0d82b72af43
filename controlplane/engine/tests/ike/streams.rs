//! Gateways that cannot reach each other by UDP and have a stream to each other, as over a relay.

use std::time::Duration;

use adit_engine::ike::{Cause, ConnectionState, EndpointConfig, Error, Incompatibility, LocalFault, PeerConfig};
use adit_engine::path::{Hop, Remote, StreamId};
use adit_proto::ike::{ExchangeType, Message, NotifyType, Payload};
use adit_sim::*;

/// Two gateways without an address of each other. Nothing that goes by UDP arrives. Gives the stream of each.
fn apart(seed: u64, change: impl Fn(&mut PeerConfig)) -> (World, [StreamId; 2]) {
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
        (config.remotes, config.in_streams) = (Vec::new(), true);
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
fn who_is_seen_by_nobody_is_said_to_be_that() {
    let (mut world, streams) = apart(15, |_| ());
    world.run_for(Duration::from_secs(60));
    let status = world.nodes[A].endpoint.status(PEER).expect("a peer");
    let why = Cause::Failed(Error::Local(LocalFault::NotSeen));
    assert_eq!((status.state, status.cause), (ConnectionState::Reconnecting, Some(why)));
    meet(&mut world, streams);
    assert!(world.run_until(Duration::from_secs(2), both_up), "at once, however long nobody was there");
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
fn what_was_under_way_when_the_relay_went_is_asked_anew_when_it_is_back() {
    let (mut world, streams) = apart(14, |config| config.dpd = Duration::from_secs(2));
    meet(&mut world, streams);
    assert!(world.run_until(Duration::from_secs(5), both_up));
    let spis = world.ike(A).spis;
    // Each time it is back a moment before both would give up.
    for _ in 0..4 {
        world.relay.is_up = false;
        world.act(A, |endpoint, now| endpoint.set_streams(now, PEER, &[])).expect("a peer");
        world.act(B, |endpoint, now| endpoint.set_streams(now, PEER, &[])).expect("a peer");
        world.run_for(Duration::from_secs(20));
        world.relay.is_up = true;
        meet(&mut world, streams);
        world.run_for(Duration::from_secs(1));
        assert_eq!((world.ike(A).spis, both_up(&world)), (spis, true));
    }
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
    (own.remotes, own.in_streams) = (Vec::new(), true);
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
fn who_claims_to_be_the_peer_at_the_relay_keeps_it_away_from_nobody() {
    let (mut world, streams) = apart(8, |_| ());
    let fakes = [1, 2, 3, 4].map(StreamId);
    world.act(A, |endpoint, now| endpoint.set_streams(now, PEER, &fakes)).expect("a peer");
    world.run_for(Duration::from_secs(1));
    // Of the peer itself nothing is said here. It comes all the same.
    world.act(B, |endpoint, now| endpoint.set_streams(now, PEER, &[streams[B]])).expect("a peer");
    world.act(B, |endpoint, now| endpoint.connect(now, PEER)).expect("a peer");
    assert!(world.run_until(Duration::from_secs(5), both_up), "{:?}", world.nodes[A].endpoint.explain(PEER, world.now));
    assert_eq!(world.ike(A).hop, Hop::Stream(streams[A]));
    // Where it has proven itself it is looked for first from then on.
    world.act(A, |endpoint, now| endpoint.set_streams(now, PEER, &[&fakes[..], &[streams[A]]].concat())).expect("a peer");
    world.act(B, |endpoint, now| endpoint.disconnect(now, PEER)).expect("a peer");
    world.run_for(Duration::from_secs(1));
    assert!(!both_up(&world));
    world.act(A, |endpoint, now| endpoint.connect(now, PEER)).expect("a peer");
    assert!(world.run_until(Duration::from_secs(2), both_up));
}

/// Two gateways that know their addresses; and a stream between them, of which they do not know yet.
fn without_streams(seed: u64, mobike: bool) -> (World, [StreamId; 2]) {
    let mut world = World::new(seed);
    for node in [A, B] {
        let config = EndpointConfig { echo: true, ..endpoint_config(node as u8 + 1) };
        world.add(&peer(node).local.expect("an address").to_string(), config);
    }
    for node in [A, B] {
        world.set_peer(node, PEER, PeerConfig { in_streams: true, mobike, ..peer(node) });
    }
    let streams = world.add_stream([A, B]);
    (world, streams)
}

fn with_both(seed: u64, mobike: bool) -> (World, [StreamId; 2]) {
    let (mut world, streams) = without_streams(seed, mobike);
    meet(&mut world, streams);
    (world, streams)
}

fn all_by_stream(world: &World) -> bool {
    [A, B]
        .into_iter()
        .all(|node| matches!((world.nodes[node].data.way(PEER).0, world.ike(node).hop), (Hop::Stream(_), Hop::Stream(_))))
}

fn all_by_udp(world: &World) -> bool {
    [A, B].into_iter().all(|node| matches!((world.nodes[node].data.way(PEER).0, world.ike(node).hop), (Hop::Udp(_), Hop::Udp(_))))
}

#[test]
fn what_went_into_a_stream_comes_out_of_it_once_udp_passes_again() {
    for (seed, mobike) in [(9, true), (10, false)] {
        let (mut world, _) = with_both(seed, mobike);
        assert!(world.run_until(Duration::from_secs(5), both_up) && all_by_udp(&world), "mobike {mobike}");
        let spis = world.ike(A).spis;
        world.cut = true;
        let looks = |world: &mut World| {
            (0..60).any(|_| {
                packets(world);
                all_by_stream(world)
            })
        };
        assert!(looks(&mut world), "mobike {mobike}: it goes on in the stream");
        world.run_for(Duration::from_secs(40));
        assert!(all_by_stream(&world) && both_up(&world) && packets(&mut world) >= 2, "mobike {mobike}: nobody answers by UDP");
        world.cut = false;
        assert!(
            world.run_until(Duration::from_secs(60), all_by_udp),
            "mobike {mobike}: {:?}",
            world.nodes[A].endpoint.paths(PEER)
        );
        assert!(packets(&mut world) >= 2);
        world.run_for(Duration::from_secs(600));
        assert!(all_by_udp(&world), "mobike {mobike}");
        assert_eq!((world.ike(A).spis, both_up(&world)), (spis, true));
    }
}

#[test]
fn where_the_address_is_silent_the_stream_is_tried_within_two_seconds() {
    for first in [true, false] {
        let (mut world, streams) = if first { with_both(12, true) } else { without_streams(13, true) };
        world.cut = true;
        if !first {
            // It is seen at the relay only now.
            world.run_for(Duration::from_millis(200));
            meet(&mut world, streams);
        }
        assert!(world.run_until(Duration::from_secs(2), both_up) && all_by_stream(&world), "first: {first}");
    }
}

#[test]
fn a_stream_in_which_the_connection_began_is_left_for_an_address() {
    let (mut world, _) = with_both(11, true);
    world.cut = true;
    assert!(world.run_until(Duration::from_secs(60), both_up) && all_by_stream(&world));
    world.cut = false;
    assert!(world.run_until(Duration::from_secs(60), all_by_udp), "{:?}", world.nodes[A].endpoint.paths(PEER));
    assert!(packets(&mut world) >= 2);
}

#[test]
fn a_stranger_in_a_stream_takes_no_places_of_others_and_is_sent_little() {
    let (mut world, streams) = apart(6, |_| ());
    meet(&mut world, streams);
    assert!(world.run_until(Duration::from_secs(5), both_up));
    // Somebody says in another stream, in which nobody has proven anything, what the peer has said.
    let stranger = StreamId(77);
    let (mut recorded, there) = apart(7, |_| ());
    let now = recorded.now();
    recorded.nodes[A].endpoint.set_streams(now, PEER, &[there[A]]).expect("a peer");
    let request = recorded.nodes[A].endpoint.poll_transmit().expect("a request").payload;
    let now = world.now();
    world.nodes[B].endpoint.handle_message(now, Hop::Stream(stranger), &request);
    let answer = world.nodes[B].endpoint.poll_transmit();
    assert!(answer.is_some_and(|answer| answer.hop == Hop::Stream(stranger) && answer.payload.len() <= request.len()));
    assert_eq!(world.nodes[B].data.way(PEER).0, Hop::Stream(streams[B]));
    assert!(both_up(&world));
}

#[test]
fn nobody_gets_between_two_others_when_their_own_stream_ends() {
    let (mut world, straight) = apart(17, |config| config.dpd = Duration::from_secs(2));
    let through = world.add_stream([A, B]);
    let [key_a, key_b, key_m] = [1, 2, 3].map(|key| [key; 32]);
    for (node, own, other) in [(A, key_a, key_b), (B, key_b, key_a)] {
        let streams = [straight[node], through[node]];
        world
            .act(node, |endpoint, now| {
                endpoint.begin_streams(Some(own));
                endpoint.set_stream_end(straight[node], Some(other));
                endpoint.set_stream_end(through[node], Some(key_m));
                endpoint.set_streams(now, PEER, &streams)
            })
            .expect("a peer");
    }
    assert!(world.run_until(Duration::from_secs(10), both_up));
    world.relay.broken = straight.to_vec();
    // Whoever hands on what goes through his own stream gets nothing but IKE to hand on.
    for _ in 0..60 {
        [A, B].into_iter().for_each(|node| world.send_esp(node));
        world.run_for(Duration::from_secs(1));
        for node in [A, B] {
            assert_ne!(world.nodes[node].data.way(PEER).0, Hop::Stream(through[node]));
        }
    }
    world.relay.broken.clear();
    assert!(world.run_until(Duration::from_secs(60), both_up));
    world.run_for(Duration::from_secs(5));
    assert!(packets(&mut world) >= 2);
    assert!([A, B].into_iter().all(|node| world.ike(node).hop == Hop::Stream(straight[node])));
}

#[test]
fn nobody_in_the_room_can_stand_between_two_others() {
    let [key_a, key_b, key_m] = [1, 2, 3].map(|key| [key; 32]);
    for (has_other, names) in [(true, true), (false, true), (false, false)] {
        let (mut world, through) = apart(16, |_| ());
        let straight = world.add_stream([A, B]);
        // In the first one somebody says to each that it is the other, and hands on all that they say.
        for (node, own, other) in [(A, key_a, key_b), (B, key_b, key_a)] {
            let streams = if has_other { vec![through[node], straight[node]] } else { vec![through[node]] };
            world
                .act(node, |endpoint, now| {
                    // One that names nothing looks at nothing.
                    endpoint.begin_streams(Some(own).filter(|_| node == A || names));
                    endpoint.set_stream_end(through[node], Some(key_m));
                    endpoint.set_stream_end(straight[node], Some(other));
                    endpoint.set_streams(now, PEER, &streams)
                })
                .expect("a peer");
        }
        let up = world.run_until(Duration::from_secs(60), both_up);
        assert_eq!(up, has_other, "{:?}", world.nodes[A].endpoint.explain(PEER, world.now));
        if has_other {
            assert!([A, B].into_iter().all(|node| world.ike(node).hop == Hop::Stream(straight[node])));
            assert!(packets(&mut world) >= 2);
            continue;
        }
        let why = Error::Incompatible(Incompatibility::NotAtItsEnd);
        if names {
            assert_eq!(world.nodes[B].endpoint.refusals().last().map(|refusal| &refusal.why), Some(&why));
        } else {
            let cause = world.nodes[A].endpoint.status(PEER).expect("a peer").cause;
            assert_eq!(cause, Some(Cause::Failed(why)));
        }
        // One that is not seen at the moment of IKE_AUTH proves nothing.
        world.act(A, |endpoint, _| endpoint.set_stream_end(through[A], None));
        world.run_for(Duration::from_secs(60));
        assert!(!both_up(&world));
    }
}
