//! What is dropped of one peer is shown at that peer, the same whether its keys come from IKE or from a file, and at no other.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use adit_bench::lab::capture::{Datagram, Injector};
use adit_bench::lab::{Gateway, Lab, LabOptions, PORT, SOON, WAN, wait_until};
use adit_bench::netns::{Netns, Signal, signal};
use adit_proto::control::Direction;
use adit_proto::peer_drops::PeerDrop;
use adit_proto::stats::Drop;
use anyhow::{Context, Result, ensure};

use crate::hostile::valid;
use crate::reaches;

const COUNT: u64 = 20;

/// What a gateway has counted of a peer in a direction under a name.
fn of_peer(gateway: &Gateway, peer: &str, direction: &str, reason: &str) -> Result<u64> {
    let labels = [("peer", peer), ("direction", direction), ("reason", reason)];
    let sum = gateway.metrics()?.sum("adit_peer_drops_total", &labels);
    Ok(sum.with_context(|| format!("no series for {labels:?}"))? as u64)
}

/// All that was dropped of what was for a peer, but for what is not told apart.
fn outbound(gateway: &Gateway, peer: &str) -> Result<u64> {
    let names = PeerDrop::all().filter(|drop| drop.direction() == Direction::Outbound && drop.name().is_some());
    names.map(|drop| of_peer(gateway, peer, "out", drop.label())).sum()
}

/// The counters of all peers make the totals, of what is always a peer's.
fn sums_agree(gateway: &Gateway) -> Result<()> {
    wait_until("the sums agree", SOON, || {
        let metrics = gateway.metrics()?;
        let always = |name: &Drop| !matches!(name, Drop::FloodLimit | Drop::HandoverFull);
        let mut names = PeerDrop::all().filter_map(PeerDrop::name).filter(always);
        Ok(names.all(|name| {
            let of_peers = metrics.sum("adit_peer_drops_total", &[("reason", name.label())]);
            of_peers == Some(metrics.dropped(name) as f64)
        }))
    })
    .with_context(|| gateway.metrics_page().unwrap_or_default())
}

/// The same packet under a number that was not seen before.
fn forged(datagram: &Datagram) -> Datagram {
    let mut payload = datagram.payload.clone();
    let sequence = u32::from_be_bytes([payload[4], payload[5], payload[6], payload[7]]).wrapping_add(100_000);
    payload[4..8].copy_from_slice(&sequence.to_be_bytes());
    Datagram { payload, ..datagram.clone() }
}

/// Whether a peer's drops of this name are among what programs are shown of it.
fn is_listed(gateway: &Gateway, peer: &str, reason: &str) -> Result<bool> {
    let status = gateway.status()?;
    let mut peers = status["peers"].as_array().context("no peers")?.iter();
    let drops = &peers.find(|one| one["name"] == peer).context("no such peer")?["drops"];
    Ok(drops.as_array().context("no list of drops")?.iter().any(|one| one["reason"] == reason && one["packets"] != 0))
}

#[test]
fn what_is_dropped_of_one_peer_is_shown_at_no_other() -> Result<()> {
    for ike in [Vec::new(), vec![String::new()]] {
        let lab = Lab::start(&LabOptions { gateways: 3, ike, ..LabOptions::patient() })?;
        let (a, c) = (lab.a(), &lab.gateways[2]);
        let good = valid(&lab, COUNT as usize)?;
        let replayed = || of_peer(a, "site-b", "in", Drop::Replay.label());
        let (before, others) = (replayed()?, of_peer(a, "site-c", "in", Drop::Replay.label())?);
        let link = Injector::open(&lab.b().netns, WAN)?;
        for datagram in &good {
            link.send(datagram)?;
            link.send(&forged(datagram))?;
        }
        let all = || Ok(of_peer(a, "site-b", "in", "bad_tag")? == COUNT && replayed()? >= before + COUNT);
        wait_until("all are counted for site-b", SOON, all).with_context(|| lab.logs())?;
        ensure!(of_peer(a, "site-c", "in", "bad_tag")? == 0 && of_peer(a, "site-c", "in", "replay")? == others);
        // What is for site-c cannot be sent.
        let (to_b, to_c) = (outbound(a, "site-b")?, outbound(a, "site-c")?);
        a.netns.run(&format!("ip route add prohibit {}/32", c.outer()))?;
        wait_until("what is for site-c is dropped", SOON, || {
            ensure!(a.netns.run(&format!("ping -n -c1 -W1 {}", c.inner())).is_err(), "it passes");
            Ok(outbound(a, "site-c")? > to_c)
        })?;
        ensure!(outbound(a, "site-b")? == to_b, "{}", a.metrics_page()?);
        a.netns.run(&format!("ip route del prohibit {}/32", c.outer()))?;
        sums_agree(a)?;
        // People and programs are told the same.
        ensure!(is_listed(a, "site-b", "bad_tag")? && !is_listed(a, "site-c", "bad_tag")?);
        let (of_b, of_c) = (a.adit("status site-b")?, a.adit("status site-c")?);
        ensure!(of_b.contains("dropped in") && of_b.contains(&format!("{COUNT} bad_tag")), "{of_b}");
        ensure!(!of_c.contains("bad_tag") && of_c.contains("dropped out"), "{of_c}");
        let (of_b, of_c) = (a.adit("explain site-b")?, a.adit("explain site-c")?);
        ensure!(of_b.contains(&format!("dropped: {COUNT} packets with an SPI of the peer's as bad_tag")), "{of_b}");
        ensure!(!of_b.contains("nothing is wrong") && !of_c.contains("bad_tag"), "{of_b}{of_c}");
        reaches(&a.netns, lab.b().inner())?;
        goes_on(lab)?;
    }
    Ok(())
}

/// What was counted stays when either plane dies.
fn goes_on(mut lab: Lab) -> Result<()> {
    let counted = |lab: &Lab| of_peer(lab.a(), "site-b", "in", "bad_tag");
    lab.gateways[0].kill_control()?;
    lab.gateways[0].start_control()?;
    wait_until("another control plane knows it", SOON, || Ok(counted(&lab).is_ok_and(|count| count == COUNT)))?;
    lab.a().kill_data_plane()?;
    wait_until("packets pass again", SOON, || Ok(reaches(&lab.a().netns, lab.b().inner()).is_ok()))
        .with_context(|| lab.logs())?;
    ensure!(counted(&lab)? == COUNT, "{} after the data plane was another", counted(&lab)?);
    Ok(())
}

/// Sends datagrams one by one, of which some may be refused.
fn send(from: &Netns, to: SocketAddr, count: u32) -> Result<()> {
    let socket = from.enter(|| UdpSocket::bind("0.0.0.0:0"))?;
    (0..count).for_each(|_| drop(socket.send_to(&[0; 40], to)));
    Ok(())
}

/// SIGSTOP makes the queues in front of a data plane fill: what the kernel drops there is counted for each of them, and nowhere
/// else.
#[test]
fn what_is_lost_in_the_queues_in_front_of_a_data_plane_is_counted() -> Result<()> {
    let lab = Lab::start(&LabOptions::patient())?;
    let (a, b) = (lab.a(), lab.b());
    let plane = a.data_plane().context("a data plane")?;
    let counted = || {
        let metrics = a.metrics()?;
        let queue = metrics.sum("adit_interface_queue_drops_total", &[]).context("no adit_interface_queue_drops_total")? as u64;
        Ok::<_, anyhow::Error>([metrics.dropped(Drop::UdpOverflow), queue])
    };
    for (number, what) in ["udp_overflow", "adit_interface_queue_drops_total"].into_iter().enumerate() {
        reaches(&b.netns, a.inner())?;
        let before = counted()?;
        signal(plane, Signal::Stop)?;
        // More than the buffer of the socket takes, and than the queue of the interface.
        let sent = match number {
            0 => send(&b.netns, SocketAddr::new(a.outer(), PORT), 100_000),
            _ => send(&a.netns, SocketAddr::new(IpAddr::V4(b.inner()), 9), 10_000),
        };
        signal(plane, Signal::Continue)?;
        sent?;
        // The kernel tells of what the socket lost with the next datagram.
        wait_until(what, SOON, || Ok(reaches(&b.netns, a.inner()).is_ok() && counted()?[number] > before[number] + 1000))
            .with_context(|| format!("{before:?}, then {:?}", counted()))?;
        ensure!(counted()?[1 - number] == before[1 - number], "{what}: {before:?}, then {:?}", counted()?);
    }
    ensure!(a.data_plane() == Some(plane), "the data plane is another one:\n{}", a.log());
    Ok(())
}
