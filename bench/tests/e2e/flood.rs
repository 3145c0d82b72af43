//! Floods of requests to connect, under addresses and names that nobody has: what is established does not notice, memory and the
//! log stay small, and who is known can still connect.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use adit_bench::lab::stranger::evenly;
use adit_bench::lab::{Lab, LabOptions, SOON, wait_until};
use adit_bench::netns::Netns;
use adit_bench::process::data_kib;
use adit_proto::screen::STRANGERS;
use adit_proto::stats::Drop;
use anyhow::{Context, Result, ensure};

use crate::ike_tunnel::{peer, spis};
use crate::{Pings, reaches};

/// Datagrams per second that are sent, as far as the host can: many times what a gateway takes.
const RATE: u32 = 60_000;
/// Senders of the flood.
const ADDRESSES: u8 = 200;
/// So soon who is known is there.
const CONNECTED_WITHIN: Duration = Duration::from_secs(2);
/// A busy machine lets buffers overflow, an idle one does not: the best of these counts.
const TRIES: usize = 3;
/// Growth of a process that is no leak.
const ROOM_KIB: f64 = 16.0 * 1024.0;

/// An IKE_SA_INIT that a gateway takes for genuine, but for its cookie (RFC 7296 §3.1): recorded when one gateway of the lab asks
/// an address at which nobody is.
fn request(lab: &Lab) -> Result<Vec<u8>> {
    let socket = lab.b().netns.enter(|| UdpSocket::bind(SocketAddr::new(nobody(lab), 4500)))?;
    socket.set_read_timeout(Some(SOON))?;
    let mut buffer = vec![0; 4096];
    let (length, _) = socket.recv_from(&mut buffer).context("no request came")?;
    buffer.truncate(length);
    Ok(buffer)
}

/// Where nobody is.
fn nobody(lab: &Lab) -> IpAddr {
    if lab.a().outer().is_ipv4() {
        Ipv4Addr::new(192, 0, 2, 77).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 77).into()
    }
}

/// The address of one who floods. Over IPv6 each is in a network of its own.
fn sender(number: u8, ipv6: bool) -> IpAddr {
    match ipv6 {
        false => Ipv4Addr::new(198, 51, 100, number).into(),
        true => Ipv6Addr::new(0x3fff, 0, number.into(), 0, 0, 0, 0, 1).into(),
    }
}

/// Sends requests, each with an SPI of its own, from many addresses until told to stop. The first four bytes are the non-ESP marker.
fn flood(from: &Netns, to: SocketAddr, request: &[u8], stop: &AtomicBool, sent: &AtomicU64) -> Result<()> {
    let request = if to.port() == 500 { &request[4..] } else { request };
    let spi_at = request.len() - usize::from(to.port() != 500) * 4;
    let spi_at = request.len() - spi_at;
    let bind = |number| UdpSocket::bind((sender(number, to.is_ipv6()), 0));
    let sockets = from.enter(|| (0..ADDRESSES).map(bind).collect::<std::io::Result<Vec<_>>>())?;
    let mut spoofed = request.to_vec();
    evenly(RATE, stop, sent, |n| {
        spoofed[spi_at..spi_at + 8].copy_from_slice(&(n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        // Lost is lost.
        let _ = sockets[n as usize % sockets.len()].send_to(&spoofed, to);
        Ok(())
    })
}

/// Does something while the first gateway is flooded on this port, and returns how many were sent.
fn under_flood(lab: &Lab, port: u16, request: &[u8], work: impl FnOnce() -> Result<()>) -> Result<u64> {
    let to = SocketAddr::new(lab.a().outer(), port);
    let began = Instant::now();
    let sent = while_sent(|stop, sent| flood(&lab.b().netns, to, request, stop, sent), work)?;
    println!("requests to {to}: {:.0} a second", sent as f64 / began.elapsed().as_secs_f64());
    Ok(sent)
}

/// Does something while somebody sends, who counts what was sent and ends when told to; returns how many were sent.
pub fn while_sent(
    send: impl FnOnce(&AtomicBool, &AtomicU64) -> Result<()> + Send,
    work: impl FnOnce() -> Result<()>,
) -> Result<u64> {
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let sender = scope.spawn(|| send(&stop, &sent));
        let worked = work();
        stop.store(true, Ordering::Relaxed);
        sender.join().expect("the sender does not panic")?;
        worked
    })?;
    Ok(sent.load(Ordering::Relaxed))
}

fn rekeys(lab: &Lab) -> Result<()> {
    for _ in 0..5 {
        let old = spis(lab.a())?.1;
        lab.b().adit("rekey site-a")?;
        wait_until("the keys are replaced under the flood", SOON, || Ok(spis(lab.a())?.1 != old))?;
        thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}

/// Two gateways that are connected, of which the first one began, and a request of its.
fn prepared(outer_ipv6: bool) -> Result<(Lab, Vec<u8>)> {
    let roles = ["role: initiator, dpd_s: 1", "role: responder, dpd_s: 1"].map(str::to_owned);
    let mut lab = Lab::prepare(&LabOptions { ike: roles.into(), outer_ipv6, ..LabOptions::default() })?;
    if outer_ipv6 {
        lab.b().netns.run(&format!("ip address add {}/64 dev wan0 nodad", nobody(&lab)))?;
        (0..ADDRESSES).try_for_each(|number| {
            lab.b().netns.run(&format!("ip address add {}/128 dev lo nodad", sender(number, true))).map(drop)
        })?;
    } else {
        lab.b().netns.run(&format!("ip address add {}/24 dev wan0", nobody(&lab)))?;
        lab.b().netns.run("ip route add local 198.51.100.0/24 dev lo")?;
    }
    // First it asks the wrong address, then the right one.
    let [wrong, right] = [nobody(&lab), lab.b().outer()].map(|address| SocketAddr::new(address, 4500).to_string());
    crate::edit(lab.a(), &right, &wrong)?;
    lab.gateways[0].start_control()?;
    let request = request(&lab)?;
    lab.gateways[0].stop()?;
    crate::edit(lab.a(), &wrong, &right)?;
    for gateway in &mut lab.gateways {
        gateway.start_control()?;
    }
    lab.wait_until_up()?;
    Ok((lab, request))
}

#[test]
fn a_flood_over_ipv6_keeps_nobody_from_rekeying_and_connecting() -> Result<()> {
    let (lab, request) = prepared(true)?;
    let (mut took, mut sent, began) = (Vec::new(), 0, Instant::now());
    while !took.iter().any(|took| *took <= CONNECTED_WITHIN) {
        ensure!(took.len() < TRIES, "connected after {took:?}\n{}", lab.logs());
        sent += under_flood(&lab, 4500, &request, || {
            rekeys(&lab)?;
            lab.a().adit("disconnect site-b")?;
            let began = Instant::now();
            lab.a().adit("connect site-b")?;
            wait_until("the peer is back", SOON, || Ok(peer(lab.a())?["state"] == "established"))?;
            took.push(began.elapsed());
            Ok(())
        })
        .with_context(|| lab.logs())?;
    }
    ensure!(sent > 1000, "only {sent} requests were sent");
    // A bucket begins full.
    let limit = u64::from(STRANGERS.all()) * (2 + began.elapsed().as_secs());
    let dropped = lab.a().metrics()?.dropped(Drop::PuntLimit);
    ensure!(dropped > 0 || sent < limit, "{sent} requests, and none was above the limit of all strangers");
    reaches(&lab.a().netns, lab.b().inner())
}

#[test]
fn tunnels_rekeys_and_memory_do_not_mind_a_flood_of_requests() -> Result<()> {
    let (mut lab, request) = prepared(false)?;
    let control = lab.gateways[0].control()?.pid();
    let (before, lines) = (data_kib(control), lab.a().log().lines().count());
    let mut sent = 0;
    for port in [4500, 500] {
        let mut outcomes = Vec::new();
        while !outcomes.iter().any(Result::is_ok) {
            ensure!(outcomes.len() < TRIES, "on port {port}: {outcomes:?}");
            let pings = Pings::start(&lab, lab.a(), lab.b().inner(), Duration::from_millis(5))?;
            sent += under_flood(&lab, port, &request, || rekeys(&lab)).with_context(|| lab.logs())?;
            outcomes.push(pings.none_lost(&lab, 100));
        }
    }
    ensure!(sent > 20_000, "only {sent} requests were sent");
    let grown = data_kib(control) - before;
    ensure!(grown < ROOM_KIB, "the control plane has grown by {grown} KiB");
    let new = lab.a().log().lines().count() - lines;
    ensure!(new < 500, "{new} lines of log for {sent} requests");
    // And who is known gets in, from nothing.
    under_flood(&lab, 4500, &request, || {
        lab.a().adit("disconnect site-b")?;
        lab.a().adit("connect site-b")?;
        wait_until("the peer is back under the flood", SOON, || Ok(reaches(&lab.a().netns, lab.b().inner()).is_ok()))
    })
    .with_context(|| lab.logs())?;
    Ok(())
}
