//! When an IKE SA was made, when it is to be rekeyed, and when it ends.

use std::time::{Duration, Instant};

use crate::random::Random;
use crate::timer::earlier;

use super::config::Lifetime;
use super::window::jittered;

/// Before a rekey of the IKE SA that came to nothing is tried again.
const REKEY_RETRY: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
pub(super) struct Lifetimes {
    established: Instant,
    rekey_at: Option<Instant>,
    expire_at: Option<Instant>,
}

impl Lifetimes {
    /// From a configured lifetime; without one it has no end. The rekey comes a little earlier by chance (RFC 7296 §2.8.1).
    pub(super) fn new(now: Instant, lifetime: &Lifetime, random: &mut dyn Random) -> Lifetimes {
        let after = lifetime.rekey_after;
        let timed = !after.is_zero();
        let hard = after.mul_f64(f64::from(lifetime.hard_percent.max(100)) / 100.0);
        Lifetimes {
            established: now,
            rekey_at: timed.then(|| now + jittered(after, lifetime.jitter_percent, random)),
            expire_at: timed.then(|| now + hard),
        }
    }

    /// As it was written down.
    pub(super) fn of_parts(established: Instant, rekey_at: Option<Instant>, expire_at: Option<Instant>) -> Lifetimes {
        Lifetimes { established, rekey_at, expire_at }
    }

    pub(super) fn established(&self) -> Instant {
        self.established
    }

    pub(super) fn rekey_at(&self) -> Option<Instant> {
        self.rekey_at
    }

    pub(super) fn expire_at(&self) -> Option<Instant> {
        self.expire_at
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        earlier(self.expire_at, self.rekey_at)
    }

    /// Whether it must not be used any more.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.expire_at.is_some_and(|at| at <= now)
    }

    /// Whether it is to be rekeyed now, because it is time or it is `past_soft_limit`. Then it is not said again for a while.
    pub(super) fn take_rekey(&mut self, now: Instant, past_soft_limit: bool) -> bool {
        let due = past_soft_limit || self.rekey_at.is_some_and(|at| at <= now);
        if due {
            self.rekey_at = Some(now + REKEY_RETRY);
        }
        due
    }

    /// A rekey came to nothing, for a reason that does not pass by itself.
    pub(super) fn rekey_later(&mut self, now: Instant, random: &mut dyn Random) {
        self.rekey_at = Some(now + jittered(REKEY_RETRY, 25, random));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ike::testing::instant;

    fn zeros(out: &mut [u8]) {
        out.fill(0);
    }

    #[test]
    fn a_rekey_is_asked_for_before_the_end_and_again_after_a_while() {
        let (now, lifetime) = (instant(), Lifetime { rekey_after: Duration::from_secs(1000), ..Lifetime::IKE });
        let mut lifetimes = Lifetimes::new(now, &lifetime, &mut zeros);
        let rekey_at = lifetimes.deadline().expect("a time");
        assert!(!lifetimes.take_rekey(now, false) && lifetimes.take_rekey(rekey_at, false));
        assert!(!lifetimes.take_rekey(rekey_at, false), "once");
        assert!(lifetimes.take_rekey(rekey_at, true) && lifetimes.take_rekey(rekey_at + REKEY_RETRY, false));
        let end = lifetimes.expire_at().expect("an end");
        assert!(end > rekey_at && !lifetimes.is_over(rekey_at) && lifetimes.is_over(end));
        let endless = Lifetimes::new(now, &Lifetime { rekey_after: Duration::ZERO, ..lifetime }, &mut zeros);
        assert_eq!(endless.deadline(), None);
    }

    #[test]
    fn it_ends_a_part_after_its_rekey_and_one_that_failed_is_tried_again() {
        let now = instant();
        for (hard_percent, end) in [(110, 1100), (100, 1000), (50, 1000)] {
            let lifetime = Lifetime { rekey_after: Duration::from_secs(1000), hard_percent, ..Lifetime::IKE };
            let mut lifetimes = Lifetimes::new(now, &lifetime, &mut zeros);
            let at = |seconds| Some(now + Duration::from_secs(seconds));
            assert_eq!((lifetimes.established(), lifetimes.rekey_at(), lifetimes.expire_at()), (now, at(1000), at(end)));
            lifetimes.rekey_later(now, &mut zeros);
            assert_eq!((lifetimes.rekey_at(), lifetimes.deadline()), (at(60), at(60)));
        }
    }
}
