//! A peer with good credentials that plays with IKE_FOLLOWUP_KE: no Child SA comes of it but the one whose key exchanges were all made, in
//! their order and each once (RFC 9370 §2.2.4).

use adit_engine::crypto::{KeyExchange, KeyExchangeMethod};
use adit_engine::ike::Event;
use adit_proto::ike::{
    EsnId, ExchangeType, KeId, Notify, NotifyType, Payload, Proposal, ProtocolId, TrafficSelector, Transform, TransformType,
};
use adit_proto::suite::Suite;
use proptest::prelude::*;

use super::rogue::{Rogue, after_init};
use adit_sim::*;

/// What was agreed on for a Child SA, besides X25519.
const AGREED: [KeyExchangeMethod; 2] = [KeyExchangeMethod::MlKem768, KeyExchangeMethod::MlKem1024];

/// The request for a Child SA; the link of the answer.
fn begin(world: &mut World, rogue: &mut Rogue) -> Vec<u8> {
    let additional = TransformType::ADDITIONAL_KE.into_iter().zip(AGREED);
    let mut transforms = vec![Transform::of_suite(Suite::Aes128Gcm), Transform::ke(KeId::CURVE_25519)];
    transforms.extend(additional.map(|(kind, method)| Transform::additional_ke(kind, method.id())));
    transforms.push(Transform::esn(EsnId::ESN));
    let spi = (0x6000_0000 + rogue.next_id).to_be_bytes().to_vec();
    let exchange = KeyExchange::start(KeyExchangeMethod::X25519).expect("a key");
    let side = |text: &str| vec![TrafficSelector::Ip(net(text))];
    let payloads = [
        Payload::Sa(vec![Proposal { number: 1, protocol: ProtocolId::ESP, spi, transforms }]),
        Payload::Nonce(vec![7; 32]),
        Payload::Ke { method: KeId::CURVE_25519, data: exchange.public().to_vec() },
        Payload::TsI(side("10.1.0.0/16")),
        Payload::TsR(side("10.2.0.0/16")),
    ];
    let answer = rogue.next(world, ExchangeType::CREATE_CHILD_SA, &payloads).expect("an answer");
    link_in(&answer).unwrap_or_else(|| panic!("no link in {answer:?}"))
}

fn link_in(payloads: &[Payload]) -> Option<Vec<u8>> {
    payloads.iter().find_map(|payload| match payload {
        Payload::Notify(notify) if notify.kind == NotifyType::ADDITIONAL_KEY_EXCHANGE => Some(notify.data.clone()),
        _ => None,
    })
}

fn follow(world: &mut World, rogue: &mut Rogue, method: KeyExchangeMethod, link: &[u8]) -> Vec<Payload> {
    let exchange = KeyExchange::start(method).expect("a key");
    let payloads = [
        Payload::Ke { method: method.id(), data: exchange.public().to_vec() },
        Notify::new(NotifyType::ADDITIONAL_KEY_EXCHANGE).with_data(link.to_vec()).into(),
    ];
    rogue.next(world, ExchangeType::IKE_FOLLOWUP_KE, &payloads).expect("an answer")
}

/// Child SAs for which B has become ready.
fn installed(world: &World) -> usize {
    world.nodes[B].events.iter().filter(|event| matches!(event, Event::InstallInbound(_))).count()
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Begin,
    /// With the link of the last answer, of the one before it, or of nobody.
    Follow(KeyExchangeMethod, Option<usize>),
    Look,
}

fn step() -> impl Strategy<Value = Step> {
    let method = proptest::sample::select(vec![AGREED[0], AGREED[1], KeyExchangeMethod::X25519]);
    prop_oneof![
        2 => Just(Step::Begin),
        5 => (method, prop_oneof![6 => Just(Some(0)), 1 => Just(Some(1)), 1 => Just(None)])
            .prop_map(|(method, link)| Step::Follow(method, link)),
        1 => Just(Step::Look),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn only_all_key_exchanges_in_order_make_a_child_sa(seed: u64, steps in proptest::collection::vec(step(), 1..10)) {
        let (mut world, mut rogue) = after_init(seed, |_, config| {
            let child = &mut config.children[0].proposals;
            *child = vec![esp_hybrid()];
            child[0].additional = AGREED.map(|method| vec![Some(method)]).to_vec();
        });
        assert!(rogue.exchange_more(&mut world, KeyExchangeMethod::MlKem768));
        rogue.authenticate(&mut world, None).expect("an answer");
        prop_assert!(world.is_up(B, PEER));
        // The links so far; which key exchange is due with the last one; Child SAs that are to be there.
        let (mut links, mut due, mut made): (Vec<Vec<u8>>, Option<usize>, usize) = (Vec::new(), None, 0);
        for step in steps {
            match step {
                Step::Begin => {
                    links.push(begin(&mut world, &mut rogue));
                    due = Some(0);
                }
                Step::Follow(method, link) => {
                    let given = link.and_then(|back| links.iter().rev().nth(back).cloned()).unwrap_or(vec![9; 16]);
                    let is_last = links.last() == Some(&given);
                    let answer = follow(&mut world, &mut rogue, method, &given);
                    links.extend(link_in(&answer));
                    // A wrong one ends it; one with a link that is not due changes nothing.
                    due = match due {
                        Some(at) if is_last && AGREED[at] == method => Some(at + 1),
                        Some(_) if is_last => None,
                        other => other,
                    };
                    if due == Some(AGREED.len()) {
                        (due, made) = (None, made + 1);
                    }
                }
                Step::Look => drop(rogue.next(&mut world, ExchangeType::INFORMATIONAL, &[])),
            }
            prop_assert_eq!(installed(&world), made, "after {:?}", step);
        }
    }
}
