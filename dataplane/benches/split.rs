//! Cutting a super-frame of 64 KiB into wire frames, per segment; the checksum alone, per size.

#[path = "../tests/offload/mod.rs"]
mod offload;

use std::hint::black_box;

use adit_dataplane::checksum;
use adit_dataplane::tap::split::{Checksums, Plan};
use adit_dataplane::tap::vnet::VnetHeader;
use adit_proto::control::Mode;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use offload::{ACK, Flow, Segment, pattern};

const START: usize = 64;

fn sums(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    let bytes = pattern(8900, 1);
    for len in [20, 1400, 8900] {
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_with_input(BenchmarkId::from_parameter(len), &bytes[..len], |b, bytes| {
            b.iter(|| checksum::sum(black_box(bytes)));
        });
    }
    group.finish();
}

fn split(c: &mut Criterion) {
    let mut group = c.benchmark_group("split");
    for (name, v6, tcp, size) in
        [("tso4", false, true, 1448), ("tso6", true, true, 1428), ("uso4", false, false, 1350), ("jumbo", false, true, 8848)]
    {
        let flow = Flow::simple(v6, tcp);
        let whole = Segment { identification: 1, sequence: 1, flags: ACK, payload: pattern(44 * 1448, 1) };
        let header = flow.vnet(size);
        let mut buf = vec![0; START];
        buf.extend(flow.open(&whole));
        let frame = buf.clone();
        for checksums in [Checksums::Fill, Checksums::Defer] {
            group.throughput(Throughput::Elements(whole.payload.len().div_ceil(usize::from(size)) as u64));
            group.bench_function(BenchmarkId::new(name, format!("{checksums:?}")), |b| {
                b.iter(|| {
                    buf[START..START + 128].copy_from_slice(&frame[START..START + 128]);
                    let plan = Plan::new(Mode::Ethernet, black_box(&header), &buf[START..], START).expect("a good super-frame");
                    for k in 0..plan.segments() {
                        black_box(plan.segment(k, &mut buf, checksums));
                    }
                });
            });
        }
    }
    group.throughput(Throughput::Elements(1));
    let flow = Flow::simple(false, true);
    let small = Segment { identification: 1, sequence: 1, flags: ACK, payload: vec![] };
    for (name, header, frame) in [("whole", VnetHeader::default(), flow.wire(&small)), ("open", flow.vnet(0), flow.open(&small))]
    {
        let mut buf = vec![0; START];
        buf.extend(frame);
        group.bench_function(BenchmarkId::new("ack", name), |b| {
            b.iter(|| {
                let plan = Plan::new(Mode::Ethernet, black_box(&header), &buf[START..], START).expect("a good frame");
                black_box(plan.segment(0, &mut buf, Checksums::Fill))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, sums, split);
criterion_main!(benches);
