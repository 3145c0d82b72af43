//! What the gateway says about itself.

use std::io::Write;
use std::process::{Command, Stdio};

use adit_bench::lab::traffic::{start, transfer};
use adit_bench::lab::{Lab, LabOptions, SOON, wait_until};
use adit_proto::stats::{Count, Drop, Gauge};
use anyhow::{Context, Result, ensure};

use crate::QUARTER_GIB;

#[test]
fn promtool_finds_nothing_wrong_with_the_metrics() -> Result<()> {
    let lab = Lab::start(&LabOptions { workers: vec![2], ..LabOptions::patient() })?;
    let transfer = start(&lab.a().netns, &lab.b().netns, lab.b().inner().into(), QUARTER_GIB)?;
    let page = lab.a().metrics_page()?;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start promtool: `deploy/install-deps.sh test` as root installs it")?;
    promtool.stdin.take().context("a pipe")?.write_all(page.as_bytes())?;
    let output = promtool.wait_with_output()?;
    let words = [output.stdout, output.stderr].concat();
    ensure!(output.status.success() && words.is_empty(), "promtool: {}", String::from_utf8_lossy(&words));
    transfer.finish()?.verify(QUARTER_GIB)
}

#[test]
fn every_counter_drop_and_gauge_has_its_metric() -> Result<()> {
    let lab = Lab::start(&LabOptions::patient())?;
    let metrics = lab.a().metrics()?;
    let busy = metrics.sum("adit_worker_busy_seconds_total", &[]);
    ensure!(busy.is_some_and(|seconds| seconds > 0.0 && seconds < 60.0), "busy for {busy:?}");
    for count in Count::ALL.iter().filter(|count| **count != Count::BusyNs) {
        let name = format!("adit_{}_total", count.label());
        ensure!(metrics.sum(&name, &[]).is_some(), "there is no {name}");
    }
    for reason in Drop::ALL {
        ensure!(metrics.sum("adit_drops_total", &[("reason", reason.label())]).is_some(), "no drops for {}", reason.label());
    }
    for gauge in Gauge::ALL {
        ensure!(metrics.gauge(0, *gauge).is_some(), "there is no adit_{}", gauge.label());
    }
    Ok(())
}

#[test]
fn counters_account_for_a_transfer() -> Result<()> {
    let lab = Lab::start(&LabOptions::default())?;
    let before = [lab.a().metrics()?, lab.b().metrics()?];
    transfer(&lab.a().netns, &lab.b().netns, lab.b().inner().into(), QUARTER_GIB)?.verify(QUARTER_GIB)?;
    let after = [lab.a().metrics()?, lab.b().metrics()?];
    let new = |gateway: usize, count: Count| after[gateway].count(count) - before[gateway].count(count);
    ensure!(new(0, Count::SealedBytes) > QUARTER_GIB, "sealed {}", new(0, Count::SealedBytes));
    ensure!(new(1, Count::OpenedBytes) > QUARTER_GIB, "opened {}", new(1, Count::OpenedBytes));
    // Super-frames came from the TAP and went to the TAP: the big lever of the design is at work.
    let (reads, sealed) = (new(0, Count::TapReads), new(0, Count::Sealed));
    let (writes, opened) = (new(1, Count::TapWrites), new(1, Count::Opened));
    ensure!(sealed > 5 * reads, "{sealed} packets from {reads} reads of the TAP");
    ensure!(opened > 5 * writes, "{opened} packets in {writes} writes to the TAP");
    ensure!(new(0, Count::UdpSentDatagrams) > 5 * new(0, Count::UdpSends), "datagrams go out in trains");
    let lost: u64 = Drop::ALL.iter().map(|name| after[1].dropped(*name) - before[1].dropped(*name)).sum();
    ensure!(new(0, Count::Sealed) <= new(1, Count::Opened) + lost + 100, "packets vanished without a name");
    Ok(())
}

#[test]
fn status_is_readable_by_people_and_by_programs() -> Result<()> {
    let lab = Lab::start(&LabOptions::patient())?;
    let text = lab.a().adit("status")?;
    ensure!(text.contains("site-a") && text.contains("site-b"), "{text}");
    let json = lab.a().status()?;
    ensure!(json.to_string().contains("site-b"), "{json}");
    Ok(())
}

/// Nothing is negotiated with a static key, so no change of a connection's state says it.
#[test]
fn that_a_peer_is_not_up_and_is_up_again_is_in_the_log() -> Result<()> {
    let mut lab = Lab::start(&LabOptions::patient())?;
    wait_until("it is up", SOON, || Ok(lab.a().metrics()?.sum("adit_peer_up", &[]) == Some(1.0)))?;
    lab.gateways[1].stop()?;
    // While there is traffic, silence is noticed at once.
    let mut ping = lab.a().netns.command("ping");
    let mut ping = ping.args(["-q", "-i", "0.2", &lab.b().inner().to_string()]).stdout(Stdio::null()).spawn()?;
    let line = lab.a().wait_for_log("not up: no echo comes back from 192.0.2.2:4500", SOON).with_context(|| lab.logs());
    ensure!(line.as_ref().is_ok_and(|line| line.contains("WARN") && line.contains("peer=\"site-b\"")), "{line:?}");
    lab.gateways[1].start_control()?;
    let line = lab.a().wait_for_log("up again", SOON).with_context(|| lab.logs());
    ping.kill()?;
    ping.wait()?;
    ensure!(line?.contains("peer=\"site-b\"") && lab.a().log().matches("not up: ").count() == 1, "{}", lab.a().log());
    Ok(())
}

#[test]
fn memory_does_not_grow_under_load() -> Result<()> {
    let lab = Lab::start(&LabOptions::default())?;
    let resident = || -> Result<u64> {
        let pid = lab.b().data_plane().context("a data plane")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    };
    // The first load touches what was allocated at the start.
    transfer(&lab.a().netns, &lab.b().netns, lab.b().inner().into(), QUARTER_GIB)?.verify(QUARTER_GIB)?;
    transfer(&lab.b().netns, &lab.a().netns, lab.a().inner().into(), QUARTER_GIB)?.verify(QUARTER_GIB)?;
    let before = resident()?;
    for _ in 0..3 {
        transfer(&lab.a().netns, &lab.b().netns, lab.b().inner().into(), QUARTER_GIB)?.verify(QUARTER_GIB)?;
        transfer(&lab.b().netns, &lab.a().netns, lab.a().inner().into(), QUARTER_GIB)?.verify(QUARTER_GIB)?;
    }
    let after = resident()?;
    ensure!(after <= before + 512, "the data plane grew from {before} to {after} KiB");
    Ok(())
}
