//! What a configuration means: identities with their types, a certificate for another key, what words of other programs are answered
//! with, who is sent frames in two packets, and what routes take.

use std::os::unix::fs::PermissionsExt;

use adit_controlplane::config::{Config, Machine, Problem, Remedy, foreign_words};
use adit_controlplane::static_key::{SECRET_LEN, Secret};
use adit_engine::crypto::PublicKey;
use adit_engine::identity::Identity;
use adit_proto::suite::Suite;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, PKCS_ED25519};
use serde_yaml::Value;

/// A directory with every file that is named here.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let place = Place { dir: tempfile::tempdir().unwrap() };
        let key = || KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let (own, other, authority) = (key(), key(), key());
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        for (name, text) in [
            ("own.key", own.serialize_pem()),
            ("own.pub", own.public_key_pem()),
            ("own.crt", certificate(&own)),
            ("other.crt", certificate(&other)),
            ("site-b.pub", other.public_key_pem()),
            ("ca.crt", ca.self_signed(&authority).unwrap().pem()),
            ("site-b.psk", "a preshared key that is long enough\n".to_owned()),
            ("site-b.key", Secret::from_bytes(Suite::Aes128Gcm, [1; SECRET_LEN]).to_file_text().to_string()),
            ("lab.token", "3f786850e387550fdab836ed7e6dc881de23001b\n".to_owned()),
            ("api.token", "89e6c98d92887913cadf06b2adb97f26cde4849b\n".to_owned()),
        ] {
            let file = place.dir.path().join(name);
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        place
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap()
    }

    fn load(&self, yaml: &str) -> Result<Config, Vec<Problem>> {
        Config::from_yaml(yaml, self.dir.path(), &Machine { cores: vec![0, 1, 2, 3] })
    }

    fn loaded(&self, yaml: &str) -> Config {
        self.load(yaml).unwrap_or_else(|problems| panic!("{yaml}\n{problems:#?}"))
    }
}

fn certificate(key: &KeyPair) -> String {
    CertificateParams::new(vec!["site-a".to_owned()]).unwrap().self_signed(key).unwrap().pem()
}

/// A good file.
const GOOD: &str = "\
name: site-a
listen: 0.0.0.0:4500
interface: { name: adit0 }
ike: { key_file: own.key }
peers:
  - { name: site-b, endpoint: \"192.0.2.2:4500\", ike: { psk_file: site-b.psk } }
relay: { url: \"wss://relay.example.org\", pin: sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA, rooms: [lab] }
api: { listen: 127.0.0.1:9465, token_file: api.token }
";

#[test]
fn a_type_before_an_identity_is_taken_and_shown() {
    let place = Place::new();
    let yaml = GOOD
        .replace("ike: { key_file", "ike: { id: \"fqdn:192.0.2.1\", key_file")
        .replace("ike: { psk_file", "ike: { id: \"fqdn:192.0.2.2\", psk_file");
    let config = place.loaded(&yaml);
    let name = |text: &str| Identity::Fqdn(text.to_owned());
    assert_eq!(config.ike.id, name("192.0.2.1"));
    assert_eq!(config.peers[0].ike().unwrap().id.exact(), Some(&name("192.0.2.2")));
    let shown = config.to_yaml().unwrap();
    assert!(shown.contains("fqdn:192.0.2.1") && shown.contains("fqdn:192.0.2.2"), "{shown}");
    assert_eq!(place.loaded(&shown), config);
    // Without their types they are addresses.
    let config = place.loaded(&yaml.replace("fqdn:", ""));
    let address = |text: &str| Identity::Ip(text.parse().unwrap());
    assert_eq!(config.ike.id, address("192.0.2.1"));
    assert_eq!(config.peers[0].ike().unwrap().id.exact(), Some(&address("192.0.2.2")));
}

#[test]
fn a_certificate_for_another_key_is_named_with_both_keys() {
    let place = Place::new();
    let with = |name: &str| {
        GOOD.replace("ike: { key_file: own.key }", &format!("ike:\n  key_file: own.key\n  certificate_file: {name}"))
    };
    place.loaded(&with("own.crt"));
    let problems = place.load(&with("other.crt")).expect_err("it is for another key");
    let [problem] = problems.as_slice() else { panic!("{problems:#?}") };
    assert_eq!((problem.key.as_str(), problem.at.line), ("ike.certificate_file", 6));
    for file in ["own.pub", "site-b.pub"] {
        let key = PublicKey::from_pem(place.read(file).as_bytes()).unwrap().to_string();
        assert!(problem.what.contains(&key), "{key}, the key of {file}, is not in: {}", problem.what);
    }
    assert!(problem.what.contains("other.crt"), "{}", problem.what);
    assert!(problem.write.contains("issued for this key") && problem.write.contains("key_file"), "{}", problem.write);
}

/// Puts what a remedy says into a block: what is there already is changed, the rest stays.
fn put(into: &mut Value, what: &Value) {
    const PROOFS: [&str; 3] = ["psk_file", "public_key_file", "ca_file"];
    let is_proof = |key: &Value| key.as_str().is_some_and(|key| PROOFS.contains(&key));
    match (into, what) {
        (Value::Mapping(into), Value::Mapping(what)) => {
            // A peer proves itself in one way.
            if what.keys().any(is_proof) {
                into.retain(|key, _| !is_proof(key));
            }
            for (key, value) in what {
                match into.get_mut(key) {
                    Some(old) => put(old, value),
                    None => drop(into.insert(key.clone(), value.clone())),
                }
            }
        }
        (into, what) => *into = what.clone(),
    }
}

/// A block of a file.
type Block = fn(&mut Value) -> &mut Value;

/// The blocks that the bracket of a remedy names.
fn blocks(place: &str) -> Vec<Block> {
    let (top, peer): (Block, Block) = (|root| root, |root| &mut root["peers"][0]);
    let (own_ike, peer_ike): (Block, Block) = (|root| &mut root["ike"], |root| &mut root["peers"][0]["ike"]);
    let (relay, api): (Block, Block) = (|root| &mut root["relay"], |root| &mut root["api"]);
    let named = [
        ("in the peer", vec![peer]),
        ("at the top", vec![top]),
        ("in `ike`", vec![own_ike, peer_ike]),
        ("in `relay` or `api`", vec![relay, api]),
    ];
    let found = named.into_iter().find(|(name, _)| place.starts_with(name));
    found.unwrap_or_else(|| panic!("no block is named by `{place}`")).1
}

#[test]
fn what_is_to_be_written_for_a_word_of_another_program_is_no_mistake() {
    let (place, mut loaded) = (Place::new(), 0);
    for (words, Remedy { write, .. }) in foreign_words() {
        if *write == "nothing: remove it" {
            continue;
        }
        let (yaml, rest) = write.split_once("      (").unwrap_or_else(|| panic!("{words:?}: `{write}` does not say where"));
        let what: Value = serde_yaml::from_str(yaml).unwrap_or_else(|error| panic!("{words:?}: `{yaml}` is no YAML: {error}"));
        assert!(matches!(&what, Value::Mapping(keys) if !keys.is_empty()), "{words:?}: `{yaml}` has no key");
        for block in blocks(rest) {
            let mut root: Value = serde_yaml::from_str(GOOD).unwrap();
            if write.contains("mode: ip") {
                root["mode"] = "ip".into();
                root["peers"][0]["selectors"] = serde_yaml::from_str("[{ local: 10.1.0.0/24, remote: 10.9.0.0/24 }]").unwrap();
            }
            put(block(&mut root), &what);
            place.loaded(&serde_yaml::to_string(&root).unwrap());
            loaded += 1;
        }
    }
    assert!(loaded > 20, "only {loaded} were tried");
}

#[test]
fn every_word_of_another_program_is_answered_in_every_spelling() {
    let place = Place::new();
    for (words, remedy) in foreign_words() {
        for word in *words {
            let capital = word[..1].to_uppercase() + &word[1..];
            let (first, second) = word.split_at(word.len() / 2);
            for spelling in [(*word).to_owned(), capital, format!("{first}-{second}"), format!("{first}_{second}")] {
                let problems = place.load(&format!("{GOOD}forwarding: {{ {spelling}: x }}\n")).expect_err("there is no such key");
                let [problem] = problems.as_slice() else { panic!("{spelling}: {problems:#?}") };
                assert!(problem.what.ends_with(remedy.what) && problem.write == remedy.write, "{spelling}: {problem:#?}");
            }
        }
    }
}

#[test]
fn who_wants_to_authenticate_anew_is_not_told_how_to_rekey() {
    let place = Place::new();
    for word in ["reauth_time", "reauthtime", "reauth"] {
        let problems =
            place.load(&GOOD.replace("name: site-b,", &format!("name: site-b, {word}: 86400,"))).expect_err("no such key");
        assert_eq!(problems[0].write, "ike: { reauth_s: 86400 }      (in the peer)", "{word}");
    }
    let config = place.loaded(&GOOD.replace("psk_file: site-b.psk", "psk_file: site-b.psk, reauth_s: 86400"));
    assert_eq!(config.peers[0].ike().unwrap().reauth_s, 86_400);
}

/// A file with a static key instead of IKE, and these lines.
fn by_static_key(of_peer: &str, more: &str) -> String {
    GOOD.replace("ike: { psk_file: site-b.psk }", &format!("static_key_file: site-b.key{of_peer}")) + more
}

#[test]
fn frames_go_in_two_packets_only_where_both_ends_say_so() {
    let place = Place::new();
    for (here, there, both) in [("split", true, true), ("split", false, false), ("icmp", true, false), ("icmp", false, false)] {
        let config = place.loaded(&by_static_key(&format!(", split: {there}"), &format!("oversize: {here}\n")));
        assert_eq!(config.splits(&config.peers[0]), both, "oversize: {here} here, split: {there} of the peer");
    }
    let config = place.loaded(&by_static_key("", "oversize: split\n"));
    assert!(!config.splits(&config.peers[0]), "nobody has said so of the other end");
}

#[test]
fn a_route_takes_what_the_way_carries_and_over_ipv6_no_less_than_1280() {
    let selectors = ", selectors: [{ local: 10.1.0.0/24, remote: 10.2.0.0/24 }, { local: \"fd01::/64\", remote: \"fd02::/64\" }]";
    let config = Place::new().loaded(&by_static_key(selectors, "mode: ip\n"));
    for (known, expected) in [
        (Some(1238), [1238, 1280]),
        (Some(1338), [1338, 1338]),
        // No longer than the packets of the interface.
        (Some(9000), [1438, 1438]),
        (None, [1438, 1438]),
    ] {
        let routes: Vec<_> = config.routes_where(|_| known).into_iter().map(|route| (route.to.to_string(), route.mtu)).collect();
        let [v4, v6] = expected;
        assert_eq!(routes, [("10.2.0.0/24".to_owned(), Some(v4)), ("fd02::/64".to_owned(), Some(v6))], "{known:?}");
    }
}
