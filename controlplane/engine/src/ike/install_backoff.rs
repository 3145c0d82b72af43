//! What the data plane refuses or loses. Only the Child SA concerned is replaced, and ever more rarely: the reason may stay,
//! and then neither the peer nor the data plane is to be kept busy.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The first wait, and the longest; each is twice the one before.
const WAIT: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(60);
/// After so long without another one it is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(180);

/// How often something went wrong with one child and lane, and until when nothing is tried.
#[derive(Clone, Copy, Debug)]
struct InstallBackoff {
    times: u32,
    until: Instant,
}

/// What the data plane refused or lost, by child and lane.
#[derive(Debug, Default)]
pub(super) struct InstallBackoffs(BTreeMap<(usize, u8), InstallBackoff>);

impl InstallBackoffs {
    /// Notes another one; says when to try again.
    pub(super) fn back_off(&mut self, now: Instant, place: (usize, u8)) -> Instant {
        let before = self.0.get(&place).filter(|backoff| now < backoff.until + FORGOTTEN_AFTER);
        if let Some(backoff) = before.filter(|backoff| now < backoff.until) {
            // Both halves of one SA, most likely.
            return backoff.until;
        }
        let times = before.map_or(0, |backoff| backoff.times);
        let until = now + WAIT.saturating_mul(1 << times.min(16)).min(WAIT_MAX);
        self.0.insert(place, InstallBackoff { times: times + 1, until });
        until
    }

    /// Until when a child and lane has to wait, or had to.
    pub(super) fn until(&self, place: (usize, u8)) -> Option<Instant> {
        self.0.get(&place).map(|backoff| backoff.until)
    }

    /// Whether a child and lane has to wait.
    pub(super) fn is_backing_off(&self, now: Instant, place: (usize, u8)) -> bool {
        self.until(place).is_some_and(|until| now < until)
    }

    /// Takes over what another IKE SA has seen.
    pub(super) fn extend(&mut self, from: InstallBackoffs) {
        self.0.extend(from.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ike::testing::instant;

    #[test]
    fn waits_grow_up_to_a_minute_and_are_forgotten() {
        let mut backoffs = InstallBackoffs::default();
        let mut now = instant();
        let mut waits = Vec::new();
        for _ in 0..9 {
            let until = backoffs.back_off(now, (0, 0));
            // The other half of the same SA does not count again.
            assert_eq!(backoffs.back_off(now, (0, 0)), until);
            assert!(backoffs.is_backing_off(now, (0, 0)) && !backoffs.is_backing_off(now, (0, 1)));
            waits.push((until - now).as_secs());
            now = until;
            assert!(!backoffs.is_backing_off(now, (0, 0)));
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        now += Duration::from_secs(181);
        assert_eq!(backoffs.back_off(now, (0, 0)) - now, Duration::from_secs(1));
    }

    #[test]
    fn who_takes_over_waits_for_the_same() {
        let (mut from, mut to) = (InstallBackoffs::default(), InstallBackoffs::default());
        let (first, second) = (from.back_off(instant(), (0, 1)), to.back_off(instant(), (1, 0)));
        to.extend(from);
        assert_eq!([(0, 1), (1, 0), (1, 1)].map(|place| to.until(place)), [Some(first), Some(second), None]);
    }
}
