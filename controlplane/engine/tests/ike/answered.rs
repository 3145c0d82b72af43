//! A first message with another key exchange than is wanted is answered (INVALID_KE_PAYLOAD, RFC 7296 §1.2), however many others ask who
//! receive no answer.

use std::net::SocketAddr;
use std::time::Duration;

use adit_engine::crypto::KeyExchangeMethod;
use adit_engine::ike::{EndpointConfig, IkeProposal, Limits};
use adit_proto::ike::{IkeSpi, Message, NotifyType, Payload};
use adit_proto::suite::Suite;

use adit_sim::*;

use super::half_open::{PLACES, answers, cookie, pair_at};

/// Forged questions in a second: more than all unprotected answers.
const FLOOD_PER_SECOND: u32 = 400;

/// A, which sends first what B does not take, and is not connected; whether B knows its address.
fn waiting(places: [&str; 2], known: bool) -> World {
    let limits = Limits { unprotected_replies: 64, ..Limits::default() };
    pair_at(
        1,
        places,
        || EndpointConfig { limits, ..endpoint_config(1) },
        |node, config| {
            config.initiate = false;
            let methods = [KeyExchangeMethod::X25519, KeyExchangeMethod::EcpP256];
            config.proposals = vec![IkeProposal { key_exchanges: methods[node..].to_vec(), ..classic() }];
            if node == B && !known {
                config.remotes.clear();
            }
        },
    )
}

fn begin(world: &mut World) {
    world.act(A, |endpoint, now| endpoint.connect(now, PEER)).expect("it has an address");
}

fn demanded(world: &World) -> u64 {
    world.nodes[B].endpoint.counters().key_exchanges_demanded
}

#[test]
fn a_demand_for_another_key_exchange_is_counted_once() {
    for known in [true, false] {
        let mut world = waiting(PLACES[0], known);
        begin(&mut world);
        world.connect_pair();
        let counters = [A, B].map(|node| world.nodes[node].endpoint.counters());
        assert_eq!(counters.map(|one| one.key_exchanges_demanded), [0, 1]);
        assert_eq!(counters.map(|one| (one.cookies_demanded, one.dropped_rate, one.refused_proposal)), [(0, 0, 0); 2]);
    }
}

#[test]
fn beside_a_flood_from_many_networks_it_reaches_an_honest_peer() {
    // From anywhere, or under the address of the honest peer.
    for (places, known, under_its_address) in PLACES
        .into_iter()
        .flat_map(|places| [(true, true), (true, false), (false, false)].map(|(known, under)| (places, known, under)))
    {
        let mut world = waiting(places, known);
        begin(&mut world);
        let mut forged = Message::decode(&world.log[0].2[4..]).expect("a request");
        world.act(A, |endpoint, now| endpoint.disconnect(now, PEER)).expect("a peer");
        world.run_for(Duration::from_secs(10));
        let (a, b) = (world.nodes[A].address, world.nodes[B].address);
        let mut number = 0u32;
        let mut flood = |world: &mut World, ticks: u32| {
            for _ in 0..ticks {
                number += 1;
                forged.header.initiator_spi = IkeSpi(0xf000_0000 + u64::from(number));
                let [_, _, high, low] = number.to_be_bytes();
                let from = if under_its_address {
                    SocketAddr::new(a.ip(), 1025)
                } else {
                    SocketAddr::new([10, low, high, 9].into(), 4500)
                };
                world.inject(from, b, [&[0; 4], forged.encode().expect("a message").as_slice()].concat());
                world.run_for(Duration::from_secs(1) / FLOOD_PER_SECOND);
            }
        };
        flood(&mut world, FLOOD_PER_SECOND);
        let before = demanded(&world);
        assert!(under_its_address || before > 64, "all answers are used up: {before}");
        begin(&mut world);
        flood(&mut world, FLOOD_PER_SECOND / 2);
        let up = world.is_up(A, PEER) && world.is_up(B, PEER);
        assert!(up, "{places:?} known {known}, under its address {under_its_address}: {:?}", world.nodes[B].endpoint.counters());
        let counters = world.nodes[B].endpoint.counters();
        assert!(counters.dropped_rate > 100 && counters.key_exchanges_demanded > before, "{counters:?}");
        // Those of others are as few as ever.
        let reported = counters.key_exchanges_demanded;
        assert!(reported <= 64 + 2 * 64, "{reported} in a second and a half");
        world.check_traffic();
    }
}

#[test]
fn who_is_not_told_why_any_more_is_told_with_a_cookie() {
    let mut world = pair(1, |node, config| {
        config.initiate = false;
        if node == A {
            config.proposals = vec![IkeProposal { suites: vec![Suite::ChaCha20Poly1305], ..classic() }];
        }
    });
    begin(&mut world);
    let request = Message::decode(&world.log[0].2[4..]).expect("a request");
    let from = SocketAddr::new([198, 51, 100, 7].into(), 4500);
    let ask = |world: &mut World, spi: u64, first: Option<Payload>| {
        let mut request = request.clone();
        request.header.initiator_spi = IkeSpi(spi);
        request.payloads.splice(0..0, first);
        let answered = answers(world, from, &request.encode().expect("a message"));
        let [Payload::Notify(notify)] = &answered[0].payloads[..] else { panic!("{answered:?}") };
        (notify.kind, cookie(&answered))
    };
    let said: Vec<NotifyType> = (1..1000).map(|spi| ask(&mut world, spi, None).0).collect();
    let why = said.iter().take_while(|kind| **kind == NotifyType::NO_PROPOSAL_CHOSEN).count();
    assert!((1..999).contains(&why) && said[why..].iter().all(|kind| *kind == NotifyType::COOKIE), "{why}: {said:?}");
    let (_, cookie) = ask(&mut world, 1000, None);
    assert_eq!(ask(&mut world, 1000, cookie).0, NotifyType::NO_PROPOSAL_CHOSEN);
}
