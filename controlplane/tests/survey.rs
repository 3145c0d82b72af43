//! What `adit config check` finds on the machine: overlaps, the bridge, and what becomes of an own certificate.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use adit_controlplane::config::{Config, Machine};
use adit_controlplane::netlink::RouteThere;
use adit_controlplane::survey::{Finding, Surroundings, judge, refusal};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, date_time_ymd};

/// 2027-06-01 00:00 UTC.
const NOW: u64 = 1_811_808_000;

fn config(dir: &Path, more: &str, peer: &str) -> Config {
    let write = |name: &str, text: &str| {
        std::fs::write(dir.join(name), text).unwrap();
        std::fs::set_permissions(dir.join(name), std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("b.psk", "a preshared key that is long enough\n");
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let mut params = CertificateParams::new(vec!["a.example.org".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(2027, 1, 1), date_time_ymd(2028, 1, 1));
    write("own.crt", &params.self_signed(&key).unwrap().pem());
    write("own.key", &key.serialize_pem());
    let yaml = format!(
        "name: a\nlisten: 0.0.0.0:4500\ndataplane: {{ workers: 1 }}\n{more}\npeers:\n  \
         - {{ name: b, endpoint: 192.0.2.2:4500, ike: {{ psk_file: b.psk }}{peer} }}\n"
    );
    Config::from_yaml(&yaml, dir, &Machine { cores: vec![0] }).unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn found(findings: &[Finding]) -> Vec<(&str, bool)> {
    findings.iter().map(|finding| (finding.key.as_str(), finding.fatal)).collect()
}

#[test]
fn an_inner_network_inside_that_of_another_interface_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let around = |address: &str, name: &str| Surroundings {
        addresses: vec![(name.to_owned(), address.parse().unwrap())],
        bridge: true,
        now: NOW,
        ..Surroundings::default()
    };
    let selectors = ", selectors: [{ local: 10.1.0.0/24, remote: 10.2.0.0/24 }, { local: 10.1.0.0/24, remote: 10.0.0.0/8 }]";
    let config = config(dir.path(), "mode: ip\ninterface: { name: adit0, addresses: [10.9.0.1/32] }", selectors);
    for (address, name, expected) in [
        ("10.2.0.7/24", "eth1", Some("peers[0].selectors[0].remote")),
        ("10.2.0.7/16", "eth1", Some("peers[0].selectors[0].remote")),
        ("10.9.0.7/24", "eth1", Some("interface.addresses[0]")),
        ("10.9.0.1/32", "adit0", None),
        ("11.1.0.1/24", "eth1", None),
        ("10.2.0.7/25", "eth1", None),
        ("fd00::1/64", "eth1", None),
    ] {
        let findings = judge(&config, &around(address, name));
        let expected: Vec<_> = expected.into_iter().map(|key| (key, true)).collect();
        assert_eq!(found(&findings), expected, "{address} on {name}");
        assert!(findings.iter().all(|finding| finding.what.contains("on eth1")), "{findings:?}");
    }
}

#[test]
fn an_inner_network_to_which_another_interface_has_a_route_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let around = |to: &str, routed: bool, name: &str| Surroundings {
        routes: vec![RouteThere { interface: name.to_owned(), to: to.parse().unwrap(), routed }],
        bridge: true,
        now: NOW,
        ..Surroundings::default()
    };
    let selectors = ", selectors: [{ local: 10.1.0.0/24, remote: 10.2.0.0/24 }, { local: 10.1.0.0/24, remote: 10.0.0.0/8 }]";
    let config = config(dir.path(), "mode: ip\ninterface: { name: adit0, addresses: [10.9.0.1/32] }", selectors);
    for (to, routed, name, expected) in [
        ("10.2.0.0/24", true, "eth1", true),
        ("10.2.0.0/24", false, "eth1", true),
        ("10.2.0.0/16", false, "eth1", true),
        // A more specific one beside it is what people mean.
        ("10.2.0.0/16", true, "eth1", false),
        ("0.0.0.0/1", true, "tun7", false),
        ("10.2.0.0/25", true, "eth1", false),
        ("0.0.0.0/0", true, "eth1", false),
        ("10.2.0.0/24", true, "adit0", false),
        ("10.3.0.0/24", false, "eth1", false),
    ] {
        let around = around(to, routed, name);
        let findings = judge(&config, &around);
        let expected: Vec<_> = expected.then_some(("peers[0].selectors[0].remote", true)).into_iter().collect();
        assert_eq!(found(&findings), expected, "{to} through {name}");
        let refused = refusal(Path::new("a.yaml"), &config, &around);
        assert_eq!(refused.is_some(), !expected.is_empty());
        let names = |text: &String| text.contains(to) && text.contains("through eth1") && text.starts_with("a.yaml: peers[0]");
        assert!(refused.iter().all(names), "{refused:?}");
        assert_eq!(judge(&config, &around.without(name)), []);
    }
}

#[test]
fn the_program_of_the_data_plane_is_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("adit-dataplane");
    let mut config = config(dir.path(), "interface: { name: adit0 }", "");
    config.dataplane.binary = Some(program.clone());
    let around =
        Surroundings { now: NOW, bridge: true, addresses: Vec::new(), routes: Vec::new(), ..Surroundings::here(&config) };
    let findings = judge(&config, &around);
    assert_eq!(found(&findings), [("dataplane.binary", false)]);
    assert!(findings[0].what.contains(&program.display().to_string()) && !findings[0].write.is_empty(), "{findings:?}");
    assert_eq!(refusal(Path::new("a.yaml"), &config, &around), None, "it may be installed later");
    std::fs::write(&program, "").unwrap();
    assert_eq!(Surroundings::here(&config).program, None);
}

#[test]
fn our_certificate_is_judged_by_its_dates_and_names() {
    let dir = tempfile::tempdir().unwrap();
    let own = |id: &str| {
        let more = format!("interface: {{ name: adit0 }}\nike: {{ id: {id}, key_file: own.key, certificate_file: own.crt }}");
        config(dir.path(), &more, "")
    };
    let at = |config: &Config, now: u64| judge(config, &Surroundings { now, bridge: true, ..Surroundings::default() });
    let good = own("a.example.org");
    assert_eq!(at(&good, NOW), []);
    let month_before = date_time_ymd(2027, 12, 10).unix_timestamp() as u64;
    let warned = at(&good, month_before);
    assert_eq!(found(&warned), [("ike.certificate_file", false)]);
    assert!(warned[0].what.contains("for 22 more days"), "{warned:?}");
    assert_eq!(found(&at(&good, month_before + 30 * 86_400)), [("ike.certificate_file", true)]);
    assert_eq!(found(&at(&good, NOW - 365 * 86_400)), [("ike.certificate_file", true)]);
    let other = at(&own("b.example.org"), NOW);
    assert_eq!(found(&other), [("ike.certificate_file", true)]);
    assert!(other[0].what.contains("is not for b.example.org (domain name)"), "{other:?}");
}

#[test]
fn a_bridge_that_is_not_there_yet_is_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "interface: { name: adit0, bridge: br0 }", "");
    assert_eq!(found(&judge(&config, &Surroundings { now: NOW, ..Surroundings::default() })), [("interface.bridge", false)]);
    assert_eq!(judge(&config, &Surroundings { now: NOW, bridge: true, ..Surroundings::default() }), []);
}

#[test]
fn an_endpoint_or_relay_in_the_tunnel_is_warned_of_unless_reached_outside() {
    let dir = tempfile::tempdir().unwrap();
    let selectors = ", selectors: [{ local: 10.1.0.0/24, remote: 192.0.0.0/16 }]";
    let keys = ["peers[0].endpoint", "relay.url"];
    let of_these = |config: &Config, name: &str, address: &str| -> Vec<String> {
        let addresses = vec![(name.to_owned(), address.parse().unwrap())];
        let findings = judge(config, &Surroundings { addresses, bridge: true, now: NOW, ..Surroundings::default() });
        assert!(findings.iter().all(|one| !one.fatal || !keys.contains(&one.key.as_str())), "{findings:?}");
        findings.into_iter().map(|one| one.key).filter(|key| keys.contains(&key.as_str())).collect()
    };
    let around = "mode: ip\ninterface: { name: adit0, addresses: [10.9.0.1/32] }\n\
        relay: { url: \"wss://192.0.2.9\", pin: sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA, rooms: [lab] }";
    let inside = config(dir.path(), around, selectors);
    for (address, name, warned) in [
        ("192.0.2.1/24", "eth0", false),
        ("192.0.3.1/24", "eth0", true),
        ("192.0.2.1/24", "adit0", true),
        ("10.0.0.1/8", "eth0", true),
    ] {
        let expected: &[&str] = if warned { &keys } else { &[] };
        assert_eq!(of_these(&inside, name, address), expected, "{address} on {name}");
    }
    // What is marked goes around a default route, and around nothing else.
    for (remote, expected) in [("0.0.0.0/0", &[][..]), ("128.0.0.0/1", &keys)] {
        let all = config(dir.path(), around, &format!(", selectors: [{{ local: 10.1.0.0/24, remote: {remote} }}]"));
        assert_eq!(of_these(&all, "eth0", "198.51.100.1/24"), expected, "{remote}");
    }
}
