//! What may be done so many times in a second.

use std::time::{Duration, Instant};

/// A right that is earned with time: so many in a second, and as many at once unless it says otherwise.
#[derive(Debug)]
pub(crate) struct Bucket {
    rate: u64,
    most: u64,
    /// In billionths, so that none is lost between two looks however close they are.
    credit: u64,
    at: Option<Instant>,
}

/// The right to one.
const ONE: u64 = 1_000_000_000;

impl Bucket {
    pub(crate) fn new(rate: u32) -> Bucket {
        Bucket::with_burst(rate, rate)
    }

    /// So many in a second, and that many at once.
    pub(crate) fn with_burst(rate: u32, burst: u32) -> Bucket {
        let most = u64::from(burst) * ONE;
        Bucket { rate: rate.into(), most, credit: most, at: None }
    }

    /// Whether all that was used is earned again.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.earned(now) == self.most
    }

    /// Whether nothing was used of it, or all was earned again when it was last looked at.
    pub(crate) fn was_full(&self) -> bool {
        self.credit == self.most
    }

    fn earned(&self, now: Instant) -> u64 {
        let since = self.at.map_or(Duration::ZERO, |then| now.saturating_duration_since(then));
        let earned = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX).saturating_mul(self.rate);
        self.credit.saturating_add(earned).min(self.most)
    }

    /// Whether there is the right now.
    pub(crate) fn has(&mut self, now: Instant) -> bool {
        self.credit = self.earned(now);
        self.at = Some(now);
        self.credit >= ONE
    }

    /// Uses the right once, if there is one now.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        self.take_all(now, 1)
    }

    /// Uses the right so many times, or not at all.
    pub(crate) fn take_all(&mut self, now: Instant, count: u32) -> bool {
        let (has, cost) = (self.has(now), u64::from(count) * ONE);
        let may = has && self.credit >= cost;
        if may {
            self.credit -= cost;
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

    #[test]
    fn more_at_once_than_in_a_second_is_earned_again_in_longer() {
        let (mut bucket, start) = (Bucket::with_burst(2, 10), crate::testing::instant());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(bucket.is_full(start) && !bucket.take_all(start, 11) && bucket.take_all(start, 8) && !bucket.take_all(start, 3));
        assert!(bucket.take_all(start, 2) && !bucket.take(start));
        assert!(!bucket.is_full(at(4)) && bucket.is_full(at(5)));
        assert!(bucket.take_all(at(3), 6) && !bucket.take(at(3)));
    }
}
