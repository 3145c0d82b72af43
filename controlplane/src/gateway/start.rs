//! Bringing a data plane up: attach to the one that runs, when it runs as we would have started it; start one otherwise.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use adit_channel::{AttachError, Master, PlaneInfo};
use adit_proto::control::Mode;
use anyhow::{Context, bail};
use zeroize::Zeroizing;

use super::requests::stopped;
use super::{Found, Gateway};
use crate::config::{Config, MacText};
use crate::dataplane::log::Tail;
use crate::dataplane::{self, Ending, Process};
use crate::netlink::Netlink;
use crate::reconcile::{self, InstalledState};
use crate::resolve;
use crate::service;
use crate::vault::{self, Left};

/// How long a data plane may take until it listens at its socket.
const START_WITHIN: Duration = Duration::from_secs(10);
/// How long the kernel may take to release interface and port of a data plane that ended.
const RELEASE_WITHIN: Duration = Duration::from_secs(1);
/// How often it is looked whether the address to listen at has come.
const LOOK_FOR_ADDRESS_EVERY: Duration = Duration::from_millis(500);
/// How often it is looked whether the service has started a data plane.
const LOOK_FOR_SERVICE_EVERY: Duration = Duration::from_millis(20);
/// How often its socket is tried until then.
const TRY_EVERY: Duration = Duration::from_millis(2);

impl Gateway {
    /// A data plane that runs as the configuration says. `None` when told to stop meanwhile.
    pub(super) async fn find(&mut self) -> anyhow::Result<Option<Found>> {
        let mut left = Zeroizing::default();
        loop {
            if let Some(found) = self.attach(&mut left).await? {
                return Ok(Some(found));
            }
            if self.options.only_stop {
                return Ok(None);
            }
            match self.desired.config.service.clone() {
                None => return self.start(left).await,
                Some(service) if self.await_service(&service).await? => {}
                Some(_) => return Ok(None),
            }
        }
    }

    /// The data plane that is there, where it fits; one that does not is ended, and its IKE SAs are `left`.
    async fn attach(&mut self, left: &mut Zeroizing<Vec<u8>>) -> anyhow::Result<Option<Found>> {
        let socket = self.desired.config.channel_socket();
        let attached = match Master::attach(&socket) {
            // It, or we, may have been stopped for a while.
            Err(AttachError::Silent { .. }) => Master::attach(&socket),
            attached => attached,
        };
        match attached {
            Ok(master) => {
                let process = Process::of(&master).context("watching the data plane")?;
                let pid = process.pid;
                let Left { installed, ike } = vault::split(&Zeroizing::new(master.vault_read()));
                // One that nobody has filled yet is as good as one that we have started.
                if installed.is_none() && self.desired.config.service.is_some() {
                    let arguments = master.info().arguments.clone();
                    if dataplane::misfits(&arguments, &self.desired.config).is_empty() {
                        tracing::info!("the data plane (process {pid}, version {}) is there", master.info().version);
                        let (log, ike) = (Tail::from_end(&self.log_path()), std::mem::take(left));
                        return Ok(Some(Found { master, process, log, installed: None, arguments, ike }));
                    }
                }
                match differences(&self.desired.config, installed.as_ref(), master.info()) {
                    Ok(installed) => return Ok(Some(self.adopt(master, process, installed.clone(), ike))),
                    Err(differences) => {
                        tracing::warn!("a data plane (process {pid}) runs with other settings ({differences}); it is restarted");
                        let installed = installed.unwrap_or_default();
                        // The IKE SAs go on, under the ids that they know.
                        self.ids = reconcile::peer_ids(
                            &self.desired,
                            &[],
                            &installed,
                            &BTreeSet::new(),
                            self.desired.config.max_peers(),
                        );
                        self.retire(master, process, installed).await?;
                        *left = ike;
                    }
                }
            }
            Err(AttachError::Absent(_)) => {}
            Err(error @ (AttachError::Version { .. } | AttachError::Corrupt(_))) => {
                let pid = dataplane::owner(&socket).context("asking the kernel whose data plane this is")?;
                tracing::warn!("a data plane (process {pid}) runs that we cannot talk to; it is ended: {error}");
                self.end_stranger(pid, &socket).await?;
                self.ended = Some(pid);
            }
            Err(AttachError::Silent { pid }) => {
                tracing::warn!("a data plane (process {pid}) runs and does not answer: it hangs; it is killed");
                self.want_no_plane();
                watch(pid)?.kill().await;
                self.ended = Some(pid);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(None)
    }

    /// Has the service start a data plane, and waits for it; false when told to stop meanwhile.
    async fn await_service(&mut self, service: &str) -> anyhow::Result<bool> {
        if !self.wait_for_address().await {
            return Ok(false);
        }
        // While it starts one as it was told to before, that one may have interface and port already.
        if !service::is_wanted(service, &dataplane::arguments(&self.desired.config)) {
            service::want_none(service);
            match self.wait_until_free().await {
                // One that had read what was wanted before has come: it is attached to, and judged.
                Err(_) if dataplane::owner(&self.desired.config.channel_socket()).is_ok() => return Ok(true),
                Err(error) if !self.choose_another_port()? => return Err(error),
                _ => {}
            }
        }
        let config = &self.desired.config;
        service::want(service, &dataplane::arguments(config))?;
        let socket = config.channel_socket();
        let began = Instant::now();
        let mut said = false;
        while dataplane::owner(&socket).is_err() {
            if began.elapsed() > START_WITHIN && !std::mem::replace(&mut said, true) {
                tracing::warn!(
                    "no data plane has come within {} s: what does systemctl status adit-dataplane@{service} say?",
                    START_WITHIN.as_secs()
                );
                self.listeners.serve();
            }
            if !self.rest(LOOK_FOR_SERVICE_EVERY).await {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Ends a data plane that cannot be kept, and keeps what only its memory says.
    async fn retire(&mut self, master: Master, mut process: Process, installed: InstalledState) -> anyhow::Result<()> {
        // Before its end, in case ours comes first; after it, because it has worked until then.
        self.durable.learn(&self.desired, &master.live_sas(), &installed);
        self.durable.save().await?;
        self.end_plane(&mut process).await;
        self.ended = Some(process.pid);
        self.durable.learn(&self.desired, &master.live_sas(), &installed);
        self.durable.save().await?;
        self.view.inherit(installed.archive.as_ref(), &installed.counted);
        self.view.add_totals(&master, &installed.peers().collect());
        Ok(())
    }

    /// Ends a data plane that is not ours.
    async fn end_stranger(&self, pid: u32, socket: &Path) -> anyhow::Result<()> {
        let mut process = watch(pid)?;
        // One of another user hears us only as its control plane; ours hears a signal.
        process.channel = adit_channel::mastership(socket).ok();
        self.end_plane(&mut process).await;
        Ok(())
    }

    fn adopt(&self, master: Master, process: Process, installed: InstalledState, ike: Zeroizing<Vec<u8>>) -> Found {
        tracing::info!("attached to the data plane that runs (process {}, version {})", process.pid, master.info().version);
        let arguments = installed.arguments.clone();
        Found { master, process, log: Tail::from_end(&self.log_path()), installed: Some(installed), arguments, ike }
    }

    fn log_path(&self) -> PathBuf {
        self.desired.config.runtime_dir.join("dataplane.log")
    }

    /// Waits until interface and port are free. The kernel may release those of a killed data plane a little late.
    pub(super) async fn wait_until_free(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        while let Some(held) = holder(&self.desired.config).await {
            anyhow::ensure!(began.elapsed() < RELEASE_WITHIN, "{held}");
            tokio::time::sleep(TRY_EVERY).await;
        }
        Ok(())
    }

    /// Waits until an interface of this machine has the address in `listen`; false when told to stop meanwhile.
    async fn wait_for_address(&mut self) -> bool {
        let mut said = false;
        loop {
            let config = &self.desired.config;
            let missing = match resolve::listen_now(config).map(std::net::UdpSocket::bind) {
                None => true,
                Some(bound) => bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable),
            };
            if !missing {
                // Other faults the data plane explains itself.
                return true;
            }
            if !std::mem::replace(&mut said, true) {
                let address = config.listen_text();
                tracing::warn!(
                    "no interface of this machine has the address {address} (listen): it is waited for. Is it misspelt?"
                );
                self.listeners.serve();
            }
            if !self.rest(LOOK_FOR_ADDRESS_EVERY).await {
                return false;
            }
        }
    }

    async fn start(&mut self, left: Zeroizing<Vec<u8>>) -> anyhow::Result<Option<Found>> {
        if !self.wait_for_address().await {
            return Ok(None);
        }
        let config = &self.desired.config;
        let socket = config.channel_socket();
        let program = dataplane::find_program(config)?;
        match self.wait_until_free().await {
            Err(error) if !self.choose_another_port()? => return Err(error),
            _ => {}
        }
        let config = &self.desired.config;
        let mut log = Tail::from_end(&self.log_path());
        let began = Instant::now();
        let arguments = dataplane::arguments(config);
        let mut process = Process::spawn(&program, &arguments, &self.log_path())
            .with_context(|| format!("the data plane {} cannot be started", program.display()))?;
        loop {
            log.forward();
            match Master::attach(&socket) {
                Ok(master) => {
                    // Without CAP_KILL, not even root can send a signal to a child that is another user by now.
                    process.channel = master.socket_fd().try_clone_to_owned().ok();
                    let ms = began.elapsed().as_millis();
                    tracing::info!("started the data plane {} (process {}) in {ms} ms", program.display(), process.pid);
                    return Ok(Some(Found { master, process, log, installed: None, arguments, ike: left }));
                }
                // It listens before it has started its workers, and serves only then.
                Err(AttachError::Absent(_) | AttachError::Silent { .. }) if began.elapsed() < START_WITHIN => {}
                Err(error) => {
                    process.stop().await;
                    log.forward();
                    return Err(error).with_context(|| said(&log, "the data plane did not come up"));
                }
            }
            tokio::select! {
                ending = process.ended() => {
                    log.forward();
                    bail!("{}", cause(&log, ending));
                }
                () = stopped(&mut self.requests.stop) => {
                    process.stop().await;
                    return Ok(None);
                }
                () = tokio::time::sleep(TRY_EVERY) => {}
            }
        }
    }
}

/// Who else holds what the data plane needs. Both would let a second one in silently and share the packets between them.
async fn holder(config: &Config) -> Option<String> {
    let name = &config.interface.name;
    if let Ok(netlink) = Netlink::open()
        && netlink.has_link(name).await
    {
        return Some(format!(
            "the interface {name} exists already: another program made it. Stop that, remove it (ip link del {name}), or \
             choose another interface.name"
        ));
    }
    match std::net::UdpSocket::bind(resolve::listen_now(config)?) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Some(format!(
            "the UDP address {} is in use: stop the program that has it (ss -ulnp shows it), or choose another port in listen",
            config.listen
        )),
        // Other faults the data plane explains itself.
        _ => None,
    }
}

fn watch(pid: u32) -> anyhow::Result<Process> {
    Process::watch(pid).with_context(|| format!("stopping the data plane (process {pid})"))
}

/// What an earlier control plane left, or in what the running data plane differs from the wanted one.
fn differences<'a>(
    config: &Config,
    installed: Option<&'a InstalledState>,
    info: &PlaneInfo,
) -> Result<&'a InstalledState, String> {
    let Some(installed) = installed else {
        return Err("nobody knows which: its control plane died before it could tell".to_owned());
    };
    let mut differences = dataplane::misfits(&installed.arguments, config);
    if differences.is_empty() {
        differences = contradictions(config, info);
    }
    if differences.is_empty() { Ok(installed) } else { Err(differences.join(", ")) }
}

/// In what a running data plane differs from its own command line: somebody else started it.
fn contradictions(config: &Config, info: &PlaneInfo) -> Vec<String> {
    let mut list = Vec::new();
    let mut check = |what: &str, is: String, should: String| {
        if is != should {
            list.push(format!("{what} {is} → {should}"));
        }
    };
    check("tap", info.tap.clone(), config.interface.name.clone());
    check("mode", info.mode.name().to_owned(), config.mode.name().to_owned());
    if config.mode == Mode::Ethernet {
        check("tap-mac", MacText(info.tap_mac).to_string(), MacText(config.interface.mac).to_string());
    }
    check("listen", info.listen.to_string(), resolve::listen_now(config).unwrap_or(config.listen).to_string());
    check("workers", info.workers.to_string(), config.dataplane.workers.to_string());
    list
}

/// Why a data plane ended at its start: its own last words where it had any.
fn cause(log: &Tail, ending: Ending) -> String {
    match log.last_line() {
        Some(line) => format!("the data plane cannot run: {line}"),
        None => format!("the data plane {ending} without a word"),
    }
}

fn said(log: &Tail, what: &str) -> String {
    log.last_line().map_or(what.to_owned(), |line| format!("{what} (its last message: {line})"))
}
