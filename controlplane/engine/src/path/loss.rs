//! How many of the last echoes on a path were lost, of those that were short enough for it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::limits::ECHOES_UNJUDGED_MAX;

/// Echoes that are looked back on, and how many must be judged before there is an answer.
const LAST: u32 = 64;
const LEAST: u32 = 8;

/// The last echoes of a path and what became of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Loss {
    waiting: VecDeque<(u64, Instant)>,
    /// One bit for each of the last that were judged, the newest lowest: set where it was lost.
    lost: u64,
    judged: u32,
}

impl Loss {
    pub(super) fn sent(&mut self, now: Instant, id: u64) {
        if self.waiting.len() < ECHOES_UNJUDGED_MAX {
            self.waiting.push_back((id, now));
        }
    }

    pub(super) fn answered(&mut self, id: u64) {
        if let Some(index) = self.waiting.iter().position(|(waits, _)| *waits == id) {
            self.waiting.remove(index);
            self.judge(false);
        }
    }

    /// What has waited for so long does not come any more.
    pub(super) fn give_up(&mut self, now: Instant, after: Duration) {
        while self.waiting.front().is_some_and(|(_, at)| now.saturating_duration_since(*at) >= after) {
            self.waiting.pop_front();
            self.judge(true);
        }
    }

    fn judge(&mut self, lost: bool) {
        self.lost = self.lost << 1 | u64::from(lost);
        self.judged = (self.judged + 1).min(LAST);
    }

    /// How many of the last echoes were lost, and of how many. Nothing is said before there are a few.
    pub(crate) fn of_last(&self) -> Option<(u32, u32)> {
        (self.judged >= LEAST).then(|| (self.lost.count_ones(), self.judged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::instant;

    const WAIT: Duration = Duration::from_secs(2);

    /// Echoes one after the other, of which those are lost.
    fn after(echoes: u64, is_lost: impl Fn(u64) -> bool) -> Option<(u32, u32)> {
        let (mut loss, mut now) = (Loss::default(), instant());
        for id in 0..echoes {
            loss.sent(now, id);
            if !is_lost(id) {
                loss.answered(id);
            }
            now += WAIT;
            loss.give_up(now, WAIT);
        }
        loss.of_last()
    }

    #[test]
    fn the_loss_among_the_last_echoes_is_known_once_there_are_a_few() {
        assert_eq!((after(7, |_| true), after(8, |_| true), after(8, |_| false)), (None, Some((8, 8)), Some((0, 8))));
        assert_eq!(after(64, |id| id % 4 == 0), Some((16, 64)));
        assert_eq!(after(1000, |id| id % 8 == 0), Some((8, 64)));
        assert_eq!(after(128, |id| id < 64), Some((0, 64)), "what is long ago does not count");
    }

    #[test]
    fn what_is_under_way_or_answered_twice_does_not_count() {
        let (mut loss, now) = (Loss::default(), instant());
        for id in 0..8 {
            loss.sent(now, id);
        }
        loss.give_up(now + WAIT - Duration::from_millis(1), WAIT);
        assert_eq!(loss.of_last(), None);
        for id in [0, 0, 1, 1, 99] {
            loss.answered(id);
        }
        loss.give_up(now + WAIT, WAIT);
        loss.answered(2);
        assert_eq!(loss.of_last(), Some((6, 8)));
    }

    #[test]
    fn echoes_without_end_and_without_answers_take_no_more_memory() {
        let mut loss = Loss::default();
        for id in 0..10_000 {
            loss.sent(instant(), id);
        }
        assert_eq!(loss.waiting.len(), ECHOES_UNJUDGED_MAX);
    }
}
