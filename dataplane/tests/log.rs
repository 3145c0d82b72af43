//! What the program says and where, before it has opened anything.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::process::Command;

/// What it writes when it is to run on a CPU that is not there; `journal`: journald is told to read; `format`: ADIT_LOG_FORMAT.
fn said(name: &str, journal: bool, format: Option<&str>) -> String {
    let path = std::env::temp_dir().join(format!("adit-log-{name}-{}", std::process::id()));
    let file = File::create(&path).unwrap();
    let facts = file.metadata().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit-dataplane"));
    command.args(["--socket", "/nonexistent/socket", "--tap", "adit-none", "--listen", "127.0.0.1:0", "--workers", "1"]);
    command.args(["--cores", "99999"]).env_remove("NOTIFY_SOCKET").env_remove("JOURNAL_STREAM");
    command.env_remove("ADIT_LOG_FORMAT").envs(format.map(|format| ("ADIT_LOG_FORMAT", format)));
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
    let (journal, people) = (said("journal", true, None), said("people", false, None));
    assert!(
        journal.starts_with("<3>core 99999 does not exist") && journal.lines().all(|line| line.starts_with('<')),
        "{journal}"
    );
    assert!(people.starts_with("adit-dataplane: core 99999 does not exist") && !people.contains('<'), "{people}");
}

/// The time to the second, in UTC, as coreutils write it.
fn utc() -> String {
    let output = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn what_goes_to_programs_is_an_object_a_line_with_its_time() {
    // Also where journald reads.
    let (before, json, after) = (utc(), said("json", true, Some("json")), utc());
    let (time, rest) = json.strip_prefix("{\"timestamp\":\"").unwrap_or(&json).split_once('"').unwrap();
    let message =
        rest.strip_prefix(",\"level\":\"ERROR\",\"message\":\"core 99999 does not exist").unwrap_or_else(|| panic!("{json}"));
    assert!(message.ends_with("\"}\n") && message.lines().count() == 1, "{json}");
    let (second, micros) = time.split_once('.').unwrap();
    assert!(before.as_str() <= second && second <= after.as_str(), "{before}, {json}, {after}");
    assert!(micros.len() == 7 && micros.ends_with('Z') && micros[..6].bytes().all(|byte| byte.is_ascii_digit()), "{json}");
}

#[test]
fn a_format_that_there_is_not_is_named_and_the_usual_one_is_used() {
    let said = said("xml", true, Some("xml"));
    let (complaint, rest) = said.split_once('\n').unwrap();
    assert!(complaint.starts_with("<4>") && complaint.ends_with("`xml`: it can be text, journal or json"), "{said}");
    assert!(rest.starts_with("<3>core 99999 does not exist"), "{said}");
}
