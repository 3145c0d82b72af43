//! The vault: bytes that the control plane leaves for its successor. The data plane only keeps them.
//!
//! Two halves: the new content goes into the one that does not hold, then a single store of the first word makes it hold,
//! so that a master killed in the middle leaves the old content whole. Then the old half is overwritten, it may hold keys.
//! What is put behind the content of the half that holds becomes a part of it in the same way, by one store of the length.

use std::ops::Deref;

use crate::sync::{AtomicU64, Ordering};
use crate::words::{load_bytes, store_bytes};

/// Words before the two halves.
pub const HEAD_WORDS: usize = 16;

/// More bytes than the vault can keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VaultTooSmall {
    /// Most bytes that it can keep.
    pub capacity: usize,
}

impl std::fmt::Display for VaultTooSmall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the vault keeps at most {} bytes", self.capacity)
    }
}

impl std::error::Error for VaultTooSmall {}

/// The vault; `words` is [`HEAD_WORDS`] and two halves.
#[derive(Debug)]
pub struct Vault<M> {
    words: M,
    half: usize,
    capacity: usize,
}

impl<M: Deref<Target = [AtomicU64]>> Vault<M> {
    /// The vault in `words`, for at most `capacity` bytes.
    pub fn new(words: M, capacity: usize) -> Vault<M> {
        let half = words.len().saturating_sub(HEAD_WORDS) / 2;
        Vault { words, half, capacity: capacity.min(half * size_of::<u64>()) }
    }

    /// The most bytes that it can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Which half holds, and how many bytes: a stranger wrote it, so the length is bounded.
    fn holding(&self) -> (usize, usize) {
        let word = self.words[0].load(Ordering::Acquire);
        ((word >> 32) as usize & 1, (word as u32 as usize).min(self.capacity))
    }

    fn half(&self, which: usize) -> &[AtomicU64] {
        let at = HEAD_WORDS + which * self.half;
        &self.words[at..at + self.half]
    }

    /// What the last complete write left.
    pub fn read(&self) -> Vec<u8> {
        let (which, len) = self.holding();
        load_bytes(&self.half(which), len)
    }

    /// Replaces the content as a whole.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), VaultTooSmall> {
        if bytes.len() > self.capacity {
            return Err(VaultTooSmall { capacity: self.capacity });
        }
        let (old, old_len) = self.holding();
        let new = 1 - old;
        store_bytes(self.half(new), bytes);
        self.words[0].store((new as u64) << 32 | bytes.len() as u64, Ordering::Release);
        self.half(old)[..old_len.div_ceil(size_of::<u64>())].iter().for_each(|word| word.store(0, Ordering::Relaxed));
        Ok(())
    }

    /// Puts `bytes` behind the content, as a whole or not at all.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), VaultTooSmall> {
        let (which, len) = self.holding();
        let whole = len + bytes.len();
        if whole > self.capacity {
            return Err(VaultTooSmall { capacity: self.capacity });
        }
        let (at, shared) = (len / size_of::<u64>(), len % size_of::<u64>());
        let half = self.half(which);
        let mut rest = bytes;
        if shared > 0 {
            // The word with the end of the content: what is there stays as it is.
            let (first, behind) = bytes.split_at(bytes.len().min(size_of::<u64>() - shared));
            let mut word = half[at].load(Ordering::Relaxed).to_le_bytes();
            word[shared..shared + first.len()].copy_from_slice(first);
            half[at].store(u64::from_le_bytes(word), Ordering::Relaxed);
            rest = behind;
        }
        store_bytes(&half[len.div_ceil(size_of::<u64>())..], rest);
        self.words[0].store((which as u64) << 32 | whole as u64, Ordering::Release);
        Ok(())
    }

    /// Overwrites all but the content: a master killed in the middle of a write, or before what it appended became a part of the
    /// content, left it.
    pub fn wipe_rest(&mut self) {
        let (which, len) = self.holding();
        let wipe = |words: &[AtomicU64]| words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        wipe(self.half(1 - which));
        let half = self.half(which);
        let shared = len % size_of::<u64>();
        if shared > 0 {
            let word = &half[len / size_of::<u64>()];
            word.store(word.load(Ordering::Relaxed) & ((1 << (8 * shared)) - 1), Ordering::Relaxed);
        }
        wipe(&half[len.div_ceil(size_of::<u64>())..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn vault(capacity: usize) -> Vault<Arc<[AtomicU64]>> {
        let words = HEAD_WORDS + 2 * capacity.div_ceil(8);
        Vault::new((0..words).map(|_| AtomicU64::new(0)).collect(), capacity)
    }

    #[test]
    fn the_old_content_is_overwritten() {
        let mut vault = vault(64);
        vault.write(b"an old secret").unwrap();
        vault.write(b"").unwrap();
        assert!(vault.words[HEAD_WORDS..].iter().all(|word| word.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn what_was_not_appended_to_the_end_is_overwritten() {
        let mut vault = vault(64);
        vault.write(b"whole").unwrap();
        let before = vault.words[0].load(Ordering::Relaxed);
        vault.append(b" and a secret behind it").unwrap();
        // The master was killed before its last step.
        vault.words[0].store(before, Ordering::Relaxed);
        vault.wipe_rest();
        assert_eq!(vault.read(), b"whole");
        vault.write(b"").unwrap();
        assert!(vault.words[HEAD_WORDS..].iter().all(|word| word.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn a_write_that_stops_half_way_leaves_the_old_content() {
        let mut vault = vault(64);
        vault.write(b"whole").unwrap();
        let free = 1 - vault.holding().0;
        store_bytes(vault.half(free), b"hal");
        assert_eq!(vault.read(), b"whole");
    }

    proptest! {
        #[test]
        fn the_last_write_is_read(writes in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 1..8)) {
            let mut vault = vault(80);
            let mut kept = Vec::new();
            for bytes in writes {
                match vault.write(&bytes) {
                    Ok(()) => kept = bytes,
                    Err(refused) => prop_assert!(bytes.len() > refused.capacity && refused.capacity == 80),
                }
                prop_assert_eq!(&vault.read(), &kept);
            }
        }

        #[test]
        fn what_is_appended_stands_behind(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 1..8)) {
            let mut vault = vault(80);
            vault.write(b"first").unwrap();
            let mut kept = b"first".to_vec();
            for part in parts {
                match vault.append(&part) {
                    Ok(()) => kept.extend(part),
                    Err(refused) => prop_assert!(kept.len() + part.len() > refused.capacity),
                }
                prop_assert_eq!(&vault.read(), &kept);
            }
            vault.write(b"").unwrap();
            prop_assert!(vault.words[HEAD_WORDS..].iter().all(|word| word.load(Ordering::Relaxed) == 0));
        }

        #[test]
        fn any_first_word_is_survived(word: u64) {
            let mut vault = vault(80);
            vault.words[0].store(word, Ordering::Relaxed);
            prop_assert!(vault.read().len() <= 80);
            let _ = vault.append(b"more");
            prop_assert!(vault.read().len() <= 80);
            vault.write(b"new").unwrap();
            prop_assert_eq!(vault.read(), b"new");
        }
    }
}
