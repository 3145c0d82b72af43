//! Adit: two `adit run` as a user would start them, in the variant that the name asks for; with a static key, or by IKEv2.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use adit_proto::suite::Suite;
use anyhow::{Context, Result, bail, ensure};

use super::ground::BRIDGE;
use super::{Ground, INNER, OUTER, System, Tunnel, Underlay, places, version_of};
use crate::lab::binary_in;
use crate::process::Process;

const PORT: u16 = 4500;

/// Settings of both gateways.
#[derive(Clone, Debug)]
pub struct AditOptions {
    pub workers: usize,
    pub suite: Suite,
    /// As in the configuration: `auto`, `io_uring`, `poll`.
    pub io: String,
    /// As in the configuration: `auto`, `aws-lc`, `ipsec-mb`, `rustcrypto`.
    pub crypto: String,
    /// Where the programs of the variant `before` are.
    pub before: Option<PathBuf>,
}

pub struct Adit {
    name: String,
    outer_mtu: u32,
    /// The keys are agreed on by IKEv2 instead of being static ones.
    ike: bool,
    options: AditOptions,
    adit: PathBuf,
    dataplane: PathBuf,
}

impl Adit {
    pub fn find(name: &str, base: &str, outer_mtu: u32, options: &AditOptions) -> Result<Adit> {
        let (given, mut options) = (options, options.clone());
        let (mut ike, mut before) = (false, None);
        for variant in base.split('-').skip(1) {
            match variant {
                "poll" => options.io = "poll".into(),
                "uring" => options.io = "io_uring".into(),
                "chacha" => options.suite = Suite::ChaCha20Poly1305,
                "aes256" => options.suite = Suite::Aes256Gcm,
                "ike" => ike = true,
                "before" => before = Some(given.before.as_deref().context("adit-before needs its programs: --before FOLDER")?),
                "awslc" => options.crypto = "aws-lc".into(),
                "ipsecmb" => options.crypto = "ipsec-mb".into(),
                "rustcrypto" => options.crypto = "rustcrypto".into(),
                _ => match variant.strip_suffix('w').map(str::parse) {
                    Some(Ok(workers)) => options.workers = workers,
                    _ => bail!(
                        "`{name}`: there is no variant `{variant}`, only 1w (any number), ike, poll, uring, chacha, aes256, awslc, ipsecmb, rustcrypto, before, mtuN"
                    ),
                },
            }
        }
        let program = |name| before.map_or_else(|| own_program(name), |folder| binary_in(folder, name));
        let (adit, dataplane) = (program("adit")?, program("adit-dataplane")?);
        Ok(Adit { name: name.into(), outer_mtu, ike, options, adit, dataplane })
    }

    /// The far gateway's worker of one number sits half the machine away from the near one's.
    fn cores(&self, side: usize) -> Result<String> {
        let cores = std::thread::available_parallelism()?.get();
        ensure!(
            (1..=cores).contains(&self.options.workers),
            "{}: {} workers on {cores} cores; at most one worker per core",
            self.name,
            self.options.workers
        );
        let cores: Vec<String> =
            (0..self.options.workers).map(|worker| ((worker + side * cores.div_ceil(2)) % cores).to_string()).collect();
        Ok(cores.join(", "))
    }

    /// What stands in the peer's block of the configuration about keys.
    fn keys(&self, underlay: &Underlay) -> String {
        if !self.ike {
            return format!("static_key_file: {}", underlay.file("adit.key").display());
        }
        let esp = match self.options.suite {
            Suite::Aes128Gcm => "aes128gcm16",
            Suite::Aes256Gcm => "aes256gcm16",
            Suite::ChaCha20Poly1305 => "chacha20poly1305",
        };
        format!("ike: {{ psk_file: {}, esp_proposals: [{esp}] }}", underlay.file("adit.psk").display())
    }

    /// Makes the files that `keys` names.
    fn make_keys(&self, underlay: &Underlay) -> Result<()> {
        if self.ike {
            let mut secret = [0; 32];
            aws_lc_rs::rand::fill(&mut secret).ok().context("no random bytes")?;
            let digits: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(underlay.file("adit.psk"))?;
            return Ok(writeln!(file, "0x{digits}")?);
        }
        let key = underlay.file("adit.key");
        let keygen = Command::new(&self.adit).args(["keygen", "--suite", self.options.suite.name(), "-o"]).arg(&key).output()?;
        ensure!(keygen.status.success(), "adit keygen: {}", String::from_utf8_lossy(&keygen.stderr).trim());
        Ok(())
    }

    fn config(&self, underlay: &Underlay, side: char, this: usize, other: usize) -> Result<String> {
        let AditOptions { workers, io, crypto, .. } = &self.options;
        let dir = underlay.file("");
        let dir = dir.display();
        let inside = match underlay.ground() {
            Ground::Bridged => format!("bridge: {BRIDGE}"),
            Ground::Cable | Ground::Routed => format!("addresses: [{}/24]", INNER[this]),
        };
        Ok(format!(
            "name: {side}\nlisten: {}:{PORT}\nunderlay_mtu: {}\n\
             interface: {{ name: adit0, {inside} }}\n\
             dataplane: {{ binary: {}, workers: {workers}, cores: [{}], roam: true, io: {io}, crypto: {crypto} }}\n\
             peers: [{{ name: {}, endpoint: \"{}:{PORT}\", {} }}]\n\
             runtime_dir: {dir}run-{side}\nstate_dir: {dir}state-{side}\n",
            OUTER[this],
            self.outer_mtu,
            self.dataplane.display(),
            self.cores(this)?,
            if side == 'a' { 'b' } else { 'a' },
            OUTER[other],
            self.keys(underlay),
        ))
    }
}

impl System for Adit {
    fn name(&self) -> &str {
        &self.name
    }

    fn outer_mtu(&self) -> u32 {
        self.outer_mtu
    }

    fn cipher(&self) -> &'static str {
        self.options.suite.name()
    }

    fn version(&self) -> String {
        version_of(&self.adit, "--version")
    }

    fn carries_ethernet(&self) -> bool {
        true
    }

    fn start(&self, underlay: &Underlay) -> Result<Tunnel> {
        self.make_keys(underlay)?;
        let mut processes = Vec::new();
        for (netns, side, this, other) in underlay.sides() {
            let config = underlay.write(&format!("adit-{side}.yaml"), &self.config(underlay, side, this, other)?)?;
            let mut command = netns.command(&self.adit);
            command.arg("run").arg("-c").arg(config);
            processes.push(Process::start(&mut command, underlay.file(&format!("gateway-{side}.log")))?);
        }
        for (process, (netns, ..)) in processes.iter_mut().zip(underlay.sides()) {
            let (line, word) = match underlay.ground() {
                Ground::Bridged => (format!("ip -br link show master {BRIDGE} up"), "adit0"),
                Ground::Cable | Ground::Routed => ("ip -br address show dev adit0 up".to_owned(), "10.77."),
            };
            let up = |_: &Process| netns.run(&line).is_ok_and(|text| text.contains(word));
            process.wait_until("brings adit0 up", Duration::from_secs(10), up)?;
        }
        Ok(Tunnel { processes, target: INNER[1].into(), link: "adit0".into() })
    }
}

/// A program of this project: beside this one, or in `ADIT_BIN_DIR`.
fn own_program(name: &str) -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("ADIT_BIN_DIR") {
        return Ok(PathBuf::from(dir).join(name));
    }
    let beside = std::env::current_exe().ok().and_then(|this| Some(this.parent()?.join(name)));
    let found = beside.into_iter().chain(places(name)).find(|path| path.is_file());
    found.with_context(|| format!("`{name}` is neither beside adit-bench nor in PATH: run `cargo build --release --workspace`"))
}
