//! Poll and plain system calls: forced by a setting, and chosen where io_uring is forbidden.

use std::time::Duration;

use adit_bench::lab::surroundings::without_io_uring;
use adit_bench::lab::traffic::{start, transfer};
use adit_bench::lab::{Lab, LabOptions, SOON, wait_until};
use adit_proto::stats::Gauge;
use anyhow::{Result, ensure};

use crate::{Pings, QUARTER_GIB, echoes};

/// Ping, both directions at once, both IP versions.
fn works(lab: &Lab) -> Result<()> {
    let (a, b) = (lab.a(), lab.b());
    let pings = Pings::start(lab, a, b.inner6(), Duration::from_millis(1))?;
    wait_until("pings were sent", SOON, || Ok(pings.so_far().0 > 300))?;
    pings.none_lost(lab, 300)?;
    let there = start(&a.netns, &b.netns, b.inner().into(), QUARTER_GIB)?;
    let back = start(&b.netns, &a.netns, a.inner6().into(), QUARTER_GIB)?;
    there.finish()?.verify(QUARTER_GIB)?;
    back.finish()?.verify(QUARTER_GIB)?;
    echoes(&a.netns, 5, 20_000, "", b.inner())
}

#[test]
fn poll_can_be_forced_and_carries_everything() -> Result<()> {
    let lab = Lab::start(&LabOptions { io: "poll", workers: vec![2, 1], ..LabOptions::patient() })?;
    for gateway in &lab.gateways {
        let gauge = gateway.metrics()?.gauge(0, Gauge::IoUring);
        ensure!(gauge == Some(0.0), "the gauge of {} says {gauge:?}", gateway.name);
    }
    works(&lab)
}

#[test]
fn io_uring_is_used_where_it_is_allowed() -> Result<()> {
    let lab = Lab::start(&LabOptions { io: "io_uring", workers: vec![2, 1], ..LabOptions::patient() })?;
    for gateway in &lab.gateways {
        let gauge = gateway.metrics()?.gauge(0, Gauge::IoUring);
        ensure!(gauge == Some(1.0), "the gauge of {} says {gauge:?}", gateway.name);
    }
    works(&lab)
}

#[test]
fn where_io_uring_is_forbidden_the_gateway_runs_on_poll_and_says_so() -> Result<()> {
    let mut lab = Lab::prepare(&LabOptions::patient())?;
    let (forbidden, allowed) = lab.gateways.split_at_mut(1);
    let mut command = forbidden[0].command()?;
    without_io_uring(&mut command);
    forbidden[0].start(&mut command)?;
    allowed[0].start_control()?;
    lab.wait_until_up()?;
    let line = lab.a().wait_for_log("not on io_uring", SOON)?;
    ensure!(line.contains("WARN") && line.contains("running on poll"), "{line}");
    ensure!(lab.a().metrics()?.gauge(0, Gauge::IoUring) == Some(0.0));
    ensure!(lab.b().metrics()?.gauge(0, Gauge::IoUring) == Some(1.0));
    works(&lab)?;
    transfer(&lab.b().netns, &lab.a().netns, lab.a().inner().into(), QUARTER_GIB)?.verify(QUARTER_GIB)
}

#[test]
fn io_uring_demanded_but_forbidden_is_an_error_with_a_remedy() -> Result<()> {
    let mut lab = Lab::prepare(&LabOptions { io: "io_uring", ..LabOptions::patient() })?;
    let mut command = lab.a().command()?;
    without_io_uring(&mut command);
    lab.gateways[0].start(&mut command)?;
    let status = lab.gateways[0].control()?.wait(SOON)?;
    let log = lab.a().log();
    ensure!(!status.success(), "it ended well:\n{log}");
    ensure!(log.contains("io_uring") && log.contains("poll"), "the log names neither cause nor remedy:\n{log}");
    Ok(())
}
