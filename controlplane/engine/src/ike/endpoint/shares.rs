//! No peer has more IKE SAs and Child SAs than its share: what it has replaced goes at once when there are more.

use adit_proto::control::PeerId;
use adit_proto::limits::IKE_SAS_OF_PEER_MAX;

use super::super::cause::Cause;
use super::super::config::Now;
use super::super::context::Then;
use super::super::error::LocalFault;
use super::super::facts::SaId;
use super::super::places;
use super::super::session::Session;
use super::super::share;
use super::{Endpoint, Timer};
use crate::path::Site;

impl Endpoint {
    /// Of those who come from these addresses, in their order, under a pattern, the one of whom nothing was heard for the longest time goes.
    pub(super) fn make_place(&mut self, now: Now, at: &[Site]) {
        let heard = |id: PeerId| Some(self.sas.get(&self.shared.peers.get(&id)?.current?)?.wire.last_heard());
        let there = places::clients(&self.shared).filter(|(_, address)| at.binary_search(address).is_ok());
        let Some(id) = there.min_by_key(|(id, _)| heard(*id)).map(|(id, _)| id) else { return };
        let name = self.shared.peers.get(&id).map(|peer| peer.connected_as.clone()).unwrap_or_default();
        // It is there.
        let _ = self.down(now, id, Cause::Failed(LocalFault::Sessions.into()));
        // There are enough from where it came.
        self.shared.left.forget(&name);
    }

    /// Takes from a peer what is beyond its share.
    pub(super) fn keep_within_share(&mut self, now: Now, peer: PeerId) {
        while self.count_of(peer) > IKE_SAS_OF_PEER_MAX && self.end_surplus(now, peer) {}
        while self.give_up_one(now, peer) {}
    }

    fn count_of(&self, peer: PeerId) -> usize {
        self.shared.peers.get(&peer).map_or(0, |peer| peer.sas.len())
    }

    /// Ends the oldest IKE SA of a peer that is over, or that another one has replaced, or else the oldest that is not in use, and forgets it.
    /// Says whether there was one.
    fn end_surplus(&mut self, now: Now, peer: PeerId) -> bool {
        let Some(known) = self.shared.peers.get(&peer) else { return false };
        let (current, newest) = (known.current, known.sas.last().copied());
        let over = |id: &&SaId| self.sas.get(id).is_none_or(|sa| sa.session().is_none());
        let goes = |id: &&SaId| {
            let session = self.sas.get(id).and_then(|sa| sa.session());
            session.is_some_and(|session| {
                let succession = &session.succession;
                succession.is_going() || succession.holds() || succession.is_redundant()
            })
        };
        let spare = || known.sas.iter().filter(|id| Some(**id) != current && Some(**id) != newest);
        // Who rekeys those that are to go has more that look as if they were to stay.
        let Some(id) = spare().find(over).or_else(|| spare().find(goes)).or_else(|| spare().next()).copied() else {
            return false;
        };
        self.end_replaced(now, id, current);
        if let Some(sa) = self.sas.remove(&id) {
            self.timers.set(Timer::Sa(id), None);
            self.forget(&sa);
        } else if let Some(peer) = self.shared.peers.get_mut(&peer) {
            peer.sas.retain(|one| *one != id);
        }
        true
    }

    /// Ends an IKE SA that another one has replaced, without a word to the peer, which knows. What is late on its Child SAs is taken by
    /// the one that there is.
    fn end_replaced(&mut self, now: Now, id: SaId, current: Option<SaId>) {
        let going = self.sas.get(&id).and_then(|sa| sa.session()).is_some_and(|session| session.succession.is_going());
        match current.filter(|current| going && *current != id) {
            Some(current) => self.on_give_way(now, id, current, Then::End),
            None => self.run(now, id, |sa, ctx| sa.end(ctx, Cause::Replaced)),
        }
    }

    /// Gives up one SA of a peer that has too many. Says whether there was one to give up.
    fn give_up_one(&mut self, now: Now, peer: PeerId) -> bool {
        let Some(known) = self.shared.peers.get(&peer) else { return false };
        let (current, newest) = (known.current, known.sas.last().copied());
        let session = |id: &SaId| self.sas.get(id).and_then(|sa| sa.session());
        let Some(crowded) = current.and_then(|id| session(&id)).and_then(|one| share::crowded(&self.shared, one)) else {
            return false;
        };
        let oldest = |id: &SaId| Some((share::oldest_replaced(session(id)?, crowded)?, *id));
        if let Some(((_, _, inbound), id)) = known.sas.iter().filter_map(oldest).min() {
            self.with_session(now, id, |session, ctx| session.give_up_child(ctx, inbound));
            return true;
        }
        let has_some = |session: &Session| !session.children.is_empty();
        let goes = |session: &Session| session.succession.is_going() || session.succession.holds();
        let spare = known.sas.iter().filter(|id| Some(**id) != current && Some(**id) != newest);
        let Some(id) = spare.filter(|id| session(id).is_some_and(|one| has_some(one) && goes(one))).copied().next() else {
            return false;
        };
        self.end_replaced(now, id, current);
        true
    }
}
