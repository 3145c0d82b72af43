//! When two peers begin to send to each other, and which of them have just been told so.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::ConnId;
use crate::limits::INTRODUCTIONS_MAX;

/// Two who both ask to be introduced to each other within this time are introduced once.
const ONCE_WITHIN: Duration = Duration::from_secs(1);
/// What is assumed of a client whose round trip has not been measured yet.
const RTT_ASSUMED: Duration = Duration::from_millis(100);
/// What is added to the longer way, for what else may keep a record waiting.
const SLACK: Duration = Duration::from_millis(20);
/// Nobody waits longer, whatever was measured: who is farther away begins late.
const START_LATEST: Duration = Duration::from_secs(2);

/// In what time each of the two begins, counted from when it reads this: the way to each takes half of its round trip, so both
/// begin at the same moment.
pub(super) fn starts(rtts: [Option<Duration>; 2]) -> [u16; 2] {
    let ways = rtts.map(|rtt| rtt.unwrap_or(RTT_ASSUMED) / 2);
    let start = (ways[0].max(ways[1]) + SLACK).min(START_LATEST);
    ways.map(|way| start.saturating_sub(way).as_millis() as u16)
}

/// Which connections have been introduced lately.
#[derive(Debug, Default)]
pub(super) struct Introductions {
    at: BTreeMap<(ConnId, ConnId), Instant>,
    order: VecDeque<(Instant, (ConnId, ConnId))>,
}

impl Introductions {
    /// Whether these two are to be introduced now; then it is remembered, if there is room.
    pub fn begin(&mut self, now: Instant, one: ConnId, other: ConnId) -> bool {
        while let Some((at, pair)) = self.order.front() {
            if now.saturating_duration_since(*at) < ONCE_WITHIN {
                break;
            }
            self.at.remove(pair);
            self.order.pop_front();
        }
        let pair = (one.min(other), one.max(other));
        if self.at.contains_key(&pair) {
            return false;
        }
        if self.order.len() < INTRODUCTIONS_MAX {
            self.at.insert(pair, now);
            self.order.push_back((now, pair));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::start;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn both_begin_at_the_same_moment_however_far_they_are() {
        for (one, other) in [(10, 200), (0, 0), (80, 80), (3000, 2)] {
            let [a, b] = starts([Some(ms(one)), Some(ms(other))]).map(u64::from);
            assert_eq!(a + one / 2, b + other / 2, "{one} and {other}");
            assert!(a >= 20 && b >= 20, "both read it before they begin");
        }
        assert_eq!(starts([None, Some(ms(20))]), [20, 60]);
    }

    #[test]
    fn nobody_waits_for_one_who_is_minutes_away() {
        assert_eq!(starts([Some(Duration::from_secs(600)), Some(ms(20))]), [0, 1990]);
    }

    #[test]
    fn two_who_ask_for_each_other_are_introduced_once() {
        let (mut known, [a, b, c]) = (Introductions::default(), [1, 2, 3].map(ConnId));
        assert!(known.begin(start(), a, b) && !known.begin(start() + ms(999), b, a));
        assert!(known.begin(start(), a, c));
        assert!(known.begin(start() + ms(1000), b, a));
        assert_eq!((known.at.len(), known.order.len()), (1, 1));
    }

    #[test]
    fn where_too_many_are_introduced_some_are_twice() {
        let mut known = Introductions::default();
        assert!((0..2 * INTRODUCTIONS_MAX as u64).all(|n| known.begin(start(), ConnId(n), ConnId(n + 1))));
        assert_eq!((known.at.len(), known.order.len()), (INTRODUCTIONS_MAX, INTRODUCTIONS_MAX));
        let last = 2 * INTRODUCTIONS_MAX as u64 - 1;
        assert!(!known.begin(start(), ConnId(0), ConnId(1)) && known.begin(start(), ConnId(last), ConnId(last + 1)));
    }
}
