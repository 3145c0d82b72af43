//! The sealed echoes by which it is found out what a link takes.

use adit_engine::path::Hop;
use adit_proto::echo;

use crate::link::headers_of;
use crate::load::{Echo, Load};

use super::World;

impl World {
    /// Sends the echoes that the engine of a node has asked for since this was called last.
    pub(super) fn send_echoes(&mut self, node: usize) {
        for asked in std::mem::take(&mut self.nodes[node].data.asked) {
            let data = &self.nodes[node].data;
            // Without keys, or where it is longer than the link, nothing leaves.
            let (Some(hop), Some(spi)) = (data.hop(asked.peer, asked.path), data.seals_to(asked.peer)) else { continue };
            assert!(asked.size >= echo::size_min(hop.is_ipv6()), "no echo is that short");
            let len = usize::from(asked.size) - headers_of(&hop);
            let number = self.nodes[node].data.next_number();
            let echo = Echo { spi, id: asked.id, len, is_reply: false, number, at: self.now };
            self.send_load(node, hop, Load::Echo(echo));
        }
    }

    /// An echo came to a node: a request is answered as it came, of a reply the engine hears.
    pub(super) fn receive_echo(&mut self, node: usize, came: Hop, echo: Echo) {
        let Some(peer) = self.nodes[node].data.opens_from(echo.spi) else { return };
        let sighted = self.nodes[node].data.sight((echo.spi, echo.number), came);
        let mut bytes = echo.len;
        if echo.is_reply {
            let (now, rtt) = (self.now(), self.now - echo.at);
            self.nodes[node].endpoint.handle_echo_reply(now, peer, echo.id, came, rtt);
            self.settle();
        } else if let Some(spi) = self.nodes[node].data.seals_to(peer) {
            let shortest = usize::from(echo::size_min(came.is_ipv6())) - headers_of(&came);
            let len = if self.nodes[node].data.knows(peer, came) { echo.len } else { shortest };
            let number = self.nodes[node].data.next_number();
            bytes -= len.min(bytes);
            self.send_load(node, came, Load::Echo(Echo { spi, is_reply: true, len, number, ..echo }));
        }
        if let Some(peer) = sighted {
            let now = self.now();
            self.nodes[node].endpoint.handle_path_seen(now, peer, came, u32::try_from(bytes).expect("a packet"));
            self.settle();
        }
    }
}
