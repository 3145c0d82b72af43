//! What is wrong in a configuration file, said so that it can be repaired without a manual: place, fault, what was
//! expected, what to write instead, and the line itself with the fault marked.

use std::fmt;
use std::path::PathBuf;

pub use adit_engine::nearest::nearest;
use adit_engine::shown::Shown;

use super::foreign;

/// A stretch of one line of the file. Line and column count from 1, in characters; line 0 means the file as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub line: usize,
    pub column: usize,
    /// In characters, at least 1.
    pub width: usize,
}

impl Place {
    /// The file as a whole.
    pub const FILE: Place = Place { line: 0, column: 0, width: 1 };
    /// Where the file begins: what is missing at the top is missed there.
    pub const TOP: Place = Place { line: 1, column: 1, width: 1 };
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub at: Place,
    /// The key in the file, `peers[0].endpoint`; empty where it is about the whole.
    pub key: String,
    /// What is wrong: one clause, without a full stop.
    pub what: String,
    /// What was expected in its place.
    pub expected: String,
    /// What to write or to run instead.
    pub write: String,
}

impl Problem {
    pub fn new(at: Place, what: impl Into<String>, expected: impl Into<String>, write: impl Into<String>) -> Problem {
        Problem { at, key: String::new(), what: what.into(), expected: expected.into(), write: write.into() }
    }

    /// About a key of the block at this place.
    pub(super) fn of(self, key: &str) -> Problem {
        Problem { key: key.to_owned(), ..self }
    }
}

/// All mistakes of a file, in the order of their lines.
#[derive(Clone, Debug)]
pub struct Problems {
    pub file: PathBuf,
    pub source: String,
    pub list: Vec<Problem>,
}

impl Problems {
    /// Sorts the list by place, so that people can work through the file from top to bottom.
    pub fn new(file: PathBuf, source: &str, mut list: Vec<Problem>) -> Problems {
        list.sort_by_key(|problem| problem.at);
        Problems { file, source: source.to_owned(), list }
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            let Place { line, column, .. } = problem.at;
            match line {
                0 => writeln!(f, "{}: {}", self.file.display(), problem.what)?,
                _ => writeln!(f, "{}:{line}:{column}: {}", self.file.display(), problem.what)?,
            }
            self.excerpt(f, problem.at)?;
            if !problem.key.is_empty() {
                writeln!(f, "  key:      {}", problem.key)?;
            }
            writeln!(f, "  expected: {}", problem.expected)?;
            writeln!(f, "  write:    {}", problem.write.replace('\n', "\n            "))?;
        }
        if self.list.len() > 1 {
            writeln!(f, "\n{} problems in {}", self.list.len(), self.file.display())?;
        }
        Ok(())
    }
}

impl Problems {
    fn excerpt(&self, f: &mut fmt::Formatter<'_>, at: Place) -> fmt::Result {
        let Some(line) = at.line.checked_sub(1).and_then(|index| self.source.lines().nth(index)) else {
            return Ok(());
        };
        // A tab would shift the mark, a control character could play with the terminal.
        let line = foreign::without_secret(line);
        let shown = Shown::in_place(&line);
        let before = at.column.saturating_sub(1);
        let width = at.width.min(shown.chars().count().saturating_sub(before)).max(1);
        writeln!(f, "{:>5} | {}", at.line, shown.trim_end())?;
        writeln!(f, "      | {}{}", " ".repeat(before), "^".repeat(width))
    }
}
