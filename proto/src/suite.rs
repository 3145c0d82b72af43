//! The AEAD suites of ESP: key and salt lengths, names.

use std::fmt;
use std::str::FromStr;

/// Length of the integrity check value, in bytes, of every suite (RFC 4106 §6, RFC 7634 §2).
pub const TAG_LEN: usize = 16;
/// Length of the salt that precedes the IV in the nonce, in bytes (RFC 4106 §4, RFC 7634 §2).
pub const SALT_LEN: usize = 4;
/// Length of the longest key of any suite, in bytes.
pub const KEY_LEN_MAX: usize = Suite::Aes256Gcm.key_len();

/// An AEAD algorithm for ESP. The value is its code in records between the planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Suite {
    /// AES-128-GCM with a 16-byte tag (RFC 4106).
    Aes128Gcm = 1,
    /// AES-256-GCM with a 16-byte tag (RFC 4106).
    Aes256Gcm = 2,
    /// ChaCha20-Poly1305 (RFC 7634).
    ChaCha20Poly1305 = 3,
}

/// The name given is no suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownSuite;

impl Suite {
    /// Every suite, in the order of preference.
    pub const ALL: [Suite; 3] = [Suite::Aes128Gcm, Suite::Aes256Gcm, Suite::ChaCha20Poly1305];

    /// Length of the key without the salt, in bytes.
    pub const fn key_len(self) -> usize {
        match self {
            Suite::Aes128Gcm => 16,
            Suite::Aes256Gcm | Suite::ChaCha20Poly1305 => 32,
        }
    }

    /// The name in configuration, metrics and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Suite::Aes128Gcm => "aes-128-gcm",
            Suite::Aes256Gcm => "aes-256-gcm",
            Suite::ChaCha20Poly1305 => "chacha20-poly1305",
        }
    }

    /// The suite with this code, if there is one.
    pub const fn from_code(code: u8) -> Option<Suite> {
        match code {
            1 => Some(Suite::Aes128Gcm),
            2 => Some(Suite::Aes256Gcm),
            3 => Some(Suite::ChaCha20Poly1305),
            _ => None,
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Suite {
    type Err = UnknownSuite;

    fn from_str(name: &str) -> Result<Suite, UnknownSuite> {
        Suite::ALL.into_iter().find(|suite| suite.name() == name).ok_or(UnknownSuite)
    }
}
