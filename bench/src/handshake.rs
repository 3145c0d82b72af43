//! `adit-bench handshake`: what it costs to connect, for Adit's IKEv2 engine and for strongSwan, on the same two hosts.
//!
//! ```text
//! for each round: for each case (proof × key exchange): for each system
//!   fresh namespaces and cable ─▶ both ends of one system, each on a core of its own ─▶ handshakes one after the other
//!     ─▶ latency at the initiator (p50, p99), processor time of each end ─▶ handshakes per second of a core ─▶ Report
//! every second round in reverse order, so that nobody always comes after the same one
//! ```
//! A handshake is IKE_SA_INIT, IKE_INTERMEDIATE with ML-KEM, IKE_AUTH, until there are an IKE SA and a Child SA. Processor time is that
//! of the thread with the engine and of all threads of strongSwan's daemon, system calls included. Two builds of Adit are compared
//! as two programs, each with its own engine and bench (`builds.rs`).

mod adit;
mod builds;
pub(crate) mod cpu;
mod swan;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use builds::Build;
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
a data plane that is not measured here. strongSwan 5.9 has no ML-KEM.

With --before, adit is this program and adit-before the adit-bench in that folder, which should be built in the same way, for
instance from the commit before. For every round both are run anew, one after the other, and measure themselves. The ratios of
single rounds tell how sure that is: where 1 lies between the least and the most, nothing is shown. Chance alone has all ratios
of three rounds on one side of 1 for a work in four, of ten rounds for one in five hundred. A folder with this very program
shows what is noise.";

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
    /// What to compare: adit, adit-before, strongswan-6, strongswan-5.9 [default: adit, and what deploy/interop-peers.sh has
    /// brought; with --before adit and adit-before]
    #[arg(long, value_delimiter = ',')]
    systems: Vec<String>,
    /// A folder with another adit-bench, whose engine adit-before is
    #[arg(long, value_name = "FOLDER")]
    before: Option<PathBuf>,
    /// Only these cases, e.g. psk_x25519,ed25519_x25519-mlkem768 [default: all]
    #[arg(long, value_delimiter = ',')]
    cases: Vec<String>,
    /// The system whose multiples the table tells [default: strongswan-6; with --before adit-before]
    #[arg(long)]
    baseline: Option<String>,
}

/// The engine of this build, in the report and to the other build.
const ADIT: &str = "adit";
/// The engine of the other build.
const ADIT_BEFORE: &str = "adit-before";

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
#[derive(Clone, Debug, PartialEq, Eq)]
enum System {
    /// The engine in this process.
    Adit,
    /// One of two builds.
    Build(Build),
    StrongSwan(Release),
}

/// What a round tells of a case: the end of the work's name, and the unit.
const FIGURES: [(&str, &str); 5] =
    [("responder", "handshakes/s"), ("initiator", "handshakes/s"), ("cpu", "ms"), ("p50", "ms"), ("p99", "ms")];
/// The values, in that order.
type Figures = [f64; FIGURES.len()];

/// What was measured of some handshakes in a row.
#[derive(Debug, Default)]
struct Timing {
    latencies: Vec<Duration>,
    /// Processor time.
    initiator: Duration,
    responder: Duration,
}

/// Runs the command: measures, prints the tables, writes the JSON when asked to.
pub fn run(args: &HandshakeArgs) -> Result<()> {
    let (systems, cases) = (systems(&args.systems, args.before.as_deref())?, cases(&args.cases)?);
    let report = measure(args, &systems, &cases)?;
    let machine = &report.machine;
    println!("{}, {} cores, Linux {}, commit {}", machine.cpu, machine.cores, machine.kernel, report.commit);
    let usual = if args.before.is_some() { ADIT_BEFORE } else { "strongswan-6" };
    println!("{}", report.table(Some(args.baseline.as_deref().unwrap_or(usual))));
    println!("Medians of {} rounds of {} handshakes; ↓ marks works where less is better.", args.rounds, args.count);
    if let Some(before) = systems.iter().find_map(System::program_before) {
        println!("{ADIT_BEFORE} is {}.", before.display());
        if systems.iter().any(|system| system.name() == ADIT) {
            println!("{ADIT} as multiples of {ADIT_BEFORE}, round by round:\n{}", report.ratios(ADIT, ADIT_BEFORE));
        }
    }
    if let Some(file) = &args.json {
        report.write(file)?;
        println!("written to {}", file.display());
    }
    Ok(())
}

fn measure(args: &HandshakeArgs, systems: &[System], cases: &[Case]) -> Result<Report> {
    let mut pairs: Vec<(Case, &System)> = cases
        .iter()
        .flat_map(|case| systems.iter().map(|system| (*case, system)))
        .filter(|(case, system)| system.can(*case))
        .collect();
    let bar = progress_bar(u64::from(args.rounds) * u64::from(args.count) * pairs.len() as u64)?;
    let mut report = Report::new();
    for round in 1..=args.rounds {
        for (case, system) in &pairs {
            let what = format!("round {round}/{} · {} · {}", args.rounds, system.name(), case.name());
            bar.set_message(what.clone());
            let figures = system.measure(*case, args.count, &mut |handshakes| bar.inc(handshakes)).with_context(|| what)?;
            for (value, (figure, unit)) in figures.into_iter().zip(FIGURES) {
                report.add(system.name(), &format!("{}_{figure}", case.name()), unit, value);
            }
        }
        pairs.reverse();
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
    /// All but builds.
    const ALL: [System; 3] = [System::Adit, System::StrongSwan(Release::Swan6), System::StrongSwan(Release::Swan5)];

    const fn name(&self) -> &'static str {
        match self {
            System::Adit => ADIT,
            System::Build(build) => build.name,
            System::StrongSwan(Release::Swan6) => "strongswan-6",
            System::StrongSwan(Release::Swan5) => "strongswan-5.9",
        }
    }

    /// Finds a system by its name; with two builds, `adit` is one of them.
    fn find(name: &str, builds: &[System]) -> Result<System> {
        if let Some(system) = builds.iter().chain(&System::ALL).find(|system| system.name() == name) {
            return Ok(system.clone());
        }
        ensure!(name != ADIT_BEFORE, "{ADIT_BEFORE} needs its program: --before FOLDER");
        let known = System::ALL.each_ref().map(System::name).join(", ");
        bail!("there is no system {name}, only {known}, {ADIT_BEFORE}")
    }

    fn can(&self, case: Case) -> bool {
        *self != System::StrongSwan(Release::Swan5) || !case.hybrid
    }

    /// The program of the other build, if it is this system.
    fn program_before(&self) -> Option<&Path> {
        match self {
            System::Build(build) if build.name == ADIT_BEFORE => Some(&build.program),
            _ => None,
        }
    }

    /// Measures handshakes; `done` is told how many there are more.
    fn measure(&self, case: Case, count: u16, done: &mut dyn FnMut(u64)) -> Result<Figures> {
        match self {
            System::Adit => adit::measure(case, count, &mut || done(1))?.figures(),
            System::StrongSwan(release) => swan::measure(*release, case, count, &mut || done(1))?.figures(),
            System::Build(build) => {
                let figures = build.measure(case, count)?;
                done(count.into());
                Ok(figures)
            }
        }
    }
}

impl Timing {
    fn figures(&self) -> Result<Figures> {
        let count = self.latencies.len() as f64;
        ensure!(count > 0.0 && !self.initiator.is_zero() && !self.responder.is_zero(), "nothing was measured: {self:?}");
        let mut sorted = self.latencies.clone();
        sorted.sort();
        let quantile = |of: f64| sorted[((count * of).ceil() as usize).clamp(1, sorted.len()) - 1].as_secs_f64() * 1e3;
        let rates = [self.responder, self.initiator].map(|time| count / time.as_secs_f64());
        let cpu = (self.initiator + self.responder).as_secs_f64() * 1e3 / count;
        Ok([rates[0], rates[1], cpu, quantile(0.5), quantile(0.99)])
    }
}

/// The systems that were asked for; or two builds; or all that are there.
fn systems(names: &[String], before: Option<&Path>) -> Result<Vec<System>> {
    let builds: Vec<System> = before.map(Build::pair).transpose()?.into_iter().flatten().map(System::Build).collect();
    if names.is_empty() && !builds.is_empty() {
        return Ok(builds);
    }
    if names.is_empty() {
        let is_there = |system: &System| match system {
            System::StrongSwan(release) => release.root().map_err(|error| eprintln!("adit-bench: {error:#}")).is_ok(),
            System::Adit | System::Build(_) => true,
        };
        return Ok(System::ALL.into_iter().filter(is_there).collect());
    }
    let is_compared = names.iter().any(|name| name == ADIT_BEFORE);
    ensure!(builds.is_empty() || is_compared, "--before is for {ADIT_BEFORE}, which --systems does not name");
    names.iter().map(|name| System::find(name, &builds)).collect()
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
        assert_eq!(timing.figures().expect("measured"), [200.0, 50.0, 25.0, 50.0, 99.0]);
        assert!(Timing::default().figures().is_err());
    }

    #[test]
    fn systems_and_cases_are_found_by_their_names() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(systems(&names(&["strongswan-5.9", "adit"]), None).expect("known")[1], System::Adit);
        assert_eq!(cases(&names(&["psk_x25519-mlkem768"])).expect("known"), [Case { proof: ProofKind::Psk, hybrid: true }]);
        assert_eq!(cases(&[]).expect("all").len(), 6);
        assert!(systems(&names(&["libreswan"]), None).unwrap_err().to_string().contains("strongswan-6"));
        assert!(cases(&names(&["rsa"])).unwrap_err().to_string().contains("ecdsa-p256_x25519-mlkem768"));
    }
    #[test]
    fn another_build_makes_a_program_of_each() {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("adit-bench");
        std::fs::write(&program, "").expect("a file");
        let asked = |names: &str| {
            let names: Vec<String> = names.split_terminator(',').map(str::to_owned).collect();
            systems(&names, Some(folder.path()))
        };
        let both = asked("").expect("both");
        assert_eq!(both.iter().map(System::name).collect::<Vec<_>>(), ["adit", "adit-before"]);
        assert_eq!((both[0].program_before(), both[1].program_before()), (None, Some(program.as_path())));
        assert_eq!(asked("strongswan-6,adit-before,adit").expect("known")[1..], [both[1].clone(), both[0].clone()]);
        let error = |found: Result<Vec<System>>| found.expect_err("refused").to_string();
        assert!(error(asked("adit")).contains("does not name"));
        assert!(error(systems(&["adit-before".to_owned()], None)).contains("--before FOLDER"));
    }
}
