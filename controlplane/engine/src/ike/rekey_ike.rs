//! The rekey of an IKE SA with CREATE_CHILD_SA (RFC 7296 §1.3.2, §2.18), and its collisions (§2.8.2, §2.25.2).
//!
//! The new IKE SA is made here and handed to the endpoint; its Child SAs come when it is clear that it is the one to stay.

use adit_proto::ike::{ExchangeType, IkeSpi, Notify, NotifyType, Payload, PayloadType, ProtocolId};

use crate::crypto::{KeyExchange, KeyExchangeMethod};

use super::agenda::Task;
use super::agreed::{Progress, Secrets};
use super::cause::Cause;
use super::change::Change;
use super::context::{Action, Ctx, Then, fresh_ike_spi};
use super::crash;
use super::create_child::exchange_keys;
use super::error::{Error, Incompatibility, LocalFault, Misbehaviour};
use super::exchange::{Answer, Begun, Effect, Established, Request, Successor};
use super::facts::{Facts, IkeSpis, Role};
use super::handshake::{NONCE_LEN, exchanged};
use super::negotiate::{self, Alternative};
use super::parts::{Parts, needed};
use super::session::{Made, Session};
use super::share;
use super::unfinished::{Goal, IkeCreation, Link};

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
pub(super) fn ask(ctx: &mut Ctx, session: &Session, corrected: Option<KeyExchangeMethod>) -> Result<Begun<Sent>, Error> {
    if !session.succession.may_rekey() {
        return Ok(Begun::default());
    }
    let offered = negotiate::ike_alternatives(&session.config.proposals);
    let first = offered.iter().find_map(|alternative| alternative.key_exchanges().first().copied());
    let method = corrected.or(first).ok_or(LocalFault::NotConfigured("an IKE proposal with a key exchange"))?;
    ctx.act(Action::Rekeying(true));
    let (spi, nonce, exchange) = (fresh_ike_spi(ctx.random), ctx.bytes::<NONCE_LEN>().to_vec(), KeyExchange::start(method)?);
    let payloads = vec![
        Payload::Sa(negotiate::offer(&offered, spi)),
        Payload::Nonce(nonce.clone()),
        Payload::Ke { method: method.id(), data: exchange.public().to_vec() },
    ];
    let sent = Sent { spi, offered, nonce, exchange, corrected: corrected.is_some() };
    Ok(Begun { request: Some(Request { exchange: EXCHANGE, payloads, sent }), effects: vec![Change::RekeyBegun.into()] })
}

/// The answer to a request of ours.
pub(super) fn on_answer(ctx: &mut Ctx, sa: &Established, sent: Sent, parts: &Parts) -> Vec<Effect> {
    if let Some(notify) = parts.error() {
        return on_refused(ctx, sa, &sent, notify);
    }
    match sent.complete(parts) {
        // The peer has made an IKE SA that we cannot follow into: nothing is left but to begin anew.
        Err(error) => vec![Effect::Fail(error)],
        Ok(Progress::Complete(creation, secrets)) => finish(ctx, sa, &creation, &secrets),
        // With additional key exchanges the loser just does not go on (RFC 9370 §2.2.4).
        Ok(Progress::Unfinished(unfinished)) if has_lost(sa.session, &unfinished.creation) => vec![Change::RekeyYields.into()],
        Ok(Progress::Unfinished(unfinished)) => {
            vec![Effect::FollowUp(Goal::Ike(Box::new(unfinished)), parts.follow_up_link())]
        }
    }
}

/// Whether the peer's new IKE SA stays, because ours has the lowest of the four nonces.
fn has_lost(session: &Session, creation: &IkeCreation) -> bool {
    session.succession.collision().is_some_and(|collision| creation.lowest_nonce() < collision.lowest_nonce)
}

/// The initiator has the keys of the new IKE SA.
pub(super) fn finish(ctx: &mut Ctx, sa: &Established, creation: &IkeCreation, secrets: &Secrets) -> Vec<Effect> {
    let Some(new) = successor(ctx, sa, creation, secrets) else { return Vec::new() };
    let id = new.facts.id;
    ctx.act(Action::Successor);
    let change = if has_lost(sa.session, creation) {
        ctx.act(Action::CloseRedundant { sa: id });
        Change::RekeyYields
    } else {
        ctx.act(Action::Rekeying(false));
        ctx.count(sa.facts.peer, |counters| counters.ike_rekeys += 1);
        Change::RekeyMade(id)
    };
    vec![change.into(), Effect::Successor(Box::new(new))]
}

fn on_refused(ctx: &mut Ctx, sa: &Established, sent: &Sent, notify: &Notify) -> Vec<Effect> {
    if sa.session.succession.made_by_peer().is_some() {
        // The peer had finished its own before it saw ours (RFC 7296 §2.8.2).
        return vec![Change::RekeyYields.into()];
    }
    ctx.act(Action::Rekeying(false));
    let then = match notify.kind {
        NotifyType::INVALID_KE_PAYLOAD if !sent.corrected => {
            let method = notify.ke_method().and_then(KeyExchangeMethod::from_id);
            let method = method.filter(|method| sent.offered.iter().any(|one| one.key_exchanges().contains(method)));
            let again = method.map(|_| Change::WantFirst(Task::RekeyIke { method }));
            again.unwrap_or(Change::RekeyPutOff).into()
        }
        NotifyType::TEMPORARY_FAILURE => Effect::Postpone(Task::RekeyIke { method: None }),
        kind => {
            ctx.record(sa.facts.peer, |record| record.problem(&Cause::Refused { exchange: EXCHANGE, notify: kind }));
            Change::RekeyPutOff.into()
        }
    };
    vec![Change::RekeyFailed.into(), then]
}

/// The peer wants a new IKE SA.
///
/// # Errors
/// It cannot have one, or not now.
pub(super) fn answer(ctx: &mut Ctx, sa: &Established, parts: &Parts) -> Result<Answer, Error> {
    let session = sa.session;
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
    let spis = IkeSpis { initiator, responder: fresh_ike_spi(ctx.random) };
    let nonce_r = ctx.bytes::<NONCE_LEN>().to_vec();
    let proposal = choice.answer(ProtocolId::IKE, spis.responder);
    let mut payloads = vec![Payload::Sa(vec![proposal]), Payload::Nonce(nonce_r.clone()), ke];
    let creation = IkeCreation { choice, role: Role::Responder, spis, nonce_i, nonce_r };
    let mut before = vec![Change::AwaitsNothing.into(), Change::RekeyCollides(creation.lowest_nonce(), None).into()];
    match Progress::begin(creation, Some(secret))? {
        Progress::Complete(creation, secrets) => {
            let granted = finish_granted(ctx, sa, &creation, &secrets);
            payloads.extend(granted.payloads);
            before.extend(granted.before);
            Ok(Answer { payloads, before, after: granted.after })
        }
        Progress::Unfinished(unfinished) => {
            let link = Link::new(ctx);
            payloads.push(link.payload());
            before.push(Change::Awaits(Goal::Ike(Box::new(unfinished)), link).into());
            Ok(Answer { payloads, before, after: Vec::new() })
        }
    }
}

/// The responder has the keys of the new IKE SA; gives what its last answer carries besides.
pub(super) fn finish_granted(ctx: &mut Ctx, sa: &Established, creation: &IkeCreation, secrets: &Secrets) -> Answer {
    let Some(new) = successor(ctx, sa, creation, secrets) else { return Answer::default() };
    let (id, token) = (new.facts.id, crash::token(ctx, new.facts.spis));
    ctx.act(Action::Successor);
    let mut before = vec![Change::RekeyCollides(creation.lowest_nonce(), Some(id)).into()];
    // While our own rekey is under way, its answer decides.
    if !sa.session.succession.is_rekeying() {
        ctx.count(sa.facts.peer, |counters| counters.ike_rekeys += 1);
        before.push(Change::LeftTo(id, Then::Stay).into());
    }
    Answer { payloads: token.into_iter().collect(), before, after: vec![Effect::Successor(Box::new(new))] }
}

/// The new IKE SA, with all that does not change in a rekey.
fn successor(ctx: &mut Ctx, sa: &Established, creation: &IkeCreation, secrets: &Secrets) -> Option<Successor> {
    let (facts, choice) = (sa.facts, creation.choice.clone());
    let exchanged = exchanged(&creation.nonce_i, &creation.nonce_r, creation.spis);
    let keys = sa.session.made.keys.rekeyed(choice.prf?, choice.suite, secrets.all(), exchanged);
    let mut new = Facts::new(creation.role, creation.spis, ctx.shared.hop_of(facts));
    new.peer = facts.peer;
    new.nat = facts.nat;
    new.features = facts.features;
    let made = Made { keys, choice, lowest_nonce: creation.lowest_nonce() };
    Some(Successor { facts: new, session: sa.session.rekeyed(ctx, (facts.id, creation.role), made) })
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
