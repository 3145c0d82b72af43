//! The life of a connection with strongSwan: rekeys without a lost packet, deaths and comebacks, mistakes that are put right.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use adit_bench::lab::interop::Release;
use adit_bench::lab::interop::Release::{Swan5, Swan6};
use adit_bench::lab::interop::config::Retransmit;
use adit_bench::lab::interop::sites::{CHILD, CONNECTION, LINK, Proof, Site};
use adit_bench::lab::wait_until;
use adit_bench::rtt::Prober;
use anyhow::{Context, Result, ensure};

use super::{Adit, MIB, Pair, SOON};

/// An end that does not wait long for answers.
const IMPATIENT: Retransmit = Retransmit { timeout: Duration::from_millis(200), base: 1.2, tries: 4 };

fn connected(release: Release, more: &str) -> Result<Pair> {
    let pair = Pair::new(release, Proof::Psk, more, |swan| swan.daemon.retransmit = Some(IMPATIENT))?;
    pair.connect(true)?;
    Ok(pair)
}

/// Replaces the keys of both kinds, in turn from either end, `rounds` times.
fn rekey(pair: &Pair, rounds: usize) -> Result<()> {
    for round in 0..rounds {
        let before = pair.spis()?;
        match round % 4 {
            0 => drop(pair.order("rekey b")?),
            1 => drop(pair.swan.rekey_child(CONNECTION, CHILD)?),
            2 => drop(pair.order("rekey --ike b")?),
            _ => drop(pair.swan.rekey_ike(CONNECTION)?),
        }
        wait_until("the keys are others", SOON, || {
            let now = pair.spis()?;
            Ok(if round % 4 < 2 { now.1 != before.1 && !now.1.is_empty() } else { now.0 != before.0 })
        })
        .with_context(|| format!("round {round}: {}", pair.said()))?;
    }
    Ok(())
}

#[test]
fn keys_are_replaced_from_either_end_without_a_lost_ping() -> Result<()> {
    for release in [Swan5, Swan6] {
        let pair = connected(release, "role: initiator")?;
        let prober = pair.sites.a.enter(|| Prober::start(Site::B.inner().into(), Duration::from_millis(1)))?;
        rekey(&pair, 12)?;
        let probes = prober.stop(Duration::from_secs(2))?;
        ensure!(probes.sent > 100 && probes.lost == 0, "{release:?}: {} of {} lost: {}", probes.lost, probes.sent, pair.said());
    }
    Ok(())
}

#[test]
fn fifty_rekeys_under_tcp_change_no_byte() -> Result<()> {
    let pair = connected(Swan5, "role: initiator")?;
    let done = AtomicBool::new(false);
    let (rekeyed, moved) = std::thread::scope(|scope| {
        let traffic = scope.spawn(|| -> Result<u32> {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) || rounds == 0 {
                pair.transfers(8 * MIB)?;
                rounds += 1;
            }
            Ok(rounds)
        });
        let rekeyed = rekey(&pair, 50);
        done.store(true, Ordering::Relaxed);
        (rekeyed, traffic.join().expect("the thread with the traffic"))
    });
    rekeyed?;
    ensure!(moved? > 0);
    Ok(())
}

#[test]
fn either_end_that_dies_is_connected_again() -> Result<()> {
    let mut pair = connected(Swan5, "role: initiator, dpd_s: 1")?;
    pair.swan.kill()?;
    pair.swan.start_again()?;
    pair.up().context("after strongSwan was killed")?;
    let before = pair.spis()?;
    pair.adit.kill_control()?;
    pair.adit.start(&pair.sites.a)?;
    pair.up().context("after the control plane was killed")?;
    ensure!(pair.spis()?.0 == before.0, "a new handshake after the control plane was killed: {}", pair.said());
    rekey(&pair, 4).context("after the control plane was killed")?;
    Adit::kill_data_plane(&pair.sites.a)?;
    pair.up().context("after the data plane was killed")?;
    pair.adit.kill_control()?;
    Adit::kill_data_plane(&pair.sites.a)?;
    pair.adit.start(&pair.sites.a)?;
    pair.up().context("after both planes were killed")
}

#[test]
fn a_cable_that_was_out_for_ten_seconds_does_no_harm() -> Result<()> {
    let pair = connected(Swan5, "role: initiator, dpd_s: 1")?;
    pair.sites.a.run(&format!("ip link set {LINK} down"))?;
    std::thread::sleep(Duration::from_secs(10));
    pair.sites.a.run(&format!("ip link set {LINK} up"))?;
    pair.up()
}

#[test]
fn a_deleted_child_is_gone_at_both_ends() -> Result<()> {
    let pair = Pair::new(Swan5, Proof::Psk, "role: responder", |_| {})?;
    pair.connect(false)?;
    pair.swan.terminate(CONNECTION)?;
    wait_until("it is gone here", SOON, || Ok(pair.peer()?["ike"]["sas"].as_array().is_none_or(Vec::is_empty)))?;
    pair.connect(false)?;
    pair.order("disconnect b")?;
    pair.swan.wait_until_idle(SOON)
}
