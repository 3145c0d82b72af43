//! Seals one frame: EtherIP in ESP (RFC 3378 in RFC 4303), out of place from the read buffer into the train.
//!
//! The EtherIP header and the ESP trailer are written around the frame in the read buffer. What they cover in front has
//! been sealed already (or is headroom); what they cover behind belongs to the next segment and is put back.

use std::ops::Range;

use adit_proto::esp;
use adit_proto::etherip;
use adit_proto::stats::Drop;
use adit_proto::suite::TAG_LEN;

use crate::sa::OutboundSa;

/// Longest trailer: three bytes of padding, pad length, next header.
const TRAILER_MAX: usize = 5;

/// Seals the Ethernet frame at `frame` of `buffer` into `packet`, which has `esp::sealed_len(frame.len())` bytes.
///
/// `buffer` has room for the EtherIP header in front of the frame and for a trailer behind it.
#[inline]
pub fn seal(
    sa: &mut OutboundSa,
    buffer: &mut [u8],
    frame: Range<usize>,
    open_checksum: bool,
    packet: &mut [u8],
) -> Result<(), Drop> {
    let seq = sa.seq_next;
    if seq >= sa.seq_end {
        return Err(Drop::SeqExhausted);
    }
    let frame_len = frame.len();
    let start = frame.start.checked_sub(etherip::HEADER_LEN).ok_or(Drop::TooLong)?;
    let pad = esp::pad_len(etherip::HEADER_LEN + frame_len);
    let end = frame.end + pad + 2;
    let behind: [u8; TRAILER_MAX] = *buffer.get(frame.end..).and_then(<[u8]>::first_chunk).ok_or(Drop::TooLong)?;

    if let Some(header) = buffer[start..].first_chunk_mut() {
        etherip::write(header, open_checksum);
    }
    let trailer: [u8; TRAILER_MAX] = match pad {
        0 => [0, esp::NEXT_HEADER_ETHERIP, 0, 0, 0],
        1 => [1, 1, esp::NEXT_HEADER_ETHERIP, 0, 0],
        2 => [1, 2, 2, esp::NEXT_HEADER_ETHERIP, 0],
        _ => [1, 2, 3, 3, esp::NEXT_HEADER_ETHERIP],
    };
    buffer[frame.end..end].copy_from_slice(&trailer[..pad + 2]);

    let (head, rest) = packet.split_first_chunk_mut().ok_or(Drop::TooLong)?;
    esp::Header::for_seq(sa.spi, seq).write(head);
    let (sealed, tag) = rest.split_last_chunk_mut::<TAG_LEN>().ok_or(Drop::TooLong)?;
    // The nonce never repeats under this key: the sequence number only grows, here and across restarts (see the control plane).
    sa.aead.seal(&esp::nonce(sa.salt, seq.to_be_bytes()), &esp::aad(sa.spi, seq), &buffer[start..end], sealed, tag);

    buffer[frame.end..frame.end + TRAILER_MAX].copy_from_slice(&behind);
    sa.seq_next = seq + 1;
    sa.packets += 1;
    sa.bytes += frame_len as u64;
    Ok(())
}
