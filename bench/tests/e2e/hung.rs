//! The data plane hangs, which SIGSTOP stands for: it is there, holds its sockets, and does nothing.

use std::thread;
use std::time::Duration;

use adit_bench::lab::{Lab, LabOptions, wait_until};
use adit_bench::netns::{Signal, signal};
use anyhow::{Context, Result, ensure};

/// Ten seconds until a data plane is given up, twice two at attaching, and a busy machine.
const BACK_WITHIN: Duration = Duration::from_secs(40);

fn wait_for_another(lab: &mut Lab, old: u32) -> Result<()> {
    wait_until("there is another data plane", BACK_WITHIN, || Ok(lab.a().data_plane().is_some_and(|pid| pid != old)))
        .with_context(|| lab.a().log())?;
    lab.wait_until_up()
}

#[test]
fn a_data_plane_that_hangs_is_replaced() -> Result<()> {
    let mut lab = Lab::start(&LabOptions { workers: vec![2, 1], ..LabOptions::patient() })?;
    let old = lab.a().data_plane().context("a data plane")?;
    signal(old, Signal::Stop)?;
    wait_for_another(&mut lab, old)?;
    let log = lab.a().log();
    ensure!(log.contains("has stood still") && log.contains("hung and was killed"), "{log}");
    Ok(())
}

#[test]
fn a_data_plane_that_hangs_is_no_obstacle_to_a_new_control_plane() -> Result<()> {
    let mut lab = Lab::start(&LabOptions::patient())?;
    let old = lab.a().data_plane().context("a data plane")?;
    lab.gateways[0].kill_control()?;
    signal(old, Signal::Stop)?;
    lab.gateways[0].start_control()?;
    wait_for_another(&mut lab, old)?;
    ensure!(lab.a().log().contains("does not answer"), "{}", lab.a().log());
    Ok(())
}

#[test]
fn a_gateway_that_was_stopped_as_a_whole_goes_on_as_it_was() -> Result<()> {
    let mut lab = Lab::start(&LabOptions::patient())?;
    let plane = lab.a().data_plane().context("a data plane")?;
    let control = lab.gateways[0].control()?.pid();
    for _ in 0..2 {
        signal(control, Signal::Stop)?;
        signal(plane, Signal::Stop)?;
        // No waiting for something: longer than a hung data plane is waited for is what this is about.
        thread::sleep(Duration::from_secs(12));
        // The control plane first: it must not judge by what it finds.
        signal(control, Signal::Continue)?;
        thread::sleep(Duration::from_millis(1500));
        signal(plane, Signal::Continue)?;
        lab.wait_until_up()?;
    }
    ensure!(lab.a().data_plane() == Some(plane), "the data plane was replaced:\n{}", lab.a().log());
    Ok(())
}
