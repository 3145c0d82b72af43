//! The time in which all is well: events, punts and deadlines of an attached data plane, until it dies or we are stopped.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use adit_channel::{LiveSa, Master};
use adit_proto::control::{Event, Feature, Place, PuntHeader, Via};
use adit_proto::demux::{self, Kind};
use anyhow::Context;
use tokio::io::unix::AsyncFd;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::requests::stopped;
use super::standing::Look;
use super::watchdog::Watchdog;
use super::{Ended, Gateway, Plane, engine_loop};
use crate::ike::Ike;
use crate::view::View;
use crate::view::status::PeerView;
use crate::{status, system};

/// How often rates are taken and unsettled things are tried again.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the tops of the replay windows are saved: what an attacker could replay after a crash of the machine. And how often it is
/// looked whether keys and certificates were renewed, and whether the data plane has all it should have.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// How often the log of the data plane is read.
const LOG_EVERY: Duration = Duration::from_millis(250);
/// How often it is looked which paths carry packets: a black hole must be noticed within two seconds.
const WATCH_TRAFFIC_EVERY: Duration = Duration::from_millis(500);
/// How often commands are tried again that found a ring full.
const RETRY_AFTER: Duration = Duration::from_millis(2);
/// Events, and datagrams, taken from the data plane in one go.
const SHARE: usize = 1024;

/// The descriptors of the channel, watched.
struct Channel {
    events: AsyncFd<OwnedFd>,
    socket: AsyncFd<OwnedFd>,
}

impl Gateway {
    /// Watches until the end.
    pub(super) async fn watch(&mut self, plane: &mut Plane) -> Ended {
        match self.watch_plane(plane).await {
            Ok(ended) => ended,
            Err(error) => {
                // A channel that cannot be used any more: only a new data plane has a new one.
                plane.process.stop().await;
                Ended::Died(format!("the data plane was stopped: {error:#}"))
            }
        }
    }

    fn channel(&self) -> anyhow::Result<Channel> {
        let open = |master: &mut Master| -> io::Result<Channel> {
            Ok(Channel {
                events: system::watch(master.event_fd().try_clone_to_owned()?)?,
                socket: system::watch(master.socket_fd().try_clone_to_owned()?)?,
            })
        };
        self.view.with_master(open).context("no data plane is attached")?.context("watching the channel")
    }

    async fn watch_plane(&mut self, plane: &mut Plane) -> anyhow::Result<Ended> {
        let channel = self.channel()?;
        let (mut look, mut save, mut log) = (timer(LOOK_EVERY), timer(SAVE_EVERY), timer(LOG_EVERY));
        let mut traffic = timer(WATCH_TRAFFIC_EVERY);
        let (mut more, mut replaced, mut watchdog) = (false, false, Watchdog::default());
        loop {
            self.drive_ike(plane)?;
            let waits = plane.command_queue.waits() || self.ike_waits(plane);
            let due = self.ike.as_ref().and_then(|ike| ike.due());
            tokio::select! {
                () = stopped(&mut self.requests.stop) => return Ok(Ended::Stop),
                ending = plane.process.ended() => {
                    return Ok(Ended::Died(format!("the data plane (process {}) {ending}", plane.process.pid)));
                }
                ready = channel.socket.readable() => {
                    ready?.clear_ready();
                    if !self.is_alive() {
                        // Its interface and port must be free before the next one starts.
                        let ending = plane.process.stop().await;
                        return Ok(Ended::Died(format!("the data plane (process {}) {ending}", plane.process.pid)));
                    }
                }
                ready = channel.events.readable() => {
                    ready?.clear_ready();
                    more = self.drain(plane);
                    self.pump(plane)?;
                }
                () = tokio::task::yield_now(), if more => {
                    more = self.drain(plane);
                    self.pump(plane)?;
                }
                () = tokio::time::sleep(RETRY_AFTER), if waits => self.pump(plane)?,
                () = engine_loop::due(due) => self.tick_ike(),
                () = self.underlay.news.underlay() => self.underlay.changed(),
                () = self.underlay.news.interface() => self.upkeep.news(),
                () = engine_loop::due(self.upkeep.due()) => self.tend_interface(plane).await,
                () = engine_loop::due(self.underlay.due()) => self.look_at_addresses(),
                () = self.underlay.port500.ready() => self.take_port500(),
                () = self.underlay.icmp.ready() => self.hear_routers(),
                () = self.underlay.resolver.news() => self.look_for_peers(),
                () = engine_loop::due(self.candidates.due()) => self.ask_stun(),
                event = self.streams.next() => self.take_from_relay(event),
                Some(request) = self.requests.from_api.recv() => replaced = self.answer(Some(plane), request).await,
                _ = self.requests.hangups.recv() => replaced = self.reload_by_signal(Some(plane)).await,
                _ = look.tick() => {
                    if let Some(ended) = self.look(plane, &mut watchdog).await? {
                        return Ok(ended);
                    }
                }
                _ = save.tick() => self.save(plane).await,
                () = self.durable.written() => {
                    self.extend_all(plane);
                    self.pump(plane)?;
                }
                _ = log.tick() => plane.log.forward(),
                _ = traffic.tick() => self.watch_traffic(),
                () = engine_loop::due(plane.absence.due()) => replaced = !self.renew_interface(plane).await,
            }
            if replaced {
                return Ok(Ended::Replaced);
            }
            if !plane.settled && plane.command_queue.settled() {
                self.settled(plane);
            }
        }
    }

    /// What is done every few seconds.
    async fn save(&mut self, plane: &mut Plane) {
        self.tend_interface(plane).await;
        self.take_renewed(plane, false).await;
        let proofs = self.ike.as_mut().and_then(Ike::new_proofs);
        proofs.into_iter().for_each(|proofs| self.durable.note_proofs(proofs));
        self.durable.note_tops(&self.view);
        self.look_for_lost(plane);
        self.publish_ike();
        let peers = self.view.peers(&self.desired);
        self.tell_headline(&peers);
        self.tell_standing(&peers);
    }

    /// Says in the log which peers are connected and not up, and which are up again.
    fn tell_standing(&mut self, peers: &[PeerView]) {
        let looks = self.ids.iter().zip(peers).map(|(id, PeerView { peer, .. })| Look {
            peer: *id,
            name: &peer.name,
            is_connected: peer.is_connected(),
            lacks: &peer.lacks,
        });
        self.peer_log.tell_standing(looks);
    }

    /// Tells who started us what `adit status` says first.
    pub(super) fn tell_status(&mut self) {
        if self.manager.listens() {
            self.publish_ike();
            self.tell_headline(&self.view.peers(&self.desired));
        }
    }

    fn tell_headline(&mut self, peers: &[PeerView]) {
        if self.manager.listens() {
            self.manager.status(&status::headline(&self.desired.config.name, peers));
        }
    }

    /// What is done once a second; and whether this data plane has to go.
    async fn look(&mut self, plane: &mut Plane, watchdog: &mut Watchdog) -> anyhow::Result<Option<Ended>> {
        self.manager.alive();
        let live = self.view.sample();
        self.tell_usage(&live);
        self.vault.tidy(&self.view, self.ike.as_mut());
        self.durable.watch();
        self.extend_all(plane);
        self.pump(plane)?;
        anyhow::ensure!(!self.is_corrupt(), "a ring between the planes is corrupt");
        self.runtime_dir.keep();
        let desired = self.desired.clone();
        self.listeners.keep(&desired.config).await;
        self.underlay.port500.keep(&desired.config).await;
        self.keep_streams();
        self.keep_candidates();
        self.retry_reload(plane).await;
        self.repair(plane).await?;
        self.look_for_interface(plane).await;
        self.look_around().await;
        if let Some(ike) = &self.ike {
            self.peer_log.tell_recovered(ike);
        }
        if self.listen_has_moved(plane) && !self.follow_listen(plane).await {
            return Ok(Some(Ended::Replaced));
        }
        if self.is_hung(plane, watchdog) {
            // It would not hear a request to end.
            plane.process.kill().await;
            return Ok(Some(Ended::Died(format!("the data plane (process {}) hung and was killed", plane.process.pid))));
        }
        Ok(None)
    }

    async fn tend_interface(&mut self, plane: &mut Plane) {
        if plane.absence.due().is_some() {
            // What has its name now is somebody else's.
            return self.upkeep.postpone();
        }
        let (upkeep, should) = self.interface();
        if !upkeep.tend(&should).await && self.interface_index().is_some() {
            // It has gone with the data plane, which has a watch of its own, or somebody has given it another name. Of that the
            // data plane knows nothing, so it is looked for now and then, and this look is one of two.
            self.look_for_interface(plane).await;
        }
    }

    /// Whether a datagram of IKE found the ring full.
    fn ike_waits(&self, plane: &Plane) -> bool {
        plane.command_queue.settled() && self.ike.as_ref().is_some_and(Ike::waits)
    }

    fn is_alive(&self) -> bool {
        self.view.with_master(|master| master.is_alive()).unwrap_or(false)
    }

    fn is_corrupt(&self) -> bool {
        self.view.with_master(|master| master.is_corrupt()).unwrap_or(false)
    }

    /// Takes what the workers sent up, no more than a share of it: then the other things of the loop have their turn. True when
    /// there may be more.
    pub(super) fn drain(&mut self, plane: &mut Plane) -> bool {
        let mut buf = Vec::new();
        let (view, ike, streams, candidates) = (&self.view, &mut self.ike, &mut self.streams, &mut self.candidates);
        let taken = view.with_master(|master| {
            master.acknowledge();
            let events: Vec<(u16, Event)> = std::iter::from_fn(|| master.poll_event()).take(SHARE).collect();
            let punts = std::iter::from_fn(|| master.poll_punt(&mut buf).map(|(_, came)| (came, buf.clone())));
            let punts = punts.take(SHARE).collect::<Vec<_>>();
            (events, punts, streams.pump(master))
        });
        let (events, punts, has_trains) = taken.unwrap_or_default();
        let more = punts.len() == SHARE || events.len() == SHARE || has_trains;
        let mut is_answered = false;
        for (came, datagram) in &punts {
            if demux::classify(datagram) == Kind::Stun && candidates.take(came, datagram) {
                is_answered = true;
            } else {
                take_punt(view, ike, came, datagram);
            }
        }
        if is_answered {
            self.keep_candidates();
        }
        for (worker, event) in events {
            self.event(plane, worker, event);
        }
        self.extend_all(plane);
        more
    }

    fn event(&mut self, plane: &mut Plane, worker: u16, event: Event) {
        match event {
            Event::Applied { ticket } => plane.command_queue.applied(ticket),
            Event::Refused { ticket, why } => {
                if let Some((command, what)) = plane.command_queue.refused(ticket, why) {
                    self.refused(plane, &command, what);
                }
            }
            Event::SeqHalfway { peer, spi } => {
                if plane.granted.contains_key(&(peer, spi)) {
                    plane.to_extend.insert((peer, spi));
                } else if let Some(ike) = &mut self.ike {
                    ike.sequence_soft_limit(peer);
                }
            }
            Event::InboundSaUsed { peer, spi } => {
                if let Some(ike) = &mut self.ike {
                    ike.first_packet(peer, spi);
                }
            }
            Event::PathSeen { peer, via, bytes, .. } => {
                match via {
                    Via::Udp { from, to } => {
                        tracing::debug!("worker {worker}: peer {} sends from {from} to {} now", peer.0, to.address);
                    }
                    Via::Stream(stream) => tracing::debug!("worker {worker}: peer {} sends in {stream} now", peer.0),
                }
                if let Some(ike) = &mut self.ike {
                    ike.path_seen(peer, via, bytes);
                }
            }
            Event::EchoReply { peer, id, via, rtt_us, .. } => {
                if let Some(ike) = &mut self.ike {
                    ike.echo_reply(peer, id, via, Duration::from_micros(rtt_us.into()));
                }
            }
            Event::EchoUnsent { peer, .. } => {
                if let Some(ike) = &mut self.ike {
                    ike.unsent(peer);
                }
            }
            Event::Degraded { what } => tracing::warn!("worker {worker} goes on without {}", feature(what)),
            Event::InterfaceGone => plane.absence.notice(),
            Event::WorkerFailed { errno, at } => {
                let cause = std::io::Error::from_raw_os_error(errno);
                tracing::error!("worker {worker} failed {}: {cause}", place(at));
            }
        }
    }

    /// Tells the engine which paths carry packets.
    fn watch_traffic(&mut self) {
        let counters = self.view.with_master(|master| master.path_counters());
        if let (Some(ike), Some(counters)) = (&mut self.ike, counters) {
            ike.watch_traffic(&counters);
        }
    }

    /// Tells the engine what has gone through its SAs.
    fn tell_usage(&mut self, live: &[(u16, LiveSa)]) {
        if let Some(ike) = self.ike.as_mut().filter(|ike| ike.is_used()) {
            ike.use_up(live);
            ike.expiring(&self.desired.config).iter().for_each(|line| tracing::warn!("{line}"));
        }
    }
}

/// Gives a datagram to whom it is for; counts it when nothing here answers it.
fn take_punt(view: &View, ike: &mut Option<Ike>, came: &PuntHeader, datagram: &[u8]) {
    let counter: &AtomicU64 = match (demux::classify(datagram), ike) {
        (Kind::Ike, Some(ike)) if ike.is_used() => return ike.receive(came, datagram),
        (Kind::Ike, _) => &view.ignored_ike,
        (Kind::Stun, _) => &view.ignored_stun,
        (Kind::Esp | Kind::Keepalive | Kind::Unknown | Kind::TooShort, _) => &view.ignored_other,
    };
    counter.fetch_add(1, Ordering::Relaxed);
}

fn timer(period: Duration) -> Interval {
    let mut timer = interval(period);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}

fn feature(what: Feature) -> &'static str {
    match what {
        Feature::UdpSegment => "UDP_SEGMENT: datagrams are sent one by one",
    }
}

fn place(at: Place) -> &'static str {
    match at {
        Place::TapRead => "reading from the TAP",
        Place::TapWrite => "writing to the TAP",
        Place::UdpReceive => "receiving from the UDP socket",
        Place::Wait => "waiting for work",
    }
}
