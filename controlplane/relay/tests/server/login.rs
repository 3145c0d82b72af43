//! Who is let in, and what the others are told.

use adit_proto::relay::{FromRelay, ToRelay};
use adit_relay::init;
use adit_relay::key::ClientKey;
use adit_relay::login::{self, Token};
use adit_relay::tls::{Pin, wrong_pin};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::client::{Client, exporter, room, tls, tls_from, upgrade};
use crate::relay::{NO_HURRY, Relay, other_credentials, soon, until};

fn key() -> ClientKey {
    ClientKey::generate().expect("a key")
}

/// The word with which a login is refused.
async fn word(relay: &Relay, key: &ClientKey, rooms: &[&str], token: Option<&Token>) -> String {
    let refused = Client::login(relay, key, rooms, token).await.err().expect("refused");
    assert_eq!(refused.0, 403, "{refused:?}");
    refused.1
}

#[tokio::test]
async fn a_wrong_login_is_refused_with_one_word_that_says_why() {
    let listed = key();
    let rooms = format!("rooms:\n  lab: {{ token_file: lab.token }}\n  yard: {{ keys: [{}] }}\n", listed.public());
    let relay = Relay::new(&rooms).await;
    let wrong = Token::from_file(b"a-token-that-is-another-one");
    let stranger = key();
    assert_eq!(word(&relay, &stranger, &["attic"], Some(&relay.token)).await, "unknown-room");
    assert_eq!(word(&relay, &stranger, &["attic"], None).await, "not-listed", "who may be nowhere learns no names");
    assert_eq!(word(&relay, &stranger, &["lab"], None).await, "not-listed");
    assert_eq!(word(&relay, &stranger, &["lab"], wrong.as_ref()).await, "not-listed");
    assert_eq!(word(&relay, &stranger, &["yard"], Some(&relay.token)).await, "not-listed");
    assert_eq!(word(&relay, &stranger, &["lab", "yard"], Some(&relay.token)).await, "not-listed");
    assert!(Client::login(&relay, &listed, &["yard"], None).await.is_ok());
    assert!(Client::login(&relay, &listed, &["yard", "lab"], Some(&relay.token)).await.is_ok());

    let no_login = upgrade(tls(&relay).await, "Bearer abc").await.err();
    assert_eq!(no_login, Some((403, "bad-login".to_owned())));
    // Somebody names a key that he does not have.
    let stream = tls(&relay).await;
    let header = login::header(&stranger, &exporter(&stream), &[room("yard")], None);
    let header = header.replace(&stranger.public().to_string(), &listed.public().to_string());
    assert_eq!(upgrade(stream, &header).await.err(), Some((403, "bad-signature".to_owned())));
    for (why, times) in [("unknown-room", 1), ("not-listed", 5), ("bad-login", 1), ("bad-signature", 1)] {
        assert_eq!(relay.refused(why).await, times, "{why}");
    }
}

#[tokio::test]
async fn a_login_that_is_replayed_on_another_connection_is_refused() {
    let relay = Relay::with_lab().await;
    let (stream, key) = (tls(&relay).await, key());
    let header = login::header(&key, &exporter(&stream), &[room("lab")], Some(&relay.token));
    let replayed = upgrade(tls(&relay).await, &header).await.err();
    assert_eq!(replayed, Some((403, "bad-signature".to_owned())));
    assert!(upgrade(stream, &header).await.is_ok(), "where it belongs it holds");
}

#[tokio::test]
async fn a_probe_finds_out_whether_it_may_and_takes_nobodys_place() {
    let listed = key();
    let relay = Relay::new(&format!("rooms:\n  yard: {{ keys: [{}] }}\n", listed.public())).await;
    let mut gateway = Client::login(&relay, &listed, &["yard"], None).await.expect("let in");
    for (probing, expected) in [(&listed, (409, "in-use")), (&key(), (403, "not-listed"))] {
        let stream = tls(&relay).await;
        let header = login::header(probing, &exporter(&stream), &[room("yard")], None);
        let refused = upgrade(stream, &format!("{}{}", *header, login::PROBE)).await.err();
        assert_eq!(refused, Some((expected.0, expected.1.to_owned())));
    }
    gateway.say(&ToRelay::Ping { id: 3 }).await;
    gateway.hear_of("an answer", |record| matches!(record, FromRelay::Pong { id: 3 })).await;
}

#[tokio::test]
async fn who_is_refused_is_not_taken_for_one_who_comes_too_often() {
    let limits = format!("limits: {{ peers_of_room: 1, {NO_HURRY} }}\n");
    let relay = Relay::new(&format!("rooms:\n  lab: {{ token_file: lab.token }}\n{limits}")).await;
    let inside = Client::join(&relay, &["lab"]).await;
    let waits = key();
    for _ in 0..12 {
        let refused = Client::login(&relay, &waits, &["lab"], Some(&relay.token)).await.err();
        assert_eq!(refused, Some((503, "full".to_owned())));
    }
    drop(inside);
    until("there is room", async || Client::login(&relay, &waits, &["lab"], Some(&relay.token)).await.is_ok()).await;
    let mut last = None;
    until("it comes too often", async || {
        last = Client::login(&relay, &waits, &["lab"], Some(&relay.token)).await.err();
        last.as_ref().is_some_and(|(_, word)| word == "too-often")
    })
    .await;
}

#[tokio::test]
async fn a_relay_with_another_key_is_not_trusted() {
    let relay = Relay::with_lab().await;
    let other = tempfile::tempdir().expect("a directory");
    let pinned = init::init(other.path(), "localhost").expect("another relay").pin;
    let error = tls_from([127, 0, 0, 1], relay.address, pinned).await.expect_err("another key");
    let error = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).expect("an error of TLS");
    assert_eq!(wrong_pin(error).expect("a wrong pin").seen, relay.pin);
    until("the broken handshake is counted", async || relay.refused("tls_failed").await == 1).await;
    // The pin is that of the certificate that the relay has.
    let certificate = CertificateDer::from_pem_file(relay.file("relay.crt")).expect("a certificate");
    assert_eq!(Pin::of(&certificate), Ok(relay.pin));
}

/// Something that ends TLS in front of the relay and begins it anew behind: a proxy in HTTP mode.
#[tokio::test]
async fn behind_a_terminator_of_tls_the_login_fails_and_nothing_is_passed_on() {
    let relay = Relay::with_lab().await;
    let directory = tempfile::tempdir().expect("a directory");
    let acceptor = tokio_rustls::TlsAcceptor::from(other_credentials(directory.path()));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (address, behind, pin) = (listener.local_addr().expect("bound"), relay.address, relay.pin);
    let terminator = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a client");
        let mut front = acceptor.accept(stream).await.expect("TLS in front");
        let mut back = tls_from([127, 0, 0, 1], behind, pin).await.expect("TLS behind");
        let _ = copy_bidirectional(&mut front, &mut back).await;
    });
    let certificate = CertificateDer::from_pem_file(directory.path().join("relay.crt")).expect("a certificate");
    // A client that trusts the terminator, as behind a proxy of a company.
    let stream = tls_from([127, 0, 0, 1], address, Pin::of(&certificate).expect("a pin")).await.expect("TLS");
    let refused = Client::login_on(stream, &key(), &["lab"], Some(&relay.token)).await.err();
    assert_eq!(refused, Some((403, "bad-signature".to_owned())));
    soon("the end of the terminator", terminator).await.expect("no panic");
}

/// Something that passes TCP on, on the other hand, is in nobody's way.
#[tokio::test]
async fn behind_what_passes_tls_on_the_login_holds() {
    let relay = Relay::with_lab().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (address, behind) = (listener.local_addr().expect("bound"), relay.address);
    tokio::spawn(async move {
        let (mut front, _) = listener.accept().await.expect("a client");
        let mut back = TcpStream::connect(behind).await.expect("the relay");
        let _ = copy_bidirectional(&mut front, &mut back).await;
    });
    let stream = tls_from([127, 0, 0, 1], address, relay.pin).await.expect("TLS");
    assert!(Client::login_on(stream, &key(), &["lab"], Some(&relay.token)).await.is_ok());
}

/// A ClientHello as one of TLS 1.2 makes it (RFC 5246 §7.4.1.2): no word of 1.3 in it.
fn hello_of_1_2() -> Vec<u8> {
    let extensions: &[u8] = &[
        0, 10, 0, 6, 0, 4, 0, 29, 0, 23, // supported_groups: x25519, secp256r1
        0, 11, 0, 2, 1, 0, // ec_point_formats: uncompressed
        0, 13, 0, 6, 0, 4, 4, 3, 8, 4, // signature_algorithms: ecdsa_secp256r1_sha256, rsa_pss_rsae_sha256
    ];
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    // No session; ECDHE-ECDSA and ECDHE-RSA with AES-128-GCM; no compression.
    hello.extend([0, 0, 4, 0xc0, 0x2b, 0xc0, 0x2f, 1, 0]);
    hello.extend((extensions.len() as u16).to_be_bytes());
    hello.extend(extensions);
    let mut message = vec![1];
    message.extend(&(hello.len() as u32).to_be_bytes()[1..]);
    message.extend(hello);
    let mut record = vec![22, 3, 1];
    record.extend((message.len() as u16).to_be_bytes());
    record.extend(message);
    record
}

#[tokio::test]
async fn tls_1_2_is_refused_with_the_alert_for_it() {
    let relay = Relay::with_lab().await;
    let mut stream = TcpStream::connect(relay.address).await.expect("a connection");
    stream.write_all(&hello_of_1_2()).await.expect("the hello goes out");
    let mut answer = Vec::new();
    soon("an alert", stream.read_to_end(&mut answer)).await.expect("an answer");
    // An alert (21) of two bytes: fatal (2), protocol_version (70) (RFC 8446 §6.2).
    assert_eq!((answer.first(), &answer[5..]), (Some(&21), &[2, 70][..]), "{answer:?}");
    until("the version is counted", async || relay.refused("tls_incompatible").await == 1).await;
}

#[tokio::test]
async fn plain_http_gets_no_answer() {
    let relay = Relay::with_lab().await;
    let mut stream = TcpStream::connect(relay.address).await.expect("a connection");
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("the request goes out");
    let mut answer = Vec::new();
    // The end may come as a reset, since nobody reads what was sent.
    let _ = soon("the end", stream.read_to_end(&mut answer)).await;
    assert!(answer.is_empty(), "{answer:?}");
    until("it is counted", async || relay.refused("not_tls").await == 1).await;
}
