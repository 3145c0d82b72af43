//! The user-space WireGuards: one command line (`PROGRAM -f LINK`) and one way of configuration (`wg` over the program's socket).

use std::fs;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{INNER, OUTER, System, Tunnel, Underlay, program, version_of};
use crate::process::Process;

const PORT: u16 = 51820;
/// Outer IPv6 and UDP header, type, receiver, counter, tag: what every WireGuard reckons with.
const OVERHEAD: u32 = 80;

/// Where every user-space WireGuard puts the socket of a link.
const SOCKETS: &str = "/var/run/wireguard";
/// What the names of this bench's links begin with; a process id, a number and a side make it at most 15 letters.
const LINKS: &str = "abwg";

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

    fn cipher(&self) -> &'static str {
        "chacha20-poly1305"
    }

    fn version(&self) -> String {
        version_of(&self.program, "--version")
    }

    fn start(&self, underlay: &Underlay) -> Result<Tunnel> {
        // The sockets of all links of a machine lie in one directory, whatever the namespace: the names must differ.
        static RUN: AtomicU32 = AtomicU32::new(0);
        sweep(Path::new(SOCKETS));
        let tag = format!("{:x}{:x}", std::process::id(), RUN.fetch_add(1, Ordering::Relaxed));
        let name = |side: char| format!("{LINKS}{tag}{side}");
        let secrets = [self.wg("genkey", "")?, self.wg("genkey", "")?];
        let mut processes = Vec::new();
        for (netns, side, this, other) in underlay.sides() {
            let link = name(side);
            let mut command = netns.command(&self.program);
            command.args(self.arguments).arg(&link).env("LOG_LEVEL", "error").env("WG_LOG_LEVEL", "error");
            let mut process = Process::start(&mut command, underlay.file(&format!("gateway-{side}.log")))?;
            let socket = Path::new(SOCKETS).join(format!("{link}.sock"));
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
        Ok(Tunnel { processes, target: INNER[1].into(), link: name('a') })
    }
}

/// Removes the sockets of killed runs of this bench: those that nobody listens to.
fn sweep(sockets: &Path) {
    for entry in fs::read_dir(sockets).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let is_ours = name.to_str().is_some_and(|name| name.starts_with(LINKS) && name.ends_with(".sock"));
        if is_ours && UnixStream::connect(&path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            let _ = fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn sockets_of_killed_runs_are_removed_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let socket = |name: &str| UnixListener::bind(dir.path().join(name)).unwrap();
        let _living = socket("abwg1a.sock");
        drop((socket("abwg2a.sock"), socket("wg0.sock")));
        // A process that another test starts just now has its copy of every descriptor until it is the program that it becomes.
        let dead = dir.path().join("abwg2a.sock");
        for _ in 0..1000 {
            sweep(dir.path());
            if !dead.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let left: Vec<bool> = ["abwg1a.sock", "abwg2a.sock", "wg0.sock"].map(|name| dir.path().join(name).exists()).into();
        assert_eq!(left, [true, false, true]);
    }
}
