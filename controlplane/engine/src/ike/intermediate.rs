//! IKE_INTERMEDIATE (RFC 9242) with one additional key exchange each (RFC 9370 §2.2.2): KEi(n) there, KEr(n) back, new keys.
//!
//! Who the other end is comes out in IKE_AUTH only, so a message that does not fit is dropped and changes nothing.

use adit_proto::ike::{ExchangeType, KeId, Payload};

use crate::crypto::key_exchange::{self, Sender};
use crate::crypto::{KeyExchange, KeyExchangeMethod, Secret};

use super::context::Ctx;
use super::error::{Error, LocalFault};
use super::event::Cause;
use super::initiated::Initiated;
use super::parts::Parts;
use super::protect::Protection;
use super::sa::{IkeSa, Stage};
use super::wire::Opened;

const EXCHANGE: ExchangeType = ExchangeType::IKE_INTERMEDIATE;

/// What the initiator remembers until the answer comes.
pub(super) struct Sent {
    exchange: KeyExchange,
    /// What the request contributes to AUTH.
    request: Vec<u8>,
}

impl IkeSa {
    pub(super) fn send_intermediate(&mut self, ctx: &mut Ctx, method: KeyExchangeMethod) -> Result<(), Error> {
        let exchange = KeyExchange::start(method)?;
        let payload = Payload::Ke { method: method.id(), data: exchange.public().to_vec() };
        let context = Initiated::Intermediate(Box::new(Sent { exchange, request: Vec::new() }));
        let request = self.request(ctx, EXCHANGE, &[payload], context)?.int_auth();
        if let Some(Initiated::Intermediate(sent)) =
            self.wire.window.outstanding_mut().map(|outstanding| &mut outstanding.context)
        {
            sent.request = request;
        }
        Ok(())
    }

    /// Whether an answer to IKE_INTERMEDIATE is one: the KE payload that was asked for, or an error.
    pub(super) fn is_intermediate_answer(&self, parts: &Parts) -> bool {
        let Some(Initiated::Intermediate(sent)) = self.wire.window.outstanding().map(|outstanding| &outstanding.context) else {
            return true;
        };
        parts.error().is_some() || fits(parts.ke.as_ref(), sent.exchange.method(), Sender::Responder)
    }

    pub(super) fn on_intermediate_response(&mut self, ctx: &mut Ctx, sent: Sent, parts: Parts, opened: &Opened) {
        if let Some(notify) = parts.error() {
            return self.end(ctx, Cause::Refused { exchange: EXCHANGE, notify: notify.kind });
        }
        let data = parts.ke.map(|(_, data)| data).unwrap_or_default();
        let response = opened.int_auth().unwrap_or_default();
        let done = sent.exchange.finish(&data).map_err(Error::from).and_then(|shared| {
            self.take_new_keys(ctx, &sent.request, &response, &shared)?;
            self.continue_negotiation(ctx)
        });
        if let Err(error) = done {
            self.end(ctx, error.into());
        }
    }

    pub(super) fn on_intermediate_request(&mut self, ctx: &mut Ctx, parts: Parts, opened: &Opened) {
        let Stage::Exchanging(exchanging) = &self.stage else { return };
        let wanted = Some(exchanging.next()).filter(|method| fits(parts.ke.as_ref(), *method, Sender::Initiator));
        let exchanged = wanted.and_then(|method| {
            let data = parts.ke.as_ref().map_or(&[][..], |(_, data)| data);
            Some((method, key_exchange::respond(method, data).ok()?))
        });
        let (Some((method, (public, shared))), Some(request)) = (exchanged, opened.int_auth()) else {
            return ctx.count(self.facts.peer, |counters| counters.dropped_malformed += 1);
        };
        // The first IKE_AUTH or IKE_INTERMEDIATE request comes from where the peer will stay (RFC 4555 §3.3).
        self.facts.hop = self.wire.came().hop;
        let payload = Payload::Ke { method: method.id(), data: public.into_vec() };
        let done = self.respond(ctx, EXCHANGE, &[payload]).and_then(|response| {
            let response = response.int_auth();
            self.take_new_keys(ctx, &request, &response, &shared)
        });
        if let Err(error) = done {
            self.end(ctx, error.into());
        }
    }

    fn take_new_keys(&mut self, ctx: &mut Ctx, request: &[u8], response: &[u8], shared: &Secret) -> Result<(), Error> {
        // It has another stage in a moment, or ends.
        let Stage::Exchanging(exchanging) = std::mem::replace(&mut self.stage, Stage::Beginning) else {
            return Err(LocalFault::NotConfigured("a negotiation").into());
        };
        let negotiation = exchanging.made(self.facts.spis, request, response, shared);
        let protection = Protection::new(negotiation.keys(), self.facts.role, ctx.random);
        self.wire.protect(protection);
        self.stage = negotiation.into();
        Ok(())
    }
}

/// Whether a KE payload is of this method and has its length.
fn fits(ke: Option<&(KeId, Vec<u8>)>, method: KeyExchangeMethod, sender: Sender) -> bool {
    ke.is_some_and(|(id, data)| *id == method.id() && data.len() == method.data_len(sender))
}
