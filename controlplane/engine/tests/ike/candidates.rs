//! Gateways that meet in a stream and tell each other where they may be: they go on from host to host where the NATs before them let them.

use std::net::SocketAddr;
use std::time::Duration;

use adit_engine::ike::{Candidate, CandidateKind, EndpointConfig, PeerConfig};
use adit_engine::path::{Hop, StreamId};
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

fn kinds() -> [(&'static str, fn(std::net::IpAddr) -> NatConfig); 4] {
    [
        ("full cone", |outside| NatConfig { filtering: Behaviour::EndpointIndependent, ..NatConfig::usual(outside) }),
        ("restricted", |outside| NatConfig { filtering: Behaviour::AddressDependent, ..NatConfig::usual(outside) }),
        ("port restricted", NatConfig::usual),
        ("port restricted, other ports", |outside| NatConfig { allocation: Allocation::Random, ..NatConfig::usual(outside) }),
    ]
}

#[test]
fn behind_nats_that_map_by_the_inside_alone_two_gateways_go_direct_at_once() {
    let [a, b] = OUTSIDE.map(Into::into);
    for (one, nat_of_a) in kinds() {
        for (other, nat_of_b) in kinds() {
            let (mut world, streams) = apart(1, [Some(nat_of_a(a)), Some(nat_of_b(b))], |_| ());
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
            world.trace = std::env::var_os("TRACE").is_some();
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
