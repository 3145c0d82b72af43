//! `adit-bench tunnel`: the same work over every system, interleaved.
//!
//! ```text
//! for each round:            A B C A B C …, so that a slow minute of the machine hits all of them
//!   for each system:
//!     fresh namespaces and cable ─▶ start both gateways ─▶ wait for an echo ─▶ warm up ─▶ each step ─▶ Report
//! after each round: the JSON file      at the end: the table with multiples of the baseline
//! ```

use std::path::PathBuf;
use std::time::Duration;

use adit_proto::suite::Suite;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::peers::{self, AditOptions, Ground, Options, PEERS, System, Underlay};
use crate::report::{Report, SystemFacts};
use crate::work::{Place, Step};

const WORKS: &str = "\
Works (each also yields the ones in parentheses):
  rtt_idle_us      round-trip time by ICMP echo every 2 ms, p50 (rtt_idle_p99_us, rtt_idle_p999_us)
  rtt_busy_us      the same beside a program that holds core 0 (rtt_busy_p99_us, rtt_busy_p999_us)
  tcp1             TCP, one stream (tcp1_retransmits; cpu_s_per_gbit, rss_mib: all processes of both gateways)
  tcp4             TCP, four streams (tcp4_retransmits)
  tcp1_reverse     TCP from the far end (tcp1_reverse_retransmits)
  tcp4_reverse     TCP from the far end, four streams (tcp4_reverse_retransmits)
  udp18, udp1350   datagrams of this payload that arrive when far too many are offered
                   (udp18_reordered, udp1350_reordered; udp18_loss, udp1350_loss at 100 000 packets/s)
  udp_alternating  the same with payloads of 18 and 1350 bytes in turn (udp_alternating_reordered)
  udp_flows        the same with 18 bytes from 64 source ports in turn (udp_flows_reordered)
  rtt_loaded_us    round-trip time beside one TCP stream, p99 (rtt_loaded_p50_us, rtt_loaded_p999_us, rtt_loaded_lost)
  mtu1400          TCP over two routers with a link of MTU 1400 between them, an error if it stands still
                   (mtu1400_reverse; mtu1400_udp_loss: datagrams of 1472 bytes)
  bridge1500       TCP from host to host, on LANs of 1500 bytes whose bridges the tunnel joins; plain and Adit only
                   (bridge1500_reverse, bridge1500_udp_loss)

Variants of Adit, in any combination: adit-1w (workers), adit-ike, adit-poll, adit-uring, adit-chacha, adit-aes256, adit-awslc,
adit-ipsecmb, adit-rustcrypto, adit-before (the programs in the folder of --before, for instance those of the commit before).
Every system may end in -mtuN for another MTU outside, e.g. adit-chacha-1w-mtu9000, wireguard-go-mtu9000.";

/// The same work over plain veth, Adit and every installed peer, host to host, in namespaces of its own
#[derive(Args, Debug)]
#[command(after_help = WORKS)]
pub struct TunnelArgs {
    /// Write all figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How often every system is measured
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// How long every single measurement takes
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// What to compare, e.g. plain,adit,adit-1w,wireguard-go [default: plain, adit, adit-chacha, and what is installed of
    /// wireguard-go, gotatun, boringtun, nebula, openvpn]
    #[arg(long, value_delimiter = ',')]
    systems: Vec<String>,
    /// Only these works, e.g. tcp1,udp18 [default: all]
    #[arg(long, value_delimiter = ',')]
    works: Vec<String>,
    /// The system whose multiples the table tells
    #[arg(long, default_value = "wireguard-go")]
    baseline: String,
    /// Workers of each Adit gateway [default: half of the cores, at least two where there are two]
    #[arg(long)]
    adit_workers: Option<usize>,
    /// Suite of Adit: aes-128-gcm, aes-256-gcm or chacha20-poly1305
    #[arg(long, default_value = "aes-128-gcm", value_parser = parse_suite)]
    suite: Suite,
    /// How Adit waits for packets: auto, io_uring or poll
    #[arg(long, default_value = "auto")]
    io: String,
    /// Adit's AEAD library: auto, aws-lc, ipsec-mb or rustcrypto
    #[arg(long, default_value = "auto")]
    crypto: String,
    /// A folder with another adit and adit-dataplane, which adit-before is
    #[arg(long, value_name = "FOLDER")]
    before: Option<PathBuf>,
    /// MTU of the cable; every system sets its inner MTU to fit
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u32).range(1280..=65535))]
    outer_mtu: u32,
}

fn parse_suite(name: &str) -> Result<Suite, String> {
    name.parse().map_err(|_| format!("there are {}", Suite::ALL.map(Suite::name).join(", ")))
}

/// Runs the command; an error when a measurement of plain or Adit failed, or when there was nothing to measure.
pub fn run(args: &TunnelArgs) -> Result<()> {
    ensure!(args.rounds > 0 && args.seconds > 0, "at least one round and one second");
    let systems = systems(args)?;
    let steps = steps(&args.works)?;
    let bar = progress_bar(u64::from(args.rounds) * (systems.len() * steps.len()) as u64);
    let mut report = Report::new();
    let mut failures: Vec<(String, String)> = Vec::new();
    for round in 1..=args.rounds {
        for system in &systems {
            let mut show = |text: &str| {
                bar.set_message(format!("round {round}/{} · {} · {text}", args.rounds, system.name()));
                if bar.is_hidden() {
                    eprintln!("round {round}/{} {} {text}", args.rounds, system.name());
                }
            };
            let turn = Turn {
                system: system.as_ref(),
                time: Duration::from_secs(args.seconds),
                report: &mut report,
                show: &mut show,
                bar: &bar,
                failures: Vec::new(),
            };
            for failure in turn.measure(&steps) {
                bar.suspend(|| eprintln!("adit-bench: round {round}, {}: {failure}", system.name()));
                failures.push((system.name().to_owned(), failure));
            }
        }
        if let Some(file) = &args.json {
            report.write(file)?;
        }
    }
    bar.finish_and_clear();
    print(&report, &args.baseline);
    let ours = |system: &str| system.starts_with("plain") || system.starts_with("adit");
    let serious = failures.iter().filter(|(system, _)| ours(system)).count();
    ensure!(serious == 0, "{serious} measurements failed, see above");
    ensure!(!report.results.is_empty(), "nothing was measured");
    Ok(())
}

/// One system in one round; what fails is kept and does not stop the rest.
struct Turn<'a> {
    system: &'a dyn System,
    time: Duration,
    report: &'a mut Report,
    show: &'a mut dyn FnMut(&str),
    bar: &'a ProgressBar,
    failures: Vec<String>,
}

impl Turn<'_> {
    /// Takes all steps, with the system started anew for each kind of ground.
    fn measure(mut self, steps: &[Step]) -> Vec<String> {
        for ground in [Ground::Cable, Ground::Routed, Ground::Bridged] {
            let steps: Vec<Step> = steps.iter().copied().filter(|step| step.ground() == ground).collect();
            let end = self.bar.position() + steps.len() as u64;
            if !steps.is_empty() && (ground != Ground::Bridged || self.system.carries_ethernet()) {
                self.measure_over(ground, &steps).unwrap_or_else(|error| self.failures.push(format!("{error:#}")));
            }
            self.bar.set_position(end);
        }
        self.failures
    }

    fn measure_over(&mut self, ground: Ground, steps: &[Step]) -> Result<()> {
        (self.show)("start");
        let (underlay, tunnel) = start(self.system, ground).with_context(|| format!("{ground:?}"))?;
        self.report.describe(SystemFacts {
            system: self.system.name().to_owned(),
            version: self.system.version(),
            cipher: self.system.cipher().to_owned(),
            outer_mtu: self.system.outer_mtu(),
            inner_mtu: underlay.inner_mtu(&tunnel)?,
        });
        let place = Place { underlay: &underlay, tunnel: &tunnel };
        if ground == Ground::Cable {
            (self.show)("warm-up");
            place.warm_up().context("warm-up")?;
        }
        for step in steps {
            (self.show)(step.works()[0]);
            match step.measure(&place, self.time) {
                Ok(figures) => {
                    figures.into_iter().for_each(|(work, unit, value)| self.report.add(self.system.name(), work, unit, value))
                }
                Err(error) => self.failures.push(format!("{}: {error:#}", step.works()[0])),
            }
            self.bar.inc(1);
        }
        Ok(())
    }
}

fn start(system: &dyn System, ground: Ground) -> Result<(Underlay, peers::Tunnel)> {
    let underlay = Underlay::new(ground, system.outer_mtu())?;
    let mut tunnel = system.start(&underlay)?;
    underlay.wait_until_up(&mut tunnel)?;
    Ok((underlay, tunnel))
}

/// The systems that were asked for, all of which must be there; or plain, Adit, also with the cipher of WireGuard, and what is found.
fn systems(args: &TunnelArgs) -> Result<Vec<Box<dyn System>>> {
    let cores = std::thread::available_parallelism()?.get();
    let workers = args.adit_workers.unwrap_or((cores / 2).clamp(2.min(cores), 8));
    let adit =
        AditOptions { workers, suite: args.suite, io: args.io.clone(), crypto: args.crypto.clone(), before: args.before.clone() };
    let options = Options { outer_mtu: args.outer_mtu, adit };
    if !args.systems.is_empty() {
        return args.systems.iter().map(|name| peers::find(name, &options)).collect();
    }
    let mut found = vec![peers::find("plain", &options)?, peers::find("adit", &options)?];
    if args.suite != Suite::ChaCha20Poly1305 {
        found.push(peers::find("adit-chacha", &options)?);
    }
    for name in PEERS {
        match peers::find(name, &options) {
            Ok(system) => found.push(system),
            Err(error) => eprintln!("adit-bench: without {name}: {error:#}"),
        }
    }
    Ok(found)
}

fn steps(works: &[String]) -> Result<Vec<Step>> {
    if works.is_empty() {
        return Ok(Step::ALL.into());
    }
    let mut steps = Vec::new();
    for work in works {
        let step = Step::of(work)?;
        if !steps.contains(&step) {
            steps.push(step);
        }
    }
    if steps.is_empty() {
        bail!("no work was named");
    }
    Ok(steps)
}

fn progress_bar(steps: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} (about {eta} left)") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

fn print(report: &Report, baseline: &str) {
    let has = |system: &str| report.results.iter().any(|result| result.system == system);
    let baseline = [baseline, "plain"].into_iter().find(|system| has(system));
    let machine = &report.machine;
    println!("{}, {} cores, Linux {}, commit {}", machine.cpu, machine.cores, machine.kernel, report.commit);
    println!("{}", report.systems_table());
    println!("{}", report.table(baseline));
    println!("Medians; ↓ marks works where less is better. TCP by iperf3; rtt_idle_us is p50, rtt_loaded_us p99.");
    if let Some(baseline) = baseline {
        println!("In parentheses: the multiple of {baseline}, which has a cipher and an MTU of its own, see the first table.");
    }
}
