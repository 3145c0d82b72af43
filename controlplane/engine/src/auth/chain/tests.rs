//! Chains as they should be, and every way in which they should not.

use std::cell::Cell;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use proptest::prelude::*;
use rcgen::{
    CustomExtension, ExtendedKeyUsagePurpose, GeneralSubtree, KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData, SanType, date_time_ymd,
};

use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature};

use super::*;
use crate::auth::testing::{Issued, NOW, ca_params, named, params, with};
use crate::shown::shows;

fn verify_der(anchors: &TrustAnchors, chain: &[&[u8]], now: u64) -> Result<Verified, CertificateError> {
    anchors.verify(&Certificate::from_der(chain[0])?, &read(&chain[1..]), now)
}

/// Those that can be read.
fn read(chain: &[&[u8]]) -> Vec<Certificate> {
    chain.iter().filter_map(|der| Certificate::from_der(der).ok()).collect()
}

fn verify(anchors: &TrustAnchors, chain: &[&Issued]) -> Result<Shown, CertificateError> {
    let chain: Vec<&[u8]> = chain.iter().map(|issued| issued.der.as_slice()).collect();
    verify_der(anchors, &chain, NOW).map(|verified| verified.issuer)
}

fn error(anchors: &TrustAnchors, chain: &[&Issued]) -> CertificateError {
    verify(anchors, chain).expect_err("a chain that must not be accepted")
}

fn subject(common_name: &str) -> Shown {
    Shown::of(format_args!("C=CH, CN={common_name}"))
}

#[test]
fn chains_with_and_without_intermediate_cas_are_good() {
    for algorithm in [&PKCS_ED25519, &PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384] {
        let root = Issued::by_itself(ca_params("Root", None), algorithm);
        let sub = root.issue_for(ca_params("Sub", Some(0)), algorithm);
        let (direct, below) = (root.issue(params("gw")), sub.issue(params("gw")));
        assert_eq!(verify(&root.anchors(), &[&direct]), Ok(subject("Root")));
        assert_eq!(verify(&root.anchors(), &[&below, &sub]), Ok(subject("Root")));
        // A CA that is no root may be trusted.
        assert_eq!(verify(&sub.anchors(), &[&below]), Ok(subject("Sub")));
    }
}

/// All orders of some, by Heap's way of exchanging two at a time.
fn orders(count: usize) -> Vec<Vec<usize>> {
    let mut all = vec![(0..count).collect::<Vec<_>>()];
    let (mut turns, mut at) = (vec![0; count], 0);
    while at < count {
        if turns[at] < at {
            let mut next = all[all.len() - 1].clone();
            next.swap(if at % 2 == 0 { 0 } else { turns[at] }, at);
            all.push(next);
            (turns[at], at) = (turns[at] + 1, 0);
        } else {
            (turns[at], at) = (0, at + 1);
        }
    }
    all
}

/// RFC 7296 §3.6: the first is that of the key that signed, the others may come in any order. Surplus is passed over.
#[test]
fn behind_the_peers_own_certificates_come_in_any_order_at_one_cost() {
    let root = Issued::root("Root");
    let one = root.issue(ca_params("One", None));
    let two = one.issue(ca_params("Two", None));
    let (own, aside) = (two.issue(params("gw")), root.issue(params("aside")));
    let above = [&two, &one, &root, &aside];
    let orders = orders(above.len());
    assert_eq!(orders.iter().collect::<std::collections::BTreeSet<_>>().len(), 24);
    for order in orders {
        let sent: Vec<&[u8]> = order.iter().map(|at| above[*at].der.as_slice()).collect();
        let (count, verified) = counted(&root.anchors(), &own, &read(&sent));
        assert_eq!((count, verified.map(|verified| verified.issuer)), (3, Ok(subject("Root"))), "{order:?}");
        // Where another one comes first, that one is meant.
        for first in above {
            let chain: Vec<&Issued> = [first, &own].into_iter().chain(order.iter().map(|at| above[*at])).collect();
            assert_eq!(verify(&root.anchors(), &chain).is_ok(), std::ptr::eq(first, &aside), "{order:?}");
        }
    }
}

#[test]
fn several_trusted_cas_are_tried() {
    let (one, other) = (Issued::root("One"), Issued::root("Other"));
    let (old, new) = (Issued::root("Same name"), Issued::root("Same name"));
    let pem = [&one, &old, &new, &other].map(Issued::pem).concat();
    let anchors = TrustAnchors::from_pem(pem.as_bytes()).unwrap();
    for ca in [&one, &old, &new, &other] {
        assert!(verify(&anchors, &[&ca.issue(params("gw"))]).is_ok());
    }
    assert_eq!(anchors.certificates().len(), 4);
}

#[test]
fn usages_that_are_made_for_ike_or_for_tls_are_good() {
    let root = Issued::root("Root");
    let ike = |last: &[u64]| ExtendedKeyUsagePurpose::Other([&[1, 3, 6, 1, 5, 5], last].concat());
    let (server, client) = (ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth);
    for usage in [ike(&[7, 3, 17]), ike(&[8, 2, 2]), ike(&[7, 3, 5]), server, client, ExtendedKeyUsagePurpose::Any] {
        let extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning, usage];
        let gateway = root.issue(with(params("gw"), |params| params.extended_key_usages = extended_key_usages));
        assert!(verify(&root.anchors(), &[&gateway]).is_ok());
    }
    for usage in [KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::ContentCommitment] {
        let key_usages = vec![usage, KeyUsagePurpose::KeyEncipherment];
        assert!(verify(&root.anchors(), &[&root.issue(with(params("gw"), |params| params.key_usages = key_usages))]).is_ok());
    }
}

/// RFC 5280 §4.2: what is critical and not known makes a certificate useless.
#[test]
fn an_unknown_extension_is_refused_where_it_is_critical() {
    let root = Issued::root("Root");
    let verified = |critical: bool, at_ca: bool| {
        let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![0x0c, 1, b'x']);
        extension.set_criticality(critical);
        let add = |wanted: bool, params: rcgen::CertificateParams| {
            with(params, |params| params.custom_extensions.extend(wanted.then(|| extension.clone())))
        };
        let sub = root.issue(add(at_ca, ca_params("Sub", Some(0))));
        let gateway = sub.issue(add(!at_ca, params("gw")));
        verify(&root.anchors(), &[&gateway, &sub])
    };
    for at_ca in [false, true] {
        assert_eq!(verified(false, at_ca), Ok(subject("Root")));
        assert!(verified(true, at_ca).is_err(), "at the CA: {at_ca}");
    }
}

#[test]
fn usages_that_are_made_for_something_else_are_refused() {
    let root = Issued::root("Root");
    let extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning, ExtendedKeyUsagePurpose::TimeStamping];
    let gateway = root.issue(with(params("gw"), |params| params.extended_key_usages = extended_key_usages));
    let usages = Shown::list(["1.3.6.1.5.5.7.3.3", "1.3.6.1.5.5.7.3.8"]);
    assert_eq!(error(&root.anchors(), &[&gateway]), CertificateError::ExtendedKeyUsage { subject: subject("gw"), usages });

    let key_usages = vec![KeyUsagePurpose::KeyEncipherment];
    let gateway = root.issue(with(params("gw"), |params| params.key_usages = key_usages));
    assert_eq!(error(&root.anchors(), &[&gateway]), CertificateError::KeyUsage { subject: subject("gw") });
}

#[test]
fn dates_are_checked_on_the_whole_way_up() {
    let expired = |params| {
        with(params, |params| {
            params.not_before = date_time_ymd(2026, 1, 1);
            params.not_after = date_time_ymd(2027, 1, 1);
        })
    };
    let not_after = 1_798_761_600;
    let is_expired = |common_name| CertificateError::Expired { subject: subject(common_name), not_after, now: NOW };

    let root = Issued::root("Root");
    assert_eq!(error(&root.anchors(), &[&root.issue(expired(params("gw")))]), is_expired("gw"));
    let sub = root.issue(expired(ca_params("Sub", None)));
    assert_eq!(error(&root.anchors(), &[&sub.issue(params("gw")), &sub]), is_expired("Sub"));
    let old_root = Issued::by_itself(expired(ca_params("Old root", None)), &PKCS_ED25519);
    assert_eq!(error(&old_root.anchors(), &[&old_root.issue(params("gw"))]), is_expired("Old root"));

    let early = with(params("gw"), |params| params.not_before = date_time_ymd(2027, 12, 1));
    let expected = CertificateError::NotYetValid { subject: subject("gw"), not_before: 1_827_619_200, now: NOW };
    assert_eq!(error(&root.anchors(), &[&root.issue(early)]), expected);
    assert_eq!(
        expected.to_string(),
        "the certificate C=CH, CN=gw is not valid yet: it will be from 2027-12-01T00:00:00Z, now is 2027-06-01T00:00:00Z"
    );
}

#[test]
fn the_last_second_of_validity_counts() {
    let root = Issued::root("Root");
    let gateway = root.issue(params("gw"));
    let at = |now| verify_der(&root.anchors(), &[&gateway.der], now);
    assert!(at(1_798_761_600).is_ok() && at(1_830_297_600).is_ok());
    assert!(matches!(at(1_798_761_599), Err(CertificateError::NotYetValid { .. })));
    assert!(matches!(at(1_830_297_601), Err(CertificateError::Expired { .. })));
}

#[test]
fn what_no_trusted_ca_stands_for_is_refused() {
    let (root, other) = (Issued::root("Root"), Issued::root("Other"));
    let unknown = |subject_name: &str, issuer: &str| CertificateError::UnknownIssuer {
        subject: subject(subject_name),
        issuer: subject(issuer),
        trusted: vec![subject("Root")],
    };
    let foreign = other.issue(params("gw"));
    assert_eq!(error(&root.anchors(), &[&foreign]), unknown("gw", "Other"));
    assert_eq!(error(&root.anchors(), &[&foreign, &other]), unknown("Other", "Other"), "sent, but not trusted");
    let sub = root.issue(ca_params("Sub", None));
    let below = sub.issue(params("gw"));
    assert_eq!(error(&root.anchors(), &[&below]), unknown("gw", "Sub"), "the CA between is missing");
    let itself = Issued::by_itself(params("gw"), &PKCS_ED25519);
    assert_eq!(error(&root.anchors(), &[&itself]), unknown("gw", "gw"));
}

#[test]
fn another_ca_of_the_same_name_is_told_from_an_unknown_one() {
    let (root, impostor) = (Issued::root("Root"), Issued::root("Root"));
    let gateway = impostor.issue(params("gw"));
    let expected = CertificateError::BadSignature { subject: subject("gw"), issuer: subject("Root") };
    assert_eq!(error(&root.anchors(), &[&gateway]), expected);
    assert_eq!(error(&root.anchors(), &[&gateway, &impostor]), expected);

    let mut forged = root.issue(params("gw"));
    let last = forged.der.len() - 1;
    forged.der[last] ^= 1;
    assert_eq!(error(&root.anchors(), &[&forged]), expected);
}

#[test]
fn who_may_not_certify_does_not() {
    let root = Issued::root("Root");
    let gateway = root.issue(params("gw"));
    let below = gateway.issue(params("victim"));
    assert_eq!(error(&root.anchors(), &[&below, &gateway]), CertificateError::NotCa { subject: subject("gw") });

    let key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let half = root.issue(with(ca_params("Half a CA", None), |params| params.key_usages = key_usages));
    let below = half.issue(params("victim"));
    assert_eq!(error(&root.anchors(), &[&below, &half]), CertificateError::NotCa { subject: subject("Half a CA") });

    let ca = root.issue(ca_params("Sub", None));
    assert_eq!(error(&root.anchors(), &[&ca]), CertificateError::CaAsGateway { subject: subject("Sub") });
    assert_eq!(error(&root.anchors(), &[&root]), CertificateError::CaAsGateway { subject: subject("Root") });
}

#[test]
fn path_lengths_bind_intermediate_cas_and_the_trusted_one() {
    let root = Issued::root("Root");
    let one = root.issue(ca_params("One", Some(0)));
    let two = one.issue(ca_params("Two", None));
    let gateway = two.issue(params("gw"));
    let too_long = CertificateError::PathTooLong { subject: subject("gw") };
    assert_eq!(error(&root.anchors(), &[&gateway, &two, &one]), too_long);

    let root = Issued::by_itself(ca_params("Root", Some(0)), &PKCS_ED25519);
    let sub = root.issue(ca_params("Sub", None));
    assert_eq!(error(&root.anchors(), &[&sub.issue(params("gw")), &sub]), too_long);
    assert!(verify(&root.anchors(), &[&root.issue(params("gw"))]).is_ok());
}

#[test]
fn name_constraints_bind() {
    let permitted_subtrees = vec![GeneralSubtree::DnsName("example.org".to_owned())];
    let constraints = NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() };
    let bound = with(ca_params("Root", None), |params| params.name_constraints = Some(constraints));
    let root = Issued::by_itself(bound, &PKCS_ED25519);
    assert!(verify(&root.anchors(), &[&root.issue(named("gw", &["gw.example.org"]))]).is_ok());
    let outside = root.issue(named("gw", &["gw.example.com"]));
    assert_eq!(error(&root.anchors(), &[&outside]), CertificateError::NameConstraint { subject: subject("gw") });
}

#[test]
fn only_cas_can_be_trusted_as_cas() {
    let refused = |pem: String| TrustAnchors::from_pem(pem.as_bytes()).unwrap_err();
    let gateway = Issued::by_itself(params("gw"), &PKCS_ED25519);
    assert_eq!(refused(gateway.pem()), CertificateError::NotCa { subject: subject("gw") });
    assert_eq!(refused(String::new()), CertificateError::NoPem);
    assert_eq!(refused(gateway.key.public_key_pem()), CertificateError::NoPem);
    assert!(matches!(refused(crate::testing::pem("CERTIFICATE", b"0")), CertificateError::Malformed(_)));
    assert!(matches!(refused("-----BEGIN CERTIFICATE-----\n!".to_owned()), CertificateError::Malformed(_)));
}

#[test]
fn a_certificate_request_has_the_sha1_of_each_ca_key() {
    let (one, other) = (Issued::root("One"), Issued::root("Other"));
    // With the ends of lines of another system.
    let file = (one.pem() + &other.pem()).replace('\r', "").replace('\n', "\r\n");
    let anchors = TrustAnchors::from_pem(file.as_bytes()).unwrap();
    let hash = |ca: &Issued| digest(&SHA1_FOR_LEGACY_USE_ONLY, &ca.key.subject_public_key_info()).as_ref().to_vec();
    assert_eq!(anchors.key_hashes(), [hash(&one), hash(&other)].concat());
}

#[test]
fn every_failure_has_a_code_and_a_remedy() {
    let root = Issued::root("Root");
    let foreign = error(&root.anchors(), &[&Issued::root("Other").issue(params("gw"))]);
    assert_eq!(foreign.code(), "unknown_ca");
    assert_eq!(
        foreign.to_string(),
        "no trusted CA stands for the certificate C=CH, CN=gw, issued by C=CH, CN=Other; trusted: C=CH, CN=Root"
    );
    assert_eq!(
        foreign.remedy(),
        "add the CA C=CH, CN=Other here, or let the peer send the intermediate CAs between it and a trusted one"
    );
}

proptest! {
    /// A peer may send anything as a certificate: it is refused, or it is what it was.
    #[test]
    fn changed_certificates_are_refused(at: usize, value: u8, cut in 0usize..40) {
        let (root, gateway) = FIXED.with(|(root, gateway)| (root.anchors(), gateway.der.clone()));
        let mut changed = gateway.clone();
        let len = changed.len();
        changed[at % len] = value;
        changed.truncate(len - cut / 8);
        if changed != gateway {
            prop_assert!(verify_der(&root, &[&changed], NOW).is_err());
        }
        prop_assert!(verify_der(&root, &[&gateway, &changed], NOW).is_ok());
    }

    #[test]
    fn random_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Certificate::from_der(&bytes).is_err());
    }
}

thread_local! {
    static FIXED: (Issued, Issued) = {
        let root = Issued::root("Root");
        let gateway = root.issue(named("gw", &["gw.example.org", "192.0.2.1", "ops@example.org"]));
        (root, gateway)
    };
}

#[test]
fn the_first_certificate_to_end_ends_the_chain() {
    let until = |year| with(ca_params("Root", None), |params| params.not_after = date_time_ymd(year, 1, 1));
    for (root_year, sub_year, own_year, first) in [(2029, 2030, 2031, 0), (2031, 2029, 2030, 1), (2031, 2030, 2029, 2)] {
        let root = Issued::by_itself(until(root_year), &PKCS_ECDSA_P256_SHA256);
        let sub =
            root.issue(with(until(sub_year), |params| params.distinguished_name = ca_params("Sub", None).distinguished_name));
        let own = sub.issue(with(params("gw"), |params| params.not_after = date_time_ymd(own_year, 1, 1)));
        let ends = [&root, &sub, &own].map(|one| Certificate::from_der(&one.der).unwrap().not_after());
        let verified = verify_der(&root.anchors(), &[&own.der, &sub.der], NOW).unwrap();
        assert_eq!(verified.until, ends[first]);
        // One that is not on the way does not count.
        let aside = root.issue(with(params("aside"), |params| params.not_after = date_time_ymd(2028, 1, 1)));
        let verified = verify_der(&root.anchors(), &[&own.der, &aside.der, &sub.der], NOW).unwrap();
        assert_eq!(verified.until, ends[first]);
    }
}

/// Anybody can make certificates of one name, each of which could have issued each other one.
#[test]
fn forged_certificates_of_one_name_are_one_way_up() {
    let root = Issued::root("Root");
    for name in ["Root", "Forged"] {
        let forged: Vec<Issued> = (0..7).map(|_| Issued::root(name)).collect();
        let own = forged[6].issue(params("gw"));
        let above: Vec<Certificate> = forged.iter().map(|one| Certificate::from_der(&one.der).unwrap()).collect();
        let own = Certificate::from_der(&own.der).unwrap();
        assert_eq!(path_above(&own, above).len(), 1);
        let above: Vec<&[u8]> = forged.iter().map(|one| one.der.as_slice()).collect();
        assert!(root.anchors().verify(&own, &read(&above), NOW).is_err());
    }
    // In a circle of two names.
    let (one, other) = (Issued::root("One"), Issued::root("Other"));
    let (crossed, back) = (one.issue(ca_params("Other", None)), other.issue(ca_params("One", None)));
    let own = crossed.issue(params("gw"));
    let path = path_above(
        &Certificate::from_der(&own.der).unwrap(),
        [crossed, back, one, other].iter().map(|one| Certificate::from_der(&one.der).unwrap()).collect(),
    );
    assert_eq!(path.len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What a stranger writes into a certificate reaches the log and `adit explain` before anything about it is verified.
    #[test]
    fn text_of_a_certificate_is_shown_on_one_line(
        name in "\\PC{0,3}[\\x00-\\x1f\\x7f-\\x9f\u{ad}\u{200b}\u{202e}\u{2028}\u{3164}\u{e0041}]\\PC{0,600}",
        alternative in proptest::collection::vec("[\\x00-\\x7f]{1,30}", 0..20),
    ) {
        let sans = alternative.iter().enumerate().map(|(at, text)| {
            let text = text.as_str().try_into().unwrap();
            if at % 2 == 0 { SanType::DnsName(text) } else { SanType::Rfc822Name(text) }
        });
        let own = with(params(&name), |params| params.subject_alt_names = sans.collect());
        let issuer = Issued::by_itself(ca_params(&name, None), &PKCS_ED25519);
        let own = Certificate::from_der(&issuer.issue_for(own, &PKCS_ED25519).der).unwrap();
        let trusted = FIXED.with(|(root, _)| root.anchors());
        let unknown = trusted.verify(&own, &read(&[&issuer.der]), NOW).unwrap_err();
        let identity = "gw.example.org".parse().unwrap();
        let other = CertificateError::NotForIdentity { subject: own.subject().clone(), identity, names: own.all_names() };
        let names: String = own.identities().iter().map(ToString::to_string).collect();
        for text in [unknown.to_string(), unknown.remedy(), other.to_string(), other.remedy(), names] {
            prop_assert!(text.chars().all(|character| shows(character) || character == ' '), "{text:?}");
        }
        prop_assert!(other.to_string().chars().count() < 20 * 400);
    }
}

/// One that counts how often it is asked.
#[derive(Debug)]
struct Counting(&'static dyn SignatureVerificationAlgorithm);

impl SignatureVerificationAlgorithm for Counting {
    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        VERIFIED.set(VERIFIED.get() + 1);
        self.0.verify_signature(key, message, signature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.0.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.0.signature_alg_id()
    }
}

thread_local! {
    /// Signatures on certificates that this test has had verified.
    static VERIFIED: Cell<usize> = const { Cell::new(0) };
}

/// How many signatures it costs to verify a chain, and what comes of it.
fn counted(anchors: &TrustAnchors, own: &Issued, above: &[Certificate]) -> (usize, Result<Verified, CertificateError>) {
    let counting: Vec<Counting> = ALGORITHMS.iter().map(|one| Counting(*one)).collect();
    let algorithms: Vec<&dyn SignatureVerificationAlgorithm> = counting.iter().map(|one| one as _).collect();
    VERIFIED.set(0);
    let verified = anchors.verify_by(&algorithms, &Certificate::from_der(&own.der).unwrap(), above, NOW);
    (VERIFIED.get(), verified)
}

#[test]
fn a_forged_chain_costs_two_signatures_at_most_in_any_order() {
    let root = Issued::root("Root");
    let cost = |own: &Issued, above: &[&Issued]| {
        let above: Vec<&[u8]> = above.iter().map(|one| one.der.as_slice()).collect();
        let (count, verified) = counted(&root.anchors(), own, &read(&above));
        (count, verified.is_ok())
    };
    // Six CAs below a root of the trusted one's name, each rightly issued by the one before; and seven that bear one name.
    let forged = Issued::root("Root");
    let mut chain = vec![forged.issue(ca_params("CA 0", None))];
    (1..6).for_each(|at| chain.push(chain[at - 1].issue(ca_params(&format!("CA {at}"), None))));
    let own = chain[5].issue(params("gw"));
    for order in orders(6) {
        let all: Vec<&Issued> = order.iter().map(|at| &chain[*at]).collect();
        assert_eq!(cost(&own, &all), (1, false), "{order:?}");
    }
    for name in ["Root", "x"] {
        let crowd: Vec<Issued> = (0..7).map(|_| Issued::root(name)).collect();
        let all: Vec<&Issued> = crowd.iter().collect();
        let (count, good) = cost(&crowd[0].issue(params("gw")), &all);
        // A certificate of the trusted CA's name may be for its next key, signed with the one before.
        assert!(count <= 2 && !good, "{name}: {count}");
    }
    assert_eq!(cost(&root.issue(params("gw")), &[]), (1, true));
}
