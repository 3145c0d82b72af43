//! How much there may be of everything in the channel, each limit once.

use adit_proto::limits::{IP_PACKET_LEN_MAX, PEER_IDS_MAX};

// The shared memory.

/// Most bytes of the whole memory: more than any data plane needs, and no more than a machine can spare for a stranger.
pub const MEMORY_BYTES_MAX: usize = 3 << 29;
/// Most bytes of each ring, and of what the vault keeps.
pub const PART_BYTES_MAX: u32 = 64 << 20;
/// Least bytes of a ring.
pub const RING_BYTES_MIN: u32 = 4096;
/// A ring of datagrams holds at least two of the longest.
pub const DATAGRAM_RING_BYTES_MIN: u32 = 256 * 1024;
/// Most live SAs of a worker.
pub const SA_SLOTS_MAX: u32 = 65_536;
/// Most paths of a worker that are counted: with as many peers as there can be, one each.
pub const PATH_SLOTS_MAX: u16 = PEER_IDS_MAX;

// What goes through it.

/// The longest datagram that is punted or injected, in bytes: all that UDP carries.
pub const DATAGRAM_LEN_MAX: usize = IP_PACKET_LEN_MAX;
/// Senseless records that are passed over in one call.
pub const BAD_RECORDS_MAX: usize = 64;
/// Messages over the socket that are heard in one call, and bytes of a reason in one of them.
pub const MESSAGES_MAX: usize = 16;
pub const ANSWER_LEN_MAX: usize = 500;
/// Masters that are let in or refused in one call.
pub const ACCEPTS_MAX: usize = 16;

// What goes to the manager of services.

/// Longest status that is told, in bytes.
pub const STATUS_LEN_MAX: usize = 512;
