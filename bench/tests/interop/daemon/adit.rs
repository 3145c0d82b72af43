//! Adit with a configuration of its own: files, start, and every kind of end.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use adit_bench::lab::interop::Config;
use adit_bench::lab::interop::config::{LocalAuth, RemoteAuth};
use adit_bench::lab::interop::nat;
use adit_bench::lab::interop::sites::Site;
use adit_bench::lab::{binary, wait_until};
use adit_bench::netns::{Netns, Signal, signal};
use adit_bench::process::{Process, is_running};
use adit_bench::workdir::WorkDir;
use anyhow::{Context, Result};

use super::{Ground, SOON};

const PORT: u16 = 4500;

/// A gateway of its own configuration.
pub struct Adit {
    control: Option<Process>,
    pub config: PathBuf,
    pub log: PathBuf,
    dir: WorkDir,
}

/// Where it listens, and where its peer does; a peer behind a NAT comes by itself.
pub struct Place {
    listen: SocketAddr,
    endpoint: Option<SocketAddr>,
}

impl Place {
    /// At any address, for whoever comes.
    pub fn anywhere() -> Place {
        Place { listen: (Ipv4Addr::UNSPECIFIED, PORT).into(), endpoint: None }
    }

    pub fn of(ground: &Ground) -> Place {
        let at = |address: Ipv4Addr| SocketAddr::from((address, PORT));
        match ground {
            Ground::Nat(_, Site::A) => Place { listen: at(nat::PRIVATE), endpoint: Some(at(Site::B.outer())) },
            Ground::Nat(_, Site::B) => Place { listen: at(Site::A.outer()), endpoint: None },
            Ground::Cable(_) | Ground::Guest(..) => Place { listen: at(Site::A.outer()), endpoint: Some(at(Site::B.outer())) },
        }
    }
}

impl Adit {
    /// Files for the end of `mirror`, which is how a strongSwan there would be told.
    pub fn prepare(mirror: &Config, place: &Place, more: &str) -> Result<Adit> {
        let dir = WorkDir::new("daemon")?;
        let (config, log) = (dir.path().join("a.yaml"), dir.path().join("a.log"));
        let adit = Adit { control: None, config, log, dir };
        let (own, peer) = adit.credentials(mirror)?;
        let more = if more.is_empty() { String::new() } else { format!(", {more}") };
        let endpoint = place.endpoint.map(|there| format!("    endpoint: {there}\n")).unwrap_or_default();
        let text = format!(
            "name: a\nlisten: {listen}\nmode: ip\ninterface: {{ name: adit0, addresses: [{inner}/32] }}\n\
             dataplane: {{ binary: {program}, workers: 2 }}\nike: {{ id: {id}{own} }}\npeers:\n\
             \x20 - name: b\n{endpoint}    selectors: [{{ local: {local}, remote: {remote} }}]\n\
             \x20   ike: {{ id: {their_id}, {peer}{more} }}\nruntime_dir: {dir}/run\nstate_dir: {dir}/state\n",
            listen = place.listen,
            inner = Site::A.inner(),
            program = binary("adit-dataplane")?.display(),
            id = Site::A.id(),
            local = Site::A.network(),
            remote = Site::B.network(),
            their_id = Site::B.id(),
            dir = adit.dir.path().display(),
        );
        fs::write(&adit.config, text)?;
        Ok(adit)
    }

    /// Writes keys and certificates; gives what the blocks `ike` of the gateway and of the peer say of them.
    fn credentials(&self, mirror: &Config) -> Result<(String, String)> {
        let connection = &mirror.connections[0];
        self.write("b.psk", &connection.secret)?;
        let own = match &connection.local.auth {
            LocalAuth::Psk => String::new(),
            LocalAuth::RawKey(key) => {
                self.write("a.key", key.private_pem().as_bytes())?;
                ", key_file: a.key".to_owned()
            }
            LocalAuth::Certificate(credential) => {
                self.write("a.key", credential.key.private_pem().as_bytes())?;
                let chain = [&credential.certificate].into_iter().chain(&credential.chain);
                self.write("a.crt", chain.map(|one| one.pem()).collect::<String>().as_bytes())?;
                ", key_file: a.key, certificate_file: a.crt".to_owned()
            }
        };
        let peer = match &connection.remote.auth {
            RemoteAuth::Psk => "psk_file: b.psk",
            RemoteAuth::RawKeys(keys) => {
                self.write("b.pub", keys[0].as_bytes())?;
                "public_key_file: b.pub"
            }
            RemoteAuth::Authorities(authorities) => {
                self.write("ca.crt", authorities[0].pem().as_bytes())?;
                "ca_file: ca.crt"
            }
        };
        Ok((own, peer.to_owned()))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.dir.path().join(name);
        fs::write(&path, bytes)?;
        Ok(fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?)
    }

    /// Another preshared key; read at the next start.
    pub fn write_psk(&self, secret: &[u8]) -> Result<()> {
        self.write("b.psk", secret)
    }

    /// Another text in the configuration; read at the next start.
    pub fn change(&self, from: &str, to: &str) -> Result<()> {
        let text = fs::read_to_string(&self.config)?;
        anyhow::ensure!(text.contains(from), "`{from}` is not in {text}");
        Ok(fs::write(&self.config, text.replace(from, to))?)
    }

    pub fn start(&mut self, netns: &Netns) -> Result<()> {
        let mut command = netns.command(binary("adit")?);
        command.arg("run").arg("-c").arg(&self.config);
        let mut control = Process::start(&mut command, &self.log)?;
        control.wait_for_line("ready", SOON)?;
        self.control = Some(control);
        Ok(())
    }

    /// Ends both planes as an administrator does.
    pub fn stop(&mut self) -> Result<()> {
        let mut control = self.control.take().context("no control plane runs")?;
        control.terminate(SOON)?;
        self.next_log(control.pid());
        Ok(())
    }

    /// Kills the control plane; the data plane goes on.
    pub fn kill_control(&mut self) -> Result<()> {
        let mut control = self.control.take().context("no control plane runs")?;
        control.signal(Signal::Kill)?;
        control.wait(SOON)?;
        self.next_log(control.pid());
        Ok(())
    }

    /// The line that a start waits for must be its own.
    fn next_log(&mut self, pid: u32) {
        self.log = self.dir.path().join(format!("after-{pid}.log"));
    }

    /// Freezes the control plane, or lets it go on.
    pub fn signal_control(&self, signal: Signal) -> Result<()> {
        self.control.as_ref().context("no control plane runs")?.signal(signal)
    }

    pub fn kill_data_plane(netns: &Netns) -> Result<()> {
        let is_it = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "adit-dataplane");
        let pid = netns.processes().into_iter().find(is_it).context("no data plane runs")?;
        signal(pid, Signal::Kill)?;
        wait_until("the data plane ends", SOON, || Ok(!is_running(pid)))
    }
}
