//! The tables find every SA that there is, and give back all that goes.

use std::collections::BTreeSet;

use adit_proto::control::{LocalEnd, SaKey, Via};
use adit_proto::suite::Suite;
use proptest::prelude::*;

use super::*;
use crate::udp::Endpoint;

fn set(tables: &mut Tables, peer: u16) {
    tables.set_peer(PeerId(peer), PeerTag(6 + u64::from(peer)), false, None).unwrap();
    tables.set_child(PeerId(peer), ChildId::ONLY, 1).unwrap();
}

fn tables() -> Tables {
    let mut tables = Tables::new(4, 8, Backend::AwsLc);
    set(&mut tables, 1);
    tables
}

fn key() -> SaKey {
    SaKey { key: [7; 32], salt: [1; 4] }
}

fn inbound(spi: u32) -> control::InboundSa {
    let (suite, spi, peer) = (Suite::Aes128Gcm, Spi(spi), PeerId(1));
    control::InboundSa { spi, peer, child: ChildId::ONLY, suite, key: key(), window: 64, seq_top: 0, resync: false, esn: true }
}

fn outbound(spi: u32) -> control::OutboundSa {
    let (suite, spi, peer) = (Suite::Aes128Gcm, Spi(spi), PeerId(1));
    control::OutboundSa {
        spi,
        peer,
        child: ChildId::ONLY,
        suite,
        key: key(),
        seq_next: 1,
        seq_limit: 9,
        defer_checksums: false,
        esn: true,
    }
}

#[test]
fn every_sa_is_found_and_none_that_was_removed() {
    let mut tables = tables();
    for n in 0..8 {
        tables.install_inbound(&inbound(0x5000_0000 + 64 * n)).unwrap();
    }
    assert_eq!(tables.install_inbound(&inbound(0x5000_f000)), Err(Refusal::SaTableFull));
    for n in (0..8).step_by(2) {
        tables.remove_inbound(PeerId(1), Spi(0x5000_0000 + 64 * n)).unwrap();
    }
    for n in 0..8 {
        let found = tables.find_inbound(Spi(0x5000_0000 + 64 * n));
        assert_eq!(found.is_some(), n % 2 == 1, "SPI number {n}");
    }
    assert_eq!((tables.inbound_count(), tables.outbound_count()), (4, 0));
}

proptest! {
    #[test]
    fn the_index_of_spis_agrees_with_a_set(steps in prop::collection::vec((0u32..40, any::<bool>()), 1..300)) {
        let mut tables = Tables::new(4, 64, Backend::AwsLc);
        set(&mut tables, 1);
        let mut model = BTreeSet::new();
        for (n, install) in steps {
            // Many share the low bits, so that runs in the index are long.
            let spi = 0x5000_0000 + (n << 20);
            if install {
                prop_assert_eq!(tables.install_inbound(&inbound(spi)).is_ok(), model.insert(spi));
            } else {
                prop_assert_eq!(tables.remove_inbound(PeerId(1), Spi(spi)).is_ok(), model.remove(&spi));
            }
            prop_assert_eq!(tables.inbound_count(), model.len());
            for n in 0..40 {
                let spi = Spi(0x5000_0000 + (n << 20));
                let found = tables.find_inbound(spi);
                prop_assert_eq!(found.is_some(), model.contains(&spi.0));
                prop_assert!(found.is_none_or(|index| tables.inbound[index].esp.spi == spi));
            }
        }
    }
}

#[test]
fn a_new_outbound_sa_takes_the_slot_of_the_old_one_in_a_full_table() {
    let mut tables = tables();
    let (slot, before) = tables.install_outbound(&outbound(0x5000_0001)).unwrap();
    assert_eq!(before, None);
    for n in 0..7 {
        tables.install_inbound(&inbound(0x5000_1000 + n)).unwrap();
    }
    assert_eq!(tables.install_outbound(&outbound(0x5000_0002)), Ok((slot, Some((Spi(0x5000_0001), slot)))));
    assert_eq!(tables.remove_outbound(PeerId(1), Spi(0x5000_0001)), Err(Refusal::NoSuchSa));
    assert_eq!(tables.remove_outbound(PeerId(1), Spi(0x5000_0002)), Ok(slot));
    assert_eq!(tables.outbound_count(), 0);
}

#[test]
fn a_slot_is_taken_again_only_after_all_others() {
    let mut tables = tables();
    // One SA replaced over and over goes round the table of eight slots.
    let mut installed = (0..9).map(|n| tables.install_outbound(&outbound(0x5000_0001 + n)).unwrap());
    let slots: Vec<u32> = installed.by_ref().map(|(slot, _)| slot).collect();
    drop(installed);
    assert_eq!(slots[..8].iter().collect::<BTreeSet<_>>().len(), 8);
    assert_eq!(slots[8], slots[0]);
    assert_eq!((tables.inbound_count(), tables.outbound_count()), (0, 1));
    let freed = tables.remove_outbound(PeerId(1), Spi(0x5000_0009)).unwrap();
    let next: Vec<u32> = (0..8).map(|n| tables.install_inbound(&inbound(0x5000_1000 + n)).unwrap()).collect();
    assert_eq!(next[7], freed);
}

#[test]
fn an_sa_is_named_by_peer_and_spi_so_that_no_peer_can_touch_another_ones() {
    let mut tables = tables();
    set(&mut tables, 2);
    let slots = [1, 2].map(|peer| {
        let sa = control::OutboundSa { peer: PeerId(peer), ..outbound(0x5000_0001) };
        tables.install_outbound(&sa).unwrap().0
    });
    tables.install_inbound(&inbound(0x5000_0002)).unwrap();
    assert_eq!(tables.extend_outbound(PeerId(2), Spi(0x5000_0001), 20), Ok(slots[1]));
    assert_eq!(tables.peer(PeerId(1)).unwrap().sealing().unwrap().esp.seq_end, 10);
    assert_eq!(tables.remove_outbound(PeerId(2), Spi(0x5000_0001)), Ok(slots[1]));
    assert_eq!(tables.remove_outbound(PeerId(2), Spi(0x5000_0001)), Err(Refusal::NoSuchSa));
    assert_eq!(tables.remove_inbound(PeerId(2), Spi(0x5000_0002)), Err(Refusal::NoSuchSa));
    assert_eq!((tables.inbound_count(), tables.outbound_count()), (1, 1));
}

#[test]
fn numbers_under_one_key_only_rise() {
    let mut tables = tables();
    let from = |seq_next| control::OutboundSa { seq_next, seq_limit: u64::MAX, ..outbound(0x5000_0001) };
    let (first, _) = tables.install_outbound(&from(100)).unwrap();
    assert_eq!(tables.install_outbound(&from(99)), Err(Refusal::BadValue));
    let (second, before) = tables.install_outbound(&from(100)).unwrap();
    assert_eq!(before, Some((Spi(0x5000_0001), first)));
    let end = tables.peer(PeerId(1)).unwrap().sealing().unwrap().esp.seq_end;
    assert_eq!(end, u64::MAX, "the last number is left unused, so that the next one exists");
    // Another SPI is another key.
    assert_eq!(tables.install_outbound(&outbound(0x5000_0002)).unwrap().1, Some((Spi(0x5000_0001), second)));
}

#[test]
fn without_extended_numbers_no_sa_has_numbers_beyond_32_bits() {
    let mut tables = tables();
    let last = u64::from(u32::MAX);
    let short = |seq_limit| control::OutboundSa { seq_limit, esn: false, ..outbound(0x5000_0001) };
    assert_eq!(tables.install_outbound(&short(last + 1)), Err(Refusal::BadValue));
    tables.install_outbound(&short(last)).unwrap();
    assert_eq!(tables.peer(PeerId(1)).unwrap().sealing().unwrap().esp.seq_end, last + 1);
    assert_eq!(tables.extend_outbound(PeerId(1), Spi(0x5000_0001), last + 1), Err(Refusal::BadValue));
    let short = |seq_top, resync| control::InboundSa { seq_top, resync, esn: false, ..inbound(0x5000_0002) };
    assert_eq!(tables.install_inbound(&short(last + 1, false)), Err(Refusal::BadValue));
    assert_eq!(tables.install_inbound(&short(0, true)), Err(Refusal::BadValue), "no high half to follow");
    assert!(tables.install_inbound(&short(last, false)).is_ok());
    // A peer may choose any SPI that is not reserved.
    assert_eq!(tables.install_outbound(&outbound(255)), Err(Refusal::BadValue));
    assert!(tables.install_outbound(&outbound(256)).is_ok());
}

#[test]
fn where_a_peer_sends_from_is_told_until_it_was_heard() {
    let mut tables = tables();
    let arrival = |port| Arrival {
        from: Endpoint::new(([192, 0, 2, 9], port).into(), false),
        to: LocalEnd { address: [198, 51, 100, 1].into(), interface: 2 },
        class: 0,
    };
    // Sees a packet; says whether that was told, and whether it was a change.
    let found = |tables: &mut Tables, port, now_s, room| {
        let mut reported = false;
        let changed = tables.found_at(PeerId(1), &arrival(port), 99, now_s, |event| {
            let via = Via::Udp { from: ([192, 0, 2, 9], port).into(), to: arrival(port).to };
            assert_eq!(*event, Event::PathSeen { peer: PeerId(1), tag: PeerTag(7), path: None, via, bytes: 99 });
            reported = true;
            room
        });
        (reported, changed)
    };
    assert_eq!(found(&mut tables, 9, 1, false), (true, false), "the ring is full");
    assert_eq!(found(&mut tables, 9, 1, true), (true, false), "so it is told again");
    assert_eq!(found(&mut tables, 9, 1, true), (false, false));
    assert_eq!(found(&mut tables, 8, 2, true), (true, true));
    set(&mut tables, 1);
    assert_eq!(found(&mut tables, 8, 3, true), (true, false), "a new control plane has not heard of it");
    let changed = tables.found_at(PeerId(3), &arrival(9), 99, 1, |_| panic!("nobody is told of a peer that is not there"));
    assert!(!changed);
}

#[test]
fn removing_a_peer_frees_all_its_slots() {
    let mut tables = tables();
    tables.install_outbound(&outbound(0x5000_0001)).unwrap();
    tables.install_inbound(&inbound(0x5000_0002)).unwrap();
    tables.install_inbound(&inbound(0x5000_0003)).unwrap();
    let mut slots = Vec::new();
    tables.remove_peer(PeerId(1), |_, _, slot| slots.push(slot)).unwrap();
    assert_eq!(slots.len(), 3);
    assert_eq!((tables.peer_count(), tables.inbound_count(), tables.outbound_count()), (0, 0, 0));
    assert_eq!(tables.remove_peer(PeerId(1), |_, _, _| ()), Err(Refusal::NoSuchPeer));
}

#[test]
fn each_child_sa_has_its_own_place_and_takes_its_own_with_it() {
    let mut tables = tables();
    let (peer, second) = (PeerId(1), ChildId(5));
    let of_second = |spi| control::OutboundSa { child: second, ..outbound(spi) };
    assert_eq!(tables.install_outbound(&of_second(0x5000_0002)), Err(Refusal::NoSuchChild));
    tables.set_child(peer, second, 1).unwrap();
    tables.install_outbound(&outbound(0x5000_0001)).unwrap();
    assert_eq!(tables.install_outbound(&of_second(0x5000_0001)), Err(Refusal::SpiInUse));
    tables.install_outbound(&of_second(0x5000_0002)).unwrap();
    for (spi, child) in [(0x5000_0003, ChildId::ONLY), (0x5000_0004, second), (0x5000_0005, second)] {
        tables.install_inbound(&control::InboundSa { child, ..inbound(spi) }).unwrap();
    }
    assert_eq!((tables.inbound_count(), tables.outbound_count()), (3, 2));
    let mut gone = Vec::new();
    tables.remove_child(peer, second, |direction, spi, _| gone.push((direction, spi.0))).unwrap();
    gone.sort_by_key(|(_, spi)| *spi);
    let (out, inn) = (Direction::Outbound, Direction::Inbound);
    assert_eq!(gone, [(out, 0x5000_0002), (inn, 0x5000_0004), (inn, 0x5000_0005)]);
    assert_eq!(tables.remove_child(peer, second, |_, _, _| ()), Err(Refusal::NoSuchChild));
    assert_eq!((tables.inbound_count(), tables.outbound_count()), (1, 1));
    // What only receives is no way, and what another worker seals is one.
    assert!(tables.is_usable(peer, ChildId::ONLY, 0) && !tables.is_usable(peer, second, 0));
    tables.set_child(peer, second, 0).unwrap();
    assert!(!tables.is_usable(peer, second, 3));
    tables.set_child(peer, second, 2).unwrap();
    assert!(tables.is_usable(peer, second, 3) && !tables.is_usable(peer, second, 1), "worker 1 is to seal and cannot");
    for n in 1..CHILDREN_OF_PEER_MAX as u16 - 1 {
        tables.set_child(peer, ChildId(1000 + n), 1).unwrap();
    }
    assert_eq!(tables.set_child(peer, ChildId(1), 1), Err(Refusal::ChildrenFull));
}

#[test]
fn nonsense_is_refused() {
    let mut tables = tables();
    for bad in [63, 100, 0] {
        assert_eq!(tables.install_inbound(&control::InboundSa { window: bad, ..inbound(0x5000_0001) }), Err(Refusal::BadValue));
    }
    assert_eq!(tables.install_inbound(&inbound(0x4fff_ffff)), Err(Refusal::BadValue));
    assert_eq!(tables.install_outbound(&control::OutboundSa { seq_next: 0, ..outbound(0x5000_0001) }), Err(Refusal::BadValue));
    let stranger = control::OutboundSa { peer: PeerId(2), ..outbound(0x5000_0001) };
    assert_eq!(tables.install_outbound(&stranger), Err(Refusal::NoSuchPeer));
}
