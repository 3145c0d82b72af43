//! Commands on their way to the workers: a queue before the rings, and the answers that are still to come.

use std::collections::{BTreeMap, VecDeque};

use adit_channel::{Master, SendError};
use adit_proto::control::{Command, Direction, Hop, Refusal};

/// Commands not yet sent and not yet answered.
#[derive(Debug)]
pub struct CommandQueue {
    queue: VecDeque<(u16, Command)>,
    unanswered: BTreeMap<u32, (u16, Command)>,
    ticket: u32,
}

impl CommandQueue {
    /// `first_ticket` should differ from run to run: answers to a control plane before us may still come.
    pub fn new(first_ticket: u32) -> CommandQueue {
        CommandQueue { queue: VecDeque::new(), unanswered: BTreeMap::new(), ticket: first_ticket }
    }

    pub fn push(&mut self, worker: u16, command: Command) {
        self.queue.push_back((worker, command));
    }

    pub fn extend(&mut self, commands: Vec<(u16, Command)>) {
        self.queue.extend(commands);
    }

    /// Whether commands wait for room in a ring.
    pub fn waits(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether everything was sent and answered.
    pub fn settled(&self) -> bool {
        self.queue.is_empty() && self.unanswered.is_empty()
    }

    /// Sends as much as the rings take, in order.
    ///
    /// # Errors
    /// A ring is unusable; full is no error.
    pub fn pump(&mut self, master: &mut Master) -> Result<(), SendError> {
        while let Some((worker, command)) = self.queue.front() {
            match master.send(*worker, self.ticket, command) {
                Ok(()) => {}
                Err(SendError::Full) => break,
                Err(error) => return Err(error),
            }
            self.unanswered.extend(self.queue.pop_front().map(|sent| (self.ticket, sent)));
            self.ticket = self.ticket.wrapping_add(1);
        }
        master.flush();
        Ok(())
    }

    /// A command was applied.
    pub fn applied(&mut self, ticket: u32) {
        self.unanswered.remove(&ticket);
    }

    /// A command was refused: which, and in words. Nothing when it was not ours.
    pub fn refused(&mut self, ticket: u32, why: Refusal) -> Option<(Command, String)> {
        let (worker, command) = self.unanswered.remove(&ticket)?;
        // What should be gone is gone: it may have been removed before our time. And an echo that nothing can seal yet, or any more, is
        // one that does not come back.
        let is_expected = matches!(
            (&command, why),
            (Command::SelectorRemove { .. }, Refusal::NoSuchSelector | Refusal::NoSuchPeer)
                | (Command::PeerRemove { .. }, Refusal::NoSuchPeer)
                | (Command::PathRemove { .. }, Refusal::NoSuchPath | Refusal::NoSuchPeer)
                | (
                    Command::ChildSelectorRemove { .. } | Command::ChildRemove { .. },
                    Refusal::NoSuchSelector | Refusal::NoSuchChild | Refusal::NoSuchPeer
                )
                | (Command::SaRemove { .. } | Command::Echo { .. }, Refusal::NoSuchSa | Refusal::NoSuchPeer)
        );
        if is_expected {
            return None;
        }
        let what = format!("the data plane refused to {} on worker {worker}: {}", describe(&command), reason(why));
        Some((command, what))
    }
}

fn describe(command: &Command) -> String {
    let name = |direction: &Direction| if *direction == Direction::Inbound { "inbound" } else { "outbound" };
    match command {
        Command::PeerSet { peer, .. } => format!("set peer {}", peer.0),
        Command::PathSet { peer, path, hop: Hop::Stream(stream), .. } => {
            format!("set path {} of peer {} to {stream}", path.index(), peer.0)
        }
        Command::PathSet { peer, path, hop: Hop::Udp(hop), .. } => {
            format!("set path {} of peer {} to {}", path.index(), peer.0, hop.remote)
        }
        Command::Echo { peer, path, size, .. } => {
            format!("send an echo of {size} bytes on path {} of peer {}", path.index(), peer.0)
        }
        Command::IkeSaAdd { .. } => "know an IKE SA".to_owned(),
        Command::IkeSaRemove { .. } => "forget an IKE SA".to_owned(),
        Command::IkeAddressAdd { address } => format!("know the address {address}"),
        Command::IkeAddressRemove { address } => format!("forget the address {address}"),
        Command::IkeKnownClear => "forget all IKE SAs and addresses".to_owned(),
        Command::PathUse { peer, path } => format!("use path {} of peer {}", path.index(), peer.0),
        Command::PathRemove { peer, path } => format!("remove path {} of peer {}", path.index(), peer.0),
        Command::PeerRemove { peer } => format!("remove peer {}", peer.0),
        Command::OutboundSaInstall(sa) => format!("install the outbound SA {:#010x}", sa.spi.0),
        Command::InboundSaInstall(sa) => format!("install the inbound SA {:#010x}", sa.spi.0),
        Command::SaRemove { spi, direction, .. } => format!("remove the {} SA {:#010x}", name(direction), spi.0),
        Command::FdbPin { mac, peer } => format!("pin {} to peer {}", crate::config::MacText(*mac), peer.0),
        Command::ForwardingSet { .. } => "change the limits of forwarding".to_owned(),
        Command::FdbUnpin { mac } => format!("unpin {}", crate::config::MacText(*mac)),
        Command::SelectorAdd { peer, selector } => format!("add the selector {selector} to peer {}", peer.0),
        Command::SelectorRemove { peer, selector } => format!("remove the selector {selector} from peer {}", peer.0),
        Command::ChildSet { peer, child, .. } => format!("set Child SA {} of peer {}", child.0, peer.0),
        Command::ChildRemove { peer, child } => format!("remove Child SA {} of peer {}", child.0, peer.0),
        Command::ChildSelectorAdd { peer, child, selector } => {
            format!("add the selector {selector} to Child SA {} of peer {}", child.0, peer.0)
        }
        Command::ChildSelectorRemove { peer, child, selector } => {
            format!("remove the selector {selector} from Child SA {} of peer {}", child.0, peer.0)
        }
        Command::SeqLimit { spi, .. } => format!("raise the sequence limit of the SA {:#010x}", spi.0),
    }
}

fn reason(why: Refusal) -> &'static str {
    match why {
        Refusal::Malformed => "it could not parse the record",
        Refusal::NoSuchChild => "the peer has no such Child SA",
        Refusal::ChildrenFull => "the peer has as many Child SAs, or selectors of them, as it may",
        Refusal::NoSuchPeer => "it has no such peer, or no room for its number",
        Refusal::NoSuchSa => "it has no such SA",
        Refusal::SaTableFull => "its table of SAs is full",
        Refusal::SpiInUse => "the SPI is in use, on this worker or another",
        Refusal::WrongWorker => "it belongs to another worker",
        Refusal::BadValue => "a value is out of range",
        Refusal::FdbFull => "its forwarding table is full: raise forwarding.max_entries",
        Refusal::PolicyFull => "its policy table is full",
        Refusal::PolicyOverlap => "too many selectors overlap in their remote addresses",
        Refusal::NoSuchSelector => "the peer has no such selector",
        Refusal::WrongMode => "it runs in the other mode",
        Refusal::NoSuchPath => "the peer has no such path",
        Refusal::IkeSasFull => "its table of IKE SAs is full",
        Refusal::IkeAddressesFull => "its table of known addresses is full",
    }
}
