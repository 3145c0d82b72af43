//! A new authentication beside the old one, with strongSwan: it begins one itself, is told when to (AUTH_LIFETIME, RFC 4478), or we begin.
//!
//! strongSwan sends AUTH_LIFETIME only to clients that use EAP or have a virtual address; with all others it begins by itself. That we
//! obey the notify is shown between gateways (`e2e/reauth.rs`). No ping is counted here: strongSwan as responder sends on a new SA before
//! the initiator can have it, and as initiator it takes the old one away at once, with what is on the way on it.

use adit_bench::lab::interop::Config;
use adit_bench::lab::interop::Release::{Swan5, Swan6};
use adit_bench::lab::interop::sites::Proof;
use adit_bench::lab::wait_until;
use anyhow::{Context, Result, ensure};

use super::{Pair, SOON};

/// The new IKE SA first, and what strongSwan wants of lifetimes.
fn make_before_break(swan: &mut Config, lines: &[&str]) {
    swan.daemon.extra.push("make_before_break = yes".to_owned());
    swan.connections[0].extra.extend(lines.iter().map(|line| (*line).to_owned()));
}

/// Waits until another IKE SA is the only one.
fn another(pair: &Pair, before: &str) -> Result<String> {
    let mut now = String::new();
    wait_until("another IKE SA has taken its place", SOON, || {
        now = pair.spis()?.0;
        Ok(now != before
            && pair.peer()?["ike"]["sas"].as_array().is_some_and(|sas| sas.len() == 1)
            && pair.swan.sas()?.len() == 1)
    })
    .with_context(|| pair.said())?;
    Ok(now)
}

/// Whether Adit was connected all the time.
fn was_up(pair: &Pair) -> Result<()> {
    let log = std::fs::read_to_string(&pair.adit.log)?;
    let ends = ["is gone: the peer", "reconnecting", "did not authenticate anew"];
    ensure!(log.contains("takes the place of") && !ends.iter().any(|end| log.contains(end)), "{}", pair.said());
    pair.reaches()
}

#[test]
fn strongswan_authenticates_anew_in_either_role_beside_what_there_is() -> Result<()> {
    let pair = Pair::new(Swan5, Proof::Psk, "role: both", |swan| {
        make_before_break(swan, &["reauth_time = 3s", "rekey_time = 0s", "over_time = 60s", "rand_time = 0s"]);
    })?;
    pair.connect(true)?;
    // It was the responder; from then on it is the initiator.
    let first = another(&pair, &pair.spis()?.0)?;
    another(&pair, &first)?;
    was_up(&pair)
}

#[test]
fn strongswan_is_told_until_when_it_has_to_authenticate_anew() -> Result<()> {
    let pair = Pair::new(Swan6, Proof::Psk, "role: responder, reauth_s: 8", |swan| {
        make_before_break(swan, &["over_time = 5s", "rand_time = 0s"]);
    })?;
    pair.connect(false)?;
    ensure!(pair.swan.log().contains("received AUTH_LIFETIME of 8s"), "{}", pair.said());
    another(&pair, &pair.spis()?.0)?;
    was_up(&pair)
}

#[test]
fn adit_authenticates_anew_beside_what_there_is() -> Result<()> {
    let pair = Pair::new(Swan6, Proof::Psk, "role: initiator, reauth_s: 8", |_| {})?;
    pair.connect(true)?;
    another(&pair, &pair.spis()?.0)?;
    was_up(&pair)
}
