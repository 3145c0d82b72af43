//! What the channel costs a worker: an empty look, a command, a punted datagram, a count, a live SA.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;

use adit_channel::ring::{Consumer, HEAD_WORDS, Producer};
use adit_channel::{AtomicU64, LiveSa, PlaneInfo, Port, Region, Sizes};
use adit_proto::control::{ChildId, Direction, PeerId, Spi};
use adit_proto::stats::{Count, Latency};
use adit_proto::suite::Suite;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

type Memory = Arc<[AtomicU64]>;

fn rings() -> (Producer<Memory>, Consumer<Memory>) {
    let memory: Memory = (0..HEAD_WORDS + (1 << 17)).map(|_| AtomicU64::new(0)).collect();
    (Producer::attach(Arc::clone(&memory)).unwrap(), Consumer::attach(memory, false).unwrap())
}

fn ring(c: &mut Criterion) {
    let (mut producer, mut consumer) = rings();
    let mut group = c.benchmark_group("ring");
    group.bench_function("take_empty", |b| b.iter(|| black_box(consumer.take(&mut [], &mut []))));
    for len in [64usize, 1400, 65535] {
        let (sent, mut received) = (vec![7; len], vec![0; len]);
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("push_and_take/{len}"), |b| {
            b.iter(|| {
                producer.push(1, &[1, 2, 3, 4], &sent).unwrap();
                black_box(consumer.take(&mut [0; 4], &mut received))
            })
        });
    }
    group.finish();
}

fn port() -> Port {
    let sizes = Sizes::default();
    let info = PlaneInfo {
        pid: 1,
        version: String::new(),
        tap: String::new(),
        mode: adit_proto::control::Mode::Ethernet,
        tap_mac: [0; 6],
        listen: SocketAddr::from(([0; 4], 0)),
        workers: sizes.workers,
        max_peers: 1,
        sa_slots: sizes.sa_slots,
        cpu_features: String::new(),
        crypto: String::new(),
        io: String::new(),
        memory_bytes: 0,
        arguments: Vec::new(),
        protections: Default::default(),
    };
    Region::create(&sizes, &info).unwrap().1.remove(0)
}

fn worker(c: &mut Criterion) {
    let mut port = port();
    let sa = LiveSa {
        spi: Spi(0x4000_0000),
        direction: Direction::Outbound,
        peer: PeerId(0),
        child: ChildId::ONLY,
        suite: Suite::Aes128Gcm,
        window: 0,
        seq: 1,
        seq_limit: 2,
        packets: 3,
        bytes: 4,
    };
    port.sa_install(0, &sa);
    let mut group = c.benchmark_group("port");
    group.bench_function("next_command_empty", |b| b.iter(|| black_box(port.next_command().is_none())));
    group.bench_function("count", |b| b.iter(|| port.count(black_box(Count::Sealed), black_box(3))));
    group.bench_function("latency", |b| b.iter(|| port.latency(Latency::Inbound, black_box(12_345))));
    group.bench_function("sa_update", |b| b.iter(|| port.sa_update(0, black_box(1), 2, 3)));
    group.finish();
}

criterion_group!(benches, ring, worker);
criterion_main!(benches);
