//! What unit tests of this module share.

use std::sync::OnceLock;
use std::time::Instant;

/// Some instant, the same in every call.
#[expect(clippy::disallowed_methods, reason = "a test needs one instant to count from, and there is no other way to get one")]
pub(super) fn instant() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}
