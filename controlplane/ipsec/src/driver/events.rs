//! What the engine says: SAs come and go, connections change; and who may connect to a server.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use adit_engine::ike::{Cause, ChildKeys, ConnectionState, Event, PeerConfig, Usage};
use adit_engine::path::PathEvent;
use adit_proto::control::{PeerId, Spi};

use super::receive::InboundSa;
use super::{Driver, Entry, Listener, now, refused_settings};
use crate::command::Keys;
use crate::error::{Error, Failure, Refused};
use crate::esp::{Inbound, Outbound};
use crate::limits::PEERS_OF_ENGINE_MAX;
use crate::link::{Algorithms, Link, State};
use crate::session::Session;

impl Driver {
    pub(super) fn take(&mut self, event: Event) {
        match event {
            Event::State { peer, state, cause, .. } => self.on_state(peer, state, cause),
            Event::IkeWaits { spis, .. } => self.admission.know(&spis),
            Event::IkeUp { peer, spis, replaces } => {
                tracing::info!(peer = peer.0, "IKE SA {spis} is up");
                self.admission.know(&spis);
                self.note_facts(peer);
                if replaces.is_some() {
                    self.done(peer, Keys::Ike);
                }
            }
            Event::IkeDown { peer, spis, cause } => {
                tracing::info!(peer = peer.0, "IKE SA {spis} is gone: {cause}");
                self.admission.forget(&spis);
            }
            Event::ChildFailed { peer, cause, .. } => tracing::warn!(peer = peer.0, "no Child SA: {cause}"),
            Event::InstallInbound(keys) => self.install_inbound(&keys),
            Event::InstallOutbound(keys) => self.install_outbound(&keys),
            Event::RemoveInbound { spi, .. } => {
                tracing::debug!("inbound SA {:08x} removed", spi.0);
                self.inbound.remove(&spi);
            }
            Event::RemoveOutbound { peer, spi } => {
                tracing::debug!("outbound SA {:08x} removed", spi.0);
                if let Some(link) = self.link(peer) {
                    link.remove(spi);
                }
            }
            Event::Path(PathEvent::Set { peer, .. } | PathEvent::Use { peer, .. }) => {
                let Some(hop) = self.endpoint.all_paths().esp_hop(peer).and_then(|hop| hop.udp()) else { return };
                tracing::debug!(peer = peer.0, "is at {}", hop.remote);
                if let Some(link) = self.link_or_new(peer) {
                    link.set_hop(hop);
                }
            }
            // Without echoes announced there are none.
            Event::Path(
                PathEvent::Peer { .. } | PathEvent::Remove { .. } | PathEvent::Echo { .. } | PathEvent::BlackHole { .. },
            ) => {}
            Event::Refused { from, why, .. } => {
                // There are no streams here.
                let Some(from) = from.address() else { return };
                let cause = Cause::Failed(why);
                self.tell_refused(from, Failure::plain(from.to_string(), cause, ""));
            }
            Event::Address { address, known } => self.admission.know_address(address, known),
            Event::KeyLog(_) => {}
        }
    }

    fn link(&self, id: PeerId) -> Option<&Arc<Link>> {
        self.entries.get(&id)?.link.as_ref()
    }

    /// The link of a peer; on a server a peer has one as soon as it is believed.
    fn link_or_new(&mut self, id: PeerId) -> Option<Arc<Link>> {
        let entry = self.entries.get(&id)?;
        if let Some(link) = &entry.link {
            return Some(link.clone());
        }
        let link = self.new_link(id, entry.pace);
        self.peers_changed = true;
        self.entries.get_mut(&id)?.link = Some(link.clone());
        Some(link)
    }

    fn install_inbound(&mut self, keys: &ChildKeys) {
        let Some(link) = self.link_or_new(keys.peer) else { return };
        match Inbound::new(keys, self.options.replay_window) {
            Ok(sa) => {
                tracing::debug!("inbound SA {:08x} ({}) installed", keys.spi.0, keys.suite);
                let pace = self.entries.get(&keys.peer).map(|entry| entry.pace).unwrap_or_default();
                let reported = Usage::default();
                let (came, strays, sequence_soft_limit) = (None, false, false);
                let one = InboundSa { sa, link, came, strays, outbound: None, reported, pace, sequence_soft_limit };
                self.inbound.insert(keys.spi, one);
            }
            // The engine makes keys as long as the suite asks for.
            Err(_) => self.endpoint.close_child(now(), keys.spi),
        }
    }

    fn install_outbound(&mut self, keys: &ChildKeys) {
        let Some(link) = self.link_or_new(keys.peer) else { return };
        let Ok(sa) = Outbound::new(keys) else { return };
        tracing::debug!("outbound SA {:08x} ({}) installed", keys.spi.0, keys.suite);
        let status = self.endpoint.status(keys.peer);
        let mut children = status.iter().flat_map(|status| &status.ike).flat_map(|ike| &ike.children);
        let inbound: Option<Spi> = children.find(|child| child.outbound == keys.spi).map(|child| child.inbound);
        self.note_facts(keys.peer);
        if let Some(one) = inbound.and_then(|spi| self.inbound.get_mut(&spi)) {
            one.outbound = Some(keys.spi);
        }
        link.install(sa, keys.replaces.is_some());
        if keys.replaces.is_some() {
            self.done(keys.peer, Keys::Child);
        }
    }

    /// Who the peer is and what protects the packets, for whoever asks the session.
    fn note_facts(&self, peer: PeerId) {
        let Some((link, status)) = self.link(peer).zip(self.endpoint.status(peer)) else { return };
        let Some(ike) = status.ike.first() else { return };
        let child = ike.children.iter().find(|child| !child.is_going);
        let algorithms = Algorithms {
            ike: ike.suite.clone(),
            esp: child.map(|child| child.suite.clone()).unwrap_or_default(),
            extended_sequence_numbers: child.is_some_and(|child| child.esn),
            post_quantum: ike.post_quantum,
            proof: ike.proof.to_string(),
        };
        link.set_facts(ike.remote_id.to_string(), algorithms);
    }

    /// New keys are in use.
    fn done(&mut self, peer: PeerId, keys: Keys) {
        let Some(entry) = self.entries.get_mut(&peer) else { return };
        for waiter in entry.waiters.extract_if(.., |waiter| waiter.keys == keys) {
            // Nobody waits any more: nothing is lost.
            let _ = waiter.reply.send(Ok(()));
        }
    }

    fn on_state(&mut self, peer: PeerId, state: ConnectionState, cause: Option<Cause>) {
        match &cause {
            Some(cause) if *cause != Cause::Command => tracing::warn!(peer = peer.0, "{}: {cause}", state.name()),
            _ => tracing::info!(peer = peer.0, "{}", state.name()),
        }
        if !self.entries.contains_key(&peer) {
            return;
        }
        match state {
            ConnectionState::Established => self.on_established(peer),
            ConnectionState::Rekeying => {}
            ConnectionState::Connecting | ConnectionState::Idle | ConnectionState::Reconnecting | ConnectionState::Failed => {
                let cause = cause.unwrap_or(Cause::Command);
                if self.dialer.is_some() { self.dialer_lost(peer, state, cause) } else { self.listener_lost(peer, cause) }
            }
        }
    }

    /// Both ends believe each other. Without a Child SA that is of no use.
    fn on_established(&mut self, peer: PeerId) {
        let up = self.link(peer).is_some_and(|link| link.is_up());
        if self.dialer.is_some() {
            let Some((reply, _)) = self.dialer.as_mut().and_then(|dialer| dialer.pending.take()) else { return };
            let result = if up { Ok(()) } else { Err(Error::Negotiation(self.why_no_child(peer))) };
            let failed = result.is_err();
            // Nobody waits any more: then its handle is gone, too.
            let _ = reply.send(result);
            if failed {
                let _ = self.endpoint.disconnect(now(), peer);
            }
        } else if self.entries.get(&peer).is_none_or(|entry| entry.announced) {
            // The session goes on.
        } else if up {
            self.announce(peer);
        } else {
            let failure = self.why_no_child(peer);
            let _ = self.endpoint.disconnect(now(), peer);
            if let Some(from) = self.from {
                self.tell_refused(from, *failure);
            }
        }
    }

    fn why_no_child(&self, peer: PeerId) -> Box<Failure> {
        let problem = self.endpoint.explain(peer, Instant::now()).and_then(|reported| reported.record.problem);
        let cause = problem.map_or(Cause::PeerClosed, |problem| problem.cause);
        self.failure(peer, cause)
    }

    /// The connection of a client is not up, or not any more.
    fn dialer_lost(&mut self, peer: PeerId, state: ConnectionState, cause: Cause) {
        let connecting = self.dialer.as_ref().is_some_and(|dialer| dialer.pending.is_some());
        if state == ConnectionState::Connecting {
            if let Some(link) = self.link(peer).filter(|_| !connecting) {
                link.enter(State::Reconnecting);
            }
            return;
        }
        let failure = self.failure(peer, cause.clone());
        let again = state == ConnectionState::Reconnecting && self.dialer.as_ref().is_some_and(|dialer| dialer.reconnect);
        if connecting {
            self.fail_connect(Error::Negotiation(failure.clone()));
        }
        self.fail_waiters(peer, &failure);
        let Some(link) = self.link(peer).cloned() else { return };
        if again && !connecting {
            return link.enter(State::Reconnecting);
        }
        link.close(Error::Closed(failure));
        if state != ConnectionState::Idle {
            let _ = self.endpoint.disconnect(now(), peer);
        }
    }

    /// A peer of a server is gone, or was not believed.
    fn listener_lost(&mut self, peer: PeerId, cause: Cause) {
        let failure = self.failure(peer, cause.clone());
        self.fail_waiters(peer, &failure);
        let Some(entry) = self.entries.get_mut(&peer) else { return };
        entry.announced = false;
        self.peers_changed = true;
        match entry.link.take() {
            Some(link) => link.close(Error::Closed(failure)),
            None if matches!(cause, Cause::Failed(_)) => {
                if let Some(from) = self.from {
                    self.tell_refused(from, *failure);
                }
            }
            None => {}
        }
    }

    fn fail_waiters(&mut self, peer: PeerId, failure: &Failure) {
        let Some(entry) = self.entries.get_mut(&peer) else { return };
        for waiter in entry.waiters.drain(..) {
            // Nobody waits any more: nothing is lost.
            let _ = waiter.reply.send(Err(Error::Closed(Box::new(failure.clone()))));
        }
    }

    fn tell_refused(&mut self, from: SocketAddr, failure: Failure) {
        // One line for each unauthenticated initiator would fill a log at their wish.
        tracing::debug!("{from} was refused: {}", failure.cause);
        if let Some(listener) = &self.listener {
            // Nobody asks, or not fast enough: it is in the log.
            let _ = listener.refused.try_send(Refused { from, error: Error::Negotiation(Box::new(failure)) });
        }
    }

    /// Hands a new session out.
    fn announce(&mut self, peer: PeerId) {
        let Some(entry) = self.entries.get_mut(&peer).filter(|entry| !entry.announced) else { return };
        let (Some(link), Some(listener)) = (entry.link.clone(), &self.listener) else { return };
        let Some(commands) = listener.commands.upgrade() else { return };
        entry.announced = true;
        // Where there is no room, the session is closed by being dropped.
        if listener.accepted.try_send(Session { link, commands }).is_err() {
            tracing::warn!(peer = peer.0, "too many sessions wait for accept(): closed");
        }
    }

    /// Keeps a place free for the next peer of every pattern, as long as there may be more sessions.
    pub(super) fn make_room(&mut self) -> Result<(), Error> {
        let Some(listener) = &mut self.listener else { return Ok(()) };
        let mut free = vec![0; listener.peers.len()];
        let mut used = vec![0; listener.peers.len()];
        let mut spare: Vec<PeerId> = Vec::new();
        for (id, entry) in &self.entries {
            used[entry.configured] += 1;
            if entry.link.is_none() {
                free[entry.configured] += 1;
                spare.extend((free[entry.configured] > 1).then_some(*id));
            }
        }
        for id in spare {
            self.entries.remove(&id);
            self.endpoint.remove_peer(now(), id).map_err(refused_settings)?;
        }
        for (configured, (free, used)) in free.into_iter().zip(used).enumerate() {
            let peer = &listener.peers[configured];
            let single = peer.config.remote_id.exact().is_some();
            if free > 0 || single && used > 0 || self.entries.len() >= PEERS_OF_ENGINE_MAX {
                continue;
            }
            let pace = peer.pace();
            let config = PeerConfig { respond: true, ..peer.config.clone() };
            let id = listener.free_id(&self.entries);
            self.endpoint.set_peer(now(), id, config).map_err(refused_settings)?;
            self.entries.insert(id, Entry { configured, pace, link: None, announced: false, waiters: Vec::new() });
        }
        Ok(())
    }

    /// The listener is closed; sessions that are there go on.
    pub(super) fn stop_accepting(&mut self) {
        self.listener = None;
        let free: Vec<PeerId> = self.entries.iter().filter(|(_, entry)| entry.link.is_none()).map(|(id, _)| *id).collect();
        for id in free {
            self.entries.remove(&id);
            // It was there.
            let _ = self.endpoint.remove_peer(now(), id);
        }
    }
}

impl Listener {
    fn free_id(&mut self, taken: &BTreeMap<PeerId, Entry>) -> PeerId {
        loop {
            let id = PeerId(self.next_id);
            self.next_id = self.next_id.wrapping_add(1);
            if !taken.contains_key(&id) {
                return id;
            }
        }
    }
}
