//! What the gateway and each of its peers are configured to do. Plain values; nothing here acts.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use adit_proto::suite::Suite;

use crate::auth::{LocalAuth, RemoteAuth};
use crate::crypto::{KeyExchangeMethod, Prf, Secret};
use crate::identity::{Identity, Pattern};

use adit_proto::control::Selector;
use adit_proto::ike::IpSelector;
use adit_proto::limits::{IPV6_MTU_MIN, PEERS_MAX, SELECTORS_OF_PEER_MAX};

pub use adit_proto::control::PeerId;

use super::selectors::SelectorPair;
use crate::path::Origin;

/// One moment, on both clocks that IKE needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic: every timer.
    pub instant: Instant,
    /// Seconds since 1970 UTC: the validity of certificates, and records for people.
    pub unix: u64,
}

/// The most that one gateway bears; every table of the engine has its bound here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// IKE SAs that peers began with a cookie and have not authenticated. A quarter of it is kept for addresses where peers are looked for
    /// or have proven themselves before, and each of those has four places of its own, which may come on top; of strangers, one network
    /// (/24 of IPv4, /48 of IPv6) has a quarter of it at most. Those without a cookie come on top, at most `cookie_threshold`.
    pub half_open: usize,
    /// The same, from one address (of strangers, one /64 of IPv6).
    pub half_open_per_address: usize,
    /// With so many half-open IKE SAs, a request has to bring a cookie (RFC 7296 §2.6).
    pub cookie_threshold: usize,
    /// With so many of the same address: anybody can send from a peer's address, but not bring its cookies.
    pub cookie_threshold_per_address: usize,
    /// Established IKE SAs in total. One that replaces another (rekey) always fits, and so does that of a peer with a name of its
    /// own; of those who come under patterns and were connected before, an eighth may come on top.
    pub sessions: usize,
    /// Workers of the data plane, among whom the lanes of a Child SA are dealt. Not zero.
    pub workers: u16,
    /// Answers per second to messages that nothing protects (RFC 7296 §2.21.4), none longer than its question; to strangers, and as many to
    /// known addresses. A sixteenth of it for one network, or one known address; and as many again for who has brought a cookie.
    pub unprotected_replies: u32,
    /// Refused initiators per second that are reported one by one, as [`Event::Refused`](super::event::Event::Refused).
    pub refusals: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            half_open: 4096,
            half_open_per_address: 64,
            cookie_threshold: 128,
            cookie_threshold_per_address: 4,
            sessions: PEERS_MAX.into(),
            workers: 1,
            unprotected_replies: 1000,
            refusals: 3,
        }
    }
}

/// What one peer may have of the tables that all peers share, over all of its IKE SAs: reserved for it, and no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// SAs in the table of each worker, in every state: to receive by, and one to send by for each lane of a Child SA. At least 4,
    /// so that one that is used can be rekeyed and authenticated anew.
    pub sas: usize,
    /// Pairs of a local and a remote selector in the policy table, over all of its Child SAs.
    pub selectors: usize,
}

impl Default for Share {
    fn default() -> Share {
        Share { sas: 192, selectors: SELECTORS_OF_PEER_MAX }
    }
}

/// How often an unanswered request is sent (RFC 7296 §2.4: the interval grows exponentially).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retransmission {
    /// Time before the first repetition.
    pub first: Duration,
    /// Longest time between two repetitions.
    pub max: Duration,
    /// Repetitions before the peer counts as gone.
    pub tries: u32,
}

impl Default for Retransmission {
    /// 0.5, 1, 2, 4, 8, 8, … seconds: the peer counts as gone after about 48 s.
    fn default() -> Retransmission {
        Retransmission { first: Duration::from_millis(500), max: Duration::from_secs(8), tries: 8 }
    }
}

/// What concerns the gateway as a whole.
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    pub limits: Limits,
    pub retransmission: Retransmission,
    /// Largest IP packet of an IKE message, in bytes; what is longer is sent as fragments (RFC 7383 §2.5.1). Less, where less is
    /// known of the way.
    pub datagram_max: u16,
    /// Our port for IKE and ESP in UDP. A peer met on port 500 is asked to come here (RFC 7296 §2.23).
    pub nat_port: u16,
    /// Secrets of the tokens of quick crash detection (RFC 6290 §5.1), the current one first, at most four. They
    /// outlive the process. Empty: no tokens are made; those of peers are still taken.
    pub crash_secrets: Vec<Secret>,
    /// Whether the data plane answers sealed echoes. Said to peers that are Adit.
    pub echo: bool,
    /// Whether the data plane takes what is too long for a path in two packets, and sends so where the peer does. Said to peers that are
    /// Adit.
    pub split: bool,
    /// Whether the keys of every SA are told in events, for a protocol analyser. Never in production.
    pub key_log: bool,
}

impl Default for EndpointConfig {
    fn default() -> EndpointConfig {
        EndpointConfig {
            limits: Limits::default(),
            retransmission: Retransmission::default(),
            datagram_max: IPV6_MTU_MIN,
            nat_port: 4500,
            crash_secrets: Vec::new(),
            echo: false,
            split: false,
            key_log: false,
        }
    }
}

/// One alternative for an IKE SA: any of the suites with any of the functions and any of the methods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IkeProposal {
    pub suites: Vec<Suite>,
    pub prfs: Vec<Prf>,
    /// The first key exchange; the first of them is tried first.
    pub key_exchanges: Vec<KeyExchangeMethod>,
    /// Further key exchanges, one list for each (RFC 9370), at most seven. `None` in a list makes it optional.
    pub additional: Vec<Vec<Option<KeyExchangeMethod>>>,
}

/// Which sequence numbers ESP may have (RFC 7296 §3.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EsnPolicy {
    /// 64 bits if the peer agrees.
    Prefer,
    Require,
    Never,
}

/// One alternative for a Child SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildProposal {
    pub suites: Vec<Suite>,
    /// Key exchange of its own on creation after the first and on rekey; empty: keys from the IKE SA alone.
    pub key_exchanges: Vec<KeyExchangeMethod>,
    pub additional: Vec<Vec<Option<KeyExchangeMethod>>>,
    pub esn: EsnPolicy,
}

/// What a Child SA carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Ethernet frames in EtherIP, between Adit gateways.
    Ethernet,
    /// IP packets, in tunnel mode.
    #[default]
    Tunnel,
}

/// When an SA is replaced and when it ends. Zero means no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Age at which it is replaced.
    pub rekey_after: Duration,
    /// Bytes at which it is replaced. Not for IKE SAs, as is the next.
    pub rekey_bytes: u64,
    /// Packets at which it is replaced.
    pub rekey_packets: u64,
    /// The hard limits, in percent of those above: reached, the SA ends whether it was replaced or not.
    pub hard_percent: u32,
    /// The soft limits come earlier by a random part of up to this many percent (RFC 7296 §2.8.1).
    pub jitter_percent: u32,
}

impl Lifetime {
    /// One hour; 2³⁶ packets, far below what a suite may seal under one key.
    pub const CHILD: Lifetime = Lifetime {
        rekey_after: Duration::from_secs(3600),
        rekey_bytes: 0,
        rekey_packets: 1 << 36,
        hard_percent: 120,
        jitter_percent: 10,
    };
    /// Four hours.
    pub const IKE: Lifetime = Lifetime {
        rekey_after: Duration::from_secs(4 * 3600),
        rekey_bytes: 0,
        rekey_packets: 0,
        hard_percent: 120,
        jitter_percent: 10,
    };
}

/// A Child SA that is wanted with a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildConfig {
    /// For people, and for commands.
    pub name: String,
    pub mode: Mode,
    pub proposals: Vec<ChildProposal>,
    /// Our side of the traffic. In Ethernet mode ignored.
    pub local: Vec<IpSelector>,
    /// The peer's side of it.
    pub remote: Vec<IpSelector>,
    /// Which of both sides are wanted together: as many Child SAs are made as it takes to have something of each. Empty: one Child
    /// SA, with what the peer grants of both sides.
    pub pairs: Vec<Selector>,
    pub lifetime: Lifetime,
    /// SAs with the same selectors, one for each worker, with a peer that is Adit, too (RFC 9611). At least 1.
    pub lanes: u8,
}

impl ChildConfig {
    /// The selectors of both sides.
    pub(super) fn policy(&self) -> SelectorPair {
        match self.mode {
            Mode::Ethernet => SelectorPair::ethernet(),
            Mode::Tunnel => SelectorPair { local: self.local.clone(), remote: self.remote.clone() },
        }
    }
}

/// A post-quantum pre-shared key (RFC 8784).
#[derive(Clone, Debug)]
pub struct Ppk {
    /// PPK_ID of type PPK_ID_FIXED (RFC 8784 §5.1).
    pub id: Vec<u8>,
    pub key: Secret,
    /// Whether a peer without it is refused.
    pub mandatory: bool,
}

/// Waiting times between attempts to reach a peer: each twice the one before, plus or minus a quarter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    pub first: Duration,
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff { first: Duration::from_secs(1), max: Duration::from_secs(60) }
    }
}

/// Everything about one peer.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// For people.
    pub name: String,
    /// Whether we go to the peer, and go again when it is lost, until told otherwise.
    pub initiate: bool,
    /// Whether the peer may come to us.
    pub respond: bool,
    /// Where we send from; the address is what a NAT is detected against (RFC 7296 §2.23).
    pub local: Option<SocketAddr>,
    /// Where we look for the peer, the first one first; none: it comes to us. The scope of a link-local address is the index of its
    /// interface.
    pub remotes: Vec<SocketAddr>,
    /// More addresses may follow by [`Endpoint::set_remotes`](super::Endpoint::set_remotes): names are being looked up.
    pub awaits_remotes: bool,
    /// It may be in a stream and come in one, whatever its addresses: this gateway is at a relay.
    pub in_streams: bool,
    /// From where it may come to us and move to, beside that.
    pub from: Origin,
    pub local_id: Identity,
    pub remote_id: Pattern,
    pub local_auth: LocalAuth,
    pub remote_auth: RemoteAuth,
    pub proposals: Vec<IkeProposal>,
    /// The first is made with the IKE SA, the others, and what the peer left out of the first, after it.
    pub children: Vec<ChildConfig>,
    pub ike_lifetime: Lifetime,
    /// After this time both ends authenticate anew, as initiator we see to it, as responder we say so and insist (RFC 4478); zero:
    /// only before a certificate ends.
    pub reauth_after: Duration,
    pub ppk: Option<Ppk>,
    /// Silence after which the peer is probed (dead peer detection, DPD); zero: never.
    pub dpd: Duration,
    /// Interval of NAT keepalives where a NAT is on our side (RFC 3948 §4); zero: none.
    pub keepalive: Duration,
    /// Claims a NAT where there is none, so that ESP goes in UDP.
    pub force_encapsulation: bool,
    /// Offers to move the SAs to other addresses (RFC 4555).
    pub mobike: bool,
    pub backoff: Backoff,
    pub share: Share,
}
