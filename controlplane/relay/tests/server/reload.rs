//! A file that is changed and read again: what it says holds at once, and who may still be where he is notices nothing.

use std::net::SocketAddr;

use adit_proto::relay::{FromRelay, LeftReason, ToRelay, Transport};
use adit_relay::init;
use adit_relay::key::ClientKey;
use adit_relay::login::Token;
use adit_relay::tls::{self, Pin, Trust};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::client::{Client, page, tls_from};
use crate::relay::{NO_HURRY, Relay, soon};

fn key() -> ClientKey {
    ClientKey::generate().expect("a key")
}

/// A file with these rooms, and all else as it was.
fn lines(rooms: &str) -> String {
    format!("rooms:\n{rooms}pages: {{ token_file: pages.token }}\nlimits: {{ {NO_HURRY} }}\n")
}

/// Puts another certificate and key into its files, and gives the pin of it.
fn change_certificate(relay: &Relay) -> Pin {
    let other = tempfile::tempdir().expect("a directory");
    init::init(other.path(), "localhost").expect("another relay");
    for file in ["relay.crt", "relay.key"] {
        std::fs::copy(other.path().join(file), relay.file(file)).expect("a copy");
    }
    let certificate = CertificateDer::from_pem_file(other.path().join("relay.crt")).expect("a certificate");
    Pin::of(&certificate).expect("a pin")
}

#[tokio::test]
async fn who_is_revoked_is_told_and_closed_and_all_others_stay() {
    let (stays, goes, late) = (key(), key(), key());
    let [stays_key, goes_key, late_key] = [&stays, &goes, &late].map(ClientKey::public);
    let relay =
        Relay::new(&format!("rooms:\n  yard: {{ keys: [{stays_key}, {goes_key}] }}\n  lab: {{ token_file: lab.token }}\n")).await;
    let login = async |key: &ClientKey, room: &str| Client::login(&relay, key, &[room], None).await;
    let mut one = login(&stays, "yard").await.expect("let in");
    let mut other = login(&goes, "yard").await.expect("let in");
    let mut guest = Client::join(&relay, &["lab"]).await;
    assert!(login(&late, "yard").await.is_err());

    let rooms = format!(
        "  yard: {{ keys: [{stays_key}, {late_key}] }}\n  lab: {{ token_file: lab.token }}\n  attic: {{ keys: [{late_key}] }}\n"
    );
    let reloaded = relay.reload(&lines(&rooms));
    assert_eq!((reloaded.revoked, reloaded.later), (1, vec![]));
    assert_eq!(soon("the end", other.hear_end()).await, Some(1008), "policy violation");
    let left =
        |record: &FromRelay<'_>| matches!(record, FromRelay::Left { peer, reason: LeftReason::REVOKED, .. } if *peer == goes_key);
    one.hear_of("it was revoked", left).await;
    assert!(login(&goes, "yard").await.is_err());
    // Who stays is on the same connection, and hears of who may come now.
    let _late = Client::login(&relay, &late, &["yard", "attic"], None).await.expect("let in");
    one.hear_of("the late one", |record| matches!(record, FromRelay::Joined { peer, .. } if *peer == late_key)).await;
    guest.send_esp(guest.key, 0, b"to itself").await;
    guest.hear_of("an answer", |record| matches!(record, FromRelay::Absent { .. })).await;
    assert_eq!(relay.stats().await["logins"], 4);
}

#[tokio::test]
async fn a_token_is_changed_while_both_hold() {
    let relay = Relay::with_lab().await;
    let new = b"a-new-token-of-the-room-lab";
    adit_relay::secret_file::create(&relay.file("new.token"), new, adit_relay::secret_file::Readers::OwnerOnly).expect("a file");
    let new = Token::from_file(new).expect("a token");
    let mut old_one = Client::join(&relay, &["lab"]).await;
    assert!(Client::login(&relay, &key(), &["lab"], Some(&new)).await.is_err());

    assert_eq!(relay.reload(&lines("  lab: { token_file: [new.token, lab.token] }\n")).revoked, 0);
    let mut new_one = Client::login(&relay, &key(), &["lab"], Some(&new)).await.expect("the new token holds");
    let _another = Client::join(&relay, &["lab"]).await;
    new_one.hear_of("one with the old token", |record| matches!(record, FromRelay::Joined { .. })).await;

    assert_eq!(relay.reload(&lines("  lab: { token_file: new.token }\n")).revoked, 2, "who came with the old one");
    assert_eq!(soon("the end", old_one.hear_end()).await, Some(1008));
    new_one.hear_of("they have gone", |record| matches!(record, FromRelay::Left { reason: LeftReason::REVOKED, .. })).await;
    assert!(Client::login(&relay, &key(), &["lab"], Some(&relay.token)).await.is_err());
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_who_comes_and_ends_no_connection() {
    let relay = Relay::with_lab().await;
    let mut client = Client::join(&relay, &["lab"]).await;
    let pin = change_certificate(&relay);
    let reloaded = relay.reload(&lines("  lab: { token_file: lab.token }\n"));
    assert_eq!(reloaded.revoked, 0);
    let stream = tls_from([127, 0, 0, 1], relay.address, pin).await.expect("the new key");
    let newcomer = Client::login_on(stream, &key(), &["lab"], Some(&relay.token)).await.expect("let in");
    assert!(tls_from([127, 0, 0, 1], relay.address, relay.pin).await.is_err(), "the old key is gone");
    client.hear_of("the newcomer", |record| matches!(record, FromRelay::Joined { peer, .. } if *peer == newcomer.key)).await;
}

#[tokio::test]
async fn what_holds_after_a_restart_only_is_said() {
    let relay = Relay::with_lab().await;
    assert_eq!(page(&relay, "/stats", Some(&relay.pages_token)).await.0, 200);
    let rooms = "rooms:\n  lab: { token_file: lab.token }\n";
    let reloaded = relay.reload(&format!("{rooms}idle_s: 77\nlimits: {{ {NO_HURRY}, connections: 99 }}\n"));
    assert_eq!(reloaded.later, ["idle_s", "limits"]);
    assert_eq!(page(&relay, "/stats", Some(&relay.pages_token)).await.0, 404, "that there are no pages holds at once");
}

/// Whether TURN over TLS shows the key of this pin.
async fn turn_shows(at: SocketAddr, pin: Pin) -> bool {
    let mut config = (*tls::client(Trust::Pins(vec![pin])).expect("a client")).clone();
    // RFC 7443 §4.
    config.alpn_protocols = vec![b"stun.turn".to_vec()];
    let (name, stream) = (ServerName::try_from("localhost").expect("a name"), TcpStream::connect(at).await.expect("a listener"));
    soon("a TLS handshake", TlsConnector::from(std::sync::Arc::new(config)).connect(name, stream)).await.is_ok()
}

#[tokio::test]
async fn of_stun_and_turn_the_certificate_alone_holds_at_once() {
    let (lab, stun, turn) =
        ("  lab: { token_file: lab.token }\n", "stun: { listen: 127.0.0.1:0 }\n", "turn: { allocations: 9 }\n");
    let relay = Relay::new(&format!("{}{stun}{turn}", lines(lab))).await;
    let mut client = Client::join(&relay, &["lab"]).await;
    let heard = client.hear_of("where TURN is", |record| matches!(record, FromRelay::Turn { .. })).await;
    let FromRelay::Turn { servers, .. } = heard.record() else { unreachable!() };
    let at = servers.iter().find(|server| server.0 == Transport::TLS).expect("TURN over TLS").1;
    assert!(turn_shows(at, relay.pin).await);
    let pin = change_certificate(&relay);
    assert_eq!(relay.reload(&format!("{}{stun}{turn}", lines(lab))).later, [""; 0]);
    assert!(turn_shows(at, pin).await && !turn_shows(at, relay.pin).await);

    let later = |stun: &str, turn: &str| relay.reload(&format!("{}{stun}{turn}", lines(lab))).later;
    assert_eq!(later("stun: { listen: 127.0.0.1:0, open: true }\n", turn), ["stun"]);
    assert_eq!(later(stun, "turn: { allocations: 8 }\n"), ["turn"]);
    assert_eq!(later("", ""), ["stun", "turn"]);
    assert!(turn_shows(at, pin).await, "they are served as before");
    client.say(&ToRelay::Ping { id: 7 }).await;
    client.hear_of("a pong", |record| *record == FromRelay::Pong { id: 7 }).await;
}
