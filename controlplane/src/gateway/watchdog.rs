//! Whether the workers live. A process that hangs, or was stopped, keeps its end of the channel open: only its counters tell.

use adit_proto::stats::Count;

use super::{Gateway, Plane};
use crate::dataplane;

/// Looks in a row without a turn of a worker after which it is spoken of, and after which the data plane is replaced. Between two
/// looks is a second, and every worker is woken once a second, whatever else it has to do.
const WARN_AFTER: u32 = 3;
const DEAD_AFTER: u32 = 10;

/// What was seen at the last look. It is counted in looks and not read from a clock: while we are stopped ourselves, or the
/// machine sleeps, nobody looks, and such a time is nobody's fault.
#[derive(Debug, Default)]
pub(super) struct Watchdog(Vec<Progress>);

#[derive(Clone, Copy, Debug)]
struct Progress {
    turns: u64,
    /// Looks in a row at which it was the same.
    still: u32,
    /// That was said.
    reported: bool,
}

impl Watchdog {
    /// Takes the turns of all workers; gives the one that stood still for longest, and for how many looks. `again` hears of those that
    /// were spoken of and go on, and for how many looks they stood still.
    fn observe(&mut self, turns: &[u64], mut again: impl FnMut(usize, u32)) -> (usize, u32) {
        // Seen for the first time, a worker counts as moving.
        self.0.resize(turns.len(), Progress { turns: u64::MAX, still: 0, reported: false });
        for (worker, (progress, turns)) in self.0.iter_mut().zip(turns).enumerate() {
            if progress.turns == *turns {
                progress.still = progress.still.saturating_add(1);
            } else {
                if std::mem::take(&mut progress.reported) {
                    again(worker, progress.still);
                }
                progress.still = 0;
            }
            progress.turns = *turns;
        }
        let longest = self.0.iter().enumerate().max_by_key(|(_, progress)| progress.still);
        longest.map_or((0, 0), |(worker, progress)| (worker, progress.still))
    }

    /// Workers that have stood still for so long that it is time to say so, each once.
    fn news(&mut self) -> Vec<usize> {
        let still = self.0.iter_mut().enumerate().filter(|(_, progress)| progress.still >= WARN_AFTER && !progress.reported);
        still.map(|(worker, progress)| (progress.reported = true, worker).1).collect()
    }
}

impl Gateway {
    /// Looks whether all workers go on; to be called once a second. True when one has not for so long that nobody need wait more.
    pub(super) fn is_hung(&self, plane: &Plane, watchdog: &mut Watchdog) -> bool {
        let turns = self.view.with_master(|master| {
            let turns = |worker| master.counters(worker).count(Count::Turns);
            (0..master.workers()).map(turns).collect::<Vec<_>>()
        });
        let pid = plane.process.pid;
        let goes_on = |worker, still| {
            tracing::info!("worker {worker} of the data plane (process {pid}) goes on, after it stood still for {still} s");
        };
        let (_, still) = watchdog.observe(&turns.unwrap_or_default(), goes_on);
        for worker in watchdog.news() {
            tracing::warn!("worker {worker} of the data plane (process {pid}) has stood still for {WARN_AFTER} s");
        }
        if still < DEAD_AFTER {
            return false;
        }
        if dataplane::is_traced(pid) {
            // Said once.
            if still == DEAD_AFTER {
                tracing::warn!("the data plane (process {pid}) is left alone because a debugger has it");
            }
            return false;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worker_that_stood_still_for_longest_is_named() {
        let mut watchdog = Watchdog::default();
        let mut observe = |turns: &[u64]| watchdog.observe(turns, |_, _| {});
        assert_eq!(observe(&[7, 0]).1, 0, "the first look tells nothing");
        assert_eq!(observe(&[7, 1]), (0, 1));
        assert_eq!(observe(&[7, 1]), (0, 2));
        assert_eq!(observe(&[8, 1]), (1, 2));
        assert_eq!(observe(&[9, 2]).1, 0);
        assert_eq!(observe(&[]), (0, 0));
    }

    #[test]
    fn a_worker_that_stands_still_is_spoken_of_before_it_is_given_up() {
        let mut watchdog = Watchdog::default();
        let observed: Vec<u32> = (0..=DEAD_AFTER).map(|_| watchdog.observe(&[0], |_, _| {}).1).collect();
        assert_eq!(observed, (0..=DEAD_AFTER).collect::<Vec<_>>());
        const { assert!(WARN_AFTER < DEAD_AFTER) };
    }

    #[test]
    fn every_worker_that_stood_still_is_told_of_once_and_so_is_its_end() {
        let mut watchdog = Watchdog::default();
        let (mut reported, mut goes_on) = (Vec::new(), Vec::new());
        // The second stops a second after the first, and both go on; then the first stands still for less than is told of.
        for (look, turns) in [[0, 0], [0, 1], [0, 1], [0, 1], [0, 1], [0, 1], [1, 2], [1, 3], [1, 4], [2, 5]].iter().enumerate() {
            watchdog.observe(turns, |worker, still| goes_on.push((look, worker, still)));
            reported.extend(watchdog.news().into_iter().map(|worker| (look, worker)));
        }
        assert_eq!(reported, [(3, 0), (4, 1)]);
        assert_eq!(goes_on, [(6, 0, 5), (6, 1, 4)]);
    }
}
