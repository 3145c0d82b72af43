//! Whatever a data plane has: it is brought to what the configuration wants, and what is already right is not touched.

use std::path::Path;
use std::time::{Duration, Instant};

use adit_proto::control::ChildId;
use adit_proto::suite::Suite;

use super::*;
use crate::config::{Machine, Peer};
use crate::desired::static_key::sas;
use crate::static_key::{SECRET_LEN, Secret};

/// A gateway with two workers and peers with these names, each with two lanes.
fn config(peers: &[&str], extra: &str) -> Config {
    let dir = tempfile::tempdir().unwrap();
    let mut list = String::new();
    for (index, name) in peers.iter().enumerate() {
        let key = dir.path().join(format!("{name}.key"));
        let seed = name.as_bytes()[name.len() - 1];
        Secret::from_bytes(Suite::Aes128Gcm, [seed; SECRET_LEN]).create_file(&key).unwrap();
        let host = index + 2;
        list += &format!("  - {{ name: {name}, endpoint: \"192.0.2.{host}:4500\", static_key_file: {name}.key, lanes: 2 }}\n");
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
        child: ChildId::ONLY,
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
    InstalledState::from_vault(&InstalledState::of(&Desired::new(config.clone()), Vec::new(), ids).to_vault()).unwrap()
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
    let mut desired = Desired::new(config.clone());
    desired.sas = wanted.to_vec();
    let ids = peer_ids(&desired, live, installed, &BTreeSet::new(), config.max_peers());
    let changes = changes(&desired, live, installed, &ids, |_| false);
    Judged { ids, changes }
}

fn count(changes: &Changes, test: fn(&Command) -> bool) -> usize {
    changes.before.iter().filter(|(_, command)| test(command)).count()
}

#[test]
fn an_empty_data_plane_gets_everything() {
    let config = config(&["b", "c"], "");
    let wanted = sas(&config);
    assert_eq!(wanted.len(), 8, "two peers, two lanes, two directions");
    assert!(wanted.iter().all(|want| u16::from(want.lane) % 2 == want.worker));
    let changes = judge(&config, &wanted, &[], &InstalledState::default());
    assert_eq!(changes.ids, [PeerId(0), PeerId(1)]);
    assert_eq!(changes.install, (0..8).collect::<Vec<_>>());
    assert_eq!(changes.before, [], "peers and their paths come from the engine");
}

#[test]
fn what_is_there_is_left_alone() {
    let config = config(&["b", "c"], "");
    let ids = [PeerId(0), PeerId(1)];
    for installed in [installed_state(&config, &ids), InstalledState::default()] {
        let changes = judge(&config, &sas(&config), &live_of(&config, &ids), &installed);
        assert!(changes.install.is_empty());
        assert_eq!(changes.keep.len(), 8);
        assert_eq!(changes.before, []);
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
fn between_two_configurations_the_installed_state_is_of_both() {
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
    let mut desired = Desired::new(config.clone());
    desired.sas.clone_from(&wanted);
    let installed = InstalledState::of(&desired, Vec::new(), &ids);
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
fn a_foreign_vault_is_no_installed_state() {
    for bytes in [&b""[..], b"\0\0\0", b"{}", b"{\"version\": 1}"] {
        assert_eq!(InstalledState::from_vault(bytes), None);
    }
}

#[test]
fn the_next_one_is_told_what_the_interface_got() {
    let mut config = config(&["b"], "");
    config.interface.addresses = vec!["10.1.0.1/24".parse().unwrap(), "fd00::1/64".parse().unwrap()];
    config.interface.routes =
        vec![Route { to: "10.9.0.0/16".parse().unwrap(), via: Some("10.1.0.2".parse().unwrap()), mtu: None }];
    config.interface.bridge = Some("br0".into());
    let left = installed_state(&config, &[PeerId(0)]).interface();
    assert_eq!((left.addresses, left.routes), (config.interface.addresses, config.interface.routes));
    assert!(left.in_bridge);
}

#[test]
fn a_new_peer_gets_no_id_that_somebody_had_a_moment_ago() {
    let before = config(&["b", "c"], "");
    let ids = [PeerId(0), PeerId(1)];
    let after = Desired::new(config(&["d", "c"], ""));
    let used = BTreeSet::from(ids);
    let installed = installed_state(&before, &ids);
    assert_eq!(peer_ids(&after, &[], &installed, &used, 64), [PeerId(2), PeerId(1)]);
    assert_eq!(peer_ids(&after, &[], &installed, &used, 2), [PeerId(0), PeerId(1)], "where there is no room, it does");
    let anew = installed.without(&BTreeSet::from(["c".to_owned()]));
    assert_eq!(peer_ids(&after, &[], &anew, &used, 64), [PeerId(2), PeerId(3)]);
}
