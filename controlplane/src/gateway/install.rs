//! Filling a data plane: peers, keys, pinned addresses, and the interface in the kernel. The order is such that nothing is
//! used before it may be used: inbound SAs first, outbound ones once their sequence numbers are durable.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use adit_channel::LiveSa;
use adit_proto::control::{Command, Direction};
use anyhow::Context;

use super::{Found, Gateway, Granted, Plane, clock_ns};
use crate::dataplane::{self, Process};
use crate::desired::static_key::WantedSa;
use crate::reconcile::{self, Changes, InstalledState};
use crate::sequence::{self, Grant};
use crate::view::Attached;

/// A clock that is behind the mark by more than this is worth a warning.
const BEHIND_WARN_NS: u64 = 1_000_000_000;

impl Gateway {
    /// Gives a data plane what the configuration says. On failure the process comes back, to be stopped or left.
    pub(super) async fn fill(&mut self, found: Found) -> Result<Plane, (Process, anyhow::Error)> {
        let Found { master, process, log, installed, arguments, ike } = found;
        let started_here = installed.is_none();
        let installed = installed.unwrap_or_default();
        let live = master.live_sas();
        self.arguments = arguments;
        // The engine knows the peers by their ids: they stay for as long as we run.
        if self.ids.is_empty() {
            self.ids =
                reconcile::peer_ids(&self.desired, &live, &installed, &BTreeSet::new(), dataplane::max_peers(&self.arguments));
        }
        if let Err(error) = self.ready_ike(&live, &ike) {
            return Err((process, error));
        }
        let peers = reconcile::known_peers(&self.desired.config, &installed, &self.ids);
        self.view.attach(Attached { master, since: Instant::now(), started_here, peers });
        let mut plane = Plane::new(process, log);
        match self.fill_plane(&mut plane, &live, &installed).await {
            Ok(()) => Ok(plane),
            Err(error) => Err((plane.process, error)),
        }
    }

    async fn fill_plane(&mut self, plane: &mut Plane, live: &[(u16, LiveSa)], installed: &InstalledState) -> anyhow::Result<()> {
        if let Some(archive) = installed.archive.clone() {
            self.view.inherit(archive);
        }
        let (new, kept) = self.bring_plane(plane, live, installed).await?;
        self.set_up_interface().await?;
        if let Some(ike) = &mut self.ike {
            ike.start();
        }
        self.drive_ike(plane)?;
        self.publish_ike();
        tracing::info!("peers: {}; SAs: {new} installed, {kept} left as they were", self.desired.config.peers.len());
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
        let Changes { before, install, keep } = reconcile::changes(&desired, live, installed, &ids, owned);
        // Until all that is stale is gone, a successor has to know of it; see `settled`.
        plane.settled = false;
        self.persist(self.installed_state().on_the_way_from(installed));
        self.upkeep.replaces(installed.interface());
        self.learn(live, installed);
        // Peers and paths first: SAs and selectors belong to a peer.
        if let Some(ike) = &mut self.ike {
            ike.remember(installed);
            plane.command_queue.extend(ike.commands());
        }
        plane.command_queue.extend(before);
        for want in install.iter().map(|place| desired.sas[*place]).filter(|want| want.direction == Direction::Inbound) {
            let sa = want.inbound(&desired.config, ids[want.peer], self.state.top(want.key_id));
            plane.command_queue.push(want.worker, Command::InboundSaInstall(sa));
        }
        self.pump(plane)?;

        plane.granted.clear();
        plane.to_extend.clear();
        let new = install.iter().map(|place| desired.sas[*place]);
        let outbound: Vec<WantedSa> = new.filter(|want| want.direction == Direction::Outbound).collect();
        let grants = self.grant(&outbound).await?;
        for (want, grant) in outbound.iter().zip(grants) {
            let granted = Granted { key_id: want.key_id, worker: want.worker, end: grant.end };
            plane.granted.insert((ids[want.peer], want.spi), granted);
            plane
                .command_queue
                .push(want.worker, Command::OutboundSaInstall(want.outbound(&desired.config, ids[want.peer], grant)));
        }
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
        Ok((install.len(), keep.len()))
    }

    /// Everything was sent and answered: the data plane has what it should have, and nothing else.
    pub(super) fn settled(&mut self, plane: &mut Plane) {
        plane.settled = true;
        if !std::mem::replace(&mut plane.was_ready, true) {
            tracing::info!("ready {} ms after the data plane was", plane.since.elapsed().as_millis());
        }
        self.persist(self.installed_state());
    }

    /// Sequence numbers for new outbound SAs, durable when this returns.
    async fn grant(&mut self, wanted: &[WantedSa]) -> anyhow::Result<Vec<Grant>> {
        let now = clock_ns();
        let ids: Vec<_> = wanted.iter().map(|want| want.key_id).collect();
        let grants: Vec<Grant> = ids.iter().map(|id| sequence::first(self.state.mark(*id), now)).collect();
        let wait = grants.iter().map(|grant| grant.wait_ns(now)).max().unwrap_or(0);
        tokio::time::sleep(Duration::from_nanos(wait)).await;
        if let Some(behind) = grants.iter().map(|grant| grant.clock_behind_ns).max().filter(|behind| *behind > BEHIND_WARN_NS) {
            tracing::warn!(
                "the clock is {} s behind the sequence numbers in {}: it was set back. Do not lose that directory before it has caught up",
                behind / 1_000_000_000,
                self.desired.config.state_dir.display()
            );
        }
        for (id, grant) in ids.iter().zip(&grants) {
            self.state.raise_mark(*id, grant.end);
        }
        self.save()?;
        Ok(grants)
    }

    /// Grants more numbers to all SAs that asked for them. One that cannot get them now is tried again later.
    pub(super) fn extend_all(&mut self, plane: &mut Plane) {
        if plane.to_extend.is_empty() {
            return;
        }
        let now = clock_ns();
        let mut limits = Vec::new();
        for name in &plane.to_extend {
            let Some(granted) = plane.granted.get(name) else { continue };
            let end = sequence::extend(granted.end, self.state.mark(granted.key_id), now);
            self.state.raise_mark(granted.key_id, end);
            limits.push((*name, Granted { end, ..*granted }));
        }
        if let Err(error) = self.save() {
            tracing::error!("no more sequence numbers can be granted: {error}");
            return;
        }
        plane.to_extend.clear();
        for ((peer, spi), granted) in limits {
            plane.granted.insert((peer, spi), granted);
            plane.command_queue.push(granted.worker, Command::SeqLimit { peer, spi, seq_limit: granted.end - 1 });
        }
    }

    /// Sends what the rings take.
    pub(super) fn pump(&self, plane: &mut Plane) -> anyhow::Result<()> {
        let pumped = self.view.with_master(|master| plane.command_queue.pump(master));
        pumped.unwrap_or(Ok(())).context("sending commands to the data plane")
    }
}
