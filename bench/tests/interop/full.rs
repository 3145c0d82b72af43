//! Every case of the interoperability tests, as a page: `make interop` writes docs/interop.md with it.
//!
//! | environment | what runs |
//! |---|---|
//! | anything else | the few cases that are marked as short, so that the page itself is tested; nothing is written |
//! | `ADIT_TEST=full` | everything; docs/interop.md is written, also when a case fails, and then the test fails |
//! | `ADIT_TEST=full ADIT_INTEROP_ONLY=WORDS` | the tables and cases that have the words in their names; nothing is written |

use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use adit_bench::lab::binary;
use adit_bench::lab::interop::Release;
use adit_bench::lab::interop::releases::kernel_version;
use adit_bench::lab::interop::table::{self, Section, Table};
use adit_bench::report::Report;
use anyhow::{Context, Result, ensure};

use crate::daemon::{kernel, life, matrix, nat, rate, window};

fn sections() -> Vec<Section> {
    vec![
        matrix::classic(),
        life::section(Release::Swan5, "strongSwan 5.9"),
        matrix::post_quantum(),
        life::section(Release::Swan6, "strongSwan 6"),
        nat::section(),
        kernel::section(),
        rate::section(),
        window::section(),
    ]
}

/// What was run with what.
fn head(minutes: u64) -> Result<String> {
    let version = std::process::Command::new(binary("adit")?).arg("--version").output()?.stdout;
    let Report { machine, commit, .. } = Report::new();
    let mut head = "# Interoperability\n\nWritten by `make interop`; do not edit. Each row is a run of the daemon, both planes and a TUN in \
                    `mode: ip`, against the real peer: see `bench/tests/interop/daemon`. What the engine alone was tried with is in \
                    `bench/tests/interop/engine`.\n\n| end | version |\n|---|---|\n"
        .to_owned();
    writeln!(head, "| Adit | {}, commit {commit} |", String::from_utf8_lossy(&version).trim())?;
    for release in Release::ALL {
        writeln!(head, "| strongSwan | {} (Debian's package) |", release.version()?)?;
    }
    writeln!(head, "| Linux, as a guest | {} (Debian's package user-mode-linux) |", kernel_version()?)?;
    writeln!(head, "\nOn {} cores of {}, Linux {}, in {minutes} min.", machine.cores, machine.cpu, machine.kernel)?;
    Ok(head)
}

fn environment(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

#[test]
fn every_case_is_tried_and_the_page_tells_what_came_of_it() -> Result<()> {
    let (full, only) = (environment("ADIT_TEST") == "full", environment("ADIT_INTEROP_ONLY"));
    let began = Instant::now();
    let run = |section: &Section| -> Table {
        let named = |case: &table::Case| format!("{}, {}", section.title, case.labels.join(", ")).contains(&only);
        section.run(|case| if full { named(case) } else { case.is_short })
    };
    let tables: Vec<Table> = sections().iter().map(run).collect();
    let page = table::page(&head(began.elapsed().as_secs() / 60)?, &tables);
    if full && only.is_empty() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no parent")?.join("docs/interop.md");
        std::fs::write(&path, &page).with_context(|| path.display().to_string())?;
    } else {
        eprintln!("{page}");
    }
    ensure!(tables.iter().any(|table| !table.is_empty()), "no case has the words `{only}` in its name");
    table::verdict(&tables)
}
