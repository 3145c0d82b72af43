//! What stands in the way of a registration, each thing as it is in the field, and what the client says of it: place, cause and remedy.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_proto::relay::{FromRelay, STUN_KEY_LEN, SUBPROTOCOL};
use adit_relay::client::{self, Failure};
use adit_relay::login::Token;
use adit_relay::tls::{self, Credentials, Pin, Trust};
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::RootCertStore;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use crate::site::{Relay, first_failure, host_port, listen, listen_tls, room};

/// It has this word for programs, and says all of these to people.
fn says(failure: &Failure, word: &str, parts: &[&str]) {
    let text = failure.to_string();
    assert_eq!(failure.cause.word(), word, "{text}");
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing: {text}");
    }
}

/// A CA, and a certificate of it.
struct Signed {
    roots: Trust,
    credentials: Credentials,
}

fn signed(name: &str, years: (i32, i32)) -> Signed {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(params, ca_key);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let credentials = Credentials {
        chain: vec![certificate.der().clone()],
        key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        pin: Pin::of(certificate.der()).unwrap(),
    };
    Signed { roots: Trust::Roots(Arc::new(roots)), credentials }
}

#[tokio::test]
async fn a_wrong_pin_shows_both_keys() {
    let (relay, other) = (Relay::new().await, Relay::new().await);
    let failure = first_failure(client::Relay { trust: Trust::Pins(vec![other.pin]), ..relay.lab() }).await;
    let place = relay.address.to_string();
    says(&failure, "wrong_pin", &[&place, &relay.pin.to_string(), &other.pin.to_string(), "somebody"]);
    // Of two pins one is enough.
    let (_handle, mut events) =
        crate::site::client(vec![client::Relay { trust: Trust::Pins(vec![other.pin, relay.pin]), ..relay.lab() }]);
    crate::site::registered(&mut events, 0).await;
}

#[tokio::test]
async fn certificates_that_do_not_hold_are_told_apart() {
    let template = Relay::new().await;
    let fail = async |served: &Signed, trust: Trust| {
        let address = listen_tls(&served.credentials, |_| async {}).await;
        first_failure(client::Relay { at: host_port(address), trust, ..template.lab() }).await
    };
    let expired = signed("127.0.0.1", (2019, 2020));
    says(&fail(&expired, expired.roots.clone()).await, "expired", &["ended 2020-01-01T00:00:00Z", "renewed", "clock"]);
    let early = signed("127.0.0.1", (2090, 2091));
    let failure = fail(&early, early.roots.clone()).await;
    says(&failure, "not_yet_valid", &["begins 2090-01-01T00:00:00Z", "the clock is wrong", "set the clock"]);
    let other = signed("relay.example", (2020, 2090));
    says(&fail(&other, other.roots.clone()).await, "wrong_name", &["not for 127.0.0.1 but for", "relay.example"]);
    let stranger = signed("127.0.0.1", (2020, 2090));
    says(&fail(&stranger, other.roots.clone()).await, "unknown_issuer", &["no CA that is trusted here", "pin"]);
    // A pin needs neither name nor dates: what comes next is the login, which this server does not know.
    let failure = fail(&expired, Trust::Pins(vec![expired.credentials.pin])).await;
    says(&failure, "closed", &["closed the connection"]);
}

#[tokio::test]
async fn what_ends_tls_before_the_relay_is_told() {
    let relay = Relay::new().await;
    let (behind, trust) = (relay.address, Trust::Pins(vec![relay.pin]));
    // It even has the relay's own key, as a load balancer may.
    let address = listen_tls(&relay.credentials(), move |mut stream| {
        let config = tls::client(trust.clone()).unwrap();
        async move {
            let upstream = TcpStream::connect(behind).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let mut upstream = TlsConnector::from(config).connect(name, upstream).await.unwrap();
            let _ = copy_bidirectional(&mut stream, &mut upstream).await;
        }
    })
    .await;
    let failure = first_failure(client::Relay { at: host_port(address), ..relay.lab() }).await;
    says(&failure, "tls_ends_before", &["before it", "pass TCP through"]);
}

#[tokio::test]
async fn a_web_server_or_a_captive_portal_is_told() {
    let relay = Relay::new().await;
    let fail = async |at| first_failure(client::Relay { at: host_port(at), ..relay.lab() }).await;
    // In plain text.
    let plain = listen(|mut stream: TcpStream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    says(&fail(plain).await, "not_tls", &["plain HTTP server or a captive portal", "browser"]);
    // Behind TLS, even with the right key.
    let portal = listen_tls(&relay.credentials(), |mut stream| async move {
        let _ = stream.read(&mut [0; 4096]).await;
        let answer = b"HTTP/1.1 302 Found\r\nLocation: http://portal.example/login\r\nContent-Length: 0\r\n\r\n";
        let _ = stream.write_all(answer).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    says(&fail(portal).await, "not_a_relay", &["302", "http://portal.example/login", "captive portal"]);
    // What says that it speaks WebSocket and has not read our key.
    let liar = listen_tls(&relay.credentials(), |mut stream| async move {
        let _ = stream.read(&mut [0; 4096]).await;
        let head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
        let _ = stream.write_all(head).await;
        let _ = stream.write_all(b"Sec-WebSocket-Accept: AAAA\r\nSec-WebSocket-Protocol: adit-relay-1\r\n\r\n").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    says(&fail(liar).await, "not_a_relay", &["101"]);
    let endless = listen_tls(&relay.credentials(), |mut stream| async move {
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
        while stream.write_all(b"X-More: and more and more and more\r\n").await.is_ok() {}
    })
    .await;
    says(&fail(endless).await, "misbehaved", &["not HTTP"]);
}

#[tokio::test]
async fn an_old_tls_is_told() {
    let relay = Relay::new().await;
    let old = listen(|mut stream: TcpStream| async move {
        let _ = stream.read(&mut [0; 4096]).await;
        // An alert: fatal, protocol_version (RFC 8446 §6).
        let _ = stream.write_all(&[21, 3, 3, 0, 2, 2, 70]).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let failure = first_failure(client::Relay { at: host_port(old), ..relay.lab() }).await;
    says(&failure, "old_tls", &["TLS 1.3"]);
}

#[tokio::test]
async fn a_login_that_is_refused_says_what_to_change_where() {
    let relay = Relay::new().await;
    let unknown = first_failure(client::Relay { rooms: vec![room("cellar")], ..relay.lab() }).await;
    says(&unknown, "unknown_room", &["no such room (cellar)", "add the room"]);
    let (handle, mut events) =
        crate::site::client(vec![client::Relay { rooms: vec![room("listed")], token: None, ..relay.lab() }]);
    let not_listed = crate::site::failed(&mut events, 0).await;
    says(&not_listed, "not_listed", &["not listed in the room (listed)", &handle.key().to_string(), "token"]);
    let wrong = Token::from_file(b"a-token-that-opens-nothing-here").unwrap();
    let refused = first_failure(client::Relay { token: Some(wrong), ..relay.lab() }).await;
    says(&refused, "token_refused", &["the token is not that of the room", "lab"]);
    assert!(!refused.to_string().contains("opens-nothing"), "a secret is not shown");
}

#[tokio::test]
async fn who_does_not_answer_is_told_by_the_step() {
    let relay = Relay::new().await;
    let fail = async |at| first_failure(client::Relay { at, ..relay.lab() }).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    says(&fail(host_port(address)).await, "connection_refused", &[&address.to_string(), "adit relay -c FILE"]);
    let silent = listen(|stream: TcpStream| async move {
        tokio::time::sleep(Duration::from_secs(600)).await;
        drop(stream);
    })
    .await;
    says(&fail(host_port(silent)).await, "timed_out", &["TLS handshake", "port"]);
    let nowhere = fail("nowhere.invalid:443".parse().unwrap()).await;
    assert!(["no_address", "timed_out"].contains(&nowhere.cause.word()), "{nowhere}");
    assert!(nowhere.to_string().starts_with("nowhere.invalid:443: ") && nowhere.to_string().contains("name server"), "{nowhere}");
}

/// Each ping has an answer that waits until it is sent: a relay that pings all the time and reads nothing would fill its clients.
#[tokio::test]
async fn a_relay_that_pings_all_the_time_is_left() {
    let relay = Relay::new().await;
    let address = listen_tls(&relay.credentials(), |mut stream| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        let head = String::from_utf8(head).expect("text");
        let key = head.lines().find_map(|line| line.to_lowercase().starts_with("sec-websocket-key:").then(|| line[18..].trim()));
        let both = format!("{}258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key.expect("a key"));
        let accept = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, both.as_bytes()));
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\
             Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
        );
        let welcome = FromRelay::Welcome {
            observed: SocketAddr::from(([192, 0, 2, 1], 1000)),
            stun_key: [0; STUN_KEY_LEN],
            idle_ms: 300_000,
            rooms: vec![room("lab")],
        };
        let welcome = welcome.encode().expect("a record");
        // Frames of one piece, binary and then pings without end (RFC 6455 §5.2).
        let mut bytes = [answer.as_bytes(), &[0x82, welcome.len() as u8], &welcome].concat();
        while stream.write_all(&bytes).await.is_ok() {
            bytes = [0x89, 4, 1, 2, 3, 4].repeat(50);
        }
    })
    .await;
    let (_handle, mut events) = crate::site::client(vec![client::Relay { at: host_port(address), ..relay.lab() }]);
    crate::site::registered(&mut events, 0).await;
    let failure = crate::site::failed(&mut events, 0).await;
    says(&failure, "misbehaved", &["more pings than anybody needs"]);
}
