//! A peer with good credentials that takes all that it can get, beside an honest one: that one keeps its packets and its rekeys.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use adit_bench::lab::insider::{Insider, child};
use adit_bench::lab::interop::pki::{Authority, KeyKind, Subject};
use adit_bench::lab::{Gateway, Lab, LabOptions, SOON, wait_until};
use adit_engine::ike::{ChildConfig, Mode};
use adit_proto::ike::{AddressRange, IpSelector};
use adit_proto::stats::Gauge;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::ike_tunnel::spis;
use crate::{Pings, edit, reaches};

/// How long the insider goes on.
const LONG: Duration = Duration::from_secs(4);
/// More than it may have at one time.
const ENOUGH: usize = 10;

/// Begins one IKE SA after the other, of which none knows of those before, until at least so many came about: how many did.
fn connect_again_and_again(insider: &Insider, least: usize) -> Result<usize> {
    let (mut up, began) = (0, Instant::now());
    // A machine that is busy lets it in less often.
    while began.elapsed() < LONG || (up < least && began.elapsed() < SOON) {
        up += usize::from(insider.connect()?.is_some());
    }
    Ok(up)
}

/// What the first gateway says of the third one.
fn insider(gateway: &Gateway) -> Result<Value> {
    let status = gateway.status()?;
    let peers = status["peers"].as_array().context("no peers")?;
    peers.iter().find(|peer| peer["name"] == "site-c").cloned().context("no third peer")
}

/// The first gateway waits, the others connect; the third does not run, and `change` is made before the first one starts.
fn prepared(options: &LabOptions, change: impl FnOnce(&Lab) -> Result<()>) -> Result<Lab> {
    let ike = ["role: responder", "role: initiator"].map(str::to_owned).to_vec();
    let mut lab = Lab::prepare(&LabOptions { gateways: 3, ike, ..options.clone() })?;
    change(&lab)?;
    for gateway in &mut lab.gateways[..2] {
        gateway.start_control()?;
    }
    wait_until("the honest peer is there", SOON, || Ok(reaches(&lab.b().netns, lab.a().inner()).is_ok()))
        .with_context(|| lab.logs())?;
    Ok(lab)
}

/// The third gateway's part, towards the first one.
fn third(lab: &Lab, children: Vec<ChildConfig>) -> Result<Insider> {
    Insider::new(&lab.gateways[2], (&lab.a().name, lab.a().outer()), lab.dir(), children)
}

/// While an insider connects again and again, at least so often, the honest peer loses no packet and gets new keys. How often the insider
/// was connected.
fn beside_an_honest_peer(lab: &Lab, insider: &Insider, least: usize) -> Result<usize> {
    beside(lab, least, || connect_again_and_again(insider, least))
}

/// The same while somebody does what `takes` does, which says how often it was connected.
fn beside(lab: &Lab, least: usize, takes: impl FnOnce() -> Result<usize> + Send) -> Result<usize> {
    let pings = Pings::start(lab, lab.b(), lab.a().inner(), Duration::from_millis(1))?;
    let up = std::thread::scope(|scope| {
        let takes = scope.spawn(takes);
        while !takes.is_finished() {
            for command in ["rekey site-a", "rekey --ike site-a"] {
                let before = spis(lab.b())?;
                lab.b().adit(command)?;
                wait_until("the keys are others", SOON, || Ok(spis(lab.b())? != before)).with_context(|| lab.logs())?;
            }
        }
        takes.join().expect("the insider")
    })?;
    pings.none_lost(lab, 1000)?;
    reaches(&lab.a().netns, lab.b().inner())?;
    ensure!(up >= least, "the insider was let in {up} times\n{}", lab.logs());
    Ok(up)
}

/// No record that the data plane would not take.
fn none_refused(lab: &Lab) -> Result<()> {
    let refused = lab.a().log().lines().filter(|line| line.contains("the data plane refused")).count();
    ensure!(refused == 0, "{}", lab.logs());
    Ok(())
}

#[test]
fn ike_sas_without_end_cost_an_honest_peer_nothing() -> Result<()> {
    let lab = prepared(&LabOptions::default(), |_| Ok(()))?;
    beside_an_honest_peer(&lab, &third(&lab, vec![child("ethernet", None)])?, ENOUGH)?;
    let sas = insider(lab.a())?["ike"]["sas"].as_array().map_or(0, Vec::len);
    ensure!(sas <= 8, "it has {sas} IKE SAs");
    none_refused(&lab)
}

/// 64 ranges of addresses in a network.
fn ranges(network: [u8; 3], of: impl Fn(u8) -> (u8, u8)) -> Vec<IpSelector> {
    let [a, b, c] = network;
    let range = |(first, last): (u8, u8)| AddressRange::V4 { first: [a, b, c, first].into(), last: [a, b, c, last].into() };
    (0..64).map(|n| IpSelector::any_of(range(of(n)))).collect()
}

/// How many Child SAs of the third gateway failed for their selectors.
fn refusals(lab: &Lab) -> Result<f64> {
    let labels = [("peer", "site-c"), ("cause", "selectors")];
    Ok(lab.a().metrics()?.sum("adit_ike_failures_total", &labels).unwrap_or(0.0))
}

#[test]
fn a_policy_table_that_one_fills_or_knots_costs_an_honest_peer_nothing() -> Result<()> {
    let lab = prepared(&LabOptions { ip_mode: true, ..LabOptions::default() }, |_| Ok(()))?;
    let configured = lab.a().metrics()?.gauge(0, Gauge::Selectors);
    // 64 ranges here and 64 there make 4096 pairs; 64 that lie in one another all have an address in common.
    let apart = |n: u8| (4 * n, 4 * n + 1);
    let nested = |n: u8| (n, 255 - n);
    for (local, remote) in [
        (ranges([10, 78, 3], apart), ranges([10, 78, 1], apart)),
        (ranges([10, 78, 3], nested), vec![IpSelector::any_of(AddressRange::ANY_V4)]),
    ] {
        let fills = remote.len() > 1;
        let insider = third(&lab, vec![ChildConfig { mode: Mode::Tunnel, local, remote, ..child("ip", None) }])?;
        let before = refusals(&lab)?;
        beside_an_honest_peer(&lab, &insider, 1)?;
        ensure!((refusals(&lab)? > before) == fills, "what makes too many pairs is refused: {}", lab.a().adit("explain site-c")?);
        let honest = lab.a().adit("explain site-b")?;
        ensure!(honest.contains("nothing is wrong"), "{honest}");
    }
    ensure!(lab.a().metrics()?.gauge(0, Gauge::Selectors) == configured, "whose an address is says the configuration alone");
    none_refused(&lab)
}

/// The third gateway may have everything that nobody else has. It asks for the very address of the second one, which is in that,
/// and is given it; and what goes there goes to whom the configuration names for it, whoever began and whose SA is newer.
#[test]
fn who_is_given_an_address_of_another_gets_none_of_its_packets() -> Result<()> {
    for answers in [false, true] {
        let lab = prepared(&LabOptions { ip_mode: true, ..LabOptions::default() }, |lab| {
            let rest = "{ local: 10.77.0.1, remote: 10.77.0.3 }";
            edit(lab.a(), rest, "{ local: 10.77.0.1, remote: 0.0.0.0/0 }")?;
            let role = if answers { "initiator" } else { "responder" };
            edit(lab.a(), "site-a-site-c.psk, role: responder", &format!("site-a-site-c.psk, role: {role}"))
        })?;
        let [theirs, ours] = [lab.b(), lab.a()].map(|gateway| {
            let address = gateway.inner();
            IpSelector::any_of(AddressRange::V4 { first: address, last: address })
        });
        let insider = third(&lab, vec![child("ip", Some((theirs, ours)))])?;
        let insider = if answers { insider.answering() } else { insider };
        let up = beside(&lab, 1, || {
            let mut up = if answers { insider.meet()? } else { insider.connect()? };
            if let Some(endpoint) = &mut up {
                insider.go_on(endpoint, Duration::from_secs(1))?;
            }
            Ok(up.as_ref().map_or(0, Insider::children))
        })?;
        let claimed = self::insider(lab.a())?;
        ensure!(up == 1 && claimed.to_string().contains(&lab.b().inner().to_string()), "{claimed}\n{}", lab.logs());
        none_refused(&lab)?;
    }
    Ok(())
}

/// As many certificates as a way up may have, each rightly issued by the one before, below a root of the trusted one's name; and
/// the signature of who sends them is right.
#[test]
fn forged_chains_without_end_cost_an_honest_peer_nothing() -> Result<()> {
    let [root, forged] = [(); 2].map(|()| Authority::root("Root", KeyKind::EcdsaP384));
    let (root, mut issuer) = (root?, forged?);
    for number in 0..6 {
        issuer = issuer.intermediate(&format!("CA {number}"), KeyKind::EcdsaP384)?;
    }
    let forged = issuer.issue(&Subject::dns("site-c"), KeyKind::EcdsaP384)?;
    let lab = prepared(&LabOptions::default(), |lab| {
        fs::write(lab.dir().join("ca.crt"), root.certificate().pem())?;
        let own = root.issue(&Subject::dns("site-a"), KeyKind::EcdsaP384)?;
        fs::write(lab.dir().join("own.crt"), own.certificate.pem())?;
        let key = lab.dir().join("own.pem");
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&key)?
            .write_all(own.key.private_pem().as_bytes())?;
        let dir = lab.dir().display();
        let psk = format!("psk_file: {dir}/site-a-site-c.psk");
        edit(
            lab.a(),
            "name: site-a\n",
            &format!("name: site-a\nike: {{ key_file: {dir}/own.pem, certificate_file: {dir}/own.crt }}\n"),
        )?;
        edit(lab.a(), &psk, &format!("ca_file: {dir}/ca.crt"))
    })?;
    let chain: String = [&forged.certificate].into_iter().chain(&forged.chain).map(|one| one.pem()).collect();
    ensure!(forged.chain.len() == 6, "{} certificates", forged.chain.len());
    let insider = third(&lab, vec![child("ethernet", None)])?.with_certificates(&forged.key.private_pem(), &chain)?;
    let failed =
        || Ok::<_, anyhow::Error>(lab.a().metrics()?.sum("adit_ike_failures_total", &[("peer", "site-c")]).unwrap_or(0.0));
    let before = failed()?;
    let up = beside_an_honest_peer(&lab, &insider, 0)?;
    let explained = lab.a().adit("explain site-c")?;
    ensure!(up == 0 && explained.contains("Root"), "{up} times: {explained}\n{}", lab.logs());
    println!("{} chains were looked at", failed()? - before);
    Ok(())
}

#[test]
fn a_second_client_of_a_pattern_ends_no_healthy_session() -> Result<()> {
    // The same client, which then finds that we are not whom it wants; and somebody else under the pattern.
    for (name, count) in [("site-b", "adit_ike_handshakes_total"), ("site-x", "adit_ike_refused_initiators_total")] {
        let lab = prepared(&LabOptions::default(), |lab| {
            edit(lab.a(), "site-a-site-b.psk, role: responder", "site-a-site-b.psk, role: responder, id: \"*\"")
        })?;
        let known = third(&lab, vec![child("ethernet", None)])?.with_the_key_of("site-b", lab.dir())?;
        let insider = if name == "site-b" { known.in_doubt()? } else { known.with_name(name)? };
        let counted = || Ok::<_, anyhow::Error>(lab.a().metrics()?.sum(count, &[]).unwrap_or(0.0));
        let before = counted()?;
        let up = beside_an_honest_peer(&lab, &insider, 0)?;
        ensure!(up == 0, "it believes that it is connected\n{}", lab.logs());
        ensure!(counted()? > before, "it was never heard: {count}\n{}", lab.logs());
    }
    Ok(())
}
