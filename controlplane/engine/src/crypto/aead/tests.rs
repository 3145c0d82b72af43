//! RFC 7634's message, round trips, and what must not open.

use super::*;
use crate::testing::unhex;

/// RFC 7634, appendix B: an INFORMATIONAL request with one Notify.
#[test]
fn the_message_of_rfc_7634_is_sealed_and_opened() {
    let key: Vec<u8> = (0x80..=0x9f).chain(0xa0..=0xa3).collect();
    let aad = unhex("c0c1c2c3c4c5c6c7d0d1d2d3d4d5d6d72e2025000000000900000045 29000029");
    let plain = unhex("0000000c000040010000000a 00");
    let mut aead = IkeAead::new(Suite::ChaCha20Poly1305, &key, 0x1011_1213_1415_1617).unwrap();

    let mut buf = plain.clone();
    let sealed = aead.seal(&aad, &mut buf).unwrap();
    assert_eq!(buf, unhex("610394701f8d017f7c12924889"));
    assert_eq!(sealed.iv[..], unhex("1011121314151617"));
    assert_eq!(sealed.tag[..], unhex("6b71bfe25236efd7cdc67066906315b2"));

    aead.open(&aad, sealed, &mut buf).unwrap();
    assert_eq!(buf, plain);
}

fn aead(suite: Suite, iv_start: u64) -> IkeAead {
    let key: Vec<u8> = (1..=(suite.key_len() + SALT_LEN) as u8).collect();
    IkeAead::new(suite, &key, iv_start).unwrap()
}

#[test]
fn any_changed_bit_and_any_other_key_is_a_bad_tag() {
    for suite in Suite::ALL {
        let mut sender = aead(suite, 7);
        let receiver = aead(suite, 0);
        let mut sealed_text = b"payloads".to_vec();
        let sealed = sender.seal(b"header", &mut sealed_text).unwrap();
        let open = |aad: &[u8], sealed, text: &[u8]| receiver.open(aad, sealed, &mut text.to_vec());
        assert_eq!(open(b"header", sealed, &sealed_text), Ok(()));
        assert_eq!(open(b"headeR", sealed, &sealed_text), Err(AeadError::BadTag));
        assert_eq!(open(b"header", sealed, &sealed_text[1..]), Err(AeadError::BadTag));
        for bit in 0..8 * TAG_LEN {
            let mut bad = sealed;
            bad.tag[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(b"header", bad, &sealed_text), Err(AeadError::BadTag));
        }
        let mut bad = sealed;
        bad.iv[7] ^= 1;
        assert_eq!(open(b"header", bad, &sealed_text), Err(AeadError::BadTag));
        let mut other = vec![9; suite.key_len()];
        other.extend(receiver.salt);
        let other = IkeAead::new(suite, &other, 0).unwrap();
        assert_eq!(other.open(b"header", sealed, &mut sealed_text), Err(AeadError::BadTag));
    }
}

#[test]
fn no_iv_is_used_twice_and_the_count_runs_over_the_end() {
    let mut aead = aead(Suite::Aes256Gcm, u64::MAX - 1);
    let ivs: Vec<u64> = (0..4)
        .map(|_| {
            let announced = aead.next_iv();
            let used = aead.seal(b"", &mut []).unwrap().iv;
            assert_eq!(used, announced);
            u64::from_be_bytes(used)
        })
        .collect();
    assert_eq!(ivs, [u64::MAX - 1, u64::MAX, 0, 1]);
}

#[test]
fn a_key_that_has_sealed_enough_seals_no_more() {
    let mut aead = aead(Suite::Aes128Gcm, 0);
    aead.sealed = SEALED_MAX - 1;
    assert!(aead.seal(b"", &mut [0]).is_ok());
    assert_eq!(aead.seal(b"", &mut [0]), Err(AeadError::Exhausted));
}

#[test]
fn a_key_of_another_length_is_refused() {
    for suite in Suite::ALL {
        for given in [0, 4, suite.key_len(), suite.key_len() + 3, suite.key_len() + 5] {
            let error = IkeAead::new(suite, &vec![0; given], 0).unwrap_err();
            assert_eq!(error, AeadError::KeyLength { suite, given });
        }
    }
    let error = AeadError::KeyLength { suite: Suite::Aes256Gcm, given: 32 };
    assert_eq!(error.to_string(), "aes-256-gcm takes 36 bytes of key and salt, not 32");
}
