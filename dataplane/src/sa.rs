//! The tables of one worker: peers, and the SAs that it owns.
//!
//! An SA has one owner, so its sequence number and its window are plain integers. What every packet touches lies in
//! [`OutboundSa`] and [`InboundSa`]; what the control plane installs is [`adit_proto::control`]'s.

use std::collections::VecDeque;

use adit_channel::{PATH_SLOTS_MAX, PATH_SLOTS_UNIT, PEER_SLOTS_UNIT};
use adit_esp::aead::{Aead, Backend};
use adit_esp::{Opener, Sealer};
use adit_proto::control::{self, ChildId, Direction, Event, Feature, PATHS_MAX, PathId, PeerId, PeerTag, Refusal, Spi};
use adit_proto::esp;
use adit_proto::limits::{CHILDREN_OF_PEER_MAX, SEQ_MAX_32};
use adit_proto::replay::Window;

use crate::join::Joiner;
use crate::limits::ECHOES_PER_S;
use crate::path::{NO_SLOT, Path, Paths};
use crate::udp::Arrival;
use adit_proto::rate_limit::RateLimit;

/// What this worker needs to seal to one peer.
pub struct OutboundSa {
    pub esp: Sealer,
    pub defer_checksums: bool,
    /// `Event::SeqHalfway` is due when the next number gets here.
    pub seq_halfway: u64,
    pub slot: u32,
    pub bytes: u64,
}

/// What this worker needs to open what one peer sealed on one lane.
pub struct InboundSa {
    pub esp: Opener,
    pub peer: PeerId,
    pub child: ChildId,
    pub slot: u32,
    pub bytes: u64,
    /// Packets, and bytes of UDP payload, that are not yet counted for the path on which they came.
    pub uncounted: (u64, u64),
    /// The control plane was told that it is in use.
    pub use_reported: bool,
}

/// A peer as this worker sees it.
pub struct Peer {
    pub paths: Paths,
    /// Differs from that of any other peer that has had this id or will have it.
    pub tag: PeerTag,
    /// It understands sealed echoes.
    pub echo: bool,
    /// How many of its echoes are looked at.
    pub echoes: RateLimit,
    /// Bytes of answers that went where its echoes came from, since it was noted last from where packets come: they are spent.
    pub answered: u64,
    /// Where halves of its frames wait; none unless both ends join them.
    pub joiner: Option<Box<Joiner>>,
    /// The control plane was told that trains do not go on one of its paths.
    gso_disabled_reported: bool,
    /// Few: what is looked for in them is looked for one by one.
    children: Vec<Child>,
}

/// A Child SA of a peer as this worker sees it.
pub struct Child {
    id: ChildId,
    /// Workers 0 to `lanes` − 1 have an outbound SA.
    lanes: u16,
    /// Inbound SAs on this worker.
    inbound: u32,
    pub outbound: Option<Box<OutboundSa>>,
}

impl Peer {
    #[inline]
    pub fn child(&mut self, id: ChildId) -> Option<&mut Child> {
        self.children.iter_mut().find(|child| child.id == id)
    }

    /// Any SA that this worker can seal to the peer with.
    pub fn sealing(&mut self) -> Option<&mut OutboundSa> {
        self.children.iter_mut().find_map(|child| child.outbound.as_deref_mut())
    }

    /// The outbound SA with this SPI: the peer's choice, once among all of its Child SAs.
    fn outbound(&mut self, spi: Spi) -> Option<&mut OutboundSa> {
        self.children.iter_mut().filter_map(|child| child.outbound.as_deref_mut()).find(|sa| sa.esp.spi == spi)
    }
}

impl Child {
    /// The worker that seals what worker `reader` has read for this Child SA.
    #[inline]
    pub fn sealer_for(&self, reader: usize) -> usize {
        reader % usize::from(self.lanes.max(1))
    }

    /// Whether a worker may have an outbound SA.
    pub fn has_lane(&self, worker: usize) -> bool {
        worker < usize::from(self.lanes)
    }

    /// Whether what worker `reader` has read can be sent by it: sealed there, or by another one as far as is known there.
    #[inline]
    fn is_usable(&self, reader: usize) -> bool {
        self.outbound.is_some() || (self.lanes > 0 && self.sealer_for(reader) != reader)
    }
}

/// Peers and SAs of one worker; as many as start-up said, no more.
pub struct Tables {
    peers: Vec<Option<Peer>>,
    /// Ids of the peers that are set, for flooding.
    present: Vec<PeerId>,
    inbound: Vec<InboundSa>,
    /// Open addressing from SPI to index in `inbound`; a power of two, at most half full.
    by_spi: Box<[u32]>,
    /// The next one is what has been free for longest: what its last SA has carried can still be read in it.
    free_slots: VecDeque<u32>,
    sa_slots: usize,
    /// Slots for counters of paths that nobody has.
    free_path_slots: Vec<u16>,
    /// Memory in which halves of frames wait, of all peers.
    halves_bytes: usize,
    backend: Backend,
}

const EMPTY: u32 = u32::MAX;

impl Tables {
    pub fn new(max_peers: u16, sa_slots: u32, backend: Backend) -> Tables {
        Tables {
            peers: (0..max_peers).map(|_| None).collect(),
            present: Vec::with_capacity(max_peers.into()),
            inbound: Vec::with_capacity(sa_slots as usize),
            by_spi: vec![EMPTY; (2 * sa_slots as usize).next_power_of_two()].into_boxed_slice(),
            free_slots: (0..sa_slots).collect(),
            sa_slots: sa_slots as usize,
            free_path_slots: (0..path_slots(max_peers)).rev().collect(),
            halves_bytes: 0,
            backend,
        }
    }

    /// Makes this thread ready for packets: none of them, and no key, then allocates for the library's sake.
    pub fn prepare(&self) {
        self.backend.prepare();
    }

    #[inline]
    pub fn peer(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.peers.get_mut(usize::from(id.0))?.as_mut()
    }

    /// Whether this very peer is set, and not one that took over its id.
    #[inline]
    pub fn has(&self, id: PeerId, tag: PeerTag) -> bool {
        self.peers.get(usize::from(id.0)).and_then(Option::as_ref).is_some_and(|peer| peer.tag == tag)
    }

    /// Whether what worker `reader` has read for a peer can be sent by this Child SA now.
    #[inline]
    pub fn is_usable(&self, id: PeerId, child: ChildId, reader: usize) -> bool {
        let peer = self.peers.get(usize::from(id.0)).and_then(Option::as_ref);
        peer.is_some_and(|peer| peer.children.iter().any(|one| one.id == child && one.is_usable(reader)))
    }

    /// The n-th of the peers that are set.
    pub fn nth_peer(&self, n: usize) -> Option<PeerId> {
        self.present.get(n).copied()
    }

    pub fn peer_count(&self) -> usize {
        self.present.len()
    }

    /// Memory in which halves of frames wait, of all peers, in bytes.
    pub fn halves_bytes(&self) -> usize {
        self.halves_bytes
    }

    /// The same of one peer.
    fn halves_of(&self, id: PeerId) -> usize {
        let peer = self.peers.get(usize::from(id.0)).and_then(Option::as_ref);
        peer.and_then(|peer| peer.joiner.as_ref()).map_or(0, |joiner| joiner.memory())
    }

    pub fn inbound_count(&self) -> usize {
        self.inbound.len()
    }

    pub fn outbound_count(&self) -> usize {
        self.sa_slots - self.free_slots.len() - self.inbound.len()
    }

    /// The inbound SA with this SPI, and its index for `inbound_at`.
    #[inline]
    pub fn find_inbound(&self, spi: Spi) -> Option<usize> {
        let index = self.by_spi[self.place(spi)];
        (index != EMPTY).then_some(index as usize)
    }

    /// Where the index of an SPI is, or the empty place where it would go. There is one: the table is at most half full.
    #[inline]
    fn place(&self, spi: Spi) -> usize {
        let mask = self.by_spi.len() - 1;
        let mut at = hash(spi) & mask;
        while self.by_spi[at] != EMPTY && self.inbound[self.by_spi[at] as usize].esp.spi != spi {
            at = (at + 1) & mask;
        }
        at
    }

    #[inline]
    pub fn inbound_at(&mut self, index: usize) -> Option<&mut InboundSa> {
        self.inbound.get_mut(index)
    }

    /// Adds a peer, or changes the one that has the id. What it was found to send from is told again: who commands this may be new.
    /// `joins`: both ends join halves, of frames of at most so many bytes.
    pub fn set_peer(&mut self, id: PeerId, tag: PeerTag, echo: bool, joins: Option<usize>) -> Result<(), Refusal> {
        let before = self.halves_of(id);
        let place = self.peers.get_mut(usize::from(id.0)).ok_or(Refusal::NoSuchPeer)?;
        match place {
            Some(peer) => {
                (peer.tag, peer.echo) = (tag, echo);
                peer.joiner = joins.and_then(|whole_max| peer.joiner.take().or_else(|| Some(Box::new(Joiner::new(whole_max)))));
                peer.paths.tell_anew();
            }
            None => {
                let paths = Paths::default();
                *place = Some(Peer {
                    paths,
                    tag,
                    echo,
                    echoes: RateLimit::new(ECHOES_PER_S),
                    answered: 0,
                    joiner: joins.map(|whole_max| Box::new(Joiner::new(whole_max))),
                    gso_disabled_reported: false,
                    children: Vec::new(),
                });
                self.present.push(id);
            }
        }
        self.halves_bytes = self.halves_bytes - before + self.halves_of(id);
        Ok(())
    }

    /// Adds a Child SA to a peer, or changes it.
    pub fn set_child(&mut self, id: PeerId, child: ChildId, lanes: u16) -> Result<(), Refusal> {
        let peer = self.peer(id).ok_or(Refusal::NoSuchPeer)?;
        if let Some(child) = peer.child(child) {
            child.lanes = lanes;
            return Ok(());
        }
        if peer.children.len() >= CHILDREN_OF_PEER_MAX {
            return Err(Refusal::ChildrenFull);
        }
        peer.children.push(Child { id: child, lanes, inbound: 0, outbound: None });
        Ok(())
    }

    /// Removes a Child SA and its SAs; `gone` is told direction, SPI and slot of each.
    pub fn remove_child(&mut self, id: PeerId, child: ChildId, mut gone: impl FnMut(Direction, Spi, u32)) -> Result<(), Refusal> {
        let children = &mut self.peer(id).ok_or(Refusal::NoSuchPeer)?.children;
        let place = children.iter().position(|one| one.id == child).ok_or(Refusal::NoSuchChild)?;
        let removed = children.remove(place);
        if let Some(sa) = removed.outbound {
            self.free_slots.push_back(sa.slot);
            gone(Direction::Outbound, sa.esp.spi, sa.slot);
        }
        for _ in 0..removed.inbound {
            let sa = self.inbound.iter().find(|sa| (sa.peer, sa.child) == (id, child)).map(|sa| sa.esp.spi);
            let Some(spi) = sa else { break };
            let slot = self.remove_inbound(id, spi)?;
            gone(Direction::Inbound, spi, slot);
        }
        Ok(())
    }

    /// Adds a path to a peer, or changes it; then it keeps its slot. Returns the slot.
    pub fn set_path(&mut self, id: PeerId, path_id: PathId, path: Path) -> Result<(u16, bool), Refusal> {
        let peer = self.peers.get_mut(usize::from(id.0)).and_then(Option::as_mut).ok_or(Refusal::NoSuchPeer)?;
        let before = peer.paths.get(path_id).map(|before| before.slot);
        let slot = before.or_else(|| self.free_path_slots.pop()).unwrap_or(NO_SLOT);
        peer.paths.set(path_id, Path { slot, ..path });
        Ok((slot, before.is_none()))
    }

    /// Removes a path of a peer; returns its slot.
    pub fn remove_path(&mut self, id: PeerId, path: PathId) -> Result<u16, Refusal> {
        let slot = self.peer(id).ok_or(Refusal::NoSuchPeer)?.paths.remove(path)?.slot;
        if slot != NO_SLOT {
            self.free_path_slots.push(slot);
        }
        Ok(slot)
    }

    /// Sends the packets on a path one by one from here on; says so once for each peer.
    pub fn disable_gso(&mut self, id: PeerId, path: PathId, emit: impl FnOnce(&Event) -> bool) {
        let Some(peer) = self.peer(id) else { return };
        if let Some(path) = peer.paths.get_mut(path) {
            path.gso_disabled = true;
            peer.gso_disabled_reported = peer.gso_disabled_reported || emit(&Event::Degraded { what: Feature::UdpSegment });
        }
    }

    /// The slot in which is counted what came this way from a peer.
    #[inline]
    pub fn path_slot(&mut self, id: PeerId, arrival: &Arrival) -> u16 {
        let Some(peer) = self.peer(id) else { return NO_SLOT };
        let path = peer.paths.of(&arrival.from, &arrival.to).and_then(|path| peer.paths.get(path));
        path.map_or(NO_SLOT, |path| path.slot)
    }

    /// Authentic packets of a peer, newer than all before, came this way, with so many bytes. Tells the control plane if that is
    /// news, again when its ring was full. True when packets came another way before.
    #[inline]
    pub fn found_at(&mut self, id: PeerId, arrival: &Arrival, bytes: u64, now_s: u32, emit: impl FnOnce(&Event) -> bool) -> bool {
        let Some(peer) = self.peer(id) else { return false };
        let bytes = bytes.saturating_sub(std::mem::take(&mut peer.answered));
        let Some(sighting) = peer.paths.sighting(&arrival.from, &arrival.to, now_s) else { return false };
        let Some(via) = arrival.via() else { return false };
        let (tag, path) = (peer.tag, sighting.path);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let reported = emit(&Event::PathSeen { peer: id, tag, path, via, bytes });
        if reported {
            peer.paths.reported(&arrival.from, &arrival.to, now_s, sighting);
        }
        reported && sighting.is_change
    }

    /// Tries trains on every path of every peer again: routes and devices change.
    pub fn retry_gso(&mut self) {
        self.peers.iter_mut().flatten().for_each(|peer| peer.paths.retry_gso());
    }

    /// Removes a peer and its SAs; `gone` is told direction, SPI and slot of each.
    pub fn remove_peer(&mut self, id: PeerId, mut gone: impl FnMut(Direction, Spi, u32)) -> Result<(), Refusal> {
        let place = self.peers.get_mut(usize::from(id.0)).ok_or(Refusal::NoSuchPeer)?;
        let children: Vec<ChildId> = place.as_ref().ok_or(Refusal::NoSuchPeer)?.children.iter().map(|child| child.id).collect();
        for child in children {
            self.remove_child(id, child, &mut gone)?;
        }
        self.halves_bytes -= self.halves_of(id);
        self.peers[usize::from(id.0)] = None;
        self.present.retain(|present| *present != id);
        Ok(())
    }

    /// Installs the SA to seal with on a lane of a Child SA, in the place of the one that was there; returns its slot, and SPI and slot of
    /// that one. They have the same slot where no other one is free.
    pub fn install_outbound(&mut self, sa: &control::OutboundSa) -> Result<(u32, Option<(Spi, u32)>), Refusal> {
        if sa.seq_next == 0 || sa.seq_limit < sa.seq_next || !is_seq(sa.seq_limit, sa.esn) || sa.spi.0 <= esp::SPI_RESERVED_MAX {
            return Err(Refusal::BadValue);
        }
        let aead = self.key(sa.suite, &sa.key)?;
        let peer = self.peers.get_mut(usize::from(sa.peer.0)).and_then(Option::as_mut).ok_or(Refusal::NoSuchPeer)?;
        if peer
            .children
            .iter()
            .any(|child| child.id != sa.child && child.outbound.as_ref().is_some_and(|one| one.esp.spi == sa.spi))
        {
            return Err(Refusal::SpiInUse);
        }
        let child = peer.child(sa.child).ok_or(Refusal::NoSuchChild)?;
        let before = child.outbound.as_ref().map(|old| (old.esp.spi, old.slot));
        // The same SPI stands for the same key, under which no number may come twice.
        if child.outbound.as_ref().is_some_and(|old| old.esp.spi == sa.spi && sa.seq_next < old.esp.seq_next) {
            return Err(Refusal::BadValue);
        }
        let free = self.free_slots.pop_front();
        let slot = free.or(before.map(|(_, slot)| slot)).ok_or(Refusal::SaTableFull)?;
        self.free_slots.extend(before.map(|(_, slot)| slot).filter(|old| *old != slot));
        child.outbound = Some(Box::new(OutboundSa {
            esp: Sealer {
                spi: sa.spi,
                seq_next: sa.seq_next,
                seq_end: end_of(sa.seq_limit),
                aead,
                salt: sa.key.salt.into(),
                esn: sa.esn,
                packets: 0,
            },
            defer_checksums: sa.defer_checksums,
            seq_halfway: halfway(sa.seq_next, sa.seq_limit),
            slot,
            bytes: 0,
        }));
        Ok((slot, before))
    }

    pub fn install_inbound(&mut self, sa: &control::InboundSa) -> Result<u32, Refusal> {
        if sa.spi.0 < esp::SPI_MIN || !is_seq(sa.seq_top, sa.esn) || (sa.resync && !sa.esn) {
            return Err(Refusal::BadValue);
        }
        let window = Window::new(sa.window, sa.seq_top).ok_or(Refusal::BadValue)?;
        if self.find_inbound(sa.spi).is_some() {
            return Err(Refusal::SpiInUse);
        }
        self.peer(sa.peer).ok_or(Refusal::NoSuchPeer)?.child(sa.child).ok_or(Refusal::NoSuchChild)?;
        let aead = self.key(sa.suite, &sa.key)?;
        let slot = self.free_slots.pop_front().ok_or(Refusal::SaTableFull)?;
        if let Some(child) = self.peer(sa.peer).and_then(|peer| peer.child(sa.child)) {
            child.inbound += 1;
        }
        self.index(sa.spi, self.inbound.len());
        self.inbound.push(InboundSa {
            esp: Opener {
                spi: sa.spi,
                window,
                aead,
                salt: sa.key.salt.into(),
                resync: sa.resync,
                esn: sa.esn,
                advanced: false,
                packets: 0,
            },
            peer: sa.peer,
            child: sa.child,
            slot,
            bytes: 0,
            uncounted: (0, 0),
            use_reported: false,
        });
        Ok(slot)
    }

    /// Removes the peer's inbound SA with this SPI; returns its slot.
    pub fn remove_inbound(&mut self, peer: PeerId, spi: Spi) -> Result<u32, Refusal> {
        let index = self.find_inbound(spi).filter(|&index| self.inbound[index].peer == peer).ok_or(Refusal::NoSuchSa)?;
        self.unindex(spi);
        let last = self.inbound.len() - 1;
        if index != last {
            // The last one moves into its place.
            self.unindex(self.inbound[last].esp.spi);
            self.index(self.inbound[last].esp.spi, index);
        }
        let sa = self.inbound.swap_remove(index);
        if let Some(child) = self.peer(peer).and_then(|peer| peer.child(sa.child)) {
            child.inbound -= 1;
        }
        self.free_slots.push_back(sa.slot);
        Ok(sa.slot)
    }

    /// Removes the peer's outbound SA with this SPI; returns its slot.
    pub fn remove_outbound(&mut self, peer: PeerId, spi: Spi) -> Result<u32, Refusal> {
        let children = self.peer(peer).map(|peer| &mut peer.children).ok_or(Refusal::NoSuchSa)?;
        let taken = children.iter_mut().find_map(|child| child.outbound.take_if(|sa| sa.esp.spi == spi));
        let sa = taken.ok_or(Refusal::NoSuchSa)?;
        self.free_slots.push_back(sa.slot);
        Ok(sa.slot)
    }

    /// Lets the peer's outbound SA go on to a new limit; returns its slot.
    pub fn extend_outbound(&mut self, peer: PeerId, spi: Spi, seq_limit: u64) -> Result<u32, Refusal> {
        let sa = self.peer(peer).and_then(|peer| peer.outbound(spi));
        let sa = sa.ok_or(Refusal::NoSuchSa)?;
        let end = end_of(seq_limit);
        if end < sa.esp.seq_end || !is_seq(seq_limit, sa.esp.esn) {
            return Err(Refusal::BadValue);
        }
        sa.esp.seq_end = end;
        sa.seq_halfway = halfway(sa.esp.seq_next, seq_limit);
        Ok(sa.slot)
    }

    fn key(&self, suite: adit_proto::suite::Suite, key: &control::SaKey) -> Result<Aead, Refusal> {
        let bytes = key.key.get(..suite.key_len()).ok_or(Refusal::BadValue)?;
        Aead::new(self.backend, suite, bytes).map_err(|_| Refusal::BadValue)
    }

    fn index(&mut self, spi: Spi, index: usize) {
        let at = self.place(spi);
        self.by_spi[at] = index as u32;
    }

    /// Empties the place of an SPI and moves later ones of the same run forward, so that no search stops short.
    fn unindex(&mut self, spi: Spi) {
        let mask = self.by_spi.len() - 1;
        let mut gap = self.place(spi);
        let mut next = (gap + 1) & mask;
        while self.by_spi[next] != EMPTY {
            let home = hash(self.inbound[self.by_spi[next] as usize].esp.spi) & mask;
            if next.wrapping_sub(home) & mask >= next.wrapping_sub(gap) & mask {
                self.by_spi[gap] = self.by_spi[next];
                gap = next;
            }
            next = (next + 1) & mask;
        }
        self.by_spi[gap] = EMPTY;
    }
}

/// Slots for the paths of so many peers: all that they can have, where they are few.
pub fn path_slots(max_peers: u16) -> u16 {
    max_peers.saturating_mul(PATHS_MAX as u16).min(PATH_SLOTS_MAX).next_multiple_of(PATH_SLOTS_UNIT)
}

/// Slots for the drops of so many peers: one for each id.
pub fn peer_slots(max_peers: u16) -> u16 {
    max_peers.next_multiple_of(PEER_SLOTS_UNIT)
}

/// Whether a number exists: without extended ones the last is 2^32 − 1 (RFC 4303 §3.3.3).
fn is_seq(seq: u64, esn: bool) -> bool {
    esn || seq <= SEQ_MAX_32
}

/// The first number that may not be used. The very last one never is.
fn end_of(seq_limit: u64) -> u64 {
    seq_limit.saturating_add(1)
}

fn halfway(from: u64, limit: u64) -> u64 {
    from + limit.saturating_sub(from) / 2
}

/// Multiplicative hashing by 2^32 / φ.
#[inline]
pub fn hash(spi: Spi) -> usize {
    (spi.0.wrapping_mul(0x9e37_79b9) >> 8) as usize
}

#[cfg(test)]
mod tests;
