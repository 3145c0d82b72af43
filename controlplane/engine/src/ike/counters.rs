//! What is counted, in total and for each peer.

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
    /// Handshakes that failed, by cause: no answer in time.
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
    liveness_checks,
    /// Peers that said with a token that they had crashed (RFC 6290).
    crashes_detected,
    /// Requests of ours that were sent again.
    retransmissions,
    /// Requests of a peer that came again and were answered again.
    repeated_requests,
    cookies_demanded,
    /// Requests to begin an IKE SA by nobody we know.
    refused_strangers,
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
    /// Dropped: an answer without protection, above the rate.
    dropped_rate,
}
