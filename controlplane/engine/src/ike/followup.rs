//! IKE_FOLLOWUP_KE (RFC 9370 §2.2.4): the additional key exchanges of CREATE_CHILD_SA, one at a time.
//!
//! ADDITIONAL_KEY_EXCHANGE links each to the one before; what is in it is the responder's business.

use std::time::{Duration, Instant};

use adit_proto::ike::{ExchangeType, Notify, NotifyType, Payload, PayloadType};
use aws_lc_rs::constant_time::verify_slices_are_equal;

use crate::crypto::key_exchange;
use crate::crypto::{KeyExchange, KeyExchangeMethod, Secret};

use super::agenda::Task;
use super::agreed::{Progress, Secrets, Unfinished};
use super::context::{Action, Ctx};
use super::create_child;
use super::error::{Error, LocalFault, Misbehaviour};
use super::event::Cause;
use super::initiated::Initiated;
use super::parts::{Parts, needed};
use super::plan::{Creation, Plan};
use super::rekey_ike::IkeCreation;
use super::sa::{IkeSa, Stage};
use super::session::Session;

const EXCHANGE: ExchangeType = ExchangeType::IKE_FOLLOWUP_KE;
/// How long the responder waits for the next one (RFC 9370 §2.2.4: 5 to 20 seconds).
const PATIENCE: Duration = Duration::from_secs(20);

/// What the key exchanges are for.
pub(super) enum Goal {
    Child(Box<Unfinished<Creation>>),
    Ike(Box<Unfinished<IkeCreation>>),
}

/// After one more key exchange: on to the next one, or the SA.
enum Reached {
    Next(Goal),
    Child(Creation, Secrets),
    Ike(IkeCreation, Secrets),
}

/// What the initiator remembers until the answer comes.
pub(super) struct Sent {
    goal: Goal,
    exchange: KeyExchange,
}

/// What the responder remembers until the next request comes.
struct Pending {
    goal: Goal,
    link: [u8; 16],
    expires: Instant,
}

impl Goal {
    /// The key exchange to be made now.
    fn next(&self) -> KeyExchangeMethod {
        match self {
            Goal::Child(unfinished) => unfinished.next(),
            Goal::Ike(unfinished) => unfinished.next(),
        }
    }

    /// That key exchange is made.
    fn made(self, secret: Secret) -> Reached {
        match self {
            Goal::Child(unfinished) => match unfinished.made(secret) {
                Progress::Unfinished(unfinished) => Reached::Next(Goal::Child(Box::new(unfinished))),
                Progress::Complete(creation, secrets) => Reached::Child(creation, secrets),
            },
            Goal::Ike(unfinished) => match unfinished.made(secret) {
                Progress::Unfinished(unfinished) => Reached::Next(Goal::Ike(Box::new(unfinished))),
                Progress::Complete(creation, secrets) => Reached::Ike(creation, secrets),
            },
        }
    }

    fn release(&self, ctx: &mut Ctx) {
        if let Goal::Child(unfinished) = self {
            ctx.shared.spis.release(unfinished.creation.plan.inbound);
        }
    }
}

impl Sent {
    /// The plan of the Child SA that is being made.
    pub(super) fn plan_mut(&mut self) -> Option<&mut Plan> {
        match &mut self.goal {
            Goal::Child(unfinished) => Some(&mut unfinished.creation.plan),
            Goal::Ike(_) => None,
        }
    }

    /// Our SPI of the Child SA that is being made.
    pub(super) fn inbound(&self) -> Option<adit_proto::control::Spi> {
        match &self.goal {
            Goal::Child(unfinished) => Some(unfinished.creation.plan.inbound),
            Goal::Ike(_) => None,
        }
    }

    /// Whether a Child SA is being made.
    pub(super) fn is_for_child(&self) -> bool {
        matches!(self.goal, Goal::Child(_))
    }

    pub(super) fn release(&self, ctx: &mut Ctx) {
        self.goal.release(ctx);
    }
}

/// A creation by the peer that waits for additional key exchanges: one at most. What it has reserved is given back when it ends.
#[derive(Default)]
pub(super) struct Awaited(Option<Pending>);

impl Awaited {
    /// Waits for the next key exchange; gives the link that the answer carries.
    pub(super) fn begin(&mut self, ctx: &mut Ctx, goal: Goal) -> Payload {
        let link = ctx.bytes();
        let expires = ctx.now.instant + PATIENCE;
        self.forget(ctx);
        self.0 = Some(Pending { goal, link, expires });
        Notify::new(NotifyType::ADDITIONAL_KEY_EXCHANGE).with_data(link).into()
    }

    /// The peer begins with something else.
    pub(super) fn forget(&mut self, ctx: &mut Ctx) {
        if let Some(pending) = self.0.take() {
            pending.goal.release(ctx);
        }
    }

    /// What the request with this link goes on with.
    fn take(&mut self, link: &[u8]) -> Option<Goal> {
        self.0.take_if(|pending| verify_slices_are_equal(&pending.link, link).is_ok()).map(|pending| pending.goal)
    }

    fn take_expired(&mut self, now: Instant) -> Option<Goal> {
        self.0.take_if(|pending| pending.expires <= now).map(|pending| pending.goal)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.0.as_ref().map(|pending| pending.expires)
    }
}

/// Forgets a creation whose next key exchange did not come in time.
pub(super) fn expire(ctx: &mut Ctx, session: &mut Session) {
    let Some(goal) = session.awaited.take_expired(ctx.now.instant) else { return };
    match &goal {
        Goal::Ike(_) => drop(session.succession.end_collision()),
        Goal::Child(unfinished) => {
            if let Some(old) = unfinished.creation.plan.replaces.and_then(|old| session.children.get_mut(old)) {
                old.collision = None;
            }
        }
    }
    goal.release(ctx);
}

impl IkeSa {
    /// The initiator goes on after an answer that asks for another key exchange.
    pub(super) fn follow_up(&mut self, ctx: &mut Ctx, goal: Goal, parts: &Parts) {
        let link = parts.notify(NotifyType::ADDITIONAL_KEY_EXCHANGE).map(|notify| notify.data.clone());
        let Some(link) = link else {
            let missing = Misbehaviour::Missing { exchange: EXCHANGE, payload: PayloadType::NOTIFY };
            return self.abandon(ctx, goal, &Cause::Failed(missing.into()));
        };
        let method = goal.next();
        let started = KeyExchange::start(method).map_err(Error::from).and_then(|exchange| {
            let payloads = [
                Payload::Ke { method: method.id(), data: exchange.public().to_vec() },
                Notify::new(NotifyType::ADDITIONAL_KEY_EXCHANGE).with_data(link).into(),
            ];
            self.request(ctx, EXCHANGE, &payloads, Initiated::FollowUp(Box::new(Sent { goal, exchange })))
        });
        if let Err(error) = started {
            self.close_after_failure(ctx, error);
        }
    }

    pub(super) fn on_followup_response(&mut self, ctx: &mut Ctx, sent: Sent, parts: Parts) {
        let Sent { goal, exchange } = sent;
        if let Some(notify) = parts.error() {
            return self.abandon(ctx, goal, &Cause::Refused { exchange: EXCHANGE, notify: notify.kind });
        }
        let method = exchange.method();
        let secret = needed(parts.ke.as_ref(), EXCHANGE, PayloadType::KE).and_then(|(id, data)| {
            if *id != method.id() {
                return Err(Misbehaviour::OtherMethod(method).into());
            }
            Ok(exchange.finish(data)?)
        });
        match secret {
            Err(error) => self.abandon(ctx, goal, &error.into()),
            Ok(secret) => match goal.made(secret) {
                Reached::Next(goal) => self.follow_up(ctx, goal, &parts),
                Reached::Child(creation, secrets) => self.finish_child(ctx, creation, &secrets),
                Reached::Ike(creation, secrets) => self.finish_rekey_ike(ctx, &creation, &secrets),
            },
        }
    }

    /// The key exchanges were not completed: there is no new SA at either end. It is tried again from the beginning.
    fn abandon(&mut self, ctx: &mut Ctx, goal: Goal, cause: &Cause) {
        goal.release(ctx);
        ctx.record(self.facts.peer, |record| record.problem(cause));
        let Some(session) = self.session_mut() else { return };
        match goal {
            Goal::Child(unfinished) => create_child::retry(ctx, session, &unfinished.creation.plan, cause),
            Goal::Ike(_) => {
                session.succession.set_rekeying(false);
                ctx.act(Action::Rekeying(false));
                if !session.wait_after_temporary_failure(ctx, Task::RekeyIke { method: None }) {
                    self.close_after_failure(ctx, Misbehaviour::ForeverTemporary.into());
                }
            }
        }
    }

    pub(super) fn on_followup_request(&mut self, ctx: &mut Ctx, parts: Parts) {
        if let Err(error) = self.answer_followup(ctx, &parts) {
            self.refuse(ctx, EXCHANGE, &error);
        }
    }

    fn answer_followup(&mut self, ctx: &mut Ctx, parts: &Parts) -> Result<(), Error> {
        let Stage::Established(session) = &mut self.stage else { return Err(LocalFault::NoSuchExchange.into()) };
        let link = parts.notify(NotifyType::ADDITIONAL_KEY_EXCHANGE).map_or(&[][..], |notify| &notify.data);
        let goal = session.awaited.take(link).ok_or(LocalFault::NoSuchExchange)?;
        let (ke, secret) = match exchange_keys(parts, goal.next()) {
            Ok(exchanged) => exchanged,
            Err(error) => {
                goal.release(ctx);
                return Err(error);
            }
        };
        let mut payloads = vec![ke];
        match goal.made(secret) {
            Reached::Next(goal) => payloads.push(session.awaited.begin(ctx, goal)),
            Reached::Child(creation, secrets) => self.finish_granted_child(ctx, creation, &secrets),
            Reached::Ike(creation, secrets) => payloads.extend(self.finish_granted_rekey_ike(ctx, &creation, &secrets)),
        }
        self.respond(ctx, EXCHANGE, &payloads).map(|_| ())
    }
}

fn exchange_keys(parts: &Parts, method: KeyExchangeMethod) -> Result<(Payload, Secret), Error> {
    let (id, data) = needed(parts.ke.as_ref(), EXCHANGE, PayloadType::KE)?;
    if *id != method.id() {
        return Err(Misbehaviour::OtherMethod(method).into());
    }
    let (public, secret) = key_exchange::respond(method, data)?;
    Ok((Payload::Ke { method: method.id(), data: public.into_vec() }, secret))
}
