//! An initiator that agrees on ML-KEM, knows the shared secret, and leaves the key exchange out: nobody of that kind is let in, and
//! no SA is made (RFC 9370 §2.2.2, §2.2.4). Who wins over a recorded handshake later needs only one such connection.

use std::time::Duration;

use adit_engine::auth::IntAuth;
use adit_engine::crypto::{KeyExchange, KeyExchangeMethod, respond};
use adit_engine::ike::{ConnectionState, Error, Misbehaviour, PeerConfig};
use adit_proto::ike::{ExchangeType, Header, KeId, Payload};
use proptest::prelude::*;

use super::rogue::{Rogue, after_init, has_auth, nobody_is_let_in, refused_syntax};
use adit_sim::*;

#[test]
fn ike_auth_in_the_place_of_ml_kem_is_refused() {
    // With nothing signed for IKE_INTERMEDIATE, and with what is signed when there was one.
    for int_auth in [Vec::new(), IntAuth::default().octets(1)] {
        let (mut world, mut rogue) = after_init(1, |_, _| {});
        let answer = rogue.authenticate(&mut world, Some(&int_auth)).expect("an answer");
        assert_eq!(answer, refused_syntax());
        nobody_is_let_in(&world);
        // The half-open IKE SA is over: what comes now has no answer.
        let late = KeyExchange::start(KeyExchangeMethod::MlKem768).expect("a key");
        let late = Payload::Ke { method: KeId::ML_KEM_768, data: late.public().to_vec() };
        assert_eq!(rogue.ask(&mut world, ExchangeType::IKE_INTERMEDIATE, 2, &[late]), None);
        world.run_for(Duration::from_secs(11));
        assert_eq!(world.nodes[B].endpoint.sizes().ike_sas, 0, "nothing of it stays");
        let refusal = world.nodes[B].endpoint.refusals().last().expect("it is remembered");
        let left_out = Error::PeerMisbehaved(Misbehaviour::LeftOut(KeyExchangeMethod::MlKem768));
        assert_eq!(refusal.why, left_out);
    }
}

#[test]
fn no_other_exchange_takes_the_place_of_ml_kem() {
    let kinds = [ExchangeType::CREATE_CHILD_SA, ExchangeType::INFORMATIONAL, ExchangeType::IKE_FOLLOWUP_KE];
    for kind in kinds {
        let (mut world, mut rogue) = after_init(2, |_, _| {});
        assert_eq!(rogue.ask(&mut world, kind, 1, &[]), None);
        // An IKE_INTERMEDIATE without the key exchange that is due is none.
        assert_eq!(rogue.ask(&mut world, ExchangeType::IKE_INTERMEDIATE, 1, &[]), None);
        nobody_is_let_in(&world);
        assert!(rogue.authenticate(&mut world, None).is_some_and(|answer| !has_auth(&answer)));
        nobody_is_let_in(&world);
    }
}

#[test]
fn the_second_of_two_exchanges_cannot_be_left_out_either() {
    let both = |_: usize, config: &mut PeerConfig| {
        let methods = [KeyExchangeMethod::MlKem768, KeyExchangeMethod::MlKem1024];
        config.proposals[0].additional = methods.map(|method| vec![Some(method)]).to_vec();
    };
    let (mut world, mut rogue) = after_init(3, both);
    let exchange = KeyExchange::start(KeyExchangeMethod::MlKem768).expect("a key");
    let payload = Payload::Ke { method: KeId::ML_KEM_768, data: exchange.public().to_vec() };
    let answer = rogue.ask(&mut world, ExchangeType::IKE_INTERMEDIATE, 1, &[payload]).expect("an answer");
    assert!(matches!(answer.as_slice(), [Payload::Ke { .. }]), "{answer:?}");
    // Whether under the new keys or the old ones, it is not IKE_AUTH that is due: under the old ones it is not even opened.
    assert!(rogue.ask(&mut world, ExchangeType::IKE_AUTH, 2, &[]).is_none());
    nobody_is_let_in(&world);
}

#[test]
fn who_makes_the_exchange_is_let_in_and_shown_as_post_quantum() {
    let mut world = pair(4, |_, config| config.proposals = vec![hybrid()]);
    world.connect_pair();
    assert!([A, B].into_iter().all(|node| world.ike(node).post_quantum));
    let mut world = pair(4, |_, config| config.proposals = vec![classic()]);
    world.connect_pair();
    assert!([A, B].into_iter().all(|node| !world.ike(node).post_quantum));
    assert_eq!(world.state(A, PEER), ConnectionState::Established);
}

/// A pair with ML-KEM for Child SAs, in which A stops before IKE_FOLLOWUP_KE.
fn without_follow_up(seed: u64, rekey: impl Fn(&mut World)) -> World {
    let mut world = pair(seed, |_, config| {
        config.proposals = vec![hybrid()];
        config.children[0].proposals = vec![esp_hybrid()];
    });
    world.connect_pair();
    world.filter = Some(Box::new(|_, _, payload| {
        let header = Header::decode(&payload[4..]).expect("a message");
        header.exchange != ExchangeType::IKE_FOLLOWUP_KE
    }));
    rekey(&mut world);
    world
}

#[test]
fn no_sa_is_made_while_ike_followup_ke_is_missing() {
    for ike in [false, true] {
        let mut world = without_follow_up(5, |world| {
            let rekey = |world: &mut World| match ike {
                true => world.act(A, |endpoint, now| endpoint.rekey_ike(now, PEER)),
                false => world.act(A, |endpoint, now| endpoint.rekey(now, PEER)),
            };
            rekey(world).expect("it is connected");
        });
        let (spis, inbound) = (world.ike(B).spis, world.ike(B).children[0].inbound);
        let installed = world.nodes[B].data.inbound.len();
        world.run_for(Duration::from_secs(10));
        let now = world.ike(B);
        assert_eq!((now.spis, now.children[0].inbound, now.children.len()), (spis, inbound, 1));
        assert_eq!(world.nodes[B].data.inbound.len(), installed, "nothing is ready to receive");
        world.check_traffic();
    }
}

#[test]
fn a_follow_up_that_comes_too_late_begins_the_rekey_again() {
    for ike in [false, true] {
        let mut world = without_follow_up(7, |world| {
            let rekey = |world: &mut World| match ike {
                true => world.act(A, |endpoint, now| endpoint.rekey_ike(now, PEER)),
                false => world.act(A, |endpoint, now| endpoint.rekey(now, PEER)),
            };
            rekey(world).expect("it is connected");
        });
        let before = (world.ike(B).spis, world.ike(B).children[0].inbound);
        world.run_for(Duration::from_secs(25));
        // B has forgotten what it had begun by now, and A asks once more to go on with it.
        world.filter = None;
        world.run_for(Duration::from_secs(60));
        let after = (world.ike(B).spis, world.ike(B).children[0].inbound);
        assert_eq!((after.0 != before.0, after.1 != before.1), (ike, !ike));
        for node in [A, B] {
            assert_eq!(world.nodes[node].endpoint.counters().handshakes, 1);
            assert!(world.nodes[node].data.has_pairs(1), "nothing is left of what came to nothing");
        }
        world.check_traffic();
    }
}

#[test]
fn a_follow_up_that_is_of_another_method_makes_no_sa() {
    // What an honest responder answers to ML-KEM is no answer to a request with another method.
    let (public, _) = respond(KeyExchangeMethod::X25519, KeyExchange::start(KeyExchangeMethod::X25519).expect("a key").public())
        .expect("an answer");
    let (mut world, mut rogue) = after_init(6, |_, _| {});
    let key = |method| KeyExchange::start(method).expect("a key").public().to_vec();
    let wrong = [
        Payload::Ke { method: KeId::CURVE_25519, data: public.to_vec() },
        // The right key under another number, and another key under the right one.
        Payload::Ke { method: KeId::ML_KEM_512, data: key(KeyExchangeMethod::MlKem768) },
        Payload::Ke { method: KeId::ML_KEM_768, data: key(KeyExchangeMethod::MlKem512) },
    ];
    for (dropped, payload) in (1..).zip(wrong) {
        assert_eq!(rogue.ask(&mut world, ExchangeType::IKE_INTERMEDIATE, 1, &[payload]), None);
        assert_eq!(world.nodes[B].endpoint.counters().dropped_malformed, dropped);
        nobody_is_let_in(&world);
    }
    // The right one still has its place.
    assert!(rogue.exchange_more(&mut world, KeyExchangeMethod::MlKem768));
    assert!(rogue.authenticate(&mut world, None).is_some_and(|answer| has_auth(&answer)));
    assert!(world.is_up(B, PEER) && world.ike(B).post_quantum);
}

/// What an initiator may send next, once there are keys.
#[derive(Clone, Copy, Debug)]
enum Step {
    Exchange(KeyExchangeMethod),
    /// The last one once more, under the same id.
    Again,
    Auth,
    /// One of an established IKE SA.
    Other(ExchangeType),
    /// IKE_AUTH with the id of the step after this one.
    AuthAhead,
}

fn step() -> impl Strategy<Value = Step> {
    let methods = [KeyExchangeMethod::MlKem768, KeyExchangeMethod::MlKem1024, KeyExchangeMethod::X25519];
    let others = [ExchangeType::CREATE_CHILD_SA, ExchangeType::INFORMATIONAL, ExchangeType::IKE_FOLLOWUP_KE];
    prop_oneof![
        6 => proptest::sample::select(methods[..2].to_vec()).prop_map(Step::Exchange),
        1 => proptest::sample::select(methods.to_vec()).prop_map(Step::Exchange),
        3 => Just(Step::Auth),
        1 => Just(Step::Again),
        1 => Just(Step::AuthAhead),
        1 => proptest::sample::select(others.to_vec()).prop_map(Step::Other),
    ]
}

fn take(step: Step, world: &mut World, rogue: &mut Rogue) {
    match step {
        Step::Exchange(method) => drop(rogue.exchange_more(world, method)),
        Step::Auth => drop(rogue.authenticate(world, None)),
        Step::Other(kind) => drop(rogue.next(world, kind, &[])),
        Step::Again => drop(rogue.ask(world, ExchangeType::IKE_INTERMEDIATE, rogue.next_id - 1, &[])),
        Step::AuthAhead => {
            rogue.next_id += 1;
            let answer = rogue.authenticate(world, None);
            assert_eq!(answer, None, "it is not due");
            rogue.next_id -= 1;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// ML-KEM-768, then ML-KEM-1024, then IKE_AUTH: whatever else is sent between, before or instead, who has made both is in after
    /// the IKE_AUTH that follows, and who authenticates before is out for good.
    #[test]
    fn only_the_right_order_of_exchanges_establishes(seed: u64, steps in proptest::collection::vec(step(), 1..10)) {
        let agreed = [KeyExchangeMethod::MlKem768, KeyExchangeMethod::MlKem1024];
        let (mut world, mut rogue) = after_init(seed, |_, config| {
            config.proposals[0].additional = agreed.map(|method| vec![Some(method)]).to_vec();
        });
        // How many were made; whether it ended.
        let (mut made, mut is_in, mut is_out) = (0, false, false);
        for step in steps {
            match step {
                Step::Exchange(method) if !is_out && agreed.get(made) == Some(&method) => made += 1,
                Step::Auth if !is_out => (is_in, is_out) = (made == agreed.len(), made < agreed.len()),
                _ => {}
            }
            take(step, &mut world, &mut rogue);
            prop_assert_eq!(world.is_up(B, PEER), is_in, "after {:?}", step);
            if is_in {
                prop_assert!(world.ike(B).post_quantum);
                break;
            }
            nobody_is_let_in(&world);
        }
    }
}
