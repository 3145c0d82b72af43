//! What the control plane knows, shared between the loop that runs it and the API that tells it: the configuration, the attached data
//! plane, the totals of those before, and how IKE does.

pub mod drops;
pub mod status;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use adit_channel::{Counters, LiveSa, Master, PathCounters, PlaneInfo};
use adit_proto::control::{PathId, PeerTag};
use adit_proto::stats::Gauge;

use crate::archive::Archive;
use crate::desired::Desired;
use crate::ike::report::Report;
use crate::meter::Meter;
use crate::meter::drops::DropMeter;
use crate::numbers::{Numbers, Peers, SocketNumbers};
use crate::schema;
use crate::survey::Finding;

/// The data plane that is attached.
#[derive(Debug)]
pub struct Attached {
    pub master: Master,
    pub since: Instant,
    pub started_here: bool,
    pub peers: Peers,
}

/// The data plane that is attached, and the totals of those before it. One lock for all: whoever adds them up must see the
/// numbers of each data plane once.
#[derive(Debug, Default)]
struct Planes {
    attached: Option<Attached>,
    archive: Numbers,
    meter: Meter,
    drops: DropMeter,
}

impl Planes {
    /// What the data plane has now, all of it counted.
    fn look(&mut self) -> Vec<(u16, LiveSa)> {
        let Some(attached) = &self.attached else { return Vec::new() };
        let look = attached.master.look_at_sas(self.meter.counted());
        let now = Instant::now();
        self.meter.count(now, &look, &attached.peers, attached.started_here);
        self.drops.count(now, &attached.master.peer_drops(&attached.peers), attached.started_here);
        look.live()
    }

    /// Forgets the peers that are not in the configuration.
    fn retain(&mut self, desired: &Desired) {
        self.meter.retain(&desired.tags);
        self.drops.retain(&desired.tags);
    }

    /// The data plane that was looked at is gone.
    fn forget_plane(&mut self) {
        self.meter.forget_sas();
        self.drops.forget_plane();
    }

    fn numbers(&self) -> Numbers {
        let mut numbers = self.attached.as_ref().map(|attached| Numbers::read(&attached.master)).unwrap_or_default();
        numbers.add(&self.archive);
        numbers
    }
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
    /// What routers said of packets that were too big, by whether it quotes an SPI that lives.
    pub believed_icmp: AtomicU64,
    pub ignored_icmp: AtomicU64,
    /// What came to UDP port 500.
    pub port500: Arc<SocketNumbers>,
    started: Instant,
    planes: Mutex<Planes>,
    ike: Mutex<Arc<Report>>,
    /// How it is with the relay.
    relay: Mutex<Option<schema::Relay>>,
    /// What the data plane has refused of peers.
    missing: Mutex<Arc<HashMap<PeerTag, String>>>,
    /// Inner networks that other interfaces of this machine have, too.
    overlaps: Mutex<Arc<Vec<Finding>>>,
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
            believed_icmp: AtomicU64::new(0),
            ignored_icmp: AtomicU64::new(0),
            port500: Arc::default(),
            started: Instant::now(),
            planes: Mutex::new(Planes::default()),
            ike: Mutex::new(Arc::default()),
            relay: Mutex::default(),
            missing: Mutex::default(),
            overlaps: Mutex::default(),
        }
    }

    /// What should be.
    pub fn desired(&self) -> Arc<Desired> {
        lock(&self.desired).clone()
    }

    /// From now on this should be, by these peers.
    pub fn set_desired(&self, desired: Arc<Desired>, peers: Peers) {
        {
            let mut planes = lock(&self.planes);
            planes.look();
            planes.retain(&desired);
            if let Some(attached) = &mut planes.attached {
                attached.peers = peers;
            }
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

    /// The interfaces that the workers have, by their indices in the kernel: 0 where one has none.
    pub fn interfaces(&self) -> BTreeSet<u32> {
        let of = |counters: Counters| u32::try_from(counters.gauge(Gauge::TapIndex)).unwrap_or(0);
        let all = self.with_master(|master| (0..master.workers()).map(|worker| of(master.counters(worker))).collect());
        all.unwrap_or_default()
    }

    /// What has gone over each path of the peers of the configuration, by their places in it.
    pub fn paths(&self) -> BTreeMap<(usize, PathId), PathCounters> {
        let desired = self.desired();
        let places: HashMap<PeerTag, usize> = desired.tags.iter().enumerate().map(|(place, tag)| (*tag, place)).collect();
        let planes = lock(&self.planes);
        let Some(attached) = &planes.attached else { return BTreeMap::new() };
        let place_of = |id| attached.peers.get(&id).and_then(|tag| places.get(tag)).copied();
        let all = attached.master.path_counters().into_iter();
        all.filter_map(|((id, path), counters)| Some(((place_of(id)?, path), counters))).collect()
    }

    /// How IKE does.
    pub fn set_ike(&self, report: Report) {
        *lock(&self.ike) = Arc::new(report);
    }

    /// How IKE did when this was looked at last.
    pub fn ike(&self) -> Arc<Report> {
        lock(&self.ike).clone()
    }

    /// How it is with the relay, if there is one.
    pub fn set_relay(&self, relay: Option<schema::Relay>) {
        *lock(&self.relay) = relay;
    }

    /// How it was when this was looked at last.
    pub fn relay(&self) -> Option<schema::Relay> {
        lock(&self.relay).clone()
    }

    /// What the data plane has refused of peers, in words.
    pub fn set_missing(&self, missing: HashMap<PeerTag, String>) {
        *lock(&self.missing) = Arc::new(missing);
    }

    /// What it has refused of this one.
    fn missing(&self, peer: PeerTag) -> Option<String> {
        lock(&self.missing).get(&peer).cloned()
    }

    /// Inner networks that other interfaces of this machine have, too.
    pub fn set_overlaps(&self, overlaps: Vec<Finding>) {
        *lock(&self.overlaps) = Arc::new(overlaps);
    }

    /// The same in words; for a peer, by its place in the configuration, without those of others.
    pub fn overlaps(&self, place: Option<usize>) -> Vec<String> {
        let of_peer = place.map(|place| format!("peers[{place}]."));
        let concerns = |one: &&Finding| match &of_peer {
            Some(of_peer) => one.key.starts_with(of_peer) || !one.key.starts_with("peers["),
            None => true,
        };
        lock(&self.overlaps).iter().filter(concerns).map(|one| format!("{}: {}", one.key, one.what)).collect()
    }

    /// Takes the data plane away and keeps its totals.
    pub fn detach(&self) -> Option<Attached> {
        self.set_missing(HashMap::new());
        let mut planes = lock(&self.planes);
        planes.look();
        let attached = planes.attached.take()?;
        planes.archive.add(&Numbers::read(&attached.master));
        planes.forget_plane();
        Some(attached)
    }

    /// The totals of what is gone: of all data planes before the one that is attached, of SAs, and of drops of peers. And how many SAs of
    /// each worker have gone that are among them.
    pub fn archive(&self) -> (Archive, Vec<u64>) {
        let mut planes = lock(&self.planes);
        planes.look();
        let archive = Archive {
            restarts: self.restarts.load(Ordering::Relaxed),
            numbers: planes.archive.clone(),
            gone: planes.meter.gone(),
            drops: planes.drops.gone(),
        };
        (archive, planes.meter.counted().to_vec())
    }

    /// Goes on with the totals that a control plane before us had, where it had room to leave them, and counts no SA that it had counted.
    pub fn inherit(&self, archive: Option<&Archive>, counted: &[u64]) {
        let mut planes = lock(&self.planes);
        planes.meter.skip(counted);
        let Some(archive) = archive else { return };
        self.restarts.store(archive.restarts, Ordering::Relaxed);
        planes.archive = archive.numbers.totals();
        planes.meter.inherit(&archive.gone);
        planes.drops.inherit(&archive.drops);
    }

    /// Adds the totals of a data plane that was never attached here, and whose peers had these ids.
    pub fn add_totals(&self, master: &Master, peers: &Peers) {
        let mut planes = lock(&self.planes);
        planes.archive.add(&Numbers::read(master).totals());
        let now = Instant::now();
        let look = master.look_at_sas(planes.meter.counted());
        planes.meter.count(now, &look, peers, false);
        planes.drops.count(now, &master.peer_drops(peers), false);
        planes.forget_plane();
    }

    /// What the data plane says about itself.
    pub fn info(&self) -> Option<PlaneInfo> {
        self.with_master(|master| master.info().clone())
    }

    /// All numbers: totals over restarts, live values of the data plane that runs.
    pub fn numbers(&self) -> Numbers {
        lock(&self.planes).numbers()
    }

    /// Adds up what has gone through the SAs; to be called before some are removed.
    pub fn count_sas(&self) {
        lock(&self.planes).look();
    }

    /// Measures rates; to be called about once a second. Gives what the data plane has.
    pub fn sample(&self) -> Vec<(u16, LiveSa)> {
        let desired = self.desired();
        let mut planes = lock(&self.planes);
        let live = planes.look();
        if planes.attached.is_some() {
            let numbers = planes.numbers();
            let now = Instant::now();
            planes.meter.rate(now, &numbers);
            let Planes { meter, drops, .. } = &mut *planes;
            desired.tags.iter().for_each(|tag| drops.opened(now, *tag, meter.traffic(now, *tag).1.packets));
        }
        // What a peer that was removed still had is not kept.
        planes.retain(&desired);
        live
    }
}
