//! What comes again and again, for the log: reported once in a while with how often it came, each time with its end. Pure.

use std::time::{Duration, Instant};

/// One such thing.
#[derive(Debug)]
pub struct Trouble {
    /// It is reported again after so long.
    again: Duration,
    reported: Option<Instant>,
    /// How often it came since then.
    times: u64,
    /// Its end is to be reported.
    owed: bool,
}

impl Trouble {
    /// One that has not come so far.
    pub fn reported_again_after(again: Duration) -> Trouble {
        Trouble { again, reported: None, times: 0, owed: false }
    }

    /// It came. Where that is to be reported, how often it came since it was reported last.
    pub fn came(&mut self, now: Instant) -> Option<u64> {
        if !self.is_news(now) {
            self.times = self.times.saturating_add(1);
            return None;
        }
        (self.reported, self.owed) = (Some(now), true);
        Some(std::mem::take(&mut self.times))
    }

    /// Whether it would be reported if it came now.
    pub fn is_news(&self, now: Instant) -> bool {
        self.reported.is_none_or(|reported| now.saturating_duration_since(reported) >= self.again)
    }

    /// All is well. True where it was reported that it was not.
    pub fn is_over(&mut self) -> bool {
        std::mem::take(&mut self.owed)
    }
}

/// The end of a line about what came so often since it was reported last.
pub fn repeated(times: u64) -> String {
    if times == 0 { String::new() } else { format!("; the same {times} times since it was reported last") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_all_the_time_is_told_once_an_hour_and_so_is_its_end() {
        let (mut trouble, start) = (Trouble::reported_again_after(Duration::from_secs(3600)), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert!(!trouble.is_over());
        let reported: Vec<(u64, u64)> =
            (0..7_300_000).step_by(200).filter_map(|ms| Some((ms / 1000, trouble.came(at(ms))?))).collect();
        assert_eq!(reported, [(0, 0), (3600, 17_999), (7200, 17_999)]);
        assert!(trouble.is_over() && !trouble.is_over());
        // Where one in two fails, neither is told each time.
        let lines = (0..3000).filter(|n| trouble.came(at(7_300_000 + n * 400)).is_some() || trouble.is_over()).count();
        assert_eq!(lines, 0);
    }

    #[test]
    fn a_line_says_how_often_it_was_not_told() {
        assert_eq!((repeated(0).as_str(), repeated(7).as_str()), ("", "; the same 7 times since it was reported last"));
    }
}
