//! A gateway is run again with a changed configuration while its data plane forwards: only what changed is touched.

use std::fs::{self, File};
use std::process::Command;
use std::time::{Duration, Instant};

use adit_bench::lab::capture::{Capture, Datagram, Injector};
use adit_bench::lab::{Lab, LabOptions, PORT, SOON, TAP, WAN, wait_until};
use adit_bench::netns::Signal;
use adit_proto::stats::{Count, Drop};
use anyhow::{Context, Result, ensure};

/// Kills the control plane of the first gateway, edits its configuration, starts it again, and waits until all is installed.
fn edited(lab: &mut Lab, edit: impl FnOnce(&str) -> String) -> Result<()> {
    if lab.gateways[0].control().is_ok() {
        lab.gateways[0].kill_control()?;
    }
    let config = lab.a().config.clone();
    let text = fs::read_to_string(&config)?;
    let changed = edit(&text);
    ensure!(changed != text, "the edit found nothing to change in\n{text}");
    fs::write(&config, changed)?;
    let ready = |lab: &Lab| lab.a().log().matches(" ready ").count();
    let before = ready(lab);
    lab.gateways[0].start_control()?;
    wait_until("the new control plane is ready", SOON, || Ok(ready(lab) > before)).with_context(|| lab.a().log())
}

/// The same text without the last gateway's peer.
fn without_c(text: &str) -> String {
    let lines =
        text.lines().map(|line| if line.contains("name: site-c") { line.replace("- {", "# - {") } else { line.to_owned() });
    lines.map(|line| line + "\n").collect()
}

/// Datagrams of gateway `from` that the data plane of gateway a has opened while nobody ruled it, and no other comes after them.
fn opened_alone(lab: &mut Lab, from: usize) -> Result<Vec<Datagram>> {
    const COUNT: usize = 200;
    lab.gateways[0].kill_control()?;
    // Nothing else is to come from there: its control plane would bring the interface up again.
    lab.gateways[from].control()?.signal(Signal::Stop)?;
    let (sender, receiver) = (&lab.gateways[from], lab.a());
    let mut capture = Capture::open(&sender.netns, WAN)?;
    sender.netns.run(&format!("ping -n -q -c{COUNT} -i0.002 -W2 {}", receiver.inner()))?;
    sender.netns.run(&format!("ip link set {TAP} down"))?;
    let (source, target) = (sender.outer(), receiver.outer());
    let sealed = |datagram: &Datagram| {
        *datagram.from.ip() == source && *datagram.to.ip() == target && datagram.to.port() == PORT && datagram.payload.len() > 60
    };
    let found = capture.collect(COUNT, SOON, sealed)?;
    ensure!(found.len() == COUNT, "captured {} datagrams instead of {COUNT}", found.len());
    Ok(found)
}

/// An error unless gateway a drops all of these, which gateway `from` sent before, as replays.
fn refuses_replays(lab: &mut Lab, from: usize, datagrams: &[Datagram]) -> Result<()> {
    let link = Injector::open(&lab.gateways[from].netns, WAN)?;
    let numbers = || -> Result<(u64, u64)> {
        let metrics = lab.a().metrics()?;
        Ok((metrics.count(Count::Opened), metrics.dropped(Drop::Replay) + metrics.dropped(Drop::ReplayOld)))
    };
    let (opened, dropped) = numbers()?;
    for datagram in datagrams {
        link.send(datagram)?;
    }
    let all = datagrams.len() as u64;
    wait_until("all are opened or dropped", SOON, || {
        let now = numbers()?;
        Ok(now.0 + now.1 >= opened + dropped + all)
    })?;
    let now = numbers()?;
    ensure!(now == (opened, dropped + all), "{} of {all} replayed datagrams were opened", now.0 - opened);
    lab.gateways[from].netns.run(&format!("ip link set {TAP} up"))?;
    lab.gateways[from].control()?.signal(Signal::Continue)
}

#[test]
fn addresses_and_routes_change_without_touching_the_data_plane() -> Result<()> {
    let mut lab = Lab::start(&LabOptions::default())?;
    let plane = lab.a().data_plane().context("a data plane")?;
    let own = lab.a().inner();
    let via = lab.b().inner();
    edited(&mut lab, |text| {
        let more = format!("[10.99.0.1/24, {own}/24], routes: [{{ to: 10.98.0.0/16, via: {via} }}]");
        let start = text.find("addresses: ").map_or(0, |at| at + "addresses: ".len());
        let end = start + text[start..].find(']').map_or(0, |at| at + 1);
        format!("{}{more}{}", &text[..start], &text[end..])
    })?;
    let addresses = lab.a().netns.run(&format!("ip addr show {TAP}"))?;
    ensure!(addresses.contains("10.99.0.1/24") && !addresses.contains(&lab.a().inner6().to_string()), "{addresses}");
    ensure!(lab.a().netns.run("ip route")?.contains("10.98.0.0/16"), "the route is missing");
    edited(&mut lab, |text| text.replace("10.99.0.1/24, ", "").replace("10.98.", "10.97."))?;
    let addresses = lab.a().netns.run(&format!("ip addr show {TAP}"))?;
    let routes = lab.a().netns.run("ip route")?;
    ensure!(!addresses.contains("10.99.0.1/24"), "the address was not removed: {addresses}");
    ensure!(routes.contains("10.97.0.0/16") && !routes.contains("10.98.0.0/16"), "the route was not exchanged: {routes}");
    ensure!(lab.a().data_plane() == Some(plane), "the data plane was restarted");
    lab.wait_until_up()
}

#[test]
fn a_setting_of_the_data_plane_restarts_it_and_the_log_says_which() -> Result<()> {
    let mut lab = Lab::start(&LabOptions::default())?;
    let plane = lab.a().data_plane().context("a data plane")?;
    edited(&mut lab, |text| text.replace("workers: 1", "workers: 2"))?;
    ensure!(lab.a().log().contains("workers 1 → 2"), "{}", lab.a().log());
    ensure!(lab.a().data_plane().is_some_and(|now| now != plane), "the data plane was not restarted");
    lab.wait_until_up()
}

#[test]
fn counters_never_go_back_whichever_plane_is_restarted() -> Result<()> {
    let mut lab = Lab::start(&LabOptions::default())?;
    lab.b().netns.run(&format!("ping -n -q -c200 -i0.002 {}", lab.a().inner()))?;
    let opened = |lab: &Lab| -> Result<u64> { Ok(lab.a().metrics()?.count(Count::Opened)) };
    let first = opened(&lab)?;
    ensure!(first >= 200, "only {first} packets");
    let ready = lab.a().log().matches(" ready ").count();
    lab.a().kill_data_plane()?;
    wait_until("it is back", SOON, || Ok(lab.a().log().matches(" ready ").count() > ready))?;
    let second = opened(&lab)?;
    ensure!(second >= first, "{second} after {first} when the data plane was restarted");
    edited(&mut lab, |text| text.to_owned() + "# edited\n")?;
    let third = opened(&lab)?;
    ensure!(third >= second, "{third} after {second} when the control plane was restarted");
    ensure!(lab.a().metrics_page()?.contains("adit_dataplane_restarts_total 1\n"), "the restart is forgotten");
    Ok(())
}

#[test]
fn a_peer_that_is_taken_out_of_the_file_is_cut_off_and_comes_back() -> Result<()> {
    let mut lab = Lab::start(&LabOptions { gateways: 3, ..LabOptions::default() })?;
    let plane = lab.a().data_plane().context("a data plane")?;
    let whole = fs::read_to_string(&lab.a().config)?;
    edited(&mut lab, without_c)?;
    let now = lab.a().status()?;
    ensure!(now["peers"].as_array().is_some_and(|peers| peers.len() == 1), "{now}");
    wait_until("its SAs are gone", SOON, || Ok(lab.a().metrics_page()?.contains("adit_peers{worker=\"0\"} 1\n")))?;
    ensure!(lab.gateways[2].netns.run(&format!("ping -n -c1 -W1 {}", lab.a().inner())).is_err(), "the peer still gets through");
    lab.b().netns.run(&format!("ping -n -c1 -W2 {}", lab.a().inner()))?;
    edited(&mut lab, |_| whole)?;
    ensure!(lab.a().data_plane() == Some(plane), "the data plane was restarted");
    lab.wait_until_up()
}

#[test]
fn what_a_data_plane_received_alone_is_not_received_again_by_the_next_one() -> Result<()> {
    let mut lab = Lab::start(&LabOptions::default())?;
    let heard = opened_alone(&mut lab, 1)?;
    edited(&mut lab, |text| text.replace("workers: 1", "workers: 2"))?;
    refuses_replays(&mut lab, 1, &heard)?;
    // Its totals are not lost either.
    let opened = lab.a().metrics()?.count(Count::Opened);
    ensure!(opened >= heard.len() as u64, "{opened} packets opened, of {} before the data plane was replaced", heard.len());
    lab.wait_until_up()
}

#[test]
fn nobody_is_cut_off_before_the_disk_knows_what_has_come_from_there() -> Result<()> {
    let lab = Lab::start(&LabOptions { gateways: 3, ..LabOptions::default() })?;
    let a = lab.a();
    a.netns.run(&format!("ping -n -q -c20 -i0.01 {}", lab.gateways[2].inner()))?;
    // Who opens it to write waits until somebody reads, as a hanging disk lets wait.
    let pipe = lab.dir().join("state-site-a/sequence.json.new");
    let made = Command::new("mkfifo").arg(&pipe).status()?;
    ensure!(made.success(), "mkfifo: {made}");
    let text = fs::read_to_string(&a.config)?;
    fs::write(&a.config, without_c(&text))?;
    let began = Instant::now();
    a.adit("reload")?;
    ensure!(began.elapsed() >= Duration::from_secs(2), "nobody waited for the disk: {:?}", began.elapsed());
    a.wait_for_log("has not answered for 2 s", SOON)?;
    ensure!(a.status()?["peers"].as_array().is_some_and(|peers| peers.len() == 1), "the peer is still there");
    // What is tried again before the pipe is gone must not find it without a reader.
    let reader = File::open(&pipe)?;
    fs::remove_file(&pipe)?;
    drop(reader);
    a.wait_for_log("the state directory can be written again", SOON)?;
    Ok(())
}

#[test]
fn what_a_peer_sent_before_it_left_the_file_is_a_replay_when_it_is_back() -> Result<()> {
    let mut lab = Lab::start(&LabOptions { gateways: 3, ..LabOptions::default() })?;
    let whole = fs::read_to_string(&lab.a().config)?;
    // The data plane stays.
    let heard = opened_alone(&mut lab, 2)?;
    edited(&mut lab, without_c)?;
    edited(&mut lab, |_| whole.clone())?;
    refuses_replays(&mut lab, 2, &heard)?;
    lab.wait_until_up()?;
    // The data plane is replaced at the same time.
    let heard = opened_alone(&mut lab, 2)?;
    edited(&mut lab, |text| without_c(text).replace("workers: 1", "workers: 2"))?;
    edited(&mut lab, |_| whole.clone())?;
    refuses_replays(&mut lab, 2, &heard)?;
    lab.wait_until_up()
}
