//! Links that take packets of some size and no longer ones, and the sealed echoes by which that is found out.

use std::net::SocketAddr;
use std::time::Instant;

use adit_engine::path::Arrival;
use adit_proto::control::{PathId, PeerId, Spi};

use crate::world::{Load, World};

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

/// A sealed echo on its way.
#[derive(Clone, Copy, Debug)]
pub struct Echo {
    spi: Spi,
    id: u64,
    /// Bytes of the UDP payload.
    pub(crate) len: usize,
    is_reply: bool,
    /// When the request was sent.
    at: Instant,
}

/// An echo that the engine wants to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub peer: PeerId,
    pub path: PathId,
    pub id: u64,
    pub size: u16,
}

impl World {
    /// Sends the echoes that the engine of a node has asked for since this was called last.
    pub(crate) fn send_echoes(&mut self, node: usize) {
        for asked in std::mem::take(&mut self.nodes[node].data.asked) {
            let data = &self.nodes[node].data;
            // Without keys, or where it is longer than the link, nothing leaves.
            let (Some(hop), Some(spi)) = (data.hop(asked.peer, asked.path), data.seals_to(asked.peer)) else { continue };
            let len = usize::from(asked.size) - headers(hop.remote);
            let echo = Echo { spi, id: asked.id, len, is_reply: false, at: self.now };
            self.send_echo(hop.local, hop.remote, echo);
        }
    }

    fn send_echo(&mut self, local: SocketAddr, to: SocketAddr, echo: Echo) {
        if let Some(from) = self.leave(local, to, headers(to) + echo.len) {
            self.fly(from, to, Load::Echo(echo));
        }
    }

    /// An echo came to a node: a request is answered as it came, of a reply the engine hears.
    pub(crate) fn receive_echo(&mut self, node: usize, came: Arrival, echo: Echo) {
        let data = &self.nodes[node].data;
        let Some(peer) = data.opens_from(echo.spi) else { return };
        if echo.is_reply {
            let (now, rtt) = (self.now(), self.now - echo.at);
            self.nodes[node].endpoint.handle_echo_reply(now, peer, echo.id, came, rtt);
            self.settle();
        } else if let Some(spi) = data.seals_to(peer) {
            self.send_echo(came.local, came.remote, Echo { spi, is_reply: true, ..echo });
        }
    }
}
