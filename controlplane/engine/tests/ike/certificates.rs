//! Certificates that are not good: refused as RFC 7296 §2.21.2 says, told to the peer in one word, explained here, and put right.

use std::sync::Arc;

use adit_engine::auth::{LocalAuth, LocalKey, RemoteAuth, TrustAnchors};
use adit_engine::crypto::PrivateKey;
use adit_engine::ike::{Cause, Error, Incompatibility, PeerConfig};
use adit_proto::ike::{ExchangeType, NotifyType};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ED25519, date_time_ymd};

use adit_sim::*;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// Valid from 2026 to the end of a year.
    fn issue(&self, name: &str, last_year: i32) -> LocalAuth {
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(last_year, 12, 31));
        let pem = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        let private = PrivateKey::from_pkcs8(key.serialized_der()).expect("a key");
        LocalAuth::Key(Arc::new(LocalKey::certified(private, pem.as_bytes()).expect("a certificate of its key")))
    }

    fn trusted(&self) -> RemoteAuth {
        RemoteAuth::Ca(Arc::new(TrustAnchors::from_pem(self.pem.as_bytes()).expect("a CA")))
    }
}

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
