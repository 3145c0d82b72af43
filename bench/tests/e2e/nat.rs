//! `adit nat` before NATs of every kind that nftables makes, with coturn as the server: what it says is what `turnutils_natdiscovery`
//! says, and what the rules are.
//!
//! ```text
//!   host 10.1.0.2 ── 10.1.0.1 lan   router   wan 203.0.113.10 ── 203.0.113.1   servers 198.51.100.1, 198.51.100.2
//! ```

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Output, Stdio};
use std::thread;

use adit_bench::lab::{SOON, Turn, binary, take_turn, wait_until};
use adit_bench::netns::{Netns, Veth};
use adit_bench::process::Process;
use adit_bench::workdir::WorkDir;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

const FIRST: &str = "198.51.100.1";
const SECOND: &str = "198.51.100.2";
const PORT: u16 = 3478;
const FIRST6: &str = "2001:db8:1::1";
const SECOND6: &str = "2001:db8:1::2";

/// What the router does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Router {
    /// It forwards all.
    Open,
    /// It forwards answers only.
    Firewall,
    /// Everybody is let in to a port that something was sent from.
    FullCone,
    /// Addresses that something was sent to are let in.
    Restricted,
    /// What the kernel does by itself.
    PortRestricted,
    /// Another random port for each destination.
    Symmetric,
    /// No UDP goes out.
    Blocked,
}

impl Router {
    const fn translates(self) -> bool {
        !matches!(self, Router::Open | Router::Firewall | Router::Blocked)
    }

    /// The rules as nftables reads them. `hairpin`: what comes from inside for the outer address is turned round.
    fn rules(self, hairpin: bool) -> String {
        let remembered = "oifname wan meta l4proto udp update @inside { udp sport : ip saddr }
            oifname wan meta l4proto udp update @asked { ip daddr . udp sport }";
        let (forward, before) = match self {
            Router::Open => ("accept", ""),
            Router::FullCone => (remembered, "dnat ip to udp dport map @inside"),
            Router::Restricted => (remembered, "ip saddr . udp dport @asked dnat ip to udp dport map @inside"),
            Router::Blocked => ("oifname wan meta l4proto udp drop", ""),
            Router::Firewall | Router::PortRestricted | Router::Symmetric => ("", ""),
        };
        let at = if hairpin { "ip daddr 203.0.113.10" } else { "iifname wan" };
        let before = if before.is_empty() { String::new() } else { format!("{at} {before}") };
        let after = match self {
            Router::Symmetric => "oifname wan masquerade fully-random",
            one if one.translates() => "oifname wan masquerade",
            _ => "",
        };
        let back = if hairpin { "ip saddr 10.1.0.0/24 oifname lan ct status dnat snat to 203.0.113.10" } else { "" };
        format!(
            "table ip router {{
                map inside {{ type inet_service : ipv4_addr; flags dynamic; size 65535; }}
                set asked {{ type ipv4_addr . inet_service; flags dynamic; size 65535; }}
                chain input {{
                    type filter hook input priority 0; policy accept;
                    ct state established,related accept
                    iifname wan drop
                }}
                chain forward {{
                    type filter hook forward priority 0; policy drop;
                    {forward}
                    ct state established,related accept
                    iifname lan oifname wan accept
                    ct status dnat accept
                }}
                chain before {{ type nat hook prerouting priority dstnat; {before}
                }}
                chain after {{ type nat hook postrouting priority srcnat; {after}
                    {back}
                }}
            }}\n"
        )
    }
}

/// The host, the router and the servers. Dropped in this order.
struct Net {
    coturn: Option<Process>,
    host: Netns,
    router: Netns,
    servers: Netns,
    _cables: [Veth; 2],
    dir: WorkDir,
    _turn: File,
}

impl Net {
    fn new(router: Router) -> Result<Net> {
        Net::with(router, false)
    }

    fn with(kind: Router, hairpin: bool) -> Result<Net> {
        let turn = take_turn(Turn::Shared)?;
        let (host, router, servers) = (Netns::new("nat-host")?, Netns::new("nat-router")?, Netns::new("nat-servers")?);
        let cables = [Veth::between(&host, "lan0", &router, "lan", 1500)?, Veth::between(&router, "wan", &servers, "net", 1500)?];
        for (netns, link, address) in [
            (&host, "lan0", "10.1.0.2/24"),
            (&router, "lan", "10.1.0.1/24"),
            (&router, "wan", "203.0.113.10/24"),
            (&servers, "net", "203.0.113.1/24"),
            (&host, "lan0", "2001:db8:2::2/64"),
            (&router, "lan", "2001:db8:2::1/64"),
            (&router, "wan", "2001:db8:3::10/64"),
            (&servers, "net", "2001:db8:3::1/64"),
        ] {
            netns.address(link, address)?;
        }
        for server in [FIRST, SECOND, FIRST6, SECOND6] {
            servers.address("lo", &format!("{server}/{}", if server.contains(':') { 128 } else { 32 }))?;
        }
        host.run("ip route add default via 10.1.0.1")?;
        host.run("ip -6 route add default via 2001:db8:2::1")?;
        router.run("ip route add default via 203.0.113.1")?;
        router.run("ip -6 route add default via 2001:db8:3::1")?;
        servers.run("ip route add 10.1.0.0/24 via 203.0.113.10")?;
        servers.run("ip -6 route add 2001:db8:2::/64 via 2001:db8:3::10")?;
        router.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
        let net = Net { coturn: None, host, router, servers, _cables: cables, dir: WorkDir::new("nat")?, _turn: turn };
        let rules = net.dir.path().join("rules.nft");
        std::fs::write(&rules, kind.rules(hairpin))?;
        net.router.run(&format!("nft -f {}", rules.display()))?;
        Ok(net)
    }

    /// The same with coturn at these addresses.
    fn with_coturn(mut self, addresses: &[&str]) -> Result<Net> {
        let (database, pid) = (self.dir.path().join("turndb"), self.dir.path().join("turnserver.pid"));
        let mut command = self.servers.command("turnserver");
        // No file of the machine is read, and nothing is served but STUN.
        command.args(["-n", "--stun-only", "--no-tls", "--no-dtls", "--no-cli", "--log-file=stdout", "--simple-log"]);
        command.args(["-p", "3478", "--alt-listening-port=3479"]);
        command.arg(format!("--userdb={}", database.display())).arg(format!("--pidfile={}", pid.display()));
        for address in addresses {
            command.args(["-L", address]);
        }
        let mut coturn = Process::start(&mut command, self.dir.path().join("coturn.log"))?;
        coturn.wait_for_port(PORT, SOON)?;
        self.coturn = Some(coturn);
        Ok(self)
    }

    fn adit(&self, words: &[&str]) -> Result<Output> {
        Ok(self.host.command(binary("adit")?).arg("nat").args(words).output()?)
    }

    /// What `adit nat --json` says of IPv4, and its exit code.
    fn asked(&self, words: &[&str]) -> Result<(Value, i32)> {
        let output = self.adit(&[words, &["--json"]].concat())?;
        let said = String::from_utf8_lossy(&output.stderr);
        let document: Value = serde_json::from_slice(&output.stdout).with_context(|| said.into_owned())?;
        Ok((document["networks"][0].clone(), output.status.code().context("an exit code")?))
    }
}

/// What `adit nat --json` says of IPv4 once it is what it should be: on a machine that is busy for half a second an answer counts as lost.
fn comes_to(net: &Net, words: &[&str], code: i32, right: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut last = (Value::Null, 0);
    wait_until("it says what it should", SOON, || {
        last = net.asked(words)?;
        Ok(last.1 == code && right(&last.0))
    })
    .with_context(|| format!("the last time it said, with exit code {}: {:#}", last.1, last.0))?;
    Ok(last.0)
}

/// What coturn's own program says of mapping and filtering, in our words.
fn coturn_says(net: &Net) -> Result<(&'static str, &'static str)> {
    // Without its own address it cannot tell that there is no NAT.
    let said = net.host.run(&format!("turnutils_natdiscovery -m -f -L 10.1.0.2 {FIRST}"))?;
    let found = |of: &str| {
        // Where there is no NAT it says so, and then both.
        let words = [
            (format!("No NAT! (Endpoint Independent {of})"), "no_nat"),
            (format!("with Endpoint Independent {of}!"), "endpoint_independent"),
            (format!("with Address Dependent {of}!"), "address_dependent"),
            (format!("with Address and Port Dependent {of}!"), "address_and_port_dependent"),
        ];
        words.into_iter().find(|(text, _)| said.contains(text)).map(|(_, word)| word).with_context(|| said.clone())
    };
    Ok((found("Mapping")?, found("Filtering")?))
}

#[test]
fn it_says_of_every_kind_of_nat_what_coturn_says() -> Result<()> {
    for (router, class, mapping, filtering, rule, effort) in [
        (Router::Open, "open", "no_nat", "endpoint_independent", None, "easy"),
        (Router::Firewall, "firewall", "no_nat", "address_and_port_dependent", None, "moderate"),
        (Router::FullCone, "full_cone", "endpoint_independent", "endpoint_independent", Some("preserving"), "easy"),
        (Router::Restricted, "restricted_cone", "endpoint_independent", "address_dependent", Some("preserving"), "easy"),
        (
            Router::PortRestricted,
            "port_restricted_cone",
            "endpoint_independent",
            "address_and_port_dependent",
            Some("preserving"),
            "moderate",
        ),
        (Router::Symmetric, "symmetric", "address_and_port_dependent", "address_and_port_dependent", Some("random"), "hard"),
    ] {
        let net = Net::new(router)?.with_coturn(&[FIRST, SECOND])?;
        let outside = if router.translates() { "203.0.113.10:" } else { "10.1.0.2:" };
        let said = comes_to(&net, &["--server", FIRST], 0, |said| {
            let kind = said["class"] == class && said["mapping"] == mapping && said["filtering"] == filtering;
            kind && said["ports"]["rule"].as_str() == rule && said["punching"]["effort"] == effort
        })
        .with_context(|| format!("{router:?}"))?;
        ensure!(said["public"][0].as_str().is_some_and(|public| public.starts_with(outside)), "{router:?}: {said}");
        ensure!(said["servers"][0]["second_address"] == format!("{SECOND}:3479"), "{router:?}: {said}");
        let theirs = coturn_says(&net)?;
        ensure!((mapping, filtering) == theirs, "{router:?}: coturn says {theirs:?}");
    }
    Ok(())
}

#[test]
fn a_nat_that_turns_packets_round_is_known() -> Result<()> {
    for hairpin in [false, true] {
        let net = Net::with(Router::FullCone, hairpin)?.with_coturn(&[FIRST, SECOND])?;
        comes_to(&net, &["--server", FIRST], 0, |said| said["hairpin"] == hairpin && said["class"] == "full_cone")?;
    }
    Ok(())
}

#[test]
fn a_server_with_one_address_leaves_unknown_what_it_cannot_tell() -> Result<()> {
    let net = Net::new(Router::Symmetric)?.with_coturn(&[FIRST])?;
    let said = comes_to(&net, &["--server", FIRST], 0, |said| said["ports"]["rule"] == "random")?;
    ensure!(said["class"] == "unknown" && said["mapping"] == "unknown" && said["filtering"] == "unknown", "{said}");
    ensure!(said["unknown_because"].to_string().contains("one_address"), "{said}");
    let output = net.adit(&["--server", FIRST])?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(text.contains("not known what kind of NAT") && text.contains("name a second server"), "{text}");
    Ok(())
}

#[test]
fn both_ip_versions_are_asked_at_once() -> Result<()> {
    let net = Net::new(Router::PortRestricted)?.with_coturn(&[FIRST, SECOND, FIRST6, SECOND6])?;
    let server6 = format!("[{FIRST6}]:{PORT}");
    let mut document = Value::Null;
    wait_until("both are known", SOON, || {
        let output = net.adit(&["--server", FIRST, "--server", &server6, "--json"])?;
        document = serde_json::from_slice(&output.stdout)?;
        let of = |place: usize| &document["networks"][place];
        let v4 = of(0)["ip_version"] == 4 && of(0)["class"] == "port_restricted_cone";
        Ok(v4 && of(1)["ip_version"] == 6 && of(1)["class"] == "open")
    })
    .with_context(|| document.to_string())
}

#[test]
fn servers_come_from_the_configuration_and_a_file_without_any_says_so() -> Result<()> {
    let net = Net::new(Router::FullCone)?.with_coturn(&[FIRST, SECOND])?;
    let file = |name: &str, stun: &str| -> Result<String> {
        let (path, psk) = (net.dir.path().join(name), net.dir.path().join("psk"));
        std::fs::write(&psk, "a preshared key that is long enough")?;
        std::fs::set_permissions(&psk, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        let peers = "peers: [{ name: site-b, endpoint: 203.0.113.1:4500, ike: { psk_file: psk } }]";
        std::fs::write(&path, format!("name: site-a\nlisten: 0.0.0.0:4500\ninterface: {{ name: adit0 }}\n{stun}\n{peers}\n"))?;
        Ok(path.display().to_string())
    };
    comes_to(&net, &["-c", &file("with.yaml", &format!("stun: [{FIRST}]"))?], 0, |said| said["class"] == "full_cone")?;
    let output = net.adit(&["-c", &file("without.yaml", "")?])?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(1) && said.contains("no STUN server is named: give --server"), "{said}");
    Ok(())
}

/// TCP reaches the server, UDP does not.
#[test]
fn blocked_udp_is_told_from_a_network_without_an_answer() -> Result<()> {
    let net = Net::new(Router::Blocked)?.with_coturn(&[FIRST, SECOND])?;
    let said = comes_to(&net, &["--server", FIRST], 3, |said| said["udp"] == "blocked" && said["class"] == "udp_blocked")?;
    ensure!(said["punching"]["methods"] == json!(["tcp", "relay"]), "{said}");
    drop(net);
    let silent = Net::new(Router::PortRestricted)?;
    let (said, code) = silent.asked(&["--server", FIRST])?;
    ensure!(code == 3 && said["udp"] == "silent" && said["portal"].is_null(), "{said}");
    Ok(())
}

/// Somebody in the server's place who sends every browser elsewhere.
fn portal(listener: TcpListener) {
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut asked = [0; 512];
            let _ = stream.read(&mut asked);
            let _ =
                stream.write_all(b"HTTP/1.1 302 Found\r\nLocation: https://login.hotel.example/\r\nContent-Length: 0\r\n\r\n");
        }
    });
}

#[test]
fn a_captive_portal_is_told_with_what_to_do() -> Result<()> {
    let net = Net::new(Router::Blocked)?;
    portal(net.servers.enter(|| TcpListener::bind((FIRST, 80)))?);
    let said = comes_to(&net, &["--server", FIRST], 3, |said| said["portal"]["kind"] == "sends_elsewhere")?;
    ensure!(said["portal"]["host"] == "login.hotel.example", "{said}");
    let text = String::from_utf8(net.adit(&["--server", FIRST])?.stdout)?;
    ensure!(text.contains("captive portal") && text.contains("log in to this network with a browser"), "{text}");
    Ok(())
}

#[test]
fn what_cannot_be_asked_is_told_with_what_to_do() -> Result<()> {
    let lonely = Netns::new("nat-lonely")?;
    let adit =
        |server: &str| lonely.command(binary("adit")?).args(["nat", "--server", server]).output().map_err(anyhow::Error::from);
    for (server, says) in
        [(FIRST, "there is no way to 198.51.100.1:3478"), ("nobody.invalid", "nobody.invalid cannot be looked up")]
    {
        let output = adit(server)?;
        let said = String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(1) && output.stdout.is_empty() && said.contains(says), "{server}: {said}");
        ensure!(said.contains("no server can be asked") && said.lines().count() == 1, "{server}: {said}");
    }
    let output = adit("198.51.100.1:0")?;
    ensure!(
        output.status.code() == Some(2) && String::from_utf8(output.stderr)?.contains("it has the port 0"),
        "a port that is none"
    );
    Ok(())
}

/// A router that forgets mappings after seven seconds without a packet.
#[test]
fn the_life_of_a_mapping_is_measured_beyond_a_real_router() -> Result<()> {
    let net = Net::new(Router::PortRestricted)?.with_coturn(&[FIRST, SECOND])?;
    for timeout in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
        net.router.enter(|| std::fs::write(Path::new("/proc/sys/net/netfilter").join(timeout), "7"))?;
    }
    let (said, code) = net.asked(&["--server", FIRST, "--lifetime"])?;
    let (least, most) = (said["lifetime"]["at_least_s"].as_f64(), said["lifetime"]["at_most_s"].as_f64());
    let (least, most) = least.zip(most).with_context(|| said.to_string())?;
    // The kernel looks for what is over about once in a second.
    ensure!(code == 0 && (5.0..=8.0).contains(&least) && (6.0..=10.0).contains(&most), "{least} to {most}: {said}");
    Ok(())
}

/// Bytes of strangers at the port of a server end in no other verdict than that it does not answer.
#[test]
fn a_server_that_speaks_something_else_is_no_server() -> Result<()> {
    let net = Net::new(Router::PortRestricted)?;
    let socket = net.servers.enter(|| UdpSocket::bind((FIRST, PORT)))?;
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            // What came, and the same as an answer, whose fingerprint is not that of its bytes.
            let mut answer = buffer[..len].to_vec();
            let _ = socket.send_to(&answer, from);
            answer[0] = 1;
            let _ = socket.send_to(&answer, from);
        }
    });
    let output = net.adit(&["--server", FIRST])?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.code() == Some(3) && text.contains("no server answers, neither by UDP nor by TCP"), "{text}");
    Ok(())
}

/// The gateway that runs is not in the way, since the command has ports of its own: five searches at once all come to the same.
#[test]
fn several_searches_at_once_do_not_disturb_each_other() -> Result<()> {
    let net = Net::new(Router::Restricted)?.with_coturn(&[FIRST, SECOND])?;
    let start = || {
        let mut command = net.host.command(binary("adit")?);
        command.args(["nat", "--json", "--server", FIRST]);
        Ok::<_, anyhow::Error>(command.stdout(Stdio::piped()).spawn()?)
    };
    let running: Vec<_> = (0..5).map(|_| start()).collect::<Result<_>>()?;
    for search in running {
        let document: Value = serde_json::from_slice(&search.wait_with_output()?.stdout)?;
        let found = &document["networks"][0];
        // Where an answer came late, less is known, and nothing else.
        ensure!(["restricted_cone", "cone"].iter().any(|class| found["class"] == *class), "{document}");
    }
    Ok(())
}
