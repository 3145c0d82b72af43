//! The systems that the tunnel bench compares: plain veth, Adit and its variants, and every peer that is installed.
//!
//! ```text
//! name ─▶ find() ─▶ System ─▶ start(Underlay) ─▶ Tunnel { processes, target }   drop: everything stops
//!
//!        ┌ namespace a ────────────┐   veth of the outer MTU   ┌ namespace b ────────────┐
//!        │ 10.77.0.1 ◀▶ gateway    │◀─── 192.0.2.0/24 (eth0) ─▶│ gateway ◀▶ 10.77.0.2    │
//!        └─────────────────────────┘                           └─────────────────────────┘
//! ```
//!
//! Programs are looked for in PATH, in the directories of the administrator, in Cargo's, and below `ADIT_BENCH_PEERS`
//! (default: the cache that `deploy/bench-peers.sh` fills).

mod adit;
mod ground;
mod nebula;
mod openvpn;
mod plain;
mod wireguard;

use std::env;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub use adit::AditOptions;
pub use ground::Ground;

use crate::netns::Netns;
use crate::process::{Process, Usage};
use crate::rtt;
use crate::workdir::WorkDir;
use ground::Laid;

/// The peers that are measured when nothing else is asked for, as far as they are installed.
pub const PEERS: [&str; 5] = ["wireguard-go", "gotatun", "boringtun", "nebula", "openvpn"];

/// The addresses of the cable.
const OUTER: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
/// The addresses inside the tunnel, of a /24.
const INNER: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(10, 77, 0, 2)];
/// Time for a handshake; nebula and OpenVPN need a second or two on a busy machine.
const HANDSHAKE: Duration = Duration::from_secs(20);

/// A kind of tunnel between the two namespaces.
pub trait System {
    /// The name in the report.
    fn name(&self) -> &str;

    /// MTU of the cable, in bytes of IP packet.
    fn outer_mtu(&self) -> u32;

    /// What seals the packets, by the names of Adit's suites; `none` for no tunnel.
    fn cipher(&self) -> &str;

    /// What the program calls itself.
    fn version(&self) -> String;

    /// Whether it carries Ethernet frames, and so can be a port of a bridge.
    fn carries_ethernet(&self) -> bool {
        false
    }

    /// Starts both gateways and returns when both are configured (the handshake may still go on).
    fn start(&self, underlay: &Underlay) -> Result<Tunnel>;
}

/// Two namespaces with a network between them, and a place for the files of one run.
pub struct Underlay {
    pub a: Netns,
    pub b: Netns,
    pub mtu: u32,
    dir: WorkDir,
    laid: Laid,
}

/// A tunnel that is up.
pub struct Tunnel {
    /// Everything that carries the tunnel.
    pub processes: Vec<Process>,
    /// The far end's address inside the tunnel.
    pub target: IpAddr,
    /// The tunnel's link in the near namespace.
    pub link: String,
}

/// What the command line says about the systems.
#[derive(Clone, Debug)]
pub struct Options {
    pub outer_mtu: u32,
    pub adit: AditOptions,
}

/// Finds a system by its name; the error says what is missing.
///
/// Names of Adit may carry variants: `adit-1w` (workers), `adit-ike` (keys by IKEv2), `adit-poll`, `adit-chacha`, `adit-aes256`,
/// `adit-awslc`, `adit-ipsecmb`, `adit-rustcrypto`, and several of them; every name may end in `-mtuN`.
pub fn find(name: &str, options: &Options) -> Result<Box<dyn System>> {
    let (base, outer_mtu) = match name.rsplit_once("-mtu") {
        Some((base, mtu)) => (base, mtu.parse().with_context(|| format!("`{name}`: no number after -mtu"))?),
        None => (name, options.outer_mtu),
    };
    Ok(match base {
        "plain" => Box::new(plain::Plain { name: name.into(), outer_mtu }),
        "wireguard-go" | "gotatun" | "boringtun" => Box::new(wireguard::WireGuard::find(name, base, outer_mtu)?),
        "nebula" => Box::new(nebula::Nebula::find(name, outer_mtu)?),
        "openvpn" => Box::new(openvpn::OpenVpn::find(name, outer_mtu)?),
        _ if base == "adit" || base.starts_with("adit-") => Box::new(adit::Adit::find(name, base, outer_mtu, &options.adit)?),
        _ => bail!("no system is called `{name}`; there are plain, adit and {}", PEERS.join(", ")),
    })
}

impl Underlay {
    /// Makes fresh namespaces, whose links to each other have this MTU.
    pub fn new(ground: Ground, mtu: u32) -> Result<Underlay> {
        let (a, b) = (Netns::new("bench-a")?, Netns::new("bench-b")?);
        let laid = ground.lay(&a, &b, mtu)?;
        Ok(Underlay { a, b, mtu, dir: WorkDir::new("bench")?, laid })
    }

    pub fn ground(&self) -> Ground {
        self.laid.ground()
    }

    /// Where traffic begins and ends: the gateways themselves, or hosts behind them.
    pub fn ends(&self) -> (&Netns, &Netns) {
        self.laid.hosts().unwrap_or((&self.a, &self.b))
    }

    /// A path in the directory of this run, which goes away with it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.file(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// The two sides with a letter for file names: (netns, letter, index of this side, index of the other).
    fn sides(&self) -> [(&Netns, char, usize, usize); 2] {
        [(&self.a, 'a', 0, 1), (&self.b, 'b', 1, 0)]
    }

    /// MTU of the tunnel's link, as the kernel says.
    pub fn inner_mtu(&self, tunnel: &Tunnel) -> Result<u32> {
        let text = self.a.run(&format!("ip -o link show dev {}", tunnel.link))?;
        let mtu = text.split_whitespace().skip_while(|word| *word != "mtu").nth(1);
        mtu.and_then(|mtu| mtu.parse().ok()).with_context(|| format!("no MTU in `{text}`"))
    }

    /// Waits until an echo comes back through the tunnel.
    pub fn wait_until_up(&self, tunnel: &mut Tunnel) -> Result<()> {
        let prober = self.ends().0.enter(|| rtt::Prober::start(tunnel.target, Duration::from_millis(20)))?;
        let answered = wait_for(HANDSHAKE, || {
            if let Some(process) = tunnel.processes.iter_mut().find_map(|process| (!process.is_running()).then_some(process)) {
                bail!("a gateway ended by itself:\n{}", process.log());
            }
            Ok(prober.so_far().1 > 0)
        });
        prober.stop(Duration::ZERO)?;
        if answered? {
            return Ok(());
        }
        let logs: Vec<String> = tunnel.processes.iter().map(Process::log).collect();
        bail!("no echo came through the tunnel within {HANDSHAKE:?}; the gateways say:\n{}", logs.join("\n--\n"))
    }
}

impl Tunnel {
    /// Processor time and memory of both gateways so far.
    pub fn usage(&self) -> Usage {
        self.processes
            .iter()
            .map(Process::usage)
            .fold(Usage::default(), |sum, one| Usage { cpu_s: sum.cpu_s + one.cpu_s, rss_mib: sum.rss_mib + one.rss_mib })
    }
}

/// Asks again and again until the answer is yes (true) or the time is over (false).
fn wait_for(timeout: Duration, mut question: impl FnMut() -> Result<bool>) -> Result<bool> {
    let deadline = std::time::Instant::now() + timeout;
    while !question()? {
        if std::time::Instant::now() >= deadline {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(true)
}

/// Finds a program, or says how to get it.
fn program(name: &str) -> Result<PathBuf> {
    let option = if ["gotatun", "boringtun-cli"].contains(&name) { " --cargo" } else { "" };
    places(name).into_iter().find(|path| path.is_file()).with_context(|| {
        format!(
            "`{name}` is not installed (not in PATH and not below {}); `deploy/bench-peers.sh{option}` brings it",
            peers_dir().display()
        )
    })
}

/// The first line that holds a number, of what a program prints when asked for its version.
fn version_of(program: &Path, option: &str) -> String {
    let output = Command::new(program).arg(option).output();
    let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| line.contains(|letter: char| letter.is_ascii_digit()));
    line.map_or_else(|| "unknown".to_owned(), |line| line.trim().to_owned())
}

fn places(name: &str) -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    places.extend(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    if let Some(home) = env::var_os("HOME") {
        places.push(Path::new(&home).join(".cargo/bin"));
    }
    let peers = peers_dir();
    places.push(peers.join("bin"));
    // Packages unpacked side by side: DIR/PACKAGE/usr/bin.
    for package in fs::read_dir(&peers).into_iter().flatten().flatten() {
        places.extend(["usr/bin", "usr/sbin", "bin"].map(|bin| package.path().join(bin)));
    }
    places.into_iter().map(|place| place.join(name)).collect()
}

/// Where unpacked peers are.
fn peers_dir() -> PathBuf {
    if let Some(dir) = env::var_os("ADIT_BENCH_PEERS") {
        return dir.into();
    }
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    cache.unwrap_or_else(|| "/var/cache".into()).join("adit-bench/peers")
}
