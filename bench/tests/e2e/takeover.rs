//! The control plane dies by SIGKILL and comes back under load; nobody behind the gateways notices.

use std::time::Duration;

use adit_bench::lab::traffic::start;
use adit_bench::lab::{Lab, LabOptions, SOON, wait_until};
use adit_channel::{AttachError, Master};
use adit_proto::stats::Count;
use anyhow::{Context, Result, ensure};

use crate::{GIB, Pings, reaches};

#[test]
fn the_control_plane_is_replaced_under_load_without_a_lost_ping() -> Result<()> {
    let mut lab = Lab::start(&LabOptions { workers: vec![2, 1], ..LabOptions::default() })?;
    let plane = lab.a().data_plane().context("a data plane")?;
    let bytes = 4 * GIB;
    let transfer = start(&lab.b().netns, &lab.a().netns, lab.a().inner().into(), bytes)?;
    let pings = Pings::start(&lab, lab.b(), lab.a().inner(), Duration::from_millis(1))?;
    wait_until("the transfer runs", SOON, || Ok(transfer.moved() > 1 << 20))?;
    for round in 1..=2 {
        let sealed = lab.a().metrics()?.count(Count::Opened);
        lab.gateways[0].kill_control()?;
        ensure!(lab.a().metrics().is_err(), "somebody answers for the dead control plane");
        // Alone for a while: a share of the load passes without any control plane.
        let mark = transfer.moved();
        wait_until("the data plane forwards alone", SOON, || Ok(transfer.moved() > mark + bytes / 10))?;
        lab.gateways[0].start_control()?;
        wait_until("the new control plane serves metrics", SOON, || Ok(lab.a().metrics().is_ok()))
            .with_context(|| lab.a().log())?;
        ensure!(lab.a().data_plane() == Some(plane), "round {round}: the data plane is another one");
        // It reads what the data plane has counted all the while.
        let now = lab.a().metrics()?.count(Count::Opened);
        ensure!(now > sealed, "round {round}: the counters began anew: {now} after {sealed}");
    }
    ensure!(transfer.is_running(), "the transfer was over before the second restart was");
    transfer.finish()?.verify(bytes)?;
    let probes = pings.none_lost(&lab, 1000)?;
    println!("{} pings, p99 {:.0} µs", probes.sent, probes.quantile_us(0.99));
    Ok(())
}

#[test]
fn a_second_gateway_with_the_same_configuration_is_refused() -> Result<()> {
    let mut lab = Lab::start(&LabOptions::patient())?;
    let output = lab.a().command()?.output()?;
    let words = [output.stdout, output.stderr].concat();
    let words = String::from_utf8_lossy(&words);
    ensure!(!output.status.success(), "the second one ran:\n{words}");
    let control = lab.gateways[0].control()?;
    let cause = format!("another adit (process {}) runs in", control.pid());
    ensure!(words.contains(&cause) && words.contains("runtime_dir"), "the error names no cause or remedy:\n{words}");
    ensure!(control.is_running());
    reaches(&lab.b().netns, lab.a().inner())
}

#[test]
fn a_data_plane_that_was_left_behind_on_purpose_is_taken_over() -> Result<()> {
    let mut lab = Lab::prepare(&LabOptions::patient())?;
    let mut command = lab.a().command()?;
    command.arg("--leave-dataplane");
    lab.gateways[0].start(&mut command)?;
    lab.gateways[1].start_control()?;
    lab.wait_until_up()?;
    let plane = lab.a().data_plane().context("a data plane")?;
    let pings = Pings::start(&lab, lab.b(), lab.a().inner(), Duration::from_millis(1))?;
    let status = lab.gateways[0].control()?.terminate(SOON)?;
    ensure!(status.success(), "{status}");
    ensure!(lab.a().data_plane() == Some(plane), "the data plane was not left");
    lab.gateways[0].start_control()?;
    wait_until("the new control plane serves metrics", SOON, || Ok(lab.a().metrics().is_ok()))?;
    ensure!(lab.a().data_plane() == Some(plane), "the data plane is another one");
    pings.none_lost(&lab, 1).map(drop)
}

#[test]
fn a_data_plane_without_descriptors_forwards_on_and_is_attached_to_later() -> Result<()> {
    let mut lab = Lab::start(&LabOptions::patient())?;
    let plane = lab.a().data_plane().context("a data plane")?;
    lab.gateways[0].kill_control()?;
    lab.a().netns.run(&format!("prlimit --pid {plane} --nofile=3:"))?;
    let answer = Master::attach(&lab.dir().join("run-site-a/dataplane.sock"));
    ensure!(matches!(answer, Err(AttachError::Silent { pid }) if pid == plane), "{answer:?}");
    reaches(&lab.b().netns, lab.a().inner())?;
    ensure!(lab.a().data_plane() == Some(plane), "the data plane ended");
    lab.a().netns.run(&format!("prlimit --pid {plane} --nofile=1024:"))?;
    lab.gateways[0].start_control()?;
    wait_until("the new control plane serves metrics", SOON, || Ok(lab.a().metrics().is_ok()))?;
    ensure!(lab.a().data_plane() == Some(plane), "the data plane is another one");
    let log = lab.a().log();
    let fault = std::fs::read_to_string(lab.dir().join("run-site-a/dataplane.log"))?;
    ensure!(fault.contains("no control plane can attach: "), "{fault}\n{log}");
    Ok(())
}
