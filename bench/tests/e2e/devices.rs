//! Devices that a data plane is handed while it runs: the interface, where somebody has deleted it, and sockets at another address.

use std::time::{Duration, Instant};

use adit_bench::lab::{Gateway, Lab, LabOptions, PORT, SOON, TAP, WAN, wait_until};
use adit_bench::netns::{Signal, Veth, signal};
use anyhow::{Context, Result, ensure};

use crate::ike_tunnel::{ROLES, patient, peer, spis};
use crate::paths::path_in_use;
use crate::{Pings, edit, reaches};

/// How long it may take until all is as it was.
const RIGHT_WITHIN: Duration = Duration::from_secs(2);

fn passes(lab: &Lab) -> Result<()> {
    wait_until("packets pass", SOON, || Ok(reaches(&lab.a().netns, lab.b().inner()).is_ok())).with_context(|| lab.logs())
}

/// Deletes the interface of the first gateway; it is there again soon, with the same process and the same keys behind it. Gives
/// how long it took until a packet passed.
fn delete_interface(lab: &Lab, meanwhile: impl FnOnce() -> Result<()>) -> Result<Duration> {
    without_interface(lab, || lab.a().netns.run(&format!("ip link del {TAP}")).map(drop).and_then(|()| meanwhile()))
}

/// The same, whatever takes it away.
fn without_interface(lab: &Lab, take: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let (a, plane) = (lab.a(), lab.a().data_plane());
    let handed = a.log().matches("was handed over anew").count();
    let began = Instant::now();
    take()?;
    wait_until("the interface was handed over", SOON, || Ok(a.log().matches("was handed over anew").count() > handed))
        .with_context(|| a.log())?;
    let ping = format!("ping -n -c1 -W0.2 {}", lab.b().inner());
    wait_until("a packet passes", SOON, || Ok(a.netns.run(&ping).is_ok())).with_context(|| lab.logs())?;
    let took = began.elapsed();
    passes(lab)?;
    ensure!(lab.a().data_plane() == plane, "the data plane was replaced:\n{}", lab.a().log());
    Ok(took)
}

/// What was taken away several times was there again within two seconds, of which the best counts, for a busy machine only delays.
fn right_soon(lab: &Lab, took: &[Duration]) -> Result<()> {
    ensure!(took.iter().any(|took| *took < RIGHT_WITHIN), "{took:?}\n{}", lab.logs());
    Ok(())
}

#[test]
fn a_renamed_interface_is_made_again_under_its_name_and_the_other_goes() -> Result<()> {
    let lab = Lab::start(&LabOptions { workers: vec![2, 1], ..patient(&ROLES) })?;
    let (a, before, steps) = (lab.a(), spis(lab.a())?, lab.dir().join("rename"));
    std::fs::write(&steps, format!("link set {TAP} down\nlink set {TAP} name theirs0\n"))?;
    let rename = || {
        // Where it is only down, it is set up again at once.
        wait_until("it is renamed", SOON, || Ok(a.netns.run(&format!("ip -batch {}", steps.display())).is_ok()))
    };
    let mut took = Vec::new();
    for _ in 0..3 {
        took.push(without_interface(&lab, rename)?);
        wait_until("the other one is gone", SOON, || Ok(a.netns.run("ip link show theirs0").is_err()))
            .with_context(|| a.log())?;
    }
    right_soon(&lab, &took)?;
    ensure!(has_interface(a, 2)? && spis(a)? == before, "{:?} was {before:?}\n{}", spis(a)?, a.log());
    ensure!(!a.log().contains("ERROR"), "{}", a.log());
    Ok(())
}

#[test]
fn a_deleted_interface_is_made_again_and_no_tunnel_begins_anew() -> Result<()> {
    let ike = |ip_mode, io| LabOptions { ip_mode, io, workers: vec![2, 2], ..patient(&ROLES) };
    for options in [ike(false, "io_uring"), ike(true, "poll"), LabOptions { ip_mode: true, ..LabOptions::patient() }] {
        let mut lab = Lab::start(&options)?;
        let (before, began) = (spis(lab.a())?, Instant::now());
        let took = [delete_interface(&lab, || Ok(()))?, delete_interface(&lab, || Ok(()))?, delete_interface(&lab, || Ok(()))?];
        right_soon(&lab, &took)?;
        ensure!(spis(lab.a())? == before, "{:?} was {before:?}", spis(lab.a())?);
        let log = lab.a().log();
        // The same is said again after a minute.
        let times = log.matches(&format!("the interface {TAP} was deleted: it was made anew")).count();
        ensure!(times == 1 || times > 1 && began.elapsed() > Duration::from_secs(60), "said {times} times:\n{log}");
        ensure!(!log.contains("ERROR"), "{log}");
        // While no control plane is there to do it: the next one does.
        lab.gateways[0].kill_control()?;
        lab.a().netns.run(&format!("ip link del {TAP}"))?;
        let handed = lab.a().log().matches("was handed over anew").count();
        lab.gateways[0].start_control()?;
        wait_until("the interface is there", SOON, || Ok(lab.a().log().matches("was handed over anew").count() > handed))
            .with_context(|| lab.a().log())?;
        passes(&lab)?;
    }
    Ok(())
}

/// A link of somebody else that has our name, as the kernel has it.
fn theirs(gateway: &Gateway) -> Result<[String; 2]> {
    let [link, addresses] = ["link", "addr"].map(|what| gateway.netns.run(&format!("ip -o {what} show {TAP}")));
    Ok([link?, addresses?])
}

/// Nothing of ours is put on it.
fn is_left_alone(gateway: &Gateway) -> Result<()> {
    let [link, addresses] = theirs(gateway)?;
    let flags = link.split(['<', '>']).nth(1).context("flags")?;
    ensure!(!flags.split(',').any(|flag| flag == "UP"), "somebody else's link was set up: {link}");
    ensure!(addresses.is_empty(), "somebody else's link has addresses of ours: {addresses}");
    Ok(())
}

/// Whether all workers say that they have an interface.
fn has_interface(gateway: &Gateway, workers: usize) -> Result<bool> {
    Ok(gateway.metrics()?.sum("adit_tap_index", &[]) == Some(workers as f64))
}

#[test]
fn an_interface_of_somebody_else_with_its_name_is_waited_for() -> Result<()> {
    let lab = Lab::start(&LabOptions::patient())?;
    let a = lab.a();
    for (round, step) in ["link add {} type bridge", "tuntap add {} mode tap"].into_iter().cycle().take(6).enumerate() {
        let before = a.log().len();
        let handed = a.log().matches("was handed over anew").count();
        delete_interface(&lab, || {
            let steps = lab.dir().join("theirs");
            std::fs::write(&steps, format!("link del {TAP}\n{}\n", step.replace("{}", TAP)))?;
            if round >= 4 {
                // Ours has just come back.
                wait_until("it is back", SOON, || Ok(a.log().matches("was handed over anew").count() > handed))?;
            }
            // Else it is there again by now, or just being made.
            wait_until("somebody is faster", SOON, || Ok(a.netns.run(&format!("ip -force -batch {}", steps.display())).is_ok()))?;
            wait_until("it is said", SOON, || Ok(a.log()[before..].contains("cannot be made again"))).with_context(|| a.log())?;
            for command in ["status site-b", "explain site-b"] {
                let said = a.adit(command)?.split_whitespace().collect::<Vec<_>>().join(" ");
                ensure!(said.contains("the interface was deleted, and cannot be made again"), "{said}");
            }
            ensure!(a.metrics()?.sum("adit_peer_up", &[]) == Some(0.0) && !has_interface(a, 1)?, "{}", a.metrics_page()?);
            is_left_alone(a)?;
            a.netns.run(&format!("ip link del {TAP}")).map(drop)
        })?;
        ensure!(has_interface(a, 1)?, "{}", a.metrics_page()?);
    }
    Ok(())
}

#[test]
fn what_took_its_name_while_nobody_looked_is_not_taken_for_ours() -> Result<()> {
    let ip = LabOptions { ip_mode: true, workers: vec![2, 1], ..LabOptions::patient() };
    for (step, options) in [("link add {} type bridge", LabOptions::patient()), ("tuntap add {} mode tun", ip)] {
        let workers = options.workers.first().copied().unwrap_or(1);
        let mut lab = Lab::start(&options)?;
        let plane = lab.a().data_plane();
        lab.gateways[0].kill_control()?;
        for step in ["link del {}", step] {
            lab.a().netns.run(&format!("ip {}", step.replace("{}", TAP)))?;
        }
        lab.gateways[0].start_control()?;
        let a = lab.a();
        let made = theirs(a)?;
        a.wait_for_log("cannot be made again", SOON)?;
        is_left_alone(a)?;
        wait_until("it answers", SOON, || Ok(a.adit("status").is_ok()))?;
        edit(a, "peers:\n", "http_names: [gw1.example.org]\npeers:\n")?;
        let said = a.adit("reload").unwrap_or_else(|error| format!("{error:#}"));
        ensure!(said.contains("somebody has deleted it"), "{said}");
        ensure!(theirs(a)? == made, "{:?} was {made:?}", theirs(a)?);
        a.netns.run(&format!("ip link del {TAP}"))?;
        passes(&lab)?;
        ensure!(a.data_plane() == plane, "the data plane was replaced:\n{}", a.log());
        ensure!(has_interface(a, workers.into())?, "{}", a.metrics_page()?);
    }
    Ok(())
}

#[test]
fn an_interface_that_is_taken_late_is_set_up_and_the_data_plane_stays() -> Result<()> {
    let lab = Lab::start(&LabOptions { workers: vec![2, 1], ..LabOptions::patient() })?;
    let (a, plane) = (lab.a(), lab.a().data_plane());
    let pid = plane.context("a data plane")?;
    signal(pid, Signal::Stop)?;
    a.netns.run(&format!("ip link del {TAP}"))?;
    let said = a.wait_for_log("the data plane has not taken another one", SOON);
    signal(pid, Signal::Continue)?;
    said?;
    wait_until("it is set up", SOON, || Ok(a.log().contains("it was made anew"))).with_context(|| a.log())?;
    passes(&lab)?;
    let log = a.log();
    ensure!(a.data_plane() == plane && !log.contains("was not as configured"), "{log}");
    ensure!(has_interface(a, 2)?, "{}", a.metrics_page()?);
    Ok(())
}

/// Has the first gateway listen elsewhere, while pings go both ways.
fn listens_at(lab: &Lab, before: &str, now: &str) -> Result<()> {
    let (a, b, plane) = (lab.a(), lab.b(), lab.a().data_plane());
    let every = Duration::from_millis(2);
    let pings = [Pings::start(lab, a, b.inner(), every)?, Pings::start(lab, b, a.inner(), every)?];
    edit(a, &format!("listen: \"{before}\""), &format!("listen: \"{now}\""))?;
    // One that it has left is free a little later.
    wait_until("the address is free", SOON, || match a.adit("reload") {
        Ok(said) => {
            ensure!(said.contains("listen ") && !said.contains("not now"), "{said}");
            Ok(true)
        }
        Err(error) => {
            let said = format!("{error:#}");
            ensure!(said.contains("in use") || said.contains("which it has just left"), "{said}");
            Ok(false)
        }
    })?;
    wait_until("it listens there", SOON, || Ok(a.adit("status")?.contains(&format!("UDP {now}")))).with_context(|| lab.logs())?;
    wait_until("the other end has followed", SOON, || Ok(path_in_use(b)?["remote"] == now)).with_context(|| lab.logs())?;
    for pings in pings {
        pings.none_lost(lab, 10)?;
    }
    ensure!(a.data_plane() == plane, "the data plane was replaced:\n{}", a.log());
    Ok(())
}

#[test]
fn a_gateway_listens_elsewhere_and_no_packet_is_lost() -> Result<()> {
    let [four, six] = [["192.0.2.1", "192.0.2.101"], ["[2001:db8::1]", "[2001:db8::101]"]];
    for (options, [first, second]) in [
        (LabOptions { workers: vec![2, 2], ..patient(&ROLES) }, four),
        (LabOptions::patient(), four),
        (LabOptions { outer_ipv6: true, ip_mode: true, ..patient(&ROLES) }, six),
    ] {
        let mut lab = Lab::start(&options)?;
        lab.a()
            .netns
            .address(WAN, &format!("{}/{}", second.trim_matches(['[', ']']), if options.outer_ipv6 { 64 } else { 24 }))?;
        let [begins, moves, there] = [(first, PORT), (first, 4501), (second, 4501)].map(|(ip, port)| format!("{ip}:{port}"));
        listens_at(&lab, &begins, &moves)?;
        listens_at(&lab, &moves, &there)?;
        edit(lab.a(), &format!("listen: \"{there}"), &format!("listen: \"{moves}"))?;
        let refused = format!("{:#}", lab.a().adit("reload").err().context("it was taken")?);
        ensure!(refused.contains("which it has just left: try again in"), "{refused}");
        edit(lab.a(), &format!("listen: \"{moves}"), &format!("listen: \"{there}"))?;
        // The next control plane finds a data plane that was started with another address, and keeps it.
        let plane = lab.a().data_plane();
        lab.gateways[0].kill_control()?;
        lab.gateways[0].start_control()?;
        lab.wait_until_up()?;
        passes(&lab)?;
        ensure!(lab.a().data_plane() == plane, "the data plane was replaced:\n{}", lab.a().log());
        listens_at(&lab, &there, &begins)?;
    }
    Ok(())
}

/// Not only what there is leaves from the new sockets.
#[test]
fn after_a_move_peers_are_connected_and_a_restart_moves_as_a_reload_does() -> Result<()> {
    let mut lab = Lab::prepare(&patient(&ROLES))?;
    edit(lab.a(), "listen: \"192.0.2.1:4500\"", "listen: \"0.0.0.0:4500\"")?;
    lab.gateways.iter_mut().try_for_each(Gateway::start_control)?;
    lab.wait_until_up()?;
    edit(lab.a(), "listen: \"0.0.0.0:4500\"", "listen: \"0.0.0.0:4501\"")?;
    lab.a().adit("reload")?;
    let from = |lab: &Lab| Ok::<_, anyhow::Error>(path_in_use(lab.b())?["remote"].clone());
    wait_until("the other end has followed", SOON, || Ok(from(&lab)? == "192.0.2.1:4501")).with_context(|| lab.logs())?;
    lab.a().adit("disconnect site-b")?;
    lab.a().adit("connect site-b")?;
    passes(&lab)?;
    ensure!(from(&lab)? == "192.0.2.1:4501", "{}", lab.logs());
    let nat_here = peer(lab.a())?["ike"]["sas"][0]["nat_here"].clone();
    ensure!(nat_here == false, "a NAT where there is none: {nat_here}");
    // The file is edited while nobody reads it; the data plane has to be another one then, and the IKE SA goes on.
    let before = spis(lab.a())?.0;
    lab.gateways[0].kill_control()?;
    edit(lab.a(), "listen: \"0.0.0.0:4501\"", "listen: \"192.0.2.1:4502\"")?;
    lab.gateways[0].start_control()?;
    wait_until("the other end has followed", SOON, || Ok(from(&lab)? == "192.0.2.1:4502")).with_context(|| lab.logs())?;
    passes(&lab)?;
    ensure!(spis(lab.a())?.0 == before, "it was connected anew:\n{}", lab.logs());
    Ok(())
}

#[test]
fn a_link_in_listen_that_is_made_anew_is_followed_without_a_restart() -> Result<()> {
    let mut lab = Lab::prepare(&patient(&ROLES))?;
    let neighbours = |lab: &Lab| -> Result<()> {
        let add = |gateway: &Gateway| gateway.netns.run(&format!("ip address add fe80::{}/64 dev {WAN} nodad", gateway.number));
        lab.gateways.iter().try_for_each(|gateway| add(gateway).map(drop))
    };
    neighbours(&lab)?;
    for gateway in &mut lab.gateways {
        let (own, other) = (gateway.number, 3 - gateway.number);
        edit(gateway, &format!("listen: \"192.0.2.{own}:4500\""), &format!("listen: \"[fe80::{own}%{WAN}]:4500\""))?;
        edit(gateway, &format!("\"192.0.2.{other}:4500\""), &format!("\"[fe80::{other}%{WAN}]:4500\""))?;
        gateway.start_control()?;
    }
    lab.wait_until_up()?;
    let plane = lab.a().data_plane();
    lab.a().netns.run(&format!("ip link del {WAN}"))?;
    // Another interface takes the number.
    lab.a().netns.run("ip link add spare0 type bridge")?;
    let _cable = Veth::between(&lab.a().netns, WAN, &lab.b().netns, WAN, 1500)?;
    neighbours(&lab)?;
    passes(&lab)?;
    ensure!(lab.a().data_plane() == plane, "the data plane was replaced:\n{}", lab.a().log());
    Ok(())
}

#[test]
fn an_address_that_cannot_be_had_changes_nothing() -> Result<()> {
    let lab = Lab::start(&patient(&ROLES))?;
    let a = lab.a();
    let first = format!("192.0.2.1:{PORT}");
    let _theirs = a.netns.enter(|| std::net::UdpSocket::bind("192.0.2.1:4777"))?;
    for (now, why) in [("192.0.2.77:4500", "no interface has this address"), ("192.0.2.1:4777", "the address is in use")] {
        edit(a, &format!("listen: \"{first}\""), &format!("listen: \"{now}\""))?;
        let said = format!("{:#}", a.adit("reload").err().context("it was taken")?);
        ensure!(said.contains("nothing was changed") && said.contains(why), "{said}");
        edit(a, &format!("listen: \"{now}\""), &format!("listen: \"{first}\""))?;
        reaches(&a.netns, lab.b().inner())?;
    }
    Ok(())
}
