//! `adit relay check`: registers at a relay as a gateway would, has a message passed to a second client, and says what works, what does not
//! and what to do about it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use adit_proto::relay::{Kind, PeerKey, RoomName, Train};
use adit_relay::client::{self, Cause, Client, Event, Events, Handle, TurnGrant};
use adit_relay::key::ClientKey;
use tokio::time::timeout;

use super::place::{Check, Place, places};
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
        let rooms: Vec<&str> = place.relay.rooms.iter().map(RoomName::as_str).collect();
        let word = if rooms.len() == 1 { "room" } else { "rooms" };
        report.place(format_args!("relay {}, {word} {}", place.relay.at, rooms.join(", ")));
        runtime.block_on(try_place(place, &mut report))?;
    }
    runtime.shutdown_background();
    Ok(report.end())
}

async fn try_place(place: Place, report: &mut Report) -> anyhow::Result<()> {
    let (handle, mut events) = start(&place, place.key()?)?;
    let began = Instant::now();
    let welcome = match registered(&mut events).await {
        Ok(welcome) => welcome,
        Err(NotIn { cause: Some(Cause::InUse), .. }) => {
            report.well(format_args!("{} may be there, and is registered at this moment", handle.key()));
            report.note("no message was passed: that would take its place; with --relay, --pin, --room and --token-file one is");
            return Ok(());
        }
        Err(NotIn { why, cause }) => {
            report.wrong(why);
            if place.relay.rooms.len() > 1 && matches!(cause, Some(Cause::UnknownRoom(_) | Cause::NotListed { .. })) {
                return each_alone(&place, report).await;
            }
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

/// A relay says of several rooms only that one of them is wrong: which one, is found out.
async fn each_alone(place: &Place, report: &mut Report) -> anyhow::Result<()> {
    report.note("who may not be in one of several rooms is let into none of them; each alone:");
    for room in &place.relay.rooms {
        let alone = place.with_room(room);
        let (_handle, mut events) = start(&alone, alone.key()?)?;
        match registered(&mut events).await {
            Ok(_) | Err(NotIn { cause: Some(Cause::InUse), .. }) => report.well(format_args!("room {room}: may be there")),
            Err(NotIn { why, .. }) => report.wrong(format_args!("room {room}: {why}")),
        }
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
    cause: Option<Cause>,
}

/// The first attempt counts: whoever sets up a relay wants to know now.
async fn registered(events: &mut Events) -> Result<client::Welcome, NotIn> {
    let not_in = |why: String| NotIn { why, cause: None };
    let first = async {
        loop {
            match events.next().await {
                Some(Event::Registered { welcome, .. }) => return Ok(welcome),
                Some(Event::Failed { failure, .. }) => {
                    return Err(NotIn { why: failure.to_string(), cause: Some(failure.cause) });
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
