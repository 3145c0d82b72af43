//! What a test leaves out on this machine is said where it is seen, also when the test passes.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::Write;
use std::sync::Mutex;

use adit_esp::aead::Backend;

/// The backends that this machine has. Which it has not, and why, is said.
pub fn backends() -> impl Iterator<Item = Backend> {
    for (backend, obstacle) in Backend::ALL.into_iter().filter_map(|backend| Some((backend, backend.obstacle()?))) {
        say(format_args!("{backend}: {obstacle}"));
    }
    Backend::usable()
}

/// Says once that something is left out: straight to standard error, for the harness keeps what passes to itself.
pub fn say(what: impl Display) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let line = format!("SKIPPED: {what}");
    if SAID.lock().is_ok_and(|mut said| said.insert(line.clone())) {
        // A closed standard error is no reason to fail.
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}
