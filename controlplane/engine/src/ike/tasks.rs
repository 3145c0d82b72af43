//! What is due of an established IKE SA's agenda is sent, one request at a time.

use std::sync::Arc;

use adit_proto::ike::Delete;

use super::agenda::Task;
use super::config::PeerConfig;
use super::context::Ctx;
use super::event::Cause;
use super::sa::{IkeSa, Stage};
use super::trust::{OwnProof, Trust};

impl IkeSa {
    pub(super) fn reconfigure(&mut self, ctx: &mut Ctx, config: Arc<PeerConfig>, trust: &Trust) {
        if self.session().is_some_and(|session| session.proof.trust() != trust) {
            return self.close(ctx, vec![Delete::ike().into()], Cause::TrustChanged);
        }
        if let Some(session) = self.session_mut() {
            session.proof.standing_mut().reconsider(ctx.now, OwnProof::of(&config));
            session.reconfigure(config);
            self.want_missing_children();
        }
    }

    /// Asks for the Child SAs that are missing.
    pub(super) fn want_missing_children(&mut self) {
        let is_adit = self.facts.features.adit;
        if let Some(session) = self.session_mut() {
            session.want_missing_children(is_adit);
        }
    }

    /// Sends the next request if none is under way.
    pub(super) fn start_next(&mut self, ctx: &mut Ctx) {
        while self.wire.window.is_idle() {
            let Stage::Established(session) = &mut self.stage else { return };
            let Some(task) = session.next_task(ctx.now.instant) else { return self.finish_beside(ctx) };
            let started = match task {
                Task::CreateChild { config, method } => self.send_create_child(ctx, config, method),
                Task::CreateLane { child, lane, method } => self.send_create_lane(ctx, child, lane, method),
                Task::RekeyChild { inbound, method } => self.send_rekey_child(ctx, inbound, method),
                Task::RekeyIke { method } => self.send_rekey_ike(ctx, method),
                Task::DeleteChildren(spis) => self.send_delete_children(ctx, spis),
                Task::DeleteOrphan(spi) => self.send_delete_orphan(ctx, spi),
                Task::Liveness => self.send_liveness(ctx),
                Task::UpdateAddresses => self.send_update_addresses(ctx),
                Task::AnnounceAddresses => self.send_additional_addresses(ctx),
                Task::SendToken => self.send_token(ctx),
            };
            if let Err(error) = started {
                return self.close_after_failure(ctx, error);
            }
        }
    }
}
