//! Certificates that are not good: refused as RFC 7296 §2.21.2 says, told to the peer in one word, explained here, and put right.

use adit_engine::ike::{Cause, Error, Incompatibility, PeerConfig};
use adit_proto::ike::{ExchangeType, NotifyType};

use adit_sim::certificates::Authority;
use adit_sim::*;

/// A is the initiator; what B holds against it, by its code.
fn refused_by_b(change: impl Fn(usize, &mut PeerConfig)) -> (World, &'static str) {
    let mut world = pair(1, &change);
    world.run_for(std::time::Duration::from_secs(2));
    let a = world.nodes[A].endpoint.explain(PEER, world.now).expect("the peer");
    let reported = Cause::Refused { exchange: ExchangeType::IKE_AUTH, notify: NotifyType::AUTHENTICATION_FAILED };
    assert_eq!(a.cause, Some(reported), "the peer learns no more");
    let b = world.nodes[B].endpoint.explain(PEER, world.now).expect("the peer");
    let Some(Cause::Failed(Error::Incompatible(Incompatibility::Auth(error)))) = &b.cause else { panic!("{:?}", b.cause) };
    let problem = b.record.problem.expect("a problem");
    assert!(!problem.remedy.is_empty(), "{error}");
    assert!(world.nodes[B].endpoint.counters().failed_authentication > 0);
    assert!(world.nodes[B].data.has_pairs(0) && !world.is_up(A, PEER));
    (world, error.code())
}

#[test]
fn an_expired_certificate_is_refused_and_a_new_one_is_taken() {
    let authority = Authority::new("Root");
    let good = |node: usize, config: &mut PeerConfig| {
        config.local_auth = authority.issue(["a.example.org", "b.example.org"][node], 2030);
        config.remote_auth = authority.trusted();
    };
    let (mut world, code) = refused_by_b(|node, config| {
        good(node, config);
        if node == A {
            config.local_auth = authority.issue("a.example.org", 2026);
        }
    });
    assert_eq!(code, "certificate_expired");
    let mut config = peer(A);
    good(A, &mut config);
    world.set_peer(A, PEER, config);
    world.connect_pair();
    world.check_traffic();
}

#[test]
fn a_ca_that_nobody_trusts_and_a_name_of_somebody_else_are_refused() {
    let (authority, other) = (Authority::new("Root"), Authority::new("Other"));
    for (issuer, name, expected) in
        [(&other, "a.example.org", "unknown_ca"), (&authority, "c.example.org", "certificate_wrong_name")]
    {
        let (_, code) = refused_by_b(|node, config| {
            config.local_auth = authority.issue(["a.example.org", "b.example.org"][node], 2030);
            config.remote_auth = authority.trusted();
            if node == A {
                config.local_auth = issuer.issue(name, 2030);
            }
        });
        assert_eq!(code, expected);
    }
}
