//! Time to seal and to open one packet, per suite, size and backend.
//!
//! `cargo bench -p adit-dataplane --bench crypto -- 'seal/aes-128-gcm/aws-lc'` picks a part. Opening restores the
//! ciphertext before each packet outside of the measured time, because it works in place.

use std::hint::black_box;

use adit_dataplane::aead::{Aead, Backend, NONCE_LEN};
use adit_proto::suite::{Suite, TAG_LEN};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// A small frame, a middling one, one that fills an MTU of 1500 outside, a jumbo one; bytes.
const SIZES: [usize; 4] = [64, 512, 1400, 8900];
/// The additional data of an association with extended sequence numbers.
const AAD_LEN: usize = 12;

fn seal(c: &mut Criterion) {
    for suite in Suite::ALL {
        for backend in Backend::ALL {
            let aead = Aead::new(backend, suite, &vec![7; suite.key_len()]).expect("a key of the suite");
            let mut group = c.benchmark_group(format!("seal/{suite}/{backend}"));
            for size in SIZES {
                let plain = vec![3; size];
                let mut sealed = vec![0; size];
                let mut tag = [0; TAG_LEN];
                let mut packets = 0_u64;
                group.throughput(Throughput::Bytes(size as u64));
                group.bench_function(BenchmarkId::from_parameter(size), |b| {
                    b.iter(|| {
                        packets += 1;
                        let nonce = nonce(packets);
                        aead.seal(&nonce, black_box(&[1; AAD_LEN]), black_box(&plain), &mut sealed, &mut tag);
                        black_box((&mut sealed, &mut tag));
                    });
                });
            }
        }
    }
}

fn open(c: &mut Criterion) {
    for suite in Suite::ALL {
        for backend in Backend::ALL {
            let aead = Aead::new(backend, suite, &vec![7; suite.key_len()]).expect("a key of the suite");
            let mut group = c.benchmark_group(format!("open/{suite}/{backend}"));
            for size in SIZES {
                let mut sealed = vec![0; size];
                let mut tag = [0; TAG_LEN];
                aead.seal(&nonce(1), &[1; AAD_LEN], &vec![3; size], &mut sealed, &mut tag);
                group.throughput(Throughput::Bytes(size as u64));
                group.bench_function(BenchmarkId::from_parameter(size), |b| {
                    b.iter_batched_ref(
                        || sealed.clone(),
                        |buf| aead.open(&nonce(1), black_box(&[1; AAD_LEN]), buf, &tag).expect("a good tag"),
                        BatchSize::SmallInput,
                    );
                });
            }
        }
    }
}

fn nonce(packets: u64) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce[4..].copy_from_slice(&packets.to_be_bytes());
    nonce
}

criterion_group!(benches, seal, open);
criterion_main!(benches);
