//! The policy table: one look-up per packet from the TUN that is of another flow than the one before, as many per packet from peers.

use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};

use adit_dataplane::policy::PolicyTable;
use adit_proto::control::{ChildId, PeerId, SELECTOR_OVERLAPS_MAX as OVERLAPS_MAX, Selector};
use adit_proto::ike::{AddressRange, PortRange};
use adit_proto::packet::Packet;
use criterion::{Criterion, criterion_group, criterion_main};

/// The /24, or /64, number `n`, scattered over half of all addresses.
fn network(v6: bool, n: u32) -> AddressRange {
    let n = n.wrapping_mul(0x9e37_79b1);
    if v6 {
        let first = u128::from(n) << 64;
        AddressRange::V6 { first: Ipv6Addr::from_bits(first), last: Ipv6Addr::from_bits(first | u128::from(u64::MAX)) }
    } else {
        let first = n & 0xffff_ff00;
        AddressRange::V4 { first: Ipv4Addr::from_bits(first), last: Ipv4Addr::from_bits(first | 0xff) }
    }
}

fn packet_to(network: AddressRange) -> Packet {
    let mut bytes = vec![0; 60];
    match network {
        AddressRange::V4 { last, .. } => {
            bytes[..10].copy_from_slice(&[0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 17]);
            bytes[16..20].copy_from_slice(&last.octets());
        }
        AddressRange::V6 { last, .. } => {
            (bytes[0], bytes[6]) = (0x60, 17);
            bytes[24..40].copy_from_slice(&last.octets());
        }
    }
    Packet::parse(&bytes).expect("a packet")
}

fn policy(criterion: &mut Criterion) {
    for v6 in [false, true] {
        let name = if v6 { "v6" } else { "v4" };
        let any = if v6 { AddressRange::ANY_V6 } else { AddressRange::ANY_V4 };
        for selectors in [1, 100, 10_000] {
            let mut table = PolicyTable::new(selectors + 1, u16::MAX);
            for n in 0..selectors {
                // Some /24 come twice; the second is another peer's then.
                let selector = Selector::any_of(any, network(v6, n));
                table.add(PeerId(n as u16), &selector).expect("room");
                table.add_to_child(PeerId(n as u16), ChildId::ONLY, &selector).expect("room");
            }
            let packets: Vec<Packet> = (0..selectors).map(|n| packet_to(network(v6, n))).collect();
            let mut turn = packets.iter().cycle();
            criterion.bench_function(&format!("policy/{name}/{selectors}"), |bencher| {
                bencher.iter(|| black_box(table.route(turn.next().expect("endless"), |_, _| true)));
            });
            criterion.bench_function(&format!("policy/{name}/{selectors}/same flow"), |bencher| {
                bencher.iter(|| black_box(table.route(black_box(&packets[0]), |_, _| true)));
            });
        }
        // As many as may overlap, none of which matches: the dearest look-up that can be installed.
        let mut table = PolicyTable::new(20_000, u16::MAX);
        for n in 0..10_000 {
            let _ = table.add(PeerId(1), &Selector::any_of(any, network(v6, n)));
        }
        let ports = (0..).map(|port| PortRange { first: port, last: port });
        let added = ports.take(1 + usize::from(OVERLAPS_MAX)).filter(|ports| {
            let selector = Selector { protocol: 6, remote_ports: *ports, ..Selector::any_of(any, any) };
            table.add(PeerId(2), &selector).is_ok()
        });
        assert!(added.count() > usize::from(OVERLAPS_MAX) / 2);
        let packet = packet_to(network(v6, 10_001));
        criterion.bench_function(&format!("policy/{name}/worst"), |bencher| {
            bencher.iter(|| black_box(table.route(black_box(&packet), |_, _| true)));
        });
    }
    // As many Child SAs as a peer may have, each flow by another one.
    let mut table = PolicyTable::new(256, 1);
    for n in 0..255 {
        let selector = Selector::any_of(AddressRange::ANY_V4, network(false, n));
        table.add(PeerId(0), &selector).expect("room");
        table.add_to_child(PeerId(0), ChildId(n as u16), &selector).expect("room");
    }
    let packets: Vec<Packet> = (0..255).map(|n| packet_to(network(false, n))).collect();
    let mut turn = packets.iter().cycle();
    criterion.bench_function("policy/v4/255 Child SAs of a peer", |bencher| {
        bencher.iter(|| black_box(table.route(turn.next().expect("endless"), |_, _| true)));
    });
    let mut bytes = vec![0; 60];
    bytes[..10].copy_from_slice(&[0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 17]);
    criterion.bench_function("policy/parse/v4", |bencher| bencher.iter(|| black_box(Packet::parse(black_box(&bytes)))));
}

criterion_group!(benches, policy);
criterion_main!(benches);
