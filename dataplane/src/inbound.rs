//! From peers to the TAP or TUN.
//!
//! 1. `receive`: a datagram or a train from the socket, into the arena; or a train that came in a stream, from the control plane.
//! 2. demux: ESP goes on; keepalives end here; IKE and STUN go up to the control plane.
//! 3. find the SA; what another worker owns goes over its ring, in batches.
//! 4. `open` in place; join what came in halves (`halves`); take over ECN marks of the outer header; learn where the source address
//!    is, or check in IP mode that the peer
//!    may send it by this SA. In a hub, frames for other peers go on to them (`relay`).
//! 5. coalesce frames of one flow into super-frames, as pieces of the arena.
//! 6. write to the TAP.
//!
//! Functions follow in this order. An error of one packet ends that packet, never the batch.
//!
//! unsafe here: the call that lends the arena to the I/O until a write is done.

mod halves;
mod relay;

use std::io;
use std::ops::Range;
use std::time::Instant;

use adit_channel::{Port, PuntError};
use adit_proto::control::{self, ChildId, Event, Mac, Mode, PeerId, Place, PuntHeader};
use adit_proto::demux::{self, Kind};
use adit_proto::esp::{self, Header};
use adit_proto::packet::Packet;
use adit_proto::stats::{Count, Drop, Latency};

use crate::class;
use crate::environment::Environment;
use crate::forward::Learned;
use crate::handover::BatchBuilder;
use crate::handover::batch::{Batch, Direction, RecordHeader, record};
use crate::hub;
use crate::io::{Failure, Io, TapWrite, Work};
use crate::limits::{RECEIVE_BYTES_PER_TURN, RECEIVES_PER_TURN, STREAM_BYTES_PER_TURN, TAKEOVER_BYTES_PER_TURN, TRAINS_PER_TURN};
use crate::mss;
use crate::open::{Opened, open};
use crate::pool::Arena;
use crate::state::State;
use crate::tap::coalesce::{Coalescer, Emit, Sink};
use crate::udp::{Arrival, Received};

/// The inbound half of a worker.
pub struct Inbound {
    arena: Arena,
    coalescer: Coalescer,
    /// What the last frame taught, and in which second: most frames of a train teach the same.
    learned_last: Option<(Mac, PeerId, u32)>,
    /// Datagrams whose SA another worker has.
    builder: BatchBuilder,
    /// Frames that go on to other peers, in a hub.
    relayed: BatchBuilder,
    /// What was received since `done` was asked last.
    work: Work,
}

/// An ESP packet in the arena.
struct Datagram<'a> {
    header: &'a Header,
    place: Range<usize>,
    arrival: &'a Arrival,
}

/// Gives super-frames to the worker's I/O.
struct TapSink<'a, I: Io> {
    io: &'a mut I,
    port: &'a mut Port,
    result: Result<(), Failure>,
}

impl<I: Io> Sink for TapSink<'_, I> {
    #[inline]
    fn emit(&mut self, arena: &[u8], emit: Emit<'_>) {
        let write = TapWrite { frames: emit.frames as u32, head: emit.head, tails: emit.tails };
        // SAFETY: the arena is allocated once and outlives the I/O. What was emitted lies below its mark, where nothing is
        // received, and the coalescer touches it no more; the mark goes back in `clear`, which the worker calls when the I/O is
        // idle.
        if let Err(error) = unsafe { self.io.tap_write(arena, write, self.port) } {
            self.result = Err(error);
        }
    }
}

impl Inbound {
    pub fn new(env: &Environment) -> Inbound {
        Inbound {
            arena: Arena::default(),
            coalescer: Coalescer::new(env.mode, env.tap.limits),
            learned_last: None,
            builder: BatchBuilder::new(env.id, Direction::Inbound, env.handover.workers()),
            relayed: BatchBuilder::new(env.id, Direction::Between, env.handover.workers()),
            work: Work::default(),
        }
    }

    /// One turn: receives until the socket is empty or the budget or the arena is used up. True when there may be more.
    pub fn turn<I: Io>(&mut self, state: &mut State, env: &mut Environment, io: &mut I) -> Result<bool, Failure> {
        let (mut receives, mut more) = (0, true);
        let mut began = None;
        // Whatever other workers gave: the socket has a budget of its own.
        let full = self.arena.filled() + RECEIVE_BYTES_PER_TURN;
        while receives < RECEIVES_PER_TURN && self.arena.filled() < full {
            let Some(window) = self.arena.window() else { break };
            match env.udp.receive(window) {
                Ok(received) => {
                    began.get_or_insert_with(Instant::now);
                    receives += 1;
                    self.work.add(received.datagrams());
                    self.train(&received, state, env, io)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    more = false;
                    break;
                }
                // A pending ICMP error of an earlier send, or a signal: the socket itself is well.
                Err(error) if is_transient(&error) => receives += 1,
                Err(error) => return Err(Failure { at: Place::UdpReceive, error }),
            }
        }
        self.flush(env, io)?;
        if let Some(began) = began {
            env.port.latency(Latency::Inbound, began.elapsed().as_nanos() as u64);
            count_overflows(env);
        }
        Ok(more)
    }

    /// What was received since this was asked last.
    pub fn done(&mut self) -> Work {
        std::mem::take(&mut self.work)
    }

    /// Whether this turn may take more from other workers.
    pub fn takes_over(&self) -> bool {
        self.arena.filled() < TAKEOVER_BYTES_PER_TURN
    }

    /// Datagrams that another worker received for this one. The caller has asked `takes_over`, so there is a window.
    pub fn take_over<I: Io>(
        &mut self,
        batch: &Batch,
        state: &mut State,
        env: &mut Environment,
        io: &mut I,
    ) -> Result<(), Failure> {
        let len = batch.bytes().len();
        let Some(window) = self.arena.window() else { return Ok(()) };
        window[..len].copy_from_slice(batch.bytes());
        let whole = self.arena.keep(len);
        let mut at = whole.start;
        while let Some((header, place)) = record(&self.arena.bytes()[..whole.end], at) {
            at = place.end;
            let RecordHeader::Datagrams { segment, arrival } = header else { continue };
            let segment = (segment as usize).max(1);
            env.port.count(Count::TakenOver, place.len().div_ceil(segment) as u64);
            self.datagrams(place, segment, &arrival, state, env, io)?;
        }
        Ok(())
    }

    /// Trains that came in streams of the control plane, as many as a turn takes. True when there may be more.
    pub fn take_trains<I: Io>(&mut self, state: &mut State, env: &mut Environment, io: &mut I) -> Result<bool, Failure> {
        if !env.port.has_trains() {
            return Ok(false);
        }
        let (mut trains, full) = (0, self.arena.filled() + STREAM_BYTES_PER_TURN);
        while trains < TRAINS_PER_TURN && self.arena.filled() < full {
            let Some(window) = self.arena.window() else { break };
            let Some((header, len)) = env.port.next_train(window) else { break };
            trains += 1;
            let packets = header.packets(len) as u64;
            self.work.add(packets);
            env.port.count(Count::TrainsDown, 1);
            env.port.count(Count::TrainsDownPackets, packets);
            env.port.count(Count::TrainsDownBytes, len as u64);
            let place = self.arena.keep(len);
            let arrival = Arrival::by_stream(header.stream, header.class);
            self.datagrams(place, header.segment.into(), &arrival, state, env, io)?;
        }
        self.flush(env, io)?;
        Ok(env.port.has_trains())
    }

    /// Ends a batch: every super-frame under construction is written, every batch sent off.
    pub fn flush<I: Io>(&mut self, env: &mut Environment, io: &mut I) -> Result<(), Failure> {
        self.builder.send_off(&env.handover);
        self.relayed.send_off(&env.handover);
        let mut sink = TapSink { io, port: &mut env.port, result: Ok(()) };
        self.coalescer.flush(self.arena.bytes(), &mut sink);
        sink.result
    }

    /// The arena may be filled from the front again. To be called only when the I/O is idle, so that all that was in it is written.
    pub fn clear(&mut self) {
        self.arena.clear();
    }

    fn train<I: Io>(&mut self, received: &Received, state: &mut State, env: &mut Environment, io: &mut I) -> Result<(), Failure> {
        let count = received.datagrams();
        env.port.count(Count::UdpReceives, 1);
        env.port.count(Count::UdpReceivedDatagrams, count);
        env.port.count(Count::UdpReceivedBytes, received.len as u64);
        if received.truncated {
            env.port.drop(Drop::TooLong, 1);
            return Ok(());
        }
        if received.len == 0 {
            env.port.drop(Drop::TooShort, 1);
            return Ok(());
        }
        let place = self.arena.keep(received.len);
        self.datagrams(place, received.segment, &received.arrival, state, env, io)
    }

    fn datagrams<I: Io>(
        &mut self,
        place: Range<usize>,
        segment: usize,
        arrival: &Arrival,
        state: &mut State,
        env: &mut Environment,
        io: &mut I,
    ) -> Result<(), Failure> {
        let mut start = place.start;
        let mut touched = None;
        let from_ike_port = arrival.from.port() == demux::IKE_PORT;
        while start < place.end {
            let end = place.end.min(start + segment);
            match demux::classify(&self.arena.bytes()[start..end]) {
                Kind::Esp | Kind::Unknown if from_ike_port && demux::is_bare_ike(&self.arena.bytes()[start..end]) => {
                    env.port.drop(Drop::NoMarker, 1);
                }
                Kind::Esp => {
                    let header = Header::parse(&self.arena.bytes()[start..end]);
                    match header.map(|header| (state.tables.find_inbound(header.spi), header)) {
                        Some((Some(index), header)) => {
                            if touched != Some(index) {
                                update(touched, arrival, state, env);
                                touched = Some(index);
                            }
                            let datagram = Datagram { header: &header, place: start..end, arrival };
                            self.packet(index, datagram, state, env, io)?;
                        }
                        Some((None, header)) if env.other_that_opens(&header).is_some() => {
                            let run = self.run_of(&header, start..place.end, segment, env);
                            self.hand_over(run.clone(), segment, arrival, env);
                            start = run.end;
                            continue;
                        }
                        Some((None, _)) => env.port.drop(Drop::UnknownSpi, 1),
                        None => env.port.drop(Drop::TooShort, 1),
                    }
                }
                Kind::Keepalive => env.port.count(Count::Keepalives, 1),
                kind @ (Kind::Ike | Kind::Stun) => punt(kind, &self.arena.bytes()[start..end], arrival, state, env),
                Kind::TooShort => env.port.drop(Drop::TooShort, 1),
                Kind::Unknown => env.port.drop(Drop::Unclassified, 1),
            }
            start = end;
        }
        update(touched, arrival, state, env);
        Ok(())
    }

    /// The datagrams from here on that belong to the same other worker: they go over as one record.
    fn run_of(&mut self, first: &Header, place: Range<usize>, segment: usize, env: &Environment) -> Range<usize> {
        let owner = env.other_that_opens(first);
        let mut end = place.end.min(place.start + segment);
        while end < place.end {
            let next = end..place.end.min(end + segment);
            let same = Header::parse(&self.arena.bytes()[next.clone()])
                .is_some_and(|header| header.spi.0 >= esp::SPI_MIN && env.other_that_opens(&header) == owner);
            if !same {
                break;
            }
            end = next.end;
        }
        place.start..end
    }

    fn hand_over(&mut self, run: Range<usize>, segment: usize, arrival: &Arrival, env: &mut Environment) {
        let bytes = &self.arena.bytes()[run];
        let count = bytes.len().div_ceil(segment.max(1)) as u64;
        let Some(owner) = Header::parse(bytes).and_then(|header| env.other_that_opens(&header)) else { return };
        let header = RecordHeader::Datagrams { segment: segment as u32, arrival: *arrival };
        if self.builder.add(&env.handover, owner, header, bytes, count) {
            env.port.count(Count::HandedOver, count);
        } else {
            env.port.drop(Drop::HandoverFull, count);
        }
    }

    #[inline]
    fn packet<I: Io>(
        &mut self,
        index: usize,
        datagram: Datagram<'_>,
        state: &mut State,
        env: &mut Environment,
        io: &mut I,
    ) -> Result<(), Failure> {
        let Some(sa) = state.tables.inbound_at(index) else { return Ok(()) };
        let (owner, Datagram { header, place, arrival }) = ((sa.peer, sa.child), datagram);
        let opened = open(env.mode, sa, header, &mut self.arena.bytes()[place.clone()]);
        if opened.is_ok() {
            sa.uncounted = (sa.uncounted.0 + 1, sa.uncounted.1 + place.len() as u64);
        }
        let frame = match opened {
            Ok(Opened::Frame { frame, open_checksum, resynced }) => {
                count_resync(resynced, env);
                env.port.count(Count::Opened, 1);
                env.port.count(Count::OpenedBytes, frame.len() as u64);
                (place.start + frame.start..place.start + frame.end, open_checksum, arrival.class)
            }
            Ok(Opened::Dummy { payload, seq, resynced }) => {
                count_resync(resynced, env);
                let payload = place.start + payload.start..place.start + payload.end;
                let joined = self.dummy(payload, (header.spi, seq), owner.0, arrival, state, env);
                let Some((frame, class)) = joined else { return Ok(()) };
                // It was put together behind everything that was received, also what was not looked at yet.
                self.coalescer.skip();
                if let Some(sa) = state.tables.inbound_at(index) {
                    sa.bytes += frame.len() as u64;
                }
                (frame, false, class)
            }
            Err(why) => {
                env.port.drop_of(owner.0, control::Direction::Inbound, why, 1);
                return Ok(());
            }
        };
        self.deliver(frame, owner, state, env, io)
    }

    /// A frame or packet that a peer sealed for a Child SA is at a place of the arena; whether its checksum is open, and the traffic class
    /// of the outer packet. It goes to the TAP, if it may.
    #[inline]
    fn deliver<I: Io>(
        &mut self,
        (frame, open_checksum, class): (Range<usize>, bool, u8),
        (peer, child): (PeerId, ChildId),
        state: &mut State,
        env: &mut Environment,
        io: &mut I,
    ) -> Result<(), Failure> {
        match class::mark(env.mode, &mut self.arena.bytes()[frame.clone()], class) {
            Ok(false) => {}
            Ok(true) => env.port.count(Count::CeMarks, 1),
            Err(why) => {
                env.port.drop_of(peer, control::Direction::Inbound, why, 1);
                return Ok(());
            }
        }
        match env.mode {
            Mode::Ethernet => {
                let learned = self.learn(&frame, peer, state, env);
                if state.hub.is_some() && !self.relay((&frame, open_checksum), peer, learned, state, env) {
                    return Ok(());
                }
            }
            Mode::Ip if self.is_admitted(&frame, peer, child, state) => self.clamp_mss(&frame, peer, state, env),
            Mode::Ip => {
                env.port.drop_of(peer, control::Direction::Inbound, Drop::PolicyMismatch, 1);
                return Ok(());
            }
        }
        let mut sink = TapSink { io, port: &mut env.port, result: Ok(()) };
        self.coalescer.push(self.arena.bytes(), frame, open_checksum, &mut sink);
        sink.result
    }

    /// Whether the packet is one that its peer may send by this Child SA.
    #[inline]
    fn is_admitted(&mut self, place: &Range<usize>, peer: PeerId, child: ChildId, state: &mut State) -> bool {
        let bytes = &self.arena.bytes()[place.clone()];
        let Some(packet) = Packet::parse(bytes) else { return false };
        state.policy.admits(&packet, peer, child) || state.policy.admits_error(&packet, bytes, peer, child)
    }

    /// Brings down the MSS of a packet that opens a connection to what the way back takes.
    #[inline]
    fn clamp_mss(&mut self, packet: &Range<usize>, peer: PeerId, state: &mut State, env: &Environment) {
        if !env.clamps_mss {
            return;
        }
        let fits = || state.tables.peer(peer)?.paths.used().map(|(_, path)| path.frame_reported.into());
        if mss::clamp(&mut self.arena.bytes()[packet.clone()], false, fits) {
            env.port.count(Count::MssClamped, 1);
        }
    }

    #[inline]
    fn learn(&mut self, frame: &Range<usize>, peer: PeerId, state: &mut State, env: &mut Environment) -> Learned {
        let Some(&mac) = self.arena.bytes()[frame.start + 6..frame.end].first_chunk::<6>() else { return Learned::Group };
        let update = Some((mac, peer, state.now_s));
        if self.learned_last == update {
            return Learned::Known;
        }
        let learned = hub::learn(mac, peer, state, env);
        let is_odd = matches!(learned, Learned::Disputed | Learned::Elsewhere | Learned::Group);
        self.learned_last = if is_odd { None } else { update };
        learned
    }
}

fn count_overflows(env: &mut Environment) {
    let new = env.udp.new_overflows();
    if new != 0 {
        env.port.drop(Drop::UdpOverflow, new.into());
    }
}

/// Publishes the counters of an SA and of the path after the packets of a batch, and notes where they came from.
fn update(index: Option<usize>, arrival: &Arrival, state: &mut State, env: &mut Environment) {
    let Some(sa) = index.and_then(|index| state.tables.inbound_at(index)) else { return };
    env.port.sa_update(sa.slot, sa.esp.window.top(), sa.esp.packets, sa.bytes);
    if !sa.use_reported && sa.esp.packets > 0 {
        sa.use_reported = env.port.emit(&Event::InboundSaUsed { peer: sa.peer, spi: sa.esp.spi });
    }
    let (peer, advanced, (packets, bytes)) = (sa.peer, std::mem::take(&mut sa.esp.advanced), std::mem::take(&mut sa.uncounted));
    if packets > 0 {
        env.port.path_received(state.tables.path_slot(peer, arrival), packets, bytes, state.turn_ns);
    }
    // What repeats or is late proves nothing about where the peer is now.
    if advanced && state.tables.found_at(peer, arrival, bytes, state.now_s, |event| env.port.emit(event)) {
        env.port.count(Count::PathChanges, 1);
    }
}

#[inline]
fn count_resync(resynced: bool, env: &Environment) {
    if resynced {
        env.port.count(Count::Resyncs, 1);
    }
}

fn punt(kind: Kind, datagram: &[u8], arrival: &Arrival, state: &mut State, env: &mut Environment) {
    // What comes in a stream is told by the control plane from ESP before it comes here.
    let Some(from) = arrival.from.address() else { return env.port.drop(Drop::Unclassified, 1) };
    let now_us = state.now_us();
    if let Err(why) = state.punts.admit(kind, datagram, &arrival.from, now_us) {
        env.port.drop(why, 1);
        if !state.punts.tells_of(why, now_us) {
            return;
        }
    }
    let header = PuntHeader { from, to: arrival.to, class: arrival.class };
    match env.port.punt(&header, datagram) {
        Ok(()) => env.port.count(Count::Punted, 1),
        Err(PuntError::Full) => env.port.drop(Drop::PuntFull, 1),
        Err(PuntError::NoMaster) => env.port.drop(Drop::PuntNoMaster, 1),
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINTR | libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ENOMEM | libc::ENOBUFS)
    )
}
