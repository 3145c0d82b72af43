//! Opens one ESP packet in place: cheap checks first, then the tag, and only then the replay window (RFC 4303 §3.4).

use std::ops::Range;

use adit_proto::esp::{self, Header};
use adit_proto::etherip;
use adit_proto::replay::Verdict;
use adit_proto::stats::Drop;
use adit_proto::suite::TAG_LEN;

use crate::sa::InboundSa;
use crate::tap::headers::ETHERNET;

/// What was in an ESP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// An Ethernet frame, at this place of the packet's buffer.
    Frame {
        frame: Range<usize>,
        /// The inner checksum holds only the pseudo-header sum; the sender vouches for the bytes.
        open_checksum: bool,
        /// The SA followed a jump of the peer's sequence numbers.
        resynced: bool,
    },
    /// A dummy packet (RFC 4303 §2.6).
    Dummy {
        /// As for a frame.
        resynced: bool,
    },
}

/// Opens the packet, whose header the caller has parsed; ranges count from the start of `packet`.
#[inline]
pub fn open(sa: &mut InboundSa, header: &Header, packet: &mut [u8]) -> Result<Opened, Drop> {
    if packet.len() < esp::PACKET_LEN_MIN {
        return Err(Drop::TooShort);
    }
    let (body, tag) = packet.split_last_chunk_mut::<TAG_LEN>().ok_or(Drop::TooShort)?;
    let (_, sealed) = body.split_at_mut(esp::CIPHERTEXT_AT);
    let (seq, resynced) = verify(sa, header, sealed, tag)?;
    sa.window.accept(seq);
    sa.packets += 1;

    let (len, next_header) = esp::strip_trailer(sealed).map_err(|_| Drop::BadPadding)?;
    if next_header == esp::NEXT_HEADER_NONE {
        return Ok(Opened::Dummy { resynced });
    }
    if next_header != esp::NEXT_HEADER_ETHERIP {
        return Err(Drop::BadNextHeader);
    }
    let inner = sealed.get(..len).ok_or(Drop::BadPadding)?;
    let etherip_header = inner.first_chunk().ok_or(Drop::BadEtherIp)?;
    let open_checksum = etherip::parse(*etherip_header).ok_or(Drop::BadEtherIp)?;
    if len < etherip::HEADER_LEN + ETHERNET {
        return Err(Drop::BadFrame);
    }
    sa.bytes += (len - etherip::HEADER_LEN) as u64;
    let start = esp::CIPHERTEXT_AT;
    Ok(Opened::Frame { frame: start + etherip::HEADER_LEN..start + len, open_checksum, resynced })
}

/// Checks window and tag; returns the sequence number, and whether it was a jump.
#[inline]
fn verify(sa: &mut InboundSa, header: &Header, sealed: &mut [u8], tag: &[u8; TAG_LEN]) -> Result<(u64, bool), Drop> {
    let inferred = esp::infer_seq(sa.window.top(), sa.window.size(), header.seq_lo);
    // An Adit peer writes the whole sequence number into the IV. That is a hint that anyone can bend; the number is in the AAD,
    // so the tag decides whether it is true.
    let told = u64::from_be_bytes(header.iv);
    let seq = if sa.resync && told as u32 == header.seq_lo { told } else { inferred };
    sa.window.check(seq).map_err(|verdict| match verdict {
        Verdict::Seen => Drop::Replay,
        Verdict::Old => Drop::ReplayOld,
    })?;
    let nonce = esp::nonce(sa.salt, header.iv);
    sa.aead.open(&nonce, &esp::aad(header.spi, seq), sealed, tag).map_err(|_| Drop::BadTag)?;
    Ok((seq, seq != inferred))
}

#[cfg(test)]
mod tests {
    use adit_proto::control::{PeerId, Spi};
    use adit_proto::replay::Window;
    use adit_proto::suite::Suite;
    use proptest::prelude::*;

    use super::*;
    use crate::aead::{Aead, Backend};
    use crate::sa::OutboundSa;
    use crate::seal::seal;

    const SPI: Spi = Spi(0x4000_0040);

    fn pair(suite: Suite, seq_next: u64, seq_top: u64, resync: bool) -> (OutboundSa, InboundSa) {
        let aead = || Aead::new(Backend::AwsLc, suite, &[3; 32][..suite.key_len()]).unwrap();
        let (spi, salt, slot, packets, bytes) = (SPI, [9; 4], 0, 0, 0);
        let limits = (u64::MAX, u64::MAX, true);
        let (seq_end, seq_halfway, defer_checksums) = limits;
        (
            OutboundSa { spi, seq_next, seq_end, aead: aead(), salt, defer_checksums, seq_halfway, slot, packets, bytes },
            InboundSa {
                spi,
                peer: PeerId(0),
                window: Window::new(64, seq_top).unwrap(),
                aead: aead(),
                salt,
                resync,
                slot,
                packets,
                bytes,
            },
        )
    }

    fn sealed(sa: &mut OutboundSa, frame: &[u8], open_checksum: bool) -> Vec<u8> {
        let mut buffer = [&[0xee; 64], frame, &[0xdd; 64]].concat();
        let before = buffer[64..].to_vec();
        let mut packet = vec![0; esp::sealed_len(frame.len())];
        seal(sa, &mut buffer, 64..64 + frame.len(), open_checksum, &mut packet).unwrap();
        assert_eq!(buffer[64..], before, "the frame and what is behind it are as they were");
        packet
    }

    fn opened(sa: &mut InboundSa, packet: &[u8]) -> Result<Vec<u8>, Drop> {
        let mut packet = packet.to_vec();
        let header = Header::parse(&packet).ok_or(Drop::TooShort)?;
        match open(sa, &header, &mut packet)? {
            Opened::Frame { frame, .. } => Ok(packet[frame].to_vec()),
            Opened::Dummy { .. } => Ok(Vec::new()),
        }
    }

    #[test]
    fn frames_of_every_length_come_out_as_they_went_in() {
        for suite in Suite::ALL {
            let (mut out, mut inn) = pair(suite, 1, 0, false);
            for len in 14..200 {
                let frame: Vec<u8> = (0..len).map(|n| n as u8).collect();
                let packet = sealed(&mut out, &frame, false);
                assert_eq!(packet.len() % 4, 0, "RFC 4303 §2.4: the trailer ends on a four-byte boundary");
                assert_eq!(opened(&mut inn, &packet).unwrap(), frame);
            }
            assert_eq!((out.packets, inn.packets), (186, 186));
        }
    }

    #[test]
    fn a_packet_is_taken_once_and_late_ones_inside_the_window_are_taken() {
        let (mut out, mut inn) = pair(Suite::Aes128Gcm, 1, 0, true);
        let packets: Vec<_> = (0..100).map(|_| sealed(&mut out, &[1; 60], false)).collect();
        assert!(opened(&mut inn, &packets[99]).is_ok());
        assert!(opened(&mut inn, &packets[50]).is_ok());
        assert_eq!(opened(&mut inn, &packets[50]), Err(Drop::Replay));
        assert_eq!(opened(&mut inn, &packets[99]), Err(Drop::Replay));
        assert_eq!(opened(&mut inn, &packets[35]), Err(Drop::ReplayOld));
    }

    #[test]
    fn a_peer_that_jumped_is_followed_with_resync_and_not_without() {
        let far = 5 << 32 | 77;
        for (resync, expected) in [(true, true), (false, false)] {
            let (mut out, mut inn) = pair(Suite::ChaCha20Poly1305, far, 3, resync);
            let packet = sealed(&mut out, &[1; 60], false);
            assert_eq!(opened(&mut inn, &packet).is_ok(), expected);
            assert_eq!(inn.window.top() == far, expected);
            if resync {
                assert_eq!(opened(&mut inn, &packet), Err(Drop::Replay));
            }
        }
    }

    #[test]
    fn sequence_numbers_end_at_their_limit() {
        let (mut out, _) = pair(Suite::Aes256Gcm, 7, 0, false);
        out.seq_end = 8;
        let mut buffer = vec![0; 256];
        let mut packet = vec![0; esp::sealed_len(60)];
        assert_eq!(seal(&mut out, &mut buffer, 64..124, false, &mut packet), Ok(()));
        assert_eq!(seal(&mut out, &mut buffer, 64..124, false, &mut packet), Err(Drop::SeqExhausted));
    }

    proptest! {
        #[test]
        fn a_changed_packet_is_dropped_and_leaves_the_window_alone(
            byte in 0usize..120, bit in 0u8..8, cut in 0usize..120, resync: bool,
        ) {
            let (mut out, mut inn) = pair(Suite::Aes128Gcm, 1 << 32, 1 << 32 | 5, resync);
            out.seq_next = 1 << 32 | 10;
            let packet = sealed(&mut out, &[7; 70], true);
            let mut bent = packet.clone();
            let byte = byte % bent.len();
            bent[byte] ^= 1 << bit;
            prop_assert!(opened(&mut inn, &bent).is_err());
            prop_assert!(opened(&mut inn, &packet[..cut.min(packet.len() - 1)]).is_err());
            prop_assert_eq!(inn.window.top(), 1 << 32 | 5);
            prop_assert!(opened(&mut inn, &packet).is_ok());
        }
    }
}
