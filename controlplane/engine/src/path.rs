//! By which way a peer is reached: for IKE and for ESP, for peers with IKE and with static keys. Usable without IKE.
//!
//! ```text
//!  configuration ┐
//!  IKE, MOBIKE   ├─▶ judge ─▶ candidate ─▶ proof ─▶ proven path ─▶ in use      (PathSet, PathUse for the data plane)
//!  PathSeen, ESP ┘   │          │            │
//!                    ▼          ▼            └ a sealed echo, or an answered IKE request that was sent there
//!                 refused   at most as many bytes go there as came from there
//! ```
//! One function, [`judge`], says whether datagrams may go somewhere at all, whoever said that the peer is there. What is judged good
//! is a candidate until the peer has answered from there. Candidates have limits: three of a peer, a few proofs in a second.
//! IKE gives evidence ([`Paths::heard`], [`Paths::candidate`], [`Paths::answered`]) and does what [`Wish`] asks of it; it decides
//! nothing here. Whether a packet of ESP may move IKE as well is in the peer's [`Terms`].

mod direct;
mod failover;
mod hop;
mod judge;
mod loss;
mod moves;
mod mtu;
mod origin;
mod peer;
mod proof;
mod routes;
mod spares;
mod status;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use adit_proto::control::PeerId;
pub use adit_proto::control::{PATHS_MAX, PathId};

use crate::limits::PROOFS_PER_SECOND;
use crate::random::Random;
use crate::rate_limit::Bucket;
use crate::timer::Timers;

pub use adit_proto::control::StreamId;
pub(crate) use hop::unspecified;
pub use hop::{Arrival, Hop, IKE_PORT, Remote, Site, UdpHop};
pub use judge::{AnyUnderlay, Route, Underlay, Unfit};

pub use origin::Origin;
pub use status::PathStatus;

pub(crate) use judge::{Fit, judge};
pub(crate) use moves::Moves;
pub(crate) use proof::Answered;

use mtu::Mtu;
use peer::{Entry, PeerPaths, Proof};
use routes::Looks;

/// What is agreed with a peer about paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// It has announced that it answers sealed echoes.
    pub echo: bool,
    /// What is too long for a path goes in two packets, at both ends.
    pub split: bool,
    /// There is an IKE SA with it, whose requests can prove an address.
    pub ike: bool,
    /// What an authentic message or packet from another address moves there, once it is proven.
    pub follow: Follow,
    /// We say where the connection goes (RFC 4555 §1.2), or a NAT is on our side (RFC 7296 §2.23): the peer is told when IKE moves.
    pub leads: bool,
    /// Our address is configured: the kernel's routes do not change it.
    pub local_fixed: bool,
    /// Both ends look for each other at many addresses at once: that a packet comes another way is no word about where to go.
    pub candidates: bool,
}

/// What follows a peer to where it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// Nothing: where we lead, and no sealed echo could prove where the peer is.
    Nothing,
    /// ESP. IKE moves when the peer says so (RFC 4555 §3.8), or once its requests are answered there alone.
    Esp,
    Both,
}

/// For the data plane, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathEvent {
    /// There is this peer, or what was agreed with it is another thing now: whether it answers sealed echoes, and whether what is too
    /// long goes in two packets.
    Peer { peer: PeerId, echo: bool, split: bool },
    /// There is this path, or it is another one now. `mtu` is the largest outer IP packet that is known to arrive, in bytes, and
    /// `mtu_reported` what hosts are told: more, while it is being looked for what arrives.
    Set { peer: PeerId, path: PathId, hop: Hop, mtu: u16, mtu_reported: u16, encapsulate: bool },
    /// What goes to the peer goes this way from now on.
    Use { peer: PeerId, path: PathId },
    /// The path is gone.
    Remove { peer: PeerId, path: PathId },
    /// A sealed echo is to be sent on this path, as an IP packet of `size` bytes; to be answered as it came.
    Echo { peer: PeerId, path: PathId, id: u64, size: u16 },
    /// Large packets were lost on this path and small ones were not: from now on they are `mtu` bytes at most.
    BlackHole { peer: PeerId, path: PathId, mtu: u16 },
}

/// What only IKE can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// A request is to be sent there and answered from there.
    Prove { peer: PeerId, hop: Hop },
    /// Another path is in use, which the peer has not asked for.
    Moved { peer: PeerId },
    /// The peer receives at another place: an answer may wait for that.
    Answer { peer: PeerId },
    /// Our addresses may be others now: the peer is told.
    Announce { peer: PeerId },
}

/// The paths of all peers.
pub struct Paths {
    underlay: Box<dyn Underlay + Send>,
    peers: BTreeMap<PeerId, PeerPaths>,
    /// Sizes that were proven by a process before this one.
    proven: BTreeMap<(PeerId, Site), u16>,
    events: VecDeque<PathEvent>,
    wishes: VecDeque<Wish>,
    proofs: Bucket,
    looks_for_all: Bucket,
    timers: Timers<PeerId>,
    looks: Looks,
    /// Peers of which other sizes may be proven by now.
    sized: BTreeSet<PeerId>,
    /// Nothing longer is ever sent, whatever a route would carry: bytes of an outer IP packet.
    mtu_max: u16,
    /// Addresses that were not taken, by why; and proofs that nobody gave.
    pub refused: u64,
    pub unproven: u64,
    /// Peers whose way begins at another address of ours since we looked at the routes again.
    pub readdressed: u64,
}

impl Paths {
    pub fn new(underlay: Box<dyn Underlay + Send>) -> Paths {
        Paths {
            underlay,
            peers: BTreeMap::new(),
            proven: BTreeMap::new(),
            events: VecDeque::new(),
            wishes: VecDeque::new(),
            proofs: Bucket::new(PROOFS_PER_SECOND),
            looks_for_all: Bucket::new(PROOFS_PER_SECOND / 2),
            timers: Timers::new(),
            looks: Looks::default(),
            sized: BTreeSet::new(),
            mtu_max: u16::MAX,
            refused: 0,
            unproven: 0,
            readdressed: 0,
        }
    }

    pub(crate) fn set_underlay(&mut self, underlay: Box<dyn Underlay + Send>) {
        self.underlay = underlay;
    }

    /// Nothing longer than so many bytes is sent from now on, as an outer IP packet.
    pub fn set_mtu_max(&mut self, now: Instant, mtu_max: u16) {
        if std::mem::replace(&mut self.mtu_max, mtu_max) != mtu_max {
            self.underlay_changed(now);
        }
    }

    fn fit(&mut self, hop: Hop) -> Result<Fit, Unfit> {
        let fit = judge(&mut *self.underlay, hop)?;
        let least = |mtu: Option<u16>| Some(mtu.unwrap_or(self.mtu_max).min(self.mtu_max)).filter(|mtu| *mtu < u16::MAX);
        Ok(Fit { mtu: least(fit.mtu), link_mtu: least(fit.link_mtu), ..fit })
    }

    /// Whether datagrams may go this way, with the source that they would have.
    ///
    /// # Errors
    /// Why not.
    pub fn judge(&mut self, hop: Hop) -> Result<Hop, Unfit> {
        self.fit(hop).map(|fit| fit.hop)
    }

    /// The path of IKE with a peer.
    pub fn ike_hop(&self, peer: PeerId) -> Option<Hop> {
        let peer = self.peers.get(&peer)?;
        Some(peer.get(peer.ike?)?.hop)
    }

    /// The path of ESP with a peer.
    pub fn esp_hop(&self, peer: PeerId) -> Option<Hop> {
        let peer = self.peers.get(&peer)?;
        Some(peer.get(peer.esp?)?.hop)
    }

    /// The largest IP packet that is sure to arrive this way, in bytes: what an echo has proven, else what every path of today carries,
    /// or `hoped` if that is more, and no more than the kernel knows of the route.
    pub(crate) fn sure_size(&mut self, peer: Option<PeerId>, hop: Hop, hoped: u16) -> u16 {
        let known = peer.and_then(|peer| self.peers.get(&peer)).and_then(|peer| peer.get(peer.find(hop.normal())?));
        match known {
            Some(entry) => entry.mtu.sure(hoped),
            None => mtu::sure(hop.is_ipv6(), self.fit(hop).ok().and_then(|fit| fit.mtu), hoped),
        }
    }

    /// Which of a peer's paths a hop is.
    pub fn find(&self, peer: PeerId, hop: Hop) -> Option<PathId> {
        self.peers.get(&peer)?.find(hop.normal())
    }

    /// The paths that the peer has answered from, without the one in use for IKE.
    pub(crate) fn alternatives(&self, peer: PeerId) -> Vec<Hop> {
        let Some(peer) = self.peers.get(&peer) else { return Vec::new() };
        peer.iter().filter(|(id, _)| peer.was_proven(*id) && peer.ike != Some(*id)).map(|(_, entry)| entry.hop).collect()
    }

    /// Whether what came this way says nothing of where to go: the peer tries many ways, and by the one in use it answers.
    pub(crate) fn is_one_of_many(&self, peer: PeerId, hop: Hop) -> bool {
        self.peers.get(&peer).is_some_and(|peer| peer.is_one_of_many(hop.normal()))
    }

    /// Whether what came this way says that packets need no stream any more.
    pub(crate) fn leaves_stream(&self, peer: PeerId, hop: Hop) -> bool {
        !hop.is_stream() && self.peers.get(&peer).is_some_and(PeerPaths::is_in_stream)
    }

    /// What was agreed with a peer; it is known from now on.
    pub fn set_terms(&mut self, id: PeerId, terms: Terms) {
        let is_new = !self.peers.contains_key(&id);
        let peer = self.peers.entry(id).or_insert_with(|| PeerPaths::new(terms));
        if is_new || (peer.terms.echo, peer.terms.split) != (terms.echo, terms.split) {
            self.events.push_back(PathEvent::Peer { peer: id, echo: terms.echo, split: terms.split });
        }
        if peer.terms.echo != terms.echo {
            for path in PathId::all() {
                if let Some(entry) = peer.get_mut(path) {
                    entry.mtu.set_echoes(terms.echo);
                }
            }
        }
        peer.terms = terms;
        self.tell(id);
        self.set_timer(id);
    }

    /// From where a peer may come that we look for at these addresses. What it uses already stays.
    pub(crate) fn set_origin(&mut self, id: PeerId, origin: Origin, endpoints: Vec<Site>) {
        if let Some(peer) = self.peers.get_mut(&id) {
            (peer.origin, peer.endpoints) = (origin, endpoints);
        }
    }

    /// The peer has proven that it is there, or the configuration says so: it is used from now on.
    ///
    /// # Errors
    /// Nothing may go there.
    pub fn establish(&mut self, now: Instant, id: PeerId, hop: Hop, encapsulate: bool) -> Result<PathId, Unfit> {
        let path = self.enter(now, id, hop, Proof::Proven, 0)?;
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.encapsulate = encapsulate;
            peer.latest = Some(path);
            let answered = peer.terms.ike.then_some(now);
            if let Some(entry) = peer.get_mut(path) {
                entry.answered = answered;
            }
        }
        self.use_path(id, path, Moves::Both);
        Ok(path)
    }

    /// The peer is about to learn that it can be sent packets: a little later it is sent echoes.
    pub(crate) fn give_head_start(&mut self, now: Instant, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.each_mut(|entry| entry.mtu.give_head_start(now));
            self.set_timer(id);
        }
    }

    /// Whether ESP has to go in UDP.
    pub(crate) fn set_encapsulate(&mut self, id: PeerId, encapsulate: bool) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.encapsulate = encapsulate;
            self.tell(id);
        }
    }

    /// An address of ours is another one: everything moves there. The peer is where it was, with the proof that it has given.
    ///
    /// # Errors
    /// Nothing may go there.
    pub(crate) fn decide(&mut self, now: Instant, id: PeerId, hop: Hop) -> Result<(), Unfit> {
        let before = self.peers.get(&id).and_then(|peer| peer.get(peer.ike?));
        let answered = before.filter(|entry| entry.hop.remote() == hop.remote()).and_then(|entry| entry.answered);
        let path = self.enter(now, id, hop, Proof::Proven, 0)?;
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.latest = Some(path);
            if let Some(entry) = peer.get_mut(path) {
                entry.answered = answered.or(entry.answered);
            }
        }
        self.use_path(id, path, Moves::Both);
        Ok(())
    }

    /// The data plane opened a new, authentic packet that came another way than the one before.
    pub fn handle_path_seen(&mut self, now: Instant, id: PeerId, came: impl Into<Hop>, bytes: u32) {
        let hop = came.into();
        self.credit(now, id, hop, bytes);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let moves = match peer.terms.follow {
            Follow::Nothing => return,
            Follow::Esp => Moves::Esp,
            Follow::Both => Moves::Both,
        };
        if peer.esp.and_then(|path| peer.get(path)).is_some_and(|entry| entry.hop == hop) {
            peer.latest = peer.esp;
            return;
        }
        if peer.is_one_of_many(hop) {
            return;
        }
        // Out of a stream goes everything.
        let moves = if peer.is_in_stream() && !hop.is_stream() { Moves::Both } else { moves };
        // One that is not taken is counted.
        let _ = self.candidate(now, id, hop, moves, bytes as usize);
    }

    /// An echo came back, this way. `rtt` is what the data plane measured.
    pub fn handle_echo_reply(&mut self, now: Instant, id: PeerId, echo: u64, came: impl Into<Hop>, rtt: Duration) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let hop: Hop = came.into();
        for path in PathId::all() {
            let Some(entry) = peer.get_mut(path) else { continue };
            if entry.mtu.answered(now, echo, rtt) {
                entry.heard = now;
                if entry.hop.remote() == hop.remote() {
                    entry.answered = Some(now);
                }
                self.tell(id);
                return self.set_timer(id);
            }
            let asked = matches!(entry.proof, Proof::Waits { echo: Some(asked), .. } if asked == echo);
            if asked && entry.hop.remote() == hop.remote() {
                self.prove(now, id, path);
                return;
            }
        }
    }

    /// Packets of the tunnel went by the path in use.
    pub fn handle_traffic(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if let Some(entry) = peer.esp.and_then(|path| peer.get_mut(path)) {
            entry.mtu.is_active(now);
            self.set_timer(id);
        }
    }

    /// A router says that a packet with a live SPI of this peer was too big on its way to `remote`: at most `mtu` bytes pass. Says
    /// whether the peer has a path that leads there.
    pub fn handle_too_big(&mut self, now: Instant, id: PeerId, remote: SocketAddr, mtu: u16) -> bool {
        let Some(peer) = self.peers.get_mut(&id) else { return false };
        let mut leads_there = false;
        for path in PathId::all() {
            if let Some(entry) = peer.get_mut(path).filter(|entry| entry.hop.remote() == remote) {
                entry.mtu.too_big(now, mtu);
                leads_there = true;
            }
        }
        if leads_there {
            self.tell(id);
            self.set_timer(id);
        }
        leads_there
    }

    /// Nothing is left of a peer. The data plane forgets its paths with it.
    pub fn remove(&mut self, id: PeerId) {
        self.peers.remove(&id);
        self.timers.set(id, None);
        self.looks.forget(id);
        self.proven.retain(|(peer, _), _| *peer != id);
        self.sized.insert(id);
    }

    /// The data plane is another one: it is told everything anew.
    pub fn data_plane_restarted(&mut self) {
        let ids: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in ids {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            PathId::all().for_each(|path| {
                if let Some(entry) = peer.get_mut(path) {
                    entry.reported = None;
                }
            });
            let (esp, Terms { echo, split, .. }) = (peer.esp, peer.terms);
            self.events.push_back(PathEvent::Peer { peer: id, echo, split });
            self.tell(id);
            self.events.extend(esp.map(|path| PathEvent::Use { peer: id, path }));
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant, random: &mut dyn Random) {
        for id in self.timers.take_due(now) {
            self.look_direct(now, id);
            self.ask_for_proofs(now, id, random);
            self.measure(now, id, random);
            self.try_next(now, id);
            self.tell(id);
            self.set_timer(id);
        }
        self.take_looks(now);
    }

    /// When [`Paths::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next().into_iter().chain(self.looks.next()).min()
    }

    /// Peers whose routes are to be looked up again, and have not had their turn.
    pub fn lookups_waiting(&self) -> usize {
        self.looks.len()
    }

    pub fn poll_event(&mut self) -> Option<PathEvent> {
        self.events.pop_front()
    }

    pub(crate) fn poll_wish(&mut self) -> Option<Wish> {
        self.wishes.pop_front()
    }

    /// What the process after this one needs: the path in use, where the peer was seen last, and the size that was proven.
    pub(crate) fn kept(&self, id: PeerId) -> Option<(Hop, Hop, u16)> {
        let peer = self.peers.get(&id)?;
        let used = peer.get(peer.ike.or(peer.esp)?)?;
        let latest = peer.latest.and_then(|path| peer.get(path)).unwrap_or(used);
        Some((used.hop, latest.hop, used.mtu.proven().unwrap_or(0)))
    }

    /// The size that a process before this one has proven: where it is looked for first, on a path that there is already as well.
    pub(crate) fn remember_size(&mut self, id: PeerId, remote: Site, size: u16) {
        self.proven.insert((id, remote), size);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        for path in PathId::all() {
            if let Some(entry) = peer.get_mut(path).filter(|entry| entry.hop.site() == remote) {
                entry.mtu.expect(size);
            }
        }
    }

    /// The size that is proven on the way to a peer with a static key.
    pub(crate) fn static_size(&self, id: PeerId) -> Option<(IpAddr, u16)> {
        let peer = self.peers.get(&id).filter(|peer| !peer.terms.ike)?;
        let entry = peer.get(peer.esp?)?;
        Some((entry.hop.site().address()?, entry.mtu.proven()?))
    }

    /// The peers of which the size that is proven may be another one since this was last asked.
    pub(crate) fn take_sized(&mut self) -> BTreeSet<PeerId> {
        std::mem::take(&mut self.sized)
    }

    /// Takes a path in, or finds it; where its proof is under way already, that goes on.
    fn enter(&mut self, now: Instant, id: PeerId, hop: Hop, proof: Proof, credit: u32) -> Result<PathId, Unfit> {
        let fit = self.fit(hop)?;
        let v6 = fit.hop.is_ipv6();
        let known = self.proven.get(&(id, fit.hop.site())).copied();
        let Some(peer) = self.peers.get_mut(&id) else { return Err(Unfit::Unreachable) };
        if proof != Proof::Proven && !peer.origin.allows(fit.hop.site(), &peer.endpoints) {
            return Err(Unfit::NotAllowed);
        }
        if let Some(path) = peer.find(fit.hop) {
            if let Some(entry) = peer.get_mut(path) {
                (entry.hop, entry.heard) = (fit.hop, now);
                match (proof, entry.is_proven()) {
                    (Proof::Proven, _) => entry.proof = proof,
                    // What came while it was proven is no reason to send anything.
                    (Proof::Waits { .. }, true) => (entry.proof, entry.credit) = (proof, credit),
                    (Proof::Waits { .. }, false) => entry.credit = entry.credit.saturating_add(credit),
                }
            }
            return Ok(path);
        }
        // The size that another way to the same address carries is a good guess.
        let same = peer.iter().find(|(_, entry)| entry.hop.site() == fit.hop.site());
        let known = same.and_then(|(_, entry)| entry.mtu.proven()).or(known);
        let path = peer.place(proof == Proof::Proven).ok_or(Unfit::Unreachable)?;
        if peer.take(path).is_some_and(|entry| entry.reported.is_some()) {
            self.events.push_back(PathEvent::Remove { peer: id, path });
        }
        let mtu = Mtu::new(v6, [fit.mtu, fit.link_mtu], known, peer.terms.echo);
        peer.put(path, Entry { hop: fit.hop, proof, credit, heard: now, answered: None, mtu, reported: None });
        Ok(path)
    }

    fn use_path(&mut self, id: PeerId, path: PathId, moves: Moves) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let was_in_stream = peer.is_in_stream();
        if moves == Moves::Both {
            peer.ike = Some(path);
            peer.wanted = None;
            self.note_choice(id);
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let moved = moves != Moves::Nothing && peer.esp.replace(path) != Some(path);
        if let Some(hop) = peer.get(path).map(|entry| entry.hop).filter(|_| moved) {
            peer.spares.settle(&hop);
        }
        // Where there may be another way, silence is noticed also while nothing is sent.
        let (spares, candidates) = (peer.spares.watches(), peer.terms.candidates);
        if let Some(entry) = peer.get_mut(path) {
            entry.mtu.watch(spares || candidates && !entry.hop.is_stream());
        }
        if was_in_stream && !peer.is_in_stream() {
            self.is_out_of_stream(id, path);
        }
        self.tell(id);
        if moved {
            self.events.push_back(PathEvent::Use { peer: id, path });
        }
        self.set_timer(id);
    }

    /// Tells the data plane what it does not know yet: the paths that are used, and those on which an echo is to be sent.
    fn tell(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let (encapsulate, esp, Terms { echo, .. }) = (peer.encapsulate, peer.esp, peer.terms);
        for path in PathId::all() {
            let Some(entry) = peer.get_mut(path) else { continue };
            let asked = echo && matches!(entry.proof, Proof::Waits { echo: Some(_), .. });
            if esp != Some(path) && !asked && entry.reported.is_none() {
                continue;
            }
            let (hop, mtu, mtu_reported) = (entry.hop, entry.mtu.size(), entry.mtu.reported());
            let news = Some((hop, [mtu, mtu_reported], encapsulate));
            if entry.reported != news {
                entry.reported = news;
                self.sized.insert(id);
                self.events.push_back(PathEvent::Set { peer: id, path, hop, mtu, mtu_reported, encapsulate });
            }
        }
    }

    fn set_timer(&mut self, id: PeerId) {
        let at = self.peers.get(&id).and_then(PeerPaths::deadline);
        self.timers.set(id, at);
    }

    /// Sends the echoes that find out what the path in use carries.
    fn measure(&mut self, now: Instant, id: PeerId, random: &mut dyn Random) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if !peer.terms.echo {
            return peer.each_mut(|entry| entry.mtu.forget_routers(now));
        }
        let Some(path) = peer.esp else { return };
        let Some(entry) = peer.get_mut(path) else { return };
        let holes = entry.mtu.black_holes;
        for size in entry.mtu.due(now) {
            let echo = random.u64();
            entry.mtu.sent(now, echo, size);
            self.events.push_back(PathEvent::Echo { peer: id, path, id: echo, size });
        }
        if entry.mtu.black_holes > holes {
            self.events.push_back(PathEvent::BlackHole { peer: id, path, mtu: entry.mtu.size() });
        }
    }
}

#[cfg(test)]
mod tests;
