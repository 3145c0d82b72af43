//! A build of Adit that measures itself: for one round of one case its own `adit-bench handshake` is run.
//!
//! ```text
//! adit         /proc/self/exe ──┐  handshake --systems adit --cases CASE --rounds 1 --count N --json FILE
//! adit-before  FOLDER/adit-bench┴─▶ a process of its own for every round ─▶ FILE ─▶ the figures of `adit` in it
//! ```
//! Both are processes of their own, so that neither has the memory of earlier rounds in its allocator and the other has not. The
//! options above are all that is asked of the other build: `adit-bench` knows them since it has the command.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::{ADIT, ADIT_BEFORE, Case, FIGURES, Figures};
use crate::lab::binary_in;
use crate::report::{Measurement, Report};
use crate::workdir::WorkDir;

/// One of the two builds that are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// Its name in the report.
    pub name: &'static str,
    pub program: PathBuf,
}

impl Build {
    /// The build that this process is of, and the one in a folder.
    pub fn pair(folder: &Path) -> Result<[Build; 2]> {
        let before = binary_in(folder, "adit-bench").context("--before needs a folder with another adit-bench")?;
        // By this link it is the same program also after somebody has built the next one in its place.
        Ok([Build { name: ADIT, program: "/proc/self/exe".into() }, Build { name: ADIT_BEFORE, program: before }])
    }

    /// Measures `count` handshakes in a process that is there for them alone.
    pub fn measure(&self, case: Case, count: u16) -> Result<Figures> {
        let (dir, program) = (WorkDir::new("handshake")?, self.program.display());
        let file = dir.path().join("figures.json");
        let mut command = Command::new(&self.program);
        command.args(["handshake", "--systems", ADIT, "--cases", &case.name(), "--rounds", "1", "--count", &count.to_string()]);
        let output = command.arg("--json").arg(&file).output().with_context(|| format!("cannot start {program}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} ended ({}), and said: {}", output.status, said.trim());
        let text = std::fs::read(&file).with_context(|| format!("{program} wrote no figures"))?;
        figures(&text, case).with_context(|| format!("{program} wrote other figures than expected"))
    }
}

/// What a report of one round, as JSON, tells of Adit in this case.
fn figures(text: &[u8], case: Case) -> Result<Figures> {
    let report: Report = serde_json::from_slice(text)?;
    let mut figures = Figures::default();
    for (figure, (name, unit)) in figures.iter_mut().zip(FIGURES) {
        let work = format!("{}_{name}", case.name());
        let is_it = |result: &&Measurement| result.system == ADIT && result.work == work && result.unit == unit;
        let found = report.results.iter().find(is_it).with_context(|| format!("{work} in {unit} is missing"))?;
        let [sample] = found.samples[..] else { bail!("{work} has {} samples instead of one", found.samples.len()) };
        ensure!(sample.is_finite() && sample > 0.0, "{work} is {sample} {unit}");
        *figure = sample;
    }
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::super::ProofKind;
    use super::*;

    const CASE: Case = Case { proof: ProofKind::Psk, hybrid: false };

    fn read(report: &Report) -> Result<Figures> {
        figures(&serde_json::to_vec(report).unwrap(), CASE)
    }

    fn report(rounds: usize) -> Report {
        let mut report = Report::new();
        for _ in 0..rounds {
            for (value, (name, unit)) in FIGURES.iter().enumerate() {
                report.add("strongswan-6", &format!("psk_x25519_{name}"), unit, 100.0);
                report.add(ADIT, &format!("psk_x25519_{name}"), unit, value as f64 + 1.0);
            }
        }
        report
    }

    #[test]
    fn the_figures_of_adit_are_taken_from_a_report() {
        assert_eq!(read(&report(1)).unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0]);
    }

    #[test]
    fn a_report_with_other_figures_is_refused() {
        let error = |report: Report| read(&report).unwrap_err().to_string();
        assert_eq!(error(report(0)), "psk_x25519_responder in handshakes/s is missing");
        assert_eq!(error(report(2)), "psk_x25519_responder has 2 samples instead of one");
        let mut other = report(1);
        other.results.iter_mut().filter(|result| result.unit == "ms").for_each(|result| result.unit = "µs".into());
        assert_eq!(error(other), "psk_x25519_cpu in ms is missing");
        let mut nothing = report(1);
        nothing.results.iter_mut().for_each(|result| result.samples = vec![0.0]);
        assert_eq!(error(nothing), "psk_x25519_responder is 0 handshakes/s");
    }

    #[test]
    fn a_program_that_measures_nothing_is_told_with_what_it_says() {
        let folder = tempfile::tempdir().unwrap();
        assert!(format!("{:#}", Build::pair(folder.path()).unwrap_err()).contains("there is no "));
        let before = Build { name: ADIT_BEFORE, program: "/bin/false".into() };
        assert!(before.measure(CASE, 1).unwrap_err().to_string().contains("exit status: 1"));
        let silent = Build { name: ADIT_BEFORE, program: "/bin/true".into() };
        assert!(silent.measure(CASE, 1).unwrap_err().to_string().contains("wrote no figures"));
    }
}
