//! Unauthenticated initiators, attackers and broken messages: nothing that is not authentic changes anything, and memory stays bounded.

use std::net::SocketAddr;
use std::time::Duration;

use adit_engine::ike::{Cause, ConnectionState, EndpointConfig, Error, Event, Incompatibility, Limits};
use adit_proto::ike::{ExchangeType, Flags, Header, IkeSpi, KeId, Message, Notify, NotifyType, Payload, Version};

use adit_sim::*;

fn address(node: usize) -> SocketAddr {
    peer(node).local.expect("an address")
}

/// An IKE message behind its marker.
fn framed(message: &[u8]) -> Vec<u8> {
    [&[0; 4], message].concat()
}

fn answer_in_clear(request: &[u8], exchange: ExchangeType, payloads: Vec<Payload>) -> Vec<u8> {
    let request = Header::decode(&request[4..]).expect("a request");
    let flags = Flags { initiator: !request.flags.initiator, response: true, version: false };
    let header = Header::new(request.initiator_spi, request.responder_spi, exchange, flags, request.message_id);
    framed(&Message { header, payloads }.encode().expect("a message"))
}

#[test]
fn forged_answers_to_ike_sa_init_neither_stop_nor_lead_astray() {
    let forged: [Vec<Payload>; 4] = [
        vec![Notify::new(NotifyType::NO_PROPOSAL_CHOSEN).into()],
        vec![Notify::new(NotifyType::AUTHENTICATION_FAILED).into()],
        // A method that was never offered.
        vec![Notify::invalid_ke(KeId::MODP_1024).into()],
        // An answer without anything in it.
        vec![],
    ];
    for payloads in forged {
        let mut world = pair(1, |_, config| config.initiate = false);
        world.net.delay = (Duration::from_millis(20), Duration::from_millis(20));
        world.act(A, |endpoint, now| endpoint.connect(now, PEER)).expect("it has an address");
        let request = world.log[0].2.clone();
        let forged = answer_in_clear(&request, ExchangeType::IKE_SA_INIT, payloads);
        world.inject(address(B), address(A), forged);
        world.connect_pair();
        assert!(world.ike(A).suite.ends_with("CURVE_25519"), "no downgrade");
        world.check_traffic();
    }
}

#[test]
fn a_cookie_of_one_to_64_bytes_is_brought_back_first_of_all() {
    for (len, is_good) in [(0, false), (1, true), (64, true), (65, false)] {
        let mut world = pair(2, |_, config| config.initiate = false);
        world.act(A, |endpoint, now| endpoint.connect(now, PEER)).expect("it has an address");
        world.nodes[B].on = false;
        let first = world.log[0].2.clone();
        let cookie: Payload = Notify::new(NotifyType::COOKIE).with_data(vec![7; len]).into();
        world.inject(address(B), address(A), answer_in_clear(&first, ExchangeType::IKE_SA_INIT, vec![cookie.clone()]));
        world.run_for(Duration::from_millis(100));
        let asked: Vec<Payload> = Message::decode(&first[4..]).expect("a request").payloads;
        let expected = is_good.then(|| [vec![cookie], asked].concat());
        let again = world.log.get(1).map(|(_, _, datagram)| Message::decode(&datagram[4..]).expect("a request").payloads);
        assert_eq!(again, expected, "{len} bytes (RFC 7296 section 2.6)");
    }
}

#[test]
fn a_cookie_loop_ends() {
    let mut world = pair(2, |_, config| config.initiate = false);
    world.act(A, |endpoint, now| endpoint.connect(now, PEER)).expect("it has an address");
    world.nodes[B].on = false;
    let mut seen = 0;
    for _ in 0..30 {
        if world.log.len() > seen {
            seen = world.log.len();
            let cookie = Notify::new(NotifyType::COOKIE).with_data(vec![seen as u8; 16]).into();
            let forged = answer_in_clear(&world.log[seen - 1].2.clone(), ExchangeType::IKE_SA_INIT, vec![cookie]);
            world.inject(address(B), address(A), forged);
        }
        world.run_for(Duration::from_millis(100));
    }
    assert_eq!(world.log.len(), 7, "the first, one for each of four cookies, and two more in case somebody else answers");
}

#[test]
fn a_flood_of_requests_to_begin_costs_bounded_memory_and_disturbs_nobody() {
    let limits = Limits { half_open: 50, half_open_per_address: 8, cookie_threshold: 20, ..Limits::default() };
    let mut world = pair_with(
        3,
        |_| EndpointConfig { limits, ..endpoint_config(1) },
        |node, config| {
            if node == B {
                config.remotes.clear();
            }
        },
    );
    world.connect_pair();
    let genuine = world.log[0].2.clone();
    let flood = |world: &mut World, from: u32, spi: u64| {
        let mut request = genuine.clone();
        request[4..12].copy_from_slice(&spi.to_be_bytes());
        let from = SocketAddr::new(std::net::Ipv4Addr::from_bits(0x0a00_0000 + from).into(), 4500);
        world.inject(from, address(B), request);
    };
    // Without cookies there are few of one address, and not many in all.
    (1..100).for_each(|spi| flood(&mut world, 1, spi));
    world.run_for(Duration::from_millis(100));
    assert_eq!(world.nodes[B].endpoint.half_open(), limits.cookie_threshold_per_address);
    (1..2000).for_each(|from| flood(&mut world, from, u64::from(from) + 1000));
    world.run_for(Duration::from_millis(100));
    let counters = world.nodes[B].endpoint.counters();
    assert_eq!(world.nodes[B].endpoint.half_open(), 20);
    assert!(counters.cookies_demanded > 2000 && counters.dropped_limit == 0, "{counters:?}");
    // Who is connected stays connected, and an honest peer still gets in, with a cookie.
    world.check_traffic();
    world.act(A, |endpoint, now| endpoint.disconnect(now, PEER)).expect("a peer");
    world.run_for(Duration::from_secs(1));
    world.act(A, |endpoint, now| endpoint.connect(now, PEER)).expect("it has an address");
    world.connect_pair();
    world.check_traffic();
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.nodes[B].endpoint.half_open(), 0);
}

#[test]
fn changed_bits_anywhere_change_nothing() {
    let mut world = pair(4, |_, config| config.proposals = vec![hybrid()]);
    world.connect_pair();
    let (spis, datagrams) = (world.ike(A).spis, world.log.clone());
    for (from, to, datagram) in &datagrams {
        for bit in (0..datagram.len() * 8).step_by(13) {
            let mut changed = datagram.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            world.inject(*from, *to, changed);
        }
        for len in 0..datagram.len().min(80) {
            world.inject(*from, *to, datagram[..len].to_vec());
        }
    }
    world.run_for(Duration::from_secs(40));
    assert_eq!((world.ike(A).spis, world.ike(B).spis), (spis, spis));
    assert_eq!(world.nodes[B].endpoint.half_open(), 0);
    world.check_traffic();
}

#[test]
fn replayed_messages_are_answered_with_what_was_said_and_nothing_else() {
    let mut world = pair(5, |_, config| config.proposals = vec![hybrid()]);
    world.connect_pair();
    for node in [A, B] {
        world.act(node, |endpoint, now| endpoint.rekey(now, PEER)).expect("it is connected");
        world.run_for(Duration::from_secs(10));
    }
    let (before, events) = (world.ike(A), [A, B].map(|node| world.nodes[node].events.len()));
    let recorded = world.log.clone();
    for (from, to, datagram) in &recorded {
        world.inject(*from, *to, datagram.clone());
    }
    world.run_for(Duration::from_secs(40));
    assert_eq!([A, B].map(|node| world.nodes[node].events.len()), events, "nothing happened");
    assert_eq!(world.ike(A).children[0].inbound, before.children[0].inbound);
    for (_, _, datagram) in &world.log[recorded.len()..] {
        let fresh = !recorded.iter().any(|(_, _, known)| known == datagram);
        // A liveness check may have come in between; an IKE_SA_INIT request of old is a new one to a responder.
        let exchange = Header::decode(&datagram[4..]).expect("a header").exchange;
        assert!(!fresh || [ExchangeType::INFORMATIONAL, ExchangeType::IKE_SA_INIT].contains(&exchange), "{}", describe(datagram));
    }
    world.check_traffic();
}

#[test]
fn a_broken_intermediate_is_dropped_and_the_handshake_goes_on() {
    let mut world = pair(6, |_, config| config.proposals = vec![hybrid()]);
    let mut broken = 0;
    world.filter = Some(Box::new(move |_, _, payload| {
        let header = Header::decode(&payload[4..]).expect("a header");
        if header.exchange == ExchangeType::IKE_INTERMEDIATE && broken < 4 {
            broken += 1;
            let last = payload.len() - 1;
            payload[last] ^= 1;
        }
        true
    }));
    world.connect_pair();
    world.check_traffic();
    let bad = [A, B].map(|node| world.nodes[node].endpoint.counters().dropped_bad_tag);
    assert_eq!(bad.iter().sum::<u64>(), 4);
}

#[test]
fn another_version_is_told_and_nothing_else() {
    let mut world = pair(7, |_, config| config.initiate = false);
    let flags = Flags { initiator: true, response: false, version: false };
    let mut header = Header::new(IkeSpi(5), IkeSpi::ZERO, ExchangeType::IKE_SA_INIT, flags, 0);
    header.version = Version(0x30);
    let mut reported = Vec::new();
    // The first is shorter than the answer would be.
    for payloads in [Vec::new(), vec![Payload::Nonce(vec![1; 16])]] {
        let message = Message { header, payloads }.encode().expect("a message");
        world.inject(address(A), address(B), framed(&message));
        world.run_for(Duration::from_secs(1));
        reported.push(world.log.len());
    }
    assert_eq!((reported, world.nodes[B].endpoint.counters().dropped_short), (vec![0, 1], 1));
    let answer = Message::decode(&world.log[0].2[4..]).expect("an answer");
    assert_eq!(answer.payloads, [Notify::new(NotifyType::INVALID_MAJOR_VERSION).into()]);
    assert_eq!((answer.header.version, answer.header.flags.response), (Version::V2, true));
}

#[test]
fn an_older_version_is_not_answered_and_the_operator_is_told_of_it() {
    let mut world = pair(7, |_, config| config.initiate = false);
    let flags = Flags { initiator: true, response: false, version: false };
    let mut header = Header::new(IkeSpi(5), IkeSpi::ZERO, ExchangeType::IKE_SA_INIT, flags, 0);
    header.version = Version(0x10);
    let message = Message { header, payloads: vec![Payload::Nonce(vec![1; 64])] }.encode().expect("a message");
    world.inject(address(A), address(B), framed(&message));
    world.run_for(Duration::from_secs(1));
    assert!(world.log.is_empty());
    let reported: Vec<_> = world.nodes[B].endpoint.refusals().map(|refusal| (refusal.from, refusal.why.to_string())).collect();
    assert_eq!(
        reported,
        [(
            adit_engine::path::Remote::Udp(address(A)),
            "it speaks IKE of version 1, which is not answered: set it to IKEv2".to_owned()
        )]
    );
    let explained = world.nodes[B].endpoint.explain(PEER, world.now).expect("the peer");
    assert_eq!(explained.unauthenticated.len(), 1, "who has the peer's address may be the peer");
}

#[test]
fn an_unknown_ike_sa_is_said_at_a_limited_rate_and_proven_for_the_dead() {
    let limits = Limits { unprotected_replies: 5, ..Limits::default() };
    let mut world = pair_with(8, |_| EndpointConfig { limits, ..endpoint_config(1) }, |_, _| {});
    world.connect_pair();
    let (spis, count) = (world.ike(A).spis, world.log.len());
    let ask = |world: &mut World, initiator, responder, from_initiator| {
        let flags = Flags { initiator: from_initiator, response: false, version: false };
        let header = Header::new(initiator, responder, ExchangeType::INFORMATIONAL, flags, 3);
        let body = Payload::Sk { first: adit_proto::ike::PayloadType::NONE, body: vec![7; 44] };
        let message = Message { header, payloads: vec![body] }.encode().expect("a message");
        world.inject("198.51.100.9:4500".parse().expect("an address"), address(B), framed(&message));
        world.run_for(Duration::from_micros(100));
    };
    // Alive, named in any order and with any flag: not a word, for the token would end it.
    for from_initiator in [true, false] {
        ask(&mut world, spis.initiator, spis.responder, from_initiator);
        ask(&mut world, spis.responder, spis.initiator, from_initiator);
        ask(&mut world, IkeSpi(99), spis.responder, from_initiator);
    }
    assert_eq!(world.log.len(), count);
    (1..100).for_each(|spi| ask(&mut world, IkeSpi(spi), IkeSpi(spi + 1000), true));
    let answers = &world.log[count..];
    assert_eq!(answers.len(), 1, "a part of it for one network");
    let first = Message::decode(&answers[0].2[4..]).expect("an answer");
    assert_eq!(first.payloads[0], Notify::new(NotifyType::INVALID_IKE_SPI).into());
    assert_eq!((first.payloads.len(), first.header.message_id), (2, 3));
}

#[test]
fn a_wrong_preshared_key_is_explained_at_both_ends_and_heals() {
    let mut world = pair(9, |node, config| {
        if node == B {
            (config.local_auth, config.remote_auth) = psk("quite another secret for this test");
        }
    });
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.state(A, PEER), ConnectionState::Reconnecting);
    let a = world.nodes[A].endpoint.explain(PEER, world.now).expect("the peer");
    assert_eq!(a.cause, Some(Cause::Refused { exchange: ExchangeType::IKE_AUTH, notify: NotifyType::AUTHENTICATION_FAILED }));
    let b = world.nodes[B].endpoint.explain(PEER, world.now).expect("the peer");
    let Some(Cause::Failed(Error::Incompatible(Incompatibility::Auth(error)))) = &b.cause else { panic!("{:?}", b.cause) };
    assert_eq!(error.code(), "wrong_psk");
    assert_eq!(b.state, ConnectionState::Failed);
    assert!(b.record.problem.expect("a problem").remedy.contains("same preshared key"));
    assert!(world.nodes[B].endpoint.counters().failed_authentication > 0);
    world.set_peer(B, PEER, peer(B));
    world.connect_pair();
    world.check_traffic();
}

#[test]
fn a_peer_that_is_somebody_else_is_refused_by_either_end() {
    // The responder is not who it should be: the initiator says so and leaves nothing behind.
    let mut world = pair(10, |node, config| {
        if node == B {
            config.local_id = "mallory.example.org".parse().expect("an identity");
        }
    });
    world.run_for(Duration::from_secs(2));
    let a = world.nodes[A].endpoint.explain(PEER, world.now).expect("the peer");
    let Some(Cause::Failed(Error::Incompatible(Incompatibility::Auth(error)))) = &a.cause else { panic!("{:?}", a.cause) };
    assert_eq!(error.code(), "wrong_identity");
    assert_eq!(a.record.identities.theirs, ["mallory.example.org"]);
    assert!(world.nodes[B].data.inbound.is_empty(), "B has been told");
    assert!(!world.is_up(B, PEER));

    // The initiator is nobody whom the responder knows.
    let mut world = pair(11, |node, config| {
        if node == A {
            config.local_id = "mallory.example.org".parse().expect("an identity");
        }
    });
    world.run_for(Duration::from_millis(500));
    assert!(matches!(world.nodes[A].endpoint.explain(PEER, world.now).expect("the peer").cause, Some(Cause::Refused { .. })));
    let b = world.nodes[B].endpoint.explain(PEER, world.now).expect("the peer");
    assert!(matches!(b.unauthenticated[0].why, Error::Incompatible(Incompatibility::UnknownPeer)), "{:?}", b.unauthenticated);
    let named = (b.unauthenticated[0].ours.join(" "), b.unauthenticated[0].theirs.join(" "));
    assert_eq!(named, ("a.example.org".to_owned(), "mallory.example.org".to_owned()));
    assert!(world.nodes[B].endpoint.counters().refused_authentication > 0);
}

#[test]
fn algorithms_without_common_ground_are_shown_side_by_side() {
    let mut world = pair(12, |node, config| {
        if node == B {
            config.proposals[0].suites = vec![adit_proto::suite::Suite::ChaCha20Poly1305];
        }
    });
    world.run_for(Duration::from_secs(5));
    let a = world.nodes[A].endpoint.explain(PEER, world.now).expect("the peer");
    assert!(a.record.hint.expect("what B said").contains("NO_PROPOSAL_CHOSEN"));
    assert!(matches!(
        a.cause,
        Some(Cause::Failed(Error::Incompatible(Incompatibility::Refused(NotifyType::NO_PROPOSAL_CHOSEN))))
    ));
    let b = world.nodes[B].endpoint.explain(PEER, world.now).expect("the peer");
    let initiator = &b.unauthenticated[0];
    assert!(initiator.ours[0].contains("CHACHA20_POLY1305") && initiator.theirs[0].contains("AES_GCM_16_256"), "{initiator:?}");
    assert!(initiator.why.to_string().contains("ENCR"), "{}", initiator.why);
}

#[test]
fn selectors_without_common_ground_leave_the_ike_sa_and_heal() {
    let mut world = pair(13, |node, config| {
        if node == B {
            config.children[0].local = vec![net("172.16.0.0/12")];
        }
    });
    world.connect_pair();
    assert!(world.ike(A).children.is_empty());
    let b = world.nodes[B].endpoint.explain(PEER, world.now).expect("the peer").record;
    let difference = b.differences().into_iter().find(|one| one.what.starts_with("traffic")).expect("a difference");
    assert!(difference.theirs.contains("10.2.0.0/16"), "{difference}");
    for node in [A, B] {
        let failed = |event: &Event| matches!(event, Event::ChildFailed { .. });
        assert!(world.nodes[node].events.iter().any(failed), "node {node} tells of it");
        assert!(world.nodes[node].endpoint.counters().failed_selectors > 0, "node {node} counts it");
    }
    world.set_peer(B, PEER, peer(B));
    world.run_for(Duration::from_secs(60));
    world.check_traffic();
    assert!(world.nodes[A].endpoint.explain(PEER, world.now).expect("the peer").record.problem.is_none(), "it is over");
}

#[test]
fn a_post_quantum_key_with_the_wrong_contents_is_suspected() {
    let mut world = pair(14, |node, config| {
        let key = adit_engine::crypto::Secret::copy_of(&[node as u8; 32]);
        config.ppk = Some(adit_engine::ike::Ppk { id: b"ppk-1".to_vec(), key, mandatory: true });
    });
    world.run_for(Duration::from_secs(2));
    let [a, b] = [A, B].map(|node| world.nodes[node].endpoint.explain(PEER, world.now).expect("the peer"));
    assert!(matches!(b.cause, Some(Cause::Failed(Error::Incompatible(Incompatibility::AuthOrPpk(_))))), "{:?}", b.cause);
    for explanation in [a, b] {
        let remedy = explanation.record.problem.expect("a problem").remedy;
        assert!(remedy.contains("post-quantum pre-shared key"), "{remedy}");
    }
}
