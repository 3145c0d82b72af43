//! Two gateways that agree on their keys by IKE: handshake, rekey, the death of either plane, wrong keys; no packet is lost where
//! none must be.

use std::time::Duration;

use adit_bench::lab::{Gateway, Lab, LabOptions, SOON, Turn, wait_until};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{Pings, reaches};

/// One end connects, so that there is one handshake.
pub const ROLES: [&str; 2] = ["role: initiator, dpd_s: 1", "role: responder, dpd_s: 1"];

pub fn options(ike: &[&str]) -> LabOptions {
    LabOptions { ike: ike.iter().map(|more| (*more).to_owned()).collect(), ..LabOptions::default() }
}

/// The same where nothing is measured and most of the time is waited for.
pub fn patient(ike: &[&str]) -> LabOptions {
    LabOptions { turn: Turn::Shared, ..options(ike) }
}

/// What `adit status --json` says of the only peer's IKE.
pub fn ike(gateway: &Gateway) -> Result<Value> {
    Ok(peer(gateway)?["ike"].take())
}

/// What the gateway says of its first peer.
pub fn peer(gateway: &Gateway) -> Result<Value> {
    Ok(gateway.status()?["peers"][0].take())
}

/// The SPIs of the IKE SA in use, and the inbound ones of its Child SAs.
pub fn spis(gateway: &Gateway) -> Result<(String, Vec<String>)> {
    let peer = peer(gateway)?;
    let sa = &peer["ike"]["sas"][0];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let children = peer["children"].as_array().context("no children")?;
    let children = children.iter().filter(|child| child["going"] == false).map(|child| text(&child["inbound_spi"]));
    Ok((text(&sa["initiator_spi"]) + &text(&sa["responder_spi"]), children.collect()))
}

/// The SPIs of everything that is listed, also of what is about to go.
pub fn listed(gateway: &Gateway) -> Result<Vec<Value>> {
    let peer = peer(gateway)?;
    let sas = peer["ike"]["sas"].as_array().context("no IKE SAs")?.iter();
    let sas = sas.flat_map(|sa| [sa["initiator_spi"].clone(), sa["responder_spi"].clone()]);
    let children = peer["children"].as_array().context("no Child SAs")?.iter().map(|child| child["inbound_spi"].clone());
    Ok(sas.chain(children).collect())
}

#[test]
fn two_gateways_agree_on_keys_with_ml_kem_and_say_so() -> Result<()> {
    let lab = Lab::start(&LabOptions { workers: vec![2, 1], ..patient(&[""]) })?;
    for (gateway, other) in [(lab.a(), "site-b"), (lab.b(), "site-a")] {
        let reported = peer(gateway)?;
        let sa = &reported["ike"]["sas"][0];
        ensure!(reported["state"] == "established" && sa["remote_id"] == other && sa["post_quantum"] == true, "{reported:#}");
        ensure!(sa["suite"].as_str().is_some_and(|suite| suite.contains("ML_KEM_768")), "{reported:#}");
        // One Child SA for each worker of the gateway that has more.
        wait_until("there are two Child SAs", SOON, || Ok(spis(gateway)?.1.len() == 2)).with_context(|| lab.logs())?;
        let metrics = gateway.metrics()?;
        let up = metrics.sum("adit_ike_state", &[("peer", other), ("state", "established")]);
        ensure!(up == Some(1.0) && metrics.sum("adit_ike_handshakes_total", &[("peer", other)]) >= Some(1.0), "{reported:#}");
        let report = || gateway.adit(&format!("status {other}"));
        wait_until("it is up", SOON, || Ok(report()?.starts_with(&format!("{other}: up"))))
            .with_context(|| format!("{:?}", report()))?;
        ensure!(report()?.contains("post-quantum"), "{}", report()?);
    }
    reaches(&lab.a().netns, lab.b().inner())?;
    reaches(&lab.b().netns, lab.a().inner6())
}

#[test]
fn keys_are_replaced_from_either_end_without_a_lost_ping() -> Result<()> {
    let lab = Lab::start(&options(&ROLES))?;
    let pings = Pings::start(&lab, lab.a(), lab.b().inner(), Duration::from_millis(1))?;
    for gateway in [lab.a(), lab.b()].repeat(5) {
        for (command, ike_changes) in [("rekey", false), ("rekey --ike", true)] {
            let before = spis(gateway)?;
            gateway.adit(&format!("{command} {}", if gateway.number == 1 { "site-b" } else { "site-a" }))?;
            wait_until("the keys are others", SOON, || {
                let now = spis(gateway)?;
                Ok(if ike_changes { now.0 != before.0 } else { now.1 != before.1 && now.1.len() == before.1.len() })
            })
            .with_context(|| lab.logs())?;
        }
    }
    pings.none_lost(&lab, 100).map(drop)
}

#[test]
fn the_next_control_plane_goes_on_with_the_same_ike_sas() -> Result<()> {
    let mut lab = Lab::start(&options(&ROLES))?;
    let pings = Pings::start(&lab, lab.b(), lab.a().inner(), Duration::from_millis(1))?;
    let before = spis(lab.a())?;
    for round in 0..3 {
        lab.gateways[0].kill_control()?;
        lab.gateways[0].start_control()?;
        wait_until("the new control plane answers", SOON, || Ok(lab.a().adit("status").is_ok())).with_context(|| lab.logs())?;
        let after = spis(lab.a())?;
        ensure!(after.0 == before.0, "round {round}: another IKE SA: {before:?}, {after:?}\n{}", lab.logs());
        let old = spis(lab.b())?.1;
        lab.gateways[1].adit("rekey site-a")?;
        wait_until("the peer rekeys with it", SOON, || Ok(spis(lab.b())?.1 != old)).with_context(|| lab.logs())?;
    }
    ensure!(spis(lab.a())?.0 == before.0 && spis(lab.b())?.0 == before.0, "a new handshake\n{}", lab.logs());
    pings.none_lost(&lab, 100).map(drop)
}

#[test]
fn a_new_data_plane_gets_new_child_sas_under_the_old_ike_sa() -> Result<()> {
    let lab = Lab::start(&options(&ROLES))?;
    let before = spis(lab.a())?;
    let dead = lab.a().kill_data_plane()?;
    wait_until("the tunnel is back", SOON, || {
        Ok(lab.a().data_plane().is_some_and(|pid| pid != dead) && reaches(&lab.a().netns, lab.b().inner()).is_ok())
    })
    .with_context(|| lab.logs())?;
    let after = spis(lab.a())?;
    ensure!(after.0 == before.0 && after.1 != before.1, "{before:?} {after:?}\n{}", lab.logs());
    Ok(())
}

#[test]
fn a_gateway_that_crashed_or_stopped_is_connected_again_within_seconds() -> Result<()> {
    let mut lab = Lab::start(&patient(&["role: initiator, dpd_s: 2", "role: responder, dpd_s: 2"]))?;
    // A stop says goodbye; a crash does not.
    lab.gateways[1].stop()?;
    wait_until("the other end has noticed", SOON, || Ok(peer(lab.a())?["state"] == "reconnecting"))
        .with_context(|| lab.logs())?;
    lab.gateways[1].start_control()?;
    wait_until("it is up again", SOON, || Ok(reaches(&lab.a().netns, lab.b().inner()).is_ok())).with_context(|| lab.logs())?;
    lab.gateways[1].kill_control()?;
    lab.b().kill_data_plane()?;
    lab.gateways[1].start_control()?;
    wait_until("it is up again after a crash", SOON, || Ok(reaches(&lab.a().netns, lab.b().inner()).is_ok()))
        .with_context(|| lab.logs())
}

#[test]
fn commands_are_carried_out_and_a_wrong_key_is_explained_at_both_ends() -> Result<()> {
    let mut lab = Lab::prepare(&patient(&[""]))?;
    let key = lab.dir().join("site-a-site-b.psk");
    let right = std::fs::read(&key)?;
    lab.gateways[0].start_control()?;
    lab.a().wait_for_log("connecting", SOON)?;
    std::fs::write(&key, "another secret than the one of the other")?;
    lab.gateways[1].start_control()?;
    wait_until("both know why", SOON, || {
        // It may not have begun to answer.
        let reported = |gateway: &Gateway, peer: &str| gateway.adit(&format!("explain {peer}")).unwrap_or_default();
        let (here, there) = (reported(lab.a(), "site-b"), reported(lab.b(), "site-a"));
        Ok(here.contains("AUTHENTICATION_FAILED") && there.contains("remedy:"))
    })
    .with_context(|| format!("{}\n{:?}\n{:?}", lab.logs(), lab.a().adit("explain site-b"), lab.b().adit("explain site-a")))?;
    std::fs::write(&key, right)?;
    lab.gateways[1].stop()?;
    lab.gateways[1].start_control()?;
    wait_until("the right key helps", SOON, || Ok(reaches(&lab.a().netns, lab.b().inner()).is_ok()))
        .with_context(|| lab.logs())?;
    lab.a().adit("disconnect site-b")?;
    wait_until("it is idle", SOON, || Ok(peer(lab.a())?["state"] == "idle"))?;
    let error = format!("{:#}", lab.a().adit("connect nobody").expect_err("there is no such peer"));
    ensure!(error.contains("there is no peer nobody; the peers are site-b"), "{error}");
    lab.b().adit("connect site-a")?;
    wait_until("it is up again", SOON, || Ok(reaches(&lab.a().netns, lab.b().inner()).is_ok())).with_context(|| lab.logs())
}

#[test]
fn a_peer_whose_key_was_replaced_has_to_prove_itself_anew() -> Result<()> {
    let mut lab = Lab::start(&patient(&ROLES))?;
    let key = lab.dir().join("site-a-site-b.psk");
    let right = std::fs::read(&key)?;
    // Only the second gateway reads the new one: the first one is as good as somebody who holds a key that was withdrawn.
    std::fs::write(&key, "another secret than the one of the other")?;
    lab.gateways[1].kill_control()?;
    lab.gateways[1].start_control()?;
    lab.b().wait_for_log("has to prove itself anew", SOON)?;
    wait_until("it cannot", SOON, || {
        let gone = ike(lab.b()).is_ok_and(|reported| reported["sas"] == Value::Array(Vec::new()));
        Ok(gone && lab.b().adit("explain site-a").is_ok_and(|reported| reported.contains("preshared key")))
    })
    .with_context(|| lab.logs())?;
    ensure!(reaches(&lab.a().netns, lab.b().inner()).is_err(), "packets pass though the key was withdrawn");
    std::fs::write(&key, right)?;
    lab.gateways[1].kill_control()?;
    lab.gateways[1].start_control()?;
    wait_until("the right key helps", SOON, || Ok(reaches(&lab.a().netns, lab.b().inner()).is_ok())).with_context(|| lab.logs())
}

#[test]
fn ip_packets_pass_by_ike_and_keys_are_replaced_without_a_lost_one() -> Result<()> {
    let lab = Lab::start(&LabOptions { ip_mode: true, workers: vec![2, 1], ..options(&ROLES) })?;
    let pings = Pings::start(&lab, lab.a(), lab.b().inner(), Duration::from_millis(1))?;
    for command in ["rekey site-b", "rekey --ike site-b"].repeat(3) {
        let before = spis(lab.a())?;
        lab.a().adit(command)?;
        wait_until("the keys are others", SOON, || {
            let now = spis(lab.a())?;
            Ok(now != before && now.1.len() == before.1.len())
        })
        .with_context(|| lab.logs())?;
        std::thread::sleep(Duration::from_millis(50));
    }
    pings.none_lost(&lab, 100)?;
    reaches(&lab.b().netns, lab.a().inner6())
}
