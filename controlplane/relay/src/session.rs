//! One connection of a client that is in the hall: what it says goes to the hall as it comes, and what the hall has for it goes
//! out one message at a time. The next message is chosen when the one before has left for the socket, and there no more than 32
//! KiB wait to be sent (TCP_NOTSENT_LOWAT): so what is urgent never waits behind what is not. Who sends more than he may, of whatever
//! kind, is read from no further for a while, and TCP holds him back.

mod metered;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use adit_proto::limits::RELAY_RECORD_LEN_MAX;
use adit_proto::relay::LeftReason;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_rustls::server::TlsStream;
use tokio_websockets::{CloseCode, Error, Limits, Message, ServerBuilder, WebSocketStream};

use crate::grants::Turns;
use crate::hall::Transmit;
use crate::http::Opened;
use crate::limits::PINGS_WAITING_MAX;
use crate::lobby::Seat;
use crate::quotas::Share;
use crate::shared::{Phase, Shared};
use metered::{Metered, Unframed};

type Socket = WebSocketStream<Metered<TlsStream<TcpStream>>>;

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
    /// What was read and belongs to no message yet.
    unframed: Unframed,
}

/// Serves a client until it goes, or has to.
pub(crate) async fn run(shared: &Arc<Shared>, opened: Opened) {
    let Opened { place, seat, stream } = opened;
    let limits = Limits::default().max_payload_len(Some(RELAY_RECORD_LEN_MAX));
    let (stream, unframed) = Metered::new(stream);
    let socket = ServerBuilder::new().limits(limits).serve(stream);
    let (mut sink, mut source) = socket.split();
    let mut phase = shared.phase.subscribe();
    let between =
        Between { pings: AtomicU32::new(0), pinged: Notify::new(), since: Instant::now(), asked: AtomicU64::new(0), unframed };
    let ping_every = PING_EVERY.min(shared.fixed.hall.idle / PINGS_OF_IDLE);
    let reason = tokio::select! {
        reason = read(shared, &seat, &mut source, &between, ping_every / 4) => reason,
        reason = write(&seat, &mut sink, &between, ping_every, shared.grants.turns(seat.key)) => reason,
        reason = seat.aborted() => reason,
        _ = phase.wait_for(|phase| *phase == Phase::Closed) => LeftReason::DRAINED,
    };
    seat.leave(reason);
    if reason != LeftReason::GONE {
        let last_words = Message::close(Some(code(reason)), reason.label());
        let said = timeout(CLOSE_WITHIN, async {
            let _ = sink.send(last_words).await;
            let _ = sink.close().await;
        })
        .await;
        // What it has not read by then it never will: the kernel need not keep it.
        if said.is_err()
            && let Ok(socket) = sink.reunite(source)
        {
            let _ = SockRef::from(socket.get_ref().get_ref().get_ref().0).set_linger(Some(Duration::ZERO));
        }
    }
    drop(place);
}

/// What a client is told when it has to go (RFC 6455 §7.4.1).
fn code(reason: LeftReason) -> CloseCode {
    match reason {
        LeftReason::DRAINED => CloseCode::SERVICE_RESTART,
        LeftReason::FAULT => CloseCode::PROTOCOL_ERROR,
        LeftReason::IDLE | LeftReason::SLOW | LeftReason::REPLACED | LeftReason::REVOKED => CloseCode::POLICY_VIOLATION,
        LeftReason::DISPLACED => CloseCode::SERVICE_OVERLOAD,
        _ => CloseCode::GOING_AWAY,
    }
}

/// Reads until there is nothing more to be read; gives the reason. The hall is told that the client lives no more often than it
/// matters: it has one lock for all.
async fn read(
    shared: &Shared,
    seat: &Seat,
    source: &mut SplitStream<Socket>,
    between: &Between,
    tell_every: Duration,
) -> LeftReason {
    let (rate, mut share, mut told) = (shared.fixed.hall.records, Share::default(), Instant::now());
    let mut heard = || {
        if told.elapsed() >= tell_every {
            told = Instant::now();
            seat.heard();
        }
    };
    loop {
        while let Err(wait) = share.take(Instant::now(), 1, rate) {
            shared.tally.held_back();
            sleep(wait).await;
        }
        let message = match source.next().await {
            Some(Ok(message)) => message,
            // What is wrong with it the library has said in its last words.
            Some(Err(Error::Protocol(_) | Error::PayloadTooLong { .. })) => return LeftReason::FAULT,
            Some(Err(Error::Io(error))) if error.kind() == io::ErrorKind::InvalidData => return LeftReason::FAULT,
            Some(Err(_)) | None => return LeftReason::GONE,
        };
        between.unframed.message(message.as_payload().len());
        if message.is_binary() {
            seat.message(&message.into_payload());
        } else if message.is_ping() {
            heard();
            if between.pings.fetch_add(1, Ordering::Relaxed) >= PINGS_WAITING_MAX {
                return LeftReason::FAULT;
            }
            between.pinged.notify_one();
        } else if message.is_pong() {
            heard();
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
