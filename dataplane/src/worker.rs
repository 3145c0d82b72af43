//! The loop of one core: wait → commands → outbound → from other workers → inbound → wait, which submits the TAP's writes.
//!
//! A worker owns all it touches on a packet: its TAP queue, its socket, its pool, its SAs, its copy of the forwarding table.
//! It sleeps only when both directions were empty, the control plane wants nothing and no other worker has given it anything.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use adit_channel::Port;
use adit_proto::control::{Event, Mac, PeerId, PeerTag, Place};
use adit_proto::esp::{self, Header};
use adit_proto::stats::{Count, Drop, Gauge};

use crate::aead::Backend;
use crate::config::{Config, TAKEOVERS_PER_TURN};
use crate::control;
use crate::forward::{FloodLimit, ForwardingTable};
use crate::handover::{Handover, Item};
use crate::inbound::Inbound;
use crate::io::{Descriptors, Failure, Io, Wait};
use crate::outbound::Outbound;
use crate::registry::Registry;
use crate::sa::Tables;
use crate::tap::TapQueue;
use crate::udp::UdpSocket;

/// What a worker talks to.
pub struct Environment {
    pub id: usize,
    pub tap: TapQueue,
    pub udp: UdpSocket,
    pub port: Port,
    pub handover: Arc<Handover>,
    pub registry: Arc<Registry>,
}

impl Environment {
    fn descriptors(&self) -> Descriptors {
        Descriptors { tap: self.tap.raw_fd(), udp: self.udp.raw_fd(), wake: self.port.wake_fd().as_raw_fd() }
    }

    /// The worker that owns the SA of a packet.
    #[inline]
    pub fn owner_of(&self, header: &Header) -> usize {
        esp::worker_of(header.spi, self.handover.workers())
    }

    /// Tells the other workers what a frame taught. A full inbox loses it: the next frame of that address tells it again.
    pub fn tell_others(&mut self, mac: Mac, peer: PeerId, tag: PeerTag) {
        for other in (0..self.handover.workers()).filter(|&other| other != self.id) {
            self.handover.give(other, Item::Learned { mac, peer, tag });
        }
    }
}

/// What a worker knows.
pub struct State {
    pub tables: Tables,
    pub fdb: ForwardingTable,
    pub flood: FloodLimit,
    /// Seconds since the worker began, read once per turn.
    pub now_s: u32,
    began: Instant,
    aged_s: u32,
}

impl State {
    pub fn new(config: &Config, backend: Backend) -> State {
        State {
            tables: Tables::new(config.max_peers, config.sa_slots, backend),
            fdb: ForwardingTable::new(config.fdb_entries, config.fdb_ageing_s),
            flood: FloodLimit::new(config.flood_pps.div_ceil(config.workers.into())),
            now_s: 0,
            began: Instant::now(),
            aged_s: 0,
        }
    }

    pub fn now_us(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }
}

/// One worker, to be run on its own pinned thread.
pub struct Worker {
    env: Environment,
    state: State,
    inbound: Inbound,
    outbound: Outbound,
}

impl Worker {
    pub fn new(env: Environment, state: State) -> Worker {
        let inbound = Inbound::new(env.tap.limits);
        Worker { env, state, inbound, outbound: Outbound::default() }
    }

    pub fn descriptors(&self) -> Descriptors {
        self.env.descriptors()
    }

    /// Forwards until `stop` is set. An error means that a descriptor is gone; it has been reported as an event.
    pub fn run(&mut self, mut io: impl Io, stop: &AtomicBool) -> Result<(), Failure> {
        let result = self.forward(&mut io, stop);
        if let Err(failure) = &result {
            let errno = failure.error.raw_os_error().unwrap_or(0);
            self.env.port.emit(&Event::WorkerFailed { errno, at: failure.at });
        }
        result
    }

    fn forward(&mut self, io: &mut impl Io, stop: &AtomicBool) -> Result<(), Failure> {
        let (mut tap_more, mut udp_more, mut orders_more) = (true, true, true);
        while !stop.load(Ordering::Relaxed) {
            let busy = tap_more || udp_more || orders_more || !self.env.handover.may_sleep(self.env.id);
            let wait = if busy { Wait::Look } else { Wait::Sleep(self.outbound.done().and(self.inbound.done())) };
            let ready = io.wait(wait, &mut self.env.port)?;
            self.env.handover.awake(self.env.id);
            self.env.port.count(Count::Turns, 1);
            self.env.port.count(Count::Sleeps, u64::from(!busy));
            tap_more |= ready.tap;
            udp_more |= ready.udp;
            if ready.wake {
                self.env.port.acknowledge();
            }
            self.housekeeping();
            orders_more = control::apply(&mut self.state, &mut self.env);

            if tap_more {
                tap_more = self.outbound.turn(&mut self.state, &mut self.env).map_err(Failure::at(Place::TapRead))?;
            }
            if io.idle() {
                self.inbound.clear();
            }
            self.take_over(io)?;
            if udp_more {
                udp_more = self.inbound.turn(&mut self.state, &mut self.env, io)?;
            }
        }
        Ok(())
    }

    /// What other workers gave to this one.
    fn take_over(&mut self, io: &mut impl Io) -> Result<(), Failure> {
        let mut taken = 0;
        while taken < TAKEOVERS_PER_TURN && self.inbound.takes_over() {
            let Some(item) = self.env.handover.take(self.env.id) else { break };
            taken += 1;
            match item {
                Item::Frame { buffer, peer, tag } => {
                    self.env.port.count(Count::TakenOver, 1);
                    if self.state.tables.has(peer, tag) {
                        self.outbound.take_over(&buffer.bytes[..buffer.len], peer, &mut self.state, &mut self.env);
                    } else {
                        self.env.port.drop(Drop::NoPeer, 1);
                    }
                    self.env.handover.give_back(buffer);
                }
                Item::Datagrams { buffer, segment, from } => {
                    self.env.port.count(Count::TakenOver, buffer.len.div_ceil(segment.max(1)) as u64);
                    let bytes = &buffer.bytes[..buffer.len];
                    self.inbound.take_over(bytes, segment, from, &mut self.state, &mut self.env, io)?;
                    self.env.handover.give_back(buffer);
                }
                Item::Learned { mac, peer, tag } => {
                    if self.state.tables.has(peer, tag) {
                        self.state.fdb.learn(mac, peer, self.state.now_s);
                        self.env.port.gauge(Gauge::FdbEntries, self.state.fdb.len() as i64);
                    }
                }
            }
        }
        if taken > 0 {
            self.outbound.flush(&mut self.env);
            self.inbound.flush(&mut self.env, io)?;
        }
        Ok(())
    }

    /// Once a second: the clock of the tables, ageing, gauges.
    fn housekeeping(&mut self) {
        self.state.now_s = self.state.began.elapsed().as_secs() as u32;
        if self.state.now_s == self.state.aged_s {
            return;
        }
        self.state.aged_s = self.state.now_s;
        let aged = self.state.fdb.age(self.state.now_s);
        let port = &mut self.env.port;
        port.count(Count::FdbAged, aged as u64);
        port.gauge(Gauge::FdbEntries, self.state.fdb.len() as i64);
    }
}
