//! The atomics of the channel, which loom replaces when it explores every interleaving (feature `loom`).

#[cfg(feature = "loom")]
pub use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(feature = "loom"))]
pub use std::sync::atomic::{AtomicU64, Ordering, fence};
