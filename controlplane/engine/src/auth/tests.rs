//! Peers that prove who they are in every way, and those that do not.

use adit_proto::ike::IdType;
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::signature::{Ed25519KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256};

use super::testing::{Issued, NOW, ca_params, named, params};
use super::*;

const OCTETS: &[u8] = b"the octets that AUTH covers";
const PRF: Prf = Prf::HmacSha256;

fn id(text: &str) -> Identity {
    text.parse().unwrap()
}

fn psk(text: &str) -> Psk {
    Psk::from_text(text).unwrap()
}

fn fresh_key() -> PrivateKey {
    let der: Pkcs8V1Der = Ed25519KeyPair::generate().unwrap().as_der().unwrap();
    PrivateKey::from_pkcs8(der.as_ref()).unwrap()
}

/// What a peer sends in IKE_AUTH.
struct Sent {
    identification: Identification,
    auth: AuthData,
    presented: Presented,
}

impl Sent {
    fn by(local: &LocalAuth, remote: &RemoteAuth, identity: &Identity) -> Sent {
        Sent {
            identification: identity.to_payload(),
            auth: local.sign(PRF, &SignatureAlgorithm::HASHES, OCTETS).unwrap(),
            presented: local.certificates(&remote.certificate_requests()).into(),
        }
    }

    fn claim(&self) -> Claim<'_> {
        Claim {
            identification: &self.identification,
            method: self.auth.method,
            data: &self.auth.data,
            presented: &self.presented,
        }
    }
}

/// The peer says it is `identity`, and is asked to prove it.
fn check(local: &LocalAuth, remote: &RemoteAuth, identity: &str) -> Result<Authenticated, AuthError> {
    let sent = Sent::by(local, remote, &id(identity));
    remote.verify(&Pattern::Any, &sent.claim(), PRF, OCTETS, NOW)
}

fn ca(root: &Issued) -> RemoteAuth {
    RemoteAuth::Ca(Arc::new(root.anchors()))
}

#[test]
fn the_same_preshared_key_at_both_ends_is_good() {
    let (local, remote) = (LocalAuth::from(psk("swordfish")), RemoteAuth::Psk(psk("swordfish")));
    let authenticated = check(&local, &remote, "gw.example.org").unwrap();
    assert_eq!(authenticated, Authenticated { identity: id("gw.example.org"), by: Proof::Psk, key: None });
    let error = check(&LocalAuth::from(psk("marlin")), &remote, "gw.example.org").unwrap_err();
    assert_eq!(error, AuthError::WrongPsk { identity: id("gw.example.org") });
    assert_eq!(error.to_string(), "gw.example.org has another preshared key than the one configured for it");
}

#[test]
fn an_identity_that_is_not_expected_is_refused_before_anything_else() {
    let (local, remote) = (LocalAuth::from(psk("swordfish")), RemoteAuth::Psk(psk("swordfish")));
    let sent = Sent::by(&local, &remote, &id("evil.example.com"));
    let expected: Pattern = "*.example.org".parse().unwrap();
    let error = remote.verify(&expected, &sent.claim(), PRF, OCTETS, NOW).unwrap_err();
    assert_eq!(error.to_string(), "the peer says it is domain name evil.example.com, expected domain name *.example.org");
    assert_eq!(error.code(), "wrong_identity");

    let identification = Identification { id_type: IdType::IPV4_ADDR, data: vec![1, 2, 3] };
    let claim = Claim { identification: &identification, ..sent.claim() };
    let error = remote.verify(&Pattern::Any, &claim, PRF, OCTETS, NOW).unwrap_err();
    assert_eq!(error.to_string(), "the peer presented an identity of type IPV4_ADDR with 3 bytes; 4 are needed");
}

#[test]
fn identities_that_differ_in_their_type_alone_are_told_apart() {
    let (local, remote) = (LocalAuth::from(psk("swordfish")), RemoteAuth::Psk(psk("swordfish")));
    let told = |presented: &str, expected: &str| {
        let sent = Sent::by(&local, &remote, &id(presented));
        remote.verify(&expected.parse().unwrap(), &sent.claim(), PRF, OCTETS, NOW).unwrap_err().to_string()
    };
    for (presented, expected, words) in [
        ("192.0.2.2", "fqdn:192.0.2.2", "IPv4 address 192.0.2.2, expected domain name fqdn:192.0.2.2"),
        ("fqdn:192.0.2.2", "192.0.2.2", "domain name fqdn:192.0.2.2, expected IPv4 address 192.0.2.2"),
        ("fqdn:2001:db8::2", "2001:db8::2", "domain name fqdn:2001:db8::2, expected IPv6 address 2001:db8::2"),
        ("keyid:gw", "gw", "key id keyid:gw, expected domain name gw"),
        ("email:gw", "keyid:gw", "e-mail address email:gw, expected key id keyid:gw"),
        ("fqdn:ops@example.org", "*@example.org", "domain name fqdn:ops@example.org, expected e-mail address *@example.org"),
        ("email:gw.example.org", "*.example.org", "e-mail address email:gw.example.org, expected domain name *.example.org"),
        ("fqdn:CN=gw", "CN=gw", "domain name fqdn:CN=gw, expected distinguished name CN=gw"),
    ] {
        assert_eq!(told(presented, expected), format!("the peer says it is {words}"));
    }
    // A certificate for a domain name that looks like an address, which the peer says it has.
    let root = Issued::root("Root");
    let mut of_name = params("gw");
    of_name.subject_alt_names = vec![rcgen::SanType::DnsName("192.0.2.2".try_into().unwrap())];
    let error = check(&root.issue(of_name).local(&[]).into(), &ca(&root), "192.0.2.2").unwrap_err().to_string();
    assert!(error.contains("is not for 192.0.2.2 (IPv4 address); it is for fqdn:192.0.2.2;"), "{error}");
}

#[test]
fn another_kind_of_proof_than_the_configured_one_is_refused() {
    let key = fresh_key();
    let pinned = RemoteAuth::PinnedKeys(vec![key.public().clone()]);
    let error = check(&LocalAuth::from(psk("swordfish")), &pinned, "gw").unwrap_err();
    assert_eq!(error.to_string(), "the peer proves itself with method SHARED_KEY, expected a signature by a pinned key");
    let error = check(&LocalKey::raw(key).into(), &RemoteAuth::Psk(psk("swordfish")), "gw").unwrap_err();
    assert_eq!(error.code(), "wrong_method");
    assert!(!error.remedy().is_empty());
}

#[test]
fn a_pinned_key_is_good_and_another_one_is_named() {
    let (key, other) = (fresh_key(), fresh_key());
    let (public, other_public) = (key.public().clone(), other.public().clone());
    let pinned = RemoteAuth::PinnedKeys(vec![other_public.clone(), public.clone()]);
    let local = LocalAuth::from(LocalKey::raw(key));
    assert_eq!(check(&local, &pinned, "gw").unwrap().by, Proof::PinnedKey(public.clone()));

    let only_other = RemoteAuth::PinnedKeys(vec![other_public.clone()]);
    let error = check(&local, &only_other, "gw").unwrap_err();
    assert_eq!(error.to_string(), format!("the peer signed with {public}, pinned: {other_public}"));
    assert!(error.remedy().contains(&public.to_string()));

    let mut sent = Sent::by(&local, &only_other, &id("gw"));
    sent.presented = Presented::default();
    let error = only_other.verify(&Pattern::Any, &sent.claim(), PRF, OCTETS, NOW).unwrap_err();
    let expected = format!("the peer signed with a key that it did not send (Ed25519), pinned: {other_public}");
    assert_eq!(error.to_string(), expected);

    let sent = Sent::by(&local, &pinned, &id("gw"));
    let error = pinned.verify(&Pattern::Any, &sent.claim(), PRF, b"other octets", NOW).unwrap_err();
    assert_eq!(error, AuthError::BadSignature { key: Shown::of(&public) });
}

#[test]
fn a_self_signed_certificate_can_be_pinned() {
    let gateway = Issued::by_itself(params("gw"), &PKCS_ECDSA_P256_SHA256);
    let pinned = PublicKey::from_pem(gateway.pem().as_bytes()).unwrap();
    let (local, remote) = (gateway.local(&[]).into(), RemoteAuth::PinnedKeys(vec![pinned.clone()]));
    assert_eq!(check(&local, &remote, "any.name.at.all").unwrap().by, Proof::PinnedKey(pinned));
}

#[test]
fn a_raw_key_is_sent_when_asked_for_only() {
    let local = LocalAuth::from(LocalKey::raw(fresh_key()));
    assert!(local.certificates(&[]).is_empty());
    assert!(local.certificates(&[(CertEncoding::X509_SIGNATURE, vec![0; 20])]).is_empty());
    let sent = local.certificates(&[(CertEncoding::RAW_PUBLIC_KEY, Vec::new())]);
    assert_eq!(sent.len(), 1);
    assert!(LocalAuth::from(psk("swordfish")).certificates(&[(CertEncoding::RAW_PUBLIC_KEY, Vec::new())]).is_empty());
    assert!(RemoteAuth::Psk(psk("swordfish")).certificate_requests().is_empty());
}

#[test]
fn a_certificate_is_good_for_the_identities_in_it() {
    let root = Issued::root("Root");
    let names = ["gw.example.org", "ops@example.org", "192.0.2.1", "2001:db8::1"];
    for algorithm in [&PKCS_ED25519, &PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384] {
        let local = root.issue_for(named("gw", &names), algorithm).local(&[]).into();
        for name in ["GW.example.org", "ops@EXAMPLE.org", "192.0.2.1", "2001:db8::1", "C=CH, CN=gw"] {
            let authenticated = check(&local, &ca(&root), name).unwrap();
            let (subject, issuer) = (Shown::of("C=CH, CN=gw"), Shown::of("C=CH, CN=Root"));
            assert_eq!(authenticated.by, Proof::Certificate { subject, issuer, not_after: 1_830_297_600, until: 1_830_297_600 });
        }
        for name in ["example.org", "x.gw.example.org", "Ops@example.org", "192.0.2.2", "gw", "keyid:00", "CN=gw, C=CH"] {
            let error = check(&local, &ca(&root), name).unwrap_err();
            assert_eq!(error.code(), "certificate_wrong_name", "{name}");
        }
    }
}

#[test]
fn our_name_goes_as_our_certificate_spells_it() {
    let root = Issued::root("Root");
    let local = LocalAuth::from(root.issue(named("Gateway", &["GW.example.org"])).local(&[]));
    assert_eq!(local.identification(&id("gw.example.org")).data, b"GW.example.org");
    let subject = local.identification(&id("C=ch, CN=gateway"));
    assert_eq!(Identity::from_payload(&subject).unwrap().to_string(), "C=CH, CN=Gateway");
    // The certificate has the country as a UTF8String; we would make a PrintableString of it.
    let has = |data: &[u8], tag| data.windows(4).any(|bytes| bytes == [tag, 2, b'C', b'H']);
    assert!(has(&subject.data, 0x0c) && has(&id("C=CH, CN=Gateway").to_payload().data, 0x13));
    assert_eq!(local.identification(&id("other")), id("other").to_payload());
    assert_eq!(LocalAuth::from(psk("swordfish")).identification(&id("gw")), id("gw").to_payload());
}

#[test]
fn the_names_in_a_certificate_are_told_when_none_fits() {
    let root = Issued::root("Root");
    let local = root.issue(named("gw", &["gw.example.org", "192.0.2.1"])).local(&[]).into();
    let error = check(&local, &ca(&root), "moon.example.org").unwrap_err();
    assert_eq!(
        error.to_string(),
        "the certificate C=CH, CN=gw is not for moon.example.org (domain name); it is for gw.example.org; 192.0.2.1; C=CH, CN=gw"
    );
    assert_eq!(
        error.remedy(),
        "let the peer call itself by a name in its certificate, as gw.example.org, or issue one with the subjectAltName \
         moon.example.org"
    );
    // A common name is no domain name, a wildcard no identity (RFC 4945 §3.1).
    let local = root.issue(named("gw.example.org", &["*.example.org"])).local(&[]).into();
    assert_eq!(check(&local, &ca(&root), "gw.example.org").unwrap_err().code(), "certificate_wrong_name");
}

#[test]
fn the_chain_goes_along_and_its_faults_come_through() {
    let root = Issued::root("Root");
    let sub = root.issue(ca_params("Sub", None));
    let gateway = sub.issue(named("gw", &["gw"]));
    assert!(check(&gateway.local(&[&sub]).into(), &ca(&root), "gw").is_ok());
    assert_eq!(check(&gateway.local(&[]).into(), &ca(&root), "gw").unwrap_err().code(), "unknown_ca");
    let sent = Sent::by(&gateway.local(&[&sub]).into(), &ca(&root), &id("gw"));
    let later = ca(&root).verify(&Pattern::Any, &sent.claim(), PRF, OCTETS, NOW + 366 * 86_400).unwrap_err();
    assert_eq!(later.code(), "certificate_expired");
}

#[test]
fn a_certificate_of_somebody_else_does_not_help() {
    let root = Issued::root("Root");
    let (gateway, thief) = (root.issue(named("gw", &["gw"])), root.issue(named("thief", &["thief"])));
    let mut sent = Sent::by(&thief.local(&[]).into(), &ca(&root), &id("gw"));
    sent.presented = vec![(CertEncoding::X509_SIGNATURE, gateway.der.clone())].into();
    let error = ca(&root).verify(&Pattern::Any, &sent.claim(), PRF, OCTETS, NOW).unwrap_err();
    assert_eq!(error, AuthError::BadSignature { key: Shown::of(gateway.private().public()) });
    // Only the first certificate is the peer's own.
    let both = [&thief, &gateway].map(|one| (CertEncoding::X509_SIGNATURE, one.der.clone()));
    sent.presented = both.to_vec().into();
    let error = ca(&root).verify(&Pattern::Any, &sent.claim(), PRF, OCTETS, NOW).unwrap_err();
    assert_eq!(error.code(), "certificate_wrong_name");
}

#[test]
fn no_certificate_and_too_many_are_told() {
    let root = Issued::root("Root");
    let gateway = root.issue(named("gw", &["gw"]));
    let mut sent = Sent::by(&gateway.local(&[]).into(), &ca(&root), &id("gw"));
    let certificate = sent.presented.certificates[0].clone();
    sent.presented = vec![(CertEncoding::CRL, vec![1]), (CertEncoding::HASH_AND_URL, vec![2])].into();
    let verify = |sent: &Sent| ca(&root).verify(&Pattern::Any, &sent.claim(), PRF, OCTETS, NOW);
    assert_eq!(verify(&sent), Err(AuthError::NoCertificate));
    sent.presented = vec![certificate; 9].into();
    assert_eq!(verify(&sent), Err(AuthError::TooManyCertificates(9)));
    sent.presented = vec![(CertEncoding::X509_SIGNATURE, b"no DER".to_vec())].into();
    assert_eq!(verify(&sent).unwrap_err().code(), "certificate_malformed");
}

#[test]
fn a_peer_with_an_rsa_certificate_is_verified() {
    let root = Issued::root("Root");
    let key = rcgen::KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let der = named("gw", &["gw"]).signed_by(&key, &rcgen::Issuer::from_params(&root.params, &root.key)).unwrap();
    let signer = aws_lc_rs::rsa::KeyPair::from_pkcs8(key.serialized_der()).unwrap();
    let pss = crate::testing::unhex(
        "304106092a864886f70d01010a3034a00f300d06096086480165030402010500a11c301a06092a864886f70d010108300d06096086480165030402010500\
         a203020120",
    );
    let pkcs1 = crate::testing::unhex("300d06092a864886f70d01010b0500");
    for (identifier, encoding) in [(pss, &RSA_PSS_SHA256), (pkcs1, &RSA_PKCS1_SHA256)] {
        let mut signature = vec![0; signer.public_modulus_len()];
        #[expect(clippy::disallowed_methods, reason = "the library wants a generator for the salt")]
        let random = aws_lc_rs::rand::SystemRandom::new();
        signer.sign(encoding, &random, OCTETS, &mut signature).unwrap();
        let data = [&[identifier.len() as u8], identifier.as_slice(), &signature].concat();
        let sent = Sent {
            identification: id("gw").to_payload(),
            auth: AuthData { method: AuthMethod::DIGITAL_SIGNATURE, data },
            presented: vec![(CertEncoding::X509_SIGNATURE, der.der().to_vec())].into(),
        };
        assert!(ca(&root).verify(&Pattern::Any, &sent.claim(), PRF, OCTETS, NOW).is_ok());
        assert!(ca(&root).verify(&Pattern::Any, &sent.claim(), PRF, b"other", NOW).is_err());
    }
}

#[test]
fn a_key_and_a_certificate_that_do_not_belong_together_are_refused() {
    let root = Issued::root("Root");
    let (one, other) = (root.issue(named("one", &["one"])), root.issue(named("other", &["other"])));
    let error = LocalKey::certified(one.private(), other.pem().as_bytes()).unwrap_err();
    assert!(matches!(error, LocalKeyError::OtherKey { .. }), "{error}");
    let error = LocalKey::certified(one.private(), (root.pem() + &one.pem()).as_bytes()).unwrap_err();
    assert!(error.to_string().ends_with("the first certificate in the file must be the gateway's own"), "{error}");
    assert_eq!(LocalKey::certified(one.private(), b"").unwrap_err(), CertificateError::NoPem.into());
    let local = one.local(&[&root]);
    assert_eq!(local.certificate().map(|one| one.subject().as_str()), Some("C=CH, CN=one"));
    assert_eq!(format!("{:?}", LocalAuth::from(psk("swordfish"))), "Psk(Psk(…))");
}

#[test]
fn any_auth_data_is_refused_without_a_panic() {
    let root = Issued::root("Root");
    let sent = Sent::by(&root.issue(named("gw", &["gw"])).local(&[]).into(), &ca(&root), &id("gw"));
    for len in 0..sent.auth.data.len() {
        let claim = Claim { data: &sent.auth.data[..len], ..sent.claim() };
        assert!(ca(&root).verify(&Pattern::Any, &claim, PRF, OCTETS, NOW).is_err());
    }
    for method in (0..=255).map(AuthMethod).filter(|method| *method != AuthMethod::DIGITAL_SIGNATURE) {
        let claim = Claim { method, ..sent.claim() };
        assert!(ca(&root).verify(&Pattern::Any, &claim, PRF, OCTETS, NOW).is_err());
    }
}

/// One claim that eight peers may have made, with a forged chain and no key: what a stranger can send (the names are right).
#[test]
#[expect(clippy::disallowed_methods, reason = "how long the machine takes")]
fn a_forged_chain_costs_eight_candidates_less_than_a_millisecond() {
    let p384 = |common_name: &str| Issued::by_itself(ca_params(common_name, None), &PKCS_ECDSA_P384_SHA384);
    let peers: Vec<RemoteAuth> = (0..8).map(|_| ca(&p384("Root"))).collect();
    let forged: Vec<Issued> = (0..7).map(|_| p384("Root")).collect();
    let own = forged[0].issue_for(named("gw", &["gw"]), &PKCS_ECDSA_P384_SHA384);
    let mut times: Vec<_> = (0..20)
        .map(|_| {
            let mut sent = Sent::by(&own.local(&forged.iter().collect::<Vec<_>>()).into(), &peers[0], &id("gw"));
            *sent.auth.data.last_mut().unwrap() ^= 1;
            let begun = std::time::Instant::now();
            for peer in &peers {
                let error = peer.verify(&Pattern::Any, &sent.claim(), PRF, OCTETS, NOW).unwrap_err();
                assert_eq!(error.code(), "bad_signature");
            }
            assert_eq!(sent.presented.signed.borrow().len(), 1, "verified once for all");
            begun.elapsed()
        })
        .collect();
    times.sort();
    assert!(times[0] < std::time::Duration::from_millis(1), "{times:?}");
}

/// The same with a key of his own, whose signature is right: the chain is followed, to a CA of the right name.
#[test]
#[expect(clippy::disallowed_methods, reason = "how long the machine takes")]
fn a_forged_chain_under_a_right_signature_costs_no_more() {
    let p256 = &PKCS_ECDSA_P256_SHA256;
    for (of_root, of_own) in [(&PKCS_RSA_SHA256, p256), (p256, p256), (&PKCS_ECDSA_P384_SHA384, &PKCS_ECDSA_P384_SHA384)] {
        let [root, impostor] = [(); 2].map(|()| Issued::by_itself(ca_params("Root", None), of_root));
        let peers: Vec<RemoteAuth> = (0..8).map(|_| ca(&root)).collect();
        let mut chain = vec![impostor.issue_for(ca_params("CA 0", None), of_own)];
        (1..6).for_each(|at| chain.push(chain[at - 1].issue_for(ca_params(&format!("CA {at}"), None), of_own)));
        let own = chain[5].issue_for(named("gw", &["gw"]), of_own);
        let local = own.local(&chain.iter().collect::<Vec<_>>()).into();
        let mut times: Vec<_> = (0..20)
            .map(|_| {
                let sent = Sent::by(&local, &peers[0], &id("gw"));
                let begun = std::time::Instant::now();
                for peer in &peers {
                    let error = peer.verify(&Pattern::Any, &sent.claim(), PRF, OCTETS, NOW).unwrap_err();
                    assert_eq!(error.code(), "certificate_bad_signature");
                }
                assert_eq!((sent.presented.signed.borrow().len(), sent.presented.chains.borrow().len()), (1, 1));
                begun.elapsed()
            })
            .collect();
        times.sort();
        assert!(times[0] < std::time::Duration::from_millis(1), "{of_root:?}, {of_own:?}: {times:?}");
    }
}

/// Who makes a key and certificates of his own signs rightly with it, so the chain is looked at: once for all peers of the same CAs,
/// though these were read for each peer.
#[test]
fn a_chain_is_looked_at_once_for_all_candidates() {
    let (root, impostor) = (Issued::root("Root"), Issued::root("Root"));
    let peers: Vec<RemoteAuth> = (0..8).map(|_| ca(&root)).collect();
    let own = impostor.issue(named("gw", &["gw"]));
    let sent = Sent::by(&own.local(&[&impostor]).into(), &peers[0], &id("gw"));
    for peer in &peers {
        let error = peer.verify(&Pattern::Any, &sent.claim(), PRF, OCTETS, NOW).unwrap_err();
        assert_eq!(error.code(), "certificate_bad_signature");
    }
    let other = ca(&Issued::root("Other")).verify(&Pattern::Any, &sent.claim(), PRF, OCTETS, NOW).unwrap_err();
    assert_eq!(other.code(), "unknown_ca");
    assert_eq!((sent.presented.signed.borrow().len(), sent.presented.chains.borrow().len()), (1, 2));
}

/// Peers of which each trusts CAs of its own, all of one name.
#[test]
fn a_chain_is_followed_to_few_cas_of_one_name() {
    let (roots, impostor): (Vec<Issued>, Issued) = ((0..8).map(|_| Issued::root("Root")).collect(), Issued::root("Root"));
    for (own, good) in [(&impostor, None), (&roots[0], Some(0)), (&roots[1], Some(1)), (&roots[2], None)] {
        let others = ["Other", "Another", "A third"].map(|name| ca(&Issued::root(name)));
        let sent = Sent::by(&own.issue(named("gw", &["gw"])).local(&[own]).into(), &ca(own), &id("gw"));
        let outcomes: Vec<Result<(), &str>> = others
            .iter()
            .chain(&roots.iter().map(ca).collect::<Vec<_>>())
            .map(|peer| peer.verify(&Pattern::Any, &sent.claim(), PRF, OCTETS, NOW).map(drop).map_err(|error| error.code()))
            .collect();
        let expected = |index: usize| match index {
            0..3 => Err("unknown_ca"),
            _ if Some(index - 3) == good => Ok(()),
            3..5 => Err("certificate_bad_signature"),
            _ => Err("too_many_cas"),
        };
        assert_eq!(outcomes, (0..11).map(expected).collect::<Vec<_>>());
    }
}

/// P-384 costs the most of all kinds. What a stranger sends is looked at once for each key that may have signed, and with few of them: with
/// one alone where a certificate says which.
#[test]
fn a_signature_is_verified_once_for_each_pinned_key() {
    let raw = |_| {
        LocalKey::raw(PrivateKey::from_pkcs8(KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap().serialized_der()).unwrap())
    };
    let keys: Vec<LocalKey> = (0..8).map(raw).collect();
    let public = |index: usize| keys[index].public().clone();
    let same: Vec<RemoteAuth> = (0..8).map(|_| RemoteAuth::PinnedKeys(vec![public(0)])).collect();
    let each: Vec<RemoteAuth> = (0..8).map(|index| RemoteAuth::PinnedKeys(vec![public(index)])).collect();
    let several: Vec<RemoteAuth> = (0..8).map(|index| RemoteAuth::PinnedKeys(vec![public(index / 4), public(7)])).collect();
    let own = LocalAuth::from(keys.into_iter().next().unwrap());
    // Of these peers, with its key or without, so many verifications.
    for (peers, presents, verifications) in
        [(&same, true, 1), (&same, false, 1), (&each, true, 1), (&each, false, 3), (&several, true, 1), (&several, false, 3)]
    {
        for forged in [true, false] {
            let mut sent = Sent::by(&own, &peers[0], &id("gw"));
            if forged {
                *sent.auth.data.last_mut().unwrap() ^= 1;
            }
            if !presents {
                sent.presented = Presented::default();
            }
            let good = |peer: &&RemoteAuth| peer.verify(&Pattern::Any, &sent.claim(), PRF, OCTETS, NOW).is_ok();
            let is_its = |peer: &&RemoteAuth| matches!(peer, RemoteAuth::PinnedKeys(keys) if keys.contains(own_key(&own)));
            let expected = if forged { 0 } else { peers.iter().filter(is_its).count() };
            assert_eq!(peers.iter().filter(good).count(), expected);
            let count = sent.presented.signed.borrow().len();
            // One that is good for the first of several keys is not tried with the others.
            assert!(count <= verifications && (count == verifications || !forged), "{count}, not {verifications}; {presents}");
            let last = peers[7].verify(&Pattern::Any, &sent.claim(), PRF, OCTETS, NOW).map_err(|error| error.code());
            let is_too_much = !presents && std::ptr::eq(peers, &each);
            assert_eq!(last.is_err_and(|code| code == "key_not_sent"), is_too_much);
        }
    }
}

#[test]
fn a_peer_that_presents_another_key_than_it_signs_with_is_refused() {
    let (key, other) = (fresh_key(), fresh_key());
    let pinned = RemoteAuth::PinnedKeys(vec![key.public().clone(), other.public().clone()]);
    let mut sent = Sent::by(&LocalKey::raw(key).into(), &pinned, &id("gw"));
    for presented in [&other, &fresh_key()] {
        sent.presented = vec![(CertEncoding::RAW_PUBLIC_KEY, presented.public().spki().to_vec())].into();
        assert!(pinned.verify(&Pattern::Any, &sent.claim(), PRF, OCTETS, NOW).is_err());
    }
    // What nobody can read says nothing.
    sent.presented = vec![(CertEncoding::RAW_PUBLIC_KEY, vec![0; 40])].into();
    assert!(pinned.verify(&Pattern::Any, &sent.claim(), PRF, OCTETS, NOW).is_ok());
}

fn own_key(local: &LocalAuth) -> &PublicKey {
    match local {
        LocalAuth::Key(key) => key.public(),
        LocalAuth::Psk(_) => panic!("a preshared key"),
    }
}
