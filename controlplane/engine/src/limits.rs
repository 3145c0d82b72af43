//! How much of everything there may be in the engine, each limit once. What an operator may want to change is in
//! [`Limits`](crate::ike::Limits), what both planes stand on in `adit_proto::limits`; how long something takes or waits stands where it
//! is used.

use adit_proto::limits::{CHILDREN_OF_PEER_MAX, IKE_MESSAGE_LEN_MAX, PATHS_MAX};

// What is read and kept of one message.

/// Longest message that is put together from fragments, in bytes of inner payloads.
pub(crate) const WHOLE_LEN_MAX: usize = IKE_MESSAGE_LEN_MAX;
/// The same before the peer is authenticated: eight certificates and what comes with them.
pub(crate) const UNPROVEN_LEN_MAX: usize = 32 << 10;
/// Bytes of fragments that are kept for all IKE SAs whose peer is not authenticated, with what it takes to keep them. The allocator may
/// double it.
pub(crate) const UNPROVEN_FRAGMENTS_MAX: usize = 8 << 20;
/// What it takes to keep one fragment or one datagram, in bytes.
pub(crate) const FRAGMENT_COST: usize = 128;
/// Longest IKE_SA_INIT request, in bytes: it is kept until the peer is authenticated, and cannot be fragmented.
pub(crate) const REQUEST_LEN_MAX: usize = 4096;
/// CERTREQ payloads of a peer that are looked at.
pub(crate) const CERT_REQUESTS_READ_MAX: usize = 8;
/// Tokens of one IKE SA that are kept, and looked at in one message (RFC 6290 §4.5: at least four).
pub(crate) const TOKENS_MAX: usize = 4;
/// Addresses that a peer says it has (RFC 4555 §3.4) that are remembered.
pub(crate) const ADDRESSES_NAMED_MAX: usize = 8;
/// Candidates of one gateway: addresses at which it can perhaps be reached by UDP.
pub const CANDIDATE_ADDRESSES_MAX: usize = 12;
/// Addresses of ours that a peer is told.
pub(crate) const OWN_ADDRESSES_MAX: usize = 8;
/// Longest cookie of a responder, in bytes (RFC 7296 §2.6).
pub(crate) const COOKIE_LEN_MAX: usize = 64;
/// Certificates of a peer that are looked at: a chain has two or three.
pub(crate) const CERTIFICATES_MAX: usize = 8;
/// What trying keys may cost where nobody says which has signed, in units of some twenty microseconds; and sets of CAs of one name up to
/// which one chain is followed. Nothing is known of who asks at that time.
pub(crate) const KEYS_COST_MAX: u32 = 36;
pub(crate) const CA_SETS_TRIED_MAX: usize = 2;
/// Longest identity that is accepted, in bytes. It goes into logs and answers, and no name in use comes near.
pub(crate) const IDENTITY_LEN_MAX: usize = 1024;
/// Longest text of one: what does not show takes a few characters for each byte.
pub(crate) const IDENTITY_TEXT_LEN_MAX: usize = 4 * IDENTITY_LEN_MAX;

/// Longest packet in a stream, in bytes as a packet of IPv4: what other ways carry, so that going over to one of them shortens nothing.
pub(crate) const STREAM_PACKET: u16 = 1500;

// What one negotiation may cost.

/// Cookies that a responder may ask for in one negotiation.
pub(crate) const COOKIES_MAX: u32 = 4;
/// Most additional key exchanges (RFC 9370 §2.2.1).
pub(crate) const ADDITIONAL_MAX: usize = 7;
/// CERTREQ payloads that we send. They go into IKE_SA_INIT, which cannot be fragmented (RFC 7383 §2.2).
pub(crate) const CERT_REQUESTS_SENT_MAX: usize = 4;
/// Most configured peers that are tried for one identity: each may cost a signature check.
pub(crate) const CANDIDATES_MAX: usize = 8;
/// Most messages that one key seals. An IKE SA is replaced long before; the limit keeps numbers that begin at random places,
/// one for every life of the process, far from each other's.
pub(crate) const SEALED_MAX: u64 = 1 << 32;

// What it may cost to find out what of a configured pair of selectors is carried: the peer decides how it is narrowed.

/// Most regions of one pair that are looked at, and most pieces of what is left of it.
pub(crate) const REGIONS_MAX: usize = 256;
pub(crate) const PIECES_MAX: usize = 512;
/// Most pieces that are cut for all pairs of a configured child: a millisecond.
pub(crate) const CUTS_MAX: usize = 128 * 1024;

/// How much may be had in a second by those of one origin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    /// From one address (a /64 of IPv6, or one address of it that is known).
    pub of_address: u32,
    /// From all addresses of one network that have come lately (a /24 of IPv4, a /48 of IPv6), without those that are known.
    pub of_network: u32,
}

/// Proofs that may be wrong.
pub(crate) const FAILURES: Rates = Rates { of_address: 4, of_network: 16 };
/// Handshakes of clients of patterns that have one preshared key together: who has that has as many names as he likes.
pub(crate) const CLIENTS: Rates = Rates { of_address: 256, of_network: 512 };
/// Addresses, networks and clients of which that is remembered.
pub(crate) const ORIGINS_MAX: usize = 4096;

// How often an answer is sent again.

/// To the address that asked: an honest initiator asks nine times (see `Retransmission`), and others less often.
pub(crate) const REPEATS_MAX: u32 = 10;
/// Elsewhere, where a peer that has moved before it had its answer asks once more, and cannot ask for anything else until it has
/// it (RFC 4555 §3.5). Each fragment of a request counts. A rekey with ML-KEM has two; it asks twice, since no more is answered
/// there than came from there; and one such round may be lost.
pub(crate) const REPEATS_ELSEWHERE_MAX: u32 = 8;

// What one peer may have.

/// Child SAs of a peer beyond four for each lane: peers that are not Adit may have one for each pair of networks.
pub(crate) const CHILDREN_SPARE: usize = 12;
/// So many lanes a peer may have in any case, and four times as many as we have.
pub(crate) const PEER_LANES_MIN: u8 = 8;
/// IKE SAs that a peer, or one client of a pattern, may begin in a second, and as many at once.
pub(crate) const HANDSHAKES_PER_SECOND: u32 = 8;
/// Key exchanges that a peer may have made in a second, over all of its IKE SAs: those of IKE SAs and Child SAs that it makes or rekeys,
/// with those in IKE_FOLLOWUP_KE.
pub(crate) const KEY_EXCHANGES_PER_SECOND: u32 = 64;
/// The same at once: all Child SAs that a peer may have, rekeyed together with two key exchanges each.
pub(crate) const KEY_EXCHANGES_AT_ONCE: u32 = 2 * CHILDREN_OF_PEER_MAX as u32;
/// Places that one request is sent to at most.
pub(crate) const HOPS_MAX: usize = 2 * PATHS_MAX;
/// Other addresses that one repetition of a request goes to.
pub(crate) const ELSEWHERE_MAX: usize = 6;

/// Requests for a proof of a path in a second: to all peers, and to one of them.
pub(crate) const PROOFS_PER_SECOND: u32 = 200;
pub(crate) const PROOFS_OF_PEER_PER_SECOND: u32 = 4;
/// Addresses that are looked up for one peer in a second.
pub(crate) const LOOKS_OF_PEER_PER_SECOND: u32 = 16;
/// Paths of one peer that wait for a proof.
pub(crate) const UNPROVEN_PATHS_MAX: usize = 3;
/// Echoes of one path that wait for an answer.
pub(crate) const ECHOES_PENDING_MAX: usize = 16;
/// Echoes of one path that wait to be counted as answered or as lost.
pub(crate) const ECHOES_UNJUDGED_MAX: usize = 32;
/// At an address that is not proven no answer waits until a request of more bytes can go there.
pub(crate) const KEPT_FOR_REQUEST_MAX: u32 = 600;
/// Addresses from which a peer has proven itself that are remembered.
pub(crate) const PROVEN_ADDRESSES_MAX: usize = 2;
/// Routes that are looked up in one turn, about: a look-up takes some ten microseconds.
pub(crate) const LOOKS_PER_TURN: usize = 64;

/// Who has left and comes back finds this part of all places for sessions on top of them.
pub(crate) const RETURNING_SHARE: usize = 8;

// What is remembered of those who are not let in.

/// Unauthenticated initiators that are remembered for `explain`.
pub(crate) const REFUSALS_MAX: usize = 64;
/// Addresses at which it is remembered whose proposals go first.
pub(crate) const REMEMBERED_MAX: usize = 64;
/// Networks whose unprotected answers are counted at a time: more than get one in a second.
pub(crate) const ANSWERED_NETWORKS_MAX: usize = 1024;
/// Identities that an unauthenticated initiator's is compared with, for people.
pub(crate) const IDENTITIES_MAX: usize = 8;
/// Proposals of a peer that are kept, for people.
pub(crate) const PROPOSALS_SHOWN_MAX: usize = 12;

// STUN and TURN.

/// Longest STUN message: its length and those of its attributes have 16 bits and are multiples of four.
pub(crate) const STUN_LEN_MAX: usize = 65_532;
/// Attributes of one message that are looked at: a question for many permissions has one for each.
pub(crate) const STUN_ATTRIBUTES_MAX: usize = 64;
/// Attributes that are named to who asked with ones that we do not know.
pub(crate) const STUN_UNKNOWN_MAX: usize = 8;
/// Networks of strangers that are remembered, of some seventy bytes each.
pub(crate) const STRANGERS_MAX: usize = 4096;
/// Answers that a network of strangers gets in a second.
pub(crate) const STRANGER_ANSWERS: u32 = 4;
/// The same on an open server, where one search asks some thirty questions in half a second.
pub(crate) const OPEN_ANSWERS: u32 = 64;
/// Answers of STUN that a client with a key gets in a second.
pub(crate) const STUN_CLIENT_ANSWERS: u32 = 64;
/// Clients of STUN whose rates are told apart.
pub(crate) const STUN_CLIENTS_MAX: usize = 4096;
/// Lowest port to which an answer may be sent that did not ask from there: below are services.
pub(crate) const RESPONSE_PORT_MIN: u16 = 1024;
/// Bytes that a network sent without being answered and that count for its next answer: the longest that strangers get is a 401.
pub(crate) const STRANGER_CREDIT_MAX: usize = 512;
/// Longest user name of TURN, in bytes (RFC 8489 §14.3).
pub(crate) const TURN_NAME_LEN_MAX: usize = 508;
/// Addresses that an allocation lets in at a time.
pub(crate) const TURN_PERMISSIONS_MAX: usize = 128;
/// Channels of an allocation, those that rest included.
pub(crate) const TURN_CHANNELS_MAX: usize = 128;
/// Allocations of one identity, and of all, unless the configuration says otherwise.
pub(crate) const TURN_OF_IDENTITY_MAX: usize = 8;
pub(crate) const TURN_TOTAL_MAX: usize = 4096;
/// Bytes in a second, both directions together, of one identity and of all, unless the configuration says otherwise.
pub(crate) const TURN_BYTES_OF_IDENTITY: u32 = 64 << 20;
pub(crate) const TURN_BYTES_OF_ALL: u32 = 2 << 30;
/// Questions of one network in a second whose credentials are computed, of those who have shown with a nonce that they are there.
pub(crate) const TURN_CHECKS_OF_NETWORK: u32 = 256;
/// Questions of all in a second whose credentials are computed although their nonce is old, and the longest of them in bytes: some
/// thousandths of a processor.
pub(crate) const TURN_STALE_CHECKS: u32 = 2000;
pub(crate) const TURN_STALE_LEN_MAX: usize = 1024;
/// Ports that are tried for one allocation before it is refused.
pub(crate) const TURN_PORTS_TRIED_MAX: usize = 16;
/// Longest train, in bytes and in datagrams: what the kernel sends at once with UDP_SEGMENT (before Linux 6.10 no more than 64).
pub(crate) const TURN_TRAIN_LEN_MAX: usize = 65_507;
pub(crate) const TURN_TRAIN_SEGMENTS_MAX: usize = 64;

// What is found out about the NAT before us.

/// STUN servers that are asked again and again how the port of the data is seen.
pub(crate) const REFLEXIVE_SERVERS_MAX: usize = 4;

/// Servers that are asked.
pub const STUN_SERVERS_MAX: usize = 8;
/// Bytes of an answer over TCP that are looked at: the head of one of HTTP.
pub const TCP_ANSWER_MAX: usize = 1024;
/// Longest name of a host in one of them that is shown, in bytes (RFC 1035 §2.3.4).
pub(crate) const HOST_SHOWN_MAX: usize = 253;
/// Most ports between those of two sockets where there is a rule, and how many times the shortest such distance the longest may be.
pub(crate) const STEP_MAX: i32 = 64;
pub(crate) const STEP_GAPS_MAX: i32 = 4;

// What people are shown, and what they write.

/// Characters that are kept of a text, before those that do not show are written in another way.
pub const SHOWN_LEN_MAX: usize = 400;
/// Items that are kept of a list.
pub(crate) const SHOWN_ITEMS_MAX: usize = 8;
/// Parts of a pair of selectors that are listed.
pub(crate) const PARTS_LISTED_MAX: usize = 8;
/// Longest word of which it is looked for what was meant, in bytes.
pub(crate) const WORD_LEN_MAX: usize = 80;

// Bounds that only a fault would reach.

/// How often in one call something may follow at once from what was due.
pub(crate) const ROUNDS_MAX: u32 = 8;
/// Most items of any list in a snapshot: a bound for damaged bytes.
pub(crate) const ITEMS_MAX: u32 = 1 << 20;
