//! What `adit relay check` has found out, line by line.

use std::fmt::{Display, Write};

#[derive(Default)]
pub(super) struct Report {
    text: String,
    has_faults: bool,
}

impl Report {
    /// What the next lines are about.
    pub(super) fn place(&mut self, what: impl Display) {
        let _ = writeln!(self.text, "{what}");
    }

    pub(super) fn well(&mut self, what: impl Display) {
        let _ = writeln!(self.text, "  ok     {what}");
    }

    pub(super) fn note(&mut self, what: impl Display) {
        let _ = writeln!(self.text, "  -      {what}");
    }

    pub(super) fn wrong(&mut self, what: impl Display) {
        self.has_faults = true;
        let _ = writeln!(self.text, "  WRONG  {what}");
    }

    /// All of it, and whether all is well.
    pub(super) fn end(self) -> (String, bool) {
        (self.text, !self.has_faults)
    }
}
