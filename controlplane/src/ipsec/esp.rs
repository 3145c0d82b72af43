//! The two directions of a Child SA: ESP in tunnel mode (RFC 4303) with an AEAD (RFC 4106, RFC 7634), with sequence numbers of 64
//! bits or of 32.
//!
//! The nonce is the SA's salt and the 64-bit sequence number, which is also the IV on the wire. A number is used once: it is taken
//! before the packet is sealed, and an SA without numbers refuses.

use adit_engine::ike::selectors::SelectorPair;
use adit_engine::ike::{ChildKeys, Lifetime};
use adit_proto::control::{Mode, Spi};
use adit_proto::esp::{self, CIPHERTEXT_AT, Header};
use adit_proto::replay::{Verdict, Window};
use adit_proto::suite::{SALT_LEN, Suite};
use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

/// Sequence numbers end here without ESN (RFC 4303 §2.2: they must not cycle), and with it.
const SEQ_LIMIT_32: u64 = esp::SEQ_MAX_32;
const SEQ_LIMIT_64: u64 = u64::MAX - 1;

/// The key of an SA; the library wipes it when it is dropped.
struct Cipher {
    key: LessSafeKey,
    salt: Zeroizing<[u8; SALT_LEN]>,
    spi: Spi,
    esn: bool,
}

/// After how much the engine is to learn what went through an SA, so that it replaces it before its hard limit. Zero: no matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    pub packets: u64,
    pub bytes: u64,
}

impl Pace {
    /// Reports for each limit of a lifetime.
    const REPORTS: u64 = 16;

    pub fn of(lifetime: &Lifetime) -> Pace {
        let part = |limit: u64| limit.div_ceil(Pace::REPORTS);
        Pace { packets: part(lifetime.rekey_packets), bytes: part(lifetime.rekey_bytes) }
    }

    /// Whether that much came since what was reported last.
    pub fn is_due(&self, now: (u64, u64), reported: (u64, u64)) -> bool {
        let reached = |step: u64, now: u64, before: u64| step > 0 && now.saturating_sub(before) >= step;
        reached(self.packets, now.0, reported.0) || reached(self.bytes, now.1, reported.1)
    }
}

/// What we send with.
pub struct Outbound {
    cipher: Cipher,
    /// The last number that was used.
    seq: u64,
    limit: u64,
    /// Payload that was sealed, in bytes.
    bytes: u64,
    /// Packets and bytes at the last report.
    reported: (u64, u64),
    pub selectors: SelectorPair,
}

/// What we receive with.
pub struct Inbound {
    cipher: Cipher,
    window: Window,
    pub packets: u64,
    /// Payload that was opened, in bytes.
    pub bytes: u64,
    pub selectors: SelectorPair,
}

/// Why a packet of the peer is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It came before, or is older than the window.
    Replayed,
    /// It is not authentic.
    BadTag,
    /// It is authentic, and its trailer makes no sense.
    BadTrailer,
}

/// The key of an SA is not one of its suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadKey;

/// Every sequence number has been used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted;

impl Cipher {
    fn new(keys: &ChildKeys) -> Result<Cipher, BadKey> {
        let algorithm = match keys.suite {
            Suite::Aes128Gcm => &AES_128_GCM,
            Suite::Aes256Gcm => &AES_256_GCM,
            Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        let bytes = keys.key.key.get(..keys.suite.key_len()).ok_or(BadKey)?;
        let key = UnboundKey::new(algorithm, bytes).map_err(|_| BadKey)?;
        Ok(Cipher { key: LessSafeKey::new(key), salt: Zeroizing::new(keys.key.salt), spi: keys.spi, esn: keys.esn })
    }

    fn nonce(&self, iv: [u8; esp::IV_LEN]) -> Nonce {
        Nonce::assume_unique_for_key(esp::nonce(*self.salt, iv))
    }

    fn aad(&self, seq: u64) -> Aad<esp::Aad> {
        Aad::from(esp::Aad::new(self.spi, seq, self.esn))
    }
}

impl Outbound {
    pub fn new(keys: &ChildKeys) -> Result<Outbound, BadKey> {
        let limit = if keys.esn { SEQ_LIMIT_64 } else { SEQ_LIMIT_32 };
        Ok(Outbound { cipher: Cipher::new(keys)?, seq: 0, limit, bytes: 0, reported: (0, 0), selectors: keys.selectors.clone() })
    }

    pub fn spi(&self) -> Spi {
        self.cipher.spi
    }

    /// Packets and bytes that were sealed.
    pub fn usage(&self) -> (u64, u64) {
        (self.seq, self.bytes)
    }

    /// Whether a report is due; then it counts as made.
    pub fn report(&mut self, pace: Pace) -> bool {
        let due = pace.is_due(self.usage(), self.reported);
        if due {
            self.reported = self.usage();
        }
        due
    }

    /// Half of the sequence numbers are used: time for a new SA.
    pub fn is_worn(&self) -> bool {
        self.seq > self.limit / 2
    }

    /// Writes the ESP packet for a payload over `out`.
    ///
    /// # Errors
    /// No sequence number is left.
    pub fn seal(&mut self, next_header: u8, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Exhausted> {
        let seq = self.seq.checked_add(1).filter(|seq| *seq <= self.limit).ok_or(Exhausted)?;
        self.seq = seq;
        self.bytes += payload.len() as u64;
        let header = Header::for_seq(self.cipher.spi, seq);
        let mut head = [0; CIPHERTEXT_AT];
        header.write(&mut head);
        out.clear();
        out.extend(head);
        out.extend(payload);
        let pad_len = esp::pad_len(payload.len()) as u8;
        out.extend(1..=pad_len);
        out.extend([pad_len, next_header]);
        let nonce = self.cipher.nonce(header.iv);
        let tag = self.cipher.key.seal_in_place_separate_tag(nonce, self.cipher.aad(seq), &mut out[CIPHERTEXT_AT..]);
        // It fails for lengths that no datagram has.
        out.extend(tag.map_err(|_| Exhausted)?.as_ref());
        Ok(())
    }
}

impl Inbound {
    /// With a window of so many packets.
    pub fn new(keys: &ChildKeys, window: u16) -> Result<Inbound, BadKey> {
        let window = Window::new(window, 0).ok_or(BadKey)?;
        Ok(Inbound { cipher: Cipher::new(keys)?, window, packets: 0, bytes: 0, selectors: keys.selectors.clone() })
    }

    /// Opens a packet where it lies: its next header and its payload.
    ///
    /// # Errors
    /// It is to be dropped.
    pub fn open<'a>(&mut self, packet: &'a mut [u8]) -> Result<(u8, &'a [u8]), Refusal> {
        let header = Header::parse(packet).ok_or(Refusal::BadTag)?;
        let seq = match self.cipher.esn {
            true => esp::infer_seq(self.window.top(), self.window.size(), header.seq_lo),
            false => header.seq_lo.into(),
        };
        self.window.check(seq).map_err(|_: Verdict| Refusal::Replayed)?;
        let nonce = self.cipher.nonce(header.iv);
        let sealed = packet.get_mut(CIPHERTEXT_AT..).ok_or(Refusal::BadTag)?;
        let plain = self.cipher.key.open_in_place(nonce, self.cipher.aad(seq), sealed).map_err(|_| Refusal::BadTag)?;
        // Only now: whoever does not have the key must not move the window.
        self.window.accept(seq);
        let (payload_len, next_header) = esp::strip_trailer(plain).map_err(|_| Refusal::BadTrailer)?;
        self.packets += 1;
        self.bytes += payload_len as u64;
        Ok((next_header, &plain[..payload_len]))
    }
}

/// Longest inner packet that fits an outer IP packet of `path_mtu` bytes, in bytes.
pub const fn payload_len_max(path_mtu: u16, ipv6_outer: bool) -> usize {
    esp::frame_len_max(Mode::Ip, path_mtu, ipv6_outer)
}

#[cfg(test)]
mod tests;
