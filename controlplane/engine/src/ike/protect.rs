//! Sealing and opening the messages of one IKE SA: inner payloads to datagrams and back (RFC 7296 §3.14, RFC 7383).

use std::fmt;

use adit_proto::ike::encrypted::{self, Fragment, SK_OVERHEAD, SKF_OVERHEAD, Sealed, Unsealed};
use adit_proto::ike::{Header, Payload, PayloadType, encode_payloads};

use crate::crypto::aead::{self, AeadError};
use crate::crypto::{IkeAead, IkeKeys};
use crate::random::Random;

use super::error::{Error, LocalFault};
use super::facts::Role;

/// The keys that protect the messages of an IKE SA at one time.
pub(super) struct Protection {
    outbound: IkeAead,
    inbound: IkeAead,
}

/// A message as it is sent.
pub(super) struct Message {
    /// One, or its fragments.
    pub datagrams: Vec<Vec<u8>>,
    pub plain: Plain,
}

/// What was sealed into a message.
#[derive(Clone)]
pub(super) struct Plain {
    header: Header,
    first: PayloadType,
    inner: Vec<u8>,
}

impl Plain {
    /// What an IKE_INTERMEDIATE message contributes to AUTH (RFC 9242 §3.3.2): IntAuth_A | IntAuth_P.
    pub(super) fn int_auth(&self) -> Vec<u8> {
        let mut out = encrypted::int_auth(&self.header, self.first, self.inner.len());
        out.extend_from_slice(&self.inner);
        out
    }
}

impl Protection {
    pub(super) fn new(keys: &IkeKeys, role: Role, random: &mut dyn Random) -> Protection {
        let (initiator, responder) = (keys.initiator_aead(random.u64()), keys.responder_aead(random.u64()));
        match role {
            Role::Initiator => Protection { outbound: initiator, inbound: responder },
            Role::Responder => Protection { outbound: responder, inbound: initiator },
        }
    }

    /// Seals payloads, in a message of `least` bytes if it is not cut. Asked for the length of the whole, `cut_above` says above how many
    /// bytes it is cut into fragments, if at all.
    ///
    /// # Errors
    /// They cannot be encoded or sealed: our fault.
    pub(super) fn seal(
        &mut self,
        header: &Header,
        least: usize,
        payloads: &[Payload],
        cut_above: impl FnOnce(usize) -> Option<usize>,
    ) -> Result<Message, Error> {
        let (first, inner) = encode_payloads(payloads)?;
        let plain = Plain { header: *header, first, inner };
        let len = plain.inner.len() + SK_OVERHEAD;
        let cut = cut_above(len).filter(|max| len > *max);
        let datagrams = match cut.and_then(|max| encrypted::fragments(&plain.inner, max)) {
            Some(parts) => self.seal_parts(&plain, parts)?,
            None => {
                let message = Unsealed::sk(header, first, &plain.inner, self.outbound.next_iv())?;
                vec![self.finish(message.padded_to(least))?]
            }
        };
        Ok(Message { datagrams, plain })
    }

    /// The same message once more, in fragments of at most `max` bytes, and in more than the `before` of last time, by which the
    /// receiver tells the sets apart (RFC 7383 §2.5.2). `None`: it cannot be cut into so many.
    ///
    /// # Errors
    /// It cannot be sealed: our fault.
    pub(super) fn seal_smaller(&mut self, plain: &Plain, max: usize, before: usize) -> Result<Option<Vec<Vec<u8>>>, Error> {
        let part = plain.inner.len().div_ceil(before + 1);
        match encrypted::fragments(&plain.inner, max.min(part + SKF_OVERHEAD)).filter(|parts| parts.len() > before) {
            Some(parts) => self.seal_parts(plain, parts).map(Some),
            None => Ok(None),
        }
    }

    fn seal_parts(&mut self, plain: &Plain, parts: Vec<(Fragment, &[u8])>) -> Result<Vec<Vec<u8>>, Error> {
        let seal = |part| self.finish(Unsealed::skf(&plain.header, plain.first, part, self.outbound.next_iv())?);
        parts.into_iter().map(seal).collect()
    }

    fn finish(&mut self, message: Unsealed) -> Result<Vec<u8>, Error> {
        let seal = |aad: &[u8], iv, plaintext: &mut [u8]| {
            let sealed = self.outbound.seal(aad, plaintext)?;
            debug_assert_eq!(sealed.iv, iv, "the IV that was announced is the one that was used");
            Ok::<_, AeadError>(sealed.tag)
        };
        message.seal(seal).map_err(|error| Error::Local(LocalFault::Aead(error)))
    }

    /// The payloads inside a message or fragment of the peer, without padding; `None` if it is not authentic.
    pub(super) fn open(&self, message: &Sealed) -> Option<Vec<u8>> {
        let (ciphertext, tag) = message.ciphertext_and_tag().split_last_chunk()?;
        let mut inner = ciphertext.to_vec();
        self.inbound.open(message.aad(), aead::Sealed { iv: message.iv(), tag: *tag }, &mut inner).ok()?;
        let len = encrypted::strip_padding(&inner).ok()?.len();
        inner.truncate(len);
        Some(inner)
    }
}

impl fmt::Debug for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Plain({:?}, {} bytes)", self.header.exchange, self.inner.len())
    }
}

impl fmt::Debug for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Protection({}, …)", self.outbound.suite())
    }
}
