//! A NAT between the ends, which forgets.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use adit_bench::lab::interop::Release::{self, Swan5};
use adit_bench::lab::interop::config::Retransmit;
use adit_bench::lab::interop::nat::{NatSites, PUBLIC};
use adit_bench::lab::interop::sites::{CHILD, CONNECTION, Proof, Site};
use adit_bench::lab::interop::table::{Case, Section, Seen, seconds};
use adit_bench::lab::wait_until;
use anyhow::{Context, Result, ensure};

use super::{Ground, MIB, Pair, SOON};

const OTHER_PORTS: RangeInclusive<u16> = 30000..=30999;
const RETRANSMIT: Retransmit = Retransmit { timeout: Duration::from_secs(1), base: 1.2, tries: 8 };

/// What comes from behind the NAT after it forgot, and so tells where the end behind it is now.
#[derive(Clone, Copy, PartialEq)]
enum Sign {
    Traffic,
    Dpd,
}

/// The end behind the NAT begins; the NAT forgets; the other end follows to the new port without a new IKE SA.
fn port_changes(release: Release, behind: Site, mobike: bool, sign: Sign) -> Result<Seen> {
    let ground = Ground::Nat(NatSites::new(behind)?, behind);
    let adit_begins = behind == Site::A;
    let dpd = if sign == Sign::Dpd { 2 } else { 0 };
    let more = if adit_begins { format!("role: initiator, dpd_s: {dpd}") } else { "role: responder, dpd_s: 0".to_owned() };
    let pair = Pair::on(ground, release, Proof::Psk, &more, |swan| {
        swan.daemon.retransmit = Some(RETRANSMIT);
        swan.connections[0].mobike = mobike;
        swan.connections[0].dpd_delay = (!adit_begins && dpd > 0).then_some(Duration::from_secs(dpd));
    })?;
    pair.connect(adit_begins)?;
    pair.transfers(MIB)?;
    let before = pair.spis()?;
    ensure!(is_public(&pair, behind, &NatSites::PORTS)?, "not at a port of the NAT: {}", pair.said());
    if !adit_begins && sign == Sign::Dpd {
        // strongSwan's initiator learns from the first answer where it is seen, and from a later one that this has changed.
        let answers = || pair.swan.log().matches("parsed INFORMATIONAL response").count();
        wait_until("strongSwan has asked twice", SOON, || Ok(answers() >= 2)).with_context(|| pair.said())?;
    }
    let Ground::Nat(sites, _) = &pair.ground else { anyhow::bail!("no NAT") };
    sites.forget(&OTHER_PORTS)?;
    let began = Instant::now();
    if sign == Sign::Traffic {
        let probe = format!("ping -n -c1 -W0.3 -I {} {}", behind.inner(), behind.other().inner());
        let netns = if adit_begins { &sites.a } else { &sites.b };
        // The first may still go the old way: the kernel forgets a little later than it is told.
        // With MOBIKE, IKE goes on where it was until the peer says otherwise, or does not answer there (RFC 4555 §3.8).
        let heard = || {
            let _ = netns.run(&probe);
            Ok(is_public(&pair, behind, &OTHER_PORTS)?
                || !adit_begins && path_in_use(&pair)?.ip() == PUBLIC && OTHER_PORTS.contains(&path_in_use(&pair)?.port()))
        };
        wait_until("what comes through the NAT is heard at another port", SOON, heard).with_context(|| pair.said())?;
    }
    pair.up().context("after the NAT forgot")?;
    let took = began.elapsed();
    ensure!(pair.spis()?.0 == before.0, "another IKE SA: {}", pair.said());
    pair.rekey(4)?;
    wait_until("IKE is at the new port, too", SOON, || is_public(&pair, behind, &OTHER_PORTS)).with_context(|| pair.said())?;
    pair.transfers(MIB)?;
    Ok(vec![format!("packets again after {}, the same IKE SA, 4 rekeys, 1 MiB each way before and after", seconds(took))])
}

/// Whether the end in front of the NAT sees the other one at one of these ports.
fn is_public(pair: &Pair, behind: Site, ports: &RangeInclusive<u16>) -> Result<bool> {
    let remote = match behind {
        Site::A => pair.swan.established(CONNECTION)?.remote,
        Site::B => pair.peer()?["ike"]["sas"][0]["remote"].as_str().context("no path")?.parse()?,
    };
    Ok(remote.ip() == PUBLIC && ports.contains(&remote.port()) && pair.swan.child(CONNECTION, CHILD)?.in_udp)
}

/// Where Adit sends packets of the tunnel.
fn path_in_use(pair: &Pair) -> Result<std::net::SocketAddr> {
    let peer = pair.peer()?;
    let paths = peer["paths"].as_array().context("no paths")?;
    let used = paths.iter().find(|path| path["in_use"] == true).context("no path in use")?;
    Ok(used["remote"].as_str().context("no remote end")?.parse()?)
}

/// Both ends behind it, with and without MOBIKE. strongSwan's own ESP does not follow Adit's, so that only Adit's DPD tells it.
pub fn section() -> Section {
    let mut cases = Vec::new();
    let ways = [(Site::A, "Adit", Sign::Dpd), (Site::B, "strongSwan", Sign::Dpd), (Site::B, "strongSwan", Sign::Traffic)];
    for release in Release::ALL {
        for (behind, who, sign) in ways {
            for mobike in [true, false] {
                let name = if release == Swan5 { "strongSwan 5.9" } else { "strongSwan 6" };
                let labels = [name, who, if mobike { "with" } else { "without" }, if sign == Sign::Dpd { "DPD" } else { "ESP" }];
                cases.push(Case::new(labels, move || port_changes(release, behind, mobike, sign)));
            }
        }
    }
    Section {
        title: "A NAT that forgets".to_owned(),
        about:
            "The end behind the NAT begins. Then the NAT loses its table and maps to other ports, and what is told in the fourth \
            column comes first from behind it (DPD every 2 s)."
                .to_owned(),
        columns: vec!["peer", "behind the NAT", "MOBIKE", "sign"],
        seen: vec!["seen"],
        at_once: 1,
        cases,
    }
}

#[test]
fn a_nat_that_forgets_is_followed_by_both_ends() -> Result<()> {
    port_changes(Swan5, Site::A, true, Sign::Dpd)?;
    port_changes(Swan5, Site::B, true, Sign::Traffic).map(drop)
}
