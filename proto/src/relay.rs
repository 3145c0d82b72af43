//! What a client and a relay say to each other: one record in one binary message of a WebSocket (RFC 6455 §5.6).
//!
//! ```text
//!  type u8 │ fields, big endian, one after the other │
//! ```
//! Keys, addresses and numbers have their length by their kind, all else has it in front. A record ends with its last field. Types
//! that one side does not know it leaves alone, so that a newer other side may use them; a known type with wrong fields is an
//! error. The two directions have different types, so that a record that comes back to its sender is not taken for one.
//!
//! [`ToRelay`] goes from a client to the relay, [`FromRelay`] back. A peer is named by its key ([`PeerKey`]), a room by its name
//! ([`RoomName`]). Trains are opaque to the relay: who seals them has the keys, and the relay has none.

mod names;
#[cfg(test)]
mod tests;
mod wire;

use std::fmt;
use std::net::SocketAddr;

pub use names::{HostPort, NameError, PeerKey, RoomName};

/// The name of this protocol, as the WebSocket is asked for it (`Sec-WebSocket-Protocol`, RFC 6455 §1.9).
pub const SUBPROTOCOL: &str = "adit-relay-1";
/// Length of what a client seals its Binding requests with, in bytes: first a name, and then the key.
pub const STUN_KEY_LEN: usize = STUN_NAME_LEN + 16;
/// Length of the name by which such a request says whose it is.
pub const STUN_NAME_LEN: usize = 8;

/// What a train is made of: which of the receiver's doors it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A message of IKE, without the marker in front of it (RFC 3948 §2.2). It never waits behind data.
    Ike = 1,
    /// Packets of ESP.
    Esp = 2,
}

/// One datagram, or some of equal length but for the last one, which may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Train<'a> {
    pub kind: Kind,
    /// DSCP and ECN as in the IP header (RFC 2474 §3, RFC 3168 §5).
    pub class: u8,
    /// Length of each datagram in bytes; zero if there is only one.
    pub segment: u16,
    pub payload: &'a [u8],
}

/// What a client says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToRelay<'a> {
    /// Pass this on. [`FromRelay::Absent`] is the answer if there is no such peer in a common room.
    Send { to: PeerKey, train: Train<'a> },
    /// Introduce us: both get a [`FromRelay::Introduction`].
    Meet { peer: PeerKey },
    /// The data for this peer goes by a path that does not lead over the relay, or has come back to it.
    Direct { peer: PeerKey, on: bool },
    /// What the peers of all rooms are to know of this client, in place of what they knew.
    Describe { metadata: &'a [u8] },
    /// Is anybody there? [`FromRelay::Pong`] is the answer.
    Ping { id: u64 },
}

/// What the relay says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromRelay<'a> {
    /// The first record. What follows it at once is who is there.
    Welcome {
        /// Where the connection comes from, as the relay sees it.
        observed: SocketAddr,
        /// What this client seals Binding requests with, so that the relay knows which address is its one for UDP: a name that anybody may
        /// read, and a key. Nothing else.
        stun_key: [u8; STUN_KEY_LEN],
        /// A client of whom nothing is heard for so long is taken for gone.
        idle_ms: u32,
        /// The rooms that the client is in.
        rooms: Vec<RoomName>,
    },
    /// A peer is in this room now, or was when the client came.
    Joined { room: RoomName, peer: PeerKey, metadata: &'a [u8] },
    /// A peer has left this room.
    Left { room: RoomName, peer: PeerKey, reason: LeftReason },
    /// What a peer says of itself has changed.
    Described { room: RoomName, peer: PeerKey, metadata: &'a [u8] },
    /// What a peer has sent.
    Deliver { from: PeerKey, train: Train<'a> },
    /// Both begin to send to each other in this many milliseconds, which is the same moment for both.
    Introduction {
        peer: PeerKey,
        /// Where the peer's Binding requests come from, if there were any.
        udp: Option<SocketAddr>,
        /// Where the peer's connection to the relay comes from.
        tcp: SocketAddr,
        /// The same for both.
        id: u64,
        start_in_ms: u16,
    },
    /// There is no such peer in a common room.
    Absent {
        peer: PeerKey,
        /// How long ago there was one, if that is known.
        last_seen_s: Option<u32>,
    },
    /// What the peer said with [`ToRelay::Direct`].
    PeerDirect { peer: PeerKey, on: bool },
    /// The relay is about to stop.
    Drain {
        /// Be so long away before you come back.
        come_back_in_ms: u32,
        /// Try this relay for so long before you give it up.
        try_for_ms: u32,
        /// Others that serve the same rooms.
        to: Vec<HostPort>,
    },
    /// A newer connection with the same key has taken the place of this one.
    Replaced {
        /// Come back after so many seconds, not earlier.
        wait_s: u16,
    },
    /// Something of the client's was dropped, since it had more than its share of this.
    Refused { what: Quota, wait_ms: u32 },
    /// The answer to [`ToRelay::Ping`].
    Pong { id: u64 },
    /// Where STUN is served (RFC 8489), with the tests of RFC 5780 for whoever seals his questions.
    Stun { servers: Vec<SocketAddr> },
    /// What this client may use TURN with (RFC 8656, RFC 8489 §9.2), for a while. It comes again before that has passed, and what was
    /// lent under the name before goes on under the next one.
    Turn {
        name: &'a str,
        realm: &'a str,
        password: Password<'a>,
        /// For so long they are good.
        life_s: u32,
        servers: Vec<(Transport, SocketAddr)>,
    },
}

/// A password, which is shown nowhere.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Password<'a>(pub &'a str);

impl fmt::Debug for Password<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// By what a client speaks to TURN. Numbers without a name here are a newer relay's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Transport(pub u8);

impl Transport {
    pub const UDP: Transport = Transport(1);
    pub const TCP: Transport = Transport(2);
    pub const TLS: Transport = Transport(3);

    /// The word for logs.
    pub const fn label(self) -> &'static str {
        match self {
            Transport::UDP => "udp",
            Transport::TCP => "tcp",
            Transport::TLS => "tls",
            Transport(_) => "other",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Why a peer has left. Numbers without a name here are a newer relay's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeftReason(pub u8);

impl LeftReason {
    /// Its connection has ended.
    pub const GONE: LeftReason = LeftReason(1);
    /// Nothing was heard of it for too long.
    pub const IDLE: LeftReason = LeftReason(2);
    /// Another connection with its key has taken its place; that it is there comes right behind.
    pub const REPLACED: LeftReason = LeftReason(3);
    /// It did not read what was for it.
    pub const SLOW: LeftReason = LeftReason(4);
    /// It sent what is no record.
    pub const FAULT: LeftReason = LeftReason(5);
    /// The relay stops.
    pub const DRAINED: LeftReason = LeftReason(6);
    /// It may not be in one of its rooms any more.
    pub const REVOKED: LeftReason = LeftReason(7);
    /// The room was full, and another one had more right to its place.
    pub const DISPLACED: LeftReason = LeftReason(8);

    /// The word for logs and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            LeftReason::GONE => "gone",
            LeftReason::IDLE => "idle",
            LeftReason::REPLACED => "replaced",
            LeftReason::SLOW => "slow",
            LeftReason::FAULT => "fault",
            LeftReason::DRAINED => "drained",
            LeftReason::REVOKED => "revoked",
            LeftReason::DISPLACED => "displaced",
            LeftReason(_) => "other",
        }
    }
}

impl fmt::Display for LeftReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// What a client had too much of. Numbers without a name here are a newer relay's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quota(pub u8);

impl Quota {
    /// Records of any kind.
    pub const RECORDS: Quota = Quota(1);
    /// Bytes to be passed on.
    pub const BYTES: Quota = Quota(2);
    /// Bytes of IKE to be passed on.
    pub const IKE: Quota = Quota(3);
    /// The bytes of its room, which all of the room share.
    pub const ROOM: Quota = Quota(4);
    /// The bytes of the relay, which all of its clients share.
    pub const TOTAL: Quota = Quota(5);
    /// What concerns others: introductions, and what was said with [`ToRelay::Direct`].
    pub const REQUESTS: Quota = Quota(6);
    /// Changes of what others know of it.
    pub const DESCRIPTIONS: Quota = Quota(7);

    /// The word for logs and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Quota::RECORDS => "records",
            Quota::BYTES => "bytes",
            Quota::IKE => "ike",
            Quota::ROOM => "room",
            Quota::TOTAL => "total",
            Quota::REQUESTS => "requests",
            Quota::DESCRIPTIONS => "descriptions",
            Quota(_) => "other",
        }
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A field is longer than the wire has room for; which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeError(pub &'static str);

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the field `{}` is longer than a record has room for, or empty where it cannot be", self.0)
    }
}

impl std::error::Error for EncodeError {}
