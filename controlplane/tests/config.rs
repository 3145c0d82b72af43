//! Configuration files from outside: every kind of mistake with the message it gets, the defaults, and the way back to YAML.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use adit_channel::users;
use adit_controlplane::config::{Config, Keys, Machine, Problems};
use adit_controlplane::static_key::{Flow, SECRET_LEN, Secret};
use adit_proto::suite::Suite;

/// A directory with key files, in which configurations are tried out.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let place = Place { dir: tempfile::tempdir().unwrap() };
        place.write("site-b.key", &Secret::from_bytes(Suite::Aes128Gcm, [1; SECRET_LEN]).to_file_text(), 0o600);
        place.write("site-b.psk", "a preshared key that is long enough\n", 0o600);
        place.write("site-b.ppk", "a post-quantum pre-shared key of 256 bits or more\n", 0o600);
        place.write("short.psk", "hunter2\n", 0o600);
        place.write("api.token", "3f786850e387550fdab836ed7e6dc881de23001b\n", 0o600);
        place.write("short.token", "hunter2\n", 0o600);
        place.write("open.psk", "a preshared key that is long enough\n", 0o644);
        place.write("ed25519.key", ED25519, 0o600);
        place.write("ed25519.pub", ED25519_PUBLIC, 0o644);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        std::fs::write(self.path(name), text).unwrap();
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn load(&self, yaml: &str) -> Result<Config, Problems> {
        self.write("site-a.yaml", yaml, 0o644);
        Config::load(&self.path("site-a.yaml"), &Machine { cores: vec![0, 1, 2, 3] })
    }

    /// The message, with this directory's random name taken out.
    fn error(&self, yaml: &str) -> String {
        let error = self.load(yaml).expect_err("the configuration should be refused").to_string();
        let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let owner = format!("user {}, group {}", users::name(user), users::group_name(group));
        error.replace(self.dir.path().to_str().unwrap(), "DIR").replace(&owner, "user ME, group MINE")
    }
}

/// The key of RFC 8410 §10.3, and its public half.
const ED25519: &str =
    "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
const ED25519_PUBLIC: &str =
    "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";

const GOOD: &str = "\
name: site-a
listen: 0.0.0.0:4500
interface: { name: adit0, addresses: [10.1.0.1/24] }
peers:
  - name: site-b
    endpoint: 192.0.2.2:4500
    static_key_file: site-b.key
";

/// The good configuration with one text in it exchanged.
fn with(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from));
    GOOD.replacen(from, to, 1)
}

/// The good configuration with lines after it.
fn and(lines: &str) -> String {
    format!("{GOOD}{lines}\n")
}

/// The good configuration in IP mode, with this in place of the peer's selectors.
fn in_ip_mode(selectors: &str) -> String {
    format!("{GOOD}    {selectors}\nmode: ip\n")
}

/// A gateway in IP mode whose only selector has these fields beside a good `local`.
fn selector(fields: &str) -> String {
    in_ip_mode(&format!("selectors: [{{ local: 10.1.0.0/24, {fields} }}]"))
}

macro_rules! mistakes {
    ($($name:ident: $yaml:expr;)*) => {
        $(
            #[test]
            fn $name() {
                insta::assert_snapshot!(Place::new().error(&$yaml));
            }
        )*
    };
}

/// The good configuration with IKE and this in the peer's block.
fn by_ike(block: &str) -> String {
    with("    static_key_file: site-b.key\n", &format!("    ike: {{ {block} }}\n"))
}

mistakes! {
    from_a_word_that_is_none: and("    from: endpiont");
    from_a_network_with_host_bits: and("    from: [203.0.113.7/24, nowhere]");
    from_no_network: and("    from: []");
    from_an_endpoint_that_there_is_not: by_ike("psk_file: site-b.psk, role: responder")
        .replace("    endpoint: 192.0.2.2:4500\n", "    from: endpoint\n");
    mode_that_is_none: and("mode: ipsec");
    dscp_that_is_none: and("dscp: 64");
    mss_clamp_without_ip_mode: and("mss_clamp: auto");
    oversize_that_is_none: and("oversize: drop");
    split_beside_ike: by_ike("psk_file: site-b.psk") + "    split: true\n";
    mss_clamp_that_is_none: in_ip_mode("selectors: [{ local: 10.1.0.0/24, remote: 10.2.0.0/24 }]") + "mss_clamp: 1400\n";
    selectors_without_ip_mode: and("    selectors: [{ local: 10.1.0.0/24, remote: 10.2.0.0/24 }]");
    ip_mode_without_selectors: and("mode: ip");
    ip_mode_with_what_is_about_ethernet: in_ip_mode("selectors: [{ local: 10.1.0.0/24, remote: 10.2.0.0/24 }]\n    defer_checksums: true")
        .replace("addresses:", "mac: \"02:00:00:00:00:01\", addresses:")
        + "forwarding: { ageing_s: 30, forward: true, static: [{ mac: \"02:00:00:00:00:0b\", peer: site-b }] }\n";
    selector_without_a_remote_network: selector("protocol: tcp");
    selector_of_two_ip_versions: selector("remote: \"fd00:2::/64\"");
    selector_with_host_bits: selector("remote: 10.2.0.7/24");
    selector_with_a_misspelt_protocol: selector("remote: 10.2.0.0/24, protocol: tpc");
    selector_with_ports_but_no_protocol: selector("remote: 10.2.0.0/24, remote_ports: 443");
    selector_with_ports_that_fall: selector("remote: 10.2.0.0/24, protocol: udp, local_ports: 2000-1000");
    selector_given_twice: in_ip_mode("selectors: [{ local: 10.1.0.0/24, remote: 10.2.0.0/24 }, { local: 10.1.0.0/24, remote: 10.2.0.0/24 }]");
    one_network_behind_two_peers: selector("remote: 10.2.0.0/24").replace("mode: ip\n",
        "  - { name: site-c, endpoint: 192.0.2.3:4500, static_key_file: site-b.key, selectors: [{ local: 0.0.0.0/0, remote: 10.2.0.0/24 }] }\nmode: ip\n");
    more_selectors_around_an_address_than_a_look_up_may_look_at: in_ip_mode(&format!(
        "selectors:\n      - {{ local: 10.1.0.0/24, remote: 10.2.0.0/16 }}\n{}",
        (1..=64).map(|port| format!("      - {{ local: 10.1.0.0/24, remote: 10.2.0.0/24, protocol: tcp, remote_ports: {port} }}\n")).collect::<String>()
    ));
    ike_without_a_proof: by_ike("role: both");
    ike_with_two_proofs: by_ike("psk_file: site-b.psk, public_key_file: ed25519.pub");
    ike_beside_a_static_key: and("    ike: { psk_file: site-b.psk }");
    preshared_key_that_can_be_guessed: by_ike("psk_file: short.psk");
    preshared_key_that_others_can_read: by_ike("psk_file: open.psk");
    preshared_key_that_is_not_there: by_ike("psk_file: none.psk");
    public_key_without_a_key_of_our_own: by_ike("public_key_file: ed25519.pub");
    private_key_where_the_public_one_belongs: by_ike("public_key_file: ed25519.key");
    proposal_with_a_misspelt_word: by_ike("psk_file: site-b.psk, proposals: [aes256gmc16-prfsha256-x25519]");
    proposal_without_a_key_exchange: by_ike("psk_file: site-b.psk, proposals: [aes256gcm16-prfsha256]");
    esp_proposal_with_a_prf: by_ike("psk_file: site-b.psk, esp_proposals: [aes256gcm16-prfsha256]");
    ike_role_that_is_none: by_ike("psk_file: site-b.psk, role: server");
    ike_identity_that_is_none: by_ike("psk_file: site-b.psk, id: \"site b\"");
    ike_lifetime_out_of_range: by_ike("psk_file: site-b.psk, rekey_s: 99999999, reauth_s: 5");
    peer_without_an_endpoint_that_does_not_come_to_us: by_ike("psk_file: site-b.psk").replace("    endpoint: 192.0.2.2:4500\n", "");
    key_log_dir_that_is_a_block: and("ike: { key_log_dir: { path: log } }");
    mobike_that_is_no: by_ike("psk_file: site-b.psk, mobike: no");
    ppk_that_can_be_guessed: by_ike("psk_file: site-b.psk, ppk_file: site-b.psk, ppk_id: x").replace("ppk_file: site-b.psk", "ppk_file: short.psk");
    ppk_without_a_name: by_ike("psk_file: site-b.psk, ppk_file: site-b.ppk");
    ppk_with_a_name_of_two_words: by_ike("psk_file: site-b.psk, ppk_file: site-b.ppk, ppk_id: \"two words\"");
    ppk_without_a_key: by_ike("psk_file: site-b.psk, ppk_id: pair");
    ppk_required_without_one: by_ike("psk_file: site-b.psk, ppk_required: true");
    two_peers_with_one_identity: by_ike("psk_file: site-b.psk") + "  - { name: site-c, ike: { psk_file: site-b.psk, id: SITE-B, role: responder } }\n";
    api_without_a_token: and("api: { listen: 127.0.0.1:9465 }");
    api_without_an_address: and("api: { token_file: api.token }");
    api_with_a_token_that_can_be_guessed: and("api: { listen: 127.0.0.1:9465, token_file: short.token }");
    api_with_a_token_that_others_can_read: and("api: { listen: 127.0.0.1:9465, token_file: open.psk }");
    http_name_that_is_none: and("http_names: [gw1.example.org, \"http://gw1.example.org\", \"127.0.0.1\"]");
    api_at_no_port: and("api: { listen: 127.0.0.1:0, token_file: api.token }");
    empty_file: "# nothing\n\n";
    indented_with_a_tab: with("    endpoint", "\tendpoint");
    broken_yaml: with("[10.1.0.1/24] }", "[10.1.0.1/24 }");
    two_documents: and("---\nname: site-c");
    unknown_key_with_a_near_name: with("endpoint", "endpiont");
    unknown_key_in_a_block: and("dataplane:\n  replay-window: 4096");
    unknown_key_without_a_near_name: and("colour: green");
    keys_that_other_programs_have: with("static_key_file: site-b.key", "psk: hunter2\n    AllowedIPs: 10.2.0.0/24\n    left: 192.0.2.1")
        + "PrivateKey: abc=\nmtu: 1400\n";
    key_of_another_block: and("    psk_file: site-b.psk") + "bridge: br0\n";
    list_with_an_item_of_another_shape: with("[10.1.0.1/24]", "[10.1.0.1/24, [10.2.0.1/24]]");
    alias_that_unfolds_into_too_much: (0..40).fold("a0: &a0 [x, x, x, x, x, x]\n".to_owned(), |file, level| {
        format!("{file}a{}: &a{} [{}]\n", level + 1, level + 1, vec![format!("*a{level}"); 6].join(", "))
    });
    key_given_twice: and("name: site-c");
    text_where_a_block_belongs: with("{ name: adit0, addresses: [10.1.0.1/24] }", "adit0");
    text_where_a_list_belongs: with("[10.1.0.1/24]", "10.1.0.1/24");
    block_where_text_belongs: with("site-a", "{ first: site, last: a }");
    block_on_the_next_lines_where_text_belongs: and("runtime_dir:\n  path: /run");
    list_where_a_block_belongs: and("metrics: [127.0.0.1:9464]");
    peers_as_a_block: "name: site-a\nlisten: 0.0.0.0:4500\ninterface: { name: adit0 }\npeers:\n  site-b: { endpoint: 192.0.2.2:4500 }\n";
    missing_keys_at_the_top: "name: site-a\n";
    missing_keys_of_a_peer: with("    static_key_file: site-b.key\n", "");
    missing_name_of_the_interface: with("name: adit0, ", "");
    number_that_is_text: and("dataplane:\n  workers: two");
    boolean_that_is_yes: and("    defer_checksums: yes");
    bad_address: with("0.0.0.0:4500", "example.net:4500");
    address_without_port: with("192.0.2.2:4500", "192.0.2.2");
    ipv6_address_without_port: with("0.0.0.0:4500", "\"::\"");
    port_alone: with("0.0.0.0:4500", ":4500");
    port_zero: with("192.0.2.2:4500", "192.0.2.2:0");
    listen_on_port_500: with("0.0.0.0:4500", "0.0.0.0:500");
    listen_on_a_link_without_its_name: with("0.0.0.0:4500", "\"[fe80::1]:4500\"");
    endpoint_on_a_link_without_its_name: with("192.0.2.2:4500", "\"[fe80::2]:4500\"").replace("0.0.0.0:4500", "\"[::]:4500\"");
    endpoint_that_is_neither_address_nor_name: with("192.0.2.2:4500", "[\"site b\", 192.0.2.300:4500, \"[2001:db8::2%eth0]:4500\"]");
    endpoint_given_twice: with("192.0.2.2:4500", "[site-b.example.org, site-b.example.org:4500]");
    endpoints_none: with("192.0.2.2:4500", "[]");
    port_too_large: with("192.0.2.2:4500", "192.0.2.2:70000");
    endpoint_that_nobody_has: with("192.0.2.2:4500", "0.0.0.0:4500");
    endpoint_of_another_ip_version: with("192.0.2.2:4500", "\"[2001:db8::2]:4500\"");
    ipv4_endpoint_of_an_ipv6_address: with("0.0.0.0:4500", "\"[2001:db8::1]:4500\"");
    name_with_a_slash: with("name: site-a", "name: ../site a");
    peer_listed_twice: and("  - { name: site-b, endpoint: \"192.0.2.3:4500\", static_key_file: site-b.key }");
    endpoint_of_two_peers: and("  - { name: site-c, endpoint: \"192.0.2.2:4500\", static_key_file: site-b.key }");
    peer_with_our_name: with("name: site-b", "name: site-a");
    lanes_out_of_range: and("    lanes: 65");
    address_without_prefix: with("10.1.0.1/24", "10.1.0.1");
    address_that_is_none: with("10.1.0.1/24", "10.1.0.256/24");
    route_to_an_address: with("addresses: [10.1.0.1/24]", "routes: [{ to: 10.9.0.1/16, via: 10.1.0.2 }]");
    route_of_mixed_ip_versions: with("addresses: [10.1.0.1/24]", "routes: [{ to: 10.9.0.0/16, via: \"fd00::2\" }]");
    bridge_that_is_the_interface: with("name: adit0, addresses: [10.1.0.1/24]", "name: adit0, bridge: adit0");
    bridge_with_addresses: with("name: adit0,", "name: adit0, bridge: br0,");
    bridge_with_a_bad_name: with("addresses: [10.1.0.1/24]", "bridge: a/b");
    interface_name_too_long: with("adit0", "adit-to-the-other-site");
    interface_name_with_a_slash: with("adit0", "adit/0");
    mtu_too_small: with("name: adit0,", "name: adit0, mtu: 576,");
    underlay_mtu_out_of_range: and("underlay_mtu: 70000");
    mac_that_is_none: with("name: adit0,", "name: adit0, mac: 02:00:00:00:00,");
    mac_of_a_group: with("name: adit0,", "name: adit0, mac: \"01:00:5e:00:00:01\",");
    workers_zero: and("dataplane: { workers: 0 }");
    workers_too_many: and("dataplane: { workers: 65 }");
    workers_for_which_there_are_no_cores: and("dataplane: { workers: 5 }");
    cores_of_another_number: and("dataplane: { workers: 2, cores: [0] }");
    core_that_does_not_exist: and("dataplane: { workers: 2, cores: [0, 99] }");
    cores_none_of_which_exists: and("dataplane: { cores: [7] }");
    core_given_twice: and("dataplane: { workers: 2, cores: [1, 1] }");
    io_that_does_not_exist: and("dataplane: { io: uring }");
    replay_window_no_power_of_two: and("dataplane: { replay_window: 5000 }");
    replay_window_too_large: and("dataplane: { replay_window: 32768 }");
    socket_buffer_too_small: and("dataplane: { socket_buffer: 1000 }");
    static_address_of_an_unknown_peer: and("forwarding: { static: [{ mac: \"02:00:00:00:00:0b\", peer: site-d }] }");
    static_address_twice:
        and("forwarding:\n  static:\n    - { mac: \"02:00:00:00:00:0b\", peer: site-b }\n    - { mac: \"02:00:00:00:00:0B\", peer: site-b }");
    runtime_directory_too_long: and(&format!("runtime_dir: /run/{}", "long/".repeat(25)));
    key_file_missing: with("site-b.key", "keys/site-c.key");
    everything_at_once: with("0.0.0.0:4500", "0.0.0.0")
        .replace("192.0.2.2:4500", "192.0.2.2:0")
        .replace("adit0", "a/b") + "dataplane: { workers: 99, io: fast }\n";
}

#[test]
fn key_file_that_others_can_read() {
    let place = Place::new();
    std::fs::set_permissions(place.path("site-b.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    insta::assert_snapshot!(place.error(GOOD));
}

#[test]
fn key_files_with_wrong_contents() {
    let place = Place::new();
    let secret = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY=";
    let texts = [
        "hello\n".to_owned(),
        format!("suite: aes-128-gcm\nsecret: {}\n", &secret[..20]),
        "suite: aes-128-gcm\nsecret: %%%\n".to_owned(),
        format!("suite: des\nsecret: {secret}\n"),
        format!("# The other way round.\nsuite: {secret}\nsecret: aes-128-gcm\n"),
        format!("secret: {secret}\n"),
        "suite: aes-256-gcm\n".to_owned(),
        format!("suite: aes-128-gcm\nsecret: {secret}\nsecret: {secret}\n"),
    ];
    let errors = texts.map(|text| {
        place.write("site-b.key", &text, 0o600);
        let error = place.error(GOOD);
        assert!(!error.contains("QUJDR"), "a secret in a message");
        error
    });
    insta::assert_snapshot!(errors.join("\n"));
}

#[test]
fn key_file_that_is_a_directory() {
    let place = Place::new();
    std::fs::create_dir(place.path("dir")).unwrap();
    insta::assert_snapshot!(place.error(&with("site-b.key", "dir")));
}

#[test]
fn spis_of_two_peers_that_collide() {
    let secret = Secret::from_bytes(Suite::Aes128Gcm, [1; SECRET_LEN]);
    let mut seen = std::collections::BTreeMap::new();
    // By the birthday paradox, a few thousand names hold two with the same 22 bits.
    let (first, second) = (0u32..)
        .find_map(|number| {
            let name = format!("peer-{number}");
            let spi = secret.spi(Flow { sender: &name, receiver: "site-a" }, 0);
            seen.insert(spi, name.clone()).map(|other| (other, name))
        })
        .unwrap();
    let peer = |name: &str, host: u32| {
        format!("  - {{ name: {name}, endpoint: \"192.0.2.{host}:4500\", static_key_file: site-b.key }}\n")
    };
    let yaml = format!("{}{}{}", &GOOD[..GOOD.find("  - ").unwrap()], peer(&first, 2), peer(&second, 3));
    insta::assert_snapshot!(Place::new().error(&yaml));
}

/// A configuration with this many peers of 64 lanes and one worker.
fn with_peers(peers: usize) -> String {
    let peer = |number: usize| {
        let (high, low) = (number / 250, number % 250 + 1);
        format!("  - {{ name: peer-{number}, endpoint: \"198.18.{high}.{low}:4500\", static_key_file: site-b.key, lanes: 64 }}\n")
    };
    let peers: String = (1..=peers).map(peer).collect();
    format!("{}{peers}dataplane: {{ workers: 1 }}\n", &GOOD[..GOOD.find("  - ").unwrap()])
}

#[test]
fn more_sas_than_a_worker_can_have() {
    let place = Place::new();
    assert_eq!(place.load(&with_peers(1008)).unwrap().sa_slots(), adit_channel::SA_SLOTS_MAX);
    insta::assert_snapshot!(place.error(&with_peers(1009)));
}

#[test]
fn with_ike_there_must_be_room_for_a_rekey_of_every_lane() {
    let place = Place::new();
    let by_ike = |peers| with_peers(peers).replace("static_key_file: site-b.key", "ike: { psk_file: site-b.psk }");
    assert_eq!(place.load(&by_ike(508)).unwrap().sa_slots(), adit_channel::SA_SLOTS_MAX);
    let error = place.error(&by_ike(509));
    says(&error, &["509 peers with so many lanes need 65661 SAs of each worker", "lanes: 63, for all peers"]);
}

fn says(error: &str, parts: &[&str]) {
    assert!(parts.iter().all(|part| error.contains(part)), "{error}");
}

/// A gateway in IP mode with this many peers, each with so many selectors.
fn with_selectors(peers: usize, selectors: usize, keys: &str) -> String {
    let peer = |number: usize| {
        let (high, low) = (number / 250, number % 250 + 1);
        let network = |n: usize| format!("{{ local: 10.0.0.0/24, remote: 10.{}.{n}.{}/32 }}", number / 255 + 16, number % 255);
        let list = (0..selectors).map(network).collect::<Vec<_>>().join(", ");
        format!("  - {{ name: peer-{number}, endpoint: \"198.18.{high}.{low}:4500\", {keys}, lanes: 1, selectors: [{list}] }}\n")
    };
    let peers: String = (1..=peers).map(peer).collect();
    format!("{}{peers}dataplane: {{ workers: 1 }}\nmode: ip\n", &GOOD[..GOOD.find("  - ").unwrap()])
}

#[test]
fn each_selector_of_a_peer_with_ike_may_need_a_child_sa() {
    let (place, by_ike) = (Place::new(), "ike: { psk_file: site-b.psk }");
    // Four for the one lane of a peer and three for each selector but the first: 766 of 65536.
    let fits = place.load(&with_selectors(85, 255, by_ike)).unwrap();
    assert_eq!((fits.sas_needed(), fits.sa_slots()), (85 * 766, adit_channel::SA_SLOTS_MAX));
    let error = place.error(&with_selectors(86, 255, by_ike));
    says(&error, &["21930 selectors of peers with IKE need 65876 SAs of a worker", "at most 65536 SAs of a worker"]);
    says(&error, &["larger networks, 253 selectors of each peer at most, or some peers in a second gateway"]);
    place.load(&with_selectors(86, 253, by_ike)).unwrap();
    // With a static key a peer has one Child SA for all of them.
    place.load(&with_selectors(86, 255, "static_key_file: site-b.key")).unwrap();
}

#[test]
fn selectors_of_a_peer_and_of_all_peers_have_a_limit_each() {
    let (place, key) = (Place::new(), "static_key_file: site-b.key");
    place.load(&with_selectors(1, 255, key)).unwrap();
    let error = place.error(&with_selectors(1, 256, key));
    says(&error, &["256 selectors are listed", "at most 255 of a peer", "larger networks, or a second gateway"]);
    // Half of what a policy table can hold: 131072 are 514 peers with 255 and two more.
    assert_eq!(place.load(&with_selectors(514, 255, key)).unwrap().max_selectors(), 1 << 18);
    let error = place.error(&with_selectors(515, 255, key));
    says(&error, &["all peers together have 131325 selectors", "at most 131072", "some peers in a second gateway"]);
}

#[test]
fn a_file_that_does_not_exist_or_is_no_text_is_named() {
    let place = Place::new();
    let machine = Machine { cores: vec![0] };
    let error = Config::load(Path::new("/nonexistent/site-a.yaml"), &machine).unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent/site-a.yaml: the file cannot be read"), "{error}");
    std::fs::write(place.path("latin.yaml"), b"name: caf\xe9\n").unwrap();
    let error = Config::load(&place.path("latin.yaml"), &machine).unwrap_err().to_string();
    assert!(error.contains("byte 9 is not UTF-8"), "{error}");
}

#[test]
fn defaults_are_filled_in() {
    let config = Place::new().load(GOOD).unwrap();
    assert_eq!(config.interface.mtu, 1500, "that of the networks to be joined");
    assert_eq!((config.dataplane.workers, config.dataplane.replay_window), (4, 4096));
    assert_eq!(config.runtime_dir, Path::new("/run/adit/site-a"));
    assert_eq!(config.state_dir, Path::new("/var/lib/adit/site-a"));
    assert_eq!((config.peers[0].lanes, config.peers[0].defer_checksums), (4, true));
    insta::assert_snapshot!(config);
}

#[test]
fn relative_paths_start_at_the_directory_of_the_file() {
    let place = Place::new();
    let config = place.load(&and("state_dir: state\nruntime_dir: ./run\ndataplane: { binary: ../bin/adit-dataplane }")).unwrap();
    assert_eq!(config.state_dir, place.path("state"));
    assert_eq!(config.runtime_dir, place.path("./run"));
    assert_eq!(config.dataplane.binary.unwrap(), place.path("../bin/adit-dataplane"));
    assert!(matches!(&config.peers[0].keys, Keys::Static { file, .. } if *file == place.path("site-b.key")));
}

#[test]
fn peers_can_share_what_an_anchor_names() {
    let peers = "  - &usual { name: site-b, endpoint: 192.0.2.2:4500, static_key_file: site-b.key, lanes: 2 }\n  \
                 - { <<: *usual, name: site-c, endpoint: 192.0.2.3:4500 }\n";
    let config = Place::new().load(&format!("{}{peers}", &GOOD[..GOOD.find("  - ").unwrap()])).unwrap();
    let peers: Vec<_> = config.peers.iter().map(|peer| (peer.name.as_str(), peer.lanes)).collect();
    assert_eq!(peers, [("site-b", 2), ("site-c", 2)]);
}

#[test]
fn the_manual_names_every_key() {
    let manual = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/config.md")).unwrap();
    let tables: String = manual.lines().filter(|line| line.starts_with("| `") || line.starts_with('#')).collect();
    for (block, keys) in adit_controlplane::config::keys() {
        for key in *keys {
            let path = format!("{block}.{key}").replace("peers[].", "").replace("interface.routes[].", "");
            let named =
                [path.as_str(), path.trim_start_matches('.'), key].iter().any(|name| tables.contains(&format!("`{name}`")));
            let shown = manual.contains(&format!("{{ {key}: ")) || manual.contains(&format!(", {key}: "));
            assert!(named || shown, "`{path}` is not in docs/config.md");
        }
    }
}

#[test]
fn cores_alone_say_how_many_workers() {
    let config = Place::new().load(&and("dataplane: { cores: [3, 1] }")).unwrap();
    assert_eq!((config.dataplane.workers, config.dataplane.cores), (2, Some(vec![3, 1])));
}

const FULL: &str = "\
name: site-a
listen: \"[::]:4501\"
interface: { name: adit1, mtu: 1300, addresses: [10.1.0.1/24, \"fd00:1::1/64\"], mac: \"02:00:00:00:00:01\",
  routes: [{ to: 10.9.0.0/16, via: 10.1.0.2 }, { to: \"fd00:9::/48\" }] }
underlay_mtu: 9000
dscp: ef
dataplane: { binary: /opt/adit-dataplane, workers: 2, cores: [0, 1], io: poll, crypto: rustcrypto, replay_window: 64, socket_buffer: 65536, busy_poll_us: 0 }
forwarding: { ageing_s: 30, max_entries: 16, flood_pps: 1, forward: true, static: [{ mac: \"02:00:00:00:00:0b\", peer: site-c }] }
peers:
  - { name: site-b, endpoint: \"[2001:db8::2]:4500\", static_key_file: site-b.key, lanes: 1, defer_checksums: false }
  - { name: site-c, endpoint: \"[2001:db8::3]:4500\", static_key_file: site-b.key, lanes: 64 }
metrics: { listen: 127.0.0.1:9464 }
api: { listen: \"[::1]:9465\", token_file: api.token }
http_names: [gw1.example.org]\nstun: [stun.example.org]
runtime_dir: /tmp/adit
state_dir: /tmp/adit-state
";

const IKE: &str = "\
name: site-a
listen: 0.0.0.0:4500
interface: { name: adit0, addresses: [10.1.0.1/24] }
ike: { id: \"C=CH, O=Example, CN=site-a\", key_file: ed25519.key, key_log_dir: key-log }
peers:
  - { name: site-b, endpoint: 192.0.2.2:4500, ike: { psk_file: site-b.psk, ppk_file: site-b.ppk, ppk_id: a-b } }
  - name: site-c
    ike:
      id: \"*.example.org\"
      public_key_file: ed25519.pub
      role: responder
      proposals: [chacha20poly1305-prfsha512-ecp384-ke1_mlkem1024-ke1_none]
      esp_proposals: [aes256gcm16-x25519-esn, aes128gcm16]
      rekey_bytes: 1_000_000_000
      rekey_s: 600
      rekey_packets: 0
      ike_rekey_s: 0
      dpd_s: 0
      keepalive_s: 5
      mobike: false
      ppk_file: site-b.ppk
      ppk_id: a-c
      ppk_required: false
";

const IP: &str = "\
name: site-a
listen: \"[::]:4501\"
mode: ip
mss_clamp: off
interface: { name: adit1, addresses: [10.1.0.1/32], routes: [{ to: 10.2.0.0/24 }] }
peers:
  - { name: site-b, endpoint: 192.0.2.2:4500, static_key_file: site-b.key, selectors: [
      { local: 10.1.0.0/24, remote: 10.2.0.0/24 },
      { local: 10.1.0.1, remote: 10.3.0.1, protocol: tcp, remote_ports: 443 },
      { local: \"::/0\", remote: \"fd00:2::/64\", protocol: icmpv6 }] }
  - { name: site-c, endpoint: \"[2001:db8::3]:4500\", static_key_file: site-b.key, selectors: [
      { local: 10.1.0.0/24, remote: 10.2.0.0/16 },
      { local: 10.1.0.0/24, remote: 10.3.0.1, protocol: tcp, remote_ports: 80-442 }] }
";

#[test]
fn in_ip_mode_every_remote_network_has_a_route_with_what_fits_the_way() {
    let config = Place::new().load(IP).unwrap();
    assert_eq!(config.interface.mtu, 1418, "one of the ways is over IPv6");
    let alone = IP.split_inclusive('\n').take_while(|line| !line.contains("site-c")).collect::<String>();
    assert_eq!(Place::new().load(&alone).unwrap().interface.mtu, 1438, "no Ethernet header, no EtherIP, no tag");
    let routes: Vec<String> = config.routes().iter().map(|route| format!("{} {:?}", route.to, route.mtu)).collect();
    // What the file says itself stays as it is.
    let expected = ["10.2.0.0/24 None", "10.3.0.1/32 Some(1418)", "fd00:2::/64 Some(1418)", "10.2.0.0/16 Some(1418)"];
    assert_eq!(routes, expected);
    insta::assert_snapshot!("ip_mode_in_words", config);
}

#[test]
fn clients_of_one_pattern_may_share_their_networks() {
    let clients = |ids: [&str; 2]| {
        let client = |(number, id): (usize, &str)| {
            format!(
                "  - {{ name: c{number}, selectors: [{{ local: 10.9.0.0/24, remote: 10.8.0.0/16 }}], \
                 ike: {{ id: \"{id}\", psk_file: site-b.psk, role: responder }} }}\n"
            )
        };
        let peers: String = ids.into_iter().enumerate().map(client).collect();
        format!(
            "name: a\nlisten: 0.0.0.0:4500\nmode: ip\ninterface: {{ name: adit0 }}\nike: {{ id: a.example.org }}\npeers:\n{peers}"
        )
    };
    let place = Place::new();
    assert!(place.load(&clients(["*.example.org", "*.example.org"])).is_ok());
    for others in [["*.example.org", "*.example.net"], ["c0.example.org", "c1.example.org"]] {
        let problems = place.load(&clients(others)).expect_err("they are not the same").to_string();
        assert!(problems.contains("both have packets to"), "{problems}");
    }
}

#[test]
fn what_show_prints_loads_to_the_same_configuration_and_holds_no_key() {
    let place = Place::new();
    for yaml in [GOOD, FULL, IKE, IP, &with("addresses: [10.1.0.1/24]", "bridge: br0")] {
        let config = place.load(yaml).unwrap();
        let shown = config.to_yaml().unwrap();
        assert!(!shown.contains("secret") && !shown.contains("AQEBAQ") && !shown.contains("256 bits"), "a key in what is shown");
        assert_eq!(place.load(&shown).unwrap(), config, "{shown}");
    }
    let shown = place.load(FULL).unwrap().to_yaml().unwrap();
    insta::assert_snapshot!(shown.replace(place.dir.path().to_str().unwrap(), "DIR"));
    let config = place.load(IKE).unwrap();
    insta::assert_snapshot!("ike_in_words", config.to_string().replace(place.dir.path().to_str().unwrap(), "DIR"));
    insta::assert_snapshot!("ike_as_yaml", config.to_yaml().unwrap().replace(place.dir.path().to_str().unwrap(), "DIR"));
}

#[test]
fn an_endpoint_inside_the_tunnel_is_no_reason_to_refuse() {
    for yaml in [
        selector("remote: 192.0.2.0/24"),
        with("addresses: [10.1.0.1/24]", "routes: [{ to: 192.0.0.0/16 }]"),
        with("10.1.0.1/24", "192.0.2.77/24"),
    ] {
        assert!(Place::new().load(&yaml).is_ok(), "{yaml}");
    }
}

#[test]
fn where_a_peer_may_come_from_is_read_and_shown() {
    use adit_engine::path::Origin;
    let networks = |list: &[&str]| Origin::Networks(list.iter().map(|net| net.parse().unwrap()).collect());
    for (from, expected) in [
        ("", Origin::Anywhere),
        ("    from: any\n", Origin::Anywhere),
        ("    from: endpoint\n", Origin::Endpoints),
        ("    from: 203.0.113.0/24\n", networks(&["203.0.113.0/24"])),
        ("    from: [203.0.113.0/24, \"2001:db8::1\"]\n", networks(&["203.0.113.0/24", "2001:db8::1/128"])),
    ] {
        let place = Place::new();
        let config = place.load(&and(from)).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(config.peers[0].from, expected);
        let again = place.load(&config.to_yaml().unwrap()).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(again.peers[0].from, expected);
    }
}

#[test]
fn endpoints_are_names_addresses_and_neighbours_and_shown_as_they_are() {
    let list =
        "[site-b.example.org, \"site-b.example.net:4501\", 192.0.2.2:500, \"[2001:db8::2]:4500\", \"[fe80::2%eth0]:4500\"]";
    let place = Place::new();
    let yaml = with("0.0.0.0:4500", "\"[::]:0\"").replacen("192.0.2.2:4500", list, 1);
    let config = place.load(&yaml).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(
        config.peers[0].endpoint_text(),
        "site-b.example.org:4500, site-b.example.net:4501, 192.0.2.2:500, [2001:db8::2]:4500, [fe80::2%eth0]:4500"
    );
    let again = place.load(&config.to_yaml().unwrap()).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!((again.peers[0].endpoints.clone(), again.listen), (config.peers[0].endpoints.clone(), config.listen));
    let link = place.load(&with("0.0.0.0:4500", "\"[fe80::1%lo]:4500\"").replace("192.0.2.2:4500", "\"[fe80::2%lo]:4500\""));
    let link = link.unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(link.listen_interface.as_deref(), Some("lo"));
    let listen = adit_controlplane::resolve::listen_now(&link).unwrap().to_string();
    assert!(listen.starts_with("[fe80::1%") && link.to_yaml().unwrap().contains("[fe80::1%lo]:4500"), "{listen}");
}

#[test]
fn several_endpoints_need_somebody_who_answers() {
    let several = |more: &str| and(more).replacen("192.0.2.2:4500", "[\"192.0.2.2:4500\", \"192.0.2.3:4500\"]", 1);
    assert!(Place::new().load(&several("")).is_ok());
    let error = Place::new().error(&several("    echo: false\n"));
    assert!(error.contains("several endpoints") && error.contains("echo: true, at both ends"), "{error}");
}
