//! How much of everything there may be in IKE, each limit once. What an operator may want to change is in [`Limits`](super::config::Limits),
//! what both planes stand on in `adit_proto::limits`; how long something takes or waits stands where it is used.

use adit_proto::limits::CHILDREN_OF_PEER_MAX;

use crate::path::PATHS_MAX;

// What is read and kept of one message.

/// Longest message that is put together from fragments, in bytes of inner payloads.
pub(super) const MESSAGE_LEN_MAX: usize = 65_535;
/// The same before the peer is authenticated: eight certificates and what comes with them.
pub(super) const UNPROVEN_LEN_MAX: usize = 32 << 10;
/// Bytes of fragments that are kept for all IKE SAs whose peer is not authenticated, with what it takes to keep them. The allocator may
/// double it.
pub(super) const UNPROVEN_FRAGMENTS_MAX: usize = 8 << 20;
/// What it takes to keep one fragment or one datagram, in bytes.
pub(super) const FRAGMENT_COST: usize = 128;
/// Longest IKE_SA_INIT request, in bytes: it is kept until the peer is authenticated, and cannot be fragmented.
pub(super) const REQUEST_LEN_MAX: usize = 4096;
/// CERTREQ payloads of a peer that are looked at.
pub(super) const CERT_REQUESTS_MAX: usize = 8;
/// Tokens of one IKE SA that are kept, and looked at in one message (RFC 6290 §4.5: at least four).
pub(super) const TOKENS_MAX: usize = 4;
/// Most addresses of a peer that are remembered.
pub(super) const ADDRESSES_MAX: usize = 8;

// What one negotiation may cost.

/// Cookies that a responder may ask for in one negotiation.
pub(super) const COOKIES_MAX: u32 = 4;
/// Most additional key exchanges (RFC 9370 §2.2.1).
pub(super) const ADDITIONAL_MAX: usize = 7;
/// CERTREQ payloads that we send. They go into IKE_SA_INIT, which cannot be fragmented (RFC 7383 §2.2).
pub(super) const CERTIFICATE_REQUESTS_MAX: usize = 4;
/// Most configured peers that are tried for one identity: each may cost a signature check.
pub(super) const CANDIDATES_MAX: usize = 8;

/// How much may be had in a second by those of one origin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    /// From one address (a /64 of IPv6, or one address of it that is known).
    pub of_address: u32,
    /// From all addresses of one network that have come lately (a /24 of IPv4, a /48 of IPv6), without those that are known.
    pub of_network: u32,
}

/// Proofs that may be wrong.
pub(super) const FAILURES: Rates = Rates { of_address: 4, of_network: 16 };
/// Handshakes of clients of patterns that have one preshared key together: who has that has as many names as he likes.
pub(super) const CLIENTS: Rates = Rates { of_address: 256, of_network: 512 };
/// Addresses, networks and clients of which that is remembered.
pub(super) const ORIGINS_MAX: usize = 4096;

// How often an answer is sent again.

/// To the address that asked: an honest initiator asks nine times (see `Retransmission`), and others less often.
pub(super) const REPEATS_MAX: u32 = 10;
/// Elsewhere, where a peer that moves asks once more: for each of its paths a few times.
pub(super) const REPEATS_ELSEWHERE_MAX: u32 = 32;

// What one peer may have.

/// Child SAs of a peer beyond four for each lane: peers that are not Adit may have one for each pair of networks.
pub(super) const CHILDREN_SPARE: usize = 12;
/// So many lanes a peer may have in any case, and four times as many as we have.
pub(super) const PEER_LANES_MIN: u8 = 8;
/// IKE SAs that a peer, or one client of a pattern, may begin in a second, and as many at once.
pub(super) const HANDSHAKES_PER_SECOND: u32 = 8;
/// Key exchanges that a peer may have made in a second, over all of its IKE SAs: those of IKE SAs and Child SAs that it makes or rekeys,
/// with those in IKE_FOLLOWUP_KE.
pub(super) const KEY_EXCHANGES_PER_SECOND: u32 = 64;
/// The same at once: all Child SAs that a peer may have, rekeyed together with two key exchanges each.
pub(super) const KEY_EXCHANGES_AT_ONCE: u32 = 2 * CHILDREN_OF_PEER_MAX as u32;
/// Places that one request is sent to at most.
pub(super) const HOPS_MAX: usize = 2 * PATHS_MAX;
/// Other addresses that one repetition of a request goes to.
pub(super) const ELSEWHERE_MAX: usize = 6;

/// Who has left and comes back finds this part of all places for sessions on top of them.
pub(super) const RETURNING_SHARE: usize = 8;

// What is remembered of those who are not let in.

/// Unauthenticated initiators that are remembered for `explain`.
pub(super) const REFUSALS_MAX: usize = 64;
/// Addresses at which it is remembered whose proposals go first.
pub(super) const REMEMBERED_MAX: usize = 64;
/// Networks whose unprotected answers are counted at a time: more than get one in a second.
pub(super) const NETWORKS_MAX: usize = 1024;
/// Identities that an unauthenticated initiator's is compared with, for people.
pub(super) const IDENTITIES_MAX: usize = 8;
/// Proposals of a peer that are kept.
pub(super) const PROPOSALS_MAX: usize = 12;

// Bounds that only a fault would reach.

/// How often in one call something may follow at once from what was due.
pub(super) const ROUNDS_MAX: u32 = 8;
/// Most items of any list in a snapshot: a bound for damaged bytes.
pub(super) const ITEMS_MAX: u32 = 1 << 20;
