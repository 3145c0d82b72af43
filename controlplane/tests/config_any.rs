//! Any file at all: it is a configuration that can be shown and used, or its mistakes are told, all of them, where they are.

use std::path::Path;

use adit_controlplane::config::{Config, Machine, Problem, Problems, keys};
use adit_controlplane::static_key::{SECRET_LEN, Secret};
use adit_proto::suite::Suite;
use proptest::prelude::*;
use proptest::sample::select;

/// Numbers at which something may end, and words that mean something somewhere.
const WORDS: &[&str] = &[
    "0",
    "1",
    "2",
    "3",
    "4",
    "63",
    "64",
    "65",
    "100",
    "1279",
    "1280",
    "1400",
    "1418",
    "1500",
    "4500",
    "9000",
    "65535",
    "65536",
    "1048576",
    "4294967295",
    "4294967296",
    "18446744073709551615",
    "18446744073709551616",
    "-1",
    "1e9",
    "0x10",
    "1_000",
    "~",
    "true",
    "false",
    "yes",
    "auto",
    "both",
    "ip",
    "ethernet",
    "io_uring",
    "poll",
    "aws-lc",
    "initiator",
    "responder",
    "site-a",
    "site-b",
    "b.key",
    "b.psk",
    "missing",
    ".",
    "..",
    "/",
    "adit0",
    "br0",
    "0.0.0.0",
    "\"[::]:4500\"",
    "0.0.0.0:4500",
    "192.0.2.1:4500",
    "192.0.2.2:0",
    "\"[2001:db8::2]:4500\"",
    "10.1.0.1/24",
    "10.1.0.0/24",
    "0.0.0.0/0",
    "\"::/0\"",
    "10.2.0.0/33",
    "\"fd00::1/64\"",
    "\"02:00:00:00:00:0b\"",
    "\"ff:ff:ff:ff:ff:ff\"",
    "tcp",
    "443",
    "0-65535",
    "65535-0",
    "*",
    "\"*.example.org\"",
    "CN=a",
    "keyid:00",
    "aes128gcm16",
    "aes256gcm16-prfsha384-x25519-ke1_mlkem768",
    "ke7_none",
    "\"\"",
    "\"\\u202e\"",
    "ä",
];

/// A value of any shape, as YAML in one line.
fn value() -> BoxedStrategy<String> {
    let word = prop_oneof![8 => select(WORDS).prop_map(str::to_owned), 1 => "[ -~]{0,20}", 1 => "\\PC{0,8}".prop_map(|text| format!("{text:?}"))];
    let names: Vec<&str> = keys().iter().flat_map(|(_, keys)| keys.iter().copied()).collect();
    word.prop_recursive(3, 24, 4, move |inner| {
        prop_oneof![
            2 => prop::collection::vec(inner.clone(), 0..4).prop_map(|list| format!("[{}]", list.join(", "))),
            1 => prop::collection::vec((select(names.clone()), inner), 0..4).prop_map(|block| {
                let block: Vec<String> = block.into_iter().map(|(key, value)| format!("{key}: {value}")).collect();
                format!("{{ {} }}", block.join(", "))
            }),
        ]
    })
    .boxed()
}

/// A good value of a key, so that files get past the first questions.
fn good(block: &str, key: &str) -> Option<&'static str> {
    Some(match (block, key) {
        ("", "name") => "site-a",
        ("", "listen") => "\"[::]:4500\"",
        ("", "mode") => "ip",
        ("interface", "name") => "adit0",
        ("peers[]", "name") => "site-b",
        ("peers[]", "endpoint") => "192.0.2.2:4500",
        ("peers[]", "static_key_file") => "b.key",
        ("peers[].ike", "psk_file") => "b.psk",
        ("peers[].selectors[]", "local") => "10.1.0.0/24",
        ("peers[].selectors[]", "remote") => "10.2.0.0/24",
        _ => return None,
    })
}

/// The keys of a block with wild values; keys that lead to blocks are written by `file`.
fn block(path: &'static str) -> BoxedStrategy<String> {
    let keys = keys().iter().find(|(name, _)| *name == path).map(|(_, keys)| *keys).unwrap_or_default();
    let mut all: Vec<BoxedStrategy<Option<String>>> = Vec::new();
    for key in keys.iter().copied().filter(|key| !["interface", "dataplane", "forwarding", "peers", "selectors"].contains(key)) {
        let wild = value().prop_map(move |value| Some(format!("{key}: {value}")));
        all.push(match good(path, key) {
            Some(good) => prop_oneof![12 => Just(Some(format!("{key}: {good}"))), 1 => wild, 1 => Just(None)].boxed(),
            None => prop_oneof![6 => Just(None), 1 => wild].boxed(),
        });
    }
    all.prop_map(|keys| keys.into_iter().flatten().collect::<Vec<_>>().join(", ")).boxed()
}

prop_compose! {
    fn file()(
        root in block(""),
        interface in block("interface"),
        dataplane in block("dataplane"),
        forwarding in block("forwarding"),
        cores in prop::option::of(prop::collection::vec(0u8..5, 0..5)),
        peers in prop::collection::vec((block("peers[]"), block("peers[].ike"), prop::collection::vec(block("peers[].selectors[]"), 0..3)), 0..4),
    ) -> String {
        let cores = cores.map_or(String::new(), |cores| format!("cores: {cores:?}, "));
        let peers: Vec<String> = peers.into_iter().map(|(peer, ike, selectors)| {
            let selectors: Vec<String> = selectors.into_iter().map(|one| format!("{{ {one} }}")).collect();
            let keys = if peer.contains("static_key_file") { String::new() } else { format!(", ike: {{ {ike} }}") };
            format!("{{ {peer}{keys}, selectors: [{}] }}", selectors.join(", "))
        }).collect();
        let root = root.replace(", ", "\n");
        format!("{root}\ninterface: {{ {interface} }}\ndataplane: {{ {cores}{dataplane} }}\nforwarding: {{ {forwarding} }}\npeers: [{}]\n", peers.join(", "))
    }
}

fn directory() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let key = Secret::from_bytes(Suite::Aes128Gcm, [1; SECRET_LEN]).to_file_text();
    for (name, text) in [("b.key", key.as_str()), ("b.psk", "a preshared key that is long enough\n")] {
        std::fs::write(dir.path().join(name), text).unwrap();
        std::fs::set_permissions(dir.path().join(name), std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    dir
}

fn read(source: &str, dir: &Path) -> Result<Config, Vec<Problem>> {
    Config::from_yaml(source, dir, &Machine { cores: vec![0, 1] })
}

/// What holds for every file.
fn judge(source: &str, dir: &Path) {
    match read(source, dir) {
        Ok(config) => {
            let shown = config.to_yaml().expect("every path is UTF-8");
            let again = read(&shown, dir).unwrap_or_else(|problems| panic!("{source}\nis shown as\n{shown}\n{:?}", problems[0]));
            assert_eq!(again, config, "{shown}");
            assert!(
                config.dataplane.workers > 0 && config.sa_slots() > 0 && config.max_peers() > 0 && config.max_selectors() > 0
            );
            let _ = (config.routes(), config.to_string());
            let wanted = adit_controlplane::desired::static_key::sas(&config);
            assert_eq!(wanted.is_empty(), config.peers.iter().all(|peer| peer.secret().is_none()));
        }
        Err(problems) => {
            assert!(!problems.is_empty(), "{source}");
            for problem in &problems {
                assert!(problem.at.line <= source.lines().count() + 1, "{problem:?}");
                let said = [&problem.what, &problem.expected, &problem.write];
                assert!(said.iter().all(|text| !text.is_empty()), "{problem:?}");
            }
            assert!(!Problems::new("a.yaml".into(), source, problems).to_string().is_empty());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_value_of_any_key_is_judged(source in file()) {
        judge(&source, directory().path());
    }

    #[test]
    fn any_text_is_judged(source in "(\\PC|[\n \t:{}\\[\\]&*!|>'\",#-]){0,200}") {
        judge(&source, Path::new("/nowhere"));
    }
}

/// Each a line of its own in a file that is good without them.
const MISTAKES: &[(&str, &str)] = &[
    ("listen: 0.0.0.0:4500", "listen: 0.0.0.0"),
    ("  name: adit0", "  nmae: adit0"),
    ("  addresses: [10.1.0.1/24]", "  addresses: 10.1.0.1/24"),
    ("  workers: 1", "  workers: two"),
    ("  io: auto", "  io: { fast: true }"),
    ("  ageing_s: 300", "  ageing: [300]"),
    ("    endpoint: 192.0.2.2:4500", "    endpoint: 192.0.2.2:0"),
    ("    lanes: 4", "    lanes: 4\n    lanes: 5"),
    ("    ike: { psk_file: b.psk }", "    psk: hunter2"),
    ("    defer_checksums: true", "    defer_checksums: yes"),
    ("metrics: { listen: 127.0.0.1:9464 }", "metrics: 9464"),
];

proptest! {
    #[test]
    fn every_mistake_is_told_at_once(which in prop::sample::subsequence((0..MISTAKES.len()).collect::<Vec<_>>(), 0..=MISTAKES.len())) {
        let mut source = "name: site-a\nlisten: 0.0.0.0:4500\ninterface:\n  name: adit0\n  addresses: [10.1.0.1/24]\ndataplane:\n  workers: 1\n  \
            io: auto\nforwarding:\n  ageing_s: 300\npeers:\n  - name: site-b\n    endpoint: 192.0.2.2:4500\n    lanes: 4\n    \
            ike: { psk_file: b.psk }\n    defer_checksums: true\nmetrics: { listen: 127.0.0.1:9464 }\n".to_owned();
        for (good, bad) in which.iter().map(|index| MISTAKES[*index]) {
            prop_assert!(source.contains(good));
            source = source.replacen(good, bad, 1);
        }
        let reported = read(&source, directory().path()).err().unwrap_or_default();
        let lines: std::collections::BTreeSet<usize> = reported.iter().map(|problem| problem.at.line).collect();
        // An inline secret leaves the peer without a key: that is missed as well, at another line.
        let inline = source.contains("psk: hunter2");
        prop_assert_eq!(lines.len() - usize::from(inline), which.len(), "{}\n{:#?}", source, reported);
        prop_assert!(reported.iter().all(|problem| !problem.key.is_empty()), "{:#?}", reported);
    }
}

#[test]
fn the_third_core_of_two_is_refused_with_what_there_is() {
    let source = "name: site-a\nlisten: 0.0.0.0:4500\ninterface: { name: adit0 }\ndataplane:\n  cores: [2]\npeers:\n  \
        - { name: site-b, endpoint: \"192.0.2.2:4500\", ike: { psk_file: b.psk } }\n";
    let dir = directory();
    let problems = read(source, dir.path()).expect_err("there are two cores");
    assert_eq!(
        Problems::new("site-a.yaml".into(), source, problems).to_string().lines().collect::<Vec<_>>(),
        [
            "site-a.yaml:5:11: there is no core 2 for adit",
            "    5 |   cores: [2]",
            "      |           ^",
            "  key:      dataplane.cores[0]",
            "  expected: one of the 2 cores that adit may use here: [0, 1]",
            "  write:    0",
        ]
    );
    // Either of the two is taken, and says that there is one worker.
    for core in 0..2 {
        let config = read(&source.replace("[2]", &format!("[{core}]")), dir.path()).expect("a core that there is");
        assert_eq!((config.dataplane.workers, config.dataplane.cores), (1, Some(vec![core])));
    }
}
