//! What the engine hands to the shell: datagrams to send, changes for the data plane, and news.

use std::net::SocketAddr;

use adit_proto::control::{ChildId, PeerId, SaKey, Spi};
use adit_proto::suite::Suite;

use super::cause::Cause;
use super::config::Mode;
use super::connection::ConnectionState;
use super::error::Error;
use super::facts::IkeSpis;
use super::key_log::KeyLog;
use super::selectors::SelectorPair;
use crate::path::{Hop, PathEvent, PathId, Remote};

/// A datagram to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Whose it is, and which of its paths, when that is known.
    pub peer: Option<PeerId>,
    pub path: Option<PathId>,
    pub hop: Hop,
    /// The UDP payload, with the non-ESP marker where the port asks for one; the message alone in a stream.
    pub payload: Vec<u8>,
    pub after: After,
    /// It may leave as IP fragments: a message that we could not cut (RFC 7383), longer than every path carries.
    pub fragments: bool,
}

/// What a datagram has to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    Nothing,
    /// All that the events before it ask of the data plane must be in force: it invites the peer to send what only then can be
    /// opened.
    Barrier,
}

/// What happened. Events are to be taken before the next [`Transmit`]; where that one is behind a [`After::Barrier`], what they ask
/// of the data plane has to be in force: then the gateway can always open what its messages invite the peer to send.
#[derive(Clone, Debug)]
pub enum Event {
    /// A connection changed its state; the cause says why, when it went down. The SPIs are those of the IKE SA that it is about, if
    /// there is one; that of the responder is zero before its answer.
    State { peer: PeerId, state: ConnectionState, cause: Option<Cause>, spis: Option<IkeSpis> },
    /// The peer was authenticated while there was an IKE SA with it: that one goes on, and this one waits until the peer has shown that it
    /// has it. Then it is up.
    IkeWaits { peer: PeerId, spis: IkeSpis },
    /// An IKE SA is authenticated, or took the place of another one of the same peer.
    IkeUp { peer: PeerId, spis: IkeSpis, replaces: Option<IkeSpis> },
    /// An IKE SA is gone.
    IkeDown { peer: PeerId, spis: IkeSpis, cause: Cause },
    /// A Child SA came to nothing, asked for by whichever end; the IKE SA stays, and it is tried again.
    ChildFailed { peer: PeerId, spis: IkeSpis, cause: Cause },
    /// From now on packets with this SPI may come.
    InstallInbound(Box<ChildKeys>),
    /// From now on what goes to the peer on this lane goes with this SA. Comes once for an SA: it starts at sequence number 1.
    InstallOutbound(Box<ChildKeys>),
    /// Packets with this SPI are strange again.
    RemoveInbound { peer: PeerId, spi: Spi },
    /// The SA is not to be used any more. An `InstallOutbound` in its place has come before, if there is one.
    RemoveOutbound { peer: PeerId, spi: Spi },
    /// Where the peer is, and which way ESP goes to it. A path in use comes before the first `InstallOutbound`.
    Path(PathEvent),
    /// Somebody wanted to connect and was refused: nobody we know, or not the peer that is connected. Anybody can cause it, so it
    /// comes at a limited rate
    /// ([`Limits::refusals`](super::config::Limits)); `more` were refused since the last one and are only counted.
    Refused { from: Remote, why: Error, more: u64 },
    /// A peer is looked for at this address or has proven itself from there, or that is so no more: what comes from there goes before what
    /// strangers send. With port 0 it is all of the address.
    Address { address: SocketAddr, known: bool },
    /// The keys of an SA, for a protocol analyser; only with [`EndpointConfig::key_log`](super::config::EndpointConfig).
    KeyLog(Box<KeyLog>),
}

/// One direction of a Child SA, as the data plane needs it.
#[derive(Clone, Debug)]
pub struct ChildKeys {
    pub peer: PeerId,
    /// Which Child SA of the peer it is: one for all of its lanes and rekeys. Another IKE SA with the peer that makes the same one, as a
    /// new authentication does, gives it the same id.
    pub child: ChildId,
    /// Which worker's SA it is (RFC 9611). Our inbound SPI has it in its low bits.
    pub lane: u8,
    /// The SPI of the packets in this direction.
    pub spi: Spi,
    pub suite: Suite,
    pub key: SaKey,
    /// Whether sequence numbers have 64 bits (the associated data differs).
    pub esn: bool,
    pub mode: Mode,
    pub selectors: SelectorPair,
    /// The SA in the same direction whose place it takes.
    pub replaces: Option<Spi>,
}
