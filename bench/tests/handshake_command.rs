//! The command `adit-bench handshake` as a user calls it.

use std::path::{Path, PathBuf};
use std::process::Command;

use adit_bench::report::Report;

fn handshake(arguments: &str) -> (bool, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_adit-bench")).arg("handshake").args(arguments.split_whitespace()).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn adit_and_strongswan_are_measured_beside_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("figures.json");
    let cases = ["psk_x25519", "ed25519_x25519-mlkem768", "ecdsa-p256_x25519-mlkem768"];
    let (success, text) = handshake(&format!(
        "--systems adit,strongswan-6 --cases {} --rounds 2 --count 3 --json {}",
        cases.join(","),
        file.display()
    ));
    assert!(success, "{text}");
    assert!(text.contains("handshakes/s") && text.contains("psk_x25519_p50 ↓"), "{text}");
    let report: Report = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    for case in cases {
        let figure = |system: &str, work: &str| {
            let work = format!("{case}_{work}");
            let found = report.results.iter().find(|result| result.system == system && result.work == work);
            let result = found.unwrap_or_else(|| panic!("{system} lacks {work}: {text}"));
            assert!(result.samples.len() == 2 && result.samples.iter().all(|sample| *sample > 0.0), "{result:?}");
            result.median
        };
        for system in ["adit", "strongswan-6"] {
            assert!(figure(system, "p50") <= figure(system, "p99"), "{system} {case}");
            // Two ends cannot do their work in less time than both have used, but for what they do at the same time.
            let [cpu, latency] = ["cpu", "p99"].map(|work| figure(system, work));
            assert!(cpu < 20.0 * latency, "{system} {case}: {cpu} ms of processor time, {latency} ms");
            let rates = 1e3 / figure(system, "initiator") + 1e3 / figure(system, "responder");
            assert!((0.2..5.0).contains(&(rates / cpu)), "{system} {case}: {rates} ms by the rates, {cpu} ms in all");
        }
    }
}

/// A folder with an `adit-bench` that notes in the file `asked` what it is asked for, and then is the one of this build.
fn other_build(folder: &Path) -> PathBuf {
    let (text, build, real) = (folder.join("text"), folder.join("build"), env!("CARGO_BIN_EXE_adit-bench"));
    let asked = folder.join("asked");
    std::fs::write(&text, format!("#!/bin/sh\necho \"$@\" >>'{}'\nexec '{real}' \"$@\"\n", asked.display())).unwrap();
    // By another process: a program that this one has open for writing while another test forks cannot be started (ETXTBSY).
    let status = Command::new("install").args(["-D", "-m", "755"]).arg(text).arg(build.join("adit-bench")).status().unwrap();
    assert!(status.success());
    build
}

#[test]
fn two_builds_are_measured_in_turn() {
    let dir = tempfile::tempdir().unwrap();
    let (file, build) = (dir.path().join("figures.json"), other_build(dir.path()));
    let (success, text) = handshake(&format!(
        "--before {} --cases psk_x25519,ed25519_x25519-mlkem768 --rounds 2 --count 3 --json {}",
        build.display(),
        file.display()
    ));
    assert!(success, "{text}");
    let asked = std::fs::read_to_string(dir.path().join("asked")).unwrap();
    let cases: Vec<&str> = asked
        .lines()
        .map(|line| {
            let asked = line.strip_prefix("handshake --systems adit --cases ").unwrap_or_else(|| panic!("{line}"));
            asked.split_once(" --rounds 1 --count 3 --json ").unwrap_or_else(|| panic!("{line}")).0
        })
        .collect();
    let [one, other] = ["psk_x25519", "ed25519_x25519-mlkem768"];
    assert_eq!(cases, [one, other, other, one], "the second round goes the other way");
    let report: Report = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(report.results.len(), 2 * 2 * 5, "{text}");
    for result in &report.results {
        assert!(["adit", "adit-before"].contains(&result.system.as_str()), "{result:?}");
        assert!(result.samples.len() == 2 && result.samples.iter().all(|sample| *sample > 0.0), "{result:?}");
    }
    let samples = |system: &str| {
        let found = report.results.iter().find(|result| result.system == system && result.work == "psk_x25519_cpu");
        found.unwrap_or_else(|| panic!("{system}: {text}")).samples.clone()
    };
    assert_ne!(samples("adit"), samples("adit-before"), "the nanoseconds of two runs");
    assert!(text.contains(" ×)") && text.contains(&format!("adit-before is {}/adit-bench", build.display())), "{text}");
    let ratios = text.split_once("round by round").expect("the ratios").1;
    assert!(["psk_x25519_cpu ↓", "psk_x25519_responder"].iter().all(|work| ratios.contains(work)), "{text}");
}

#[test]
fn a_build_before_that_cannot_be_measured_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().display();
    let (success, text) = handshake(&format!("--before {folder}"));
    assert!(!success && text.contains(&format!("there is no {folder}/adit-bench")), "{text}");
    let (success, text) = handshake("--systems adit-before");
    assert!(!success && text.contains("--before"), "{text}");
    let build = other_build(dir.path());
    let (success, text) = handshake(&format!("--systems adit --before {}", build.display()));
    assert!(!success && text.contains("--systems does not name"), "{text}");
    assert!(!dir.path().join("asked").exists());
}

#[test]
fn unknown_systems_and_cases_are_refused_with_the_known_ones() {
    let (success, text) = handshake("--systems libreswan");
    assert!(!success && text.contains("strongswan-5.9"), "{text}");
    let (success, text) = handshake("--systems adit --cases rsa_x25519");
    assert!(!success && text.contains("ecdsa-p256_x25519-mlkem768"), "{text}");
}
