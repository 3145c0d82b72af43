//! How a client reaches the server, and who it is by that.
use std::net::SocketAddr;

/// How a client reaches us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Link {
    /// By the UDP socket of this number.
    Udp(u8),
    /// By the connection of this number, which is never used again.
    Stream(u64),
}

/// What RFC 8656 calls 5-tuple: the link stands for our address and the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    pub client: SocketAddr,
    pub link: Link,
}
