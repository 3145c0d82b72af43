//! Time to seal and to open one packet, per suite, size and backend.
//!
//! `cargo bench -p adit-esp -- 'seal/aes-128-gcm/aws-lc'` picks a part. Opening restores the
//! ciphertext before each packet outside of the measured time, because it works in place.

use std::hint::black_box;

use adit_esp::aead::{Aead, Backend};
use adit_proto::control::Spi;
use adit_proto::esp::{self, Aad, NONCE_LEN};
use adit_proto::suite::{Suite, TAG_LEN};
use aws_lc_rs::aead::{AES_128_GCM, LessSafeKey, Nonce, UnboundKey};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// A small frame, a middling one, one that fills an MTU of 1500 outside, a jumbo one; bytes.
const SIZES: [usize; 4] = [64, 512, 1400, 8900];
const SPI: Spi = Spi(esp::SPI_MIN);

fn seal(c: &mut Criterion) {
    for suite in Suite::ALL {
        for backend in Backend::usable() {
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
                        let (nonce, aad) = (nonce(packets), Aad::new(SPI, packets, true));
                        aead.seal(&nonce, aad.as_ref(), black_box(&plain), &mut sealed, &mut tag);
                        black_box((&mut sealed, &mut tag));
                    });
                });
            }
        }
    }
}

fn open(c: &mut Criterion) {
    for suite in Suite::ALL {
        for backend in Backend::usable() {
            let aead = Aead::new(backend, suite, &vec![7; suite.key_len()]).expect("a key of the suite");
            let mut group = c.benchmark_group(format!("open/{suite}/{backend}"));
            for size in SIZES {
                let mut sealed = vec![0; size];
                let mut tag = [0; TAG_LEN];
                aead.seal(&nonce(1), Aad::new(SPI, 1, true).as_ref(), &vec![3; size], &mut sealed, &mut tag);
                group.throughput(Throughput::Bytes(size as u64));
                group.bench_function(BenchmarkId::from_parameter(size), |b| {
                    b.iter_batched_ref(
                        || sealed.clone(),
                        |buf| {
                            let seq = black_box(1);
                            aead.open(&nonce(seq), Aad::new(SPI, seq, true).as_ref(), buf, &tag).expect("a good tag");
                        },
                        BatchSize::SmallInput,
                    );
                });
            }
        }
    }
}

/// The library's own call, to compare with `seal/aes-128-gcm/aws-lc/64`: what choosing a backend at run time costs.
fn seal_without_dispatch(c: &mut Criterion) {
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &[7; 16]).expect("16 bytes"));
    let (plain, mut sealed, mut tag) = (vec![3; SIZES[0]], vec![0; SIZES[0]], [0; TAG_LEN]);
    let mut packets = 0_u64;
    c.bench_function("seal-without-dispatch/aes-128-gcm/aws-lc/64", |b| {
        b.iter(|| {
            packets += 1;
            let (nonce, aad) = (Nonce::from(&nonce(packets)), aws_lc_rs::aead::Aad::from(Aad::new(SPI, packets, true)));
            key.seal_out_of_place_scatter(nonce, aad, black_box(&plain), &mut sealed, &[], &mut tag).expect("sealed");
            black_box((&mut sealed, &mut tag));
        });
    });
}

fn nonce(seq: u64) -> [u8; NONCE_LEN] {
    esp::nonce([9; 4], seq.to_be_bytes())
}

criterion_group!(benches, seal, seal_without_dispatch, open);
criterion_main!(benches);
