//! The sealed echoes by which it is found out what a link takes.

use std::net::SocketAddr;

use adit_engine::path::Arrival;
use adit_proto::echo;

use crate::link::headers;
use crate::load::{Echo, Load};

use super::World;

impl World {
    /// Sends the echoes that the engine of a node has asked for since this was called last.
    pub(super) fn send_echoes(&mut self, node: usize) {
        for asked in std::mem::take(&mut self.nodes[node].data.asked) {
            let data = &self.nodes[node].data;
            // Without keys, or where it is longer than the link, nothing leaves.
            let (Some(hop), Some(spi)) = (data.hop(asked.peer, asked.path), data.seals_to(asked.peer)) else { continue };
            assert!(asked.size >= echo::size_min(hop.remote.is_ipv6()), "no echo is that short");
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
    pub(super) fn receive_echo(&mut self, node: usize, came: Arrival, echo: Echo) {
        let data = &self.nodes[node].data;
        let Some(peer) = data.opens_from(echo.spi) else { return };
        if echo.is_reply {
            let (now, rtt) = (self.now(), self.now - echo.at);
            self.nodes[node].endpoint.handle_echo_reply(now, peer, echo.id, came, rtt);
            self.settle();
        } else if let Some(spi) = data.seals_to(peer) {
            let shortest = usize::from(echo::size_min(came.remote.is_ipv6())) - headers(came.remote);
            let len = if data.knows(peer, came.hop()) { echo.len } else { shortest };
            self.send_echo(came.local, came.remote, Echo { spi, is_reply: true, len, ..echo });
        }
    }
}
