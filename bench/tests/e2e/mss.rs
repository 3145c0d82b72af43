//! IP mode: hosts behind a gateway open TCP with what the path between the gateways takes, though their own link takes more.

use std::net::IpAddr;

use adit_bench::lab::traffic::transfer;
use adit_bench::lab::{Lab, LabOptions};
use adit_bench::netns::{Netns, Veth};
use adit_proto::stats::Count;
use anyhow::{Result, ensure};

use crate::edit;

/// How many SYNs a counter at the other end has seen.
fn syns(netns: &Netns, counter: &str) -> Result<u64> {
    let said = netns.run(&format!("nft list counter inet syns {counter}"))?;
    let packets = said.split_whitespace().skip_while(|word| *word != "packets").nth(1).unwrap_or("0");
    Ok(packets.parse()?)
}

#[test]
fn a_host_with_a_longer_link_opens_tcp_with_what_the_path_takes() -> Result<()> {
    for clamp in ["auto", "off"] {
        let mut lab = Lab::prepare(&LabOptions { ip_mode: true, outer_mtu: 1400, ..LabOptions::patient() })?;
        for gateway in &mut lab.gateways {
            edit(gateway, "mode: ip", &format!("mode: ip\nmss_clamp: {clamp}"))?;
        }
        // The network is on the link to the host.
        edit(lab.a(), ", 10.78.1.1/24", "")?;
        for gateway in &mut lab.gateways {
            gateway.start_control()?;
        }
        lab.wait_until_up()?;
        let (a, b) = (lab.a(), lab.b());
        let host = Netns::new("host")?;
        let _cable = Veth::between(&a.netns, "lan0", &host, "lan0", 1500)?;
        a.netns.address("lan0", "10.78.1.1/24")?;
        a.netns.run("sysctl -qw net.ipv4.ip_forward=1")?;
        host.address("lan0", "10.78.1.2/24")?;
        host.run("ip route add default via 10.78.1.1")?;
        // 1400 bytes, less IP, UDP, ESP and its trailer, less the headers of IP and TCP.
        let fits = 1338 - 40;
        b.netns.run("nft add table inet syns")?;
        b.netns.run("nft add chain inet syns in { type filter hook input priority 0 ; }")?;
        for (counter, which) in [("fit", "<="), ("whole", ">")] {
            b.netns.run(&format!("nft add counter inet syns {counter}"))?;
            b.netns.run(&format!("nft add rule inet syns in tcp option maxseg size {which} {fits} counter name {counter}"))?;
        }
        transfer(&host, &b.netns, IpAddr::from([10, 78, 2, 1]), 8 << 20)?.verify(8 << 20)?;
        let (brought_down, whole) = (syns(&b.netns, "fit")?, syns(&b.netns, "whole")?);
        let counted = a.metrics()?.count(Count::MssClamped);
        match clamp {
            "auto" => ensure!(brought_down > 0 && whole == 0 && counted > 0, "{brought_down} and {whole}, {counted} counted"),
            _ => ensure!(brought_down == 0 && whole > 0 && counted == 0, "{brought_down} and {whole}, {counted} counted"),
        }
    }
    Ok(())
}
