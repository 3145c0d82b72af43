//! The control plane dies by SIGKILL and comes back under load; nobody behind the gateways notices.

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use adit_bench::lab::traffic::start;
use adit_bench::lab::{Lab, LabOptions, SOON, wait_until};
use adit_bench::rtt::Prober;
use adit_channel::{AttachError, Master};
use adit_proto::stats::Count;
use anyhow::{Context, Result, bail, ensure};

use crate::ike_tunnel::{ROLES, patient};
use crate::{GIB, Pings, reaches};

/// What docs/config.md says of an upgrade, on a machine that is not busy.
const UPGRADED_WITHIN: Duration = Duration::from_secs(10);

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

/// Has the memory of a data plane say that it is of another release than any that there is.
fn make_foreign(plane: u32) -> Result<()> {
    for entry in fs::read_dir(format!("/proc/{plane}/fd"))? {
        let path = entry?.path();
        if fs::read_link(&path).is_ok_and(|to| to.to_string_lossy().contains("adit-channel")) {
            // The second word of it (`dataplane/channel/src/layout.rs`).
            return Ok(fs::OpenOptions::new().write(true).open(path)?.write_all_at(&u64::from(u32::MAX).to_le_bytes(), 8)?);
        }
    }
    bail!("process {plane} has no memory of a channel")
}

/// As after an upgrade: the new `adit` finds a data plane that it cannot read. That one carries packets until it is ended; then
/// there is another one, and the peer is connected anew.
#[test]
fn a_data_plane_of_another_release_is_replaced_by_a_new_control_plane() -> Result<()> {
    for options in [LabOptions::patient(), patient(&ROLES)] {
        let mut lab = Lab::start(&options)?;
        let old = lab.a().data_plane().context("a data plane")?;
        let prober = lab.b().netns.enter(|| Prober::start(lab.a().inner().into(), Duration::from_millis(1)))?;
        wait_until("pings are answered", SOON, || Ok(prober.so_far().1 > 100))?;
        lab.gateways[0].kill_control()?;
        make_foreign(old)?;
        reaches(&lab.b().netns, lab.a().inner())?;
        lab.gateways[0].start_control()?;
        wait_until("there is a new data plane", SOON, || Ok(lab.a().data_plane().is_some_and(|pid| pid != old)))
            .with_context(|| lab.a().log())?;
        let answered = prober.so_far().1;
        wait_until("pings are answered again", SOON, || Ok(prober.so_far().1 > answered + 500)).with_context(|| lab.logs())?;
        lab.wait_until_up()?;
        let (probes, log) = (prober.stop(Duration::from_secs(1))?, lab.a().log());
        println!("{} of {} pings lost, the outage was {:?}", probes.lost, probes.sent, probes.longest_outage);
        ensure!(log.contains("another version") || log.contains("speaks version"), "{log}");
        ensure!(probes.longest_outage < UPGRADED_WITHIN, "{:?}\n{log}", probes.longest_outage);
    }
    Ok(())
}
