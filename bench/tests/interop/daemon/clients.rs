//! Two strongSwans behind one NAT at a gateway with two addresses: told apart though they come from one address, whatever their source
//! ports are, answered from the address that they asked, and found again when one has lost everything.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use adit_bench::lab::interop::Release::{Swan5, Swan6};
use adit_bench::lab::interop::config::{Child, Config};
use adit_bench::lab::interop::nat::{NatClients, PUBLIC};
use adit_bench::lab::interop::sites::{CHILD, CONNECTION, Proof, Site, pair};
use adit_bench::lab::interop::{Release, StrongSwan};
use adit_bench::lab::{binary, wait_until};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::SOON;
use super::adit::{Adit, Place};

/// What their peers are called at the gateway, and where their networks are.
const CLIENTS: [(&str, Release, u8); 2] = [("b", Swan5, 2), ("c", Swan6, 3)];
const IKE: &str = "role: responder, dpd_s: 2";

/// What a client is told; with `any_port` it sends from ports that the kernel chooses.
fn reported(client: usize, gateway: Ipv4Addr, any_port: bool) -> Result<Config> {
    let (name, _, number) = CLIENTS[client];
    let mut config = pair(Proof::Psk)?.1;
    let connection = &mut config.connections[0];
    connection.local.id = format!("{name}.example");
    (connection.local_address, connection.remote_address) = (None, Some(gateway.into()));
    connection.children = vec![Child::new(CHILD).between(&format!("10.{number}.0.0/24"), &Site::A.network())];
    if any_port {
        config.daemon.extra = ["port = 0", "port_nat_t = 0"].map(str::to_owned).into();
    }
    Ok(config)
}

/// Dropped in this order.
struct Lab {
    swans: Vec<StrongSwan>,
    adit: Adit,
    sites: NatClients,
}

impl Lab {
    /// The second client sends from ports of the kernel's choice.
    fn start() -> Result<Lab> {
        let sites = NatClients::new()?;
        let mut adit = Adit::prepare(&pair(Proof::Psk)?.0, &Place::anywhere(), IKE)?;
        let second = format!(
            "  - name: c\n    selectors: [{{ local: {}, remote: 10.3.0.0/24 }}]\n    ike: {{ id: c.example, psk_file: b.psk, {IKE} }}\n",
            Site::A.network()
        );
        adit.change("runtime_dir:", &(second + "runtime_dir:"))?;
        adit.start(&sites.gateway)?;
        let mut swans = Vec::new();
        for (client, (_, release, _)) in CLIENTS.into_iter().enumerate() {
            let swan = StrongSwan::start(&sites.clients[client], release, &reported(client, Site::A.outer(), client == 1)?)?;
            swans.push(swan);
        }
        Ok(Lab { swans, adit, sites })
    }

    /// Connects a client, and waits until packets go both ways.
    fn connect(&self, client: usize) -> Result<()> {
        self.swans[client].initiate(CONNECTION, CHILD).with_context(|| self.said())?;
        self.reaches(client)
    }

    fn reaches(&self, client: usize) -> Result<()> {
        let (there, here) = (format!("10.{}.0.1", CLIENTS[client].2), Site::A.inner().to_string());
        let (gateway, client) = (&self.sites.gateway, &self.sites.clients[client]);
        wait_until("packets go both ways", SOON, || {
            let pings = [(gateway, &here, &there), (client, &there, &here)];
            Ok(pings.iter().all(|(netns, from, to)| netns.run(&format!("ping -n -c1 -W1 -I {from} {to}")).is_ok()))
        })
        .with_context(|| self.said())
    }

    /// For how long its first pings are not answered.
    fn unanswered(&self, client: usize) -> Result<Duration> {
        let there = format!("10.{}.0.1", CLIENTS[client].2);
        let said = self.sites.clients[client].run(&format!("ping -n -i 0.01 -c 120 -W 1 -I {there} {}", Site::A.inner()))?;
        let first = said.split("icmp_seq=").nth(1).and_then(|rest| rest.split(' ').next()).context("no answer at all")?;
        Ok(Duration::from_millis(10) * (first.parse::<u32>()? - 1))
    }

    /// The only IKE SA of a client, as the gateway sees it.
    fn sa(&self, client: usize) -> Result<Value> {
        let line = format!("{} status --json -c {}", binary("adit")?.display(), self.adit.config.display());
        let mut found = Vec::new();
        wait_until("it has one IKE SA", SOON, || {
            let status: Value = serde_json::from_str(&self.sites.gateway.run(&line)?)?;
            let mut peers = status["peers"].as_array().into_iter().flatten();
            let peer = peers.find(|peer| peer["name"] == CLIENTS[client].0).context("no such peer")?;
            found = peer["ike"]["sas"].as_array().cloned().unwrap_or_default();
            Ok(found.len() == 1)
        })
        .with_context(|| self.said())?;
        Ok(found.remove(0))
    }

    fn said(&self) -> String {
        let log = std::fs::read_to_string(&self.adit.log).unwrap_or_default();
        format!("Adit: {log}\n{}", self.swans.iter().map(StrongSwan::log).collect::<Vec<_>>().join("\n"))
    }
}

#[test]
fn two_clients_behind_one_nat_are_told_apart_and_found_again() -> Result<()> {
    let mut lab = Lab::start()?;
    for client in [0, 1] {
        lab.connect(client)?;
    }
    lab.reaches(0)?;
    let remotes = [lab.sa(0)?["remote"].clone(), lab.sa(1)?["remote"].clone()];
    let of_nat = |remote: &Value| remote.as_str().is_some_and(|remote| remote.starts_with(&format!("{PUBLIC}:")));
    ensure!(remotes.iter().all(of_nat) && remotes[0] != remotes[1], "{remotes:?}");

    // One goes to the other address of the gateway: the NAT lets nothing in that comes from the first one.
    lab.swans[1].terminate(CONNECTION)?;
    lab.swans[1].reload(&reported(1, NatClients::SECOND, true)?)?;
    lab.connect(1)?;
    ensure!(lab.sa(1)?["local"] == format!("{}:4500", NatClients::SECOND).as_str(), "{}", lab.said());
    ensure!(lab.swans[1].established(CONNECTION)?.remote.ip() == IpAddr::from(NatClients::SECOND), "{}", lab.said());

    // The other one loses all that it knew, and comes back from elsewhere, again and again.
    let mut unanswered = Vec::new();
    for place in [77, 78, 79] {
        let before = lab.sa(0)?;
        lab.swans[0].kill()?;
        NatClients::place(&lab.sites.clients[0], place)?;
        lab.swans[0].start_again()?;
        lab.swans[0].initiate(CONNECTION, CHILD).with_context(|| lab.said())?;
        unanswered.push(lab.unanswered(0)?);
        let after = lab.sa(0)?;
        ensure!(before["initiator_spi"] != after["initiator_spi"] && before["remote"] != after["remote"], "{before} {after}");
    }
    // Its first packet shows that it has the new keys. Were that noticed when packets are counted next, most would wait longer.
    unanswered.sort();
    ensure!(unanswered[1] <= Duration::from_millis(50), "unanswered for {unanswered:?}; {}", lab.said());
    lab.reaches(1)
}
