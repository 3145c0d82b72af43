//! The data plane as a service of its own: another user's process, which the manager of services starts, and not we.
//!
//! ```text
//!   adit run --service NAME ──── /run/adit/NAME.dataplane: the command line that is wanted ────▶ adit dataplane NAME
//!   (user adit)                                                                                 (user adit-dataplane)
//!           └─────────────────── /run/adit-dataplane/NAME.sock: the channel ───────────────────▶ becomes adit-dataplane
//! ```
//!
//! Each directory belongs to the user who writes there, and nobody else can: so each side knows with whom it has to do. The data plane
//! reads neither the configuration nor a key.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use adit_channel::service::{Manager, NotifyState};
use anyhow::{Context, ensure};

use crate::private;

/// The directory that belongs to the user of the control plane (RuntimeDirectory= of its unit).
const CONTROL_DIR: &str = "/run/adit";
/// The directory that belongs to the user of the data plane.
const DATAPLANE_DIR: &str = "/run/adit-dataplane";
/// How often it is looked whether there is something to start.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long nobody may read there yet, before that is a mistake.
const DENIED_FOR: Duration = Duration::from_secs(10);
/// How often the manager of services hears meanwhile that we live.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Where the data plane of this service listens for its control plane.
pub fn socket(service: &str) -> PathBuf {
    Path::new(DATAPLANE_DIR).join(format!("{service}.sock"))
}

fn arguments_file(service: &str) -> PathBuf {
    Path::new(CONTROL_DIR).join(format!("{service}.dataplane"))
}

/// Judges the name of a service, the part of the unit's name after the `@`.
///
/// # Errors
/// It cannot be one, since it is used as the name of a file.
pub fn name(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && text.len() <= 64 && !text.starts_with('.') && !text.contains(['/', '\0']);
    if fits { Ok(text.to_owned()) } else { Err("1 to 64 bytes, no slash, and no dot at the beginning".to_owned()) }
}

/// What is wanted of the data plane, as words of a command line; each ends with a zero byte.
fn text(arguments: &[(String, String)]) -> Vec<u8> {
    arguments.iter().flat_map(|(flag, value)| [flag, value]).flat_map(|word| [word.as_bytes(), &[0]].concat()).collect()
}

fn words(text: &[u8]) -> Vec<OsString> {
    text.split_inclusive(|byte| *byte == 0)
        .filter_map(|word| word.strip_suffix(&[0]))
        .map(|word| OsString::from_vec(word.to_vec()))
        .collect()
}

/// Whether this is what was wanted last.
pub fn is_wanted(service: &str, arguments: &[(String, String)]) -> bool {
    std::fs::read(arguments_file(service)).is_ok_and(|found| found == text(arguments))
}

/// Says which data plane is wanted: it is started so from now on.
///
/// # Errors
/// The file cannot be written; the message says which, and what is missing.
pub fn want(service: &str, arguments: &[(String, String)]) -> anyhow::Result<()> {
    let file = arguments_file(service);
    let context = || format!("writing {}: the unit needs RuntimeDirectory=adit (deploy/adit@.service)", file.display());
    let new = file.with_extension("new");
    // One that a run before has left half.
    let _ = std::fs::remove_file(&new);
    let mut out = private::file().mode(0o640).write(true).create_new(true).open(&new).with_context(context)?;
    // The mask for new files may have taken some of it away.
    out.set_permissions(std::fs::Permissions::from_mode(0o640)).with_context(context)?;
    out.write_all(&text(arguments)).with_context(context)?;
    std::fs::rename(&new, &file).with_context(context)
}

/// No data plane is wanted any more.
pub fn want_none(service: &str) {
    // There may be none.
    let _ = std::fs::remove_file(arguments_file(service));
}

/// Waits until the control plane of a service has said which data plane it wants; gives the words of its command line.
///
/// # Errors
/// The manager of services cannot be reached, or the file not be read.
pub fn await_wanted(service: &str) -> anyhow::Result<Vec<OsString>> {
    let manager = Manager::open().context("reaching the manager of services at NOTIFY_SOCKET")?;
    let file = arguments_file(service);
    manager.tell(&[NotifyState::Ready, NotifyState::Status("waiting for adit to say what is wanted")]);
    let began = Instant::now();
    let mut reported = began;
    let words = loop {
        match std::fs::read(&file) {
            Ok(text) => break words(&text),
            Err(error) if may_come(&error, began.elapsed()) => {}
            Err(error) => {
                let remedy = "the data plane is to run in the group of adit (deploy/adit-dataplane@.service)";
                return Err(error).with_context(|| format!("reading {}: {remedy}", file.display()));
            }
        }
        std::thread::sleep(LOOK_EVERY);
        if reported.elapsed() >= TELL_EVERY {
            reported = Instant::now();
            manager.alive();
        }
    };
    ensure!(!words.is_empty(), "{} is empty: restart adit", file.display());
    Ok(words)
}

/// Whether the file is waited for that could not be read. The manager of services makes its directory first and gives it to its owner
/// then.
fn may_come(error: &io::Error, waited: Duration) -> bool {
    match error.kind() {
        io::ErrorKind::NotFound => true,
        io::ErrorKind::PermissionDenied => waited < DENIED_FOR,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_just_being_made_is_waited_for() {
        let may_come = |kind: io::ErrorKind, s| may_come(&kind.into(), Duration::from_secs(s));
        assert!(may_come(io::ErrorKind::NotFound, 1_000_000));
        assert!(may_come(io::ErrorKind::PermissionDenied, 9) && !may_come(io::ErrorKind::PermissionDenied, 10));
        assert!(!may_come(io::ErrorKind::IsADirectory, 0));
    }

    #[test]
    fn what_is_wanted_is_read_as_it_was_written() {
        let arguments = [("--tap", "adit 0"), ("--cores", ""), ("--mtu", "1400")];
        let arguments: Vec<_> = arguments.iter().map(|(flag, value)| ((*flag).to_owned(), (*value).to_owned())).collect();
        assert_eq!(words(&text(&arguments)), ["--tap", "adit 0", "--cores", "", "--mtu", "1400"]);
        assert!(words(b"half a word").is_empty() && words(b"").is_empty());
    }

    #[test]
    fn the_name_of_a_service_is_the_name_of_a_file() {
        for text in ["", ".", "../etc", "a/b", "a\0b", &"a".repeat(65)] {
            assert!(name(text).is_err(), "{text:?}");
        }
        assert_eq!(name("site-a").as_deref(), Ok("site-a"));
        assert_eq!(socket("a"), Path::new("/run/adit-dataplane/a.sock"));
    }
}
