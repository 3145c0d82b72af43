//! Which of its relays a client calls home: the one with the clearly shortest round trip, by the medians of a minute, so that two that are
//! alike never take turns. Pure: time is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::limits::{RTT_SAMPLES_MAX, RTT_SAMPLES_MIN};

/// What is older says nothing of now.
const WINDOW: Duration = Duration::from_secs(60);
/// So much of the window must be covered, or a good moment is taken for a good relay.
const COVERED: Duration = Duration::from_secs(50);
/// A relay must be nearer by so much, and by a fifth.
const NEARER_BY: Duration = Duration::from_millis(10);

/// The round trips of a minute at one relay.
#[derive(Debug, Default)]
pub(crate) struct RoundTrips(VecDeque<(Instant, Duration)>);

impl RoundTrips {
    pub(crate) fn push(&mut self, now: Instant, rtt: Duration) {
        self.forget_old(now);
        if self.0.len() == RTT_SAMPLES_MAX {
            self.0.pop_front();
        }
        self.0.push_back((now, rtt));
    }

    /// The median of what was measured in the last minute.
    pub(crate) fn median(&self, now: Instant) -> Option<Duration> {
        let mut recent: Vec<Duration> = self.recent(now).map(|(_, rtt)| *rtt).collect();
        recent.sort_unstable();
        recent.get(recent.len() / 2).copied()
    }

    /// The same, where there is enough of it to judge by.
    fn settled_median(&self, now: Instant) -> Option<Duration> {
        let first = self.recent(now).next()?.0;
        let is_enough = now.saturating_duration_since(first) >= COVERED && self.recent(now).count() >= RTT_SAMPLES_MIN;
        self.median(now).filter(|_| is_enough)
    }

    fn recent(&self, now: Instant) -> impl Iterator<Item = &(Instant, Duration)> {
        self.0.iter().filter(move |(at, _)| now.saturating_duration_since(*at) <= WINDOW)
    }

    fn forget_old(&mut self, now: Instant) {
        while self.0.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > WINDOW) {
            self.0.pop_front();
        }
    }
}

/// The home relay: over it goes what could go over several.
#[derive(Debug, Default)]
pub(crate) struct Home {
    relay: Option<usize>,
}

impl Home {
    pub(crate) fn relay(&self) -> Option<usize> {
        self.relay
    }

    /// Chooses among the relays at which the client is registered. True where the choice is another than before.
    ///
    /// One that is lost is replaced at once by the nearest that is left; one that holds only by one that was clearly nearer for a minute.
    pub(crate) fn choose(&mut self, now: Instant, registered: &[(usize, &RoundTrips)]) -> bool {
        let chosen = match registered.iter().find(|(relay, _)| Some(*relay) == self.relay) {
            Some((relay, trips)) => Some(nearer(now, trips, registered).unwrap_or(*relay)),
            // The order of the configuration decides where nothing is measured.
            None => {
                registered.iter().min_by_key(|(_, trips)| trips.median(now).unwrap_or(Duration::MAX)).map(|(relay, _)| *relay)
            }
        };
        let is_other = chosen != self.relay;
        self.relay = chosen;
        is_other
    }
}

/// The nearest of those that are clearly nearer than this one.
fn nearer(now: Instant, home: &RoundTrips, registered: &[(usize, &RoundTrips)]) -> Option<usize> {
    let home = home.settled_median(now)?;
    let medians = registered.iter().filter_map(|(relay, trips)| Some((trips.settled_median(now)?, *relay)));
    let (median, relay) = medians.min()?;
    (median + NEARER_BY.max(home / 5) <= home).then_some(relay)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many minutes with a sample every five seconds of each relay; how often the home changed, and where it ended.
    fn run(minutes: u64, rtt: impl Fn(u64, usize) -> Option<u64>) -> (u64, Option<usize>) {
        let (start, mut home, mut changes) = (Instant::now(), Home::default(), 0);
        let mut trips = [RoundTrips::default(), RoundTrips::default()];
        for second in 0..minutes * 60 {
            let now = start + Duration::from_secs(second);
            let present: Vec<usize> = (0..2).filter(|relay| rtt(second, *relay).is_some()).collect();
            let registered: Vec<(usize, &RoundTrips)> = present.iter().map(|relay| (*relay, &trips[*relay])).collect();
            changes += u64::from(home.choose(now, &registered));
            for relay in present.iter().filter(|_| second % 5 == 0) {
                trips[*relay].push(now, Duration::from_millis(rtt(second, *relay).unwrap()));
            }
        }
        (changes, home.relay())
    }

    #[test]
    fn two_relays_that_are_alike_never_take_turns() {
        // Each swings by ± 5 ms around the same 30 ms, against the other.
        let swing = |second: u64, relay: usize| Some(30 + [0, 5, 10, 3][(second as usize / 30 + relay * 2) % 4] - 5);
        assert_eq!(run(10, swing), (1, Some(0)));
        // Also where one is nearer by less than what counts.
        assert_eq!(run(10, |_, relay| Some([40, 32][relay])), (1, Some(0)));
        assert_eq!(run(10, |_, relay| Some([100, 85][relay])), (1, Some(0)));
    }

    #[test]
    fn the_nearer_relay_becomes_home_after_a_minute_and_once() {
        assert_eq!(run(10, |_, relay| Some([80, 10][relay])), (2, Some(1)));
        assert_eq!(run(10, |_, relay| Some([10, 80][relay])), (1, Some(0)));
        // Not in a good moment of half a minute.
        assert_eq!(run(10, |second, relay| Some(if relay == 1 && second % 300 > 270 { 10 } else { 50 })), (1, Some(0)));
    }

    #[test]
    fn a_lost_home_is_replaced_at_once_and_does_not_come_back_by_itself() {
        let lost = |second: u64, relay: usize| (relay == 1 || !(100..110).contains(&second)).then_some(20);
        assert_eq!(run(10, lost), (2, Some(1)));
        assert_eq!(run(1, |_, _| None), (0, None));
    }

    #[test]
    fn samples_are_bounded_and_grow_old() {
        let (start, mut trips) = (Instant::now(), RoundTrips::default());
        for sample in 0..10_000 {
            trips.push(start, Duration::from_millis(sample));
        }
        assert_eq!(trips.0.len(), RTT_SAMPLES_MAX);
        assert!(trips.median(start).is_some() && trips.median(start + WINDOW * 2).is_none());
        trips.push(start + WINDOW * 2, Duration::from_millis(7));
        assert_eq!((trips.0.len(), trips.median(start + WINDOW * 2)), (1, Some(Duration::from_millis(7))));
    }
}
