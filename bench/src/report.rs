//! Figures of a run: collected by system and work, written as JSON, shown as a table.
//!
//! ```text
//! Report::add(system, work, unit, value) per round ─▶ samples, median ─▶ JSON {machine, commit, systems: […], results: […]}
//!                                                                    └─▶ table: a row per work, a column per system
//! ```

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

/// All figures of one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub machine: Machine,
    /// The source's commit, with `-dirty` when the tree had changes; `unknown` outside of a checkout.
    pub commit: String,
    /// What was compared, for the kinds of work where that matters.
    #[serde(default)]
    pub systems: Vec<SystemFacts>,
    pub results: Vec<Measurement>,
}

/// What has to be known of a system to compare it with another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemFacts {
    /// The name in the results.
    pub system: String,
    /// What the program calls itself.
    pub version: String,
    pub cipher: String,
    /// MTU of the cable, in bytes of IP packet.
    pub outer_mtu: u32,
    /// MTU of the tunnel's link, in bytes of IP packet.
    pub inner_mtu: u32,
}

/// What the figures were measured on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_mib: u64,
    pub kernel: String,
}

/// One kind of work done by one system.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    pub system: String,
    pub work: String,
    pub unit: String,
    pub median: f64,
    /// In the order of the rounds.
    pub samples: Vec<f64>,
}

impl Report {
    /// An empty report about this machine and this source tree.
    pub fn new() -> Report {
        Report { machine: Machine::this(), commit: commit(), systems: Vec::new(), results: Vec::new() }
    }

    /// Adds one sample. The order of first appearance is the order of rows and columns.
    pub fn add(&mut self, system: &str, work: &str, unit: &str, value: f64) {
        let index = self.results.iter().position(|result| result.system == system && result.work == work).unwrap_or_else(|| {
            let (system, work, unit) = (system.into(), work.into(), unit.into());
            self.results.push(Measurement { system, work, unit, median: 0.0, samples: Vec::new() });
            self.results.len() - 1
        });
        let result = &mut self.results[index];
        result.samples.push(value);
        result.median = median(&result.samples);
    }

    /// Adds what is known of a system; the first word on it counts.
    pub fn describe(&mut self, facts: SystemFacts) {
        if !self.systems.iter().any(|known| known.system == facts.system) {
            self.systems.push(facts);
        }
    }

    /// The median of this work, when the system did it.
    pub fn median(&self, system: &str, work: &str) -> Option<f64> {
        self.results.iter().find(|result| result.system == system && result.work == work).map(|result| result.median)
    }

    /// Writes the JSON document.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// A row per system with what is known of it.
    pub fn systems_table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["system", "version", "cipher", "MTU outside", "MTU inside"]);
        for facts in &self.systems {
            let mtus = [facts.outer_mtu, facts.inner_mtu].map(|mtu| mtu.to_string());
            table.add_row([&facts.system, &facts.version, &facts.cipher, &mtus[0], &mtus[1]]);
        }
        table
    }

    /// A row per work, a column per system; `↓` where less is better. With a baseline that is part of the run, every other cell also
    /// tells its multiple.
    pub fn table(&self, baseline: Option<&str>) -> Table {
        let systems = distinct(self.results.iter().map(|result| result.system.as_str()));
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["work", "unit"].into_iter().chain(systems.iter().copied()));
        for work in distinct(self.results.iter().map(|result| result.work.as_str())) {
            let unit = self.results.iter().find(|result| result.work == work).map_or("", |result| &result.unit);
            let base = baseline.and_then(|system| self.median(system, work));
            let cells = systems.iter().map(|system| {
                let text = match (self.median(system, work), base) {
                    (None, _) => "–".to_owned(),
                    (Some(value), Some(base)) if base > 0.0 && Some(*system) != baseline => {
                        format!("{} ({} ×)", short(value), short(value / base))
                    }
                    (Some(value), _) => short(value),
                };
                Cell::new(text).set_alignment(CellAlignment::Right)
            });
            table.add_row([Cell::new(marked(work, unit)), Cell::new(unit)].into_iter().chain(cells));
        }
        table
    }

    /// A row per work that both did: this system as a multiple of the baseline in the same round, in the middle, least and most.
    /// Where 1 lies between the least and the most, the rounds do not tell which one is better; where not, that may be chance.
    pub fn ratios(&self, system: &str, baseline: &str) -> Table {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["work", "median", "least", "most"]);
        for result in self.results.iter().filter(|result| result.system == system) {
            let base = self.results.iter().find(|other| other.system == baseline && other.work == result.work);
            let rounds = base.into_iter().flat_map(|base| result.samples.iter().zip(&base.samples));
            let ratios: Vec<f64> = rounds.map(|(value, base)| value / base).filter(|ratio| ratio.is_finite()).collect();
            if ratios.is_empty() {
                continue;
            }
            let (least, most) =
                ratios.iter().fold((f64::MAX, f64::MIN), |(low, high), ratio| (low.min(*ratio), high.max(*ratio)));
            let cell = |ratio: f64| Cell::new(format!("{ratio:.3}")).set_alignment(CellAlignment::Right);
            table.add_row([Cell::new(marked(&result.work, &result.unit)), cell(median(&ratios)), cell(least), cell(most)]);
        }
        table
    }
}

impl Default for Report {
    fn default() -> Self {
        Report::new()
    }
}

impl Machine {
    fn this() -> Machine {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let (cpuinfo, meminfo) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory_kib: u64 =
            field(&meminfo, "MemTotal").and_then(|text| text.split_whitespace().next()?.parse().ok()).unwrap_or(0);
        Machine {
            cpu: field(&cpuinfo, "model name").unwrap_or_else(|| std::env::consts::ARCH.into()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory_kib / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().into(),
        }
    }
}

/// Asks git about the checkout that this program was built from.
fn commit() -> String {
    let mut git = Command::new("git");
    git.args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]);
    match git.output() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown".into(),
    }
}

/// The middle sample, or the mean of the two in the middle; 0 without samples.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => 0.0,
        (length, middle) if length % 2 == 1 => sorted[middle],
        (_, middle) => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// Rates are what is to be large; everything else here is a cost, a loss or a delay.
fn is_less_better(unit: &str) -> bool {
    !unit.ends_with("/s")
}

/// The work's name, with `↓` where less is better.
fn marked(work: &str, unit: &str) -> String {
    if is_less_better(unit) { format!("{work} ↓") } else { work.to_owned() }
}

fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found = Vec::new();
    for name in names {
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

/// Three or four significant digits.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if size < 1.0 => format!("{value:.3}"),
        size if size < 100.0 => format!("{value:.2}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_all_rounds_come_to_one_median() {
        let mut report = Report::new();
        for (plain, other) in [(10.0, 1.0), (30.0, 5.0), (20.0, 2.0)] {
            report.add("plain", "tcp1", "Gbit/s", plain);
            report.add("other", "tcp1", "Gbit/s", other);
        }
        assert_eq!((report.median("plain", "tcp1"), report.median("other", "tcp1")), (Some(20.0), Some(2.0)));
        assert_eq!(report.results.len(), 2);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
    }

    #[test]
    fn the_document_has_the_agreed_shape() {
        let mut report = Report::new();
        report.add("plain", "udp18", "packets/s", 290_000.0);
        let value = serde_json::to_value(&report).unwrap();
        assert!(value["machine"]["cores"].as_u64().unwrap() > 0);
        assert!(!value["commit"].as_str().unwrap().is_empty());
        let expected = serde_json::json!({
            "system": "plain", "work": "udp18", "unit": "packets/s", "median": 290_000.0, "samples": [290_000.0]
        });
        assert_eq!(value["results"], serde_json::json!([expected]));
        assert_eq!(value["systems"], serde_json::json!([]));
    }

    #[test]
    fn the_table_tells_multiples_of_the_baseline() {
        let mut report = Report::new();
        report.add("wireguard-go", "tcp1", "Gbit/s", 3.5);
        report.add("adit", "tcp1", "Gbit/s", 14.0);
        report.add("adit", "udp18", "packets/s", 400_000.0);
        report.add("adit", "rtt_idle_us", "µs", 50.0);
        let table = report.table(Some("wireguard-go")).to_string();
        assert!(table.contains("14.00 (4.00 ×)") && table.contains("400000") && table.contains('–'), "{table}");
        assert!(table.contains("rtt_idle_us ↓") && !table.contains("tcp1 ↓"), "{table}");
    }

    #[test]
    fn ratios_are_those_of_the_same_round() {
        let mut report = Report::new();
        // A slow round is one for both; by the medians alone it would be 4 : 5.
        for (before, now) in [(10.0, 5.0), (5.0, 4.0), (4.0, 3.0)] {
            report.add("adit", "psk_cpu", "ms", now);
            report.add("adit-before", "psk_cpu", "ms", before);
            report.add("adit", "alone", "ms", now);
        }
        let table = report.ratios("adit", "adit-before").to_string();
        let row = table.lines().find(|line| line.contains("psk_cpu ↓")).expect("the work");
        let figures: Vec<&str> = row.split(['│', '┆']).map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(figures, ["psk_cpu ↓", "0.750", "0.500", "0.800"], "{table}");
        assert!(!table.contains("alone"), "{table}");
    }

    #[test]
    fn the_systems_are_told_once_each() {
        let mut report = Report::new();
        for cipher in ["aes-128-gcm", "none"] {
            let facts = SystemFacts {
                system: "adit".into(),
                version: "adit 1".into(),
                cipher: cipher.into(),
                outer_mtu: 1500,
                inner_mtu: 1418,
            };
            report.describe(facts);
        }
        assert_eq!(report.systems.len(), 1);
        let table = report.systems_table().to_string();
        assert!(table.contains("aes-128-gcm") && table.contains("1418"), "{table}");
    }
}
