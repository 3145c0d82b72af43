//! Two or three real gateways in namespaces of their own, as the end-to-end tests and the tunnel bench use them.
//!
//! ```text
//!  gateway a               gateway b            with three gateways:   a ── wan0 ┐
//!  adit0 10.77.0.1/24      adit0 10.77.0.2/24                          b ── wan0 ┼ bridge in the namespace `switch`
//!  wan0  192.0.2.1/24 ──── wan0  192.0.2.2/24                          c ── wan0 ┘
//! ```
//!
//! `Lab::start` writes keys and configurations into a temporary directory, starts `adit run` in every namespace and returns when
//! every gateway has been answered by every other one through the tunnel. Dropping the lab ends every process and removes the rest.
//! Labs of all processes on a machine come one after the other, because they share its cores; a [`Turn`] says which may do otherwise.

pub mod capture;
pub mod halfway;
pub mod insider;
pub mod interop;
pub mod machine;
pub mod metrics;
pub mod router;
pub mod stranger;
pub mod surroundings;
pub mod tagger;
pub mod traffic;
pub mod tshark;

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::netns::{Netns, Signal, Veth, signal};
use crate::process::{Process, is_running};
use crate::workdir::WorkDir;
use metrics::Metrics;

/// The TAP of every gateway.
pub const TAP: &str = "adit0";
/// The link of every gateway to the others.
pub const WAN: &str = "wan0";
/// UDP port of every gateway.
pub const PORT: u16 = 4500;
/// For what takes milliseconds on an idle machine, and may have to wait for its cores on a busy one. Only a failure waits so long.
pub const SOON: Duration = Duration::from_secs(60);
/// TCP port of every gateway, on the loopback interface, for metrics and the API.
pub const METRICS_PORT: u16 = 9464;

/// What a lab runs beside on its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing: something is measured in it.
    Alone,
    /// Others of its kind: nothing is measured, and most of its time is waiting, for retransmissions say.
    Shared,
    /// Everything but its like, which has this name.
    Beside(&'static str),
}

/// What the gateways of a lab have in common, and what differs.
#[derive(Clone, Debug)]
pub struct LabOptions {
    /// Two, joined by a veth pair, or three, on a bridge.
    pub gateways: usize,
    /// Workers of each gateway; the last entry holds for the rest.
    pub workers: Vec<u16>,
    /// SAs per direction and pair of gateways; the program's own choice when left out.
    pub lanes: Option<u16>,
    /// The gateways carry IP packets instead of Ethernet frames: each has its inner address, and the network 10.78.NUMBER.0/24.
    pub ip_mode: bool,
    /// `auto`, `io_uring` or `poll`.
    pub io: &'static str,
    /// `auto`, `aws-lc`, `ipsec-mb` or `rustcrypto`.
    pub crypto: &'static str,
    /// As `adit keygen --suite` takes it.
    pub suite: &'static str,
    /// MTU of the links between the gateways.
    pub outer_mtu: u16,
    /// MTU of the TAPs; the program's own choice when left out.
    pub inner_mtu: Option<u16>,
    /// The gateways talk over IPv6.
    pub outer_ipv6: bool,
    /// The first gateway is a hub, and the others know only it.
    pub star: bool,
    /// Flooded frames per second.
    pub flood_pps: Option<u32>,
    /// Whether inner checksums may stay open between the gateways; the program's own choice when left out.
    pub defer_checksums: Option<bool>,
    /// Keys by IKE with a preshared key instead of a static key: what stands in the peer's block `ike` beside `psk_file`, such as
    /// `role: responder`. One for each gateway; the last entry holds for the rest, and with none there is no IKE.
    pub ike: Vec<String>,
    /// What it may run beside.
    pub turn: Turn,
}

impl Default for LabOptions {
    fn default() -> LabOptions {
        LabOptions {
            gateways: 2,
            workers: vec![1],
            lanes: None,
            ip_mode: false,
            io: "auto",
            crypto: "auto",
            suite: "aes-128-gcm",
            outer_mtu: 1500,
            inner_mtu: None,
            outer_ipv6: false,
            star: false,
            flood_pps: None,
            defer_checksums: None,
            ike: Vec::new(),
            turn: Turn::Alone,
        }
    }
}

impl LabOptions {
    /// The default for a lab that measures nothing and waits most of its time.
    pub fn patient() -> LabOptions {
        LabOptions { turn: Turn::Shared, ..LabOptions::default() }
    }
}

/// Running gateways. Fields are dropped in this order: processes first, then cables and namespaces, then files, then the lock.
#[derive(Debug)]
pub struct Lab {
    pub gateways: Vec<Gateway>,
    _cables: Vec<Veth>,
    _switch: Option<Netns>,
    dir: WorkDir,
    _turn: File,
}

/// One gateway: its namespace, its files and its control plane.
#[derive(Debug)]
pub struct Gateway {
    /// `site-a`, `site-b`, `site-c`.
    pub name: String,
    pub netns: Netns,
    pub config: PathBuf,
    /// 1 for `site-a`, and so on: the last part of every address.
    pub number: u8,
    outer_ipv6: bool,
    log: PathBuf,
    control: Option<Process>,
}

impl Lab {
    /// Starts the gateways and waits until the tunnel between every two of them carries packets.
    pub fn start(options: &LabOptions) -> Result<Lab> {
        let mut lab = Lab::prepare(options)?;
        for gateway in &mut lab.gateways {
            gateway.start_control()?;
        }
        lab.wait_until_up()?;
        Ok(lab)
    }

    /// Everything short of starting the gateways: namespaces, cables, keys, configurations.
    pub fn prepare(options: &LabOptions) -> Result<Lab> {
        ensure!(is_root(), "the lab needs root, or the root of a user namespace (unshare --user --map-root-user --net --mount)");
        ensure!((2..=3).contains(&options.gateways), "a lab has two or three gateways, not {}", options.gateways);
        let turn = take_turn(options.turn)?;
        let dir = WorkDir::new("lab")?;
        let names = ["site-a", "site-b", "site-c"];
        write_keys(dir.path(), &names[..options.gateways], options.suite)?;
        let mut gateways = Vec::new();
        for number in 1..=options.gateways {
            let name = names[number - 1];
            let config = dir.path().join(format!("{name}.yaml"));
            fs::write(&config, configuration(options, &names[..options.gateways], number, dir.path())?)?;
            gateways.push(Gateway {
                name: name.to_owned(),
                netns: Netns::new(name)?,
                config,
                number: number as u8,
                outer_ipv6: options.outer_ipv6,
                log: dir.path().join(format!("{name}.log")),
                control: None,
            });
        }
        let (cables, switch) = join(&gateways, options.outer_mtu)?;
        Ok(Lab { gateways, _cables: cables, _switch: switch, dir, _turn: turn })
    }

    /// The first gateway.
    pub fn a(&self) -> &Gateway {
        &self.gateways[0]
    }

    /// The second gateway.
    pub fn b(&self) -> &Gateway {
        &self.gateways[1]
    }

    /// The directory with keys, configurations, logs and sockets.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Waits until every gateway has been answered by every other one through the tunnel.
    pub fn wait_until_up(&mut self) -> Result<()> {
        let deadline = Instant::now() + SOON;
        for from in 0..self.gateways.len() {
            for to in (0..self.gateways.len()).filter(|to| *to != from) {
                let address = self.gateways[to].inner();
                while self.gateways[from].netns.run(&format!("ping -n -c1 -W1 {address}")).is_err() {
                    for gateway in &mut self.gateways {
                        if gateway.control.as_mut().is_some_and(|control| !control.is_running()) {
                            bail!("{} ended before the tunnel was up; its log:\n{}", gateway.name, gateway.log());
                        }
                    }
                    if Instant::now() > deadline {
                        bail!("the tunnel did not come up within {SOON:?}; the logs:\n{}", self.logs());
                    }
                    thread::sleep(Duration::from_millis(5));
                }
            }
        }
        Ok(())
    }

    /// What all gateways have logged.
    pub fn logs(&self) -> String {
        self.gateways.iter().map(|gateway| format!("── {}\n{}\n", gateway.name, gateway.log())).collect()
    }
}

impl Gateway {
    /// The command that [`Gateway::start_control`] runs, for tests that change its surroundings.
    pub fn command(&self) -> Result<Command> {
        let mut command = self.netns.command(binary("adit")?);
        command.arg("run").arg("-c").arg(&self.config);
        Ok(command)
    }

    /// Starts `adit run`. What it and its data plane write is appended to the gateway's log.
    pub fn start_control(&mut self) -> Result<()> {
        let mut command = self.command()?;
        self.start(&mut command)
    }

    /// Starts a changed [`Gateway::command`].
    pub fn start(&mut self, command: &mut Command) -> Result<()> {
        self.control = Some(Process::start(command, &self.log)?);
        Ok(())
    }

    /// The control plane.
    pub fn control(&mut self) -> Result<&mut Process> {
        self.control.as_mut().with_context(|| format!("{} was not started", self.name))
    }

    /// Kills the control plane with SIGKILL. Its data plane stays and goes on forwarding.
    pub fn kill_control(&mut self) -> Result<()> {
        let control = self.control()?;
        control.signal(Signal::Kill)?;
        control.wait(SOON)?;
        // Not dropped before it has ended: dropping a running process ends its children too.
        self.control = None;
        Ok(())
    }

    /// Asks the gateway to stop and waits until both of its processes have ended.
    pub fn stop(&mut self) -> Result<()> {
        let status = self.control()?.terminate(SOON)?;
        self.control = None;
        ensure!(status.success(), "{} ended with {status}; its log:\n{}", self.name, self.log());
        wait_until("the data plane ends", SOON, || Ok(self.data_plane().is_none()))
    }

    /// Process id of the data plane, if there is one.
    pub fn data_plane(&self) -> Option<u32> {
        let is_data_plane = |pid: &u32| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.trim_end() == "adit-dataplane" && is_running(*pid)
        };
        self.netns.processes().into_iter().find(is_data_plane)
    }

    /// Kills the data plane with SIGKILL and returns the process id that it had, once its sockets are free.
    pub fn kill_data_plane(&self) -> Result<u32> {
        let pid = self.data_plane().with_context(|| format!("{} has no data plane", self.name))?;
        signal(pid, Signal::Kill)?;
        wait_until("the data plane ends", SOON, || Ok(!is_running(pid)))?;
        Ok(pid)
    }

    /// All that both planes have logged since the lab was prepared.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Waits until a line of the log contains `text`, and returns the line.
    pub fn wait_for_log(&self, text: &str, timeout: Duration) -> Result<String> {
        let mut found = None;
        wait_until(&format!("{} logs `{text}`", self.name), timeout, || {
            found = self.log().lines().find(|line| line.contains(text)).map(str::to_owned);
            Ok(found.is_some())
        })
        .with_context(|| format!("the log:\n{}", self.log()))?;
        found.context("the line was there")
    }

    /// The address inside the tunnel.
    pub fn inner(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, self.number)
    }

    /// The IPv6 address inside the tunnel.
    pub fn inner6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, self.number.into())
    }

    /// The address on the outer link that the peers know.
    pub fn outer(&self) -> IpAddr {
        outer(self.number, self.outer_ipv6)
    }

    /// MAC address of the TAP.
    pub fn mac(&self) -> [u8; 6] {
        [2, 0, 0, 0, 0x77, self.number]
    }

    /// The page `/metrics` as it is now.
    pub fn metrics_page(&self) -> Result<String> {
        metrics::fetch(&self.netns, METRICS_PORT, "/metrics").with_context(|| format!("metrics of {}", self.name))
    }

    /// All metrics as they are now.
    pub fn metrics(&self) -> Result<Metrics> {
        Metrics::parse(&self.metrics_page()?)
    }

    /// What `adit status --json` says, as soon as all of that is of now: a busy gateway says how old it is.
    pub fn status(&self) -> Result<Value> {
        let mut status = Value::Null;
        wait_until("status is of now", SOON, || {
            status = serde_json::from_str(&self.adit("status --json")?)?;
            Ok(status["control_plane"]["as_of_s"].is_null())
        })?;
        Ok(status)
    }

    /// Runs a command of `adit` that reads the gateway's configuration, and returns its output.
    pub fn adit(&self, line: &str) -> Result<String> {
        self.netns.run(&format!("{} {line} -c {}", binary("adit")?.display(), self.config.display()))
    }
}

/// A program of the workspace: in the directory that ADIT_BIN_DIR names, else in the build directory of the running executable.
pub fn binary(name: &str) -> Result<PathBuf> {
    let dir = match std::env::var_os("ADIT_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let exe = std::env::current_exe()?;
            let dir = exe.parent().context("the executable has no directory")?;
            // Test executables live in `deps` below the directory of the programs.
            if dir.ends_with("deps") { dir.parent().context("deps has no parent")?.to_owned() } else { dir.to_owned() }
        }
    };
    let path = dir.join(name);
    ensure!(
        path.is_file(),
        "{} is missing: run `cargo build --workspace --bins` with the same profile, or set ADIT_BIN_DIR",
        path.display()
    );
    Ok(path)
}

/// A program of another build of this project, in a folder of its own.
pub fn binary_in(folder: &Path, name: &str) -> Result<PathBuf> {
    let path = std::path::absolute(folder.join(name))?;
    ensure!(path.is_file(), "there is no {}", path.display());
    Ok(path)
}

/// Waits until `condition` holds; `what` names the event in the error.
pub fn wait_until(what: &str, timeout: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + timeout;
    while !condition()? {
        ensure!(Instant::now() < deadline, "{timeout:?} went by before {what}");
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// What `changing` and `other` say of the same moment: both are asked until `changing` says the same before and after `other` was asked.
pub fn at_one_moment<T: PartialEq, U>(
    mut changing: impl FnMut() -> Result<T>,
    mut other: impl FnMut() -> Result<U>,
) -> Result<(T, U)> {
    let deadline = Instant::now() + SOON;
    let mut before = changing()?;
    loop {
        let said = other()?;
        let after = changing()?;
        if after == before {
            return Ok((after, said));
        }
        ensure!(Instant::now() < deadline, "{SOON:?} went by without two moments that are alike");
        before = after;
    }
}

fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status.lines().find_map(|line| line.strip_prefix("Uid:")).is_some_and(|ids| ids.split_whitespace().nth(1) == Some("0"))
    })
}

/// Copies one of our programs so that it can be run at once. Not with [`fs::copy`]: a thread that starts a process meanwhile would hand
/// the file on while it is open for writing, and then it cannot be executed (ETXTBSY).
pub fn copy_program(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("--").args([from, to]).status().context("cannot run cp")?;
    ensure!(status.success(), "cannot copy {} to {}", from.display(), to.display());
    Ok(())
}

/// Holds the machine-wide lock of labs until the file is dropped.
pub fn take_turn(turn: Turn) -> Result<File> {
    let name = if let Turn::Beside(name) = turn { name } else { "lab" };
    let path = std::env::temp_dir().join(format!("adit-{name}.lock"));
    let file = open_lock(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let locked = if turn == Turn::Shared { file.lock_shared() } else { file.lock() };
    locked.with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// The file may be another user's: that one is only read, and opened without O_CREAT, which fs.protected_regular would refuse even
/// to root.
fn open_lock(path: &Path) -> io::Result<File> {
    loop {
        match File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened,
        }
        match File::options().write(true).create_new(true).mode(0o644).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made,
        }
    }
}

fn key_file(dir: &Path, one: &str, other: &str) -> PathBuf {
    let (low, high) = if one < other { (one, other) } else { (other, one) };
    dir.join(format!("{low}-{high}.key"))
}

fn write_keys(dir: &Path, names: &[&str], suite: &str) -> Result<()> {
    for (index, one) in names.iter().enumerate() {
        for other in &names[index + 1..] {
            let file = key_file(dir, one, other);
            let keygen = |args: &[&str], file: &Path| -> Result<()> {
                let output = Command::new(binary("adit")?).arg("keygen").args(args).arg("-o").arg(file).output()?;
                ensure!(output.status.success(), "adit keygen failed: {}", String::from_utf8_lossy(&output.stderr));
                Ok(())
            };
            keygen(&["--suite", suite], &file)?;
            keygen(&["psk"], &psk_file(&file))?;
        }
    }
    Ok(())
}

/// The preshared key for IKE beside the static key of a pair.
fn psk_file(key_file: &Path) -> PathBuf {
    key_file.with_extension("psk")
}

fn outer(number: u8, ipv6: bool) -> IpAddr {
    if ipv6 { Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()).into() } else { Ipv4Addr::new(192, 0, 2, number).into() }
}

/// What gateway `number` says of its interface.
fn addresses(ip_mode: bool, number: usize) -> String {
    if ip_mode {
        format!("addresses: [10.77.0.{number}/32, 10.78.{number}.1/24, \"fd77::{number}/128\"]")
    } else {
        format!("mac: \"02:00:00:00:77:{number:02x}\", addresses: [10.77.0.{number}/24, \"fd77::{number}/64\"]")
    }
}

/// Which packets of gateway `number` are for `peer` in IP mode.
fn selectors(number: usize, peer: usize) -> String {
    let pair = |local: String, remote: String| format!("{{ local: {local}, remote: {remote} }}");
    let hosts = pair(format!("10.77.0.{number}"), format!("10.77.0.{peer}"));
    let networks = pair(format!("10.78.{number}.0/24"), format!("10.78.{peer}.0/24"));
    let hosts6 = pair(format!("\"fd77::{number}/128\""), format!("\"fd77::{peer}/128\""));
    format!(", selectors: [{hosts}, {networks}, {hosts6}]")
}

/// The YAML file of gateway `number` (from 1).
fn configuration(options: &LabOptions, names: &[&str], number: usize, dir: &Path) -> Result<String> {
    let name = names[number - 1];
    let optional = |key: &str, value: Option<String>| value.map(|value| format!(", {key}: {value}")).unwrap_or_default();
    let mtu = optional("mtu", options.inner_mtu.map(|mtu| mtu.to_string()));
    let workers = options.workers.get(number - 1).or(options.workers.last()).copied().unwrap_or(1);
    let lanes = optional("lanes", options.lanes.map(|lanes| lanes.to_string()));
    let defer = optional("defer_checksums", options.defer_checksums.map(|defer| defer.to_string()));
    let peers: String = (1..=names.len())
        .filter(|peer| *peer != number && (!options.star || *peer == 1 || number == 1))
        .map(|peer| {
            let endpoint = std::net::SocketAddr::new(outer(peer as u8, options.outer_ipv6), PORT);
            let key = key_file(dir, name, names[peer - 1]);
            let keys = match options.ike.get(number - 1).or(options.ike.last()) {
                None => format!("static_key_file: {}", key.display()),
                Some(more) if more.is_empty() => format!("ike: {{ psk_file: {} }}", psk_file(&key).display()),
                Some(more) => format!("ike: {{ psk_file: {}, {more} }}", psk_file(&key).display()),
            };
            let selectors = if options.ip_mode { selectors(number, peer) } else { String::new() };
            format!("  - {{ name: {}, endpoint: \"{endpoint}\", {keys}{lanes}{defer}{selectors} }}\n", names[peer - 1])
        })
        .collect();
    let flood = options.flood_pps.map(|pps| format!("flood_pps: {pps}"));
    let hub = (options.star && number == 1).then(|| "forward: true".to_owned());
    let forwarding: Vec<String> = flood.into_iter().chain(hub).collect();
    let forwarding = if forwarding.is_empty() { String::new() } else { format!("forwarding: {{ {} }}\n", forwarding.join(", ")) };
    Ok(format!(
        "name: {name}\n\
         listen: \"{listen}\"\n\
         underlay_mtu: {outer_mtu}\n\
         mode: {mode}\n\
         interface: {{ name: {TAP}, {addresses}{mtu} }}\n\
         dataplane: {{ binary: {dataplane}, workers: {workers}, io: {io}, crypto: {crypto} }}\n\
         {forwarding}peers:\n{peers}\
         metrics: {{ listen: 127.0.0.1:{METRICS_PORT} }}\n\
         runtime_dir: {dir}/run-{name}\n\
         state_dir: {dir}/state-{name}\n",
        listen = std::net::SocketAddr::new(outer(number as u8, options.outer_ipv6), PORT),
        outer_mtu = options.outer_mtu,
        mode = if options.ip_mode { "ip" } else { "ethernet" },
        addresses = addresses(options.ip_mode, number),
        dataplane = binary("adit-dataplane")?.display(),
        io = options.io,
        crypto = options.crypto,
        dir = dir.display(),
    ))
}

/// Lays the cables and gives the outer addresses.
fn join(gateways: &[Gateway], mtu: u16) -> Result<(Vec<Veth>, Option<Netns>)> {
    let mut cables = Vec::new();
    let mut switch = None;
    if let [a, b] = gateways {
        cables.push(Veth::between(&a.netns, WAN, &b.netns, WAN, mtu.into())?);
    } else {
        let bridge = Netns::new("switch")?;
        bridge.run(&format!("ip link add br0 mtu {mtu} type bridge forward_delay 0 stp_state 0"))?;
        bridge.run("ip link set br0 up")?;
        for gateway in gateways {
            let port = format!("port{}", gateway.number);
            cables.push(Veth::between(&gateway.netns, WAN, &bridge, &port, mtu.into())?);
            bridge.run(&format!("ip link set {port} master br0"))?;
        }
        switch = Some(bridge);
    }
    for gateway in gateways {
        gateway.netns.address(WAN, &format!("192.0.2.{}/24", gateway.number))?;
        gateway.netns.address(WAN, &format!("2001:db8::{}/64", gateway.number))?;
    }
    Ok((cables, switch))
}
