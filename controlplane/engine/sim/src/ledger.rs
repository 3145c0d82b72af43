//! Which packets of ESP arrived, and which did not though the network has lost none of them.

use std::collections::BTreeMap;
use std::time::Instant;

use adit_proto::control::{PeerId, Spi};

use crate::load::{Esp, Load};

/// A packet that was sent and has not been opened.
#[derive(Clone, Copy, Debug)]
pub struct Missing {
    pub by: usize,
    /// For whom it was, as the sender knows that one.
    pub peer: PeerId,
    pub spi: Spi,
    pub sent: Instant,
}

/// Every packet of ESP from when it is sealed until it is opened for the first time, or lost by a link: what stays is under way, or was lost
/// by a gateway.
#[derive(Debug, Default)]
pub struct Ledger {
    open: BTreeMap<(usize, Spi, u64), Missing>,
}

impl Ledger {
    pub(crate) fn sent(&mut self, esp: &Esp, sent: Instant) {
        self.open.insert(key(esp), Missing { by: esp.by, peer: esp.peer, spi: esp.spi, sent });
    }

    pub(crate) fn lost_by_network(&mut self, load: &Load) {
        if let Load::Esp(esp) = load {
            self.open.remove(&key(esp));
        }
    }

    /// A packet came to a gateway, which could open it or not.
    pub(crate) fn came(&mut self, esp: &Esp, opened: bool) {
        if opened {
            self.open.remove(&key(esp));
        }
    }

    /// What is on its way, or has never arrived.
    pub fn missing(&self) -> impl Iterator<Item = &Missing> {
        self.open.values()
    }

    /// Nothing of what was sent so far counts any more.
    pub fn forget(&mut self) {
        self.open.clear();
    }
}

fn key(esp: &Esp) -> (usize, Spi, u64) {
    (esp.by, esp.spi, esp.number)
}
