//! Links that take packets of some size and no longer ones.

use std::net::SocketAddr;

/// A link that takes IP packets of so many bytes and no longer ones.
#[derive(Clone, Copy, Debug)]
pub struct LinkMtu {
    pub bytes: usize,
    /// Whether whoever sent a longer one hears of it (ICMP); else it just vanishes.
    pub says_so: bool,
}

/// What ICMP would have told a gateway: a packet of its own was longer than a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooBig {
    /// Who hears it: the sender, whosever link it was.
    pub node: usize,
    pub to: SocketAddr,
    /// Bytes of the packet, and of the longest that the link takes.
    pub len: usize,
    pub mtu: usize,
}

/// Headers of IP and UDP around a payload, in bytes.
pub(crate) fn headers(to: SocketAddr) -> usize {
    if to.is_ipv4() { 28 } else { 48 }
}
