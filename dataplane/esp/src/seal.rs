//! Seals one packet (RFC 4303 §2, §3.3), out of place: what is sealed lies in one buffer, the packet in another.

use std::ops::Range;

use adit_proto::control::Spi;
use adit_proto::esp::{self, Aad};
use adit_proto::stats::Drop;
use adit_proto::suite::{SALT_LEN, TAG_LEN};
use zeroize::Zeroizing;

use crate::aead::Aead;

/// Longest trailer, in bytes: three of padding, pad length, next header.
pub const TRAILER_MAX: usize = 3 + esp::TRAILER_LEN;

/// The outbound half of a Child SA.
pub struct Sealer {
    pub spi: Spi,
    /// The sequence number of the next packet; the first one is 1.
    pub seq_next: u64,
    /// No packet is sealed with this number or one above, so `seq_next` cannot wrap.
    pub seq_end: u64,
    pub aead: Aead,
    pub salt: Zeroizing<[u8; SALT_LEN]>,
    /// Extended sequence numbers (RFC 4304): the tag covers 64 bits of the number, not 32.
    pub esn: bool,
    /// Packets that were sealed.
    pub packets: u64,
}

impl Sealer {
    /// Seals `payload`, a place in `buffer`, into `packet`, which has [`esp::sealed_len`] of its length.
    ///
    /// The trailer is written behind the payload, where `buffer` has [`TRAILER_MAX`] bytes of room, and what was there is put back.
    ///
    /// # Errors
    /// `SeqExhausted`: no sequence number is left. `TooLong`: the room behind or the packet is too short. Nothing was used then.
    #[inline]
    pub fn seal(&mut self, buffer: &mut [u8], payload: Range<usize>, next_header: u8, packet: &mut [u8]) -> Result<(), Drop> {
        let seq = self.seq_next;
        if seq >= self.seq_end {
            return Err(Drop::SeqExhausted);
        }
        let Range { start, end: payload_end } = payload;
        let pad = esp::pad_len(payload_end - start);
        let end = payload_end + pad + 2;
        let behind: [u8; TRAILER_MAX] = *buffer.get(payload_end..).and_then(<[u8]>::first_chunk).ok_or(Drop::TooLong)?;
        let trailer: [u8; TRAILER_MAX] = match pad {
            0 => [0, next_header, 0, 0, 0],
            1 => [1, 1, next_header, 0, 0],
            2 => [1, 2, 2, next_header, 0],
            _ => [1, 2, 3, 3, next_header],
        };
        let (head, rest) = packet.split_first_chunk_mut().ok_or(Drop::TooLong)?;
        let (sealed, tag) = rest.split_last_chunk_mut::<TAG_LEN>().ok_or(Drop::TooLong)?;
        buffer[payload_end..end].copy_from_slice(&trailer[..pad + 2]);
        esp::Header::for_seq(self.spi, seq).write(head);
        // The nonce never repeats under this key: the sequence number only grows. Static keys outlive a process; there the control
        // plane sees to it.
        let aad = Aad::new(self.spi, seq, self.esn);
        self.aead.seal(&esp::nonce(*self.salt, seq.to_be_bytes()), aad.as_ref(), &buffer[start..end], sealed, tag);

        buffer[payload_end..payload_end + TRAILER_MAX].copy_from_slice(&behind);
        self.seq_next = seq + 1;
        self.packets += 1;
        Ok(())
    }
}
