//! Filling a data plane: peers, keys, pinned addresses, and the interface in the kernel. The order is such that nothing is
//! used before it may be used: inbound SAs first, outbound ones once their sequence numbers are durable.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use adit_channel::LiveSa;
use adit_proto::control::{Command, Direction, PeerId, Spi};
use anyhow::Context;

use super::durable::{ANSWER_WITHIN, clock_ns};
use super::{Found, Gateway, Granted, Plane};
use crate::dataplane::{self, Process, Tables};
use crate::desired::static_key::WantedSa;
use crate::ike::Ike;
use crate::reconcile::{self, Changes, InstalledState};
use crate::sequence::{self, Grant};
use crate::state::StateError;
use crate::view::Attached;

/// How long the disk is waited for before anything else has its turn, and how often that is from then on.
const GO_ON_AFTER: Duration = Duration::from_millis(250);
const GO_ON_EVERY: Duration = Duration::from_millis(5);
/// How often it is looked, some ten milliseconds each, for SAs that a worker is writing: one that was killed meanwhile never ends.
const LOOKS: usize = 10;

impl Gateway {
    /// Gives a data plane what the configuration says. On failure the process comes back, to be stopped or left.
    pub(super) async fn fill(&mut self, found: Found) -> Result<Plane, (Process, anyhow::Error)> {
        let Found { master, process, log, installed, arguments, ike } = found;
        let started_here = installed.is_none();
        let installed = installed.unwrap_or_default();
        // What a worker is writing just now is there: an SA that is left out here would be made anew.
        let live = (0..LOOKS).find_map(|_| master.all_live_sas()).unwrap_or_else(|| master.live_sas());
        // The engine knows the peers by their ids: they stay for as long as we run.
        if self.ids.is_empty() {
            self.ids = reconcile::peer_ids(&self.desired, &live, &installed, &BTreeSet::new(), dataplane::max_peers(&arguments));
        }
        if let Err(error) = self.ready_ike(&live, &ike, Tables::of(&arguments, &self.desired.config)) {
            return Err((process, error));
        }
        let peers = reconcile::known_peers(&self.desired.config, &installed, &self.ids);
        self.view.attach(Attached { master, since: Instant::now(), started_here, peers });
        let mut plane = Plane::new(process, log, arguments);
        match self.fill_plane(&mut plane, &live, &installed).await {
            Ok(()) => Ok(plane),
            Err(error) => Err((plane.process, error)),
        }
    }

    async fn bring_interface(&mut self, plane: &mut Plane, is_restart: bool) -> anyhow::Result<()> {
        self.find_interface(plane).await;
        if plane.absence.due().is_some() {
            // Where it is not taken, that is tried again while the gateway runs.
            self.renew_interface(plane).await;
        }
        if plane.absence.due().is_none() {
            let (upkeep, should) = self.interface();
            upkeep.set_up(&should, is_restart).await?;
        }
        Ok(())
    }

    async fn fill_plane(&mut self, plane: &mut Plane, live: &[(u16, LiveSa)], installed: &InstalledState) -> anyhow::Result<()> {
        let is_restart = self.restarts.up_before();
        self.view.inherit(installed.archive.as_ref(), &installed.counted);
        let (new, kept) = match self.bring_plane(plane, live, installed).await {
            Ok(brought) => brought,
            // What needs no disk goes on; the rest is tried again.
            Err(error) if is_restart => {
                tracing::error!("{error:#}. Static keys are without numbers until then");
                plane.incomplete = true;
                (0, live.len())
            }
            Err(error) => return Err(error),
        };
        if !self.options.only_stop {
            self.bring_interface(plane, is_restart).await?;
        }
        if let Some(ike) = &mut self.ike {
            ike.start();
        }
        self.drive_ike(plane)?;
        self.publish_ike();
        if new + kept > 0 {
            tracing::info!("SAs of static keys: {new} installed, {kept} left as they were");
        }
        Ok(())
    }

    /// Brings a data plane from what is installed there to what should be; what is already as it should be is not touched. Gives the
    /// number of SAs that are new, and of those that stay. The order is such that nothing is used before it may be used.
    pub(super) async fn bring_plane(
        &mut self,
        plane: &mut Plane,
        live: &[(u16, LiveSa)],
        installed: &InstalledState,
    ) -> anyhow::Result<(usize, usize)> {
        let (desired, ids) = (self.desired.clone(), self.ids.clone());
        let ike = self.ike.as_ref();
        let owned = |sa: &LiveSa| ike.is_some_and(|ike| ike.has(sa));
        let Changes { before, limits, install, keep } = reconcile::changes(&desired, live, installed, &ids, owned);
        // Until all that is stale is gone, a successor has to know of it; see `settled`.
        plane.settled = false;
        self.leave(self.installed_state(plane).on_the_way_from(installed));
        self.upkeep.replaces(installed.interface());
        self.durable.learn(&desired, live, installed);
        let removes =
            before.iter().any(|(_, command)| matches!(command, Command::SaRemove { direction: Direction::Inbound, .. }));
        let mut durable = false;
        if removes {
            // What has come by an SA that goes is known to us alone from then on: whoever has recorded it could send it again.
            durable = self.save_or_say(plane).await?;
            let live = self.view.with_master(|master| master.live_sas()).unwrap_or_default();
            self.durable.learn(&desired, &live, installed);
        }
        // Peers and paths first: SAs and selectors belong to a peer.
        if let Some(ike) = &mut self.ike {
            ike.remember(installed);
            let commands = ike.commands();
            commands.iter().for_each(|(_, command)| self.underlay.port500.note(command));
            plane.command_queue.extend(commands);
        }
        plane.command_queue.extend(before);
        plane.command_queue.extend(limits);
        for want in install.iter().map(|place| desired.sas[*place]).filter(|want| want.direction == Direction::Inbound) {
            let sa = want.inbound(&desired.config, ids[want.peer], self.durable.top(want.key_id));
            plane.command_queue.push(want.worker, Command::InboundSaInstall(sa));
        }
        self.pump(plane)?;

        plane.granted.clear();
        plane.to_extend.clear();
        for (place, sa) in keep.iter().filter(|(_, sa)| sa.direction == Direction::Outbound) {
            let want = desired.sas[*place];
            // A limit that is not believed is left out: the mark says how far it goes.
            let end = Some(sa.seq_limit.saturating_add(1)).filter(|end| sequence::believable(*end, clock_ns()));
            let granted = Granted { key_id: want.key_id, worker: want.worker, end: end.unwrap_or(0) };
            plane.granted.insert((sa.peer, sa.spi), granted);
            // The request for more may have been made while nobody listened.
            plane.to_extend.insert((sa.peer, sa.spi));
        }
        self.extend_all(plane);
        self.pump(plane)?;
        // Last, for the disk may not take it; then all else is in place.
        let new = install.iter().map(|place| desired.sas[*place]);
        let outbound: Vec<WantedSa> = new.filter(|want| want.direction == Direction::Outbound).collect();
        let grants = self.grant(plane, &outbound).await?;
        for (want, grant) in outbound.iter().zip(grants) {
            let granted = Granted { key_id: want.key_id, worker: want.worker, end: grant.end };
            plane.granted.insert((ids[want.peer], want.spi), granted);
            plane
                .command_queue
                .push(want.worker, Command::OutboundSaInstall(want.outbound(&desired.config, ids[want.peer], grant)));
        }
        self.pump(plane)?;
        // A disk that did not answer before is not waited for a second time.
        if durable {
            self.save_or_say(plane).await?;
        }
        Ok((install.len(), keep.len()))
    }

    /// Sequence numbers for new outbound SAs, durable when this returns.
    async fn grant(&mut self, plane: &mut Plane, wanted: &[WantedSa]) -> anyhow::Result<Vec<Grant>> {
        if wanted.is_empty() {
            // Nothing is to be used, so nobody has to wait for the disk.
            self.durable.begin();
            return Ok(Vec::new());
        }
        let (grants, wait) = self.durable.first_grants(wanted);
        tokio::time::sleep(wait).await;
        self.durable.note_grants(wanted, &grants);
        self.save_meanwhile(plane).await?;
        Ok(grants)
    }

    /// Makes durable what was noted, for what is done whether or not the disk takes it. Says whether it has.
    async fn save_or_say(&mut self, plane: &mut Plane) -> anyhow::Result<bool> {
        let error = match self.save_meanwhile(plane).await {
            Ok(()) => None,
            Err(error) => Some(error.downcast::<StateError>()?),
        };
        let saved = error.is_none();
        self.durable.say(error);
        Ok(saved)
    }

    /// Makes durable what was noted. The disk may be silent: IKE goes on meanwhile.
    async fn save_meanwhile(&mut self, plane: &mut Plane) -> anyhow::Result<()> {
        let began = tokio::time::Instant::now();
        let (by, mut turn) = (began + ANSWER_WITHIN, began + GO_ON_AFTER);
        loop {
            match self.durable.save_by(turn).await {
                Some(saved) => return saved.map_err(Into::into),
                None if turn >= by => return Err(self.durable.silent().into()),
                None => self.go_on(plane)?,
            }
            turn = by.min(tokio::time::Instant::now() + GO_ON_EVERY);
        }
    }

    /// What cannot wait while the loop waits for something else.
    fn go_on(&mut self, plane: &mut Plane) -> anyhow::Result<()> {
        self.drain(plane);
        self.take_port500();
        if self.ike.as_ref().and_then(Ike::due).is_some_and(|due| due <= Instant::now()) {
            self.tick_ike();
        }
        self.drive_ike(plane)
    }

    /// Everything was sent and answered: the data plane has what it should have, and nothing else.
    pub(super) fn settled(&mut self, plane: &mut Plane) {
        plane.settled = true;
        if !std::mem::replace(&mut plane.was_ready, true) {
            tracing::info!("ready {} ms after the data plane was", plane.since.elapsed().as_millis());
            self.manager.ready();
            self.tell_status();
        }
        self.leave(self.installed_state(plane));
    }

    /// Grants more numbers to all SAs that asked for them, as far as these are durable. The others get theirs when they are.
    pub(super) fn extend_all(&mut self, plane: &mut Plane) {
        let asking: Vec<((PeerId, Spi), Granted)> =
            plane.to_extend.iter().filter_map(|name| Some((*name, *plane.granted.get(name)?))).collect();
        if asking.is_empty() {
            return plane.to_extend.clear();
        }
        plane.to_extend.retain(|name| plane.granted.contains_key(name));
        for ((peer, spi), granted) in asking {
            // Once they are on the disk.
            let Some(end) = self.durable.extend(granted.key_id, granted.end) else { continue };
            plane.to_extend.remove(&(peer, spi));
            plane.granted.insert((peer, spi), Granted { end, ..granted });
            plane.command_queue.push(granted.worker, Command::SeqLimit { peer, spi, seq_limit: end - 1 });
        }
    }

    /// What the next control plane has to know about a data plane that has all it should have.
    fn installed_state(&self, plane: &Plane) -> InstalledState {
        InstalledState::of(&self.desired, plane.arguments.clone(), &self.ids)
    }

    /// Leaves that for it.
    fn leave(&mut self, installed: InstalledState) {
        self.vault.persist(installed, &self.view, self.ike.as_mut());
    }

    /// Sends what the rings take.
    pub(super) fn pump(&self, plane: &mut Plane) -> anyhow::Result<()> {
        let pumped = self.view.with_master(|master| plane.command_queue.pump(master));
        pumped.unwrap_or(Ok(())).context("sending commands to the data plane")
    }
}
