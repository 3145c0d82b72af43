//! Messages of the process, to standard error: for people, and for the control plane that reads them from there (its `dataplane/log.rs`);
//! where journald reads, each line with its priority (sd-daemon(3)).

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::OnceLock;

use adit_channel::service::is_journal;

/// How much a message matters: the priority for journald, and what stands before it for everybody else.
#[derive(Clone, Copy)]
struct Level(u8, &'static str);

const ERROR: Level = Level(3, "adit-dataplane: ");
const WARNING: Level = Level(4, "WARNING: ");
const INFO: Level = Level(6, "");

/// Why the process ends.
pub fn error(message: impl Display) {
    say(ERROR, message);
}

/// What somebody should look at.
pub fn warn(message: impl Display) {
    say(WARNING, message);
}

/// What is good to know afterwards.
pub fn info(message: impl Display) {
    say(INFO, message);
}

fn say(level: Level, message: impl Display) {
    static JOURNAL: OnceLock<bool> = OnceLock::new();
    let journal = *JOURNAL.get_or_init(|| is_journal(io::stderr()));
    // Nothing better can be done when nobody reads; one write, so that lines of several threads stay whole.
    let _ = io::stderr().write_all(text(level, &message.to_string(), journal).as_bytes());
}

fn text(Level(priority, prefix): Level, message: &str, journal: bool) -> String {
    match journal {
        false => format!("{prefix}{message}\n"),
        // Each line is a message of its own there.
        true => message.lines().map(|line| format!("<{priority}>{line}\n")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journald_gets_priorities_and_everybody_else_words() {
        assert_eq!(text(WARNING, "no io_uring", true), "<4>no io_uring\n");
        assert_eq!(text(ERROR, "two\nlines", true), "<3>two\n<3>lines\n");
        assert_eq!(text(INFO, "up", true), "<6>up\n");
        assert_eq!(text(WARNING, "no io_uring", false), "WARNING: no io_uring\n");
        assert_eq!(text(ERROR, "no", false), "adit-dataplane: no\n");
        assert_eq!(text(INFO, "up", false), "up\n");
    }
}
