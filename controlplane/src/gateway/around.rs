//! Whether inner networks overlap those of other interfaces while the gateway runs. A file with such networks is refused by `config check`
//! and at a reload; interfaces that come later end nothing: that is said once and shown.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::Gateway;
use crate::survey::{self, Finding, Surroundings};

/// The machine is not looked at more often, however often its addresses and routes change.
const NO_MORE_OFTEN: Duration = Duration::from_secs(5);

/// What was seen of the machine.
pub(super) struct Around {
    /// Something may be different.
    changed: bool,
    /// A look that is under way: with many routes it takes its time.
    looking: Option<JoinHandle<Vec<Finding>>>,
    looked: Option<Instant>,
    said: BTreeSet<String>,
}

impl Default for Around {
    fn default() -> Around {
        Around { changed: true, looking: None, looked: None, said: BTreeSet::new() }
    }
}

impl Around {
    /// Addresses or routes of the machine, or the configuration, are others than before.
    pub(super) fn changed(&mut self) {
        self.changed = true;
    }

    /// Whether it is to be looked now.
    fn is_due(&self, now: Instant) -> bool {
        let rested = self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= NO_MORE_OFTEN);
        self.changed && self.looking.is_none() && rested
    }

    /// Lines for the log: what was not found before, and whether all is gone that was.
    fn news(&mut self, findings: &[Finding]) -> (Vec<String>, bool) {
        let found: BTreeSet<String> =
            findings.iter().map(|one| format!("{}: {}. Write {}", one.key, one.what, one.write)).collect();
        let new = found.difference(&self.said).cloned().collect();
        let is_over = found.is_empty() && !self.said.is_empty();
        self.said = found;
        (new, is_over)
    }
}

impl Gateway {
    /// Looks at the machine where something of it has changed. To be called once a second.
    pub(super) async fn look_around(&mut self) {
        if let Some(looking) = self.around.looking.take_if(|looking| looking.is_finished()) {
            // One that died has found nothing, and the next one comes.
            let findings = looking.await.unwrap_or_default();
            let (new, is_over) = self.around.news(&findings);
            new.iter().for_each(|line| tracing::warn!("{line}"));
            if is_over {
                tracing::info!("no inner network overlaps that of another interface any more");
            }
            self.view.set_overlaps(findings);
        }
        if self.around.is_due(Instant::now()) {
            (self.around.changed, self.around.looked) = (false, Some(Instant::now()));
            let desired = self.desired.clone();
            let look = move || survey::overlaps(&desired.config, &Surroundings::here(&desired.config));
            self.around.looking = Some(tokio::task::spawn_blocking(look));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlap_is_said_once_and_so_is_its_end() {
        let mut around = Around::default();
        let finding = |key: &str| {
            let (key, what, write) = (key.to_owned(), "10.2.0.0/24 overlaps".to_owned(), "another network".to_owned());
            Finding { key, what, write, fatal: true }
        };
        assert_eq!(around.news(&[]), (Vec::new(), false));
        let (new, _) = around.news(&[finding("a")]);
        assert_eq!(new, ["a: 10.2.0.0/24 overlaps. Write another network"]);
        assert_eq!(around.news(&[finding("a")]), (Vec::new(), false));
        assert_eq!(around.news(&[finding("a"), finding("b")]).0.len(), 1);
        assert_eq!((around.news(&[]), around.news(&[])), ((Vec::new(), true), (Vec::new(), false)));
    }

    #[test]
    fn the_machine_is_looked_at_when_it_has_changed_and_not_too_often() {
        let (mut around, start) = (Around::default(), Instant::now());
        assert!(around.is_due(start), "nobody has looked");
        (around.changed, around.looked) = (false, Some(start));
        assert!(!around.is_due(start + NO_MORE_OFTEN));
        around.changed();
        assert!(!around.is_due(start) && around.is_due(start + NO_MORE_OFTEN));
    }
}
