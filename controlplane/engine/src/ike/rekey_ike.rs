//! The rekey of an IKE SA with CREATE_CHILD_SA (RFC 7296 §1.3.2, §2.18), and its collisions (§2.8.2, §2.25.2).
//!
//! The new IKE SA is made here and handed to the endpoint; its Child SAs come when it is clear that it is the one to stay.

use std::time::Instant;

use adit_proto::ike::{ExchangeType, IkeSpi, Notify, NotifyType, Payload, PayloadType, ProtocolId};

use crate::crypto::{KeyExchange, KeyExchangeMethod};

use super::agenda::Task;
use super::agreed::{Creating, Progress, Secrets};
use super::context::{Action, Ctx, Then, fresh_ike_spi};
use super::crash;
use super::create_child::{NONCE_LEN, exchange_keys};
use super::error::{Error, Incompatibility, LocalFault, Misbehaviour};
use super::event::{Cause, IkeSpis};
use super::facts::{Role, SaId};
use super::followup;
use super::handshake::exchanged;
use super::informational::{self, Orphan};
use super::initiated::Initiated;
use super::lifetimes::Lifetimes;
use super::nat::NatStatus;
use super::negotiate::{self, Alternative, Choice};
use super::parts::{Parts, needed};
use super::protect::Protection;
use super::sa::{IkeSa, Stage};
use super::session::{Estate, Made, Session};
use super::succession::Succession;
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

/// All that makes the new IKE SA.
pub(super) struct IkeCreation {
    pub choice: Choice,
    role: Role,
    spis: IkeSpis,
    nonce_i: Vec<u8>,
    nonce_r: Vec<u8>,
}

impl Creating for IkeCreation {
    fn choice(&self) -> &Choice {
        &self.choice
    }
}

impl IkeCreation {
    fn lowest_nonce(&self) -> Vec<u8> {
        self.nonce_i.as_slice().min(&self.nonce_r).to_vec()
    }
}

impl IkeSa {
    pub(super) fn send_rekey_ike(&mut self, ctx: &mut Ctx, corrected: Option<KeyExchangeMethod>) -> Result<(), Error> {
        let Some(session) = self.session_mut() else { return Ok(()) };
        if !session.succession.may_rekey() {
            return Ok(());
        }
        let offered = negotiate::ike_alternatives(&session.config.proposals);
        let first = offered.iter().find_map(|alternative| alternative.key_exchanges().first().copied());
        let method = corrected.or(first).ok_or(LocalFault::NotConfigured("an IKE proposal with a key exchange"))?;
        session.succession.set_rekeying(true);
        ctx.act(Action::Rekeying(true));
        let (spi, nonce, exchange) = (fresh_ike_spi(ctx.random), ctx.bytes::<NONCE_LEN>().to_vec(), KeyExchange::start(method)?);
        let payloads = [
            Payload::Sa(negotiate::offer(&offered, spi)),
            Payload::Nonce(nonce.clone()),
            Payload::Ke { method: method.id(), data: exchange.public().to_vec() },
        ];
        let sent = Sent { spi, offered, nonce, exchange, corrected: corrected.is_some() };
        self.request(ctx, EXCHANGE, &payloads, Initiated::RekeyIke(Box::new(sent))).map(|_| ())
    }

    pub(super) fn on_rekey_ike_response(&mut self, ctx: &mut Ctx, sent: Sent, parts: Parts) {
        if let Some(notify) = parts.error() {
            return self.on_rekey_ike_refused(ctx, &sent, notify);
        }
        match sent.complete(&parts) {
            Err(error) => {
                // The peer has made an IKE SA that we cannot follow into: nothing is left but to begin anew.
                self.close_after_failure(ctx, error);
            }
            Ok(Progress::Complete(creation, secrets)) => self.finish_rekey_ike(ctx, &creation, &secrets),
            // With additional key exchanges the loser just does not go on (RFC 9370 §2.2.4).
            Ok(Progress::Unfinished(unfinished)) if self.has_lost_ike(&unfinished.creation) => self.yield_to_collision(ctx),
            Ok(Progress::Unfinished(unfinished)) => {
                self.follow_up(ctx, followup::Goal::Ike(Box::new(unfinished)), &parts);
            }
        }
    }

    /// Whether the peer's new IKE SA stays, because ours has the lowest of the four nonces.
    fn has_lost_ike(&self, creation: &IkeCreation) -> bool {
        let collision = self.session().and_then(|session| session.succession.collision());
        collision.is_some_and(|collision| creation.lowest_nonce() < collision.lowest_nonce)
    }

    /// Ours came to nothing: the peer's new IKE SA inherits, now or when it is complete.
    pub(super) fn yield_to_collision(&mut self, ctx: &mut Ctx) {
        ctx.act(Action::Rekeying(false));
        let Some(session) = self.session_mut() else { return };
        session.succession.set_rekeying(false);
        if session.succession.has_successor() {
            return;
        }
        if let Some(successor) = session.succession.made_by_peer() {
            self.leave_to(ctx, successor, Then::Stay);
        }
    }

    /// Gives everything to another IKE SA. From here on this one sends nothing but its own end.
    pub(super) fn leave_to(&mut self, ctx: &mut Ctx, successor: SaId, then: Then) {
        let now = ctx.now.instant;
        if let Some(session) = self.session_mut() {
            session.succession.leave_to(successor, now);
            ctx.act(Action::Inherit { successor, then });
        }
    }

    /// The initiator has the keys of the new IKE SA.
    pub(super) fn finish_rekey_ike(&mut self, ctx: &mut Ctx, creation: &IkeCreation, secrets: &Secrets) {
        let lost = self.has_lost_ike(creation);
        let Some(successor) = self.successor(ctx, creation, secrets) else { return };
        let successor_id = successor.facts.id;
        ctx.act(Action::Successor(Box::new(successor)));
        if lost {
            ctx.act(Action::CloseRedundant { sa: successor_id });
            return self.yield_to_collision(ctx);
        }
        ctx.act(Action::Rekeying(false));
        ctx.count(self.facts.peer, |counters| counters.ike_rekeys += 1);
        if let Some(session) = self.session_mut() {
            session.succession.set_rekeying(false);
            if let Some(collision) = session.succession.end_collision() {
                ctx.act(Action::ExpectClosed { sa: collision });
            }
        }
        self.leave_to(ctx, successor_id, Then::Close);
    }

    fn on_rekey_ike_refused(&mut self, ctx: &mut Ctx, sent: &Sent, notify: &Notify) {
        if self.session().is_some_and(|session| session.succession.made_by_peer().is_some()) {
            // The peer had finished its own before it saw ours (RFC 7296 §2.8.2).
            return self.yield_to_collision(ctx);
        }
        ctx.act(Action::Rekeying(false));
        let Some(session) = self.session_mut() else { return };
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
                    self.close_after_failure(ctx, Misbehaviour::ForeverTemporary.into());
                }
            }
            kind => {
                session.lifetimes.rekey_later(ctx.now.instant, ctx.random);
                ctx.record(self.facts.peer, |record| record.problem(&Cause::Refused { exchange: EXCHANGE, notify: kind }));
            }
        }
    }

    /// The peer wants a new IKE SA.
    pub(super) fn on_rekey_ike_request(&mut self, ctx: &mut Ctx, parts: &Parts) {
        if let Err(error) = self.grant_rekey_ike(ctx, parts) {
            self.refuse(ctx, EXCHANGE, &error);
        }
    }

    fn grant_rekey_ike(&mut self, ctx: &mut Ctx, parts: &Parts) -> Result<(), Error> {
        if self.is_busy_with_child() {
            return Err(LocalFault::Busy.into());
        }
        let Stage::Established(session) = &mut self.stage else { return Err(LocalFault::Busy.into()) };
        if session.succession.has_successor() || session.succession.made_by_peer().is_some() {
            return Err(LocalFault::Busy.into());
        }
        let proposals = needed(parts.sa.as_deref(), EXCHANGE, PayloadType::SA)?;
        let nonce_i = needed(parts.nonce.clone(), EXCHANGE, PayloadType::NONCE)?;
        let sent = parts.ke.as_ref().and_then(|(method, _)| KeyExchangeMethod::from_id(*method));
        let alternatives = negotiate::ike_alternatives(&session.config.proposals);
        let choice = negotiate::choose(&alternatives, proposals, sent).map_err(Incompatibility::IkeProposal)?;
        let initiator = choice.ike_spi().ok_or(Misbehaviour::BadSpi)?;
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
                payloads.extend(self.finish_granted_rekey_ike(ctx, &creation, &secrets));
            }
            Progress::Unfinished(unfinished) => {
                payloads.push(session.awaited.begin(ctx, followup::Goal::Ike(Box::new(unfinished))));
            }
        }
        self.respond(ctx, EXCHANGE, &payloads).map(|_| ())
    }

    /// The responder has the keys of the new IKE SA; gives what its last answer carries besides.
    pub(super) fn finish_granted_rekey_ike(&mut self, ctx: &mut Ctx, creation: &IkeCreation, secrets: &Secrets) -> Vec<Payload> {
        let Some(successor) = self.successor(ctx, creation, secrets) else { return Vec::new() };
        let (successor_id, token) = (successor.facts.id, crash::token(ctx, successor.facts.spis));
        ctx.act(Action::Successor(Box::new(successor)));
        let Some(session) = self.session_mut() else { return Vec::new() };
        session.succession.collide(creation.lowest_nonce(), Some(successor_id));
        // While our own rekey is under way, its answer decides.
        if !session.succession.is_rekeying() {
            ctx.count(self.facts.peer, |counters| counters.ike_rekeys += 1);
            self.leave_to(ctx, successor_id, Then::Stay);
        }
        token.into_iter().collect()
    }

    /// The new IKE SA, with all that does not change in a rekey.
    fn successor(&self, ctx: &mut Ctx, creation: &IkeCreation, secrets: &Secrets) -> Option<IkeSa> {
        let old = self.session()?;
        let choice = creation.choice.clone();
        let exchanged = exchanged(&creation.nonce_i, &creation.nonce_r, creation.spis);
        let keys = old.made.keys.rekeyed(choice.prf?, choice.suite, secrets.all(), exchanged);
        let mut sa = IkeSa::new(ctx.now.instant, creation.role, creation.spis, self.hop(ctx));
        sa.facts.peer = self.facts.peer;
        sa.facts.nat = self.facts.nat;
        sa.facts.features = self.facts.features;
        sa.wire.protect(Protection::new(&keys, creation.role, ctx.random));
        sa.log_keys(ctx, &keys);
        let made = Made { keys, choice, lowest_nonce: creation.lowest_nonce() };
        let (config, proof) = (old.config.clone(), old.proof.clone());
        let lifetimes = Lifetimes::new(ctx.now.instant, &config.ike_lifetime, ctx.random);
        let mut session = Session::new(old.peer, config, old.original_initiator, made, proof, lifetimes);
        session.wants = Wants::with_lanes(old.wants.peer_lanes());
        session.mobike = old.mobike.clone();
        match creation.role {
            Role::Initiator => session.want(Task::SendToken),
            Role::Responder => session.succession = Succession::after(self.facts.id, ctx.now.instant),
        }
        sa.stage = Stage::Established(Box::new(session));
        Some(sa)
    }

    /// Whether a Child SA is being made, rekeyed or deleted by us (RFC 7296 §2.25.1).
    fn is_busy_with_child(&self) -> bool {
        match self.wire.window.outstanding().map(|outstanding| &outstanding.context) {
            Some(Initiated::CreateChild(_)) => true,
            Some(Initiated::FollowUp(sent)) => sent.is_for_child(),
            Some(Initiated::Informational(sent)) => {
                matches!(sent, informational::Sent::DeleteChildren(_) | informational::Sent::DeleteOrphan(_))
            }
            // Whether the peer has made it, or has it no more, is learned from the answer alone.
            Some(Initiated::Orphan(orphan)) => matches!(orphan, Orphan::Child(_) | Orphan::Deleted(_)),
            Some(Initiated::SaInit(_) | Initiated::Intermediate(_) | Initiated::Auth(_) | Initiated::RekeyIke(_)) | None => false,
        }
    }

    /// Gives Child SAs and tasks away.
    pub(super) fn hand_over(&mut self) -> Option<HandoverState> {
        let unfinished = match self.wire.window.outstanding().map(|outstanding| &outstanding.context) {
            // Its answer would say to this one where ESP goes.
            Some(Initiated::Informational(informational::Sent::Addresses(sent))) => sent.task(),
            Some(_) | None => None,
        };
        let (nat, last_heard) = (self.facts.nat, self.wire.last_heard());
        let estate = self.session_mut()?.hand_over(unfinished);
        Some(HandoverState { nat, last_heard, estate })
    }

    /// The IKE SA before this one has ended with all that it had.
    pub(super) fn inherit_nothing(&mut self, from: SaId) {
        let adit = self.facts.features.adit;
        if let Some(session) = self.session_mut().filter(|session| session.succession.predecessor() == Some(from)) {
            session.succession.forget_predecessor();
            session.want_missing_children(adit);
        }
    }

    /// Takes over Child SAs and tasks.
    pub(super) fn inherit(&mut self, ctx: &mut Ctx, handover: HandoverState) {
        let id = self.facts.id;
        if handover.last_heard > self.wire.last_heard() {
            // The peer has moved since this one was made.
            self.facts.nat = handover.nat;
        }
        if let Some(session) = self.session_mut() {
            session.inherit(ctx, id, handover.estate);
        }
    }
}

/// What an IKE SA leaves to its successor.
pub(super) struct HandoverState {
    nat: NatStatus,
    last_heard: Instant,
    estate: Estate,
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
