//! IKE in the loop of a gateway: what comes from the data plane goes to the engine, what the engine wants goes to the data plane,
//! and what it sends goes out when the data plane can open the answers.

use std::time::{Duration, Instant};

use adit_engine::crypto::Secret;
use adit_engine::ike::{Cause, ChildKeys, ConnectionState, Event, IkeSpis, Transmit};
use adit_engine::path::{Hop, IKE_PORT, PathEvent};
use adit_proto::control::{InjectHeader, Mode, PeerId};
use anyhow::Context;
use zeroize::Zeroizing;

use super::log_dedup::reason;
use super::{Gateway, Plane};
use crate::ike::Ike;
use crate::netlink::KernelUnderlay;

/// Several changes come at once when an address is replaced: so long after the first one they are looked at, and no more often
/// than the second.
const SETTLE: Duration = Duration::from_millis(100);
const ADDRESSES_EVERY: Duration = Duration::from_secs(1);
/// How long the peers are told goodbye at the end.
const GOODBYE: Duration = Duration::from_millis(500);

/// Waits until IKE has something to do.
pub(super) async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

impl Gateway {
    /// Makes the engine ready for a data plane: the first time from what a predecessor left, then with nothing installed.
    pub(super) fn ready_ike(&mut self, live: &[(u16, adit_channel::LiveSa)], left: &Zeroizing<Vec<u8>>) -> anyhow::Result<()> {
        if let Some(ike) = &mut self.ike {
            ike.data_plane_restarted();
            return Ok(());
        }
        let secret = Secret::copy_of(&self.state.crash_secret()?);
        let underlay = KernelUnderlay::open(&self.desired.config.interface.name).context("a netlink socket to ask for routes")?;
        let mut ike = Ike::new(&self.desired.config, (&self.ids, self.resolver.known()), secret, Box::new(underlay))
            .context("the configuration of IKE")?;
        if !left.is_empty() {
            ike.restore(left, live);
        }
        self.ike = Some(ike);
        Ok(())
    }

    /// Carries out what the engine wants, as far as that is possible now.
    pub(super) fn drive_ike(&mut self, plane: &mut Plane) -> anyhow::Result<()> {
        let Some(ike) = &mut self.ike else { return Ok(()) };
        let commands = ike.commands();
        if ike.take_going() {
            ike.measure(&self.view.with_master(|master| master.live_sas()).unwrap_or_default());
        }
        plane.command_queue.extend(commands);
        let news = ike.news();
        if let Some(files) = &mut self.key_log {
            // Before the first packet under them.
            news.iter()
                .filter_map(|event| if let Event::KeyLog(log) = event { Some(log) } else { None })
                .for_each(|log| files.add(log));
        }
        if ike.unsaved() {
            self.save_ike();
        }
        self.pump(plane)?;
        // The peer may use what our message promises as soon as it has it.
        self.send_waiting(plane.command_queue.settled());
        news.iter().for_each(|event| {
            self.report(event);
            self.look_again(event);
        });
        if self.desired.config.mode == Mode::Ip && news.iter().any(|event| matches!(event, Event::Path(PathEvent::Set { .. }))) {
            self.upkeep.paths_changed();
        }
        Ok(())
    }

    pub(super) fn tick_ike(&mut self) {
        if let Some(ike) = &mut self.ike {
            ike.tick();
        }
    }

    /// Takes what came to the port without NAT traversal.
    pub(super) fn take_port500(&mut self) {
        if let Some(ike) = &mut self.ike {
            self.port500.take(|came, datagram| ike.receive_port500(came, datagram));
        }
    }

    /// When the addresses of this machine are to be looked at, if they have changed.
    pub(super) fn addresses_changed(&mut self) {
        let soon = Instant::now() + SETTLE;
        let at = self.looked_at_addresses.map_or(soon, |looked| soon.max(looked + ADDRESSES_EVERY));
        self.look_at_addresses_at.get_or_insert(at);
    }

    /// Moves the SAs whose packets leave from another address now.
    pub(super) fn look_at_addresses(&mut self) {
        (self.look_at_addresses_at, self.looked_at_addresses) = (None, Some(Instant::now()));
        self.look_for_peers();
        let moved = self.ike.as_mut().map_or(0, Ike::readdress);
        if moved > 0 {
            tracing::info!("the way to {moved} peers begins at another address of ours now: they are told");
        }
    }

    /// Shows the API how IKE does.
    pub(super) fn publish_ike(&self) {
        if let Some(ike) = &self.ike {
            self.view.set_ike(ike.report());
        }
    }

    fn send_waiting(&mut self, settled: bool) {
        let (Some(ike), port500) = (&mut self.ike, &self.port500) else { return };
        self.view.with_master(|master| {
            while let Some(transmit) = ike.transmit(settled) {
                if transmit.local.port() == IKE_PORT {
                    let hop = Hop { local: transmit.local, interface: transmit.interface, remote: transmit.remote };
                    port500.send(&hop, &transmit.payload);
                } else if !inject(master, &transmit) {
                    ike.keep(transmit);
                    break;
                }
            }
            master.flush();
        });
    }

    /// Tells all peers that we go, so that they need not find out.
    pub(super) async fn say_goodbye(&mut self, plane: &mut Plane) {
        let Some(ike) = self.ike.as_mut().filter(|ike| ike.is_used()) else { return };
        ike.close_all();
        let until = Instant::now() + GOODBYE;
        while Instant::now() < until {
            if self.drive_ike(plane).is_err() {
                return;
            }
            // Answers, and what the workers say of our commands.
            self.drain(plane);
            if self.ike.as_ref().is_none_or(|ike| !ike.waits() && ike.is_quiet()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Writes into the log what has happened, each reason once.
    fn report(&mut self, event: &Event) {
        let now = Instant::now();
        match event {
            Event::State { peer, state, cause, spis } => self.tell_state(now, *peer, *state, cause.as_ref(), *spis),
            Event::IkeUp { peer, spis, replaces } => {
                if let Some(ike) = &self.ike
                    && let Some(hop) = ike.hop(*peer)
                {
                    self.initiators.forget(hop.remote.ip());
                }
                match replaces {
                    Some(old) => self.detail(*peer, &format!("IKE SA {spis} takes the place of {old}")),
                    None => self.detail(*peer, &format!("IKE SA {spis} is up")),
                }
            }
            Event::IkeDown { peer, spis, cause } => self.detail(*peer, &format!("IKE SA {spis} is gone: {cause}")),
            Event::ChildFailed { peer, spis, cause } => {
                let line = format!("no SA for the traffic: {cause}");
                let is_news = self.log_dedup.is_news(now, *peer, &reason(cause), None, true);
                let name = self.name_of(*peer);
                if is_news {
                    tracing::warn!(peer = name, ike = %spis, "{line}. `adit explain {name}` says more");
                } else {
                    tracing::debug!(peer = name, ike = %spis, "{line}");
                }
            }
            Event::InstallInbound(keys) => self.detail(keys.peer, &installed("inbound", keys)),
            Event::InstallOutbound(keys) => self.detail(keys.peer, &installed("outbound", keys)),
            Event::RemoveInbound { peer, spi } => self.detail(*peer, &format!("inbound SA {:08x} removed", spi.0)),
            Event::RemoveOutbound { peer, spi } => self.detail(*peer, &format!("outbound SA {:08x} removed", spi.0)),
            Event::Path(PathEvent::Set { peer, path, hop, mtu, .. }) => {
                let (name, path) = (self.name_of(*peer), path.index());
                tracing::debug!(
                    peer = name,
                    "path {path} leads to {} from {}, with packets of {mtu} bytes",
                    hop.remote,
                    hop.local
                );
            }
            Event::Path(PathEvent::Use { peer, path }) => {
                let hop = self.ike.as_ref().and_then(|ike| ike.path(*peer, *path));
                let to = hop.map_or(String::new(), |hop| format!(": at {} from {}", hop.remote, hop.local));
                self.detail(*peer, &format!("is reached by path {} now{to}", path.index()));
            }
            Event::Path(PathEvent::BlackHole { peer, mtu, .. }) => {
                let name = self.name_of(*peer);
                tracing::warn!(
                    peer = name,
                    "packets above {mtu} bytes vanish on the way, smaller ones arrive: only these are sent from now on"
                );
            }
            Event::Path(PathEvent::Peer { .. } | PathEvent::Remove { .. } | PathEvent::Echo { .. }) => {}
            Event::Refused { from, why, more } => {
                if let Some(line) = self.initiators.line(now, *from, why, *more) {
                    tracing::warn!("{line}");
                }
            }
            Event::KeyLog(_) => {}
        }
    }

    fn tell_state(&mut self, now: Instant, peer: PeerId, state: ConnectionState, cause: Option<&Cause>, spis: Option<IkeSpis>) {
        let failure = cause.is_some_and(|cause| !matches!(cause, Cause::Command | Cause::Replaced | Cause::Removed));
        let line = match cause {
            // What there is goes on.
            Some(cause) if failure && state.is_up() => format!("could not be authenticated anew: {cause}"),
            Some(cause) => format!("{}: {cause}", state.name()),
            None => state.name().to_owned(),
        };
        // The same reason is the same news, whatever is done about it.
        let reason = cause.filter(|_| failure).map(reason);
        let is_news = self.log_dedup.is_news(now, peer, reason.as_ref().unwrap_or(&line), Some(state.is_up()), failure);
        let name = self.name_of(peer);
        let ike = spis.map_or_else(|| "-".to_owned(), |spis| spis.to_string());
        match (is_news, failure) {
            (true, true) => tracing::warn!(peer = name, ike, "{line}. `adit explain {name}` says more"),
            (true, false) => tracing::info!(peer = name, ike, "{line}"),
            (false, _) => tracing::debug!(peer = name, ike, "{line}"),
        }
    }

    /// What comes with every connection; while a peer does not come up for good, nobody wants to read it.
    fn detail(&self, peer: PeerId, line: &str) {
        let name = self.name_of(peer);
        if self.log_dedup.is_failing(Instant::now(), peer) {
            tracing::debug!(peer = name, "{line}");
        } else {
            tracing::info!(peer = name, "{line}");
        }
    }

    fn name_of(&self, id: PeerId) -> &str {
        self.ike.as_ref().and_then(|ike| ike.name(id)).unwrap_or("?")
    }
}

fn installed(direction: &str, keys: &ChildKeys) -> String {
    format!("{direction} SA {:08x} ({}) installed on lane {}", keys.spi.0, keys.suite, keys.lane)
}

/// Sends from the port that the data uses. False when there is no room now.
fn inject(master: &mut adit_channel::Master, transmit: &Transmit) -> bool {
    // What is too long for the ring can never be sent; what finds it full, later.
    let local = Some(transmit.local.ip()).filter(|local| !local.is_unspecified());
    let header = InjectHeader { local, interface: transmit.interface, ..InjectHeader::to(transmit.remote) };
    !matches!(master.inject(0, &header, &transmit.payload), Err(adit_channel::SendError::Full))
}
