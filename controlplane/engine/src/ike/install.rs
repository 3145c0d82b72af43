//! A Child SA with its keys (RFC 7296 §2.17): it can receive before the peer learns of it.
//!
//! Then it takes the place that it was made for. Which of two is used where both ends have rekeyed the same one is decided here (§2.8.1).

use std::time::Duration;

use super::agreed::Secrets;
use super::cause::Cause;
use super::child::{Child, ChildState, Limits, Sending, Usage};
use super::config::Lifetime;
use super::context::{Action, Ctx};
use super::coverage::Carried;
use super::facts::{Facts, Role, SaId};
use super::plan::{Creation, Plan};
use super::session::Session;
use super::share;
use super::window::jittered;
use super::wishes::Wish;

/// Before a rekey that the peer has refused is tried again.
const REKEY_RETRY: Duration = Duration::from_secs(30);

impl Session {
    /// Makes the Child SA under the IKE SA `sa`: it can receive from now on, and the keys to send are kept with it. One that is not configured
    /// any more is closing at once.
    pub(super) fn install(&mut self, ctx: &mut Ctx, sa: SaId, creation: Creation, secrets: &Secrets) {
        let Creation { plan, choice, role, nonce_i, nonce_r } = creation;
        let peer = self.peer;
        let Some(outbound) = choice.child_spi() else { return };
        let keys = self.made.keys.child(choice.suite, secrets.all(), &nonce_i, &nonce_r);
        let (outbound_key, inbound_key) = match role {
            Role::Initiator => (keys.from_initiator.clone(), keys.from_responder.clone()),
            Role::Responder => (keys.from_responder.clone(), keys.from_initiator.clone()),
        };
        // A reload that came while it was being made may know nothing of it any more.
        let lifetime = self.child_config(plan.config).map_or(Lifetime::CHILD, |child| child.lifetime);
        let now = ctx.now.instant;
        let pairs = share::pairs_of(self, plan.config, &plan.selectors);
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
        self.children.add(ctx, child, inbound_key);
        ctx.act(Action::Grown { peer });
        if self.children.get(plan.inbound).is_some_and(|child| child.is_unwanted(self.child_config(child.config))) {
            return self.close_child(plan.inbound);
        }
        let wishes = plan.pairs.iter().map(|pair| Wish::Selector(plan.config, *pair));
        let left: Vec<Wish> = wishes.filter(|wish| self.carried(wish) != Carried::Whole).collect();
        match left.len() {
            0 => {}
            // It was asked for that alone: to ask again at once would bring the same.
            1 if plan.pairs.len() == 1 => self.create_later(ctx, left, (plan.config, plan.lane), Some(&Cause::Narrowed)),
            _ => self.wants.note_narrowing(),
        }
    }

    /// The initiator has the keys: switches over to the new Child SA, or gives it up for the peer's.
    pub(super) fn take_made(&mut self, ctx: &mut Ctx, facts: &Facts, creation: Creation, secrets: &Secrets) {
        let (inbound, replaces, lost) = (creation.plan.inbound, creation.plan.replaces, self.has_lost(&creation));
        let is_redundant = self.is_redundant(&creation.plan);
        let now = ctx.now.instant;
        self.install(ctx, facts.id, creation, secrets);
        if is_redundant {
            // The peer has narrowed it to what there is, and may send on it already.
            self.children.supersede(inbound);
        }
        if lost || is_redundant {
            self.close_child(inbound);
        } else if self.children.get(inbound).is_some_and(Child::is_live) {
            self.activate(ctx, inbound);
        }
        self.agenda.created();
        let Some(replaces) = replaces else { return self.want_missing_children(facts.features.adit) };
        ctx.count(Some(self.peer), |counters| counters.child_rekeys += 1);
        match (lost, self.children.collision_of(replaces)) {
            (true, Some(by)) => self.children.replace(replaces, by, now),
            // It waits for additional key exchanges.
            (true, None) => {}
            (false, collision) => {
                self.children.replace(replaces, inbound, now);
                self.close_child(replaces);
                // The peer, which made it, is going to delete it.
                if let Some(collision) = collision {
                    self.children.replace(collision, inbound, now);
                }
            }
        }
    }

    /// Whether the peer's rekey of the same SA stays, because ours has the lowest of the four nonces (RFC 7296 §2.8.1).
    pub(super) fn has_lost(&self, creation: &Creation) -> bool {
        let old = creation.plan.replaces.and_then(|old| self.children.get(old));
        let collision = old.and_then(|old| old.collision.as_ref());
        creation.plan.overtaken || collision.is_some_and(|collision| creation.lowest_nonce() < collision.lowest_nonce)
    }

    /// The responder has the keys: receives on the new Child SA, and goes on sending on the old one. `granted_in` is the id of the request
    /// that has asked for it.
    pub(super) fn take_granted(&mut self, ctx: &mut Ctx, sa: SaId, granted_in: u32, creation: Creation, secrets: &Secrets) {
        let (inbound, replaces) = (creation.plan.inbound, creation.plan.replaces);
        self.install(ctx, sa, creation, secrets);
        if let Some(child) = self.children.get_mut(inbound) {
            // With IKE_AUTH it is not so: before it has that answer the peer takes no request at all.
            child.granted_in = Some(granted_in);
        }
        match replaces {
            None if self.children.get(inbound).is_some_and(Child::is_live) => self.activate(ctx, inbound),
            None => {}
            // While our own rekey of it is under way, its answer decides.
            Some(old) if self.children.get(old).is_some_and(|old| !old.rekeying) => {
                self.children.replace(old, inbound, ctx.now.instant);
            }
            Some(_) => {}
        }
    }

    /// It came to nothing. Tries again later: a rekey before the hard limit, a new one after a wait.
    pub(super) fn retry_child(&mut self, ctx: &mut Ctx, plan: &Plan, cause: &Cause) {
        match plan.replaces.and_then(|old| self.children.get_mut(old)) {
            Some(old) => {
                let wait = jittered(REKEY_RETRY, 50, ctx.random);
                old.limits.rekey_at = Some(ctx.now.instant + wait);
            }
            None => self.create_later(ctx, plan.wishes(), (plan.config, plan.lane), Some(cause)),
        }
    }
}
