//! One IKE SA, and the way of a message through it: is it ours, is it new, is it authentic, what does it want.
//!
//! What the exchanges do with a message is in a file for each of them.

use std::sync::Arc;
use std::time::Instant;

use adit_proto::ike::encrypted::Sealed;
use adit_proto::ike::{Delete, ExchangeType, Header, Notify, NotifyType, Payload, ProtocolId, decode_payloads};

use super::agenda::Task;
use super::cause::Cause;
use super::config::PeerConfig;
use super::context::{Action, Ctx};
use super::error::{Error, LocalFault, Misbehaviour};
use super::exchange::Successor;
use super::facts::{Facts, Role, SaId};
use super::handshake::{Exchanging, Keyed, Negotiation};
use super::initiated::Initiated;
use super::parts::Parts;
use super::protect::{Message, Protection};
use super::session::Session;
use super::trust::{Change, OwnProof, Trust};
use super::window::{Outstanding, Place};
use super::wire::{Came, Opened, Wire};
use super::{crash, evidence, informational};
use crate::path::Hop;
use crate::shown::Shown;

/// How far an IKE SA is.
pub(super) enum Stage {
    /// IKE_SA_INIT has been sent.
    Beginning,
    /// There are keys; further key exchanges that were agreed on come next, in IKE_INTERMEDIATE.
    Exchanging(Box<Exchanging>),
    /// Every key exchange is made; IKE_AUTH comes next.
    Authenticating(Box<Keyed>),
    Established(Box<Session>),
    /// Our last request is under way, or waits for the answer to the one before: Delete, or the news of a failure. `believed`: the peer has
    /// proven who it is.
    Closing {
        last: Vec<Payload>,
        believed: bool,
    },
    /// Over; only the last answer is repeated where it was lost.
    Closed,
}

impl Stage {
    /// Whether there are keys, and nobody is believed yet.
    pub(super) fn is_negotiating(&self) -> bool {
        matches!(self, Stage::Exchanging(_) | Stage::Authenticating(_))
    }
}

impl From<Negotiation> for Stage {
    fn from(negotiation: Negotiation) -> Stage {
        match negotiation {
            Negotiation::Exchanging(exchanging) => Stage::Exchanging(Box::new(exchanging)),
            Negotiation::Keyed(keyed) => Stage::Authenticating(Box::new(keyed)),
        }
    }
}

/// One IKE SA.
pub(super) struct IkeSa {
    pub facts: Facts,
    pub wire: Wire<Initiated>,
    pub stage: Stage,
    pub created: Instant,
    /// Since when it is over.
    pub closed: Option<Instant>,
    /// The responder's: which request began it.
    pub init_digest: Option<[u8; 32]>,
    /// The responder's: who an initiator says it is that was not let in, for people.
    pub claimed: Option<Shown>,
    /// A request that can be answered when the Child SAs have come.
    deferred: Option<(ExchangeType, Parts)>,
    /// Where the peer is to be asked for a proof before anything else is said.
    pub to_ask: Option<Hop>,
    /// The IKE SA that was made in a rekey of this one, until the endpoint takes it.
    offspring: Option<Box<IkeSa>>,
}

impl IkeSa {
    pub(super) fn new(now: Instant, facts: Facts) -> IkeSa {
        IkeSa {
            wire: Wire::new(now, facts.hop),
            facts,
            stage: Stage::Beginning,
            created: now,
            closed: None,
            init_digest: None,
            claimed: None,
            deferred: None,
            to_ask: None,
            offspring: None,
        }
    }

    /// It is over, and the peer is told when it has answered the request before.
    pub(super) fn has_last_words(&self) -> bool {
        matches!(&self.stage, Stage::Closing { last, .. } if !last.is_empty())
    }

    pub(super) fn session(&self) -> Option<&Session> {
        match &self.stage {
            Stage::Established(session) => Some(session),
            Stage::Beginning | Stage::Exchanging(_) | Stage::Authenticating(_) | Stage::Closing { .. } | Stage::Closed => None,
        }
    }

    pub(super) fn session_mut(&mut self) -> Option<&mut Session> {
        match &mut self.stage {
            Stage::Established(session) => Some(session),
            Stage::Beginning | Stage::Exchanging(_) | Stage::Authenticating(_) | Stage::Closing { .. } | Stage::Closed => None,
        }
    }

    /// What an established one is and has.
    pub(super) fn facts_and_session(&mut self) -> Option<(&Facts, &mut Session)> {
        match &mut self.stage {
            Stage::Established(session) => Some((&self.facts, session)),
            Stage::Beginning | Stage::Exchanging(_) | Stage::Authenticating(_) | Stage::Closing { .. } | Stage::Closed => None,
        }
    }

    /// Where requests go: once the peer is authenticated, the path of IKE with it.
    pub(super) fn hop(&self, ctx: &Ctx) -> Hop {
        match &self.stage {
            // Where the peer was before is not where it was authenticated, perhaps.
            Stage::Established(session) if session.succession.holds() => self.facts.hop,
            Stage::Established(_) | Stage::Closing { .. } | Stage::Closed => ctx.shared.hop_of(&self.facts),
            Stage::Beginning | Stage::Exchanging(_) | Stage::Authenticating(_) => self.facts.hop,
        }
    }

    /// Follows a changed configuration. Other credentials or identities end it at once, unless they are the renewed ones of the same peer.
    pub(super) fn reconfigure(&mut self, ctx: &mut Ctx, config: Arc<PeerConfig>, trust: &Trust, change: Change) {
        let adit = self.facts.features.adit;
        match self.session_mut() {
            Some(session) if session.proof.trust() != trust && change.keeps(session.proof.trust(), trust) => {
                let began = session.original_initiator;
                session.proof.standing_mut().renew(ctx.now, began);
                session.reconfigure(config);
            }
            Some(session) if session.proof.trust() != trust => {
                self.close(ctx, vec![Delete::ike().into()], Cause::TrustChanged);
            }
            Some(session) => {
                session.proof.standing_mut().reconsider(ctx.now, OwnProof::of(&config));
                session.reconfigure(config);
                session.want_missing_children(adit);
            }
            None => {}
        }
    }

    /// Asks for the Child SAs that are missing.
    pub(super) fn want_missing_children(&mut self) {
        if let Some((facts, session)) = self.facts_and_session() {
            session.want_missing_children(facts.features.adit);
        }
    }

    /// Keeps the IKE SA that takes the place of this one for the endpoint.
    pub(super) fn bear(&mut self, ctx: &mut Ctx, new: Successor) {
        let Successor { facts, session } = new;
        ctx.log_keys(facts.spis, &session.made.keys);
        let mut sa = IkeSa::new(ctx.now.instant, facts);
        sa.wire.trust(ctx.shared, sa.facts.id);
        sa.wire.protect(Protection::new(&session.made.keys, sa.facts.role, ctx.random));
        sa.stage = Stage::Established(Box::new(session));
        self.offspring = Some(Box::new(sa));
    }

    /// Gives it to the endpoint.
    pub(super) fn take_offspring(&mut self) -> Option<Box<IkeSa>> {
        self.offspring.take()
    }

    /// A message whose header names our SPI.
    pub(super) fn receive(&mut self, ctx: &mut Ctx, hop: Hop, header: &Header, message: &[u8]) {
        let names_us = match self.facts.role {
            Role::Initiator => header.initiator_spi == self.facts.spis.initiator,
            Role::Responder => header.responder_spi == self.facts.spis.responder,
        };
        let from_peer = header.flags.initiator == (self.facts.role == Role::Responder);
        let begins = matches!(self.stage, Stage::Beginning);
        let names_peer =
            begins || (header.initiator_spi, header.responder_spi) == (self.facts.spis.initiator, self.facts.spis.responder);
        if !names_us || !from_peer || !names_peer {
            return ctx.count(self.facts.peer, |counters| counters.dropped_unknown_spi += 1);
        }
        match Sealed::parse(message) {
            Ok(Some(sealed)) if header.flags.response => self.receive_response(ctx, hop, &sealed, message),
            Ok(Some(sealed)) => self.receive_request(ctx, hop, &sealed, message),
            Ok(None) if header.flags.response && begins => self.on_sa_init_response(ctx, hop, header, message),
            Ok(None) if header.flags.response => self.on_unprotected_response(ctx, header, message),
            Ok(None) => ctx.count(self.facts.peer, |counters| counters.dropped_unprotected += 1),
            Err(_) => ctx.count(self.facts.peer, |counters| counters.dropped_malformed += 1),
        }
    }

    fn receive_request(&mut self, ctx: &mut Ctx, hop: Hop, sealed: &Sealed, message: &[u8]) {
        let header = *sealed.header();
        match self.wire.window.place(header.message_id) {
            Place::Outside => ctx.count(self.facts.peer, |counters| counters.dropped_outside_window += 1),
            Place::Repeated => {
                let moves = matches!(self.stage, Stage::Established(_) | Stage::Closing { .. });
                let home = self.hop(ctx);
                self.wire.repeat_answer(ctx, (self.facts.peer, moves), (hop, home), sealed, message.len());
            }
            Place::Expected => {
                // Who has not proven who it is must not take an answer for our consent.
                if matches!(self.stage, Stage::Closed | Stage::Beginning | Stage::Closing { believed: false, .. }) {
                    return ctx.count(self.facts.peer, |counters| counters.dropped_out_of_place += 1);
                }
                if let Some(opened) = self.wire.take_request(ctx, self.facts.peer, hop, sealed, message) {
                    self.on_request(ctx, header.exchange, &opened);
                }
            }
        }
    }

    fn receive_response(&mut self, ctx: &mut Ctx, hop: Hop, sealed: &Sealed, message: &[u8]) {
        let header = *sealed.header();
        if !self.wire.window.awaits(header.message_id, header.exchange) {
            return ctx.count(self.facts.peer, |counters| counters.dropped_outside_window += 1);
        }
        let Some(opened) = self.wire.open(ctx, (self.facts.peer, None), sealed, message) else { return };
        let parts = decode_payloads(opened.first, &opened.inner).map_err(Error::from).and_then(Parts::sort);
        let negotiating = self.stage.is_negotiating();
        match parts {
            // Before IKE_AUTH nothing says who sent it: an honest answer may follow.
            Err(_) if negotiating && header.exchange == ExchangeType::IKE_INTERMEDIATE => {
                ctx.count(self.facts.peer, |counters| counters.dropped_malformed += 1);
            }
            Ok(parts) if !self.is_intermediate_answer(&parts) => {
                ctx.count(self.facts.peer, |counters| counters.dropped_malformed += 1);
            }
            Err(error) => {
                self.wire.window.answered();
                self.close_after_failure(ctx, error);
            }
            Ok(parts) => {
                self.wire.note_heard(ctx.now.instant);
                if let Stage::Established(session) = &mut self.stage {
                    if !parts.has(NotifyType::INVALID_SYNTAX) {
                        session.end_hold(ctx);
                    }
                    let came = Came { hop, bytes: message.len() + hop.overhead() };
                    self.to_ask = evidence::heard_answer(ctx, &self.facts, session, came, self.wire.answered_this_way(&hop));
                }
                self.on_response(ctx, parts, &opened);
            }
        }
    }

    fn on_request(&mut self, ctx: &mut Ctx, exchange: ExchangeType, opened: &Opened) {
        let parts = match decode_payloads(opened.first, &opened.inner) {
            Ok(payloads) => Parts::sort(payloads),
            Err(error) => Err(Error::Malformed(error)),
        };
        let parts = match parts {
            Ok(parts) => parts,
            Err(error) => return self.on_malformed_request(ctx, exchange, error),
        };
        self.wire.note_heard(ctx.now.instant);
        let farewell = informational::is_farewell(&parts);
        if let Some(session) = self.session_mut() {
            session.succession.confirmed();
            if !farewell {
                session.end_hold(ctx);
            }
        }
        match self.predecessor_to_claim(exchange, &parts) {
            Some(from) => {
                self.deferred = Some((exchange, parts));
                ctx.act(Action::Claim { from });
            }
            None => self.dispatch_request(ctx, exchange, parts, opened),
        }
    }

    /// The IKE SA before this one, if the peer asks for something with Child SAs that are still there (RFC 7296 §2.8.2: it did
    /// not notice that we were rekeying, too).
    fn predecessor_to_claim(&mut self, exchange: ExchangeType, parts: &Parts) -> Option<SaId> {
        let about_children =
            exchange != ExchangeType::INFORMATIONAL || parts.deletes.iter().any(|delete| !delete.spis.is_empty());
        self.session_mut().filter(|_| about_children)?.succession.forget_predecessor()
    }

    /// Goes on with a request that had to wait for the Child SAs.
    pub(super) fn resume_deferred(&mut self, ctx: &mut Ctx) {
        if let Some((exchange, parts)) = self.deferred.take() {
            self.dispatch_request(ctx, exchange, parts, &Opened::consumed());
        }
    }

    fn dispatch_request(&mut self, ctx: &mut Ctx, exchange: ExchangeType, parts: Parts, opened: &Opened) {
        let awaits_peer = self.stage.is_negotiating() && self.facts.role == Role::Responder;
        match (&self.stage, exchange) {
            (Stage::Exchanging(_), ExchangeType::IKE_INTERMEDIATE) if awaits_peer => {
                self.on_intermediate_request(ctx, &parts, opened);
            }
            (Stage::Authenticating(_), ExchangeType::IKE_AUTH) if awaits_peer => self.on_auth_request(ctx, &parts),
            (Stage::Exchanging(exchanging), ExchangeType::IKE_AUTH) if awaits_peer => {
                let error = Misbehaviour::LeftOut(exchanging.next()).into();
                self.on_malformed_request(ctx, exchange, error);
            }
            (
                Stage::Established(_),
                ExchangeType::CREATE_CHILD_SA | ExchangeType::IKE_FOLLOWUP_KE | ExchangeType::INFORMATIONAL,
            ) => self.on_established_request(ctx, exchange, &parts),
            (Stage::Established(_), _) => {
                self.on_malformed_request(ctx, exchange, Misbehaviour::OutOfPlace(exchange).into());
            }
            (Stage::Closing { .. }, ExchangeType::INFORMATIONAL) => self.on_informational_while_closing(ctx, &parts),
            (Stage::Closing { .. }, ExchangeType::CREATE_CHILD_SA | ExchangeType::IKE_FOLLOWUP_KE) => {
                self.refuse(ctx, exchange, &LocalFault::Busy.into());
            }
            (Stage::Beginning | Stage::Exchanging(_) | Stage::Authenticating(_) | Stage::Closing { .. } | Stage::Closed, _) => {
                ctx.count(self.facts.peer, |counters| counters.dropped_out_of_place += 1);
            }
        }
    }

    /// We have said our last word; the peer may still say its own.
    fn on_informational_while_closing(&mut self, ctx: &mut Ctx, parts: &Parts) {
        let _ = self.respond(ctx, ExchangeType::INFORMATIONAL, &[]);
        if parts.deletes.iter().any(|delete| delete.protocol == ProtocolId::IKE) {
            self.end(ctx, Cause::PeerClosed);
        }
    }

    /// A response in the clear. Only a token proves anything; that the peer does not know the IKE SA is a hint to look whether it is
    /// alive (RFC 7296 §2.21.4).
    fn on_unprotected_response(&mut self, ctx: &mut Ctx, header: &Header, message: &[u8]) {
        ctx.count(self.facts.peer, |counters| counters.dropped_unprotected += 1);
        let Stage::Established(session) = &mut self.stage else { return };
        match crash::hint(&session.tokens, message) {
            crash::Hint::Nothing => {}
            crash::Hint::Crashed => {
                ctx.count(self.facts.peer, |counters| counters.crashes_detected += 1);
                self.end(ctx, Cause::PeerCrashed);
            }
            crash::Hint::Unknown if self.wire.window.awaits(header.message_id, header.exchange) => {
                self.wire.window.hurry(ctx.now.instant, crash::TRIES_AFTER_HINT, crash::INTERVAL_AFTER_HINT);
            }
            crash::Hint::Unknown if self.wire.window.is_idle() => {
                session.want(Task::Liveness);
                self.start_next(ctx);
            }
            crash::Hint::Unknown => {}
        }
    }

    /// An authentic request that cannot be read (RFC 7296 §2.21.3): told to the peer, and fatal unless it is only a payload
    /// that we do not know.
    fn on_malformed_request(&mut self, ctx: &mut Ctx, exchange: ExchangeType, error: Error) {
        ctx.count(self.facts.peer, |counters| counters.dropped_malformed += 1);
        if self.stage.is_negotiating() && exchange != ExchangeType::IKE_AUTH {
            return;
        }
        self.refuse(ctx, exchange, &error);
        let harmless = error.notify().kind == NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD;
        if !harmless || self.stage.is_negotiating() {
            self.end(ctx, error.into());
        }
    }

    fn on_response(&mut self, ctx: &mut Ctx, parts: Parts, opened: &Opened) {
        let Some(Outstanding { exchange, context, .. }) = self.wire.window.answered() else { return };
        if let Stage::Closing { last, .. } = &mut self.stage {
            context.release(ctx);
            let last = std::mem::take(last);
            return self.send_last(ctx, &last);
        }
        // Fatal at both ends, whatever it answers (RFC 7296 §2.21.3).
        if let (Stage::Established(_), true) = (&self.stage, parts.has(NotifyType::INVALID_SYNTAX)) {
            return self.end(ctx, Cause::Refused { exchange, notify: NotifyType::INVALID_SYNTAX });
        }
        match context {
            Initiated::SaInit(_) => {}
            Initiated::Intermediate(sent) => self.on_intermediate_response(ctx, *sent, parts, opened),
            Initiated::Auth(sent) => self.on_auth_response(ctx, *sent, &parts),
            context @ (Initiated::CreateChild(_)
            | Initiated::RekeyIke(_)
            | Initiated::FollowUp(_)
            | Initiated::Informational(_)
            | Initiated::Orphan(_)) => self.on_established_answer(ctx, exchange, context, &parts),
        }
        self.start_next(ctx);
    }

    /// Sends a request under protection.
    ///
    /// # Errors
    /// It cannot be encoded or sealed: our fault.
    pub(super) fn request(
        &mut self,
        ctx: &mut Ctx,
        exchange: ExchangeType,
        payloads: &[Payload],
        context: Initiated,
    ) -> Result<Message, Error> {
        let hop = self.hop(ctx);
        self.wire.request(ctx, &self.facts, (hop, hop), (exchange, payloads), context)
    }

    /// Answers the request that was expected, under protection.
    ///
    /// # Errors
    /// As [`IkeSa::request`].
    pub(super) fn respond(&mut self, ctx: &mut Ctx, exchange: ExchangeType, payloads: &[Payload]) -> Result<Message, Error> {
        let home = self.hop(ctx);
        self.wire.respond(ctx, (&self.facts, home), exchange, payloads)
    }

    /// Answers a request with the error that it met.
    pub(super) fn refuse(&mut self, ctx: &mut Ctx, exchange: ExchangeType, error: &Error) {
        self.refuse_with(ctx, exchange, error.notify());
    }

    /// Answers a request with one notification.
    pub(super) fn refuse_with(&mut self, ctx: &mut Ctx, exchange: ExchangeType, notify: Notify) {
        if let Err(error) = self.respond(ctx, exchange, &[notify.into()]) {
            self.end(ctx, error.into());
        }
    }

    /// The peer's answer, or what it makes of ours, ends this IKE SA: the peer is told once, if it can be (RFC 7296 §2.21.2).
    pub(super) fn close_after_failure(&mut self, ctx: &mut Ctx, error: Error) {
        let notify = match error.notify().kind {
            NotifyType::AUTHENTICATION_FAILED => Notify::new(NotifyType::AUTHENTICATION_FAILED).into(),
            _ => Delete::ike().into(),
        };
        self.close(ctx, vec![notify], error.into());
    }

    /// Removes the Child SAs and sends a last request; the IKE SA is gone when it is answered.
    pub(super) fn close(&mut self, ctx: &mut Ctx, last: Vec<Payload>, cause: Cause) {
        let believed = self.session().is_some();
        self.remove_children(ctx);
        ctx.act(Action::Ended(cause));
        if self.wire.window.is_idle() {
            self.stage = Stage::Closing { last: Vec::new(), believed };
            self.send_last(ctx, &last);
        } else {
            // The window is one request: the one under way has to be answered first.
            self.stage = Stage::Closing { last, believed };
        }
    }

    /// Sends the last request, or is done if it has been answered.
    fn send_last(&mut self, ctx: &mut Ctx, last: &[Payload]) {
        let context = Initiated::Informational(informational::Sent::Last);
        if last.is_empty() || self.request(ctx, ExchangeType::INFORMATIONAL, last, context).is_err() {
            self.stage = Stage::Closed;
        }
    }

    /// Removes the Child SAs without a word to the peer. The last answer is still repeated for a while.
    pub(super) fn end(&mut self, ctx: &mut Ctx, cause: Cause) {
        self.remove_children(ctx);
        let was_over = matches!(self.stage, Stage::Closing { .. } | Stage::Closed);
        if let Some(withdrawn) = self.wire.window.withdrawn() {
            withdrawn.context.release(ctx);
        }
        self.stage = Stage::Closed;
        self.closed = Some(ctx.now.instant);
        if !was_over {
            ctx.act(Action::Ended(cause));
        }
    }

    fn remove_children(&mut self, ctx: &mut Ctx) {
        if let Stage::Established(session) = &mut self.stage {
            session.remove_all(ctx);
        }
    }
}
