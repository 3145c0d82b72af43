//! An IKE SA before it is established: what IKE_SA_INIT, IKE_INTERMEDIATE and IKE_AUTH make is sent, and what they found out is kept.

use std::time::Instant;

use adit_proto::control::PeerId;
use adit_proto::ike::{Header, IkeSpi, Message, Payload};

use super::cause::Cause;
use super::context::Ctx;
use super::error::{Error, LocalFault};
use super::event::After;
use super::facts::{Facts, IkeSpis, Role};
use super::handshake::Handshake;
use super::initiated::Initiated;
use super::parts::Parts;
use super::protect::Protection;
use super::sa::{IkeSa, Stage};
use super::sa_init::Retry;
use super::wire::{Came, Opened};
use super::{auth, evidence, intermediate, sa_init};
use crate::crypto::Secret;
use crate::path::Hop;

impl IkeSa {
    /// Begins an IKE SA with a configured peer.
    ///
    /// # Errors
    /// The configuration offers nothing, or the library makes no key.
    pub(super) fn begin(ctx: &mut Ctx, peer: PeerId, hop: Hop) -> Result<IkeSa, Error> {
        let (initiator, sent) = sa_init::begin(ctx, peer)?;
        let facts = Facts::new(Role::Initiator, IkeSpis { initiator, responder: IkeSpi::ZERO }, hop);
        let mut sa = IkeSa::new(ctx.now.instant, Facts { peer: Some(peer), ..facts });
        sa.send_sa_init(ctx, Box::new(sent))?;
        Ok(sa)
    }

    /// Answers a request to begin an IKE SA; gives the half-open IKE SA. `None`: the answer would be longer than the request, and the
    /// source is not `proven`.
    ///
    /// # Errors
    /// As [`sa_init::answer`].
    pub(super) fn respond_to(
        ctx: &mut Ctx,
        hop: Hop,
        (header, request): (&Header, &[u8]),
        parts: &Parts,
        proven: bool,
    ) -> Result<Option<IkeSa>, Error> {
        let Some((facts, handshake)) = sa_init::answer(ctx, hop, (header, request), parts, proven)? else { return Ok(None) };
        ctx.transmit(&hop, None, &handshake.response, After::Nothing);
        let mut sa = IkeSa::new(ctx.now.instant, facts);
        sa.wire.window.answer(vec![handshake.response.clone()].into(), After::Nothing);
        sa.negotiate(ctx, handshake);
        Ok(Some(sa))
    }

    fn send_sa_init(&mut self, ctx: &mut Ctx, mut sent: Box<sa_init::Sent>) -> Result<(), Error> {
        let request = sent.request(ctx, &self.facts)?;
        ctx.transmit(&self.facts.hop, self.facts.peer, &request, After::Nothing);
        self.wire.note_sent(ctx.now.instant);
        let policy = sa_init::retransmission(ctx, &self.facts);
        self.wire.window.sent(ctx.now.instant, sa_init::EXCHANGE, vec![request].into(), Initiated::SaInit(sent), &policy);
        Ok(())
    }

    /// The answer of a responder, or of anybody who has seen our request.
    pub(super) fn on_sa_init_response(&mut self, ctx: &mut Ctx, hop: Hop, header: &Header, message: &[u8]) {
        let parts = Message::decode(message).map_err(Error::from).and_then(|message| Parts::sort(message.payloads));
        let Ok(parts) = parts else {
            return ctx.count(self.facts.peer, |counters| counters.dropped_malformed += 1);
        };
        if !self.wire.window.awaits(header.message_id, header.exchange) {
            return ctx.count(self.facts.peer, |counters| counters.dropped_outside_window += 1);
        }
        let Some(outstanding) = self.wire.window.outstanding_mut() else { return };
        let Initiated::SaInit(sent) = &mut outstanding.context else { return };
        match sent.judge(header, &parts) {
            Ok(Retry::With) => {
                let Some(withdrawn) = self.wire.window.withdrawn() else { return };
                let Initiated::SaInit(sent) = withdrawn.context else { return };
                if let Err(error) = self.send_sa_init(ctx, sent) {
                    self.end(ctx, error.into());
                }
            }
            Ok(Retry::No(answer)) => {
                let Some(answered) = self.wire.window.answered() else { return };
                let Initiated::SaInit(sent) = answered.context else { return };
                let agreed = sa_init::agree(ctx, &mut self.facts, (hop, header, message), *sent, answer, &parts);
                let done = agreed.and_then(|handshake| {
                    self.wire.note_heard(ctx.now.instant);
                    self.negotiate(ctx, handshake);
                    self.continue_negotiation(ctx)
                });
                if let Err(error) = done {
                    self.end(ctx, error.into());
                }
            }
            Err(error) => {
                // Somebody else's, or a responder that we cannot understand: wait for another one, then say this.
                ctx.record(self.facts.peer, |record| record.hint(&error));
                sent.refused = Some(error);
                self.wire.window.hurry(ctx.now.instant, sa_init::TRIES_AFTER_REFUSAL, sa_init::INTERVAL_AFTER_REFUSAL);
            }
        }
    }

    /// The peer may be in a stream, too: where nobody has answered our first request, nobody is waited for much longer.
    pub(super) fn hurry_to_stream(&mut self, now: Instant) {
        let is_first = self.wire.window.outstanding().is_some_and(|sent| matches!(sent.context, Initiated::SaInit(_)));
        if is_first && !self.facts.hop.is_stream() {
            self.wire.window.hurry(now, sa_init::TRIES_WITH_STREAM, sa_init::INTERVAL_WITH_STREAM);
        }
    }

    /// There are keys: messages are protected from here on.
    fn negotiate(&mut self, ctx: &mut Ctx, handshake: Handshake) {
        self.wire.protect(Protection::new(&handshake.keys, self.facts.role, ctx.random));
        self.stage = handshake.begin().into();
    }

    /// The initiator's next step: another additional key exchange, or IKE_AUTH.
    fn continue_negotiation(&mut self, ctx: &mut Ctx) -> Result<(), Error> {
        match &self.stage {
            Stage::Exchanging(exchanging) => {
                let request = intermediate::ask(exchanging.next())?;
                let context = Initiated::Intermediate(Box::new(request.sent));
                let message = self.request(ctx, request.exchange, &request.payloads, context)?.plain.int_auth();
                if let Some(Initiated::Intermediate(sent)) =
                    self.wire.window.outstanding_mut().map(|outstanding| &mut outstanding.context)
                {
                    sent.was_sent(message);
                }
                Ok(())
            }
            Stage::Authenticating(handshake) => {
                let request = auth::ask(ctx, &self.facts, handshake, self.wire.window.next_id())?;
                let context = Initiated::Auth(Box::new(request.sent));
                self.request(ctx, request.exchange, &request.payloads, context).map(|_| ())
            }
            Stage::Beginning | Stage::Established(_) | Stage::Closing { .. } | Stage::Closed => Ok(()),
        }
    }

    /// Whether an answer to IKE_INTERMEDIATE is one: the KE payload that was asked for, or an error.
    pub(super) fn is_intermediate_answer(&self, parts: &Parts) -> bool {
        match self.wire.window.outstanding().map(|outstanding| &outstanding.context) {
            Some(Initiated::Intermediate(sent)) => sent.is_answered_by(parts),
            Some(_) | None => true,
        }
    }

    pub(super) fn on_intermediate_response(&mut self, ctx: &mut Ctx, sent: intermediate::Sent, parts: Parts, opened: &Opened) {
        if let Some(notify) = parts.error() {
            return self.end(ctx, Cause::Refused { exchange: intermediate::EXCHANGE, notify: notify.kind });
        }
        let response = opened.int_auth().unwrap_or_default();
        let done = sent.finish(parts).and_then(|(request, shared)| {
            self.take_new_keys(ctx, &request, &response, &shared)?;
            self.continue_negotiation(ctx)
        });
        if let Err(error) = done {
            self.end(ctx, error.into());
        }
    }

    pub(super) fn on_intermediate_request(&mut self, ctx: &mut Ctx, parts: &Parts, opened: &Opened) {
        let hop = self.goes_on_at();
        let Stage::Exchanging(exchanging) = &self.stage else { return };
        let (Some((ke, shared)), Some(request)) = (intermediate::answer(exchanging.next(), parts), opened.int_auth()) else {
            return ctx.count(self.facts.peer, |counters| counters.dropped_malformed += 1);
        };
        self.facts.hop = hop;
        let payloads: [Payload; 1] = [ke];
        let done = self.respond(ctx, intermediate::EXCHANGE, &payloads).and_then(|response| {
            let response = response.plain.int_auth();
            self.take_new_keys(ctx, &request, &response, &shared)
        });
        if let Err(error) = done {
            self.end(ctx, error.into());
        }
    }

    /// Where the initiator goes on. Whoever has the keys has had our answer to IKE_SA_INIT where that came from; from where else this
    /// request seems to come says whoever was faster with a copy of it, or means somebody else. Only that it leaves port 500 is believed
    /// (RFC 7296 §2.23). What comes later may move it as ever, with a proof.
    fn goes_on_at(&self) -> Hop {
        let (came, begun) = (self.wire.came().hop, self.facts.hop);
        let port = |hop: Hop| hop.udp().map(|hop| hop.local.port());
        let leaves = port(came) != port(begun) && came.site() == begun.site();
        if leaves { came } else { begun }
    }

    fn take_new_keys(&mut self, ctx: &mut Ctx, request: &[u8], response: &[u8], shared: &Secret) -> Result<(), Error> {
        // It has another stage in a moment, or ends.
        let Stage::Exchanging(exchanging) = std::mem::replace(&mut self.stage, Stage::Beginning) else {
            return Err(LocalFault::NotConfigured("a negotiation").into());
        };
        let negotiation = exchanging.made(self.facts.spis, request, response, shared);
        self.wire.protect(Protection::new(negotiation.keys(), self.facts.role, ctx.random));
        self.stage = negotiation.into();
        Ok(())
    }

    pub(super) fn on_auth_response(&mut self, ctx: &mut Ctx, sent: auth::Sent, parts: &Parts) {
        let Stage::Authenticating(handshake) = &self.stage else { return };
        let auth_id = self.wire.window.next_id() - 1;
        match auth::on_answer(ctx, &mut self.facts, handshake, (auth_id, sent), parts) {
            Ok(session) => {
                self.wire.trust(ctx.shared, self.facts.id);
                self.stage = Stage::Established(Box::new(session));
            }
            Err(auth::Unwanted::ByPeer(cause)) => self.end(ctx, cause),
            Err(auth::Unwanted::ByUs(error)) => self.close_after_failure(ctx, error),
        }
    }

    pub(super) fn on_auth_request(&mut self, ctx: &mut Ctx, parts: &Parts) {
        let hop = self.goes_on_at();
        let Stage::Authenticating(handshake) = &self.stage else { return };
        let (now, origin) = (ctx.now.instant, ctx.shared.origin(&self.facts));
        if !ctx.shared.failures.may(now, origin) {
            return ctx.count(None, |counters| counters.dropped_rate += 1);
        }
        self.facts.hop = hop;
        let auth_id = self.wire.window.expected_id();
        let answered = match auth::answer(ctx, &mut self.facts, handshake, auth_id, parts) {
            Ok((session, payloads)) => {
                self.wire.trust(ctx.shared, self.facts.id);
                // It goes by where it was negotiated, wherever the peer was before.
                let answered = self.respond(ctx, auth::EXCHANGE, &payloads).map(|_| ());
                self.stage = Stage::Established(Box::new(session));
                let came = self.wire.came().hop;
                evidence::left_port_500(ctx, &self.facts, Came { hop: came, bytes: self.wire.left_of(&came) });
                answered
            }
            Err(auth::Stranger { error, claimed }) => {
                if !error.is_of_a_share() {
                    ctx.shared.failures.charge(now, origin);
                }
                self.claimed = claimed;
                Err(*error)
            }
        };
        if let Err(error) = answered {
            self.refuse(ctx, auth::EXCHANGE, &error);
            self.end(ctx, error.into());
        }
    }
}
