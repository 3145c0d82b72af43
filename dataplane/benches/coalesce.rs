//! Collecting frames into super-frames, per frame: trains of one flow, open and verified; frames of many flows in turn.

#[path = "../tests/offload/mod.rs"]
mod offload;

use std::hint::black_box;
use std::ops::Range;

use adit_dataplane::tap::coalesce::{Coalescer, Emit, FRAMES_MAX, Limits, Sink};
use adit_proto::control::Mode;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use offload::{ACK, Flow, Segment, pattern};

/// What lies in front of a frame in a receive buffer.
const HEADROOM: usize = 26;

struct Discard(usize);

impl Sink for Discard {
    fn emit(&mut self, arena: &[u8], emit: Emit<'_>) {
        self.0 += usize::from(arena[emit.head.start]) + emit.frames;
    }
}

/// An arena with frames of `flows` flows in turn, `count` in all.
fn arena(kind: &Flow, flows: usize, count: usize, size: usize, open: bool) -> (Vec<u8>, Vec<Range<usize>>) {
    let (mut bytes, mut places) = (vec![], vec![]);
    for i in 0..count {
        let (flow, k) = (Flow { source_port: (i % flows) as u16, ..kind.clone() }, i / flows);
        let segment =
            Segment { identification: k as u16, sequence: (k * size) as u32, flags: ACK, payload: pattern(size, i as u32) };
        bytes.extend([0; HEADROOM]);
        let frame = if open { flow.open(&segment) } else { flow.wire(&segment) };
        places.push(bytes.len()..bytes.len() + frame.len());
        bytes.extend(frame);
    }
    (bytes, places)
}

fn coalesce(c: &mut Criterion) {
    let mut group = c.benchmark_group("coalesce");
    let limits = Limits { tso: true, uso: true, uso_frames: FRAMES_MAX };
    let (tcp4, tcp6, udp4) = (Flow::simple(false, true), Flow::simple(true, true), Flow::simple(false, false));
    let cases = [
        ("tcp4", &tcp4, 1, 1448),
        ("tcp6", &tcp6, 1, 1428),
        ("udp18", &udp4, 1, 18),
        ("udp1350", &udp4, 1, 1350),
        ("tcp4x4", &tcp4, 4, 1448),
        ("udp18x16", &udp4, 16, 18),
        ("udp18x64", &udp4, 64, 18),
    ];
    for (name, flow, flows, size) in cases {
        for open in [true, false] {
            let (original, places) = arena(flow, flows, 44, size, open);
            let mut bytes = original.clone();
            let mut coalescer = Coalescer::new(Mode::Ethernet, limits);
            group.throughput(Throughput::Elements(places.len() as u64));
            group.bench_function(BenchmarkId::new(name, if open { "open" } else { "verified" }), |b| {
                b.iter(|| {
                    let mut out = Discard(0);
                    for place in &places[..flows.min(places.len())] {
                        // Only the heads are written to.
                        let headers = place.start..place.end.min(place.start + 80);
                        bytes[headers.clone()].copy_from_slice(&original[headers]);
                    }
                    for place in &places {
                        coalescer.push(&mut bytes, place.clone(), open, &mut out);
                    }
                    coalescer.flush(&mut bytes, &mut out);
                    black_box(out.0)
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, coalesce);
criterion_main!(benches);
