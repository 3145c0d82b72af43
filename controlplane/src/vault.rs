//! What one control plane leaves to the next in the vault of the channel: a [`InstalledState`] as JSON, and behind it the IKE SAs as the
//! engine writes them, which are secret.

use zeroize::Zeroizing;

use crate::reconcile::InstalledState;

const MAGIC: &[u8; 8] = b"ADITVLT1";
/// Bytes in front of the two parts.
pub const HEAD_LEN: usize = MAGIC.len() + size_of::<u32>();

/// What was found.
#[derive(Debug, Default)]
pub struct Left {
    /// Nothing when it cannot be read.
    pub installed: Option<InstalledState>,
    /// Empty when there is none.
    pub ike: Zeroizing<Vec<u8>>,
}

/// The bytes for the vault.
pub fn join(installed: &[u8], ike: &[u8]) -> Zeroizing<Vec<u8>> {
    let length = u32::try_from(installed.len()).unwrap_or(u32::MAX).to_le_bytes();
    Zeroizing::new([MAGIC.as_slice(), &length, installed, ike].concat())
}

/// Reads the bytes of a vault. A release before IKE left the JSON alone.
pub fn split(bytes: &[u8]) -> Left {
    let Some((length, rest)) = bytes.strip_prefix(MAGIC).and_then(<[u8]>::split_first_chunk) else {
        return Left { installed: InstalledState::from_vault(bytes), ike: Zeroizing::default() };
    };
    match rest.split_at_checked(u32::from_le_bytes(*length) as usize) {
        Some((installed, ike)) => Left { installed: InstalledState::from_vault(installed), ike: Zeroizing::new(ike.to_vec()) },
        None => Left::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_parts_come_back_and_any_bytes_are_survived() {
        let installed = InstalledState::default().to_vault();
        let whole = join(&installed, b"secret");
        assert_eq!(split(&whole).ike.as_slice(), b"secret");
        for length in 0..whole.len() {
            let left = split(&whole[..length]);
            assert!(left.ike.len() <= 6 && (left.installed.is_none() || length >= MAGIC.len() + 4 + installed.len()));
        }
        assert_eq!(split(&installed).installed.is_some(), InstalledState::from_vault(&installed).is_some());
    }
}
