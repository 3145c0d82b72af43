//! When a data plane that died is started again: at once, and more slowly where it dies again and again.

use std::time::Duration;

/// Deaths in a row after which restarts begin to wait.
const FAST_RESTARTS: u32 = 5;
/// Longest wait between restarts.
const RESTART_WAIT_MAX: Duration = Duration::from_secs(30);
/// A data plane that lived this long is taken for healthy: the next death counts as the first.
const HEALTHY: Duration = Duration::from_secs(60);

/// What is known of the data planes before.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    /// Deaths in a row.
    deaths: u32,
    /// One was up and filled in this run.
    up_before: bool,
}

impl Restarts {
    /// A data plane is up and filled.
    pub(super) fn up(&mut self) {
        self.up_before = true;
    }

    /// Whether one was up in this run: then what fails now is tried again.
    pub(super) fn up_before(&self) -> bool {
        self.up_before
    }

    /// It died after so long.
    pub(super) fn died(&mut self, lived: Duration) {
        self.deaths = if lived >= HEALTHY { 1 } else { self.deaths.saturating_add(1) };
    }

    /// It could not be started.
    pub(super) fn failed(&mut self) {
        self.died(Duration::ZERO);
    }

    /// It was ended on purpose.
    pub(super) fn replaced(&mut self) {
        self.deaths = 0;
    }

    /// How long to wait before the next start; said where it is not at once.
    pub(super) fn wait(&self) -> Duration {
        let wait = restart_wait(self.deaths);
        if !wait.is_zero() {
            tracing::warn!("the data plane died {} times in a row: the next start is in {} s", self.deaths, wait.as_secs());
        }
        wait
    }
}

/// How long to wait before a restart after so many deaths in a row.
fn restart_wait(deaths: u32) -> Duration {
    match deaths.checked_sub(FAST_RESTARTS) {
        None | Some(0) => Duration::ZERO,
        Some(slow) => Duration::from_secs(1 << (slow - 1).min(10)).min(RESTART_WAIT_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_are_fast_five_times_and_then_wait_up_to_thirty_seconds() {
        let waits: Vec<u64> = (1..=13).map(|deaths| restart_wait(deaths).as_secs()).collect();
        assert_eq!(waits, [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(restart_wait(u32::MAX), RESTART_WAIT_MAX);
    }
}
