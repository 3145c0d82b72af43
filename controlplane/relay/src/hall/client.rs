//! One client in the hall: what it may still have, what waits for it, what was counted of it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use adit_proto::relay::{LeftReason, PeerKey, Quota, RoomName, STUN_KEY_LEN, STUN_NAME_LEN};

use super::ConnId;
use super::settings::Settings;
use crate::login::Pass;
use crate::queue::{Dropped, Queue};
use crate::quotas::Share;

/// A client is not told twice of the same refusal within this time, nor that the same peer is absent.
const REST: Duration = Duration::from_secs(1);

/// What was counted of one client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientCounts {
    /// Records that it sent.
    pub records: u64,
    /// Trains that it sent and that were taken, and their bytes.
    pub trains_sent: u64,
    pub bytes_sent: u64,
    /// Trains that it was given, and the bytes of their records.
    pub trains_received: u64,
    pub bytes_received: u64,
    /// Trains for it that were dropped.
    pub dropped: Dropped,
    /// What was refused to it.
    pub refused: u64,
    pub introductions: u64,
}

/// What is left of its shares. It goes on to a newer connection with the same key.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shares {
    pub records: Share,
    pub bytes: Share,
    pub ike_bytes: Share,
    pub requests: Share,
    pub descriptions: Share,
}

#[derive(Debug)]
pub(super) struct Client {
    pub key: PeerKey,
    /// In their order.
    pub rooms: Vec<RoomName>,
    pub observed: SocketAddr,
    pub pass: Pass,
    /// Where it is reached by UDP over IPv4, and over IPv6.
    pub udp: [Option<SocketAddr>; 2],
    pub stun_secret: [u8; STUN_KEY_LEN - STUN_NAME_LEN],
    pub metadata: Vec<u8>,
    pub since: Instant,
    pub heard: Instant,
    pub rtt: Option<Duration>,
    pub shares: Shares,
    pub queue: Queue,
    /// Peers to which its data goes by another path: of its rooms only.
    pub direct: BTreeSet<PeerKey>,
    /// It has read all, and is to be woken for more.
    pub waits: bool,
    /// It is not in the hall any more; what waits for it is sent, then it is closed.
    pub closing: Option<Closing>,
    pub counts: ClientCounts,
    reported: Reported,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Closing {
    pub reason: LeftReason,
    pub since: Instant,
    /// The shell was told not to wait for it.
    pub aborted: bool,
}

/// What it was told lately.
#[derive(Debug, Default)]
struct Reported {
    /// Until when it is not told of a refusal again, by the number of the quota.
    refused: [Option<Instant>; 8],
    absent: Option<(PeerKey, Instant)>,
}

impl Client {
    pub fn new(now: Instant, key: PeerKey, rooms: Vec<RoomName>, observed: SocketAddr, settings: &Settings) -> Client {
        Client {
            key,
            rooms,
            observed,
            pass: Pass::default(),
            udp: [None; 2],
            stun_secret: [0; STUN_KEY_LEN - STUN_NAME_LEN],
            metadata: Vec::new(),
            since: now,
            heard: now,
            rtt: None,
            shares: Shares::default(),
            queue: Queue::new(settings.queue),
            direct: BTreeSet::new(),
            waits: false,
            closing: None,
            counts: ClientCounts::default(),
            reported: Reported::default(),
        }
    }

    /// The place of a room among those that it is in: there are never more than a byte counts.
    pub fn number_of(&self, room: &RoomName) -> Option<u8> {
        self.rooms.binary_search(room).ok().and_then(|number| number.try_into().ok())
    }

    /// A room that both are in.
    pub fn common_room(&self, other: &Client) -> Option<&RoomName> {
        self.rooms.iter().find(|room| other.rooms.binary_search(room).is_ok())
    }

    /// Where it is reached by UDP by somebody else: over an IP version that both have, IPv6 first, since there is no NAT as a rule.
    pub fn udp_for(&self, other: &Client) -> Option<SocketAddr> {
        let common = [1, 0].into_iter().find(|version: &usize| self.udp[*version].is_some() && other.udp[*version].is_some());
        common.map_or_else(|| self.udp.iter().flatten().next().copied(), |version| self.udp[version])
    }

    /// Whether it is to be told of a refusal that holds for so long.
    pub fn tell_refused(&mut self, now: Instant, what: Quota, wait: Duration) -> bool {
        let told = &mut self.reported.refused[usize::from(what.0) % 8];
        let is_due = told.is_none_or(|until| now >= until);
        if is_due {
            *told = Some(now + wait.max(REST));
        }
        is_due
    }

    /// Whether it is to be told that this peer is absent, to whom it has sent something.
    pub fn tell_absent(&mut self, now: Instant, peer: PeerKey) -> bool {
        let known = |(told, at): (PeerKey, Instant)| told == peer && now.saturating_duration_since(at) < REST;
        let is_due = !self.reported.absent.is_some_and(known);
        if is_due {
            self.reported.absent = Some((peer, now));
        }
        is_due
    }
}

/// A peer of a room, as it is shown to operators.
#[derive(Clone, Debug)]
pub struct PeerView {
    pub key: PeerKey,
    pub conn: ConnId,
    /// Where its connection comes from, and where it is reached by UDP over IPv4 and IPv6.
    pub observed: SocketAddr,
    pub udp: [Option<SocketAddr>; 2],
    /// What it says of itself: nobody has verified it.
    pub metadata: Vec<u8>,
    pub connected: Duration,
    pub idle: Duration,
    pub rtt: Option<Duration>,
    /// To so many peers its data goes by another path.
    pub direct: usize,
    pub counts: ClientCounts,
}

impl PeerView {
    pub(super) fn of(now: Instant, conn: ConnId, client: &Client) -> PeerView {
        PeerView {
            key: client.key,
            conn,
            observed: client.observed,
            udp: client.udp,
            metadata: client.metadata.clone(),
            connected: now.saturating_duration_since(client.since),
            idle: now.saturating_duration_since(client.heard),
            rtt: client.rtt,
            direct: client.direct.len(),
            counts: client.counts,
        }
    }
}
