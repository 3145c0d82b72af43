//! The rekey of an IKE SA with CREATE_CHILD_SA (RFC 7296 §1.3.2, §2.18), and its collisions (§2.8.2, §2.25.2).
//!
//! The new IKE SA is made here and handed to the endpoint; its Child SAs come when it is clear that it is the one to stay.

use adit_proto::ike::{ExchangeType, IkeSpi, Notify, NotifyType, Payload, PayloadType, ProtocolId};

use crate::crypto::{KeyExchange, KeyExchangeMethod};

use super::agenda::Task;
use super::agreed::{Progress, Secrets};
use super::cause::Cause;
use super::context::{Action, Ctx, Then, fresh_ike_spi};
use super::crash;
use super::create_child::exchange_keys;
use super::error::{Error, Incompatibility, LocalFault, Misbehaviour};
use super::exchange::{Answer, Effect, Established, Request, Successor};
use super::facts::{Facts, IkeSpis, Role};
use super::handshake::{NONCE_LEN, exchanged};
use super::lifetimes::Lifetimes;
use super::negotiate::{self, Alternative};
use super::parts::{Parts, needed};
use super::session::{Made, Session};
use super::share;
use super::succession::Succession;
use super::unfinished::{Goal, IkeCreation};
use super::wishes::Wants;

const EXCHANGE: ExchangeType = ExchangeType::CREATE_CHILD_SA;

/// What the initiator remembers until the answer comes.
pub(super) struct Sent {
    spi: IkeSpi,
    offered: Vec<Alternative>,
    nonce: Vec<u8>,
    exchange: KeyExchange,
    /// Whether this is the second try, with the method that the peer asked for.
    corrected: bool,
}

/// Asks for a new IKE SA in the place of this one.
///
/// # Errors
/// No key can be made.
pub(super) fn ask(
    ctx: &mut Ctx,
    session: &mut Session,
    corrected: Option<KeyExchangeMethod>,
) -> Result<Option<Request<Sent>>, Error> {
    if !session.succession.may_rekey() {
        return Ok(None);
    }
    let offered = negotiate::ike_alternatives(&session.config.proposals);
    let first = offered.iter().find_map(|alternative| alternative.key_exchanges().first().copied());
    let method = corrected.or(first).ok_or(LocalFault::NotConfigured("an IKE proposal with a key exchange"))?;
    session.succession.set_rekeying(true);
    ctx.act(Action::Rekeying(true));
    let (spi, nonce, exchange) = (fresh_ike_spi(ctx.random), ctx.bytes::<NONCE_LEN>().to_vec(), KeyExchange::start(method)?);
    let payloads = vec![
        Payload::Sa(negotiate::offer(&offered, spi)),
        Payload::Nonce(nonce.clone()),
        Payload::Ke { method: method.id(), data: exchange.public().to_vec() },
    ];
    Ok(Some(Request {
        exchange: EXCHANGE,
        payloads,
        sent: Sent { spi, offered, nonce, exchange, corrected: corrected.is_some() },
    }))
}

/// The answer to a request of ours.
pub(super) fn on_answer(ctx: &mut Ctx, sa: &mut Established, sent: Sent, parts: &Parts) -> Option<Effect> {
    if let Some(notify) = parts.error() {
        return on_refused(ctx, sa, &sent, notify);
    }
    match sent.complete(parts) {
        // The peer has made an IKE SA that we cannot follow into: nothing is left but to begin anew.
        Err(error) => Some(Effect::Fail(error)),
        Ok(Progress::Complete(creation, secrets)) => finish(ctx, sa, &creation, &secrets),
        Ok(Progress::Unfinished(unfinished)) if has_lost(sa.session, &unfinished.creation) => {
            // With additional key exchanges the loser just does not go on (RFC 9370 §2.2.4).
            sa.session.yield_rekey(ctx);
            None
        }
        Ok(Progress::Unfinished(unfinished)) => Some(Effect::FollowUp(Goal::Ike(Box::new(unfinished)), parts.follow_up_link())),
    }
}

/// Whether the peer's new IKE SA stays, because ours has the lowest of the four nonces.
fn has_lost(session: &Session, creation: &IkeCreation) -> bool {
    session.succession.collision().is_some_and(|collision| creation.lowest_nonce() < collision.lowest_nonce)
}

/// The initiator has the keys of the new IKE SA.
pub(super) fn finish(ctx: &mut Ctx, sa: &mut Established, creation: &IkeCreation, secrets: &Secrets) -> Option<Effect> {
    let lost = has_lost(sa.session, creation);
    let new = successor(ctx, sa.facts, sa.session, creation, secrets)?;
    let (id, session) = (new.facts.id, &mut *sa.session);
    ctx.act(Action::Successor);
    if lost {
        ctx.act(Action::CloseRedundant { sa: id });
        session.yield_rekey(ctx);
        return Some(Effect::Successor(Box::new(new)));
    }
    ctx.act(Action::Rekeying(false));
    ctx.count(sa.facts.peer, |counters| counters.ike_rekeys += 1);
    session.succession.set_rekeying(false);
    if let Some(collision) = session.succession.end_collision() {
        ctx.act(Action::ExpectClosed { sa: collision });
    }
    session.leave_to(ctx, id, Then::Close);
    Some(Effect::Successor(Box::new(new)))
}

fn on_refused(ctx: &mut Ctx, sa: &mut Established, sent: &Sent, notify: &Notify) -> Option<Effect> {
    let session = &mut *sa.session;
    if session.succession.made_by_peer().is_some() {
        // The peer had finished its own before it saw ours (RFC 7296 §2.8.2).
        session.yield_rekey(ctx);
        return None;
    }
    ctx.act(Action::Rekeying(false));
    session.succession.set_rekeying(false);
    match notify.kind {
        NotifyType::INVALID_KE_PAYLOAD if !sent.corrected => {
            let method = notify.ke_method().and_then(KeyExchangeMethod::from_id);
            let method = method.filter(|method| sent.offered.iter().any(|one| one.key_exchanges().contains(method)));
            if method.is_some() {
                session.agenda.want_first(Task::RekeyIke { method });
            } else {
                session.lifetimes.rekey_later(ctx.now.instant, ctx.random);
            }
        }
        NotifyType::TEMPORARY_FAILURE => {
            if !session.wait_after_temporary_failure(ctx, Task::RekeyIke { method: None }) {
                return Some(Effect::Fail(Misbehaviour::ForeverTemporary.into()));
            }
        }
        kind => {
            session.lifetimes.rekey_later(ctx.now.instant, ctx.random);
            ctx.record(sa.facts.peer, |record| record.problem(&Cause::Refused { exchange: EXCHANGE, notify: kind }));
        }
    }
    None
}

/// The peer wants a new IKE SA.
///
/// # Errors
/// It cannot have one, or not now.
pub(super) fn answer(ctx: &mut Ctx, sa: &mut Established, parts: &Parts) -> Result<Answer, Error> {
    let session = &mut *sa.session;
    let settled = session.succession.has_successor() || session.succession.made_by_peer().is_some();
    if sa.request.is_about_child || settled {
        return Err(LocalFault::Busy.into());
    }
    let proposals = needed(parts.sa.as_deref(), EXCHANGE, PayloadType::SA)?;
    let nonce_i = needed(parts.nonce.clone(), EXCHANGE, PayloadType::NONCE)?;
    let sent = parts.ke.as_ref().and_then(|(method, _)| KeyExchangeMethod::from_id(*method));
    let alternatives = negotiate::ike_alternatives(&session.config.proposals);
    let choice = negotiate::choose(&alternatives, proposals, sent).map_err(Incompatibility::IkeProposal)?;
    let initiator = choice.ike_spi().ok_or(Misbehaviour::BadSpi)?;
    share::may_exchange_keys(ctx, session.peer, &choice)?;
    let (ke, secret) = exchange_keys(parts, &choice)?.ok_or(LocalFault::NotConfigured("a key exchange"))?;
    session.awaited.forget(ctx);
    let spis = IkeSpis { initiator, responder: fresh_ike_spi(ctx.random) };
    let nonce_r = ctx.bytes::<NONCE_LEN>().to_vec();
    let mut payloads =
        vec![Payload::Sa(vec![choice.answer(ProtocolId::IKE, spis.responder)]), Payload::Nonce(nonce_r.clone()), ke];
    let creation = IkeCreation { choice, role: Role::Responder, spis, nonce_i, nonce_r };
    session.succession.collide(creation.lowest_nonce(), None);
    match Progress::begin(creation, Some(secret))? {
        Progress::Complete(creation, secrets) => {
            let granted = finish_granted(ctx, sa, &creation, &secrets);
            payloads.extend(granted.payloads);
            Ok(Answer { payloads, effects: granted.effects })
        }
        Progress::Unfinished(unfinished) => {
            payloads.push(session.awaited.begin(ctx, Goal::Ike(Box::new(unfinished))));
            Ok(payloads.into())
        }
    }
}

/// The responder has the keys of the new IKE SA; gives what its last answer carries besides.
pub(super) fn finish_granted(ctx: &mut Ctx, sa: &mut Established, creation: &IkeCreation, secrets: &Secrets) -> Answer {
    let Some(new) = successor(ctx, sa.facts, sa.session, creation, secrets) else { return Answer::default() };
    let (id, token, session) = (new.facts.id, crash::token(ctx, new.facts.spis), &mut *sa.session);
    ctx.act(Action::Successor);
    session.succession.collide(creation.lowest_nonce(), Some(id));
    // While our own rekey is under way, its answer decides.
    if !session.succession.is_rekeying() {
        ctx.count(sa.facts.peer, |counters| counters.ike_rekeys += 1);
        session.leave_to(ctx, id, Then::Stay);
    }
    Answer { payloads: token.into_iter().collect(), effects: vec![Effect::Successor(Box::new(new))] }
}

/// The new IKE SA, with all that does not change in a rekey.
fn successor(ctx: &mut Ctx, facts: &Facts, old: &Session, creation: &IkeCreation, secrets: &Secrets) -> Option<Successor> {
    let choice = creation.choice.clone();
    let exchanged = exchanged(&creation.nonce_i, &creation.nonce_r, creation.spis);
    let keys = old.made.keys.rekeyed(choice.prf?, choice.suite, secrets.all(), exchanged);
    let mut new = Facts::new(creation.role, creation.spis, ctx.shared.hop_of(facts));
    new.peer = facts.peer;
    new.nat = facts.nat;
    new.features = facts.features;
    let made = Made { keys, choice, lowest_nonce: creation.lowest_nonce() };
    let (config, proof) = (old.config.clone(), old.proof.clone());
    let lifetimes = Lifetimes::new(ctx.now.instant, &config.ike_lifetime, ctx.random);
    let mut session = Session::new(old.peer, config, old.original_initiator, made, proof, lifetimes);
    session.wants = Wants::new(old.original_initiator).with_lanes(old.wants.peer_lanes());
    session.addresses = old.addresses.clone();
    match creation.role {
        Role::Initiator => session.want(Task::SendToken),
        Role::Responder => session.succession = Succession::after(facts.id, ctx.now.instant),
    }
    Some(Successor { facts: new, session })
}

impl Sent {
    fn complete(self, parts: &Parts) -> Result<Progress<IkeCreation>, Error> {
        let proposals = needed(parts.sa.as_deref(), EXCHANGE, PayloadType::SA)?;
        let choice = negotiate::confirm(&self.offered, proposals).map_err(Misbehaviour::NotOffered)?;
        let responder = choice.ike_spi().ok_or(Misbehaviour::BadSpi)?;
        let nonce_r = needed(parts.nonce.clone(), EXCHANGE, PayloadType::NONCE)?;
        let (id, data) = needed(parts.ke.as_ref(), EXCHANGE, PayloadType::KE)?;
        let method = self.exchange.method();
        if *id != method.id() || choice.key_exchange != Some(method) {
            return Err(Misbehaviour::OtherMethod(method).into());
        }
        let secret = self.exchange.finish(data)?;
        let spis = IkeSpis { initiator: self.spi, responder };
        let creation = IkeCreation { choice, role: Role::Initiator, spis, nonce_i: self.nonce, nonce_r };
        Progress::begin(creation, Some(secret))
    }
}
