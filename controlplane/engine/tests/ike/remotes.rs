//! Where a peer is looked for: at one address after the other, at none as long as its name has none, and elsewhere when its name
//! stands for something else.

use std::time::Duration;

use adit_engine::ike::{Cause, ConnectionState, Error, LocalFault};

use adit_sim::*;

fn at(text: &str) -> std::net::SocketAddr {
    text.parse().expect("an address")
}

#[test]
fn the_next_address_is_tried_when_nobody_answers_at_the_first() {
    let mut world = pair(1, |node, config| {
        if node == A {
            config.remotes = vec![at("192.0.2.98:4500"), at("192.0.2.99:4500"), at("192.0.2.2:4500")];
        }
    });
    assert!(world.run_until(Duration::from_secs(12), |world| world.is_up(A, PEER) && world.is_up(B, PEER)), "two in vain");
    world.check_traffic();
    // It begins there again when the connection was lost.
    world.crash(B, endpoint_config(2), true);
    world.set_peer(B, PEER, peer(B));
    let before = world.log.len();
    world.run_until(Duration::from_secs(120), |world| world.is_up(B, PEER));
    assert!(world.is_up(B, PEER) && world.log[before..].iter().all(|(_, to, _)| !to.to_string().starts_with("192.0.2.9")));
}

#[test]
fn a_peer_whose_name_has_no_address_is_waited_for() {
    let mut world = pair(2, |node, config| {
        if node == A {
            config.remotes.clear();
            config.awaits_remotes = true;
        }
    });
    world.run_for(Duration::from_secs(60));
    let status = world.nodes[A].endpoint.status(PEER).expect("a peer");
    let why = Cause::Failed(Error::Local(LocalFault::NoAddress));
    assert_eq!((status.state, status.cause), (ConnectionState::Reconnecting, Some(why)));
    assert!(world.log.is_empty());
    world.act(A, |endpoint, now| endpoint.set_remotes(now, PEER, vec![at("192.0.2.2:4500")])).expect("a peer");
    assert!(world.run_until(Duration::from_secs(1), |world| world.is_up(A, PEER) && world.is_up(B, PEER)), "at once");
    world.check_traffic();
}

#[test]
fn a_name_that_stands_for_something_else_moves_who_answers_no_more() {
    for mobike in [false, true] {
        let mut world = pair(3, |_, config| config.mobike = mobike);
        world.connect_pair();
        let spis = world.ike(A).spis;
        let new = at("192.0.2.77:4500");
        world.act(A, |endpoint, now| endpoint.set_remotes(now, PEER, vec![new])).expect("a peer");
        world.run_for(Duration::from_secs(5));
        assert_eq!(world.ike(A).hop.remote(), at("192.0.2.2:4500"), "it answers where it is");
        world.nodes[B].address = new;
        world.dead.push(at("192.0.2.2:4500").ip());
        assert!(world.run_until(Duration::from_secs(60), |world| world.ike(A).hop.remote() == new), "mobike {mobike}");
        assert_eq!(world.ike(A).spis, spis);
        world.run_for(Duration::from_secs(3));
        world.check_traffic();
    }
}
