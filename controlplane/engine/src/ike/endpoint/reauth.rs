//! One IKE SA of a peer beside the one before it: authenticated anew, the new one takes over without losing a packet, and the old one
//! goes (RFC 7296 §2.8.3). What each of the two does is in [`super::super::reauth`].

use std::time::Instant;

use adit_proto::control::PeerId;
use adit_proto::ike::Delete;

use super::super::cause::Cause;
use super::super::config::Now;
use super::super::connection::ConnectionState;
use super::super::context::{Ctx, Peer, Then};
use super::super::event::Event;
use super::super::facts::SaId;
use super::super::succession::Beside;
use super::Endpoint;
use super::commands::CommandError;

impl Endpoint {
    /// Authenticates a peer anew, and ourselves: a new IKE SA with new Child SAs takes the place of the one that there is, without a
    /// packet lost in between.
    ///
    /// # Errors
    /// The peer is not connected.
    pub fn reauthenticate(&mut self, now: Now, id: PeerId) -> Result<(), CommandError> {
        let peer = self.shared.peers.get(&id).ok_or(CommandError::NoSuchPeer)?;
        peer.current.ok_or(CommandError::NotConnected)?;
        if peer.attempt.is_none() {
            self.begin(now, id);
        }
        Ok(())
    }

    /// The time of an IKE SA is almost over. Where we cannot reach the peer, it has to come to us.
    pub(super) fn on_reauthenticate(&mut self, now: Now, id: SaId) {
        let Some(peer_id) = self.sas.get(&id).and_then(|sa| sa.facts.peer) else { return };
        let ours = |peer: &Peer| peer.current == Some(id) && (peer.begins_by_itself() || peer.connection.wanted);
        if self.shared.peers.get(&peer_id).is_some_and(ours) {
            drop(self.reauthenticate(now, peer_id));
        }
    }

    /// An attempt to authenticate anew came to nothing; what there is goes on.
    pub(super) fn beside_failed(&mut self, now: Now, peer: PeerId, cause: Cause) {
        let current = self.shared.peers.get(&peer).and_then(|peer| peer.current).and_then(|id| self.sas.get(&id));
        let spis = current.map(|sa| sa.facts.spis);
        self.shared.enter(now, peer, ConnectionState::Established, Some(cause), spis);
    }

    /// The peer was authenticated while there was an IKE SA with it. That one goes on until the new one has all its Child SAs, where we
    /// began it; else until the peer has shown that it has the new one.
    pub(super) fn succeed(&mut self, now: Now, peer: PeerId, (new, old): (SaId, SaId), restarted: bool) {
        let ours = self.sas.get(&new).is_some_and(|sa| sa.facts.is_initiator());
        self.run(now, new, |sa, _| match sa.session_mut() {
            Some(session) if ours => session.succession.set_before(Some(old)),
            Some(session) => session.hold(restarted),
            None => {}
        });
        if ours {
            self.give_place(now, old, new);
            self.take_over(now, peer, new);
        }
    }

    fn give_place(&mut self, now: Now, old: SaId, new: SaId) {
        self.run(now, old, |sa, _| {
            if let Some(session) = sa.session_mut() {
                session.succession.give_place_to(new, now.instant);
            }
        });
    }

    /// The peer has shown that it has an IKE SA, so it takes the place of the one before, unless a later one has done that.
    pub(super) fn on_proven(&mut self, now: Now, id: SaId, restarted: bool) {
        let since = |id: SaId| {
            let session = self.sas.get(&id).and_then(|sa| sa.session())?;
            session.proof.standing().since()
        };
        let Some(peer) = self.sas.get(&id).and_then(|sa| sa.facts.peer) else { return };
        let old = self.shared.peers.get(&peer).and_then(|peer| peer.current).filter(|old| *old != id);
        if let Some(old) = old.filter(|old| since(*old) > since(id)) {
            return self.give_place(now, id, old);
        }
        if let Some(old) = old {
            self.give_place(now, old, id);
        }
        self.take_over(now, peer, id);
        let spis = |id: SaId| self.sas.get(&id).map(|sa| sa.facts.spis);
        if let Some(new) = spis(id) {
            self.shared.event(Event::IkeUp { peer, spis: new, replaces: old.and_then(spis) });
        }
        if let Some(old) = old.filter(|_| restarted) {
            self.run(now, old, |sa, ctx| sa.end(ctx, Cause::PeerRestarted));
        }
    }

    /// The peer has deleted an IKE SA. If it has another one that was to take its place, that shows that it has that one.
    pub(super) fn on_deleted(&mut self, now: Now, id: SaId) {
        let peer = self.sas.get(&id).and_then(|sa| self.shared.peers.get(&sa.facts.peer?));
        let holds = |id: &&SaId| self.sas.get(id).and_then(|sa| sa.session()).is_some_and(|session| session.succession.holds());
        match peer.and_then(|peer| peer.sas.iter().rev().find(holds)).copied().filter(|new| *new != id) {
            Some(new) => self.on_give_way(now, id, new, Then::End),
            None => self.run(now, id, |sa, ctx| sa.end(ctx, Cause::PeerClosed)),
        }
    }

    /// An IKE SA was rekeyed while another one takes its place, or while it takes the place of another one.
    pub(super) fn inherit_beside(&mut self, now: Now, from: SaId, successor: SaId, beside: Beside) {
        if !beside.is_alone() {
            self.run(now, successor, |sa, _| {
                if let Some(session) = sa.session_mut() {
                    session.succession.inherit_beside(beside, now.instant);
                }
            });
        }
        self.rename(from, successor);
    }

    /// Of two IKE SAs that both were to take the place of a third one, this one stays.
    pub(super) fn pass_on(&mut self, now: Now, peer: PeerId, goes: SaId, stays: SaId) {
        let sas = self.shared.peers.get(&peer).map(|peer| peer.sas.clone()).unwrap_or_default();
        let after = |id: &SaId| self.sas.get(id).and_then(|sa| sa.session()).and_then(|session| session.succession.next());
        let old = sas.into_iter().find(|id| *id != stays && after(id) == Some(goes));
        self.rename(goes, stays);
        let ours = self.sas.get(&stays).is_some_and(|sa| sa.facts.is_initiator());
        self.run(now, stays, |sa, _| {
            if let Some(session) = sa.session_mut().filter(|_| ours) {
                session.succession.set_before(session.succession.before().or(old));
            }
        });
    }

    /// Who refers to one IKE SA as the one before or after refers to another one from now on.
    fn rename(&mut self, from: SaId, to: SaId) {
        for (id, session) in self.sas.iter_mut().filter_map(|(id, sa)| Some((*id, sa.session_mut()?))) {
            session.succession.rename(id, from, to);
        }
    }

    /// Everything is there to take the place of an IKE SA.
    pub(super) fn on_superseded(&mut self, now: Now, id: SaId, at: Instant) {
        self.run(now, id, |sa, _| {
            if let Some(session) = sa.session_mut() {
                session.succession.delete_at(at);
            }
        });
    }

    /// The end of an IKE SA that was authenticated anew: first the new one sends, then the old one stops; what is late still arrives.
    pub(super) fn on_give_way(&mut self, now: Now, old: SaId, new: SaId, then: Then) {
        let usable = |id: &SaId| *id != old && self.sas.get(id).is_some_and(|sa| sa.session().is_some());
        let current = self.sas.get(&old).and_then(|sa| self.shared.peers.get(&sa.facts.peer?)?.current);
        let found = [Some(new), current].into_iter().flatten().find(usable);
        let (new, there) = (found.unwrap_or(new), found.is_some());
        if there {
            self.run(now, new, |sa, ctx| {
                if let Some(session) = sa.session_mut() {
                    session.end_hold(ctx);
                }
            });
            let mut draining = Vec::new();
            if let Some(session) = self.sas.get_mut(&old).and_then(|sa| sa.session_mut()) {
                draining = session.children.retire(&mut Ctx::new(now, &mut *self.random, &mut self.shared));
            }
            self.run(now, new, |sa, ctx| {
                if let Some(session) = sa.session_mut() {
                    draining.iter().for_each(|(_, spi)| ctx.shared.spis.assign(*spi, new));
                    session.children.drain(draining);
                }
            });
        }
        let cause = if there { Cause::Replaced } else { Cause::PeerClosed };
        match (then, there) {
            (Then::End, _) => self.run(now, old, |sa, ctx| sa.end(ctx, cause)),
            (Then::Close, true) => self.run(now, old, |sa, ctx| sa.close(ctx, vec![Delete::ike().into()], cause)),
            // The new one is gone: the old one is all that there is.
            (Then::Close | Then::Stay, _) => self.run(now, old, |sa, _| {
                if let Some(session) = sa.session_mut() {
                    session.succession.stand_alone(new);
                }
            }),
        }
    }
}
