//! Where a worker runs: on its own core while it has much to do there, wherever there is room while it has not.
//!
//! A core of its own keeps caches warm under load. But a worker that wakes now and then is best placed by the scheduler: pinned, it
//! would wait for whatever else has its core just then, for milliseconds at a time, though another core is free.

use core_affinity::CoreId;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// How long a worker is watched before it is judged.
const WINDOW_NS: u64 = 100_000_000;
/// Shares of a window, in percent: whoever uses less of its core roams, whoever uses as much of any has its own.
const LITTLE: u64 = 15;
const MUCH: u64 = 30;

/// The place of one worker; for its own thread.
#[derive(Debug)]
pub struct Roam {
    own: CpuSet,
    all: CpuSet,
    judge: Judge,
}

impl Roam {
    /// For a worker with this core, on its thread before it is pinned. `None` where there is no other core, or nobody can say.
    pub fn from(core: CoreId) -> Option<Roam> {
        let all = sched_getaffinity(None).ok().filter(|all| all.count() > 1)?;
        let mut own = CpuSet::new();
        own.set(core.id);
        Some(Roam { own, all, judge: Judge::default() })
    }

    /// Looks at the clock, and changes place if it is time.
    pub fn look(&mut self, now_ns: u64) {
        if !self.judge.is_due(now_ns) {
            return;
        }
        let used = clock_gettime(ClockId::ThreadCPUTime);
        let used_ns = used.tv_sec as u64 * 1_000_000_000 + used.tv_nsec as u64;
        if let Some(place) = self.judge.judge(Watched { now_ns, used_ns })
            && sched_setaffinity(None, if place == Place::Own { &self.own } else { &self.all }).is_ok()
        {
            // Where the kernel refuses, it goes on where it is, and asks again.
            self.judge.place = place;
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Place {
    #[default]
    Own,
    Any,
}

/// Clocks of a worker in nanoseconds: the time, and how long it had a core.
#[derive(Clone, Copy, Debug, Default)]
struct Watched {
    now_ns: u64,
    used_ns: u64,
}

/// Decides, and knows no kernel.
#[derive(Debug, Default)]
struct Judge {
    place: Place,
    began: Watched,
}

impl Judge {
    fn is_due(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.began.now_ns) >= WINDOW_NS
    }

    /// Where to go, if it can; `None` to stay.
    fn judge(&mut self, now: Watched) -> Option<Place> {
        let began = std::mem::replace(&mut self.began, now);
        let window = now.now_ns.saturating_sub(began.now_ns).max(1);
        let percent = now.used_ns.saturating_sub(began.used_ns).saturating_mul(100) / window;
        match self.place {
            Place::Own if percent < LITTLE => Some(Place::Any),
            Place::Any if percent >= MUCH => Some(Place::Own),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn an_idle_worker_roams_and_a_busy_one_has_its_own_core() {
        let mut judge = Judge::default();
        let mut after = |used: u64| {
            let Watched { now_ns, used_ns } = judge.began;
            let now = Watched { now_ns: now_ns + 100 * MS, used_ns: used_ns + used * MS };
            assert!(!judge.is_due(now.now_ns - 1) && judge.is_due(now.now_ns));
            let said = judge.judge(now);
            judge.place = said.unwrap_or(judge.place);
            said
        };
        let said = [1, 20, 29, 30, 100, 15, 14, 0].map(&mut after);
        assert_eq!(said, [Some(Place::Any), None, None, Some(Place::Own), None, None, Some(Place::Any), None]);
    }

    #[test]
    fn a_pinned_thread_that_does_nothing_may_run_anywhere_again() {
        let all = sched_getaffinity(None).unwrap();
        let Some(core) = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core)).nth(1) else { return };
        let look = move || {
            let mut roam = Roam::from(CoreId { id: core }).unwrap();
            assert!(core_affinity::set_for_current(CoreId { id: core }));
            roam.look(WINDOW_NS - 1);
            let before = sched_getaffinity(None).unwrap().count();
            roam.look(10_000 * MS);
            (before, sched_getaffinity(None).unwrap())
        };
        assert_eq!(std::thread::spawn(look).join().unwrap(), (1, all));
    }
}
