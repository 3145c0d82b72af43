//! Tests of the two directions of a Child SA.

use adit_proto::control::{ChildId, PeerId, SaKey};
use adit_proto::suite::Suite;

use super::*;

fn keys(suite: Suite, esn: bool) -> ChildKeys {
    let mut key = [0; 32];
    key[..suite.key_len()].fill(7);
    ChildKeys {
        peer: PeerId(0),
        child: ChildId(0),
        lane: 0,
        spi: Spi(esp::SPI_MIN + 64),
        suite,
        key: SaKey { key, salt: [1, 2, 3, 4] },
        esn,
        mode: adit_engine::ike::Mode::Tunnel,
        selectors: SelectorPair::default(),
        replaces: None,
    }
}

fn pair(suite: Suite, esn: bool) -> (Outbound, Inbound) {
    let keys = keys(suite, esn);
    (Outbound::new(&keys).unwrap(), Inbound::new(&keys, 64).unwrap())
}

fn sealed(outbound: &mut Outbound, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    outbound.seal(4, payload, &mut out).unwrap();
    out
}

#[test]
fn what_is_sealed_is_opened_once() {
    for suite in Suite::ALL {
        for esn in [false, true] {
            let (mut outbound, mut inbound) = pair(suite, esn);
            for len in 0..9 {
                let payload = vec![0x45; len];
                let packet = sealed(&mut outbound, &payload);
                assert_eq!(packet.len() % 4, 0);
                assert_eq!(inbound.open(&mut packet.clone()), Ok((4, &payload[..])), "{suite} {esn}");
                assert_eq!(inbound.open(&mut packet.clone()), Err(Refusal::Replayed));
            }
            assert_eq!((outbound.usage(), inbound.packets(), inbound.bytes), ((9, 36), 9, 36));
        }
    }
}

#[test]
fn a_changed_byte_anywhere_is_noticed_and_moves_no_window() {
    for esn in [false, true] {
        let (mut outbound, mut inbound) = pair(Suite::Aes256Gcm, esn);
        let packet = sealed(&mut outbound, b"payload");
        for at in 4..packet.len() {
            let mut broken = packet.clone();
            broken[at] ^= 1;
            assert!(inbound.open(&mut broken).is_err(), "byte {at}");
        }
        assert!(inbound.open(&mut packet.clone()).is_ok());
    }
}

#[test]
fn every_packet_has_a_nonce_of_its_own_and_the_last_number_is_the_last() {
    for (esn, limit) in [(false, SEQ_MAX_32), (true, SEQ_MAX_64)] {
        let (mut outbound, mut inbound) = pair(Suite::ChaCha20Poly1305, esn);
        let ivs: std::collections::BTreeSet<Vec<u8>> = (0..100).map(|_| sealed(&mut outbound, b"x")[8..16].to_vec()).collect();
        assert_eq!(ivs.len(), 100);
        assert!(!outbound.is_past_soft_limit());
        outbound.sealer.seq_next = limit;
        assert!(outbound.is_past_soft_limit());
        let packet = sealed(&mut outbound, b"last");
        if !esn {
            assert!(inbound.open(&mut packet.clone()).is_ok());
        }
        for _ in 0..3 {
            assert_eq!(outbound.seal(4, b"one too many", &mut Vec::new()), Err(Exhausted));
        }
    }
}

#[test]
fn the_high_half_of_an_extended_number_is_under_the_tag() {
    let (mut outbound, mut inbound) = pair(Suite::Aes128Gcm, true);
    outbound.sealer.seq_next = u64::from(u32::MAX) - 1;
    inbound.opener.window = Window::new(64, outbound.sealer.seq_next - 1).unwrap();
    for _ in 0..8 {
        let packet = sealed(&mut outbound, b"over the edge");
        assert!(inbound.open(&mut packet.clone()).is_ok());
    }
    assert_eq!(outbound.sealer.seq_next, u64::from(u32::MAX) + 7);
    // The same low half with another high half.
    let mut far = pair(Suite::Aes128Gcm, true).1;
    assert_eq!(far.open(&mut sealed(&mut outbound, b"x")), Err(Refusal::BadTag));
}

#[test]
fn short_packets_are_refused() {
    let (mut outbound, mut inbound) = pair(Suite::Aes128Gcm, false);
    let packet = sealed(&mut outbound, b"");
    for len in 0..packet.len() {
        assert!(inbound.open(&mut packet[..len].to_vec()).is_err());
    }
}

#[test]
fn the_longest_payload_fits_and_one_more_byte_does_not() {
    assert_eq!(payload_len_max(1500, false), 1438);
    for mtu in 576..=u16::MAX {
        for (ipv6, headers) in [(false, 28), (true, 48)] {
            let sealed_len = |len: usize| esp::sealed_len(len) + headers;
            let max = payload_len_max(mtu, ipv6);
            assert!(sealed_len(max) <= mtu.into() && sealed_len(max + 1) > mtu.into(), "{mtu}");
        }
    }
}
