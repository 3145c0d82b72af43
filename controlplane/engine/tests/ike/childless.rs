//! IKE SAs that are made without a Child SA (RFC 6023): both as the one who is asked for one and as the one who has to make one.

use std::time::Duration;

use adit_engine::crypto::{IkeAead, KeyExchangeMethod};
use adit_engine::ike::selectors::pair_of;
use adit_engine::ike::{Cause, ConnectionState, EndpointConfig, Event, KeyLog, PeerConfig, Wish};
use adit_proto::ike::encrypted::Unsealed;
use adit_proto::ike::{EsnId, encode_payloads};
use adit_proto::ike::{
    ExchangeType, Flags, Header, IpSelector, Message, Notify, NotifyType, Payload, PayloadType, Proposal, ProtocolId,
    TrafficSelector, Transform,
};
use adit_proto::suite::Suite;

use super::rogue::{Rogue, after_init_as, has_auth};
use adit_sim::*;

/// Both networks as a pair of which a Child SA is wanted.
fn with_pairs(_: usize, config: &mut PeerConfig) {
    let child = &mut config.children[0];
    child.pairs = child.local.iter().zip(&child.remote).filter_map(|(local, remote)| pair_of(local, remote)).collect();
}

/// SA, nonce, TSi and TSr for a Child SA between these networks.
pub fn new_child(spi: u32, mine: IpSelector, theirs: IpSelector) -> Vec<Payload> {
    let transforms = vec![Transform::of_suite(Suite::Aes128Gcm), Transform::esn(EsnId::ESN)];
    let proposal = Proposal { number: 1, protocol: ProtocolId::ESP, spi: spi.to_be_bytes().to_vec(), transforms };
    let [mine, theirs] = [mine, theirs].map(|one| vec![TrafficSelector::Ip(one)]);
    vec![Payload::Sa(vec![proposal]), Payload::Nonce(vec![7; 32]), Payload::TsI(mine), Payload::TsR(theirs)]
}

fn says_childless(message: &[u8]) -> usize {
    let message = Message::decode(&message[4..]).expect("a message");
    let says = |payload: &&Payload| matches!(payload, Payload::Notify(one) if one.kind == NotifyType::CHILDLESS_IKEV2_SUPPORTED);
    message.payloads.iter().filter(says).count()
}

fn has(payloads: &[Payload], kind: PayloadType) -> bool {
    payloads.iter().any(|payload| payload.kind() == kind)
}

/// Somebody of another make, or of ours, who has made an IKE SA with B without a Child SA.
fn connected(seed: u64, is_adit: bool, change: impl Fn(usize, &mut PeerConfig)) -> (World, Rogue) {
    let other_make = |payloads: &mut Vec<Payload>| payloads.retain(|payload| is_adit || payload.kind() != PayloadType::VENDOR);
    let (mut world, mut rogue) = after_init_as(seed, change, other_make);
    assert!(rogue.exchange_more(&mut world, KeyExchangeMethod::MlKem768));
    let answer = rogue.authenticate(&mut world, None).expect("an answer");
    assert!(has_auth(&answer), "{answer:?}");
    for kind in [PayloadType::SA, PayloadType::TS_I, PayloadType::TS_R] {
        assert!(!has(&answer, kind), "there is nothing of a Child SA in it: {answer:?}");
    }
    assert!(!answer.iter().any(|payload| matches!(payload, Payload::Notify(notify) if notify.kind.is_error())), "{answer:?}");
    (world, rogue)
}

#[test]
fn the_responder_alone_says_that_it_can_do_without_a_child_sa() {
    let mut world = pair(1, |_, _| {});
    world.connect_pair();
    let said: Vec<usize> = world.log[..2].iter().map(|(_, _, message)| says_childless(message)).collect();
    assert_eq!(said, [0, 1]);
}

#[test]
fn an_initiator_without_a_child_sa_is_connected_and_makes_one_later() {
    for is_adit in [true, false] {
        let (mut world, mut rogue) = connected(2, is_adit, with_pairs);
        assert_eq!(world.state(B, PEER), ConnectionState::Established);
        let ike = world.ike(B);
        assert!(ike.children.is_empty() && ike.adit == is_adit);
        assert!(matches!(ike.missing[..], [ref one] if matches!(one.wish, Wish::Selector(0, _))), "{:?}", ike.missing);
        assert!(!world.nodes[B].events.iter().any(|event| matches!(event, Event::ChildFailed { .. })), "it is no failure");
        let asked = new_child(0x1234_5678, net("10.1.0.0/16"), net("10.2.0.0/16"));
        let answer = rogue.next(&mut world, ExchangeType::CREATE_CHILD_SA, &asked).expect("an answer");
        assert!(
            has(&answer, PayloadType::SA) && has(&answer, PayloadType::TS_I) && has(&answer, PayloadType::TS_R),
            "{answer:?}"
        );
        let ike = world.ike(B);
        assert_eq!((ike.children.len(), ike.children[0].outbound.0), (1, 0x1234_5678));
        assert!(ike.missing.is_empty());
        assert!(world.nodes[B].data.has_pairs(1));
    }
}

#[test]
fn one_of_another_make_that_makes_none_is_asked_a_few_times() {
    let (mut world, mut rogue) = connected(3, false, with_pairs);
    let (mut asked, mut seen) = (Vec::new(), world.log.len());
    for _ in 0..2000 {
        world.run_for(Duration::from_millis(100));
        let new: Vec<_> = world.log[seen..].iter().filter_map(|(_, _, datagram)| rogue.heard(datagram)).collect();
        seen = world.log.len();
        for (header, payloads) in new {
            let answer = if header.exchange == ExchangeType::CREATE_CHILD_SA {
                asked.push((world.elapsed(), payloads));
                vec![Notify::new(NotifyType::TS_UNACCEPTABLE).into()]
            } else {
                Vec::new()
            };
            let answer = rogue.answer(&header, &answer);
            let [a, b] = [A, B].map(|node| peer(node).local.expect("an address"));
            world.inject(a, b, answer);
            world.run_for(Duration::from_millis(10));
        }
    }
    assert_eq!(asked.len(), 3, "in 200 s: {:?}", asked.iter().map(|(at, _)| at).collect::<Vec<_>>());
    assert!(asked[0].0 > Duration::from_secs(10), "not before it had the time to do so itself");
    let wanted = [
        Payload::TsI(vec![TrafficSelector::Ip(net("10.2.0.0/16"))]),
        Payload::TsR(vec![TrafficSelector::Ip(net("10.1.0.0/16"))]),
    ];
    assert!(wanted.iter().all(|payload| asked[0].1.contains(payload)), "{:?}", asked[0].1);
    assert_eq!(world.state(B, PEER), ConnectionState::Established, "the IKE SA stays");
    let refused = Cause::Refused { exchange: ExchangeType::CREATE_CHILD_SA, notify: NotifyType::TS_UNACCEPTABLE };
    let missing = world.ike(B).missing;
    assert_eq!((missing[0].cause.clone(), missing[0].retry_at), (Some(refused), None), "and says what is missing, and why");
}

/// As a responder that insists on an IKE SA without a Child SA answers IKE_AUTH with one; strongSwan: `childless = force`.
fn insist(world: &mut World) {
    let reported = world.nodes[B].events.iter().rev().find_map(|event| match event {
        Event::KeyLog(log) => match &**log {
            KeyLog::Ike { spis, suite, responder, .. } => Some((*spis, IkeAead::new(*suite, responder, 1 << 32).expect("a key"))),
            KeyLog::Esp { .. } => None,
        },
        _ => None,
    });
    let (spis, mut seal) = reported.expect("the keys are told");
    let flags = Flags { initiator: false, response: true, version: false };
    let header = Header::new(spis.initiator, spis.responder, ExchangeType::IKE_AUTH, flags, 1);
    let (first, inner) = encode_payloads(&[Notify::new(NotifyType::INVALID_SYNTAX).into()]).expect("payloads");
    let unsealed = Unsealed::sk(&header, first, &inner, seal.next_iv()).expect("a message");
    let message =
        unsealed.seal(|aad: &[u8], _, plain: &mut [u8]| seal.seal(aad, plain).map(|sealed| sealed.tag)).expect("a message");
    let [a, b] = [A, B].map(|node| peer(node).local.expect("an address"));
    world.inject(b, a, [&[0; 4], message.as_slice()].concat());
}

/// A, which has begun with B, whose answers to IKE_AUTH do not arrive.
fn begun(seed: u64) -> World {
    let mut world = pair_with(seed, |_| EndpointConfig { key_log: true, ..endpoint_config(1) }, with_pairs);
    world.filter = Some(Box::new(|_, _, payload| {
        let header = Header::decode(&payload[4..]).expect("a message");
        header.exchange != ExchangeType::IKE_AUTH || !header.flags.response
    }));
    let began = |world: &World| world.nodes[B].events.iter().any(|event| matches!(event, Event::KeyLog(_)));
    assert!(world.run_until(Duration::from_secs(1), began));
    world
}

#[test]
fn a_responder_that_insists_gets_an_ike_sa_without_and_then_the_child_sa() {
    let mut world = begun(4);
    let before = world.log.len();
    insist(&mut world);
    world.run_for(Duration::from_millis(1));
    world.filter = None;
    assert!(world.run_until(Duration::from_secs(1), |world| world.is_up(A, PEER)), "at once, without a pause");
    let ike = world.ike(A);
    assert!(ike.children.is_empty(), "IKE_AUTH has brought none");
    assert_eq!((ike.missing.len(), ike.missing[0].cause.clone()), (1, None));
    world.run_for(Duration::from_secs(1));
    assert!(world.ike(A).missing.is_empty() && world.ike(A).children.len() == 1);
    let kinds = |world: &World, from: usize| -> Vec<String> {
        let requests = world.messages().into_iter().skip(from).filter(|text| text.contains(" request "));
        requests.map(|text| text.split(' ').next().unwrap_or("").to_owned()).filter(|kind| kind != "INFORMATIONAL").collect()
    };
    assert_eq!(kinds(&world, before), ["IKE_SA_INIT", "IKE_AUTH", "CREATE_CHILD_SA"]);
    world.run_for(Duration::from_secs(60));
    world.check_traffic();
    // It is known from now on, also without being told.
    world.act(A, |endpoint, now| endpoint.disconnect(now, PEER)).expect("it is connected");
    world.run_for(Duration::from_secs(1));
    let before = world.log.len();
    world.act(A, |endpoint, now| endpoint.connect(now, PEER)).expect("it has an address");
    world.connect_pair();
    assert_eq!(kinds(&world, before), ["IKE_SA_INIT", "IKE_AUTH", "CREATE_CHILD_SA"]);
    world.check_traffic();
}

#[test]
fn one_that_refuses_without_a_child_sa_as_well_is_asked_ever_more_rarely() {
    let mut world = begun(5);
    insist(&mut world);
    // The second request has no Child SA in it, and is refused alike.
    let again = |world: &World| world.messages().iter().filter(|text| text.starts_with("IKE_AUTH request")).count() >= 2;
    assert!(world.run_until(Duration::from_millis(400), again));
    world.run_for(Duration::from_millis(50));
    insist(&mut world);
    world.run_for(Duration::from_millis(50));
    let status = world.nodes[A].endpoint.status(PEER).expect("the peer");
    let refused = Cause::Refused { exchange: ExchangeType::IKE_AUTH, notify: NotifyType::INVALID_SYNTAX };
    assert_eq!((status.state, status.cause), (ConnectionState::Reconnecting, Some(refused)));
    assert!(status.retry_at.is_some_and(|at| at > world.now().instant + Duration::from_millis(500)), "not at once");
}
