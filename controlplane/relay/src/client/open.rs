//! The way to a registration, step by step: TCP, TLS that is pinned or verified, the login that is signed over this TLS connection, the
//! WebSocket, and the relay's welcome. Each step has its time, and a fault in it says what it means.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_engine::shown::Shown;
use adit_proto::limits::RELAY_RECORD_LEN_MAX;
use adit_proto::relay::{FromRelay, HostPort, RoomName, STUN_KEY_LEN, SUBPROTOCOL};
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderValue, LOCATION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_websockets::{ClientBuilder, Config, Limits, WebSocketStream};

use super::dial::{self, Stream};
use super::failure::{Cause, Failure, Step};
use super::http;
use super::proxy::ProxyChoice;
use crate::key::ClientKey;
use crate::limits::{FRAME_LEN_MAX, LOCATION_SHOWN_LEN_MAX};
use crate::login::{self, EXPORTER_LABEL, Exporter, Refusal, Token};
use crate::tls::Pin;

const TLS_TIME: Duration = Duration::from_secs(10);
const LOGIN_TIME: Duration = Duration::from_secs(10);
const WELCOME_TIME: Duration = Duration::from_secs(10);
/// What both ends of a WebSocket append to the key of its request (RFC 6455 §1.3).
const ACCEPT_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

pub(super) type WebSocket = WebSocketStream<TokioIo<Upgraded>>;

/// A relay of the configuration, made ready.
pub(super) struct Target {
    pub at: HostPort,
    pub tls: Arc<ClientConfig>,
    /// Those that `tls` goes by, to be shown.
    pub pins: Vec<Pin>,
    pub rooms: Vec<RoomName>,
    pub token: Option<Token>,
    pub is_probe: bool,
}

/// How a connection leaves this machine.
pub(super) struct Out {
    pub proxy: ProxyChoice,
    pub mark: Option<u32>,
}

/// What the relay says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// Where our connection comes from, as the relay sees it.
    pub observed: SocketAddr,
    /// What we put into Binding requests to this relay, so that it knows our address for UDP.
    pub stun_key: [u8; STUN_KEY_LEN],
    pub rooms: Vec<RoomName>,
}

/// A registration.
pub(super) struct Opened {
    pub socket: WebSocket,
    pub place: String,
    pub welcome: Welcome,
}

/// Registers at a relay, or where it said to go in its place.
pub(super) async fn open(target: &Target, elsewhere: Option<&HostPort>, key: &ClientKey, out: &Out) -> Result<Opened, Failure> {
    let at = elsewhere.unwrap_or(&target.at);
    let host = at.as_str().rsplit_once(':').map_or(at.as_str(), |(host, _)| host);
    let proxy = out.proxy.for_host(host, |name| std::env::var(name).ok());
    let proxy = proxy.map_err(|error| Failure { place: "HTTPS_PROXY".to_owned(), cause: Cause::NoProxy(Shown::of(error)) })?;
    let dialed = dial::dial(at, proxy.as_ref(), out.mark).await?;
    let place = dialed.place;
    match register(target, at, host, key, dialed.stream).await {
        Ok((socket, welcome)) => Ok(Opened { socket, place, welcome }),
        Err(cause) => Err(Failure { place, cause }),
    }
}

async fn register(
    target: &Target,
    at: &HostPort,
    host: &str,
    key: &ClientKey,
    stream: Box<dyn Stream>,
) -> Result<(WebSocket, Welcome), Cause> {
    let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(name).map_err(|error| Cause::NoAddress(Shown::of(error)))?;
    let handshake = TlsConnector::from(target.tls.clone()).connect(name, stream);
    let stream = timeout(TLS_TIME, handshake).await.map_err(|_| Cause::TimedOut(Step::Tls))?;
    let stream = stream.map_err(|error| Cause::of_tls(&error, &target.pins))?;
    let login = log_in(target, at, key, stream);
    let upgraded = timeout(LOGIN_TIME, login).await.unwrap_or(Err(Cause::TimedOut(Step::Login)))?;
    let limits = Limits::default().max_payload_len(Some(RELAY_RECORD_LEN_MAX));
    let config = Config::default().frame_size(FRAME_LEN_MAX);
    let mut socket = ClientBuilder::new().config(config).limits(limits).take_over(TokioIo::new(upgraded));
    let welcome = timeout(WELCOME_TIME, welcome(&mut socket)).await.unwrap_or(Err(Cause::TimedOut(Step::Welcome)))?;
    Ok((socket, welcome))
}

/// Asks for the WebSocket, with the login.
async fn log_in(target: &Target, at: &HostPort, key: &ClientKey, stream: TlsStream<Box<dyn Stream>>) -> Result<Upgraded, Cause> {
    let exporter: Exporter = stream
        .get_ref()
        .1
        .export_keying_material([0; 32], EXPORTER_LABEL, None)
        .map_err(|error| Cause::TlsFailed(Shown::of(error)))?;
    let mut header = login::header(key, &exporter, &target.rooms, target.token.as_ref());
    if target.is_probe {
        // There is room for it: the header was made for the longest token.
        header.push_str(login::PROBE);
    }
    let mut authorization = HeaderValue::from_str(&header).map_err(|error| Cause::Misconfigured(Shown::of(error)))?;
    authorization.set_sensitive(true);
    let mut nonce = [0; 16];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_| Cause::Misconfigured(Shown::of("the random number generator failed")))?;
    let nonce = STANDARD.encode(nonce);
    let request = Request::get(login::PATH)
        .header(HOST, at.as_str())
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, &nonce)
        .header(SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL)
        .header(AUTHORIZATION, authorization)
        .body(Empty::<Bytes>::new())
        .map_err(|error| Cause::Misconfigured(Shown::of(error)))?;
    let closed = |error: hyper::Error| {
        if error.is_parse() {
            Cause::Misbehaved(Shown::of("what is not HTTP"))
        } else {
            Cause::Closed(Shown::of(format_args!("it closed the connection during the login ({error})")))
        }
    };
    let answer = http::ask(stream, request).await.map_err(closed)?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refused(target, key, answer).await);
    }
    if !is_accepted(answer.headers(), &nonce) {
        return Err(Cause::NotARelay(answer.status().as_u16(), None));
    }
    hyper::upgrade::on(answer).await.map_err(closed)
}

/// RFC 6455 §4.1: the answer shows that the other end has read our key, and speaks our protocol.
fn is_accepted(headers: &HeaderMap, nonce: &str) -> bool {
    let expected = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{nonce}{ACCEPT_SUFFIX}").as_bytes()));
    let is = |name, value: &str| headers.get(name).is_some_and(|sent| sent.as_bytes() == value.as_bytes());
    is(SEC_WEBSOCKET_ACCEPT, &expected) && is(SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL)
}

/// Why there is no WebSocket: a relay says it in a word, all others are something else.
async fn refused(target: &Target, key: &ClientKey, answer: Response<Incoming>) -> Cause {
    let status = answer.status().as_u16();
    let to = answer.headers().get(LOCATION).and_then(|to| to.to_str().ok());
    let to = to.map(|to| Shown::of(to.chars().take(LOCATION_SHOWN_LEN_MAX).collect::<String>()));
    let word = http::short_text(answer).await;
    match Refusal::from_word(&word) {
        Some(refusal) => Cause::of_refusal(refusal, key.public(), &target.rooms, target.token.is_some()),
        None => Cause::NotARelay(status, to),
    }
}

async fn welcome(socket: &mut WebSocket) -> Result<Welcome, Cause> {
    loop {
        let message = socket.next().await.ok_or_else(|| Cause::Closed(Shown::of("it closed the connection after the login")))?;
        let message = message.map_err(|error| Cause::of_websocket(&error))?;
        if let Some((code, why)) = message.as_close() {
            return Err(Cause::of_close(code.into(), why));
        }
        if !message.is_binary() {
            continue;
        }
        return match FromRelay::decode(message.as_payload()) {
            Ok(Some(FromRelay::Welcome { observed, stun_key, rooms, .. })) => Ok(Welcome { observed, stun_key, rooms }),
            Ok(Some(FromRelay::Replaced { wait_s })) => Err(Cause::Replaced(Duration::from_secs(wait_s.into()))),
            Ok(_) => Err(Cause::Misbehaved(Shown::of("something else than its welcome first"))),
            Err(error) => Err(Cause::Misbehaved(Shown::of(format_args!("what is no record: {error}")))),
        };
    }
}
