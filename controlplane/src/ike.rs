//! IKEv2 and paths in the daemon: the shell around the pure engine of `adit-engine`. Datagrams that the data plane hands up, and time, go
//! in; commands for the data plane and datagrams to be sent come out, in this order.
//!
//! ```text
//! punts ─▶ Ike::receive ─▶ engine ─▶ events ─▶ sas ─▶ commands ─▶ data plane (must have been applied) ┐
//!                                 └▶ datagrams ──────────────────────────────▶ inject ◀── only then ──┘
//! ```

mod expiry;
pub mod key_log;
mod lost;
mod paths;
mod reload;
pub mod report;
pub mod sas;
mod settings;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use adit_channel::LiveSa;
use adit_engine::auth::LocalKey;
use adit_engine::crypto::Secret;
use adit_engine::ike::{After, BootClock, CommandError, Endpoint, Event, LANES_MAX, Now, Restored, Transmit, Usage};
use adit_engine::path::{Arrival, Hop, StreamId, Underlay};
use adit_proto::control::{Command, Direction, PeerId, PuntHeader, Spi};
use adit_proto::esp;
use rustix::time::{ClockId, clock_gettime};
use zeroize::Zeroizing;

use crate::config::Config;
use crate::dataplane::Tables;
use crate::desired::static_key;
use crate::limits::IKE_WAITING_MAX;
use crate::random;
use crate::reconcile::InstalledState;
use crate::request::PeerCommand;
use crate::resolve::Known;
use crate::schema::Explanation;
use crate::state::Proofs;
use expiry::Ending;
use lost::Missing;
use paths::set_static_path;
use report::Report;
use sas::{PeerTerms, Sas, Sizes, Terms};

/// The engine of a gateway: its peers and their paths, and IKE with those that use it.
pub struct Ike {
    endpoint: Endpoint,
    sas: Sas,
    listen: SocketAddr,
    /// Where the sockets are that the engine sends from: there, once another data plane or other sockets have come.
    bound: SocketAddr,
    /// All peers, in the order of the configuration.
    ids: Vec<PeerId>,
    /// Where each peer is looked for.
    remotes: BTreeMap<PeerId, Vec<SocketAddr>>,
    /// Places in the configuration of those that use IKE.
    places: BTreeMap<PeerId, usize>,
    /// The names of these peers, and of those that were removed until all of it is done.
    names: BTreeMap<PeerId, String>,
    /// It has had peers: then it may have something to do.
    used: bool,
    /// Datagrams that wait for nothing but room, and those that wait for the data plane.
    ready: VecDeque<Transmit>,
    waiting: VecDeque<Transmit>,
    news: Vec<Event>,
    /// What the engine was told last, by inbound SPI.
    usage: BTreeMap<Spi, Usage>,
    /// What the data plane did not have when it was looked last.
    missing: Missing,
    /// Packets sent to each peer, when the paths were looked at last.
    sent: BTreeMap<PeerId, u64>,
    /// Peers that had moved to another address of ours, when that was asked last.
    readdressed: u64,
    /// For the data plane, before anything else.
    first: Vec<(u16, Command)>,
    /// SAs of the data plane are about to go.
    going: bool,
    /// Sent nothing since the vault was written last.
    saved: bool,
    /// What we prove ourselves with, and what was said about its end and that of the peers' certificates.
    own_key: Option<Arc<LocalKey>>,
    expiry: expiry::Warnings,
}

impl Ike {
    /// The IKE of a gateway whose peers have these ids in the data plane. Nothing is sent before [`Ike::start`].
    ///
    /// # Errors
    /// A peer's configuration makes no sense.
    pub fn new(
        config: &Config,
        (ids, known): (&[PeerId], &Known),
        tables: Tables,
        crash_secret: Secret,
        underlay: Box<dyn Underlay + Send>,
    ) -> Result<Ike, CommandError> {
        let mut endpoint = Endpoint::new(settings::endpoint(config, crash_secret), random::system()).with_underlay(underlay);
        let dataplane = &config.dataplane;
        let mut sas = Sas::new(Terms { workers: dataplane.workers, window: dataplane.replay_window });
        endpoint.set_mtu_max(now(), config.underlay_mtu);
        let mut places = BTreeMap::new();
        let mut names = BTreeMap::new();
        let (mut first, mut remotes) = (Vec::new(), BTreeMap::new());
        let pool = settings::Pool::of(config, tables);
        for (place, (peer, id)) in config.peers.iter().zip(ids).enumerate() {
            first.extend(sas.set_peer(*id, terms_of(config, place)));
            names.insert(*id, peer.name.clone());
            let addresses = known.addresses(config.listen, peer);
            remotes.insert(*id, addresses.clone());
            let Some(settings) = settings::peer(config, peer, known, pool) else {
                set_static_path(&mut endpoint, config, *id, peer, &addresses);
                continue;
            };
            endpoint.set_peer(now(), *id, settings)?;
            places.insert(*id, place);
        }
        let (waiting, news) = (VecDeque::new(), Vec::new());
        Ok(Ike {
            endpoint,
            sas,
            listen: config.listen,
            bound: config.listen,
            remotes,
            used: !places.is_empty(),
            ids: ids.to_vec(),
            places,
            names,
            ready: VecDeque::new(),
            waiting,
            news,
            usage: BTreeMap::new(),
            missing: Missing::default(),
            sent: BTreeMap::new(),
            readdressed: 0,
            first,
            going: false,
            saved: true,
            own_key: own_key(config),
            expiry: expiry::Warnings::default(),
        })
    }

    /// Whether any peer uses it, or has.
    pub fn is_used(&self) -> bool {
        self.used
    }

    /// Where peers had proven themselves before this process: what comes from there is no stranger's.
    pub fn recall_proofs(&mut self, proofs: &Proofs) {
        for (id, name) in &self.names {
            proofs.get(name).into_iter().for_each(|addresses| self.endpoint.recall_proofs(*id, addresses));
        }
    }

    /// Where each peer has proven itself last, if that has changed since it was asked last.
    pub fn new_proofs(&mut self) -> Option<Proofs> {
        let proofs = self.endpoint.new_proofs()?;
        Some(proofs.into_iter().filter_map(|(id, addresses)| Some((self.names.get(&id)?.clone(), addresses))).collect())
    }

    /// All commands about peers that were removed have been taken; these are left.
    pub fn forget_removed(&mut self, ids: &[PeerId]) {
        self.sas.retain(|id| ids.contains(&id));
        self.names.retain(|id, _| ids.contains(id));
    }

    /// What a process before this one, or this one before a reload, may have told the data plane of what peers own.
    pub fn remember(&mut self, installed: &InstalledState) {
        for (id, selectors) in installed.selectors() {
            self.first.extend(self.sas.remember(id, &selectors));
        }
    }

    /// Goes on with the IKE SAs of the process before this one, over the data plane that has these SAs.
    pub fn restore(&mut self, snapshot: &[u8], live: &[(u16, LiveSa)]) {
        let restored = match self.endpoint.restore(now(), boot_clock(), snapshot) {
            Ok(restored) => restored,
            Err(error) => {
                tracing::warn!("{error}: the peers have to be connected anew");
                Restored::default()
            }
        };
        let inbound: BTreeSet<Spi> = restored.inbound.iter().copied().collect();
        let outbound: BTreeSet<(PeerId, Spi)> = restored.outbound.iter().copied().collect();
        let gone = self.sas.adopt(live, |sa| match sa.direction {
            Direction::Inbound => inbound.contains(&sa.spi),
            Direction::Outbound => outbound.contains(&(sa.peer, sa.spi)),
        });
        self.first.extend(gone);
        self.report_lost(&restored, live);
        for peer in restored.revoked.iter().filter_map(|id| self.endpoint.status(*id)) {
            tracing::warn!(
                peer = peer.name,
                "has to prove itself anew: its keys or identities in the configuration have changed"
            );
        }
        for id in self.places.keys() {
            let Some(status) = self.endpoint.status(*id) else { continue };
            for child in status.ike.iter().flat_map(|ike| &ike.children) {
                self.first.extend(self.sas.adopt_selectors(*id, child.id, child.inbound, &child.selectors));
            }
        }
        self.tell_known();
        if restored.ike_sas + restored.forgotten > 0 {
            tracing::info!("IKE SAs: {} go on, {} forgotten", restored.ike_sas, restored.forgotten);
        }
    }

    /// Tells a data plane whose knowledge is another's, or none, whose messages come up first.
    fn tell_known(&mut self) {
        self.first.push((0, Command::IkeKnownClear));
        self.first.extend(self.known());
    }

    fn known(&self) -> Vec<(u16, Command)> {
        let addresses = self.endpoint.known_addresses().map(|address| (0, Command::IkeAddressAdd { address }));
        let peers = self.places.keys().filter_map(|id| self.endpoint.status(*id));
        addresses.chain(peers.flat_map(|status| status.ike).map(|ike| sas::know(&ike.spis))).collect()
    }

    /// Tells the engine which of the SAs that it goes on with the data plane does not have: only these are made anew.
    fn report_lost(&mut self, restored: &Restored, live: &[(u16, LiveSa)]) {
        let there: BTreeSet<(u8, PeerId, Spi)> = live.iter().map(|(_, sa)| (sa.direction as u8, sa.peer, sa.spi)).collect();
        let inbound: BTreeSet<Spi> =
            live.iter().filter(|(_, sa)| sa.direction == Direction::Inbound).map(|(_, sa)| sa.spi).collect();
        for spi in restored.inbound.iter().filter(|spi| !inbound.contains(spi)) {
            self.endpoint.lost_inbound(now(), *spi);
        }
        // What the peer receives on lanes that we have no workers for, nobody sends.
        let has_worker = |inbound: Spi| esp::worker_of(inbound, LANES_MAX.into()) < usize::from(self.sas.workers());
        let sent = self.endpoint.child_spis().filter(|(_, inbound, _)| has_worker(*inbound));
        let sent: BTreeSet<(PeerId, Spi)> = sent.map(|(peer, _, outbound)| (peer, outbound)).collect();
        for (peer, spi) in restored.outbound.iter().filter(|name| sent.contains(name)) {
            if !there.contains(&(Direction::Outbound as u8, *peer, *spi)) {
                self.endpoint.lost_outbound(now(), *peer, *spi);
            }
        }
    }

    /// Whether an SA of the data plane belongs to an IKE SA.
    pub fn has(&self, sa: &LiveSa) -> bool {
        self.sas.has(sa.peer, sa.direction, sa.spi)
    }

    /// The data plane is another one and has no SAs.
    pub fn data_plane_restarted(&mut self, config: &Config, tables: Tables) {
        let pool = settings::Pool::of(config, tables);
        for (id, place) in &self.places {
            self.endpoint.set_share(now(), *id, settings::share(config, &config.peers[*place], pool));
        }
        self.first = self.sas.clear();
        self.endpoint.data_plane_restarted(now());
        self.tell_known();
    }

    /// Connects to the peers to which we go.
    pub fn start(&mut self) {
        self.endpoint.start(now());
    }

    /// A datagram that came to the gateway's port. The answer leaves from the address that it came to.
    pub fn receive(&mut self, came: &PuntHeader, datagram: &[u8]) {
        let arrival = Arrival { class: came.class, ..self.arrival(came.from, came.to) };
        self.endpoint.handle_message(now(), arrival, datagram);
    }

    /// A datagram that came to the port on which IKE has no marker.
    pub fn receive_port500(&mut self, came: Arrival, datagram: &[u8]) {
        self.endpoint.handle_message(now(), came, datagram);
    }

    /// A message that came in a stream, where it has no marker.
    pub fn receive_in_stream(&mut self, stream: StreamId, message: &[u8]) {
        self.endpoint.handle_message(now(), Hop::Stream(stream), message);
    }

    /// When [`Ike::tick`] is due.
    pub fn due(&self) -> Option<Instant> {
        self.endpoint.poll_timeout()
    }

    /// Does what is due.
    pub fn tick(&mut self) {
        self.endpoint.handle_timeout(now());
    }

    /// Whether the commands taken last remove SAs, with what they have counted.
    pub fn take_going(&mut self) -> bool {
        std::mem::take(&mut self.going)
    }

    /// Tells the engine what has gone through the SAs so far: volumes end them.
    pub fn use_up(&mut self, live: &[(u16, LiveSa)]) {
        let by_name: HashMap<(u8, PeerId, Spi), &LiveSa> =
            live.iter().map(|(_, sa)| ((sa.direction as u8, sa.peer, sa.spi), sa)).collect();
        let mut usage = BTreeMap::new();
        for (id, inbound, outbound) in self.endpoint.child_spis() {
            let of =
                |direction: Direction, spi| by_name.get(&(direction as u8, id, spi)).map_or((0, 0), |sa| (sa.bytes, sa.packets));
            let (inbound_bytes, inbound_packets) = of(Direction::Inbound, inbound);
            let (outbound_bytes, outbound_packets) = of(Direction::Outbound, outbound);
            usage.insert(inbound, Usage { inbound_bytes, inbound_packets, outbound_bytes, outbound_packets });
        }
        // What stands still is no news, and among thousands of peers most do.
        let moved = usage.iter().filter(|(inbound, usage)| self.usage.get(inbound) != Some(usage));
        let moved = moved.map(|(inbound, usage)| (*inbound, *usage)).collect();
        self.endpoint.handle_usage(now(), &moved);
        self.usage = usage;
    }

    /// The first packet has come by an inbound SA: what waits for that does not wait for the next count.
    pub fn first_packet(&mut self, peer: PeerId, spi: Spi) {
        if !self.sas.has(peer, Direction::Inbound, spi) {
            return;
        }
        let known = self.usage.get(&spi).copied().unwrap_or_default();
        let usage = Usage { inbound_packets: known.inbound_packets.max(1), ..known };
        self.endpoint.handle_usage(now(), &BTreeMap::from([(spi, usage)]));
    }

    /// Carries out what a person commands.
    ///
    /// # Errors
    /// There is nothing that it could be carried out on.
    pub fn command(&mut self, peer: PeerId, command: PeerCommand) -> Result<(), CommandError> {
        match command {
            PeerCommand::Connect => self.endpoint.connect(now(), peer),
            PeerCommand::Disconnect => self.endpoint.disconnect(now(), peer),
            PeerCommand::Rekey => self.endpoint.rekey(now(), peer),
            PeerCommand::RekeyIke => self.endpoint.rekey_ike(now(), peer),
        }
    }

    /// Closes the connections to all peers because we go. The next run connects them again.
    pub fn close_all(&mut self) {
        self.endpoint.close_all(now());
    }

    /// The name of a peer.
    pub fn name(&self, peer: PeerId) -> Option<&str> {
        self.names.get(&peer).map(String::as_str)
    }

    /// How many SAs in each direction the configuration wants of a peer, at most.
    pub fn sas_wanted(&self, peer: PeerId) -> u32 {
        self.sas.wanted(peer)
    }

    /// Whether a peer is still to be told that its connection is closed.
    pub fn has_last_words(&self) -> bool {
        self.endpoint.has_last_words()
    }

    /// Whether nothing is left of any connection.
    pub fn is_quiet(&self) -> bool {
        !self.has_last_words()
            && self.places.keys().all(|peer| self.endpoint.status(*peer).is_none_or(|status| status.ike.is_empty()))
    }

    /// Why the last negotiation with a peer came to nothing.
    pub fn explain(&self, peer: PeerId) -> Option<Explanation> {
        let (now, status, paths) = (now().instant, self.endpoint.status(peer), self.endpoint.paths(peer));
        let explanation = self.endpoint.explain(peer, now)?;
        Some(report::explanation(&explanation, status.as_ref(), &paths, now))
    }

    /// Half of the sequence numbers of an outbound SA are used.
    pub fn sequence_soft_limit(&mut self, peer: PeerId) {
        // Not connected: then it goes anyhow.
        let _ = self.endpoint.rekey(now(), peer);
    }

    /// The data plane refused a command of ours.
    pub fn refused(&mut self, command: &Command) {
        match command {
            Command::InboundSaInstall(sa) => {
                self.sas.refused(sa.peer, Direction::Inbound, sa.spi);
                self.endpoint.close_child(now(), sa.spi);
            }
            Command::OutboundSaInstall(sa) => {
                self.sas.refused(sa.peer, Direction::Outbound, sa.spi);
                self.endpoint.lost_outbound(now(), sa.peer, sa.spi);
            }
            // Without all of its selectors, or at all, it is none.
            Command::ChildSelectorAdd { peer, child, .. } | Command::ChildSet { peer, child, .. } => {
                for spi in self.sas.inbound_of(*peer, *child) {
                    self.endpoint.close_child(now(), spi);
                }
            }
            _ => {}
        }
    }

    /// Whether the SAs of a peer are agreed on with it.
    pub fn negotiates(&self, peer: PeerId) -> bool {
        self.places.contains_key(&peer)
    }

    /// Tells the data plane again all that it should have of a peer, but for SAs; false where there is no such peer any more.
    pub fn tell_again(&mut self, peer: PeerId) -> bool {
        let commands = self.sas.again(peer);
        let is_there = !commands.is_empty();
        self.first.extend(commands);
        is_there
    }

    /// Tells the data plane again whose messages come up first.
    pub fn tell_known_again(&mut self) {
        self.first.extend(self.known());
    }

    /// What every worker was told to have.
    pub fn reported(&self) -> Sizes {
        self.sas.reported()
    }

    /// Takes what the engine wants: commands for the data plane, each with its worker. The datagrams behind them wait.
    pub fn commands(&mut self) -> Vec<(u16, Command)> {
        let mut commands = std::mem::take(&mut self.first);
        while let Some(event) = self.endpoint.poll_event() {
            self.going |= match &event {
                Event::InstallOutbound(keys) => keys.replaces.is_some(),
                Event::RemoveInbound { .. } | Event::RemoveOutbound { .. } => true,
                _ => false,
            };
            if let Event::IkeUp { .. } = event {
                self.expiry.changed();
            }
            commands.extend(self.sas.apply(&event));
            self.news.push(event);
        }
        while let Some(transmit) = self.endpoint.poll_transmit() {
            let queue = if transmit.after == After::Barrier { &mut self.waiting } else { &mut self.ready };
            if queue.len() < IKE_WAITING_MAX {
                queue.push_back(transmit);
            }
        }
        self.saved &= !self.endpoint.take_changed();
        commands
    }

    /// What has happened since this was last asked, for the log.
    pub fn news(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.news)
    }

    /// Whether the vault must be written before the next datagram is sent.
    pub fn unsaved(&mut self) -> bool {
        !std::mem::replace(&mut self.saved, true)
    }

    /// What the vault must hold, in so many bytes at most, and the names of the peers for which there is no room.
    pub fn snapshot(&mut self, most: usize) -> (Zeroizing<Vec<u8>>, Vec<String>) {
        let (bytes, left_out) = self.endpoint.snapshot_within(boot_clock(), most);
        (bytes, left_out.iter().filter_map(|id| self.names.get(id).cloned()).collect())
    }

    /// What must be put behind the snapshot that the vault holds.
    pub fn changes(&mut self) -> Option<Zeroizing<Vec<u8>>> {
        self.endpoint.changes()
    }

    /// The next datagram that may be sent: `settled` says whether the data plane has applied all commands.
    pub fn transmit(&mut self, settled: bool) -> Option<Transmit> {
        self.ready.pop_front().or_else(|| self.waiting.pop_front_if(|_| settled))
    }

    /// A datagram that could not be sent now.
    pub fn keep(&mut self, transmit: Transmit) {
        let queue = if transmit.after == After::Barrier { &mut self.waiting } else { &mut self.ready };
        queue.push_front(transmit);
    }

    /// Whether datagrams wait.
    pub fn waits(&self) -> bool {
        !(self.ready.is_empty() && self.waiting.is_empty())
    }

    /// Lines for the log about certificates that end soon; to be asked for now and then.
    pub fn expiring(&mut self, config: &Config) -> Vec<String> {
        let unix = now().unix;
        if !self.expiry.is_due(unix) {
            return Vec::new();
        }
        let own = self.own_key.iter().flat_map(|key| key.chain()).map(|certificate| Ending {
            whose: format!("our certificate {}", certificate.subject()),
            until: certificate.not_after(),
            is_ours: true,
        });
        let of_peer = |(id, place): (&PeerId, &usize)| {
            let until = self.endpoint.status(*id)?.ike.first()?.peer_certificate_until?;
            Some(Ending {
                whose: format!("the certificate of the peer {}", config.peers.get(*place)?.name),
                until,
                is_ours: false,
            })
        };
        let all = own.chain(self.places.iter().filter_map(of_peer)).collect();
        self.expiry.lines(unix, all)
    }

    /// What there is, for people and programs.
    pub fn report(&self) -> Report {
        report::of(&self.endpoint, &self.ids, &self.places, now().instant)
    }
}

/// What we prove ourselves with, where that is a key.
fn own_key(config: &Config) -> Option<Arc<LocalKey>> {
    config.ike.key.as_ref().map(|own| own.key.value.clone())
}

/// What the data plane is told of a peer, by its place in the configuration.
fn terms_of(config: &Config, place: usize) -> PeerTerms {
    let peer = &config.peers[place];
    let pins = config.forwarding.pinned.iter().filter(|(_, pinned)| *pinned == place).map(|(mac, _)| *mac).collect();
    let (tag, selectors) = (static_key::tag(&peer.name), peer.selectors.clone());
    let static_lanes = peer.ike().is_none().then(|| static_key::outbound_lanes(config, place));
    PeerTerms { tag, defer_checksums: peer.defer_checksums, selectors, pins, lanes: peer.lanes, static_lanes }
}

fn now() -> Now {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    Now { instant: Instant::now(), unix }
}

/// The clock behind [`Instant`], as it reads in every process since the machine was started.
fn boot_clock() -> BootClock {
    let time = clock_gettime(ClockId::Monotonic);
    let ms = u64::try_from(time.tv_sec).unwrap_or(0) * 1000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000;
    BootClock::new(Instant::now(), ms)
}

#[cfg(test)]
mod tests;
