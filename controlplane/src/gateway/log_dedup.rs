//! What the log has said already. A peer that does not come up is tried again and again, for the same reason; unauthenticated
//! initiators can send requests as fast as the line is. Each reason is reported once an hour, the others are counted; and that a peer is
//! well again is always reported.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use adit_engine::ike::{Cause, Error, Incompatibility};
use adit_engine::path::{Remote, Site};
use adit_proto::control::PeerId;

use crate::limits::{REPORTED_INITIATORS_MAX, REPORTED_LINES_MAX};
use crate::trouble::repeated;

/// A connection that was up for so long is well: what goes wrong after that is news again.
const WELL_AFTER: Duration = Duration::from_secs(60);
/// What comes again and again is reported again after so long, with how often it came.
const AGAIN: Duration = Duration::from_secs(3600);
/// How often unauthenticated initiators get a line of the log.
const INITIATORS_EVERY: Duration = Duration::from_secs(1);
/// After so long, one with the same reason gets another one.
const INITIATOR_AGAIN: Duration = Duration::from_secs(3600);

/// What makes a reason another one: not the time that is in its words, nor in which exchange it came.
pub fn reason(cause: &Cause) -> String {
    match cause {
        Cause::Refused { notify, .. } => notify.to_string(),
        Cause::Unanswered { exchange, .. } => format!("no answer to {exchange}"),
        Cause::Failed(Error::Incompatible(Incompatibility::Auth(error) | Incompatibility::AuthOrPpk(error))) => {
            error.code().to_owned()
        }
        cause => cause.to_string(),
    }
}

/// What was reported of the peers.
#[derive(Debug, Default)]
pub struct LogDedup(HashMap<PeerId, Reported>);

/// What was reported of one peer since it was last well.
#[derive(Debug, Default)]
struct Reported {
    /// When each was reported last, and how often it came since then.
    lines: BTreeMap<String, (Instant, u64)>,
    /// It went wrong.
    failing: bool,
    /// Complaints that were not reported.
    quiet: u64,
    up_since: Option<Instant>,
    /// It is connected, and lacks something all the same.
    lacks: bool,
    /// A complaint was reported, and its end was not.
    owed: bool,
    /// The same of its authentication, while what there is goes on.
    unproven: bool,
}

impl Reported {
    fn is_well(&self, now: Instant) -> bool {
        !self.lacks && self.up_since.is_some_and(|since| now.saturating_duration_since(since) >= WELL_AFTER)
    }
}

impl LogDedup {
    /// Whether this line about a peer is news, and then how often it came since it was reported last. `up` says whether the peer is
    /// connected with it, where it is about that; `failure`, whether it is a complaint.
    pub fn news(&mut self, now: Instant, peer: PeerId, line: &str, up: Option<bool>, failure: bool) -> Option<u64> {
        let reported = self.0.entry(peer).or_default();
        if reported.is_well(now) {
            let Reported { quiet, owed, unproven, .. } = *reported;
            *reported = Reported { up_since: Some(now), quiet, owed, unproven, ..Reported::default() };
        }
        match up {
            Some(true) => drop(reported.up_since.get_or_insert(now)),
            Some(false) => reported.up_since = None,
            // A connection that is up and refuses something is asked for it again and again.
            None if failure => reported.up_since = reported.up_since.map(|_| now + AGAIN),
            None => {}
        }
        reported.failing |= failure;
        let full = reported.lines.len() >= REPORTED_LINES_MAX;
        let news = match reported.lines.get_mut(line) {
            Some((reported, times)) if now.saturating_duration_since(*reported) < AGAIN => {
                *times = times.saturating_add(1);
                None
            }
            Some(known) => Some(std::mem::replace(known, (now, 0)).1),
            None if full => None,
            None => {
                reported.lines.insert(line.to_owned(), (now, 0));
                Some(0)
            }
        };
        reported.quiet = reported.quiet.saturating_add(u64::from(failure && news.is_none()));
        // Of one that is not connected, that it is connected again is the end.
        reported.owed |= failure && news.is_some() && up.is_none();
        reported.unproven |= failure && news.is_some() && up == Some(true);
        news
    }

    /// A peer that is connected lacks something, for this reason: whether that is news, as with [`LogDedup::news`].
    pub fn lacks(&mut self, now: Instant, peer: PeerId, reason: &str) -> Option<u64> {
        let news = self.news(now, peer, reason, None, true);
        self.0.entry(peer).or_default().lacks = true;
        news
    }

    /// A peer is up. True where something else was reported of it, and this was not.
    pub fn has_all(&mut self, now: Instant, peer: PeerId) -> bool {
        let Some(reported) = self.0.get_mut(&peer) else { return false };
        if std::mem::take(&mut reported.lacks) {
            reported.up_since = Some(now);
        }
        std::mem::take(&mut reported.owed)
    }

    /// A peer has another IKE SA. True where it was reported that it did not get one.
    pub fn has_authenticated(&mut self, peer: PeerId) -> bool {
        self.0.get_mut(&peer).is_some_and(|reported| std::mem::take(&mut reported.unproven))
    }

    /// The peers that have been up for a while after complaints that were not reported, and how many these were. Each comes once.
    pub fn well_again(&mut self, now: Instant) -> Vec<(PeerId, u64)> {
        let well = self.0.iter_mut().filter(|(_, reported)| reported.quiet > 0 && reported.is_well(now));
        well.map(|(peer, reported)| (*peer, std::mem::take(&mut reported.quiet))).collect()
    }

    /// Whether something went wrong with a peer a short while ago: then what comes and goes with each try is not worth a line.
    pub fn is_failing(&self, now: Instant, peer: PeerId) -> bool {
        self.0.get(&peer).is_some_and(|reported| reported.failing && !reported.is_well(now))
    }

    /// A person has given a command about the peer: what follows is news.
    pub fn forget(&mut self, peer: PeerId) {
        // The end of what was reported is still to be told.
        let owed = self.0.remove(&peer).filter(|reported| reported.owed || reported.lacks);
        if let Some(Reported { lacks, owed, .. }) = owed {
            self.0.insert(peer, Reported { lacks, owed, ..Reported::default() });
        }
    }
}

/// Those who were refused and are nobody that we know. Anybody can send such requests, under any name and as fast as the line
/// is: they get one line of the log in a second, and one in an hour for the same reason from the same address.
#[derive(Debug, Default)]
pub struct InitiatorLog {
    reported: Option<Instant>,
    unreported: u64,
    /// When each was reported last, and how often it came since then.
    known: HashMap<(Site, String), (Instant, u64)>,
}

impl InitiatorLog {
    /// The line for one that was refused, if it gets one; `more` were refused since the last one of whom we know no more.
    pub fn line(&mut self, now: Instant, from: Remote, why: &Error, more: u64) -> Option<String> {
        self.unreported = self.unreported.saturating_add(more);
        let key = (from.site(), reason(&Cause::Failed(why.clone())));
        let mut before = 0;
        if let Some((reported, times)) = self.known.get_mut(&key) {
            if now.saturating_duration_since(*reported) < INITIATOR_AGAIN {
                *times = times.saturating_add(1);
                return None;
            }
            before = *times;
        }
        if self.reported.is_some_and(|reported| now.saturating_duration_since(reported) < INITIATORS_EVERY) {
            self.unreported = self.unreported.saturating_add(1);
            return None;
        }
        if self.known.len() >= REPORTED_INITIATORS_MAX {
            let oldest = self.known.iter().min_by_key(|(_, (reported, _))| *reported).map(|(key, _)| key.clone());
            oldest.and_then(|oldest| self.known.remove(&oldest));
        }
        self.reported = Some(now);
        let mut line = format!("{from} was refused: {why}");
        self.known.insert(key, (now, 0));
        line += &repeated(before);
        match std::mem::take(&mut self.unreported) {
            0 => {}
            unreported => line += &format!("; before it {unreported} others that were not reported"),
        }
        Some(line)
    }

    /// Somebody at this address has proved who it is: what was refused there before is over.
    pub fn forget(&mut self, site: Site) {
        self.known.retain(|(known, _), _| *known != site);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PeerId = PeerId(3);

    #[test]
    fn a_reason_is_reported_once_until_the_peer_was_well() {
        let (mut reported, start) = (LogDedup::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        let mut round = |s| {
            let connecting = reported.news(at(s), PEER, "connecting", Some(false), false).is_some();
            let failed = reported.news(at(s), PEER, "reconnecting: no answer", Some(false), true).is_some();
            (connecting, failed, reported.is_failing(at(s), PEER))
        };
        assert_eq!(round(0), (true, true, true));
        assert_eq!(round(100), (false, false, true));
        assert!(reported.news(at(101), PEER, "reconnecting: refused", Some(false), true).is_some(), "another reason");
        assert!(reported.news(at(102), PEER, "established", Some(true), false).is_some());
        assert!(reported.news(at(103), PEER, "reconnecting: refused", Some(false), true).is_none(), "it comes and goes");
        assert!(reported.news(at(104), PEER, "established", Some(true), false).is_none());
        assert!(reported.is_failing(at(163), PEER) && !reported.is_failing(at(164), PEER));
        assert!(reported.news(at(170), PEER, "reconnecting: refused", Some(false), true).is_some(), "it was well");
        reported.forget(PEER);
        assert!(
            reported.news(at(171), PEER, "reconnecting: refused", Some(false), true).is_some(),
            "a person has given a command"
        );
    }

    #[test]
    fn what_goes_on_is_told_again_after_an_hour_with_how_often_it_came() {
        let (mut reported, start) = (LogDedup::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        let reported: Vec<(u64, u64)> = (0..7300)
            .step_by(10)
            .filter_map(|s| Some((s, reported.news(at(s), PEER, "reconnecting: no answer", Some(false), true)?)))
            .collect();
        assert_eq!(reported, [(0, 0), (3600, 359), (7200, 359)]);
    }

    #[test]
    fn that_a_peer_is_well_again_is_told_once_whatever_was_quiet() {
        let (mut reported, start) = (LogDedup::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        for s in [0, 10, 20] {
            reported.news(at(s), PEER, "reconnecting: no answer", Some(false), true);
            reported.news(at(s + 1), PEER, "established", Some(true), false);
        }
        assert_eq!(reported.well_again(at(21)), [], "it may fall again");
        assert_eq!(reported.well_again(at(81)), [(PEER, 2)]);
        assert_eq!(reported.well_again(at(82)), []);
        // Also when something else came before it was looked.
        for s in [100, 110, 120] {
            reported.news(at(s), PEER, "reconnecting: no answer", Some(false), true);
            reported.news(at(s + 1), PEER, "established", Some(true), false);
        }
        reported.news(at(190), PEER, "a new address", None, false);
        assert_eq!(reported.well_again(at(190)), [], "it is looked again from then on");
        assert_eq!(reported.well_again(at(250)), [(PEER, 2)]);
        // A single complaint was reported, and so was its end.
        reported.news(at(400), PEER, "reconnecting: no answer", Some(false), true);
        assert!(reported.news(at(401), PEER, "established", Some(true), false).is_some());
        assert_eq!(reported.well_again(at(500)), []);
    }

    #[test]
    fn a_peer_that_is_up_and_asks_for_nonsense_gets_one_line() {
        let (mut reported, start) = (LogDedup::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        assert!(reported.news(at(0), PEER, "established", Some(true), false).is_some());
        let news = (61..3000).filter(|s| reported.news(at(*s), PEER, "TS_UNACCEPTABLE", None, true).is_some()).count();
        assert_eq!(news, 1);
        assert!(reported.news(at(10_000), PEER, "TS_UNACCEPTABLE", None, true).is_some(), "it was quiet for long");
        assert!(reported.news(at(10_001), PEER, "TS_UNACCEPTABLE", None, true).is_none());
    }

    #[test]
    fn that_a_peer_was_authenticated_after_all_is_owed_after_a_complaint() {
        let (mut reported, now) = (LogDedup::default(), Instant::now());
        assert!(!reported.has_authenticated(PEER));
        assert_eq!(reported.news(now, PEER, "AUTHENTICATION_FAILED", Some(true), true), Some(0));
        assert!(!reported.has_all(now, PEER), "what there is goes on, and was not complained of");
        assert!(reported.has_authenticated(PEER) && !reported.has_authenticated(PEER));
        assert_eq!(reported.news(now, PEER, "AUTHENTICATION_FAILED", Some(true), true), None);
        assert!(!reported.has_authenticated(PEER), "it comes and goes");
    }

    #[test]
    fn a_command_makes_all_that_follows_news_and_takes_no_end_away() {
        let (mut reported, now) = (LogDedup::default(), Instant::now());
        for is_owed in [false, true] {
            if is_owed {
                assert_eq!(reported.lacks(now, PEER, "no Child SA"), Some(0));
            }
            reported.forget(PEER);
            assert!(!reported.is_failing(now, PEER));
            assert_eq!(reported.has_all(now, PEER), is_owed);
        }
        assert_eq!(reported.lacks(now, PEER, "no Child SA"), Some(0), "it is news");
    }

    #[test]
    fn the_lines_of_a_peer_are_bounded() {
        let (mut reported, now) = (LogDedup::default(), Instant::now());
        let news = (0..1000).filter(|n| reported.news(now, PEER, &n.to_string(), None, true).is_some()).count();
        assert_eq!(news, REPORTED_LINES_MAX);
    }

    #[test]
    fn an_initiator_is_reported_once_an_hour_and_all_of_them_once_a_second() {
        let (mut initiators, start) = (InitiatorLog::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        let why = Error::Incompatible(Incompatibility::UnknownPeer);
        let from = |host: u8| Remote::Udp(([192, 0, 2, host], 4500).into());
        let line = initiators.line(at(0), from(1), &why, 0).unwrap();
        assert_eq!(line, format!("192.0.2.1:4500 was refused: {why}"));
        assert_eq!(initiators.line(at(0), from(2), &why, 5), None, "one in a second");
        let line = initiators.line(at(1), from(3), &why, 2).unwrap();
        assert!(line.ends_with("; before it 8 others that were not reported"), "{line}");
        for s in 2..50 {
            assert_eq!(initiators.line(at(s), from(1), &why, 0), None, "the same as before");
        }
        let line = initiators.line(at(3600), from(1), &why, 0).unwrap();
        assert!(line.ends_with("; the same 48 times since it was reported last"), "{line}");
        initiators.forget(from(3).site());
        assert!(initiators.line(at(3602), from(3), &why, 0).is_some(), "it was let in meanwhile");
        for host in 0..=255 {
            for net in 0..8 {
                initiators.line(at(4000 + u64::from(host)), Remote::Udp(([10, 0, net, host], 1).into()), &why, 0);
            }
        }
        assert!(initiators.known.len() <= REPORTED_INITIATORS_MAX);
    }
}
