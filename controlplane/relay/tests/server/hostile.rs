//! Clients that are let in and then do what they should not: it is the end of their own connection and of nothing else.

use adit_proto::limits::RELAY_RECORD_LEN_MAX;
use adit_proto::relay::{FromRelay, LeftReason, PeerKey};
use futures::SinkExt;
use tokio_websockets::Message;

use crate::client::Client;
use crate::relay::Relay;

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
    crate::relay::soon("the end of the flood", flood).await.expect("no panic");
}
