//! Frames or datagrams for one other worker, packed into one buffer: one entry of a ring and one wake-up carry many of them.
//!
//! ```text
//!  0        4                40
//!  ┌────────┬────────────────┬──────────────┐ ┌────────┬─…
//!  │ length │ label          │ bytes        │ │ length │
//!  └────────┴────────────────┴──────────────┘ └────────┴─…
//! ```

use std::ops::Range;

use adit_proto::control::{PeerId, PeerTag};

use crate::udp::Endpoint;

/// Bytes of a parcel: room for the longest frame with its head.
pub const PARCEL_BYTES: usize = 65_664;
/// Packets that one parcel may bring about; a frame that goes to many peers counts for each. It bounds a turn of the taker.
const PACKETS_MAX: u64 = 1024;

const LABEL: usize = 36;
const HEAD: usize = 4 + LABEL;

/// What a record of a parcel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// A frame from the TAP, virtio-net header first, for a peer. It is meant for the peer with this tag: the taker may have
    /// removed that one since, or given its id to another.
    Frame { peer: PeerId, tag: PeerTag },
    /// A frame from the TAP for all peers whose frames the giver has the taker seal.
    Flood,
    /// Datagrams of `segment` bytes, the last may be shorter, and where they came from.
    Datagrams { segment: u32, from: Endpoint },
}

impl Label {
    fn encode(self) -> [u8; LABEL] {
        let mut bytes = [0; LABEL];
        let (kind, number) = match self {
            Label::Frame { peer, tag } => {
                bytes[4..12].copy_from_slice(&tag.0.to_le_bytes());
                (0u32, u32::from(peer.0))
            }
            Label::Flood => (1, 0),
            Label::Datagrams { segment, from } => {
                bytes[4..4 + Endpoint::LEN].copy_from_slice(&from.to_bytes());
                (2, segment)
            }
        };
        bytes[..4].copy_from_slice(&(kind << 24 | number).to_le_bytes());
        bytes
    }

    fn decode(bytes: [u8; LABEL]) -> Option<Label> {
        let [n0, n1, n2, kind, rest @ ..] = bytes;
        let number = u32::from_le_bytes([n0, n1, n2, 0]);
        Some(match kind {
            0 => Label::Frame { peer: PeerId(number as u16), tag: PeerTag(u64::from_le_bytes(*rest.first_chunk()?)) },
            1 => Label::Flood,
            2 => Label::Datagrams { segment: number, from: Endpoint::from_bytes(rest.first_chunk()?) },
            _ => return None,
        })
    }
}

/// Which way the content of a parcel goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Frames from the TAP.
    Outbound = 0,
    /// Datagrams from the socket.
    Inbound = 1,
}

/// A buffer on its way between workers.
pub struct Parcel {
    bytes: Box<[u8]>,
    len: usize,
    packets: u64,
    /// The worker that gives it, and gets it back.
    pub from: usize,
    pub way: Way,
}

impl Parcel {
    pub fn new(from: usize, way: Way) -> Parcel {
        Parcel { bytes: vec![0; PARCEL_BYTES].into_boxed_slice(), len: 0, packets: 0, from, way }
    }

    /// Whether a record of `len` bytes still fits. An empty parcel has room for any frame and any train.
    pub fn has_room(&self, len: usize) -> bool {
        self.len + HEAD + len <= self.bytes.len() && self.packets < PACKETS_MAX
    }

    /// Adds a record that stands for so many packets. The caller has asked `has_room`.
    pub fn push(&mut self, label: Label, bytes: &[u8], packets: u64) {
        let record = &mut self.bytes[self.len..self.len + HEAD + bytes.len()];
        record[..4].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        record[4..HEAD].copy_from_slice(&label.encode());
        record[HEAD..].copy_from_slice(bytes);
        self.len += record.len();
        self.packets += packets;
    }

    /// All records.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn clear(&mut self) {
        (self.len, self.packets) = (0, 0);
    }
}

/// The record that begins at `at` of a parcel's bytes, wherever they lie: its label, and where its own bytes are. The next record
/// begins where they end.
pub fn record(parcel: &[u8], at: usize) -> Option<(Label, Range<usize>)> {
    let head: &[u8; HEAD] = parcel.get(at..)?.first_chunk()?;
    let [l0, l1, l2, l3, label @ ..] = *head;
    let start = at + HEAD;
    let end = start + u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    (end <= parcel.len()).then_some((Label::decode(label)?, start..end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::FRAME_BUFFER;

    #[test]
    fn records_come_out_as_they_went_in_until_the_parcel_is_full() {
        let labels = [
            Label::Frame { peer: PeerId(u16::MAX), tag: PeerTag(u64::MAX) },
            Label::Flood,
            Label::Datagrams { segment: 65_507, from: Endpoint::new(([192, 0, 2, 1], 4500).into(), true) },
            Label::Frame { peer: PeerId(0), tag: PeerTag(7) },
        ];
        let mut parcel = Parcel::new(0, Way::Outbound);
        let mut expected = Vec::new();
        for (n, &label) in labels.iter().cycle().take(3000).enumerate() {
            let bytes = vec![n as u8; n % 200];
            if !parcel.has_room(bytes.len()) {
                break;
            }
            parcel.push(label, &bytes, 1);
            expected.push((label, bytes));
        }
        let mut found = Vec::new();
        let mut at = 0;
        while let Some((label, place)) = record(parcel.bytes(), at) {
            at = place.end;
            found.push((label, parcel.bytes()[place].to_vec()));
        }
        assert!(found == expected && at == parcel.bytes().len() && found.len() > 400);
        assert!(!parcel.has_room(200));
        parcel.clear();
        assert!(parcel.is_empty() && record(parcel.bytes(), 0).is_none());
    }

    #[test]
    fn an_empty_parcel_takes_the_longest_frame_and_many_packets_fill_it() {
        let mut parcel = Parcel::new(0, Way::Outbound);
        assert!(parcel.has_room(FRAME_BUFFER - 2 * 64 + crate::tap::vnet::LEN));
        assert!(parcel.has_room(65_535));
        parcel.push(Label::Flood, &[0; 60], PACKETS_MAX);
        assert!(!parcel.has_room(60));
    }

    #[test]
    fn a_record_that_is_cut_off_is_none() {
        let mut parcel = Parcel::new(0, Way::Inbound);
        parcel.push(Label::Flood, &[1; 60], 1);
        for short in 0..parcel.bytes().len() {
            assert!(record(&parcel.bytes()[..short], 0).is_none());
        }
    }
}
