//! Floods of requests to connect, under addresses and names that nobody has: what is established does not notice, memory and the
//! log stay small, and who is known can still connect.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use adit_bench::lab::{Lab, LabOptions, SOON, wait_until};
use adit_bench::netns::Netns;
use adit_bench::process::data_kib;
use anyhow::{Context, Result, ensure};

use crate::ike_tunnel::spis;
use crate::{Pings, reaches};

/// Datagrams per second that are sent, several times what a gateway takes.
const RATE: u64 = 20_000;
/// Senders of the flood.
const ADDRESSES: u8 = 200;
/// A busy machine lets buffers overflow, an idle one does not: the best of these counts.
const TRIES: usize = 3;
/// Growth of a process that is no leak.
const ROOM_KIB: f64 = 16.0 * 1024.0;

/// An IKE_SA_INIT that a gateway takes for genuine, but for its cookie (RFC 7296 §3.1): recorded when one gateway of the lab asks
/// an address at which nobody is.
fn request(lab: &Lab) -> Result<Vec<u8>> {
    let socket = lab.b().netns.enter(|| UdpSocket::bind(SocketAddr::from((Ipv4Addr::new(192, 0, 2, 77), 4500))))?;
    socket.set_read_timeout(Some(SOON))?;
    let mut buffer = vec![0; 4096];
    let (length, _) = socket.recv_from(&mut buffer).context("no request came")?;
    buffer.truncate(length);
    Ok(buffer)
}

/// Sends requests, each with an SPI of its own, from many addresses until told to stop. The first four bytes are the non-ESP marker.
fn flood(from: &Netns, to: SocketAddr, request: &[u8], stop: &AtomicBool, sent: &AtomicU64) -> Result<()> {
    let request = if to.port() == 500 { &request[4..] } else { request };
    let spi_at = request.len() - usize::from(to.port() != 500) * 4;
    let spi_at = request.len() - spi_at;
    let sockets = from.enter(|| {
        (0..ADDRESSES).map(|n| UdpSocket::bind((Ipv4Addr::new(198, 51, 100, n), 0))).collect::<std::io::Result<Vec<_>>>()
    })?;
    let (began, mut count) = (Instant::now(), 0_u64);
    while !stop.load(Ordering::Relaxed) {
        let due = began.elapsed().as_micros() as u64 * RATE / 1_000_000;
        for n in count..due {
            let mut spoofed = request.to_vec();
            spoofed[spi_at..spi_at + 8].copy_from_slice(&(n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
            // Lost is lost.
            let _ = sockets[n as usize % sockets.len()].send_to(&spoofed, to);
        }
        count = due;
        sent.store(count, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Does something while the first gateway is flooded on this port, and returns how many were sent.
fn under_flood(lab: &Lab, port: u16, request: &[u8], work: impl FnOnce() -> Result<()>) -> Result<u64> {
    let to = SocketAddr::new(lab.a().outer(), port);
    while_sent(|stop, sent| flood(&lab.b().netns, to, request, stop, sent), work)
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

#[test]
fn tunnels_rekeys_and_memory_do_not_mind_a_flood_of_requests() -> Result<()> {
    let roles = ["role: initiator, dpd_s: 1", "role: responder, dpd_s: 1"].map(str::to_owned);
    let mut lab = Lab::prepare(&LabOptions { ike: roles.into(), ..LabOptions::default() })?;
    lab.b().netns.run("ip address add 192.0.2.77/24 dev wan0")?;
    lab.b().netns.run("ip route add local 198.51.100.0/24 dev lo")?;
    // First it asks the wrong address, then the right one.
    crate::edit(lab.a(), "192.0.2.2:4500", "192.0.2.77:4500")?;
    lab.gateways[0].start_control()?;
    let request = request(&lab)?;
    lab.gateways[0].stop()?;
    crate::edit(lab.a(), "192.0.2.77:4500", "192.0.2.2:4500")?;
    for gateway in &mut lab.gateways {
        gateway.start_control()?;
    }
    lab.wait_until_up()?;
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
