//! What tshark makes of captured datagrams, given a key log: a profile of Wireshark of its own.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::capture::{Datagram, pcap};
use crate::workdir::WorkDir;

/// Switches that let tshark open ESP, and check its tags.
const ESP: [&str; 4] = ["-o", "esp.enable_encryption_decode:TRUE", "-o", "esp.enable_authentication_check:TRUE"];
/// The tables of keys in a profile.
pub const KEY_FILES: [&str; 2] = ["ikev2_decryption_table", "esp_sa"];

/// A capture, and a profile with the keys to open it.
#[derive(Debug)]
pub struct Analysis {
    dir: WorkDir,
}

impl Analysis {
    /// Takes a copy of the tables in `keys`, a directory with a key log; a table that is not there is empty.
    pub fn new(datagrams: &[Datagram], keys: &Path) -> Result<Analysis> {
        let dir = WorkDir::new("tshark")?;
        fs::write(dir.path().join("capture.pcap"), pcap(datagrams)?)?;
        for file in KEY_FILES {
            fs::write(dir.path().join(file), fs::read(keys.join(file)).unwrap_or_default())?;
        }
        Ok(Analysis { dir })
    }

    /// Values of a field in the packets that the filter picks, one line for each packet.
    pub fn values(&self, filter: &str, field: &str) -> Result<Vec<String>> {
        let mut tshark = Command::new("tshark");
        tshark.env("WIRESHARK_CONFIG_DIR", self.dir.path()).arg("-r").arg(self.dir.path().join("capture.pcap"));
        tshark.args(ESP).args(["-Y", filter, "-T", "fields", "-E", "occurrence=a", "-e", field]);
        let output = tshark.output().context("tshark (deploy/install-deps.sh test installs it)")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success() && !errors.contains("Error loading"), "tshark: {errors}");
        Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
    }
}
