//! The configuration is read again while packets flow: first it is judged as a whole, then the new model takes the place of the old
//! one, and everything is brought there. A file that does not check changes nothing.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::{Gateway, Plane, devices, own_port};
use crate::config::Machine;
use crate::dataplane::{self, Tables};
use crate::desired::Desired;
use crate::desired::reload::{self, Reload};
use crate::reconcile::{self, InstalledState};
use crate::request::{ReloadOptions, RequestError};
use crate::schema;
use crate::survey::{self, Surroundings};

/// How long commands of before may take until a reload begins.
const SETTLE_WITHIN: Duration = Duration::from_secs(2);

impl Gateway {
    /// Reloads because a signal asks for it. True when the data plane is to be replaced.
    pub(super) async fn reload_by_signal(&mut self, plane: Option<&mut Plane>) -> bool {
        match self.reload(plane, ReloadOptions::default()).await {
            Ok(done) => done.replaces_dataplane,
            Err(error) => {
                tracing::error!("SIGHUP: {error}");
                false
            }
        }
    }

    /// Reads the configuration again, and does what it says unless only that is to be told.
    ///
    /// # Errors
    /// It does not check, or cannot be done without what was not asked for: nothing was changed.
    pub(super) async fn reload(
        &mut self,
        mut plane: Option<&mut Plane>,
        options: ReloadOptions,
    ) -> Result<schema::Reload, RequestError> {
        let Some(source) = &self.desired.source else {
            return Err(RequestError::Refused(
                "the configuration came by standard input and cannot be read again: start adit with a file".to_owned(),
            ));
        };
        let file = source.file.clone();
        let interface = self.desired.config.interface.name.clone();
        let read = tokio::task::spawn_blocking(move || read_and_judge(&file, &interface));
        let read = read.await.map_err(|error| RequestError::Refused(format!("the configuration cannot be read: {error}")))?;
        let mut read = read.map_err(RequestError::Unchecked)?;
        read.config.service.clone_from(&self.desired.config.service);
        let port_is_chosen = own_port::settle(&mut read.config, self.durable.state());
        let port_is_chosen = port_is_chosen.map_err(|error| RequestError::Refused(format!("{error:#}")))?;
        let arguments = plane.as_deref().map_or(&[][..], |plane| &plane.arguments);
        let reload = reload::plan(&self.desired, read, arguments, options.restart_dataplane);
        let mut reload = reload.map_err(|refused| RequestError::Refused(refused.to_string()))?;
        let mut report = schema::Reload {
            done: !options.dry_run,
            changes: reload.changes.clone(),
            interrupted: reload.interrupted.iter().cloned().collect(),
            replaces_dataplane: reload.replaces_dataplane,
            problems: Vec::new(),
        };
        if options.dry_run {
            return Ok(report);
        }
        let sockets = self.sockets_for(plane.as_deref(), &mut reload, options).await?;
        self.port_is_chosen = port_is_chosen;
        tracing::info!("reload: {}", summary(&report));
        self.manager.reloading();
        report.replaces_dataplane = reload.replaces_dataplane;
        report.problems = self.put_in_place(plane.as_deref_mut(), reload).await;
        self.renewal.reloaded();
        if let (Some(plane), Some((listen, group))) = (plane, sockets) {
            report.replaces_dataplane |= !self.move_sockets(plane, listen, group).await;
        }
        self.manager.reloaded();
        report.problems.iter().for_each(|problem| tracing::warn!("reload: {problem}"));
        Ok(report)
    }

    /// Sockets where a data plane that stays is to listen, before anything is changed.
    ///
    /// # Errors
    /// Nobody can listen there, and another data plane was not asked for.
    async fn sockets_for(
        &self,
        plane: Option<&Plane>,
        reload: &mut Reload,
        options: ReloadOptions,
    ) -> Result<Option<(SocketAddr, Vec<OwnedFd>)>, RequestError> {
        let Some(listen) = reload.listen.filter(|_| !reload.replaces_dataplane) else { return Ok(None) };
        match devices::bind(&reload.desired.config, listen).await {
            Ok(group) => Ok(Some((listen, group))),
            Err(_) if options.restart_dataplane => {
                // Where it is the data plane itself that has the port, at another address.
                reload.replaces_dataplane = true;
                Ok(None)
            }
            Err(error) => {
                let why = plane.and_then(|plane| devices::still_left(plane, listen)).unwrap_or_else(|| format!("{error:#}"));
                Err(RequestError::Refused(format!("nothing was changed: {why}. Or: {}", reload::REMEDY)))
            }
        }
    }

    /// Puts another model in the place of the one before. What cannot be done at once comes back, and is tried again.
    pub(super) async fn put_in_place(&mut self, mut plane: Option<&mut Plane>, reload: Reload) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(plane) = &mut plane {
            // What was on its way when the reload came is there before the next looks what is there.
            self.settle(plane).await;
        }
        let (old, old_ids) = (self.desired.clone(), self.ids.clone());
        let new = Arc::new(reload.desired);
        let installed = match &plane {
            Some(_) => self.vault.installed().clone(),
            None => InstalledState::of(&old, Vec::new(), &old_ids),
        };
        let arguments = plane.as_deref().map_or(&[][..], |plane| &plane.arguments);
        let tables = Tables::of(arguments, &new.config);
        if !old_ids.is_empty() {
            let known = installed.without(&other_keys(&old, &new));
            let used: BTreeSet<_> = old_ids.iter().copied().collect();
            self.ids = reconcile::peer_ids(&new, &[], &known, &used, dataplane::max_peers(arguments));
        }
        if let Some(ike) = &mut self.ike {
            problems.extend(ike.reconfigure(
                (&old.config, &old_ids),
                (&new.config, &self.ids),
                (&reload.touched, self.underlay.resolver.known()),
                tables,
                reload.renewed,
            ));
            // A person has changed something of them: what follows is news.
            old_ids.iter().chain(&self.ids).for_each(|id| self.peer_log.forget(*id));
        }
        self.desired = new;
        self.around.changed();
        let peers = reconcile::known_peers(&self.desired.config, &installed, &self.ids);
        self.view.set_desired(self.desired.clone(), peers);
        if let Some(plane) = plane.as_deref_mut()
            && let Err(error) = self.bring_reloaded(plane, &installed).await
        {
            plane.incomplete = true;
            problems.push(format!("{error:#}. It is tried again"));
        }
        if let Some(plane) = plane.as_deref() {
            // Peers that have come lack what all of them do.
            self.show_missing(plane);
        }
        if plane.is_some() && !reload.replaces_dataplane {
            let (upkeep, should) = self.interface();
            problems.extend(upkeep.reload(&should).await);
        }
        let desired = self.desired.clone();
        problems.extend(self.listeners.keep(&desired.config).await);
        self.underlay.keep(&desired.config).await;
        self.keep_streams();
        self.seek_candidates();
        // Peers may be others now.
        self.tell_streams(None);
        self.publish_ike();
        problems
    }

    async fn bring_reloaded(&mut self, plane: &mut Plane, installed: &InstalledState) -> anyhow::Result<()> {
        // The SAs of peers that are gone first, then the peers.
        self.drive_ike(plane)?;
        if let Some(ike) = &mut self.ike {
            ike.forget_removed(&self.ids);
        }
        let live = self.view.with_master(|master| master.live_sas()).context("no data plane is attached")?;
        let (new, kept) = self.bring_plane(plane, &live, installed).await?;
        if let Some(ike) = &mut self.ike {
            ike.start();
        }
        self.drive_ike(plane)?;
        let peers = self.desired.config.peers.len();
        tracing::info!("reloaded. Peers: {peers}; SAs of static keys: {new} installed, {kept} left as they were");
        Ok(())
    }

    /// Tries again what a reload could not do.
    pub(super) async fn retry_reload(&mut self, plane: &mut Plane) {
        // A disk that does not answer is not waited for again.
        if !plane.incomplete || !plane.command_queue.settled() || self.durable.is_writing() {
            return;
        }
        let installed = self.vault.installed().clone();
        match self.bring_reloaded(plane, &installed).await {
            Ok(()) => plane.incomplete = false,
            Err(error) => tracing::debug!("{error:#}"),
        }
    }

    /// Waits until the data plane has answered everything.
    async fn settle(&mut self, plane: &mut Plane) {
        let until = Instant::now() + SETTLE_WITHIN;
        while !plane.command_queue.settled() && Instant::now() < until {
            if self.pump(plane).is_err() {
                return;
            }
            self.drain(plane);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if plane.command_queue.settled() {
            self.settled(plane);
        }
    }
}

/// Reads a file and judges it as `adit config check` does; what is wrong with it comes back in words. `interface` is ours as it runs.
fn read_and_judge(file: &Path, interface: &str) -> Result<Desired, String> {
    let read = Desired::read(file, &Machine::here()).map_err(|problems| problems.to_string())?;
    let around = Surroundings::here(&read.config).without(interface);
    match survey::refusal(file, &read.config, &around) {
        Some(problems) => Err(problems),
        None => Ok(read),
    }
}

/// Peers whose keys come from elsewhere than before: by IKE instead of from a file, or the other way round. They begin anew.
fn other_keys(old: &Desired, new: &Desired) -> BTreeSet<String> {
    let by_ike: BTreeSet<(&str, bool)> = old.config.peers.iter().map(|peer| (peer.name.as_str(), peer.ike().is_some())).collect();
    let changed = new.config.peers.iter().filter(|peer| by_ike.contains(&(peer.name.as_str(), peer.ike().is_none())));
    changed.map(|peer| peer.name.clone()).collect()
}

/// One line for the log.
fn summary(report: &schema::Reload) -> String {
    const NAMED: usize = 5;
    if report.changes.is_empty() {
        return "nothing has changed".to_owned();
    }
    let mut line = report.changes.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    if report.changes.len() > NAMED {
        line.push_str(&format!("; and {} more changes", report.changes.len() - NAMED));
    }
    if !report.interrupted.is_empty() {
        line.push_str(&format!(". Tunnels that begin anew or end: {}", report.interrupted.join(", ")));
    }
    line
}
