//! How much there may be of everything in what crosses a wire or the border between the planes, each limit once. The other crates have
//! a file of this name for theirs; what is the same there comes from here.

use std::ops::RangeInclusive;

// Lanes, peers, and what each peer may have.

/// Bits of an SPI of ours that name the lane.
pub const LANE_BITS: u32 = 6;
/// Most lanes of a peer: as many as an SPI can name.
pub const LANES_MAX: u8 = 1 << LANE_BITS;
/// Most workers of a data plane: each has a lane of its own.
pub const WORKERS_MAX: u16 = LANES_MAX as u16;

/// Most peers of a gateway.
pub const PEERS_MAX: u16 = 16_384;
/// Most ids of peers that a data plane tells apart: one that comes has an id that nobody had a moment ago.
pub const PEER_IDS_MAX: u16 = 2 * PEERS_MAX;
/// Most paths of a peer, and so most places where one can be looked for.
pub const PATHS_MAX: usize = 8;

/// Addresses of each peer that are known, with and without their ports: three where it is looked for with two ports each, and two more.
pub const IKE_ADDRESSES_PER_PEER: usize = ADDRESSES_OF_PEER_MAX + PATHS_MAX + 2;
/// Addresses of a peer that are known, each with a port: where it is looked for, and where it has proven itself last.
pub const ADDRESSES_OF_PEER_MAX: usize = 8;

/// Most selectors in one TS payload: the field has one byte (RFC 7296 §3.13).
pub const SELECTORS_OF_PAYLOAD_MAX: usize = 255;
/// Most selectors of one side of a Child SA, after both ends have narrowed.
pub const SELECTORS_OF_CHILD_MAX: usize = 64;
/// Most selectors of a peer in the configuration: as many as it can ask for in one request.
pub const SELECTORS_OF_CONFIG_MAX: usize = SELECTORS_OF_PAYLOAD_MAX;
/// Most pairs of selectors of a peer that the data plane gets, over all of its Child SAs: what it costs to look through them is what a
/// packet of that peer costs at most.
pub const SELECTORS_OF_PEER_MAX: usize = 512;
/// Most Child SAs of a peer, each with all its lanes: one for every selector that it can be configured with.
pub const CHILDREN_OF_PEER_MAX: usize = 256;
/// Most IKE SAs of a peer: the one in use, those that are to take its place, and those that it has replaced.
pub const IKE_SAS_OF_PEER_MAX: usize = 8;
/// Most selectors of a policy table, over all peers.
pub const SELECTORS_OF_TABLE_MAX: u32 = 1 << 18;
/// Most selectors that may have a remote address in common: a look-up for it looks at no more.
pub const SELECTOR_OVERLAPS_MAX: u8 = 64;

// What the configuration, the command line of the data plane and its commands may say of the same thing.

/// Addresses in the forwarding table of a worker.
pub const FDB_ENTRIES: RangeInclusive<u32> = 16..=1 << 20;
/// Seconds until an address is forgotten from which nothing came: a day at most.
pub const FDB_AGEING_S: RangeInclusive<u32> = 1..=86_400;
/// Frames per second that a worker may send to all peers: more than a core can seal.
pub const FLOOD_PPS: RangeInclusive<u32> = 1..=10_000_000;
/// Microseconds for which an idle worker looks for an answer before it sleeps.
pub const BUSY_POLL_US: RangeInclusive<u32> = 0..=10_000;
/// Bytes of the buffer of a UDP socket, each way: the least holds a datagram, and the kernel counts in 31 bits.
pub const SOCKET_BUFFER: RangeInclusive<u32> = 64 << 10..=1 << 30;

// Packets.

/// Longest IP packet, in bytes: its length has 16 bits (RFC 791 §3.1; RFC 8200 §3 says it of what follows the header). So no datagram
/// of UDP is longer.
pub const IP_PACKET_LEN_MAX: usize = u16::MAX as usize;
/// Room for whatever a UDP socket gives, in bytes: no datagram fills it.
pub const DATAGRAM_MAX: usize = IP_PACKET_LEN_MAX + 1;
/// Extension headers of IPv6 that are looked through.
pub const IPV6_EXTENSIONS_MAX: usize = 8;
/// Longest outer packet of a sealed echo, in bytes: what the largest usual frames carry.
pub const ECHO_SIZE_MAX: u16 = 9216;
/// Shortest path MTU that is believed of IPv4, in bytes: what every host takes (RFC 791 §3.1, RFC 1122 §3.3.2).
pub const IPV4_MTU_MIN: u16 = 576;
/// What every link carries of IPv6, in bytes (RFC 8200 §5).
pub const IPV6_MTU_MIN: u16 = 1280;

// Sequence numbers of ESP.

/// The last sequence number that is not extended (RFC 4303 §3.3.3).
pub const SEQ_MAX_32: u64 = u32::MAX as u64;
/// The last extended one: behind it there is one more, which is never used.
pub const SEQ_MAX_64: u64 = u64::MAX - 1;
/// Smallest and largest window against replay, in packets.
pub const REPLAY_WINDOW_MIN: u16 = 64;
pub const REPLAY_WINDOW_MAX: u16 = 16_384;

// One message of IKE: what is read, and what is written.

/// Longest message, in bytes: what a UDP datagram could hold.
pub const IKE_MESSAGE_LEN_MAX: usize = IP_PACKET_LEN_MAX;
/// Fragments of one message: 64 KiB in the smallest datagrams of IPv4.
pub const FRAGMENTS_OF_MESSAGE_MAX: u16 = 128;
/// Payloads in one chain. A long chain of certificates has about ten.
pub const PAYLOADS_OF_MESSAGE_MAX: usize = 128;
/// Proposals in one SA payload. Known clients send fewer than thirty.
pub const PROPOSALS_OF_PAYLOAD_MAX: usize = 64;
/// Transforms in one proposal; the field could say 255.
pub const TRANSFORMS_OF_PROPOSAL_MAX: usize = 128;
/// Attributes of one transform; there is one kind of them.
pub const ATTRIBUTES_OF_TRANSFORM_MAX: usize = 8;
/// Attributes in one Configuration payload.
pub const ATTRIBUTES_OF_CP_MAX: usize = 128;
/// SPIs in one Delete payload.
pub const SPIS_OF_DELETE_MAX: usize = 1024;
/// Shortest and longest nonce, in bytes (RFC 7296 §3.9).
pub const IKE_NONCE_LEN_MIN: usize = 16;
pub const IKE_NONCE_LEN_MAX: usize = 256;
/// Longest value of an identity that is shown in full, in bytes.
pub const IDENTITY_SHOWN_LEN_MAX: usize = 128;

// Records between a client and a relay.

/// Longest payload of a train, in bytes: the field has 16 bits.
pub const RELAY_PAYLOAD_LEN_MAX: usize = u16::MAX as usize;
/// Most datagrams of a train: the kernel sends no more at once (UDP_MAX_SEGMENTS).
pub const SEGMENTS_OF_TRAIN_MAX: usize = 128;
/// Longest record, in bytes: type, key, kind, class, segment, length and payload of a train.
pub const RELAY_RECORD_LEN_MAX: usize = 1 + 32 + 1 + 1 + 2 + 2 + RELAY_PAYLOAD_LEN_MAX;
/// Longest description that a client gives of itself, in bytes.
pub const RELAY_METADATA_LEN_MAX: usize = 1024;
/// Longest name of a room, in bytes.
pub const ROOM_NAME_LEN_MAX: usize = 64;
/// Most rooms that one client is in.
pub const ROOMS_OF_CLIENT_MAX: usize = 16;
/// Most other relays that a client is told of.
pub const RELAYS_OF_DRAIN_MAX: usize = 4;
/// Most places of STUN, or of TURN, that a client is told of.
pub const SERVERS_OF_RELAY_MAX: usize = 32;
/// Longest name of a relay with its port, in bytes: its length has one byte, and a name of DNS has at most 253 (RFC 1035 §2.3.4).
pub const HOST_PORT_LEN_MAX: usize = u8::MAX as usize;

/// Pairs of selectors that each peer may have, over all of its Child SAs, where there is room for so many peers: both planes go by this
/// number, so that what one agrees on the other one installs. Never less than what a peer can be configured with.
pub const fn selectors_of_peer(max_peers: u16) -> usize {
    let peers = if max_peers == 0 { 1 } else { max_peers as usize };
    let share = SELECTORS_OF_TABLE_MAX as usize / peers;
    if share < SELECTORS_OF_CONFIG_MAX {
        SELECTORS_OF_CONFIG_MAX
    } else if share > SELECTORS_OF_PEER_MAX {
        SELECTORS_OF_PEER_MAX
    } else {
        share
    }
}
