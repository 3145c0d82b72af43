//! What the relay counts of whom it lets in and whom not.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use adit_engine::random::Random;

use crate::login::Refusal;
use crate::quotas::{Network, Rate, Share, Shares, TurnedAway};

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

/// How often it is reported in the log who was not let in: of all, and of one network, so that one does not hide the others.
const REPORTED: Rate = Rate { burst: 20, ..Rate::per_second(5) };
const REPORTED_OF_NETWORK: Rate = Rate { amount: 1, per: Duration::from_secs(10), burst: 3 };

/// The counters of the shell.
#[derive(Debug)]
pub(crate) struct Tally {
    refused: Vec<(Why, AtomicU64)>,
    accepted: AtomicU64,
    logins: AtomicU64,
    held_back: AtomicU64,
    reported: Mutex<Reported>,
}

/// What the log has room for.
#[derive(Debug)]
struct Reported {
    all: Share,
    of_network: Shares,
    /// So many were not reported since the last one was.
    unreported: u64,
}

impl Tally {
    pub fn new(random: &mut dyn Random) -> Tally {
        let refused = Why::all().map(|why| (why, AtomicU64::new(0))).collect();
        let reported = Reported { all: Share::default(), of_network: Shares::new(random), unreported: 0 };
        let zero = || AtomicU64::new(0);
        Tally { refused, accepted: zero(), logins: zero(), held_back: zero(), reported: Mutex::new(reported) }
    }

    /// A client sends more than it may, and is read from no further for a while.
    pub fn held_back(&self) {
        self.held_back.fetch_add(1, Ordering::Relaxed);
    }

    pub fn held_back_so_far(&self) -> u64 {
        self.held_back.load(Ordering::Relaxed)
    }

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

    /// Whether the log has room for one more line about somebody from there who was not let in: strangers can make as many as they
    /// like. If it has, how many were left out since the last one.
    pub fn may_tell(&self, now: Instant, from: IpAddr) -> Option<u64> {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = reported.of_network.take(now, Network::of(from), REPORTED_OF_NETWORK).is_ok();
        if !has_room || reported.all.take(now, 1, REPORTED).is_err() {
            reported.unreported += 1;
            return None;
        }
        Some(std::mem::take(&mut reported.unreported))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    use super::*;
    use crate::testing::{Dice, start};

    #[test]
    fn every_reason_has_a_word_of_its_own_and_is_counted() {
        let tally = Tally::new(&mut Dice::new(1));
        let words: BTreeSet<&str> = Why::all().map(Why::label).collect();
        assert_eq!(words.len(), Why::all().count());
        for why in Why::all() {
            tally.refuse(why);
        }
        assert!(tally.refused().all(|(_, count)| count == 1));
    }

    #[test]
    fn strangers_do_not_fill_the_log() {
        let tally = Tally::new(&mut Dice::new(1));
        let at = |ms| start() + Duration::from_millis(ms);
        let from = |network: u32| Ipv4Addr::from_bits(network << 8).into();
        let reported = (0..10_000).filter(|ms| tally.may_tell(at(*ms), from(*ms as u32)).is_some()).count();
        assert!((1..=70).contains(&reported), "{reported} lines in ten seconds");
    }

    #[test]
    fn one_network_hides_no_other_and_how_many_are_left_out_is_told() {
        let tally = Tally::new(&mut Dice::new(1));
        let [noisy, other] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 1)].map(IpAddr::from);
        let reported = (0..1000).filter(|_| tally.may_tell(start(), noisy).is_some()).count();
        assert_eq!((reported, tally.may_tell(start(), other)), (3, Some(997)));
        assert_eq!(tally.may_tell(start(), other), Some(0));
    }
}
