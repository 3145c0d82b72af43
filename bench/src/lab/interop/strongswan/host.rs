//! Where a daemon runs: in a namespace of this kernel, or in a guest kernel.

use std::fmt::Debug;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::super::config::{Esp, Place};
use super::super::guest::Guest;
use super::super::releases::{LAB_INSIDE, Release};
use super::super::vici::Vici;
use crate::lab::{SOON, wait_until};
use crate::netns::{Netns, Signal};
use crate::process::Process;
use crate::workdir::WorkDir;

const DAEMON: &str = "charon-systemd";
const STARTED_WITHIN: Duration = SOON;
/// A daemon that stops waits a while for its peers' answers.
const ENDED_WITHIN: Duration = SOON;
/// The table of routes and the rule for it that a daemon makes.
const ROUTE_TABLE: u8 = 220;

/// What a daemon needs around it.
pub trait Host: Debug + Send + Sync {
    /// What strongswan.conf has to say of it.
    fn place(&self) -> &'static Place;

    /// The folder that the daemon has as /lab.
    fn folder(&self) -> &Path;

    /// Starts the daemon with /lab/strongswan.conf and waits until it takes commands.
    fn launch(&mut self) -> Result<()>;

    /// Ends the daemon with this signal and waits for the end.
    fn end(&mut self, signal: Signal) -> Result<()>;

    /// Runs swanctl with the configuration in the folder /lab/LOAD.
    fn swanctl(&self, load: u32, arguments: &str) -> Result<String>;

    fn vici(&self, limit: Duration) -> Result<Vici>;

    /// The daemon's process id in this kernel, if it runs there.
    fn pid(&self) -> Option<u32> {
        None
    }

    fn log(&self) -> String;
}

/// A daemon of an unpacked release, with ESP of its own.
#[derive(Debug)]
pub struct InNamespace {
    process: Option<Process>,
    netns: Netns,
    release: Release,
    dir: WorkDir,
}

/// The daemon of a guest's root directory, with ESP in the guest's kernel.
#[derive(Debug)]
pub struct InGuest {
    guest: Guest,
    /// Process id in the guest.
    pid: Option<u32>,
}

impl InNamespace {
    pub fn new(netns: &Netns, release: Release) -> Result<InNamespace> {
        let dir = WorkDir::new("swan")?;
        Ok(InNamespace { process: None, netns: netns.clone(), release, dir })
    }

    fn control(&self) -> PathBuf {
        self.dir.path().join("vici")
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn command(&self, program: &str) -> Result<Command> {
        let mut command = self.release.command(&self.netns, self.dir.path(), program)?;
        command.env("STRONGSWAN_CONF", format!("{LAB_INSIDE}/strongswan.conf"));
        Ok(command)
    }

    /// What a daemon leaves behind that could not clean up: it would keep the next one's packets from their way.
    fn remove_leftovers(&self) {
        for family in ["-4", "-6"] {
            // Fails when there is nothing left, which is what is wanted.
            while self.netns.run(&format!("ip {family} rule delete table {ROUTE_TABLE}")).is_ok() {}
            let _ = self.netns.run(&format!("ip {family} route flush table {ROUTE_TABLE}"));
        }
    }
}

impl Host for InNamespace {
    fn place(&self) -> &'static Place {
        &Place { esp: Esp::UserSpace, socket: "unix:///lab/vici", log: "/lab/log" }
    }

    fn folder(&self) -> &Path {
        self.dir.path()
    }

    fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    fn launch(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the daemon runs already");
        let control = self.control();
        if control.exists() {
            fs::remove_file(&control)?;
        }
        let mut process = Process::start(&mut self.command(DAEMON)?, self.log_file())?;
        process.wait_until("took commands", STARTED_WITHIN, |_| UnixStream::connect(&control).is_ok())?;
        self.process = Some(process);
        Ok(())
    }

    fn end(&mut self, signal: Signal) -> Result<()> {
        let process = self.process.as_mut().context("the daemon does not run")?;
        process.signal(signal)?;
        process.wait(ENDED_WITHIN)?;
        self.process = None;
        if signal == Signal::Kill {
            self.remove_leftovers();
        }
        Ok(())
    }

    fn swanctl(&self, load: u32, arguments: &str) -> Result<String> {
        let mut command = self.command("swanctl")?;
        command.env("SWANCTL_DIR", format!("{LAB_INSIDE}/{load}"));
        command.args(arguments.split_whitespace()).arg("--uri").arg(self.place().socket).stdin(Stdio::null());
        let output = command.output().context("cannot start swanctl")?;
        let (text, faults) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "swanctl {arguments}: {}: {}{}", output.status, text.trim(), faults.trim());
        Ok(text.into_owned())
    }

    fn vici(&self, limit: Duration) -> Result<Vici> {
        Vici::unix(&self.control(), limit)
    }

    fn log(&self) -> String {
        fs::read(self.log_file()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}

impl InGuest {
    /// The guest's own address on the cable to its host, where the daemon takes commands.
    const CONTROL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Guest::ADDRESS), 4502);

    pub fn new(guest: &Guest) -> InGuest {
        InGuest { guest: guest.clone(), pid: None }
    }
}

impl Host for InGuest {
    fn place(&self) -> &'static Place {
        // A file of the guest would be seen by the host only when the guest's kernel writes it back.
        &Place { esp: Esp::Kernel, socket: "tcp://169.254.77.2:4502", log: "/dev/console" }
    }

    fn folder(&self) -> &Path {
        self.guest.folder()
    }

    fn launch(&mut self) -> Result<()> {
        ensure!(self.pid.is_none(), "the daemon runs already");
        let start = format!(
            "cp {LAB_INSIDE}/strongswan.conf /run/ && \
             STRONGSWAN_CONF=/run/strongswan.conf {DAEMON} </dev/null >/dev/console 2>&1 & echo $!"
        );
        let pid = self.guest.run(&start)?.trim().parse().context("the daemon's process id")?;
        self.pid = Some(pid);
        wait_until("the daemon took commands", STARTED_WITHIN, || {
            if !self.guest.has_process(pid) {
                bail!("the daemon ended at once; the console:\n{}", self.log());
            }
            Ok(self.vici(STARTED_WITHIN).is_ok())
        })
    }

    fn end(&mut self, signal: Signal) -> Result<()> {
        let pid = self.pid.take().context("the daemon does not run")?;
        let number = if signal == Signal::Kill { "KILL" } else { "TERM" };
        self.guest.run(&format!("kill -{number} {pid}"))?;
        wait_until("the daemon ended", ENDED_WITHIN, || Ok(!self.guest.has_process(pid)))?;
        if signal == Signal::Kill {
            self.guest.run(&format!("ip xfrm state flush; ip xfrm policy flush; ip rule delete table {ROUTE_TABLE}; true"))?;
        }
        Ok(())
    }

    fn swanctl(&self, load: u32, arguments: &str) -> Result<String> {
        let set = format!("STRONGSWAN_CONF=/run/strongswan.conf SWANCTL_DIR={LAB_INSIDE}/{load}");
        self.guest.run(&format!("{set} swanctl {arguments} --uri {}", self.place().socket))
    }

    fn vici(&self, limit: Duration) -> Result<Vici> {
        Vici::tcp(self.guest.backplane(), InGuest::CONTROL, limit)
    }

    fn log(&self) -> String {
        self.guest.console()
    }
}

impl Drop for InGuest {
    /// The guest may be used on; when it is gone, so is the daemon.
    fn drop(&mut self) {
        if self.pid.is_some() {
            let _ = self.end(Signal::Kill);
        }
    }
}
