//! Quick crash detection (RFC 6290), and what else comes without protection for an IKE SA that exists.
//!
//! Tokens are made of the SPIs and a secret that outlives the process, so that a gateway that lost its IKE SAs can prove it.

use std::time::Duration;

use adit_proto::ike::{Message, Notify, NotifyType, Payload, ProtocolId};
use aws_lc_rs::constant_time::verify_slices_are_equal;

use crate::crypto::{Prf, Secret};

use super::context::Ctx;
use super::facts::IkeSpis;
use super::parts::Parts;
use crate::limits::TOKENS_MAX;

/// Length of the message that proves that we have lost an IKE SA, in bytes: header, INVALID_IKE_SPI and one token. A request that is
/// shorter is not answered with a proof, since no stranger gets more than it sent.
pub(super) const PROOF_LEN: usize = 28 + 8 + 8 + 32;

/// RFC 6290 §5.
const TOKEN_LEN: std::ops::RangeInclusive<usize> = 16..=128;
/// A peer that says it does not know us is asked so often, at this interval, before that is believed.
pub(super) const TRIES_AFTER_HINT: u32 = 4;
pub(super) const INTERVAL_AFTER_HINT: Duration = Duration::from_secs(1);

/// The token of these SPIs under one secret (RFC 6290 §5.1).
fn compute(secret: &Secret, spis: IkeSpis) -> Vec<u8> {
    let tag = Prf::HmacSha256.compute(secret.expose(), &[&spis.initiator.to_bytes(), &spis.responder.to_bytes()]);
    tag.expose().to_vec()
}

fn notify(token: Vec<u8>) -> Payload {
    Notify { protocol: ProtocolId::IKE, ..Notify::new(NotifyType::QUICK_CRASH_DETECTION) }.with_data(token).into()
}

/// Our token of an IKE SA, for the peer to keep.
pub(super) fn token(ctx: &Ctx, spis: IkeSpis) -> Option<Payload> {
    ctx.shared.config.crash_secrets.first().map(|secret| notify(compute(secret, spis)))
}

/// The proof that we have lost an IKE SA: one token for each secret that may have been current.
pub(super) fn proof(secrets: &[Secret], spis: IkeSpis) -> Vec<Payload> {
    secrets.iter().take(TOKENS_MAX).map(|secret| notify(compute(secret, spis))).collect()
}

/// The tokens that the peer gave for an IKE SA, the newest first.
#[derive(Debug, Default)]
pub(super) struct Tokens(Vec<Vec<u8>>);

impl Tokens {
    /// As they were written down.
    pub(super) fn restored(tokens: Vec<Vec<u8>>) -> Tokens {
        Tokens(tokens)
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Vec<u8>> {
        self.0.iter()
    }

    /// Keeps what the peer gives.
    pub(super) fn take(&mut self, parts: &Parts) {
        for notify in parts.notifies.iter().filter(|notify| notify.kind == NotifyType::QUICK_CRASH_DETECTION) {
            if TOKEN_LEN.contains(&notify.data.len()) && !self.0.contains(&notify.data) {
                self.0.insert(0, notify.data.clone());
                self.0.truncate(TOKENS_MAX);
            }
        }
    }

    /// Whether a message has one of them.
    fn are_shown(&self, parts: &Parts) -> bool {
        let given = parts.notifies.iter().filter(|notify| notify.kind == NotifyType::QUICK_CRASH_DETECTION).take(TOKENS_MAX);
        let known = |given: &Notify| self.0.iter().any(|token| verify_slices_are_equal(token, &given.data).is_ok());
        given.into_iter().any(known)
    }
}

/// What a response in the clear says of an IKE SA that we have.
pub(super) enum Hint {
    /// Nothing that we believe.
    Nothing,
    /// The peer says that it does not know the IKE SA: a reason to look whether it is alive (RFC 7296 §2.21.4).
    Unknown,
    /// The peer proves that it has lost it.
    Crashed,
}

/// Only a token proves anything.
pub(super) fn hint(tokens: &Tokens, message: &[u8]) -> Hint {
    let Ok(Ok(parts)) = Message::decode(message).map(|message| Parts::sort(message.payloads)) else { return Hint::Nothing };
    let lost = [NotifyType::INVALID_IKE_SPI, NotifyType::INVALID_SPI].iter().any(|kind| parts.has(*kind));
    match (lost, tokens.are_shown(&parts)) {
        (false, _) => Hint::Nothing,
        (true, false) => Hint::Unknown,
        (true, true) => Hint::Crashed,
    }
}
