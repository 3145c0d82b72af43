//! From what a data plane has to what it should have. Pure: configuration, live SAs and installed state in, commands out.
//!
//! An SA that is live and still wanted is left alone, so that its sequence number goes on and no packet is lost. The
//! control plane remembers in the vault of the channel what it installed beside SAs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use adit_channel::LiveSa;
use adit_proto::control::{Command, Direction, Hop, Mac, PathId, PeerId, PeerTag, Selector, Spi, UdpHop};
use adit_proto::ike::{AddressRange, PortRange};
use serde::{Deserialize, Serialize};

use crate::config::{Config, Route};
use crate::numbers::{Archive, Peers, SaName};
use crate::static_key::KeyId;
use crate::wanted::{self, WantedSa, tag};

const VERSION: u32 = 2;

/// What a control plane leaves in the vault for its successor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstalledState {
    version: u32,
    /// The command line of the data plane, flag and value.
    pub arguments: Vec<(String, String)>,
    peers: Vec<MemoryPeer>,
    pins: Vec<Mac>,
    /// Addresses and routes given to the interface, as text.
    pub addresses: Vec<String>,
    pub routes: Vec<(String, Option<String>)>,
    /// The bridge that the interface was put into.
    #[serde(default)]
    pub bridge: Option<String>,
    /// The key of every SA. Of one whose peer left the configuration, nobody else can say under which key its numbers count.
    #[serde(default)]
    keys: Vec<MemoryKey>,
    /// The totals of data planes that died, so that counters do not go back when the control plane is restarted after that.
    pub archive: Option<Archive>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct MemoryPeer {
    id: u16,
    name: String,
    defer_checksums: bool,
    #[serde(default)]
    selectors: Vec<MemorySelector>,
}

/// Local and remote addresses, protocol, local and remote ports of a selector.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct MemorySelector([(IpAddr, IpAddr); 2], u8, [(u16, u16); 2]);

impl From<&Selector> for MemorySelector {
    fn from(selector: &Selector) -> MemorySelector {
        let ends = |range: AddressRange| (range.first(), range.last());
        let ports = |range: PortRange| (range.first, range.last);
        MemorySelector(
            [ends(selector.local), ends(selector.remote)],
            selector.protocol,
            [ports(selector.local_ports), ports(selector.remote_ports)],
        )
    }
}

impl MemorySelector {
    fn selector(&self) -> Option<Selector> {
        let MemorySelector([local, remote], protocol, [local_ports, remote_ports]) = self;
        let range = |ends: &(IpAddr, IpAddr)| match *ends {
            (IpAddr::V4(first), IpAddr::V4(last)) => Some(AddressRange::V4 { first, last }),
            (IpAddr::V6(first), IpAddr::V6(last)) => Some(AddressRange::V6 { first, last }),
            _ => None,
        };
        let ports = |&(first, last): &(u16, u16)| PortRange { first, last };
        let (local, remote) = (range(local)?, range(remote)?);
        let (local_ports, remote_ports) = (ports(local_ports), ports(remote_ports));
        Some(Selector { local, remote, protocol: *protocol, local_ports, remote_ports }).filter(Selector::is_valid)
    }
}

/// Direction, tag of the peer, SPI and key of an SA.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct MemoryKey(u8, u64, u32, KeyId);

impl InstalledState {
    /// What a gateway with this configuration will have installed.
    pub fn of(config: &Config, wanted: &[WantedSa], arguments: Vec<(String, String)>, ids: &[PeerId]) -> InstalledState {
        let peers = config.peers.iter().zip(ids);
        let routes = config.routes();
        let keys = wanted.iter().map(|want| MemoryKey(want.direction as u8, want.tag.0, want.spi.0, want.key_id));
        InstalledState {
            version: VERSION,
            arguments,
            peers: peers
                .map(|(peer, id)| MemoryPeer {
                    id: id.0,
                    name: peer.name.clone(),
                    defer_checksums: peer.defer_checksums,
                    selectors: peer.selectors.iter().map(MemorySelector::from).collect(),
                })
                .collect(),
            pins: config.forwarding.pinned.iter().map(|(mac, _)| *mac).collect(),
            addresses: config.interface.addresses.iter().map(ToString::to_string).collect(),
            routes: routes.iter().map(|route| (route.to.to_string(), route.via.map(|via| via.to_string()))).collect(),
            bridge: config.interface.bridge.clone(),
            keys: keys.collect(),
            archive: None,
        }
    }

    /// All that may be there on the way from `old` to this: both. Whoever comes after a death on that way still finds what is
    /// stale, and nothing that only one of the two knew passes for right.
    pub fn on_the_way_from(mut self, old: &InstalledState) -> InstalledState {
        fn join<T: Clone + Ord>(new: &mut Vec<T>, old: &[T]) {
            let known: BTreeSet<T> = new.iter().cloned().collect();
            new.extend(old.iter().filter(|one| !known.contains(*one)).cloned());
        }
        join(&mut self.peers, &old.peers);
        join(&mut self.pins, &old.pins);
        join(&mut self.addresses, &old.addresses);
        join(&mut self.routes, &old.routes);
        join(&mut self.keys, &old.keys);
        self.bridge = self.bridge.or_else(|| old.bridge.clone());
        self
    }

    /// Every SA that was installed, with its key.
    pub fn keys(&self) -> impl Iterator<Item = (SaName, KeyId)> + '_ {
        let named = |MemoryKey(direction, peer, spi, id): &MemoryKey| {
            let direction = Direction::from_code(*direction).ok()?;
            Some((SaName::new(direction, PeerTag(*peer), Spi(*spi)), *id))
        };
        self.keys.iter().filter_map(named)
    }

    /// Every peer that had an id. On the way from one configuration to another, two may have had the same.
    pub fn peers(&self) -> impl Iterator<Item = (PeerId, PeerTag)> + '_ {
        self.peers.iter().map(|peer| (PeerId(peer.id), tag(&peer.name)))
    }

    /// What a predecessor left; nothing when it left nothing that can be read.
    pub fn from_vault(bytes: &[u8]) -> Option<InstalledState> {
        serde_json::from_slice::<InstalledState>(bytes).ok().filter(|installed| installed.version == VERSION)
    }

    /// The bytes for the vault.
    pub fn to_vault(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a structure of strings and numbers can always be written as JSON")
    }

    /// Addresses that the interface got from an earlier configuration and should not have any more.
    pub fn stale_addresses(&self, config: &Config) -> Vec<ipnet::IpNet> {
        let parsed = self.addresses.iter().filter_map(|address| address.parse().ok());
        parsed.filter(|address| !config.interface.addresses.contains(address)).collect()
    }

    /// Routes from an earlier configuration that should not be there any more.
    pub fn stale_routes(&self, config: &Config) -> Vec<Route> {
        let parsed = self.routes.iter().filter_map(|(to, via)| {
            let via = via.as_ref().map(|via| via.parse()).transpose().ok()?;
            Some(Route { to: to.parse().ok()?, via, mtu: None })
        });
        let wanted = config.routes();
        parsed.filter(|route| !wanted.iter().any(|kept| (kept.to, kept.via) == (route.to, route.via))).collect()
    }
}

/// What has to be done.
#[derive(Debug, Default)]
pub struct Changes {
    /// Who has which id, those among them that have to go.
    pub peers: Peers,
    /// Removals, then peers, each with the worker that it is for. In this order.
    pub before: Vec<(u16, Command)>,
    /// Places in the list of wanted SAs that have to be installed.
    pub install: Vec<usize>,
    /// Live SAs that stay, with their places in the list of wanted SAs.
    pub keep: Vec<(usize, LiveSa)>,
    /// Pinned addresses, after the peers that they belong to.
    pub pins: Vec<(u16, Command)>,
}

/// What is known about a data plane, by name: with thousands of SAs, nothing may be looked for in a list for each of them.
struct Known<'a> {
    /// Whose the inbound SAs are. The SPI of an outbound one tells nothing: it is the peer's choice.
    inbound: BTreeMap<Spi, PeerId>,
    remembered: BTreeMap<&'a str, Vec<&'a MemoryPeer>>,
}

impl<'a> Known<'a> {
    fn new(live: &[(u16, LiveSa)], installed: &'a InstalledState) -> Known<'a> {
        let mut remembered: BTreeMap<&str, Vec<&MemoryPeer>> = BTreeMap::new();
        for peer in &installed.peers {
            remembered.entry(&peer.name).or_default().push(peer);
        }
        let inbound = live.iter().filter(|(_, sa)| sa.direction == Direction::Inbound).map(|(_, sa)| (sa.spi, sa.peer));
        Known { inbound: inbound.collect(), remembered }
    }

    fn remembered(&self, peer: &str) -> &[&'a MemoryPeer] {
        self.remembered.get(peer).map_or(&[], Vec::as_slice)
    }
}

/// Compares what is wanted with what is there.
///
/// `ids` are those of the peers of the configuration; SAs that `owned` knows are somebody else's business, and stay.
pub fn changes(
    config: &Config,
    wanted: &[WantedSa],
    live: &[(u16, LiveSa)],
    installed: &InstalledState,
    ids: &[PeerId],
    owned: impl Fn(&LiveSa) -> bool,
) -> Changes {
    let workers = 0..config.dataplane.workers;
    let known = Known::new(live, installed);
    let mut changes = Changes { peers: installed.peers().collect(), ..Changes::default() };
    changes.peers.extend(ids.iter().zip(&config.peers).map(|(id, peer)| (*id, tag(&peer.name))));
    let every = |command: Command| workers.clone().map(move |worker| (worker, command.clone()));

    let named = |want: &WantedSa| (want.direction as u8, want.spi, ids[want.peer]);
    let places: BTreeMap<(u8, Spi, PeerId), usize> =
        wanted.iter().enumerate().map(|(place, want)| (named(want), place)).collect();
    let mut kept = BTreeSet::new();
    for (worker, sa) in live.iter().filter(|(_, sa)| !owned(sa)) {
        let place = places.get(&(sa.direction as u8, sa.spi, sa.peer)).copied();
        let place = place.filter(|place| fits(config, &wanted[*place], *worker, sa, &known));
        match place.filter(|place| kept.insert(*place)) {
            Some(place) => changes.keep.push((place, *sa)),
            None => changes.before.push((*worker, Command::SaRemove { peer: sa.peer, spi: sa.spi, direction: sa.direction })),
        }
    }
    changes.install = (0..wanted.len()).filter(|place| !kept.contains(place)).collect();

    let known_ids: BTreeSet<PeerId> = ids.iter().copied().collect();
    let old: BTreeSet<PeerId> =
        installed.peers.iter().map(|peer| PeerId(peer.id)).chain(live.iter().map(|(_, sa)| sa.peer)).collect();
    for peer in old.difference(&known_ids) {
        changes.before.extend(every(Command::PeerRemove { peer: *peer }));
    }
    let wanted_pins: BTreeSet<Mac> = config.forwarding.pinned.iter().map(|(mac, _)| *mac).collect();
    for mac in installed.pins.iter().filter(|mac| !wanted_pins.contains(*mac)) {
        changes.before.extend(every(Command::FdbUnpin { mac: *mac }));
    }
    for (index, peer) in config.peers.iter().enumerate() {
        // Where a peer of IKE is, its messages say.
        let Some(endpoint) = peer.endpoint.filter(|_| peer.secret().is_some()) else { continue };
        changes.before.extend(every(Command::PeerSet {
            peer: ids[index],
            tag: tag(&peer.name),
            lanes: wanted::outbound_lanes(config, index),
            echo: false,
        }));
        let (peer_id, path, hop) = (ids[index], PathId::FIRST, Hop::Udp(UdpHop::to(endpoint)));
        changes.before.extend(every(Command::PathSet { peer: peer_id, path, hop, mtu: config.underlay_mtu }));
        changes.before.extend(every(Command::PathUse { peer: peer_id, path }));
        // The new ones first, so that no packet that is in both is without a peer in between.
        for selector in &peer.selectors {
            changes.before.extend(every(Command::SelectorAdd { peer: ids[index], selector: *selector }));
        }
        let known = known.remembered(&peer.name).iter().filter(|old| PeerId(old.id) == ids[index]);
        let known: BTreeSet<&MemorySelector> = known.flat_map(|old| &old.selectors).collect();
        let stale = known.into_iter().filter_map(MemorySelector::selector).filter(|old| !peer.selectors.contains(old));
        for selector in stale {
            changes.before.extend(every(Command::SelectorRemove { peer: ids[index], selector }));
        }
    }
    // A peer of IKE is not there before it is connected; its addresses are pinned then.
    for (mac, peer) in config.forwarding.pinned.iter().filter(|(_, peer)| config.peers[*peer].secret().is_some()) {
        changes.pins.extend(every(Command::FdbPin { mac: *mac, peer: ids[*peer] }));
    }
    changes
}

/// Whether a live SA is the wanted one in everything that cannot be changed while it lives. The SPI, by which it was found,
/// stands for the key: it is derived from the same secret.
fn fits(config: &Config, want: &WantedSa, worker: u16, sa: &LiveSa, known: &Known<'_>) -> bool {
    let peer = &config.peers[want.peer];
    let same = want.worker == worker && peer.secret().is_some_and(|secret| secret.suite() == sa.suite);
    same && match sa.direction {
        Direction::Inbound => sa.window == config.dataplane.replay_window,
        Direction::Outbound => known.remembered(&peer.name).iter().all(|old| old.defer_checksums == peer.defer_checksums),
    }
}

/// A peer keeps the id under which it is known; a new one gets the lowest that is free.
pub fn peer_ids(config: &Config, wanted: &[WantedSa], live: &[(u16, LiveSa)], installed: &InstalledState) -> Vec<PeerId> {
    let known = Known::new(live, installed);
    let mut by_sa: BTreeMap<usize, PeerId> = BTreeMap::new();
    for want in wanted.iter().filter(|want| want.direction == Direction::Inbound) {
        if let Some(id) = known.inbound.get(&want.spi) {
            by_sa.entry(want.peer).or_insert(*id);
        }
    }
    let mut taken: BTreeMap<PeerId, usize> = BTreeMap::new();
    for (index, peer) in config.peers.iter().enumerate() {
        let remembered = known.remembered(&peer.name).first().map(|old| PeerId(old.id));
        if let Some(id) = remembered.or(by_sa.get(&index).copied()).filter(|id| id.0 < config.max_peers()) {
            taken.entry(id).or_insert(index);
        }
    }
    let mut ids: Vec<Option<PeerId>> = vec![None; config.peers.len()];
    taken.iter().for_each(|(id, index)| ids[*index] = Some(*id));
    let mut free = (0..=u16::MAX).map(PeerId).filter(|id| !taken.contains_key(id));
    ids.into_iter().map(|id| id.or_else(|| free.next()).expect("there are 65536 ids and at most 1024 peers")).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::{Duration, Instant};

    use adit_proto::suite::Suite;

    use super::*;
    use crate::config::{Machine, Peer};
    use crate::static_key::{SECRET_LEN, Secret};
    use crate::wanted::sas;

    /// A gateway with two workers and peers with these names, each with two lanes.
    fn config(peers: &[&str], extra: &str) -> Config {
        let dir = tempfile::tempdir().unwrap();
        let mut list = String::new();
        for (index, name) in peers.iter().enumerate() {
            let key = dir.path().join(format!("{name}.key"));
            let seed = name.as_bytes()[name.len() - 1];
            Secret::from_bytes(Suite::Aes128Gcm, [seed; SECRET_LEN]).create_file(&key).unwrap();
            let host = index + 2;
            list +=
                &format!("  - {{ name: {name}, endpoint: \"192.0.2.{host}:4500\", static_key_file: {name}.key, lanes: 2 }}\n");
        }
        let yaml = format!(
            "name: a\nlisten: 0.0.0.0:4500\ninterface: {{ name: adit0 }}\npeers:\n{list}{extra}\n{}",
            if extra.contains("dataplane") { "" } else { "dataplane: { workers: 2 }\n" }
        );
        Config::from_yaml(&yaml, dir.path(), &Machine { cores: vec![0, 1] }).unwrap()
    }

    /// What a data plane has after everything wanted was installed.
    fn live_of(config: &Config, ids: &[PeerId]) -> Vec<(u16, LiveSa)> {
        installed_as(config, &sas(config), ids)
    }

    fn installed_as(config: &Config, wanted: &[WantedSa], ids: &[PeerId]) -> Vec<(u16, LiveSa)> {
        let live = |want: &WantedSa| LiveSa {
            spi: want.spi,
            direction: want.direction,
            peer: ids[want.peer],
            suite: Suite::Aes128Gcm,
            window: if want.direction == Direction::Inbound { config.dataplane.replay_window } else { 0 },
            seq: 77,
            seq_limit: 100,
            packets: 1,
            bytes: 60,
        };
        wanted.iter().map(|want| (want.worker, live(want))).collect()
    }

    fn installed_state(config: &Config, ids: &[PeerId]) -> InstalledState {
        InstalledState::from_vault(&InstalledState::of(config, &sas(config), Vec::new(), ids).to_vault()).unwrap()
    }

    /// The changes, and the ids that the peers get.
    struct Judged {
        ids: Vec<PeerId>,
        changes: Changes,
    }

    impl std::ops::Deref for Judged {
        type Target = Changes;

        fn deref(&self) -> &Changes {
            &self.changes
        }
    }

    fn judge(config: &Config, wanted: &[WantedSa], live: &[(u16, LiveSa)], installed: &InstalledState) -> Judged {
        let ids = peer_ids(config, wanted, live, installed);
        let changes = changes(config, wanted, live, installed, &ids, |_| false);
        Judged { ids, changes }
    }

    fn count(changes: &Changes, test: fn(&Command) -> bool) -> usize {
        changes.before.iter().filter(|(_, command)| test(command)).count()
    }

    /// Whether it says that a peer is there and how it is reached, which is said every time.
    fn is_about_the_peer(command: &Command) -> bool {
        matches!(command, Command::PeerSet { .. } | Command::PathSet { .. } | Command::PathUse { .. })
    }

    #[test]
    fn an_empty_data_plane_gets_everything() {
        let config = config(&["b", "c"], "forwarding: { static: [{ mac: \"02:00:00:00:00:0c\", peer: c }] }");
        let wanted = sas(&config);
        assert_eq!(wanted.len(), 8, "two peers, two lanes, two directions");
        assert!(wanted.iter().all(|want| u16::from(want.lane) % 2 == want.worker));
        let changes = judge(&config, &wanted, &[], &InstalledState::default());
        assert_eq!(changes.ids, [PeerId(0), PeerId(1)]);
        assert_eq!(changes.install, (0..8).collect::<Vec<_>>());
        assert_eq!(count(&changes, |command| matches!(command, Command::PeerSet { lanes: 2, .. })), 4);
        assert_eq!(count(&changes, is_about_the_peer), 12, "each is set, gets a path and goes by it, on two workers");
        assert_eq!(changes.before.len(), 12);
        let pin = Command::FdbPin { mac: [2, 0, 0, 0, 0, 0x0c], peer: PeerId(1) };
        assert_eq!(changes.pins, [(0, pin.clone()), (1, pin)]);
    }

    #[test]
    fn what_is_there_is_left_alone() {
        let config = config(&["b", "c"], "");
        let ids = [PeerId(0), PeerId(1)];
        for installed in [installed_state(&config, &ids), InstalledState::default()] {
            let changes = judge(&config, &sas(&config), &live_of(&config, &ids), &installed);
            assert!(changes.install.is_empty());
            assert_eq!(changes.keep.len(), 8);
            assert_eq!(count(&changes, |command| !is_about_the_peer(command)), 0);
        }
    }

    #[test]
    fn peers_keep_their_ids_in_a_reordered_file_and_new_ones_get_free_ones() {
        let before = config(&["b", "c"], "");
        let ids = [PeerId(0), PeerId(1)];
        let after = config(&["d", "c"], "");
        let changes = judge(&after, &sas(&after), &live_of(&before, &ids), &installed_state(&before, &ids));
        assert_eq!(changes.ids, [PeerId(0), PeerId(1)], "c stays 1, d takes what b had");
        assert_eq!(changes.keep.len(), 4);
        assert_eq!(changes.install.len(), 4);
        assert_eq!(count(&changes, |command| matches!(command, Command::SaRemove { .. })), 4);
        let sets_first =
            |command: &Command| matches!(command, Command::PeerSet { peer: PeerId(0), tag: found, .. } if *found == tag("d"));
        assert_eq!(count(&changes, sets_first), 2, "each worker is told that id 0 is d and not b any more");
        assert_ne!(tag("d"), tag("b"));
        let reordered = config(&["c", "b"], "");
        let changes = judge(&reordered, &sas(&reordered), &live_of(&before, &ids), &installed_state(&before, &ids));
        assert_eq!(changes.ids, [PeerId(1), PeerId(0)]);
        assert!(changes.install.is_empty());
    }

    #[test]
    fn a_peer_that_is_gone_is_removed_with_its_sas_and_pins() {
        let before = config(&["b", "c"], "forwarding: { static: [{ mac: \"02:00:00:00:00:0c\", peer: c }] }");
        let ids = [PeerId(0), PeerId(1)];
        let after = config(&["b"], "");
        for installed in [installed_state(&before, &ids), InstalledState::default()] {
            let changes = judge(&after, &sas(&after), &live_of(&before, &ids), &installed);
            assert_eq!(count(&changes, |command| *command == Command::PeerRemove { peer: PeerId(1) }), 2);
            assert_eq!(count(&changes, |command| matches!(command, Command::SaRemove { .. })), 4);
            let unpinned = count(&changes, |command| matches!(command, Command::FdbUnpin { .. }));
            assert_eq!(unpinned, if installed == InstalledState::default() { 0 } else { 2 });
        }
    }

    #[test]
    fn an_sa_is_renewed_when_what_cannot_change_has_changed() {
        let before = config(&["b"], "");
        let ids = [PeerId(0)];
        let window = config(&["b"], "dataplane: { workers: 2, replay_window: 64 }");
        let changes = judge(&window, &sas(&window), &live_of(&before, &ids), &installed_state(&before, &ids));
        assert_eq!((changes.install.len(), changes.keep.len()), (2, 2), "the inbound ones");
        let mut live = live_of(&before, &ids);
        live[0].1.spi = Spi(0x4fff_ff00);
        let foreign = judge(&before, &sas(&before), &live, &installed_state(&before, &ids));
        assert_eq!((foreign.install.len(), foreign.keep.len()), (1, 3));
        assert_eq!(foreign.before[0].1, Command::SaRemove { peer: ids[0], spi: Spi(0x4fff_ff00), direction: Direction::Inbound });
    }

    #[test]
    fn both_ends_of_a_pair_want_matching_sas() {
        let secret = [9; SECRET_LEN];
        let dir = tempfile::tempdir().unwrap();
        Secret::from_bytes(Suite::ChaCha20Poly1305, secret).create_file(&dir.path().join("pair.key")).unwrap();
        let end = |own: &str, other: &str, host: u8| {
            let yaml = format!(
                "name: {own}\nlisten: 0.0.0.0:4500\ninterface: {{ name: adit0 }}\npeers:\n  \
                 - {{ name: {other}, endpoint: \"192.0.2.{host}:4500\", static_key_file: pair.key, lanes: 2 }}\n"
            );
            Config::from_yaml(&yaml, Path::new(dir.path()), &Machine { cores: vec![0, 1] }).unwrap()
        };
        let (a, b) = (end("a", "b", 2), end("b", "a", 1));
        let (at_a, at_b) = (sas(&a), sas(&b));
        for sender in at_a.iter().filter(|want| want.direction == Direction::Outbound) {
            let receiver = at_b.iter().find(|want| want.direction == Direction::Inbound && want.spi == sender.spi).unwrap();
            let grant = crate::sequence::Grant { next: 1, end: 9, clock_behind_ns: 0 };
            assert!(sender.outbound(&a, PeerId(0), grant).key == receiver.inbound(&b, PeerId(0), 0).key);
            assert_eq!(sender.key_id, receiver.key_id);
        }
    }

    #[test]
    fn on_the_way_from_one_configuration_to_another_the_memory_is_of_both() {
        let before = config(&["b", "c"], "forwarding: { static: [{ mac: \"02:00:00:00:00:0c\", peer: c }] }");
        let mut after = config(&["b"], "");
        after.peers[0].defer_checksums = false;
        let ids = [PeerId(0), PeerId(1)];
        let way = installed_state(&after, &ids[..1]).on_the_way_from(&installed_state(&before, &ids));
        // Whether all of it, or nothing, was done by then: the next one finds the same.
        let changes = judge(&after, &sas(&after), &live_of(&before, &ids), &way);
        assert_eq!(count(&changes, |command| *command == Command::PeerRemove { peer: PeerId(1) }), 2);
        assert_eq!(count(&changes, |command| matches!(command, Command::FdbUnpin { .. })), 2);
        assert_eq!((changes.keep.len(), changes.install.len()), (2, 2), "outbound SAs that may have the old setting are renewed");
        assert_eq!(way.keys().count(), 8, "the keys of all SAs that may be there");
        assert_eq!(
            installed_state(&after, &ids[..1]).on_the_way_from(&InstalledState::default()),
            installed_state(&after, &ids[..1])
        );
    }

    #[test]
    fn two_peers_may_choose_the_same_spi() {
        let config = config(&["b", "c"], "");
        let mut wanted = sas(&config);
        let outbound: Vec<usize> = (0..wanted.len()).filter(|place| wanted[*place].direction == Direction::Outbound).collect();
        let (b, c) = outbound.split_at(outbound.len() / 2);
        b.iter().zip(c).for_each(|(b, c)| wanted[*c].spi = wanted[*b].spi);
        assert_eq!(wanted.iter().map(WantedSa::name).collect::<BTreeSet<_>>().len(), wanted.len());
        // The ids are not those of a fresh data plane.
        let ids = [PeerId(7), PeerId(3)];
        let live = installed_as(&config, &wanted, &ids);
        let installed = InstalledState::of(&config, &wanted, Vec::new(), &ids);
        assert_eq!(installed.keys().collect::<BTreeMap<_, _>>().len(), wanted.len(), "every SA has its key");
        for installed in [installed, InstalledState::default()] {
            let changes = judge(&config, &wanted, &live, &installed);
            assert_eq!((changes.ids.clone(), changes.keep.len(), changes.install.len()), (ids.to_vec(), 8, 0));
        }
    }

    #[test]
    fn thousands_of_sas_are_adopted_at_once() {
        let names: Vec<String> = (0..1000).map(|number| format!("peer-{number}")).collect();
        let mut config = config(&["b"], "");
        let template = config.peers[0].clone();
        config.peers = names.iter().map(|name| Peer { name: name.clone(), lanes: 8, ..template.clone() }).collect();
        let ids: Vec<PeerId> = (0..1000).map(PeerId).collect();
        let (wanted, live, installed) = (sas(&config), live_of(&config, &ids), installed_state(&config, &ids));
        let began = Instant::now();
        let changes = judge(&config, &wanted, &live, &installed);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        // Of a thousand flows with 22 bits each, some may have the same SPIs.
        assert!(changes.keep.len() > 9_900, "{} of {} SAs are kept", changes.keep.len(), live.len());
    }

    #[test]
    fn selectors_that_changed_are_added_before_the_old_ones_go() {
        let with = |remotes: &[[u8; 4]]| {
            let mut config = config(&["b"], "");
            let host = |address: [u8; 4]| AddressRange::host(IpAddr::from(address));
            config.peers[0].selectors =
                remotes.iter().map(|remote| Selector::any_of(AddressRange::ANY_V4, host(*remote))).collect();
            config
        };
        let (before, after) = (with(&[[10, 0, 0, 1], [10, 0, 0, 2]]), with(&[[10, 0, 0, 2], [10, 0, 0, 3]]));
        let ids = [PeerId(0)];
        let selectors = |installed: &InstalledState| {
            let changes = judge(&after, &sas(&after), &live_of(&after, &ids), installed);
            let of_first = changes.changes.before.into_iter().filter(|(worker, _)| *worker == 0);
            of_first.map(|(_, command)| command).filter(|command| !is_about_the_peer(command)).collect::<Vec<_>>()
        };
        let (peer, new) = (PeerId(0), &after.peers[0].selectors);
        let add = |selector| Command::SelectorAdd { peer, selector };
        let remove = Command::SelectorRemove { peer, selector: before.peers[0].selectors[0] };
        assert_eq!(selectors(&installed_state(&before, &ids)), [add(new[0]), add(new[1]), remove.clone()]);
        assert_eq!(selectors(&installed_state(&after, &ids)), [add(new[0]), add(new[1])], "what is there may be added again");
        // After a death on the way, both may be there.
        let way = installed_state(&after, &ids).on_the_way_from(&installed_state(&before, &ids));
        assert_eq!(selectors(&way), [add(new[0]), add(new[1]), remove]);
        // Another peer that takes over the id begins without any: the data plane forgets those of the one before.
        let mut other = installed_state(&before, &ids);
        other.peers[0].name = "z".into();
        assert_eq!(selectors(&other), [add(new[0]), add(new[1])]);
    }

    #[test]
    fn a_foreign_vault_is_no_installed_state() {
        for bytes in [&b""[..], b"\0\0\0", b"{}", b"{\"version\": 1}"] {
            assert_eq!(InstalledState::from_vault(bytes), None);
        }
    }

    #[test]
    fn stale_addresses_and_routes_are_those_of_before_that_are_not_wanted_now() {
        let before = config(&["b"], "");
        let mut old = before.clone();
        old.interface.addresses = vec!["10.1.0.1/24".parse().unwrap(), "10.2.0.1/24".parse().unwrap()];
        old.interface.routes =
            vec![Route { to: "10.9.0.0/16".parse().unwrap(), via: Some("10.1.0.2".parse().unwrap()), mtu: None }];
        let mut new = before;
        new.interface.addresses = vec!["10.1.0.1/24".parse().unwrap()];
        let installed = installed_state(&old, &[PeerId(0)]);
        assert_eq!(installed.stale_addresses(&new), ["10.2.0.1/24".parse().unwrap()]);
        assert_eq!(installed.stale_routes(&new), old.interface.routes);
        assert!(installed.stale_routes(&old).is_empty());
    }
}
