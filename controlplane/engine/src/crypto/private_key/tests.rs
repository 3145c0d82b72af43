//! Keys from every form of PEM that people have, and what each signs for which peer.

use aws_lc_rs::agreement;
use aws_lc_rs::encoding::{EcPrivateKeyRfc5915Der, Pkcs8V1Der};

use super::*;
use crate::testing::pem;

const ALL_HASHES: &[HashAlg] = &SignatureAlgorithm::HASHES;
const MESSAGE: &[u8] = b"signed octets";

/// A fresh key of each kind in PKCS#8.
fn pkcs8_keys() -> Vec<(KeyKind, Vec<u8>)> {
    let ed25519: Pkcs8V1Der = Ed25519KeyPair::generate().unwrap().as_der().unwrap();
    let ecdsa = |algorithm| EcdsaKeyPair::generate(algorithm).unwrap().to_pkcs8v1().unwrap().as_ref().to_vec();
    vec![
        (KeyKind::Ed25519, ed25519.as_ref().to_vec()),
        (KeyKind::EcdsaP256, ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING)),
        (KeyKind::EcdsaP384, ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING)),
    ]
}

fn verify(key: &PrivateKey, auth: &AuthData) -> Result<(), crate::crypto::VerifyError> {
    let (algorithm, signature) = SignatureAlgorithm::read(auth.method, &auth.data).unwrap();
    key.public().verify(algorithm, MESSAGE, signature)
}

#[test]
fn every_kind_signs_what_its_public_key_verifies() {
    for (kind, der) in pkcs8_keys() {
        let key = PrivateKey::from_pem(pem("PRIVATE KEY", &der).as_bytes()).unwrap();
        assert_eq!(key.public().kind(), kind);
        let auth = key.sign(ALL_HASHES, MESSAGE).unwrap();
        assert_eq!(auth.method, AuthMethod::DIGITAL_SIGNATURE);
        assert_eq!(verify(&key, &auth), Ok(()));
        let mut bad = auth.clone();
        *bad.data.last_mut().unwrap() ^= 1;
        assert!(verify(&key, &bad).is_err());

        let published = PublicKey::from_pem(pem("PUBLIC KEY", key.public().spki()).as_bytes()).unwrap();
        assert_eq!(published, *key.public());
        assert_eq!(format!("{key:?}"), format!("PrivateKey(of {published}, …)"));
    }
}

#[test]
fn a_key_with_its_public_part_inside_is_read() {
    let pair = Ed25519KeyPair::generate().unwrap();
    let key = PrivateKey::from_pkcs8(pair.to_pkcs8().unwrap().as_ref()).unwrap();
    assert!(key.public().spki().ends_with(pair.public_key().as_ref()));
}

#[test]
fn sec_1_is_read_for_both_curves() {
    for (curve, kind) in [(&agreement::ECDH_P256, KeyKind::EcdsaP256), (&agreement::ECDH_P384, KeyKind::EcdsaP384)] {
        let sec1: EcPrivateKeyRfc5915Der = agreement::PrivateKey::generate(curve).unwrap().as_der().unwrap();
        // What `openssl ecparam -genkey` writes begins with the parameters.
        let file = pem("EC PARAMETERS", &[6, 1, 1]) + &pem("EC PRIVATE KEY", sec1.as_ref());
        let key = PrivateKey::from_pem(file.as_bytes()).unwrap();
        assert_eq!(key.public().kind(), kind);
        assert_eq!(verify(&key, &key.sign(ALL_HASHES, MESSAGE).unwrap()), Ok(()));
    }
}

#[test]
fn a_peer_without_rfc_7427_gets_the_older_methods_where_there_are_some() {
    for (kind, der) in pkcs8_keys() {
        let key = PrivateKey::from_pkcs8(&der).unwrap();
        let method = match kind {
            KeyKind::EcdsaP256 => AuthMethod::ECDSA_SHA256_P256,
            KeyKind::EcdsaP384 => AuthMethod::ECDSA_SHA384_P384,
            _ => {
                assert_eq!(key.sign(&[], MESSAGE), Err(SignError::NoDigitalSignature { key: kind }));
                continue;
            }
        };
        let auth = key.sign(&[], MESSAGE).unwrap();
        assert_eq!((auth.method, auth.data.len()), (method, if kind == KeyKind::EcdsaP256 { 64 } else { 96 }));
        assert_eq!(verify(&key, &auth), Ok(()));
    }
}

#[test]
fn a_hash_that_the_peer_does_not_take_is_not_used() {
    for (kind, der) in pkcs8_keys() {
        let key = PrivateKey::from_pkcs8(&der).unwrap();
        let needed = match kind {
            KeyKind::Ed25519 => HashAlg::IDENTITY,
            KeyKind::EcdsaP256 => HashAlg::SHA2_256,
            _ => HashAlg::SHA2_384,
        };
        assert!(key.sign(&[HashAlg::SHA1, needed], MESSAGE).is_ok());
        let offered = vec![HashAlg::SHA1, HashAlg::SHA2_512];
        let error = key.sign(&offered, MESSAGE).unwrap_err();
        assert_eq!(error, SignError::HashNotAccepted { key: kind, needed, offered });
    }
    let error = SignError::HashNotAccepted { key: KeyKind::Ed25519, needed: HashAlg::IDENTITY, offered: vec![HashAlg::SHA1] };
    assert_eq!(error.to_string(), "our key is of the kind ed25519, which needs the hash IDENTITY; the peer takes SHA1");
}

#[test]
fn files_without_a_usable_key_say_what_they_hold_instead() {
    let refused = |file: &str| PrivateKey::from_pem(file.as_bytes()).unwrap_err().to_string();
    assert_eq!(refused(""), "it holds no PRIVATE KEY in PEM");
    assert_eq!(refused(&pem("PUBLIC KEY", &[1])), "it holds no PRIVATE KEY in PEM, but only public parts");
    let encrypted = "it holds no PRIVATE KEY in PEM, but an encrypted one: decrypt it with `openssl pkey`, and keep the file readable by root alone";
    assert_eq!(refused(&pem("ENCRYPTED PRIVATE KEY", &[1])), encrypted);
    let openssh = "it holds no PRIVATE KEY in PEM, but a key of OpenSSH: make one with `openssl genpkey -algorithm ed25519`";
    assert_eq!(refused(&pem("OPENSSH PRIVATE KEY", &[1])), openssh);
    assert_eq!(refused(&pem("PRIVATE KEY", &[0x30, 0])), "it is no valid DER of a private key");
    let unsupported = |kind| format!("keys of the kind {kind} are not supported; use Ed25519, or ECDSA with P-256 or P-384");
    assert_eq!(refused(&pem("RSA PRIVATE KEY", &[1])), unsupported("RSA (private)"));
    let x25519 = "302e020100300506032b656e04220420777777777777777777777777777777777777777777777777777777777777776a";
    assert_eq!(refused(&pem("PRIVATE KEY", &crate::testing::unhex(x25519))), unsupported("X25519"));

    let refused = |file: &str| PublicKey::from_pem(file.as_bytes()).unwrap_err().to_string();
    let private = "it holds no PUBLIC KEY or CERTIFICATE in PEM, but a private key: that is the secret part; take `openssl pkey \
                   -pubout` of it";
    assert_eq!(refused(&pem("PRIVATE KEY", &[1])), private);
    assert_eq!(refused(&pem("PUBLIC KEY", &[1])), "it is no valid DER of a public key");
    let off_curve = "3059301306072a8648ce3d020106082a8648ce3d030107034200".to_owned() + "04" + &"11".repeat(64);
    assert_eq!(refused(&pem("PUBLIC KEY", &crate::testing::unhex(&off_curve))), "it is no valid DER of a public key");
}
