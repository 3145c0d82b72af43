//! What one half seals, the other opens: once, unchanged, and under its own number only.

use adit_proto::suite::Suite;
use proptest::prelude::*;

use super::*;
use crate::aead::Backend;
use crate::seal::{Sealer, TRAILER_MAX};

const SPI: Spi = Spi(esp::SPI_MIN + 64);

fn pair(backend: Backend, suite: Suite, esn: bool, seq_next: u64) -> (Sealer, Opener) {
    let aead = || Aead::new(backend, suite, &[3; 32][..suite.key_len()]).unwrap();
    let window = Window::new(64, seq_next - 1).unwrap();
    (
        Sealer { spi: SPI, seq_next, seq_end: u64::MAX, aead: aead(), salt: [9; 4].into(), esn, packets: 0 },
        Opener { spi: SPI, window, aead: aead(), salt: [9; 4].into(), resync: false, esn, advanced: false, packets: 0 },
    )
}

fn sealed(sealer: &mut Sealer, payload: &[u8]) -> Vec<u8> {
    let mut buffer = [&[0xee; 8], payload, &[0xdd; TRAILER_MAX]].concat();
    let before = buffer.clone();
    let mut packet = vec![0; esp::sealed_len(payload.len())];
    sealer.seal(&mut buffer, 8..8 + payload.len(), 4, &mut packet).unwrap();
    assert_eq!(buffer, before, "the payload and what is around it are as they were");
    packet
}

fn opened(opener: &mut Opener, packet: &[u8]) -> Result<Vec<u8>, Drop> {
    let mut packet = packet.to_vec();
    let header = Header::parse(&packet).ok_or(Drop::TooShort)?;
    let opened = opener.open(&header, &mut packet)?;
    assert_eq!(opened.next_header, 4);
    Ok(packet[opened.payload].to_vec())
}

#[test]
fn payloads_of_every_length_come_out_once_as_they_went_in() {
    for (backend, suite, esn) in Backend::ALL
        .iter()
        .flat_map(|&backend| Suite::ALL.map(|suite| [(backend, suite, true), (backend, suite, false)]))
        .flatten()
    {
        let (mut sealer, mut opener) = pair(backend, suite, esn, 1);
        for len in 0..70 {
            let payload: Vec<u8> = (0..len).collect();
            let packet = sealed(&mut sealer, &payload);
            assert_eq!(packet.len() % 4, 0, "RFC 4303 §2.4: the trailer ends on a four-byte boundary");
            assert_eq!(opened(&mut opener, &packet), Ok(payload), "{backend} {suite} {esn}");
            assert_eq!(opened(&mut opener, &packet), Err(Drop::Replay));
        }
        assert_eq!((sealer.packets, opener.packets, opener.advanced), (70, 70, true));
    }
}

#[test]
fn the_high_half_of_an_extended_number_is_under_the_tag() {
    let (mut sealer, mut opener) = pair(Backend::AwsLc, Suite::Aes128Gcm, true, u64::from(u32::MAX) - 1);
    for _ in 0..8 {
        assert!(opened(&mut opener, &sealed(&mut sealer, b"over the edge")).is_ok());
    }
    let mut far = pair(Backend::AwsLc, Suite::Aes128Gcm, true, 1).1;
    assert_eq!(opened(&mut far, &sealed(&mut sealer, b"x")), Err(Drop::BadTag));
}

#[test]
fn a_replay_left_of_the_window_is_counted_as_one_without_a_decryption() {
    for (esn, first) in [(true, 1), (true, (7 << 32) + 5), (false, 1)] {
        let (mut sealer, mut opener) = pair(Backend::AwsLc, Suite::Aes128Gcm, esn, first);
        let packets: Vec<Vec<u8>> = (0..200).map(|_| sealed(&mut sealer, b"once")).collect();
        packets.iter().for_each(|packet| assert!(opened(&mut opener, packet).is_ok()));
        let old = &packets[..200 - 64];
        assert!(old.iter().all(|packet| opened(&mut opener, packet) == Err(Drop::ReplayOld)), "extended: {esn}, from {first}");
        // Also one whose tag is wrong: nobody looked at it.
        let mut bent = packets[0].clone();
        bent[30] ^= 1;
        assert_eq!(opened(&mut opener, &bent), Err(Drop::ReplayOld));
        assert_eq!(opened(&mut opener, &packets[199]), Err(Drop::Replay));
    }
}

#[test]
fn a_replay_is_one_as_far_back_as_32_bits_can_tell() {
    let half = 1u64 << 31;
    for (ago, why) in
        [(64, Drop::ReplayOld), (half - 1, Drop::ReplayOld), (half + 1, Drop::BadTag), ((1 << 32) - 1, Drop::BadTag)]
    {
        let (mut sealer, mut opener) = pair(Backend::AwsLc, Suite::Aes128Gcm, true, 9);
        let packet = sealed(&mut sealer, b"once");
        assert!(opened(&mut opener, &packet).is_ok());
        sealer.seq_next = 9 + ago;
        opener.window.accept(9 + ago - 1);
        assert!(opened(&mut opener, &sealed(&mut sealer, b"much later")).is_ok());
        assert_eq!(opened(&mut opener, &packet), Err(why), "{ago} numbers ago");
        assert_eq!(opener.window.top(), 9 + ago);
    }
}

#[test]
fn what_lies_ahead_is_opened_over_the_edge_of_32_bits() {
    let edge = 1u64 << 32;
    for (top, next) in [(edge - 10, edge + 3), (3 * edge - 2, 3 * edge + 2), (edge - 1, edge + (1 << 30)), (5, 1 << 31)] {
        let (mut sealer, mut opener) = pair(Backend::AwsLc, Suite::Aes128Gcm, true, top + 1);
        sealer.seq_next = next;
        assert!(opened(&mut opener, &sealed(&mut sealer, b"ahead")).is_ok(), "{next} after {top}");
        // And what was late and is still in the window.
        sealer.seq_next = next - 3;
        assert!(opened(&mut opener, &sealed(&mut sealer, b"late")).is_ok());
    }
}

#[test]
fn no_number_is_used_at_the_end_or_without_room() {
    let (mut sealer, _) = pair(Backend::AwsLc, Suite::Aes256Gcm, true, 7);
    let mut packet = vec![0; esp::sealed_len(8)];
    assert_eq!(sealer.seal(&mut [0; 8 + TRAILER_MAX - 1], 0..8, 4, &mut packet), Err(Drop::TooLong));
    assert_eq!(sealer.seal(&mut [0; 64], 0..8, 4, &mut packet[..20]), Err(Drop::TooLong));
    assert_eq!((sealer.seq_next, sealer.packets), (7, 0));
    sealer.seq_end = 8;
    assert_eq!(sealer.seal(&mut [0; 64], 0..8, 4, &mut packet), Ok(()));
    assert_eq!(sealer.seal(&mut [0; 64], 0..8, 4, &mut packet), Err(Drop::SeqExhausted));
}

#[test]
fn a_jump_is_followed_with_resync_only() {
    for resync in [true, false] {
        let (mut sealer, mut opener) = pair(Backend::AwsLc, Suite::ChaCha20Poly1305, true, 3);
        (sealer.seq_next, opener.resync) = (5 << 32 | 77, resync);
        let packet = sealed(&mut sealer, b"x");
        assert_eq!(opened(&mut opener, &packet).is_ok(), resync);
        assert_eq!(opener.window.top(), if resync { 5 << 32 | 77 } else { 2 });
    }
}

proptest! {
    #[test]
    fn a_changed_or_cut_packet_is_dropped_and_moves_no_window(byte in 4usize..200, bit in 0u8..8, cut in 0usize..200, esn: bool) {
        let (mut sealer, mut opener) = pair(Backend::AwsLc, Suite::Aes128Gcm, esn, 9);
        let packet = sealed(&mut sealer, &[7; 60]);
        let mut bent = packet.clone();
        bent[4 + byte % (packet.len() - 4)] ^= 1 << bit;
        prop_assert!(opened(&mut opener, &bent).is_err());
        prop_assert!(opened(&mut opener, &packet[..cut % packet.len()]).is_err());
        prop_assert_eq!((opener.window.top(), opener.packets), (8, 0));
        prop_assert!(opened(&mut opener, &packet).is_ok());
    }
}
