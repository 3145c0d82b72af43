//! Three networks on each side, and at strongSwan a Child SA for each pair of them: the usual way of other products. All three work,
//! whoever begins, and each is rekeyed for itself.

use std::collections::BTreeMap;

use adit_bench::lab::interop::Release::{self, Swan5, Swan6};
use adit_bench::lab::interop::config::Child;
use adit_bench::lab::interop::sites::{CONNECTION, Proof, Site, Sites, pair};
use adit_bench::lab::{SOON, wait_until};
use adit_bench::netns::Netns;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::adit::{Adit, Place};
use super::matrix::role;
use super::{Ground, Pair};

const NETWORKS: [u8; 3] = [1, 2, 3];

fn network(site: Site, n: u8) -> String {
    format!("10.{}.{n}.0/24", site as u8)
}

fn child(n: u8) -> String {
    format!("net{n}")
}

/// Both ends with an address in each network, ready to be connected.
fn start(release: Release, adit_begins: bool) -> Result<Pair> {
    let ground = Ground::Cable(Sites::new()?);
    for (netns, site) in [(ground.here(), Site::A), (ground.there()?, Site::B)] {
        for n in NETWORKS {
            netns.run(&format!("ip address add 10.{}.{n}.1/32 dev lo", site as u8))?;
        }
    }
    let (a, mut b) = pair(Proof::Psk)?;
    b.connections[0].children =
        NETWORKS.map(|n| Child::new(&child(n)).between(&network(Site::B, n), &network(Site::A, n))).into();
    let mut adit = Adit::prepare(&a, &Place::of(&ground), &format!("role: {}", role(adit_begins)))?;
    let selectors = |networks: &[(String, String)]| {
        let each = networks.iter().map(|(local, remote)| format!("{{ local: {local}, remote: {remote} }}"));
        format!("selectors: [{}]", each.collect::<Vec<_>>().join(", "))
    };
    let usual = selectors(&[(Site::A.network(), Site::B.network())]);
    let three = NETWORKS.map(|n| (network(Site::A, n), network(Site::B, n)));
    adit.change(&usual, &selectors(&three))?;
    let swan = ground.start_swan(release, &mut b)?;
    adit.start(ground.here())?;
    Ok(Pair { swan, adit, ground, config: b })
}

/// Whether a ping from a network of one site to that of the same number is answered.
fn reaches(from: &Netns, site: Site, n: u8) -> bool {
    let (own, other) = (site as u8, site.other() as u8);
    from.run(&format!("ping -n -c2 -i0.1 -W0.5 -I 10.{own}.{n}.1 10.{other}.{n}.1")).is_ok()
}

fn all_reach(pair: &Pair) -> Result<bool> {
    let there = pair.ground.there()?;
    Ok(NETWORKS.iter().all(|n| reaches(pair.ground.here(), Site::A, *n) && reaches(there, Site::B, *n)))
}

/// The inbound SPIs of the Child SAs in use, and how many configured selectors have none.
fn children(pair: &Pair) -> Result<(Vec<String>, usize)> {
    let peer = pair.peer()?;
    let children = peer["children"].as_array().context("no children")?.iter().filter(|child| child["going"] == false);
    let mut spis: Vec<String> = children.map(|child| child["inbound_spi"].to_string()).collect();
    spis.sort();
    Ok((spis, peer["missing"].as_array().map_or(0, Vec::len)))
}

/// The inbound SPIs of the Child SAs in use, by the network that each leads to.
fn by_network(pair: &Pair) -> Result<BTreeMap<String, String>> {
    let peer = pair.peer()?;
    let children = peer["children"].as_array().context("no children")?.iter().filter(|child| child["going"] == false);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(children.map(|child| (text(&child["remote"][0]), text(&child["inbound_spi"]))).collect())
}

fn three_work(release: Release, adit_begins: bool) -> Result<()> {
    let pair = start(release, adit_begins)?;
    if adit_begins {
        pair.command("connect b")?;
    } else {
        NETWORKS.iter().try_for_each(|n| pair.swan.initiate(CONNECTION, &child(*n)))?;
    }
    let three = |pair: &Pair| Ok(children(pair)?.0.len() == 3 && all_reach(pair)?);
    wait_until("all three networks work both ways", SOON, || three(&pair)).with_context(|| pair.said())?;
    ensure!(children(&pair)?.1 == 0, "selectors are missing: {}", pair.said());
    let all_are_others = |before: &[String]| -> Result<bool> {
        let now = children(&pair)?.0;
        Ok(now.len() == 3 && now.iter().all(|spi| !before.contains(spi)))
    };
    let before = children(&pair)?.0;
    pair.command("rekey b")?;
    wait_until("we have rekeyed each", SOON, || all_are_others(&before)).with_context(|| pair.said())?;
    wait_until("all three networks work", SOON, || all_reach(&pair)).with_context(|| pair.said())?;
    let before = children(&pair)?.0;
    for n in NETWORKS {
        let (rekeyed, before) = (network(Site::B, n), by_network(&pair)?);
        pair.swan.rekey_child(CONNECTION, &child(n)).with_context(|| pair.said())?;
        let one_alone = || {
            let now = by_network(&pair)?;
            Ok(now.len() == 3 && now.iter().all(|(to, spi)| (before.get(to) == Some(spi)) == (*to != rekeyed)))
        };
        wait_until("strongSwan has rekeyed one, and the others are as they were", SOON, one_alone)
            .with_context(|| format!("{n}: {before:?}\n{}", pair.said()))?;
    }
    ensure!(all_are_others(&before)?, "{before:?}\n{}", pair.said());
    wait_until("all three networks work", SOON, || all_reach(&pair)).with_context(|| pair.said())
}

#[test]
fn three_networks_work_with_a_child_sa_for_each() -> Result<()> {
    three_work(Swan6, true)?;
    three_work(Swan5, false)
}

#[test]
fn what_strongswan_leaves_out_when_it_begins_is_asked_for() -> Result<()> {
    let pair = start(Swan6, false)?;
    pair.swan.initiate(CONNECTION, &child(1))?;
    wait_until("all three networks work both ways", SOON, || Ok(children(&pair)?.0.len() == 3 && all_reach(&pair)?))
        .with_context(|| pair.said())?;
    ensure!(children(&pair)?.1 == 0, "selectors are missing: {}", pair.said());
    Ok(())
}

#[test]
fn one_child_sa_that_strongswan_ends_leaves_the_others() -> Result<()> {
    let pair = start(Swan6, false)?;
    NETWORKS.iter().try_for_each(|n| pair.swan.initiate(CONNECTION, &child(*n)))?;
    wait_until("all three networks work", SOON, || all_reach(&pair)).with_context(|| pair.said())?;
    pair.swan.terminate_child(CONNECTION, &child(2))?;
    wait_until("one is gone", SOON, || Ok(children(&pair)?.0.len() == 2)).with_context(|| pair.said())?;
    let here = pair.ground.here();
    ensure!(reaches(here, Site::A, 1) && reaches(here, Site::A, 3), "{}", pair.said());
    ensure!(!reaches(here, Site::A, 2), "nothing carries it");
    ensure!(pair.lost().contains("no_child_sa"), "{}", pair.lost());
    ensure!(pair.command("explain b")?.contains("no Child SA for 10.1.2.0/24"), "{}", pair.command("explain b")?);
    Ok(())
}
