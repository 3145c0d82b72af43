//! The whole of Adit, both planes and a TUN, against strongSwan of two releases: IKE and ESP in tunnel mode between real processes.
//!
//! ```text
//!   10.1.0.1  host a: adit, adit-dataplane  192.0.2.1 ══ cable ══ 192.0.2.2  host b: strongSwan (user-space ESP)  10.2.0.1
//! ```

mod life;
mod matrix;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use adit_bench::lab::interop::config::{LocalAuth, RemoteAuth};
use adit_bench::lab::interop::sites::{CHILD, CONNECTION, Proof, Site, Sites, pair};
use adit_bench::lab::interop::{Config, Release, StrongSwan};
use adit_bench::lab::traffic::transfer;
use adit_bench::lab::{binary, wait_until};
use adit_bench::netns::{Netns, Signal, signal};
use adit_bench::process::Process;
use adit_bench::workdir::WorkDir;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// For what takes milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(40);
const MIB: u64 = 1 << 20;

/// Adit on host a, strongSwan on host b. Fields are dropped in this order.
struct Pair {
    swan: StrongSwan,
    adit: Adit,
    sites: Sites,
}

/// A gateway of its own configuration.
struct Adit {
    control: Option<Process>,
    config: PathBuf,
    log: PathBuf,
    dir: WorkDir,
}

impl Pair {
    /// Both ends ready to be connected, by `role` on Adit's side and with `more` in the peer's `ike` block; strongSwan's
    /// configuration is changed by `change`.
    fn new(release: Release, proof: Proof, more: &str, change: impl FnOnce(&mut Config)) -> Result<Pair> {
        let sites = Sites::new()?;
        let (a, mut b) = pair(proof)?;
        change(&mut b);
        let mut adit = Adit::prepare(&a, more)?;
        let swan = StrongSwan::start(&sites.b, release, &b)?;
        adit.start(&sites.a)?;
        Ok(Pair { swan, adit, sites })
    }

    /// Connects from one end, and waits until packets go through in both directions.
    fn connect(&self, adit_begins: bool) -> Result<()> {
        if adit_begins {
            self.order("connect b")?;
        } else {
            self.swan.initiate(CONNECTION, CHILD).with_context(|| self.said())?;
        }
        self.up()
    }

    fn up(&self) -> Result<()> {
        wait_until("packets go through", SOON, || Ok(self.reaches().is_ok())).with_context(|| self.said())
    }

    fn reaches(&self) -> Result<()> {
        Site::A.reach(|line| self.sites.a.run(line))?;
        Site::B.reach(|line| self.sites.b.run(line))
    }

    /// Bytes both ways, compared at their ends.
    fn transfers(&self, bytes: u64) -> Result<()> {
        transfer(&self.sites.a, &self.sites.b, Site::B.inner().into(), bytes)?.verify(bytes).with_context(|| self.said())?;
        transfer(&self.sites.b, &self.sites.a, Site::A.inner().into(), bytes)?.verify(bytes).with_context(|| self.said())
    }

    /// Runs a command of `adit`.
    fn order(&self, line: &str) -> Result<String> {
        self.sites.a.run(&format!("{} {line} -c {}", binary("adit")?.display(), self.adit.config.display()))
    }

    /// How Adit's only peer does.
    fn peer(&self) -> Result<Value> {
        let status: Value = serde_json::from_str(&self.order("status --json")?)?;
        Ok(status["peers"][0].clone())
    }

    /// Our SPIs: those of the IKE SA, and the inbound one of the Child SA.
    fn spis(&self) -> Result<(String, String)> {
        let sa = self.peer()?["ike"]["sas"][0].clone();
        let children = sa["children"].as_array().context("no children")?;
        let child = children.iter().find(|child| child["going"] == false).map(|child| child["inbound_spi"].to_string());
        Ok((format!("{} {}", sa["initiator_spi"], sa["responder_spi"]), child.unwrap_or_default()))
    }

    /// What both ends have to say when something went wrong.
    fn said(&self) -> String {
        let log = fs::read_to_string(&self.adit.log).unwrap_or_default();
        let explained = self.order("explain b").unwrap_or_else(|error| format!("{error:#}"));
        format!("Adit: {log}\n{explained}\nstrongSwan: {}", self.swan.log())
    }
}

impl Adit {
    /// Files for the end of `mirror`, which is how a strongSwan there would be told.
    fn prepare(mirror: &Config, more: &str) -> Result<Adit> {
        let dir = WorkDir::new("daemon")?;
        let connection = &mirror.connections[0];
        let file = |name: &str, bytes: &[u8]| -> Result<()> {
            let path = dir.path().join(name);
            fs::write(&path, bytes)?;
            Ok(fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?)
        };
        let (mut own, mut peer) = (String::new(), "psk_file: b.psk".to_owned());
        file("b.psk", &connection.secret)?;
        match &connection.local.auth {
            LocalAuth::Psk => {}
            LocalAuth::RawKey(key) => {
                file("a.key", key.private_pem().as_bytes())?;
                own = ", key_file: a.key".to_owned();
            }
            LocalAuth::Certificate(credential) => {
                file("a.key", credential.key.private_pem().as_bytes())?;
                file(
                    "a.crt",
                    [&credential.certificate]
                        .into_iter()
                        .chain(&credential.chain)
                        .map(|one| one.pem())
                        .collect::<String>()
                        .as_bytes(),
                )?;
                own = ", key_file: a.key, certificate_file: a.crt".to_owned();
            }
        }
        match &connection.remote.auth {
            RemoteAuth::Psk => {}
            RemoteAuth::RawKeys(keys) => {
                file("b.pub", keys[0].as_bytes())?;
                peer = "public_key_file: b.pub".to_owned();
            }
            RemoteAuth::Authorities(authorities) => {
                file("ca.crt", authorities[0].pem().as_bytes())?;
                peer = "ca_file: ca.crt".to_owned();
            }
        }
        let more = if more.is_empty() { String::new() } else { format!(", {more}") };
        let config = dir.path().join("a.yaml");
        let text = format!(
            "name: a\nlisten: {outer}:4500\nmode: ip\ninterface: {{ name: adit0, addresses: [{inner}/32] }}\n\
             dataplane: {{ binary: {program}, workers: 2 }}\nike: {{ id: {id}{own} }}\npeers:\n\
             \x20 - name: b\n    endpoint: {there}:4500\n    selectors: [{{ local: {local}, remote: {remote} }}]\n\
             \x20   ike: {{ id: {their_id}, {peer}{more} }}\nruntime_dir: {dir}/run\nstate_dir: {dir}/state\n",
            outer = Site::A.outer(),
            inner = Site::A.inner(),
            program = binary("adit-dataplane")?.display(),
            id = Site::A.id(),
            there = Site::B.outer(),
            local = Site::A.network(),
            remote = Site::B.network(),
            their_id = Site::B.id(),
            dir = dir.path().display(),
        );
        fs::write(&config, text)?;
        let log = dir.path().join("a.log");
        Ok(Adit { control: None, config, log, dir })
    }

    fn start(&mut self, netns: &Netns) -> Result<()> {
        let mut command = netns.command(binary("adit")?);
        command.arg("run").arg("-c").arg(&self.config);
        let mut control = Process::start(&mut command, &self.log)?;
        control.wait_for_line("ready", SOON)?;
        self.control = Some(control);
        Ok(())
    }

    /// Kills the control plane; the data plane goes on.
    fn kill_control(&mut self) -> Result<()> {
        let mut control = self.control.take().context("no control plane runs")?;
        control.signal(Signal::Kill)?;
        control.wait(Duration::from_secs(5))?;
        self.log = self.dir.path().join(format!("after-{}.log", control.pid()));
        Ok(())
    }

    fn kill_data_plane(netns: &Netns) -> Result<()> {
        let is_it = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "adit-dataplane");
        let pid = netns.processes().into_iter().find(is_it).context("no data plane runs")?;
        Ok(signal(pid, Signal::Kill)?)
    }
}

/// An error unless this is what the status says of the IKE SA in use.
fn ensure_suite(peer: &Value, words: &[&str]) -> Result<()> {
    let suite = peer["ike"]["sas"][0]["suite"].as_str().unwrap_or_default();
    ensure!(words.iter().all(|word| suite.contains(word)), "{words:?} expected, it is {suite}");
    Ok(())
}
