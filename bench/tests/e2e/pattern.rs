//! Clients of one pattern of identities whose networks overlap: an address is that of the client whose Child SA for it was there first, the
//! other one keeps what is its own, and gets it when the first one ends.

use std::fs;

use adit_bench::lab::{Gateway, Lab, LabOptions, SOON, wait_until};
use adit_proto::stats::Drop;
use anyhow::{Context, Result, ensure};

use crate::edit;
use crate::ike_tunnel::patient;

/// An address that both clients have.
const DISPUTED: &str = "10.79.0.1";

fn usual(number: u8, peer: u8) -> String {
    format!(
        "selectors: [{{ local: 10.77.0.{number}, remote: 10.77.0.{peer} }}, {{ local: 10.78.{number}.0/24, remote: 10.78.{peer}.0/24 }}, \
         {{ local: \"fd77::{number}/128\", remote: \"fd77::{peer}/128\" }}]"
    )
}

/// A gateway for anybody with its key, and two clients, each with an address of its own and a network that the other one has, too.
fn prepared() -> Result<Lab> {
    let ike = ["role: responder, dpd_s: 2, id: \"*\"", "role: initiator, dpd_s: 2"];
    let lab = Lab::prepare(&LabOptions { gateways: 3, star: true, ip_mode: true, ..patient(&ike) })?;
    let [hub, clients @ ..] = &lab.gateways[..] else { anyhow::bail!("no gateways") };
    edit(hub, "forwarding: { forward: true }\n", "")?;
    for client in clients {
        let number = client.number;
        edit(hub, &format!("endpoint: \"192.0.2.{number}:4500\", "), "")?;
        let all = "selectors: [{ local: 10.77.0.1, remote: 10.77.0.0/28 }, { local: 10.77.0.1, remote: 10.79.0.0/24 }]";
        edit(hub, &usual(1, number), all)?;
        let own = format!(
            "selectors: [{{ local: 10.77.0.{number}, remote: 10.77.0.1 }}, {{ local: 10.79.0.0/24, remote: 10.77.0.1 }}]"
        );
        edit(client, &usual(number, 1), &own)?;
        client.netns.address("lo", &format!("{DISPUTED}/32"))?;
    }
    fs::copy(lab.dir().join("site-a-site-b.psk"), lab.dir().join("site-a-site-c.psk"))?;
    Ok(lab)
}

fn answers(from: &Gateway, source: &str) -> bool {
    from.netns.run(&format!("ping -n -c1 -W1 -I {source} 10.77.0.1")).is_ok()
}

fn gets_through(lab: &Lab, from: usize, source: &str) -> Result<()> {
    let what = format!("what {} sends from {source} is answered", lab.gateways[from].name);
    wait_until(&what, SOON, || Ok(answers(&lab.gateways[from], source))).with_context(|| lab.logs())
}

/// One has the disputed address, the other one only its own, and the gateway says why.
fn owned_by(lab: &Lab, owner: usize, other: usize) -> Result<()> {
    let own = |client: usize| format!("10.77.0.{}", lab.gateways[client].number);
    gets_through(lab, other, &own(other))?;
    gets_through(lab, owner, &own(owner))?;
    gets_through(lab, owner, DISPUTED)?;
    let dropped = || Ok::<u64, anyhow::Error>(lab.a().metrics()?.dropped(Drop::PolicyMismatch));
    let before = dropped()?;
    for _ in 0..4 {
        ensure!(!answers(&lab.gateways[other], DISPUTED), "{} has it, too: {}", lab.gateways[other].name, lab.logs());
    }
    wait_until("they are counted", SOON, || Ok(dropped()? >= before + 4)).with_context(|| lab.logs())?;
    wait_until("it is said", SOON, || {
        let explained = [lab.a().adit("explain site-b")?, lab.a().adit("explain site-c")?];
        Ok(explained.iter().any(|text| text.contains("policy_mismatch")))
    })
    .with_context(|| format!("{:?}\n{:?}", lab.a().adit("explain site-b"), lab.a().adit("explain site-c")))?;
    gets_through(lab, owner, DISPUTED)
}

#[test]
fn of_two_clients_with_one_network_the_first_has_it_until_it_ends() -> Result<()> {
    let mut lab = prepared()?;
    lab.gateways[0].start_control()?;
    lab.gateways[1].start_control()?;
    gets_through(&lab, 1, DISPUTED)?;
    lab.gateways[2].start_control()?;
    owned_by(&lab, 1, 2)?;
    lab.gateways[1].stop()?;
    gets_through(&lab, 2, DISPUTED)?;
    lab.gateways[1].start_control()?;
    owned_by(&lab, 2, 1)
}
