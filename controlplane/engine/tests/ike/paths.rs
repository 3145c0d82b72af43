//! Addresses: a NAT in front of a gateway, one that changes its mind, a claimed one, a gateway that moves.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit_engine::ike::{Endpoint, EndpointConfig, NatStatus, PeerConfig};
use adit_engine::path::{Hop, Route, Underlay};
use adit_proto::ike::{ExchangeType, Notify, NotifyType, Payload};

use adit_sim::*;

use super::rogue::has_auth;

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Maps port 500 to this one, and what comes next to the next one.
fn counting(outside: &str) -> NatConfig {
    NatConfig::counting(address(outside).ip(), address(outside).port())
}

/// Gateway A begins from port 500, perhaps behind a NAT. B does not know where A is.
fn begin(seed: u64, nat: Option<NatConfig>, change: impl Fn(usize, &mut PeerConfig)) -> World {
    begin_with(seed, nat, false, change)
}

/// The same, with data planes that answer sealed echoes or do not.
fn begin_with(seed: u64, nat: Option<NatConfig>, echo: bool, change: impl Fn(usize, &mut PeerConfig)) -> World {
    let mut world = World::new(seed);
    for node in [A, B] {
        let config = EndpointConfig { echo, ..endpoint_config(node as u8 + 1) };
        world.add(&peer(node).local.expect("an address").to_string(), config);
    }
    world.nodes[A].nat = nat.map(|nat| world.add_nat(nat));
    for node in [B, A] {
        let mut config = peer(node);
        for address in config.local.iter_mut().chain(&mut config.remotes) {
            address.set_port(500);
        }
        if node == B {
            config.remotes.clear();
        }
        change(node, &mut config);
        world.set_peer(node, PEER, config);
    }
    world.connect_pair();
    world
}

/// The way that the data plane of a gateway sends ESP, and whether in UDP.
fn reported(world: &World, node: usize) -> (Hop, bool) {
    world.nodes[node].data.way(PEER)
}

fn path(local: &str, remote: &str) -> Hop {
    Hop::new(address(local), address(remote))
}

#[test]
fn without_a_nat_everything_stays_on_port_500() {
    let mut world = begin(1, None, |_, _| {});
    assert_eq!(reported(&world, A), (path("192.0.2.1:500", "192.0.2.2:500"), false));
    assert_eq!(reported(&world, B), (path("192.0.2.2:500", "192.0.2.1:500"), false));
    world.check_traffic();
}

#[test]
fn a_claimed_nat_puts_esp_into_udp_at_both_ends_whoever_claims_it() {
    for claims in [A, B] {
        let mut world = begin(2, None, |node, config| config.force_encapsulation = node == claims);
        assert_eq!(reported(&world, A), (path("192.0.2.1:4500", "192.0.2.2:4500"), true), "claimed by {claims}");
        assert_eq!(reported(&world, B), (path("192.0.2.2:4500", "192.0.2.1:4500"), true), "claimed by {claims}");
        let nat = |world: &World, node: usize| world.nodes[node].endpoint.status(PEER).expect("a peer").ike[0].nat;
        let claimed = NatStatus { supported: true, claimed: true, ..NatStatus::default() };
        let seen = NatStatus { supported: true, there: true, ..NatStatus::default() };
        assert_eq!((nat(&world, claims), nat(&world, 1 - claims)), (claimed, seen));
        world.check_traffic();
        world.act(A, |endpoint, now| endpoint.rekey_ike(now, PEER)).expect("it is connected");
        world.run_for(Duration::from_secs(2));
        assert!(nat(&world, A).is_between());
        world.check_traffic();
    }
}

#[test]
fn behind_a_nat_both_ends_go_to_port_4500_and_the_mapping_is_kept_open() {
    let mut world = begin(3, Some(counting("198.51.100.1:40000")), |_, config| config.dpd = Duration::ZERO);
    assert_eq!(reported(&world, A), (path("192.0.2.1:4500", "192.0.2.2:4500"), true));
    assert_eq!(reported(&world, B), (path("192.0.2.2:4500", "198.51.100.1:40001"), true));
    world.check_traffic();
    let before = world.log.len();
    world.run_for(Duration::from_secs(70));
    let from_nat =
        world.log[before..].iter().filter(|(from, _, payload)| *from == address("198.51.100.1:40001") && payload == &[0xff]);
    assert!(from_nat.count() >= 3, "keepalives every 20 s");
}

#[test]
fn a_nat_that_maps_anew_is_followed() {
    for mobike in [false, true] {
        let mut world = begin(4, Some(counting("198.51.100.1:40000")), |_, config| {
            config.mobike = mobike;
            config.dpd = Duration::from_secs(5);
        });
        let spis = world.ike(A).spis;
        for outside in ["198.51.100.1:50000", "198.51.100.77:1000"] {
            world.nodes[A].nat = Some(world.add_nat(counting(outside)));
            // Only A can find B again: by a DPD probe, or its own packets.
            let mapped = address(outside);
            assert!(
                world.run_until(Duration::from_secs(30), |world| udp(reported(world, B).0).remote == mapped),
                "MOBIKE {mobike}: {outside}"
            );
            world.check_traffic();
            assert_eq!(world.ike(B).spis, spis);
        }
    }
}

#[test]
fn a_nat_in_front_of_the_one_that_answered_is_followed_by_echoes() {
    // With MOBIKE only the one that began can say where it is (RFC 4555 §1.2), and the other end does not know that it was mapped anew.
    for mobike in [false, true] {
        for nat_of_a in [None, Some(counting("203.0.113.9:3000"))] {
            let mut world = begin_with(14, nat_of_a.clone(), true, |_, config| {
                config.mobike = mobike;
                config.dpd = Duration::from_secs(5);
            });
            let spis = world.ike(A).spis;
            for outside in ["198.51.100.1:50000", "198.51.100.77:1000"] {
                world.nodes[B].nat = Some(world.add_nat(counting(outside)));
                let mapped = address(outside);
                let found = world.run_until(Duration::from_secs(30), |world| reported(world, A).0.remote() == mapped);
                assert!(found, "MOBIKE {mobike}, {nat_of_a:?}: {outside}, {:?}", reported(&world, A));
                world.check_traffic();
                // What A asks arrives, too, and IKE goes where it is answered.
                world.act(A, |endpoint, now| endpoint.rekey_ike(now, PEER)).expect("it is connected");
                let before = world.ike(A).spis;
                assert!(world.run_until(Duration::from_secs(60), |world| world.is_up(A, PEER) && world.ike(A).spis != before));
                world.check_traffic();
            }
            assert_ne!(world.ike(A).spis, spis);
            assert_eq!(world.ike(A).spis, world.ike(B).spis);
        }
    }
}

#[test]
fn a_symmetric_nat_that_forgets_every_minute_is_followed() {
    for mobike in [false, true] {
        let lifetime = Some(Duration::from_secs(60));
        let nat = NatConfig { lifetime, ..NatConfig::symmetric([198, 51, 100, 9].into()) };
        let mut world = begin(6, Some(nat), |_, config| {
            config.mobike = mobike;
            config.dpd = Duration::from_secs(5);
        });
        for round in 0..4 {
            let before = udp(reported(&world, B).0).remote;
            let moved = world.run_until(Duration::from_secs(120), |world| udp(reported(world, B).0).remote != before);
            assert!(moved && world.is_up(A, PEER) && world.is_up(B, PEER), "MOBIKE {mobike}, round {round}");
            world.check_traffic();
        }
    }
}

#[test]
fn a_gateway_that_moves_says_so_and_its_peer_looks_whether_that_is_true() {
    // Whoever has rekeyed the IKE SA, it is for the one that began the connection to say it (RFC 4555 §1.2).
    for rekeyed_by in [None, Some(A), Some(B)] {
        let mut world = begin(5, None, |_, config| config.mobike = true);
        if let Some(node) = rekeyed_by {
            world.act(node, |endpoint, now| endpoint.rekey_ike(now, PEER)).expect("it is connected");
            world.run_for(Duration::from_secs(20));
        }
        let spis = world.ike(A).spis;
        let new = address("192.0.2.33:4500");
        world.nodes[A].address = new;
        world.act(A, |endpoint, now| endpoint.set_addresses(now, PEER, Some(new), None)).expect("a peer");
        world.run_for(Duration::from_secs(3));
        assert_eq!(reported(&world, B).0, path("192.0.2.2:4500", "192.0.2.33:4500"), "{rekeyed_by:?}");
        assert_eq!((world.ike(A).spis, world.ike(B).spis), (spis, spis));
        world.check_traffic();
    }
}

#[test]
fn a_gateway_may_move_while_its_ike_sa_is_being_rekeyed() {
    for rekeyed_by in [A, B] {
        for after in (0..50).step_by(5) {
            let mut world = begin(5, None, |_, config| config.mobike = true);
            world.act(rekeyed_by, |endpoint, now| endpoint.rekey_ike(now, PEER)).expect("it is connected");
            world.run_for(Duration::from_millis(after));
            let new = address("192.0.2.33:4500");
            world.nodes[A].address = new;
            world.act(A, |endpoint, now| endpoint.set_addresses(now, PEER, Some(new), None)).expect("a peer");
            let way = path("192.0.2.2:4500", "192.0.2.33:4500");
            // What B has under way may be more than has come from there: it waits for more.
            let limit = if rekeyed_by == A { Duration::from_millis(200) } else { Duration::from_secs(60) };
            let moved = world.run_until(limit, |world| reported(world, B).0 == way);
            assert!(moved, "{after} ms after a rekey of {rekeyed_by}: {:?}", reported(&world, B));
            world.run_for(Duration::from_secs(20));
            assert_eq!(world.ike(A).spis, world.ike(B).spis);
            world.check_traffic();
        }
    }
}

/// Two gateways with two addresses each, that speak MOBIKE. A began.
fn with_two_addresses(seed: u64, dead: &[&str]) -> World {
    let mut world = World::new(seed);
    world.dead = dead.iter().map(|text| text.parse().expect("an address")).collect();
    for node in [A, B] {
        let config = || endpoint_config(node as u8 + 1);
        world.add(&peer(node).local.expect("an address").to_string(), config());
        world.add_addresses(node, config(), &[["198.51.100.1", "198.51.100.2"][node]]);
    }
    for node in [B, A] {
        let config = PeerConfig { mobike: true, local: None, dpd: Duration::from_secs(2), ..peer(node) };
        world.set_peer(node, PEER, config);
    }
    world
}

#[test]
fn where_nothing_has_changed_nothing_is_said() {
    let mut world = with_two_addresses(10, &[]);
    let silent = |world: &mut World, what: &str| {
        world.run_for(Duration::from_millis(1500));
        let before = world.log.len();
        [A, B].into_iter().for_each(|node| world.act(node, |endpoint, now| endpoint.underlay_changed(now)));
        world.run_for(Duration::from_millis(300));
        assert_eq!(world.log.len(), before, "{what}: {:?}", world.messages());
    };
    for node in [A, B] {
        let config = PeerConfig { mobike: true, local: None, dpd: Duration::ZERO, ..peer(node) };
        world.set_peer(node, PEER, config);
    }
    world.connect_pair();
    silent(&mut world, "what IKE_AUTH said holds");
    let new = address("198.51.100.1:4500");
    world.act(A, |endpoint, now| endpoint.set_addresses(now, PEER, Some(new), None)).expect("a peer");
    world.run_for(Duration::from_secs(3));
    assert_eq!(reported(&world, B).0, path("192.0.2.2:4500", "198.51.100.1:4500"));
    silent(&mut world, "the peer has been told");
}

#[test]
fn another_address_is_used_when_the_first_is_dead_at_either_end() {
    for (dead, way) in
        [("192.0.2.2", path("192.0.2.1:4500", "198.51.100.2:4500")), ("192.0.2.1", path("198.51.100.1:4500", "192.0.2.2:4500"))]
    {
        let mut world = with_two_addresses(6, &[]);
        world.connect_pair();
        let spis = world.ike(A).spis;
        world.dead = vec![dead.parse().expect("an address")];
        let moved = world.run_until(Duration::from_secs(12), |world| reported(world, A).0 == way);
        assert!(moved, "{dead} is dead: {:?}", reported(&world, A));
        world.run_for(Duration::from_secs(3));
        assert_eq!(reported(&world, B).0, Hop::new(udp(way).remote, udp(way).local), "{dead} is dead");
        assert_eq!((world.ike(A).spis, world.ike(B).spis), (spis, spis));
        world.check_traffic();
    }
}

/// The kernel of gateway A, which has two addresses and changes its mind about the one to send from.
struct Kernel(Arc<Mutex<IpAddr>>);

impl Underlay for Kernel {
    fn route(&mut self, local: Option<IpAddr>, remote: SocketAddr, _: u32) -> Route {
        let own_address = self.addresses().contains(&remote.ip());
        let source = local.or(Some(*self.0.lock().expect("a lock")));
        Route { reachable: true, own_address, source, mtu: Some(1500), ..Route::default() }
    }

    fn has_stream(&mut self, _: adit_proto::control::StreamId) -> bool {
        true
    }

    fn addresses(&mut self) -> Vec<IpAddr> {
        vec![[192, 0, 2, 1].into(), [198, 51, 100, 1].into()]
    }
}

#[test]
fn an_address_that_is_configured_stays_and_the_kernels_choice_moves() {
    for (local, way) in [(Some("192.0.2.1:4500"), "192.0.2.1:4500"), (None, "198.51.100.1:4500")] {
        let mut world = World::new(9);
        for node in [A, B] {
            world.add(&peer(node).local.expect("an address").to_string(), endpoint_config(node as u8 + 1));
        }
        let (kernel, mut rng) = (Arc::new(Mutex::new([192, 0, 2, 1].into())), Rng::new(9));
        world.nodes[A].others = vec![[198, 51, 100, 1].into()];
        world.nodes[A].endpoint = Endpoint::new(endpoint_config(1), Box::new(move |out: &mut [u8]| rng.fill(out)))
            .with_underlay(Box::new(Kernel(kernel.clone())));
        for node in [B, A] {
            let mut config = PeerConfig { mobike: true, ..peer(node) };
            if node == A {
                config.local = local.map(address);
            }
            world.set_peer(node, PEER, config);
        }
        world.connect_pair();
        assert_eq!(reported(&world, A).0, path("192.0.2.1:4500", "192.0.2.2:4500"));
        *kernel.lock().expect("a lock") = [198, 51, 100, 1].into();
        world.act(A, |endpoint, now| endpoint.underlay_changed(now));
        world.run_for(Duration::from_secs(3));
        assert_eq!((reported(&world, A).0, reported(&world, B).0), (path(way, "192.0.2.2:4500"), path("192.0.2.2:4500", way)));
        world.check_traffic();
    }
}

#[test]
fn a_packet_with_a_forged_source_moves_nothing() {
    for mobike in [false, true] {
        let mut world = begin(7, None, |_, config| config.mobike = mobike);
        let before = [A, B].map(|node| reported(&world, node));
        let nobody = address("203.0.113.9:4500");
        for node in [A, B] {
            for _ in 0..5 {
                let local = udp(before[node].0).local;
                let came = adit_engine::path::Arrival::new(local, nobody);
                world.act(node, |endpoint, now| endpoint.handle_path_seen(now, PEER, came, 100));
                world.run_for(Duration::from_secs(1));
            }
        }
        world.run_for(Duration::from_secs(30));
        assert_eq!([A, B].map(|node| reported(&world, node)), before, "MOBIKE {mobike}");
        let there: usize = world.log.iter().filter(|(_, to, _)| *to == nobody).map(|(_, _, payload)| payload.len() + 28).sum();
        // Five packets of 60 bytes at each end, and what is asked once for each of a few proofs.
        assert!(there <= 2 * 5 * 140, "{there} bytes went to somebody who has sent nothing");
        world.check_traffic();
    }
}

#[test]
fn a_forged_source_of_ike_moves_nothing_before_it_answers() {
    let mut world = begin(8, None, |_, config| config.dpd = Duration::from_secs(3));
    let (before, nobody) = (reported(&world, B), address("203.0.113.9:4500"));
    // Somebody on the way holds a request of A back, and sends it on with another source.
    let held: Arc<Mutex<Option<Vec<u8>>>> = Arc::default();
    let hold = held.clone();
    world.filter = Some(Box::new(move |from, _, payload| {
        let mut held = hold.lock().expect("one thread");
        let take = held.is_none() && from.ip() == udp(before.0).remote.ip();
        if take {
            *held = Some(payload.clone());
        }
        !take
    }));
    world.run_for(Duration::from_millis(3100));
    let request = held.lock().expect("one thread").take().expect("a request");
    world.filter = None;
    world.inject(nobody, udp(before.0).local, request);
    world.run_for(Duration::from_secs(10));
    assert_eq!(reported(&world, B), before);
    world.check_traffic();
}

/// Two gateways with two addresses each, the second of the other version of IP.
fn dual_stack(seed: u64, local: impl Fn(usize) -> Option<SocketAddr>) -> World {
    let mut world = World::new(seed);
    for node in [A, B] {
        let config = || endpoint_config(node as u8 + 1);
        world.add(&peer(node).local.expect("an address").to_string(), config());
        world.add_addresses(node, config(), &[["2001:db8::1", "2001:db8::2"][node]]);
    }
    for node in [B, A] {
        let config = PeerConfig { mobike: true, local: local(node), dpd: Duration::from_secs(2), ..peer(node) };
        world.set_peer(node, PEER, config);
    }
    world.connect_pair();
    world
}

#[test]
fn a_gateway_is_found_at_its_address_of_the_other_version_of_ip() {
    let mut world = dual_stack(11, |_| None);
    let spis = world.ike(A).spis;
    world.dead = vec!["192.0.2.2".parse().expect("an address")];
    let way = path("[2001:db8::1]:4500", "[2001:db8::2]:4500");
    assert!(world.run_until(Duration::from_secs(12), |world| reported(world, A).0 == way), "{:?}", reported(&world, A));
    world.run_for(Duration::from_secs(3));
    assert_eq!((reported(&world, B).0, world.ike(B).spis), (Hop::new(udp(way).remote, udp(way).local), spis));
    world.check_traffic();
    // And back: there it names the other one.
    world.dead = vec!["2001:db8::2".parse().expect("an address")];
    let way = path("192.0.2.1:4500", "192.0.2.2:4500");
    assert!(world.run_until(Duration::from_secs(12), |world| reported(world, A).0 == way), "{:?}", reported(&world, A));
    world.check_traffic();
}

#[test]
fn whoever_listens_at_one_address_names_and_uses_no_other() {
    for fixed in [A, B] {
        let mut world = dual_stack(12, |node| peer(node).local.filter(|_| node == fixed));
        world.dead = vec![peer(fixed).local.expect("an address").ip()];
        let before = world.log.len();
        world.run_for(Duration::from_secs(30));
        let other: IpAddr = ["2001:db8::1", "2001:db8::2"][fixed].parse().expect("an address");
        let met = world.log[before..].iter().find(|(from, to, _)| [from.ip(), to.ip()].contains(&other));
        assert!(met.is_none() && world.log.len() > before, "{met:?}");
    }
}

#[test]
fn an_endpoint_that_is_configured_anew_is_gone_to_once_it_answers() {
    for (mobike, echo) in [(false, false), (true, false), (true, true)] {
        let config = |node: usize| EndpointConfig { echo, ..endpoint_config(node as u8 + 1) };
        let mut world = pair_with(13, config, |_, config| (config.mobike, config.dpd) = (mobike, Duration::from_secs(5)));
        world.connect_pair();
        let spis = world.ike(A).spis;
        let (here, there) = (path("192.0.2.1:4500", "192.0.2.2:4500"), path("192.0.2.1:4500", "192.0.2.44:4500"));
        let set = |world: &mut World| {
            world.act(A, |endpoint, now| endpoint.set_addresses(now, PEER, None, Some(udp(there).remote))).expect("a peer");
        };
        // A slip of the pen: nobody is there.
        set(&mut world);
        for _ in 0..20 {
            world.check_traffic();
            assert_eq!((reported(&world, A).0, world.ike(A).hop), (here, here), "MOBIKE {mobike}, echoes {echo}");
        }
        world.nodes[B].others = vec![udp(there).remote.ip()];
        set(&mut world);
        world.run_for(Duration::from_millis(200));
        assert_eq!((reported(&world, A).0, world.ike(A).hop), (there, there), "MOBIKE {mobike}, echoes {echo}");
        world.run_for(Duration::from_secs(1));
        assert_eq!((reported(&world, B).0, world.ike(B).spis), (Hop::new(udp(there).remote, udp(there).local), spis));
        world.check_traffic();
    }
}

#[test]
fn an_endpoint_that_did_not_answer_is_found_when_the_one_before_is_dead() {
    for mobike in [false, true] {
        let mut world = pair(14, |_, config| (config.mobike, config.dpd) = (mobike, Duration::from_secs(5)));
        world.connect_pair();
        let (spis, there) = (world.ike(A).spis, address("192.0.2.44:4500"));
        world.act(A, |endpoint, now| endpoint.set_addresses(now, PEER, None, Some(there))).expect("a peer");
        world.run_for(Duration::from_secs(60));
        world.nodes[B].address = there;
        assert!(world.run_until(Duration::from_secs(20), |world| world.ike(A).hop.remote() == there), "MOBIKE {mobike}");
        assert_eq!(world.ike(A).spis, spis);
        world.run_for(Duration::from_secs(3));
        world.check_traffic();
    }
}

#[test]
fn under_mobike_a_packet_of_esp_leaves_ike_where_it_is() {
    for echo in [false, true] {
        let config = |node: usize| EndpointConfig { echo, ..endpoint_config(node as u8 + 1) };
        let mut world = pair_with(15, config, |_, config| (config.mobike, config.dpd) = (true, Duration::from_secs(3600)));
        world.connect_pair();
        let (before, other) = (world.ike(B).hop, address("198.51.100.1:4500"));
        world.nodes[A].others = vec![other.ip()];
        let came = adit_engine::path::Arrival::new(udp(before).local, other);
        world.act(B, |endpoint, now| endpoint.handle_path_seen(now, PEER, came, 1000));
        world.run_for(Duration::from_secs(20));
        assert_eq!((udp(reported(&world, B).0).remote, world.ike(B).hop), (other, before), "echoes {echo}");
        // A request that nobody answers any more at the address before is one for IKE.
        world.dead = vec![udp(before).remote.ip()];
        world.act(B, |endpoint, now| endpoint.check_liveness(now, PEER)).expect("it is connected");
        world.run_for(Duration::from_secs(20));
        assert_eq!(world.ike(B).hop.remote(), other, "echoes {echo}");
    }
}

#[test]
fn who_gets_a_request_at_one_place_proves_nothing_of_another() {
    // A peer says that it is where somebody else is, and answers from there what it is asked where it really is.
    for mobike in [false, true] {
        let mut world = pair(16, |_, config| (config.mobike, config.dpd) = (mobike, Duration::from_secs(3600)));
        world.connect_pair();
        let (before, victim) = (world.ike(B).hop, address("203.0.113.9:4500"));
        let came = adit_engine::path::Arrival::new(udp(before).local, victim);
        let answers: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let taken = answers.clone();
        world.filter = Some(Box::new(move |from, _, payload| {
            let is_answer = from == udp(before).remote;
            is_answer.then(|| taken.lock().expect("one thread").push(payload.clone()));
            !is_answer
        }));
        for round in 0..200 {
            if round % 50 == 0 {
                world.act(B, |endpoint, now| endpoint.handle_path_seen(now, PEER, came, 1000));
                drop(world.act(B, |endpoint, now| endpoint.check_liveness(now, PEER)));
            }
            world.run_for(Duration::from_millis(20));
            let sent = std::mem::take(&mut *answers.lock().expect("one thread"));
            sent.into_iter().for_each(|answer| world.inject(victim, udp(before).local, answer));
        }
        assert_eq!((reported(&world, B).0, world.ike(B).hop), (before, before), "MOBIKE {mobike}");
    }
}

#[test]
fn a_wrong_cookie_closes_the_ike_sa() {
    for wrong in [true, false] {
        let (mut world, mut rogue) = super::rogue::after_init(17, |_, config| config.mobike = true);
        assert!(rogue.exchange_more(&mut world, adit_engine::crypto::KeyExchangeMethod::MlKem768));
        assert!(rogue.authenticate_with(&mut world, &[NotifyType::MOBIKE_SUPPORTED]).is_some_and(|answer| has_auth(&answer)));
        assert!(world.is_up(B, PEER));
        let (b, elsewhere) = (peer(B).local.expect("an address"), address("198.51.100.7:4500"));
        let update = rogue.seal(
            ExchangeType::INFORMATIONAL,
            rogue.next_id,
            &[
                Notify::new(NotifyType::UPDATE_SA_ADDRESSES).into(),
                Notify::new(NotifyType::COOKIE2).with_data(vec![7; 64]).into(),
            ],
        );
        let before = world.log.len();
        world.inject(elsewhere, b, update);
        world.run_for(Duration::from_millis(20));
        let asked = world.log[before..].iter().filter(|(_, to, _)| *to == elsewhere).map(|(.., datagram)| datagram.clone());
        let requests: Vec<(u32, Vec<Payload>)> = asked.filter_map(|datagram| rogue.read_request(&datagram)).collect();
        let (id, payloads) = requests.first().expect("it is asked whether it receives there").clone();
        let cookie = payloads.into_iter().map(|payload| match payload {
            Payload::Notify(notify) if wrong && notify.kind == NotifyType::COOKIE2 => {
                let other = notify.data.iter().map(|byte| !byte).collect::<Vec<u8>>();
                notify.with_data(other).into()
            }
            other => other,
        });
        let answer = rogue.seal_response(ExchangeType::INFORMATIONAL, id, &cookie.collect::<Vec<Payload>>());
        world.inject(elsewhere, b, answer);
        world.run_for(Duration::from_millis(20));
        assert_eq!(world.is_up(B, PEER), !wrong);
        if wrong {
            let cause = world.nodes[B].endpoint.status(PEER).expect("the peer").cause.expect("a cause").to_string();
            assert!(cause.contains("COOKIE2"), "{cause}");
        } else {
            assert_eq!(world.ike(B).hop.remote(), elsewhere);
        }
    }
}
