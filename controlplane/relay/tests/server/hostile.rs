//! Clients that are let in and then do what they should not: it is the end of their own connection and of nothing else.

use std::time::{Duration, Instant};

use adit_proto::limits::RELAY_RECORD_LEN_MAX;
use adit_proto::relay::{FromRelay, LeftReason, PeerKey};
use futures::SinkExt;
use tokio::io::AsyncWriteExt;
use tokio_websockets::Message;

use crate::client::Client;
use crate::relay::{NO_HURRY, Relay, soon};

/// Two that know of each other.
async fn pair(relay: &Relay) -> (Client, Client) {
    let mut one = Client::join(relay, &["lab"]).await;
    let other = Client::join(relay, &["lab"]).await;
    one.hear_of("the other has joined", |record| matches!(record, FromRelay::Joined { peer, .. } if *peer == other.key)).await;
    (one, other)
}

async fn hears_of_the_end(client: &mut Client, of: PeerKey, why: LeftReason) {
    let heard = client.hear_of("it has left", |record| matches!(record, FromRelay::Left { peer, .. } if *peer == of)).await;
    assert!(matches!(heard.record(), FromRelay::Left { reason, .. } if reason == why), "{:?}", heard.record());
}

#[tokio::test]
async fn a_frame_that_is_too_long_ends_its_connection_and_no_other() {
    let relay = Relay::with_lab().await;
    let (mut one, mut other) = pair(&relay).await;
    // The relay closes before it has read all of it, so it may not go out whole.
    let _ = other.say_bytes(vec![1; RELAY_RECORD_LEN_MAX + 1]).await;
    assert!(matches!(other.hear_end().await, Some(1009) | None), "message too big (RFC 6455 §7.4.1), if it can be said");
    hears_of_the_end(&mut one, other.key, LeftReason::FAULT).await;
}

#[tokio::test]
async fn text_and_what_is_no_record_end_the_connection() {
    let relay = Relay::with_lab().await;
    for wrong in [Message::text("hello"), Message::binary(vec![1u8, 2, 3]), Message::binary(Vec::new())] {
        let (mut one, mut other) = pair(&relay).await;
        other.socket().send(wrong).await.expect("it goes out");
        assert_eq!(other.hear_end().await, Some(1002));
        hears_of_the_end(&mut one, other.key, LeftReason::FAULT).await;
    }
}

#[tokio::test]
async fn a_record_of_a_later_version_is_left_alone() {
    let relay = Relay::with_lab().await;
    let (mut one, mut other) = pair(&relay).await;
    other.say_bytes(vec![0x7f, 1, 2, 3]).await.expect("it goes out");
    other.send_esp(one.key, 0, b"still here").await;
    one.hear_of("a train", |record| matches!(record, FromRelay::Deliver { .. })).await;
}

/// Each ping has an answer that waits until it is read: who asks and never reads would fill the relay with them.
#[tokio::test]
async fn who_pings_and_never_reads_is_sent_away() {
    let relay = Relay::with_lab().await;
    let (mut one, mut other) = pair(&relay).await;
    let key = other.key;
    let flood = tokio::spawn(async move {
        // Until the relay closes; nothing is read.
        while other.socket().send(Message::ping(vec![7u8; 125])).await.is_ok() {}
    });
    let heard = one.hear_of("it has left", |record| matches!(record, FromRelay::Left { peer, .. } if *peer == key)).await;
    assert!(matches!(heard.record(), FromRelay::Left { .. }));
    soon("the end of the flood", flood).await.expect("no panic");
}

/// Pongs that nobody asked for are as many records to read as any others.
#[tokio::test]
async fn who_sends_too_much_of_anything_is_read_from_no_faster() {
    const RATE: u64 = 200;
    let limits = format!("limits: {{ records_per_s: {RATE}, {NO_HURRY} }}\n");
    let relay = Relay::new(&format!("rooms:\n  lab: {{ token_file: lab.token }}\n{limits}")).await;
    let (mut one, mut other) = pair(&relay).await;
    let began = Instant::now();
    for _ in 0..4 * RATE {
        other.socket().send(Message::pong(vec![7u8; 8])).await.expect("it goes out");
    }
    other.send_esp(one.key, 0, b"behind all of them").await;
    one.hear_of("a train", |record| matches!(record, FromRelay::Deliver { .. })).await;
    // Twice as many at once; the rest as fast as it may be.
    assert!(began.elapsed() >= Duration::from_millis(1900), "{:?}", began.elapsed());
    assert!(relay.stats().await["held_back"].as_u64().is_some_and(|times| times > 0));
}

/// The beginning of a message, and then fragments of it without a byte in them.
#[tokio::test]
async fn fragments_of_nothing_come_to_an_end() {
    let relay = Relay::with_lab().await;
    let (mut one, other) = pair(&relay).await;
    let key = other.key;
    // A masked frame of one byte, binary and not the last (RFC 6455 §5.2), and empty ones that go on with it.
    let (first, empty) = ([0x02, 0x81, 0, 0, 0, 0, 1], [0x00, 0x80, 0, 0, 0, 0].repeat(1000));
    let mut stream = other.into_stream();
    let flood = tokio::spawn(async move {
        stream.write_all(&first).await?;
        while stream.write_all(&empty).await.is_ok() {}
        Ok::<_, std::io::Error>(())
    });
    hears_of_the_end(&mut one, key, LeftReason::FAULT).await;
    soon("the end of the flood", flood).await.expect("no panic").expect("it began");
}
