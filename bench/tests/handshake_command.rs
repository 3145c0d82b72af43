//! The command `adit-bench handshake` as a user calls it.

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

#[test]
fn unknown_systems_and_cases_are_refused_with_the_known_ones() {
    let (success, text) = handshake("--systems libreswan");
    assert!(!success && text.contains("strongswan-5.9"), "{text}");
    let (success, text) = handshake("--systems adit --cases rsa_x25519");
    assert!(!success && text.contains("ecdsa-p256_x25519-mlkem768"), "{text}");
}
