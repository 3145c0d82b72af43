//! Replays the corpora of the fuzzer: for every part of the code that it reached, an input that reaches it. With FUZZ_SECONDS it goes
//! on with random changes of them, each target for so long (FUZZ_TARGETS: only these).

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::support::hex;
use crate::{mutate, targets};

fn fuzz() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz"))
}

#[test]
fn every_input_of_every_corpus_passes() {
    for (name, target) in targets::ALL {
        let corpus = fs::read_to_string(fuzz().join(format!("seeds/{name}.hex"))).expect(name);
        let inputs: Vec<&str> = corpus.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(!inputs.is_empty(), "no corpus for {name}");
        for input in inputs {
            // What a failure shows is the input.
            println!("{name}: {input}");
            target(&hex(input));
        }
    }
}

#[test]
fn every_target_has_an_executable_for_the_fuzzer() {
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("the manifest");
    for (name, _) in targets::ALL {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in the manifest");
        let source = fs::read_to_string(fuzz().join(format!("src/bin/{name}.rs"))).expect(name);
        assert!(source.contains(&format!("targets::{name}(data)")), "{name}.rs does not call its target");
    }
}

#[test]
fn random_changes_of_the_corpora_pass() {
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let wanted = std::env::var("FUZZ_TARGETS").unwrap_or_default();
    let time = seconds.map_or(Duration::from_millis(300), Duration::from_secs);
    for (name, target) in targets::ALL {
        if wanted.is_empty() || wanted.split_whitespace().any(|one| one == name) {
            let corpus = fs::read_to_string(fuzz().join(format!("seeds/{name}.hex"))).expect(name);
            let known: Vec<Vec<u8>> = corpus.lines().filter(|line| !line.starts_with('#')).map(hex).collect();
            println!("{name}: {} inputs in {time:?}", mutate::run(target, &known, time));
        }
    }
}
