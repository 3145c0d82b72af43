//! Where a gateway looks for its peer: names that are not there yet and stand for something else later, several addresses of which one
//! is dead, neighbours on a link that is made anew.

use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};

use adit_bench::lab::{Gateway, Lab, LabOptions, SOON, WAN, wait_until};
use adit_bench::netns::{Veth, once_free};
use anyhow::{Context, Result, ensure};

use crate::ike_tunnel::{ike, patient};
use crate::{edit, reaches};

/// The first gateway connects, the second one answers.
fn prepared(more: &str) -> Result<Lab> {
    let roles = ["initiator", "responder"].map(|role| format!("role: {role}, dpd_s: 2{more}"));
    Lab::prepare(&patient(&[&roles[0], &roles[1]]))
}

/// Starts a gateway that has files of its own in the places of these.
fn start_with(gateway: &mut Gateway, files: &[(&Path, &str)]) -> Result<()> {
    let own = gateway.command()?;
    let words: Vec<String> =
        [own.get_program()].into_iter().chain(own.get_args()).map(|word| word.display().to_string()).collect();
    let mounts: String = files.iter().map(|(file, place)| format!("mount --bind {} {place} && ", file.display())).collect();
    let line = format!("{mounts}exec {}", words.join(" "));
    let mut command = gateway.netns.command("unshare");
    command.args(["--mount", "sh", "-c", &line]);
    gateway.start(&mut command)
}

fn is_up(gateway: &Gateway) -> Result<bool> {
    Ok(ike(gateway)?["sas"][0]["local"].is_string())
}

fn remote(gateway: &Gateway) -> Result<String> {
    Ok(ike(gateway)?["sas"][0]["remote"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_name_is_waited_for_and_followed_when_it_stands_for_another_address() -> Result<()> {
    let mut lab = prepared("")?;
    let hosts = lab.dir().join("hosts");
    fs::write(&hosts, "127.0.0.1 localhost\n")?;
    edit(lab.a(), "\"192.0.2.2:4500\"", "site-b.test")?;
    edit(lab.b(), "listen: \"192.0.2.2:4500\"", "listen: \"0.0.0.0:4500\"")?;
    start_with(&mut lab.gateways[0], &[(&hosts, "/etc/hosts")])?;
    lab.gateways[1].start_control()?;
    lab.a().wait_for_log("site-b.test cannot be looked up", SOON)?;
    let explained = lab.a().adit("explain site-b")?;
    ensure!(explained.contains("has no address so far"), "{explained}");
    fs::write(&hosts, "127.0.0.1 localhost\n192.0.2.2 site-b.test\n")?;
    lab.wait_until_up()?;
    ensure!(remote(lab.a())? == "192.0.2.2:4500");
    // The peer moves without a word, and its name follows.
    lab.gateways[1].kill_control()?;
    lab.b().kill_data_plane()?;
    lab.b().netns.run(&format!("ip address del 192.0.2.2/24 dev {WAN}"))?;
    lab.b().netns.address(WAN, "192.0.2.44/24")?;
    fs::write(&hosts, "127.0.0.1 localhost\n192.0.2.44 site-b.test\n")?;
    lab.gateways[1].start_control()?;
    wait_until("it is found at its new address", SOON, || Ok(remote(lab.a())? == "192.0.2.44:4500"))
        .with_context(|| lab.logs())?;
    wait_until("packets pass", SOON, || Ok(reaches(&lab.a().netns, lab.b().inner()).is_ok())).with_context(|| lab.logs())
}

/// Waits until a name server is asked for this name, and lets whoever asks wait.
fn is_asked_for(server: &UdpSocket, name: &str) -> Result<()> {
    let (mut buffer, deadline) = ([0; 512], Instant::now() + SOON);
    loop {
        let length = server.recv(&mut buffer).with_context(|| format!("nobody asks for {name}"))?;
        if buffer[..length].windows(name.len()).any(|part| part == name.as_bytes()) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "nobody asks for {name}");
    }
}

/// The system's resolver waits for half a minute five times, so whatever waits for it is far too late.
#[test]
fn nothing_waits_for_a_name_server_that_is_silent() -> Result<()> {
    let mut lab = prepared("")?;
    let file = |name: &str, text: &str| -> Result<std::path::PathBuf> {
        let file = lab.dir().join(name);
        fs::write(&file, text)?;
        Ok(file)
    };
    let hosts = file("hosts", "127.0.0.1 localhost\n")?;
    let resolver = file("resolv.conf", "nameserver 127.0.0.1\noptions timeout:30 attempts:5\n")?;
    let order = file("nsswitch.conf", "hosts: files dns\n")?;
    let server = lab.a().netns.enter(|| once_free(|| UdpSocket::bind("127.0.0.1:53")))?;
    server.set_read_timeout(Some(SOON))?;
    // The peer with the name comes first.
    let key = lab.dir().join("site-a-site-b.psk");
    let peer = format!("  - {{ name: site-c, endpoint: site-c.test, ike: {{ psk_file: {} }} }}\n", key.display());
    edit(lab.a(), "peers:\n", &format!("peers:\n{peer}"))?;
    let files = [(&*hosts, "/etc/hosts"), (&*resolver, "/etc/resolv.conf"), (&*order, "/etc/nsswitch.conf")];
    start_with(&mut lab.gateways[0], &files)?;
    is_asked_for(&server, "site-c")?;
    lab.gateways[1].start_control()?;
    lab.wait_until_up()?;
    let explained = lab.a().adit("explain site-c")?;
    ensure!(explained.contains("has no address so far"), "{explained}");
    // One try of many counts, for the machine may be busy.
    let at_once = |command: &str| {
        wait_until(&format!("`adit {command}` ends at once"), SOON, || {
            let began = Instant::now();
            lab.a().adit(command)?;
            Ok(began.elapsed() < Duration::from_secs(2))
        })
        .with_context(|| lab.logs())
    };
    at_once("status")?;
    at_once("reload")?;
    edit(lab.a(), "site-c.test", "site-d.test")?;
    let said = lab.a().adit("reload")?;
    ensure!(said.contains("peer site-c: endpoint"), "{said}");
    is_asked_for(&server, "site-d")?;
    at_once("reload")?;
    reaches(&lab.a().netns, lab.b().inner()).with_context(|| lab.logs())?;
    // It waits for the ends of both processes, for twenty seconds each at most.
    let ended = lab.a().adit("stop").with_context(|| lab.logs())?;
    ensure!(ended.contains("its data plane") && lab.a().data_plane().is_none(), "{ended}");
    Ok(())
}

#[test]
fn the_next_address_is_tried_when_the_first_one_is_dead() -> Result<()> {
    let mut lab = prepared("")?;
    edit(lab.a(), "endpoint: \"192.0.2.2:4500\"", "endpoint: [\"192.0.2.99:4500\", \"192.0.2.2:4500\"]")?;
    lab.gateways[1].start_control()?;
    let began = Instant::now();
    lab.gateways[0].start_control()?;
    lab.wait_until_up()?;
    ensure!(remote(lab.a())? == "192.0.2.2:4500", "{}", lab.logs());
    // One address alone is given up after twelve seconds.
    ensure!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    Ok(())
}

/// The remote address of the path in use to the only peer.
fn way(gateway: &Gateway) -> Result<String> {
    let status = gateway.status()?;
    let paths = status["peers"][0]["paths"].as_array().context("a peer with paths")?;
    let used = paths.iter().find(|path| path["in_use"] == true).context("a path in use")?;
    Ok(used["remote"].as_str().unwrap_or_default().to_owned())
}

/// Gateways with static keys of which neither begins where the other is, and the second one has two addresses.
fn with_spare_addresses(ipv6: bool) -> Result<Lab> {
    let lab = Lab::prepare(&LabOptions::patient())?;
    let at = |host: u8| if ipv6 { format!("\"[fd99::{host}]:4500\"") } else { format!("\"192.0.2.{host}:4500\"") };
    if ipv6 {
        for (gateway, host) in [(lab.a(), 1), (lab.b(), 2), (lab.b(), 22)] {
            gateway.netns.run(&format!("ip address add fd99::{host}/64 dev {WAN} nodad"))?;
        }
        edit(lab.a(), "listen: \"192.0.2.1:4500\"", "listen: \"[::]:4500\"")?;
    } else {
        lab.b().netns.address(WAN, "192.0.2.22/24")?;
    }
    let any = if ipv6 { "listen: \"[::]:4500\"" } else { "listen: \"0.0.0.0:4500\"" };
    edit(lab.b(), "listen: \"192.0.2.2:4500\"", any)?;
    edit(lab.a(), "endpoint: \"192.0.2.2:4500\"", &format!("endpoint: [{}, {}, {}]", at(99), at(2), at(22)))?;
    edit(lab.b(), "endpoint: \"192.0.2.1:4500\"", &format!("endpoint: [{}, {}]", at(98), at(1)))?;
    Ok(lab)
}

fn with_a_static_key_the_next_address_is_tried(ipv6: bool) -> Result<()> {
    let mut lab = with_spare_addresses(ipv6)?;
    lab.gateways.iter_mut().try_for_each(Gateway::start_control)?;
    let reached = |lab: &Lab| Ok(reaches(&lab.a().netns, lab.b().inner()).is_ok());
    wait_until("packets pass", SOON, || reached(&lab)).with_context(|| lab.logs())?;
    let first = way(lab.a())?;
    let hosts = if ipv6 { ["fd99::2", "fd99::22"] } else { ["192.0.2.2", "192.0.2.22"] };
    let end = |host: &str| if ipv6 { format!("[{host}]:4500") } else { format!("{host}:4500") };
    let number = hosts.iter().position(|host| end(host) == first).with_context(|| format!("{first} is none of them"))?;
    let (host, other) = (hosts[number], hosts[1 - number]);
    // The address that is used falls silent, and no interface or route tells so.
    let family = if ipv6 { "ip6" } else { "ip" };
    for command in [
        format!("add table {family} f"),
        format!("add chain {family} f in {{ type filter hook prerouting priority -300 ; }}"),
        format!("add chain {family} f out {{ type filter hook postrouting priority 300 ; }}"),
        format!("add rule {family} f in {family} daddr {host} udp dport 4500 drop"),
        format!("add rule {family} f out {family} saddr {host} udp sport 4500 drop"),
    ] {
        lab.b().netns.run(&format!("nft {command}"))?;
    }
    let began = Instant::now();
    wait_until("packets pass by the other one", SOON, || Ok(reached(&lab)? && way(lab.a())? == end(other)))
        .with_context(|| lab.logs())?;
    ensure!(began.elapsed() < Duration::from_secs(50), "{:?}", began.elapsed());
    Ok(())
}

#[test]
fn with_a_static_key_the_next_address_is_tried_when_one_is_silent() -> Result<()> {
    with_a_static_key_the_next_address_is_tried(false)
}

#[test]
fn with_a_static_key_the_next_address_is_tried_over_ipv6_as_well() -> Result<()> {
    with_a_static_key_the_next_address_is_tried(true)
}

#[test]
fn neighbours_by_link_local_addresses_survive_a_link_that_is_made_anew() -> Result<()> {
    let mut lab = prepared("")?;
    let neighbours = |lab: &Lab| -> Result<()> {
        for gateway in &lab.gateways {
            gateway.netns.run(&format!("ip address add fe80::{}/64 dev {WAN} nodad", gateway.number))?;
        }
        Ok(())
    };
    neighbours(&lab)?;
    for gateway in &lab.gateways {
        let other = 3 - gateway.number;
        edit(gateway, &format!("listen: \"192.0.2.{}:4500\"", gateway.number), "listen: \"[::]:4500\"")?;
        edit(gateway, &format!("\"192.0.2.{other}:4500\""), &format!("\"[fe80::{other}%{WAN}]:4500\""))?;
    }
    for gateway in &mut lab.gateways {
        gateway.start_control()?;
    }
    lab.wait_until_up()?;
    ensure!(remote(lab.a())?.starts_with("[fe80::2"), "{}", remote(lab.a())?);
    lab.a().netns.run(&format!("ip link del {WAN}"))?;
    // Another interface takes the number.
    lab.a().netns.run("ip link add spare0 type bridge")?;
    let _cable = Veth::between(&lab.a().netns, WAN, &lab.b().netns, WAN, 1500)?;
    neighbours(&lab)?;
    wait_until("packets pass again", SOON, || Ok(reaches(&lab.a().netns, lab.b().inner()).is_ok()))
        .with_context(|| lab.logs())?;
    ensure!(is_up(lab.a())? && is_up(lab.b())?, "{}", lab.logs());
    Ok(())
}
