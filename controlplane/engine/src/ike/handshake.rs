//! What both ends remember between IKE_SA_INIT and the end of IKE_AUTH.

use adit_proto::ike::{CertEncoding, HashAlg};

use crate::auth::IntAuth;
use crate::crypto::{Exchanged, IkeKeys, KeyExchangeMethod, Secret};

use super::event::IkeSpis;
use super::negotiate::Choice;

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
    /// How many of the additional key exchanges have been made.
    pub additional_done: usize,
    /// The chains over the messages of IKE_INTERMEDIATE (RFC 9242 §3.3.2).
    pub int_auth: IntAuth,
    /// The CERTREQ payloads of IKE_SA_INIT.
    pub cert_requests: Vec<(CertEncoding, Vec<u8>)>,
}

impl Handshake {
    /// The next additional key exchange, if one is to come.
    pub(super) fn next_additional(&self) -> Option<KeyExchangeMethod> {
        self.choice.additional.get(self.additional_done).copied()
    }

    /// The smaller nonce, by which simultaneous IKE SAs are told apart (RFC 7296 §2.8.2).
    pub(super) fn lowest_nonce(&self) -> Vec<u8> {
        self.nonce_i.as_slice().min(&self.nonce_r).to_vec()
    }

    /// An IKE_INTERMEDIATE exchange is complete; a key exchange in it gives new keys.
    pub(super) fn intermediate_done(&mut self, spis: IkeSpis, request: &[u8], response: &[u8], shared: &Secret) {
        self.int_auth.add(&self.keys, request, response);
        self.keys = self.keys.additional(shared, exchanged(&self.nonce_i, &self.nonce_r, spis));
        self.additional_done += 1;
    }
}

/// Nonces and SPIs as the key schedule wants them.
pub(super) fn exchanged<'a>(nonce_i: &'a [u8], nonce_r: &'a [u8], spis: IkeSpis) -> Exchanged<'a> {
    Exchanged { nonce_i, nonce_r, spi_i: spis.initiator, spi_r: spis.responder }
}
