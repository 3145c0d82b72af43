//! A client that does what it is told and nothing by itself, so that each step of a login can be wrong.

use std::net::SocketAddr;

use adit_proto::relay::{FromRelay, Kind, PeerKey, RoomName, ToRelay, Train};
use adit_relay::key::ClientKey;
use adit_relay::login::{self, EXPORTER_LABEL, Exporter, PATH, Token};
use adit_relay::tls::{self, Pin, Trust};
use futures::{SinkExt, StreamExt};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_websockets::{ClientBuilder, Message, WebSocketStream};

use crate::relay::{Relay, soon};

/// Longest head of an answer.
const HEAD: usize = 16 << 10;

pub type Tls = TlsStream<TcpStream>;

/// TLS to this address, from this one of our own.
pub async fn tls_from(source: [u8; 4], to: SocketAddr, pin: Pin) -> std::io::Result<Tls> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((source, 0)))?;
    let stream = socket.connect(to).await?;
    let config = tls::client(Trust::Pins(vec![pin])).expect("a client");
    let name = ServerName::try_from("localhost").expect("a name");
    soon("a TLS handshake", TlsConnector::from(config).connect(name, stream)).await
}

pub async fn tls(relay: &Relay) -> Tls {
    tls_from([127, 0, 0, 1], relay.address, relay.pin).await.expect("a TLS connection")
}

pub fn exporter(stream: &Tls) -> Exporter {
    stream.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, None).expect("a connection that is up")
}

pub fn room(name: &str) -> RoomName {
    RoomName::new(name).expect("a name")
}

/// Status and body of an answer that is no WebSocket, or the stream that is one.
pub type Upgraded = Result<WebSocketStream<Tls>, (u16, String)>;

/// Sends the request that opens the WebSocket, with this login.
pub async fn upgrade(mut stream: Tls, authorization: &str) -> Upgraded {
    let request = format!(
        "GET {PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {}\r\nAuthorization: {authorization}\r\n\r\n",
        adit_proto::relay::SUBPROTOCOL
    );
    stream.write_all(request.as_bytes()).await.expect("the request goes out");
    let head = soon("the head of an answer", head(&mut stream)).await;
    let status = status(&head);
    if status == 101 {
        // RFC 6455 §1.3 has this key with this answer as its example.
        assert!(head.to_lowercase().contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
        assert!(head.contains(adit_proto::relay::SUBPROTOCOL), "{head}");
        return Ok(ClientBuilder::new().take_over(stream));
    }
    Err((status, body(&mut stream).await))
}

async fn head(stream: &mut Tls) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD {
        head.push(stream.read_u8().await.expect("a whole head"));
    }
    String::from_utf8(head).expect("text")
}

fn status(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no HTTP: {head}"))
}

async fn body(stream: &mut Tls) -> String {
    let mut body = Vec::new();
    // An end without a goodbye of TLS is not what matters here.
    let _ = soon("the body of an answer", stream.read_to_end(&mut body)).await;
    String::from_utf8(body).expect("text").trim().to_owned()
}

/// Asks for a page, with this token.
pub async fn page(relay: &Relay, path: &str, token: Option<&str>) -> (u16, String) {
    let mut stream = tls(relay).await;
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{authorization}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("the request goes out");
    let head = soon("the head of a page", head(&mut stream)).await;
    (status(&head), body(&mut stream).await)
}

/// What the relay said, with all that is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard(Vec<u8>);

impl Heard {
    pub fn record(&self) -> FromRelay<'_> {
        FromRelay::decode(&self.0).expect("a record").expect("of a known type")
    }
}

/// One that is logged in.
pub struct Client {
    pub key: PeerKey,
    socket: WebSocketStream<Tls>,
}

impl Client {
    /// A new one with the relay's token, in these rooms.
    pub async fn join(relay: &Relay, rooms: &[&str]) -> Client {
        Client::login(relay, &ClientKey::generate().expect("a key"), rooms, Some(&relay.token)).await.expect("let in")
    }

    pub async fn login(relay: &Relay, key: &ClientKey, rooms: &[&str], token: Option<&Token>) -> Result<Client, (u16, String)> {
        Client::login_on(tls(relay).await, key, rooms, token).await
    }

    pub async fn login_on(stream: Tls, key: &ClientKey, rooms: &[&str], token: Option<&Token>) -> Result<Client, (u16, String)> {
        let rooms: Vec<RoomName> = rooms.iter().map(|name| room(name)).collect();
        let header = login::header(key, &exporter(&stream), &rooms, token);
        let socket = upgrade(stream, &header).await?;
        Ok(Client { key: key.public(), socket })
    }

    /// What the relay says next; none when it has closed.
    pub async fn hear(&mut self) -> Option<Heard> {
        loop {
            let message = soon("a record of the relay", self.socket.next()).await?.ok()?;
            if message.is_binary() {
                return Some(Heard(message.into_payload().to_vec()));
            }
        }
    }

    /// Listens until this is said.
    pub async fn hear_of(&mut self, what: &str, mut is_it: impl FnMut(&FromRelay<'_>) -> bool) -> Heard {
        loop {
            let heard = self.hear().await.unwrap_or_else(|| panic!("the relay has closed before it said: {what}"));
            if is_it(&heard.record()) {
                return heard;
            }
        }
    }

    /// Listens until the relay closes, and gives the code of that (RFC 6455 §7.4), if it said one.
    pub async fn hear_end(&mut self) -> Option<u16> {
        while let Some(Ok(message)) = soon("the end of a connection", self.socket.next()).await {
            if let Some((code, _)) = message.as_close() {
                return Some(code.into());
            }
        }
        None
    }

    pub async fn say(&mut self, record: &ToRelay<'_>) {
        let bytes = record.encode().expect("a record");
        self.say_bytes(bytes).await.expect("the record goes out");
    }

    pub async fn say_bytes(&mut self, bytes: Vec<u8>) -> Result<(), tokio_websockets::Error> {
        self.socket.send(Message::binary(bytes)).await
    }

    pub async fn send_esp(&mut self, to: PeerKey, segment: u16, payload: &[u8]) {
        self.say(&ToRelay::Send { to, train: Train { kind: Kind::Esp, class: 0xb9, segment, payload } }).await;
    }

    /// Its connection, on which anything may be written.
    pub fn into_stream(self) -> Tls {
        self.socket.into_inner()
    }

    pub fn socket(&mut self) -> &mut WebSocketStream<Tls> {
        &mut self.socket
    }
}
