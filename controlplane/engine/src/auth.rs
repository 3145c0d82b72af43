//! Proof of identity: what goes into our AUTH and CERT payloads, and whether to believe the peer's.
//!
//! Both ends prove themselves on their own; one may have a preshared key and the other a certificate. [`octets`] is what is
//! signed, [`LocalAuth`] signs, and [`RemoteAuth`] verifies with a key that both know ([`psk`]), a public key from the
//! configuration (RFC 7670), or certificates up to a CA ([`chain`]). A failure says what the peer presented, what was
//! expected and what to do: [`AuthError`].

pub mod certificate;
pub mod chain;
mod error;
pub mod octets;
pub mod own;
pub mod psk;

use std::cell::{OnceCell, RefCell};
use std::fmt;
use std::sync::Arc;

use adit_proto::ike::{AuthMethod, CertEncoding, HashAlg, Identification};

use crate::crypto::{AuthData, KeyError, KeyKind, Prf, PrivateKey, PublicKey, SignError, SignatureAlgorithm, VerifyError};
use crate::identity::{Identity, Pattern};
use crate::limits::{CA_SETS_TRIED_MAX, CERTIFICATES_MAX, KEYS_COST_MAX};
use crate::shown::Shown;

pub use certificate::{Certificate, CertificateError};
pub use chain::{TrustAnchors, Verified};
pub use error::AuthError;
pub use octets::{IntAuth, signed_octets};
pub use own::{Finding, Severity, judge_own};
pub use psk::Psk;

/// How this gateway proves who it is.
#[derive(Clone, Debug)]
pub enum LocalAuth {
    Psk(Psk),
    Key(Arc<LocalKey>),
}

/// A private key, with the certificates for it if there are any.
#[derive(Debug)]
pub struct LocalKey {
    key: PrivateKey,
    /// That of the key first, then those of its issuers; empty for a raw public key.
    chain: Vec<Certificate>,
}

/// A key and a certificate that do not belong together, or either of them unusable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocalKeyError {
    #[error("private key: {0}")]
    Key(KeyError),
    #[error("certificate: {0}")]
    Certificate(#[from] CertificateError),
    #[error(
        "the certificate {subject} is for another key ({certified}) than the private key's ({key}); the first certificate in the file must be the gateway's own"
    )]
    OtherKey { subject: Shown, certified: String, key: String },
}

/// How a peer has to prove who it is.
#[derive(Clone, Debug)]
pub enum RemoteAuth {
    Psk(Psk),
    /// Any of these keys. They are trusted for themselves: no dates, no names, no CA.
    PinnedKeys(Vec<PublicKey>),
    /// A certificate that one of these CAs stands for and that names the identity.
    Ca(Arc<TrustAnchors>),
}

/// What a peer says about itself in IKE_AUTH.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    pub identification: &'a Identification,
    pub method: AuthMethod,
    /// Of the AUTH payload; with RFC 8784 perhaps that of NO_PPK_AUTH.
    pub data: &'a [u8],
    pub presented: &'a Presented,
}

/// The CERT payloads of a message, and what has been found out about them: the peer's own is read, and a signature verified with each
/// key, and the chain with the same CAs, once for all the peers that it may be. (They differ in what is signed only with a post-quantum
/// pre-shared key.)
#[derive(Debug, Default)]
pub struct Presented {
    /// In their order.
    certificates: Vec<(CertEncoding, Vec<u8>)>,
    own: OnceCell<Result<Certificate, CertificateError>>,
    /// Of the first one that can be read.
    key: OnceCell<Option<PublicKey>>,
    /// Those behind it that can be read.
    above: OnceCell<Vec<Certificate>>,
    signed: RefCell<Vec<Signed>>,
    /// What the chain is worth, with which CAs.
    chains: RefCell<Vec<Looked>>,
}

/// What a chain is worth with these CAs.
type Looked = (Arc<TrustAnchors>, Result<Verified, CertificateError>);

/// A signature that was verified: with which key, over what, its AUTH data, and whether it is good.
#[derive(Debug)]
struct Signed {
    key: PublicKey,
    octets: Vec<u8>,
    method: AuthMethod,
    data: Vec<u8>,
    outcome: Result<(), VerifyError>,
}

impl From<Vec<(CertEncoding, Vec<u8>)>> for Presented {
    fn from(certificates: Vec<(CertEncoding, Vec<u8>)>) -> Presented {
        Presented { certificates, ..Presented::default() }
    }
}

/// A peer that has proved who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authenticated {
    pub identity: Identity,
    pub by: Proof,
    /// The key that signed, if one did.
    pub key: Option<PublicKey>,
}

/// What convinced us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    Psk,
    PinnedKey(PublicKey),
    Certificate {
        subject: Shown,
        issuer: Shown,
        /// End of its validity, in seconds since 1970 UTC.
        not_after: u64,
        /// The same of the whole chain up to the trusted CA: what was proved ends then.
        until: u64,
    },
}

impl LocalKey {
    /// A key that the peer has pinned.
    pub fn raw(key: PrivateKey) -> LocalKey {
        LocalKey { key, chain: Vec::new() }
    }

    /// A key with its certificate, and those of intermediate CAs behind it, from PEM.
    ///
    /// # Errors
    /// The certificates cannot be read, or the first one is for another key.
    pub fn certified(key: PrivateKey, chain_pem: &[u8]) -> Result<LocalKey, LocalKeyError> {
        let chain = Certificate::all_from_pem(chain_pem)?;
        if let Some(own) = chain.first() {
            let certified = own.public_key().map_err(CertificateError::from)?;
            if certified != key.public() {
                let (certified, key) = (certified.to_string(), key.public().to_string());
                return Err(LocalKeyError::OtherKey { subject: own.subject().clone(), certified, key });
            }
        }
        Ok(LocalKey { key, chain })
    }

    /// The public key that the peer verifies with.
    pub fn public(&self) -> &PublicKey {
        self.key.public()
    }

    /// The certificate of the key, if it has one.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.chain.first()
    }

    /// The certificate of the key and those of its issuers, as they are sent.
    pub fn chain(&self) -> &[Certificate] {
        &self.chain
    }
}

impl LocalAuth {
    /// Signs the octets of [`signed_octets`]. `peer_hashes` are those of the peer's SIGNATURE_HASH_ALGORITHMS, none if it
    /// sent none.
    ///
    /// # Errors
    /// The peer cannot verify what our key makes.
    pub fn sign(&self, prf: Prf, peer_hashes: &[HashAlg], octets: &[u8]) -> Result<AuthData, SignError> {
        match self {
            LocalAuth::Psk(psk) => Ok(AuthData { method: AuthMethod::SHARED_KEY, data: psk.auth(prf, octets).expose().to_vec() }),
            LocalAuth::Key(local) => local.key.sign(peer_hashes, octets),
        }
    }

    /// When the certificate ends that a peer with these CERTREQ payloads looks at, in seconds since 1970 UTC. One that asks for raw
    /// keys alone looks at none.
    pub fn shown_until(&self, requests: &[(CertEncoding, Vec<u8>)]) -> Option<u64> {
        let LocalAuth::Key(local) = self else { return None };
        let looks = requests.is_empty() || requests.iter().any(|(encoding, _)| *encoding == CertEncoding::X509_SIGNATURE);
        local.certificate().filter(|_| looks).map(Certificate::not_after)
    }

    /// All that decides how we prove ourselves; of a private key the public one.
    pub(crate) fn material(&self) -> Vec<&[u8]> {
        match self {
            LocalAuth::Psk(psk) => vec![b"psk", psk.material()],
            LocalAuth::Key(local) => {
                let chain = local.chain.iter().map(Certificate::der);
                [b"key".as_slice(), local.public().spki()].into_iter().chain(chain).collect()
            }
        }
    }

    /// Our ID payload. A name that is in our certificate goes byte for byte as it is there: not every peer knows that a
    /// distinguished name in other strings is the same.
    pub fn identification(&self, identity: &Identity) -> Identification {
        let certified = match self {
            LocalAuth::Key(local) => local.certificate().map_or(&[][..], Certificate::identities),
            LocalAuth::Psk(_) => &[],
        };
        certified.iter().find(|name| *name == identity).unwrap_or(identity).to_payload()
    }

    /// Our CERT payloads, for a peer that sent these CERTREQ payloads.
    ///
    /// Certificates go without being asked for, for not every peer asks (RFC 7296 §3.6); a raw key, which the peer must have
    /// anyhow, only on request (RFC 7670 §3).
    pub fn certificates(&self, requests: &[(CertEncoding, Vec<u8>)]) -> Vec<(CertEncoding, Vec<u8>)> {
        match self {
            LocalAuth::Psk(_) => Vec::new(),
            LocalAuth::Key(local) if !local.chain.is_empty() => {
                local.chain.iter().map(|certificate| (CertEncoding::X509_SIGNATURE, certificate.der().to_vec())).collect()
            }
            LocalAuth::Key(local) if requests.iter().any(|(encoding, _)| *encoding == CertEncoding::RAW_PUBLIC_KEY) => {
                vec![(CertEncoding::RAW_PUBLIC_KEY, local.public().spki().to_vec())]
            }
            LocalAuth::Key(_) => Vec::new(),
        }
    }
}

impl RemoteAuth {
    /// All that decides whom we believe, in an order that means nothing.
    pub(crate) fn material(&self) -> Vec<&[u8]> {
        let (kind, mut parts): (&[u8], Vec<&[u8]>) = match self {
            RemoteAuth::Psk(psk) => (b"psk", vec![psk.material()]),
            RemoteAuth::PinnedKeys(keys) => (b"pinned", keys.iter().map(PublicKey::spki).collect()),
            RemoteAuth::Ca(anchors) => (b"ca", anchors.certificates().iter().map(Certificate::der).collect()),
        };
        parts.sort_unstable();
        parts.insert(0, kind);
        parts
    }

    /// Our CERTREQ payloads.
    pub fn certificate_requests(&self) -> Vec<(CertEncoding, Vec<u8>)> {
        match self {
            RemoteAuth::Psk(_) => Vec::new(),
            // Not needed to verify, but a key that is not the pinned one can then be named.
            RemoteAuth::PinnedKeys(_) => vec![(CertEncoding::RAW_PUBLIC_KEY, Vec::new())],
            RemoteAuth::Ca(anchors) => vec![(CertEncoding::X509_SIGNATURE, anchors.key_hashes())],
        }
    }

    /// Decides whether the peer is who it says it is, and one of those that are expected. `now` is in seconds since 1970 UTC.
    ///
    /// # Errors
    /// It is not. The peer learns only AUTHENTICATION_FAILED (RFC 7296 §2.21.2); the error is for this end.
    pub fn verify(
        &self,
        expected: &Pattern,
        claim: &Claim,
        prf: Prf,
        octets: &[u8],
        now: u64,
    ) -> Result<Authenticated, AuthError> {
        let identity = Identity::from_payload(claim.identification)?;
        if !expected.matches(&identity) {
            return Err(AuthError::OtherIdentity { presented: identity, expected: expected.clone() });
        }
        let is_shared = claim.method == AuthMethod::SHARED_KEY;
        if is_shared != matches!(self, RemoteAuth::Psk(_)) {
            return Err(AuthError::OtherMethod { presented: claim.method, expected: self.kind() });
        }
        let (by, key) = match self {
            RemoteAuth::Psk(psk) if psk.verify(prf, octets, claim.data) => (Proof::Psk, None),
            RemoteAuth::Psk(_) => return Err(AuthError::WrongPsk { identity }),
            RemoteAuth::PinnedKeys(keys) => {
                let key = verify_pinned(keys, claim, octets)?;
                (Proof::PinnedKey(key.clone()), Some(key))
            }
            RemoteAuth::Ca(anchors) => {
                let (by, key) = verify_certified(anchors, &identity, claim, octets, now)?;
                (by, Some(key))
            }
        };
        Ok(Authenticated { identity, by, key })
    }

    /// What the peer has to prove itself with, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            RemoteAuth::Psk(_) => "a preshared key",
            RemoteAuth::PinnedKeys(_) => "a signature by a pinned key",
            RemoteAuth::Ca(_) => "a signature by a certified key",
        }
    }
}

/// Which of the pinned keys has signed.
fn verify_pinned(keys: &[PublicKey], claim: &Claim, octets: &[u8]) -> Result<PublicKey, AuthError> {
    let (algorithm, signature) = SignatureAlgorithm::read(claim.method, claim.data)?;
    let verify = |key: &PublicKey| claim.verify(key, octets, || key.verify(algorithm, octets, signature));
    match claim.presented.key() {
        // It says which key has signed (RFC 7296 §3.6): no other one need be tried.
        Some(key) if keys.contains(key) => verify(key).map(|()| key.clone()).map_err(|error| signature_error(key, error)),
        Some(key) => Err(unknown_key(keys, Some(key), algorithm)),
        None => {
            for key in keys {
                if !claim.may_try(key, octets) {
                    return Err(AuthError::KeyNotSent);
                }
                if verify(key).is_ok() {
                    return Ok(key.clone());
                }
            }
            Err(unknown_key(keys, None, algorithm))
        }
    }
}

fn unknown_key(pinned: &[PublicKey], presented: Option<&PublicKey>, algorithm: SignatureAlgorithm) -> AuthError {
    AuthError::UnknownKey { presented: presented.map(Shown::of), algorithm, pinned: pinned.iter().map(Shown::of).collect() }
}

/// How the key in the certificate proves the identity, and that key.
fn verify_certified(
    anchors: &Arc<TrustAnchors>,
    identity: &Identity,
    claim: &Claim,
    octets: &[u8],
    now: u64,
) -> Result<(Proof, PublicKey), AuthError> {
    let (algorithm, signature) = SignatureAlgorithm::read(claim.method, claim.data)?;
    let x509 = claim.presented.certificates.iter().filter(|(encoding, _)| *encoding == CertEncoding::X509_SIGNATURE);
    let chain: Vec<&[u8]> = x509.map(|(_, data)| data.as_slice()).collect();
    if chain.len() > CERTIFICATES_MAX {
        return Err(AuthError::TooManyCertificates(chain.len()));
    }
    // The first is for the key that signed (RFC 7296 §3.6).
    let Some((own, above)) = chain.split_first() else { return Err(AuthError::NoCertificate) };
    let own = claim.presented.own.get_or_init(|| Certificate::from_der(own)).as_ref().map_err(Clone::clone)?;
    if !own.names(identity) {
        let (identity, names) = (identity.clone(), own.all_names());
        return Err(CertificateError::NotForIdentity { subject: own.subject().clone(), identity, names }.into());
    }
    // The signature first: who cannot make one costs no more than this, whatever certificates it sends.
    let key = own.public_key().map_err(CertificateError::from)?;
    let good = claim.verify(key, octets, || key.verify(algorithm, octets, signature));
    good.map_err(|error| signature_error(key, error))?;
    let above = claim.presented.above.get_or_init(|| above.iter().filter_map(|der| Certificate::from_der(der).ok()).collect());
    let chain = claim.presented.chain(anchors, || anchors.verify(own, above, now));
    let Verified { issuer, until } = chain.ok_or(AuthError::ManyCas)??;
    let by = Proof::Certificate { subject: own.subject().clone(), issuer, not_after: own.not_after(), until };
    Ok((by, key.clone()))
}

/// What it costs to try a key, in units of some twenty microseconds.
fn cost(kind: KeyKind) -> u32 {
    match kind {
        KeyKind::Ed25519 | KeyKind::EcdsaP256 => 3,
        KeyKind::EcdsaP384 => 12,
        KeyKind::EcdsaP521 => 24,
        KeyKind::Rsa { bits } => 1 + bits / 1024,
    }
}

fn signature_error(key: &PublicKey, error: VerifyError) -> AuthError {
    match error {
        VerifyError::OtherKind { key, algorithm } => AuthError::KeyKind { key, algorithm },
        _ => AuthError::BadSignature { key: Shown::of(key) },
    }
}

impl Presented {
    /// The key that the first certificate that can be read is about.
    fn key(&self) -> Option<&PublicKey> {
        let read = |(encoding, data): &(CertEncoding, Vec<u8>)| match *encoding {
            CertEncoding::RAW_PUBLIC_KEY => PublicKey::from_spki(data).ok(),
            CertEncoding::X509_SIGNATURE => Certificate::from_der(data).ok()?.public_key().ok().cloned(),
            _ => None,
        };
        self.key.get_or_init(|| self.certificates.iter().take(CERTIFICATES_MAX).find_map(read)).as_ref()
    }

    /// What the chain is worth with these CAs; it may have been looked at before, for they are read once for each peer. `None` where it
    /// was followed to enough others.
    fn chain(
        &self,
        anchors: &Arc<TrustAnchors>,
        verify: impl FnOnce() -> Result<Verified, CertificateError>,
    ) -> Option<Result<Verified, CertificateError>> {
        let known = self.chains.borrow().iter().find(|(known, _)| known.is_same(anchors)).map(|(_, outcome)| outcome.clone());
        if known.is_some() {
            return known;
        }
        // It costs nothing where no CA has the right name.
        let is_followed = |outcome: &Result<_, _>| !matches!(outcome, Err(CertificateError::UnknownIssuer { .. }));
        if self.chains.borrow().iter().filter(|(_, outcome)| is_followed(outcome)).count() >= CA_SETS_TRIED_MAX {
            return None;
        }
        let outcome = verify();
        self.chains.borrow_mut().push((anchors.clone(), outcome.clone()));
        Some(outcome)
    }
}

impl Claim<'_> {
    /// Whether the signature was tried with this key already, or with few others.
    fn may_try(&self, key: &PublicKey, octets: &[u8]) -> bool {
        let signed = self.presented.signed.borrow();
        let spent: u32 = signed.iter().map(|one| cost(one.key.kind())).sum();
        spent + cost(key.kind()) <= KEYS_COST_MAX || signed.iter().any(|one| one.key == *key && one.octets == octets)
    }

    /// The outcome of the verification of the signature with this key; it may have been made before.
    fn verify(
        &self,
        key: &PublicKey,
        octets: &[u8],
        verify: impl FnOnce() -> Result<(), VerifyError>,
    ) -> Result<(), VerifyError> {
        let same_claim = |one: &Signed| one.octets == octets && one.method == self.method && one.data == self.data;
        let same = |one: &&Signed| one.key == *key && same_claim(one);
        let known = self.presented.signed.borrow().iter().find(same).map(|one| one.outcome);
        known.unwrap_or_else(|| {
            let (key, octets, outcome) = (key.clone(), octets.to_vec(), verify());
            self.presented.signed.borrow_mut().push(Signed {
                key,
                octets,
                method: self.method,
                data: self.data.to_vec(),
                outcome,
            });
            outcome
        })
    }
}

impl From<Psk> for LocalAuth {
    fn from(psk: Psk) -> LocalAuth {
        LocalAuth::Psk(psk)
    }
}

impl From<LocalKey> for LocalAuth {
    fn from(key: LocalKey) -> LocalAuth {
        LocalAuth::Key(Arc::new(key))
    }
}

impl Proof {
    /// When that ends which was proved, in seconds since 1970 UTC.
    pub fn until(&self) -> Option<u64> {
        match self {
            Proof::Psk | Proof::PinnedKey(_) => None,
            Proof::Certificate { until, .. } => Some(*until),
        }
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Proof::Psk => f.write_str("preshared key"),
            Proof::PinnedKey(key) => write!(f, "pinned key {key}"),
            Proof::Certificate { subject, issuer, not_after, .. } => {
                write!(f, "certificate {subject} of {issuer}, valid until {}", certificate::date(*not_after))
            }
        }
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
