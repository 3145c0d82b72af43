//! Clients of one pattern: one that comes under ever another name begins no more often than it may, and takes nothing from the others.

use std::time::Duration;

use adit_engine::auth::{LocalAuth, RemoteAuth};
use adit_engine::ike::{PeerConfig, PeerId};
use adit_sim::certificates::Authority;

use adit_sim::*;

const GATEWAY: usize = 0;
const HONEST: usize = 1;
const GREEDY: usize = 2;
/// Clients that the gateway has room for.
const PLACES: u16 = 3;
const SECONDS: u64 = 3;
/// How often the greedy client comes in a second: more often than one client, one address, or one network may.
const AS_ONE: u64 = 100;
const FROM_ADDRESS: u64 = 400;
const FROM_NETWORK: u64 = 800;

/// How the gateway knows its clients, and how each of two proves that it is one.
struct Proofs {
    gateway: (LocalAuth, RemoteAuth),
    clients: [(LocalAuth, RemoteAuth); 2],
}

/// The honest client has a name of its own; the other one has several.
fn certificates(names: &[&str]) -> Proofs {
    let ca = Authority::new("CA of all");
    let proof = |names: &[&str]| (ca.issue_for(names), ca.trusted());
    Proofs { gateway: proof(&["b.example.org"]), clients: [proof(&["honest.example.org"]), proof(names)] }
}

fn group_key() -> Proofs {
    Proofs { gateway: psk(SECRET), clients: [psk(SECRET), psk(SECRET)] }
}

fn client(world: &mut World, node: usize, name: &str, (local_auth, remote_auth): &(LocalAuth, RemoteAuth)) {
    world.crash(node, endpoint_config(7), true);
    let local = Some(world.nodes[node].address);
    let (local_id, local_auth, remote_auth) = (name.parse().expect("an identity"), local_auth.clone(), remote_auth.clone());
    let remotes = vec![world.nodes[GATEWAY].address];
    world.set_peer(node, PEER, PeerConfig { local, local_id, local_auth, remote_auth, remotes, ..peer(A) });
}

fn gateway(at: [&str; 3], proofs: &Proofs) -> World {
    let mut world = World::new(1);
    world.net.delay = (Duration::from_millis(1), Duration::from_millis(1));
    for at in at {
        world.add(at, endpoint_config(2));
    }
    let (local_auth, remote_auth) = proofs.gateway.clone();
    for place in 0..PLACES {
        let (local_auth, remote_auth) = (local_auth.clone(), remote_auth.clone());
        let remote_id = "*.example.org".parse().expect("a pattern");
        let local = Some(world.nodes[GATEWAY].address);
        let config = PeerConfig { initiate: false, remotes: Vec::new(), local, remote_id, local_auth, remote_auth, ..peer(B) };
        world.set_peer(GATEWAY, PeerId(place), config);
    }
    world
}

fn handshakes(world: &World) -> u64 {
    world.nodes[GATEWAY].endpoint.counters().handshakes
}

/// The greedy client comes and goes, each time under another name and from another place, and the honest one once in a second: how many
/// times the greedy one was let in, and in how many seconds.
fn let_in(
    world: &mut World,
    (proofs, per_second): (&Proofs, u64),
    name: impl Fn(u64) -> String,
    from: impl Fn(u64) -> String,
) -> (u64, f64) {
    let (mut honest, time, began) = (0, Duration::from_secs(1) / per_second as u32, world.now);
    world.net.delay = (time / 20, time / 20);
    for number in 0..SECONDS * per_second {
        world.nodes[GREEDY].address = from(number).parse().expect("an address");
        client(world, GREEDY, &name(number), &proofs.clients[1]);
        world.run_for(time * 9 / 10);
        world.act(GREEDY, |endpoint, now| endpoint.disconnect(now, PEER)).expect("a peer");
        world.run_for(time / 10);
        let (at, step) = (number % per_second, per_second / 100);
        // The honest one acts in some hundredths of each second.
        match (at / step) * u64::from(at.is_multiple_of(step)) {
            10 => {
                client(world, HONEST, "honest.example.org", &proofs.clients[0]);
                honest += 1;
            }
            50 => assert!(world.is_up(HONEST, PEER), "beside {number}: {:?}", world.nodes[GATEWAY].endpoint.counters()),
            60 => world.act(HONEST, |endpoint, now| endpoint.rekey_ike(now, PEER)).expect("it is connected"),
            70 => {
                let opened = world.nodes[GATEWAY].data.opened;
                world.send_esp(HONEST);
                world.run_for(Duration::from_millis(2));
                assert!(world.nodes[GATEWAY].data.opened > opened, "its packets come through");
            }
            80 => world.act(HONEST, |endpoint, now| endpoint.disconnect(now, PEER)).expect("it is connected"),
            _ => {}
        }
    }
    (handshakes(world) - honest, (world.now - began).as_secs_f64())
}

const V4: [&str; 3] = ["192.0.2.2:4500", "192.0.2.3:4500", "198.51.100.1:4500"];
const V6: [&str; 3] = ["[2001:db8:2::2]:4500", "[2001:db8:51:1::3]:4500", "[2001:db8:51:1::1]:4500"];

/// An error unless as many were let in as may come at once, and no more than were earned besides; and `more`.
fn is_limited((count, seconds): (u64, f64), per_second: u64, more: u64) {
    let most = per_second + (per_second as f64 * seconds) as u64 + more;
    assert!((per_second..=most).contains(&count) && seconds >= SECONDS as f64, "{count} in {seconds} s");
}

#[test]
fn one_certificate_with_several_names_is_one_client() {
    for at in [V4, V6] {
        let proofs = certificates(&["n0.example.org", "n1.example.org"]);
        let mut world = gateway(at, &proofs);
        let count = let_in(&mut world, (&proofs, AS_ONE), |number| format!("n{}.example.org", number % 2), |_| at[2].into());
        is_limited(count, 8, 0);
    }
}

#[test]
fn one_name_is_one_client_wherever_it_comes_from() {
    let proofs = group_key();
    let mut world = gateway(V4, &proofs);
    // In letters of either case.
    let name = |number: u64| if number.is_multiple_of(2) { "Name.example.org" } else { "name.example.org" }.to_owned();
    let count = let_in(&mut world, (&proofs, AS_ONE), name, |number| format!("10.{}.0.1:4500", number % 200));
    is_limited(count, 8, 0);
}

#[test]
fn who_has_the_key_of_a_group_begins_so_often_from_one_address() {
    for (at, from) in [(V4, V4[2]), (V6, "[2001:db8:52:1::1]:4500")] {
        let proofs = group_key();
        let mut world = gateway(at, &proofs);
        let count = let_in(&mut world, (&proofs, FROM_ADDRESS), |number| format!("n{number}.example.org"), |_| from.into());
        is_limited(count, 256, 0);
    }
}

#[test]
fn who_has_the_key_of_a_group_begins_so_often_from_one_network() {
    for (at, network) in [(V4, "198.51.100.x:4500"), (V6, "[2001:db8:52:x::1]:4500")] {
        let proofs = group_key();
        let mut world = gateway(at, &proofs);
        let from = |number: u64| network.replace('x', &(1 + number % 20).to_string());
        let count = let_in(&mut world, (&proofs, FROM_NETWORK), |number| format!("n{number}.example.org"), from);
        // Over IPv4 each address has come once before it is told from others.
        is_limited(count, 512, 20);
    }
}
