//! Many peers, many SAs, several peers with one name.

use std::time::{Duration, Instant};

use adit_engine::ike::{ConnectionState, PeerConfig, PeerId};

use adit_sim::*;

#[expect(clippy::disallowed_methods, reason = "how long the machine takes, not how long the protocol does")]
fn took(act: impl FnOnce()) -> Duration {
    let began = Instant::now();
    act();
    began.elapsed()
}

fn named(number: u16) -> PeerConfig {
    let name = format!("peer-{number}.example.org");
    let remote_id = name.parse().expect("an identity");
    PeerConfig { remotes: Vec::new(), name, remote_id, ..peer(B) }
}

#[test]
fn ten_thousand_peers_are_set_and_one_of_them_changed_in_no_time() {
    let mut world = World::new(1);
    let gateway = world.add("192.0.2.2:4500", endpoint_config(2));
    let now = world.now();
    let endpoint = &mut world.nodes[gateway].endpoint;
    // Backwards: no order may matter.
    let set =
        took(|| (0..10_000).rev().for_each(|id| endpoint.set_peer(now, PeerId(id), named(id)).expect("a good configuration")));
    let changed =
        took(|| (0..10_000).for_each(|id| endpoint.set_peer(now, PeerId(id), named(id)).expect("a good configuration")));
    assert!(set < Duration::from_secs(15) && changed < Duration::from_secs(15), "{set:?}, {changed:?}");

    let node = world.add("192.0.2.1:4500", endpoint_config(1));
    world.set_peer(node, PEER, PeerConfig { local_id: "peer-7777.example.org".parse().expect("an identity"), ..peer(A) });
    assert!(world.run_until(Duration::from_secs(5), |world| world.is_up(gateway, PeerId(7777))));
}

/// A gateway with three peers that may all be the one that comes; it is the last of them.
fn many(psk_of_a: &str) -> World {
    let mut world = World::new(2);
    let gateway = world.add("192.0.2.2:4500", endpoint_config(2));
    for (number, (name, secret)) in
        [("*", "one secret"), ("A.example.org", "another secret"), ("a.example.org", SECRET)].iter().enumerate()
    {
        let (local_auth, remote_auth) = psk(secret);
        let (name, remote_id) = (format!("site-{number}"), name.parse().expect("a pattern"));
        let config = PeerConfig { name, remote_id, local_auth, remote_auth, remotes: Vec::new(), ..peer(B) };
        world.set_peer(gateway, PeerId(number as u16), config);
    }
    let node = world.add("192.0.2.1:4500", endpoint_config(1));
    let (local_auth, remote_auth) = psk(psk_of_a);
    world.set_peer(node, PEER, PeerConfig { local_auth, remote_auth, ..peer(A) });
    world.run_for(Duration::from_secs(3));
    world
}

#[test]
fn of_peers_with_one_identity_the_one_connects_whose_proof_is_good() {
    for (secret, up) in [(SECRET, 2), ("another secret", 1), ("one secret", 0)] {
        let world = many(secret);
        for number in 0..3 {
            let status = world.nodes[0].endpoint.status(PeerId(number)).expect("a peer");
            let expected = if number == up { ConnectionState::Established } else { ConnectionState::Idle };
            assert_eq!((status.state, status.cause), (expected, None), "site-{number} for {secret}");
        }
    }
    // Where it is nobody's, it is not said to be somebody's.
    let world = many("a secret that nobody has");
    for number in 0..3 {
        assert_eq!(world.state(0, PeerId(number)), ConnectionState::Idle);
    }
    assert!(world.nodes[0].endpoint.refusals().count() > 0);
}

#[test]
fn a_peer_that_rekeys_without_end_gets_only_its_share_of_the_tables() {
    let mut world = pair(3, |_, config| config.children = vec![ethernet()]);
    world.connect_pair();
    let mut most = 0;
    for _ in 0..400 {
        drop(world.act(A, |endpoint, now| endpoint.rekey(now, PEER)));
        world.run_for(Duration::from_millis(25));
        most = most.max(world.nodes[B].data.inbound.len());
    }
    assert!((16..=32).contains(&most), "{most} inbound SAs");
    world.run_for(Duration::from_secs(60));
    assert!(world.nodes[B].data.has_pairs(1));
    world.check_traffic();
}

#[test]
fn a_peer_gets_four_times_our_lanes_or_eight_and_settles_for_them() {
    for (ours, expected) in [(1, 8), (3, 12)] {
        let mut world = pair(4, |node, config| config.children[0].lanes = if node == A { 64 } else { ours });
        world.connect_pair();
        world.run_for(Duration::from_secs(60));
        let before = world.log.len();
        assert!([A, B].iter().all(|node| world.nodes[*node].data.has_pairs(expected)), "{}", world.nodes[B].data.inbound.len());
        world.check_traffic();
        world.run_for(Duration::from_secs(60));
        assert!(world.log.len() - before < 20, "nothing is asked for again and again");
    }
}
