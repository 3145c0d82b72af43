//! What a run of many cases found, as a page: cases go in, run side by side, rows come out, and a page of Markdown.
//!
//! ```text
//! Section { title, about, columns, cases } ─▶ Section::run ─▶ Table { rows } ─▶ page ─▶ docs/interop.md
//! ```
//!
//! A case that fails is a row as well, and fails the run when the page has been written.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Longest cause of a failure in a row, in characters; all of it is in the output of the run.
const CAUSE_MAX: usize = 160;

/// What a case saw: the cells of [`Section::seen`].
pub type Seen = Vec<String>;

/// One combination to try.
pub struct Case {
    /// The cells of [`Section::columns`].
    pub labels: Vec<String>,
    /// Whether it is among the few that run with every test.
    pub is_short: bool,
    pub run: Box<dyn Fn() -> Result<Seen> + Send + Sync>,
}

/// Cases that make a table.
pub struct Section {
    pub title: String,
    /// What holds for all rows.
    pub about: String,
    pub columns: Vec<&'static str>,
    pub seen: Vec<&'static str>,
    /// How many run at once; 1 where time is measured or packets are counted.
    pub at_once: usize,
    pub cases: Vec<Case>,
}

/// What came of a section.
pub struct Table {
    title: String,
    about: String,
    columns: Vec<&'static str>,
    rows: Vec<Row>,
}

struct Row {
    cells: Vec<String>,
    failed: bool,
}

impl Case {
    pub fn new<const N: usize>(labels: [&str; N], run: impl Fn() -> Result<Seen> + Send + Sync + 'static) -> Case {
        Case { labels: labels.map(str::to_owned).to_vec(), is_short: false, run: Box::new(run) }
    }

    /// The same among those that always run, if so.
    pub fn short_if(self, is_short: bool) -> Case {
        Case { is_short, ..self }
    }
}

impl Section {
    /// Tries all cases that `wanted` picks. Every end is told on standard error as it comes, with all that a failed case said.
    pub fn run(&self, wanted: impl Fn(&Case) -> bool) -> Table {
        let cases: Vec<&Case> = self.cases.iter().filter(|case| wanted(case)).collect();
        let (next, rows) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for _ in 0..self.at_once.max(1) {
                scope.spawn(|| {
                    // A case starts and ends in one thread: its programs end with the thread that has started them.
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let Some(case) = cases.get(number) else { break };
                        let row = self.row(case);
                        rows.lock().unwrap_or_else(PoisonError::into_inner).push((number, row));
                    }
                });
            }
        });
        let mut rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
        rows.sort_by_key(|(number, _)| *number);
        let columns = self.columns.iter().chain(&["result"]).chain(&self.seen).chain(&["took"]).copied().collect();
        let rows = rows.into_iter().map(|(_, row)| row).collect();
        Table { title: self.title.clone(), about: self.about.clone(), columns, rows }
    }

    fn row(&self, case: &Case) -> Row {
        let began = Instant::now();
        let result = (case.run)();
        let took = began.elapsed();
        let mut cells = case.labels.clone();
        let failed = result.is_err();
        match result {
            Ok(seen) => {
                eprintln!("ok      {} | {} | {} ({})", self.title, case.labels.join(", "), seen.join(", "), seconds(took));
                cells.push("ok".to_owned());
                cells.extend(seen);
            }
            Err(error) => {
                eprintln!("FAILED  {} | {} ({})\n{error:#}\n", self.title, case.labels.join(", "), seconds(took));
                cells.push("**failed**".to_owned());
                cells.push(cause(&error));
            }
        }
        cells.resize(self.columns.len() + 1 + self.seen.len(), String::new());
        cells.push(seconds(took));
        Row { cells, failed }
    }
}

impl Table {
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn failed(&self) -> usize {
        self.rows.iter().filter(|row| row.failed).count()
    }

    fn write(&self, page: &mut String) {
        let _ = writeln!(page, "\n## {}\n{}", self.title, self.about);
        let _ = writeln!(page, "{} of {} cases passed.\n", self.len() - self.failed(), self.len());
        let _ = writeln!(page, "| {} |\n|{}", self.columns.join(" | "), "---|".repeat(self.columns.len()));
        for row in &self.rows {
            let cells: Vec<String> = row.cells.iter().map(|cell| cell.replace('|', "\\|").replace('\n', " ")).collect();
            let _ = writeln!(page, "| {} |", cells.join(" | "));
        }
    }
}

/// The page: `head` first, then the tables.
pub fn page(head: &str, tables: &[Table]) -> String {
    let mut page = head.to_owned();
    for table in tables.iter().filter(|table| !table.is_empty()) {
        table.write(&mut page);
    }
    page
}

/// An error that counts the failed cases, if there are any.
pub fn verdict(tables: &[Table]) -> Result<()> {
    let (failed, all): (usize, usize) = (tables.iter().map(Table::failed).sum(), tables.iter().map(Table::len).sum());
    (failed == 0).then_some(()).with_context(|| format!("{failed} of {all} cases failed; what each said is above"))
}

/// `1.2 s`.
pub fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// What began it, on one line.
fn cause(error: &anyhow::Error) -> String {
    let text = error.root_cause().to_string();
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("no reason given").trim();
    line.chars().take(CAUSE_MAX).collect()
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    fn section() -> Section {
        let cases = vec![
            Case::new(["a|b", "1"], || Ok(vec!["fine".to_owned()])).short_if(true),
            Case::new(["c", "2"], || bail!("first line\nsecond line")).short_if(true),
            Case::new(["d", "3"], || Ok(vec!["fine, too".to_owned()])),
        ];
        let (title, about) = ("Peer".to_owned(), "All of it.".to_owned());
        Section { title, about, columns: vec!["what", "number"], seen: vec!["seen"], at_once: 2, cases }
    }

    #[test]
    fn every_case_is_a_row_in_its_order_and_a_failed_one_says_why() {
        let table = section().run(|_| true);
        assert_eq!((table.len(), table.failed()), (3, 1));
        let page = page("# Head\n", &[table]);
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| ")).collect();
        assert_eq!(rows[0], "| what | number | result | seen | took |");
        assert!(rows[1].starts_with("| a\\|b | 1 | ok | fine | ") && rows[3].starts_with("| d | 3 | ok | fine, too | "));
        assert!(rows[2].starts_with("| c | 2 | **failed** | first line | "), "{}", rows[2]);
        assert!(page.starts_with("# Head\n\n## Peer\nAll of it.\n2 of 3 cases passed.\n"), "{page}");
    }

    #[test]
    fn a_failed_case_fails_the_whole_and_a_selection_runs_no_other() {
        let all = section().run(|_| true);
        assert!(verdict(&[all]).unwrap_err().to_string().starts_with("1 of 3 cases failed"));
        let some = section().run(|case| case.is_short && case.labels[0] != "c");
        assert_eq!(some.len(), 1);
        verdict(&[some]).unwrap();
    }
}
