//! How much of everything there may be in a client or a server, each limit once. What a program may want to change is in
//! [`Options`](crate::Options), what the engine bears in its own file of this name; how long something takes or waits stands where
//! it is used.

// What can be set.

/// The most sessions that a server can be told to bear.
pub const SESSIONS_MAX: usize = 32_768;
/// The longest queue of received packets that a session can be given, in packets.
pub const RECEIVE_QUEUE_MAX: usize = 65_536;
/// The smallest path MTU, in bytes: what every host takes (RFC 791 §3.1).
pub const PATH_MTU_MIN: u16 = adit_proto::limits::IPV4_MTU_MIN;

// What peers may have.

/// Child SAs of one session in every state: those that were replaced a moment ago count, too.
pub const CHILDREN_MAX: usize = 128;
/// Most peers that the engine is told of; one place for each pattern is always free below that.
pub(crate) const PEERS_OF_ENGINE_MAX: usize = 2 * SESSIONS_MAX - 1;
/// Addresses of a session of a server that are known: two from where the peer has proven itself, with and without the port.
pub(crate) const ADDRESSES_OF_SESSION: usize = 4;

// What waits.

/// What is asked for the receive buffer of the socket, in bytes; the kernel may give less.
pub(crate) const RECEIVE_BUFFER: usize = 4 << 20;
/// Datagrams of IKE that wait for room in the socket. What is dropped above that is sent again.
pub(crate) const IKE_WAITING_MAX: usize = 256;
/// Refusals that are kept until they are asked for.
pub(crate) const REFUSED_MAX: usize = 64;
/// Refusals that are reported in a second; unauthenticated initiators can cause as many as they like.
pub(crate) const REFUSALS_PER_SECOND: u32 = 64;
