//! What a reload comes to, decided before anything is done: what changes, which tunnels it interrupts, and what has to wait for
//! another data plane or another start of adit. Pure.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::difference::{self, Difference};
use super::{Desired, gateway_files, peer_files};
use crate::config::Config;
use crate::dataplane;
use crate::resolve;

/// Keys that only another start of adit can change.
const OF_THE_PROCESS: &[&str] = &["runtime_dir", "state_dir", "ike.key_log_dir"];
/// Keys, or what they begin with, that a data plane is started with.
const OF_THE_DATA_PLANE: &[&str] = &[
    "listen",
    "mode",
    "dscp",
    "mss_clamp",
    "interface.name",
    "interface.mtu",
    "interface.mac",
    "dataplane.",
    "forwarding.max_entries",
    "forwarding.forward",
];
/// What sockets change that are handed to the data plane.
const LISTEN: &[&str] = &["listen"];
/// Keys that an SA stands on: with others, a peer has to prove itself anew.
const OF_TRUST: &[&str] = &["ike.id", "ike.psk_file", "ike.public_key_file", "ike.ca_file", "ike.ppk", "static_key_file"];
const OF_THE_RELAY: &[&str] = &["relay"];
const OWN_TRUST: &[&str] = &["ike.id", "ike.key_file", "ike.certificate_file"];

/// What a reload comes to.
#[derive(Clone, Debug)]
pub struct Reload {
    /// What is to be from now on.
    pub desired: Desired,
    /// All differences, for people.
    pub changes: Vec<String>,
    /// Peers of which something is different.
    pub touched: BTreeSet<String>,
    /// Peers whose tunnel is interrupted; all others lose no packet.
    pub interrupted: BTreeSet<String>,
    /// The data plane has to be replaced for it, and that was asked for.
    pub replaces_dataplane: bool,
    /// Where the data plane that runs is to listen, if that is elsewhere.
    pub listen: Option<SocketAddr>,
    /// The configuration is the same, and what is in its files was renewed.
    pub renewed: bool,
}

/// Why nothing is done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("nothing was changed: {0} needs another data plane, without which the rest makes no sense. {REMEDY}")]
    NeedsDataPlane(String),
    /// Much follows from the name: keys, identity, directories, the MAC address.
    #[error("nothing was changed: name {0} needs another start of adit")]
    NeedsStart(String),
    #[error("nothing was changed: {0}")]
    Unreadable(String),
}

pub const REMEDY: &str = "Ask for it: adit reload --restart-dataplane (all tunnels stand still for a moment)";

/// Compares what runs with what was read. `arguments` are those of the data plane that runs; none, while none does.
///
/// # Errors
/// It cannot be done without what was not asked for.
pub fn plan(
    running: &Desired,
    read: Desired,
    arguments: &[(String, String)],
    restart_dataplane: bool,
) -> Result<Reload, Refused> {
    let mut differences =
        difference::between(&running.config, &read.config).map_err(|error| Refused::Unreadable(format!("{error:#}")))?;
    differences.extend(contents(running, &read));
    if running.config.name != read.config.name {
        return Err(Refused::NeedsStart(format!("{} → {}", running.config.name, read.config.name)));
    }
    let is_running = !arguments.is_empty();
    let listen = other_listen(arguments, &read.config);
    let moves = listen.is_some();
    let (mut changes, mut pending) = (Vec::new(), Vec::new());
    let mut held = false;
    for one in &differences {
        let line = one.to_string();
        if concerns(one, OF_THE_PROCESS) {
            pending.push(format!("{line} (needs another start of adit)"));
            changes.push(format!("{line}: not now, it needs another start of adit"));
        } else if concerns(one, OF_THE_DATA_PLANE) && is_running && !restart_dataplane && !(moves && concerns(one, LISTEN)) {
            held = true;
            pending.push(format!("{line} (needs another data plane)"));
            changes.push(format!("{line}: not now, it needs another data plane: adit reload --restart-dataplane"));
        } else {
            changes.push(line);
        }
    }
    let interrupted = interrupted(&running.config, &read.config, &differences);
    let touched = touched(&read.config, &differences);
    let mut config = read.config.clone();
    keep_of_process(&mut config, &running.config);
    if held {
        if config.mode != running.config.mode {
            return Err(Refused::NeedsDataPlane(format!("mode {} → {}", running.config.mode.name(), config.mode.name())));
        }
        keep_of_dataplane(&mut config, &running.config);
        if moves {
            config.listen = read.config.listen;
            config.listen_interface.clone_from(&read.config.listen_interface);
        }
    }
    let mut arguments = arguments.to_vec();
    listen.into_iter().for_each(|listen| dataplane::set_listen(&mut arguments, listen));
    let misfits = if is_running { dataplane::misfits(&arguments, &config) } else { Vec::new() };
    if !misfits.is_empty() && !restart_dataplane {
        return Err(Refused::NeedsDataPlane(misfits.join(", ")));
    }
    let desired = Desired { source: read.source, pending, ..Desired::new(config) };
    Ok(Reload { desired, changes, touched, interrupted, replaces_dataplane: !misfits.is_empty(), listen, renewed: false })
}

/// What it comes to that files were renewed, of the configuration that runs: nothing is interrupted by that.
///
/// # Errors
/// As of [`plan`].
pub fn renewal(running: &Desired, read: Desired, arguments: &[(String, String)]) -> Result<Reload, Refused> {
    let differences = contents(running, &read);
    let reload = plan(running, read, arguments, false)?;
    let changes = differences.iter().map(Difference::to_string).collect();
    let touched = touched(&reload.desired.config, &differences);
    Ok(Reload { changes, touched, interrupted: BTreeSet::new(), listen: None, renewed: true, ..reload })
}

/// Where a data plane that runs can listen instead, by sockets that are handed over: they are of the same version of IP, in which all
/// addresses of peers are kept there.
fn other_listen(arguments: &[(String, String)], config: &Config) -> Option<SocketAddr> {
    let (now, wanted) = (dataplane::listen_of(arguments)?, resolve::listen_now(config)?);
    (now != wanted && now.is_ipv4() == wanted.is_ipv4()).then_some(wanted)
}

/// Whether a difference of the gateway as a whole is about one of these keys.
fn concerns(difference: &Difference, keys: &[&str]) -> bool {
    difference.peer.is_none() && keys.iter().any(|key| begins(&difference.key, key))
}

fn begins(key: &str, with: &str) -> bool {
    key.strip_prefix(with).is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || with.ends_with('.'))
}

/// Files that have the name that they had, and another content.
fn contents(running: &Desired, read: &Desired) -> Vec<Difference> {
    let (Some(old), Some(new)) = (&running.source, &read.source) else { return Vec::new() };
    let changed = |peer: Option<&String>, list: Vec<(&'static str, &std::path::Path)>| {
        let other = list.into_iter().filter(|(_, file)| !old.agrees_on(new, file));
        let differ = |(key, file): (&str, &std::path::Path)| {
            let text = Some(file.display().to_string());
            Difference { peer: peer.cloned(), key: key.to_owned(), old: text.clone(), new: text }
        };
        other.map(differ).collect::<Vec<_>>()
    };
    let mut list = changed(None, gateway_files(&read.config));
    read.config.peers.iter().for_each(|peer| list.extend(changed(Some(&peer.name), peer_files(&peer.keys))));
    list
}

/// The peers of which something is different; what is said of IKE as a whole concerns all.
fn touched(read: &Config, differences: &[Difference]) -> BTreeSet<String> {
    if differences.iter().any(|one| concerns(one, &["ike"])) {
        return read.peers.iter().map(|peer| peer.name.clone()).collect();
    }
    differences.iter().filter_map(|one| one.peer.clone()).collect()
}

/// The peers that are connected anew or cut off.
fn interrupted(running: &Config, read: &Config, differences: &[Difference]) -> BTreeSet<String> {
    let own = differences.iter().any(|one| concerns(one, OWN_TRUST));
    let by_ike = running.peers.iter().filter(|peer| own && peer.ike().is_some()).map(|peer| peer.name.clone());
    let mut names: BTreeSet<String> = by_ike.collect();
    if running.relay.is_some() && differences.iter().any(|one| concerns(one, OF_THE_RELAY)) {
        // The gateway registers anew; whoever has an endpoint may be reached there.
        let met = running.peers.iter().filter(|peer| peer.ike().is_some() && peer.endpoints.is_empty());
        names.extend(met.map(|peer| peer.name.clone()));
    }
    for one in differences {
        let Some(name) = &one.peer else { continue };
        let peer = |config: &'_ Config| config.peers.iter().find(|peer| peer.name == *name).cloned();
        let (Some(before), after) = (peer(running), peer(read)) else { continue };
        let other_kind = after.as_ref().is_none_or(|after| after.ike().is_some() != before.ike().is_some());
        // The SAs of a static key depend on the number of lanes.
        let lanes = before.ike().is_none() && one.key == "lanes";
        if other_kind || lanes || OF_TRUST.iter().any(|key| begins(&one.key, key)) {
            names.insert(name.clone());
        }
    }
    names
}

fn keep_of_process(config: &mut Config, running: &Config) {
    config.runtime_dir.clone_from(&running.runtime_dir);
    config.state_dir.clone_from(&running.state_dir);
    config.ike.key_log_dir.clone_from(&running.ike.key_log_dir);
}

fn keep_of_dataplane(config: &mut Config, running: &Config) {
    config.listen = running.listen;
    config.listen_interface.clone_from(&running.listen_interface);
    config.dscp = running.dscp;
    config.mss_clamp = running.mss_clamp;
    config.interface.name.clone_from(&running.interface.name);
    config.interface.mtu = running.interface.mtu;
    config.interface.mac = running.interface.mac;
    config.dataplane = running.dataplane.clone();
    config.forwarding.max_entries = running.forwarding.max_entries;
    config.forwarding.forward = running.forwarding.forward;
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use adit_proto::suite::Suite;

    use super::*;
    use crate::config::Machine;
    use crate::static_key::{SECRET_LEN, Secret};

    const HEAD: &str = "name: a\nlisten: 192.0.2.1:4500\ninterface: { name: adit0 }\n";

    /// Two peers with static keys and two with IKE, in a directory with their keys.
    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Files {
            let files = Files(tempfile::tempdir().unwrap());
            for peer in ["b", "c"] {
                let secret = Secret::from_bytes(Suite::Aes128Gcm, [peer.as_bytes()[0]; SECRET_LEN]);
                secret.create_file(&files.0.path().join(format!("{peer}.key"))).unwrap();
            }
            for peer in ["d", "e"] {
                files.psk(peer, "a preshared key that is long enough");
            }
            files
        }

        fn psk(&self, peer: &str, text: &str) {
            use std::os::unix::fs::PermissionsExt;
            let path = self.0.path().join(format!("{peer}.psk"));
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }

        fn yaml(&self) -> String {
            let peer = |(index, name): (usize, &str)| {
                let keys =
                    if index < 2 { format!("static_key_file: {name}.key") } else { format!("ike: {{ psk_file: {name}.psk }}") };
                format!("  - {{ name: {name}, endpoint: \"192.0.2.{}:4500\", {keys} }}\n", index + 2)
            };
            let peers: String = ["b", "c", "d", "e"].into_iter().enumerate().map(peer).collect();
            format!("{HEAD}peers:\n{peers}")
        }

        fn read(&self, yaml: &str) -> Desired {
            let file = self.0.path().join("a.yaml");
            std::fs::write(&file, yaml).unwrap();
            Desired::read(&file, &Machine { cores: vec![0, 1] }).unwrap_or_else(|problems| panic!("{problems}"))
        }
    }

    fn judge(files: &Files, old: &Desired, new: &str, restart: bool) -> Result<Reload, Refused> {
        plan(old, files.read(new), &dataplane::arguments(&old.config), restart)
    }

    fn names(set: &BTreeSet<String>) -> Vec<&str> {
        set.iter().map(String::as_str).collect()
    }

    #[test]
    fn only_who_is_different_is_touched_and_only_other_keys_interrupt() {
        let files = Files::new();
        let old = files.read(&files.yaml());
        let of = |new: &str| {
            let done = judge(&files, &old, new, false).unwrap();
            (names(&done.touched).join(" "), names(&done.interrupted).join(" "), done.changes.join("; "))
        };
        let same = of(&files.yaml());
        assert_eq!((same.0.as_str(), same.1.as_str(), same.2.as_str()), ("", "", ""));
        let moved = of(&files.yaml().replace("192.0.2.4:4500", "192.0.2.44:4500"));
        assert_eq!((moved.0.as_str(), moved.1.as_str()), ("d", ""), "{}", moved.2);
        let gone = of(&files.yaml().replace("  - { name: c,", "  #"));
        assert_eq!((gone.0.as_str(), gone.1.as_str(), gone.2.as_str()), ("c", "c", "peer c is gone"));
        let lanes = of(&files.yaml().replace("b.key }", "b.key, lanes: 1 }").replace("d.psk } }", "d.psk }, lanes: 1 }"));
        assert_eq!((lanes.0.as_str(), lanes.1.as_str()), ("b d", "b"), "{}", lanes.2);
        let identity = of(&files.yaml().replace("peers:", "ike: { id: gateway.example }\npeers:"));
        assert_eq!((identity.0.as_str(), identity.1.as_str()), ("b c d e", "d e"), "{}", identity.2);
        let other_kind = of(&files.yaml().replace("static_key_file: c.key", "ike: { psk_file: d.psk }"));
        assert_eq!(other_kind.1, "c", "{}", other_kind.2);
        files.psk("e", "another preshared key that is long enough");
        let renewed = of(&files.yaml());
        assert_eq!((renewed.0.as_str(), renewed.1.as_str()), ("e", "e"));
        assert_eq!(renewed.2, "peer e: ike.psk_file: the file has another content");
    }

    #[test]
    fn another_relay_or_room_interrupts_who_is_met_there() {
        let files = Files::new();
        let relay =
            |rooms: &str| format!("relay: {{ url: wss://192.0.2.9, pin: sha256:{}, rooms: [{rooms}] }}\n", "A".repeat(43));
        let (with, without) = (files.yaml().replace("endpoint: \"192.0.2.5:4500\", ", ""), files.yaml());
        let old = files.read(&(with.clone() + &relay("lab")));
        let of = |new: &str| names(&judge(&files, &old, new, false).unwrap().interrupted).join(" ");
        assert_eq!(
            (of(&(with.clone() + &relay("lab"))), of(&(with.clone() + &relay("lab, office")))),
            (String::new(), "e".to_owned())
        );
        // Where there was none, nobody is met.
        let old = files.read(&without);
        let first = judge(&files, &old, &(without.clone() + &relay("lab")), false).unwrap();
        assert!(first.interrupted.is_empty() && !first.changes.is_empty());
    }

    #[test]
    fn what_needs_another_data_plane_is_told_and_waits_until_it_is_asked_for() {
        let files = Files::new();
        let old = files.read(&files.yaml());
        let new = files.yaml().replace("interface:", "dscp: clear\ninterface:").replace("192.0.2.4:4500", "192.0.2.44:4500");
        let done = judge(&files, &old, &new, false).unwrap();
        assert!(!done.replaces_dataplane);
        assert_eq!((done.desired.config.dscp, done.desired.pending.len()), (old.config.dscp, 1));
        assert_eq!(done.desired.config.peers[2].endpoint_text(), "192.0.2.44:4500", "the rest is done");
        let reported = done.changes.iter().find(|line| line.starts_with("dscp ")).unwrap();
        assert!(reported.contains("not now") && reported.contains("--restart-dataplane"), "{reported}");
        let done = judge(&files, &old, &new, true).unwrap();
        assert!(done.replaces_dataplane && done.desired.pending.is_empty());
        assert_ne!(done.desired.config.dscp, old.config.dscp);
        // While none runs, nothing has to wait.
        let done = plan(&old, files.read(&new), &[], false).unwrap();
        assert!(!done.replaces_dataplane && done.desired.config.dscp != old.config.dscp);
        let dir = judge(&files, &old, &(files.yaml() + "state_dir: /elsewhere\n"), true).unwrap();
        assert_eq!((&dir.desired.config.state_dir, dir.desired.pending.len()), (&old.config.state_dir, 1));
        let name = judge(&files, &old, &files.yaml().replace("name: a\n", "name: z\n"), true);
        assert!(matches!(name, Err(Refused::NeedsStart(_))), "{name:?}");
    }

    #[test]
    fn other_sockets_are_handed_over_but_for_the_other_version_of_ip() {
        let files = Files::new();
        let old = files.read(&files.yaml());
        let with = |listen: &str| files.yaml().replace("listen: 192.0.2.1:4500", &format!("listen: {listen}"));
        for restart in [false, true] {
            for listen in ["192.0.2.1:4501", "192.0.2.9:4500", "0.0.0.0:4500"] {
                let done = judge(&files, &old, &with(listen), restart).unwrap();
                let listen: SocketAddr = listen.parse().unwrap();
                assert_eq!((done.listen, done.replaces_dataplane, done.desired.config.listen), (Some(listen), false, listen));
                assert!(done.desired.pending.is_empty() && done.interrupted.is_empty());
            }
        }
        let other = judge(&files, &old, &with("\"[::]:4500\""), false).unwrap();
        assert_eq!((other.listen, other.desired.pending.len(), other.desired.config.listen), (None, 1, old.config.listen));
        assert!(judge(&files, &old, &with("\"[::]:4500\""), true).unwrap().replaces_dataplane);
        // Beside what has to wait, it is done at once.
        let both = judge(&files, &old, &with("192.0.2.1:4501").replace("interface:", "dscp: clear\ninterface:"), false).unwrap();
        assert_eq!((both.listen.map(|listen| listen.port()), both.desired.pending.len()), (Some(4501), 1));
        assert_eq!(judge(&files, &old, &files.yaml(), false).unwrap().listen, None);
    }

    #[test]
    fn another_mode_is_refused_unless_it_is_asked_for() {
        let files = Files::new();
        let only_d = format!("{HEAD}peers:\n  - {{ name: d, endpoint: \"192.0.2.4:4500\", ike: {{ psk_file: d.psk }} }}\n");
        let old = files.read(&only_d);
        let selectors = "selectors: [{ local: 10.1.0.0/16, remote: 10.2.0.0/16 }]";
        let ip = only_d.replace("peers:", "mode: ip\npeers:").replace("name: d,", &format!("name: d, {selectors},"));
        assert!(matches!(judge(&files, &old, &ip, false), Err(Refused::NeedsDataPlane(_))));
        assert!(judge(&files, &old, &ip, true).unwrap().replaces_dataplane);
    }

    #[test]
    fn a_file_that_was_changed_is_newer_than_what_runs() {
        let files = Files::new();
        let running = files.read(&files.yaml());
        assert!(!running.is_outdated());
        std::fs::write(files.0.path().join("a.yaml"), files.yaml() + "# edited\n").unwrap();
        assert!(running.is_outdated());
        assert!(!Path::new("/nowhere").exists() && !Desired::new(running.config).is_outdated());
    }

    #[test]
    fn a_port_that_the_system_has_chosen_stays_when_files_are_renewed() {
        let files = Files::new();
        let mut running = files.read(&files.yaml().replace("192.0.2.1:4500", "192.0.2.1:0"));
        running.config.listen.set_port(4711);
        files.psk("e", "another preshared key that is long enough");
        let read = running.renewed(&Machine { cores: vec![0, 1] }).unwrap();
        let done = renewal(&running, read, &dataplane::arguments(&running.config)).unwrap();
        assert_eq!((done.desired.config.listen.port(), done.listen, done.changes.len()), (4711, None, 1));
    }

    #[test]
    fn renewed_files_are_taken_without_an_edited_configuration() {
        let files = Files::new();
        let running = files.read(&files.yaml());
        let machine = Machine { cores: vec![0, 1] };
        let seen = |running: &Desired| running.source.as_ref().map(|source| source.stamps_now() == *source.stamps());
        assert_eq!(seen(&running), Some(true));
        files.psk("e", "another preshared key that is long enough");
        assert_eq!(seen(&running), Some(false));
        std::fs::write(files.0.path().join("a.yaml"), "name: edited").unwrap();
        std::fs::remove_file(files.0.path().join("c.key")).unwrap();
        Secret::from_bytes(Suite::Aes128Gcm, [9; SECRET_LEN]).create_file(&files.0.path().join("c.key")).unwrap();
        let arguments = dataplane::arguments(&running.config);
        let done = renewal(&running, running.renewed(&machine).unwrap(), &arguments).unwrap();
        assert_eq!(done.changes, ["peer e: ike.psk_file: the file has another content"]);
        assert_eq!((names(&done.touched), done.interrupted.len(), done.renewed), (vec!["e"], 0, true));
        assert!(done.desired.is_outdated() && done.desired.config.name == "a", "the file is still newer than what runs");
        assert!(done.desired.config.peers[1].secret() == running.config.peers[1].secret());
        // A reload that is asked for takes the rest.
        let all = judge(&files, &done.desired, &files.yaml(), false).unwrap();
        assert_eq!(all.changes, ["peer c: static_key_file: the file has another content"]);
        // What is not whole yet changes nothing.
        files.psk("d", "short");
        assert!(running.renewed(&machine).is_err());
    }
}
