//! Identities, distinguished names and certificates that peers present.

use adit_engine::auth::{Certificate, Claim, RemoteAuth, TrustAnchors};
use adit_engine::crypto::{Prf, PrivateKey, PublicKey};
use adit_engine::identity::{DistinguishedName, Identity, Pattern};
use adit_proto::ike::{AuthMethod, CertEncoding, IdType, Identification};

use super::Input;

/// Within the validity of the certificates in the corpus.
const NOW: u64 = 1_800_000_000;
/// The CA of the certificates in the corpus.
const CA: &[u8] = include_bytes!("ca.pem");

/// An identity is what it was after it was sent, it is its own equal, and it can stand in a line of a log. The first byte is the type
/// of an ID payload; the bytes after it are also read as what a person wrote.
pub fn identity(data: &[u8]) {
    let [id_type, rest @ ..] = data else { return };
    if let Ok(identity) = Identity::from_payload(&Identification { id_type: IdType(*id_type), data: rest.to_vec() }) {
        check_identity(&identity);
    }
    let Ok(text) = std::str::from_utf8(rest) else { return };
    if let Ok(identity) = text.parse::<Identity>() {
        check_identity(&identity);
        let again: Identity = identity.to_string().parse().expect("what is shown can be read");
        assert_eq!(again, identity);
    }
    if let Ok(pattern) = text.parse::<Pattern>() {
        let again: Pattern = pattern.to_string().parse().expect("what is shown can be read");
        assert_eq!(again, pattern);
        if let Some(one) = pattern.exact() {
            assert!(pattern.matches(one));
        }
    }
    let _ = DistinguishedName::from_der(rest);
}

fn check_identity(identity: &Identity) {
    assert_eq!(*identity, identity.clone());
    let sent = identity.to_payload();
    assert_eq!(Identity::from_payload(&sent).as_ref(), Ok(identity));
    let shown = identity.to_string();
    assert!(!shown.chars().any(|character| character.is_control()), "{shown:?}");
    assert!(Pattern::from(identity.clone()).matches(identity));
}

/// A chain of certificates, each with its length, the method of AUTH and its data: believed never, for nobody here has signed it.
/// The parts are also read as keys and as PEM.
pub fn certificate(data: &[u8]) {
    let mut input = Input::new(data);
    let (method, signature) = (AuthMethod(input.u8()), input.part().to_vec());
    let mut certificates = Vec::new();
    while !input.is_empty() {
        certificates.push((CertEncoding::X509_SIGNATURE, input.part().to_vec()));
    }
    let anchors = TrustAnchors::from_pem(CA).expect("a CA");
    let ders: Vec<&[u8]> = certificates.iter().map(|(_, der)| der.as_slice()).collect();
    let above: Vec<Certificate> = ders.iter().skip(1).filter_map(|der| Certificate::from_der(der).ok()).collect();
    let read = ders.first().map(|own| Certificate::from_der(own)).transpose();
    let verified = read.and_then(|own| own.map(|own| anchors.verify(&own, &above, NOW)).transpose());
    if let Err(error) = verified {
        assert!(!error.to_string().is_empty() && !error.remedy().is_empty() && !error.code().is_empty());
    }
    for der in &ders {
        if let Ok(certificate) = Certificate::from_der(der) {
            assert!(certificate.identities().iter().all(|identity| certificate.names(identity)));
            let shown = format!("{} {}", certificate.subject(), certificate.issuer());
            assert!(!shown.chars().any(char::is_control), "{shown:?}");
        }
        let _ = (PublicKey::from_spki(der), PublicKey::from_pem(der), PrivateKey::from_pem(der), TrustAnchors::from_pem(der));
    }
    let identification = "gw.example.org".parse::<Identity>().expect("an identity").to_payload();
    let claim = Claim { identification: &identification, method, data: &signature, presented: &certificates.into() };
    let by_ca = RemoteAuth::Ca(std::sync::Arc::new(anchors));
    by_ca.verify(&Pattern::Any, &claim, Prf::HmacSha256, b"octets", NOW).expect_err("nobody has signed this");
}
