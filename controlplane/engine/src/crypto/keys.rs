//! The keys of an IKE SA and of its Child SAs: RFC 7296 §2.14, §2.17 and §2.18, RFC 9370 §2.2.2 to §2.2.4, RFC 8784 §3.
//!
//! ```text
//! IKE_SA_INIT       SKEYSEED = prf(Ni | Nr, SK(0))                                    IkeKeys::initial
//! IKE_INTERMEDIATE  SKEYSEED = prf(SK_d, SK(n) | Ni | Nr)                             IkeKeys::additional
//! rekey             SKEYSEED = prf(SK_d, SK(0) | Ni | Nr | SK(1) | … | SK(n))         IkeKeys::rekeyed
//!                   SK_d | SK_ei | SK_er | SK_pi | SK_pr = prf+(SKEYSEED, Ni | Nr | SPIi | SPIr)
//! with a PPK        SK_d, SK_pi, SK_pr = prf+(PPK, SK_…')                             IkeKeys::with_ppk
//! Child SA          KEYMAT = prf+(SK_d, [SK(0) |] Ni | Nr [| SK(1) | … | SK(n)])      IkeKeys::child
//! ```
//! `SK(0)` is the shared secret of the first key exchange, g^ir in RFC 7296; `SK(1)` and so on are those of additional ones.
//! SK_a has no bytes with an AEAD (RFC 5282 §7.1).

use std::fmt;
use std::ops::Range;

use adit_proto::control::SaKey;
use adit_proto::ike::IkeSpi;
use adit_proto::suite::{KEY_LEN_MAX, SALT_LEN, Suite};
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::prf::{self, Prf};
use super::{IkeAead, Secret};

/// What both peers said, besides key exchange data.
#[derive(Clone, Copy, Debug)]
pub struct Exchanged<'a> {
    /// The nonces, without payload headers. After IKE_INTERMEDIATE they are still those of IKE_SA_INIT (RFC 9370 §2.2.2).
    pub nonce_i: &'a [u8],
    pub nonce_r: &'a [u8],
    /// The SPIs of the IKE SA that the keys are for.
    pub spi_i: IkeSpi,
    pub spi_r: IkeSpi,
}

/// The keys of an IKE SA.
#[derive(Clone, PartialEq, Eq)]
pub struct IkeKeys {
    prf: Prf,
    suite: Suite,
    /// SK_d | SK_ei | SK_er | SK_pi | SK_pr.
    material: Secret,
}

/// The keys of a pair of Child SAs, named after who sends under them. Wiped when dropped, as their type is.
#[derive(Clone)]
pub struct ChildKeys {
    /// The initiator of the exchange that made the Child SA, who need not be the initiator of the IKE SA.
    pub from_initiator: SaKey,
    pub from_responder: SaKey,
}

/// Stored keys do not have the length that their algorithms ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stored keys of an IKE SA have {given} bytes, {expected} are needed: written by another version?")]
pub struct MaterialLength {
    /// Bytes given.
    pub given: usize,
    /// Bytes needed.
    pub expected: usize,
}

impl IkeKeys {
    /// After IKE_SA_INIT (RFC 7296 §2.14).
    pub fn initial(prf: Prf, suite: Suite, shared: &Secret, exchanged: Exchanged) -> IkeKeys {
        IkeKeys::expand(prf, suite, &skeyseed(prf.algorithm(), shared.expose(), exchanged), exchanged)
    }

    /// After an additional key exchange in IKE_INTERMEDIATE (RFC 9370 §2.2.2). `exchanged` is that of IKE_SA_INIT.
    pub fn additional(&self, shared: &Secret, exchanged: Exchanged) -> IkeKeys {
        let seed = skeyseed_from(self.prf.algorithm(), self.sk_d(), &[shared.expose()], exchanged);
        IkeKeys::expand(self.prf, self.suite, &seed, exchanged)
    }

    /// Of the IKE SA that replaces this one (RFC 7296 §2.18, RFC 9370 §2.2.4).
    ///
    /// `shared` are the secrets of all its key exchanges in their order, and there is at least one. This SA's PRF makes
    /// SKEYSEED, the new one's makes the keys.
    pub fn rekeyed(&self, prf: Prf, suite: Suite, shared: &[Secret], exchanged: Exchanged) -> IkeKeys {
        let shared: Vec<&[u8]> = shared.iter().map(Secret::expose).collect();
        let seed = skeyseed_from(self.prf.algorithm(), self.sk_d(), &shared, exchanged);
        IkeKeys::expand(prf, suite, &seed, exchanged)
    }

    /// With a post-quantum preshared key mixed in, before IKE_AUTH ends (RFC 8784 §3). Never again when rekeying.
    pub fn with_ppk(&self, ppk: &Secret) -> IkeKeys {
        let [d, _, _, pi, pr] = layout(self.prf, self.suite);
        let mut material = Zeroizing::new(self.material.expose().to_vec().into_boxed_slice());
        for range in [d, pi, pr] {
            let mixed = prf::plus(self.prf.algorithm(), ppk.expose(), &[&self.material.expose()[range.clone()]], range.len());
            material[range].copy_from_slice(mixed.expect("one block of the PRF").expose());
        }
        IkeKeys { material: material.into(), ..*self }
    }

    /// Of a Child SA (RFC 7296 §2.17, RFC 9370 §2.2.4).
    ///
    /// `shared` is empty for the first Child SA and for one without a key exchange of its own; else it holds the secrets of all
    /// key exchanges of CREATE_CHILD_SA in their order. The nonces are those of the exchange that made the Child SA.
    pub fn child(&self, suite: Suite, shared: &[Secret], nonce_i: &[u8], nonce_r: &[u8]) -> ChildKeys {
        let shared: Vec<&[u8]> = shared.iter().map(Secret::expose).collect();
        let one = suite.key_len() + SALT_LEN;
        let material = keymat(self.prf.algorithm(), self.sk_d(), &shared, nonce_i, nonce_r, 2 * one);
        let (initiator, responder) = material.expose().split_at(one);
        ChildKeys { from_initiator: sa_key(suite, initiator), from_responder: sa_key(suite, responder) }
    }

    /// The pseudorandom function of this SA.
    pub fn prf(&self) -> Prf {
        self.prf
    }

    /// The AEAD of this SA.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Of everything that will be derived from this SA.
    pub fn sk_d(&self) -> &[u8] {
        self.part(0)
    }

    /// What the initiator seals with: key, then salt.
    pub fn sk_ei(&self) -> &[u8] {
        self.part(1)
    }

    /// What the responder seals with: key, then salt.
    pub fn sk_er(&self) -> &[u8] {
        self.part(2)
    }

    /// Goes into the initiator's AUTH.
    pub fn sk_pi(&self) -> &[u8] {
        self.part(3)
    }

    /// Goes into the responder's AUTH.
    pub fn sk_pr(&self) -> &[u8] {
        self.part(4)
    }

    /// The AEAD of the messages that the original initiator sends; `iv_start` is a random number.
    pub fn initiator_aead(&self, iv_start: u64) -> IkeAead {
        IkeAead::of_keys(self.suite, self.sk_ei(), iv_start)
    }

    /// The AEAD of the messages that the original responder sends; `iv_start` is a random number.
    pub fn responder_aead(&self, iv_start: u64) -> IkeAead {
        IkeAead::of_keys(self.suite, self.sk_er(), iv_start)
    }

    /// All keys in a row, for storage that is itself secret.
    pub fn material(&self) -> &Secret {
        &self.material
    }

    /// Takes back what [`IkeKeys::material`] gave.
    ///
    /// # Errors
    /// The length is not that of these algorithms.
    pub fn from_material(prf: Prf, suite: Suite, material: Secret) -> Result<IkeKeys, MaterialLength> {
        let expected = layout(prf, suite)[4].end;
        if material.len() != expected {
            return Err(MaterialLength { given: material.len(), expected });
        }
        Ok(IkeKeys { prf, suite, material })
    }

    fn expand(prf: Prf, suite: Suite, seed: &Secret, exchanged: Exchanged) -> IkeKeys {
        let len = layout(prf, suite)[4].end;
        IkeKeys { prf, suite, material: key_material(prf.algorithm(), seed.expose(), exchanged, len) }
    }

    fn part(&self, index: usize) -> &[u8] {
        &self.material.expose()[layout(self.prf, self.suite)[index].clone()]
    }
}

impl fmt::Debug for IkeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IkeKeys({:?}, {}, …)", self.prf, self.suite)
    }
}

impl fmt::Debug for ChildKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChildKeys(…)")
    }
}

/// Where SK_d, SK_ei, SK_er, SK_pi and SK_pr are in the output of prf+ (RFC 7296 §2.14).
fn layout(prf: Prf, suite: Suite) -> [Range<usize>; 5] {
    let (prf, sealing) = (prf.output_len(), suite.key_len() + SALT_LEN);
    let mut end = 0;
    [prf, sealing, sealing, prf, prf].map(|len| {
        end += len;
        end - len..end
    })
}

/// The key comes before the salt (RFC 4106 §8.1, RFC 7634 §2).
fn sa_key(suite: Suite, material: &[u8]) -> SaKey {
    let mut key = SaKey { key: [0; KEY_LEN_MAX], salt: [0; SALT_LEN] };
    key.key[..suite.key_len()].copy_from_slice(&material[..suite.key_len()]);
    key.salt.copy_from_slice(&material[suite.key_len()..]);
    key
}

/// `prf(Ni | Nr, g^ir)`.
fn skeyseed(algorithm: hmac::Algorithm, shared: &[u8], exchanged: Exchanged) -> Secret {
    let key = Zeroizing::new([exchanged.nonce_i, exchanged.nonce_r].concat());
    prf::compute(algorithm, &key, &[shared])
}

/// `prf(SK_d, SK(0) | Ni | Nr | SK(1) | …)`.
fn skeyseed_from(algorithm: hmac::Algorithm, sk_d: &[u8], shared: &[&[u8]], exchanged: Exchanged) -> Secret {
    prf::compute(algorithm, sk_d, &around_nonces(shared, exchanged.nonce_i, exchanged.nonce_r))
}

/// `prf+(SKEYSEED, Ni | Nr | SPIi | SPIr)`.
fn key_material(algorithm: hmac::Algorithm, seed: &[u8], exchanged: Exchanged, len: usize) -> Secret {
    let Exchanged { nonce_i, nonce_r, spi_i, spi_r } = exchanged;
    prf::plus(algorithm, seed, &[nonce_i, nonce_r, &spi_i.to_bytes(), &spi_r.to_bytes()], len).expect("far below 255 blocks")
}

/// `prf+(SK_d, [SK(0) |] Ni | Nr [| SK(1) | …])`.
fn keymat(algorithm: hmac::Algorithm, sk_d: &[u8], shared: &[&[u8]], nonce_i: &[u8], nonce_r: &[u8], len: usize) -> Secret {
    prf::plus(algorithm, sk_d, &around_nonces(shared, nonce_i, nonce_r), len).expect("far below 255 blocks")
}

/// The first secret goes before the nonces, all others after them.
fn around_nonces<'a>(shared: &[&'a [u8]], nonce_i: &'a [u8], nonce_r: &'a [u8]) -> Vec<&'a [u8]> {
    let (first, others) = shared.split_at(shared.len().min(1));
    [first, &[nonce_i, nonce_r], others].concat()
}

#[cfg(test)]
mod tests;
