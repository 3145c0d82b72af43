//! Everything that the gateway knows, in the types of the API.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use adit_channel::PathCounters;
use adit_engine::auth::Certificate;
use adit_engine::ike::ConnectionState;
use adit_engine::path::PathStatus;
use adit_proto::control::{ChildId, Direction};
use adit_proto::stats::{Count, Drop, Gauge, Latency};

use super::{View, drops as drops_of, lock};
use crate::children::{self, LiveSas};
use crate::config::MacText;
use crate::desired::Desired;
use crate::desired::static_key::WantedSa;
use crate::ike::report::{ByIke, Report, ends};
use crate::meter::WorkerRates;
use crate::meter::drops::Dropped;
use crate::numbers::{Numbers, SocketNumbers};
use crate::schema;
use crate::up;

/// The peers of the configuration with their Child SAs, and the totals of these: what the API, metrics and `explain` stand on.
pub struct PeerView {
    pub peer: schema::Peer,
    /// Of every Child SA that there is or was, in each direction.
    pub totals: Vec<(ChildId, Direction, schema::Volume)>,
    /// All counters of its drops, also those at 0.
    pub drops: Vec<Dropped>,
    /// When the keys of its IKE SA in use were agreed, and when the last authentic packet of it was seen.
    pub handshake: Option<Instant>,
    pub heard: Option<Instant>,
}

/// What the loop of the gateway has reported last, and its age where that is a second or more.
struct Reported {
    ike: Arc<Report>,
    as_of_s: Option<u64>,
}

/// One look at the data plane.
struct Look {
    is_attached: bool,
    live: LiveSas,
    now: Instant,
}

impl View {
    /// Everything, for people and programs.
    pub fn status(&self) -> schema::Status {
        let (desired, reported) = (self.desired(), self.reported());
        let numbers = self.numbers();
        let Desired { config, .. } = &*desired;
        let interface = &config.interface;
        schema::Status {
            version: 2,
            name: config.name.clone(),
            control_plane: schema::ControlPlane {
                pid: std::process::id(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                uptime_s: self.started.elapsed().as_secs(),
                as_of_s: reported.as_of_s,
            },
            data_plane: self.data_plane(),
            data_plane_restarts: self.restarts.load(Ordering::Relaxed),
            key_log_dir: config.ike.key_log_dir.as_ref().map(|dir| dir.display().to_string()),
            configuration: configuration(&desired),
            overlaps: self.overlaps(None),
            interface: schema::Interface {
                name: interface.name.clone(),
                mac: MacText(interface.mac).to_string(),
                mtu: interface.mtu,
                addresses: interface.addresses.iter().map(ToString::to_string).collect(),
            },
            certificates: self.certificates(),
            relay: self.relay(),
            peers: self.peers_at(&desired, 0..config.peers.len(), &reported).into_iter().map(|one| one.peer).collect(),
            workers: self.workers(&numbers),
            drops: drops(&numbers, &self.port500),
            latencies: Latency::ALL.iter().map(|path| latency(*path, &numbers)).collect(),
        }
    }

    /// How IKE and the paths did when they were looked at last, and how long ago that was.
    fn reported(&self) -> Reported {
        let ike = self.ike();
        let as_of_s = ike.made.map(|made| made.elapsed().as_secs()).filter(|age| *age > 0);
        Reported { ike, as_of_s }
    }

    /// How long ago IKE and the paths were looked at, where that is no longer now.
    pub fn as_of_s(&self) -> Option<u64> {
        self.reported().as_of_s
    }

    /// Whether all peers are up, and what is missing.
    pub fn health(&self) -> schema::Health {
        let (desired, reported) = (self.desired(), self.reported());
        let name = desired.config.name.clone();
        let lack = |peer: Option<&str>, what: &str| schema::Lack { peer: peer.map(str::to_owned), what: what.to_owned() };
        let lacks: Vec<schema::Lack> = if self.info().is_none() {
            vec![lack(None, "the data plane does not run")]
        } else {
            let peers = self.peers_at(&desired, 0..desired.config.peers.len(), &reported);
            let of = |one: &PeerView| one.peer.lacks.iter().map(|what| lack(Some(&one.peer.name), what)).collect::<Vec<_>>();
            peers.iter().flat_map(of).collect()
        };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        schema::Health { ok: lacks.is_empty(), name, version, lacks, as_of_s: reported.as_of_s }
    }

    /// All peers, in the order of the configuration.
    pub fn peers(&self, desired: &Desired) -> Vec<PeerView> {
        self.peers_at(desired, 0..desired.config.peers.len(), &self.reported())
    }

    /// The peer at a place in the configuration.
    pub fn peer(&self, desired: &Desired, place: usize) -> Option<PeerView> {
        self.peers_at(desired, place..place + 1, &self.reported()).pop()
    }

    fn peers_at(&self, desired: &Desired, places: Range<usize>, reported: &Reported) -> Vec<PeerView> {
        let Reported { ike, as_of_s } = reported;
        let counters = self.paths();
        let mut wanted: Vec<Vec<&WantedSa>> = vec![Vec::new(); desired.config.peers.len()];
        desired.sas.iter().for_each(|want| wanted[want.peer].push(want));
        let now = Instant::now();
        let mut planes = lock(&self.planes);
        let live = planes.look();
        let live = planes.attached.as_ref().map(|attached| children::live_sas(&live, &attached.peers));
        let tags = desired.tags.iter().enumerate().filter(|(place, _)| places.contains(place));
        let metered = tags.map(|(place, tag)| {
            let totals = planes.meter.totals(*tag).collect();
            let drops = (planes.drops.of(now, *tag), planes.drops.opened_of(now, *tag));
            (place, planes.meter.traffic(now, *tag), planes.meter.heard(*tag), totals, drops)
        });
        let metered: Vec<_> = metered.collect();
        drop(planes);
        let look = Look { is_attached: live.is_some(), live: live.unwrap_or_default(), now };
        let peers = metered.into_iter().map(|(place, (sent, received), heard, totals, (drops, opened))| {
            let (mut peer, ready) = one_peer(desired, place, &wanted[place], ike, &look);
            peer.as_of_s = *as_of_s;
            (peer.sent, peer.received, peer.drops) = (sent, received, drops_of::shown(&drops, opened, now));
            let of_path = |path: &PathStatus| counters.get(&(place, path.path)).copied().unwrap_or_default();
            peer.paths = ike.paths.get(&place).into_iter().flatten().map(|path| peer_path(path, of_path(path))).collect();
            peer.lacks = up::lacks(&peer, look.is_attached, ready);
            peer.lacks.extend(self.missing(desired.tags[place]).map(|what| format!("{what}. It is tried again")));
            peer.up = peer.lacks.is_empty();
            if desired.config.peers[place].ike().is_none() {
                peer.cause = peer.lacks.first().cloned();
                let state = if peer.up { ConnectionState::Established } else { ConnectionState::Idle };
                state.name().clone_into(&mut peer.state);
            }
            let handshake = ike.peers.get(&place).and_then(|by_ike| by_ike.handshake);
            PeerView { peer, totals, drops, handshake, heard }
        });
        peers.collect()
    }

    fn workers(&self, numbers: &Numbers) -> Vec<schema::Worker> {
        let live = numbers.workers.iter().enumerate().filter(|(_, worker)| worker.gauges.is_some());
        let planes = lock(&self.planes);
        let worker = live.map(|(index, worker)| {
            let WorkerRates { sealed_per_s, opened_per_s } = planes.meter.worker(index);
            schema::Worker {
                id: index as u16,
                core: worker.gauge(Gauge::Core).and_then(|core| u16::try_from(core).ok()),
                io_uring: worker.gauge(Gauge::IoUring) == Some(1),
                sealed_per_s,
                opened_per_s,
                sealed_packets: worker.count(Count::Sealed),
                opened_packets: worker.count(Count::Opened),
                dropped_packets: worker.drops.iter().fold(0, |sum, drops| sum.saturating_add(*drops)),
                fdb_entries: worker.gauge(Gauge::FdbEntries).and_then(|entries| u64::try_from(entries).ok()).unwrap_or(0),
            }
        });
        worker.collect()
    }

    /// Our own certificates.
    pub fn certificates(&self) -> Vec<schema::Certificate> {
        let desired = self.desired();
        let chain = desired.config.ike.key.as_ref().map_or(&[][..], |own| own.key.value.chain());
        let one = |certificate: &Certificate| schema::Certificate {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            until: certificate.not_after(),
            remaining_s: schema::remaining_s(certificate.not_after()),
        };
        chain.iter().map(one).collect()
    }

    fn data_plane(&self) -> Option<schema::DataPlane> {
        let planes = lock(&self.planes);
        let attached = planes.attached.as_ref()?;
        let info = attached.master.info().clone();
        Some(schema::DataPlane {
            pid: info.pid,
            version: info.version,
            uptime_s: attached.since.elapsed().as_secs(),
            started_here: attached.started_here,
            listen: info.listen.to_string(),
            io: info.io,
            crypto: info.crypto,
            cpu_features: info.cpu_features,
            memory_bytes: info.memory_bytes,
            protections: schema::Protections { in_force: info.protections.in_force, lacking: info.protections.lacking },
        })
    }
}

fn configuration(desired: &Desired) -> Option<schema::Configuration> {
    let source = desired.source.as_ref()?;
    Some(schema::Configuration {
        file: source.file.display().to_string(),
        read_s: source.read_at.elapsed().unwrap_or_default().as_secs(),
        newer: desired.is_outdated(),
        pending: desired.pending.clone(),
    })
}

/// A peer of the configuration, but for what the meter and the paths say, and whether it is connected or needs no connection.
fn one_peer(desired: &Desired, place: usize, wanted: &[&WantedSa], ike: &Report, look: &Look) -> (schema::Peer, bool) {
    let (config, peer) = (&desired.config, &desired.config.peers[place]);
    let by_ike = ike.peers.get(&place);
    let pairs = match by_ike {
        Some(by_ike) => by_ike.children.clone(),
        None => children::of_static_key(config, wanted),
    };
    let of = (desired.tags[place], config.dataplane.workers);
    let children: Vec<schema::ChildSa> = pairs.iter().map(|pair| pair.show(of, &look.live, look.now)).collect();
    let (state, since_s, cause) = match by_ike {
        Some(ByIke { state, since, cause, .. }) => {
            (*state, Some(look.now.saturating_duration_since(*since).as_secs()), cause.clone())
        }
        None if peer.ike().is_some() => (ConnectionState::Idle, None, Some("the gateway is starting".to_owned())),
        None => (ConnectionState::Idle, None, None),
    };
    let ready = peer.ike().is_none() || state.is_up();
    let mut ike = by_ike.map(|by_ike| by_ike.ike.clone());
    for sa in ike.iter_mut().flat_map(|ike| &mut ike.sas) {
        let is_its = |child: &&schema::ChildSa| child.ike_sa.as_ref().is_some_and(|spis| *spis == sa.spis());
        sa.children = children.iter().filter(is_its).cloned().collect();
    }
    let peer = schema::Peer {
        name: peer.name.clone(),
        endpoint: peer.endpoint_text(),
        keys: peer.keys_from().to_owned(),
        lanes: peer.lanes,
        state: state.name().to_owned(),
        up: false,
        lacks: Vec::new(),
        since_s,
        as_of_s: None,
        cause,
        sent: schema::Traffic::default(),
        received: schema::Traffic::default(),
        drops: Vec::new(),
        children,
        missing: by_ike.map(|by_ike| by_ike.missing.clone()).unwrap_or_default(),
        narrowed: by_ike.map(|by_ike| by_ike.narrowed.clone()).unwrap_or_default(),
        paths: Vec::new(),
        ike,
    };
    (peer, ready)
}

fn peer_path(path: &PathStatus, counters: PathCounters) -> schema::PeerPath {
    let [local, remote] = ends(&path.hop);
    schema::PeerPath {
        id: path.path.index() as u8,
        local,
        remote,
        in_use: path.in_use,
        ike: path.ike,
        proven: path.proven,
        mtu: path.mtu,
        mtu_proven: path.mtu_proven,
        mtu_route: path.mtu_route,
        split: path.split,
        echo: path.echo,
        silent: path.silent,
        rtt_us: path.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
        loss: path.loss.map(|(lost, of)| f64::from(lost) / f64::from(of)),
        black_holes: path.black_holes,
        sent: schema::Volume { packets: counters.sent_packets, bytes: counters.sent_bytes },
        received: schema::Volume { packets: counters.received_packets, bytes: counters.received_bytes },
    }
}

fn drops(numbers: &Numbers, port500: &SocketNumbers) -> Vec<schema::Drop> {
    let sums = Drop::ALL.iter().map(|drop| {
        (drop, numbers.workers.iter().fold(port500.dropped(*drop), |sum, worker| sum.saturating_add(worker.drop(*drop))))
    });
    let occurred = sums.filter(|(_, packets)| *packets > 0);
    occurred
        .map(|(drop, packets)| schema::Drop { reason: drop.label().to_owned(), packets, meaning: drop.help().to_owned() })
        .collect()
}

fn latency(path: Latency, numbers: &Numbers) -> schema::Latency {
    let all = numbers.latency(path);
    let us = |quantile: f64| if all.is_empty() { 0.0 } else { all.value_at_quantile(quantile) as f64 / 1000.0 };
    schema::Latency { path: path.label().to_owned(), count: all.len(), p50_us: us(0.5), p99_us: us(0.99), p999_us: us(0.999) }
}
