//! IKE_INTERMEDIATE (RFC 9242) with one additional key exchange each (RFC 9370 §2.2.2): KEi(n) there, KEr(n) back, new keys.
//!
//! Who the other end is comes out in IKE_AUTH only, so a message that does not fit is dropped and changes nothing.

use adit_proto::ike::{ExchangeType, KeId, Payload};

use crate::crypto::key_exchange::{self, Sender};
use crate::crypto::{KeyExchange, KeyExchangeMethod, Secret};

use super::error::Error;
use super::exchange::Request;
use super::parts::Parts;

pub(super) const EXCHANGE: ExchangeType = ExchangeType::IKE_INTERMEDIATE;

/// What the initiator remembers until the answer comes.
pub(super) struct Sent {
    exchange: KeyExchange,
    /// What the request contributes to AUTH.
    request: Vec<u8>,
}

/// The initiator's request. What it contributes to AUTH is known once it is sealed: see [`Sent::was_sent`].
///
/// # Errors
/// No key can be made.
pub(super) fn ask(method: KeyExchangeMethod) -> Result<Request<Sent>, Error> {
    let exchange = KeyExchange::start(method)?;
    let payloads = vec![Payload::Ke { method: method.id(), data: exchange.public().to_vec() }];
    Ok(Request { exchange: EXCHANGE, payloads, sent: Sent { exchange, request: Vec::new() } })
}

impl Sent {
    /// `request`: what it contributes to AUTH.
    pub(super) fn was_sent(&mut self, request: Vec<u8>) {
        self.request = request;
    }

    /// Whether an answer is one: the KE payload that was asked for, or an error.
    pub(super) fn is_answered_by(&self, parts: &Parts) -> bool {
        parts.error().is_some() || fits(parts.ke.as_ref(), self.exchange.method(), Sender::Responder)
    }

    /// Gives what the request contributes to AUTH, and the secret.
    ///
    /// # Errors
    /// The peer's key is none.
    pub(super) fn finish(self, parts: Parts) -> Result<(Vec<u8>, Secret), Error> {
        let data = parts.ke.map(|(_, data)| data).unwrap_or_default();
        Ok((self.request, self.exchange.finish(&data)?))
    }
}

/// The responder's half, if that is the key exchange to be made now.
pub(super) fn answer(method: KeyExchangeMethod, parts: &Parts) -> Option<(Payload, Secret)> {
    let (_, data) = parts.ke.as_ref().filter(|_| fits(parts.ke.as_ref(), method, Sender::Initiator))?;
    let (public, shared) = key_exchange::respond(method, data).ok()?;
    Some((Payload::Ke { method: method.id(), data: public.into_vec() }, shared))
}

/// Whether a KE payload is of this method and has its length.
fn fits(ke: Option<&(KeId, Vec<u8>)>, method: KeyExchangeMethod, sender: Sender) -> bool {
    ke.is_some_and(|(id, data)| *id == method.id() && data.len() == method.data_len(sender))
}
