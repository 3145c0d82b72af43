//! The traffic class: what a sender asks for is seen by the underlay, and what a queue of the underlay says reaches the receiver.

use std::net::IpAddr;

use adit_bench::lab::traffic::transfer;
use adit_bench::lab::{Gateway, Lab, LabOptions, WAN};
use adit_bench::netns::Netns;
use adit_proto::stats::{Count, Drop};
use anyhow::{Context, Result, ensure};

use crate::edit;

/// Counts what comes to a gateway: outer packets by the class that they have, echo requests inside by their ECN.
fn watch(gateway: &Netns) -> Result<()> {
    gateway.run("nft add table netdev outer")?;
    gateway.run("nft add table inet inner")?;
    gateway.run(&format!("nft add chain netdev outer in {{ type filter hook ingress device {WAN} priority 0 ; }}"))?;
    gateway.run("nft add chain inet inner in { type filter hook input priority 0 ; }")?;
    for (name, of) in [("ef", "dscp 46"), ("ect0", "ecn ect0"), ("cs1", "dscp 8")] {
        gateway.run(&format!("nft add counter netdev outer {name}"))?;
        gateway.run(&format!("nft add rule netdev outer in udp dport 4500 ip {of} counter name {name}"))?;
    }
    gateway.run("nft add counter inet inner ce")?;
    gateway.run("nft add rule inet inner in icmp type echo-request ip ecn ce counter name ce").map(drop)
}

fn counted(gateway: &Netns, table: &str, counter: &str) -> Result<u64> {
    let said = gateway.run(&format!("nft list counter {table} {counter}"))?;
    let packets = said.split_whitespace().skip_while(|word| *word != "packets").nth(1);
    packets.context("a count")?.parse().with_context(|| said.clone())
}

/// Sends echo requests of this class, each after the answer to the one before, since two in one train would count as one outside; says how
/// many were answered, however long that takes on a busy machine.
fn ping(from: &Gateway, to: IpAddr, class: &str) -> Result<u64> {
    ping_within(10, from, to, class)
}

fn ping_within(seconds: u8, from: &Gateway, to: IpAddr, class: &str) -> Result<u64> {
    let line = format!("-n -c1 -W{seconds} -Q {class} {to}");
    let mut answered = 0;
    for _ in 0..5 {
        let output = from.netns.command("ping").args(line.split(' ')).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(said.contains("1 packets transmitted"), "{said}");
        answered += u64::from(said.contains(" 1 received"));
    }
    Ok(answered)
}

#[test]
fn the_underlay_sees_the_class_and_its_marks_reach_the_receiver() -> Result<()> {
    for ip_mode in [false, true] {
        let lab = Lab::start(&LabOptions { ip_mode, ..LabOptions::patient() })?;
        let (a, b, target) = (lab.a(), lab.b(), IpAddr::from(lab.b().inner()));
        watch(&b.netns)?;
        ensure!(ping(a, target, "0xb8")? == 5 && ping(a, target, "0x02")? == 5);
        let outer = |name: &str| counted(&b.netns, "netdev outer", name);
        ensure!((outer("ef")?, outer("ect0")?) == (5, 5), "{} EF, {} ECT(0), ip mode {ip_mode}", outer("ef")?, outer("ect0")?);
        ensure!(counted(&b.netns, "inet inner", "ce")? == 0);

        // A queue on the way marks everything.
        b.netns.run("nft insert rule netdev outer in udp dport 4500 ip ecn set ce")?;
        ensure!(ping(a, target, "0x02")? == 5);
        ensure!(counted(&b.netns, "inet inner", "ce")? == 5, "the marks arrive inside, ip mode {ip_mode}");
        ensure!(b.metrics()?.count(Count::CeMarks) == 5);
        ensure!(ping_within(1, a, target, "0x00")? == 0, "who cannot be told by a mark is told by a loss");
        ensure!(b.metrics()?.dropped(Drop::CeNotEct) >= 5);
        b.netns.run("nft flush chain netdev outer in")?;
        ensure!(ping(a, target, "0x00")? == 5);
    }
    Ok(())
}

#[test]
fn tcp_that_speaks_ecn_goes_on_over_a_queue_that_marks() -> Result<()> {
    let lab = Lab::start(&LabOptions::default())?;
    let (a, b) = (lab.a(), lab.b());
    for gateway in [a, b] {
        gateway.netns.run("sysctl -qw net.ipv4.tcp_ecn=1")?;
    }
    b.netns.run("nft add table netdev outer")?;
    b.netns.run(&format!("nft add chain netdev outer in {{ type filter hook ingress device {WAN} priority 0 ; }}"))?;
    b.netns.run("nft add rule netdev outer in udp dport 4500 ip ecn ect0 numgen inc mod 50 == 0 ip ecn set ce")?;
    transfer(&a.netns, &b.netns, b.inner().into(), 64 << 20)?.verify(64 << 20)?;
    let metrics = b.metrics()?;
    ensure!(metrics.count(Count::CeMarks) > 0, "no mark was taken over");
    ensure!(metrics.dropped(Drop::CeNotEct) == 0, "packets without ECN were not marked");
    let said = b.netns.run("nstat -az IpExtInCEPkts")?;
    ensure!(said.lines().any(|line| line.starts_with("IpExtInCEPkts") && !line.contains(" 0 ")), "{said}");
    Ok(())
}

#[test]
fn the_outer_dscp_is_what_the_configuration_says() -> Result<()> {
    let mut lab = Lab::prepare(&LabOptions::patient())?;
    edit(lab.a(), "mode: ", "dscp: cs1\nmode: ")?;
    for gateway in &mut lab.gateways {
        gateway.start_control()?;
    }
    lab.wait_until_up()?;
    watch(&lab.b().netns)?;
    ensure!(ping(lab.a(), lab.b().inner().into(), "0xb8")? == 5);
    let outer = |name: &str| counted(&lab.b().netns, "netdev outer", name);
    ensure!(outer("cs1")? >= 5 && outer("ef")? == 0, "{} CS1, {} EF", outer("cs1")?, outer("ef")?);
    Ok(())
}
