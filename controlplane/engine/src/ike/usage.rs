//! What the data plane says of the Child SAs of an IKE SA: how much went through them, and what it refuses or has lost.

use adit_proto::control::Spi;

use super::child::{Child, Usage};
use super::context::Ctx;
use super::sa::IkeSa;

impl IkeSa {
    /// Every Child SA that has waited for it is used for sending from now on.
    pub(super) fn activate_children(&mut self, ctx: &mut Ctx) {
        if let Some(session) = self.session_mut() {
            session.activate_all(ctx);
        }
    }

    /// The data plane has counted. Replaces or ends what is worn out; and packets on a new SA prove that the peer sends on it.
    pub(super) fn take_usage(&mut self, ctx: &mut Ctx, inbound: Spi, usage: Usage) {
        let expected_id = self.wire.window.expected_id();
        let Some(session) = self.session_mut() else { return };
        let Some(child) = session.children.get_mut(inbound) else { return };
        let heard = usage.inbound_packets > child.usage.inbound_packets;
        child.usage = usage;
        if heard && !child.is_sending() && child.replaces.is_some() && child.is_live() {
            session.activate(ctx, inbound);
        }
        if heard {
            session.end_hold(ctx);
        }
        session.on_children_timeout(ctx, expected_id);
        if heard {
            // An authentic packet of ESP is proof of life as good as any (RFC 7296 §2.4).
            self.wire.note_heard(ctx.now.instant);
        }
    }

    /// The inbound half cannot be installed: there is no use in it.
    pub(super) fn refuse_child(&mut self, ctx: &mut Ctx, inbound: Spi) {
        let (now, peer) = (ctx.now.instant, self.facts.peer);
        let Some(session) = self.session_mut() else { return };
        let Some(place) = session.children.get(inbound).map(Child::slot) else { return };
        ctx.count(peer, |counters| counters.children_lost += 1);
        session.wants.backoffs.back_off(now, place);
        session.close_child(inbound);
    }

    /// The inbound half is not there any more: the Child SA is rekeyed when it is its turn.
    pub(super) fn lose_inbound(&mut self, ctx: &mut Ctx, inbound: Spi) {
        let (now, peer) = (ctx.now.instant, self.facts.peer);
        let Some(session) = self.session_mut() else { return };
        let Some(child) = session.children.get_mut(inbound) else { return };
        ctx.count(peer, |counters| counters.children_lost += 1);
        let at = session.wants.backoffs.back_off(now, child.slot());
        if child.is_live() && !child.rekeying {
            child.limits.rekey_at = Some(at);
        }
    }

    /// As [`IkeSa::lose_inbound`], for the other half.
    pub(super) fn lose_outbound(&mut self, ctx: &mut Ctx, outbound: Spi) {
        if let Some(inbound) = self.session_mut().and_then(|session| session.children.lose_outbound(outbound)) {
            self.lose_inbound(ctx, inbound);
        }
    }
}
