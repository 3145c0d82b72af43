//! Ports and addresses with strongSwan: an endpoint on port 500, as every manual of IPsec says, and answers from the address that was
//! asked, where a gateway has several.

use std::net::IpAddr;

use adit_bench::lab::interop::Release::{self, Swan5};
use adit_bench::lab::interop::pki::KeyKind;
use adit_bench::lab::interop::sites::{CONNECTION, LINK, Proof, Site};
use adit_bench::lab::interop::table::Seen;
use adit_bench::lab::traffic::kernel_counter;
use anyhow::{Result, ensure};

use super::matrix::{in_fragments, role};
use super::{MIB, Pair};

/// Adit with another text in its configuration, started again.
pub fn changed(mut pair: Pair, from: &str, to: &str) -> Result<Pair> {
    pair.adit.stop()?;
    pair.adit.change(from, to)?;
    let Pair { adit, ground, .. } = &mut pair;
    adit.start(ground.here())?;
    Ok(pair)
}

/// IKE begins at port 500, without the marker, and both ends go on at 4500, or at the port that Adit listens on.
fn from_500(release: Release, adit_begins: bool, listen: u16) -> Result<Seen> {
    let more = format!("role: {}", role(adit_begins));
    let pair = Pair::new(release, Proof::Psk, &more, |_| {})?;
    let there = Site::B.outer();
    let pair = changed(pair, &format!("endpoint: {there}:4500"), &format!("endpoint: {there}:500"))?;
    let pair = changed(pair, &format!("listen: {}:4500", Site::A.outer()), &format!("listen: {}:{listen}", Site::A.outer()))?;
    pair.connect(adit_begins)?;
    pair.transfers(MIB)?;
    let sa = pair.peer()?["ike"]["sas"][0].clone();
    let expected = (format!("{}:{listen}", Site::A.outer()), format!("{there}:4500"));
    ensure!((sa["local"] == expected.0.as_str(), sa["remote"] == expected.1.as_str()) == (true, true), "{sa}");
    pair.rekey(4)?;
    Ok(vec!["on to 4500, 4 rekeys, 1 MiB each way".to_owned()])
}

/// IKE begins at port 500 over a line of 1400 bytes, with certificates that fill several datagrams. Only the first exchange goes there,
/// which is short: what is long goes at 4500 and is cut by RFC 7383, and nothing is left for IP to cut.
fn from_500_with_long_messages(adit_begins: bool) -> Result<()> {
    let more = format!("role: {}", role(adit_begins));
    let pair = Pair::new(Swan5, Proof::LongChains(KeyKind::EcdsaP384), &more, |_| {})?;
    for end in [pair.ground.here(), pair.ground.there()?] {
        end.run(&format!("ip link set {LINK} mtu 1400"))?;
    }
    let there = Site::B.outer();
    let pair = changed(pair, &format!("endpoint: {there}:4500"), &format!("endpoint: {there}:500"))?;
    let made = || kernel_counter(pair.ground.here(), "Ip", "FragCreates");
    let before = made()?;
    pair.connect(adit_begins)?;
    in_fragments(&pair, "IKE_AUTH", &["generating", "parsed"])?;
    ensure!(pair.peer()?["ike"]["sas"][0]["remote"] == format!("{there}:4500").as_str(), "{}", pair.said());
    pair.transfers(MIB)?;
    let after = made()?;
    ensure!(after == before, "{} IP fragments were sent\n{}", after - before, pair.said());
    Ok(())
}

/// Adit listens at a port of its own, and strongSwan begins, from its port 4500 or, without the marker, from 500.
fn at_a_remote_port(release: Release) -> Result<Seen> {
    let port = 51820;
    let begin = |own: &str| -> Result<Pair> {
        let lines = [format!("remote_port = {port}"), own.to_owned()];
        let pair = Pair::new(release, Proof::Psk, "role: responder", |swan| swan.connections[0].extra.extend(lines))?;
        changed(pair, &format!("listen: {}:4500", Site::A.outer()), &format!("listen: {}:{port}", Site::A.outer()))
    };
    let pair = begin("local_port = 4500")?;
    pair.connect(false)?;
    pair.transfers(MIB)?;
    let local = format!("{}:{port}", Site::A.outer());
    ensure!(pair.peer()?["ike"]["sas"][0]["local"] == local.as_str(), "{}", pair.said());
    let pair = begin("local_port = 500")?;
    // Nobody answers it; what was sent is counted under a name that says what to do.
    ensure!(pair.swan.initiate(CONNECTION, "net").is_err(), "{}", pair.said());
    ensure!(pair.lost().contains("no_marker"), "{}", pair.lost());
    Ok(vec!["with local_port = 4500".to_owned()])
}

/// Adit has two addresses and receives on any; strongSwan knows the second one, and believes no other.
fn second_address(release: Release) -> Result<Seen> {
    let second: IpAddr = [192, 0, 2, 22].into();
    let pair = Pair::new(release, Proof::Psk, "role: responder", |swan| swan.connections[0].remote_address = Some(second))?;
    pair.ground.here().address(LINK, &format!("{second}/24"))?;
    let pair = changed(pair, &format!("listen: {}:4500", Site::A.outer()), "listen: 0.0.0.0:4500")?;
    pair.connect(false)?;
    pair.transfers(MIB)?;
    ensure!(pair.swan.established(CONNECTION)?.remote.ip() == second, "{}", pair.said());
    ensure!(pair.peer()?["ike"]["sas"][0]["local"] == format!("{second}:4500").as_str(), "{}", pair.said());
    Ok(vec!["answered from there".to_owned()])
}

#[test]
fn an_endpoint_on_port_500_goes_on_at_4500() -> Result<()> {
    from_500(Swan5, true, 4500)?;
    from_500(Swan5, false, 4500)?;
    from_500(Swan5, true, 51820).map(drop)
}

#[test]
fn long_messages_of_who_begins_at_500_are_never_cut_by_ip() -> Result<()> {
    from_500_with_long_messages(true)?;
    from_500_with_long_messages(false)
}

#[test]
fn what_comes_to_the_second_address_is_answered_from_there() -> Result<()> {
    second_address(Swan5).map(drop)
}

#[test]
fn strongswan_with_a_remote_port_begins_at_its_own_port_4500() -> Result<()> {
    at_a_remote_port(Swan5).map(drop)
}
