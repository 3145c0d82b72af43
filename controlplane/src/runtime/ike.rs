//! IKE in the loop of a gateway: what comes from the data plane goes to the engine, what the engine wants goes to the data plane,
//! and what it sends goes out when the data plane can open the answers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use adit_engine::crypto::Secret;
use adit_engine::ike::{Cause, Error, Event, IKE_PORT, Transmit};
use adit_proto::control::PeerId;
use anyhow::Context;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::{Gateway, Plane};
use crate::api::types;
use crate::ike::{Ike, Order};

/// How often strangers get a line of the log.
const STRANGERS_EVERY: Duration = Duration::from_secs(1);
/// How long the peers are told goodbye at the end.
const GOODBYE: Duration = Duration::from_millis(500);

/// What the API wants to know, or to have done.
#[derive(Debug)]
pub enum Request {
    /// The view is to show how IKE does now.
    Look(oneshot::Sender<()>),
    /// Something about a peer.
    Peer(String, What),
}

/// A request with where its answer goes.
#[derive(Debug)]
pub enum What {
    Order(Order, oneshot::Sender<Result<(), RequestError>>),
    Explain(oneshot::Sender<Result<types::Explanation, RequestError>>),
}

/// Why a request cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("there is no peer {0}; the peers are {1}")]
    NoSuchPeer(String, String),
    #[error(
        "the peer {0} has a static key: there is nothing to negotiate. For IKE, replace static_key_file by ike: in the configuration"
    )]
    StaticKey(String),
    #[error("{0}")]
    Refused(String),
    #[error("the gateway is starting: try again in a moment")]
    NotReady,
}

/// Those who were refused and are nobody that we know. Anybody can send such requests, under any name and as fast as the line
/// is: they get one line of the log in a second.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    told: Option<Instant>,
    untold: u64,
}

impl Strangers {
    fn tell(&mut self, from: SocketAddr, why: &Error, more: u64) {
        self.untold += more;
        if self.told.is_some_and(|told| told.elapsed() < STRANGERS_EVERY) {
            self.untold += 1;
            return;
        }
        self.told = Some(Instant::now());
        match std::mem::take(&mut self.untold) {
            0 => tracing::warn!("{from} was refused: {why}"),
            untold => tracing::warn!("{from} was refused, after {untold} others that were not told of: {why}"),
        }
    }
}

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
        ids: &[PeerId],
        live: &[(u16, adit_channel::LiveSa)],
        left: &Zeroizing<Vec<u8>>,
    ) -> anyhow::Result<()> {
        if let Some(ike) = &mut self.ike {
            ike.data_plane_restarted();
            return Ok(());
        }
        let secret = Secret::copy_of(&self.state.crash_secret()?);
        let mut ike = Ike::new(&self.view.config, ids, secret).context("the configuration of IKE")?;
        if !left.is_empty() {
            ike.restore(left, live);
        }
        self.ike = Some(ike);
        Ok(())
    }

    /// Carries out what the engine wants, as far as that is possible now.
    pub(super) fn drive_ike(&mut self, plane: &mut Plane) -> anyhow::Result<()> {
        let Some(ike) = self.ike.as_mut().filter(|ike| ike.is_used()) else { return Ok(()) };
        let commands = ike.commands();
        if ike.take_going() {
            ike.measure(&self.view.with_master(|master| master.live_sas()).unwrap_or_default());
        }
        plane.orders.extend(commands);
        let news = ike.news();
        if ike.unsaved() {
            self.save_ike();
        }
        self.pump(plane)?;
        // The peer may use what our message promises as soon as it has it.
        if plane.orders.settled() {
            self.send_waiting();
        }
        news.iter().for_each(|event| self.tell(event));
        Ok(())
    }

    pub(super) fn tick_ike(&mut self) {
        if let Some(ike) = &mut self.ike {
            ike.tick();
        }
    }

    /// Takes what came to the port without NAT traversal.
    pub(super) fn take_plain(&mut self) {
        if let (Some(ike), Some(plain)) = (&mut self.ike, &mut self.plain) {
            plain.take(|from, datagram| ike.receive_plain(from, datagram));
        }
    }

    /// Shows the API how IKE does.
    pub(super) fn publish_ike(&self) {
        if let Some(ike) = &self.ike {
            self.view.set_ike(ike.report());
        }
    }

    fn send_waiting(&mut self) {
        let (Some(ike), plain) = (&mut self.ike, &self.plain) else { return };
        self.view.with_master(|master| {
            while let Some(transmit) = ike.transmit() {
                let sent = match plain {
                    Some(plain) if transmit.local.port() == IKE_PORT => {
                        plain.send(transmit.remote, &transmit.payload);
                        true
                    }
                    _ => inject(master, &transmit),
                };
                if !sent {
                    ike.keep(transmit);
                    break;
                }
            }
            master.flush();
        });
    }

    /// Answers the API.
    pub(super) fn answer(&mut self, request: Request) {
        let (peer, what) = match request {
            Request::Peer(peer, what) => (peer, what),
            Request::Look(reply) => {
                self.publish_ike();
                // Nobody waits any more: nothing is lost.
                let _ = reply.send(());
                return;
            }
        };
        match what {
            What::Order(order, reply) => {
                let answer = self.peer_of_ike(&peer).and_then(|id| {
                    tracing::info!(peer, "ordered: {order:?}");
                    let ike = self.ike.as_mut().ok_or(RequestError::NotReady)?;
                    ike.order(id, order).map_err(|error| RequestError::Refused(format!("{peer}: {error}")))
                });
                // Nobody waits any more: nothing is lost.
                let _ = reply.send(answer);
            }
            What::Explain(reply) => {
                let answer = self
                    .peer_of_ike(&peer)
                    .and_then(|id| self.ike.as_ref().and_then(|ike| ike.explain(id)).ok_or(RequestError::NotReady));
                let _ = reply.send(answer);
            }
        }
    }

    fn peer_of_ike(&self, name: &str) -> Result<PeerId, RequestError> {
        let peers = &self.view.config.peers;
        let Some(place) = peers.iter().position(|peer| peer.name == name) else {
            let names: Vec<&str> = peers.iter().map(|peer| peer.name.as_str()).take(20).collect();
            return Err(RequestError::NoSuchPeer(name.to_owned(), names.join(", ")));
        };
        if peers[place].ike().is_none() {
            return Err(RequestError::StaticKey(name.to_owned()));
        }
        self.ids.get(place).copied().ok_or(RequestError::NotReady)
    }

    /// Tells all peers that we go, so that they need not find out.
    pub(super) async fn say_goodbye(&mut self, plane: &mut Plane) {
        let Some(ike) = self.ike.as_mut().filter(|ike| ike.is_used()) else { return };
        ike.disconnect_all();
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

    fn tell(&mut self, event: &Event) {
        let name = |id: &PeerId| {
            let place = self.ids.iter().position(|one| one == id);
            place.and_then(|place| self.view.config.peers.get(place)).map_or("?", |peer| peer.name.as_str())
        };
        match event {
            Event::State { peer, state, cause: Some(cause) } if !matches!(cause, Cause::Command | Cause::Replaced) => {
                tracing::warn!(peer = name(peer), "{}: {cause}", state.name());
            }
            Event::State { peer, state, .. } => tracing::info!(peer = name(peer), "{}", state.name()),
            Event::IkeUp { peer, spis, replaces } => match replaces {
                Some(old) => tracing::info!(peer = name(peer), "IKE SA {spis} takes the place of {old}"),
                None => tracing::info!(peer = name(peer), "IKE SA {spis} is up"),
            },
            Event::IkeDown { peer, spis, cause } => tracing::info!(peer = name(peer), "IKE SA {spis} is gone: {cause}"),
            Event::InstallInbound(keys) => {
                tracing::info!(
                    peer = name(&keys.peer),
                    lane = keys.lane,
                    "inbound SA {:08x} ({}) installed",
                    keys.spi.0,
                    keys.suite
                );
            }
            Event::InstallOutbound(keys) => {
                tracing::info!(
                    peer = name(&keys.peer),
                    lane = keys.lane,
                    "outbound SA {:08x} ({}) installed",
                    keys.spi.0,
                    keys.suite
                );
            }
            Event::RemoveInbound { peer, spi } => tracing::info!(peer = name(peer), "inbound SA {:08x} removed", spi.0),
            Event::RemoveOutbound { peer, spi } => tracing::info!(peer = name(peer), "outbound SA {:08x} removed", spi.0),
            Event::Path { peer, path, .. } => tracing::info!(peer = name(peer), "is at {} (from {})", path.remote, path.local),
            Event::Refused { from, why, more } => self.strangers.tell(*from, why, *more),
            Event::KeyLog(_) => {}
        }
    }
}

/// Sends from the port that the data uses. False when there is no room now.
fn inject(master: &mut adit_channel::Master, transmit: &Transmit) -> bool {
    // What is too long for the ring can never be sent; what finds it full, later.
    !matches!(master.inject(0, transmit.remote, &transmit.payload), Err(adit_channel::SendError::Full))
}
