//! Proofs that are wrong: who makes them waits, and nobody else does, whatever address they seem to come from.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use adit_engine::crypto::{Prf, SignatureAlgorithm};
use adit_engine::identity::Identity;
use adit_engine::ike::{Counters, PeerConfig};
use adit_proto::ike::{ExchangeType, Message, Payload};

use adit_sim::certificates::Authority;
use adit_sim::*;

use super::half_open::{PLACES, answers_at, neighbours, open, pair_at};

/// Handshakes in a second of the wrong-doers, all of them evenly paced.
const PER_SECOND: u32 = 40;

/// A, which proves itself with a certificate and is not connected, and B; and what A sends first.
fn waiting(seed: u64, places: [&str; 2], change: impl Fn(usize, &mut PeerConfig)) -> (World, Message) {
    let ca = Authority::new("CA of both");
    let own = [A, B].map(|node| ca.issue(&peer(node).local_id.to_string(), 2028));
    let mut world = pair_at(
        seed,
        places,
        || endpoint_config(1),
        |node, config| {
            config.initiate = false;
            (config.local_auth, config.remote_auth) = (own[node].clone(), ca.trusted());
            change(node, config);
        },
    );
    world.act(A, |endpoint, now| endpoint.connect(now, PEER)).expect("it has an address");
    let request = Message::decode(&world.log[0].2[4..]).expect("a request");
    world.act(A, |endpoint, now| endpoint.disconnect(now, PEER)).expect("a peer");
    world.run_for(Duration::from_secs(60));
    (world, request)
}

/// A name that is expected, with certificates of nobody and a signature that is none: what costs most to look at.
fn wrong_proof() -> Vec<Payload> {
    let local = Authority::new("CA of nobody").issue("a.example.org", 2028);
    let id = "a.example.org".parse::<Identity>().expect("an identity").to_payload();
    let certificates = local.certificates(&[]).into_iter().map(|(encoding, data)| Payload::Cert { encoding, data });
    let signed = local.sign(Prf::HmacSha256, &SignatureAlgorithm::HASHES, b"something else").expect("a signature");
    let proof = Payload::Auth { method: signed.method, data: signed.data };
    std::iter::once(Payload::IdI(id)).chain(certificates).chain([proof]).collect()
}

/// Who has begun handshakes from somewhere, and goes on with them under another address.
struct WrongDoer {
    request: Message,
    proof: Vec<Payload>,
    next_spi: u64,
}

impl WrongDoer {
    /// Begins at a port of B, and goes on at the one that is for what a NAT has changed.
    fn fail(&mut self, world: &mut World, (port, begun, goes_on): (u16, SocketAddr, SocketAddr)) {
        let local = world.nodes[B].address;
        self.next_spi += 1;
        let begun_at = SocketAddr::new(local.ip(), port);
        let Some(mut rogue) = open(world, &self.request, (begun_at, begun), self.next_spi) else { return };
        let message = rogue.seal(ExchangeType::IKE_AUTH, 1, &self.proof);
        answers_at(world, local, goes_on, &message[4..]);
    }
}

fn at(ip: impl Into<IpAddr>) -> SocketAddr {
    SocketAddr::new(ip.into(), 4500)
}

/// Proofs that B has looked at and found wrong, and those that it has not looked at.
fn counted(world: &World) -> (u64, u64) {
    let Counters { refused_authentication, failed_authentication, dropped_rate, .. } = world.nodes[B].endpoint.counters();
    (refused_authentication + failed_authentication, dropped_rate)
}

/// A connects beside them while they go on: at once, and though it has failed itself a moment ago.
fn connects_beside(world: &mut World, mut attack: impl FnMut(&mut World, u32)) {
    let mut number = 0;
    let mut second = |world: &mut World| {
        for _ in 0..PER_SECOND {
            attack(world, number);
            number += 1;
            world.run_for(Duration::from_secs(1) / PER_SECOND);
        }
    };
    second(world);
    second(world);
    world.act(A, |endpoint, now| endpoint.connect(now, PEER)).expect("it has an address");
    second(world);
    assert!(world.is_up(A, PEER) && world.is_up(B, PEER), "{:?}", world.nodes[B].endpoint.counters());
    second(world);
    world.check_traffic();
}

#[test]
fn a_wrong_proof_is_charged_to_who_began_and_not_to_a_forged_source() {
    // On the port where IKE begins a NAT may change all there is to see of who goes on.
    for (port, places, known) in [4500, 500]
        .into_iter()
        .flat_map(|port| PLACES.into_iter().flat_map(move |places| [true, false].map(|known| (port, places, known))))
    {
        let (mut world, request) = waiting(1, places, |node, config| {
            if node == B && !known {
                config.remotes.clear();
            }
        });
        let mut foe = WrongDoer { request, proof: wrong_proof(), next_spi: 1000 };
        let honest = world.nodes[A].address;
        connects_beside(&mut world, |world, number| {
            let begun = at([10, 60, (number % 100) as u8, 1]);
            foe.fail(world, (port, begun, honest));
        });
        assert!(counted(&world).0 >= 100, "each has failed once or twice: {:?}", counted(&world));
    }
}

#[test]
fn who_seems_to_come_from_elsewhere_each_time_fails_no_more_often() {
    for (port, places) in [4500, 500].into_iter().flat_map(|port| PLACES.map(|places| (port, places))) {
        let (mut world, request) = waiting(2, places, |_, _| {});
        let mut foe = WrongDoer { request, proof: wrong_proof(), next_spi: 1000 };
        for number in 0..60u8 {
            foe.fail(&mut world, (port, at([10, 60, 1, 1]), at([10, 61, number, 1])));
        }
        assert_eq!(counted(&world), (4, 56), "on port {port}");
        world.run_for(Duration::from_millis(1100));
        foe.fail(&mut world, (port, at([10, 60, 1, 1]), at([10, 61, 99, 1])));
        assert_eq!(counted(&world), (5, 56), "he may try again, now and then");
    }
}

#[test]
fn neighbours_that_fail_keep_no_known_peer_waiting() {
    for places in &PLACES[1..] {
        let (mut world, request) = waiting(3, *places, |_, _| {});
        let mut foe = WrongDoer { request, proof: wrong_proof(), next_spi: 1000 };
        let beside = neighbours(world.nodes[A].address.ip());
        connects_beside(&mut world, |world, number| {
            let own = at(beside[number as usize * 7 % beside.len()]);
            foe.fail(world, (4500, own, own));
        });
        let (looked_at, dropped) = counted(&world);
        assert!(looked_at < 100 && dropped > 40, "they share what they may: {looked_at}, {dropped}");
    }
}

#[test]
fn who_has_proven_itself_is_charged_for_nothing() {
    let (mut world, _) = waiting(4, PLACES[0], |_, _| {});
    for _ in 0..8 {
        world.act(A, |endpoint, now| endpoint.connect(now, PEER)).expect("it has an address");
        assert!(world.run_until(Duration::from_millis(100), |world| world.is_up(A, PEER) && world.is_up(B, PEER)));
        world.act(A, |endpoint, now| endpoint.disconnect(now, PEER)).expect("a peer");
        world.run_for(Duration::from_millis(20));
    }
    assert_eq!(counted(&world), (0, 0));
}
