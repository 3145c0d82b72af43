//! Opens one ESP packet in place and finds the frame or packet in it: EtherIP (RFC 3378) or IP.

use std::ops::Range;

use adit_proto::control::Mode;
use adit_proto::esp::{self, Header};
use adit_proto::etherip;
use adit_proto::packet;
use adit_proto::stats::Drop;

use crate::sa::InboundSa;
use crate::tap::headers::ETHERNET;

/// What was in an ESP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// An Ethernet frame or an IP packet, at this place of the packet's buffer.
    Frame {
        frame: Range<usize>,
        /// The inner checksum holds only the pseudo-header sum; the sender vouches for the bytes. Never in IP mode.
        open_checksum: bool,
        /// The SA followed a jump of the peer's sequence numbers.
        resynced: bool,
    },
    /// A dummy packet (RFC 4303 §2.6), and where its payload is.
    Dummy {
        payload: Range<usize>,
        /// The sequence number of the packet.
        seq: u64,
        /// As for a frame.
        resynced: bool,
    },
}

/// Opens the packet, whose header the caller has parsed; ranges count from the start of `packet`.
#[inline]
pub fn open(mode: Mode, sa: &mut InboundSa, header: &Header, packet: &mut [u8]) -> Result<Opened, Drop> {
    let adit_esp::Opened { payload, next_header, seq, resynced } = sa.esp.open(header, packet)?;
    if next_header == esp::NEXT_HEADER_NONE {
        return Ok(Opened::Dummy { payload, seq, resynced });
    }
    let start = payload.start;
    let payload = packet.get(payload).ok_or(Drop::BadPadding)?;
    let (place, open_checksum) = match (mode, next_header) {
        (Mode::Ethernet, esp::NEXT_HEADER_ETHERIP) => frame_in(payload)?,
        (Mode::Ip, esp::NEXT_HEADER_IPV4) => (packet_in(payload, false)?, false),
        (Mode::Ip, esp::NEXT_HEADER_IPV6) => (packet_in(payload, true)?, false),
        _ => return Err(Drop::BadNextHeader),
    };
    sa.bytes += place.len() as u64;
    Ok(Opened::Frame { frame: start + place.start..start + place.end, open_checksum, resynced })
}

/// Whether what was joined out of two halves is what this gateway's mode carries, whole and nothing besides.
pub fn check_joined(mode: Mode, bytes: &[u8]) -> Result<(), Drop> {
    match mode {
        Mode::Ethernet if bytes.len() < ETHERNET => Err(Drop::BadFrame),
        Mode::Ethernet => Ok(()),
        Mode::Ip => match packet::ip_len(bytes) {
            Some((len, _)) if len == bytes.len() => Ok(()),
            _ => Err(Drop::BadPacket),
        },
    }
}

/// Where the Ethernet frame of an EtherIP packet is, and whether its checksum is open.
#[inline]
fn frame_in(payload: &[u8]) -> Result<(Range<usize>, bool), Drop> {
    let header = payload.first_chunk().ok_or(Drop::BadEtherIp)?;
    let open_checksum = etherip::parse(*header).ok_or(Drop::BadEtherIp)?;
    if payload.len() < etherip::HEADER_LEN + ETHERNET {
        return Err(Drop::BadFrame);
    }
    Ok((etherip::HEADER_LEN..payload.len(), open_checksum))
}

/// Where the IP packet is. What follows it is there to hide its length (RFC 4303 §2.7) and is cut off.
#[inline]
fn packet_in(payload: &[u8], v6: bool) -> Result<Range<usize>, Drop> {
    match packet::ip_len(payload) {
        Some((len, found_v6)) if found_v6 == v6 => Ok(0..len),
        _ => Err(Drop::BadPacket),
    }
}

#[cfg(test)]
mod tests {
    use adit_esp::aead::{Aead, Backend};
    use adit_esp::{Opener, Sealer};
    use adit_proto::control::{ChildId, PeerId, Spi};
    use adit_proto::esp::Aad;
    use adit_proto::replay::Window;
    use adit_proto::suite::Suite;
    use proptest::prelude::*;

    use super::*;
    use crate::sa::OutboundSa;
    use crate::seal::{Inner, seal};

    const SPI: Spi = Spi(0x5000_0040);

    fn pair(suite: Suite, seq_next: u64, seq_top: u64, resync: bool) -> (OutboundSa, InboundSa) {
        let aead = || Aead::new(Backend::AwsLc, suite, &[3; 32][..suite.key_len()]).unwrap();
        let (spi, salt, slot, packets, bytes, esn) = (SPI, [9; 4].into(), 0, 0, 0, true);
        let sealer = Sealer { spi, seq_next, seq_end: u64::MAX, aead: aead(), salt, esn, packets };
        let window = Window::new(64, seq_top).unwrap();
        let opener = Opener { spi, window, aead: aead(), salt: [9; 4].into(), resync, esn, advanced: false, packets };
        (
            OutboundSa { esp: sealer, defer_checksums: true, seq_halfway: u64::MAX, slot, bytes },
            InboundSa { esp: opener, peer: PeerId(0), child: ChildId::ONLY, slot, bytes, uncounted: (0, 0), use_reported: false },
        )
    }

    fn sealed(sa: &mut OutboundSa, frame: &[u8], open_checksum: bool) -> Vec<u8> {
        let mut buffer = [&[0xee; 64], frame, &[0xdd; 64]].concat();
        let before = buffer[64..].to_vec();
        let mut packet = vec![0; esp::sealed_len(2 + frame.len())];
        seal(sa, &mut buffer, 64..64 + frame.len(), Inner::Ethernet { open_checksum }, &mut packet).unwrap();
        assert_eq!(buffer[64..], before, "the frame and what is behind it are as they were");
        packet
    }

    fn opened(sa: &mut InboundSa, packet: &[u8]) -> Result<Vec<u8>, Drop> {
        let mut packet = packet.to_vec();
        let header = Header::parse(&packet).ok_or(Drop::TooShort)?;
        match open(Mode::Ethernet, sa, &header, &mut packet)? {
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
            assert_eq!((out.esp.packets, inn.esp.packets), (186, 186));
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
            assert_eq!(inn.esp.window.top() == far, expected);
            if resync {
                assert_eq!(opened(&mut inn, &packet), Err(Drop::Replay));
            }
        }
    }

    /// What stands behind EtherIP or nothing, sealed as it is under the next number of an SA.
    fn forged(sa: &mut OutboundSa, payload: &[u8], next_header: u8) -> Vec<u8> {
        let pad = esp::pad_len(payload.len());
        let plain = [payload, &[1, 2, 3][..pad], &[pad as u8, next_header]].concat();
        let mut packet = vec![0; esp::sealed_len(payload.len())];
        let seq = sa.esp.seq_next;
        sa.esp.seq_next += 1;
        let (head, rest) = packet.split_first_chunk_mut().unwrap();
        Header { iv: [0xa5; 8], ..Header::for_seq(sa.esp.spi, seq) }.write(head);
        let (sealed, tag) = rest.split_last_chunk_mut().unwrap();
        sa.esp.aead.seal(
            &esp::nonce(*sa.esp.salt, [0xa5; 8]),
            Aad::new(sa.esp.spi, seq, sa.esp.esn).as_ref(),
            &plain,
            sealed,
            tag,
        );
        packet
    }

    fn opened_ip(sa: &mut InboundSa, packet: &[u8]) -> Result<Vec<u8>, Drop> {
        let mut packet = packet.to_vec();
        let header = Header::parse(&packet).ok_or(Drop::TooShort)?;
        match open(Mode::Ip, sa, &header, &mut packet)? {
            Opened::Frame { frame, open_checksum, .. } => {
                assert!(!open_checksum);
                Ok(packet[frame].to_vec())
            }
            Opened::Dummy { .. } => Ok(Vec::new()),
        }
    }

    fn ip(v6: bool, len: usize) -> Vec<u8> {
        let mut packet = vec![7; len];
        if v6 {
            (packet[0], packet[4], packet[5]) = (0x60, 0, (len - 40) as u8);
        } else {
            (packet[0], packet[2], packet[3]) = (0x45, 0, len as u8);
        }
        packet
    }

    #[test]
    fn an_ip_packet_agrees_with_its_next_header_and_loses_what_follows() {
        let (mut out, mut inn) = pair(Suite::Aes256Gcm, 1, 0, false);
        for (v6, next_header) in [(false, esp::NEXT_HEADER_IPV4), (true, esp::NEXT_HEADER_IPV6)] {
            for hidden in [0, 1, 200] {
                let packet = ip(v6, 99);
                let padded = [&packet[..], &vec![0; hidden]].concat();
                assert_eq!(opened_ip(&mut inn, &forged(&mut out, &padded, next_header)).unwrap(), packet);
            }
            let packet = ip(v6, 99);
            let mut options_too_long = ip(false, 40);
            options_too_long[0] = 0x4b;
            let bad = [&packet[..98], &packet[..7], &[], &ip(!v6, 99), &options_too_long];
            for bad in bad {
                assert_eq!(opened_ip(&mut inn, &forged(&mut out, bad, next_header)), Err(Drop::BadPacket), "{bad:?}");
            }
            assert_eq!(opened(&mut inn, &forged(&mut out, &packet, next_header)), Err(Drop::BadNextHeader), "in Ethernet mode");
        }
        let frame = [&[0x30, 0][..], &[1; 60]].concat();
        assert_eq!(opened_ip(&mut inn, &forged(&mut out, &frame, esp::NEXT_HEADER_ETHERIP)), Err(Drop::BadNextHeader));
        assert_eq!(opened_ip(&mut inn, &forged(&mut out, &[], esp::NEXT_HEADER_NONE)), Ok(Vec::new()));
        assert!(inn.esp.advanced);
    }

    #[test]
    fn what_is_sealed_in_ip_mode_opens_and_has_no_etherip_header() {
        for esn in [true, false] {
            let (mut out, mut inn) = pair(Suite::ChaCha20Poly1305, 1, 0, false);
            (out.esp.esn, inn.esp.esn) = (esn, esn);
            for (v6, len) in (40..120).flat_map(|len| [(false, len), (true, len)]) {
                let packet = ip(v6, len);
                let mut buffer = [&[0xee; 64], &packet[..], &[0xdd; 64]].concat();
                let mut sealed = vec![0; esp::sealed_len(len)];
                seal(&mut out, &mut buffer, 64..64 + len, Inner::ip(packet[0]), &mut sealed).unwrap();
                assert_eq!(buffer[..64], [0xee; 64]);
                assert_eq!(opened_ip(&mut inn, &sealed).unwrap(), packet);
            }
        }
    }

    #[test]
    fn without_esn_the_high_half_is_not_covered_and_the_last_number_ends_it() {
        let last = u64::from(u32::MAX);
        let (mut out, mut inn) = pair(Suite::Aes128Gcm, last - 1, last - 2, false);
        (out.esp.esn, out.esp.seq_end, inn.esp.esn) = (false, last + 1, false);
        let packets = [sealed(&mut out, &[1; 60], false), sealed(&mut out, &[2; 60], false)];
        let mut packet = vec![0; esp::sealed_len(62)];
        let mut buffer = vec![0; 256];
        let none_left = seal(&mut out, &mut buffer, 64..124, Inner::Ethernet { open_checksum: false }, &mut packet);
        assert_eq!(none_left, Err(Drop::SeqExhausted));
        for packet in &packets {
            assert!(opened(&mut inn, packet).is_ok());
            assert_eq!(opened(&mut inn, packet), Err(Drop::Replay));
        }
        assert_eq!(inn.esp.window.top(), last);
        // A number beyond the end would look like 0 or 1, far left of the window. It is never taken for a higher one.
        out.esp.seq_end = u64::MAX;
        for _ in 0..3 {
            assert_eq!(opened(&mut inn, &sealed(&mut out, &[3; 60], false)), Err(Drop::ReplayOld));
        }
        // The two kinds do not open each other's packets.
        let (mut long, mut short) = pair(Suite::Aes128Gcm, 1, 0, false);
        short.esp.esn = false;
        assert_eq!(opened(&mut short, &sealed(&mut long, &[1; 60], false)), Err(Drop::BadTag));
    }

    #[test]
    fn nothing_is_read_into_the_ivs_of_strangers() {
        let (mut out, mut inn) = pair(Suite::Aes128Gcm, 1, 0, false);
        let mut peer = pair(Suite::Aes128Gcm, 1, 0, true).1;
        for _ in 0..10 {
            let packet = forged(&mut out, &ip(false, 60), esp::NEXT_HEADER_IPV4);
            assert!(opened_ip(&mut inn, &packet).is_ok());
            assert!(opened_ip(&mut peer, &packet).is_ok(), "an IV that is no number says nothing");
        }
        assert_eq!((inn.esp.window.top(), peer.esp.window.top()), (10, 10));
    }

    #[test]
    fn sequence_numbers_end_at_their_limit() {
        let (mut out, _) = pair(Suite::Aes256Gcm, 7, 0, false);
        out.esp.seq_end = 8;
        let mut buffer = vec![0; 256];
        let mut packet = vec![0; esp::sealed_len(62)];
        assert_eq!(seal(&mut out, &mut buffer, 64..124, Inner::Ethernet { open_checksum: false }, &mut packet), Ok(()));
        assert_eq!(
            seal(&mut out, &mut buffer, 64..124, Inner::Ethernet { open_checksum: false }, &mut packet),
            Err(Drop::SeqExhausted)
        );
    }

    proptest! {
        #[test]
        fn a_changed_packet_is_dropped_and_leaves_the_window_alone(
            byte in 0usize..120, bit in 0u8..8, cut in 0usize..120, resync: bool,
        ) {
            let (mut out, mut inn) = pair(Suite::Aes128Gcm, 1 << 32, 1 << 32 | 5, resync);
            out.esp.seq_next = 1 << 32 | 10;
            let packet = sealed(&mut out, &[7; 70], true);
            let mut bent = packet.clone();
            let byte = byte % bent.len();
            bent[byte] ^= 1 << bit;
            prop_assert!(opened(&mut inn, &bent).is_err());
            prop_assert!(opened(&mut inn, &packet[..cut.min(packet.len() - 1)]).is_err());
            prop_assert_eq!(inn.esp.window.top(), 1 << 32 | 5);
            prop_assert!(opened(&mut inn, &packet).is_ok());
        }
    }
}
