//! The forwarding table: one look-up per frame from the TAP, one update per frame from a peer.

use std::hint::black_box;

use adit_dataplane::forward::ForwardingTable;
use adit_proto::control::PeerId;
use criterion::{Criterion, criterion_group, criterion_main};

fn mac(n: u32) -> [u8; 6] {
    let [a, b, c, d] = n.wrapping_mul(0x9e37_79b1).to_be_bytes();
    [2, 0, a, b, c, d]
}

fn forward(criterion: &mut Criterion) {
    for stations in [1, 100, 4096] {
        let mut table = ForwardingTable::new(4096, 300, u16::MAX);
        for n in 0..stations {
            table.learn(mac(n), PeerId(n as u16), 0);
        }
        let mut n = 0;
        let mut next = move || {
            n = (n + 1) % stations;
            mac(n)
        };
        criterion.bench_function(&format!("forward/route/{stations}"), |bencher| {
            bencher.iter(|| black_box(table.route(next(), 1)));
        });
        let mut n = 0;
        criterion.bench_function(&format!("forward/learn_known/{stations}"), |bencher| {
            bencher.iter(|| {
                n = (n + 1) % stations;
                black_box(table.learn(mac(n), PeerId(n as u16), 1))
            });
        });
    }
}

criterion_group!(benches, forward);
criterion_main!(benches);
