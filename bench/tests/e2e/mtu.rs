//! What does not fit the line between the gateways: LANs of 1500 bytes over lines of 1500 and less, and lines of every length.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use adit_bench::lab::tagger::Tagger;
use adit_bench::lab::traffic::transfer;
use adit_bench::lab::{Gateway, Lab, LabOptions, SOON, TAP, WAN, wait_until};
use adit_bench::load::{self, Offer};
use adit_bench::netns::{Netns, Veth};
use adit_proto::stats::{Count, Drop};
use anyhow::{Context, Result, ensure};

use crate::paths::path_in_use;
use crate::{echoes, edit};

const MIB: u64 = 1 << 20;

/// Two LANs, each a host with an MTU of 1500 on a bridge with the gateway's interface. Dropped in this order.
struct Lans {
    lab: Lab,
    _cables: Vec<Veth>,
    hosts: Vec<Netns>,
}

impl Lans {
    fn start(options: &LabOptions) -> Result<Lans> {
        Lans::start_with(options, |_| Ok(()))
    }

    /// With a change of each configuration.
    fn start_with(options: &LabOptions, change: impl Fn(&Gateway) -> Result<()>) -> Result<Lans> {
        let mut lab = Lab::prepare(options)?;
        let (mut cables, mut hosts) = (Vec::new(), Vec::new());
        for gateway in &mut lab.gateways {
            let number = gateway.number;
            let addresses = format!("addresses: [10.77.0.{number}/24, \"fd77::{number}/64\"]");
            edit(gateway, &addresses, "bridge: br0")?;
            change(gateway)?;
            let host = Netns::new(&format!("host-{number}"))?;
            cables.push(Veth::between(&gateway.netns, "lan0", &host, "lan0", 1500)?);
            gateway.netns.run("ip link add br0 type bridge forward_delay 0 stp_state 0")?;
            gateway.netns.run("ip link set lan0 master br0")?;
            gateway.netns.run("ip link set br0 up")?;
            host.address("lan0", &format!("{}/24", v4(number)))?;
            host.address("lan0", &format!("{}/64", v6(number)))?;
            hosts.push(host);
            gateway.start_control()?;
        }
        let lans = Lans { lab, _cables: cables, hosts };
        for target in (2..=lans.hosts.len() as u8).flat_map(|number| [IpAddr::from(v4(number)), v6(number).into()]) {
            wait_until("the LANs are one", Duration::from_secs(20), || {
                Ok(lans.hosts[0].run(&format!("ping -n -c1 -W1 {target}")).is_ok())
            })?;
        }
        Ok(lans)
    }

    fn sum(&self, count: Count) -> Result<u64> {
        self.lab.gateways.iter().map(|gateway| Ok(gateway.metrics()?.count(count))).sum()
    }

    /// No host knows of a path that takes less than its link.
    fn forget(&self) -> Result<()> {
        for host in &self.hosts {
            host.run("ip route flush cache")?;
            host.run("ip -6 route flush cache")?;
        }
        Ok(())
    }

    /// TCP both ways, and whether it was cut on the way.
    fn tcp_passes(&self) -> Result<()> {
        self.forget()?;
        let before = self.sum(Count::RecutSegments)?;
        for target in [IpAddr::from(v4(2)), v6(2).into()] {
            transfer(&self.hosts[0], &self.hosts[1], target, 32 * MIB)?.verify(32 * MIB)?;
        }
        for target in [IpAddr::from(v4(1)), v6(1).into()] {
            transfer(&self.hosts[1], &self.hosts[0], target, 32 * MIB)?.verify(32 * MIB)?;
        }
        ensure!(self.sum(Count::RecutSegments)? > before, "nothing was too long");
        Ok(())
    }

    /// The first host is told what fits on the way to this one, and keeps to it.
    fn host_is_advised(&self, number: u8, mtu: u64) -> Result<()> {
        self.forget()?;
        let before = self.lab.a().metrics()?;
        for (target, size) in [(IpAddr::from(v4(number)), 1472), (v6(number).into(), 1452)] {
            wait_until("the kernel believes what fits", SOON, || {
                let passes = self.hosts[0].run(&format!("ping -n -c1 -W1 -M do -s {size} {target}")).is_ok();
                ensure!(!passes, "{size} bytes reach {target} whole");
                Ok(self.hosts[0].path_mtu(target)? == Some(mtu))
            })
            .with_context(|| format!("{target} is not told {mtu}: {:?}", self.hosts[0].path_mtu(target)))?;
        }
        // A worker on a busy machine counts what it has sent a little later.
        wait_until("both are counted", SOON, || {
            let after = self.lab.a().metrics()?;
            let new = after.dropped(Drop::TooBig) - before.dropped(Drop::TooBig);
            Ok(new >= 2 && after.count(Count::TooBigAnswers) >= before.count(Count::TooBigAnswers) + 2)
        })
    }
}

fn v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 5, 0, number)
}

fn v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd05, 0, 0, 0, 0, 0, 0, number.into())
}

#[test]
fn bridged_lans_of_1500_bytes_work_over_a_line_of_1500() -> Result<()> {
    let lans = Lans::start(&LabOptions::patient())?;
    let link = lans.lab.a().netns.run(&format!("ip -o link show dev {TAP}"))?;
    ensure!(link.contains(" mtu 1500 "), "{link}");
    lans.tcp_passes()?;
    // Its sender was told as well: the next stream fits, and nothing of it is cut.
    let before = lans.sum(Count::RecutSegments)?;
    transfer(&lans.hosts[0], &lans.hosts[1], v4(2).into(), 32 * MIB)?.verify(32 * MIB)?;
    ensure!(lans.sum(Count::RecutSegments)? == before, "a host that was told sends what is too long");
    // 1500 less IP, UDP, ESP, padding, EtherIP and the Ethernet header inside.
    lans.host_is_advised(2, 1422)?;
    // What may be fragmented arrives whole, also what was a fragment before.
    for size in [1400, 1472, 4000, 20_000] {
        echoes(&lans.hosts[0], 2, size, "-M dont", v4(2))?;
        echoes(&lans.hosts[1], 2, size, "-M dont", v4(1))?;
    }
    ensure!(lans.sum(Count::Fragmented)? > 0, "nothing was fragmented");
    for gateway in &lans.lab.gateways {
        ensure!(gateway.metrics()?.dropped(Drop::PathMtu) == 0, "something vanished in silence");
    }
    Ok(())
}

#[test]
fn where_both_ends_split_nothing_is_answered_and_all_arrives() -> Result<()> {
    let options = LabOptions { gateways: 3, outer_mtu: 1400, ike: vec![String::new()], ..LabOptions::patient() };
    let lans = Lans::start_with(&options, |gateway| match gateway.number {
        3 => Ok(()),
        _ => edit(gateway, "mode: ethernet\n", "mode: ethernet\noversize: split\n"),
    })?;
    let (a, b) = (lans.lab.a(), lans.lab.b());
    for (from, to) in [(&lans.hosts[0], 2), (&lans.hosts[1], 1)] {
        echoes(from, 5, 1472, "-M do", v4(to))?;
        echoes(from, 5, 1452, "-M do", v6(to))?;
    }
    lans.tcp_passes()?;
    // Datagrams that may not be cut, and between them some that are as long as their halves, so that the halves of one come in two trains.
    for flows in [1, 3] {
        let offer = Offer { sizes: vec![1472, 721], flows, rate: 60_000.0, duration: Duration::from_secs(1) };
        let figure = load::measure(&lans.hosts[0], &lans.hosts[1], v4(2).into(), &offer)?;
        ensure!(figure.tally.received > 1000, "{flows} flows: {figure:?}");
    }
    for (gateway, other) in [(a, b), (b, a)] {
        let (seen, seen_there) = (gateway.metrics()?, other.metrics()?);
        ensure!(seen.count(Count::TooBigAnswers) == 0, "gateway {} sent ICMP", gateway.number);
        // Ten echoes, and five answers over IPv6: those over IPv4 may be fragmented.
        let (halved, joined) = (seen.count(Count::Halved), seen_there.count(Count::Joined));
        ensure!(halved >= 15 && joined >= 15, "gateway {}: {halved} in halves, {joined} joined", gateway.number);
        let spoiled: u64 = [Drop::HalfBad, Drop::BadTag].map(|why| seen.dropped(why)).iter().sum();
        ensure!(spoiled == 0, "{spoiled} datagrams were spoiled at gateway {}", gateway.number);
        // Where a worker waits for a core, its socket may overflow.
        let lost: u64 = [Drop::HalfLost, Drop::HalfExpired].map(|why| seen.dropped(why)).iter().sum();
        ensure!(lost == 0 || seen.dropped(Drop::UdpOverflow) > 0, "{lost} halves were lost at gateway {}", gateway.number);
    }
    // The third one does not: beside it, it is as ever.
    let halved = a.metrics()?.count(Count::Halved);
    lans.host_is_advised(3, 1422 - 100)?;
    ensure!(a.metrics()?.count(Count::Halved) == halved, "halves for who does not join them");
    lans.tcp_passes()
}

#[test]
fn tagged_frames_are_cut_and_answered_with_their_tags() -> Result<()> {
    let lans = Lans::start(&LabOptions { outer_mtu: 1400, ..LabOptions::patient() })?;
    let _tags: Vec<Tagger> = lans.hosts.iter().map(|host| Tagger::attach(host, "lan0", &[(0x8100, 7)])).collect::<Result<_>>()?;
    echoes(&lans.hosts[0], 2, 100, "", v4(2))?;
    echoes(&lans.hosts[0], 2, 100, "", v6(2))?;
    lans.tcp_passes()?;
    lans.host_is_advised(2, 1422 - 100 - 4)?;
    echoes(&lans.hosts[0], 2, 1472, "-M dont", v4(2))
}

#[test]
fn lines_from_1124_to_9000_bytes_carry_tcp_in_both_modes() -> Result<()> {
    for (ip_mode, outer_mtu) in [false, true].into_iter().flat_map(|mode| [1124_u16, 1280, 1400, 9000].map(|mtu| (mode, mtu))) {
        let mut lab = Lab::prepare(&LabOptions { ip_mode, outer_mtu: outer_mtu.max(1280), ..LabOptions::patient() })?;
        for gateway in &mut lab.gateways {
            edit(gateway, &format!("underlay_mtu: {}\n", outer_mtu.max(1280)), &format!("underlay_mtu: {outer_mtu}\n"))?;
            gateway.netns.run(&format!("ip link set {WAN} mtu {outer_mtu}"))?;
            gateway.start_control()?;
        }
        lab.wait_until_up()?;
        let (a, b) = (lab.a(), lab.b());
        for target in [IpAddr::from(b.inner()), b.inner6().into()] {
            transfer(&a.netns, &b.netns, target, 8 * MIB)?.verify(8 * MIB)?;
        }
        transfer(&b.netns, &a.netns, a.inner().into(), 8 * MIB)?.verify(8 * MIB)?;
        echoes(&a.netns, 2, 3000, "-M dont", b.inner())?;
        let lost = a.metrics()?.dropped(Drop::PathMtu);
        ensure!(lost == 0, "{lost} packets vanished on a line of {outer_mtu} bytes, IP mode {ip_mode}");
    }
    Ok(())
}

/// Gateways that answer each other no echoes, so that what the kernel says of the route counts alone.
fn without_echoes() -> Result<Lab> {
    let mut lab = Lab::prepare(&LabOptions { ip_mode: true, ..LabOptions::patient() })?;
    for gateway in &mut lab.gateways {
        edit(gateway, "endpoint:", "echo: false, endpoint:")?;
        gateway.start_control()?;
    }
    lab.wait_until_up()?;
    Ok(lab)
}

/// No address and no route changes with the link.
#[test]
fn a_link_of_another_length_is_followed_towards_peers_without_echoes() -> Result<()> {
    let lab = without_echoes()?;
    let (a, b) = (lab.a(), lab.b());
    for mtu in [1300, 1500, 1400] {
        for gateway in [a, b] {
            gateway.netns.run(&format!("ip link set {WAN} mtu {mtu}"))?;
        }
        for gateway in [a, b] {
            wait_until(&format!("packets of {mtu} bytes are sent"), SOON, || Ok(path_in_use(gateway)?["mtu"] == mtu))
                .with_context(|| lab.logs())?;
        }
        transfer(&a.netns, &b.netns, b.inner().into(), 8 * MIB)?.verify(8 * MIB)?;
    }
    Ok(())
}

/// What somebody has set of the route to a peer holds beside what the link takes.
#[test]
fn an_mtu_that_was_set_on_a_route_is_followed_without_echoes() -> Result<()> {
    let lab = without_echoes()?;
    let (a, b) = (lab.a(), lab.b());
    let is = |mtu: u16| {
        wait_until(&format!("packets of {mtu} bytes are sent"), SOON, || Ok(path_in_use(a)?["mtu"] == mtu))
            .with_context(|| lab.logs())
    };
    let route = format!("{} dev {WAN}", b.outer());
    is(1500)?;
    for (line, mtu) in [
        (format!("ip route add {route} mtu 1350"), 1350),
        (format!("ip route change {route} mtu 1420"), 1420),
        (format!("ip route change {route} mtu 1300"), 1300),
        (format!("ip route del {route}"), 1500),
    ] {
        a.netns.run(&line)?;
        is(mtu).with_context(|| line)?;
        transfer(&a.netns, &b.netns, b.inner().into(), 8 * MIB)?.verify(8 * MIB)?;
        ensure!(path_in_use(b)?["mtu"] == 1500, "the other end has a route of its own: {}", path_in_use(b)?);
    }
    Ok(())
}
