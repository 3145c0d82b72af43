//! OpenVPN: point to point with self-signed certificates pinned by fingerprint, AES-128-GCM, in user space (no DCO).

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::{INNER, OUTER, System, Tunnel, Underlay, program, version_of};
use crate::process::Process;

const PORT: u16 = 1194;
/// Outer IPv4 and UDP header, opcode and peer id, packet id, tag.
const OVERHEAD: u32 = 20 + 8 + 4 + 4 + 16;

pub struct OpenVpn {
    name: String,
    outer_mtu: u32,
    program: PathBuf,
    openssl: PathBuf,
}

impl OpenVpn {
    pub fn find(name: &str, outer_mtu: u32) -> Result<OpenVpn> {
        Ok(OpenVpn { name: name.into(), outer_mtu, program: program("openvpn")?, openssl: program("openssl")? })
    }
}

impl System for OpenVpn {
    fn name(&self) -> &str {
        &self.name
    }

    fn outer_mtu(&self) -> u32 {
        self.outer_mtu
    }

    fn cipher(&self) -> &'static str {
        "aes-128-gcm"
    }

    /// The first two words; the rest is what it was built with.
    fn version(&self) -> String {
        version_of(&self.program, "--version").split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    }

    fn start(&self, underlay: &Underlay) -> Result<Tunnel> {
        let (openssl, dir) = (self.openssl.display(), underlay.file(""));
        let dir = dir.display();
        let mut fingerprints = Vec::new();
        for (netns, side, ..) in underlay.sides() {
            netns.run(&format!(
                "{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={side} \
                 -keyout {dir}{side}.key -out {dir}{side}.crt"
            ))?;
            let text = netns.run(&format!("{openssl} x509 -in {dir}{side}.crt -noout -sha256 -fingerprint"))?;
            fingerprints.push(text.split_once('=').context("openssl prints `… Fingerprint=…`")?.1.trim().to_owned());
        }
        let mut processes = Vec::new();
        for (netns, side, this, other) in underlay.sides() {
            let role = if side == 'a' { "tls-client" } else { "tls-server\ndh none" };
            let config = format!(
                "dev tun0\ndev-type tun\nproto udp\nlocal {}\nremote {}\nport {PORT}\nifconfig {} {}\n{role}\ncert {dir}{side}.crt\nkey {dir}{side}.key\n\
                 peer-fingerprint {}\ndata-ciphers AES-128-GCM\ndisable-dco\ntun-mtu {}\nmssfix 0\nsndbuf 4194304\nrcvbuf 4194304\n\
                 txqueuelen 1000\nverb 1\n",
                OUTER[this],
                OUTER[other],
                INNER[this],
                INNER[other],
                fingerprints[other],
                self.outer_mtu - OVERHEAD
            );
            let config = underlay.write(&format!("openvpn-{side}.conf"), &config)?;
            let mut command = netns.command(&self.program);
            processes.push(Process::start(command.arg("--config").arg(config), underlay.file(&format!("gateway-{side}.log")))?);
        }
        Ok(Tunnel { processes, target: INNER[1].into(), link: "tun0".into() })
    }
}
