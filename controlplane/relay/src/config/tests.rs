//! What the configuration of a relay says to mistakes.

use std::path::Path;

use super::*;
use crate::init;

const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Reads a file with this text, in a directory in which `init` has made a relay.
fn read(directory: &Path, text: &str) -> Result<Config, Mistakes> {
    let file = directory.join("test.yaml");
    std::fs::write(&file, text).unwrap();
    Config::load(&file)
}

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    init::init(directory.path(), "localhost").unwrap();
    directory
}

const HEAD: &str = "listen: 127.0.0.1:0\ncertificate: relay.crt\nkey: relay.key\n";

#[test]
fn every_key_says_something() {
    let dir = directory();
    let config = read(
        dir.path(),
        &format!(
            "listen: [\"[::]:443\", 192.0.2.1:8443]\ncertificate: relay.crt\nkey: relay.key\nrooms:\n  lab: {{ keys: [{KEY}], \
             token_file: lab.token }}\n  7: {{ keys: {KEY} }}\npages: {{ listen: 127.0.0.1:9466, token_file: pages.token }}\nidle_s: 60\n\
             limits: {{ connections: 1_000, connections_of_address: 5, handshakes_per_s: 50, handshakes_of_network_per_s: 6, \
             peers_of_room: 7, records_per_s: 8, bytes_per_s: 90, room_bytes_per_s: 100, total_bytes_per_s: 110, strangers: 12, login_s: 13 }}\n\
             drain: {{ to: [relay2.example.org:443], within_s: 3 }}\n"
        ),
    )
    .unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(config.listen.len(), 2);
    let rooms: Vec<&str> = config.access.0.keys().map(RoomName::as_str).collect();
    assert_eq!(rooms, ["7", "lab"]);
    let lab = &config.access.0[&RoomName::new("lab").unwrap()];
    assert!(lab.keys.contains(&KEY.parse().unwrap()) && lab.tokens.len() == 1);
    assert!(config.pages.is_some_and(|pages| pages.listen.is_some_and(|listen| listen.port() == 9466)));
    let (door, hall) = (config.door, config.hall);
    assert_eq!((door.connections, hall.clients, door.connections_of_address), (1000, 1000, 5));
    assert_eq!((door.handshakes_per_s, door.handshakes_of_network_per_s), (50, 6));
    assert_eq!((config.strangers, config.login_within), (12, Duration::from_secs(13)));
    assert_eq!((hall.idle, hall.peers_of_room, hall.records.amount), (Duration::from_secs(60), 7, 8));
    assert_eq!((hall.bytes.amount, hall.room_bytes.amount, hall.total_bytes.amount), (90, 100, 110));
    assert_eq!((config.drain.to.len(), config.drain.within), (1, Duration::from_secs(3)));
}

#[test]
fn stun_and_turn_have_what_a_user_expects_or_says() {
    let dir = directory();
    let rest = format!("{HEAD}rooms: {{ lab: {{ token_file: lab.token }} }}\n");
    let reach = |lines: &str| read(dir.path(), &format!("{rest}{lines}")).unwrap_or_else(|mistakes| panic!("{mistakes}")).reach;
    assert!(reach("").is_none());
    let settings = |lines: &str| {
        let lobby = std::sync::Arc::new(crate::lobby::Lobby::new(Settings::default()));
        let credentials = Credentials::load(&dir.path().join("relay.crt"), &dir.path().join("relay.key")).unwrap();
        reach(lines).unwrap().settings(lobby, &credentials, &crate::grants::secret().unwrap()).unwrap().expect("addresses")
    };
    let at = |text: &str| Some(text.parse().unwrap());
    let usual = settings("stun: { listen: [192.0.2.1:3478, \"[2001:db8::1]:3478\"] }\nturn:\n");
    let turn = usual.turn.as_ref().unwrap();
    assert_eq!(usual.sites[0].bind, [[at("192.0.2.1:3478"), at("192.0.2.1:3479")], [None; 2]]);
    assert_eq!((usual.sites.len(), usual.open, turn.tcp.len()), (2, false, 2));
    assert_eq!(turn.tls, ["192.0.2.1:5349".parse().unwrap(), "[2001:db8::1]:5349".parse().unwrap()]);
    assert_eq!((turn.config.relayed.len(), &turn.config.ports), (2, &(49_152..=65_535)));
    assert!(settings("stun: { listen: 192.0.2.1:3478 }\n").turn.is_none());
    let said = settings(
        "stun: { listen: [10.0.0.1:5000, 10.0.0.2:5000], shown: [192.0.2.1, 192.0.2.2], open: true }\nturn: { tls: [], \
         ports: 2000-2999, credentials_s: 60, allow: [10.0.0.0/8], deny: 10.9.0.0/16, allocations_of_client: 3, allocations: 30, \
         bytes_of_client_per_s: 1000, bytes_per_s: 2000 }\n",
    );
    let config = said.turn.map(|turn| (turn.tls.len(), turn.config)).unwrap();
    assert_eq!((said.open, said.sites[0].bind[1][1], config.0), (true, at("10.0.0.2:5001"), 0));
    let config = config.1;
    assert_eq!(said.sites[0].shown, [Some("192.0.2.1".parse().unwrap()), Some("192.0.2.2".parse().unwrap())]);
    assert_eq!((config.relayed[0].bind, config.relayed[0].shown), ("10.0.0.1".parse().unwrap(), "192.0.2.1".parse().unwrap()));
    assert_eq!((config.ports, config.of_identity_max, config.total_max), (2000..=2999, 3, 30));
    assert_eq!((config.bytes_of_identity, config.bytes_of_all), (1000, 2000));
    assert_eq!((config.allowed.networks.len(), config.allowed.denied.len()), (1, 1));
}

/// A text, the key that is wrong in it, and what is said of it and of what to write instead.
type Fault = (&'static str, &'static str, &'static str, &'static str);

#[test]
fn each_mistake_has_its_place_and_its_remedy() {
    let dir = directory();
    let table: &[Fault] = &[
        ("", "listen", "names no address", "[::]:443"),
        ("listen: relay.example.org:443\n", "listen", "no address with a port", "IPv6 in brackets"),
        ("listen: [0.0.0.0:1, 0.0.0.0:1]\n", "listen[1]", "given twice", "nothing"),
        ("lisen: 0.0.0.0:443\n", "lisen", "did you mean `listen`?", "listen:"),
        ("colour: red\n", "colour", "no key `colour`", "remove"),
        ("certificate: none.crt\nkey: relay.key\n", "certificate", "does not exist", "adit relay init"),
        ("certificate: relay.key\nkey: relay.key\n", "certificate", "no certificate", "certificate of this relay first"),
        ("certificate: relay.crt\nkey: copy.crt\n", "key", "no private key", "PRIVATE KEY"),
        ("certificate: relay.crt\nkey: other/relay.key\n", "key", "do not belong together", "made together"),
        ("rooms: {}\n", "rooms", "names no room", "token_file"),
        ("rooms: [lab]\n", "rooms", "names no room", "token_file"),
        ("rooms: { LAB: { token_file: lab.token } }\n", "rooms.LAB", "no name of a room", "lab:"),
        ("rooms: { lab: }\n", "rooms.lab", "nobody may be in this room", "token_file"),
        ("rooms: { lab: { keys: [x] } }\n", "rooms.lab.keys[0]", "no key of a client", "keys: ["),
        ("rooms: { lab: { token_file: relay.crt } }\n", "rooms.lab.token_file", "holds a secret and can be read", "chmod 600"),
        ("rooms: { lab: { token_file: short.token } }\n", "rooms.lab.token_file", "no token of at least 20", "openssl rand"),
        ("rooms: { lab: { token_file: lab.token, tokens_file: 1 } }\n", "rooms.lab.tokens_file", "did you mean", "token_file"),
        ("rooms: { lab: { token: hunter2 } }\n", "rooms.lab.token", "did you mean `token_file`", "token_file:"),
        ("pages: { listen: 127.0.0.1:1 }\n", "pages.token_file", "missing", "token_file: pages.token"),
        ("pages: yes\n", "pages", "not a block", "pages: {"),
        ("idle_s: 0\n", "idle_s", "out of range", "idle_s: 1"),
        ("idle_s: soon\n", "idle_s", "not a whole number", "idle_s: 300"),
        ("limits: { connections: 0 }\n", "limits.connections", "out of range", "connections: 2"),
        ("limits: { connections: 500, strangers: 500 }\n", "limits.strangers", "could take them all", "strangers: 125"),
        (
            "rooms: { 1: { token_file: lab.token }, \"1\": { token_file: lab.token } }\n",
            "rooms.1",
            "given twice",
            "one of the two",
        ),
        ("listen: [\"[::]:443\", 0.0.0.0:443]\n", "listen[1]", "is part of `[::]:443`", "remove"),
        ("rooms: { lab: { token_file: [a, a, a, a, a] } }\n", "rooms.lab.token_file", "5 tokens", "new.token"),
        ("limits: { handshakes: 5 }\n", "limits.handshakes", "no key `handshakes`", ""),
        ("drain: { to: [relay2] }\n", "drain.to[0]", "names no relay", "relay2.example.org:443"),
        ("listen: 192.0.2.1:443\ndrain: { to: [192.0.2.1:443] }\n", "drain.to[0]", "is this relay", "relay2"),
        ("drain: { within_s: 99999 }\n", "drain.within_s", "out of range", "within_s: 3600"),
        ("listen: a\nlisten: b\n", "", "this is not YAML", "listen:"),
        ("a: [\n", "", "this is not YAML", "listen:"),
    ];
    let other = dir.path().join("other");
    init::init(&other, "localhost").unwrap();
    let certificate = std::fs::read(dir.path().join("relay.crt")).unwrap();
    crate::secret_file::create(&dir.path().join("copy.crt"), &certificate, Readers::OwnerOnly).unwrap();
    crate::secret_file::create(&dir.path().join("short.token"), b"short", Readers::OwnerOnly).unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir.path().join("relay.crt"), std::fs::Permissions::from_mode(0o644)).unwrap();
    each_is_found(dir.path(), table);
}

#[test]
fn each_mistake_in_stun_and_turn_has_its_place_and_its_remedy() {
    let table: &[Fault] = &[
        ("turn: { ports: 2000-3000 }\n", "turn", "stands without `stun`", "stun:"),
        ("stun: { listen: [] }\n", "stun.listen", "names no address", "auto"),
        ("stun: { listen: relay.example.org }\n", "stun.listen", "no address with a port", "203.0.113.1:3478"),
        ("stun: { listen: 0.0.0.0:3478 }\n", "stun.listen", "all addresses", "203.0.113.1:3478"),
        ("stun: { listen: [192.0.2.1:1, 192.0.2.1:2] }\n", "stun.listen[1]", "given twice", "listen:"),
        ("stun: { listen: [192.0.2.1:1, 192.0.2.2:2] }\n", "stun.listen[1]", "another port", "listen:"),
        ("stun: { listen: [192.0.2.1:1, 192.0.2.2:1, 192.0.2.3:1] }\n", "stun.listen[2]", "the third", "listen:"),
        ("stun: { listen: auto, shown: [192.0.2.1, 192.0.2.2] }\n", "stun.shown", "2 addresses of IPv4", "shown:"),
        ("stun: { listen: auto, shown: here }\n", "stun.shown", "no address that clients reach", "203.0.113.1"),
        ("stun: { listen: auto, open: perhaps }\n", "stun.open", "neither true nor false", "open: false"),
        ("stun: { listen: auto, opne: true }\n", "stun.opne", "did you mean `open`?", "open:"),
        ("stun: { listen: auto }\nturn: { ports: 80-90 }\n", "turn.ports", "no range of ports", "49152-65535"),
        ("stun: { listen: auto }\nturn: { ports: 3000-2000 }\n", "turn.ports", "no range of ports", "49152-65535"),
        ("stun: { listen: auto }\nturn: { allow: all }\n", "turn.allow", "no network", "10.0.0.0/8"),
        ("stun: { listen: auto }\nturn: { credentials_s: 1 }\n", "turn.credentials_s", "out of range", "credentials_s: 10"),
        ("stun: { listen: auto }\nturn: { tls: x }\n", "turn.tls", "no address with a port", "5349"),
    ];
    each_is_found(directory().path(), table);
}

/// What the texts do not say is as it should be.
fn each_is_found(directory: &Path, table: &[Fault]) {
    let lab = "rooms:\n  lab: { token_file: lab.token }\n";
    for (text, key, what, write) in table {
        let mut whole = (*text).to_owned();
        let has = |name: &str| text.contains(&format!("{name}:"));
        if !has("key") || text.contains("keys") {
            whole += "certificate: relay.crt\nkey: relay.key\n";
        }
        if (!has("listen") || text.starts_with("stun")) && !text.is_empty() {
            whole += "listen: 127.0.0.1:0\n";
        }
        if !has("rooms") {
            whole += lab;
        }
        let mistakes = read(directory, &whole).expect_err(text);
        let found = mistakes.list.iter().find(|mistake| mistake.key == *key).unwrap_or_else(|| panic!("{text}: {mistakes}"));
        assert!(found.what.contains(what) && found.write.contains(write), "{text}: {mistakes}");
        assert!(!found.expected.is_empty(), "{text}: {mistakes}");
    }
}

#[test]
fn what_a_mistake_says_to_write_is_no_mistake() {
    let dir = directory();
    let rooms = "rooms: { lab: { token_file: [lab.token, pages.token] } }\n";
    for (limits, strangers) in [("connections: 1000", 250), ("connections: 2", 1), ("strangers: 7", 7)] {
        let config =
            read(dir.path(), &format!("{HEAD}{rooms}limits: {{ {limits} }}\n")).unwrap_or_else(|wrong| panic!("{wrong}"));
        assert_eq!(config.strangers, strangers, "{limits}");
        assert_eq!(config.access.0.values().next().unwrap().tokens.len(), 2);
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let dir = directory();
    let text = "listen: nowhere\ncertificate: none\nkey: none\nrooms: { lab: {} }\nidle_s: -1\nlimits: { x: 1 }\nfoo: 1\n";
    let mistakes = read(dir.path(), text).unwrap_err();
    let keys: Vec<&str> = mistakes.list.iter().map(|mistake| mistake.key.as_str()).collect();
    for key in ["listen", "certificate", "rooms.lab", "idle_s", "limits.x", "foo"] {
        assert!(keys.contains(&key), "{key}: {mistakes}");
    }
    assert!(mistakes.to_string().contains(&format!("{} mistakes in", keys.len())), "{mistakes}");
}

#[test]
fn a_file_that_is_not_there_or_not_ours_alone_names_what_to_run() {
    let dir = directory();
    let mistakes = Config::load(&dir.path().join("none.yaml")).unwrap_err().to_string();
    assert!(mistakes.contains("adit relay init"), "{mistakes}");
    use std::os::unix::fs::PermissionsExt;
    let file = dir.path().join("relay.yaml");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
    let mistakes = Config::load(&file).unwrap_err().to_string();
    assert!(mistakes.contains("chmod go-w"), "{mistakes}");
}

#[test]
fn what_is_shown_of_a_file_plays_with_no_terminal() {
    let dir = directory();
    let mistakes =
        read(dir.path(), &format!("{HEAD}rooms: {{ lab: {{ token_file: lab.token }} }}\n\"\\e[31m\": 1\n")).unwrap_err();
    assert!(!mistakes.to_string().contains('\u{1b}'), "{mistakes}");
}
