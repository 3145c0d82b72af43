//! What the control plane knows, shared between the loop that runs it and the API that tells it: the configuration, the
//! attached data plane, the totals of those before, and a short memory for rates.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use adit_channel::{Master, PathCounters, PlaneInfo};
use adit_engine::auth::Certificate;
use adit_engine::path::PathStatus;
use adit_proto::control::{Direction, PathId, PeerTag};
use adit_proto::stats::{Count, Drop, Gauge, Latency};

use crate::api::types;
use crate::config::{MacText, Peer};
use crate::desired::Desired;
use crate::desired::static_key::{WantedSa, tag};
use crate::ike::report::Report;
use crate::numbers::{Archive, Numbers, Peers, SaName, SaNumbers};

/// The data plane that is attached.
#[derive(Debug)]
pub struct Attached {
    pub master: Master,
    pub since: Instant,
    pub started_here: bool,
    pub peers: Peers,
}

impl Attached {
    fn numbers(&self) -> Numbers {
        Numbers::read(&self.master, &self.peers)
    }
}

/// The data plane that is attached, and the totals of those before it. One lock for both: whoever adds them up must see the
/// numbers of each data plane once.
#[derive(Debug, Default)]
struct Planes {
    attached: Option<Attached>,
    archive: Numbers,
}

/// What changed between the last two looks at the numbers, and when something last moved.
#[derive(Debug, Default)]
struct Sampler {
    last: Option<(Instant, Numbers)>,
    sealed_per_s: Vec<u64>,
    opened_per_s: Vec<u64>,
    sas: BTreeMap<SaName, SaMotion>,
}

#[derive(Clone, Copy, Debug, Default)]
struct SaMotion {
    bits_per_s: u64,
    last_moved: Option<Instant>,
}

/// Shared between the loop and the API.
#[derive(Debug)]
pub struct View {
    desired: Mutex<Arc<Desired>>,
    pub restarts: AtomicU64,
    pub ignored_ike: AtomicU64,
    /// What the next control plane needs of IKE does not fit the vault.
    pub vault_full: AtomicBool,
    pub ignored_stun: AtomicU64,
    pub ignored_other: AtomicU64,
    started: Instant,
    planes: Mutex<Planes>,
    sampler: Mutex<Sampler>,
    ike: Mutex<Report>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is inside is whole at every await and every panic: plain assignments.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl View {
    pub fn new(desired: Arc<Desired>) -> View {
        View {
            desired: Mutex::new(desired),
            restarts: AtomicU64::new(0),
            ignored_ike: AtomicU64::new(0),
            vault_full: AtomicBool::new(false),
            ignored_stun: AtomicU64::new(0),
            ignored_other: AtomicU64::new(0),
            started: Instant::now(),
            planes: Mutex::new(Planes::default()),
            sampler: Mutex::new(Sampler::default()),
            ike: Mutex::new(Report::default()),
        }
    }

    /// What should be.
    pub fn desired(&self) -> Arc<Desired> {
        lock(&self.desired).clone()
    }

    /// From now on this should be, by these peers.
    pub fn set_desired(&self, desired: Arc<Desired>, peers: Peers) {
        if let Some(attached) = &mut lock(&self.planes).attached {
            attached.peers = peers;
        }
        *lock(&self.desired) = desired;
    }

    /// From now on this is the data plane.
    pub fn attach(&self, attached: Attached) {
        lock(&self.planes).attached = Some(attached);
    }

    /// Does something with the channel to the attached data plane, if there is one.
    pub fn with_master<T>(&self, work: impl FnOnce(&mut Master) -> T) -> Option<T> {
        lock(&self.planes).attached.as_mut().map(|attached| work(&mut attached.master))
    }

    /// What has gone over each path of the peers of the configuration, by the peer's name.
    pub fn paths(&self) -> BTreeMap<(String, PathId), PathCounters> {
        let desired = self.desired();
        let names: HashMap<PeerTag, &str> =
            desired.config.peers.iter().map(|peer| (tag(&peer.name), peer.name.as_str())).collect();
        let planes = lock(&self.planes);
        let Some(attached) = &planes.attached else { return BTreeMap::new() };
        let name_of = |id| attached.peers.get(&id).and_then(|tag| names.get(tag));
        let all = attached.master.path_counters().into_iter();
        all.filter_map(|((id, path), counters)| Some((((*name_of(id)?).to_owned(), path), counters))).collect()
    }

    /// How IKE does.
    pub fn set_ike(&self, report: Report) {
        *lock(&self.ike) = report;
    }

    /// How IKE did when this was looked at last.
    pub fn ike(&self) -> Report {
        lock(&self.ike).clone()
    }

    /// Takes the data plane away and keeps its totals.
    pub fn detach(&self) -> Option<Attached> {
        let attached = {
            let mut planes = lock(&self.planes);
            let attached = planes.attached.take()?;
            planes.archive.add(&attached.numbers());
            attached
        };
        // One lock after the other: nobody holds both.
        *lock(&self.sampler) = Sampler::default();
        Some(attached)
    }

    /// The totals of all data planes before the one that is attached.
    pub fn archive(&self) -> Archive {
        Archive { restarts: self.restarts.load(Ordering::Relaxed), numbers: lock(&self.planes).archive.clone() }
    }

    /// Goes on with the totals that a control plane before us had.
    pub fn inherit(&self, archive: Archive) {
        self.restarts.store(archive.restarts, Ordering::Relaxed);
        lock(&self.planes).archive = archive.numbers.totals();
    }

    /// Adds the totals of a data plane that was never attached here.
    pub fn add_totals(&self, numbers: &Numbers) {
        lock(&self.planes).archive.add(&numbers.totals());
    }

    /// What the data plane says about itself.
    pub fn info(&self) -> Option<PlaneInfo> {
        self.with_master(|master| master.info().clone())
    }

    /// All numbers: totals over restarts, live values of the data plane that runs.
    pub fn numbers(&self) -> Numbers {
        let planes = lock(&self.planes);
        let mut numbers = planes.attached.as_ref().map(Attached::numbers).unwrap_or_default();
        numbers.add(&planes.archive);
        numbers
    }

    /// Looks at the numbers for rates and for the age of traffic; to be called about once a second.
    pub fn sample(&self) {
        let looked = lock(&self.planes).attached.as_ref().map(|plane| (plane.numbers(), plane.started_here));
        let Some((now, started_here)) = looked else { return };
        let at = Instant::now();
        let sampler = &mut *lock(&self.sampler);
        if let Some((before_at, before)) = &sampler.last {
            let ms = at.duration_since(*before_at).as_millis().max(1) as u64;
            let rate = |new: u64, old: u64| new.saturating_sub(old).saturating_mul(1000) / ms;
            let rates = |count: Count| {
                let pairs = now.workers.iter().zip(&before.workers);
                pairs.map(|(new, old)| rate(new.count(count), old.count(count))).collect()
            };
            sampler.sealed_per_s = rates(Count::Sealed);
            sampler.opened_per_s = rates(Count::Opened);
            for (name, sa) in &now.sas {
                let old = before.sas.get(name).copied().unwrap_or_default();
                let motion = sampler.sas.entry(*name).or_default();
                motion.bits_per_s = rate(sa.bytes, old.bytes).saturating_mul(8);
                if sa.packets != old.packets {
                    motion.last_moved = Some(at);
                }
            }
        } else if started_here {
            // What a data plane of ours has moved by the first look, it moved just now.
            let moved = now.sas.iter().filter(|(_, sa)| sa.packets > 0);
            sampler.sas.extend(moved.map(|(name, _)| (*name, SaMotion { bits_per_s: 0, last_moved: Some(at) })));
        }
        sampler.last = Some((at, now));
    }

    /// Everything, for people and programs.
    pub fn status(&self) -> types::Status {
        let numbers = self.numbers();
        let data_plane = self.data_plane();
        let ike = self.ike();
        let counters = self.paths();
        let sampler = lock(&self.sampler);
        let desired = self.desired();
        let Desired { config, sas: wanted, .. } = &*desired;
        let interface = &config.interface;
        let mut sas: Vec<Vec<&WantedSa>> = vec![Vec::new(); config.peers.len()];
        wanted.iter().for_each(|want| sas[want.peer].push(want));
        let peers = config.peers.iter().zip(&sas);
        types::Status {
            version: 1,
            name: config.name.clone(),
            control_plane: types::ControlPlane {
                pid: std::process::id(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                uptime_s: self.started.elapsed().as_secs(),
            },
            data_plane,
            data_plane_restarts: self.restarts.load(Ordering::Relaxed),
            key_log_dir: config.ike.key_log_dir.as_ref().map(|dir| dir.display().to_string()),
            configuration: configuration(&desired),
            interface: types::Interface {
                name: interface.name.clone(),
                mac: MacText(interface.mac).to_string(),
                mtu: interface.mtu,
                addresses: interface.addresses.iter().map(ToString::to_string).collect(),
            },
            certificates: self.certificates(),
            peers: peers
                .enumerate()
                .map(|(place, (peer, sas))| {
                    let by_ike = (ike.peers.get(&place), ike.traffic.get(&place).copied());
                    let mut status = peer_status(peer, sas, &numbers, &sampler, by_ike);
                    let paths = ike.paths.get(&place).into_iter().flatten();
                    let of_path = |path: &PathStatus| counters.get(&(peer.name.clone(), path.path)).copied().unwrap_or_default();
                    status.paths = paths.map(|path| peer_path(path, of_path(path))).collect();
                    status
                })
                .collect(),
            workers: workers(&numbers, &sampler),
            drops: drops(&numbers),
            latencies: Latency::ALL.iter().map(|path| latency(*path, &numbers)).collect(),
        }
    }

    /// Our own certificates.
    pub fn certificates(&self) -> Vec<types::Certificate> {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let desired = self.desired();
        let chain = desired.config.ike.key.as_ref().map_or(&[][..], |own| own.key.value.chain());
        let one = |certificate: &Certificate| types::Certificate {
            subject: certificate.subject().to_owned(),
            issuer: certificate.issuer().to_owned(),
            until: certificate.not_after(),
            remaining_s: certificate.not_after().saturating_sub(unix) as i64
                - unix.saturating_sub(certificate.not_after()) as i64,
        };
        chain.iter().map(one).collect()
    }

    fn data_plane(&self) -> Option<types::DataPlane> {
        let planes = lock(&self.planes);
        let attached = planes.attached.as_ref()?;
        let info = attached.master.info().clone();
        Some(types::DataPlane {
            pid: info.pid,
            version: info.version,
            uptime_s: attached.since.elapsed().as_secs(),
            started_here: attached.started_here,
            listen: info.listen.to_string(),
            io: info.io,
            crypto: info.crypto,
            cpu_features: info.cpu_features,
            memory_bytes: info.memory_bytes,
        })
    }
}

fn configuration(desired: &Desired) -> Option<types::Configuration> {
    let source = desired.source.as_ref()?;
    Some(types::Configuration {
        file: source.file.display().to_string(),
        read_s: source.read_at.elapsed().unwrap_or_default().as_secs(),
        newer: desired.is_outdated(),
        pending: desired.pending.clone(),
    })
}

/// How the IKE of a peer does, and what it has sent and received; nothing for one with a static key.
type OfIke<'a> = (Option<&'a types::Ike>, Option<(types::Traffic, types::Traffic)>);

fn peer_status(
    peer: &Peer,
    wanted: &[&WantedSa],
    numbers: &Numbers,
    sampler: &Sampler,
    (ike, traffic): OfIke<'_>,
) -> types::Peer {
    let (mut sent, mut received) = (types::Traffic::default(), types::Traffic::default());
    let mut sas = Vec::new();
    for want in wanted {
        let name = want.name();
        let sa = numbers.sas.get(&name).copied().unwrap_or_default();
        let into = if want.direction == Direction::Outbound { &mut sent } else { &mut received };
        add_traffic(into, sa, sampler.sas.get(&name).copied().unwrap_or_default());
        sas.push(types::Sa {
            direction: direction_label(want.direction).to_owned(),
            spi: format!("{:#010x}", want.spi.0),
            lane: want.lane,
            worker: want.worker,
            live: sa.seq.is_some(),
            sequence: sa.seq.unwrap_or(0),
            packets: sa.packets,
            bytes: sa.bytes,
        });
    }
    if let Some(by_ike) = traffic {
        (sent, received) = by_ike;
    }
    types::Peer {
        name: peer.name.clone(),
        endpoint: peer.endpoint_text(),
        suite: peer.secret().map_or_else(|| "ike".to_owned(), |secret| secret.suite().to_string()),
        lanes: peer.lanes,
        sent,
        received,
        sas,
        paths: Vec::new(),
        ike: ike.cloned(),
    }
}

fn peer_path(path: &PathStatus, counters: PathCounters) -> types::PeerPath {
    types::PeerPath {
        id: path.path.index() as u8,
        local: path.hop.local.to_string(),
        remote: path.hop.remote.to_string(),
        in_use: path.in_use,
        ike: path.ike,
        proven: path.proven,
        mtu: path.mtu,
        mtu_proven: path.mtu_proven,
        mtu_route: path.mtu_route,
        split: path.split,
        rtt_us: path.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
        black_holes: path.black_holes,
        sent: types::Volume { packets: counters.sent_packets, bytes: counters.sent_bytes },
        received: types::Volume { packets: counters.received_packets, bytes: counters.received_bytes },
    }
}

/// The direction in metrics and in the API.
pub fn direction_label(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "in",
        Direction::Outbound => "out",
    }
}

fn add_traffic(into: &mut types::Traffic, sa: SaNumbers, motion: SaMotion) {
    into.packets = into.packets.saturating_add(sa.packets);
    into.bytes = into.bytes.saturating_add(sa.bytes);
    into.bits_per_s = into.bits_per_s.saturating_add(motion.bits_per_s);
    into.last_sequence = into.last_sequence.max(sa.seq.filter(|_| sa.packets > 0).unwrap_or(0));
    let idle_s = motion.last_moved.map(|at| at.elapsed().as_secs());
    into.idle_s = into.idle_s.into_iter().chain(idle_s).min();
}

fn workers(numbers: &Numbers, sampler: &Sampler) -> Vec<types::Worker> {
    let live = numbers.workers.iter().enumerate().filter(|(_, worker)| worker.gauges.is_some());
    let worker = live.map(|(index, worker)| types::Worker {
        id: index as u16,
        core: worker.gauge(Gauge::Core).and_then(|core| u16::try_from(core).ok()),
        io_uring: worker.gauge(Gauge::IoUring) == Some(1),
        sealed_per_s: sampler.sealed_per_s.get(index).copied().unwrap_or(0),
        opened_per_s: sampler.opened_per_s.get(index).copied().unwrap_or(0),
        sealed_packets: worker.count(Count::Sealed),
        opened_packets: worker.count(Count::Opened),
        dropped_packets: worker.drops.iter().fold(0, |sum, drops| sum.saturating_add(*drops)),
        fdb_entries: worker.gauge(Gauge::FdbEntries).and_then(|entries| u64::try_from(entries).ok()).unwrap_or(0),
    });
    worker.collect()
}

fn drops(numbers: &Numbers) -> Vec<types::Drop> {
    let sums = Drop::ALL
        .iter()
        .map(|drop| (drop, numbers.workers.iter().fold(0u64, |sum, worker| sum.saturating_add(worker.drop(*drop)))));
    let occurred = sums.filter(|(_, packets)| *packets > 0);
    occurred
        .map(|(drop, packets)| types::Drop { reason: drop.label().to_owned(), packets, meaning: drop.help().to_owned() })
        .collect()
}

fn latency(path: Latency, numbers: &Numbers) -> types::Latency {
    let all = numbers.latency(path);
    let us = |quantile: f64| if all.is_empty() { 0.0 } else { all.value_at_quantile(quantile) as f64 / 1000.0 };
    types::Latency { path: path.label().to_owned(), count: all.len(), p50_us: us(0.5), p99_us: us(0.99), p999_us: us(0.999) }
}
