//! The Child SA that is made on the way in IKE_AUTH (RFC 7296 §1.2). That it fails does not hurt the IKE SA (§2.21.2).

use adit_proto::ike::{ExchangeType, NotifyType, Payload, ProtocolId};

use super::agreed::Secrets;
use super::cause::Cause;
use super::change::Change;
use super::context::Ctx;
use super::create_child;
use super::error::Error;
use super::facts::{Facts, Role};
use super::negotiate::{self, Alternative};
use super::parts::Parts;
use super::plan::{self, Asked, Creation, Granted, Plan};
use super::session::Session;
use super::share;

const EXCHANGE: ExchangeType = ExchangeType::IKE_AUTH;

/// The nonces of IKE_SA_INIT, from which its keys are made, too.
pub(super) type Nonces = (Vec<u8>, Vec<u8>);

/// What we ask for: the first child that is configured. Gives the payloads, the plan and the proposals in it.
pub(super) fn ask(ctx: &mut Ctx, facts: &Facts, child: &super::config::ChildConfig) -> (Vec<Payload>, Plan, Vec<Alternative>) {
    let inbound = ctx.shared.spis.allocate(ctx.random, facts.id, 0);
    let (mode, selectors, pairs) = (child.mode, child.policy(), child.pairs.clone());
    let plan = Plan { mode, inbound, selectors, pairs, ..Plan::default() };
    let offered = negotiate::child_alternatives(&child.proposals, true);
    let proposals = negotiate::offer(&offered, inbound.0.to_be_bytes());
    ctx.record(facts.peer, |record| record.begin_child(Role::Initiator, &proposals, &plan.selectors));
    let adit = facts.features.adit;
    let payloads = plan::payloads(&plan, Payload::Sa(proposals), Vec::new(), Role::Initiator, adit);
    (payloads, plan, offered)
}

/// What the responder grants. Without it the IKE SA stays, and it is asked for again later.
pub(super) fn accept(
    ctx: &mut Ctx,
    facts: &Facts,
    session: &Session,
    (mut plan, offered): (Plan, &[Alternative]),
    parts: &Parts,
    (nonce_i, nonce_r): Nonces,
) -> Vec<Change> {
    let choice = match parts.error() {
        Some(notify) => Err(Cause::Refused { exchange: EXCHANGE, notify: notify.kind }),
        None => plan::check_answer(&mut plan, offered, parts, EXCHANGE, facts.features.adit)
            .and_then(|choice| {
                share::has_room_for(ctx, session, (facts.id, plan.id), (plan.config, plan.mode, &plan.selectors))?;
                Ok(choice)
            })
            .and_then(|choice| Ok((Secrets::without_exchange(&choice)?, choice)))
            .map_err(Cause::Failed),
    };
    let cause = match choice {
        Ok((secrets, choice)) => {
            ctx.record(facts.peer, |record| record.chosen_child(&choice, &plan.selectors));
            let creation = Creation { plan, choice, role: Role::Initiator, nonce_i, nonce_r };
            return vec![Change::ChildCame(Box::new(creation), secrets)];
        }
        Err(cause) => cause,
    };
    create_child::failed(ctx, facts, session, cause.clone());
    let mut changes = Vec::new();
    if parts.error().is_none() {
        // The peer has made it.
        changes.push(Change::Orphan(plan.inbound));
    } else {
        ctx.shared.spis.release(plan.inbound);
    }
    match cause {
        Cause::Refused { notify: NotifyType::TS_UNACCEPTABLE | NotifyType::SINGLE_PAIR_REQUIRED, .. } if plan.pairs.len() > 1 => {
            // Perhaps it grants single pairs alone.
            changes.extend([Change::Narrows, Change::Missing]);
        }
        cause => changes.push(Change::ChildFailed(Box::new(plan), cause)),
    }
    changes
}

/// The responder's answer: the payloads of the Child SA, or an error that leaves the IKE SA alone; and what becomes of it.
pub(super) fn grant(
    ctx: &mut Ctx,
    facts: &Facts,
    session: &Session,
    parts: &Parts,
    (nonce_i, nonce_r): Nonces,
) -> (Vec<Payload>, Option<Change>) {
    if parts.sa.is_none() && parts.ts_i.is_none() && parts.ts_r.is_none() {
        // Childless (RFC 6023): Child SAs come later, if at all.
        return (Vec::new(), None);
    }
    match decide(ctx, facts, session, parts) {
        Ok((secrets, plan, choice)) => {
            let answer = Payload::Sa(vec![choice.answer(ProtocolId::ESP, plan.inbound.0.to_be_bytes())]);
            let payloads = plan::payloads(&plan, answer, Vec::new(), Role::Responder, facts.features.adit);
            ctx.record(facts.peer, |record| record.chosen_child(&choice, &plan.selectors));
            let creation = Creation { plan, choice, role: Role::Responder, nonce_i, nonce_r };
            (payloads, Some(Change::ChildCame(Box::new(creation), secrets)))
        }
        Err(error) => {
            let notify = error.notify();
            create_child::failed(ctx, facts, session, Cause::Failed(error));
            (vec![notify.into()], None)
        }
    }
}

fn decide(ctx: &mut Ctx, facts: &Facts, session: &Session, parts: &Parts) -> Result<(Secrets, Plan, negotiate::Choice), Error> {
    let asked = Asked { exchange: EXCHANGE, first: true, old: None, adit: facts.features.adit };
    let Granted { config, lane, mode, selectors, choice } = plan::grant(&session.config, parts, &asked, None)?;
    share::has_room(ctx, session, lane, true)?;
    let id = session.may_have(ctx.now.instant, (config, lane), &selectors)?;
    share::has_room_for(ctx, session, (facts.id, id), (config, mode, &selectors))?;
    let secrets = Secrets::without_exchange(&choice)?;
    let inbound = ctx.shared.spis.allocate(ctx.random, facts.id, lane);
    Ok((secrets, Plan { id, config, lane, mode, inbound, selectors, ..Plan::default() }, choice))
}
