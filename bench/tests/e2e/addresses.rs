//! A gateway whose address changes while it is connected (MOBIKE, RFC 4555): its peer learns of it, and the tunnel goes on under the
//! same IKE SA.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use adit_bench::lab::capture::Capture;
use adit_bench::lab::tshark::Analysis;
use adit_bench::lab::{Gateway, Lab, LabOptions, SOON, WAN, wait_until};
use adit_bench::netns::Veth;
use adit_bench::rtt::Prober;
use anyhow::{Context, Result, ensure};

use crate::ike_tunnel::{ike, options, spis};
use crate::paths::path_in_use;
use crate::{echoes, edit, reaches};

/// A link that no tunnel has a part in.
const LAN: &str = "lan0";
/// UPDATE_SA_ADDRESSES.
const UPDATE: &str = "isakmp.notify.msgtype == 16400";
/// What an outage may last, on a machine that does other things as well.
const OUTAGE_MAX: Duration = Duration::from_secs(10);

/// Two gateways that send from whatever address they have; the first one connects. Without dead peer detection, which would show a
/// change as well.
fn prepared(more: &str) -> Result<Lab> {
    let roles = ["initiator", "responder"].map(|role| format!("role: {role}, dpd_s: 0{more}"));
    let lab = Lab::prepare(&options(&[&roles[0], &roles[1]]))?;
    for gateway in &lab.gateways {
        edit(gateway, &format!("listen: \"192.0.2.{}:4500\"", gateway.number), "listen: 0.0.0.0:4500")?;
    }
    let keys = lab.dir().join("keys");
    edit(lab.a(), "peers:\n", &format!("ike: {{ key_log_dir: {} }}\npeers:\n", keys.display()))?;
    Ok(lab)
}

/// They are connected.
fn lab(more: &str) -> Result<Lab> {
    let mut lab = prepared(more)?;
    for gateway in &mut lab.gateways {
        gateway.start_control()?;
    }
    lab.wait_until_up()?;
    Ok(lab)
}

/// Takes an address of the outer link away and gives another one.
fn readdress(gateway: &Gateway, old: &str, new: &str) -> Result<()> {
    gateway.netns.run(&format!("ip address del {old}/24 dev {WAN}"))?;
    gateway.netns.address(WAN, &format!("{new}/24"))
}

/// Where a gateway has its peer, and itself.
fn path(gateway: &Gateway) -> Result<[String; 2]> {
    let ike = ike(gateway)?;
    let sa = ike["sas"].get(0).with_context(|| format!("{} has no IKE SA: {ike:#}\n{}", gateway.name, gateway.log()))?;
    Ok(["local", "remote"].map(|end| sa[end].as_str().unwrap_or_default().to_owned()))
}

#[test]
fn a_gateway_with_another_address_keeps_its_ike_sa_and_tells_its_peer() -> Result<()> {
    let lab = lab("")?;
    let before = [spis(lab.a())?.0, spis(lab.b())?.0];
    ensure!(ike(lab.a())?["sas"][0]["mobike"] == true, "{:#}", ike(lab.a())?);
    let mut capture = Capture::open(&lab.b().netns, WAN)?;
    let prober = lab.a().netns.enter(|| Prober::start(lab.b().inner().into(), Duration::from_millis(10)))?;
    let mut old = "192.0.2.1";
    for new in ["192.0.2.33", "192.0.2.34"] {
        readdress(lab.a(), old, new)?;
        let (began, answered) = (Instant::now(), prober.so_far().1);
        wait_until("pings are answered again", SOON, || Ok(prober.so_far().1 > answered + 20)).with_context(|| lab.logs())?;
        ensure!(began.elapsed() < OUTAGE_MAX + Duration::from_secs(2), "back after {:?}", began.elapsed());
        let expected = [format!("{new}:4500"), "192.0.2.2:4500".to_owned()];
        wait_until("both know the way", SOON, || {
            let [there, here] = path(lab.b())?;
            Ok(path(lab.a())? == expected && [here, there] == expected)
        })
        .with_context(|| lab.logs())?;
        old = new;
    }
    let probes = prober.stop(Duration::from_secs(2))?;
    ensure!(probes.longest_outage < OUTAGE_MAX, "{:?} without an answer\n{}", probes.longest_outage, lab.logs());
    ensure!([spis(lab.a())?.0, spis(lab.b())?.0] == before, "another IKE SA\n{}", lab.logs());
    ensure!(lab.a().metrics()?.sum("adit_ike_handshakes_total", &[]) == Some(1.0), "a new handshake");
    // It was said in so many words, from the new addresses.
    let analysis = Analysis::new(&capture.drain()?, &lab.dir().join("keys"))?;
    let updates = analysis.values(UPDATE, "ip.src")?;
    let said = |from: &str| updates.iter().any(|source| source.as_str() == from);
    ensure!(said("192.0.2.33") && said("192.0.2.34"), "UPDATE_SA_ADDRESSES from {updates:?}\n{}", lab.logs());
    lab.a().wait_for_log("begins at another address of ours now", SOON).map(drop)
}

#[test]
fn a_responder_that_gets_another_address_is_followed() -> Result<()> {
    let lab = lab("")?;
    let before = [spis(lab.a())?.0, spis(lab.b())?.0];
    readdress(lab.b(), "192.0.2.2", "192.0.2.44")?;
    wait_until("both know the way", SOON, || {
        Ok(path(lab.a())? == ["192.0.2.1:4500", "192.0.2.44:4500"] && path(lab.b())? == ["192.0.2.44:4500", "192.0.2.1:4500"])
    })
    .with_context(|| lab.logs())?;
    wait_until("packets pass", SOON, || Ok(reaches(&lab.a().netns, lab.b().inner()).is_ok())).with_context(|| lab.logs())?;
    ensure!([spis(lab.a())?.0, spis(lab.b())?.0] == before, "another IKE SA\n{}", lab.logs());
    Ok(())
}

#[test]
fn without_mobike_dead_peer_detection_shows_the_new_address() -> Result<()> {
    let lab = lab(", mobike: false")?;
    let before = [spis(lab.a())?.0, spis(lab.b())?.0];
    ensure!(ike(lab.a())?["sas"][0]["mobike"] == false, "{:#}", ike(lab.a())?);
    readdress(lab.a(), "192.0.2.1", "192.0.2.33")?;
    wait_until("the peer knows the way", SOON, || Ok(path(lab.b())?[1] == "192.0.2.33:4500")).with_context(|| lab.logs())?;
    wait_until("packets pass", SOON, || Ok(reaches(&lab.b().netns, lab.a().inner()).is_ok())).with_context(|| lab.logs())?;
    ensure!([spis(lab.a())?.0, spis(lab.b())?.0] == before, "another IKE SA\n{}", lab.logs());
    Ok(())
}

/// Who comes home has the network of a selector on a link. An address of it is one as any other, in the selector as it is.
#[test]
fn a_gateway_may_move_into_the_network_behind_its_peer() -> Result<()> {
    let roles = ["role: responder, dpd_s: 0", "role: initiator, dpd_s: 0"];
    let mut lab = Lab::prepare(&LabOptions { ip_mode: true, ..options(&roles) })?;
    for gateway in &lab.gateways {
        edit(gateway, &format!("listen: \"192.0.2.{}:4500\"", gateway.number), "listen: 0.0.0.0:4500")?;
    }
    // What is behind the first gateway is on a link, and nothing bridges that to the tunnel.
    edit(lab.a(), ", 10.78.1.1/24", "")?;
    let _lan = Veth::between(&lab.a().netns, LAN, &lab.b().netns, LAN, 1500)?;
    lab.a().netns.address(LAN, "10.78.1.1/24")?;
    for gateway in &mut lab.gateways {
        gateway.start_control()?;
    }
    lab.wait_until_up()?;
    let before = [spis(lab.a())?.0, spis(lab.b())?.0];
    let there = &lab.b().netns;
    there.address(LAN, "10.78.1.9/32")?;
    there.run(&format!("ip route add 192.0.2.1/32 dev {LAN} src 10.78.1.9"))?;
    there.run(&format!("ip address del 192.0.2.2/24 dev {WAN}"))?;
    let ends = ["192.0.2.1:4500", "10.78.1.9:4500"];
    for (gateway, [own, other]) in [(lab.a(), ends), (lab.b(), [ends[1], ends[0]])] {
        wait_until("IKE and packets go there, and that is proven", SOON, || {
            let used = path_in_use(gateway)?;
            Ok(path(gateway)? == [own, other] && used["remote"] == other && used["ike"] == true && used["proven"] == true)
        })
        .with_context(|| format!("{:#}\n{}", path_in_use(gateway).unwrap_or_default(), lab.logs()))?;
    }
    reaches(there, lab.a().inner()).with_context(|| lab.logs())?;
    // What was behind the tunnel is there still, though it is nearer now.
    echoes(there, 3, 100, "-I 10.78.2.1", IpAddr::from([10, 78, 1, 1])).with_context(|| lab.logs())?;
    ensure!([spis(lab.a())?.0, spis(lab.b())?.0] == before, "another IKE SA\n{}", lab.logs());
    Ok(())
}

#[test]
fn answers_stay_at_the_address_that_was_hit() -> Result<()> {
    let mut lab = prepared("")?;
    // The kernel of the second gateway prefers its first address; its peer knows the second one alone.
    lab.b().netns.address(WAN, "192.0.2.22/24")?;
    edit(lab.a(), "\"192.0.2.2:4500\"", "\"192.0.2.22:4500\"")?;
    for gateway in &mut lab.gateways {
        gateway.start_control()?;
    }
    lab.wait_until_up()?;
    let prober = lab.a().netns.enter(|| Prober::start(lab.b().inner().into(), Duration::from_millis(10)))?;
    for number in 1..=3 {
        // News of addresses makes a gateway look at its paths again.
        lab.b().netns.run(&format!("ip address add 198.18.0.{number}/32 dev lo"))?;
        let answered = prober.so_far().1;
        wait_until("a second of pings", SOON, || Ok(prober.so_far().1 > answered + 100)).with_context(|| lab.logs())?;
        ensure!(path(lab.a())? == ["192.0.2.1:4500", "192.0.2.22:4500"], "{:?}\n{}", path(lab.a())?, lab.logs());
        ensure!(path(lab.b())? == ["192.0.2.22:4500", "192.0.2.1:4500"], "{:?}\n{}", path(lab.b())?, lab.logs());
    }
    ensure!(prober.stop(Duration::from_secs(2))?.longest_outage < Duration::from_secs(1), "{}", lab.logs());
    // Once it is gone the other one is used.
    lab.b().netns.run(&format!("ip address del 192.0.2.22/24 dev {WAN}"))?;
    wait_until("both know the way", SOON, || {
        Ok(path(lab.a())? == ["192.0.2.1:4500", "192.0.2.2:4500"] && path(lab.b())? == ["192.0.2.2:4500", "192.0.2.1:4500"])
    })
    .with_context(|| lab.logs())
}
