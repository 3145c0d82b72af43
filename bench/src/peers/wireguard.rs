//! The user-space WireGuards: one command line (`PROGRAM -f LINK`) and one way of configuration (`wg` over the program's socket).

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{INNER, OUTER, System, Tunnel, Underlay, program};
use crate::process::Process;

const PORT: u16 = 51820;
/// Outer IPv6 and UDP header, type, receiver, counter, tag: what every WireGuard reckons with.
const OVERHEAD: u32 = 80;

pub struct WireGuard {
    name: String,
    outer_mtu: u32,
    program: PathBuf,
    arguments: &'static [&'static str],
    wg: PathBuf,
}

impl WireGuard {
    pub fn find(name: &str, kind: &str, outer_mtu: u32) -> Result<WireGuard> {
        let (binary, arguments): (_, &[&str]) = match kind {
            // It would change to the user of the terminal, which must not need to exist here.
            "boringtun" => ("boringtun-cli", &["-f", "--disable-drop-privileges"]),
            "gotatun" => ("gotatun", &["-f", "--disable-drop-privileges"]),
            _ => ("wireguard-go", &["-f"]),
        };
        Ok(WireGuard { name: name.into(), outer_mtu, program: program(binary)?, arguments, wg: program("wg")? })
    }

    /// Runs `wg` with something on its standard input and returns what it prints.
    fn wg(&self, argument: &str, input: &str) -> Result<String> {
        let mut child = Command::new(&self.wg).arg(argument).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        child.stdin.take().context("wg has an input")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "`wg {argument}` failed");
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }
}

impl System for WireGuard {
    fn name(&self) -> &str {
        &self.name
    }

    fn outer_mtu(&self) -> u32 {
        self.outer_mtu
    }

    fn start(&self, underlay: &Underlay) -> Result<Tunnel> {
        // The sockets of all links of a machine lie in one directory, whatever the namespace: the names must differ.
        static RUN: AtomicU32 = AtomicU32::new(0);
        let tag = format!("{:x}{:x}", std::process::id(), RUN.fetch_add(1, Ordering::Relaxed));
        let secrets = [self.wg("genkey", "")?, self.wg("genkey", "")?];
        let mut processes = Vec::new();
        for (netns, side, this, other) in underlay.sides() {
            let link = format!("wg{tag}{side}");
            let mut command = netns.command(&self.program);
            command.args(self.arguments).arg(&link).env("LOG_LEVEL", "error").env("WG_LOG_LEVEL", "error");
            let mut process = Process::start(&mut command, underlay.file(&format!("gateway-{side}.log")))?;
            let socket = PathBuf::from(format!("/var/run/wireguard/{link}.sock"));
            let ready = |_: &Process| socket.exists() && netns.run(&format!("ip link show {link}")).is_ok();
            process.wait_until("opens its socket and makes its link", Duration::from_secs(5), ready)?;
            let peer = self.wg("pubkey", &secrets[other])?;
            let config = format!(
                "[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n[Peer]\nPublicKey = {peer}\nAllowedIPs = {}/32\nEndpoint = {}:{PORT}\n",
                secrets[this], INNER[other], OUTER[other]
            );
            let config = underlay.write(&format!("wg-{side}.conf"), &config)?;
            netns.run(&format!("{} setconf {link} {}", self.wg.display(), config.display()))?;
            netns.address(&link, &format!("{}/24", INNER[this]))?;
            netns.run(&format!("ip link set {link} mtu {} up", self.outer_mtu - OVERHEAD))?;
            processes.push(process);
        }
        Ok(Tunnel { processes, target: INNER[1].into() })
    }
}
