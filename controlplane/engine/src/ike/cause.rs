//! Why an SA ended or a connection is down, for people and for what follows from it.

use adit_proto::ike::{ExchangeType, NotifyType};

use super::error::Error;

/// On which side something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Whose {
    Own,
    Peer,
}

impl std::fmt::Display for Whose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Whose::Own => "our",
            Whose::Peer => "the peer's",
        })
    }
}

/// Why an SA ended or a connection is down.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    #[error("disconnected by command")]
    Command,
    #[error("the peer closed the connection")]
    PeerClosed,
    #[error("{exchange} was not answered, sent {times} times")]
    Unanswered { exchange: ExchangeType, times: u32 },
    /// An error Notify in the answer.
    #[error("the peer answered {exchange} with {notify}")]
    Refused { exchange: ExchangeType, notify: NotifyType },
    #[error("{0}")]
    Failed(#[from] Error),
    #[error("replaced by a new IKE SA")]
    Replaced,
    #[error("both ends connected at once; the other IKE SA stays")]
    Redundant,
    #[error("the peer lost its state and said so (RFC 6290)")]
    PeerCrashed,
    #[error("the peer began anew (INITIAL_CONTACT)")]
    PeerRestarted,
    #[error("its lifetime is over")]
    Expired,
    /// Nobody authenticated anew before that, in seconds since 1970 UTC.
    #[error("{whose} certificate, or one above it, was valid until {}", crate::auth::certificate::date(*not_after))]
    CertificateExpired { whose: Whose, not_after: u64 },
    #[error("the peer did not authenticate anew in the time that it was given (AUTH_LIFETIME)")]
    NotReauthenticated,
    #[error("the peer's configuration was removed")]
    Removed,
    #[error("the peer's credentials or identities were changed")]
    TrustChanged,
    /// Of what was asked for (RFC 7296 §2.9).
    #[error("the peer grants a part of it and no more")]
    Narrowed,
    #[error("the peer wants an IKE SA without a Child SA first (RFC 6023)")]
    WantsChildless,
}
