//! Nebula: a certificate authority of its own per run, hosts that know each other without a lighthouse, AES-256-GCM.

use std::path::PathBuf;

use anyhow::Result;

use super::{INNER, OUTER, System, Tunnel, Underlay, program, version_of};
use crate::process::Process;

const PORT: u16 = 4242;
/// Outer IPv4 and UDP header, nebula's header, tag.
const OVERHEAD: u32 = 20 + 8 + 16 + 16;

/// Bytes of its UDP socket's buffers: what its own documentation advises for fast links.
const BUFFER: u32 = 10 << 20;

pub struct Nebula {
    name: String,
    outer_mtu: u32,
    program: PathBuf,
    cert: PathBuf,
}

impl Nebula {
    pub fn find(name: &str, outer_mtu: u32) -> Result<Nebula> {
        Ok(Nebula { name: name.into(), outer_mtu, program: program("nebula")?, cert: program("nebula-cert")? })
    }
}

impl System for Nebula {
    fn name(&self) -> &str {
        &self.name
    }

    fn outer_mtu(&self) -> u32 {
        self.outer_mtu
    }

    /// `cipher: aes` means keys of 256 bits.
    fn cipher(&self) -> &'static str {
        "aes-256-gcm"
    }

    fn version(&self) -> String {
        format!("nebula {}", version_of(&self.program, "-version").trim_start_matches("Version: "))
    }

    fn start(&self, underlay: &Underlay) -> Result<Tunnel> {
        let (cert, dir) = (self.cert.display(), underlay.file(""));
        let dir = dir.display();
        underlay.a.run(&format!("{cert} ca -name bench -out-crt {dir}ca.crt -out-key {dir}ca.key"))?;
        let mut processes = Vec::new();
        for (netns, side, this, other) in underlay.sides() {
            let files = format!("-out-crt {dir}{side}.crt -out-key {dir}{side}.key");
            netns.run(&format!(
                "{cert} sign -ca-crt {dir}ca.crt -ca-key {dir}ca.key -name {side} -networks {}/24 {files}",
                INNER[this]
            ))?;
            let config = format!(
                "pki: {{ ca: {dir}ca.crt, cert: {dir}{side}.crt, key: {dir}{side}.key }}\n\
                 static_host_map: {{ \"{}\": [\"{}:{PORT}\"] }}\n\
                 lighthouse: {{ am_lighthouse: false, hosts: [] }}\n\
                 listen: {{ host: 0.0.0.0, port: {PORT}, read_buffer: {BUFFER}, write_buffer: {BUFFER} }}\n\
                 punchy: {{ punch: false }}\n\
                 cipher: aes\n\
                 tun: {{ dev: nebula0, mtu: {} }}\n\
                 logging: {{ level: warning, format: text }}\n\
                 firewall:\n  outbound: [{{ port: any, proto: any, host: any }}]\n  inbound: [{{ port: any, proto: any, host: any }}]\n",
                INNER[other],
                OUTER[other],
                self.outer_mtu - OVERHEAD
            );
            let config = underlay.write(&format!("nebula-{side}.yml"), &config)?;
            let mut command = netns.command(&self.program);
            processes.push(Process::start(command.arg("-config").arg(config), underlay.file(&format!("gateway-{side}.log")))?);
        }
        Ok(Tunnel { processes, target: INNER[1].into(), link: "nebula0".into() })
    }
}
