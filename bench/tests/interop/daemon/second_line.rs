//! Two lines between the ends, of which the first one dies: the tunnel goes on over the other one under the same IKE SA (MOBIKE,
//! RFC 4555), because each end has named its second address to the other (ADDITIONAL_IP4_ADDRESS).
//!
//! ```text
//!   host a: Adit   192.0.2.1 ═══ wan0 ═══ 192.0.2.2   host b: strongSwan
//!               198.51.100.1 ═══ wan1 ═══ 198.51.100.2
//! ```

use adit_bench::lab::interop::Release::{self, Swan5, Swan6};
use adit_bench::lab::interop::sites::{CONNECTION, LINK, Proof, Site, Sites};
use adit_bench::lab::wait_until;
use adit_bench::netns::{Netns, Veth};
use anyhow::{Context, Result, ensure};

use super::matrix::role;
use super::ports::changed;
use super::{Ground, MIB, Pair, SOON};

const SECOND_LINK: &str = "wan1";

fn second(site: Site) -> String {
    format!("198.51.100.{}", site as u8)
}

/// Connected over the first line. The second one is dropped last.
fn start(release: Release, adit_begins: bool) -> Result<(Pair, Veth)> {
    let sites = Sites::new()?;
    let cable = Veth::between(&sites.a, SECOND_LINK, &sites.b, SECOND_LINK, 1500)?;
    for (netns, site) in [(&sites.a, Site::A), (&sites.b, Site::B)] {
        netns.address(SECOND_LINK, &format!("{}/24", second(site)))?;
    }
    let more = format!("role: {}, dpd_s: 1", role(adit_begins));
    let pair = Pair::on(Ground::Cable(sites), release, Proof::Psk, &more, |swan| {
        let connection = &mut swan.connections[0];
        connection.local_address = None;
        if adit_begins {
            connection.remote_address = None;
        }
    })?;
    let pair = changed(pair, &format!("listen: {}:4500", Site::A.outer()), "listen: 0.0.0.0:4500")?;
    pair.connect(adit_begins)?;
    let named = if adit_begins { "generating IKE_AUTH response 1 [" } else { "parsed IKE_AUTH response 1 [" };
    let log = pair.swan.log();
    let line = log.lines().rfind(|line| line.contains(named)).with_context(|| pair.said())?;
    ensure!(line.contains("N(ADD_4_ADDR)"), "no second address is named: {line}");
    Ok((pair, cable))
}

/// Lets nothing in any more, and nobody is told.
fn silence(netns: &Netns, link: &str) -> Result<()> {
    netns.run("nft add table netdev silent")?;
    netns.run(&format!("nft add chain netdev silent in {{ type filter hook ingress device {link} priority 0 ; }}"))?;
    netns.run("nft add rule netdev silent in drop").map(drop)
}

/// Both ends are on the second line, under the IKE SA of before, and all works there.
fn goes_on(pair: &Pair, before: &str) -> Result<()> {
    let way = (format!("{}:4500", second(Site::A)), format!("{}:4500", second(Site::B)));
    wait_until("both ends are on the second line", SOON, || {
        let sa = pair.peer()?["ike"]["sas"][0].clone();
        let theirs = pair.swan.established(CONNECTION)?;
        let theirs = (theirs.remote.to_string(), theirs.local.to_string());
        Ok(sa["local"] == way.0.as_str() && sa["remote"] == way.1.as_str() && theirs == way)
    })
    .with_context(|| pair.said())?;
    pair.up()?;
    ensure!(pair.spis()?.0 == before, "another IKE SA: {}", pair.said());
    pair.transfers(MIB)?;
    pair.rekey(4)?;
    pair.transfers(MIB)
}

#[test]
fn when_the_first_address_is_silent_the_second_one_carries_the_tunnel() -> Result<()> {
    let (pair, _second) = start(Swan5, true)?;
    let before = pair.spis()?.0;
    silence(pair.ground.here(), LINK)?;
    silence(pair.ground.there()?, LINK)?;
    goes_on(&pair, &before)
}

#[test]
fn strongswan_whose_link_goes_down_moves_to_our_second_address() -> Result<()> {
    let (pair, _second) = start(Swan6, false)?;
    let before = pair.spis()?.0;
    pair.ground.there()?.run(&format!("ip link set {LINK} down"))?;
    goes_on(&pair, &before)
}
