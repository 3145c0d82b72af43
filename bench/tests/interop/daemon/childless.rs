//! strongSwan that makes its IKE SA without a Child SA (RFC 6023), and strongSwan that wants to be given an address (RFC 7296 §2.19).

use adit_bench::lab::interop::Release::{self, Swan5, Swan6};
use adit_bench::lab::interop::sites::{CHILD, CONNECTION, Proof};
use adit_bench::lab::wait_until;
use anyhow::{Context, Result, ensure};

use super::matrix::role;
use super::{MIB, Pair, SOON};

/// The newest line of strongSwan's log with this in it.
fn newest(pair: &Pair, what: &str) -> Result<String> {
    let log = pair.swan.log();
    let found = log.lines().rfind(|line| line.contains(what)).map(str::to_owned);
    found.with_context(|| format!("no `{what}`: {}", pair.said()))
}

/// Its only Child SA comes by CREATE_CHILD_SA, and lives like any other.
fn comes_later(release: Release, adit_begins: bool) -> Result<()> {
    let more = format!("role: {}", role(adit_begins));
    let pair = Pair::new(release, Proof::Psk, &more, |swan| swan.connections[0].extra.push("childless = force".to_owned()))?;
    pair.connect(adit_begins)?;
    let request = newest(&pair, if adit_begins { "parsed IKE_AUTH request 1 [" } else { "generating IKE_AUTH request 1 [" })?;
    ensure!(!request.contains(" SA "), "a Child SA in IKE_AUTH: {request}");
    newest(&pair, if adit_begins { "parsed CREATE_CHILD_SA request" } else { "generating CREATE_CHILD_SA request" })?;
    pair.transfers(MIB)?;
    let one = || Ok(pair.peer()?["children"].as_array().is_some_and(|all| all.len() == 1));
    wait_until("there is one Child SA", SOON, one).with_context(|| pair.said())?;
    pair.rekey(4)?;
    pair.transfers(MIB)
}

#[test]
fn an_ike_sa_without_a_child_sa_gets_it_later_whoever_begins() -> Result<()> {
    comes_later(Swan5, true)?;
    comes_later(Swan6, false)
}

/// Adit gives no addresses. The connection is made within its selectors, where the client has named its own.
#[test]
fn who_asks_for_a_virtual_address_is_connected_without_and_it_is_said() -> Result<()> {
    let vips = |with_own: bool| {
        Pair::new(Swan5, Proof::Psk, "role: responder", |swan| {
            swan.connections[0].extra.push("vips = 0.0.0.0, ::".to_owned());
            if !with_own {
                swan.connections[0].children[0].local_ts.clear();
            }
        })
    };
    let pair = vips(true)?;
    pair.connect(false)?;
    ensure!(newest(&pair, "generating IKE_AUTH request 1 [")?.contains("CPRQ(ADDR ADDR6"), "{}", pair.said());
    ensure!(!newest(&pair, "parsed IKE_AUTH response 1 [")?.contains("CPRP"), "{}", pair.said());
    pair.transfers(MIB)?;
    let says = |pair: &Pair| -> Result<()> {
        let explained = pair.command("explain b")?;
        let both = ["virtual addresses", "none are given", "INTERNAL_IP4_ADDRESS, INTERNAL_IP6_ADDRESS"];
        ensure!(both.iter().all(|words| explained.contains(words)), "{explained}");
        Ok(())
    };
    says(&pair)?;
    drop(pair);
    // One that has no other network wants none without an address.
    let pair = vips(false)?;
    ensure!(pair.swan.initiate(CONNECTION, CHILD).is_err(), "{}", pair.said());
    says(&pair)
}
