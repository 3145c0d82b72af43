//! Strangers on the cable, at an even pace that leaves no gaps for others: junk, other versions, requests under addresses of everybody and
//! of the peer itself, ESP of nobody. What is established is rekeyed meanwhile, and a configured peer connects at once.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use adit_bench::lab::capture::{Capture, Datagram, Injector};
use adit_bench::lab::{Lab, PORT, SOON, WAN, wait_until};
use adit_proto::stats::Drop;
use anyhow::{Context, Result, ensure};

use crate::flood::while_sent;
use crate::ike_tunnel::{ROLES, options, peer, spis};
use crate::reaches;

/// Datagrams in a second, one by one.
const RATE: u32 = 20_000;
/// Different ones, sent over and over.
const DATAGRAMS: u32 = 8192;
/// So soon a configured peer is there.
const CONNECTED_WITHIN: Duration = Duration::from_secs(2);
/// A busy machine only delays: the best of these counts.
const TRIES: usize = 3;
/// A sender that waited for a core makes up for no more than this.
const LATE_MAX: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// What begins as IKE and is not as long as it says.
    Junk,
    /// IKE of version 3.
    Version,
    /// Requests to connect, from as many networks as there are.
    Requests,
    /// Requests to connect, all under the address of the peer.
    PeersRequests,
    /// ESP with an SPI that nobody has.
    Esp,
}

/// A request to connect as the peer makes it, and its Ethernet header.
struct Request {
    /// Without its marker.
    message: Vec<u8>,
    ethernet: [u8; 14],
}

fn request(lab: &mut Lab) -> Result<Request> {
    let mut capture = Capture::open(&lab.b().netns, WAN)?;
    let from = lab.b().outer();
    lab.gateways[1].start_control()?;
    // IKE_SA_INIT is exchange 34 (RFC 7296 §3.1).
    let is_request = |datagram: &Datagram| {
        let at = if datagram.to.port() == 500 { 18 } else { 22 };
        *datagram.from.ip() == from && datagram.payload.get(at) == Some(&34)
    };
    let found = capture.collect(1, SOON, is_request)?.pop().context("no request came")?;
    let marker = if found.to.port() == 500 { 0 } else { 4 };
    Ok(Request { message: found.payload[marker..].to_vec(), ethernet: found.ethernet })
}

/// A number that looks like chance.
fn spread(n: u32) -> u64 {
    u64::from(n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn datagram(lab: &Lab, kind: Kind, port: u16, request: &Request, n: u32) -> Datagram {
    let (stranger, of_peer) = (Ipv4Addr::new(203, 0, 113, 99), lab.b().number);
    let source = match kind {
        Kind::Junk | Kind::Version | Kind::Esp => stranger,
        Kind::Requests => Ipv4Addr::from_bits(0x0a00_0000 | (spread(n) >> 40) as u32),
        Kind::PeersRequests => Ipv4Addr::new(192, 0, 2, of_peer),
    };
    let spi = spread(n).to_be_bytes();
    let message = match kind {
        Kind::Junk => [&spi[..], &spi, &[0; 12]].concat(),
        Kind::Version => [&spi[..], &[0; 8], &[0, 0x30, 34, 8, 0, 0, 0, 0, 0, 0, 0, 28]].concat(),
        Kind::Requests | Kind::PeersRequests => [&spi[..], &request.message[8..]].concat(),
        Kind::Esp => [&[0x80], &[0xA5; 99][..]].concat(),
    };
    let marker: &[u8] = if port == 500 || kind == Kind::Esp { &[] } else { &[0; 4] };
    Datagram {
        from: SocketAddrV4::new(source, 1024 + (n * 7 % 60_000) as u16),
        to: SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, lab.a().number), port),
        ethernet: request.ethernet,
        payload: [marker, &message].concat(),
    }
}

/// Does something while the first gateway is flooded; gives how many were sent.
fn under_flood(lab: &Lab, datagrams: &[Datagram], work: impl FnOnce() -> Result<()>) -> Result<u64> {
    let link = Injector::open(&lab.b().netns, WAN)?;
    let send = |stop: &AtomicBool, sent: &AtomicU64| -> Result<()> {
        let mut next = Instant::now();
        for (n, datagram) in datagrams.iter().cycle().enumerate() {
            // One at a time: a burst would leave room for others behind it. Who was late does not make up for it.
            next = (next + Duration::from_secs(1) / RATE).max(Instant::now() - LATE_MAX);
            while Instant::now() < next {
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                thread::yield_now();
            }
            link.send(datagram)?;
            sent.store(n as u64 + 1, Ordering::Relaxed);
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
        Ok(())
    };
    while_sent(send, || {
        thread::sleep(Duration::from_millis(300));
        work()
    })
}

fn rekeys(lab: &Lab) -> Result<()> {
    let old = spis(lab.b())?;
    lab.b().adit("rekey --ike site-a")?;
    wait_until("the IKE SA is replaced under the flood", SOON, || Ok(spis(lab.b())?.0 != old.0))?;
    lab.b().adit("rekey site-a")?;
    wait_until("the keys are replaced under the flood", SOON, || Ok(spis(lab.b())?.1 != old.1))
}

/// How long it takes until the peer is connected again.
fn connects(lab: &Lab) -> Result<Duration> {
    lab.b().adit("disconnect site-a")?;
    wait_until("the peer has gone", SOON, || Ok(peer(lab.a())?["state"] != "established"))?;
    let began = Instant::now();
    lab.b().adit("connect site-a")?;
    wait_until("the peer is connected again", SOON, || Ok(peer(lab.b())?["state"] == "established"))?;
    Ok(began.elapsed())
}

/// Every kind on one port, on which the peer begins.
fn every_kind(port: u16) -> Result<()> {
    let mut lab = Lab::prepare(&options(&[ROLES[1], ROLES[0]]))?;
    if port != PORT {
        crate::edit(lab.b(), &format!("{}:{PORT}", lab.a().outer()), &format!("{}:{port}", lab.a().outer()))?;
    }
    lab.gateways[0].start_control()?;
    let request = request(&mut lab)?;
    lab.wait_until_up()?;
    let before = lab.a().metrics()?;
    for kind in [Kind::Junk, Kind::Version, Kind::Requests, Kind::PeersRequests, Kind::Esp] {
        if port != PORT && kind == Kind::Esp {
            continue;
        }
        let datagrams: Vec<Datagram> = (0..DATAGRAMS).map(|n| datagram(&lab, kind, port, &request, n)).collect();
        let mut took = Vec::new();
        while !took.iter().any(|took| *took <= CONNECTED_WITHIN) {
            ensure!(took.len() < TRIES, "{kind:?} on port {port}: connected after {took:?}\n{}", lab.logs());
            let sent = under_flood(&lab, &datagrams, || {
                rekeys(&lab)?;
                took.push(connects(&lab)?);
                Ok(())
            })
            .with_context(|| format!("{kind:?} on port {port}\n{}", lab.logs()))?;
            ensure!(sent > 1000, "only {sent} were sent");
        }
    }
    let after = lab.a().metrics()?;
    for why in [Drop::BadIke, Drop::PuntNetworkLimit, Drop::PuntAddressLimit] {
        ensure!(after.dropped(why) > before.dropped(why), "none was counted as {}", why.label());
    }
    reaches(&lab.b().netns, lab.a().inner())
}

#[test]
fn no_flood_on_the_port_of_the_data_starves_ike() -> Result<()> {
    every_kind(PORT)
}

#[test]
fn no_flood_on_port_500_starves_ike() -> Result<()> {
    every_kind(500)
}
