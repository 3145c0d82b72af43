//! What a worker knows. The two flows and the commands get it, and with it the [`Environment`]; nobody else has them.

use std::time::Instant;

use adit_proto::control::Mode;
use adit_proto::stats::{Count, Gauge};

use crate::config::Config;
use crate::echo::Echoes;
use crate::environment::Environment;
use crate::flood::Shares;
use crate::forward::ForwardingTable;
use crate::limits::{ADVICE_PER_SENDER_S, ANSWERS_PER_SENDER_S};
use crate::oversize::Answers;
use crate::policy::PolicyTable;
use crate::punt::Punts;
use crate::sa::Tables;
use adit_esp::aead::Backend;
use adit_proto::rate_limit::RateLimit;

/// How often trains are tried again with peers to which none could go, in seconds.
const RETRY_TRAINS_S: u32 = 60;

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
        let aged = self.fdb.age(self.now_s, |mac, side| env.announce(mac, side, tables));
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
