//! How many lines of the log a peer may fill with what comes and goes with its connections. One with good credentials makes and replaces SAs
//! as fast as they are answered, and each comes with lines of its own: the first ones are written, the others counted.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use adit_proto::control::PeerId;

/// Lines of a peer that was quiet: some connections with all of their SAs.
const LINES: u32 = 16;
/// After so long it may have one more. Keys that are replaced every half a minute, which takes six lines, are all told.
const EVERY: Duration = Duration::from_secs(5);

/// What is left to each peer. Nothing is kept of those to whom all is left.
#[derive(Debug, Default)]
pub struct LogBudget(HashMap<PeerId, Spent>);

#[derive(Debug)]
struct Spent {
    left: u32,
    /// Until when lines were given back.
    since: Instant,
    left_out: u64,
}

impl Spent {
    fn give_back(&mut self, now: Instant) {
        let lines = (now.saturating_duration_since(self.since).as_secs() / EVERY.as_secs()) as u32;
        self.left = self.left.saturating_add(lines).min(LINES);
        self.since += EVERY * lines;
    }
}

impl LogBudget {
    /// Whether there is a line for this peer.
    pub fn take(&mut self, now: Instant, peer: PeerId) -> bool {
        let spent = self.0.entry(peer).or_insert(Spent { left: LINES, since: now, left_out: 0 });
        spent.give_back(now);
        let has_one = spent.left > 0;
        spent.left = spent.left.saturating_sub(1);
        spent.left_out = spent.left_out.saturating_add(u64::from(!has_one));
        has_one
    }

    /// Peers of which lines were left out and that have half of theirs again, and how many were left out since this was asked last.
    pub fn left_out(&mut self, now: Instant) -> Vec<(PeerId, u64)> {
        self.0.values_mut().for_each(|spent| spent.give_back(now));
        let quiet = self.0.iter_mut().filter(|(_, spent)| spent.left_out > 0 && spent.left >= LINES / 2);
        let told = quiet.map(|(peer, spent)| (*peer, std::mem::take(&mut spent.left_out))).collect();
        self.0.retain(|_, spent| spent.left < LINES);
        told
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
        let told = (0..60_000).step_by(10).filter(|ms| budget.take(at(*ms), PEER)).count();
        assert_eq!(told, 16 + 11, "in a minute");
        assert!(budget.take(at(60_000), PeerId(4)), "others have their own");
        assert_eq!(budget.left_out(at(60_000)), [], "it goes on");
        assert_eq!(budget.left_out(at(120_000)), [(PEER, 6000 - 27)]);
        assert_eq!(budget.left_out(at(121_000)), []);
        assert!(budget.left_out(at(600_000)).is_empty() && budget.0.is_empty(), "nothing is kept");
    }

    #[test]
    fn one_that_replaces_its_keys_as_configured_is_told_in_full() {
        let (mut budget, start) = (LogBudget::default(), Instant::now());
        for rekey in 0..1000 {
            let now = start + Duration::from_secs(30) * rekey;
            assert!((0..6).all(|_| budget.take(now, PEER)), "rekey {rekey}");
            assert_eq!(budget.left_out(now), []);
        }
    }
}
