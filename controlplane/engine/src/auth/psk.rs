//! Preshared keys (RFC 7296 §2.15).

use std::fmt;

use aws_lc_rs::constant_time;
use base64::Engine;
use zeroize::Zeroizing;

use crate::crypto::{Prf, Secret};
use crate::hex;

/// The pad that keeps a key for IKE apart from the same key elsewhere.
const KEY_PAD: &[u8] = b"Key Pad for IKEv2";

/// A key that both ends know. Wiped when dropped, never printed, compared in constant time.
#[derive(Clone, PartialEq, Eq)]
pub struct Psk(Secret);

/// Text that is no preshared key. What was written is not repeated: it may be one, nearly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PskError {
    #[error("an empty preshared key")]
    Empty,
    #[error("a preshared key of {0} bytes can be guessed; at least {min} are needed", min = Psk::LEN_MIN)]
    Short(usize),
    #[error("a preshared key that begins with 0x and goes on with other than an even number of hexadecimal digits")]
    Hex,
    #[error("a preshared key that begins with 0s and goes on with other than base64")]
    Base64,
}

impl Psk {
    /// A key that is shorter than this, in bytes, can be guessed by who records one handshake.
    pub const LEN_MIN: usize = 16;

    /// The key, if it is not too short to be used for authentication.
    ///
    /// # Errors
    /// It is.
    pub fn long_enough(self) -> Result<Psk, PskError> {
        if self.len() < Psk::LEN_MIN { Err(PskError::Short(self.len())) } else { Ok(self) }
    }

    /// Takes the bytes as they are.
    ///
    /// # Errors
    /// There are none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Psk, PskError> {
        if bytes.is_empty() { Err(PskError::Empty) } else { Ok(Psk(Secret::copy_of(bytes))) }
    }

    /// Reads what a person wrote: hexadecimal digits after `0x`, base64 after `0s`, or else the text itself.
    ///
    /// # Errors
    /// The text is empty, or not what its beginning says.
    pub fn from_text(text: &str) -> Result<Psk, PskError> {
        if let Some(digits) = text.strip_prefix("0x") {
            let bytes = Zeroizing::new(hex::decode(digits).ok_or(PskError::Hex)?);
            Psk::from_bytes(&bytes)
        } else if let Some(digits) = text.strip_prefix("0s") {
            let bytes = base64::engine::general_purpose::STANDARD.decode(digits);
            Psk::from_bytes(&Zeroizing::new(bytes.map_err(|_| PskError::Base64)?))
        } else {
            Psk::from_bytes(text.as_bytes())
        }
    }

    /// Length in bytes. A key that people can remember is short, and can be guessed by who records one handshake.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Always false: an empty key is refused.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key itself, for other uses of a secret that is written like this, such as RFC 8784.
    pub fn into_secret(self) -> Secret {
        self.0
    }

    /// The key itself, to tell it from another one.
    pub(super) fn material(&self) -> &[u8] {
        self.0.expose()
    }

    /// The data of the AUTH payload: `prf(prf(key, pad), octets)`.
    pub(super) fn auth(&self, prf: Prf, octets: &[u8]) -> Secret {
        prf.compute(prf.compute(self.0.expose(), &[KEY_PAD]).expose(), &[octets])
    }

    pub(super) fn verify(&self, prf: Prf, octets: &[u8], data: &[u8]) -> bool {
        constant_time::verify_slices_are_equal(self.auth(prf, octets).expose(), data).is_ok()
    }
}

impl fmt::Debug for Psk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Psk(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_ways_to_write_a_key_give_the_same_key() {
        let key = Psk::from_text("swordfish").unwrap();
        assert_eq!(Psk::from_text("0x73776F7264666973 68".replace(' ', "").as_str()), Ok(key.clone()));
        assert_eq!(Psk::from_text("0sc3dvcmRmaXNo"), Ok(key.clone()));
        assert_eq!(Psk::from_bytes(b"swordfish"), Ok(key.clone()));
        assert_ne!(Psk::from_text("swordfisH"), Ok(key.clone()));
        assert_eq!((key.len(), format!("{key:?}").as_str()), (9, "Psk(…)"));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert_eq!(Psk::from_text(""), Err(PskError::Empty));
        assert_eq!(Psk::from_text("0x"), Err(PskError::Empty));
        assert_eq!(Psk::from_text("0x123"), Err(PskError::Hex));
        assert_eq!(Psk::from_text("0x12g4"), Err(PskError::Hex));
        assert_eq!(Psk::from_text("0s!!!"), Err(PskError::Base64));
    }

    #[test]
    fn auth_is_the_padded_key_over_the_octets() {
        let key = Psk::from_text("swordfish").unwrap();
        for prf in Prf::ALL {
            let auth = prf.compute(prf.compute(b"swordfish", &[b"Key Pad for IKEv2"]).expose(), &[b"octets"]);
            assert!(key.verify(prf, b"octets", auth.expose()));
            assert!(!key.verify(prf, b"octetS", auth.expose()));
            assert!(!key.verify(prf, b"octets", &auth.expose()[1..]));
            assert!(!key.verify(prf, b"octets", &[]));
        }
    }
}
