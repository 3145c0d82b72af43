//! How many lines of the log a peer may fill with what comes and goes with its connections. One with good credentials makes and replaces SAs
//! as fast as they are answered, and each comes with lines of its own: the first ones are written, the others counted.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use adit_proto::control::PeerId;

use crate::limits::LINES_AT_ONCE_MAX;

/// Lines of a peer that was quiet: for one connection with its SAs, and a few more.
const LINES: u32 = 3;
const LINES_OF_SA: u32 = 2;
/// It has as many again after this time: keys that are replaced every half a minute, a line and one more for each SA, are all told.
const AGAIN: Duration = Duration::from_secs(60);

/// What is left to each peer. Nothing is kept of those to whom all is left.
#[derive(Debug, Default)]
pub struct LogBudget(HashMap<PeerId, Spent>);

#[derive(Debug)]
struct Spent {
    /// What a quiet one has.
    all: u32,
    left: u32,
    /// Until when lines were given back.
    since: Instant,
    left_out: u64,
}

impl Spent {
    fn give_back(&mut self, now: Instant) {
        let each = AGAIN / self.all;
        let lines = (now.saturating_duration_since(self.since).as_nanos() / each.as_nanos()).try_into().unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(lines).min(self.all);
        self.since += each * lines;
    }
}

impl LogBudget {
    /// Whether there is a line for this peer, of which the configuration wants so many SAs.
    pub fn take(&mut self, now: Instant, peer: PeerId, sas: u32) -> bool {
        let all = sas.saturating_mul(LINES_OF_SA).saturating_add(LINES).min(LINES_AT_ONCE_MAX);
        let spent = self.0.entry(peer).or_insert(Spent { all, left: all, since: now, left_out: 0 });
        spent.give_back(now);
        let has_one = spent.left > 0;
        spent.left = spent.left.saturating_sub(1);
        spent.left_out = spent.left_out.saturating_add(u64::from(!has_one));
        has_one
    }

    /// Peers of which lines were left out and that have half of theirs again, and how many were left out since this was asked last.
    pub fn left_out(&mut self, now: Instant) -> Vec<(PeerId, u64)> {
        self.0.values_mut().for_each(|spent| spent.give_back(now));
        let quiet = self.0.iter_mut().filter(|(_, spent)| spent.left_out > 0 && spent.left >= spent.all / 2);
        let reported = quiet.map(|(peer, spent)| (*peer, std::mem::take(&mut spent.left_out))).collect();
        self.0.retain(|_, spent| spent.left < spent.all);
        reported
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PeerId = PeerId(3);

    #[test]
    fn one_that_goes_on_fast_gets_few_lines_and_is_told_of_when_it_is_quiet() {
        let (mut budget, start) = (LogBudget::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let reported = (0..60_000).step_by(10).filter(|ms| budget.take(at(*ms), PEER, 1)).count();
        assert_eq!(reported, 5 + 4, "in a minute");
        assert!(budget.take(at(60_000), PeerId(4), 1), "others have their own");
        assert_eq!(budget.left_out(at(60_000)), [], "it goes on");
        assert_eq!(budget.left_out(at(120_000)), [(PEER, 6000 - 9)]);
        assert_eq!(budget.left_out(at(121_000)), []);
        assert!(budget.left_out(at(600_000)).is_empty() && budget.0.is_empty(), "nothing is kept");
    }

    #[test]
    fn one_that_replaces_its_keys_as_configured_is_told_in_full() {
        let (mut budget, start) = (LogBudget::default(), Instant::now());
        for (peer, sas) in [(PeerId(1), 1), (PeerId(2), 4), (PeerId(3), 40)] {
            for rekey in 0..1000 {
                let now = start + Duration::from_secs(30) * rekey;
                assert!((0..1 + sas).all(|_| budget.take(now, peer, sas)), "{sas} SAs, rekey {rekey}");
                assert_eq!(budget.left_out(now), []);
            }
        }
    }

    #[test]
    fn one_with_many_sas_connects_in_full_and_has_an_end_all_the_same() {
        let now = Instant::now();
        let lines = |sas| {
            let mut budget = LogBudget::default();
            (0..10_000).filter(|_| budget.take(now, PEER, sas)).count()
        };
        assert!(lines(8) >= 2 + 8);
        assert_eq!(lines(u32::MAX), 512);
    }
}
