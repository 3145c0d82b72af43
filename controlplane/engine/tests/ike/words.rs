//! What a stranger can put into messages, as people read it: one line each that shows, whatever the bytes are.

use std::time::Duration;

use adit_engine::crypto::KeyExchangeMethod;
use adit_engine::ike::{Event, Explanation};
use adit_proto::ike::{ExchangeType, IdType, Identification, Notify, NotifyType, Payload};
use proptest::prelude::*;

use super::rogue::after_init;
use adit_sim::*;

/// All text of it.
fn texts(explanation: &Explanation) -> Vec<String> {
    let record = &explanation.record;
    let offers = [&record.ike, &record.child, &record.selectors, &record.identities, &record.own_identity, &record.ppk];
    let offered = offers.iter().flat_map(|offers| offers.ours.iter().chain(&offers.theirs).chain(&offers.chosen));
    let mut texts: Vec<String> = offered.chain(&record.hint).map(ToString::to_string).collect();
    texts.extend(explanation.cause.iter().map(ToString::to_string));
    texts.extend(record.problem.iter().flat_map(|problem| [problem.cause.to_string(), problem.remedy.clone()]));
    texts.extend(record.differences().iter().map(ToString::to_string));
    for refusal in &explanation.unauthenticated {
        texts.push(refusal.why.to_string());
        texts.extend(refusal.ours.iter().chain(&refusal.theirs).map(ToString::to_string));
    }
    texts
}

/// Text with what terminals obey, or any bytes.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let text = "[a-z@=,.*]{0,6}([\\x00-\\x1f\\x7f\u{85}\u{202e}\u{2028}]|\\x1b\\[2J|\\n2026 INFO up){1,3}\\PC{0,1500}";
    prop_oneof![text.prop_map(String::into_bytes), proptest::collection::vec(any::<u8>(), 0..300)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_a_stranger_says_is_shown_on_one_line(
        id_type in 0u8..13,
        (id, asked, ppk, vendor) in (hostile(), hostile(), hostile(), hostile()),
    ) {
        let (mut world, mut rogue) = after_init(1, |_, _| {});
        prop_assert!(rogue.exchange_more(&mut world, KeyExchangeMethod::MlKem768));
        let identification = |data: Vec<u8>| Identification { id_type: IdType(id_type), data };
        let mut payloads = rogue.proof(rogue.next_id, identification(id), None);
        payloads.insert(1, Payload::IdR(identification(asked)));
        payloads.push(Notify::new(NotifyType::PPK_IDENTITY).with_data(ppk).into());
        payloads.push(Payload::Vendor(vendor));
        rogue.next(&mut world, ExchangeType::IKE_AUTH, &payloads);
        world.run_for(Duration::from_millis(10));
        let explained = texts(&world.nodes[B].endpoint.explain(PEER, world.now).expect("the peer"));
        prop_assert!(!explained.is_empty());
        let reported = world.nodes[B].events.iter().filter_map(|event| match event {
            Event::Refused { why, .. } => Some(why.to_string()),
            Event::State { cause: Some(cause), .. } => Some(cause.to_string()),
            _ => None,
        });
        for text in explained.into_iter().chain(reported) {
            prop_assert!(!text.chars().any(|character| character.is_control() || "\u{202e}\u{2028}".contains(character)), "{text:?}");
            prop_assert!(text.chars().count() < 2000, "{text}");
        }
    }
}
