//! What the relay counts of whom it lets in and whom not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use adit_proto::rate_limit::Share;

use crate::login::Refusal;
use crate::quotas::TurnedAway;

/// Why somebody was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Closed before a byte was read.
    Turned(TurnedAway),
    /// Pushed out by those who came after, since there were too many strangers.
    PushedOut,
    /// Neither handshake nor login in time.
    Late,
    /// The first byte is none of TLS: plain HTTP, or something else.
    NotTls,
    /// No version of TLS, group or signature in common.
    TlsIncompatible,
    /// A handshake that was broken or broken off; also by a client that pins another key.
    TlsFailed,
    /// What was asked for does not exist, or was not HTTP.
    NotFound,
    /// A page without its token.
    PageToken,
    Login(Refusal),
}

impl Why {
    const PLAIN: [Why; 7] =
        [Why::PushedOut, Why::Late, Why::NotTls, Why::TlsIncompatible, Why::TlsFailed, Why::NotFound, Why::PageToken];

    /// All of them, each in its place.
    pub fn all() -> impl Iterator<Item = Why> {
        TurnedAway::ALL.into_iter().map(Why::Turned).chain(Why::PLAIN).chain(Refusal::ALL.into_iter().map(Why::Login))
    }

    /// The word for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Why::Turned(turned) => turned.label(),
            Why::PushedOut => "pushed_out",
            Why::Late => "late",
            Why::NotTls => "not_tls",
            Why::TlsIncompatible => "tls_incompatible",
            Why::TlsFailed => "tls_failed",
            Why::NotFound => "not_found",
            Why::PageToken => "page_token",
            Why::Login(refusal) => refusal.word(),
        }
    }
}

/// How often it is told in the log who was not let in.
const TOLD_PER_S: u32 = 1;

/// The counters of the shell.
#[derive(Debug)]
pub(crate) struct Tally {
    refused: Vec<(Why, AtomicU64)>,
    accepted: AtomicU64,
    logins: AtomicU64,
    told: Mutex<Share>,
}

impl Default for Tally {
    fn default() -> Tally {
        let refused = Why::all().map(|why| (why, AtomicU64::new(0))).collect();
        Tally { refused, accepted: AtomicU64::new(0), logins: AtomicU64::new(0), told: Mutex::default() }
    }
}

impl Tally {
    pub fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub fn accepted_so_far(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    pub fn login(&self) {
        self.logins.fetch_add(1, Ordering::Relaxed);
    }

    pub fn logins_so_far(&self) -> u64 {
        self.logins.load(Ordering::Relaxed)
    }

    pub fn refuse(&self, why: Why) {
        if let Some((_, count)) = self.refused.iter().find(|(known, _)| *known == why) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often each was a reason.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.refused.iter().map(|(why, count)| (why.label(), count.load(Ordering::Relaxed)))
    }

    /// Whether the log has room for one more line about somebody who was not let in: strangers can make as many as they like.
    pub fn may_tell(&self, since_start: Duration) -> bool {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).take(TOLD_PER_S, since_start.as_micros() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_has_a_word_of_its_own_and_is_counted() {
        let tally = Tally::default();
        let words: BTreeSet<&str> = Why::all().map(Why::label).collect();
        assert_eq!(words.len(), Why::all().count());
        for why in Why::all() {
            tally.refuse(why);
        }
        assert!(tally.refused().all(|(_, count)| count == 1));
    }

    #[test]
    fn strangers_do_not_fill_the_log() {
        let tally = Tally::default();
        let told = (0..10_000).filter(|ms| tally.may_tell(Duration::from_millis(*ms))).count();
        assert!((1..=12).contains(&told), "{told} lines in ten seconds");
    }
}
