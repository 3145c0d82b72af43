//! A train: sealed packets of equal length on one path of one peer, sent by one call with `UDP_SEGMENT`.
//!
//! `reserve` gives the place at the tail to seal into, `commit` keeps it. A packet joins only the train under construction;
//! when it does not fit the train is sent first. So packets leave in the order in which they were sealed.

use adit_proto::control::{PathId, PeerId};

use crate::limits::TRAIN_BYTES_MAX;
use crate::path::{NO_SLOT, Path};
use crate::pool::TRAIN_BUFFER;
use crate::udp::{Endpoint, Hop};

/// What the packets of a train have in common. Peers behind one address have trains of their own, so that what is wrong with one
/// receiver spoils no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lot {
    pub peer: PeerId,
    pub path: PathId,
    /// Traffic class of the outer packets.
    pub class: u8,
}

/// The train under construction.
pub struct Train {
    bytes: Box<[u8]>,
    hop: Hop,
    lot: Lot,
    /// Where its path is counted.
    slot: u16,
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
            hop: Hop::to(Endpoint::default()),
            lot: Lot { peer: PeerId(0), path: PathId::FIRST, class: 0 },
            slot: NO_SLOT,
            len: 0,
            segment: 0,
            count: 0,
            closed: false,
        }
    }
}

impl Train {
    /// Whether a packet of `len` bytes may join; an empty train takes any packet.
    #[inline]
    pub fn takes(&self, lot: Lot, len: usize, segments_max: usize) -> bool {
        self.count == 0
            || (!self.closed
                && len <= self.segment
                && self.count < segments_max
                && self.len + len <= TRAIN_BYTES_MAX
                && self.lot == lot)
    }

    /// The place for a packet of `len` bytes. The caller has asked `takes`.
    #[inline]
    pub fn reserve(&mut self, len: usize) -> &mut [u8] {
        &mut self.bytes[self.len..self.len + len]
    }

    /// Keeps the packet that was sealed into the place reserved last.
    #[inline]
    pub fn commit(&mut self, path: &Path, lot: Lot, len: usize) {
        if self.count == 0 {
            self.hop = path.hop;
            self.slot = path.slot;
            self.lot = lot;
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

    pub fn hop(&self) -> &Hop {
        &self.hop
    }

    /// Where its path is counted.
    pub fn slot(&self) -> u16 {
        self.slot
    }

    pub fn lot(&self) -> Lot {
        self.lot
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

    fn lot(peer: u16, path: u8, class: u8) -> Lot {
        Lot { peer: PeerId(peer), path: PathId::new(path).unwrap(), class }
    }

    fn join(train: &mut Train, len: usize) {
        let hop = Hop::to(Endpoint::new(([192, 0, 2, 1], 4500).into(), false));
        let path = Path { hop, frame_max: 1400, frame_reported: 1400, slot: NO_SLOT, gso_disabled: false };
        assert!(train.takes(lot(0, 0, 0), len, 64));
        train.reserve(len).fill(1);
        train.commit(&path, lot(0, 0, 0), len);
    }

    #[test]
    fn equal_packets_join_and_a_shorter_one_ends_the_train() {
        let mut train = Train::default();
        join(&mut train, 1000);
        join(&mut train, 1000);
        assert!(!train.takes(lot(0, 0, 0), 1001, 64), "a longer one never joins");
        join(&mut train, 999);
        assert!(!train.takes(lot(0, 0, 0), 999, 64), "nothing follows the shorter one");
        assert_eq!((train.count(), train.segment(), train.bytes().len()), (3, 1000, 2999));
    }

    #[test]
    fn another_lot_too_many_segments_and_too_many_bytes_do_not_join() {
        let mut train = Train::default();
        join(&mut train, 1400);
        for other in [lot(1, 0, 0), lot(0, 1, 0), lot(0, 0, 0xb8)] {
            assert!(!train.takes(other, 1400, 64), "{other:?}: another peer, path or class");
        }
        assert!(!train.takes(lot(0, 0, 0), 1400, 1));
        for _ in 1..46 {
            join(&mut train, 1400);
        }
        assert!(!train.takes(lot(0, 0, 0), 1400, 64), "47 × 1400 bytes exceed a datagram");
    }
}
