//! What goes wrong, for programs by a code and for people in words.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use adit_engine::ike::{self, Cause, Explanation, Incompatibility};
use adit_proto::ike::NotifyType;

/// Why a call came to nothing.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that makes no sense, or one that is missing.
    #[error("{setting}: {fault}")]
    Settings { setting: &'static str, fault: String },
    /// The system refused something.
    #[error("cannot {action}: {source}")]
    Io {
        action: String,
        #[source]
        source: Arc<io::Error>,
    },
    /// The two ends did not come together.
    #[error("{0}")]
    Negotiation(Box<Failure>),
    /// It took too long.
    #[error("{what} took longer than {after:?}{}", hint(explanation))]
    Timeout { what: &'static str, after: Duration, explanation: String },
    /// There is no connection now. It comes back by itself, if it is to.
    #[error("not connected: the connection is being made anew")]
    NotConnected,
    /// The session is over.
    #[error("the session is closed: {0}")]
    Closed(Box<Failure>),
    /// An inner packet longer than the path takes, in bytes.
    #[error("a packet of {len} bytes, and the path takes {max}: send shorter ones, or raise `path_mtu` if the path takes more")]
    TooBig { len: usize, max: usize },
    /// What was to be sent is no IP packet.
    #[error("no IP packet: {0}")]
    NotIp(&'static str),
    /// What was to be sent is not what the two ends agreed to send.
    #[error(
        "the traffic selectors that were agreed do not cover a packet from {source_address} to {destination} (protocol {protocol})"
    )]
    Selectors { source_address: IpAddr, destination: IpAddr, protocol: u8 },
    /// Every sequence number of the SA has been used, and no new SA has taken its place.
    #[error("the SA has no sequence numbers left, and its rekey has not succeeded: see why the peer refuses it")]
    Exhausted,
}

/// Why a connection failed or ended, and what can be done.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The peer, as it is configured.
    pub peer: String,
    pub cause: Cause,
    /// What to do about it.
    pub remedy: String,
    /// What both ends offered where they differ, and what the peer said that nothing proves; one a line, perhaps none.
    pub differences: Vec<String>,
}

/// Somebody who wanted to connect, and was refused.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Refused {
    pub from: SocketAddr,
    /// An [`Error::Negotiation`]. The other end has been told less.
    pub error: Error,
}

impl Error {
    /// A word for programs. It does not change between versions; new ones may come.
    ///
    /// | code | means |
    /// |---|---|
    /// | `settings`, `io`, `timeout` | see the variant |
    /// | `not_connected`, `closed` | see the variant; [`Error::failure`] says why it was closed |
    /// | `packet_too_big`, `not_ip`, `selectors`, `exhausted` | the packet was not sent |
    /// | any other | the two ends did not come together: [`Failure::code`] |
    pub fn code(&self) -> &'static str {
        match self {
            Error::Settings { .. } => "settings",
            Error::Io { .. } => "io",
            Error::Negotiation(failure) => failure.code(),
            Error::Timeout { .. } => "timeout",
            Error::NotConnected => "not_connected",
            Error::Closed(_) => "closed",
            Error::TooBig { .. } => "packet_too_big",
            Error::NotIp(_) => "not_ip",
            Error::Selectors { .. } => "selectors",
            Error::Exhausted => "exhausted",
        }
    }

    /// Why the two ends did not come together, or parted.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Error::Negotiation(failure) | Error::Closed(failure) => Some(failure),
            _ => None,
        }
    }

    pub(super) fn settings(setting: &'static str, fault: impl fmt::Display) -> Error {
        Error::Settings { setting, fault: fault.to_string() }
    }

    pub(super) fn io(action: impl Into<String>, source: io::Error) -> Error {
        Error::Io { action: action.into(), source: Arc::new(source) }
    }
}

impl Failure {
    /// A connection that ended without anything that there would be to explain.
    pub(super) fn plain(peer: impl Into<String>, cause: Cause, remedy: &str) -> Failure {
        Failure { peer: peer.into(), cause, remedy: remedy.to_owned(), differences: Vec::new() }
    }

    pub(super) fn of(explanation: Explanation, cause: Cause) -> Failure {
        let problem = explanation.record.problem.as_ref().filter(|problem| problem.cause == cause);
        let remedy = problem.map(|problem| problem.remedy.clone()).unwrap_or_default();
        Failure { remedy, differences: differences(&explanation), peer: explanation.peer, cause }
    }

    /// A word for programs. It does not change between versions; new ones may come.
    ///
    /// | code | means |
    /// |---|---|
    /// | `unanswered` | the peer does not answer, or not any more |
    /// | `no_proposal_chosen`, `invalid_ke_payload` | no algorithms in common |
    /// | `authentication_failed` | the peer does not believe us, and does not say why |
    /// | `wrong_psk`, `wrong_identity`, `wrong_method`, `unknown_key`, `bad_signature`, `no_certificate`, … | we do not believe the peer: [`adit_engine::auth::AuthError::code`] |
    /// | `unknown_peer`, `ppk` | nobody with this identity is configured; the post-quantum preshared key is missing |
    /// | `taken` | the only place for the peer's identity is another one's |
    /// | `ts_unacceptable`, `mode` | no traffic selectors in common; one end wants Ethernet |
    /// | `malformed`, `misbehaved`, `local` | the peer's message or behaviour is wrong; this end cannot |
    /// | `refused` | the peer answered with another error |
    /// | `closed_here`, `closed_by_peer` | closed on purpose |
    /// | `peer_restarted`, `expired`, `replaced` | the peer began anew; a lifetime was over; another IKE SA has its place |
    /// | `certificate_expired`, `not_reauthenticated` | nobody authenticated anew before a certificate ended, or in the time that was given |
    /// | `wants_childless` | the peer wants an IKE SA without a Child SA first (RFC 6023); it is asked again at once |
    /// | `trust_changed` | identity or keys in the configuration are others than the connection was made with |
    pub fn code(&self) -> &'static str {
        match &self.cause {
            Cause::Command | Cause::Removed => "closed_here",
            Cause::PeerClosed => "closed_by_peer",
            Cause::Unanswered { .. } => "unanswered",
            Cause::Refused { notify, .. } => code_of_notify(*notify),
            Cause::Failed(ike::Error::Malformed(_)) => "malformed",
            Cause::Failed(ike::Error::PeerMisbehaved(_)) => "misbehaved",
            Cause::Failed(ike::Error::Local(_)) => "local",
            Cause::Failed(ike::Error::Incompatible(incompatibility)) => code_of_incompatibility(incompatibility),
            Cause::Replaced | Cause::Redundant => "replaced",
            Cause::PeerCrashed | Cause::PeerRestarted => "peer_restarted",
            Cause::Expired => "expired",
            Cause::CertificateExpired { .. } => "certificate_expired",
            Cause::NotReauthenticated => "not_reauthenticated",
            Cause::Narrowed => "ts_unacceptable",
            Cause::WantsChildless => "wants_childless",
            Cause::TrustChanged => "trust_changed",
        }
    }
}

fn code_of_notify(notify: NotifyType) -> &'static str {
    match notify {
        NotifyType::NO_PROPOSAL_CHOSEN => "no_proposal_chosen",
        NotifyType::INVALID_KE_PAYLOAD => "invalid_ke_payload",
        NotifyType::AUTHENTICATION_FAILED => "authentication_failed",
        NotifyType::TS_UNACCEPTABLE => "ts_unacceptable",
        _ => "refused",
    }
}

fn code_of_incompatibility(incompatibility: &Incompatibility) -> &'static str {
    match incompatibility {
        Incompatibility::IkeProposal(_)
        | Incompatibility::ChildProposal(_)
        | Incompatibility::SuiteNotAllowed(_)
        | Incompatibility::NoIntermediate => "no_proposal_chosen",
        Incompatibility::KeyExchange(_) => "invalid_ke_payload",
        Incompatibility::Selectors | Incompatibility::TooManySelectors => "ts_unacceptable",
        Incompatibility::Mode => "mode",
        Incompatibility::Auth(error) | Incompatibility::AuthOrPpk(error) => error.code(),
        Incompatibility::UnknownPeer | Incompatibility::UnknownAddress => "unknown_peer",
        Incompatibility::Taken(_) => "taken",
        Incompatibility::LongName => "long_name",
        Incompatibility::NotAtItsEnd => "not_at_its_end",
        Incompatibility::OldVersion => "ike_v1",
        Incompatibility::Ppk => "ppk",
        Incompatibility::Refused(notify) => code_of_notify(*notify),
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.peer, self.cause)?;
        self.differences.iter().try_for_each(|line| write!(f, "; {line}"))?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, ". What to do: {}", self.remedy) }
    }
}

/// What both ends offered where they differ, one a line.
pub(super) fn differences(explanation: &Explanation) -> Vec<String> {
    let mut lines: Vec<String> = explanation.record.differences().iter().map(ToString::to_string).collect();
    lines.extend(explanation.record.hint.as_ref().map(|hint| format!("an answer that nothing proves said: {hint}")));
    lines
}

fn hint(explanation: &str) -> String {
    if explanation.is_empty() { String::new() } else { format!(": {explanation}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_peer_the_cause_and_the_remedy() {
        let cause =
            Cause::Refused { exchange: adit_proto::ike::ExchangeType::IKE_AUTH, notify: NotifyType::AUTHENTICATION_FAILED };
        let mut failure = Failure::plain("gw.example.org", cause, "compare the keys");
        assert_eq!(failure.code(), "authentication_failed");
        let said = Error::Negotiation(Box::new(failure.clone())).to_string();
        assert!(said.starts_with("gw.example.org: the peer answered IKE_AUTH with AUTHENTICATION_FAILED"), "{said}");
        assert!(said.ends_with("What to do: compare the keys"), "{said}");
        failure.differences.push("IKE algorithms: we a; they b".to_owned());
        assert!(failure.to_string().contains("; IKE algorithms: we a; they b."), "{failure}");
    }

    #[test]
    fn codes_are_words_that_programs_can_compare() {
        let closed = Error::Closed(Box::new(Failure::plain("b", Cause::PeerClosed, "")));
        assert_eq!((closed.code(), closed.failure().map(Failure::code)), ("closed", Some("closed_by_peer")));
        let errors = [
            Error::settings("psk", "is missing"),
            Error::io("bind", io::Error::from(io::ErrorKind::AddrInUse)),
            Error::Timeout { what: "a rekey", after: Duration::from_secs(1), explanation: String::new() },
            Error::NotConnected,
            Error::TooBig { len: 2000, max: 1400 },
            Error::NotIp("empty"),
            Error::Exhausted,
            closed,
        ];
        let codes: std::collections::BTreeSet<_> = errors.iter().map(Error::code).collect();
        assert_eq!(codes.len(), errors.len());
        assert!(codes.iter().all(|code| code.chars().all(|c| c.is_ascii_lowercase() || c == '_')));
    }
}
