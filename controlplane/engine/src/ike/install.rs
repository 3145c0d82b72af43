//! A Child SA with its keys (RFC 7296 §2.17): it can receive before the peer learns of it.

use super::agreed::Secrets;
use super::cause::Cause;
use super::child::{Child, ChildState, Limits, Sending, Usage};
use super::config::Lifetime;
use super::context::{Action, Ctx};
use super::coverage::Carried;
use super::facts::{Role, SaId};
use super::plan::Creation;
use super::session::Session;
use super::share;
use super::wishes::Wish;

/// Makes the Child SA under the IKE SA `sa`: it can receive from now on, and the keys to send are kept with it. One that is not configured
/// any more is closing at once.
pub(super) fn install(ctx: &mut Ctx, sa: SaId, session: &mut Session, creation: Creation, secrets: &Secrets) {
    let Creation { plan, choice, role, nonce_i, nonce_r } = creation;
    let peer = session.peer;
    let Some(outbound) = choice.child_spi() else { return };
    let keys = session.made.keys.child(choice.suite, secrets.all(), &nonce_i, &nonce_r);
    let (outbound_key, inbound_key) = match role {
        Role::Initiator => (keys.from_initiator.clone(), keys.from_responder.clone()),
        Role::Responder => (keys.from_responder.clone(), keys.from_initiator.clone()),
    };
    // A reload that came while it was being made may know nothing of it any more.
    let lifetime = session.child_config(plan.config).map_or(Lifetime::CHILD, |child| child.lifetime);
    let now = ctx.now.instant;
    let pairs = share::pairs_of(session, plan.config, &plan.selectors);
    let what = (plan.config, plan.mode, &plan.selectors);
    let id = ctx.shared.spis.children.hold(peer, (sa, plan.inbound), plan.id, what, pairs);
    let child = Child {
        id,
        config: plan.config,
        lane: plan.lane,
        mode: plan.mode,
        inbound: plan.inbound,
        outbound,
        choice,
        selectors: plan.selectors,
        born: now,
        limits: Limits::new(now, &lifetime, ctx.random),
        usage: Usage::default(),
        sending: Sending::Waits(Box::new(outbound_key)),
        replaces: plan.replaces,
        state: ChildState::Live,
        superseded: false,
        granted_in: None,
        rekeying: false,
        collision: None,
    };
    session.children.add(ctx, child, inbound_key);
    ctx.act(Action::Grown { peer });
    if session.children.get(plan.inbound).is_some_and(|child| child.is_unwanted(session.child_config(child.config))) {
        return session.close_child(plan.inbound);
    }
    let wishes = plan.pairs.iter().map(|pair| Wish::Selector(plan.config, *pair));
    let left: Vec<Wish> = wishes.filter(|wish| session.carried(wish) != Carried::Whole).collect();
    match left.len() {
        0 => {}
        // It was asked for that alone: to ask again at once would bring the same.
        1 if plan.pairs.len() == 1 => session.create_later(ctx, left, (plan.config, plan.lane), Some(&Cause::Narrowed)),
        _ => session.wants.note_narrowing(),
    }
}
