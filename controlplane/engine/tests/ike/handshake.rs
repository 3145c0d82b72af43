//! Two gateways meet: IKE_SA_INIT, IKE_INTERMEDIATE, IKE_AUTH.

use std::time::Duration;

use adit_engine::crypto::KeyExchangeMethod;
use adit_engine::ike::{Cause, ChildConfig, ConnectionState, EndpointConfig, EsnPolicy, IkeProposal, Limits, Mode, Ppk, Role};
use adit_engine::shown::Shown;
use adit_proto::ike::{ExchangeType, NotifyType};
use adit_proto::suite::Suite;

use adit_sim::*;

#[test]
fn two_gateways_with_a_preshared_key_make_a_tunnel() {
    let mut world = pair(1, |_, _| {});
    assert!(world.run_until(Duration::from_secs(5), |world| world.is_up(A, PEER) && world.is_up(B, PEER)));
    assert_eq!(world.elapsed(), Duration::from_millis(20), "two round trips of 10 ms");
    world.check_traffic();
    let expected = ["IKE_SA_INIT request 0", "IKE_SA_INIT response 0", "IKE_AUTH request 1", "IKE_AUTH response 1"];
    assert_eq!(world.messages(), expected);
    let (a, b) = (world.ike(A), world.ike(B));
    assert_eq!((a.role, b.role, a.spis), (Role::Initiator, Role::Responder, b.spis));
    assert_eq!((a.remote_id.as_str(), b.remote_id.as_str()), ("b.example.org", "a.example.org"));
    assert_eq!(a.suite, "AES_GCM_16_256/PRF_HMAC_SHA2_256/CURVE_25519");
    assert!(a.adit && b.adit && !a.nat.is_between() && a.nat.supported && !a.post_quantum);
    let (child, other) = (&a.children[0], &b.children[0]);
    assert_eq!((child.inbound, child.outbound), (other.outbound, other.inbound));
    assert_eq!((child.suite.as_str(), child.esn), ("AES_GCM_16_128/ESN", true));
    assert_eq!(child.selectors.local, other.selectors.remote);
}

#[test]
fn ml_kem_comes_in_an_intermediate_exchange_and_in_fragments() {
    let mut world = pair(2, |_, config| config.proposals = vec![hybrid()]);
    world.connect_pair();
    world.check_traffic();
    assert!(world.ike(A).post_quantum && world.ike(B).post_quantum);
    assert_eq!(world.ike(A).suite, "AES_GCM_16_256/PRF_HMAC_SHA2_256/CURVE_25519/ADDKE1_ML_KEM_768");
    let intermediate = world.messages().iter().filter(|message| message.starts_with("IKE_INTERMEDIATE request 1")).count();
    assert_eq!(intermediate, 2, "1184 bytes and their headers are more than one datagram");
    assert!(world.log.iter().all(|(_, _, payload)| payload.len() + 28 <= 1280));
}

#[test]
fn several_additional_key_exchanges_follow_each_other() {
    let proposal = IkeProposal {
        additional: vec![
            vec![Some(KeyExchangeMethod::MlKem1024)],
            vec![Some(KeyExchangeMethod::EcpP384), None],
            vec![Some(KeyExchangeMethod::MlKem512)],
        ],
        ..classic()
    };
    let mut world = pair(3, |_, config| config.proposals = vec![proposal.clone()]);
    world.connect_pair();
    world.check_traffic();
    let suite = world.ike(B).suite;
    assert!(suite.ends_with("ADDKE1_ML_KEM_1024/ADDKE2_ECP_384/ADDKE3_ML_KEM_512"), "{suite}");
    assert!(world.messages().contains(&"IKE_AUTH request 4".to_owned()));
}

#[test]
fn a_peer_without_ml_kem_gets_the_second_proposal() {
    let mut world =
        pair(4, |node, config| config.proposals = if node == A { vec![hybrid(), classic()] } else { vec![classic()] });
    world.connect_pair();
    world.check_traffic();
    assert!(!world.ike(A).post_quantum);
    assert!(!world.messages().iter().any(|message| message.starts_with("IKE_INTERMEDIATE")));
}

#[test]
fn another_key_exchange_method_is_asked_for_and_taken_up_once() {
    let only = |method| vec![IkeProposal { key_exchanges: vec![method], ..classic() }];
    let mut world = pair(5, |node, config| {
        if node == B {
            config.proposals = only(KeyExchangeMethod::EcpP256);
        }
    });
    world.connect_pair();
    world.check_traffic();
    assert!(world.ike(A).suite.contains("ECP_256"));
    assert_eq!(world.messages()[..4], ["IKE_SA_INIT request 0", "IKE_SA_INIT response 0"].repeat(2));
}

#[test]
fn under_load_a_cookie_is_asked_for() {
    let config = |node| {
        let limits = Limits { cookie_threshold: if node == B { 0 } else { 100 }, ..Limits::default() };
        EndpointConfig { limits, ..endpoint_config(1) }
    };
    // With a wrong first method as well: the cookie goes into every further try (RFC 7296 §2.6.1).
    let mut world = pair_with(6, config, |node, config| {
        if node == B {
            config.proposals = vec![IkeProposal { key_exchanges: vec![KeyExchangeMethod::EcpP256], ..classic() }];
        }
    });
    world.connect_pair();
    world.check_traffic();
    assert_eq!(world.nodes[B].endpoint.counters().cookies_demanded, 1);
    assert_eq!(world.messages().iter().filter(|message| *message == "IKE_SA_INIT request 0").count(), 3);
}

#[test]
fn every_suite_prf_and_method_works_on_both_sides() {
    use adit_engine::crypto::Prf;
    for suite in Suite::ALL {
        for (prf, method) in
            Prf::ALL.into_iter().zip([KeyExchangeMethod::X25519, KeyExchangeMethod::EcpP256, KeyExchangeMethod::EcpP384])
        {
            let mut world = pair(7, |node, config| {
                config.proposals = vec![IkeProposal {
                    suites: vec![suite],
                    prfs: vec![prf],
                    key_exchanges: vec![method],
                    additional: Vec::new(),
                }];
                config.children = vec![ChildConfig { ..tunnel(node) }];
                config.children[0].proposals[0].suites = vec![suite];
                config.children[0].proposals[0].esn = EsnPolicy::Never;
            });
            world.connect_pair();
            world.check_traffic();
            assert!(!world.ike(A).children[0].esn);
        }
    }
}

#[test]
fn selectors_are_narrowed_to_what_both_want() {
    let mut world = pair(8, |node, config| {
        if node == A {
            config.children[0].remote = vec![net("0.0.0.0/0")];
        } else {
            config.children[0].local = vec![net("10.2.7.0/24"), net("10.2.9.0/24")];
        }
    });
    world.connect_pair();
    world.check_traffic();
    let selectors = &world.ike(A).children[0].selectors;
    assert_eq!((&selectors.local, &selectors.remote), (&vec![net("10.1.0.0/16")], &vec![net("10.2.7.0/24"), net("10.2.9.0/24")]));
}

#[test]
fn ethernet_is_negotiated_and_both_ends_must_want_it() {
    let mut world = pair(9, |_, config| config.children = vec![ethernet()]);
    world.connect_pair();
    world.check_traffic();
    assert_eq!(world.ike(A).children[0].mode, Mode::Ethernet);

    let mut world = pair(9, |node, config| {
        if node == A {
            config.children = vec![ethernet()];
        }
    });
    world.connect_pair();
    assert!(world.ike(A).children.is_empty() && world.ike(B).children.is_empty());
    let problem = world.nodes[A].endpoint.explain(PEER, world.now).expect("the peer").record.problem.expect("a problem");
    assert_eq!(problem.cause, Cause::Refused { exchange: ExchangeType::IKE_AUTH, notify: NotifyType::TS_UNACCEPTABLE });
    assert!(problem.remedy.contains("mode"));
}

#[test]
fn every_worker_gets_a_lane_as_many_as_the_larger_gateway_has() {
    for (a, b) in [(2, 2), (1, 4), (3, 1)] {
        let mut world = pair(10, |node, config| config.children[0].lanes = if node == A { a } else { b });
        world.connect_pair();
        world.run_for(Duration::from_secs(2));
        let mut lanes: Vec<u8> = world.ike(B).children.iter().map(|child| child.lane).collect();
        lanes.sort();
        assert_eq!(lanes, (0..a.max(b)).collect::<Vec<u8>>());
        world.check_traffic();
    }
}

#[test]
fn further_children_are_made_after_the_first_one() {
    let mut world = pair(11, |node, config| config.children.insert(usize::from(node == B), ethernet()));
    world.connect_pair();
    world.check_traffic();
    assert_eq!((world.ike(A).children.len(), world.ike(B).children.len()), (2, 2));
}

#[test]
fn a_post_quantum_preshared_key_is_mixed_in_where_both_have_it() {
    let ppk = |mandatory| Some(Ppk { id: b"ppk-1".to_vec(), key: adit_engine::crypto::Secret::copy_of(&[9; 32]), mandatory });
    let other = |mandatory| Some(Ppk { id: b"ppk-2".to_vec(), key: adit_engine::crypto::Secret::copy_of(&[8; 32]), mandatory });
    // Initiator, responder, connected, mixed in (RFC 8784 §3, table 1).
    let table = [
        (ppk(true), ppk(true), true, true),
        (ppk(false), ppk(false), true, true),
        (ppk(false), other(false), true, false),
        (ppk(true), other(false), false, false),
        (ppk(false), other(true), false, false),
        (ppk(false), None, true, false),
        (ppk(true), None, false, false),
        (None, ppk(false), true, false),
        (None, ppk(true), false, false),
    ];
    for (initiator, responder, connected, mixed) in table {
        let mut world = pair(12, |node, config| config.ppk = if node == A { initiator.clone() } else { responder.clone() });
        world.run_for(Duration::from_secs(3));
        let up = world.is_up(A, PEER) && world.is_up(B, PEER);
        assert_eq!(up, connected, "{initiator:?} {responder:?}");
        if up {
            world.check_traffic();
            assert_eq!((world.ike(A).post_quantum, world.ike(B).post_quantum), (mixed, mixed), "{initiator:?} {responder:?}");
            // And people are told the names that either end has.
            let [a, b] = [A, B].map(|node| world.nodes[node].endpoint.explain(PEER, world.now).expect("the peer").record.ppk);
            let [own, other] =
                [&initiator, &responder].map(|ppk| ppk.iter().map(|ppk| Shown::bytes(&ppk.id)).collect::<Vec<_>>());
            let named = if responder.is_some() { own.clone() } else { Vec::new() };
            assert_eq!((a.ours, b.ours, b.theirs), (own, other, named));
        }
    }
}

#[test]
fn both_ends_at_once_settle_on_one_ike_sa() {
    for seed in 0..40 {
        let mut world = pair(100 + seed, |_, config| config.initiate = true);
        world.net.delay = (Duration::from_millis(1), Duration::from_millis(60));
        world.connect_pair();
        world.run_for(Duration::from_secs(60));
        assert_eq!(world.ike(A).spis, world.ike(B).spis, "seed {seed}");
        assert_eq!((world.nodes[A].data.inbound.len(), world.nodes[B].data.inbound.len()), (1, 1), "seed {seed}");
        world.check_traffic();
    }
}

#[test]
fn a_lost_peer_is_tried_again_with_growing_pauses() {
    let mut world = pair(13, |_, _| {});
    world.cut = true;
    world.run_for(Duration::from_secs(400));
    assert_eq!(world.state(B, PEER), ConnectionState::Idle);
    let status = world.nodes[A].endpoint.status(PEER).expect("the peer");
    assert!(
        matches!(status.cause, Some(Cause::Unanswered { exchange: ExchangeType::IKE_SA_INIT, times: 9 })),
        "{:?}",
        status.cause
    );
    assert!((5..=9).contains(&status.attempts), "{} attempts", status.attempts);
    world.cut = false;
    world.connect_pair();
    world.check_traffic();
}

#[test]
fn a_handshake_survives_a_bad_network() {
    for seed in 0..30 {
        let mut world = pair(200 + seed, |_, config| config.proposals = vec![hybrid()]);
        world.net = Net::BAD;
        let up = world.run_until(Duration::from_secs(300), |world| world.is_up(A, PEER) && world.is_up(B, PEER));
        assert!(up, "seed {seed}");
        world.net = Net::GOOD;
        world.run_for(Duration::from_secs(20));
        world.check_traffic();
    }
}
