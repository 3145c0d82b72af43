//! What a path carries is found by echoes, and what it no longer carries is noticed and said.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use adit_bench::lab::capture::{Capture, Datagram};
use adit_bench::lab::traffic::{start, transfer};
use adit_bench::lab::{Gateway, Lab, LabOptions, SOON, TAP, WAN, wait_until};
use adit_bench::netns::{Signal, signal};
use adit_bench::rtt::Prober;
use adit_proto::control::Mode;
use adit_proto::esp::frame_len_max;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::echoes;

const MIB: u64 = 1 << 20;

/// The path that what is sent to the only peer goes by, as the API tells it.
pub fn path_in_use(gateway: &Gateway) -> Result<Value> {
    let status = gateway.status()?;
    let paths = status["peers"][0]["paths"].as_array().context("a peer with paths")?;
    paths.iter().find(|path| path["in_use"] == true).cloned().context("a path in use")
}

/// What hosts are told of the tunnel by its interface, in bytes. It is for networks of this size that are joined, whatever a path carries.
fn inner_mtu(gateway: &Gateway) -> Result<u32> {
    let link = gateway.netns.run(&format!("ip -o link show dev {TAP}"))?;
    let mtu = link.split_once(" mtu ").and_then(|(_, rest)| rest.split_whitespace().next());
    mtu.and_then(|mtu| mtu.parse().ok()).with_context(|| format!("no MTU in {link}"))
}

/// Waits until the path in use carries packets of so many bytes.
fn wait_for_mtu(gateway: &Gateway, mtu: u64) -> Result<()> {
    let mut last = Value::Null;
    wait_until(&format!("packets of {mtu} bytes are sent"), SOON, || {
        last = path_in_use(gateway)?;
        Ok(last["mtu"] == mtu && last["mtu_proven"] == mtu)
    })
    .with_context(|| format!("{last}\n{}", gateway.log()))
}

#[test]
fn packets_that_vanish_are_noticed_at_once_said_and_avoided() -> Result<()> {
    for ike in [Vec::new(), vec![String::new()]] {
        let lab = Lab::start(&LabOptions { ip_mode: true, ike, ..LabOptions::default() })?;
        let (a, b) = (lab.a(), lab.b());
        wait_for_mtu(a, 1500)?;
        let inner = [inner_mtu(a)?, inner_mtu(b)?];
        let rtt = path_in_use(a)?["rtt_us"].as_u64().context("a round trip that was measured")?;
        ensure!(rtt < 5_000_000, "{rtt} us");
        let traffic = start(&a.netns, &b.netns, b.inner().into(), 4096 * MIB)?;
        std::thread::sleep(Duration::from_secs(1));
        // A cable whose far end takes less drops what is longer, and tells nobody.
        let began = Instant::now();
        b.netns.run(&format!("ip link set {WAN} mtu 1300"))?;
        let line = a.wait_for_log("vanish on the way", SOON)?;
        let took = began.elapsed();
        ensure!(took < Duration::from_secs(3), "it took {took:?}: {line}");
        drop(traffic);
        let path = path_in_use(a)?;
        let (holes, mtu) = (path["black_holes"].as_u64(), path["mtu"].as_u64());
        ensure!(holes.is_some_and(|holes| holes >= 1) && mtu.is_some_and(|mtu| mtu < 1304), "{path}");
        let page = a.metrics_page()?;
        ensure!(page.contains("adit_path_black_holes_total{path=\"0\",peer=\"site-b\"} 1"), "{page}");
        ensure!(a.adit("status")?.contains("LARGER PACKETS VANISH"), "{}", a.adit("status")?);
        let explained = a.adit("explain site-b")?;
        ensure!(explained.contains("though the route says 1500: larger ones vanished"), "{explained}");
        // The routes follow, so that hosts are told by the kernel itself.
        let route = |mtu: u64| -> Result<bool> {
            let said = a.netns.run("ip route show 10.78.2.0/24")?;
            Ok(said.contains(&format!("mtu {mtu}")))
        };
        wait_until("the route has another MTU", SOON, || {
            let outer = path_in_use(a)?["mtu"].as_u64().context("an MTU")?;
            Ok(outer < 1304 && route(frame_len_max(Mode::Ip, outer as u16, false) as u64)?)
        })
        .with_context(|| a.netns.run("ip route").unwrap_or_default())?;
        ensure!([inner_mtu(a)?, inner_mtu(b)?] == inner, "the interface stays as it is: {inner:?} before");
        ensure!(!a.log().contains("was not as configured"), "a path that carries less is no fault of anybody: {}", a.log());
        // What does not fit is cut or fragmented, and arrives.
        transfer(&a.netns, &b.netns, b.inner().into(), 16 * MIB)?.verify(16 * MIB)?;
        echoes(&a.netns, 2, 1400, "-M dont", b.inner())?;
        ensure!([inner_mtu(a)?, inner_mtu(b)?] == inner, "nor after packets that did not fit: {inner:?} before");
    }
    Ok(())
}

/// What the route takes that this command shows.
fn route_mtu(gateway: &Gateway, show: &str) -> Result<Option<u64>> {
    let said = gateway.netns.run(show)?;
    Ok(said.split_whitespace().skip_while(|word| *word != "mtu").nth(1).and_then(|mtu| mtu.parse().ok()))
}

/// Hosts are told by the kernel itself what fits, over IPv6 as over IPv4.
#[test]
fn routes_of_both_ip_versions_follow_a_path_down_and_up_again() -> Result<()> {
    let lab = Lab::start(&LabOptions { ip_mode: true, ike: vec![String::new()], ..LabOptions::patient() })?;
    let (a, b) = (lab.a(), lab.b());
    let shows = ["ip route show 10.78.2.0/24", "ip -6 route show fd77::2"];
    let follow = |least: u64, most: u64| {
        wait_until(&format!("the routes are those of a path of {least} to {most} bytes"), SOON, || {
            let outer = path_in_use(a)?["mtu"].as_u64().context("an MTU")?;
            let fits = frame_len_max(Mode::Ip, outer as u16, false) as u64;
            let routes = [route_mtu(a, shows[0])?, route_mtu(a, shows[1])?];
            Ok((least..=most).contains(&outer) && routes == [Some(fits); 2])
        })
        .with_context(|| format!("{:?}\n{:?}\n{}", path_in_use(a), shows.map(|show| a.netns.run(show)), lab.logs()))
    };
    wait_for_mtu(a, 1500)?;
    follow(1500, 1500)?;
    // A cable whose far end takes less. It may take a tag of four bytes more.
    let prober = a.netns.enter(|| Prober::start(b.inner().into(), Duration::from_millis(10)))?;
    b.netns.run(&format!("ip link set {WAN} mtu 1400"))?;
    a.wait_for_log("vanish on the way", SOON)?;
    follow(1380, 1404)?;
    prober.stop(Duration::from_secs(1))?;
    // Our own end takes less still, and then both take what they did.
    a.netns.run(&format!("ip link set {WAN} mtu 1350"))?;
    wait_for_mtu(a, 1350)?;
    follow(1350, 1350)?;
    for gateway in [b, a] {
        gateway.netns.run(&format!("ip link set {WAN} mtu 1500"))?;
    }
    wait_for_mtu(a, 1500)?;
    follow(1500, 1500)
}

#[test]
fn a_line_that_is_narrow_from_the_start_needs_no_setting() -> Result<()> {
    for ip_mode in [false, true] {
        let lab = Lab::prepare(&LabOptions { ip_mode, ike: vec![String::new()], ..LabOptions::patient() })?;
        // Only the far end knows: from here the line looks like any other.
        lab.b().netns.run(&format!("ip link set {WAN} mtu 1400"))?;
        let mut lab = lab;
        lab.gateways.iter_mut().try_for_each(Gateway::start_control)?;
        lab.wait_until_up()?;
        let (a, b) = (lab.a(), lab.b());
        transfer(&a.netns, &b.netns, b.inner().into(), 16 * MIB)?.verify(16 * MIB)?;
        transfer(&b.netns, &a.netns, a.inner().into(), 16 * MIB)?.verify(16 * MIB)?;
        wait_until("the size is found", SOON, || {
            let mtu = path_in_use(a)?["mtu"].as_u64();
            Ok(mtu.is_some_and(|mtu| mtu > 1380 && mtu <= 1404))
        })?;
        wait_for_mtu(b, 1400)?;
        size_is_kept_by_the_next_process(&mut lab)?;
        echoes(&lab.a().netns, 2, 1450, "-M dont", lab.b().inner())?;
    }
    Ok(())
}

#[test]
fn what_a_path_loses_is_measured_and_shown() -> Result<()> {
    let lab = Lab::start(&LabOptions::default())?;
    let (a, b) = (lab.a(), lab.b());
    wait_for_mtu(a, 1500)?;
    b.netns.run("nft add table inet lossy")?;
    b.netns.run("nft add chain inet lossy in { type filter hook input priority 0 ; }")?;
    b.netns.run("nft add rule inet lossy in meta l4proto udp numgen random mod 4 == 0 drop")?;
    // Beside traffic there are two echoes in a second.
    let prober = a.netns.enter(|| Prober::start(b.inner().into(), Duration::from_millis(100)))?;
    let mut last = Value::Null;
    wait_until("a fourth or so of what was sent is lost", SOON, || {
        last = path_in_use(a)?;
        Ok(last["loss"].as_f64().is_some_and(|loss| (0.1..0.5).contains(&loss)))
    })
    .with_context(|| format!("{last}\n{}", a.log()))?;
    let (ratio, said) = (a.metrics()?.sum("adit_path_loss_ratio", &[("peer", "site-b")]), a.adit("status site-b")?);
    ensure!(ratio.is_some_and(|ratio| ratio > 0.0) && said.contains("% lost"), "{ratio:?}\n{said}");
    ensure!(last["black_holes"] == 0 && last["mtu"] == 1500, "loss alone is no black hole: {last}");
    prober.stop(Duration::from_secs(1)).map(drop)
}

/// The next control plane of the first gateway tries the size that was proven first. Nobody answers it meanwhile, so it knows that from
/// the one before it alone: without, it would try what the route says.
fn size_is_kept_by_the_next_process(lab: &mut Lab) -> Result<()> {
    let proven = path_in_use(lab.a())?["mtu_proven"].as_u64().context("a size that was proven")?;
    let far = lab.b().data_plane().context("a data plane")?;
    lab.gateways[0].kill_control()?;
    signal(far, Signal::Stop)?;
    let mut capture = Capture::open(&lab.a().netns, WAN)?;
    lab.gateways[0].start_control()?;
    let own = lab.a().outer();
    // UDP payload: without the headers of IPv4 and UDP.
    let size = |datagram: &Datagram| datagram.payload.len() as u64 + 28;
    let sent = capture.collect(3, SOON, |datagram| IpAddr::from(*datagram.from.ip()) == own && size(datagram) > 1000);
    signal(far, Signal::Continue)?;
    let sizes: Vec<u64> = sent?.iter().map(size).collect();
    let fits = |size: &u64| *size <= proven && *size + 4 > proven;
    ensure!(sizes.iter().any(fits) && sizes.iter().all(|size| *size <= proven), "{sizes:?}, and {proven} was proven");
    wait_for_mtu(lab.b(), 1400)
}
