//! What happens when an end is silent, dies, or is replaced.

use std::time::Duration;

use adit_bench::lab::interop::Release::{self, Swan5, Swan6};
use adit_bench::lab::interop::config::Retransmit;
use adit_bench::lab::interop::sites::{CHILD, CONNECTION, Proof};
use adit_engine::ike::{Cause, EndpointConfig, Event, Retransmission};
use anyhow::{Context, Result, ensure};

use super::gateway::PEER;
use super::{Pair, SOON};

/// An end that does not wait long for answers.
fn impatient() -> EndpointConfig {
    let retransmission = Retransmission { first: Duration::from_millis(200), max: Duration::from_secs(1), tries: 3 };
    EndpointConfig { retransmission, ..EndpointConfig::default() }
}

const IMPATIENT: Retransmit = Retransmit { timeout: Duration::from_millis(200), base: 1.2, tries: 2 };

#[test]
fn dead_peer_detection_asks_and_is_answered_at_both_ends() -> Result<()> {
    // One end asks at a time: an end that was just asked has no reason to ask.
    for (release, adit_asks) in Release::ALL.into_iter().flat_map(|release| [(release, false), (release, true)]) {
        let pair = Pair::with(release, Proof::Psk, EndpointConfig::default(), |config, swan| match adit_asks {
            true => config.dpd = Duration::from_secs(1),
            false => swan.connections[0].dpd_delay = Some(Duration::from_secs(1)),
        })?;
        pair.connect()?;
        let spis = pair.spis();
        let said = if adit_asks { "parsed INFORMATIONAL request" } else { "parsed INFORMATIONAL response" };
        pair.swan.wait_for_log(said, SOON)?;
        pair.check()?;
        ensure!(pair.spis() == spis, "not the same SAs");
    }
    Ok(())
}

#[test]
fn a_silent_adit_is_found_dead_and_finds_out_that_it_is() -> Result<()> {
    for release in Release::ALL {
        let pair = Pair::with(release, Proof::Psk, impatient(), |config, swan| {
            config.dpd = Duration::from_secs(2);
            swan.daemon.retransmit = Some(IMPATIENT);
            swan.connections[0].dpd_delay = Some(Duration::from_secs(1));
        })?;
        pair.connect()?;
        let (ike, _) = pair.spis();
        pair.adit.with(|view| view.cut = true);
        pair.swan.wait_until_idle(SOON)?;
        pair.adit.with(|view| view.cut = false);
        pair.adit.wait_for("another IKE SA", SOON, |view| {
            let status = view.status();
            (status.state.is_up() && status.ike.first()?.spis.initiator.0 != ike).then_some(())
        })?;
        pair.check().with_context(|| format!("{release:?}"))?;
    }
    Ok(())
}

#[test]
fn a_killed_strongswan_is_found_dead_and_connected_to_again() -> Result<()> {
    for release in Release::ALL {
        let mut pair = Pair::with(release, Proof::Psk, impatient(), |config, _| config.dpd = Duration::from_secs(1))?;
        pair.connect()?;
        pair.swan.kill()?;
        pair.adit.wait_for("the end of the IKE SA", SOON, |view| {
            let dead = |event: &Event| matches!(event, Event::IkeDown { cause: Cause::Unanswered { .. }, .. });
            (view.events.iter().any(dead) && view.data.inbound.len() + view.data.outbound.len() == 0).then_some(())
        })?;
        pair.swan.start_again()?;
        pair.connected()?;
        pair.check().with_context(|| format!("{release:?}"))?;
    }
    Ok(())
}

#[test]
fn a_strongswan_that_forgot_everything_replaces_what_was() -> Result<()> {
    for release in Release::ALL {
        let mut pair = Pair::new(release, Proof::Psk, |_, _| {})?;
        pair.accept()?;
        pair.swan.kill()?;
        pair.swan.start_again()?;
        pair.accept()?;
        pair.check().with_context(|| format!("{release:?}"))?;
        let restarted = |event: &Event| matches!(event, Event::IkeDown { cause: Cause::PeerRestarted, .. });
        ensure!(pair.adit.with(|view| view.events.iter().any(restarted)), "{}", pair.adit.explain());
    }
    Ok(())
}

#[test]
fn an_adit_that_forgot_everything_replaces_what_was() -> Result<()> {
    for release in Release::ALL {
        let pair = Pair::new(release, Proof::Psk, |_, _| {})?;
        pair.connect()?;
        pair.adit.forget()?;
        pair.connect()?;
        pair.check().with_context(|| format!("{release:?}"))?;
    }
    Ok(())
}

#[test]
fn a_successor_goes_on_where_its_process_was_killed() -> Result<()> {
    for release in Release::ALL {
        let pair = Pair::new(release, Proof::Psk, |_, _| {})?;
        pair.connect()?;
        let spis = pair.spis();
        pair.under_traffic(|| {
            pair.adit.succeed()?;
            pair.agree()?;
            ensure!(pair.spis() == spis, "not the same SAs");
            pair.rekey_child()?;
            pair.adit.succeed()?;
            pair.swan.rekey_ike(CONNECTION)?;
            pair.adit.succeed()?;
            pair.swan.rekey_child(CONNECTION, CHILD)?;
            pair.agree()?;
            pair.adit.succeed()?;
            pair.rekey_ike()
        })
        .with_context(|| format!("{release:?}"))?;
    }
    Ok(())
}

#[test]
fn strongswan_authenticates_anew_instead_of_rekeying() -> Result<()> {
    for release in [Swan5, Swan6] {
        for make_before_break in [true, false] {
            let pair = Pair::new(release, Proof::Psk, |_, swan| {
                swan.connections[0].extra = ["reauth_time = 2s", "rand_time = 0s", "over_time = 60s"].map(str::to_owned).into();
                let word = if make_before_break { "yes" } else { "no" };
                swan.daemon.extra = vec![format!("make_before_break = {word}")];
            })?;
            pair.accept()?;
            let (first, _) = pair.spis();
            let again = || {
                pair.adit.wait_for("another IKE SA", SOON, |view| {
                    let status = view.status();
                    (status.ike.len() == 1 && status.ike[0].spis.initiator.0 != first && view.data.pairs() == 1).then_some(())
                })
            };
            if make_before_break { pair.under_traffic(again) } else { again().and_then(|()| pair.check()) }
                .with_context(|| format!("{release:?}, make before break: {make_before_break}"))?;
            let _ = pair.adit.act(|endpoint, now| endpoint.disconnect(now, PEER));
        }
    }
    Ok(())
}
