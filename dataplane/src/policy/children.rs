//! What was negotiated: the selectors of the Child SAs of each peer. A peer has its own short list, so that what one negotiates
//! costs nobody else time or room.

use adit_proto::control::{ChildId, PeerId, Refusal};
use adit_proto::limits::selectors_of_peer;

use super::{Matched, Rule};

/// The Child SAs of all peers, with their selectors.
pub struct Children {
    /// By peer, those that were made first in front.
    of: Box<[Vec<Child>]>,
    /// Most selectors of one peer.
    quota: usize,
    /// Child SAs that there ever were.
    made: u64,
}

struct Child {
    id: ChildId,
    /// Which of all Child SAs of all peers it was to be made.
    made: u64,
    rules: Vec<Rule>,
}

impl Child {
    #[inline]
    fn carries(&self, matched: &Matched<'_>) -> bool {
        self.rules.iter().any(|rule| rule.has_remote(matched) && rule.matches(matched))
    }
}

impl Children {
    /// For peers with ids below `max_peers`: their shares of the table, not less than what one can be configured with.
    pub fn new(max_peers: u16) -> Children {
        Children { of: (0..max_peers).map(|_| Vec::new()).collect(), quota: selectors_of_peer(max_peers), made: 0 }
    }

    /// The Child SA of a peer that carries a packet and is usable. Of several the one that was made last: the peer may have given
    /// the others up.
    #[inline]
    pub fn carrier(&self, peer: PeerId, matched: &Matched<'_>, usable: impl Fn(ChildId) -> bool) -> Option<ChildId> {
        let children = self.of.get(usize::from(peer.0))?;
        children.iter().rev().find(|child| child.carries(matched) && usable(child.id)).map(|child| child.id)
    }

    /// Whether a Child SA carries a packet.
    #[inline]
    pub fn has(&self, peer: PeerId, id: ChildId, matched: &Matched<'_>) -> bool {
        let mut children = self.of.get(usize::from(peer.0)).into_iter().flatten();
        children.any(|child| child.id == id && child.carries(matched))
    }

    /// When the first of the Child SAs of a peer was made that carry a packet.
    pub fn claimed(&self, peer: PeerId, matched: &Matched<'_>) -> Option<u64> {
        let mut children = self.of.get(usize::from(peer.0))?.iter();
        children.find(|child| child.carries(matched)).map(|child| child.made)
    }

    /// Adds a selector; one that the Child SA has changes nothing.
    pub fn add(&mut self, peer: PeerId, id: ChildId, rule: Rule) -> Result<(), Refusal> {
        let children = self.of.get_mut(usize::from(peer.0)).ok_or(Refusal::NoSuchPeer)?;
        if children.iter().any(|child| child.id == id && child.rules.contains(&rule)) {
            return Ok(());
        }
        if children.iter().map(|child| child.rules.len()).sum::<usize>() >= self.quota {
            return Err(Refusal::ChildrenFull);
        }
        match children.iter_mut().find(|child| child.id == id) {
            Some(child) => child.rules.push(rule),
            None => {
                self.made += 1;
                children.push(Child { id, made: self.made, rules: vec![rule] });
            }
        }
        Ok(())
    }

    /// Removes the selector of this value. A Child SA without any stays in its order: it may get others.
    pub fn remove(&mut self, peer: PeerId, id: ChildId, rule: &Rule) -> Result<(), Refusal> {
        let child = self.of.get_mut(usize::from(peer.0)).and_then(|all| all.iter_mut().find(|child| child.id == id));
        let rules = &mut child.ok_or(Refusal::NoSuchSelector)?.rules;
        let place = rules.iter().position(|one| one == rule).ok_or(Refusal::NoSuchSelector)?;
        rules.remove(place);
        Ok(())
    }

    pub fn forget(&mut self, peer: PeerId, id: ChildId) {
        if let Some(children) = self.of.get_mut(usize::from(peer.0)) {
            children.retain(|child| child.id != id);
        }
    }

    pub fn forget_peer(&mut self, peer: PeerId) {
        if let Some(children) = self.of.get_mut(usize::from(peer.0)) {
            *children = Vec::new();
        }
    }
}
