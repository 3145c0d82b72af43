//! Payload through the server: ChannelData and Send indications to peers, ChannelData and Data indications to clients.
//!
//! The four bytes of ChannelData are taken from every datagram of a train, and put before every one on the way back; what was one train is
//! one again, so that thirty datagrams cost one system call on each side.
use std::net::SocketAddr;

use super::super::allowed::Verdict;
use super::super::channel::{HEADER_LEN, Header};
use super::super::link::{Link, Tuple};
use super::super::method;
use super::{Count, Now, Server, Side, Train, Transmit};
use crate::limits::{TURN_TRAIN_LEN_MAX, TURN_TRAIN_SEGMENTS_MAX};
use crate::stun::codec::{Class, Message, Transaction, Writer, kind};

/// Payload of datagrams of one channel that go on together.
#[derive(Default)]
pub(super) struct Gathered {
    /// The channel, and where it leads.
    route: Option<(u16, Route)>,
    bytes: Vec<u8>,
    segment: usize,
    count: usize,
}

/// From which relayed address of which allocation to whom.
#[derive(Clone, Copy)]
struct Route {
    index: usize,
    relayed: SocketAddr,
    peer: SocketAddr,
}

impl Gathered {
    /// Whether a payload can go with those before it: after a shorter one, or an empty one, none can.
    fn takes(&self, number: u16, len: usize) -> bool {
        let is_same = self.route.as_ref().is_some_and(|route| route.0 == number);
        let is_whole = self.segment > 0 && self.bytes.len() == self.segment * self.count && len <= self.segment && len > 0;
        is_same && is_whole && self.count < TURN_TRAIN_SEGMENTS_MAX && self.bytes.len() + len <= TURN_TRAIN_LEN_MAX
    }
}

impl Server {
    /// Adds the payload of one datagram to those that came with it, or sends them and begins anew.
    pub(super) fn gather(&mut self, now: Now, from: Tuple, gathered: &mut Gathered, number: u16, payload: &[u8], ecn: u8) {
        if !gathered.takes(number, payload.len()) {
            self.flush(now, gathered, ecn);
            let Some(route) = self.route_of_channel(now, from, number) else { return };
            *gathered = Gathered { route: Some((number, route)), segment: payload.len(), ..Gathered::default() };
        }
        gathered.bytes.extend_from_slice(payload);
        gathered.count += 1;
    }

    pub(super) fn flush(&mut self, now: Now, gathered: &mut Gathered, ecn: u8) {
        let Gathered { route: Some((_, route)), bytes, segment, count } = std::mem::take(gathered) else { return };
        self.send_to_peer(now, route, (bytes, if count > 1 { segment } else { 0 }, count), ecn, false);
    }

    fn route_of_channel(&mut self, now: Now, from: Tuple, number: u16) -> Option<Route> {
        let found = self.allocation(from).map(|(index, allocation)| {
            let peer = allocation.peer_of(number, now.at)?;
            Some((peer, allocation.permits(peer.ip(), now.at), allocation.towards(peer, now.at).map(|at| (index, at))))
        });
        let fault = match found {
            None => Count::NoAllocation,
            Some(Some((peer, true, Some((index, relayed))))) if self.reaches(peer) => {
                return Some(Route { index, relayed, peer });
            }
            Some(Some((_, true, Some(_)))) => Count::Forbidden,
            Some(None) => Count::NoChannel,
            Some(Some(_)) => Count::NoPermission,
        };
        self.counters.add(fault, 1);
        None
    }

    /// Whether a packet may go there: our own addresses are only reached where another client has the port.
    fn reaches(&self, peer: SocketAddr) -> bool {
        match self.config.allowed.judge(peer.ip()) {
            Verdict::Fine => true,
            Verdict::Own => self.by_relayed.contains_key(&self.config.inward(peer)),
            Verdict::Forbidden => false,
        }
    }

    /// Whether so many bytes of an allocation go on: of its identity, and of all (RFC 8656 §5).
    fn may_carry(&mut self, now: Now, index: usize, bytes: usize, datagrams: usize) -> bool {
        let allocation = self.allocations.get(index).and_then(Option::as_ref);
        let owner = allocation.and_then(|allocation| self.by_identity.get_mut(&allocation.identity));
        let cost = u32::try_from(bytes).unwrap_or(u32::MAX).max(1);
        let may = owner.is_some_and(|owner| owner.bytes.take_all(now.at, cost)) && self.bytes.take_all(now.at, cost);
        if !may {
            self.counters.add(Count::OverRate, datagrams as u64);
        }
        may
    }

    /// Bytes, with the length of each datagram and their number.
    fn send_to_peer(&mut self, now: Now, route: Route, (bytes, segment, count): (Vec<u8>, usize, usize), ecn: u8, whole: bool) {
        if !self.may_carry(now, route.index, bytes.len(), count) {
            return;
        }
        self.counters.add(Count::ToPeers, count as u64);
        self.counters.add(Count::ToPeersBytes, bytes.len() as u64);
        self.transmits.push_back(Transmit {
            from: Side::Relayed(route.relayed),
            to: self.config.inward(route.peer),
            bytes,
            segment,
            ecn,
            whole,
        });
    }

    /// A Send indication (RFC 8656 §11.2). Nobody is told of what is wrong with it.
    pub(super) fn handle_send(&mut self, now: Now, from: Tuple, message: &Message<'_>, ecn: u8) {
        let known = [kind::XOR_PEER_ADDRESS, kind::DATA, kind::DONT_FRAGMENT];
        let (peer, payload) = (message.address(kind::XOR_PEER_ADDRESS), message.get(kind::DATA));
        let peer = peer.filter(|peer| peer.port() != 0);
        let (Some(peer), Some(payload), true) = (peer, payload, message.unknown(&known).is_empty()) else {
            self.counters.add(Count::Malformed, 1);
            return;
        };
        let found = self.allocation(from);
        let found = found.map(|(index, one)| (one.permits(peer.ip(), now.at), one.towards(peer, now.at).map(|at| (index, at))));
        let fault = match found {
            None => Count::NoAllocation,
            Some((true, Some(_))) if payload.len() > TURN_TRAIN_LEN_MAX => Count::TooLong,
            Some((true, Some((index, relayed)))) if self.reaches(peer) => {
                let whole = message.get(kind::DONT_FRAGMENT).is_some();
                return self.send_to_peer(now, Route { index, relayed, peer }, (payload.to_vec(), 0, 1), ecn, whole);
            }
            Some((true, Some(_))) => Count::Forbidden,
            Some(_) => Count::NoPermission,
        };
        self.counters.add(fault, 1);
    }

    /// Datagrams came from a peer to a relayed address. Those without permission end here (RFC 8656 §11.3).
    pub fn handle_peer(&mut self, now: Now, relayed: SocketAddr, peer: SocketAddr, train: Train<'_>) {
        let count = train.datagrams().count() as u64;
        // Another allocation of ours is known to its peers as others see it.
        let peer = if self.by_relayed.contains_key(&peer) { self.config.outward(peer) } else { peer };
        let found = self.by_relayed.get(&relayed).copied();
        let found = found.and_then(|index| Some((index, self.allocations.get(index)?.as_ref()?)));
        let Some((index, allocation)) = found else {
            self.counters.add(Count::NoAllocation, count);
            return;
        };
        // Forbidden networks are never permitted, so nobody needs to be judged here.
        if !allocation.permits(peer.ip(), now.at) {
            self.counters.add(Count::NoPermission, count);
            return;
        }
        let (to, channel) = (allocation.tuple, allocation.channel_of(peer, now.at));
        if !self.may_carry(now, index, train.bytes.len(), train.datagrams().count()) {
            return;
        }
        match channel {
            Some(number) => self.send_on_channel(to, number, train),
            None => self.send_as_indications(to, peer, train),
        }
    }

    fn send_on_channel(&mut self, to: Tuple, channel: u16, train: Train<'_>) {
        let is_stream = matches!(to.link, Link::Stream(_));
        let longest = train.datagrams().next().map_or(0, <[u8]>::len) + HEADER_LEN;
        if longest > TURN_TRAIN_LEN_MAX {
            self.counters.add(Count::TooLong, train.datagrams().count() as u64);
            return;
        }
        let mut trains = Trains::new(to, if is_stream { 0 } else { longest }, train.ecn);
        for payload in train.datagrams() {
            // Longer ones do not come: a UDP payload has less than 65,536 bytes.
            let header = Header { channel, len: u16::try_from(payload.len()).unwrap_or(u16::MAX) };
            // RFC 8656 §12.5: padding where there is a stream.
            let padding = if is_stream { payload.len().next_multiple_of(4) - payload.len() } else { 0 };
            trains.push(&[&header.bytes(), payload, &[0; 3][..padding]]);
        }
        self.count_to_client(&train);
        self.transmits.extend(trains.finish());
    }

    fn send_as_indications(&mut self, to: Tuple, peer: SocketAddr, train: Train<'_>) {
        let is_stream = matches!(to.link, Link::Stream(_));
        let indication = |payload: &[u8]| {
            // Nobody answers to an indication: RFC 8489 §6 has its id drawn, which would cost more than all else here and say nothing.
            let mut out = Writer::new(Class::Indication, method::DATA, Transaction::default());
            out.put_address(kind::XOR_PEER_ADDRESS, peer).put(kind::DATA, payload);
            out.finish()
        };
        let longest = train.datagrams().next().map_or(0, |payload| indication(payload).len());
        if longest == 0 || longest > TURN_TRAIN_LEN_MAX {
            self.counters.add(Count::TooLong, train.datagrams().count() as u64);
            return;
        }
        let mut trains = Trains::new(to, if is_stream { 0 } else { longest }, train.ecn);
        train.datagrams().for_each(|payload| trains.push(&[&indication(payload)]));
        self.count_to_client(&train);
        self.transmits.extend(trains.finish());
    }

    fn count_to_client(&mut self, train: &Train<'_>) {
        self.counters.add(Count::ToClients, train.datagrams().count() as u64);
        self.counters.add(Count::ToClientsBytes, train.bytes.len() as u64);
    }
}

/// Trains to one client, cut where the kernel takes no more at once.
struct Trains {
    to: Tuple,
    /// Bytes of every datagram but the last; zero for streams, which have none.
    segment: usize,
    ecn: u8,
    bytes: Vec<u8>,
    count: usize,
    done: Vec<Transmit>,
}

impl Trains {
    fn new(to: Tuple, segment: usize, ecn: u8) -> Trains {
        Trains { to, segment, ecn, bytes: Vec::new(), count: 0, done: Vec::new() }
    }

    fn push(&mut self, parts: &[&[u8]]) {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if self.count == TURN_TRAIN_SEGMENTS_MAX || self.bytes.len() + len > TURN_TRAIN_LEN_MAX {
            self.cut();
        }
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
        self.count += 1;
    }

    fn cut(&mut self) {
        let (bytes, count) = (std::mem::take(&mut self.bytes), std::mem::take(&mut self.count));
        if count > 0 {
            let segment = if count > 1 { self.segment } else { 0 };
            let (from, to, ecn) = (Side::Client(self.to.link), self.to.client, self.ecn);
            self.done.push(Transmit { from, to, bytes, segment, ecn, whole: false });
        }
    }

    fn finish(mut self) -> Vec<Transmit> {
        self.cut();
        self.done
    }
}
