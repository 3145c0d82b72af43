//! Gateways that have met over a relay go on without it: each tells the other where it may be, and both send at once, so that what keeps
//! strangers out takes the other's packets for answers.

use std::thread;
use std::time::{Duration, Instant};

use adit_bench::lab::traffic::transfer;
use adit_bench::lab::{Gateway, SOON, wait_until};
use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use crate::apart::{Apart, RELAY, Wall};

/// How long it may take until a peer is looked for again, and a busy machine has found it.
const DIRECT_WITHIN: Duration = Duration::from_secs(60);

/// The path that a gateway sends by.
fn path_in_use(gateway: &Gateway) -> Result<Value> {
    let status = gateway.status()?;
    let paths = status["peers"][0]["paths"].as_array().cloned().unwrap_or_default();
    paths.into_iter().find(|path| path["in_use"] == true).context("no path is in use")
}

fn is_direct(gateway: &Gateway) -> Result<bool> {
    Ok(path_in_use(gateway).is_ok_and(|path| path["local"] != "relay"))
}

fn both_direct(apart: &Apart) -> Result<bool> {
    Ok(is_direct(apart.lab.a())? && is_direct(apart.lab.b())?)
}

/// Bytes that went over the relay so far.
fn over_relay(gateway: &Gateway) -> Result<u64> {
    let status = gateway.status()?;
    let paths = status["peers"][0]["paths"].as_array().cloned().unwrap_or_default();
    let of_relay = paths.iter().filter(|path| path["local"] == "relay");
    Ok(of_relay.filter_map(|path| path["sent"]["bytes"].as_u64()).sum())
}

/// Both meet over the relay while no UDP comes in, and one asks the other a hundred times a second; then UDP comes in, and they go direct.
/// Says how many were not answered.
fn goes_direct(apart: &mut Apart, ip_mode: bool) -> Result<u32> {
    const PINGS: u32 = 1500;
    apart.cut_udp()?;
    apart.start_relay()?;
    for gateway in &mut apart.lab.gateways[..RELAY] {
        gateway.start_control()?;
    }
    apart.wait_until_up()?;
    let (a, b) = (apart.lab.a(), apart.lab.b());
    ensure!(!is_direct(a)? && !is_direct(b)?, "{}", apart.logs());
    let line = format!("ping -n -i 0.01 -c {PINGS} -w 60 -q {}", b.inner());
    let pings = thread::scope(|scope| -> Result<String> {
        let pings = scope.spawn(|| a.netns.run(&line));
        // Some go over the relay.
        wait_until("some are sent", SOON, || Ok(over_relay(a)? > 10_000))?;
        apart.mend_udp()?;
        let began = Instant::now();
        wait_until("both have gone direct", DIRECT_WITHIN, || both_direct(apart)).with_context(|| apart.logs())?;
        println!("direct {:?} after UDP came in again, IP mode {ip_mode}", began.elapsed());
        pings.join().map_err(|_| anyhow!("ping could not be run"))?
    })?;
    let received = pings.split(" received").next().and_then(|before| before.rsplit(' ').next()).context("a summary of ping")?;
    Ok(PINGS - received.parse::<u32>()?)
}

#[test]
fn two_gateways_behind_firewalls_leave_the_relay_without_a_lost_packet() -> Result<()> {
    let mut apart = Apart::prepare(false, Wall::Firewall)?;
    let lost = goes_direct(&mut apart, false)?;
    ensure!(lost == 0, "{lost} lost: {}", apart.logs());
    for (gateway, other) in [(0, 1), (1, 0)] {
        let (gateway, other) = (&apart.lab.gateways[gateway], &apart.lab.gateways[other]);
        let path = path_in_use(gateway)?;
        ensure!(path["remote"] == format!("{}:4500", other.outer()), "{path}");
        let status = gateway.adit("status")?;
        ensure!(status.contains("(host)"), "{status}");
    }
    Ok(())
}

#[test]
fn two_gateways_behind_nats_too_and_then_need_no_relay() -> Result<()> {
    let mut apart = Apart::prepare(true, Wall::Nat)?;
    let lost = goes_direct(&mut apart, true)?;
    ensure!(lost == 0, "{lost} lost: {}", apart.logs());
    for (gateway, other) in [(0, 1), (1, 0)] {
        let (gateway, other) = (&apart.lab.gateways[gateway], &apart.lab.gateways[other]);
        let path = path_in_use(gateway)?;
        ensure!(path["remote"] == format!("{}:24500", other.outer()), "the port of its NAT: {path}");
        let candidates = gateway.status()?["relay"]["candidates"].clone();
        ensure!(candidates[0] == format!("{}:24500 (server reflexive)", gateway.outer()), "{candidates}");
    }
    let (a, b) = (apart.lab.a(), apart.lab.b());
    let (before, bytes) = ([over_relay(a)?, over_relay(b)?], 8 << 20);
    transfer(&a.netns, &b.netns, b.inner().into(), bytes)?.verify(bytes).with_context(|| apart.logs())?;
    transfer(&b.netns, &a.netns, a.inner().into(), bytes)?.verify(bytes).with_context(|| apart.logs())?;
    ensure!([over_relay(a)?, over_relay(b)?] == before, "something went over the relay");
    apart.kill_relay()?;
    let (a, b) = (apart.lab.a(), apart.lab.b());
    wait_until("that is told", SOON, || Ok(a.status()?["relay"]["registered"] == false))?;
    transfer(&a.netns, &b.netns, b.inner().into(), bytes)?.verify(bytes).with_context(|| apart.logs())?;
    ensure!(both_direct(&apart)?, "{}", apart.logs());
    Ok(())
}

#[test]
fn where_nothing_is_in_the_way_the_relay_is_left_at_once() -> Result<()> {
    let mut apart = Apart::prepare(true, Wall::Nat)?;
    apart.start_relay()?;
    for gateway in &mut apart.lab.gateways[..RELAY] {
        gateway.start_control()?;
    }
    apart.wait_until_up()?;
    let began = Instant::now();
    wait_until("both have gone direct", DIRECT_WITHIN, || both_direct(&apart)).with_context(|| apart.logs())?;
    // The first look does it, or the second one, which is after ten seconds.
    ensure!(began.elapsed() < Duration::from_secs(8), "only after {:?}: {}", began.elapsed(), apart.logs());
    Ok(())
}
