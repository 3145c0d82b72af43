//! How much the data plane has and does of everything, each limit once, with units. What the command line may change is in
//! [`Config`](crate::config::Config); how long something waits stands where it is used.

use adit_proto::limits::IP_PACKET_LEN_MAX;

use crate::tap::headers::{ETHERNET, TAG, TAGS_MAX};

// Frames and trains.

/// Longest UDP payload in bytes: an IP packet less the IPv4 and UDP headers, which the kernel counts over a whole train.
pub const TRAIN_BYTES_MAX: usize = IP_PACKET_LEN_MAX - 20 - 8;
/// Segments that are tried first for `UDP_SEGMENT`; kernels before 6.10 take 64, later ones 128.
pub const TRAIN_SEGMENTS_MAX: usize = 128;
/// Bytes in front of a frame that was read from the TAP: the virtio-net header and the EtherIP header go there.
pub const FRAME_HEADROOM: usize = 64;
/// Bytes behind a frame: the ESP trailer is written there and what stood there is put back.
pub const FRAME_TAILROOM: usize = 64;
/// Longest frame that the TAP gives or takes: an IP packet, the Ethernet header and two VLAN tags.
pub const FRAME_BYTES_MAX: usize = IP_PACKET_LEN_MAX + ETHERNET + TAGS_MAX * TAG;
/// Room for one read from the TAP.
pub const FRAME_BUFFER: usize = (FRAME_HEADROOM + FRAME_BYTES_MAX + FRAME_TAILROOM).next_multiple_of(64);

// What a worker does in a turn or in a second, and what it has for the others.

/// Reads from the TAP in one turn; then the other direction has its turn.
pub const TAP_READS_PER_TURN: usize = 64;
/// Bytes read from the TAP in one turn.
pub const TAP_BYTES_PER_TURN: usize = 192 * 1024;
/// Packets made of what was read from the TAP in one turn; more, by what one frame can make, but none begun after.
pub const TAP_PACKETS_PER_TURN: usize = 1024;
/// Receive calls in one turn.
pub const RECEIVES_PER_TURN: usize = 64;
/// Bytes received in one turn. Two full trains: what is received is still in the second-level cache when it is written.
pub const RECEIVE_BYTES_PER_TURN: usize = 128 * 1024;
/// Bytes of datagrams taken from other workers in one turn, beside what the worker's own socket may bring.
pub const TAKEOVER_BYTES_PER_TURN: usize = 64 * 1024;
/// Bytes of trains taken in one turn that came in streams of the control plane, beside these two.
pub const STREAM_BYTES_PER_TURN: usize = 64 * 1024;
/// And how many trains.
pub const TRAINS_PER_TURN: usize = 16;
/// Commands applied in one turn.
pub const COMMANDS_PER_TURN: usize = 16;
/// Datagrams of the control plane sent in one turn.
pub const INJECTS_PER_TURN: usize = 8;
/// STUN messages that a worker hands up in a second.
pub const STUN_PER_S: u32 = 500;
/// Hand-off batches taken from other workers in one turn.
pub const TAKEOVERS_PER_TURN: usize = 16;
/// Sealed echoes of one peer that a worker looks at in a second.
pub const ECHOES_PER_S: u32 = 100;
/// Hand-off batches of a worker for frames from the TAP on their way to other workers, at least.
pub const BATCHES_OUTBOUND: usize = 32;
/// Hand-off batches of a worker for datagrams on their way to other workers, at least.
pub const BATCHES_INBOUND: usize = 16;
/// Hand-off batches of a worker of a hub for frames from peer to peer, at least.
pub const BATCHES_BETWEEN: usize = 16;
/// Learned addresses taken from other workers in one turn.
pub const MAC_UPDATES_PER_TURN: usize = 64;
/// Learned addresses that may wait in front of a worker.
pub const MAC_UPDATES_RING: usize = 256;
/// Devices that a worker has put aside and nobody has closed yet.
pub const OLD_DEVICES_MAX: usize = 8;

const _: () = assert!(RECEIVE_BYTES_PER_TURN >= TRAIN_BYTES_MAX, "a turn takes a whole train");

// Tables, and what is answered.

/// Packets that one batch may bring about; a frame that goes to many peers counts for each. It bounds a turn of the taker.
pub const PACKETS_OF_BATCH_MAX: u64 = 1024;
/// Halves that may wait: they leave one behind the other, so that more only come from reordering on the way.
pub const HALVES_WAITING_MAX: usize = 4;
/// How often one and the same frame may go to all within a second: protocols repeat themselves a few times, a loop does so without end.
pub const FRAME_REPEATS_MAX: u8 = 16;
/// Moves of one address in `DISPUTE_S` seconds after which it is in dispute: a station that really goes elsewhere moves once.
pub const STATION_MOVES_MAX: u8 = 4;
/// Places that are looked at for an address, at most. In a half-full table with a good hash a search this long is rarer than one
/// in a hundred thousand; an address that would need a longer one is not learned.
pub const PROBES_MAX: usize = 64;
/// Places that are looked at in one turn for what has aged.
pub const AGED_PER_TURN: usize = 1024;
/// ICMP messages that a worker sends in a second, and before that in a burst.
pub const ANSWERS_PER_S: u32 = 1000;
/// Of these, as many go to senders that fall into one place of the table,
pub const ANSWERS_PER_SENDER_S: u8 = 10;
/// and as many that only advise: what was too long has been cut.
pub const ADVICE_PER_SENDER_S: u8 = 1;

/// How long a socket is heard after another one took its place, in nanoseconds: peers that are looked for at both find out meanwhile.
pub const LEAVING_NS: u64 = 10_000_000_000;
