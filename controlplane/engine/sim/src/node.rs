//! One gateway of the world.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use adit_engine::ike::{Endpoint, Event};
use adit_proto::control::Command;
use zeroize::Zeroizing;

use crate::dataplane::DataPlane;
use crate::gate::Gate;
use crate::link::LinkMtu;

/// The engine of one gateway, with what is around it.
pub struct Node {
    pub endpoint: Endpoint,
    pub address: SocketAddr,
    /// Further addresses of it.
    pub others: Vec<IpAddr>,
    /// Index of the NAT in front of it, if there is one.
    pub nat: Option<usize>,
    /// The link of this gateway, both ways. `None`: takes everything.
    pub mtu: Option<LinkMtu>,
    /// What the engine wants to be kept for its successor, as it was before the last datagram was sent.
    pub vault: Zeroizing<Vec<u8>>,
    pub data: DataPlane,
    pub events: Vec<Event>,
    /// Datagrams that it sent for IKE.
    pub sent: usize,
    /// The vault cannot be written: it holds what it held before, and nobody notices.
    pub vault_stuck: bool,
    /// Off: what comes is lost, and time does not pass for it.
    pub on: bool,
    /// What stands before its engine; `None` lets everything through.
    pub gate: Option<Gate>,
}

impl Node {
    /// What leaves an engine: an answer to it is waited for.
    pub(crate) fn note_sent(&mut self, local: SocketAddr, datagram: &[u8], at: Duration) {
        if let Some(gate) = &mut self.gate {
            gate.note_sent(local, datagram, at);
        }
    }

    pub(crate) fn passes_gate(&mut self, from: SocketAddr, local: SocketAddr, datagram: &[u8], at: Duration) -> bool {
        self.gate.as_mut().is_none_or(|gate| gate.passes(from, local, datagram, at))
    }

    /// A new process tells the data plane anew who is known.
    pub fn tell_gate(&mut self) {
        let Some(gate) = &mut self.gate else { return };
        gate.forget();
        self.endpoint.known_addresses().for_each(|address| gate.tell(&Command::IkeAddressAdd { address }));
        for status in self.endpoint.peers().filter_map(|id| self.endpoint.status(id)) {
            status.ike.iter().for_each(|ike| gate.know(ike.spis));
        }
    }
}
