//! AES-GCM and ChaCha20-Poly1305 by the C library intel-ipsec-mb, or the word that it is not there: `build.rs` decides.
//!
//! A key is a [`Gcm`] or a [`ChaCha20Poly1305`], made only where [`obstacle`] has nothing to say. The owner of the suites, the
//! choice between libraries and the self-test are `adit_esp::aead`; this crate is apart because it alone needs `unsafe` for them.

#[cfg(not(ipsec_mb))]
mod absent;
#[cfg(ipsec_mb)]
mod present;

use std::fmt;

#[cfg(not(ipsec_mb))]
pub use absent::{ChaCha20Poly1305, Gcm, obstacle, prepare, version};
#[cfg(ipsec_mb)]
pub use present::{ChaCha20Poly1305, Gcm, obstacle, prepare, version};

/// Why a library cannot be used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// It was not there when the program was built.
    NotBuiltIn,
    /// The CPU, or the system, has not these instructions.
    Cpu(&'static str),
    /// It fails its own self-test on this machine, or finds no memory.
    Refused,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::NotBuiltIn => f.write_str(
                "the program was built without it; install its header and static library (Debian: libipsec-mb-dev) and build again",
            ),
            Obstacle::Cpu(instructions) => write!(f, "this CPU has no {instructions}"),
            Obstacle::Refused => f.write_str("the library fails its own self-test on this machine"),
        }
    }
}

impl std::error::Error for Obstacle {}
