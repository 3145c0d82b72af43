//! Credentials that need no table: a user name that tells whose it is and until when, and a password that follows from it.
//!
//! The user name is `expiry:identity`, with the expiry in seconds since 1970, and the password an HMAC-SHA-256 of it under a secret that the
//! relay and its TURN server share. Keys of message integrity are those of RFC 8489 §9.2.2 with MD5, which every client can compute; a
//! password has 256 random bits, so nothing depends on how good a hash it is. SHA-256 for the code itself is accepted.
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use md5::{Digest, Md5};
use zeroize::Zeroizing;

use crate::crypto::Secret;
use crate::limits::TURN_NAME_LEN_MAX;
use crate::stun::codec::Key;

/// Names the use of a secret from which other things are derived too.
const PASSWORD_LABEL: &[u8] = b"adit turn password 1";

/// The key of long-term credentials (RFC 8489 §9.2.2).
pub fn long_term_key(name: &str, realm: &str, password: &str) -> Key {
    let mut hash = Md5::new();
    for part in [name, ":", realm, ":", password] {
        hash.update(part.as_bytes());
    }
    let hash = Zeroizing::new(<[u8; 16]>::from(hash.finalize()));
    Key::new(&*hash)
}

/// The user name of an identity until a time in seconds since 1970. The identity may hold anything, also colons.
pub fn name(identity: &str, expires: u64) -> String {
    format!("{expires}:{identity}")
}

/// The password that belongs to a user name.
pub fn password(secret: &Secret, name: &str) -> Zeroizing<String> {
    let code = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.expose()), &[PASSWORD_LABEL, name.as_bytes()].concat());
    Zeroizing::new(STANDARD_NO_PAD.encode(code))
}

/// The identity of a user name that has not expired.
pub(crate) fn identity(name: &str, unix: u64) -> Option<&str> {
    let (expires, identity) = name.split_once(':')?;
    let is_number = !expires.is_empty() && expires.bytes().all(|byte| byte.is_ascii_digit());
    let lives = is_number && expires.parse::<u64>().is_ok_and(|expires| unix < expires);
    (lives && !identity.is_empty() && name.len() <= TURN_NAME_LEN_MAX).then_some(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_identity_until_it_expires() {
        assert_eq!(name("gw:1", 100), "100:gw:1");
        assert_eq!((identity("100:gw:1", 99), identity("100:gw:1", 100)), (Some("gw:1"), None));
        let long = format!("9:{}", "a".repeat(TURN_NAME_LEN_MAX));
        for wrong in ["", ":", "100", "100:", "+100:a", "-1:a", " 1:a", "99999999999999999999:a", &long] {
            assert_eq!(identity(wrong, 0), None, "{wrong}");
        }
    }

    #[test]
    fn passwords_differ_by_name_and_secret() {
        let of = |secret: &[u8], name| password(&Secret::copy_of(secret), name).to_string();
        assert_eq!(of(b"s", "1:a").len(), 43);
        assert_eq!(of(b"s", "1:a"), of(b"s", "1:a"));
        assert!(of(b"s", "1:a") != of(b"s", "1:b") && of(b"s", "1:a") != of(b"t", "1:a") && of(b"s", "1:a") != of(b"s", "2:a"));
    }
}
