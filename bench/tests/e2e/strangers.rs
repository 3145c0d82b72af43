//! Strangers on the cable, at an even pace that leaves no gaps for others: junk, other versions, requests under addresses of everybody and
//! of the peer itself, ESP of nobody. What is established is rekeyed meanwhile, and a configured peer connects at once.

use std::time::{Duration, Instant};

use adit_bench::lab::capture::{Capture, Datagram, Injector};
use adit_bench::lab::stranger::{Kind, Stranger, send_evenly, target};
use adit_bench::lab::{Lab, PORT, SOON, WAN, wait_until};
use adit_proto::stats::Drop;
use anyhow::{Context, Result, ensure};

use crate::flood::while_sent;
use crate::ike_tunnel::{ROLES, options, peer, spis};
use crate::reaches;

/// Datagrams in a second, one by one.
const RATE: u32 = 20_000;
/// So soon a configured peer is there.
const CONNECTED_WITHIN: Duration = Duration::from_secs(2);
/// A busy machine only delays: the best of these counts.
const TRIES: usize = 3;

/// Somebody who has seen a request to connect on the cable of the second gateway.
fn stranger(lab: &mut Lab, port: u16) -> Result<Stranger> {
    let mut capture = Capture::open(&lab.b().netns, WAN)?;
    let from = lab.b().outer();
    lab.gateways[1].start_control()?;
    // IKE_SA_INIT is exchange 34 (RFC 7296 §3.1).
    let is_request = |datagram: &Datagram| {
        let at = if datagram.to.port() == 500 { 18 } else { 22 };
        *datagram.from.ip() == from && datagram.payload.get(at) == Some(&34)
    };
    let found = capture.collect(1, SOON, is_request)?.pop().context("no request came")?;
    let marker = if found.to.port() == 500 { 0 } else { 4 };
    let (to, request) = (target(lab.a(), port), found.payload[marker..].to_vec());
    Ok(Stranger { peer: from, to, ethernet: found.ethernet, request })
}

/// Does something while the first gateway is flooded; gives how many were sent.
fn under_flood(lab: &Lab, datagrams: &[Datagram], work: impl FnOnce() -> Result<()>) -> Result<u64> {
    let link = Injector::open(&lab.b().netns, WAN)?;
    while_sent(
        |stop, sent| send_evenly(&link, datagrams, RATE, stop, sent),
        || {
            std::thread::sleep(Duration::from_millis(300));
            work()
        },
    )
}

fn rekeys(lab: &Lab) -> Result<()> {
    let old = spis(lab.b())?;
    lab.b().adit("rekey --ike site-a")?;
    wait_until("the IKE SA is replaced under the flood", SOON, || Ok(spis(lab.b())?.0 != old.0))?;
    lab.b().adit("rekey site-a")?;
    wait_until("the keys are replaced under the flood", SOON, || Ok(spis(lab.b())?.1 != old.1))
}

/// How long it takes until the peer is connected again.
fn connects(lab: &Lab) -> Result<Duration> {
    lab.b().adit("disconnect site-a")?;
    wait_until("the peer has gone", SOON, || Ok(peer(lab.a())?["state"] != "established"))?;
    let began = Instant::now();
    lab.b().adit("connect site-a")?;
    wait_until("the peer is connected again", SOON, || Ok(peer(lab.b())?["state"] == "established"))?;
    Ok(began.elapsed())
}

/// Every kind on one port, on which the peer begins.
fn every_kind(port: u16) -> Result<()> {
    let mut lab = Lab::prepare(&options(&[ROLES[1], ROLES[0]]))?;
    if port != PORT {
        crate::edit(lab.b(), &format!("{}:{PORT}", lab.a().outer()), &format!("{}:{port}", lab.a().outer()))?;
    }
    lab.gateways[0].start_control()?;
    let stranger = stranger(&mut lab, port)?;
    lab.wait_until_up()?;
    let before = lab.a().metrics()?;
    for kind in Kind::ALL {
        if port != PORT && kind == Kind::Esp {
            continue;
        }
        let datagrams = stranger.datagrams(kind);
        let mut took = Vec::new();
        while !took.iter().any(|took| *took <= CONNECTED_WITHIN) {
            ensure!(took.len() < TRIES, "{kind:?} on port {port}: connected after {took:?}\n{}", lab.logs());
            let sent = under_flood(&lab, &datagrams, || {
                rekeys(&lab)?;
                took.push(connects(&lab)?);
                Ok(())
            })
            .with_context(|| format!("{kind:?} on port {port}\n{}", lab.logs()))?;
            ensure!(sent > 1000, "only {sent} were sent");
        }
    }
    let after = lab.a().metrics()?;
    for why in [Drop::BadIke, Drop::PuntNetworkLimit, Drop::PuntAddressLimit] {
        ensure!(after.dropped(why) > before.dropped(why), "none was counted as {}", why.label());
    }
    reaches(&lab.b().netns, lab.a().inner())
}

#[test]
fn no_flood_on_the_port_of_the_data_starves_ike() -> Result<()> {
    every_kind(PORT)
}

#[test]
fn no_flood_on_port_500_starves_ike() -> Result<()> {
    every_kind(500)
}
