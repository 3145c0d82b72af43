//! What the replay window costs per packet: in order, with reordering, with loss, and for a refused packet.

use std::hint::black_box;

use adit_proto::esp::infer_seq;
use adit_proto::replay::Window;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const PACKETS: u64 = 4096;

fn receive(window: &mut Window, seqs: &[u64]) -> usize {
    let mut accepted = 0;
    for &sent in seqs {
        let seq = infer_seq(window.top(), window.size(), sent as u32);
        if window.check(seq).is_ok() {
            window.accept(seq);
            accepted += 1;
        }
    }
    accepted
}

fn replay(c: &mut Criterion) {
    let in_order: Vec<u64> = (1..=PACKETS).collect();
    // Two paths of different length: every other packet is 500 late.
    let reordered: Vec<u64> = in_order.iter().map(|&n| if n % 2 == 0 { n + 500 } else { n }).collect();
    let lossy: Vec<u64> = in_order.iter().map(|n| n * 3).collect();
    let mut group = c.benchmark_group("replay");
    group.throughput(Throughput::Elements(PACKETS));
    for (name, seqs) in [("in_order", &in_order), ("reordered", &reordered), ("two_of_three_lost", &lossy)] {
        let fresh = || Window::new(4096, 0).expect("4096 is a size");
        group.bench_function(name, |b| {
            b.iter_batched_ref(fresh, |window| receive(window, black_box(seqs)), BatchSize::SmallInput)
        });
    }
    let mut full = Window::new(4096, 0).expect("4096 is a size");
    receive(&mut full, &in_order);
    group.bench_function("all_replayed", |b| b.iter(|| receive(&mut full, black_box(&in_order))));
    group.finish();
}

criterion_group!(benches, replay);
criterion_main!(benches);
