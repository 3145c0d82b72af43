//! Three gateways on one outer network, each a peer of both others: one Ethernet segment for those behind them.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use adit_bench::lab::traffic::{start, transfer};
use adit_bench::lab::{Gateway, Lab, LabOptions, SOON, TAP, Turn, wait_until};
use adit_bench::netns::once_free;
use adit_proto::stats::{Count, Drop};
use anyhow::{Context, Result, ensure};

use crate::{QUARTER_GIB, reaches};

const STATION: &str = "02:00:00:00:99:99";
const STATION_ADDRESS: &str = "10.77.0.99";

fn mesh() -> LabOptions {
    LabOptions { gateways: 3, ..LabOptions::patient() }
}

fn listener(gateway: &Gateway, port: u16) -> Result<UdpSocket> {
    let socket = gateway.netns.enter(|| once_free(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))))?;
    socket.set_read_timeout(Some(SOON))?;
    Ok(socket)
}

/// How many copies of each of the numbers 0 to `count` − 1 arrive, until nothing comes any more.
fn copies(socket: &UdpSocket, count: usize) -> Result<Vec<usize>> {
    let mut copies = vec![0; count];
    let mut buffer = [0; 100];
    while copies.contains(&0) {
        let length = socket.recv(&mut buffer).with_context(|| format!("missing: copies were {copies:?}"))?;
        copies[usize::from(buffer[..length][0])] += 1;
    }
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    while let Ok(length) = socket.recv(&mut buffer) {
        copies[usize::from(buffer[..length][0])] += 1;
    }
    Ok(copies)
}

#[test]
fn a_broadcast_reaches_both_others_exactly_once() -> Result<()> {
    let lab = Lab::start(&mesh())?;
    for sender in 0..3 {
        let port = 7000 + sender as u16;
        let listeners: Vec<UdpSocket> =
            (0..3).filter(|index| *index != sender).map(|index| listener(&lab.gateways[index], port)).collect::<Result<_>>()?;
        let flooded_by_others = || -> Result<u64> {
            let others = (0..3).filter(|index| *index != sender);
            others.map(|index| Ok(lab.gateways[index].metrics()?.count(Count::FloodedFrames))).sum()
        };
        let before = flooded_by_others()?;
        let source = lab.gateways[sender].netns.enter(|| UdpSocket::bind((lab.gateways[sender].inner(), 0)))?;
        source.set_broadcast(true)?;
        for number in 0..100u8 {
            source.send_to(&[number; 50], (Ipv4Addr::new(10, 77, 0, 255), port))?;
        }
        for socket in &listeners {
            // A second copy would be one that a gateway had sent on from peer to peer.
            ensure!(copies(socket, 100)?.iter().all(|copies| *copies == 1));
        }
        let after = flooded_by_others()?;
        ensure!(after - before < 20, "the receivers of 100 broadcasts flooded {} frames", after - before);
        let flooded = lab.gateways[sender].metrics()?.count(Count::FloodedFrames);
        ensure!(flooded >= 100, "the sender of 100 broadcasts counted {flooded}");
    }
    Ok(())
}

#[test]
fn a_multicast_reaches_all_members_over_both_ip_versions() -> Result<()> {
    let lab = Lab::start(&mesh())?;
    let group = Ipv4Addr::new(239, 1, 2, 3);
    let members: Vec<UdpSocket> = lab.gateways[1..]
        .iter()
        .map(|gateway| {
            let socket = listener(gateway, 7000)?;
            gateway.netns.enter(|| socket.join_multicast_v4(&group, &gateway.inner()))?;
            Ok(socket)
        })
        .collect::<Result<_>>()?;
    let source = lab.a().netns.enter(|| socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None))?;
    source.set_multicast_if_v4(&lab.a().inner())?;
    source.set_multicast_ttl_v4(4)?;
    for number in 0..50u8 {
        source.send_to(&[number; 700], &std::net::SocketAddr::from((group, 7000)).into())?;
    }
    for socket in &members {
        ensure!(copies(socket, 50)?.iter().all(|copies| *copies == 1));
    }
    // All nodes on the link, over IPv6; both others answer.
    let output = lab.a().netns.run(&format!("ping -n -6 -c3 -i0.2 -W2 ff02::1%{TAP}"));
    let output = output.or_else(|_| lab.a().netns.run(&format!("ping -n -6 -c3 -i0.2 -W2 -I {TAP} ff02::1")))?;
    ensure!(output.contains("duplicates"), "only one gateway answered:\n{output}");
    Ok(())
}

#[test]
fn unicast_between_two_is_not_seen_by_the_third() -> Result<()> {
    let lab = Lab::start(&mesh())?;
    let before = lab.gateways[2].metrics()?.count(Count::OpenedBytes);
    transfer(&lab.a().netns, &lab.b().netns, lab.b().inner().into(), QUARTER_GIB)?.verify(QUARTER_GIB)?;
    let seen = lab.gateways[2].metrics()?.count(Count::OpenedBytes) - before;
    ensure!(seen < 1 << 16, "{seen} bytes of a transfer between two others arrived");
    Ok(())
}

#[test]
fn three_transfers_around_the_triangle_keep_their_hashes() -> Result<()> {
    let lab = Lab::start(&LabOptions { workers: vec![2], ..mesh() })?;
    let running: Vec<_> = (0..3)
        .map(|index| {
            let (from, to) = (&lab.gateways[index], &lab.gateways[(index + 1) % 3]);
            start(&from.netns, &to.netns, to.inner().into(), QUARTER_GIB)
        })
        .collect::<Result<_>>()?;
    for transfer in running {
        transfer.finish()?.verify(QUARTER_GIB)?;
    }
    Ok(())
}

/// A host of its own behind a gateway: a MAC and an address on top of the TAP. It speaks first, to `neighbour`.
fn plug_in(gateway: &Gateway, neighbour: IpAddr) -> Result<()> {
    // The gateway has the address, too, and would answer for it with a MAC of its own, before the station does.
    gateway.netns.run("sysctl -q -w net.ipv4.conf.all.arp_ignore=1")?;
    gateway.netns.run(&format!("ip link add link {TAP} name station address {STATION} type macvlan mode bridge"))?;
    gateway.netns.address("station", &format!("{STATION_ADDRESS}/24"))?;
    gateway.netns.run("ip link set station up")?;
    gateway.netns.run(&format!("ping -n -c1 -W2 -I station {neighbour}")).map(drop)
}

#[test]
fn traffic_follows_an_address_that_moves_behind_another_gateway() -> Result<()> {
    let lab = Lab::start(&mesh())?;
    let [a, b, c] = &lab.gateways[..] else { unreachable!("three gateways") };
    let reach =
        || wait_until("the station answers", SOON, || Ok(a.netns.run(&format!("ping -n -c1 -W1 {STATION_ADDRESS}")).is_ok()));
    plug_in(b, a.inner().into())?;
    reach()?;
    let before = a.metrics()?.count(Count::FdbMoved);
    b.netns.run("ip link del station")?;
    // The neighbours of the station keep its address, only the place has changed.
    plug_in(c, a.inner().into())?;
    let moved = a.metrics()?.count(Count::FdbMoved);
    ensure!(moved > before, "gateway a did not notice the move");
    let opened = b.metrics()?.count(Count::Opened);
    reaches(&a.netns, STATION_ADDRESS.parse::<IpAddr>()?)?;
    let opened = b.metrics()?.count(Count::Opened) - opened;
    ensure!(opened < 50, "{opened} packets still went to the old place");
    Ok(())
}

#[test]
fn floods_are_limited_and_the_excess_is_counted() -> Result<()> {
    let lab = Lab::start(&LabOptions { flood_pps: Some(100), turn: Turn::Alone, ..mesh() })?;
    let before = lab.a().metrics()?;
    let sinks = [listener(lab.b(), 7000)?, listener(&lab.gateways[2], 7000)?];
    let source = lab.a().netns.enter(|| UdpSocket::bind((lab.a().inner(), 0)))?;
    source.set_broadcast(true)?;
    let began = Instant::now();
    for number in 1..=2000 {
        source.send_to(&[1; 50], (Ipv4Addr::new(10, 77, 0, 255), 7000))?;
        if number % 100 == 0 {
            // The queue of the TAP is short, and the worker may have to wait for its core.
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    // What the limit lets pass while all that is sent, and a second more.
    let most = 100 * (2 + began.elapsed().as_secs());
    let limited = || anyhow::Ok(lab.a().metrics()?.dropped(Drop::FloodLimit) - before.dropped(Drop::FloodLimit));
    wait_until("most floods are refused", SOON, || Ok(limited()? + most > 1800))?;
    for sink in &sinks {
        sink.set_read_timeout(Some(Duration::from_millis(300)))?;
        let mut arrived = 0_u64;
        while sink.recv(&mut [0; 100]).is_ok() {
            arrived += 1;
        }
        ensure!((1..most + 200).contains(&arrived), "{arrived} of 2000 broadcasts arrived under a limit of 100 per second");
    }
    // Unicast does not suffer from the limit.
    reaches(&lab.a().netns, lab.b().inner())
}
