//! CREATE_CHILD_SA for Child SAs: new ones (RFC 7296 §1.3.1) and the rekey of one (§1.3.3), as initiator and as responder.
//! The collisions of §2.8.1 and §2.25.1 are decided here.

use std::time::Duration;

use adit_proto::control::{ChildId, Spi};
use adit_proto::ike::{ExchangeType, Notify, NotifyType, Payload, PayloadType, ProtocolId};

use crate::crypto::key_exchange;
use crate::crypto::{KeyExchange, KeyExchangeMethod};

use super::agenda::Task;
use super::agreed::{Progress, Secrets};
use super::cause::Cause;
use super::change::Change;
use super::child::RekeyCollision;
use super::children::Children;
use super::context::{Action, Ctx};
use super::coverage::Carried;
use super::error::{Error, Incompatibility, LocalFault, Misbehaviour};
use super::event::Event;
use super::exchange::{Answer, Begun, Effect, Established, Refusal, Request};
use super::facts::{Facts, Role};
use super::handshake::NONCE_LEN;
use super::negotiate::{self, Alternative, Choice};
use super::parts::{Parts, needed};
use super::plan::{self, Asked, Creation, Granted, Plan};
use super::session::Session;
use super::share;
use super::unfinished::{Goal, Link};
use super::wishes::Ask;

pub(super) const EXCHANGE: ExchangeType = ExchangeType::CREATE_CHILD_SA;
/// Before it is looked again whether the peer knows of a Child SA, so that it can be rekeyed, or the one before it deleted.
pub(super) const UNCONFIRMED_WAIT: Duration = Duration::from_secs(5);

/// What the initiator remembers until the answer comes.
pub(super) struct Sent {
    plan: Plan,
    offered: Vec<Alternative>,
    nonce: Vec<u8>,
    exchange: Option<KeyExchange>,
    /// Whether this is the second try, with the method that the peer asked for.
    corrected: bool,
}

impl Sent {
    pub(super) fn inbound(&self) -> Spi {
        self.plan.inbound
    }

    pub(super) fn plan_mut(&mut self) -> &mut Plan {
        &mut self.plan
    }
}

/// Asks for a new Child SA, for what is missing of a configured one.
///
/// # Errors
/// No key can be made.
pub(super) fn ask_new(
    ctx: &mut Ctx,
    sa: &Established,
    config: usize,
    method: Option<KeyExchangeMethod>,
) -> Result<Begun<Sent>, Error> {
    let (adit, session) = (sa.is_adit(), sa.session);
    let Some(child) = session.child_config(config) else { return Ok(Begun::default()) };
    let Ask { pairs, selectors, had } = session.wants.to_ask_for(&session.config, &session.children, config, adit);
    let selectors = match pairs.as_slice() {
        // It has come in the meantime, from the IKE SA before this one or by the peer.
        [] if !session.wants.lacks(&session.config, &session.children, config) => return Ok(Begun::default()),
        [] => child.policy(),
        _ => selectors,
    };
    let mode = child.mode;
    let plan = Plan { config, mode, selectors, pairs, had, ..Plan::default() };
    // A peer that gives a little at a time must not fill the table.
    if had != Carried::Nothing
        && let Err(full) = share::has_room(ctx, session, 0, true)
    {
        let failed = Change::ChildFailed(Box::new(plan), Cause::Failed(full.into()));
        return Ok(Begun::without_request(vec![failed.into()]));
    }
    let inbound = ctx.shared.spis.allocate(ctx.random, sa.facts.id, 0);
    ask(ctx, sa, Plan { inbound, ..plan }, method)
}

/// Asks for one more lane of a Child SA.
///
/// # Errors
/// No key can be made.
pub(super) fn ask_lane(
    ctx: &mut Ctx,
    sa: &Established,
    (child, lane): (ChildId, u8),
    method: Option<KeyExchangeMethod>,
) -> Result<Begun<Sent>, Error> {
    let children = &sa.session.children;
    // It comes after the ones below, which are asked for again.
    let in_order = (0..lane).all(|below| children.has_lane(child, below));
    let first = children.staying().find(|one| one.place() == (child, 0));
    let Some(first) = first.filter(|_| in_order && !children.has_lane(child, lane)) else { return Ok(Begun::default()) };
    let (config, mode, selectors) = (first.config, first.mode, first.selectors.clone());
    let inbound = ctx.shared.spis.allocate(ctx.random, sa.facts.id, lane);
    ask(ctx, sa, Plan { id: Some(child), config, lane, mode, inbound, selectors, ..Plan::default() }, method)
}

/// Asks for a Child SA in the place of one that there is.
///
/// # Errors
/// No key can be made.
pub(super) fn ask_rekey(
    ctx: &mut Ctx,
    sa: &Established,
    old: Spi,
    method: Option<KeyExchangeMethod>,
) -> Result<Begun<Sent>, Error> {
    let (now, session) = (ctx.now.instant, sa.session);
    let child = session.children.get(old).filter(|child| child.is_live() && child.collision.is_none());
    let Some(child) = child else { return Ok(Begun::default()) };
    if !child.is_confirmed(now, sa.expected_id) {
        return Ok(Begun::without_request(vec![Change::ChildRekeyAt(old, now + UNCONFIRMED_WAIT).into()]));
    }
    let (id, config, lane, mode) = (Some(child.id), child.config, child.lane, child.mode);
    let selectors = session.wants.to_rekey_for(&session.config, &session.children, child, sa.is_adit());
    let at_least = child.selectors.narrow(&selectors).unwrap_or_default();
    let inbound = ctx.shared.spis.allocate(ctx.random, sa.facts.id, lane);
    ctx.act(Action::Rekeying(true));
    let plan = Plan { id, config, lane, mode, inbound, replaces: Some(old), selectors, at_least, ..Plan::default() };
    let begun = ask(ctx, sa, plan, method)?;
    Ok(Begun { effects: vec![Change::ChildRekeying(old, true).into()], ..begun })
}

fn ask(ctx: &mut Ctx, sa: &Established, plan: Plan, corrected: Option<KeyExchangeMethod>) -> Result<Begun<Sent>, Error> {
    let Some(child) = sa.session.child_config(plan.config) else { return Ok(Begun::default()) };
    let offered = negotiate::child_alternatives(&child.proposals, false);
    let first = offered.iter().find_map(|alternative| alternative.key_exchanges().first().copied());
    let exchange = corrected.or(first).map(KeyExchange::start).transpose()?;
    let nonce = ctx.bytes::<NONCE_LEN>().to_vec();
    let proposals = negotiate::offer(&offered, plan.inbound.0.to_be_bytes());
    ctx.record(sa.facts.peer, |record| record.begin_child(Role::Initiator, &proposals, &plan.selectors));
    let mut payloads: Vec<Payload> = Vec::new();
    if let Some(old) = plan.replaces {
        payloads.push(Notify::new(NotifyType::REKEY_SA).about(ProtocolId::ESP, old).into());
    }
    let mut between = vec![Payload::Nonce(nonce.clone())];
    let ke = |exchange: &KeyExchange| Payload::Ke { method: exchange.method().id(), data: exchange.public().to_vec() };
    between.extend(exchange.as_ref().map(ke));
    payloads.extend(plan::payloads(&plan, Payload::Sa(proposals), between, Role::Initiator, sa.is_adit()));
    let sent = Sent { plan, offered, nonce, exchange, corrected: corrected.is_some() };
    Ok(Request { exchange: EXCHANGE, payloads, sent }.into())
}

/// The answer to a request of ours.
pub(super) fn on_answer(ctx: &mut Ctx, sa: &Established, sent: Sent, parts: &Parts) -> Vec<Effect> {
    let mut effects = Vec::new();
    if let Some(old) = sent.plan.replaces {
        ctx.act(Action::Rekeying(false));
        effects.push(Change::ChildRekeying(old, false).into());
    }
    effects.extend(match parts.error() {
        Some(notify) => on_refused(ctx, sa, sent, notify),
        None => on_granted(ctx, sa, sent, parts),
    });
    effects
}

/// The peer grants something: what we asked for, if it is well.
fn on_granted(ctx: &mut Ctx, sa: &Established, mut sent: Sent, parts: &Parts) -> Vec<Effect> {
    let completed = sent.complete(parts, sa.is_adit()).and_then(|progress| {
        // What a peer makes of what we ask for is limited as what it asks for.
        let plan = &sent.plan;
        share::has_room_for(ctx, sa.session, (sa.facts.id, plan.id), (plan.config, plan.mode, &plan.selectors))?;
        Ok(progress)
    });
    match completed {
        Ok(Progress::Complete(creation, secrets)) => vec![finish(ctx, sa.facts, creation, secrets)],
        Ok(Progress::Unfinished(unfinished)) if sa.session.has_lost(&unfinished.creation) => {
            // With additional key exchanges the loser just does not go on: there is no SA yet (RFC 9370 §2.2.4).
            ctx.shared.spis.release(unfinished.creation.plan.inbound);
            Vec::new()
        }
        Ok(Progress::Unfinished(unfinished)) => {
            vec![Effect::FollowUp(Goal::Child(Box::new(unfinished)), parts.follow_up_link())]
        }
        // It is not what we asked for: what the peer has made is deleted again.
        Err(error) => {
            let cause = Cause::Failed(error);
            failed(ctx, sa.facts, sa.session, cause.clone());
            vec![Change::Orphan(sent.plan.inbound).into(), Change::ChildFailed(Box::new(sent.plan), cause).into()]
        }
    }
}

/// The initiator has the keys.
pub(super) fn finish(ctx: &mut Ctx, facts: &Facts, creation: Creation, secrets: Secrets) -> Effect {
    ctx.record(facts.peer, |record| record.chosen_child(&creation.choice, &creation.plan.selectors));
    Change::ChildMade(Box::new(creation), secrets).into()
}

/// The peer refused with an error.
fn on_refused(ctx: &mut Ctx, sa: &Established, sent: Sent, notify: &Notify) -> Vec<Effect> {
    let (children, wants, plan) = (&sa.session.children, &sa.session.wants, sent.plan);
    ctx.shared.spis.release(plan.inbound);
    let refused = Cause::Refused { exchange: EXCHANGE, notify: notify.kind };
    // The old one may have gone, or have been rekeyed by the peer, while our request was on its way.
    let old = plan.replaces.map(|old| children.get(old));
    let overtaken = old.is_some_and(|old| old.is_none_or(|old| !old.is_live() || old.collision.is_some()));
    match notify.kind {
        _ if overtaken => settle_collision(children, &plan).into_iter().map(Effect::from).collect(),
        NotifyType::INVALID_KE_PAYLOAD => {
            let method = notify.ke_method().and_then(KeyExchangeMethod::from_id);
            let method = method.filter(|method| sent.offered.iter().any(|one| one.key_exchanges().contains(method)));
            vec![match method {
                Some(method) if !sent.corrected => Change::WantFirst(again(&plan, Some(method))).into(),
                _ => Change::ChildFailed(Box::new(plan), refused).into(),
            }]
        }
        NotifyType::TEMPORARY_FAILURE => vec![Effect::Postpone(again(&plan, None))],
        // The peer has lost it: so do we (RFC 7296 §2.25), and ask for a new one.
        NotifyType::CHILD_SA_NOT_FOUND => vec![Change::ChildUnknown(plan.replaces).into()],
        NotifyType::NO_ADDITIONAL_SAS | NotifyType::TS_MAX_QUEUE if plan.replaces.is_none() && plan.lane > 0 => {
            vec![Change::LaneRefused(plan.lane).into()]
        }
        NotifyType::TS_UNACCEPTABLE | NotifyType::SINGLE_PAIR_REQUIRED if plan.pairs.len() > 1 && !wants.narrows() => {
            // Perhaps it grants single pairs alone.
            vec![Change::Narrows.into(), Change::Want(again(&plan, None)).into()]
        }
        _ => {
            // That a peer has no more than it carries already is no failure.
            if plan.had != Carried::Part {
                failed(ctx, sa.facts, sa.session, refused.clone());
            }
            vec![Change::ChildFailed(Box::new(plan), refused).into()]
        }
    }
}

/// The same request once more; `method`: the key exchange that the peer asked for.
fn again(plan: &Plan, method: Option<KeyExchangeMethod>) -> Task {
    match (plan.replaces, plan.id) {
        (Some(inbound), _) => Task::RekeyChild { inbound, method },
        (None, Some(child)) => Task::CreateLane { child, lane: plan.lane, method },
        (None, None) => Task::CreateChild { config: plan.config, method },
    }
}

/// The peer wants a Child SA.
///
/// # Errors
/// What it is told.
pub(super) fn answer(ctx: &mut Ctx, sa: &Established, parts: &Parts) -> Result<Answer, Refusal> {
    grant(ctx, sa, parts).map_err(|error| {
        match &error {
            // These pass, and the peer tries again or knows better by now.
            Error::Local(LocalFault::Busy | LocalFault::KeysTooOften | LocalFault::NoSuchChild)
            | Error::Incompatible(Incompatibility::KeyExchange(_)) => {}
            error => failed(ctx, sa.facts, sa.session, Cause::Failed(error.clone())),
        }
        match (&error, parts.notify(NotifyType::REKEY_SA)) {
            // It says which one (RFC 7296 §2.25).
            (Error::Local(LocalFault::NoSuchChild), Some(rekey)) => {
                Refusal(Notify { protocol: rekey.protocol, spi: rekey.spi.clone(), ..error.notify() })
            }
            _ => error.into(),
        }
    })
}

/// A Child SA came to nothing, and not for a reason that passes in a moment: recorded, counted and reported.
pub(super) fn failed(ctx: &mut Ctx, facts: &Facts, session: &Session, cause: Cause) {
    let peer = session.peer;
    // With an SA for the traffic, one more that is refused is no reason why nothing comes through.
    if session.children.is_empty() {
        ctx.record(Some(peer), |record| record.problem(&cause));
    }
    ctx.count(Some(peer), |counters| counters.failed(&cause));
    ctx.event(Event::ChildFailed { peer, spis: facts.spis, cause });
}

fn grant(ctx: &mut Ctx, sa: &Established, parts: &Parts) -> Result<Answer, Error> {
    let (adit, session) = (sa.is_adit(), sa.session);
    if session.succession.is_rekeying() || session.succession.has_successor() {
        return Err(LocalFault::Busy.into());
    }
    let rekey = parts.notify(NotifyType::REKEY_SA);
    let old = rekey.map(|rekey| session.children.rekeyable(rekey)).transpose()?;
    let nonce_i = needed(parts.nonce.clone(), EXCHANGE, PayloadType::NONCE)?;
    let sent = parts.ke.as_ref().and_then(|(method, _)| KeyExchangeMethod::from_id(*method));
    let asked = Asked { exchange: EXCHANGE, first: false, old: old.and_then(|old| session.children.get(old)), adit };
    let granted = plan::grant(&session.config, parts, &asked, sent);
    ctx.record(Some(session.peer), |record| record.asked_child(&session.config, parts));
    let Granted { config, lane, mode, selectors, choice } = granted?;
    share::has_room(ctx, session, lane, old.is_none())?;
    let id = match asked.old {
        Some(old) => Some(old.id),
        None => session.may_have(ctx.now.instant, (config, lane), &selectors)?,
    };
    share::has_room_for(ctx, session, (sa.facts.id, id), (config, mode, &selectors))?;
    share::may_exchange_keys(ctx, session.peer, &choice)?;
    let exchanged = exchange_keys(parts, &choice)?;

    let mut before = vec![Change::AwaitsNothing.into()];
    let inbound = ctx.shared.spis.allocate(ctx.random, sa.facts.id, lane);
    let plan = Plan { id, config, lane, mode, inbound, replaces: old, selectors, ..Plan::default() };
    let nonce_r = ctx.bytes::<NONCE_LEN>().to_vec();
    let mut between = vec![Payload::Nonce(nonce_r.clone())];
    let (public, secret) = exchanged.unzip();
    between.extend(public);
    let answer = Payload::Sa(vec![choice.answer(ProtocolId::ESP, inbound.0.to_be_bytes())]);
    let mut payloads = plan::payloads(&plan, answer, between, Role::Responder, adit);
    let creation = Creation { plan, choice, role: Role::Responder, nonce_i, nonce_r };
    if let Some(old) = old {
        let collision = RekeyCollision { inbound, lowest_nonce: creation.lowest_nonce() };
        before.push(Change::ChildCollides(old, collision).into());
    }
    before.push(match Progress::begin(creation, secret)? {
        // Ready to receive before the answer invites the peer to send (RFC 7296 §2.8).
        Progress::Complete(creation, secrets) => finish_granted(ctx, sa, creation, secrets),
        Progress::Unfinished(unfinished) => {
            let link = Link::new(ctx);
            payloads.push(link.payload());
            Change::Awaits(Goal::Child(Box::new(unfinished)), link).into()
        }
    });
    Ok(Answer { payloads, before, after: Vec::new() })
}

/// The responder has the keys.
pub(super) fn finish_granted(ctx: &mut Ctx, sa: &Established, creation: Creation, secrets: Secrets) -> Effect {
    ctx.record(sa.facts.peer, |record| record.chosen_child(&creation.choice, &creation.plan.selectors));
    Change::ChildGranted(Box::new(creation), secrets, sa.expected_id).into()
}

impl Sent {
    /// The answer with what we remember.
    fn complete(&mut self, parts: &Parts, adit: bool) -> Result<Progress<Creation>, Error> {
        let choice = plan::check_answer(&mut self.plan, &self.offered, parts, EXCHANGE, adit)?;
        let nonce_r = needed(parts.nonce.clone(), EXCHANGE, PayloadType::NONCE)?;
        let mut secret = None;
        if let Some(method) = choice.key_exchange {
            let (id, data) = needed(parts.ke.as_ref(), EXCHANGE, PayloadType::KE)?;
            let exchange = self.exchange.take().filter(|exchange| exchange.method() == method && method.id() == *id);
            secret = Some(exchange.ok_or(Misbehaviour::OtherMethod(method))?.finish(data)?);
        }
        let (plan, nonce_i) = (self.plan.clone(), std::mem::take(&mut self.nonce));
        Progress::begin(Creation { plan, choice, role: Role::Initiator, nonce_i, nonce_r }, secret)
    }
}

/// The responder's side of the key exchange of CREATE_CHILD_SA, if one was agreed.
///
/// # Errors
/// The KE payload is missing, of another method (then INVALID_KE_PAYLOAD says which), or bad.
pub(super) fn exchange_keys(parts: &Parts, choice: &Choice) -> Result<Option<(Payload, crate::crypto::Secret)>, Error> {
    let Some(method) = choice.key_exchange else { return Ok(None) };
    let wrong = || Error::Incompatible(Incompatibility::KeyExchange(method));
    let (id, data) = parts.ke.as_ref().ok_or_else(wrong)?;
    if *id != method.id() {
        return Err(wrong());
    }
    let (public, secret) = key_exchange::respond(method, data)?;
    Ok(Some((Payload::Ke { method: method.id(), data: public.into_vec() }, secret)))
}

/// Our rekey came to nothing because the peer's was there first: that one has the place.
fn settle_collision(children: &Children, plan: &Plan) -> Option<Change> {
    let old = plan.replaces?;
    Some(Change::ChildReplaced { old, by: children.collision_of(old)? })
}
