//! `adit stop`: a gateway and its data plane, or a data plane that was left, by IKE, so that the peer can be told.

use std::process::Output;

use adit_bench::lab::{Gateway, Lab, SOON, WAN, binary, wait_until};
use anyhow::{Context, Result, ensure};

use crate::ike_tunnel::{ROLES, patient, spis};
use crate::reaches;

fn stop(gateway: &Gateway) -> Result<Output> {
    let mut command = gateway.netns.command(binary("adit")?);
    Ok(command.arg("stop").arg("-c").arg(&gateway.config).output()?)
}

/// An error unless it ended well and said these words on standard output, and nothing on the other.
fn says(output: &Output, words: &str) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && said == format!("{words}\n") && output.stderr.is_empty(), "not `{words}`: {output:?}");
    Ok(())
}

/// An error unless nothing is left of the gateway, and `adit stop` says so by its exit code.
fn is_gone(gateway: &Gateway) -> Result<()> {
    ensure!(gateway.data_plane().is_none(), "the data plane runs");
    ensure!(gateway.netns.run("ip link show adit0").is_err(), "the interface is there");
    let output = stop(gateway)?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code() == Some(3) && output.stderr.is_empty(), "{output:?}");
    ensure!(said == "nothing runs as site-a: neither adit nor a data plane\n", "{said}");
    Ok(())
}

/// The peer has heard of it. One that only finds out says that nothing was answered.
fn is_reported(lab: &Lab) -> Result<()> {
    wait_until("the peer knows", SOON, || Ok(lab.b().adit("status")?.contains("the peer is NOT UP")))
        .with_context(|| lab.logs())?;
    lab.b().wait_for_log("the peer closed the connection", SOON).map(drop)
}

#[test]
fn a_gateway_is_stopped_with_its_data_plane() -> Result<()> {
    let mut lab = Lab::start(&patient(&ROLES))?;
    reaches(&lab.a().netns, lab.b().inner())?;
    let plane = lab.a().data_plane().context("a data plane")?;
    let control = lab.gateways[0].control()?.pid();
    says(&stop(lab.a())?, &format!("adit (process {control}) and its data plane (process {plane}) have ended"))?;
    is_reported(&lab)?;
    is_gone(lab.a())
}

#[test]
fn a_data_plane_that_was_left_is_stopped_and_its_peer_told() -> Result<()> {
    let mut lab = Lab::prepare(&patient(&ROLES))?;
    let mut command = lab.a().command()?;
    command.arg("--leave-dataplane");
    lab.gateways[0].start(&mut command)?;
    lab.gateways[1].start_control()?;
    lab.wait_until_up()?;
    let plane = lab.a().data_plane().context("a data plane")?;
    lab.gateways[0].control()?.terminate(SOON)?;
    reaches(&lab.b().netns, lab.a().inner())?;
    says(&stop(lab.a())?, &format!("the data plane (process {plane}), which had no adit any more, has ended"))?;
    is_reported(&lab)?;
    is_gone(lab.a())
}

/// The answer came while nobody was there to take it, and a peer can be told only when it is here (RFC 7296 §2.3).
#[test]
fn the_peer_is_told_though_it_was_being_asked_when_adit_died() -> Result<()> {
    let mut lab = Lab::start(&patient(&ROLES))?;
    let (_, before) = spis(lab.b())?;
    let chain = format!("add chain netdev outer in {{ type filter hook ingress device {WAN} priority 0 ; }}");
    for line in ["add table netdev outer", &chain, "add rule netdev outer in udp dport 4500 drop"] {
        lab.a().netns.run(&format!("nft {line}"))?;
    }
    lab.a().adit("rekey site-b")?;
    wait_until("b has answered", SOON, || Ok(spis(lab.b())?.1 != before)).with_context(|| lab.logs())?;
    lab.gateways[0].kill_control()?;
    lab.a().netns.run("nft delete table netdev outer")?;
    let output = stop(lab.a())?;
    ensure!(output.status.success(), "{output:?}");
    is_reported(&lab)?;
    is_gone(lab.a())
}

#[test]
fn a_data_plane_whose_adit_died_can_be_stopped_by_name() -> Result<()> {
    let mut lab = Lab::start(&patient(&ROLES))?;
    let plane = lab.a().data_plane().context("a data plane")?;
    lab.gateways[0].kill_control()?;
    // By a name that nothing runs under: nothing is ended.
    let mut command = lab.a().netns.command(binary("adit")?);
    let output = command.args(["stop", "--name", "site-nowhere"]).output()?;
    ensure!(output.status.code() == Some(3), "{output:?}");
    ensure!(lab.a().data_plane() == Some(plane), "the data plane is gone");
    says(&stop(lab.a())?, &format!("the data plane (process {plane}), which had no adit any more, has ended"))?;
    is_gone(lab.a())
}
