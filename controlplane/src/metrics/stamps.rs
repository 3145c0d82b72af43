//! Events of which the program's own clock is kept, as times of day. Each is worked out once and kept: what is worked out anew at every
//! scrape wavers, and whatever counts its changes sees events that were none.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// A series: its family, and what tells it from the others there.
type Series = (&'static str, String);

/// The time of day of the last event of every series.
#[derive(Debug)]
pub struct Stamps {
    /// One moment by both names of the clock.
    began: (Instant, u64),
    known: HashMap<Series, (Instant, f64)>,
}

impl Default for Stamps {
    fn default() -> Stamps {
        let time = clock_gettime(ClockId::Monotonic);
        let ns = u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0);
        Stamps { began: (Instant::now(), ns), known: HashMap::new() }
    }
}

impl Stamps {
    /// Begins a scrape. What is not asked for in it is forgotten.
    pub fn scrape(&mut self, now: Instant, wall: SystemTime) -> Scrape<'_> {
        let before = std::mem::take(&mut self.known);
        let unix = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Scrape { stamps: self, before, now, unix }
    }
}

/// One scrape.
pub struct Scrape<'a> {
    stamps: &'a mut Stamps,
    before: HashMap<Series, (Instant, f64)>,
    now: Instant,
    unix: Duration,
}

impl Scrape<'_> {
    /// When the last event of a series was, in seconds since 1970 UTC, to a millisecond.
    pub fn time_of(&mut self, series: Series, at: Instant) -> f64 {
        let unix = || {
            let ago = self.now.saturating_duration_since(at);
            self.unix.saturating_sub(ago).as_millis() as f64 / 1e3
        };
        let known = self.before.get(&series).filter(|(event, _)| *event == at);
        let time = known.map_or_else(unix, |(_, time)| *time);
        self.stamps.known.insert(series, (at, time));
        time
    }

    /// An event that another process has told in nanoseconds of CLOCK_MONOTONIC, which is the clock of [`Instant`].
    pub fn instant_of(&self, ns: u64) -> Instant {
        let (began, began_ns) = self.stamps.began;
        let moment = match ns.checked_sub(began_ns) {
            Some(after) => began.checked_add(Duration::from_nanos(after)),
            None => began.checked_sub(Duration::from_nanos(began_ns - ns)),
        };
        // What is told by a hostile process may be any number.
        moment.unwrap_or(began)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(peer: &str) -> Series {
        ("adit_peer_last_receive_timestamp_seconds", peer.to_owned())
    }

    #[test]
    fn the_time_of_an_event_is_the_same_at_every_scrape() {
        let (mut stamps, began) = (Stamps::default(), Instant::now());
        let wall = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_900);
        // The two clocks are read one after the other, and one of them is set meanwhile.
        let look = |stamps: &mut Stamps, ms: u64, skew_ms: u64, at: Instant| {
            let (now, wall) = (began + Duration::from_millis(ms), wall + Duration::from_millis(ms + skew_ms));
            stamps.scrape(now, wall).time_of(series("b"), at)
        };
        let times: Vec<f64> = (0..50).map(|n| look(&mut stamps, n * 137, n % 3 * 400, began)).collect();
        assert!(times.iter().all(|time| *time == 1_700_000_000.9), "{times:?}");
        let later = began + Duration::from_millis(7000);
        assert_eq!(look(&mut stamps, 8000, 0, later), 1_700_000_007.9, "another event");
    }

    #[test]
    fn what_is_not_asked_for_any_more_is_forgotten() {
        let (mut stamps, now) = (Stamps::default(), Instant::now());
        let mut scrape = stamps.scrape(now, SystemTime::now());
        for peer in 0..1000 {
            scrape.time_of(series(&peer.to_string()), now);
        }
        stamps.scrape(now, SystemTime::now()).time_of(series("b"), now);
        assert_eq!(stamps.known.len(), 1);
    }

    #[test]
    fn what_another_process_tells_is_a_moment_of_our_clock() {
        let mut stamps = Stamps::default();
        let (began, ns) = stamps.began;
        let scrape = stamps.scrape(began, SystemTime::now());
        assert_eq!(scrape.instant_of(ns + 5), began + Duration::from_nanos(5));
        assert_eq!(scrape.instant_of(ns - 5), began - Duration::from_nanos(5));
        let _ = (scrape.instant_of(0), scrape.instant_of(u64::MAX));
    }
}
