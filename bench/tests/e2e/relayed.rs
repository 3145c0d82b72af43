//! Two gateways that know nothing of each other but an identity, before which no datagram of UDP comes in, and a relay: they meet there, and
//! everything goes over it.

use adit_bench::lab::traffic::transfer;
use adit_bench::lab::{SOON, WAN, wait_until};
use anyhow::{Context, Result, ensure};

use crate::apart::{Apart, RELAY, Wall};
use crate::full_tunnel::selectors;
use crate::{edit, reaches};

#[test]
fn gateways_that_cannot_reach_each_other_carry_all_over_a_relay() -> Result<()> {
    let apart = Apart::start(false, Wall::NoUdp)?;
    let (a, b) = (apart.lab.a(), apart.lab.b());
    reaches(&a.netns, b.inner())?;
    reaches(&b.netns, a.inner())?;
    let bytes = 8 << 20;
    transfer(&a.netns, &b.netns, b.inner().into(), bytes)?.verify(bytes).with_context(|| apart.logs())?;
    transfer(&b.netns, &a.netns, a.inner().into(), bytes)?.verify(bytes).with_context(|| apart.logs())?;
    for (gateway, peer) in [(a, "site-b"), (b, "site-a")] {
        let status = gateway.status()?;
        ensure!(status["relay"]["registered"] == true && status["relay"]["peers"] == 1, "{}", status["relay"]);
        let path = status["peers"][0]["paths"][0].clone();
        ensure!(path["in_use"] == true && path["proven"] == true && path["local"] == "relay", "{path}");
        ensure!(path["sent"]["bytes"].as_u64() > Some(bytes), "{path}");
        let text = gateway.adit("status")?;
        ensure!(text.contains("relay") && text.contains("registered for"), "{text}");
        let why = gateway.adit(&format!("explain {peer}"))?;
        ensure!(why.contains("over the relay"), "{why}");
    }
    ensure!(apart.came_by_udp()? == 0, "something came by UDP");
    Ok(())
}

#[test]
fn in_ip_mode_too_and_after_the_relay_was_killed_it_goes_on() -> Result<()> {
    let mut apart = Apart::start(true, Wall::NoUdp)?;
    apart.kill_relay()?;
    let ping = format!("ping -n -c1 -W1 {}", apart.lab.b().inner());
    wait_until("nothing passes", SOON, || Ok(apart.lab.a().netns.run(&ping).is_err()))?;
    wait_until("that is told", SOON, || Ok(apart.lab.a().status()?["relay"]["registered"] == false))?;
    let failure = apart.lab.a().status()?["relay"]["failure"].clone();
    ensure!(failure.as_str().is_some_and(|why| why.contains("192.0.2.3")), "{failure}");
    apart.start_relay()?;
    apart.wait_until_up()?;
    // The control plane dies: what goes by the relay stops with it, and comes back with the next one.
    apart.lab.gateways[0].kill_control()?;
    wait_until("nothing passes", SOON, || Ok(apart.lab.a().netns.run(&ping).is_err()))?;
    apart.lab.gateways[0].start_control()?;
    apart.wait_until_up()
}

#[test]
fn a_full_tunnel_does_not_swallow_the_way_to_the_relay() -> Result<()> {
    /// Where nothing but a default route leads: that of the machine, or the tunnel.
    const FAR: &str = "198.51.100.9";
    let mut apart = Apart::prepare(true, Wall::NoUdp)?;
    apart.lab.gateways[RELAY].netns.run(&format!("ip addr add {FAR}/32 dev lo"))?;
    let (a, b) = (apart.lab.a(), apart.lab.b());
    a.netns.run(&format!("ip route add default via 192.0.2.3 dev {WAN}"))?;
    // As docs/config.md has it.
    a.netns.run("sysctl -qw net.ipv4.conf.all.rp_filter=2")?;
    edit(a, "wss://192.0.2.3", &format!("wss://{FAR}"))?;
    edit(a, &selectors(1, 2), ", selectors: [{ local: 10.77.0.1/32, remote: 0.0.0.0/0 }]")?;
    edit(b, &selectors(2, 1), ", selectors: [{ local: 0.0.0.0/0, remote: 10.77.0.1/32 }]")?;
    apart.start_relay()?;
    for gateway in &mut apart.lab.gateways[..RELAY] {
        gateway.start_control()?;
    }
    apart.wait_until_up()?;
    let way = apart.lab.a().netns.run(&format!("ip route get {FAR}"))?;
    ensure!(way.contains("dev adit0"), "others go into the tunnel: {way}");
    // It is found again while the tunnel has everything.
    apart.kill_relay()?;
    wait_until("that is told", SOON, || Ok(apart.lab.a().status()?["relay"]["registered"] == false))?;
    apart.start_relay()?;
    apart.wait_until_up()
}
