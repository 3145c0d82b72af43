//! What both ends remember between IKE_SA_INIT and the end of IKE_AUTH.

use std::ops::Deref;

use adit_proto::ike::{CertEncoding, HashAlg};

use crate::auth::IntAuth;
use crate::crypto::{Exchanged, IkeKeys, KeyExchangeMethod, Secret};

use super::agreed::Left;
use super::facts::IkeSpis;
use super::negotiate::Choice;

/// Of our nonces, in bytes. Long enough for every PRF that we offer: half of 512 bits (RFC 7296 §2.10).
pub(super) const NONCE_LEN: usize = 32;

/// The state of a negotiation after IKE_SA_INIT.
pub(super) struct Handshake {
    /// IKE_SA_INIT as it was sent: AUTH signs it (RFC 7296 §2.15).
    pub request: Vec<u8>,
    pub response: Vec<u8>,
    pub nonce_i: Vec<u8>,
    pub nonce_r: Vec<u8>,
    pub choice: Choice,
    pub keys: IkeKeys,
    /// The hash algorithms of signatures that the peer can verify (RFC 7427 §4).
    pub hashes: Vec<HashAlg>,
    /// The chains over the messages of IKE_INTERMEDIATE (RFC 9242 §3.3.2).
    pub int_auth: IntAuth,
    /// The CERTREQ payloads of IKE_SA_INIT.
    pub cert_requests: Vec<(CertEncoding, Vec<u8>)>,
}

/// A negotiation in which key exchanges that were agreed on are still to be made: nothing but IKE_INTERMEDIATE has a place in it.
pub(super) struct Exchanging {
    handshake: Handshake,
    left: Left,
}

/// A negotiation in which every key exchange that was agreed on is made. Nothing else can be authenticated.
pub(super) struct Keyed(Handshake);

/// What comes after IKE_SA_INIT, and after each IKE_INTERMEDIATE.
pub(super) enum Negotiation {
    Exchanging(Exchanging),
    Keyed(Keyed),
}

impl Handshake {
    /// The smaller nonce, by which simultaneous IKE SAs are told apart (RFC 7296 §2.8.2).
    pub(super) fn lowest_nonce(&self) -> Vec<u8> {
        self.nonce_i.as_slice().min(&self.nonce_r).to_vec()
    }

    /// The nonces of both, the initiator's first.
    pub(super) fn nonces(&self) -> (Vec<u8>, Vec<u8>) {
        (self.nonce_i.clone(), self.nonce_r.clone())
    }

    /// IKE_SA_INIT is over.
    pub(super) fn begin(self) -> Negotiation {
        let left = Left::of(&self.choice.additional);
        Negotiation::after(self, left)
    }
}

impl Negotiation {
    fn after(handshake: Handshake, left: Option<Left>) -> Negotiation {
        match left {
            Some(left) => Negotiation::Exchanging(Exchanging { handshake, left }),
            None => Negotiation::Keyed(Keyed(handshake)),
        }
    }

    pub(super) fn keys(&self) -> &IkeKeys {
        match self {
            Negotiation::Exchanging(exchanging) => &exchanging.handshake.keys,
            Negotiation::Keyed(Keyed(handshake)) => &handshake.keys,
        }
    }
}

impl Exchanging {
    /// The key exchange to be made now.
    pub(super) fn next(&self) -> KeyExchangeMethod {
        self.left.next()
    }

    /// An IKE_INTERMEDIATE exchange is complete; the key exchange in it gives new keys.
    pub(super) fn made(self, spis: IkeSpis, request: &[u8], response: &[u8], shared: &Secret) -> Negotiation {
        let Exchanging { mut handshake, left } = self;
        handshake.int_auth.add(&handshake.keys, request, response);
        handshake.keys = handshake.keys.additional(shared, exchanged(&handshake.nonce_i, &handshake.nonce_r, spis));
        Negotiation::after(handshake, left.made())
    }
}

impl Deref for Keyed {
    type Target = Handshake;

    fn deref(&self) -> &Handshake {
        &self.0
    }
}

/// Nonces and SPIs as the key schedule wants them.
pub(super) fn exchanged<'a>(nonce_i: &'a [u8], nonce_r: &'a [u8], spis: IkeSpis) -> Exchanged<'a> {
    Exchanged { nonce_i, nonce_r, spi_i: spis.initiator, spi_r: spis.responder }
}
