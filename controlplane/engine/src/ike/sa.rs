//! One IKE SA, and the way of a message through it: is it ours, is it new, is it authentic, what does it want.
//!
//! What the exchanges do with a message is in a file for each of them.

use std::time::Instant;

use adit_proto::control::PeerId;
use adit_proto::ike::encrypted::Sealed;
use adit_proto::ike::{ExchangeType, Flags, Header, Notify, NotifyType, Payload, PayloadType, decode_payloads};

use zeroize::Zeroizing;

use crate::crypto::IkeKeys;

use super::auth;
use super::context::{Action, Ctx};
use super::create_child;
use super::error::{Error, LocalFault, Misbehaviour};
use super::event::{After, Cause, Event, IkeSpis};
use super::facts::{Features, Role, SaId};
use super::followup;
use super::fragment::Reassembly;
use super::handshake::{Exchanging, Keyed, Negotiation};
use super::informational::{self, Orphan};
use super::intermediate;
use super::key_log::KeyLog;
use super::nat::NatStatus;
use super::parts::Parts;
use super::protect::{Message, Protection};
use super::rekey_ike;
use super::sa_init;
use super::session::Session;
use super::window::{Outstanding, Place, Window};
use crate::path::Hop;
use crate::timer::earlier;

/// How far an IKE SA is.
pub(super) enum Stage {
    /// IKE_SA_INIT has been sent.
    Beginning,
    /// There are keys; further key exchanges that were agreed on come next, in IKE_INTERMEDIATE.
    Exchanging(Box<Exchanging>),
    /// Every key exchange is made; IKE_AUTH comes next.
    Authenticating(Box<Keyed>),
    Established(Box<Session>),
    /// Our last request is under way, or waits for the answer to the one before: Delete, or the news of a failure.
    Closing {
        last: Vec<Payload>,
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

/// What a request of ours needs when its answer comes.
pub(super) enum Initiated {
    SaInit(Box<sa_init::Sent>),
    Intermediate(Box<intermediate::Sent>),
    Auth(Box<auth::Sent>),
    CreateChild(Box<create_child::Sent>),
    RekeyIke(Box<rekey_ike::Sent>),
    FollowUp(Box<followup::Sent>),
    Informational(informational::Sent),
    /// The process that sent it is gone, and with it what it knew.
    Orphan(Orphan),
}

/// One IKE SA.
pub(super) struct IkeSa {
    pub id: SaId,
    pub role: Role,
    pub spis: IkeSpis,
    /// Known from the start by the initiator, from IKE_AUTH on by the responder.
    pub peer: Option<PeerId>,
    /// Where it is negotiated. Once the peer is authenticated [`crate::path`] knows better.
    pub hop: Hop,
    pub nat: NatStatus,
    pub features: Features,
    pub window: Window<Initiated>,
    pub protection: Option<Protection>,
    /// The keys before the last IKE_INTERMEDIATE: a request that is repeated comes under them.
    pub former: Option<Protection>,
    requests: Reassembly,
    responses: Reassembly,
    pub stage: Stage,
    pub created: Instant,
    /// When the last fresh, authentic message came.
    pub last_heard: Instant,
    /// When the last message was sent.
    pub last_sent: Instant,
    /// The way that the request that is being answered came, and its size, in bytes.
    pub reply_hop: Hop,
    pub reply_bytes: usize,
    /// The responder's: which request began it.
    pub init_digest: Option<[u8; 32]>,
    /// The responder's: who an initiator says it is that was not let in, for people.
    pub claimed: Option<String>,
    /// A request that can be answered when the Child SAs have come.
    deferred: Option<(ExchangeType, Parts)>,
}

/// A message that was opened.
pub(super) struct Opened {
    first: PayloadType,
    pub inner: Vec<u8>,
    /// The datagram, or the one of fragment 1.
    datagram: Vec<u8>,
}

impl Opened {
    /// What an IKE_INTERMEDIATE message of the peer contributes to AUTH (RFC 9242 §3.3.2).
    pub(super) fn int_auth(&self) -> Option<Vec<u8>> {
        let mut out = Sealed::parse(&self.datagram).ok()??.int_auth(self.inner.len());
        out.extend_from_slice(&self.inner);
        Some(out)
    }
}

impl IkeSa {
    pub(super) fn new(now: Instant, role: Role, spis: IkeSpis, hop: Hop) -> IkeSa {
        let id = SaId(if role == Role::Initiator { spis.initiator } else { spis.responder });
        IkeSa {
            id,
            role,
            spis,
            peer: None,
            hop,
            nat: NatStatus::default(),
            features: Features::default(),
            window: Window::new(),
            protection: None,
            former: None,
            requests: Reassembly::default(),
            responses: Reassembly::default(),
            stage: Stage::Beginning,
            created: now,
            last_heard: now,
            last_sent: now,
            reply_hop: hop,
            reply_bytes: 0,
            init_digest: None,
            claimed: None,
            deferred: None,
        }
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

    /// A message whose header names our SPI.
    pub(super) fn receive(&mut self, ctx: &mut Ctx, hop: Hop, header: &Header, message: &[u8]) {
        let names_us = match self.role {
            Role::Initiator => header.initiator_spi == self.spis.initiator,
            Role::Responder => header.responder_spi == self.spis.responder,
        };
        let from_peer = header.flags.initiator == (self.role == Role::Responder);
        let begins = matches!(self.stage, Stage::Beginning);
        let names_peer = begins || (header.initiator_spi, header.responder_spi) == (self.spis.initiator, self.spis.responder);
        if !names_us || !from_peer || !names_peer {
            return ctx.count(self.peer, |counters| counters.dropped_unknown_spi += 1);
        }
        match Sealed::parse(message) {
            Ok(Some(sealed)) if header.flags.response => self.receive_response(ctx, hop, &sealed, message),
            Ok(Some(sealed)) => self.receive_request(ctx, hop, &sealed, message),
            Ok(None) if header.flags.response && begins => self.on_sa_init_response(ctx, hop, header, message),
            Ok(None) if header.flags.response => self.on_unprotected_response(ctx, header, message),
            Ok(None) => ctx.count(self.peer, |counters| counters.dropped_unprotected += 1),
            Err(_) => ctx.count(self.peer, |counters| counters.dropped_malformed += 1),
        }
    }

    fn receive_request(&mut self, ctx: &mut Ctx, hop: Hop, sealed: &Sealed, message: &[u8]) {
        let header = *sealed.header();
        match self.window.place(header.message_id) {
            Place::Outside => ctx.count(self.peer, |counters| counters.dropped_outside_window += 1),
            Place::Repeated => self.repeat_answer(ctx, hop, sealed),
            Place::Expected => {
                if matches!(self.stage, Stage::Closed | Stage::Beginning) {
                    return ctx.count(self.peer, |counters| counters.dropped_out_of_place += 1);
                }
                if let Some(opened) = self.open(ctx, sealed, message) {
                    (self.reply_hop, self.reply_bytes) = (hop, message.len() + hop.overhead());
                    self.on_request(ctx, header.exchange, &opened);
                }
            }
        }
    }

    fn receive_response(&mut self, ctx: &mut Ctx, hop: Hop, sealed: &Sealed, message: &[u8]) {
        let header = *sealed.header();
        if !self.window.awaits(header.message_id, header.exchange) {
            return ctx.count(self.peer, |counters| counters.dropped_outside_window += 1);
        }
        let Some(opened) = self.open(ctx, sealed, message) else { return };
        let parts = decode_payloads(opened.first, &opened.inner).map_err(Error::from).and_then(Parts::sort);
        let negotiating = self.stage.is_negotiating();
        match parts {
            // Before IKE_AUTH nothing says who sent it: an honest answer may follow.
            Err(_) if negotiating && header.exchange == ExchangeType::IKE_INTERMEDIATE => {
                ctx.count(self.peer, |counters| counters.dropped_malformed += 1);
            }
            Ok(parts) if !self.is_intermediate_answer(&parts) => {
                ctx.count(self.peer, |counters| counters.dropped_malformed += 1);
            }
            Err(error) => {
                self.window.answered();
                self.close_after_failure(ctx, error);
            }
            Ok(parts) => {
                self.last_heard = ctx.now.instant;
                self.heard_response(ctx, hop, message.len() + hop.overhead());
                self.on_response(ctx, parts, &opened);
            }
        }
    }

    /// Opens a message, or takes a fragment; gives the whole message if this was all that was missing.
    fn open(&mut self, ctx: &mut Ctx, sealed: &Sealed, message: &[u8]) -> Option<Opened> {
        let header = sealed.header();
        let reassembly = if header.flags.response { &mut self.responses } else { &mut self.requests };
        let fragment = sealed.fragment();
        if fragment.is_some_and(|fragment| !reassembly.wants(header.message_id, fragment)) {
            ctx.count(self.peer, |counters| counters.dropped_fragment_replay += 1);
            return None;
        }
        let Some(inner) = self.protection.as_ref().and_then(|protection| protection.open(sealed)) else {
            ctx.count(self.peer, |counters| counters.dropped_bad_tag += 1);
            return None;
        };
        let Some(fragment) = fragment else {
            return Some(Opened { first: sealed.first(), inner, datagram: message.to_vec() });
        };
        let whole = reassembly.take(ctx.now.instant, header.message_id, fragment, message, &inner)?;
        let first = Sealed::parse(&whole.first).ok()??.first();
        Some(Opened { first, inner: whole.inner, datagram: whole.first })
    }

    /// A request that was answered already: the answer may have been lost (RFC 7296 §2.1, RFC 7383 §2.6.1).
    fn repeat_answer(&mut self, ctx: &mut Ctx, hop: Hop, sealed: &Sealed) {
        if sealed.fragment().is_some_and(|fragment| fragment.number != 1) {
            return;
        }
        let authentic =
            [&self.protection, &self.former].into_iter().flatten().any(|protection| protection.open(sealed).is_some());
        if !authentic {
            return ctx.count(self.peer, |counters| counters.dropped_bad_tag += 1);
        }
        ctx.count(self.peer, |counters| counters.repeated_requests += 1);
        for datagram in self.window.last_answer() {
            ctx.transmit(&hop, self.peer, datagram, self.window.answer_after());
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
        self.last_heard = ctx.now.instant;
        if let Some(session) = self.session_mut() {
            session.succession.confirmed();
        }
        self.end_hold(ctx);
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
            let opened = Opened { first: PayloadType::NONE, inner: Vec::new(), datagram: Vec::new() };
            self.dispatch_request(ctx, exchange, parts, &opened);
        }
    }

    fn dispatch_request(&mut self, ctx: &mut Ctx, exchange: ExchangeType, parts: Parts, opened: &Opened) {
        let awaits_peer = self.stage.is_negotiating() && self.role == Role::Responder;
        match (&self.stage, exchange) {
            (Stage::Exchanging(_), ExchangeType::IKE_INTERMEDIATE) if awaits_peer => {
                self.on_intermediate_request(ctx, parts, opened);
            }
            (Stage::Authenticating(_), ExchangeType::IKE_AUTH) if awaits_peer => self.on_auth_request(ctx, parts),
            (Stage::Exchanging(exchanging), ExchangeType::IKE_AUTH) if awaits_peer => {
                let error = Misbehaviour::LeftOut(exchanging.next()).into();
                self.on_malformed_request(ctx, exchange, error);
            }
            (Stage::Established(_), ExchangeType::CREATE_CHILD_SA) => {
                self.heard_request(ctx, self.reply_hop, self.reply_bytes);
                self.on_create_child_request(ctx, parts);
            }
            (Stage::Established(_), ExchangeType::IKE_FOLLOWUP_KE) => {
                self.heard_request(ctx, self.reply_hop, self.reply_bytes);
                self.on_followup_request(ctx, parts);
            }
            (Stage::Established(_), ExchangeType::INFORMATIONAL) => {
                self.heard_request(ctx, self.reply_hop, self.reply_bytes);
                self.on_informational_request(ctx, parts);
            }
            (Stage::Established(_), _) => {
                self.on_malformed_request(ctx, exchange, Misbehaviour::OutOfPlace(exchange).into());
            }
            (Stage::Closing { .. }, ExchangeType::INFORMATIONAL) => self.on_informational_while_closing(ctx, &parts),
            (Stage::Closing { .. }, ExchangeType::CREATE_CHILD_SA | ExchangeType::IKE_FOLLOWUP_KE) => {
                self.refuse(ctx, exchange, &LocalFault::Busy.into());
            }
            (Stage::Beginning | Stage::Exchanging(_) | Stage::Authenticating(_) | Stage::Closing { .. } | Stage::Closed, _) => {
                ctx.count(self.peer, |counters| counters.dropped_out_of_place += 1);
            }
        }
    }

    /// An authentic request that cannot be read (RFC 7296 §2.21.3): told to the peer, and fatal unless it is only a payload
    /// that we do not know.
    fn on_malformed_request(&mut self, ctx: &mut Ctx, exchange: ExchangeType, error: Error) {
        ctx.count(self.peer, |counters| counters.dropped_malformed += 1);
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
        let Some(Outstanding { exchange, context, .. }) = self.window.answered() else { return };
        if let Stage::Closing { last } = &mut self.stage {
            release(ctx, &context);
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
            Initiated::Auth(sent) => self.on_auth_response(ctx, *sent, parts),
            Initiated::CreateChild(sent) => self.on_create_child_response(ctx, *sent, parts),
            Initiated::RekeyIke(sent) => self.on_rekey_ike_response(ctx, *sent, parts),
            Initiated::FollowUp(sent) => self.on_followup_response(ctx, *sent, parts),
            Initiated::Informational(sent) => self.on_informational_response(ctx, sent, &parts),
            Initiated::Orphan(orphan) => self.on_orphan_response(ctx, exchange, orphan, &parts),
        }
        self.start_next(ctx);
    }

    fn header(&self, exchange: ExchangeType, response: bool, id: u32) -> Header {
        let flags = Flags { initiator: self.role == Role::Initiator, response, version: false };
        Header::new(self.spis.initiator, self.spis.responder, exchange, flags, id)
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
        self.request_to(ctx, exchange, payloads, context, hop)
    }

    /// Sends a request another way than that of the others.
    ///
    /// # Errors
    /// As [`IkeSa::request`].
    pub(super) fn request_to(
        &mut self,
        ctx: &mut Ctx,
        exchange: ExchangeType,
        payloads: &[Payload],
        context: Initiated,
        hop: Hop,
    ) -> Result<Message, Error> {
        let header = self.header(exchange, false, self.window.next_id());
        let message = self.seal(ctx, &header, payloads)?;
        let after = invites(exchange, false, payloads);
        let bytes = message.datagrams.iter().map(|datagram| datagram.len() + hop.overhead()).sum();
        if self.peer.is_none_or(|peer| ctx.shared.paths.may_send(peer, hop, bytes)) {
            for datagram in &message.datagrams {
                ctx.transmit(&hop, self.peer, datagram, after);
            }
        }
        self.last_sent = ctx.now.instant;
        let policy = ctx.shared.config.retransmission;
        self.window.sent(ctx.now.instant, exchange, message.datagrams.clone(), context, &policy);
        if let Some(outstanding) = self.window.outstanding_mut() {
            outstanding.after = after;
            outstanding.sent_to(hop);
        }
        Ok(message)
    }

    /// Answers the request that was expected, under protection.
    ///
    /// # Errors
    /// As [`IkeSa::request`].
    pub(super) fn respond(&mut self, ctx: &mut Ctx, exchange: ExchangeType, payloads: &[Payload]) -> Result<Message, Error> {
        let header = self.header(exchange, true, self.window.expected_id());
        let message = self.seal(ctx, &header, payloads)?;
        let after = invites(exchange, true, payloads);
        for datagram in &message.datagrams {
            ctx.transmit(&self.reply_hop, self.peer, datagram, after);
        }
        self.last_sent = ctx.now.instant;
        self.window.answer(message.datagrams.clone(), after);
        Ok(message)
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

    fn seal(&mut self, ctx: &Ctx, header: &Header, payloads: &[Payload]) -> Result<Message, Error> {
        let max = usize::from(ctx.shared.config.datagram_max).saturating_sub(self.hop(ctx).overhead());
        let fragment_above = self.features.fragmentation.then_some(max);
        let protection = self.protection.as_mut().ok_or(LocalFault::NotConfigured("keys"))?;
        protection.seal(header, payloads, fragment_above)
    }

    /// The peer's answer, or what it makes of ours, ends this IKE SA: the peer is told once, if it can be (RFC 7296 §2.21.2).
    pub(super) fn close_after_failure(&mut self, ctx: &mut Ctx, error: Error) {
        let notify = match error.notify().kind {
            NotifyType::AUTHENTICATION_FAILED => Notify::new(NotifyType::AUTHENTICATION_FAILED).into(),
            _ => adit_proto::ike::Delete::ike().into(),
        };
        self.close(ctx, vec![notify], error.into());
    }

    /// Removes the Child SAs and sends a last request; the IKE SA is gone when it is answered.
    pub(super) fn close(&mut self, ctx: &mut Ctx, last: Vec<Payload>, cause: Cause) {
        self.remove_children(ctx);
        ctx.act(Action::Ended(cause));
        if self.window.is_idle() {
            self.stage = Stage::Closing { last: Vec::new() };
            self.send_last(ctx, &last);
        } else {
            // The window is one request: the one under way has to be answered first.
            self.stage = Stage::Closing { last };
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
        if let Some(withdrawn) = self.window.withdrawn() {
            release(ctx, &withdrawn.context);
        }
        self.stage = Stage::Closed;
        if !was_over {
            ctx.act(Action::Ended(cause));
        }
    }

    fn remove_children(&mut self, ctx: &mut Ctx) {
        if let Stage::Established(session) = &mut self.stage {
            session.remove_all(ctx);
        }
    }

    pub(super) fn reassembly_deadline(&self) -> Option<Instant> {
        earlier(self.requests.deadline(), self.responses.deadline())
    }

    pub(super) fn expire_reassembly(&mut self, now: Instant) {
        self.requests.expire(now);
        self.responses.expire(now);
    }

    /// Tells the keys to a protocol analyser, where that was asked for.
    pub(super) fn log_keys(&self, ctx: &mut Ctx, keys: &IkeKeys) {
        if ctx.shared.config.key_log {
            let [initiator, responder] = [keys.sk_ei(), keys.sk_er()].map(|key| Zeroizing::new(key.to_vec()));
            let (spis, suite) = (self.spis, keys.suite());
            ctx.event(Event::KeyLog(Box::new(KeyLog::Ike { spis, suite, initiator, responder })));
        }
    }
}

/// Whether a message invites the peer to send what the data plane must be able to open by then: it makes a Child SA, or ends one
/// that another has the place of.
fn invites(exchange: ExchangeType, response: bool, payloads: &[Payload]) -> After {
    let makes = response && payloads.iter().any(|payload| payload.kind() == PayloadType::SA || payload.kind() == PayloadType::KE);
    let ends = exchange == ExchangeType::INFORMATIONAL && payloads.iter().any(|payload| payload.kind() == PayloadType::DELETE);
    if makes || ends { After::Barrier } else { After::Nothing }
}

/// Gives back what a request of ours has reserved that came to nothing.
fn release(ctx: &mut Ctx, context: &Initiated) {
    match context {
        Initiated::CreateChild(sent) => ctx.shared.spis.release(sent.inbound()),
        Initiated::Auth(sent) => sent.release(ctx),
        Initiated::FollowUp(sent) => sent.release(ctx),
        Initiated::Informational(informational::Sent::DeleteOrphan(spi))
        | Initiated::Orphan(Orphan::Child(spi) | Orphan::Deleted(spi)) => {
            ctx.shared.spis.release(*spi);
        }
        Initiated::SaInit(_)
        | Initiated::Intermediate(_)
        | Initiated::RekeyIke(_)
        | Initiated::Informational(_)
        | Initiated::Orphan(Orphan::Ike | Orphan::Other) => {}
    }
}
