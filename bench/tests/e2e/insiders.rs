//! A peer with good credentials that takes all that it can get, beside an honest one: that one keeps its packets and its rekeys.

use std::time::{Duration, Instant};

use adit_bench::lab::insider::{Insider, child};
use adit_bench::lab::{Gateway, Lab, LabOptions, SOON, wait_until};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::ike_tunnel::spis;
use crate::{Pings, reaches};

/// How long the insider goes on.
const LONG: Duration = Duration::from_secs(4);
/// More than it may have at one time.
const ENOUGH: usize = 10;

/// Begins one IKE SA after the other, of which none knows of those before: how many there were.
fn connect_again_and_again(insider: &Insider) -> Result<usize> {
    let (mut up, began) = (0, Instant::now());
    // A machine that is busy lets it in less often.
    while began.elapsed() < LONG || (up < ENOUGH && began.elapsed() < SOON) {
        up += usize::from(insider.connect()?.is_some());
    }
    Ok(up)
}

/// What the first gateway says of the third one.
fn insider(gateway: &Gateway) -> Result<Value> {
    let status: Value = serde_json::from_str(&gateway.adit("status --json")?)?;
    let peers = status["peers"].as_array().context("no peers")?;
    peers.iter().find(|peer| peer["name"] == "site-c").cloned().context("no third peer")
}

#[test]
fn ike_sas_without_end_cost_an_honest_peer_nothing() -> Result<()> {
    let ike = ["role: responder", "role: initiator"].map(str::to_owned).to_vec();
    let mut lab = Lab::prepare(&LabOptions { gateways: 3, ike, ..LabOptions::default() })?;
    for gateway in &mut lab.gateways[..2] {
        gateway.start_control()?;
    }
    wait_until("the honest peer is there", SOON, || Ok(reaches(&lab.b().netns, lab.a().inner()).is_ok()))
        .with_context(|| lab.logs())?;
    let pings = Pings::start(&lab, lab.b(), lab.a().inner(), Duration::from_millis(1))?;
    let takes_all = Insider::new(&lab.gateways[2], (&lab.a().name, lab.a().outer()), lab.dir(), vec![child("ethernet", None)])?;
    let up = std::thread::scope(|scope| {
        let takes = scope.spawn(|| connect_again_and_again(&takes_all));
        while !takes.is_finished() {
            for command in ["rekey site-a", "rekey --ike site-a"] {
                let before = spis(lab.b())?;
                lab.b().adit(command)?;
                wait_until("the keys are others", SOON, || Ok(spis(lab.b())? != before)).with_context(|| lab.logs())?;
            }
        }
        takes.join().expect("the insider")
    })?;
    ensure!(up >= ENOUGH, "the insider was let in {up} times\n{}", lab.logs());
    let sas = insider(lab.a())?["ike"]["sas"].as_array().map_or(0, Vec::len);
    ensure!(sas <= 8, "it has {sas} IKE SAs");
    let refused = lab.a().log().lines().filter(|line| line.contains("the data plane refused")).count();
    ensure!(refused == 0, "{}", lab.logs());
    pings.none_lost(&lab, 1000)?;
    reaches(&lab.a().netns, lab.b().inner())
}
