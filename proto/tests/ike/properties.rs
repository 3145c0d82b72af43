//! Round trips over every value, and totality over any bytes: those that are random and those that were nearly right.

use adit_proto::ike::{Message, Payload, PayloadType, decode_payloads, encode_payloads};
use proptest::prelude::*;

use crate::strategies::{Damage, damage, message, payload};
use crate::targets;

/// The same with what the encoder writes into the header.
fn as_sent(message: &Message, len: usize) -> Message {
    let mut sent = message.clone();
    sent.header.next_payload = message.payloads.first().map_or(PayloadType::NONE, Payload::kind);
    sent.header.length = len as u32;
    sent
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_message_comes_back(message in message()) {
        let bytes = message.encode().unwrap();
        prop_assert_eq!(Message::decode(&bytes), Ok(as_sent(&message, bytes.len())));
        prop_assert_eq!(as_sent(&message, bytes.len()).encode(), Ok(bytes));
    }

    /// One line of printable text, whatever is in it.
    #[test]
    fn a_message_is_shown_in_a_line(message in message()) {
        let text = message.to_string();
        prop_assert!(text.len() < 400 * (message.payloads.len() + 1), "{}", text);
        prop_assert!(text.chars().all(|c| c.is_ascii_graphic() || c == ' ' || c == '…'), "{}", text);
    }

    #[test]
    fn payloads_come_back(payloads in proptest::collection::vec(payload(), 0..20)) {
        let (first, bytes) = encode_payloads(&payloads).unwrap();
        prop_assert_eq!(decode_payloads(first, &bytes), Ok(payloads));
    }

    /// A message that was cut anywhere is an error and never another message.
    #[test]
    fn a_message_cut_short_is_no_message(message in message(), cut in any::<proptest::sample::Index>()) {
        let bytes = message.encode().unwrap();
        let short = &bytes[..cut.index(bytes.len())];
        prop_assert!(Message::decode(short).is_err());
        let mut with_right_length = short.to_vec();
        Damage::FixLength.apply(&mut with_right_length);
        prop_assert!(Message::decode(&with_right_length).is_err());
    }

    #[test]
    fn a_damaged_message_is_a_message_or_an_error(message in message(), damage in damage()) {
        let mut bytes = message.encode().unwrap();
        damage.iter().for_each(|damage| damage.apply(&mut bytes));
        targets::ike_message(&bytes);
        targets::ike_sealed(&bytes);
    }

    #[test]
    fn damaged_payloads_are_payloads_or_an_error(payload in payload(), damage in damage(), critical: u8) {
        let (kind, chain) = encode_payloads(&[payload]).unwrap();
        let mut body = chain[4..].to_vec();
        damage.iter().for_each(|damage| damage.apply(&mut body));
        targets::ike_payload(&[&[kind.0, critical], body.as_slice()].concat());
        let mut chain = chain;
        damage.iter().for_each(|damage| damage.apply(&mut chain));
        targets::ike_inner(&[&[kind.0], chain.as_slice()].concat());
    }

    #[test]
    fn any_bytes_pass_every_target(bytes: Vec<u8>) {
        targets::ALL.iter().for_each(|(_, target)| target(&bytes));
    }
}
