//! What is counted, in total and for each peer.

use adit_proto::ike::NotifyType;

use super::cause::Cause;
use super::error::{Error, Incompatibility};

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// Counts since the engine began.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl Counters {
            /// Every counter with its name.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field),)*].into_iter()
            }
        }
    };
}

counters! {
    /// IKE SAs that were authenticated, by whomever begun.
    handshakes,
    /// Handshakes and Child SAs that failed, by cause: no answer in time.
    failed_unanswered,
    /// No proposal in common.
    failed_proposal,
    /// Secret, signature, certificate or identity.
    failed_authentication,
    /// No traffic selectors in common.
    failed_selectors,
    /// Refused by the peer with an error.
    failed_refused,
    /// Anything else.
    failed_other,
    ike_rekeys,
    child_rekeys,
    children_created,
    /// Child SAs that the data plane refused or lost.
    children_lost,
    /// IKE SAs given up because the peer did not answer.
    dead_peers,
    /// Liveness checks that were sent.
    dpd_requests,
    /// Peers that said with a token that they had crashed (RFC 6290).
    crashes_detected,
    /// Requests of ours that were sent again.
    retransmissions,
    /// Requests of a peer that came again and were answered again.
    repeated_requests,
    cookies_demanded,
    /// Initiators that were told to come again with another key exchange (INVALID_KE_PAYLOAD, RFC 7296 §1.2).
    key_exchanges_demanded,
    /// Requests of a peer for an SA or new keys that were told to wait (TEMPORARY_FAILURE, RFC 7296 §2.25): more of them than one may have.
    key_exchanges_postponed,
    /// Half-open IKE SAs of strangers, of the network that had most of them, given up for one of a network that has fewer.
    half_open_gave_way,
    /// Refused without it being clear which peer it would be, by cause: no proposal in common.
    refused_proposal,
    /// Secret, signature, certificate or identity.
    refused_authentication,
    /// Anything else.
    refused_other,
    /// Dropped: not a message of IKEv2.
    dropped_malformed,
    /// Dropped: of an IKE SA that does not exist.
    dropped_unknown_spi,
    /// Dropped: the tag is wrong.
    dropped_bad_tag,
    /// Dropped: a message id outside the window, or a response that nobody waits for.
    dropped_outside_window,
    /// Dropped: a fragment that was there already, or of an abandoned set.
    dropped_fragment_replay,
    /// Dropped: in the clear where it has to be encrypted.
    dropped_unprotected,
    /// Dropped: an exchange that does not belong there.
    dropped_out_of_place,
    /// Dropped: a limit of half-open IKE SAs or of sessions is reached.
    dropped_limit,
    /// Dropped: an answer without protection, a proof from where others have just failed, or a peer's request, above the rate.
    dropped_rate,
    /// Dropped: what nothing protects, shorter than its answer would be.
    dropped_short,
    /// Dropped: a repeated request that was answered often enough, or came from elsewhere.
    dropped_repeat,
}

/// What a failure is counted as.
enum Class {
    Unanswered,
    Proposal,
    Authentication,
    Selectors,
    Refused,
    Other,
}

fn class(cause: &Cause) -> Class {
    match cause {
        Cause::Unanswered { .. } => Class::Unanswered,
        Cause::Refused { notify, .. } => class_of_refusal(*notify),
        Cause::Failed(Error::Incompatible(incompatibility)) => match incompatibility {
            Incompatibility::IkeProposal(_)
            | Incompatibility::ChildProposal(_)
            | Incompatibility::KeyExchange(_)
            | Incompatibility::SuiteNotAllowed(_)
            | Incompatibility::NoIntermediate => Class::Proposal,
            Incompatibility::Selectors | Incompatibility::TooManySelectors | Incompatibility::Mode => Class::Selectors,
            Incompatibility::Auth(_)
            | Incompatibility::AuthOrPpk(_)
            | Incompatibility::UnknownPeer
            | Incompatibility::Taken(_)
            | Incompatibility::LongName
            | Incompatibility::NotAtItsEnd
            | Incompatibility::UnknownAddress
            | Incompatibility::Ppk => Class::Authentication,
            Incompatibility::OldVersion => Class::Other,
            Incompatibility::Refused(notify) => class_of_refusal(*notify),
        },
        Cause::CertificateExpired { .. } => Class::Authentication,
        Cause::Failed(_)
        | Cause::Command
        | Cause::PeerClosed
        | Cause::Replaced
        | Cause::Redundant
        | Cause::PeerCrashed
        | Cause::PeerRestarted
        | Cause::Expired
        | Cause::Narrowed
        | Cause::WantsChildless
        | Cause::NotReauthenticated
        | Cause::Removed
        | Cause::TrustChanged => Class::Other,
    }
}

fn class_of_refusal(notify: NotifyType) -> Class {
    match notify {
        NotifyType::NO_PROPOSAL_CHOSEN | NotifyType::INVALID_KE_PAYLOAD => Class::Proposal,
        NotifyType::AUTHENTICATION_FAILED => Class::Authentication,
        NotifyType::TS_UNACCEPTABLE => Class::Selectors,
        _ => Class::Refused,
    }
}

impl Counters {
    /// Counts a failure with a peer by its cause.
    pub(super) fn failed(&mut self, cause: &Cause) {
        *match class(cause) {
            Class::Unanswered => &mut self.failed_unanswered,
            Class::Proposal => &mut self.failed_proposal,
            Class::Authentication => &mut self.failed_authentication,
            Class::Selectors => &mut self.failed_selectors,
            Class::Refused => &mut self.failed_refused,
            Class::Other => &mut self.failed_other,
        } += 1;
    }

    /// Counts one that was refused before it was clear which peer it would be.
    pub(super) fn refused(&mut self, why: &Error) {
        *match class(&Cause::Failed(why.clone())) {
            Class::Proposal => &mut self.refused_proposal,
            Class::Authentication => &mut self.refused_authentication,
            Class::Unanswered | Class::Selectors | Class::Refused | Class::Other => &mut self.refused_other,
        } += 1;
    }
}

#[cfg(test)]
mod tests {
    use adit_proto::ike::ExchangeType;

    use super::*;
    use crate::auth::AuthError;
    use crate::ike::error::LocalFault;

    /// Of failures that were counted: which counters, each once.
    fn counted(count: impl FnOnce(&mut Counters)) -> Vec<&'static str> {
        let mut counters = Counters::default();
        count(&mut counters);
        counters.iter().filter(|(_, times)| *times == 1).map(|(name, _)| name).collect()
    }

    #[test]
    fn each_failure_counts_once_and_by_its_kind() {
        let refused = |notify| Cause::Refused { exchange: ExchangeType::IKE_AUTH, notify };
        let reported = |notify| Cause::Failed(Incompatibility::Refused(notify).into());
        let failed = |why: Incompatibility| Cause::Failed(why.into());
        let cases = [
            (Cause::Unanswered { exchange: ExchangeType::IKE_AUTH, times: 1 }, "failed_unanswered", "refused_other"),
            (refused(NotifyType::NO_PROPOSAL_CHOSEN), "failed_proposal", "refused_proposal"),
            (reported(NotifyType::INVALID_KE_PAYLOAD), "failed_proposal", "refused_proposal"),
            (failed(Incompatibility::NoIntermediate), "failed_proposal", "refused_proposal"),
            (refused(NotifyType::AUTHENTICATION_FAILED), "failed_authentication", "refused_authentication"),
            (failed(Incompatibility::Auth(AuthError::NoCertificate)), "failed_authentication", "refused_authentication"),
            (failed(Incompatibility::UnknownPeer), "failed_authentication", "refused_authentication"),
            (refused(NotifyType::TS_UNACCEPTABLE), "failed_selectors", "refused_other"),
            (failed(Incompatibility::Mode), "failed_selectors", "refused_other"),
            (reported(NotifyType::TEMPORARY_FAILURE), "failed_refused", "refused_other"),
            (Cause::Failed(LocalFault::Sessions.into()), "failed_other", "refused_other"),
            (Cause::PeerClosed, "failed_other", "refused_other"),
        ];
        for (cause, failed, refused) in cases {
            assert_eq!(counted(|counters| counters.failed(&cause)), [failed], "{cause}");
            if let Cause::Failed(why) = &cause {
                assert_eq!(counted(|counters| counters.refused(why)), [refused], "{cause}");
            }
        }
    }
}
