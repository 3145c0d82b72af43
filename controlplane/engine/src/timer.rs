//! When whose next deadline is: an ordered set, so that ten thousand SAs cost no scan.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// At most one deadline for each key.
#[derive(Debug)]
pub(crate) struct Timers<K> {
    due: BTreeSet<(Instant, K)>,
    of: BTreeMap<K, Instant>,
}

impl<K: Ord + Copy> Timers<K> {
    pub(crate) fn new() -> Timers<K> {
        Timers { due: BTreeSet::new(), of: BTreeMap::new() }
    }

    /// Sets, moves or (with `None`) removes the deadline of a key.
    pub(crate) fn set(&mut self, key: K, at: Option<Instant>) {
        if self.of.get(&key).copied() == at {
            return;
        }
        if let Some(old) = self.of.remove(&key) {
            self.due.remove(&(old, key));
        }
        if let Some(at) = at {
            self.of.insert(key, at);
            self.due.insert((at, key));
        }
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Removes and returns the keys whose deadlines are not after `now`, the earliest first.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<K> {
        let mut keys = Vec::new();
        while let Some((_, key)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.pop_first();
            self.of.remove(&key);
            keys.push(key);
        }
        keys
    }
}

/// The earlier of two deadlines, where there may be none.
pub(crate) fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
