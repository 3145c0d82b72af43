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
//!                                               responder: uses the old ones until it has heard something on the new IKE SA
//! ```
//!
//! The responder takes nothing away from the old IKE SA before the initiator has shown that it has the new one: an initiator that does
//! not accept our proof is gone by then, and who holds its credentials elsewhere leaves what is healthy alone. So it asks at once, with an
//! empty INFORMATIONAL request; any protected message or packet is an answer.

use std::time::Duration;

use super::agenda::Task;
use super::cause::Cause;
use super::context::{Action, Ctx, Then};
use super::session::Session;

/// How long the initiator waits before the Delete of the old IKE SA, so that what is on the way on its Child SAs arrives.
const DELETE_AFTER: Duration = Duration::from_secs(1);

impl Session {
    /// This new IKE SA waits for a message of the peer, and asks for one. `restarted`: the peer has forgotten the one before it.
    pub(super) fn hold(&mut self, restarted: bool) {
        self.succession.hold(restarted);
        self.want(Task::Liveness);
    }

    /// If there is nothing left to be made, the IKE SA before this one can go.
    pub(super) fn finish_reauthentication(&mut self, ctx: &mut Ctx) {
        if self.agenda.creates() {
            return;
        }
        if let Some(before) = self.succession.take_before() {
            ctx.act(Action::Superseded { sa: before, at: ctx.now.instant + DELETE_AFTER });
        }
    }

    /// What the time has come for. Says why the IKE SA is over, if it is.
    pub(super) fn on_authentication_timeout(&mut self, ctx: &mut Ctx) -> Option<Cause> {
        let now = ctx.now;
        if let Some(after) = self.succession.take_delete(now.instant) {
            ctx.act(Action::GiveWay { to: after, then: Then::Close });
        }
        if self.succession.next().is_some() {
            return None;
        }
        let over = self.proof.standing_mut().over(now);
        if over.is_none() && self.proof.standing_mut().take_reauth(now) {
            ctx.act(Action::Reauthenticate);
        }
        over
    }
}
