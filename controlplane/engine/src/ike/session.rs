//! An established IKE SA: the parts that it has, and what one of them means for the others.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use adit_proto::control::{ChildId, PeerId, Selector, Spi};

use crate::crypto::IkeKeys;

use super::addresses::Addresses;
use super::agenda::{Agenda, Task};
use super::cause::Cause;
use super::child::{Child, ChildState};
use super::children::Children;
use super::config::{ChildConfig, Now, PeerConfig};
use super::context::{Action, Ctx, Then};
use super::coverage::{Carried, Coverage};
use super::crash::Tokens;
use super::error::LocalFault;
use super::facts::{Role, SaId};
use super::lifetimes::Lifetimes;
use super::negotiate::Choice;
use super::parts::Parts;
use super::plan::Plan;
use super::proof::Proof;
use super::selectors::SelectorPair;
use super::succession::Succession;
use super::unfinished::{Awaited, Goal};
use super::wishes::{Refused, Wants, Wish};

/// What the exchange has made that began it.
pub(super) struct Made {
    pub keys: IkeKeys,
    pub choice: Choice,
    /// The smaller nonce, by which simultaneous IKE SAs are told apart (RFC 7296 §2.8.2).
    pub lowest_nonce: Vec<u8>,
}

/// What an IKE SA has once it is authenticated. Exchanges only read it, and say in a [`Change`](super::change::Change) what becomes of it.
pub(super) struct Session {
    pub peer: PeerId,
    pub config: Arc<PeerConfig>,
    /// Whether we look after the Child SAs: we began the connection.
    pub original_initiator: bool,
    pub made: Made,
    pub proof: Proof,
    pub lifetimes: Lifetimes,
    pub succession: Succession,
    pub children: Children,
    pub wants: Wants,
    pub agenda: Agenda,
    /// A creation by the peer that waits for additional key exchanges.
    pub awaited: Awaited,
    /// With which the peer will say that it has crashed (RFC 6290).
    pub tokens: Tokens,
    pub addresses: Addresses,
}

impl Session {
    /// A session without Child SAs and without anything to do.
    pub(super) fn new(
        peer: PeerId,
        config: Arc<PeerConfig>,
        original_initiator: bool,
        made: Made,
        proof: Proof,
        lifetimes: Lifetimes,
    ) -> Session {
        Session {
            peer,
            config,
            original_initiator,
            made,
            proof,
            lifetimes,
            succession: Succession::default(),
            children: Children::new(peer),
            wants: Wants::new(original_initiator),
            agenda: Agenda::default(),
            awaited: Awaited::default(),
            tokens: Tokens::default(),
            addresses: Addresses::default(),
        }
    }

    /// Adds a request to what is to be done, unless it is there.
    pub(super) fn want(&mut self, task: Task) {
        self.agenda.want(task);
    }

    /// The next request that may be sent now.
    pub(super) fn next_task(&mut self, now: Instant) -> Option<Task> {
        if self.succession.may_speak(now) { self.agenda.next(now) } else { None }
    }

    /// How a child is configured by now, if it is.
    pub(super) fn child_config(&self, config: usize) -> Option<&ChildConfig> {
        self.config.children.get(config)
    }

    /// Whether the peer may have a new Child SA with these selectors for this child and lane. Lanes come one after the other, so that
    /// there is a worker for each. Gives the Child SA whose lane it is, where it is not the first.
    ///
    /// # Errors
    /// There is no such lane, those below it are not there yet, or the data plane has refused it a moment ago.
    pub(super) fn may_have(
        &self,
        now: Instant,
        (config, lane): (usize, u8),
        selectors: &SelectorPair,
    ) -> Result<Option<ChildId>, LocalFault> {
        if lane >= self.wants.lanes(self.child_config(config)) {
            return Err(LocalFault::Children);
        }
        if self.wants.backoffs.is_backing_off(now, (config, lane)) {
            return Err(LocalFault::Busy);
        }
        if lane == 0 {
            return Ok(None);
        }
        let id = self.with_selectors(config, lane, selectors).ok_or(LocalFault::Busy)?;
        let in_order = (0..lane).all(|below| self.children.has_lane(id, below));
        if in_order { Ok(Some(id)) } else { Err(LocalFault::Busy) }
    }

    /// The Child SA with these selectors, or else with some of them; first those without this lane.
    fn with_selectors(&self, config: usize, lane: u8, selectors: &SelectorPair) -> Option<ChildId> {
        let rank = |child: &Child| {
            let same = child.selectors.covers(selectors) && selectors.covers(&child.selectors);
            (!same, self.children.has_lane(child.id, lane))
        };
        let first = self.children.staying().filter(|child| child.config == config && child.lane == 0);
        let fits = first.filter(|child| child.selectors.narrow(selectors).is_some());
        fits.min_by_key(|child| rank(child)).map(|child| child.id)
    }

    /// Installs the outbound SA of a Child SA, once. One that cannot be is replaced.
    pub(super) fn activate(&mut self, ctx: &mut Ctx, inbound: Spi) {
        if self.children.activate(ctx, inbound) {
            self.want(Task::RekeyChild { inbound, method: None });
        }
    }

    /// Every Child SA that has waited for it is used for sending from now on.
    pub(super) fn activate_all(&mut self, ctx: &mut Ctx) {
        if !self.succession.holds() {
            self.children.to_activate().into_iter().for_each(|inbound| self.activate(ctx, inbound));
        }
    }

    /// The peer has shown that it has this IKE SA: it is used from now on.
    pub(super) fn end_hold(&mut self, ctx: &mut Ctx) {
        if let Some(hold) = self.succession.end_hold() {
            ctx.act(Action::Proven { restarted: hold.restarted });
        }
    }

    /// This one is to be deleted by us.
    pub(super) fn close_child(&mut self, inbound: Spi) {
        if self.children.close(inbound) {
            self.want(Task::DeleteChildren(vec![inbound]));
        }
    }

    /// Takes out a Child SA that the peer has deleted, or we have. Where none has its place, and that is our business, it is asked for
    /// again later.
    pub(super) fn end_child(&mut self, ctx: &mut Ctx, inbound: Spi, by_peer: bool) {
        let gone = self.children.get(inbound).map(|child| (child.slot(), child.wishes(self.child_config(child.config))));
        self.children.remove(ctx, inbound);
        let Some((slot, wishes)) = gone else { return };
        // What waits already is not put off.
        let is_missing = |wish: &Wish| self.carried(wish) != Carried::Whole && !self.wants.waits(wish);
        let missing = wishes.into_iter().filter(is_missing).collect();
        if self.original_initiator || !by_peer {
            self.create_later(ctx, missing, slot, None);
        } else {
            self.wants.leave_to_peer(ctx.now.instant, missing);
        }
    }

    /// The peer deletes a Child SA. Says whether another one has its place.
    pub(super) fn on_deleted_by_peer(&mut self, ctx: &mut Ctx, inbound: Spi) -> bool {
        let Some(successor) = self.children.successor_of(inbound) else {
            self.end_child(ctx, inbound, true);
            return false;
        };
        // The peer has switched over, so it receives on the new one (RFC 7296 §2.8).
        self.children.replace(inbound, successor, ctx.now.instant);
        self.activate(ctx, successor);
        self.children.remove(ctx, inbound);
        true
    }

    /// What the peer says of itself beside other things: its token, and until when it believes us.
    pub(super) fn take_news(&mut self, now: Now, parts: &Parts) {
        self.tokens.take(parts);
        self.proof.standing_mut().take_auth_lifetime(now, parts, self.original_initiator);
    }

    /// It must not be used any more (RFC 7296 §2.8), whether there is another one or not.
    pub(super) fn expire_child(&mut self, ctx: &mut Ctx, inbound: Spi) {
        self.want(Task::DeleteOrphan(inbound));
        let expired = self.children.expire(ctx, inbound).filter(|_| self.original_initiator);
        if let Some(child) = expired {
            let wishes = child.wishes(self.child_config(child.config));
            self.create_later(ctx, wishes, child.slot(), Some(&Cause::Expired));
        }
    }

    /// Takes one out that was replaced, without a word: who replaced it deletes it. What has its place is used from now on.
    pub(super) fn give_up_child(&mut self, ctx: &mut Ctx, inbound: Spi) {
        if let Some(by) = self.children.successor_of(inbound) {
            self.activate(ctx, by);
        }
        self.children.give_up(ctx, inbound);
    }

    /// Forgets a creation of the peer whose next key exchange did not come in time.
    pub(super) fn forget_late_key_exchange(&mut self, ctx: &mut Ctx) {
        let Some(goal) = self.awaited.take_expired(ctx.now.instant) else { return };
        match &goal {
            Goal::Ike(_) => drop(self.succession.end_collision()),
            Goal::Child(unfinished) => {
                if let Some(old) = unfinished.creation.plan.replaces.and_then(|old| self.children.get_mut(old)) {
                    old.collision = None;
                }
            }
        }
        goal.release(ctx);
    }

    /// Takes out everything that the data plane or a table knows of.
    pub(super) fn remove_all(&mut self, ctx: &mut Ctx) {
        self.children.remove_all(ctx);
        self.awaited.forget(ctx);
        self.agenda.clear().for_each(|spi| ctx.shared.spis.release(spi));
    }

    /// Something could not be had, or is not there any more: asks again later.
    pub(super) fn create_later(&mut self, ctx: &mut Ctx, wishes: Vec<Wish>, slot: (usize, u8), cause: Option<&Cause>) {
        let wishes = wishes.into_iter().map(|wish| (self.carried(&wish), wish)).map(|(had, wish)| (wish, had)).collect();
        self.wants.create_later((ctx.now.instant, &mut *ctx.random), wishes, slot, cause);
    }

    /// How much there is of what is wanted.
    pub(super) fn carried(&self, wish: &Wish) -> Carried {
        self.children.carried(&self.config, wish)
    }

    /// Whether a Child SA that was asked for beside others that have some of the same would have nothing more than they have.
    pub(super) fn is_redundant(&self, plan: &Plan) -> bool {
        let pairs = self.child_config(plan.config).map_or(&[][..], |child| &child.pairs);
        plan.had != Carried::Nothing && !Coverage::of(&self.children, plan.config).grows_by(pairs, &plan.selectors)
    }

    /// The peer asked for patience. Says whether there is any left (RFC 7296 §2.25).
    pub(super) fn wait_after_temporary_failure(&mut self, ctx: &mut Ctx, again: Task) -> bool {
        self.agenda.wait_after_temporary_failure(ctx.now.instant, ctx.random, again)
    }

    /// What is configured and not there, whoever is to ask for it, with the reason why the peer refused it.
    pub(super) fn missing(&self) -> Vec<(Wish, Option<&Refused>)> {
        self.wants.missing(&self.config, &self.children)
    }

    /// The configured selectors of which the peer carries a part, some of that part, and why there is no more.
    pub(super) fn narrowed(&self) -> Vec<(Selector, Vec<Selector>, Option<&Refused>)> {
        // Of the clients of a pattern each has its part.
        let is_client = !self.original_initiator && self.config.remote_id.exact().is_none();
        if is_client { Vec::new() } else { self.wants.narrowed(&self.config, &self.children) }
    }

    /// Asks for every Child SA that is configured and not there, where that is our business.
    pub(super) fn want_missing_children(&mut self, is_adit: bool) {
        // The Child SAs of a predecessor are still to come.
        let goes = self.succession.has_successor() || self.succession.next().is_some();
        if goes || self.succession.has_predecessor() {
            return;
        }
        self.wants.forget_what_came(&self.config, &self.children);
        if self.original_initiator {
            self.children.headless_lanes().into_iter().for_each(|inbound| self.close_child(inbound));
        }
        let tasks = self.wants.tasks(&self.config, &self.children, is_adit, self.lifetimes.established());
        tasks.into_iter().for_each(|task| self.want(task));
    }

    /// Follows a changed configuration from the next exchange on.
    pub(super) fn reconfigure(&mut self, config: Arc<PeerConfig>) {
        let name = |config: &PeerConfig, index: usize| config.children.get(index).map(|child| child.name.clone());
        let gone = |child: &&Child| name(&config, child.config) != name(&self.config, child.config);
        let gone: Vec<Spi> = self.children.iter().filter(gone).map(|child| child.inbound).collect();
        self.config = config;
        let unwanted = |child: &&Child| child.is_live() && child.is_unwanted(self.child_config(child.config));
        let unwanted = self.children.iter().filter(unwanted).map(|child| child.inbound);
        let spis: BTreeSet<Spi> = gone.into_iter().chain(unwanted).collect();
        spis.into_iter().for_each(|inbound| self.close_child(inbound));
    }

    /// That of the IKE SA that takes the place of this one in a rekey, with all that does not change. `role` is ours in it, `own` is this one.
    pub(super) fn rekeyed(&self, ctx: &mut Ctx, (own, role): (SaId, Role), made: Made) -> Session {
        let (config, proof) = (self.config.clone(), self.proof.clone());
        let lifetimes = Lifetimes::new(ctx.now.instant, &config.ike_lifetime, ctx.random);
        let mut new = Session::new(self.peer, config, self.original_initiator, made, proof, lifetimes);
        new.wants = Wants::new(self.original_initiator).with_lanes(self.wants.peer_lanes());
        new.addresses = self.addresses.clone();
        match role {
            Role::Initiator => new.want(Task::SendToken),
            Role::Responder => new.succession = Succession::after(own, ctx.now.instant),
        }
        new
    }

    /// Our rekey of the IKE SA came to nothing: the new one of the peer inherits, now or when it is complete.
    pub(super) fn yield_rekey(&mut self, ctx: &mut Ctx) {
        ctx.act(Action::Rekeying(false));
        self.succession.set_rekeying(false);
        if self.succession.has_successor() {
            return;
        }
        if let Some(successor) = self.succession.made_by_peer() {
            self.leave_to(ctx, successor, Then::Stay);
        }
    }

    /// Our rekey of the IKE SA has made that one, and it stays: what the peer's has made, too, is to be closed by the peer.
    pub(super) fn leave_to_own(&mut self, ctx: &mut Ctx, successor: SaId) {
        self.succession.set_rekeying(false);
        if let Some(collision) = self.succession.end_collision() {
            ctx.act(Action::ExpectClosed { sa: collision });
        }
        self.leave_to(ctx, successor, Then::Close);
    }

    /// Gives everything to another IKE SA. From here on this one sends nothing but its own end.
    pub(super) fn leave_to(&mut self, ctx: &mut Ctx, successor: SaId, then: Then) {
        self.succession.leave_to(successor, ctx.now.instant);
        ctx.act(Action::Inherit { successor, then });
    }

    /// Takes over Child SAs and what is wanted. What was closing is still to be deleted.
    pub(super) fn inherit(&mut self, ctx: &mut Ctx, owner: SaId, handover: Handover) {
        let Handover { children, wants, tasks } = handover;
        self.succession.forget_predecessor();
        self.children.inherit(ctx, owner, children);
        self.wants.inherit(wants);
        let closing = self.children.iter().filter(|child| child.state == ChildState::Closing).map(|child| child.inbound);
        let closing: Vec<Spi> = closing.collect();
        closing.into_iter().for_each(|inbound| self.want(Task::DeleteChildren(vec![inbound])));
        tasks.into_iter().for_each(|task| self.want(task));
    }

    /// The IKE SA before this one has ended with all that it had.
    pub(super) fn inherit_nothing(&mut self, from: SaId, is_adit: bool) {
        if self.succession.predecessor() == Some(from) {
            self.succession.forget_predecessor();
            self.want_missing_children(is_adit);
        }
    }

    /// Gives Child SAs and what is wanted away; `unfinished` is under way here and is begun anew there.
    pub(super) fn hand_over(&mut self, unfinished: Option<Task>) -> Handover {
        let tasks = unfinished.into_iter().chain(self.agenda.take()).collect();
        Handover { children: self.children.take(), wants: self.wants.take(), tasks }
    }
}

/// What an IKE SA leaves to its successor.
pub(super) struct Handover {
    children: Children,
    wants: Wants,
    tasks: Vec<Task>,
}

#[cfg(test)]
mod tests;
