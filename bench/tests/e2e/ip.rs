//! IP tunnel mode: gateways with a TUN that carry IP packets by their selectors.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use adit_bench::lab::traffic::transfer;
use adit_bench::lab::{Gateway, Lab, LabOptions, SOON, TAP, wait_until};
use adit_bench::netns::{Netns, Veth, once_free};
use adit_proto::stats::{Count, Drop, Gauge};
use anyhow::{Context, Result, ensure};

use crate::{Pings, QUARTER_GIB, echoes, edit, reaches};

fn options() -> LabOptions {
    LabOptions { ip_mode: true, ..LabOptions::patient() }
}

/// The drops of a gateway that are not there in an untroubled lab, on a machine that is not busy.
fn drops(gateway: &Gateway) -> Result<Vec<(&'static str, u64)>> {
    let metrics = gateway.metrics()?;
    let all = Drop::ALL.iter().map(|why| (why.label(), metrics.dropped(*why)));
    // The kernel sends router solicitations and reports of its multicast groups into every interface. A worker may wait for its core.
    let usual = [Drop::NoPolicy.label(), Drop::HandoverFull.label()];
    Ok(all.filter(|(label, count)| *count > 0 && !usual.contains(label)).collect())
}

#[test]
fn pings_tcp_and_udp_pass_both_ways_with_either_io() -> Result<()> {
    for io in ["io_uring", "poll"] {
        let lab = Lab::start(&LabOptions { io, workers: vec![2, 1], ..options() })?;
        // Whoever is up first sends to one who is not.
        let before = [drops(lab.a())?, drops(lab.b())?];
        for (from, to) in [(lab.a(), lab.b()), (lab.b(), lab.a())] {
            for target in [IpAddr::from(to.inner()), to.inner6().into()] {
                let pings = Pings::start(&lab, from, target, Duration::from_millis(1))?;
                wait_until("pings were sent", SOON, || Ok(pings.so_far().0 > 300))?;
                pings.none_lost(&lab, 300).with_context(|| format!("{target} on {io}"))?;
                transfer(&from.netns, &to.netns, target, QUARTER_GIB)?.verify(QUARTER_GIB)?;
            }
        }
        // Full packets, and as many as super-frames are made of.
        for size in [0, 1, 17, 1000, 1409, 1410] {
            echoes(&lab.a().netns, 2, size, "-M do", lab.b().inner())?;
        }
        let metrics = lab.a().metrics()?;
        ensure!(metrics.count(Count::SplitSegments) > 0 && metrics.count(Count::ChecksumsDeferred) == 0);
        ensure!(metrics.count(Count::TapWrittenFrames) > metrics.count(Count::TapWrites), "nothing was coalesced on {io}");
        let after = [drops(lab.a())?, drops(lab.b())?];
        ensure!(after == before, "{before:?} → {after:?} on {io}");
    }
    Ok(())
}

#[test]
fn fragments_and_long_datagrams_arrive_byte_for_byte() -> Result<()> {
    let lab = Lab::start(&options())?;
    for target in [IpAddr::from(lab.b().inner()), lab.b().inner6().into()] {
        for size in [1500, 4000, 20_000, 60_000] {
            echoes(&lab.a().netns, 3, size, "", target)?;
        }
        let sink = lab.b().netns.enter(|| once_free(|| UdpSocket::bind((target, 7000))))?;
        sink.set_read_timeout(Some(SOON))?;
        let any: IpAddr = if target.is_ipv4() { "0.0.0.0".parse()? } else { "::".parse()? };
        let source = lab.a().netns.enter(|| UdpSocket::bind((any, 0)))?;
        let mut buffer = vec![0; 1 << 16];
        for length in [1, 1410, 1411, 4000, 40_000] {
            let content: Vec<u8> = (0..length).map(|index| (index * 7 + length + index / 251) as u8).collect();
            source.send_to(&content, (target, 7000))?;
            let received = sink.recv(&mut buffer).with_context(|| format!("{length} bytes to {target} did not arrive"))?;
            ensure!(buffer[..received] == content[..], "{length} bytes to {target} were harmed");
        }
    }
    Ok(())
}

#[test]
fn three_gateways_reach_each_others_networks_over_their_own_routes() -> Result<()> {
    let lab = Lab::start(&LabOptions { gateways: 3, ..options() })?;
    for from in &lab.gateways {
        for to in lab.gateways.iter().filter(|to| to.number != from.number) {
            reaches(&from.netns, to.inner())?;
            let own = format!("-I 10.78.{}.1", from.number);
            echoes(&from.netns, 3, 100, &own, IpAddr::from([10, 78, to.number, 1]))?;
            let route = from.netns.run(&format!("ip route get 10.78.{}.9", to.number))?;
            ensure!(route.contains(&format!("dev {TAP}")), "{route}");
        }
        // Three selectors for each of two peers.
        ensure!(from.metrics()?.gauge(0, Gauge::Selectors) == Some(6.0));
    }
    Ok(())
}

#[test]
fn what_is_outside_the_selectors_is_dropped_under_its_name_at_either_end() -> Result<()> {
    let mut lab = Lab::prepare(&options())?;
    // b believes that it may send from a network of which a knows nothing.
    edit(lab.b(), "selectors: [", "selectors: [{ local: 10.99.0.0/24, remote: 10.77.0.1 }, ")?;
    for gateway in &mut lab.gateways {
        gateway.start_control()?;
    }
    lab.wait_until_up()?;
    let (a, b) = (lab.a(), lab.b());
    let before = a.metrics()?.dropped(Drop::NoPolicy);
    ensure!(a.netns.run(&format!("ping -n -c3 -i0.05 -W1 -I 10.78.1.1 {}", b.inner())).is_err());
    let after = a.metrics()?.dropped(Drop::NoPolicy);
    ensure!(after >= before + 3, "{before} → {after}");

    b.netns.run("ip address add 10.99.0.1/32 dev lo")?;
    let opened = a.metrics()?.count(Count::Opened);
    ensure!(b.netns.run(&format!("ping -n -c3 -i0.05 -W1 -I 10.99.0.1 {}", a.inner())).is_err());
    let metrics = a.metrics()?;
    ensure!(metrics.dropped(Drop::PolicyMismatch) == 3, "{:?}", drops(a)?);
    ensure!(metrics.count(Count::Opened) >= opened);
    // What is in the selectors passes as before.
    reaches(&a.netns, b.inner())
}

#[test]
fn a_host_behind_a_gateway_is_told_what_fits() -> Result<()> {
    let lab = Lab::start(&options())?;
    let host = Netns::new("host")?;
    let _cable = Veth::between(&lab.a().netns, "lan0", &host, "lan0", 1500)?;
    // The network is on the link to the host; the gateway has had it on its tunnel.
    edit(lab.a(), ", 10.78.1.1/24", "")?;
    lab.a().adit("reload")?;
    lab.a().netns.address("lan0", "10.78.1.1/24")?;
    lab.a().netns.run("sysctl -qw net.ipv4.ip_forward=1")?;
    host.address("lan0", "10.78.1.2/24")?;
    host.run("ip route add default via 10.78.1.1")?;
    let target = IpAddr::from([10, 78, 2, 1]);
    echoes(&host, 3, 1410, "-M do", target)?;
    // Linux answers one packet a second that is too long.
    wait_until("the host is told", SOON, || {
        ensure!(host.run(&format!("ping -n -c1 -W1 -M do -s 1411 {target}")).is_err(), "1439 bytes pass");
        Ok(host.path_mtu(target)? == Some(1438))
    })?;
    ensure!(lab.a().metrics()?.dropped(Drop::PathMtu) == 0, "the kernel said it before the data plane had to drop it");
    // TCP finds its way by it.
    transfer(&host, &lab.b().netns, target, 32 << 20)?.verify(32 << 20)
}

#[test]
fn every_hop_through_the_tunnel_shows_in_a_traceroute() -> Result<()> {
    let lab = Lab::start(&options())?;
    let mut lans = Vec::new();
    for gateway in &lab.gateways {
        let (number, host) = (gateway.number, Netns::new("host")?);
        let cable = Veth::between(&gateway.netns, "lan0", &host, "lan0", 1500)?;
        // The network is on the link to the host; the gateway has had it on its tunnel.
        edit(gateway, &format!(", 10.78.{number}.1/24"), "")?;
        gateway.adit("reload")?;
        gateway.netns.address("lan0", &format!("10.78.{number}.1/24"))?;
        gateway.netns.run("sysctl -qw net.ipv4.ip_forward=1")?;
        host.address("lan0", &format!("10.78.{number}.2/24"))?;
        host.run(&format!("ip route add default via 10.78.{number}.1"))?;
        lans.push((host, cable));
    }
    let host = &lans[0].0;
    wait_until("the far host answers", SOON, || Ok(host.run("ping -n -c1 -W1 10.78.2.2").is_ok())).with_context(|| lab.logs())?;
    // The far gateway answers from its address inside `local`: its route to the host has it as soon as it is on the link.
    for (ttl, hop) in [(1, "From 10.78.1.1 "), (2, "From 10.78.2.1 "), (3, "from 10.78.2.2:")] {
        let mut said = String::new();
        // Linux sends such an error once a second at most.
        wait_until("the hop answers", SOON, || {
            let output = host.command("ping").args(format!("-n -c1 -W1 -t{ttl} 10.78.2.2").split(' ')).output()?;
            said = String::from_utf8_lossy(&output.stdout).into_owned();
            Ok(said.contains(hop))
        })
        .with_context(|| format!("with a TTL of {ttl}: {said}"))?;
    }
    Ok(())
}

#[test]
fn either_plane_may_be_killed() -> Result<()> {
    let mut lab = Lab::start(&options())?;
    let pings = Pings::start(&lab, lab.b(), lab.a().inner(), Duration::from_millis(1))?;
    wait_until("pings are answered", SOON, || Ok(pings.so_far().1 > 100))?;
    let plane = lab.a().data_plane();
    lab.gateways[0].kill_control()?;
    let (_, answered) = pings.so_far();
    wait_until("pings are answered without it", SOON, || Ok(pings.so_far().1 > answered + 200))?;
    lab.gateways[0].start_control()?;
    wait_until("the new one has taken over", SOON, || Ok(lab.a().metrics().is_ok()))?;
    let (_, answered) = pings.so_far();
    wait_until("pings are answered with it", SOON, || Ok(pings.so_far().1 > answered + 200))?;
    pings.none_lost(&lab, 1)?;
    ensure!(lab.a().data_plane() == plane, "the data plane was replaced");

    lab.a().kill_data_plane()?;
    wait_until("pings are answered again", SOON, || {
        Ok(lab.b().netns.run(&format!("ping -n -c1 -W1 {}", lab.a().inner())).is_ok())
    })?;
    echoes(&lab.a().netns, 3, 100, "-I 10.78.1.1", IpAddr::from([10, 78, 2, 1]))?;
    reaches(&lab.a().netns, lab.b().inner6())
}

#[test]
fn changed_selectors_need_no_new_data_plane_and_take_their_routes_along() -> Result<()> {
    let mut lab = Lab::start(&options())?;
    let plane = lab.a().data_plane();
    for (gateway, old, new) in [
        (0, "{ local: 10.78.1.0/24, remote: 10.78.2.0/24 }", "{ local: 10.78.1.0/24, remote: 10.79.2.0/24 }"),
        (1, "{ local: 10.78.2.0/24, remote: 10.78.1.0/24 }", "{ local: 10.79.2.0/24, remote: 10.78.1.0/24 }"),
    ] {
        edit(&lab.gateways[gateway], old, new)?;
        edit(&lab.gateways[gateway], "10.78.2.1/24", "10.79.2.1/24")
            .or_else(|error| if gateway == 0 { Ok(()) } else { Err(error) })?;
        lab.gateways[gateway].kill_control()?;
        lab.gateways[gateway].start_control()?;
    }
    wait_until("the new network is reached", SOON, || Ok(lab.a().netns.run("ping -n -c1 -W1 -I 10.78.1.1 10.79.2.1").is_ok()))?;
    ensure!(lab.a().data_plane() == plane, "the data plane was replaced");
    wait_until("the old selector is gone", SOON, || Ok(lab.a().metrics()?.gauge(0, Gauge::Selectors) == Some(3.0)))?;
    let routes = lab.a().netns.run("ip route show")?;
    ensure!(routes.contains("10.79.2.0/24 dev adit0") && !routes.contains("10.78.2.0/24"), "{routes}");
    Ok(())
}
