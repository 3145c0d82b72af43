//! What a registered client can do, and how it comes back.

use std::time::Duration;

use adit_proto::relay::{Kind, PeerKey, Train};
use adit_relay::client::{Cause, Delivery, Event, Events, Handle, Introduction, ProxyChoice, Standing};

use crate::site::{Relay, client, client_with, failed, hear, host_port, key_in, registered, soon};

/// Two clients that see each other.
async fn pair(relays: &[&Relay]) -> ((Handle, Events), (Handle, Events)) {
    let of = || client(relays.iter().map(|relay| relay.lab()).collect());
    let ((one, mut one_events), (other, mut other_events)) = (of(), of());
    joined(&mut one_events, other.key()).await;
    joined(&mut other_events, one.key()).await;
    ((one, one_events), (other, other_events))
}

async fn joined(events: &mut Events, wanted: PeerKey) {
    let is_it = |event| matches!(event, Event::Joined { peer, .. } if peer == wanted).then_some(());
    hear("somebody joins", events, is_it).await;
}

async fn delivered(events: &mut Events) -> Delivery {
    hear("a delivery", events, |event| if let Event::Delivered(delivery) = event { Some(delivery) } else { None }).await
}

async fn introduced(events: &mut Events) -> Introduction {
    let of = |event| if let Event::Introduced { introduction, .. } = event { Some(introduction) } else { None };
    hear("an introduction", events, of).await
}

fn esp(payload: &[u8]) -> Train<'_> {
    Train { kind: Kind::Esp, class: 0, segment: 0, payload }
}

/// Looks at the client until it is so.
async fn until(what: &str, handle: &Handle, is_so: impl Fn(&Handle) -> bool) {
    soon(what, async {
        while !is_so(handle) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn two_clients_pass_trains_and_are_introduced() {
    let relay = Relay::new().await;
    let ((one, mut one_events), (other, mut other_events)) = pair(&[&relay]).await;
    let payload: Vec<u8> = (0..46 * 1400).map(|number| (number % 251) as u8).collect();
    // AF41 with ECN "congested": what a relay must carry as it is.
    let train = Train { kind: Kind::Esp, class: 0b1000_1011, segment: 1400, payload: &payload };
    one.send(other.key(), train).unwrap();
    let delivery = delivered(&mut other_events).await;
    assert_eq!((delivery.from, delivery.kind, delivery.class, delivery.segment), (one.key(), Kind::Esp, 0b1000_1011, 1400));
    assert!(delivery.payload == payload, "the payload is whole");
    other.send(one.key(), Train { kind: Kind::Ike, ..esp(b"sa_init") }).unwrap();
    let delivery = delivered(&mut one_events).await;
    assert_eq!((delivery.from, delivery.kind, &delivery.payload[..]), (other.key(), Kind::Ike, &b"sa_init"[..]));

    one.meet(other.key()).unwrap();
    let (at_one, at_other) = (introduced(&mut one_events).await, introduced(&mut other_events).await);
    assert_eq!((at_one.peer, at_other.peer, at_one.id), (other.key(), one.key(), at_other.id));
    one.direct(other.key(), true).unwrap();
    let key = one.key();
    let is_it = |event| matches!(event, Event::PeerDirect { peer, on: true } if peer == key).then_some(());
    hear("that the peer went direct", &mut other_events, is_it).await;
    one.describe(b"something else").unwrap();
    let described =
        |event| matches!(event, Event::Described { metadata, .. } if *metadata == b"something else"[..]).then_some(());
    hear("a description", &mut other_events, described).await;

    until("a round trip", &one, |one| one.status()[0].median.is_some()).await;
    let status = one.status().remove(0);
    assert!(status.is_home && status.standing == Standing::Registered && status.counters.registrations == 1, "{status:?}");
    assert!(status.welcome.unwrap().observed.ip().is_loopback() && status.last_failure.is_none());
    drop((other, other_events));
    let left =
        hear("that somebody left", &mut one_events, |event| if let Event::Left { peer, .. } = event { Some(peer) } else { None });
    left.await;
    one.send(PeerKey([7; 32]), esp(b"for nobody")).unwrap();
    let absent = |event| matches!(event, Event::Absent { peer, .. } if peer == PeerKey([7; 32])).then_some(());
    hear("that nobody is there", &mut one_events, absent).await;
}

#[tokio::test]
async fn a_client_comes_back_after_the_relay_died() {
    let mut relay = Relay::new().await;
    let ((one, mut one_events), (other, mut other_events)) = pair(&[&relay]).await;
    relay.die();
    let failure = failed(&mut one_events, 0).await;
    assert!(matches!(failure.cause, Cause::Closed(_) | Cause::ConnectionRefused), "{failure}");
    let key = other.key();
    let is_gone = |event| matches!(event, Event::Left { peer, reason: None, .. } if peer == key).then_some(());
    hear("that nobody is seen any more", &mut one_events, is_gone).await;
    failed(&mut other_events, 0).await;
    relay.again().await;
    joined(&mut one_events, other.key()).await;
    joined(&mut other_events, one.key()).await;
    one.send(other.key(), esp(b"again")).unwrap();
    assert_eq!(&delivered(&mut other_events).await.payload[..], b"again");
    assert_eq!(one.status()[0].counters.registrations, 2);
}

#[tokio::test]
async fn of_two_relays_one_may_die_and_peers_stay() {
    let (mut first, second) = (Relay::new().await, Relay::new().await);
    let ((one, mut one_events), (other, mut other_events)) = pair(&[&first, &second]).await;
    let both = |handle: &Handle| handle.status().iter().all(|relay| relay.standing == Standing::Registered && relay.peers == 1);
    until("the other at both relays", &one, both).await;
    until("the other at both relays", &other, both).await;
    first.die();
    let mut heard = Vec::new();
    let failure = hear("the failure", &mut one_events, |event| match event {
        Event::Failed { relay: 0, failure } => Some(failure),
        event => {
            heard.push(event);
            None
        }
    });
    failure.await;
    until("the other relay is home", &one, |one| one.status()[1].is_home).await;
    one.send(other.key(), esp(b"by the other")).unwrap();
    let delivery = delivered(&mut other_events).await;
    assert_eq!((&delivery.payload[..], delivery.relay), (&b"by the other"[..], 1));
    assert!(!heard.iter().any(|event| matches!(event, Event::Left { .. })), "{heard:?}");
    // The one that died comes back, and all the time the other one is what it was.
    first.again().await;
    registered(&mut one_events, 0).await;
    let counters = one.status()[1].counters;
    assert_eq!((counters.registrations, counters.failures), (1, 0));
}

#[tokio::test]
async fn a_relay_that_ends_is_left_when_it_says_and_found_again() {
    let mut relay = Relay::new().await;
    let (handle, mut events) = client(vec![relay.lab()]);
    registered(&mut events, 0).await;
    relay.end();
    let is_told = |event| matches!(event, Event::Draining { relay: 0, .. }).then_some(());
    hear("that the relay ends", &mut events, is_told).await;
    let failure = failed(&mut events, 0).await;
    assert!(matches!(failure.cause, Cause::Stopping | Cause::Closed(_)), "{failure}");
    relay.again().await;
    registered(&mut events, 0).await;
    assert_eq!(handle.status()[0].counters.registrations, 2);
}

#[tokio::test]
async fn a_relay_that_ends_and_names_another_is_left_for_it_at_once() {
    let target = Relay::new().await;
    let mut ending = target.twin(&format!("drain: {{ to: [\"{}\"] }}\n", target.address)).await;
    let (handle, mut events) = client(vec![ending.lab()]);
    registered(&mut events, 0).await;
    ending.end();
    assert_eq!(failed(&mut events, 0).await.cause, Cause::Stopping);
    registered(&mut events, 0).await;
    assert_eq!(handle.status()[0].place.as_deref(), Some(host_port(target.address).as_str()));
}

#[tokio::test]
async fn two_clients_with_one_key_do_not_fight() {
    let relay = Relay::new().await;
    let directory = tempfile::tempdir().unwrap();
    let same = || client_with(vec![relay.lab()], key_in(directory.path()), ProxyChoice::None);
    let (old, mut old_events) = same();
    registered(&mut old_events, 0).await;
    let (new, mut new_events) = same();
    registered(&mut new_events, 0).await;
    let failure = failed(&mut old_events, 0).await;
    assert!(matches!(failure.cause, Cause::Replaced(_)) && failure.to_string().contains("a key of its own"), "{failure}");
    let status = old.status().remove(0);
    assert!(matches!(status.standing, Standing::Waiting(wait) if wait > Duration::from_secs(50)), "{status:?}");
    // Nothing comes of it for a while.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let connects: u64 = [&old, &new].map(|handle| handle.status()[0].counters.registrations).iter().sum();
    assert_eq!((connects, new.status()[0].standing), (2, Standing::Registered));
}

#[tokio::test]
async fn a_client_ends_with_its_handle() {
    let relay = Relay::new().await;
    let ((one, one_events), (_other, mut other_events)) = pair(&[&relay]).await;
    let key = one.key();
    drop(one);
    let left = |event| matches!(event, Event::Left { peer, .. } if peer == key).then_some(());
    hear("that somebody left", &mut other_events, left).await;
    drop(one_events);
}
