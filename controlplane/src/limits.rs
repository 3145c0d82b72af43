//! How much of everything there may be in the control plane, each limit once. What both planes stand on is in `adit_proto::limits`,
//! what the engine bears in its own file of this name; how long something takes or waits stands where it is used.

use adit_proto::limits::{CHILDREN_OF_PEER_MAX, IPV6_MTU_MIN, PATHS_MAX, SELECTORS_OF_TABLE_MAX};

// The files that are read.

/// Longest configuration file, in bytes: [`PEERS_MAX`] peers with ten lines each.
pub(crate) const CONFIG_BYTES_MAX: u64 = 16 << 20;
/// Most nodes of it, aliases written out: a small file must not unfold into a large one.
pub(crate) const CONFIG_NODES_MAX: usize = 2_000_000;
/// Deepest nesting of it. The configuration itself has six levels.
pub(crate) const CONFIG_DEPTH_MAX: usize = 32;
/// Longest file with a key, a secret or certificates, in bytes: a chain of certificates, or a bundle of CAs.
pub(crate) const KEY_FILE_BYTES_MAX: u64 = 256 << 10;
/// Longest file with a static key, in bytes.
pub(crate) const STATIC_KEY_BYTES_MAX: u64 = 4096;

// What can be configured.

/// Most peers of a gateway.
pub(crate) const PEERS_MAX: usize = adit_proto::limits::PEERS_MAX as usize;
/// Longest name of a gateway or a peer, in characters.
pub(crate) const NAME_LEN_MAX: usize = 64;
/// Longest name of a host, and of a part of it, in bytes (RFC 1035 §2.3.4).
pub(crate) const HOST_LEN_MAX: usize = 253;
pub(crate) const LABEL_LEN_MAX: usize = 63;
/// Longest name of an interface, in bytes (IFNAMSIZ without the final zero).
pub(crate) const INTERFACE_LEN_MAX: usize = 15;
/// Longest path of a Unix socket, in bytes (sockaddr_un without the final zero).
pub(crate) const SOCKET_PATH_MAX: usize = 107;
/// Workers when the file does not say: more than four rarely help one pair of gateways.
pub(crate) const WORKERS_DEFAULT_MAX: usize = 4;
/// SAs to receive by that a worker must have room for with a peer that agrees on them by IKE: one in each state of a rekey.
pub(crate) const CHILDREN_MIN: u16 = 3;
/// Smallest MTU that IPv6 works with, in bytes, and that is still worth a tunnel.
pub(crate) const INNER_MTU_MIN: u64 = IPV6_MTU_MIN as u64;
/// Smallest MTU outside, in bytes: tunnels in tunnels come down to it.
pub(crate) const UNDERLAY_MTU_MIN: u64 = 1124;
/// Most STUN servers.
pub(crate) const STUN_SERVERS_MAX: usize = adit_engine::stun::discovery::STUN_SERVERS_MAX;
/// Most endpoints of a peer.
pub(crate) const ENDPOINTS_MAX: usize = PATHS_MAX;
/// Most networks from which a peer may come.
pub(crate) const ORIGIN_NETWORKS_MAX: usize = 64;
/// Most selectors of all peers: half of what a table of the data plane can hold, for changes while it runs.
pub(crate) const SELECTORS_ALL_MAX: usize = SELECTORS_OF_TABLE_MAX as usize / 2;
/// Longest list of proposals.
pub(crate) const PROPOSALS_OF_CONFIG_MAX: usize = 16;
/// Shortest post-quantum preshared key, in bytes. Against a quantum computer, a key counts half its bits: 256 of them are needed
/// (RFC 8784 §2, §6).
pub(crate) const PPK_LEN_MIN: usize = 32;
/// Longest name of one, in bytes.
pub(crate) const PPK_ID_LEN_MAX: usize = 128;
/// Longest time that can be set, in seconds: 30 days.
pub(crate) const SECONDS_MAX: u64 = 30 * 86_400;
/// Shortest time until a peer authenticates anew, in seconds. Attempts are five seconds apart: in less than this the connection
/// would end before the second one.
pub(crate) const REAUTH_SECONDS_MIN: u64 = 8;
/// Shortest token of the API, in characters: fewer can be guessed.
pub(crate) const TOKEN_LEN_MIN: usize = 20;

// Names that stand for addresses.

/// Look-ups at a time: each holds a thread while the name server is silent. Of these, names that were slow to be answered last
/// time; so those whose server is silent keep no other waiting.
pub(crate) const LOOKUPS_MAX: usize = 64;
pub(crate) const SLOW_LOOKUPS_MAX: usize = 32;
/// Addresses of a name that are used.
pub(crate) const ADDRESSES_OF_NAME_MAX: usize = 16;

// The API.

/// Connections at once. Who comes when all places are taken waits in the kernel's queue.
pub(crate) const CONNECTIONS_MAX: usize = 64;
/// Of them from one address, so that nobody takes all places. More are closed at once.
pub(crate) const CONNECTIONS_OF_ADDRESS_MAX: usize = 32;
/// Requests that may wait for the gateway's loop; more wait in their connections.
pub(crate) const REQUESTS_MAX: usize = 64;
/// Longest text of an error that is not ours, in bytes.
pub(crate) const ERROR_LEN_MAX: usize = 4096;

// What waits, and what comes from the network and the data plane.

/// Datagrams of IKE that wait until the data plane has done what they promise. What is dropped above that is sent again.
pub(crate) const IKE_WAITING_MAX: usize = 4096;
/// Messages of ICMP that are read in a second, and in one turn of the loop. Each is compared with all SPIs.
pub(crate) const ICMP_PER_S: u32 = 200;
pub(crate) const ICMP_PER_TURN: u32 = 32;
/// Bytes of one that are read: more than a router quotes (RFC 1812 §4.3.2.3: 576 bytes; RFC 4443 §2.4: 1280).
pub(crate) const ICMP_LEN_MAX: usize = 2048;
/// Goes at what workers have said: more than their rings hold.
pub(crate) const DRAINS_MAX: usize = 64;
/// Ids of Child SAs are the lowest that are free, so there are as many as Child SAs at one time, with those that take the place of
/// others. A hostile data plane may name any.
pub(crate) const CHILD_IDS_MAX: usize = 2 * CHILDREN_OF_PEER_MAX;
/// SAs missing from the table of a worker that are remembered, beside as many as there are others.
pub(crate) const MISSED_MIN: usize = 64;

// The relay.

/// Peers at the relay that are remembered; more than a room has. Each room has an equal share.
pub(crate) const RELAY_SEEN_MAX: usize = 4096;
/// Streams in which one peer is looked for: of those who say that they are it, the ones that came last.
pub(crate) const STREAMS_OF_PEER_MAX: usize = 4;
/// Trains that are taken from the workers in one go, and what the client of the relay says.
pub(crate) const TRAINS_AT_ONCE_MAX: usize = 64;

// Answers of STUN servers.

/// Datagrams that wait for the loop, and the most bytes of one: more than an answer has.
pub(crate) const STUN_ARRIVALS_MAX: usize = 64;
pub(crate) const STUN_DATAGRAM_MAX: usize = 1500;

// Logs.

/// The log of the data plane is emptied once it is longer than this, in bytes, and all of it was passed on.
pub(crate) const DATAPLANE_LOG_BYTES_MAX: u64 = 1 << 20;
/// Longest line of it that is passed on, in bytes.
pub(crate) const DATAPLANE_LINE_BYTES_MAX: usize = 4096;
/// Lines of one peer at once, however many SAs it has: who wants to follow so many has `debug`.
pub(crate) const LINES_AT_ONCE_MAX: u32 = 512;
/// Lines of one peer that are known as reported; above, all is quiet.
pub(crate) const REPORTED_LINES_MAX: usize = 32;
/// Unauthenticated initiators, by address and reason, that are remembered.
pub(crate) const REPORTED_INITIATORS_MAX: usize = 256;
