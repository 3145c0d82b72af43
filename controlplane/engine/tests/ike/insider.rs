//! A peer that is authentic and says what it should not: answered as RFC 7296 §2.21 and §2.3 say, and no more.

use std::time::Duration;

use adit_engine::crypto::IkeAead;
use adit_engine::crypto::aead;
use adit_engine::ike::{Cause, EndpointConfig, Error, Event, IkeSpis, KeyLog};
use adit_proto::control::Spi;
use adit_proto::ike::encrypted::{self, Unsealed};
use adit_proto::ike::{
    Delete, ExchangeType, Flags, Header, Notify, NotifyType, Payload, PayloadType, ProtocolId, decode_payloads, encode_payloads,
};

use adit_sim::*;

/// In the place of gateway A, with its keys.
struct Insider {
    spis: IkeSpis,
    seal: IkeAead,
    open: IkeAead,
}

/// Two gateways that are connected, of which A is silent from here on, and somebody who has A's keys.
fn begin(seed: u64) -> (World, Insider) {
    let mut world = pair_with(seed, |_| EndpointConfig { key_log: true, ..endpoint_config(1) }, |_, _| {});
    world.connect_pair();
    let reported = world.nodes[B].events.iter().find_map(|event| match event {
        Event::KeyLog(log) => match &**log {
            KeyLog::Ike { spis, suite, initiator, responder } => {
                let key = |bytes: &[u8]| IkeAead::new(*suite, bytes, 1).expect("a key");
                Some(Insider { spis: *spis, seal: key(initiator), open: key(responder) })
            }
            KeyLog::Esp { .. } => None,
        },
        _ => None,
    });
    world.nodes[A].on = false;
    (world, reported.expect("the keys are told"))
}

impl Insider {
    /// Sends a request to B; what it answers under the same message id.
    fn exchange(
        &mut self,
        world: &mut World,
        kind: ExchangeType,
        id: u32,
        first: PayloadType,
        inner: &[u8],
    ) -> Option<Vec<Payload>> {
        let message = self.message(kind, id, first, inner);
        let before = world.log.len();
        self.send(world, &message);
        world.run_for(Duration::from_millis(50));
        let log = world.log[before..].to_vec();
        log.iter().find_map(|(_, _, payload)| {
            let sealed = encrypted::Sealed::parse(&payload[4..]).ok()??;
            let (body, tag) = sealed.ciphertext_and_tag().split_last_chunk()?;
            let mut inner = body.to_vec();
            self.open.open(sealed.aad(), aead::Sealed { iv: sealed.iv(), tag: *tag }, &mut inner).ok()?;
            let is_answer = sealed.header().flags.response && sealed.header().message_id == id;
            let inner = encrypted::strip_padding(&inner).ok()?;
            is_answer.then(|| decode_payloads(sealed.first(), inner).expect("payloads"))
        })
    }

    fn message(&mut self, kind: ExchangeType, id: u32, first: PayloadType, inner: &[u8]) -> Vec<u8> {
        let flags = Flags { initiator: true, response: false, version: false };
        let header = Header::new(self.spis.initiator, self.spis.responder, kind, flags, id);
        let unsealed = Unsealed::sk(&header, first, inner, self.seal.next_iv()).expect("a message");
        let seal = |aad: &[u8], _, plain: &mut [u8]| self.seal.seal(aad, plain).map(|sealed| sealed.tag);
        unsealed.seal(seal).expect("a message")
    }

    fn send(&self, world: &mut World, message: &[u8]) {
        let [a, b] = [A, B].map(|node| peer(node).local.expect("an address"));
        world.inject(a, b, [&[0; 4], message].concat());
    }

    fn ask(&mut self, world: &mut World, id: u32, first: PayloadType, inner: &[u8]) -> Option<Vec<Payload>> {
        self.exchange(world, ExchangeType::INFORMATIONAL, id, first, inner)
    }

    fn ask_with(&mut self, world: &mut World, id: u32, payloads: &[Payload]) -> Option<Vec<Payload>> {
        let (first, inner) = encode_payloads(payloads).expect("payloads");
        self.ask(world, id, first, &inner)
    }
}

#[test]
fn an_unknown_critical_payload_is_named_and_the_ike_sa_goes_on() {
    let (mut world, mut insider) = begin(1);
    let answer = insider.ask(&mut world, 2, PayloadType(200), &[0, 0x80, 0, 5, 7]);
    let expected = Notify::new(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD).with_data([200]);
    assert_eq!(answer, Some(vec![expected.into()]));
    // One that is not critical is passed over.
    assert_eq!(insider.ask(&mut world, 3, PayloadType(200), &[0, 0, 0, 5, 7]), Some(vec![]));
    assert!(world.is_up(B, PEER));
    assert_eq!(world.nodes[B].endpoint.counters().dropped_malformed, 1);
}

#[test]
fn what_cannot_be_read_is_invalid_syntax_and_the_end() {
    // A payload that is longer than the message, and a Notify whose SPI is.
    for (first, inner) in [(PayloadType::NONCE, &[0, 0, 0, 200, 1][..]), (PayloadType::NOTIFY, &[0, 0, 0, 8, 3, 99, 0, 1])] {
        let (mut world, mut insider) = begin(2);
        let answer = insider.ask(&mut world, 2, first, inner).expect("an answer");
        assert_eq!(answer, [Notify::new(NotifyType::INVALID_SYNTAX).into()]);
        assert!(!world.is_up(B, PEER) && world.nodes[B].data.has_pairs(0));
        let down = |event: &Event| matches!(event, Event::IkeDown { cause: Cause::Failed(Error::Malformed(_)), .. });
        assert!(world.nodes[B].events.iter().any(down));
        let explained = world.nodes[B].endpoint.explain(PEER, world.now).expect("the peer");
        assert!(matches!(explained.cause, Some(Cause::Failed(Error::Malformed(_)))), "{:?}", explained.cause);
        // The answer is repeated, and nothing else is.
        assert_eq!(insider.ask(&mut world, 2, first, inner), Some(answer));
        assert_eq!(insider.ask_with(&mut world, 3, &[]), None);
    }
}

#[test]
fn invalid_syntax_in_answer_to_us_ends_the_ike_sa_as_well() {
    let (mut world, mut insider) = begin(3);
    assert_eq!(insider.ask_with(&mut world, 2, &[Notify::new(NotifyType::INVALID_SYNTAX).into()]), Some(vec![]));
    assert!(!world.is_up(B, PEER) && world.nodes[B].data.has_pairs(0));
}

#[test]
fn a_message_id_that_is_not_due_changes_nothing() {
    let (mut world, mut insider) = begin(4);
    let end = [Delete::ike().into()];
    for id in [0, 3, 4, 1000, u32::MAX - 1, u32::MAX] {
        assert_eq!(insider.ask_with(&mut world, id, &end), None, "{id}");
    }
    // The one before is answered with what was said then, whatever it asks now.
    let repeated = insider.ask_with(&mut world, 1, &end).expect("the last answer");
    assert!(repeated.iter().any(|payload| matches!(payload, Payload::Auth { .. })), "{repeated:?}");
    assert!(world.is_up(B, PEER));
    let counters = world.nodes[B].endpoint.counters();
    assert_eq!((counters.dropped_outside_window, counters.repeated_requests), (6, 1), "{counters:?}");
    assert_eq!(insider.ask_with(&mut world, 2, &[]), Some(vec![]));
    assert_eq!(insider.ask_with(&mut world, 3, &end), Some(vec![]));
    assert!(!world.is_up(B, PEER));
}

#[test]
fn what_a_peer_asks_in_a_second_has_a_limit_and_junk_does_not_count() {
    let (mut world, mut insider) = begin(6);
    // Somebody else sends under its address and SPIs.
    for n in 0..1000usize {
        let mut forged = insider.message(ExchangeType::INFORMATIONAL, 2, PayloadType::NONE, &[]);
        let at = forged.len() - 1 - n % 16;
        forged[at] ^= 1;
        insider.send(&mut world, &forged);
    }
    world.run_for(Duration::from_millis(10));
    assert_eq!(world.nodes[B].endpoint.counters().dropped_bad_tag, 1000);
    let before = world.log.len();
    for id in 2..402 {
        let message = insider.message(ExchangeType::INFORMATIONAL, id, PayloadType::NONE, &[]);
        insider.send(&mut world, &message);
    }
    world.run_for(Duration::from_millis(10));
    let answered = (world.log.len() - before) as u32;
    assert!((200..210).contains(&answered), "{answered}");
    assert!(world.nodes[B].endpoint.counters().dropped_rate > 0);
    // It asks again.
    world.run_for(Duration::from_secs(1));
    assert_eq!(insider.ask_with(&mut world, 2 + answered, &[]), Some(vec![]));
}

#[test]
fn a_rekey_of_a_child_sa_that_there_is_not_is_refused_by_its_name() {
    let (mut world, mut insider) = begin(6);
    let rekey = Notify::new(NotifyType::REKEY_SA).about(ProtocolId::ESP, Spi(0x0102_0304));
    let (first, inner) = encode_payloads(&[rekey.into()]).expect("payloads");
    let answer = insider.exchange(&mut world, ExchangeType::CREATE_CHILD_SA, 2, first, &inner).expect("an answer");
    // RFC 7296 section 2.25: the Notify says which one.
    assert_eq!(answer, [Notify::new(NotifyType::CHILD_SA_NOT_FOUND).about(ProtocolId::ESP, Spi(0x0102_0304)).into()]);
    assert!(world.is_up(B, PEER) && world.nodes[B].data.has_pairs(1));
}

#[test]
fn a_peer_that_authenticates_twice_is_told_so_and_dropped() {
    let (mut world, mut insider) = begin(5);
    let answer = insider.exchange(&mut world, ExchangeType::IKE_AUTH, 2, PayloadType::NONE, &[]).expect("an answer");
    assert_eq!(answer, [Notify::new(NotifyType::INVALID_SYNTAX).into()]);
    assert!(!world.is_up(B, PEER) && world.nodes[B].data.has_pairs(0));
}
