//! A configuration that is read again while packets flow: what changed changes, and nobody else loses a packet.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::Duration;

use adit_bench::lab::{Gateway, Lab, LabOptions, SOON, TAP, binary, wait_until};
use adit_bench::netns::{Signal, signal};
use adit_proto::stats::Gauge;
use anyhow::{Context, Result, ensure};

use crate::{Pings, edit, reaches};

const TOKEN: &str = "3f786850e387550fdab836ed7e6dc881de23001b";

fn ike(gateways: usize) -> LabOptions {
    LabOptions { gateways, ike: vec![String::new()], ..LabOptions::default() }
}

/// The line of a peer in a configuration, and the text without it.
fn without(text: &str, peer: &str) -> Result<(String, String)> {
    let head = format!("  - {{ name: {peer},");
    let line = text.lines().find(|line| line.starts_with(&head)).with_context(|| format!("{peer} in\n{text}"))?;
    Ok((line.to_owned(), text.replace(&format!("{line}\n"), "")))
}

/// Does something while a probe every millisecond goes from the first gateway to the second: none is lost.
fn without_loss(lab: &Lab, work: impl FnOnce() -> Result<()>) -> Result<()> {
    without_loss_between(lab, [lab.a(), lab.b()], work)
}

/// The same between two gateways.
fn without_loss_between(lab: &Lab, [from, to]: [&Gateway; 2], work: impl FnOnce() -> Result<()>) -> Result<()> {
    let pings = Pings::start(lab, from, to.inner(), Duration::from_millis(1))?;
    work()?;
    // What is lost a little later counts, too.
    thread::sleep(Duration::from_millis(300));
    pings.none_lost(lab, 300).map(drop)
}

fn write(gateway: &Gateway, text: &str) -> Result<()> {
    Ok(fs::write(&gateway.config, text)?)
}

/// A peer comes, changes and goes on gateway a while packets go between a and b.
fn others_lose_nothing(options: &LabOptions) -> Result<()> {
    let lab = Lab::start(options)?;
    let (a, c) = (lab.a(), &lab.gateways[2]);
    let plane = a.data_plane();
    let whole = fs::read_to_string(&a.config)?;
    let (line, rest) = without(&whole, "site-c")?;
    let reload = |text: &str, expect: &str| -> Result<()> {
        write(a, text)?;
        ensure!(a.status()?["configuration"]["newer"] == true, "the file is newer");
        let said = a.adit("reload")?;
        ensure!(said.contains(expect), "`{expect}` is not in:\n{said}");
        ensure!(a.status()?["configuration"]["newer"] == false, "the file was read");
        Ok(())
    };
    without_loss(&lab, || {
        reload(&rest, "peer site-c is gone")?;
        let peers = a.status()?["peers"].as_array().map_or(0, Vec::len);
        ensure!(peers == 1, "{peers} peers");
        wait_until("the peer is cut off", SOON, || Ok(c.netns.run(&format!("ping -n -c1 -W1 {}", a.inner())).is_err()))?;
        reload(&whole, "peer site-c is new")?;
        wait_until("the peer is back", SOON, || Ok(c.netns.run(&format!("ping -n -c1 -W1 {}", a.inner())).is_ok()))?;
        let changed = line.replace("name: site-c,", "name: site-c, defer_checksums: false,");
        reload(&whole.replace(&line, &changed), "peer site-c: defer_checksums true → false")?;
        wait_until("the peer that was changed is there", SOON, || {
            Ok(c.netns.run(&format!("ping -n -c1 -W1 {}", a.inner())).is_ok())
        })?;
        // Twice in a row, one right behind the other.
        write(a, &rest)?;
        a.adit("reload")?;
        write(a, &whole)?;
        a.adit("reload").map(drop)
    })
    .with_context(|| a.log())?;
    ensure!(a.data_plane() == plane, "the data plane was restarted:\n{}", a.log());
    wait_until("all is as before", SOON, || Ok(reaches(&a.netns, c.inner()).is_ok()))?;
    reaches(&a.netns, lab.b().inner())?;
    let faults: Vec<String> = a.log().lines().filter(|line| line.contains("ERROR")).map(str::to_owned).collect();
    ensure!(faults.is_empty(), "{faults:#?}");
    Ok(())
}

#[test]
fn a_peer_with_a_static_key_changes_and_others_lose_nothing() -> Result<()> {
    others_lose_nothing(&LabOptions { gateways: 3, ..LabOptions::default() })
}

#[test]
fn a_peer_with_ike_changes_and_others_lose_nothing() -> Result<()> {
    others_lose_nothing(&ike(3))
}

#[test]
fn in_ip_mode_selectors_and_routes_change_and_others_lose_nothing() -> Result<()> {
    let lab = Lab::start(&LabOptions { ip_mode: true, ..ike(3) })?;
    let (a, c) = (lab.a(), &lab.gateways[2]);
    let more = |own: u8, other: u8| format!("{{ local: 10.79.{own}.0/24, remote: 10.79.{other}.0/24 }}, ");
    for (gateway, other, peer) in [(a, 3, "site-c"), (c, 1, "site-a")] {
        gateway.netns.address("lo", &format!("10.79.{}.1/32", gateway.number))?;
        let text = fs::read_to_string(&gateway.config)?;
        let (line, _) = without(&text, peer)?;
        let new = line.replace("selectors: [", &format!("selectors: [{}", more(gateway.number, other)));
        write(gateway, &text.replace(&line, &new))?;
    }
    without_loss(&lab, || {
        a.adit("reload")?;
        c.adit("reload")?;
        wait_until("the new network is reached", SOON, || Ok(a.netns.run("ping -n -c1 -W1 -I 10.79.1.1 10.79.3.1").is_ok()))
    })
    .with_context(|| format!("{}\n{}", a.log(), a.netns.run("ip route").unwrap_or_default()))?;
    ensure!(a.netns.run("ip route")?.contains("10.79.3.0/24"), "{}", a.netns.run("ip route")?);
    reaches(&a.netns, c.inner())
}

/// The status of an answer of the API over TCP to who has the token; `None` where nobody answers.
fn api_status(gateway: &Gateway, port: u16) -> Result<Option<String>> {
    let (field, url) = (format!("Authorization: Bearer {TOKEN}"), format!("http://127.0.0.1:{port}/v1/status"));
    let mut curl = gateway.netns.command("curl");
    curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "60", "-H", &field, &url]);
    let output = curl.output()?;
    Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
}

#[test]
fn addresses_routes_and_listeners_change_without_a_lost_packet() -> Result<()> {
    let lab = Lab::start(&LabOptions::default())?;
    let (a, token) = (lab.a(), lab.dir().join("api.token"));
    fs::write(&token, format!("{TOKEN}\n"))?;
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600))?;
    let api = |port: u16| format!("api: {{ listen: 127.0.0.1:{port}, token_file: {} }}\n", token.display());
    let answers = |expected: [Option<&str>; 2]| -> Result<()> {
        let found = [api_status(a, 9466)?, api_status(a, 9467)?];
        ensure!(found.each_ref().map(Option::as_deref) == expected, "{found:?} instead of {expected:?}\n{}", a.log());
        Ok(())
    };
    let show = || Ok::<_, anyhow::Error>(a.netns.run(&format!("ip addr show dev {TAP}"))? + &a.netns.run("ip route")?);
    without_loss(&lab, || {
        edit(a, "addresses: [", "routes: [{ to: 10.98.0.0/16, via: 10.77.0.2 }], addresses: [10.99.0.1/24, ")?;
        edit(a, "127.0.0.1:9464", "127.0.0.1:9465")?;
        edit(a, "peers:\n", &format!("{}peers:\n", api(9466)))?;
        let said = a.adit("reload")?;
        ensure!(said.contains("interface.addresses + 10.99.0.1/24") && said.contains("no tunnel is interrupted"), "{said}");
        ensure!(show()?.contains("10.99.0.1/24") && show()?.contains("10.98.0.0/16 via"), "{}", show()?);
        let page = adit_bench::lab::metrics::fetch(&a.netns, 9465, "/metrics")?;
        ensure!(page.contains("adit_"), "{page}");
        ensure!(a.metrics_page().is_err(), "the old address is still open");
        answers([Some("200"), None])?;
        edit(a, "10.99.0.1/24, ", "")?;
        edit(a, "10.98.0.0/16", "10.97.0.0/16")?;
        edit(a, "127.0.0.1:9466", "127.0.0.1:9467")?;
        a.adit("reload")?;
        let now = show()?;
        ensure!(!now.contains("10.99.0.1") && !now.contains("10.98.") && now.contains("10.97.0.0/16"), "{now}");
        answers([None, Some("200")])?;
        edit(a, &api(9467), "")?;
        a.adit("reload")?;
        answers([None, None])
    })
}

#[test]
fn the_bridge_of_a_hub_changes_and_its_spokes_lose_nothing() -> Result<()> {
    let mut lab = Lab::prepare(&LabOptions { gateways: 3, star: true, ..LabOptions::default() })?;
    let netns = lab.a().netns.clone();
    for bridge in ["br0", "br1"] {
        netns.run(&format!("ip link add {bridge} type bridge forward_delay 0 stp_state 0"))?;
        netns.run(&format!("ip link set {bridge} up"))?;
    }
    let address = format!("{}/24", lab.a().inner());
    netns.address("br0", &address)?;
    edit(lab.a(), "addresses: [10.77.0.1/24, \"fd77::1/64\"]", "bridge: br0")?;
    lab.gateways.iter_mut().try_for_each(Gateway::start_control)?;
    lab.wait_until_up()?;
    let (a, plane) = (lab.a(), lab.a().data_plane());
    let is_in = |bridge: &str| netns.run(&format!("ip link show master {bridge}")).is_ok_and(|ports| ports.contains(TAP));
    let move_to = |old: &str, new: &str| -> Result<()> {
        edit(a, old, new)?;
        let said = a.adit("reload")?;
        ensure!(said.contains("interface.bridge") && said.contains("no tunnel is interrupted"), "{said}");
        Ok(())
    };
    ensure!(is_in("br0"));
    // What goes from spoke to spoke passes the hub, and no bridge of it.
    without_loss_between(&lab, [lab.b(), &lab.gateways[2]], || {
        move_to("bridge: br0", "bridge: br1")?;
        ensure!(is_in("br1") && !is_in("br0"), "{}", netns.run("ip link")?);
        netns.run(&format!("ip addr del {address} dev br0"))?;
        netns.address("br1", &address)?;
        wait_until("the LAN is reached by the other bridge", SOON, || Ok(reaches(&netns, lab.b().inner()).is_ok()))?;
        // To one that is not there yet, and to none.
        edit(a, "bridge: br1", "bridge: br2")?;
        let said = a.adit("reload")?;
        ensure!(said.contains("there is no bridge br2"), "{said}");
        netns.run("ip link add br2 type bridge")?;
        wait_until("it is joined when it comes", SOON, || Ok(is_in("br2")))?;
        move_to(", bridge: br2", "")
    })?;
    ensure!(!is_in("br2") && a.data_plane() == plane, "{}", netns.run("ip link")?);
    Ok(())
}

#[test]
fn limits_of_forwarding_change_without_a_lost_packet() -> Result<()> {
    let mut lab = Lab::start(&LabOptions::default())?;
    let plane = lab.a().data_plane();
    reaches(&lab.a().netns, lab.b().inner())?;
    let stations = |lab: &Lab| Ok::<_, anyhow::Error>(lab.a().metrics()?.gauge(0, Gauge::FdbEntries));
    ensure!(stations(&lab)? > Some(0.0), "nobody was learned");
    without_loss(&lab, || {
        edit(lab.a(), "peers:\n", "forwarding: { ageing_s: 1, flood_pps: 7 }\npeers:\n")?;
        let said = lab.a().adit("reload")?;
        ensure!(said.contains("forwarding.ageing_s 300 → 1\n") && said.contains("forwarding.flood_pps 1000 → 7\n"), "{said}");
        // Longer than an address is kept now.
        thread::sleep(Duration::from_secs(2));
        ensure!(stations(&lab)? > Some(0.0), "who is heard is not forgotten");
        Ok(())
    })?;
    wait_until("who is silent is forgotten", SOON, || Ok(stations(&lab)? == Some(0.0)))?;
    // The next control plane finds a data plane that was started with other limits, and keeps it.
    lab.gateways[0].kill_control()?;
    lab.gateways[0].start_control()?;
    lab.wait_until_up()?;
    ensure!(lab.a().data_plane() == plane, "the data plane was replaced:\n{}", lab.a().log());
    Ok(())
}

#[test]
fn what_a_worker_has_refused_comes_when_there_is_room_and_status_says_so() -> Result<()> {
    let lab = Lab::start(&LabOptions::patient())?;
    let (a, b) = (lab.a(), lab.b());
    let plane = a.data_plane();
    edit(a, "peers:\n", "forwarding: { max_entries: 16, ageing_s: 8 }\npeers:\n")?;
    a.adit("reload --restart-dataplane")?;
    wait_until("the small table", SOON, || Ok(a.data_plane().is_some_and(|now| Some(now) != plane)))?;
    wait_until("the tunnel is back", SOON, || Ok(reaches(&a.netns, b.inner()).is_ok()))?;
    let pin = |n: u8| format!("{{ mac: \"02:00:00:00:99:{n:02x}\", peer: site-b }}");
    // The far end has more stations than fit.
    let stations = || -> Result<()> {
        for n in 0..16 {
            b.netns.run(&format!(
                "ip link add link {TAP} name station{n} address 02:00:00:00:88:{n:02x} type macvlan mode bridge"
            ))?;
            b.netns.run(&format!("ip link set station{n} up"))?;
        }
        Ok(())
    };
    stations()?;
    wait_until("the table is full", SOON, || Ok(a.metrics()?.gauge(0, Gauge::FdbEntries) == Some(16.0)))?;
    edit(a, "ageing_s: 8 }", &format!("ageing_s: 8, static: [{}] }}", pin(1)))?;
    a.adit("reload")?;
    wait_until("status says what is missing", SOON, || {
        let status = a.adit("status")?;
        let flat = status.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(flat.contains("the peer is NOT UP")
            && flat.contains("pin 02:00:00:00:99:01")
            && flat.contains("its forwarding table is full"))
    })
    .with_context(|| format!("{}\n{}", a.adit("status site-b").unwrap_or_default(), a.log()))?;
    reaches(&a.netns, b.inner())?;
    (0..16).try_for_each(|n| b.netns.run(&format!("ip link del station{n}")).map(drop))?;
    a.wait_for_log("has everything that it had refused or lost", SOON)?;
    let status = a.adit("status")?;
    ensure!(status.contains("the peer is up"), "{status}");
    // That the peer is not up for it is another line.
    let is_it = |line: &&str| line.contains("refused to pin") && line.contains("tried again until it is there");
    let times = a.log().lines().filter(is_it).count();
    ensure!(times == 1, "said {times} times:\n{}", a.log());
    Ok(())
}

#[test]
fn a_file_with_mistakes_changes_nothing_and_all_are_told() -> Result<()> {
    let lab = Lab::start(&LabOptions::patient())?;
    let a = lab.a();
    let before = a.status()?["peers"].clone();
    let whole = fs::read_to_string(&a.config)?;
    write(a, &whole.replace("endpoint: ", "endpiont: ").replace("mode: ethernet", "mode: token-ring"))?;
    let said = format!("{:#}", a.adit("reload").err().context("it was taken")?);
    ensure!(said.contains("endpiont") && said.contains("nothing was changed"), "{said}");
    let old = lab.a().log().len();
    let pid = lab.gateways[0].netns.processes();
    signal(control(&lab)?, Signal::Hangup)?;
    wait_until("the mistakes are logged", SOON, || Ok(a.log()[old..].contains("nothing was changed")))?;
    ensure!(lab.gateways[0].netns.processes() == pid, "a process ended");
    ensure!(a.status()?["peers"].as_array().map(Vec::len) == before.as_array().map(Vec::len));
    ensure!(a.status()?["configuration"]["newer"] == true);
    reaches(&a.netns, lab.b().inner())
}

/// The control plane of the first gateway.
pub fn control(lab: &Lab) -> Result<u32> {
    let named = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == "adit");
    lab.a().netns.processes().into_iter().find(named).context("a control plane")
}

#[test]
fn signals_end_nothing_and_sighup_reloads() -> Result<()> {
    let lab = Lab::start(&LabOptions::patient())?;
    let (a, pid) = (lab.a(), control(&lab)?);
    let plane = a.data_plane().context("a data plane")?;
    for which in [Signal::User1, Signal::User2, Signal::Alarm, Signal::Pipe, Signal::Hangup] {
        signal(pid, which)?;
        signal(plane, which)?;
    }
    thread::sleep(Duration::from_millis(200));
    ensure!(a.data_plane() == Some(plane) && control(&lab)? == pid, "a process ended:\n{}", a.log());
    a.wait_for_log("reload: nothing has changed", SOON)?;
    edit(a, "addresses: [", "addresses: [10.99.0.1/24, ")?;
    signal(pid, Signal::Hangup)?;
    wait_until("the address is there", SOON, || Ok(a.netns.run(&format!("ip addr show dev {TAP}"))?.contains("10.99.0.1/24")))?;
    // Nobody sees an answer: the log says what changes, and which tunnels that touches.
    let said = a.wait_for_log("reload: interface.addresses + 10.99.0.1/24", SOON)?;
    ensure!(!said.contains("Tunnels"), "{said}");
    reaches(&a.netns, lab.b().inner())?;
    let (_, rest) = without(&fs::read_to_string(&a.config)?, "site-b")?;
    write(a, &rest.replace("peers:\n", "peers: []\n"))?;
    signal(pid, Signal::Hangup)?;
    a.wait_for_log("reload: peer site-b is gone. Tunnels that begin anew or end: site-b", SOON)?;
    wait_until("the tunnel is gone", SOON, || Ok(a.netns.run(&format!("ping -n -c1 -W1 {}", lab.b().inner())).is_err()))
}

#[test]
fn a_dry_run_tells_and_changes_nothing() -> Result<()> {
    let lab = Lab::start(&ike(2))?;
    let a = lab.a();
    let whole = fs::read_to_string(&a.config)?;
    let (_, rest) = without(&whole, "site-b")?;
    write(a, &rest.replace("peers:\n", "peers: []\n"))?;
    let said = a.adit("reload --dry-run")?;
    ensure!(said.contains("peer site-b is gone") && said.contains("would begin anew or end: site-b"), "{said}");
    reaches(&a.netns, lab.b().inner())?;
    ensure!(a.status()?["peers"].as_array().map(Vec::len) == Some(1));
    Ok(())
}

#[test]
fn what_needs_another_data_plane_waits_until_it_is_asked_for() -> Result<()> {
    let mut lab = Lab::start(&ike(2))?;
    let plane = lab.a().data_plane();
    edit(lab.a(), "workers: 1", "workers: 2")?;
    let said = lab.a().adit("reload")?;
    ensure!(said.contains("dataplane.workers 1 → 2: not now"), "{said}");
    ensure!(lab.a().data_plane() == plane, "the data plane was restarted");
    let pending = lab.a().status()?["configuration"]["pending"].to_string();
    ensure!(pending.contains("dataplane.workers"), "{pending}");
    let said = lab.a().adit("reload --restart-dataplane")?;
    ensure!(said.contains("all tunnels stand still"), "{said}");
    wait_until("another data plane", SOON, || Ok(lab.a().data_plane().is_some_and(|now| Some(now) != plane)))?;
    lab.wait_until_up()?;
    ensure!(lab.a().metrics_page()?.contains("worker=\"1\""), "it has two workers");
    ensure!(!lab.a().log().contains("ERROR"), "{}", lab.a().log());
    Ok(())
}

#[test]
fn a_key_that_was_changed_in_its_file_begins_its_tunnel_anew() -> Result<()> {
    let keygen = format!("{} keygen", binary("adit")?.display());
    for (options, kind, make, key) in [
        (ike(3), "psk", format!("{keygen} psk"), "ike.psk_file"),
        (LabOptions { gateways: 3, ..LabOptions::default() }, "key", keygen, "static_key_file"),
    ] {
        let lab = Lab::start(&options)?;
        let (a, c) = (lab.a(), &lab.gateways[2]);
        let [file, new] = [format!("site-a-site-c.{kind}"), format!("new.{kind}")].map(|name| lab.dir().join(name));
        a.netns.run(&format!("{make} -o {}", new.display()))?;
        let reload = |gateway: &Gateway| -> Result<()> {
            let said = gateway.adit("reload")?;
            ensure!(said.contains(&format!("{key}: the file has another content")), "{said}");
            Ok(())
        };
        without_loss(&lab, || {
            fs::rename(&new, &file)?;
            reload(a)?;
            if kind == "key" {
                // Nothing of it is taken before somebody asks, as one of IKE is after a while.
                let cut_off = || Ok(c.netns.run(&format!("ping -n -c1 -W1 {}", a.inner())).is_err());
                wait_until("the key of before leads nowhere", SOON, cut_off)?;
            }
            reload(c)?;
            wait_until("the tunnel is up with the new key", SOON, || Ok(reaches(&a.netns, c.inner()).is_ok()))
        })
        .with_context(|| format!("{key}\n{}", lab.logs()))?;
    }
    Ok(())
}

#[test]
fn a_reload_while_a_handshake_is_under_way_harms_neither() -> Result<()> {
    let mut lab = Lab::prepare(&ike(3))?;
    lab.gateways[0].start_control()?;
    lab.a().wait_for_log(" ready ", SOON)?;
    // Nobody answers yet: both handshakes are under way, and reloads come in between.
    let whole = fs::read_to_string(&lab.a().config)?;
    for round in 0..4 {
        write(lab.a(), &whole.replace("addresses: [", &format!("addresses: [10.99.0.{}/32, ", round + 1)))?;
        lab.a().adit("reload")?;
    }
    lab.gateways[1].start_control()?;
    lab.gateways[2].start_control()?;
    write(lab.a(), &whole)?;
    lab.a().adit("reload")?;
    lab.wait_until_up()
}

#[test]
fn a_reload_while_the_data_plane_is_being_restarted_is_done_then() -> Result<()> {
    let mut lab = Lab::start(&ike(2))?;
    lab.a().kill_data_plane()?;
    edit(lab.a(), "addresses: [", "addresses: [10.99.0.1/24, ")?;
    lab.a().adit("reload")?;
    wait_until("the address is there", SOON, || {
        Ok(lab.a().netns.run(&format!("ip addr show dev {TAP}")).is_ok_and(|text| text.contains("10.99.0.1/24")))
    })
    .with_context(|| lab.a().log())?;
    lab.wait_until_up()
}
