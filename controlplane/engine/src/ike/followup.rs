//! IKE_FOLLOWUP_KE (RFC 9370 §2.2.4): the additional key exchanges of CREATE_CHILD_SA, one at a time.
//!
//! ADDITIONAL_KEY_EXCHANGE links each to the one before; what is in it is the responder's business.

use adit_proto::control::Spi;
use adit_proto::ike::{ExchangeType, Notify, NotifyType, Payload, PayloadType};

use crate::crypto::key_exchange;
use crate::crypto::{KeyExchange, KeyExchangeMethod, Secret};

use super::agenda::Task;
use super::cause::Cause;
use super::change::Change;
use super::context::{Action, Ctx};
use super::error::{Error, LocalFault, Misbehaviour};
use super::exchange::{Answer, Begun, Effect, Established, Request};
use super::facts::Facts;
use super::parts::{Parts, needed};
use super::plan::Plan;
use super::unfinished::{Goal, Link, Reached};
use super::{create_child, rekey_ike};

pub(super) const EXCHANGE: ExchangeType = ExchangeType::IKE_FOLLOWUP_KE;

/// What the initiator remembers until the answer comes.
pub(super) struct Sent {
    goal: Goal,
    exchange: KeyExchange,
}

impl Sent {
    /// The plan of the Child SA that is being made.
    pub(super) fn plan_mut(&mut self) -> Option<&mut Plan> {
        self.goal.plan_mut()
    }

    /// Our SPI of the Child SA that is being made.
    pub(super) fn inbound(&self) -> Option<Spi> {
        self.goal.inbound()
    }

    pub(super) fn release(&self, ctx: &mut Ctx) {
        self.goal.release(ctx);
    }
}

/// The initiator goes on after an answer that asks for another key exchange. Without the link there is no going on.
///
/// # Errors
/// No key can be made.
pub(super) fn ask(ctx: &mut Ctx, facts: &Facts, goal: Goal, link: Option<Vec<u8>>) -> Result<Begun<Sent>, Error> {
    let Some(link) = link else {
        let missing = Misbehaviour::Missing { exchange: EXCHANGE, payload: PayloadType::NOTIFY };
        return Ok(Begun::without_request(abandon(ctx, facts, goal, Cause::Failed(missing.into()))));
    };
    let exchange = KeyExchange::start(goal.next())?;
    let payloads = vec![
        Payload::Ke { method: exchange.method().id(), data: exchange.public().to_vec() },
        Notify::new(NotifyType::ADDITIONAL_KEY_EXCHANGE).with_data(link).into(),
    ];
    Ok(Request { exchange: EXCHANGE, payloads, sent: Sent { goal, exchange } }.into())
}

/// The answer to a request of ours.
pub(super) fn on_answer(ctx: &mut Ctx, sa: &Established, sent: Sent, parts: &Parts) -> Vec<Effect> {
    let Sent { goal, exchange } = sent;
    let method = exchange.method();
    let secret = match parts.error() {
        Some(notify) => Err(Cause::Refused { exchange: EXCHANGE, notify: notify.kind }),
        None => needed(parts.ke.as_ref(), EXCHANGE, PayloadType::KE)
            .and_then(|(id, data)| {
                if *id != method.id() {
                    return Err(Misbehaviour::OtherMethod(method).into());
                }
                Ok(exchange.finish(data)?)
            })
            .map_err(Cause::from),
    };
    match secret {
        Err(cause) => abandon(ctx, sa.facts, goal, cause),
        Ok(secret) => match goal.made(secret) {
            Reached::Next(goal) => vec![Effect::FollowUp(goal, parts.follow_up_link())],
            Reached::Child(creation, secrets) => vec![create_child::finish(ctx, sa.facts, creation, secrets)],
            Reached::Ike(creation, secrets) => rekey_ike::finish(ctx, sa, &creation, &secrets),
        },
    }
}

/// The key exchanges were not completed: there is no new SA at either end. It is tried again from the beginning, unless it has been for
/// too long.
fn abandon(ctx: &mut Ctx, facts: &Facts, goal: Goal, cause: Cause) -> Vec<Effect> {
    goal.release(ctx);
    ctx.record(facts.peer, |record| record.problem(&cause));
    match goal {
        Goal::Child(unfinished) => vec![Change::ChildFailed(Box::new(unfinished.creation.plan), cause).into()],
        Goal::Ike(_) => {
            ctx.act(Action::Rekeying(false));
            vec![Change::RekeyFailed.into(), Effect::Postpone(Task::RekeyIke { method: None })]
        }
    }
}

/// By which a request of the peer says what it goes on with.
pub(super) fn link(parts: &Parts) -> &[u8] {
    parts.notify(NotifyType::ADDITIONAL_KEY_EXCHANGE).map_or(&[][..], |notify| &notify.data)
}

/// The peer goes on with what it has begun, and for which it has used up its right to key exchanges. `goal` is what was awaited with that
/// link.
///
/// # Errors
/// Nothing was, or its key exchange is none.
pub(super) fn answer(ctx: &mut Ctx, sa: &Established, goal: Option<Goal>, parts: &Parts) -> Result<Answer, Error> {
    let goal = goal.ok_or(LocalFault::NoSuchExchange)?;
    let (ke, secret) = match exchange_keys(parts, goal.next()) {
        Ok(exchanged) => exchanged,
        Err(error) => {
            goal.release(ctx);
            return Err(error);
        }
    };
    let mut answer = Answer { payloads: vec![ke], ..Answer::default() };
    match goal.made(secret) {
        Reached::Next(goal) => {
            let link = Link::new(ctx);
            answer.payloads.push(link.payload());
            answer.before.push(Change::Awaits(goal, link).into());
        }
        Reached::Child(creation, secrets) => answer.before.push(create_child::finish_granted(ctx, sa, creation, secrets)),
        Reached::Ike(creation, secrets) => {
            let granted = rekey_ike::finish_granted(ctx, sa, &creation, &secrets);
            answer.payloads.extend(granted.payloads);
            (answer.before, answer.after) = (granted.before, granted.after);
        }
    }
    Ok(answer)
}

fn exchange_keys(parts: &Parts, method: KeyExchangeMethod) -> Result<(Payload, Secret), Error> {
    let (id, data) = needed(parts.ke.as_ref(), EXCHANGE, PayloadType::KE)?;
    if *id != method.id() {
        return Err(Misbehaviour::OtherMethod(method).into());
    }
    let (public, secret) = key_exchange::respond(method, data)?;
    Ok((Payload::Ke { method: method.id(), data: public.into_vec() }, secret))
}
