//! The command `adit-bench tunnel` as a user calls it.

use std::process::Command;

use adit_bench::report::Report;

fn tunnel(arguments: &str) -> (bool, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_adit-bench")).arg("tunnel").args(arguments.split_whitespace()).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn plain_veth_is_measured_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("figures.json");
    let works = "rtt_idle_us,rtt_busy_us,tcp1,udp18,rtt_loaded_us";
    let (success, text) =
        tunnel(&format!("--systems plain,plain-mtu9000 --works {works} --rounds 1 --seconds 1 --json {}", file.display()));
    assert!(success, "{text}");
    assert!(text.contains("Gbit/s") && text.contains("plain-mtu9000"), "{text}");
    let report: Report = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let reported: Vec<_> =
        report.systems.iter().map(|facts| (facts.system.as_str(), facts.cipher.as_str(), facts.inner_mtu)).collect();
    assert_eq!(reported, [("plain", "none", 1500), ("plain-mtu9000", "none", 9000)]);
    assert!(report.systems[0].version.starts_with("Linux ") && text.contains("MTU inside"), "{text}");
    assert!(text.contains("rtt_loaded_us ↓"), "{text}");
    for system in ["plain", "plain-mtu9000"] {
        for work in works.split(',') {
            let median = report.median(system, work).unwrap_or_else(|| panic!("{system} lacks {work}: {text}"));
            assert!(median > 0.0, "{system} {work} {median}");
        }
        assert_eq!(report.median(system, "rtt_loaded_lost"), Some(0.0));
    }
}

#[test]
fn narrow_paths_and_bridges_are_measured_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("figures.json");
    let works = "--works mtu1400,bridge1500 --rounds 1 --seconds 1";
    let (success, text) = tunnel(&format!("--systems plain,adit-1w {works} --json {}", file.display()));
    assert!(success, "{text}");
    let report: Report = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    for system in ["plain", "adit-1w"] {
        for work in ["mtu1400", "mtu1400_reverse", "bridge1500", "bridge1500_reverse"] {
            assert!(report.median(system, work).is_some_and(|gbits| gbits > 0.0), "{system} {work}: {text}");
        }
        // What is lost of it is for want of time, and not all.
        assert!(report.median(system, "bridge1500_udp_loss").is_some_and(|lost| lost < 50.0), "{system}: {text}");
    }
}

#[test]
fn unknown_systems_and_works_are_refused_with_the_known_ones() {
    let (success, text) = tunnel("--systems wiregard");
    assert!(!success && text.contains("wireguard-go"), "{text}");
    let (success, text) = tunnel("--systems plain --works tcp2");
    assert!(!success && text.contains("tcp1_reverse"), "{text}");
    let (success, text) = tunnel("--systems adit-fast");
    assert!(!success && text.contains("chacha"), "{text}");
    let (success, text) = tunnel("--systems adit-before");
    assert!(!success && text.contains("--before"), "{text}");
}
