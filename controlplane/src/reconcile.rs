//! From what a data plane has to what it should have. Pure: configuration, live SAs and installed state in, commands out.
//!
//! An SA that is live and still wanted is left alone, so that its sequence number goes on and no packet is lost. The
//! control plane remembers in the vault of the channel what it installed beside SAs.

pub mod interface;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use adit_channel::LiveSa;
use adit_proto::control::{Command, Direction, Mac, Mode, PeerId, PeerTag, Selector, Spi};
use adit_proto::ike::{AddressRange, PortRange};
use serde::{Deserialize, Serialize};

use crate::archive::Archive;
use crate::config::{Config, Forwarding, Route};
use crate::desired::Desired;
use crate::desired::static_key::{WantedSa, tag};
use crate::numbers::{Peers, SaName};
use crate::static_key::KeyId;

const VERSION: u32 = 2;

/// What a control plane leaves in the vault for its successor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstalledState {
    version: u32,
    /// The command line of the data plane, flag and value.
    pub arguments: Vec<(String, String)>,
    peers: Vec<InstalledPeer>,
    pins: Vec<Mac>,
    /// Addresses and routes given to the interface, as text.
    pub addresses: Vec<String>,
    pub routes: Vec<(String, Option<String>)>,
    /// The bridge that the interface was put into.
    #[serde(default)]
    pub bridge: Option<String>,
    /// The key of every SA. Of one whose peer left the configuration, nobody else can say under which key its numbers count.
    #[serde(default)]
    keys: Vec<InstalledKey>,
    /// The totals of data planes that died, so that counters do not go back when the control plane is restarted after that.
    pub archive: Option<Archive>,
    /// How many SAs of each worker of the data plane that runs have gone and were counted.
    #[serde(default)]
    pub counted: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct InstalledPeer {
    id: u16,
    name: String,
    defer_checksums: bool,
    #[serde(default)]
    selectors: Vec<InstalledSelector>,
}

/// Local and remote addresses, protocol, local and remote ports of a selector.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct InstalledSelector([(IpAddr, IpAddr); 2], u8, [(u16, u16); 2]);

impl From<&Selector> for InstalledSelector {
    fn from(selector: &Selector) -> InstalledSelector {
        let ends = |range: AddressRange| (range.first(), range.last());
        let ports = |range: PortRange| (range.first, range.last);
        InstalledSelector(
            [ends(selector.local), ends(selector.remote)],
            selector.protocol,
            [ports(selector.local_ports), ports(selector.remote_ports)],
        )
    }
}

impl InstalledSelector {
    fn selector(&self) -> Option<Selector> {
        let InstalledSelector([local, remote], protocol, [local_ports, remote_ports]) = self;
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
struct InstalledKey(u8, u64, u32, KeyId);

impl InstalledState {
    /// What a data plane with these arguments will have installed.
    pub fn of(desired: &Desired, arguments: Vec<(String, String)>, ids: &[PeerId]) -> InstalledState {
        let Desired { config, sas, .. } = desired;
        let peers = config.peers.iter().zip(ids);
        let routes = config.routes();
        let keys = sas.iter().map(|want| InstalledKey(want.direction as u8, want.tag.0, want.spi.0, want.key_id));
        InstalledState {
            version: VERSION,
            arguments,
            peers: peers
                .map(|(peer, id)| InstalledPeer {
                    id: id.0,
                    name: peer.name.clone(),
                    defer_checksums: peer.defer_checksums,
                    selectors: peer.selectors.iter().map(InstalledSelector::from).collect(),
                })
                .collect(),
            pins: config.forwarding.pinned.iter().map(|(mac, _)| *mac).collect(),
            addresses: config.interface.addresses.iter().map(ToString::to_string).collect(),
            routes: routes.iter().map(|route| (route.to.to_string(), route.via.map(|via| via.to_string()))).collect(),
            bridge: config.interface.bridge.clone(),
            keys: keys.collect(),
            archive: None,
            counted: Vec::new(),
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
        let named = |InstalledKey(direction, peer, spi, id): &InstalledKey| {
            let direction = Direction::from_code(*direction).ok()?;
            Some((SaName::new(direction, PeerTag(*peer), Spi(*spi)), *id))
        };
        self.keys.iter().filter_map(named)
    }

    /// Every peer that had an id. On the way from one configuration to another, two may have had the same.
    pub fn peers(&self) -> impl Iterator<Item = (PeerId, PeerTag)> + '_ {
        self.peers.iter().map(|peer| (PeerId(peer.id), tag(&peer.name)))
    }

    /// What peers were told to own. Those that have gone from the configuration are removed with all that is theirs.
    pub fn selectors(&self) -> impl Iterator<Item = (PeerId, Vec<Selector>)> + '_ {
        self.peers.iter().map(|peer| (PeerId(peer.id), peer.selectors.iter().filter_map(InstalledSelector::selector).collect()))
    }

    /// What a predecessor left; nothing when it left nothing that can be read.
    pub fn from_vault(bytes: &[u8]) -> Option<InstalledState> {
        serde_json::from_slice::<InstalledState>(bytes).ok().filter(|installed| installed.version == VERSION)
    }

    /// The same without what is remembered of some peers: they begin under other ids.
    pub fn without(&self, peers: &BTreeSet<String>) -> InstalledState {
        let mut rest = self.clone();
        rest.peers.retain(|peer| !peers.contains(&peer.name));
        rest
    }

    /// The bytes for the vault.
    pub fn to_vault(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a structure of strings and numbers can always be written as JSON")
    }

    /// What was given to the interface.
    pub fn interface(&self) -> interface::Installed {
        let routes = self.routes.iter().filter_map(|(to, via)| {
            let via = via.as_ref().map(|via| via.parse()).transpose().ok()?;
            Some(Route { to: to.parse().ok()?, via, mtu: None })
        });
        interface::Installed {
            addresses: self.addresses.iter().filter_map(|address| address.parse().ok()).collect(),
            routes: routes.collect(),
            in_bridge: self.bridge.is_some(),
        }
    }
}

/// What has to be done.
#[derive(Debug, Default)]
pub struct Changes {
    /// Removals, each with the worker that it is for. In this order.
    pub before: Vec<(u16, Command)>,
    /// What is the same said twice.
    pub limits: Vec<(u16, Command)>,
    /// Places in the list of wanted SAs that have to be installed.
    pub install: Vec<usize>,
    /// Live SAs that stay, with their places in the list of wanted SAs.
    pub keep: Vec<(usize, LiveSa)>,
}

/// What is known about a data plane, by name: with thousands of SAs, nothing may be looked for in a list for each of them.
struct Known<'a> {
    /// Whose the inbound SAs are. The SPI of an outbound one tells nothing: it is the peer's choice.
    inbound: BTreeMap<Spi, PeerId>,
    remembered: BTreeMap<&'a str, Vec<&'a InstalledPeer>>,
}

impl<'a> Known<'a> {
    fn new(live: &[(u16, LiveSa)], installed: &'a InstalledState) -> Known<'a> {
        let mut remembered: BTreeMap<&str, Vec<&InstalledPeer>> = BTreeMap::new();
        for peer in &installed.peers {
            remembered.entry(&peer.name).or_default().push(peer);
        }
        let inbound = live.iter().filter(|(_, sa)| sa.direction == Direction::Inbound).map(|(_, sa)| (sa.spi, sa.peer));
        Known { inbound: inbound.collect(), remembered }
    }

    fn remembered(&self, peer: &str) -> &[&'a InstalledPeer] {
        self.remembered.get(peer).map_or(&[], Vec::as_slice)
    }
}

/// Who has which id, those among them that have to go.
pub fn known_peers(config: &Config, installed: &InstalledState, ids: &[PeerId]) -> Peers {
    let mut peers: Peers = installed.peers().collect();
    peers.extend(ids.iter().zip(&config.peers).map(|(id, peer)| (*id, tag(&peer.name))));
    peers
}

/// Compares what is wanted with what is there.
///
/// `ids` are those of the peers of the configuration; SAs that `owned` knows are somebody else's business, and stay.
pub fn changes(
    desired: &Desired,
    live: &[(u16, LiveSa)],
    installed: &InstalledState,
    ids: &[PeerId],
    owned: impl Fn(&LiveSa) -> bool,
) -> Changes {
    let Desired { config, sas: wanted, .. } = desired;
    let workers = 0..config.dataplane.workers;
    let known = Known::new(live, installed);
    let mut changes = Changes::default();
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
    let Forwarding { ageing_s, flood_pps, .. } = config.forwarding;
    if config.mode == Mode::Ethernet {
        // Whoever was there before may have changed them.
        changes.limits.extend(every(Command::ForwardingSet { ageing_s, flood_pps }));
    }
    for mac in installed.pins.iter().filter(|mac| !wanted_pins.contains(*mac)) {
        changes.before.extend(every(Command::FdbUnpin { mac: *mac }));
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

/// A peer keeps the id under which it is known; a new one gets the lowest that is free, if possible none of `used`: what still
/// comes from those who had these is then nobody's. All are below `max`, as far as there is room.
pub fn peer_ids(
    desired: &Desired,
    live: &[(u16, LiveSa)],
    installed: &InstalledState,
    used: &BTreeSet<PeerId>,
    max: u16,
) -> Vec<PeerId> {
    let Desired { config, sas: wanted, .. } = desired;
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
        if let Some(id) = remembered.or(by_sa.get(&index).copied()).filter(|id| id.0 < max) {
            taken.entry(id).or_insert(index);
        }
    }
    let mut ids: Vec<Option<PeerId>> = vec![None; config.peers.len()];
    taken.iter().for_each(|(id, index)| ids[*index] = Some(*id));
    let mut all: Vec<PeerId> = (0..=u16::MAX).map(PeerId).filter(|id| !taken.contains_key(id)).collect();
    all.sort_by_key(|id| (id.0 >= max, used.contains(id), *id));
    let mut free = all.into_iter();
    ids.into_iter()
        .map(|id| id.or_else(|| free.next()).expect("there are 65536 ids, more than peers can be configured"))
        .collect()
}

#[cfg(test)]
mod tests;
