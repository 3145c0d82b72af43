//! Bytes in shared words.

use std::ops::Deref;

use crate::sync::{AtomicU64, Ordering};

/// Copies bytes into words, the last word padded with zeros. What does not fit is left out.
pub fn store_bytes(words: &[AtomicU64], bytes: &[u8]) {
    for (word, chunk) in words.iter().zip(bytes.chunks(size_of::<u64>())) {
        let mut value = [0; size_of::<u64>()];
        value[..chunk.len()].copy_from_slice(chunk);
        word.store(u64::from_le_bytes(value), Ordering::Relaxed);
    }
}

/// Copies the first `len` bytes out of words; fewer when there are fewer.
pub fn load_bytes<M: Deref<Target = [AtomicU64]>>(words: &M, len: usize) -> Vec<u8> {
    let needed = len.div_ceil(size_of::<u64>());
    let mut bytes: Vec<u8> = words.iter().take(needed).flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect();
    bytes.truncate(len);
    bytes
}
