//! How much of everything there may be in the relay, each limit once. What an operator may change is the default of a setting;
//! how long something takes or waits stands where it is used.

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
/// Peers that have left a room and of whom is known when, of all rooms.
pub const DEPARTED_MAX: usize = 16_384;
/// Clients that are given up in one go, since all others have to be told of each.
pub(crate) const GIVEN_UP_AT_ONCE: usize = 256;
/// Introductions that are remembered, so that two peers who ask for the same one get one.
pub const INTRODUCTIONS_MAX: usize = 4096;

// What waits for one client, and for all of them, in bytes with what it takes to keep it.

/// Answers to it.
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

// STUN and TURN.

/// Batches of UDP that are read at once, and bytes of one of them: the longest train.
pub(crate) const UDP_BATCH: usize = 8;
pub(crate) const UDP_BYTES_MAX: usize = 65_536;
/// Batches that are read of one socket before others have their turn.
pub(crate) const UDP_BATCHES_IN_TURN: usize = 16;
/// Longest datagrams that go out as a train, in bytes: what an Ethernet frame has room for behind headers of IPv4 and UDP.
pub(crate) const SEGMENT_BYTES_MAX: usize = 1472;
/// Bytes that a UDP socket may keep on their way in and out: some thirty trains.
pub(crate) const UDP_BUFFER_BYTES: usize = 2 << 20;
/// Connections of TURN over TCP and TLS: in total, of one network, and of those that have no allocation.
pub(crate) const STREAMS_MAX: usize = 4096;
pub(crate) const STREAMS_OF_NETWORK_MAX: usize = 64;
pub(crate) const STREAM_STRANGERS_MAX: usize = 512;
/// Their handshakes of TLS in a second: in total, and of one network.
pub(crate) const STREAM_HANDSHAKES_PER_S: u32 = 100;
pub(crate) const STREAM_HANDSHAKES_OF_NETWORK_PER_S: u32 = 20;
/// Longest message of who has no allocation, and how much is read of any at once, in bytes.
pub(crate) const STREAM_STRANGER_BYTES_MAX: usize = 2048;
pub(crate) const STREAM_READ_BYTES: usize = 16 << 10;
/// Bytes that wait for the client of one connection with what it takes to keep them: answers, payload, and what is in its socket.
pub(crate) const STREAM_ANSWER_BYTES_MAX: usize = 64 << 10;
pub(crate) const STREAM_QUEUE_BYTES_MAX: usize = 512 << 10;
pub(crate) const STREAM_UNSENT_BYTES_MAX: u32 = 32 << 10;

// The files that are read.

/// Longest file, in bytes: a configuration of some rooms with as many keys as each may list, or a chain of certificates.
pub(crate) const FILE_BYTES_MAX: u64 = 4 << 20;
/// Most certificates in a file.
pub(crate) const CHAIN_MAX: usize = 8;
/// Most pins that a client knows a relay by: the key of today, and that of tomorrow.
pub const PINS_MAX: usize = 2;
/// Shortest and longest token, in characters: fewer can be guessed, more do not fit into a header.
pub const TOKEN_LEN_MIN: usize = 20;
pub const TOKEN_LEN_MAX: usize = 256;

// What can be configured.

/// Most addresses to listen at.
pub(crate) const LISTENERS_MAX: usize = 16;
/// Most keys that a room lists.
pub(crate) const KEYS_OF_ROOM_MAX: usize = 16_384;
/// Tokens of one room: the one of today, and what takes its place.
pub(crate) const TOKENS_OF_ROOM_MAX: usize = 4;
/// Addresses of one IP version at which STUN is served: RFC 5780 has two.
pub(crate) const STUN_ADDRESSES_MAX: usize = 2;
/// Most networks that a file opens or closes to TURN.
pub(crate) const NETWORKS_MAX: usize = 64;
/// Most addresses that are lent at a time, of one client and of all: each is a socket.
pub(crate) const ALLOCATIONS_OF_CLIENT_ASKED_MAX: u64 = 1024;
pub(crate) const ALLOCATIONS_ASKED_MAX: u64 = 1 << 15;
/// Most bytes in a second that TURN may be asked for.
pub(crate) const TURN_RATE_ASKED_MAX: u64 = u32::MAX as u64;
/// For how long credentials of TURN may hold, in seconds: nobody takes them back.
pub(crate) const CREDENTIALS_SECONDS_MIN: u64 = 10;
pub(crate) const CREDENTIALS_SECONDS_MAX: u64 = 86_400;
/// Connections that a file may ask for, and most handshakes in a second. There is one for a stranger and one for a client.
pub(crate) const CONNECTIONS_ASKED_MIN: u64 = 2;
pub(crate) const CONNECTIONS_ASKED_MAX: usize = 1 << 20;
pub(crate) const HANDSHAKES_ASKED_MAX: u32 = 1_000_000;
/// Most connections that have not logged in, of those it may ask for: each may hold a handshake and a request. And seconds for a
/// login.
pub(crate) const STRANGERS_ASKED_MAX: u64 = 1 << 16;
pub(crate) const LOGIN_SECONDS_MAX: u64 = 60;
/// Most records or bytes in a second that it may ask for.
pub(crate) const RATE_ASKED_MAX: u64 = 1 << 40;
/// How long nothing may be heard of a client, in seconds.
pub(crate) const IDLE_SECONDS_MIN: u64 = 1;
pub(crate) const IDLE_SECONDS_MAX: u64 = 86_400;
/// How long drained clients may have, in seconds.
pub(crate) const DRAIN_SECONDS_MAX: u64 = 3600;

// Who connects.

/// Longest head of a request or an answer of HTTP, in bytes, and most fields in it.
pub(crate) const HEAD_BYTES_MAX: usize = 16 << 10;
pub(crate) const HEADERS_MAX: usize = 64;
/// Connections at a time to the pages without TLS.
pub(crate) const PAGE_CONNECTIONS_MAX: usize = 64;
/// Bytes of framing that each message may have, and bytes that may come without one: the longest message, and what is read ahead.
pub(crate) const FRAMING_BYTES_MAX: usize = 64;
pub(crate) const UNFRAMED_BYTES_MAX: usize = 4 * adit_proto::limits::RELAY_RECORD_LEN_MAX;
/// Pings of a client that may wait for their answers.
pub(crate) const PINGS_WAITING_MAX: u32 = 16;

// The client.

/// Most relays that a client is configured with, and at how many of them it registers.
pub(crate) const RELAYS_OF_CLIENT_MAX: usize = 8;
pub(crate) const REGISTRATIONS_MAX: usize = 2;
/// Addresses of one relay that are tried.
pub(crate) const ADDRESSES_OF_RELAY_MAX: usize = 8;
/// Round trips of a minute that are remembered of each relay, and fewest of them by which relays are compared.
pub(crate) const RTT_SAMPLES_MAX: usize = 64;
pub(crate) const RTT_SAMPLES_MIN: usize = 5;
/// Peers in rooms that one relay may tell of.
pub(crate) const SIGHTINGS_OF_RELAY_MAX: usize = 16_384;
/// Events that wait for the user; above, nothing more is read from the relays.
pub(crate) const EVENTS_WAITING_MAX: usize = 1024;
/// Trains of IKE and as many of data that wait for the user, each of at most 64 KiB; more are dropped.
pub(crate) const DELIVERIES_WAITING_MAX: usize = 256;
/// Messages of IKE in a second that one may send to the user: a handshake has ten.
pub const IKE_OF_SENDER_PER_S: u64 = 200;
/// Bytes in the socket that are not sent yet: what is written behind them waits for them.
pub(crate) const UNSENT_BYTES_MAX: u32 = 32 << 10;
/// Longest frame of a WebSocket, in bytes: a whole record.
pub(crate) const FRAME_LEN_MAX: usize = adit_proto::limits::RELAY_RECORD_LEN_MAX;
/// Longest text of a refusal, in bytes.
pub(crate) const REFUSAL_LEN_MAX: usize = 64;
/// How much is shown of where an answer leads instead, in characters.
pub(crate) const LOCATION_SHOWN_LEN_MAX: usize = 80;
