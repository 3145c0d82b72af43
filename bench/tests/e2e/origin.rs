//! From where a peer may come (`from`): who comes from elsewhere is not let in, whatever it can prove, and who goes there is not followed.

use adit_bench::lab::{Gateway, Lab, LabOptions, SOON, WAN, wait_until};
use adit_proto::stats::Count;
use anyhow::{Context, Result, ensure};

use crate::ike_tunnel::patient;
use crate::paths::path_in_use;
use crate::{edit, reaches};

/// In none of the networks from which a peer may come, besides its endpoint; in one of them, and another one in it.
const OUTSIDE: &str = "192.0.2.99";
const INSIDE: [&str; 2] = ["192.0.2.66", "192.0.2.67"];
const NETWORKS: &str = "[192.0.2.64/28, \"2001:db8:5::/48\"]";

/// The first gateway admits its peer from some places; the other one sends from whatever address it has.
fn prepared(options: &LabOptions, from: &str) -> Result<Lab> {
    let lab = Lab::prepare(options)?;
    edit(lab.a(), "endpoint: \"192.0.2.2:4500\"", &format!("from: {from}, endpoint: \"192.0.2.2:4500\""))?;
    edit(lab.b(), "listen: \"192.0.2.2:4500\"", "listen: \"0.0.0.0:4500\"")?;
    Ok(lab)
}

/// The second gateway has this address outside from now on.
fn go(lab: &Lab, to: &str) -> Result<()> {
    lab.b().netns.run(&format!("ip -4 address flush dev {WAN}"))?;
    lab.b().netns.address(WAN, &format!("{to}/24"))
}

fn is_at(gateway: &Gateway, address: &str) -> Result<bool> {
    Ok(path_in_use(gateway)?["remote"] == format!("{address}:4500").as_str())
}

fn passes_at(lab: &Lab, address: &str) -> Result<()> {
    wait_until(&format!("packets pass at {address}"), SOON, || {
        Ok(reaches(&lab.b().netns, lab.a().inner()).is_ok() && is_at(lab.a(), address)?)
    })
    .with_context(|| lab.logs())
}

#[test]
fn by_ike_a_peer_is_admitted_and_followed_only_from_where_it_may_come() -> Result<()> {
    let mut lab = prepared(&patient(&["role: responder, dpd_s: 0", "role: initiator, dpd_s: 2"]), "endpoint")?;
    go(&lab, INSIDE[0])?;
    lab.gateways.iter_mut().try_for_each(Gateway::start_control)?;
    wait_until("it is refused, and both know", SOON, || {
        let here = lab.a().adit("explain site-b").unwrap_or_default();
        let there = lab.b().adit("explain site-a").unwrap_or_default();
        Ok(here.contains(INSIDE[0]) && there.contains("NO_PROPOSAL_CHOSEN"))
    })
    .with_context(|| format!("{}\n{:?}\n{:?}", lab.logs(), lab.a().adit("explain site-b"), lab.b().adit("explain site-a")))?;
    edit(lab.a(), "from: endpoint", &format!("from: {NETWORKS}"))?;
    lab.a().adit("reload")?;
    lab.b().adit("connect site-a")?;
    passes_at(&lab, INSIDE[0])?;
    // It moves on; the first gateway would be told, and does not follow.
    go(&lab, OUTSIDE)?;
    wait_until("it is not followed", SOON, || Ok(lab.b().adit("explain site-a")?.contains("UNACCEPTABLE_ADDRESSES")))
        .with_context(|| format!("{}\n{:?}", lab.logs(), lab.b().adit("explain site-a")))?;
    ensure!(is_at(lab.a(), INSIDE[0])? && reaches(&lab.b().netns, lab.a().inner()).is_err(), "{}", lab.logs());
    go(&lab, INSIDE[1])?;
    passes_at(&lab, INSIDE[1])?;
    // Its endpoint is always one of them.
    go(&lab, "192.0.2.2")?;
    passes_at(&lab, "192.0.2.2")
}

#[test]
fn with_a_static_key_a_peer_is_followed_only_to_where_it_may_be() -> Result<()> {
    let mut lab = prepared(&LabOptions::patient(), "endpoint")?;
    lab.gateways.iter_mut().try_for_each(Gateway::start_control)?;
    lab.wait_until_up()?;
    let stays_away = |address: &str, at: &str| -> Result<()> {
        go(&lab, address)?;
        let opened = lab.a().metrics()?.count(Count::Opened);
        wait_until("what it sends is opened", SOON, || {
            ensure!(reaches(&lab.b().netns, lab.a().inner()).is_err(), "it is followed to {address}: {}", lab.logs());
            Ok(lab.a().metrics()?.count(Count::Opened) >= opened + 3)
        })
        .with_context(|| lab.logs())?;
        ensure!(is_at(lab.a(), at)?, "{}\n{}", path_in_use(lab.a())?, lab.logs());
        Ok(())
    };
    stays_away(INSIDE[0], "192.0.2.2")?;
    // It is still there when that is allowed.
    edit(lab.a(), "from: endpoint", &format!("from: {NETWORKS}"))?;
    lab.a().adit("reload")?;
    passes_at(&lab, INSIDE[0])?;
    stays_away(OUTSIDE, INSIDE[0])?;
    go(&lab, INSIDE[1])?;
    passes_at(&lab, INSIDE[1])
}
