//! From the TAP to peers.
//!
//! 1. read a frame or super-frame.
//! 2. forward: the destination address names a peer, or all of them.
//! 3. plan: how the super-frame splits. What another worker must seal goes over its ring whole.
//! 4. split: segment by segment, each made in place in the read buffer.
//! 5. `seal` each out of place into the train.
//! 6. send the train when the next packet does not fit, and at the end of the turn.
//!
//! Functions follow in this order. An error of one frame ends that frame, never the batch.

use std::io;
use std::time::Instant;

use adit_proto::control::{Event, Feature, PeerId, PeerTag};
use adit_proto::esp;
use adit_proto::stats::{Count, Drop, Gauge, Latency};

use crate::config::{FRAME_HEADROOM, FRAME_TAILROOM, TAP_BYTES_PER_TURN, TAP_READS_PER_TURN};
use crate::forward::Route;
use crate::handover::Item;
use crate::io::Work;
use crate::pool::frame_buffer;
use crate::sa::Peer;
use crate::seal::seal;
use crate::tap::split::{Checksums, Plan};
use crate::tap::vnet::{self, VnetHeader};
use crate::train::Train;
use crate::worker::{Environment, State};

/// The outbound half of a worker.
pub struct Outbound {
    buffer: Box<[u8]>,
    /// A second copy of a frame that goes to several peers: splitting uses the first one up.
    copy: Box<[u8]>,
    train: Train,
    /// What was read from the TAP since `done` was asked last.
    work: Work,
}

/// Where the virtio-net header of a read goes: the frame then starts at `FRAME_HEADROOM`.
const READ_AT: usize = FRAME_HEADROOM - vnet::LEN;

impl Default for Outbound {
    fn default() -> Outbound {
        Outbound { buffer: frame_buffer(), copy: frame_buffer(), train: Train::default(), work: Work::default() }
    }
}

impl Outbound {
    /// One turn: reads until the TAP is empty or the budget is used up. True when there may be more.
    pub fn turn(&mut self, state: &mut State, env: &mut Environment) -> io::Result<bool> {
        let (mut reads, mut bytes, mut more) = (0, 0, true);
        let mut began = None;
        while reads < TAP_READS_PER_TURN && bytes < TAP_BYTES_PER_TURN {
            let end = self.buffer.len() - FRAME_TAILROOM;
            match env.tap.read(&mut self.buffer[READ_AT..end]) {
                Ok(len) => {
                    began.get_or_insert_with(Instant::now);
                    reads += 1;
                    bytes += len;
                    self.work.add(len);
                    self.frame(len, state, env);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    more = false;
                    break;
                }
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => reads += 1,
                Err(error) => return Err(error),
            }
        }
        send(&mut self.train, env);
        if let Some(began) = began {
            env.port.latency(Latency::Outbound, began.elapsed().as_nanos() as u64);
        }
        Ok(more)
    }

    /// What was read since this was asked last.
    pub fn done(&mut self) -> Work {
        std::mem::take(&mut self.work)
    }

    /// A frame of `len` bytes with its virtio-net header that another worker read for this one.
    pub fn take_over(&mut self, bytes: &[u8], peer: PeerId, state: &mut State, env: &mut Environment) {
        self.buffer[READ_AT..READ_AT + bytes.len()].copy_from_slice(bytes);
        self.unicast(peer, bytes.len(), state, env);
    }

    /// Ends a batch.
    pub fn flush(&mut self, env: &mut Environment) {
        send(&mut self.train, env);
    }

    fn frame(&mut self, len: usize, state: &mut State, env: &mut Environment) {
        env.port.count(Count::TapReads, 1);
        let Some(frame_len) = len.checked_sub(vnet::LEN).filter(|&frame_len| frame_len >= 14) else {
            return env.port.drop(Drop::BadFrame, 1);
        };
        env.port.count(Count::TapReadBytes, frame_len as u64);
        let Some(&destination) = self.buffer[FRAME_HEADROOM..].first_chunk::<6>() else { return };
        match state.fdb.route(destination, state.now_s) {
            Route::Peer(peer) => self.unicast(peer, len, state, env),
            Route::Flood => self.flood(len, state, env),
        }
    }

    fn flood(&mut self, len: usize, state: &mut State, env: &mut Environment) {
        let peers = state.tables.peer_count();
        if peers == 0 {
            return env.port.drop(Drop::NoPeer, 1);
        }
        if !state.flood.take(state.now_us()) {
            return env.port.drop(Drop::FloodLimit, 1);
        }
        env.port.count(Count::FloodedFrames, 1);
        let whole = READ_AT..READ_AT + len;
        if peers > 1 {
            self.copy[whole.clone()].copy_from_slice(&self.buffer[whole.clone()]);
        }
        for n in 0..peers {
            let Some(peer) = state.tables.nth_peer(n) else { continue };
            if n > 0 {
                self.buffer[whole.clone()].copy_from_slice(&self.copy[whole.clone()]);
            }
            self.unicast(peer, len, state, env);
        }
    }

    /// The read buffer holds a frame for this peer; `len` counts the virtio-net header too.
    fn unicast(&mut self, id: PeerId, len: usize, state: &mut State, env: &mut Environment) {
        let Some(peer) = state.tables.peer(id) else { return env.port.drop(Drop::NoPeer, 1) };
        if peer.outbound.is_none() {
            let owner = env.id % usize::from(peer.path.lanes.max(1));
            return if owner == env.id { env.port.drop(Drop::NoSa, 1) } else { self.hand_over(owner, id, peer.tag, len, env) };
        }
        let Some((header, frame)) = self.buffer[READ_AT..READ_AT + len].split_first_chunk() else { return };
        let plan = Plan::new(&VnetHeader::parse(header), frame, FRAME_HEADROOM)
            .and_then(|plan| if plan.longest() > peer.path.frame_max { Err(Drop::PathMtu) } else { Ok(plan) });
        match plan {
            Ok(plan) => self.segments(plan, id, peer, env),
            Err(why) => env.port.drop(why, 1),
        }
    }

    fn hand_over(&mut self, owner: usize, peer: PeerId, tag: PeerTag, len: usize, env: &mut Environment) {
        let Some(mut buffer) = env.handover.buffer() else { return env.port.drop(Drop::HandoverFull, 1) };
        buffer.bytes[..len].copy_from_slice(&self.buffer[READ_AT..READ_AT + len]);
        buffer.len = len;
        if env.handover.give(owner, Item::Frame { buffer, peer, tag }) {
            env.port.count(Count::HandedOver, 1);
        } else {
            env.port.drop(Drop::HandoverFull, 1);
        }
    }

    fn segments(&mut self, plan: Plan, id: PeerId, peer: &mut Peer, env: &mut Environment) {
        let Some(sa) = peer.outbound.as_deref_mut() else { return };
        let checksums = if sa.defer_checksums { Checksums::Defer } else { Checksums::Fill };
        let count = plan.segments();
        let (packets, bytes) = (sa.packets, sa.bytes);
        let mut deferred = 0;
        for k in 0..count {
            let (frame, open) = plan.segment(k, &mut self.buffer, checksums);
            deferred += u64::from(open);
            let len = esp::sealed_len(frame.len());
            if !self.train.takes(&peer.path.endpoint, len, env.udp.segments_max) {
                send(&mut self.train, env);
            }
            match seal(sa, &mut self.buffer, frame, open, self.train.reserve(len)) {
                Ok(()) => self.train.commit(&peer.path.endpoint, len),
                Err(why) => {
                    env.port.drop(why, (count - k) as u64);
                    break;
                }
            }
        }
        if plan.needs_checksum() {
            env.port.count(Count::ChecksumsDeferred, deferred);
            env.port.count(Count::ChecksumsFilled, count as u64 - deferred);
        }
        if count > 1 {
            env.port.count(Count::SplitSegments, count as u64);
        }
        env.port.count(Count::Sealed, sa.packets - packets);
        env.port.count(Count::SealedBytes, sa.bytes - bytes);
        env.port.sa_update(sa.slot, sa.seq_next - 1, sa.packets, sa.bytes);
        // Asked for again with the next frame when the ring to the control plane is full.
        if sa.seq_next > sa.seq_halfway && env.port.emit(&Event::SeqHalfway { peer: id, spi: sa.spi }) {
            sa.seq_halfway = u64::MAX;
        }
    }
}

/// Sends the train under construction, if there is one.
fn send(train: &mut Train, env: &mut Environment) {
    if train.is_empty() {
        return;
    }
    env.port.count(Count::UdpSends, 1);
    match env.udp.send(train.to(), train.bytes(), train.segment()) {
        Ok(()) => {
            env.port.count(Count::UdpSentDatagrams, train.count() as u64);
            env.port.count(Count::UdpSentBytes, train.bytes().len() as u64);
        }
        Err(error) => refused(train, &error, env),
    }
    train.clear();
}

/// A train that the kernel did not take: a feature that is missing is switched off and the packets go one by one.
fn refused(train: &Train, error: &io::Error, env: &mut Environment) {
    let errno = error.raw_os_error().unwrap_or(0);
    match errno {
        // EINVAL: more segments than this kernel takes. EIO: the device cannot checksum what it would have to split.
        libc::EINVAL | libc::EIO if train.count() > 1 => {
            let fewer = if errno == libc::EINVAL && train.count() > 64 { 64 } else { 1 };
            let mut sent = 0;
            for part in train.bytes().chunks(train.segment() * fewer) {
                let count = part.len().div_ceil(train.segment()) as u64;
                match env.udp.send(train.to(), part, train.segment()) {
                    Ok(()) => {
                        sent += count;
                        env.port.count(Count::UdpSentBytes, part.len() as u64);
                    }
                    Err(error) => env.port.drop(send_failure(&error), count),
                }
            }
            env.port.count(Count::UdpSentDatagrams, sent);
            // When the parts do not go either, the packets are to blame (path MTU, no route) and the feature stays on.
            if sent > 0 {
                degrade(fewer, env);
            }
        }
        _ => env.port.drop(send_failure(error), train.count() as u64),
    }
}

fn degrade(segments: usize, env: &mut Environment) {
    env.udp.segments_max = segments;
    env.port.gauge(Gauge::UdpSegmentMax, segments as i64);
    if segments == 1 {
        env.port.emit(&Event::Degraded { what: Feature::UdpSegment });
    }
}

fn send_failure(error: &io::Error) -> Drop {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => Drop::UdpFull,
        Some(libc::EMSGSIZE) => Drop::PathMtu,
        _ => Drop::UdpRefused,
    }
}
