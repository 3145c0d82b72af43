//! STUN and TURN as a relay's file has them: what a client is told, what coturn's client does with it, and who gets nothing.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use adit_engine::stun::codec::{BindingRequest, Class, Integrity, Key, Message, Transaction, Writer, kind};
use adit_engine::turn::{credentials::long_term_key, method};
use adit_proto::relay::{FromRelay, STUN_NAME_LEN, ToRelay, Transport};
use adit_relay::client::{self, Event, ProxyChoice, TurnGrant};
use adit_relay::key::ClientKey;
use adit_relay::tls::Trust;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::client::{Client, page, room};
use crate::coturn::{Running, tool};
use crate::relay::{Relay, soon, until};

/// Everything is on loopback: the server at one address, the peers of its clients at another.
const LINES: &str = "rooms:\n  lab: { token_file: lab.token }\nstun: { listen: 127.0.0.1:0 }\nturn: { allow: [127.0.0.0/8] }\n";
const PEER: &str = "127.0.0.2";

/// turnutils_peer, which sends back what it gets, once it does.
async fn echo_peer(program: &Path) -> (Running, u16) {
    let port = UdpSocket::bind((PEER, 0)).and_then(|socket| socket.local_addr()).expect("a free port").port();
    let mut command = Command::new(program);
    command.args(["-L", PEER, "-p", &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
    let running = Running(command.spawn().expect("it starts"));
    let probe = tokio::net::UdpSocket::bind((PEER, 0)).await.expect("a socket");
    until("turnutils_peer answers", async || {
        // Until it listens, the kernel answers for it.
        let _ = probe.send_to(b"there?", (PEER, port)).await;
        let answer = tokio::time::timeout(Duration::from_millis(100), probe.recv(&mut [0; 100])).await;
        matches!(answer, Ok(Ok(_)))
    })
    .await;
    (running, port)
}

/// A client as a gateway is one, and what it was told of TURN.
async fn granted(relay: &Relay) -> (client::Handle, client::Events, TurnGrant) {
    let at = relay.address.to_string().parse().expect("host and port");
    let (trust, token) = (Trust::Pins(vec![relay.pin]), Some(relay.token.clone()));
    let there = client::Relay { at, trust, rooms: vec![room("lab")], token, is_probe: false };
    let key = ClientKey::generate().expect("a key");
    let config = client::Config { relays: vec![there], key, metadata: Vec::new(), proxy: ProxyChoice::None, mark: None };
    let (handle, mut events) = client::Client::start(config).expect("a client");
    let grant = soon("credentials of TURN", async {
        loop {
            match events.next().await.expect("a client that runs") {
                Event::Turn { grant, .. } => return grant,
                Event::Failed { failure, .. } => panic!("{failure}"),
                _ => {}
            }
        }
    })
    .await;
    (handle, events, grant)
}

fn at(grant: &TurnGrant, transport: Transport) -> SocketAddr {
    grant.servers.iter().find(|server| server.0 == transport).expect("a server of this kind").1
}

/// Runs turnutils_uclient and gives what it says.
async fn uclient(server: SocketAddr, name: &str, password: &str, peer: u16, more: &[&str]) -> String {
    let Some(program) = tool("turnutils_uclient") else { return String::new() };
    let mut command = tokio::process::Command::new(program);
    command.args(["-c", "-v", "-u", name, "-w", password, "-p", &server.port().to_string(), "-e", PEER]);
    command.args(["-r", &peer.to_string(), "-n", "20", "-l", "400"]).args(more).arg(server.ip().to_string());
    let output = soon("turnutils_uclient", command.kill_on_drop(true).stdin(Stdio::null()).output()).await.expect("it runs");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The number after a word, the last time that it is said.
fn said(text: &str, word: &str) -> u64 {
    let after = text.rsplit(word).next().unwrap_or_default();
    after.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0)
}

async fn count(relay: &Relay, who: &str, what: &str) -> u64 {
    let stats = relay.stats().await;
    stats["reach"]["counters"][who][what].as_u64().unwrap_or_else(|| panic!("no {who} {what}: {stats}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_logs_in_and_passes_data_with_what_it_is_lent() {
    let relay = Relay::new(LINES).await;
    let (handle, _events, grant) = granted(&relay).await;
    let (expires, identity) = grant.name.split_once(':').expect("expiry and identity");
    assert!(expires.parse::<u64>().is_ok() && identity == handle.key().to_string(), "{}", grant.name);
    assert!(grant.life == Duration::from_secs(3600) && !format!("{grant:?}").contains(grant.password.expose()));
    let Some(peer) = tool("turnutils_peer").filter(|_| tool("turnutils_uclient").is_some()) else { return };
    let (_running, port) = echo_peer(&peer).await;
    for (transport, more) in [(Transport::UDP, &[][..]), (Transport::TCP, &["-t"]), (Transport::TLS, &["-t", "-S"])] {
        let text = uclient(at(&grant, transport), &grant.name, grant.password.expose(), port, more).await;
        // A busy machine may make it give up on the last ones.
        assert!(said(&text, "tot_recv_msgs=") > 10, "{transport}: {text}\n{}", relay.stats().await);
    }
    assert!(count(&relay, "turn", "to_peers").await >= 60);
    let (_, metrics) = page(&relay, "/metrics", Some(&relay.pages_token)).await;
    for line in
        ["adit_relay_turn_total{what=\"made\"}", "adit_relay_turn_allocations ", "adit_relay_stun_total{what=\"answered\"}"]
    {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

/// Asks for an address with these credentials, and gives what is counted then: it was asked again after a challenge, and got none.
async fn is_refused(relay: &Relay, server: SocketAddr, name: &str, password: &str) {
    let before = count(relay, "turn", "challenged").await;
    let refused = until("it is refused with its credentials", async || count(relay, "turn", "challenged").await >= before + 2);
    tokio::select! {
        // It tries again and again, as a rule.
        _ = uclient(server, name, password, 9, &["-t"]) => {}
        () = refused => {}
    }
    assert!(count(relay, "turn", "challenged").await >= before + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lent_for_wrong_expired_or_foreign_credentials() {
    if tool("turnutils_uclient").is_none() {
        return;
    }
    let relay = Relay::new(LINES).await;
    let (_handle, _events, grant) = granted(&relay).await;
    let (server, password) = (at(&grant, Transport::TCP), grant.password.expose());
    let (expires, identity) = grant.name.split_once(':').expect("expiry and identity");
    let later = format!("{}:{identity}", expires.parse::<u64>().expect("a time") + 3600);
    for (name, password) in [(&*grant.name, "wrong"), ("1:old", password), (&later, password), ("9999999999:else", password)] {
        is_refused(&relay, server, name, password).await;
    }
    // Those of another relay, or of this one before it was started anew.
    let other = Relay::new(LINES).await;
    is_refused(&other, at(&granted(&other).await.2, Transport::TCP), &grant.name, password).await;
    assert_eq!((count(&relay, "turn", "made").await, count(&other, "turn", "made").await), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_come_again_before_they_end() {
    let lines = LINES.replace("allow:", "credentials_s: 10, allow:");
    let relay = Relay::new(&lines).await;
    let mut client = Client::join(&relay, &["lab"]).await;
    let mut names = Vec::new();
    while names.len() < 2 {
        let heard = client.hear_of("credentials", |record| matches!(record, FromRelay::Turn { .. })).await;
        let FromRelay::Turn { name, life_s, .. } = heard.record() else { unreachable!() };
        assert_eq!(life_s, 10);
        names.push(name.to_owned());
    }
    assert_ne!(names[0], names[1]);
}

/// Asks TURN for this, with credentials; gives the number of the error if there is one.
async fn ask(
    socket: &tokio::net::UdpSocket,
    server: SocketAddr,
    method: u16,
    (name, realm, key): (&str, &str, &Key),
) -> Option<u16> {
    let mut nonce = "AAAAAAAAAAAAAAAA".to_owned();
    soon("an answer of TURN", async {
        loop {
            let mut question = Writer::new(Class::Request, method, Transaction::default());
            if method == method::ALLOCATE {
                // UDP (RFC 8656 §18.7).
                question.put(kind::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
            }
            question.put(kind::USERNAME, name.as_bytes()).put(kind::REALM, realm.as_bytes()).put(kind::NONCE, nonce.as_bytes());
            question.fill_up_to(160).seal(Integrity::Sha256, key);
            socket.send_to(&question.finish(), server).await.expect("it is sent");
            let mut buffer = [0; 1500];
            let Ok(Ok(len)) = tokio::time::timeout(Duration::from_secs(1), socket.recv(&mut buffer)).await else { continue };
            let answer = Message::parse(&buffer[..len]).expect("a message");
            match (answer.class, answer.error()) {
                (Class::Success, _) => return None,
                // RFC 8489 §9.2.5: the nonce is an old one.
                (_, 438) => nonce = answer.text(kind::NONCE).expect("a nonce").to_owned(),
                (_, error) => return Some(error),
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_relay_that_ends_lends_nothing_more_and_takes_nothing_back() {
    let mut relay = Relay::new(&format!("{LINES}drain: {{ to: [relay2.example.org:443], within_s: 3600 }}\n")).await;
    let mut client = Client::join(&relay, &["lab"]).await;
    let heard = client.hear_of("credentials", |record| matches!(record, FromRelay::Turn { .. })).await;
    let FromRelay::Turn { name, realm, password, servers, .. } = heard.record() else { unreachable!() };
    let server = servers.iter().find(|server| server.0 == Transport::UDP).expect("TURN over UDP").1;
    let key = long_term_key(name, realm, password.0);
    let [one, other] = [(); 2].map(|()| {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_nonblocking(true).and_then(|()| tokio::net::UdpSocket::from_std(socket)).expect("a socket of tokio")
    });
    assert_eq!(ask(&one, server, method::ALLOCATE, (name, realm, &key)).await, None);
    relay.end();
    client.hear_of("where to go", |record| matches!(record, FromRelay::Drain { .. })).await;
    // RFC 8656 §19: insufficient capacity.
    assert_eq!(ask(&other, server, method::ALLOCATE, (name, realm, &key)).await, Some(508));
    assert_eq!(ask(&one, server, method::REFRESH, (name, realm, &key)).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_learn_where_a_client_is_that_asks_by_stun() {
    let relay = Relay::new(LINES).await;
    let mut client =
        Client::login(&relay, &ClientKey::generate().expect("a key"), &["lab"], Some(&relay.token)).await.expect("let in");
    let welcome = client.hear_of("a welcome", |record| matches!(record, FromRelay::Welcome { .. })).await;
    let FromRelay::Welcome { stun_key, .. } = welcome.record() else { unreachable!() };
    let stun = client.hear_of("where STUN is", |record| matches!(record, FromRelay::Stun { .. })).await;
    let FromRelay::Stun { servers } = stun.record() else { unreachable!() };
    let (name, secret) = stun_key.split_at(STUN_NAME_LEN);
    let (name, key) = (URL_SAFE_NO_PAD.encode(name), Key::new(secret));
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let mut nonce = String::new();
    until("the relay knows where it is", async || {
        let request =
            BindingRequest { register: Some(&nonce), len: 160, sealed: Some((&name, &key)), ..BindingRequest::default() };
        socket.send_to(&request.encode(), servers[0]).await.expect("it is sent");
        let mut buffer = [0; 500];
        if let Ok(Ok(len)) = tokio::time::timeout(Duration::from_secs(1), socket.recv(&mut buffer)).await {
            let message = Message::parse(&buffer[..len]).expect("a message");
            assert!(message.sealed_by(&key).is_some());
            nonce = message.text(kind::REGISTER).expect("a nonce").to_owned();
        }
        count(&relay, "stun", "registered").await > 0
    })
    .await;
    let mut other = Client::join(&relay, &["lab"]).await;
    other.say(&ToRelay::Meet { peer: client.key }).await;
    let heard = other.hear_of("an introduction", |record| matches!(record, FromRelay::Introduction { .. })).await;
    let FromRelay::Introduction { udp, .. } = heard.record() else { unreachable!() };
    assert_eq!(udp, socket.local_addr().ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_without_stun_and_turn_tells_nothing_of_them() {
    let relay = Relay::with_lab().await;
    let mut client = Client::join(&relay, &["lab"]).await;
    client.say(&ToRelay::Ping { id: 1 }).await;
    let is_grant = |record: &FromRelay<'_>| matches!(record, FromRelay::Stun { .. } | FromRelay::Turn { .. });
    let last = client.hear_of("a pong", |record| is_grant(record) || *record == FromRelay::Pong { id: 1 }).await;
    assert!(!is_grant(&last.record()));
    assert_eq!(relay.stats().await["reach"], serde_json::Value::Null);
}
