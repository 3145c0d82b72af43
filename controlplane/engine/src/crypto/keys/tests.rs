//! NIST's answers for the key derivation of IKEv2, and the formulas that came after RFC 7296 written out once more.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use super::*;
use crate::testing::unhex;

const NONCE_I: &[u8] = b"nonce of the initiator";
const NONCE_R: &[u8] = b"nonce of the responder";

fn exchanged() -> Exchanged<'static> {
    Exchanged { nonce_i: NONCE_I, nonce_r: NONCE_R, spi_i: IkeSpi(0x1122_3344_5566_7788), spi_r: IkeSpi(0x99aa_bbcc_ddee_ff00) }
}

fn secret(bytes: &[u8]) -> Secret {
    Secret::copy_of(bytes)
}

/// One case of NIST's file: name of the quantity, then its bytes.
type Case = HashMap<String, Vec<u8>>;

/// The cases of the file with the HMAC that each is for.
fn nist_cases(text: &str) -> Vec<(hmac::Algorithm, Case)> {
    let mut cases: Vec<(hmac::Algorithm, Case)> = Vec::new();
    let mut algorithm = None;
    for line in text.lines() {
        algorithm = match line.trim() {
            // IKE's functions end at SHA-2; these cases test the same formulas with another HMAC.
            "[SHA-1]" => Some(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
            "[SHA-224]" => Some(hmac::HMAC_SHA224),
            "[SHA-256]" => Some(hmac::HMAC_SHA256),
            "[SHA-384]" => Some(hmac::HMAC_SHA384),
            "[SHA-512]" => Some(hmac::HMAC_SHA512),
            _ => algorithm,
        };
        match line.split_once(" = ") {
            Some(("COUNT", _)) => cases.push((algorithm.expect("a hash before the first case"), Case::new())),
            Some((name, value)) if !line.starts_with('[') => {
                cases.last_mut().expect("COUNT comes first").1.insert(name.to_owned(), unhex(value));
            }
            _ => {}
        }
    }
    cases
}

/// The same through the types that the state machines use, where the hash is one of IKE's.
fn check_with_types(prf: Prf, case: &Case, exchanged: Exchanged) {
    for suite in Suite::ALL {
        let keys = IkeKeys::initial(prf, suite, &secret(&case["g^ir"]), exchanged);
        let common = keys.material().len().min(case["DKM"].len());
        assert_eq!(keys.material().expose()[..common], case["DKM"][..common]);
        let one = suite.key_len() + SALT_LEN;
        let bytes = |key: &SaKey| [&key.key[..suite.key_len()], &key.salt].concat();
        for (shared, name) in [(vec![], "DKM(Child SA)"), (vec![secret(&case["g^ir (new)"])], "DKM(Child SA D-H)")] {
            let child = keys.child(suite, &shared, exchanged.nonce_i, exchanged.nonce_r);
            assert_eq!(bytes(&child.from_initiator), case[name][..one]);
            assert_eq!(bytes(&child.from_responder), case[name][one..2 * one]);
        }
        let rekeyed = keys.rekeyed(Prf::HmacSha256, suite, &[secret(&case["g^ir (new)"])], exchanged);
        let seed = &case["SKEYSEED(Rekey)"];
        let len = rekeyed.material().len();
        assert_eq!(*rekeyed.material(), key_material(hmac::HMAC_SHA256, seed, exchanged, len));
    }
}

/// The file lies beside the project, where there is one.
#[test]
fn all_cases_of_nist_are_answered() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors/nist-ikev2-kdf.fax");
    let Ok(text) = std::fs::read_to_string(&path) else {
        // Where it is seen: the harness keeps what a test that passes prints.
        let _ = writeln!(std::io::stderr(), "SKIPPED: no answers of NIST at {}", path.display());
        return;
    };
    let cases = nist_cases(&text);
    assert_eq!(cases.len(), 900);
    let mut typed = 0;
    for (algorithm, case) in &cases {
        let get = |name: &str| case[name].as_slice();
        let spi = |name: &str| IkeSpi::from_bytes(get(name).try_into().expect("8 bytes"));
        let (spi_i, spi_r) = (spi("SPIi"), spi("SPIr"));
        let exchanged = Exchanged { nonce_i: get("Ni"), nonce_r: get("Nr"), spi_i, spi_r };

        let seed = skeyseed(*algorithm, get("g^ir"), exchanged);
        assert_eq!(seed.expose(), get("SKEYSEED"));
        let dkm = key_material(*algorithm, seed.expose(), exchanged, get("DKM").len());
        assert_eq!(dkm.expose(), get("DKM"));
        let sk_d = &dkm.expose()[..algorithm.tag_len()];
        for (name, shared) in [("DKM(Child SA)", &[][..]), ("DKM(Child SA D-H)", &[get("g^ir (new)")])] {
            let child = keymat(*algorithm, sk_d, shared, exchanged.nonce_i, exchanged.nonce_r, get(name).len());
            assert_eq!(child.expose(), get(name), "{name}");
        }
        assert_eq!(skeyseed_from(*algorithm, sk_d, &[get("g^ir (new)")], exchanged).expose(), get("SKEYSEED(Rekey)"));

        if let Some(prf) = Prf::ALL.into_iter().find(|prf| prf.algorithm() == *algorithm) {
            check_with_types(prf, case, exchanged);
            typed += 1;
        }
    }
    assert_eq!(typed, 600, "of the 900 cases, 600 are for SHA-2");
}

#[test]
fn the_parts_lie_one_after_the_other() {
    for (prf, suite) in Prf::ALL.into_iter().flat_map(|prf| Suite::ALL.map(|suite| (prf, suite))) {
        let keys = IkeKeys::initial(prf, suite, &secret(b"shared"), exchanged());
        let parts = [keys.sk_d(), keys.sk_ei(), keys.sk_er(), keys.sk_pi(), keys.sk_pr()];
        assert_eq!(parts.concat(), keys.material().expose());
        let sealing = suite.key_len() + 4;
        assert_eq!(parts.map(<[u8]>::len), [prf.output_len(), sealing, sealing, prf.output_len(), prf.output_len()]);
        assert_eq!(format!("{keys:?}"), format!("IkeKeys({prf:?}, {suite}, …)"));
    }
}

/// RFC 9370 §2.2.2.
#[test]
fn an_additional_exchange_goes_into_all_keys() {
    for prf in Prf::ALL {
        let before = IkeKeys::initial(prf, Suite::Aes256Gcm, &secret(b"classic"), exchanged());
        let after = before.additional(&secret(b"post-quantum"), exchanged());
        let seed = prf.compute(before.sk_d(), &[b"post-quantum", NONCE_I, NONCE_R]);
        let spis = [exchanged().spi_i.to_bytes(), exchanged().spi_r.to_bytes()].concat();
        let expected = prf.plus(seed.expose(), &[NONCE_I, NONCE_R, &spis], before.material().len()).unwrap();
        assert_eq!(*after.material(), expected);
        assert_ne!(after.sk_pi(), before.sk_pi());
    }
}

/// RFC 9370 §2.2.4: the first secret before the nonces, the others behind them.
#[test]
fn rekeying_with_several_exchanges_orders_their_secrets() {
    let old = IkeKeys::initial(Prf::HmacSha384, Suite::Aes256Gcm, &secret(b"classic"), exchanged());
    let shared = [secret(b"zero"), secret(b"one"), secret(b"two")];
    let new = old.rekeyed(Prf::HmacSha512, Suite::ChaCha20Poly1305, &shared, exchanged());
    let seed = Prf::HmacSha384.compute(old.sk_d(), &[b"zero", NONCE_I, NONCE_R, b"onetwo"]);
    assert_eq!(*new.material(), key_material(hmac::HMAC_SHA512, seed.expose(), exchanged(), new.material().len()));
    assert_eq!((new.prf(), new.suite()), (Prf::HmacSha512, Suite::ChaCha20Poly1305));

    let child = old.child(Suite::Aes128Gcm, &shared, NONCE_I, NONCE_R);
    let keymat = Prf::HmacSha384.plus(old.sk_d(), &[b"zero", NONCE_I, NONCE_R, b"one", b"two"], 40).unwrap();
    assert_eq!(child.from_initiator.key[..16], keymat.expose()[..16]);
    assert_eq!(child.from_initiator.key[16..], [0; 16]);
    assert_eq!(child.from_initiator.salt, keymat.expose()[16..20]);
    assert_eq!(child.from_responder.key[..16], keymat.expose()[20..36]);
    assert_eq!(child.from_responder.salt, keymat.expose()[36..]);
}

/// RFC 8784 §3: only SK_d, SK_pi and SK_pr change, each by one block of prf+ with the PPK as its key.
#[test]
fn a_ppk_changes_three_keys_and_not_those_that_are_in_use() {
    for prf in Prf::ALL {
        let before = IkeKeys::initial(prf, Suite::Aes256Gcm, &secret(b"classic"), exchanged());
        let after = before.with_ppk(&secret(b"a preshared key against quantum computers"));
        let mixed = |key: &[u8]| prf.compute(b"a preshared key against quantum computers", &[key, &[1]]);
        assert_eq!(after.sk_d(), mixed(before.sk_d()).expose());
        assert_eq!(after.sk_pi(), mixed(before.sk_pi()).expose());
        assert_eq!(after.sk_pr(), mixed(before.sk_pr()).expose());
        assert_eq!((after.sk_ei(), after.sk_er()), (before.sk_ei(), before.sk_er()));
    }
}

#[test]
fn stored_keys_come_back_and_other_lengths_do_not() {
    let keys = IkeKeys::initial(Prf::HmacSha256, Suite::Aes128Gcm, &secret(b"shared"), exchanged());
    let restored = IkeKeys::from_material(keys.prf(), keys.suite(), keys.material().clone()).unwrap();
    assert_eq!(restored, keys);
    let error = IkeKeys::from_material(Prf::HmacSha512, Suite::Aes128Gcm, keys.material().clone()).unwrap_err();
    assert_eq!(error, MaterialLength { given: 136, expected: 232 });
}

#[test]
fn what_one_end_seals_the_other_opens() {
    let keys = IkeKeys::initial(Prf::HmacSha256, Suite::ChaCha20Poly1305, &secret(b"shared"), exchanged());
    let (mut initiator, responder) = (keys.initiator_aead(1), keys.responder_aead(2));
    let mut text = *b"payloads";
    let sealed = initiator.seal(b"aad", &mut text).unwrap();
    assert!(responder.open(b"aad", sealed, &mut text.clone()).is_err(), "the directions have keys of their own");
    keys.initiator_aead(3).open(b"aad", sealed, &mut text).unwrap();
    assert_eq!(&text, b"payloads");
}
