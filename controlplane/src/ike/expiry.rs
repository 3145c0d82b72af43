//! Certificates that end soon: said in the log, once a day. Pure.

use std::collections::BTreeMap;

use adit_engine::auth::own::WARN_BEFORE;

const DAY: u64 = 24 * 3600;
/// Between two looks, in seconds: it is about days. Sooner, where certificates may be others now.
const LOOK_EVERY: u64 = 60;
const NO_MORE_OFTEN: u64 = 5;

/// A certificate, or a chain of them, in use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ending {
    /// Whose, for people: `our certificate CN=a`.
    pub whose: String,
    /// Its end, in seconds since 1970 UTC.
    pub until: u64,
    /// Of this gateway, and not of a peer.
    pub is_ours: bool,
}

/// What has been said.
#[derive(Debug, Default)]
pub struct Warnings {
    looked: Option<u64>,
    /// Since then other certificates may have come.
    changed: bool,
    /// When each was warned of last.
    said: BTreeMap<Ending, u64>,
}

impl Warnings {
    /// Other certificates may be in use from now on.
    pub fn changed(&mut self) {
        self.changed = true;
    }

    /// Whether it is time to look again. `now` is in seconds since 1970 UTC.
    pub fn is_due(&mut self, now: u64) -> bool {
        let wait = if self.changed { NO_MORE_OFTEN } else { LOOK_EVERY };
        let due = self.looked.is_none_or(|looked| now.abs_diff(looked) >= wait);
        if due {
            (self.looked, self.changed) = (Some(now), false);
        }
        due
    }

    /// The lines for the log, of all certificates that are in use.
    pub fn lines(&mut self, now: u64, all: Vec<Ending>) -> Vec<String> {
        // Whoever comes and goes is not warned of each time.
        self.said.retain(|known, said| all.contains(known) || now.abs_diff(*said) < DAY);
        let soon = all.into_iter().filter(|ending| ending.until < now.saturating_add(WARN_BEFORE));
        let mut lines = Vec::new();
        for ending in soon {
            if self.said.get(&ending).is_some_and(|said| now.abs_diff(*said) < DAY) {
                continue;
            }
            lines.push(line(&ending, now));
            self.said.insert(ending, now);
        }
        lines
    }
}

fn line(Ending { whose, until, is_ours }: &Ending, now: u64) -> String {
    let when = match until.checked_sub(now).map(|left| (left / DAY, left / 3600)) {
        None => "has expired".to_owned(),
        Some((0, hours)) => format!("ends in {hours} hours"),
        Some((1, _)) => "ends in a day".to_owned(),
        Some((days, _)) => format!("ends in {days} days"),
    };
    // Ours is read again by itself (renewal.rs), and the peer shows its own when it authenticates anew.
    let remedy = if *is_ours { "renew it, and the new file is taken by itself" } else { "it has to be renewed there" };
    format!("{whose} {when}: {remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(until: u64) -> Vec<Ending> {
        vec![Ending { whose: "our certificate CN=a".to_owned(), until, is_ours: true }]
    }

    #[test]
    fn each_certificate_is_warned_of_once_a_day_from_a_month_before() {
        let (mut warnings, until) = (Warnings::default(), 100 * DAY);
        let mut lines = Vec::new();
        // Every minute for the last forty days and one day after.
        for now in (60 * DAY..101 * DAY).step_by(60) {
            assert!(warnings.is_due(now));
            lines.extend(warnings.lines(now, ours(until)).into_iter().map(|line| (now / DAY, line)));
        }
        let days: Vec<u64> = lines.iter().map(|(day, _)| *day).collect();
        assert_eq!(days, (70..=100).collect::<Vec<u64>>());
        assert_eq!(lines[0].1, "our certificate CN=a ends in 29 days: renew it, and the new file is taken by itself");
        assert_eq!(lines[29].1, "our certificate CN=a ends in 23 hours: renew it, and the new file is taken by itself");
        assert_eq!(lines[30].1, "our certificate CN=a has expired: renew it, and the new file is taken by itself");
    }

    #[test]
    fn a_renewed_certificate_is_a_new_one_and_looks_are_far_apart() {
        let mut warnings = Warnings::default();
        assert!(warnings.is_due(0) && !warnings.is_due(59) && warnings.is_due(60));
        assert_eq!(warnings.lines(0, ours(DAY)).len(), 1);
        assert_eq!(warnings.lines(60, ours(DAY)).len(), 0);
        assert_eq!(warnings.lines(120, ours(400 * DAY)).len(), 0);
        assert_eq!(warnings.lines(180, ours(2 * DAY)).len(), 1);
    }

    #[test]
    fn certificates_that_may_be_others_are_looked_at_soon_and_not_always() {
        let mut warnings = Warnings::default();
        let mut looks = |changes: bool, seconds: std::ops::Range<u64>| {
            let look = |now: &u64| {
                if changes {
                    warnings.changed();
                }
                warnings.is_due(*now)
            };
            seconds.filter(look).collect::<Vec<_>>()
        };
        assert_eq!(looks(true, 0..12), [0, 5, 10], "the last change was not looked at");
        assert_eq!(looks(false, 12..130), [15, 75]);
    }
}
