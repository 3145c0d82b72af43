//! Who may have how much in a second.
use std::time::Duration;

/// So many in so long, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub amount: u64,
    pub per: Duration,
    pub burst: u64,
}
