//! The paths of one peer: up to eight, each proven or on the way to it; one is used for ESP and one for IKE, most often the same.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::limits::{LOOKS_OF_PEER_PER_SECOND, PROOFS_OF_PEER_PER_SECOND, UNPROVEN_PATHS_MAX};
use crate::rate_limit::Bucket;

use super::direct::Direct;
use super::hop::{Hop, Site};
use super::moves::Moves;
use super::mtu::Mtu;
use super::origin::Origin;
use super::spares::Spares;
use super::{PATHS_MAX, PathId, Terms};

/// How often a proof is asked for, and after which time again; each time twice as long.
pub(super) const PROOF_TRIES: u8 = 4;
pub(super) const PROOF_WAIT: Duration = Duration::from_millis(400);
/// A path that the peer has not answered from for so long has to be proven again before anything moves to it: its address may be another's now.
const PROOF_HOLDS: Duration = Duration::from_secs(30);

/// Whether the peer has shown that it receives there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    Proven,
    Waits {
        moves: Moves,
        /// Nothing came from there: we look for the peer, because it has named the address and does not answer where it was.
        ours: bool,
        tries: u8,
        /// When it is asked for again, or given up.
        next: Instant,
        /// The last echo that asked for it.
        echo: Option<u64>,
        /// Something was sent there that asks for it.
        asked: bool,
        /// Something authentic has come from there since it is looked for there.
        came: bool,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub hop: Hop,
    pub proof: Proof,
    /// Bytes that came from there, less those that were sent there: what may still be sent while nothing is proven. Where we look for the
    /// peer, and nothing came from: what we allow ourselves.
    pub credit: u32,
    pub heard: Instant,
    /// When the peer last answered from there what was sent nowhere else. What merely came from there says nothing: anybody may send
    /// a copy of it with another source.
    pub answered: Option<Instant>,
    pub mtu: Mtu,
    /// As the data plane was told last.
    pub reported: Option<(Hop, [u16; 2], bool)>,
}

impl Entry {
    pub(super) fn is_proven(&self) -> bool {
        self.proof == Proof::Proven
    }

    /// Something was sent there that asks for a proof.
    pub(super) fn was_asked(&mut self) {
        if let Proof::Waits { asked, .. } = &mut self.proof {
            *asked = true;
        }
    }
}

impl Proof {
    /// To be asked for at once.
    pub(super) fn wanted(now: Instant, moves: Moves, ours: bool) -> Proof {
        Proof::Waits { moves, ours, tries: 0, next: now, echo: None, asked: false, came: false }
    }
}

/// Where the peer said that it is, without proof so far: it did not answer in time, or could not be asked because too little had come
/// from there. With the next authentic message from there it is asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub hop: Hop,
    pub moves: Moves,
    /// See [`Entry::credit`].
    pub credit: u32,
}

/// All that there is of one peer.
#[derive(Debug)]
pub(super) struct PeerPaths {
    pub terms: Terms,
    /// From where it may come, beside the addresses where we look for it.
    pub origin: Origin,
    pub endpoints: Vec<Site>,
    /// Whether ESP has to go in UDP.
    pub encapsulate: bool,
    /// Boxed: most peers have one or two.
    entries: [Option<Box<Entry>>; PATHS_MAX],
    /// Which ESP goes by, and which IKE.
    pub esp: Option<PathId>,
    pub ike: Option<PathId>,
    /// Where the peer was seen last: an older sign that is proven late moves nothing.
    pub latest: Option<PathId>,
    pub wanted: Option<Wanted>,
    /// The source that the kernel would choose for the way that IKE goes by, and towards whom, as it was looked up last.
    pub choice: Option<Choice>,
    /// It leaves from other sockets than before, and the peer has not been told.
    pub rebound: bool,
    /// Where it may be, too, with a static key.
    pub spares: Spares,
    /// Where it may be, too, while it is in a stream.
    pub direct: Direct,
    pub proofs: Bucket,
    pub looks: Bucket,
}

/// What the kernel chooses where nobody says from which address a datagram is to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub remote: IpAddr,
    pub source: IpAddr,
}

impl PeerPaths {
    pub(super) fn new(terms: Terms) -> PeerPaths {
        PeerPaths {
            terms,
            origin: Origin::Anywhere,
            endpoints: Vec::new(),
            encapsulate: true,
            entries: Default::default(),
            esp: None,
            ike: None,
            latest: None,
            wanted: None,
            choice: None,
            rebound: false,
            spares: Spares::default(),
            direct: Direct::default(),
            proofs: Bucket::new(PROOFS_OF_PEER_PER_SECOND),
            looks: Bucket::new(LOOKS_OF_PEER_PER_SECOND),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PathId, &Entry)> {
        PathId::all().filter_map(|id| Some((id, self.get(id)?)))
    }

    pub(super) fn get(&self, id: PathId) -> Option<&Entry> {
        self.entries[id.index()].as_deref()
    }

    pub(super) fn get_mut(&mut self, id: PathId) -> Option<&mut Entry> {
        self.entries[id.index()].as_deref_mut()
    }

    pub(super) fn each_mut(&mut self, mut change: impl FnMut(&mut Entry)) {
        self.entries.iter_mut().flatten().for_each(|entry| change(entry));
    }

    pub(super) fn take(&mut self, id: PathId) -> Option<Entry> {
        for place in [&mut self.esp, &mut self.ike, &mut self.latest] {
            *place = place.filter(|used| *used != id);
        }
        self.entries[id.index()].take().map(|entry| *entry)
    }

    pub(super) fn put(&mut self, id: PathId, entry: Entry) {
        self.entries[id.index()] = Some(Box::new(entry));
    }

    pub(super) fn find(&self, hop: Hop) -> Option<PathId> {
        let by = |same: fn(&Hop, &Hop) -> bool| self.iter().find(|(_, one)| same(&one.hop, &hop)).map(|(id, _)| id);
        // A source that was left to the kernel is whichever it took.
        by(|one, other| one == other).or_else(|| by(Hop::is_same))
    }

    /// A place for one more, and what has to go for it: of too many that wait for a proof the oldest, of the others the one that
    /// was not heard for the longest time. The ones in use stay.
    pub(super) fn place(&self, proven: bool) -> Option<PathId> {
        let waiting = self.iter().filter(|(_, entry)| !entry.is_proven()).count();
        let full = !proven && waiting >= UNPROVEN_PATHS_MAX;
        if !full && let Some(free) = PathId::all().find(|id| self.get(*id).is_none()) {
            return Some(free);
        }
        let of_kind = self.iter().filter(|(id, entry)| !self.is_used(*id) && (!full || !entry.is_proven()));
        of_kind.min_by_key(|(_, entry)| (entry.is_proven(), entry.heard)).map(|(id, _)| id)
    }

    /// Whether the peer has answered from there so lately that what moves there needs no other proof.
    pub(super) fn is_fresh(&self, id: PathId, now: Instant) -> bool {
        let lately = |at: Instant| now.saturating_duration_since(at) < PROOF_HOLDS;
        self.get(id).is_some_and(|entry| entry.is_proven() && entry.answered.is_some_and(lately))
    }

    pub(super) fn is_used(&self, id: PathId) -> bool {
        self.esp == Some(id) || self.ike == Some(id)
    }

    /// Whether all that would move there is there.
    pub(super) fn goes_there(&self, id: PathId, moves: Moves) -> bool {
        let [esp, ike] = [self.esp, self.ike].map(|used| used == Some(id));
        match moves {
            Moves::Nothing => true,
            Moves::Esp => esp,
            Moves::Both => esp && ike,
        }
    }

    /// Whether it was proven: also where it is being asked for another proof, of what is to move there as well.
    pub(super) fn was_proven(&self, id: PathId) -> bool {
        self.is_used(id) || self.get(id).is_some_and(Entry::is_proven)
    }

    /// Whether what goes to the peer goes in a stream.
    pub(super) fn is_in_stream(&self) -> bool {
        let used = [self.ike, self.esp].into_iter().flatten();
        self.terms.ike && used.filter_map(|path| self.get(path)).any(|entry| entry.hop.is_stream())
    }

    /// Whether a packet that came this way says nothing of where to go: the peer tries several ways, this one has been proven, and by the
    /// one in use it answers.
    pub(super) fn is_one_of_many(&self, hop: Hop) -> bool {
        let answers = self.esp.and_then(|path| self.get(path)).is_some_and(|entry| !entry.mtu.is_silent());
        // What is in a stream leaves it for any of them.
        let leaves = self.is_in_stream() && !hop.is_stream();
        self.terms.candidates && answers && !leaves && self.find(hop).is_some_and(|path| self.was_proven(path))
    }

    /// Where else it may be: where it is looked for, and where it once was.
    pub(super) fn direct_hops(&self) -> Vec<Hop> {
        let been = self.iter().filter(|(_, entry)| entry.is_proven() && !entry.hop.is_stream()).map(|(_, entry)| entry.hop);
        let mut all = self.direct.hops.clone();
        let is_new = |all: &[Hop], hop: &Hop| !all.iter().any(|known| known.normal().leads_to(hop));
        for hop in been {
            if is_new(&all, &hop) {
                all.push(hop);
            }
        }
        all
    }

    /// When it is to be looked for.
    pub(super) fn direct_at(&self) -> Option<Instant> {
        let looked_for = self.is_in_stream() || self.direct.is_wanted();
        let used = self.ike.or(self.esp).and_then(|path| self.get(path)).filter(|_| looked_for)?;
        (!self.direct_hops().is_empty()).then(|| self.direct.at.unwrap_or(used.heard))
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let waits = self.iter().filter_map(|(_, entry)| match entry.proof {
            Proof::Waits { next, .. } => Some(next),
            Proof::Proven => None,
        });
        let mtu = self.esp.and_then(|id| self.get(id)).filter(|_| self.terms.echo);
        let silent = mtu.and_then(|entry| match entry.mtu.is_silent() {
            true => self.spares.due(&entry.hop, entry.heard),
            false => self.spares.look_back_at(),
        });
        let mtu = mtu.map(|entry| entry.mtu.deadline().unwrap_or(entry.heard));
        let routers = self.iter().filter(|_| !self.terms.echo).filter_map(|(_, entry)| entry.mtu.deadline());
        waits.chain(mtu).chain(silent).chain(routers).chain(self.direct_at()).min()
    }
}
