//! The ground under a gateway: its own address outside, which is taken away and given back while it runs, and a machine on which IPv6 is
//! switched off.

use std::time::{Duration, Instant};

use adit_bench::lab::{Gateway, Lab, LabOptions, SOON, WAN, wait_until};
use anyhow::{Context, Result, ensure};

use crate::ike_tunnel::{ROLES, patient, peer};
use crate::{edit, reaches};

/// What is said of an address that is gone, and of one that is back.
const SAID: [&str; 2] = ["has the address 192.0.2.1:4500 (listen) any more", "the address 192.0.2.1:4500 (listen) is back"];

fn said(gateway: &Gateway) -> [usize; 2] {
    SAID.map(|words| gateway.log().matches(words).count())
}

fn passes(lab: &Lab) -> Result<()> {
    wait_until("packets pass", SOON, || Ok(reaches(&lab.a().netns, lab.b().inner()).is_ok())).with_context(|| lab.logs())
}

/// Takes the address of the first gateway away until `until` has come.
fn without_address(lab: &Lab, until: impl FnOnce() -> Result<()>) -> Result<()> {
    let (netns, before) = (&lab.a().netns, said(lab.a()));
    let address = format!("{}/24", lab.a().outer());
    netns.run(&format!("ip address del {address} dev {WAN}"))?;
    wait_until("it is said", SOON, || Ok(said(lab.a())[0] == before[0] + 1)).with_context(|| lab.logs())?;
    until()?;
    netns.address(WAN, &address)?;
    passes(lab)?;
    wait_until("it is said", SOON, || Ok(said(lab.a()) == before.map(|count| count + 1))).with_context(|| lab.logs())
}

#[test]
fn an_address_that_was_taken_away_and_given_back_is_used_again() -> Result<()> {
    for options in [patient(&ROLES), LabOptions::patient()] {
        let mut lab = Lab::start(&options)?;
        let plane = lab.a().data_plane();
        let began = Instant::now();
        without_address(&lab, || {
            // As when a lease is renewed.
            std::thread::sleep(Duration::from_secs(4).saturating_sub(began.elapsed()));
            Ok(())
        })?;
        if !options.ike.is_empty() {
            without_address(&lab, || {
                let given_up = || Ok(peer(lab.a())?["state"] == "reconnecting");
                wait_until("the peer is given up", SOON, given_up).with_context(|| lab.logs())
            })?;
        }
        ensure!(lab.a().data_plane() == plane && lab.gateways[0].control()?.is_running(), "{}", lab.logs());
    }
    Ok(())
}

fn switch_ipv6(gateway: &Gateway, on: bool) -> Result<()> {
    for interfaces in ["all", "default"] {
        gateway.netns.run(&format!("sysctl -qw net.ipv6.conf.{interfaces}.disable_ipv6={}", u8::from(!on)))?;
    }
    Ok(())
}

/// Machines without IPv6, and gateways that have no such address inside.
fn without_ipv6(options: &LabOptions) -> Result<Lab> {
    let lab = Lab::prepare(options)?;
    for gateway in &lab.gateways {
        switch_ipv6(gateway, false)?;
        edit(gateway, &format!(", \"fd77::{}/64\"", gateway.number), "")?;
    }
    Ok(lab)
}

#[test]
fn without_ipv6_a_gateway_is_reached_over_ipv4_wherever_it_listens() -> Result<()> {
    for (listen, options) in
        [("0.0.0.0:4500", patient(&ROLES)), ("[::]:4500", patient(&ROLES)), ("[::]:4500", LabOptions::patient())]
    {
        let mut lab = without_ipv6(&options)?;
        for gateway in &mut lab.gateways {
            edit(gateway, &format!("listen: \"192.0.2.{}:4500\"", gateway.number), &format!("listen: \"{listen}\""))?;
            gateway.start_control()?;
        }
        lab.wait_until_up()?;
        reaches(&lab.a().netns, lab.b().inner())?;
    }
    Ok(())
}

#[test]
fn an_ipv6_address_to_listen_at_is_waited_for_while_ipv6_is_off() -> Result<()> {
    let mut lab = without_ipv6(&LabOptions { outer_ipv6: true, ..LabOptions::patient() })?;
    lab.gateways[0].start_control()?;
    lab.a().wait_for_log("no interface of this machine has the address [2001:db8::1]:4500 (listen): it is waited for", SOON)?;
    for gateway in &lab.gateways {
        switch_ipv6(gateway, true)?;
        gateway.netns.address(WAN, &format!("2001:db8::{}/64", gateway.number))?;
    }
    lab.gateways[1].start_control()?;
    lab.wait_until_up()
}

#[test]
fn an_ipv6_address_inside_is_refused_with_a_remedy_while_ipv6_is_off() -> Result<()> {
    let mut lab = Lab::prepare(&LabOptions::patient())?;
    switch_ipv6(lab.a(), false)?;
    lab.gateways[0].start_control()?;
    let status = lab.gateways[0].control()?.wait(SOON)?;
    let said = lab.a().log();
    ensure!(!status.success() && said.contains("adding the address fd77::1/64"), "{said}");
    ensure!(said.contains("sysctl -w net.ipv6.conf.all.disable_ipv6=0"), "{said}");
    Ok(())
}
