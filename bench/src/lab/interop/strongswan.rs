//! A strongSwan daemon (charon-systemd), in a network namespace or in a guest kernel.
//!
//! ```text
//! start ─▶ /lab/strongswan.conf ─▶ daemon ─▶ control socket answers ─▶ swanctl --load-all of /lab/N/swanctl.conf ─▶ ready
//! initiate, rekey, terminate, sas ─▶ vici            kill ─▶ SIGKILL, leftovers removed ─▶ start_again
//! ```
//!
//! Every load has a folder of its own, numbered, because a guest's kernel may remember what an older file held.

mod host;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use serde::Deserialize;

use super::config::Config;
use super::guest::Guest;
use super::releases::Release;
use super::status::{ChildSa, IkeSa, Listed};
use crate::lab::{SOON, wait_until};
use crate::netns::{Netns, Signal};
use host::{Host, InGuest, InNamespace};

/// How long the daemon may take for a command besides what the command waits for.
const ANSWER_WITHIN: Duration = SOON;
/// How long a negotiation that a test asks for may take.
const NEGOTIATED_WITHIN: Duration = SOON;
/// Lines of the log that an error shows.
const LOG_LINES: usize = 40;

/// A running daemon; ended on drop. As with every [`Netns::command`], it ends with the thread that started it.
#[derive(Debug)]
pub struct StrongSwan {
    host: Box<dyn Host>,
    /// Number of the folder with the newest swanctl.conf.
    loads: u32,
}

/// What the daemon answers to most commands.
#[derive(Debug, Deserialize)]
struct Answer {
    success: bool,
    errmsg: Option<String>,
}

type Arguments<'a> = BTreeMap<&'a str, String>;

impl StrongSwan {
    /// Starts a daemon with user-space ESP in the namespace, one per namespace, and loads the configuration.
    pub fn start(netns: &Netns, release: Release, config: &Config) -> Result<StrongSwan> {
        StrongSwan::launch(Box::new(InNamespace::new(netns, release)?), config)
    }

    /// Starts the daemon of the guest's root directory, one per guest, with ESP in the guest's kernel.
    pub fn start_in(guest: &Guest, config: &Config) -> Result<StrongSwan> {
        StrongSwan::launch(Box::new(InGuest::new(guest)), config)
    }

    fn launch(host: Box<dyn Host>, config: &Config) -> Result<StrongSwan> {
        fs::write(host.folder().join("strongswan.conf"), config.strongswan_conf(host.place()))?;
        let mut swan = StrongSwan { host, loads: 0 };
        swan.host.launch()?;
        swan.reload(config)?;
        Ok(swan)
    }

    /// Loads another configuration. Connections and secrets that it does not have are forgotten; SAs stay. What stands in
    /// [`Config::daemon`] counts only from [`StrongSwan::start_again`] on.
    pub fn reload(&mut self, config: &Config) -> Result<()> {
        self.loads += 1;
        let folder = self.host.folder().join(self.loads.to_string());
        // swanctl complains about each of its folders that does not exist.
        for name in [
            "pubkey", "private", "x509", "x509ca", "x509ocsp", "x509aa", "x509ac", "x509crl", "rsa", "ecdsa", "bliss", "pkcs8",
            "pkcs12",
        ] {
            fs::create_dir_all(folder.join(name))?;
        }
        for file in config.swanctl_files() {
            fs::write(folder.join(&file.path), &file.text).with_context(|| file.path.display().to_string())?;
        }
        fs::write(self.host.folder().join("strongswan.conf"), config.strongswan_conf(self.host.place()))?;
        self.load()
    }

    fn load(&self) -> Result<()> {
        let loaded = self.host.swanctl(self.loads, "--load-all --clear --noprompt");
        loaded.map(drop).map_err(|error| self.with_log(error.context("swanctl cannot load the configuration")))
    }

    /// Sets up a Child SA, and an IKE SA if there is none, and waits until it stands. An error shows the end of the log.
    pub fn initiate(&self, connection: &str, child: &str) -> Result<()> {
        let arguments = [("ike", connection.to_owned()), ("child", child.to_owned()), ("timeout", millis(NEGOTIATED_WITHIN))];
        self.command("initiate", arguments, NEGOTIATED_WITHIN)
    }

    /// Rekeys a Child SA and waits until the new one carries the traffic; returns it.
    pub fn rekey_child(&self, connection: &str, child: &str) -> Result<ChildSa> {
        let old = self.child(connection, child)?;
        self.command("rekey", [("ike", connection.to_owned()), ("child", child.to_owned())], Duration::ZERO)?;
        let newer = |sas: &[IkeSa]| {
            let children = sas.iter().filter(|sa| sa.name == connection).flat_map(|sa| &sa.children);
            children.filter(|new| new.name == child && new.is_installed() && new.id > old.id).max_by_key(|new| new.id).cloned()
        };
        self.wait_for(&format!("a successor of the Child SA {child}"), NEGOTIATED_WITHIN, newer)
    }

    /// Rekeys an IKE SA and waits for the new one; returns it.
    pub fn rekey_ike(&self, connection: &str) -> Result<IkeSa> {
        let old = self.established(connection)?;
        self.command("rekey", [("ike", connection.to_owned())], Duration::ZERO)?;
        let newer = |sas: &[IkeSa]| sas.iter().find(|sa| sa.name == connection && sa.is_established() && sa.id > old.id).cloned();
        self.wait_for(&format!("a successor of the IKE SA {connection}"), NEGOTIATED_WITHIN, newer)
    }

    /// Deletes the IKE SAs of a connection with all their children, and waits for the peer's answer.
    pub fn terminate(&self, connection: &str) -> Result<()> {
        let arguments = [("ike", connection.to_owned()), ("timeout", millis(NEGOTIATED_WITHIN))];
        self.command("terminate", arguments, NEGOTIATED_WITHIN)
    }

    /// Deletes the Child SAs of a name, and waits for the peer's answer.
    pub fn terminate_child(&self, connection: &str, child: &str) -> Result<()> {
        let arguments = [("ike", connection.to_owned()), ("child", child.to_owned()), ("timeout", millis(NEGOTIATED_WITHIN))];
        self.command("terminate", arguments, NEGOTIATED_WITHIN)
    }

    /// All IKE SAs, oldest first.
    pub fn sas(&self) -> Result<Vec<IkeSa>> {
        let listed: Vec<Listed> = self
            .host
            .vici(ANSWER_WITHIN)?
            .list("list-sas", "list-sa", &Arguments::new())
            .map_err(|error| self.with_log(error))?;
        let mut sas: Vec<IkeSa> = listed.into_iter().flatten().map(|(name, raw)| raw.named(name)).collect::<Result<_>>()?;
        sas.sort_by_key(|sa| sa.id);
        Ok(sas)
    }

    /// The newest established IKE SA of a connection.
    pub fn established(&self, connection: &str) -> Result<IkeSa> {
        let mut sas = self.sas()?;
        sas.retain(|sa| sa.name == connection && sa.is_established());
        sas.pop().ok_or_else(|| self.with_log(anyhow!("no IKE SA of the connection {connection} is established")))
    }

    /// The newest installed Child SA of a name.
    pub fn child(&self, connection: &str, child: &str) -> Result<ChildSa> {
        let sas = self.sas()?;
        let children = sas.into_iter().filter(|sa| sa.name == connection).flat_map(|sa| sa.children);
        let newest = children.filter(|sa| sa.name == child && sa.is_installed()).max_by_key(|sa| sa.id);
        newest.ok_or_else(|| self.with_log(anyhow!("no Child SA {child} of the connection {connection} is installed")))
    }

    /// Waits until `wanted` finds what it looks for among the SAs.
    pub fn wait_for<T>(&self, what: &str, timeout: Duration, mut wanted: impl FnMut(&[IkeSa]) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + timeout;
        loop {
            let sas = self.sas()?;
            if let Some(found) = wanted(&sas) {
                return Ok(found);
            }
            if Instant::now() > deadline {
                return Err(self.with_log(anyhow!("{timeout:?} went by without {what}; the SAs: {sas:#?}")));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until there is no IKE SA at all.
    pub fn wait_until_idle(&self, timeout: Duration) -> Result<()> {
        self.wait_for("the end of all SAs", timeout, |sas| sas.is_empty().then_some(()))
    }

    /// Runs a command of swanctl, such as `--list-algs`, and returns what it writes.
    pub fn swanctl(&self, arguments: &str) -> Result<String> {
        self.host.swanctl(self.loads, arguments)
    }

    /// What the daemon calls itself: `strongSwan 5.9.8`.
    pub fn version(&self) -> Result<String> {
        #[derive(Deserialize)]
        struct Version {
            version: String,
        }
        let version: Version = self.host.vici(ANSWER_WITHIN)?.request("version", &Arguments::new())?;
        Ok(format!("strongSwan {}", version.version))
    }

    /// Process id of the daemon, where it runs in this kernel.
    pub fn pid(&self) -> Option<u32> {
        self.host.pid()
    }

    /// All that the daemon has logged, over restarts.
    pub fn log(&self) -> String {
        self.host.log()
    }

    /// Waits until a line of the log contains `text`, and returns the first such line.
    pub fn wait_for_log(&self, text: &str, timeout: Duration) -> Result<String> {
        let mut found = None;
        let waited = wait_until(&format!("the daemon logged `{text}`"), timeout, || {
            found = self.log().lines().find(|line| line.contains(text)).map(str::to_owned);
            Ok(found.is_some())
        });
        waited.map_err(|error| self.with_log(error))?;
        found.context("the line was there")
    }

    /// The folder of the daemon's files; the daemon itself has it as `/lab`.
    pub fn folder(&self) -> &Path {
        self.host.folder()
    }

    /// Stops the daemon as an administrator does: it deletes its SAs and tells the peers.
    pub fn stop(&mut self) -> Result<()> {
        self.host.end(Signal::Term)
    }

    /// Ends the daemon as a crash does: SAs, secrets and routes are gone and no peer is told.
    pub fn kill(&mut self) -> Result<()> {
        self.host.end(Signal::Kill)
    }

    /// Starts the daemon after [`StrongSwan::stop`] or [`StrongSwan::kill`], with the configuration that was loaded last.
    pub fn start_again(&mut self) -> Result<()> {
        self.host.launch()?;
        self.load()
    }

    fn command<const N: usize>(&self, command: &str, arguments: [(&str, String); N], wait: Duration) -> Result<()> {
        let vici = self.host.vici(wait + ANSWER_WITHIN).map_err(|error| self.with_log(error))?;
        let answer: Result<Answer> = vici.request(command, &Arguments::from(arguments));
        let answer = answer.map_err(|error| self.with_log(error))?;
        if !answer.success {
            let reason = answer.errmsg.unwrap_or_else(|| "no reason given".to_owned());
            return Err(self.with_log(anyhow!("`{command}` failed: {reason}")));
        }
        Ok(())
    }

    fn with_log(&self, error: anyhow::Error) -> anyhow::Error {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
        error.context(format!("the end of the daemon's log:\n{end}\n"))
    }
}

fn millis(time: Duration) -> String {
    time.as_millis().to_string()
}
