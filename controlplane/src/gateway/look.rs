//! When something is to be looked at because the kernel has news of it: several changes come at once, and they may come for ever.

use std::time::{Duration, Instant};

/// The next look, and the last one.
#[derive(Debug, Default)]
pub(super) struct Look {
    at: Option<Instant>,
    last: Option<Instant>,
}

impl Look {
    /// At once: there may have been news while nobody listened.
    pub(super) fn now() -> Look {
        Look { at: Some(Instant::now()), last: None }
    }

    /// There is news: it is looked at `settle` after the first of several, and not before `every` has gone by since the last look.
    pub(super) fn news(&mut self, settle: Duration, every: Duration) {
        let soon = Instant::now() + settle;
        let at = self.last.map_or(soon, |last| soon.max(last + every));
        self.at.get_or_insert(at);
    }

    /// When it is to be looked at, if there was news.
    pub(super) fn due(&self) -> Option<Instant> {
        self.at
    }

    /// It is looked at now.
    pub(super) fn done(&mut self) {
        *self = Look { at: None, last: Some(Instant::now()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_looked_soon_once_for_many_news_and_not_too_often() {
        let (settle, every) = (Duration::from_millis(50), Duration::from_secs(60));
        let mut look = Look::default();
        assert_eq!(look.due(), None);
        look.news(settle, every);
        let first = look.due().unwrap();
        assert!(first <= Instant::now() + settle);
        look.news(settle, every);
        assert_eq!(look.due(), Some(first), "more news wait for the look that is due");
        look.done();
        assert_eq!(look.due(), None);
        let done = Instant::now();
        look.news(settle, every);
        assert!(look.due().unwrap() > done + every - settle);
        assert!(Look::now().due().is_some());
    }
}
