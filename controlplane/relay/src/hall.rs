//! All rooms of the relay and who is in them, as a pure state machine: no sockets, no clock, no randomness of its own.
//!
//! Connections that have proven their key and records go in; records for clients come out of [`Hall::poll_transmit`], and whom to
//! wake for them out of [`Hall::poll_event`].

use std::net::SocketAddr;
use std::time::Duration;

use adit_proto::relay::{LeftReason, PeerKey, RoomName};

/// One connection of a client. No two have the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(u64);

/// Who has logged in.
#[derive(Clone, Debug)]
pub struct Newcomer {
    pub key: PeerKey,
    /// The rooms that it may be in.
    pub rooms: Vec<RoomName>,
    /// Where its connection comes from.
    pub observed: SocketAddr,
}

/// Why somebody who has logged in is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotLetIn {
    /// The relay or one of the rooms is full.
    Full,
    /// There are already as many connections of this key as may be.
    Replaced,
    /// The relay is about to stop.
    Draining,
}

/// What the shell is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// [`Hall::poll_transmit`] has something for this connection, after it had nothing.
    Wake(ConnId),
}

/// What is next for one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transmit {
    /// Send this as one binary message.
    Record(Vec<u8>),
    /// Nothing now: there will be an [`Event::Wake`].
    Wait,
    /// All is sent: close the connection and say so with [`Hall::disconnect`].
    Close(LeftReason),
}

/// A peer of a room, as it is shown to operators.
#[derive(Clone, Debug)]
pub struct PeerView {
    pub key: PeerKey,
    pub observed: SocketAddr,
    pub udp: Option<SocketAddr>,
    pub metadata: Vec<u8>,
    pub connected: Duration,
    pub idle: Duration,
    pub rtt: Option<Duration>,
}
// The methods, which follow:
// impl Hall {
//     pub fn new(settings: Settings) -> Hall
//     pub fn connect(&mut self, now: Instant, newcomer: Newcomer, random: &mut dyn Random) -> Result<ConnId, NotLetIn>
//     pub fn disconnect(&mut self, now: Instant, conn: ConnId, reason: LeftReason)      // idempotent
//     pub fn handle_message(&mut self, now: Instant, conn: ConnId, bytes: &[u8], random: &mut dyn Random) // one binary message
//     pub fn handle_heard(&mut self, now: Instant, conn: ConnId)                         // a WebSocket ping or pong
//     pub fn handle_rtt(&mut self, conn: ConnId, rtt: Duration)
//     pub fn handle_udp(&mut self, now: Instant, stun_key: &[u8; 16], from: SocketAddr) -> bool
//     pub fn handle_timeout(&mut self, now: Instant)
//     pub fn drain(&mut self, now: Instant, farewell: &Farewell, random: &mut dyn Random)
//     pub fn poll_transmit(&mut self, now: Instant, conn: ConnId) -> Transmit
//     pub fn poll_event(&mut self) -> Option<Event>
//     pub fn poll_timeout(&self) -> Option<Instant>
//     pub fn counters(&self) -> &Counters; clients() -> usize; rooms() -> iterator of (&RoomName, RoomStats);
//     pub fn peers_of(&self, now, room: &RoomName) -> Option<Vec<PeerView>>
// }
