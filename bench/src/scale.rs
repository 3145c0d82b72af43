//! `adit-bench scale`: thousands of peers on one gateway: how fast they connect, what each costs, and whether they stay.
//!
//! ```text
//! namespace hub: a real gateway, N peers that may come ── veth ── namespace peers: N peers in one process (one engine, N sockets)
//!
//! connect all ─▶ hold them ─▶ ask for the status ─▶ kill -9 the control plane; the next one goes on ─▶ hold them
//! ```

mod peers;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use crate::lab::binary;
use crate::netns::{Netns, Signal, Veth};
use crate::process::{Process, cpu_s, data_kib};
use crate::report::Report;
use crate::workdir::WorkDir;
use peers::Peers;

/// Address and port of the gateway.
const HUB: &str = "192.0.2.1:4500";
const HUB_ADDRESS: &str = "192.0.2.1/24";
const PEERS_ADDRESS: &str = "192.0.2.2/24";
/// Without any news for so long, what is waited for does not come.
const PATIENCE: Duration = Duration::from_secs(30);

/// Thousands of peers on one gateway: handshakes, memory, whether they stay
#[derive(Args, Clone, Debug)]
pub struct ScaleArgs {
    /// Peers that connect
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    peers: u32,
    /// Handshakes that are under way at once
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    at_once: u32,
    /// Workers of the gateway
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// Seconds for which all are held, before and after the control plane is killed
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Write the figures to this file as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The gateway.
struct Hub {
    netns: Netns,
    config: PathBuf,
    log: PathBuf,
    control: Process,
}

/// Processor time and memory of both planes.
#[derive(Clone, Copy, Debug)]
struct Cost {
    control_s: f64,
    data_s: f64,
    control_kib: f64,
    data_kib: f64,
}

/// Runs the command; an error when not all peers could connect and stay.
pub fn run(args: &ScaleArgs) -> Result<()> {
    let mut report = Report::new();
    measure(args, &mut report)?;
    if let Some(file) = &args.json {
        report.write(file)?;
    }
    println!("{}", report.table(None));
    println!("Handshakes and KiB per peer are of the last three quarters of the peers; shared memory counts in both processes.");
    Ok(())
}

fn measure(args: &ScaleArgs, report: &mut Report) -> Result<()> {
    let dir = WorkDir::new("scale")?;
    let (netns, far) = (Netns::new("hub")?, Netns::new("peers")?);
    let _cable = Veth::between(&netns, "wan0", &far, "wan0", 1500)?;
    netns.address("wan0", HUB_ADDRESS)?;
    far.address("wan0", PEERS_ADDRESS)?;
    let mut hub = Hub::start(netns, &dir, args)?;
    let mut peers = Peers::new(&far, HUB.parse()?, args.peers)?;
    let bar = progress(args.peers);
    let mut add = |work: &str, unit: &str, value: f64| report.add("adit", work, unit, value);

    // Buffers and tables that the first peers fill are no cost of those that follow.
    let first = args.peers / 4;
    connect(&mut peers, first, args.at_once, &bar)?;
    let (before, began) = (hub.cost()?, Instant::now());
    connect(&mut peers, args.peers, args.at_once, &bar)?;
    let (took, after) = (began.elapsed().as_secs_f64(), hub.cost()?);
    let count = f64::from(args.peers - first);
    add("peers", "connected", f64::from(peers.up));
    add("handshakes", "1/s", count / took);
    add("control_cpu", "ms per handshake", (after.control_s - before.control_s) / count * 1e3);
    add("control_memory", "KiB per peer", (after.control_kib - before.control_kib) / count);
    add("data_memory", "KiB per peer", (after.data_kib - before.data_kib) / count);

    hold(&mut peers, &hub, args.seconds, "hold", &bar, &mut add)?;
    let asked = Instant::now();
    let status = peers.beside(|| hub.status())?;
    add("status", "ms", asked.elapsed().as_secs_f64() * 1e3);
    let established =
        status["peers"].as_array().map_or(0, |peers| peers.iter().filter(|peer| peer["state"] == "established").count());
    ensure!(established == args.peers as usize, "the status tells {established} of {} peers", args.peers);

    bar.set_message("kill -9 of the control plane");
    let killed = Instant::now();
    hub.replace_control()?;
    peers.until("the next control plane goes on with all IKE SAs", |_| Ok(hub.log()?.contains("IKE SAs: ")))?;
    add("takeover", "ms", killed.elapsed().as_secs_f64() * 1e3);
    hold(&mut peers, &hub, args.seconds, "hold_after_kill", &bar, &mut add)?;
    ensure!(peers.handshakes == args.peers, "{} handshakes for {} peers", peers.handshakes, args.peers);
    bar.finish_and_clear();
    hub.control.terminate(Duration::from_secs(60))?;
    Ok(())
}

/// Connects peers, so many at once, until `all` of them are.
fn connect(peers: &mut Peers, all: u32, at_once: u32, bar: &ProgressBar) -> Result<()> {
    bar.set_message("connect");
    let (mut last, mut moved) = (peers.up, Instant::now());
    while peers.up < all {
        peers.connect(at_once.min(all - peers.up))?;
        peers.turn(Duration::from_millis(100))?;
        bar.set_position(peers.up.into());
        if peers.up > last {
            (last, moved) = (peers.up, Instant::now());
        }
        if moved.elapsed() > PATIENCE {
            bail!("{} of {all} peers connected, and then none for {PATIENCE:?}: {}", peers.up, peers.complaint());
        }
    }
    Ok(())
}

/// Keeps all peers for some seconds, in which none may be lost.
fn hold(
    peers: &mut Peers,
    hub: &Hub,
    seconds: u64,
    name: &str,
    bar: &ProgressBar,
    add: &mut impl FnMut(&str, &str, f64),
) -> Result<()> {
    bar.set_message(name.to_owned());
    let (before, until) = (hub.cost()?, Instant::now() + Duration::from_secs(seconds));
    let all = peers.up;
    while Instant::now() < until {
        peers.turn(Duration::from_millis(100))?;
    }
    ensure!(peers.up == all && peers.lost == 0, "{} of {all} peers were lost: {}", peers.lost, peers.complaint());
    let after = hub.cost()?;
    add(&format!("{name}_control_cpu"), "% of a core", (after.control_s - before.control_s) / seconds as f64 * 100.0);
    add(&format!("{name}_data_cpu"), "% of a core", (after.data_s - before.data_s) / seconds as f64 * 100.0);
    Ok(())
}

impl Hub {
    fn start(netns: Netns, dir: &WorkDir, args: &ScaleArgs) -> Result<Hub> {
        let (config, log) = (dir.path().join("hub.yaml"), dir.path().join("hub.log"));
        let key = dir.path().join("scale.psk");
        fs::write(&key, peers::PSK)?;
        fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        fs::write(&config, configuration(args, &dir.path().display().to_string())?)?;
        let control = start(&netns, &config, &log)?;
        let mut hub = Hub { netns, config, log, control };
        hub.control.wait_for_line("ready", PATIENCE)?;
        Ok(hub)
    }

    fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }

    /// Kills the control plane and starts another one, whose log is one of its own.
    fn replace_control(&mut self) -> Result<()> {
        self.control.signal(Signal::Kill)?;
        self.control.wait(Duration::from_secs(5))?;
        self.log = self.log.with_extension("second.log");
        self.control = start(&self.netns, &self.config, &self.log)?;
        Ok(())
    }

    fn data_plane(&self) -> Result<u32> {
        let is_it = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "adit-dataplane");
        self.netns.processes().into_iter().find(is_it).context("the gateway has no data plane")
    }

    fn cost(&self) -> Result<Cost> {
        let (control, data) = (self.control.pid(), self.data_plane()?);
        Ok(Cost { control_s: cpu_s(control), data_s: cpu_s(data), control_kib: data_kib(control), data_kib: data_kib(data) })
    }

    fn status(&self) -> Result<serde_json::Value> {
        let line = format!("{} status --json -c {}", binary("adit")?.display(), self.config.display());
        Ok(serde_json::from_str(&self.netns.run(&line)?)?)
    }
}

fn start(netns: &Netns, config: &std::path::Path, log: &std::path::Path) -> Result<Process> {
    Process::start(netns.command(binary("adit")?).arg("run").arg("-c").arg(config), log)
}

fn configuration(args: &ScaleArgs, dir: &str) -> Result<String> {
    let peer = |n| format!("  - {{ name: {}, lanes: 1, ike: {{ psk_file: scale.psk, role: responder }} }}\n", peers::name(n));
    let peers: String = (0..args.peers).map(peer).collect();
    Ok(format!(
        "name: {hub}\nlisten: {HUB}\ninterface: {{ name: adit0 }}\nruntime_dir: {dir}/run\nstate_dir: {dir}/state\n\
         dataplane: {{ binary: {program}, workers: {workers} }}\npeers:\n{peers}",
        hub = peers::HUB_ID,
        program = binary("adit-dataplane")?.display(),
        workers = args.workers,
    ))
}

fn progress(peers: u32) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}").unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(peers.into()).with_style(style)
}
