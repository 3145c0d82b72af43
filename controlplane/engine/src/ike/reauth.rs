//! Until when an authentication holds, and a new one before it ends.
//!
//! A rekey gives fresh keys to a peer that proved itself long ago. What it proved ends with its certificate, or when one end says so
//! (AUTH_LIFETIME, RFC 4478; `reauth_after` of the configuration). Before that, an end that can reach the other one makes a new IKE SA
//! with IKE_AUTH and its Child SAs, and only then deletes the old one: make before break (RFC 7296 §2.8.3). If nobody does, the IKE SA
//! is closed when its time is over.
//!
//! ```text
//! old  ───────────── reauth_at ───────────────────────────── delete_at ─▶ Delete; its inbound SAs drain in the new one
//! new                  IKE_SA_INIT, IKE_AUTH ─▶ up ─▶ all Child SAs ─┘
//!                                               responder: sends on the old ones until `hold_until`, or until it has heard of the new ones
//! ```

use std::time::{Duration, Instant};

use adit_proto::control::Spi;
use adit_proto::ike::{Notify, NotifyType};

use crate::timer::earlier;

use super::config::Now;
use super::context::{Action, Ctx, Then};
use super::event::{Cause, Event, Whose};
use super::parts::Parts;
use super::sa::{IkeSa, SaId};
use super::session::Session;
use super::trust::OwnProof;
use super::window::jittered;

/// How long before its end an authentication is renewed: a quarter of the time that is left, at most this.
const MARGIN_MAX: Duration = Duration::from_secs(3600);
/// Between authentications, whatever the peer asks for.
const APART_MIN: Duration = Duration::from_secs(5);
/// Before one that failed is tried again: a quarter of the time that is left, at most this.
const RETRY_MAX: Duration = Duration::from_secs(600);
/// The wall clock may be set: what it says is looked at again after this time.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);
/// How long the responder goes on sending on the old Child SAs, if it hears nothing on the new IKE SA: its answer may be lost a few
/// times. An initiator that has lost the old ones says so (INITIAL_CONTACT), and then there is nothing to wait for.
const HOLD: Duration = Duration::from_secs(5);
/// How long the initiator waits before the Delete of the old IKE SA, so that what is on the way on its Child SAs arrives.
const DELETE_AFTER: Duration = Duration::from_secs(1);
/// How long the old inbound SAs still take what was late.
const DRAIN: Duration = Duration::from_secs(5);

/// Until when what both ends have proved holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    /// When both ends proved who they are. Rekeys do not change it.
    pub since: Option<Instant>,
    /// The peer's certificate, or one above it, ends then, in seconds since 1970 UTC.
    pub peer_until: Option<u64>,
    /// Our own certificate, where the peer has looked at it.
    pub own_until: Option<u64>,
    /// The peer wants us to authenticate before this time (RFC 4478).
    pub asked: Option<Instant>,
    /// We want the peer to, and close the IKE SA then.
    pub granted: Option<Instant>,
    /// Our configuration wants it then.
    pub wanted: Option<Instant>,
    /// When we begin, if we can.
    pub reauth_at: Option<Instant>,
    /// When it is looked whether it has ended.
    pub look_at: Option<Instant>,
    /// With what we proved ourselves: another configuration asks for a new authentication.
    pub own: Option<OwnProof>,
}

/// Two IKE SAs of one peer during a reauthentication.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Beside {
    /// The one before this one: to be deleted by us once this one has all its Child SAs.
    pub before: Option<SaId>,
    /// The one that has been authenticated after this one and takes its place.
    pub after: Option<SaId>,
    /// When this one is deleted by us.
    pub delete_at: Option<Instant>,
    /// Until then the one before this one is used for sending, unless the peer shows that it has this one.
    pub hold_until: Option<Instant>,
}

fn remaining(until: u64, now: Now) -> Duration {
    // Valid to the end of its last second (RFC 5280 §4.1.2.5).
    Duration::from_secs(until.saturating_add(1).saturating_sub(now.unix))
}

impl Standing {
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
    fn over(&mut self, now: Now) -> Option<Cause> {
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

impl Beside {
    pub(super) fn deadline(&self) -> Option<Instant> {
        earlier(self.delete_at, self.hold_until)
    }
}

impl Session {
    /// What the configuration adds to what was proved; sets the timers.
    pub(super) fn begin_standing(&mut self, ctx: &mut Ctx) {
        let after = self.config.reauth_after;
        self.standing.since = Some(ctx.now.instant);
        if !after.is_zero() && self.original_initiator {
            // Somewhat earlier by chance, as every rekey.
            let early = jittered(after, self.config.ike_lifetime.jitter_percent, ctx.random);
            self.standing.wanted = Some(ctx.now.instant + early);
        } else if !after.is_zero() {
            self.standing.granted = Some(ctx.now.instant + after);
        }
        self.standing.plan(ctx.now, self.original_initiator);
    }

    /// What the initiator is told (RFC 4478 §3).
    pub(super) fn auth_lifetime(&self, now: Now) -> Option<Notify> {
        let seconds = self.standing.seconds(now)?;
        Some(Notify::new(NotifyType::AUTH_LIFETIME).with_data(seconds.to_be_bytes()))
    }

    /// What the responder has told us, in IKE_AUTH or later (RFC 4478 §3).
    pub(super) fn take_auth_lifetime(&mut self, now: Now, parts: &Parts) {
        let data = parts.notify(NotifyType::AUTH_LIFETIME).and_then(|notify| notify.data.as_slice().try_into().ok());
        if let Some(seconds) = data.map(u32::from_be_bytes) {
            self.standing.asked = Some(now.instant + Duration::from_secs(seconds.into()));
            self.standing.plan(now, self.original_initiator);
        }
    }

    /// The configuration has changed.
    pub(super) fn reconsider(&mut self, ctx: &mut Ctx, own: OwnProof) {
        if self.standing.own.as_ref().is_some_and(|before| *before != own) {
            // What we proved ourselves with is another one now; the next authentication is with that.
            self.standing.own = Some(own);
            self.standing.wanted = Some(ctx.now.instant);
            self.standing.reauth_at = Some(ctx.now.instant);
        }
    }

    /// Whether everything that was to be made under this IKE SA has been made, or refused.
    fn is_complete(&self) -> bool {
        !self.tasks.iter().any(super::session::Task::creates)
    }

    /// Takes the Child SAs out of sending; gives the inbound halves, which take what is late.
    fn retire_children(&mut self, ctx: &mut Ctx) -> Vec<(Instant, Spi)> {
        let (peer, until) = (self.peer, ctx.now.instant + DRAIN);
        let mut draining = std::mem::take(&mut self.draining_inbound);
        for child in std::mem::take(&mut self.children) {
            if child.is_sending() {
                ctx.event(Event::RemoveOutbound { peer, spi: child.outbound });
            }
            draining.push((until, child.inbound));
        }
        draining
    }
}

impl IkeSa {
    /// The peer has shown that it has this IKE SA, or has had the time: what it has is used for sending from now on.
    pub(super) fn end_hold(&mut self, ctx: &mut Ctx) {
        let held = self.session_mut().and_then(|session| session.beside.hold_until.take());
        if held.is_some() {
            self.activate_children(ctx);
        }
    }

    /// The Child SAs of this new IKE SA wait while those of the one before are used.
    pub(super) fn hold(&mut self, ctx: &Ctx) {
        if let Some(session) = self.session_mut() {
            session.beside.hold_until = Some(ctx.now.instant + HOLD);
        }
    }

    /// There is nothing left to be made: the IKE SA before this one can go.
    pub(super) fn finish_beside(&mut self, ctx: &mut Ctx) {
        let Some(session) = self.session_mut().filter(|session| session.is_complete()) else { return };
        if let Some(before) = session.beside.before.take() {
            ctx.act(Action::Superseded { sa: before, at: ctx.now.instant + DELETE_AFTER });
        }
    }

    /// What the time has come for. Says whether the IKE SA is over.
    pub(super) fn on_reauth_timeout(&mut self, ctx: &mut Ctx) -> bool {
        let now = ctx.now;
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now.instant);
        let Some(session) = self.session_mut() else { return false };
        if is_due(session.beside.hold_until) {
            self.end_hold(ctx);
        }
        let Some(session) = self.session_mut() else { return false };
        if let Some(after) = session.beside.after.filter(|_| is_due(session.beside.delete_at)) {
            session.beside.delete_at = None;
            ctx.act(Action::GiveWay { to: after, then: Then::Close });
        }
        if session.beside.after.is_some() {
            return false;
        }
        if let Some(cause) = session.standing.over(now) {
            self.close(ctx, vec![adit_proto::ike::Delete::ike().into()], cause);
            return true;
        }
        if is_due(session.standing.reauth_at) {
            session.standing.plan_again(now);
            ctx.act(Action::Reauthenticate);
        }
        false
    }

    /// Gives the inbound SAs away to drain; the IKE SA has no Child SA any more.
    pub(super) fn retire(&mut self, ctx: &mut Ctx) -> Vec<(Instant, Spi)> {
        self.session_mut().map(|session| session.retire_children(ctx)).unwrap_or_default()
    }

    /// Takes what the IKE SA before this one gave away.
    pub(super) fn drain(&mut self, ctx: &mut Ctx, draining: Vec<(Instant, Spi)>) {
        let id = self.id;
        if let Some(session) = self.session_mut() {
            draining.iter().for_each(|(_, spi)| ctx.shared.spis.assign(*spi, id));
            session.draining_inbound.extend(draining);
        }
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
}
