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
}

impl Watchdog {
    /// Takes the turns of all workers; gives the one that stood still for longest, and for how many looks.
    fn observe(&mut self, turns: &[u64]) -> (usize, u32) {
        // Seen for the first time, a worker counts as moving.
        self.0.resize(turns.len(), Progress { turns: u64::MAX, still: 0 });
        for (progress, turns) in self.0.iter_mut().zip(turns) {
            progress.still = if progress.turns == *turns { progress.still.saturating_add(1) } else { 0 };
            progress.turns = *turns;
        }
        let longest = self.0.iter().enumerate().max_by_key(|(_, progress)| progress.still);
        longest.map_or((0, 0), |(worker, progress)| (worker, progress.still))
    }
}

impl Gateway {
    /// Looks whether all workers go on; to be called once a second. True when one has not for so long that nobody need wait more.
    pub(super) fn is_hung(&self, plane: &Plane, watchdog: &mut Watchdog) -> bool {
        let turns = self.view.with_master(|master| {
            let turns = |worker| master.counters(worker).count(Count::Turns);
            (0..master.workers()).map(turns).collect::<Vec<_>>()
        });
        let (worker, still) = watchdog.observe(&turns.unwrap_or_default());
        let pid = plane.process.pid;
        if still == WARN_AFTER {
            tracing::warn!("worker {worker} of the data plane (process {pid}) has stood still for {still} s");
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
        assert_eq!(watchdog.observe(&[7, 0]).1, 0, "the first look tells nothing");
        assert_eq!(watchdog.observe(&[7, 1]), (0, 1));
        assert_eq!(watchdog.observe(&[7, 1]), (0, 2));
        assert_eq!(watchdog.observe(&[8, 1]), (1, 2));
        assert_eq!(watchdog.observe(&[9, 2]).1, 0);
        assert_eq!(watchdog.observe(&[]), (0, 0));
    }

    #[test]
    fn a_worker_that_stands_still_is_spoken_of_before_it_is_given_up() {
        let mut watchdog = Watchdog::default();
        let observed: Vec<u32> = (0..=DEAD_AFTER).map(|_| watchdog.observe(&[0]).1).collect();
        assert_eq!(observed, (0..=DEAD_AFTER).collect::<Vec<_>>());
        const { assert!(WARN_AFTER < DEAD_AFTER) };
    }
}
