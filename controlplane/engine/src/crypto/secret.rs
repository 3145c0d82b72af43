//! Bytes that must not leak: wiped when dropped, compared in constant time, never printed.

use std::fmt;

use aws_lc_rs::constant_time;
use zeroize::Zeroizing;

/// A secret of any length.
#[derive(Clone)]
pub struct Secret(Zeroizing<Box<[u8]>>);

impl Secret {
    /// Takes the bytes over; they are not copied, so nothing of them stays elsewhere.
    pub fn new(bytes: Box<[u8]>) -> Secret {
        Secret(Zeroizing::new(bytes))
    }

    /// Copies the bytes; wiping the original is up to the caller.
    pub fn copy_of(bytes: &[u8]) -> Secret {
        Secret::new(bytes.into())
    }

    /// The bytes, for a computation or for storage that is itself secret.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Zeroizing<Box<[u8]>>> for Secret {
    fn from(bytes: Zeroizing<Box<[u8]>>) -> Secret {
        Secret(bytes)
    }
}

impl PartialEq for Secret {
    /// Takes a time that depends on the lengths only.
    fn eq(&self, other: &Secret) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_equal_by_its_bytes_and_prints_none_of_them() {
        let secret = Secret::copy_of(b"swordfish");
        assert_eq!(secret, Secret::copy_of(b"swordfish"));
        assert_ne!(secret, Secret::copy_of(b"swordfisH"));
        assert_ne!(secret, Secret::copy_of(b"swordfis"));
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }
}
