//! The records that cross between the planes: commands down, events up, punt up, inject down.
//!
//! The other plane is a stranger: records are copied out of shared memory first and then parsed like a packet.

mod path;
mod wire;

use std::fmt;
use std::net::SocketAddr;

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::echo::Answer;
use crate::ike::{AddressRange, IkeSpi, IpSelector, PortRange};
use crate::suite::{KEY_LEN_MAX, SALT_LEN, Suite};

pub use crate::esp::{Mode, Spi};
pub use path::{Hop, InjectHeader, LocalEnd, PATHS_MAX, PathId, PuntHeader, StreamId, TrainHeader, UdpHop, Via};
pub use wire::RECORD_LEN_MAX;

/// Index of a peer in the tables of both planes; chosen by the control plane, below the data plane's `max_peers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u16);

/// A Child SA of a peer: all its lanes, through all its rekeys. Local to the peer, chosen by the control plane; a gateway of Ethernet
/// frames has [`ChildId::ONLY`] alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChildId(pub u16);

impl ChildId {
    /// That of a peer with a static key, and of one that carries Ethernet frames.
    pub const ONLY: ChildId = ChildId(0);
}

/// Tells apart the peers that have one id one after the other. The control plane derives it from the peer's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerTag(pub u64);

/// A MAC address.
pub type Mac = [u8; 6];

/// Which way the packets of an SA go, as seen from this gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    Inbound = 1,
    Outbound = 2,
}

/// The key of an SA, with its salt. Wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct SaKey {
    /// The first `suite.key_len()` bytes are the key.
    pub key: [u8; KEY_LEN_MAX],
    /// The first four bytes of every nonce.
    pub salt: [u8; SALT_LEN],
}

impl fmt::Debug for SaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SaKey(…)")
    }
}

/// What the data plane needs to seal to a peer on one lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundSa {
    pub spi: Spi,
    pub peer: PeerId,
    pub child: ChildId,
    pub suite: Suite,
    pub key: SaKey,
    /// Sequence number of the first packet to be sealed, at least 1.
    pub seq_next: u64,
    /// No packet is sealed with a sequence number above this one; half-way there, `Event::SeqHalfway` is sent once.
    pub seq_limit: u64,
    /// Inner checksums that the kernel left open may stay open and be marked so (both ends are Adit, and carry Ethernet).
    pub defer_checksums: bool,
    /// Extended sequence numbers (RFC 4303 §2.2.1). Without them the last number is 2^32 − 1, and `seq_limit` is at most that.
    pub esn: bool,
}

/// What the data plane needs to open what a peer sealed on one lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundSa {
    pub spi: Spi,
    pub peer: PeerId,
    pub child: ChildId,
    pub suite: Suite,
    pub key: SaKey,
    /// Size of the replay window in packets: a power of two, 64 to 16384.
    pub window: u16,
    /// Every sequence number up to and including this one counts as seen.
    pub seq_top: u64,
    /// Take the high half of the sequence number from the IV when it cannot be inferred (static keys: the peer may have restarted).
    /// Only with `esn`, and only from a peer whose IVs are its sequence numbers: nothing else says what an IV means.
    pub resync: bool,
    /// Extended sequence numbers (RFC 4303 §2.2.1). Without them `seq_top` is at most 2^32 − 1.
    pub esn: bool,
}

pub use crate::limits::SELECTOR_OVERLAPS_MAX;

/// Which packets belong to a peer in IP mode (RFC 4301 §4.4.1.1, RFC 7296 §2.9), seen from this gateway: the source of what we send
/// is `local`, the source of what we receive is `remote`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Selector {
    /// Of the same IP version as `remote`.
    pub local: AddressRange,
    pub remote: AddressRange,
    /// IP protocol number; 0 is any.
    pub protocol: u8,
    /// Ports; type and code of ICMP that we send stand in `local_ports`, of ICMP that we receive in `remote_ports`
    /// (RFC 4301 §4.4.1.3).
    pub local_ports: PortRange,
    pub remote_ports: PortRange,
}

impl Selector {
    /// Every packet between these addresses.
    pub const fn any_of(local: AddressRange, remote: AddressRange) -> Selector {
        Selector { local, remote, protocol: 0, local_ports: PortRange::ANY, remote_ports: PortRange::ANY }
    }

    /// Whether it can match anything: one IP version, and no range that ends before it begins, but for OPAQUE ports.
    pub fn is_valid(&self) -> bool {
        let rises = |range: &AddressRange| range.first() <= range.last();
        let ports = |range: PortRange| range.first <= range.last || range == PortRange::OPAQUE;
        let one_version = self.local.first().is_ipv4() == self.remote.first().is_ipv4();
        one_version && rises(&self.local) && rises(&self.remote) && ports(self.local_ports) && ports(self.remote_ports)
    }
}

/// `10.1.0.0/24[6] <> 10.2.0.0/24[6/443]`: local, then remote.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |addresses, ports| IpSelector { protocol: self.protocol, ports, addresses };
        write!(f, "{} <> {}", side(self.local, self.local_ports), side(self.remote, self.remote_ports))
    }
}

/// A change that the control plane commands. A worker applies commands between batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Adds a peer or changes it; a peer of another tag that has the id is removed first. Goes to every worker.
    PeerSet {
        peer: PeerId,
        tag: PeerTag,
        /// The peer has announced that it understands sealed echoes ([`crate::echo`]): its requests are answered.
        echo: bool,
        /// Both ends join halves ([`crate::half`]): what is too long for the path and cannot be cut goes as two of them.
        split: bool,
    },
    /// Adds a path to a peer or changes it. Nothing is sent on it before it is in use. Goes to every worker.
    PathSet {
        peer: PeerId,
        path: PathId,
        hop: Hop,
        /// Largest outer IP packet on the path that is known to arrive, in bytes: what is longer is cut or fragmented inside.
        mtu: u16,
        /// What senders are told that fits, where nothing can be cut. Above `mtu` while the size is being looked for: a host would
        /// remember the smaller one for minutes. What is in between goes out as it is.
        mtu_reported: u16,
    },
    /// From here on what is sent to the peer goes by this path, which has been set before. Goes to every worker.
    PathUse {
        peer: PeerId,
        path: PathId,
    },
    /// Removes a path. When it is the one in use, nothing goes to the peer until another is. Goes to every worker.
    PathRemove {
        peer: PeerId,
        path: PathId,
    },
    /// Sends a sealed echo request ([`crate::echo`]) on a path, in use or not. To a worker that has an outbound SA of the peer.
    Echo {
        peer: PeerId,
        path: PathId,
        /// 64 random bits.
        id: u64,
        /// Length of the outer IP packet, in bytes.
        size: u16,
        answer: Answer,
    },
    /// Messages of this IKE SA go up before those of strangers. Goes to worker 0, which gets all of IKE.
    IkeSaAdd {
        initiator: IkeSpi,
        responder: IkeSpi,
    },
    IkeSaRemove {
        initiator: IkeSpi,
        responder: IkeSpi,
    },
    /// Messages from this address go up before those of strangers: a peer is looked for there, or has proven itself from there. With port 0
    /// from all of it. Goes to worker 0.
    IkeAddressAdd {
        address: SocketAddr,
    },
    IkeAddressRemove {
        address: SocketAddr,
    },
    /// All IKE SAs and addresses, for instance those of a control plane that is gone.
    IkeKnownClear,
    /// Removes a peer, its paths, its Child SAs, its learned addresses and its selectors. Goes to every worker.
    PeerRemove {
        peer: PeerId,
    },
    /// Adds a Child SA to a peer or changes it. SAs and selectors belong to one. Goes to every worker.
    ChildSet {
        peer: PeerId,
        child: ChildId,
        /// Outbound SAs that are (or will be) installed: on workers 0 to `lanes` − 1. The others hand their frames over. With none
        /// it only receives.
        lanes: u16,
    },
    /// Removes a Child SA with its selectors and what there is of its SAs on this worker. Goes to every worker.
    ChildRemove {
        peer: PeerId,
        child: ChildId,
    },
    /// Goes to the worker that has the lane's number, and to no other: two that sealed with one key would repeat nonces.
    OutboundSaInstall(OutboundSa),
    /// Goes to the worker that the SPI names.
    InboundSaInstall(InboundSa),
    /// An outbound SPI is the peer's choice, so it names an SA only together with the peer.
    SaRemove {
        peer: PeerId,
        spi: Spi,
        direction: Direction,
    },
    /// Pins an address to a peer; it neither ages nor moves. Goes to every worker.
    FdbPin {
        mac: Mac,
        peer: PeerId,
    },
    FdbUnpin {
        mac: Mac,
    },
    /// How long addresses are kept, and how much goes to all peers. Ethernet mode only. Goes to every worker.
    ForwardingSet {
        /// Seconds until an address is forgotten from which nothing came: [`limits::FDB_AGEING_S`](crate::limits::FDB_AGEING_S).
        ageing_s: u32,
        /// Frames per second that the worker sends to all peers: [`limits::FLOOD_PPS`](crate::limits::FLOOD_PPS).
        flood_pps: u32,
    },
    /// Allows an outbound SA to go on up to a new limit.
    SeqLimit {
        peer: PeerId,
        spi: Spi,
        seq_limit: u64,
    },
    /// What is configured: packets of this selector belong to the peer, to and from it. Of all peers the most specific one decides
    /// whose an address is. One that the peer has changes nothing. IP mode only. Goes to every worker.
    SelectorAdd {
        peer: PeerId,
        selector: Selector,
    },
    /// Removes the selector of exactly this value. Goes to every worker.
    SelectorRemove {
        peer: PeerId,
        selector: Selector,
    },
    /// What was negotiated: the Child SA carries packets of this selector, as far as they belong to the peer. One that it has changes
    /// nothing. IP mode only. Goes to every worker.
    ChildSelectorAdd {
        peer: PeerId,
        child: ChildId,
        selector: Selector,
    },
    /// Removes the selector of exactly this value. Goes to every worker.
    ChildSelectorRemove {
        peer: PeerId,
        child: ChildId,
        selector: Selector,
    },
}

/// Why a worker refused a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// The record could not be parsed.
    Malformed = 1,
    /// The peer id is not below `max_peers`, or the peer is not set.
    NoSuchPeer = 2,
    /// The peer has no SA with this SPI and direction.
    NoSuchSa = 3,
    /// The table of SAs is full.
    SaTableFull = 4,
    /// An SA with this SPI exists, here or (outbound, of the same peer) on another worker.
    SpiInUse = 5,
    /// The inbound SPI belongs to another worker; the peer has no outbound lane for this one.
    WrongWorker = 6,
    /// A value is out of range (window, MTU, sequence numbers).
    BadValue = 7,
    /// The forwarding table is full.
    FdbFull = 8,
    /// The policy table is full.
    PolicyFull = 9,
    /// Too many selectors overlap in their remote addresses: a look-up would take too long.
    PolicyOverlap = 10,
    /// The peer, or its Child SA, has no such selector.
    NoSuchSelector = 11,
    /// The command is for a data plane of the other mode.
    WrongMode = 12,
    /// The peer has no such path.
    NoSuchPath = 13,
    /// The table of IKE SAs is full: messages of this one go up with those of strangers.
    IkeSasFull = 14,
    /// The peer has no such Child SA.
    NoSuchChild = 15,
    /// The peer has as many Child SAs as it may, or they as many selectors.
    ChildrenFull = 16,
    /// The table of known addresses is full: messages from this one go up with those of strangers.
    IkeAddressesFull = 17,
}

/// What a worker reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The command with this ticket was applied.
    Applied { ticket: u32 },
    /// The command with this ticket changed nothing.
    Refused { ticket: u32, why: Refusal },
    /// Half of the sequence numbers that were granted are used.
    SeqHalfway { peer: PeerId, spi: Spi },
    /// The first packet was opened on an inbound SA: the peer has its Child SA and sends on it.
    InboundSaUsed { peer: PeerId, spi: Spi },
    /// A feature was switched off at run time (for instance UDP_SEGMENT after EIO).
    Degraded { what: Feature },
    /// Authentic packets, newer than all before them, came another way than by the path in use. Told at once when that begins, and
    /// once a second at most for each path as long as it goes on, and for all that belong to no path together. Nothing is sent
    /// elsewhere for that: it is the control plane that decides paths.
    PathSeen {
        peer: PeerId,
        tag: PeerTag,
        /// The path with this remote end, if there is one.
        path: Option<PathId>,
        via: Via,
        /// Bytes of UDP payload that came this way just now, less those with which echoes were answered there: no more may be sent there
        /// before it is proven.
        bytes: u32,
    },
    /// A peer answered a sealed echo. Told at a limited rate for each peer.
    EchoReply {
        peer: PeerId,
        tag: PeerTag,
        id: u64,
        /// What was asked for, not what the reply had.
        size: u16,
        /// From the request to this, in microseconds.
        rtt_us: u32,
        /// How the reply came: the path with this remote end, if there is one.
        path: Option<PathId>,
        via: Via,
    },
    /// The kernel did not send an echo: it is longer than the device takes, or there is no way.
    EchoUnsent { peer: PeerId, tag: PeerTag, id: u64 },
    /// The worker stopped; the process is about to end.
    WorkerFailed { errno: i32, at: Place },
    /// Somebody has deleted the interface: nothing goes out or comes in until there is another one.
    InterfaceGone,
}

/// What the driver of an interface takes in one piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Super-frames of TCP.
    pub tso: bool,
    /// Super-frames of UDP.
    pub uso: bool,
}

/// A kernel feature that can be lost at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Feature {
    UdpSegment = 2,
}

/// Where a worker failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Place {
    TapRead = 1,
    TapWrite = 2,
    UdpReceive = 3,
    Wait = 5,
}
