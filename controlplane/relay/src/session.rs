//! One connection of a client that is in the hall: what it says goes to the hall as it comes, and what the hall has for it goes
//! out one message at a time. The next message is chosen when the one before has left for the socket, and there no more than 32
//! KiB wait to be sent (TCP_NOTSENT_LOWAT): so what is urgent never waits behind what is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use adit_proto::limits::RELAY_RECORD_LEN_MAX;
use adit_proto::relay::LeftReason;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{sleep_until, timeout};
use tokio_rustls::server::TlsStream;
use tokio_websockets::{CloseCode, Error, Limits, Message, ServerBuilder, WebSocketStream};

use crate::grants::Turns;
use crate::hall::Transmit;
use crate::http::Opened;
use crate::limits::PINGS_WAITING_MAX;
use crate::lobby::Seat;
use crate::shared::{Phase, Shared};

type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// How often a client is pinged, at least: its answer shows that it lives and how far away it is, and keeps NATs on the way from
/// forgetting the connection (RFC 5382 REQ-5 would have them remember for two hours; there are some that do not for one minute).
const PING_EVERY: Duration = Duration::from_secs(25);
/// Who is pinged so often before he is taken for gone has answered none of them.
const PINGS_OF_IDLE: u32 = 3;
/// So long one message may be on its way into the socket. Who reads slower than 64 KiB in this time reads nothing.
const SEND_WITHIN: Duration = Duration::from_secs(60);
/// So long the last words may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// What reading and writing tell each other.
struct Between {
    /// Pings that have come since all was sent: each has an answer that waits.
    pings: AtomicU32,
    pinged: Notify,
    since: Instant,
    /// When the ping went out that has no answer yet, in microseconds from then; also what is in it. 0 where there is none.
    asked: AtomicU64,
}

/// Serves a client until it goes, or has to.
pub(crate) async fn run(shared: &Arc<Shared>, opened: Opened) {
    let Opened { place, seat, stream } = opened;
    let limits = Limits::default().max_payload_len(Some(RELAY_RECORD_LEN_MAX));
    let socket = ServerBuilder::new().limits(limits).serve(stream);
    let (mut sink, source) = socket.split();
    let mut phase = shared.phase.subscribe();
    let between = Between { pings: AtomicU32::new(0), pinged: Notify::new(), since: Instant::now(), asked: AtomicU64::new(0) };
    let ping_every = PING_EVERY.min(shared.idle / PINGS_OF_IDLE);
    let reason = tokio::select! {
        reason = read(&seat, source, &between) => reason,
        reason = write(&seat, &mut sink, &between, ping_every, shared.grants.turns(seat.key)) => reason,
        reason = seat.aborted() => reason,
        _ = phase.wait_for(|phase| *phase == Phase::Closed) => LeftReason::DRAINED,
    };
    seat.leave(reason);
    if reason != LeftReason::GONE {
        let last_words = Message::close(Some(code(reason)), reason.label());
        // What it has not read by then it never will.
        let _ = timeout(CLOSE_WITHIN, async {
            let _ = sink.send(last_words).await;
            let _ = sink.close().await;
        })
        .await;
    }
    drop(place);
}

/// What a client is told when it has to go (RFC 6455 §7.4.1).
fn code(reason: LeftReason) -> CloseCode {
    match reason {
        LeftReason::DRAINED => CloseCode::SERVICE_RESTART,
        LeftReason::FAULT => CloseCode::PROTOCOL_ERROR,
        LeftReason::IDLE | LeftReason::SLOW | LeftReason::REPLACED => CloseCode::POLICY_VIOLATION,
        _ => CloseCode::GOING_AWAY,
    }
}

/// Reads until there is nothing more to be read; gives the reason.
async fn read(seat: &Seat, mut source: SplitStream<Socket>, between: &Between) -> LeftReason {
    loop {
        let message = match source.next().await {
            Some(Ok(message)) => message,
            // What is wrong with it the library has said in its last words.
            Some(Err(Error::Protocol(_) | Error::PayloadTooLong { .. })) => return LeftReason::FAULT,
            Some(Err(_)) | None => return LeftReason::GONE,
        };
        if message.is_binary() {
            seat.message(&message.into_payload());
        } else if message.is_ping() {
            seat.heard();
            if between.pings.fetch_add(1, Ordering::Relaxed) >= PINGS_WAITING_MAX {
                return LeftReason::FAULT;
            }
            between.pinged.notify_one();
        } else if message.is_pong() {
            seat.heard();
            let asked = between.asked.swap(0, Ordering::Relaxed);
            if asked != 0 && *message.into_payload() == asked.to_be_bytes() {
                seat.rtt(between.since.elapsed().saturating_sub(Duration::from_micros(asked)));
            }
        } else if message.is_text() {
            return LeftReason::FAULT;
        }
    }
}

/// Writes until the connection is to be closed; gives the reason.
async fn write(
    seat: &Seat,
    sink: &mut SplitSink<Socket, Message>,
    between: &Between,
    ping_every: Duration,
    mut grants: Turns<'_>,
) -> LeftReason {
    let mut next_ping = Instant::now();
    loop {
        let message = if Instant::now() >= next_ping {
            next_ping = Instant::now() + ping_every;
            let asked = (between.since.elapsed().as_micros() as u64).max(1);
            between.asked.store(asked, Ordering::Relaxed);
            Some(Message::ping(asked.to_be_bytes().to_vec()))
        } else if let Some(record) = grants.poll(Instant::now()) {
            Some(Message::binary(record))
        } else {
            match seat.next() {
                Transmit::Record(record) => {
                    // The first is the welcome.
                    grants.begin(Instant::now());
                    Some(Message::binary(record))
                }
                Transmit::Close(reason) => return reason,
                Transmit::Wait => tokio::select! {
                    () = seat.bell() => continue,
                    () = sleep_until(grants.next().map_or(next_ping, |next| next.min(next_ping)).into()) => continue,
                    // The answers are in the socket's queue already.
                    () = between.pinged.notified() => None,
                },
            }
        };
        let sending = async {
            match message {
                Some(message) => sink.send(message).await,
                None => sink.flush().await,
            }
        };
        match timeout(SEND_WITHIN, sending).await {
            Ok(Ok(())) => between.pings.store(0, Ordering::Relaxed),
            Ok(Err(_)) => return LeftReason::GONE,
            Err(_) => return LeftReason::SLOW,
        }
    }
}
