//! What the relay counts of whom it lets in and whom not, and the page of Prometheus with that and what the hall counts.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::TextEncoder;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use crate::door::Turned;
use crate::login::Refusal;

/// Why somebody was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Closed before a byte was read.
    Turned(Turned),
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
        Turned::ALL.into_iter().map(Why::Turned).chain(Why::PLAIN).chain(Refusal::ALL.into_iter().map(Why::Login))
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

/// The counters of the shell.
#[derive(Debug)]
pub struct Tally {
    refused: Vec<(Why, AtomicU64)>,
    pub accepted: AtomicU64,
    pub logins: AtomicU64,
}

impl Default for Tally {
    fn default() -> Tally {
        let refused = Why::all().map(|why| (why, AtomicU64::new(0))).collect();
        Tally { refused, accepted: AtomicU64::new(0), logins: AtomicU64::new(0) }
    }
}

impl Tally {
    pub fn refuse(&self, why: Why) {
        if let Some((_, count)) = self.refused.iter().find(|(known, _)| *known == why) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often each was a reason.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.refused.iter().map(|(why, count)| (why.label(), count.load(Ordering::Relaxed)))
    }
}
