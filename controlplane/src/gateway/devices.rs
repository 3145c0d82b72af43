//! What a data plane that runs cannot open any more, opened for it: the interface, where somebody has deleted it, and sockets at another
//! address. They are handed over while all tunnels go on; only where that fails another data plane has to come.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use adit_channel::Devices;
use adit_devices::interface::{self, Interface};
use adit_devices::sockets::{self, Wanted};
use adit_proto::control::Mode;
use anyhow::Context;
use tokio::task::spawn_blocking;

use super::{Gateway, Plane, underlay};
use crate::config::Config;
use crate::limits::DRAINS_MAX;
use crate::netlink::{KernelUnderlay, Netlink};
use crate::{dataplane, resolve, routing_rules, service};

/// How long a data plane may take until it uses what it was handed: its workers do so between two turns.
const TAKEN_WITHIN: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// How long a data plane takes what still comes to sockets that it has left, and until it has closed them.
const LEFT_FOR: Duration = Duration::from_secs(12);
/// How long it is left alone after it was made: somebody may delete it again and again.
const NO_MORE_OFTEN: Duration = Duration::from_millis(500);
/// How often it is tried to make an interface that was deleted.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// The new one may be deleted before the data plane has it, too. After so many of them another data plane has to come.
const REFUSALS: u32 = 5;
/// How long somebody may take to let go of an address.
const FREE_WITHIN: Duration = Duration::from_millis(100);

/// That the interface is missing, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct Absence {
    /// Since when, and when it is tried again to make it.
    gone: Option<(Instant, Instant)>,
    /// When it was made last.
    made: Option<Instant>,
    /// Why that failed last: said once.
    said: Option<String>,
    /// New ones that were not taken in a row, and the last of them by its index: a worker may have it, or take it late.
    refusals: u32,
    handed: u32,
    /// It was not there when it was looked for, and the data plane has said nothing.
    suspected: bool,
}

impl Absence {
    /// The data plane has lost it.
    pub(super) fn notice(&mut self) {
        let now = Instant::now();
        let again_at = self.made.map_or(now, |made| now.max(made + NO_MORE_OFTEN));
        self.gone.get_or_insert((now, again_at));
    }

    /// It was looked for, about a second after the last time or when there was news of it. A data plane that ends lets go of it a
    /// moment before its end is noticed.
    fn looked(&mut self, is_there: bool) {
        if std::mem::replace(&mut self.suspected, !is_there) && !is_there {
            self.notice();
        }
    }

    /// What is to be said of it for as long as it cannot be made.
    pub(super) fn said(&self) -> Option<String> {
        self.said.as_ref().map(|why| format!("the interface was deleted, and cannot be made again: {why}"))
    }

    /// When it is to be made, if it is missing.
    pub(super) fn due(&self) -> Option<Instant> {
        self.gone.map(|(_, again_at)| again_at)
    }
}

impl Gateway {
    /// Makes the interface again that somebody has deleted. False when another data plane has to.
    pub(super) async fn renew_interface(&mut self, plane: &mut Plane) -> bool {
        let Some((since, _)) = plane.absence.gone else { return true };
        if self.has_interface().await {
            // One that was handed over was taken late.
            self.have_interface(plane, since).await;
            return true;
        }
        plane.absence.gone = Some((since, Instant::now() + AGAIN_AFTER));
        let made = match make_interface(&self.desired.config).await {
            Ok(made) => made,
            // There is the one that was handed over last.
            Err(_) if plane.absence.refusals > 0 && self.is_handed(plane).await => {
                return self.is_refused(plane, "some of its workers have not taken it");
            }
            Err(error) => {
                self.is_missing(plane, format!("{error:#}"));
                return true;
            }
        };
        let Some(first) = made.queues.first() else { return false };
        let devices = Devices::Queues { offloads: first.offloads, index: made.index };
        let handed = self.hand_over(devices, made.queues.into_iter().map(|queue| queue.fd).collect()).await;
        if let Err(why) = handed {
            if !self.view.with_master(|master| master.is_alive()).unwrap_or(false) {
                // The interface went with it, and whoever watches it does the rest.
                return true;
            }
            plane.absence.handed = made.index;
            return self.is_refused(plane, &why);
        }
        // What other workers have said of the same: one that had not noticed says nothing once it has the new one.
        self.drain_some(plane);
        if self.interface_index() == Some(made.index) {
            self.have_interface(plane, since).await;
        }
        // Else it is deleted already, and made anew as this one was.
        true
    }

    /// The data plane has its interface again: it is set up, and all is as it was.
    async fn have_interface(&mut self, plane: &mut Plane, deleted: Instant) {
        plane.absence = Absence { made: Some(Instant::now()), ..Absence::default() };
        self.show_missing(plane);
        let (upkeep, should) = self.interface();
        upkeep.came_again(&should, deleted).await;
    }

    /// The interface cannot be made, for this reason: that is said once.
    fn is_missing(&self, plane: &mut Plane, why: String) {
        if plane.absence.said.as_ref() != Some(&why) {
            tracing::error!("the interface was deleted, and cannot be made again: {why}. It is tried again");
            plane.absence.said = Some(why);
            self.show_missing(plane);
        }
    }

    /// The data plane has not taken one that was made, for this reason. False when another data plane has to come.
    fn is_refused(&self, plane: &mut Plane, why: &str) -> bool {
        plane.absence.refusals += 1;
        self.is_missing(plane, format!("the data plane has not taken another one: {why}"));
        plane.absence.refusals < REFUSALS
    }

    /// Looks whether the interface of the data plane is there still. Something else may have its name: that is left alone.
    pub(super) async fn look_for_interface(&self, plane: &mut Plane) {
        if self.interface_index().is_none() {
            return plane.absence.notice();
        }
        plane.absence.looked(self.has_interface().await);
    }

    /// Looks whether a data plane that we come to has its interface: it may have been deleted while nobody was there to hear of it.
    pub(super) async fn find_interface(&mut self, plane: &mut Plane) {
        self.drain_some(plane);
        // What was said of it may be of one before.
        plane.absence = Absence::default();
        if !self.has_interface().await {
            plane.absence.notice();
        }
    }

    /// The interface of the data plane, if all of its workers have the same.
    pub(super) fn interface_index(&self) -> Option<u32> {
        let all = self.view.interfaces();
        all.first().copied().filter(|index| *index != 0 && all.len() == 1)
    }

    /// Whether the data plane has the interface that has its name, as far as anybody can say.
    async fn has_interface(&self) -> bool {
        let ours = self.interface_index();
        ours.is_some() && self.named().await.is_none_or(|named| named == ours)
    }

    /// Whether the one that was handed over last has the name now.
    async fn is_handed(&self, plane: &Plane) -> bool {
        self.named().await.flatten() == Some(plane.absence.handed)
    }

    /// The interface that has the name of ours now, if there is one, by its index. `None` where nobody can say.
    async fn named(&self) -> Option<Option<u32>> {
        Netlink::open().ok()?.index_of(&self.desired.config.interface.name).await.ok()
    }

    /// Takes what the workers have said so far.
    pub(super) fn drain_some(&mut self, plane: &mut Plane) {
        for _ in 0..DRAINS_MAX {
            if !self.drain(plane) {
                return;
            }
        }
    }

    /// Has the data plane listen at another address. False when another data plane has to.
    pub(super) async fn move_sockets(&mut self, plane: &mut Plane, listen: SocketAddr, group: Vec<OwnedFd>) -> bool {
        if let Err(why) = self.hand_over(Devices::Sockets { listen }, group).await {
            tracing::warn!("the data plane does not listen at {listen}: {why}");
            return false;
        }
        tracing::info!("the data plane listens at {listen} now");
        plane.left = dataplane::listen_of(&plane.arguments).map(|before| (before, Instant::now()));
        dataplane::set_listen(&mut plane.arguments, listen);
        // Who comes after us finds a data plane that listens there; and so does the next data plane.
        plane.settled = false;
        if let Some(service) = &self.desired.config.service
            && let Err(error) = service::want(service, &plane.arguments)
        {
            tracing::warn!("{error:#}");
        }
        self.rebind(listen);
        self.underlay.changed();
        true
    }

    /// What goes to peers leaves from these sockets, and routes are asked for as they are bound.
    pub(super) fn rebind(&mut self, listen: SocketAddr) {
        let Some(ike) = &mut self.ike else { return };
        match KernelUnderlay::open(&self.desired.config.interface.name, listen.ip()) {
            Ok(underlay) => ike.set_underlay(Box::new(underlay)),
            Err(error) => tracing::warn!("a netlink socket to ask for routes: {error}"),
        }
        ike.rebind(listen);
    }

    /// The interface in `listen` was made anew: the sockets are on one that is gone. False when another data plane has to come.
    pub(super) async fn follow_listen(&mut self, plane: &mut Plane) -> bool {
        let Some(listen) = resolve::listen_now(&self.desired.config).filter(|_| underlay::is_here(&self.desired.config)) else {
            // It has no address yet.
            return true;
        };
        tracing::warn!("the interface in `listen` was made anew");
        match bind(&self.desired.config, listen).await {
            Ok(group) => self.move_sockets(plane, listen, group).await,
            Err(error) => {
                tracing::warn!("{error:#}");
                false
            }
        }
    }

    /// Hands devices over and waits until they are used. Ours are closed: nothing of them stays when the data plane ends.
    ///
    /// # Errors
    /// The data plane does not take them; for people.
    async fn hand_over(&self, devices: Devices, fds: Vec<OwnedFd>) -> Result<(), String> {
        let sent = self.view.with_master(|master| {
            let borrowed: Vec<BorrowedFd> = fds.iter().map(AsFd::as_fd).collect();
            master.hand_over(&devices, &borrowed)
        });
        // An interface that is closed waits for the kernel's lock of all of them.
        drop(spawn_blocking(move || drop(fds)));
        sent.ok_or("none is attached")?.map_err(|error| error.to_string())?;
        let until = Instant::now() + TAKEN_WITHIN;
        loop {
            match self.view.with_master(|master| master.answer()).flatten() {
                Some(answer) => return answer,
                None if Instant::now() > until => return Err(format!("it has not answered within {} s", TAKEN_WITHIN.as_secs())),
                None => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }
}

async fn make_interface(config: &Config) -> anyhow::Result<Interface> {
    let (mode, name, mtu) = (config.mode, config.interface.name.clone(), config.interface.mtu);
    let (mac, queues) = ((mode == Mode::Ethernet).then_some(config.interface.mac), config.dataplane.workers.into());
    spawn_blocking(move || interface::create(mode, &name, mac, mtu, queues)).await.context("making the interface")?
}

/// What is to be said where an address is in use, if the data plane itself has it still.
pub(super) fn still_left(plane: &Plane, listen: SocketAddr) -> Option<String> {
    let (_, since) = plane.left.filter(|(before, since)| *before == listen && since.elapsed() < LEFT_FOR)?;
    let rest = LEFT_FOR.saturating_sub(since.elapsed()).as_secs() + 1;
    Some(format!("the data plane still takes what comes to {listen}, which it has just left: try again in {rest} s"))
}

/// A group of sockets for the data plane at this address.
///
/// # Errors
/// It is not to be had; the message names the remedy.
pub(super) async fn bind(config: &Config, listen: SocketAddr) -> anyhow::Result<Vec<OwnedFd>> {
    let plane = &config.dataplane;
    let buffer = usize::try_from(plane.socket_buffer).unwrap_or(usize::MAX);
    let wanted = Wanted { listen, workers: plane.workers.into(), buffer, mark: routing_rules::MARK };
    let bound = spawn_blocking(move || sockets::bind_group(&wanted, Instant::now() + FREE_WITHIN)).await;
    Ok(bound.context("opening sockets")??.into_iter().map(OwnedFd::from).collect())
}
