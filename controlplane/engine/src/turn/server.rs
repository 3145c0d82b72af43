//! The TURN server as a state machine: datagrams, streams and time go in; datagrams, and sockets that may be closed, come out.
//!
//! 1. [`Server::handle_client`] takes what a client sent: payload goes on at once ([`data`]), questions are checked ([`admission`]) and
//!    answered ([`requests`]).
//! 2. [`Server::handle_peer`] takes what came to a relayed address.
//! 3. [`Server::poll_transmit`] and [`Server::poll_event`] give what follows, [`Server::poll_timeout`] when [`Server::handle_timeout`] is due.
//!
//! Allocations are found by 5-tuple or by relayed address with one look into a table. Trains of equal datagrams, as the kernel hands them over,
//! stay trains. Nothing is kept of anybody who has not proven to have credentials. An allocation belongs to an identity, not to one
//! user name: names expire, and the next one of the same identity carries on with it.
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use super::allocation::{Allocation, Family, Relayed};
use super::allowed::Allowed;
use super::channel;
use super::link::{Link, Tuple};
use crate::crypto::Secret;
use crate::limits::{
    STUN_LEN_MAX, TURN_BYTES_OF_ALL, TURN_BYTES_OF_IDENTITY, TURN_OF_IDENTITY_MAX, TURN_STALE_CHECKS, TURN_TOTAL_MAX,
    TURN_TRAIN_LEN_MAX,
};
use crate::random::Random;
use crate::rate_limit::Bucket;
use crate::stun::codec::{Class, Message};
use crate::stun::counters::counters;
use crate::stun::nonces::Nonces;
use crate::stun::strangers::Strangers;

mod admission;
mod data;
mod requests;
#[cfg(test)]
mod tests;

/// The time, as a clock that never goes back and as seconds since 1970, by which credentials expire.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub at: Instant,
    pub unix: u64,
}

/// Datagrams of one sender that came together: all of `segment` bytes but the last, which may be shorter.
#[derive(Clone, Copy, Debug)]
pub struct Train<'a> {
    pub bytes: &'a [u8],
    /// Zero: one datagram.
    pub segment: usize,
    /// The two bits of ECN, which stay with the packets.
    pub ecn: u8,
}

impl<'a> Train<'a> {
    /// One datagram.
    pub fn one(bytes: &'a [u8]) -> Train<'a> {
        Train { bytes, segment: 0, ecn: 0 }
    }

    /// One by one; an empty datagram is one, too.
    fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let segment = if self.segment == 0 { self.bytes.len() } else { self.segment };
        let empty = self.bytes.is_empty().then_some(self.bytes);
        self.bytes.chunks(segment.max(1)).chain(empty)
    }
}

/// Where we send from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client(Link),
    Relayed(SocketAddr),
}

/// What is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    pub from: Side,
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
    /// As in [`Train`].
    pub segment: usize,
    pub ecn: u8,
    /// Whoever asked for it wants it to be lost rather than cut (DONT-FRAGMENT, RFC 8656 §18.8).
    pub whole: bool,
}

/// What the shell must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nobody has this relayed address any more.
    Closed(SocketAddr),
}

/// What an allocation needs from outside.
pub struct Outside<'a> {
    pub random: &'a mut dyn Random,
    /// Opens a socket at a relayed address; false where that cannot be.
    pub open: &'a mut dyn FnMut(SocketAddr) -> bool,
}

counters! {
    /// What becomes of questions and packets.
    Count,
    /// How many of each there were.
    Counters {
        /// Questions that were answered as asked.
        Granted = "granted",
        /// Questions of known clients that were refused.
        Refused = "refused",
        /// 401 and the like, to strangers.
        Challenged = "challenged",
        /// 438: the nonce has expired.
        StaleNonce = "stale_nonce",
        /// Strangers who got no answer, because it would have been the longer one.
        Longer = "longer",
        /// Strangers who got no answer, because their network had its share of this second.
        Often = "often",
        /// Neither STUN nor ChannelData.
        Malformed = "malformed",
        /// STUN that a server of TURN has no use for.
        Foreign = "foreign",
        /// Packets without an allocation.
        NoAllocation = "no_allocation",
        /// Packets on a channel that leads nowhere.
        NoChannel = "no_channel",
        /// Packets to or from somebody without permission.
        NoPermission = "no_permission",
        /// Packets to where nobody may send.
        Forbidden = "forbidden",
        /// Packets of who has had his bytes of this second, or when all have had them.
        OverRate = "over_rate",
        /// Questions that were not looked at, because their network asks too often.
        OverAsked = "over_asked",
        /// Packets that are too long with what TURN puts before them.
        TooLong = "too_long",
        /// Packets from clients to peers, and their bytes.
        ToPeers = "to_peers",
        ToPeersBytes = "to_peers_bytes",
        /// Packets from peers to clients, and their bytes.
        ToClients = "to_clients",
        ToClientsBytes = "to_clients_bytes",
        /// Allocations that were made and that have ended.
        Made = "made",
        Ended = "ended",
    }
}

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Named in every challenge: the shorter, the sooner strangers get one.
    pub realm: String,
    /// Of which passwords are made.
    pub secret: Secret,
    /// Addresses that are lent, at most one of each family.
    pub relayed: Vec<Lent>,
    pub ports: RangeInclusive<u16>,
    pub allowed: Allowed,
    /// Allocations of one identity, and of all.
    pub of_identity_max: usize,
    pub total_max: usize,
    /// Bytes in a second, to and from peers together: of one identity, and of all (RFC 8656 §5).
    pub bytes_of_identity: u32,
    pub bytes_of_all: u32,
    pub nonce_life: Duration,
}

/// An address that is lent: the machine's own, and what others see in its place, where a NAT one to one is before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lent {
    pub bind: IpAddr,
    pub shown: IpAddr,
}

impl From<IpAddr> for Lent {
    fn from(ip: IpAddr) -> Lent {
        Lent { bind: ip, shown: ip }
    }
}

impl Config {
    /// What is usual, for a secret and the addresses that are lent. These are the server's own, too.
    pub fn new(secret: Secret, relayed: Vec<Lent>) -> Config {
        let own = relayed.iter().flat_map(|lent| [lent.bind, lent.shown]).collect();
        // RFC 8656 §7.2 wants ports of the dynamic range, RFC 8489 §9.2 nonces that live for minutes.
        let (ports, nonce_life) = (49_152..=u16::MAX, Duration::from_secs(600));
        Config {
            realm: "adit".to_owned(),
            secret,
            relayed,
            ports,
            allowed: Allowed { own, ..Allowed::default() },
            of_identity_max: TURN_OF_IDENTITY_MAX,
            total_max: TURN_TOTAL_MAX,
            bytes_of_identity: TURN_BYTES_OF_IDENTITY,
            bytes_of_all: TURN_BYTES_OF_ALL,
            nonce_life,
        }
    }

    fn relayed(&self, family: Family) -> Option<IpAddr> {
        self.relayed.iter().map(|lent| lent.bind).find(|ip| ip.is_ipv4() == (family == Family::V4))
    }

    /// A relayed address as others see it.
    fn outward(&self, at: SocketAddr) -> SocketAddr {
        let lent = self.relayed.iter().find(|lent| lent.bind == at.ip());
        lent.map_or(at, |lent| SocketAddr::new(lent.shown, at.port()))
    }

    /// Where our own socket is that others see here.
    fn inward(&self, at: SocketAddr) -> SocketAddr {
        let lent = self.relayed.iter().find(|lent| lent.shown == at.ip());
        lent.map_or(at, |lent| SocketAddr::new(lent.bind, at.port()))
    }
}

/// Who has allocations, or had some and bytes of this second with them.
#[derive(Debug)]
struct Owner {
    allocations: usize,
    bytes: Bucket,
}

/// So many bytes in a second, and at least two trains at once.
fn bytes_bucket(rate: u32) -> Bucket {
    Bucket::with_burst(rate, rate.max(2 * TURN_TRAIN_LEN_MAX as u32))
}

/// When which relayed address of which allocation ends.
type Deadline = (Instant, usize, u8);

/// The server.
#[derive(Debug)]
pub struct Server {
    config: Config,
    nonces: Nonces,
    strangers: Strangers,
    allocations: Vec<Option<Allocation>>,
    /// Places in `allocations` that are free.
    free: Vec<usize>,
    by_tuple: HashMap<Tuple, usize>,
    by_relayed: HashMap<SocketAddr, usize>,
    by_identity: HashMap<Box<str>, Owner>,
    /// Bytes of all.
    bytes: Bucket,
    /// Questions with an old nonce whose credentials are computed.
    stale_checks: Bucket,
    /// Nobody is lent anything any more.
    draining: bool,
    deadlines: BTreeSet<Deadline>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    counters: Counters,
}

impl Server {
    /// A server without allocations.
    pub fn new(config: Config, now: Instant, random: &mut dyn Random) -> Server {
        let mut key = [0; 32];
        random.fill(&mut key);
        Server {
            nonces: Nonces::new(key, now, config.nonce_life),
            strangers: Strangers::new(random.u64()),
            bytes: bytes_bucket(config.bytes_of_all),
            stale_checks: Bucket::new(TURN_STALE_CHECKS),
            draining: false,
            config,
            allocations: Vec::new(),
            free: Vec::new(),
            by_tuple: HashMap::new(),
            by_relayed: HashMap::new(),
            by_identity: HashMap::new(),
            deadlines: BTreeSet::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// What became of everything so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Allocations that live.
    pub fn allocations(&self) -> usize {
        self.by_tuple.len()
    }

    /// From now on nobody is lent anything; what there is, lives on.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Whether this client has an allocation: a connection without one is not kept for long.
    pub fn has_allocation(&self, from: Tuple) -> bool {
        self.by_tuple.contains_key(&from)
    }

    /// A client sent these datagrams, or this message by a stream.
    pub fn handle_client(&mut self, now: Now, from: Tuple, train: Train<'_>, outside: &mut Outside<'_>) {
        let mut gathered = data::Gathered::default();
        for datagram in train.datagrams() {
            if let Some((number, payload)) = channel::split(datagram) {
                self.gather(now, from, &mut gathered, number, payload, train.ecn);
                continue;
            }
            self.flush(now, &mut gathered, train.ecn);
            self.handle_message(now, from, datagram, train.ecn, outside);
        }
        self.flush(now, &mut gathered, train.ecn);
    }

    fn handle_message(&mut self, now: Now, from: Tuple, bytes: &[u8], ecn: u8, outside: &mut Outside<'_>) {
        let Ok(message) = Message::parse(bytes) else {
            self.counters.add(Count::Malformed, 1);
            return;
        };
        match (message.class, message.method) {
            (Class::Indication, super::method::SEND) => self.handle_send(now, from, &message, ecn),
            (Class::Request, _) => self.handle_request(now, from, &message, outside),
            _ => self.counters.add(Count::Foreign, 1),
        }
    }

    /// The connection of this number has ended, and with it what was allocated over it (RFC 8656 §3.1).
    pub fn handle_closed(&mut self, from: Tuple) {
        if let Some(index) = self.by_tuple.get(&from).copied() {
            self.end(index);
        }
    }

    /// Ends what has come to its end.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((until, index, family)) = self.deadlines.first().copied().filter(|deadline| deadline.0 <= now) {
            self.deadlines.remove(&(until, index, family));
            self.end_relayed(index, usize::from(family));
        }
        self.by_identity.retain(|_, owner| owner.allocations > 0 || !owner.bytes.is_full(now));
    }

    /// When [`Server::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|deadline| deadline.0)
    }

    /// What is to be sent next.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// What the shell must know next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn allocation(&self, from: Tuple) -> Option<(usize, &Allocation)> {
        let index = *self.by_tuple.get(&from)?;
        self.allocations.get(index)?.as_ref().map(|allocation| (index, allocation))
    }

    fn allocation_mut(&mut self, from: Tuple) -> Option<&mut Allocation> {
        self.allocations.get_mut(*self.by_tuple.get(&from)?)?.as_mut()
    }

    /// Keeps a new allocation.
    fn insert(&mut self, allocation: Allocation) {
        let index = self.free.pop().unwrap_or(self.allocations.len());
        for (family, relayed) in allocation.relayed.iter().enumerate() {
            if let Some(Relayed { at, until }) = relayed {
                self.by_relayed.insert(*at, index);
                self.deadlines.insert((*until, index, family as u8));
            }
        }
        let rate = self.config.bytes_of_identity;
        let new = || Owner { allocations: 0, bytes: bytes_bucket(rate) };
        self.by_identity.entry(allocation.identity.clone()).or_insert_with(new).allocations += 1;
        self.by_tuple.insert(allocation.tuple, index);
        self.counters.add(Count::Made, 1);
        if index == self.allocations.len() {
            self.allocations.push(Some(allocation));
        } else {
            self.allocations[index] = Some(allocation);
        }
    }

    /// Gives one relayed address back, and the allocation with the last one.
    fn end_relayed(&mut self, index: usize, family: usize) {
        let Some(allocation) = self.allocations.get_mut(index).and_then(Option::as_mut) else { return };
        let Some(relayed) = allocation.relayed[family].take() else { return };
        let is_last = allocation.relayed.iter().all(Option::is_none);
        self.by_relayed.remove(&relayed.at);
        self.deadlines.remove(&(relayed.until, index, family as u8));
        self.events.push_back(Event::Closed(relayed.at));
        if !is_last {
            return;
        }
        let Some(allocation) = self.allocations[index].take() else { return };
        self.by_tuple.remove(&allocation.tuple);
        if let Some(owner) = self.by_identity.get_mut(&allocation.identity) {
            owner.allocations -= 1;
            // Else a new allocation would have new bytes: it is forgotten when all are earned again.
            if owner.allocations == 0 && owner.bytes.was_full() {
                self.by_identity.remove(&allocation.identity);
            }
        }
        self.free.push(index);
        self.counters.add(Count::Ended, 1);
    }

    fn end(&mut self, index: usize) {
        (0..2).for_each(|family| self.end_relayed(index, family));
    }

    /// Lends a relayed address of an allocation until another time.
    fn prolong(&mut self, from: Tuple, family: usize, until: Instant) {
        let Some(index) = self.by_tuple.get(&from).copied() else { return };
        let Some(allocation) = self.allocations.get_mut(index).and_then(Option::as_mut) else { return };
        if let Some(relayed) = &mut allocation.relayed[family] {
            self.deadlines.remove(&(relayed.until, index, family as u8));
            relayed.until = until;
            self.deadlines.insert((until, index, family as u8));
        }
    }

    /// Sends an answer to a client. None is longer than a STUN message may be.
    fn answer(&mut self, to: Tuple, bytes: Vec<u8>) {
        debug_assert!(bytes.len() <= STUN_LEN_MAX);
        self.transmits.push_back(Transmit {
            from: Side::Client(to.link),
            to: to.client,
            bytes,
            segment: 0,
            ecn: 0,
            whole: false,
        });
    }
}
