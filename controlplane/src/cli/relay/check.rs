//! `adit relay check`: registers at a relay as a gateway would, has a message passed to a second client, and says what works, what does not
//! and what to do about it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use adit_proto::relay::{HostPort, Kind, PeerKey, RoomName, Train};
use adit_relay::client::{self, Cause, Client, Event, Events, Handle, ProxyChoice, TurnGrant};
use adit_relay::config;
use adit_relay::key::ClientKey;
use adit_relay::login::Token;
use adit_relay::secret_file;
use adit_relay::tls::{Pin, Trust};
use anyhow::{Context, bail};
use clap::Args;
use tokio::time::timeout;

use super::reach::try_reach;
use super::report::Report;
use crate::routing_rules;

/// So long is waited for one step. A way that is slower is of no use to a gateway.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a round trip is looked for that is not measured yet.
const LOOK: Duration = Duration::from_millis(20);
/// DSCP EF and ECN "capable" (RFC 3246, RFC 3168 §5): what a relay must not change.
const CLASS: u8 = 46 << 2 | 2;
/// Length of the datagrams of the message, and how many there are.
const SEGMENT: u16 = 1200;
const SEGMENTS: usize = 3;
/// How many of those who are in a room are named.
const NAMED: usize = 8;

/// Which relay, and how to come in.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// The configuration file of a relay that runs on this machine: each of its rooms with a token is tried
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["relay", "pin", "ca", "room", "token_file"],
        required_unless_present = "relay")]
    config: Option<PathBuf>,
    /// The relay
    #[arg(long, value_name = "HOST:PORT", requires = "room")]
    relay: Option<HostPort>,
    /// Its key, as `adit relay init` printed it; two while it changes
    #[arg(long, value_name = "PIN", required_unless_present_any = ["ca", "config"])]
    pin: Vec<Pin>,
    /// Or the certificate of the CA that signed for it, as PEM
    #[arg(long, value_name = "FILE", conflicts_with = "pin")]
    ca: Option<PathBuf>,
    /// The room to be in
    #[arg(long, value_name = "ROOM")]
    room: Option<RoomName>,
    /// The file with the token of the room; without it the room must list the key of this client
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Be the client whose key is in this directory. Where that one is registered, no more is found out than that it may be
    /// there: nobody takes its place. Without it, one that nobody knows
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// One room of one relay that is tried.
struct Place {
    relay: client::Relay,
    proxy: ProxyChoice,
}

/// Tries it. What is to be printed, and whether all is well.
///
/// # Errors
/// It cannot be tried at all.
pub(super) fn run(check: &Check) -> anyhow::Result<(String, bool)> {
    let mut report = Report::default();
    let places = places(check, &mut report)?;
    // Some threads: the answer to one client must not wait for the other.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    for place in places {
        let key = match &check.state_dir {
            // None is made: the gateway could not read one of this user's.
            Some(dir) => ClientKey::load(dir)?,
            None => ClientKey::generate()?,
        };
        report.place(format_args!("relay {}, room {}", place.relay.at, place.relay.rooms[0]));
        runtime.block_on(try_place(place, key, &mut report))?;
    }
    runtime.shutdown_background();
    Ok(report.end())
}

/// What is to be tried.
fn places(check: &Check, report: &mut Report) -> anyhow::Result<Vec<Place>> {
    if let Some(file) = &check.config {
        let config = config::Config::load(file)?;
        // Whoever asks may read more than the service.
        config.files.iter().filter_map(|file| secret_file::closed_to_service(file)).for_each(|why| report.wrong(why));
        return places_of(&config, report);
    }
    let (Some(at), Some(room)) = (check.relay.clone(), check.room.clone()) else {
        bail!("name the relay and one of its rooms: --relay HOST:PORT --pin PIN --room ROOM");
    };
    let trust = match &check.ca {
        Some(file) => Trust::roots(file).with_context(|| format!("--ca {}", file.display()))?,
        None => Trust::Pins(check.pin.clone()),
    };
    let token = check.token_file.as_deref().map(token).transpose()?;
    Ok(vec![Place {
        relay: client::Relay { at, trust, rooms: vec![room], token, is_probe: true },
        proxy: ProxyChoice::Environment,
    }])
}

fn token(file: &Path) -> anyhow::Result<Token> {
    let text = zeroize::Zeroizing::new(std::fs::read(file).with_context(|| format!("reading the token in {}", file.display()))?);
    let what = || format!("{} holds no token: 20 to 256 letters and digits, as adit relay init makes one", file.display());
    Token::from_file(&text).with_context(what)
}

/// The rooms of a relay on this machine that somebody can come into by a token.
fn places_of(config: &config::Config, report: &mut Report) -> anyhow::Result<Vec<Place>> {
    let listen = config.listen.first().context("the configuration names no address to listen at")?;
    let at = HostPort::new(&here(*listen).to_string())?;
    let mut places = Vec::new();
    for (room, guests) in &config.access.0 {
        match guests.tokens.first() {
            Some(token) => {
                let (trust, token) = (Trust::Pins(vec![config.credentials.pin]), Some(token.clone()));
                let relay = client::Relay { at: at.clone(), trust, rooms: vec![room.clone()], token, is_probe: true };
                // It is this machine.
                places.push(Place { relay, proxy: ProxyChoice::None });
            }
            None => report.note(format_args!(
                "room {room} has no token and is not tried; a gateway that it lists can: adit relay check --relay {at} --pin {} \
                 --room {room} --state-dir DIR",
                config.credentials.pin
            )),
        }
    }
    Ok(places)
}

/// Where a socket is reached from this machine that listens at all its addresses.
fn here(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

async fn try_place(place: Place, key: ClientKey, report: &mut Report) -> anyhow::Result<()> {
    let (handle, mut events) = start(&place, key)?;
    let began = Instant::now();
    let welcome = match registered(&mut events).await {
        Ok(welcome) => welcome,
        Err(NotIn { is_in_use: true, .. }) => {
            report.well(format_args!("{} may be there, and is registered at this moment", handle.key()));
            report.note(
                "no message was passed: that would take its place; without --state-dir, with the token of the room, one is",
            );
            return Ok(());
        }
        Err(NotIn { why, .. }) => {
            report.wrong(why);
            return Ok(());
        }
    };
    report.well(format_args!("registered in {} ms, as {}", began.elapsed().as_millis(), handle.key()));
    report.well(format_args!("the relay sees this machine as {}", welcome.observed));
    if let Some(rtt) = round_trip(&handle).await {
        report.well(format_args!("a round trip takes {:.1} ms", rtt.as_secs_f64() * 1000.0));
    } else {
        report.wrong("no answer to a ping; a firewall that knows no WebSocket does this: have it pass TLS through unread");
    }
    // Who was there is told before the answer to the ping.
    let News { present: others, stun, grant } = news(&mut events).await;
    let named = others.iter().take(NAMED).map(PeerKey::to_string).collect::<Vec<_>>().join(", ");
    report.well(match others.len() {
        0 => "nobody else is in the room".to_owned(),
        count => format!("{count} in the room: {named}{}", if count > NAMED { ", …" } else { "" }),
    });
    try_reach(&stun, grant.as_ref(), report).await;
    if place.relay.token.is_none() {
        report.note("no message was passed: without the token of the room no second client comes in");
        return Ok(());
    }
    let (second, mut second_events) = start(&place, ClientKey::generate()?)?;
    match registered(&mut second_events).await {
        Err(NotIn { why, .. }) => report.wrong(format_args!("a second client, which the message was for: {why}")),
        Ok(_) => pass(&handle, &mut events, &second, &mut second_events, report).await,
    }
    Ok(())
}

fn start(place: &Place, key: ClientKey) -> anyhow::Result<(Handle, Events)> {
    let metadata = b"adit relay check".to_vec();
    let (relays, proxy) = (vec![place.relay.clone()], place.proxy.clone());
    // As a gateway goes there: beside its full tunnel, if it has one.
    Ok(Client::start(client::Config { relays, key, metadata, proxy, mark: Some(routing_rules::MARK) })?)
}

/// Why a client is not registered.
struct NotIn {
    why: String,
    /// The one whose key it has is, and this one would be let in without it.
    is_in_use: bool,
}

/// The first attempt counts: whoever sets up a relay wants to know now.
async fn registered(events: &mut Events) -> Result<client::Welcome, NotIn> {
    let not_in = |why: String| NotIn { why, is_in_use: false };
    let first = async {
        loop {
            match events.next().await {
                Some(Event::Registered { welcome, .. }) => return Ok(welcome),
                Some(Event::Failed { failure, .. }) => {
                    return Err(NotIn { why: failure.to_string(), is_in_use: failure.cause == Cause::InUse });
                }
                Some(_) => {}
                None => return Err(not_in("the client ended".to_owned())),
            }
        }
    };
    timeout(PATIENCE, first).await.unwrap_or_else(|_| Err(not_in(format!("nothing came of it in {} s", PATIENCE.as_secs()))))
}

async fn round_trip(handle: &Handle) -> Option<Duration> {
    let measured = async {
        loop {
            if let Some(rtt) = handle.status().first().and_then(|relay| relay.rtt) {
                return rtt;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    timeout(PATIENCE, measured).await.ok()
}

/// What has come so far.
#[derive(Default)]
struct News {
    present: Vec<PeerKey>,
    stun: Vec<SocketAddr>,
    grant: Option<TurnGrant>,
}

async fn news(events: &mut Events) -> News {
    let mut news = News::default();
    while let Ok(Some(event)) = timeout(LOOK, events.next()).await {
        match event {
            Event::Joined { peer, .. } => news.present.push(peer),
            Event::Left { peer, .. } => news.present.retain(|known| *known != peer),
            Event::Stun { servers, .. } => news.stun = servers,
            Event::Turn { grant, .. } => news.grant = Some(grant),
            _ => {}
        }
    }
    news
}

/// A train to the second client and back.
async fn pass(handle: &Handle, events: &mut Events, second: &Handle, second_events: &mut Events, report: &mut Report) {
    let mut payload = vec![0; usize::from(SEGMENT) * SEGMENTS];
    for (byte, number) in payload.iter_mut().zip((0..=u8::MAX).cycle()) {
        *byte = number;
    }
    let train = Train { kind: Kind::Esp, class: CLASS, segment: SEGMENT, payload: &payload };
    let began = Instant::now();
    for (from, to, receives) in [(handle, second, second_events), (second, handle, events)] {
        if let Err(unsent) = from.send(to.key(), train) {
            report.wrong(format_args!("no message can be sent: {unsent}"));
            return;
        }
        match timeout(PATIENCE, delivered(receives, from.key())).await {
            Ok(Ok(delivery))
                if (delivery.kind, delivery.class, delivery.segment) == (Kind::Esp, CLASS, SEGMENT)
                    && *delivery.payload == payload[..] => {}
            Ok(Ok(_)) => {
                report.wrong("a message came otherwise than it was sent; use versions of adit that fit together");
                return;
            }
            Ok(Err(failure)) => {
                report.wrong(failure);
                return;
            }
            Err(_) => {
                report.wrong("a message to a second client did not arrive; the log of the relay may say why");
                return;
            }
        }
    }
    report.well(format_args!("a message went to a second client and back in {:.1} ms", began.elapsed().as_secs_f64() * 1000.0));
}

/// What somebody sent, or why nothing comes any more.
async fn delivered(events: &mut Events, from: PeerKey) -> Result<client::Delivery, String> {
    loop {
        match events.next().await {
            Some(Event::Delivered(delivery)) if delivery.from == from => return Ok(delivery),
            Some(Event::Failed { failure, .. }) => return Err(failure.to_string()),
            Some(Event::Absent { .. }) => return Err("the relay does not see a second client that it has registered".to_owned()),
            Some(_) => {}
            None => return Err("the client ended".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_at_all_addresses_is_reached_at_the_nearest() {
        let here = |text: &str| here(text.parse().unwrap()).to_string();
        assert_eq!(here("0.0.0.0:443"), "127.0.0.1:443");
        assert_eq!(here("[::]:8443"), "[::1]:8443");
        assert_eq!(here("192.0.2.1:443"), "192.0.2.1:443");
    }
}
