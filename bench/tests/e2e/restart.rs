//! The data plane dies, its TAP is taken away, the gateway is stopped: what comes back, and how fast.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use adit_bench::lab::{Gateway, Lab, LabOptions, PORT, SOON, TAP, WAN, binary, wait_until};
use adit_bench::netns::once_free;
use adit_bench::rtt::Prober;
use anyhow::{Context, Result, ensure};

use crate::edit;

const BACK_WITHIN: Duration = Duration::from_secs(1);
/// A busy machine makes outages longer, and never shorter: the shortest of these counts.
const TRIES: usize = 5;

/// Does harm until an outage was short enough.
fn is_back_soon(lab: &Lab, harm: impl Fn() -> Result<()>) -> Result<()> {
    let mut outages = Vec::new();
    while outages.iter().all(|outage| *outage >= BACK_WITHIN) {
        ensure!(outages.len() < TRIES, "the tunnel was away for {outages:?}");
        outages.push(outage(lab, &harm)?);
    }
    Ok(())
}

/// Probes at 1 ms from b to a while `harm` is done to a, until the tunnel is back: how long it was away.
fn outage(lab: &Lab, harm: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let prober = lab.b().netns.enter(|| Prober::start(lab.a().inner().into(), Duration::from_millis(1)))?;
    wait_until("pings are answered", SOON, || Ok(prober.so_far().1 > 100))?;
    let old = lab.a().data_plane().context("a data plane")?;
    harm()?;
    wait_until("there is a new data plane", SOON, || Ok(lab.a().data_plane().is_some_and(|pid| pid != old)))?;
    let (_, answered) = prober.so_far();
    wait_until("pings are answered again", SOON, || Ok(prober.so_far().1 > answered + 500)).with_context(|| lab.a().log())?;
    let probes = prober.stop(Duration::from_secs(1))?;
    println!("{} of {} pings lost, the longest outage was {:?}", probes.lost, probes.sent, probes.longest_outage);
    Ok(probes.longest_outage)
}

#[test]
fn a_killed_data_plane_is_back_within_a_second() -> Result<()> {
    let lab = Lab::start(&LabOptions::default())?;
    for _ in 0..3 {
        is_back_soon(&lab, || lab.a().kill_data_plane().map(drop))?;
    }
    // Addresses and routes are there again too, for both IP versions.
    lab.a().netns.run(&format!("ping -n -c1 -W2 {}", lab.b().inner6()))?;
    Ok(())
}

#[test]
fn a_killed_data_plane_does_not_end_a_tcp_connection() -> Result<()> {
    let lab = Lab::start(&LabOptions::default())?;
    let bytes = crate::GIB;
    let running = adit_bench::lab::traffic::start(&lab.a().netns, &lab.b().netns, lab.b().inner().into(), bytes)?;
    wait_until("a tenth has moved", SOON, || Ok(running.moved() > bytes / 10))?;
    lab.a().kill_data_plane()?;
    running.finish()?.verify(bytes)
}

/// The file of the first gateway that says where peers have proven themselves.
fn proofs(lab: &Lab) -> String {
    std::fs::read_to_string(lab.dir().join("state-site-a/proofs.json")).unwrap_or_default()
}

#[test]
fn where_peers_have_proven_themselves_outlives_both_planes() -> Result<()> {
    const ELSEWHERE: &str = "192.0.2.77";
    let mut lab = Lab::start(&LabOptions { gateways: 3, ike: vec![String::new()], ..LabOptions::patient() })?;
    let [b, c] = [1, 2].map(|gateway| lab.gateways[gateway].outer());
    let tells_of = |lab: &Lab, address: &str| proofs(lab).contains(&format!("\"{address}:{PORT}\""));
    wait_until("both have proven themselves", SOON, || Ok([b, c].iter().all(|address| tells_of(&lab, &address.to_string()))))?;
    lab.gateways.iter_mut().try_for_each(Gateway::stop)?;
    // One stays away and the other one comes from elsewhere: what is written then tells of both.
    lab.gateways[2].netns.address(WAN, &format!("{ELSEWHERE}/24"))?;
    edit(&lab.gateways[2], &format!("listen: \"{c}:"), &format!("listen: \"{ELSEWHERE}:"))?;
    [0, 2].into_iter().try_for_each(|gateway| lab.gateways[gateway].start_control())?;
    wait_until("it has proven itself elsewhere", SOON, || Ok(tells_of(&lab, ELSEWHERE))).with_context(|| lab.logs())?;
    ensure!(tells_of(&lab, &b.to_string()), "{}", proofs(&lab));
    Ok(())
}

#[test]
fn peers_that_go_on_over_a_restart_of_adit_are_one_line_of_the_log() -> Result<()> {
    let mut lab = Lab::start(&LabOptions { gateways: 3, ike: vec![String::new()], ..LabOptions::patient() })?;
    lab.gateways[0].kill_control()?;
    let before = lab.a().log().len();
    lab.gateways[0].start_control()?;
    wait_until("all are up", SOON, || Ok(lab.a().adit("status").is_ok())).with_context(|| lab.logs())?;
    let log = lab.a().log();
    let said = &log[before..];
    ensure!(said.matches("IKE SAs: 2 go on, 0 forgotten").count() == 1, "{said}");
    ensure!(!said.contains("peer="), "{said}");
    Ok(())
}

#[test]
fn a_stop_is_clean_and_leaves_nothing_behind() -> Result<()> {
    let mut lab = Lab::start(&LabOptions::patient())?;
    lab.gateways[0].stop()?;
    ensure!(lab.a().netns.processes().is_empty(), "processes are left: {:?}", lab.a().netns.processes());
    // The kernel takes an io_uring of a process down, and with it the TAP's descriptor, shortly after the process.
    wait_until("the TAP is gone", SOON, || Ok(lab.a().netns.run(&format!("ip link show {TAP}")).is_err()))?;
    let leftovers: Vec<_> = std::fs::read_dir(lab.dir().join("run-site-a"))
        .map(|entries| {
            entries.flatten().map(|entry| entry.file_name()).filter(|name| name.to_string_lossy().ends_with(".sock")).collect()
        })
        .unwrap_or_default();
    ensure!(leftovers.is_empty(), "sockets are left: {leftovers:?}");
    lab.gateways[0].start_control()?;
    lab.wait_until_up()
}

/// The UDP port of the data plane that runs.
fn port(gateway: &Gateway) -> Result<u16> {
    // The tunnel is up before the next control plane answers.
    wait_until("it answers", SOON, || Ok(gateway.adit("status").is_ok()))?;
    let listen: SocketAddr = gateway.status()?["data_plane"]["listen"].as_str().context("a data plane")?.parse()?;
    Ok(listen.port())
}

#[test]
fn a_port_that_the_system_has_chosen_outlives_both_planes() -> Result<()> {
    let roles = ["role: initiator", "role: responder"].map(str::to_owned);
    let mut lab = Lab::prepare(&LabOptions { ike: roles.to_vec(), ..LabOptions::patient() })?;
    let own = lab.a().outer();
    edit(lab.a(), &format!("listen: \"{own}:4500\""), &format!("listen: \"{own}:0\""))?;
    let checked = lab.a().netns.run(&format!("{} config check {}", binary("adit")?.display(), lab.a().config.display()))?;
    ensure!(checked.starts_with("ok"), "{checked}");
    lab.gateways.iter_mut().try_for_each(Gateway::start_control)?;
    lab.wait_until_up()?;
    let chosen = port(lab.a())?;
    ensure!(chosen > 0 && chosen != 4500, "{chosen}");
    let old = lab.a().kill_data_plane()?;
    wait_until("another data plane", SOON, || Ok(lab.a().data_plane().is_some_and(|plane| plane != old)))?;
    lab.wait_until_up()?;
    let plane = lab.a().data_plane();
    lab.gateways[0].kill_control()?;
    lab.gateways[0].start_control()?;
    lab.wait_until_up()?;
    ensure!(lab.a().data_plane() == plane && port(lab.a())? == chosen, "{} after {chosen}", port(lab.a())?);
    let said = lab.a().adit("reload")?;
    ensure!(said.contains("nothing has changed"), "{said}");
    lab.gateways[0].stop()?;
    lab.gateways[0].start_control()?;
    lab.wait_until_up()?;
    ensure!(port(lab.a())? == chosen, "{} after {chosen}", port(lab.a())?);
    // Somebody else has it: nobody counts on it, so there is another one.
    lab.gateways[0].stop()?;
    let netns = lab.a().netns.clone();
    let _taken = netns.enter(|| once_free(|| UdpSocket::bind((own, chosen))))?;
    lab.gateways[0].start_control()?;
    lab.wait_until_up()?;
    ensure!(port(lab.a())? != chosen, "it is another program's");
    Ok(())
}
