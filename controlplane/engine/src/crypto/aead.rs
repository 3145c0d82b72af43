//! The AEAD of the Encrypted payload: AES-GCM (RFC 5282) and ChaCha20-Poly1305 (RFC 7634), 8-byte IV, 16-byte tag.

use std::fmt;

use adit_proto::ike::encrypted::IV_LEN;
use adit_proto::suite::{SALT_LEN, Suite, TAG_LEN};
use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use crate::limits::SEALED_MAX;

const NONCE_LEN: usize = SALT_LEN + IV_LEN;

/// One direction of an IKE SA, ready to seal and open.
///
/// Sealing counts the IV up from a random number, so that a process that takes an SA over from one that died, and does not
/// know how far that one came, does not repeat an IV.
pub struct IkeAead {
    key: LessSafeKey,
    salt: [u8; SALT_LEN],
    suite: Suite,
    iv_next: u64,
    sealed: u64,
}

/// What a sealed message carries besides its ciphertext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Goes before the ciphertext.
    pub iv: [u8; IV_LEN],
    /// Goes behind it.
    pub tag: [u8; TAG_LEN],
}

/// What is wrong with an AEAD of an IKE SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AeadError {
    /// Not sealed under this key, or changed on its way: dropped without an answer (RFC 7296 §2.21).
    #[error("the integrity check failed: another key, or changed on its way")]
    BadTag,
    /// The key has sealed as many messages as it may.
    #[error("the key has sealed {SEALED_MAX} messages: the IKE SA must be rekeyed")]
    Exhausted,
    /// Key and salt do not have the length that the suite asks for.
    #[error("{suite} takes {expected} bytes of key and salt, not {given}", expected = suite.key_len() + SALT_LEN)]
    KeyLength { suite: Suite, given: usize },
}

impl IkeAead {
    /// From a key with its salt behind it, as SK_ei and SK_er are (RFC 5282 §7.1). `iv_start` is a random number.
    ///
    /// # Errors
    /// Another length than the suite's key and four bytes.
    pub fn new(suite: Suite, key_and_salt: &[u8], iv_start: u64) -> Result<IkeAead, AeadError> {
        if key_and_salt.len() != suite.key_len() + SALT_LEN {
            return Err(AeadError::KeyLength { suite, given: key_and_salt.len() });
        }
        Ok(IkeAead::of_keys(suite, key_and_salt, iv_start))
    }

    pub(super) fn of_keys(suite: Suite, key_and_salt: &[u8], iv_start: u64) -> IkeAead {
        let (key, salt) = key_and_salt.split_at(suite.key_len());
        let algorithm = match suite {
            Suite::Aes128Gcm => &AES_128_GCM,
            Suite::Aes256Gcm => &AES_256_GCM,
            Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key).expect("the suite's key length"));
        let salt = salt.try_into().expect("four bytes behind the key");
        IkeAead { key, salt, suite, iv_next: iv_start, sealed: 0 }
    }

    /// The suite that the key is for.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// The IV that the next call of [`IkeAead::seal`] uses.
    pub fn next_iv(&self) -> [u8; IV_LEN] {
        self.iv_next.to_be_bytes()
    }

    /// Encrypts `buf`, payloads with padding and its length, where it lies. `aad` is everything from the header to the end of
    /// the Encrypted payload's generic header (RFC 5282 §5.1).
    ///
    /// A retransmission sends the same bytes again and is not sealed again.
    ///
    /// # Errors
    /// `Exhausted`.
    pub fn seal(&mut self, aad: &[u8], buf: &mut [u8]) -> Result<Sealed, AeadError> {
        if self.sealed == SEALED_MAX {
            return Err(AeadError::Exhausted);
        }
        let iv = self.next_iv();
        let tag = self
            .key
            .seal_in_place_separate_tag(self.nonce(iv), Aad::from(aad), buf)
            .expect("a message is far below the limit of the suite");
        self.iv_next = self.iv_next.wrapping_add(1);
        self.sealed += 1;
        Ok(Sealed { iv, tag: tag.as_ref().try_into().expect("a tag of 16 bytes") })
    }

    /// Checks the tag and decrypts `buf` where it lies.
    ///
    /// # Errors
    /// `BadTag`; then what is in `buf` means nothing.
    pub fn open(&self, aad: &[u8], sealed: Sealed, buf: &mut [u8]) -> Result<(), AeadError> {
        match self.key.open_in_place_separate_tag(self.nonce(sealed.iv), Aad::from(aad), &sealed.tag, buf) {
            Ok(_) => Ok(()),
            Err(_) => Err(AeadError::BadTag),
        }
    }

    /// Salt, then IV (RFC 5282 §4).
    fn nonce(&self, iv: [u8; IV_LEN]) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[..SALT_LEN].copy_from_slice(&self.salt);
        nonce[SALT_LEN..].copy_from_slice(&iv);
        Nonce::assume_unique_for_key(nonce)
    }
}

impl Drop for IkeAead {
    /// The library wipes the key itself.
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.salt);
    }
}

impl fmt::Debug for IkeAead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IkeAead({}, {} sealed, …)", self.suite, self.sealed)
    }
}

#[cfg(test)]
mod tests;
