//! A candidate becomes a path: it is asked for a proof, within bounds, and moves what it is to move once it has answered.

use std::time::{Duration, Instant};

use adit_proto::control::PeerId;

use super::hop::Hop;
use super::judge::Unfit;
use super::peer::{Moves, PROOF_TRIES, PROOF_WAIT, Proof, Wanted};
use super::{Follow, PathEvent, PathId, Paths, Wish};
use crate::random::Random;

/// The echo that asks for a proof is an IP packet of this size.
pub(super) const PROOF_ECHO: u16 = 88;
/// For so long an address is tried at which the peer may be, too.
const LOOKED_FOR: Duration = Duration::from_secs(30);

impl Paths {
    /// An authentic message of `bytes` came this way. It moves nothing by itself.
    pub(crate) fn heard(&mut self, now: Instant, id: PeerId, hop: Hop, bytes: usize) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if let Some(wanted) = peer.wanted.filter(|wanted| wanted.hop.is_same(&hop)) {
            // One that is not taken is counted.
            let _ = self.candidate(now, id, hop, wanted.moves, bytes);
        } else if let Some(entry) = peer.find(hop).and_then(|path| peer.get_mut(path)) {
            entry.heard = now;
            entry.credit = entry.credit.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        }
    }

    /// A new, authentic message says that the peer is there, with `bytes` that came from there. It is asked for a proof, and then
    /// what `moves` says moves.
    ///
    /// # Errors
    /// Nothing may go there.
    pub(crate) fn candidate(&mut self, now: Instant, id: PeerId, hop: Hop, moves: Moves, bytes: usize) -> Result<(), Unfit> {
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        let mut bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let (known, hop) = (peer.find(hop), hop.normal());
        let same = peer.wanted.filter(|wanted| wanted.hop.is_same(&hop));
        if same.is_some() || moves == Moves::Both {
            peer.wanted = None;
        }
        let moves = same.map_or(moves, |wanted| moves.max(wanted.moves));
        bytes = bytes.saturating_add(same.map_or(0, |wanted| wanted.credit));
        match known {
            Some(path) if peer.is_fresh(path, now) => {
                peer.latest = Some(path);
                self.use_path(id, path, moves);
                return Ok(());
            }
            Some(path) if peer.get(path).is_some_and(|entry| !entry.is_proven()) => {
                peer.latest = Some(path);
                if let Some(entry) = peer.get_mut(path) {
                    entry.credit = entry.credit.saturating_add(bytes);
                    if let Proof::Waits { moves: wanted, .. } = &mut entry.proof {
                        *wanted = moves.max(*wanted);
                    }
                }
                return Ok(());
            }
            Some(_) | None => {}
        }
        if !peer.looks.take(now) {
            self.refused += 1;
            return Err(Unfit::TooMany);
        }
        let proof = Proof::Waits { moves, ours: false, tries: 0, next: now, echo: None };
        let path = self.enter(now, id, hop, proof, bytes).inspect_err(|_| self.refused += 1)?;
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.latest = Some(path);
        }
        self.set_timer(id);
        Ok(())
    }

    /// The peer may be there, too: nothing came from there, but where it was it does not answer. Only IKE requests go there until
    /// it does. Gives the addresses that may be tried.
    pub(crate) fn try_also(&mut self, now: Instant, id: PeerId, hops: impl IntoIterator<Item = Hop>) -> Vec<Hop> {
        let mut tried = Vec::new();
        for hop in hops {
            let Some(peer) = self.peers.get(&id) else { break };
            if let Some(entry) = peer.find(hop).and_then(|path| peer.get(path)) {
                tried.push(entry.hop);
                continue;
            }
            let (moves, next) = (Moves::Both, now + LOOKED_FOR);
            let waits = Proof::Waits { moves, ours: true, tries: PROOF_TRIES, next, echo: None };
            let Ok(path) = self.enter(now, id, hop, waits, 0) else { continue };
            tried.extend(self.peers.get(&id).and_then(|peer| peer.get(path)).map(|entry| entry.hop));
        }
        self.set_timer(id);
        tried
    }

    /// An IKE request that was sent this way was answered from there. Gives whether that is news: something may have moved.
    pub(crate) fn answered(&mut self, now: Instant, id: PeerId, hop: Hop) -> bool {
        let Some(path) = self.find(id, hop) else { return false };
        self.prove(now, id, path) || self.found_elsewhere(id, path)
    }

    /// It was answered from a path that was proven before, not from the one that IKE goes by, where nothing came back: IKE goes on
    /// there, too.
    fn found_elsewhere(&mut self, id: PeerId, path: PathId) -> bool {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.ike.is_some_and(|used| used != path)) else { return false };
        peer.latest = Some(path);
        if peer.terms.follow == Follow::Nothing {
            self.wishes.push_back(Wish::Moved { peer: id });
        }
        self.use_path(id, path, Moves::Both);
        true
    }

    /// Whether so many bytes may go there: always where the peer is proven, elsewhere at most as many as came.
    pub(crate) fn may_send(&mut self, id: PeerId, hop: Hop, bytes: usize) -> bool {
        let Some(peer) = self.peers.get_mut(&id) else { return true };
        let Some(entry) = peer.find(hop).and_then(|path| peer.get_mut(path)) else { return true };
        if entry.is_proven() {
            return true;
        }
        // What we try because the peer has named the address is bounded by the retransmissions of one request.
        if matches!(entry.proof, Proof::Waits { ours: true, .. }) {
            return true;
        }
        let left = u32::try_from(bytes).ok().and_then(|bytes| entry.credit.checked_sub(bytes));
        entry.credit = left.unwrap_or(entry.credit);
        left.is_some()
    }

    /// The peer receives there.
    pub(super) fn prove(&mut self, now: Instant, id: PeerId, path: PathId) -> bool {
        let Some(peer) = self.peers.get_mut(&id) else { return false };
        let newest = peer.latest;
        let Some(entry) = peer.get_mut(path) else { return false };
        entry.heard = now;
        let Proof::Waits { moves, ours, .. } = std::mem::replace(&mut entry.proof, Proof::Proven) else { return false };
        if ours {
            // It answers where we looked for it, and not where it was.
            peer.latest = Some(path);
        }
        if ours || newest == Some(path) {
            if peer.terms.follow == Follow::Nothing && peer.ike != Some(path) {
                self.wishes.push_back(Wish::Moved { peer: id });
            }
            self.use_path(id, path, moves);
        }
        self.set_timer(id);
        true
    }

    /// Asks for the proofs that are due, and gives up on those that do not come.
    pub(super) fn ask_for_proofs(&mut self, now: Instant, id: PeerId, random: &mut dyn Random) {
        for path in PathId::all() {
            let Some(peer) = self.peers.get_mut(&id) else { return };
            let terms = peer.terms;
            let Some(Proof::Waits { moves, ours, tries, next, echo }) = peer.get(path).map(|entry| entry.proof) else { continue };
            if next > now {
                continue;
            }
            if tries >= PROOF_TRIES {
                self.unproven += 1;
                if let Some(entry) = peer.get(path).filter(|_| moves == Moves::Both && !ours && peer.latest == Some(path)) {
                    peer.wanted = Some(Wanted { hop: entry.hop, moves, credit: entry.credit });
                }
                self.drop_path(id, path);
                continue;
            }
            if !terms.echo && !terms.ike {
                // Nobody can be asked: a static key without echoes stays where the configuration says.
                self.drop_path(id, path);
                continue;
            }
            let may = peer.proofs.take(now) && self.proofs.take(now);
            let Some(entry) = peer.get_mut(path) else { continue };
            entry.proof = Proof::Waits { moves, ours, tries: tries + 1, next: now + PROOF_WAIT * (1 << tries), echo };
            if !may {
                continue;
            }
            let hop = entry.hop;
            let paid = entry.credit.checked_sub(PROOF_ECHO.into());
            if let (true, Some(left)) = (terms.echo, paid) {
                entry.credit = left;
                let asked = random.u64();
                if let Proof::Waits { echo, .. } = &mut entry.proof {
                    *echo = Some(asked);
                }
                self.tell(id);
                self.events.push_back(PathEvent::Echo { peer: id, path, id: asked, size: PROOF_ECHO });
            }
            if terms.ike {
                self.wishes.push_back(Wish::Prove { peer: id, hop });
            }
        }
    }

    fn drop_path(&mut self, id: PeerId, path: PathId) {
        let told = self.peers.get_mut(&id).and_then(|peer| peer.take(path)).is_some_and(|entry| entry.told.is_some());
        if told {
            self.events.push_back(PathEvent::Remove { peer: id, path });
        }
    }
}
