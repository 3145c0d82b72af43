//! IKE in the loop of a gateway: what comes from the data plane goes to the engine, what the engine wants goes to the data plane,
//! and what it sends goes out when the data plane can open the answers.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use adit_engine::crypto::Secret;
use adit_engine::ike::{Event, Transmit};
use adit_engine::path::{Hop, PathEvent, UdpHop};
use adit_proto::control::{Direction, InjectHeader, Mode, Spi};
use anyhow::Context;
use zeroize::Zeroizing;

use super::{Gateway, Plane};
use crate::dataplane::Tables;
use crate::ike::Ike;
use crate::netlink::KernelUnderlay;
use crate::schema;

/// How long the peers may take at the end to answer that we go.
const GOODBYE: Duration = Duration::from_millis(500);
/// How long it may take until they are told: there may be many, a data plane without a core, or a request that is to be answered first.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Waits until IKE has something to do.
pub(super) async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

impl Gateway {
    /// Makes the engine ready for a data plane: the first time from what a predecessor left, then with nothing installed.
    pub(super) fn ready_ike(
        &mut self,
        live: &[(u16, adit_channel::LiveSa)],
        left: &Zeroizing<Vec<u8>>,
        tables: Tables,
    ) -> anyhow::Result<()> {
        self.underlay.port500.make_room(tables.peers.into());
        let config = &self.desired.config;
        if let Some(ike) = &mut self.ike {
            let listen = config.listen;
            ike.data_plane_restarted(config, tables);
            self.rebind(listen);
            return Ok(());
        }
        let secret = Secret::copy_of(&self.durable.state().crash_secret()?);
        let underlay = KernelUnderlay::open(&config.interface.name, config.listen.ip());
        let underlay = underlay.context("a netlink socket to ask for routes")?;
        let mut ike = Ike::new(config, (&self.ids, self.underlay.resolver.known()), tables, secret, Box::new(underlay))
            .context("the configuration of IKE")?;
        ike.recall_proofs(self.durable.state().proofs());
        if !left.is_empty() {
            ike.restore(left, live);
            self.peer_log.resume(true);
        }
        self.ike = Some(ike);
        Ok(())
    }

    /// Carries out what the engine wants, as far as that is possible now.
    pub(super) fn drive_ike(&mut self, plane: &mut Plane) -> anyhow::Result<()> {
        let Some(ike) = &mut self.ike else { return Ok(()) };
        let commands = ike.commands();
        if ike.take_going() {
            self.view.count_sas();
            self.vault.sas_go();
        }
        commands.iter().for_each(|(_, command)| self.underlay.port500.note(command));
        plane.command_queue.extend(commands);
        let news = ike.news();
        if let Some(files) = &mut self.key_log {
            // Before the first packet under them.
            news.iter()
                .filter_map(|event| if let Event::KeyLog(log) = event { Some(log) } else { None })
                .for_each(|log| files.add(log));
        }
        if ike.unsaved() {
            self.vault.save_ike(&self.view, ike);
        }
        self.pump(plane)?;
        // The peer may use what our message promises as soon as it has it.
        self.send_waiting(plane.command_queue.settled());
        for event in &news {
            if let Some(ike) = &self.ike {
                self.peer_log.tell(event, ike);
            }
            self.look_again(event);
        }
        self.peer_log.resume(false);
        if self.desired.config.mode == Mode::Ip
            && news.iter().any(|event| matches!(event, Event::Path(PathEvent::Set { .. } | PathEvent::Peer { .. })))
        {
            self.upkeep.paths_changed();
        }
        Ok(())
    }

    pub(super) fn tick_ike(&mut self) {
        if let Some(ike) = &mut self.ike {
            ike.tick();
        }
        self.report_moves();
    }

    /// Takes what came to the port without NAT traversal.
    pub(super) fn take_port500(&mut self) {
        if let Some(ike) = &mut self.ike {
            self.underlay.port500.take(|came, datagram| ike.receive_port500(came, datagram));
        }
    }

    /// Takes what routers said of packets of ours, and counts whether it is believed.
    pub(super) fn hear_routers(&mut self) {
        let Some(ike) = &mut self.ike else { return };
        let (sas, ids) = (&self.desired.sas, &self.ids);
        let of_static_keys = |spi: Spi| {
            let uses = sas.iter().filter(|sa| sa.direction == Direction::Outbound && sa.spi == spi);
            uses.filter_map(|sa| ids.get(sa.peer).copied()).collect()
        };
        let [believed, ignored] = [&self.view.believed_icmp, &self.view.ignored_icmp];
        self.underlay.icmp.take(|said| {
            let is_believed = said.is_some_and(|said| ike.too_big(&said, of_static_keys));
            let counter = if is_believed { believed } else { ignored };
            counter.fetch_add(1, Ordering::Relaxed);
        });
    }

    /// Moves the SAs whose packets leave from another address now.
    pub(super) fn look_at_addresses(&mut self) {
        self.underlay.looked(&self.desired.config);
        self.around.changed();
        self.look_for_peers();
        if let Some(ike) = &mut self.ike {
            ike.readdress();
        }
        self.seek_candidates();
        self.report_moves();
    }

    fn report_moves(&mut self) {
        let moved = self.ike.as_mut().map_or(0, Ike::take_readdressed);
        if moved > 0 {
            tracing::info!("the way to {moved} peers begins at another address of ours now: they are told");
        }
    }

    /// Shows the API how IKE does, and the relay.
    pub(super) fn publish_ike(&self) {
        if let Some(ike) = &self.ike {
            self.view.set_ike(ike.report());
        }
        let relay = self.streams.report();
        self.view.set_relay(relay.map(|relay| schema::Relay { candidates: self.candidates.shown(), ..relay }));
    }

    fn send_waiting(&mut self, settled: bool) {
        let (Some(ike), port500, streams) = (&mut self.ike, &self.underlay.port500, &self.streams) else { return };
        self.view.with_master(|master| {
            while let Some(transmit) = ike.transmit(settled) {
                let hop = match transmit.hop {
                    Hop::Udp(hop) => hop,
                    Hop::Stream(stream) => {
                        streams.send_ike(stream, &transmit.payload);
                        continue;
                    }
                };
                if transmit.hop.is_from_ike_port() {
                    port500.send(&hop, &transmit.payload);
                } else if !inject(master, &hop, &transmit) {
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
        let began = Instant::now();
        // When the last of them was told.
        let mut told = None;
        while began.elapsed() < LAST_WORDS && told.is_none_or(|told: Instant| told.elapsed() < GOODBYE) {
            if self.drive_ike(plane).is_err() {
                return;
            }
            // Before answers are taken: what follows from them is to be sent, too.
            let Some(ike) = self.ike.as_ref() else { return };
            if !ike.waits() && ike.is_quiet() {
                return;
            }
            told = (!ike.waits() && !ike.has_last_words()).then(|| told.unwrap_or_else(Instant::now));
            // Answers, and what the workers say of our commands.
            self.drain(plane);
            // What is not answered is asked again.
            if self.ike.as_ref().and_then(Ike::due).is_some_and(|due| due <= Instant::now()) {
                self.tick_ike();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Sends from the port that the data uses. False when there is no room now.
fn inject(master: &mut adit_channel::Master, hop: &UdpHop, transmit: &Transmit) -> bool {
    // What is too long for the ring can never be sent; what finds it full, later.
    let local = Some(hop.local.ip()).filter(|local| !local.is_unspecified());
    let (interface, fragments) = (hop.interface, transmit.fragments);
    let header = InjectHeader { local, interface, fragments, ..InjectHeader::to(hop.remote) };
    !matches!(master.inject(0, &header, &transmit.payload), Err(adit_channel::SendError::Full))
}
