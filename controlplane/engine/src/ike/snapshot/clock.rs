//! Times that mean the same in this process and the next.

use std::time::{Duration, Instant};

/// The monotonic clock, as a number that outlives the process.
#[derive(Clone, Copy, Debug)]
pub struct BootClock {
    now: Instant,
    boot_ms: u64,
}

/// The epoch in a record: large enough for everything that was before it.
pub(super) const EPOCH_MS: u64 = 1 << 48;

impl BootClock {
    /// `boot_ms` is the time since boot, in milliseconds, at `now`.
    pub fn new(now: Instant, boot_ms: u64) -> BootClock {
        BootClock { now, boot_ms }
    }

    pub(super) fn now(self) -> Instant {
        self.now
    }

    pub(super) fn to_ms(self, at: Instant) -> u64 {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        match at.checked_duration_since(self.now) {
            Some(ahead) => self.boot_ms.saturating_add(millis(ahead)),
            None => self.boot_ms.saturating_sub(millis(self.now.saturating_duration_since(at))),
        }
    }

    /// The same clock, for times that were written relative to an epoch, given in milliseconds since boot.
    pub(in crate::ike) fn since(self, epoch: u64) -> BootClock {
        BootClock { now: self.now, boot_ms: EPOCH_MS.saturating_add(self.boot_ms).saturating_sub(epoch) }
    }

    /// An instant before this process began may not exist; then it is as early as can be.
    pub(super) fn instant(self, ms: u64) -> Instant {
        match ms.checked_sub(self.boot_ms) {
            Some(ahead) => self.now.checked_add(Duration::from_millis(ahead)).unwrap_or(self.now),
            None => self.now.checked_sub(Duration::from_millis(self.boot_ms - ms)).unwrap_or(self.now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ike::testing::instant;

    #[test]
    fn a_time_means_the_same_whenever_it_is_written_and_read() {
        let epoch = instant() + Duration::from_secs(1000);
        let at = epoch + Duration::from_secs(5);
        let written = BootClock::new(epoch, EPOCH_MS).to_ms(at);
        let header = BootClock::new(epoch + Duration::from_secs(60), 3_660_000).to_ms(epoch);
        // The next process, on the same clock a minute later.
        let later = BootClock::new(epoch + Duration::from_secs(120), 3_720_000);
        let clock = later.since(header);
        assert_eq!(clock.instant(written), at);
        assert_eq!(
            clock.instant(BootClock::new(epoch, EPOCH_MS).to_ms(epoch - Duration::from_secs(900))),
            epoch - Duration::from_secs(900)
        );
    }
}
