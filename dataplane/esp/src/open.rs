//! Opens one packet in place: cheap checks first, then the tag, and only then the replay window (RFC 4303 §3.4).

use std::ops::Range;

use adit_proto::control::Spi;
use adit_proto::esp::{self, Aad, Header};
use adit_proto::replay::{Verdict, Window};
use adit_proto::stats::Drop;
use adit_proto::suite::{SALT_LEN, TAG_LEN};
use zeroize::Zeroizing;

use crate::aead::Aead;

/// The inbound half of a Child SA.
pub struct Opener {
    pub spi: Spi,
    pub window: Window,
    pub aead: Aead,
    pub salt: Zeroizing<[u8; SALT_LEN]>,
    /// The peer writes the whole sequence number into the IV, and jumps of it are followed. Only with `esn`.
    pub resync: bool,
    /// Extended sequence numbers (RFC 4304).
    pub esn: bool,
    /// The window has moved forward since its owner looked last.
    pub advanced: bool,
    /// Packets that were authentic and new.
    pub packets: u64,
}

/// What was in an authentic packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The place of the payload, from the start of the packet.
    pub payload: Range<usize>,
    pub next_header: u8,
    /// Its sequence number, with both halves.
    pub seq: u64,
    /// The SA followed a jump of the peer's sequence numbers.
    pub resynced: bool,
}

impl Opener {
    /// Opens the packet, whose header the caller has parsed.
    ///
    /// # Errors
    /// It is to be dropped, and what is in it must not be used. Only an authentic packet moves the window; with `BadPadding` it was
    /// one.
    #[inline]
    pub fn open(&mut self, header: &Header, packet: &mut [u8]) -> Result<Opened, Drop> {
        if packet.len() < esp::PACKET_LEN_MIN {
            return Err(Drop::TooShort);
        }
        let (body, tag) = packet.split_last_chunk_mut::<TAG_LEN>().ok_or(Drop::TooShort)?;
        let (_, sealed) = body.split_at_mut(esp::CIPHERTEXT_AT);
        let (seq, resynced) = self.verify(header, sealed, tag)?;
        self.advanced |= seq > self.window.top();
        self.window.accept(seq);
        self.packets += 1;

        let (len, next_header) = esp::strip_trailer(sealed).map_err(|_| Drop::BadPadding)?;
        Ok(Opened { payload: esp::CIPHERTEXT_AT..esp::CIPHERTEXT_AT + len, next_header, seq, resynced })
    }

    /// Checks window and tag; returns the sequence number, and whether it was a jump.
    #[inline]
    fn verify(&mut self, header: &Header, sealed: &mut [u8], tag: &[u8; TAG_LEN]) -> Result<(u64, bool), Drop> {
        let inferred = match self.esn {
            true => esp::infer_seq(self.window.top(), self.window.size(), header.seq_lo),
            false => u64::from(header.seq_lo),
        };
        // An Adit peer writes the whole sequence number into the IV. That is a hint that anyone can bend; the number is in the AAD,
        // so the tag decides whether it is true. What others write there means nothing.
        let claimed = u64::from_be_bytes(header.iv);
        let jumps = self.resync && claimed as u32 == header.seq_lo;
        let seq = if jumps { claimed } else { inferred };
        if !jumps && self.esn && is_left_of(self.window.top(), inferred) {
            return Err(Drop::ReplayOld);
        }
        self.window.check(seq).map_err(|verdict| match verdict {
            Verdict::Seen => Drop::Replay,
            Verdict::Old => Drop::ReplayOld,
        })?;
        let nonce = esp::nonce(*self.salt, header.iv);
        self.aead.open(&nonce, Aad::new(header.spi, seq, self.esn).as_ref(), sealed, tag).map_err(|_| Drop::BadTag)?;
        Ok((seq, seq != inferred))
    }
}

/// Whether a number that was inferred is that of an old packet rather than of one to come. With what is left of the window RFC 4304
/// (appendix A2.2) goes on to the next 2^32 numbers, for a peer of whose packets nearly as many in a row were lost. Where the way back is
/// shorter it is a replay: two thousand million lost packets end an SA, and replays cost no decryption.
///
/// A replay of a packet from more than 2^31 numbers ago looks like one to come, as long as the peer says no more than 32 bits: only
/// the tag tells them apart. It is dropped as `BadTag` and costs the decryption that any packet costs which somebody makes up with
/// a number ahead.
#[inline]
fn is_left_of(top: u64, inferred: u64) -> bool {
    inferred > top && inferred.checked_sub(1 << 32).is_some_and(|before| top.saturating_sub(before) < inferred - top)
}

#[cfg(test)]
mod tests;
