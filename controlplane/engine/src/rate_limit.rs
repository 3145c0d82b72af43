//! What may be done so many times in a second.

use std::time::{Duration, Instant};

/// A right that is earned with time: so many in a second, and as many at once.
#[derive(Debug)]
pub(crate) struct Bucket {
    rate: u64,
    /// In billionths, so that none is lost between two looks however close they are.
    credit: u64,
    at: Option<Instant>,
}

/// The right to one.
const ONE: u64 = 1_000_000_000;

impl Bucket {
    pub(crate) fn new(rate: u32) -> Bucket {
        Bucket { rate: rate.into(), credit: u64::from(rate) * ONE, at: None }
    }

    /// Whether nothing of it was used lately.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.at.is_none_or(|at| now.saturating_duration_since(at) >= Duration::from_secs(1))
    }

    /// Whether there is the right now.
    pub(crate) fn has(&mut self, now: Instant) -> bool {
        let since = self.at.replace(now).map_or(Duration::ZERO, |then| now.saturating_duration_since(then));
        let earned = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX).saturating_mul(self.rate);
        self.credit = self.credit.saturating_add(earned).min(self.rate * ONE);
        self.credit >= ONE
    }

    /// Uses the right once, if there is one now.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let may = self.has(now);
        if may {
            self.credit -= ONE;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_does_not_starve_what_is_earned_with_time() {
        let mut bucket = Bucket::new(3);
        let start = crate::testing::instant();
        let taken = (0..1_000_000).filter(|tick| bucket.take(start + Duration::from_micros(tick * 10))).count();
        assert_eq!(taken, 3 + 29);
    }
}
