//! `adit-bench handshake`: what it costs to connect, for Adit's IKEv2 engine and for strongSwan, on the same two hosts.
//!
//! ```text
//! for each round: for each case (proof × key exchange): for each system
//!   fresh namespaces and cable ─▶ both ends of one system, each on a core of its own ─▶ handshakes one after the other
//!     ─▶ latency at the initiator (p50, p99), processor time of each end ─▶ handshakes per second of a core ─▶ Report
//! ```
//! A handshake is IKE_SA_INIT, IKE_INTERMEDIATE with ML-KEM, IKE_AUTH, until there are an IKE SA and a Child SA. Processor time is that
//! of the thread with the engine and of all threads of strongSwan's daemon, system calls included.

mod adit;
pub(crate) mod cpu;
mod swan;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::lab::interop::Release;
use crate::lab::interop::pki::KeyKind;
use crate::lab::interop::sites::Proof;
use crate::report::Report;

const WORKS: &str = "\
Works, for psk, ed25519 and ecdsa-p256, each with x25519 alone and with x25519-mlkem768, e.g. psk_x25519-mlkem768_p50:
  …_responder      handshakes per second of one core that does nothing else, at the end that answers
  …_initiator      the same at the end that begins
  …_p50, …_p99     time from the command until there are an IKE SA and a Child SA, one handshake at a time
  …_cpu            processor time of both ends for one handshake

Commands come over strongSwan's control socket; its ESP (kernel-libipsec) takes about 2 % of its time. Adit's engine hands keys to
a data plane that is not measured here. strongSwan 5.9 has no ML-KEM.";

/// Full IKEv2 handshakes per second of a core and their latency, for Adit's engine and for strongSwan
#[derive(Args, Debug)]
#[command(after_help = WORKS)]
pub struct HandshakeArgs {
    /// Write all figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How often every case is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Handshakes of each case in a round
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    count: u16,
    /// What to compare: adit, strongswan-6, strongswan-5.9 [default: adit, and what deploy/interop-peers.sh has brought]
    #[arg(long, value_delimiter = ',')]
    systems: Vec<String>,
    /// Only these cases, e.g. psk_x25519,ed25519_x25519-mlkem768 [default: all]
    #[arg(long, value_delimiter = ',')]
    cases: Vec<String>,
    /// The system whose multiples the table tells
    #[arg(long, default_value = "strongswan-6")]
    baseline: String,
}

/// Handshakes before those that are measured, so that code and tables are where they belong.
const WARM_UP: u16 = 5;

/// How both ends prove themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProofKind {
    Psk,
    Ed25519,
    EcdsaP256,
}

/// What is negotiated: always AES-256-GCM, HMAC-SHA2-384 and X25519.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Case {
    proof: ProofKind,
    /// And ML-KEM-768 in IKE_INTERMEDIATE.
    hybrid: bool,
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum System {
    Adit,
    StrongSwan(Release),
}

/// What was measured of some handshakes in a row.
#[derive(Debug, Default)]
struct Timing {
    latencies: Vec<Duration>,
    /// Processor time.
    initiator: Duration,
    responder: Duration,
}

/// Runs the command: measures, prints the table, writes the JSON when asked to.
pub fn run(args: &HandshakeArgs) -> Result<()> {
    let (systems, cases) = (systems(&args.systems)?, cases(&args.cases)?);
    let report = measure(args, &systems, &cases)?;
    let machine = &report.machine;
    println!("{}, {} cores, Linux {}, commit {}", machine.cpu, machine.cores, machine.kernel, report.commit);
    println!("{}", report.table(Some(&args.baseline)));
    println!("Medians of {} rounds of {} handshakes; ↓ marks works where less is better.", args.rounds, args.count);
    if let Some(file) = &args.json {
        report.write(file)?;
        println!("written to {}", file.display());
    }
    Ok(())
}

fn measure(args: &HandshakeArgs, systems: &[System], cases: &[Case]) -> Result<Report> {
    let pairs: Vec<(Case, System)> = cases
        .iter()
        .flat_map(|case| systems.iter().map(|system| (*case, *system)))
        .filter(|(case, system)| system.can(*case))
        .collect();
    let bar = progress_bar(u64::from(args.rounds) * u64::from(args.count) * pairs.len() as u64)?;
    let mut report = Report::new();
    for round in 1..=args.rounds {
        for (case, system) in &pairs {
            let what = format!("round {round}/{} · {} · {}", args.rounds, system.name(), case.name());
            bar.set_message(what.clone());
            let timing = system.measure(*case, args.count, &mut || bar.inc(1)).with_context(|| what)?;
            timing.report(&mut report, system.name(), &case.name())?;
        }
    }
    bar.finish_and_clear();
    Ok(report)
}

fn progress_bar(steps: u64) -> Result<ProgressBar> {
    let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} (about {eta} left)")?);
    bar.enable_steady_tick(Duration::from_millis(500));
    Ok(bar)
}

impl Case {
    fn all() -> Vec<Case> {
        let proofs = [ProofKind::Psk, ProofKind::Ed25519, ProofKind::EcdsaP256];
        proofs.into_iter().flat_map(|proof| [false, true].map(|hybrid| Case { proof, hybrid })).collect()
    }

    fn name(self) -> String {
        let proof = match self.proof {
            ProofKind::Psk => "psk",
            ProofKind::Ed25519 => "ed25519",
            ProofKind::EcdsaP256 => "ecdsa-p256",
        };
        format!("{proof}_x25519{}", if self.hybrid { "-mlkem768" } else { "" })
    }

    fn proof(self) -> Proof {
        match self.proof {
            ProofKind::Psk => Proof::Psk,
            ProofKind::Ed25519 => Proof::RawKeys(KeyKind::Ed25519),
            ProofKind::EcdsaP256 => Proof::RawKeys(KeyKind::EcdsaP256),
        }
    }
}

impl System {
    const ALL: [System; 3] = [System::Adit, System::StrongSwan(Release::Swan6), System::StrongSwan(Release::Swan5)];

    const fn name(self) -> &'static str {
        match self {
            System::Adit => "adit",
            System::StrongSwan(Release::Swan6) => "strongswan-6",
            System::StrongSwan(Release::Swan5) => "strongswan-5.9",
        }
    }

    fn can(self, case: Case) -> bool {
        self != System::StrongSwan(Release::Swan5) || !case.hybrid
    }

    fn measure(self, case: Case, count: u16, done: &mut dyn FnMut()) -> Result<Timing> {
        match self {
            System::Adit => adit::measure(case, count, done),
            System::StrongSwan(release) => swan::measure(release, case, count, done),
        }
    }
}

impl Timing {
    fn report(&self, report: &mut Report, system: &str, case: &str) -> Result<()> {
        let count = self.latencies.len() as f64;
        ensure!(count > 0.0 && !self.initiator.is_zero() && !self.responder.is_zero(), "nothing was measured: {self:?}");
        let mut sorted = self.latencies.clone();
        sorted.sort();
        let quantile = |of: f64| sorted[((count * of).ceil() as usize).clamp(1, sorted.len()) - 1].as_secs_f64() * 1e3;
        let mut add = |work: &str, unit: &str, value: f64| report.add(system, &format!("{case}_{work}"), unit, value);
        add("responder", "handshakes/s", count / self.responder.as_secs_f64());
        add("initiator", "handshakes/s", count / self.initiator.as_secs_f64());
        add("cpu", "ms", (self.initiator + self.responder).as_secs_f64() * 1e3 / count);
        add("p50", "ms", quantile(0.5));
        add("p99", "ms", quantile(0.99));
        Ok(())
    }
}

/// The systems that were asked for, or all that are there.
fn systems(names: &[String]) -> Result<Vec<System>> {
    if names.is_empty() {
        let is_there = |system: &System| match system {
            System::Adit => true,
            System::StrongSwan(release) => release.root().map_err(|error| eprintln!("adit-bench: {error:#}")).is_ok(),
        };
        return Ok(System::ALL.into_iter().filter(is_there).collect());
    }
    let known = System::ALL.map(System::name).join(", ");
    let find = |name: &String| System::ALL.into_iter().find(|system| system.name() == name);
    names.iter().map(|name| find(name).with_context(|| format!("there is no system {name}, only {known}"))).collect()
}

fn cases(names: &[String]) -> Result<Vec<Case>> {
    if names.is_empty() {
        return Ok(Case::all());
    }
    let known = Case::all().into_iter().map(Case::name).collect::<Vec<_>>().join(", ");
    let find = |name: &String| Case::all().into_iter().find(|case| case.name() == *name);
    names.iter().map(|name| find(name).with_context(|| format!("there is no case {name}, only {known}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_quantiles_come_from_the_times() {
        let latencies: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        let timing = Timing { latencies, initiator: Duration::from_secs(2), responder: Duration::from_millis(500) };
        let mut report = Report::new();
        timing.report(&mut report, "adit", "psk_x25519").expect("measured");
        let figure = |work: &str| report.median("adit", &format!("psk_x25519_{work}")).expect("measured");
        assert_eq!(["responder", "initiator", "cpu", "p50", "p99"].map(figure), [200.0, 50.0, 25.0, 50.0, 99.0]);
        assert!(Timing::default().report(&mut report, "adit", "psk_x25519").is_err());
    }

    #[test]
    fn systems_and_cases_are_found_by_their_names() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(systems(&names(&["strongswan-5.9", "adit"])).expect("known")[1], System::Adit);
        assert_eq!(cases(&names(&["psk_x25519-mlkem768"])).expect("known"), [Case { proof: ProofKind::Psk, hybrid: true }]);
        assert_eq!(cases(&[]).expect("all").len(), 6);
        assert!(systems(&names(&["libreswan"])).unwrap_err().to_string().contains("strongswan-6"));
        assert!(cases(&names(&["rsa"])).unwrap_err().to_string().contains("ecdsa-p256_x25519-mlkem768"));
    }
}
