//! Frames or datagrams for one other worker, packed into one buffer: one entry of a ring and one wake-up carry many of them.
//!
//! ```text
//!  0        4                64
//!  ┌────────┬────────────────┬──────────────┐ ┌────────┬─…
//!  │ length │ header         │ bytes        │ │ length │
//!  └────────┴────────────────┴──────────────┘ └────────┴─…
//! ```

use std::net::{IpAddr, Ipv6Addr};
use std::ops::Range;

use adit_proto::control::{ChildId, LocalEnd, PeerId, PeerTag};

use crate::limits::PACKETS_OF_BATCH_MAX;
use crate::udp::{Arrival, Endpoint};

/// Bytes of a hand-off batch: room for the longest frame with its head.
pub const BATCH_BYTES: usize = 65_728;

const HEADER: usize = 60;
const RECORD_HEAD: usize = 4 + HEADER;

/// What a record of a hand-off batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordHeader {
    /// A frame from the TAP, virtio-net header first, for a Child SA of a peer. It is meant for the peer with this tag: the taker may
    /// have removed that one since, or given its id to another.
    Frame { peer: PeerId, tag: PeerTag, child: ChildId },
    /// A frame for all peers, but perhaps one, whose frames the giver has the taker seal.
    Flood { except: Option<PeerId> },
    /// Datagrams of `segment` bytes, the last may be shorter, and how they came.
    Datagrams { segment: u32, arrival: Arrival },
}

impl RecordHeader {
    fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let (kind, number) = match self {
            RecordHeader::Frame { peer, tag, child } => {
                bytes[4..12].copy_from_slice(&tag.0.to_le_bytes());
                bytes[12..14].copy_from_slice(&child.0.to_le_bytes());
                (0u32, u32::from(peer.0))
            }
            RecordHeader::Flood { except } => (1, except.map_or(0, |peer| u32::from(peer.0) + 1)),
            RecordHeader::Datagrams { segment, arrival } => {
                bytes[4..].copy_from_slice(&encode_arrival(&arrival));
                (2, segment)
            }
        };
        bytes[..4].copy_from_slice(&(kind << 24 | number).to_le_bytes());
        bytes
    }

    fn decode(bytes: [u8; HEADER]) -> Option<RecordHeader> {
        let [n0, n1, n2, kind, rest @ ..] = bytes;
        let number = u32::from_le_bytes([n0, n1, n2, 0]);
        Some(match kind {
            0 => {
                let (tag, rest) = rest.split_first_chunk()?;
                let (tag, child) = (PeerTag(u64::from_le_bytes(*tag)), ChildId(u16::from_le_bytes(*rest.first_chunk()?)));
                RecordHeader::Frame { peer: PeerId(number as u16), tag, child }
            }
            1 => RecordHeader::Flood { except: number.checked_sub(1).map(|id| PeerId(id as u16)) },
            2 => RecordHeader::Datagrams { segment: number, arrival: decode_arrival(rest.first_chunk()?) },
            _ => return None,
        })
    }
}

const ARRIVAL: usize = HEADER - 4;

fn encode_arrival(arrival: &Arrival) -> [u8; ARRIVAL] {
    let mut bytes = [0; ARRIVAL];
    let address = match arrival.to.address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    bytes[..16].copy_from_slice(&address.octets());
    bytes[16..20].copy_from_slice(&arrival.to.interface.to_le_bytes());
    bytes[20] = arrival.class;
    bytes[21..21 + Endpoint::LEN].copy_from_slice(&arrival.from.to_bytes());
    bytes
}

fn decode_arrival(bytes: &[u8; ARRIVAL]) -> Arrival {
    const FROM_END: usize = 21 + Endpoint::LEN;
    let (address, rest) = bytes.split_first_chunk::<16>().expect("the length is constant");
    let (interface, rest) = rest.split_first_chunk::<4>().expect("the length is constant");
    let interface = u32::from_le_bytes(*interface);
    let to = LocalEnd { address: IpAddr::V6(Ipv6Addr::from(*address)).to_canonical(), interface };
    let from = bytes[21..FROM_END].first_chunk().expect("the length is constant");
    Arrival { from: Endpoint::from_bytes(from), to, class: rest[0] }
}

/// In which direction the content of a hand-off batch goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Frames from the TAP.
    Outbound = 0,
    /// Datagrams from the socket.
    Inbound = 1,
    /// Frames from one peer to another.
    Between = 2,
}

/// A buffer on its way between workers.
pub struct Batch {
    bytes: Box<[u8]>,
    len: usize,
    packets: u64,
    /// The worker that gives it, and gets it back.
    pub from: usize,
    pub direction: Direction,
}

impl Batch {
    pub fn new(from: usize, direction: Direction) -> Batch {
        Batch { bytes: vec![0; BATCH_BYTES].into_boxed_slice(), len: 0, packets: 0, from, direction }
    }

    /// Whether a record of `len` bytes still fits. An empty batch has room for any frame and any train.
    pub fn has_room(&self, len: usize) -> bool {
        self.len + RECORD_HEAD + len <= self.bytes.len() && self.packets < PACKETS_OF_BATCH_MAX
    }

    /// Adds a record that stands for so many packets. The caller has asked `has_room`.
    pub fn push(&mut self, header: RecordHeader, bytes: &[u8], packets: u64) {
        let record = &mut self.bytes[self.len..self.len + RECORD_HEAD + bytes.len()];
        record[..4].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        record[4..RECORD_HEAD].copy_from_slice(&header.encode());
        record[RECORD_HEAD..].copy_from_slice(bytes);
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

/// The record that begins at `at` of a hand-off batch's bytes, wherever they lie: its header, and where its own bytes are. The next record
/// begins where they end.
pub fn record(batch: &[u8], at: usize) -> Option<(RecordHeader, Range<usize>)> {
    let head: &[u8; RECORD_HEAD] = batch.get(at..)?.first_chunk()?;
    let [l0, l1, l2, l3, header @ ..] = *head;
    let start = at + RECORD_HEAD;
    let end = start + u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    (end <= batch.len()).then_some((RecordHeader::decode(header)?, start..end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::FRAME_BUFFER;

    fn arrival(to: &str) -> Arrival {
        let from = Endpoint::new(([192, 0, 2, 1], 4500).into(), true);
        Arrival { from, to: LocalEnd { address: to.parse().unwrap(), interface: u32::MAX }, class: 0xbb }
    }

    #[test]
    fn records_come_out_as_they_went_in_until_the_batch_is_full() {
        let headers = [
            RecordHeader::Frame { peer: PeerId(u16::MAX), tag: PeerTag(u64::MAX), child: ChildId(u16::MAX) },
            RecordHeader::Flood { except: None },
            RecordHeader::Flood { except: Some(PeerId(0)) },
            RecordHeader::Flood { except: Some(PeerId(u16::MAX)) },
            RecordHeader::Datagrams { segment: 65_507, arrival: arrival("198.51.100.1") },
            RecordHeader::Datagrams { segment: 1, arrival: arrival("2001:db8::1") },
            RecordHeader::Frame { peer: PeerId(0), tag: PeerTag(7), child: ChildId(3) },
        ];
        let mut batch = Batch::new(0, Direction::Outbound);
        let mut expected = Vec::new();
        for (n, &header) in headers.iter().cycle().take(3000).enumerate() {
            let bytes = vec![n as u8; n % 200];
            if !batch.has_room(bytes.len()) {
                break;
            }
            batch.push(header, &bytes, 1);
            expected.push((header, bytes));
        }
        let mut found = Vec::new();
        let mut at = 0;
        while let Some((header, place)) = record(batch.bytes(), at) {
            at = place.end;
            found.push((header, batch.bytes()[place].to_vec()));
        }
        assert!(found == expected && at == batch.bytes().len() && found.len() > 400);
        assert!(!batch.has_room(200));
        batch.clear();
        assert!(batch.is_empty() && record(batch.bytes(), 0).is_none());
    }

    #[test]
    fn an_empty_batch_takes_the_longest_frame_and_many_packets_fill_it() {
        let mut batch = Batch::new(0, Direction::Outbound);
        assert!(batch.has_room(FRAME_BUFFER - 2 * 64 + crate::tap::vnet::LEN));
        assert!(batch.has_room(65_535));
        batch.push(RecordHeader::Flood { except: None }, &[0; 60], PACKETS_OF_BATCH_MAX);
        assert!(!batch.has_room(60));
    }

    #[test]
    fn a_record_that_is_cut_off_is_none() {
        let mut batch = Batch::new(0, Direction::Inbound);
        batch.push(RecordHeader::Flood { except: None }, &[1; 60], 1);
        for short in 0..batch.bytes().len() {
            assert!(record(&batch.bytes()[..short], 0).is_none());
        }
    }
}
