//! From the TAP or TUN to peers.
//!
//! 1. read a frame or packet, or a super-frame.
//! 2. forward: the destination address names a peer, or all of them. In IP mode the policy table names one, and its Child SA.
//! 3. what another worker must seal goes over to it whole, in a hand-off batch.
//! 4. plan: how the super-frame splits; what is too long for the path is re-cut, fragmented or answered (`oversize`).
//! 5. split: segment by segment, each made in place in the read buffer.
//! 6. `seal` each out of place into the train.
//! 7. send the train when the next packet does not fit, and at the end of the turn.
//!
//! Functions follow in this order. An error of one frame ends that frame, never the batch.

mod here;
mod oversize;
mod send;

use std::io;
use std::ops::Range;
use std::time::Instant;

use adit_proto::control::{self, ChildId, Event, Mode, PeerId};
use adit_proto::esp;
use adit_proto::packet::Packet;
use adit_proto::stats::{Count, Drop, Latency};

use crate::class;
use crate::environment::Environment;
use crate::forward;
use crate::handover::BatchBuilder;
use crate::handover::batch::{Batch, Direction, RecordHeader, record};
use crate::hub;
use crate::io::Work;
use crate::limits::{FRAME_HEADROOM, FRAME_TAILROOM, TAP_BYTES_PER_TURN, TAP_PACKETS_PER_TURN, TAP_READS_PER_TURN};
use crate::mss;
use crate::path::Path;
use crate::policy;
use crate::pool::frame_buffer;
use crate::sa::OutboundSa;
use crate::seal::{Inner, seal};
use crate::state::State;
use crate::tap::headers::ETHERNET;
use crate::tap::split::{Checksums, Plan};
use crate::tap::vnet::{self, VnetHeader};
use crate::train::{Lot, Train};
use send::send;

/// The outbound half of a worker.
pub struct Outbound {
    buffer: Box<[u8]>,
    /// A second copy of a frame that goes to several peers: splitting uses the first one up.
    copy: Box<[u8]>,
    train: Train,
    builder: BatchBuilder,
    /// Packets made in this batch: one frame can make many, by its segments and by the number of peers.
    packets: usize,
    /// The path on which trains cannot go.
    gso_disabled: Option<Lot>,
    /// What was read from the TAP since `done` was asked last.
    work: Work,
}

/// The way of a packet to a peer.
#[derive(Clone, Copy)]
struct Egress {
    lot: Lot,
    child: ChildId,
    path: Path,
}

/// Where the virtio-net header of a read goes: the frame then starts at `FRAME_HEADROOM`.
const READ_AT: usize = FRAME_HEADROOM - vnet::LEN;

/// Brings down the MSS of a packet that opens a connection; in front of it stands its virtio-net header.
#[inline]
fn clamp_mss(read: &mut [u8], path: &Path) -> bool {
    let Some((header, packet)) = read.split_first_chunk_mut() else { return false };
    mss::clamp(packet, VnetHeader::parse(header).needs_csum(), || Some(path.frame_reported.into()))
}

/// How many packets a train may have on this way.
#[inline]
fn segments_max(egress: &Egress, env: &Environment) -> usize {
    if egress.path.gso_disabled { 1 } else { env.udp.segments_max }
}

/// Counts what an SA has sealed since it had sealed so many packets and bytes.
#[inline(always)]
fn account((packets, bytes): (u64, u64), peer: PeerId, sa: &mut OutboundSa, env: &mut Environment) {
    env.port.count(Count::Sealed, sa.esp.packets - packets);
    env.port.count(Count::SealedBytes, sa.bytes - bytes);
    env.port.sa_update(sa.slot, sa.esp.seq_next - 1, sa.esp.packets, sa.bytes);
    // Asked for again with the next frame when the ring to the control plane is full.
    if sa.esp.seq_next > sa.seq_halfway && env.port.emit(&Event::SeqHalfway { peer, spi: sa.esp.spi }) {
        sa.seq_halfway = u64::MAX;
    }
}

impl Outbound {
    pub fn new(env: &Environment) -> Outbound {
        let builder = BatchBuilder::new(env.id, Direction::Outbound, env.handover.workers());
        Outbound {
            buffer: frame_buffer(),
            copy: frame_buffer(),
            train: Train::default(),
            builder,
            packets: 0,
            gso_disabled: None,
            work: Work::default(),
        }
    }

    /// One turn: reads until the TAP is empty or the budget is used up. True when there may be more.
    pub fn turn(&mut self, state: &mut State, env: &mut Environment) -> io::Result<bool> {
        let (mut reads, mut bytes, mut more) = (0, 0, true);
        let mut began = None;
        while reads < TAP_READS_PER_TURN && bytes < TAP_BYTES_PER_TURN && self.has_budget() {
            let end = self.buffer.len() - FRAME_TAILROOM;
            match env.tap.read(&mut self.buffer[READ_AT..end]) {
                Ok(len) => {
                    began.get_or_insert_with(Instant::now);
                    reads += 1;
                    bytes += len;
                    self.work.add(self.frames(len));
                    self.frame(len, state, env);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    more = false;
                    break;
                }
                Err(error) => {
                    reads += 1;
                    match error.raw_os_error() {
                        Some(libc::EINTR) => {}
                        // The kernel has thrown away a frame whose offloads it cannot describe.
                        Some(libc::EINVAL | libc::EFAULT) => env.port.drop(Drop::BadOffload, 1),
                        _ => {
                            self.flush(state, env);
                            return Err(error);
                        }
                    }
                }
            }
        }
        self.flush(state, env);
        if let Some(began) = began {
            env.port.latency(Latency::Outbound, began.elapsed().as_nanos() as u64);
        }
        Ok(more)
    }

    /// What was read since this was asked last.
    pub fn done(&mut self) -> Work {
        std::mem::take(&mut self.work)
    }

    /// Whether the batch may make more packets.
    pub fn has_budget(&self) -> bool {
        self.packets < TAP_PACKETS_PER_TURN
    }

    /// Frames that another worker read for this one.
    pub fn take_over(&mut self, batch: &Batch, state: &mut State, env: &mut Environment) {
        let (bytes, mut at) = (batch.bytes(), 0);
        while let Some((header, place)) = record(bytes, at) {
            at = place.end;
            let read = &bytes[place];
            self.buffer[READ_AT..READ_AT + read.len()].copy_from_slice(read);
            env.port.count(Count::TakenOver, self.frames(read.len()));
            match header {
                RecordHeader::Frame { peer, tag, child } if state.tables.has(peer, tag) => match env.mode {
                    // It may have gone since: then another one carries the packet.
                    Mode::Ip if !state.tables.is_usable(peer, child, env.id) => self.route(read.len(), state, env),
                    Mode::Ip | Mode::Ethernet => self.unicast(peer, child, read.len(), state, env),
                },
                RecordHeader::Frame { .. } => self.lose(Drop::NoPeer, read.len(), env),
                RecordHeader::Flood { except } => self.seal_flood(batch.from, read.len(), except, state, env),
                RecordHeader::Datagrams { .. } => {}
            }
        }
    }

    /// Ends a batch.
    pub fn flush(&mut self, state: &mut State, env: &mut Environment) {
        self.send(env);
        self.builder.send_off(&env.handover);
        self.packets = 0;
        if let Some(lot) = self.gso_disabled.take() {
            state.tables.disable_gso(lot.peer, lot.path, |event| env.port.emit(event));
        }
    }

    fn frame(&mut self, len: usize, state: &mut State, env: &mut Environment) {
        env.port.count(Count::TapReads, 1);
        let frame_len = len.saturating_sub(vnet::LEN);
        env.port.count(Count::TapReadBytes, frame_len as u64);
        match env.mode {
            Mode::Ethernet if frame_len < ETHERNET => env.port.drop(Drop::BadFrame, 1),
            Mode::Ethernet => self.switch(len, state, env),
            Mode::Ip => self.route(len, state, env),
        }
    }

    /// The read buffer holds an Ethernet frame.
    #[inline]
    fn switch(&mut self, len: usize, state: &mut State, env: &mut Environment) {
        let Some(&destination) = self.buffer[FRAME_HEADROOM..].first_chunk::<6>() else { return };
        if state.hub.is_some() && !self.is_from_here(len, destination, state, env) {
            return;
        }
        match state.fdb.route(destination, state.now_s) {
            forward::Route::Peer(peer) => self.unicast(peer, ChildId::ONLY, len, state, env),
            forward::Route::Flood => self.flood(len, state, env),
        }
    }

    /// The read buffer holds an IP packet.
    #[inline]
    fn route(&mut self, len: usize, state: &mut State, env: &mut Environment) {
        let bytes = &self.buffer[FRAME_HEADROOM..READ_AT + len.max(vnet::LEN)];
        let Some(packet) = Packet::parse(bytes) else {
            return env.port.drop(Drop::BadPacket, 1);
        };
        let usable = |peer, child| state.tables.is_usable(peer, child, env.id);
        let mut route = state.policy.route(&packet, usable);
        if !matches!(route, policy::Route::To(..)) {
            route = state.policy.route_error(&packet, bytes, route, usable);
        }
        match route {
            policy::Route::To(peer, child) => self.unicast(peer, child, len, state, env),
            policy::Route::NoChild(peer) => self.lose_of(peer, Drop::NoChildSa, len, env),
            policy::Route::Nowhere => self.lose(Drop::NoPolicy, len, env),
        }
    }

    /// The read buffer holds a frame for all peers; `len` counts the virtio-net header too.
    fn flood(&mut self, len: usize, state: &mut State, env: &mut Environment) {
        let peers = state.tables.peer_count();
        if peers == 0 {
            return self.lose(Drop::NoPeer, len, env);
        }
        let frames = match self.plan(len, env.mode) {
            Ok(plan) => plan.segments() as u64,
            Err(why) => return env.port.drop(why, 1),
        };
        // What goes to one peer is not multiplied.
        if peers > 1 && !state.flood.take(frames, state.now_us()) {
            return env.port.drop(Drop::FloodLimit, frames);
        }
        env.port.count(Count::FloodedFrames, frames);
        if env.handover.workers() > 1 {
            self.delegate_flood(len, frames, state, env);
        }
        self.seal_flood(env.id, len, None, state, env);
    }

    /// Gives a frame once to each worker that seals it for some of the peers.
    fn delegate_flood(&mut self, len: usize, frames: u64, state: &mut State, env: &mut Environment) {
        for (owner, peers) in hub::sealers(env.id, None, &mut state.tables).into_iter().enumerate() {
            if owner == env.id || peers == 0 {
                continue;
            }
            if !self.hand_over(owner, RecordHeader::Flood { except: None }, len, peers * frames, env) {
                self.lose(Drop::HandoverFull, len, env);
            }
        }
    }

    /// The read buffer holds a frame that worker `reader` has; it goes to all peers, but `except`, for whom this worker seals what that
    /// one has.
    fn seal_flood(&mut self, reader: usize, len: usize, except: Option<PeerId>, state: &mut State, env: &mut Environment) {
        let whole = READ_AT..READ_AT + len;
        let peers = state.tables.peer_count();
        if peers > 1 {
            self.copy[whole.clone()].copy_from_slice(&self.buffer[whole.clone()]);
        }
        let mut intact = true;
        for n in 0..peers {
            let Some(id) = state.tables.nth_peer(n) else { continue };
            let child = state.tables.peer(id).and_then(|peer| peer.child(ChildId::ONLY));
            // One without any is counted where it was read.
            if Some(id) == except || child.map_or(reader, |child| child.sealer_for(reader)) != env.id {
                continue;
            }
            if !intact {
                self.buffer[whole.clone()].copy_from_slice(&self.copy[whole.clone()]);
            }
            intact = false;
            self.unicast(id, ChildId::ONLY, len, state, env);
        }
    }

    /// The read buffer holds a frame for this Child SA of this peer; `len` counts the virtio-net header too.
    fn unicast(&mut self, id: PeerId, child_id: ChildId, len: usize, state: &mut State, env: &mut Environment) {
        let Some(peer) = state.tables.peer(id) else { return self.lose(Drop::NoPeer, len, env) };
        let (tag, used) = (peer.tag, peer.paths.used().map(|(path_id, path)| (path_id, *path)));
        let Some(child) = peer.child(child_id) else { return self.lose_of(id, Drop::NoSa, len, env) };
        let owner = child.sealer_for(env.id);
        let Some(sa) = child.outbound.as_deref_mut() else {
            let header = RecordHeader::Frame { peer: id, tag, child: child_id };
            let frames = self.frames(len);
            if owner == env.id {
                self.lose_of(id, Drop::NoSa, len, env);
            } else if !self.hand_over(owner, header, len, frames, env) {
                self.lose_of(id, Drop::HandoverFull, len, env);
            }
            return;
        };
        let Some((path_id, path)) = used else { return self.lose_of(id, Drop::NoPath, len, env) };
        let class = env.dscp.outer(class::of(env.mode, &self.buffer[FRAME_HEADROOM..READ_AT + len.max(vnet::LEN)]));
        let egress = Egress { lot: Lot { peer: id, path: path_id, class }, child: child_id, path };
        if env.clamps_mss && clamp_mss(&mut self.buffer[READ_AT..READ_AT + len], &path) {
            env.port.count(Count::MssClamped, 1);
        }
        match self.plan(len, env.mode) {
            Ok(plan) if plan.longest() > usize::from(path.frame_max) => self.oversize(&plan, &egress, len, state, env),
            Ok(plan) => self.segments(&plan, &egress, sa, env),
            Err(why) => env.port.drop_of(id, control::Direction::Outbound, why, 1),
        }
    }

    /// Gives the frame in the read buffer to the worker that seals it; it stands for so many packets there. False when no buffer is free.
    fn hand_over(&mut self, owner: usize, header: RecordHeader, len: usize, packets: u64, env: &mut Environment) -> bool {
        let read = &self.buffer[READ_AT..READ_AT + len];
        let given = self.builder.add(&env.handover, owner, header, read, packets);
        if given {
            env.port.count(Count::HandedOver, self.frames(len));
        }
        given
    }

    /// Counts the frame in the read buffer as dropped, each segment of a super-frame.
    #[cold]
    fn lose(&self, why: Drop, len: usize, env: &Environment) {
        env.port.drop(why, self.frames(len));
    }

    /// The same of frames for a peer.
    #[cold]
    fn lose_of(&self, peer: PeerId, why: Drop, len: usize, env: &Environment) {
        env.port.drop_of(peer, control::Direction::Outbound, why, self.frames(len));
    }

    /// How many frames the kernel says are in the read buffer.
    fn frames(&self, len: usize) -> u64 {
        self.buffer[READ_AT..].first_chunk().map_or(1, |header| VnetHeader::parse(header).frames(len - vnet::LEN))
    }

    fn plan(&self, len: usize, mode: Mode) -> Result<Plan, Drop> {
        let (header, frame) = self.buffer[READ_AT..READ_AT + len].split_first_chunk().ok_or(Drop::BadFrame)?;
        Plan::new(mode, &VnetHeader::parse(header), frame, FRAME_HEADROOM)
    }

    fn segments(&mut self, plan: &Plan, egress: &Egress, sa: &mut OutboundSa, env: &mut Environment) {
        let checksums = if sa.defer_checksums { Checksums::Defer } else { Checksums::Fill };
        let segments_max = segments_max(egress, env);
        let count = plan.segments();
        let before = (sa.esp.packets, sa.bytes);
        let mut deferred = 0;
        for k in 0..count {
            let (frame, open) = plan.segment(k, &mut self.buffer, checksums);
            let inner = match env.mode {
                Mode::Ethernet => Inner::Ethernet { open_checksum: open },
                Mode::Ip => Inner::ip(self.buffer[frame.start]),
            };
            if let Err(why) = self.add(frame, inner, egress, segments_max, sa, env) {
                env.port.drop_of(egress.lot.peer, control::Direction::Outbound, why, (count - k) as u64);
                break;
            }
            deferred += u64::from(open);
        }
        let sealed = sa.esp.packets - before.0;
        self.packets += count;
        if plan.needs_checksum() {
            env.port.count(Count::ChecksumsDeferred, deferred);
            env.port.count(Count::ChecksumsFilled, sealed - deferred);
        }
        if count > 1 {
            env.port.count(Count::SplitSegments, sealed);
        }
        account(before, egress.lot.peer, sa, env);
    }

    /// Seals what lies at `frame` of the read buffer into the train, which is sent first when it has no place for it.
    #[inline(always)]
    fn add(
        &mut self,
        frame: Range<usize>,
        inner: Inner,
        egress: &Egress,
        segments_max: usize,
        sa: &mut OutboundSa,
        env: &mut Environment,
    ) -> Result<(), Drop> {
        let len = esp::sealed_len(inner.header_len() + frame.len());
        if !self.train.takes(egress.lot, len, segments_max) {
            self.send(env);
        }
        seal(sa, &mut self.buffer, frame, inner, self.train.reserve(len))?;
        self.train.commit(&egress.path, egress.lot, len);
        Ok(())
    }

    fn send(&mut self, env: &mut Environment) {
        if let Some(lot) = send(&mut self.train, env) {
            self.gso_disabled = Some(lot);
        }
    }
}
