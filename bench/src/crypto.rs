//! `adit-bench crypto`: the time to seal and to open one packet, for every suite, size and backend on one core.
//!
//! ```text
//! every round: every case (operation × suite × size × backend) runs for some milliseconds ─▶ one sample, ns per packet
//! all rounds ─▶ medians ─▶ a table (ns and GB/s per backend), and the report's JSON
//! ```
//! The cases take turns, so that a change of the machine's speed meets all of them alike. The packets are in the first cache
//! levels, as the ones of a running gateway are; nonce and additional data are made anew for each, as for ESP.

use std::hint::black_box;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use adit_esp::aead::{Aead, Backend, built_in, choose, cpu_features};
use adit_proto::control::Spi;
use adit_proto::esp;
use adit_proto::suite::{SALT_LEN, Suite, TAG_LEN};
use anyhow::{Result, ensure};
use clap::Args;
use comfy_table::{Cell, CellAlignment, LineStyle, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};

use crate::report::{Report, median};

/// Packets between two looks at the clock; with the longest packets they still fit the second-level cache.
const BATCH: usize = 16;

/// Time to seal and to open one packet: every suite, size and backend
#[derive(Args, Clone, Debug)]
pub struct CryptoArgs {
    /// Suite to measure; may be given several times [default: all]
    #[arg(long = "suite", value_name = "SUITE", value_parser = parse_suite)]
    suites: Vec<Suite>,
    /// Backend to measure; may be given several times [default: all that can be used here]
    #[arg(long = "backend", value_name = "BACKEND")]
    backends: Vec<Backend>,
    /// Length of the plaintext in bytes; may be given several times
    #[arg(long = "size", value_name = "BYTES", default_values_t = [64, 512, 1400, 8900], value_parser = clap::value_parser!(u16).range(1..))]
    sizes: Vec<u16>,
    /// Samples of each case
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Duration of one sample in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    sample_ms: u64,
    /// Write the figures to this file as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Seal,
    Open,
}

/// One cell of the table.
struct Case {
    operation: Operation,
    suite: Suite,
    backend: Backend,
    size: usize,
    aead: Aead,
}

/// Measures, prints the table, writes the JSON when asked to.
pub fn run(args: CryptoArgs) -> Result<()> {
    println!("CPU features: {}", cpu_features());
    println!("Backends: {}", built_in());
    println!("{}", choose()?.reason);
    let report = measure(&args)?;
    println!("{} · {} cores · kernel {}", report.machine.cpu, report.machine.cores, report.machine.kernel);
    println!("{}", table(&args, &report));
    if let Some(path) = &args.json {
        report.write(path)?;
        println!("written to {}", path.display());
    }
    Ok(())
}

impl CryptoArgs {
    fn suites(&self) -> Vec<Suite> {
        if self.suites.is_empty() { Suite::ALL.to_vec() } else { self.suites.clone() }
    }

    fn backends(&self) -> Vec<Backend> {
        if self.backends.is_empty() { Backend::usable().collect() } else { self.backends.clone() }
    }

    /// The rows of the table: operation, suite, size.
    fn rows(&self) -> Vec<(Operation, Suite, usize)> {
        let mut rows = Vec::new();
        for operation in [Operation::Seal, Operation::Open] {
            for suite in self.suites() {
                rows.extend(self.sizes.iter().map(|&size| (operation, suite, usize::from(size))));
            }
        }
        rows
    }
}

fn measure(args: &CryptoArgs) -> Result<Report> {
    let mut cases = Vec::new();
    for (operation, suite, size) in args.rows() {
        for backend in args.backends() {
            let aead = Aead::new(backend, suite, &vec![7; suite.key_len()])?;
            cases.push(Case { operation, suite, backend, size, aead });
        }
    }
    let duration = Duration::from_millis(args.sample_ms);
    let bar = ProgressBar::new(u64::from(args.rounds) * cases.len() as u64);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}")?);
    let mut report = Report::new();
    for _ in 0..args.rounds {
        for case in &cases {
            let work = work(case.operation, case.suite, case.size);
            bar.set_message(format!("{} {work}", case.backend));
            let ns = case.sample(duration)?;
            report.add(case.backend.name(), &work, "ns", ns);
            report.add(case.backend.name(), &format!("{work}_rate"), "GB/s", case.size as f64 / ns);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(report)
}

impl Case {
    /// Nanoseconds per packet: the median over the batches that fit in `duration`, so that what else the machine does while a
    /// few of them run does not count.
    fn sample(&self, duration: Duration) -> Result<f64> {
        let plain = vec![3; self.size];
        let mut packets = vec![vec![0; self.size]; BATCH];
        let mut tags = [[0; TAG_LEN]; BATCH];
        let mut batches = Vec::new();
        let begin = Instant::now();
        while begin.elapsed() < duration {
            // The same sequence numbers in every batch, and so the same nonces: nobody sees these packets.
            let seal_began = Instant::now();
            for ((seq, packet), tag) in (1..).zip(&mut packets).zip(&mut tags) {
                let (nonce, aad) = nonce_and_aad(seq);
                self.aead.seal(&nonce, aad.as_ref(), black_box(&plain), packet, tag);
            }
            let seal_ended = Instant::now();
            black_box((&mut packets, &mut tags));
            let opened = (1..).zip(&mut packets).zip(&tags).all(|((seq, packet), tag)| {
                let (nonce, aad) = nonce_and_aad(seq);
                self.aead.open(&nonce, aad.as_ref(), packet, tag).is_ok()
            });
            let spent = match self.operation {
                Operation::Seal => seal_ended - seal_began,
                Operation::Open => seal_ended.elapsed(),
            };
            batches.push(spent.as_nanos() as f64);
            ensure!(opened && packets[0] == plain, "{} does not open what it sealed with {}", self.backend, self.suite);
        }
        Ok(median(&batches) / BATCH as f64)
    }
}

fn nonce_and_aad(seq: u64) -> ([u8; esp::NONCE_LEN], esp::Aad) {
    let seq = black_box(seq);
    (esp::nonce([9; SALT_LEN], seq.to_be_bytes()), esp::Aad::new(Spi(esp::SPI_MIN), seq, true))
}

/// The name of a row in the report, such as `seal_aes-128-gcm_1400`.
fn work(operation: Operation, suite: Suite, size: usize) -> String {
    format!("{}_{suite}_{size}", operation.name())
}

/// A row per operation, suite and size; nanoseconds and rate per backend.
fn table(args: &CryptoArgs, report: &Report) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()));
    let headers = args.backends().into_iter().flat_map(|backend| [format!("{backend} ns"), "GB/s".to_owned()]);
    table.set_header(["", "suite", "bytes"].into_iter().map(str::to_owned).chain(headers));
    let number = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    for (operation, suite, size) in args.rows() {
        let mut row = vec![Cell::new(operation.name()), Cell::new(suite), number(size.to_string())];
        for backend in args.backends() {
            let work = work(operation, suite, size);
            let figure = |work: &str| report.median(backend.name(), work).unwrap_or_default();
            row.push(number(format!("{:.0}", figure(&work))));
            row.push(number(format!("{:.2}", figure(&format!("{work}_rate")))));
        }
        table.add_row(row);
    }
    table
}

impl Operation {
    const fn name(self) -> &'static str {
        match self {
            Operation::Seal => "seal",
            Operation::Open => "open",
        }
    }
}

fn parse_suite(name: &str) -> Result<Suite, String> {
    name.parse().map_err(|_| format!("expected one of {}", Suite::ALL.map(Suite::name).join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        crypto: CryptoArgs,
    }

    fn args(line: &str) -> CryptoArgs {
        Command::try_parse_from(line.split_whitespace()).expect("good arguments").crypto
    }

    #[test]
    fn every_suite_size_and_backend_gets_its_figures() {
        let report = measure(&args("crypto --rounds 3 --sample-ms 1 --size 64 --size 1400")).expect("measured");
        let cases = 2 * Suite::ALL.len() * 2 * Backend::usable().count();
        assert_eq!(report.results.len(), 2 * cases, "nanoseconds and rate of each case");
        for result in &report.results {
            assert!(result.samples.len() == 3 && result.median > 0.0, "{result:?}");
        }
        let ns = report.median("aws-lc", "seal_aes-128-gcm_1400").expect("measured");
        let rate = report.median("aws-lc", "seal_aes-128-gcm_1400_rate").expect("measured");
        assert!((ns * rate - 1400.0).abs() < 0.001, "{ns} ns at {rate} GB/s");
    }

    #[test]
    fn a_choice_of_cases_measures_only_those() {
        let args = args("crypto --rounds 1 --sample-ms 1 --suite chacha20-poly1305 --backend rustcrypto --size 100");
        let report = measure(&args).expect("measured");
        let works: Vec<&str> = report.results.iter().map(|result| result.work.as_str()).collect();
        let wanted = ["seal_chacha20-poly1305_100", "open_chacha20-poly1305_100"];
        assert_eq!(works, [wanted[0], "seal_chacha20-poly1305_100_rate", wanted[1], "open_chacha20-poly1305_100_rate"]);
        let table = table(&args, &report).to_string();
        assert!(table.contains("rustcrypto ns") && !table.contains("aws-lc"), "{table}");
    }

    #[test]
    fn an_unknown_suite_is_answered_with_the_known_ones() {
        let error = Command::try_parse_from(["crypto", "--suite", "des"]).err().expect("refused").to_string();
        assert!(error.contains("aes-128-gcm, aes-256-gcm, chacha20-poly1305"), "{error}");
    }
}
