//! The command `adit-bench scale` as a user calls it: a few hundred peers on one gateway, held across the death of its control plane.

use std::process::Command;

use adit_bench::report::Report;

#[test]
fn hundreds_of_peers_connect_cost_little_and_outlive_the_control_plane() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("figures.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit-bench"));
    command.args(["scale", "--peers", "300", "--seconds", "3", "--json"]).arg(&file);
    let output = command.output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{text}");
    let report: Report = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let figure = |work| report.median("adit", work).unwrap_or_else(|| panic!("{work} is missing: {text}"));
    assert_eq!(figure("peers"), 300.0);
    assert!(figure("handshakes") > 0.0 && figure("takeover") > 0.0, "{text}");
    // What a peer may cost both processes together.
    let memory = figure("control_memory") + figure("data_memory");
    assert!(memory > 0.0 && memory < 32.0, "{memory} KiB per peer: {text}");
}
