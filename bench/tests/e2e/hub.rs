//! A star: two spokes that know only the hub reach each other through it, and a loop between them does not melt it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread::sleep;
use std::time::Duration;

use adit_bench::lab::traffic::transfer;
use adit_bench::lab::{Lab, LabOptions, SOON, wait_until};
use adit_bench::netns::{Netns, Veth};
use adit_proto::stats::{Count, Drop};
use anyhow::{Result, ensure};

use crate::{echoes, edit, reaches};

fn star(workers: Vec<u16>) -> LabOptions {
    LabOptions { gateways: 3, star: true, workers, ..LabOptions::patient() }
}

#[test]
fn spokes_reach_each_other_through_the_hub() -> Result<()> {
    for workers in [vec![1], vec![2, 1]] {
        // It starts once all have reached each other, the spokes by ARP and ping through the hub.
        let lab = Lab::start(&star(workers))?;
        let [hub, b, c] = &lab.gateways[..] else { unreachable!("a star of three") };
        for target in [IpAddr::from(c.inner()), c.inner6().into(), hub.inner().into()] {
            reaches(&b.netns, target)?;
        }
        echoes(&c.netns, 5, 1350, "-M do", b.inner())?;
        let before = hub.metrics()?.count(Count::Relayed);
        for (from, to) in [(b, c), (c, b)] {
            transfer(&from.netns, &to.netns, to.inner().into(), 64 << 20)?.verify(64 << 20)?;
            transfer(&from.netns, &to.netns, to.inner6().into(), 16 << 20)?.verify(16 << 20)?;
        }
        let relayed = hub.metrics()?.count(Count::Relayed) - before;
        ensure!(relayed > 100_000, "{relayed} frames were handed on");
        // What the hub itself says to one of them does not go to the other.
        let before = hub.metrics()?.count(Count::Relayed);
        reaches(&b.netns, hub.inner())?;
        let relayed = hub.metrics()?.count(Count::Relayed) - before;
        ensure!(relayed < 20, "{relayed} frames for the hub were handed on");
    }
    Ok(())
}

#[test]
fn spokes_of_a_gateway_that_is_no_hub_do_not_reach_each_other() -> Result<()> {
    let mut lab = Lab::prepare(&star(vec![1]))?;
    edit(&lab.gateways[0], "forward: true", "forward: false")?;
    for gateway in &mut lab.gateways {
        gateway.start_control()?;
    }
    let [hub, b, c] = &lab.gateways[..] else { unreachable!("a star of three") };
    for spoke in [b, c] {
        wait_until("the hub is reached", SOON, || Ok(spoke.netns.run(&format!("ping -n -c1 -W1 {}", hub.inner())).is_ok()))?;
    }
    ensure!(b.netns.run(&format!("ping -n -c3 -i0.1 -W1 {}", c.inner())).is_err());
    ensure!(hub.metrics()?.count(Count::Relayed) == 0);
    Ok(())
}

/// Two LANs, each a host with an MTU of 1500 on a bridge with a spoke's interface.
struct Lans {
    lab: Lab,
    _cables: Vec<Veth>,
    hosts: Vec<Netns>,
}

fn host(number: u8) -> (Ipv4Addr, Ipv6Addr) {
    (Ipv4Addr::new(10, 77, 0, 100 + number), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 1, number.into()))
}

impl Lans {
    fn start() -> Result<Lans> {
        let mut lab = Lab::prepare(&star(vec![1]))?;
        let (mut cables, mut hosts) = (Vec::new(), Vec::new());
        for gateway in &mut lab.gateways {
            let number = gateway.number;
            if number > 1 {
                edit(gateway, &format!("addresses: [10.77.0.{number}/24, \"fd77::{number}/64\"]"), "bridge: br0")?;
                let netns = Netns::new(&format!("host-{number}"))?;
                cables.push(Veth::between(&gateway.netns, "lan0", &netns, "lan0", 1500)?);
                gateway.netns.run("ip link add br0 type bridge forward_delay 0 stp_state 0")?;
                gateway.netns.run("ip link set lan0 master br0")?;
                gateway.netns.run("ip link set br0 up")?;
                netns.address("lan0", &format!("{}/24", host(number).0))?;
                netns.address("lan0", &format!("{}/64", host(number).1))?;
                hosts.push(netns);
            }
            gateway.start_control()?;
        }
        let lans = Lans { lab, _cables: cables, hosts };
        wait_until("the LANs of the spokes are one", Duration::from_secs(20), || Ok(lans.ping().is_ok()))?;
        Ok(lans)
    }

    fn ping(&self) -> Result<String> {
        self.hosts[0].run(&format!("ping -n -c1 -W1 {}", host(3).0))
    }

    /// How many frames the hub gave on for all in a second.
    fn floods(&self) -> Result<u64> {
        let count = || Ok::<u64, anyhow::Error>(self.lab.a().metrics()?.count(Count::FloodedFrames));
        let before = count()?;
        sleep(Duration::from_secs(1));
        Ok(count()? - before)
    }
}

#[test]
fn lans_of_1500_bytes_behind_the_spokes_are_one() -> Result<()> {
    let lans = Lans::start()?;
    for target in [IpAddr::from(host(3).0), host(3).1.into()] {
        reaches(&lans.hosts[0], target)?;
        transfer(&lans.hosts[0], &lans.hosts[1], target, 32 << 20)?.verify(32 << 20)?;
        transfer(&lans.hosts[1], &lans.hosts[0], if target.is_ipv4() { host(2).0.into() } else { host(2).1.into() }, 8 << 20)?
            .verify(8 << 20)?;
    }
    Ok(())
}

#[test]
fn a_cable_between_the_lans_of_two_spokes_does_not_melt_the_hub() -> Result<()> {
    let lans = Lans::start()?;
    let [_, b, c] = &lans.lab.gateways[..] else { unreachable!("a star of three") };
    let cable = Veth::between(&b.netns, "loop0", &c.netns, "loop0", 1500)?;
    for gateway in [b, c] {
        gateway.netns.run("ip link set loop0 master br0")?;
        gateway.netns.run("ip link set loop0 up")?;
    }
    // Broadcasts of hosts at both ends, which would circle forever.
    for (from, stranger) in [(0, "10.77.0.201"), (1, "10.77.0.202")] {
        let _unanswered = lans.hosts[from].run(&format!("ping -n -c4 -i0.3 -W1 {stranger}"));
    }
    let disputed = lans.lab.a().metrics()?.dropped(Drop::MacDisputed);
    ensure!(disputed > 0, "nothing circled");
    let floods = lans.floods()?;
    ensure!(floods < 500, "{floods} frames a second go to all");
    for gateway in [&lans.lab.gateways[1], &lans.lab.gateways[2]] {
        gateway.netns.run("ip link set loop0 down")?;
    }
    drop(cable);
    wait_until("all is as before", Duration::from_secs(30), || Ok(lans.ping().is_ok()))?;
    reaches(&lans.hosts[0], host(3).0)?;
    echoes(&lans.hosts[1], 3, 1000, "", host(2).0)?;
    ensure!(lans.floods()? < 100, "something still circles");
    Ok(())
}
