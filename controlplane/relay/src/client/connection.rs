//! One registration from its welcome to its end: what comes is read, what waits is written, and pings show whether it lives, each at its
//! own pace. A socket that takes nothing holds up neither the reading nor the moment at which it is given up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_engine::shown::Shown;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use hyper::body::Bytes;
use tokio::time::sleep_until;
use tokio_websockets::Message;

use super::Shared;
use super::events::Delivery;
use super::failure::{Cause, Failure};
use super::open::{self, Opened, WebSocket};
use super::plan::Attempt;
use crate::dice::dice;
use crate::limits::PINGS_WAITING_MAX;
use crate::quotas::{Rate, Share};

/// How often a relay may ping us. Who does not take the answers is given up long before this is much.
const PINGS: Rate = Rate { amount: 1, per: Duration::from_secs(1), burst: PINGS_WAITING_MAX as u64 };

/// One attempt, and the registration that comes of it. It ends with what it was worth, which the state has been told.
pub(super) async fn run(shared: Arc<Shared>, attempt: Attempt) {
    let Attempt { relay, elsewhere } = attempt;
    let opened = open::open(&shared.targets[relay], elsewhere.as_ref(), &shared.key, &shared.out).await;
    // What is told now may be many events.
    shared.events.room().await;
    let failure = match opened {
        Ok(Opened { socket, place, welcome }) => {
            shared.with(|state| state.handle_registered(Instant::now(), relay, place.clone(), welcome));
            Failure { place, cause: keep(&shared, relay, socket).await }
        }
        Err(failure) => failure,
    };
    tracing::debug!("relay {}: {failure}", shared.targets[relay].at);
    shared.events.room().await;
    shared.with(|state| state.handle_end(Instant::now(), relay, failure, &mut dice));
}

async fn keep(shared: &Shared, relay: usize, socket: WebSocket) -> Cause {
    let (sink, stream) = socket.split();
    tokio::select! {
        cause = read(shared, relay, stream) => cause,
        cause = write(shared, relay, sink) => cause,
        cause = watch(shared, relay) => cause,
    }
}

async fn read(shared: &Shared, relay: usize, mut stream: SplitStream<WebSocket>) -> Cause {
    let mut pings = Share::default();
    loop {
        shared.events.room().await;
        let message = match stream.next().await {
            None => return Cause::Closed(Shown::of("it closed the connection")),
            Some(Err(error)) => return Cause::of_websocket(&error),
            Some(Ok(message)) => message,
        };
        if let Some((code, why)) = message.as_close() {
            return Cause::of_close(code.into(), why);
        }
        // Pings are answered by the library, and each answer waits until it is sent. A relay pings every few seconds: one that floods
        // and does not read would fill our memory.
        if message.is_ping() && pings.take(Instant::now(), 1, PINGS).is_err() {
            return Cause::Misbehaved(Shown::of("more pings than anybody needs"));
        }
        // Text is nothing that we know.
        if !message.is_binary() {
            continue;
        }
        let bytes = Bytes::from(message.into_payload());
        let train = match shared.with(|state| state.handle_record(Instant::now(), relay, &bytes)) {
            Ok(train) => train,
            Err(cause) => return cause,
        };
        let Some((from, train)) = train else {
            // It may have said when it stops.
            shared.has_changed[relay].notify_one();
            continue;
        };
        let payload = bytes.slice_ref(train.payload);
        let delivery = Delivery { relay, from, kind: train.kind, class: train.class, segment: train.segment, payload };
        if let Err(why) = shared.events.deliver(Instant::now(), delivery) {
            shared.with(|state| state.handle_undelivered(relay, why));
        }
    }
}

/// One record at a time goes into the socket, which holds little that is not sent: whatever is more urgent comes next.
async fn write(shared: &Shared, relay: usize, mut sink: SplitSink<WebSocket, Message>) -> Cause {
    loop {
        match shared.with(|state| state.poll_transmit(Instant::now(), relay)) {
            Some(record) => {
                if let Err(error) = sink.send(Message::binary(record)).await {
                    return Cause::of_websocket(&error);
                }
            }
            None => shared.has_work[relay].notified().await,
        }
    }
}

async fn watch(shared: &Shared, relay: usize) -> Cause {
    loop {
        let now = Instant::now();
        let due = shared.with(|state| {
            state.handle_timeout(now, relay)?;
            Ok::<_, Cause>(state.poll_timeout(now, relay).unwrap_or(now))
        });
        match due {
            Err(cause) => return cause,
            Ok(due) => {
                shared.has_work[relay].notify_one();
                tokio::select! {
                    () = sleep_until(due.into()) => {}
                    () = shared.has_changed[relay].notified() => {}
                }
            }
        }
    }
}
