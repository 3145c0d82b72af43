//! The Child SA that is made on the way in IKE_AUTH (RFC 7296 §1.2). That it fails does not hurt the IKE SA (§2.21.2).

use adit_proto::ike::{ExchangeType, NotifyType, Payload, ProtocolId};

use super::agenda::Task;
use super::agreed::Secrets;
use super::cause::Cause;
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
    session: &mut Session,
    (mut plan, offered): (Plan, &[Alternative]),
    parts: &Parts,
    (nonce_i, nonce_r): Nonces,
) {
    let inbound = plan.inbound;
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
            let role = Role::Initiator;
            return session.install(ctx, facts.id, Creation { plan, choice, role, nonce_i, nonce_r }, &secrets);
        }
        Err(cause) => cause,
    };
    create_child::failed(ctx, facts, session, cause.clone());
    match &cause {
        Cause::Refused { notify: NotifyType::TS_UNACCEPTABLE | NotifyType::SINGLE_PAIR_REQUIRED, .. } if plan.pairs.len() > 1 => {
            // Perhaps it grants single pairs alone.
            session.wants.note_narrowing();
            session.wants.look_at(ctx.now.instant);
        }
        cause => session.create_later(ctx, plan.wishes(), (plan.config, plan.lane), Some(cause)),
    }
    if parts.error().is_none() {
        // The peer has made it.
        session.want(Task::DeleteOrphan(inbound));
    } else {
        ctx.shared.spis.release(inbound);
    }
}

/// The responder's answer: the payloads of the Child SA, or an error that leaves the IKE SA alone.
pub(super) fn grant(
    ctx: &mut Ctx,
    facts: &Facts,
    session: &mut Session,
    parts: &Parts,
    (nonce_i, nonce_r): Nonces,
) -> Vec<Payload> {
    if parts.sa.is_none() && parts.ts_i.is_none() && parts.ts_r.is_none() {
        // Childless (RFC 6023): Child SAs come later, if at all.
        return Vec::new();
    }
    match decide(ctx, facts, session, parts) {
        Ok((secrets, plan, choice)) => {
            let answer = Payload::Sa(vec![choice.answer(ProtocolId::ESP, plan.inbound.0.to_be_bytes())]);
            let payloads = plan::payloads(&plan, answer, Vec::new(), Role::Responder, facts.features.adit);
            ctx.record(facts.peer, |record| record.chosen_child(&choice, &plan.selectors));
            let role = Role::Responder;
            session.install(ctx, facts.id, Creation { plan, choice, role, nonce_i, nonce_r }, &secrets);
            payloads
        }
        Err(error) => {
            let notify = error.notify();
            create_child::failed(ctx, facts, session, Cause::Failed(error));
            vec![notify.into()]
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
