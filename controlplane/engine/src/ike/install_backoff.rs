//! What the data plane refuses or loses. Only the Child SA concerned is replaced, and ever more rarely: the reason may stay,
//! and then neither the peer nor the data plane is to be kept busy.

use std::time::{Duration, Instant};

use adit_proto::control::Spi;

use super::child::{Child, Sending};
use super::context::Ctx;
use super::sa::IkeSa;
use super::session::Session;

/// The first wait, and the longest; each is twice the one before.
const WAIT: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(60);
/// After so long without another one it is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(180);

/// How often something went wrong with one child and lane, and until when nothing is tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct InstallBackoff {
    times: u32,
    pub until: Instant,
}

impl Session {
    /// Notes another one; says when to try again.
    pub(super) fn back_off(&mut self, now: Instant, place: (usize, u8)) -> Instant {
        let before = self.install_backoffs.get(&place).filter(|backoff| now < backoff.until + FORGOTTEN_AFTER);
        if let Some(backoff) = before.filter(|backoff| now < backoff.until) {
            // Both halves of one SA, most likely.
            return backoff.until;
        }
        let times = before.map_or(0, |backoff| backoff.times);
        let until = now + WAIT.saturating_mul(1 << times.min(16)).min(WAIT_MAX);
        self.install_backoffs.insert(place, InstallBackoff { times: times + 1, until });
        until
    }

    /// Whether a child and lane has to wait.
    pub(super) fn is_backing_off(&self, now: Instant, place: (usize, u8)) -> bool {
        self.install_backoffs.get(&place).is_some_and(|backoff| now < backoff.until)
    }
}

impl IkeSa {
    /// The inbound half cannot be installed: there is no use in it.
    pub(super) fn refuse_child(&mut self, ctx: &mut Ctx, inbound: Spi) {
        let (now, peer) = (ctx.now.instant, self.peer);
        let Some(session) = self.session_mut() else { return };
        let Some(place) = session.child(inbound).map(Child::slot) else { return };
        ctx.count(peer, |counters| counters.children_lost += 1);
        session.back_off(now, place);
        session.close_child(inbound);
    }

    pub(super) fn lose_inbound(&mut self, ctx: &mut Ctx, inbound: Spi) {
        self.replace_later(ctx, inbound);
    }

    pub(super) fn lose_outbound(&mut self, ctx: &mut Ctx, outbound: Spi) {
        let Some(session) = self.session_mut() else { return };
        session.draining_outbound.retain(|draining| draining.outbound != outbound);
        let child = session.children.iter_mut().find(|child| child.outbound == outbound && child.is_sending());
        let Some(child) = child else { return };
        child.sending = Sending::Lost;
        let inbound = child.inbound;
        self.replace_later(ctx, inbound);
    }

    /// Rekeys a Child SA when it is its turn.
    fn replace_later(&mut self, ctx: &mut Ctx, inbound: Spi) {
        let (now, peer) = (ctx.now.instant, self.peer);
        let Some(session) = self.session_mut() else { return };
        let Some(child) = session.child(inbound) else { return };
        let (place, has_time) = (child.slot(), child.is_live() && !child.rekeying);
        ctx.count(peer, |counters| counters.children_lost += 1);
        let at = session.back_off(now, place);
        if let Some(child) = session.child_mut(inbound).filter(|_| has_time) {
            child.limits.rekey_at = Some(at);
        }
    }
}
