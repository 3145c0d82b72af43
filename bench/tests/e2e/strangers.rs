//! Strangers on the cable, at an even pace that leaves no gaps for others: junk, other versions, requests under addresses of everybody and
//! of the peer itself, ESP of nobody, messages with SPIs that were overheard. What is established lives, carries traffic and is
//! rekeyed meanwhile, and a configured peer connects at once.
//!
//! How many are sent depends on the host: each test says how many there were.

use std::net::SocketAddrV4;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use adit_bench::lab::capture::{Capture, Datagram, Injector};
use adit_bench::lab::halfway::Halfway;
use adit_bench::lab::insider::{Insider, child};
use adit_bench::lab::metrics::Metrics;
use adit_bench::lab::stranger::{Kind, Stranger, ethernet, send_evenly, target};
use adit_bench::lab::{Gateway, Lab, LabOptions, PORT, SOON, WAN, wait_until};
use adit_proto::screen::{ADDRESSES, MOVED, Rates};
use adit_proto::stats::Drop;
use anyhow::{Context, Result, ensure};

use crate::flood::while_sent;
use crate::ike_tunnel::{ROLES, options, peer, spis};
use crate::{Pings, reaches};

/// Datagrams in a second, one by one, as far as the host can send so many.
const RATE: u32 = 60_000;
/// The part of what the host can send that it sends at least beside gateways at work.
const SHARE: u64 = 4;
/// Nothing listens there (RFC 863).
const DISCARD: u16 = 9;
/// An idle IKE SA that gets no answers is given up sooner.
const IDLE: Duration = Duration::from_secs(34);
/// So soon a configured peer is there.
const CONNECTED_WITHIN: Duration = Duration::from_secs(2);
/// Not so often that it is the load.
const PING_EVERY: Duration = Duration::from_millis(5);
/// A busy machine only delays: the best of these counts.
const TRIES: usize = 3;

/// Somebody who has seen on the cable how one gateway asks the other one to connect, as it does when it starts, and floods the
/// first one.
fn stranger(lab: &mut Lab, asker: usize, port: u16) -> Result<Stranger> {
    let mut capture = Capture::open(&lab.gateways[asker].netns, WAN)?;
    let from = lab.gateways[asker].outer();
    lab.gateways[asker].start_control()?;
    // IKE_SA_INIT is exchange 34 (RFC 7296 §3.1).
    let is_request = |datagram: &Datagram| {
        let at = if datagram.to.port() == 500 { 18 } else { 22 };
        *datagram.from.ip() == from && datagram.payload.get(at) == Some(&34)
    };
    let found = capture.collect(1, SOON, is_request)?.pop().context("no request came")?;
    let marker = if found.to.port() == 500 { 0 } else { 4 };
    let (to, request) = (target(lab.a(), port), found.payload[marker..].to_vec());
    let [there, here] = [&found.ethernet[..6], &found.ethernet[6..12]];
    let (there, here) = if asker == 0 { (here, there) } else { (there, here) };
    let ethernet = ethernet(here.try_into()?, there.try_into()?);
    Ok(Stranger { peer: lab.b().outer(), to, ethernet, request })
}

/// How many of these the host can send in a second, up to [`RATE`], where nobody has anything to do with them: to a port at which
/// nothing listens. Looked at once.
fn alone(link: &Injector, datagrams: &[Datagram]) -> Result<u64> {
    static ALONE: OnceLock<u64> = OnceLock::new();
    if let Some(rate) = ALONE.get() {
        return Ok(*rate);
    }
    let to_nobody = |datagram: &Datagram| Datagram { to: SocketAddrV4::new(*datagram.to.ip(), DISCARD), ..datagram.clone() };
    let datagrams: Vec<Datagram> = datagrams.iter().map(to_nobody).collect();
    let began = Instant::now();
    let sent = while_sent(
        |stop, sent| send_evenly(link, &datagrams, RATE, stop, sent),
        || {
            std::thread::sleep(Duration::from_millis(500));
            Ok(())
        },
    )?;
    let rate = (sent as f64 / began.elapsed().as_secs_f64()) as u64;
    println!("this host sends {rate} a second");
    Ok(*ALONE.get_or_init(|| rate))
}

/// Does something while the first gateway is flooded, and says how much it was in a second.
fn under_flood(lab: &Lab, what: &str, datagrams: &[Datagram], work: impl FnOnce() -> Result<()>) -> Result<u64> {
    let link = Injector::open(&lab.b().netns, WAN)?;
    let (alone, began) = (alone(&link, datagrams)?, Instant::now());
    let sent = while_sent(
        |stop, sent| send_evenly(&link, datagrams, RATE, stop, sent),
        || {
            std::thread::sleep(Duration::from_millis(300));
            work()
        },
    )
    .with_context(|| format!("{what}\n{}", lab.logs()))?;
    let rate = (sent as f64 / began.elapsed().as_secs_f64()) as u64;
    println!("{what}: {rate} a second");
    // Gateways and sender share the cores: what is left of what the host can send must be a flood still.
    ensure!(rate >= alone / SHARE, "{what}: only {rate} a second were sent, of {alone} that can be");
    Ok(rate)
}

/// What came above this rate was dropped by this name, where the host could send enough of it.
fn is_limited(lab: &Lab, before: &Metrics, why: Drop, (sent, limit): (u64, Rates)) -> Result<()> {
    let dropped = lab.a().metrics()?.dropped(why) - before.dropped(why);
    // A bucket begins full.
    ensure!(dropped > 0 || sent < 3 * u64::from(limit.all()), "{sent} a second, and none was dropped as {}", why.label());
    Ok(())
}

fn rekeys(lab: &Lab) -> Result<()> {
    let old = spis(lab.b())?;
    lab.b().adit("rekey --ike site-a")?;
    wait_until("the IKE SA is replaced under the flood", SOON, || Ok(spis(lab.b())?.0 != old.0))?;
    lab.b().adit("rekey site-a")?;
    wait_until("the keys are replaced under the flood", SOON, || Ok(spis(lab.b())?.1 != old.1))
}

/// How long it takes until this gateway has connected again to the other one.
fn connects(from: &Gateway, to: &Gateway) -> Result<Duration> {
    from.adit(&format!("disconnect {}", to.name))?;
    wait_until("the peer has gone", SOON, || Ok(peer(to)?["state"] != "established"))?;
    let began = Instant::now();
    from.adit(&format!("connect {}", to.name))?;
    wait_until("the peer is connected again", SOON, || Ok(peer(from)?["state"] == "established"))?;
    Ok(began.elapsed())
}

/// Under a flood, again until one was connected soon enough and lost no pings but those that are counted; gives its rate.
fn holds(lab: &Lab, what: &str, datagrams: &[Datagram], [from, to]: [&Gateway; 2]) -> Result<u64> {
    let (mut took, mut lost, mut rate) = (Vec::new(), Vec::new(), 0);
    while !took.iter().any(|took| *took <= CONNECTED_WITHIN) || !lost.iter().any(Result::is_ok) {
        ensure!(took.len() < TRIES, "{what}: connected after {took:?}, pings: {lost:?}\n{}", lab.logs());
        let pings = Pings::start(lab, lab.b(), lab.a().inner(), PING_EVERY)?;
        rate = under_flood(lab, what, datagrams, || {
            rekeys(lab)?;
            lost.push(pings.none_lost_behind_sockets(lab, 10));
            took.push(connects(from, to)?);
            Ok(())
        })?;
    }
    Ok(rate)
}

/// Every kind on one port, on which the peer begins.
fn every_kind(port: u16) -> Result<()> {
    let mut lab = Lab::prepare(&options(&[ROLES[1], ROLES[0]]))?;
    if port != PORT {
        crate::edit(lab.b(), &format!("{}:{PORT}", lab.a().outer()), &format!("{}:{port}", lab.a().outer()))?;
    }
    lab.gateways[0].start_control()?;
    let stranger = stranger(&mut lab, 1, port)?;
    lab.wait_until_up()?;
    let before = lab.a().metrics()?;
    let mut as_peer = 0;
    for kind in Kind::ALL {
        if port != PORT && kind == Kind::Esp {
            continue;
        }
        let rate = holds(&lab, &format!("{kind:?} on port {port}"), &stranger.datagrams(kind), [lab.b(), lab.a()])?;
        if kind == Kind::PeersRequests {
            as_peer = rate;
        }
    }
    is_limited(&lab, &before, Drop::PuntAddressLimit, (as_peer, ADDRESSES))?;
    let after = lab.a().metrics()?;
    for why in [Drop::BadIke, Drop::PuntNetworkLimit] {
        ensure!(after.dropped(why) > before.dropped(why), "none was counted as {}", why.label());
    }
    reaches(&lab.b().netns, lab.a().inner())
}

/// Whoever knows a peer's address and port sends as it does. What the peer asks comes through by lot; what we ask is answered, for
/// that takes an SPI that only the peer has seen.
#[test]
fn requests_under_the_peers_address_and_port_keep_us_from_nothing() -> Result<()> {
    let mut lab = Lab::prepare(&options(&ROLES))?;
    let stranger = stranger(&mut lab, 0, PORT)?;
    lab.gateways[1].start_control()?;
    lab.wait_until_up()?;
    let before = lab.a().metrics()?;
    let rate = holds(&lab, "requests as of the peer", &stranger.datagrams(Kind::PeersPort), [lab.a(), lab.b()])?;
    is_limited(&lab, &before, Drop::PuntAddressLimit, (rate, ADDRESSES))
}

/// Whoever hears the cable knows the SPIs as well.
#[test]
fn an_idle_tunnel_outlives_who_sends_under_its_spis() -> Result<()> {
    let mut lab = Lab::prepare(&options(&["role: initiator, dpd_s: 3", "role: responder, dpd_s: 3"]))?;
    let stranger = stranger(&mut lab, 0, PORT)?;
    lab.gateways[1].start_control()?;
    lab.wait_until_up()?;
    let overheard = |lab: &Lab| -> Result<Vec<Datagram>> {
        let spis = u128::from_str_radix(&spis(lab.a())?.0, 16).context("SPIs of an IKE SA")?;
        Ok(stranger.overheard(spis.to_be_bytes()))
    };
    let handshakes = |gateway: &Gateway| Ok::<_, anyhow::Error>(gateway.metrics()?.sum("adit_ike_handshakes_total", &[]));
    let (before, datagrams) = ((spis(lab.a())?.0, handshakes(lab.a())?), overheard(&lab)?);
    let counted = lab.a().metrics()?;
    let rate = under_flood(&lab, "overheard, while all is idle", &datagrams, || {
        std::thread::sleep(IDLE);
        ensure!((spis(lab.a())?.0, handshakes(lab.a())?) == before, "it was made anew");
        rekeys(&lab)
    })?;
    // Half of them come from elsewhere.
    is_limited(&lab, &counted, Drop::PuntKnownLimit, (rate / 2, MOVED))?;
    // What nobody has overheard yet is as it was.
    under_flood(&lab, "overheard, once more", &overheard(&lab)?, || rekeys(&lab))?;
    reaches(&lab.b().netns, lab.a().inner())
}

/// Eighty hosts in five networks, none of which goes on after its cookie. What they take is not what configured endpoints have:
/// the peer is there as soon as ever, and what is established goes on.
#[test]
fn hosts_that_go_no_further_than_their_cookies_lock_no_peer_out() -> Result<()> {
    let ike = ["role: responder", "role: initiator"].map(str::to_owned).to_vec();
    let mut lab = Lab::prepare(&LabOptions { gateways: 3, ike, ..LabOptions::default() })?;
    lab.gateways[..2].iter_mut().try_for_each(Gateway::start_control)?;
    wait_until("the peer is there", SOON, || Ok(reaches(&lab.b().netns, lab.a().inner()).is_ok())).with_context(|| lab.logs())?;
    let insider = Insider::new(&lab.gateways[2], (&lab.a().name, lab.a().outer()), lab.dir(), vec![child("ethernet", None)])?;
    let hosts = Halfway::new(&lab.gateways[2], lab.a(), (5, 16), &insider.request()?)?;
    let (mut took, mut most) = (Vec::new(), 0.0);
    let begun = while_sent(
        |stop, begun| hosts.go_on(stop, begun),
        || {
            while !took.iter().any(|took| *took <= CONNECTED_WITHIN) {
                ensure!(took.len() < TRIES, "connected after {took:?}");
                std::thread::sleep(Duration::from_secs(1));
                took.push(connects(lab.b(), lab.a())?);
                most = lab.a().metrics()?.sum("adit_ike_half_open", &[]).unwrap_or(0.0).max(most);
            }
            Ok(())
        },
    )
    .with_context(|| lab.logs())?;
    println!("{begun} begun, {most} half open at a time; the peer was connected after {took:?}");
    ensure!(begun >= 160 && most >= 80.0, "only {begun} were begun, {most} at a time");
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
