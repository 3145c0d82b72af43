//! When there is another client of the relay, and when the same.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::config::Machine;

/// A gateway with a token and a CA; the relay is nowhere.
fn desired(dir: &Path) -> Desired {
    write(dir, "psk", "a preshared key that is long enough");
    write(dir, "token", "a0123456789012345678901");
    write(dir, "ca.crt", &ca());
    let yaml = format!(
        "name: a\nlisten: 0.0.0.0:4500\ninterface: {{ name: adit0 }}\nstate_dir: {}\n\
         relay: {{ url: wss://127.0.0.1:1, ca_file: ca.crt, rooms: [lab], token_file: token }}\n\
         peers:\n  - {{ name: b, ike: {{ id: b.example.org, psk_file: psk }} }}\n",
        dir.display()
    );
    write(dir, "adit.yaml", &yaml);
    Desired::read(&dir.join("adit.yaml"), &Machine { cores: vec![0] }).unwrap_or_else(|problems| panic!("{problems}"))
}

fn write(dir: &Path, name: &str, text: &str) {
    let file = dir.join(name);
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
}

fn ca() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    rcgen::CertificateParams::new(vec!["relay.example.org".to_owned()]).unwrap().self_signed(&key).unwrap().pem()
}

#[tokio::test]
async fn why_there_is_no_registration_is_of_this_relay_and_since_it_was_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (mut streams, now) = (Streams::default(), desired(dir.path()));
    assert!(streams.out_of_relay().is_none(), "no relay is configured");
    streams.keep(&now);
    let since = streams.registered;
    streams.complain("relay 127.0.0.1:1: the connection was refused".to_owned());
    streams.is_registered(false);
    assert_eq!(streams.registered, since, "another attempt is no other loss");
    assert!(streams.out_of_relay().is_some_and(|why| why.contains("refused")));
    let mut other = now.clone();
    other.config.relay.as_mut().unwrap().at = "127.0.0.2:1".parse().unwrap();
    assert!(streams.keep(&other) && streams.said.is_none());
    assert!(streams.out_of_relay().is_some_and(|why| why.contains("127.0.0.2:1") && !why.contains("refused")));
}

#[tokio::test]
async fn a_token_or_ca_that_was_renewed_makes_another_client() {
    let dir = tempfile::tempdir().unwrap();
    let (mut streams, mut now) = (Streams::default(), desired(dir.path()));
    let mut keep = |desired: &Desired| {
        let is_other = streams.keep(desired);
        assert!(streams.client.is_some(), "{:?}", streams.said);
        is_other
    };
    assert!(keep(&now) && !keep(&now));
    for (name, text) in [("token", "b0123456789012345678901"), ("ca.crt", &ca())] {
        now = now.renewed(&Machine { cores: vec![0] }).unwrap();
        assert!(!keep(&now), "nothing was renewed");
        write(dir.path(), name, text);
        now = now.renewed(&Machine { cores: vec![0] }).unwrap();
        assert!(keep(&now) && !keep(&now), "{name}");
    }
}
