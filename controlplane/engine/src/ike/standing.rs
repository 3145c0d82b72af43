//! Until when what both ends have proved holds (RFC 4478, RFC 7296 §2.8.3), and when it is to be proved anew.

use std::time::{Duration, Instant};

use adit_proto::ike::{Notify, NotifyType};

use crate::random::Random;
use crate::timer::earlier;

use super::cause::{Cause, Whose};
use super::config::{Now, PeerConfig};
use super::parts::Parts;
use super::trust::OwnProof;
use super::window::jittered;

/// How long before its end an authentication is renewed: a quarter of the time that is left, at most this.
const MARGIN_MAX: Duration = Duration::from_secs(3600);
/// Between authentications, whatever the peer asks for.
const APART_MIN: Duration = Duration::from_secs(5);
/// Before one that failed is tried again: a quarter of the time that is left, at most this.
const RETRY_MAX: Duration = Duration::from_secs(600);
/// How long a peer may take until it has proven itself with credentials that were renewed: its own may be renewed a little later.
const RENEW_WITHIN: Duration = Duration::from_secs(900);
/// The wall clock may be set: what it says is looked at again after this time.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

/// Until when what both ends have proved holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    /// When both ends proved who they are. Rekeys do not change it.
    since: Option<Instant>,
    /// The peer's certificate, or one above it, ends then, in seconds since 1970 UTC.
    peer_until: Option<u64>,
    /// Our own certificate, where the peer has looked at it.
    own_until: Option<u64>,
    /// The peer wants us to authenticate before this time (RFC 4478).
    asked: Option<Instant>,
    /// We want the peer to, and close the IKE SA then.
    granted: Option<Instant>,
    /// Our configuration wants it then.
    wanted: Option<Instant>,
    /// When we begin, if we can.
    reauth_at: Option<Instant>,
    /// When it is looked whether it has ended.
    look_at: Option<Instant>,
    /// With what we proved ourselves: another configuration asks for a new authentication.
    own: Option<OwnProof>,
}

/// What is written down of it, and read again: the rest follows from it.
pub(super) struct StandingParts {
    pub since: Option<Instant>,
    pub peer_until: Option<u64>,
    pub own_until: Option<u64>,
    pub asked: Option<Instant>,
    pub granted: Option<Instant>,
    pub wanted: Option<Instant>,
    pub own: Option<OwnProof>,
}

fn remaining(until: u64, now: Now) -> Duration {
    // Valid to the end of its last second (RFC 5280 §4.1.2.5).
    Duration::from_secs(until.saturating_add(1).saturating_sub(now.unix))
}

impl Standing {
    /// Both ends have just proved who they are. `peer_until` and `own_until` are the ends of certificates that were looked at, in
    /// seconds since 1970 UTC.
    pub(super) fn proven(peer_until: Option<u64>, own_until: Option<u64>, own: OwnProof) -> Standing {
        Standing { peer_until, own_until, own: Some(own), ..Standing::default() }
    }

    pub(super) fn parts(&self) -> StandingParts {
        StandingParts {
            since: self.since,
            peer_until: self.peer_until,
            own_until: self.own_until,
            asked: self.asked,
            granted: self.granted,
            wanted: self.wanted,
            own: self.own.clone(),
        }
    }

    pub(super) fn of_parts(parts: StandingParts) -> Standing {
        let StandingParts { since, peer_until, own_until, asked, granted, wanted, own } = parts;
        Standing { since, peer_until, own_until, asked, granted, wanted, own, ..Standing::default() }
    }

    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }

    pub(super) fn reauth_at(&self) -> Option<Instant> {
        self.reauth_at
    }

    pub(super) fn peer_until(&self) -> Option<u64> {
        self.peer_until
    }

    pub(super) fn own_until(&self) -> Option<u64> {
        self.own_until
    }

    /// What the configuration adds to what was proved; sets the timers.
    pub(super) fn begin(&mut self, now: Now, config: &PeerConfig, original_initiator: bool, random: &mut dyn Random) {
        let after = config.reauth_after;
        self.since = Some(now.instant);
        if !after.is_zero() && original_initiator {
            // Somewhat earlier by chance, as every rekey.
            let early = jittered(after, config.ike_lifetime.jitter_percent, random);
            self.wanted = Some(now.instant + early);
        } else if !after.is_zero() {
            self.granted = Some(now.instant + after);
        }
        self.plan(now, original_initiator);
    }

    /// What the initiator is told (RFC 4478 §3).
    pub(super) fn auth_lifetime(&self, now: Now) -> Option<Notify> {
        let seconds = self.seconds(now)?;
        Some(Notify::new(NotifyType::AUTH_LIFETIME).with_data(seconds.to_be_bytes()))
    }

    /// What the responder has told us, in IKE_AUTH or later (RFC 4478 §3).
    pub(super) fn take_auth_lifetime(&mut self, now: Now, parts: &Parts, original_initiator: bool) {
        let data = parts.notify(NotifyType::AUTH_LIFETIME).and_then(|notify| notify.data.as_slice().try_into().ok());
        if let Some(seconds) = data.map(u32::from_be_bytes) {
            self.asked = Some(now.instant + Duration::from_secs(seconds.into()));
            self.plan(now, original_initiator);
        }
    }

    /// The configuration has changed.
    pub(super) fn reconsider(&mut self, now: Now, own: OwnProof) {
        if self.own.as_ref().is_some_and(|before| *before != own) {
            // What we proved ourselves with is another one now; the next authentication is with that.
            self.own = Some(own);
            self.wanted = Some(now.instant);
            self.reauth_at = Some(now.instant);
        }
    }

    /// Both ends are to say again what they can do, without being in a hurry: what was proved holds.
    pub(super) fn want(&mut self, at: Instant) {
        self.wanted = earlier(self.wanted, Some(at));
        self.reauth_at = earlier(self.reauth_at, Some(at));
    }

    /// What the peer has to prove itself with was renewed: it has some time for that, while all goes on. Whoever can begins.
    pub(super) fn renew(&mut self, now: Now, original_initiator: bool) {
        let end = now.instant + RENEW_WITHIN;
        self.granted = Some(self.granted.map_or(end, |at| at.min(end)));
        self.wanted = Some(now.instant);
        self.plan(now, original_initiator);
    }

    /// Whether a new authentication is to begin now. It may fail: then the next one is due after a while.
    pub(super) fn take_reauth(&mut self, now: Now) -> bool {
        let due = self.reauth_at.is_some_and(|at| at <= now.instant);
        if due {
            self.plan_again(now);
        }
        due
    }

    /// The time that is left, and what ends with it by itself.
    fn end(&self, now: Now) -> Option<(Duration, Cause)> {
        let certificate = |until: Option<u64>, whose| {
            until.map(|until| (remaining(until, now), Cause::CertificateExpired { whose, not_after: until }))
        };
        let granted = self.granted.map(|at| (at.saturating_duration_since(now.instant), Cause::NotReauthenticated));
        let all = [certificate(self.peer_until, Whose::Peer), certificate(self.own_until, Whose::Own), granted];
        all.into_iter().flatten().min_by_key(|(left, _)| *left)
    }

    /// The time that is left until an end, ours or one that the peer has announced.
    fn left(&self, now: Now) -> Option<Duration> {
        let asked = self.asked.map(|at| at.saturating_duration_since(now.instant));
        self.end(now).map(|(left, _)| left).into_iter().chain(asked).min()
    }

    /// Sets both timers anew. Whoever began the connection goes first, so that the other end seldom has to.
    pub(super) fn plan(&mut self, now: Now, original_initiator: bool) {
        let begin = self.left(now).map(|left| {
            let margin = (left / 4).min(MARGIN_MAX) / if original_initiator { 1 } else { 2 };
            now.instant + (left - margin).max(APART_MIN)
        });
        self.reauth_at = earlier(begin, self.wanted.map(|at| at.max(now.instant)));
        self.look(now);
    }

    fn look(&mut self, now: Now) {
        self.look_at = self.end(now).map(|(left, _)| now.instant + left.min(LOOK_AGAIN));
    }

    /// Before an attempt that may fail: when the next one is due.
    fn plan_again(&mut self, now: Now) {
        self.wanted = None;
        let wait = self.left(now).map_or(RETRY_MAX, |left| (left / 4).clamp(APART_MIN, RETRY_MAX));
        self.reauth_at = Some(now.instant + wait);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        earlier(self.reauth_at, self.look_at)
    }

    /// Why the IKE SA is to be closed now, if it is.
    pub(super) fn over(&mut self, now: Now) -> Option<Cause> {
        if self.look_at.is_none_or(|at| at > now.instant) {
            return None;
        }
        self.look(now);
        self.end(now).filter(|(left, _)| left.is_zero()).map(|(_, cause)| cause)
    }

    /// The seconds for AUTH_LIFETIME: what the initiator has until the IKE SA is closed.
    fn seconds(&self, now: Now) -> Option<u32> {
        self.end(now).map(|(left, _)| u32::try_from(left.as_secs()).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ike::testing::instant;

    fn at(seconds: u64) -> Now {
        Now { instant: instant() + Duration::from_secs(seconds), unix: 1_000_000 + seconds }
    }

    fn planned(mut standing: Standing, original_initiator: bool) -> Option<u64> {
        standing.plan(at(0), original_initiator);
        standing.reauth_at.map(|when| (when - instant()).as_secs())
    }

    #[test]
    fn it_is_renewed_before_the_first_end_and_earlier_by_whoever_connected() {
        let day = 24 * 3600;
        let certificate = |days: u64| Standing { peer_until: Some(1_000_000 + days * day - 1), ..Standing::default() };
        assert_eq!(planned(Standing::default(), true), None);
        assert_eq!(planned(certificate(10), true), Some(10 * day - 3600));
        assert_eq!(planned(certificate(10), false), Some(10 * day - 1800));
        let own = Standing { own_until: Some(1_000_000 + day - 1), ..certificate(10) };
        assert_eq!(planned(own, true), Some(day - 3600));
        let asked = Standing { asked: Some(at(12).instant), ..certificate(10) };
        assert_eq!(planned(asked, true), Some(9));
        // Whatever the peer asks for, not all the time.
        let asked = Standing { asked: Some(at(0).instant), ..Standing::default() };
        assert_eq!(planned(asked, true), Some(5));
        let wanted = Standing { wanted: Some(at(100).instant), ..certificate(10) };
        assert_eq!(planned(wanted, true), Some(100));
    }

    #[test]
    fn a_certificate_that_was_not_renewed_is_tried_again_and_then_ends() {
        let mut standing = Standing { peer_until: Some(1_000_000 + 10_000), ..Standing::default() };
        let (mut attempts, mut now) = (0, 0);
        standing.plan(at(now), true);
        let cause = loop {
            // In whole seconds, as the wall clock is read.
            now = (standing.deadline().expect("a timer") - instant()).as_millis().div_ceil(1000) as u64;
            if let Some(cause) = standing.over(at(now)) {
                break cause;
            }
            if standing.reauth_at.is_some_and(|when| when <= at(now).instant) {
                standing.plan_again(at(now));
                attempts += 1;
            }
        };
        assert_eq!(now, 10_001, "its last second is a good one");
        assert_eq!(cause, Cause::CertificateExpired { whose: Whose::Peer, not_after: 1_010_000 });
        assert!((5..40).contains(&attempts), "{attempts}");
    }

    #[test]
    fn a_clock_that_is_set_does_not_let_it_live_longer() {
        let mut standing = Standing { peer_until: Some(1_000_000 + 30 * 24 * 3600), ..Standing::default() };
        standing.plan(at(0), true);
        let look = standing.look_at.expect("a timer");
        assert!(look <= at(3600).instant);
        let set = Now { instant: look, unix: 1_000_000 + 31 * 24 * 3600 };
        assert!(matches!(standing.over(set), Some(Cause::CertificateExpired { .. })));
    }

    fn own(byte: u8) -> OwnProof {
        OwnProof([byte; 32])
    }

    #[test]
    fn nothing_of_what_holds_is_lost_when_it_is_written_down() {
        let proven = Standing::proven(Some(1_000_200), Some(1_000_300), own(1));
        assert_eq!((proven.peer_until(), proven.own_until()), (Some(1_000_200), Some(1_000_300)));
        let [since, asked, granted, wanted] = [1, 400, 500, 600].map(|seconds| Some(at(seconds).instant));
        let whole = Standing { since, asked, granted, wanted, ..proven };
        assert_eq!(format!("{:?}", Standing::of_parts(whole.parts())), format!("{whole:?}"));
    }

    #[test]
    fn one_end_begins_what_is_configured_and_the_other_one_demands_it() {
        let config = PeerConfig { reauth_after: Duration::from_secs(1000), ..crate::ike::testing::peer_config() };
        let mut random = |out: &mut [u8]| out.fill(0);
        for (initiator, begins, closes) in [(true, 1000, None), (false, 875, Some(1000))] {
            let mut standing = Standing::default();
            standing.begin(at(0), &config, initiator, &mut random);
            assert_eq!((standing.since(), standing.reauth_at()), (Some(at(0).instant), Some(at(begins).instant)));
            assert_eq!(
                standing.auth_lifetime(at(0)).map(|notify| notify.data),
                closes.map(|end: u32| end.to_be_bytes().to_vec())
            );
            assert_eq!((standing.over(at(999)), standing.over(at(1000))), (None, closes.map(|_| Cause::NotReauthenticated)));
        }
    }

    #[test]
    fn other_credentials_of_ours_are_shown_at_once_and_the_same_ones_are_not() {
        let mut standing = Standing::proven(Some(1_100_000), None, own(1));
        standing.plan(at(0), true);
        let planned = standing.reauth_at();
        standing.reconsider(at(10), own(1));
        assert_eq!(standing.reauth_at(), planned);
        standing.reconsider(at(10), own(2));
        assert_eq!(standing.reauth_at(), Some(at(10).instant));
        assert!(!standing.take_reauth(at(9)) && standing.take_reauth(at(10)) && !standing.take_reauth(at(10)));
        let again = standing.reauth_at();
        assert_eq!(again, Some(at(10).instant + RETRY_MAX));
        standing.reconsider(at(11), own(2));
        assert_eq!(standing.reauth_at(), again);
    }

    #[test]
    fn who_has_to_prove_itself_anew_gets_time_for_it_but_no_more_than_it_had() {
        for (had, end) in [(None, 950), (Some(100), 100), (Some(5000), 950)] {
            let granted = had.map(|seconds| at(seconds).instant);
            let mut standing = Standing { granted, ..Standing::default() };
            standing.renew(at(50), true);
            assert_eq!((standing.seconds(at(50)), standing.reauth_at()), (Some(end - 50), Some(at(50).instant)));
            assert_eq!(standing.over(at(u64::from(end) - 1)), None);
            assert_eq!(standing.over(at(end.into())), Some(Cause::NotReauthenticated));
        }
    }
}
