//! The command `adit` as people and scripts meet it: exit codes, and which stream says what.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};

fn adit(dir: &Path, line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_adit")).args(line.split(' ')).current_dir(dir).output().unwrap()
}

/// Exit code, standard output, standard error.
fn said(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn keygen_makes_a_private_file_once() {
    let dir = tempfile::tempdir().unwrap();
    let (code, out, err) = said(&adit(dir.path(), "keygen --suite chacha20-poly1305 -o pair.key"));
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let file = dir.path().join("pair.key");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("# A static key of Adit, for labs and benches ONLY") && text.contains("suite: chacha20-poly1305"));
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    let (code, _, err) = said(&adit(dir.path(), "keygen -o pair.key"));
    assert!(code == 1 && err.contains("pair.key exists and is not overwritten"), "{err}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    let (code, out, _) = said(&adit(dir.path(), "keygen"));
    assert!(code == 0 && out.contains("suite: aes-128-gcm\nsecret: "), "{out}");
    let (code, _, err) = said(&adit(dir.path(), "keygen --suite des"));
    assert!(code == 2 && err.contains("the suites are aes-128-gcm, aes-256-gcm, chacha20-poly1305"), "{err}");
}

#[test]
fn keygen_makes_the_keys_that_ike_wants() {
    let dir = tempfile::tempdir().unwrap();
    let (code, out, err) = said(&adit(dir.path(), "keygen psk -o b.psk"));
    assert!(code == 0 && out.starts_with("wrote b.psk; copy it"), "{out}{err}");
    let (code, out, err) = said(&adit(dir.path(), "keygen ed25519 -o own.key"));
    assert!(code == 0 && out.contains("-----BEGIN PUBLIC KEY-----"), "{out}{err}");
    let mode = |name: &str| dir.path().join(name).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("b.psk"), mode("own.key"), mode("own.pub")), (0o600, 0o600, 0o644));
    assert!(out.ends_with(&std::fs::read_to_string(dir.path().join("own.pub")).unwrap()), "{out}");
    let (code, _, err) = said(&adit(dir.path(), "keygen ed25519 -o own.key"));
    assert!(code == 1 && err.contains("own.key exists and is not overwritten"), "{err}");
    let (code, _, err) = said(&adit(dir.path(), "keygen psk -o b.psk"));
    assert!(code == 1 && err.contains("b.psk exists"), "{err}");
    std::fs::remove_file(dir.path().join("own.key")).unwrap();
    let (code, _, err) = said(&adit(dir.path(), "keygen ed25519 -o own.key"));
    assert!(code == 1 && err.contains("own.pub exists") && !dir.path().join("own.key").exists(), "{err}");
    // What they are for: a gateway that proves itself with one, and peers that prove themselves with the others.
    std::fs::remove_file(dir.path().join("own.pub")).unwrap();
    for name in ["own", "peer"] {
        assert_eq!(said(&adit(dir.path(), &format!("keygen ed25519 -o {name}.key"))).0, 0);
    }
    let yaml = "name: a\nlisten: 192.0.2.1:4500\ninterface: { name: adit0 }\ndataplane: { workers: 1 }\nike: { key_file: own.key }\npeers:\n  \
        - { name: b, endpoint: \"192.0.2.2:4500\", ike: { psk_file: b.psk, ppk_file: b.psk, ppk_id: ab } }\n  \
        - { name: c, endpoint: \"192.0.2.3:4500\", ike: { public_key_file: peer.pub } }\n";
    std::fs::write(dir.path().join("a.yaml"), yaml).unwrap();
    let (code, out, err) = said(&adit(dir.path(), "config check a.yaml"));
    assert_eq!(code, 0, "{out}{err}");
}

#[test]
fn keygen_leaves_no_half_of_a_key_on_a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    // A limit of no blocks for files stands for the full disk.
    let line = format!("trap '' XFSZ; ulimit -f 0; exec {} keygen -o pair.key", env!("CARGO_BIN_EXE_adit"));
    let output = Command::new("sh").args(["-c", &line]).current_dir(dir.path()).output().unwrap();
    let (code, _, err) = said(&output);
    assert!(code == 1 && err.contains("pair.key cannot be written: File too large"), "{err}");
    assert!(!dir.path().join("pair.key").exists());
}

#[test]
fn config_check_says_ok_with_a_summary_or_everything_that_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(said(&adit(dir.path(), "keygen -o pair.key")).0, 0);
    let yaml = "name: a\nlisten: 192.0.2.1:4500\ninterface: { name: adit0 }\ndataplane: { workers: 1 }\npeers:\n  \
        - { name: b, endpoint: \"192.0.2.2:4500\", static_key_file: pair.key }\n";
    std::fs::write(dir.path().join("a.yaml"), yaml).unwrap();
    let (code, out, err) = said(&adit(dir.path(), "config check a.yaml"));
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("ok\ngateway a receives on UDP 192.0.2.1:4500\n"), "{out}");
    let (code, shown, _) = said(&adit(dir.path(), "config show a.yaml"));
    assert!(code == 0 && shown.contains("replay_window: 4096"), "{shown}");
    std::fs::write(dir.path().join("b.yaml"), yaml.replace(":4500", ":99999")).unwrap();
    let (code, out, err) = said(&adit(dir.path(), "config check b.yaml"));
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.starts_with("b.yaml:2:9: ") && err.ends_with("2 problems in b.yaml\n"), "{err}");
    let (code, _, err) = said(&adit(dir.path(), "run -c b.yaml"));
    let whole = dir.path().join("b.yaml");
    assert!(code == 1 && err.ends_with(&format!("2 problems in {}\n", whole.display())), "run judges the file too: {err}");
}

#[test]
fn config_check_speaks_to_programs_and_reads_standard_input() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let check = |yaml: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_adit"))
            .args(["config", "check", "--json", "-"])
            .current_dir(dir.path())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(yaml.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let verdict: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code().unwrap(), verdict)
    };
    assert_eq!(said(&adit(dir.path(), "keygen psk -o b.psk")).0, 0);
    let yaml = "name: a\nlisten: 192.0.2.1:4500\ninterface: { name: adit0, bridge: no-such-bridge }\ndataplane: { workers: 1 }\npeers:\n  \
        - { name: b, endpoint: \"192.0.2.2:4500\", ike: { psk_file: b.psk } }\n";
    let (code, verdict) = check(yaml);
    assert_eq!((code, &verdict["ok"], &verdict["file"]), (0, &true.into(), &"-".into()));
    let warnings = verdict["warnings"].as_array().unwrap();
    assert!(warnings.iter().any(|one| one["key"] == "interface.bridge"), "{verdict}");
    let (code, verdict) = check(&yaml.replace("b.psk", "c.psk").replace("workers: 1", "wrokers: 1"));
    assert_eq!((code, &verdict["ok"]), (1, &false.into()));
    let keys: Vec<_> =
        verdict["problems"].as_array().unwrap().iter().map(|one| (one["line"].as_u64(), one["key"].as_str())).collect();
    assert_eq!(keys, [(Some(4), Some("dataplane.wrokers")), (Some(6), Some("peers[0].ike.psk_file"))]);
    let loopback = yaml.replace("bridge: no-such-bridge", "addresses: [127.0.0.9/24]");
    let (code, verdict) = check(&loopback);
    assert_eq!((code, &verdict["problems"][0]["key"]), (1, &"interface.addresses[0]".into()), "{verdict}");
}

#[test]
fn status_says_how_to_start_what_does_not_run() {
    let dir = tempfile::tempdir().unwrap();
    let (code, _, err) = said(&adit(dir.path(), "status --name no-such-gateway"));
    assert_eq!((code, err.as_str()), (1, "no adit runs as no-such-gateway: start it with adit run -c FILE\n"));
}

/// What `adit run` says when there is no configuration, with something in its environment.
fn run_says(dir: &Path, environment: impl FnOnce(&std::fs::File) -> (&'static str, String)) -> String {
    let path = dir.join("stderr");
    let file = std::fs::File::create(&path).unwrap();
    let (name, value) = environment(&file);
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
    command.args(["run", "-c", "none.yaml"]).current_dir(dir).env_remove("JOURNAL_STREAM").env_remove("ADIT_LOG_FORMAT");
    let status = command.env(name, value).stderr(file).status().unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(status.code(), Some(1), "{text}");
    text
}

#[test]
fn whoever_reads_the_messages_gets_them_as_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let json = run_says(dir.path(), |_| ("ADIT_LOG_FORMAT", "json".to_owned()));
    let lines: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = lines.last().unwrap();
    assert!(last["level"] == "ERROR" && last["message"].as_str().unwrap().contains("none.yaml"), "{json}");
    assert!(lines.iter().all(|line| line["timestamp"].is_string()), "{json}");
    let stream = |file: &std::fs::File| {
        let facts = file.metadata().unwrap();
        ("JOURNAL_STREAM", format!("{}:{}", facts.dev(), facts.ino()))
    };
    let journal = run_says(dir.path(), stream);
    assert!(journal.lines().all(|line| line.starts_with("<3>")) && journal.contains("none.yaml"), "{journal}");
    let people = run_says(dir.path(), |_| ("ADIT_LOG_FORMAT", String::new()));
    assert!(people.contains("none.yaml") && !people.contains(['<', '{']), "{people}");
    let none = run_says(dir.path(), |_| ("ADIT_LOG_FORMAT", "xml".to_owned()));
    assert!(none.contains("text, journal or json"), "{none}");
}

/// The file of a relay that listens at ports of its own on this machine alone.
fn at_ports_of_its_own(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    text.replace("\"[::]:443\"", "\"127.0.0.1:0\"").replace("listen: auto", "listen: 127.0.0.1:0")
}

/// Runs a relay for as long as the runtime is kept.
fn serve(file: &Path) -> (tokio::runtime::Runtime, std::net::SocketAddr, adit_relay::tls::Pin) {
    let config = adit_relay::config::Config::load(file).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let pin = config.credentials.pin;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = runtime.block_on(adit_relay::server::Server::bind(config)).unwrap();
    let address = server.addresses()[0];
    runtime.spawn(server.run(std::future::pending(), std::future::pending()));
    (runtime, address, pin)
}

/// A gateway is registered with its key: who looks whether it may be does not take its place.
#[test]
fn relay_check_with_the_key_of_a_gateway_leaves_it_registered() {
    use adit_relay::client::{Client, Config, Event, ProxyChoice, Relay};

    let dir = tempfile::tempdir().unwrap();
    let made = adit_relay::init::init(&dir.path().join("relay"), "localhost").unwrap();
    let key = adit_relay::key::ClientKey::load_or_create(dir.path()).unwrap();
    let file = dir.path().join("relay/relay.yaml");
    let text = at_ports_of_its_own(&file);
    std::fs::write(&file, text.replace("token_file: lab.token", &format!("keys: [\"{}\"]", key.public()))).unwrap();
    let (runtime, address, _) = serve(&file);
    let check = format!("relay check --relay {address} --pin {} --room lab --state-dir .", made.pin);
    let (code, out, err) = said(&adit(dir.path(), &check));
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("registered in "), "while it is away: {out}");

    let trust = adit_relay::tls::Trust::Pins(vec![made.pin]);
    let (at, rooms) = (address.to_string().parse().unwrap(), vec!["lab".parse().unwrap()]);
    let relays = vec![Relay { at, trust, rooms, token: None, is_probe: false }];
    let config = Config { relays, key, metadata: Vec::new(), proxy: ProxyChoice::None, mark: None };
    let (_handle, mut events) = runtime.block_on(async { Client::start(config) }).unwrap();
    runtime.block_on(async { while !matches!(events.next().await, Some(Event::Registered { .. })) {} });
    let (code, out, err) = said(&adit(dir.path(), &check));
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("may be there, and is registered at this moment"), "{out}");
    let gone = runtime.block_on(async {
        tokio::time::timeout(std::time::Duration::from_millis(200), async {
            loop {
                if let event @ (Some(Event::Failed { .. } | Event::Home { relay: None }) | None) = events.next().await {
                    return event;
                }
            }
        })
        .await
    });
    assert!(gone.is_err(), "{gone:?}");
}

/// A relay as `adit relay init` makes it, at a port of its own, and what the command says of it.
#[test]
fn relay_check_says_what_works_and_what_to_do_where_it_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let (code, out, err) = said(&adit(dir.path(), "relay init --dir relay --name localhost"));
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let file = dir.path().join("relay/relay.yaml");
    let text = at_ports_of_its_own(&file);
    std::fs::write(&file, text).unwrap();
    let (_runtime, address, pin) = serve(&file);

    let way_in = format!("--relay {address} --pin {pin} --token-file relay/lab.token");
    let (code, out, err) = said(&adit(dir.path(), &format!("relay check {way_in} --room lab")));
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    for part in [
        "registered in ",
        "the relay sees this machine as 127.0.0.1:",
        "a round trip takes ",
        "STUN at 127.0.0.1:",
        "with credentials for 3600 s",
        "lends 127.0.0.1:",
        "a message went to a second client and back",
    ] {
        assert!(out.contains(part), "`{part}` is missing: {out}");
    }
    let (code, out, _) = said(&adit(dir.path(), &format!("relay check {way_in} --room cellar")));
    assert!(code == 1 && out.contains("WRONG") && out.contains("no such room (cellar)") && out.contains("add the room"), "{out}");
    let (code, out, _) = said(&adit(dir.path(), &format!("relay check --relay {address} --pin {pin} --room lab")));
    assert!(code == 1 && out.contains("is not listed in the room (lab)"), "{out}");
    let (code, out, err) = said(&adit(dir.path(), &format!("relay check {way_in} --room lab --state-dir .")));
    assert!(code == 1 && err.contains("there is no key ./relay-client.key"), "{out}{err}");
    assert!(!dir.path().join("relay-client.key").exists(), "who looks makes none");
    for wrong in ["relay check", "relay check --relay 127.0.0.1:1", "relay check --relay 127.0.0.1 --room lab"] {
        let (code, _, err) = said(&adit(dir.path(), wrong));
        assert_eq!(code, 2, "{wrong}");
        assert!(err.contains("either -c FILE, or --relay with --pin or --ca, and --room"), "{wrong}: {err}");
    }
}

/// A file that the tests write, for its owner alone or for all.
fn write(dir: &Path, name: &str, text: &str, mode: u32) {
    std::fs::write(dir.join(name), text).unwrap();
    std::fs::set_permissions(dir.join(name), PermissionsExt::from_mode(mode)).unwrap();
}

#[test]
fn the_manual_shows_a_gateway_at_a_relay_that_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let manual = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/relay.md")).unwrap();
    let example = manual.split("```yaml\n").skip(1).find_map(|rest| rest.split("```").next()).unwrap();
    write(dir.path(), "adit.yaml", example, 0o644);
    write(dir.path(), "lab.token", "a0123456789012345678901", 0o600);
    write(dir.path(), "site-b.psk", "a preshared key that is long enough", 0o600);
    let (code, out, err) = said(&adit(dir.path(), "config check adit.yaml"));
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("\nrelay wss://relay.example.org:443 room lab, by token\n"), "{out}");
    assert!(out.contains("\npeer site-b met at the relay, by IKE as "), "{out}");
}

/// A gateway's file with these rooms of a relay.
fn gateway_at(url: &str, pin: &str, rooms: &str) -> String {
    format!(
        "name: a\nlisten: 0.0.0.0:4500\ninterface: {{ name: adit0 }}\ndataplane: {{ workers: 1 }}\nstate_dir: state\n\
         relay: {{ url: \"{url}\", pin: \"{pin}\", rooms: {rooms}, token_file: relay/lab.token }}\n\
         peers:\n  - {{ name: b, ike: {{ psk_file: b.psk }} }}\n"
    )
}

#[test]
fn relay_check_takes_the_file_of_a_gateway_and_its_url() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(said(&adit(dir.path(), "relay init --dir relay --name localhost")).0, 0);
    let file = dir.path().join("relay/relay.yaml");
    std::fs::write(&file, at_ports_of_its_own(&file)).unwrap();
    let (_runtime, address, pin) = serve(&file);
    write(dir.path(), "b.psk", "a preshared key that is long enough", 0o600);
    let (url, pin) = (format!("wss://{address}"), pin.to_string());
    write(dir.path(), "a.yaml", &gateway_at(&url, &pin, "[lab]"), 0o644);
    let (code, out, err) = said(&adit(dir.path(), "relay check -c a.yaml"));
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("has no key in ") && out.contains("went to a second client and back"), "{out}");
    std::fs::create_dir(dir.path().join("state")).unwrap();
    let key = adit_relay::key::ClientKey::load_or_create(&dir.path().join("state")).unwrap();
    let (code, out, _) = said(&adit(dir.path(), "relay check -c a.yaml"));
    assert!(code == 0 && out.contains(&key.public().to_string()), "{out}");
    write(dir.path(), "a.yaml", &gateway_at(&url, &pin, "[lab, lap]"), 0o644);
    let (code, out, _) = said(&adit(dir.path(), "relay check -c a.yaml"));
    assert!(code == 1 && out.contains("rooms lab, lap\n") && out.contains("ok     room lab: may be there"), "{out}");
    assert!(out.contains("WRONG  room lap: ") && out.contains("no such room (lap)"), "{out}");
    write(dir.path(), "a.yaml", "name: a\npeers: []\n", 0o644);
    assert_eq!(said(&adit(dir.path(), "relay check -c a.yaml")).0, 1);

    let way_in = format!("relay check --relay {url} --pin {pin} --room lab --token-file");
    write(dir.path(), "open.token", &std::fs::read_to_string(dir.path().join("relay/lab.token")).unwrap(), 0o644);
    let (code, out, _) = said(&adit(dir.path(), &format!("{way_in} open.token")));
    assert!(
        code == 1 && out.contains("WRONG") && out.contains("chmod 600 open.token") && out.contains("registered in "),
        "{out}"
    );
    let (code, _, err) = said(&adit(dir.path(), &format!("{way_in} none.token")));
    assert!(code == 1 && err.contains("none.token does not exist; copy it from the relay"), "{err}");
}

#[test]
fn a_relays_file_and_a_gateways_are_told_from_each_other() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(said(&adit(dir.path(), "relay init --dir . --name localhost")).0, 0);
    write(dir.path(), "a.yaml", &gateway_at("relay.example.org", "x", "[lab]"), 0o644);
    for line in ["config check relay.yaml", "run -c relay.yaml"] {
        let (code, _, err) = said(&adit(dir.path(), line));
        assert!(code == 1 && err.contains("this is a relay's file") && err.matches("expected:").count() == 1, "{line}: {err}");
    }
    let (code, _, err) = said(&adit(dir.path(), "relay -c a.yaml"));
    assert!(code == 78 && err.contains("this is a gateway's file") && err.matches("expected:").count() == 1, "{err}");
    let text = std::fs::read_to_string(dir.path().join("relay.yaml")).unwrap();
    write(dir.path(), "b.yaml", &text.replace("token_file: lab.token", "token_file: none.token"), 0o644);
    let line = text.lines().position(|line| line.contains("token_file: lab.token")).unwrap() + 1;
    let (_, _, err) = said(&adit(dir.path(), "relay check -c b.yaml"));
    assert!(err.contains(&format!("b.yaml:{line}:5: ")) && err.contains("|     ^^^^^^^^^^\n"), "{err}");
}

#[test]
fn relay_check_says_when_it_could_try_nothing() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(said(&adit(dir.path(), "relay init --dir . --name relay.example.org")).0, 0);
    let text = std::fs::read_to_string(dir.path().join("relay.yaml")).unwrap();
    let listed = format!("keys: [\"{}\"]", "A".repeat(43));
    write(dir.path(), "relay.yaml", &text.replace("token_file: lab.token", &listed), 0o644);
    let (code, out, _) = said(&adit(dir.path(), "relay check -c relay.yaml"));
    assert!(code == 1 && out.contains("WRONG  nothing was tried"), "{out}");
    assert!(out.contains("--relay relay.example.org:443 --pin "), "{out}");
}

#[test]
fn relay_init_says_once_what_is_in_the_way_and_warns_of_a_bare_name() {
    let dir = tempfile::tempdir().unwrap();
    let (code, out, _) = said(&adit(dir.path(), "relay init --dir relay"));
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!((code, out.contains("WARNING: `")), (0, adit_relay::init::is_bare(name.trim())), "{out}");
    let (code, _, err) = said(&adit(dir.path(), "relay init --dir relay"));
    assert_eq!((code, err.matches("exists and is not overwritten").count()), (1, 1), "{err}");
    assert!(err.contains("--dir DIR"), "{err}");
    let (_, out, _) = said(&adit(dir.path(), "relay init --dir other --name vm"));
    assert!(!out.contains("WARNING: `"), "{out}");
}
