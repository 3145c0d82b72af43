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

use super::context::{Action, Ctx, Then};
use super::sa::IkeSa;

/// How long the responder goes on sending on the old Child SAs, if it hears nothing on the new IKE SA: its answer may be lost a few
/// times. An initiator that has lost the old ones says so (INITIAL_CONTACT), and then there is nothing to wait for.
const HOLD: Duration = Duration::from_secs(5);
/// How long the initiator waits before the Delete of the old IKE SA, so that what is on the way on its Child SAs arrives.
const DELETE_AFTER: Duration = Duration::from_secs(1);

impl IkeSa {
    /// The peer has shown that it has this IKE SA, or has had the time: what it has is used for sending from now on.
    pub(super) fn end_hold(&mut self, ctx: &mut Ctx) {
        if let Some(session) = self.session_mut() {
            session.end_hold(ctx);
        }
    }

    /// The Child SAs of this new IKE SA wait while those of the one before are used.
    pub(super) fn hold(&mut self, ctx: &Ctx) {
        if let Some(session) = self.session_mut() {
            session.succession.hold(ctx.now.instant + HOLD);
        }
    }

    /// There is nothing left to be made: the IKE SA before this one can go.
    pub(super) fn finish_beside(&mut self, ctx: &mut Ctx) {
        let Some(session) = self.session_mut().filter(|session| !session.agenda.creates()) else { return };
        if let Some(before) = session.succession.take_before() {
            ctx.act(Action::Superseded { sa: before, at: ctx.now.instant + DELETE_AFTER });
        }
    }

    /// What the time has come for. Says whether the IKE SA is over.
    pub(super) fn on_reauth_timeout(&mut self, ctx: &mut Ctx) -> bool {
        let now = ctx.now;
        let Some(session) = self.session_mut() else { return false };
        if session.succession.has_held(now.instant) {
            session.end_hold(ctx);
        }
        if let Some(after) = session.succession.take_delete(now.instant) {
            ctx.act(Action::GiveWay { to: after, then: Then::Close });
        }
        if session.succession.next().is_some() {
            return false;
        }
        if let Some(cause) = session.proof.standing_mut().over(now) {
            self.close(ctx, vec![adit_proto::ike::Delete::ike().into()], cause);
            return true;
        }
        if session.proof.standing_mut().take_reauth(now) {
            ctx.act(Action::Reauthenticate);
        }
        false
    }

    /// Gives the inbound SAs away to drain; the IKE SA has no Child SA any more.
    pub(super) fn retire(&mut self, ctx: &mut Ctx) -> Vec<(Instant, Spi)> {
        self.session_mut().map(|session| session.children.retire(ctx)).unwrap_or_default()
    }

    /// Takes what the IKE SA before this one gave away.
    pub(super) fn drain(&mut self, ctx: &mut Ctx, draining: Vec<(Instant, Spi)>) {
        let id = self.facts.id;
        if let Some(session) = self.session_mut() {
            draining.iter().for_each(|(_, spi)| ctx.shared.spis.assign(*spi, id));
            session.children.drain(draining);
        }
    }
}
