//! Everything of an IKE SA that happens because time has passed, in one place: when the next thing is due, and what it is.

use std::time::{Duration, Instant};

use adit_proto::control::Spi;
use adit_proto::ike::{Delete, Payload};

use super::agenda::Task;
use super::cause::Cause;
use super::child::ChildState;
use super::context::{Action, Ctx, Then};
use super::create_child::UNCONFIRMED_WAIT;
use super::event::After;
use super::evidence;
use super::facts::Role;
use super::initiated::Initiated;
use super::sa::{IkeSa, Stage};
use super::session::Session;
use super::succession::REPLACED_PATIENCE;
use super::window::{Due, SILENT_AFTER};
use crate::timer::earlier;

/// How long a peer may take from IKE_SA_INIT to the end of IKE_AUTH.
const HALF_OPEN_LIFETIME: Duration = Duration::from_secs(30);
/// How long an IKE SA that is over still repeats its last answer.
const CLOSED_LINGER: Duration = Duration::from_secs(10);
/// And how long one stays at least.
const CLOSED_MIN: Duration = Duration::from_millis(1);
/// Before a rekey of a Child SA that came to nothing is tried again.
const REKEY_RETRY: Duration = Duration::from_secs(60);
/// The only byte of a NAT keepalive (RFC 3948 §2.3).
const KEEPALIVE: u8 = adit_proto::demux::KEEPALIVE;

impl IkeSa {
    /// When [`IkeSa::on_timeout`] is to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let mut next = self.wire.deadline();
        let mut at = |instant: Option<Instant>| next = earlier(next, instant);
        match &self.stage {
            Stage::Beginning | Stage::Closing { .. } => {}
            Stage::Exchanging(_) | Stage::Authenticating(_) if self.facts.role == Role::Initiator => {}
            Stage::Exchanging(_) | Stage::Authenticating(_) => at(Some(self.created + HALF_OPEN_LIFETIME)),
            Stage::Closed => at(Some(self.gone_at())),
            Stage::Established(session) => {
                at(session.deadline());
                at(self.liveness_at(session));
                at(self.keepalive_at(session));
            }
        }
        next
    }

    /// When an IKE SA that is over can be forgotten. Never at the moment at which it ends, however quiet it was before: what follows from
    /// its end is still to be done.
    fn gone_at(&self) -> Instant {
        let repeats = self.wire.last_sent().max(self.wire.last_heard()) + CLOSED_LINGER;
        self.closed.map_or(repeats, |closed| repeats.max(closed + CLOSED_MIN))
    }

    /// Whether nothing is left of it.
    pub(super) fn is_gone(&self, now: Instant) -> bool {
        matches!(self.stage, Stage::Closed) && self.gone_at() <= now
    }

    fn liveness_at(&self, session: &Session) -> Option<Instant> {
        let quiet = self.wire.window.is_idle() && session.agenda.is_empty() && !session.succession.has_successor();
        (quiet && !session.config.dpd.is_zero()).then(|| self.wire.last_heard() + session.config.dpd)
    }

    fn keepalive_at(&self, session: &Session) -> Option<Instant> {
        let interval = session.config.keepalive;
        // Whether there is a NAT nobody finds out in a stream.
        let may_have_nat = self.facts.nat.here || self.facts.begun.address().is_none() || self.facts.features.candidates;
        (may_have_nat && !interval.is_zero() && !session.succession.has_successor()).then(|| self.wire.last_sent() + interval)
    }

    pub(super) fn on_timeout(&mut self, ctx: &mut Ctx) {
        let now = ctx.now.instant;
        let policy = ctx.shared.config.retransmission;
        match self.wire.due(now, &policy, ctx.random) {
            Due::NotYet => {}
            Due::SendAgain => self.send_again(ctx),
            Due::GiveUp => return self.on_unanswered(ctx),
        }
        match &self.stage {
            Stage::Beginning | Stage::Closing { .. } | Stage::Closed => {}
            Stage::Exchanging(_) | Stage::Authenticating(_) => {
                if self.facts.role == Role::Responder && self.created + HALF_OPEN_LIFETIME <= now {
                    let exchange = adit_proto::ike::ExchangeType::IKE_AUTH;
                    self.end(ctx, Cause::Unanswered { exchange, times: 1 });
                }
            }
            Stage::Established(_) => self.on_session_timeout(ctx),
        }
    }

    /// The path of IKE is another one. The answer to what is under way may be lost on the one before, and nothing else can be said until it
    /// has come. So it is repeated there, twice: the answer may be a little longer, and no more comes to an unproven address than was sent
    /// from it.
    pub(super) fn on_moved(&mut self, ctx: &mut Ctx) {
        let Some((facts, session)) = self.facts_and_session() else { return };
        session.want(evidence::tells_of_move(facts, session.original_initiator));
        if self.wire.window.outstanding().is_some() {
            self.send_again(ctx);
            self.wire.window.begin_again(ctx.now.instant);
        }
    }

    /// The stream that it goes by was away and is there again: what is under way was not heard by anybody, and counts from here on.
    pub(super) fn on_stream_back(&mut self, ctx: &mut Ctx) {
        if self.wire.window.outstanding().is_some() {
            self.send_again(ctx);
            self.wire.window.begin_again(ctx.now.instant);
        }
    }

    fn send_again(&mut self, ctx: &mut Ctx) {
        let here = self.hop(ctx);
        let repeated = self.wire.repeat(ctx, self.facts.peer, here);
        if let (Stage::Established(session), true) = (&self.stage, repeated >= SILENT_AFTER) {
            for hop in evidence::elsewhere(ctx, &self.facts, session, (here, repeated)) {
                self.wire.repeat_to(ctx, self.facts.peer, hop);
            }
        }
        self.wire.note_sent(ctx.now.instant);
        ctx.count(self.facts.peer, |counters| counters.retransmissions += 1);
    }

    /// The peer does not answer any more (RFC 7296 §2.4).
    fn on_unanswered(&mut self, ctx: &mut Ctx) {
        let Some(outstanding) = self.wire.window.outstanding() else { return };
        let (exchange, times) = (outstanding.exchange, outstanding.repeated + 1);
        let mut cause = Cause::Unanswered { exchange, times };
        if let Initiated::SaInit(sent) = &outstanding.context {
            // Nothing better came than what nobody vouches for.
            if let Some(error) = &sent.refused {
                cause = error.clone().into();
            }
        }
        if let Stage::Established(session) = &mut self.stage {
            if session.succession.has_successor() || session.succession.next().is_some() {
                cause = Cause::Replaced;
            } else if let Some(successor) = session.succession.made_by_peer() {
                // The peer's new IKE SA may be alive though this one is not.
                ctx.act(Action::Rekeying(false));
                return session.leave_to(ctx, successor, Then::End);
            } else {
                ctx.count(self.facts.peer, |counters| counters.dead_peers += 1);
            }
        }
        self.end(ctx, cause);
    }

    fn on_session_timeout(&mut self, ctx: &mut Ctx) {
        let now = ctx.now.instant;
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let Stage::Established(session) = &mut self.stage else { return };
        session.children.end_draining(ctx);
        session.succession.end_silence(now);
        session.agenda.resume(now);
        session.forget_late_key_exchange(ctx);
        let delete: Vec<Payload> = vec![Delete::ike().into()];
        if session.succession.is_replaced_for_long(now) {
            return self.close(ctx, delete, Cause::Replaced);
        }
        if session.succession.take_redundant_for_long(now) {
            return match session.succession.next() {
                Some(to) => ctx.act(Action::GiveWay { to, then: Then::Close }),
                None => self.close(ctx, delete, Cause::Redundant),
            };
        }
        if session.succession.has_successor() {
            return;
        }
        if session.lifetimes.is_over(now) {
            return self.close(ctx, delete, Cause::Expired);
        }
        if let Some(cause) = session.on_authentication_timeout(ctx) {
            return self.close(ctx, delete, cause);
        }
        if session.lifetimes.take_rekey(now, self.wire.window.is_exhausted()) {
            session.want(Task::RekeyIke { method: None });
        }
        session.on_children_timeout(ctx, self.wire.window.expected_id());
        if is_due(session.wants.deadline()) {
            let is_adit = self.facts.features.adit;
            session.wants.ask_again(now, &session.config, &session.children, is_adit);
            session.want_missing_children(is_adit);
        }
        let Stage::Established(session) = &self.stage else { return };
        if is_due(self.keepalive_at(session)) {
            self.send_keepalive(ctx);
        }
        let silent = self.session().is_some_and(|session| is_due(self.liveness_at(session)));
        if let Some(session) = self.session_mut().filter(|_| silent) {
            session.want(Task::Liveness);
        }
        self.start_next(ctx);
    }

    fn send_keepalive(&mut self, ctx: &mut Ctx) {
        let hop = self.hop(ctx);
        // No NAT forgets a stream.
        if !hop.is_stream() {
            ctx.shared.transmit(&hop, self.facts.peer, vec![KEEPALIVE], After::Nothing);
        }
        self.wire.note_sent(ctx.now.instant);
    }
}

impl Session {
    /// Replaces or ends Child SAs whose time has come. `expected_id` is that of the peer's next request.
    pub(super) fn on_children_timeout(&mut self, ctx: &mut Ctx, expected_id: u32) {
        let now = ctx.now.instant;
        let spis: Vec<Spi> = self.children.iter().map(|child| child.inbound).collect();
        for inbound in spis {
            let Some(child) = self.children.get_mut(inbound) else { continue };
            let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
            match child.state {
                ChildState::Closing => {}
                ChildState::Replaced { by, since } if since + REPLACED_PATIENCE <= now => {
                    let known = self.children.get(by).is_none_or(|by| by.is_confirmed(now, expected_id));
                    if !known {
                        // The peer may still ask again for the answer that made the new one.
                        let overdue = now.saturating_duration_since(since).saturating_sub(REPLACED_PATIENCE);
                        self.children.replace(inbound, by, since + overdue + UNCONFIRMED_WAIT);
                        continue;
                    }
                    // Whoever replaced it has forgotten it.
                    self.activate(ctx, by);
                    self.close_child(inbound);
                }
                ChildState::Live | ChildState::Replaced { .. } if is_due(child.limits.expire_at) || child.is_used_up() => {
                    self.expire_child(ctx, inbound);
                }
                ChildState::Live if is_due(child.limits.rekey_at) || (child.is_past_soft_limit() && !child.rekeying) => {
                    child.limits.rekey_at = Some(now + REKEY_RETRY);
                    if !child.rekeying && child.collision.is_none() {
                        self.want(Task::RekeyChild { inbound, method: None });
                    }
                }
                ChildState::Live | ChildState::Replaced { .. } => {}
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let mut next = earlier(self.children.drained_at(), self.awaited.deadline());
        let mut at = |instant: Option<Instant>| next = earlier(next, instant);
        at(self.succession.deadline());
        if !self.succession.has_successor() {
            at(self.lifetimes.deadline());
            at(self.proof.standing().deadline().filter(|_| self.succession.next().is_none()));
            at(self.wants.deadline());
            at(self.agenda.deadline());
            self.children.iter().for_each(|child| at(child.deadline()));
        }
        next
    }
}
