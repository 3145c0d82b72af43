//! HTTP at the relay: the login that opens a WebSocket, and the pages. `/health` is for everybody; `/stats`, `/metrics` and
//! `/rooms/NAME/peers` for whoever sends the token of the pages; everything else is not there.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::ready;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use adit_proto::relay::{PeerKey, RoomName, SUBPROTOCOL};
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    AUTHORIZATION, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;

use crate::entrance::{Place, is_shortage};
use crate::limits::{HEAD_BYTES_MAX, HEADERS_MAX, PAGE_CONNECTIONS_MAX};
use crate::lobby::Seat;
use crate::login::{Exporter, Login, PATH, Refusal};
use crate::metrics;
use crate::shared::{Phase, Shared};
use crate::stats;
use crate::tally::Why;

/// What is put behind a WebSocket's key before it is hashed (RFC 6455 §1.3).
const WEBSOCKET_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// How long we wait when the kernel gives no connection.
const PAUSE: Duration = Duration::from_millis(200);

type Answer = Response<Full<Bytes>>;

/// A connection that has no login yet.
pub(crate) struct Visit {
    pub shared: Arc<Shared>,
    pub from: SocketAddr,
    /// None where TLS does not give it; then no login holds.
    pub exporter: Option<Exporter>,
    pub place: Place,
}

/// A login that holds: a place among the clients, a seat in the hall, and the stream.
pub(crate) struct Opened {
    pub place: Place,
    pub seat: Seat,
    pub stream: TlsStream<TcpStream>,
}

impl Visit {
    /// Answers until a login holds, or the connection ends.
    pub async fn serve(self, stream: TlsStream<TcpStream>) -> Option<Opened> {
        // The seat of a login that holds, while the answer to it goes out.
        let taken = Mutex::new(None);
        let served = answer_all(stream, |request| match self.login(&request) {
            Some(Ok((seat, answer))) => {
                *taken.lock().unwrap_or_else(PoisonError::into_inner) = Some(seat);
                answer
            }
            Some(Err(refusal)) => self.refused(&refusal),
            None => page(&self.shared, &request),
        });
        let (mut stream, is_clean) = served.await?;
        match taken.into_inner().unwrap_or_else(PoisonError::into_inner) {
            // Who sends before the answer is there does not speak WebSocket (RFC 6455 §4.1).
            Some(seat) if is_clean => Some(Opened { place: self.place, seat, stream }),
            _ => {
                let _ = stream.shutdown().await;
                None
            }
        }
    }

    /// What becomes of a login; none if it is something else that is asked for.
    fn login(&self, request: &Request<Incoming>) -> Option<Result<(Seat, Answer), Refused>> {
        (request.method() == Method::GET && request.uri().path() == PATH).then(|| {
            let headers = request.headers();
            let accept = websocket(headers).ok_or(Refusal::BadLogin)?;
            let seat = self.seat(headers)?;
            let answer = Response::builder()
                .status(StatusCode::SWITCHING_PROTOCOLS)
                .header(CONNECTION, "Upgrade")
                .header(UPGRADE, "websocket")
                .header(SEC_WEBSOCKET_ACCEPT, accept)
                .header(SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL)
                .body(Full::default())
                .map_err(|_| Refusal::BadLogin)?;
            self.shared.tally.login();
            Ok((seat, answer))
        })
    }

    /// A seat for who has sent this login, if it holds.
    fn seat(&self, headers: &HeaderMap) -> Result<Seat, Refused> {
        if *self.shared.phase.borrow() != Phase::Open {
            return Err(Refusal::Draining.into());
        }
        let login = Login::read(headers.get(AUTHORIZATION).ok_or(Refusal::BadLogin)?.as_bytes())?;
        login.verify(&self.exporter.ok_or(Refusal::BadSignature)?)?;
        // Until he sits nobody can change who may: he would be overlooked.
        let live = self.shared.live();
        let enter = || {
            let pass = live.access.admit(&login)?;
            self.place.may_log_in(&login.key)?;
            let seat = self.shared.lobby.enter(login.key, login.rooms.clone(), self.from, pass)?;
            self.place.logged_in(&login.key)?;
            Ok(seat)
        };
        enter().map_err(|refusal| Refused { refusal, who: Some((login.key, login.rooms.clone())) })
    }

    fn refused(&self, refused: &Refused) -> Answer {
        let Refused { refusal, who } = refused;
        self.shared.tally.refuse(Why::Login(*refusal));
        match who {
            Some((key, rooms)) => {
                let rooms = rooms.iter().map(RoomName::as_str).collect::<Vec<_>>().join(", ");
                self.shared.tell(self.from, format_args!("the client {key} is not let into {rooms}: {}", refusal.word()));
            }
            None => self.shared.tell(self.from, format_args!("no login: {}", refusal.word())),
        }
        let status = match refusal {
            Refusal::Full | Refusal::Draining | Refusal::ReplacedWait | Refusal::TooOften => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::InUse => StatusCode::CONFLICT,
            Refusal::BadLogin | Refusal::BadSignature | Refusal::UnknownRoom | Refusal::NotListed => StatusCode::FORBIDDEN,
        };
        text(status, format!("{}\n", refusal.word()))
    }
}

/// Why somebody is not let in, and who it is, where he has proven it.
struct Refused {
    refusal: Refusal,
    who: Option<(PeerKey, Vec<RoomName>)>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Refused {
        Refused { refusal, who: None }
    }
}

/// What is to be answered to who wants a WebSocket with our protocol (RFC 6455 §4.2.1).
fn websocket(headers: &HeaderMap) -> Option<String> {
    let has = |name: HeaderName, word: &str| {
        let all = headers.get_all(name);
        let mut words = all.iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(','));
        words.any(|one| one.trim().eq_ignore_ascii_case(word))
    };
    let key = headers.get(SEC_WEBSOCKET_KEY)?.as_bytes();
    let is_key = BASE64.decode(key).is_ok_and(|bytes| bytes.len() == 16);
    let asks = has(CONNECTION, "upgrade") && has(UPGRADE, "websocket") && has(SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL);
    (is_key && asks && headers.get(SEC_WEBSOCKET_VERSION)? == "13")
        .then(|| BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, WEBSOCKET_GUID].concat())))
}

/// Answers the requests of a connection; gives it back when it is over or has become a WebSocket, and whether nothing was left
/// unread.
async fn answer_all<S>(stream: S, answer: impl Fn(Request<Incoming>) -> Answer) -> Option<(S, bool)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request| ready(Ok::<_, Infallible>(answer(request))));
    let mut http = http1::Builder::new();
    // How long all of it may take, the caller knows.
    http.header_read_timeout(None).max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
    // An error is the client's: it went away, or did not speak HTTP, which hyper has answered.
    let parts = http.serve_connection(TokioIo::new(stream), service).without_shutdown().await.ok()?;
    Some((parts.io.into_inner(), parts.read_buf.is_empty()))
}

/// Serves the pages without TLS. Where there are too many connections the oldest one goes: silent ones blind nobody.
pub(crate) async fn serve_plain(shared: Arc<Shared>, listener: TcpListener) {
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                if is_shortage(&error) {
                    sleep(PAUSE).await;
                }
                continue;
            }
        };
        open.retain(|task| !task.is_finished());
        if open.len() >= PAGE_CONNECTIONS_MAX
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        let shared = shared.clone();
        let task = tokio::spawn(async move {
            let served = timeout(shared.fixed.login_within, answer_all(stream, |request| page(&shared, &request))).await;
            if let Ok(Some((mut stream, _))) = served {
                let _ = stream.shutdown().await;
            }
        });
        open.push_back(task.abort_handle());
    }
}

fn page(shared: &Shared, request: &Request<Incoming>) -> Answer {
    let path = request.uri().path();
    // Of an answer to HEAD the library leaves the body out.
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return not_found(shared);
    }
    if path == "/health" {
        return match *shared.phase.borrow() {
            Phase::Open => text(StatusCode::OK, "ok\n"),
            Phase::Draining | Phase::Closed => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        };
    }
    let room = path.strip_prefix("/rooms/").and_then(|rest| rest.strip_suffix("/peers"));
    let is_page = ["/stats", "/metrics"].contains(&path) || room.is_some();
    let Some(token) = shared.live().pages_token.clone().filter(|_| is_page) else { return not_found(shared) };
    let sent = request.headers().get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    if !sent.is_some_and(|sent| token.is(sent)) {
        shared.tally.refuse(Why::PageToken);
        return text(StatusCode::FORBIDDEN, "bad-token\n");
    }
    match (path, room) {
        (_, Some(room)) => {
            // Only rooms of the configuration: others would be told as empty.
            let room = RoomName::new(room).ok().filter(|room| shared.live().access.0.contains_key(room));
            room.map_or_else(|| not_found(shared), |room| json(&stats::peers(shared, &room)))
        }
        ("/metrics", _) => match metrics::page(shared) {
            Ok(page) => text(StatusCode::OK, page),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        _ => json(&stats::stats(shared)),
    }
}

fn not_found(shared: &Shared) -> Answer {
    shared.tally.refuse(Why::NotFound);
    text(StatusCode::NOT_FOUND, "not-found\n")
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    answer(status, "text/plain; charset=utf-8", body)
}

fn json(value: &serde_json::Value) -> Answer {
    answer(StatusCode::OK, "application/json", format!("{value:#}\n"))
}

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if status != StatusCode::OK {
        // Who was refused is not kept: another try is another connection, which has to come through the door.
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}
