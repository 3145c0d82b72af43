//! What the program says and where, before it has opened anything.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::process::Command;

/// What it writes when it is to run on a CPU that is not there; `journal`: journald is told to read.
fn said(name: &str, journal: bool) -> String {
    let path = std::env::temp_dir().join(format!("adit-log-{name}-{}", std::process::id()));
    let file = File::create(&path).unwrap();
    let facts = file.metadata().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit-dataplane"));
    command.args(["--socket", "/nonexistent/socket", "--tap", "adit-none", "--listen", "127.0.0.1:0", "--workers", "1"]);
    command.args(["--cores", "99999"]).env_remove("NOTIFY_SOCKET").env_remove("JOURNAL_STREAM");
    if journal {
        command.env("JOURNAL_STREAM", format!("{}:{}", facts.dev(), facts.ino()));
    }
    let status = command.stderr(file).status().unwrap();
    let text = fs::read_to_string(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(!status.success(), "{text}");
    text
}

#[test]
fn what_goes_to_journald_has_its_priority() {
    let (journal, people) = (said("journal", true), said("people", false));
    assert!(
        journal.starts_with("<3>core 99999 does not exist") && journal.lines().all(|line| line.starts_with('<')),
        "{journal}"
    );
    assert!(people.starts_with("adit-dataplane: core 99999 does not exist") && !people.contains('<'), "{people}");
}
