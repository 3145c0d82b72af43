//! What the handle of a session and the task behind it share: what to send with, what was received, and how it stands.
//!
//! Whoever sends seals, and the datagram leaves under the same lock, so packets leave in the order of their numbers. The lock is
//! never held while something waits.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use adit_engine::ike::selectors::SelectorPair;
use adit_engine::path::UdpHop;
use adit_proto::control::{PeerId, Spi};
use nix::errno::Errno;
use tokio::sync::{Notify, watch};
use tokio::task::coop::consume_budget;

use super::error::Error;
use super::esp::{Outbound, Pace, payload_len_max};
use super::packet::Flow;
use super::queue::Queue;
use super::socket::Socket;

/// How a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Not up yet.
    Connecting,
    /// Packets flow.
    Connected,
    /// The connection was lost and is being made anew. [`Session::send_packet`](super::Session::send_packet) refuses meanwhile.
    Reconnecting,
    /// Nothing more comes.
    Closed,
}

/// What protects a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Algorithms {
    /// Of the IKE SA, as `AES_GCM_16_256/PRF_HMAC_SHA2_256/CURVE_25519/ADDKE1_ML_KEM_768`.
    pub ike: String,
    /// Of the packets.
    pub esp: String,
    /// Whether sequence numbers have 64 bits.
    pub extended_sequence_numbers: bool,
    /// Whether a post-quantum key exchange, or a post-quantum preshared key, is in the keys.
    pub post_quantum: bool,
    /// By what the peer proved who it is.
    pub proof: String,
}

/// What went through a session, and what did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub sent_packets: u64,
    pub received_packets: u64,
    /// How often the keys of the packets were replaced.
    pub rekeys: u64,
    /// Bytes of the inner packets.
    pub sent_bytes: u64,
    pub received_bytes: u64,
    /// Received, and dropped because nobody had asked for those before: see [`Options::receive_queue`](super::Options).
    pub dropped_queue_full: u64,
    /// Received outside of the traffic selectors that were agreed (RFC 4301 §5.2).
    pub dropped_selectors: u64,
    /// Received twice, or too late for the replay window.
    pub dropped_replayed: u64,
    /// Received with a wrong tag.
    pub dropped_bad_tag: u64,
    /// Authentic, but no IP packet, or of another version than the packet says.
    pub dropped_malformed: u64,
}

/// What happens to a received packet, each counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    QueueFull,
    Selectors,
    Replayed,
    BadTag,
    Malformed,
}

#[derive(Default)]
struct Counts {
    sent: [AtomicU64; 2],
    received: [AtomicU64; 2],
    dropped: [AtomicU64; 5],
    rekeys: AtomicU64,
}

/// One session.
pub struct Link {
    pub peer: PeerId,
    socket: Arc<Socket>,
    sending: Mutex<Sending>,
    queue: Queue,
    state: watch::Sender<State>,
    counts: Counts,
    terms: Terms,
}

/// What a session is made with.
#[derive(Clone, Debug)]
pub struct Terms {
    pub receive_queue: usize,
    pub path_mtu: u16,
    pub pace: Pace,
    /// Wakes the task: so much was sent that the engine should know.
    pub wake: Arc<Notify>,
}

#[derive(Default)]
struct Sending {
    /// The newest last. Several for a moment, or when the peer has asked for several.
    outbound: Vec<Outbound>,
    /// Where packets go, and from which address of ours.
    hop: Option<UdpHop>,
    identity: String,
    algorithms: Algorithms,
    buffer: Vec<u8>,
}

impl Link {
    pub fn new(peer: PeerId, socket: Arc<Socket>, terms: Terms) -> Arc<Link> {
        Arc::new(Link {
            peer,
            socket,
            sending: Mutex::default(),
            queue: Queue::new(terms.receive_queue, terms.path_mtu.into()),
            state: watch::Sender::new(State::Connecting),
            counts: Counts::default(),
            terms,
        })
    }

    fn sending(&self) -> MutexGuard<'_, Sending> {
        self.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seals and sends a packet.
    pub async fn send(&self, packet: &[u8]) -> Result<(), Error> {
        // A program that sends without pause must not keep the task behind it from running.
        consume_budget().await;
        let flow = Flow::of(packet).map_err(Error::NotIp)?;
        if flow.len != packet.len() {
            return Err(Error::NotIp("it is longer than its header says"));
        }
        let (datagram, hop) = {
            let mut sending = self.sending();
            let hop = sending.seal(packet, &flow, &self.terms).map_err(|error| self.why_closed().unwrap_or(error))?;
            match self.socket.try_send(&sending.buffer, &hop) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => (std::mem::take(&mut sending.buffer), hop),
                result => return self.sent(packet.len(), result),
            }
        };
        let result = self.socket.send(&datagram, &hop).await;
        self.sent(packet.len(), result)
    }

    fn sent(&self, len: usize, result: io::Result<()>) -> Result<(), Error> {
        match result {
            Ok(()) => {
                self.counts.sent[0].fetch_add(1, Relaxed);
                self.counts.sent[1].fetch_add(len as u64, Relaxed);
                Ok(())
            }
            // The kernel has learned of a smaller path MTU, or the interface has one.
            Err(error) if error.raw_os_error() == Some(Errno::EMSGSIZE as i32) => {
                Err(Error::TooBig { len, max: self.mtu().min(len.saturating_sub(1)) })
            }
            Err(error) => Err(Error::io("send", error)),
        }
    }

    /// The next packet of the peer.
    pub async fn receive(&self) -> Result<Vec<u8>, Error> {
        self.queue.pop().await
    }

    /// Takes in a packet of the peer that was opened.
    pub fn take(&self, packet: &[u8]) {
        let count = || {
            self.counts.received[0].fetch_add(1, Relaxed);
            self.counts.received[1].fetch_add(packet.len() as u64, Relaxed);
        };
        if !self.queue.push(packet, count) {
            self.dropped(Fate::QueueFull);
        }
    }

    pub fn dropped(&self, fate: Fate) {
        self.counts.dropped[fate as usize].fetch_add(1, Relaxed);
    }

    pub fn stats(&self) -> Stats {
        let (sent, received) = (&self.counts.sent, &self.counts.received);
        let dropped = |fate: Fate| self.counts.dropped[fate as usize].load(Relaxed);
        Stats {
            sent_packets: sent[0].load(Relaxed),
            sent_bytes: sent[1].load(Relaxed),
            received_packets: received[0].load(Relaxed),
            received_bytes: received[1].load(Relaxed),
            rekeys: self.counts.rekeys.load(Relaxed),
            dropped_queue_full: dropped(Fate::QueueFull),
            dropped_selectors: dropped(Fate::Selectors),
            dropped_replayed: dropped(Fate::Replayed),
            dropped_bad_tag: dropped(Fate::BadTag),
            dropped_malformed: dropped(Fate::Malformed),
        }
    }

    /// Longest inner packet, in bytes.
    pub fn mtu(&self) -> usize {
        let ipv6 = self.sending().hop.is_some_and(|hop| hop.remote.is_ipv6());
        payload_len_max(self.terms.path_mtu, ipv6)
    }

    pub fn remote(&self) -> Option<SocketAddr> {
        self.sending().hop.map(|hop| hop.remote)
    }

    /// What is sent from now on goes this way.
    pub fn set_hop(&self, hop: UdpHop) {
        self.sending().hop = Some(hop);
    }

    /// Who the peer proved to be; empty before it has.
    pub fn identity(&self) -> String {
        self.sending().identity.clone()
    }

    pub fn algorithms(&self) -> Algorithms {
        self.sending().algorithms.clone()
    }

    pub fn set_facts(&self, identity: String, algorithms: Algorithms) {
        let mut sending = self.sending();
        (sending.identity, sending.algorithms) = (identity, algorithms);
    }

    /// What may go through, ours first; `None` while it is down.
    pub fn selectors(&self) -> Option<SelectorPair> {
        self.sending().outbound.last().map(|sa| sa.selectors.clone())
    }

    pub fn install(&self, sa: Outbound, is_rekey: bool) {
        self.sending().outbound.push(sa);
        self.counts.rekeys.fetch_add(is_rekey.into(), Relaxed);
        self.enter(State::Connected);
    }

    pub fn remove(&self, spi: Spi) {
        self.sending().outbound.retain(|sa| sa.spi() != spi);
    }

    /// Whether there is something to send with.
    pub fn is_up(&self) -> bool {
        !self.sending().outbound.is_empty()
    }

    /// Packets and bytes that an SA has sealed, and whether it needs a successor.
    pub fn usage(&self, spi: Spi) -> Option<(u64, u64, bool)> {
        let sending = self.sending();
        let sa = sending.outbound.iter().find(|sa| sa.spi() == spi)?;
        let (packets, bytes) = sa.usage();
        Some((packets, bytes, sa.is_past_soft_limit()))
    }

    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    /// The state, for whoever waits for another one.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Enters a state; closed stays closed.
    pub fn enter(&self, state: State) {
        self.state.send_if_modified(|current| {
            let changes = *current != state && *current != State::Closed;
            if changes {
                *current = state;
            }
            changes
        });
    }

    /// Ends it; the first reason stays.
    pub fn close(&self, why: Error) {
        self.queue.close(why);
        self.sending().outbound.clear();
        self.enter(State::Closed);
    }

    pub fn why_closed(&self) -> Option<Error> {
        self.queue.closed()
    }
}

impl Sending {
    /// Seals a packet into the buffer with the newest SA that is for it.
    fn seal(&mut self, packet: &[u8], flow: &Flow, terms: &Terms) -> Result<UdpHop, Error> {
        let hop = self.hop.ok_or(Error::NotConnected)?;
        if self.outbound.is_empty() {
            return Err(Error::NotConnected);
        }
        let covers = |sa: &&mut Outbound| flow.is_covered(&sa.selectors.local, &sa.selectors.remote);
        let sa = self.outbound.iter_mut().rev().find(covers).ok_or(Error::Selectors {
            source_address: flow.source(),
            destination: flow.destination(),
            protocol: flow.packet.protocol.unwrap_or(0),
        })?;
        let max = payload_len_max(terms.path_mtu, hop.remote.is_ipv6());
        if packet.len() > max {
            return Err(Error::TooBig { len: packet.len(), max });
        }
        sa.seal(flow.next_header(), packet, &mut self.buffer).map_err(|_| Error::Exhausted)?;
        if sa.report(terms.pace) {
            terms.wake.notify_one();
        }
        Ok(hop)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sending = self.sending();
        write!(f, "{:?} with {} at {:?}", self.state(), sending.identity, sending.hop.map(|hop| hop.remote))
    }
}
