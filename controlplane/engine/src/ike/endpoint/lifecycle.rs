//! What one IKE SA means for the others of the same peer, and for the connection.
//!
//! In the end a peer has one IKE SA. Where there are two, both ends must let the same one stay:
//! 1. a rekey: the nonces of the two exchanges decide (RFC 7296 §2.8.2, in `rekey_ike`);
//! 2. a new one when the other was established before: the new one stays (the peer restarted, or authenticates anew: `reauth`);
//! 3. both ends connected at once: the one with the lowest of the four nonces goes, closed by the end that began it.

use super::super::cause::Cause;
use super::super::config::Now;
use super::super::connection::ConnectionState;
use super::super::context::Then;
use super::super::event::Event;
use super::super::evidence;
use super::super::facts::{IkeSpis, Role, SaId};
use super::super::initiated::Initiated;
use super::super::sa::{IkeSa, Stage};
use super::super::session::Session;
use super::{Endpoint, Refusal, Timer};
use crate::limits::IDENTITIES_MAX;
use crate::path::Remote;
use crate::shown::Shown;
use adit_proto::control::PeerId;
use adit_proto::ike::Delete;

impl Endpoint {
    pub(super) fn on_established(&mut self, now: Now, id: SaId, initial_contact: bool) {
        self.no_longer_half_open(id);
        let Some((peer_id, spis, role)) = self.sas.get(&id).and_then(|sa| Some((sa.facts.peer?, sa.facts.spis, sa.facts.role)))
        else {
            return;
        };
        let Some(peer) = self.shared.peers.get_mut(&peer_id) else { return };
        peer.sas.push(id);
        if peer.attempt == Some(id) {
            peer.attempt = None;
        }
        peer.remotes.succeeded();
        let current = peer.current.filter(|other| *other != id);
        let attempt = peer.attempt;
        let other = self.collided_with(peer_id, id).or(current);
        self.shared.count(Some(peer_id), |counters| counters.handshakes += 1);
        match other {
            Some(other) => self.settle(now, peer_id, id, other, initial_contact && role == Role::Responder),
            None => self.make_current(now, peer_id, id),
        }
        // It takes the place of another one when the peer has shown that it has it.
        let holds = self.sas.get(&id).and_then(|sa| sa.session()).is_some_and(|session| session.succession.holds());
        let is_used = self.shared.peers.get(&peer_id).is_some_and(|peer| peer.current == Some(id));
        let replaces = other.filter(|_| is_used).and_then(|other| self.sas.get(&other)).map(|other| other.facts.spis);
        self.shared.event(match holds {
            true => Event::IkeWaits { peer: peer_id, spis },
            false => Event::IkeUp { peer: peer_id, spis, replaces },
        });
        if let Some(attempt) = attempt {
            self.give_up_attempt(peer_id, attempt);
        }
        self.shared.enter(now, peer_id, ConnectionState::Established, None, Some(spis));
        self.timers.set(Timer::Peer(peer_id), None);
        self.run(now, id, |sa, _| sa.want_missing_children());
    }

    /// An IKE SA that the other end has begun while this one was made, and that waits for a message of the peer.
    fn collided_with(&self, peer: PeerId, id: SaId) -> Option<SaId> {
        let (new, peer) = (self.sas.get(&id)?, self.shared.peers.get(&peer)?);
        let has_collided = |other: &&SaId| {
            let Some(sa) = self.sas.get(other).filter(|sa| sa.facts.role != new.facts.role) else { return false };
            sa.session().is_some_and(|one| one.succession.holds() && one.lifetimes.established() >= new.created)
        };
        peer.sas.iter().rev().find(has_collided).copied()
    }

    /// Two IKE SAs of one peer: one stays.
    fn settle(&mut self, now: Now, peer: PeerId, new: SaId, old: SaId, initial_contact: bool) {
        let (Some(new_sa), Some(old_sa)) = (self.sas.get(&new), self.sas.get(&old)) else {
            return self.make_current(now, peer, new);
        };
        // A rekey of the old one in between makes no difference.
        let since = |session: &Session| session.proof.standing().since().unwrap_or(session.lifetimes.established());
        let one_after_the_other = old_sa.session().is_none_or(|session| since(session) < new_sa.created);
        let new_stays = one_after_the_other || lowest_nonce(new_sa) > lowest_nonce(old_sa);
        let (stays, goes) = if new_stays { (new, old) } else { (old, new) };
        if one_after_the_other {
            return self.succeed(now, peer, (new, old), initial_contact);
        }
        // That of both which stays may take the place of a third one.
        let third = self.shared.peers.get(&peer).and_then(|peer| peer.current).filter(|id| ![new, old].contains(id));
        match third.filter(|_| new_stays) {
            Some(third) => self.succeed(now, peer, (new, third), initial_contact),
            None if new_stays => self.take_over(now, peer, stays),
            // Where the new one was ours, it has told the paths who leads.
            None => self.run(now, stays, |sa, ctx| {
                if let Some((facts, session)) = sa.facts_and_session() {
                    evidence::agree_on_paths(ctx, facts, session);
                }
            }),
        }
        self.pass_on(now, peer, goes, stays);
        if self.sas.get(&goes).is_some_and(|sa| sa.facts.is_initiator()) {
            self.close_redundant(now, goes);
        } else {
            self.expect_closed(now, goes);
        }
    }

    /// The peer is where it was authenticated last, and what it has there is used.
    pub(super) fn take_over(&mut self, now: Now, peer: PeerId, id: SaId) {
        self.run(now, id, |sa, ctx| {
            if let Some((facts, session)) = sa.facts_and_session() {
                evidence::establish_path(ctx, facts, session);
            }
        });
        self.make_current(now, peer, id);
    }

    /// The IKE SA whose Child SAs are used for sending.
    pub(super) fn make_current(&mut self, now: Now, peer: PeerId, id: SaId) {
        self.shared.set_current(peer, Some(id));
        let identity = self.sas.get(&id).and_then(|sa| sa.session()).map(|session| session.proof.remote_id().clone());
        if let Some(peer) = self.shared.peers.get_mut(&peer) {
            peer.connected_as = identity.unwrap_or_default();
        }
        self.run(now, id, |sa, ctx| {
            if let Some((facts, session)) = sa.facts_and_session() {
                evidence::agree_on_paths(ctx, facts, session);
                session.activate_all(ctx);
            }
        });
    }

    /// Our own attempt, when the peer has been faster. Once it has been asked to believe us it is seen through: the peer may
    /// believe us already.
    fn give_up_attempt(&mut self, peer: PeerId, attempt: SaId) {
        let committed = self.sas.get(&attempt).is_some_and(|sa| {
            matches!(sa.wire.window.outstanding().map(|outstanding| &outstanding.context), Some(Initiated::Auth(_)))
        });
        if committed {
            return;
        }
        if let Some(peer) = self.shared.peers.get_mut(&peer) {
            peer.attempt = None;
        }
        if let Some(mut sa) = self.sas.remove(&attempt) {
            sa.stage = Stage::Closed;
            self.timers.set(Timer::Sa(attempt), None);
            self.forget(&sa);
        }
    }

    /// An IKE SA was made in a rekey of that one.
    pub(super) fn on_successor(&mut self, now: Now, of: SaId) {
        let Some(sa) = self.sas.get_mut(&of).and_then(|sa| sa.take_offspring()) else { return };
        if let Some(peer) = sa.facts.peer.and_then(|peer| self.shared.peers.get_mut(&peer)) {
            peer.sas.push(sa.facts.id);
        }
        self.put_back(now, sa);
    }

    /// Child SAs and tasks go from one IKE SA to its successor.
    pub(super) fn on_inherit(&mut self, now: Now, from: SaId, successor: SaId, then: Then) {
        if self.sas.get(&successor).is_none_or(|sa| sa.session().is_none()) {
            // The successor is gone already: what is left of the old one goes the same way.
            return self.run(now, from, |sa, ctx| match then {
                Then::Stay => {
                    if let Some(session) = sa.session_mut() {
                        session.succession.come_back();
                    }
                }
                Then::Close | Then::End => sa.close(ctx, vec![Delete::ike().into()], Cause::PeerClosed),
            });
        }
        let Some(old) = self.sas.get_mut(&from) else { return };
        let (old_spis, peer_id) = (old.facts.spis, old.facts.peer);
        let (nat, last_heard) = (old.facts.nat, old.wire.last_heard());
        let unfinished = old.wire.window.outstanding().and_then(|outstanding| outstanding.context.unfinished());
        let Some(session) = old.session_mut() else { return };
        let (beside, handover) = (session.succession.take_beside(), session.hand_over(unfinished));
        self.run(now, successor, |sa, ctx| {
            if last_heard > sa.wire.last_heard() {
                // The peer has moved since this one was made.
                sa.facts.nat = nat;
            }
            if let Some(session) = sa.session_mut() {
                session.inherit(ctx, successor, handover);
            }
        });
        self.inherit_beside(now, from, successor, beside);
        if let Some(peer_id) = peer_id {
            if self.shared.peers.get(&peer_id).is_some_and(|peer| peer.current == Some(from)) {
                self.shared.set_current(peer_id, Some(successor));
            }
            if let Some(sa) = self.sas.get(&successor) {
                let event = Event::IkeUp { peer: peer_id, spis: sa.facts.spis, replaces: Some(old_spis) };
                self.shared.event(event);
            }
        }
        self.run(now, from, |sa, ctx| match then {
            Then::Stay => {}
            Then::Close => sa.close(ctx, vec![Delete::ike().into()], Cause::Replaced),
            Then::End => sa.end(ctx, Cause::Replaced),
        });
        self.run(now, successor, |sa, _| sa.want_missing_children());
    }

    /// The peer has settled two rekeys of one IKE SA before our own was answered.
    pub(super) fn on_claim(&mut self, now: Now, successor: SaId, from: SaId) {
        let named = |sa: &IkeSa| {
            let succession = sa.session().map(|session| &session.succession);
            succession.is_some_and(|one| !one.has_successor() && one.made_by_peer() == Some(successor))
        };
        if self.sas.get(&from).is_some_and(|sa| named(sa)) {
            self.run(now, from, |sa, ctx| {
                if let Some(session) = sa.session_mut() {
                    session.leave_to(ctx, successor, Then::Stay);
                }
            });
        }
        self.run(now, successor, |sa, ctx| sa.resume_deferred(ctx));
    }

    pub(super) fn on_confirmed(&mut self, now: Now, id: SaId) {
        self.run(now, id, |sa, _| {
            if let Some(session) = sa.session_mut() {
                session.succession.confirmed();
            }
        });
    }

    pub(super) fn close_redundant(&mut self, now: Now, id: SaId) {
        self.run(now, id, |sa, ctx| sa.close(ctx, vec![Delete::ike().into()], Cause::Redundant));
    }

    pub(super) fn expect_closed(&mut self, now: Now, id: SaId) {
        self.run(now, id, |sa, _| {
            if let Some(session) = sa.session_mut() {
                session.succession.be_redundant(now.instant);
            }
        });
    }

    pub(super) fn on_rekeying(&mut self, now: Now, id: SaId, under_way: bool) {
        let Some((peer_id, spis)) = self.sas.get(&id).and_then(|sa| Some((sa.facts.peer?, sa.facts.spis))) else { return };
        let up = self.shared.peers.get(&peer_id).is_some_and(|peer| peer.connection.state.is_up());
        if up {
            let state = if under_way { ConnectionState::Rekeying } else { ConnectionState::Established };
            self.shared.enter(now, peer_id, state, None, Some(spis));
        }
    }

    /// An IKE SA is of no use any more. One that was never authenticated counts as half-open as long as it lasts: else whoever has no key
    /// could have any number of those that are over.
    pub(super) fn on_ended(&mut self, now: Now, id: SaId, cause: Cause) {
        let Some(sa) = self.sas.get(&id) else { return };
        let (spis, remote, claimed_as) = (sa.facts.spis, sa.facts.hop.remote(), sa.claimed.clone());
        let Some(peer_id) = sa.facts.peer else {
            return self.note_initiator(now, remote, claimed_as, cause);
        };
        let Some(peer) = self.shared.peers.get_mut(&peer_id) else { return };
        let was_attempt = peer.attempt == Some(id);
        if was_attempt {
            peer.attempt = None;
        }
        let was_up = peer.sas.contains(&id);
        if was_up {
            let event = Event::IkeDown { peer: peer_id, spis, cause: cause.clone() };
            self.shared.event(event);
        }
        // An initiator that does not accept us says so when we have let it in (RFC 7296 §2.21.2).
        if !was_up || matches!(cause, Cause::Refused { .. } | Cause::Failed(_)) {
            self.shared.count(Some(peer_id), |counters| counters.failed(&cause));
        }
        let Some(peer) = self.shared.peers.get_mut(&peer_id) else { return };
        // What anybody may say in its name is not said of a peer that is connected.
        let claimed = !was_up && !was_attempt && peer.current.is_some();
        // Of two that were made at one time one goes: the other is in use.
        let spare = cause == Cause::PeerClosed && peer.current.is_some_and(|current| current != id);
        if !claimed && !spare && !matches!(cause, Cause::Replaced | Cause::Redundant | Cause::Command | Cause::Removed) {
            peer.record.problem(&cause);
        }
        if peer.current == Some(id) {
            self.shared.set_current(peer_id, None);
            if let Some(next) = self.another_session(peer_id, id) {
                self.make_current(now, peer_id, next);
                return self.run(now, next, |sa, _| {
                    if let Some((facts, session)) = sa.facts_and_session() {
                        session.succession.stand_alone(id);
                        session.inherit_nothing(id, facts.features.adit);
                    }
                });
            }
            return self.lost(now, peer_id, cause, Some(spis));
        }
        if was_attempt && peer.current.is_some() && peer.connection.state == ConnectionState::Rekeying {
            return self.beside_failed(now, peer_id, cause);
        }
        if peer.current.is_none() && !was_up {
            // A peer that was refused does not stop us from trying ourselves.
            let trying = peer.attempt.is_some() || (!was_attempt && peer.connection.retry_at.is_some());
            if !trying {
                return self.lost(now, peer_id, cause, Some(spis));
            }
        }
        if let (false, false, Cause::Failed(why)) = (was_up, was_attempt, cause) {
            // Somebody called itself as the peer does: what there is with the peer stays as it is.
            let ours = self.shared.peers.get(&peer_id).map(|peer| Shown::of(&peer.config.remote_id)).into_iter().collect();
            let theirs = claimed_as.into_iter().collect();
            self.note_refusal(now, Refusal { from: remote, at: now.unix, why, ours, theirs });
        }
    }

    /// Another IKE SA of the peer that can take over.
    fn another_session(&self, peer: PeerId, not: SaId) -> Option<SaId> {
        let peer = self.shared.peers.get(&peer)?;
        let usable = |id: &&SaId| {
            let session = self.sas.get(id).and_then(|sa| sa.session());
            **id != not && session.is_some_and(|session| !session.succession.has_successor())
        };
        peer.sas.iter().rev().find(usable).copied()
    }

    /// Nothing connects us to the peer any more: what now is the connection's decision. `spis` are those of what was lost.
    pub(in crate::ike) fn lost(&mut self, now: Now, peer_id: PeerId, cause: Cause, spis: Option<IkeSpis>) {
        let Some(peer) = self.shared.peers.get_mut(&peer_id) else { return };
        if peer.attempt.is_some() {
            return self.shared.enter(now, peer_id, ConnectionState::Connecting, Some(cause), spis);
        }
        let backoff = peer.config.backoff;
        // Nobody let us in where we looked: the next address is tried at once, unless all of them were.
        let next = peer.connection.state == ConnectionState::Connecting && peer.remotes.failed();
        let state = peer.connection.lost(now.instant, &cause, &backoff, &mut *self.random);
        if next && state == ConnectionState::Reconnecting {
            peer.connection.retry_at = Some(now.instant);
        }
        let retry_at = peer.connection.retry_at;
        self.shared.enter(now, peer_id, state, Some(cause), spis);
        self.timers.set(Timer::Peer(peer_id), retry_at.filter(|_| state == ConnectionState::Reconnecting));
    }

    /// The time for another attempt has come.
    pub(super) fn try_again(&mut self, now: Now, peer: PeerId) {
        if self.shared.peers.get(&peer).is_some_and(|peer| peer.connection.is_due(now.instant)) {
            self.begin(now, peer);
        }
    }

    fn note_initiator(&mut self, now: Now, from: Remote, claimed: Option<Shown>, cause: Cause) {
        // An initiator that went away after IKE_SA_INIT is no news: it may be a flood.
        if let Cause::Failed(why) = cause {
            // Which identities would have been known from there.
            let candidates = self.shared.directory.candidates(from.site());
            let peers = candidates.peers().take(IDENTITIES_MAX);
            let ours = peers.filter_map(|id| Some(Shown::of(&self.shared.peers.get(&id)?.config.remote_id))).collect();
            let theirs = claimed.into_iter().collect();
            self.note_refusal(now, Refusal { from, at: now.unix, why, ours, theirs });
        }
    }
}

fn lowest_nonce(sa: &IkeSa) -> Option<&[u8]> {
    sa.session().map(|session| session.made.lowest_nonce.as_slice())
}
