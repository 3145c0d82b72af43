//! Links that take packets of some size and no longer ones, and the streams of a relay.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use adit_engine::path::{Hop, StreamId};

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

/// The same by any way: in a stream they count as those of IPv4.
pub(crate) fn headers_of(hop: &Hop) -> usize {
    hop.udp().map_or(28, |hop| headers(hop.remote))
}

/// The streams of a relay, which neither loses nor reorders anything while it is up.
#[derive(Debug)]
pub struct Relay {
    pub is_up: bool,
    pub delay: Duration,
    /// Where what goes into a stream of a gateway comes out: at which one, and in which stream of it.
    pub(crate) streams: BTreeMap<(usize, StreamId), (usize, StreamId)>,
    /// What was carried: of IKE, and of everything else.
    pub carried: [u64; 2],
    /// In these nothing arrives.
    pub broken: Vec<StreamId>,
}

impl Default for Relay {
    fn default() -> Relay {
        Relay { is_up: true, delay: Duration::from_millis(20), streams: BTreeMap::new(), carried: [0; 2], broken: Vec::new() }
    }
}
