//! Those who connect and say nothing, or come in crowds: they wait at the door, and who is honest comes in.

use std::net::SocketAddr;
use std::time::Instant;

use adit_proto::relay::FromRelay;
use adit_relay::key::ClientKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::client::{Client, tls_from};
use crate::relay::{NO_HURRY, Relay, soon, until};

/// A connection from this address on which nothing is said.
async fn silent(source: [u8; 4], to: SocketAddr) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.set_reuseaddr(true).ok()?;
    socket.bind(SocketAddr::from((source, 0))).ok()?;
    socket.connect(to).await.ok()
}

const LAB: &str = "rooms:\n  lab: { token_file: lab.token }\n";

#[tokio::test]
async fn many_connects_from_one_network_do_not_lock_out_another() {
    const RATE: u64 = 5;
    const CROWD: u64 = 400;
    let relay = Relay::new(&format!("{LAB}limits: {{ handshakes_of_network_per_s: {RATE}, login_s: 60 }}\n")).await;
    let (began, mut held) = (Instant::now(), Vec::new());
    for host in 0..CROWD {
        held.extend(silent([127, 0, 77, host as u8], relay.address).await);
    }
    // Each other network has a share of its own; /stats is asked for from one, too.
    let stream = tls_from([127, 3, 3, 3], relay.address, relay.pin).await.expect("let in beside the crowd");
    let key = ClientKey::generate().expect("a key");
    let client = Client::login_on(stream, &key, &["lab"], Some(&relay.token)).await;
    assert!(client.is_ok(), "{:?}", client.err());
    let turned = relay.refused("handshakes_of_network").await;
    let earned = RATE * (began.elapsed().as_secs() + 2);
    assert!(turned + earned >= CROWD, "{turned} of {CROWD} were turned away, and {earned} had a turn");
}

#[tokio::test]
async fn half_open_connections_give_their_place_up() {
    let limits = "limits: { login_s: 3, handshakes_of_network_per_s: 1000, handshakes_per_s: 1000 }\n";
    let relay = Relay::new(&format!("{LAB}{limits}")).await;
    // Silence, half a ClientHello, and TLS with half a request.
    let mut quiet = silent([127, 0, 0, 1], relay.address).await.expect("a connection");
    let mut half = silent([127, 0, 0, 1], relay.address).await.expect("a connection");
    half.write_all(&[22, 3, 1, 2, 0, 1]).await.expect("bytes go out");
    let mut slow = tls_from([127, 0, 0, 1], relay.address, relay.pin).await.expect("TLS");
    slow.write_all(b"GET /v1/relay HTTP/1.1\r\nHost: loc").await.expect("bytes go out");
    for stream in [&mut quiet, &mut half] {
        let mut rest = Vec::new();
        let _ = soon("the end of a half-open connection", stream.read_to_end(&mut rest)).await;
    }
    let mut rest = Vec::new();
    let _ = soon("the end of a slow login", slow.read_to_end(&mut rest)).await;
    until("all three are counted as late", async || relay.refused("late").await == 3).await;
    // Who asks is one of them.
    until("nobody waits", async || relay.stats().await["strangers"] == 1).await;
}

#[tokio::test]
async fn a_crowd_of_strangers_pushes_out_its_oldest_and_no_client() {
    let relay = Relay::new(&format!("{LAB}limits: {{ strangers: 10, {NO_HURRY} }}\n")).await;
    let mut client = Client::join(&relay, &["lab"]).await;
    let mut crowd = Vec::new();
    for n in 0..50 {
        crowd.extend(silent([127, 40, n, 1], relay.address).await);
    }
    until("the oldest are pushed out", async || relay.refused("pushed_out").await >= 40).await;
    // The client has its place, and another one gets one.
    let other = Client::join(&relay, &["lab"]).await;
    client.hear_of("the other", |record| matches!(record, FromRelay::Joined { peer, .. } if *peer == other.key)).await;
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_no_more() {
    let relay = Relay::new(&format!("{LAB}limits: {{ connections_of_address: 2, {NO_HURRY} }}\n")).await;
    let first = Client::join(&relay, &["lab"]).await;
    let _second = Client::join(&relay, &["lab"]).await;
    let key = ClientKey::generate().expect("a key");
    assert!(tls_from([127, 0, 0, 1], relay.address, relay.pin).await.is_err(), "closed before a byte is read");
    let elsewhere = tls_from([127, 0, 0, 2], relay.address, relay.pin).await.expect("another address");
    let third = Client::login_on(elsewhere, &key, &["lab"], Some(&relay.token)).await;
    assert!(third.is_ok(), "{:?}", third.err());
    drop(first);
    until("its place is free", async || tls_from([127, 0, 0, 1], relay.address, relay.pin).await.is_ok()).await;
}

/// Somebody behind the same NAT who holds all that the address may have, and says nothing.
#[tokio::test]
async fn silent_neighbours_at_one_address_keep_nobody_out() {
    let relay = Relay::new(&format!("{LAB}limits: {{ connections_of_address: 4, {NO_HURRY} }}\n")).await;
    let first = Client::join(&relay, &["lab"]).await;
    let mut crowd = Vec::new();
    for _ in 0..20 {
        crowd.extend(silent([127, 0, 0, 1], relay.address).await);
    }
    let _second = Client::join(&relay, &["lab"]).await;
    let (_third, _fourth) = (Client::join(&relay, &["lab"]).await, Client::join(&relay, &["lab"]).await);
    // Those who have logged in make room for nobody.
    assert!(tls_from([127, 0, 0, 1], relay.address, relay.pin).await.is_err());
    drop(first);
    until("its place is free", async || tls_from([127, 0, 0, 1], relay.address, relay.pin).await.is_ok()).await;
}

#[tokio::test]
async fn strangers_that_hold_all_places_make_room_for_who_comes() {
    let relay = Relay::new(&format!("{LAB}limits: {{ connections: 8, strangers: 7, {NO_HURRY} }}\n")).await;
    let mut crowd = Vec::new();
    for n in 0..20 {
        crowd.extend(silent([127, 41, n, 1], relay.address).await);
    }
    let (mut one, two) = (Client::join(&relay, &["lab"]).await, Client::join(&relay, &["lab"]).await);
    one.hear_of("the other", |record| matches!(record, FromRelay::Joined { peer, .. } if *peer == two.key)).await;
    let mut more = Vec::new();
    for n in 0..20 {
        more.extend(silent([127, 42, n, 1], relay.address).await);
    }
    let three = Client::join(&relay, &["lab"]).await;
    one.hear_of("a third", |record| matches!(record, FromRelay::Joined { peer, .. } if *peer == three.key)).await;
    assert_eq!(relay.refused("connections").await, 0);
}
