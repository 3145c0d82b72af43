//! Seals one frame or packet: EtherIP (RFC 3378) or IP in ESP (RFC 4303), out of place from the read buffer into the train.
//!
//! The EtherIP header, if there is one, and the ESP trailer are written around the frame in the read buffer. What they cover in front has
//! been sealed already (or is headroom); what they cover behind belongs to the next segment and is put back.

use std::ops::Range;

use adit_proto::control::Mode;
use adit_proto::esp::{self, Aad};
use adit_proto::etherip;
use adit_proto::stats::Drop;
use adit_proto::suite::TAG_LEN;

use crate::sa::OutboundSa;

/// What is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    /// An Ethernet frame; whether its checksum is open.
    Ethernet {
        open_checksum: bool,
    },
    Ipv4,
    Ipv6,
}

impl Inner {
    /// The IP packet that begins with this byte.
    #[inline]
    pub const fn ip(first: u8) -> Inner {
        if first >> 4 == 6 { Inner::Ipv6 } else { Inner::Ipv4 }
    }

    #[inline]
    const fn next_header(self) -> u8 {
        match self {
            Inner::Ethernet { .. } => esp::NEXT_HEADER_ETHERIP,
            Inner::Ipv4 => esp::NEXT_HEADER_IPV4,
            Inner::Ipv6 => esp::NEXT_HEADER_IPV6,
        }
    }

    #[inline]
    const fn header_len(self) -> usize {
        match self {
            Inner::Ethernet { .. } => esp::inner_header_len(Mode::Ethernet),
            Inner::Ipv4 | Inner::Ipv6 => esp::inner_header_len(Mode::Ip),
        }
    }
}

/// Longest trailer: three bytes of padding, pad length, next header.
const TRAILER_MAX: usize = 5;

/// Seals what lies at `frame` of `buffer` into `packet`, which has `esp::sealed_len` of it and its header bytes.
///
/// `buffer` has room for the EtherIP header in front and for a trailer behind.
#[inline]
pub fn seal(sa: &mut OutboundSa, buffer: &mut [u8], frame: Range<usize>, inner: Inner, packet: &mut [u8]) -> Result<(), Drop> {
    let seq = sa.seq_next;
    if seq >= sa.seq_end {
        return Err(Drop::SeqExhausted);
    }
    let frame_len = frame.len();
    let start = frame.start.checked_sub(inner.header_len()).ok_or(Drop::TooLong)?;
    let pad = esp::pad_len(frame.end - start);
    let end = frame.end + pad + 2;
    let behind: [u8; TRAILER_MAX] = *buffer.get(frame.end..).and_then(<[u8]>::first_chunk).ok_or(Drop::TooLong)?;

    if let (Inner::Ethernet { open_checksum }, Some(header)) = (inner, buffer[start..].first_chunk_mut()) {
        etherip::write(header, open_checksum);
    }
    let next_header = inner.next_header();
    let trailer: [u8; TRAILER_MAX] = match pad {
        0 => [0, next_header, 0, 0, 0],
        1 => [1, 1, next_header, 0, 0],
        2 => [1, 2, 2, next_header, 0],
        _ => [1, 2, 3, 3, next_header],
    };
    buffer[frame.end..end].copy_from_slice(&trailer[..pad + 2]);

    let (head, rest) = packet.split_first_chunk_mut().ok_or(Drop::TooLong)?;
    esp::Header::for_seq(sa.spi, seq).write(head);
    let (sealed, tag) = rest.split_last_chunk_mut::<TAG_LEN>().ok_or(Drop::TooLong)?;
    // The nonce never repeats under this key: the sequence number only grows, here and across restarts (see the control plane).
    let aad = Aad::new(sa.spi, seq, sa.esn);
    sa.aead.seal(&esp::nonce(sa.salt, seq.to_be_bytes()), aad.as_ref(), &buffer[start..end], sealed, tag);

    buffer[frame.end..frame.end + TRAILER_MAX].copy_from_slice(&behind);
    sa.seq_next = seq + 1;
    sa.packets += 1;
    sa.bytes += frame_len as u64;
    Ok(())
}
