//! A train: sealed packets of equal length for one destination, sent by one call with `UDP_SEGMENT`.
//!
//! `reserve` gives the place at the tail to seal into, `commit` keeps it. A packet joins only the train under construction;
//! when it does not fit the train is sent first. So packets leave in the order in which they were sealed.

use adit_proto::control::PeerId;

use crate::config::TRAIN_BYTES_MAX;
use crate::pool::TRAIN_BUFFER;
use crate::udp::Endpoint;

/// The train under construction.
pub struct Train {
    bytes: Box<[u8]>,
    to: Endpoint,
    peer: PeerId,
    len: usize,
    segment: usize,
    count: usize,
    /// A shorter packet has joined: it must be the last (Linux `UDP_SEGMENT`).
    closed: bool,
}

impl Default for Train {
    fn default() -> Train {
        Train {
            bytes: vec![0; TRAIN_BUFFER].into_boxed_slice(),
            to: Endpoint::default(),
            peer: PeerId(0),
            len: 0,
            segment: 0,
            count: 0,
            closed: false,
        }
    }
}

impl Train {
    /// Whether a packet of `len` bytes to `to` may join; an empty train takes any packet.
    #[inline]
    pub fn takes(&self, to: &Endpoint, len: usize, segments_max: usize) -> bool {
        self.count == 0
            || (!self.closed
                && len <= self.segment
                && self.count < segments_max
                && self.len + len <= TRAIN_BYTES_MAX
                && self.to == *to)
    }

    /// The place for a packet of `len` bytes. The caller has asked `takes`.
    #[inline]
    pub fn reserve(&mut self, len: usize) -> &mut [u8] {
        &mut self.bytes[self.len..self.len + len]
    }

    /// Keeps the packet that was sealed into the place reserved last.
    #[inline]
    pub fn commit(&mut self, to: &Endpoint, peer: PeerId, len: usize) {
        if self.count == 0 {
            self.to = *to;
            self.peer = peer;
            self.segment = len;
        }
        self.closed = len < self.segment;
        self.len += len;
        self.count += 1;
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Number of packets.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Length of every packet but the last, in bytes.
    pub fn segment(&self) -> usize {
        self.segment
    }

    pub fn to(&self) -> &Endpoint {
        &self.to
    }

    /// The peer of its first packet; peers at one address may share a train.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The packets were sent or dropped.
    pub fn clear(&mut self) {
        (self.len, self.count, self.closed) = (0, 0, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(port: u16) -> Endpoint {
        Endpoint::new(([192, 0, 2, 1], port).into(), false)
    }

    fn join(train: &mut Train, to: &Endpoint, len: usize) {
        assert!(train.takes(to, len, 64));
        train.reserve(len).fill(1);
        train.commit(to, PeerId(0), len);
    }

    #[test]
    fn equal_packets_join_and_a_shorter_one_ends_the_train() {
        let (mut train, to) = (Train::default(), endpoint(4500));
        join(&mut train, &to, 1000);
        join(&mut train, &to, 1000);
        assert!(!train.takes(&to, 1001, 64), "a longer one never joins");
        join(&mut train, &to, 999);
        assert!(!train.takes(&to, 999, 64), "nothing follows the shorter one");
        assert_eq!((train.count(), train.segment(), train.bytes().len()), (3, 1000, 2999));
    }

    #[test]
    fn another_destination_too_many_segments_and_too_many_bytes_do_not_join() {
        let (mut train, to) = (Train::default(), endpoint(4500));
        join(&mut train, &to, 1400);
        assert!(!train.takes(&endpoint(4501), 1400, 64));
        assert!(!train.takes(&to, 1400, 1));
        for _ in 1..46 {
            join(&mut train, &to, 1400);
        }
        assert!(!train.takes(&to, 1400, 64), "47 × 1400 bytes exceed a datagram");
    }
}
