//! Random changes of known inputs, for where there is no coverage-guided fuzzer: the same in every run.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Longest input.
const LEN_MAX: usize = 8192;

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 27)) as usize % bound.max(1)
    }
}

/// Runs a target over changed inputs of its corpus for a while; says how many. Panics with the input that it does not pass.
pub fn run(target: fn(&[u8]), corpus: &[Vec<u8>], time: Duration) -> u64 {
    let (mut rng, began, mut count) = (Rng(1), Instant::now(), 0);
    while began.elapsed() < time {
        let mut input = corpus[rng.below(corpus.len())].clone();
        for _ in 0..=rng.below(4) {
            change(&mut rng, &mut input, corpus);
        }
        input.truncate(LEN_MAX);
        if catch_unwind(AssertUnwindSafe(|| target(&input))).is_err() {
            let digits: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
            panic!("input {count} does not pass: {digits}");
        }
        count += 1;
    }
    count
}

fn change(rng: &mut Rng, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    let at = rng.below(input.len());
    match rng.below(6) {
        0 if !input.is_empty() => input[at] ^= 1 << rng.below(8),
        1 if !input.is_empty() => input[at] = [0, 1, 0x7f, 0x80, 0xff, rng.below(256) as u8][rng.below(6)],
        2 => input.truncate(at),
        3 => drop(input.splice(at..at, (0..=rng.below(8)).map(|_| rng.below(256) as u8))),
        4 => {
            let other = &corpus[rng.below(corpus.len())];
            input.truncate(at);
            input.extend(&other[rng.below(other.len())..]);
        }
        _ => {
            let end = (at + 1 + rng.below(16)).min(input.len());
            drop(input.drain(at.min(end)..end));
        }
    }
}
