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

use super::cause::Cause;
use super::context::{Action, Ctx, Then};
use super::session::Session;

/// How long the responder goes on sending on the old Child SAs, if it hears nothing on the new IKE SA: its answer may be lost a few
/// times. An initiator that has lost the old ones says so (INITIAL_CONTACT), and then there is nothing to wait for.
const HOLD: Duration = Duration::from_secs(5);
/// How long the initiator waits before the Delete of the old IKE SA, so that what is on the way on its Child SAs arrives.
const DELETE_AFTER: Duration = Duration::from_secs(1);

/// The Child SAs of this new IKE SA wait while those of the one before are used.
pub(super) fn hold(session: &mut Session, now: Instant) {
    session.succession.hold(now + HOLD);
}

/// If there is nothing left to be made, the IKE SA before this one can go.
pub(super) fn finish(ctx: &mut Ctx, session: &mut Session) {
    if session.agenda.creates() {
        return;
    }
    if let Some(before) = session.succession.take_before() {
        ctx.act(Action::Superseded { sa: before, at: ctx.now.instant + DELETE_AFTER });
    }
}

/// What the time has come for. Says why the IKE SA is over, if it is.
pub(super) fn on_timeout(ctx: &mut Ctx, session: &mut Session) -> Option<Cause> {
    let now = ctx.now;
    if session.succession.has_held(now.instant) {
        session.end_hold(ctx);
    }
    if let Some(after) = session.succession.take_delete(now.instant) {
        ctx.act(Action::GiveWay { to: after, then: Then::Close });
    }
    if session.succession.next().is_some() {
        return None;
    }
    let over = session.proof.standing_mut().over(now);
    if over.is_none() && session.proof.standing_mut().take_reauth(now) {
        ctx.act(Action::Reauthenticate);
    }
    over
}
