//! What a worker owns: what it talks to, and what it knows. The two flows and the commands get both; nobody else has them.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Instant;

use adit_channel::Port;
use adit_proto::class::Dscp;
use adit_proto::control::Mode;
use adit_proto::esp::{self, Header};
use adit_proto::stats::{Count, Gauge};

use crate::config::Config;
use crate::echo::Echoes;
use crate::forward::ForwardingTable;
use crate::handover::Handover;
use crate::hub::{self, Shares};
use crate::io::Descriptors;
use crate::oversize::{ADVICE_PER_SENDER_S, ANSWERS_PER_SENDER_S, Answers};
use crate::policy::PolicyTable;
use crate::punt::Punts;
use crate::registry::Registry;
use crate::sa::Tables;
use crate::tap::TapQueue;
use crate::udp::UdpSocket;
use adit_esp::aead::Backend;
use adit_proto::rate_limit::RateLimit;

/// How often trains are tried again with peers to which none could go, in seconds.
const RETRY_TRAINS_S: u32 = 60;

/// What a worker talks to.
pub struct Environment {
    pub id: usize,
    pub mode: Mode,
    pub dscp: Dscp,
    /// Longest frame or packet that the interface takes, in bytes.
    pub frame_max: usize,
    /// The MSS in SYNs is brought down to what the path takes.
    pub clamps_mss: bool,
    pub tap: TapQueue,
    pub udp: UdpSocket,
    pub port: Port,
    /// Room for one datagram of the control plane.
    pub inject: Box<[u8]>,
    pub handover: Arc<Handover>,
    pub registry: Arc<Registry>,
}

impl Environment {
    pub fn descriptors(&self) -> Descriptors {
        Descriptors { tap: self.tap.raw_fd(), udp: self.udp.raw_fd(), wake: self.port.wake_fd().as_raw_fd() }
    }

    /// The other worker that owns the SPI of a packet, if it may have the SA. What nobody has is not copied for anybody.
    #[inline]
    pub fn other_that_opens(&self, header: &Header) -> Option<usize> {
        let owner = esp::worker_of(header.spi, self.handover.workers());
        (owner != self.id && self.registry.may_open(owner, header.spi)).then_some(owner)
    }
}

/// When the workers began: as [`Instant`], and as its clock reads in every process.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    pub began: Instant,
    /// Nanoseconds of CLOCK_MONOTONIC.
    pub began_ns: u64,
}

/// What a worker knows.
pub struct State {
    pub tables: Tables,
    pub fdb: ForwardingTable,
    /// Empty but in IP mode.
    pub policy: PolicyTable,
    pub flood: RateLimit,
    /// What peers may send to all others, if this is a hub.
    pub hub: Option<Shares>,
    /// ICMP messages to senders of what does not fit.
    pub answers: Answers,
    /// The same to senders whose TCP was cut.
    pub advice: Answers,
    pub echoes: Echoes,
    pub punts: Punts,
    /// Seconds since the worker began, read once per turn.
    pub now_s: u32,
    /// When this turn began, in nanoseconds of CLOCK_MONOTONIC.
    pub turn_ns: u64,
    clock: Clock,
    retry_trains_s: u32,
}

impl State {
    /// The clock is the same for all workers of a process: what one has stamped another may read.
    pub fn new(config: &Config, backend: Backend, clock: Clock) -> State {
        let fdb = ForwardingTable::new(config.fdb_entries, config.fdb_ageing_s, config.max_peers);
        State {
            tables: Tables::new(config.max_peers, config.sa_slots, backend),
            fdb: if config.is_hub() { fdb.damping() } else { fdb },
            policy: PolicyTable::new(if config.mode == Mode::Ip { config.selectors } else { 0 }, config.max_peers),
            flood: RateLimit::new(config.flood_pps),
            hub: config.is_hub().then(|| Shares::new(config.flood_pps, config.max_peers)),
            answers: Answers::new(ANSWERS_PER_SENDER_S),
            advice: Answers::new(ADVICE_PER_SENDER_S),
            echoes: Echoes::default(),
            punts: Punts::new(config.max_peers.into()),
            now_s: 0,
            turn_ns: 0,
            clock,
            retry_trains_s: RETRY_TRAINS_S,
        }
    }

    /// Nanoseconds of CLOCK_MONOTONIC.
    pub fn now_ns(&self) -> u64 {
        self.clock.began_ns + self.clock.began.elapsed().as_nanos() as u64
    }

    pub fn now_us(&self) -> u64 {
        self.clock.began.elapsed().as_micros() as u64
    }

    /// The clock of the tables, once per turn, and what goes by it.
    pub fn keep_time(&mut self, env: &mut Environment) {
        let elapsed = self.clock.began.elapsed();
        (self.now_s, self.turn_ns) = (elapsed.as_secs() as u32, self.clock.began_ns + elapsed.as_nanos() as u64);
        let tables = &mut self.tables;
        let aged = self.fdb.age(self.now_s, |mac, side| hub::announce(mac, side, tables, env));
        if aged > 0 {
            env.port.count(Count::FdbAged, aged as u64);
            env.port.gauge(Gauge::FdbEntries, self.fdb.len() as i64);
        }
        if self.now_s >= self.retry_trains_s {
            self.retry_trains_s = self.now_s + RETRY_TRAINS_S;
            self.tables.retry_gso();
        }
    }
}
