//! How much of everything there may be in the relay, each limit once. What an operator may change is the default of a setting; how long
//! something takes or waits stands where it is used.

// Connections.

/// Connections in total, and of one address.
pub const CONNECTIONS_MAX: usize = 16_384;
pub const CONNECTIONS_OF_ADDRESS_MAX: u32 = 64;
/// A network (a /24, or a /48 of IPv6) has so many times the share of one address.
pub const ADDRESSES_OF_NETWORK: u32 = 8;
/// Connections of one key: the newest holds, the others are on their way out.
pub const CONNECTIONS_OF_KEY_MAX: usize = 4;

// Rooms.

/// Rooms in total.
pub const ROOMS_MAX: usize = 4096;
/// Peers of one room: each of them is told of each other one.
pub const PEERS_OF_ROOM_MAX: usize = 1024;
/// Peers that have left a room and of whom is known when.
pub const DEPARTED_OF_ROOM_MAX: usize = 1024;
/// Introductions that are remembered, so that two peers who ask for the same one get one.
pub const INTRODUCTIONS_MAX: usize = 4096;

// What waits for one client, and for all of them, in bytes with what it takes to keep it.

/// What the relay itself says: all peers of a full room with the longest descriptions, and their changes.
pub const CONTROL_BYTES_MAX: usize = 4 << 20;
/// Messages of IKE.
pub const IKE_BYTES_MAX: usize = 256 << 10;
/// Packets of ESP: a tenth of a second at 320 Mbit/s.
pub const DATA_BYTES_MAX: usize = 4 << 20;
/// The same over all clients.
pub const CONTROL_BYTES_OF_ALL_MAX: usize = 256 << 20;
pub const TRAIN_BYTES_OF_ALL_MAX: usize = 256 << 20;

// Rates.

/// Handshakes of TLS in a second: in total, and of one network.
pub const HANDSHAKES_PER_S: u32 = 200;
pub const HANDSHAKES_OF_NETWORK_PER_S: u32 = 20;
/// Shares that are told apart at a time: who falls into one place has one share together.
pub const SHARES_MAX: usize = 4096;
