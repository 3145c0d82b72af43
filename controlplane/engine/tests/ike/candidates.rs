//! Gateways that meet in a stream and tell each other where they may be: they go on from host to host where the NATs before them let them.

use std::net::SocketAddr;
use std::time::Duration;

use adit_engine::ike::{Candidate, CandidateKind, EndpointConfig, Event, PeerConfig};
use adit_engine::path::{Hop, PathEvent, StreamId};
use adit_sim::*;

/// A server that tells who asks how it sees him. Nothing has to be there: the NAT before a gateway says what it would say.
const SERVER: ([u8; 4], u16) = ([198, 18, 0, 1], 3478);
const OUTSIDE: [[u8; 4]; 2] = [[198, 51, 100, 7], [203, 0, 113, 9]];

/// Two gateways that know nothing of where the other is, each behind such a NAT or none, with a stream to each other.
fn apart(seed: u64, nats: [Option<NatConfig>; 2], change: impl Fn(&mut PeerConfig)) -> (World, [StreamId; 2]) {
    let mut world = World::new(seed);
    for node in [A, B] {
        let config = EndpointConfig { echo: true, ..endpoint_config(node as u8 + 1) };
        world.add(&peer(node).local.expect("an address").to_string(), config);
    }
    for (node, nat) in [A, B].into_iter().zip(nats) {
        world.nodes[node].nat = nat.map(|nat| world.add_nat(nat));
        let mut config = peer(node);
        (config.remotes, config.in_streams, config.mobike) = (Vec::new(), true, false);
        change(&mut config);
        world.set_peer(node, PEER, config);
    }
    let streams = world.add_stream([A, B]);
    (world, streams)
}

/// Asks the server how it sees a gateway, and gives that beside its own address to its engine.
fn gather(world: &mut World, node: usize) {
    let inside = SocketAddr::new(world.nodes[node].address.ip(), 4500);
    let mut all = vec![Candidate { kind: CandidateKind::Host, address: inside }];
    if let Some(nat) = world.nodes[node].nat {
        let seen = world.nats[nat].outbound(world.now, inside, SERVER.into(), &mut world.rng).expect("a port");
        all.push(Candidate { kind: CandidateKind::Reflexive, address: seen });
    }
    world.act(node, |endpoint, now| endpoint.set_candidates(now, all));
}

fn meet(world: &mut World, streams: [StreamId; 2]) {
    for node in [A, B] {
        world.act(node, |endpoint, now| endpoint.set_streams(now, PEER, &[streams[node]])).expect("a peer");
    }
}

fn both_up(world: &World) -> bool {
    [A, B].into_iter().all(|node| world.is_up(node, PEER))
}

/// Whether a gateway sends everything by UDP.
fn is_direct(world: &World, node: usize) -> bool {
    let ike = world.nodes[node].endpoint.status(PEER).and_then(|status| Some(status.ike.first()?.hop));
    let used = world.nodes[node].endpoint.paths(PEER).into_iter().find(|path| path.in_use).map(|path| path.hop);
    [ike, used].iter().all(|hop| matches!(hop, Some(Hop::Udp(_))))
}

fn both_direct(world: &World) -> bool {
    [A, B].into_iter().all(|node| is_direct(world, node))
}

fn kinds(outside: [u8; 4]) -> [(&'static str, NatConfig); 4] {
    let usual = NatConfig::usual(outside.into());
    [
        ("full cone", NatConfig { filtering: Behaviour::EndpointIndependent, ..usual.clone() }),
        ("restricted", NatConfig { filtering: Behaviour::AddressDependent, ..usual.clone() }),
        ("port restricted, other ports", NatConfig { allocation: Allocation::Random, ..usual.clone() }),
        ("port restricted", usual),
    ]
}

#[test]
fn behind_nats_that_map_by_the_inside_alone_both_go_direct_at_once() {
    let [a, b] = OUTSIDE;
    for (one, nat_of_a) in kinds(a) {
        for (other, nat_of_b) in kinds(b) {
            let (mut world, streams) = apart(1, [Some(nat_of_a.clone()), Some(nat_of_b)], |_| ());
            [A, B].into_iter().for_each(|node| gather(&mut world, node));
            meet(&mut world, streams);
            assert!(world.run_until(Duration::from_secs(5), both_up), "{one}, {other}");
            let up = world.elapsed();
            assert!(
                world.run_until(Duration::from_secs(2), both_direct),
                "{one}, {other}: {:?}",
                world.nodes[A].endpoint.paths(PEER)
            );
            println!("{one}, {other}: direct {:?} after both were up", world.elapsed() - up);
            // From here on nothing goes over the relay, and everything arrives.
            world.run_for(Duration::from_secs(1));
            let before = world.relay.carried;
            world.check_traffic();
            world.run_for(Duration::from_secs(120));
            world.check_traffic();
            assert_eq!((world.relay.carried, both_direct(&world)), (before, true), "{one}, {other}");
        }
    }
}

/// Both behind NATs of these kinds, connected over the relay, and what they may do after that is done.
fn settled(seed: u64, nats: [Option<NatConfig>; 2]) -> (World, [StreamId; 2]) {
    let (mut world, streams) = apart(seed, nats, |_| ());
    [A, B].into_iter().for_each(|node| gather(&mut world, node));
    meet(&mut world, streams);
    assert!(world.run_until(Duration::from_secs(5), both_up));
    world.run_for(Duration::from_secs(10));
    (world, streams)
}

/// How many echoes a gateway has asked for so far.
fn echoes(world: &World, node: usize) -> usize {
    world.nodes[node].events.iter().filter(|event| matches!(event, Event::Path(PathEvent::Echo { .. }))).count()
}

#[test]
fn a_nat_that_maps_by_the_other_end_is_met_by_whoever_lets_any_port_in() {
    let [a, b] = OUTSIDE.map(Into::into);
    let open = [
        None,
        Some(NatConfig { filtering: Behaviour::EndpointIndependent, ..NatConfig::usual(b) }),
        Some(NatConfig { filtering: Behaviour::AddressDependent, ..NatConfig::usual(b) }),
    ];
    for (case, other) in open.into_iter().enumerate() {
        for swapped in [false, true] {
            let symmetric = Some(NatConfig::symmetric(if swapped { b } else { a }));
            let other = other.clone().map(|nat| NatConfig { outside: if swapped { a } else { b }, ..nat });
            let (mut world, _) = settled(2, if swapped { [other, symmetric] } else { [symmetric, other] });
            assert!(both_direct(&world), "{case}, swapped {swapped}: {:?}", world.nodes[A].endpoint.paths(PEER));
            world.check_traffic();
            world.run_for(Duration::from_secs(300));
            assert!(both_direct(&world), "{case}, swapped {swapped}");
        }
    }
}

#[test]
fn where_no_candidate_answers_all_stays_in_the_stream_and_little_is_asked() {
    let [a, b] = OUTSIDE.map(Into::into);
    let (mut world, _) = settled(3, [Some(NatConfig::symmetric(a)), Some(NatConfig::usual(b))]);
    let before = [A, B].map(|node| echoes(&world, node));
    for _ in 0..60 {
        world.check_traffic();
        world.run_for(Duration::from_secs(50));
        assert!(both_up(&world) && ![A, B].into_iter().any(|node| is_direct(&world, node)));
    }
    // An hour: looks grow rare, and what measures the stream goes on.
    for node in [A, B] {
        let asked = echoes(&world, node) - before[node];
        assert!(asked < 3600 / 8, "{asked} echoes");
    }
}

#[test]
fn where_udp_dies_the_stream_goes_on_until_it_is_back() {
    let [a, b] = OUTSIDE.map(Into::into);
    let (mut world, _) = settled(4, [Some(NatConfig::usual(a)), Some(NatConfig::usual(b))]);
    let spis = world.ike(A).spis;
    for _ in 0..3 {
        assert!(both_direct(&world));
        world.cut = true;
        let by_stream = |world: &World| ![A, B].into_iter().any(|node| is_direct(world, node));
        let goes_on = (0..40).any(|_| {
            [A, B].into_iter().for_each(|node| world.send_esp(node));
            world.run_for(Duration::from_secs(1));
            by_stream(&world)
        });
        assert!(goes_on, "{:?}", world.nodes[A].endpoint.paths(PEER));
        world.check_traffic();
        world.cut = false;
        // Who goes to and fro is looked for less and less.
        assert!(world.run_until(Duration::from_secs(400), both_direct), "{:?}", world.nodes[A].endpoint.paths(PEER));
        world.check_traffic();
    }
    assert_eq!((world.ike(A).spis, both_up(&world)), (spis, true), "the loss of a path ends no IKE SA");
}

#[test]
fn who_is_behind_another_nat_tells_where_that_is_at_once() {
    let [a, b] = OUTSIDE.map(Into::into);
    // A can be reached by nobody at first.
    let (mut world, _) = settled(5, [Some(NatConfig::symmetric(a)), Some(NatConfig::usual(b))]);
    assert!(!both_direct(&world));
    for who in [A, B] {
        world.nodes[who].nat = Some(world.add_nat(NatConfig::usual([192, 88, 99, 5 + who as u8].into())));
        gather(&mut world, who);
        assert!(world.run_until(Duration::from_secs(2), both_direct), "{:?}", world.nodes[A].endpoint.paths(PEER));
        // Where the NAT of the other one lets it in no more, it tells that over the relay.
        world.run_for(Duration::from_secs(10));
        world.check_traffic();
        assert!(both_direct(&world));
    }
}

#[test]
fn whichever_end_begins_and_after_rekeys_and_a_new_process_it_is_the_same() {
    let [a, b] = OUTSIDE.map(Into::into);
    for begins in [A, B] {
        let (mut world, streams) = apart(6, [Some(NatConfig::usual(a)), Some(NatConfig::symmetric(b))], |_| ());
        [A, B].into_iter().for_each(|node| gather(&mut world, node));
        // The other one hears of the stream when it is called.
        world.act(begins, |endpoint, now| endpoint.set_streams(now, PEER, &[streams[begins]])).expect("a peer");
        world.act(begins, |endpoint, now| endpoint.connect(now, PEER)).expect("a peer");
        assert!(world.run_until(Duration::from_secs(5), both_up), "{begins} begins");
        world.run_for(Duration::from_secs(10));
        assert!(!both_direct(&world), "nobody can be met there");
        world.act(A, |endpoint, now| endpoint.rekey_ike(now, PEER)).expect("a peer");
        world.run_for(Duration::from_secs(2));
        let mut own = peer(A);
        (own.remotes, own.in_streams, own.mobike) = (Vec::new(), true, false);
        world.succeed(A, EndpointConfig { echo: true, ..endpoint_config(1) }, &[(PEER, own)]);
        world.act(A, |endpoint, now| endpoint.set_streams(now, PEER, &[streams[A]])).expect("a peer");
        gather(&mut world, A);
        world.nodes[B].nat = Some(world.add_nat(NatConfig::usual([192, 88, 99, 6].into())));
        gather(&mut world, B);
        assert!(world.run_until(Duration::from_secs(3), both_direct), "{begins}: {:?}", world.nodes[A].endpoint.paths(PEER));
        world.check_traffic();
    }
}

#[test]
fn a_peer_that_names_others_again_and_again_has_little_sent_to_them() {
    let (mut world, streams) = apart(7, [None, None], |_| ());
    gather(&mut world, A);
    meet(&mut world, streams);
    assert!(world.run_until(Duration::from_secs(5), both_up));
    let before = echoes(&world, A);
    let lasts = 60;
    for turn in 0..10 * lasts {
        let victim = |host: u8| SocketAddr::from(([203, 0, 113, host], 1000 + turn));
        let all = (1..=40).map(|host| Candidate { kind: CandidateKind::Host, address: victim(host) }).collect();
        world.act(B, |endpoint, now| endpoint.set_candidates(now, all));
        world.run_for(Duration::from_millis(100));
    }
    let asked = echoes(&world, A) - before;
    assert!(asked < 6 * usize::from(lasts), "{asked} echoes in {lasts} s");
    assert!(both_up(&world), "and it goes on");
    world.check_traffic();
}

#[test]
fn after_both_have_proven_themselves_anew_candidates_are_told_as_before() {
    let [a, b] = OUTSIDE.map(Into::into);
    let (mut world, _) = settled(9, [Some(NatConfig::usual(a)), Some(NatConfig::usual(b))]);
    assert!(both_direct(&world));
    world.act(A, |endpoint, now| endpoint.reauthenticate(now, PEER)).expect("a peer");
    world.run_for(Duration::from_secs(5));
    assert!(both_direct(&world) && both_up(&world));
    world.nodes[B].nat = Some(world.add_nat(NatConfig::usual([192, 88, 99, 6].into())));
    gather(&mut world, B);
    world.run_for(Duration::from_secs(10));
    world.check_traffic();
    assert!(both_direct(&world), "{:?}", world.nodes[A].endpoint.paths(PEER));
}

#[test]
fn what_a_gateway_has_in_addition_moves_nobody_who_is_answered() {
    let (mut world, _) = settled(10, [None, None]);
    assert!(both_direct(&world));
    let ways = [A, B].map(|node| world.nodes[node].data.way(PEER).0);
    for turn in 0..20 {
        let more = SocketAddr::from(([203, 0, 113, 77], 4500 + turn));
        for node in [A, B] {
            let inside = SocketAddr::new(world.nodes[node].address.ip(), 4500);
            let all = [inside, more].map(|address| Candidate { kind: CandidateKind::Host, address }).to_vec();
            world.act(node, |endpoint, now| endpoint.set_candidates(now, all));
        }
        world.run_for(Duration::from_secs(2));
        assert_eq!([A, B].map(|node| world.nodes[node].data.way(PEER).0), ways);
    }
    world.check_traffic();
}

#[test]
fn who_is_met_in_no_stream_is_told_nothing_of_candidates() {
    let mut world =
        pair_with(8, |node| EndpointConfig { echo: true, ..endpoint_config(node as u8 + 1) }, |_, config| config.mobike = false);
    world.connect_pair();
    let (messages, before) = (world.messages().len(), echoes(&world, A));
    gather(&mut world, B);
    world.run_for(Duration::from_secs(5));
    assert_eq!((world.messages().len(), echoes(&world, A)), (messages, before));
}

#[test]
fn where_both_begin_at_once_one_of_them_leads_and_they_go_direct_as_fast() {
    let [a, b] = OUTSIDE.map(Into::into);
    for seed in 20..40 {
        let (mut world, streams) =
            apart(seed, [Some(NatConfig::usual(a)), Some(NatConfig::usual(b))], |config| config.initiate = true);
        [A, B].into_iter().for_each(|node| gather(&mut world, node));
        meet(&mut world, streams);
        assert!(world.run_until(Duration::from_secs(5), both_up), "{seed}");
        assert!(world.run_until(Duration::from_secs(2), both_direct), "{seed}: {:?}", world.nodes[A].endpoint.paths(PEER));
        world.run_for(Duration::from_secs(30));
        let ways = [A, B].map(|node| world.nodes[node].data.way(PEER).0);
        world.run_for(Duration::from_secs(300));
        assert_eq!([A, B].map(|node| world.nodes[node].data.way(PEER).0), ways, "{seed}: it stays where it is");
        assert!(both_direct(&world));
        world.check_traffic();
    }
}
