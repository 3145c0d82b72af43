//! What goes wrong, by who is to blame: that decides what the peer is told and what the operator can do.

use adit_proto::ike::{ExchangeType, IkeDecodeError, IkeEncodeError, Notify, NotifyType, PayloadType};

use crate::auth::AuthError;
use crate::crypto::{AeadError, KeyExchangeError, KeyExchangeMethod, SignError};
use crate::path::{Remote, Unfit};
use crate::shown::{SHOWN_LEN_MAX, Shown};

use super::negotiate::Mismatch;

/// Why a message or an exchange came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Bytes that are no IKE message.
    #[error("malformed message: {0}")]
    Malformed(#[from] IkeDecodeError),
    /// A well-formed message that breaks the protocol.
    #[error("the peer broke the protocol: {0}")]
    PeerMisbehaved(#[from] Misbehaviour),
    /// Both ends are right, but do not want the same.
    #[error("{0}")]
    Incompatible(#[from] Incompatibility),
    /// This gateway cannot, or will not now.
    #[error("{0}")]
    Local(#[from] LocalFault),
}

/// How a peer broke the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misbehaviour {
    #[error("{exchange} without {payload} payload")]
    Missing { exchange: ExchangeType, payload: PayloadType },
    #[error("{0} payload more than once")]
    Repeated(PayloadType),
    #[error("{0} where it does not belong")]
    OutOfPlace(ExchangeType),
    #[error("it left out the key exchange in {0}, which was agreed")]
    LeftOut(KeyExchangeMethod),
    #[error("{0}")]
    KeyExchange(#[from] KeyExchangeError),
    #[error("KE payload of another method than {0}, which was agreed")]
    OtherMethod(KeyExchangeMethod),
    #[error("the answer is not among what was offered: {0}")]
    NotOffered(Mismatch),
    #[error("an SPI that is reserved, or of the wrong length")]
    BadSpi,
    #[error("a nonce shorter than half the key of {0} bits")]
    ShortNonce(usize),
    #[error("traffic selectors beyond what was asked for")]
    WiderSelectors,
    #[error("narrower traffic selectors in a rekey")]
    NarrowerSelectors,
    #[error("a Child SA for another lane than was asked for: an answer to another request, perhaps")]
    OtherLane,
    #[error("asked for a cookie again and again")]
    CookieLoop,
    #[error("asked for key exchange method {0}, which was not offered or was sent already")]
    BadMethodRequest(u16),
    #[error("another COOKIE2 than was sent")]
    OtherCookie2,
    #[error("the message was not encrypted")]
    Unprotected,
    #[error("it went on answering TEMPORARY_FAILURE")]
    ForeverTemporary,
}

/// What the two ends do not agree on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Incompatibility {
    #[error(
        "the relay knows the peer by another key than whoever is at the other end of this stream: somebody there stands between the two"
    )]
    NotAtItsEnd,
    #[error("IKE SA: {0}")]
    IkeProposal(Mismatch),
    #[error("Child SA: {0}")]
    ChildProposal(Mismatch),
    /// Answered with INVALID_KE_PAYLOAD; the initiator tries again.
    #[error("key exchange in {0} is wanted")]
    KeyExchange(KeyExchangeMethod),
    #[error("no traffic selector is acceptable to both ends")]
    Selectors,
    #[error("one end wants Ethernet, the other IP")]
    Mode,
    #[error("{0}")]
    Auth(#[from] AuthError),
    /// With a post-quantum pre-shared key in the keys, a wrong one looks like any other wrong proof.
    #[error("{0}, or its post-quantum pre-shared key of the same name is another one")]
    AuthOrPpk(AuthError),
    /// A place for one of many, and more than one wants it.
    #[error("the only place for its identity is taken by {0}")]
    Taken(Shown),
    /// Nobody could tell whether it is the one that is connected.
    #[error("its identity has more than {SHOWN_LEN_MAX} characters, too many under a pattern")]
    LongName,
    /// In the policy table each pair of a local and a remote selector takes a place.
    #[error("its traffic selectors make more pairs than a peer may have")]
    TooManySelectors,
    #[error("it speaks IKE of version 1, which is not answered: set it to IKEv2")]
    OldVersion,
    #[error("no configured peer has this identity")]
    UnknownPeer,
    #[error("no peer that may connect to us has this address")]
    UnknownAddress,
    /// Found out when it has proven who it is.
    #[error("{0} was agreed before it was known who this is, and its own `proposals` do not allow it")]
    SuiteNotAllowed(String),
    #[error("a post-quantum pre-shared key is mandatory, and the peer has none or another")]
    Ppk,
    #[error("additional key exchanges were agreed, and the peer does not support IKE_INTERMEDIATE")]
    NoIntermediate,
    /// An error Notify in the answer.
    #[error("the peer answered {0}")]
    Refused(NotifyType),
}

/// What is in the way at this end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocalFault {
    #[error("the limit of sessions is reached")]
    Sessions,
    #[error("the limit of Child SAs is reached")]
    Children,
    #[error("the data plane refused to install it")]
    DataPlane,
    #[error("it connects more often than a peer may")]
    TooOften,
    #[error("it makes new keys more often than a peer may")]
    KeysTooOften,
    #[error("busy with an exchange that collides")]
    Busy,
    #[error("no such Child SA")]
    NoSuchChild,
    #[error("no such exchange is going on")]
    NoSuchExchange,
    #[error("{0}")]
    KeyExchange(KeyExchangeError),
    #[error("{0}")]
    Aead(#[from] AeadError),
    #[error("{0}")]
    Encode(#[from] IkeEncodeError),
    #[error("our own AUTH cannot be made: {0}")]
    Sign(#[from] SignError),
    #[error("nothing can be sent to {0}: {1}")]
    Address(Remote, Unfit),
    #[error("its endpoint has no address so far: the name is not known yet, or the interface is not there")]
    NoAddress,
    #[error("nobody who is seen at the relay says that it is this peer, and it has no endpoint")]
    NotSeen,
    #[error("the peer is configured without {0}")]
    NotConfigured(&'static str),
}

impl From<KeyExchangeError> for Error {
    /// A library that cannot make a key is our fault, bad data is the peer's.
    fn from(error: KeyExchangeError) -> Error {
        match error {
            KeyExchangeError::Internal { .. } => Error::Local(LocalFault::KeyExchange(error)),
            KeyExchangeError::Length { .. } | KeyExchangeError::InvalidPublicValue { .. } => {
                Error::PeerMisbehaved(Misbehaviour::KeyExchange(error))
            }
        }
    }
}

impl From<IkeEncodeError> for Error {
    fn from(error: IkeEncodeError) -> Error {
        Error::Local(LocalFault::Encode(error))
    }
}

impl From<AuthError> for Error {
    fn from(error: AuthError) -> Error {
        Error::Incompatible(Incompatibility::Auth(error))
    }
}

impl Error {
    /// Whether somebody has proven who he is, and there is no place for him now.
    pub(super) fn is_of_a_share(&self) -> bool {
        let local = matches!(self, Error::Local(LocalFault::TooOften | LocalFault::Sessions));
        local || matches!(self, Error::Incompatible(Incompatibility::Taken(_) | Incompatibility::LongName))
    }

    /// What a request that fails with this error is answered with (RFC 7296 §2.21, §3.10.1).
    pub fn notify(&self) -> Notify {
        match self {
            Error::Malformed(error) => error.notify(),
            Error::PeerMisbehaved(_) => Notify::new(NotifyType::INVALID_SYNTAX),
            Error::Incompatible(Incompatibility::KeyExchange(method)) => Notify::invalid_ke(method.id()),
            Error::Incompatible(incompatibility) => Notify::new(match incompatibility {
                Incompatibility::Selectors | Incompatibility::TooManySelectors | Incompatibility::Mode => {
                    NotifyType::TS_UNACCEPTABLE
                }
                Incompatibility::Auth(_)
                | Incompatibility::AuthOrPpk(_)
                | Incompatibility::UnknownPeer
                | Incompatibility::Taken(_)
                | Incompatibility::LongName
                | Incompatibility::NotAtItsEnd
                | Incompatibility::Ppk => NotifyType::AUTHENTICATION_FAILED,
                // Nothing is agreed before it is known with whom: there is no proposal to choose.
                Incompatibility::UnknownAddress
                | Incompatibility::OldVersion
                | Incompatibility::IkeProposal(_)
                | Incompatibility::ChildProposal(_)
                | Incompatibility::KeyExchange(_)
                | Incompatibility::SuiteNotAllowed(_)
                | Incompatibility::NoIntermediate
                | Incompatibility::Refused(_) => NotifyType::NO_PROPOSAL_CHOSEN,
            }),
            Error::Local(fault) => Notify::new(match fault {
                LocalFault::Busy | LocalFault::TooOften | LocalFault::KeysTooOften => NotifyType::TEMPORARY_FAILURE,
                LocalFault::NoSuchChild => NotifyType::CHILD_SA_NOT_FOUND,
                LocalFault::NoSuchExchange => NotifyType::STATE_NOT_FOUND,
                LocalFault::Sessions | LocalFault::Children => NotifyType::NO_ADDITIONAL_SAS,
                LocalFault::Sign(_) => NotifyType::AUTHENTICATION_FAILED,
                LocalFault::KeyExchange(_)
                | LocalFault::Aead(_)
                | LocalFault::Encode(_)
                | LocalFault::Address(..)
                | LocalFault::NoAddress
                | LocalFault::NotSeen
                | LocalFault::DataPlane
                | LocalFault::NotConfigured(_) => NotifyType::NO_PROPOSAL_CHOSEN,
            }),
        }
    }
}
