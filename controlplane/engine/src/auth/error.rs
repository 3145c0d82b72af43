//! Why a peer was not believed: what it presented, what was expected, and what to do about it.

use adit_proto::ike::AuthMethod;

use super::certificate::CertificateError;
use crate::crypto::{KeyKind, SignatureAlgorithm, SignatureDataError};
use crate::identity::{Identity, IdentityError, Pattern};
use crate::shown::Shown;

/// Why a peer was not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    #[error("the peer presented {0}")]
    Identity(#[from] IdentityError),
    #[error("the peer says it is {} {presented}, expected {} {expected}", presented.kind(), expected.kind())]
    OtherIdentity { presented: Identity, expected: Pattern },
    #[error("the peer proves itself with method {presented}, expected {expected}")]
    OtherMethod { presented: AuthMethod, expected: &'static str },
    #[error("{identity} has another preshared key than the one configured for it")]
    WrongPsk { identity: Identity },
    #[error("the peer's signature is not accepted: {0}")]
    Signature(#[from] SignatureDataError),
    #[error("the peer signed with {}, pinned: {}", signer(presented, *algorithm), pinned.join(", "))]
    UnknownKey {
        /// The key in its CERT payload, if it sent one.
        presented: Option<Shown>,
        algorithm: SignatureAlgorithm,
        pinned: Vec<Shown>,
    },
    #[error("the signature was not made with {key}, or is over something else than was received")]
    BadSignature { key: Shown },
    #[error("the peer's key is of the kind {key}, but its signature is {algorithm}")]
    KeyKind { key: KeyKind, algorithm: SignatureAlgorithm },
    #[error("the peer sent no certificate")]
    NoCertificate,
    #[error("the peer sent {0} certificates, at most {max} are looked at", max = crate::limits::CERTIFICATES_MAX)]
    TooManyCertificates(usize),
    #[error("the peer did not send its key, and too many would have to be tried")]
    KeyNotSent,
    #[error("its certificate is of none of the first {max} sets of CAs of that name", max = crate::limits::CA_SETS_TRIED_MAX)]
    ManyCas,
    #[error("{0}")]
    Certificate(#[from] CertificateError),
}

fn signer(key: &Option<Shown>, algorithm: SignatureAlgorithm) -> String {
    match key {
        Some(key) => key.to_string(),
        None => format!("a key that it did not send ({algorithm})"),
    }
}

impl AuthError {
    /// A word for metrics and programs. It does not change between versions.
    pub fn code(&self) -> &'static str {
        match self {
            AuthError::Identity(_) => "malformed_identity",
            AuthError::OtherIdentity { .. } => "wrong_identity",
            AuthError::OtherMethod { .. } => "wrong_method",
            AuthError::WrongPsk { .. } => "wrong_psk",
            AuthError::Signature(_) => "signature_algorithm",
            AuthError::UnknownKey { .. } => "unknown_key",
            AuthError::BadSignature { .. } | AuthError::KeyKind { .. } => "bad_signature",
            AuthError::NoCertificate => "no_certificate",
            AuthError::TooManyCertificates(_) => "too_many_certificates",
            AuthError::KeyNotSent => "key_not_sent",
            AuthError::ManyCas => "too_many_cas",
            AuthError::Certificate(error) => error.code(),
        }
    }

    /// What to change, and at which end.
    pub fn remedy(&self) -> String {
        match self {
            AuthError::Identity(_) => "configure another kind of local identity at the peer".to_owned(),
            AuthError::OtherIdentity { presented, .. } => {
                format!("set the identity of this peer to {presented} here, or the peer's own identity to what is expected")
            }
            AuthError::OtherMethod { .. } => "configure the same kind of authentication at both ends".to_owned(),
            AuthError::WrongPsk { .. } => {
                "put the same preshared key into both configurations; mind spaces, line ends and the prefixes 0x and 0s"
                    .to_owned()
            }
            AuthError::Signature(_) => {
                "use a key of Ed25519, ECDSA or RSA with SHA-2 at the peer, and a version with RFC 7427".to_owned()
            }
            AuthError::UnknownKey { presented: Some(key), .. } => {
                format!("if that is the peer's new key, pin it here ({key}); else find out who answers in its place")
            }
            AuthError::UnknownKey { presented: None, .. } => {
                "compare the pinned public key with the one that belongs to the peer's private key".to_owned()
            }
            AuthError::BadSignature { .. } => {
                "check that certificate and private key of the peer belong together, and that nothing changes IKE messages on \
                 the way"
                    .to_owned()
            }
            AuthError::KeyKind { .. } => "this is a fault of the peer's software".to_owned(),
            AuthError::NoCertificate => {
                "let the peer send its certificate (strongSwan: send_cert = always), or pin its public key here".to_owned()
            }
            AuthError::TooManyCertificates(_) => "let the peer send its own certificate and the intermediate CAs only".to_owned(),
            AuthError::KeyNotSent => {
                "let the peer send its public key (a CERT payload, RFC 7670), or give each peer an identity of its own here"
                    .to_owned()
            }
            AuthError::ManyCas => {
                "put CAs of one name into one file for all peers, or give each peer an identity of its own here".to_owned()
            }
            AuthError::Certificate(error) => error.remedy(),
        }
    }
}
