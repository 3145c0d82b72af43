//! ESP packets (RFC 4303) with an AEAD suite (RFC 4106, RFC 7634) in UDP (RFC 3948), with sequence numbers of 64 or 32 bits.
//!
//! ```text
//!  0        4        8                16                                      len-16      len
//!  ┌────────┬────────┬────────────────┬───────────────────────────────────────┬───────────┐
//!  │  SPI   │ seq lo │ IV (8 bytes)   │ ciphertext, a multiple of four bytes  │ tag       │
//!  └────────┴────────┴────────────────┴───────────────────────────────────────┴───────────┘
//!                                                  payload ‖ 1,2,3… ‖ pad length ‖ next header
//! ```
//! The payload is an Ethernet frame behind its EtherIP header, or an IP packet. Numbers are big endian. The high half of an extended
//! sequence number is not sent (RFC 4303 §2.2.1), but covered by the tag.

use crate::etherip;
use crate::suite::{SALT_LEN, TAG_LEN};

/// SPI and low half of the sequence number, in bytes.
pub const HEADER_LEN: usize = 8;
/// Length of the explicit IV, in bytes (RFC 4106 §3.1).
pub const IV_LEN: usize = 8;
/// Where the ciphertext begins.
pub const CIPHERTEXT_AT: usize = HEADER_LEN + IV_LEN;
/// Pad length and next header, in bytes.
pub const TRAILER_LEN: usize = 2;
/// The shortest packet that can be opened, in bytes: four bytes of ciphertext hold the trailer.
pub const PACKET_LEN_MIN: usize = CIPHERTEXT_AT + 4 + TAG_LEN;
/// Four zero bytes before an IKE message on the shared port (RFC 3948 §2.2).
pub const NON_ESP_MARKER_LEN: usize = 4;
/// Length of the nonce of every suite: salt and IV, in bytes (RFC 4106 §4, RFC 7634 §2).
pub const NONCE_LEN: usize = SALT_LEN + IV_LEN;
/// Length of the associated data with extended sequence numbers, in bytes (RFC 4106 §5).
pub const AAD_LEN_MAX: usize = 12;
/// These bits of an SPI of ours are the lane.
pub const LANE_MASK: u32 = (1 << crate::limits::LANE_BITS) - 1;
/// Our SPIs begin here, so that ESP is never taken for STUN, IKE, a reserved SPI or ChannelData of TURN, which begins with a channel
/// number between 0x4000 and 0x4FFF (RFC 8656 §12).
pub const SPI_MIN: u32 = 0x5000_0000;
/// SPIs up to this one are reserved (RFC 4303 §2.1). What a peer chooses for itself is above, and may be below ours.
pub const SPI_RESERVED_MAX: u32 = 255;
/// Next header: an IPv4 packet (RFC 4303 §2.6).
pub const NEXT_HEADER_IPV4: u8 = 4;
/// Next header: an IPv6 packet.
pub const NEXT_HEADER_IPV6: u8 = 41;
/// Next header: an Ethernet frame in EtherIP (RFC 3378 §3).
pub const NEXT_HEADER_ETHERIP: u8 = 97;
/// Next header: nothing, a dummy packet (RFC 4303 §2.6).
pub const NEXT_HEADER_NONE: u8 = 59;

const ALIGN: usize = 4;
const UDP_HEADER_LEN: usize = 8;
const IPV4_HEADER_LEN: usize = 20;
const IPV6_HEADER_LEN: usize = 40;

/// Security parameters index (RFC 4303 §2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Spi(pub u32);

/// What a gateway carries: it has TAPs or TUNs, never both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Mode {
    /// Ethernet frames, as EtherIP in ESP.
    Ethernet = 1,
    /// IP packets, as ESP in tunnel mode (RFC 4303 §3.1.2).
    Ip = 2,
}

impl Mode {
    pub const ALL: [Mode; 2] = [Mode::Ethernet, Mode::Ip];

    /// The name in configuration and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Ethernet => "ethernet",
            Mode::Ip => "ip",
        }
    }
}

/// The part of a packet in the clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub spi: Spi,
    /// The low half of the sequence number.
    pub seq_lo: u32,
    pub iv: [u8; IV_LEN],
}

impl Header {
    /// Reads the first 16 bytes of a packet; `None` when there are fewer.
    #[inline]
    pub fn parse(packet: &[u8]) -> Option<Header> {
        let [s0, s1, s2, s3, q0, q1, q2, q3, iv @ ..] = *packet.first_chunk::<CIPHERTEXT_AT>()?;
        Some(Header { spi: Spi(u32::from_be_bytes([s0, s1, s2, s3])), seq_lo: u32::from_be_bytes([q0, q1, q2, q3]), iv })
    }

    /// The header of the packet with this sequence number. Our IV is the sequence number itself: unique under one key.
    #[inline]
    pub fn for_seq(spi: Spi, seq: u64) -> Header {
        Header { spi, seq_lo: seq as u32, iv: seq.to_be_bytes() }
    }

    /// Writes the first 16 bytes of a packet.
    #[inline]
    pub fn write(&self, out: &mut [u8; CIPHERTEXT_AT]) {
        out[..4].copy_from_slice(&self.spi.0.to_be_bytes());
        out[4..8].copy_from_slice(&self.seq_lo.to_be_bytes());
        out[8..].copy_from_slice(&self.iv);
    }
}

/// The 64-bit sequence number that a packet with `seq_lo` has, seen from a window of `window` packets that ends at `top`:
/// the smallest one that is not left of the window (RFC 4303 appendix A2.2, both cases in one).
///
/// Past 2^64 it wraps to a number left of the window, which the window refuses.
#[inline]
pub fn infer_seq(top: u64, window: u64, seq_lo: u32) -> u64 {
    let bottom = top.saturating_sub(window.saturating_sub(1));
    bottom.wrapping_add(u64::from(seq_lo.wrapping_sub(bottom as u32)))
}

/// The associated data: SPI, then the sequence number with both halves or the low one alone (RFC 4106 §5, RFC 7634 §2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aad {
    bytes: [u8; AAD_LEN_MAX],
    len: usize,
}

impl Aad {
    #[inline]
    pub const fn new(spi: Spi, seq: u64, esn: bool) -> Aad {
        // Without the high half, the low one follows the SPI, and the rest does not count.
        let (number, len) = if esn { (seq, AAD_LEN_MAX) } else { (seq << 32, 8) };
        let ([s0, s1, s2, s3], [a, b, c, d, e, f, g, h]) = (spi.0.to_be_bytes(), number.to_be_bytes());
        Aad { bytes: [s0, s1, s2, s3, a, b, c, d, e, f, g, h], len }
    }
}

impl AsRef<[u8]> for Aad {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The nonce: salt, then IV (RFC 4106 §4, RFC 7634 §2).
#[inline]
pub fn nonce(salt: [u8; SALT_LEN], iv: [u8; IV_LEN]) -> [u8; NONCE_LEN] {
    let ([s0, s1, s2, s3], [a, b, c, d, e, f, g, h]) = (salt, iv);
    [s0, s1, s2, s3, a, b, c, d, e, f, g, h]
}

/// Padding bytes (0 to 3) that make payload, padding and trailer a multiple of four (RFC 4303 §2.4).
#[inline]
pub const fn pad_len(payload_len: usize) -> usize {
    payload_len.wrapping_add(TRAILER_LEN).wrapping_neg() % ALIGN
}

/// Length of what stands in front of a frame or packet inside of ESP, in bytes.
#[inline]
pub const fn inner_header_len(mode: Mode) -> usize {
    match mode {
        Mode::Ethernet => etherip::HEADER_LEN,
        Mode::Ip => 0,
    }
}

/// Length of the UDP payload that carries a payload of this length, in bytes. The EtherIP header is a part of it.
#[inline]
pub const fn sealed_len(payload_len: usize) -> usize {
    CIPHERTEXT_AT + payload_len + pad_len(payload_len) + TRAILER_LEN + TAG_LEN
}

/// Length of the longest Ethernet frame (header included) or IP packet that fits an outer IP packet of `path_mtu` bytes; 0 when none
/// does.
pub const fn frame_len_max(mode: Mode, path_mtu: u16, ipv6_outer: bool) -> usize {
    let ip = if ipv6_outer { IPV6_HEADER_LEN } else { IPV4_HEADER_LEN };
    let ciphertext = (path_mtu as usize).saturating_sub(ip + UDP_HEADER_LEN + CIPHERTEXT_AT + TAG_LEN) / ALIGN * ALIGN;
    ciphertext.saturating_sub(TRAILER_LEN + inner_header_len(mode))
}

/// Length of the outer IP packet in which a payload of this length travels, in bytes.
pub const fn outer_len(payload_len: usize, ipv6_outer: bool) -> usize {
    let ip = if ipv6_outer { IPV6_HEADER_LEN } else { IPV4_HEADER_LEN };
    ip + UDP_HEADER_LEN + sealed_len(payload_len)
}

/// What is wrong at the end of an opened packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrailerError {
    /// Fewer bytes than the trailer has.
    TooShort,
    /// More padding than bytes, or padding other than 1, 2, 3 and so on.
    BadPadding,
}

/// Length of the payload without padding and trailer, and the next header (RFC 4303 §2.4 to §2.6).
#[inline]
pub fn strip_trailer(plain: &[u8]) -> Result<(usize, u8), TrailerError> {
    let (body, &[pad_len, next_header]) = plain.split_last_chunk::<TRAILER_LEN>().ok_or(TrailerError::TooShort)?;
    let payload_len = body.len().checked_sub(usize::from(pad_len)).ok_or(TrailerError::BadPadding)?;
    let in_order = body[payload_len..].iter().zip(1..=u8::MAX).all(|(&byte, expected)| byte == expected);
    if in_order { Ok((payload_len, next_header)) } else { Err(TrailerError::BadPadding) }
}

/// The worker that owns an SPI of ours, among `workers` (none counts as one).
#[inline]
pub const fn worker_of(spi: Spi, workers: usize) -> usize {
    let lane = (spi.0 & LANE_MASK) as usize;
    if workers == 0 { 0 } else { lane % workers }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 4303 appendix A2.2, word for word, with the high half that would be negative taken as 0.
    fn rfc_seq(top: u64, window: u32, seq_lo: u32) -> u64 {
        let (tl, th) = (top as u32, top >> 32);
        let high = if tl >= window - 1 {
            if seq_lo >= tl - (window - 1) { th } else { th.wrapping_add(1) & 0xffff_ffff }
        } else if seq_lo >= tl.wrapping_sub(window).wrapping_add(1) {
            th.saturating_sub(1)
        } else {
            th
        };
        high << 32 | u64::from(seq_lo)
    }

    #[test]
    fn the_header_is_big_endian_and_comes_back() {
        let header = Header::for_seq(Spi(0x5000_0102), 0x0102_0304_0506_0708);
        let mut out = [0; CIPHERTEXT_AT];
        header.write(&mut out);
        assert_eq!(out, [0x50, 0, 1, 2, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(Header::parse(&out), Some(header));
        assert_eq!(Header::parse(&out[..15]), None);
    }

    #[test]
    fn aad_and_nonce_have_the_order_of_the_rfc() {
        let aad = |esn| Aad::new(Spi(0x0102_0304), 0x0506_0708_090a_0b0c, esn);
        assert_eq!(aad(true).as_ref(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(aad(false).as_ref(), [1, 2, 3, 4, 9, 10, 11, 12]);
        assert_eq!(nonce([1, 2, 3, 4], [5, 6, 7, 8, 9, 10, 11, 12]), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    }

    #[test]
    fn the_longest_frame_fits_and_one_more_byte_does_not() {
        assert_eq!(Mode::ALL.map(|mode| frame_len_max(mode, 1500, false)), [1436, 1438]);
        assert_eq!(Mode::ALL.map(|mode| frame_len_max(mode, 1500, true)), [1416, 1418]);
        assert_eq!(Mode::ALL.map(|mode| frame_len_max(mode, 60, false)), [0, 0]);
        for mtu in 576..=u16::MAX {
            for (mode, v6, headers) in Mode::ALL.into_iter().flat_map(|mode| [(mode, false, 28), (mode, true, 48)]) {
                let payload = inner_header_len(mode) + frame_len_max(mode, mtu, v6);
                assert!(sealed_len(payload) + headers <= usize::from(mtu));
                assert!(sealed_len(payload + 1) + headers > usize::from(mtu));
            }
        }
    }

    #[test]
    fn trailers_are_checked() {
        assert_eq!(strip_trailer(&[7, 7, 1, 2, 2, 97]), Ok((2, 97)));
        assert_eq!(strip_trailer(&[0, 59]), Ok((0, 59)));
        assert_eq!(strip_trailer(&[7, 7, 1, 3, 2, 97]), Err(TrailerError::BadPadding));
        assert_eq!(strip_trailer(&[1, 2, 3, 97]), Err(TrailerError::BadPadding));
        assert_eq!(strip_trailer(&[1]), Err(TrailerError::TooShort));
    }

    #[test]
    fn the_longest_padding_is_accepted() {
        let mut plain: Vec<u8> = (1..=255).collect();
        plain.extend([255, 59]);
        assert_eq!(strip_trailer(&plain), Ok((0, 59)));
    }

    #[test]
    fn lanes_map_to_workers() {
        assert_eq!(worker_of(Spi(SPI_MIN | 5), 2), 1);
        assert_eq!(worker_of(Spi(SPI_MIN | 64), 3), 0);
        assert_eq!(worker_of(Spi(SPI_MIN | 63), 0), 0);
    }

    proptest! {
        #[test]
        fn inferred_numbers_are_those_of_the_rfc(top in prop_oneof![any::<u64>(), 0..1u64 << 33, (1u64 << 32) - 9000..(1u64 << 32) + 9000],
                                                 window_log in 6u32..15, seq_lo: u32, near in -20_000i64..20_000) {
            let window = 1 << window_log;
            let top = top.min(u64::MAX >> 1);
            for lo in [seq_lo, top.wrapping_add_signed(near) as u32] {
                prop_assert_eq!(infer_seq(top, u64::from(window), lo), rfc_seq(top, window, lo));
            }
        }

        #[test]
        fn the_inferred_number_is_the_first_at_or_after_the_bottom(top: u64, window in 1u64..20_000, seq_lo: u32) {
            let seq = infer_seq(top, window, seq_lo);
            let bottom = top.saturating_sub(window - 1);
            prop_assert_eq!(seq as u32, seq_lo);
            let candidates = (0..3u64).filter_map(|step| ((bottom >> 32).checked_add(step)?.checked_mul(1 << 32)?).checked_add(u64::from(seq_lo)));
            match candidates.into_iter().find(|&candidate| candidate >= bottom) {
                Some(first) => prop_assert_eq!(seq, first),
                None => prop_assert!(seq < bottom),
            }
        }

        #[test]
        fn a_number_within_reach_is_inferred_right(top in 0..u64::MAX >> 1, ahead in -4095i64..1 << 31) {
            if let Some(seq) = top.checked_add_signed(ahead) {
                prop_assert_eq!(infer_seq(top, 4096, seq as u32), seq);
            }
        }

        #[test]
        fn what_is_padded_is_stripped(payload: Vec<u8>, next_header: u8) {
            let mut plain = payload.clone();
            plain.extend((1u8..).take(pad_len(payload.len())));
            plain.extend([pad_len(payload.len()) as u8, next_header]);
            prop_assert_eq!(plain.len() % 4, 0);
            prop_assert_eq!(strip_trailer(&plain), Ok((payload.len(), next_header)));
        }

        #[test]
        fn any_bytes_give_a_value_or_an_error(bytes: Vec<u8>) {
            let _ = strip_trailer(&bytes);
            prop_assert_eq!(Header::parse(&bytes).is_some(), bytes.len() >= CIPHERTEXT_AT);
        }
    }
}
