//! What the data plane says of the Child SAs of an IKE SA: how much went through them, and what it refuses or has lost.

use adit_proto::control::Spi;

use super::cause::Cause;
use super::child::{Child, Usage};
use super::context::Ctx;
use super::error::LocalFault;
use super::session::Session;

impl Session {
    /// The data plane has counted. Replaces or ends what has carried as much as it may; and packets on a new SA prove that the peer sends on it. Says
    /// whether something has come since. `expected_id` is that of the peer's next request.
    pub(super) fn take_usage(&mut self, ctx: &mut Ctx, inbound: Spi, usage: Usage, expected_id: u32) -> bool {
        let Some(child) = self.children.get_mut(inbound) else { return false };
        let heard = usage.inbound_packets > child.usage.inbound_packets;
        child.usage = usage;
        if heard && !child.is_sending() && child.replaces.is_some() && child.is_live() {
            self.activate(ctx, inbound);
        }
        if heard {
            self.end_hold(ctx);
        }
        self.on_children_timeout(ctx, expected_id);
        heard
    }

    /// The inbound half cannot be installed: there is no use in it.
    pub(super) fn refuse_child(&mut self, ctx: &mut Ctx, inbound: Spi) {
        let Some(place) = self.children.get(inbound).map(Child::slot) else { return };
        ctx.count(Some(self.peer), |counters| counters.children_lost += 1);
        ctx.record(Some(self.peer), |record| record.problem(&Cause::Failed(LocalFault::DataPlane.into())));
        self.wants.backoffs.back_off(ctx.now.instant, place);
        self.close_child(inbound);
    }

    /// The inbound half is not there any more: the Child SA is rekeyed when it is its turn.
    pub(super) fn lose_inbound(&mut self, ctx: &mut Ctx, inbound: Spi) {
        let Some(child) = self.children.get_mut(inbound) else { return };
        ctx.count(Some(self.peer), |counters| counters.children_lost += 1);
        let at = self.wants.backoffs.back_off(ctx.now.instant, child.slot());
        // Whether the peer has it yet matters no more: what it sends on it is lost.
        child.granted_in = None;
        if child.is_live() && !child.rekeying {
            // It is reported again and again until it is replaced: that puts nothing off.
            child.limits.rekey_at = Some(child.limits.rekey_at.map_or(at, |due| due.min(at)));
        }
    }

    /// As [`Session::lose_inbound`], for the other half.
    pub(super) fn lose_outbound(&mut self, ctx: &mut Ctx, outbound: Spi) {
        if let Some(inbound) = self.children.lose_outbound(outbound) {
            self.lose_inbound(ctx, inbound);
        }
    }
}
