//! What one control plane leaves to the next in the vault of the channel: a [`Memory`] as JSON, and behind it the IKE SAs as the
//! engine writes them, which are secret.

use zeroize::Zeroizing;

use crate::reconcile::Memory;

const MAGIC: &[u8; 8] = b"ADITVLT1";

/// What was found.
#[derive(Debug, Default)]
pub struct Left {
    /// Nothing when it cannot be read.
    pub memory: Option<Memory>,
    /// Empty when there is none.
    pub ike: Zeroizing<Vec<u8>>,
}

/// The bytes for the vault.
pub fn join(memory: &[u8], ike: &[u8]) -> Zeroizing<Vec<u8>> {
    let length = u32::try_from(memory.len()).unwrap_or(u32::MAX).to_le_bytes();
    Zeroizing::new([MAGIC.as_slice(), &length, memory, ike].concat())
}

/// Reads the bytes of a vault. A release before IKE left the JSON alone.
pub fn split(bytes: &[u8]) -> Left {
    let Some((length, rest)) = bytes.strip_prefix(MAGIC).and_then(<[u8]>::split_first_chunk) else {
        return Left { memory: Memory::from_vault(bytes), ike: Zeroizing::default() };
    };
    match rest.split_at_checked(u32::from_le_bytes(*length) as usize) {
        Some((memory, ike)) => Left { memory: Memory::from_vault(memory), ike: Zeroizing::new(ike.to_vec()) },
        None => Left::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_parts_come_back_and_any_bytes_are_survived() {
        let memory = Memory::default().to_vault();
        let whole = join(&memory, b"secret");
        assert_eq!(split(&whole).ike.as_slice(), b"secret");
        for length in 0..whole.len() {
            let left = split(&whole[..length]);
            assert!(left.ike.len() <= 6 && (left.memory.is_none() || length >= MAGIC.len() + 4 + memory.len()));
        }
        assert_eq!(split(&memory).memory.is_some(), Memory::from_vault(&memory).is_some());
    }
}
