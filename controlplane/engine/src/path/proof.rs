//! A candidate becomes a path: it is asked for a proof, within bounds, and moves what it is to move once it has answered.

use std::time::{Duration, Instant};

use adit_proto::control::PeerId;
use adit_proto::echo;

use super::hop::Hop;
use super::judge::Unfit;
use super::moves::Moves;
use super::peer::{PROOF_TRIES, PROOF_WAIT, PeerPaths, Proof, Wanted};
use super::{Follow, PathEvent, PathId, Paths, Terms, Wish};
use crate::limits::{KEPT_FOR_REQUEST_MAX, UNPROVEN_PATHS_MAX};
use crate::random::Random;

/// So long is a request of IKE that asks for a proof and nothing else, without COOKIE2 (RFC 4555 §3.7) and with it.
const PROOF_REQUEST: [usize; 2] = [57, 81];
/// So many bytes go at most to an address from which nothing has come, where the peer may be: a few requests.
const LOOK_CREDIT: u32 = 3000;
/// For so long an address is tried at which the peer may be, too.
const LOOKED_FOR: Duration = Duration::from_secs(30);

/// The answer to a request of IKE came this way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered {
    /// The request went this way, too.
    pub hop: Hop,
    /// It went nowhere else. Whoever was asked somewhere else, too, may send the answer with any source.
    pub alone: bool,
    /// Where IKE goes to the peer, it did not answer.
    pub in_vain: bool,
}

/// Size of the echo that asks for a proof, as an IP packet. Where we look for the peer it may know nothing of this path: what its
/// answer leaves of a longer one pays for the question with which it proves that we are there.
pub(super) fn proof_echo(hop: &Hop, ours: bool) -> u16 {
    let least = echo::size_min(hop.is_ipv6());
    if ours { 2 * least } else { least }
}

/// What it costs to ask for a proof there, in bytes.
fn cost(terms: &Terms, hop: &Hop) -> u32 {
    let [plain, with_cookie] = PROOF_REQUEST;
    let request = hop.overhead() + if terms.follow == Follow::Both { plain } else { with_cookie };
    match (terms.echo, terms.ike) {
        (true, _) => proof_echo(hop, false).into(),
        (false, true) => u32::try_from(request).unwrap_or(u32::MAX),
        (false, false) => 0,
    }
}

impl Paths {
    /// An authentic message of `bytes` came this way. It moves nothing by itself.
    pub(crate) fn heard(&mut self, now: Instant, id: PeerId, hop: Hop, bytes: usize) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if let Some(wanted) = peer.wanted.filter(|wanted| wanted.hop.is_same(&hop)) {
            // One that is not taken is counted.
            let _ = self.candidate(now, id, hop, wanted.moves, bytes);
        } else {
            self.credit(now, id, hop, u32::try_from(bytes).unwrap_or(u32::MAX));
        }
    }

    /// So many authentic bytes came this way: as many may go there before a proof. Once they are enough to ask for one, that is done.
    /// Says whether that is counted.
    pub(crate) fn credit(&mut self, now: Instant, id: PeerId, hop: Hop, bytes: u32) -> bool {
        let Some(peer) = self.peers.get_mut(&id) else { return false };
        let terms = peer.terms;
        let Some(entry) = peer.find(hop).and_then(|path| peer.get_mut(path)) else { return false };
        entry.heard = now;
        let Proof::Waits { ours, asked, next, came, tries, .. } = &mut entry.proof else { return false };
        entry.credit = entry.credit.saturating_add(bytes);
        // What was asked before it came from there may not have got through: a NAT there lets in whom it has sent to.
        let is_met = *ours && terms.candidates && *tries < PROOF_TRIES && !std::mem::replace(came, true);
        if is_met || !*ours && !*asked && entry.credit >= cost(&terms, &entry.hop) {
            *next = now;
        }
        self.set_timer(id);
        true
    }

    /// A new, authentic message says that the peer is there, with `bytes` that came from there, which [`Paths::heard`] has counted where
    /// it is known that it may be there. It is asked for a proof, and then what `moves` says moves.
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
        if let Some(path) = known {
            let may = peer.origin.allows(hop.site(), &peer.endpoints);
            if peer.goes_there(path, moves) || (may && peer.is_fresh(path, now)) {
                peer.latest = Some(path);
                self.use_path(id, path, moves);
                return Ok(());
            }
            if let Some(Proof::Waits { moves: wanted, ours, tries, next, .. }) = peer.get_mut(path).map(|entry| &mut entry.proof)
            {
                *wanted = moves.max(*wanted);
                if std::mem::take(ours) {
                    // Now it says itself that it is where we look for it.
                    (*tries, *next) = (0, now);
                }
                peer.latest = Some(path);
                self.set_timer(id);
                return Ok(());
            }
        }
        if !peer.looks.take(now) {
            self.refused += 1;
            return Err(Unfit::TooMany);
        }
        let path = self.enter(now, id, hop, Proof::wanted(now, moves, false), bytes).inspect_err(|_| self.refused += 1)?;
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
            // Whoever says at the relay that it is the peer takes no place of an address, and one place together.
            if hop.is_stream() && !self.make_room_for_stream(id) {
                continue;
            }
            let (moves, next) = (Moves::Both, now + LOOKED_FOR);
            let waits = Proof::Waits { moves, ours: true, tries: PROOF_TRIES, next, echo: None, asked: false, came: false };
            let Ok(path) = self.enter(now, id, hop, waits, LOOK_CREDIT) else { continue };
            tried.extend(self.peers.get(&id).and_then(|peer| peer.get(path)).map(|entry| entry.hop));
        }
        self.set_timer(id);
        tried
    }

    /// One stream at a time waits for a proof. Says whether there is a place for it.
    fn make_room_for_stream(&mut self, id: PeerId) -> bool {
        let waiting = |peer: &PeerPaths| peer.iter().filter(|(_, entry)| !entry.is_proven()).count();
        let Some(peer) = self.peers.get(&id) else { return false };
        let other = peer.iter().find(|(path, entry)| entry.hop.is_stream() && !entry.is_proven() && !peer.is_used(*path));
        match other.map(|(path, _)| path) {
            Some(path) => self.drop_path(id, path),
            None => return waiting(peer) < UNPROVEN_PATHS_MAX,
        }
        true
    }

    /// The configuration says that the peer is there from now on: it is asked for a proof, and stays where it is until that has come.
    ///
    /// # Errors
    /// Nothing may go there.
    pub(crate) fn look_there(&mut self, now: Instant, id: PeerId, hop: Hop) -> Result<(), Unfit> {
        self.look_with(now, id, hop, Moves::Both)
    }

    /// The same, with what moves there once it has answered.
    ///
    /// # Errors
    /// Nothing may go there.
    pub(super) fn look_with(&mut self, now: Instant, id: PeerId, hop: Hop, moves: Moves) -> Result<(), Unfit> {
        let wanted = Proof::wanted(now, moves, true);
        let path = self.enter(now, id, hop, wanted, LOOK_CREDIT)?;
        if let Some(entry) = self.peers.get_mut(&id).and_then(|peer| peer.get_mut(path)) {
            entry.proof = wanted;
        }
        self.set_timer(id);
        Ok(())
    }

    /// Everything goes by UDP from now on: what is still being asked has nothing to move any more.
    pub(super) fn is_out_of_stream(&mut self, id: PeerId, used: PathId) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.terms.candidates) else { return };
        for path in PathId::all().filter(|path| *path != used) {
            if let Some(Proof::Waits { moves, ours: true, .. }) = peer.get_mut(path).map(|entry| &mut entry.proof) {
                *moves = Moves::Nothing;
            }
        }
    }

    /// An IKE request was answered. Gives where it is to be asked for a proof again, if this is none: by a request that goes there alone.
    pub(crate) fn answered(&mut self, now: Instant, id: PeerId, answered: Answered) -> Option<Hop> {
        let path = self.find(id, answered.hop)?;
        if answered.alone {
            let is_news = self.prove(now, id, path);
            let is_out = !answered.hop.is_stream() && self.peers.get(&id).is_some_and(PeerPaths::is_in_stream);
            if !is_news && is_out {
                // Where IKE is answered, packets need no stream.
                self.use_path(id, path, Moves::Both);
            }
            return None;
        }
        let peer = self.peers.get_mut(&id)?;
        let in_vain = answered.in_vain && peer.ike.is_some_and(|used| used != path);
        if in_vain && peer.is_fresh(path, now) {
            self.go_on_there(id, path);
            return None;
        }
        let entry = peer.get_mut(path)?;
        match &mut entry.proof {
            Proof::Waits { moves, .. } => *moves = if in_vain { Moves::Both } else { *moves },
            Proof::Proven if in_vain => {
                (entry.proof, entry.credit) = (Proof::wanted(now + PROOF_WAIT, Moves::Both, true), LOOK_CREDIT);
                self.set_timer(id);
            }
            Proof::Proven => return None,
        }
        Some(answered.hop)
    }

    /// It was answered from a path that is proven, and not from the one that IKE goes by: IKE goes on there, too.
    fn go_on_there(&mut self, id: PeerId, path: PathId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.latest = Some(path);
        if peer.terms.leads {
            self.wishes.push_back(Wish::Moved { peer: id });
        }
        self.use_path(id, path, Moves::Both);
    }

    /// Whether a request of so many bytes may go there: always where the peer is proven, elsewhere at most as many as came.
    pub(crate) fn may_send(&mut self, id: PeerId, hop: Hop, bytes: usize) -> bool {
        let Some(peer) = self.peers.get_mut(&id) else { return true };
        let Some(path) = peer.find(hop) else { return true };
        if peer.was_proven(path) {
            return true;
        }
        let Some(entry) = peer.get_mut(path) else { return true };
        let left = u32::try_from(bytes).ok().and_then(|bytes| entry.credit.checked_sub(bytes));
        entry.credit = left.unwrap_or(entry.credit);
        if left.is_some() {
            entry.was_asked();
        }
        left.is_some()
    }

    /// Whether the peer is known to receive there.
    pub(crate) fn receives(&self, now: Instant, id: PeerId, hop: Hop) -> bool {
        let Some(peer) = self.peers.get(&id) else { return false };
        peer.find(hop).is_some_and(|path| peer.is_used(path) || peer.is_fresh(path, now))
    }

    /// Whether an answer of so many bytes may go where its request came from: always where the peer is known to receive, elsewhere what is
    /// left of what came from there once it can be asked for a proof: by a request of `asks` bytes that is under way, or another one. `None`:
    /// nothing is known of that place.
    pub(crate) fn may_answer(&mut self, now: Instant, id: PeerId, hop: Hop, (bytes, asks): (usize, usize)) -> Option<bool> {
        if self.receives(now, id, hop) {
            return Some(true);
        }
        let peer = self.peers.get_mut(&id)?;
        let terms = peer.terms;
        let entry = peer.find(hop).and_then(|path| peer.get_mut(path))?;
        let Proof::Waits { asked, .. } = entry.proof else { return None };
        let asks = u32::try_from(asks).ok().filter(|asks| *asks <= KEPT_FOR_REQUEST_MAX).unwrap_or(0);
        let kept = if asked { 0 } else { cost(&terms, &entry.hop).max(asks) };
        let left = u32::try_from(bytes).ok().and_then(|bytes| entry.credit.checked_sub(bytes)).filter(|left| *left >= kept);
        entry.credit = left.unwrap_or(entry.credit);
        Some(left.is_some())
    }

    /// The peer receives there.
    pub(super) fn prove(&mut self, now: Instant, id: PeerId, path: PathId) -> bool {
        let Some(peer) = self.peers.get_mut(&id) else { return false };
        let newest = peer.latest;
        let Some(entry) = peer.get_mut(path) else { return false };
        (entry.heard, entry.answered) = (now, Some(now));
        let Proof::Waits { moves, ours, .. } = std::mem::replace(&mut entry.proof, Proof::Proven) else { return false };
        if ours && moves != Moves::Nothing {
            // It answers where we looked for it.
            peer.latest = Some(path);
        }
        self.wishes.push_back(Wish::Answer { peer: id });
        if ours || newest == Some(path) {
            let tells = if ours { moves != Moves::Nothing } else { peer.terms.leads && moves == Moves::Both };
            if tells && peer.ike != Some(path) {
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
            let waits = peer.get(path).map(|entry| entry.proof);
            let Some(Proof::Waits { moves, ours, tries, next, echo, asked, came }) = waits else { continue };
            if next > now {
                continue;
            }
            if tries >= PROOF_TRIES {
                self.unproven += 1;
                if let Some(entry) = peer.get(path).filter(|_| moves == Moves::Both && !ours && peer.latest == Some(path)) {
                    peer.wanted = Some(Wanted { hop: entry.hop, moves, credit: entry.credit });
                }
                self.give_up(id, path);
                continue;
            }
            if !terms.echo && !terms.ike {
                // Nobody can be asked: a static key without echoes stays where the configuration says.
                self.give_up(id, path);
                continue;
            }
            let is_one_of_many = ours && terms.candidates && terms.echo;
            // Looks leave half of what all may ask to those who have moved.
            let of_all = if is_one_of_many { self.looks_for_all.take(now) } else { true };
            let may = of_all && peer.proofs.take(now) && self.proofs.take(now);
            let Some(entry) = peer.get_mut(path) else { continue };
            if !may && is_one_of_many {
                // It was not asked.
                entry.proof = Proof::Waits { moves, ours, tries, next: now + PROOF_WAIT, echo, asked, came };
                continue;
            }
            entry.proof =
                Proof::Waits { moves, ours, tries: tries + 1, next: now + PROOF_WAIT * (1 << tries), echo, asked, came };
            if !may {
                continue;
            }
            let hop = entry.hop;
            let size = proof_echo(&hop, ours);
            let paid = entry.credit.checked_sub(size.into());
            if let (true, Some(left)) = (terms.echo, paid) {
                entry.credit = left;
                let number = random.u64();
                if let Proof::Waits { echo, asked, .. } = &mut entry.proof {
                    (*echo, *asked) = (Some(number), true);
                }
                self.tell(id);
                self.events.push_back(PathEvent::Echo { peer: id, path, id: number, size });
            }
            // A request to where nobody is would be in the way of all others. Of many addresses most are that.
            if terms.ike && !is_one_of_many {
                self.wishes.push_back(Wish::Prove { peer: id, hop });
            }
        }
    }

    /// No proof has come. What uses the path already goes on there.
    pub(super) fn give_up(&mut self, id: PeerId, path: PathId) {
        match self.peers.get_mut(&id).filter(|peer| peer.is_used(path)).and_then(|peer| peer.get_mut(path)) {
            Some(entry) => entry.proof = Proof::Proven,
            None => self.drop_path(id, path),
        }
    }

    fn drop_path(&mut self, id: PeerId, path: PathId) {
        let reported = self.peers.get_mut(&id).and_then(|peer| peer.take(path)).is_some_and(|entry| entry.reported.is_some());
        if reported {
            self.events.push_back(PathEvent::Remove { peer: id, path });
        }
    }
}
