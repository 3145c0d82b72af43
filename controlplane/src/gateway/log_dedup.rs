//! What the log has said already. A peer that does not come up is tried again and again, for the same reason; unauthenticated
//! initiators can send
//! requests as fast as the line is. Each reason is reported once, the others are counted.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use adit_engine::ike::{Cause, Error, Incompatibility};
use adit_proto::control::PeerId;

/// A connection that was up for so long is well: what goes wrong after that is news again.
const WELL_AFTER: Duration = Duration::from_secs(60);
/// A complaint about a connection that stays up is reported again when there was none for so long.
const COMPLAINT_AGAIN: Duration = Duration::from_secs(3600);
/// Lines that are kept of one peer; above, all is quiet.
const LINES_MAX: usize = 32;
/// How often unauthenticated initiators get a line of the log.
const INITIATORS_EVERY: Duration = Duration::from_secs(1);
/// After so long, one with the same reason gets another one.
const INITIATOR_AGAIN: Duration = Duration::from_secs(3600);
/// Unauthenticated initiators, by address and reason, that are remembered.
const INITIATORS_MAX: usize = 256;

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
    lines: BTreeSet<String>,
    /// It went wrong.
    failing: bool,
    up_since: Option<Instant>,
}

impl LogDedup {
    /// Whether this line about a peer is news. `up` says whether the peer is connected with it, where it is about that;
    /// `failure`, whether it is a complaint.
    pub fn is_news(&mut self, now: Instant, peer: PeerId, line: &str, up: Option<bool>, failure: bool) -> bool {
        let reported = self.0.entry(peer).or_default();
        if reported.up_since.is_some_and(|since| now.saturating_duration_since(since) >= WELL_AFTER) {
            *reported = Reported { up_since: Some(now), ..Reported::default() };
        }
        match up {
            Some(true) => drop(reported.up_since.get_or_insert(now)),
            Some(false) => reported.up_since = None,
            // A connection that is up and refuses something is asked for it again and again.
            None if failure => reported.up_since = reported.up_since.map(|_| now + COMPLAINT_AGAIN),
            None => {}
        }
        reported.failing |= failure;
        reported.lines.len() < LINES_MAX && reported.lines.insert(line.to_owned())
    }

    /// Whether something went wrong with a peer a short while ago: then what comes and goes with each try is not worth a line.
    pub fn is_failing(&self, now: Instant, peer: PeerId) -> bool {
        let well =
            |reported: &Reported| reported.up_since.is_some_and(|since| now.saturating_duration_since(since) >= WELL_AFTER);
        self.0.get(&peer).is_some_and(|reported| reported.failing && !well(reported))
    }

    /// A person has given a command about the peer: what follows is news.
    pub fn forget(&mut self, peer: PeerId) {
        self.0.remove(&peer);
    }
}

/// Those who were refused and are nobody that we know. Anybody can send such requests, under any name and as fast as the line
/// is: they get one line of the log in a second, and one in an hour for the same reason from the same address.
#[derive(Debug, Default)]
pub struct InitiatorLog {
    reported: Option<Instant>,
    unreported: u64,
    /// When each was reported last, and how often it came since then.
    known: HashMap<(IpAddr, String), (Instant, u64)>,
}

impl InitiatorLog {
    /// The line for one that was refused, if it gets one; `more` were refused since the last one of whom we know no more.
    pub fn line(&mut self, now: Instant, from: SocketAddr, why: &Error, more: u64) -> Option<String> {
        self.unreported = self.unreported.saturating_add(more);
        let key = (from.ip(), reason(&Cause::Failed(why.clone())));
        let mut repeated = 0;
        if let Some((reported, times)) = self.known.get_mut(&key) {
            if now.saturating_duration_since(*reported) < INITIATOR_AGAIN {
                *times = times.saturating_add(1);
                return None;
            }
            repeated = *times;
        }
        if self.reported.is_some_and(|reported| now.saturating_duration_since(reported) < INITIATORS_EVERY) {
            self.unreported = self.unreported.saturating_add(1);
            return None;
        }
        if self.known.len() >= INITIATORS_MAX {
            let oldest = self.known.iter().min_by_key(|(_, (reported, _))| *reported).map(|(key, _)| key.clone());
            oldest.and_then(|oldest| self.known.remove(&oldest));
        }
        self.reported = Some(now);
        let mut line = format!("{from} was refused: {why}");
        self.known.insert(key, (now, 0));
        match repeated {
            0 => {}
            times => line += &format!("; the same {times} times since it was reported last"),
        }
        match std::mem::take(&mut self.unreported) {
            0 => {}
            unreported => line += &format!("; before it {unreported} others that were not reported"),
        }
        Some(line)
    }

    /// Somebody at this address has proved who it is: what was refused there before is over.
    pub fn forget(&mut self, address: IpAddr) {
        self.known.retain(|(ip, _), _| *ip != address);
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
            let connecting = reported.is_news(at(s), PEER, "connecting", Some(false), false);
            let failed = reported.is_news(at(s), PEER, "reconnecting: no answer", Some(false), true);
            (connecting, failed, reported.is_failing(at(s), PEER))
        };
        assert_eq!(round(0), (true, true, true));
        assert_eq!(round(100), (false, false, true));
        assert!(reported.is_news(at(101), PEER, "reconnecting: refused", Some(false), true), "another reason");
        assert!(reported.is_news(at(102), PEER, "established", Some(true), false));
        assert!(!reported.is_news(at(103), PEER, "reconnecting: refused", Some(false), true), "it comes and goes");
        assert!(!reported.is_news(at(104), PEER, "established", Some(true), false));
        assert!(reported.is_failing(at(163), PEER) && !reported.is_failing(at(164), PEER));
        assert!(reported.is_news(at(170), PEER, "reconnecting: refused", Some(false), true), "it was well");
        reported.forget(PEER);
        assert!(reported.is_news(at(171), PEER, "reconnecting: refused", Some(false), true), "a person has given a command");
    }

    #[test]
    fn a_peer_that_is_up_and_asks_for_nonsense_gets_one_line() {
        let (mut reported, start) = (LogDedup::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        assert!(reported.is_news(at(0), PEER, "established", Some(true), false));
        let news = (61..3000).filter(|s| reported.is_news(at(*s), PEER, "TS_UNACCEPTABLE", None, true)).count();
        assert_eq!(news, 1);
        assert!(reported.is_news(at(10_000), PEER, "TS_UNACCEPTABLE", None, true), "it was quiet for long");
        assert!(!reported.is_news(at(10_001), PEER, "TS_UNACCEPTABLE", None, true));
    }

    #[test]
    fn the_lines_of_a_peer_are_bounded() {
        let (mut reported, now) = (LogDedup::default(), Instant::now());
        let news = (0..1000).filter(|n| reported.is_news(now, PEER, &n.to_string(), None, true)).count();
        assert_eq!(news, LINES_MAX);
    }

    #[test]
    fn an_initiator_is_reported_once_an_hour_and_all_of_them_once_a_second() {
        let (mut initiators, start) = (InitiatorLog::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        let why = Error::Incompatible(Incompatibility::UnknownPeer);
        let from = |host: u8| SocketAddr::from(([192, 0, 2, host], 4500));
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
        initiators.forget(from(3).ip());
        assert!(initiators.line(at(3602), from(3), &why, 0).is_some(), "it was let in meanwhile");
        for host in 0..=255 {
            for net in 0..8 {
                initiators.line(at(4000 + u64::from(host)), SocketAddr::from(([10, 0, net, host], 1)), &why, 0);
            }
        }
        assert!(initiators.known.len() <= INITIATORS_MAX);
    }
}
