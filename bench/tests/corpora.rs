//! Replays the corpora of the fuzzer for the engine, the configuration, the shared memory and packets. With FUZZ_SECONDS it goes on
//! with random changes of them, each target for so long (FUZZ_TARGETS: only these).

#[path = "../../proto/fuzz/src/mutate.rs"]
mod mutate;
#[path = "../fuzz/src/targets/mod.rs"]
mod targets;

use std::fs;
use std::path::Path;
use std::time::Duration;

use targets::pair::{A, B, Kind, Pair};

fn fuzz() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz"))
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let text = fs::read_to_string(fuzz().join(format!("seeds/{name}.hex"))).expect(name);
    let bytes = |line: &str| {
        let digits: Vec<u8> = line.chars().map(|c| c.to_digit(16).expect("a hexadecimal digit") as u8).collect();
        digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    };
    let inputs: Vec<Vec<u8>> = text.lines().filter(|line| !line.starts_with('#')).map(bytes).collect();
    assert!(!inputs.is_empty(), "no corpus for {name}");
    inputs
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_input_of_every_corpus_passes() {
    for (name, target) in targets::ALL {
        for input in corpus(name) {
            // What a failure shows is the input.
            println!("{name}: {}", hex(&input));
            target(&input);
        }
    }
}

#[test]
fn every_target_has_an_executable_for_the_fuzzer() {
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("the manifest");
    for (name, _) in targets::ALL {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in the manifest");
        let source = fs::read_to_string(fuzz().join(format!("src/bin/{name}.rs"))).expect(name);
        assert!(source.contains(&format!("::{name}(data)")), "{name}.rs does not call its target");
    }
}

/// Snapshots of this version: the corpus has those of the version that it was made with.
fn fresh_snapshots() -> Vec<Vec<u8>> {
    let snapshot = |kind: u8, change: fn(&mut Pair)| {
        let mut pair = Pair::connected(Kind(kind));
        let clock = pair.clock();
        // As in the vault: a whole one, and behind it what changed since.
        let whole = pair.ends[A].snapshot(clock);
        change(&mut pair);
        let changes = pair.ends[A].changes().unwrap_or_default();
        [&[kind], whole.as_slice(), changes.as_slice()].concat()
    };
    let rekey: fn(&mut Pair) = |pair| {
        pair.act(A, |endpoint, now| drop(endpoint.rekey(now, targets::pair::PEER)));
        pair.deliver(0);
    };
    let rekeyed: fn(&mut Pair) = |pair| {
        pair.act(B, |endpoint, now| drop(endpoint.rekey_ike(now, targets::pair::PEER)));
        (0..3).for_each(|_| pair.deliver(0));
    };
    [0, 1 + 4 + 32, 8 + 16]
        .into_iter()
        .flat_map(|kind| [|_: &mut Pair| {}, rekey, rekeyed].map(|change| snapshot(kind, change)))
        .collect()
}

#[test]
fn snapshots_of_this_version_are_survived_however_they_are_changed() {
    for whole in fresh_snapshots() {
        // For the corpus, when the version has changed.
        println!("engine_snapshot: {}", hex(&whole));
        targets::snapshot::engine_snapshot(&whole);
        for at in (1..whole.len()).step_by(7) {
            targets::snapshot::engine_snapshot(&whole[..at]);
            let mut changed = whole.clone();
            changed[at] = changed[at].wrapping_add(1);
            targets::snapshot::engine_snapshot(&changed);
        }
    }
}

#[test]
fn random_changes_of_the_corpora_pass() {
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let wanted = std::env::var("FUZZ_TARGETS").unwrap_or_default();
    let time = seconds.map_or(Duration::from_millis(300), Duration::from_secs);
    for (name, target) in targets::ALL {
        if wanted.is_empty() || wanted.split_whitespace().any(|one| one == name) {
            let mut known = corpus(name);
            if name == "engine_snapshot" {
                known.extend(fresh_snapshots());
            }
            println!("{name}: {} inputs in {time:?}", mutate::run(target, &known, time));
        }
    }
}
